//! What an agent's host and everybody else knows of it.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use tokio::task::AbortHandle;

use super::{AgentRecord, AgentSpec, Audit, EventLog, Veil};
use crate::{
    base::Clock,
    dialect::{Permission, ToolFinished},
    ledger::{Ledger, Shelf},
};

/// Bytes of a text in an event.
pub(super) const TEXT_BYTES: usize = 16 << 10;

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
    /// Where decisions are noted.
    pub(super) audit: Audit,
    /// Questions for permission that wait for an answer.
    pub(super) questions: Mutex<Vec<Question>>,
    /// The next answer, if somebody wants it whole.
    pub(super) answer: Mutex<Option<Heard>>,
    /// The calls that were open when an earlier Gitstead ended, and their turn: the next last checkpoint is theirs.
    pub(super) cut_off: Mutex<Option<(ToolFinished, u64)>>,
}

/// The answer to a message.
pub(super) struct Heard {
    /// Our name of the message.
    pub(super) message: String,
    /// What it said at last, if that is too long for an event.
    pub(super) text: Option<String>,
}

/// A question for permission that waits for an answer.
pub(super) struct Question {
    /// The number of the event that tells of it, which names it to everybody: an agent may use its own name of a request again.
    pub(super) asked: u64,
    pub(super) permission: Permission,
    /// What answers for those who do not.
    pub(super) timer: Option<AbortHandle>,
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

    pub(super) fn cut_off(&self) -> MutexGuard<'_, Option<(ToolFinished, u64)>> {
        self.cut_off.lock().unwrap_or_else(PoisonError::into_inner)
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
        record.updated = self.clock.millis();
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

/// Bytes as an event may hold them.
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
