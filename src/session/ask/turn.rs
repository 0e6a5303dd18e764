//! One question and its answer.

use std::{collections::HashSet, sync::Arc, time::Duration};

use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout, timeout_at};

use super::{AskDesk, AskError, Asker, Inner, sessions::SessionRecord};
use crate::{
    agent::{NotTaken, Redactor},
    session::{AgentName, Agents, Cause, Entry, Given, SessionError, State, audit::beginning, tally::Count},
};

/// How long an agent that was interrupted may take to end its turn, before it is stopped.
const UNWIND: Duration = Duration::from_secs(30);
/// How long the answer waits for checkpoints that are still being made.
const SETTLE: Duration = Duration::from_secs(10);
/// Events read at a time.
const PAGE: usize = 200;
/// Checkpoints and calls that are told of with an answer.
const TOLD: usize = 1_000;

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Answered {
    /// What the agent said at last.
    pub result: String,
    /// In which session.
    pub session_id: String,
    /// Our name of the question, a UUID: the events of its turn have it.
    pub message_id: String,
    /// From the question to the answer.
    pub duration_ms: u64,
    /// Calls of the model.
    pub num_turns: u64,
    /// Whether it says that it could not.
    pub is_error: bool,
    /// How the turn ended, in the agent's words: `completed`, `failed`, `interrupted`, …
    pub outcome: String,
    /// What it used, as the event `turn_ended` tells it: tokens, and the cost in millionths of a dollar, which some agents add up over a session.
    pub usage: Value,
    /// Tools that were used.
    pub tools: u64,
    /// Checkpoints that were made, as events tell them: commit, subject, calls, whether late.
    pub checkpoints: Vec<Value>,
    /// The number of the last event of it.
    pub seq: u64,
}

/// What is known of a turn by its events.
#[derive(Debug, Default)]
struct Turned {
    /// Our name of the question.
    message: String,
    said: String,
    /// Its number, as far as that is known. What the agent did by itself may have been taken for it: its end tells.
    turn: Option<u64>,
    ended: Option<Value>,
    checkpoints: Vec<Value>,
    tools: u64,
    /// Calls whose checkpoint is not made yet.
    unsaved: HashSet<String>,
    /// The agent did not know the session that it was to go on with, and had nothing to answer from.
    is_lost: bool,
    /// The number of the last event.
    seq: u64,
}

impl Turned {
    fn is_open(&self) -> bool {
        self.turn.is_some() && self.ended.is_none()
    }

