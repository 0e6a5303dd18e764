//! Who an agent works for: turns what happens with it into events, records and checkpoints.

use std::{
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{
    sync::oneshot,
    task::{AbortHandle, JoinHandle},
};

use super::{
    AgentRecord, AgentSpec, EventLog, Fences, Place, State, Veil,
    files::Hands,
    letta,
    pieces::Pieces,
    tally::reason,
    trail::{Gate, Job, Trail},
};
use crate::{
    agent::{
        Agent, Command, ExitRecord, Host, Launch, News, Prepared, RUN_MARK, Redactor, SpawnFailure, SpawnFault, Status,
        spawn_parent,
    },
    base::{Clock, Limits},
    dialect::{Asks, Bounds, Decision, Event, Kind, Options, Order, Permission, ToolFinished},
    ledger::{Ledger, Shelf},
    worker::{Lane, Workers},
};

/// Bytes of a text in an event.
const TEXT_BYTES: usize = 16 << 10;

/// What an agent's host and everybody else knows of it.
pub(super) struct Shared {
    pub(super) record: Mutex<AgentRecord>,
    /// Whether the agent is forgotten: what is told of it late goes nowhere.
    pub(super) forgotten: AtomicBool,
    pub(super) spec: Arc<AgentSpec>,
    pub(super) events: Arc<EventLog>,
    pub(super) ledger: Ledger,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) veil: Arc<Veil>,
    /// Questions for permission that wait for an answer.
    pub(super) questions: Mutex<Vec<Question>>,
    /// The next answer, if somebody wants it whole.
    pub(super) answer: Mutex<Option<Heard>>,
}

/// The first turn that begins after somebody has begun to listen.
#[derive(Default)]
pub(super) struct Heard {
    pub(super) turn: Option<u64>,
    /// What it said at last, if that is too long for an event.
    pub(super) text: Option<String>,
}

/// A question for permission that waits for an answer.
pub(super) struct Question {
    /// The number of the event that tells of it, which names it to everybody: an agent may use its own name of a request again.
    pub(super) asked: u64,
    pub(super) permission: Permission,
    /// What answers for those who do not.
    timer: Option<AbortHandle>,
}

impl Drop for Question {
    fn drop(&mut self) {
        if let Some(timer) = &self.timer {
            timer.abort();
        }
    }
}

