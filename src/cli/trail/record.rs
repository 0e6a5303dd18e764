use std::{
    fmt::Write as _,
    io::{self, Write as _},
};

use bstr::{BStr, BString, ByteSlice as _};

use super::{
    args::Record,
    place::wipe,
    text::{files, harmless, list, ref_name, short},
};
use crate::{
    checkpoint::{Outcome, Placed, compose, subject_of},
    web::OutcomeView,
    workspace::SkipReason,
};

pub(super) fn run(wanted: &Record) -> anyhow::Result<()> {
    let opened = wanted.at.open(|options| wanted.how.lay_over(options))?;
    let checkpoint = wanted.checkpoint();
    let subject = subject_of(compose(&checkpoint).as_bstr());
    let made = opened.workspace.checkpoint(checkpoint);
    wipe();
    let outcome = made?;
    if wanted.json {
        super::print_json(&OutcomeView::from(&outcome))?;
    } else {
        crate::cli::print(&told(&outcome, &subject))?;
    }
    warn(&outcome.warnings);
    warn(&opened.settle());
    Ok(())
}

fn told(outcome: &Outcome, subject: &str) -> String {
    let mut out = String::new();
    match outcome.commit {
        Some(commit) => {
            let count = match outcome.changed {
                0 => "nothing changed".to_owned(),
                changed => files(changed),
            };
            let subject = harmless(BStr::new(subject));
            out = format!("{} {subject}  ({count})\n", head(&outcome.reference, &short(&commit)));
        }
        None => {
            let _ = writeln!(
                out,
                "[{}] nothing changed, nothing recorded",
                ref_name(outcome.reference.as_bstr())
            );
        }
    }
    out.push_str(beside(outcome.placed).unwrap_or_default());
    left_out(&mut out, &outcome.skipped);
    out
}

/// `[main 1a2b3c4d5e]`
pub(super) fn head(reference: &BString, commit: &str) -> String {
    format!("[{} {commit}]", ref_name(reference.as_bstr()))
}

/// Why a checkpoint is not on the branch, where nobody asked for that.
pub(super) fn beside(placed: Placed) -> Option<&'static str> {
    match placed {
        Placed::Branch | Placed::Shadow => None,
        Placed::Detached => Some("  it is beside the history: HEAD names no branch\n"),
        Placed::InProgress(_) => Some("  it is beside the branch: git is in the middle of something here\n"),
    }
}

pub(super) fn left_out(out: &mut String, skipped: &[(BString, SkipReason)]) {
    let line = |(path, why): &(BString, SkipReason)| {
        let path = harmless(path.as_bstr());
        match why {
            SkipReason::NestedRepository | SkipReason::Encoding => format!("not as it is: {path} ({})", why.text()),
            _ => format!("left out: {path} ({})", why.text()),
        }
    };
    list(out, skipped.iter().map(line), skipped.len());
}

pub(super) fn warn(warnings: &[String]) {
    let mut err = io::stderr().lock();
    for warning in warnings {
        // Nobody reads it: the checkpoint is there all the same.
        let _ = writeln!(err, "warning: {}", harmless(BStr::new(warning)));
    }
}
