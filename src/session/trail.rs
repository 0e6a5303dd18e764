//! The checkpoints of one agent, one after another.

use std::{
    future::Future,
    path::PathBuf,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bstr::ByteSlice as _;
use gix::hash::ObjectId;

use serde_json::json;
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, mpsc, oneshot},
    time::Instant,
};

use super::{AgentName, AgentSpec, EventLog, Place};
use crate::{
    agent::{Agent, Command},
    base::Fault,
    checkpoint::{ChangeKind, Checkpoint, FileChange, Outcome, ToolOutcome, compose, subject_of},
    dialect::{self, ToolFinished},
    worker::{Lane, Workers},
    workspace::{Held, Workspace},
};

/// Checkpoints that wait. What comes then is named by the next one.
const QUEUE: usize = 1_024;
/// How often a checkpoint is tried for which there was no room.
const TRIES: u32 = 20;
/// How long is waited before it is tried again.
const PAUSE: Duration = Duration::from_millis(200);
/// While files are being written all the time, there is a checkpoint this many quiet times after the first change.
const RESTLESS: u32 = 10;
/// Files that a subject names.
const NAMED: usize = 3;
/// Files that are counted for a subject.
const LISTED: usize = 10_000;

/// Why a workspace cannot be had, in words for whoever asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{public}")]
pub struct Trouble {
    /// Whose move it is.
    pub fault: Fault,
    /// Without paths and causes; those are in the log.
    pub public: String,
}

/// The right to be the one who changes a workspace.
pub type Turn = Pin<Box<dyn Future<Output = Option<OwnedSemaphorePermit>> + Send>>;

/// Where workspaces are, as a session sees it.
pub trait Workspaces: Send + Sync + 'static {
    /// Makes sure that the workspace is there, and its repository. Says where its files are. Blocks.
    ///
    /// # Errors
    /// When it cannot be made.
    fn ensure(&self, place: &Place, task: &str) -> Result<PathBuf, Trouble>;

    /// The workspace, open and watched. Blocks.
    ///
    /// # Errors
    /// When it cannot be opened.
    fn open(&self, place: &Place) -> Result<Arc<Workspace>, Trouble>;

    /// Waits until nobody else changes it.
    fn turn(&self, place: &Place) -> Turn;
}

/// Where an agent was when it told of something.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Moment {
    /// Its turn; 0 for none.
    pub(super) turn: u64,
    /// The position in its output on disk behind what it said.
    pub(super) offset: Option<u64>,
}

/// What is to be recorded, and who is told when it is.
#[derive(Debug)]
pub(super) enum Job {
    /// What was there before the agent began.
    Before(oneshot::Sender<()>),
    /// A tool has finished.
    Tool(Box<ToolFinished>, Moment, Option<Arc<Gate>>),
    /// Several have, and perhaps nothing has changed since the checkpoints of each.
    Settled(Moment, Option<Arc<Gate>>),
    /// Nothing of this run of the agent is left.
    Last(u32, Agent),
}

/// Where an agent waits for a checkpoint, until that is made or takes too long.
#[derive(Debug)]
pub(super) struct Gate {
    agent: Agent,
    barrier: String,
    open: AtomicBool,
}

impl Gate {
    /// Opens by itself after `patience`, and says so.
    pub(super) fn new(
        agent: Agent,
        barrier: String,
        patience: Duration,
        events: Arc<EventLog>,
        calls: Vec<String>,
    ) -> Arc<Self> {
        let gate = Arc::new(Gate {
            agent,
            barrier,
            open: AtomicBool::new(false),
        });
        let waits = Arc::downgrade(&gate);
        tokio::spawn(async move {
            tokio::time::sleep(patience).await;
            if let Some(gate) = waits.upgrade()
                && gate.open().await
            {
                let text = "a checkpoint takes longer than the agent waits for it";
                events.push("checkpoint_late", json!({ "text": text, "calls": calls }));
            }
        });
        gate
    }

