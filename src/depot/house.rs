use std::{
    collections::HashMap,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use bstr::{BString, ByteSlice as _};

use super::{
    DepotError,
    change::{HIDDEN_PREFIX, check_branch},
    layout::{self, Located},
    memfs::{self, Layout},
};
use crate::{
    base::RepoName,
    repo::{OpenError, OpenOptions, Repository},
};

/// How a depot behaves.
#[derive(Debug, Clone, Default)]
pub struct DepotOptions {
    /// How repositories are opened; `limits.open_repositories` bounds how many stay open.
    pub open: OpenOptions,
    /// Whether only repositories with a file `git-daemon-export-ok` in their git directory are there for anyone.
    pub require_export_ok: bool,
    /// How repositories lie on disk.
    pub layout: Layout,
    /// Where workspaces are made, in a directory per repository. `None` is `work` beside the directory of repositories.
    pub work: Option<PathBuf>,
}

/// What a new repository is like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateOptions {
    /// The hash of its objects.
    pub object_format: gix::hash::Kind,
    /// The branch that HEAD names.
    pub default_branch: String,
    /// The text of its `description` file.
    pub description: Option<String>,
    /// Whether it gets a file `git-daemon-export-ok`. A depot that requires one always writes it.
    pub export_ok: bool,
}

impl Default for CreateOptions {
    fn default() -> Self {
        CreateOptions {
            object_format: gix::hash::Kind::Sha1,
            default_branch: "main".to_owned(),
            description: None,
            export_ok: false,
        }
    }
}

/// A directory of repositories, nested or not, bare or not, made by anyone. Shared between threads.
#[derive(Debug)]
pub struct Depot {
    pub(super) root: PathBuf,
    work: PathBuf,
    pub(super) names: Mutex<()>,
    options: DepotOptions,
    opened: Mutex<Opened>,
    pub(super) blank: Mutex<Option<Arc<Repository>>>,
    pub(super) uses: Mutex<HashMap<PathBuf, Use>>,
    /// Which organization an agent was found in that was asked for in another.
    elsewhere: Mutex<HashMap<String, String>>,
}

/// The repositories that are open, by git directory.
#[derive(Debug, Default)]
struct Opened {
    entries: HashMap<PathBuf, Entry>,
    clock: u64,
}

#[derive(Debug)]
struct Entry {
    repository: Arc<Repository>,
    /// Device and inode of the directory: another may have taken its place.
    identity: (u64, u64),
    used: u64,
}

/// Who is at work on one repository.
#[derive(Debug, Default)]
pub(super) struct Use {
    count: usize,
    /// Whether it is to be discarded by the last one, if it is still empty then.
    pub(super) unwanted: bool,
}

/// A repository while somebody works on it: it is not discarded as empty before this is dropped.
#[derive(Debug)]
pub struct Lease {
    repository: Arc<Repository>,
    _using: Using,
}

impl Lease {
    /// The repository itself, for whoever needs it for longer.
    pub fn repository(&self) -> &Arc<Repository> {
        &self.repository
    }
}

impl std::ops::Deref for Lease {
    type Target = Repository;
    fn deref(&self) -> &Repository {
        &self.repository
    }
}

#[derive(Debug)]
struct Using {
    depot: Arc<Depot>,
    git_dir: PathBuf,
}

impl Drop for Using {
    fn drop(&mut self) {
        let unwanted = {
            let mut uses = self.depot.uses();
            let Some(entry) = uses.get_mut(&self.git_dir) else {
                return;
            };
            entry.count = entry.count.saturating_sub(1);
            let unwanted = entry.count == 0 && entry.unwanted;
            if entry.count == 0 {
                uses.remove(&self.git_dir);
            }
            unwanted
        };
        if unwanted && let Err(error) = self.depot.discard_at(&self.git_dir) {
            let path = self.git_dir.display();
            tracing::warn!(%path, %error, "a push that failed left an empty repository");
        }
    }
}

