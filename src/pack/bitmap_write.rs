use std::io::{self, Write};

use gix::hash::{Kind as HashKind, oid};

use super::{Checksum, Ewah};

/// Full closure, name hashes, lookup table.
const FLAGS: u16 = 0x1 | 0x4 | 0x10;
/// Entries before one that it is compared with, to store only what differs.
const NEAR: usize = 10;
/// Entries that have to be decoded for one, at most.
const DEEPEST: u32 = 40;

/// The bitmap of a commit, to be written.
#[derive(Debug, Clone)]
pub struct ReachBitmap {
    /// The commit's position in the index.
    pub pos: u32,
    /// What it reaches, itself included: a bit for each object.
    pub reach: Ewah<Vec<u8>>,
}

/// What a `.bitmap` file is about.
pub struct BitmapContents<'a> {
    /// The checksum of the pack, or of the multi-pack-index.
    pub checksum: &'a oid,
    /// Commits, trees, blobs and tags: a bit for each object.
    pub kinds: [Ewah<Vec<u8>>; 4],
    /// The bitmaps, those first that are asked for most: others are stored by how they differ from them.
    pub commits: Vec<ReachBitmap>,
    /// For each object, in the order of the index, the hash of the path it was found at ([`path_hash`]); 0 without one.
    pub path_hashes: &'a [u32],
}

/// The hash of a path by which `.bitmap` files tell which objects resemble one another: most of it is the end of the path.
pub fn path_hash(path: &[u8]) -> u32 {
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\n' | b'\r');
    (path.iter().filter(|byte| !is_space(byte)))
        .fold(0u32, |hash, byte| (hash >> 2).wrapping_add(u32::from(*byte) << 24))
}

/// Writes a `.bitmap` file (version 1, with a lookup table and name hashes): gitformat-bitmap(5).
///
/// # Errors
/// Those of `out`.
pub fn write_bitmap(contents: BitmapContents<'_>, hash: HashKind, out: &mut dyn Write) -> io::Result<()> {
    let mut bytes = Vec::new();
    bytes.extend_from_slice(b"BITM\0\x01");
    bytes.extend_from_slice(&FLAGS.to_be_bytes());
    bytes.extend_from_slice(&(contents.commits.len() as u32).to_be_bytes());
    bytes.extend_from_slice(contents.checksum.as_bytes());
    for kind in &contents.kinds {
        kind.encode(&mut bytes);
    }
    // Place in the file and entry that it differs from.
    let mut places: Vec<(u64, Option<usize>)> = Vec::with_capacity(contents.commits.len());
    let mut depths: Vec<u32> = Vec::with_capacity(contents.commits.len());
    for (nth, commit) in contents.commits.iter().enumerate() {
        let mut best: Option<(usize, Ewah<Vec<u8>>)> = None;
        for (near, depth) in depths.iter().enumerate().skip(nth.saturating_sub(NEAR)) {
            if depth + 1 >= DEEPEST {
                continue;
            }
            let differs = commit.reach.xor(&contents.commits[near].reach);
            let least = best
                .as_ref()
                .map_or(commit.reach.encoded_len(), |(_, best)| best.encoded_len());
            if differs.encoded_len() < least {
                best = Some((near, differs));
            }
        }
        let base = best.as_ref().map(|(near, _)| *near);
        depths.push(base.map_or(0, |near| depths[near] + 1));
        places.push((bytes.len() as u64, base));
        bytes.extend_from_slice(&commit.pos.to_be_bytes());
        bytes.push(base.map_or(0, |near| (nth - near) as u8));
        bytes.push(0);
        best.as_ref()
            .map_or(&commit.reach, |(_, differs)| differs)
            .encode(&mut bytes);
    }
    let mut order: Vec<usize> = (0..places.len()).collect();
    order.sort_unstable_by_key(|nth| contents.commits[*nth].pos);
    let mut row_of = vec![0u32; places.len()];
    for (row, nth) in order.iter().enumerate() {
        row_of[*nth] = row as u32;
    }
    for nth in order {
        let (place, base) = places[nth];
        bytes.extend_from_slice(&contents.commits[nth].pos.to_be_bytes());
        bytes.extend_from_slice(&place.to_be_bytes());
        bytes.extend_from_slice(&base.map_or(u32::MAX, |base| row_of[base]).to_be_bytes());
    }
    for hash in contents.path_hashes {
        bytes.extend_from_slice(&hash.to_be_bytes());
    }
    let checksum = Checksum::of(hash, &bytes);
    bytes.extend_from_slice(checksum.as_slice());
    out.write_all(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pack::Bitmap;
    use gix::{hash::ObjectId, objs::Kind};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_was_written_is_read(objects in 1u32..300, sets in proptest::collection::btree_map(0u32..300, proptest::collection::btree_set(0u32..300, 0..60), 0..30)) {
            let bits = |set: &std::collections::BTreeSet<u32>| -> Vec<u32> { set.iter().copied().filter(|bit| *bit < objects).collect() };
            let sets: Vec<(u32, Vec<u32>)> = sets.iter().filter(|(pos, _)| **pos < objects).map(|(pos, set)| (*pos, bits(set))).collect();
            let kind = |nth: u32| Ewah::from_ones((0..objects).filter(|bit| bit % 4 == nth));
            let path_hashes: Vec<u32> = (0..objects).map(|n| n.wrapping_mul(77)).collect();
            let checksum = ObjectId::from([9; 20]);
            let mut bytes = Vec::new();
            let contents = BitmapContents {
                checksum: &checksum,
                kinds: [kind(0), kind(1), kind(2), kind(3)],
                commits: sets.iter().rev().map(|(pos, set)| ReachBitmap { pos: *pos, reach: Ewah::from_ones(set.iter().copied()) }).collect(),
                path_hashes: &path_hashes,
            };
            write_bitmap(contents, HashKind::Sha1, &mut bytes).expect("a Vec takes everything");
            let read = Bitmap::parse(&bytes[..], objects, &checksum, HashKind::Sha1).expect("our own file is valid");
            prop_assert_eq!(read.len() as usize, sets.len());
            for (pos, set) in &sets {
                let words = read.reach(read.find(*pos).expect("there")).expect("sound");
                let found: Vec<u32> = (0..objects).filter(|bit| words[*bit as usize / 64] >> (bit % 64) & 1 == 1).collect();
                prop_assert_eq!(&found, set);
            }
            for (nth, kind) in [Kind::Commit, Kind::Tree, Kind::Blob, Kind::Tag].into_iter().enumerate() {
                prop_assert!(read.of_kind(kind).expect("sound").ones().eq((0..objects).filter(|bit| *bit as usize % 4 == nth)));
            }
            for pos in 0..objects {
                prop_assert_eq!(read.name_hash(pos), Some(path_hashes[pos as usize]));
            }
        }
    }

    #[test]
    fn the_end_of_a_path_is_most_of_its_hash() {
        assert_eq!(path_hash(b""), 0);
        assert_eq!(path_hash(b"a"), u32::from(b'a') << 24);
        assert_eq!(path_hash(b"a b"), path_hash(b"ab"));
        assert_eq!(
            path_hash(b"one/and/another/Makefile") >> 28,
            path_hash(b"Makefile") >> 28
        );
    }
}
