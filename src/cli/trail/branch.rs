use anyhow::bail;
use bstr::ByteSlice as _;
use serde_json::json;

use super::{
    args,
    record::head,
    text::{files, harmless, list, ref_name, short},
};
use crate::{
    checkpoint::{self, Squash, SquashOptions},
    web::ConflictsView,
};

pub(super) fn branch(wanted: &args::Branch) -> anyhow::Result<()> {
    let opened = wanted.at.open(|_| Ok(()))?;
    let commit = opened.revision(&wanted.checkpoint)?;
    let made = checkpoint::create_branch(opened.workspace.repository(), &commit, &wanted.name)?;
    if wanted.json {
        return super::print_json(&json!({ "branch": made.to_string(), "commit": commit.to_string() }));
    }
    crate::cli::print(&format!(
        "branch {} is at {}\n",
        ref_name(made.as_bstr()),
        short(&commit)
    ))
}

pub(super) fn squash(wanted: &args::Squash) -> anyhow::Result<()> {
    let opened = wanted.at.open(|_| Ok(()))?;
    let to = opened.revision(&wanted.to)?;
    let mut options = SquashOptions {
        from: wanted.from.as_deref().map(|text| opened.revision(text)).transpose()?,
        onto: wanted.onto.as_deref().map(|text| opened.revision(text)).transpose()?,
        append: wanted.append,
        message: wanted.message.clone(),
        ..SquashOptions::default()
    };
    if let Some((name, email)) = &wanted.author {
        options.author = (name.clone(), email.clone());
    }
    match checkpoint::squash(opened.workspace.repository(), &to, &wanted.branch, &options)? {
        Squash::Done(done) if wanted.json => super::print_json(&json!({
            "commit": done.commit.to_string(),
            "parent": done.parent.map(|id| id.to_string()),
            "branch": done.branch.to_string(),
            "commits": done.commits,
        })),
        Squash::Done(done) => crate::cli::print(&format!(
            "{} stands for {} commits\n",
            head(&done.branch, &short(&done.commit)),
            done.commits
        )),
        Squash::Conflicts(conflicts) => {
            if wanted.json {
                super::print_json(&ConflictsView::from(conflicts.as_slice()))?;
            } else {
                let mut out = String::new();
                let lines = conflicts
                    .iter()
                    .map(|conflict| format!("{}: {}", harmless(conflict.path.as_bstr()), conflict.kind.text()));
                list(&mut out, lines, conflicts.len());
                crate::cli::print(&out)?;
            }
            bail!(
                "what the range changed does not go together with what it is put on in {}; nothing was made",
                files(conflicts.len())
            );
        }
    }
}
