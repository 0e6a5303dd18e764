use std::{
    io,
    path::{Path, PathBuf},
};

use gix::hash::ObjectId;

use crate::{base::Fault, pack::FormatError};

/// Why an object could not be read, or not even looked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OdbError {
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
    /// The pack was removed, by a repack, before anything of it was read.
    #[error("pack {pack} is gone", pack = file_name(pack))]
    PackVanished {
        /// Where the pack was.
        pack: PathBuf,
    },
    /// A pack or its index is not one.
    #[error("pack {pack} is damaged", pack = file_name(pack))]
    PackDamaged {
        /// Where the pack is.
        pack: PathBuf,
        /// What is wrong with it.
        source: FormatError,
    },
    /// A loose object file is not one.
    #[error("loose object {path} is corrupt", path = path.display())]
    LooseDamaged {
        /// Where the file is.
        path: PathBuf,
        /// What is wrong with it.
        source: FormatError,
    },
    /// No copy of an object is readable; this is what is wrong with the first.
    #[error("object {id} in {place} is corrupt")]
    Corrupt {
        /// The object.
        id: ObjectId,
        /// The pack's file name, or `loose`.
        place: String,
        /// What is wrong with it.
        source: FormatError,
    },
    /// The object is larger than the house's bound.
    #[error("object {id} has {size} bytes, more than the limit of {limit}")]
    TooLarge {
        /// The object.
        id: ObjectId,
        /// Its size in bytes, inflated.
        size: u64,
        /// [`Limits::object_bytes`].
        limit: u64,
    },
}

fn file_name(path: &Path) -> std::borrow::Cow<'_, str> {
    path.file_name().unwrap_or_default().to_string_lossy()
}

impl OdbError {
    /// Whose move it is.
    pub fn fault(&self) -> Fault {
        match self {
            OdbError::Io { .. } | OdbError::TooLarge { .. } => Fault::Ours,
            OdbError::PackVanished { .. } => Fault::Busy,
            OdbError::PackDamaged { .. } | OdbError::LooseDamaged { .. } | OdbError::Corrupt { .. } => Fault::Corrupt,
        }
    }
}
