use std::{
    fs,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock, Weak, atomic::AtomicBool},
    time::Duration,
};

use bstr::{BStr, BString, ByteSlice};

use super::{SecretRules, WorkspaceError, lock::State, pending::Pending, watch::Watch};
use crate::{
    base::{Clock, SystemClock},
    repo::{CompactOptions, OpenOptions, RepackError, Repository},
};

/// What an acknowledged checkpoint survives. A killed process, whatever this says: the system has the bytes then. This is about power.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// A loss of power too, before it is acknowledged.
    Each,
    /// A loss of power a second later.
    #[default]
    Batched,
    /// Whenever the system writes its caches.
    Off,
}

/// Where checkpoints go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Placement {
    /// On the branch that the workspace is on, so that `git log` tells what the agent did.
    #[default]
    Branch,
    /// On `refs/gitstead/checkpoints/<workspace>`; branch, HEAD and index stay as they are.
    Shadow,
}

/// What becomes of a tool execution that changed no file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Unchanged {
    /// A commit all the same: the record of what the agent did.
    #[default]
    Record,
    /// No commit.
    Skip,
}

/// How far the making of a checkpoint is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Progress {
    /// So many files have been looked at.
    Looked {
        /// How many.
        files: usize,
    },
    /// Of the files that may have changed, so many have been read.
    Read {
        /// How many.
        files: usize,
        /// Of how many.
        of: usize,
    },
}

/// How a workspace is opened.
#[derive(Clone)]
pub struct WorkspaceOptions {
    /// How its repository is opened.
    pub open: OpenOptions,
    /// How long to wait for another writer.
    pub lock_wait: Duration,
    /// How many files that are not ignored a workspace may have.
    pub files: usize,
    /// Bytes of the largest file that is recorded.
    pub file_bytes: u64,
    /// Whether `/` and home directories may be workspaces.
    pub any_root: bool,
    /// What a checkpoint survives.
    pub durability: Durability,
    /// Threads that read and hash files.
    pub threads: usize,
    /// Where checkpoints go.
    pub placement: Placement,
    /// What becomes of a checkpoint of nothing.
    pub unchanged: Unchanged,
    /// Which files are withheld.
    pub secrets: SecretRules,
    /// Name and address of the committer; the author is the agent.
    pub committer: (String, String),
    /// How long the index on disk may be behind a checkpoint in a workspace that is watched. Git in the workspace sees what was recorded as not yet committed
    /// until then.
    pub index_delay: Duration,
    /// Up to so many files the index on disk is brought up to date before a checkpoint counts, whatever [`index_delay`](Self::index_delay) says, which takes about
    /// as long as all the rest of it. Where it is not, git that commits in the workspace within that moment takes the checkpoint back: that is told in the outcome
    /// of the next one, which records it again.
    pub index_at_once: usize,
    /// How often everything is looked at although a watch says where to look: it does not see what is written through a shared memory mapping.
    pub rescan: Duration,
    /// How long to wait for a git that is at work in the index.
    pub git_wait: Duration,
    /// Whether small objects are packed now and then, on the one modest thread of the process, so that a long trail stays a few files; not where the repository says
    /// `gc.auto = 0` or `maintenance.auto = false`.
    pub compact: bool,
    /// Signs commits.
    #[cfg(feature = "ssh-signatures")]
    pub signer: Option<Arc<super::CommitSigner>>,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// Told while a checkpoint is made, from several threads and very often.
    pub progress: Option<Arc<dyn Fn(Progress) + Send + Sync>>,
}

impl std::fmt::Debug for WorkspaceOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WorkspaceOptions")
            .field("placement", &self.placement)
            .field("unchanged", &self.unchanged)
            .field("durability", &self.durability)
            .finish_non_exhaustive()
    }
}

