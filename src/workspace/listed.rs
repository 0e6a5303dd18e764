//! Directories in which nothing but tracked names was found, and what they looked like then: while one looks the same, its names are the same, and it need not be
//! listed. git's untracked cache rests on the same promise of the system.
//!
//! What is here is never the whole truth and may be gone: every file is looked at all the same. Kept beside the index in `gitstead-cache`.

use std::{
    collections::HashMap,
    fs::{self, File, OpenOptions},
    hash::{DefaultHasher, Hasher},
    io::{Read, Write},
    os::{fd::AsFd, unix::fs::OpenOptionsExt},
    path::Path,
    time::{Duration, SystemTime},
};

use gix::objs::tree::EntryKind;
use rustix::fs::{self as sys, OFlags};

use super::tracked::{Dir, Node, TICK};

const NAME: &str = "gitstead-cache";
const DRAFT: &str = "gitstead-cache.new";
const MAGIC: &[u8; 8] = b"GSLIST\0\x01";
/// Bytes of one directory in the file: five numbers.
const RECORD: usize = 40;
/// More directories than anybody's workspace has.
const MOST: usize = 1 << 20;
/// Directories that had to be listed and need not be again: with fewer of them the file is not worth writing.
const WORTH_WRITING: usize = 8;
/// Where times have no fractions, a second may have many changes.
const COARSE: Duration = Duration::from_secs(3);

/// What a directory looked like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DirStamp {
    inode: u64,
    /// Nanoseconds since 1970.
    mtime: i64,
    ctime: i64,
}

impl DirStamp {
    /// Of a directory that was looked at when it was `now`, before its names were read; `None` if it may change once more without looking different.
    fn settled(stat: &sys::Stat, now: SystemTime) -> Option<Self> {
        let stamp = Self::of(stat);
        let now = now.duration_since(SystemTime::UNIX_EPOCH).ok()?;
        let newest = Duration::from_nanos(u64::try_from(stamp.mtime.max(stamp.ctime)).ok()?);
        let age = now.checked_sub(newest)?;
        let is_coarse = stat.st_mtime_nsec == 0 || stat.st_ctime_nsec == 0;
        (age >= if is_coarse { COARSE } else { TICK }).then_some(stamp)
    }

    #[allow(
        clippy::unnecessary_cast,
        clippy::cast_possible_wrap,
        reason = "the types of the fields differ between systems"
    )]
    fn of(stat: &sys::Stat) -> Self {
        let nanos = |seconds: i64, nanos: i64| seconds.saturating_mul(1_000_000_000).saturating_add(nanos);
        DirStamp {
            inode: stat.st_ino as u64,
            mtime: nanos(stat.st_mtime as i64, stat.st_mtime_nsec as i64),
            ctime: nanos(stat.st_ctime as i64, stat.st_ctime_nsec as i64),
        }
    }
}

/// A directory with nothing in it that is not tracked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pure {
    stamp: DirStamp,
    /// A hash of its names, and which of them are directories.
    names: u64,
    /// The beginning of its tree then; 0 if that was not known. One tree has one list of names, and is compared sooner.
    tree: u64,
}

impl Pure {
    /// A directory in which exactly what is tracked in `dir` was found, after it had looked like `stat`.
    pub(super) fn new(stat: &sys::Stat, now: SystemTime, dir: &Dir) -> Option<Self> {
        Some(Pure {
            stamp: DirStamp::settled(stat, now)?,
            names: names_of(dir)?,
            tree: tree_of(dir),
        })
    }
}

fn tree_of(dir: &Dir) -> u64 {
    let start = dir
        .tree
        .as_ref()
        .and_then(|tree| tree.as_slice().first_chunk().copied());
    start.map_or(0, u64::from_le_bytes)
}

/// `None` with a nested repository in it: that is a directory, and tracked like a file.
fn names_of(dir: &Dir) -> Option<u64> {
    let mut hasher = DefaultHasher::new();
    for (name, node) in dir.nodes() {
        hasher.write(name);
        hasher.write_u8(match node {
            Node::Dir(_) => b'/',
            Node::File(file) if file.kind == EntryKind::Commit => return None,
            Node::File(_) => 0,
        });
    }
    Some(hasher.finish())
}

