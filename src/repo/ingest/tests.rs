use std::{
    collections::HashMap,
    fs,
    io::Read,
    path::Path,
    sync::{Arc, atomic::AtomicBool},
};

use gix::{
    hash::{Kind as HashKind, ObjectId, hasher},
    objs::Kind,
};
use proptest::prelude::*;

use super::{
    check::{Checks, Existing, compute_id},
    *,
};
use crate::pack::{EntryKind, Index, deflate, pack_header, write_entry_header};

const SHA1: HashKind = HashKind::Sha1;

pub(super) fn id_of(kind: Kind, data: &[u8]) -> ObjectId {
    compute_id(SHA1, kind, data).expect("no attack in a test")
}

/// Writes packs, right or wrong.
pub(super) struct PackWriter {
    pub(super) bytes: Vec<u8>,
    pub(super) count: u32,
}

impl PackWriter {
    pub(super) fn new() -> Self {
        PackWriter {
            bytes: pack_header(0).to_vec(),
            count: 0,
        }
    }

    pub(super) fn add(&mut self, kind: EntryKind, data: &[u8]) -> u64 {
        self.add_claiming(kind, data.len() as u64, data)
    }

    pub(super) fn add_claiming(&mut self, kind: EntryKind, size: u64, data: &[u8]) -> u64 {
        let at = self.bytes.len() as u64;
        write_entry_header(kind, size, &mut self.bytes);
        deflate(data, 6, &mut self.bytes);
        self.count += 1;
        at
    }

    pub(super) fn finish(self) -> Vec<u8> {
        let count = self.count;
        self.finish_claiming(count)
    }

    pub(super) fn finish_claiming(mut self, count: u32) -> Vec<u8> {
        self.bytes[..12].copy_from_slice(&pack_header(count));
        let mut hashed = hasher(SHA1);
        hashed.update(&self.bytes);
        let trailer = hashed.try_finalize().expect("no attack");
        self.bytes.extend_from_slice(trailer.as_slice());
        self.bytes
    }
}

