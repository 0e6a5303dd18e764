//! Workspaces that are kept open and watched, so that a checkpoint costs what has changed.

use std::{
    collections::HashMap,
    fmt, fs,
    os::unix::fs::MetadataExt as _,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    base::{Limits, RepoName, WorkspaceName},
    depot::Depot,
    workspace::{ManageError, Placement, Unchanged, Workspace, WorkspaceOptions},
};

/// Names of workspaces that are waited for, before those that nobody waits for any more are forgotten.
const TURNS: usize = 1_024;

/// The open workspaces of a depot. Bounded: the one that was not asked for longest makes room, and who is idle goes.
pub struct Residents {
    depot: Arc<Depot>,
    options: WorkspaceOptions,
    most: usize,
    idle: Duration,
    open: Mutex<HashMap<Key, Resident>>,
    turns: Mutex<HashMap<(String, String), Weak<Semaphore>>>,
}

/// How a workspace is opened other than as the server does by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct Variant {
    /// Checkpoints beside the branch.
    pub(super) shadow: bool,
    /// No checkpoint when nothing has changed.
    pub(super) skip_unchanged: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    repository: String,
    name: String,
    variant: Variant,
}

struct Resident {
    workspace: Arc<Workspace>,
    identity: Identity,
    watched: Arc<AtomicBool>,
    used: Instant,
}

/// What is at two places of a workspace: something else may have come there.
#[derive(PartialEq, Eq)]
struct Identity([Option<(u64, u64, i64, i64)>; 2]);

impl Identity {
    fn of(workspace: &Workspace) -> Self {
        let at = |path: &Path| {
            let found = fs::symlink_metadata(path).ok()?;
            // Of a directory everything else changes while it is the same one.
            let changed = match found.is_dir() {
                true => (0, 0),
                false => (found.ctime(), found.ctime_nsec()),
            };
            Some((found.dev(), found.ino(), changed.0, changed.1))
        };
        Identity([at(&workspace.root().join(".git")), at(workspace.git_dir())])
    }
}

impl fmt::Debug for Residents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Residents")
            .field("open", &self.open().len())
            .field("most", &self.most)
            .finish_non_exhaustive()
    }
}

impl Residents {
    /// None are open yet.
    pub fn new(depot: Arc<Depot>, options: WorkspaceOptions, limits: &Limits) -> Self {
        Residents {
            depot,
            options,
            most: limits.open_workspaces.max(1),
            idle: limits.workspace_idle,
            open: Mutex::default(),
            turns: Mutex::default(),
        }
    }

    /// How they are opened.
    pub fn options(&self) -> &WorkspaceOptions {
        &self.options
    }

    /// The workspace of that name, opened if it is not. Blocks; whether the caller may have it is asked elsewhere.
    ///
    /// # Errors
    /// As [`Depot::workspace`].
    pub fn get(&self, repository: &RepoName, name: &WorkspaceName) -> Result<Arc<Workspace>, ManageError> {
        self.get_as(repository, name, Variant::default())
    }

    /// As [`get`](Self::get), for somebody who changes it or looks at its files: it is watched from now on.
    ///
    /// # Errors
    /// As [`Depot::workspace`].
    pub(super) fn get_watched(
        &self,
        repository: &RepoName,
        name: &WorkspaceName,
        variant: Variant,
    ) -> Result<Arc<Workspace>, ManageError> {
        let workspace = self.get_as(repository, name, variant)?;
        let flag = {
            let open = self.open();
            let mine = open.values().find(|one| Arc::ptr_eq(&one.workspace, &workspace));
            mine.map(|one| Arc::clone(&one.watched))
        };
        // Once: where the system does not watch, it would not the next time either.
        if flag.is_some_and(|flag| !flag.swap(true, Ordering::Relaxed))
            && let Err(error) = workspace.watch()
        {
            tracing::warn!(repository = %repository, workspace = %name, %error, "not watched: every checkpoint looks at every file");
        }
        Ok(workspace)
    }

    fn get_as(
        &self,
        repository: &RepoName,
        name: &WorkspaceName,
        variant: Variant,
    ) -> Result<Arc<Workspace>, ManageError> {
        let key = Key {
            repository: repository.canonical().to_owned(),
            name: name.as_str().to_owned(),
            variant,
        };
        let known = {
            let mut open = self.open();
            open.get_mut(&key).map(|one| {
                one.used = Instant::now();
                Arc::clone(&one.workspace)
            })
        };
        if let Some(workspace) = known {
            let identity = Identity::of(&workspace);
            let same = self.open().get(&key).is_some_and(|one| one.identity == identity);
            if same && !workspace.repository().is_stale() {
                return Ok(workspace);
            }
        }
        let mut options = self.options.clone();
        if variant.shadow {
            options.placement = Placement::Shadow;
        }
        if variant.skip_unchanged {
            options.unchanged = Unchanged::Skip;
        }
        let workspace = Arc::new(self.depot.workspace_with(repository, name, &options)?);
        let resident = Resident {
            identity: Identity::of(&workspace),
            workspace: Arc::clone(&workspace),
            watched: Arc::default(),
            used: Instant::now(),
        };
        let mut gone = Vec::new();
        {
            let mut open = self.open();
            gone.extend(open.insert(key, resident));
            while open.len() > self.most {
                let oldest = open.iter().min_by_key(|(_, one)| one.used).map(|(key, _)| key.clone());
                let Some(oldest) = oldest else { break };
                gone.extend(open.remove(&oldest));
            }
        }
        // Closing writes what is pending: not while others wait for the list.
        drop(gone);
        Ok(workspace)
    }

