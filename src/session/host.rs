//! Who an agent works for: turns what happens with it into events, records and checkpoints.

use std::{
    collections::BTreeMap,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{sync::oneshot, task::JoinHandle};

use super::{
    AgentSpec, Fences, Place, State,
    files::Hands,
    letta,
    permits::Pace,
    pieces::Pieces,
    policy::{Placed, Policy},
    quota,
    shared::{Shared, TEXT_BYTES},
    tally::reason,
    trace,
    trail::{Gate, Job, Moment, Trail},
    uuid::new_uuid,
};
use crate::{
    agent::{
        Agent, Command, ExitRecord, Host, Launch, LogLine, News, Prepared, RUN_MARK, Redactor, SpawnFailure,
        SpawnFault, Status, Stream, spawn_parent, spooled_end,
    },
    base::Limits,
    dialect::{Asks, Bounds, Decision, Event, Gone, Joined, Kind, Options, Order, Outcome, Permission, ToolFinished},
    worker::{Lane, Workers},
};

/// Lines that are looked through for an agent's last words, how many of them these are, and how many bytes.
const LOOKED_AT: usize = 200;
const LAST_WORDS: usize = 10;
const LAST_BYTES: usize = 2 << 10;

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
    /// Where its output is kept.
    pub(super) logs: PathBuf,
    pub(super) fences: Fences,
    /// How long questions for permission wait for an answer; zero for ever.
    pub(super) answer_within: Duration,
    /// What is answered without asking anybody.
    pub(super) policy: Policy,
    /// How often it asks.
    pub(super) pace: Pace,
    /// The rule that has somebody asked what it has just asked.
    pub(super) asked_for: Option<Placed>,
    pub(super) agent: Option<Agent>,
    pub(super) turn: u64,
    /// When calls that are open began, in milliseconds since 1970, and what tells their input from others.
    pub(super) began: BTreeMap<String, (u64, Option<String>)>,
    /// The number of the line before the first one of this run.
    pub(super) first_line: Option<u64>,
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
        self.began.clear();
        self.first_line = Some(agent.log().last(0).cursor);
        // Of a run before, which has come to its end without that.
        self.shared.cut_off().take();
        let agent = agent.clone();
        let name = self.shared.record().name.clone();
        let run_name = self.shared.record().run_name(run);
        let resume = self.shared.record().session.clone();
        self.pieces = Pieces::default();
        let mut fixed = vec![("GITSTEAD_AGENT", name.to_string()), (RUN_MARK, run_name.clone())];
        if !self.shared.spec.env.contains_key(trace::VARIABLE) {
            let part = self.shared.spec.trace.as_deref().and_then(trace::parent);
            fixed.extend(part.map(|part| (trace::VARIABLE, part)));
        }
        let preparation = Preparation {
            spec: Arc::clone(&self.shared.spec),
            place: self.place.clone(),
            fixed,
            run: run_name,
            number: run,
            shared: Arc::clone(&self.shared),
            logs: self.logs.clone(),
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
            News::Said(event, at) => self.said(*event, at),
            News::Warned(dog) => {
                self.shared.events.push("watchdog", quota::barked(dog, &self.shared));
            }
            News::Trouble(text) => {
                self.shared
                    .events
                    .push("trouble", json!({ "text": self.shared.cut(&text) }));
            }
            News::Gone(record) => self.gone(record),
        }
    }

    fn decide(&mut self, asked: &Permission) -> Option<Decision> {
        self.ruled(asked)
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
        if let Some((tool, turn)) = self.shared.cut_off().take() {
            let heard = Moment { turn, offset: None };
            // If there is no room for it, the last checkpoint is all there is.
            let _ = self.trail.give(Job::Tool(Box::new(tool), heard, None));
        }
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
        if let Some(agent) = self.agent.clone().filter(|_| status.state == State::Starting) {
            let scales = quota::Scales {
                shared: Arc::clone(&self.shared),
                place: self.place.clone(),
                workers: self.workers.clone(),
                workspaces: Arc::clone(&self.workspaces),
                agent,
                run: status.run,
            };
            scales.begin();
        }
        let over = status.state.is_over();
        // One that waits to be started again has ended before.
        if (over || status.state == State::Restarting) && before != State::Restarting {
            let starved = std::mem::take(&mut self.starved);
            self.shared.events.tally().add(reason(status, starved));
        }
        let mut data = json!({ "run": status.run });
        let trace = self.shared.spec.trace.as_deref();
        let mut add = |key: &str, value: Value| data[key] = value;
        if let Some(pid) = status.pid {
            add("pid", json!(pid));
        }
        if over || status.state == State::Restarting {
            let open: Vec<_> = self.shared.questions().drain(..).collect();
            add("unanswered", json!(open.len()));
            let last = self.agent.as_ref().map(|agent| agent.log().last(1));
            // What ran in an earlier Gitstead has its lines there.
            if let Some((last, first)) = last.zip(self.first_line) {
                add("lines", json!(last.cursor.saturating_sub(first)));
                let line = last.lines.last().filter(|line| line.seq > first);
                let silent = line.map(|line| Duration::from_millis(now).saturating_sub(line.at));
                let silent = silent.and_then(|silent| u64::try_from(silent.as_millis()).ok());
                add("silent_ms", json!(silent));
            }
            for question in open {
                self.shared.is_gone(&question, Gone::Ended);
            }
            if let Some(exit) = status.exit {
                add("exit_code", json!(exit.code));
                add("signal", json!(exit.signal));
                add("core", json!(exit.core));
            }
            if let Some(failure) = &status.failure {
                add("failure", json!(failure));
            }
            add("swept", json!(status.swept));
            add("out_of_memory", json!(status.out_of_memory));
            let well = matches!(status.state, State::Stopped | State::Exited);
            if let Some(words) = self.last_words().filter(|_| !well) {
                self.shared.change(|record| record.last_words = Some(words.clone()));
                add("last_words", json!(words));
            }
            add("stragglers", json!(status.stragglers));
        }
        if status.state == State::Starting {
            add("trace", json!(trace));
        }
        if let Some(cause) = status.cause {
            add("cause", json!(cause));
        }
        let kind = match status.state {
            State::Starting => "started",
            state => state.as_str(),
        };
        let name = self.shared.record().name.clone();
        tracing::info!(agent = %name, run = status.run, trace, "{kind}");
        let seq = self.shared.events.push(kind, data);
        if status.state == State::Starting {
            self.shared.change(|record| record.began_with = seq);
        }
        if status.state == State::Ready
            && self.shared.spec.nature().asks != Asks::InArguments
            && let (Some(message), Some(agent)) = (self.shared.spec.message.clone(), self.agent.clone())
        {
            let shared = Arc::clone(&self.shared);
            // Once: a session that is gone on with has had it.
            if status.run > 1 && self.shared.record().session.is_some() {
                return;
            }
            let id = match new_uuid() {
                Ok(id) => id,
                Err(error) => {
                    let text = format!("its first message has no name: {error}");
                    self.shared.events.push("trouble", json!({ "text": text }));
                    return;
                }
            };
            self.shared
                .events
                .push("asked", json!({ "message_id": id, "text": message, "by": null }));
            tokio::spawn(async move {
                if let Err(error) = agent.ask(id.clone(), message).await {
                    shared.events.push(
                        "trouble",
                        json!({ "message_id": id, "text": format!("its first message was not taken: {error}") }),
                    );
                }
            });
        }
    }

    /// The last lines of this run's standard error.
    fn last_words(&self) -> Option<String> {
        let page = self.agent.as_ref()?.log().last(LOOKED_AT);
        let is_meant = |line: &&LogLine| line.stream == Stream::Stderr && Some(line.seq) > self.first_line;
        let lines: Vec<_> = page.lines.iter().filter(is_meant).collect();
        let last = &lines[lines.len().saturating_sub(LAST_WORDS)..];
        let texts: Vec<_> = last.iter().map(|line| String::from_utf8_lossy(&line.text)).collect();
        let text = texts.join("\n");
        let mut begin = text.len().saturating_sub(LAST_BYTES);
        while !text.is_char_boundary(begin) {
            begin += 1;
        }
        Some(text[begin..].to_owned()).filter(|text| !text.is_empty())
    }

    fn said(&mut self, event: Event, at: Option<u64>) {
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
            Event::Unfit { why, text } => {
                self.shared
                    .change(|record| record.unfit = Some(why.as_str().to_owned()));
                let text = self.shared.cut(&text);
                self.shared
                    .events
                    .push("unfit", json!({ "why": why.as_str(), "text": text }));
            }
            Event::Changed(change) => {
                let (what, to) = change.told();
                self.shared.events.push("changed", json!({ "what": what, "to": to }));
            }
            Event::TurnStarted { turn, message } => {
                self.turn = turn;
                let mut data = json!({ "turn": turn });
                joined(&mut data, message.as_ref());
                self.shared.events.push("turn_started", data);
            }
            Event::TurnEnded(ended) => {
                self.say_rest(None);
                let is_heard = |id: &str| ended.message.as_ref().is_some_and(|message| message.id == id);
                if let Some(heard) = self.shared.answer().as_mut().filter(|one| is_heard(&one.message)) {
                    let long = ended.text.as_deref().filter(|text| text.len() > TEXT_BYTES);
                    heard.text = long.map(|text| self.shared.hide(text));
                }
                let mut data = json!({
                    "turn": ended.turn,
                    "outcome": ended.outcome.as_str(),
                    "offset": at,
                    "text": ended.text.as_deref().map(|text| self.shared.cut(text)),
                    "usage": {
                        "input_tokens": ended.usage.input_tokens,
                        "cached_tokens": ended.usage.cached_tokens,
                        "output_tokens": ended.usage.output_tokens,
                        "cost_microusd": ended.usage.cost_microusd,
                        "model_turns": ended.usage.model_turns,
                        "duration_ms": ended.usage.duration.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
                    },
                });
                joined(&mut data, ended.message.as_ref());
                self.shared.events.push("turn_ended", data);
            }
            Event::ToolStarted(tool) => {
                self.say_rest(Some(&tool.parent));
                if self.began.len() < self.limits.agent_calls {
                    let began = (self.shared.now(), tool.input_sha.clone());
                    self.began.insert(tool.call.clone(), began);
                }
                self.shared.events.push(
                    "tool_started",
                    json!({
                        "call": tool.call,
                        "tool": tool.tool,
                        "summary": tool.summary,
                        "parent": tool.parent,
                        "background": tool.background,
                        "input_sha": tool.input_sha,
                        "turn": self.turn,
                        "offset": at,
                    }),
                );
            }
            Event::ToolFinished(tool) => self.tool_finished(tool, at),
            Event::Settled { calls, barrier } => self.settled(calls, barrier, at),
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
            Event::PermissionGone { request, why } => self.gone_question(&request, why),
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

    fn tool_finished(&mut self, mut tool: ToolFinished, at: Option<u64>) {
        let now = self.shared.now();
        // In the background it goes on, and ends once more.
        let began = match tool.outcome == Outcome::BackgroundStarted {
            true => self.began.get(&tool.call).cloned(),
            false => self.began.remove(&tool.call),
        };
        for other in &tool.with {
            self.began.remove(other);
        }
        let (began, input_sha) = began.unzip();
        let took = tool
            .duration
            .map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        self.shared.events.push(
            "tool_finished",
            json!({
                "call": tool.call,
                "with": tool.with,
                "tool": tool.tool,
                "raw_tool": tool.raw_tool,
                "server": tool.server,
                "summary": tool.summary,
                "outcome": tool.outcome.as_str(),
                "background": tool.background,
                "exit_code": tool.exit_code,
                "started_at_ms": began,
                "duration_ms": took.or(began.map(|began| now.saturating_sub(began))),
                "input_sha": input_sha,
                "parent": tool.parent,
                "concurrent": tool.concurrent,
                "paths": tool.paths,
                "barrier": tool.barrier.is_some(),
                "source": tool.source.as_str(),
                "turn": self.turn,
                "offset": at,
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
        let heard = Moment {
            turn: self.turn,
            offset: at,
        };
        if let Err(Job::Tool(tool, _, gate)) = self.trail.give(Job::Tool(Box::new(tool), heard, gate)) {
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

    fn settled(&mut self, calls: Vec<String>, barrier: Option<String>, at: Option<u64>) {
        let gate = self.gate(barrier, calls);
        let heard = Moment {
            turn: self.turn,
            offset: at,
        };
        if let Err(Job::Settled(_, gate)) = self.trail.give(Job::Settled(heard, gate)) {
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

/// Says which message a turn is about, and how that is known.
fn joined(data: &mut Value, message: Option<&Joined>) {
    data["message_id"] = json!(message.map(|message| &message.id));
    if let Some(message) = message {
        data["joined_by"] = json!(message.by.as_str());
    }
}

/// Lets an agent go on for which there is no checkpoint.
fn open(gate: Option<Arc<Gate>>) {
    if let Some(gate) = gate {
        tokio::spawn(async move { gate.open().await });
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
    logs: PathBuf,
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
        let holds = quota::check(&self.spec, workspace.root())?;
        self.shared.change(|record| record.workspace_bytes = holds);
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
        // As commands of ours look for it: a hook is to find it from wherever it is called.
        let seen = self
            .spec
            .container
            .as_ref()
            .map_or(root.as_path(), |inside| inside.root(&root));
        let seen = std::path::absolute(seen).unwrap_or_else(|_| seen.to_owned());
        self.fixed
            .push(("GITSTEAD_WORKSPACE", seen.to_string_lossy().into_owned()));
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
            spooled: spooled_end(&self.logs),
        }))
    }
}
