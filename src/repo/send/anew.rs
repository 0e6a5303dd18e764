//! Deltas for what no pack has as a delta: loose objects, and objects that lie whole in different packs.
//!
//! Whoever wrote a pack has compared what is in it, so nothing is done for an answer out of one pack. Otherwise what would be sent whole is compared with its
//! neighbours by name and size, as a repack does. Without this a repository that has received a hundred pushes would be sent with a hundred whole versions of a file.
//!
//! What was found is remembered ([`EncodedCache`](crate::repo::EncodedCache)) by object: the next answer takes what still fits it, and only what is new to it is compared. A
//! remembered delta fits where its base is sent too, comes before it in the order in which this answer compares, and was sent before: so there are no circles, and chains
//! stay as short as they must.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, atomic::AtomicBool},
};

use gix::{hash::ObjectId, objs::Kind};

use super::{
    ObjectSet, PackOptions, SendError,
    marks::Id,
    places::{Entries, Place},
    walk::{IdMap, check},
};
use crate::{
    pack::encode_delta,
    repo::{
        LooseReader, Odb,
        deltas::{Found, Held, Item, NONE, Objects, Search, Trouble, in_order, search},
        encoded::Encoded,
    },
};

/// Objects that each one is compared with, as many as git's default. Where nothing is loose fewer do: what lies in one pack was compared there already.
const WINDOW: usize = 10;
const WINDOW_OF_PACKS: usize = 5;
/// Deltas from an object to a whole one.
const DEPTH: u16 = 50;
/// Bytes of objects that one thread compares at a time.
const WINDOW_BYTES: usize = 16 << 20;
/// Objects above this are sent whole.
const LARGEST: u64 = 4 << 20;
/// Deltas of less than this part of an object are good enough: whoever waits for an answer does not wait for the best.
const ENOUGH: usize = 20;
/// Files of loose objects up to this size are read once and kept, up to so many bytes.
const HELD_EACH: u64 = 256 << 10;
const HELD_BYTES: usize = 32 << 20;

/// Deltas and compressed objects that were made for one answer: of loose objects, and of what lies whole in different packs.
#[derive(Default)]
pub struct Anew {
    deltas: IdMap<Delta>,
    /// Loose objects that stay whole and were compressed already.
    whole: IdMap<Whole>,
}

/// An object as it is sent.
pub(super) struct Whole {
    pub(super) kind: Kind,
    /// Bytes, inflated.
    pub(super) len: usize,
    pub(super) packed: Arc<[u8]>,
}

/// A delta between two objects that are sent.
pub(super) struct Delta {
    pub(super) base: Id,
    /// Bytes, inflated.
    pub(super) len: usize,
    /// Compressed, if there was room to keep it.
    pub(super) packed: Option<Arc<[u8]>>,
}

impl Anew {
    /// Looks for deltas between the objects of `set`, which was made from `odb`. Where all of them lie in one pack there is nothing to do. `progress` is told from time to time how many objects were looked at, and of how many (0 while
    /// that is not known). An object that cannot be read is left to whoever sends it.
    ///
    /// # Errors
    /// `Stopped`, and when a pack cannot be opened any more.
    pub fn find(
        odb: &Odb,
        set: &ObjectSet,
        options: &PackOptions,
        progress: &mut dyn FnMut(u64, u64),
        stop: &AtomicBool,
    ) -> Result<Anew, SendError> {
        if set.names.is_empty() {
            return Ok(Anew::default());
        }
        let Some((mut objects, ids)) = gather(odb, set, progress, stop)? else {
            return Ok(Anew::default());
        };
        let how = Search {
            window: if objects.items.iter().any(|item| item.pack == NONE) {
                WINDOW
            } else {
                WINDOW_OF_PACKS
            },
            depth: DEPTH,
            window_bytes: WINDOW_BYTES,
            threads: odb.limits().threads_per_request,
            largest: LARGEST,
            again: false,
            level: options.compression,
            enough: ENOUGH,
            wholes: true,
        };
        let list = in_order(&objects, &how);
        let mut anew = Anew::default();
        anew.recall(odb, &mut objects, &ids, &list, &how);
        if list.iter().all(|number| objects.item(*number).settled.is_some()) {
            return Ok(anew);
        }
        let found = match search(&objects, &list, odb, &how, stop, progress) {
            Ok(found) => {
                remember(odb, &objects, &list, &found);
                found
            }
            Err(trouble) => {
                check(stop)?;
                if !matches!(trouble, Trouble::Stopped) {
                    tracing::warn!(?trouble, "no deltas are looked for among damaged objects");
                }
                HashMap::new()
            }
        };
        for (number, Found { base, len, packed }) in found {
            let (id, kind) = (ids[number as usize], objects.item(number).kind);
            match (base, packed) {
                (NONE, Some(packed)) => {
                    anew.whole.insert(id, Whole { kind, len, packed });
                }
                (NONE, None) => {}
                (base, packed) => {
                    let base = ids[base as usize];
                    anew.deltas.insert(id, Delta { base, len, packed });
                }
            }
        }
        Ok(anew)
    }

