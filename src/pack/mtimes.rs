use std::io::{self, Write};

use gix::hash::{Kind as HashKind, ObjectId, oid};

use super::FormatError;
use super::numbers::{self, Numbers};

const FORMAT: Numbers = Numbers {
    magic: b"MTME",
    what: "list of modification times",
};

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
        FORMAT.check(data.as_ref(), objects, hash)?;
        Ok(Mtimes { data, len: objects })
    }

    /// The time of the object at this position of the index.
    pub fn at(&self, pos: u32) -> Option<u32> {
        numbers::at(self.data.as_ref(), self.len, pos)
    }
}

/// Writes a `.mtimes` file: `times` are in the order of the index.
///
/// # Errors
/// Those of `out`.
pub fn write_mtimes(times: &[u32], pack_checksum: &oid, hash: HashKind, out: &mut dyn Write) -> io::Result<ObjectId> {
    FORMAT.write(times, pack_checksum, hash, out)
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
