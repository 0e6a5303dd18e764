use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    AgentName, AgentRecord, AgentSpec, Audit, Entry, EventLog, EventPage, Fences, PermissionRule, SessionError, Veil,
    Weighed, Workspaces,
    host::Desk,
    policy::Policy,
    room::{Needed, run_of},
    shared::Shared,
    tally::Tally,
    trail::{self, Trail},
};
use crate::{
    agent::{
        self, Cause, Command, ExitRecord, LogRing, Orphan, RUN_MARK, RestartMode, RingBounds, Settings, SpoolBounds,
        State,
    },
    base::{Clock, Limits, RepoName},
    dialect::{Outcome, Source, ToolFinished},
    ledger::{Ledger, Shelf},
    worker::{Lane, Workers},
};

/// How often it is looked whether a process of an earlier Gitstead is gone.
const LOOK: Duration = Duration::from_millis(50);

/// Events that are read at a time.
const PAGE: usize = 1_000;
/// Calls that one agent can have open, as far as they are remembered.
const OPEN: usize = 1_000;

/// How often room is made for one agent.
const TRIES: usize = 16;

/// How long whoever starts a new agent waits to be told that it runs.
const SPAWNED: Duration = Duration::from_secs(10);

/// What agents are run with.
pub struct Context {
    /// What outlives a restart.
    pub ledger: Ledger,
    /// The threads that do the work.
    pub workers: Workers,
    /// Bounds.
    pub limits: Limits,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// Where workspaces are.
    pub workspaces: Arc<dyn Workspaces>,
    /// Where output is kept.
    pub logs: PathBuf,
    /// Where exits are recorded.
    pub runs: PathBuf,
    /// What holds agents in.
    pub fences: Fences,
    /// How long questions for permission wait for an answer where an agent does not say; zero for ever.
    pub answer_within: Duration,
    /// What all agents are allowed or denied without asking anybody.
    pub permissions: Vec<PermissionRule>,
    /// Where decisions and questions are noted.
    pub audit: Audit,
}

/// All agents of a house. A clone is another handle to the same ones.
#[derive(Clone)]
pub struct Agents {
    inner: Arc<Inner>,
}

pub(super) struct Inner {
    context: Context,
    agents: RwLock<BTreeMap<AgentName, Arc<Entry>>>,
    /// Held while the list changes, so that names are given once.
    changing: Mutex<()>,
    /// Held while it is looked whether one may run, and it begins to.
    starting: tokio::sync::Mutex<()>,
    /// Who needs agents that have ended.
    needed: OnceLock<Needed>,
    closing: AtomicBool,
    tally: Arc<Tally>,
    /// What was weighed last, and when.
    weighed: Mutex<Option<(Instant, Weighed)>>,
}

impl std::fmt::Debug for Agents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Agents").finish_non_exhaustive()
    }
}

