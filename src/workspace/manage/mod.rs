//! Workspaces of a depot's repositories: linked worktrees, as `git worktree` makes them and understands them.
//!
//! `<work>/<repository>/<workspace>/` holds the files and a `.git` file; the repository's `worktrees/<workspace>/` holds HEAD, index and the way back. The
//! `.git` file names its target relative to itself where repositories and workspaces lie beside one another, so that the whole data directory can be moved; the
//! way back (`gitdir`) is absolute, because git before 2.48 takes a relative one for a worktree that is gone and prunes it. A way back that no longer leads
//! anywhere is mended when the workspace is opened.
//!
//! What is half made is marked as such (`gitstead-creating`) and finished by the next one who opens it; what is half removed (`gitstead-removing`) is removed.

mod admin;
mod branch;
mod create;
mod remove;
#[cfg(test)]
mod tests;

use std::{
    error::Error,
    fmt, io,
    path::{Path, PathBuf},
};

use bstr::{BString, ByteSlice as _};
use gix::hash::ObjectId;

use super::{Held, TransitionError, Workspace, WorkspaceError, WorkspaceOptions};
use crate::{
    base::{Fault, RepoName, WorkspaceName},
    depot::{CreateOptions, Depot, DepotError},
    repo::{ConnectivityError, Head, OdbError, RefsError, Repository, WriteError},
};
use admin::Admin;
pub use branch::{OnBranch, worktrees_on};

/// Where a new workspace begins.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Start {
    /// Where the repository is: on its default branch, if no workspace is on it and this is the first one or called `main`; else on a branch of its own from there.
    #[default]
    Default,
    /// With nothing: an empty repository, made if it is not there, whose first commit says what the task is.
    Empty {
        /// What the agent is to do. The commit is called `Initial task: <task>`.
        task: String,
    },
    /// On this branch, which no other workspace may be on; or, if [`CreateWorkspace::branch`] names another, on that one, made from here.
    Branch(String),
    /// At this commit, on a branch of its own.
    Commit(ObjectId),
    /// With a new repository that has what another one has. Nothing in it depends on the other one afterwards.
    Fork {
        /// The repository that is forked.
        source: RepoName,
        /// The commit to begin at; else its default branch.
        at: Option<ObjectId>,
    },
}

/// What a new workspace is like.
#[derive(Debug, Clone, Default)]
pub struct CreateWorkspace {
    /// Where it begins.
    pub start: Start,
    /// Its branch, without `refs/heads/`. Else it is named after the workspace, except for the first one, which is on the default branch.
    pub branch: Option<String>,
    /// How a repository is made, if one is.
    pub repository: CreateOptions,
    /// Name and e-mail address of who makes the first commit.
    pub author: Option<(String, String)>,
    /// How it is opened.
    pub options: WorkspaceOptions,
}

impl CreateWorkspace {
    /// One that begins there, and is as usual otherwise.
    pub fn new(start: Start) -> Self {
        CreateWorkspace {
            start,
            ..CreateWorkspace::default()
        }
    }
}

/// What happens to work that is saved nowhere when a workspace is removed. Files that are ignored are no work.
pub enum Unsaved<'a> {
    /// The workspace stays if there is any.
    Refuse,
    /// It is saved by this first, such as in a last checkpoint on the workspace's branch.
    Save(&'a mut SaveFn<'a>),
    /// It is gone.
    Discard,
}

/// Saves what is unsaved in a workspace.
pub type SaveFn<'a> = dyn FnMut(&mut Held<'_>) -> Result<(), Box<dyn Error + Send + Sync>> + 'a;

impl fmt::Debug for Unsaved<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Unsaved::Refuse => "Refuse",
            Unsaved::Save(_) => "Save",
            Unsaved::Discard => "Discard",
        })
    }
}

/// How far a workspace is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum WorkspaceState {
    /// Whole.
    Ready,
    /// Half made: opening it finishes that.
    Creating,
    /// Half removed.
    Removing,
    /// Its directory is gone, or is somebody else's now. It can be removed.
    Missing,
}

impl WorkspaceState {
    /// In a word.
    pub fn as_str(self) -> &'static str {
        match self {
            WorkspaceState::Ready => "ready",
            WorkspaceState::Creating => "creating",
            WorkspaceState::Removing => "removing",
            WorkspaceState::Missing => "missing",
        }
    }
}

/// One workspace of a repository, as it is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkspaceEntry {
    /// Its name.
    pub name: WorkspaceName,
    /// Where its files are.
    pub root: PathBuf,
    /// The branch that it is on, its full name; `None` when it is on none.
    pub branch: Option<BString>,
    /// The commit that it is at; `None` on a branch without one.
    pub commit: Option<ObjectId>,
    /// Whether Gitstead made it; else `git worktree` did.
    pub managed: bool,
    /// How far it is there.
    pub state: WorkspaceState,
}

