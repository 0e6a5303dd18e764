//! What was said in a session: as the agent's own file of it has that, or else as our journal does.

use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::{AskDesk, AskError, Inner};
use crate::{
    dialect::Kind,
    session::{AgentSpec, Entry, Transcript, env},
    worker::Lane,
};

/// Entries of a history that one answer has.
pub const MOST_HISTORY: usize = 1_000;
/// Bytes of an agent's own file, beyond which our journal is read instead.
const FILE_BYTES: u64 = 256 << 20;
/// Bytes of one answer.
const PAGE_BYTES: usize = 8 << 20;
/// Events read at a time.
const PAGE: usize = 500;

/// Something that was said in a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryEntry {
    /// The place of it, a cursor for what was said before.
    pub id: String,
    /// `user` or `assistant`.
    pub role: &'static str,
    /// What.
    pub text: String,
    /// When: as the agent wrote it, which is to be RFC 3339.
    pub at: Option<String>,
    /// When, in milliseconds since 1970, where we know it ourselves.
    pub at_ms: Option<u64>,
}

/// A part of a history, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HistorySlice {
    /// In their order.
    pub entries: Vec<HistoryEntry>,
    /// The cursor for what was said before; nothing was without it.
    pub older: Option<String>,
    /// Whether it is from the agent's own file.
    pub is_own: bool,
}

/// A place in our journal.
fn place_of(cursor: &str) -> Option<u64> {
    cursor.parse().ok()
}

impl AskDesk {
    /// What was said in a session: the last `most` entries before `before`, fewer where they are long.
    ///
    /// # Errors
    /// When it is not this user's, or the cursor is not of this history.
    pub async fn history(
        &self,
        user: &str,
        id: &str,
        before: Option<&str>,
        most: usize,
    ) -> Result<HistorySlice, AskError> {
        let record = self.session(user, id)?;
        let Some(entry) = record.agent.and_then(|name| self.inner.agents.get(name.as_str()).ok()) else {
            return match before {
                None => Ok(HistorySlice::default()),
                Some(_) => Err(AskError::NoPlace),
            };
        };
        let of_journal = before.and_then(place_of);
        if of_journal.is_none()
            && let Some(found) = self.inner.own_file(&entry, before, most).await?
        {
            return Ok(found);
        }
        match (before, of_journal) {
            (Some(_), None) => Err(AskError::NoPlace),
            (_, before) => self.inner.journal(&entry, before, most).await,
        }
    }
}

impl Inner {
    /// The same from the agent's own file, if there is one.
    async fn own_file(
        &self,
        entry: &Entry,
        before: Option<&str>,
        most: usize,
    ) -> Result<Option<HistorySlice>, AskError> {
        let record = entry.record();
        let (Some(session), Ok(Kind::Claude)) = (record.session.clone(), record.spec.kind()) else {
            return Ok(None);
        };
        // What is in a container is not below a home directory of ours.
        let here = record.spec.container.is_none();
        let Some(projects) = projects_of(&record.spec).filter(|_| here) else {
            return Ok(None);
        };
        let before = before.map(str::to_owned);
        let (name, logged) = (record.name.clone(), session.clone());
        let reach = self.agents.reach(&record);
        let read = self
            .workers
            .call(Lane::Long, None, move || {
                let Some((cwd, sandbox)) = reach() else { return Ok(None) };
                // What the agent could not read is not read for it.
                let may_read = |dir: &Path| sandbox.as_ref().is_none_or(|sandbox| sandbox.reaches(dir));
                let found = Transcript::of_agent(&projects, &session, &cwd.to_string_lossy(), FILE_BYTES, may_read)?;
                let Some(file) = found else { return Ok(None) };
                file.page(before.as_deref(), most, PAGE_BYTES).map(Some)
            })
            .await
            .map_err(crate::session::SessionError::from)?;
        let page = match read {
            Ok(None) => return Ok(None),
            Ok(Some(None)) => return Err(AskError::NoPlace),
            Ok(Some(Some(page))) => page,
            Err(error) => {
                let error: std::io::Error = error;
                tracing::warn!(agent = %name, session = logged, %error, "the agent's own file cannot be read");
                return Ok(None);
            }
        };
        let redactor = self.redactor(&record.spec).await;
        let hide = |text: String| match &redactor {
            Some(redactor) => redactor.text(&text).into_owned(),
            None => text,
        };
        let entries = page.messages.into_iter().map(|message| HistoryEntry {
            role: if message.role == "user" { "user" } else { "assistant" },
            id: hide(message.id),
            text: hide(message.text),
            at: message.at.map(hide),
            at_ms: None,
        });
        Ok(Some(HistorySlice {
            entries: entries.collect(),
            older: page.older.map(hide),
            is_own: true,
        }))
    }

    /// The same from our journal.
    async fn journal(&self, entry: &Entry, before: Option<u64>, most: usize) -> Result<HistorySlice, AskError> {
        let (mut all, mut bytes, mut has_older) = (VecDeque::<HistoryEntry>::new(), 0, false);
        let mut cursor = 0;
        'pages: loop {
            let page = self.agents.events_after(entry, cursor, PAGE).await?;
            if page.events.is_empty() {
                break;
            }
            cursor = page.cursor;
            for (seq, text) in page.events {
                if before.is_some_and(|before| seq >= before) {
                    break 'pages;
                }
                let event: Value = serde_json::from_str(&text).unwrap_or_default();
                if let (Some("not_taken"), Some(asked)) = (event["type"].as_str(), event["asked"].as_u64()) {
                    // The agent has not heard it.
                    let asked = asked.to_string();
                    if let Some(at) = all.iter().rposition(|one| one.id == asked) {
                        bytes -= all.remove(at).map_or(0, |gone| gone.text.len());
                    }
                    continue;
                }
                let role = match event["type"].as_str() {
                    Some("asked") => "user",
                    Some("said") if event["thought"] == false && event["parent"].is_null() => "assistant",
                    _ => continue,
                };
                let text = event["text"].as_str().unwrap_or_default().to_owned();
                bytes += text.len();
                all.push_back(HistoryEntry {
                    id: seq.to_string(),
                    role,
                    text,
                    at: None,
                    at_ms: event["at_ms"].as_u64(),
                });
                while all.len() > most || (bytes > PAGE_BYTES && all.len() > 1) {
                    bytes -= all.pop_front().map_or(0, |gone| gone.text.len());
                    has_older = true;
                }
            }
        }
        Ok(HistorySlice {
            older: all.front().filter(|_| has_older).map(|first| first.id.clone()),
            entries: all.into(),
            is_own: false,
        })
    }
}

/// Where Claude Code keeps its files, when it is started as described.
pub(super) fn projects_of(spec: &AgentSpec) -> Option<PathBuf> {
    let told = |name: &str| env::value(spec, name, |name| std::env::var_os(name)).map(PathBuf::from);
    let dir = told("CLAUDE_CONFIG_DIR").or_else(|| Some(told("HOME")?.join(".claude")))?;
    dir.is_absolute().then(|| dir.join("projects"))
}
