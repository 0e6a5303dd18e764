mod error;
mod loose_list;

use std::{
    cell::RefCell,
    collections::VecDeque,
    io,
    path::PathBuf,
    sync::{Arc, OnceLock},
};

use gix::{
    hash::{Kind as HashKind, oid},
    objs::Kind,
};

pub use self::error::OdbError;
use self::loose_list::LooseList;
use super::{
    bitmaps::Bitmaps,
    contents::{Content, ContentCache},
    encoded::EncodedCache,
    graph::{Graph, GraphCache},
    loose::{HeldObjects, LooseReader, is_absent, loose_path, object_id},
    mmap::Mmap,
    pack::Pack,
    pack_set::{PackSet, Search, Store},
};
use crate::{
    base::Limits,
    pack::{CommitGraph, EntryKind, FormatError, Inflater, StreamInflater, apply_delta, delta_sizes},
};

/// Where an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Location {
    /// In a pack.
    Packed {
        /// Its place in [`Odb::packs`].
        pack: u32,
        /// The object's position in that pack's index.
        pos: u32,
    },
    /// In a file of its own, found by its id, and in no pack.
    Loose,
}

/// The objects of a repository as one request sees them.
///
/// Holds one immutable [`PackSet`] until it is dropped, so that a [`Location`] stays true. The first object that is not found makes it look once more at the
/// directories; packs that appeared are appended. After that it lists them again only when they have changed: a compaction may move what it has not met
/// yet. Clones share the view, each has buffers of its own: one clone for each thread.
pub struct Odb {
    shared: Arc<Shared>,
    scratch: RefCell<Scratch>,
    loose: LooseList,
}

struct Shared {
    store: Arc<Store>,
    hash: HashKind,
    limits: Limits,
    caches: Caches,
    first: View,
    graph: OnceLock<Option<Arc<Graph>>>,
    /// Loose objects of a quarantine that were not written yet.
    held: Arc<HeldObjects>,
}

/// What requests leave to those that come after them.
#[derive(Clone)]
pub(crate) struct Caches {
    pub(super) contents: Arc<ContentCache>,
    pub(super) encoded: Arc<EncodedCache>,
    pub(super) graphs: Arc<GraphCache>,
}

/// A view, and the one that took its place.
struct View {
    set: Arc<PackSet>,
    newer: OnceLock<Box<View>>,
}

impl View {
    fn of(set: Arc<PackSet>) -> View {
        View {
            set,
            newer: OnceLock::new(),
        }
    }
}

struct Scratch {
    inflater: Inflater,
    stream: StreamInflater,
    delta: Vec<u8>,
}

impl Clone for Odb {
    fn clone(&self) -> Self {
        Self::of(self.shared.clone())
    }
}

impl std::fmt::Debug for Odb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Odb")
            .field("packs", &self.packs().len())
            .finish_non_exhaustive()
    }
}

/// What went wrong with one copy of an object.
enum Broken {
    Format(FormatError),
    TooLarge(u64),
    Other(OdbError),
}

impl From<FormatError> for Broken {
    fn from(err: FormatError) -> Self {
        Broken::Format(err)
    }
}

impl From<OdbError> for Broken {
    fn from(err: OdbError) -> Self {
        match err {
            OdbError::PackDamaged { source, .. } | OdbError::LooseDamaged { source, .. } => Broken::Format(source),
            err => Broken::Other(err),
        }
    }
}

const CHAIN: &str = "delta chain";
/// Times that one request may find the directories changed. Compactions are rarer.
const MOST_VIEWS: usize = 64;

impl Odb {
    pub(crate) fn new(
        store: Arc<Store>,
        first: Arc<PackSet>,
        hash: HashKind,
        limits: Limits,
        caches: Caches,
        held: Arc<HeldObjects>,
    ) -> Odb {
        Self::of(Arc::new(Shared {
            store,
            hash,
            limits,
            caches,
            first: View::of(first),
            graph: OnceLock::new(),
            held,
        }))
    }

