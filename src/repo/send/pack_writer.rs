//! The pack that holds a set of objects, copied wherever it can be.
//!
//! What cannot be copied is compressed anew: in a thin pack as a delta against what the receiver has under the same name, if there is something.
//!
//! Entries leave pack by pack in the order in which they lie there, so that neighbours are copied as one run and a base mostly precedes its deltas. An entry
//! of the repository keeps its delta when the receiver will be able to resolve it: the base is sent too, or (thin) is known to be had.
//!
//! Why deltas never form a circle although an object may have other bases in other packs: a delta against a base that is sent goes out after its base, always.
//! Where the base lies further on, or its canonical copy in another pack, it is sent ahead of its turn. An object whose bases lead back to
//! itself is found on that way and sent whole. So a base is also always named by its distance if the receiver understands that,
//! and by id only what is not in the pack: `git index-pack` gives up on a thin pack in which the base of a delta by id is both in
//! the pack as another delta and at the receiver already.

use std::{
    io::{Read, Write},
    sync::{Arc, atomic::AtomicBool},
};

use gix::{hash::ObjectId, objs::Kind};

use super::{
    ObjectSet, SendError,
    marks::Id,
    sink::Sink,
    walk::{IdMap, IdSet},
};
use crate::{
    pack::{
        Checksum, Deflater, EntryHeader, EntryKind, PACK_HEADER_LEN, encode_delta, pack_header, write_entry_header,
    },
    repo::{Location, Odb, Pack},
};

/// How a pack is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackOptions {
    /// The receiver understands deltas that name their base by distance.
    pub ofs_delta: bool,
    /// Deltas may be based on objects that the receiver has and that are not in the pack.
    pub thin: bool,
    /// Zlib level of what has to be compressed anew: 0–9, −1 for zlib's default.
    pub compression: i32,
}

impl Default for PackOptions {
    fn default() -> Self {
        PackOptions {
            ofs_delta: true,
            thin: false,
            compression: -1,
        }
    }
}

/// What a pack consists of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PackStats {
    /// Objects in the pack.
    pub objects: u32,
    /// Those among them that are deltas.
    pub deltas: u32,
    /// Deltas that were made anew.
    pub new_deltas: u32,
    /// Those that were copied from packs as they lie there.
    pub reused: u32,
    /// Bytes, header and trailer included.
    pub bytes: u64,
}

/// Objects above this many bytes are recompressed piece by piece.
const BIG: u64 = 16 << 20;
/// Bytes that are checked before they are sent: few enough to be still in the processor's cache the second time.
const PIECE: u64 = 256 << 10;
/// Bytes of objects that are made deltas here.
const DELTA_SIZES: std::ops::RangeInclusive<usize> = 64..=4 << 20;
/// A chain of bases longer than this is taken for a circle.
const MAX_CHAIN: usize = 10_000;

/// Writes the objects of `set` as one pack. `odb` is the view that the set was made from. `progress` is told how many objects were written so far.
///
/// # Errors
/// `Write` when the receiver is gone. `Corrupt` and `Odb` when an object turns out to be damaged; what was written before is then no valid pack.
pub fn write_pack(
    odb: &Odb,
    set: &ObjectSet,
    options: &PackOptions,
    out: &mut dyn Write,
    progress: &mut dyn FnMut(u32),
    stop: &AtomicBool,
) -> Result<PackStats, SendError> {
    let mut writer = PackWriter {
        odb,
        set,
        options,
        sink: Sink::new(out, mirror_of(set, options)?, stop),
        progress,
        runs: vec![Vec::new(); set.packs.len()],
        ahead: IdMap::default(),
        pending: None,
        deflater: Deflater::new(options.compression),
        scratch: Vec::new(),
        stats: PackStats::default(),
    };
    writer.sink.start(&pack_header(set.len()), odb)?;
    for rank in 0..set.packs.len() {
        writer.pack(rank as u32)?;
    }
    writer.loose()?;
    let mut stats = writer.stats;
    stats.bytes = writer.sink.finish()?;
    Ok(stats)
}

