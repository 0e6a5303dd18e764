//! What was said in a session of Claude Code, from its own file, which belongs to the user who ran the agent.

use std::{env, fmt::Write as _, path::PathBuf};

use anyhow::{Context as _, bail};
use clap::Args;
use serde_json::json;

use super::client::{Client, harmless};
use crate::{
    dialect::{HistoryMessage, is_claude_session},
    session::{Transcript, TranscriptPage},
};

#[derive(Debug, Args)]
pub(super) struct History {
    /// The agent
    #[arg(required_unless_present = "session")]
    name: Option<String>,
    /// A session of Claude Code that Gitstead did not start, by its id
    #[arg(long, value_name = "ID", conflicts_with = "name")]
    session: Option<String>,
    /// How many of the last messages
    #[arg(long, short = 'n', value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=1000))]
    messages: u16,
    /// Those before the message with this id
    #[arg(long, value_name = "MESSAGE")]
    before: Option<String>,
    /// Where Claude Code keeps its files [default: $CLAUDE_CONFIG_DIR, or ~/.claude]
    #[arg(long, value_name = "DIR")]
    claude_dir: Option<PathBuf>,
}

pub(super) fn run(wanted: &History, json: bool, client: impl FnOnce() -> anyhow::Result<Client>) -> anyhow::Result<()> {
    let (session, place) = match (&wanted.session, &wanted.name) {
        (Some(session), _) => (session.clone(), None),
        (None, name) => {
            let name = name.as_deref().unwrap_or_default();
            let agent = client()?.ask("GET", &super::agent::path(name, ""), None)?;
            let text = |key: &str| agent[key].as_str().unwrap_or_default();
            if text("dialect") != "claude" {
                bail!(
                    "only sessions of Claude Code can be read, and '{}' speaks '{}'",
                    harmless(name),
                    harmless(text("dialect"))
                );
            }
            let session = agent["session"].as_str().context("the agent has no session yet")?;
            let place = format!("work/{}/{}/{}", text("repository"), text("workspace"), text("cwd"));
            (session.to_owned(), Some(place.trim_end_matches('/').to_owned()))
        }
    };
    if !is_claude_session(&session) {
        bail!("'{}' is no session of Claude Code", harmless(&session));
    }
    let projects = wanted.projects()?;
    let doing = || format!("read session {session} below {}", projects.display());
    let found = Transcript::open(&projects, &session, place.as_deref(), u64::MAX).with_context(doing)?;
    let found = found.with_context(|| format!("there is no session {session} below {}", projects.display()))?;
    let page = found
        .page(wanted.before.as_deref(), usize::from(wanted.messages), usize::MAX)
        .with_context(doing)?;
    let Some(TranscriptPage { messages, older }) = page else {
        bail!("there is no such message in this conversation");
    };
    if json {
        return super::print_json(&json!({ "session": session, "messages": messages, "before": older }));
    }
    let mut out = String::new();
    for HistoryMessage { role, text, at, .. } in &messages {
        let at = at.as_deref().unwrap_or_default();
        let text = text.lines().map(harmless).collect::<Vec<_>>().join("\n");
        let _ = writeln!(out, "{}", harmless(format!("{role}  {at}").trim_end()));
        let _ = writeln!(out, "{text}\n");
    }
    if let Some(older) = older {
        let _ = writeln!(out, "older: --before {}", harmless(&older));
    }
    super::print(&out)
}

impl History {
    fn projects(&self) -> anyhow::Result<PathBuf> {
        let told = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let dir = self.claude_dir.clone().or_else(|| told("CLAUDE_CONFIG_DIR"));
        let dir = dir.or_else(|| told("HOME").map(|home| home.join(".claude")));
        Ok(dir
            .context("there is no home directory; say where with --claude-dir")?
            .join("projects"))
    }
}
