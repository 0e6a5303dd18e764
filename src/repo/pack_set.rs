use std::{
    collections::{HashMap, HashSet},
    ffi::{OsStr, OsString},
    fs, io,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use arc_swap::ArcSwapOption;
use bstr::ByteSlice;
use gix::hash::{Kind as HashKind, oid};

use super::{
    bitmaps::{About, BitmapFile, Bitmaps, Ranked},
    loose::is_absent,
    mmap::Mmap,
    odb::OdbError,
    pack::Pack,
};
use crate::pack::MultiIndex;

/// git follows alternates of alternates five times.
const MAX_ALTERNATE_DEPTH: usize = 5;
/// Objects directories of one repository; a chain of forks is not longer.
const MAX_OBJECT_DIRS: usize = 256;
const MAX_ALTERNATES_BYTES: u64 = 1 << 20;

/// What a file or directory looked like: two equal stamps mean that nothing was added, removed or renamed in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// `None` when there is nothing at `path`.
    pub(crate) fn of(path: &Path) -> io::Result<Option<Stamp>> {
        match fs::metadata(path) {
            Ok(meta) => Ok(Some(Stamp {
                device: meta.dev(),
                inode: meta.ino(),
                size: meta.size(),
                modified: (meta.mtime(), meta.mtime_nsec()),
                changed: (meta.ctime(), meta.ctime_nsec()),
            })),
            Err(err) if is_absent(&err) => Ok(None),
            Err(err) => Err(err),
        }
    }

    /// A directory is the same one, whatever happened in it.
    pub(crate) fn same_place(&self, other: &Stamp) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }

    /// Looked at so soon after the last change that another change could carry the same time.
    fn racy_at(&self, seen: SystemTime) -> bool {
        let (seconds, nanos) = self.modified.max(self.changed);
        let Ok(since) = u64::try_from(seconds) else { return true };
        // File systems that count whole seconds show no nanoseconds.
        let grain = if nanos == 0 { 2_000 } else { 100 };
        let time = UNIX_EPOCH + Duration::new(since, u32::try_from(nanos).unwrap_or(0));
        seen.duration_since(time)
            .is_ok_and(|d| d < Duration::from_millis(grain))
            || seen < time
    }
}

/// A pack and the time that orders it among others.
type Aged = (Arc<Pack>, (i64, i64));

/// The packs of one objects directory as they were listed.
struct Listing {
    objects: PathBuf,
    pack_dir: Option<Stamp>,
    alternates_file: Option<Stamp>,
    seen: SystemTime,
    alternates: Vec<PathBuf>,
    /// Newest first, with the time that says so.
    packs: Vec<Aged>,
    midx: Option<Arc<Midx>>,
    bitmap: Option<Arc<BitmapFile>>,
}

/// A multi-pack-index all of whose packs exist.
struct Midx {
    stamp: Stamp,
    index: Arc<MultiIndex<Mmap>>,
    /// Its packs as positions in the listing.
    packs: Vec<usize>,
}

/// How the packs are searched; part of what makes a location canonical.
enum Step {
    Midx { midx: Arc<Midx>, first: u32 },
    Pack(u32),
}

/// An immutable view of all packs and loose-object directories of a repository: its own, then those of its alternates.
pub struct PackSet {
    listings: Vec<Arc<Listing>>,
    packs: Vec<Arc<Pack>>,
    steps: Vec<Step>,
    loose: Vec<PathBuf>,
    /// Of the first directory that has one. What it is about is searched first, so that every object that has a bit is found where the bit says.
    bitmap: Option<Ranked>,
    /// Which packs of an older view were gone when this one was made (missing at the end: none): what they had is in the others.
    gone: Vec<bool>,
}

/// What a search met on its way.
#[derive(Default)]
pub(crate) struct Search {
    /// A pack that could have had the object but is damaged.
    pub(crate) damage: Option<OdbError>,
    /// A pack was repacked away before it was opened, after this view was made: its objects may be anywhere.
    pub(crate) vanished: Option<OdbError>,
}