impl Depot {
    /// A depot over `root`, which is created if it is missing.
    pub fn new(root: &Path, options: DepotOptions) -> Result<Self, DepotError> {
        fs::create_dir_all(root).map_err(|source| DepotError::io("create", root.to_owned(), source))?;
        let root = root
            .canonicalize()
            .map_err(|source| DepotError::io("find", root.to_owned(), source))?;
        let work = match &options.work {
            Some(work) => work.clone(),
            None => root.parent().unwrap_or(&root).join("work"),
        };
        Ok(Depot {
            root,
            work,
            names: Mutex::new(()),
            options,
            opened: Mutex::default(),
            blank: Mutex::default(),
            uses: Mutex::default(),
            elsewhere: Mutex::default(),
        })
    }

    /// The directory of repositories, absolute.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The directory of workspaces. It need not be there.
    pub fn work_dir(&self) -> &Path {
        &self.work
    }

    /// How repositories lie on disk.
    pub fn layout(&self) -> Layout {
        self.options.layout
    }

    /// How repositories are opened.
    pub fn open_options(&self) -> &OpenOptions {
        &self.options.open
    }

    /// The repository of that name, as it is on disk now.
    pub fn open(&self, name: &RepoName) -> Result<Arc<Repository>, DepotError> {
        let located = self.locate(name)?;
        self.open_at(name, located.git_dir)
    }

    /// As [`open`](Self::open), for one that must not be [discarded](Self::discard_if_empty) meanwhile.
    pub fn lease(self: &Arc<Self>, name: &RepoName) -> Result<Lease, DepotError> {
        let located = match self.locate(name) {
            Err(DepotError::NotFound { .. }) if self.layout() == (Layout::LettaMemfs { org_fallback: true }) => {
                self.locate_elsewhere(name)?
            }
            located => located?,
        };
        // Counted before it is opened: what is discarded between the two is not found.
        self.uses().entry(located.git_dir.clone()).or_default().count += 1;
        let using = Using {
            depot: Arc::clone(self),
            git_dir: located.git_dir.clone(),
        };
        let repository = self.open_at(name, located.git_dir)?;
        Ok(Lease {
            repository,
            _using: using,
        })
    }

    fn open_at(&self, name: &RepoName, dir: PathBuf) -> Result<Arc<Repository>, DepotError> {
        let not_found = || DepotError::NotFound { name: name.clone() };
        let identity = match layout::stat(&dir)? {
            Some(meta) => (meta.dev(), meta.ino()),
            None => return Err(not_found()),
        };
        if let Some(repository) = self.cached(&dir, identity) {
            return Ok(repository);
        }
        let opened = match self.layout() {
            Layout::Names => Repository::open(&dir, &self.options.open),
            Layout::LettaMemfs { .. } => memfs::open(&dir, &self.options.open),
        };
        let repository = match opened {
            Ok(repository) => Arc::new(repository),
            // Gone since we looked.
            Err(OpenError::NotARepository { .. }) => return Err(not_found()),
            Err(source) => {
                let name = name.clone();
                return Err(DepotError::Open { name, source });
            }
        };
        self.remember(dir, identity, &repository);
        Ok(repository)
    }

    /// Whether there is a repository of that name, without opening it.
    pub fn contains(&self, name: &RepoName) -> Result<bool, DepotError> {
        match self.locate(name) {
            Ok(_) => Ok(true),
            Err(DepotError::NotFound { .. }) => Ok(false),
            Err(other) => Err(other),
        }
    }

    /// Looks a name up as git does. A name with `.git` at its end that leads nowhere is tried without it.
    pub(super) fn locate(&self, name: &RepoName) -> Result<Located, DepotError> {
        let not_found = || DepotError::NotFound { name: name.clone() };
        if name
            .as_str()
            .split('/')
            .any(|segment| segment.starts_with(HIDDEN_PREFIX))
        {
            return Err(not_found());
        }
        let mut located = layout::find(&self.root.join(name.to_path()))?;
        if located.is_none() && name.stem() != name.as_str() {
            located = layout::find(&self.root.join(name.stem()))?;
        }
        located
            .filter(|located| self.exported(&located.git_dir))
            .ok_or_else(not_found)
    }