/// The pack that the output will be equal to if nothing has to be changed on the way: then its trailer is ours too, and nothing needs hashing.
fn mirror_of(set: &ObjectSet, options: &PackOptions) -> Result<Option<Arc<Pack>>, SendError> {
    if !options.ofs_delta || set.is_empty() {
        return Ok(None);
    }
    for (rank, pack) in set.packs.iter().enumerate() {
        let chosen = set.chosen.count_in(set.numbering.range(rank as u32));
        if chosen == 0 {
            continue;
        }
        let same = chosen == set.len() && chosen == pack.index()?.len();
        let header = pack.data()?.get(..PACK_HEADER_LEN) == Some(&pack_header(chosen)[..]);
        return Ok((same && header).then(|| pack.clone()));
    }
    Ok(None)
}

struct PackWriter<'a> {
    odb: &'a Odb,
    set: &'a ObjectSet,
    options: &'a PackOptions,
    sink: Sink<'a>,
    progress: &'a mut dyn FnMut(u32),
    /// For each pack what was sent of it, in the order of offsets.
    runs: Vec<Vec<Run>>,
    /// What was sent ahead of its turn, and where it begins in the output.
    ahead: IdMap<u64>,
    /// Bytes of the present pack that were decided upon and not yet copied.
    pending: Option<(u64, u64)>,
    deflater: Deflater,
    scratch: Vec<u8>,
    stats: PackStats,
}

/// A stretch of a pack and where it begins in the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    start: u64,
    end: u64,
    to: u64,
}

enum Action {
    /// Copy the entry as it is.
    Verbatim,
    /// Copy its compressed bytes behind another header.
    Header(EntryKind),
    /// Compress the object anew.
    Encode,
    /// Send this one first, then decide again.
    After(Id),
}

/// An entry of a pack.
struct Entry<'p> {
    pack: &'p Pack,
    rank: u32,
    pos: u32,
    offset: u64,
    /// All of the entry, if it is what it was when the index was written.
    bytes: Option<(EntryHeader, &'p [u8])>,
}

impl<'p> Entry<'p> {
    fn new(pack: &'p Pack, rank: u32, pos: u32, range: (u64, u64)) -> Result<Self, SendError> {
        let bytes = pack.data()?.get(range.0 as usize..range.1 as usize);
        let intact = match (bytes, pack.index()?.crc32(pos)) {
            (Some(bytes), Some(crc)) => crc == crc32fast::hash(bytes),
            (bytes, _) => bytes.is_some(),
        };
        let header = bytes
            .filter(|_| intact)
            .and_then(|bytes| Some((EntryHeader::parse(bytes, pack.hash_kind()).ok()?, bytes)));
        Ok(Entry {
            pack,
            rank,
            pos,
            offset: range.0,
            bytes: header,
        })
    }
}

