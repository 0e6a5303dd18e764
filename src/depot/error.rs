use std::{io, path::PathBuf};

use crate::{
    base::{Fault, NameError, RepoName},
    repo::{OpenError, RefsError},
};

/// Why the depot did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DepotError {
    /// There is no repository of that name, or none that is exported.
    #[error("repository '{name}' not found")]
    NotFound {
        /// The name.
        name: RepoName,
    },
    /// Several organizations have an agent of that id, and none of them was meant.
    #[error("'{name}' is not there, and several other organizations have an agent of that id")]
    Ambiguous {
        /// The name.
        name: RepoName,
    },
    /// There is something that looks like a repository, and it cannot be served.
    #[error("repository '{name}' cannot be opened")]
    Open {
        /// The name.
        name: RepoName,
        /// Why.
        source: OpenError,
    },
    /// Its refs cannot be read.
    #[error("repository '{name}' has refs that cannot be read")]
    Refs {
        /// The name.
        name: RepoName,
        /// Why.
        source: RefsError,
    },
    /// A repository of that name is there already.
    #[error("repository '{name}' exists already")]
    Exists {
        /// The name.
        name: String,
    },
    /// The name lies inside a repository.
    #[error("'{name}' would lie inside repository '{outer}'")]
    Inside {
        /// The name.
        name: String,
        /// The repository.
        outer: String,
    },
    /// Other files or repositories are where it would go.
    #[error("'{name}' is taken: there is something else in that place")]
    InTheWay {
        /// The name.
        name: String,
    },
    /// Not a name for a new repository.
    #[error(transparent)]
    Name(#[from] NameError),
    /// Not a branch name.
    #[error("'{name}' is not a valid branch name")]
    Branch {
        /// What was given.
        name: String,
    },
    /// A name that this depot's layout has no place for.
    #[error(
        "'{name}' is not organization/agent/repo: this server keeps the repositories of Letta's agents and no others"
    )]
    Layout {
        /// The name.
        name: String,
    },
    /// A repository that is not ours to move or delete.
    #[error("repository '{name}' {why}")]
    Foreign {
        /// The name.
        name: RepoName,
        /// Why it is left alone.
        why: &'static str,
    },
    /// The system refused.
    #[error("{doing} {path}", path = path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// Why it could not.
        source: io::Error,
    },
}

impl DepotError {
    pub(super) fn io(doing: &'static str, path: PathBuf, source: io::Error) -> Self {
        DepotError::Io { doing, path, source }
    }

    /// Whose move it is.
    pub fn fault(&self) -> Fault {
        match self {
            DepotError::NotFound { .. } => Fault::NotFound,
            DepotError::Open { source, .. } => source.fault(),
            DepotError::Refs { source, .. } => source.fault(),
            DepotError::Exists { .. }
            | DepotError::Ambiguous { .. }
            | DepotError::Inside { .. }
            | DepotError::InTheWay { .. }
            | DepotError::Name(_)
            | DepotError::Branch { .. }
            | DepotError::Layout { .. }
            | DepotError::Foreign { .. } => Fault::Client,
            DepotError::Io { .. } => Fault::Ours,
        }
    }
}
