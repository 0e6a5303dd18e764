//! What to send, by reachability bitmaps.
//!
//! The one question is [`select`]: it answers with exactly what the wants reach and the haves do not, or says that it cannot, and then nothing was changed. Commits
//! without a bitmap are walked down to commits that have one; of their trees only those are entered that are not known to be reached.

use std::{
    collections::{BinaryHeap, HashMap},
    ops::Range,
};

use gix::{hash::ObjectId, objs::Kind};

use super::{
    SendError,
    enumerate::{ALL_HAD, Chosen, INTERESTING, in_pack_order},
    marks::{Id, Marks},
    parse::EntryType,
    reader::Reader,
    trees::TreeReader,
    walk::{History, IdSet},
};
use crate::{
    pack::{BitmapEntry, FormatError},
    repo::bitmaps::Bitmaps,
};

/// Where both sides begin, tags peeled.
#[derive(Debug, Default)]
pub(super) struct Sides {
    pub(super) wants: Vec<Id>,
    pub(super) wanted_trees: Vec<Id>,
    pub(super) haves: Vec<Id>,
    pub(super) had_trees: Vec<Id>,
}

/// Commits of the receiver's that are walked at most in search of one that has a bitmap.
const MAX_HAD_COMMITS: usize = 4096;
/// The trees of so many of them are entered, and of one more for each commit that is sent: beyond that the receiver is better compared with along the boundary only.
const HAD_COMMITS: u64 = 512;

/// Selects by bitmaps, if there are any that can answer this. History must have no shallow boundaries.
pub(super) fn select(
    chosen: &mut Chosen<'_>,
    reader: &mut Reader<'_>,
    trees: &mut TreeReader,
    sides: &Sides,
) -> Result<bool, SendError> {
    let filter = chosen.filter;
    if filter.enters_trees() && (filter.depth.is_some() || filter.needs_paths()) {
        return Ok(false);
    }
    let Some(bitmaps) = reader.odb.bitmaps() else {
        return Ok(false);
    };
    let mut survey = Survey {
        bitmaps,
        reader,
        chosen,
    };
    match survey.select(trees, sides) {
        Ok(done) => Ok(done),
        Err(Stop::Damaged(err)) => {
            tracing::warn!(%err, "a reachability bitmap is not used");
            Ok(false)
        }
        Err(Stop::Failed(err)) => Err(err),
    }
}

enum Stop {
    /// The bitmaps are of no use.
    Damaged(FormatError),
    Failed(SendError),
}

impl From<FormatError> for Stop {
    fn from(err: FormatError) -> Self {
        Stop::Damaged(err)
    }
}

impl From<SendError> for Stop {
    fn from(err: SendError) -> Self {
        Stop::Failed(err)
    }
}

/// Objects that are reached: those that have a bit by their bit, others by their number.
struct Reached {
    bits: Vec<u64>,
    others: Marks,
}

impl Reached {
    fn nothing(bitmaps: &Bitmaps<'_>) -> Self {
        Reached {
            bits: vec![0; bitmaps.words()],
            others: Marks::default(),
        }
    }

    fn contains(&self, object: Object) -> bool {
        match object.bit {
            Some(bit) => self.bits[bit as usize / 64] >> (bit % 64) & 1 != 0,
            None => self.others.contains(object.id),
        }
    }

    fn insert(&mut self, object: Object) -> bool {
        let Some(bit) = object.bit else {
            return self.others.insert(object.id);
        };
        let word = &mut self.bits[bit as usize / 64];
        let new = *word >> (bit % 64) & 1 == 0;
        *word |= 1 << (bit % 64);
        new
    }
}

#[derive(Clone, Copy)]
struct Object {
    id: Id,
    bit: Option<u32>,
}

/// A commit that no bitmap speaks for, and its tree.
struct Uncovered {
    commit: Object,
    tree: ObjectId,
}

/// One look at both sides.
struct Survey<'s, 'o, 'c> {
    bitmaps: Bitmaps<'o>,
    reader: &'s mut Reader<'o>,
    chosen: &'s mut Chosen<'c>,
}

