use std::{fs::File, os::unix::fs::FileExt, path::PathBuf, sync::MutexGuard};

use gix::{
    hash::{Kind as HashKind, ObjectId},
    objs::Kind,
};

use super::{
    IngestError,
    check::{Existing, Job, Names, code_of, compute_id, kind_of},
    intake::Sink,
    quarantine::{NewPack, Quarantine},
    scan::Scan,
};
use crate::{
    pack::{
        Checksum, Deflater, EntryHeader, EntryKind, IndexEntry, StreamInflater, pack_header, write_entry_header,
        write_index, write_rev,
    },
    repo::mmap::Mmap,
};

/// A received pack whose bytes can be looked at.
pub(super) enum Received {
    Memory(Vec<u8>),
    File(Mmap, File, PathBuf),
}

impl Received {
    pub(super) fn new(sink: Sink) -> Result<Self, IngestError> {
        match sink {
            Sink::Memory(bytes) => Ok(Received::Memory(bytes)),
            Sink::File { file, path } => {
                let map = Mmap::of(&file).map_err(IngestError::io("map a pack in the quarantine", &path))?;
                Ok(Received::File(map, file, path))
            }
        }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Received::Memory(bytes) => bytes,
            Received::File(map, ..) => map,
        }
    }
}

/// Appends the whole objects that deltas of a thin pack are against, so that the pack stands alone, and gives it the header and trailer it then needs.
/// Returns the pack, its new trailer, and how many objects were appended.
pub(super) fn complete(
    received: Received,
    scan: &mut Scan,
    names: &mut Names,
    bases: &[ObjectId],
    existing: &mut dyn Existing,
    level: i32,
    job: &Job<'_>,
) -> Result<(Received, ObjectId, u32), IngestError> {
    let hash = job.hash;
    let raw = hash.len_in_bytes() as u64;
    let count = u32::try_from(bases.len())
        .ok()
        .and_then(|more| scan.entries().checked_add(more))
        .ok_or(IngestError::TooManyObjects {
            count: u32::MAX,
            limit: u32::MAX,
        })?;
    let mut offset = scan.offsets.pop().unwrap_or_default();
    let mut tail = Tail::new(received, offset)?;
    let mut deflater = Deflater::new(level);
    let (mut data, mut entry) = (Vec::new(), Vec::new());
    for id in bases {
        let size = existing.header(id)?.map_or(0, |(_, size)| size);
        // As it is and deflated, which may be no smaller.
        let room = job.room(size.saturating_mul(2), &mut || ())?;
        let kind = existing
            .read(id, &mut data)?
            .ok_or(IngestError::CorruptBase { id: *id })?;
        if compute_id(hash, kind, &data) != Some(*id) {
            return Err(IngestError::CorruptBase { id: *id });
        }
        entry.clear();
        write_entry_header(EntryKind::from(kind), data.len() as u64, &mut entry);
        deflater.deflate(&data, &mut entry);
        names.set(scan.entries(), kind, id);
        scan.offsets.push(offset);
        scan.crcs.push(crc32fast::hash(&entry));
        offset += entry.len() as u64;
        tail.append(&entry)?;
        if room.is_some() {
            (data, entry) = (Vec::new(), Vec::new());
        }
    }
    scan.offsets.push(offset);
    debug_assert_eq!(tail.end() + raw, offset + raw);
    let (received, trailer) = tail.close(count, hash)?;
    Ok((received, trailer, bases.len() as u32))
}

/// A pack to which entries are appended where its trailer was.
enum Tail {
    Memory(Vec<u8>),
    File {
        file: File,
        path: PathBuf,
        at: u64,
        buffer: Vec<u8>,
    },
}

impl Tail {
    fn new(received: Received, at: u64) -> Result<Self, IngestError> {
        Ok(match received {
            Received::Memory(mut bytes) => {
                bytes.truncate(at as usize);
                Tail::Memory(bytes)
            }
            Received::File(map, file, path) => {
                // The file is about to change.
                drop(map);
                file.set_len(at)
                    .map_err(IngestError::io("shorten a pack in the quarantine", &path))?;
                Tail::File {
                    file,
                    path,
                    at,
                    buffer: Vec::new(),
                }
            }
        })
    }