fn varint(mut n: usize, out: &mut Vec<u8>) {
    while n >= 0x80 {
        out.push((n & 0x7f) as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// A delta that copies what both have in front and behind, and inserts the rest.
pub(super) fn delta_of(base: &[u8], target: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    varint(base.len(), &mut out);
    varint(target.len(), &mut out);
    let front = base.iter().zip(target).take_while(|(a, b)| a == b).count();
    let room = base.len().min(target.len()) - front;
    let back = base
        .iter()
        .rev()
        .zip(target.iter().rev())
        .take(room)
        .take_while(|(a, b)| a == b)
        .count();
    let copy = |offset: usize, len: usize, out: &mut Vec<u8>| {
        for start in (0..len).step_by(0xffff) {
            let piece = (len - start).min(0xffff);
            out.push(0x80 | 0x3f);
            out.extend_from_slice(&((offset + start) as u32).to_le_bytes());
            out.extend_from_slice(&(piece as u16).to_le_bytes());
        }
    };
    copy(0, front, &mut out);
    for piece in target[front..target.len() - back].chunks(127) {
        out.push(piece.len() as u8);
        out.extend_from_slice(piece);
    }
    copy(base.len() - back, back, &mut out);
    out
}

#[derive(Clone, Default)]
pub(super) struct Here(pub(super) Arc<HashMap<ObjectId, (Kind, Vec<u8>)>>);

impl Existing for Here {
    fn header(&mut self, id: &ObjectId) -> Result<Option<(Kind, u64)>, IngestError> {
        Ok(self.0.get(id).map(|(kind, data)| (*kind, data.len() as u64)))
    }

    fn read(&mut self, id: &ObjectId, out: &mut Vec<u8>) -> Result<Option<Kind>, IngestError> {
        out.clear();
        Ok(self.0.get(id).map(|(kind, data)| {
            out.extend_from_slice(data);
            *kind
        }))
    }
}

pub(super) struct Bench {
    pub(super) dir: tempfile::TempDir,
    pub(super) here: Here,
    pub(super) limits: Limits,
    pub(super) threads: usize,
    pub(super) unpack_limit: u32,
    pub(super) max_bytes: u64,
    pub(super) strict: bool,
    pub(super) stop: AtomicBool,
}

impl Default for Bench {
    fn default() -> Self {
        Bench {
            dir: tempfile::tempdir().expect("a directory"),
            here: Here::default(),
            limits: Limits::default(),
            threads: 2,
            unpack_limit: 0,
            max_bytes: 0,
            strict: false,
            stop: AtomicBool::new(false),
        }
    }
}

struct RefuseTag;

impl Checks for RefuseTag {
    fn object(&mut self, kind: Kind, id: &ObjectId, _data: &[u8]) -> Result<(), IngestError> {
        match kind {
            Kind::Tag => Err(IngestError::Fsck {
                text: format!("object {id}: missingTag: no"),
            }),
            _ => Ok(()),
        }
    }

    fn done(self: Box<Self>) {}
}

impl Bench {
    pub(super) fn with(objects: &[(Kind, Vec<u8>)]) -> Self {
        let map = objects
            .iter()
            .map(|(kind, data)| (id_of(*kind, data), (*kind, data.clone())))
            .collect();
        Bench {
            here: Here(Arc::new(map)),
            ..Bench::default()
        }
    }

    pub(super) fn receive_from(&self, input: &mut dyn Read) -> Result<(IngestOutcome, Quarantine), IngestError> {
        let mut quarantine = Quarantine::below(self.dir.path());
        let existing = || Ok(Some(Box::new(self.here.clone()) as Box<dyn Existing>));
        let checks = || Some(Box::new(RefuseTag) as Box<dyn Checks>);
        let setup = Setup {
            hash: SHA1,
            limits: &self.limits,
            max_bytes: self.max_bytes,
            threads: self.threads,
            unpack_limit: self.unpack_limit,
            pack_level: 1,
            loose_level: 1,
            write_reverse: true,
            strict: self.strict,
            shallow: &[],
            stop: &self.stop,
            existing: &existing,
            checks: &checks,
        };
        let outcome = receive(&setup, &mut quarantine, input, &mut |_| {})?;
        Ok((outcome, quarantine))
    }

    pub(super) fn receive(&self, pack: &[u8]) -> Result<IngestOutcome, IngestError> {
        self.receive_from(&mut &pack[..]).map(|(outcome, _)| outcome)
    }

    /// The error of a pack that is refused, after which nothing is on disk.
    fn refuse(&self, pack: &[u8]) -> String {
        let error = self.receive(pack).expect_err("the pack is bad");
        assert_eq!(fs::read_dir(self.dir.path()).expect("readable").count(), 0);
        error.to_string()
    }
}

/// A reader that gives a few bytes at a time.
struct Dribble<'a>(&'a [u8], usize);

impl Read for Dribble<'_> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let take = self.0.len().min(self.1).min(buf.len());
        buf[..take].copy_from_slice(&self.0[..take]);
        self.0 = &self.0[take..];
        Ok(take)
    }
}

/// Every id, with the bytes that the index, the pack and the deltas say it has: an independent, slow reader.
fn read_back(dir: &Path, trailer: &ObjectId, here: &Here) -> HashMap<ObjectId, (Kind, Vec<u8>)> {
    let stem = dir.join("pack").join(format!("pack-{}", trailer.to_hex()));
    let pack = fs::read(stem.with_extension("pack")).expect("a pack");
    let idx = Index::parse(fs::read(stem.with_extension("idx")).expect("an index"), SHA1).expect("valid");
    assert_eq!(idx.pack_checksum(), *trailer);
    let mut hashed = hasher(SHA1);
    hashed.update(&pack[..pack.len() - 20]);
    assert_eq!(
        hashed.try_finalize().expect("fine").as_slice(),
        &pack[pack.len() - 20..]
    );
    assert_eq!(&pack[8..12], idx.len().to_be_bytes());
    let rev =
        crate::pack::Rev::parse(fs::read(stem.with_extension("rev")).expect("a rev"), idx.len(), SHA1).expect("valid");
    let by_offset: HashMap<u64, u32> = (0..idx.len()).map(|pos| (idx.offset(pos), pos)).collect();
    let mut ends: Vec<u64> = by_offset.keys().copied().collect();
    ends.sort();
    for (nth, offset) in ends.iter().enumerate() {
        let pos = rev.index_pos(nth as u32).expect("in range");
        assert_eq!(idx.offset(pos), *offset);
    }
    ends.push(pack.len() as u64 - 20);
    let _ = here;
    fn object(pack: &[u8], idx: &Index<Vec<u8>>, offset: u64) -> (Kind, Vec<u8>) {
        let bytes = &pack[offset as usize..];
        let header = crate::pack::EntryHeader::parse(bytes, SHA1).expect("valid");
        let mut data = Vec::new();
        crate::pack::Inflater::new()
            .inflate_exact(&bytes[header.header_len..], header.size as usize, &mut data)
            .expect("valid");
        let (kind, base) = match header.kind {
            EntryKind::OfsDelta { distance } => object(pack, idx, offset - distance),
            EntryKind::RefDelta { base } => {
                let pos = idx.lookup(&base).expect("the pack stands alone");
                object(pack, idx, idx.offset(pos))
            }
            other => return (other.object_kind().expect("whole"), data),
        };
        let mut out = Vec::new();
        crate::pack::apply_delta(&base, &data, 1 << 30, &mut out).expect("applies");
        (kind, out)
    }
    (0..idx.len())
        .map(|pos| {
            let start = idx.offset(pos);
            let end = ends[ends.binary_search(&start).expect("there") + 1];
            assert_eq!(
                idx.crc32(pos),
                Some(crc32fast::hash(&pack[start as usize..end as usize]))
            );
            let (kind, data) = object(&pack, &idx, start);
            let id = idx.oid(pos).to_owned();
            assert_eq!(id, id_of(kind, &data));
            (id, (kind, data))
        })
        .collect()
}

