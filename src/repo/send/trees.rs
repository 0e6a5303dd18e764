//! Reading trees so that work follows what changed and not how large the trees are.
//!
//! Most trees in a pack are deltas against another version of the same directory. When every entry of the base has already been dealt with, the only entries
//! of the new tree that can be news are those that the delta did not copy whole, usually one or two of hundreds. So a tree is kept together
//! with the places where its entries begin, and a delta is applied to both: entries that lie entirely inside a copied range which begins at
//! an entry of the base are that same entry of the base, byte for byte, and need neither be parsed nor looked up again.

use std::{cell::Cell, collections::HashMap, hash::BuildHasherDefault, rc::Rc, sync::Arc};

use gix::{
    hash::{Kind as HashKind, ObjectId, oid},
    objs::Kind,
};

use super::{
    SendError,
    marks::Id,
    parse::{TreeEntry, tree_entry},
    reader::Reader,
    walk::IdHasher,
};
use crate::{
    pack::{EntryKind, FormatError, Inflater, delta_sizes},
    repo::{contents::Content, pack::Pack},
};

/// A tree in memory.
#[derive(Debug, Default)]
pub(super) struct Tree {
    data: Arc<Vec<u8>>,
    /// Where each entry begins.
    starts: Arc<Vec<u32>>,
    /// What has been done with all of its entries, see [`Tree::dealt_with`].
    dealt_with: Cell<u8>,
}

impl Tree {
    fn new(data: Arc<Vec<u8>>, starts: Arc<Vec<u32>>) -> Self {
        Tree {
            data,
            starts,
            dealt_with: Cell::new(0),
        }
    }

    /// Every entry was seen by an earlier pass of level `n` or higher.
    fn dealt_with(&self) -> u8 {
        self.dealt_with.get()
    }

    fn end(&self, nth: usize) -> usize {
        self.starts
            .get(nth + 1)
            .map_or(self.data.len(), |start| *start as usize)
    }
}

/// A tree that was read, and which of its entries may be news.
pub(super) struct ReadTree {
    tree: Rc<Tree>,
    /// Entries (by number) that were not copied whole from `base`; `None` means all.
    fresh: Option<Vec<u32>>,
    base: Option<Rc<Tree>>,
    hash: HashKind,
}

