use gix::{hash::ObjectId, objs::Kind};

use crate::{
    base::Fault,
    repo::{OdbError, RefsError, StoreError, TreeDiffError},
};

/// Why the trail could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The caller named an object that is not here.
    #[error("there is no object {id}")]
    NotFound {
        /// The object.
        id: ObjectId,
    },
    /// The caller named something that no ref and no object answers to.
    #[error("'{name}' is not a known revision")]
    Unknown {
        /// What was given.
        name: String,
    },
    /// The caller named several objects by one abbreviation.
    #[error("'{name}' is ambiguous")]
    Ambiguous {
        /// What was given.
        name: String,
    },
    /// There is nothing at that path.
    #[error("there is no '{path}' in {tree}")]
    NoSuchPath {
        /// The path.
        path: String,
        /// The commit or tree it was looked for in.
        tree: ObjectId,
    },
    /// A directory, or a commit of another repository, where a file was asked for; or the other way round.
    #[error("'{path}' is not a {expected}")]
    WrongKind {
        /// The path.
        path: String,
        /// `file` or `directory`.
        expected: &'static str,
    },
    /// Not a cursor that a page ended with.
    #[error("not a cursor of this log")]
    Cursor,
    /// An object of another kind than a commit.
    #[error("object {id} is a {kind}, not a commit")]
    NotACommit {
        /// The object.
        id: ObjectId,
        /// What it is.
        kind: Kind,
    },
    /// An object of another kind than a commit or a tree.
    #[error("object {id} is a {kind}, and has no tree")]
    NotATree {
        /// The object.
        id: ObjectId,
        /// What it is.
        kind: Kind,
    },
    /// Another object names it, and it is not here.
    #[error("object {id} is missing")]
    Missing {
        /// The object.
        id: ObjectId,
    },
    /// The bytes of the object are not those of its kind.
    #[error("object {id} is malformed")]
    Malformed {
        /// The object.
        id: ObjectId,
    },
    /// A tree could not be followed.
    #[error(transparent)]
    Tree(#[from] TreeDiffError),
    /// The objects could not be read.
    #[error(transparent)]
    Odb(#[from] OdbError),
    /// The refs could not be read.
    #[error(transparent)]
    Refs(#[from] RefsError),
    /// The repository's own files could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl ReadError {
    /// Whose move it is.
    pub fn fault(&self) -> Fault {
        match self {
            ReadError::NotFound { .. } | ReadError::Unknown { .. } | ReadError::NoSuchPath { .. } => Fault::NotFound,
            ReadError::WrongKind { .. }
            | ReadError::Cursor
            | ReadError::Ambiguous { .. }
            | ReadError::NotACommit { .. }
            | ReadError::NotATree { .. } => Fault::Client,
            ReadError::Missing { .. } | ReadError::Malformed { .. } => Fault::Corrupt,
            ReadError::Tree(err) => err.fault(),
            ReadError::Odb(err) => err.fault(),
            ReadError::Refs(err) => err.fault(),
            ReadError::Store(err) => err.fault(),
        }
    }
}
