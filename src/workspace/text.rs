//! Text files of a workspace, read and written for somebody who names them by their paths: beneath the root or not at all, wherever links lead.

use std::{
    io::{self, Read as _, Write as _},
    os::{fd::AsFd as _, unix::ffi::OsStrExt as _},
    path::{Component, Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use bstr::{BString, ByteSlice as _};
use rustix::{
    fs::{self as sys, AtFlags, Mode, OFlags},
    io::Errno,
};

use super::{
    Workspace,
    beneath::{Beneath, Seen, Spot, stat_at},
};
use crate::base::Fault;

/// Links that are followed on the way to one file, as in Linux.
const LINKS: u32 = 40;
/// Bytes of a path, as in Linux.
const PATH_BYTES: usize = 4096;
/// Components of a path, those of the links on its way too: each is looked for from the root on.
const COMPONENTS: u32 = 256;
/// How much further than what is wanted a file is read to find it.
const SKIPPED: u64 = 64;

/// Why a text file was not read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// The path is relative.
    #[error("'{path}' is not an absolute path")]
    Relative {
        /// As it was given.
        path: String,
    },
    /// The path is longer than any is followed, or the links on the way make it so.
    #[error("the path is too long")]
    LongPath,
    /// The path, or a link on the way, leads out of the workspace.
    #[error("'{path}' is not in the workspace")]
    Outside {
        /// As it was given.
        path: String,
    },
    /// There is no such file.
    #[error("there is no file '{path}'")]
    Absent {
        /// As it was given.
        path: String,
    },
    /// It is a directory, or something else that is no file; or something on the way is no directory.
    #[error("'{path}' is not a file")]
    NotAFile {
        /// As it was given.
        path: String,
    },
    /// It is in a directory that is git's.
    #[error("'{path}' is git's own")]
    Git {
        /// As it was given.
        path: String,
    },
    /// It is no UTF-8.
    #[error("'{path}' is not a text file")]
    NotText {
        /// As it was given.
        path: String,
    },
    /// It, or what is wanted of it, is longer than allowed.
    #[error("'{path}' is longer than {most} bytes: ask for some of its lines")]
    TooLong {
        /// As it was given.
        path: String,
        /// How many are allowed.
        most: u64,
    },
    /// A file operation failed.
    #[error("'{path}' cannot be used: {source}")]
    Io {
        /// As it was given.
        path: String,
        /// What the system said.
        source: io::Error,
    },
}

impl TextError {
    /// Whose move it is.
    pub fn fault(&self) -> Fault {
        match self {
            TextError::Absent { .. } => Fault::NotFound,
            TextError::Io { .. } => Fault::Ours,
            _ => Fault::Client,
        }
    }
}

/// A file that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Where it is, relative to the root, links followed.
    pub path: BString,
    /// It was not there before.
    pub created: bool,
}

/// Which lines of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LinesWanted {
    /// The first, from 1; 0 is the same.
    pub first: u64,
    /// How many; all if it is not said.
    pub limit: Option<u64>,
}

