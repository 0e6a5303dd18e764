//! Objects by number: the view of the object database that walks have.

use std::sync::Arc;

use gix::{
    hash::{Kind as HashKind, ObjectId, oid},
    objs::Kind,
};

use super::{
    SendError,
    marks::{Id, Numbering},
    parse,
    walk::{CommitMeta, History, UNKNOWN_GENERATION},
};
use crate::{
    pack::{EntryKind, Inflater},
    repo::{Location, Odb, OdbError, Pack},
};

/// An object database whose objects have numbers.
pub(super) struct Reader<'a> {
    pub(super) odb: &'a Odb,
    pub(super) numbering: Numbering,
    packs: Vec<Arc<Pack>>,
    hash: HashKind,
    inflater: Inflater,
    buf: Vec<u8>,
    parents: Vec<ObjectId>,
    /// Of parents, in the commit-graph.
    places: Vec<u32>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(odb: &'a Odb) -> Result<Self, SendError> {
        let mut reader = Reader {
            odb,
            numbering: Numbering::default(),
            packs: Vec::new(),
            hash: odb.hash_kind(),
            inflater: Inflater::new(),
            buf: Vec::new(),
            parents: Vec::new(),
            places: Vec::new(),
        };
        reader.renew_packs()?;
        Ok(reader)
    }

    /// Gives numbers to packs that appeared since.
    fn renew_packs(&mut self) -> Result<(), SendError> {
        let packs = self.odb.packs();
        let mut lens = Vec::with_capacity(packs.len());
        for pack in packs.iter() {
            lens.push(match pack.index() {
                Ok(index) => index.len(),
                // Nothing is ever located in these.
                Err(OdbError::PackVanished { .. } | OdbError::PackDamaged { .. }) => 0,
                Err(err) => return Err(err.into()),
            });
        }
        self.numbering.add_packs(lens.into_iter())?;
        self.packs = packs.to_vec();
        Ok(())
    }

    /// The hash that ids are made with.
    pub(super) fn hash(&self) -> HashKind {
        self.hash
    }

    /// Whether all objects met so far lie in one pack.
    pub(super) fn is_one_pack(&self) -> bool {
        self.packs.len() == 1 && self.numbering.loose().is_empty()
    }

    pub(super) fn packs(&self) -> &[Arc<Pack>] {
        &self.packs
    }

    /// The numbers and the packs, for whoever goes on with the set.
    pub(super) fn into_parts(self) -> (Numbering, Vec<Arc<Pack>>) {
        (self.numbering, self.packs)
    }

    /// The number of an object, if it exists.
    #[inline]
    pub(super) fn find(&mut self, oid: &oid) -> Result<Option<Id>, SendError> {
        match self.odb.locate(oid)? {
            None => Ok(None),
            Some(Location::Packed { pack, pos }) => {
                if let Some(id) = self.numbering.packed(pack, pos) {
                    return Ok(Some(id));
                }
                self.renew_packs()?;
                self.numbering
                    .packed(pack, pos)
                    .map(Some)
                    .ok_or(SendError::Missing { oid: oid.to_owned() })
            }
            Some(Location::Loose) => self.numbering.loose_id(oid).map(Some),
        }
    }

    /// The number of an object that must exist.
    #[inline]
    pub(super) fn require(&mut self, oid: &oid) -> Result<Id, SendError> {
        self.find(oid)?
            .ok_or_else(|| SendError::Missing { oid: oid.to_owned() })
    }

    /// The id that a number stands for.
    pub(super) fn oid(&self, id: Id) -> Result<ObjectId, SendError> {
        match id.loose() {
            Some(number) => Ok(self.numbering.loose()[number]),
            None => {
                let (pack, pos) = self.place(id);
                Ok(self.packs[pack as usize].oid(pos)?)
            }
        }
    }

    fn place(&self, id: Id) -> (u32, u32) {
        self.numbering
            .place(id)
            .expect("because numbers below the loose bit are only given to packed objects")
    }

    fn location(&self, id: Id) -> Location {
        match id.loose() {
            Some(_) => Location::Loose,
            None => {
                let (pack, pos) = self.place(id);
                Location::Packed { pack, pos }
            }
        }
    }

    /// Pack and offset of a packed object.
    #[inline]
    pub(super) fn offset(&self, id: Id) -> Result<Option<(u32, u64)>, SendError> {
        match id.loose() {
            Some(_) => Ok(None),
            None => {
                let (pack, pos) = self.place(id);
                Ok(Some((pack, self.packs[pack as usize].index()?.offset(pos))))
            }
        }
    }

    /// Bytes of a packed object's entry.
    pub(super) fn packed_size(&self, id: Id) -> Result<Option<u64>, SendError> {
        match id.loose() {
            Some(_) => Ok(None),
            None => {
                let (pack, pos) = self.place(id);
                let pack = &self.packs[pack as usize];
                Ok(Some(pack.end_offset(pos)?.saturating_sub(pack.index()?.offset(pos))))
            }
        }
    }

    /// What a packed object is a delta of, in its pack, if it is one and that can be told.
    pub(super) fn delta_base(&mut self, id: Id) -> Result<Option<Id>, SendError> {
        let Some((rank, offset)) = self.offset(id)? else {
            return Ok(None);
        };
        let pack = &self.packs[rank as usize];
        let pos = match pack.entry_at(offset).map(|(header, _)| header.kind) {
            Ok(EntryKind::OfsDelta { distance }) => match offset.checked_sub(distance) {
                Some(base) => pack.pos_at_offset(base)?,
                None => None,
            },
            Ok(EntryKind::RefDelta { base }) => return self.find(&base),
            _ => None,
        };
        Ok(pos.and_then(|pos| self.numbering.packed(rank, pos)))
    }

    /// Kind and size of an object.
    pub(super) fn header(&self, id: Id) -> Result<(Kind, u64), SendError> {
        Ok(self.odb.header_at(self.location(id), &self.oid(id)?)?)
    }

    /// Reads an object into `out`, which loses what it had.
    pub(super) fn read(&self, id: Id, out: &mut Vec<u8>) -> Result<Kind, SendError> {
        Ok(self.odb.read_at(self.location(id), &self.oid(id)?, out)?)
    }

    /// Reads a tag: what it points to.
    pub(super) fn tag_target(&mut self, id: Id) -> Result<(ObjectId, Kind), SendError> {
        let mut buf = std::mem::take(&mut self.buf);
        let kind = self.read(id, &mut buf);
        let target = parse::tag(&buf);
        self.buf = buf;
        match (kind?, target) {
            (Kind::Tag, Some(target)) => Ok(target),
            _ => self.corrupt(id, "it is not a valid tag"),
        }
    }

    pub(super) fn corrupt<T>(&self, id: Id, why: &'static str) -> Result<T, SendError> {
        Err(SendError::Corrupt {
            oid: self.oid(id)?,
            why,
        })
    }

    /// Reads a commit's bytes into `self.buf`.
    fn read_commit(&mut self, id: Id) -> Result<(), SendError> {
        if id.loose().is_none() {
            // Most commits are whole entries: inflate those without asking the delta cache.
            let (pack, pos) = self.place(id);
            let pack = &self.packs[pack as usize];
            if let Ok((header, rest)) = pack.entry_at(pack.index()?.offset(pos))
                && header.kind == EntryKind::Commit
                && header.size <= 1 << 20
            {
                self.buf.clear();
                if self
                    .inflater
                    .inflate_exact(rest, header.size as usize, &mut self.buf)
                    .is_ok()
                {
                    return Ok(());
                }
                // Damaged: there may be another copy.
            }
        }
        let mut buf = std::mem::take(&mut self.buf);
        let kind = self.read(id, &mut buf);
        self.buf = buf;
        match kind? {
            Kind::Commit => Ok(()),
            _ => self.corrupt(id, "it is not a commit"),
        }
    }

    /// Reads a commit from the commit-graph if that has it.
    fn graph_commit(&mut self, id: Id, parents: Option<&mut Vec<Id>>) -> Result<Option<CommitMeta>, SendError> {
        let odb = self.odb;
        let Some(graph) = odb.commit_graph() else {
            return Ok(None);
        };
        let Some(pos) = graph.lookup(self.oid(id)?.as_ref()) else {
            return Ok(None);
        };
        let Some(commit) = graph.commit(pos) else {
            return Ok(None);
        };
        let meta = CommitMeta {
            tree: commit.tree.to_owned(),
            date: commit.date as i64,
            // Level 0 means that the writer of the graph did not know.
            generation: match commit.level {
                0 => UNKNOWN_GENERATION,
                level => level,
            },
        };
        if let Some(parents) = parents {
            self.places.clear();
            if graph.parents(pos, &mut self.places).is_none() {
                // A damaged graph: ask the commit itself.
                return Ok(None);
            }
            for nth in 0..self.places.len() {
                let Some(parent) = graph.oid(self.places[nth]) else {
                    return Ok(None);
                };
                parents.push(self.require(parent)?);
            }
        }
        Ok(Some(meta))
    }
}

