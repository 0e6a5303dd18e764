//! Filters that tell which paths a commit did not change (Bloom filters of a commit-graph). gitformat-commit-graph(5).

use std::collections::BTreeSet;

/// Bits of a filter for each path in it.
pub(super) const BITS_PER_PATH: u32 = 10;
/// Bits that each path sets.
pub(super) const HASHES: u32 = 7;
/// The way to hash that git writes unless it is told otherwise.
pub(super) const VERSION: u32 = 1;
/// Paths of one commit above which the filter says that it may have changed anything.
pub const MOST_CHANGED_PATHS: usize = 512;
/// The filter of a commit that changed too much.
const ANYTHING: [u8; 1] = [0xff];

const SEEDS: [u32; 2] = [0x293a_e76f, 0x7e64_6e2c];

/// Murmur3 (32 bits). In version 1 a byte above 127 counts as a negative number, as it came out where git was first compiled.
fn murmur3(seed: u32, bytes: &[u8], version: u32) -> u32 {
    let word = |byte: u8| match version {
        1 => i32::from(byte as i8) as u32,
        _ => u32::from(byte),
    };
    let scramble = |k: u32| k.wrapping_mul(0xcc9e_2d51).rotate_left(15).wrapping_mul(0x1b87_3593);
    let mut hash = seed;
    let mut fours = bytes.chunks_exact(4);
    for four in &mut fours {
        let k = word(four[0]) | word(four[1]) << 8 | word(four[2]) << 16 | word(four[3]) << 24;
        hash = (hash ^ scramble(k))
            .rotate_left(13)
            .wrapping_mul(5)
            .wrapping_add(0xe654_6b64);
    }
    let rest = fours.remainder();
    if !rest.is_empty() {
        let k = (rest.iter().zip([0, 8, 16])).fold(0, |k, (byte, shift)| k ^ word(*byte) << shift);
        hash ^= scramble(k);
    }
    hash ^= bytes.len() as u32;
    hash = (hash ^ hash >> 16).wrapping_mul(0x85eb_ca6b);
    hash = (hash ^ hash >> 13).wrapping_mul(0xc2b2_ae35);
    hash ^ hash >> 16
}

/// The bits that stand for a path, in a filter of so many.
fn bits(path: &[u8], hashes: u32, version: u32, bits: u64) -> impl Iterator<Item = u64> {
    let [a, b] = SEEDS.map(|seed| murmur3(seed, path, version));
    (0..hashes).map(move |n| u64::from(a.wrapping_add(n.wrapping_mul(b))) % bits)
}

/// Collects the paths that a commit changed, and the directories they are in.
#[derive(Debug, Default)]
pub struct ChangedPathSet {
    paths: BTreeSet<Vec<u8>>,
    files: usize,
}

impl ChangedPathSet {
    /// Takes a path, without a slash at its ends. Says whether more would make a difference.
    pub fn add(&mut self, path: &[u8]) -> bool {
        self.files += 1;
        if self.files > MOST_CHANGED_PATHS {
            return false;
        }
        let mut path = path;
        loop {
            if !self.paths.insert(path.to_vec()) {
                break;
            }
            match path.iter().rposition(|byte| *byte == b'/') {
                Some(slash) if slash > 0 => path = &path[..slash],
                _ => break,
            }
        }
        true
    }

    /// The filter of all that was taken: one byte of zeros for nothing, one of ones for too much.
    pub fn into_filter(self) -> Vec<u8> {
        if self.files > MOST_CHANGED_PATHS || self.paths.len() > MOST_CHANGED_PATHS {
            return ANYTHING.to_vec();
        }
        let len = (self.paths.len() * BITS_PER_PATH as usize).div_ceil(8).max(1);
        let mut filter = vec![0; len];
        for path in &self.paths {
            for bit in bits(path, HASHES, VERSION, len as u64 * 8) {
                filter[(bit / 8) as usize] |= 1 << (bit % 8);
            }
        }
        filter
    }
}

/// A commit's filter in a commit-graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChangedPaths<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) hashes: u32,
    pub(super) version: u32,
    pub(super) bits_per_path: u32,
}

impl<'a> ChangedPaths<'a> {
    /// Whether the commit may have changed this path, a file or a directory, against its first parent. If not, it has not.
    pub fn may_contain(&self, path: &[u8]) -> bool {
        let size = self.bytes.len() as u64 * 8;
        size == 0
            || bits(path, self.hashes, self.version, size)
                .all(|bit| self.bytes[(bit / 8) as usize] & (1 << (bit % 8)) != 0)
    }

    /// Whether it was made as [`ChangedPathSet`] makes filters, so that it can be taken over.
    pub fn is_as_written_here(&self) -> bool {
        (self.version, self.hashes, self.bits_per_path) == (VERSION, HASHES, BITS_PER_PATH)
    }

    /// The filter as it is in the file.
    pub fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_hash_is_the_one_that_others_know() {
        // Known answers of murmur3 with seed 0 and with another.
        assert_eq!(murmur3(0, b"", 2), 0);
        assert_eq!(murmur3(0, b"Hello world!", 2), 0x627b_0c2c);
        assert_eq!(
            murmur3(0, b"The quick brown fox jumps over the lazy dog", 2),
            0x2e4f_f723
        );
        assert_eq!(murmur3(1, b"", 2), 0x514e_28b7);
    }

    proptest! {
        #[test]
        fn what_is_in_a_filter_is_found_with_its_directories(paths in proptest::collection::vec("[a-zé]{1,4}(/[a-z]{1,3}){0,3}", 0..80)) {
            let mut set = ChangedPathSet::default();
            for path in &paths {
                prop_assert!(set.add(path.as_bytes()));
            }
            let bytes = set.into_filter();
            let filter = ChangedPaths { bytes: &bytes, hashes: HASHES, version: VERSION, bits_per_path: BITS_PER_PATH };
            for path in &paths {
                prop_assert!(filter.may_contain(path.as_bytes()));
                if let Some((parent, _)) = path.rsplit_once('/') {
                    prop_assert!(filter.may_contain(parent.as_bytes()));
                }
            }
            let wrong = (0..1_000).filter(|n| filter.may_contain(format!("Q{n}").as_bytes())).count();
            prop_assert!(paths.is_empty() || wrong < 200, "{wrong} of 1,000 paths that are not in it are thought to be");
        }
    }

    #[test]
    fn too_much_is_anything_and_nothing_is_nothing() {
        assert_eq!(ChangedPathSet::default().into_filter(), [0]);
        let mut set = ChangedPathSet::default();
        let more = (0..=MOST_CHANGED_PATHS)
            .map(|n| set.add(format!("f{n}").as_bytes()))
            .last();
        assert_eq!(more, Some(false));
        assert_eq!(set.into_filter(), [0xff]);
    }
}