impl Default for WorkspaceOptions {
    fn default() -> Self {
        WorkspaceOptions {
            open: OpenOptions::default(),
            lock_wait: Duration::from_secs(10),
            files: 1_000_000,
            file_bytes: 100 << 20,
            any_root: false,
            durability: Durability::default(),
            threads: 2,
            placement: Placement::default(),
            unchanged: Unchanged::default(),
            secrets: SecretRules::default(),
            committer: ("Gitstead".to_owned(), "gitstead@gitstead.invalid".to_owned()),
            index_delay: Duration::from_millis(10),
            index_at_once: 0,
            rescan: Duration::from_secs(600),
            git_wait: Duration::from_secs(2),
            compact: true,
            #[cfg(feature = "ssh-signatures")]
            signer: None,
            clock: Arc::new(SystemClock),
            progress: None,
        }
    }
}

/// A working tree and the repository it belongs to: one that Gitstead made beside a bare repository, or anybody's.
///
/// Shared between threads; what is done to it is done by one at a time ([`lock`](Self::lock)), also across processes.
#[derive(Debug)]
pub struct Workspace {
    pub(super) repository: Arc<Repository>,
    pub(super) root: PathBuf,
    name: BString,
    pub(super) options: WorkspaceOptions,
    pub(super) state: Mutex<State>,
    pub(super) pending: Arc<Pending>,
    /// Itself, where it is shared.
    pub(super) me: OnceLock<Weak<Workspace>>,
}

