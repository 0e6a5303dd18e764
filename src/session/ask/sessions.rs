//! Which sessions there are, and whose they are.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::time::{Duration, Instant};

use super::{AskDesk, AskError, Inner};
use crate::{
    agent::Restart,
    dialect::Asks,
    ledger::Shelf,
    session::{
        AgentName, AgentSpec, Cause, Entry, SessionError,
        uuid::{is_uuid, new_uuid},
    },
};

/// Sessions that nobody has asked anything in yet, of one user.
const UNUSED: usize = 1_000;
/// Sessions of one user. Beyond it the one that was used the longest time ago is forgotten.
const SESSIONS: usize = 10_000;
/// How long the agent of a closed session may take to end.
const ENDS: Duration = Duration::from_secs(60);
/// Bytes of the name of an agent that its sessions' agents are called after.
const STEM: usize = 40;

/// What the ledger knows of a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SessionRecord {
    pub version: u32,
    pub owner: String,
    /// The agent that answers in it, since somebody has asked.
    pub agent: Option<AgentName>,
    pub created: u64,
    /// The agent that it is a session of; that of the configuration without.
    #[serde(default)]
    pub of: Option<Of>,
    /// When it was asked something the last time.
    #[serde(default)]
    pub asked: Option<u64>,
    /// How often.
    #[serde(default)]
    pub questions: u64,
}

impl SessionRecord {
    /// What its agent is described by: the configuration, or another agent.
    pub(super) fn source(&self) -> String {
        match &self.of {
            Some(of) => format!("session:{}", of.name),
            None => "config".to_owned(),
        }
    }
}

/// An agent, and not another one of that name after it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Of {
    pub name: AgentName,
    pub created: u64,
}

impl Of {
    fn this(entry: &Entry) -> Self {
        let record = entry.record();
        Of {
            name: record.name,
            created: record.created,
        }
    }
}

/// A session, as its owner sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionView {
    /// Its name, a UUID.
    pub id: String,
    /// Whose it is.
    pub owner: String,
    /// The agent that answers in it, since somebody has asked.
    pub agent: Option<String>,
    /// What that is; `None` before.
    pub state: Option<&'static str>,
    /// Whether there is a question in it now.
    pub is_busy: bool,
    /// The agent's own name of the conversation.
    pub conversation: Option<String>,
    /// When it was begun, in milliseconds since 1970.
    pub created: u64,
    /// When it was asked something the last time.
    pub asked: Option<u64>,
    /// How often.
    pub questions: u64,
}

/// Some sessions, newest first, and how to go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionList {
    /// In their order.
    pub sessions: Vec<SessionView>,
    /// Where older ones begin, if there are any.
    pub cursor: Option<String>,
}

/// A place in a list: when a session was begun, and its name.
fn place_of(cursor: &str) -> Option<(u64, &str)> {
    let (created, id) = cursor.split_once('.')?;
    Some((created.parse().ok()?, id)).filter(|(_, id)| is_uuid(id))
}

impl Inner {
    /// What answers in a session: the agent of the configuration, or one like that which it is a session of.
    pub(super) fn spec_of(&self, record: &SessionRecord) -> Result<AgentSpec, AskError> {
        let Some(of) = &record.of else {
            return self.rules.spec.clone().ok_or(AskError::NoSession);
        };
        let template = self.agents.get(of.name.as_str()).map_err(|_| AskError::NoSession)?;
        let found = template.record();
        if found.created != of.created {
            return Err(AskError::NoSession);
        }
        let mut spec = found.spec;
        // What it was given to begin with is no question of this session's, and nothing of it goes on by itself.
        (spec.message, spec.restart) = (None, Restart::default());
        Ok(spec)
    }

    /// What the agent of a session is called.
    pub(super) fn name_of(&self, id: &str, record: &SessionRecord) -> Result<AgentName, SessionError> {
        let stem = record.of.as_ref().map_or("ask", |of| of.name.as_str());
        let stem = stem[..stem.len().min(STEM)].trim_end_matches('.');
        AgentName::parse(&format!("{stem}-{}", &id[..13]))
            .map_err(|error| SessionError::Invalid { why: error.to_string() })
    }

