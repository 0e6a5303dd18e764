use std::sync::{
    Mutex,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use gix::{
    hash::{Hasher, Kind as HashKind, ObjectId, hasher},
    objs::{Kind, encode::loose_header},
};

use super::{
    IngestError,
    gate::{Account, HOUSE, Permit},
    ids::IdSet,
    links::Links,
};
use crate::base::Limits;

/// What ingest asks of the objects that are here already.
pub(super) trait Existing: Send {
    /// Kind and size of an object, `None` when it is not here.
    fn header(&mut self, id: &ObjectId) -> Result<Option<(Kind, u64)>, IngestError>;
    /// As `header`, for objects that mostly are not here; one that is being packed just now may seem absent.
    fn twin(&mut self, id: &ObjectId) -> Result<Option<(Kind, u64)>, IngestError> {
        self.header(id)
    }
    /// Replaces `out` by an object, `None` when it is not here.
    fn read(&mut self, id: &ObjectId, out: &mut Vec<u8>) -> Result<Option<Kind>, IngestError>;
}

/// What is asked of every commit, tree and tag.
pub(super) trait Checks: Send {
    /// Refuses an object.
    fn object(&mut self, kind: Kind, id: &ObjectId, data: &[u8]) -> Result<(), IngestError>;
    /// Called once at the end.
    fn done(self: Box<Self>);
}

/// Bytes that deltas may produce whatever the pack is, and for every byte of it. Histories of one huge directory come to some hundreds.
const EXPANSION_FLOOR: u64 = 1 << 30;
const EXPANSION_RATIO: u64 = 1_000;
/// And for every delta, up to a bound: a large file with many small changes makes a small pack, too.
const EXPANSION_PER_DELTA: u64 = 64 << 20;
const EXPANSION_BY_DELTAS: u64 = 63 << 30;
/// Larger blobs are hashed while they are inflated and never held; whatever else is larger is held one at a time, and counted by the [`Gate`](super::gate::Gate).
pub(super) const STREAMED: u64 = 8 << 20;
/// Commits, trees and tags are held whole to be looked at; none is this large.
const STRUCTURED: u64 = 256 << 20;
/// git does not delta anything larger (`core.bigFileThreshold`), and both sides of a delta are held.
const DELTIFIED: u64 = 512 << 20;
/// Small pushes keep this much inflated, to become loose objects.
const KEPT_BYTES: usize = 4 << 20;

/// The ids and kinds of a pack's entries, as they become known.
#[derive(Default)]
pub(super) struct Names {
    raw: usize,
    ids: Vec<u8>,
    /// 0 where nothing is known yet.
    kinds: Vec<u8>,
}

impl Names {
    pub(super) fn new(hash: HashKind) -> Self {
        Names {
            raw: hash.len_in_bytes(),
            ..Default::default()
        }
    }

    pub(super) fn set(&mut self, entry: u32, kind: Kind, id: &ObjectId) {
        let at = entry as usize;
        if self.kinds.len() <= at {
            self.kinds.resize(at + 1, 0);
            self.ids.resize((at + 1) * self.raw, 0);
        }
        self.kinds[at] = code_of(kind);
        self.ids[at * self.raw..(at + 1) * self.raw].copy_from_slice(id.as_slice());
    }

    /// What entry `entry` is, once it is known.
    pub(super) fn get(&self, entry: u32) -> Option<(Kind, ObjectId)> {
        let at = entry as usize;
        let kind = kind_of(*self.kinds.get(at)?)?;
        let id = ObjectId::from_bytes_or_panic(&self.ids[at * self.raw..(at + 1) * self.raw]);
        Some((kind, id))
    }
}

pub(super) fn code_of(kind: Kind) -> u8 {
    match kind {
        Kind::Commit => 1,
        Kind::Tree => 2,
        Kind::Blob => 3,
        Kind::Tag => 4,
    }
}

pub(super) fn kind_of(code: u8) -> Option<Kind> {
    match code {
        1 => Some(Kind::Commit),
        2 => Some(Kind::Tree),
        3 => Some(Kind::Blob),
        4 => Some(Kind::Tag),
        _ => None,
    }
}

/// An object of a small push.
pub(super) struct Kept {
    pub(super) kind: Kind,
    pub(super) id: ObjectId,
    pub(super) data: Vec<u8>,
}

/// The objects of a small push, until there turn out to be too many bytes of them.
pub(super) struct Keep {
    pub(super) objects: Vec<Kept>,
    bytes: usize,
    over: bool,
}

/// What all threads of one ingest share.
pub(super) struct Job<'a> {
    pub(super) hash: HashKind,
    pub(super) limits: &'a Limits,
    pub(super) stop: &'a AtomicBool,
    pub(super) shallow: IdSet,
    pub(super) names: Mutex<Names>,
    /// Blobs too large to hold whose id is here already: entries to be compared piece by piece.
    pub(super) recheck: Mutex<Vec<u32>>,
    keep: Option<Mutex<Keep>>,
    /// What this ingest holds of the large objects of the house.
    pub(super) account: Account,
    /// Held by the thread that works on large objects: one of each ingest.
    pub(super) large: Mutex<()>,
    produced: AtomicU64,
    allowed: AtomicU64,
}

