//! Objects as small numbers, and sets of them as bits: a walk over ten million objects costs a few bits for each instead of a hash table of ids.

use std::collections::HashMap;

use gix::hash::{ObjectId, oid};

use super::SendError;

/// An object, as a number: its place in the canonical pack counted through all packs, or [`LOOSE`] plus a running number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Id(pub u32);

/// The bit of ids that are not in any pack.
const LOOSE: u32 = 1 << 31;

impl Id {
    /// The running number of a loose object.
    pub(super) fn loose(self) -> Option<usize> {
        (self.0 & LOOSE != 0).then_some((self.0 & !LOOSE) as usize)
    }
}

/// Hands out ids.
#[derive(Debug, Default, Clone)]
pub(super) struct Numbering {
    /// The first id of every pack, and at the end the first id of the next one.
    bases: Vec<u32>,
    loose: Vec<ObjectId>,
    loose_ids: HashMap<ObjectId, u32>,
}

impl Numbering {
    /// About how many bytes it takes.
    pub(super) fn memory(&self) -> usize {
        4 * self.bases.len() + self.loose.len() * 3 * size_of::<ObjectId>()
    }

    /// Makes room for packs that hold `lens` objects, in rank order; those known before keep their numbers.
    pub(super) fn add_packs(&mut self, lens: impl Iterator<Item = u32>) -> Result<(), SendError> {
        if self.bases.is_empty() {
            self.bases.push(0);
        }
        for len in lens.skip(self.packs()) {
            let next = self.bases[self.bases.len() - 1]
                .checked_add(len)
                .filter(|next| next & LOOSE == 0)
                .ok_or(SendError::TooManyObjects)?;
            self.bases.push(next);
        }
        Ok(())
    }

    /// How many packs have numbers.
    pub(super) fn packs(&self) -> usize {
        self.bases.len().saturating_sub(1)
    }

    /// The id of the object at index position `pos` of pack `pack`, if that pack has numbers.
    #[inline]
    pub(super) fn packed(&self, pack: u32, pos: u32) -> Option<Id> {
        let pack = pack as usize;
        let id = self.bases.get(pack)?.checked_add(pos)?;
        (id < *self.bases.get(pack + 1)?).then_some(Id(id))
    }

    /// The id of a loose object, given a new one if it has none.
    pub(super) fn loose_id(&mut self, oid: &oid) -> Result<Id, SendError> {
        if let Some(id) = self.loose_ids.get(oid) {
            return Ok(Id(*id));
        }
        let number = u32::try_from(self.loose.len())
            .ok()
            .filter(|n| n & LOOSE == 0)
            .ok_or(SendError::TooManyObjects)?;
        self.loose.push(oid.to_owned());
        self.loose_ids.insert(oid.to_owned(), number | LOOSE);
        Ok(Id(number | LOOSE))
    }

    /// The id of a loose object that has one.
    pub(super) fn known_loose_id(&self, oid: &oid) -> Option<Id> {
        self.loose_ids.get(oid).map(|id| Id(*id))
    }

    /// The pack and index position of a packed object.
    #[inline]
    pub(super) fn place(&self, id: Id) -> Option<(u32, u32)> {
        if id.0 & LOOSE != 0 {
            return None;
        }
        let pack = self.bases.partition_point(|base| *base <= id.0).checked_sub(1)?;
        Some((pack as u32, id.0 - self.bases[pack]))
    }

    /// The loose objects that have numbers, in the order of their numbers.
    pub(super) fn loose(&self) -> &[ObjectId] {
        &self.loose
    }

    /// The ids of a pack's objects.
    pub(super) fn range(&self, pack: u32) -> std::ops::Range<u32> {
        let pack = pack as usize;
        match (self.bases.get(pack), self.bases.get(pack + 1)) {
            (Some(start), Some(end)) => *start..*end,
            _ => 0..0,
        }
    }
}

/// A set of objects.
#[derive(Debug, Default, Clone)]
pub(super) struct Marks {
    packed: Vec<u64>,
    loose: Vec<u64>,
}