impl Search {
    fn index<'p>(&mut self, pack: &'p Pack, gone: bool) -> Result<Option<&'p crate::pack::Index<Mmap>>, OdbError> {
        match pack.index() {
            Ok(index) => Ok(Some(index)),
            Err(err @ OdbError::PackVanished { .. }) => {
                if !gone {
                    self.vanished.get_or_insert(err);
                }
                Ok(None)
            }
            Err(err @ OdbError::PackDamaged { .. }) => {
                self.damage.get_or_insert(err);
                Ok(None)
            }
            // What passes must not change where objects are found.
            Err(err) => Err(err),
        }
    }
}

impl PackSet {
    /// Every pack. A position here stays true for the life of the view.
    pub fn packs(&self) -> &[Arc<Pack>] {
        &self.packs
    }

    /// The objects directories, for loose objects.
    pub fn object_dirs(&self) -> &[PathBuf] {
        &self.loose
    }

    /// Where an object is, always the same answer: pack and position in its index.
    pub(crate) fn locate(&self, id: &oid, search: &mut Search) -> Result<Option<(u32, u32)>, OdbError> {
        for step in &self.steps {
            match step {
                Step::Pack(n) => {
                    if let Some(found) = self.look_into(*n, id, search)? {
                        return Ok(Some(found));
                    }
                }
                Step::Midx { midx, first } => {
                    let Some(pos) = midx.index.lookup(id) else { continue };
                    let named = midx
                        .index
                        .location(pos)
                        .and_then(|(pack, _)| midx.packs.get(pack as usize));
                    let named = named.map(|at| first + *at as u32);
                    if let Some(n) = named
                        && let Some(found) = self.look_into(n, id, search)?
                    {
                        return Ok(Some(found));
                    }
                    // It is not where the multi-pack-index says; another of its packs may have it.
                    for at in &midx.packs {
                        if let Some(found) = self.look_into(first + *at as u32, id, search)? {
                            return Ok(Some(found));
                        }
                    }
                }
            }
        }
        Ok(None)
    }

    fn look_into(&self, n: u32, id: &oid, search: &mut Search) -> Result<Option<(u32, u32)>, OdbError> {
        let gone = self.gone.get(n as usize).copied().unwrap_or(false);
        let index = search.index(&self.packs[n as usize], gone)?;
        Ok(index.and_then(|index| index.lookup(id)).map(|pos| (n, pos)))
    }

    /// Every pack that has the object.
    pub(crate) fn copies(&self, id: &oid) -> Vec<(u32, u32)> {
        let mut search = Search::default();
        (0..self.packs.len() as u32)
            .filter_map(|n| self.look_into(n, id, &mut search).ok().flatten())
            .collect()
    }

    /// Reachability bitmaps, if there are any that can be used.
    pub(crate) fn bitmaps(&self) -> Option<Bitmaps<'_>> {
        self.bitmap.as_ref()?.open()
    }

    fn from_listings(listings: Vec<Arc<Listing>>) -> PackSet {
        let listed = listings.iter().flat_map(|listing| &listing.packs);
        let packs: Vec<Arc<Pack>> = listed.map(|(pack, _)| pack.clone()).collect();
        let bitmap = listings.iter().find_map(|listing| listing.bitmap.as_ref());
        let bitmap = bitmap.and_then(|file| Ranked::new(file.clone(), &packs));
        let (mut steps, mut loose) = (Vec::new(), Vec::new());
        let mut next = 0;
        for listing in &listings {
            let first = next;
            next += listing.packs.len() as u32;
            let mut covered = vec![false; listing.packs.len()];
            if let Some(midx) = &listing.midx {
                midx.packs.iter().for_each(|at| covered[*at] = true);
                steps.push(Step::Midx {
                    midx: midx.clone(),
                    first,
                });
            }
            let uncovered = covered.iter().enumerate().filter(|(_, covered)| !**covered);
            steps.extend(uncovered.map(|(at, _)| Step::Pack(first + at as u32)));
            loose.push(listing.objects.clone());
        }
        if let Some(bitmap) = &bitmap {
            let about = |step: &Step| match (step, bitmap.only_pack()) {
                (Step::Pack(n), pack) => pack == Some(*n),
                (Step::Midx { midx, .. }, None) => bitmap.is_about(&midx.index),
                (Step::Midx { .. }, Some(_)) => false,
            };
            match (steps.iter().position(about), bitmap.only_pack()) {
                (Some(at), _) => steps[..=at].rotate_right(1),
                // One of those that a multi-pack-index covers.
                (None, Some(pack)) => steps.insert(0, Step::Pack(pack)),
                (None, None) => {}
            }
        }
        PackSet {
            listings,
            packs,
            steps,
            loose,
            bitmap,
            gone: Vec::new(),
        }
    }

    /// Whether `newer` has a pack that this view does not know.
    pub(crate) fn lacks_of(&self, newer: &PackSet) -> bool {
        let known = |pack: &Arc<Pack>| self.packs.iter().any(|known| Arc::ptr_eq(known, pack));
        !newer.packs.iter().all(known)
    }

    /// This view, with what `newer` has besides appended: nothing that was found before is found elsewhere now.
    pub(crate) fn extended(&self, newer: &PackSet) -> PackSet {
        let mut packs = self.packs.clone();
        let is_listed = |pack| newer.packs.iter().any(|listed| Arc::ptr_eq(listed, pack));
        let gone = packs.iter().map(|pack| !is_listed(pack)).collect();
        let mut steps: Vec<Step> = self.steps.iter().map(Step::share).collect();
        for pack in &newer.packs {
            if !self.packs.iter().any(|known| Arc::ptr_eq(known, pack)) {
                steps.push(Step::Pack(packs.len() as u32));
                packs.push(pack.clone());
            }
        }
        let mut loose = self.loose.clone();
        loose.extend(newer.loose.iter().filter(|dir| !self.loose.contains(dir)).cloned());
        PackSet {
            listings: newer.listings.clone(),
            packs,
            steps,
            loose,
            bitmap: self.bitmap.clone(),
            gone,
        }
    }
}