impl Workspace {
    /// What a text file holds, or some of its lines; at most `most` bytes. `path` is absolute; `seen` is the root as whoever asks sees it, if otherwise than we do.
    ///
    /// # Errors
    /// When it is not a text file in the workspace, or too long.
    pub fn read_text(
        &self,
        seen: Option<&Path>,
        path: &str,
        lines: LinesWanted,
        most: u64,
    ) -> Result<String, TextError> {
        let name = || path.to_owned();
        let io = |source: io::Error| TextError::Io { path: name(), source };
        let files = Beneath::open(self.root()).map_err(io)?;
        let whole = self.find(&files, seen, path)?;
        let spot = files.spot(whole.as_bstr()).map_err(io)?;
        let spot = spot.map_err(|_| TextError::Absent { path: name() })?;
        // Not blocked by a fifo.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match sys::openat(&spot.dir, spot.name.as_bytes(), flags, Mode::empty()) {
            Ok(file) => std::fs::File::from(file),
            Err(Errno::NOENT | Errno::NOTDIR) => return Err(TextError::Absent { path: name() }),
            Err(Errno::LOOP | Errno::NXIO) => return Err(TextError::NotAFile { path: name() }),
            Err(error) => return Err(io(error.into())),
        };
        let stat = Seen::of(&sys::fstat(&file).map_err(|error| io(error.into()))?);
        if !stat.is_file() {
            return Err(TextError::NotAFile { path: name() });
        }
        let is_whole = lines.first <= 1 && lines.limit.is_none();
        let bytes = if is_whole {
            let mut bytes = Vec::new();
            file.take(most.saturating_add(1)).read_to_end(&mut bytes).map_err(io)?;
            (bytes.len() as u64 <= most).then_some(bytes)
        } else {
            some_lines(file, lines, most).map_err(io)?
        };
        let bytes = bytes.ok_or_else(|| TextError::TooLong { path: name(), most })?;
        String::from_utf8(bytes).map_err(|_| TextError::NotText { path: name() })
    }

    /// Writes a text file, whole: directories that are missing are made, and what was there before is replaced in one instant, with its permissions. What is new gets all but `umask`.
    /// Paths as in [`read_text`](Self::read_text). Nothing is locked: as if whoever asks had written it.
    ///
    /// # Errors
    /// When it cannot be a file in the workspace, or is git's.
    pub fn write_text(&self, seen: Option<&Path>, path: &str, text: &str, umask: u32) -> Result<Written, TextError> {
        let name = || path.to_owned();
        let io = |source: io::Error| TextError::Io { path: name(), source };
        let files = Beneath::open(self.root()).map_err(io)?;
        let whole = self.find(&files, seen, path)?;
        if whole.split_str("/").any(|part| part.eq_ignore_ascii_case(b".git")) {
            return Err(TextError::Git { path: name() });
        }
        let spot = files.spot_made_as(whole.as_bstr(), 0o777 & !umask).map_err(io)?;
        let spot = spot.map_err(|_| TextError::NotAFile { path: name() })?;
        let before = stat_at(spot.dir.as_fd(), spot.name).map_err(io)?;
        if before.is_some_and(|seen| !seen.is_file()) {
            return Err(TextError::NotAFile { path: name() });
        }
        let mode = before.map_or(0o666 & !umask, |seen| seen.mode) & 0o777;
        self.replace(&spot, text.as_bytes(), mode).map_err(io)?;
        Ok(Written {
            path: whole,
            created: before.is_none(),
        })
    }

    /// Writes beside git's files, where no checkpoint sees it half done, and renames; where those are on another file system, beside its place.
    fn replace(&self, spot: &Spot<'_>, bytes: &[u8], mode: u32) -> io::Result<()> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!(".gitstead-write-{}-{count}", std::process::id());
        let git = Beneath::open(self.git_dir())?;
        for dir in [git.root(), spot.dir.as_fd()] {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let mut file = std::fs::File::from(sys::openat(dir, &name, flags, Mode::RUSR | Mode::WUSR)?);
            let done = file
                .write_all(bytes)
                .and_then(|()| Ok(sys::fchmod(&file, Mode::from_raw_mode(mode))?))
                .map(|()| sys::renameat(dir, &name, &spot.dir, spot.name.as_bytes()));
            match done {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) => {
                    let _ = sys::unlinkat(dir, &name, AtFlags::empty());
                    if error != Errno::XDEV {
                        return Err(error.into());
                    }
                }
                Err(error) => {
                    let _ = sys::unlinkat(dir, &name, AtFlags::empty());
                    return Err(error);
                }
            }
        }
        Err(Errno::XDEV.into())
    }

    /// Where a path leads beneath the root, links followed as far as something is there. Whoever puts a link there afterwards has it refused, since nobody follows any then.
    fn find(&self, files: &Beneath, seen: Option<&Path>, path: &str) -> Result<BString, TextError> {
        let name = || path.to_owned();
        let outside = || TextError::Outside { path: name() };
        let io = |source: io::Error| TextError::Io { path: name(), source };
        if path.len() > PATH_BYTES {
            return Err(TextError::LongPath);
        }
        if !path.starts_with('/') {
            return Err(TextError::Relative { path: name() });
        }
        let inner = self.inner(Path::new(path), seen).ok_or_else(outside)?;
        let mut todo = parts(&inner);
        let mut at: Vec<BString> = Vec::new();
        let (mut links, mut steps) = (0, 0);
        while let Some(part) = todo.pop() {
            steps += 1;
            if steps > COMPONENTS {
                return Err(TextError::LongPath);
            }
            if part == ".." {
                at.pop().ok_or_else(outside)?;
                continue;
            }
            at.push(part);
            let whole = BString::from(bstr::join("/", &at));
            let spot = match files.spot(whole.as_bstr()).map_err(io)? {
                Ok(spot) => spot,
                Err(super::beneath::NoParent::Absent) => continue,
                Err(_) => return Err(TextError::NotAFile { path: name() }),
            };
            if !stat_at(spot.dir.as_fd(), spot.name)
                .map_err(io)?
                .is_some_and(|seen| seen.is_link())
            {
                continue;
            }
            links += 1;
            if links > LINKS {
                return Err(TextError::NotAFile { path: name() });
            }
            let target =
                sys::readlinkat(&spot.dir, spot.name.as_bytes(), Vec::new()).map_err(|error| io(error.into()))?;
            at.pop();
            let target = PathBuf::from(std::ffi::OsStr::from_bytes(target.as_bytes()));
            if target.is_absolute() {
                let inner = self.inner(&target, seen).ok_or_else(outside)?;
                at.clear();
                todo.extend(parts(&inner));
            } else {
                todo.extend(parts(&target));
            }
        }
        if at.is_empty() {
            return Err(TextError::NotAFile { path: name() });
        }
        Ok(bstr::join("/", &at).into())
    }

    /// The same beneath the root.
    fn inner(&self, path: &Path, seen: Option<&Path>) -> Option<PathBuf> {
        let inner = seen.and_then(|seen| path.strip_prefix(seen).ok());
        inner
            .or_else(|| path.strip_prefix(self.root()).ok())
            .map(Path::to_owned)
    }
}