impl Workspace {
    /// The workspace at `path`, or the nearest one above it.
    ///
    /// # Errors
    /// `NotAWorkspace`; `Root` for `/` and home directories; `Open` when the repository is one that we could not treat whole.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, WorkspaceError> {
        Self::open_with(path, &WorkspaceOptions::default())
    }

    /// As [`open`](Self::open), otherwise than by default.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_with(path: impl AsRef<Path>, options: &WorkspaceOptions) -> Result<Self, WorkspaceError> {
        let path = path.as_ref();
        let path = path.canonicalize().map_err(WorkspaceError::io("find", path))?;
        let not_one = || WorkspaceError::NotAWorkspace { path: path.clone() };
        // Within a `.git` there are no files of anybody's.
        if path.components().any(|part| part.as_os_str() == ".git") {
            return Err(not_one());
        }
        let root = path
            .ancestors()
            .find(|dir| fs::symlink_metadata(dir.join(".git")).is_ok())
            .ok_or_else(not_one)?
            .to_owned();
        if !options.any_root {
            refuse_wide_root(&root)?;
        }
        let open = OpenOptions {
            lazy_refs: options.durability != Durability::Each,
            ..options.open.clone()
        };
        let repository = Arc::new(Repository::open(&root.join(".git"), &open)?);
        let linked = repository.git_dir() != repository.common_dir();
        let name = match repository.git_dir().file_name() {
            Some(name) if linked => name.as_bytes().into(),
            _ => BString::from("main"),
        };
        Ok(Workspace {
            repository,
            root,
            name,
            options: options.clone(),
            state: Mutex::default(),
            pending: Arc::default(),
            me: OnceLock::new(),
        })
    }

    /// The repository as seen from here: `HEAD` is this workspace's own.
    pub fn repository(&self) -> &Arc<Repository> {
        &self.repository
    }

    /// The directory with the files, absolute.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where HEAD and index of this workspace are.
    pub fn git_dir(&self) -> &Path {
        self.repository.git_dir()
    }

    /// `main` for the working tree that a repository was made with, else the name of the linked worktree.
    pub fn name(&self) -> &BStr {
        self.name.as_bstr()
    }

    /// How it was opened.
    pub fn options(&self) -> &WorkspaceOptions {
        &self.options
    }

    /// Watches the files from now on, so that a checkpoint costs what has changed and not what there is. The next checkpoint still looks at everything.
    ///
    /// What is written through a shared memory mapping is not seen by the watch; it is when the file is next changed otherwise, when
    /// [`rescan`](WorkspaceOptions::rescan) is due, or after [`look_at_everything`](Self::look_at_everything).
    ///
    /// # Errors
    /// When the system does not watch. Checkpoints work all the same, at the cost of a scan.
    pub fn watch(self: &Arc<Self>) -> Result<(), WorkspaceError> {
        let _ = self.me.set(Arc::downgrade(self));
        let mut held = self.lock()?;
        if held.state.watch.is_none() {
            let watch = Watch::over(&self.root).map_err(|err| WorkspaceError::io("watch", &self.root)(err.into()))?;
            held.state.watch = Some(watch);
            held.state.complete = false;
        }
        Ok(())
    }

    /// Has `tell` called whenever the watch sees a change of the files, for as long as somebody holds it. It is called from whatever thread sees it, while others wait: it has to be
    /// quick, and must not use the workspace. What it is told of need not be more than that somebody has opened a file for writing. Says whether there is a watch; only then it is
    /// called.
    pub fn on_change(&self, tell: &Arc<dyn Fn() + Send + Sync>) -> bool {
        let state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match &state.watch {
            Some(watch) => {
                watch.on_change(tell);
                true
            }
            None => false,
        }
    }

    /// Makes the next checkpoint look at everything, whatever a watch has seen.
    ///
    /// # Errors
    /// When the workspace is in use for too long.
    pub fn look_at_everything(&self) -> Result<(), WorkspaceError> {
        self.lock()?.state.complete = false;
        Ok(())
    }

    /// Packs the small objects of the repository if there are many: what happens now and then by itself in a process that stays
    /// ([`WorkspaceOptions::compact`]), for one that does not. Not where the repository says `gc.auto = 0` or
    /// `maintenance.auto = false`. Takes no lock of the workspace. Says whether there was something to do.
    ///
    /// # Errors
    /// When packs cannot be read or written. Nothing is lost then.
    pub fn compact(&self) -> Result<bool, RepackError> {
        let settings = self.repository.settings();
        if !settings.maintenance_auto || settings.precious_objects || !self.repository.wants_compaction()? {
            return Ok(false);
        }
        let stop = AtomicBool::new(false);
        self.repository
            .compact(&CompactOptions::default(), &stop, &mut |_| ())?;
        Ok(true)
    }

    /// Brings every acknowledged checkpoint to the disk now.
    ///
    /// # Errors
    /// The first failure.
    pub fn flush(&self) -> Result<(), WorkspaceError> {
        self.pending.flush()
    }

    /// Writes the index on disk now if it is behind the last checkpoint, and brings every acknowledged checkpoint to the disk: for a process that is about to end, whoever else still holds this workspace.
    ///
    /// # Errors
    /// When the lock of the workspace cannot be had in time; the first failure.
    pub fn settle(&self) -> Result<(), WorkspaceError> {
        self.lock()?.catch_up()?;
        self.flush()
    }

    pub(super) fn index_path(&self) -> PathBuf {
        self.git_dir().join("index")
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        let behind = self.state.get_mut().is_ok_and(|state| state.behind);
        if behind && let Err(error) = self.lock().and_then(|mut held| held.catch_up()) {
            tracing::warn!(workspace = %self.root.display(), %error, "the index stays behind");
        }
        if let Err(error) = self.pending.flush() {
            tracing::warn!(workspace = %self.root.display(), %error, "checkpoints may not survive a loss of power");
        }
    }
}

/// A checkpoint of these would be one of everything somebody has.
fn refuse_wide_root(root: &Path) -> Result<(), WorkspaceError> {
    let refuse = |why| {
        let path = root.to_owned();
        Err(WorkspaceError::Root { path, why })
    };
    if root.parent().is_none() {
        return refuse("the root of the file system");
    }
    let home = std::env::var_os("HOME").map(PathBuf::from);
    if home
        .and_then(|home| home.canonicalize().ok())
        .is_some_and(|home| home.starts_with(root))
    {
        return refuse("a home directory, or above one");
    }
    if root.parent() == Some(Path::new("/home")) || root == Path::new("/root") {
        return refuse("a home directory");
    }
    Ok(())
}
