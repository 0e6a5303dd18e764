use std::time::Duration;

use bstr::BString;
use gix::hash::ObjectId;

use super::FileChange;
use crate::workspace::{Looked, SkipReason};

/// What a checkpoint made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The commit; `None` when nothing had changed and nothing was to be recorded then.
    pub commit: Option<ObjectId>,
    /// The state of the workspace.
    pub tree: ObjectId,
    /// The commit before.
    pub parent: Option<ObjectId>,
    /// The ref that names the commit, in full.
    pub reference: BString,
    /// Where the commit went, and why there.
    pub placed: Placed,
    /// What differs from the commit before, sorted by path; at most [`CHANGES`](Self::CHANGES) of them.
    pub changes: Vec<FileChange>,
    /// How many files differ.
    pub changed: usize,
    /// What is not in the commit, or not as it is, and why.
    pub skipped: Vec<(BString, SkipReason)>,
    /// How the changes were found.
    pub looked: Looked,
    /// How many files were read.
    pub read: usize,
    /// What somebody should know.
    pub warnings: Vec<String>,
    /// How long it took.
    pub took: Duration,
}

impl Outcome {
    /// The most changes that an outcome lists; [`changed`](Self::changed) counts all of them.
    pub const CHANGES: usize = 10_000;
}

/// Where a checkpoint went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Placed {
    /// On the branch that the workspace is on.
    Branch,
    /// Beside it, as was asked for.
    Shadow,
    /// Beside it, since HEAD names no branch.
    Detached,
    /// Beside it, since git is in the middle of a merge, a rebase, …
    InProgress(&'static str),
}
