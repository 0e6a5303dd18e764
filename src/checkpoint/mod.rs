//! `checkpoint`: a workspace's state as a commit, and what commits can tell afterwards.
//!
//! Records what an agent did, reads the trail back, and brings earlier states forth again as new commits. Never rewrites history, never overwrites work that
//! is not in a commit, and starts no process.

mod browse;
mod commit;
mod diff;
mod error;
mod land;
mod log;
mod mend;
mod merge;
mod message;
mod outcome;
mod read_error;
mod record;
mod restore;
mod rev;
mod show;
mod squash;
mod tree_edit;
mod unsaved;

pub use crate::workspace::Looked;
pub use browse::{FileContent, ListedEntry, Listing, list_tree, read_file};
pub use commit::{CommitInfo, Signature, tree_of};
pub use diff::{ChangeKind, Changes, Diff, DiffOptions, FileChange, FileDiff, PatchContent, changes, diff};
pub use error::CheckpointError;
pub use land::{LandError, Landed, Landing, Saved, Unclean, landing_options};
pub use log::{LogCursor, LogEntry, LogOrder, LogPage, LogQuery, log};
pub use merge::{Conflict, ConflictKind, Merge, merge_trees};
pub use message::{Checkpoint, CheckpointMessage, ToolOutcome, compose, parse, subject_of};
pub use outcome::{Outcome, Placed};
pub use read_error::ReadError;
pub use record::shadow_of;
pub use restore::{RestoreError, RestoreOptions, Restored, Undone};
pub use rev::resolve;
pub use show::{Shown, show};
pub use squash::{Squash, SquashError, SquashOptions, Squashed, create_branch, squash};
pub use tree_edit::TreeEditError;
