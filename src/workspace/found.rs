//! What a scan finds, and what a checkpoint leaves out and why.

use bstr::BString;
use gix::{hash::ObjectId, objs::tree::EntryKind};

use super::{listed::Pure, tracked::FileStat};

/// Something in a workspace that a checkpoint does not record, or not as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SkipReason {
    /// A socket, a pipe, a device: nothing that has a content.
    Special,
    /// It, or the directory it is in, may not be read.
    Unreadable,
    /// More bytes than [`file_bytes`](super::WorkspaceOptions::file_bytes).
    TooLarge,
    /// A repository of its own: recorded as the commit it is at, its files are not.
    NestedRepository,
    /// A repository of its own without a commit, or one that cannot be read.
    EmptyRepository,
    /// It kept changing while it was read.
    Changing,
    /// Its name could not be checked out by git: `.git` in some spelling.
    IllegalName,
    /// It looks like a secret.
    Secret,
    /// Directories in directories in directories: more than anybody meant.
    TooDeep,
    /// Its attributes ask for an encoding that its content does not have; recorded as it is.
    Encoding,
}

impl SkipReason {
    /// For people.
    pub fn text(self) -> &'static str {
        match self {
            SkipReason::Special => "not a regular file",
            SkipReason::Unreadable => "cannot be read",
            SkipReason::TooLarge => "too large",
            SkipReason::NestedRepository => "a repository of its own; only its commit is recorded",
            SkipReason::EmptyRepository => "a repository of its own that has no commit",
            SkipReason::Changing => "kept changing while it was read",
            SkipReason::IllegalName => "a name that git does not allow",
            SkipReason::Secret => "looks like a secret",
            SkipReason::TooDeep => "too many directories in one another",
            SkipReason::Encoding => "does not have the encoding that its attributes say; recorded as it is",
        }
    }
}

/// A file that may have changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) path: BString,
    pub(crate) kind: EntryKind,
    pub(crate) stat: FileStat,
    pub(crate) size: u64,
    pub(crate) is_new: bool,
}

/// What a scan found.
#[derive(Debug, Default)]
pub(crate) struct ScanResult {
    /// Files to be read.
    pub(crate) found: Vec<Found>,
    /// Files that are tracked and gone.
    pub(crate) removed: Vec<BString>,
    /// Nested repositories and the commits they are at.
    pub(crate) nested: Vec<(BString, ObjectId)>,
    pub(crate) skipped: Vec<(BString, SkipReason)>,
    /// Every `.gitattributes` that was come by.
    pub(crate) attributes: Vec<BString>,
    /// What may change without a word from a watch: files with a second name, and nested repositories.
    pub(crate) unwatched: Vec<BString>,
    /// Directories in which there is nothing but what is tracked: those that were listed, and those that need not be.
    pub(super) listed: Vec<Pure>,
    pub(super) unlisted: Vec<Pure>,
}

impl ScanResult {
    pub(super) fn append(&mut self, mut other: ScanResult) {
        self.found.append(&mut other.found);
        self.removed.append(&mut other.removed);
        self.nested.append(&mut other.nested);
        self.skipped.append(&mut other.skipped);
        self.attributes.append(&mut other.attributes);
        self.unwatched.append(&mut other.unwatched);
        self.listed.append(&mut other.listed);
        self.unlisted.append(&mut other.unlisted);
    }
}