    fn end(&self) -> u64 {
        match self {
            Tail::Memory(bytes) => bytes.len() as u64,
            Tail::File { at, buffer, .. } => at + buffer.len() as u64,
        }
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), IngestError> {
        match self {
            Tail::Memory(held) => held.extend_from_slice(bytes),
            Tail::File { buffer, .. } => {
                buffer.extend_from_slice(bytes);
                if buffer.len() > 256 << 10 {
                    self.flush()?;
                }
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), IngestError> {
        if let Tail::File { file, path, at, buffer } = self {
            file.write_all_at(buffer, *at)
                .map_err(IngestError::io("write a pack to the quarantine", &*path))?;
            *at += buffer.len() as u64;
            buffer.clear();
        }
        Ok(())
    }

    /// Writes the header for `count` entries and the trailer, in one pass over the bytes.
    fn close(mut self, count: u32, hash: HashKind) -> Result<(Received, ObjectId), IngestError> {
        self.flush()?;
        let header = pack_header(count);
        match self {
            Tail::Memory(mut bytes) => {
                bytes[..header.len()].copy_from_slice(&header);
                let trailer = Checksum::of(hash, &bytes);
                bytes.extend_from_slice(trailer.as_slice());
                Ok((Received::Memory(bytes), trailer))
            }
            Tail::File { file, path, at, .. } => {
                let doing = "write a pack to the quarantine";
                file.write_all_at(&header, 0).map_err(IngestError::io(doing, &path))?;
                let map = Mmap::of(&file).map_err(IngestError::io("map a pack in the quarantine", &path))?;
                let trailer = Checksum::of(hash, &map);
                drop(map);
                file.write_all_at(trailer.as_slice(), at)
                    .map_err(IngestError::io(doing, &path))?;
                Ok((Received::new(Sink::File { file, path })?, trailer))
            }
        }
    }
}

/// The ids of a pack, sorted, with their kinds.
#[derive(Debug, Clone)]
pub(super) struct Sorted {
    raw: usize,
    ids: Vec<u8>,
    kinds: Vec<u8>,
}

impl Sorted {
    /// The kind of the object of this id, if the pack has it.
    pub(super) fn kind_of(&self, id: &ObjectId) -> Option<Kind> {
        let key = id.as_slice();
        let (mut low, mut high) = (0, self.kinds.len());
        while low < high {
            let middle = low + (high - low) / 2;
            match self.ids[middle * self.raw..(middle + 1) * self.raw].cmp(key) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => return kind_of(self.kinds[middle]),
            }
        }
        None
    }

    pub(super) fn ids(&self) -> impl ExactSizeIterator<Item = ObjectId> + '_ {
        self.ids.chunks_exact(self.raw).map(ObjectId::from_bytes_or_panic)
    }
}

/// Entries in the order of their ids, and an entry whose id another one has too.
pub(super) fn sort(names: &Names, entries: u32, hash: HashKind) -> (Vec<u32>, Sorted, Option<ObjectId>) {
    let id_of = |entry: u32| names.get(entry).map_or(hash.null(), |(_, id)| id);
    let mut order: Vec<(u64, u32)> = (0..entries)
        .map(|entry| {
            let id = id_of(entry);
            let mut prefix = [0u8; 8];
            prefix.copy_from_slice(&id.as_slice()[..8]);
            (u64::from_be_bytes(prefix), entry)
        })
        .collect();
    order.sort_unstable_by(|a, b| {
        a.0.cmp(&b.0)
            .then_with(|| id_of(a.1).cmp(&id_of(b.1)))
            .then_with(|| a.1.cmp(&b.1))
    });
    let mut sorted = Sorted {
        raw: hash.len_in_bytes(),
        ids: Vec::with_capacity(order.len() * hash.len_in_bytes()),
        kinds: Vec::with_capacity(order.len()),
    };
    let (mut twice, mut last) = (None, None);
    for (_, entry) in &order {
        if let Some((kind, id)) = names.get(*entry) {
            sorted.ids.extend_from_slice(id.as_slice());
            sorted.kinds.push(code_of(kind));
            if last == Some(id) {
                twice = Some(id);
            }
            last = Some(id);
        }
    }
    (order.into_iter().map(|(_, entry)| entry).collect(), sorted, twice)
}

