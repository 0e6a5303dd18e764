use std::{io, path::PathBuf, time::Duration};

use bstr::BString;

use crate::{
    base::Fault,
    repo::{OdbError, OpenError, RefsError},
};

/// Why something could not be done with a workspace.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorkspaceError {
    /// Neither the directory nor one above it is the working tree of a repository.
    #[error("not a workspace: neither {path} nor a directory above it has a .git", path = path.display())]
    NotAWorkspace {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The directory is one that is not made a workspace by accident: `/`, a home directory.
    #[error("refusing to take {path} for a workspace: it is {why}", path = path.display())]
    Root {
        /// The directory.
        path: PathBuf,
        /// What it is.
        why: &'static str,
    },
    /// More files than [`WorkspaceOptions::files`](super::WorkspaceOptions::files) allows.
    #[error("the workspace has more than {limit} files that are not ignored")]
    TooManyFiles {
        /// How many are allowed.
        limit: usize,
    },
    /// Another process or thread is at work in it.
    #[error("the workspace is in use by {owner} for {}", seconds(age))]
    Busy {
        /// What the lock file says about it.
        owner: String,
        /// For how long it has been.
        age: Duration,
    },
    /// A file in the way cannot be read as what it is.
    #[error("{what} {path}: {why}", path = path.display())]
    Damaged {
        /// What it should be.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The index uses something that cannot be kept when it is written again.
    #[error("the index of this workspace {why}")]
    Unsupported {
        /// What it uses.
        why: &'static str,
    },
    /// A path that no index or tree may have.
    #[error("illegal path '{path}'")]
    Path {
        /// The path.
        path: BString,
    },
    /// The repository cannot be opened.
    #[error("the repository of the workspace cannot be opened")]
    Open(#[from] OpenError),
    /// Its refs cannot be read or written.
    #[error("the refs of the workspace's repository")]
    Refs(#[from] RefsError),
    /// Its objects cannot be read.
    #[error("the objects of the workspace's repository")]
    Objects(#[from] OdbError),
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
}

fn seconds(age: &Duration) -> String {
    format!("{} s", age.as_secs())
}

impl WorkspaceError {
    /// Whose move it is.
    pub fn fault(&self) -> Fault {
        match self {
            WorkspaceError::NotAWorkspace { .. } => Fault::NotFound,
            WorkspaceError::Root { .. } | WorkspaceError::TooManyFiles { .. } | WorkspaceError::Path { .. } => {
                Fault::Client
            }
            WorkspaceError::Busy { .. } => Fault::Busy,
            WorkspaceError::Damaged { .. } => Fault::Corrupt,
            WorkspaceError::Unsupported { .. } | WorkspaceError::Io { .. } => Fault::Ours,
            WorkspaceError::Open(source) => source.fault(),
            WorkspaceError::Refs(source) => source.fault(),
            WorkspaceError::Objects(source) => source.fault(),
        }
    }

    pub(crate) fn io(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| WorkspaceError::Io { doing, path, source }
    }
}