impl Shared {
    pub(super) fn record(&self) -> MutexGuard<'_, AgentRecord> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn questions(&self) -> MutexGuard<'_, Vec<Question>> {
        self.questions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a question that is to be answered, if it still waits.
    pub(super) fn take_question(&self, is_meant: impl Fn(&Question) -> bool) -> Option<Question> {
        let mut questions = self.questions();
        let at = questions.iter().position(is_meant)?;
        Some(questions.remove(at))
    }

    pub(super) fn answer(&self) -> MutexGuard<'_, Option<Heard>> {
        self.answer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers for those who did not.
    async fn deny(&self, agent: &Agent, asked: u64, why: String) {
        let Some(mut question) = self.take_question(|question| question.asked == asked) else {
            return;
        };
        // Which is who does this.
        question.timer = None;
        let request = question.permission.request.clone();
        let name = self.record().name.clone();
        let tool = self.hide(&question.permission.tool);
        tracing::warn!(agent = %name, tool, why, "permission denied");
        self.events.push(
            "permission_decided",
            json!({ "request": asked.to_string(), "decision": "denied", "by": null, "why": why }),
        );
        let decision = Decision::Deny {
            reason: why,
            stop: false,
        };
        agent.send(Command::Permit(request, decision)).await;
    }

    /// Has the ledger left alone from now on.
    pub(super) fn forget(&self) {
        let _record = self.record();
        self.forgotten.store(true, Ordering::Release);
        self.events.close();
    }

    /// Changes the record, and keeps it.
    pub(super) fn change(&self, change: impl FnOnce(&mut AgentRecord)) {
        let mut record = self.record();
        change(&mut record);
        if self.forgotten.load(Ordering::Acquire) {
            return;
        }
        if let Err(error) = self.ledger.put(Shelf::Agents, record.name.as_str(), &*record) {
            tracing::error!(agent = %record.name, %error, "an agent is not in the ledger");
        }
    }

    /// A text without secrets.
    pub(super) fn hide(&self, text: &str) -> String {
        match self.veil.load().as_deref() {
            Some(redactor) => redactor.text(text).into_owned(),
            None => text.to_owned(),
        }
    }

    /// A text as an event may hold it.
    pub(super) fn cut(&self, text: &str) -> String {
        // In this order: a part of a secret is not known for one.
        cut(&self.hide(text))
    }

    pub(super) fn now(&self) -> u64 {
        self.clock.millis()
    }
}

/// The host of one agent.
pub(super) struct Desk {
    pub(super) shared: Arc<Shared>,
    pub(super) place: Place,
    pub(super) trail: Trail,
    pub(super) workers: Workers,
    pub(super) limits: Limits,
    pub(super) workspaces: Arc<dyn super::Workspaces>,
    /// Where records of exits are.
    pub(super) runs: PathBuf,
    pub(super) fences: Fences,
    /// How long questions for permission wait for an answer; zero for ever.
    pub(super) answer_within: Duration,
    pub(super) agent: Option<Agent>,
    pub(super) turn: u64,
    /// Whether it says where turns begin and end; asked for with every line.
    pub(super) tells_turns: bool,
    /// Calls that are named by the next checkpoint.
    pub(super) late: Vec<String>,
    /// The newest of its orders that are carried out, one after the other.
    pub(super) orders: Option<JoinHandle<()>>,
    /// Whether the system has ended processes of this run for their memory.
    pub(super) starved: bool,
    /// What was told of what it says at this moment.
    pub(super) pieces: Pieces,
}

impl Host for Desk {
    fn prepare(&mut self, run: u32, agent: &Agent) {
        self.agent = Some(agent.clone());
        self.turn = 0;
        let agent = agent.clone();
        let name = self.shared.record().name.clone();
        let run_name = self.shared.record().run_name(run);
        let resume = self.shared.record().session.clone();
        self.pieces = Pieces::default();
        let preparation = Preparation {
            spec: Arc::clone(&self.shared.spec),
            place: self.place.clone(),
            fixed: vec![
                ("GITSTEAD_AGENT", name.to_string()),
                (RUN_MARK, run_name.clone()),
                ("GITSTEAD_WORKSPACE", self.place.to_string()),
            ],
            run: run_name,
            number: run,
            shared: Arc::clone(&self.shared),
            record: self.runs.join(format!("{name}.exit")),
            temporary: self.runs.join(format!("{name}.tmp")),
            fences: self.fences.clone(),
            bounds: Bounds::from(&self.limits),
            resume,
        };
        let (workers, workspaces, trail) = (self.workers.clone(), Arc::clone(&self.workspaces), self.trail.clone());
        tokio::spawn(async move {
            let prepared = preparation.run(&workers, workspaces, &trail).await;
            agent.send(Command::Prepared(run, prepared)).await;
        });
    }

    fn told(&mut self, news: News<'_>) {
        match news {
            News::Entered(status) => self.entered(status),
            News::Fostered(status) => self.shared.change(|record| record.parent = status.parent),
            News::Said(event) => self.said(*event),
            News::Warned(dog) => {
                self.shared.events.push("watchdog", json!({ "watchdog": dog }));
            }
            News::Trouble(text) => {
                self.shared
                    .events
                    .push("trouble", json!({ "text": self.shared.cut(&text) }));
            }
            News::Gone(record) => self.gone(record),
        }
    }

    fn order(&mut self, run: u32, order: Order, agent: &Agent) {
        let hands = Hands {
            place: self.place.clone(),
            workers: self.workers.clone(),
            workspaces: Arc::clone(&self.workspaces),
            seen: self
                .shared
                .spec
                .container
                .as_ref()
                .and_then(|container| container.workspace.clone()),
            most: self.limits.agent_file_bytes,
            umask: self.shared.spec.bounds.umask,
        };
        self.orders = Some(hands.take(run, order, agent.clone(), self.orders.take()));
    }

    fn record(&mut self, run: u32, agent: &Agent) {
        self.agent = Some(agent.clone());
        if self.trail.give(Job::Last(run, agent.clone())).is_err() {
            let text = "there is no last checkpoint: too many others wait";
            self.shared.events.push("checkpoint_failed", json!({ "text": text }));
            self.send(Command::Recorded(run));
        }
    }
}

impl Desk {
    fn send(&self, command: Command) {
        if let Some(agent) = self.agent.clone() {
            // From its own task one must not wait for it.
            tokio::spawn(async move { agent.send(command).await });
        }
    }