    /// Lets the agent go on. Says whether it was not let go before.
    pub(super) async fn open(&self) -> bool {
        let first = !self.open.swap(true, Ordering::AcqRel);
        if first {
            self.agent.send(Command::Release(self.barrier.clone())).await;
        }
        first
    }
}

/// Whoever has something to record.
#[derive(Clone)]
pub(super) struct Trail {
    jobs: mpsc::Sender<Given>,
}

/// A job, and since when it waits.
type Given = (Instant, Job);

/// How long the queue is, for those who do not hold it open.
pub(super) struct Queue(mpsc::WeakSender<Given>);

impl Queue {
    pub(super) fn len(&self) -> usize {
        let jobs = self.0.upgrade();
        jobs.map_or(0, |jobs| jobs.max_capacity() - jobs.capacity())
    }
}

/// What the task knows.
pub(super) struct Desk {
    pub(super) name: AgentName,
    pub(super) place: Place,
    pub(super) spec: Arc<AgentSpec>,
    pub(super) workers: Workers,
    pub(super) workspaces: Arc<dyn Workspaces>,
    pub(super) events: Arc<EventLog>,
    /// Told of every checkpoint: its commit.
    pub(super) made: Box<dyn Fn(&str) + Send + Sync>,
    /// The last commit of a hook of the agent's own that a tool was found in.
    pub(super) seen: Mutex<Option<ObjectId>>,
    /// The agent's own name of its session.
    pub(super) session: Box<dyn Fn() -> Option<String> + Send + Sync>,
}

impl Trail {
    /// Starts the task. It ends when nobody can have anything to record any more.
    pub(super) fn start(desk: Desk) -> Self {
        let (jobs, waiting) = mpsc::channel(QUEUE);
        tokio::spawn(desk.work(waiting));
        Trail { jobs }
    }

    /// Hands it over, unless too many wait.
    pub(super) fn give(&self, job: Job) -> Result<(), Job> {
        self.jobs.try_send((Instant::now(), job)).map_err(|error| match error {
            mpsc::error::TrySendError::Full((_, job)) | mpsc::error::TrySendError::Closed((_, job)) => job,
        })
    }

    /// What waits.
    pub(super) fn queue(&self) -> Queue {
        Queue(self.jobs.downgrade())
    }
}

/// A workspace whose changes one is told of, while this is held.
struct Listening {
    _tell: Arc<dyn Fn() + Send + Sync>,
    _workspace: Arc<Workspace>,
}

/// A checkpoint that was made.
struct Made {
    outcome: Outcome,
    subject: String,
}

