//! `ingest`: what a client pushed becomes objects of the repository, or nothing at all.
//!
//! A pack is read once, front to back, into a [`Quarantine`]: entries are delimited, inflated and checked against limits while they arrive, whole objects are
//! named on a second thread meanwhile. Then deltas are resolved from their bases outwards on a few threads within a byte budget, thin packs are completed
//! in linear time, and `.idx` and `.rev` are written. Small pushes become loose objects instead (`receive.unpackLimit`), as git does, so that
//! ten thousand of them do not make ten thousand packs. Nothing of a refused push remains on disk.
//!
//! No number that a client sends is believed: memory grows with bytes received, and every size is checked before it is allocated.

mod check;
mod error;
mod finish;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod gate;
pub(crate) mod ids;
mod intake;
mod links;
mod quarantine;
mod repository;
mod resolve;
mod scan;
#[cfg(test)]
mod tests;

use std::{io::Read, sync::atomic::AtomicBool};

use gix::{
    hash::{Kind as HashKind, ObjectId},
    objs::Kind,
};

use self::{
    check::{Checks, Existing, Finisher, Job, Names},
    finish::{Received, Sorted},
    intake::Intake,
    links::Links,
    resolve::Forest,
};
pub use self::{
    error::IngestError,
    quarantine::{Published, Quarantine},
    repository::{IngestOptions, ingest, sweep_stale},
};
pub(in crate::repo) use self::{intake::create_read_only, quarantine::NewPack as StagedPack};
use crate::{
    base::Limits,
    pack::{Deflater, PACK_HEADER_LEN, parse_pack_header},
    repo::fsck::FsckNote,
};

/// How far an ingest has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IngestProgress {
    /// The pack is arriving.
    Receiving {
        /// Objects so far.
        objects: u32,
        /// Objects that the pack claims to have.
        total: u32,
        /// Bytes so far.
        bytes: u64,
    },
    /// Deltas are being resolved.
    Resolving {
        /// Deltas so far.
        done: u32,
        /// Deltas of the pack.
        total: u32,
    },
}

/// What an ingest did.
#[derive(Debug)]
#[non_exhaustive]
pub struct IngestOutcome {
    /// Objects the client sent.
    pub objects: u32,
    /// Bytes the client sent.
    pub bytes: u64,
    /// Objects of ours that were appended to complete a thin pack.
    pub thin_bases: u32,
    /// The trailer of the pack that was made, unless the objects became loose ones.
    pub pack: Option<ObjectId>,
    /// What is wrong with objects that were taken nevertheless.
    pub notes: Vec<FsckNote>,
    /// Whether every object that an object of the pack refers to is in the pack, with the kind it must have, up to shallow commits.
    closed: bool,
    known: Option<Sorted>,
}

impl IngestOutcome {
    /// The kind of an object that was received or appended.
    pub fn kind_of(&self, id: &ObjectId) -> Option<Kind> {
        self.known.as_ref()?.kind_of(id)
    }

    /// Whether everything reachable from `id` is known to have arrived: the pack refers to nothing outside of itself. Then no walk is needed. Holds
    /// for the shallow commits that the ingest was told about.
    pub fn is_whole(&self, id: &ObjectId) -> bool {
        self.closed && self.kind_of(id).is_some()
    }

    /// The ids of all objects, sorted.
    pub fn ids(&self) -> impl Iterator<Item = ObjectId> + '_ {
        self.known.iter().flat_map(Sorted::ids)
    }
}

/// What [`receive`] has to know.
struct Setup<'a> {
    hash: HashKind,
    limits: &'a Limits,
    /// 0 means no bound.
    max_bytes: u64,
    threads: usize,
    /// Packs of fewer objects become loose objects.
    unpack_limit: u32,
    pack_level: i32,
    loose_level: i32,
    write_reverse: bool,
    /// Whether an object may be in a pack only once.
    strict: bool,
    shallow: &'a [ObjectId],
    stop: &'a AtomicBool,
    existing: &'a (dyn Fn() -> Result<Option<Box<dyn Existing + 'a>>, IngestError> + Sync),
    checks: &'a (dyn Fn() -> Option<Box<dyn Checks + 'a>> + Sync),
}