    fn entered(&mut self, status: &Status) {
        let now = self.shared.now();
        let before = self.shared.record().state;
        self.shared.change(|record| record.follow(status, now));
        let over = status.state.is_over();
        // One that waits to be started again has ended before.
        if (over || status.state == State::Restarting) && before != State::Restarting {
            let starved = std::mem::take(&mut self.starved);
            self.shared.events.tally().add(reason(status, starved));
        }
        let mut data = json!({ "run": status.run });
        let mut add = |key: &str, value: Value| data[key] = value;
        if let Some(pid) = status.pid {
            add("pid", json!(pid));
        }
        if over || status.state == State::Restarting {
            self.shared.questions().clear();
            if let Some(exit) = status.exit {
                add("exit_code", json!(exit.code));
                add("signal", json!(exit.signal));
            }
            if let Some(failure) = &status.failure {
                add("failure", json!(failure));
            }
            add("swept", json!(status.swept));
            add("stragglers", json!(status.stragglers));
        }
        if let Some(cause) = status.cause {
            add("cause", json!(cause));
        }
        let kind = match status.state {
            State::Starting => "started",
            state => state.as_str(),
        };
        let name = self.shared.record().name.clone();
        tracing::info!(agent = %name, run = status.run, "{kind}");
        self.shared.events.push(kind, data);
        if status.state == State::Ready
            && self.shared.spec.nature().asks != Asks::InArguments
            && let (Some(message), Some(agent)) = (self.shared.spec.message.clone(), self.agent.clone())
        {
            let shared = Arc::clone(&self.shared);
            // Once: a session that is gone on with has had it.
            if status.run > 1 && self.shared.record().session.is_some() {
                return;
            }
            self.shared.events.push("asked", json!({ "text": message, "by": null }));
            tokio::spawn(async move {
                if let Err(error) = agent.ask(message).await {
                    shared.events.push(
                        "trouble",
                        json!({ "text": format!("its first message was not taken: {error}") }),
                    );
                }
            });
        }
    }

    fn said(&mut self, event: Event) {
        match event {
            Event::Ready | Event::Log { .. } => {}
            Event::Session { id, model } => {
                // One that names itself after a secret is not gone on with.
                if self.shared.hide(&id) == id {
                    self.shared.change(|record| record.session = Some(id.clone()));
                }
                self.shared
                    .events
                    .push("session", json!({ "session": id, "model": model }));
            }
            Event::SessionGone { id, .. } => {
                self.shared.change(|record| record.session = None);
                let text = "the agent does not know this session any more: a new one is begun";
                self.shared.events.push(
                    "session_gone",
                    json!({ "session": self.shared.hide(&id), "text": text }),
                );
            }
            Event::Changed(change) => {
                let (what, to) = change.told();
                self.shared.events.push("changed", json!({ "what": what, "to": to }));
            }
            Event::TurnStarted { turn } => {
                self.turn = turn;
                if let Some(heard) = self.shared.answer().as_mut() {
                    heard.turn.get_or_insert(turn);
                }
                self.shared.events.push("turn_started", json!({ "turn": turn }));
            }
            Event::TurnEnded(ended) => {
                self.say_rest(None);
                if let Some(heard) = self.shared.answer().as_mut().filter(|one| one.turn == Some(ended.turn)) {
                    let long = ended.text.as_deref().filter(|text| text.len() > TEXT_BYTES);
                    heard.text = long.map(|text| self.shared.hide(text));
                }
                self.shared.events.push(
                    "turn_ended",
                    json!({
                        "turn": ended.turn,
                        "outcome": ended.outcome.as_str(),
                        "text": ended.text.as_deref().map(|text| self.shared.cut(text)),
                        "usage": {
                            "input_tokens": ended.usage.input_tokens,
                            "cached_tokens": ended.usage.cached_tokens,
                            "output_tokens": ended.usage.output_tokens,
                            "cost_microusd": ended.usage.cost_microusd,
                            "model_turns": ended.usage.model_turns,
                        },
                    }),
                );
            }
            Event::ToolStarted(tool) => {
                self.say_rest(Some(&tool.parent));
                self.shared.events.push(
                    "tool_started",
                    json!({
                        "call": tool.call,
                        "tool": tool.tool,
                        "summary": tool.summary,
                        "parent": tool.parent,
                        "background": tool.background,
                    }),
                );
            }
            Event::ToolFinished(tool) => self.tool_finished(tool),
            Event::Settled { calls, barrier } => self.settled(calls, barrier),
            Event::Said {
                text,
                partial,
                thought,
                parent,
            } => {
                // What plain commands write is in the log already.
                if self.tells_turns {
                    self.hear(&text, partial, thought, parent);
                }
            }
            Event::Permission(permission) => self.asks(permission),
            Event::PermissionGone { request } => self.gone_question(&request),
            Event::Trouble { text } => {
                self.shared
                    .events
                    .push("trouble", json!({ "text": self.shared.cut(&text) }));
            }
            Event::Failed { text } => {
                self.shared
                    .events
                    .push("agent_failed", json!({ "text": self.shared.cut(&text) }));
            }
        }
    }