fn blob(n: usize) -> Vec<u8> {
    (0..200 + n % 50)
        .flat_map(|line| format!("line {line} of {}\n", n * (line % 7)).into_bytes())
        .collect()
}

fn sample() -> (Vec<u8>, Vec<(Kind, Vec<u8>)>) {
    let mut pack = PackWriter::new();
    let first = blob(1);
    let second = blob(2);
    let third = blob(3);
    let mut tree = b"100644 a\0".to_vec();
    tree.extend_from_slice(id_of(Kind::Blob, &first).as_slice());
    let commit = format!(
        "tree {}\nauthor A <a@b> 1 +0000\ncommitter A <a@b> 1 +0000\n\nx\n",
        id_of(Kind::Tree, &tree)
    );
    pack.add(EntryKind::Commit, commit.as_bytes());
    pack.add(EntryKind::Tree, &tree);
    let base = pack.add(EntryKind::Blob, &first);
    let at = pack.bytes.len() as u64;
    pack.add(EntryKind::OfsDelta { distance: at - base }, &delta_of(&first, &second));
    pack.add(
        EntryKind::RefDelta {
            base: id_of(Kind::Blob, &second),
        },
        &delta_of(&second, &third),
    );
    pack.add(EntryKind::Blob, b"");
    let objects = vec![
        (Kind::Commit, commit.into_bytes()),
        (Kind::Tree, tree),
        (Kind::Blob, first),
        (Kind::Blob, second),
        (Kind::Blob, third),
        (Kind::Blob, Vec::new()),
    ];
    (pack.finish(), objects)
}

#[test]
fn a_pack_is_indexed_as_it_is() {
    let (pack, objects) = sample();
    for threads in [1, 2] {
        let bench = Bench {
            threads,
            ..Bench::default()
        };
        let (outcome, quarantine) = bench.receive_from(&mut &pack[..]).expect("good");
        assert_eq!((outcome.objects, outcome.bytes), (6, pack.len() as u64));
        let trailer = outcome.pack.expect("a pack");
        let found = read_back(quarantine.objects_dir().expect("files"), &trailer, &bench.here);
        assert_eq!(found.len(), 6);
        for (kind, data) in &objects {
            let id = id_of(*kind, data);
            assert_eq!(found.get(&id), Some(&(*kind, data.clone())));
            assert_eq!(outcome.kind_of(&id), Some(*kind));
            assert!(outcome.is_whole(&id));
        }
        assert!(!outcome.is_whole(&id_of(Kind::Blob, b"elsewhere")));
        drop(quarantine.migrate().expect("migrated"));
        assert_eq!(read_back(bench.dir.path(), &trailer, &bench.here).len(), 6);
    }
}

#[test]
fn a_small_push_becomes_loose_objects() {
    let (pack, objects) = sample();
    let bench = Bench {
        unpack_limit: 100,
        ..Bench::default()
    };
    let (outcome, quarantine) = bench.receive_from(&mut &pack[..]).expect("good");
    assert_eq!(outcome.pack, None);
    drop(quarantine.migrate().expect("migrated"));
    for (kind, data) in &objects {
        let hex = id_of(*kind, data).to_hex().to_string();
        let file = fs::read(bench.dir.path().join(&hex[..2]).join(&hex[2..])).expect("loose");
        let mut whole = gix::objs::encode::loose_header(*kind, data.len() as u64).to_vec();
        whole.extend_from_slice(data);
        let mut out = Vec::new();
        let used = crate::pack::Inflater::new().inflate_exact(&file, whole.len(), &mut out);
        assert_eq!(used, Ok(file.len()));
        assert_eq!(out, whole);
        assert!(outcome.is_whole(&id_of(*kind, data)));
    }
    assert!(!bench.dir.path().join("pack").exists());
}

