//! From files to objects: what a scan found is read, and the resident index follows.

use std::{
    io::Read,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Instant, SystemTime},
};

use bstr::{BString, ByteSlice};
use gix::{
    hash::ObjectId,
    objs::{Kind, tree::EntryKind},
};
use rustix::{
    fs::{self as sys, AtFlags, FileType, Mode, OFlags},
    io::Errno,
};

use super::{
    Filters, Found, Held, Progress, SkipReason, Tracked, WorkspaceError, filter,
    found::ScanResult,
    index_file::IndexStamp,
    listed::Listed,
    reach,
    scan::{Scan, Scope},
    tracked::{Dir, FileStat, Node, TrackedFile},
    watch::Changed,
};
use crate::repo::{ObjectSink, SinkForm, TreeChange, WriteError};

/// How often a file that changes while it is read is read again.
const ATTEMPTS: usize = 3;
/// Files, and bytes, that are worth a second thread.
const WORTH_A_THREAD: (usize, u64) = (16, 1 << 20);
/// Files that get an object file each; more of them become a pack.
const LOOSE_FILES: usize = 128;
const LOOSE_BYTES: u64 = 32 << 20;
/// Files that a watch does not tell of; with more of them a scan costs no more.
const MOST_UNWATCHED: usize = 2_000;

/// Says whether a new file is left out, before it is read (no content) and after.
pub(crate) type Policy<'a> = &'a (dyn Fn(&Found, Option<&[u8]>) -> Option<SkipReason> + Sync);

/// The state of a workspace as objects that are not published yet.
#[derive(Debug)]
pub(crate) struct Captured {
    pub(crate) sink: ObjectSink,
    pub(crate) tree: ObjectId,
    /// In what it differs from another tree, if that is known.
    pub(crate) since: Option<(ObjectId, Vec<TreeChange>)>,
    pub(crate) skipped: Vec<(BString, SkipReason)>,
    /// How many files were read.
    pub(crate) read: usize,
    pub(crate) looked: Looked,
    pub(crate) warnings: Vec<String>,
}

/// How changes were found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Looked {
    /// A watch knew where to look.
    Watch,
    /// Every file was looked at.
    Scan,
    /// Every file was looked at, since the watch had lost track.
    ScanAfterOverflow,
}

/// What became of a file that was to be read.
enum Taken {
    Kept(TrackedFile, Option<SkipReason>),
    Skipped(SkipReason),
    Gone,
}