    /// Takes over what was made of objects for earlier answers, as far as it fits this one.
    fn recall(&mut self, odb: &Odb, objects: &mut Objects, ids: &[Id], list: &[u32], how: &Search) {
        let mut met: HashMap<ObjectId, (u32, u16)> = HashMap::new();
        // How many more what is new may be a base of.
        let mut near_new = 0;
        for number in list {
            let item = &mut objects.items[*number as usize];
            near_new = usize::saturating_sub(near_new, 1);
            let Some(known) = odb.encoded(&item.id).filter(|known| known.kind == item.kind) else {
                near_new = how.window;
                continue;
            };
            // A file that grows: the version that was whole until now is made of the new one.
            if known.base.is_none() && near_new > 0 {
                met.insert(item.id, (*number, 1));
                continue;
            }
            let id = ids[*number as usize];
            let depth = match (known.base, known.packed) {
                (None, None) if item.pack != NONE => 0,
                (None, Some(packed)) => {
                    // What lies whole in a pack is copied from there.
                    if item.pack == NONE {
                        let (kind, len) = (item.kind, known.len);
                        self.whole.insert(id, Whole { kind, len, packed });
                    }
                    0
                }
                (Some(base), packed @ Some(_)) => match met.get(&base) {
                    Some((base, depth)) if *depth < how.depth => {
                        let (base, len) = (ids[*base as usize], known.len);
                        self.deltas.insert(id, Delta { base, len, packed });
                        depth + 1
                    }
                    _ => continue,
                },
                _ => continue,
            };
            item.settled = Some(depth);
            met.insert(item.id, (*number, depth));
        }
    }

    /// How many deltas there are.
    pub fn len(&self) -> usize {
        self.deltas.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.deltas.is_empty()
    }

    /// The delta that was made of an object.
    pub(super) fn delta(&self, id: Id) -> Option<&Delta> {
        if self.deltas.is_empty() {
            return None;
        }
        self.deltas.get(&id)
    }

    /// A loose object that is sent whole. It was compared with its id.
    pub(super) fn take_whole(&mut self, id: Id) -> Option<Whole> {
        self.whole.remove(&id)
    }
}

/// Keeps what was found for the next answer.
fn remember(odb: &Odb, objects: &Objects, list: &[u32], found: &HashMap<u32, Found>) {
    for number in list {
        let item = objects.item(*number);
        if item.settled.is_some() {
            continue;
        }
        let (base, len, packed) = match found.get(number) {
            // Of what was too large to be held nothing is known the next time.
            Some(Found { packed: None, .. }) => continue,
            Some(Found {
                base: NONE,
                len,
                packed,
            }) => (None, *len, packed.clone()),
            Some(Found { base, len, packed }) => (Some(objects.item(*base).id), *len, packed.clone()),
            None if item.pack == NONE => continue,
            None => (None, 0, None),
        };
        let (kind, size) = (item.kind, item.size);
        odb.keep_encoded(
            item.id,
            Encoded {
                kind,
                size,
                base,
                len,
                packed,
            },
        );
    }
}