#[test]
fn an_empty_pack_is_a_pack() {
    let bench = Bench::default();
    let (outcome, quarantine) = bench.receive_from(&mut &PackWriter::new().finish()[..]).expect("good");
    assert_eq!((outcome.objects, outcome.pack), (0, None));
    drop(quarantine.migrate().expect("migrated"));
    assert_eq!(outcome.ids().count(), 0);
}

#[test]
fn a_pack_may_arrive_in_any_pieces() {
    let (pack, _) = sample();
    for step in [1, 2, 7, 100] {
        let bench = Bench::default();
        let (outcome, _quarantine) = bench.receive_from(&mut Dribble(&pack, step)).expect("good");
        assert_eq!(outcome.objects, 6);
    }
}

#[test]
fn a_pack_cut_anywhere_is_refused_and_leaves_nothing() {
    let (pack, _) = sample();
    for unpack_limit in [0, 100] {
        let bench = Bench {
            unpack_limit,
            ..Bench::default()
        };
        for cut in 0..pack.len() {
            let text = bench.refuse(&pack[..cut]);
            let wanted = if cut < 12 {
                "eof before pack header was fully read"
            } else {
                "early EOF"
            };
            assert_eq!(text, wanted, "{cut}");
        }
    }
}

#[test]
fn a_pack_with_any_bit_flipped_is_refused() {
    let (pack, _) = sample();
    let bench = Bench::default();
    for at in 0..pack.len() {
        let mut bad = pack.clone();
        bad[at] ^= 1 << (at % 8);
        bench.refuse(&bad);
    }
}

#[test]
fn git_says_what_is_wrong_in_these_words() {
    let (pack, _) = sample();
    let bench = Bench::default();
    assert_eq!(
        bench.refuse(b"JUNKJUNKJUNKJUNK"),
        "protocol error (pack signature mismatch detected)"
    );
    assert_eq!(
        bench.refuse(b"PACK\0\0\0\x04\0\0\0\0"),
        "protocol error (pack version unsupported)"
    );
    let mut junk = pack.clone();
    junk.push(0);
    assert_eq!(bench.refuse(&junk), "pack has junk at the end");
    let mut wrong = pack.clone();
    *wrong.last_mut().expect("not empty") ^= 1;
    assert_eq!(bench.refuse(&wrong), "pack is corrupted (SHA1 mismatch)");
    let small = Bench {
        max_bytes: 100,
        ..Bench::default()
    };
    assert_eq!(small.refuse(&pack), "pack exceeds maximum allowed size (100 bytes)");
}

#[test]
fn an_absurd_count_costs_nothing() {
    let bench = Bench {
        limits: Limits {
            pack_objects: u32::MAX,
            ..Limits::default()
        },
        ..Bench::default()
    };
    let mut pack = PackWriter::new();
    pack.add(EntryKind::Blob, b"x");
    assert!(!bench.refuse(&pack.finish_claiming(u32::MAX)).is_empty());
    let bench = Bench::default();
    let text = bench.refuse(&pack_header(u32::MAX));
    assert_eq!(text, "pack has 4294967295 objects, more than the 50000000 allowed");
}

#[test]
fn fewer_entries_than_the_header_says_and_more_are_both_refused() {
    let bench = Bench::default();
    let two = |count| {
        let mut pack = PackWriter::new();
        pack.add(EntryKind::Blob, b"x");
        pack.add(EntryKind::Blob, b"y");
        pack.finish_claiming(count)
    };
    bench.refuse(&two(1));
    bench.refuse(&two(3));
    bench.refuse(&two(0));
    bench.receive(&two(2)).expect("good");
}

#[test]
fn a_zlib_bomb_stops_at_the_size_it_declares() {
    let bench = Bench::default();
    for (claimed, real) in [
        (10u64, 50_000_000usize),
        (20 << 20, 50_000_000),
        (1000, 10),
        (20 << 20, 10),
    ] {
        let mut pack = PackWriter::new();
        pack.add_claiming(EntryKind::Blob, claimed, &vec![0; real]);
        let text = bench.refuse(&pack.finish());
        assert!(text.contains("inflated size") || text == "early EOF", "{text}");
    }
    let mut pack = PackWriter::new();
    pack.add_claiming(EntryKind::Blob, u64::MAX >> 1, b"x");
    assert_eq!(
        bench.refuse(&pack.finish()),
        "object at offset 12 exceeds maximum allowed size (1.00 GiB)"
    );
}