    pub(super) fn requires_export_ok(&self) -> bool {
        self.options.require_export_ok
    }

    pub(super) fn exported(&self, git_dir: &Path) -> bool {
        !self.options.require_export_ok || git_dir.join("git-daemon-export-ok").exists()
    }

    /// An empty repository that has no name: what a push to a name that does not exist yet is shown, so that nothing is created before there is
    /// something to keep. Nothing may be written to it.
    pub fn blank(&self, options: &CreateOptions) -> Result<Arc<Repository>, DepotError> {
        let mut blank = self.blank.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(repository) = &*blank {
            let same = repository.hash_kind() == options.object_format;
            if same && repository.git_dir().join("HEAD").exists() {
                return Ok(repository.clone());
            }
        }
        let dir = self.write_blank(options)?;
        let repository = Repository::open(&dir, &self.options.open).map_err(|source| {
            let name = RepoName::parse("blank").expect("the word is a name");
            DepotError::Open { name, source }
        })?;
        let repository = Arc::new(repository);
        *blank = Some(repository.clone());
        Ok(repository)
    }

    /// Makes HEAD name another branch, which need not exist yet.
    pub fn set_head(&self, name: &RepoName, branch: &str) -> Result<(), DepotError> {
        let branch = branch.strip_prefix("refs/heads/").unwrap_or(branch);
        check_branch(branch)?;
        let full = BString::from(format!("refs/heads/{branch}"));
        let refs = |source| DepotError::Refs {
            name: name.clone(),
            source,
        };
        self.ours(name)?;
        self.open(name)?.set_head(None, full.as_bstr(), None).map_err(refs)
    }

    fn cached(&self, dir: &Path, identity: (u64, u64)) -> Option<Arc<Repository>> {
        let found = {
            let mut opened = self.opened();
            opened.clock += 1;
            let now = opened.clock;
            let entry = opened.entries.get_mut(dir)?;
            entry.used = now;
            (entry.identity == identity).then(|| entry.repository.clone())
        };
        // Asked outside of the lock: it looks at the disk.
        match found {
            Some(repository) if !repository.is_stale() => Some(repository),
            _ => {
                self.forget(dir);
                None
            }
        }
    }

    fn remember(&self, dir: PathBuf, identity: (u64, u64), repository: &Arc<Repository>) {
        let most = self.options.open.limits.open_repositories.max(1);
        let mut opened = self.opened();
        opened.clock += 1;
        let used = opened.clock;
        let entry = Entry {
            repository: repository.clone(),
            identity,
            used,
        };
        opened.entries.insert(dir, entry);
        while opened.entries.len() > most {
            let oldest = opened.entries.iter().min_by_key(|(_, entry)| entry.used);
            let Some(oldest) = oldest.map(|(dir, _)| dir.clone()) else {
                break;
            };
            opened.entries.remove(&oldest);
        }
    }

    /// Drops an open repository; requests that have it keep it to their end.
    pub(super) fn forget(&self, dir: &Path) {
        self.opened().entries.remove(dir);
    }

    pub(super) fn uses(&self) -> std::sync::MutexGuard<'_, HashMap<PathBuf, Use>> {
        self.uses.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub(super) fn elsewhere(&self) -> std::sync::MutexGuard<'_, HashMap<String, String>> {
        self.elsewhere.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn opened(&self) -> std::sync::MutexGuard<'_, Opened> {
        self.opened.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Drop for Depot {
    fn drop(&mut self) {
        let blank = self.blank.get_mut().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(repository) = blank.take() {
            let _ = fs::remove_dir_all(repository.git_dir());
        }
    }
}
