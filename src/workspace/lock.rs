use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File, OpenOptions},
    io::{Read, Seek, SeekFrom, Write},
    ops::Deref,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    sync::{MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use bstr::{BStr, BString, ByteSlice};
use gix::{
    hash::ObjectId,
    objs::{CommitRefIter, Kind, tree::EntryKind},
};
use rustix::fs::FlockOperation;

use super::{
    Before, Durable, FileStat, SkipReason, Tracked, TrackedFile, Workspace, WorkspaceError,
    index_file::{self, IndexLock, IndexStamp},
    index_write::IndexForm,
    reach,
    watch::Watch,
};
use crate::{
    depot::Upkeep,
    repo::{Head, TreeChange},
};

/// Beside HEAD. The lock is the system's (flock), so it is gone with its owner; what the file says is for those who wait.
const LOCK: &str = "gitstead.lock";
const POLL: Duration = Duration::from_millis(2);
/// Checkpoints after which it is asked whether there are many small objects.
const ASKED_EVERY: u32 = 64;
/// When an index that git has locked is tried again.
const LOCKED_AGAIN: Duration = Duration::from_secs(1);
/// Files that are looked at once more before the index is written.
const UNSURE: usize = 1_000;
/// Bytes of them that are read again; the others are when they are next looked at.
const UNSURE_BYTES: u64 = 8 << 20;

/// What is known about a workspace between two uses.
#[derive(Debug, Default)]
pub(super) struct State {
    lock: Option<File>,
    /// What is tracked, and the index file that it was read from or written to.
    pub(super) tracked: Option<Tracked>,
    pub(super) stamp: Option<IndexStamp>,
    /// Every `.gitattributes` there is.
    pub(super) attributes: Option<BTreeSet<BString>>,
    /// What was left out of the state that is known, and why.
    pub(super) skipped: BTreeMap<BString, SkipReason>,
    /// What is looked at every time, since a watch does not tell of it.
    pub(super) unwatched: BTreeSet<BString>,
    pub(super) watch: Option<Watch>,
    /// Whether what is known was the whole truth when the watch was asked last.
    pub(super) complete: bool,
    /// What the index on disk says of the paths in which it is behind.
    pub(super) ahead: BTreeMap<BString, Option<(ObjectId, EntryKind, bool)>>,
    /// What has been changed of what is known since it was this tree, with what was there; only while that is asked for.
    changing: Option<Changing>,
    /// A commit and its tree, of which the last one is asked for again and again.
    tree_of: std::sync::Mutex<Option<(ObjectId, ObjectId)>>,
    /// When everything was looked at last.
    pub(super) scanned: Option<Instant>,
    /// The `info/exclude` that it was true under.
    pub(super) excludes: Option<IndexStamp>,
    /// Whether the index on disk is older than what is known.
    pub(super) behind: bool,
    /// Checkpoints since it was last asked whether there are many small objects.
    pub(super) recorded: u32,
    /// Whether it was looked into what a loss of power may have left.
    pub(super) asked_about_power: bool,
}

#[derive(Debug)]
struct Changing {
    from: ObjectId,
    /// Files there were then.
    files: usize,
    paths: BTreeMap<BString, Option<(EntryKind, ObjectId)>>,
}

/// A workspace that nobody else changes while this lives, be it another thread or another process of Gitstead. The agent itself is not kept from anything.
#[derive(Debug)]
pub struct Held<'w> {
    workspace: &'w Workspace,
    pub(super) state: MutexGuard<'w, State>,
}

impl Deref for Held<'_> {
    type Target = Workspace;
    fn deref(&self) -> &Workspace {
        self.workspace
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if let Some(file) = &self.state.lock {
            let _ = rustix::fs::flock(file, FlockOperation::Unlock);
        }
    }
}

/// Where a workspace is in its history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeadState {
    /// The branch that HEAD names, its full name; `None` when HEAD names a commit.
    pub branch: Option<BString>,
    /// The commit; `None` when the branch has none yet.
    pub commit: Option<ObjectId>,
    /// The tree of the commit.
    pub tree: Option<ObjectId>,
    /// What git is in the middle of: a merge, a rebase, …
    pub in_progress: Option<&'static str>,
}

