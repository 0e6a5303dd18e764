//! What each commit reaches, as bitmaps over the objects of a pack or of several.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, HashSet},
    sync::{Arc, atomic::AtomicBool},
};

use gix::{
    hash::{ObjectId, oid},
    objs::{Kind, tree::EntryKind},
};

use super::{CompactPhase, CompactProgress, RepackError, check};
use crate::{
    pack::{Ewah, GraphEntry, ReachBitmap, path_hash},
    repo::{Odb, TreeDiffError, TreeEntry, tree_diff},
};

/// Bytes of bitmaps that wait for children, uncompressed; more are compressed meanwhile.
const LIVE_BYTES: usize = 256 << 20;
/// Bytes of trees that are kept, since they are what the next ones are compared with.
const TREE_BYTES: usize = 32 << 20;
/// Tips of refs that get a bitmap, the newest first.
const MOST_TIPS: usize = 2_000;
/// So many of the newest commits all get one; further back the distance grows with the age, up to the second number.
const DENSE: usize = 50;
const SPARSEST: usize = 5_000;

/// The objects that have bits.
pub(super) struct Universe<'a> {
    /// Index position of an object.
    pub(super) lookup: &'a dyn Fn(&oid) -> Option<u32>,
    /// Id at an index position.
    pub(super) id: &'a dyn Fn(u32) -> ObjectId,
    /// Bit of an index position.
    pub(super) bit_of: Vec<u32>,
}

/// What was found.
pub(super) struct Reached {
    pub(super) kinds: [Ewah<Vec<u8>>; 4],
    pub(super) commits: Vec<ReachBitmap>,
    pub(super) path_hashes: Vec<u32>,
}

/// A bitmap that children still need.
enum Live {
    Dense(Vec<u64>),
    Packed(Ewah<Vec<u8>>),
}

fn is_set(words: &[u64], bit: u32) -> bool {
    words[bit as usize / 64] >> (bit % 64) & 1 == 1
}

fn set(words: &mut [u64], bit: u32) {
    words[bit as usize / 64] |= 1 << (bit % 64);
}

/// Computes the bitmaps of some of the commits, in one pass from the first commit to the last: what a commit reaches is what its parents reach and what is new
/// in its tree. `None` when a commit that has a bit reaches something that has none. Commits without a bit, and what comes of them, get no bitmap.
pub(super) fn reach(
    odb: &Odb,
    universe: &Universe<'_>,
    commits: &[GraphEntry],
    tips: &[ObjectId],
    stop: &AtomicBool,
    progress: &mut dyn FnMut(CompactProgress),
) -> Result<Option<Reached>, RepackError> {
    let order = in_order(commits);
    let chosen = choose(commits, &order, tips);
    let words = universe.bit_of.len().div_ceil(64);
    let mut walker = Walker {
        odb,
        universe,
        kinds: std::array::from_fn(|_| vec![0; words]),
        path_hashes: vec![0; universe.bit_of.len()],
        trees: HashMap::new(),
        tree_bytes: 0,
        path: Vec::new(),
    };
    let mut children = vec![0u32; commits.len()];
    for parent in commits.iter().flat_map(|commit| &commit.parents) {
        children[*parent as usize] += 1;
    }
    let mut live: HashMap<u32, Live> = HashMap::new();
    let (mut outside, mut made) = (HashSet::new(), Vec::new());
    for (done, number) in order.iter().enumerate() {
        if done % 64 == 0 {
            check(stop)?;
            progress(CompactProgress {
                phase: CompactPhase::Bitmaps,
                done: done as u64,
                total: order.len() as u64,
            });
        }
        let commit = &commits[*number as usize];
        let pos = (universe.lookup)(&commit.oid);
        if let Some(pos) = pos
            && commit.parents.iter().any(|parent| outside.contains(parent))
        {
            tracing::debug!(commit = %commit.oid, pos, "no bitmaps: a commit's history is not in the packs");
            return Ok(None);
        }
        let Some(pos) = pos else {
            outside.insert(*number);
            for parent in &commit.parents {
                children[*parent as usize] -= 1;
                if children[*parent as usize] == 0 {
                    live.remove(parent);
                }
            }
            continue;
        };
        let mut reached = inherit(commit, &mut live, &mut children, words);
        let bit = universe.bit_of[pos as usize];
        set(&mut reached, bit);
        set(&mut walker.kinds[0], bit);
        let before = commit.parents.first().map(|parent| commits[*parent as usize].tree);
        if !walker.enter(&commit.tree, EntryKind::Tree, before, &mut reached, 0)? {
            tracing::debug!(commit = %commit.oid, "no bitmaps: something that a commit needs is not in the packs");
            return Ok(None);
        }
        if chosen.contains(number) {
            made.push(ReachBitmap {
                pos,
                reach: Ewah::from_words(&reached),
            });
        }
        if children[*number as usize] > 0 {
            if (live.len() + 1).saturating_mul(words * 8) > LIVE_BYTES {
                for waiting in live.values_mut() {
                    if let Live::Dense(words) = waiting {
                        *waiting = Live::Packed(Ewah::from_words(words));
                    }
                }
            }
            live.insert(*number, Live::Dense(reached));
        }
    }
    // Asked for most are the newest.
    made.reverse();
    walker.finish(made).map(Some)
}

