//! The files of a workspace, from one commit to another, in two steps between which the ref moves.
//!
//! [`prepare`] looks whether it can be done without losing anything, puts the new contents beside the workspace and writes a journal; nothing is visible then.
//! The caller moves the ref, and [`Prepared::finish`] gives the contents their places. Who is killed in between leaves the journal: whoever locks the workspace
//! next finishes ([`recover`]) if the ref has moved, and forgets it otherwise.
//!
//! The agent may write at any moment. So a file is never overwritten: the new one and the old one change places, and what came out is compared with what was
//! there when it was prepared. If it is something else, the agent's is put back.

mod apply;
mod error;
mod look;
mod place;

use std::{
    io,
    sync::atomic::AtomicBool,
    time::{Duration, Instant, SystemTime},
};

use bstr::{BStr, BString, ByteSlice as _};
use gix::{
    hash::{ObjectId, oid},
    objs::tree::EntryKind,
};
use rustix::fs::{self as sys, AtFlags};

use super::{FileStat, Held, TrackedFile, WorkspaceError, beneath::Seen, journal::Plan};
use crate::repo::{RefValue, TreeChange, is_ancestor};

pub(super) use apply::{Fate, apply};
pub use error::TransitionError;
pub(super) use look::stage;
pub(super) use place::{Place, is_left_over};

use place::forget;

/// With more files than this, one flush of the file system is cheaper than one of each.
const SYNC_EACH: usize = 48;
/// How long git may have the index locked before it is left as it is.
const INDEX_WAIT: Duration = Duration::from_secs(2);

/// What files hold: objects, through whatever the workspace's attributes say.
pub(super) trait Contents {
    /// The bytes of a file or the target of a link, as they stand in the workspace.
    fn bytes(&mut self, path: &BStr, kind: EntryKind, id: &oid) -> Result<Vec<u8>, TransitionError>;
    /// Whether the file that was seen is known to hold this, without looking into it.
    fn is_known(&mut self, path: &BStr, kind: EntryKind, id: &oid, stat: &FileStat) -> bool;
    /// Whether bytes of a file become this object when they are recorded.
    fn records_as(&mut self, path: &BStr, kind: EntryKind, id: &oid, bytes: &[u8]) -> Result<bool, TransitionError>;
    /// Whether a file that is not there is not missed (sparse checkouts).
    fn is_skipped(&mut self, path: &BStr) -> bool;
}

/// What became of the files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Applied {
    /// The paths that are now as the commit has them.
    pub(crate) updated: Vec<BString>,
    /// The paths that are not, and why. What is there is the agent's, and the next checkpoint records it.
    pub(crate) left: Vec<(BString, &'static str)>,
    /// Git has the index locked, and for how long: it does not say so yet.
    pub(crate) index_locked: Option<Duration>,
}

/// Files that wait for a ref. If it is dropped, the journal stays, and whoever locks the workspace next asks the ref.
#[derive(Debug)]
#[must_use]
pub(crate) struct Prepared {
    plan: Plan,
}

/// Makes everything ready for the files to go from one tree to another. `changes` are the paths in which the trees differ, and the workspace is at the first.
pub(crate) fn prepare(
    held: &mut Held<'_>,
    changes: &[TreeChange],
    to_commit: &oid,
    reference: &BStr,
    from_commit: Option<&oid>,
) -> Result<Prepared, TransitionError> {
    let (root, git_dir) = (held.root().to_owned(), held.git_dir().to_owned());
    let place = Place::open(&root, &git_dir)?;
    let mut contents = super::contents::Stored::new(held, changes)?;
    match stage(&place, &mut contents, changes, to_commit, reference, from_commit) {
        Ok(plan) => Ok(Prepared { plan }),
        Err(err) => {
            // What stays is removed by whoever locks the workspace next.
            let _ = forget(&root, &git_dir);
            Err(err)
        }
    }
}

impl Prepared {
    /// Gives the contents their places. The ref has moved: what cannot be placed is told, and is no reason to stop.
    pub(crate) fn finish(self, held: &mut Held<'_>) -> Result<Applied, TransitionError> {
        let (root, git_dir) = (held.root().to_owned(), held.git_dir().to_owned());
        let place = Place::open_as(&root, &git_dir, self.plan.stage_in_root)?;
        held.forget_lag();
        finish_at(held, &place, &self.plan)
    }

    /// Forgets it: the ref did not move.
    pub(crate) fn abandon(self, held: &mut Held<'_>) {
        let git_dir = held.git_dir().to_owned();
        if let Err(error) = forget(held.root(), &git_dir) {
            tracing::warn!(%error, path = %git_dir.display(), "what was prepared for a workspace is left for its next user to remove");
        }
    }
}

fn finish_at(held: &mut Held<'_>, place: &Place, plan: &Plan) -> Result<Applied, TransitionError> {
    let fates = apply(place, plan).map_err(|source| place.io("change the files of", source))?;
    let applied = track(held, place, plan, &fates)?;
    settle(place, plan).map_err(|source| place.io("tidy up after changing the files of", source))?;
    Ok(applied)
}

