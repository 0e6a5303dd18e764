use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{
        MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use super::{
    CreateOptions, Depot, DepotError,
    layout::{self, Located, Shape},
    memfs::{self, Layout},
};
use bstr::ByteSlice as _;

use crate::{
    base::RepoName,
    repo::{Flock, Head, RefQuery},
};

/// What our own directories that are no repositories begin with. Never looked up, never listed.
pub(super) const HIDDEN_PREFIX: &str = ".gitstead-";
const TEMP_PREFIX: &str = ".gitstead-tmp-";

/// The right to change names. One holder in this process (the mutex), and, where the file system can lock directories, one on this machine.
pub(super) struct Changes<'a> {
    _in_process: MutexGuard<'a, ()>,
    _on_machine: Option<Flock>,
}

impl Depot {
    pub(super) fn changes(&self) -> Changes<'_> {
        let in_process = self.names.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        // Some network file systems cannot lock a directory; the exclusive renames below still hold there.
        let on_machine = File::open(&self.root).and_then(Flock::exclusive).ok();
        Changes {
            _in_process: in_process,
            _on_machine: on_machine,
        }
    }

    /// Creates an empty bare repository at `<root>/<name>.git`. It appears whole or not at all, and is on disk when this returns.
    pub fn create(&self, name: &RepoName, options: &CreateOptions) -> Result<(), DepotError> {
        self.create_filled(name, options, |_| Ok(()))
    }

    /// As [`create`](Self::create), with something in it from the start.
    pub(super) fn create_filled(
        &self,
        name: &RepoName,
        options: &CreateOptions,
        fill: impl FnOnce(&Path) -> Result<(), DepotError>,
    ) -> Result<(), DepotError> {
        name.check_creatable()?;
        check_branch(&options.default_branch)?;
        let guard = self.changes();
        self.check_layout(name)?;
        self.check_room(name.stem(), None)?;
        let target = self.bare_path(name.stem());
        let made = self.make_parents(&target)?;
        let options = CreateOptions {
            export_ok: options.export_ok || self.requires_export_ok(),
            ..options.clone()
        };
        let result = self.create_at(&target, &options, fill);
        if result.is_err() {
            self.prune_parents(&made);
        }
        drop(guard);
        result
    }

    fn create_at(
        &self,
        target: &Path,
        options: &CreateOptions,
        fill: impl FnOnce(&Path) -> Result<(), DepotError>,
    ) -> Result<(), DepotError> {
        let temp = fresh_dir(parent(target))?;
        let result = layout::write_bare(&temp, options)
            .and_then(|()| fill(&temp))
            .and_then(|()| self.lay_out(&temp))
            .and_then(|()| publish(&temp, target));
        if result.is_err() {
            let _ = fs::remove_dir_all(&temp);
        }
        result
    }

    /// What this depot's layout adds to a new repository.
    fn lay_out(&self, temp: &Path) -> Result<(), DepotError> {
        match self.layout() {
            Layout::Names => Ok(()),
            Layout::LettaMemfs { .. } => memfs::append_config(temp, "[http]\n\treceivepack = true\n")
                .map_err(|source| DepotError::io("write", temp.join("config"), source)),
        }
    }

    /// Deletes a bare repository: its name is gone at once, its files follow. Directories that held nothing else go too.
    pub fn delete(&self, name: &RepoName) -> Result<(), DepotError> {
        let guard = self.changes();
        let located = self.ours(name)?;
        if has_worktrees(&located.git_dir) {
            let why = "has workspaces, or other linked worktrees, with files in them; remove those first";
            return Err(DepotError::Foreign {
                name: name.clone(),
                why,
            });
        }
        let temp = self.take_away(&located.git_dir)?;
        drop(guard);
        self.remove_taken(&temp);
        Ok(())
    }

    /// Deletes a repository that [`Depot::create`] made and nobody has pushed anything to, for the push that made it and failed. Says whether it did. While there is
    /// a [`Lease`](super::Lease) of it, it stays, and whoever gives the last one back tries again.
    pub fn discard_if_empty(&self, name: &RepoName) -> Result<bool, DepotError> {
        let dir = self.bare_path(name.stem());
        if fs::symlink_metadata(&dir).is_ok_and(|meta| meta.is_dir()) {
            return self.discard_at(&dir);
        }
        Err(DepotError::NotFound { name: name.clone() })
    }

    pub(super) fn discard_at(&self, dir: &Path) -> Result<bool, DepotError> {
        let guard = self.changes();
        let mut uses = self.uses();
        if let Some(entry) = uses.get_mut(dir) {
            entry.unwanted = true;
            return Ok(false);
        }
        // Nobody can begin to use it while this is looked at.
        if !is_as_made(dir) {
            return Ok(false);
        }
        let temp = self.hide(dir)?;
        drop(uses);
        layout::sync_dir(parent(dir))?;
        drop(guard);
        self.remove_taken(&temp);
        Ok(true)
    }

    /// Gives a bare repository another name, in one step.
    pub fn rename(&self, name: &RepoName, new: &RepoName) -> Result<(), DepotError> {
        new.check_creatable()?;
        let guard = self.changes();
        let located = self.ours(name)?;
        let source = &located.git_dir;
        if has_worktrees(source) {
            let why = "has linked worktrees, which would lose it";
            return Err(DepotError::Foreign {
                name: name.clone(),
                why,
            });
        }
        self.check_layout(new)?;
        self.check_room(new.stem(), Some(source))?;
        let target = self.bare_path(new.stem());
        let made = self.make_parents(&target)?;
        let result = rename_exclusively(source, &target);
        if result.is_err() {
            self.prune_parents(&made);
        }
        result?;
        self.forget(source);
        layout::sync_dir(parent(&target))?;
        layout::sync_dir(parent(source))?;
        self.prune_parents(parent(source));
        drop(guard);
        Ok(())
    }

    /// A repository that may be moved and deleted: bare, a directory and not a link, and not the root itself.
    pub(super) fn ours(&self, name: &RepoName) -> Result<Located, DepotError> {
        let located = self.locate(name)?;
        let foreign = |why| {
            Err(DepotError::Foreign {
                name: name.clone(),
                why,
            })
        };
        match located.shape {
            Shape::Bare => {}
            Shape::WorkTree => return foreign("has a working tree; it is for its owner to change, move or delete"),
            Shape::Linked => {
                return foreign("is linked from another place; it is for its owner to change, move or delete");
            }
        }
        if fs::symlink_metadata(&located.git_dir).is_ok_and(|meta| meta.is_symlink()) {
            return foreign("is a symbolic link; it is for its owner to change, move or delete");
        }
        Ok(located)
    }

    fn bare_path(&self, stem: &str) -> PathBuf {
        self.root.join(format!("{stem}.git"))
    }

    /// Whether [`create`](Self::create) would find room for this name now.
    ///
    /// # Errors
    /// Why not.
    pub fn check_free(&self, name: &RepoName) -> Result<(), DepotError> {
        name.check_creatable()?;
        self.check_layout(name)?;
        self.check_room(name.stem(), None)
    }

    /// Points HEAD of a repository that a push has just made to the one branch that came, if the branch that HEAD names did not. Says whether it did.
    pub fn settle_head(&self, name: &RepoName) -> Result<bool, DepotError> {
        let refs = |source| DepotError::Refs {
            name: name.clone(),
            source,
        };
        let repo = self.open(name)?;
        if !matches!(repo.head(None).map_err(refs)?, Head::Symbolic { id: None, .. }) {
            return Ok(false);
        }
        let branches = RefQuery {
            prefixes: vec!["refs/heads/".into()],
            ..RefQuery::default()
        };
        match &repo.refs(&branches).map_err(refs)?[..] {
            [only] => repo
                .set_head(None, only.name.as_bstr(), None)
                .map_err(refs)
                .map(|()| true),
            _ => Ok(false),
        }
    }

    /// Whether this depot's layout has a place for that name.
    fn check_layout(&self, name: &RepoName) -> Result<(), DepotError> {
        match self.layout() {
            Layout::Names => Ok(()),
            Layout::LettaMemfs { .. } if memfs::is_ours(name) => memfs::check_case(&self.root, name),
            Layout::LettaMemfs { .. } => Err(DepotError::Layout {
                name: name.stem().to_owned(),
            }),
        }
    }

    /// Whether a repository may be put at `stem`: not in, not above and not in place of something. `moving` is the one that is about to move there.
    fn check_room(&self, stem: &str, moving: Option<&Path>) -> Result<(), DepotError> {
        for (at, _) in stem.match_indices('/') {
            let outer = stem.get(..at).unwrap_or_default();
            let path = self.root.join(outer);
            match layout::find(&path)? {
                Some(located) if Some(located.git_dir.as_path()) == moving => {}
                Some(_) => {
                    return Err(DepotError::Inside {
                        name: stem.to_owned(),
                        outer: outer.to_owned(),
                    });
                }
                None => {}
            }
            if layout::stat(&path)?.is_some_and(|meta| !meta.is_dir()) {
                return Err(DepotError::InTheWay { name: stem.to_owned() });
            }
        }
        let plain = self.root.join(stem);
        if layout::find(&plain)?.is_some() {
            return Err(DepotError::Exists { name: stem.to_owned() });
        }
        for path in [plain, self.bare_path(stem)] {
            let taken = fs::symlink_metadata(&path).is_ok() && !is_empty_dir(&path);
            if taken {
                return Err(DepotError::InTheWay { name: stem.to_owned() });
            }
        }
        Ok(())
    }

    /// Makes the directories above `target`, durably; the answer is the lowest of them.
    fn make_parents(&self, target: &Path) -> Result<PathBuf, DepotError> {
        let lowest = parent(target).to_owned();
        let mut missing: Vec<&Path> = Vec::new();
        let mut at = lowest.as_path();
        while at != self.root && !at.exists() {
            missing.push(at);
            at = parent(at);
        }
        for dir in missing.into_iter().rev() {
            match fs::create_dir(dir) {
                Ok(()) => layout::sync_dir(parent(dir))?,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(source) => return Err(DepotError::io("create", dir.to_owned(), source)),
            }
        }
        Ok(lowest)
    }

    /// Removes `dir` and the directories above it as far as they are empty, never the root.
    fn prune_parents(&self, dir: &Path) {
        let mut at = dir;
        while at != self.root && at.starts_with(&self.root) && fs::remove_dir(at).is_ok() {
            at = parent(at);
        }
    }

    /// Takes a repository out of sight, in one step.
    fn take_away(&self, git_dir: &Path) -> Result<PathBuf, DepotError> {
        let temp = self.hide(git_dir)?;
        layout::sync_dir(parent(git_dir))?;
        Ok(temp)
    }

    fn hide(&self, git_dir: &Path) -> Result<PathBuf, DepotError> {
        let temp = parent(git_dir).join(fresh_name());
        rename_exclusively(git_dir, &temp)?;
        self.forget(git_dir);
        Ok(temp)
    }

    fn remove_taken(&self, temp: &Path) {
        match fs::remove_dir_all(temp) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                tracing::warn!(path = %temp.display(), %error, "a deleted repository's files are left for the next start to remove");
            }
        }
        let _guard = self.changes();
        self.prune_parents(parent(temp));
    }

    /// Removes what a process that was killed has left: half-made and half-deleted repositories. Says how many.
    ///
    /// Whoever makes such a directory holds the right to change names until it is published, and names of such directories are used once. So what was found before
    /// that right was had, and is there while it is held, is nobody's, or on its way out: there may be much of it, and it is removed
    /// when others can change names again.
    pub fn sweep(&self) -> Result<usize, DepotError> {
        let mut found = Vec::new();
        self.walk(&mut |_| {}, &mut |left_over| found.push(left_over.to_owned()))?;
        // Given back before the other lock is waited for: whoever asks for a push is shown the blank. One that is made from here on was not found.
        let blank = {
            let blank = self.blank.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            blank.as_ref().map(|repository| repository.git_dir().to_owned())
        };
        {
            let _guard = self.changes();
            found.retain(|path| Some(path) != blank.as_ref() && path.is_dir());
        }
        let mut removed = 0;
        for left_over in found {
            match fs::remove_dir_all(&left_over) {
                Ok(()) => removed += 1,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    tracing::warn!(path = %left_over.display(), %error, "cannot remove what an earlier process left");
                }
            }
        }
        Ok(removed)
    }

    /// A directory for [`Depot::blank`].
    pub(super) fn write_blank(&self, options: &CreateOptions) -> Result<PathBuf, DepotError> {
        let _guard = self.changes();
        let temp = fresh_dir(&self.root)?;
        layout::write_bare(&temp, options)?;
        Ok(temp)
    }
}