/// What the parents reach. A bitmap that nobody else needs is taken over as it is.
fn inherit(commit: &GraphEntry, live: &mut HashMap<u32, Live>, children: &mut [u32], words: usize) -> Vec<u64> {
    let mut reached: Option<Vec<u64>> = None;
    for parent in &commit.parents {
        children[*parent as usize] -= 1;
        let is_last = children[*parent as usize] == 0;
        let theirs = if is_last { live.remove(parent) } else { None };
        match (theirs, &mut reached) {
            (Some(Live::Dense(theirs)), None) => reached = Some(theirs),
            (Some(Live::Dense(theirs)), Some(own)) => own.iter_mut().zip(theirs).for_each(|(own, word)| *own |= word),
            (Some(Live::Packed(theirs)), own) => theirs.or_into(own.get_or_insert_with(|| vec![0; words])),
            (None, own) => match (live.get(parent), &mut *own) {
                (Some(Live::Dense(theirs)), None) => *own = Some(theirs.clone()),
                (Some(Live::Dense(theirs)), Some(own)) => {
                    own.iter_mut().zip(theirs).for_each(|(own, word)| *own |= word);
                }
                (Some(Live::Packed(theirs)), own) => theirs.or_into(own.get_or_insert_with(|| vec![0; words])),
                // The same parent twice.
                (None, _) => {}
            },
        }
    }
    reached.unwrap_or_else(|| vec![0; words])
}

/// Parents before children, and otherwise by date: few bitmaps have to wait for children at a time.
fn in_order(commits: &[GraphEntry]) -> Vec<u32> {
    let mut missing: Vec<u32> = commits.iter().map(|commit| commit.parents.len() as u32).collect();
    // The children of each commit, one list behind the other.
    let mut starts = vec![0u32; commits.len() + 1];
    for parent in commits.iter().flat_map(|commit| &commit.parents) {
        starts[*parent as usize + 1] += 1;
    }
    for at in 1..starts.len() {
        starts[at] += starts[at - 1];
    }
    let (mut ends, mut children) = (starts.clone(), vec![0u32; starts[commits.len()] as usize]);
    for (number, commit) in commits.iter().enumerate() {
        for parent in &commit.parents {
            children[ends[*parent as usize] as usize] = number as u32;
            ends[*parent as usize] += 1;
        }
    }
    let ready = (0..commits.len() as u32).filter(|number| missing[*number as usize] == 0);
    let mut ready: BinaryHeap<_> = ready
        .map(|number| Reverse((commits[number as usize].date, number)))
        .collect();
    let mut order = Vec::with_capacity(commits.len());
    while let Some(Reverse((_, number))) = ready.pop() {
        order.push(number);
        for child in &children[starts[number as usize] as usize..starts[number as usize + 1] as usize] {
            missing[*child as usize] -= 1;
            if missing[*child as usize] == 0 {
                ready.push(Reverse((commits[*child as usize].date, *child)));
            }
        }
    }
    order
}

/// Which commits get a bitmap.
fn choose(commits: &[GraphEntry], order: &[u32], tips: &[ObjectId]) -> HashSet<u32> {
    let mut chosen = HashSet::new();
    let mut nth = 0;
    while let Some(number) = order.iter().rev().nth(nth) {
        chosen.insert(*number);
        nth += (nth / DENSE).clamp(1, SPARSEST);
    }
    let place = |tip: &ObjectId| commits.binary_search_by(|commit| commit.oid.cmp(tip)).ok();
    let mut tips: Vec<usize> = tips.iter().filter_map(place).collect();
    tips.sort_unstable_by_key(|tip| Reverse(commits[*tip].date));
    chosen.extend(tips.into_iter().take(MOST_TIPS).map(|tip| tip as u32));
    chosen
}

