use std::ops::Range;

use gix::{
    hash::{Kind as HashKind, oid},
    objs::Kind,
};

use super::{Ewah, FormatError};

const WHAT: &str = "reachability bitmap";
const FULL_DAG: u16 = 0x1;
const HASH_CACHE: u16 = 0x4;
const LOOKUP_TABLE: u16 = 0x10;
/// A row of the lookup table: position of the commit, where the entry is, row of the one that it is XORed with.
const ROW: usize = 16;
const NO_ROW: u32 = u32::MAX;
/// Position of the commit, XOR offset, flags.
const ENTRY_HEAD: usize = 6;
/// gitformat-bitmap(5).
const MAX_XOR_OFFSET: u32 = 160;

/// Reachability bitmaps of a pack or of a multi-pack-index (`.bitmap`, version 1), over their bytes: gitformat-bitmap(5).
///
/// Bits are objects in the order of the pack, or in the order that the multi-pack-index's `RIDX` gives; *positions* are those of its ids, in the index. Entries are decoded
/// when they are asked for. Extensions that are not known lie between the entries and the known ones, and are passed over.
pub struct Bitmap<D> {
    data: D,
    objects: u32,
    count: u32,
    types: [Range<usize>; 4],
    entries: Entries,
    /// Where the entries end at the latest.
    entries_end: usize,
    hashes_at: Option<usize>,
}

/// How an entry is found.
enum Entries {
    /// By the table at this place, whose rows are in the order of positions.
    Table(usize),
    /// By what was found in going over all of them; the second are places in the first, in the order of positions.
    Walked(Vec<Walked>, Vec<u32>),
}

struct Walked {
    pos: u32,
    /// So many entries back; 0 for none.
    xor: u8,
    at: usize,
}

/// The bitmap of one commit, see [`Bitmap::find`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BitmapEntry(u32);

fn be32(bytes: &[u8], at: usize) -> u32 {
    bytes
        .get(at..)
        .and_then(|bytes| bytes.first_chunk())
        .map_or(0, |b| u32::from_be_bytes(*b))
}

fn be64(bytes: &[u8], at: usize) -> u64 {
    (u64::from(be32(bytes, at)) << 32) | u64::from(be32(bytes, at + 4))
}

const CUT: FormatError = FormatError::Truncated { what: WHAT };

fn invalid(why: &'static str) -> FormatError {
    FormatError::Invalid { what: WHAT, why }
}

impl<D: AsRef<[u8]>> Bitmap<D> {
    /// Reads the header, finds the entries, and checks that the file is about the pack or multi-pack-index with this many objects and this checksum. What the
    /// bitmaps themselves hold is checked when they are decoded; the checksum of the file is not, as git does not.
    ///
    /// # Errors
    /// When the file is cut, is for another pack, or has no full closure.
    pub fn parse(data: D, objects: u32, checksum: &oid, hash: HashKind) -> Result<Self, FormatError> {
        let bytes = data.as_ref();
        let raw = hash.len_in_bytes();
        let head = 12 + raw;
        let mut end = bytes.len().checked_sub(raw).filter(|end| *end >= head).ok_or(CUT)?;
        if &bytes[..4] != b"BITM" || bytes[4..6] != [0, 1] {
            return Err(invalid("unsupported version"));
        }
        let flags = u16::from_be_bytes([bytes[6], bytes[7]]);
        if flags & FULL_DAG == 0 {
            return Err(invalid("it does not have the full closure"));
        }
        let count = be32(bytes, 8);
        if count > objects {
            return Err(invalid("more entries than objects"));
        }
        if &bytes[12..head] != checksum.as_bytes() {
            return Err(FormatError::Mismatch { what: WHAT });
        }
        // From the end: trailer, name hashes, lookup table, what is not known, entries.
        let mut take = |each: usize, n: u32| {
            end = each
                .checked_mul(n as usize)
                .and_then(|len| end.checked_sub(len))
                .filter(|end| *end >= head)
                .ok_or(CUT)?;
            Ok::<_, FormatError>(end)
        };
        let hashes_at = match flags & HASH_CACHE {
            0 => None,
            _ => Some(take(4, objects)?),
        };
        let table = match flags & LOOKUP_TABLE {
            0 => None,
            _ => Some(take(ROW, count)?),
        };
        let mut at = head;
        let mut next = || {
            let start = at;
            at = end - Ewah::skip(&bytes[at..end])?.len();
            Ok::<_, FormatError>(start..at)
        };
        let types = [next()?, next()?, next()?, next()?];
        let entries = match table {
            Some(table) => Entries::Table(table),
            None => walk(&bytes[..end], at, count, objects)?,
        };
        Ok(Bitmap {
            objects,
            count,
            types,
            entries,
            entries_end: end,
            hashes_at,
            data,
        })
    }

    /// Number of objects that it is about: of bits in every bitmap.
    pub fn objects(&self) -> u32 {
        self.objects
    }

    /// Number of commits that have a bitmap.
    pub fn len(&self) -> u32 {
        self.count
    }

    /// Whether no commit has one.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Words that hold one bit for each object.
    pub fn words(&self) -> usize {
        (self.objects as usize).div_ceil(64)
    }

