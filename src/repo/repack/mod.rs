//! `repack`: many small packs and loose objects become few packs with deltas, beside whatever else goes on in the repository.
//!
//! Objects are moved: every one that was there, reachable or not, is in the new pack, and that is durable and was read back before anything is deleted. Only a full
//! maintenance drops what nothing has referred to for long enough (see `expire`).
//! So a reader finds each object at every moment, in the old place or in the new one, and a kill at any moment costs at most disk space. What is copied keeps
//! its delta; only what is new is compared with its neighbours. Packs are left in a geometric progression, so that an object is moved a logarithmic
//! number of times, however long a repository grows.

pub(super) mod choose;
mod error;
mod expire;
mod gc_settings;
mod graph_file;
mod index_files;
mod lock;
mod maintain;
mod names;
mod needed;
mod objects;
mod reach;
mod retire;
#[cfg(test)]
mod tests;
mod write;

use std::{
    collections::HashSet,
    fs, io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::SystemTime,
};

use gix::hash::{ObjectId, oid};

use self::{
    choose::Chosen,
    error::Trouble,
    write::{NewPack, Target},
};
pub use self::{
    error::RepackError,
    expire::{Expiry, ExpirySkip, ObjectsHeld},
    gc_settings::{GcSettings, parse_age},
    graph_file::GraphOutcome,
    index_files::IndexFilesOutcome,
    maintain::{MaintainOutcome, Occasion},
};
use super::{
    Odb, OdbError, Pack, Quarantine, Repository,
    deltas::{Search, in_order, search},
    ingest::StagedPack,
    loose_path,
};

/// Loose objects from which on a compaction is worth it: they cost a file each to whoever reads them.
const MANY_LOOSE: usize = 2_048;
/// Packs that would become one from which on a compaction is worth it: each is looked into for every object that is not here.
const MANY_PACKS: usize = 16;
/// The directory that is looked into to guess how many loose objects there are. Ids are spread evenly.
const SAMPLE: u8 = 0x17;
/// Damaged packs and objects that one compaction works around.
const MOST_AVOIDED: usize = 1_000;
/// Objects above this stay whole even where `core.bigFileThreshold` would allow more: a window of them has to be held.
const LARGEST: u64 = 32 << 20;

/// How a repository is compacted.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct CompactOptions {
    /// Take all packs, not only those that are too small beside the next larger one.
    pub all: bool,
    /// Give up the deltas there are and look for new ones between all objects: slow.
    pub search_again: bool,
    /// Objects that each one is compared with.
    pub window: usize,
    /// Deltas on deltas, at most.
    pub depth: u16,
    /// Bytes of objects that one thread holds while it compares.
    pub window_bytes: usize,
    /// Threads that compare.
    pub threads: usize,
    /// What becomes of objects that nothing refers to. Without [`all`](Self::all) they are looked for, and dealt with if they are many.
    pub expiry: Expiry,
}

impl Default for CompactOptions {
    fn default() -> Self {
        CompactOptions {
            all: false,
            search_again: false,
            window: 10,
            depth: 50,
            window_bytes: 64 << 20,
            threads: 2,
            expiry: Expiry::Never,
        }
    }
}

/// How far a compaction has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompactProgress {
    /// What is being done.
    pub phase: CompactPhase,
    /// Objects it was done with.
    pub done: u64,
    /// Objects in all. 0 where that is not known.
    pub total: u64,
}

/// The steps of a compaction, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CompactPhase {
    /// Following refs.
    Reaching,
    /// Looking what there is.
    Counting,
    /// Finding the names of objects.
    Naming,
    /// Looking for deltas.
    Comparing,
    /// Writing the new pack.
    Writing,
    /// Collecting commits for the commit-graph.
    CommitGraph,
    /// Looking which paths commits changed.
    ChangedPaths,
    /// Finding out what each commit reaches.
    Bitmaps,
    /// Packing refs.
    Refs,
}

/// What a compaction did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CompactOutcome {
    /// Why nothing was done, if somebody was in the way.
    pub skipped: Option<CompactSkip>,
    /// File name of the new pack; `None` when there was nothing to do.
    pub pack: Option<String>,
    /// Objects of the new pack.
    pub objects: u32,
    /// Those among them that are deltas.
    pub deltas: u32,
    /// Deltas that were copied as they were.
    pub reused: u32,
    /// Bytes of the new pack.
    pub bytes: u64,
    /// Packs that it replaced and that were deleted.
    pub packs_deleted: u32,
    /// Loose objects that are in it now and that were deleted.
    pub loose_deleted: u32,
    /// Bytes of all that was deleted.
    pub bytes_deleted: u64,
    /// Packs and loose objects that are damaged and were left as they are.
    pub damaged: u32,
    /// Objects that nothing refers to and that are kept, in a pack of their own.
    pub aside: u32,
    /// Bytes of that pack.
    pub aside_bytes: u64,
    /// Objects that were dropped.
    pub expired: u32,
    /// Why nothing was dropped, though it was asked for.
    pub postponed: Option<ExpirySkip>,
}