impl Marks {
    /// Bytes that it takes.
    pub(super) fn memory(&self) -> usize {
        8 * (self.packed.len() + self.loose.len())
    }

    /// An empty set with room for the packed objects of `numbering`.
    pub(super) fn for_all(numbering: &Numbering) -> Self {
        let objects = numbering.bases.last().copied().unwrap_or(0) as usize;
        Marks {
            packed: vec![0; objects.div_ceil(64)],
            loose: Vec::new(),
        }
    }

    #[inline]
    fn words(&self, id: Id) -> (&Vec<u64>, usize) {
        match id.loose() {
            None => (&self.packed, id.0 as usize),
            Some(number) => (&self.loose, number),
        }
    }

    /// Whether the object is in the set.
    #[inline]
    pub(super) fn contains(&self, id: Id) -> bool {
        let (words, bit) = self.words(id);
        words.get(bit / 64).is_some_and(|word| word >> (bit % 64) & 1 != 0)
    }

    /// Takes the object out.
    pub(super) fn remove(&mut self, id: Id) {
        let (words, bit) = match id.loose() {
            None => (&mut self.packed, id.0 as usize),
            Some(number) => (&mut self.loose, number),
        };
        if let Some(word) = words.get_mut(bit / 64) {
            *word &= !(1 << (bit % 64));
        }
    }

    /// Adds the object; whether it was new.
    #[inline]
    pub(super) fn insert(&mut self, id: Id) -> bool {
        let (words, bit) = match id.loose() {
            None => (&mut self.packed, id.0 as usize),
            Some(number) => (&mut self.loose, number),
        };
        if words.len() <= bit / 64 {
            words.resize(bit / 64 + 1, 0);
        }
        let word = &mut words[bit / 64];
        let new = *word >> (bit % 64) & 1 == 0;
        *word |= 1 << (bit % 64);
        new
    }

    /// Adds the packed objects of this id range.
    pub(super) fn insert_all(&mut self, range: std::ops::Range<u32>) {
        let (start, end) = (range.start as usize, range.end as usize);
        if start >= end {
            return;
        }
        let (first, last) = (start / 64, (end - 1) / 64);
        if self.packed.len() <= last {
            self.packed.resize(last + 1, 0);
        }
        let (head, tail) = (!0 << (start % 64), !0 >> (63 - (end - 1) % 64));
        if first == last {
            self.packed[first] |= head & tail;
            return;
        }
        self.packed[first] |= head;
        self.packed[first + 1..last].fill(!0);
        self.packed[last] |= tail;
    }

    /// Adds every object of `other`.
    pub(super) fn add(&mut self, other: &Marks) {
        for (own, other) in [(&mut self.packed, &other.packed), (&mut self.loose, &other.loose)] {
            if own.len() < other.len() {
                own.resize(other.len(), 0);
            }
            for (word, new) in own.iter_mut().zip(other) {
                *word |= new;
            }
        }
    }

    /// Takes every object of `other` out.
    pub(super) fn subtract(&mut self, other: &Marks) {
        for (own, other) in [(&mut self.packed, &other.packed), (&mut self.loose, &other.loose)] {
            for (word, out) in own.iter_mut().zip(other) {
                *word &= !out;
            }
        }
    }

    /// Whether nothing is in the set.
    pub(super) fn is_empty(&self) -> bool {
        self.packed.iter().chain(&self.loose).all(|word| *word == 0)
    }

    /// How many objects are in the set.
    pub(super) fn len(&self) -> u64 {
        self.packed
            .iter()
            .chain(&self.loose)
            .map(|word| u64::from(word.count_ones()))
            .sum()
    }

    /// How many packed objects of this id range are in the set.
    pub(super) fn count_in(&self, range: std::ops::Range<u32>) -> u32 {
        self.ones(range).map(|(word, _)| word.count_ones()).sum()
    }

