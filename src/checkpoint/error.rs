use bstr::BString;

use crate::{
    base::Fault,
    repo::{OdbError, RefsError, TreeDiffError, WriteError},
    workspace::{CaptureError, WorkspaceError},
};

/// Why there is no checkpoint. Nothing has changed then: not the branch, not the files.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The workspace could not be read or locked.
    #[error(transparent)]
    Workspace(#[from] WorkspaceError),
    /// Objects could not be written.
    #[error("cannot write the objects of a checkpoint")]
    Write(#[from] WriteError),
    /// Objects could not be read.
    #[error("cannot read the objects of the repository")]
    Objects(#[from] OdbError),
    /// Trees could not be compared.
    #[error("cannot compare with the commit before")]
    Compare(#[from] TreeDiffError),
    /// Refs could not be read or written.
    #[error("cannot read or write the refs of the repository")]
    Refs(#[from] RefsError),
    /// The ref was not moved.
    #[error("cannot update '{reference}': {why}")]
    Refused {
        /// The ref.
        reference: BString,
        /// What stood in the way.
        why: String,
    },
    /// The commit could not be signed.
    #[cfg(feature = "ssh-signatures")]
    #[error(transparent)]
    Sign(#[from] crate::workspace::SignError),
    /// The branch moved again and again while the checkpoint was made.
    #[error("'{reference}' keeps moving")]
    Moving {
        /// The ref.
        reference: BString,
    },
}

impl CheckpointError {
    /// Whose move it is.
    pub fn fault(&self) -> Fault {
        match self {
            CheckpointError::Workspace(source) => source.fault(),
            CheckpointError::Write(source) => source.fault(),
            CheckpointError::Objects(source) => source.fault(),
            CheckpointError::Compare(source) => source.fault(),
            CheckpointError::Refs(source) => source.fault(),
            #[cfg(feature = "ssh-signatures")]
            CheckpointError::Sign(_) => Fault::Ours,
            CheckpointError::Refused { .. } => Fault::Ours,
            CheckpointError::Moving { .. } => Fault::Busy,
        }
    }
}

impl From<CaptureError> for CheckpointError {
    fn from(error: CaptureError) -> Self {
        match error {
            CaptureError::Workspace(source) => CheckpointError::Workspace(source),
            CaptureError::Write(source) => CheckpointError::Write(source),
        }
    }
}