/// The directories that are known.
#[derive(Debug, Default)]
pub(super) struct Listed {
    by_inode: HashMap<u64, Pure>,
    /// The file system that they are on.
    device: u64,
}

impl Listed {
    /// What is known of the workspace at `root`; `None` where the file system is one whose times are not to be trusted.
    #[allow(clippy::unnecessary_cast, reason = "the types of the fields differ between systems")]
    pub(super) fn load(git_dir: &Path, root: &impl AsFd) -> Option<Self> {
        const TRUSTED: [u64; 7] = [
            0xef53,      // ext
            0x5846_5342, // xfs
            0x9123_683e, // btrfs
            0xf2f5_2010, // f2fs
            0x2fc1_2fc1, // zfs
            0x0102_1994, // tmpfs
            0x794c_7630, // overlayfs
        ];
        let kind = sys::fstatfs(root).ok()?.f_type as u64 & 0xffff_ffff;
        if !TRUSTED.contains(&kind) {
            return None;
        }
        let device = sys::fstat(root).ok()?.st_dev as u64;
        let by_inode = read(&git_dir.join(NAME)).unwrap_or_default();
        Some(Listed { by_inode, device })
    }

    /// Whether a directory is on the file system that is known.
    #[allow(clippy::unnecessary_cast, reason = "the types of the fields differ between systems")]
    pub(super) fn covers(&self, stat: &sys::Stat) -> bool {
        stat.st_dev as u64 == self.device
    }

    /// What is known of a directory that looks like `stat`, if that tells that exactly what is tracked in it is there.
    pub(super) fn still(&self, stat: &sys::Stat, dir: &Dir) -> Option<Pure> {
        let stamp = DirStamp::of(stat);
        let known = self.by_inode.get(&stamp.inode)?;
        if known.stamp != stamp || !self.covers(stat) {
            return None;
        }
        let tree = tree_of(dir);
        if tree == 0 || tree != known.tree {
            return (names_of(dir)? == known.names).then_some(Pure { tree, ..*known });
        }
        Some(*known)
    }

    /// Whether what was found anew is worth to be written beside what was known and still is.
    pub(super) fn is_worth_writing(new: usize, kept: usize) -> bool {
        new >= WORTH_WRITING.max(kept / 16)
    }

    /// Writes what is known from now on. When that fails, the directories are listed again next time.
    pub(super) fn save(git_dir: &Path, all: &[Pure]) {
        let mut bytes = MAGIC.to_vec();
        for pure in all.iter().take(MOST) {
            let DirStamp { inode, mtime, ctime } = pure.stamp;
            for number in [
                inode,
                mtime.cast_unsigned(),
                ctime.cast_unsigned(),
                pure.names,
                pure.tree,
            ] {
                bytes.extend_from_slice(&number.to_le_bytes());
            }
        }
        let checksum = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&checksum.to_le_bytes());
        let (draft, path) = (git_dir.join(DRAFT), git_dir.join(NAME));
        let _ = fs::remove_file(&draft);
        let written = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&draft)
            .and_then(|mut file| file.write_all(&bytes))
            // Not over the old one: the system would bring the bytes to the disk, and nobody needs that.
            .and_then(|()| match fs::remove_file(&path) {
                Err(err) if err.kind() != std::io::ErrorKind::NotFound => Err(err),
                _ => fs::rename(&draft, &path),
            });
        if let Err(error) = written {
            tracing::debug!(%error, "what directories looked like was not noted");
        }
    }
}

