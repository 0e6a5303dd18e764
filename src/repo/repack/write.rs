use std::{
    collections::HashMap,
    fs::File,
    io::{Read, Write},
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicBool},
};

use gix::{
    hash::{Kind as HashKind, ObjectId},
    objs::Kind,
};

use super::{RepackError, check, error::Trouble};
use crate::{
    pack::{
        Checksum, Deflater, EntryHeader, EntryKind, IndexEntry, PACK_HEADER_LEN, apply_delta, encode_delta,
        pack_header, write_entry_header, write_index, write_rev,
    },
    repo::{
        LooseReader, Odb,
        deltas::{Found, Loader, NONE, Objects},
        ingest::create_read_only,
        loose_path,
        mmap::Mmap,
    },
};

const DOING: &str = "write the new pack";
const BUFFER: usize = 1 << 20;
/// Loose objects above this many bytes are compressed piece by piece.
const BIG: u64 = 8 << 20;
const PIECE: usize = 128 << 10;

/// A pack that was written under a temporary name, and what belongs to it.
pub(super) struct NewPack {
    pub(super) file: File,
    pub(super) path: PathBuf,
    pub(super) trailer: ObjectId,
    pub(super) idx: Vec<u8>,
    pub(super) rev: Vec<u8>,
    pub(super) bytes: u64,
    /// Deltas, and those among them that were copied.
    pub(super) deltas: u32,
    pub(super) reused: u32,
}

/// Where the pack goes and how.
pub(super) struct Target<'a> {
    pub(super) path: &'a Path,
    pub(super) objects_dir: &'a Path,
    pub(super) level: i32,
    pub(super) write_reverse: bool,
}

/// Writes all objects: commits, tags, trees, blobs; among them the newest first, but a base before its deltas.
pub(super) fn write(
    objects: &Objects,
    found: &HashMap<u32, Found>,
    odb: &Odb,
    target: &Target<'_>,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(u64),
) -> Result<NewPack, Trouble> {
    let file = create_read_only(target.path).map_err(RepackError::io("create", target.path))?;
    let mut writer = Writer {
        objects,
        found,
        target,
        loader: Loader::new(odb),
        deflater: Deflater::new(target.level),
        output: Output {
            file,
            path: target.path,
            buffer: Vec::with_capacity(BUFFER + PIECE),
            hasher: Checksum::new(odb.hash_kind()),
            crc: crc32fast::Hasher::new(),
            position: 0,
        },
        offsets: vec![0; objects.items.len()],
        crcs: vec![0; objects.items.len()],
        deltas: 0,
        reused: 0,
        scratch: Vec::new(),
        stop,
    };
    let count = objects.items.len() as u32;
    writer.output.write(&pack_header(count))?;
    let mut order: Vec<u32> = (0..count).collect();
    order.sort_unstable_by_key(|number| {
        let item = objects.item(*number);
        (rank(item.kind), item.recency, *number)
    });
    for (done, number) in order.iter().enumerate() {
        if done % 256 == 0 {
            check(stop)?;
            progress(done as u64);
        }
        writer.with_bases(*number)?;
    }
    writer.finish(order, odb.hash_kind())
}

fn rank(kind: Kind) -> u8 {
    match kind {
        Kind::Commit => 0,
        Kind::Tag => 1,
        Kind::Tree => 2,
        Kind::Blob => 3,
    }
}

struct Writer<'a> {
    objects: &'a Objects,
    found: &'a HashMap<u32, Found>,
    target: &'a Target<'a>,
    loader: Loader,
    deflater: Deflater,
    output: Output<'a>,
    /// Where each object begins; 0 for what is not written yet.
    offsets: Vec<u64>,
    crcs: Vec<u32>,
    deltas: u32,
    reused: u32,
    scratch: Vec<u8>,
    stop: &'a AtomicBool,
}