impl<'a> Job<'a> {
    pub(super) fn new(
        hash: HashKind,
        limits: &'a Limits,
        stop: &'a AtomicBool,
        shallow: &[ObjectId],
        keep: bool,
    ) -> Self {
        Job {
            hash,
            limits,
            stop,
            shallow: shallow.iter().copied().collect(),
            names: Mutex::new(Names::new(hash)),
            recheck: Mutex::default(),
            keep: keep.then(|| {
                Mutex::new(Keep {
                    objects: Vec::new(),
                    bytes: 0,
                    over: false,
                })
            }),
            account: HOUSE.account(limits.ingest_bytes as u64),
            large: Mutex::default(),
            produced: AtomicU64::new(0),
            allowed: AtomicU64::new(EXPANSION_FLOOR),
        }
    }

    /// The largest object of a kind, by its whole size, that is taken at `offset`.
    pub(super) fn check_size(&self, kind: Kind, size: u64, offset: u64) -> Result<(), IngestError> {
        let limit = match kind {
            Kind::Blob => self.limits.object_bytes,
            _ => self.limits.object_bytes.min(STRUCTURED),
        };
        if size > limit {
            return Err(IngestError::ObjectTooLarge { offset, limit });
        }
        Ok(())
    }

    /// The largest result of a delta, and the largest delta.
    pub(super) fn delta_limit(&self) -> u64 {
        self.limits.object_bytes.min(DELTIFIED)
    }

    pub(super) fn check_stop(&self) -> Result<(), IngestError> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(IngestError::Stopped);
        }
        Ok(())
    }

    /// Asks for room for an object that may be large, waiting for it if need be. `None` is room for one that is not.
    pub(super) fn room(&self, bytes: u64, tick: &mut dyn FnMut()) -> Result<Option<Permit>, IngestError> {
        if bytes <= STREAMED {
            return Ok(None);
        }
        self.account.take(bytes, self.stop, tick).map(Some)
    }

    /// Fixes the bytes that may be produced, now that the size of the pack is known.
    pub(super) fn allow_for(&self, pack_bytes: u64, deltas: usize) {
        let by_deltas = (deltas as u64)
            .saturating_mul(EXPANSION_PER_DELTA)
            .min(EXPANSION_BY_DELTAS);
        let allowed = (EXPANSION_FLOOR + by_deltas).saturating_add(pack_bytes.saturating_mul(EXPANSION_RATIO));
        self.allowed.store(allowed, Ordering::Relaxed);
    }

    /// Counts bytes that a delta made.
    pub(super) fn produce(&self, bytes: usize) -> Result<(), IngestError> {
        let before = self.produced.fetch_add(bytes as u64, Ordering::Relaxed);
        let limit = self.allowed.load(Ordering::Relaxed);
        if before.saturating_add(bytes as u64) > limit {
            return Err(IngestError::Expansion { limit });
        }
        Ok(())
    }

    /// The objects themselves, when this was a small push.
    pub(super) fn take_kept(&mut self) -> Option<Vec<Kept>> {
        let keep = self.keep.take()?.into_inner().ok()?;
        (!keep.over).then_some(keep.objects)
    }
}

