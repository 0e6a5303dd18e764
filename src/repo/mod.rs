//! `repo`: one repository on disk.
//!
//! Opens what git made and nothing it could serve only in part; reads its objects and refs while git itself repacks beside us; writes nothing but whole files
//! that are renamed into place. Starts no process, reads no configuration but the repository's own, holds no file descriptor for a pack.

mod abbrev;
mod bitmaps;
mod checked_out;
mod config;
mod connectivity;
mod contents;
mod deltas;
mod encoded;
mod flock;
pub mod fsck;
mod graph;
mod hidden;
mod ingest;
mod loose;
mod mmap;
mod odb;
mod open;
mod pack;
mod pack_set;
mod push_cert;
mod refs;
mod repack;
mod send;
mod settings;
mod shallow;
#[cfg(test)]
pub(crate) mod testing;
mod tree_diff;
mod write;

pub use config::BadValue;
pub use connectivity::{Connectivity, ConnectivityError, check_connectivity};
pub use contents::ContentCache;
pub use encoded::EncodedCache;
pub(crate) use flock::Flock;
pub use fsck::FsckPolicy;
pub use hidden::HideRefs;
#[cfg(any(test, fuzzing))]
pub use ingest::fuzz;
pub use ingest::{
    IngestError, IngestOptions, IngestOutcome, IngestProgress, Published, Quarantine, ingest, sweep_stale,
};
pub use loose::{LooseReader, loose_path};
pub use mmap::Mmap;
pub use odb::{Location, Odb, OdbError};
pub use open::{OpenError, OpenOptions, Repository, StoreError};
pub use pack::Pack;
pub use pack_set::PackSet;
pub use push_cert::PushCertRecord;
pub use refs::{
    Head, LogRefUpdates, Ref, RefList, RefLog, RefObjects, RefOutcome, RefQuery, RefSeen, RefStore, RefStoreOptions,
    RefTarget, RefUpdate, RefValue, RefsError, RefsMoment, SharedRepository,
};
pub use repack::{
    CompactOptions, CompactOutcome, CompactPhase, CompactProgress, CompactSkip, Expiry, ExpirySkip, GcSettings,
    GraphOutcome, IndexFilesOutcome, MaintainOutcome, ObjectsHeld, Occasion, RepackError, parse_age,
};
pub use send::{
    Anew, CommonGround, DeepenTo, FilterPlan, FilterResolveError, KeptSet, ObjectSet, PackOptions, PackStats,
    SendError, SendRequest, ShallowPlan, SparseLookup, enumerate, is_ancestor, plan_deepen, unreachable_of, write_pack,
};
pub use settings::{
    CoreSettings, Deny, FilterRefused, FilterSettings, HttpSettings, PackSettings, PackfileUri, ReceiveSettings,
    Settings, TransferSettings, Unborn, UploadPackSettings, shared_mode,
};
pub use tree_diff::{TreeChange, TreeDiffError, TreeEntry, diff_trees, entry_at, read_tree_entries};
pub use write::{ObjectSink, SinkForm, WriteError, Written};
