//! What is known of a workspace and the index on disk, either of which may be ahead of the other for a moment.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use bstr::{BStr, BString, ByteSlice};
use gix::{
    hash::ObjectId,
    objs::{Kind, tree::EntryKind},
};

use super::{
    FileStat, Held, TrackedFile, WorkspaceError,
    index_file::{IndexLock, IndexStamp},
    index_write::IndexForm,
    reach,
};
use crate::repo::TreeChange;

/// When an index that git has locked is tried again.
const LOCKED_AGAIN: Duration = Duration::from_secs(1);
/// Files that are looked at once more before the index is written.
const UNSURE: usize = 1_000;
/// Bytes of them that are read again; the others are when they are next looked at.
const UNSURE_BYTES: u64 = 8 << 20;

/// A checkpoint that the index on disk was behind for a moment.
#[derive(Debug)]
pub(crate) struct Lag {
    pub(crate) commit: ObjectId,
    pub(crate) tree: ObjectId,
    /// What the index says, where that is something else; of all other paths nothing, if there was no index.
    pub(crate) paths: BTreeMap<BString, Option<(EntryKind, ObjectId)>>,
    /// Whether git has done something meanwhile.
    pub(super) is_suspect: bool,
    /// Whether there was no index.
    pub(crate) of_nothing: bool,
}

#[derive(Debug)]
pub(super) struct Changing {
    from: ObjectId,
    /// Files there were then.
    files: usize,
    paths: BTreeMap<BString, Option<(EntryKind, ObjectId)>>,
}

