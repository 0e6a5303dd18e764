//! What a push takes away from a branch or a tag stays reachable, where the repository says so.

use bstr::{BString, ByteSlice};
use gix::{hash::ObjectId, objs::Kind};

use super::{Job, RefLog, RefUpdate, rules::printable};
use crate::{
    repo::{Odb, is_ancestor},
    service::{Context, ServiceError, band::Band},
};

/// Where it is kept: `refs/heads/main` at `<here>/heads/main/<id>`. The same state is kept once, however often it is replaced.
const KEPT: &[u8] = b"refs/gitstead/replaced/";

/// Whether a push may not touch a ref, since it holds what a push took away.
pub(super) fn is_kept(repo: &crate::repo::Repository, name: &bstr::BStr) -> bool {
    repo.settings().receive.keep_replaced && name.starts_with(KEPT)
}

impl Job<'_> {
    /// Before refs move: gives a ref to what each command would leave without one. A command whose past cannot be kept is refused.
    pub(super) fn keep_replaced(&mut self, log: &RefLog, band: &mut Band<'_>) -> Result<(), ServiceError> {
        if !self.repo.settings().receive.keep_replaced {
            return Ok(());
        }
        let odb = self.repo.odb()?;
        let shallow = self.repo.shallow()?;
        for n in 0..self.commands.len() {
            let command = &self.commands[n];
            let Some(rest) = command.name.strip_prefix(b"refs/") else {
                continue;
            };
            let is_told = rest.starts_with(b"heads/") || rest.starts_with(b"tags/");
            let (old, new) = (command.old, command.new);
            if command.refused.is_some() || !is_told || old.is_null() || !odb.contains(&old)? {
                continue;
            }
            if follows(&odb, old, new, &shallow, self.ctx)? {
                continue;
            }
            let mut kept = BString::from(KEPT);
            kept.extend_from_slice(rest);
            kept.push(b'/');
            kept.extend_from_slice(old.to_string().as_bytes());
            let full = self.ctx.full_name(kept.as_bstr());
            let shown = printable(command.name.as_bstr());
            if self.repo.find_ref(full.as_bstr())?.is_none() {
                let update = RefUpdate {
                    name: full,
                    old: None,
                    new: Some(old),
                };
                let outcomes = self.repo.update_refs(std::slice::from_ref(&update), true, log);
                // Another push may have kept the same meanwhile.
                let is_there = matches!(&outcomes, Ok(outcomes) if outcomes.iter().all(|one| one.is_ok()))
                    || self.repo.find_ref(update.name.as_bstr())?.is_some();
                if !is_there {
                    tracing::error!(name = %shown, ?outcomes, "what a push replaces could not be kept");
                    self.commands[n].refused = Some("failed to keep what it replaces".to_owned());
                    continue;
                }
            }
            let note = format!("note: what {shown} was is kept as {}\n", printable(kept.as_bstr()));
            band.warn(&note).map_err(ServiceError::Write)?;
        }
        Ok(())
    }
}

/// Whether everything of `old` is in `new`.
fn follows(
    odb: &Odb,
    old: ObjectId,
    new: ObjectId,
    shallow: &[ObjectId],
    ctx: &Context<'_>,
) -> Result<bool, ServiceError> {
    if old == new {
        return Ok(true);
    }
    if new.is_null() {
        return Ok(false);
    }
    for id in [&old, &new] {
        if odb.header(id)?.map(|(kind, _)| kind) != Some(Kind::Commit) {
            return Ok(false);
        }
    }
    Ok(is_ancestor(odb, &old, &new, shallow, ctx.stop)?)
}
