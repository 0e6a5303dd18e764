//! Files beneath a directory, reached one component at a time and never through a symbolic link.
//!
//! An agent may put a link in the place of any directory at any moment. So no path is ever given to the system as a whole: each directory on the way is
//! opened by its name in the one before, with `O_NOFOLLOW`, and what is done in the end is done to a name in the last one.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use bstr::{BStr, BString, ByteSlice as _};
use rustix::{
    fs::{self as sys, AtFlags, FileType, Mode, OFlags, RenameFlags},
    io::Errno,
};

/// What tells a file from one that was put in its place, or was written to since. The time of the last change of the inode is not part of it: renaming changes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Seen {
    pub dev: u64,
    pub ino: u64,
    pub mode: u32,
    pub size: u64,
    /// Seconds and nanoseconds.
    pub mtime: (i64, i64),
}

impl Seen {
    #[allow(clippy::unnecessary_cast, reason = "the types of the fields differ between systems")]
    pub(crate) fn of(stat: &sys::Stat) -> Self {
        Seen {
            dev: stat.st_dev as u64,
            ino: stat.st_ino as u64,
            mode: stat.st_mode as u32,
            size: stat.st_size as u64,
            mtime: (stat.st_mtime as i64, stat.st_mtime_nsec as i64),
        }
    }

    pub(crate) fn is_dir(&self) -> bool {
        self.file_type() == FileType::Directory
    }

    pub(crate) fn is_file(&self) -> bool {
        self.file_type() == FileType::RegularFile
    }

    pub(crate) fn is_link(&self) -> bool {
        self.file_type() == FileType::Symlink
    }

    /// Whether its owner may execute it, which is what git asks.
    pub(crate) fn is_executable(&self) -> bool {
        self.mode & 0o100 != 0
    }

    pub(crate) fn is_same_inode(&self, other: &Seen) -> bool {
        (self.dev, self.ino) == (other.dev, other.ino)
    }

    fn file_type(&self) -> FileType {
        FileType::from_raw_mode(self.mode as _)
    }
}

/// Why there is no directory where a path needs one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NoParent {
    /// This directory, or one above it, is not there.
    Absent,
    /// Something else has its name: a file, or a symbolic link wherever it may lead.
    NotADirectory { at: BString, link: bool },
}

/// A directory and what is beneath it.
#[derive(Debug)]
pub(crate) struct Beneath {
    root: OwnedFd,
}

/// The directory of a path and the last component of it.
pub(crate) struct Spot<'p> {
    pub dir: OwnedFd,
    pub name: &'p BStr,
}

const DIRECTORY: OFlags = OFlags::PATH
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