    /// Whether the process has ended over it.
    fn take(&mut self, seq: u64, event: &Value) -> bool {
        self.seq = seq;
        let text = |key: &str| event[key].as_str().unwrap_or_default();
        let calls = || {
            event["calls"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
        };
        let is_ours = event["message_id"].as_str() == Some(&self.message);
        match text("type") {
            "turn_started" if is_ours => self.turn = event["turn"].as_u64(),
            "said" if event["thought"] == false && event["parent"].is_null() && self.is_open() => {
                self.said = text("text").to_owned();
            }
            "tool_finished" => {
                self.tools += 1;
                let may_have_changed = !matches!(text("outcome"), "denied" | "not-run");
                if may_have_changed && self.unsaved.len() < TOLD {
                    self.unsaved.insert(text("call").to_owned());
                }
            }
            kind @ ("checkpoint" | "checkpoint_failed") => {
                for call in calls() {
                    self.unsaved.remove(call);
                }
                if kind == "checkpoint" && self.checkpoints.len() < TOLD {
                    let told = ["commit", "subject", "changed", "calls", "late"];
                    let told = told.into_iter().map(|key| (key.to_owned(), event[key].clone()));
                    self.checkpoints.push(Value::Object(told.collect()));
                }
            }
            // The next one stands for it, whenever that is.
            "checkpoint_late" => {
                for call in calls() {
                    self.unsaved.remove(call);
                }
            }
            "session_gone" => self.is_lost = true,
            "turn_ended" if is_ours && self.ended.is_none() => self.ended = Some(event.clone()),
            "turn_ended" if self.is_open() && event["turn"].as_u64() == self.turn => {
                // It was about something else: the question still waits.
                (self.turn, self.tools) = (None, 0);
                self.said.clear();
                self.checkpoints.clear();
            }
            "stopped" | "exited" | "failed" | "lost" | "crash_looping" | "restarting" => return true,
            _ => {}
        }
        false
    }
}

/// Follows what an agent does after a question, until its turn has ended and what it did is recorded.
async fn follow(agents: &Agents, entry: &Entry, given: &Given) -> Result<Turned, AskError> {
    let failed = |text: &str| AskError::Failed { text: text.to_owned() };
    let mut bell = entry.events().follow();
    let mut turned = Turned {
        message: given.message.clone(),
        ..Turned::default()
    };
    let (mut cursor, mut settled) = (given.seq, None);
    loop {
        bell.borrow_and_update();
        let page = agents.events_after(entry, cursor, PAGE).await?;
        cursor = page.cursor;
        for (seq, text) in &page.events {
            let event: Value = serde_json::from_str(text).unwrap_or_default();
            let is_over = turned.take(*seq, &event);
            if turned.is_lost && (is_over || turned.ended.is_some()) {
                return Ok(turned);
            }
            if is_over && turned.ended.is_none() {
                return Err(failed("the agent has ended without an answer"));
            }
        }
        if !page.events.is_empty() {
            continue;
        }
        if turned.ended.is_none() {
            if bell.changed().await.is_err() {
                return Err(failed("the agent is gone"));
            }
            continue;
        }
        // It does not wait for these; whoever asked is told of them all the same, unless that takes long.
        let until = *settled.get_or_insert_with(|| Instant::now() + SETTLE);
        if turned.unsaved.is_empty() || !matches!(timeout_at(until, bell.changed()).await, Ok(Ok(()))) {
            return Ok(turned);
        }
    }
}

/// The right to ask one question. Given back on drop.
struct Ticket {
    inner: Arc<Inner>,
    asker: Asker,
    session: String,
    since: Instant,
    /// Whether an agent has it.
    put: bool,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.inner
            .book()
            .usage
            .release(&self.asker.user, &self.session, self.put);
        // Whatever became of the question: its agent may have been started for it.
        if tokio::runtime::Handle::try_current().is_ok() {
            self.inner.let_go_later(&self.session);
        }
    }
}

/// A question that is being answered. When nobody waits for the answer any more, what the agent does is stopped, and the session can be asked again when it has.
struct Running {
    ticket: Option<Ticket>,
    at_work: Option<(Arc<Entry>, Given)>,
}

impl Drop for Running {
    fn drop(&mut self) {
        let (Some(ticket), Some((entry, given))) = (self.ticket.take(), self.at_work.take()) else {
            return;
        };
        let Ok(here) = tokio::runtime::Handle::try_current() else {
            return;
        };
        here.spawn(async move {
            let _ = entry.interrupt().await;
            let ended = timeout(UNWIND, follow(&ticket.inner.agents, &entry, &given)).await;
            if ended.is_err() {
                let name = entry.record().name;
                tracing::warn!(agent = %name, "does not heed an interrupt, and is stopped");
                entry.stop(Cause::Asked).await;
                let status = |status: &crate::agent::Status| status.state.is_over();
                entry.wait(Instant::now() + UNWIND, status).await;
            }
            drop(ticket);
        });
    }
}

/// A question that may be asked. Dropped without an answer, that is noted.
pub struct Asking {
    inner: Arc<Inner>,
    asker: Asker,
    id: String,
    message: String,
    started: Instant,
    ticket: Option<Ticket>,
    is_noted: bool,
    /// For what is noted.
    redactor: Option<Arc<Redactor>>,
}

impl std::fmt::Debug for Asking {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Asking").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        let Ok(here) = tokio::runtime::Handle::try_current() else {
            return;
        };
        if !self.is_noted {
            let elapsed = self.elapsed();
            let mut data = self.asker.note(&self.id);
            data["elapsed_ms"] = json!(elapsed);
            let inner = Arc::clone(&self.inner);
            inner.agents.tally().add(Count::AskAbandoned);
            here.spawn(async move { inner.note("ask_abandoned", data).await });
        }
    }
}

