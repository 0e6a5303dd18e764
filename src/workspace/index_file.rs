//! The file that git's index is: read whole, replaced whole under git's own lock.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read},
    os::unix::fs::{FileExt, MetadataExt},
    path::Path,
    time::{Duration, SystemTime},
};

use bstr::BString;
use gix::{hash::Kind as HashKind, index};

use super::{
    WorkspaceError,
    index_read::{self, Unread},
    index_write::{IndexForm, write},
    tracked::Tracked,
};

/// An index larger than this is no workspace's.
const MAX_BYTES: u64 = 2 << 30;

/// Which index file it is: another one has another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct IndexStamp {
    ino: u64,
    size: u64,
    mtime: (i64, i64),
    is_file: bool,
}

impl IndexStamp {
    /// Of the index at `path`; `None` if there is none.
    pub(crate) fn at(path: &Path) -> Result<Option<Self>, WorkspaceError> {
        match fs::metadata(path) {
            Ok(meta) => Ok(Some(Self::of(&meta))),
            Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(WorkspaceError::io("look at", path)(source)),
        }
    }

    fn of(meta: &fs::Metadata) -> Self {
        IndexStamp {
            ino: meta.ino(),
            size: meta.size(),
            mtime: (meta.mtime(), meta.mtime_nsec()),
            is_file: meta.is_file(),
        }
    }
}

/// Reads the index at `path`, and says which paths in it are `.gitattributes`. What it says about a file is believed as git believes it: not if the file was
/// modified in the second in which the index was written, or later.
///
/// Conflicts are no entries, but their paths stay tracked.
///
/// # Errors
/// `Damaged` when it is no index; `Unsupported` for a sparse index.
pub(crate) fn load(
    path: &Path,
    hash: HashKind,
    threads: usize,
) -> Result<(Tracked, Vec<BString>, Option<IndexStamp>), WorkspaceError> {
    let Some(before) = IndexStamp::at(path)? else {
        return Ok((Tracked::default(), Vec::new(), None));
    };
    let damaged = |why: String| WorkspaceError::Damaged {
        what: "the index",
        path: path.to_owned(),
        why,
    };
    // A pipe would keep us waiting for ever.
    if !before.is_file {
        return Err(damaged("it is not a file".to_owned()));
    }
    if before.size > MAX_BYTES {
        return Err(damaged("too large".to_owned()));
    }
    if before.size == 0 {
        return Ok((Tracked::default(), Vec::new(), Some(before)));
    }
    // As git does by default, its checksum is not asked for: every entry is held against the files anyway.
    // Read, not mapped: an agent may cut it short at any moment.
    let mut bytes = read_whole(path, threads).map_err(WorkspaceError::io("read", path))?;
    let written = u32::try_from(before.mtime.0).unwrap_or(u32::MAX);
    let mut parsed = index_read::parse(&bytes, hash, written, threads);
    if matches!(parsed, Err(Unread::Split)) {
        // A split index is put together by gix.
        let whole = index::File::at(path, hash, true, index::decode::Options::default())
            .map_err(|err| damaged(err.to_string()))?;
        bytes.clear();
        let options = index::write::Options::default();
        whole
            .write_to(&mut bytes, options)
            .map_err(|err| damaged(err.to_string()))?;
        parsed = index_read::parse(&bytes, hash, written, threads);
    }
    match parsed {
        Ok(parsed) => Ok((parsed.tracked, parsed.attributes, Some(before))),
        Err(Unread::Damaged(why)) => Err(damaged(why)),
        Err(Unread::Unsupported(why)) => Err(WorkspaceError::Unsupported { why }),
        Err(Unread::Split) => Err(damaged("it is split once more".to_owned())),
    }
}

/// Bytes of an index that are worth a second thread.
const WORTH_A_THREAD: u64 = 2 << 20;

/// The bytes of a file, read by two if they are many.
fn read_whole(path: &Path, threads: usize) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    if threads < 2 || size < WORTH_A_THREAD {
        let mut bytes = Vec::with_capacity(usize::try_from(size.min(WORTH_A_THREAD)).unwrap_or(0) + 1);
        (&mut file).take(MAX_BYTES).read_to_end(&mut bytes)?;
        return Ok(bytes);
    }
    let size = usize::try_from(size.min(MAX_BYTES)).map_err(|_| io::ErrorKind::FileTooLarge)?;
    let mut bytes = vec![0; size];
    let (first, second) = bytes.split_at_mut(size / 2);
    let half = first.len() as u64;
    std::thread::scope(|scope| {
        let rest = std::thread::Builder::new()
            .name("gitstead-index".into())
            .spawn_scoped(scope, || file.read_exact_at(second, half))?;
        file.read_exact_at(first, 0)?;
        match rest.join() {
            Ok(rest) => rest,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })?;
    Ok(bytes)
}