impl Survey<'_, '_, '_> {
    fn object(&self, id: Id) -> Result<Object, SendError> {
        let bit = match self.reader.numbering.place(id) {
            Some((rank, pos)) => self.bitmaps.bit(rank, pos)?,
            None => None,
        };
        Ok(Object { id, bit })
    }

    fn select(&mut self, trees: &mut TreeReader, sides: &Sides) -> Result<bool, Stop> {
        // Decoded before anything is decided, so that nothing damaged is met later.
        let kinds = Kinds::of(&self.bitmaps)?;
        let mut had = Reached::nothing(&self.bitmaps);
        let Some(had_commits) = self.commits(&sides.haves, &mut had, None)? else {
            return Ok(false);
        };
        let mut wanted = Reached::nothing(&self.bitmaps);
        let Some(new_commits) = self.commits(&sides.wants, &mut wanted, Some(&had))? else {
            return Ok(false);
        };
        let outside = new_commits.iter().filter(|new| new.commit.bit.is_none()).count() as u64;
        let commits = outside + count_both(&difference(&wanted, &had), &kinds.commits);
        if had_commits.len() as u64 > HAD_COMMITS + commits {
            return Ok(false);
        }

        if self.chosen.filter.enters_trees() {
            self.had_trees(trees, &had_commits, &sides.had_trees, &mut had)?;
        }
        for new in new_commits.iter().filter(|new| new.commit.bit.is_none()) {
            if self.chosen.filter.commits {
                self.chosen.choose(new.commit.id);
            }
        }
        if self.chosen.filter.enters_trees() {
            self.wanted_trees(trees, &new_commits, &sides.wanted_trees, &had, &mut wanted)?;
        }
        self.choose(&difference(&wanted, &had), &kinds)?;
        mark(&self.bitmaps, self.reader, &had.bits, &mut self.chosen.had)?;
        self.chosen.had.add(&had.others);
        Ok(true)
    }

    /// Everything that the commits reach as far as bitmaps say it, and the commits for which none speaks. Goes back in time, so that
    /// bitmaps are met before history is walked that they cover. `None` when the receiver's history leads too far from them.
    fn commits(
        &mut self,
        tips: &[Id],
        reached: &mut Reached,
        had: Option<&Reached>,
    ) -> Result<Option<Vec<Uncovered>>, Stop> {
        let mut uncovered = Vec::new();
        let mut seen = IdSet::default();
        let mut queue: BinaryHeap<(i64, Id)> = BinaryHeap::new();
        let mut waiting: HashMap<Id, (Object, ObjectId, Vec<Id>)> = HashMap::default();
        let mut next = tips.to_vec();
        loop {
            // Whatever a bitmap speaks for comes first.
            for id in std::mem::take(&mut next) {
                let commit = self.object(id)?;
                if reached.contains(commit) || had.is_some_and(|had| had.contains(commit)) || !seen.insert(id) {
                    continue;
                }
                if let Some(entry) = self.entry(commit)? {
                    let words = self.bitmaps.reach(entry)?;
                    reached.bits.iter_mut().zip(words).for_each(|(own, word)| *own |= word);
                    continue;
                }
                self.chosen.step()?;
                let mut parents = Vec::new();
                let meta = match self.reader.commit(id, Some(&mut parents)) {
                    // The receiver has it; that we have not is no reason to refuse.
                    Err(SendError::Missing { .. }) if had.is_none() => {
                        parents.clear();
                        self.reader.commit(id, None)?
                    }
                    other => other?,
                };
                queue.push((meta.date, id));
                waiting.insert(id, (commit, meta.tree, parents));
            }
            let Some((commit, tree, parents)) = queue.pop().and_then(|(_, id)| waiting.remove(&id)) else {
                return Ok(Some(uncovered));
            };
            // A bitmap may have spoken for it meanwhile.
            if !reached.insert(commit) {
                continue;
            }
            uncovered.push(Uncovered { commit, tree });
            if had.is_none() && uncovered.len() > MAX_HAD_COMMITS {
                return Ok(None);
            }
            next = parents;
        }
    }

    fn entry(&self, commit: Object) -> Result<Option<BitmapEntry>, SendError> {
        match (commit.bit, self.reader.numbering.place(commit.id)) {
            (Some(_), Some((_, pos))) => Ok(self.bitmaps.entry(&self.reader.oid(commit.id)?, pos)),
            _ => Ok(None),
        }
    }

    /// Adds what is beneath the trees of these commits. What is not there is passed over.
    fn had_trees(
        &mut self,
        trees: &mut TreeReader,
        commits: &[Uncovered],
        roots: &[Id],
        had: &mut Reached,
    ) -> Result<(), SendError> {
        let mut level = roots.to_vec();
        for commit in commits {
            level.extend(self.reader.find(&commit.tree)?);
        }
        self.enter(&mut level, had, None)?;
        while !level.is_empty() {
            let mut next = Vec::new();
            for id in in_pack_order(self.reader, &level)? {
                self.chosen.step()?;
                let tree = match trees.read(self.reader, id) {
                    Ok(tree) => tree,
                    Err(SendError::Missing { .. }) => continue,
                    Err(err) => return Err(err),
                };
                tree.news(ALL_HAD, |entry| {
                    let Some(id) = self.reader.find(entry.id)?.filter(|_| entry.kind != EntryType::Gitlink) else {
                        return Ok(());
                    };
                    match entry.kind {
                        EntryType::Tree => next.push(id),
                        _ => {
                            had.insert(self.object(id)?);
                        }
                    }
                    Ok::<_, SendError>(())
                })?;
            }
            self.enter(&mut next, had, None)?;
            level = next;
        }
        Ok(())
    }

    /// Adds what is beneath the trees of these commits and not had; what has no bit is chosen at once.
    fn wanted_trees(
        &mut self,
        trees: &mut TreeReader,
        commits: &[Uncovered],
        roots: &[Id],
        had: &Reached,
        wanted: &mut Reached,
    ) -> Result<(), SendError> {
        let mut level = roots.to_vec();
        for commit in commits {
            level.push(self.reader.require(&commit.tree)?);
        }
        self.enter(&mut level, wanted, Some(had))?;
        while !level.is_empty() {
            let mut next = Vec::new();
            for id in in_pack_order(self.reader, &level)? {
                self.chosen.step()?;
                trees.read(self.reader, id)?.news(INTERESTING, |entry| {
                    match entry.kind {
                        EntryType::Tree => next.push(self.reader.require(entry.id)?),
                        EntryType::Blob if self.chosen.filter.blobs => {
                            let blob = self.reader.require(entry.id)?;
                            let blob = self.object(blob)?;
                            if !had.contains(blob) && wanted.insert(blob) && blob.bit.is_none() {
                                self.chosen.admit_blob(self.reader, entry.id)?;
                            }
                        }
                        _ => {}
                    }
                    Ok::<_, SendError>(())
                })?;
            }
            self.enter(&mut next, wanted, Some(had))?;
            level = next;
        }
        Ok(())
    }

    /// Leaves of these trees those that are met for the first time.
    fn enter(&mut self, trees: &mut Vec<Id>, reached: &mut Reached, had: Option<&Reached>) -> Result<(), SendError> {
        let mut kept = Vec::new();
        for id in trees.drain(..) {
            let tree = self.object(id)?;
            if had.is_some_and(|had| had.contains(tree)) || !reached.insert(tree) {
                continue;
            }
            if had.is_some() && tree.bit.is_none() {
                self.chosen.choose_tree(id);
            }
            kept.push(id);
        }
        *trees = kept;
        Ok(())
    }

    /// Chooses what is left of these bits under the filter.
    fn choose(&mut self, bits: &[u64], kinds: &Kinds) -> Result<(), SendError> {
        let filter = self.chosen.filter;
        let mut bits = bits.to_vec();
        for (kind, passes) in [
            (&kinds.commits, filter.commits),
            (&kinds.trees, filter.trees && filter.enters_trees()),
            (&kinds.blobs, filter.blobs && filter.enters_trees()),
            (&kinds.tags, filter.tags),
        ] {
            if !passes {
                bits.iter_mut().zip(kind).for_each(|(word, kind)| *word &= !kind);
            }
        }
        if let Some(limit) = filter.blob_limit {
            for (nth, (range, rank)) in self.bitmaps.stretches().enumerate() {
                for bit in ones(&bits, range) {
                    if kinds.blobs[bit as usize / 64] >> (bit % 64) & 1 == 0 {
                        continue;
                    }
                    self.chosen.step()?;
                    let id = number(self.reader, rank, self.bitmaps.pos(nth, bit)?)?;
                    if self.reader.header(id)?.1 >= limit {
                        bits[bit as usize / 64] &= !(1 << (bit % 64));
                    }
                }
            }
        }
        let count = bits.iter().map(|word| u64::from(word.count_ones())).sum();
        self.chosen.count(count);
        mark(&self.bitmaps, self.reader, &bits, &mut self.chosen.chosen)
    }
}

