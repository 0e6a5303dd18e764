//! Where a shallow client's history ends after a fetch.

use gix::hash::ObjectId;

use super::{
    SendError,
    marks::Id,
    walk::{History, IdMap, IdSet, Walk},
};

/// How a fetch moves the boundary of the client's history, with names already resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeepenTo {
    /// This many commits along every path from the wants; `i32::MAX` means all history.
    Depth(u32),
    /// This many commits beyond the client's present boundary.
    Relative(u32),
    /// Without the commits that are older than `since` (seconds since the epoch), and without those that `not` reaches.
    RevList {
        /// The cut-off time.
        since: Option<i64>,
        /// Tips of what is cut off.
        not: Vec<ObjectId>,
    },
}

/// The depth that means "everything" on the wire.
pub(super) const INFINITE: u32 = 0x7fff_ffff;

/// The client's new boundary: what the `shallow-info` section says, in its order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ShallowPlan {
    /// Commits that become boundaries: the client is to take them as having no parents.
    pub shallow: Vec<ObjectId>,
    /// Boundaries of the client that are boundaries no more: their parents are sent.
    pub unshallow: Vec<ObjectId>,
}

/// The boundary in numbers: commits that will be shallow, and those met that will not.
#[derive(Debug, Default)]
pub(super) struct Boundary {
    pub shallow: Vec<Id>,
    pub whole: IdSet,
}

/// Bounds history to `depth` commits from `heads`. Commits of `grafted` end it earlier.
pub(super) fn by_depth<H: History>(
    walk: &mut Walk<'_, H>,
    heads: &[Id],
    depth: u32,
    grafted: &IdSet,
) -> Result<Boundary, SendError> {
    let mut out = Boundary::default();
    let mut level: Vec<Id> = Vec::new();
    let mut seen = IdMap::<()>::default();
    for head in heads {
        if seen.insert(*head, ()).is_none() {
            level.push(*head);
        }
    }
    let mut at_depth = 1u32;
    while !level.is_empty() {
        let mut next = Vec::new();
        for id in level {
            if grafted.contains(&id) || (depth != INFINITE && at_depth >= depth) {
                out.shallow.push(id);
                continue;
            }
            out.whole.insert(id);
            let at = walk.load(id, false)?;
            for nth in 0..walk.parent_count(at) {
                let parent = walk.parent(at, nth);
                if seen.insert(parent, ()).is_none() {
                    next.push(parent);
                }
            }
        }
        level = next;
        at_depth = at_depth.saturating_add(1);
    }
    Ok(out)
}

/// Bounds history to what `wants` reach and neither `since` nor `not` cuts off.
pub(super) fn by_rev_list<H: History>(
    walk: &mut Walk<'_, H>,
    wants: &[Id],
    since: Option<i64>,
    not: &[Id],
    grafted: &IdSet,
) -> Result<Boundary, SendError> {
    let found = walk.limit(wants, not, since)?;
    if found.interesting.is_empty() {
        return Err(SendError::NoCommitsSelected);
    }
    let whole: IdSet = found.interesting.iter().map(|at| walk.node(*at).id).collect();
    let mut out = Boundary::default();
    for at in found.interesting {
        let id = walk.node(at).id;
        let is_cut = (0..walk.parent_count(at)).any(|nth| !whole.contains(&walk.parent(at, nth)));
        if is_cut || grafted.contains(&id) {
            out.shallow.push(id);
        } else {
            out.whole.insert(id);
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, sync::atomic::AtomicBool};

    use super::*;
    use crate::repo::send::walk::tests::{Fake, ids};

    /// ```text
    /// 0 - 1 - 2 - 3 - 4 - 5
    ///      \- 6 -----/
    /// ```
    fn fake() -> Fake {
        Fake {
            commits: vec![
                (vec![], 10),
                (vec![0], 20),
                (vec![1], 30),
                (vec![2], 40),
                (vec![3, 6], 60),
                (vec![4], 70),
                (vec![1], 50),
            ],
            ..Fake::default()
        }
    }

    fn check(
        cut: &[u32],
        run: impl FnOnce(&mut Walk<'_, Fake>, &IdSet) -> Result<Boundary, SendError>,
    ) -> (BTreeSet<u32>, BTreeSet<u32>) {
        let (stop, mut fake) = (AtomicBool::new(false), fake());
        let grafted: IdSet = cut.iter().map(|n| Id(*n)).collect();
        let mut walk = Walk::new(&mut fake, &grafted, &stop);
        let got = run(&mut walk, &grafted).unwrap();
        (
            got.shallow.iter().map(|id| id.0).collect(),
            got.whole.iter().map(|id| id.0).collect(),
        )
    }

    #[test]
    fn depth_counts_along_the_shortest_path() {
        let depth = |n, cut: &[u32]| check(cut, |walk, grafted| by_depth(walk, &ids(&[5]), n, grafted));
        assert_eq!(depth(1, &[]), ([5].into(), [].into()));
        assert_eq!(depth(3, &[]), ([3, 6].into(), [4, 5].into()));
        assert_eq!(depth(4, &[]), ([1, 2].into(), [3, 4, 5, 6].into()));
        assert_eq!(depth(INFINITE, &[]).0, [].into());
        assert_eq!(depth(INFINITE, &[6, 2]), ([2, 6].into(), [3, 4, 5].into()));
    }

    #[test]
    fn a_cut_by_time_or_by_refs_makes_boundaries_of_commits_with_a_parent_outside() {
        let cut = |since, not: &[u32]| {
            check(&[], |walk, grafted| {
                by_rev_list(walk, &ids(&[5]), since, &ids(not), grafted)
            })
        };
        assert_eq!(cut(Some(45), &[]), ([4, 6].into(), [5].into()));
        assert_eq!(cut(None, &[3]), ([4, 6].into(), [5].into()));
        assert_eq!(cut(Some(0), &[]).0, [].into());
        let (stop, none, mut fake) = (AtomicBool::new(false), IdSet::default(), fake());
        let mut walk = Walk::new(&mut fake, &none, &stop);
        assert!(matches!(
            by_rev_list(&mut walk, &ids(&[5]), Some(1000), &[], &none),
            Err(SendError::NoCommitsSelected)
        ));
    }
}
