use std::{collections::HashMap, path::PathBuf, sync::Arc};

use gix::{
    hash::{ObjectId, oid},
    objs::Kind,
};

use super::{PathKey, Trouble};
use crate::{
    pack::{EntryHeader, Inflater},
    repo::{Location, LooseReader, Odb, Pack, loose::object_id},
};

/// No object, no pack.
pub(in crate::repo) const NONE: u32 = u32::MAX;

/// One object of a pack in the making.
#[derive(Debug, Clone)]
pub(in crate::repo) struct Item {
    pub(in crate::repo) id: ObjectId,
    /// The number of the pack it is taken from; [`NONE`] when it is loose.
    pub(in crate::repo) pack: u32,
    /// Its position in the index of that pack.
    pub(in crate::repo) pos: u32,
    pub(in crate::repo) kind: Kind,
    /// Bytes, inflated.
    pub(in crate::repo) size: u64,
    /// Whose delta it is and stays; [`NONE`] for what is whole or shall be made anew.
    pub(in crate::repo) base: u32,
    /// The longest chain of such deltas that ends in this object.
    pub(in crate::repo) height: u16,
    /// In its pack it is a delta, whatever becomes of it.
    pub(in crate::repo) was_delta: bool,
    /// What it becomes is known, and how many deltas lead from it to a whole object: others may be made of it.
    pub(in crate::repo) settled: Option<u16>,
    /// Like names are neighbours.
    pub(in crate::repo) name: PathKey,
    /// Small for what was made last, among objects of one kind.
    pub(in crate::repo) recency: u32,
}

/// The objects of a pack in the making. [`find`](Objects::find) needs them sorted by id, nothing else does.
pub(in crate::repo) struct Objects {
    pub(in crate::repo) items: Vec<Item>,
    /// All packs of the view, by number.
    pub(in crate::repo) packs: Vec<Arc<Pack>>,
    /// Loose objects that were damaged and are not among them.
    pub(in crate::repo) damaged: u32,
    /// Contents of loose objects that were read already.
    pub(in crate::repo) held: HashMap<u32, Held>,
}

/// What is held of a loose object.
pub(in crate::repo) enum Held {
    /// Its content, known to be that of its id.
    Content(Arc<Vec<u8>>),
    /// Its file, not looked into but for its header.
    File(Arc<[u8]>),
}

impl Objects {
    pub(in crate::repo) fn find(&self, id: &oid) -> Option<u32> {
        let found = self
            .items
            .binary_search_by(|item| item.id.as_slice().cmp(id.as_bytes()));
        found.ok().map(|at| at as u32)
    }

    pub(in crate::repo) fn item(&self, number: u32) -> &Item {
        &self.items[number as usize]
    }

    /// The whole entry of a packed object if it is what it was when it was written.
    pub(in crate::repo) fn entry(&self, number: u32) -> Result<(EntryHeader, &[u8]), Trouble> {
        let item = self.item(number);
        if item.pack == NONE {
            return Err(Trouble::Loose(item.id));
        }
        let pack = &self.packs[item.pack as usize];
        let damaged = |_| Trouble::Pack(item.pack);
        let bytes = pack.raw_entry(item.pos).map_err(damaged)?;
        if pack.index().map_err(damaged)?.crc32(item.pos) != Some(crc32fast::hash(bytes)) {
            return Err(Trouble::Pack(item.pack));
        }
        let header = EntryHeader::parse(bytes, pack.hash_kind()).map_err(|_| Trouble::Pack(item.pack))?;
        Ok((header, bytes))
    }
}

/// Reads objects whole, and believes none.
pub(in crate::repo) struct Loader {
    odb: Odb,
    inflater: Inflater,
}

impl Loader {
    pub(in crate::repo) fn new(odb: &Odb) -> Self {
        Loader {
            odb: odb.clone(),
            inflater: Inflater::new(),
        }
    }

    pub(in crate::repo) fn load(&mut self, objects: &Objects, number: u32) -> Result<Arc<Vec<u8>>, Trouble> {
        let item = objects.item(number);
        let mut out = Vec::new();
        match objects.held.get(&number) {
            Some(Held::Content(content)) => return Ok(content.clone()),
            Some(Held::File(bytes)) => {
                let read = LooseReader::held(bytes.clone(), PathBuf::new()).and_then(|file| file.read_all(&mut out));
                return match read {
                    Ok(kind) if kind == item.kind && object_id(self.odb.hash_kind(), kind, &out) == item.id => {
                        Ok(Arc::new(out))
                    }
                    _ => Err(Trouble::Loose(item.id)),
                };
            }
            None => {}
        }
        if item.pack != NONE && !item.was_delta {
            let (header, bytes) = objects.entry(number)?;
            let size = usize::try_from(header.size).map_err(|_| Trouble::Pack(item.pack))?;
            // Deflate expands a byte to at most 1,032.
            if size / 1_032 > bytes.len() {
                return Err(Trouble::Pack(item.pack));
            }
            self.inflater
                .inflate_exact(&bytes[header.header_len..], size, &mut out)
                .map_err(|_| Trouble::Pack(item.pack))?;
            return Ok(Arc::new(out));
        }
        let place = match item.pack {
            NONE => Location::Loose,
            pack => Location::Packed { pack, pos: item.pos },
        };
        let read = self.odb.read_at(place, &item.id, &mut out);
        let is_it = matches!(read, Ok(kind) if kind == item.kind
            && object_id(self.odb.hash_kind(), kind, &out) == item.id);
        match (is_it, item.pack) {
            (true, _) => Ok(Arc::new(out)),
            (false, NONE) => Err(Trouble::Loose(item.id)),
            (false, pack) => Err(Trouble::Pack(pack)),
        }
    }
}
