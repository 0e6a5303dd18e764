//! What was said in a session of Claude Code, from its own file. That belongs to the user who ran the agent, so it is read here and not by the server.

use std::{
    env,
    fmt::Write as _,
    fs::{self, File},
    io::{self, BufRead as _, BufReader, Read as _},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use clap::Args;
use serde_json::json;

use super::client::{Client, harmless};
use crate::dialect::{ClaudeHistory, HistoryMessage, is_claude_project, is_claude_session};

/// Bytes of a line; longer ones are passed over.
const LINE: u64 = 64 << 20;
/// Bytes of a text.
const TEXT: usize = 1 << 20;
/// Directories of projects that are looked through.
const PROJECTS: usize = 100_000;

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
    let path = find(&wanted.projects()?, &session, place.as_deref())?;
    let doing = || format!("read {}", path.display());
    let file = File::open(&path).with_context(doing)?;
    let history = index(&file).with_context(doing)?;
    let Some(page) = history.page(wanted.before.as_deref(), usize::from(wanted.messages)) else {
        bail!("there is no such message in this conversation");
    };
    let mut messages = Vec::with_capacity(page.places.len());
    for place in &page.places {
        let mut line = vec![0; usize::try_from(place.length).unwrap_or(usize::MAX)];
        file.read_exact_at(&mut line, place.offset).with_context(doing)?;
        messages.extend(HistoryMessage::read(&line, TEXT));
    }
    let older = messages
        .first()
        .filter(|_| page.has_older)
        .map(|first| first.id.clone());
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

/// The file of a session. Its id is unique; should there be several of it nevertheless, that of the directory which ends as `place` does.
fn find(projects: &Path, session: &str, place: Option<&str>) -> anyhow::Result<PathBuf> {
    let doing = || format!("read {}", projects.display());
    let mut found: Option<PathBuf> = None;
    for entry in fs::read_dir(projects).with_context(doing)?.take(PROJECTS) {
        let dir = entry.with_context(doing)?.path();
        let path = dir.join(format!("{session}.jsonl"));
        if !path.is_file() {
            continue;
        }
        let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
        // What stands before it is the data directory's, and as long as it is there.
        let is_meant = place.is_some_and(|place| {
            let begins = name.len().saturating_sub(place.len());
            name.get(begins..).is_some_and(|end| is_claude_project(end, place))
        });
        if is_meant || found.is_none() {
            found = Some(path);
        }
        if is_meant {
            break;
        }
    }
    found.with_context(|| format!("there is no session {session} below {}", projects.display()))
}

/// Reads a file once, and keeps where its lines are.
fn index(file: &File) -> io::Result<ClaudeHistory> {
    let mut history = ClaudeHistory::default();
    let mut reader = BufReader::with_capacity(1 << 18, file);
    let (mut line, mut offset, mut is_rest) = (Vec::new(), 0, false);
    loop {
        line.clear();
        let read = reader.by_ref().take(LINE).read_until(b'\n', &mut line)?;
        if read == 0 {
            return Ok(history);
        }
        let is_whole = line.last() == Some(&b'\n');
        if is_whole && !is_rest {
            line.pop();
            history.line(offset, &line);
        } else if !is_rest && (read as u64) < LINE {
            // The end of the file: torn, or written without a line end.
            history.line(offset, &line);
        }
        is_rest = !is_whole;
        offset += read as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_found_by_its_session_and_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let session = "0835f0ad-1b2c-4d3e-8f90-0123456789ab";
        for name in ["-other", "-data-work-app-main", "-zz"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        let file = |name: &str| dir.path().join(name).join(format!("{session}.jsonl"));
        assert!(find(dir.path(), session, None).is_err());
        fs::write(file("-zz"), "").unwrap();
        assert_eq!(find(dir.path(), session, Some("work/app/main")).unwrap(), file("-zz"));
        fs::write(file("-data-work-app-main"), "").unwrap();
        fs::write(file("-other"), "").unwrap();
        assert_eq!(
            find(dir.path(), session, Some("work/app/main")).unwrap(),
            file("-data-work-app-main")
        );
    }
}