impl Agents {
    /// Those that the ledger knows. What ran when an earlier Gitstead ended is looked after: it is waited for, or ended, and what became of it is told. Blocks, and
    /// must be called within a runtime.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub fn open(context: Context) -> Result<Self, SessionError> {
        let known: Vec<(String, AgentRecord)> = context.ledger.all(Shelf::Agents)?;
        if let Err(error) = std::fs::create_dir_all(&context.runs) {
            tracing::error!(%error, path = %context.runs.display(), "exits of agents cannot be recorded");
        }
        let agents = Agents {
            inner: Arc::new(Inner {
                context,
                agents: RwLock::default(),
                changing: Mutex::default(),
                starting: tokio::sync::Mutex::default(),
                needed: OnceLock::new(),
                closing: AtomicBool::new(false),
                tally: Arc::default(),
                weighed: Mutex::default(),
            }),
        };
        agents.sweep_left(&known);
        for (key, record) in known {
            if record.version != AgentRecord::VERSION || record.name.as_str() != key {
                tracing::error!(agent = key, "an agent of the ledger is not understood, and left alone");
                continue;
            }
            let before = record.state;
            // It was stopped because the house was closed, and for no other reason.
            let closed = before == State::Stopped && record.cause == Some(Cause::Shutdown);
            let goes_on = closed && record.spec.restart.mode == RestartMode::Always;
            let entry = match agents.entry(record, true) {
                Ok(entry) => entry,
                Err(error) => {
                    tracing::error!(agent = key, %error, "an agent of the ledger cannot be taken up");
                    continue;
                }
            };
            let name = entry.record().name;
            agents.write().insert(name, Arc::clone(&entry));
            let agents = agents.clone();
            if before != State::Created && !before.is_over() {
                tokio::spawn(async move { agents.take_up(&entry).await });
            } else if goes_on {
                tokio::spawn(async move {
                    if let Err(error) = agents.start(&entry).await {
                        tracing::error!(agent = key, %error, "an agent that always runs is not started");
                    }
                });
            }
        }
        agents.forget_in_time();
        Ok(agents)
    }

    /// Puts together what an agent needs.
    fn entry(&self, mut record: AgentRecord, known: bool) -> Result<Arc<Entry>, SessionError> {
        let context = &self.inner.context;
        let place = record.spec.place()?;
        record.spec.kind()?;
        let spec = Arc::new(record.spec.clone());
        let name = record.name.clone();
        let logs = context.logs.join(name.as_str());
        let (state, runs, seed) = (record.state, record.run, record.created);
        let orphan = (state != State::Created && !state.is_over()).then(|| Orphan {
            parent: record.parent,
            run: record.run_name(record.run),
            cgroup: context
                .fences
                .cgroups
                .as_ref()
                .map(|all| all.of(&record.run_name(record.run))),
        });
        if orphan.is_some() {
            // Nothing that an earlier Gitstead has started is claimed to run still.
            (record.state, record.pid) = (State::Stopping, None);
        }
        let now = context.clock.millis();
        let ends = record
            .ends
            .iter()
            .map(|at| Duration::from_millis(now.saturating_sub(*at)));
        let ends = ends.collect();
        let veil = Arc::new(Veil::default());
        let events = Arc::new(EventLog::new(
            context.ledger.clone(),
            name.as_str(),
            Arc::clone(&context.clock),
            Arc::clone(&veil),
            Arc::clone(&self.inner.tally),
            known,
        ));
        let shared = Arc::new(Shared {
            record: Mutex::new(record),
            forgotten: AtomicBool::new(false),
            spec: Arc::clone(&spec),
            events: Arc::clone(&events),
            ledger: context.ledger.clone(),
            clock: Arc::clone(&context.clock),
            veil,
            audit: context.audit.clone(),
            questions: Mutex::default(),
            answer: Mutex::default(),
            cut_off: Mutex::default(),
        });
        let (of_made, of_session) = (Arc::clone(&shared), Arc::clone(&shared));
        let trail = Trail::start(trail::Desk {
            name,
            place: place.clone(),
            spec: Arc::clone(&spec),
            workers: context.workers.clone(),
            workspaces: Arc::clone(&context.workspaces),
            events,
            made: Box::new(move |commit| {
                of_made.change(|record| {
                    record.checkpoint = Some(commit.to_owned());
                    record.checkpoints += 1;
                });
            }),
            seen: Mutex::default(),
            session: Box::new(move || of_session.record().session.clone()),
        });
        let checkpoints = trail.queue();
        let host = Desk {
            shared: Arc::clone(&shared),
            place,
            trail,
            workers: context.workers.clone(),
            limits: context.limits.clone(),
            workspaces: Arc::clone(&context.workspaces),
            runs: context.runs.clone(),
            logs: logs.clone(),
            fences: context.fences.clone(),
            answer_within: spec.answer_within.unwrap_or(context.answer_within),
            policy: Policy::new(&context.permissions, &spec.permissions),
            pace: super::permits::Pace::default(),
            asked_for: None,
            agent: None,
            turn: 0,
            began: BTreeMap::new(),
            first_line: None,
            tells_turns: spec.nature().tells_turns,
            late: Vec::new(),
            orders: None,
            starved: false,
            pieces: super::pieces::Pieces::default(),
        };
        let settings = Settings {
            rules: spec.rules(),
            spool: logs.clone(),
            spool_bounds: SpoolBounds::of(&context.limits),
            line_bytes: context.limits.agent_line_bytes,
            log: Arc::new(LogRing::new(RingBounds::default(), context.clock.now())),
            meter: Arc::clone(&self.inner.tally.meter),
            state,
            orphan,
            ends,
            runs,
            seed,
            clock: Arc::clone(&context.clock),
        };
        let agent = agent::drive(settings, host);
        Ok(Arc::new(Entry {
            shared,
            agent,
            logs,
            checkpoints,
        }))
    }

    /// Finds out what became of an agent that ran when an earlier Gitstead ended.
    async fn take_up(&self, entry: &Entry) {
        let record = entry.record();
        let deadline = Instant::now() + record.spec.rules().ladder.orphaned().total();
        // Its parent process has seen that Gitstead is gone, and stops it.
        if let Some((pid, started)) = record.parent {
            while agent::is_alive(pid, started) && Instant::now() < deadline {
                tokio::time::sleep(LOOK).await;
            }
        }
        let mark = format!("{RUN_MARK}={}", record.run_name(record.run));
        let path = self.inner.context.runs.join(format!("{}.exit", record.name));
        let run = record.run_name(record.run);
        let cgroup = self.inner.context.fences.cgroups.as_ref().map(|all| all.of(&run));
        let found = self
            .inner
            .context
            .workers
            .call(Lane::Short, None, move || {
                // Whoever is still there has nobody to look after him.
                let killed = agent::hunt_down(&mark, cgroup.as_deref());
                let read = std::fs::read(&path).ok();
                let exit: Option<ExitRecord> = read.and_then(|json| serde_json::from_slice(&json).ok());
                (exit.filter(|exit| exit.run == run), killed)
            })
            .await;
        let (exit, killed) = found.unwrap_or((None, 0));
        if let Some(cut_off) = self.cut_off(entry).await {
            *entry.shared.cut_off() = Some(cut_off);
        }
        entry.agent.send(Command::Adopted(exit.map(Box::new), killed)).await;
    }

    /// The calls that were open when an earlier Gitstead ended, as one that was interrupted, and their turn.
    async fn cut_off(&self, entry: &Entry) -> Option<(ToolFinished, u64)> {
        let mut open: Vec<(ToolFinished, u64)> = Vec::new();
        // What was before its last start is of other runs.
        let mut after = entry.record().began_with;
        loop {
            let page = self.events_after(entry, after, PAGE).await.ok()?;
            if page.events.is_empty() {
                break;
            }
            after = page.cursor;
            for (_, event) in &page.events {
                let event: Value = serde_json::from_str(event).unwrap_or_default();
                let text = |key: &str| event[key].as_str().unwrap_or_default().to_owned();
                let call = text("call");
                match event["type"].as_str() {
                    Some("started") => open.clear(),
                    Some("tool_started") if open.len() < OPEN => {
                        let tool = ToolFinished {
                            call,
                            tool: text("tool"),
                            summary: text("summary"),
                            parent: event["parent"].as_str().map(str::to_owned),
                            outcome: Outcome::Interrupted,
                            source: Source::End,
                            ..ToolFinished::default()
                        };
                        open.push((tool, event["turn"].as_u64().unwrap_or_default()));
                    }
                    // One that goes on in the background ends twice.
                    Some("tool_finished") if event["outcome"] != "background-started" => {
                        let with = event["with"].as_array().into_iter().flatten();
                        let ended: Vec<_> = with.filter_map(Value::as_str).collect();
                        open.retain(|(one, _)| one.call != call && !ended.contains(&one.call.as_str()));
                    }
                    _ => {}
                }
            }
        }
        let mut open = open.into_iter();
        let (mut first, turn) = open.next()?;
        first.with = open.map(|(tool, _)| tool.call).collect();
        Some((first, turn))
    }

    /// Makes an agent; it does not run yet. Without a name it is called after its program. When this returns, the ledger has it on disk.
    ///
    /// # Errors
    /// When the description is wrong, the name is taken, or there are too many.
    pub async fn create(
        &self,
        name: Option<AgentName>,
        spec: AgentSpec,
        owner: Option<String>,
    ) -> Result<Arc<Entry>, SessionError> {
        let source = match &spec.preset {
            Some(preset) => format!("preset:{preset}"),
            None => "api".to_owned(),
        };
        self.make(name, spec, owner, None, source).await
    }

    /// As [`create`](Self::create), for a session of an ask desk; `source` is what it is described by.
    pub(super) async fn create_for(
        &self,
        session: &str,
        source: String,
        name: AgentName,
        spec: AgentSpec,
        owner: String,
    ) -> Result<Arc<Entry>, SessionError> {
        self.make(Some(name), spec, Some(owner), Some(session.to_owned()), source)
            .await
    }

    async fn make(
        &self,
        name: Option<AgentName>,
        mut spec: AgentSpec,
        owner: Option<String>,
        desk: Option<String>,
        source: String,
    ) -> Result<Arc<Entry>, SessionError> {
        spec.check()?;
        spec.trace = spec.trace.or_else(super::trace::new_id);
        self.inner.context.fences.check(&spec)?;
        if self.inner.closing.load(Ordering::Relaxed) {
            return Err(SessionError::Closing);
        }
        let mut tries = 0;
        let entry = loop {
            match self.add(name.clone(), &spec, &owner, (&desk, &source)) {
                // Others may take what room there is.
                Err(SessionError::TooMany { .. }) if tries < TRIES && self.make_room().await => tries += 1,
                added => break added?,
            }
        };
        let ledger = self.inner.context.ledger.clone();
        self.inner
            .context
            .workers
            .call(Lane::Short, None, move || ledger.flush())
            .await??;
        Ok(entry)
    }

    /// Makes an agent and lets it run. One that cannot be started at all is not there afterwards.
    ///
    /// # Errors
    /// As [`create`](Self::create), and when it cannot be started.
    pub async fn launch(
        &self,
        name: Option<AgentName>,
        spec: AgentSpec,
        owner: Option<String>,
    ) -> Result<Arc<Entry>, SessionError> {
        let entry = self.create(name, spec, owner).await?;
        if let Err(refused) = self.start(&entry).await {
            if let Err(error) = self.forget(&entry).await {
                tracing::warn!(agent = %entry.record().name, %error, "an agent that may not run is still there");
            }
            return Err(refused);
        }
        let soon = Instant::now() + SPAWNED;
        let status = entry
            .wait(soon, |status| status.pid.is_some() || status.state != State::Starting)
            .await;
        match status.failure {
            Some(failure) if status.state == State::Failed && status.run == 1 => {
                if let Err(error) = self.forget(&entry).await {
                    tracing::warn!(agent = %entry.record().name, %error, "an agent that was never started is still there");
                }
                Err(SessionError::NotStarted(failure))
            }
            _ => Ok(entry),
        }
    }

    fn add(
        &self,
        name: Option<AgentName>,
        spec: &AgentSpec,
        owner: &Option<String>,
        (desk, source): (&Option<String>, &str),
    ) -> Result<Arc<Entry>, SessionError> {
        let _one_at_a_time = self.changing();
        self.check_user(owner.as_deref(), None)?;
        let most = self.inner.context.limits.agents;
        let name = {
            let agents = self.read();
            if agents.len() >= most {
                return Err(SessionError::TooMany { most });
            }
            match name {
                Some(name) if agents.contains_key(&name) => return Err(SessionError::Exists { name }),
                Some(name) => name,
                None => free_name(&spec.program(), |name| agents.contains_key(name)),
            }
        };
        let now = self.inner.context.clock.millis();
        let mut record = AgentRecord::new(name.clone(), spec.clone(), owner.clone(), now);
        (record.desk, record.source) = (desk.clone(), Some(source.to_owned()));
        let entry = self.entry(record, false)?;
        entry.shared.change(|_| ());
        let record = entry.record();
        entry.shared.events.push(
            "created",
            json!({ "repository": record.spec.repository, "workspace": record.spec.workspace, "dialect": record.spec.kind()?.as_str() }),
        );
        self.write().insert(name, Arc::clone(&entry));
        Ok(entry)
    }

    /// Lets an agent run, unless it does.
    ///
    /// # Errors
    /// When Gitstead is closing, the agent is forgotten, or as many run as may, of all or of its user.
    pub async fn start(&self, entry: &Entry) -> Result<(), SessionError> {
        if self.inner.closing.load(Ordering::Relaxed) {
            return Err(SessionError::Closing);
        }
        if entry.state() == State::Stopping {
            let name = entry.record().name;
            return Err(SessionError::Stopping { name });
        }
        let _one_at_a_time = self.inner.starting.lock().await;
        if self.inner.closing.load(Ordering::Relaxed) {
            return Err(SessionError::Closing);
        }
        if entry.state() == State::Created || entry.state().is_over() {
            self.check_running()?;
            let record = entry.record();
            self.check_user(record.owner.as_deref(), Some(&record.name))?;
        }
        // Whoever asks what it is after this is told that it starts.
        match entry.agent.start().await {
            true => Ok(()),
            false => Err(SessionError::NotFound {
                name: entry.record().name.to_string(),
            }),
        }
    }

    /// Has it begin anew: one that runs is stopped first, one that does not is started.
    ///
    /// # Errors
    /// When the house is closing, or it is being stopped for another reason.
    pub async fn restart(&self, entry: &Entry) -> Result<(), SessionError> {
        let status = entry.agent.status();
        match status.state {
            state if state.is_over() || state == State::Created => self.start(entry).await,
            State::Stopping if status.cause != Some(Cause::Restart) => {
                let name = entry.record().name;
                Err(SessionError::Stopping { name })
            }
            _ if self.inner.closing.load(Ordering::Relaxed) => Err(SessionError::Closing),
            _ => {
                entry.agent.send(Command::Stop(Cause::Restart)).await;
                let soon = Instant::now() + Duration::from_secs(1);
                let run = status.run;
                entry
                    .wait(soon, |status| status.state == State::Stopping || status.run > run)
                    .await;
                Ok(())
            }
        }
    }

    /// The agent of that name.
    ///
    /// # Errors
    /// When there is none.
    pub fn get(&self, name: &str) -> Result<Arc<Entry>, SessionError> {
        let missing = || SessionError::NotFound {
            name: name.chars().filter(|c| !c.is_control()).take(80).collect(),
        };
        let parsed = AgentName::parse(name).map_err(|_| missing())?;
        self.read().get(&parsed).cloned().ok_or_else(missing)
    }

    /// Up to `most` events of an agent after number `after`, from memory or from the ledger.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub async fn events_after(&self, entry: &Entry, after: u64, most: usize) -> Result<EventPage, SessionError> {
        if let Some(page) = entry.events().recent(after, most) {
            return Ok(page);
        }
        let events = Arc::clone(entry.events());
        let read = self
            .inner
            .context
            .workers
            .call(Lane::Short, None, move || events.read(after, most))
            .await?;
        Ok(read?)
    }

    /// Tells the agents that work in a workspace that its files are others now: somebody has pushed.
    pub fn push_applied(&self, repository: &RepoName, workspace: &str, data: &Value) {
        let works_there = |entry: &&Arc<Entry>| {
            let spec = &entry.shared.spec;
            spec.repository == repository.canonical() && spec.workspace == workspace && !entry.state().is_over()
        };
        for entry in self.list().iter().filter(works_there) {
            entry.events().push("push_applied", data.clone());
        }
    }

    /// Whether what becomes of them is on the disk, or soon will be.
    pub fn are_kept(&self) -> bool {
        !self.inner.context.ledger.is_stuck()
    }

    pub(super) fn weighed(&self) -> &Mutex<Option<(Instant, Weighed)>> {
        &self.inner.weighed
    }

    /// Counts lines of output that somebody who follows was too slow for.
    pub fn count_missed(&self, lines: u64) {
        self.inner.tally.add_missed(lines);
    }

    pub(super) fn tally(&self) -> &Tally {
        &self.inner.tally
    }

    pub(super) fn context(&self) -> &Context {
        &self.inner.context
    }

    /// Milliseconds since 1970.
    pub(super) fn now(&self) -> u64 {
        self.inner.context.clock.millis()
    }

    /// What others of this room work with.
    pub(super) fn tools(&self) -> (Ledger, Workers) {
        (self.inner.context.ledger.clone(), self.inner.context.workers.clone())
    }

    pub(super) fn any(&self, is: impl FnMut(&Arc<Entry>) -> bool) -> bool {
        self.read().values().any(is)
    }

    /// All of them, in the order of their names.
    pub fn list(&self) -> Vec<Arc<Entry>> {
        self.read().values().cloned().collect()
    }

    /// Forgets an agent that does not run, its output and its events. Its checkpoints stay.
    ///
    /// # Errors
    /// When it runs, or there is none.
    pub async fn remove(&self, name: &str) -> Result<(), SessionError> {
        let entry = self.get(name)?;
        self.forget_whole(entry).await
    }

    pub(super) async fn forget_whole(&self, entry: Arc<Entry>) -> Result<(), SessionError> {
        let agents = self.clone();
        // Also when nobody waits for it any more: half forgotten it would be of use to nobody.
        let removed = tokio::spawn(async move { agents.forget(&entry).await });
        removed.await.unwrap_or(Err(SessionError::Closing))
    }

    /// Whom to ask whether an agent that has ended is needed. The first one who says so is asked.
    pub(super) fn ask_before_forgetting(&self, needed: Needed) {
        let _ = self.inner.needed.set(needed);
    }

    pub(super) fn is_needed(&self, name: &AgentName, created: u64) -> bool {
        self.inner.needed.get().is_some_and(|needed| needed(name, created))
    }

    pub(super) fn weak(&self) -> Weak<Inner> {
        Arc::downgrade(&self.inner)
    }

    pub(super) fn of_weak(house: &Weak<Inner>) -> Option<Self> {
        house.upgrade().map(|inner| Agents { inner })
    }

    async fn forget(&self, entry: &Entry) -> Result<(), SessionError> {
        let name = entry.record().name;
        match entry.agent.forget().await {
            Ok(()) => {}
            Err(Some(state)) => return Err(SessionError::Running { name, state }),
            Err(None) => return Err(SessionError::NotFound { name: name.to_string() }),
        }
        entry.shared.forget();
        let ledger = self.inner.context.ledger.clone();
        let (cgroups, stamp) = (self.inner.context.fences.cgroups.clone(), entry.record().stamp());
        let of = name.clone();
        let (logs, exit) = (entry.logs.clone(), self.inner.context.runs.join(format!("{name}.exit")));
        let temporary = self.inner.context.runs.join(format!("{name}.tmp"));
        ledger.remove(Shelf::Agents, name.as_str());
        ledger.remove_journal(name.as_str());
        let removed = self
            .inner
            .context
            .workers
            .call(Lane::Short, None, move || {
                // Nobody would know whose it is any more.
                let is_of = |run: &str| run_of(run).is_some_and(|(name, at, _)| name == of.as_str() && at == stamp);
                agent::sweep_left(cgroups.as_ref(), is_of);
                let _ = std::fs::remove_file(exit);
                let _ = std::fs::remove_dir_all(temporary);
                if let Err(error) = std::fs::remove_dir_all(&logs)
                    && error.kind() != std::io::ErrorKind::NotFound
                {
                    tracing::warn!(path = %logs.display(), %error, "the output of an agent is not removed");
                }
                ledger.flush()
            })
            .await;
        // Last: whoever takes the name next begins with nothing.
        self.write().remove(&name);
        Ok(removed??)
    }

    /// Nothing is started any more from now on. What is being started at this moment is known to run when this returns.
    pub(super) async fn start_no_more(&self) {
        self.inner.closing.store(true, Ordering::Relaxed);
        drop(self.inner.starting.lock().await);
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, BTreeMap<AgentName, Arc<Entry>>> {
        self.inner.agents.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, BTreeMap<AgentName, Arc<Entry>>> {
        self.inner.agents.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn changing(&self) -> MutexGuard<'_, ()> {
        self.inner.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A name that is free, made from that of a program: `sh-1`.
fn free_name(program: &str, taken: impl Fn(&AgentName) -> bool) -> AgentName {
    let stem: String = program
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'))
        .skip_while(|c| !c.is_ascii_alphanumeric())
        .take(40)
        .collect();
    let stem = if stem.is_empty() { "agent" } else { &stem };
    (1u64..)
        .filter_map(|n| AgentName::parse(&format!("{stem}-{n}")).ok())
        .find(|name| !taken(name))
        .expect("there are more numbers than agents")
}
