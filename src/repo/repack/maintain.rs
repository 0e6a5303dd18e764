use std::{
    fs,
    path::Path,
    sync::atomic::AtomicBool,
    time::{Duration, SystemTime},
};

use super::{
    CompactOptions, CompactOutcome, CompactPhase, CompactProgress, Expiry, GraphOutcome, IndexFilesOutcome,
    RepackError, check,
};
use crate::repo::{Repository, sweep_stale};

/// What others left behind is left for so long: somebody may still be writing it.
const LEFT_ALONE: Duration = Duration::from_secs(24 * 60 * 60);
/// Loose refs from which on it is worth it to pack them while nobody asks for it.
const MANY_REFS: usize = 256;
/// Objects in packs from which on bitmaps and a commit-graph are worth it while nobody asks for them.
const MANY_OBJECTS: u64 = 4_096;
/// While nobody asks, objects that nothing refers to are looked for so often.
const LOOKED_AFTER: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// The file whose time says when that was.
const LOOKED: &str = "gitstead-expired";

/// What one maintenance did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MaintainOutcome {
    /// Packs and loose objects.
    pub compaction: CompactOutcome,
    /// Reverse indices, multi-pack-index, bitmaps.
    pub files: IndexFilesOutcome,
    /// The commit-graph.
    pub graph: GraphOutcome,
    /// Loose refs that are packed now.
    pub refs: usize,
    /// Leftovers of killed processes that were deleted.
    pub leftovers: usize,
}

/// What maintenance is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Occasion {
    /// Somebody asks for it: everything is looked at.
    Asked,
    /// Something was written: only what is worth its time.
    Written,
}

impl Repository {
    /// Whether [`maintain`](Self::maintain) is worth its time, though nobody asks for it. Cheap: may be asked after every push and every checkpoint.
    ///
    /// # Errors
    /// When a directory cannot be listed.
    pub fn wants_maintenance(&self) -> Result<bool, RepackError> {
        Ok(self.wants_compaction()? || self.lacks_files()? || self.wants_expiry(SystemTime::now()))
    }

    /// Whether nobody has looked for a while for objects that nothing refers to.
    fn wants_expiry(&self, now: SystemTime) -> bool {
        let is_old = |name: &str| {
            let modified = fs::metadata(self.common_dir().join(name)).and_then(|meta| meta.modified());
            modified.map(|time| now.duration_since(time).is_ok_and(|age| age > LOOKED_AFTER))
        };
        self.settings().gc.prune_expire.is_some()
            && is_old(LOOKED).unwrap_or_else(|_| is_old("config").unwrap_or_default())
    }

    /// Whether there are many objects, but none of the files that make them quick to read.
    fn lacks_files(&self) -> Result<bool, RepackError> {
        let odb = self.odb()?;
        let mut objects = 0;
        for pack in odb.packs().iter() {
            objects += pack.index().map_or(0, |index| u64::from(index.len()));
        }
        let gc = &self.settings().gc;
        let graph = gc.write_commit_graph && odb.commit_graph().is_none() && self.may_have_commit_graph()?;
        // More packs have waited for their compaction; that will see to it.
        let bitmap = odb.packs().len() == 1 && self.wants_index_files(&odb);
        Ok(objects >= MANY_OBJECTS && (graph || bitmap))
    }

    /// Maintenance: packs and loose objects are made fewer ([`compact`](Self::compact)), reverse indices, a multi-pack-index and bitmaps are written
    /// ([`write_index_files`](Self::write_index_files)), the commit-graph ([`write_commit_graph`](Self::write_commit_graph)) and `packed-refs`; what
    /// killed processes left is deleted. One at a time in a repository; whatever else goes on there may go on; it may be killed at any moment.
    ///
    /// Nothing that was there is gone afterwards, whether a ref reaches it or not, except what [`expiry`](CompactOptions::expiry) says. When it is for what was written
    /// ([`Occasion::Written`]), objects that nothing refers to are looked for once a week, by `gc.pruneExpire`.
    ///
    /// # Errors
    /// When a step cannot be done. Those before it are done, and what it would have replaced is as it was.
    pub fn maintain(
        &self,
        options: &CompactOptions,
        occasion: Occasion,
        stop: &AtomicBool,
        progress: &mut dyn FnMut(CompactProgress),
    ) -> Result<MaintainOutcome, RepackError> {
        let mut outcome = MaintainOutcome::default();
        let _lock = match self.take_maintenance()? {
            Ok(lock) => lock,
            Err(why) => {
                outcome.compaction.skipped = Some(why);
                return Ok(outcome);
            }
        };
        outcome.leftovers = self.sweep(SystemTime::now())?;
        let looks = occasion == Occasion::Written && self.wants_expiry(SystemTime::now());
        if occasion == Occasion::Asked || looks || self.wants_compaction()? {
            let expiry = if looks { Expiry::Configured } else { options.expiry };
            let options = CompactOptions {
                expiry,
                ..options.clone()
            };
            outcome.compaction = self.compact_locked(&options, stop, progress, &mut |_| true)?;
        }
        if looks {
            let path = self.common_dir().join(LOOKED);
            fs::write(&path, "").map_err(RepackError::io("write", path))?;
        }
        let gc = self.settings().gc.clone();
        // First what makes the rest quick.
        if gc.write_commit_graph && self.wants_commit_graph(&self.odb()?)? {
            let changed_paths = occasion == Occasion::Asked;
            outcome.graph = self.write_commit_graph(changed_paths, options.threads, stop, progress)?;
        }
        outcome.files = self.write_index_files(stop, progress)?;
        check(stop)?;
        if gc.pack_refs.unwrap_or(!self.is_bare()) {
            progress(CompactProgress {
                phase: CompactPhase::Refs,
                done: 0,
                total: 0,
            });
            let at_least = if occasion == Occasion::Asked { 1 } else { MANY_REFS };
            outcome.refs = match self.ref_store().pack_loose(&self.odb()?, at_least) {
                Err(crate::repo::RefsError::Locked { .. }) => 0,
                packed => packed?,
            };
        }
        Ok(outcome)
    }

    /// Deletes what killed processes left: quarantines, locks of ours, and files that never got their name.
    fn sweep(&self, now: SystemTime) -> Result<usize, RepackError> {
        let mut swept = sweep_stale(self, LEFT_ALONE, now).map_err(RepackError::Publish)?;
        swept += self.ref_store().remove_stale_locks()?;
        let objects = self.objects_dir();
        swept += sweep_drafts(&objects.join("pack"), now);
        swept += sweep_drafts(&objects.join("info"), now);
        for fan in 0..=255u8 {
            swept += sweep_drafts(&objects.join(format!("{fan:02x}")), now);
        }
        Ok(swept)
    }
}

/// Deletes files that have been written under a temporary name, long ago.
fn sweep_drafts(dir: &Path, now: SystemTime) -> usize {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    let mut swept = 0;
    for entry in entries.flatten() {
        let name = entry.file_name();
        if !name.as_encoded_bytes().starts_with(b"tmp_") {
            continue;
        }
        let modified = entry
            .metadata()
            .ok()
            .filter(fs::Metadata::is_file)
            .and_then(|meta| meta.modified().ok());
        let is_old = modified.is_some_and(|time| now.duration_since(time).is_ok_and(|age| age > LEFT_ALONE));
        swept += usize::from(is_old && fs::remove_file(entry.path()).is_ok());
    }
    swept
}