impl History for Reader<'_> {
    fn commit(&mut self, id: Id, mut parents: Option<&mut Vec<Id>>) -> Result<CommitMeta, SendError> {
        if let Some(meta) = self.graph_commit(id, parents.as_deref_mut())? {
            return Ok(meta);
        }
        self.read_commit(id)?;
        let mut ids = std::mem::take(&mut self.parents);
        ids.clear();
        let fields = parse::commit(&self.buf, &mut ids);
        let mut result = Ok(());
        if let Some(parents) = parents {
            for parent in &ids {
                match self.require(parent) {
                    Ok(id) => parents.push(id),
                    Err(err) => {
                        result = Err(err);
                        break;
                    }
                }
            }
        }
        self.parents = ids;
        result?;
        match fields {
            Some(fields) => Ok(CommitMeta {
                tree: fields.tree,
                date: fields.date,
                generation: UNKNOWN_GENERATION,
            }),
            None => self.corrupt(id, "it is not a valid commit"),
        }
    }
}

/// Follows a chain of tags. Returns every tag on the way and what is at its end.
pub(super) fn peel(reader: &mut Reader<'_>, start: Id) -> Result<(Vec<Id>, Id, Kind), SendError> {
    let mut tags = Vec::new();
    let mut id = start;
    let (mut kind, _) = reader.header(id)?;
    while kind == Kind::Tag {
        tags.push(id);
        let (target, _) = reader.tag_target(id)?;
        id = reader.require(&target)?;
        kind = reader.header(id)?.0;
    }
    Ok((tags, id, kind))
}
