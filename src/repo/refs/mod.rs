//! The refs of one repository in git's files format (gitrepository-layout(5), git-pack-refs(1)), read and written by us alone.
//!
//! Promise: a reader never sees a ref that was neither the old nor the new value, and a transaction is on disk wholly or not at all
//! at whatever point the process is killed (see `transaction`). C git may work on the same files at the same time.

mod disk;
mod loose;
mod moment;
mod names;
mod pack_refs;
mod packed;
mod reflog;
mod repository;
mod store;
mod symbolic;
#[cfg(test)]
mod tests;
mod transaction;
mod types;
mod write;

pub use moment::{RefList, RefSeen, RefsMoment};
pub use store::RefStore;
pub use types::{
    Head, LogRefUpdates, Ref, RefLog, RefObjects, RefOutcome, RefQuery, RefStoreOptions, RefTarget, RefUpdate,
    RefValue, RefsError, SharedRepository,
};