impl AskDesk {
    /// Takes up a question: from here on it counts.
    ///
    /// # Errors
    /// When the session is not this user's, or he may not ask now.
    pub async fn begin(&self, asker: Asker, id: &str, message: String) -> Result<Asking, AskError> {
        let inner = &self.inner;
        let record = self.session(&asker.user, id)?;
        let since = Instant::now();
        let admitted = inner.book().usage.admit(&inner.rules, &asker, id, since);
        if let Err(error) = admitted {
            let mut data = asker.note(id);
            data["error"] = json!(error.to_string());
            let (event, what) = match error {
                AskError::RateLimited { retry_after, whose } => {
                    data["retry_after_s"] = json!(retry_after);
                    data["bound"] = json!(whose.as_str());
                    ("rate_limited", Count::AskRateLimited)
                }
                AskError::Full => ("concurrency_blocked", Count::AskFull),
                _ => ("concurrency_blocked", Count::AskBusy),
            };
            inner.agents.tally().add(what);
            inner.note(event, data).await;
            return Err(error);
        }
        let mut asking = Asking {
            ticket: Some(Ticket {
                inner: Arc::clone(inner),
                asker: asker.clone(),
                session: id.to_owned(),
                since,
                put: false,
            }),
            inner: Arc::clone(inner),
            asker,
            id: id.to_owned(),
            message,
            started: Instant::now(),
            is_noted: false,
            redactor: None,
        };
        if let Ok(spec) = inner.spec_of(&record) {
            asking.redactor = inner.redactor(&spec).await;
        }
        let mut data = asking.asker.note(id);
        data["message"] = json!(asking.beginning(&asking.message, 500));
        data["message_len"] = json!(asking.message.chars().count());
        inner.note("ask_start", data).await;
        Ok(asking)
    }
}