#[test]
fn large_blobs_stream_by_and_are_compared_with_what_is_here() {
    let large: Vec<u8> = (0..3_000_000u32).flat_map(|n| (n / 3).to_le_bytes()).collect();
    let mut pack = PackWriter::new();
    pack.add(EntryKind::Blob, &large);
    let pack = pack.finish();
    for unpack_limit in [0, 100] {
        let bench = Bench {
            unpack_limit,
            ..Bench::with(&[(Kind::Blob, large.clone())])
        };
        let (outcome, quarantine) = bench.receive_from(&mut &pack[..]).expect("good");
        let trailer = outcome.pack.expect("a pack, being large");
        assert_eq!(
            read_back(quarantine.objects_dir().expect("files"), &trailer, &bench.here).len(),
            1
        );
    }
    let mut other = large.clone();
    other[9_999_999] ^= 1;
    let map = HashMap::from([(id_of(Kind::Blob, &large), (Kind::Blob, other))]);
    let bench = Bench {
        here: Here(Arc::new(map)),
        ..Bench::default()
    };
    assert!(bench.refuse(&pack).starts_with("SHA1 COLLISION FOUND WITH "));
}

#[test]
fn an_id_that_is_here_with_other_bytes_is_a_collision() {
    let (pack, objects) = sample();
    for (kind, data) in &objects {
        let same = Bench::with(&[(*kind, data.clone())]);
        same.receive(&pack).expect("the same bytes");
        for (other_kind, other) in [(Kind::Tag, data.clone()), (*kind, [&data[..], b"!"].concat())] {
            let map = HashMap::from([(id_of(*kind, data), (other_kind, other))]);
            let bench = Bench {
                here: Here(Arc::new(map)),
                ..Bench::default()
            };
            let wanted = format!("SHA1 COLLISION FOUND WITH {} !", id_of(*kind, data));
            assert_eq!(bench.refuse(&pack), wanted);
        }
    }
}

#[test]
fn a_thin_pack_is_completed_with_our_objects() {
    let ours: Vec<_> = (0..20).map(|n| (Kind::Blob, blob(n))).collect();
    for (threads, unpack_limit) in [(1, 0), (2, 0), (1, 100)] {
        let bench = Bench {
            threads,
            unpack_limit,
            ..Bench::with(&ours)
        };
        let mut pack = PackWriter::new();
        // The second delta's base is made by the first one, and is here as well; it must not be stored twice.
        let changed = |n: usize| [&blob(n)[..], b"changed"].concat();
        pack.add(
            EntryKind::RefDelta {
                base: id_of(Kind::Blob, &blob(0)),
            },
            &delta_of(&blob(0), &blob(1)),
        );
        pack.add(
            EntryKind::RefDelta {
                base: id_of(Kind::Blob, &blob(1)),
            },
            &delta_of(&blob(1), &changed(1)),
        );
        for n in 5..15 {
            pack.add(
                EntryKind::RefDelta {
                    base: id_of(Kind::Blob, &blob(n)),
                },
                &delta_of(&blob(n), &changed(n)),
            );
        }
        let (outcome, quarantine) = bench.receive_from(&mut &pack.finish()[..]).expect("good");
        assert!(!outcome.is_whole(&id_of(Kind::Commit, b"")));
        if unpack_limit == 0 {
            let trailer = outcome.pack.expect("a pack");
            let found = read_back(quarantine.objects_dir().expect("files"), &trailer, &bench.here);
            assert_eq!(found.len() as u32, 12 + outcome.thin_bases);
            assert_eq!(outcome.thin_bases, 11);
        } else {
            assert_eq!((outcome.pack, outcome.thin_bases), (None, 0));
        }
        assert!(outcome.kind_of(&id_of(Kind::Blob, &changed(7))).is_some());
    }
}