    /// It does not want to know any more what it has asked by this name of its own.
    fn gone_question(&self, request: &str) {
        if let Some(gone) = self.shared.take_question(|one| one.permission.request == request) {
            let name = gone.asked.to_string();
            self.shared.events.push("permission_gone", json!({ "request": name }));
        }
    }

    /// It wants to know whether it may do something.
    fn asks(&mut self, permission: Permission) {
        // An answer could not say which of two is meant, and the agent would take it for the newer one.
        self.gone_question(&permission.request);
        let asked = self.shared.events.push_named(
            "permission",
            "request",
            json!({
                "call": permission.call,
                "tool": permission.tool,
                "summary": permission.summary,
            }),
        );
        let is_full = self.shared.questions().len() >= self.limits.agent_pending;
        let why = match is_full {
            true => "too many questions wait for an answer".to_owned(),
            false => format!("nobody has answered for {} seconds", self.answer_within.as_secs_f32()),
        };
        let mut question = Question {
            asked,
            permission,
            timer: None,
        };
        let mut questions = self.shared.questions();
        if let Some(agent) = self.agent.clone().filter(|_| is_full || !self.answer_within.is_zero()) {
            let (shared, within) = (Arc::downgrade(&self.shared), self.answer_within);
            let task = tokio::spawn(async move {
                if !is_full {
                    tokio::time::sleep(within).await;
                }
                let Some(shared) = shared.upgrade() else { return };
                shared.deny(&agent, asked, why).await;
            });
            question.timer = Some(task.abort_handle()).filter(|_| !is_full);
        }
        questions.push(question);
    }

    fn tool_finished(&mut self, mut tool: ToolFinished) {
        self.shared.events.push(
            "tool_finished",
            json!({
                "call": tool.call,
                "with": tool.with,
                "tool": tool.tool,
                "summary": tool.summary,
                "outcome": tool.outcome.as_str(),
                "background": tool.background,
                "exit_code": tool.exit_code,
                "duration_ms": tool.duration.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
                "parent": tool.parent,
                "concurrent": tool.concurrent,
                "paths": tool.paths,
                "barrier": tool.barrier.is_some(),
                "source": tool.source.as_str(),
            }),
        );
        if !tool.outcome.may_have_changed() {
            if let Some(barrier) = tool.barrier {
                self.send(Command::Release(barrier));
            }
            return;
        }
        // It becomes the message of a commit, which is everybody's.
        let ids = [&mut tool.with, &mut tool.concurrent].into_iter().flatten();
        let texts = [&mut tool.summary, &mut tool.tool, &mut tool.call].into_iter();
        for text in texts.chain(ids).chain(&mut tool.server).chain(&mut tool.parent) {
            *text = self.shared.hide(text);
        }
        tool.with.append(&mut self.late);
        let gate = self.gate(tool.barrier.take(), vec![tool.call.clone()]);
        if let Err(Job::Tool(tool, _, gate)) = self.trail.give(Job::Tool(Box::new(tool), self.turn, gate)) {
            let text = "checkpoints fall behind: the next one stands for this call too";
            self.shared
                .events
                .push("checkpoint_late", json!({ "text": text, "calls": [tool.call] }));
            self.late.extend(tool.with);
            self.late.push(tool.call);
            self.late.truncate(1_000);
            open(gate);
        }
    }

