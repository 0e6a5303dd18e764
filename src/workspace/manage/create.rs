use std::{
    fs,
    path::{Path, PathBuf},
};

use bstr::{BString, ByteSlice as _};
use gix::{
    hash::ObjectId,
    objs::{CommitRefIter, Kind},
};

use super::{
    CreateWorkspace, ManageError, Start,
    admin::{Admin, Makers, relative, remove_dir, stepped, sync_dir, write_dot_git},
    full_branch, head_of, parent, short_branch,
};
use crate::{
    base::{RepoName, WorkspaceName},
    depot::{CreateOptions, Depot},
    repo::{RefLog, RefOutcome, RefUpdate, RefValue, Repository, SinkForm, TreeChange, diff_trees},
    workspace::{Workspace, WorkspaceError, WorkspaceOptions, transition},
};

/// The subject of a repository's first commit begins so.
const INITIAL: &str = "Initial task: ";
/// By which checkpoints are recognised.
const MARK: &str = "Gitstead-Checkpoint: 1";
/// What a task may take of a subject, in bytes.
const SUBJECT_BYTES: usize = 200;
/// What our own directories that are no workspaces begin with.
pub(super) const HIDDEN: &str = ".gitstead-tmp-";

impl Depot {
    /// Creates a workspace, and the repository too if that is how it [begins](Start). It is there whole, or can be created again.
    ///
    /// ```
    /// use gitstead::{base::{RepoName, WorkspaceName}, depot::{Depot, DepotOptions}, workspace::{CreateWorkspace, Start, Unsaved}};
    ///
    /// # let dir = tempfile::tempdir()?;
    /// let depot = Depot::new(&dir.path().join("repos"), DepotOptions::default())?;
    /// let (repository, main) = (RepoName::parse("agent-research")?, WorkspaceName::parse("main")?);
    /// let begin = CreateWorkspace::new(Start::Empty { task: "Analyze sales data".into() });
    /// let workspace = depot.create_workspace(&repository, &main, &begin)?;
    /// assert!(workspace.root().ends_with("work/agent-research/main"));
    ///
    /// let second = WorkspaceName::parse("session-2")?;
    /// depot.create_workspace(&repository, &second, &CreateWorkspace::default())?;
    /// assert_eq!(depot.workspaces(&repository)?[1].branch.as_ref().unwrap(), "refs/heads/session-2");
    /// depot.remove_workspace(&repository, &second, Unsaved::Refuse)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// `Exists`; `BranchInUse`, `BranchExists`, `NoBranch`, `NoCommit`, `NoHistory` and `HasHistory` when it cannot begin there; `InTheWay` when its directory is
    /// somebody else's.
    pub fn create_workspace(
        &self,
        repository: &RepoName,
        name: &WorkspaceName,
        create: &CreateWorkspace,
    ) -> Result<Workspace, ManageError> {
        self.check_place()?;
        let repo = match &create.start {
            Start::Empty { .. } if !self.contains(repository)? => {
                let branch = create.branch.clone();
                let options = CreateOptions {
                    default_branch: branch.unwrap_or_else(|| create.repository.default_branch.clone()),
                    ..create.repository.clone()
                };
                self.create(repository, &options)?;
                self.open(repository)?
            }
            Start::Fork { source, .. } if !self.contains(repository)? => {
                self.create_fork_of(source, repository)?;
                self.open(repository)?
            }
            _ => self.open(repository)?,
        };
        let makers = Makers::of(&repo)?;
        let admin = Admin::of(&repo, name);
        if admin.is_half_removed() {
            self.finish_removal(repository, &admin)?;
        }
        if admin.exists() {
            let (repository, name) = (repository.clone(), name.clone());
            return Err(ManageError::Exists { repository, name });
        }
        let root = self.workspace_dir(repository, name);
        if fs::symlink_metadata(&root).is_ok() {
            return Err(ManageError::InTheWay { path: root });
        }
        let branch = choose(&repo, repository, name, create)?;
        admin.create(&self.settled(&root)?, &branch)?;
        let workspace = self.finish(&repo, repository, &admin, &create.options)?;
        drop(makers);
        Ok(workspace)
    }

