use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use super::{CreateOptions, DepotError};

/// Something that a name led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Located {
    /// The git directory, links of `.git` files followed.
    pub git_dir: PathBuf,
    /// How it lies on disk.
    pub shape: Shape,
}

/// How a repository lies on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// The directory of that name is the git directory.
    Bare,
    /// A `.git` directory in a working tree.
    WorkTree,
    /// A `.git` file that points elsewhere: a linked worktree or a submodule.
    Linked,
}

/// Tries the places in git's order: `P/.git`, `P`, `P.git/.git`, `P.git`. The first that is a git directory, or a file that points to one, wins.
///
/// Unlike git, nothing is added to what ends in `.git` already: `app.git` must not lead to `app.git.git`, whose name is another one
/// ([`RepoName::canonical`](crate::base::RepoName::canonical)).
pub(super) fn find(path: &Path) -> Result<Option<Located>, DepotError> {
    let mut dotted = path.as_os_str().to_owned();
    dotted.push(".git");
    let dotted = PathBuf::from(dotted);
    let ends_dotted = path.as_os_str().as_bytes().ends_with(b".git");
    for (candidate, bare, tried) in [
        (path.join(".git"), false, !is_dot_git(path)),
        (path.to_owned(), !is_dot_git(path), true),
        (dotted.join(".git"), false, !ends_dotted),
        (dotted, true, !ends_dotted),
    ] {
        if !tried {
            continue;
        }
        if let Some(located) = examine(&candidate, if bare { Shape::Bare } else { Shape::WorkTree })? {
            return Ok(Some(located));
        }
    }
    Ok(None)
}

/// Whether the last segment is `.git`: the name itself spells the directory of a working tree.
fn is_dot_git(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name == ".git")
}

/// What is at one place.
pub(super) fn examine(candidate: &Path, shape: Shape) -> Result<Option<Located>, DepotError> {
    let Some(meta) = stat(candidate)? else {
        return Ok(None);
    };
    if meta.is_dir() {
        let git_dir = candidate.to_owned();
        return Ok(is_git_dir(candidate)?.then_some(Located { git_dir, shape }));
    }
    if !meta.is_file() {
        return Ok(None);
    }
    let Some(git_dir) = follow_gitfile(candidate)? else {
        return Ok(None);
    };
    let shape = Shape::Linked;
    Ok(is_git_dir(&git_dir)?.then_some(Located { git_dir, shape }))
}

/// Whether a directory has what git asks of a git directory: HEAD, objects and refs, the latter two perhaps in the directory `commondir` names.
pub(super) fn is_git_dir(dir: &Path) -> Result<bool, DepotError> {
    let head = dir.join("HEAD");
    match fs::symlink_metadata(&head) {
        Ok(meta) if meta.is_file() || meta.is_symlink() => {}
        Ok(_) => return Ok(false),
        Err(error) if is_absence(&error) => return Ok(false),
        Err(source) => return Err(DepotError::io("look for", head, source)),
    }
    let common = match read_line(&dir.join("commondir"))? {
        Some(line) => dir.join(line),
        None => dir.to_owned(),
    };
    let is_dir = |name: &str| Ok::<_, DepotError>(stat(&common.join(name))?.is_some_and(|meta| meta.is_dir()));
    Ok(is_dir("objects")? && is_dir("refs")?)
}

/// Where a `.git` file points (gitrepository-layout: `gitdir: <path>`, relative to the file's directory). `None` if it is no such file.
fn follow_gitfile(file: &Path) -> Result<Option<PathBuf>, DepotError> {
    let Some(line) = read_line(file)? else {
        return Ok(None);
    };
    let target = line.to_str().and_then(|text| text.strip_prefix("gitdir: "));
    let beside = file.parent().unwrap_or(Path::new("."));
    Ok(target.filter(|text| !text.is_empty()).map(|text| beside.join(text)))
}

/// A file that holds a path on one line; `None` if there is no such file, or more in it than a path.
fn read_line(file: &Path) -> Result<Option<PathBuf>, DepotError> {
    let mut text = String::new();
    let read = File::open(file).and_then(|file| file.take(8192).read_to_string(&mut text));
    match read {
        Ok(_) => {}
        Err(error) if is_absence(&error) || error.kind() == io::ErrorKind::InvalidData => return Ok(None),
        Err(source) => return Err(DepotError::io("read", file.to_owned(), source)),
    }
    let line = text.trim_end_matches(['\n', '\r']);
    let sound = !line.is_empty() && line.len() < 8000 && !line.contains(['\n', '\0']);
    Ok(sound.then(|| PathBuf::from(line)))
}

/// The metadata of what a path leads to, symbolic links followed; `None` if it leads to nothing.
pub(super) fn stat(path: &Path) -> Result<Option<fs::Metadata>, DepotError> {
    match fs::metadata(path) {
        Ok(meta) => Ok(Some(meta)),
        Err(error) if is_absence(&error) => Ok(None),
        Err(source) => Err(DepotError::io("look for", path.to_owned(), source)),
    }
}

/// Whether an error says that there is nothing of that name, or cannot be.
pub(super) fn is_absence(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let errno = Errno::from_io_error(error);
    matches!(
        errno,
        Some(Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG | Errno::LOOP | Errno::ISDIR | Errno::ACCESS)
    )
}

/// Writes an empty bare repository into the empty directory `dir`, durably: every file and directory is synced before this returns.
pub(super) fn write_bare(dir: &Path, options: &CreateOptions) -> Result<(), DepotError> {
    for name in [
        "objects",
        "objects/info",
        "objects/pack",
        "refs",
        "refs/heads",
        "refs/tags",
    ] {
        let path = dir.join(name);
        fs::create_dir(&path).map_err(|source| DepotError::io("create", path, source))?;
    }
    let sha256 = options.object_format == gix::hash::Kind::Sha256;
    let mut config = format!(
        "[core]\n\trepositoryformatversion = {}\n\tfilemode = true\n\tbare = true\n",
        if sha256 { 1 } else { 0 }
    );
    if sha256 {
        config.push_str("[extensions]\n\tobjectformat = sha256\n");
    }
    let description = options
        .description
        .as_deref()
        .unwrap_or("Unnamed repository; edit this file 'description' to name the repository.");
    write_file(&dir.join("config"), config.as_bytes())?;
    write_file(
        &dir.join("description"),
        format!("{}\n", description.trim_end()).as_bytes(),
    )?;
    if options.export_ok {
        write_file(&dir.join("git-daemon-export-ok"), b"")?;
    }
    write_file(
        &dir.join("HEAD"),
        format!("ref: refs/heads/{}\n", options.default_branch).as_bytes(),
    )?;
    for name in [
        "objects/info",
        "objects/pack",
        "objects",
        "refs/heads",
        "refs/tags",
        "refs",
        "",
    ] {
        sync_dir(&dir.join(name))?;
    }
    Ok(())
}

fn write_file(path: &Path, content: &[u8]) -> Result<(), DepotError> {
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
        file.write_all(content)?;
        file.sync_all()
    };
    write().map_err(|source| DepotError::io("write", path.to_owned(), source))
}

/// Makes the entries of a directory durable.
pub(super) fn sync_dir(dir: &Path) -> Result<(), DepotError> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(|source| DepotError::io("sync", dir.to_owned(), source))
}