impl Writer<'_> {
    fn base_of(&self, number: u32) -> Option<u32> {
        let item = self.objects.item(number);
        match self.found.get(&number) {
            Some(found) => Some(found.base),
            None => (item.base != NONE).then_some(item.base),
        }
    }

    fn with_bases(&mut self, number: u32) -> Result<(), Trouble> {
        let mut waiting = vec![number];
        while let Some(number) = waiting.last().copied() {
            if self.offsets[number as usize] != 0 {
                waiting.pop();
                continue;
            }
            match self.base_of(number) {
                Some(base) if self.offsets[base as usize] == 0 => {
                    if waiting.len() > self.objects.items.len() {
                        let why = "deltas form a circle";
                        return Err(RepackError::Unsound { why }.into());
                    }
                    waiting.push(base);
                }
                _ => {
                    self.one(number)?;
                    waiting.pop();
                }
            }
        }
        Ok(())
    }

    /// Writes one object whose base, if it has one, is written.
    fn one(&mut self, number: u32) -> Result<(), Trouble> {
        let item = self.objects.item(number);
        let here = self.output.begin();
        if let Some(found) = self.found.get(&number) {
            self.deltas += 1;
            self.made(number, found, here)?;
        } else if item.base != NONE {
            self.deltas += 1;
            self.reused += 1;
            let distance = here - self.offsets[item.base as usize];
            let (header, bytes) = self.objects.entry(number)?;
            self.header(EntryKind::OfsDelta { distance }, header.size)?;
            self.output.write(&bytes[header.header_len..])?;
        } else if item.pack != NONE && !item.was_delta {
            let (_, bytes) = self.objects.entry(number)?;
            self.output.write(bytes)?;
        } else if item.pack == NONE && item.size > BIG {
            self.big(number)?;
        } else {
            let data = self.loader.load(self.objects, number)?;
            let mut packed = std::mem::take(&mut self.scratch);
            packed.clear();
            self.deflater.deflate(&data, &mut packed);
            self.header(item.kind.into(), data.len() as u64)?;
            self.output.write(&packed)?;
            self.scratch = packed;
        }
        self.crcs[number as usize] = self.output.crc.clone().finalize();
        self.offsets[number as usize] = here;
        Ok(())
    }

    fn header(&mut self, kind: EntryKind, size: u64) -> Result<(), RepackError> {
        let mut head = Vec::with_capacity(EntryHeader::MAX_LEN);
        write_entry_header(kind, size, &mut head);
        self.output.write(&head)
    }

    /// Writes a delta that was found, which is made again if it was too large to be kept.
    fn made(&mut self, number: u32, found: &Found, here: u64) -> Result<(), Trouble> {
        let distance = here - self.offsets[found.base as usize];
        self.header(EntryKind::OfsDelta { distance }, found.len as u64)?;
        if let Some(packed) = &found.packed {
            return Ok(self.output.write(packed)?);
        }
        let base: Arc<Vec<u8>> = self.loader.load(self.objects, found.base)?;
        let data = self.loader.load(self.objects, number)?;
        let (mut delta, mut again) = (Vec::new(), Vec::new());
        // Without a bound: one decides whether there is a delta and never how it looks, but counts bytes that a later match may still take back.
        let same = encode_delta(&base, &data, usize::MAX, &mut delta)
            && delta.len() == found.len
            && apply_delta(&base, &delta, data.len() as u64, &mut again).is_ok()
            && again == *data;
        if !same {
            let why = "a delta is not the same a second time";
            return Err(RepackError::Unsound { why }.into());
        }
        let mut packed = Vec::new();
        self.deflater.deflate(&delta, &mut packed);
        Ok(self.output.write(&packed)?)
    }

    /// Writes a loose object without ever holding it.
    fn big(&mut self, number: u32) -> Result<(), Trouble> {
        let item = self.objects.item(number);
        let trouble = || Trouble::Loose(item.id);
        let path = loose_path(self.target.objects_dir, &item.id);
        let mut reader = LooseReader::open(path).ok().flatten().ok_or_else(trouble)?;
        let mut hasher = gix::hash::hasher(item.id.kind());
        hasher.update(&gix::objs::encode::loose_header(item.kind, item.size));
        self.header(item.kind.into(), item.size)?;
        self.deflater.reset();
        let (mut piece, mut packed) = (vec![0; PIECE], Vec::new());
        loop {
            check(self.stop)?;
            let n = reader.read(&mut piece).map_err(|_| trouble())?;
            hasher.update(&piece[..n]);
            packed.clear();
            self.deflater.feed(&piece[..n], n == 0, &mut packed);
            self.output.write(&packed)?;
            if n == 0 {
                break;
            }
        }
        match hasher.try_finalize() {
            Ok(id) if id == item.id => Ok(()),
            _ => Err(trouble()),
        }
    }

    fn finish(mut self, order: Vec<u32>, hash: HashKind) -> Result<NewPack, Trouble> {
        drop(order);
        self.output.drain()?;
        let trailer = self.output.hasher.finish();
        let (file, path) = (self.output.file, self.output.path);
        (&file)
            .write_all(trailer.as_slice())
            .map_err(RepackError::io(DOING, path))?;
        let items = &self.objects.items;
        let entries: Vec<IndexEntry> = (items.iter().zip(&self.offsets).zip(&self.crcs))
            .map(|((item, offset), crc32)| IndexEntry {
                oid: item.id,
                offset: *offset,
                crc32: *crc32,
            })
            .collect();
        let mut positions: Vec<u32> = (0..items.len() as u32).collect();
        positions.sort_unstable_by_key(|number| self.offsets[*number as usize]);
        let map = Mmap::of(&file).map_err(RepackError::io("map", path))?;
        reread(&map, &entries, &positions, hash, self.stop)?;
        let bytes = map.len() as u64;
        drop(map);
        let (mut idx, mut rev) = (Vec::new(), Vec::new());
        let in_memory = |err| RepackError::io("write the index of", path)(err);
        write_index(&entries, &trailer, hash, &mut idx).map_err(in_memory)?;
        if self.target.write_reverse {
            write_rev(&positions, &trailer, hash, &mut rev).map_err(in_memory)?;
        }
        Ok(NewPack {
            file,
            path: path.to_owned(),
            trailer,
            idx,
            rev,
            bytes,
            deltas: self.deltas,
            reused: self.reused,
        })
    }
}