#[test]
fn deltas_without_a_base_are_counted() {
    let bench = Bench::default();
    let mut pack = PackWriter::new();
    pack.add(
        EntryKind::RefDelta {
            base: id_of(Kind::Blob, b"nowhere"),
        },
        &delta_of(b"nowhere", b"x"),
    );
    assert_eq!(bench.refuse(&pack.finish()), "pack has 1 unresolved delta");
    // Each other's base.
    let mut pack = PackWriter::new();
    pack.add(
        EntryKind::RefDelta {
            base: id_of(Kind::Blob, b"bb"),
        },
        &delta_of(b"bb", b"aa"),
    );
    pack.add(
        EntryKind::RefDelta {
            base: id_of(Kind::Blob, b"aa"),
        },
        &delta_of(b"aa", b"bb"),
    );
    pack.add(EntryKind::Blob, b"x");
    assert_eq!(bench.refuse(&pack.finish()), "pack has 2 unresolved deltas");
}

#[test]
fn offsets_that_are_no_entry_are_refused() {
    let bench = Bench::default();
    for distance in [1u64, 5, 12, 1 << 40] {
        let mut pack = PackWriter::new();
        pack.add(EntryKind::Blob, b"some base");
        pack.add(EntryKind::OfsDelta { distance }, &delta_of(b"some base", b"x"));
        let text = bench.refuse(&pack.finish());
        assert!(text.ends_with("delta base offset is out of bound"), "{text}");
    }
}

#[test]
fn delta_bombs_are_bounded() {
    let mut bench = Bench::default();
    // A result larger than allowed.
    let mut pack = PackWriter::new();
    let base = vec![7; 0xff_ffff];
    let at = pack.add(EntryKind::Blob, &base);
    let mut delta = Vec::new();
    varint(base.len(), &mut delta);
    varint(base.len() * 64, &mut delta);
    for _ in 0..64 {
        delta.extend_from_slice(&[0x80 | 0x70, 0xff, 0xff, 0xff]);
    }
    let distance = pack.bytes.len() as u64 - at;
    pack.add(EntryKind::OfsDelta { distance }, &delta);
    let text = bench.refuse(&pack.finish());
    assert!(
        text.ends_with("failed to apply delta: delta result is larger than 536870912 bytes"),
        "{text}"
    );

    // A chain deeper than allowed.
    bench.limits.delta_depth = 50;
    let chain = |len: usize| {
        let mut pack = PackWriter::new();
        let mut last = pack.add(EntryKind::Blob, &blob(0));
        for n in 0..len {
            let distance = pack.bytes.len() as u64 - last;
            last = pack.add(EntryKind::OfsDelta { distance }, &delta_of(&blob(n), &blob(n + 1)));
        }
        pack.finish()
    };
    bench.receive(&chain(50)).expect("just allowed");
    assert!(bench.refuse(&chain(51)).ends_with("is longer than 50"));
}

#[test]
fn memory_that_was_given_up_is_made_again() {
    // A wide and deep tree of deltas, with no budget at all: every base but the one in hand is made anew.
    let mut objects: Vec<Vec<u8>> = vec![blob(0)];
    let mut pack = PackWriter::new();
    let mut places = vec![pack.add(EntryKind::Blob, &blob(0))];
    for n in 1..600 {
        let parent = if n % 3 == 0 { n / 2 } else { n - 1 };
        let distance = pack.bytes.len() as u64 - places[parent];
        let object = blob(n * 13);
        places.push(pack.add(EntryKind::OfsDelta { distance }, &delta_of(&objects[parent], &object)));
        objects.push(object);
    }
    let pack = pack.finish();
    for (threads, bytes) in [(1, 0), (2, 0), (2, 20_000), (2, 96 << 20)] {
        let mut bench = Bench {
            threads,
            ..Bench::default()
        };
        bench.limits.delta_base_cache_bytes = bytes;
        let (outcome, quarantine) = bench.receive_from(&mut &pack[..]).expect("good");
        let found = read_back(
            quarantine.objects_dir().expect("files"),
            &outcome.pack.expect("a pack"),
            &bench.here,
        );
        for object in &objects {
            assert!(found.contains_key(&id_of(Kind::Blob, object)));
        }
    }
}

#[test]
fn an_object_may_be_in_a_pack_twice_unless_we_are_strict() {
    let twice = || {
        let mut pack = PackWriter::new();
        pack.add(EntryKind::Blob, b"x");
        pack.add(EntryKind::Blob, b"base of something");
        pack.add(EntryKind::Blob, b"base of something");
        pack.add(
            EntryKind::RefDelta {
                base: id_of(Kind::Blob, b"base of something"),
            },
            &delta_of(b"base of something", b"base"),
        );
        pack.finish()
    };
    for unpack_limit in [0, 100] {
        let mut bench = Bench {
            unpack_limit,
            ..Bench::default()
        };
        bench.receive(&twice()).expect("taken");
        bench.strict = true;
        assert!(bench.refuse(&twice()).ends_with("appears twice in the pack"));
    }
}