impl ReadTree {
    /// Calls `visit` for the entries that may be news to a pass of this level: entries copied from a base that a pass of the same or a higher level
    /// has dealt with are left out. Then counts this tree as dealt with.
    pub(super) fn news<E>(&self, level: u8, mut visit: impl FnMut(TreeEntry<'_>) -> Result<(), E>) -> Result<(), E> {
        if self.tree.dealt_with() < level {
            match (&self.fresh, &self.base) {
                (Some(fresh), Some(base)) if base.dealt_with() >= level => {
                    for nth in fresh {
                        self.visit(*nth as usize, &mut visit)?;
                    }
                }
                _ => self.all(&mut visit)?,
            }
            self.tree.dealt_with.set(level);
        }
        Ok(())
    }

    /// Calls `visit` for every entry.
    pub(super) fn all<E>(&self, mut visit: impl FnMut(TreeEntry<'_>) -> Result<(), E>) -> Result<(), E> {
        (0..self.tree.starts.len()).try_for_each(|nth| self.visit(nth, &mut visit))
    }

    /// Counts the tree as dealt with by passes up to this level.
    pub(super) fn mark_dealt_with(&self, level: u8) {
        self.tree.dealt_with.set(self.tree.dealt_with().max(level));
    }

    fn visit<E>(&self, nth: usize, visit: &mut impl FnMut(TreeEntry<'_>) -> Result<(), E>) -> Result<(), E> {
        let at = self.tree.starts[nth] as usize;
        let entry =
            tree_entry(&self.tree.data, at, self.hash).expect("because the entry was parsed when its start was noted");
        visit(entry)
    }
}

type Table = HashMap<(u32, u64), Rc<Tree>, BuildHasherDefault<IdHasher>>;

/// Reads trees, keeping recent ones for the deltas that are based on them.
pub(super) struct TreeReader {
    hash: HashKind,
    /// Two generations: what was used since the last change of generations, and before. Dropping the old one is the eviction.
    young: Table,
    old: Table,
    young_bytes: usize,
    half_budget: usize,
    max_size: u64,
    max_depth: u32,
    inflater: Inflater,
    delta: Vec<u8>,
    spans: Vec<Span>,
    /// How many trees may still be left for the next request; `None` when nothing is shared with others.
    to_leave: Option<u32>,
}

/// Trees that one request leaves for the next one. Fetches of a few commits read the same ones again and again; a clone reads all of them, once.
const LEFT_BEHIND: u32 = 256;

/// A range of a tree that a delta copied from its base.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    start: u32,
    end: u32,
    base: u32,
}

impl TreeReader {
    /// A reader that keeps about `budget` bytes and refuses trees of more than `max_size` bytes and chains of more than `max_depth` deltas.
    pub(super) fn new(hash: HashKind, budget: usize, max_size: u64, max_depth: u32) -> Self {
        TreeReader {
            hash,
            young: Table::default(),
            old: Table::default(),
            young_bytes: 0,
            half_budget: budget / 2,
            // Starts of entries are kept in 32 bits.
            max_size: max_size.min(u64::from(u32::MAX)),
            max_depth,
            inflater: Inflater::new(),
            delta: Vec::new(),
            spans: Vec::new(),
            to_leave: None,
        }
    }

    /// From here on trees are also looked for among those that other requests have read, and the first few are left for others.
    pub(super) fn share(&mut self) {
        self.to_leave = Some(LEFT_BEHIND);
    }

    /// Reads the tree `id`.
    pub(super) fn read(&mut self, reader: &Reader<'_>, id: Id) -> Result<ReadTree, SendError> {
        if let Some((pack, offset)) = reader.offset(id)?
            && let Ok(tree) = self.packed(reader, id, pack, offset)
        {
            return Ok(tree);
        }
        // Loose, or damaged where it was found: there may be another copy, and if not, this says what is wrong.
        let mut data = Vec::new();
        if reader.read(id, &mut data)? != Kind::Tree {
            return reader.corrupt(id, "it is not a tree");
        }
        match index(data, None, self.hash) {
            Some((tree, _)) => Ok(self.whole(Rc::new(tree))),
            None => reader.corrupt(id, "it is not a valid tree"),
        }
    }

    fn whole(&self, tree: Rc<Tree>) -> ReadTree {
        ReadTree {
            tree,
            fresh: None,
            base: None,
            hash: self.hash,
        }
    }

    fn packed(&mut self, reader: &Reader<'_>, id: Id, pack_rank: u32, offset: u64) -> Result<ReadTree, SendError> {
        let pack = reader.packs()[pack_rank as usize].clone();
        let format = |source| match reader.oid(id) {
            Ok(oid) => SendError::Format { oid, source },
            Err(err) => err,
        };
        // Down to a tree that is known or whole, then up again delta by delta.
        let mut chain: Vec<(u64, usize, &[u8])> = Vec::new();
        let mut at = offset;
        let mut tree = loop {
            if let Some(known) = self.known((pack_rank, at)) {
                break known;
            }
            if let Some(left) = self.left_by_others(reader, &pack, at) {
                break self.keep((pack_rank, at), left);
            }
            let (header, rest) = pack.entry_at(at)?;
            if header.size > self.max_size {
                return Err(format(FormatError::TooLarge {
                    what: "tree",
                    limit: self.max_size,
                }));
            }
            let size = header.size as usize;
            match header.kind {
                EntryKind::Tree => {
                    let mut data = Vec::new();
                    self.inflater.inflate_exact(rest, size, &mut data).map_err(format)?;
                    let Some((tree, _)) = index(data, None, self.hash) else {
                        return reader.corrupt(id, "it is not a valid tree");
                    };
                    self.leave(reader, &pack, at, &tree);
                    break self.keep((pack_rank, at), tree);
                }
                EntryKind::OfsDelta { distance } => {
                    chain.push((at, size, rest));
                    match at.checked_sub(distance) {
                        Some(base) => at = base,
                        None => return reader.corrupt(id, "its delta base is outside of the pack"),
                    }
                }
                EntryKind::RefDelta { base } => {
                    chain.push((at, size, rest));
                    match pack.index()?.lookup(&base) {
                        Some(pos) => at = pack.index()?.offset(pos),
                        None => break self.foreign(reader, id, &base)?,
                    }
                }
                _ => return reader.corrupt(id, "it is not a tree"),
            }
            if chain.len() as u64 > u64::from(self.max_depth) {
                return reader.corrupt(id, "its delta chain is too long");
            }
        };
        let mut result = self.whole(tree.clone());
        while let Some((at, size, compressed)) = chain.pop() {
            self.delta.clear();
            self.inflater
                .inflate_exact(compressed, size, &mut self.delta)
                .map_err(format)?;
            let data = apply(&tree.data, &self.delta, self.max_size, &mut self.spans).map_err(format)?;
            let Some((next, fresh)) = index(data, Some((&tree, &self.spans)), self.hash) else {
                return reader.corrupt(id, "it is not a valid tree");
            };
            self.leave(reader, &pack, at, &next);
            let next = self.keep((pack_rank, at), next);
            result = ReadTree {
                tree: next.clone(),
                fresh: Some(fresh),
                base: Some(tree),
                hash: self.hash,
            };
            tree = next;
        }
        Ok(result)
    }

    /// A base that is not in the pack of its delta. git does not write such packs; others do.
    #[cold]
    fn foreign(&mut self, reader: &Reader<'_>, id: Id, base: &oid) -> Result<Rc<Tree>, SendError> {
        let mut data = Vec::new();
        match reader.odb.read(base, &mut data)? {
            None => {
                return Err(SendError::Missing {
                    oid: ObjectId::from(base),
                });
            }
            Some(Kind::Tree) => {}
            Some(_) => return reader.corrupt(id, "its delta base is not a tree"),
        }
        match index(data, None, self.hash) {
            Some((tree, _)) => Ok(Rc::new(tree)),
            None => reader.corrupt(id, "its delta base is not a valid tree"),
        }
    }

    /// A tree that some request has read lately.
    fn left_by_others(&self, reader: &Reader<'_>, pack: &Pack, at: u64) -> Option<Tree> {
        self.to_leave?;
        let place = (pack.number(), at);
        let mut found = reader.odb.caches().contents.get(place)?;
        if found.kind != Kind::Tree {
            return None;
        }
        let tree = match found.starts.take() {
            Some(starts) => Tree::new(found.data, starts),
            None => {
                let starts = Arc::new(whole_index(&found.data, self.hash)?);
                found.starts = Some(starts.clone());
                let tree = Tree::new(found.data.clone(), starts);
                reader.odb.caches().contents.put(place, found);
                tree
            }
        };
        Some(tree)
    }

    fn leave(&mut self, reader: &Reader<'_>, pack: &Pack, at: u64, tree: &Tree) {
        let Some(left) = self.to_leave.and_then(|left| left.checked_sub(1)) else {
            return;
        };
        self.to_leave = Some(left);
        let content = Content {
            kind: Kind::Tree,
            data: tree.data.clone(),
            starts: Some(tree.starts.clone()),
        };
        reader.odb.caches().contents.put((pack.number(), at), content);
    }

    fn known(&mut self, key: (u32, u64)) -> Option<Rc<Tree>> {
        if let Some(tree) = self.young.get(&key) {
            return Some(tree.clone());
        }
        let tree = self.old.remove(&key)?;
        self.insert(key, tree.clone());
        Some(tree)
    }

    fn keep(&mut self, key: (u32, u64), tree: Tree) -> Rc<Tree> {
        let tree = Rc::new(tree);
        self.insert(key, tree.clone());
        tree
    }

    fn insert(&mut self, key: (u32, u64), tree: Rc<Tree>) {
        // The constant stands for the tables' own memory.
        self.young_bytes += tree.data.len() + 4 * tree.starts.len() + 128;
        if self.young_bytes > self.half_budget {
            self.old = std::mem::take(&mut self.young);
            self.young_bytes = 0;
        }
        self.young.insert(key, tree);
    }
}

/// Applies a delta, noting what was copied from where.
fn apply(base: &[u8], delta: &[u8], max: u64, spans: &mut Vec<Span>) -> Result<Vec<u8>, FormatError> {
    const INVALID: FormatError = FormatError::Invalid {
        what: "delta",
        why: "it does not fit its base",
    };
    spans.clear();
    let sizes = delta_sizes(delta)?;
    if sizes.base != base.len() as u64 {
        return Err(INVALID);
    }
    if sizes.result > max {
        return Err(FormatError::TooLarge {
            what: "delta result",
            limit: max,
        });
    }
    let end = sizes.result as usize;
    let mut out = Vec::with_capacity(end.min(16 << 20));
    let mut rest = &delta[sizes.header_len..];
    while let Some((&op, tail)) = rest.split_first() {
        rest = tail;
        let piece = if op & 0x80 != 0 {
            let mut fields = [0u8; 7];
            for (bit, field) in fields.iter_mut().enumerate() {
                if op & (1 << bit) != 0 {
                    let (&byte, tail) = rest.split_first().ok_or(INVALID)?;
                    *field = byte;
                    rest = tail;
                }
            }
            let offset = u32::from_le_bytes([fields[0], fields[1], fields[2], fields[3]]);
            let len = match u32::from_le_bytes([fields[4], fields[5], fields[6], 0]) {
                0 => 0x10000,
                len => len,
            };
            let start = offset as usize;
            let piece = start
                .checked_add(len as usize)
                .and_then(|stop| base.get(start..stop))
                .ok_or(INVALID)?;
            if piece.len() <= end - out.len() {
                let start = out.len() as u32;
                match spans.last_mut() {
                    // Copies longer than 64 KiB come in several instructions.
                    Some(last) if last.end == start && last.base + (last.end - last.start) == offset => last.end += len,
                    _ => spans.push(Span {
                        start,
                        end: start + len,
                        base: offset,
                    }),
                }
            }
            piece
        } else {
            let len = op as usize;
            let piece = rest.get(..len).filter(|_| len != 0).ok_or(INVALID)?;
            rest = &rest[len..];
            piece
        };
        if piece.len() > end - out.len() {
            return Err(INVALID);
        }
        out.extend_from_slice(piece);
    }
    if out.len() != end {
        return Err(INVALID);
    }
    Ok(out)
}

/// Finds where the entries of a tree begin, taking over from `base` those that were copied whole. Also returns the numbers of those that were not.
fn index(data: Vec<u8>, base: Option<(&Tree, &[Span])>, hash: HashKind) -> Option<(Tree, Vec<u32>)> {
    let mut starts: Vec<u32> = Vec::new();
    let mut fresh: Vec<u32> = Vec::new();
    let (base, mut spans) = match base {
        Some((base, spans)) => {
            starts.reserve(base.starts.len() + 4);
            (Some(base), spans)
        }
        None => {
            starts.reserve(data.len() / 36 + 1);
            (None, &[][..])
        }
    };
    let mut at = 0usize;
    'entries: while at < data.len() {
        while let Some((span, later)) = spans.split_first() {
            if span.end as usize > at {
                break;
            }
            spans = later;
        }
        if let (Some(base), Some(span)) = (base, spans.first())
            && span.start as usize <= at
        {
            let in_base = span.base + (at as u32 - span.start);
            if let Ok(first) = base.starts.binary_search(&in_base) {
                let copied_to = span.base + (span.end - span.start);
                let mut nth = first;
                while nth < base.starts.len() && base.end(nth) <= copied_to as usize {
                    starts.push(base.starts[nth] - span.base + span.start);
                    nth += 1;
                }
                if nth > first {
                    at = (base.end(nth - 1) as u32 - span.base + span.start) as usize;
                    continue 'entries;
                }
            }
        }
        let entry = tree_entry(&data, at, hash)?;
        if base.is_some() {
            fresh.push(starts.len() as u32);
        }
        starts.push(at as u32);
        at = entry.end;
    }
    Some((Tree::new(Arc::new(data), Arc::new(starts)), fresh))
}

/// Where the entries of a tree begin.
fn whole_index(data: &[u8], hash: HashKind) -> Option<Vec<u32>> {
    let mut starts = Vec::with_capacity(data.len() / 36 + 1);
    let mut at = 0;
    while at < data.len() {
        starts.push(at as u32);
        at = tree_entry(data, at, hash)?.end;
    }
    Some(starts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tree(entries: &[(u8, u8)]) -> Vec<u8> {
        let mut data = Vec::new();
        for (name, id) in entries {
            data.extend_from_slice(format!("100644 f{name}\0").as_bytes());
            data.extend_from_slice(&[*id; 20]);
        }
        data
    }

    fn copy(delta: &mut Vec<u8>, start: u32, len: u32) {
        delta.push(0x80 | 0x1 | 0x2 | 0x10 | 0x20);
        delta.extend_from_slice(&start.to_le_bytes()[..2]);
        delta.extend_from_slice(&len.to_le_bytes()[..2]);
    }

    fn small(n: usize, delta: &mut Vec<u8>) {
        let mut n = n;
        while n >= 0x80 {
            delta.push(n as u8 | 0x80);
            n >>= 7;
        }
        delta.push(n as u8);
    }

    proptest! {
        /// Whatever a delta copies from wherever, the entries found are those that parsing the result finds, and an entry not called fresh is an entry of the base.
        #[test]
        fn taking_over_entries_is_the_same_as_parsing(
            entries in proptest::collection::vec((any::<u8>(), 0u8..4), 1..12),
            cuts in proptest::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), proptest::collection::vec((any::<u8>(), 0u8..4), 0..2), 0usize..3), 0..6),
        ) {
            let base = tree(&entries);
            let (mut ops, mut result) = (Vec::new(), Vec::new());
            for (from, to, inserted, shave) in cuts {
                let bounds: Vec<usize> = {
                    let (tree, _) = index(base.clone(), None, HashKind::Sha1).unwrap();
                    tree.starts.iter().map(|s| *s as usize).chain([base.len()]).collect()
                };
                let (a, b) = (bounds[from.index(bounds.len())], bounds[to.index(bounds.len())]);
                let (a, b) = (a.min(b), a.max(b));
                // Shaved copies begin and end inside of entries; what is cut off is inserted, so that the result is a tree.
                let shave = shave.min((b - a) / 2);
                if b > a {
                    if shave > 0 {
                        ops.push(shave as u8);
                        ops.extend_from_slice(&base[a..a + shave]);
                    }
                    copy(&mut ops, (a + shave) as u32, (b - a - 2 * shave) as u32);
                    if shave > 0 {
                        ops.push(shave as u8);
                        ops.extend_from_slice(&base[b - shave..b]);
                    }
                    result.extend_from_slice(&base[a..b]);
                }
                let inserted = tree(&inserted);
                if !inserted.is_empty() {
                    ops.push(inserted.len() as u8);
                    ops.extend_from_slice(&inserted);
                    result.extend_from_slice(&inserted);
                }
            }
            let mut delta = Vec::new();
            small(base.len(), &mut delta);
            small(result.len(), &mut delta);
            delta.extend_from_slice(&ops);
            let mut spans = Vec::new();
            prop_assert_eq!(&apply(&base, &delta, 1 << 20, &mut spans).unwrap(), &result);
            let (base_tree, _) = index(base, None, HashKind::Sha1).unwrap();
            let (plain, _) = index(result.clone(), None, HashKind::Sha1).unwrap();
            let (taken, fresh) = index(result, Some((&base_tree, &spans)), HashKind::Sha1).unwrap();
            prop_assert_eq!(&plain.starts, &taken.starts);
            let entry = |tree: &Tree, nth: usize| tree.data[tree.starts[nth] as usize..tree.end(nth)].to_vec();
            let known: Vec<_> = (0..base_tree.starts.len()).map(|nth| entry(&base_tree, nth)).collect();
            for nth in 0..taken.starts.len() {
                prop_assert!(fresh.contains(&(nth as u32)) || known.contains(&entry(&taken, nth)));
            }
        }

        #[test]
        fn arbitrary_trees_and_deltas_never_panic(base in proptest::collection::vec(any::<u8>(), 0..80), delta in proptest::collection::vec(any::<u8>(), 0..80)) {
            let mut spans = Vec::new();
            let _ = apply(&base, &delta, 1 << 20, &mut spans);
            let _ = index(base, None, HashKind::Sha1);
        }
    }

    #[test]
    fn bytes_that_only_look_like_an_entry_of_the_base_are_news() {
        // The base's name holds what looks like an entry, but no entry begins there.
        let mut base = b"100644 ".to_vec();
        let hidden = base.len();
        base.extend_from_slice(b"100644 x\0");
        base.extend_from_slice(&[7; 20]);
        let (tree, _) = index(base.clone(), None, HashKind::Sha1).unwrap();
        assert_eq!(*tree.starts, [0]);
        let len = (base.len() - hidden) as u32;
        let spans = [Span {
            start: 0,
            end: len,
            base: hidden as u32,
        }];
        let (_, fresh) = index(base[hidden..].to_vec(), Some((&tree, &spans)), HashKind::Sha1).unwrap();
        assert_eq!(fresh, [0]);
    }
}
