use std::{io, path::PathBuf};

use bstr::BString;
use gix::hash::ObjectId;

use crate::{base::Fault, repo::OdbError, workspace::WorkspaceError};

/// Why the files of a workspace cannot follow a commit. Nothing has changed then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransitionError {
    /// Something that is not tracked, or is ignored, is where something shall come.
    #[error("'{path}' is in the way and is saved nowhere")]
    InTheWay {
        /// What is in the way.
        path: BString,
    },
    /// A file is not as the commit that the workspace is at has it.
    #[error("'{path}' has changes that are saved nowhere")]
    Unsaved {
        /// The file.
        path: BString,
    },
    /// A name that git refuses, or that is `.git` on some system.
    #[error("'{path}' is not a path that a workspace may have")]
    Illegal {
        /// The path.
        path: BString,
    },
    /// A link could lead anywhere.
    #[error("'{path}' is a symbolic link where a directory is needed")]
    Link {
        /// The link.
        path: BString,
    },
    /// The permissions of a directory forbid it.
    #[error("the directory of '{path}' cannot be written to")]
    Denied {
        /// The file.
        path: BString,
    },
    /// Something is mounted in the workspace.
    #[error("'{path}' is on another file system")]
    Elsewhere {
        /// The file.
        path: BString,
    },
    /// The repository lacks an object of the commit.
    #[error("the content of '{path}' ({id}) is missing")]
    Missing {
        /// The file.
        path: BString,
        /// What it should hold.
        id: ObjectId,
    },
    /// The workspace could not be read.
    #[error(transparent)]
    Workspace(#[from] WorkspaceError),
    /// The objects could not be read.
    #[error("the objects of the workspace's repository")]
    Objects(#[from] OdbError),
    /// A file operation failed.
    #[error("{doing} {path}", path = path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To which directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl TransitionError {
    /// Whose move it is.
    pub fn fault(&self) -> Fault {
        match self {
            TransitionError::InTheWay { .. }
            | TransitionError::Unsaved { .. }
            | TransitionError::Illegal { .. }
            | TransitionError::Link { .. }
            | TransitionError::Denied { .. }
            | TransitionError::Elsewhere { .. } => Fault::Client,
            TransitionError::Missing { .. } => Fault::Corrupt,
            TransitionError::Workspace(err) => err.fault(),
            TransitionError::Objects(err) => err.fault(),
            TransitionError::Io { .. } => Fault::Ours,
        }
    }

    /// What a client may be told: no path of ours.
    pub fn public_text(&self) -> String {
        match self {
            TransitionError::Workspace(WorkspaceError::Busy { .. }) => "the workspace is in use".to_owned(),
            TransitionError::Workspace(_) | TransitionError::Objects(_) | TransitionError::Io { .. } => {
                "the workspace could not be updated".to_owned()
            }
            told => told
                .to_string()
                .chars()
                .map(|c| if c.is_control() { '?' } else { c })
                .collect(),
        }
    }
}
