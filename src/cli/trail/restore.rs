use std::fmt::Write as _;

use anyhow::bail;
use bstr::{BStr, ByteSlice as _};
use gix::hash::ObjectId;

use super::{
    args,
    place::{Opened, wipe},
    record::{beside, head, left_out, warn},
    text::{change_line, files, harmless, list, short},
};
use crate::{
    checkpoint::{self, Conflict, DiffOptions, RestoreOptions, Restored, Undone},
    web::{ConflictsView, RestoredView},
};

pub(super) fn restore(wanted: &args::Restore) -> anyhow::Result<()> {
    let opened = wanted.at.open(|options| wanted.how.lay_over(options))?;
    let commit = opened.revision(&wanted.checkpoint)?;
    let options = RestoreOptions {
        paths: opened.paths(&wanted.paths)?,
        dry_run: wanted.dry_run,
        ..RestoreOptions::default()
    };
    let restored = opened.workspace.restore(&commit, &options);
    wipe();
    let restored = restored?;
    print(&opened, &restored, wanted.dry_run, wanted.json)?;
    warn(&opened.settle());
    Ok(())
}

pub(super) fn undo(wanted: &args::Undo) -> anyhow::Result<()> {
    let opened = wanted.at.open(|options| wanted.how.lay_over(options))?;
    let commit = opened.revision(&wanted.checkpoint)?;
    let options = RestoreOptions {
        dry_run: wanted.dry_run,
        ..RestoreOptions::default()
    };
    let undone = opened.workspace.undo(&commit, &options);
    wipe();
    match undone? {
        Undone::Done(restored) => {
            print(&opened, &restored, wanted.dry_run, wanted.json)?;
            warn(&opened.settle());
            Ok(())
        }
        Undone::Conflicts(conflicts) => refuse(&commit, &conflicts, wanted.json),
    }
}

fn print(opened: &Opened, restored: &Restored, dry_run: bool, json: bool) -> anyhow::Result<()> {
    if json {
        return super::print_json(&RestoredView::of(restored, dry_run));
    }
    let mut out = String::new();
    match &restored.commit {
        Some(commit) => {
            let shown = checkpoint::show(opened.workspace.repository(), commit, &DiffOptions::default())?;
            let subject = harmless(BStr::new(&shown.commit.subject()));
            let count = files(restored.changed);
            writeln!(
                out,
                "{} {subject}  ({count})",
                head(&restored.reference, &short(commit))
            )?;
        }
        None if restored.changed == 0 => out.push_str("nothing has to change\n"),
        None => writeln!(out, "this would change {}:", files(restored.changed))?,
    }
    list(&mut out, restored.changes.iter().map(change_line), restored.changed);
    match restored.saved {
        Some(saved) => writeln!(out, "  unsaved work is saved in {}", short(&saved))?,
        None if dry_run && restored.was_unsaved => {
            out.push_str("  there is unsaved work; it would be saved first\n");
        }
        None => {}
    }
    out.push_str(beside(restored.placed).unwrap_or_default());
    for (path, why) in &restored.left {
        writeln!(out, "  not restored: {} ({why})", harmless(path.as_bstr()))?;
    }
    left_out(&mut out, &restored.skipped);
    crate::cli::print(&out)
}

fn refuse(commit: &ObjectId, conflicts: &[Conflict], json: bool) -> anyhow::Result<()> {
    if json {
        super::print_json(&ConflictsView::from(conflicts))?;
    } else {
        let mut out = String::new();
        let line = |conflict: &Conflict| format!("{}: {}", harmless(conflict.path.as_bstr()), conflict.kind.text());
        list(&mut out, conflicts.iter().map(line), conflicts.len());
        crate::cli::print(&out)?;
    }
    bail!(
        "{} cannot be taken back: what was done since does not go together with it in {}; nothing has changed",
        short(commit),
        files(conflicts.len())
    );
}
