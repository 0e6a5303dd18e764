use std::{
    fs, io,
    io::Read,
    sync::{Mutex, atomic::AtomicBool},
    time::{Duration, SystemTime},
};

use gix::{hash::ObjectId, objs::Kind};

use super::{
    IngestError, IngestOutcome, IngestProgress, Quarantine, Setup,
    check::{Checks, Existing},
    quarantine, receive,
};
use crate::{
    base::Limits,
    repo::{
        Odb, OdbError, Repository,
        fsck::{self, BlobLookup, FinishError, FsckPolicy, FsckState},
        shared_mode,
    },
};

/// How a pushed pack is taken.
pub struct IngestOptions<'a> {
    /// Which objects are refused; `None` looks at no object.
    pub fsck: Option<&'a FsckPolicy>,
    /// The most bytes of a pack; 0 means no bound.
    pub max_bytes: u64,
    /// Bounds on counts, sizes, depths and memory.
    pub limits: &'a Limits,
    /// Threads to use at most; fewer for small packs.
    pub threads: usize,
    /// Commits that the client said have no parents.
    pub client_shallow: &'a [ObjectId],
    /// Called often, and cheap to call: it is up to the callee to say nothing.
    pub progress: &'a mut dyn FnMut(IngestProgress),
    /// Ends the ingest early.
    pub stop: &'a AtomicBool,
}

impl Quarantine {
    /// An empty quarantine for a repository. Nothing is on disk yet.
    pub fn create(repo: &Repository) -> Self {
        let mut quarantine = Quarantine::below(repo.objects_dir());
        let shared = repo.settings().core.shared_repository;
        quarantine.set_modes(Box::new(move |mode, is_dir| shared_mode(shared, mode, is_dir)));
        quarantine
    }
}

/// Takes a pack from a client into a quarantine. `pack` is read to its end: it is the whole rest of a request.
///
/// Every object is named, compared with an object of the same id that is already here, and checked; deltas are resolved; packs of fewer objects than
/// `receive.unpackLimit` become loose objects. Whether everything the objects refer to is here is not looked at: see
/// [`Connectivity`](crate::repo::Connectivity).
///
/// # Errors
/// The display of the error is what follows `unpack ` in a report. The quarantine is then of no use.
pub fn ingest(
    repo: &Repository,
    quarantine: &mut Quarantine,
    pack: &mut dyn Read,
    options: IngestOptions<'_>,
) -> Result<IngestOutcome, IngestError> {
    let mut shallow = options.client_shallow.to_vec();
    let own = repo.shallow().map_err(|source| IngestError::Existing {
        source: Box::new(source),
    })?;
    shallow.extend(own);
    let collected = Mutex::new(FsckState::new());
    let is_empty = has_no_objects(repo)?;
    let existing = || -> Result<Option<Box<dyn Existing>>, IngestError> {
        if is_empty {
            return Ok(None);
        }
        let odb = repo.odb()?;
        Ok(Some(Box::new(odb)))
    };
    let checks = || {
        let policy = options.fsck?;
        Some(Box::new(FsckChecks {
            policy,
            state: FsckState::new(),
            collected: &collected,
        }) as Box<dyn Checks>)
    };
    let settings = repo.settings();
    let setup = Setup {
        hash: repo.hash_kind(),
        limits: options.limits,
        max_bytes: options.max_bytes,
        threads: options.threads,
        unpack_limit: settings.receive.unpack_limit,
        // For the few objects that complete a thin pack; git's default of 6 costs more than it saves.
        pack_level: if settings.pack.compression < 0 {
            1
        } else {
            settings.pack.compression
        },
        loose_level: settings.core.loose_compression,
        write_reverse: settings.pack.write_reverse_index,
        strict: options.fsck.is_some(),
        shallow: &shallow,
        stop: options.stop,
        existing: &existing,
        checks: &checks,
    };
    let mut outcome = receive(&setup, quarantine, pack, options.progress)?;
    if let Some(policy) = options.fsck {
        let mut state = collected.into_inner().unwrap_or_else(|e| e.into_inner());
        if state.pending_blobs() > 0 {
            let odb = repo.odb_behind(quarantine)?;
            state
                .finish(policy, &mut BlobLookup::in_odb(&odb))
                .map_err(|err| match err {
                    FinishError::Finding(finding) => IngestError::Fsck {
                        text: finding.to_string(),
                    },
                    FinishError::Lookup(err) => err.into(),
                })?;
        }
        outcome.notes = state.take_notes();
    }
    Ok(outcome)
}

/// Removes what pushes left behind that were killed: quarantines, and `.keep` files of ours. Returns how many. Those of living processes are locked and stay;
/// where that cannot be told, and of quarantines that are not ours, those go that are unchanged for longer than `older_than`.
///
/// # Errors
/// When the objects directory cannot be listed.
pub fn sweep_stale(repo: &Repository, older_than: Duration, now: SystemTime) -> Result<usize, IngestError> {
    let objects = repo.objects_dir();
    quarantine::sweep(objects, older_than, now).map_err(IngestError::io("list the objects directory", objects))
}

impl From<OdbError> for IngestError {
    fn from(source: OdbError) -> Self {
        IngestError::Existing {
            source: Box::new(source),
        }
    }
}

impl Existing for Odb {
    fn header(&mut self, id: &ObjectId) -> Result<Option<(Kind, u64)>, IngestError> {
        damaged_is_absent(Odb::header(self, id))
    }

    fn twin(&mut self, id: &ObjectId) -> Result<Option<(Kind, u64)>, IngestError> {
        damaged_is_absent(self.header_probably(id))
    }

    fn read(&mut self, id: &ObjectId, out: &mut Vec<u8>) -> Result<Option<Kind>, IngestError> {
        damaged_is_absent(Odb::read(self, id, out))
    }
}

/// A push may bring the good copy of an object of which we have a damaged one.
fn damaged_is_absent<T>(result: Result<Option<T>, OdbError>) -> Result<Option<T>, IngestError> {
    match result {
        Err(OdbError::Corrupt { .. } | OdbError::LooseDamaged { .. }) => Ok(None),
        other => Ok(other?),
    }
}

struct FsckChecks<'a> {
    policy: &'a FsckPolicy,
    state: FsckState,
    collected: &'a Mutex<FsckState>,
}

impl Checks for FsckChecks<'_> {
    fn object(&mut self, kind: Kind, id: &ObjectId, data: &[u8]) -> Result<(), IngestError> {
        fsck::check_object(kind, id, data, self.policy, &mut self.state).map_err(|finding| IngestError::Fsck {
            text: finding.to_string(),
        })
    }

    fn done(self: Box<Self>) {
        let mut collected = self.collected.lock().unwrap_or_else(|e| e.into_inner());
        collected.merge(self.state);
    }
}

/// Whether nothing can collide with what arrives: the first push into a new repository.
fn has_no_objects(repo: &Repository) -> Result<bool, IngestError> {
    if !repo.alternate_object_dirs()?.is_empty() || !repo.odb()?.packs().is_empty() {
        return Ok(false);
    }
    let objects = repo.objects_dir();
    let doing = "list the objects directory";
    for entry in fs::read_dir(objects).map_err(IngestError::io(doing, objects))? {
        let entry: fs::DirEntry = entry.map_err(|source: io::Error| IngestError::io(doing, objects)(source))?;
        if entry.file_name().len() == 2 {
            return Ok(false);
        }
    }
    Ok(true)
}
