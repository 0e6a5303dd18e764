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

mod deltas;

use std::{
    io::{Read, Write},
    sync::{Arc, atomic::AtomicBool},
};

use gix::{hash::ObjectId, objs::Kind};

use super::{
    ObjectSet, SendError,
    anew::Anew,
    marks::Id,
    places::{Entries, Place, Run, sent_to},
    sink::Sink,
    walk::{IdMap, IdSet},
};
use crate::{
    pack::{Deflater, EntryHeader, EntryKind, PACK_HEADER_LEN, pack_header, write_entry_header},
    repo::{Location, Odb, Pack, encoded::Encoded, loose::object_id},
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
    /// Those among them that are deltas, as far as that was looked at: a pack that is sent as it is was not looked into.
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
/// In an answer of so few objects, whole entries of so many bytes in their pack are made deltas where the receiver has something like them: a large answer is copied.
const FEW: u32 = 1_000;
const WORTH_A_DELTA: std::ops::RangeInclusive<usize> = 512..=1 << 20;
/// A chain of bases longer than this is taken for a circle.
const MAX_CHAIN: usize = 10_000;

/// Writes the objects of `set` as one pack. `odb` is the view that the set was made from, and so were the deltas of `anew`. `progress` is told how many objects were written so far.
///
/// # Errors
/// `Write` when the receiver is gone. `Corrupt` and `Odb` when an object turns out to be damaged; what was written before is then no valid pack.
pub fn write_pack(
    odb: &Odb,
    set: &ObjectSet,
    options: &PackOptions,
    anew: Anew,
    out: &mut dyn Write,
    progress: &mut dyn FnMut(u32),
    stop: &AtomicBool,
) -> Result<PackStats, SendError> {
    let mirror = mirror_of(set, options)?;
    if let Some(pack) = mirror.as_ref().filter(|_| set.had.is_empty()) {
        return as_it_is(odb, pack, out, progress, stop);
    }
    let mut writer = PackWriter {
        odb,
        set,
        options,
        anew,
        sink: Sink::new(out, mirror, stop),
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

/// Sends a pack of the repository whole. Its entries are not looked at: the checksum at its end goes with it, so the receiver sees any damage. (Where the receiver has
/// objects already, deltas that name their base by id are looked at, see above.)
fn as_it_is(
    odb: &Odb,
    pack: &Arc<Pack>,
    out: &mut dyn Write,
    progress: &mut dyn FnMut(u32),
    stop: &AtomicBool,
) -> Result<PackStats, SendError> {
    let objects = pack.index()?.len();
    let data = pack.data()?;
    let end = data.len() - pack.hash_kind().len_in_bytes();
    let mut sink = Sink::new(out, Some(pack.clone()), stop);
    sink.start(&data[..PACK_HEADER_LEN], odb)?;
    sink.copy(&data[PACK_HEADER_LEN..end])?;
    progress(objects);
    Ok(PackStats {
        objects,
        reused: objects,
        bytes: sink.finish()?,
        ..PackStats::default()
    })
}

struct PackWriter<'a> {
    odb: &'a Odb,
    set: &'a ObjectSet,
    options: &'a PackOptions,
    anew: Anew,
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

enum Action {
    /// Copy the entry as it is.
    Verbatim,
    /// Copy its compressed bytes behind another header.
    Header(EntryKind),
    /// Compress the object anew.
    Encode,
    /// Send a delta against what the receiver has in its place, if that is small; otherwise copy the entry.
    Thin,
    /// Send the delta that was made of it, on the object that begins here in the output.
    Made(u64),
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
    /// The index has a sum for it.
    checked: bool,
}

impl<'p> Entry<'p> {
    fn new(pack: &'p Pack, rank: u32, place: Place) -> Result<Self, SendError> {
        let bytes = pack.data()?.get(place.start as usize..place.end as usize);
        let intact = match (bytes, place.crc) {
            (Some(bytes), Some(crc)) => crc == crc32fast::hash(bytes),
            (bytes, _) => bytes.is_some(),
        };
        let header = bytes
            .filter(|_| intact)
            .and_then(|bytes| Some((EntryHeader::parse(bytes, pack.hash_kind()).ok()?, bytes)));
        Ok(Entry {
            pack,
            rank,
            pos: place.pos,
            offset: place.start,
            bytes: header,
            checked: place.crc.is_some(),
        })
    }

    /// Whether the sum of the entry says that the object is whole. It says nothing of what a delta is based on.
    fn is_all_checked(&self) -> bool {
        self.checked && self.bytes.is_some_and(|(header, _)| !header.kind.is_delta())
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
        let mut places = Vec::new();
        loop {
            entries.next(&pack, &mut places)?;
            if places.is_empty() {
                return self.flush(data);
            }
            for place in &places {
                self.entry(&pack, data, rank, *place)?;
            }
        }
    }

    fn entry(&mut self, pack: &Pack, data: &[u8], rank: u32, place: Place) -> Result<(), SendError> {
        let id = Id(self.set.numbering.range(rank).start + place.pos);
        if !self.ahead.is_empty() && self.ahead.contains_key(&id) {
            return Ok(());
        }
        let entry = Entry::new(pack, rank, place)?;
        match (self.action(&entry)?, entry.bytes) {
            (Action::Verbatim, Some((header, _))) => {
                self.verbatim(rank, data, place.start, place.end)?;
                self.count(Some(header))
            }
            (Action::After(_), _) => {
                self.flush(data)?;
                self.after_its_bases(id)
            }
            (action, _) => {
                self.flush(data)?;
                self.runs[rank as usize].push(Run {
                    start: place.start,
                    end: place.start + 1,
                    to: self.sink.position(),
                });
                self.send(&entry, action)
            }
        }
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
            (action, bytes) => {
                let place = Location::Packed {
                    pack: entry.rank,
                    pos: entry.pos,
                };
                let id = self.set.numbering.packed(entry.rank, entry.pos);
                let oid = entry.pack.oid(entry.pos)?;
                match (action, id, bytes) {
                    (Action::Made(to), Some(id), _) => self.made(place, &oid, id, to)?,
                    (Action::Thin, Some(id), Some((header, bytes))) => {
                        if !self.thin_delta(place, &oid, id, entry.is_all_checked())? {
                            self.sink.write(bytes)?;
                            return self.count(Some(header));
                        }
                    }
                    _ => self.encode(place, &oid, id, entry.is_all_checked())?,
                }
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
                if let Some(base) = self.unsent_base(id)?.filter(|_| waiting.len() < MAX_CHAIN) {
                    waiting.push(base);
                    continue;
                }
                self.ahead.insert(id, self.sink.position());
                let number = id
                    .loose()
                    .expect("because an object without a place in a pack is loose");
                self.one_loose(id, &set.numbering.loose()[number])?;
                waiting.pop();
                continue;
            };
            let pack = &set.packs[rank as usize];
            let entry = Entry::new(pack, rank, Place::of(pack, pos)?)?;
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
        let id = self.set.numbering.packed(entry.rank, entry.pos);
        if let Some(made) = id.and_then(|id| self.anew.delta(id)) {
            return Ok(match self.sent(made.base)? {
                Some(to) => Action::Made(to),
                None => Action::After(made.base),
            });
        }
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
                _ if self.options.thin
                    && self.set.len() <= FEW
                    && WORTH_A_DELTA.contains(&(entry.bytes.map_or(0, |(_, bytes)| bytes.len())))
                    && id.is_some_and(|id| self.set.similar.contains_key(&id)) =>
                {
                    return Ok(Action::Thin);
                }
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
            match id {
                Some(id) if self.unsent_base(id)?.is_some() => self.after_its_bases(id)?,
                Some(id) => {
                    // What is based on it later asks where it is.
                    if !self.anew.is_empty() {
                        self.ahead.insert(id, self.sink.position());
                    }
                    self.one_loose(id, &oid)?;
                }
                None => {
                    self.encode(Location::Loose, &oid, None, false)?;
                    self.count(None)?;
                }
            }
        }
        Ok(())
    }

    /// What has to be sent before the delta that was made of an object.
    fn unsent_base(&self, id: Id) -> Result<Option<Id>, SendError> {
        match self.anew.delta(id) {
            Some(made) if self.sent(made.base)?.is_none() => Ok(Some(made.base)),
            _ => Ok(None),
        }
    }

    /// Sends a loose object. The base of the delta that was made of it, if one was, has been sent.
    fn one_loose(&mut self, id: Id, oid: &ObjectId) -> Result<(), SendError> {
        let base = match self.anew.delta(id) {
            Some(made) => self.sent(made.base)?,
            None => None,
        };
        match base {
            Some(to) => self.made(Location::Loose, oid, id, to)?,
            None => match self.anew.take_whole(id) {
                Some(whole) => {
                    let mut header = Vec::new();
                    write_entry_header(whole.kind.into(), whole.len as u64, &mut header);
                    self.sink.write(&header)?;
                    self.sink.write(&whole.packed)?;
                }
                None => self.encode(Location::Loose, oid, Some(id), false)?,
            },
        }
        self.count(None)
    }

    /// Sends an object compressed anew. Unless `intact`, its content is compared with its id.
    fn encode(&mut self, location: Location, oid: &ObjectId, id: Option<Id>, intact: bool) -> Result<(), SendError> {
        // A small answer to who has something like it is made for him.
        let is_for_all = !self.options.thin || id.is_none_or(|id| !self.set.similar.contains_key(&id));
        if is_for_all && self.recalled(oid)? {
            return Ok(());
        }
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
        self.put(location, oid, id, (kind, &data))?;
        self.scratch = data;
        if self.scratch.capacity() as u64 > BIG {
            self.scratch = Vec::new();
        }
        Ok(())
    }

    /// Sends what an object holds, and keeps it for the next answer as it was sent.
    fn put(
        &mut self,
        location: Location,
        oid: &ObjectId,
        id: Option<Id>,
        (kind, data): (Kind, &[u8]),
    ) -> Result<(), SendError> {
        let (mut packed, size) = (Vec::new(), data.len() as u64);
        let (base, len, head) = match self.as_delta(location, id, (kind, data), &mut packed)? {
            Some(made) => (made.is_sent.then_some(made.base), made.len, made.head),
            None => {
                packed.reserve(data.len() / 2 + 64);
                write_entry_header(kind.into(), size, &mut packed);
                let head = packed.len();
                self.deflater.deflate(data, &mut packed);
                (None, data.len(), head)
            }
        };
        self.sink.write(&packed)?;
        // A delta on what the receiver has is nothing for others.
        if base.is_some() || len == data.len() {
            let packed = Some(packed[head..].into());
            self.odb.keep_encoded(
                *oid,
                Encoded {
                    kind,
                    size,
                    base,
                    len,
                    packed,
                },
            );
        }
        Ok(())
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
pub(super) fn is_whole(oid: &ObjectId, kind: Kind, data: &[u8]) -> bool {
    object_id(oid.kind(), kind, data) == *oid
}
