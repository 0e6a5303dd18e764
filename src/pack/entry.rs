use gix::{
    hash::{Kind as HashKind, ObjectId},
    objs::Kind,
};

use super::FormatError;

const WHAT: &str = "pack entry header";

/// Bytes of the header of a pack: `PACK`, version 2, number of entries.
pub const PACK_HEADER_LEN: usize = 12;

/// What kind of entry a pack holds at some place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// A whole commit.
    Commit,
    /// A whole tree.
    Tree,
    /// A whole blob.
    Blob,
    /// A whole annotated tag.
    Tag,
    /// A delta against the entry that begins this many bytes before this one. Never zero.
    OfsDelta {
        /// Bytes from the base's first byte to this entry's first byte.
        distance: u64,
    },
    /// A delta against the object of this id.
    RefDelta {
        /// The base.
        base: ObjectId,
    },
}

impl EntryKind {
    /// The kind of object, unless this is a delta.
    pub fn object_kind(&self) -> Option<Kind> {
        match self {
            EntryKind::Commit => Some(Kind::Commit),
            EntryKind::Tree => Some(Kind::Tree),
            EntryKind::Blob => Some(Kind::Blob),
            EntryKind::Tag => Some(Kind::Tag),
            EntryKind::OfsDelta { .. } | EntryKind::RefDelta { .. } => None,
        }
    }

    /// Whether this is a delta of either sort.
    pub fn is_delta(&self) -> bool {
        self.object_kind().is_none()
    }
}

impl From<Kind> for EntryKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Commit => EntryKind::Commit,
            Kind::Tree => EntryKind::Tree,
            Kind::Blob => EntryKind::Blob,
            Kind::Tag => EntryKind::Tag,
        }
    }
}

/// The head of a pack entry; its zlib stream follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntryHeader {
    /// What the entry is.
    pub kind: EntryKind,
    /// Bytes that the zlib stream inflates to: the object, or the delta.
    pub size: u64,
    /// Bytes of this header.
    pub header_len: usize,
}

impl EntryHeader {
    /// The longest header there is, in bytes: enough input for [`parse`](Self::parse) to never say `Truncated` wrongly.
    pub const MAX_LEN: usize = 10 + 32;

    /// Reads a header at the start of `bytes`.
    ///
    /// # Errors
    /// `Truncated` when more bytes are needed, `Invalid` when no more bytes will help.
    pub fn parse(bytes: &[u8], hash: HashKind) -> Result<EntryHeader, FormatError> {
        const CUT: FormatError = FormatError::Truncated { what: WHAT };
        let (&first, _) = bytes.split_first().ok_or(CUT)?;
        let mut size = u64::from(first & 0x0f);
        let (mut at, mut shift, mut byte) = (1, 4u32, first);
        while byte & 0x80 != 0 {
            byte = *bytes.get(at).ok_or(CUT)?;
            at += 1;
            let part = u64::from(byte & 0x7f);
            if shift >= 64 || (part << shift) >> shift != part {
                return Err(FormatError::Invalid {
                    what: WHAT,
                    why: "the size does not fit 64 bits",
                });
            }
            size |= part << shift;
            shift += 7;
        }
        let kind = match (first >> 4) & 7 {
            1 => EntryKind::Commit,
            2 => EntryKind::Tree,
            3 => EntryKind::Blob,
            4 => EntryKind::Tag,
            6 => {
                byte = *bytes.get(at).ok_or(CUT)?;
                at += 1;
                let mut distance = u64::from(byte & 0x7f);
                while byte & 0x80 != 0 {
                    byte = *bytes.get(at).ok_or(CUT)?;
                    at += 1;
                    distance = distance
                        .checked_add(1)
                        .filter(|d| d >> 57 == 0)
                        .map(|d| (d << 7) | u64::from(byte & 0x7f))
                        .ok_or(FormatError::Invalid {
                            what: WHAT,
                            why: "the base distance does not fit 64 bits",
                        })?;
                }
                if distance == 0 {
                    return Err(FormatError::Invalid {
                        what: WHAT,
                        why: "a delta is its own base",
                    });
                }
                EntryKind::OfsDelta { distance }
            }
            7 => {
                let raw = bytes.get(at..at + hash.len_in_bytes()).ok_or(CUT)?;
                at += raw.len();
                EntryKind::RefDelta {
                    base: ObjectId::from_bytes_or_panic(raw),
                }
            }
            _ => {
                return Err(FormatError::Invalid {
                    what: WHAT,
                    why: "unknown object type",
                });
            }
        };
        Ok(EntryHeader {
            kind,
            size,
            header_len: at,
        })
    }
}