struct Walker<'a> {
    odb: &'a Odb,
    universe: &'a Universe<'a>,
    /// Commits, trees, blobs, tags that were met.
    kinds: [Vec<u64>; 4],
    path_hashes: Vec<u32>,
    trees: HashMap<ObjectId, Arc<Vec<u8>>>,
    tree_bytes: usize,
    path: Vec<u8>,
}

impl Walker<'_> {
    fn tree(&mut self, id: &oid) -> Result<Option<Arc<Vec<u8>>>, RepackError> {
        if let Some(data) = self.trees.get(id) {
            return Ok(Some(data.clone()));
        }
        let mut data = Vec::new();
        match tree_diff::read_tree(self.odb, id, &mut data) {
            Ok(()) => {}
            Err(TreeDiffError::Odb(err)) => return Err(err.into()),
            Err(_) => return Ok(None),
        }
        if self.tree_bytes + data.len() > TREE_BYTES {
            self.trees.clear();
            self.tree_bytes = 0;
        }
        self.tree_bytes += data.len();
        let data = Arc::new(data);
        self.trees.insert(id.to_owned(), data.clone());
        Ok(Some(data))
    }

    /// Marks an entry of a tree, with all below it; `before` is a tree all of which is marked already. `false` when something has no bit, or cannot be read.
    fn enter(
        &mut self,
        id: &oid,
        kind: EntryKind,
        before: Option<ObjectId>,
        reached: &mut [u64],
        depth: usize,
    ) -> Result<bool, RepackError> {
        let Some(pos) = (self.universe.lookup)(id) else {
            return Ok(false);
        };
        let bit = self.universe.bit_of[pos as usize];
        if is_set(reached, bit) {
            return Ok(true);
        }
        set(reached, bit);
        let kinds = &mut self.kinds[if kind == EntryKind::Tree { 1 } else { 2 }];
        if !is_set(kinds, bit) {
            set(kinds, bit);
            self.path_hashes[pos as usize] = path_hash(&self.path);
        }
        if kind != EntryKind::Tree {
            return Ok(true);
        }
        if depth > self.odb.limits().tree_depth as usize {
            return Ok(false);
        }
        let Some(data) = self.tree(id)? else { return Ok(false) };
        let old = match before {
            Some(before) => self.tree(&before)?,
            None => None,
        };
        let (hash, mut at, mut old_at) = (self.odb.hash_kind(), 0, 0);
        while at < data.len() {
            let Some((entry, next)) = tree_diff::tree_entry(&data, at, hash) else {
                return Ok(false);
            };
            at = next;
            // The entry of the same name, if the order of both leads there; else there is nothing to compare with, which only costs time.
            let mut counterpart: Option<TreeEntry<'_>> = None;
            if let Some(old) = &old {
                while let Some((older, behind)) = tree_diff::tree_entry(old, old_at, hash) {
                    match older.in_order(&entry) {
                        std::cmp::Ordering::Greater => break,
                        order => {
                            old_at = behind;
                            if order.is_eq() {
                                counterpart = Some(older);
                                break;
                            }
                        }
                    }
                }
            }
            if entry.kind == EntryKind::Commit || counterpart.is_some_and(|older| older.id == entry.id) {
                continue;
            }
            let len = self.path.len();
            if len > 0 {
                self.path.push(b'/');
            }
            self.path.extend_from_slice(entry.name);
            let below = counterpart
                .filter(|older| older.kind == EntryKind::Tree)
                .map(|older| older.id);
            let entered = self.enter(&entry.id, entry.kind, below, reached, depth + 1)?;
            self.path.truncate(len);
            if !entered {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Finds out what all other objects are: tags, and what nothing reaches.
    fn finish(mut self, commits: Vec<ReachBitmap>) -> Result<Reached, RepackError> {
        for (pos, bit) in self.universe.bit_of.iter().enumerate() {
            if self.kinds.iter().any(|kind| is_set(kind, *bit)) {
                continue;
            }
            let id = (self.universe.id)(pos as u32);
            let (kind, _) = self.odb.header(&id)?.ok_or(RepackError::Corrupt { id })?;
            let kind = match kind {
                Kind::Commit => 0,
                Kind::Tree => 1,
                Kind::Blob => 2,
                Kind::Tag => 3,
            };
            set(&mut self.kinds[kind], *bit);
        }
        Ok(Reached {
            kinds: self.kinds.map(|words| Ewah::from_words(&words)),
            commits,
            path_hashes: self.path_hashes,
        })
    }
}
