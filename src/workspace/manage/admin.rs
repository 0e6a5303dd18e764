use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use bstr::{BString, ByteSlice as _};
use gix::hash::ObjectId;

use super::{ManageError, parent};
use crate::{
    base::WorkspaceName,
    repo::{Flock, RefValue, Repository},
    workspace::beneath::{Beneath, remove_all, step},
};

/// A worktree that Gitstead made and looks after.
const MANAGED: &str = "gitstead-workspace";
/// It is half made. Holds the branch and the commit that it shall be at.
const CREATING: &str = "gitstead-creating";
/// It is half removed.
const REMOVING: &str = "gitstead-removing";
/// What our own directories that are no worktrees begin with.
const TEMP: &str = "gitstead-tmp-";
/// One at a time makes or removes workspaces of a repository.
const LOCK: &str = "gitstead-workspaces.lock";
/// A pointer, a HEAD, a reason: nothing longer is one.
const MAX_BYTES: u64 = 8 << 10;

/// A repository's directory for one linked worktree.
#[derive(Debug, Clone)]
pub(super) struct Admin {
    dir: PathBuf,
    name: WorkspaceName,
}

/// The right to make and remove workspaces of one repository, in this process and others.
pub(super) struct Makers {
    _lock: Flock,
}

impl Makers {
    pub(super) fn of(repo: &Repository) -> Result<Self, ManageError> {
        let path = repo.common_dir().join(LOCK);
        let lock = || {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path)?;
            Flock::exclusive(file)
        };
        lock()
            .map(|lock| Makers { _lock: lock })
            .map_err(ManageError::io("lock", path.clone()))
    }
}

impl Admin {
    pub(super) fn of(repo: &Repository, name: &WorkspaceName) -> Self {
        Admin {
            dir: repo.common_dir().join("worktrees").join(name.as_str()),
            name: name.clone(),
        }
    }

    /// Every linked worktree whose name is one of a workspace.
    pub(super) fn all(repo: &Repository) -> Result<Vec<Self>, ManageError> {
        let dir = repo.common_dir().join("worktrees");
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(ManageError::io("list", dir)(source)),
        };
        Ok(entries
            .flatten()
            .filter_map(|entry| {
                let name = WorkspaceName::parse(entry.file_name().to_str()?).ok()?;
                let admin = Admin::of(repo, &name);
                admin.exists().then_some(admin)
            })
            .collect())
    }

    pub(super) fn name(&self) -> &WorkspaceName {
        &self.name
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// As git sees it: a directory with HEAD in it.
    pub(super) fn exists(&self) -> bool {
        fs::symlink_metadata(self.dir.join("HEAD")).is_ok()
    }

    fn has(&self, file: &str) -> bool {
        fs::symlink_metadata(self.dir.join(file)).is_ok()
    }

    pub(super) fn is_managed(&self) -> bool {
        self.has(MANAGED)
    }

    pub(super) fn is_half_done(&self) -> bool {
        self.has(CREATING)
    }

    pub(super) fn is_half_removed(&self) -> bool {
        self.has(REMOVING)
    }

    /// What `git worktree lock` gave as its reason.
    pub(super) fn locked(&self) -> Option<String> {
        let text = read_small(&self.dir.join("locked"))?;
        let text = text.to_str_lossy();
        Some(if text.is_empty() {
            "no reason was given".to_owned()
        } else {
            text.chars().filter(|c| !c.is_control()).take(200).collect()
        })
    }

    /// The directory with the files, as the way back says.
    pub(super) fn root(&self) -> Option<PathBuf> {
        let text = read_small(&self.dir.join("gitdir"))?;
        let dot_git = self.dir.join(Path::new(std::ffi::OsStr::from_bytes(&text)));
        dot_git.parent().map(Path::to_owned)
    }

    /// Whether the directory at `root` is this worktree's: its `.git` file leads here. A link to such a directory is not one: an agent may have put it there.
    pub(super) fn is_at(&self, root: &Path) -> bool {
        if !fs::symlink_metadata(root).is_ok_and(|meta| meta.is_dir()) {
            return false;
        }
        let Some(text) = read_small(&root.join(".git")) else {
            return false;
        };
        let Some(target) = text.strip_prefix(b"gitdir: ") else {
            return false;
        };
        let target = root.join(Path::new(std::ffi::OsStr::from_bytes(target)));
        match (target.canonicalize(), self.dir.canonicalize()) {
            (Ok(target), Ok(dir)) => target == dir,
            _ => false,
        }
    }

    /// Writes the way back anew.
    pub(super) fn point_to(&self, root: &Path) -> Result<(), ManageError> {
        let mut line = root.join(".git").as_os_str().as_bytes().to_vec();
        line.push(b'\n');
        replace(&self.dir.join("gitdir"), &line)
    }

    /// The branch; `None` when HEAD is at a commit, or cannot be read.
    pub(super) fn branch(&self) -> Option<BString> {
        let text = read_small(&self.dir.join("HEAD"))?;
        text.strip_prefix(b"ref:").map(|target| target.trim().into())
    }

    /// The branch, and the commit it is at. What cannot be read is none.
    pub(super) fn head(&self, repo: &Repository) -> (Option<BString>, Option<ObjectId>) {
        let Some(text) = read_small(&self.dir.join("HEAD")) else {
            return (None, None);
        };
        match self.branch() {
            Some(branch) => {
                let commit = match repo.ref_value(branch.as_bstr()) {
                    Ok(RefValue::Id(id)) => Some(id),
                    _ => None,
                };
                (Some(branch), commit)
            }
            None => (None, ObjectId::from_hex(&text).ok()),
        }
    }

    /// Makes the directory for a worktree that is half made, whole from the start. It has the name when this returns.
    pub(super) fn create(&self, root: &Path, branch: &BString) -> Result<(), ManageError> {
        let worktrees = parent(&self.dir).to_owned();
        let common = parent(&worktrees).to_owned();
        let temp = common.join(format!("{TEMP}{}", self.name));
        let io = |doing, path: &Path| ManageError::io(doing, path.to_owned());
        remove_dir(&temp)?;
        stepped(|| fs::create_dir(&temp)).map_err(io("create", &temp))?;
        let mut gitdir = root.join(".git").as_os_str().as_bytes().to_vec();
        gitdir.push(b'\n');
        let mut head = b"ref: ".to_vec();
        head.extend_from_slice(branch);
        head.push(b'\n');
        for (file, content) in [
            ("HEAD", &head[..]),
            ("commondir", b"../..\n"),
            ("gitdir", &gitdir),
            (MANAGED, b"1\n"),
            (CREATING, b""),
        ] {
            write_new(&temp.join(file), content)?;
        }
        sync_dir(&temp)?;
        match stepped(|| fs::create_dir(&worktrees)) {
            Ok(()) => sync_dir(&common)?,
            Err(err) if err.kind() == io::ErrorKind::AlreadyExists => {}
            Err(err) => return Err(io("create", &worktrees)(err)),
        }
        stepped(|| fs::rename(&temp, &self.dir)).map_err(io("rename to", &self.dir))?;
        sync_dir(&worktrees)
    }

    /// Nothing more is to be done.
    pub(super) fn created(&self) -> Result<(), ManageError> {
        let path = self.dir.join(CREATING);
        stepped(|| fs::remove_file(&path)).map_err(ManageError::io("remove", path))
    }

    /// From here on it is only removed.
    pub(super) fn begin_removal(&self) -> Result<(), ManageError> {
        let path = self.dir.join(REMOVING);
        match write_new(&path, b"") {
            Err(ManageError::Io { source, .. }) if source.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            other => other,
        }?;
        sync_dir(&self.dir)
    }

    /// Removes the directory: away from git's sight in one step, then for good.
    pub(super) fn remove(&self) -> Result<(), ManageError> {
        let worktrees = parent(&self.dir).to_owned();
        let temp = parent(&worktrees).join(format!("{TEMP}{}", self.name));
        remove_dir(&temp)?;
        stepped(|| fs::rename(&self.dir, &temp)).map_err(ManageError::io("rename", self.dir.clone()))?;
        sync_dir(&worktrees)?;
        remove_dir(&temp)?;
        // As git does with the last one.
        let _ = fs::remove_dir(&worktrees);
        Ok(())
    }
}

