//! Sessions that somebody asks questions in: each is an agent of its own in one workspace, started with the first question and let go when nobody asks any more.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    fs, io,
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{AgentName, AgentSpec, Agents, Cause, Entry, SessionError, State};
use crate::{
    agent::NotTaken,
    base::Fault,
    ledger::{Ledger, Shelf},
    worker::{Lane, Workers},
};

/// Characters of a question.
pub const QUESTION: usize = 10_000;
/// Users whose questions are counted at a time.
const USERS: usize = 10_000;
/// Sessions that nobody has asked anything in yet, of one user.
const UNUSED: usize = 1_000;
/// Bytes of the audit file before it is put aside.
const AUDIT_BYTES: u64 = 16 << 20;
/// Entries of a history that one answer has.
const HISTORY: usize = 1_000;

/// What is asked, and how often.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AskRules {
    /// The agent that answers.
    pub spec: AgentSpec,
    /// Questions of one user in [`rate_window`](Self::rate_window).
    pub rate_max: usize,
    /// See [`rate_max`](Self::rate_max).
    pub rate_window: Duration,
    /// Questions of one user at a time.
    pub per_user: usize,
    /// Questions of all users at a time.
    pub total: usize,
    /// How long an answer may take.
    pub deadline: Duration,
    /// How long an agent stays for whom there is no question.
    pub idle: Duration,
    /// Where every question is noted, a JSON value a line; nowhere without it.
    pub audit: Option<PathBuf>,
}

impl AskRules {
    /// Sixty questions an hour, one at a time, to this agent.
    pub fn new(spec: AgentSpec) -> Self {
        AskRules {
            spec,
            rate_max: 60,
            rate_window: Duration::from_secs(3_600),
            per_user: 1,
            total: 8,
            deadline: Duration::from_secs(600),
            idle: Duration::from_secs(900),
            audit: None,
        }
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AskError {
    /// It is no session, or somebody else's.
    #[error("no such session")]
    NoSession,
    /// So many questions in so short a time.
    #[error("Rate limit exceeded; retry in {retry_after}s")]
    RateLimited {
        /// Seconds.
        retry_after: u64,
    },
    /// One at a time.
    #[error("A previous question is still being processed")]
    Busy,
    /// Others ask.
    #[error("too many questions are being processed")]
    Full,
    /// The agent has failed.
    #[error("{text}")]
    Failed {
        /// What it said.
        text: String,
    },
    /// It took too long.
    #[error("no answer in time")]
    TimedOut,
    /// It could not be asked.
    #[error(transparent)]
    Session(#[from] SessionError),
}

impl AskError {
    /// Whose move it is.
    pub fn fault(&self) -> Fault {
        match self {
            AskError::NoSession => Fault::NotFound,
            AskError::RateLimited { .. } | AskError::Busy | AskError::Full | AskError::TimedOut => Fault::Busy,
            AskError::Failed { .. } => Fault::Ours,
            AskError::Session(error) => error.fault(),
        }
    }
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Answered {
    /// What the agent said at last.
    pub result: String,
    /// In which session.
    pub session_id: String,
    /// From the question to the answer.
    pub duration_ms: u64,
    /// Calls of the model.
    pub num_turns: u64,
    /// Whether it says that it could not.
    pub is_error: bool,
}

/// Something that was said in a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HistoryEntry {
    /// `user` or `assistant`.
    pub role: &'static str,
    /// What.
    pub text: String,
    /// When, as RFC 3339 has it, in milliseconds since 1970.
    #[serde(skip)]
    pub at_ms: u64,
}

/// What the ledger knows of a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct SessionRecord {
    version: u32,
    owner: String,
    agent: Option<AgentName>,
    created: u64,
}

/// Where questions are asked.
#[derive(Clone)]
pub struct AskDesk {
    inner: Arc<Inner>,
}

struct Inner {
    rules: AskRules,
    agents: Agents,
    ledger: Ledger,
    workers: Workers,
    state: Mutex<Book>,
}

#[derive(Default)]
struct Book {
    sessions: HashMap<String, SessionRecord>,
    users: HashMap<String, Usage>,
    running: usize,
    /// Sessions with a question, and when each was last asked something.
    busy: HashSet<String>,
    asked: HashMap<String, Instant>,
}

#[derive(Default)]
struct Usage {
    times: VecDeque<Instant>,
    running: usize,
}

impl std::fmt::Debug for AskDesk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AskDesk").finish_non_exhaustive()
    }
}