pub(super) fn check_branch(branch: &str) -> Result<(), DepotError> {
    let full = format!("refs/heads/{branch}");
    let sound = gix::validate::reference::name(full.as_str().into()).is_ok() && !branch.starts_with('-');
    if sound && branch != "HEAD" {
        Ok(())
    } else {
        Err(DepotError::Branch {
            name: branch.to_owned(),
        })
    }
}

/// Whether a git directory holds nothing that is not in every new one.
fn is_as_made(dir: &Path) -> bool {
    let only = |inner: &str, names: &[&str]| {
        fs::read_dir(dir.join(inner)).is_ok_and(|mut entries| {
            entries.all(|entry| entry.is_ok_and(|e| names.iter().any(|name| e.file_name() == *name)))
        })
    };
    let files = [
        "HEAD",
        "config",
        "description",
        "git-daemon-export-ok",
        "objects",
        "refs",
    ];
    ["refs/heads", "refs/tags", "objects/pack"]
        .iter()
        .all(|inner| is_empty_dir(&dir.join(inner)))
        && only("refs", &["heads", "tags"])
        && only("objects", &["info", "pack"])
        && only("", &files)
}

/// Whether files in other places belong to a repository.
fn has_worktrees(git_dir: &Path) -> bool {
    let worktrees = git_dir.join("worktrees");
    worktrees.exists() && !is_empty_dir(&worktrees)
}