/// Who was in the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CompactSkip {
    /// Another compaction of this repository, here or in another process.
    Compaction,
    /// `git gc`.
    GitGc,
    /// The repository's owner: `extensions.preciousObjects` forbids to delete anything.
    PreciousObjects,
}

/// What is left alone because it is damaged.
#[derive(Default)]
struct Avoid {
    packs: HashSet<PathBuf>,
    loose: HashSet<ObjectId>,
}

/// The steps of one attempt; tests stop between them, as a kill would.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Written,
    Staged,
    Published,
}

fn check(stop: &AtomicBool) -> Result<(), RepackError> {
    match stop.load(Ordering::Relaxed) {
        true => Err(RepackError::Stopped),
        false => Ok(()),
    }
}

impl Repository {
    /// Whether there are so many loose objects or small packs that [`compact`](Self::compact) is worth its time. Cheap: one directory is listed, and the indices
    /// of the packs are looked at, as for any request. May be asked after every push and every checkpoint.
    ///
    /// # Errors
    /// When a directory cannot be listed.
    pub fn wants_compaction(&self) -> Result<bool, OdbError> {
        let mut loose = 0;
        choose::list_fan(self.objects_dir(), SAMPLE, self.hash_kind(), &mut |_| loose += 1).map_err(|source| {
            OdbError::Io {
                doing: "list",
                path: self.objects_dir().to_owned(),
                source,
            }
        })?;
        if loose >= MANY_LOOSE / 256 {
            return Ok(true);
        }
        let odb = self.odb()?;
        // Of fewer packs none needs to be opened to know.
        if odb.packs().len() < MANY_PACKS {
            return Ok(false);
        }
        Ok(choose::would_take(&odb, self.objects_dir(), 2) >= MANY_PACKS)
    }

    /// Makes one pack of all loose objects and of the smallest packs, as many that each pack that is left has at least twice the objects of the next smaller
    /// one. Packs with a `.keep`, `.promisor` or `.mtimes` file, and those of alternates, are not touched; nor is what is damaged. Objects that nothing refers
    /// to are kept like all others. Requests, pushes and git itself may go on beside it, and it may be killed.
    ///
    /// # Errors
    /// [`RepackError`]: then nothing was deleted. Never because somebody else compacts at the time, see [`CompactOutcome::skipped`].
    pub fn compact(
        &self,
        options: &CompactOptions,
        stop: &AtomicBool,
        progress: &mut dyn FnMut(CompactProgress),
    ) -> Result<CompactOutcome, RepackError> {
        self.compact_until(options, stop, progress, &mut |_| true)
    }

    fn compact_until(
        &self,
        options: &CompactOptions,
        stop: &AtomicBool,
        progress: &mut dyn FnMut(CompactProgress),
        go_on: &mut dyn FnMut(Step) -> bool,
    ) -> Result<CompactOutcome, RepackError> {
        match self.take_maintenance()? {
            Err(why) => Ok(CompactOutcome {
                skipped: Some(why),
                ..CompactOutcome::default()
            }),
            Ok(_lock) => self.compact_locked(options, stop, progress, go_on),
        }
    }

    /// The right to do maintenance here, or who is in the way.
    fn take_maintenance(&self) -> Result<Result<lock::MaintenanceLock, CompactSkip>, RepackError> {
        if self.settings().precious_objects {
            return Ok(Err(CompactSkip::PreciousObjects));
        }
        let Some(lock) = lock::take(self.common_dir())? else {
            return Ok(Err(CompactSkip::Compaction));
        };
        Ok(match lock::git_gc_runs(self.common_dir(), SystemTime::now()) {
            true => Err(CompactSkip::GitGc),
            false => Ok(lock),
        })
    }