    /// The objects of a kind.
    ///
    /// # Errors
    /// When the file is damaged there.
    pub fn of_kind(&self, kind: Kind) -> Result<Ewah<&[u8]>, FormatError> {
        let range = match kind {
            Kind::Commit => &self.types[0],
            Kind::Tree => &self.types[1],
            Kind::Blob => &self.types[2],
            Kind::Tag => &self.types[3],
        };
        Ok(Ewah::decode(&self.data.as_ref()[range.clone()], self.objects)?.0)
    }

    /// The bitmap of the commit at a position of the index, if it has one.
    pub fn find(&self, pos: u32) -> Option<BitmapEntry> {
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let mid = low + (high - low) / 2;
            match self.pos_in_order(mid)?.cmp(&pos) {
                std::cmp::Ordering::Less => low = mid + 1,
                std::cmp::Ordering::Greater => high = mid,
                std::cmp::Ordering::Equal => {
                    return Some(BitmapEntry(match &self.entries {
                        Entries::Table(_) => mid,
                        Entries::Walked(_, order) => *order.get(mid as usize)?,
                    }));
                }
            }
        }
        None
    }

    fn pos_in_order(&self, n: u32) -> Option<u32> {
        match &self.entries {
            Entries::Table(table) => Some(be32(self.data.as_ref(), table + n as usize * ROW)),
            Entries::Walked(entries, order) => Some(entries.get(*order.get(n as usize)? as usize)?.pos),
        }
    }

    /// Positions in the index of the commits that have a bitmap, ascending in a file that is not damaged.
    pub fn commits(&self) -> impl ExactSizeIterator<Item = u32> + '_ {
        (0..self.count).map(|n| self.pos_in_order(n).unwrap_or(u32::MAX))
    }

    /// The compressed bitmap of an entry as it is stored, and the entry that it is XORed with.
    ///
    /// # Errors
    /// When the file is damaged there.
    pub fn stored(&self, entry: BitmapEntry) -> Result<(Ewah<&[u8]>, Option<BitmapEntry>), FormatError> {
        let BitmapEntry(n) = entry;
        let bytes = &self.data.as_ref()[..self.entries_end];
        let (at, base) = match &self.entries {
            Entries::Table(table) => {
                let row = table + n as usize * ROW;
                let all = self.data.as_ref();
                let at = usize::try_from(be64(all, row + 4)).map_err(|_| CUT)?;
                if be32(bytes, at) != be32(all, row) {
                    return Err(invalid("the lookup table leads to another entry"));
                }
                let base = match be32(all, row + 12) {
                    NO_ROW => None,
                    base if base < self.count => Some(base),
                    _ => return Err(invalid("an entry is based on one that does not exist")),
                };
                (at, base)
            }
            Entries::Walked(entries, _) => {
                let entry = entries.get(n as usize).ok_or(CUT)?;
                let base = (entry.xor > 0).then(|| n - u32::from(entry.xor));
                (entry.at, base)
            }
        };
        let data = at.checked_add(ENTRY_HEAD).and_then(|at| bytes.get(at..)).ok_or(CUT)?;
        Ok((Ewah::decode(data, self.objects)?.0, base.map(BitmapEntry)))
    }

    /// Everything that the commit of an entry reaches, itself included: a bit for each object.
    ///
    /// # Errors
    /// When the file is damaged there.
    pub fn reach(&self, entry: BitmapEntry) -> Result<Vec<u64>, FormatError> {
        let mut words = vec![0; self.words()];
        let mut next = Some(entry);
        let mut steps = 0;
        while let Some(entry) = next {
            steps += 1;
            if steps > self.count {
                return Err(invalid("an entry is based on itself"));
            }
            let (ewah, base) = self.stored(entry)?;
            ewah.xor_into(&mut words);
            next = base;
        }
        let over = self.objects % 64;
        if over > 0
            && let Some(last) = words.last_mut()
            && *last >> over != 0
        {
            return Err(invalid("it speaks of objects that do not exist"));
        }
        Ok(words)
    }

    /// The hash of the path at which the object at a position of the index was found, 0 where there was none. `None` without the cache.
    pub fn name_hash(&self, pos: u32) -> Option<u32> {
        let at = self.hashes_at?;
        (pos < self.objects).then(|| be32(self.data.as_ref(), at + pos as usize * 4))
    }
}

/// Goes over all entries from `at`.
fn walk(bytes: &[u8], mut at: usize, count: u32, objects: u32) -> Result<Entries, FormatError> {
    // An entry has at least its head, and a bitmap of no words: a count that cannot be true must not be allocated.
    if (bytes.len() - at) / (ENTRY_HEAD + 12) < count as usize {
        return Err(CUT);
    }
    let mut entries = Vec::with_capacity(count as usize);
    for n in 0..count {
        let head = bytes.get(at..at + ENTRY_HEAD).ok_or(CUT)?;
        let (pos, xor) = (be32(head, 0), head[4]);
        if pos >= objects {
            return Err(invalid("an entry is of a commit that does not exist"));
        }
        if u32::from(xor) > n.min(MAX_XOR_OFFSET) {
            return Err(invalid("an entry is based on one that does not exist"));
        }
        entries.push(Walked { pos, xor, at });
        at = bytes.len() - Ewah::skip(&bytes[at + ENTRY_HEAD..])?.len();
    }
    let mut order: Vec<u32> = (0..count).collect();
    order.sort_by_key(|n| entries[*n as usize].pos);
    Ok(Entries::Walked(entries, order))
}

#[cfg(test)]
#[path = "bitmap_tests.rs"]
mod tests;
