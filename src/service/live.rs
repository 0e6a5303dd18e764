use std::{error::Error, time::Duration};

use bstr::{BStr, BString};
use gix::hash::{ObjectId, oid};

use crate::repo::Repository;

/// The working trees that a push may change, as the service sees them: somebody above knows what they are.
pub trait LiveWorktrees {
    /// The working tree that is on a branch, given by its full name; `None` if there is none, or none that can be changed.
    ///
    /// # Errors
    /// When it cannot be told.
    fn on_branch(&self, repo: &Repository, branch: &BStr) -> Result<Option<Box<dyn LiveWorktree>>, LiveError>;
}

/// A working tree that is on a branch.
pub trait LiveWorktree {
    /// What it is called.
    fn name(&self) -> &str;
    /// Whether it is a workspace, into which pushes go by default.
    fn is_workspace(&self) -> bool;
    /// Takes it for oneself.
    ///
    /// # Errors
    /// When somebody else is at work in it.
    fn take(&self) -> Result<Box<dyn TakenWorktree + '_>, LiveError>;
}

/// A working tree in which nobody else of the house works meanwhile. If it is dropped unfinished, its files follow the branch when it is next taken.
pub trait TakenWorktree {
    /// Makes what is unsaved a commit on the branch.
    ///
    /// # Errors
    /// When that is not possible.
    fn save(&mut self) -> Result<LiveState, LiveError>;
    /// What the branch is at, if nothing is unsaved.
    ///
    /// # Errors
    /// If something is.
    fn require_clean(&mut self) -> Result<LiveState, LiveError>;
    /// Makes the files ready for a commit.
    ///
    /// # Errors
    /// When they cannot become those of the commit.
    fn prepare(&mut self, commit: &oid) -> Result<(), LiveError>;
    /// Gives the files their places: the branch has moved.
    ///
    /// # Errors
    /// When that is not possible now. It is tried again when it is next taken.
    fn finish(self: Box<Self>) -> Result<LiveOutcome, LiveError>;
    /// Gives it up: the branch did not move.
    fn abandon(self: Box<Self>);
}

/// Where a working tree is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LiveState {
    /// What its branch is at.
    pub tip: Option<ObjectId>,
    /// The commit that was just made of unsaved work.
    pub saved: Option<ObjectId>,
}

/// What became of its files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LiveOutcome {
    /// How many files were changed.
    pub updated: usize,
    /// Which were not, and why.
    pub left: Vec<(BString, &'static str)>,
    /// Another program has the index locked, and for how long: it does not say so yet.
    pub index_locked: Option<Duration>,
}

/// Why a working tree does not take a push.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct LiveError {
    /// What stands behind `ng <ref>`. Without paths of the server.
    pub reason: String,
    /// More for the client's terminal.
    pub detail: Option<String>,
    /// The whole story, for the log.
    pub source: Option<Box<dyn Error + Send + Sync>>,
}