/// Where one thread takes objects to be named, checked and compared.
pub(super) struct Finisher<'a> {
    pub(super) job: &'a Job<'a>,
    pub(super) existing: Option<Box<dyn Existing + 'a>>,
    pub(super) checks: Option<Box<dyn Checks + 'a>>,
    pub(super) links: Links,
    found: Vec<(u32, Kind, ObjectId)>,
    other: Vec<u8>,
}

/// Makes one for each thread.
pub(super) type MakeFinisher<'a, 'f> = &'f (dyn Fn() -> Result<Finisher<'a>, IngestError> + Sync);

impl<'a> Finisher<'a> {
    pub(super) fn new(
        job: &'a Job<'a>,
        existing: Option<Box<dyn Existing + 'a>>,
        checks: Option<Box<dyn Checks + 'a>>,
    ) -> Self {
        Finisher {
            job,
            existing,
            checks,
            links: Links::new(job.hash),
            found: Vec::new(),
            other: Vec::new(),
        }
    }

    /// Takes one whole object, the entry at `offset`.
    pub(super) fn object(&mut self, entry: u32, kind: Kind, data: &[u8], offset: u64) -> Result<ObjectId, IngestError> {
        let id = compute_id(self.job.hash, kind, data).ok_or(IngestError::CollisionAttack { offset })?;
        if let Some(existing) = &mut self.existing
            && let Some(header) = existing.twin(&id)?
        {
            let same = header == (kind, data.len() as u64) && {
                let room = self.job.room(header.1, &mut || ())?;
                existing.read(&id, &mut self.other)?;
                let same = self.other == data;
                if room.is_some() {
                    self.other = Vec::new();
                }
                same
            };
            if !same {
                return Err(IngestError::Collision { id });
            }
        }
        if kind != Kind::Blob {
            if let Some(checks) = &mut self.checks {
                checks.object(kind, &id, data)?;
            }
            self.links.object(kind, &id, data, &self.job.shallow);
        }
        if let Some(keep) = &self.job.keep
            && let Ok(mut keep) = keep.lock()
            && !keep.over
        {
            keep.bytes += data.len();
            if keep.bytes > KEPT_BYTES {
                keep.over = true;
                keep.objects = Vec::new();
            } else {
                keep.objects.push(Kept {
                    kind,
                    id,
                    data: data.to_vec(),
                });
            }
        }
        self.note(entry, kind, id);
        Ok(id)
    }

    /// Takes a blob that was hashed while it streamed by.
    pub(super) fn streamed_blob(&mut self, entry: u32, hashed: Hasher, offset: u64) -> Result<(), IngestError> {
        let id = hashed
            .try_finalize()
            .map_err(|_| IngestError::CollisionAttack { offset })?;
        if let Some(existing) = &mut self.existing
            && existing.twin(&id)?.is_some()
            && let Ok(mut recheck) = self.job.recheck.lock()
        {
            recheck.push(entry);
        }
        if let Some(keep) = &self.job.keep
            && let Ok(mut keep) = keep.lock()
        {
            keep.over = true;
            keep.objects = Vec::new();
        }
        self.note(entry, Kind::Blob, id);
        Ok(())
    }

    /// Ends the checks, and hands out what the objects refer to.
    pub(super) fn done(self) -> Links {
        if let Some(checks) = self.checks {
            checks.done();
        }
        self.links
    }

    fn note(&mut self, entry: u32, kind: Kind, id: ObjectId) {
        self.found.push((entry, kind, id));
        if self.found.len() >= 1024 {
            self.flush();
        }
    }

    /// Makes what was found known to all.
    pub(super) fn flush(&mut self) {
        let mut names = self.job.names.lock().unwrap_or_else(|e| e.into_inner());
        for (entry, kind, id) in self.found.drain(..) {
            names.set(entry, kind, &id);
        }
    }
}

/// The id of an object, `None` when its bytes bear the marks of a collision attack.
pub(super) fn compute_id(hash: HashKind, kind: Kind, data: &[u8]) -> Option<ObjectId> {
    let mut hashed = begin_id(hash, kind, data.len() as u64);
    hashed.update(data);
    hashed.try_finalize().ok()
}

/// A hasher that has seen the head of an object.
pub(super) fn begin_id(hash: HashKind, kind: Kind, size: u64) -> Hasher {
    let mut hashed = hasher(hash);
    hashed.update(&loose_header(kind, size));
    hashed
}