impl Beneath {
    /// The directory at `root`, links on the way to it followed: the way there is the operator's, what is beneath is not.
    pub(crate) fn open(root: &Path) -> io::Result<Self> {
        let root = sys::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Beneath { root })
    }

    pub(crate) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Where a path ends, if all of its directories are there and are directories.
    pub(crate) fn spot<'p>(&self, path: &'p BStr) -> io::Result<Result<Spot<'p>, NoParent>> {
        self.walk(path, None)
    }

    /// As [`spot`](Self::spot), making the directories that are missing.
    pub(crate) fn spot_made<'p>(&self, path: &'p BStr) -> io::Result<Result<Spot<'p>, NoParent>> {
        self.walk(path, Some(None))
    }

    /// As [`spot_made`](Self::spot_made), with these permissions whatever this process takes from what it makes.
    pub(crate) fn spot_made_as<'p>(&self, path: &'p BStr, mode: u32) -> io::Result<Result<Spot<'p>, NoParent>> {
        self.walk(path, Some(Some(mode)))
    }

    fn walk<'p>(&self, path: &'p BStr, make: Option<Option<u32>>) -> io::Result<Result<Spot<'p>, NoParent>> {
        let (above, name) = match path.rfind_byte(b'/') {
            Some(at) => (Some(path[..at].as_bstr()), path[at + 1..].as_bstr()),
            None => (None, path),
        };
        check_component(name)?;
        let mut dir = sys::openat(&self.root, ".", DIRECTORY, Mode::empty())?;
        let mut end = 0;
        for component in above.into_iter().flat_map(|above| above.split(|b| *b == b'/')) {
            check_component(component.as_bstr())?;
            end += component.len() + 1;
            let opened = match sys::openat(&dir, component, DIRECTORY, Mode::empty()) {
                Err(Errno::NOENT) => match make {
                    Some(mode) => {
                        step()?;
                        let made = match sys::mkdirat(&dir, component, Mode::from_raw_mode(0o777)) {
                            Ok(()) => true,
                            Err(Errno::EXIST) => false,
                            Err(err) => return Err(err.into()),
                        };
                        let opened = sys::openat(&dir, component, DIRECTORY, Mode::empty());
                        if let (true, Some(mode), Ok(opened)) = (made, mode, &opened) {
                            change_mode(opened.as_fd(), mode)?;
                        }
                        opened
                    }
                    None => Err(Errno::NOENT),
                },
                other => other,
            };
            match opened {
                Ok(next) => dir = next,
                Err(Errno::NOENT) => return Ok(Err(NoParent::Absent)),
                Err(Errno::NOTDIR | Errno::LOOP) => {
                    let link = stat_at(dir.as_fd(), component.as_bstr())?.is_some_and(|seen| seen.is_link());
                    let at = path[..end - 1].as_bstr().to_owned();
                    return Ok(Err(NoParent::NotADirectory { at, link }));
                }
                Err(err) => return Err(err.into()),
            }
        }
        Ok(Ok(Spot { dir, name }))
    }

    /// Removes the directories above `path` that are empty, lowest first, never the root.
    pub(crate) fn prune_above(&self, path: &BStr) -> io::Result<()> {
        let mut at = path;
        while let Some(slash) = at.rfind_byte(b'/') {
            at = at[..slash].as_bstr();
            if !self.remove_empty_dir(at)? {
                break;
            }
        }
        Ok(())
    }

    /// Removes a directory if it is one and is empty. Says whether there is none any more.
    pub(crate) fn remove_empty_dir(&self, path: &BStr) -> io::Result<bool> {
        let Ok(spot) = self.spot(path)? else { return Ok(true) };
        step()?;
        match sys::unlinkat(&spot.dir, spot.name.as_bytes(), AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(true),
            // `EBUSY`: something is mounted there.
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR | Errno::BUSY | Errno::ACCESS | Errno::PERM) => {
                Ok(false)
            }
            Err(err) => Err(err.into()),
        }
    }

    /// Removes the directories beneath `path` that hold nothing but directories, and itself if nothing remains. Says whether there is nothing there any more.
    pub(crate) fn prune_below(&self, path: &BStr) -> io::Result<bool> {
        for dir in self.directories_below(path)?.into_iter().rev() {
            self.remove_empty_dir(dir.as_bstr())?;
        }
        self.remove_empty_dir(path)
    }

    /// Every directory beneath the one at `path`, each after the one that holds it.
    fn directories_below(&self, path: &BStr) -> io::Result<Vec<BString>> {
        let mut found = Vec::new();
        self.visit_below(path, &mut |path, seen| {
            if seen.is_dir() {
                found.push(path.to_owned());
            }
            true
        })?;
        Ok(found)
    }

    /// Shows everything beneath the directory at `path` until `visit` says false, a directory before its content. Links are shown, not followed.
    pub(crate) fn visit_below(&self, path: &BStr, visit: &mut dyn FnMut(&BStr, &Seen) -> bool) -> io::Result<()> {
        let mut todo = vec![path.to_owned()];
        while let Some(at) = todo.pop() {
            let Ok(spot) = self.spot(at.as_bstr())? else { continue };
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let dir = match sys::openat(&spot.dir, spot.name.as_bytes(), flags, Mode::empty()) {
                Ok(dir) => dir,
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
                Err(err) => return Err(err.into()),
            };
            for entry in sys::Dir::read_from(&dir)? {
                let entry = entry?;
                let name = entry.file_name().to_bytes();
                if name == b"." || name == b".." {
                    continue;
                }
                let Some(seen) = stat_at(dir.as_fd(), name.as_bstr())? else {
                    continue;
                };
                let mut below = at.clone();
                below.push(b'/');
                below.extend_from_slice(name);
                if !visit(below.as_bstr(), &seen) {
                    return Ok(());
                }
                if seen.is_dir() {
                    todo.push(below);
                }
            }
        }
        Ok(())
    }
}

