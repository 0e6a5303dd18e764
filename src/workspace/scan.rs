//! Finds what is not as the resident index says: in the whole tree, or where a watch has seen something.

use std::{
    os::fd::OwnedFd,
    path::Path,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::SystemTime,
};

use bstr::{BStr, BString, ByteSlice};
use gix::{hash::ObjectId, objs::tree::EntryKind, validate::path::component};
use rustix::{
    fs::{self as sys, AtFlags, FileType, Mode, RawDir},
    io::Errno,
};

use super::{
    Found, SkipReason, WorkspaceError,
    found::ScanResult,
    ignore::{self, Ignores},
    listed::{Listed, Pure},
    reach::{DIRECTORY, as_path, join, open_beneath, read_small, stat},
    tracked::{Dir, FileStat, Node, Tracked, TrackedFile},
};
use crate::repo::CoreSettings;

/// Where to look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Scope {
    Everything,
    /// These paths, and what is below them if they are directories.
    Paths(Vec<BString>),
}

/// How to look.
pub(crate) struct Scan<'a> {
    pub(crate) root: &'a Path,
    pub(crate) common_dir: &'a Path,
    pub(crate) core: &'a CoreSettings,
    pub(crate) tracked: &'a Tracked,
    /// Directories that need not be listed, if they are worth to be known.
    pub(super) listed: Option<&'a Listed>,
    pub(crate) threads: usize,
    /// How many files there may be.
    pub(crate) files: usize,
    /// Told of every directory before it is read.
    pub(crate) enter: &'a (dyn Fn(&BStr) + Sync),
    /// How many files have been looked at.
    pub(crate) seen: &'a AtomicUsize,
}

/// A directory that is to be read.
struct Task<'t> {
    path: BString,
    tracked: Option<&'t Dir>,
    ignores: Ignores,
    /// Whether it is in a directory that is ignored: nothing in it is new.
    excluded: bool,
    /// The directory that it is in, until it is open, and then itself.
    fd: Option<Arc<OwnedFd>>,
}

/// What the threads of a scan share.
struct Shared<'t> {
    open: Mutex<Queue<'t>>,
    more: Condvar,
    /// Threads that have nothing to do.
    waiting: AtomicUsize,
    stop: AtomicBool,
}

struct Queue<'t> {
    tasks: Vec<Task<'t>>,
    busy: usize,
}

/// Directories that one thread has taken on.
struct Done<'s, 't> {
    shared: &'s Shared<'t>,
    below: Vec<Task<'t>>,
}

impl Drop for Done<'_, '_> {
    fn drop(&mut self) {
        self.shared.done(std::mem::take(&mut self.below));
    }
}

/// Directories in directories that are followed. What goes through trees does so by calling itself, on threads with little room.
pub(super) const DEPTH: usize = 400;
/// Directories in directories that are kept open for those in them.
const KEPT_OPEN: usize = 16;
/// Files that are worth a second thread.
const WORTH_A_THREAD: usize = 600;