impl Asking {
    fn elapsed(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// The first characters of a text, without secrets.
    fn beginning(&self, text: &str, chars: usize) -> String {
        match &self.redactor {
            Some(redactor) => beginning(&redactor.text(text), chars),
            None => beginning(text, chars),
        }
    }

    /// The answer. `begun` is told who answers and the number of the event that has the question: what comes of it comes after that. Dropped, what the agent does is
    /// interrupted.
    ///
    /// # Errors
    /// See [`AskError`].
    pub async fn answer(mut self, begun: impl FnOnce(&Arc<Entry>, u64)) -> Result<Answered, AskError> {
        let deadline = self.inner.rules.deadline;
        let result = match timeout(deadline, self.turn(begun)).await {
            Ok(result) => result,
            Err(_) => Err(AskError::TimedOut),
        };
        let elapsed = self.elapsed();
        self.is_noted = true;
        self.inner.agents.tally().add(match &result {
            Ok(answered) if answered.is_error => Count::AskError,
            Ok(_) => Count::AskOk,
            Err(AskError::TimedOut) => Count::AskTimedOut,
            Err(AskError::Busy) => Count::AskBusy,
            Err(_) => Count::AskFailed,
        });
        let mut data = self.asker.note(&self.id);
        data["elapsed_ms"] = json!(elapsed);
        match result {
            Ok(mut answered) => {
                answered.duration_ms = elapsed;
                data["result_preview"] = json!(self.beginning(&answered.result, 300));
                data["result_len"] = json!(answered.result.chars().count());
                data["message_id"] = json!(answered.message_id);
                data["turns"] = json!(answered.num_turns);
                data["is_error"] = json!(answered.is_error);
                // By the agent's own account; the rest of the time is ours.
                data["subprocess_ms"] = answered.usage["duration_ms"].clone();
                data["commits"] = answered.checkpoints.iter().map(|one| one["commit"].clone()).collect();
                self.inner.note("ask_ok", data).await;
                Ok(answered)
            }
            Err(error) => {
                data["error"] = json!(self.beginning(&error.to_string(), 500));
                self.inner.note("ask_error", data).await;
                Err(error)
            }
        }
    }

    /// Notes that the agent has forgotten what was said so far.
    async fn note_lost(&self, conversation: &str) {
        let mut data = self.asker.note(&self.id);
        data["conversation"] = json!(self.beginning(conversation, 256));
        self.inner.note("conversation_lost", data).await;
    }

    async fn turn(&mut self, begun: impl FnOnce(&Arc<Entry>, u64)) -> Result<Answered, AskError> {
        let inner = Arc::clone(&self.inner);
        let mut running = Running {
            ticket: self.ticket.take(),
            at_work: None,
        };
        let mut begun = Some(begun);
        let mut retried = false;
        let (entry, turned) = loop {
            let (entry, lost) = inner.agent(&self.id).await?;
            if let Some(conversation) = lost {
                self.note_lost(&conversation).await;
            }
            let before = entry.record();
            let given = match entry.ask_for_all(self.message.clone(), Some(&self.asker.user)).await {
                Ok(given) => given,
                Err(SessionError::NotTaken(NotTaken::Refused(_) | NotTaken::Full)) => {
                    if let Some(ticket) = &running.ticket {
                        inner.book().usage.refund(&ticket.asker, ticket.since);
                    }
                    return Err(AskError::Busy);
                }
                Err(error) => return Err(error.into()),
            };
            if let Some(ticket) = running.ticket.as_mut().filter(|ticket| !ticket.put) {
                ticket.put = true;
                inner.book().usage.put();
            }
            running.at_work = Some((Arc::clone(&entry), given.clone()));
            if let Some(begun) = begun.take() {
                // It may have been closed at this very moment: then its agent ends.
                let _ = inner.change(&self.id, |record| {
                    record.asked = Some(inner.agents.now());
                    record.questions += 1;
                });
                begun(&entry, given.seq);
            }
            let followed = follow(&inner.agents, &entry, &given).await;
            running.at_work = None;
            match followed? {
                // It is started again without it, and has not seen the question.
                turned if turned.is_lost && !std::mem::replace(&mut retried, true) => {
                    self.note_lost(before.session.as_deref().unwrap_or_default()).await;
                    let is_next = |status: &crate::agent::Status| status.run != before.run || status.state.is_over();
                    entry.wait(Instant::now() + UNWIND, is_next).await;
                }
                turned => break (entry, turned),
            }
        };
        let ended = turned.ended.unwrap_or_default();
        let is_completed = ended["outcome"] == "completed";
        if !is_completed && !entry.is_there() {
            return Err(AskError::Failed {
                text: "the agent has ended without an answer".to_owned(),
            });
        }
        let text = ended["text"].as_str().map(str::to_owned);
        Ok(Answered {
            result: entry.take_answer(&turned.message).or(text).unwrap_or(turned.said),
            session_id: self.id.clone(),
            message_id: turned.message,
            duration_ms: 0,
            num_turns: ended["usage"]["model_turns"].as_u64().unwrap_or(1),
            is_error: !is_completed,
            outcome: ended["outcome"].as_str().unwrap_or_default().to_owned(),
            usage: ended["usage"].clone(),
            tools: turned.tools,
            checkpoints: turned.checkpoints,
            seq: turned.seq,
        })
    }
}

impl Inner {
    /// The agent of a session, running and ready; and what it called the conversation that it was to go on with, if that is gone.
    async fn agent(&self, id: &str) -> Result<(Arc<Entry>, Option<String>), AskError> {
        let record = self.book().sessions.get(id).cloned().ok_or(AskError::NoSession)?;
        let known = record
            .agent
            .as_ref()
            .and_then(|name| self.agents.get(name.as_str()).ok());
        let entry = match known {
            Some(entry) => entry,
            None => self.new_agent(id, &record).await?,
        };
        let noted = self.change(id, |record| {
            record.agent = Some(entry.record().name);
        });
        if let Err(closed) = noted {
            self.end(&entry).await;
            return Err(closed);
        }
        let deadline = Instant::now() + self.rules.deadline;
        if entry.state() == State::Stopping {
            // What a server before this one has left is still being ended.
            entry.wait(deadline, |status| status.state != State::Stopping).await;
        }
        if entry.state().is_up() && !entry.is_there() {
            // It has just ended over the last question, and that is still being recorded.
            let is_again = |status: &crate::agent::Status| status.pid.is_some() || status.state.is_over();
            entry.wait(deadline, is_again).await;
        }
        let before = entry.record().session;
        if entry.state() == State::Created || entry.state().is_over() {
            self.agents.start(&entry).await?;
        }
        let status = entry
            .wait(deadline, |status| status.state.is_up() || status.state.is_over())
            .await;
        match status.failure {
            Some(failure) if status.state.is_over() => Err(AskError::Failed { text: failure.text }),
            _ if status.state.is_up() => {
                let now = entry.record().session;
                Ok((entry, before.filter(|before| now.as_ref() != Some(before))))
            }
            _ => Err(AskError::Failed {
                text: "the agent has ended before it could be asked".to_owned(),
            }),
        }
    }

