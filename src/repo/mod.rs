//! `repo`.

mod refs;

pub use refs::{
    Head, LogRefUpdates, Ref, RefLog, RefObjects, RefOutcome, RefQuery, RefStoreOptions, RefTarget, RefUpdate,
    RefsError, SharedRepository,
};