impl Scan<'_> {
    /// Looks.
    ///
    /// # Errors
    /// `TooManyFiles`; when the root itself cannot be read. Everything else is in the result.
    pub(crate) fn run(&self, scope: &Scope) -> Result<ScanResult, WorkspaceError> {
        let io = |doing| WorkspaceError::io(doing, self.root);
        let root = sys::open(self.root, DIRECTORY, Mode::empty()).map_err(|err| io("open")(err.into()))?;
        let ignores = Ignores::of_repository(self.common_dir, self.core.ignore_case);
        let mut result = ScanResult::default();
        let mut tasks = Vec::new();
        match scope {
            Scope::Everything => tasks.push(Task {
                path: BString::default(),
                tracked: Some(self.tracked.root()),
                ignores,
                excluded: false,
                fd: None,
            }),
            Scope::Paths(paths) => {
                for path in paths {
                    self.look_at(&root, path.as_bstr(), &ignores, &mut tasks, &mut result);
                }
            }
        }
        let threads = match scope {
            Scope::Everything if self.tracked.len() == 0 || self.tracked.len() > WORTH_A_THREAD => self.threads,
            _ => 1,
        };
        result.append(self.drain(&root, tasks, threads.max(1))?);
        Ok(result)
    }

    fn drain<'t>(&'t self, root: &OwnedFd, tasks: Vec<Task<'t>>, threads: usize) -> Result<ScanResult, WorkspaceError> {
        let shared = Shared {
            open: Mutex::new(Queue { tasks, busy: 0 }),
            more: Condvar::new(),
            waiting: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
        };
        let work = || {
            let mut result = ScanResult::default();
            let mut buffer = Vec::with_capacity(64 << 10);
            while let Some(task) = shared.next() {
                // Counted as done also by a panic: the others would wait for ever.
                let mut done = Done {
                    shared: &shared,
                    below: vec![task],
                };
                while let Some(task) = done.below.pop() {
                    self.read_dir(root, task, &mut buffer, &mut done.below, &mut result);
                    if self.seen.load(Ordering::Relaxed) > self.files {
                        shared.stop.store(true, Ordering::Relaxed);
                    }
                    if shared.stop.load(Ordering::Relaxed) {
                        break;
                    }
                    if done.below.len() > 1 && shared.waiting.load(Ordering::Relaxed) > 0 {
                        // The first are nearest to the root, and have most below them.
                        let half = done.below.len() / 2;
                        shared.offer(done.below.drain(..half));
                    }
                }
            }
            result
        };
        let result = std::thread::scope(|scope| {
            // Without a thread to spare it takes longer.
            let helpers: Vec<_> = (1..threads)
                .filter_map(|_| {
                    std::thread::Builder::new()
                        .name("gitstead-scan".into())
                        .spawn_scoped(scope, work)
                        .ok()
                })
                .collect();
            let mut result = work();
            for helper in helpers {
                match helper.join() {
                    Ok(part) => result.append(part),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
            result
        });
        match shared.stop.load(Ordering::Relaxed) {
            true => Err(WorkspaceError::TooManyFiles { limit: self.files }),
            false => Ok(result),
        }
    }

    /// One path that a watch, or a hint, named.
    fn look_at<'t>(
        &'t self,
        root: &OwnedFd,
        path: &BStr,
        ignores: &Ignores,
        tasks: &mut Vec<Task<'t>>,
        result: &mut ScanResult,
    ) {
        let mut ignores = ignores.clone();
        let mut excluded = false;
        let mut dir = BString::default();
        let mut names = path.split(|b| *b == b'/').peekable();
        if path.is_empty() {
            tasks.push(Task {
                path: dir,
                tracked: Some(self.tracked.root()),
                ignores,
                excluded,
                fd: None,
            });
            return;
        }
        loop {
            // What is in a repository of its own is not ours.
            let tracked = self.tracked.dir(dir.as_bstr());
            if !dir.is_empty()
                && let Some(Node::File(file)) = self.tracked.node(dir.as_bstr())
                && file.kind == EntryKind::Commit
                && open_beneath(root, dir.as_bstr(), DIRECTORY).is_ok()
            {
                self.submodule(dir, file, result);
                return;
            }
            if !dir.is_empty() && tracked.is_none() {
                let git = join(dir.as_bstr(), b".git");
                if matches!(stat(root, git.as_bstr()), Ok(Some(_))) {
                    let opened = open_beneath(root, dir.as_bstr(), DIRECTORY);
                    if opened.is_ok() {
                        self.nested(
                            dir.as_bstr(),
                            excluded || self.is_ignored(&ignores, dir.as_bstr(), true),
                            result,
                        );
                    }
                    return;
                }
            }
            if let Some(bytes) = read_small(root, join(dir.as_bstr(), b".gitignore").as_bstr(), ignore::MAX_BYTES) {
                ignores = ignores.with(self.root, as_path(dir.as_bstr()), &bytes);
            }
            let Some(name) = names.next() else { return };
            if name == b".git" {
                return;
            }
            let next = join(dir.as_bstr(), name);
            if names.peek().is_none() {
                let node = tracked.and_then(|tracked| tracked.get(name));
                let there = match stat(root, next.as_bstr()) {
                    Ok(there) => there,
                    // It is not known to be gone.
                    Err(_) => {
                        result.skipped.push((next, SkipReason::Unreadable));
                        return;
                    }
                };
                let kind = there.map(|stat| FileType::from_raw_mode(stat.st_mode));
                let dir_task = Task {
                    path: dir,
                    tracked,
                    ignores,
                    excluded,
                    fd: None,
                };
                self.entry(&dir_task, name, kind, there, node, tasks, result);
                return;
            }
            if !excluded && self.is_ignored(&ignores, next.as_bstr(), true) {
                excluded = true;
                // Nothing tracked in it: nothing to do with it.
                if self.tracked.dir(next.as_bstr()).is_none() {
                    return;
                }
            }
            dir = next;
        }
    }

    fn is_ignored(&self, ignores: &Ignores, path: &BStr, is_dir: bool) -> bool {
        ignores.match_path(path, is_dir)
    }

    fn read_dir<'t>(
        &'t self,
        root: &OwnedFd,
        mut task: Task<'t>,
        buffer: &mut Vec<u8>,
        below: &mut Vec<Task<'t>>,
        result: &mut ScanResult,
    ) {
        if task.path.iter().filter(|b| **b == b'/').count() >= DEPTH {
            result.skipped.push((task.path, SkipReason::TooDeep));
            return;
        }
        (self.enter)(task.path.as_bstr());
        let opened = match &task.fd {
            Some(above) => {
                let name = task.path.rfind_byte(b'/').map_or(0, |slash| slash + 1);
                sys::openat(above, &task.path[name..], DIRECTORY, Mode::empty())
            }
            None => open_beneath(root, task.path.as_bstr(), DIRECTORY),
        };
        let fd = match opened {
            Ok(fd) => Arc::new(fd),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
                if let Some(tracked) = task.tracked {
                    gone(task.path.as_bstr(), tracked, result);
                }
                return;
            }
            Err(_) => {
                result.skipped.push((task.path, SkipReason::Unreadable));
                return;
            }
        };
        // Not kept open at every depth: a process has only so many.
        task.fd = (task.path.iter().filter(|b| **b == b'/').count() < KEPT_OPEN).then(|| fd.clone());
        let before = match (self.listed, task.tracked) {
            (Some(listed), Some(tracked)) => match sys::fstat(&fd) {
                Ok(stat) => {
                    if let Some(pure) = listed.still(&stat, tracked) {
                        self.unlisted(&fd, task, tracked, below, result);
                        result.unlisted.push(pure);
                        return;
                    }
                    listed.covers(&stat).then(|| (stat, SystemTime::now(), tracked))
                }
                Err(_) => None,
            },
            _ => None,
        };
        let mut entries: Vec<(Box<[u8]>, FileType)> = Vec::new();
        let mut iter = RawDir::new(&fd, buffer.spare_capacity_mut());
        while let Some(entry) = iter.next() {
            match entry {
                Ok(entry) => {
                    let name = entry.file_name().to_bytes();
                    if name != b"." && name != b".." {
                        entries.push((name.into(), entry.file_type()));
                    }
                }
                Err(_) => {
                    // Nothing is called gone that was not listed.
                    result.skipped.push((task.path, SkipReason::Unreadable));
                    return;
                }
            }
        }
        entries.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        let has = |name: &[u8]| entries.binary_search_by(|(known, _)| known.as_ref().cmp(name)).is_ok();
        if task.tracked.is_none() && has(b".git") && self.nested(task.path.as_bstr(), task.excluded, result) {
            return;
        }
        self.rules(&fd, &mut task, &has, result);
        self.seen.fetch_add(entries.len(), Ordering::Relaxed);
        let mut is_pure = true;
        let mut nodes = task.tracked.map_or(&[][..], Dir::nodes).iter().peekable();
        for (name, kind) in &entries {
            while let Some((gone_name, node)) = nodes.next_if(|(known, _)| **known < **name) {
                is_pure = false;
                self.missing(&task, gone_name, node, result);
            }
            let node = nodes.next_if(|(known, _)| **known == **name).map(|(_, node)| node);
            is_pure &= match (kind, node) {
                (FileType::Directory, Some(Node::Dir(_))) => true,
                (FileType::RegularFile | FileType::Symlink, Some(Node::File(_))) => true,
                (_, None) => name.as_ref() == b".git",
                _ => false,
            };
            self.entry_in(&fd, &task, name, *kind, node, below, result);
        }
        for (name, node) in nodes {
            is_pure = false;
            self.missing(&task, name, node, result);
        }
        if is_pure && let Some((stat, when, tracked)) = before {
            result.listed.extend(Pure::new(&stat, when, tracked));
        }
    }

    /// What the files in a directory say about those in it and below.
    fn rules(&self, fd: &OwnedFd, task: &mut Task<'_>, has: &dyn Fn(&[u8]) -> bool, result: &mut ScanResult) {
        if has(b".gitignore")
            && let Some(bytes) = read_small(fd, BStr::new(b".gitignore"), ignore::MAX_BYTES)
        {
            task.ignores = task.ignores.with(self.root, as_path(task.path.as_bstr()), &bytes);
        }
        if has(b".gitattributes") {
            result.attributes.push(join(task.path.as_bstr(), b".gitattributes"));
        }
    }

    /// A directory in which there is what is tracked, and nothing else.
    fn unlisted<'t>(
        &'t self,
        fd: &OwnedFd,
        mut task: Task<'t>,
        tracked: &'t Dir,
        below: &mut Vec<Task<'t>>,
        result: &mut ScanResult,
    ) {
        // They begin with a dot, and what begins with less is rare.
        let dots = tracked
            .nodes()
            .iter()
            .take_while(|(name, _)| name.first() <= Some(&b'.'));
        let has = |wanted: &[u8]| dots.clone().any(|(name, _)| **name == *wanted);
        self.rules(fd, &mut task, &has, result);
        self.seen.fetch_add(tracked.nodes().len(), Ordering::Relaxed);
        for (name, node) in tracked.nodes() {
            let kind = match node {
                Node::Dir(_) => FileType::Directory,
                Node::File(_) => FileType::RegularFile,
            };
            self.entry_in(fd, &task, name, kind, Some(node), below, result);
        }
    }

    /// A name in a directory that was listed.
    #[allow(clippy::too_many_arguments, reason = "the two ends of a comparison")]
    fn entry_in<'t>(
        &'t self,
        fd: &OwnedFd,
        task: &Task<'t>,
        name: &[u8],
        kind: FileType,
        node: Option<&'t Node>,
        below: &mut Vec<Task<'t>>,
        result: &mut ScanResult,
    ) {
        // Of what is not tracked a directory needs no stat, and what is ignored needs none.
        let needs_stat = match (kind, node) {
            (FileType::Unknown, _) | (_, Some(Node::File(_))) => true,
            (FileType::RegularFile | FileType::Symlink, Some(Node::Dir(_))) => true,
            (FileType::Directory, _) => false,
            (FileType::RegularFile | FileType::Symlink, None) => {
                if name == b".git" || task.excluded {
                    return;
                }
                let path = join(task.path.as_bstr(), name);
                if self.is_ignored(&task.ignores, path.as_bstr(), false) {
                    return;
                }
                true
            }
            _ => false,
        };
        let stat = match needs_stat {
            true => match sys::statat(fd, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => Some(stat),
                Err(Errno::NOENT) => {
                    if let Some(node) = node {
                        self.missing(task, name, node, result);
                    }
                    return;
                }
                Err(_) => {
                    let path = join(task.path.as_bstr(), name);
                    result.skipped.push((path, SkipReason::Unreadable));
                    return;
                }
            },
            false => None,
        };
        let kind = stat.map_or(kind, |stat| FileType::from_raw_mode(stat.st_mode));
        self.entry(task, name, Some(kind), stat, node, below, result);
    }

    /// What a name is now, and what it was.
    #[allow(clippy::too_many_arguments, reason = "the two ends of a comparison")]
    fn entry<'t>(
        &'t self,
        task: &Task<'t>,
        name: &[u8],
        kind: Option<FileType>,
        stat: Option<sys::Stat>,
        node: Option<&'t Node>,
        below: &mut Vec<Task<'t>>,
        result: &mut ScanResult,
    ) {
        if name == b".git" {
            return;
        }
        let linked = stat.is_some_and(|stat| stat.st_nlink > 1) && kind == Some(FileType::RegularFile);
        if let (Some(stat), Some(Node::File(file))) = (&stat, node)
            && self.is_clean(stat, file)
        {
            if linked {
                result.unwatched.push(join(task.path.as_bstr(), name));
            }
            return;
        }
        let path = join(task.path.as_bstr(), name);
        let Some(kind) = kind else {
            if let Some(node) = node {
                self.missing(task, name, node, result);
            }
            return;
        };
        let is_dir = kind == FileType::Directory;
        // What is tracked is not ignored, but what is new beside it may be.
        let asked = is_dir || !matches!(node, Some(Node::File(_)));
        let excluded = task.excluded || (asked && self.is_ignored(&task.ignores, path.as_bstr(), is_dir));
        match (kind, node) {
            (FileType::Directory, Some(Node::Dir(dir))) => below.push(Task {
                path,
                tracked: Some(dir),
                ignores: task.ignores.clone(),
                excluded,
                fd: task.fd.clone(),
            }),
            (FileType::Directory, Some(Node::File(file))) if file.kind == EntryKind::Commit => {
                self.submodule(path, file, result);
            }
            (FileType::Directory, node) => {
                if let Some(node) = node {
                    self.missing(task, name, node, result);
                }
                if excluded || !self.may_begin(name, &path, result) {
                    return;
                }
                below.push(Task {
                    path,
                    tracked: None,
                    ignores: task.ignores.clone(),
                    excluded,
                    fd: task.fd.clone(),
                });
            }
            (FileType::RegularFile | FileType::Symlink, node) => {
                let Some(stat) = stat else { return };
                let is_new = match node {
                    Some(Node::File(_)) => false,
                    other => {
                        if let Some(node) = other {
                            self.missing(task, name, node, result);
                        }
                        if excluded || !self.may_begin(name, &path, result) {
                            return;
                        }
                        true
                    }
                };
                let tracked_kind = match node {
                    Some(Node::File(file)) => Some(file.kind),
                    _ => None,
                };
                if linked {
                    result.unwatched.push(path.clone());
                }
                result.found.push(Found {
                    path,
                    kind: self.kind_of(&stat, tracked_kind),
                    stat: FileStat::of(&stat),
                    size: u64::try_from(stat.st_size).unwrap_or(0),
                    is_new,
                });
            }
            (_, node) => {
                if let Some(node) = node {
                    self.missing(task, name, node, result);
                }
                if !excluded {
                    result.skipped.push((path, SkipReason::Special));
                }
            }
        }
    }

    fn kind_of(&self, stat: &sys::Stat, tracked: Option<EntryKind>) -> EntryKind {
        if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
            return EntryKind::Link;
        }
        let executable = stat.st_mode & 0o100 != 0;
        match (self.core.file_mode, tracked) {
            (false, Some(kind @ (EntryKind::Blob | EntryKind::BlobExecutable))) => kind,
            (false, _) => EntryKind::Blob,
            (true, _) if executable => EntryKind::BlobExecutable,
            (true, _) => EntryKind::Blob,
        }
    }

    /// Whether a file is as it was when its content was hashed.
    fn is_clean(&self, stat: &sys::Stat, file: &TrackedFile) -> bool {
        file.has(TrackedFile::ASSUME_VALID)
            || !file.has(TrackedFile::RACY | TrackedFile::INTENT)
                && self.kind_of(stat, Some(file.kind)) == file.kind
                && is_same(&FileStat::of(stat), &file.stat)
    }

    /// Whether something new may have that name in git; says so where not.
    fn may_begin(&self, name: &[u8], path: &BString, result: &mut ScanResult) -> bool {
        let options = component::Options {
            protect_windows: false,
            protect_hfs: self.core.protect_hfs,
            protect_ntfs: self.core.protect_ntfs,
        };
        let legal = !name.eq_ignore_ascii_case(b".git")
            && gix::validate::path::component(name.as_bstr(), None, options).is_ok();
        if !legal {
            result.skipped.push((path.clone(), SkipReason::IllegalName));
        }
        legal
    }

    /// Something tracked that is not there, or not as a file.
    fn missing(&self, task: &Task<'_>, name: &[u8], node: &Node, result: &mut ScanResult) {
        let path = join(task.path.as_bstr(), name);
        match node {
            Node::File(file) if file.has(TrackedFile::SKIP_WORKTREE | TrackedFile::ASSUME_VALID) => {}
            Node::File(_) => result.removed.push(path),
            Node::Dir(dir) => gone(path.as_bstr(), dir, result),
        }
    }

    /// A repository that is tracked: the commit it is at, or nothing if it was never checked out.
    fn submodule(&self, path: BString, file: &TrackedFile, result: &mut ScanResult) {
        result.unwatched.push(path.clone());
        match self.commit_of(path.as_bstr()) {
            Some(Some(id)) if id != file.id => result.nested.push((path, id)),
            Some(_) => {}
            // As for git it stays what it was, but what is in it now is in no commit.
            None if std::fs::read_dir(self.root.join(as_path(path.as_bstr())))
                .is_ok_and(|mut dir| dir.next().is_some()) =>
            {
                result.skipped.push((path, SkipReason::EmptyRepository));
            }
            None => {}
        }
    }

    /// A directory that is not tracked and has a `.git` in it. Says whether it is a repository.
    fn nested(&self, path: &BStr, excluded: bool, result: &mut ScanResult) -> bool {
        match self.commit_of(path) {
            None => return false,
            Some(_) if excluded => return true,
            Some(Some(id)) => {
                result.skipped.push((path.to_owned(), SkipReason::NestedRepository));
                result.nested.push((path.to_owned(), id));
            }
            Some(None) => result.skipped.push((path.to_owned(), SkipReason::EmptyRepository)),
        }
        result.unwatched.push(path.to_owned());
        true
    }

    /// The commit that the repository at `path` is at: `None` if it is no repository, `Some(None)` if it has no commit.
    fn commit_of(&self, path: &BStr) -> Option<Option<ObjectId>> {
        use crate::repo::{Head, OpenError, OpenOptions, Repository};
        let git = self.root.join(as_path(path)).join(".git");
        // A pipe in the place of one of its files would keep us waiting for ever.
        let is_odd = |file: &str| {
            let meta = std::fs::metadata(git.join(file));
            meta.is_ok_and(|meta| !meta.is_file())
        };
        if ["HEAD", "config", "commondir", "packed-refs", "config.worktree"]
            .into_iter()
            .any(is_odd)
        {
            return Some(None);
        }
        match Repository::open(&git, &OpenOptions::default()) {
            Ok(repository) => Some(match repository.head(None) {
                Ok(Head::Symbolic { id, .. }) => id,
                Ok(Head::Detached(id)) => Some(id),
                _ => None,
            }),
            Err(OpenError::NotARepository { .. } | OpenError::Io { .. }) => None,
            Err(_) => Some(None),
        }
    }
}

