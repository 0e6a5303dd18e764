//! The walk over history: commits as nodes of an arena, loaded when they are met.

use std::{
    collections::{BinaryHeap, HashMap, HashSet},
    hash::{BuildHasherDefault, Hasher},
    sync::atomic::{AtomicBool, Ordering},
};

use gix::hash::ObjectId;

use super::{SendError, marks::Id};

/// Spreads ids over a hash table; they are small numbers, so one multiplication does.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }
    fn write_u32(&mut self, n: u32) {
        self.0 = (self.0.rotate_left(5) ^ u64::from(n)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 ^= self.0 >> 32;
    }
    fn write_u64(&mut self, n: u64) {
        self.write_u32(n as u32);
        self.write_u32((n >> 32) as u32);
    }
}

/// A table keyed by ids.
pub(super) type IdMap<V> = HashMap<Id, V, BuildHasherDefault<IdHasher>>;
/// A set of few ids.
pub(super) type IdSet = HashSet<Id, BuildHasherDefault<IdHasher>>;

/// The generation of a commit that the commit-graph does not have: higher than any that it has.
pub(super) const UNKNOWN_GENERATION: u32 = u32::MAX;

/// What a walk learns of a commit besides its parents.
#[derive(Debug, Clone, Copy)]
pub(super) struct CommitMeta {
    /// The root tree.
    pub tree: ObjectId,
    /// Committer's time, seconds since the epoch.
    pub date: i64,
    /// Higher than the generation of every ancestor, or [`UNKNOWN_GENERATION`].
    pub generation: u32,
}

/// Where commits come from.
pub(super) trait History {
    /// Reads the commit `id` and, unless `parents` is `None`, appends its parents.
    ///
    /// # Errors
    /// `Missing` when the commit or a parent that was asked for does not exist.
    fn commit(&mut self, id: Id, parents: Option<&mut Vec<Id>>) -> Result<CommitMeta, SendError>;
}

/// Fails when the caller wants the work to end.
pub(super) fn check(stop: &AtomicBool) -> Result<(), SendError> {
    if stop.load(Ordering::Relaxed) {
        return Err(SendError::Stopped);
    }
    Ok(())
}

/// A commit of the arena.
#[derive(Debug, Clone, Copy)]
pub(super) struct Node {
    pub id: Id,
    pub tree: ObjectId,
    pub date: i64,
    pub generation: u32,
    pub flags: u8,
    first_parent: u32,
    parents: u32,
}

/// The node was put into the queue.
pub(super) const SEEN: u8 = 1;
/// The node and all its ancestors are not wanted: the other side has them.
pub(super) const BORING: u8 = 2;
/// The node left the queue.
pub(super) const DONE: u8 = 4;

/// How many boring commits older than every interesting one are looked at before the walk believes their dates.
const SLOP: u32 = 16;

/// An arena of commits over a [`History`], in which some commits have no parents whatever they say (shallow boundaries).
pub(super) struct Walk<'a, H> {
    history: &'a mut H,
    parentless: &'a IdSet,
    stop: &'a AtomicBool,
    nodes: Vec<Node>,
    index: IdMap<u32>,
    parents: Vec<Id>,
}

/// A queue of nodes: highest generation first, then the newest. With generations known that is an order in which no commit comes before its descendants.
#[derive(Debug, Default)]
pub(super) struct Queue(BinaryHeap<(u32, i64, u32)>);

impl Queue {
    pub(super) fn push(&mut self, at: u32, node: &Node) {
        self.0.push((node.generation, node.date, at));
    }
    pub(super) fn pop(&mut self) -> Option<u32> {
        self.0.pop().map(|(_, _, at)| at)
    }
    /// Generation and date of the next node.
    pub(super) fn peek(&self) -> Option<(u32, i64)> {
        self.0.peek().map(|(generation, date, _)| (*generation, *date))
    }
}