    /// The packed objects of this id range, in order.
    pub(super) fn in_range(&self, range: std::ops::Range<u32>) -> impl Iterator<Item = Id> + '_ {
        self.ones(range)
            .flat_map(|(word, first)| bits(word).map(move |bit| Id(first + bit)))
    }

    /// The numbers of the loose objects in the set.
    pub(super) fn loose(&self) -> impl Iterator<Item = usize> + '_ {
        self.loose
            .iter()
            .enumerate()
            .flat_map(|(at, word)| bits(*word).map(move |bit| at * 64 + bit as usize))
    }

    /// The words of a range, with bits outside of it cleared, and the id of each word's first bit.
    fn ones(&self, range: std::ops::Range<u32>) -> impl Iterator<Item = (u64, u32)> + '_ {
        let first = range.start / 64;
        let last = range.end.div_ceil(64);
        (first..last).map(move |at| {
            let mut word = self.packed.get(at as usize).copied().unwrap_or(0);
            if at == range.start / 64 {
                word &= u64::MAX << (range.start % 64);
            }
            if at == range.end / 64 {
                word &= !(u64::MAX << (range.end % 64));
            }
            (word, at * 64)
        })
    }
}

fn bits(mut word: u64) -> impl Iterator<Item = u32> {
    std::iter::from_fn(move || {
        (word != 0).then(|| {
            let bit = word.trailing_zeros();
            word &= word - 1;
            bit
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn oid(n: u8) -> ObjectId {
        ObjectId::from_bytes_or_panic(&[n; 20])
    }

    #[test]
    fn packs_that_appear_later_leave_numbers_as_they_were() {
        let mut numbering = Numbering::default();
        numbering.add_packs([3u32, 0, 2].into_iter()).unwrap();
        let id = numbering.packed(2, 1).unwrap();
        let loose = numbering.loose_id(&oid(1)).unwrap();
        numbering.add_packs([3u32, 0, 2, 7].into_iter()).unwrap();
        assert_eq!(numbering.place(id), Some((2, 1)));
        assert_eq!(numbering.packed(2, 2), None);
        assert_eq!(numbering.packed(4, 0), None);
        assert_eq!(numbering.place(numbering.packed(3, 6).unwrap()), Some((3, 6)));
        assert_eq!(numbering.loose_id(&oid(1)).unwrap(), loose);
        assert_eq!(numbering.place(loose), None);
        assert_eq!(numbering.loose(), [oid(1)]);
        assert!(numbering.add_packs([3, 0, 2, 7, u32::MAX - 20].into_iter()).is_err());
    }

    proptest! {
        #[test]
        fn marks_are_a_set(ids in proptest::collection::btree_set(0u32..500, 0..100), start in 0u32..500, len in 0u32..500, loose in proptest::collection::btree_set(0usize..200, 0..20)) {
            let mut marks = Marks::default();
            for id in &ids {
                prop_assert!(marks.insert(Id(*id)));
                prop_assert!(!marks.insert(Id(*id)));
            }
            for number in &loose {
                marks.insert(Id(LOOSE | *number as u32));
            }
            let range = start..start + len;
            let expected: Vec<_> = ids.range(range.clone()).map(|id| Id(*id)).collect();
            prop_assert_eq!(marks.count_in(range.clone()) as usize, expected.len());
            prop_assert_eq!(marks.in_range(range).collect::<Vec<_>>(), expected);
            prop_assert_eq!(marks.len() as usize, ids.len() + loose.len());
            prop_assert_eq!(marks.is_empty(), ids.is_empty() && loose.is_empty());
            prop_assert_eq!(marks.loose().collect::<Vec<_>>(), loose.into_iter().collect::<Vec<_>>());
            for id in 0..600 {
                prop_assert_eq!(marks.contains(Id(id)), ids.contains(&id));
            }
            let (mut both, mut range_only) = (marks.clone(), Marks::default());
            both.insert_all(start..start + len);
            range_only.insert_all(start..start + len);
            marks.add(&range_only);
            for id in 0..1_100 {
                prop_assert_eq!(range_only.contains(Id(id)), (start..start + len).contains(&id));
                prop_assert_eq!(both.contains(Id(id)), ids.contains(&id) || range_only.contains(Id(id)));
                prop_assert_eq!(marks.contains(Id(id)), both.contains(Id(id)));
            }
        }
    }
}
