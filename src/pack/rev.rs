use std::io::{self, Write};

use gix::hash::{Kind as HashKind, ObjectId, oid};

use super::{Checksum, FormatError};

const WHAT: &str = "reverse index";

/// A reverse index (`.rev`): index positions in the order of pack offsets.
pub struct Rev<D> {
    data: D,
    len: u32,
}

impl<D: AsRef<[u8]>> Rev<D> {
    /// Checks the header and the size for a pack of `objects` objects.
    pub fn parse(data: D, objects: u32, hash: HashKind) -> Result<Self, FormatError> {
        let bytes = data.as_ref();
        let head = bytes.get(..12).ok_or(FormatError::Truncated { what: WHAT })?;
        if &head[..4] != b"RIDX" || head[4..8] != [0, 0, 0, 1] {
            return Err(FormatError::Invalid {
                what: WHAT,
                why: "unsupported version",
            });
        }
        let hash_id = match hash {
            HashKind::Sha256 => 2,
            _ => 1,
        };
        if head[8..12] != [0, 0, 0, hash_id] {
            return Err(FormatError::Invalid {
                what: WHAT,
                why: "it is for another hash",
            });
        }
        if bytes.len() as u64 != 12 + u64::from(objects) * 4 + 2 * hash.len_in_bytes() as u64 {
            return Err(FormatError::Invalid {
                what: WHAT,
                why: "its size does not fit the number of objects",
            });
        }
        Ok(Rev { data, len: objects })
    }

    /// The index position of the `nth` object of the pack, in pack order. A damaged file may give a position out of range.
    pub fn index_pos(&self, nth: u32) -> Option<u32> {
        if nth >= self.len {
            return None;
        }
        let at = 12 + nth as usize * 4;
        let b = self.data.as_ref().get(at..at + 4)?;
        Some(u32::from_be_bytes([b[0], b[1], b[2], b[3]]))
    }
}

/// Writes a `.rev` file: `positions` are index positions in pack order.
///
/// # Errors
/// Those of `out`.
pub fn write_rev(positions: &[u32], pack_checksum: &oid, hash: HashKind, out: &mut dyn Write) -> io::Result<ObjectId> {
    let mut bytes = Vec::with_capacity(12 + positions.len() * 4 + 64);
    bytes.extend_from_slice(b"RIDX\0\0\0\x01\0\0\0");
    bytes.push(match hash {
        HashKind::Sha256 => 2,
        _ => 1,
    });
    for pos in positions {
        bytes.extend_from_slice(&pos.to_be_bytes());
    }
    bytes.extend_from_slice(pack_checksum.as_bytes());
    let checksum = Checksum::of(hash, &bytes);
    bytes.extend_from_slice(checksum.as_slice());
    out.write_all(&bytes)?;
    Ok(checksum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_read_back_as_written() {
        let mut bytes = Vec::new();
        let sum = ObjectId::from_bytes_or_panic(&[1; 20]);
        write_rev(&[2, 0, 1], &sum, HashKind::Sha1, &mut bytes).expect("a Vec takes everything");
        let rev = Rev::parse(&bytes, 3, HashKind::Sha1).expect("our own file is valid");
        assert_eq!(
            (0..4).map(|n| rev.index_pos(n)).collect::<Vec<_>>(),
            [Some(2), Some(0), Some(1), None]
        );
        assert!(Rev::parse(&bytes, 4, HashKind::Sha1).is_err());
        assert!(Rev::parse(&bytes[..11], 3, HashKind::Sha1).is_err());
        assert!(Rev::parse(&bytes, 3, HashKind::Sha256).is_err());
    }

    proptest::proptest! {
        #[test]
        fn a_damaged_file_never_panics(count in 0u32..20, at in proptest::prelude::any::<proptest::sample::Index>(), value: u8, cut in proptest::prelude::any::<proptest::sample::Index>()) {
            let mut bytes = Vec::new();
            let positions: Vec<u32> = (0..count).rev().collect();
            let sum = ObjectId::from_bytes_or_panic(&[1; 20]);
            write_rev(&positions, &sum, HashKind::Sha1, &mut bytes).expect("a Vec takes everything");
            let at = at.index(bytes.len());
            bytes[at] = value;
            for bytes in [&bytes[..], &bytes[..cut.index(bytes.len())]] {
                for objects in [count, count + 1, u32::MAX] {
                    if let Ok(rev) = Rev::parse(bytes, objects, HashKind::Sha1) {
                        let _ = (0..=count).map(|nth| rev.index_pos(nth)).collect::<Vec<_>>();
                        proptest::prop_assert_eq!(rev.index_pos(u32::MAX), None);
                    }
                }
            }
        }
    }
}