/// What says of changed files how they are recorded.
type Say = Box<dyn Fn(&[FileChange]) -> Checkpoint + Send + Sync>;
/// What decides whether there is a checkpoint, in a workspace that is held.
type Decide = Arc<dyn Fn(&mut Held<'_>) -> Result<Option<Checkpoint>, Trouble> + Send + Sync>;

impl Desk {
    async fn work(self, mut jobs: mpsc::Receiver<Given>) {
        let bell = Arc::new(Notify::new());
        // When files were last left alone for long enough, and when that is not waited for any more.
        let mut quiet: Option<(Instant, Instant)> = None;
        let mut watched: Option<Listening> = None;
        loop {
            let due = quiet.map(|(rest, late)| rest.min(late));
            tokio::select! {
                job = jobs.recv() => match job {
                    None => break,
                    Some((due, Job::Before(done))) => {
                        let program = self.name.to_string();
                        let say: Say = Box::new(move |changes| {
                            Checkpoint::message(format!("Before {program} began: {}", summary(changes)))
                        });
                        self.note(due, self.if_changed(say).await, &[], None, false);
                        if !self.spec.nature().tells_tools && watched.is_none() {
                            watched = self.listen(&bell).await;
                        }
                        let _ = done.send(());
                    }
                    Some((due, Job::Tool(tool, heard, gate))) => self.tool(due, *tool, heard, gate).await,
                    Some((due, Job::Settled(heard, gate))) => {
                        let made = self.if_changed(self.say(heard.turn)).await;
                        self.let_go(due, made, gate, &[], heard.offset).await;
                    }
                    Some((due, Job::Last(run, agent))) => {
                        quiet = None;
                        watched = None;
                        let say = self.say(0);
                        self.note(due, self.if_changed(say).await, &[], None, false);
                        agent.send(Command::Recorded(run)).await;
                    }
                },
                () = bell.notified(), if watched.is_some() => {
                    let now = Instant::now();
                    let late = quiet.map_or(now + self.spec.quiet * RESTLESS, |(_, late)| late);
                    quiet = Some((now + self.spec.quiet, late));
                }
                () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    quiet = None;
                    let (due, say) = (Instant::now(), self.say(0));
                    self.note(due, self.if_changed(say).await, &[], None, false);
                }
            }
        }
    }

    /// Has the bell rung when files change.
    async fn listen(&self, bell: &Arc<Notify>) -> Option<Listening> {
        let (workspaces, place, bell) = (Arc::clone(&self.workspaces), self.place.clone(), Arc::clone(bell));
        let opened = self
            .workers
            .call(Lane::Short, None, move || {
                let workspace = workspaces.open(&place)?;
                let tell: Arc<dyn Fn() + Send + Sync> = Arc::new(move || bell.notify_one());
                let rings = workspace.on_change(&tell);
                let listening = Listening {
                    _tell: tell,
                    _workspace: workspace,
                };
                Ok::<_, Trouble>(rings.then_some(listening))
            })
            .await;
        match opened {
            Ok(Ok(Some(listening))) => Some(listening),
            _ => {
                let text = "files are not watched: there is a checkpoint only when the command has ended";
                self.events.push("trouble", json!({ "text": text }));
                None
            }
        }
    }

    /// How changes are told that no tool has told of.
    fn say(&self, turn: u64) -> Say {
        let (program, name) = (self.spec.program(), self.name.to_string());
        let session = (self.session)();
        Box::new(move |changes| {
            let mut checkpoint = Checkpoint::after(program.as_str(), summary(changes)).agent(name.as_str());
            if let Some(session) = &session {
                checkpoint = checkpoint.session(session.as_str());
            }
            if turn > 0 {
                checkpoint = checkpoint.turn(turn);
            }
            checkpoint.trailer("Source", "files")
        })
    }

    fn seen(&self) -> MutexGuard<'_, Option<ObjectId>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn tool(&self, due: Instant, tool: ToolFinished, heard: Moment, gate: Option<Arc<Gate>>) {
        let mut calls = vec![tool.call.clone()];
        calls.extend(tool.with.iter().cloned());
        calls.retain(|call| !call.is_empty());
        let checkpoint = self.checkpoint_of(&tool, &calls, heard.turn);
        // Its own hooks may have had it recorded, while it waited for that.
        let may_be_known =
            !matches!(tool.source, dialect::Source::Barrier | dialect::Source::End) && tool.with.is_empty();
        let (agent, seen) = (format!("Agent: {}", self.name), *self.seen());
        let found: Arc<Mutex<Option<ObjectId>>> = Arc::default();
        let finds = Arc::clone(&found);
        let decide: Decide = Arc::new(move |held| {
            let hooked = match may_be_known {
                true => of_its_hook(held, &agent)?.filter(|id| Some(*id) != seen),
                false => None,
            };
            *finds.lock().unwrap_or_else(PoisonError::into_inner) = hooked;
            if hooked.is_none() {
                return Ok(Some(checkpoint.clone()));
            }
            let changes = held.unsaved(1).map_err(|error| trouble(&error, error.fault()))?;
            Ok((!changes.is_empty()).then(|| checkpoint.clone()))
        });
        let made = self.record(decide).await;
        let hooked = found.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(id) = hooked {
            *self.seen() = Some(id);
        }
        // Its hook's commit is that of this call.
        let of_hook = hooked.filter(|_| matches!(made, Ok(None)));
        self.let_go(due, made, gate, &calls, heard.offset).await;
        if let Some(id) = of_hook {
            let commit = id.to_string();
            (self.made)(&commit);
            let data = json!({
                "commit": commit, "subject": null, "changed": true, "skipped": [], "calls": calls, "offset": heard.offset,
                "took_ms": 0, "late": false, "by": "hook",
            });
            self.events.push("checkpoint", data);
        }
    }

    fn checkpoint_of(&self, tool: &ToolFinished, calls: &[String], turn: u64) -> Checkpoint {
        let mut checkpoint = Checkpoint::after(tool.tool.as_str(), tool.summary.as_str()).agent(self.name.as_str());
        if let Some(session) = (self.session)() {
            checkpoint = checkpoint.session(session);
        }
        if turn > 0 {
            checkpoint = checkpoint.turn(turn);
        }
        for call in calls {
            checkpoint = checkpoint.tool_use(call.as_str());
        }
        checkpoint = match tool.outcome {
            dialect::Outcome::Ok => checkpoint.outcome(ToolOutcome::Ok),
            dialect::Outcome::Interrupted => checkpoint.outcome(ToolOutcome::Interrupted),
            dialect::Outcome::BackgroundStarted => checkpoint.outcome(ToolOutcome::Started),
            _ => checkpoint.outcome(ToolOutcome::Failed),
        };
        if tool.background {
            checkpoint = checkpoint.trailer("Background", "ended");
        }
        if let Some(duration) = tool.duration {
            checkpoint = checkpoint.duration(duration);
        }
        if let Some(code) = tool.exit_code {
            checkpoint = checkpoint.trailer("Exit-Code", code.to_string());
        }
        if let Some(server) = &tool.server {
            checkpoint = checkpoint.trailer("Server", server.as_str());
        }
        if let Some(parent) = &tool.parent {
            checkpoint = checkpoint.trailer("Parent-Call", parent.as_str());
        }
        for other in &tool.concurrent {
            checkpoint = checkpoint.trailer("Concurrent-With", other.as_str());
        }
        checkpoint
            .trailer("Source", tool.source.as_str())
            .paths(tool.paths.iter().map(String::as_str))
    }

    /// The work is done: the agent goes on, unless it could not wait for that.
    async fn let_go(
        &self,
        due: Instant,
        made: Result<Option<Made>, Trouble>,
        gate: Option<Arc<Gate>>,
        calls: &[String],
        offset: Option<u64>,
    ) {
        let late = match gate {
            Some(gate) => !gate.open().await,
            None => false,
        };
        self.note(due, made, calls, offset, late);
    }

    /// Tells what became of a checkpoint.
    fn note(
        &self,
        due: Instant,
        result: Result<Option<Made>, Trouble>,
        calls: &[String],
        offset: Option<u64>,
        late: bool,
    ) {
        match result {
            Ok(None) => {}
            Ok(Some(Made { outcome, subject })) => {
                let commit = outcome.commit.map(|id| id.to_string());
                if let Some(commit) = &commit {
                    (self.made)(commit);
                }
                let skipped: Vec<_> = outcome
                    .skipped
                    .iter()
                    .take(20)
                    .map(|(path, why)| json!({ "path": path.to_string(), "why": why.text() }))
                    .collect();
                let tally = self.events.tally();
                tally.latency.add(due.elapsed());
                tally.work.add(outcome.took);
                let took = u64::try_from(outcome.took.as_millis()).unwrap_or(u64::MAX);
                self.events.push(
                    "checkpoint",
                    json!({
                        "commit": commit,
                        "subject": subject,
                        "changed": outcome.changed,
                        "skipped": skipped,
                        "calls": calls,
                        "offset": offset,
                        "took_ms": took,
                        "late": late,
                    }),
                );
            }
            Err(trouble) => {
                tracing::warn!(agent = %self.name, workspace = %self.place, error = %trouble.public, "no checkpoint");
                let text = trouble.public;
                self.events
                    .push("checkpoint_failed", json!({ "text": text, "calls": calls }));
            }
        }
    }

    /// Makes a checkpoint if files differ from the last one.
    async fn if_changed(&self, say: Say) -> Result<Option<Made>, Trouble> {
        self.record(Arc::new(move |held| {
            let changes = held.unsaved(LISTED).map_err(|error| trouble(&error, error.fault()))?;
            Ok((!changes.is_empty()).then(|| say(&changes)))
        }))
        .await
    }

    /// Makes the checkpoint that `decide` wants. Where others have the workspace, or there is no room, that is waited for.
    async fn record(&self, decide: Decide) -> Result<Option<Made>, Trouble> {
        let mut tries = 0;
        loop {
            tries += 1;
            match self.try_to_record(&decide).await {
                Err(trouble) if trouble.fault == Fault::Busy && tries < TRIES => {
                    tokio::time::sleep(PAUSE).await;
                }
                other => return other,
            }
        }
    }

    async fn try_to_record(&self, decide: &Decide) -> Result<Option<Made>, Trouble> {
        let busy = |public: String| Trouble {
            fault: Fault::Busy,
            public,
        };
        let turn = self.workspaces.turn(&self.place).await;
        let _turn = turn.ok_or_else(|| busy("others are at work in the workspace for too long".to_owned()))?;
        let permit = self
            .workers
            .admit(Lane::Short, None)
            .await
            .map_err(|error| busy(error.to_string()))?;
        let (workspaces, place, decide) = (Arc::clone(&self.workspaces), self.place.clone(), Arc::clone(decide));
        let made = self
            .workers
            .call_under(permit, move || {
                let workspace = workspaces.open(&place)?;
                let mut held = workspace.lock().map_err(|error| trouble(&error, error.fault()))?;
                let Some(checkpoint) = decide(&mut held)? else {
                    return Ok(None);
                };
                let subject = subject_of(compose(&checkpoint).as_bstr());
                let outcome = held
                    .checkpoint(checkpoint)
                    .map_err(|error| trouble(&error, error.fault()))?;
                Ok(Some(Made { outcome, subject }))
            })
            .await;
        made.unwrap_or_else(|error| Err(trouble(&error, error.fault())))
    }
}