fn is_empty_dir(path: &Path) -> bool {
    fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none())
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(path)
}

/// A name that nobody has: process, time and a count.
fn fresh_name() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let nanos = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_nanos());
    format!("{TEMP_PREFIX}{}-{nanos:x}-{count}", std::process::id())
}

fn fresh_dir(parent: &Path) -> Result<PathBuf, DepotError> {
    let path = parent.join(fresh_name());
    fs::create_dir(&path).map_err(|source| DepotError::io("create", path.clone(), source))?;
    Ok(path)
}

fn publish(temp: &Path, target: &Path) -> Result<(), DepotError> {
    rename_exclusively(temp, target)?;
    layout::sync_dir(parent(target))
}

/// Renames a directory to a name that nothing but an empty directory may have.
fn rename_exclusively(from: &Path, to: &Path) -> Result<(), DepotError> {
    use rustix::{fs as sys, io::Errno};
    if is_empty_dir(to) {
        let _ = fs::remove_dir(to);
    }
    let error = |errno: Errno| DepotError::io("rename to", to.to_owned(), errno.into());
    match sys::renameat_with(sys::CWD, from, sys::CWD, to, sys::RenameFlags::NOREPLACE) {
        // File systems that cannot promise it: a directory never replaces one that is not empty anyway.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => sys::rename(from, to).map_err(error),
        other => other.map_err(error),
    }
}