/// What [`Walk::limit`] found.
#[derive(Debug, Default)]
pub(super) struct Limited {
    /// Commits that are wanted and not had, as node numbers.
    pub interesting: Vec<u32>,
    /// Commits that are had and have an interesting child.
    pub edges: Vec<u32>,
}

impl<'a, H: History> Walk<'a, H> {
    pub(super) fn new(history: &'a mut H, parentless: &'a IdSet, stop: &'a AtomicBool) -> Self {
        Walk {
            history,
            parentless,
            stop,
            nodes: Vec::new(),
            index: IdMap::default(),
            parents: Vec::new(),
        }
    }

    /// The node number of a commit that was loaded.
    pub(super) fn find(&self, id: Id) -> Option<u32> {
        self.index.get(&id).copied()
    }

    /// The node of a number.
    pub(super) fn node(&self, at: u32) -> &Node {
        &self.nodes[at as usize]
    }

    /// Every commit that was loaded.
    pub(super) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    pub(super) fn node_mut(&mut self, at: u32) -> &mut Node {
        &mut self.nodes[at as usize]
    }

    /// How many parents the node has, shallow boundaries having none.
    pub(super) fn parent_count(&self, at: u32) -> u32 {
        self.nodes[at as usize].parents
    }

    /// The `nth` parent of a node.
    pub(super) fn parent(&self, at: u32, nth: u32) -> Id {
        self.parents[(self.nodes[at as usize].first_parent + nth) as usize]
    }

    /// Loads a commit, once. With `lenient` a commit whose parents are missing is taken to have none.
    pub(super) fn load(&mut self, id: Id, lenient: bool) -> Result<u32, SendError> {
        if let Some(at) = self.index.get(&id) {
            return Ok(*at);
        }
        if self.nodes.len().is_multiple_of(256) {
            check(self.stop)?;
        }
        let first_parent = self.parents.len();
        let meta = if self.parentless.contains(&id) {
            self.history.commit(id, None)?
        } else {
            match self.history.commit(id, Some(&mut self.parents)) {
                Err(SendError::Missing { .. }) if lenient => {
                    self.parents.truncate(first_parent);
                    self.history.commit(id, None)?
                }
                other => other?,
            }
        };
        let at = u32::try_from(self.nodes.len()).map_err(|_| SendError::TooManyObjects)?;
        let parents = self.parents.len() - first_parent;
        self.nodes.push(Node {
            id,
            tree: meta.tree,
            date: meta.date,
            generation: meta.generation,
            flags: 0,
            first_parent: u32::try_from(first_parent).map_err(|_| SendError::TooManyObjects)?,
            parents: parents as u32,
        });
        self.index.insert(id, at);
        Ok(at)
    }

    /// Finds the commits that `wants` reach and `boring` do not. A commit older than `since` counts as boring.
    ///
    /// Never leaves out a commit that is reachable from `wants` only: boring marks travel from a commit to its parents and nowhere else.
    /// Where dates go backwards and no commit-graph knows better, a boring commit may be taken for an interesting one.
    pub(super) fn limit(&mut self, wants: &[Id], boring: &[Id], since: Option<i64>) -> Result<Limited, SendError> {
        let found = self.limit_within(usize::MAX, wants, boring, since)?;
        Ok(found.expect("because there are never so many commits"))
    }