impl Step {
    fn share(&self) -> Step {
        match self {
            Step::Pack(n) => Step::Pack(*n),
            Step::Midx { midx, first } => Step::Midx {
                midx: midx.clone(),
                first: *first,
            },
        }
    }
}

/// How packs are read (`core.multiPackIndex`, `pack.readReverseIndex`, `pack.useBitmaps`).
#[derive(Debug, Clone, Copy)]
pub(crate) struct StoreOptions {
    pub(crate) hash: HashKind,
    pub(crate) midx: bool,
    pub(crate) rev: bool,
    pub(crate) bitmaps: bool,
}

/// The current [`PackSet`] of a repository, for all its requests.
pub(crate) struct Store {
    number: u64,
    objects: PathBuf,
    options: StoreOptions,
    current: ArcSwapOption<PackSet>,
    /// Listings begun, and the number of the last one that ended.
    begun: AtomicU64,
    ended: Mutex<u64>,
}

impl Store {
    pub(crate) fn new(objects: PathBuf, options: StoreOptions) -> Store {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Store {
            number: NEXT.fetch_add(1, Ordering::Relaxed),
            objects,
            options,
            current: ArcSwapOption::empty(),
            begun: AtomicU64::new(0),
            ended: Mutex::new(0),
        }
    }

    /// A number that no other repository that this process opened has had.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// The view of now: the last one when no directory has changed since, by a stat of each.
    pub(crate) fn current(&self) -> Result<Arc<PackSet>, OdbError> {
        if let Some(set) = self.current.load_full()
            && set.listings.iter().all(|listing| listing.is_fresh())
        {
            return Ok(set);
        }
        self.list(false)
    }

    /// The view of now by listing every directory, whatever its times say.
    pub(crate) fn refreshed(&self) -> Result<Arc<PackSet>, OdbError> {
        self.list(true)
    }

    fn list(&self, force: bool) -> Result<Arc<PackSet>, OdbError> {
        let asked = self.begun.load(Ordering::SeqCst);
        let mut ended = self.ended.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let known = self.current.load_full();
        // Somebody began listing after we asked: what he saw is new enough.
        if let Some(known) = &known
            && *ended > asked
        {
            return Ok(known.clone());
        }
        let this = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
        let listings = list_all(&self.objects, self.options, known.as_deref(), force)?;
        let set = match known {
            // Only the times changed: keep the view, so that nothing is built anew.
            Some(known) if same(&known.listings, &listings) => known,
            _ => Arc::new(PackSet::from_listings(listings)),
        };
        self.current.store(Some(set.clone()));
        *ended = this;
        Ok(set)
    }

