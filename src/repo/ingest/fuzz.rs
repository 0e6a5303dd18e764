//! The laws of packs and deltas from strangers as functions of any bytes: what the fuzz targets call and ordinary tests replay over `fuzz/corpus`. Each
//! panics if a law is broken.

use std::{io::Read, sync::atomic::AtomicBool};

use gix::{
    hash::{Kind as HashKind, ObjectId, hasher},
    objs::Kind,
};

use super::{
    IngestError, IngestOutcome, Quarantine, Setup,
    check::{Checks, Existing, compute_id},
    receive,
};
use crate::{
    base::Limits,
    pack::{EntryHeader, apply_delta, delta_sizes},
};

/// The one object that is here before any pack arrives, for thin packs to build on.
pub const HERE: &[u8] = b"this blob was here before";

struct One;

impl Existing for One {
    fn header(&mut self, id: &ObjectId) -> Result<Option<(Kind, u64)>, IngestError> {
        let here = compute_id(HashKind::Sha1, Kind::Blob, HERE);
        Ok((here == Some(*id)).then_some((Kind::Blob, HERE.len() as u64)))
    }

    fn read(&mut self, id: &ObjectId, out: &mut Vec<u8>) -> Result<Option<Kind>, IngestError> {
        out.clear();
        out.extend_from_slice(HERE);
        Ok(self.header(id)?.map(|(kind, _)| kind))
    }
}

struct Pieces<'a>(&'a [u8], usize);

impl Read for Pieces<'_> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let take = self.0.len().min(self.1).min(buf.len());
        buf[..take].copy_from_slice(&self.0[..take]);
        self.0 = &self.0[take..];
        Ok(take)
    }
}

/// A pack is taken or refused, the same however it is cut, in bounded memory, and a refused one leaves nothing. The low bit of the first byte asks for a
/// right trailer to be added, the next one for loose objects, the third for strictness.
pub fn pack(input: &[u8]) {
    let Some((&how, rest)) = input.split_first() else {
        return;
    };
    let mut bytes = rest.to_vec();
    if how & 1 != 0 {
        let mut hashed = hasher(HashKind::Sha1);
        hashed.update(&bytes);
        if let Ok(trailer) = hashed.try_finalize() {
            bytes.extend_from_slice(trailer.as_slice());
        }
    }
    let take = |step: usize, threads: usize| -> Result<(Vec<ObjectId>, Option<ObjectId>), String> {
        let root = Root::new();
        let outcome = take_once(&root, how, &mut Pieces(&bytes, step), threads);
        let left = std::fs::read_dir(&root.0).map(Iterator::count).unwrap_or_default();
        assert_eq!(left, 0, "something stayed on disk");
        match outcome {
            Ok(outcome) => Ok((outcome.ids().collect(), outcome.pack)),
            Err(err) => Err(err.to_string()),
        }
    };
    let whole = take(usize::MAX, 1);
    for (step, threads) in [(1, 1), (1000, 2)] {
        match (take(step, threads), &whole) {
            // Which of two faults of one stream is seen first depends on how much of it was there.
            (Err(_), Err(_)) => {}
            (cut, whole) => assert_eq!(&cut, whole, "in pieces of {step}"),
        }
    }
}

fn take_once(root: &Root, how: u8, input: &mut dyn Read, threads: usize) -> Result<IngestOutcome, IngestError> {
    let limits = Limits {
        object_bytes: 1 << 20,
        pack_objects: 10_000,
        delta_base_cache_bytes: 1 << 16,
        ..Limits::default()
    };
    let existing = || Ok(Some(Box::new(One) as Box<dyn Existing>));
    let checks = || None::<Box<dyn Checks>>;
    let setup = Setup {
        hash: HashKind::Sha1,
        limits: &limits,
        max_bytes: 1 << 20,
        threads,
        unpack_limit: if how & 2 != 0 { 100 } else { 0 },
        pack_level: 1,
        loose_level: 1,
        write_reverse: true,
        strict: how & 4 != 0,
        shallow: &[],
        stop: &AtomicBool::new(false),
        existing: &existing,
        checks: &checks,
    };
    let mut quarantine = Quarantine::below(&root.0);
    receive(&setup, &mut quarantine, input, &mut |_| {})
}

/// A directory that goes away.
struct Root(std::path::PathBuf);

impl Root {
    fn new() -> Self {
        use std::hash::BuildHasher;
        let random = std::collections::hash_map::RandomState::new().hash_one(0u8);
        let path = std::env::temp_dir().join(format!("gitstead-fuzz-{random:016x}"));
        std::fs::create_dir(&path).expect("because nothing random is there twice");
        Root(path)
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A delta makes exactly what it declares or nothing, and never more than allowed. The first byte is the length of the base.
pub fn delta(input: &[u8]) {
    let Some((&len, rest)) = input.split_first() else {
        return;
    };
    let (base, delta) = rest.split_at(rest.len().min(usize::from(len)));
    const MOST: u64 = 1 << 16;
    let mut out = b"before".to_vec();
    match apply_delta(base, delta, MOST, &mut out) {
        Ok(()) => {
            let sizes = delta_sizes(delta).expect("because it was applied");
            assert_eq!(sizes.base, base.len() as u64);
            assert_eq!(sizes.result, out.len() as u64 - 6);
            assert!(sizes.result <= MOST);
        }
        Err(_) => assert_eq!(out, b"before"),
    }
    let _ = EntryHeader::parse(delta, HashKind::Sha1);
    let _ = EntryHeader::parse(delta, HashKind::Sha256);
}
