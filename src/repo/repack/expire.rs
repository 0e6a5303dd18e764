//! Objects that nothing refers to: they are set aside in a cruft pack, and dropped when they have been of no use for long enough.
//!
//! git's danger here is a writer that finds an old object, need not write it, and refers to it just when it is dropped. Three things stand against that: whoever
//! finds an object that nobody needed until now makes its file young, and young files are kept, as in git; every writer of ours holds the objects
//! ([`Repository::hold_objects`]) from looking until its ref is there, and nothing is dropped while anybody does; and when nobody does, all refs
//! are looked at once more.

use std::{
    collections::{HashMap, HashSet},
    fs,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use gix::hash::{ObjectId, oid};

use super::{
    Attempt, Avoid, CompactOutcome, CompactPhase, RepackError, Step, check,
    choose::{self, Chosen},
    error::Trouble,
    graph_file,
    needed::{self, Demand, Marks, Universe},
    retire::{self, remove},
};
use crate::{
    pack::{Mtimes, write_mtimes},
    repo::{Mmap, Odb, OdbError, Pack, Quarantine, Repository, flock::Flock, loose::is_absent, loose_path},
};

/// How long whoever drops objects waits for those who hold them.
const PATIENCE: Duration = Duration::from_secs(10);
/// The file that is new whenever objects were dropped.
const DROPPED: &str = "gitstead-dropped";
const POLL: Duration = Duration::from_millis(5);
/// Where nobody asks for it, everything is packed anew when one in so many objects is nobody's.
const WORTH: usize = 16;
/// Loose objects that are deleted before writers get their turn.
const AT_A_TIME: usize = 4_096;

/// When objects that nothing refers to are dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Expiry {
    /// Never; nor are they set aside.
    #[default]
    Never,
    /// As `gc.pruneExpire` says: two weeks after they were of use for the last time.
    Configured,
    /// So long after they were of use for the last time.
    After(Duration),
}

/// Why nothing was dropped that should have been looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExpirySkip {
    /// A ref needs this, and it is missing or damaged: what else is needed cannot be known.
    Incomplete(ObjectId),
    /// A ref or HEAD is broken, or names a ref that is not there: what it led to cannot be known.
    BrokenRef,
    /// A part of the repository is somebody else's promise.
    Partial,
    /// Somebody was using the objects all the time.
    Busy,
    /// Something was of use again meanwhile.
    Wanted,
}

/// Everything that may be packed anew, sorted out.
pub(super) struct Sorted {
    chosen: Chosen,
    universe: Universe,
    needed: Vec<u64>,
    /// What refs reach besides.
    others: HashSet<ObjectId>,
    /// What nothing refers to and is kept, with the time when it was of use.
    aside: HashMap<ObjectId, u32>,
    expired: HashSet<ObjectId>,
    cutoff: SystemTime,
    /// The files of the packs as they were.
    stamps: Vec<(PathBuf, Option<SystemTime>)>,
}

impl Repository {
    /// Keeps objects that are there from being dropped, though nothing refers to them, until the guard goes: to be held from before they are looked for
    /// until a ref leads to them. Waits for whoever drops some just now, for a moment.
    ///
    /// It is a lock of the directory of objects. `None` where the file system cannot lock directories: then nobody drops anything.
    ///
    /// # Errors
    /// When the directory cannot be opened or locked just now.
    pub fn hold_objects(&self) -> Result<Option<ObjectsHeld>, OdbError> {
        use rustix::io::Errno;
        let failed = |source| OdbError::Io {
            doing: "hold",
            path: self.objects_dir().to_owned(),
            source,
        };
        let dir = fs::File::open(self.objects_dir()).map_err(failed)?;
        match Flock::shared(dir) {
            Ok(lock) => Ok(Some(ObjectsHeld(lock))),
            Err(err) => match Errno::from_io_error(&err) {
                Some(Errno::NOTSUP | Errno::NOSYS | Errno::INVAL | Errno::BADF) => Ok(None),
                _ => Err(failed(err)),
            },
        }
    }