/// The components, last first.
fn parts(path: &Path) -> Vec<BString> {
    let part = |part: Component<'_>| match part {
        Component::Normal(name) => Some(BString::from(name.as_bytes())),
        Component::ParentDir => Some("..".into()),
        _ => None,
    };
    let mut parts: Vec<BString> = path.components().filter_map(part).collect();
    parts.reverse();
    parts
}

/// `None` when these are longer than `most` bytes, or further into it than is read.
fn some_lines(file: impl io::Read, wanted: LinesWanted, most: u64) -> io::Result<Option<Vec<u8>>> {
    let mut reader = io::BufReader::new(file.take(most.saturating_mul(SKIPPED).saturating_add(1)));
    let is_cut = |reader: &io::BufReader<io::Take<_>>| reader.buffer().is_empty() && reader.get_ref().limit() == 0;
    for _ in 1..wanted.first.max(1) {
        if io::BufRead::skip_until(&mut reader, b'\n')? == 0 {
            return Ok((!is_cut(&reader)).then(Vec::new));
        }
    }
    let mut bytes = Vec::new();
    let mut left = wanted.limit.unwrap_or(u64::MAX);
    let mut some = (&mut reader).take(most.saturating_add(1));
    while left > 0 && io::BufRead::read_until(&mut some, b'\n', &mut bytes)? > 0 {
        left -= 1;
    }
    // The end of what is read would look like that of the file.
    let is_whole = !is_cut(&reader) || (left == 0 && bytes.ends_with(b"\n"));
    Ok((is_whole && bytes.len() as u64 <= most).then_some(bytes))
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    };

    use super::*;

    fn made() -> (tempfile::TempDir, Workspace) {
        let dir = tempfile::tempdir().expect("a directory");
        let root = dir.path().join("ws");
        for sub in ["objects", "refs/heads"] {
            fs::create_dir_all(root.join(".git").join(sub)).expect("made");
        }
        fs::write(root.join(".git/HEAD"), "ref: refs/heads/main\n").expect("written");
        let workspace = Workspace::open(&root).expect("a workspace");
        (dir, workspace)
    }

    fn read(workspace: &Workspace, path: &str) -> Result<String, String> {
        let path = path.replace("ROOT", &workspace.root().display().to_string());
        let text = workspace.read_text(Some(Path::new("/seen")), &path, LinesWanted::default(), 1_000);
        text.map_err(|error| error.to_string().replace(&path, "IT"))
    }

    fn write(workspace: &Workspace, path: &str) -> Result<(String, bool), String> {
        let path = path.replace("ROOT", &workspace.root().display().to_string());
        let written = workspace.write_text(Some(Path::new("/seen")), &path, "new\n", 0o027);
        let written = written.map_err(|error| error.to_string().replace(&path, "IT"))?;
        Ok((written.path.to_string(), written.created))
    }

    #[test]
    fn what_is_beneath_the_root_is_read_and_written_and_nothing_else() {
        let (dir, ws) = made();
        let root = ws.root().to_owned();
        fs::write(dir.path().join("secret"), "s3cret").expect("written");
        fs::create_dir_all(root.join("src/deep")).expect("made");
        fs::write(root.join("src/a"), "old\n").expect("written");
        fs::write(root.join("tool"), "old\n").expect("written");
        fs::set_permissions(root.join("tool"), fs::Permissions::from_mode(0o755)).expect("changed");
        for (link, target) in [
            ("out", "../secret"),
            ("away", "/etc/passwd"),
            ("up", ".."),
            ("in", "src/a"),
            ("dir", "src/deep"),
            ("round", "round"),
            ("home", root.join("src").to_str().expect("UTF-8")),
            ("gits", ".git"),
        ] {
            symlink(target, root.join(link)).expect("made");
        }
        let outside = Err("'IT' is not in the workspace".to_owned());
        for path in [
            "/etc/passwd",
            "ROOT/../secret",
            "ROOT/out",
            "ROOT/away",
            "ROOT/up/secret",
            "ROOT/src/../../secret",
            "/seen/../etc/passwd",
            "ROOTx/a",
        ] {
            assert_eq!(read(&ws, path), outside, "{path}");
            assert_eq!(write(&ws, path).map(|_| String::new()), outside, "{path}");
        }
        assert_eq!(fs::read_to_string(dir.path().join("secret")).expect("there"), "s3cret");
        for path in [
            "ROOT/src/a",
            "/seen/src/a",
            "ROOT/in",
            "ROOT/home/a",
            "ROOT/src/deep/../a",
            "ROOT//src/./a",
        ] {
            assert_eq!(read(&ws, path).as_deref(), Ok("old\n"), "{path}");
        }
        assert_eq!(read(&ws, "src/a"), Err("'IT' is not an absolute path".to_owned()));
        assert_eq!(read(&ws, "ROOT/none"), Err("there is no file 'IT'".to_owned()));
        for path in ["ROOT", "ROOT/src", "ROOT/round", "ROOT/src/a/b"] {
            assert_eq!(read(&ws, path), Err("'IT' is not a file".to_owned()), "{path}");
            assert_eq!(write(&ws, path), Err("'IT' is not a file".to_owned()), "{path}");
        }
        for path in ["ROOT/.git/config", "ROOT/gits/config", "ROOT/src/.GIT/hooks/x"] {
            assert_eq!(write(&ws, path), Err("'IT' is git's own".to_owned()), "{path}");
        }
        assert_eq!(write(&ws, "ROOT/in"), Ok(("src/a".to_owned(), false)));
        assert!(fs::symlink_metadata(root.join("in")).expect("there").is_symlink());
        assert_eq!(write(&ws, "/seen/dir/new/b"), Ok(("src/deep/new/b".to_owned(), true)));
        assert_eq!(write(&ws, "ROOT/tool"), Ok(("tool".to_owned(), false)));
        let mode = |name: &str| fs::metadata(root.join(name)).expect("there").mode() & 0o777;
        assert_eq!((mode("tool"), mode("src/deep/new/b")), (0o755, 0o640));
        assert_eq!(mode("src/deep/new"), 0o750);
        assert_eq!(fs::read_to_string(root.join("src/a")).expect("there"), "new\n");
        let left = |dir: &Path| {
            fs::read_dir(dir)
                .expect("there")
                .flatten()
                .any(|e| e.file_name().as_bytes().starts_with(b".gitstead"))
        };
        assert!(!left(&root) && !left(ws.git_dir()));
    }

    #[test]
    fn some_lines_are_read_of_what_is_too_long_and_what_is_no_text_is_not() {
        let (_dir, ws) = made();
        let at = |name: &str| ws.root().join(name).display().to_string();
        let text: String = (1..=500).map(|n| format!("line {n}\n")).collect();
        fs::write(at("long"), &text).expect("written");
        fs::write(at("bytes"), b"\xff\xfe").expect("written");
        let some = |first, limit, most| {
            let read = ws.read_text(None, &at("long"), LinesWanted { first, limit }, most);
            read.map_err(|error| error.to_string())
        };
        let too_long = some(1, None, 100).expect_err("too long");
        assert!(
            too_long.ends_with("is longer than 100 bytes: ask for some of its lines"),
            "{too_long}"
        );
        assert_eq!(some(0, Some(1), 100).as_deref(), Ok("line 1\n"));
        assert_eq!(some(499, Some(9), 100).as_deref(), Ok("line 499\nline 500\n"));
        assert_eq!(some(501, None, 100).as_deref(), Ok(""));
        assert!(some(2, None, 100).is_err());
        assert_eq!(some(1, None, 10_000).as_deref(), Ok(text.as_str()));
        // One more line, and it is not known any more whether there are more.
        let lines = |n: usize| "1234567\n".repeat(n);
        for (n, is_known) in [(801, false), (800, true), (700, true)] {
            fs::write(at("long"), lines(n)).expect("written");
            assert_eq!(some(900, None, 100).is_ok(), is_known, "{n}");
            assert_eq!(some(n as u64, None, 100).is_ok(), is_known, "{n}");
            assert_eq!(some(600, Some(1), 100).as_deref(), Ok("1234567\n"), "{n}");
        }
        let no_text = ws.read_text(None, &at("bytes"), LinesWanted::default(), 100);
        assert!(matches!(no_text, Err(TextError::NotText { .. })));
        assert_eq!(no_text.expect_err("no text").fault(), Fault::Client);
    }

    #[test]
    fn a_path_that_goes_on_and_on_is_not_followed() {
        let (_dir, ws) = made();
        let root = ws.root().to_owned();
        fs::create_dir(root.join("a")).expect("made");
        fs::write(root.join("file"), "x").expect("written");
        let around = |times: usize| format!("ROOT{}/file", "/a/..".repeat(times));
        assert_eq!(read(&ws, &around(100)).as_deref(), Ok("x"));
        let long = Err("the path is too long".to_owned());
        // Some that fit into what the system takes, and some that do not.
        for times in [200, 1_000_000] {
            assert_eq!(read(&ws, &around(times)), long, "{times}");
            assert_eq!(write(&ws, &around(times)).map(|_| String::new()), long, "{times}");
        }
        symlink("a/..".to_owned() + &"/a/..".repeat(30), root.join("loop")).expect("made");
        assert_eq!(read(&ws, "ROOT/loop/file").as_deref(), Ok("x"));
        assert_eq!(read(&ws, "ROOT/loop/loop/loop/loop/loop/file"), long);
    }
}