    /// Finishes what another process has begun.
    pub(super) fn finish_creation(
        &self,
        repo: &Repository,
        repository: &RepoName,
        admin: &Admin,
        options: &WorkspaceOptions,
    ) -> Result<Workspace, ManageError> {
        let _makers = Makers::of(repo)?;
        // By whoever had the right before us, perhaps.
        if !admin.exists() || admin.is_half_removed() {
            let (repository, name) = (repository.clone(), admin.name().clone());
            return Err(ManageError::NotFound { repository, name });
        }
        self.finish(repo, repository, admin, options)
    }

    fn finish(
        &self,
        repo: &Repository,
        repository: &RepoName,
        admin: &Admin,
        options: &WorkspaceOptions,
    ) -> Result<Workspace, ManageError> {
        let root = self.settled(&self.workspace_dir(repository, admin.name()))?;
        if !admin.is_at(&root) {
            let above = parent(&root);
            let temp = above.join(format!("{HIDDEN}{}", admin.name()));
            remove_dir(&temp)?;
            stepped(|| fs::create_dir(&temp)).map_err(ManageError::io("create", &temp))?;
            let target = admin
                .dir()
                .canonicalize()
                .map_err(ManageError::io("find", admin.dir()))?;
            // Where both lie beside one another, they are moved together.
            let near = parent(self.root());
            let near = (self.settled_work()? == near.join("work")).then_some(near);
            let way = near.and_then(|near| relative(near, &root, &target)).unwrap_or(target);
            write_dot_git(&temp, &way)?;
            rename_new(&temp, &root)?;
            sync_dir(above)?;
        }
        let workspace = Workspace::open_with(&root, options)?;
        if admin.is_half_done() {
            check_out(repo, &workspace, admin.name())?;
            admin.created()?;
        }
        Ok(workspace)
    }

    /// A path in the work directory, which is there then, links on the way to it followed.
    fn settled(&self, path: &Path) -> Result<PathBuf, ManageError> {
        let above = parent(path);
        fs::create_dir_all(above).map_err(ManageError::io("create", above))?;
        let above = above.canonicalize().map_err(ManageError::io("find", above))?;
        Ok(above.join(path.file_name().unwrap_or_default()))
    }

    fn settled_work(&self) -> Result<PathBuf, ManageError> {
        let work = self.work_dir();
        work.canonicalize().map_err(ManageError::io("find", work))
    }

    /// Workspaces among repositories would be served as such.
    fn check_place(&self) -> Result<(), ManageError> {
        let work = self.work_dir();
        let refuse = |why| {
            let path = work.to_owned();
            Err(ManageError::Place { path, why })
        };
        fs::create_dir_all(work).map_err(ManageError::io("create", work))?;
        let real = self.settled_work()?;
        if real.starts_with(self.root()) {
            return refuse("is among the repositories");
        }
        if real.parent().is_none() {
            return refuse("is the root of the file system");
        }
        Ok(())
    }
}

/// The full name of the branch that a new workspace is on. It exists when this returns, and no other workspace is on it.
fn choose(
    repo: &Repository,
    repository: &RepoName,
    name: &WorkspaceName,
    create: &CreateWorkspace,
) -> Result<BString, ManageError> {
    let _held = repo.hold_objects()?;
    let (default, head) = head_of(repo)?;
    let default = default.unwrap_or_else(|| "refs/heads/main".into());
    let taken = repo.checked_out_branches().map_err(|err| WorkspaceError::Damaged {
        what: "the list of worktrees",
        path: repo.common_dir().join("worktrees"),
        why: err.to_string(),
    })?;
    let own = match &create.branch {
        Some(branch) => full_branch(branch)?,
        None => full_branch(name.as_str())?,
    };
    let is_free = |branch: &BString| !taken.contains(branch);
    let free = |branch: BString| match is_free(&branch) {
        true => Ok(branch),
        false => Err(ManageError::BranchInUse {
            branch: short_branch(&branch),
        }),
    };
    // The first one is where the repository is.
    let is_first = name.as_str() == "main" || taken.is_empty();
    match &create.start {
        Start::Empty { task } => {
            let branch = match &create.branch {
                Some(_) => own,
                None => default,
            };
            let branch = free(branch)?;
            match repo.ref_value(branch.as_bstr())? {
                RefValue::Absent if head.is_none() => {
                    let commit = first_commit(repo, task, create)?;
                    make_branch(repo, &branch, commit, &create.options)?;
                }
                // Somebody was killed after it.
                RefValue::Id(id) if taken.is_empty() && is_first_commit(repo, &id, task)? => {}
                _ => {
                    return Err(ManageError::HasHistory {
                        repository: repository.clone(),
                    });
                }
            }
            Ok(branch)
        }
        Start::Branch(branch) => {
            let from = full_branch(branch)?;
            let RefValue::Id(id) = repo.ref_value(from.as_bstr())? else {
                return Err(ManageError::NoBranch { branch: branch.clone() });
            };
            match &create.branch {
                Some(_) if own != from => {
                    let own = free(own)?;
                    make_branch(repo, &own, id, &create.options)?;
                    Ok(own)
                }
                _ => free(from),
            }
        }
        Start::Commit(id) | Start::Fork { at: Some(id), .. } => {
            check_commit(repo, id)?;
            let own = free(own)?;
            make_branch(repo, &own, *id, &create.options)?;
            Ok(own)
        }
        Start::Default | Start::Fork { at: None, .. } => {
            let no_history = || ManageError::NoHistory {
                repository: repository.clone(),
            };
            if create.branch.is_none() && is_first && is_free(&default) {
                return head.map(|_| default).ok_or_else(no_history);
            }
            let own = free(own)?;
            match (repo.ref_value(own.as_bstr())?, head) {
                // As it was left.
                (RefValue::Id(_), _) => {}
                (_, Some(head)) => make_branch(repo, &own, head, &create.options)?,
                (_, None) => return Err(no_history()),
            }
            Ok(own)
        }
    }
}