fn receive(
    setup: &Setup<'_>,
    quarantine: &mut Quarantine,
    pack: &mut dyn Read,
    progress: &mut dyn FnMut(IngestProgress),
) -> Result<IngestOutcome, IngestError> {
    let hash = setup.hash;
    let mut place = || quarantine.pack_path();
    let mut intake = Intake::new(pack, hash, &mut place, setup.max_bytes);
    intake.fill(PACK_HEADER_LEN)?;
    let header = intake
        .window()
        .first_chunk::<PACK_HEADER_LEN>()
        .ok_or(IngestError::NoHeader)?;
    let count = match parse_pack_header(header) {
        Ok(count) => count,
        Err(_) if header.starts_with(b"PACK") => return Err(IngestError::Version),
        Err(_) => return Err(IngestError::Signature),
    };
    intake.advance(PACK_HEADER_LEN);
    intake.take_crc();
    let limit = setup.limits.pack_objects;
    if count > limit {
        return Err(IngestError::TooManyObjects { count, limit });
    }
    let explode = count < setup.unpack_limit;
    let mut job = Job::new(hash, setup.limits, setup.stop, setup.shallow, explode);
    let mut received = receive_entries(setup, &job, intake, count, progress)?;
    if count == 0 {
        return Ok(IngestOutcome {
            objects: 0,
            bytes: received.bytes,
            thin_bases: 0,
            pack: None,
            notes: Vec::new(),
            closed: false,
            known: None,
        });
    }

    let mut names = std::mem::replace(job.names.get_mut().unwrap_or_else(|e| e.into_inner()), Names::new(hash));
    let kept = job.take_kept();
    let (mut thin_bases, mut trailer) = (0, received.trailer);
    let mut whole = received.pack;
    if kept.is_none() && !received.bases.is_empty() {
        let mut existing = (setup.existing)()?.ok_or(IngestError::Unresolved {
            count: received.bases.len(),
        })?;
        let level = setup.pack_level;
        (whole, trailer, thin_bases) = finish::complete(
            whole,
            &mut received.scan,
            &mut names,
            &received.bases,
            &mut *existing,
            level,
            &job,
        )?;
    }
    let (order, known, twice) = finish::sort(&names, received.scan.entries(), hash);
    if let (Some(id), true) = (twice, setup.strict) {
        return Err(IngestError::Duplicate { id });
    }
    let closed = Links::closed(&received.links, |id| known.kind_of(id));
    let pack = match kept {
        Some(mut objects) => {
            objects.sort_unstable_by_key(|object| object.id);
            objects.dedup_by(|a, b| a.id == b.id);
            let mut deflater = Deflater::new(setup.loose_level);
            let mut bytes = Vec::new();
            for object in objects {
                finish::loose(&mut deflater, object.kind, &object.data, &mut bytes);
                quarantine.add_loose(&object.id, &bytes)?;
            }
            None
        }
        None => {
            let reverse = setup.write_reverse;
            finish::place(quarantine, whole, &received.scan, &names, &order, &trailer, reverse)?;
            Some(trailer)
        }
    };
    Ok(IngestOutcome {
        objects: count,
        bytes: received.bytes,
        thin_bases,
        pack,
        notes: Vec::new(),
        closed,
        known: Some(known),
    })
}

/// All of a pack, its deltas resolved.
struct Entries {
    pack: Received,
    trailer: ObjectId,
    bytes: u64,
    scan: scan::Scan,
    /// Objects that are not in the pack and that its deltas need.
    bases: Vec<ObjectId>,
    links: Vec<Links>,
}

fn receive_entries(
    setup: &Setup<'_>,
    job: &Job<'_>,
    mut intake: Intake<'_>,
    count: u32,
    progress: &mut dyn FnMut(IngestProgress),
) -> Result<Entries, IngestError> {
    let hash = setup.hash;
    let make = || Ok(Finisher::new(job, (setup.existing)()?, (setup.checks)()));
    let mut finishers = Vec::new();
    let scan = scan::scan(job, &mut intake, count, setup.threads, &mut finishers, &make, progress)?;
    let (sink, trailer, bytes) = intake.finish(hash)?;
    job.allow_for(bytes, scan.deltas.len());
    let pack = Received::new(sink)?;
    if let Some(finisher) = finishers.first_mut() {
        let mut tick = || {
            progress(IngestProgress::Receiving {
                objects: count,
                total: count,
                bytes,
            });
        };
        resolve::look_at_skipped(job, &scan, pack.bytes(), finisher, &mut tick)?;
    }

    let forest = Forest::new(job, &scan, pack.bytes());
    let threads = setup.threads;
    forest.resolve_inside(threads, &mut finishers, &make, progress)?;
    let mut bases = Vec::new();
    if forest.unresolved() > 0 {
        let missing = forest.missing_bases();
        let used: Vec<_> = missing.iter().map(|_| AtomicBool::new(false)).collect();
        forest.resolve_outside(&missing, &used, threads, &mut finishers, &make, progress)?;
        let needed = missing
            .iter()
            .zip(&used)
            .filter(|(_, used)| used.load(std::sync::atomic::Ordering::Relaxed));
        bases.extend(needed.map(|(id, _)| *id));
    }
    let count = forest.unresolved();
    if count > 0 {
        return Err(IngestError::Unresolved { count });
    }
    if !bases.is_empty() {
        // A delta of the pack may have made a base that we also had ourselves.
        let wanted: ids::IdSet = bases.iter().copied().collect();
        let names = finish::lock(job);
        let made: ids::IdSet = (0..scan.entries())
            .filter_map(|entry| names.get(entry).map(|(_, id)| id))
            .filter(|id| wanted.contains(id))
            .collect();
        bases.retain(|id| !made.contains(id));
    }
    let first = finishers.first_mut().and_then(|finisher| finisher.existing.as_mut());
    if let Some(existing) = first {
        finish::compare_streamed(job, pack.bytes(), &scan, &mut **existing)?;
    }
    Ok(Entries {
        pack,
        trailer,
        bytes,
        scan,
        bases,
        links: finishers.into_iter().map(Finisher::done).collect(),
    })
}