/// What would be sent whole, if there is something to compare.
fn gather(
    odb: &Odb,
    set: &ObjectSet,
    progress: &mut dyn FnMut(u64, u64),
    stop: &AtomicBool,
) -> Result<Option<(Objects, Vec<Id>)>, SendError> {
    let mut objects = Objects {
        items: Vec::new(),
        packs: set.packs.clone(),
        damaged: 0,
        held: HashMap::new(),
    };
    let (mut ids, mut sources) = (Vec::new(), 0);
    // The client's version of a file is a better base than any other.
    let named = |id: Id| set.names.get(&id).filter(|_| !set.similar.contains_key(&id));
    let mut add = |objects: &mut Objects, id: Id, oid: ObjectId, (pack, pos): (u32, u32), kind: Kind, size: u64| {
        let name = named(id)?;
        ids.push(id);
        objects.items.push(Item {
            id: oid,
            pack,
            pos,
            kind,
            size,
            base: NONE,
            height: 0,
            was_delta: false,
            settled: None,
            name: name.key,
            recency: name.met,
        });
        Some(objects.items.len() as u32 - 1)
    };
    for (rank, pack) in set.packs.iter().enumerate() {
        let range = set.numbering.range(rank as u32);
        if set.chosen.count_in(range.clone()) == 0 {
            continue;
        }
        let before = objects.items.len();
        let mut entries = Entries::of(pack, set, range.clone())?;
        let mut places: Vec<Place> = Vec::new();
        loop {
            check(stop)?;
            progress(0, 0);
            entries.next(pack, &mut places)?;
            if places.is_empty() {
                break;
            }
            for place in &places {
                if let Ok((header, _)) = pack.entry_at(place.start)
                    && let Some(kind @ (Kind::Tree | Kind::Blob)) = header.kind.object_kind()
                {
                    let at = (rank as u32, place.pos);
                    add(
                        &mut objects,
                        Id(range.start + place.pos),
                        pack.oid(place.pos)?,
                        at,
                        kind,
                        header.size,
                    );
                }
            }
        }
        sources += usize::from(objects.items.len() > before);
    }
    let mut held = 0;
    let before = objects.items.len();
    for number in set.chosen.loose() {
        check(stop)?;
        progress(0, 0);
        let oid = set.numbering.loose()[number];
        let Some(id) = set.numbering.known_loose_id(&oid) else {
            continue;
        };
        if named(id).is_none() {
            continue;
        }
        // What was sent before need not even be opened.
        if let Some(known) = odb.encoded(&oid).filter(|known| known.packed.is_some()) {
            add(&mut objects, id, oid, (NONE, 0), known.kind, known.size);
            continue;
        }
        let file = odb.loose_file(&oid, HELD_EACH.min((HELD_BYTES - held) as u64));
        let reader = match &file {
            Some(bytes) => LooseReader::held(bytes.clone(), PathBuf::new()).map(Some),
            None => odb.open_loose(&oid),
        };
        // What is damaged is left to whoever sends it, with what there is to say of it.
        let Ok(Some(reader)) = reader else { continue };
        if let Some(item) = add(&mut objects, id, oid, (NONE, 0), reader.kind(), reader.size())
            && let Some(bytes) = file
        {
            held += bytes.len();
            objects.held.insert(item, Held::File(bytes));
        }
    }
    let loose = objects.items.len() - before;
    Ok((sources > 1 || (loose > 0 && objects.items.len() > 1)).then_some((objects, ids)))
}

impl Delta {
    /// The delta, uncompressed, made a second time.
    pub(super) fn again(&self, odb: &Odb, set: &ObjectSet, target: &[u8]) -> Result<Option<Vec<u8>>, SendError> {
        let oid = set.oid_of(self.base)?;
        let mut base = Vec::new();
        let mut delta = Vec::new();
        odb.read(&oid, &mut base)?;
        Ok(encode_delta(&base, target, self.len, &mut delta).then_some(delta))
    }
}
