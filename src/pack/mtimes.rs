use std::io::{self, Write};

use gix::hash::{Kind as HashKind, ObjectId, oid};

use super::{Checksum, FormatError};

const WHAT: &str = "list of modification times";
const HEADER: usize = 12;

/// When each object of a cruft pack was last of use (`.mtimes`, gitformat-pack(5)): seconds since 1970, in the order of the index.
pub struct Mtimes<D> {
    data: D,
    len: u32,
}

impl<D: AsRef<[u8]>> Mtimes<D> {
    /// Checks the header and the size for a pack of `objects` objects.
    ///
    /// # Errors
    /// When it is not one, or one of another pack.
    pub fn parse(data: D, objects: u32, hash: HashKind) -> Result<Self, FormatError> {
        let bytes = data.as_ref();
        let head = bytes.get(..HEADER).ok_or(FormatError::Truncated { what: WHAT })?;
        if head[..8] != *b"MTME\0\0\0\x01" {
            return Err(FormatError::Invalid {
                what: WHAT,
                why: "unsupported version",
            });
        }
        if head[8..] != [0, 0, 0, hash_id(hash)] {
            return Err(FormatError::Invalid {
                what: WHAT,
                why: "it is for another hash",
            });
        }
        if bytes.len() as u64 != HEADER as u64 + u64::from(objects) * 4 + 2 * hash.len_in_bytes() as u64 {
            return Err(FormatError::Invalid {
                what: WHAT,
                why: "its size does not fit the number of objects",
            });
        }
        Ok(Mtimes { data, len: objects })
    }

    /// The time of the object at this position of the index.
    pub fn at(&self, pos: u32) -> Option<u32> {
        if pos >= self.len {
            return None;
        }
        let at = HEADER + pos as usize * 4;
        let bytes = self.data.as_ref().get(at..at + 4)?;
        Some(u32::from_be_bytes(bytes.try_into().ok()?))
    }
}

fn hash_id(hash: HashKind) -> u8 {
    match hash {
        HashKind::Sha256 => 2,
        _ => 1,
    }
}

/// Writes a `.mtimes` file: `times` are in the order of the index.
///
/// # Errors
/// Those of `out`.
pub fn write_mtimes(times: &[u32], pack_checksum: &oid, hash: HashKind, out: &mut dyn Write) -> io::Result<ObjectId> {
    let mut bytes = Vec::with_capacity(HEADER + times.len() * 4 + 64);
    bytes.extend_from_slice(b"MTME\0\0\0\x01\0\0\0");
    bytes.push(hash_id(hash));
    for time in times {
        bytes.extend_from_slice(&time.to_be_bytes());
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
    fn times_read_back_as_written() {
        let mut bytes = Vec::new();
        let sum = ObjectId::from_bytes_or_panic(&[1; 20]);
        write_mtimes(&[7, 0, u32::MAX], &sum, HashKind::Sha1, &mut bytes).expect("a Vec takes everything");
        let times = Mtimes::parse(&bytes, 3, HashKind::Sha1).expect("our own file is valid");
        assert_eq!(
            (0..4).map(|n| times.at(n)).collect::<Vec<_>>(),
            [Some(7), Some(0), Some(u32::MAX), None]
        );
        assert!(Mtimes::parse(&bytes, 2, HashKind::Sha1).is_err());
        assert!(Mtimes::parse(&bytes[..11], 3, HashKind::Sha1).is_err());
        assert!(Mtimes::parse(&bytes, 3, HashKind::Sha256).is_err());
    }
}