    /// A view with the packs and loose objects of one more directory behind those of now.
    pub(crate) fn with_quarantine(&self, objects: &Path) -> Result<PackSet, OdbError> {
        let main = self.current()?;
        let extra = list_dir(objects.to_owned(), self.options, None)?;
        let mut set = main.extended(&PackSet::from_listings(vec![Arc::new(extra)]));
        set.gone.clear();
        Ok(set)
    }
}

fn same(a: &[Arc<Listing>], b: &[Arc<Listing>]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| Arc::ptr_eq(a, b))
}

/// The listing of the repository's own directory and of every alternate, each once.
fn list_all(
    objects: &Path,
    options: StoreOptions,
    known: Option<&PackSet>,
    force: bool,
) -> Result<Vec<Arc<Listing>>, OdbError> {
    let mut listings: Vec<Arc<Listing>> = Vec::new();
    let mut places: Vec<Stamp> = Vec::new();
    let mut todo = vec![(objects.to_owned(), 0)];
    while let Some((dir, depth)) = todo.pop() {
        let place = match Stamp::of(&dir) {
            Ok(Some(place)) => place,
            // git warns of an alternate that is not there, and goes on without it.
            Ok(None) if depth > 0 => {
                tracing::warn!(path = %dir.display(), "an alternate object directory does not exist");
                continue;
            }
            Ok(None) => {
                return Err(OdbError::Io {
                    doing: "open",
                    path: dir,
                    source: io::ErrorKind::NotFound.into(),
                });
            }
            Err(source) => {
                return Err(OdbError::Io {
                    doing: "look at",
                    path: dir,
                    source,
                });
            }
        };
        if places.iter().any(|known| known.same_place(&place)) {
            continue;
        }
        if listings.len() == MAX_OBJECT_DIRS {
            tracing::warn!(path = %objects.display(), "too many alternate object directories; the rest is not used");
            break;
        }
        places.push(place);
        let old = known.and_then(|set| set.listings.iter().find(|listing| listing.objects == dir));
        let listing = match old {
            Some(old) if !force && old.is_fresh() => old.clone(),
            _ => Arc::new(list_dir(dir, options, old.map(|old| &**old))?),
        };
        // Unchanged after all: the old one, so that the view need not change.
        let listing = match old {
            Some(old) if old.equals(&listing) => old.clone(),
            _ => listing,
        };
        if depth < MAX_ALTERNATE_DEPTH {
            // Popped from the end: the first alternate is followed first, as git does.
            todo.extend(listing.alternates.iter().rev().map(|dir| (dir.clone(), depth + 1)));
        } else if !listing.alternates.is_empty() {
            tracing::warn!(path = %listing.objects.display(), "alternates are nested too deep; the rest is not used");
        }
        listings.push(listing);
    }
    Ok(listings)
}

impl Listing {
    /// Nothing has changed since it was made, as far as times can tell.
    fn is_fresh(&self) -> bool {
        let unchanged = |path: &str, stamp: &Option<Stamp>| {
            Stamp::of(&self.objects.join(path)).is_ok_and(|now| now == *stamp)
                && stamp.is_none_or(|stamp| !stamp.racy_at(self.seen))
        };
        unchanged("pack", &self.pack_dir) && unchanged("info/alternates", &self.alternates_file)
    }

    /// The same in every word, the time of looking included: what was racy must not stay so for ever.
    fn equals(&self, other: &Listing) -> bool {
        let racy = |stamp: &Option<Stamp>| stamp.is_some_and(|stamp| stamp.racy_at(self.seen));
        self.pack_dir == other.pack_dir
            && self.alternates_file == other.alternates_file
            && !racy(&self.pack_dir)
            && !racy(&self.alternates_file)
            && self.alternates == other.alternates
            && self.packs.len() == other.packs.len()
            && self
                .packs
                .iter()
                .zip(&other.packs)
                .all(|(a, b)| Arc::ptr_eq(&a.0, &b.0))
            && match (&self.midx, &other.midx) {
                (None, None) => true,
                (Some(a), Some(b)) => Arc::ptr_eq(a, b),
                _ => false,
            }
            && match (&self.bitmap, &other.bitmap) {
                (None, None) => true,
                (Some(a), Some(b)) => Arc::ptr_eq(a, b),
                _ => false,
            }
    }
}

