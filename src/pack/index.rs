use std::io::{self, Write};

use gix::hash::{Kind as HashKind, ObjectId, oid};

use super::{Checksum, FormatError, lookup::Ids};

const WHAT: &str = "pack index";
const MAGIC: &[u8; 4] = b"\xfftOc";
const FANOUT: usize = 256 * 4;

/// A pack index (`.idx`, versions 1 and 2) over its bytes, usually a memory map.
///
/// Positions are places in the sorted list of ids, from 0. The tables' sizes are checked once, when parsing; the ids are trusted to be sorted, as git does.
pub struct Index<D> {
    data: D,
    hash: HashKind,
    version: u8,
    len: u32,
}

/// One object of a pack, for writing an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct IndexEntry {
    /// The object.
    pub oid: ObjectId,
    /// Where its entry begins in the pack.
    pub offset: u64,
    /// CRC-32 of the entry's bytes as they are in the pack.
    pub crc32: u32,
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    bytes
        .get(at..at + 4)
        .map_or(0, |b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]))
}

impl<D: AsRef<[u8]>> Index<D> {
    /// Reads the tables' sizes and checks them against the file's.
    pub fn parse(data: D, hash: HashKind) -> Result<Self, FormatError> {
        let bytes = data.as_ref();
        let raw = hash.len_in_bytes();
        let version = if bytes.starts_with(MAGIC) {
            if be32(bytes, 4) != 2 || bytes.len() < 8 {
                return Err(FormatError::Invalid {
                    what: WHAT,
                    why: "unsupported version",
                });
            }
            2
        } else {
            1
        };
        let fan_at = if version == 2 { 8 } else { 0 };
        let fan = bytes
            .get(fan_at..fan_at + FANOUT)
            .ok_or(FormatError::Truncated { what: WHAT })?;
        let mut len = 0;
        for at in (0..FANOUT).step_by(4) {
            let next = be32(fan, at);
            if next < len {
                return Err(FormatError::Invalid {
                    what: WHAT,
                    why: "the fanout table goes backwards",
                });
            }
            len = next;
        }
        let per_entry = if version == 2 { raw + 8 } else { raw + 4 };
        let tables = (fan_at + FANOUT) as u64 + u64::from(len) * per_entry as u64 + 2 * raw as u64;
        let size = bytes.len() as u64;
        if size < tables {
            return Err(FormatError::Truncated { what: WHAT });
        }
        // Version 2 may have up to one large offset for each object but the first.
        let slack = if version == 2 {
            u64::from(len.saturating_sub(1)) * 8
        } else {
            0
        };
        if size > tables + slack || !(size - tables).is_multiple_of(8) {
            return Err(FormatError::Invalid {
                what: WHAT,
                why: "its size does not fit the number of objects",
            });
        }
        Ok(Index {
            data,
            hash,
            version,
            len,
        })
    }

    fn bytes(&self) -> &[u8] {
        self.data.as_ref()
    }

    fn fan_at(&self) -> usize {
        if self.version == 2 { 8 } else { 0 }
    }

    fn ids_at(&self) -> usize {
        self.fan_at() + FANOUT
    }

    /// Number of objects.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whether it lists nothing.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The hash its ids are of.
    pub fn hash_kind(&self) -> HashKind {
        self.hash
    }

    /// The id at a position.
    ///
    /// # Panics
    /// When `pos` is not below [`len`](Self::len): positions come from this index.
    pub fn oid(&self, pos: u32) -> &oid {
        assert!(pos < self.len, "position {pos} of {}", self.len);
        let raw = self.hash.len_in_bytes();
        let at = if self.version == 2 {
            self.ids_at() + pos as usize * raw
        } else {
            self.ids_at() + pos as usize * (raw + 4) + 4
        };
        oid::from_bytes_unchecked(&self.bytes()[at..at + raw])
    }

    /// The position of an id.
    pub fn lookup(&self, id: &oid) -> Option<u32> {
        let key = id.as_bytes();
        if key.len() != self.hash.len_in_bytes() {
            return None;
        }
        let first = key[0] as usize;
        let fan = self.fan_at();
        let low = if first == 0 {
            0
        } else {
            be32(self.bytes(), fan + (first - 1) * 4)
        };
        let high = be32(self.bytes(), fan + first * 4).min(self.len);
        let (skip, stride) = match self.version {
            2 => (0, key.len()),
            _ => (4, key.len() + 4),
        };
        let bytes = &self.bytes()[self.ids_at() + skip..];
        Ids { bytes, stride }.find(key, low, high)
    }