/// Appends the header of an entry of `kind` whose stream inflates to `size` bytes.
pub fn write_entry_header(kind: EntryKind, size: u64, out: &mut Vec<u8>) {
    let code = match kind {
        EntryKind::Commit => 1u8,
        EntryKind::Tree => 2,
        EntryKind::Blob => 3,
        EntryKind::Tag => 4,
        EntryKind::OfsDelta { .. } => 6,
        EntryKind::RefDelta { .. } => 7,
    };
    let mut rest = size >> 4;
    let mut byte = (code << 4) | (size & 0x0f) as u8;
    while rest != 0 {
        out.push(byte | 0x80);
        byte = (rest & 0x7f) as u8;
        rest >>= 7;
    }
    out.push(byte);
    match kind {
        EntryKind::OfsDelta { distance } => {
            let mut buf = [0u8; 10];
            let mut at = buf.len() - 1;
            let mut value = distance;
            buf[at] = (value & 0x7f) as u8;
            value >>= 7;
            while value != 0 {
                value -= 1;
                at -= 1;
                buf[at] = 0x80 | (value & 0x7f) as u8;
                value >>= 7;
            }
            out.extend_from_slice(&buf[at..]);
        }
        EntryKind::RefDelta { base } => out.extend_from_slice(base.as_slice()),
        _ => {}
    }
}

/// The header of a pack of `entries` entries.
pub fn pack_header(entries: u32) -> [u8; PACK_HEADER_LEN] {
    let mut out = *b"PACK\0\0\0\x02\0\0\0\0";
    out[8..].copy_from_slice(&entries.to_be_bytes());
    out
}

/// Reads the header of a pack and returns how many entries it claims. Versions 2 and 3 are the same to a reader.
pub fn parse_pack_header(bytes: &[u8; PACK_HEADER_LEN]) -> Result<u32, FormatError> {
    if &bytes[..4] != b"PACK" {
        return Err(FormatError::Invalid {
            what: "pack header",
            why: "pack signature mismatch detected",
        });
    }
    if !matches!(bytes[4..8], [0, 0, 0, 2 | 3]) {
        return Err(FormatError::Invalid {
            what: "pack header",
            why: "pack version unsupported",
        });
    }
    Ok(u32::from_be_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn headers_read_back_as_written(code in 0u8..6, size in any::<u64>(), distance in 1u64..(1 << 60), cut in any::<prop::sample::Index>()) {
            let kind = match code {
                0 => EntryKind::Commit,
                1 => EntryKind::Tree,
                2 => EntryKind::Blob,
                3 => EntryKind::Tag,
                4 => EntryKind::OfsDelta { distance },
                _ => EntryKind::RefDelta { base: ObjectId::from_bytes_or_panic(&[code; 20]) },
            };
            let mut bytes = Vec::new();
            write_entry_header(kind, size, &mut bytes);
            let header_len = bytes.len();
            prop_assert!(header_len <= EntryHeader::MAX_LEN);
            prop_assert_eq!(EntryHeader::parse(&bytes[..cut.index(header_len)], HashKind::Sha1), Err(FormatError::Truncated { what: WHAT }));
            bytes.push(0xff);
            prop_assert_eq!(EntryHeader::parse(&bytes, HashKind::Sha1), Ok(EntryHeader { kind, size, header_len }));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = EntryHeader::parse(&bytes, HashKind::Sha256);
        }
    }

    #[test]
    fn a_delta_on_itself_is_refused() {
        assert!(EntryHeader::parse(&[0x60, 0x00], HashKind::Sha1).is_err());
    }
}