impl Workspace {
    /// Takes the workspace for oneself, waiting for others as long as [`lock_wait`](super::WorkspaceOptions::lock_wait) says.
    ///
    /// # Errors
    /// `Busy` when it lasts longer; those of the file system.
    pub fn lock(&self) -> Result<Held<'_>, WorkspaceError> {
        self.lock_within(self.options.lock_wait)
    }

    /// As [`lock`](Self::lock), waiting no longer than `wait`.
    pub(super) fn lock_within(&self, wait: Duration) -> Result<Held<'_>, WorkspaceError> {
        let deadline = Instant::now() + wait;
        let mut state = loop {
            match self.state.try_lock() {
                Ok(state) => break state,
                Err(std::sync::TryLockError::Poisoned(poisoned)) => {
                    // What it knew may be half of something; the disk knows the rest.
                    let mut state = PoisonError::into_inner(poisoned);
                    *state = State::default();
                    self.state.clear_poison();
                    break state;
                }
                Err(std::sync::TryLockError::WouldBlock) if Instant::now() < deadline => {
                    std::thread::park_timeout(POLL);
                }
                Err(std::sync::TryLockError::WouldBlock) => {
                    return Err(WorkspaceError::Busy {
                        owner: "another thread of this process".to_owned(),
                        age: wait,
                    });
                }
            }
        };
        self.take(&mut state, deadline)?;
        let mut held = Held { workspace: self, state };
        index_file::break_own_lock(&self.index_path())?;
        super::transition::recover(&mut held)?;
        Ok(held)
    }

    fn take(&self, state: &mut State, deadline: Instant) -> Result<(), WorkspaceError> {
        let path = self.git_dir().join(LOCK);
        let io = |doing| WorkspaceError::io(doing, path.clone());
        loop {
            let file = match state.lock.take() {
                Some(file) => file,
                None => OpenOptions::new()
                    .read(true)
                    .write(true)
                    .create(true)
                    .truncate(false)
                    .mode(0o644)
                    // Where the agent may write, too: a link would lead what we write anywhere.
                    .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits() as i32)
                    .open(&path)
                    .map_err(io("open"))?,
            };
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR) => {
                    if Instant::now() < deadline {
                        state.lock = Some(file);
                        std::thread::park_timeout(POLL);
                        continue;
                    }
                    return Err(busy(file));
                }
                Err(errno) => return Err(io("lock")(errno.into())),
            }
            // A workspace that was removed and made again has another file by that name.
            let ours = file.metadata().map_err(io("look at"))?;
            let there =
                fs::symlink_metadata(&path).is_ok_and(|meta| (meta.dev(), meta.ino()) == (ours.dev(), ours.ino()));
            if !there {
                (state.tracked, state.stamp) = (None, None);
                continue;
            }
            let mut file = file;
            let since = SystemTime::now()
                .duration_since(SystemTime::UNIX_EPOCH)
                .unwrap_or_default()
                .as_secs();
            let text = format!("{:>10} {since:>12}\n", std::process::id());
            file.seek(SeekFrom::Start(0))
                .and_then(|_| file.write_all(text.as_bytes()))
                .map_err(io("write"))?;
            state.lock = Some(file);
            return Ok(());
        }
    }
}

fn busy(mut file: File) -> WorkspaceError {
    let mut text = String::new();
    let _ = file
        .seek(SeekFrom::Start(0))
        .and_then(|_| (&mut file).take(64).read_to_string(&mut text));
    let mut words = text.split_whitespace();
    let owner = words.next().map_or_else(
        || "another process".to_owned(),
        |pid| {
            if pid == std::process::id().to_string() {
                "another part of this process".to_owned()
            } else {
                format!("process {pid}")
            }
        },
    );
    let since = words.next().and_then(|since| since.parse().ok()).unwrap_or(0);
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let age = now.saturating_sub(Duration::from_secs(since));
    WorkspaceError::Busy { owner, age }
}

