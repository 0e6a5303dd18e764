//! Deltas that are made here, against what the receiver has or was sent.

use gix::{hash::ObjectId, objs::Kind};

use super::{Entry, PackWriter, is_whole};
use crate::{
    pack::{EntryHeader, EntryKind, encode_delta, write_entry_header},
    repo::{
        Location,
        encoded::Encoded,
        send::{
            SendError,
            marks::Id,
            places::{Place, sent_to},
        },
    },
};

/// Bytes of objects that are made deltas here.
const DELTA_SIZES: std::ops::RangeInclusive<usize> = 64..=4 << 20;
/// Bases beneath an entry that are looked at.
const MAX_BELOW: usize = 50;

impl PackWriter<'_> {
    /// Sends the delta that was made of an object, whose base begins at `to` in the output.
    pub(super) fn made(&mut self, place: Location, oid: &ObjectId, id: Id, to: u64) -> Result<(), SendError> {
        let Some(delta) = self.anew.delta(id) else {
            return self.encode(place, oid, Some(id), false);
        };
        let kind = if self.options.ofs_delta {
            EntryKind::OfsDelta {
                distance: self.position() - to,
            }
        } else {
            EntryKind::RefDelta {
                base: self.set.oid_of(delta.base)?,
            }
        };
        let mut entry = Vec::new();
        write_entry_header(kind, delta.len as u64, &mut entry);
        match &delta.packed {
            Some(packed) => {
                self.sink.write(&entry)?;
                self.sink.write(packed)?;
            }
            None => {
                let mut data = Vec::new();
                self.odb.read_at(place, oid, &mut data)?;
                let made = delta.again(self.odb, self.set, &data)?;
                // It was proved when it was made; what is read differently now is damaged.
                let Some(made) = made.filter(|made| made.len() == delta.len) else {
                    return self.encode(place, oid, Some(id), false);
                };
                self.deflater.deflate(&made, &mut entry);
                self.sink.write(&entry)?;
            }
        }
        self.stats.deltas += 1;
        self.stats.new_deltas += 1;
        Ok(())
    }

    /// Sends an object as a delta against what the receiver has in its place, if that makes it much smaller.
    pub(super) fn thin_delta(
        &mut self,
        place: Location,
        oid: &ObjectId,
        id: Id,
        intact: bool,
    ) -> Result<bool, SendError> {
        let mut data = std::mem::take(&mut self.scratch);
        let kind = self.odb.read_at(place, oid, &mut data)?;
        let mut packed = Vec::new();
        let done = (intact || is_whole(oid, kind, &data))
            && self.as_delta(place, Some(id), (kind, &data), &mut packed)?.is_some();
        self.scratch = data;
        if done {
            self.sink.write(&packed)?;
        }
        Ok(done)
    }

    /// Under a filter a client may lack objects that its commits reach.
    pub(super) fn client_has(&self, base: &ObjectId) -> Result<bool, SendError> {
        let Some(filter) = &self.set.filter else {
            return Ok(true);
        };
        let Some((kind, _)) = self.odb.header(base)? else {
            return Ok(false);
        };
        Ok(filter.client_has(kind))
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
                let entry = Entry::new(pack, rank, Place::of(pack, pos)?)?;
                (pack.oid(pos)?, entry.is_all_checked())
            }
            // Loose objects are compared with their ids when they are read.
            (None, Some(number)) => (set.numbering.loose()[number], true),
            (None, None) => return Ok(None),
        };
        Ok(self.client_has(&oid)?.then_some((oid, intact)))
    }

    /// The nearest of the bases of a packed object that was sent, and where it begins in the output: of an object whose own base is not sent that is an older
    /// version as a rule.
    fn sent_below(&self, location: Location) -> Result<Option<(ObjectId, u64)>, SendError> {
        let Location::Packed { pack: rank, pos } = location else {
            return Ok(None);
        };
        let pack = &self.set.packs[rank as usize];
        let mut at = pack.index()?.offset(pos);
        for _ in 0..MAX_BELOW {
            // What is damaged is read from elsewhere.
            let Ok((header, _)) = pack.entry_at(at) else { break };
            let base = match header.kind {
                EntryKind::OfsDelta { distance } => at.checked_sub(distance),
                EntryKind::RefDelta { base } => {
                    let index = pack.index()?;
                    index.lookup(&base).map(|pos| index.offset(pos))
                }
                _ => None,
            };
            let Some(base) = base else { break };
            at = base;
            if let Some(to) = sent_to(&self.runs[rank as usize], at)
                && let Ok(Some(pos)) = pack.pos_at_offset(at)
            {
                return Ok(Some((pack.oid(pos)?, to)));
            }
        }
        Ok(None)
    }

    /// Encodes an object as a delta against something that the receiver will have, if that makes it much smaller: what was sent already, or what the receiver has in
    /// its place.
    pub(super) fn as_delta(
        &mut self,
        location: Location,
        id: Option<Id>,
        (kind, data): (Kind, &[u8]),
        packed: &mut Vec<u8>,
    ) -> Result<Option<Against>, SendError> {
        if !DELTA_SIZES.contains(&data.len()) {
            return Ok(None);
        }
        let (base, intact, to) = match (self.sent_below(location)?, id) {
            (Some((base, to)), _) => (base, false, Some(to)),
            (None, Some(id)) => match self.similar(id)? {
                Some((base, intact)) => (base, intact, None),
                None => return Ok(None),
            },
            (None, None) => return Ok(None),
        };
        let mut base_data = Vec::new();
        match self.odb.header(&base)? {
            Some((base_kind, size)) if base_kind == kind && size <= *DELTA_SIZES.end() as u64 => {
                self.odb.read(&base, &mut base_data)?;
            }
            _ => return Ok(None),
        }
        // The receiver applies the delta to what has this id.
        if !intact && !is_whole(&base, kind, &base_data) {
            return Ok(None);
        }
        let mut delta = Vec::new();
        if !encode_delta(&base_data, data, data.len() / 2, &mut delta) {
            return Ok(None);
        }
        let kind = match to {
            Some(to) if self.options.ofs_delta => EntryKind::OfsDelta {
                distance: self.position() - to,
            },
            _ => EntryKind::RefDelta { base },
        };
        write_entry_header(kind, delta.len() as u64, packed);
        let head = packed.len();
        self.deflater.deflate(&delta, packed);
        self.stats.deltas += 1;
        self.stats.new_deltas += 1;
        Ok(Some(Against {
            base,
            is_sent: to.is_some(),
            len: delta.len(),
            head,
        }))
    }

    /// Sends what was made of an object for an earlier answer, if it fits this one.
    pub(super) fn recalled(&mut self, oid: &ObjectId) -> Result<bool, SendError> {
        let Some(Encoded {
            kind,
            base,
            len,
            packed: Some(packed),
            ..
        }) = self.odb.encoded(oid)
        else {
            return Ok(false);
        };
        let kind = match base {
            None => kind.into(),
            Some(base) => {
                let Some(id) = self.set.id(self.odb, &base)?.filter(|id| self.set.chosen.contains(*id)) else {
                    return Ok(false);
                };
                let Some(to) = self.sent(id)? else {
                    return Ok(false);
                };
                self.stats.deltas += 1;
                self.stats.new_deltas += 1;
                match self.options.ofs_delta {
                    true => EntryKind::OfsDelta {
                        distance: self.position() - to,
                    },
                    false => EntryKind::RefDelta { base },
                }
            }
        };
        let mut header = Vec::with_capacity(EntryHeader::MAX_LEN);
        write_entry_header(kind, len as u64, &mut header);
        self.sink.write(&header)?;
        self.sink.write(&packed)?;
        Ok(true)
    }
}

/// What a delta was made against, in bytes of an entry.
pub(super) struct Against {
    pub(super) base: ObjectId,
    /// It is part of the answer.
    pub(super) is_sent: bool,
    /// Bytes of the delta before it was compressed.
    pub(super) len: usize,
    /// Bytes of the entry before it.
    pub(super) head: usize,
}
