use bstr::{BStr, BString, ByteSlice};
use gix::hash::{Kind as HashKind, oid};

use super::{FormatError, lookup::Ids};

const WHAT: &str = "multi-pack-index";

/// A multi-pack-index (version 1, one layer) over its bytes.
pub struct MultiIndex<D> {
    data: D,
    hash: HashKind,
    packs: Vec<BString>,
    len: u32,
    fan_at: usize,
    ids_at: usize,
    offsets_at: usize,
    large: Option<(usize, usize)>,
    order_at: Option<usize>,
    /// Where it says which bits each pack has.
    bits_at: Option<usize>,
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    bytes
        .get(at..at + 4)
        .map_or(0, |b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]))
}

fn be64(bytes: &[u8], at: usize) -> u64 {
    (u64::from(be32(bytes, at)) << 32) | u64::from(be32(bytes, at + 4))
}

impl<D: AsRef<[u8]>> MultiIndex<D> {
    /// Reads the chunk table and checks the sizes of the chunks that are needed for looking up.
    ///
    /// # Errors
    /// Also for a multi-pack-index of another hash, or one layer of a chain: those are to be ignored, not served from.
    pub fn parse(data: D, hash: HashKind) -> Result<Self, FormatError> {
        const CUT: FormatError = FormatError::Truncated { what: WHAT };
        let invalid = |why| FormatError::Invalid { what: WHAT, why };
        let bytes = data.as_ref();
        let head = bytes.get(..12).ok_or(CUT)?;
        if &head[..4] != b"MIDX" || head[4] != 1 {
            return Err(invalid("unsupported version"));
        }
        let hash_id = if hash == HashKind::Sha256 { 2 } else { 1 };
        if head[5] != hash_id {
            return Err(invalid("it is for another hash"));
        }
        if head[7] != 0 {
            return Err(invalid("layers of a chain are not read"));
        }
        let chunks = head[6] as usize;
        let pack_count = be32(bytes, 8) as usize;
        let table = bytes.get(12..12 + (chunks + 1) * 12).ok_or(CUT)?;
        let chunk = |id: &[u8; 4]| -> Option<(usize, usize)> {
            (0..chunks).find(|n| &table[n * 12..n * 12 + 4] == id).and_then(|n| {
                let start = usize::try_from(be64(table, n * 12 + 4)).ok()?;
                let end = usize::try_from(be64(table, (n + 1) * 12 + 4)).ok()?;
                (start <= end && end <= bytes.len()).then_some((start, end))
            })
        };
        let need = |id| chunk(id).ok_or(invalid("a chunk is missing or reaches outside of the file"));
        let (names_start, names_end) = need(b"PNAM")?;
        let (fan_at, fan_end) = need(b"OIDF")?;
        let (ids_at, ids_end) = need(b"OIDL")?;
        let (offsets_at, offsets_end) = need(b"OOFF")?;
        if fan_end - fan_at != 1024 {
            return Err(invalid("the fanout table has a wrong size"));
        }
        let mut len = 0;
        for n in 0..256 {
            let next = be32(bytes, fan_at + n * 4);
            if next < len {
                return Err(invalid("the fanout table goes backwards"));
            }
            len = next;
        }
        if (ids_end - ids_at) as u64 != u64::from(len) * hash.len_in_bytes() as u64
            || (offsets_end - offsets_at) as u64 != u64::from(len) * 8
        {
            return Err(invalid("a table's size does not fit the number of objects"));
        }
        let packs: Vec<BString> = bytes[names_start..names_end]
            .split(|b| *b == 0)
            .filter(|name| !name.is_empty())
            .map(BString::from)
            .collect();
        if packs.len() != pack_count {
            return Err(invalid("the number of pack names is not the number of packs"));
        }
        let plain = |name: &BString| !name.contains(&b'/') && name.ends_with(b".idx");
        if !packs.iter().all(plain) {
            return Err(invalid("a pack name is not the name of an index"));
        }
        let large = match (0..chunks).any(|n| &table[n * 12..n * 12 + 4] == b"LOFF") {
            true => Some(need(b"LOFF")?),
            false => None,
        };
        let order_at = chunk(b"RIDX")
            .filter(|(start, end)| (end - start) as u64 == u64::from(len) * 4)
            .map(|(start, _)| start);
        let bits_at = chunk(b"BTMP")
            .filter(|(start, end)| (end - start) as u64 == packs.len() as u64 * 8)
            .map(|(start, _)| start);
        Ok(MultiIndex {
            order_at,
            bits_at,
            hash,
            packs,
            len,
            fan_at,
            ids_at,
            offsets_at,
            large,
            data,
        })
    }

