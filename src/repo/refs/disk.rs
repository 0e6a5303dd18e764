//! Every change that refs make on disk goes through here, so that a test can stop the world before any of them.

use std::{
    ffi::OsStr,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::{
        ffi::OsStrExt,
        fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, CWD, FlockOperation, Mode, OFlags},
    io::Errno,
};

use super::types::SharedRepository;
use crate::repo::settings::shared_mode;

/// Asked before each change; an error means that the change does not happen.
#[cfg(test)]
pub(super) type Hook = std::sync::Arc<dyn Fn(&'static str, &Path) -> io::Result<()> + Send + Sync>;

/// The first bytes of a lock file that is ours. C git's are empty or hold an object id.
const STAMP: &[u8] = b"gitstead lock\n";

/// The changes we make to files, with the permissions of a shared repository.
pub(super) struct Disk {
    pub(super) shared: SharedRepository,
    /// Whether nothing is flushed: somebody else sees to it later.
    pub(super) lazy: bool,
    #[cfg(test)]
    pub(super) hook: Option<Hook>,
}

impl Disk {
    #[cfg(test)]
    fn step(&self, what: &'static str, path: &Path) -> io::Result<()> {
        self.hook.as_ref().map_or(Ok(()), |hook| hook(what, path))
    }

    #[cfg(not(test))]
    #[inline]
    fn step(&self, _what: &'static str, _path: &Path) -> io::Result<()> {
        Ok(())
    }

    fn adjust(&self, path: &Path, directory: bool) -> io::Result<()> {
        if self.shared == SharedRepository::Umask {
            return Ok(());
        }
        let present = fs::metadata(path)?.permissions().mode() & 0o7777;
        let wanted = shared_mode(self.shared, present, directory);
        if wanted != present {
            fs::set_permissions(path, fs::Permissions::from_mode(wanted))?;
        }
        Ok(())
    }

    /// Writes a file anew and brings its bytes to the disk.
    pub(super) fn write(&self, path: &Path, chunks: &[&[u8]]) -> io::Result<File> {
        self.step("create", path)?;
        match fs::remove_file(path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let mut file = OpenOptions::new()
            .write(true)
            .read(true)
            .create_new(true)
            .mode(0o666)
            .open(path)?;
        self.adjust(path, false)?;
        self.step("write", path)?;
        for chunk in chunks {
            file.write_all(chunk)?;
        }
        if !self.lazy {
            self.step("fsync", path)?;
            file.sync_all()?;
        }
        Ok(file)
    }

    pub(super) fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step("rename", to)?;
        fs::rename(from, to)
    }

    /// Removes a file; one that is not there is as good as removed, and the answer is then `false`.
    pub(super) fn unlink(&self, path: &Path) -> io::Result<bool> {
        self.step("unlink", path)?;
        match fs::remove_file(path) {
            Ok(()) => Ok(true),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Creates the missing directories above `path`, which lies beneath `root`, and returns those it created.
    pub(super) fn make_parents(&self, root: &Path, path: &Path) -> io::Result<Vec<PathBuf>> {
        let mut missing = Vec::new();
        let mut next = path.parent();
        while let Some(directory) = next.filter(|d| *d != root && d.starts_with(root)) {
            if directory.is_dir() {
                break;
            }
            missing.push(directory.to_owned());
            next = directory.parent();
        }
        missing.reverse();
        let mut created = Vec::new();
        for directory in missing {
            self.step("mkdir", &directory)?;
            match fs::create_dir(&directory) {
                Ok(()) => {
                    self.adjust(&directory, true)?;
                    created.push(directory);
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    if !directory.is_dir() {
                        return Err(Errno::NOTDIR.into());
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(created)
    }

    /// Removes a directory if it is empty.
    pub(super) fn rmdir(&self, path: &Path) -> io::Result<()> {
        self.step("rmdir", path)?;
        fs::remove_dir(path)
    }

    /// Removes `path`, a directory, if there is nothing but empty directories in it.
    pub(super) fn remove_empty_tree(&self, path: &Path) -> io::Result<()> {
        let mut found = vec![path.to_owned()];
        let mut at = 0;
        while let Some(directory) = found.get(at).cloned() {
            at += 1;
            for entry in fs::read_dir(&directory)? {
                let entry = entry?;
                if !entry.file_type()?.is_dir() || found.len() > 10_000 {
                    return Err(Errno::NOTEMPTY.into());
                }
                found.push(entry.path());
            }
        }
        found.iter().rev().try_for_each(|directory| self.rmdir(directory))
    }

    /// Brings the names in a directory to the disk. One that is gone has nothing to bring.
    pub(super) fn sync_dir(&self, path: &Path) -> io::Result<()> {
        if self.lazy {
            return Ok(());
        }
        self.step("fsync-dir", path)?;
        match File::open(path) {
            Ok(directory) => match directory.sync_all() {
                // Some file systems cannot; they have no more to offer.
                Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => Ok(()),
                other => other,
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Adds a line to a log.
    pub(super) fn append(&self, path: &Path, line: &[u8], create: bool) -> io::Result<()> {
        self.step("append", path)?;
        let mut file = OpenOptions::new().append(true).create(create).mode(0o666).open(path)?;
        if create {
            self.adjust(path, false)?;
        }
        file.write_all(line)
    }

    fn link(&self, from: &Path, to: &Path, flags: AtFlags) -> io::Result<()> {
        self.step("link", to)?;
        rustix::fs::linkat(CWD, from, CWD, to, flags).map_err(Into::into)
    }
}

/// The lock that protects a file: `<path>.lock`.
pub(super) fn lock_path(path: &Path) -> PathBuf {
    with_suffix(path, ".lock")
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

/// The file in which the new content of `path` is written, to be renamed over it. It belongs to whoever holds the lock of `path`.
///
/// For `packed-refs` it is git's `packed-refs.new`. For a ref it lies in the same directory, and its first and last letters hide it from everybody
/// who lists refs; it is short, since the name of a ref may be as long as the file system allows.
pub(super) fn draft_path(path: &Path) -> PathBuf {
    use std::hash::{DefaultHasher, Hasher};
    let base = path.file_name().unwrap_or_default();
    if base == "packed-refs" {
        return with_suffix(path, ".new");
    }
    let mut hasher = DefaultHasher::new();
    hasher.write(base.as_bytes());
    path.with_file_name(format!(".gitstead-{:016x}.lock", hasher.finish()))
}

/// Why a lock was not taken.
#[derive(Debug)]
pub(super) enum LockFailure {
    /// Somebody else holds it.
    Held,
    /// A file stands where a directory is needed: another ref is in the way.
    Blocked,
    /// The system does not let us.
    Io(io::Error),
}

/// Lock files that are removed together when this is dropped.
///
/// A lock is a file named `<what>.lock` that must not have existed, as C git has it. Ours are hard links to one nameless file that this
/// process keeps `flock`ed, so that a lock left by a process that was killed is recognised (our stamp in it, and nobody holds the
/// `flock`) and removed by the next of us that wants it. A stale lock of C git is never touched, since nothing tells it from a live one.
#[must_use = "dropping it releases the locks"]
pub(super) struct LockSet<'a> {
    disk: &'a Disk,
    root: &'a Path,
    source: Source,
    /// Files that are not links, kept open for their `flock`.
    kept: Vec<File>,
    pub(super) held: Vec<PathBuf>,
    pub(super) created: Vec<PathBuf>,
}

enum Source {
    None,
    /// Opened with `O_TMPFILE`.
    Nameless(File),
    /// The first lock of the set, where the file system knows no `O_TMPFILE`.
    Named(PathBuf),
    /// The file system has no hard links either: every lock is a file of its own, and stale ones have to be removed by hand.
    Copies,
}

impl<'a> LockSet<'a> {
    /// A set of locks beneath `root`.
    pub(super) fn new(disk: &'a Disk, root: &'a Path) -> Self {
        LockSet {
            disk,
            root,
            source: Source::None,
            kept: Vec::new(),
            held: Vec::new(),
            created: Vec::new(),
        }
    }

    /// Takes one lock, waiting until `deadline` for another process. The directories above it (up to `top`) are created.
    pub(super) fn acquire(&mut self, top: &Path, path: &Path, deadline: std::time::Instant) -> Result<(), LockFailure> {
        let mut pause = std::time::Duration::from_millis(1);
        let mut without_parent = 0;
        loop {
            let error = match self.place(path) {
                Ok(()) => {
                    self.held.push(path.to_owned());
                    return Ok(());
                }
                Err(error) => error,
            };
            match error.kind() {
                io::ErrorKind::AlreadyExists => {
                    if self.remove_stale(path).map_err(LockFailure::Io)? {
                        continue;
                    }
                    if std::time::Instant::now() >= deadline {
                        return Err(LockFailure::Held);
                    }
                    #[expect(
                        clippy::disallowed_methods,
                        reason = "a lock file of another process tells nobody when it goes"
                    )]
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(std::time::Duration::from_millis(50));
                }
                // The directory may be removed by another process between our making and using it, but not for ever.
                io::ErrorKind::NotFound if without_parent < 20 => {
                    without_parent += 1;
                    match self.disk.make_parents(top, path) {
                        Ok(created) => self.created.extend(created),
                        Err(error) if error.kind() == io::ErrorKind::NotADirectory => return Err(LockFailure::Blocked),
                        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                        Err(error) => return Err(LockFailure::Io(error)),
                    }
                    if without_parent > 2 && matches!(self.source, Source::Nameless(_)) {
                        // Or the name of our own file is what cannot be found: no /proc here.
                        self.source = Source::Copies;
                    }
                }
                io::ErrorKind::NotADirectory => return Err(LockFailure::Blocked),
                _ => return Err(LockFailure::Io(error)),
            }
        }
    }

    /// Removes all locks, and the directories that were made for them and hold nothing else.
    pub(super) fn release(&mut self) {
        self.release_if(|_| true);
    }

    /// Removes some of the locks.
    pub(super) fn release_if(&mut self, whether: impl Fn(&Path) -> bool) {
        let disk = self.disk;
        self.held.retain(|path| {
            if !whether(path) {
                return true;
            }
            if let Err(error) = disk.unlink(path) {
                tracing::warn!(lock = %path.display(), %error, "cannot remove a lock");
            }
            false
        });
        // From the innermost outwards, and only those in which nothing was left.
        let mut kept: Vec<PathBuf> = self
            .created
            .drain(..)
            .rev()
            .filter(|d| disk.rmdir(d).is_err())
            .collect();
        kept.reverse();
        self.created = kept;
    }

    fn place(&mut self, path: &Path) -> io::Result<()> {
        if matches!(self.source, Source::None) {
            match self.nameless() {
                Ok(file) => self.source = Source::Nameless(file),
                Err(_) => {
                    self.create(path)?;
                    self.source = Source::Named(path.to_owned());
                    return Ok(());
                }
            }
        }
        let linked = match &self.source {
            Source::Nameless(file) => {
                use std::os::fd::AsRawFd;
                let name = format!("/proc/self/fd/{}", file.as_raw_fd());
                self.disk.link(Path::new(&name), path, AtFlags::SYMLINK_FOLLOW)
            }
            Source::Named(first) => self.disk.link(first, path, AtFlags::empty()),
            Source::Copies | Source::None => return self.create(path),
        };
        match linked.as_ref().map_err(Errno::from_io_error) {
            // Another file system, no hard links, or too many of them: the next lock starts anew.
            Err(Some(Errno::XDEV | Errno::PERM | Errno::NOTSUP)) => {
                self.create(path)?;
                self.restart(Source::Copies);
                Ok(())
            }
            Err(Some(Errno::MLINK)) => {
                self.restart(Source::None);
                self.place(path)
            }
            _ => linked,
        }
    }

    fn restart(&mut self, source: Source) {
        if let Source::Nameless(file) = std::mem::replace(&mut self.source, source) {
            self.kept.push(file);
        }
    }

    fn nameless(&self) -> io::Result<File> {
        self.disk.step("tmpfile", self.root)?;
        let file = File::from(rustix::fs::openat(
            CWD,
            self.root,
            OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC,
            Mode::from_raw_mode(0o644),
        )?);
        stamp(file)
    }

    fn create(&mut self, path: &Path) -> io::Result<()> {
        self.disk.step("create", path)?;
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o644)
            .custom_flags(OFlags::CLOEXEC.bits() as i32)
            .open(path)?;
        // Only the first is worth a descriptor: there may be thousands.
        if self.kept.len() < 64 {
            self.kept.push(stamp(file)?);
        }
        Ok(())
    }

    /// Removes a lock of ours whose process has died. Whoever holds the `flock` of the file decides, so no two of us can remove one
    /// another's successor.
    pub(super) fn remove_stale(&self, path: &Path) -> io::Result<bool> {
        let opened = OpenOptions::new()
            .read(true)
            .custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32)
            .open(path);
        let Ok(mut file) = opened else { return Ok(false) };
        let mut start = Vec::new();
        if !file.metadata()?.is_file() || (&mut file).take(64).read_to_end(&mut start).is_err() || start != STAMP {
            return Ok(false);
        }
        if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok(false);
        }
        let (ours, there) = (file.metadata()?, fs::symlink_metadata(path));
        if there.is_ok_and(|there| there.ino() == ours.ino() && there.dev() == ours.dev()) {
            tracing::warn!(lock = %path.display(), "removing a lock left by a process that died");
            // While the lock is there, so is our right to its draft.
            let locked = path.as_os_str().as_bytes().strip_suffix(b".lock").unwrap_or_default();
            self.disk.unlink(&draft_path(Path::new(OsStr::from_bytes(locked))))?;
            self.disk.unlink(path)?;
        }
        Ok(true)
    }
}

/// Removes every lock of ours beneath a repository whose process has died. Each would be removed by whoever wants it, but C git, which cannot tell, would
/// stand before it for ever.
pub(super) fn sweep_locks(disk: &Disk, git_dir: &Path) {
    let locks = LockSet::new(disk, git_dir);
    let mut todo: Vec<PathBuf> = ["HEAD.lock", "packed-refs.lock", "shallow.lock", "refs"]
        .iter()
        .map(|name| git_dir.join(name))
        .collect();
    while let Some(path) = todo.pop() {
        let is_lock = path.extension().is_some_and(|extension| extension == "lock");
        if !is_lock {
            let Ok(entries) = fs::read_dir(&path) else { continue };
            todo.extend(entries.flatten().filter_map(|entry| {
                let is_lock = entry.file_name().as_bytes().ends_with(b".lock");
                let is_directory = || entry.file_type().is_ok_and(|kind| kind.is_dir());
                (is_lock || is_directory()).then(|| entry.path())
            }));
        } else if let Err(error) = locks.remove_stale(&path) {
            tracing::warn!(lock = %path.display(), %error, "cannot remove a lock left by a process that died");
        }
    }
}

fn stamp(mut file: File) -> io::Result<File> {
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
    file.write_all(STAMP)?;
    Ok(file)
}

impl Drop for LockSet<'_> {
    fn drop(&mut self) {
        self.release();
    }
}