impl Held<'_> {
    /// Reads what changed and makes it objects, trees included: what `git add -A && git write-tree` would make of the workspace. Nothing is published, and no
    /// index on disk is changed.
    ///
    /// # Errors
    /// When the index or the root cannot be read; when objects cannot be written. What keeps a single file from being read is in the result.
    pub(crate) fn capture(&mut self, policy: Policy<'_>) -> Result<Captured, CaptureError> {
        let seen = AtomicUsize::new(0);
        let mut warnings = Vec::new();
        let began = Instant::now();
        let (mut scope, mut looked) = self.plan(&mut warnings)?;
        self.begin_change();
        let mut read = 0;
        let mut kept = None;
        // Once more if a file has got a second name: only a scan knows the first. And once more if the index names objects that are nowhere: their files are
        // read anew.
        for _ in 0..3 {
            let result = self.scan(&scope, &seen)?;
            let bytes: u64 = result.found.iter().map(|found| found.size).sum();
            let form = match result.found.len() > LOOSE_FILES || bytes > LOOSE_BYTES {
                true => SinkForm::Pack,
                false => SinkForm::Loose,
            };
            let sink = match kept.take() {
                Some(sink) => sink,
                None => self.repository().object_sink(form)?,
            };
            read += result.found.len();
            self.forget_skipped(&scope);
            let told = self.state.unwatched.len();
            self.take_over(result, &sink, policy)?;
            if scope != Scope::Everything && self.state.unwatched.len() > told {
                (scope, looked) = (Scope::Everything, Looked::Scan);
                kept = Some(sink);
                continue;
            }
            let tracked = self.known();
            let mut missing = Vec::new();
            let tree = write_trees(&mut tracked.root, &sink, &mut BString::default(), &mut missing)?;
            if missing.is_empty() {
                self.state.complete = true;
                if looked != Looked::Watch {
                    self.state.scanned = Some(began);
                }
                let since = self.end_change();
                return Ok(Captured {
                    sink,
                    tree,
                    since,
                    skipped: self
                        .state
                        .skipped
                        .iter()
                        .map(|(path, why)| (path.clone(), *why))
                        .collect(),
                    read,
                    looked,
                    warnings,
                });
            }
            for path in &missing {
                tracked.restat(path.as_bstr(), FileStat::default(), TrackedFile::RACY);
            }
            scope = Scope::Paths(missing);
            kept = Some(sink);
        }
        Err(CaptureError::Workspace(WorkspaceError::Damaged {
            what: "the index",
            path: self.workspace().index_path(),
            why: "it names objects that the repository does not have".to_owned(),
        }))
    }

    /// Where to look: where the watch has seen something, if it has always been there and nothing else has changed.
    fn plan(&mut self, warnings: &mut Vec<String>) -> Result<(Scope, Looked), WorkspaceError> {
        self.tracked()?;
        // Without it this is not the workspace but the place where it was: a volume that is not mounted has no files, and they are not deleted.
        if std::fs::symlink_metadata(self.root().join(".git")).is_err() {
            let path = self.root().to_owned();
            return Err(WorkspaceError::NotAWorkspace { path });
        }
        let excludes = IndexStamp::at(&self.repository().common_dir().join("info/exclude"))?;
        let same_rules = self.state.excludes == excludes;
        self.state.excludes = excludes;
        let rescan = self.workspace().options.rescan;
        let recent = self.state.scanned.is_some_and(|when| when.elapsed() < rescan);
        let complete = std::mem::take(&mut self.state.complete) && same_rules && recent;
        let Some(watch) = &self.state.watch else {
            return Ok((Scope::Everything, Looked::Scan));
        };
        match watch.take() {
            Changed::Paths(mut paths) if complete => {
                // What could not be read in peace, or at all, is tried again.
                let again = self
                    .state
                    .skipped
                    .iter()
                    .filter(|(_, why)| matches!(why, SkipReason::Changing | SkipReason::Unreadable));
                paths.extend(again.map(|(path, _)| path.clone()));
                if self.state.unwatched.len() > MOST_UNWATCHED {
                    return Ok((Scope::Everything, Looked::Scan));
                }
                paths.extend(self.state.unwatched.iter().cloned());
                paths.sort_unstable();
                paths.dedup();
                Ok((Scope::Paths(paths), Looked::Watch))
            }
            Changed::Paths(_) => Ok((Scope::Everything, Looked::Scan)),
            Changed::Lost => {
                warnings.push("more changed at once than the watch could follow: everything was looked at".to_owned());
                Ok((Scope::Everything, Looked::ScanAfterOverflow))
            }
            Changed::Unwatched(errno) => {
                self.state.watch = None;
                let hint = match errno {
                    Errno::NOSPC | Errno::MFILE => {
                        "; raise fs.inotify.max_user_watches (sysctl) to make checkpoints fast"
                    }
                    _ => "",
                };
                warnings.push(format!(
                    "the system does not watch all directories ({errno}): every file is looked at{hint}"
                ));
                Ok((Scope::Everything, Looked::Scan))
            }
        }
    }

    /// What was said about paths that are looked at again does not hold any more.
    fn forget_skipped(&mut self, scope: &Scope) {
        match scope {
            Scope::Everything => {
                self.state.skipped.clear();
                self.state.unwatched.clear();
            }
            Scope::Paths(paths) => {
                for path in paths {
                    if path.is_empty() {
                        self.state.skipped.clear();
                    }
                    self.state.skipped.remove(path);
                    let mut prefix = path.clone();
                    prefix.push(b'/');
                    let below: Vec<_> = self
                        .state
                        .skipped
                        .range(prefix.clone()..)
                        .map(|(path, _)| path)
                        .take_while(|path| path.starts_with(&prefix))
                        .cloned()
                        .collect();
                    for path in below {
                        self.state.skipped.remove(&path);
                    }
                }
            }
        }
    }

    fn scan(&mut self, scope: &Scope, seen: &AtomicUsize) -> Result<ScanResult, WorkspaceError> {
        let workspace = self.workspace();
        let (Some(tracked), watch) = (&self.state.tracked, &self.state.watch) else {
            return Ok(ScanResult::default());
        };
        let enter = |dir: &bstr::BStr| {
            if let Some(watch) = watch {
                watch.enter(dir);
            }
            if let Some(progress) = &workspace.options.progress {
                let files = seen.load(Ordering::Relaxed);
                progress(Progress::Looked { files });
            }
        };
        // Worth it only where everything is looked at.
        let listed = match scope {
            Scope::Everything => sys::open(&workspace.root, reach::DIRECTORY, Mode::empty())
                .ok()
                .and_then(|root| Listed::load(workspace.git_dir(), &root)),
            Scope::Paths(_) => None,
        };
        let result = Scan {
            root: &workspace.root,
            common_dir: workspace.repository.common_dir(),
            core: &workspace.repository.settings().core,
            tracked,
            listed: listed.as_ref(),
            threads: workspace.options.threads,
            files: workspace.options.files,
            enter: &enter,
            seen,
        }
        .run(scope)?;
        if listed.is_some() && Listed::is_worth_writing(result.listed.len(), result.unlisted.len()) {
            Listed::save(
                workspace.git_dir(),
                &[&result.listed[..], &result.unlisted[..]].concat(),
            );
        }
        Ok(result)
    }

    /// Reads what was found, and makes the resident index say so.
    fn take_over(&mut self, result: ScanResult, sink: &ObjectSink, policy: Policy<'_>) -> Result<(), CaptureError> {
        let ScanResult {
            mut found,
            removed,
            nested,
            skipped: passed,
            attributes,
            unwatched,
            listed: _,
            unlisted: _,
        } = result;
        self.state.unwatched.extend(unwatched);
        self.state.skipped.extend(passed);
        let filters = self.filters(attributes)?;
        let root = sys::open(&self.workspace().root, reach::DIRECTORY, Mode::empty())
            .map_err(|err| WorkspaceError::io("open", self.root())(err.into()))?;
        let taken = self.read_all(&root, &found, sink, policy, &filters)?;
        let mut skipped = Vec::new();
        for path in &removed {
            self.put(path.as_bstr(), None);
        }
        for (number, one) in taken {
            let path = found.get_mut(number).map(|found| std::mem::take(&mut found.path));
            let path = path.unwrap_or_default();
            match one {
                Taken::Kept(file, why) => {
                    self.put(path.as_bstr(), Some(file));
                    skipped.extend(why.map(|why| (path, why)));
                }
                Taken::Skipped(why) => skipped.push((path, why)),
                Taken::Gone => self.put(path.as_bstr(), None),
            }
        }
        for (path, id) in nested {
            let file = TrackedFile {
                id,
                stat: FileStat::default(),
                kind: EntryKind::Commit,
                flags: 0,
            };
            self.put(path.as_bstr(), Some(file));
        }
        self.state.skipped.extend(skipped);
        Ok(())
    }

    /// The conversions that hold now: by the attributes that are tracked and those that were found.
    pub(crate) fn filters(&mut self, found: Vec<BString>) -> Result<Filters, WorkspaceError> {
        let workspace = self.workspace();
        let known = &mut self.state.attributes;
        if known.is_none() {
            let mut files = std::collections::BTreeSet::new();
            self.known().for_each(&mut |path, _| {
                if path == ".gitattributes" || path.ends_with(b"/.gitattributes") {
                    files.insert(path.to_owned());
                }
            });
            self.state.attributes = Some(files);
        }
        self.state.attributes.get_or_insert_default().extend(found);
        let files = self.attributes_with(Default::default())?;
        Ok(Filters::new(&workspace.repository, &workspace.root, files))
    }

    /// The attributes that are known, those in `other` instead of those in files of that path; `None` for a file that is not to count.
    pub(super) fn attributes_with(
        &self,
        mut other: std::collections::HashMap<BString, Option<Vec<u8>>>,
    ) -> Result<Vec<(BString, Vec<u8>)>, WorkspaceError> {
        let workspace = self.workspace();
        let mut files = Vec::new();
        let mut root = None;
        for path in self.state.attributes.iter().flatten() {
            if other.contains_key(path) {
                continue;
            }
            let root = match &root {
                Some(root) => root,
                None => root.insert(
                    sys::open(&workspace.root, reach::DIRECTORY, Mode::empty())
                        .map_err(|err| WorkspaceError::io("open", &workspace.root)(err.into()))?,
                ),
            };
            if let Some(bytes) = reach::read_small(root, path.as_bstr(), filter::MAX_BYTES) {
                files.push((path.clone(), bytes));
            }
        }
        files.extend(other.drain().filter_map(|(path, bytes)| Some((path, bytes?))));
        Ok(files)
    }

    fn read_all(
        &mut self,
        root: &impl std::os::fd::AsFd,
        found: &[Found],
        sink: &ObjectSink,
        policy: Policy<'_>,
        filters: &Filters,
    ) -> Result<Vec<(usize, Taken)>, CaptureError> {
        let root = root.as_fd();
        let limit = self.workspace().options.file_bytes;
        let threads = self.workspace().options.threads.max(1);
        let repository = self.repository().clone();
        let progress = self.workspace().options.progress.clone();
        let tracked: &Tracked = self.known();
        let bytes: u64 = found.iter().map(|found| found.size).sum();
        let threads = match found.len() > WORTH_A_THREAD.0 || (found.len() > 1 && bytes > WORTH_A_THREAD.1) {
            true => threads,
            false => 1,
        };
        let next = AtomicUsize::new(0);
        let failure: Mutex<Option<CaptureError>> = Mutex::new(None);
        let work = || {
            let mut taken = Vec::new();
            let mut reader = Reader {
                root,
                limit,
                sink,
                policy,
                filters: filters.worker(),
                converts: filters.is_active(),
                odb: None,
                content: Vec::new(),
            };
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let Some(one) = found.get(number) else { break };
                if let Some(progress) = &progress {
                    let (files, of) = (number, found.len());
                    progress(Progress::Read { files, of });
                }
                if reader.converts && reader.odb.is_none() {
                    reader.odb = repository.odb().ok();
                }
                match reader.take(one, tracked.get(one.path.as_bstr())) {
                    Ok(one) => taken.push((number, one)),
                    Err(err) => {
                        next.store(found_end(), Ordering::Relaxed);
                        failure
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .get_or_insert(err);
                        break;
                    }
                }
            }
            taken
        };
        let taken = std::thread::scope(|scope| {
            let helpers: Vec<_> = (1..threads)
                .filter_map(|_| {
                    std::thread::Builder::new()
                        .name("gitstead-read".into())
                        .spawn_scoped(scope, work)
                        .ok()
                })
                .collect();
            let mut taken = work();
            for helper in helpers {
                match helper.join() {
                    Ok(mut part) => taken.append(&mut part),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
            taken
        });
        match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(err) => Err(err),
            None => Ok(taken),
        }
    }
}