/// Finishes or forgets what a killed process has left. What it did, if it finished something.
pub(super) fn recover(held: &mut Held<'_>) -> Result<Option<Applied>, WorkspaceError> {
    let (root, git_dir) = (held.root().to_owned(), held.git_dir().to_owned());
    if !is_left_over(&root, &git_dir) {
        return Ok(None);
    }
    let io = |source| WorkspaceError::Io {
        doing: "finish what another process began in",
        path: root.clone(),
        source,
    };
    if let Some(plan) = Plan::read(&git_dir).map_err(io)? {
        let value = held.repository().ref_value(plan.reference.as_bstr())?;
        // Past it, too: the agent may have committed since.
        let moved = match value {
            RefValue::Id(tip) => tip == plan.to || follows(held, &plan.to, &tip),
            _ => false,
        };
        if moved {
            let as_workspace = |err| match err {
                TransitionError::Workspace(err) => err,
                TransitionError::Objects(err) => err.into(),
                other => io(io::Error::other(other)),
            };
            let place = Place::open_as(&root, &git_dir, plan.stage_in_root).map_err(as_workspace)?;
            let applied = finish_at(held, &place, &plan).map_err(as_workspace)?;
            tracing::info!(
                path = %root.display(), updated = applied.updated.len(), left = applied.left.len(),
                "finished what another process began"
            );
            return Ok(Some(applied));
        }
    }
    forget(&root, &git_dir).map_err(io)?;
    Ok(None)
}

/// Whether a commit has another one in its history. What cannot be found out is not so.
fn follows(held: &Held<'_>, ancestor: &ObjectId, tip: &ObjectId) -> bool {
    let repository = held.repository();
    let shallow = repository.shallow().unwrap_or_default();
    let stop = AtomicBool::new(false);
    repository
        .odb()
        .is_ok_and(|odb| is_ancestor(&odb, ancestor, tip, &shallow, &stop).unwrap_or(false))
}

/// Lets the index say what is there now.
fn track(held: &mut Held<'_>, place: &Place, plan: &Plan, fates: &[Fate]) -> Result<Applied, TransitionError> {
    let mut applied = Applied::default();
    for (a_move, fate) in plan.moves.iter().zip(fates) {
        match fate {
            Fate::Done => applied.updated.push(a_move.path.clone()),
            Fate::Left(why) => applied.left.push((a_move.path.clone(), why)),
        }
    }
    if plan.moves.iter().any(|a_move| a_move.path.ends_with(b".gitattributes")) {
        held.state.attributes = None;
    }
    note(held, place, plan, fates)?;
    let deadline = Instant::now() + INDEX_WAIT;
    loop {
        // The index is that of the branch: what happens beside it is not in it.
        if held.head()?.branch.as_ref() != Some(&plan.reference) {
            return Ok(applied);
        }
        let Err(age) = held.write_index()? else {
            return Ok(applied);
        };
        // Who has had it for longer does not let go of it in a moment.
        if age >= INDEX_WAIT || Instant::now() >= deadline {
            // The files say it, too: whoever looks at them next finds the same.
            tracing::warn!(path = %place.root.display(), "the index is in use by another program and was not brought up to date");
            applied.index_locked = Some(age);
            return Ok(applied);
        }
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

fn note(held: &mut Held<'_>, place: &Place, plan: &Plan, fates: &[Fate]) -> Result<(), WorkspaceError> {
    let now = SystemTime::now();
    held.tracked()?;
    for a_move in &plan.moves {
        let path = a_move.path.as_bstr();
        if a_move.to.is_none() && held.known().get(path).is_some() {
            held.put(path, None);
        }
    }
    for (a_move, fate) in plan.moves.iter().zip(fates) {
        let (path, Some((kind, id))) = (a_move.path.as_bstr(), a_move.to) else {
            continue;
        };
        let stat = match place.files.spot(path) {
            Ok(Ok(spot)) => sys::statat(&spot.dir, spot.name.as_bytes(), AtFlags::SYMLINK_NOFOLLOW).ok(),
            _ => None,
        };
        // Only of what we put there is known what it holds. What was there already may be in the agent's hands.
        let known = match (fate, a_move.act.staged()) {
            (Fate::Done, Some(staged)) => stat.filter(|stat| Seen::of(stat) == staged),
            _ => None,
        };
        let skipped = held
            .known()
            .get(path)
            .map_or(0, |file| file.flags & TrackedFile::SKIP_WORKTREE);
        let stat = known.map(|stat| FileStat::of(&stat)).unwrap_or_default();
        let flags = match known {
            Some(_) if stat.is_fresh(now) => TrackedFile::RACY,
            Some(_) => 0,
            None => skipped | TrackedFile::RACY,
        };
        held.put(path, Some(TrackedFile { id, stat, kind, flags }));
    }
    Ok(())
}

/// Nothing is left to be done.
pub(super) fn settle(place: &Place, plan: &Plan) -> io::Result<()> {
    debug_assert_eq!(place.stage_in_root, plan.stage_in_root);
    forget(&place.root, &place.git_dir)
}