/// Gives a whole pack its indices and its place in the quarantine.
pub(super) fn place(
    quarantine: &mut Quarantine,
    received: Received,
    scan: &Scan,
    names: &Names,
    order: &[u32],
    trailer: &ObjectId,
    write_reverse: bool,
) -> Result<(), IngestError> {
    let hash = trailer.kind();
    let entries: Vec<IndexEntry> = order
        .iter()
        .map(|&entry| IndexEntry {
            oid: names.get(entry).map_or(hash.null(), |(_, id)| id),
            offset: scan.offsets[entry as usize],
            crc32: scan.crcs[entry as usize],
        })
        .collect();
    let in_memory = |source| IngestError::Io {
        doing: "write an index",
        path: PathBuf::new(),
        source,
    };
    let mut idx = Vec::with_capacity(1100 + entries.len() * (hash.len_in_bytes() + 8));
    write_index(&entries, trailer, hash, &mut idx).map_err(in_memory)?;
    drop(entries);
    let mut rev = Vec::new();
    if write_reverse {
        let mut positions = vec![0u32; order.len()];
        for (position, entry) in order.iter().enumerate() {
            positions[*entry as usize] = position as u32;
        }
        rev.reserve(64 + order.len() * 4);
        write_rev(&positions, trailer, hash, &mut rev).map_err(in_memory)?;
    }
    let stem = format!("pack-{}", trailer.to_hex());
    let pack = match &received {
        Received::Memory(bytes) => NewPack::Bytes(bytes),
        Received::File(_, file, path) => {
            let file = file
                .try_clone()
                .map_err(IngestError::io("use a pack in the quarantine", path))?;
            NewPack::Grown(file, path.clone())
        }
    };
    quarantine.add_pack(&stem, pack, &idx, &rev)
}

/// Compares blobs too large to hold twice with the ones of the same id that are here.
pub(super) fn compare_streamed(
    job: &Job<'_>,
    pack: &[u8],
    scan: &Scan,
    existing: &mut dyn Existing,
) -> Result<(), IngestError> {
    let entries = std::mem::take(&mut *job.recheck.lock().unwrap_or_else(|e| e.into_inner()));
    for entry in entries {
        let Some((kind, id)) = lock(job).get(entry) else {
            continue;
        };
        let size = existing.header(&id)?.map_or(0, |(_, size)| size);
        let _room = job.room(size, &mut || ())?;
        let mut theirs = Vec::new();
        if existing.read(&id, &mut theirs)? != Some(kind) {
            return Err(IngestError::Collision { id });
        }
        let offset = scan.offsets[entry as usize];
        let bad = |err: crate::pack::FormatError| IngestError::entry(offset, err.to_string());
        let bytes = pack
            .get(offset as usize..scan.offsets[entry as usize + 1] as usize)
            .ok_or_else(|| IngestError::entry(offset, "outside of the pack"))?;
        let header = EntryHeader::parse(bytes, job.hash).map_err(bad)?;
        let mut rest = &bytes[header.header_len..];
        let mut left = &theirs[..];
        let mut stream = StreamInflater::new();
        let mut buf = vec![0u8; 64 << 10];
        loop {
            job.check_stop()?;
            let step = stream.step(rest, &mut buf).map_err(bad)?;
            rest = &rest[step.consumed..];
            left = left
                .strip_prefix(&buf[..step.written])
                .ok_or(IngestError::Collision { id })?;
            if step.done {
                break;
            }
            if step.consumed == 0 && step.written == 0 {
                return Err(IngestError::entry(offset, "the stream ends early"));
            }
        }
        if !left.is_empty() {
            return Err(IngestError::Collision { id });
        }
    }
    Ok(())
}

pub(super) fn lock<'j>(job: &'j Job<'_>) -> MutexGuard<'j, Names> {
    job.names.lock().unwrap_or_else(|e| e.into_inner())
}

/// Writes one object as git writes loose ones: one zlib stream over head and contents.
pub(super) fn loose(deflater: &mut Deflater, kind: Kind, data: &[u8], out: &mut Vec<u8>) {
    out.clear();
    deflater.reset();
    deflater.feed(&gix::objs::encode::loose_header(kind, data.len() as u64), false, out);
    deflater.feed(data, true, out);
}