#[test]
fn what_the_checks_refuse_is_refused_also_inside_of_deltas() {
    let bench = Bench::default();
    let mut pack = PackWriter::new();
    let at = pack.add(EntryKind::Commit, b"tree x");
    let distance = pack.bytes.len() as u64 - at;
    pack.add(EntryKind::OfsDelta { distance }, &delta_of(b"tree x", b"tree y"));
    bench.receive(&pack.finish()).expect("no tag in it");
    let mut pack = PackWriter::new();
    pack.add(EntryKind::Tag, b"bad");
    assert!(bench.refuse(&pack.finish()).ends_with(": missingTag: no"));
}

#[test]
fn a_pack_that_refers_to_what_it_lacks_is_not_whole() {
    let bench = Bench::default();
    let mut pack = PackWriter::new();
    let commit = format!("tree {}\n\n", id_of(Kind::Tree, b""));
    pack.add(EntryKind::Commit, commit.as_bytes());
    let outcome = bench.receive(&pack.finish()).expect("taken");
    assert!(!outcome.is_whole(&id_of(Kind::Commit, commit.as_bytes())));
    // There, but as another kind.
    let mut pack = PackWriter::new();
    pack.add(EntryKind::Commit, commit.as_bytes());
    let tree = format!("tree {}\n\n", id_of(Kind::Commit, commit.as_bytes()));
    pack.add(EntryKind::Commit, tree.as_bytes());
    let outcome = bench.receive(&pack.finish()).expect("taken");
    assert!(!outcome.is_whole(&id_of(Kind::Commit, tree.as_bytes())));
}

