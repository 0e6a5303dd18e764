use std::collections::HashSet;

use bstr::{BStr, BString, ByteSlice};
use gix::hash::ObjectId;

use crate::{
    protocol::RequestError,
    repo::{Head, HideRefs, Odb, Ref, RefQuery, Repository, unreachable_of},
};

use super::{Context, ServiceError};

/// The refs that one side of the server shows to this client, in the client's words.
pub(super) struct Visible {
    pub(super) head: Head,
    pub(super) refs: Vec<Ref>,
}

impl Visible {
    pub(super) fn load(
        repo: &Repository,
        ctx: &Context<'_>,
        hide: &HideRefs,
        prefixes: Vec<BString>,
        peel: bool,
    ) -> Result<Visible, ServiceError> {
        let mut refs = repo.refs(&RefQuery {
            namespace: ctx.namespace.map(BStr::to_owned),
            prefixes,
            peel,
        })?;
        let mut head = repo.head(ctx.namespace)?;
        refs.retain(|r| !hidden(ctx, hide, r.name.as_bstr()));
        if hidden(ctx, hide, b"HEAD".as_bstr()) {
            head = Head::Missing;
        }
        Ok(Visible { head, refs })
    }

    /// Every object that a ref shown points to, HEAD included.
    pub(super) fn tips(&self) -> impl Iterator<Item = ObjectId> {
        self.head.id().into_iter().chain(self.refs.iter().map(|r| r.id))
    }
}

pub(super) fn hidden(ctx: &Context<'_>, hide: &HideRefs, name: &BStr) -> bool {
    if hide.is_empty() {
        return false;
    }
    hide.is_hidden(name, ctx.full_name(name).as_bstr())
}

/// How far a client's wants reach, by the protocol's version and the repository's configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WantPolicy {
    /// Whatever is here.
    Any,
    /// What refs point to, hidden ones included, and whatever is reachable from refs that are shown.
    TipOrReachable,
    /// Whatever is reachable from refs that are shown.
    Reachable,
}

impl WantPolicy {
    /// Version 2 lets a client want any object, since it never learned all refs. Where refs are hidden, or only a namespace is served, that would show
    /// what was hidden, so there the history of what is shown is the bound.
    ///
    /// A stateless server must accept what is reachable even where only tips are allowed, since a tip may have moved on between two requests.
    pub(super) fn of(repo: &Repository, ctx: &Context<'_>, v2: bool) -> WantPolicy {
        let settings = repo.settings();
        let all_shown = settings.hide_refs_upload.is_empty() && ctx.namespace.is_none();
        if settings.uploadpack.allow_any_sha1_in_want || (v2 && all_shown) {
            WantPolicy::Any
        } else if settings.uploadpack.allow_tip_sha1_in_want {
            WantPolicy::TipOrReachable
        } else {
            WantPolicy::Reachable
        }
    }
}

/// Checks that every want is here and may be had.
pub(super) fn check_wants(
    repo: &Repository,
    odb: &Odb,
    ctx: &Context<'_>,
    wants: &[ObjectId],
    policy: WantPolicy,
) -> Result<(), ServiceError> {
    let not_ours = |id: &ObjectId| ServiceError::Request(RequestError::NotOurRef { id: *id });
    for id in wants {
        if !odb.contains(id)? {
            return Err(not_ours(id));
        }
    }
    match beyond(repo, odb, ctx, wants, policy)?.first() {
        Some(id) => Err(not_ours(id)),
        None => Ok(()),
    }
}

/// Those of `ids`, all of which are here, that this client may not have.
pub(super) fn beyond(
    repo: &Repository,
    odb: &Odb,
    ctx: &Context<'_>,
    ids: &[ObjectId],
    policy: WantPolicy,
) -> Result<Vec<ObjectId>, ServiceError> {
    if policy == WantPolicy::Any || ids.is_empty() {
        return Ok(Vec::new());
    }
    let visible = Visible::load(repo, ctx, &repo.settings().hide_refs_upload, Vec::new(), false)?;
    let tips: HashSet<ObjectId> = visible.tips().collect();
    let mut rest: Vec<ObjectId> = ids.iter().filter(|id| !tips.contains(*id)).copied().collect();
    if !rest.is_empty() && policy == WantPolicy::TipOrReachable {
        let query = RefQuery {
            namespace: ctx.namespace.map(BStr::to_owned),
            prefixes: Vec::new(),
            peel: false,
        };
        let hidden: HashSet<ObjectId> = repo.refs(&query)?.iter().map(|r| r.id).collect();
        rest.retain(|id| !hidden.contains(id));
    }
    if rest.is_empty() {
        return Ok(rest);
    }
    let roots: Vec<ObjectId> = tips.into_iter().collect();
    Ok(unreachable_of(odb, &rest, &roots, &repo.shallow()?, ctx.stop)?)
}