    /// A stamp that changes whenever objects are dropped: whoever remembers that one is there asks again then. To be asked while objects are held.
    pub(crate) fn dropped_stamp(&self) -> Option<(SystemTime, u64)> {
        use std::os::unix::fs::MetadataExt as _;
        let meta = fs::metadata(self.common_dir().join(DROPPED)).ok()?;
        Some((meta.modified().ok()?, meta.ino()))
    }

    fn tell_of_dropping(&self) -> Result<(), RepackError> {
        let path = self.common_dir().join(DROPPED);
        let temp = path.with_extension("tmp");
        // Another file each time: its time alone may be the same.
        fs::write(&temp, "")
            .and_then(|()| fs::rename(&temp, &path))
            .map_err(RepackError::io("write", path))
    }

    /// Nobody holds objects while this is held. `None` where that cannot be had.
    fn objects_alone(&self) -> Option<Flock> {
        let until = Instant::now() + PATIENCE;
        loop {
            match Flock::try_exclusive(fs::File::open(self.objects_dir()).ok()?) {
                Ok(Some(lock)) => return Some(lock),
                Ok(None) if Instant::now() < until => std::thread::park_timeout(POLL),
                _ => return None,
            }
        }
    }
}

/// See [`Repository::hold_objects`].
#[must_use = "hold it until a ref leads to the objects"]
#[derive(Debug)]
pub struct ObjectsHeld(#[expect(dead_code, reason = "held for its drop")] Flock);

impl Attempt<'_> {
    /// Finds out what nothing refers to, if that is to be known. `None` when there is nothing to set aside or drop.
    pub(super) fn sort_out(&mut self, avoid: &Avoid) -> Result<Option<Sorted>, Trouble> {
        let Some(cutoff) = self.cutoff() else { return Ok(None) };
        let (repo, odb, stop) = (self.repo, self.odb, self.stop);
        let chosen = &choose::choose(odb, repo.objects_dir(), true, 2, avoid)?;
        let promised = |pack: &Arc<Pack>| pack.path().with_extension("promisor").exists();
        if odb.packs().iter().any(promised) {
            self.postponed = Some(ExpirySkip::Partial);
            return Ok(None);
        }
        let cruft = choose::cruft(odb, repo.objects_dir(), avoid);
        let mut all = chosen.clone();
        all.packs.extend(&cruft);
        let (mut stamps, mut ids) = (Vec::new(), all.loose.clone());
        for number in &all.packs {
            let pack = &odb.packs()[*number as usize];
            stamps.push((pack.path().to_owned(), modified(pack)));
            let index = pack.index()?;
            ids.extend((0..index.len()).map(|pos| index.oid(pos).to_owned()));
        }
        // The largest first: that is where deltas are taken from.
        let mut sizes = HashMap::new();
        for number in &all.packs {
            sizes.insert(*number, odb.packs()[*number as usize].index()?.len());
        }
        all.packs.sort_by_key(|number| std::cmp::Reverse(sizes[number]));
        let universe = Universe::of(ids);
        let shallow = repo.shallow().map_err(|_| RepackError::Unsound {
            why: "the list of shallow commits cannot be read",
        })?;
        let mut told = self.tell(CompactPhase::Reaching, universe.ids().len() as u64);
        let mut marks = Marks::new(odb, &universe, &shallow, stop);
        let skipped = match needed::tips(repo)? {
            None => Some(ExpirySkip::BrokenRef),
            Some(tips) => marks.from(tips, Demand::Whole, &mut told)?.map(ExpirySkip::Incomplete),
        };
        if skipped.is_some() {
            drop(told);
            self.postponed = skipped;
            return Ok(None);
        }
        let (needed, others) = (marks.bits().to_vec(), marks.others().clone());
        let idle: Vec<usize> = (0..universe.ids().len()).filter(|place| !marks.has(*place)).collect();
        let mut lasting: HashSet<ObjectId> = HashSet::new();
        let mut times = HashMap::new();
        if !idle.is_empty() {
            let mut windows = HashSet::new();
            needed::mentioned(
                repo.common_dir(),
                odb.hash_kind().len_in_hex(),
                &mut |id| {
                    lasting.insert(id);
                },
                &mut |id| {
                    if let Some(place) = universe.place(id)
                        && !needed::is_set(&needed, place)
                    {
                        windows.insert(id.to_owned());
                    }
                },
                stop,
            )?;
            lasting.extend(windows);
            let clocks = Clocks::of(repo, odb, &all)?;
            let cutoff = seconds(cutoff);
            for place in &idle {
                let id = universe.ids()[*place];
                let time = clocks.of_object(&id);
                times.insert(id, time);
                if time > cutoff {
                    lasting.insert(id);
                }
            }
            marks.from(lasting, Demand::WhatIsThere, &mut told)?;
        }
        drop(told);
        let (mut aside, mut expired) = (HashMap::new(), HashSet::new());
        for place in idle {
            let id = universe.ids()[place];
            if marks.has(place) {
                aside.insert(id, times[&id]);
            } else {
                expired.insert(id);
            }
        }
        drop(marks);
        if expired.is_empty() && self.is_settled(&cruft, chosen, &aside)? {
            return Ok(None);
        }
        let is_worth_it = (expired.len() + aside.len()) * WORTH >= universe.ids().len();
        if !self.options.all && !is_worth_it {
            return Ok(None);
        }
        Ok(Some(Sorted {
            chosen: all,
            universe,
            needed,
            others,
            aside,
            expired,
            cutoff,
            stamps,
        }))
    }

    /// What is older is dropped; `None` when nothing is to be.
    fn cutoff(&self) -> Option<SystemTime> {
        let age = match self.options.expiry {
            Expiry::Never => return None,
            Expiry::Configured => self.repo.settings().gc.prune_expire?,
            Expiry::After(age) => age,
        };
        Some(SystemTime::now().checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH))
    }

    /// Whether one cruft pack has what is set aside, and only that, and nobody else has any of it.
    fn is_settled(&self, cruft: &[u32], chosen: &Chosen, aside: &HashMap<ObjectId, u32>) -> Result<bool, RepackError> {
        let packs = self.odb.packs();
        let mut packed = 0;
        for number in cruft {
            let index = packs[*number as usize].index()?;
            packed += index.len() as usize;
            if (0..index.len()).any(|pos| !aside.contains_key(index.oid(pos))) {
                return Ok(false);
            }
        }
        if cruft.len() > 1 || packed != aside.len() {
            return Ok(false);
        }
        for number in &chosen.packs {
            let index = packs[*number as usize].index()?;
            if aside.keys().any(|id| index.lookup(id).is_some()) {
                return Ok(false);
            }
        }
        Ok(!chosen.loose.iter().any(|id| aside.contains_key(id)))
    }

    /// Makes a pack of what refs reach and one of what is set aside, and drops the rest.
    pub(super) fn run_sorted(&mut self, sorted: &Sorted) -> Result<CompactOutcome, Trouble> {
        self.check_room(&sorted.chosen)?;
        let mut quarantine = Quarantine::create(self.repo);
        let mut outcome = CompactOutcome::default();
        let (mut needed, mut unneeded) = (None, None);
        let is_needed =
            |id: &oid| (sorted.universe.place(id)).is_some_and(|place| needed::is_set(&sorted.needed, place));
        if let Some((new, done)) = self.write_pack(&sorted.of(&is_needed), &is_needed, &mut quarantine)? {
            let stem = self.stage(&mut quarantine, new)?;
            outcome = done;
            outcome.pack = Some(format!("{stem}.pack"));
            needed = Some(stem);
        }
        let is_aside = |id: &oid| sorted.aside.contains_key(id);
        if let Some((new, done)) = self.write_pack(&sorted.of(&is_aside), &is_aside, &mut quarantine)? {
            let (trailer, idx) = (new.trailer, new.idx.clone());
            let stem = self.stage(&mut quarantine, new)?;
            let hash = self.odb.hash_kind();
            let index = crate::pack::Index::parse(idx, hash).map_err(|_| RepackError::Unsound {
                why: "its index cannot be read",
            })?;
            let times: Vec<u32> = (0..index.len())
                .map(|pos| sorted.aside.get(index.oid(pos)).copied().unwrap_or_default())
                .collect();
            let mut mtimes = Vec::new();
            write_mtimes(&times, &trailer, hash, &mut mtimes).map_err(RepackError::io("write", "a list of times"))?;
            quarantine.add_mtimes(&stem, &mtimes).map_err(RepackError::Publish)?;
            outcome.aside = done.objects;
            outcome.aside_bytes = done.bytes;
            unneeded = Some(stem);
        }
        if !(self.go_on)(Step::Staged) {
            std::mem::forget(quarantine);
            return Err(RepackError::Stopped.into());
        }
        check(self.stop)?;
        // Copies, so far.
        let published = quarantine.migrate().map_err(RepackError::Publish)?;
        if !(self.go_on)(Step::Published) {
            std::mem::forget(published);
            return Err(RepackError::Stopped.into());
        }
        let alone = match self.may_drop(sorted)? {
            Ok(alone) => alone,
            Err(why) => {
                self.postponed = Some(why);
                return Ok(CompactOutcome::default());
            }
        };
        let objects_dir = self.repo.objects_dir();
        let stems: Vec<&String> = needed.iter().chain(&unneeded).collect();
        let (new, replaced) = (self.opened(&stems), self.replaced_by(&sorted.chosen));
        if let Some(stem) = &needed {
            // The same objects may have made the same pack when they were set aside.
            match remove(&objects_dir.join(format!("pack/{stem}.mtimes"))) {
                Err(err) if !is_absent(&err) => return Err(RepackError::io("delete", "a list of times")(err).into()),
                _ => {}
            }
        }
        let stays = |id: &oid| !sorted.expired.contains(id);
        if !sorted.expired.is_empty() {
            self.repo.tell_of_dropping()?;
            graph_file::forget(self.odb, objects_dir, &sorted.expired)?;
        }
        let mut retired = retire::retire(&new, &stays, &replaced, &[], objects_dir)?;
        // From here on writers may find again what is there.
        drop(alone);
        let loose = retire::retire(&new, &stays, &[], &sorted.chosen.loose, objects_dir)?;
        (retired.loose, retired.bytes) = (loose.loose, retired.bytes + loose.bytes);
        outcome.expired = sorted.expired.len() as u32;
        let (deleted, bytes) = self.drop_loose(sorted)?;
        drop(published);
        outcome.packs_deleted = retired.packs;
        outcome.loose_deleted = retired.loose + deleted;
        outcome.bytes_deleted = retired.bytes + bytes;
        Ok(outcome)
    }

    /// The right to drop what was found to be of no use, if it still is.
    fn may_drop(&self, sorted: &Sorted) -> Result<Result<Flock, ExpirySkip>, RepackError> {
        let Some(alone) = self.repo.objects_alone() else {
            return Ok(Err(ExpirySkip::Busy));
        };
        // A pack that has become young has something in it that somebody wants.
        let is_as_it_was = |(path, then): &(PathBuf, Option<SystemTime>)| {
            fs::metadata(path).and_then(|meta| meta.modified()).ok() == *then
        };
        let is_wanted = !sorted.expired.is_empty()
            && (self.wants_expired(sorted)?
                || self.mentions_expired(sorted)?
                || !sorted.stamps.iter().all(is_as_it_was));
        Ok(match is_wanted {
            true => Err(ExpirySkip::Wanted),
            false => Ok(alone),
        })
    }

    /// Whether any ref of now leads to something that is to be dropped. What was reached or set aside before is whole without it.
    fn wants_expired(&self, sorted: &Sorted) -> Result<bool, RepackError> {
        let odb = self.repo.odb()?;
        let shallow = self.repo.shallow().unwrap_or_default();
        let mut known = sorted.needed.clone();
        for id in sorted.aside.keys() {
            if let Some(place) = sorted.universe.place(id) {
                known[place / 64] |= 1 << (place % 64);
            }
        }
        let mut marks = Marks::new(&odb, &sorted.universe, &shallow, self.stop).with(&known, &sorted.others);
        let Some(tips) = needed::tips(self.repo)? else {
            return Ok(true);
        };
        marks.from(tips, Demand::WhatIsThere, &mut |_| ())?;
        Ok((sorted.expired.iter())
            .filter_map(|id| sorted.universe.place(id))
            .any(|place| marks.has(place)))
    }

    /// Whether any file of the repository mentions now what is to be dropped: the HEAD or index of another worktree, say.
    fn mentions_expired(&self, sorted: &Sorted) -> Result<bool, RepackError> {
        let (mut by_name, mut by_bytes) = (false, false);
        needed::mentioned(
            self.repo.common_dir(),
            self.odb.hash_kind().len_in_hex(),
            &mut |id| by_name |= sorted.expired.contains(&id),
            &mut |id| {
                by_bytes |= sorted.universe.place(id).is_some() && sorted.expired.contains(&id.to_owned());
            },
            self.stop,
        )?;
        Ok(by_name || by_bytes)
    }

    /// Deletes the loose objects among what is dropped, except those that have become young.
    fn drop_loose(&mut self, sorted: &Sorted) -> Result<(u32, u64), RepackError> {
        let is_expired = |id: &&ObjectId| sorted.expired.contains(*id);
        let expired: Vec<&ObjectId> = sorted.chosen.loose.iter().filter(is_expired).collect();
        let (mut deleted, mut bytes) = (0, 0);
        for some in expired.chunks(AT_A_TIME) {
            check(self.stop)?;
            let Ok(_alone) = self.may_drop_loose(sorted)? else {
                break;
            };
            for id in some {
                let path = loose_path(self.repo.objects_dir(), id);
                let is_old = fs::symlink_metadata(&path)
                    .and_then(|meta| meta.modified())
                    .is_ok_and(|time| time <= sorted.cutoff);
                if is_old && let Ok(len) = remove(&path) {
                    deleted += 1;
                    bytes += len;
                }
            }
        }
        Ok((deleted, bytes))
    }

    fn may_drop_loose(&self, sorted: &Sorted) -> Result<Result<Flock, ExpirySkip>, RepackError> {
        let Some(alone) = self.repo.objects_alone() else {
            return Ok(Err(ExpirySkip::Busy));
        };
        Ok(match self.wants_expired(sorted)? {
            true => Err(ExpirySkip::Wanted),
            false => Ok(alone),
        })
    }
}

