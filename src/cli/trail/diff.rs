use std::{
    fmt::Write as _,
    io::{self, IsTerminal as _, Write as _},
};

use anyhow::{Context as _, bail};
use bstr::{BString, ByteSlice as _};
use gix::hash::ObjectId;

use super::{
    args,
    place::{Opened, wipe},
    record::left_out,
    text::{files, harmless, harmless_lines},
};
use crate::{
    checkpoint::{self, Diff, DiffOptions, PatchContent, tree_of},
    web::DiffView,
    workspace::SkipReason,
};

/// What stands for the files as they are.
const LIVE: &str = "live";

/// Two sides of a difference.
struct Sides {
    from: Option<ObjectId>,
    /// `None` is the files as they are.
    to: Option<ObjectId>,
}

pub(super) fn run(wanted: &args::Diff) -> anyhow::Result<()> {
    let opened = wanted.at.open(|_| Ok(()))?;
    let sides = sides(&opened, wanted)?;
    let options = DiffOptions {
        paths: opened.paths(&wanted.paths)?,
        ..DiffOptions::default()
    };
    let mut skipped: Vec<(BString, SkipReason)> = Vec::new();
    let mut live = None;
    if sides.to.is_none() {
        let looked = opened.workspace.lock()?.live_tree();
        wipe();
        let (tree, left) = looked?;
        live = Some(tree);
        skipped = left;
    }
    let odb = opened.workspace.repository().odb()?;
    let from = sides.from.map(|id| tree_of(&odb, &id)).transpose()?;
    let to = match (live, sides.to) {
        (Some(live), _) => live,
        (None, Some(id)) => tree_of(&odb, &id)?,
        (None, None) => bail!("there is nothing to compare with"),
    };
    let diff = checkpoint::diff(&odb, from.as_deref(), Some(&to), &options)?;
    if wanted.json {
        let names = (
            sides.from.map(|id| id.to_string()),
            sides.to.map_or_else(|| LIVE.to_owned(), |id| id.to_string()),
        );
        return super::print_json(&DiffView::of(&diff, names.0, names.1, !wanted.stat, &skipped));
    }
    if wanted.stat {
        crate::cli::print(&stat(&diff)?)?;
    } else {
        print_patch(&diff)?;
    }
    // Beside the difference, which may go into a file.
    let mut note = String::new();
    left_out(&mut note, &skipped);
    if diff.more {
        note.push_str("  there are more files\n");
    }
    let _ = io::stderr().lock().write_all(note.as_bytes());
    Ok(())
}

fn sides(opened: &Opened, wanted: &args::Diff) -> anyhow::Result<Sides> {
    let side = |text: &str| match text {
        LIVE => Ok(None),
        text => opened.revision(text).map(Some),
    };
    let (from, to) = match (wanted.from.as_deref(), wanted.to.as_deref()) {
        (Some(range), None) if range.contains("..") => {
            let (from, to) = range.split_once("..").unwrap_or((range, ""));
            let or_head = |text: &str| if text.is_empty() { "HEAD" } else { text }.to_owned();
            (Some(or_head(from)), Some(or_head(to)))
        }
        (from, to) => (from.map(str::to_owned), to.map(str::to_owned)),
    };
    let from = match from {
        Some(text) => Some(side(&text)?.context("the files as they are can only be the second of two")?),
        None if wanted.shadow => opened.shadow()?,
        None => opened.head()?,
    };
    let to = match to {
        Some(text) => side(&text)?,
        None => None,
    };
    Ok(Sides { from, to })
}

/// Prints a difference: byte by byte into files and pipes, harmless on a terminal.
pub(super) fn print_patch(diff: &Diff) -> anyhow::Result<()> {
    let out = io::stdout();
    if out.is_terminal() {
        return crate::cli::print(&harmless_lines(diff.text().as_bstr()));
    }
    let mut out = out.lock();
    for file in &diff.files {
        out.write_all(&file.patch).context("write to standard output")?;
    }
    out.flush().context("write to standard output")
}

fn stat(diff: &Diff) -> anyhow::Result<String> {
    let mut out = String::new();
    let (mut added, mut removed) = (0, 0);
    for file in &diff.files {
        let mut path = harmless(file.change.path.as_bstr());
        if file.change.old_path.is_some() {
            path = format!("{} => {path}", harmless(file.change.path_before()));
        }
        let counts = match (file.added, file.removed, file.content) {
            (Some(plus), Some(minus), _) => {
                added += u64::from(plus);
                removed += u64::from(minus);
                format!("+{plus} -{minus}")
            }
            (_, _, PatchContent::Binary) => "binary".to_owned(),
            (_, _, PatchContent::TooLarge) => "too large".to_owned(),
            _ => "not compared".to_owned(),
        };
        writeln!(out, "{counts:>14}  {path}")?;
    }
    if !diff.files.is_empty() {
        writeln!(out, "{}, +{added} -{removed}", files(diff.files.len()))?;
    }
    Ok(out)
}