/// Writes the `.git` file of a worktree into a directory without one.
pub(super) fn write_dot_git(root: &Path, target: &Path) -> Result<(), ManageError> {
    let mut line = b"gitdir: ".to_vec();
    line.extend_from_slice(target.as_os_str().as_bytes());
    line.push(b'\n');
    write_new(&root.join(".git"), &line)?;
    sync_dir(root)
}

/// The way from the directory `from` to `to`, if both are beneath `common`.
pub(super) fn relative(common: &Path, from: &Path, to: &Path) -> Option<PathBuf> {
    let from = from.strip_prefix(common).ok()?;
    let to = to.strip_prefix(common).ok()?;
    let up = from.components().map(|_| Path::new(".."));
    Some(up.chain([to]).collect())
}

/// Removes a directory of ours with all that is in it, if it is there.
pub(super) fn remove_dir(path: &Path) -> Result<(), ManageError> {
    let io = ManageError::io("remove", path);
    let Some(name) = path.file_name() else { return Ok(()) };
    let remove = || {
        step()?;
        match Beneath::open(parent(path)) {
            Ok(dir) => remove_all(dir.root(), name.as_bytes().as_bstr()),
            Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(err) => Err(err),
        }
    };
    remove().map_err(io)
}

/// One change of the file system.
pub(super) fn stepped<T>(act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    step()?;
    act()
}

pub(super) fn sync_dir(dir: &Path) -> Result<(), ManageError> {
    stepped(|| File::open(dir)?.sync_all()).map_err(ManageError::io("sync", dir))
}

fn write_new(path: &Path, content: &[u8]) -> Result<(), ManageError> {
    stepped(|| {
        let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
        file.write_all(content)?;
        file.sync_all()
    })
    .map_err(ManageError::io("write", path))
}

fn replace(path: &Path, content: &[u8]) -> Result<(), ManageError> {
    let mut temp = path.as_os_str().to_owned();
    temp.push(".new");
    let temp = PathBuf::from(temp);
    let _ = fs::remove_file(&temp);
    write_new(&temp, content)?;
    stepped(|| fs::rename(&temp, path)).map_err(ManageError::io("rename to", path))
}

/// A short file of one line, without its end.
fn read_small(path: &Path) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let meta = fs::symlink_metadata(path).ok()?;
    if !meta.is_file() {
        return None;
    }
    File::open(path).ok()?.take(MAX_BYTES).read_to_end(&mut bytes).ok()?;
    bytes.truncate(bytes.trim_end_with(|c| c == '\n' || c == '\r').len());
    Some(bytes)
}
