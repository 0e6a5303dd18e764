//! `workspace`: a directory in which an agent works.
//!
//! Knows what is tracked in it and notices what changed at a cost that follows the change; changes its files only beneath its root, whole files by rename, and
//! never over something that is saved nowhere. One writer at a time, whichever process it is in. Starts no process: filter drivers, hooks and whatever else the
//! repository's configuration would run is data to us.

mod beneath;
mod capture;
mod contents;
mod error;
mod filter;
mod follow;
mod found;
mod ignore;
mod index_file;
mod index_read;
#[cfg(test)]
mod index_tests;
mod index_write;
mod journal;
mod listed;
mod lock;
mod manage;
mod open;
mod pending;
mod power;
mod reach;
mod scan;
mod secrets;
#[cfg(feature = "ssh-signatures")]
mod sign;
mod text;
mod tracked;
mod transition;
#[cfg(test)]
mod transition_tests;
mod watch;

#[cfg(test)]
pub(crate) use beneath::kill;
pub(crate) use capture::Captured;
pub use capture::{CaptureError, Looked};
pub use error::WorkspaceError;
pub(crate) use filter::{FilterWorker, Filters};
pub(crate) use found::Found;
pub use found::SkipReason;
pub use lock::{HeadState, Held};
pub use manage::{
    CreateWorkspace, ManageError, OnBranch, SaveFn, Start, Unsaved, WorkspaceEntry, WorkspaceState, worktrees_on,
};
pub use open::{Durability, Placement, Progress, Unchanged, Workspace, WorkspaceOptions};
pub(crate) use power::{Before, Durable};
pub use secrets::SecretRules;
#[cfg(feature = "ssh-signatures")]
pub use sign::{CommitSigner, SignError};
pub use text::{LinesWanted, TextError, Written};
pub(crate) use tracked::{FileStat, Tracked, TrackedFile};
pub use transition::TransitionError;
pub(crate) use transition::{Prepared, prepare};