    /// File names of the pack indices it covers (`pack-….idx`), by pack number.
    pub fn pack_names(&self) -> impl ExactSizeIterator<Item = &BStr> {
        self.packs.iter().map(|name| name.as_bstr())
    }

    /// Number of objects.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whether it lists nothing.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The id at a position.
    ///
    /// # Panics
    /// When `pos` is not below [`len`](Self::len).
    pub fn oid(&self, pos: u32) -> &oid {
        assert!(pos < self.len, "position {pos} of {}", self.len);
        let raw = self.hash.len_in_bytes();
        let at = self.ids_at + pos as usize * raw;
        oid::from_bytes_unchecked(&self.data.as_ref()[at..at + raw])
    }

    /// The position of an id.
    pub fn lookup(&self, id: &oid) -> Option<u32> {
        let key = id.as_bytes();
        if key.len() != self.hash.len_in_bytes() {
            return None;
        }
        let bytes = self.data.as_ref();
        let first = key[0] as usize;
        let low = if first == 0 {
            0
        } else {
            be32(bytes, self.fan_at + (first - 1) * 4)
        };
        let high = be32(bytes, self.fan_at + first * 4).min(self.len);
        let (bytes, stride) = (&bytes[self.ids_at..], key.len());
        Ids { bytes, stride }.find(key, low, high)
    }

    /// The position of the `nth` object in the order of bitmaps: pack by pack, the preferred one first, and within a pack by offset. `None` when the file does not
    /// say (`RIDX`), or says what cannot be.
    pub fn nth(&self, nth: u32) -> Option<u32> {
        let at = self.order_at.filter(|_| nth < self.len)? + nth as usize * 4;
        Some(be32(self.data.as_ref(), at)).filter(|pos| *pos < self.len)
    }

    /// The bits of the objects that are taken from a pack (`BTMP`), by the pack's number. `None` when the file does not say, or says what cannot be.
    pub fn bits_of_pack(&self, pack: u32) -> Option<std::ops::Range<u32>> {
        let at = self.bits_at.filter(|_| (pack as usize) < self.packs.len())? + pack as usize * 8;
        let (first, bits) = (be32(self.data.as_ref(), at), be32(self.data.as_ref(), at + 4));
        let end = first.checked_add(bits).filter(|end| *end <= self.len)?;
        Some(first..end)
    }

    /// The file's own checksum, by which its bitmaps are named.
    pub fn checksum(&self) -> Option<&oid> {
        let bytes = self.data.as_ref();
        let at = bytes.len().checked_sub(self.hash.len_in_bytes())?;
        Some(oid::from_bytes_unchecked(&bytes[at..]))
    }