/// Gives a directory these permissions, and leaves it the rest (whose group what is in it has).
fn change_mode(dir: BorrowedFd<'_>, mode: u32) -> io::Result<()> {
    // What is open as a mere path is changed by nobody.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = sys::openat(dir, ".", flags, Mode::empty())?;
    let more = Seen::of(&sys::fstat(&dir)?).mode & 0o7000;
    sys::fchmod(&dir, Mode::from_raw_mode(more | mode & 0o777))?;
    Ok(())
}

/// What a file holds, or where a link leads. The answer is `None` when it is not, or no longer, what was seen.
pub(crate) fn read_at(dir: BorrowedFd<'_>, name: &BStr, seen: &Seen) -> io::Result<Option<Vec<u8>>> {
    if seen.is_link() {
        return match sys::readlinkat(dir, name.as_bytes(), Vec::new()) {
            Ok(target) => Ok(Some(target.into_bytes())),
            Err(Errno::NOENT | Errno::INVAL) => Ok(None),
            Err(err) => Err(err.into()),
        };
    }
    // Not blocked by a fifo that has taken its place.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match sys::openat(dir, name.as_bytes(), flags, Mode::empty()) {
        Ok(file) => std::fs::File::from(file),
        Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => return Ok(None),
        Err(err) => return Err(err.into()),
    };
    if Seen::of(&sys::fstat(&file)?) != *seen || !seen.is_file() {
        return Ok(None);
    }
    let mut content = Vec::with_capacity(usize::try_from(seen.size).unwrap_or(0).saturating_add(1));
    // One byte more than it had: enough to see that it has grown.
    io::Read::read_to_end(&mut io::Read::take(&file, seen.size.saturating_add(1)), &mut content)?;
    Ok((content.len() as u64 == seen.size).then_some(content))
}

/// What is behind a name; links are not followed.
pub(crate) fn stat_at(dir: BorrowedFd<'_>, name: &BStr) -> io::Result<Option<Seen>> {
    match sys::statat(dir, name.as_bytes(), AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(Seen::of(&stat))),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG) => Ok(None),
        Err(err) => Err(err.into()),
    }
}

/// Gives something a name that nothing has. Says whether it could: `false` when there is something of that name.
pub(crate) fn rename_new(from: (BorrowedFd<'_>, &BStr), to: (BorrowedFd<'_>, &BStr)) -> io::Result<bool> {
    step()?;
    match sys::renameat_with(from.0, from.1.as_bytes(), to.0, to.1.as_bytes(), RenameFlags::NOREPLACE) {
        Ok(()) => Ok(true),
        Err(Errno::EXIST) => Ok(false),
        // A file system that cannot promise it.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
            if stat_at(to.0, to.1)?.is_some() {
                return Ok(false);
            }
            sys::renameat(from.0, from.1.as_bytes(), to.0, to.1.as_bytes())?;
            Ok(true)
        }
        Err(err) => Err(err.into()),
    }
}

/// Lets two names change places in one step. Says whether it could: `false` where the file system has no such step.
pub(crate) fn exchange(a: (BorrowedFd<'_>, &BStr), b: (BorrowedFd<'_>, &BStr)) -> io::Result<bool> {
    step()?;
    match sys::renameat_with(a.0, a.1.as_bytes(), b.0, b.1.as_bytes(), RenameFlags::EXCHANGE) {
        Ok(()) => Ok(true),
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => Ok(false),
        Err(err) => Err(err.into()),
    }
}

