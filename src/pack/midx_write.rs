use std::io::{self, Write};

use bstr::BString;
use gix::hash::{Kind as HashKind, ObjectId};

use super::{
    FormatError,
    chunk::{Chunk, fanout, hash_number, write_chunks},
};

const LARGE: u32 = 0x8000_0000;

/// An object for a multi-pack-index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MultiIndexEntry {
    /// The object.
    pub oid: ObjectId,
    /// The pack it is taken from, as a place in the list of names.
    pub pack: u32,
    /// Where its entry begins in that pack.
    pub offset: u64,
}

/// The order of bits in the bitmaps of a multi-pack-index, as places in `entries`: the preferred pack first, then the others, each by offset.
pub fn multi_index_order(entries: &[MultiIndexEntry], preferred: u32) -> Vec<u32> {
    let mut order: Vec<u32> = (0..entries.len() as u32).collect();
    order.sort_unstable_by_key(|place| {
        let entry = &entries[*place as usize];
        (entry.pack != preferred, entry.pack, entry.offset)
    });
    order
}

/// Writes a multi-pack-index of one layer, as git does, and returns its checksum. `names` are those of the packs' indices (`pack-….idx`) in byte order; `entries`
/// are sorted by id, each id once. With a `preferred` pack also the order of bits for bitmaps (`RIDX`, `BTMP`): that pack must be the one that has all
/// its objects here.
///
/// # Errors
/// Those of `out`, and `InvalidInput` when the names are out of order or an entry names no pack.
pub fn write_multi_index(
    names: &[BString],
    entries: &[MultiIndexEntry],
    preferred: Option<u32>,
    hash: HashKind,
    out: &mut dyn Write,
) -> io::Result<ObjectId> {
    let invalid = |why| {
        let what = "multi-pack-index";
        io::Error::new(io::ErrorKind::InvalidInput, FormatError::Invalid { what, why })
    };
    if !names.is_sorted_by(|a, b| a < b) || u32::try_from(names.len()).is_err() {
        return Err(invalid("the names of packs are not in order"));
    }
    if entries.iter().any(|entry| entry.pack as usize >= names.len()) {
        return Err(invalid("an entry is in a pack that is not there"));
    }
    if !entries.is_sorted_by(|a, b| a.oid < b.oid) || entries.len() >= LARGE as usize {
        return Err(invalid("the entries are not in order"));
    }
    let count = entries.len() as u64;
    let names_len: usize = names.iter().map(|name| name.len() + 1).sum();
    let padded = names_len.next_multiple_of(4);
    // Without an offset beyond 32 bits, the highest of them is a bit like the others.
    let has_large = entries.iter().any(|entry| entry.offset > u64::from(u32::MAX));
    let is_large = move |offset: u64| has_large && offset >= u64::from(LARGE);
    let mut chunks = vec![
        Chunk {
            id: *b"PNAM",
            len: padded as u64,
            write: Box::new(move |sink| {
                for name in names {
                    sink.put(name)?;
                    sink.put(&[0])?;
                }
                sink.put(&[0; 4][..padded - names_len])
            }),
        },
        fanout(entries.iter().map(|entry| entry.oid.as_slice()[0])),
        Chunk {
            id: *b"OIDL",
            len: count * hash.len_in_bytes() as u64,
            write: Box::new(|sink| entries.iter().try_for_each(|entry| sink.put(entry.oid.as_slice()))),
        },
        Chunk {
            id: *b"OOFF",
            len: count * 8,
            write: Box::new(move |sink| {
                let mut large = 0;
                for entry in entries {
                    sink.put32(entry.pack)?;
                    if is_large(entry.offset) {
                        sink.put32(LARGE | large)?;
                        large += 1;
                    } else {
                        sink.put32(entry.offset as u32)?;
                    }
                }
                Ok(())
            }),
        },
    ];
    let large_count = entries.iter().filter(|entry| is_large(entry.offset)).count() as u64;
    if large_count > 0 {
        chunks.push(Chunk {
            id: *b"LOFF",
            len: large_count * 8,
            write: Box::new(move |sink| {
                let mut large = entries.iter().filter(|entry| is_large(entry.offset));
                large.try_for_each(|entry| sink.put(&entry.offset.to_be_bytes()))
            }),
        });
    }
    if let Some(preferred) = preferred {
        let order = multi_index_order(entries, preferred);
        let mut packs = vec![(0u32, 0u32); names.len()];
        for (bit, place) in order.iter().enumerate() {
            let (first, bits) = &mut packs[entries[*place as usize].pack as usize];
            if *bits == 0 {
                *first = bit as u32;
            }
            *bits += 1;
        }
        chunks.push(Chunk {
            id: *b"RIDX",
            len: count * 4,
            write: Box::new(move |sink| order.iter().try_for_each(|place| sink.put32(*place))),
        });
        chunks.push(Chunk {
            id: *b"BTMP",
            len: names.len() as u64 * 8,
            write: Box::new(move |sink| {
                for (first, bits) in packs {
                    sink.put32(first)?;
                    sink.put32(bits)?;
                }
                Ok(())
            }),
        });
    }
    let mut head = [
        b'M',
        b'I',
        b'D',
        b'X',
        1,
        hash_number(hash),
        chunks.len() as u8,
        0,
        0,
        0,
        0,
        0,
    ];
    head[8..].copy_from_slice(&(names.len() as u32).to_be_bytes());
    write_chunks(&head, chunks, hash, out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pack::MultiIndex;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_was_written_is_found(seeds in proptest::collection::btree_map(any::<[u8; 20]>(), (0u32..4, prop_oneof![0u64..100_000, (1u64 << 31)..(1u64 << 31) + 9, any::<u32>().prop_map(|n| u64::from(n) << 4)]), 0..60), preferred in proptest::option::of(0u32..4)) {
            let names: Vec<BString> = (0..4).map(|n| format!("pack-{n}{}.idx", "x".repeat(n)).into()).collect();
            let entries: Vec<MultiIndexEntry> = (seeds.iter())
                .map(|(id, (pack, offset))| MultiIndexEntry { oid: ObjectId::from(*id), pack: *pack, offset: *offset })
                .collect();
            let mut bytes = Vec::new();
            let sum = write_multi_index(&names, &entries, preferred, HashKind::Sha1, &mut bytes).expect("a Vec takes everything");
            let index = MultiIndex::parse(&bytes, HashKind::Sha1).expect("our own file is valid");
            prop_assert_eq!(index.checksum(), Some(sum.as_ref()));
            prop_assert!(index.pack_names().eq(names.iter().map(|name| bstr::ByteSlice::as_bstr(name.as_slice()))));
            prop_assert_eq!(index.len() as usize, entries.len());
            for (pos, entry) in entries.iter().enumerate() {
                let pos = pos as u32;
                prop_assert_eq!(index.lookup(&entry.oid), Some(pos));
                prop_assert_eq!(index.location(pos), Some((entry.pack, entry.offset)));
            }
            let mut bits = 0;
            for pack in 0..4 {
                let own = entries.iter().filter(|entry| entry.pack == pack).count() as u32;
                match (preferred, index.bits_of_pack(pack)) {
                    (None, told) => prop_assert_eq!(told, None),
                    (Some(_), told) => {
                        let told = told.expect("said");
                        prop_assert_eq!(told.len() as u32, own);
                        for bit in told {
                            let pos = index.nth(bit).expect("said");
                            prop_assert_eq!(entries[pos as usize].pack, pack);
                            bits += 1;
                        }
                    }
                }
            }
            prop_assert_eq!(bits, if preferred.is_some() { index.len() } else { 0 });
        }
    }

    #[test]
    fn what_is_out_of_order_is_refused() {
        let names = ["pack-a.idx".into(), "pack-b.idx".into()];
        let entry = |byte: u8, pack| MultiIndexEntry {
            oid: ObjectId::from([byte; 20]),
            pack,
            offset: 12,
        };
        let refused = |names: &[BString], entries: &[MultiIndexEntry]| {
            let written = write_multi_index(names, entries, None, HashKind::Sha1, &mut Vec::new());
            assert_eq!(written.expect_err("refused").kind(), io::ErrorKind::InvalidInput);
        };
        refused(&["b.idx".into(), "a.idx".into()], &[]);
        refused(&names, &[entry(2, 0), entry(1, 0)]);
        refused(&names, &[entry(1, 0), entry(1, 1)]);
        refused(&names, &[entry(1, 2)]);
    }
}
