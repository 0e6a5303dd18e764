use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File, OpenOptions},
    io::{Read, Seek, SeekFrom, Write},
    ops::Deref,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    sync::{MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use bstr::BString;
use gix::{
    hash::ObjectId,
    objs::{CommitRefIter, Kind, tree::EntryKind},
};
use rustix::fs::FlockOperation;

use super::{
    Before, Durable, SkipReason, Tracked, Workspace, WorkspaceError,
    follow::{Changing, Lag},
    index_file::{self, IndexStamp},
    watch::Watch,
};
use crate::{
    depot::Upkeep,
    repo::{Head, ObjectsHeld},
};

/// Beside HEAD. The lock is the system's (flock), so it is gone with its owner; what the file says is for those who wait.
const LOCK: &str = "gitstead.lock";
const POLL: Duration = Duration::from_millis(2);
/// Checkpoints after which it is asked whether there are many small objects.
const ASKED_EVERY: u32 = 64;

/// What is known about a workspace between two uses.
#[derive(Debug, Default)]
pub(super) struct State {
    lock: Option<File>,
    /// What is tracked, and the index file that it was read from or written to.
    pub(super) tracked: Option<Tracked>,
    pub(super) stamp: Option<IndexStamp>,
    /// Every `.gitattributes` there is.
    pub(super) attributes: Option<BTreeSet<BString>>,
    /// When objects were dropped from the repository last.
    dropped: Option<(SystemTime, u64)>,
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
    pub(super) changing: Option<Changing>,
    /// The last checkpoint that the index on disk did not follow at once.
    pub(super) lag: Option<Lag>,
    /// A commit and its tree, of which the last one is asked for again and again.
    pub(super) tree_of: std::sync::Mutex<Option<(ObjectId, ObjectId)>>,
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

/// A workspace that nobody else changes while this lives, be it another thread or another process of Gitstead. The agent itself is not kept from anything.
#[derive(Debug)]
pub struct Held<'w> {
    pub(super) workspace: &'w Workspace,
    pub(super) state: MutexGuard<'w, State>,
    /// What is found in the repository stays there until a ref leads to it.
    _objects: Option<ObjectsHeld>,
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
        let mut held = Held {
            workspace: self,
            state,
            _objects: self.repository.hold_objects()?,
        };
        // What is known to be there may have been dropped.
        let dropped = self.repository.dropped_stamp();
        if held.state.dropped != dropped {
            held.forget();
            held.state.dropped = dropped;
        }
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
            if self.state.behind
                && let Some(lag) = &mut self.state.lag
            {
                lag.is_suspect = true;
            }
            let (tracked, attributes, stamp) = self.load_index(&path)?;
            (self.state.tracked, self.state.stamp) = (Some(tracked), stamp);
            self.state.attributes = Some(attributes.into_iter().collect());
            (self.state.complete, self.state.behind) = (false, false);
            self.state.ahead.clear();
        }
        Ok(self.state.tracked.get_or_insert_default())
    }

    pub(super) fn load_index(
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

    /// Waits until no git is at work in the index, at most as long as the options say, and not at all if it has been for longer. How long it has been if it still is.
    pub(crate) fn wait_for_git(&self) -> Option<Duration> {
        let mut lock = self.workspace.index_path().into_os_string();
        lock.push(".lock");
        let lock = std::path::PathBuf::from(lock);
        let wait = self.workspace.options.git_wait;
        let deadline = Instant::now() + wait;
        while let Ok(meta) = fs::symlink_metadata(&lock) {
            let since = meta.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            let age = SystemTime::now().duration_since(since).unwrap_or_default();
            if age >= wait || Instant::now() >= deadline {
                return Some(age);
            }
            std::thread::park_timeout(POLL);
        }
        None
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
}