/// The right to ask one question. Given back on drop.
struct Ticket {
    inner: Arc<Inner>,
    user: String,
    session: String,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut book = self.inner.book();
        book.running = book.running.saturating_sub(1);
        book.busy.remove(&self.session);
        if let Some(usage) = book.users.get_mut(&self.user) {
            usage.running = usage.running.saturating_sub(1);
        }
    }
}

/// Stops what an agent does for somebody who has left.
struct Abandoned(Option<Arc<Entry>>);

impl Drop for Abandoned {
    fn drop(&mut self) {
        if let Some(entry) = self.0.take() {
            tokio::spawn(async move { entry.interrupt().await });
        }
    }
}

impl Inner {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Both bounds are looked at before either is spent.
    fn admit(self: &Arc<Self>, user: &str, session: &str) -> Result<Ticket, AskError> {
        let now = Instant::now();
        let rules = &self.rules;
        let mut book = self.book();
        if book.users.len() >= USERS && !book.users.contains_key(user) {
            let window = rules.rate_window;
            book.users.retain(|_, usage| {
                usage.running > 0
                    || usage
                        .times
                        .back()
                        .is_some_and(|last| now.duration_since(*last) < window)
            });
            if book.users.len() >= USERS {
                return Err(AskError::Full);
            }
        }
        if book.busy.contains(session) {
            return Err(AskError::Busy);
        }
        let full = book.running >= rules.total;
        let usage = book.users.entry(user.to_owned()).or_default();
        while usage
            .times
            .front()
            .is_some_and(|first| now.duration_since(*first) >= rules.rate_window)
        {
            usage.times.pop_front();
        }
        if usage.times.len() >= rules.rate_max
            && let Some(first) = usage.times.front()
        {
            let left = rules.rate_window.saturating_sub(now.duration_since(*first));
            return Err(AskError::RateLimited {
                retry_after: left.as_secs() + 1,
            });
        }
        if usage.running >= rules.per_user {
            return Err(AskError::Busy);
        }
        if full {
            return Err(AskError::Full);
        }
        usage.times.push_back(now);
        usage.running += 1;
        book.running += 1;
        book.busy.insert(session.to_owned());
        book.asked.insert(session.to_owned(), now);
        Ok(Ticket {
            inner: Arc::clone(self),
            user: user.to_owned(),
            session: session.to_owned(),
        })
    }

    fn keep(&self, id: &str, record: &SessionRecord) {
        if let Err(error) = self.ledger.put(Shelf::Sessions, id, record) {
            tracing::error!(session = id, %error, "a session is not in the ledger");
        }
    }

    /// Notes something in the audit file. What cannot be noted is told in the log, and holds up nobody.
    async fn note(&self, event: &str, mut data: Value) {
        let Some(path) = self.rules.audit.clone() else { return };
        data["event"] = json!(event);
        data["timestamp_ms"] = json!(self.agents.now());
        let written = self.workers.call(Lane::Short, None, move || append(&path, &data)).await;
        if let Ok(Err(error)) = written {
            tracing::warn!(%error, "a question is not in the audit file");
        }
    }
}

fn append(path: &Path, data: &Value) -> io::Result<()> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    if fs::metadata(path).is_ok_and(|found| found.len() >= AUDIT_BYTES) {
        fs::rename(path, path.with_extension("1.jsonl"))?;
    }
    let mut file = fs::OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(format!("{data}\n").as_bytes())
}

/// Whether a text is a UUID as it is written: 36 characters, lower case.
fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, b)| match at {
            8 | 13 | 18 | 23 => b == b'-',
            _ => b.is_ascii_digit() || (b'a'..=b'f').contains(&b),
        })
}