/// Whether the file holds the entries that its index will name, one behind the other without a hole.
fn reread(
    map: &[u8],
    entries: &[IndexEntry],
    positions: &[u32],
    hash: HashKind,
    stop: &AtomicBool,
) -> Result<(), RepackError> {
    let end = map.len().saturating_sub(hash.len_in_bytes()) as u64;
    let mut at = PACK_HEADER_LEN as u64;
    for (nth, position) in positions.iter().enumerate() {
        if nth % 1024 == 0 {
            check(stop)?;
        }
        let entry = &entries[*position as usize];
        let next = positions
            .get(nth + 1)
            .map_or(end, |next| entries[*next as usize].offset);
        let whole = (entry.offset == at)
            .then(|| map.get(at as usize..next as usize))
            .flatten();
        if whole.is_none_or(|bytes| crc32fast::hash(bytes) != entry.crc32) {
            return Err(RepackError::Unsound {
                why: "an entry was not written as it should be",
            });
        }
        at = next;
    }
    Ok(())
}

struct Output<'a> {
    file: File,
    path: &'a Path,
    buffer: Vec<u8>,
    hasher: Checksum,
    /// Of the present entry.
    crc: crc32fast::Hasher,
    position: u64,
}

impl Output<'_> {
    /// Begins an entry: says where.
    fn begin(&mut self) -> u64 {
        self.crc.reset();
        self.position
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), RepackError> {
        self.crc.update(bytes);
        self.hasher.update(bytes);
        self.position += bytes.len() as u64;
        // What is mapped and large is written from where it is.
        if bytes.len() >= BUFFER {
            self.drain()?;
            return self.file.write_all(bytes).map_err(RepackError::io(DOING, self.path));
        }
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= BUFFER {
            self.drain()?;
        }
        Ok(())
    }

    fn drain(&mut self) -> Result<(), RepackError> {
        self.file
            .write_all(&self.buffer)
            .map_err(RepackError::io(DOING, self.path))?;
        self.buffer.clear();
        Ok(())
    }
}
