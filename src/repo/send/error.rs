use std::io;

use gix::hash::ObjectId;

use crate::{base::Fault, pack::FormatError, repo::OdbError};

/// Why a pack cannot be built or sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// An object that the answer needs is not in the repository. Found before the first byte of the pack is written.
    #[error("missing object {oid}")]
    Missing {
        /// The object.
        oid: ObjectId,
    },
    /// An object's bytes are not what they must be.
    #[error("object {oid} is corrupt: {why}")]
    Corrupt {
        /// The object.
        oid: ObjectId,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A pack entry does not parse.
    #[error("object {oid} is corrupt")]
    Format {
        /// The object whose entry, or whose delta base, was read.
        oid: ObjectId,
        /// What is wrong with it.
        source: FormatError,
    },
    /// The object database failed.
    #[error("reading objects")]
    Odb(#[from] OdbError),
    /// A request that bounds history selects nothing of it. The text is C git's.
    #[error("no commits selected for shallow requests")]
    NoCommitsSelected,
    /// More objects than a pack can count.
    #[error("too many objects for one pack")]
    TooManyObjects,
    /// The receiver of the pack is gone.
    #[error("writing the pack")]
    Write(#[source] io::Error),
    /// The caller asked us to stop.
    #[error("stopped")]
    Stopped,
}

impl SendError {
    /// Whose move it is.
    pub fn fault(&self) -> Fault {
        match self {
            SendError::Missing { .. } | SendError::Corrupt { .. } | SendError::Format { .. } => Fault::Corrupt,
            SendError::Odb(err) => err.fault(),
            SendError::NoCommitsSelected | SendError::Write(_) => Fault::Client,
            SendError::TooManyObjects => Fault::Ours,
            SendError::Stopped => Fault::Busy,
        }
    }
}