    /// The number of the pack that has the object at a position, and where in that pack. `None` when the file is damaged there.
    pub fn location(&self, pos: u32) -> Option<(u32, u64)> {
        assert!(pos < self.len, "position {pos} of {}", self.len);
        let bytes = self.data.as_ref();
        let at = self.offsets_at + pos as usize * 8;
        let pack = be32(bytes, at);
        let small = be32(bytes, at + 4);
        if pack as usize >= self.packs.len() {
            return None;
        }
        // The high bit means "look in the large table" only when there is one.
        match self.large {
            Some((start, end)) if small & 0x8000_0000 != 0 => {
                let at = start + (small & 0x7fff_ffff) as usize * 8;
                (at + 8 <= end).then(|| (pack, be64(bytes, at)))
            }
            _ => Some((pack, u64::from(small))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A file over two packs, `count` objects of which every other lies beyond 2 GiB.
    fn file(count: u32) -> Vec<u8> {
        let id = |n: u32| {
            let mut raw = [0u8; 20];
            // Spread over the fanout table, in order.
            raw[..4].copy_from_slice(&(n * (u32::MAX / count.max(1))).to_be_bytes());
            raw
        };
        let names = b"pack-a.idx\0pack-b.idx\0\0\0".to_vec();
        let mut fanout = Vec::new();
        for byte in 0..=255u8 {
            let up_to = (0..count).filter(|n| id(*n)[0] <= byte).count() as u32;
            fanout.extend_from_slice(&up_to.to_be_bytes());
        }
        let ids: Vec<u8> = (0..count).flat_map(id).collect();
        let (mut offsets, mut large) = (Vec::new(), Vec::new());
        for n in 0..count {
            offsets.extend_from_slice(&(n % 2).to_be_bytes());
            let offset = if n % 2 == 0 { 12 + n } else { 0x8000_0000 | (n / 2) };
            offsets.extend_from_slice(&offset.to_be_bytes());
            if n % 2 == 1 {
                large.extend_from_slice(&((1u64 << 33) + u64::from(n)).to_be_bytes());
            }
        }
        let chunks = [
            (b"PNAM", names),
            (b"OIDF", fanout),
            (b"OIDL", ids),
            (b"OOFF", offsets),
            (b"LOFF", large),
            (b"RIDX", (0..count).rev().flat_map(u32::to_be_bytes).collect()),
        ];
        let mut out = b"MIDX\x01\x01\x06\0\0\0\0\x02".to_vec();
        let mut at = 12 + 7 * 12u64;
        for (id, data) in &chunks {
            out.extend_from_slice(*id);
            out.extend_from_slice(&at.to_be_bytes());
            at += data.len() as u64;
        }
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&at.to_be_bytes());
        for (_, data) in &chunks {
            out.extend_from_slice(data);
        }
        out.extend_from_slice(&[0; 20]);
        out
    }

    /// Asks a file for everything it has.
    fn ask(bytes: &[u8]) -> Option<Vec<Option<(u32, u64)>>> {
        let index = MultiIndex::parse(bytes, HashKind::Sha1).ok()?;
        assert!(index.pack_names().all(|name| !name.contains(&b'/')));
        let locations = (0..index.len()).map(|pos| {
            let id = index.oid(pos).to_owned();
            let _ = index.lookup(&id);
            assert!(index.nth(pos).is_none_or(|pos| pos < index.len()));
            index.location(pos)
        });
        Some(locations.collect())
    }

    #[test]
    fn what_a_file_says_is_found() {
        let bytes = file(9);
        let index = MultiIndex::parse(&bytes, HashKind::Sha1).expect("a good file");
        for pos in 0..9 {
            assert_eq!(index.lookup(index.oid(pos)), Some(pos));
        }
        let told = ask(&bytes).expect("a good file");
        assert!((0..9).map(|nth| index.nth(nth)).eq((0..9).rev().map(Some)));
        assert_eq!(
            (index.nth(9), index.checksum().map(|id| id.is_null())),
            (None, Some(true))
        );
        assert_eq!(told[4], Some((0, 16)));
        assert_eq!(told[5], Some((1, (1 << 33) + 5)));
        for cut in 0..bytes.len() - 20 - 9 * 4 {
            assert_eq!(ask(&bytes[..cut]), None, "cut at {cut}");
        }
    }

    proptest! {
        #[test]
        fn a_damaged_file_never_panics(count in 0u32..9, damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6), in_the_table: bool) {
            let mut bytes = file(count);
            let end = if in_the_table { 12 + 7 * 12 } else { bytes.len() };
            for (at, value) in damage {
                bytes[at.index(end)] = value;
            }
            let _ = ask(&bytes);
        }

        #[test]
        fn arbitrary_bytes_never_panic(tail in proptest::collection::vec(any::<u8>(), 0..300), chunks in 0u8..6) {
            let mut bytes = b"MIDX\x01\x01".to_vec();
            bytes.push(chunks);
            bytes.push(0);
            bytes.extend_from_slice(&tail);
            let _ = MultiIndex::parse(bytes, HashKind::Sha1);
        }
    }
}
