use std::{io, path::PathBuf};

use gix::hash::ObjectId;

use crate::base::Fault;

/// Why a pushed pack is not taken. The text is what follows `unpack ` in the report, in git's own words where git has some; it holds no path.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IngestError {
    /// The client ended its request before twelve bytes of pack.
    #[error("eof before pack header was fully read")]
    NoHeader,
    /// The pack does not begin with `PACK`.
    #[error("protocol error (pack signature mismatch detected)")]
    Signature,
    /// Neither version 2 nor 3.
    #[error("protocol error (pack version unsupported)")]
    Version,
    /// The client ended its request inside of the pack.
    #[error("early EOF")]
    Eof,
    /// Reading the request itself went wrong.
    #[error("cannot read the pack from the client")]
    Input {
        /// What the reader said.
        source: io::Error,
    },
    /// An entry is damaged or breaks a rule of the format.
    #[error("pack has bad object at offset {offset}: {why}")]
    BadEntry {
        /// Where the entry begins, in bytes.
        offset: u64,
        /// What is wrong.
        why: String,
    },
    /// The trailer is not the hash of what came before.
    #[error("pack is corrupted ({} mismatch)", hash_name(*.hash))]
    Trailer {
        /// The hash that was computed.
        hash: gix::hash::Kind,
    },
    /// Bytes follow the trailer.
    #[error("pack has junk at the end")]
    Junk,
    /// More bytes than `receive.maxInputSize` or our own limit.
    #[error("pack exceeds maximum allowed size ({})", human(*.limit))]
    TooLarge {
        /// The limit, in bytes.
        limit: u64,
    },
    /// More objects than allowed.
    #[error("pack has {count} objects, more than the {limit} allowed")]
    TooManyObjects {
        /// What the header says.
        count: u32,
        /// The limit.
        limit: u32,
    },
    /// One object is larger than allowed.
    #[error("object at offset {offset} exceeds maximum allowed size ({})", human(*.limit))]
    ObjectTooLarge {
        /// Where its entry begins, in bytes.
        offset: u64,
        /// The limit, in bytes.
        limit: u64,
    },
    /// A chain of deltas is longer than allowed.
    #[error("delta chain at offset {offset} is longer than {limit}")]
    DeltaDepth {
        /// Where the entry that is too deep begins, in bytes.
        offset: u64,
        /// The limit.
        limit: u32,
    },
    /// The deltas produce out of all proportion to what was sent.
    #[error("pack expands to more than {} of objects", human(*.limit))]
    Expansion {
        /// The limit, in bytes.
        limit: u64,
    },
    /// Deltas whose base is neither in the pack nor here, or that are their own ancestors.
    #[error("pack has {count} unresolved delta{}", if *.count == 1 { "" } else { "s" })]
    Unresolved {
        /// How many.
        count: usize,
    },
    /// An object of the pack has the id of one that is here and other bytes.
    #[error("SHA1 COLLISION FOUND WITH {id} !")]
    Collision {
        /// The id.
        id: ObjectId,
    },
    /// An object bears the marks of a collision attack on SHA-1.
    #[error("SHA1 collision attack detected in the object at offset {offset}")]
    CollisionAttack {
        /// Where its entry begins, in bytes.
        offset: u64,
    },
    /// The pack holds an object twice, which is refused where objects are checked.
    #[error("The same object {id} appears twice in the pack")]
    Duplicate {
        /// Its id.
        id: ObjectId,
    },
    /// An object breaks a rule whose severity is an error.
    #[error("{text}")]
    Fsck {
        /// `object <oid>: <msgId>: <text>`
        text: String,
    },
    /// An object of ours that a delta needs does not have the bytes of its id.
    #[error("local object {id} is corrupt")]
    CorruptBase {
        /// Its id.
        id: ObjectId,
    },
    /// The server is stopping or the client has gone.
    #[error("interrupted")]
    Stopped,
    /// A file of the quarantine or of the repository.
    #[error("cannot {doing}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The objects that are here could not be read.
    #[error("cannot read an existing object")]
    Existing {
        /// What went wrong.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl IngestError {
    /// Whose move it is.
    pub fn fault(&self) -> Fault {
        match self {
            IngestError::Io { .. } => Fault::Ours,
            IngestError::CorruptBase { .. } | IngestError::Existing { .. } => Fault::Corrupt,
            IngestError::Stopped => Fault::Busy,
            _ => Fault::Client,
        }
    }

    pub(super) fn entry(offset: u64, why: impl Into<String>) -> Self {
        IngestError::BadEntry {
            offset,
            why: why.into(),
        }
    }

    pub(super) fn io(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| IngestError::Io { doing, path, source }
    }
}

fn hash_name(hash: gix::hash::Kind) -> &'static str {
    match hash {
        gix::hash::Kind::Sha256 => "SHA256",
        _ => "SHA1",
    }
}

/// Bytes as git prints them to people: `1.50 MiB`.
fn human(bytes: u64) -> String {
    let scaled = |unit: u64, name: &str| {
        let hundredths = (u128::from(bytes) * 100) / u128::from(unit);
        format!("{}.{:02} {name}", hundredths / 100, hundredths % 100)
    };
    match bytes {
        0..1024 => format!("{bytes} byte{}", if bytes == 1 { "" } else { "s" }),
        1024..1_048_576 => scaled(1 << 10, "KiB"),
        1_048_576..1_073_741_824 => scaled(1 << 20, "MiB"),
        _ => scaled(1 << 30, "GiB"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_printed_as_git_prints_them() {
        assert_eq!(human(1), "1 byte");
        assert_eq!(human(1000), "1000 bytes");
        assert_eq!(human(1024), "1.00 KiB");
        assert_eq!(human(1_572_864), "1.50 MiB");
        assert_eq!(human(4 << 30), "4.00 GiB");
        assert_eq!(
            IngestError::TooLarge { limit: 2048 }.to_string(),
            "pack exceeds maximum allowed size (2.00 KiB)"
        );
    }
}
