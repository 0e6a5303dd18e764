//! Sessions that somebody asks questions in: each is an agent of its own in one workspace, started with the first question and let go when nobody asks any more.

mod history;
mod limits;
mod ready;
mod sessions;
mod turn;

use std::{
    collections::HashMap,
    fmt::Write as _,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::task::AbortHandle;

use super::{AgentSpec, Agents, Cause, Entry, SessionError, env, tally::head};
use crate::{
    agent::Redactor,
    base::Fault,
    ledger::{Ledger, Shelf},
    worker::{Lane, Workers},
};

pub use history::{HistoryEntry, HistorySlice, MOST_HISTORY};
use limits::Usage;
pub use ready::Readiness;
use sessions::SessionRecord;
pub use sessions::{SessionList, SessionView};
pub use turn::{Answered, Asking};

/// Characters of a question.
pub const QUESTION: usize = 10_000;

/// What is asked, and how often.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AskRules {
    /// The agent that answers where none is named; without it only named ones do.
    pub spec: Option<AgentSpec>,
    /// Questions of one user in [`rate_window`](Self::rate_window).
    pub rate_max: usize,
    /// Questions from one address in [`rate_window`](Self::rate_window), whoever asks; 0 for any number.
    pub address_max: usize,
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
}

impl Default for AskRules {
    /// Sixty questions an hour, one at a time.
    fn default() -> Self {
        AskRules {
            spec: None,
            rate_max: 60,
            address_max: 0,
            rate_window: Duration::from_secs(3_600),
            per_user: 1,
            total: 8,
            deadline: Duration::from_secs(600),
            idle: Duration::from_secs(900),
        }
    }
}

/// Who asks, and from where, for the notes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asker {
    /// Whose session it has to be.
    pub user: String,
    /// The address that the request came from.
    pub address: Option<String>,
    /// What the log calls the request.
    pub request: Option<String>,
}

/// Whose questions a rate bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Whose {
    /// Those of one user.
    User,
    /// Those from one address.
    Address,
}

impl Whose {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Whose::User => "user",
            Whose::Address => "address",
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
        /// Whose questions were counted.
        whose: Whose,
    },
    /// One at a time.
    #[error("A previous question is still being processed")]
    Busy,
    /// Others ask.
    #[error("too many questions are being processed")]
    Full,
    /// This user has begun too many sessions that are not closed.
    #[error("there are too many sessions; close some")]
    TooManySessions,
    /// There is no such place in a history.
    #[error("no such place in this history")]
    NoPlace,
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
            AskError::NoPlace => Fault::Client,
            AskError::RateLimited { .. }
            | AskError::Busy
            | AskError::Full
            | AskError::TooManySessions
            | AskError::TimedOut => Fault::Busy,
            AskError::Failed { .. } => Fault::Ours,
            AskError::Session(error) => error.fault(),
        }
    }
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
    usage: Usage,
    /// What stops the agents of sessions in which nobody asks any more.
    timers: HashMap<String, AbortHandle>,
}

impl Asker {
    /// The beginning of a note.
    fn note(&self, id: &str) -> Value {
        json!({ "user": self.user, "session_id": id, "address": self.address, "request_id": self.request })
    }
}

impl std::fmt::Debug for AskDesk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AskDesk").finish_non_exhaustive()
    }
}