impl PackWriter<'_> {
    fn pack(&mut self, rank: u32) -> Result<(), SendError> {
        let range = self.set.numbering.range(rank);
        if self.set.chosen.count_in(range.clone()) == 0 {
            return Ok(());
        }
        let pack = self.set.packs[rank as usize].clone();
        let data = pack.data()?;
        let mut entries = Entries::of(&pack, self.set, range.clone())?;
        while let Some((offset, end, pos)) = entries.next(&pack)? {
            let id = Id(range.start + pos);
            if !self.ahead.is_empty() && self.ahead.contains_key(&id) {
                continue;
            }
            let entry = Entry::new(&pack, rank, pos, (offset, end))?;
            match (self.action(&entry)?, entry.bytes) {
                (Action::Verbatim, Some((header, _))) => {
                    self.verbatim(rank, data, offset, end)?;
                    self.count(Some(header))?;
                }
                (Action::After(_), _) => {
                    self.flush(data)?;
                    self.after_its_bases(id)?;
                }
                (action, _) => {
                    self.flush(data)?;
                    self.runs[rank as usize].push(Run {
                        start: offset,
                        end: offset + 1,
                        to: self.sink.position(),
                    });
                    self.send(&entry, action)?;
                }
            }
        }
        self.flush(data)
    }

    fn count(&mut self, copied: Option<EntryHeader>) -> Result<(), SendError> {
        self.stats.objects += 1;
        if let Some(header) = copied {
            self.stats.reused += 1;
            self.stats.deltas += u32::from(header.kind.is_delta());
        }
        if self.stats.objects.is_multiple_of(1024) {
            (self.progress)(self.stats.objects);
        }
        Ok(())
    }

    /// Where the next entry begins in the output.
    fn position(&self) -> u64 {
        self.sink.position() + self.pending.map_or(0, |(start, end)| end - start)
    }

    fn verbatim(&mut self, rank: u32, data: &[u8], offset: u64, end: u64) -> Result<(), SendError> {
        let to = self.position();
        let runs = &mut self.runs[rank as usize];
        match runs.last_mut() {
            Some(run) if run.end == offset && run.to + (run.end - run.start) == to => run.end = end,
            _ => runs.push(Run { start: offset, end, to }),
        }
        match &mut self.pending {
            Some((_, stop)) if *stop == offset => *stop = end,
            _ => {
                self.flush(data)?;
                self.pending = Some((offset, end));
            }
        }
        if self.pending.is_some_and(|(start, end)| end - start >= PIECE) {
            self.flush(data)?;
        }
        Ok(())
    }

    fn flush(&mut self, data: &[u8]) -> Result<(), SendError> {
        match self.pending.take() {
            Some((start, end)) => self.sink.copy(&data[start as usize..end as usize]),
            None => Ok(()),
        }
    }

    /// Sends an entry by itself.
    fn send(&mut self, entry: &Entry<'_>, action: Action) -> Result<(), SendError> {
        match (action, entry.bytes) {
            (Action::Verbatim, Some((header, bytes))) => {
                self.sink.write(bytes)?;
                self.count(Some(header))
            }
            (Action::Header(kind), Some((header, bytes))) => {
                self.scratch.clear();
                write_entry_header(kind, header.size, &mut self.scratch);
                self.sink.write(&self.scratch)?;
                self.sink.write(&bytes[header.header_len..])?;
                self.count(Some(header))
            }
            _ => {
                let place = Location::Packed {
                    pack: entry.rank,
                    pos: entry.pos,
                };
                let id = self.set.numbering.packed(entry.rank, entry.pos);
                self.encode(place, &entry.pack.oid(entry.pos)?, id, entry.bytes.is_some())?;
                self.count(None)
            }
        }
    }

    /// Sends an object, and before it whatever of its bases is to be sent and was not yet. Nothing is pending when this is called.
    fn after_its_bases(&mut self, id: Id) -> Result<(), SendError> {
        let set = self.set;
        let (mut waiting, mut is_waiting) = (vec![id], IdSet::default());
        while let Some(id) = waiting.last().copied() {
            let Some((rank, pos)) = set.numbering.place(id) else {
                // Loose objects have no bases.
                self.ahead.insert(id, self.sink.position());
                let number = id
                    .loose()
                    .expect("because an object without a place in a pack is loose");
                self.encode(Location::Loose, &set.numbering.loose()[number], Some(id), false)?;
                self.count(None)?;
                waiting.pop();
                continue;
            };
            let pack = &set.packs[rank as usize];
            let offset = pack.index()?.offset(pos);
            let entry = Entry::new(pack, rank, pos, (offset, pack.end_offset(pos)?))?;
            let mut action = self.action(&entry)?;
            if let Action::After(base) = action {
                if waiting.len() < MAX_CHAIN && !is_waiting.contains(&base) && base != id {
                    is_waiting.insert(id);
                    waiting.push(base);
                    continue;
                }
                // It leads back to itself.
                action = Action::Encode;
            }
            self.ahead.insert(id, self.sink.position());
            self.send(&entry, action)?;
            waiting.pop();
        }
        Ok(())
    }

    /// What to do with an entry.
    fn action(&self, entry: &Entry<'_>) -> Result<Action, SendError> {
        let base = match entry.bytes {
            // Not what it was when the index was written. Another copy may be better; reading it checks what it is.
            None => return Ok(Action::Encode),
            Some((header, _)) => match header.kind {
                EntryKind::OfsDelta { distance } => {
                    let Some(base) = entry.offset.checked_sub(distance) else {
                        return Ok(Action::Encode);
                    };
                    if self.options.ofs_delta
                        && let Some(to) = sent_to(&self.runs[entry.rank as usize], base)
                    {
                        let now = self.position() - to;
                        return Ok(if now == distance {
                            Action::Verbatim
                        } else {
                            Action::Header(EntryKind::OfsDelta { distance: now })
                        });
                    }
                    match entry.pack.pos_at_offset(base)? {
                        Some(pos) => entry.pack.oid(pos)?,
                        None => return Ok(Action::Encode),
                    }
                }
                EntryKind::RefDelta { base } => base,
                _ => return Ok(Action::Verbatim),
            },
        };
        let Some(base_id) = self.set.id(self.odb, &base)? else {
            return Ok(Action::Encode);
        };
        let by_id = Action::Header(EntryKind::RefDelta { base });
        if self.set.chosen.contains(base_id) {
            return Ok(match self.sent(base_id)? {
                None => Action::After(base_id),
                Some(to) if self.options.ofs_delta => Action::Header(EntryKind::OfsDelta {
                    distance: self.position() - to,
                }),
                Some(_) => by_id,
            });
        }
        if self.options.thin && self.set.had.contains(base_id) && self.client_has(&base)? {
            return Ok(by_id);
        }
        Ok(Action::Encode)
    }

    /// Under a filter a client may lack objects that its commits reach.
    fn client_has(&self, base: &ObjectId) -> Result<bool, SendError> {
        let Some(filter) = &self.set.filter else {
            return Ok(true);
        };
        let Some((kind, _)) = self.odb.header(base)? else {
            return Ok(false);
        };
        Ok(filter.client_has(kind))
    }

    /// Where in the output an object is, if it was sent already.
    fn sent(&self, id: Id) -> Result<Option<u64>, SendError> {
        if let Some(to) = self.ahead.get(&id) {
            return Ok(Some(*to));
        }
        let Some((pack, pos)) = self.set.numbering.place(id) else {
            return Ok(None);
        };
        let offset = self.set.packs[pack as usize].index()?.offset(pos);
        Ok(sent_to(&self.runs[pack as usize], offset))
    }

    fn loose(&mut self) -> Result<(), SendError> {
        for number in self.set.chosen.loose() {
            let oid = self.set.numbering.loose()[number];
            let id = self.set.numbering.known_loose_id(&oid);
            if !self.ahead.is_empty() && id.is_some_and(|id| self.ahead.contains_key(&id)) {
                continue;
            }
            self.encode(Location::Loose, &oid, id, false)?;
            self.count(None)?;
        }
        Ok(())
    }

    /// What the receiver has in the place of an object, if a delta may be based on it; and whether our copy is known to be intact.
    fn similar(&self, id: Id) -> Result<Option<(ObjectId, bool)>, SendError> {
        let set = self.set;
        let Some(base) = set.similar.get(&id).filter(|_| self.options.thin) else {
            return Ok(None);
        };
        if set.chosen.contains(*base) || !set.had.contains(*base) {
            return Ok(None);
        }
        let (oid, intact) = match (set.numbering.place(*base), base.loose()) {
            (Some((rank, pos)), _) => {
                let pack = &set.packs[rank as usize];
                let range = (pack.index()?.offset(pos), pack.end_offset(pos)?);
                (pack.oid(pos)?, Entry::new(pack, rank, pos, range)?.bytes.is_some())
            }
            // Loose objects are compared with their ids when they are read.
            (None, Some(number)) => (set.numbering.loose()[number], true),
            (None, None) => return Ok(None),
        };
        Ok(self.client_has(&oid)?.then_some((oid, intact)))
    }

    /// Encodes an object as a delta against what the receiver has in its place, if that makes it much smaller.
    fn as_delta(&mut self, id: Id, kind: Kind, data: &[u8], packed: &mut Vec<u8>) -> Result<bool, SendError> {
        if !DELTA_SIZES.contains(&data.len()) {
            return Ok(false);
        }
        let Some((base, intact)) = self.similar(id)? else {
            return Ok(false);
        };
        let mut base_data = Vec::new();
        match self.odb.header(&base)? {
            Some((base_kind, size)) if base_kind == kind && size <= *DELTA_SIZES.end() as u64 => {
                self.odb.read(&base, &mut base_data)?;
            }
            _ => return Ok(false),
        }
        // The receiver applies the delta to what has this id.
        if !intact && !is_whole(&base, kind, &base_data) {
            return Ok(false);
        }
        let mut delta = Vec::new();
        if !encode_delta(&base_data, data, data.len() / 2, &mut delta) {
            return Ok(false);
        }
        write_entry_header(EntryKind::RefDelta { base }, delta.len() as u64, packed);
        self.deflater.deflate(&delta, packed);
        self.stats.deltas += 1;
        self.stats.new_deltas += 1;
        Ok(true)
    }

    /// Sends an object compressed anew. `intact` when its entry is what it was when the index was written; otherwise its content is compared with its id.
    fn encode(&mut self, location: Location, oid: &ObjectId, id: Option<Id>, intact: bool) -> Result<(), SendError> {
        if location == Location::Loose && self.big_loose(oid)? {
            return Ok(());
        }
        let mut data = std::mem::take(&mut self.scratch);
        let kind = self.odb.read_at(location, oid, &mut data)?;
        // A loose object was compared with its id when it was read.
        if !intact && location != Location::Loose && !is_whole(oid, kind, &data) {
            return Err(SendError::Corrupt {
                oid: *oid,
                why: "its content does not have this id",
            });
        }
        let mut packed = Vec::new();
        let done = match id {
            Some(id) => self.as_delta(id, kind, &data, &mut packed)?,
            None => false,
        };
        if !done {
            packed.reserve(data.len() / 2 + 64);
            write_entry_header(kind.into(), data.len() as u64, &mut packed);
            self.deflater.deflate(&data, &mut packed);
        }
        self.scratch = data;
        if self.scratch.capacity() as u64 > BIG {
            self.scratch = Vec::new();
        }
        self.sink.write(&packed)
    }

    /// Sends a loose object piece by piece if it is big.
    fn big_loose(&mut self, oid: &ObjectId) -> Result<bool, SendError> {
        let Some(mut reader) = self.odb.open_loose(oid)? else {
            return Ok(false);
        };
        if reader.size() <= BIG {
            return Ok(false);
        }
        let (kind, size): (Kind, u64) = (reader.kind(), reader.size());
        let damaged = || SendError::Corrupt {
            oid: *oid,
            why: "its content does not have this id",
        };
        let mut hasher = gix::hash::hasher(self.odb.hash_kind());
        hasher.update(&gix::objs::encode::loose_header(kind, size));
        let mut packed = Vec::new();
        write_entry_header(kind.into(), size, &mut packed);
        self.deflater.reset();
        let mut piece = vec![0; 128 << 10];
        loop {
            let n = reader.read(&mut piece).map_err(|_| damaged())?;
            hasher.update(&piece[..n]);
            self.deflater.feed(&piece[..n], n == 0, &mut packed);
            self.sink.write(&packed)?;
            packed.clear();
            if n == 0 {
                break;
            }
        }
        match hasher.try_finalize() {
            Ok(actual) if actual == *oid => Ok(true),
            _ => Err(damaged()),
        }
    }
}

