//! git's index file (gitformat-index(5)): read in any version that git writes, written as version 2, or 3 where an entry's flags need it.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::MetadataExt,
    path::Path,
    time::{Duration, SystemTime},
};

use bstr::{BStr, ByteSlice};
use filetime::FileTime;
use gix::{
    hash::Kind as HashKind,
    index::{self, entry::Flags, entry::Mode},
    objs::tree::EntryKind,
};

use super::{
    WorkspaceError,
    scan::DEPTH,
    tracked::{Dir, FileStat, Node, Tracked, TrackedFile},
};
use crate::pack::Checksum;

/// No path of a file that the system would open is longer.
const MAX_PATH: usize = 4096;
/// An index larger than this is no workspace's.
const MAX_BYTES: u64 = 2 << 30;

/// Which index file it is: another one has another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct IndexStamp {
    ino: u64,
    size: u64,
    mtime: (i64, i64),
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
        }
    }
}

/// Reads the index at `path`. What it says about a file is believed as git believes it: not if the file was modified in the second in which the index was
/// written, or later.
///
/// Conflicts are no entries, but their paths stay tracked.
///
/// # Errors
/// `Damaged` when it is no index; `Unsupported` for a sparse index.
pub(crate) fn load(path: &Path, hash: HashKind) -> Result<(Tracked, Option<IndexStamp>), WorkspaceError> {
    let Some(before) = IndexStamp::at(path)? else {
        return Ok((Tracked::default(), None));
    };
    let damaged = |why: String| WorkspaceError::Damaged {
        what: "the index",
        path: path.to_owned(),
        why,
    };
    // A pipe would keep us waiting for ever.
    if !fs::metadata(path).is_ok_and(|meta| meta.is_file()) {
        return Err(damaged("it is not a file".to_owned()));
    }
    if before.size > MAX_BYTES {
        return Err(damaged("too large".to_owned()));
    }
    if before.size == 0 {
        return Ok((Tracked::default(), Some(before)));
    }
    let options = index::decode::Options {
        thread_limit: Some(1),
        ..index::decode::Options::default()
    };
    // As git does by default, its checksum is not asked for: every entry is held against the files anyway.
    // Read, not mapped: an agent may cut it short at any moment.
    let bytes = fs::read(path).map_err(WorkspaceError::io("read", path))?;
    let (seconds, nanoseconds) = before.mtime;
    let time = FileTime::from_unix_time(seconds, u32::try_from(nanoseconds).unwrap_or(0));
    let (state, _) = index::State::from_bytes(&bytes, time, hash, options).map_err(|err| damaged(err.to_string()))?;
    let file = match state.link() {
        None => state,
        // A split index is put together by gix.
        Some(_) => index::File::at(path, hash, true, options)
            .map_err(|err| damaged(err.to_string()))?
            .into(),
    };
    let written = u32::try_from(seconds).unwrap_or(u32::MAX);
    let mut entries: Vec<(&BStr, TrackedFile)> = Vec::with_capacity(file.entries().len());
    for entry in file.entries() {
        let path = entry.path(&file);
        if entry.mode == Mode::DIR {
            return Err(WorkspaceError::Unsupported { why: "is a sparse one" });
        }
        if path.iter().filter(|b| **b == b'/').count() > DEPTH {
            return Err(WorkspaceError::Unsupported {
                why: "has too many directories in one another",
            });
        }
        if path.len() > MAX_PATH || path.is_empty() {
            return Err(damaged("a path is too long".to_owned()));
        }
        let kind = match entry.mode {
            Mode::FILE => EntryKind::Blob,
            Mode::FILE_EXECUTABLE => EntryKind::BlobExecutable,
            Mode::SYMLINK => EntryKind::Link,
            Mode::COMMIT => EntryKind::Commit,
            _ => return Err(damaged(format!("'{path}' has a mode that is none"))),
        };
        if path
            .split(|b| *b == b'/')
            .any(|name| matches!(name, b"" | b"." | b".."))
        {
            return Err(damaged(format!("'{path}' is no path")));
        }
        if entries.last().is_some_and(|(last, _)| *last > path) {
            return Err(damaged(format!("'{path}' is not in order")));
        }
        let conflicted = entry.flags.contains(Flags::CONFLICTED) || entry.flags.stage_raw() != 0;
        if conflicted && entries.last().is_some_and(|(last, _)| *last == path) {
            continue;
        }
        let stat = FileStat {
            mtime: (entry.stat.mtime.secs, entry.stat.mtime.nsecs),
            ctime: (entry.stat.ctime.secs, entry.stat.ctime.nsecs),
            dev: entry.stat.dev,
            ino: entry.stat.ino,
            uid: entry.stat.uid,
            gid: entry.stat.gid,
            size: entry.stat.size,
        };
        let mut flags = 0;
        for (theirs, ours) in [
            (Flags::SKIP_WORKTREE, TrackedFile::SKIP_WORKTREE),
            (Flags::ASSUME_VALID, TrackedFile::ASSUME_VALID),
            (Flags::INTENT_TO_ADD, TrackedFile::INTENT),
        ] {
            if entry.flags.contains(theirs) {
                flags |= ours;
            }
        }
        if stat.mtime.0 >= written || conflicted {
            flags |= TrackedFile::RACY;
        }
        let stat = if conflicted { FileStat::default() } else { stat };
        let id = entry.id;
        entries.push((path, TrackedFile { id, stat, kind, flags }));
    }
    let mut root = build(&entries, 0);
    if let Some(tree) = file.tree() {
        trust(&mut root, tree);
    }
    Ok((Tracked::new(root), Some(before)))
}