    fn compact_locked(
        &self,
        options: &CompactOptions,
        stop: &AtomicBool,
        progress: &mut dyn FnMut(CompactProgress),
        go_on: &mut dyn FnMut(Step) -> bool,
    ) -> Result<CompactOutcome, RepackError> {
        let mut avoid = Avoid::default();
        loop {
            let odb = self.odb()?;
            let mut attempt = Attempt {
                repo: self,
                odb: &odb,
                options,
                stop,
                progress,
                go_on,
                postponed: None,
            };
            let avoided = avoid.packs.len() + avoid.loose.len();
            match attempt.run(&avoid) {
                Ok(outcome) => {
                    return Ok(CompactOutcome {
                        damaged: outcome.damaged + avoided as u32,
                        ..outcome
                    });
                }
                Err(Trouble::Error(err)) => return Err(err),
                Err(Trouble::Loose(id)) if avoided >= MOST_AVOIDED => return Err(RepackError::Corrupt { id }),
                Err(Trouble::Loose(id)) => {
                    tracing::warn!(%id, "a loose object cannot be read and stays as it is");
                    avoid.loose.insert(id);
                }
                Err(Trouble::Pack(number)) => {
                    let pack = odb.packs()[number as usize].path();
                    tracing::warn!(pack = %pack.display(), "a pack is damaged and stays as it is");
                    avoid.packs.insert(pack.to_owned());
                }
            }
        }
    }
}

struct Attempt<'a> {
    repo: &'a Repository,
    odb: &'a Odb,
    options: &'a CompactOptions,
    stop: &'a AtomicBool,
    progress: &'a mut dyn FnMut(CompactProgress),
    go_on: &'a mut dyn FnMut(Step) -> bool,
    postponed: Option<ExpirySkip>,
}