fn new_uuid() -> Result<String, SessionError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| SessionError::Invalid {
        why: format!("the system has no randomness: {error}"),
    })?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok([&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-"))
}

fn beginning(text: &str, chars: usize) -> String {
    text.chars().take(chars).collect()
}

impl AskDesk {
    /// The sessions that the ledger knows. Blocks.
    ///
    /// # Errors
    /// When the agent that answers is described wrongly, or the ledger cannot be read.
    pub fn open(rules: AskRules, agents: Agents) -> Result<Self, SessionError> {
        rules.spec.check()?;
        let (ledger, workers) = agents.tools();
        let known: Vec<(String, SessionRecord)> = ledger.all(Shelf::Sessions)?;
        let sessions = known.into_iter().filter(|(_, record)| record.version == 1).collect();
        Ok(AskDesk {
            inner: Arc::new(Inner {
                rules,
                agents,
                ledger,
                workers,
                state: Mutex::new(Book {
                    sessions,
                    ..Book::default()
                }),
            }),
        })
    }

    /// The agent that answers.
    pub fn spec(&self) -> &AgentSpec {
        &self.inner.rules.spec
    }

    /// Whether a text can be the name of a session.
    pub fn is_session_id(text: &str) -> bool {
        is_uuid(text)
    }

    /// A new session of this user's.
    ///
    /// # Errors
    /// When there are too many that were never used.
    pub fn new_session(&self, user: &str) -> Result<String, AskError> {
        let id = new_uuid()?;
        let record = SessionRecord {
            version: 1,
            owner: user.to_owned(),
            agent: None,
            created: self.inner.agents.now(),
        };
        let mut book = self.inner.book();
        let unused = book
            .sessions
            .values()
            .filter(|one| one.owner == user && one.agent.is_none());
        if unused.count() >= UNUSED {
            return Err(AskError::Full);
        }
        book.sessions.insert(id.clone(), record.clone());
        drop(book);
        self.inner.keep(&id, &record);
        Ok(id)
    }

    fn session(&self, user: &str, id: &str) -> Result<SessionRecord, AskError> {
        let book = self.inner.book();
        book.sessions
            .get(id)
            .filter(|record| record.owner == user)
            .cloned()
            .ok_or(AskError::NoSession)
    }

    /// Asks, and waits for the answer. Dropped, what the agent does is interrupted.
    ///
    /// # Errors
    /// See [`AskError`].
    pub async fn ask(&self, user: &str, id: &str, message: String) -> Result<Answered, AskError> {
        let inner = &self.inner;
        let record = self.session(user, id)?;
        let ticket = match inner.admit(user, id) {
            Ok(ticket) => ticket,
            Err(error) => {
                let event = match error {
                    AskError::RateLimited { .. } => "rate_limited",
                    _ => "concurrency_blocked",
                };
                inner
                    .note(
                        event,
                        json!({ "user": user, "session_id": id, "error": error.to_string() }),
                    )
                    .await;
                return Err(error);
            }
        };
        let started = Instant::now();
        let (preview, length) = (beginning(&message, 500), message.chars().count());
        inner
            .note(
                "ask_start",
                json!({ "user": user, "session_id": id, "message": preview, "message_len": length }),
            )
            .await;
        let result = match tokio::time::timeout(inner.rules.deadline, self.turn(id, record, user, message)).await {
            Ok(result) => result,
            Err(_) => Err(AskError::TimedOut),
        };
        drop(ticket);
        self.let_go_later(id);
        let elapsed = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        match result {
            Ok(mut answered) => {
                answered.duration_ms = elapsed;
                let preview = beginning(&answered.result, 300);
                inner
                    .note(
                        "ask_ok",
                        json!({
                            "user": user, "session_id": id, "result_preview": preview, "result_len": answered.result.chars().count(),
                            "turns": answered.num_turns, "elapsed_ms": elapsed, "is_error": answered.is_error,
                        }),
                    )
                    .await;
                Ok(answered)
            }
            Err(error) => {
                let text = beginning(&error.to_string(), 500);
                inner
                    .note(
                        "ask_error",
                        json!({ "user": user, "session_id": id, "error": text, "elapsed_ms": elapsed }),
                    )
                    .await;
                Err(error)
            }
        }
    }

    /// The agent of a session, running and ready.
    async fn agent(&self, id: &str, mut record: SessionRecord) -> Result<Arc<Entry>, AskError> {
        let inner = &self.inner;
        let known = record
            .agent
            .as_ref()
            .and_then(|name| inner.agents.get(name.as_str()).ok());
        let entry = match known {
            Some(entry) => entry,
            None => {
                let name = AgentName::parse(&format!("ask-{}", &id[..13]))
                    .map_err(|error| SessionError::Invalid { why: error.to_string() })?;
                let entry = self.new_agent(&name, &record.owner).await?;
                record.agent = Some(name);
                inner.book().sessions.insert(id.to_owned(), record.clone());
                inner.keep(id, &record);
                entry
            }
        };
        let deadline = Instant::now() + inner.rules.deadline;
        if entry.state() == State::Stopping {
            // What a server before this one has left is still being ended.
            entry.wait(deadline, |status| status.state.is_over()).await;
        }
        if entry.state() == State::Created || entry.state().is_over() {
            inner.agents.start(&entry).await?;
        }
        let status = entry
            .wait(deadline, |status| status.state.is_up() || status.state.is_over())
            .await;
        match status.failure {
            Some(failure) if status.state.is_over() => Err(AskError::Failed { text: failure.text }),
            _ if status.state.is_up() => Ok(entry),
            _ => Err(AskError::Failed {
                text: "the agent has ended before it could be asked".to_owned(),
            }),
        }
    }

    /// An agent of that name for a session of this user's.
    async fn new_agent(&self, name: &AgentName, owner: &str) -> Result<Arc<Entry>, AskError> {
        let inner = &self.inner;
        loop {
            let spec = inner.rules.spec.clone();
            let made = inner
                .agents
                .create(Some(name.clone()), spec, Some(owner.to_owned()))
                .await;
            match made {
                // An earlier server was killed before it had noted whose that is.
                Err(error @ SessionError::Exists { .. }) => {
                    let known = inner.agents.get(name.as_str())?;
                    return match known.record().owner.as_deref() == Some(owner) {
                        true => Ok(known),
                        false => Err(error.into()),
                    };
                }
                Err(error @ SessionError::TooMany { .. }) => {
                    if !self.make_room().await {
                        return Err(error.into());
                    }
                }
                other => return Ok(other?),
            }
        }
    }

    /// Forgets the agent whose session nobody has asked anything for the longest time, if it has ended; what was said there is forgotten with it. Says whether there was one.
    async fn make_room(&self) -> bool {
        let inner = &self.inner;
        let of_sessions: Vec<(String, AgentName)> = {
            let book = inner.book();
            let agents = book.sessions.iter().filter(|(id, _)| !book.busy.contains(*id));
            agents
                .filter_map(|(id, record)| Some((id.clone(), record.agent.clone()?)))
                .collect()
        };
        let oldest = of_sessions
            .into_iter()
            .filter_map(|(id, name)| Some((inner.agents.get(name.as_str()).ok()?.record(), id)))
            .filter(|(record, _)| record.state.is_over())
            .min_by_key(|(record, _)| record.ended);
        let Some((agent, id)) = oldest else { return false };
        if inner.agents.remove(agent.name.as_str()).await.is_err() {
            return false;
        }
        tracing::info!(agent = %agent.name, session = id, "forgotten, to make room for another session");
        let freed = inner.book().sessions.get_mut(&id).map(|record| {
            record.agent = None;
            record.clone()
        });
        if let Some(record) = freed {
            inner.keep(&id, &record);
        }
        true
    }

    async fn turn(&self, id: &str, record: SessionRecord, user: &str, message: String) -> Result<Answered, AskError> {
        let entry = self.agent(id, record).await?;
        let mut cursor = match entry.ask(message, Some(user)).await {
            Ok(seq) => seq,
            Err(SessionError::NotTaken(NotTaken::Refused(_) | NotTaken::Full)) => return Err(AskError::Busy),
            Err(error) => return Err(error.into()),
        };
        let mut abandoned = Abandoned(Some(Arc::clone(&entry)));
        let mut bell = entry.events().follow();
        let mut said = String::new();
        loop {
            bell.borrow_and_update();
            let page = self.inner.agents.events_after(&entry, cursor, 200).await?;
            cursor = page.cursor;
            let quiet = page.events.is_empty();
            for (_, text) in page.events {
                let event: Value = serde_json::from_str(&text).unwrap_or_default();
                match event["type"].as_str().unwrap_or_default() {
                    "said" if event["thought"] == false && event["parent"].is_null() => {
                        said = event["text"].as_str().unwrap_or_default().to_owned();
                    }
                    "turn_ended" => {
                        abandoned.0 = None;
                        if event["outcome"] != "completed" && !entry.is_there() {
                            return Err(AskError::Failed {
                                text: "the agent has ended without an answer".to_owned(),
                            });
                        }
                        let text = event["text"].as_str().map(str::to_owned);
                        return Ok(Answered {
                            result: text.unwrap_or(said),
                            session_id: id.to_owned(),
                            duration_ms: 0,
                            num_turns: event["usage"]["model_turns"].as_u64().unwrap_or(1),
                            is_error: event["outcome"] != "completed",
                        });
                    }
                    "stopped" | "exited" | "failed" | "lost" | "crash_looping" | "restarting" => {
                        abandoned.0 = None;
                        return Err(AskError::Failed {
                            text: "the agent has ended without an answer".to_owned(),
                        });
                    }
                    _ => {}
                }
            }
            if quiet && bell.changed().await.is_err() {
                return Err(AskError::Failed {
                    text: "the agent is gone".to_owned(),
                });
            }
        }
    }

    /// Stops the agent of a session when nobody has asked it anything for a while.
    fn let_go_later(&self, id: &str) {
        let inner = Arc::downgrade(&self.inner);
        let (idle, id) = (self.inner.rules.idle, id.to_owned());
        tokio::spawn(async move {
            tokio::time::sleep(idle).await;
            let Some(inner) = inner.upgrade() else { return };
            let name = {
                let mut book = inner.book();
                let quiet = book.asked.get(&id).is_none_or(|last| last.elapsed() >= idle);
                if !quiet || book.busy.contains(&id) {
                    return;
                }
                book.asked.remove(&id);
                book.sessions.get(&id).and_then(|record| record.agent.clone())
            };
            if let Some(entry) = name.and_then(|name| inner.agents.get(name.as_str()).ok()) {
                entry.stop(Cause::Asked).await;
            }
        });
    }

    /// What was said in a session, in order; the newest thousand entries.
    ///
    /// # Errors
    /// When it is not this user's.
    pub async fn history(&self, user: &str, id: &str) -> Result<Vec<HistoryEntry>, AskError> {
        let record = self.session(user, id)?;
        let Some(entry) = record.agent.and_then(|name| self.inner.agents.get(name.as_str()).ok()) else {
            return Ok(Vec::new());
        };
        let mut all = VecDeque::new();
        let mut cursor = 0;
        loop {
            let page = self.inner.agents.events_after(&entry, cursor, 500).await?;
            if page.events.is_empty() {
                return Ok(all.into());
            }
            cursor = page.cursor;
            for (_, text) in page.events {
                let event: Value = serde_json::from_str(&text).unwrap_or_default();
                let role = match event["type"].as_str() {
                    Some("asked") => "user",
                    Some("said") if event["thought"] == false && event["parent"].is_null() => "assistant",
                    _ => continue,
                };
                if all.len() == HISTORY {
                    all.pop_front();
                }
                all.push_back(HistoryEntry {
                    role,
                    text: event["text"].as_str().unwrap_or_default().to_owned(),
                    at_ms: event["at_ms"].as_u64().unwrap_or(0),
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_named_by_a_uuid_as_it_is_written() {
        let id = new_uuid().expect("randomness");
        assert!(is_uuid(&id), "{id}");
        assert_eq!(&id[14..15], "4");
        for text in [
            "",
            "x",
            "{0835c2b4-0000-4000-8000-000000000001}",
            "urn:uuid:0835c2b4-0000-4000-8000-000000000001",
            "0835c2b400004000800000000000000001",
            "0835C2B4-0000-4000-8000-000000000001",
            "../../../../../../../../etc/passwd00",
        ] {
            assert!(!is_uuid(text), "{text}");
        }
    }
}