    fn of(shared: Arc<Shared>) -> Odb {
        Odb {
            shared,
            scratch: RefCell::new(Scratch {
                inflater: Inflater::new(),
                stream: StreamInflater::new(),
                delta: Vec::new(),
            }),
            loose: LooseList::default(),
        }
    }

    fn set(&self) -> &PackSet {
        &self.newest().0.set
    }

    /// The present view, and how many there were before it.
    fn newest(&self) -> (&View, usize) {
        let (mut view, mut number) = (&self.shared.first, 0);
        while let Some(newer) = view.newer.get() {
            (view, number) = (newer, number + 1);
        }
        (view, number)
    }

    /// The hash that ids here are made with.
    pub fn hash_kind(&self) -> HashKind {
        self.shared.hash
    }

    /// The bounds of the house.
    pub fn limits(&self) -> &Limits {
        &self.shared.limits
    }

    /// Every pack, in the order in which it is searched unless there is a multi-pack-index. The list may grow at its end.
    pub fn packs(&self) -> &[Arc<Pack>] {
        self.set().packs()
    }

    /// Reachability bitmaps, if there are any that can be used.
    pub(super) fn bitmaps(&self) -> Option<Bitmaps<'_>> {
        self.set().bitmaps()
    }

    /// What was worked out lately, by anybody.
    pub(super) fn caches(&self) -> &Caches {
        &self.shared.caches
    }

    /// The number of this repository among all that this process has opened.
    pub(super) fn repository(&self) -> u64 {
        self.shared.store.number()
    }

    /// The directories of objects, alternates included.
    pub(super) fn object_dirs(&self) -> &[PathBuf] {
        self.set().object_dirs()
    }

    /// The commit-graph of the repository or of the first alternate that has one. `None` when there is none, when it is damaged or switched off, or when the
    /// repository has a shallow boundary or grafts, which such a file knows nothing of.
    ///
    /// A commit in it need not exist any more: look it up before it is promised to anybody.
    pub fn commit_graph(&self) -> Option<&CommitGraph<Mmap>> {
        self.shared
            .graph
            .get_or_init(|| {
                self.shared
                    .caches
                    .graphs
                    .get(self.set().object_dirs(), self.shared.hash)
            })
            .as_deref()
    }

    /// Looks at the directories once more if nobody did since `view` was the present one: the first time for certain, later on by what their times say. Says
    /// whether there is a newer view now.
    fn refresh(&self, view: &View, number: usize) -> Result<bool, OdbError> {
        if view.newer.get().is_some() {
            return Ok(true);
        }
        let newer = match number {
            0 => self.shared.store.refreshed()?,
            1..MOST_VIEWS => {
                let current = self.shared.store.current()?;
                if !view.set.lacks_of(&current) {
                    return Ok(false);
                }
                current
            }
            _ => return Ok(false),
        };
        // A clone that was faster saw what we saw.
        let _ = view.newer.set(Box::new(View::of(Arc::new(view.set.extended(&newer)))));
        Ok(true)
    }

    /// Where an object is: always the same pack for the same object while this view lives. `Loose` only when no pack has it.
    ///
    /// # Errors
    /// When the object was not found but a damaged pack may have it, or a file operation failed.
    pub fn locate(&self, id: &oid) -> Result<Option<Location>, OdbError> {
        self.search(id, true)
    }

    /// `sure` looks at the directories again for each object that is not found; without it that is done once, by whoever is first.
    fn search(&self, id: &oid, sure: bool) -> Result<Option<Location>, OdbError> {
        loop {
            // Asked before the search: a clone may refresh while we search the older view.
            let (view, number) = self.newest();
            let mut search = Search::default();
            if let Some((pack, pos)) = view.set.locate(id, &mut search)? {
                return Ok(Some(Location::Packed { pack, pos }));
            }
            if self.is_loose(id)? {
                return Ok(Some(Location::Loose));
            }
            let last = !sure && number > 0 && view.newer.get().is_none() && search.vanished.is_none();
            if last || !self.refresh(view, number)? {
                return match search.damage.or(search.vanished) {
                    Some(err) => Err(err),
                    None => Ok(None),
                };
            }
        }
    }

    fn is_loose(&self, id: &oid) -> Result<bool, OdbError> {
        if self.shared.held.contains_key(id) || self.loose.has(id) {
            return Ok(true);
        }
        for dir in self.set().object_dirs() {
            let path = loose_path(dir, id);
            match std::fs::symlink_metadata(&path) {
                Ok(meta) if meta.is_file() => {
                    self.loose.found(self.set().object_dirs(), self.shared.hash);
                    return Ok(true);
                }
                Ok(_) => {}
                Err(err) if is_absent(&err) => {}
                Err(source) => {
                    return Err(OdbError::Io {
                        doing: "look at",
                        path,
                        source,
                    });
                }
            }
        }
        Ok(false)
    }

    /// Whether there is such an object. Its bytes are not looked at. Errors as [`locate`](Self::locate).
    pub fn contains(&self, id: &oid) -> Result<bool, OdbError> {
        Ok(self.locate(id)?.is_some())
    }

    /// As [`contains`](Self::contains), for many objects most of which are not here, where it does no harm to take for absent what is moved into a pack just
    /// now.
    pub fn contains_probably(&self, id: &oid) -> Result<bool, OdbError> {
        Ok(self.search(id, false)?.is_some())
    }

    /// As [`contains_probably`](Self::contains_probably), by what was in the directories when they were last listed: for objects that are written otherwise.
    pub(crate) fn contains_as_listed(&self, id: &oid) -> Result<bool, OdbError> {
        let (view, _) = self.newest();
        let packed = view.set.locate(id, &mut Search::default())?;
        Ok(packed.is_some() || self.is_loose(id)?)
    }

    /// As [`header`](Self::header), with what [`contains_probably`](Self::contains_probably) says of it.
    pub(crate) fn header_probably(&self, id: &oid) -> Result<Option<(Kind, u64)>, OdbError> {
        match self.search(id, false)? {
            Some(location) => self.header_at(location, id).map(Some),
            None => Ok(None),
        }
    }

    /// Kind and size in bytes, without reading the object. `None` when there is none.
    ///
    /// # Errors
    /// When no copy of it is readable, or a file operation failed.
    pub fn header(&self, id: &oid) -> Result<Option<(Kind, u64)>, OdbError> {
        match self.locate(id)? {
            Some(location) => self.header_at(location, id).map(Some),
            None => Ok(None),
        }
    }

    /// As [`header`](Self::header) of an object that was located in this view.
    pub fn header_at(&self, location: Location, id: &oid) -> Result<(Kind, u64), OdbError> {
        self.any_copy(location, id, |odb, place| match place {
            Place::Packed(pack, offset) => odb.packed_header(pack, offset),
            Place::Loose(reader) => Ok((reader.kind(), reader.size())),
        })
    }

    /// Reads a whole object into `out`, which loses what it had. `None` when there is none.
    ///
    /// # Errors
    /// `TooLarge` beyond [`Limits::object_bytes`], `Corrupt` when no copy of it is readable, and failing file operations.
    pub fn read(&self, id: &oid, out: &mut Vec<u8>) -> Result<Option<Kind>, OdbError> {
        match self.locate(id)? {
            Some(location) => self.read_at(location, id, out).map(Some),
            None => Ok(None),
        }
    }

    /// As [`read`](Self::read) for an object that was located in this view. `id` names it in errors and finds another copy when this one is corrupt.
    pub fn read_at(&self, location: Location, id: &oid, out: &mut Vec<u8>) -> Result<Kind, OdbError> {
        self.any_copy(location, id, |odb, place| {
            out.clear();
            match place {
                Place::Packed(pack, offset) => odb.unpack(pack, offset, out),
                Place::Loose(reader) => odb.read_loose(*reader, id, out),
            }
        })
    }

    /// Opens a loose object for reading piece by piece: for those too large to hold. `None` when it is not loose.
    pub fn open_loose(&self, id: &oid) -> Result<Option<LooseReader>, OdbError> {
        if let Some(bytes) = self.shared.held.get(id) {
            return LooseReader::held(bytes.clone(), held_name(id)).map(Some);
        }
        for dir in self.set().object_dirs() {
            if let Some(reader) = LooseReader::open(loose_path(dir, id))? {
                return Ok(Some(reader));
            }
        }
        Ok(None)
    }

    /// Tries the copy at `location`, then every other one, and answers with the first that is readable, or with what is wrong with the first.
    fn any_copy<T>(
        &self,
        location: Location,
        id: &oid,
        mut read: impl FnMut(&Odb, Place) -> Result<T, Broken>,
    ) -> Result<T, OdbError> {
        let loose = || {
            let held = self.shared.held.get(id).map(|bytes| Copy::Held(bytes.clone()));
            let dirs = self.set().object_dirs().iter();
            held.into_iter().chain(dirs.map(|dir| Copy::Loose(loose_path(dir, id))))
        };
        let mut copies: VecDeque<Copy> = match location {
            Location::Packed { pack, pos } => [Copy::Packed(pack, pos)].into(),
            Location::Loose => loose().collect(),
        };
        let (mut first, mut widened) = (None, None);
        loop {
            let Some(copy) = copies.pop_front() else {
                // It is corrupt, or somebody packed it and removed the loose file, perhaps more than once.
                let (view, number) = widened.unwrap_or_else(|| self.newest());
                if !self.refresh(view, number)? && widened.is_some() {
                    break;
                }
                widened = Some(self.newest());
                let packed = self.set().copies(id).into_iter();
                copies.extend(packed.map(|(pack, pos)| Copy::Packed(pack, pos)));
                match location {
                    Location::Packed { pack, pos } => {
                        copies.retain(|copy| *copy != Copy::Packed(pack, pos));
                        copies.extend(loose());
                    }
                    Location::Loose => {}
                }
                continue;
            };
            match self.open_copy(&copy, id) {
                Ok(None) => continue,
                Ok(Some(place)) => match read(self, place) {
                    Ok(value) => return Ok(value),
                    Err(broken) => self.note(&mut first, broken, &copy, id),
                },
                Err(broken) => self.note(&mut first, broken, &copy, id),
            }
        }
        Err(first.unwrap_or_else(|| OdbError::Io {
            doing: "read object",
            path: PathBuf::from(id.to_hex().to_string()),
            source: io::ErrorKind::NotFound.into(),
        }))
    }

    fn open_copy(&self, copy: &Copy, id: &oid) -> Result<Option<Place>, Broken> {
        match copy {
            Copy::Packed(pack, pos) => {
                let offset = self.packs()[*pack as usize].index()?.offset(*pos);
                Ok(Some(Place::Packed(*pack, offset)))
            }
            Copy::Held(bytes) => {
                let reader = LooseReader::held(bytes.clone(), held_name(id))?;
                Ok(Some(Place::Loose(Box::new(reader))))
            }
            Copy::Loose(path) => Ok(LooseReader::open(path.clone())?.map(|reader| Place::Loose(Box::new(reader)))),
        }
    }

    fn note(&self, first: &mut Option<OdbError>, broken: Broken, copy: &Copy, id: &oid) {
        let err = match broken {
            Broken::TooLarge(size) => OdbError::TooLarge {
                id: id.to_owned(),
                size,
                limit: self.shared.limits.object_bytes,
            },
            Broken::Format(source) => OdbError::Corrupt {
                id: id.to_owned(),
                place: match copy {
                    Copy::Packed(pack, _) => self.packs()[*pack as usize].name().to_owned(),
                    Copy::Loose(_) | Copy::Held(_) => "loose".to_owned(),
                },
                source,
            },
            Broken::Other(err) => err,
        };
        tracing::warn!(%id, %err, "a copy of an object cannot be read");
        first.get_or_insert(err);
    }

    fn read_loose(&self, reader: LooseReader, id: &oid, out: &mut Vec<u8>) -> Result<Kind, Broken> {
        if reader.size() > self.shared.limits.object_bytes {
            return Err(Broken::TooLarge(reader.size()));
        }
        let kind = reader.read_all(out)?;
        // A loose file carries no checksum but its name. Whoever brought it was asked about attacks on the hash then.
        if *object_id(self.shared.hash, kind, out) == *id {
            Ok(kind)
        } else {
            Err(Broken::Format(FormatError::Mismatch {
                what: "the object's id",
            }))
        }
    }

    /// Follows the chain of the entry at `offset` to its full base without inflating more than the head of the first delta.
    fn packed_header(&self, pack: u32, offset: u64) -> Result<(Kind, u64), Broken> {
        let pack = &self.packs()[pack as usize];
        let (header, rest) = pack.entry_at(offset)?;
        plausible(header.size, rest)?;
        if let Some(kind) = header.kind.object_kind() {
            return Ok((kind, header.size));
        }
        let mut head = [0; 32];
        let mut scratch = self.scratch.borrow_mut();
        scratch.stream.reset();
        let (mut at, mut filled) = (0, 0);
        while filled < head.len() {
            let step = scratch.stream.step(&rest[at..], &mut head[filled..])?;
            at += step.consumed;
            filled += step.written;
            if step.done || step.consumed + step.written == 0 {
                break;
            }
        }
        let size = delta_sizes(&head[..filled])?.result;
        let mut at = offset;
        for _ in 0..=self.shared.limits.delta_depth {
            let (header, _) = pack.entry_at(at)?;
            match header.kind.object_kind() {
                Some(kind) => return Ok((kind, size)),
                None => at = base_offset(pack, at, header.kind)?,
            }
        }
        Err(too_deep())
    }

    fn unpack(&self, pack_no: u32, offset: u64, out: &mut Vec<u8>) -> Result<Kind, Broken> {
        let pack = &self.packs()[pack_no as usize];
        let scratch = &mut *self.scratch.borrow_mut();
        let contents = &*self.shared.caches.contents;
        let limit = self.shared.limits.object_bytes;
        let checked = |size: u64, compressed: &[u8]| {
            // A size that cannot be true is damage, not a large object.
            plausible(size, compressed)?;
            match usize::try_from(size) {
                Ok(n) if size <= limit => Ok(n),
                _ => Err(Broken::TooLarge(size)),
            }
        };
        // From the object down to something whole.
        let mut chain: Vec<(&[u8], u64)> = Vec::new();
        let mut at = offset;
        let (mut base, kind) = loop {
            if let Some(Content { data, kind, .. }) = contents.get((pack.number(), at)) {
                break (data, kind);
            }
            let (header, rest) = pack.entry_at(at)?;
            match header.kind.object_kind() {
                Some(kind) => {
                    let size = checked(header.size, rest)?;
                    if chain.is_empty() {
                        scratch.inflater.inflate_exact(rest, size, out)?;
                        return Ok(kind);
                    }
                    let mut whole = Vec::new();
                    scratch.inflater.inflate_exact(rest, size, &mut whole)?;
                    let whole = Arc::new(whole);
                    contents.put((pack.number(), at), Content::new(kind, whole.clone()));
                    break (whole, kind);
                }
                None => {
                    if chain.len() as u64 >= u64::from(self.shared.limits.delta_depth) {
                        return Err(too_deep());
                    }
                    chain.push((rest, at));
                    at = base_offset(pack, at, header.kind)?;
                }
            }
        };
        if chain.is_empty() {
            out.extend_from_slice(&base);
            return Ok(kind);
        }
        // And up again.
        while let Some((rest, at)) = chain.pop() {
            let (header, _) = pack.entry_at(at)?;
            let size = checked(header.size, rest)?;
            scratch.delta.clear();
            scratch.inflater.inflate_exact(rest, size, &mut scratch.delta)?;
            let result = delta_sizes(&scratch.delta)?.result;
            if result > limit {
                return Err(Broken::TooLarge(result));
            }
            if chain.is_empty() {
                apply_delta(&base, &scratch.delta, limit, out)?;
            } else {
                let mut next = Vec::new();
                apply_delta(&base, &scratch.delta, limit, &mut next)?;
                base = Arc::new(next);
                contents.put((pack.number(), at), Content::new(kind, base.clone()));
            }
        }
        // One huge delta shall not stay with us for the rest of the request.
        if scratch.delta.capacity() > 4 << 20 {
            scratch.delta = Vec::new();
        }
        Ok(kind)
    }
}

