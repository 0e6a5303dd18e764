//! What a Gitstead and the parent process of an agent say to one another: one JSON value a line.

use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader},
    net::unix::OwnedReadHalf,
};

use super::launch::{Exit, ExitRecord, Isolation, SpawnFailure};

/// Bytes of one line: an environment may be large, and nothing else is.
const LINE_BYTES: usize = 4 << 20;

/// To the parent process.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Order {
    /// SIGTERM to the agent's own process.
    Terminate,
    /// SIGKILL to everything.
    Kill,
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