/// The last commit, if a hook of this agent has made it.
fn of_its_hook(held: &mut Held<'_>, agent: &str) -> Result<Option<ObjectId>, Trouble> {
    let last = held.last().map_err(|error| trouble(&error, error.fault()))?;
    let says = |message: &[u8], text: &str| message.lines().any(|line| line == text.as_bytes());
    let is_its = |message: &[u8]| says(message, "Source: hook") && says(message, agent);
    Ok(last.filter(|(_, message)| is_its(message)).map(|(id, _)| id))
}

/// What is told of an error; the whole of it goes to the log.
fn trouble(error: &dyn std::error::Error, fault: Fault) -> Trouble {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        source = inner.source();
    }
    tracing::warn!(error = %text, "a checkpoint of an agent was not made");
    let public = match fault {
        Fault::Busy => "the workspace is in use",
        Fault::NotFound => "the workspace is gone",
        _ => "the workspace cannot be recorded; the log says why",
    };
    Trouble {
        fault,
        public: public.to_owned(),
    }
}

/// What has changed, in a line.
fn summary(changes: &[FileChange]) -> String {
    let verb = |kind: &ChangeKind| match kind {
        ChangeKind::Added => "Created",
        ChangeKind::Deleted => "Removed",
        ChangeKind::Renamed { .. } => "Moved",
        _ => "Updated",
    };
    let Some(first) = changes.first() else {
        return "Nothing changed".to_owned();
    };
    let same = changes.iter().all(|change| verb(&change.kind) == verb(&first.kind));
    let verb = if same { verb(&first.kind) } else { "Changed" };
    if changes.len() > NAMED {
        let more = if changes.len() >= LISTED { "at least " } else { "" };
        return format!("{verb} {more}{} files", changes.len());
    }
    let names: Vec<_> = changes.iter().map(|change| change.path.to_string()).collect();
    format!("{verb} {}", names.join(", "))
}
