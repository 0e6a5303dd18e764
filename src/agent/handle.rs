use std::{io, sync::Arc};

use tokio::sync::{mpsc, oneshot, watch};

use super::{
    launch::{Exit, ExitRecord, Isolation, Launch, SpawnFailure},
    meter::{Depths, Meter},
    output::LogRing,
    redact::Redactor,
    rules::{Rules, State, Watchdog},
    spawn::Parent,
    spool::SpoolBounds,
    state::Cause,
};
use crate::{
    base::Clock,
    dialect::{self, Answer, Decision, Dialect, Permission},
};

/// The name of the environment variable that marks everything an incarnation starts.
pub const RUN_MARK: &str = "GITSTEAD_RUN";

/// A parent process that waits to be told what to start. Dropped, it ends by itself.
#[derive(Debug)]
pub struct Newborn(pub(super) Parent);

/// Starts the parent process of an agent. Blocks for as long as it takes to fork.
///
/// # Errors
/// When the system has no processes or descriptors left.
pub fn spawn_parent() -> io::Result<Newborn> {
    super::spawn::parent().map(Newborn)
}

/// What is needed to run an agent once.
pub struct Prepared {
    /// Its parent process.
    pub newborn: Newborn,
    /// What to start.
    pub launch: Launch,
    /// How it speaks.
    pub dialect: Box<dyn Dialect>,
    /// What is kept out of its output, on the disk too.
    pub redactor: Option<Arc<Redactor>>,
    /// For one that is a server on loopback, and says where: the value of `Authorization` that it wants to see. What it prints is for people then, and its dialect hears its events.
    pub web: Option<String>,
    /// Where its output on disk ends ([`spooled_end`](super::spooled_end)).
    pub spooled: [u64; 2],
}

/// Who an agent works for. All of these are called from its task, and must return at once.
pub trait Host: Send + 'static {
    /// The agent is to be started; answer with [`Command::Prepared`].
    fn prepare(&mut self, run: u32, agent: &Agent);
    /// Something has happened.
    fn told(&mut self, news: News<'_>);
    /// The agent wants to be allowed something. What is decided at once is not told otherwise, and nobody waits for it.
    fn decide(&mut self, asked: &Permission) -> Option<Decision> {
        let _ = asked;
        None
    }
    /// The agent wants its client to read or write a file; answer with [`Command::Answer`].
    fn order(&mut self, run: u32, order: dialect::Order, agent: &Agent);
    /// Make the last checkpoint of this run, and answer with [`Command::Recorded`].
    fn record(&mut self, run: u32, agent: &Agent);
}

/// What happens with an agent.
#[derive(Debug)]
#[non_exhaustive]
pub enum News<'a> {
    /// It is something else now.
    Entered(&'a Status),
    /// Its parent process runs, and will start it.
    Fostered(&'a Status),
    /// It says so in its protocol; and the position in its standard output behind the line that does, if it is one. Near a secret that is masked there that may be a bit late.
    Said(Box<dialect::Event>, Option<u64>),
    /// Something lasts too long.
    Warned(Watchdog),
    /// Something is not as it should be, and goes on all the same.
    Trouble(String),
    /// Nothing of it is left.
    Gone(&'a ExitRecord),
}

/// What an agent is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Its state.
    pub state: State,
    /// How many times it was started.
    pub run: u32,
    /// Its own process, while there is one.
    pub pid: Option<i32>,
    /// Its parent process and when the system started that, while there is one.
    pub parent: Option<(i32, u64)>,
    /// How it ended the last time.
    pub exit: Option<Exit>,
    /// Why it could not be started.
    pub failure: Option<SpawnFailure>,
    /// Why it was stopped.
    pub cause: Option<Cause>,
    /// How many processes it had left behind.
    pub swept: usize,
    /// How many of its processes the system has ended for want of memory, as far as it says.
    pub out_of_memory: u64,
    /// What could not be killed.
    pub stragglers: Vec<String>,
    /// What it is held in, or was the last time, if that is known.
    pub isolation: Option<Isolation>,
}

/// What an agent's task is asked to do.
pub enum Command {
    /// Run. Answered when it has been heard; whether it begins to run is in the status then.
    Start(oneshot::Sender<()>),
    /// Stop; asked again, less gently.
    Stop(Cause),
    /// Stop at once.
    Kill(Cause),
    /// These bytes for its standard input.
    Input(Vec<u8>, oneshot::Sender<Result<(), NotTaken>>),
    /// The end of its standard input.
    CloseInput,
    /// A message.
    Ask {
        /// Our name of it, a UUID.
        id: String,
        /// What is said.
        text: String,
        /// Whether it was taken.
        reply: oneshot::Sender<Result<(), NotTaken>>,
    },
    /// Stop what it is doing, in its protocol.
    Interrupt(oneshot::Sender<Result<(), NotTaken>>),
    /// Go on with something else.
    Change(dialect::Change, oneshot::Sender<Result<(), NotTaken>>),
    /// The answer to a question for permission.
    Permit(String, Decision),
    /// What came of an order of this run, by the order's id.
    Answer(u32, String, Answer),
    /// The checkpoint that it waits for is made, or takes too long.
    Release(String),
    /// The answer to [`Host::prepare`].
    Prepared(u32, Result<Box<Prepared>, SpawnFailure>),
    /// The answer to [`Host::record`] of this run; that of an earlier one comes too late.
    Recorded(u32),
    /// So many bytes on the disk are its workspace's, in this run.
    Holds(u32, u64),
    /// What was left of this run without a parent process is gone; so many were killed.
    Hunted(u32, usize),
    /// Of an agent that ran when an earlier Gitstead ended: how it ended, if that is known, and how many processes were left of it. Nothing is now.
    Adopted(Option<Box<ExitRecord>>, usize),
    /// Nobody will want anything of it any more: its task ends, unless it runs; then it says what it is.
    Forget(oneshot::Sender<Result<(), State>>),
}

/// Why something was not given to an agent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotTaken {
    /// It does not run.
    #[error("the agent does not run")]
    NotRunning,
    /// Its standard input is closed.
    #[error("the agent takes no more input")]
    Closed,
    /// It does not read what it was given.
    #[error("the agent has not read what it was given before")]
    Full,
    /// Its dialect says no.
    #[error("{0}")]
    Refused(String),
}

