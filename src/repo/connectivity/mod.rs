//! `connectivity`: is everything that a new tip reaches really here?
//!
//! The proof is never that an object exists: history that is not reachable from any ref may be incomplete, or about to be pruned. What counts is what is reachable
//! from the refs that are there (complete, because every push before this one was checked) and what this check itself has entered. Commits are walked
//! from the new tips until they meet the history of the existing ones; of their trees only what differs from their parents' is entered.

mod commits;
#[cfg(test)]
mod tests;
mod trees;

use std::sync::atomic::{AtomicBool, Ordering};

use gix::{
    hash::{Kind as HashKind, ObjectId, oid},
    objs::Kind,
};

use super::{IngestOutcome, Odb, OdbError, RefQuery, RefsError, Repository, ingest::ids::IdSet};
use crate::base::Fault;

/// Why new tips may not become refs.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectivityError {
    /// Something a new tip reaches is not here, or is not of the kind it must be.
    #[error("missing necessary objects")]
    Missing {
        /// The first such object that was met.
        missing: ObjectId,
    },
    /// The server is stopping or the client has gone.
    #[error("interrupted")]
    Stopped,
    /// The objects could not be read.
    #[error("cannot read objects")]
    Odb(#[from] OdbError),
    /// The refs could not be read.
    #[error(transparent)]
    Refs(#[from] RefsError),
}

impl ConnectivityError {
    /// Whose move it is.
    pub fn fault(&self) -> Fault {
        match self {
            ConnectivityError::Missing { .. } => Fault::Client,
            ConnectivityError::Stopped => Fault::Busy,
            ConnectivityError::Odb(err) => err.fault(),
            ConnectivityError::Refs(err) => err.fault(),
        }
    }
}

/// What a check knows beside the tips.
#[derive(Clone, Copy)]
pub struct Connectivity<'a> {
    /// The objects, those of the quarantine included.
    pub odb: &'a Odb,
    /// What the push brought, if it brought a pack: saves most of the work.
    pub received: Option<&'a IngestOutcome>,
    /// Values of the refs that are there, unpeeled or peeled; ones that do not exist prove nothing and are passed over.
    pub existing_tips: &'a [ObjectId],
    /// Commits that have no parents: the repository's own and those of the push.
    pub shallow: &'a [ObjectId],
    /// Ends the check early.
    pub stop: &'a AtomicBool,
    /// Called again and again while the check goes on, which may be minutes.
    pub tick: &'a dyn Fn(),
}

impl Connectivity<'_> {
    /// Whether everything reachable from all of `new_tips` is here.
    ///
    /// # Errors
    /// `Missing` with one object that is not.
    pub fn check(&self, new_tips: &[ObjectId]) -> Result<(), ConnectivityError> {
        let unproven: Vec<ObjectId> = new_tips.iter().filter(|tip| !self.is_whole(tip)).copied().collect();
        if unproven.is_empty() {
            return Ok(());
        }
        match self.walk(&unproven, false)?.first_bad {
            Some(missing) => Err(ConnectivityError::Missing { missing }),
            None => Ok(()),
        }
    }

    /// Of each of `new_tips`, whether everything reachable from it is here.
    pub fn check_each(&self, new_tips: &[ObjectId]) -> Result<Vec<bool>, ConnectivityError> {
        match self.check(new_tips) {
            Ok(()) => Ok(vec![true; new_tips.len()]),
            Err(ConnectivityError::Missing { .. }) => {
                let unproven: Vec<ObjectId> = new_tips.iter().filter(|tip| !self.is_whole(tip)).copied().collect();
                let walked = self.walk(&unproven, true)?;
                Ok(new_tips
                    .iter()
                    .map(|tip| self.is_whole(tip) || walked.good.contains(tip))
                    .collect())
            }
            Err(err) => Err(err),
        }
    }

    fn is_whole(&self, tip: &ObjectId) -> bool {
        self.received.is_some_and(|received| received.is_whole(tip))
    }

    fn walk(&self, new_tips: &[ObjectId], each: bool) -> Result<commits::Walked, ConnectivityError> {
        let received = |id: &ObjectId| self.received.and_then(|received| received.kind_of(id));
        let input = Input {
            source: self.odb,
            received: self.received.map(|_| &received as &KindOf<'_>),
            existing: self.existing_tips.iter().copied().collect(),
            shallow: self.shallow.iter().copied().collect(),
            stop: self.stop,
            tick: self.tick,
        };
        commits::walk(&input, new_tips, each)
    }
}