/// Whether an object of ours is what it was when it came in. It was looked at for attacks on its hash then.
fn is_whole(oid: &ObjectId, kind: Kind, data: &[u8]) -> bool {
    let mut checksum = Checksum::new(oid.kind());
    checksum.update(&gix::objs::encode::loose_header(kind, data.len() as u64));
    checksum.update(data);
    checksum.finish() == *oid
}

/// Where the entry at `offset` begins in the output.
fn sent_to(runs: &[Run], offset: u64) -> Option<u64> {
    let run = match runs.last() {
        Some(run) if run.start <= offset => run,
        _ => runs.get(runs.partition_point(|run| run.start <= offset).checked_sub(1)?)?,
    };
    (offset < run.end).then(|| run.to + (offset - run.start))
}

/// The chosen entries of a pack in the order of offsets: offset, end, position in the index.
enum Entries {
    /// Many: go through all of the pack's. `next` is the number of the next one, `at` its position.
    Dense {
        next: u32,
        chosen: Vec<u64>,
    },
    Few(std::vec::IntoIter<(u64, u32)>),
}

impl Entries {
    fn of(pack: &Pack, set: &ObjectSet, range: std::ops::Range<u32>) -> Result<Self, SendError> {
        let len = range.len();
        if set.chosen.count_in(range.clone()) as usize > len / 16 {
            let mut chosen = vec![0u64; len.div_ceil(64)];
            for Id(id) in set.chosen.in_range(range.clone()) {
                let pos = (id - range.start) as usize;
                chosen[pos / 64] |= 1 << (pos % 64);
            }
            return Ok(Entries::Dense { next: 0, chosen });
        }
        let index = pack.index()?;
        let mut few: Vec<(u64, u32)> = set
            .chosen
            .in_range(range.clone())
            .map(|Id(id)| (index.offset(id - range.start), id - range.start))
            .collect();
        few.sort_unstable();
        Ok(Entries::Few(few.into_iter()))
    }