fn check_commit(repo: &Repository, id: &ObjectId) -> Result<(), ManageError> {
    let odb = repo.odb()?;
    match odb.header(id)? {
        Some((Kind::Commit, _)) => Ok(repo.check_whole(&odb, id)?),
        _ => Err(ManageError::NoCommit { id: *id }),
    }
}

/// Makes a branch, unless it is there and where it shall be.
fn make_branch(
    repo: &Repository,
    branch: &BString,
    at: ObjectId,
    options: &WorkspaceOptions,
) -> Result<(), ManageError> {
    let exists = || ManageError::BranchExists {
        branch: short_branch(branch),
    };
    match repo.ref_value(branch.as_bstr())? {
        RefValue::Id(id) if id == at => return Ok(()),
        RefValue::Absent => {}
        _ => return Err(exists()),
    }
    let update = RefUpdate {
        name: branch.clone(),
        old: None,
        new: Some(at),
    };
    let (name, email) = options.committer.clone();
    let log = RefLog {
        name,
        email,
        seconds: options.clock.seconds(),
        message: "branch: Created for a workspace".to_owned(),
    };
    match repo.update_refs(&[update], true, &log)?.pop() {
        Some(RefOutcome::Ok) => Ok(()),
        _ => Err(exists()),
    }
}

/// `Initial task: <text>` and the trailer of checkpoints, the task folded to one line; a long one is a paragraph, too.
fn initial_message(task: &str) -> String {
    let folded: Vec<&str> = task
        .split(|c: char| c.is_control() || c.is_whitespace())
        .filter(|word| !word.is_empty())
        .collect();
    let whole = format!("{INITIAL}{}", folded.join(" "));
    if whole.len() <= SUBJECT_BYTES {
        return format!("{}\n\n{MARK}\n", whole.trim_end());
    }
    let mut end = SUBJECT_BYTES - '…'.len_utf8();
    while !whole.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…\n\n{whole}\n\n{MARK}\n", whole[..end].trim_end())
}

/// A commit of an empty tree.
fn first_commit(repo: &Repository, task: &str, create: &CreateWorkspace) -> Result<ObjectId, ManageError> {
    let sink = repo.object_sink(SinkForm::Loose)?;
    let tree = sink.write(Kind::Tree, b"")?;
    let clean = |text: &str, else_is: &str| -> String {
        let kept = text.chars().filter(|c| !c.is_control() && !matches!(c, '<' | '>'));
        let kept: String = kept.collect();
        match kept.trim() {
            "" => else_is.to_owned(),
            kept => kept.to_owned(),
        }
    };
    let person = |(name, email): &(String, String)| format!("{} <{}>", clean(name, "unknown"), clean(email, "unknown"));
    let committer = person(&create.options.committer);
    let author = create.author.as_ref().map_or_else(|| committer.clone(), person);
    let seconds = create.options.clock.seconds();
    let content = format!(
        "tree {tree}\nauthor {author} {seconds} +0000\ncommitter {committer} {seconds} +0000\n\n{}",
        initial_message(task)
    );
    let commit = sink.write(Kind::Commit, content.as_bytes())?;
    sink.publish(true)?;
    Ok(commit)
}