/// A remote control of one agent. Clones control the same one.
#[derive(Clone)]
pub struct Agent {
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) status: watch::Receiver<Status>,
    pub(super) log: Arc<LogRing>,
    pub(super) depths: Arc<Depths>,
}

impl std::fmt::Debug for Agent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Agent").field(&self.status.borrow().state).finish()
    }
}

impl Agent {
    /// Sends a command. Says whether there is somebody who takes it.
    pub async fn send(&self, command: Command) -> bool {
        self.commands.send(command).await.is_ok()
    }

    /// Has it run, unless it does. When this returns it has heard. Says whether there was somebody who heard.
    pub async fn start(&self) -> bool {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Start(reply)).await && answer.await.is_ok()
    }

    /// Ends its task, if it does not run. Nobody hears anything of it any more when this has returned `Ok`.
    ///
    /// # Errors
    /// What it is, when it runs; `None` when somebody else has done it.
    pub async fn forget(&self) -> Result<(), Option<State>> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Forget(reply)).await;
        answer.await.map_err(|_| None)?.map_err(Some)
    }

    /// What it is now.
    pub fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    /// Its parent process and when the system started that, while there is one.
    pub fn parent_process(&self) -> Option<(i32, u64)> {
        self.status.borrow().parent
    }

    /// Tells of every change.
    pub fn watch(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// What waits to be taken by its task.
    pub fn waiting_commands(&self) -> usize {
        self.commands.max_capacity() - self.commands.capacity()
    }

    /// What waits to be taken from its task.
    pub fn depths(&self) -> &Depths {
        &self.depths
    }

    /// Its last lines.
    pub fn log(&self) -> &Arc<LogRing> {
        &self.log
    }

    /// Gives it a message, by a name of ours, a UUID.
    ///
    /// # Errors
    /// When it cannot take one.
    pub async fn ask(&self, id: String, text: String) -> Result<(), NotTaken> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Ask { id, text, reply }).await;
        answer.await.unwrap_or(Err(NotTaken::NotRunning))
    }

    /// Stops what it is doing, in its protocol.
    ///
    /// # Errors
    /// When it does nothing that can be stopped so.
    pub async fn interrupt(&self) -> Result<(), NotTaken> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Interrupt(reply)).await;
        answer.await.unwrap_or(Err(NotTaken::NotRunning))
    }

    /// Has it go on with another model, or in another mode.
    ///
    /// # Errors
    /// When it does not run, or has no way to be told.
    pub async fn change(&self, change: dialect::Change) -> Result<(), NotTaken> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Change(change, reply)).await;
        answer.await.unwrap_or(Err(NotTaken::NotRunning))
    }

    /// Gives it bytes.
    ///
    /// # Errors
    /// When it cannot take them.
    pub async fn input(&self, bytes: Vec<u8>) -> Result<(), NotTaken> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Input(bytes, reply)).await;
        answer.await.unwrap_or(Err(NotTaken::NotRunning))
    }
}

/// What an earlier Gitstead has left of a run.
#[derive(Debug, Clone)]
pub struct Orphan {
    /// The parent process and when the system started that, if there was one.
    pub parent: Option<(i32, u64)>,
    /// The name of the run, in the environment of everything that it has started.
    pub run: String,
    /// Its cgroup, if it may have one.
    pub cgroup: Option<std::path::PathBuf>,
}

/// How an agent is driven.
pub struct Settings {
    /// What is decided before it starts.
    pub rules: Rules,
    /// Where its output is kept.
    pub spool: std::path::PathBuf,
    /// How much of it.
    pub spool_bounds: SpoolBounds,
    /// Bytes of the longest line that its dialect is given.
    pub line_bytes: usize,
    /// Its last lines.
    pub log: Arc<LogRing>,
    /// Where what it does is counted.
    pub meter: Arc<Meter>,
    /// What it was before, if it is an earlier one.
    pub state: State,
    /// What it left when it ran as the last Gitstead ended.
    pub orphan: Option<Orphan>,
    /// How long ago it ended without having been told to, each time since somebody has started it, oldest first.
    pub ends: Vec<std::time::Duration>,
    /// How often it was started before.
    pub runs: u32,
    /// Spreads restarts.
    pub seed: u64,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
}
