use std::io::{self, Write};

use gix::hash::{Kind as HashKind, ObjectId, oid};

use super::FormatError;
use super::numbers::{self, Numbers};

const FORMAT: Numbers = Numbers {
    magic: b"RIDX",
    what: "reverse index",
};

/// A reverse index (`.rev`, gitformat-pack(5)): index positions in the order of pack offsets.
pub struct Rev<D> {
    data: D,
    len: u32,
}

impl<D: AsRef<[u8]>> Rev<D> {
    /// Checks the header and the size for a pack of `objects` objects.
    ///
    /// # Errors
    /// When it is not one, or one of another pack.
    pub fn parse(data: D, objects: u32, hash: HashKind) -> Result<Self, FormatError> {
        FORMAT.check(data.as_ref(), objects, hash)?;
        Ok(Rev { data, len: objects })
    }

    /// The index position of the `nth` object of the pack, in pack order. A damaged file may give a position out of range.
    pub fn index_pos(&self, nth: u32) -> Option<u32> {
        numbers::at(self.data.as_ref(), self.len, nth)
    }
}

/// Writes a `.rev` file: `positions` are index positions in pack order.
///
/// # Errors
/// Those of `out`.
pub fn write_rev(positions: &[u32], pack_checksum: &oid, hash: HashKind, out: &mut dyn Write) -> io::Result<ObjectId> {
    FORMAT.write(positions, pack_checksum, hash, out)
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