    fn view(&self, id: &str, record: &SessionRecord, is_busy: bool) -> SessionView {
        let entry = record
            .agent
            .as_ref()
            .and_then(|name| self.agents.get(name.as_str()).ok());
        SessionView {
            id: id.to_owned(),
            owner: record.owner.clone(),
            agent: entry.as_ref().and(record.agent.as_ref()).map(ToString::to_string),
            state: entry.as_ref().map(|entry| entry.state().as_str()),
            is_busy,
            conversation: entry.and_then(|entry| entry.record().session),
            created: record.created,
            asked: record.asked,
            questions: record.questions,
        }
    }

    /// Has the agent of a closed session ended, and forgets it.
    pub(super) async fn end(&self, entry: &Entry) {
        entry.stop(Cause::Asked).await;
        let is_over = |state: crate::session::State| state == crate::session::State::Created || state.is_over();
        let status = entry.wait(Instant::now() + ENDS, |status| is_over(status.state)).await;
        if !is_over(status.state) {
            entry.kill().await;
            entry.wait(Instant::now() + ENDS, |status| is_over(status.state)).await;
        }
        let name = entry.record().name;
        if let Err(error) = self.agents.remove(name.as_str()).await {
            tracing::warn!(agent = %name, %error, "the agent of a closed session is still there");
        }
    }
}

impl AskDesk {
    /// Whether a text can be the name of a session.
    pub fn is_session_id(text: &str) -> bool {
        is_uuid(text)
    }

    /// A new session of this user's with the agent of the configuration, or with one like `of`. When this returns, the ledger has it on disk.
    ///
    /// # Errors
    /// When he has too many, or such an agent cannot be asked.
    pub async fn new_session(&self, user: &str, of: Option<&Entry>) -> Result<SessionView, AskError> {
        let inner = &self.inner;
        if let Some(of) = of {
            let nature = of.record().spec.nature();
            if nature.asks != Asks::Many || !nature.tells_turns {
                let why = "an agent of this dialect cannot be asked one question after another".to_owned();
                return Err(SessionError::Invalid { why }.into());
            }
        }
        let id = new_uuid()?;
        let record = SessionRecord {
            version: 1,
            owner: user.to_owned(),
            agent: None,
            created: inner.agents.now(),
            of: of.map(Of::this),
            asked: None,
            questions: 0,
        };
        let oldest = {
            let mut book = inner.book();
            let own = || book.sessions.iter().filter(|(_, one)| one.owner == user);
            let is_unused = |one: &SessionRecord| one.agent.is_none() && one.questions == 0;
            if own().filter(|(_, one)| is_unused(one)).count() >= UNUSED {
                return Err(AskError::TooManySessions);
            }
            let oldest = (own().count() >= SESSIONS).then(|| {
                own()
                    .filter(|(id, _)| !book.usage.is_busy(id))
                    .min_by_key(|(_, one)| one.asked.unwrap_or(one.created))
                    .map(|(id, _)| id.clone())
            });
            book.sessions.insert(id.clone(), record.clone());
            oldest.flatten()
        };
        if let Some(oldest) = oldest {
            tracing::info!(session = oldest, user, "forgotten: there are too many of this user's");
            self.forget(&oldest);
        }
        inner.keep(&id, &record);
        inner.settle().await?;
        Ok(inner.view(&id, &record, false))
    }

    pub(super) fn session(&self, user: &str, id: &str) -> Result<SessionRecord, AskError> {
        let book = self.inner.book();
        book.sessions
            .get(id)
            .filter(|record| record.owner == user)
            .cloned()
            .ok_or(AskError::NoSession)
    }

    /// One of this user's sessions; with `of` one of that agent's.
    ///
    /// # Errors
    /// When there is no such one.
    pub fn show(&self, user: &str, id: &str, of: Option<&Entry>) -> Result<SessionView, AskError> {
        let record = self.session(user, id)?;
        if record.of != of.map(Of::this) {
            return Err(AskError::NoSession);
        }
        let is_busy = self.inner.book().usage.is_busy(id);
        Ok(self.inner.view(id, &record, is_busy))
    }