fn list_dir(objects: PathBuf, options: StoreOptions, old: Option<&Listing>) -> Result<Listing, OdbError> {
    let pack_path = objects.join("pack");
    let alternates_path = objects.join("info/alternates");
    let stamp = |path: &Path| {
        Stamp::of(path).map_err(|source| OdbError::Io {
            doing: "look at",
            path: path.to_owned(),
            source,
        })
    };
    // Stamps before contents: what changes in between is seen by the next look.
    let seen = SystemTime::now();
    let pack_dir = stamp(&pack_path)?;
    let alternates_file = stamp(&alternates_path)?;
    let alternates = match alternates_file {
        Some(_) => read_alternates(&objects, &alternates_path)?,
        None => Vec::new(),
    };
    let (mut packs, bitmaps) = match pack_dir {
        Some(_) => list_packs(&pack_path, options, old)?,
        None => Default::default(),
    };
    packs.sort_by(|(a, a_time), (b, b_time)| b_time.cmp(a_time).then_with(|| a.path().cmp(b.path())));
    let midx = if options.midx && !packs.is_empty() {
        read_midx(&pack_path.join("multi-pack-index"), options.hash, &packs, old)
    } else {
        None
    };
    let bitmap = match options.bitmaps {
        true => find_bitmap(&pack_path, &bitmaps, options.hash, &packs, midx.as_deref(), old),
        false => None,
    };
    Ok(Listing {
        objects,
        pack_dir,
        alternates_file,
        seen,
        alternates,
        packs,
        midx,
        bitmap,
    })
}

/// The packs of a directory, and the names of its bitmaps without their ending.
fn list_packs(
    dir: &Path,
    options: StoreOptions,
    old: Option<&Listing>,
) -> Result<(Vec<Aged>, HashSet<Vec<u8>>), OdbError> {
    let io = |source| OdbError::Io {
        doing: "list",
        path: dir.to_owned(),
        source,
    };
    let (mut with_pack, mut bitmaps, mut with_index) = (HashSet::new(), HashSet::new(), Vec::new());
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(err) if is_absent(&err) => return Ok(Default::default()),
        Err(err) => return Err(io(err)),
    };
    for entry in entries {
        let name = entry.map_err(io)?.file_name();
        let bytes = name.as_bytes();
        if let Some(stem) = bytes.strip_suffix(b".pack") {
            with_pack.insert(stem.to_owned());
        } else if let Some(stem) = bytes.strip_suffix(b".bitmap") {
            bitmaps.insert(stem.to_owned());
        } else if let Some(stem) = bytes.strip_suffix(b".idx") {
            with_index.push(stem.to_owned());
        }
    }
    let known: HashMap<&OsStr, &Aged> = old
        .map(|old| &old.packs[..])
        .unwrap_or_default()
        .iter()
        .filter(|(pack, _)| !pack.has_vanished())
        .filter_map(|entry| Some((entry.0.path().file_name()?, entry)))
        .collect();
    let mut packs = Vec::with_capacity(with_index.len());
    for stem in with_index {
        if !with_pack.contains(&stem) {
            continue;
        }
        let mut name = OsString::from(OsStr::from_bytes(&stem));
        name.push(".pack");
        if let Some(known) = known.get(name.as_os_str()) {
            packs.push((*known).clone());
            continue;
        }
        let path = dir.join(name);
        match Stamp::of(&path).map_err(io)? {
            Some(stamp) => packs.push((
                Arc::new(Pack::with_rev(path, options.hash, options.rev)),
                stamp.modified,
            )),
            None => continue,
        }
    }
    Ok((packs, bitmaps))
}