/// One of the places where an object may be read from.
#[derive(PartialEq, Eq)]
enum Copy {
    Packed(u32, u32),
    Held(Arc<[u8]>),
    Loose(PathBuf),
}

/// A copy that is there: pack and offset, or an open file.
enum Place {
    Packed(u32, u64),
    Loose(Box<LooseReader>),
}

/// How an object without a file is named in errors.
fn held_name(id: &oid) -> PathBuf {
    PathBuf::from(format!("{} in quarantine", id.to_hex()))
}

fn too_deep() -> Broken {
    Broken::Format(FormatError::Invalid {
        what: CHAIN,
        why: "longer than the limit",
    })
}

/// Deflate expands a byte to at most 1,032; a size beyond that is a lie, and need not be allocated to find out.
fn plausible(size: u64, compressed: &[u8]) -> Result<(), FormatError> {
    if size / 1_032 > compressed.len() as u64 {
        return Err(FormatError::Truncated { what: "pack entry" });
    }
    Ok(())
}

fn base_offset(pack: &Pack, at: u64, kind: EntryKind) -> Result<u64, Broken> {
    let invalid = |why| Broken::Format(FormatError::Invalid { what: CHAIN, why });
    match kind {
        EntryKind::OfsDelta { distance } => at
            .checked_sub(distance)
            .ok_or_else(|| invalid("a base lies before the pack")),
        EntryKind::RefDelta { base } => {
            let index = pack.index()?;
            let pos = index
                .lookup(&base)
                .ok_or_else(|| invalid("a base is not in the pack"))?;
            Ok(index.offset(pos))
        }
        _ => Ok(at),
    }
}

impl gix::objs::Exists for Odb {
    fn exists(&self, id: &oid) -> bool {
        self.contains(id).unwrap_or(false)
    }
}

impl gix::objs::Find for Odb {
    fn try_find<'a>(
        &self,
        id: &oid,
        buffer: &'a mut Vec<u8>,
    ) -> Result<Option<gix::objs::Data<'a>>, gix::error::Error> {
        match self.read(id, buffer).map_err(gix::error::Error::from_error)? {
            Some(kind) => Ok(Some(gix::objs::Data {
                kind,
                object_hash: self.hash_kind(),
                data: buffer,
            })),
            None => Ok(None),
        }
    }
}

impl gix::objs::FindHeader for Odb {
    fn try_header(&self, id: &oid) -> Result<Option<gix::objs::Header>, gix::error::Error> {
        let header = self.header(id).map_err(gix::error::Error::from_error)?;
        Ok(header.map(|(kind, size)| gix::objs::Header { kind, size }))
    }
}

#[cfg(test)]
mod tests;