    fn next(&mut self, pack: &Pack) -> Result<Option<(u64, u64, u32)>, SendError> {
        match self {
            Entries::Few(few) => match few.next() {
                Some((offset, pos)) => Ok(Some((offset, pack.end_offset(pos)?, pos))),
                None => Ok(None),
            },
            Entries::Dense { next, chosen } => {
                while let Some(pos) = pack.nth(*next)? {
                    *next += 1;
                    if chosen[pos as usize / 64] >> (pos % 64) & 1 == 0 {
                        continue;
                    }
                    let index = pack.index()?;
                    let end = match pack.nth(*next)? {
                        Some(following) => index.offset(following),
                        None => (pack.data()?.len() - pack.hash_kind().len_in_bytes()) as u64,
                    };
                    return Ok(Some((index.offset(pos), end, pos)));
                }
                Ok(None)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sent_is_found_by_its_offset() {
        let runs = [
            Run {
                start: 12,
                end: 100,
                to: 12,
            },
            Run {
                start: 150,
                end: 151,
                to: 100,
            },
            Run {
                start: 300,
                end: 400,
                to: 120,
            },
        ];
        assert_eq!(sent_to(&runs, 12), Some(12));
        assert_eq!(sent_to(&runs, 99), Some(99));
        assert_eq!(sent_to(&runs, 100), None);
        assert_eq!(sent_to(&runs, 150), Some(100));
        assert_eq!(sent_to(&runs, 151), None);
        assert_eq!(sent_to(&runs, 310), Some(130));
        assert_eq!(sent_to(&runs, 400), None);
        assert_eq!(sent_to(&runs, 3), None);
        assert_eq!(sent_to(&[], 3), None);
    }
}