/// The directory that entries with a common prefix of `at` bytes make.
fn build(entries: &[(&BStr, TrackedFile)], at: usize) -> Dir {
    let mut nodes: Vec<(Box<[u8]>, Node)> = Vec::new();
    let mut next = 0;
    while let Some((path, file)) = entries.get(next) {
        let rest: &[u8] = &path[at..];
        match rest.find_byte(b'/') {
            None => {
                nodes.push((rest.into(), Node::File(file.clone())));
                next += 1;
            }
            Some(slash) => {
                let prefix = &path[..at + slash + 1];
                let end = entries[next..].partition_point(|(path, _)| path.starts_with(prefix)) + next;
                let below = build(&entries[next..end], at + slash + 1);
                nodes.push((rest[..slash].into(), Node::Dir(Box::new(below))));
                next = end;
            }
        }
    }
    Dir::of(nodes)
}

/// Takes over what the extension TREE knows.
fn trust(dir: &mut Dir, tree: &index::extension::Tree) {
    if tree.num_entries.is_some() {
        dir.tree = Some(tree.id);
    }
    for (name, below) in dir.dirs_mut() {
        if let Some(known) = tree.children.iter().find(|child| child.name.as_slice() == name) {
            trust(below, known);
        }
    }
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
        hash: HashKind,
        durable: bool,
    ) -> Result<IndexStamp, WorkspaceError> {
        let bytes = encode(tracked, hash);
        let lock = self.lock.clone();
        self.file
            .write_all(&bytes)
            .map_err(WorkspaceError::io("write", &lock))?;
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

/// The index file of what is tracked.
fn encode(tracked: &Tracked, hash: HashKind) -> Vec<u8> {
    let mut extended = false;
    let mut count: u32 = 0;
    let mut out = Vec::with_capacity(32 + tracked.len() * 110);
    out.extend_from_slice(b"DIRC\0\0\0\0\0\0\0\0");
    tracked.for_each(&mut |path, file| {
        extended |= file.has(TrackedFile::SKIP_WORKTREE | TrackedFile::INTENT);
        count = count.saturating_add(1);
        encode_entry(path, file, &mut out);
    });
    out[4..8].copy_from_slice(&(if extended { 3u32 } else { 2 }).to_be_bytes());
    out[8..12].copy_from_slice(&count.to_be_bytes());
    let mut tree = Vec::new();
    encode_tree(b"", &tracked.root, &mut tree);
    if let Ok(len) = u32::try_from(tree.len()) {
        out.extend_from_slice(b"TREE");
        out.extend_from_slice(&len.to_be_bytes());
        out.extend_from_slice(&tree);
    }
    let checksum = Checksum::of(hash, &out);
    out.extend_from_slice(checksum.as_slice());
    out
}

fn encode_entry(path: &BStr, file: &TrackedFile, out: &mut Vec<u8>) {
    let start = out.len();
    let stat = &file.stat;
    // What git would take for clean by its seconds alone is made to look changed.
    let unsure = TrackedFile::RACY | TrackedFile::SAME_SECOND;
    let size = if file.has(unsure) { 0 } else { stat.size };
    let mode: u32 = match file.kind {
        EntryKind::Blob | EntryKind::Tree => 0o100_644,
        EntryKind::BlobExecutable => 0o100_755,
        EntryKind::Link => 0o120_000,
        EntryKind::Commit => 0o160_000,
    };
    for word in [
        stat.ctime.0,
        stat.ctime.1,
        stat.mtime.0,
        stat.mtime.1,
        stat.dev,
        stat.ino,
        mode,
        stat.uid,
        stat.gid,
        size,
    ] {
        out.extend_from_slice(&word.to_be_bytes());
    }
    out.extend_from_slice(file.id.as_slice());
    let mut flags = u16::try_from(path.len()).unwrap_or(u16::MAX).min(0xfff);
    if file.has(TrackedFile::ASSUME_VALID) {
        flags |= 0x8000;
    }
    let mut more = 0u16;
    if file.has(TrackedFile::SKIP_WORKTREE) {
        more |= 0x4000;
    }
    if file.has(TrackedFile::INTENT) {
        more |= 0x2000;
    }
    if more != 0 {
        flags |= 0x4000;
    }
    out.extend_from_slice(&flags.to_be_bytes());
    if more != 0 {
        out.extend_from_slice(&more.to_be_bytes());
    }
    out.extend_from_slice(path);
    let len = out.len() - start;
    out.resize(start + (len / 8 + 1) * 8, 0);
}

/// The extension TREE, depth first: a name, how many files are below and how many directories, and the id where it is known.
fn encode_tree(name: &[u8], dir: &Dir, out: &mut Vec<u8>) {
    let below: Vec<_> = dir
        .nodes()
        .iter()
        .filter_map(|(name, node)| match node {
            Node::Dir(dir) => Some((name, dir)),
            Node::File(_) => None,
        })
        .collect();
    out.extend_from_slice(name);
    out.push(0);
    match dir.tree {
        Some(_) => out.extend_from_slice(dir.files().to_string().as_bytes()),
        None => out.extend_from_slice(b"-1"),
    }
    out.push(b' ');
    out.extend_from_slice(below.len().to_string().as_bytes());
    out.push(b'\n');
    if let Some(id) = &dir.tree {
        out.extend_from_slice(id.as_slice());
    }
    for (name, dir) in below {
        encode_tree(name, dir, out);
    }
}