    fn settled(&mut self, calls: Vec<String>, barrier: Option<String>) {
        let gate = self.gate(barrier, calls);
        if let Err(Job::Settled(_, gate)) = self.trail.give(Job::Settled(self.turn, gate)) {
            open(gate);
        }
    }

    /// Where the agent waits, if it does.
    fn gate(&self, barrier: Option<String>, calls: Vec<String>) -> Option<Arc<Gate>> {
        let events = Arc::clone(&self.shared.events);
        Some(Gate::new(
            self.agent.clone()?,
            barrier?,
            self.shared.spec.patience,
            events,
            calls,
        ))
    }

    fn gone(&mut self, record: &ExitRecord) {
        if record.out_of_memory > 0 {
            self.starved = true;
            self.shared
                .events
                .push("out_of_memory", json!({ "killed": record.out_of_memory }));
        }
        if record.swept > 0 || !record.stragglers.is_empty() {
            self.shared.events.push(
                "swept",
                json!({ "killed": record.swept, "stragglers": record.stragglers }),
            );
        }
    }
}

/// Lets an agent go on for which there is no checkpoint.
fn open(gate: Option<Arc<Gate>>) {
    if let Some(gate) = gate {
        tokio::spawn(async move { gate.open().await });
    }
}

/// Bytes as an event may hold them.
pub(super) fn cut(text: &str) -> String {
    let mut end = text.len().min(TEXT_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    match end < text.len() {
        true => format!("{}…", &text[..end]),
        false => text.to_owned(),
    }
}

/// What has to be there before an agent starts.
struct Preparation {
    spec: Arc<AgentSpec>,
    place: Place,
    fixed: Vec<(&'static str, String)>,
    run: String,
    number: u32,
    shared: Arc<Shared>,
    record: PathBuf,
    /// A directory for its temporary files, if it cannot reach that of all.
    temporary: PathBuf,
    fences: Fences,
    bounds: Bounds,
    resume: Option<String>,
}

impl Preparation {
    async fn run(
        self,
        workers: &Workers,
        workspaces: Arc<dyn super::Workspaces>,
        trail: &Trail,
    ) -> Result<Box<Prepared>, SpawnFailure> {
        let other = |text: String| SpawnFailure {
            fault: SpawnFault::Other,
            text,
        };
        let (place, task) = (self.place.clone(), self.task());
        let (makes, opens) = (Arc::clone(&workspaces), workspaces);
        let root = workers
            .call(Lane::Short, None, move || makes.ensure(&place, &task))
            .await
            .map_err(|busy| other(busy.to_string()))?
            .map_err(|trouble| other(trouble.public))?;
        let (done, before) = oneshot::channel();
        if trail.give(Job::Before(done)).is_ok() {
            let _ = before.await;
        }
        workers
            .call(letta::lane(&self.spec), None, move || self.start(root, &*opens))
            .await
            .map_err(|busy| other(busy.to_string()))?
    }

    fn task(&self) -> String {
        match (&self.spec.task, &self.spec.message) {
            (Some(task), _) => task.clone(),
            (None, Some(message)) => message.clone(),
            // Not its arguments: there may be keys among them, and this is the first commit of everybody's clone.
            (None, None) => {
                let argv = self.spec.command(None).unwrap_or_default();
                let program = argv.first().map_or("agent", String::as_str);
                let name = program.rsplit('/').next().unwrap_or(program);
                format!("run {name}")
            }
        }
    }

    /// Blocks.
    fn start(mut self, root: PathBuf, workspaces: &dyn super::Workspaces) -> Result<Box<Prepared>, SpawnFailure> {
        let other = |text: String| SpawnFailure {
            fault: SpawnFault::Other,
            text,
        };
        // It may have been described when there were other fences.
        self.fences.check(&self.spec).map_err(|error| SpawnFailure {
            fault: SpawnFault::NoSandbox,
            text: error.to_string(),
        })?;
        let workspace = workspaces.open(&self.place).map_err(|trouble| other(trouble.public))?;
        let search = std::env::var("PATH").ok();
        let search = self.spec.env.get("PATH").or(search.as_ref()).cloned();
        let house = self.record.parent().unwrap_or(Path::new("/")).to_owned();
        let sandbox = self
            .fences
            .sandbox(&self.spec, &workspace, search.as_deref(), &self.temporary, &house);
        drop(workspace);
        if sandbox.is_some() {
            let unmade = |error| other(format!("its directory for temporary files cannot be made: {error}"));
            match std::fs::remove_dir_all(&self.temporary) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(unmade(error)),
                _ => {}
            }
            std::fs::DirBuilder::new()
                .mode(0o700)
                .create(&self.temporary)
                .map_err(unmade)?;
            if !self.spec.env.contains_key("TMPDIR") {
                let at = self.temporary.to_string_lossy().into_owned();
                self.fixed.push(("TMPDIR", at));
            }
        }
        let kind = self.spec.kind().map_err(|error| other(error.to_string()))?;
        let login = match kind {
            // Without a password it would do what anybody on this machine asks of it.
            Kind::OpencodeServer => Some(super::env::Login::new().map_err(other)?),
            _ => None,
        };
        self.fixed.extend(login.iter().flat_map(super::env::Login::variables));
        let env = super::env::build(
            &self.spec,
            &self.fixed,
            |name| std::env::var_os(name),
            std::env::vars_os(),
        )
        .map_err(other)?;
        let is_secret =
            |name: &String, value: &String| self.spec.secrets.contains_key(name) || super::env::is_secret(name, value);
        let secrets = env.iter().filter(|(name, value)| is_secret(name, value));
        let secrets = secrets.map(|(_, value)| value.as_str());
        let redactor = Redactor::new(secrets.chain(login.as_ref().map(|login| login.password()))).map(Arc::new);
        self.shared.veil.store(redactor.clone());
        // Of an earlier run; whoever finds one later takes it for this one's.
        match std::fs::remove_file(&self.record) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(other(format!(
                    "the record of an earlier exit cannot be removed: {error}"
                )));
            }
            _ => {}
        }
        let argv = letta::command(&self.shared, &self.fences, sandbox.as_ref(), self.resume.as_deref())?;
        let inside = self.spec.container.clone();
        let mut options = Options::new(inside.as_ref().map_or(root.as_path(), |inside| inside.root(&root)));
        options.bounds = self.bounds;
        options.resume.clone_from(&self.resume);
        options.pointers = self.spec.pointers.clone().unwrap_or_default();
        options.thread = self.spec.thread();
        // A command that we started for it would not be in its container.
        (options.offers_files, options.offers_terminals) = (true, inside.is_none());
        let cwd = root.join(&self.spec.cwd);
        // A link could lead out of it.
        let cwd = match cwd.canonicalize() {
            Ok(real) if real.starts_with(root.canonicalize().unwrap_or_else(|_| root.clone())) => real,
            _ => {
                return Err(SpawnFailure {
                    fault: SpawnFault::MissingDirectory,
                    text: "the directory that it works in is not there, or not in the workspace".to_owned(),
                });
            }
        };
        // There would be nothing in it but the client of the container's engine.
        let cgroups = self.fences.cgroups.as_ref().filter(|_| inside.is_none());
        let cgroup = cgroups.map(|all| all.of(&self.run));
        let container = inside.map(|inside| {
            let real = root.canonicalize().unwrap_or_else(|_| root.clone());
            // The way of the workspace may be one of links, which are none of the container's.
            let below = root.join(cwd.strip_prefix(&real).unwrap_or(Path::new("")));
            let program = self.fences.container_program.as_deref();
            inside.reached(program, inside.at(&root, &below), |name| std::env::var_os(name))
        });
        // A run that nobody knows of would be nobody's to end, and its name would be given again.
        self.shared.change(|record| record.run = self.number);
        let kept = self.shared.ledger.flush();
        kept.map_err(|error| other(format!("the ledger cannot be written: {error}")))?;
        let newborn = spawn_parent().map_err(|error| other(format!("no process can be started: {error}")))?;
        Ok(Box::new(Prepared {
            newborn,
            launch: Launch {
                run: self.run,
                argv,
                env,
                cwd,
                record: self.record,
                ladder: self.spec.rules().ladder,
                bounds: self.spec.bounds,
                cgroup,
                sandbox,
                terminals: (kind == Kind::Acp && container.is_none()).then(|| root.clone()),
                container,
            },
            dialect: kind.speaker(options),
            redactor,
            web: login.map(|login| login.authorization()),
        }))
    }
}
