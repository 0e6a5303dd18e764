use std::sync::{Arc, Weak};

use gix::hash::{ObjectId, oid};

use super::{
    SendError,
    filter::FilterPlan,
    marks::{Id, Marks, Numbering},
    reader::Reader,
    walk::IdMap,
};
use crate::repo::{Location, Odb, Pack, deltas::PathKey};

/// The objects that an answer consists of, and those that its receiver is known to have: two bits for each object of the repository.
///
/// Belongs to the view of the repository ([`Odb`](crate::repo::Odb)) that it was made from.
#[derive(Debug)]
pub struct ObjectSet {
    pub(super) numbering: Numbering,
    pub(super) packs: Vec<Arc<Pack>>,
    pub(super) chosen: Marks,
    /// What the receiver has.
    pub(super) had: Marks,
    /// What the receiver may lack although its commits reach it.
    pub(super) filter: Option<FilterPlan>,
    /// For objects that are to be sent, what the receiver has in their place: good bases for deltas.
    pub(super) similar: IdMap<Id>,
    /// Where objects stand, if there are loose ones among them or several packs.
    pub(super) names: IdMap<Name>,
    pub(super) len: u32,
}

/// Where a tree or blob was met.
#[derive(Debug, Clone, Copy)]
pub(super) struct Name {
    pub(super) key: PathKey,
    /// How many were met before: those of the newest commits come first.
    pub(super) met: u32,
}

impl ObjectSet {
    pub(super) fn new(
        reader: Reader<'_>,
        chosen: Marks,
        had: Marks,
        filter: Option<FilterPlan>,
        similar: IdMap<Id>,
        names: IdMap<Name>,
    ) -> Result<Self, SendError> {
        let len = u32::try_from(chosen.len()).map_err(|_| SendError::TooManyObjects)?;
        let (numbering, packs) = reader.into_parts();
        Ok(ObjectSet {
            numbering,
            packs,
            chosen,
            had,
            filter,
            similar,
            names,
            len,
        })
    }

    /// The set for later requests. It keeps no pack open.
    pub fn keep(&self) -> KeptSet {
        KeptSet {
            numbering: self.numbering.clone(),
            packs: self.packs.iter().map(Arc::downgrade).collect(),
            chosen: self.chosen.clone(),
            had: self.had.clone(),
            filter: self.filter.clone(),
            similar: self.similar.clone(),
            names: self.names.clone(),
            len: self.len,
        }
    }

    /// How many objects are to be sent.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whether nothing is to be sent.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Takes an object out: the receiver gets it in another way. Says whether it was in. `odb` is the view that the set was made from, or a clone of it.
    pub fn remove(&mut self, odb: &Odb, oid: &oid) -> Result<bool, SendError> {
        let Some(id) = self.id(odb, oid)?.filter(|id| self.chosen.contains(*id)) else {
            return Ok(false);
        };
        self.chosen.remove(id);
        self.len -= 1;
        Ok(true)
    }

    /// Whether the object is to be sent. `odb` is the view that the set was made from, or a clone of it.
    pub fn contains(&self, odb: &Odb, oid: &oid) -> Result<bool, SendError> {
        Ok(self.id(odb, oid)?.is_some_and(|id| self.chosen.contains(id)))
    }

    /// The number of an object that had one when the set was made, or could have had one.
    pub(super) fn id(&self, odb: &Odb, oid: &oid) -> Result<Option<Id>, SendError> {
        Ok(match odb.locate(oid)? {
            None => None,
            Some(Location::Packed { pack, pos }) => self.numbering.packed(pack, pos),
            Some(Location::Loose) => self.numbering.known_loose_id(oid),
        })
    }

    /// The id that a number stands for.
    pub(super) fn oid_of(&self, id: Id) -> Result<ObjectId, SendError> {
        match (id.loose(), self.numbering.place(id)) {
            (_, Some((rank, pos))) => Ok(self.packs[rank as usize].oid(pos)?),
            (Some(number), None) => Ok(self.numbering.loose()[number]),
            (None, None) => Err(SendError::TooManyObjects),
        }
    }

    /// The ids of the objects, pack by pack in the order of ids, then the loose ones.
    ///
    /// # Errors
    /// When a pack cannot be opened, which was possible when the set was made.
    pub fn ids(&self) -> Result<Vec<ObjectId>, SendError> {
        let mut out = Vec::with_capacity(self.len as usize);
        for (rank, pack) in self.packs.iter().enumerate() {
            let range = self.numbering.range(rank as u32);
            for Id(id) in self.chosen.in_range(range.clone()) {
                out.push(pack.oid(id - range.start)?);
            }
        }
        out.extend(self.chosen.loose().map(|number| self.numbering.loose()[number]));
        Ok(out)
    }
}

/// An [`ObjectSet`] without the packs it was chosen from.
#[derive(Debug)]
pub struct KeptSet {
    numbering: Numbering,
    packs: Vec<Weak<Pack>>,
    chosen: Marks,
    had: Marks,
    filter: Option<FilterPlan>,
    similar: IdMap<Id>,
    names: IdMap<Name>,
    len: u32,
}

impl KeptSet {
    /// The set for this view; `None` when its packs are not those that the set was chosen from.
    pub fn of(&self, odb: &Odb) -> Option<ObjectSet> {
        let packs = odb.packs();
        let same = packs.len() == self.packs.len()
            && packs
                .iter()
                .zip(&self.packs)
                .all(|(now, then)| std::ptr::eq(Arc::as_ptr(now), then.as_ptr()));
        same.then(|| ObjectSet {
            numbering: self.numbering.clone(),
            packs: packs.to_vec(),
            chosen: self.chosen.clone(),
            had: self.had.clone(),
            filter: self.filter.clone(),
            similar: self.similar.clone(),
            names: self.names.clone(),
            len: self.len,
        })
    }

    /// About how many bytes it takes.
    pub fn memory(&self) -> usize {
        let per_similar = 3 * size_of::<Id>();
        let per_name = 2 * size_of::<(Id, Name)>();
        self.numbering.memory()
            + self.chosen.memory()
            + self.had.memory()
            + self.packs.len() * size_of::<Weak<Pack>>()
            + self.similar.len() * per_similar
            + self.names.len() * per_name
    }
}