/// Whether everything reachable from all of `new_tips` is here; see [`Connectivity`], which also takes what is known about the push.
///
/// # Errors
/// `Missing` with one object that is not.
pub fn check_connectivity(
    odb: &Odb,
    new_tips: &[ObjectId],
    existing_tips: &[ObjectId],
    shallow: &[ObjectId],
    stop: &AtomicBool,
) -> Result<(), ConnectivityError> {
    let connectivity = Connectivity {
        odb,
        received: None,
        existing_tips,
        shallow,
        stop,
        tick: &|| (),
    };
    connectivity.check(new_tips)
}

impl Repository {
    /// What counts as whole: everything that refs point to, alternates' among them.
    ///
    /// # Errors
    /// When refs cannot be read.
    pub(crate) fn existing_tips(&self) -> Result<Vec<ObjectId>, RefsError> {
        let refs = self.refs(&RefQuery::default())?;
        let tips = refs.into_iter().map(|r| r.id);
        Ok(tips.chain(self.alternate_tips()).collect())
    }

    /// Whether everything that `commit` reaches is here, so that a ref may lead to it. What no ref leads to may be incomplete: its objects expire one after
    /// another, and a kill may come in between.
    ///
    /// # Errors
    /// `Missing` with one object that is not here.
    pub fn check_whole(&self, odb: &Odb, commit: &ObjectId) -> Result<(), ConnectivityError> {
        let shallow = self.shallow().unwrap_or_default();
        let tips = self.existing_tips()?;
        check_connectivity(odb, &[*commit], &tips, &shallow, &AtomicBool::new(false))
    }
}

/// Where objects come from.
trait Source {
    fn hash_kind(&self) -> HashKind;
    /// Levels of trees in trees that are followed.
    fn tree_depth(&self) -> usize;
    fn contains(&self, id: &oid) -> Result<bool, OdbError>;
    /// Replaces `out`.
    fn read(&self, id: &oid, out: &mut Vec<u8>) -> Result<Option<Kind>, OdbError>;
    /// Parents and commit time of a commit, if that is known without reading it.
    fn known_commit(&self, _id: &oid) -> Option<(Vec<ObjectId>, i64)> {
        None
    }
}

impl Source for Odb {
    fn hash_kind(&self) -> HashKind {
        Odb::hash_kind(self)
    }

    fn tree_depth(&self) -> usize {
        self.limits().tree_depth as usize
    }

    fn contains(&self, id: &oid) -> Result<bool, OdbError> {
        Odb::contains(self, id)
    }

    fn read(&self, id: &oid, out: &mut Vec<u8>) -> Result<Option<Kind>, OdbError> {
        match Odb::read(self, id, out) {
            // A damaged object is as good as none.
            Err(OdbError::Corrupt { .. } | OdbError::LooseDamaged { .. }) => Ok(None),
            other => other,
        }
    }

    fn known_commit(&self, id: &oid) -> Option<(Vec<ObjectId>, i64)> {
        let graph = self.commit_graph()?;
        let pos = graph.lookup(id)?;
        let time = i64::try_from(graph.commit(pos)?.date).unwrap_or(i64::MAX);
        let mut places = Vec::new();
        graph.parents(pos, &mut places)?;
        let parents = places.into_iter().map(|pos| graph.oid(pos).map(ToOwned::to_owned));
        let parents = parents.collect::<Option<_>>()?;
        Some((parents, time))
    }
}

/// The kind of an object, if it is known.
type KindOf<'a> = dyn Fn(&ObjectId) -> Option<Kind> + 'a;

struct Input<'a, S> {
    source: &'a S,
    /// The kind of an object that the push brought.
    received: Option<&'a KindOf<'a>>,
    existing: IdSet,
    shallow: IdSet,
    stop: &'a AtomicBool,
    tick: &'a dyn Fn(),
}

impl<S> Input<'_, S> {
    fn check_stop(&self) -> Result<(), ConnectivityError> {
        (self.tick)();
        match self.stop.load(Ordering::Relaxed) {
            true => Err(ConnectivityError::Stopped),
            false => Ok(()),
        }
    }
}