impl Attempt<'_> {
    fn run(&mut self, avoid: &Avoid) -> Result<CompactOutcome, Trouble> {
        let outcome = self.run_through(avoid)?;
        Ok(CompactOutcome {
            postponed: self.postponed,
            ..outcome
        })
    }

    fn run_through(&mut self, avoid: &Avoid) -> Result<CompactOutcome, Trouble> {
        if let Some(sorted) = self.sort_out(avoid)? {
            return self.run_sorted(&sorted);
        }
        let chosen = choose::choose(self.odb, self.repo.objects_dir(), self.options.all, 2, avoid)?;
        let nothing = chosen.loose.is_empty()
            && (chosen.packs.is_empty() || chosen.packs.len() == 1 && !self.options.search_again);
        if nothing {
            return Ok(CompactOutcome::default());
        }
        self.check_room(&chosen)?;
        let mut quarantine = Quarantine::create(self.repo);
        match self.write_pack(&chosen, &|_| true, &mut quarantine)? {
            Some((new, outcome)) => self.publish(quarantine, new, &chosen, outcome),
            None => Ok(CompactOutcome::default()),
        }
    }

    /// Writes a pack of those of the chosen objects that are wanted. `None` when there are none.
    fn write_pack(
        &mut self,
        chosen: &Chosen,
        wanted: &dyn Fn(&oid) -> bool,
        quarantine: &mut Quarantine,
    ) -> Result<Option<(NewPack, CompactOutcome)>, Trouble> {
        let (repo, odb, stop) = (self.repo, self.odb, self.stop);
        let objects_dir = repo.objects_dir();
        let total = self.count(chosen)?;
        let settings = repo.settings();
        let largest = settings.core.big_file_threshold.min(LARGEST);
        let mut objects = objects::gather(
            odb,
            objects_dir,
            chosen,
            self.options.search_again.then_some(largest),
            wanted,
            stop,
            &mut self.tell(CompactPhase::Counting, total),
        )?;
        let count = objects.items.len() as u32;
        if count == 0 {
            return Ok(None);
        }
        names::name(&mut objects, odb, stop, &mut self.tell(CompactPhase::Naming, 0))?;
        let how = Search {
            window: self.options.window,
            depth: self.options.depth.min(4_095),
            window_bytes: self.options.window_bytes,
            threads: self.options.threads.max(1),
            largest,
            again: self.options.search_again,
            level: settings.pack.compression,
            enough: 0,
            wholes: false,
        };
        let progress = &mut *self.progress;
        let list = in_order(&objects, &how);
        let found = search(&objects, &list, odb, &how, stop, &mut |done, total| {
            progress(CompactProgress {
                phase: CompactPhase::Comparing,
                done,
                total,
            });
        })?;
        let path = quarantine.pack_path().map_err(RepackError::Publish)?;
        let target = Target {
            path: &path,
            objects_dir,
            level: settings.pack.compression,
            write_reverse: settings.pack.write_reverse_index,
        };
        let new = {
            let mut told = self.tell(CompactPhase::Writing, u64::from(count));
            write::write(&objects, &found, odb, &target, stop, &mut told)?
        };
        let damaged = objects.damaged;
        drop((objects, found));
        let outcome = CompactOutcome {
            objects: count,
            deltas: new.deltas,
            reused: new.reused,
            bytes: new.bytes,
            damaged,
            ..CompactOutcome::default()
        };
        Ok(Some((new, outcome)))
    }

    /// Puts a new pack into the quarantine under its name, which is returned.
    fn stage(&mut self, quarantine: &mut Quarantine, new: NewPack) -> Result<String, Trouble> {
        let stem = format!("pack-{}", new.trailer.to_hex());
        let staged = StagedPack::Grown(new.file, new.path);
        quarantine
            .add_pack(&stem, staged, &new.idx, &new.rev)
            .map_err(RepackError::Publish)?;
        Ok(stem)
    }

    /// Makes the new pack the repository's, and then deletes what it replaces.
    fn publish(
        &mut self,
        mut quarantine: Quarantine,
        new: NewPack,
        chosen: &Chosen,
        outcome: CompactOutcome,
    ) -> Result<CompactOutcome, Trouble> {
        // As a kill would leave it: nothing is tidied up.
        if !(self.go_on)(Step::Written) {
            std::mem::forget(quarantine);
            return Err(RepackError::Stopped.into());
        }
        let stem = self.stage(&mut quarantine, new)?;
        if !(self.go_on)(Step::Staged) {
            std::mem::forget(quarantine);
            return Err(RepackError::Stopped.into());
        }
        check(self.stop)?;
        // Its keep file holds off a repack of git that began before and knows nothing of the new pack, until the old ones are gone.
        let published = quarantine.migrate().map_err(RepackError::Publish)?;
        if !(self.go_on)(Step::Published) {
            std::mem::forget(published);
            return Err(RepackError::Stopped.into());
        }
        let (new, replaced) = (self.opened(&[&stem]), self.replaced_by(chosen));
        let retired = retire::retire(&new, &|_| true, &replaced, &chosen.loose, self.repo.objects_dir())?;
        drop(published);
        Ok(CompactOutcome {
            pack: Some(format!("{stem}.pack")),
            packs_deleted: retired.packs,
            loose_deleted: retired.loose,
            bytes_deleted: retired.bytes,
            ..outcome
        })
    }

    /// New packs, as they are in their place.
    fn opened(&self, stems: &[&String]) -> Vec<Pack> {
        let dir = self.repo.objects_dir().join("pack");
        let open = |stem: &&String| Pack::new(dir.join(format!("{stem}.pack")), self.odb.hash_kind());
        stems.iter().map(open).collect()
    }

    /// The packs whose objects were taken.
    fn replaced_by(&self, chosen: &Chosen) -> Vec<Arc<Pack>> {
        let packs = self.odb.packs();
        (chosen.packs.iter())
            .map(|number| packs[*number as usize].clone())
            .collect()
    }

    fn tell(&mut self, phase: CompactPhase, total: u64) -> impl FnMut(u64) {
        move |done| (self.progress)(CompactProgress { phase, done, total })
    }

    fn count(&self, chosen: &Chosen) -> Result<u64, RepackError> {
        let mut count = chosen.loose.len() as u64;
        for number in &chosen.packs {
            count += u64::from(self.odb.packs()[*number as usize].index()?.len());
        }
        Ok(count)
    }

    /// Old and new are on the disk together for a while.
    fn check_room(&self, chosen: &Chosen) -> Result<(), RepackError> {
        let objects_dir = self.repo.objects_dir();
        let mut needed = 1 << 20;
        for number in &chosen.packs {
            let pack = &self.odb.packs()[*number as usize];
            // The index is a little over thirty bytes for each object.
            needed += pack.data()?.len() as u64 + u64::from(pack.index()?.len()) * 40;
        }
        for id in &chosen.loose {
            needed += fs::symlink_metadata(loose_path(objects_dir, id)).map_or(0, |meta| meta.len()) + 40;
        }
        let stat = rustix::fs::statvfs(objects_dir)
            .map_err(|err| RepackError::io("look for free room at", objects_dir)(io::Error::from(err)))?;
        let available = stat.f_bavail.saturating_mul(stat.f_frsize);
        match needed > available {
            true => Err(RepackError::NoRoom { needed, available }),
            false => Ok(()),
        }
    }
}