/// Past every list of files, and far from overflow.
fn found_end() -> usize {
    usize::MAX / 2
}

/// Reads files, one after the other.
struct Reader<'a> {
    root: std::os::fd::BorrowedFd<'a>,
    limit: u64,
    sink: &'a ObjectSink,
    policy: Policy<'a>,
    filters: super::FilterWorker,
    converts: bool,
    odb: Option<crate::repo::Odb>,
    content: Vec<u8>,
}

impl Reader<'_> {
    fn take(&mut self, found: &Found, known: Option<&TrackedFile>) -> Result<Taken, CaptureError> {
        let path = &found.path;
        if found.is_new
            && let Some(why) = (self.policy)(found, None)
        {
            return Ok(Taken::Skipped(why));
        }
        if found.size > self.limit {
            return Ok(Taken::Skipped(SkipReason::TooLarge));
        }
        let mut why = None;
        let mut attempt = 0;
        let (stat, began) = loop {
            attempt += 1;
            let began = SystemTime::now();
            match self.read(found) {
                Ok(Some((stat, true))) => break (stat, began),
                Ok(Some((stat, false))) if attempt == ATTEMPTS => {
                    why = Some(SkipReason::Changing);
                    break (stat, began);
                }
                Ok(Some((_, false))) => {}
                // Another kind of thing by now: a later checkpoint sees it.
                Ok(None) => return Ok(Taken::Skipped(SkipReason::Changing)),
                Err(Errno::NOENT | Errno::NOTDIR) => return Ok(Taken::Gone),
                Err(Errno::LOOP) if attempt < ATTEMPTS => {}
                Err(Errno::FBIG) => return Ok(Taken::Skipped(SkipReason::TooLarge)),
                Err(_) => return Ok(Taken::Skipped(SkipReason::Unreadable)),
            }
        };
        if found.is_new
            && found.kind != EntryKind::Link
            && let Some(why) = (self.policy)(found, Some(&self.content))
        {
            return Ok(Taken::Skipped(why));
        }
        let odb = &self.odb;
        let mut indexed = |out: &mut Vec<u8>| match (odb, known) {
            (Some(odb), Some(known)) => matches!(odb.read(&known.id, out), Ok(Some(Kind::Blob))),
            _ => false,
        };
        let id = match found.kind {
            EntryKind::Link => self.sink.write(Kind::Blob, &self.content)?,
            _ => match self.filters.clean(path.as_bstr(), &self.content, &mut indexed) {
                Ok(content) => self.sink.write(Kind::Blob, &content)?,
                Err(_) => {
                    why.get_or_insert(SkipReason::Encoding);
                    self.sink.write(Kind::Blob, &self.content)?
                }
            },
        };
        let mut flags = 0;
        if why == Some(SkipReason::Changing) || stat.is_fresh(began) {
            flags |= TrackedFile::RACY;
        }
        let second = began
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs();
        if u64::from(stat.mtime.0) >= second {
            flags |= TrackedFile::SAME_SECOND;
        }
        let kind = found.kind;
        let file = TrackedFile { id, stat, kind, flags };
        Ok(Taken::Kept(file, why))
    }

    /// Reads a file into `content`. Says what it looked like then, and whether it was the same before, during and after; `None` when it is not what it was found to be.
    fn read(&mut self, found: &Found) -> Result<Option<(FileStat, bool)>, Errno> {
        self.content.clear();
        let (dir, name) = match found.path.rfind_byte(b'/') {
            Some(slash) => (&found.path[..slash], &found.path[slash + 1..]),
            None => (&b""[..], found.path.as_slice()),
        };
        if found.kind == EntryKind::Link {
            let dir = reach::open_beneath(&self.root, dir.as_bstr(), OFlags::PATH | reach::DIRECTORY)?;
            let target = match sys::readlinkat(&dir, name, std::mem::take(&mut self.content)) {
                Err(Errno::INVAL) => return Ok(None),
                other => other?,
            };
            self.content = target.into_bytes();
            let stat = sys::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
            let stat = FileStat::of(&stat);
            return Ok(Some((stat, stat.size as usize == self.content.len())));
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = reach::open_beneath(&self.root, found.path.as_bstr(), flags)?;
        let before = sys::fstat(&fd)?;
        if FileType::from_raw_mode(before.st_mode) != FileType::RegularFile {
            return Ok(None);
        }
        let size = u64::try_from(before.st_size).unwrap_or(0);
        if size > self.limit {
            return Err(Errno::FBIG);
        }
        self.content
            .reserve(usize::try_from(size).unwrap_or(0).saturating_add(1));
        let file = std::fs::File::from(fd);
        let read = (&file)
            .take(self.limit.saturating_add(1))
            .read_to_end(&mut self.content);
        read.map_err(|err| Errno::from_io_error(&err).unwrap_or(Errno::IO))?;
        if self.content.len() as u64 > self.limit {
            return Err(Errno::FBIG);
        }
        let after = FileStat::of(&sys::fstat(&file)?);
        let steady = FileStat::of(&before) == after && self.content.len() as u64 == size;
        Ok(Some((after, steady)))
    }
}