    /// Waits for one's turn with a workspace: one request at a time goes to a worker and changes it, so that a busy one takes no workers from the others. `None` when it
    /// lasts longer than `patience`.
    pub(super) async fn turn(
        &self,
        repository: &RepoName,
        name: &WorkspaceName,
        patience: Duration,
    ) -> Option<OwnedSemaphorePermit> {
        let turn = {
            let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            if turns.len() >= TURNS {
                turns.retain(|_, turn| turn.strong_count() > 0);
            }
            let key = (repository.canonical().to_owned(), name.as_str().to_owned());
            match turns.get(&key).and_then(Weak::upgrade) {
                Some(turn) => turn,
                None => {
                    let turn = Arc::new(Semaphore::new(1));
                    turns.insert(key, Arc::downgrade(&turn));
                    turn
                }
            }
        };
        tokio::time::timeout(patience, turn.acquire_owned()).await.ok()?.ok()
    }

    /// Closes a workspace that is about to go.
    pub(super) fn forget(&self, repository: &RepoName, name: &WorkspaceName) {
        let is_it = |key: &Key| key.repository == repository.canonical() && key.name == name.as_str();
        let gone: Vec<_> = self.open().extract_if(|key, _| is_it(key)).collect();
        drop(gone);
    }

    /// Closes those that nobody has asked for lately. Blocks.
    pub fn let_go_of_idle(&self) {
        let now = Instant::now();
        let idle = self.idle;
        let gone: Vec<_> = self
            .open()
            .extract_if(|_, one| now.duration_since(one.used) >= idle)
            .collect();
        drop(gone);
    }

    /// Closes all. Blocks; what was acknowledged is on the disk afterwards.
    pub fn clear(&self) {
        let gone = std::mem::take(&mut *self.open());
        for resident in gone.values() {
            // Somebody may hold it still, so that it does not close.
            if let Err(error) = resident.workspace.settle() {
                let root = resident.workspace.root().display();
                tracing::warn!(workspace = %root, %error, "the index stays behind, or checkpoints may not survive a loss of power");
            }
        }
        drop(gone);
    }

    /// How many are open.
    pub fn count(&self) -> usize {
        self.open().len()
    }

    fn open(&self) -> MutexGuard<'_, HashMap<Key, Resident>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        depot::DepotOptions,
        workspace::{CreateWorkspace, Start, Unsaved},
    };

    fn name(text: &str) -> WorkspaceName {
        WorkspaceName::parse(text).unwrap()
    }

    fn house(most: usize, idle: Duration) -> (tempfile::TempDir, Arc<Depot>, Residents, RepoName) {
        let dir = tempfile::tempdir().unwrap();
        let depot = Arc::new(Depot::new(&dir.path().join("repos"), DepotOptions::default()).unwrap());
        let repo = RepoName::parse("team/app").unwrap();
        let task = "t".to_owned();
        depot
            .create_workspace(&repo, &name("main"), &CreateWorkspace::new(Start::Empty { task }))
            .unwrap();
        let mut limits = Limits::default();
        (limits.open_workspaces, limits.workspace_idle) = (most, idle);
        let residents = Residents::new(Arc::clone(&depot), WorkspaceOptions::default(), &limits);
        (dir, depot, residents, repo)
    }

    #[test]
    fn a_workspace_stays_open_until_there_is_no_room_or_nobody_comes() {
        let (_dir, depot, residents, repo) = house(2, Duration::ZERO);
        let first = residents.get(&repo, &name("main")).unwrap();
        assert!(Arc::ptr_eq(&first, &residents.get(&repo, &name("main")).unwrap()));
        for other in ["a", "b"] {
            depot
                .create_workspace(&repo, &name(other), &CreateWorkspace::default())
                .unwrap();
            residents.get(&repo, &name(other)).unwrap();
        }
        assert_eq!(residents.count(), 2);
        assert!(!Arc::ptr_eq(&first, &residents.get(&repo, &name("main")).unwrap()));
        residents.let_go_of_idle();
        assert_eq!(residents.count(), 0);
        assert!(residents.get(&repo, &name("nobody")).is_err());
        assert_eq!(residents.count(), 0);
    }

    #[test]
    fn another_workspace_of_the_same_name_is_another_one() {
        let (_dir, depot, residents, repo) = house(8, Duration::from_secs(60));
        let old = residents.get(&repo, &name("main")).unwrap();
        depot.remove_workspace(&repo, &name("main"), Unsaved::Discard).unwrap();
        assert!(residents.get(&repo, &name("main")).is_err(), "it is gone");
        depot
            .create_workspace(&repo, &name("main"), &CreateWorkspace::default())
            .unwrap();
        let new = residents.get(&repo, &name("main")).unwrap();
        assert!(!Arc::ptr_eq(&old, &new));
        residents.forget(&repo, &name("main"));
        assert_eq!(residents.count(), 0);
    }
}