impl<'t> Shared<'t> {
    fn queue(&self) -> MutexGuard<'_, Queue<'t>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self) -> Option<Task<'t>> {
        let mut queue = self.queue();
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return None;
            }
            if let Some(task) = queue.tasks.pop() {
                queue.busy += 1;
                return Some(task);
            }
            if queue.busy == 0 {
                return None;
            }
            self.waiting.fetch_add(1, Ordering::Relaxed);
            queue = self.more.wait(queue).unwrap_or_else(PoisonError::into_inner);
            self.waiting.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn offer(&self, tasks: impl Iterator<Item = Task<'t>>) {
        self.queue().tasks.extend(tasks);
        self.more.notify_all();
    }

    fn done(&self, mut below: Vec<Task<'t>>) {
        let mut queue = self.queue();
        queue.busy -= 1;
        queue.tasks.append(&mut below);
        drop(queue);
        self.more.notify_all();
    }
}

/// Everything tracked in a directory is gone.
fn gone(path: &BStr, dir: &Dir, result: &mut ScanResult) {
    for (name, node) in dir.nodes() {
        let path = join(path, name);
        match node {
            Node::File(file) if file.has(TrackedFile::SKIP_WORKTREE | TrackedFile::ASSUME_VALID) => {}
            Node::File(_) => result.removed.push(path),
            Node::Dir(dir) => gone(path.as_bstr(), dir, result),
        }
    }
}

/// As git compares: the device is not looked at, it changes when a file system is mounted again.
fn is_same(a: &FileStat, b: &FileStat) -> bool {
    FileStat { dev: 0, ..*a } == FileStat { dev: 0, ..*b }
}