    /// As [`limit`](Self::limit), if that takes loading no more commits than `most` beside the tips.
    pub(super) fn limit_within(
        &mut self,
        most: usize,
        wants: &[Id],
        boring: &[Id],
        since: Option<i64>,
    ) -> Result<Option<Limited>, SendError> {
        let mut queue = Queue::default();
        let mut open = 0usize;
        for id in boring {
            let at = self.load(*id, true)?;
            if self.nodes[at as usize].flags & SEEN == 0 {
                self.nodes[at as usize].flags |= SEEN | BORING;
                queue.push(at, &self.nodes[at as usize]);
            }
        }
        for id in wants {
            let at = self.load(*id, false)?;
            if self.nodes[at as usize].flags & SEEN == 0 {
                self.nodes[at as usize].flags |= SEEN;
                queue.push(at, &self.nodes[at as usize]);
                open += 1;
            }
        }
        let mut order: Vec<u32> = Vec::new();
        let (mut oldest, mut lowest) = (i64::MAX, u32::MAX);
        let mut slop = SLOP;
        let most = most.saturating_add(self.nodes.len());
        while let Some((generation, date)) = queue.peek() {
            if self.nodes.len() > most {
                return Ok(None);
            }
            if open == 0 {
                if order.is_empty() || (generation != UNKNOWN_GENERATION && generation <= lowest) {
                    break;
                }
                if date >= oldest {
                    slop = SLOP;
                } else {
                    slop -= 1;
                    if slop == 0 {
                        break;
                    }
                }
            }
            let Some(at) = queue.pop() else { break };
            let node = &mut self.nodes[at as usize];
            node.flags |= DONE;
            if node.flags & BORING == 0 {
                open -= 1;
                if since.is_some_and(|since| node.date < since) {
                    node.flags |= BORING;
                }
            }
            let node = *node;
            if node.flags & BORING == 0 {
                order.push(at);
                oldest = oldest.min(node.date);
                lowest = lowest.min(node.generation);
            }
            for nth in 0..node.parents {
                let parent = self.parent(at, nth);
                let boring = node.flags & BORING != 0;
                let parent = self.load(parent, boring)?;
                let flags = &mut self.nodes[parent as usize].flags;
                if *flags & SEEN == 0 {
                    *flags |= SEEN | if boring { BORING } else { 0 };
                    queue.push(parent, &self.nodes[parent as usize]);
                    open += usize::from(!boring);
                } else if boring {
                    open -= self.paint_boring(parent);
                }
            }
        }
        let mut found = Limited::default();
        let mut edge_seen = IdSet::default();
        for at in order {
            if self.nodes[at as usize].flags & BORING != 0 {
                continue;
            }
            found.interesting.push(at);
            for nth in 0..self.parent_count(at) {
                let parent = self.parent(at, nth);
                if let Some(edge) = self.find(parent)
                    && self.nodes[edge as usize].flags & BORING != 0
                    && edge_seen.insert(parent)
                {
                    found.edges.push(edge);
                }
            }
        }
        Ok(Some(found))
    }

