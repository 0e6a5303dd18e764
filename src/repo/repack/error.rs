use std::{io, path::PathBuf};

use gix::hash::ObjectId;

use crate::{
    base::Fault,
    repo::{IngestError, OdbError, RefsError, deltas},
};

/// Why a repository was not compacted. It is as it was, or at worst has some objects twice.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RepackError {
    /// A file operation failed.
    #[error("{doing} {path}", path = path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Its refs cannot be read, or are locked by somebody else.
    #[error(transparent)]
    Refs(#[from] RefsError),
    /// Its objects cannot be read.
    #[error(transparent)]
    Objects(#[from] OdbError),
    /// The new pack cannot be put into the repository.
    #[error("publish the new pack")]
    Publish(#[source] IngestError),
    /// The disk has no room for a second copy of what is packed anew.
    #[error("not enough room on the disk: {needed} bytes are needed, {available} are free")]
    NoRoom {
        /// Bytes that the new pack may take.
        needed: u64,
        /// Bytes that are free.
        available: u64,
    },
    /// More objects than a pack may have.
    #[error("{count} objects are too many for one pack")]
    TooMany {
        /// How many there are.
        count: u64,
    },
    /// An object does not have the bytes of its id, and no other copy does.
    #[error("object {id} is corrupt")]
    Corrupt {
        /// The object.
        id: ObjectId,
    },
    /// What was written is not what was to be written: the disk, or a bug. Nothing was deleted.
    #[error("the new pack is not what it should be: {why}")]
    Unsound {
        /// What is wrong with it.
        why: &'static str,
    },
    /// Its stop flag was set.
    #[error("interrupted")]
    Stopped,
}

impl RepackError {
    /// Whose move it is.
    pub fn fault(&self) -> Fault {
        match self {
            RepackError::Io { .. } | RepackError::NoRoom { .. } | RepackError::TooMany { .. } => Fault::Ours,
            RepackError::Unsound { .. } => Fault::Ours,
            RepackError::Refs(err) => err.fault(),
            RepackError::Objects(err) => err.fault(),
            RepackError::Publish(err) => err.fault(),
            RepackError::Corrupt { .. } => Fault::Corrupt,
            RepackError::Stopped => Fault::Busy,
        }
    }

    pub(super) fn io(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| RepackError::Io { doing, path, source }
    }
}

/// Why one attempt ended.
pub(super) enum Trouble {
    /// The pack of this number is damaged: to be left alone.
    Pack(u32),
    /// The loose object is damaged: to be left alone.
    Loose(ObjectId),
    Error(RepackError),
}

impl<E: Into<RepackError>> From<E> for Trouble {
    fn from(err: E) -> Self {
        Trouble::Error(err.into())
    }
}

impl From<deltas::Trouble> for Trouble {
    fn from(trouble: deltas::Trouble) -> Self {
        match trouble {
            deltas::Trouble::Pack(number) => Trouble::Pack(number),
            deltas::Trouble::Loose(id) => Trouble::Loose(id),
            deltas::Trouble::Unsound => {
                let why = "a delta does not make what it was made for";
                RepackError::Unsound { why }.into()
            }
            deltas::Trouble::Stopped => RepackError::Stopped.into(),
            deltas::Trouble::Objects(error) => error.into(),
        }
    }
}
