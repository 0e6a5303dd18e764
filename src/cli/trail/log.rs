use std::{
    fmt::Write as _,
    io::{self, Write as _},
};

use bstr::{BStr, ByteSlice as _};

use super::{
    args,
    diff::print_patch,
    text::{change_line, files, harmless, harmless_lines, list, short},
};
use crate::{
    base::rfc3339,
    checkpoint::{self, DiffOptions, LogCursor, LogEntry, LogPage, LogQuery, Signature, tree_of},
    web::{LogView, ShownView},
};

pub(super) fn run(wanted: &args::Log) -> anyhow::Result<()> {
    let opened = wanted.at.open(|_| Ok(()))?;
    let mut query = LogQuery::default();
    (query.tool, query.agent, query.session) = (wanted.tool.clone(), wanted.agent.clone(), wanted.session.clone());
    query.path = wanted.path.as_deref().map(|path| opened.path(path)).transpose()?;
    query.only_changed = wanted.changed;
    query.all_commits = wanted.all;
    let narrowed = query.tool.is_some()
        || query.agent.is_some()
        || query.session.is_some()
        || query.path.is_some()
        || query.only_changed;
    query.entries = wanted.number;
    let after: Option<LogCursor> = wanted.cursor.as_deref().map(str::parse).transpose()?;
    let tip = match (&wanted.revision, wanted.shadow) {
        (Some(revision), _) => Some(opened.revision(revision)?),
        (None, true) => opened.shadow()?,
        (None, false) => opened.head()?,
    };
    let page = match tip {
        Some(tip) => Some(checkpoint::log(
            opened.workspace.repository(),
            &tip,
            after.as_ref(),
            &query,
        )?),
        None => None,
    };
    if wanted.json {
        let view = page.as_ref().map_or_else(LogView::empty, LogView::from);
        return super::print_json(&view);
    }
    let Some(page) = page else {
        return note("there is no checkpoint yet");
    };
    crate::cli::print(&told(&page))?;
    match page.others {
        0 => {}
        1 => note("1 commit that is no checkpoint is not shown; --all shows it, too")?,
        n => note(&format!(
            "{n} commits that are no checkpoints are not shown; --all shows them, too"
        ))?,
    }
    match &page.next {
        Some(next) => note(&format!("there is more: --cursor {next}")),
        None if page.entries.is_empty() && !wanted.all && after.is_none() => note(match narrowed {
            true => "no checkpoint is as you say",
            false => "there is no checkpoint in this history",
        }),
        None => Ok(()),
    }
}

/// Says something to a person, which is no part of the log.
fn note(text: &str) -> anyhow::Result<()> {
    let _ = writeln!(io::stderr().lock(), "{text}");
    Ok(())
}

fn told(page: &LogPage) -> String {
    let mut out = String::new();
    for LogEntry { commit, changed, .. } in &page.entries {
        let id = short(&commit.id);
        let when = moment(&commit.committer);
        let subject = harmless(BStr::new(&commit.subject()));
        let failed = match commit.checkpoint.as_ref().and_then(|said| said.outcome) {
            None | Some(checkpoint::ToolOutcome::Ok) => String::new(),
            Some(other) => format!("  ({})", other.as_str()),
        };
        let unchanged = if *changed { "" } else { "  (nothing changed)" };
        // Writing to a string does not fail.
        let _ = writeln!(out, "{id} {when} {subject}{failed}{unchanged}");
    }
    out
}

/// `2026-11-21 18:47:11`, where it was made.
fn moment(who: &Signature) -> String {
    let text = rfc3339(who.seconds, who.offset_minutes);
    text.get(..19).unwrap_or_default().replace('T', " ")
}

pub(super) fn show(wanted: &args::Show) -> anyhow::Result<()> {
    let opened = wanted.at.open(|_| Ok(()))?;
    let repository = opened.workspace.repository();
    let id = opened.revision(&wanted.checkpoint)?;
    let shown = checkpoint::show(repository, &id, &DiffOptions::default())?;
    if wanted.json {
        return super::print_json(&ShownView::from(&shown));
    }
    let commit = &shown.commit;
    let mut out = format!("checkpoint {}\n", commit.id);
    if commit.checkpoint.is_none() {
        out = format!("commit     {}\n", commit.id);
    }
    for parent in &commit.parents {
        writeln!(out, "parent     {parent}")?;
    }
    let who = harmless(commit.author.name.as_bstr());
    writeln!(out, "author     {who}")?;
    let time = rfc3339(commit.committer.seconds, commit.committer.offset_minutes);
    writeln!(out, "time       {time}\n")?;
    for line in harmless_lines(commit.message.as_bstr()).lines() {
        writeln!(out, "{}", format!("    {line}").trim_end())?;
    }
    out.push('\n');
    let changes = &shown.changes.files;
    if changes.is_empty() {
        out.push_str("  nothing changed\n");
    } else {
        let more = if shown.changes.more { "more than " } else { "" };
        writeln!(out, "{more}{} changed", files(changes.len()))?;
        list(&mut out, changes.iter().map(change_line), changes.len());
    }
    crate::cli::print(&out)?;
    if wanted.patch {
        let odb = repository.odb()?;
        let from = commit.parents.first().map(|parent| tree_of(&odb, parent)).transpose()?;
        let diff = checkpoint::diff(&odb, from.as_deref(), Some(&commit.tree), &DiffOptions::default())?;
        crate::cli::print("\n")?;
        print_patch(&diff)?;
    }
    Ok(())
}