/// The objects of each kind.
struct Kinds {
    commits: Vec<u64>,
    trees: Vec<u64>,
    blobs: Vec<u64>,
    tags: Vec<u64>,
}

impl Kinds {
    fn of(bitmaps: &Bitmaps<'_>) -> Result<Self, FormatError> {
        let of = |kind| {
            let mut words = vec![0; bitmaps.words()];
            bitmaps.of_kind(kind)?.or_into(&mut words);
            Ok(words)
        };
        Ok(Kinds {
            commits: of(Kind::Commit)?,
            trees: of(Kind::Tree)?,
            blobs: of(Kind::Blob)?,
            tags: of(Kind::Tag)?,
        })
    }
}

fn difference(wanted: &Reached, had: &Reached) -> Vec<u64> {
    wanted
        .bits
        .iter()
        .zip(&had.bits)
        .map(|(wanted, had)| wanted & !had)
        .collect()
}

fn count_both(a: &[u64], b: &[u64]) -> u64 {
    a.iter().zip(b).map(|(a, b)| u64::from((a & b).count_ones())).sum()
}

/// The bits of a range that are set.
fn ones(words: &[u64], range: Range<u32>) -> Vec<u32> {
    bits_of(words, range, |word| word)
}

fn bits_of(words: &[u64], range: Range<u32>, of: impl Fn(u64) -> u64) -> Vec<u32> {
    let mut out = Vec::new();
    for at in range.start / 64..range.end.div_ceil(64) {
        let mut word = of(words[at as usize]);
        while word != 0 {
            let bit = at * 64 + word.trailing_zeros();
            word &= word - 1;
            if range.contains(&bit) {
                out.push(bit);
            }
        }
    }
    out
}

fn number(reader: &Reader<'_>, rank: u32, pos: u32) -> Result<Id, SendError> {
    // The bitmap fits the pack's index, or it would not have been opened.
    reader.numbering.packed(rank, pos).ok_or(SendError::TooManyObjects)
}

/// Marks the objects whose bits are set. Where that is most of a pack, as what a receiver has often is, only the others are looked at.
fn mark(bitmaps: &Bitmaps<'_>, reader: &Reader<'_>, bits: &[u64], marks: &mut Marks) -> Result<(), SendError> {
    for (nth, (range, rank)) in bitmaps.stretches().enumerate() {
        let all = reader.numbering.range(rank);
        let words = &bits[range.start as usize / 64..range.end.div_ceil(64) as usize];
        let set: usize = words.iter().map(|word| word.count_ones() as usize).sum();
        if range.len() == all.len() && set > range.len() / 2 {
            marks.insert_all(all);
            for bit in bits_of(bits, range, |word| !word) {
                marks.remove(number(reader, rank, bitmaps.pos(nth, bit)?)?);
            }
            continue;
        }
        for bit in ones(bits, range) {
            marks.insert(number(reader, rank, bitmaps.pos(nth, bit)?)?);
        }
    }
    Ok(())
}