/// The bitmap of the multi-pack-index, or that of the largest pack that has one.
fn find_bitmap(
    dir: &Path,
    names: &HashSet<Vec<u8>>,
    hash: HashKind,
    packs: &[Aged],
    midx: Option<&Midx>,
    old: Option<&Listing>,
) -> Option<Arc<BitmapFile>> {
    if names.is_empty() {
        return None;
    }
    let of_midx = midx.and_then(|midx| {
        let name = format!("multi-pack-index-{}", midx.index.checksum()?.to_hex());
        let covered = midx.packs.iter().map(|at| packs[*at].0.clone()).collect();
        let path = dir.join(format!("{name}.bitmap"));
        names
            .contains(name.as_bytes())
            .then(|| (path, About::Midx(midx.index.clone(), covered)))
    });
    let (path, about) = of_midx.or_else(|| {
        let has_one = |pack: &&Arc<Pack>| {
            pack.path()
                .file_stem()
                .is_some_and(|stem| names.contains(stem.as_bytes()))
        };
        let size = |pack: &&Arc<Pack>| fs::metadata(pack.path()).map_or(0, |meta| meta.len());
        let pack = packs.iter().map(|(pack, _)| pack).filter(has_one).max_by_key(size)?;
        Some((pack.path().with_extension("bitmap"), About::Pack(pack.clone())))
    })?;
    let stamp = Stamp::of(&path).ok()??;
    let file = BitmapFile::new(path, stamp, hash, about);
    match old.and_then(|old| old.bitmap.as_ref()) {
        Some(old) if old.same(&file) => Some(old.clone()),
        _ => Some(Arc::new(file)),
    }
}

fn read_midx(path: &Path, hash: HashKind, packs: &[Aged], old: Option<&Listing>) -> Option<Arc<Midx>> {
    let stamp = Stamp::of(path).ok()??;
    let by_name: HashMap<&OsStr, usize> = packs
        .iter()
        .enumerate()
        .filter_map(|(at, (pack, _))| Some((pack.path().file_name()?, at)))
        .collect();
    let resolve = |index: &MultiIndex<Mmap>| {
        index
            .pack_names()
            .map(|name| {
                let stem = name.strip_suffix(b".idx")?;
                let mut file = OsString::from(OsStr::from_bytes(stem));
                file.push(".pack");
                by_name.get(file.as_os_str()).copied()
            })
            .collect::<Option<Vec<_>>>()
    };
    if let Some(old) = old.and_then(|old| old.midx.as_ref())
        && old.stamp == stamp
        && let Some(packs) = resolve(&old.index)
    {
        if packs == old.packs {
            return Some(old.clone());
        }
        let index = old.index.clone();
        return Some(Arc::new(Midx { stamp, index, packs }));
    }
    let index = MultiIndex::parse(Mmap::open(path).ok()?, hash)
        .inspect_err(|err| tracing::warn!(path = %path.display(), %err, "the multi-pack-index is not used"))
        .ok()?;
    // One that names packs that are gone is older than the last repack.
    let packs = resolve(&index)?;
    let index = Arc::new(index);
    Some(Arc::new(Midx { stamp, index, packs }))
}

/// `objects/info/alternates` (gitrepository-layout(5)): a path a line, absolute or relative to the objects directory; `#` begins a comment, `"` a C-quoted path.
fn read_alternates(objects: &Path, path: &Path) -> Result<Vec<PathBuf>, OdbError> {
    use io::Read;
    let mut bytes = Vec::new();
    match fs::File::open(path) {
        Ok(file) => file
            .take(MAX_ALTERNATES_BYTES)
            .read_to_end(&mut bytes)
            .map_err(|source| OdbError::Io {
                doing: "read",
                path: path.to_owned(),
                source,
            })?,
        Err(err) if is_absent(&err) => return Ok(Vec::new()),
        Err(source) => {
            return Err(OdbError::Io {
                doing: "open",
                path: path.to_owned(),
                source,
            });
        }
    };
    let mut dirs = Vec::new();
    for line in bytes.lines() {
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        let unquoted;
        let line = if line.starts_with(b"\"") {
            match gix::quote::ansi_c::undo(line.as_bstr()) {
                Ok((text, _)) => {
                    unquoted = text.into_owned();
                    &unquoted[..]
                }
                // Not quoted after all, only oddly named.
                Err(_) => line,
            }
        } else {
            line
        };
        dirs.push(objects.join(OsStr::from_bytes(line)));
    }
    Ok(dirs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alternates_are_lines_with_comments_and_quotes() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let file = dir.path().join("alternates");
        fs::write(
            &file,
            "# comment\n\n/abs/objects\n../../other.git/objects\n\"/with\\ttab\"\n",
        )
        .expect("write");
        assert_eq!(
            read_alternates(Path::new("/r/objects"), &file).expect("read"),
            [
                PathBuf::from("/abs/objects"),
                PathBuf::from("/r/objects/../../other.git/objects"),
                PathBuf::from("/with\ttab"),
            ]
        );
    }
}