/// Whether a commit is what [`first_commit`] makes.
fn is_first_commit(repo: &Repository, id: &ObjectId, task: &str) -> Result<bool, ManageError> {
    let mut data = Vec::new();
    if repo.odb()?.read(id, &mut data)? != Some(Kind::Commit) {
        return Ok(false);
    }
    let mut parents = CommitRefIter::from_bytes(&data, repo.hash_kind()).parent_ids();
    let message = data.split_once_str("\n\n").map(|(_, message)| message.as_bstr());
    Ok(parents.next().is_none() && message == Some(initial_message(task).as_bytes().as_bstr()))
}

/// Puts the files of the commit into a workspace that has none yet.
fn check_out(repo: &Repository, workspace: &Workspace, name: &WorkspaceName) -> Result<(), ManageError> {
    let mut held = workspace.lock()?;
    let head = held.head()?;
    let (Some(branch), Some(commit)) = (head.branch, head.commit) else {
        return Ok(());
    };
    let changes = changes_to(repo, head.tree)?;
    let files = |source| ManageError::Files {
        name: name.clone(),
        source: Box::new(source),
    };
    let prepared = transition::prepare(&mut held, &changes, &commit, branch.as_bstr(), None).map_err(files)?;
    prepared.finish(&mut held).map_err(files)?;
    Ok(())
}

fn changes_to(repo: &Repository, tree: Option<ObjectId>) -> Result<Vec<TreeChange>, ManageError> {
    let mut changes = Vec::new();
    let odb = repo.odb()?;
    let mut visit = |change: TreeChange| {
        changes.push(change);
        std::ops::ControlFlow::Continue(())
    };
    diff_trees(&odb, None, tree.as_deref(), &mut visit).map_err(|err| WorkspaceError::Damaged {
        what: "the tree of",
        path: repo.git_dir().to_owned(),
        why: err.to_string(),
    })?;
    Ok(changes)
}

fn rename_new(from: &Path, to: &Path) -> Result<(), ManageError> {
    use rustix::{fs as sys, io::Errno};
    let renamed = stepped(|| {
        match sys::renameat_with(sys::CWD, from, sys::CWD, to, sys::RenameFlags::NOREPLACE) {
            // A directory never replaces one that is not empty anyway.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => sys::rename(from, to),
            other => other,
        }
        .map_err(Into::into)
    });
    match renamed {
        Err(err) if err.kind() == std::io::ErrorKind::AlreadyExists => {
            Err(ManageError::InTheWay { path: to.to_owned() })
        }
        other => other.map_err(ManageError::io("rename to", to)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_of_many_lines_becomes_one_subject() {
        assert_eq!(
            initial_message("Analyze\n  sales\tdata\r\n"),
            "Initial task: Analyze sales data\n\nGitstead-Checkpoint: 1\n"
        );
        let long = initial_message(&"ü".repeat(300));
        let subject = long.lines().next().unwrap();
        assert!(subject.len() <= SUBJECT_BYTES && subject.ends_with('…'), "{subject}");
        assert!(long.contains(&"ü".repeat(300)));
    }

    #[test]
    fn the_way_between_directories_is_relative() {
        let way = relative(
            Path::new("/data"),
            Path::new("/data/work/team/app/main"),
            Path::new("/data/repos/team/app.git/worktrees/main"),
        );
        assert_eq!(way.unwrap(), Path::new("../../../../repos/team/app.git/worktrees/main"));
        assert_eq!(
            relative(Path::new("/data"), Path::new("/other/x"), Path::new("/data/y")),
            None
        );
    }

    #[test]
    fn a_branch_is_a_branch() {
        assert_eq!(full_branch("a/b").unwrap(), "refs/heads/a/b");
        assert_eq!(full_branch("refs/heads/a").unwrap(), "refs/heads/a");
        for bad in ["", "-x", "a..b", "HEAD", "a b"] {
            assert!(full_branch(bad).is_err(), "{bad}");
        }
    }
}