/// Why something could not be done with the workspaces of a depot.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManageError {
    /// There is no such workspace.
    #[error("repository '{repository}' has no workspace '{name}'")]
    NotFound {
        /// The repository.
        repository: RepoName,
        /// The workspace.
        name: WorkspaceName,
    },
    /// There is one of that name.
    #[error("repository '{repository}' has a workspace '{name}' already")]
    Exists {
        /// The repository.
        repository: RepoName,
        /// The workspace.
        name: WorkspaceName,
    },
    /// Its directory is gone.
    #[error("the directory of workspace '{name}' is gone; remove the workspace, and create it again from its branch")]
    Missing {
        /// The workspace.
        name: WorkspaceName,
    },
    /// A branch is in use by another workspace.
    #[error("branch '{branch}' is checked out in another workspace")]
    BranchInUse {
        /// The branch, without `refs/heads/`.
        branch: String,
    },
    /// A new branch has the name of one that is elsewhere.
    #[error("there is a branch '{branch}' already, and it is at another commit")]
    BranchExists {
        /// The branch, without `refs/heads/`.
        branch: String,
    },
    /// There is no such branch.
    #[error("there is no branch '{branch}'")]
    NoBranch {
        /// What was named.
        branch: String,
    },
    /// There is no such commit.
    #[error("there is no commit {id}")]
    NoCommit {
        /// What was named.
        id: ObjectId,
    },
    /// Not everything that the commit reaches is here.
    #[error("not everything of that commit is here")]
    Incomplete(#[from] ConnectivityError),
    /// A workspace cannot begin where nothing is.
    #[error("repository '{repository}' has no commit yet: begin its first workspace with a task")]
    NoHistory {
        /// The repository.
        repository: RepoName,
    },
    /// An empty beginning where something is.
    #[error("repository '{repository}' has commits already: begin from a branch or a commit")]
    HasHistory {
        /// The repository.
        repository: RepoName,
    },
    /// There is work that is saved nowhere.
    #[error("workspace '{name}' has {what}")]
    Unsaved {
        /// The workspace.
        name: WorkspaceName,
        /// What.
        what: String,
    },
    /// `git worktree lock` was said.
    #[error("workspace '{name}' is locked: {why}")]
    Locked {
        /// The workspace.
        name: WorkspaceName,
        /// The reason that was given then.
        why: String,
    },
    /// Not a place where workspaces may be.
    #[error("workspaces cannot be kept in {path}: it {why}", path = path.display())]
    Place {
        /// The directory.
        path: PathBuf,
        /// Why not.
        why: &'static str,
    },
    /// Something else is where it would go.
    #[error("there is something else at {path}", path = path.display())]
    InTheWay {
        /// Where.
        path: PathBuf,
    },
    /// What was to be saved could not be.
    #[error("the work in workspace '{name}' could not be saved")]
    Save {
        /// The workspace.
        name: WorkspaceName,
        /// Why.
        source: Box<dyn Error + Send + Sync>,
    },
    /// Its files could not be put there.
    #[error("the files of workspace '{name}' could not be written")]
    Files {
        /// The workspace.
        name: WorkspaceName,
        /// Why.
        source: Box<TransitionError>,
    },
    /// The depot could not.
    #[error(transparent)]
    Depot(#[from] DepotError),
    /// The workspace could not.
    #[error(transparent)]
    Workspace(#[from] WorkspaceError),
    /// The refs could not be read or changed.
    #[error("the refs of the repository")]
    Refs(#[from] RefsError),
    /// The objects could not be read.
    #[error("the objects of the repository")]
    Objects(#[from] OdbError),
    /// The first commit could not be written.
    #[error("the objects of the repository")]
    Write(#[from] WriteError),
    /// A file operation failed.
    #[error("{doing} {path}", path = path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl ManageError {
    fn io(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| ManageError::Io { doing, path, source }
    }

    /// Whose move it is.
    pub fn fault(&self) -> Fault {
        match self {
            ManageError::NotFound { .. }
            | ManageError::Missing { .. }
            | ManageError::NoBranch { .. }
            | ManageError::NoCommit { .. } => Fault::NotFound,
            ManageError::Exists { .. }
            | ManageError::BranchInUse { .. }
            | ManageError::BranchExists { .. }
            | ManageError::NoHistory { .. }
            | ManageError::HasHistory { .. }
            | ManageError::Unsaved { .. }
            | ManageError::Locked { .. }
            | ManageError::InTheWay { .. } => Fault::Client,
            ManageError::Place { .. } | ManageError::Save { .. } | ManageError::Io { .. } => Fault::Ours,
            ManageError::Files { source, .. } => source.fault(),
            ManageError::Depot(err) => err.fault(),
            ManageError::Workspace(err) => err.fault(),
            ManageError::Refs(err) => err.fault(),
            ManageError::Objects(err) => err.fault(),
            ManageError::Incomplete(err) => err.fault(),
            ManageError::Write(err) => err.fault(),
        }
    }
}

impl Depot {
    /// Opens a workspace of a repository: one that was created here, one that `git worktree` made, or, as `main`, the working tree that the repository itself has.
    /// What a killed process has left half done is finished first.
    ///
    /// # Errors
    /// `NotFound`; `Missing` when its directory is gone.
    pub fn workspace(&self, repository: &RepoName, name: &WorkspaceName) -> Result<Workspace, ManageError> {
        self.workspace_with(repository, name, &WorkspaceOptions::default())
    }

    /// As [`workspace`](Self::workspace), otherwise than by default.
    ///
    /// # Errors
    /// As [`workspace`](Self::workspace).
    pub fn workspace_with(
        &self,
        repository: &RepoName,
        name: &WorkspaceName,
        options: &WorkspaceOptions,
    ) -> Result<Workspace, ManageError> {
        let repo = self.open(repository)?;
        let admin = Admin::of(&repo, name);
        if !admin.exists() {
            if name.as_str() == "main" && !repo.is_bare() {
                let root = repo.common_dir().parent().unwrap_or(repo.common_dir());
                return Ok(Workspace::open_with(root, options)?);
            }
            return Err(ManageError::NotFound {
                repository: repository.clone(),
                name: name.clone(),
            });
        }
        let usual = self.workspace_dir(repository, name);
        if admin.is_half_done() {
            return self.finish_creation(&repo, repository, &admin, options);
        }
        let root = match admin.root() {
            Some(root) if admin.is_at(&root) => root,
            // The data directory was moved as a whole.
            _ if admin.is_at(&usual) => {
                admin.point_to(&usual)?;
                usual
            }
            _ => return Err(ManageError::Missing { name: name.clone() }),
        };
        Ok(Workspace::open_with(root, options)?)
    }

    /// The workspaces of a repository, sorted by name.
    ///
    /// # Errors
    /// When there is no such repository, or its list of worktrees cannot be read.
    pub fn workspaces(&self, repository: &RepoName) -> Result<Vec<WorkspaceEntry>, ManageError> {
        let repo = self.open(repository)?;
        let mut entries = Vec::new();
        if !repo.is_bare() && repo.git_dir() == repo.common_dir() {
            let (branch, commit) = head_of(&repo)?;
            entries.push(WorkspaceEntry {
                name: WorkspaceName::parse("main").expect("the word is a name"),
                root: repo.common_dir().parent().unwrap_or(repo.common_dir()).to_owned(),
                branch,
                commit,
                managed: false,
                state: WorkspaceState::Ready,
            });
        }
        for admin in Admin::all(&repo)? {
            let root = admin.root();
            let usual = self.workspace_dir(repository, admin.name());
            let root = match root {
                Some(root) if admin.is_at(&root) || !admin.is_at(&usual) => root,
                _ => usual,
            };
            let state = match () {
                () if admin.is_half_removed() => WorkspaceState::Removing,
                () if admin.is_half_done() => WorkspaceState::Creating,
                () if admin.is_at(&root) => WorkspaceState::Ready,
                () => WorkspaceState::Missing,
            };
            let (branch, commit) = admin.head(&repo);
            entries.push(WorkspaceEntry {
                name: admin.name().clone(),
                root,
                branch,
                commit,
                managed: admin.is_managed(),
                state,
            });
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        entries.dedup_by(|a, b| a.name == b.name);
        Ok(entries)
    }

    /// Where a workspace of a repository is made.
    pub fn workspace_dir(&self, repository: &RepoName, name: &WorkspaceName) -> PathBuf {
        self.work_of(repository).join(name.as_str())
    }

    /// Where the workspaces of a repository are made.
    fn work_of(&self, repository: &RepoName) -> PathBuf {
        self.work_dir().join(repository.canonical())
    }
}

fn head_of(repo: &Repository) -> Result<(Option<BString>, Option<ObjectId>), RefsError> {
    Ok(match repo.head(None)? {
        Head::Symbolic { target, id } => (Some(target), id),
        Head::Detached(id) => (None, Some(id)),
        Head::Missing => (None, None),
    })
}

/// `refs/heads/` before the name of a branch that may be created.
fn full_branch(branch: &str) -> Result<BString, ManageError> {
    let branch = branch.strip_prefix("refs/heads/").unwrap_or(branch);
    let full = format!("refs/heads/{branch}");
    let sound = gix::validate::reference::name(full.as_str().into()).is_ok();
    if sound && !branch.starts_with('-') && branch != "HEAD" {
        Ok(full.into())
    } else {
        let name = branch.to_owned();
        Err(DepotError::Branch { name }.into())
    }
}

fn short_branch(full: &BString) -> String {
    full.strip_prefix(b"refs/heads/")
        .unwrap_or(full)
        .to_str_lossy()
        .into_owned()
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(path)
}