    /// This user's sessions with that agent, newest first; those after `cursor`, at most `most`.
    ///
    /// # Errors
    /// When the cursor is none.
    pub fn list(&self, user: &str, of: &Entry, cursor: Option<&str>, most: usize) -> Result<SessionList, AskError> {
        let of = Some(Of::this(of));
        let before = match cursor {
            Some(cursor) => Some(place_of(cursor).ok_or(AskError::NoPlace)?),
            None => None,
        };
        let mut found: Vec<_> = {
            let book = self.inner.book();
            book.sessions
                .iter()
                .filter(|(_, record)| record.owner == user && record.of == of)
                .filter(|(id, record)| before.is_none_or(|before| (record.created, id.as_str()) < before))
                .map(|(id, record)| (id.clone(), record.clone(), book.usage.is_busy(id)))
                .collect()
        };
        found.sort_by(|(a, of_a, _), (b, of_b, _)| (of_b.created, b).cmp(&(of_a.created, a)));
        let has_more = found.len() > most;
        found.truncate(most);
        let cursor = found
            .last()
            .filter(|_| has_more)
            .map(|(id, record, _)| format!("{}.{id}", record.created));
        let sessions = found
            .iter()
            .map(|(id, record, is_busy)| self.inner.view(id, record, *is_busy))
            .collect();
        Ok(SessionList { sessions, cursor })
    }

    /// Ends a session: what is being done in it is stopped, and what was said in it is forgotten. Its checkpoints stay.
    ///
    /// # Errors
    /// When it is not this user's.
    pub async fn close(&self, user: &str, id: &str) -> Result<(), AskError> {
        self.session(user, id)?;
        self.forget(id);
        self.inner.settle().await
    }

    fn forget(&self, id: &str) {
        let inner = Arc::clone(&self.inner);
        let Some(record) = inner.book().sessions.remove(id) else {
            return;
        };
        inner.ledger.remove(Shelf::Sessions, id);
        if let Some(entry) = record.agent.and_then(|name| inner.agents.get(name.as_str()).ok()) {
            tokio::spawn(async move { inner.end(&entry).await });
        }
    }

    /// Ends all sessions with an agent that is forgotten.
    pub fn forget_sessions_of(&self, of: &Entry) {
        let of = Some(Of::this(of));
        let ids: Vec<_> = {
            let book = self.inner.book();
            let of_it = book.sessions.iter().filter(|(_, record)| record.of == of);
            of_it.map(|(id, _)| id.clone()).collect()
        };
        ids.iter().for_each(|id| self.forget(id));
    }

    /// Ends what an earlier server was killed over: sessions whose agent is gone, and agents whose session is.
    pub(super) fn forget_orphans(&self) {
        let inner = &self.inner;
        let is_there = |of: &Of| {
            let found = inner.agents.get(of.name.as_str());
            found.is_ok_and(|entry| entry.record().created == of.created)
        };
        let gone: Vec<_> = {
            let book = inner.book();
            let of_none = |record: &SessionRecord| record.of.as_ref().is_some_and(|of| !is_there(of));
            let all = book.sessions.iter().filter(|(_, record)| of_none(record));
            all.map(|(id, _)| id.clone()).collect()
        };
        gone.iter().for_each(|id| self.forget(id));
        for entry in inner.agents.list() {
            let Some(id) = entry.record().desk else { continue };
            if !inner.book().sessions.contains_key(&id) {
                let inner = Arc::clone(inner);
                tokio::spawn(async move { inner.end(&entry).await });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_in_a_list_is_a_time_and_a_name() {
        let id = "0835c2b4-0000-4000-8000-000000000001";
        assert_eq!(place_of(&format!("17.{id}")), Some((17, id)));
        for text in ["", ".", "17", "17.", &format!("x.{id}"), "17.x", &format!("-1.{id}")] {
            assert_eq!(place_of(text), None, "{text}");
        }
    }
}