/// An index that has its name in a moment: the lock is held, the file is written.
pub(crate) struct IndexLock {
    lock: std::path::PathBuf,
    /// Its other name, by which whoever holds the workspace next knows it for one of ours.
    own: std::path::PathBuf,
    file: File,
    armed: bool,
}

/// The second name of a lock of ours, beside the index.
const OWN_LOCK: &str = "gitstead-index";

/// Whether there is a lock of ours, by somebody who is alive or not.
pub(super) fn has_own_lock(index: &Path) -> bool {
    fs::symlink_metadata(index.with_file_name(OWN_LOCK)).is_ok()
}

/// Removes the lock of a Gitstead that was killed, and no other. The caller holds the workspace, so nobody of ours is alive in there.
pub(super) fn break_own_lock(index: &Path) -> Result<(), WorkspaceError> {
    let own = index.with_file_name(OWN_LOCK);
    let inode = |path: &Path| fs::symlink_metadata(path).ok().map(|meta| (meta.dev(), meta.ino()));
    let Some(ours) = inode(&own) else { return Ok(()) };
    let mut lock = index.as_os_str().to_owned();
    lock.push(".lock");
    let lock = std::path::PathBuf::from(lock);
    if inode(&lock) == Some(ours) {
        fs::remove_file(&lock).map_err(WorkspaceError::io("remove", lock))?;
    }
    fs::remove_file(&own).map_err(WorkspaceError::io("remove", own))
}

impl IndexLock {
    /// Takes `<index>.lock`, as git does. `None` when somebody has it, and for how long.
    pub(crate) fn acquire(index: &Path) -> Result<Result<IndexLock, Duration>, WorkspaceError> {
        let mut lock = index.as_os_str().to_owned();
        lock.push(".lock");
        let lock = std::path::PathBuf::from(lock);
        break_own_lock(index)?;
        let own = index.with_file_name(OWN_LOCK);
        let create = |path: &Path| OpenOptions::new().write(true).read(true).create_new(true).open(path);
        let taken = create(&own).and_then(|file| match fs::hard_link(&own, &lock) {
            Ok(()) => Ok(file),
            Err(err) => {
                let _ = fs::remove_file(&own);
                // A file system without hard links.
                match err.kind() {
                    io::ErrorKind::AlreadyExists => Err(err),
                    _ => create(&lock),
                }
            }
        });
        match taken {
            Ok(file) => Ok(Ok(IndexLock {
                lock,
                own,
                file,
                armed: true,
            })),
            Err(err) if err.kind() == io::ErrorKind::AlreadyExists => {
                let since = fs::metadata(&lock).and_then(|meta| meta.modified());
                let age = since.map_or(Duration::ZERO, |since| {
                    SystemTime::now().duration_since(since).unwrap_or_default()
                });
                Ok(Err(age))
            }
            Err(source) => Err(WorkspaceError::io("lock", lock)(source)),
        }
    }

    /// Makes `tracked` the index, in one step.
    pub(crate) fn commit(
        mut self,
        tracked: &Tracked,
        index: &Path,
        form: &IndexForm,
        durable: bool,
    ) -> Result<IndexStamp, WorkspaceError> {
        let lock = self.lock.clone();
        write(tracked, form, &mut self.file).map_err(WorkspaceError::io("write", &lock))?;
        if durable {
            self.file.sync_all().map_err(WorkspaceError::io("flush", &lock))?;
        }
        fs::rename(&lock, index).map_err(WorkspaceError::io("replace", index))?;
        self.armed = false;
        let meta = self.file.metadata().map_err(WorkspaceError::io("look at", index))?;
        Ok(IndexStamp::of(&meta))
    }
}

impl Drop for IndexLock {
    fn drop(&mut self) {
        if self.armed {
            let _ = fs::remove_file(&self.lock);
        }
        let _ = fs::remove_file(&self.own);
    }
}