impl Inner {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, id: &str, record: &SessionRecord) {
        if let Err(error) = self.ledger.put(Shelf::Sessions, id, record) {
            tracing::error!(session = id, %error, "a session is not in the ledger");
        }
    }

    /// Notes something in the audit file.
    async fn note(&self, event: &str, data: Value) {
        self.agents.context().audit.note(event, data).await;
    }

    /// Waits until the ledger has on disk what was said so far.
    async fn settle(&self) -> Result<(), AskError> {
        let ledger = self.ledger.clone();
        let flushed = self.workers.call(Lane::Short, None, move || ledger.flush()).await;
        Ok(flushed.map_err(SessionError::from)?.map_err(SessionError::from)?)
    }

    /// What must not be shown of an agent that is described so.
    async fn redactor(&self, spec: &AgentSpec) -> Option<Arc<Redactor>> {
        if spec.secrets.is_empty() {
            return None;
        }
        let spec = spec.clone();
        let read = self.workers.call(Lane::Short, None, move || env::redactor(&spec)).await;
        read.ok().flatten().map(Arc::new)
    }

    /// Stops the agent of a session when nobody has asked it anything for a while. There is one timer for a session, whose last question begins it anew.
    fn let_go_later(self: &Arc<Self>, id: &str) {
        let (inner, idle, session) = (Arc::downgrade(self), self.rules.idle, id.to_owned());
        let timer = tokio::spawn(async move {
            tokio::time::sleep(idle).await;
            let Some(inner) = inner.upgrade() else { return };
            let name = {
                let mut book = inner.book();
                book.timers.remove(&session);
                if book.usage.is_busy(&session) {
                    return;
                }
                book.sessions.get(&session).and_then(|record| record.agent.clone())
            };
            if let Some(entry) = name.and_then(|name| inner.agents.get(name.as_str()).ok()) {
                entry.stop(Cause::Asked).await;
            }
        });
        if let Some(before) = self.book().timers.insert(id.to_owned(), timer.abort_handle()) {
            before.abort();
        }
    }
}

impl AskDesk {
    /// The sessions that the ledger knows. Blocks, and must be called within a runtime.
    ///
    /// # Errors
    /// When the agent that answers is described wrongly, or the ledger cannot be read.
    pub fn open(rules: AskRules, agents: Agents) -> Result<Self, SessionError> {
        if let Some(spec) = &rules.spec {
            spec.check()?;
        }
        let (ledger, workers) = agents.tools();
        let known: Vec<(String, SessionRecord)> = ledger.all(Shelf::Sessions)?;
        let sessions = known.into_iter().filter(|(_, record)| record.version == 1).collect();
        let desk = AskDesk {
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
        };
        desk.forget_orphans();
        // Without one agent its sessions could not be gone on with.
        let inner = Arc::downgrade(&desk.inner);
        desk.inner.agents.ask_before_forgetting(Box::new(move |name, created| {
            let is_of = |record: &SessionRecord| {
                let of = record.of.as_ref();
                of.is_some_and(|of| of.name == *name && of.created == created)
            };
            let inner = inner.upgrade();
            inner.is_some_and(|inner| inner.book().sessions.values().any(is_of))
        }));
        Ok(desk)
    }

    /// The agent that answers where none is named, if there is one.
    pub fn spec(&self) -> Option<&AgentSpec> {
        self.inner.rules.spec.as_ref()
    }

    /// Asks, and waits for the answer. Dropped, what the agent does is interrupted.
    ///
    /// # Errors
    /// See [`AskError`].
    pub async fn ask(&self, asker: Asker, id: &str, message: String) -> Result<Answered, AskError> {
        self.begin(asker, id, message).await?.answer(|_, _| ()).await
    }

    /// How many sessions and questions there are, as Prometheus reads it. Those that were refused are counted with [`Agents::metrics`].
    pub fn metrics(&self) -> String {
        let (sessions, (running, waiting)) = {
            let book = self.inner.book();
            (book.sessions.len(), book.usage.now())
        };
        let mut out = String::new();
        head(&mut out, "sessions", "Sessions that are not closed.", "gauge");
        let _ = writeln!(out, "gitstead_sessions {sessions}");
        let says =
            "Questions that are being answered, and those that wait for an agent that is being started for them.";
        head(&mut out, "asks_in_progress", says, "gauge");
        let _ = writeln!(out, "gitstead_asks_in_progress{{state=\"running\"}} {running}");
        let _ = writeln!(out, "gitstead_asks_in_progress{{state=\"waiting\"}} {waiting}");
        out
    }

    /// The agent of a session, if it has one by now.
    ///
    /// # Errors
    /// When it is not this user's.
    pub fn agent_of(&self, user: &str, id: &str) -> Result<Option<Arc<Entry>>, AskError> {
        let record = self.session(user, id)?;
        Ok(record.agent.and_then(|name| self.inner.agents.get(name.as_str()).ok()))
    }
}