#[test]
fn a_stopped_ingest_ends() {
    let (pack, _) = sample();
    let bench = Bench::default();
    bench.stop.store(true, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(bench.refuse(&pack), "interrupted");
}

#[test]
fn forty_thousand_outside_bases_are_linear() {
    let ours: Vec<_> = (0..40_000u32)
        .map(|n| (Kind::Blob, format!("outside base number {n}").into_bytes()))
        .collect();
    let bench = Bench::with(&ours);
    let mut pack = PackWriter::new();
    for (_, data) in &ours {
        let target = [&data[..], b"+"].concat();
        pack.add(
            EntryKind::RefDelta {
                base: id_of(Kind::Blob, data),
            },
            &delta_of(data, &target),
        );
    }
    let pack = pack.finish();
    let start = std::time::Instant::now();
    let outcome = bench.receive(&pack).expect("good");
    assert_eq!(outcome.thin_bases, 40_000);
    let taken = start.elapsed();
    assert!(taken < std::time::Duration::from_secs(10), "{taken:?}");
}

/// What a random pack holds, entry by entry: bytes, and against which earlier or later entry it is a delta.
#[derive(Debug, Clone)]
struct Plan {
    objects: Vec<Vec<u8>>,
    bases: Vec<Option<(usize, bool)>>,
    outside: Vec<bool>,
}

fn plans() -> impl Strategy<Value = Plan> {
    (1usize..40)
        .prop_flat_map(|len| {
            (
                proptest::collection::vec(proptest::collection::vec(0u8..4, 0..300), len),
                proptest::collection::vec(
                    proptest::option::weighted(0.7, (any::<prop::sample::Index>(), any::<bool>())),
                    len,
                ),
                proptest::collection::vec(prop::bool::weighted(0.2), len),
            )
        })
        .prop_map(|(mut objects, bases, outside)| {
            for (n, object) in objects.iter_mut().enumerate() {
                object.extend_from_slice(&(n as u32).to_be_bytes());
            }
            let bases = bases
                .into_iter()
                .enumerate()
                .map(|(n, base)| base.filter(|_| n > 0).map(|(index, by_ref)| (index.index(n), by_ref)))
                .collect();
            Plan {
                objects,
                bases,
                outside,
            }
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_is_packed_is_found_again(plan in plans(), reverse in any::<bool>(), threads in 1usize..3, step in 1usize..5000) {
        let mut pack = PackWriter::new();
        let mut places: HashMap<usize, u64> = HashMap::new();
        let mut here = Vec::new();
        let all: Vec<usize> = if reverse { (0..plan.objects.len()).rev().collect() } else { (0..plan.objects.len()).collect() };
        let mut sent = Vec::new();
        for n in all {
            let object = &plan.objects[n];
            if plan.outside[n] {
                here.push((Kind::Blob, object.clone()));
                continue;
            }
            sent.push(n);
            let at = pack.bytes.len() as u64;
            match plan.bases[n] {
                None => pack.add(EntryKind::Blob, object),
                Some((base, by_ref)) => {
                    let delta = delta_of(&plan.objects[base], object);
                    match places.get(&base) {
                        Some(place) if !by_ref => pack.add(EntryKind::OfsDelta { distance: at - place }, &delta),
                        _ => pack.add(EntryKind::RefDelta { base: id_of(Kind::Blob, &plan.objects[base]) }, &delta),
                    }
                }
            };
            places.insert(n, at);
        }
        let bench = Bench { threads, ..Bench::with(&here) };
        let pack = pack.finish();
        let (outcome, quarantine) = bench.receive_from(&mut Dribble(&pack, step)).expect("good");
        if sent.is_empty() {
            prop_assert_eq!(outcome.pack, None);
        } else {
            let found = read_back(quarantine.objects_dir().expect("files"), &outcome.pack.expect("a pack"), &bench.here);
            prop_assert_eq!(found.len(), sent.len() + outcome.thin_bases as usize);
            for n in sent {
                let id = id_of(Kind::Blob, &plan.objects[n]);
                prop_assert_eq!(&found[&id].1, &plan.objects[n]);
            }
        }
    }

    #[test]
    fn arbitrary_bytes_are_refused_without_a_panic(tail in proptest::collection::vec(any::<u8>(), 0..300), count in 0u32..5, unpack_limit in prop::sample::select(vec![0u32, 100])) {
        let bench = Bench { unpack_limit, ..Bench::default() };
        let mut pack = pack_header(count).to_vec();
        pack.extend_from_slice(&tail);
        bench.refuse(&pack);
    }
}

/// The inputs that fuzzing starts from.
fn seeds() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let body = |pack: PackWriter| {
        let mut bytes = pack.finish();
        bytes.truncate(bytes.len() - 20);
        bytes
    };
    let how = |how: u8, bytes: &[u8]| [&[how], bytes].concat();
    let (pack, _) = sample();
    let whole = &pack[..pack.len() - 20];
    let mut thin = PackWriter::new();
    thin.add(
        EntryKind::RefDelta {
            base: id_of(Kind::Blob, fuzz::HERE),
        },
        &delta_of(fuzz::HERE, b"this blob is new"),
    );
    let mut cycle = PackWriter::new();
    for (base, target) in [(b"aa", b"bb"), (b"bb", b"aa")] {
        cycle.add(
            EntryKind::RefDelta {
                base: id_of(Kind::Blob, base),
            },
            &delta_of(base, target),
        );
    }
    let mut twice = PackWriter::new();
    twice.add(EntryKind::Blob, b"x");
    twice.add(EntryKind::Blob, b"x");
    let delta = delta_of(b"some base text", b"some other text");
    vec![
        ("pack", "mixed", how(1, whole)),
        ("pack", "mixed-loose", how(3, whole)),
        ("pack", "wrong-trailer", how(0, whole)),
        ("pack", "thin", how(1, &body(thin))),
        ("pack", "cycle", how(1, &body(cycle))),
        ("pack", "twice-strict", how(5, &body(twice))),
        ("pack", "empty", how(1, &body(PackWriter::new()))),
        ("delta", "plain", [&[14], &b"some base text"[..], &delta].concat()),
    ]
}

#[test]
fn the_corpus_breaks_no_law() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    if std::env::var_os("UPDATE_CORPUS").is_some() {
        for (target, name, bytes) in seeds() {
            fs::create_dir_all(corpus.join(target)).expect("created");
            fs::write(corpus.join(target).join(name), bytes).expect("written");
        }
    }
    let replay = |target: &str, law: fn(&[u8])| {
        let inputs = fs::read_dir(corpus.join(target)).expect("a corpus");
        let mut count = 0;
        for input in inputs {
            law(&fs::read(input.expect("readable").path()).expect("readable"));
            count += 1;
        }
        assert!(count > 0, "{target} has a corpus");
    };
    replay("pack", fuzz::pack);
    replay("delta", fuzz::delta);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn damaged_seeds_break_no_law(which in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<bool>()) {
        let seeds = seeds();
        let (target, _, mut bytes) = seeds[which.index(seeds.len())].clone();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if cut {
            bytes.truncate(at + 1);
        }
        match target {
            "pack" => fuzz::pack(&bytes),
            _ => fuzz::delta(&bytes),
        }
    }
}