    /// Changes what is known of a session, and keeps it.
    fn change(&self, id: &str, change: impl FnOnce(&mut SessionRecord)) -> Result<(), AskError> {
        let mut book = self.book();
        // It may have been closed meanwhile.
        let record = book.sessions.get_mut(id).ok_or(AskError::NoSession)?;
        change(record);
        self.keep(id, record);
        Ok(())
    }

    /// An agent for a session.
    async fn new_agent(&self, id: &str, record: &SessionRecord) -> Result<Arc<Entry>, AskError> {
        let name = self.name_of(id, record)?;
        let spec = self.spec_of(record)?;
        loop {
            let made = self
                .agents
                .create_for(id, record.source(), name.clone(), spec.clone(), record.owner.clone())
                .await;
            match made {
                // An earlier server was killed before it had noted whose that is.
                Err(error @ SessionError::Exists { .. }) => {
                    let known = self.agents.get(name.as_str())?;
                    return match known.record().owner.as_deref() == Some(&record.owner) {
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
        let of_sessions: Vec<(String, AgentName)> = {
            let book = self.book();
            let agents = book.sessions.iter().filter(|(id, _)| !book.usage.is_busy(id));
            agents
                .filter_map(|(id, record)| Some((id.clone(), record.agent.clone()?)))
                .collect()
        };
        let oldest = of_sessions
            .into_iter()
            .filter_map(|(id, name)| Some((self.agents.get(name.as_str()).ok()?.record(), id)))
            .filter(|(record, _)| record.state.is_over())
            .min_by_key(|(record, _)| record.ended);
        let Some((agent, id)) = oldest else { return false };
        if self.agents.remove(agent.name.as_str()).await.is_err() {
            return false;
        }
        tracing::info!(agent = %agent.name, session = id, "forgotten, to make room for another session");
        // Unless it was closed at this very moment.
        let _ = self.change(&id, |record| record.agent = None);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_is_that_of_the_turn_that_is_about_the_question() {
        let mut turned = Turned {
            message: "m".to_owned(),
            ..Turned::default()
        };
        let said = |text: &str| json!({ "type": "said", "text": text, "thought": false, "parent": null });
        for (seq, event) in [
            said("of before"),
            json!({ "type": "turn_ended", "turn": 1, "text": "of before", "message_id": null }),
            json!({ "type": "turn_started", "turn": 2, "message_id": "m", "joined_by": "order" }),
            said("of its own"),
            json!({ "type": "tool_finished", "call": "c", "outcome": "ok" }),
            json!({ "type": "checkpoint", "calls": ["c"], "commit": "x" }),
            json!({ "type": "turn_ended", "turn": 2, "text": "of its own", "message_id": null }),
            json!({ "type": "turn_started", "turn": 3, "message_id": "m", "joined_by": "id" }),
            said("the answer"),
            json!({ "type": "turn_ended", "turn": 3, "text": "the answer", "message_id": "m", "joined_by": "id" }),
            json!({ "type": "turn_started", "turn": 4, "message_id": null }),
            said("more"),
            json!({ "type": "turn_ended", "turn": 4, "text": "more", "message_id": null }),
        ]
        .iter()
        .enumerate()
        {
            assert!(!turned.take(seq as u64, event));
        }
        assert_eq!((turned.said.as_str(), turned.tools), ("the answer", 0));
        assert!(turned.checkpoints.is_empty());
        assert_eq!(turned.ended.expect("it has ended")["turn"], 3);
    }
}