impl<'w> Held<'w> {
    /// The workspace itself.
    pub fn workspace(&self) -> &'w Workspace {
        self.workspace
    }

    /// Where the workspace is now.
    ///
    /// # Errors
    /// When HEAD or its commit cannot be read.
    pub fn head(&self) -> Result<HeadState, WorkspaceError> {
        let repository = &self.workspace.repository;
        let (branch, commit) = match repository.head(None)? {
            Head::Symbolic { target, id } => (Some(target), id),
            Head::Detached(id) => (None, Some(id)),
            Head::Missing => {
                return Err(WorkspaceError::Damaged {
                    what: "HEAD",
                    path: self.git_dir().join("HEAD"),
                    why: "there is none".to_owned(),
                });
            }
        };
        let tree = match commit {
            Some(id) => Some(self.tree_of(&id)?),
            None => None,
        };
        let in_progress = [
            ("MERGE_HEAD", "merge"),
            ("CHERRY_PICK_HEAD", "cherry-pick"),
            ("REVERT_HEAD", "revert"),
            ("rebase-merge", "rebase"),
            ("rebase-apply", "rebase"),
            ("BISECT_LOG", "bisect"),
        ]
        .into_iter()
        .find(|(file, _)| fs::symlink_metadata(self.git_dir().join(file)).is_ok())
        .map(|(_, what)| what);
        Ok(HeadState {
            branch,
            commit,
            tree,
            in_progress,
        })
    }

    /// Remembers the tree of a commit that was just made.
    pub(crate) fn commit_made(&self, commit: ObjectId, tree: ObjectId) {
        *self.state.tree_of.lock().unwrap_or_else(PoisonError::into_inner) = Some((commit, tree));
    }

    fn tree_of(&self, commit: &ObjectId) -> Result<ObjectId, WorkspaceError> {
        let known = *self.state.tree_of.lock().unwrap_or_else(PoisonError::into_inner);
        match known {
            Some((known, tree)) if known == *commit => Ok(tree),
            _ => {
                let tree = self.read_tree_of(commit)?;
                self.commit_made(*commit, tree);
                Ok(tree)
            }
        }
    }

    fn read_tree_of(&self, commit: &ObjectId) -> Result<ObjectId, WorkspaceError> {
        let damaged = |why: String| WorkspaceError::Damaged {
            what: "the commit that HEAD names,",
            path: commit.to_string().into(),
            why,
        };
        let odb = self.repository.odb()?;
        let mut data = Vec::new();
        match odb.read(commit, &mut data)? {
            Some(Kind::Commit) => CommitRefIter::from_bytes(&data, odb.hash_kind())
                .tree_id()
                .map_err(|err| damaged(err.to_string())),
            Some(_) => Err(damaged("it is no commit".to_owned())),
            None => Err(damaged("it is not there".to_owned())),
        }
    }

    /// What is tracked, as the index on disk says it now.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub(crate) fn tracked(&mut self) -> Result<&mut Tracked, WorkspaceError> {
        let path = self.workspace.index_path();
        let now = IndexStamp::at(&path)?;
        if self.state.tracked.is_none() || self.state.stamp != now {
            let (tracked, attributes, stamp) = self.load_index(&path)?;
            (self.state.tracked, self.state.stamp) = (Some(tracked), stamp);
            self.state.attributes = Some(attributes.into_iter().collect());
            (self.state.complete, self.state.behind) = (false, false);
            self.state.ahead.clear();
        }
        Ok(self.state.tracked.get_or_insert_default())
    }

    fn load_index(
        &self,
        path: &std::path::Path,
    ) -> Result<(Tracked, Vec<BString>, Option<IndexStamp>), WorkspaceError> {
        index_file::load(path, self.repository.hash_kind(), self.options.threads)
    }

    /// Whether git has written the index since it was read.
    pub(crate) fn index_moved(&self) -> Result<bool, WorkspaceError> {
        Ok(self.state.tracked.is_some() && IndexStamp::at(&self.workspace.index_path())? != self.state.stamp)
    }

    /// What is tracked, as far as it is known. The index on disk may be another one by now.
    pub(super) fn known(&mut self) -> &mut Tracked {
        self.state.tracked.get_or_insert_default()
    }

    /// Takes nothing for known that is not on disk.
    pub(crate) fn forget(&mut self) {
        (self.state.tracked, self.state.stamp, self.state.attributes) = (None, None, None);
        (self.state.complete, self.state.behind) = (false, false);
        self.state.ahead.clear();
    }

    /// Waits until no git is at work in the index, at most as long as the options say. Whether there is none.
    pub(crate) fn wait_for_git(&self) -> bool {
        let mut lock = self.workspace.index_path().into_os_string();
        lock.push(".lock");
        let lock = std::path::PathBuf::from(lock);
        let deadline = Instant::now() + self.workspace.options.git_wait;
        while fs::symlink_metadata(&lock).is_ok() {
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::park_timeout(POLL);
        }
        true
    }

    /// Sees to it that files and directories survive a loss of power, as soon as the options promise it.
    pub(crate) fn flush_later(&self, paths: impl IntoIterator<Item = std::path::PathBuf>) {
        if self.workspace.options.durability == super::Durability::Batched {
            self.workspace.pending.add(paths, [], None);
        }
    }

    /// As [`flush_later`](Self::flush_later), of everything that a checkpoint needs. When it is done, it is noted.
    pub(crate) fn flush_checkpoint_later(&self, paths: impl IntoIterator<Item = std::path::PathBuf>, durable: Durable) {
        if self.workspace.options.durability == super::Durability::Batched {
            let git_dir = self.workspace.git_dir().to_owned();
            self.workspace.pending.add([], paths, Some((git_dir, durable)));
        }
    }

    /// What was on the disk for certain before the system was last started; only the first time that it is asked for.
    pub(crate) fn before_the_last_start(&mut self) -> Option<Before> {
        if std::mem::replace(&mut self.state.asked_about_power, true) {
            return None;
        }
        Durable::from_before(self.workspace.git_dir())
    }

    /// Notes a checkpoint that is on the disk.
    pub(crate) fn note_durable(&self, durable: &Durable) -> Result<(), WorkspaceError> {
        let git_dir = self.workspace.git_dir();
        durable
            .note(git_dir)
            .map_err(WorkspaceError::io("note a checkpoint in", git_dir))
    }

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
        if IndexStamp::at(&path)? != self.state.stamp {
            self.rebase_on_disk(&path)?;
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

    /// Has the repository looked after: the small objects of many checkpoints are packed, if there are many by now.
    pub(crate) fn compact_now_and_then(&mut self) {
        self.state.recorded += 1;
        if self.workspace.options.compact && self.state.recorded >= ASKED_EVERY {
            self.state.recorded = 0;
            if let Some(upkeep) = Upkeep::of_process() {
                upkeep.consider(&self.workspace.repository);
            }
        }
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

    #[test]
    fn what_is_known_more_is_added_to_an_index_that_git_has_written_meanwhile() {
        let (_dir, workspace) = workspace();
        let file = |n: u8| TrackedFile {
            id: ObjectId::from_bytes_or_panic(&[n; 20]),
            stat: FileStat::default(),
            kind: EntryKind::Blob,
            flags: 0,
        };
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
    fn a_file_that_looks_as_it_did_is_not_sure_before_it_was_read_again() {
        let (dir, workspace) = workspace();
        let mut held = workspace.lock().expect("free");
        let hash = workspace.repository().hash_kind();
        let blob = |content: &[u8]| gix::objs::compute_hash(hash, Kind::Blob, content).expect("an id");
        for name in ["same", "other"] {
            fs::write(dir.path().join(name), "two").expect("written");
            let file = || rustix::fs::lstat(dir.path().join(name)).expect("there");
            while FileStat::of(&file()).is_fresh(SystemTime::now()) {
                std::thread::park_timeout(POLL);
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