impl Sorted {
    /// What is chosen, of loose objects those that are meant.
    fn of(&self, meant: &dyn Fn(&oid) -> bool) -> Chosen {
        let mut chosen = self.chosen.clone();
        chosen.loose.retain(|id| meant(id));
        chosen
    }
}

/// When objects were of use: what their files say.
struct Clocks<'a> {
    packs: Vec<(&'a Pack, u32, Option<Mtimes<Mmap>>)>,
    loose: &'a [ObjectId],
    repo: &'a Repository,
}

impl<'a> Clocks<'a> {
    fn of(repo: &'a Repository, odb: &'a Odb, chosen: &'a Chosen) -> Result<Self, RepackError> {
        let mut packs = Vec::new();
        for number in &chosen.packs {
            let pack = &*odb.packs()[*number as usize];
            let path = pack.path().with_extension("mtimes");
            let times = match Mmap::open(&path) {
                Ok(map) => Mtimes::parse(map, pack.index()?.len(), odb.hash_kind()).ok(),
                Err(_) => None,
            };
            packs.push((pack, modified(pack).map_or(0, seconds), times));
        }
        Ok(Clocks {
            packs,
            loose: &chosen.loose,
            repo,
        })
    }

    fn of_object(&self, id: &oid) -> u32 {
        let mut time = 0;
        for (pack, of_pack, each) in &self.packs {
            let Some(pos) = pack.index().ok().and_then(|index| index.lookup(id)) else {
                continue;
            };
            time = time.max(each.as_ref().and_then(|times| times.at(pos)).unwrap_or(*of_pack));
        }
        if self
            .loose
            .binary_search_by(|one| one.as_slice().cmp(id.as_bytes()))
            .is_ok()
        {
            let meta = fs::symlink_metadata(loose_path(self.repo.objects_dir(), id));
            time = time.max(meta.and_then(|meta| meta.modified()).map_or(0, seconds));
        }
        time
    }
}

fn modified(pack: &Pack) -> Option<SystemTime> {
    fs::metadata(pack.path()).and_then(|meta| meta.modified()).ok()
}

/// Whole seconds since 1970, as cruft packs have them.
fn seconds(time: SystemTime) -> u32 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u32::try_from(since.as_secs()).unwrap_or(u32::MAX)
}
