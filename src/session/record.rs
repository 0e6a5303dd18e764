use serde::{Deserialize, Serialize};

use super::{AgentName, AgentSpec, State};
use crate::agent::{Cause, Exit, Isolation, SpawnFailure, Status};

/// Ends of an agent that are remembered.
const ENDS: usize = 1_000;

/// What the ledger knows of an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentRecord {
    /// The format of this record.
    pub version: u32,
    /// Its name.
    pub name: AgentName,
    /// What it is.
    pub spec: AgentSpec,
    /// Who has made it, if that is known.
    pub owner: Option<String>,
    /// What it was at last.
    pub state: State,
    /// How often it was started.
    pub run: u32,
    /// Its parent process and when the system started that.
    pub parent: Option<(i32, u64)>,
    /// Its own process.
    pub pid: Option<i32>,
    /// How it ended the last time.
    pub exit: Option<Exit>,
    /// Why it could not be started.
    pub failure: Option<SpawnFailure>,
    /// Why it was stopped.
    pub cause: Option<Cause>,
    /// How many processes it had left behind.
    pub swept: usize,
    /// How many of its processes the system has ended for want of memory.
    #[serde(default)]
    pub out_of_memory: u64,
    /// The last lines of its standard error, if it has failed.
    #[serde(default)]
    pub last_words: Option<String>,
    /// Why it would end again as it did, if so: `login`, `arguments` or `configuration`.
    #[serde(default)]
    pub unfit: Option<String>,
    /// What could not be killed.
    pub stragglers: Vec<String>,
    /// What it is held in, or was the last time, if that is known.
    #[serde(default)]
    pub isolation: Option<Isolation>,
    /// Bytes on the disk of its workspace, where that is bounded, when it was last looked at.
    #[serde(default)]
    pub workspace_bytes: Option<u64>,
    /// When it was made, in milliseconds since 1970.
    pub created: u64,
    /// Tells it from one of the same name that another server has made in the same millisecond; 0 in records of before there was this.
    #[serde(default)]
    pub nonce: u32,
    /// When it was started the last time.
    pub started: Option<u64>,
    /// The number of the event that told of it; 0 in records of before there was this.
    #[serde(default)]
    pub began_with: u64,
    /// When it ended the last time.
    pub ended: Option<u64>,
    /// Its own name of its session, which resumes it.
    pub session: Option<String>,
    /// What its program said of its version when it was started the last time, where it was asked.
    #[serde(default)]
    pub program_version: Option<String>,
    /// The last checkpoint of it.
    pub checkpoint: Option<String>,
    /// How many there are.
    pub checkpoints: u64,
    /// When it ended without having been told to, in milliseconds since 1970, since somebody has started it.
    #[serde(default)]
    pub ends: Vec<u64>,
    /// The session of an [`AskDesk`](super::AskDesk) that it answers in, if it was made for one.
    #[serde(default)]
    pub desk: Option<String>,
    /// What it was made from: `preset:claude`, `api`, `config`, `session:claude-1`.
    #[serde(default)]
    pub source: Option<String>,
    /// When anything of this changed the last time, in milliseconds since 1970; 0 in records of before there was this.
    #[serde(default)]
    pub updated: u64,
}

impl AgentRecord {
    /// The present format.
    pub const VERSION: u32 = 1;

    /// One that was never started.
    pub(super) fn new(name: AgentName, spec: AgentSpec, owner: Option<String>, now: u64) -> Self {
        AgentRecord {
            version: Self::VERSION,
            name,
            spec,
            owner,
            state: State::Created,
            run: 0,
            parent: None,
            pid: None,
            exit: None,
            failure: None,
            cause: None,
            swept: 0,
            out_of_memory: 0,
            last_words: None,
            unfit: None,
            stragglers: Vec::new(),
            isolation: None,
            workspace_bytes: None,
            created: now,
            nonce: nonce(),
            started: None,
            began_with: 0,
            ended: None,
            session: None,
            program_version: None,
            checkpoint: None,
            checkpoints: 0,
            ends: Vec::new(),
            desk: None,
            source: None,
            updated: now,
        }
    }

    pub(super) fn follow(&mut self, status: &Status, now: u64) {
        match status.state {
            State::Starting if self.state != State::Restarting => self.ends.clear(),
            State::Restarting if status.cause == Some(Cause::Restart) => self.ends.clear(),
            State::Restarting | State::CrashLooping => {
                self.ends.push(now);
                let most = self.spec.restart.burst.clamp(1, ENDS);
                self.ends.drain(..self.ends.len().saturating_sub(most));
            }
            _ => {}
        }
        if status.state == State::Starting {
            self.started = Some(now);
            self.ended = None;
            (self.last_words, self.unfit) = (None, None);
        }
        if status.state.is_over() || status.state == State::Restarting {
            self.ended = Some(now);
        }
        self.state = status.state;
        self.run = status.run;
        self.parent = status.parent;
        self.pid = status.pid;
        self.exit = status.exit;
        self.failure.clone_from(&status.failure);
        self.cause = status.cause;
        self.swept = status.swept;
        self.out_of_memory = status.out_of_memory;
        self.stragglers.clone_from(&status.stragglers);
        if status.isolation.is_some() || status.state == State::Starting {
            self.isolation.clone_from(&status.isolation);
        }
    }

    /// The name of a run, in the environment of everything that it starts.
    pub(super) fn run_name(&self, run: u32) -> String {
        format!("{}-{}-{run}", self.name, self.stamp())
    }

    /// What tells it, in the names of its runs, from others of its name.
    pub(super) fn stamp(&self) -> String {
        match self.nonce {
            0 => self.created.to_string(),
            nonce => format!("{}x{nonce:08x}", self.created),
        }
    }
}

fn nonce() -> u32 {
    let mut bytes = [0; 4];
    // Without random bytes the time has to do.
    let _ = getrandom::fill(&mut bytes);
    u32::from_le_bytes(bytes)
}
