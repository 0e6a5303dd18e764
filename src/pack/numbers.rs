//! What `.rev` and `.mtimes` share (gitformat-pack(5)): a header, one number per object of a pack, the pack's checksum and the file's own.

use std::io::{self, Write};

use gix::hash::{Kind as HashKind, ObjectId, oid};

use super::{Checksum, FormatError};

const HEADER: usize = 12;

/// Which of them a file is.
pub(super) struct Numbers {
    pub(super) magic: &'static [u8; 4],
    /// As errors call it.
    pub(super) what: &'static str,
}

impl Numbers {
    fn header(&self, hash: HashKind) -> [u8; HEADER] {
        let mut header = [0; HEADER];
        header[..4].copy_from_slice(self.magic);
        header[7] = 1;
        header[11] = match hash {
            HashKind::Sha256 => 2,
            _ => 1,
        };
        header
    }

    /// Checks the header and the size for a pack of `objects` objects.
    ///
    /// # Errors
    /// When it is not one, or one of another pack.
    pub(super) fn check(&self, bytes: &[u8], objects: u32, hash: HashKind) -> Result<(), FormatError> {
        let invalid = |why| FormatError::Invalid { what: self.what, why };
        let head = (bytes.get(..HEADER)).ok_or(FormatError::Truncated { what: self.what })?;
        let expected = self.header(hash);
        if head[..8] != expected[..8] {
            return Err(invalid("unsupported version"));
        }
        if head[8..] != expected[8..] {
            return Err(invalid("it is for another hash"));
        }
        if bytes.len() as u64 != HEADER as u64 + u64::from(objects) * 4 + 2 * hash.len_in_bytes() as u64 {
            return Err(invalid("its size does not fit the number of objects"));
        }
        Ok(())
    }

    /// # Errors
    /// Those of `out`.
    pub(super) fn write(
        &self,
        numbers: &[u32],
        pack_checksum: &oid,
        hash: HashKind,
        out: &mut dyn Write,
    ) -> io::Result<ObjectId> {
        let mut bytes = Vec::with_capacity(HEADER + numbers.len() * 4 + 64);
        bytes.extend_from_slice(&self.header(hash));
        for number in numbers {
            bytes.extend_from_slice(&number.to_be_bytes());
        }
        bytes.extend_from_slice(pack_checksum.as_bytes());
        let checksum = Checksum::of(hash, &bytes);
        bytes.extend_from_slice(checksum.as_slice());
        out.write_all(&bytes)?;
        Ok(checksum)
    }
}

/// The `nth` of the `len` numbers of a file that was checked.
pub(super) fn at(bytes: &[u8], len: u32, nth: u32) -> Option<u32> {
    if nth >= len {
        return None;
    }
    let at = HEADER + nth as usize * 4;
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}
