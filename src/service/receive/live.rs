//! Branches that somebody works on: their files go where the branch goes.
//!
//! A workspace is taken before anything of the push is published. What is unsaved in it becomes a commit, and the push must follow that commit. Its new files are
//! made ready before the refs move and get their places afterwards, so that refs and files move together or not at all.

use bstr::{BString, ByteSlice as _};

use crate::{
    repo::{Deny, Odb, RefValue, is_ancestor},
    service::{LiveError, LiveWorktree, ServiceError, TakenWorktree, band::Band},
};

use super::{Job, rules::printable};

/// How a working tree takes a push.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    /// git's `updateInstead`: only if nothing is unsaved.
    Clean,
    /// What is unsaved is saved first.
    Save,
}

/// A working tree that a command concerns.
pub(super) struct Found {
    command: usize,
    rule: Rule,
    tree: Box<dyn LiveWorktree>,
}

/// One that nobody else changes.
pub(super) struct Taken<'f> {
    command: usize,
    name: &'f str,
    tree: Box<dyn TakenWorktree + 'f>,
}

impl Job<'_> {
    /// The working trees that shall follow their branches: by the repository's own word, else if they are workspaces. Their commands are marked.
    pub(super) fn find_live(&mut self, checked_out: &dyn Fn(&BString) -> bool) -> Vec<Found> {
        let receive = &self.repo.settings().receive;
        let is_set = self.repo.settings().get("receive.denycurrentbranch").is_some();
        let rule = match (is_set, receive.deny_current_branch) {
            (true, Deny::UpdateInstead) => Rule::Clean,
            (true, _) => return Vec::new(),
            (false, _) => Rule::Save,
        };
        let Some(worktrees) = self.ctx.worktrees else {
            return Vec::new();
        };
        let mut found = Vec::new();
        for (n, command) in self.commands.iter_mut().enumerate() {
            if command.refused.is_some() || command.new.is_null() || !checked_out(&command.full) {
                continue;
            }
            match worktrees.on_branch(self.repo, command.full.as_bstr()) {
                Ok(Some(tree)) if rule == Rule::Clean || tree.is_workspace() => {
                    command.is_live = true;
                    found.push(Found { command: n, rule, tree });
                }
                Ok(_) => {}
                Err(err) => {
                    log(&err, "a workspace could not be opened for a push");
                    command.refused = Some(err.reason);
                }
            }
        }
        // In the same order by everybody, so that two pushes never wait for one another.
        found.sort_by(|a, b| a.tree.name().cmp(b.tree.name()));
        found
    }

    /// Takes the working trees, saves what is unsaved in them, and refuses what does not follow that.
    pub(super) fn take_live<'f>(
        &mut self,
        found: &'f [Found],
        odb: &Odb,
        band: &mut Band<'_>,
    ) -> Result<Vec<Taken<'f>>, ServiceError> {
        let mut taken = Vec::new();
        for one in found {
            if self.commands[one.command].refused.is_some() {
                continue;
            }
            band.alive().map_err(ServiceError::Write)?;
            match self.take_one(one, odb, band)? {
                Ok(tree) => taken.push(tree),
                Err(err) => self.refuse_live(one.command, one.tree.name(), err, band)?,
            }
        }
        Ok(taken)
    }

    fn take_one<'f>(
        &self,
        one: &'f Found,
        odb: &Odb,
        band: &mut Band<'_>,
    ) -> Result<Result<Taken<'f>, LiveError>, ServiceError> {
        let command = &self.commands[one.command];
        let name = one.tree.name();
        let state = one.tree.take().and_then(|mut tree| {
            let state = match one.rule {
                Rule::Clean => tree.require_clean()?,
                Rule::Save => tree.save()?,
            };
            Ok((tree, state))
        });
        let (tree, state) = match state {
            Ok(taken) => taken,
            Err(err) => return Ok(Err(err)),
        };
        if let Some(saved) = state.saved {
            let text = format!(
                "workspace {name}: unsaved work is commit {} now\n",
                saved.to_hex_with_len(12)
            );
            band.warn(&text).map_err(ServiceError::Write)?;
        }
        let refuse = |reason: &str, detail: String| {
            Ok(Err(LiveError {
                reason: reason.to_owned(),
                detail: Some(detail),
                source: None,
            }))
        };
        let old = (!command.old.is_null()).then_some(command.old);
        if state.tip != old {
            let detail = format!(
                "the agent's work is ahead of what you pushed to {}",
                printable(command.name.as_bstr())
            );
            return refuse("fetch first", detail);
        }
        if let (Rule::Save, Some(old)) = (one.rule, old) {
            let shallow = self.repo.shallow()?;
            if old != command.new && !is_ancestor(odb, &old, &command.new, &shallow, self.ctx.stop)? {
                let detail = "only what follows the agent's work can be pushed to its branch; revert commits instead of removing them";
                return refuse("non-fast-forward", detail.to_owned());
            }
        }
        Ok(Ok(Taken {
            command: one.command,
            name,
            tree,
        }))
    }

    /// Makes the files ready. The objects are the repository's own by now.
    pub(super) fn prepare_live(&mut self, taken: &mut Vec<Taken<'_>>, band: &mut Band<'_>) -> Result<(), ServiceError> {
        let mut n = 0;
        while let Some(one) = taken.get_mut(n) {
            let command = &self.commands[one.command];
            let prepared = match command.refused {
                Some(_) => None,
                None => Some(one.tree.prepare(&command.new)),
            };
            match prepared {
                Some(Ok(())) => n += 1,
                outcome => {
                    let one = taken.remove(n);
                    if let Some(Err(err)) = outcome {
                        self.refuse_live(one.command, one.name, err, band)?;
                    }
                    one.tree.abandon();
                }
            }
        }
        Ok(())
    }

    /// The refs have moved, or have not: the files follow.
    pub(super) fn finish_live(&self, taken: Vec<Taken<'_>>, band: &mut Band<'_>) -> Result<(), ServiceError> {
        // Nobody's absence keeps files from following their branch.
        let mut told = Ok(());
        for one in taken {
            let command = &self.commands[one.command];
            // Asked, not remembered: a client that has gone may have cut short what was to be remembered.
            let value = self.repo.ref_value(command.full.as_bstr());
            if command.refused.is_some() || !matches!(value, Ok(RefValue::Id(id)) if id == command.new) {
                one.tree.abandon();
                continue;
            }
            let mut text = format!("workspace {}: ", one.name);
            match one.tree.finish() {
                Ok(outcome) => {
                    let s = if outcome.updated == 1 { "" } else { "s" };
                    text.push_str(&format!("{} file{s} updated\n", outcome.updated));
                    for (path, why) in &outcome.left {
                        let path = printable(path.as_bstr());
                        text.push_str(&format!("workspace {}: '{path}' was not: {why}\n", one.name));
                    }
                    if let Some(age) = outcome.index_locked {
                        text.push_str(&format!(
                            "workspace {}: index.lock has been there for {} s: git is at work in it, or was killed there; until it is gone, git there takes these files for changed\n",
                            one.name,
                            age.as_secs()
                        ));
                    }
                }
                Err(err) => {
                    log(&err, "the files of a workspace do not follow its branch yet");
                    text.push_str("its files follow when it is next used\n");
                }
            }
            told = told.and_then(|()| band.warn(&text));
        }
        told.map_err(ServiceError::Write)
    }

    fn refuse_live(
        &mut self,
        command: usize,
        name: &str,
        err: LiveError,
        band: &mut Band<'_>,
    ) -> Result<(), ServiceError> {
        log(&err, "a workspace does not take a push");
        if let Some(detail) = &err.detail {
            band.warn(&format!("error: workspace {name}: {detail}\n"))
                .map_err(ServiceError::Write)?;
        }
        self.commands[command].refused = Some(err.reason);
        Ok(())
    }
}

fn log(err: &LiveError, what: &'static str) {
    let error: &dyn std::error::Error = err;
    tracing::info!(error, "{what}");
}