    /// Where the entry of the object at a position begins in the pack. A damaged index gives an offset beyond any pack.
    pub fn offset(&self, pos: u32) -> u64 {
        assert!(pos < self.len, "position {pos} of {}", self.len);
        let raw = self.hash.len_in_bytes();
        let bytes = self.bytes();
        if self.version == 1 {
            return u64::from(be32(bytes, self.ids_at() + pos as usize * (raw + 4)));
        }
        let offsets = self.ids_at() + self.len as usize * (raw + 4);
        let small = be32(bytes, offsets + pos as usize * 4);
        if small & 0x8000_0000 == 0 {
            return u64::from(small);
        }
        let at = offsets + self.len as usize * 4 + (small & 0x7fff_ffff) as usize * 8;
        match bytes.get(at..at + 8) {
            Some(b) if at + 8 + 2 * raw <= bytes.len() => {
                u64::from_be_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]])
            }
            _ => u64::MAX,
        }
    }

    /// The CRC-32 of the entry's bytes in the pack; version 1 has none.
    pub fn crc32(&self, pos: u32) -> Option<u32> {
        assert!(pos < self.len, "position {pos} of {}", self.len);
        let raw = self.hash.len_in_bytes();
        (self.version == 2).then(|| be32(self.bytes(), self.ids_at() + self.len as usize * raw + pos as usize * 4))
    }

    /// The trailer of the pack that this index belongs to.
    pub fn pack_checksum(&self) -> &oid {
        let raw = self.hash.len_in_bytes();
        let at = self.bytes().len() - 2 * raw;
        oid::from_bytes_unchecked(&self.bytes()[at..at + raw])
    }
}

/// Writes a version 2 index and returns its own checksum. `entries` are sorted by id.
///
/// # Errors
/// Those of `out`.
pub fn write_index(
    entries: &[IndexEntry],
    pack_checksum: &oid,
    hash: HashKind,
    out: &mut dyn Write,
) -> io::Result<ObjectId> {
    let mut bytes = Vec::with_capacity(8 + FANOUT + entries.len() * (hash.len_in_bytes() + 8) + 64);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&2u32.to_be_bytes());
    let mut at = 0u32;
    let mut rest = entries.iter().peekable();
    for first in 0..=255u8 {
        while rest.next_if(|e| e.oid.as_slice()[0] <= first).is_some() {
            at += 1;
        }
        bytes.extend_from_slice(&at.to_be_bytes());
    }
    for entry in entries {
        bytes.extend_from_slice(entry.oid.as_slice());
    }
    for entry in entries {
        bytes.extend_from_slice(&entry.crc32.to_be_bytes());
    }
    let mut large = Vec::new();
    for entry in entries {
        let word = match u32::try_from(entry.offset) {
            Ok(small) if small & 0x8000_0000 == 0 => small,
            _ => {
                let index = (large.len() / 8) as u32;
                large.extend_from_slice(&entry.offset.to_be_bytes());
                0x8000_0000 | index
            }
        };
        bytes.extend_from_slice(&word.to_be_bytes());
    }
    bytes.extend_from_slice(&large);
    bytes.extend_from_slice(pack_checksum.as_bytes());
    let checksum = Checksum::of(hash, &bytes);
    bytes.extend_from_slice(checksum.as_slice());
    out.write_all(&bytes)?;
    Ok(checksum)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entries(seed: &[(u64, u32)]) -> Vec<IndexEntry> {
        let mut all: Vec<_> = seed
            .iter()
            .enumerate()
            .map(|(n, (offset, crc32))| {
                let mut hasher = gix::hash::hasher(HashKind::Sha1);
                hasher.update(&n.to_le_bytes());
                IndexEntry {
                    oid: hasher.try_finalize().expect("no collision"),
                    offset: *offset,
                    crc32: *crc32,
                }
            })
            .collect();
        all.sort();
        all
    }

    proptest! {
        #[test]
        fn what_was_written_is_found(seed in proptest::collection::vec((0u64..(1 << 40), any::<u32>()), 0..300)) {
            let entries = entries(&seed);
            let checksum = ObjectId::from_bytes_or_panic(&[7; 20]);
            let mut bytes = Vec::new();
            write_index(&entries, &checksum, HashKind::Sha1, &mut bytes).expect("a Vec takes everything");
            // An index with more large offsets than git would ever write for its size is refused; keep within its rule.
            if !entries.is_empty() && entries.iter().all(|e| e.offset >= 1 << 31) { return Ok(()); }
            let index = Index::parse(&bytes, HashKind::Sha1).expect("our own index is valid");
            prop_assert_eq!(index.len() as usize, entries.len());
            prop_assert_eq!(index.pack_checksum(), checksum.as_ref());
            for (pos, entry) in entries.iter().enumerate() {
                let pos = pos as u32;
                prop_assert_eq!(index.lookup(&entry.oid), Some(pos));
                prop_assert_eq!(index.oid(pos), entry.oid.as_ref());
                prop_assert_eq!(index.offset(pos), entry.offset);
                prop_assert_eq!(index.crc32(pos), Some(entry.crc32));
            }
            prop_assert_eq!(index.lookup(&checksum), None);
        }

        #[test]
        fn a_damaged_index_never_panics(seed in proptest::collection::vec((0u64..(1 << 40), any::<u32>()), 1..20), at in any::<prop::sample::Index>(), value in any::<u8>(), cut in any::<prop::sample::Index>()) {
            let mut bytes = Vec::new();
            write_index(&entries(&seed), &ObjectId::from_bytes_or_panic(&[7; 20]), HashKind::Sha1, &mut bytes).expect("a Vec takes everything");
            let at = at.index(bytes.len());
            bytes[at] = value;
            let cut_at = cut.index(bytes.len());
            for bytes in [&bytes[..], &bytes[..cut_at]] {
                if let Ok(index) = Index::parse(bytes, HashKind::Sha1) {
                    for pos in 0..index.len() {
                        let id = index.oid(pos).to_owned();
                        let _ = (index.lookup(&id), index.offset(pos), index.crc32(pos));
                    }
                }
            }
        }
    }
}