fn read(path: &Path) -> Option<HashMap<u64, Pure>> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file: File = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits() as i32)
        .open(path)
        .ok()?;
    let meta = file.metadata().ok()?;
    let most = (MOST * RECORD + MAGIC.len() + 4) as u64;
    if !meta.is_file() || meta.len() > most {
        return None;
    }
    let mut bytes = Vec::with_capacity(usize::try_from(meta.len()).ok()? + 1);
    file.take(most).read_to_end(&mut bytes).ok()?;
    let (body, checksum) = bytes.split_at_checked(bytes.len().checked_sub(4)?)?;
    if crc32fast::hash(body).to_le_bytes() != checksum {
        return None;
    }
    let records = body.strip_prefix(MAGIC)?;
    let number = |record: &[u8], n: usize| {
        record
            .get(n * 8..n * 8 + 8)
            .and_then(|part| part.try_into().ok())
            .map_or(0, u64::from_le_bytes)
    };
    let pure = |record: &[u8]| Pure {
        stamp: DirStamp {
            inode: number(record, 0),
            mtime: number(record, 1).cast_signed(),
            ctime: number(record, 2).cast_signed(),
        },
        names: number(record, 3),
        tree: number(record, 4),
    };
    Some(
        records
            .chunks_exact(RECORD)
            .map(pure)
            .map(|pure| (pure.stamp.inode, pure))
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::symlink, sync::atomic::AtomicUsize, thread::park_timeout};

    use super::*;
    use crate::workspace::{
        Held, Workspace,
        found::ScanResult,
        reach::DIRECTORY,
        scan::{Scan, Scope},
    };

    fn workspace(dir: &Path) -> Workspace {
        let git = dir.join(".git");
        for sub in ["objects", "refs/heads"] {
            fs::create_dir_all(git.join(sub)).expect("made");
        }
        fs::write(git.join("HEAD"), "ref: refs/heads/main\n").expect("written");
        Workspace::open(dir).expect("a workspace")
    }

    /// Until a change of any of these directories could be told from what they are now.
    fn settle(dir: &Path, names: &[&str]) {
        for name in names {
            let stat = || sys::lstat(dir.join(name)).expect("there");
            while DirStamp::settled(&stat(), SystemTime::now()).is_none() {
                park_timeout(Duration::from_millis(2));
            }
        }
    }

    fn scan(held: &Held<'_>) -> ScanResult {
        let root = sys::open(held.root(), DIRECTORY, sys::Mode::empty()).expect("opened");
        let listed = Listed::load(held.git_dir(), &root);
        let repository = held.repository();
        Scan {
            root: held.root(),
            common_dir: repository.common_dir(),
            core: &repository.settings().core,
            tracked: held.state.tracked.as_ref().expect("read"),
            listed: listed.as_ref(),
            threads: 2,
            files: 1000,
            enter: &|_| (),
            seen: &AtomicUsize::new(0),
        }
        .run(&Scope::Everything)
        .expect("scanned")
    }

    #[test]
    fn a_directory_that_looks_as_it_did_is_not_listed_and_what_comes_or_goes_is_found_all_the_same() {
        let dir = tempfile::tempdir().expect("a directory");
        let root = dir.path();
        let at = |name: &str| root.join(name);
        for name in ["a", "a/b", "c", "d"] {
            fs::create_dir(at(name)).expect("made");
        }
        for name in ["top", "a/one", "a/b/two", "c/three", "c/four", "d/five", "d/junk"] {
            fs::write(at(name), name).expect("written");
        }
        fs::write(at(".gitignore"), "junk\nlater\n").expect("written");
        let workspace = workspace(root);
        let dirs = ["", "a", "a/b", "c", "d"];
        let mut held = workspace.lock().expect("free");
        settle(root, &dirs);
        settle(root, &[".gitignore", "d/junk"]);
        drop(held.capture(&|_, _| None).expect("captured"));
        let first = scan(&held);
        assert_eq!(
            (first.listed.len(), first.unlisted.len()),
            (4, 0),
            "but the one with something ignored"
        );
        Listed::save(held.git_dir(), &first.listed);
        let second = scan(&held);
        assert_eq!((second.listed.len(), second.unlisted.len()), (0, 4));
        assert!(second.found.is_empty() && second.removed.is_empty(), "{second:?}");

        // Contents are looked at whatever is known of the directory.
        fs::write(at("c/three"), "another").expect("written");
        assert_eq!(scan(&held).found.len(), 1);
        type Change<'a> = &'a dyn Fn() -> std::io::Result<()>;
        let steps: [(&str, Change<'_>, &[&str], &[&str]); 8] = [
            ("new", &|| fs::write(at("a/b/new"), "x"), &["a/b/new"], &[]),
            ("gone", &|| fs::remove_file(at("a/b/new")), &[], &[]),
            (
                "renamed",
                &|| fs::rename(at("c/four"), at("c/4")),
                &["c/4"],
                &["c/four"],
            ),
            ("back", &|| fs::rename(at("c/4"), at("c/four")), &[], &[]),
            (
                "moved",
                &|| fs::rename(at("a/b/two"), at("two")),
                &["two"],
                &["a/b/two"],
            ),
            ("back again", &|| fs::rename(at("two"), at("a/b/two")), &[], &[]),
            (
                "a link instead",
                &|| fs::rename(at("a/b"), at("elsewhere")).and_then(|()| symlink("../elsewhere", at("a/b"))),
                &["a/b", "elsewhere/two"],
                &["a/b/two"],
            ),
            (
                "undone",
                &|| fs::remove_file(at("a/b")).and_then(|()| fs::rename(at("elsewhere"), at("a/b"))),
                &[],
                &[],
            ),
        ];
        for (what, change, new, gone) in steps {
            change().expect(what);
            let result = scan(&held);
            let mut found: Vec<_> = result
                .found
                .iter()
                .filter(|found| found.is_new)
                .map(|found| found.path.clone())
                .collect();
            found.sort();
            assert_eq!(found, new, "{what}");
            assert_eq!(result.removed, gone, "{what}");
            settle(root, &dirs);
            let result = scan(&held);
            Listed::save(held.git_dir(), &[result.listed, result.unlisted].concat());
        }
        // What is ignored no longer is found although no directory looks different.
        fs::write(at(".gitignore"), "nothing\n").expect("written");
        let new: Vec<_> = scan(&held)
            .found
            .into_iter()
            .filter(|found| found.is_new)
            .map(|found| found.path)
            .collect();
        assert_eq!(new, ["d/junk"]);
        // Nor is anything believed of a directory in which other names are tracked than then.
        held.put("c/four".into(), None);
        let new: Vec<_> = scan(&held).found.into_iter().map(|found| found.path).collect();
        assert!(new.contains(&"c/four".into()), "{new:?}");
    }

    #[test]
    fn a_note_that_is_damaged_says_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        let stamp = DirStamp {
            inode: 7,
            mtime: 1,
            ctime: -2,
        };
        let (names, tree) = (9, 0);
        let pure = Pure { stamp, names, tree };
        Listed::save(dir.path(), &[pure]);
        let path = dir.path().join(NAME);
        assert_eq!(read(&path).expect("whole").get(&7), Some(&pure));
        let bytes = fs::read(&path).expect("read");
        for at in 0..bytes.len() {
            let mut bytes = bytes.clone();
            bytes[at] ^= 1;
            fs::write(&path, &bytes).expect("written");
            assert!(read(&path).is_none(), "{at}");
            fs::write(&path, &bytes[..at]).expect("written");
            assert!(read(&path).is_none(), "{at}");
        }
    }

    #[test]
    fn a_directory_that_may_change_in_the_same_tick_is_not_remembered() {
        let dir = tempfile::tempdir().expect("a directory");
        let stat = sys::lstat(dir.path()).expect("there");
        let changed = SystemTime::UNIX_EPOCH + Duration::from_nanos(DirStamp::of(&stat).mtime.cast_unsigned());
        let settled = |after| DirStamp::settled(&stat, changed + after).is_some();
        assert!(!settled(Duration::ZERO) && !settled(TICK / 2) && settled(COARSE));
        assert!(
            DirStamp::settled(&stat, changed - TICK).is_none(),
            "a clock that goes backwards"
        );
    }
}