/// Writes the tree of a directory and of those below that have changed. Files whose objects are nowhere go to `missing`. What an index
/// says of trees and objects is not believed: nobody checks it, and what is not there must not get into a commit.
fn write_trees(
    dir: &mut Dir,
    sink: &ObjectSink,
    path: &mut BString,
    missing: &mut Vec<BString>,
) -> Result<ObjectId, WriteError> {
    if let Some(id) = dir.tree {
        if dir.trusted || sink.has(&id)? {
            dir.trusted = true;
            return Ok(id);
        }
        dir.tree = None;
    }
    let len = path.len();
    let mut ids = Vec::new();
    for (name, below) in dir.dirs_mut() {
        path.extend_from_slice(name);
        path.push(b'/');
        ids.push(write_trees(below, sink, path, missing)?);
        path.truncate(len);
    }
    let mut ids_by_name = ids.into_iter();
    // Directories in the order of their names, as they were written.
    let mut tree_of = vec![None; dir.nodes().len()];
    for (slot, (_, node)) in tree_of.iter_mut().zip(dir.nodes()) {
        if matches!(node, Node::Dir(_)) {
            *slot = ids_by_name.next();
        }
    }
    let mut out = Vec::with_capacity(dir.nodes().len() * 40);
    let mut unknown = false;
    for at in dir.in_tree_order() {
        let (name, node) = dir.node(at);
        let (kind, id) = match node {
            Node::File(file) if file.has(TrackedFile::INTENT) => continue,
            Node::File(file) => {
                if !dir.trusted && file.kind != EntryKind::Commit && !sink.has(&file.id)? {
                    let mut path = path.clone();
                    path.extend_from_slice(name);
                    missing.push(path);
                    unknown = true;
                }
                (file.kind, file.id)
            }
            Node::Dir(_) => match tree_of.get(at as usize).copied().flatten() {
                // A directory in which nothing has a content yet is in no tree.
                Some(id) if id == ObjectId::empty_tree(id.kind()) => continue,
                Some(id) => (EntryKind::Tree, id),
                None => continue,
            },
        };
        let mode: &[u8] = match kind {
            EntryKind::Tree => b"40000",
            EntryKind::Blob => b"100644",
            EntryKind::BlobExecutable => b"100755",
            EntryKind::Link => b"120000",
            EntryKind::Commit => b"160000",
        };
        out.extend_from_slice(mode);
        out.push(b' ');
        out.extend_from_slice(name);
        out.push(0);
        out.extend_from_slice(id.as_slice());
    }
    let id = sink.write(Kind::Tree, &out)?;
    if !unknown {
        dir.tree = Some(id);
        dir.trusted = true;
    }
    Ok(id)
}

/// Why a workspace could not be captured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaptureError {
    /// The workspace could not be read.
    #[error(transparent)]
    Workspace(#[from] WorkspaceError),
    /// Objects could not be written.
    #[error("cannot write the objects of the workspace")]
    Write(#[from] WriteError),
}

impl CaptureError {
    /// Whose move it is.
    pub fn fault(&self) -> crate::base::Fault {
        match self {
            CaptureError::Workspace(source) => source.fault(),
            CaptureError::Write(source) => source.fault(),
        }
    }
}