impl Held<'_> {
    /// Makes what is tracked the index on disk. `Ok(Err(age))` when git has it locked, and has had for so long; nothing is written then.
    ///
    /// # Errors
    /// Those of the file system.
    pub(crate) fn write_index(&mut self) -> Result<Result<(), Duration>, WorkspaceError> {
        let path = self.workspace.index_path();
        self.look_again()?;
        if self.state.tracked.is_none() {
            return Ok(Ok(()));
        }
        let lock = match IndexLock::acquire(&path)? {
            Ok(lock) => lock,
            Err(age) => return Ok(Err(age)),
        };
        // Nobody changes it while we have the lock.
        let is_ours = IndexStamp::at(&path)? == self.state.stamp;
        if !is_ours {
            self.rebase_on_disk(&path)?;
        }
        if let Some(mut lag) = self.state.lag.take() {
            lag.is_suspect |= !is_ours || self.head().ok().and_then(|head| head.commit) != Some(lag.commit);
            self.state.lag = Some(lag).filter(|lag| lag.is_suspect);
        }
        let Some(tracked) = &self.state.tracked else {
            return Ok(Ok(()));
        };
        let durable = self.workspace.options.durability == super::Durability::Each;
        let core = &self.workspace.repository.settings().core;
        let form = IndexForm {
            hash: self.workspace.repository.hash_kind(),
            version: core.index_version,
            skip_hash: core.index_skip_hash,
        };
        let stamp = lock.commit(tracked, &path, &form, durable)?;
        self.state.stamp = Some(stamp);
        self.state.behind = false;
        self.state.ahead.clear();
        Ok(Ok(()))
    }

    /// Git has written the index since it was read: what we know more is added to that, but where git has changed the same. Any `git status` does so.
    fn rebase_on_disk(&mut self, path: &std::path::Path) -> Result<(), WorkspaceError> {
        let (mut disk, _, stamp) = self.load_index(path)?;
        let ours = self.state.tracked.take().unwrap_or_default();
        if self.state.stamp.is_none() {
            // There was no index: all of ours is more than it said.
            ours.for_each(&mut |path, file| {
                if disk.is_free(path) {
                    disk.set(path, file.clone());
                }
            });
        }
        for (path, was) in std::mem::take(&mut self.state.ahead) {
            let path = path.as_bstr();
            let there = disk
                .get(path)
                .map(|file| (file.id, file.kind, file.has(TrackedFile::INTENT)));
            if there != was {
                continue;
            }
            match ours.get(path) {
                Some(file) => disk.set(path, file.clone()),
                None => {
                    disk.remove(path);
                }
            }
        }
        (self.state.tracked, self.state.stamp) = (Some(disk), stamp);
        // What else git did is found by looking at everything.
        (self.state.attributes, self.state.complete) = (None, false);
        Ok(())
    }

    /// Makes what is known of a path another, and remembers what the index on disk says of it for as long as that is something else. The one way to change what is
    /// known: what goes around it is lost when git writes the index meanwhile.
    pub(super) fn put(&mut self, path: &BStr, file: Option<TrackedFile>) {
        let what = |file: &TrackedFile| (file.id, file.kind, file.has(TrackedFile::INTENT));
        let tracked = self.state.tracked.get_or_insert_default();
        let was = tracked.get(path).map(what);
        let is = file.as_ref().map(what);
        match file {
            Some(file) if was == is => tracked.restat(path, file.stat, file.flags),
            Some(file) => tracked.set(path, file),
            None => {
                tracked.remove(path);
            }
        }
        if let Some(changing) = &mut self.state.changing
            && was != is
        {
            let of = |what: Option<(ObjectId, EntryKind, bool)>| match what {
                // A name without a content is in no tree.
                Some((id, kind, false)) => Some((kind, id)),
                _ => None,
            };
            match changing.paths.get(path) {
                None => {
                    changing.paths.insert(path.to_owned(), of(was));
                }
                Some(first) if *first == of(is) => {
                    changing.paths.remove(path);
                }
                Some(_) => {}
            }
        }
        if self.state.stamp.is_none() {
            // Where there is no index, it says the same of every path.
            return;
        }
        match self.state.ahead.get(path) {
            None if was != is => {
                self.state.ahead.insert(path.to_owned(), was);
            }
            Some(first) if *first == is => {
                self.state.ahead.remove(path);
            }
            _ => {}
        }
    }

    /// From now on it is noted what is changed, if it is known what it is changed from.
    pub(super) fn begin_change(&mut self) {
        let from = self
            .state
            .tracked
            .as_ref()
            .and_then(|tracked| Some((tracked.root().tree?, tracked.len())));
        self.state.changing = from.map(|(from, files)| Changing {
            from,
            files,
            paths: BTreeMap::new(),
        });
    }

    /// What was changed, sorted by path, and from which tree; `None` if that is not known.
    pub(super) fn end_change(&mut self) -> Option<(ObjectId, Vec<TreeChange>)> {
        let Changing { from, files, paths } = self.state.changing.take()?;
        let tracked = self.state.tracked.as_ref()?;
        let mut left = files;
        let mut changes = Vec::new();
        for (path, from) in paths {
            let now = tracked.get(path.as_bstr());
            let to = now
                .filter(|file| !file.has(TrackedFile::INTENT))
                .map(|file| (file.kind, file.id));
            left += usize::from(now.is_some() && from.is_none());
            left = left.saturating_sub(usize::from(now.is_none() && from.is_some()));
            if from != to {
                changes.push(TreeChange { path, from, to });
            }
        }
        // What went with a directory, or in the way of one, was not named by itself.
        (left == tracked.len()).then_some((from, changes))
    }

    /// Brings the index on disk up to date before a checkpoint counts, if that is cheap or would be done just after it anyway. `false` if it was not, or could not.
    pub(crate) fn index_leads(&mut self) -> bool {
        let options = &self.workspace.options;
        let is_late = self.state.watch.is_some() && !options.index_delay.is_zero();
        let is_behind = self.state.stamp.is_none() || !self.state.ahead.is_empty();
        if is_late && (!is_behind || self.known().len() > options.index_at_once) {
            return false;
        }
        match self.write_index() {
            Ok(written) => written.is_ok(),
            Err(error) => {
                tracing::debug!(%error, "the index is written after the checkpoint");
                false
            }
        }
    }

    /// Notes that the index on disk is behind a checkpoint, if it is.
    pub(crate) fn index_lags(&mut self, commit: ObjectId, tree: ObjectId) {
        if !self.state.behind {
            return;
        }
        let of = |what: &Option<(ObjectId, EntryKind, bool)>| match what {
            Some((id, kind, false)) => Some((*kind, *id)),
            _ => None,
        };
        let ahead = self.state.ahead.iter().take(UNSURE);
        self.state.lag = Some(Lag {
            commit,
            tree,
            paths: ahead.map(|(path, what)| (path.clone(), of(what))).collect(),
            is_suspect: false,
            of_nothing: self.state.stamp.is_none(),
        });
    }

    /// The branch has moved by our own hands: nothing that git makes of an older index can get there any more.
    pub(super) fn forget_lag(&mut self) {
        self.state.lag = None;
    }

    /// The last checkpoint that the index was behind, if git may have made something of that index. Told once.
    pub(crate) fn lag_behind(&mut self) -> Option<Lag> {
        let lag = self.state.lag.as_ref()?;
        let moved = self.state.behind && self.head().ok()?.commit != Some(lag.commit);
        match lag.is_suspect || moved {
            true => self.state.lag.take(),
            false => None,
        }
    }

    /// Brings the index on disk up to date: now, or in a watched workspace in a moment: replacing a file is what a small
    /// checkpoint would cost most.
    ///
    /// # Errors
    /// As [`write_index`](Self::write_index).
    pub(crate) fn index_follows(&mut self) -> Result<Result<(), Duration>, WorkspaceError> {
        let delay = self.workspace.options.index_delay;
        if self.state.watch.is_none() || delay.is_zero() {
            return self.write_index();
        }
        if !self.state.behind {
            let Some(me) = self.workspace.me.get().cloned() else {
                return self.write_index();
            };
            if !super::pending::write_index_later(me, delay) {
                return self.write_index();
            }
            self.state.behind = true;
        }
        Ok(Ok(()))
    }

    /// Writes the index if it is behind.
    pub(super) fn catch_up(&mut self) -> Result<(), WorkspaceError> {
        if self.state.behind && self.write_index()?.is_err() {
            // Git is at work in it, or was killed there: once more in a while.
            let again = self.workspace.me.get().cloned();
            self.state.behind = again.is_some_and(|me| super::pending::write_index_later(me, LOCKED_AGAIN));
        }
        Ok(())
    }

    /// Files that were hashed too soon after they had been written to be sure of them are looked at once more: if they are as they were, they are sure now.
    /// As they were is not what looks as it did: in one tick of the clock there is room for two contents, so what is racy is read again.
    fn look_again(&mut self) -> Result<(), WorkspaceError> {
        let Some(tracked) = &mut self.state.tracked else {
            return Ok(());
        };
        let unsure = tracked.unsure(UNSURE);
        if unsure.is_empty() {
            return Ok(());
        }
        let root = &self.workspace.root;
        let dir = rustix::fs::open(root, reach::DIRECTORY, rustix::fs::Mode::empty())
            .map_err(|err| WorkspaceError::io("open", root)(err.into()))?;
        let look = |path: &BString| match reach::stat(&dir, path.as_bstr()) {
            Ok(Some(stat)) => Some(FileStat::of(&stat)),
            _ => None,
        };
        let mut budget = UNSURE_BYTES;
        for (path, stat, all) in unsure {
            let sure = all & !TrackedFile::UNSURE;
            let now = SystemTime::now();
            if look(&path) != Some(stat) || stat.is_fresh(now) {
                continue;
            }
            if let Some(file) = tracked.get(path.as_bstr()).filter(|file| file.has(TrackedFile::RACY)) {
                let size = u64::from(stat.size);
                if size > budget || !matches!(file.kind, EntryKind::Blob | EntryKind::BlobExecutable) {
                    continue;
                }
                budget -= size;
                let same = reach::read_small(&dir, path.as_bstr(), size)
                    .and_then(|bytes| gix::objs::compute_hash(file.id.kind(), Kind::Blob, &bytes).ok())
                    .is_some_and(|id| id == file.id);
                if !same || look(&path) != Some(stat) {
                    continue;
                }
            }
            tracked.restat(path.as_bstr(), stat, sure);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::workspace::Workspace;

    fn workspace() -> (tempfile::TempDir, Workspace) {
        let dir = tempfile::tempdir().expect("a directory");
        let git = dir.path().join(".git");
        for sub in ["objects", "refs/heads"] {
            fs::create_dir_all(git.join(sub)).expect("made");
        }
        fs::write(git.join("HEAD"), "ref: refs/heads/main\n").expect("written");
        let workspace = Workspace::open(dir.path()).expect("a workspace");
        (dir, workspace)
    }

    fn file(n: u8) -> TrackedFile {
        TrackedFile {
            id: ObjectId::from_bytes_or_panic(&[n; 20]),
            stat: FileStat::default(),
            kind: EntryKind::Blob,
            flags: 0,
        }
    }

    #[test]
    fn what_is_known_more_is_added_to_an_index_that_git_has_written_meanwhile() {
        let (_dir, workspace) = workspace();
        let mut held = workspace.lock().expect("free");
        held.tracked().expect("no index yet");
        for (name, n) in [("stays", 1), ("changes", 1), ("goes", 1), ("gits", 1)] {
            held.put(name.into(), Some(file(n)));
        }
        held.write_index().expect("written").expect("free");
        // As git does it: another file in its place.
        let mut theirs = held.load_index(&workspace.index_path()).expect("read").0;
        theirs.set("gits".into(), file(7));
        theirs.set("new".into(), file(7));
        held.put("changes".into(), Some(file(2)));
        held.put("goes".into(), None);
        held.put("gits".into(), Some(file(2)));
        held.put("brief".into(), Some(file(2)));
        held.put("brief".into(), None);
        assert_eq!(held.state.ahead.len(), 3, "what came and went is not remembered");
        let lock = IndexLock::acquire(&workspace.index_path())
            .expect("free")
            .expect("free");
        let form = IndexForm {
            hash: workspace.repository.hash_kind(),
            version: 2,
            skip_hash: false,
        };
        lock.commit(&theirs, &workspace.index_path(), &form, false)
            .expect("written");
        held.write_index().expect("written").expect("free");
        assert!(held.state.ahead.is_empty());
        held.forget();
        let tracked = held.tracked().expect("read");
        let ids = ["stays", "changes", "goes", "gits", "new", "brief"]
            .map(|name| tracked.get(name.into()).map(|file| file.id.as_slice()[0]));
        assert_eq!(ids, [Some(1), Some(2), None, Some(7), Some(7), None]);
    }

    #[test]
    fn what_is_known_where_there_was_no_index_is_added_to_gits_first() {
        let (_dir, workspace) = workspace();
        let mut held = workspace.lock().expect("free");
        held.tracked().expect("no index yet");
        for name in ["ours", "both", "in/dir"] {
            held.put(name.into(), Some(file(1)));
        }
        assert!(held.state.ahead.is_empty(), "all of it is ahead");
        let mut theirs = crate::workspace::Tracked::default();
        for name in ["both", "in"] {
            theirs.set(name.into(), file(7));
        }
        let form = IndexForm {
            hash: workspace.repository().hash_kind(),
            version: 2,
            skip_hash: false,
        };
        let lock = IndexLock::acquire(&workspace.index_path())
            .expect("free")
            .expect("free");
        lock.commit(&theirs, &workspace.index_path(), &form, false)
            .expect("written");
        held.write_index().expect("written").expect("free");
        held.forget();
        let tracked = held.tracked().expect("read");
        let ids = ["ours", "both", "in"].map(|name| tracked.get(name.into()).map(|file| file.id.as_slice()[0]));
        assert_eq!(ids, [Some(1), Some(7), Some(7)], "git's word counts where it has one");
    }

    #[test]
    fn a_file_that_looks_as_it_did_is_not_sure_before_it_was_read_again() {
        let (dir, workspace) = workspace();
        let mut held = workspace.lock().expect("free");
        let hash = workspace.repository().hash_kind();
        let blob = |content: &[u8]| gix::objs::compute_hash(hash, Kind::Blob, content).expect("an id");
        for name in ["same", "other"] {
            fs::write(dir.path().join(name), "two").expect("written");
            let file = || rustix::fs::lstat(dir.path().join(name)).expect("there");
            while FileStat::of(&file()).is_fresh(SystemTime::now()) {
                std::thread::park_timeout(Duration::from_millis(2));
            }
            let stat = FileStat::of(&file());
            // As if "one" had been read, and "two" been written in the same tick.
            let id = blob(if name == "same" { b"two" } else { b"one" });
            let (kind, flags) = (EntryKind::Blob, TrackedFile::RACY | TrackedFile::SAME_SECOND);
            let tracked = held.tracked().expect("an index");
            tracked.set(name.into(), TrackedFile { id, stat, kind, flags });
        }
        held.look_again().expect("looked");
        let flags = |held: &mut Held<'_>, name: &str| held.known().get(name.into()).expect("tracked").flags;
        assert_eq!(flags(&mut held, "same"), 0);
        assert!(flags(&mut held, "other") & TrackedFile::RACY != 0);
    }
}