    /// Marks a node boring and with it every ancestor that the walk has already passed. Returns how many interesting nodes in the queue turned.
    fn paint_boring(&mut self, at: u32) -> usize {
        let mut turned = 0;
        let mut stack = vec![at];
        while let Some(at) = stack.pop() {
            let node = &mut self.nodes[at as usize];
            if node.flags & BORING != 0 {
                continue;
            }
            node.flags |= BORING;
            if node.flags & DONE == 0 {
                // Still in the queue: its parents follow when it is taken out.
                turned += usize::from(node.flags & SEEN != 0);
                continue;
            }
            for nth in 0..self.parent_count(at) {
                if let Some(parent) = self.find(self.parent(at, nth)) {
                    stack.push(parent);
                }
            }
        }
        turned
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use gix::hash::Kind;
    use proptest::prelude::*;

    /// A history in memory: commit `n` has the parents and date given, generations only when `generations` says so.
    #[derive(Debug, Clone, Default)]
    pub(crate) struct Fake {
        pub commits: Vec<(Vec<u32>, i64)>,
        /// Commits below this number are in the commit-graph.
        pub graphed: u32,
        pub loads: usize,
    }

    impl Fake {
        pub(crate) fn closure(&self, tips: &[u32], parentless: &[u32]) -> BTreeSet<u32> {
            let mut out = BTreeSet::new();
            let mut stack = tips.to_vec();
            while let Some(n) = stack.pop() {
                if out.insert(n) && !parentless.contains(&n) {
                    stack.extend(&self.commits[n as usize].0);
                }
            }
            out
        }

        fn generation(&self, n: u32) -> u32 {
            let mut gens = vec![0u32; self.commits.len()];
            for (n, (parents, _)) in self.commits.iter().enumerate() {
                gens[n] = 1 + parents.iter().map(|p| gens[*p as usize]).max().unwrap_or(0);
            }
            gens[n as usize]
        }
    }

    impl History for Fake {
        fn commit(&mut self, id: Id, parents: Option<&mut Vec<Id>>) -> Result<CommitMeta, SendError> {
            self.loads += 1;
            let (list, date) = self.commits.get(id.0 as usize).ok_or(SendError::Missing {
                oid: ObjectId::null(Kind::Sha1),
            })?;
            if let Some(parents) = parents {
                for parent in list {
                    if self.commits.get(*parent as usize).is_none() {
                        return Err(SendError::Missing {
                            oid: ObjectId::null(Kind::Sha1),
                        });
                    }
                    parents.push(Id(*parent));
                }
            }
            Ok(CommitMeta {
                tree: ObjectId::null(Kind::Sha1),
                date: *date,
                generation: if id.0 < self.graphed {
                    self.generation(id.0)
                } else {
                    UNKNOWN_GENERATION
                },
            })
        }
    }

    pub(crate) fn ids(numbers: &[u32]) -> Vec<Id> {
        numbers.iter().map(|n| Id(*n)).collect()
    }

    /// Histories in which a commit's parents have smaller numbers, and dates that may go backwards by `skew`.
    pub(crate) fn histories(skew: i64) -> impl Strategy<Value = Fake> {
        proptest::collection::vec(
            (
                proptest::collection::vec(any::<prop::sample::Index>(), 0..4),
                -skew..=skew,
            ),
            1..60,
        )
        .prop_map(|rows| {
            let commits = rows
                .into_iter()
                .enumerate()
                .map(|(n, (parents, skew))| {
                    let mut parents: Vec<u32> = match n {
                        0 => Vec::new(),
                        _ => parents.iter().map(|p| (n - 1 - p.index(n.min(8))) as u32).collect(),
                    };
                    parents.dedup();
                    (parents, n as i64 * 10 + skew)
                })
                .collect();
            Fake {
                commits,
                ..Fake::default()
            }
        })
    }

    fn limit(fake: &mut Fake, wants: &[u32], haves: &[u32], cut: &[u32]) -> (BTreeSet<u32>, BTreeSet<u32>) {
        let stop = AtomicBool::new(false);
        let parentless: IdSet = cut.iter().map(|n| Id(*n)).collect();
        let mut walk = Walk::new(fake, &parentless, &stop);
        let found = walk.limit(&ids(wants), &ids(haves), None).unwrap();
        let numbers = |list: &[u32]| list.iter().map(|at| walk.node(*at).id.0).collect();
        (numbers(&found.interesting), numbers(&found.edges))
    }

    proptest! {
        #[test]
        fn with_honest_dates_the_difference_is_exact(mut fake in histories(0), wants in proptest::collection::vec(any::<prop::sample::Index>(), 1..4), haves in proptest::collection::vec(any::<prop::sample::Index>(), 0..4), cut in proptest::collection::vec(any::<prop::sample::Index>(), 0..2)) {
            let pick = |list: &[prop::sample::Index]| list.iter().map(|i| i.index(fake.commits.len()) as u32).collect::<Vec<_>>();
            let (wants, haves, cut) = (pick(&wants), pick(&haves), pick(&cut));
            let had = fake.closure(&haves, &cut);
            let expected: BTreeSet<_> = fake.closure(&wants, &cut).difference(&had).copied().collect();
            let (got, edges) = limit(&mut fake, &wants, &haves, &cut);
            prop_assert_eq!(&got, &expected);
            for commit in expected.iter().filter(|n| !cut.contains(n)) {
                for parent in fake.commits[*commit as usize].0.iter().filter(|p| had.contains(p)) {
                    prop_assert!(edges.contains(parent));
                }
            }
        }

        #[test]
        fn with_lying_dates_nothing_is_missing(mut fake in histories(400), wants in proptest::collection::vec(any::<prop::sample::Index>(), 1..4), haves in proptest::collection::vec(any::<prop::sample::Index>(), 0..4)) {
            let pick = |list: &[prop::sample::Index]| list.iter().map(|i| i.index(fake.commits.len()) as u32).collect::<Vec<_>>();
            let (wants, haves) = (pick(&wants), pick(&haves));
            let had = fake.closure(&haves, &[]);
            let wanted = fake.closure(&wants, &[]);
            let (got, edges) = limit(&mut fake, &wants, &haves, &[]);
            prop_assert!(wanted.difference(&had).all(|n| got.contains(n)));
            prop_assert!(got.is_subset(&wanted));
            prop_assert!(edges.is_subset(&had));
        }

        #[test]
        fn with_generations_lying_dates_do_not_matter(mut fake in histories(400), wants in proptest::collection::vec(any::<prop::sample::Index>(), 1..4), haves in proptest::collection::vec(any::<prop::sample::Index>(), 0..4)) {
            fake.graphed = fake.commits.len() as u32;
            let pick = |list: &[prop::sample::Index]| list.iter().map(|i| i.index(fake.commits.len()) as u32).collect::<Vec<_>>();
            let (wants, haves) = (pick(&wants), pick(&haves));
            let had = fake.closure(&haves, &[]);
            let expected: BTreeSet<_> = fake.closure(&wants, &[]).difference(&had).copied().collect();
            let (got, _) = limit(&mut fake, &wants, &haves, &[]);
            prop_assert_eq!(&got, &expected);
            // A graph that ends somewhere helps less, and harms nothing.
            fake.graphed /= 2;
            let (got, _) = limit(&mut fake, &wants, &haves, &[]);
            prop_assert!(expected.is_subset(&got));
        }
    }

    #[test]
    fn a_small_fetch_reads_a_small_part_of_history() {
        let commits = (0..10_000u32)
            .map(|n| (n.checked_sub(1).into_iter().collect(), i64::from(n)))
            .collect();
        let mut fake = Fake {
            commits,
            ..Fake::default()
        };
        let (got, edges) = limit(&mut fake, &[9_999], &[9_990], &[]);
        assert_eq!((got.len(), edges.into_iter().collect::<Vec<_>>()), (9, vec![9_990]));
        assert!(fake.loads < 50, "{} commits were read", fake.loads);
        let (stop, none) = (AtomicBool::new(false), IdSet::default());
        for (most, enough) in [(50, true), (5, false)] {
            let mut walk = Walk::new(&mut fake, &none, &stop);
            let found = walk.limit_within(most, &ids(&[9_999]), &ids(&[9_990]), None).unwrap();
            assert_eq!(found.is_some(), enough, "{most}");
        }
    }

    #[test]
    fn a_missing_parent_is_an_error_only_where_it_is_wanted() {
        let mut fake = Fake {
            commits: vec![(vec![77], 1), (vec![0], 2)],
            ..Fake::default()
        };
        assert_eq!(limit(&mut fake, &[1], &[0], &[]).0, BTreeSet::from([1]));
        let (stop, none) = (AtomicBool::new(false), IdSet::default());
        assert!(matches!(
            Walk::new(&mut fake, &none, &stop).limit(&ids(&[1]), &[], None),
            Err(SendError::Missing { .. })
        ));
        stop.store(true, Ordering::Relaxed);
        assert!(matches!(
            Walk::new(&mut fake, &none, &stop).limit(&ids(&[1]), &[], None),
            Err(SendError::Stopped)
        ));
    }
}