/// Removes whatever has this name, a directory with all that is in it. Links are removed, not followed; directories that deny it are told to allow it first.
///
/// However deep a directory is, no more than three are open at a time: what is in it is moved up before it is emptied.
pub(crate) fn remove_all(dir: BorrowedFd<'_>, name: &BStr) -> io::Result<()> {
    match unlink(dir, name) {
        Ok(()) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM | Errno::ACCESS) => {}
        Err(err) => return Err(err.into()),
    }
    let top = open_to_empty(dir, name)?;
    let mut moved: u64 = 0;
    // Directories directly below the top one that are to be emptied.
    let mut todo: Vec<BString> = Vec::new();
    let mut at = sys::openat(
        &top,
        ".",
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let mut of: Option<BString> = None;
    loop {
        let mut names: Vec<BString> = Vec::new();
        for entry in sys::Dir::read_from(&at)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(name.into());
            }
        }
        for name in names {
            step()?;
            match unlink(at.as_fd(), name.as_bstr()) {
                Ok(()) => {}
                Err(_) if of.is_none() => todo.push(name),
                Err(_) => {
                    // Out of the way of everything that was there before.
                    let fresh = loop {
                        moved += 1;
                        let fresh = BString::from(format!(".gitstead-moved-{moved}"));
                        if stat_at(top.as_fd(), fresh.as_bstr())?.is_none() {
                            break fresh;
                        }
                    };
                    drop(open_to_empty(at.as_fd(), name.as_bstr())?);
                    sys::renameat(&at, name.as_bytes(), &top, fresh.as_bytes())?;
                    todo.push(fresh);
                }
            }
        }
        if let Some(name) = of.take() {
            sys::unlinkat(&top, name.as_bytes(), AtFlags::REMOVEDIR)?;
        }
        let Some(next) = todo.pop() else { break };
        at = open_to_empty(top.as_fd(), next.as_bstr())?;
        of = Some(next);
    }
    step()?;
    sys::unlinkat(dir, name.as_bytes(), AtFlags::REMOVEDIR)?;
    Ok(())
}

/// Opens a directory whose entries can be removed, whatever its owner has made of its permissions.
fn open_to_empty(dir: BorrowedFd<'_>, name: &BStr) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = || sys::openat(dir, name.as_bytes(), flags, Mode::empty());
    let opened = match open() {
        Err(Errno::ACCESS) => {
            sys::chmodat(dir, name.as_bytes(), Mode::RWXU, AtFlags::empty())?;
            open()?
        }
        other => other?,
    };
    if Seen::of(&sys::fstat(&opened)?).mode & 0o700 != 0o700 {
        sys::fchmod(&opened, Mode::RWXU)?;
    }
    Ok(opened)
}

fn unlink(dir: BorrowedFd<'_>, name: &BStr) -> Result<(), Errno> {
    match sys::unlinkat(dir, name.as_bytes(), AtFlags::empty()) {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}

/// Makes the names in a directory durable.
pub(crate) fn sync_dir(dir: BorrowedFd<'_>) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    sys::fsync(sys::openat(dir, ".", flags, Mode::empty())?)?;
    Ok(())
}

fn check_component(name: &BStr) -> io::Result<()> {
    if name.is_empty() || name == "." || name == ".." || name.contains(&b'/') || name.contains(&0) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a name of a file"));
    }
    Ok(())
}

/// Called before every change of the file system, so that tests can stop the world between any two.
#[inline]
pub(crate) fn step() -> io::Result<()> {
    #[cfg(test)]
    if kill::is_due() {
        return Err(io::Error::other(kill::KILLED));
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod kill {
    //! A process that is killed does nothing any more, so after the step at which it "dies" every further step fails, too: no destructor can tidy up.

    use std::cell::{Cell, RefCell};

    pub(crate) const KILLED: &str = "killed by a test";

    type Act = Box<dyn FnOnce()>;

    thread_local! {
        static LEFT: Cell<Option<u64>> = const { Cell::new(None) };
        static OTHER: RefCell<Option<Act>> = const { RefCell::new(None) };
    }

    pub(super) fn is_due() -> bool {
        LEFT.with(|left| match left.get() {
            None => false,
            Some(0) => match OTHER.with(|other| other.take()) {
                Some(act) => {
                    left.set(None);
                    act();
                    false
                }
                None => true,
            },
            Some(n) => {
                left.set(Some(n - 1));
                false
            }
        })
    }

    /// Runs something that is killed after `steps` changes of the file system. Says whether it was.
    pub(crate) fn after<T>(steps: u64, run: impl FnOnce() -> T) -> (T, bool) {
        LEFT.with(|left| left.set(Some(steps)));
        let result = run();
        let killed = LEFT.with(|left| left.replace(None)) == Some(0);
        (result, killed)
    }

    /// Runs something during which another one acts after `steps` changes of the file system. Says whether it did.
    pub(crate) fn disturbed<T>(steps: u64, other: impl FnOnce() + 'static, run: impl FnOnce() -> T) -> (T, bool) {
        LEFT.with(|left| left.set(Some(steps)));
        OTHER.with(|act| act.replace(Some(Box::new(other))));
        let result = run();
        LEFT.with(|left| left.set(None));
        let acted = OTHER.with(|act| act.take()).is_none();
        (result, acted)
    }
}
