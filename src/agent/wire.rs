//! What a Gitstead and the parent process of an agent say to one another: one JSON value a line.

use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader},
    net::unix::OwnedReadHalf,
};

use super::launch::{Exit, ExitRecord, Isolation, SpawnFailure};

/// Bytes of one line: an environment may be large, and the output of a command.
const LINE_BYTES: usize = 4 << 20;

/// To the parent process.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Order {
    /// SIGTERM to the agent's own process.
    Terminate,
    /// SIGKILL to everything.
    Kill,
    /// Something about a command that runs for the agent beside it; answered by its number.
    Terminal { order: String, deed: Deed },
}

/// What is to be done with a command that runs for the agent.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Deed {
    /// Start it.
    Create {
        command: String,
        args: Vec<String>,
        env: Vec<(String, String)>,
        cwd: Option<String>,
        /// Bytes of output that are kept.
        keep: usize,
    },
    /// Say what it has written.
    Output { terminal: String },
    /// Say how it ends, when it does.
    Wait { terminal: String },
    /// End it, and say how it ended.
    Kill { terminal: String },
    /// The same, and forget it.
    Release { terminal: String },
}

/// What came of a [`Deed`].
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Done {
    Created {
        terminal: String,
    },
    Output {
        text: String,
        truncated: bool,
        exit: Option<Exit>,
    },
    Ended(Exit),
    Failed(String),
}

/// From the parent process.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Word {
    /// The agent's own process runs.
    Up {
        pid: i32,
        #[serde(default)]
        isolation: Isolation,
    },
    /// It could not be started; nothing runs.
    Failed(SpawnFailure),
    /// It has ended; what it left behind is being swept.
    Ended(Exit),
    /// What came of an order about a command that runs for the agent.
    Terminal { order: String, done: Done },
    /// Nothing of it is left, or what is named. The last word.
    Gone(ExitRecord),
}

/// One line.
pub(super) fn line(value: &impl Serialize) -> Vec<u8> {
    let mut line = serde_json::to_vec(value).expect("our own values have string keys and finite numbers");
    line.push(b'\n');
    line
}

/// What the other side says, line by line.
pub(super) struct Lines {
    read: BufReader<OwnedReadHalf>,
    /// What has come of a line: whoever waits for it may be called away.
    text: Vec<u8>,
}

impl Lines {
    pub(super) fn new(read: OwnedReadHalf) -> Self {
        Lines {
            read: BufReader::with_capacity(1 << 10, read),
            text: Vec::new(),
        }
    }

    /// The next line; `None` at the end, and for a line that is too long.
    pub(super) async fn next(&mut self) -> Option<Vec<u8>> {
        let room = LINE_BYTES.saturating_sub(self.text.len());
        let most = u64::try_from(room).unwrap_or(u64::MAX);
        match (&mut self.read).take(most).read_until(b'\n', &mut self.text).await {
            Ok(_) if self.text.last() == Some(&b'\n') => Some(std::mem::take(&mut self.text)),
            _ => None,
        }
    }
}
