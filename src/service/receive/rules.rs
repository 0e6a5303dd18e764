use std::collections::HashSet;

use bstr::{BString, ByteSlice};

use crate::repo::{Deny, Head, Odb, Repository, is_ancestor};

use super::{
    super::{Context, ServiceError, band::Band, wants::hidden},
    Command, replaced,
};

/// What a repository's configuration says about ref commands, and what is checked out.
pub(super) struct Rules<'a> {
    repo: &'a Repository,
    ctx: &'a Context<'a>,
    /// Full names of branches that some working tree is on.
    checked_out: HashSet<BString>,
    /// The full name of the branch that HEAD names, checked out or not.
    current: Option<BString>,
}

impl<'a> Rules<'a> {
    pub(super) fn load(repo: &'a Repository, ctx: &'a Context<'a>) -> Result<Self, ServiceError> {
        let current = match repo.head(ctx.namespace)? {
            Head::Symbolic { target, .. } => Some(ctx.full_name(target.as_bstr())),
            _ => None,
        };
        Ok(Rules {
            repo,
            ctx,
            checked_out: repo.checked_out_branches()?.into_iter().collect(),
            current,
        })
    }

    /// Whether some working tree is on a branch, given by its full name.
    pub(super) fn is_checked_out(&self, branch: &BString) -> bool {
        self.checked_out.contains(branch)
    }

    /// The reason to refuse a command, if there is one. Details go to the client's terminal.
    pub(super) fn check(
        &self,
        odb: &Odb,
        command: &Command,
        band: &mut Band<'_>,
    ) -> Result<Option<String>, ServiceError> {
        let refuse = |band: &mut Band<'_>, detail: String, reason: &str| {
            band.warn(&format!("error: {detail}\n")).map_err(ServiceError::Write)?;
            Ok(Some(reason.to_owned()))
        };
        let (name, deletes) = (command.name.as_bstr(), command.new.is_null());
        let receive = &self.repo.settings().receive;
        if hidden(self.ctx, &self.repo.settings().hide_refs_receive, name) {
            let reason = if deletes {
                "deny deleting a hidden ref"
            } else {
                "deny updating a hidden ref"
            };
            return Ok(Some(reason.to_owned()));
        }
        if replaced::is_kept(self.repo, name) {
            return Ok(Some("it keeps what was replaced".to_owned()));
        }
        if !is_ref_name(name, deletes) {
            return refuse(
                band,
                format!("refusing to update funny ref '{}' remotely", printable(name)),
                "funny refname",
            );
        }
        let shown = printable(name);
        let checked_out = self.checked_out.contains(&command.full);
        if checked_out && !deletes && !command.is_live {
            match receive.deny_current_branch {
                Deny::Ignore => {}
                Deny::Warn => {
                    band.warn(&format!("warning: updating the current branch {shown}\n"))
                        .map_err(ServiceError::Write)?;
                }
                Deny::Refuse | Deny::UpdateInstead => {
                    let detail = format!(
                        "refusing to update checked out branch: {shown}\nerror: a working tree on the server has it checked out and would be out of step \
                         with it;\nerror: set receive.denyCurrentBranch to 'ignore' or 'warn' in that repository to allow it"
                    );
                    return refuse(band, detail, "branch is currently checked out");
                }
            }
        }
        if !deletes && !odb.contains(&command.new)? {
            return refuse(
                band,
                format!("unpack should have generated {}, but it is not here", command.new),
                "bad pack",
            );
        }
        if deletes && !command.old.is_null() {
            if receive.deny_deletes && name.starts_with(b"refs/heads/") {
                return refuse(band, format!("denying ref deletion for {shown}"), "deletion prohibited");
            }
            if checked_out || self.current.as_ref() == Some(&command.full) {
                match receive.deny_delete_current {
                    Deny::Ignore => {}
                    Deny::Warn => {
                        band.warn("warning: deleting the current branch\n")
                            .map_err(ServiceError::Write)?;
                    }
                    Deny::Refuse | Deny::UpdateInstead => {
                        let why = if self.current.as_ref() == Some(&command.full) {
                            "HEAD of the repository points to it; point HEAD to another branch first, or set receive.denyDeleteCurrent to 'ignore' or 'warn'"
                        } else {
                            "a working tree on the server has it checked out; remove that, or let it go to another branch, first"
                        };
                        let detail = format!("refusing to delete the current branch: {shown}\nerror: {why}");
                        return refuse(band, detail, "deletion of the current branch prohibited");
                    }
                }
            }
        }
        if receive.deny_non_fast_forwards && !deletes && !command.old.is_null() && name.starts_with(b"refs/heads/") {
            for id in [&command.old, &command.new] {
                if odb.header(id)?.map(|(kind, _)| kind) != Some(gix::objs::Kind::Commit) {
                    return refuse(band, format!("bad object for {shown}: {id} is not a commit"), "bad ref");
                }
            }
            let shallow = self.repo.shallow()?;
            if !is_ancestor(odb, &command.old, &command.new, &shallow, self.ctx.stop)? {
                let detail = format!("denying non-fast-forward {shown} (you should pull first)");
                return refuse(band, detail, "non-fast-forward");
            }
        }
        Ok(None)
    }
}

/// git-check-ref-format(1) below `refs/`; what is to be created also needs a second level.
fn is_ref_name(name: &bstr::BStr, deletes: bool) -> bool {
    let Some(rest) = name.strip_prefix(b"refs/") else {
        return false;
    };
    (deletes || rest.contains(&b'/')) && name.len() <= 1024 && gix::validate::reference::name(name).is_ok()
}

/// A name as it may stand in someone's terminal.
pub(super) fn printable(name: &bstr::BStr) -> String {
    name.to_str_lossy()
        .chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::is_ref_name;

    #[test]
    fn names_are_judged_as_git_does() {
        for good in [
            "refs/heads/main",
            "refs/heads/a/b",
            "refs/tags/v1.0",
            "refs/notes/commits",
            "refs/x/ü",
        ] {
            assert!(is_ref_name(good.into(), false), "{good}");
        }
        for bad in [
            "HEAD",
            "heads/main",
            "refs/",
            "refs/foo",
            "refs/heads/",
            "refs/heads//a",
            "refs/heads/.a",
            "refs/heads/a.lock",
            "refs/heads/a..b",
            "refs/heads/a b",
            "refs/heads/a\x7f",
            "refs/heads/a^",
            "refs/heads/@{",
            "refs/heads/a/",
            "refs/../x",
            "refs/heads/a\\b",
            "refs/heads/a:",
            "refs/heads/a?",
            "refs/heads/*",
            "refs/heads/[",
            "refs/heads/a.",
        ] {
            assert!(!is_ref_name(bad.into(), false), "{bad}");
        }
        assert!(
            is_ref_name("refs/stash".into(), true),
            "what has one level can be deleted"
        );
    }
}
