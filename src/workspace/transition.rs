//! The files of a workspace, from one commit to another, in two steps between which the ref moves.
//!
//! [`prepare`] looks whether it can be done without losing anything, puts the new contents beside the workspace and writes a journal; nothing is visible then.
//! The caller moves the ref, and [`Prepared::finish`] gives the contents their places. Who is killed in between leaves the journal: whoever locks the workspace
//! next finishes ([`recover`]) if the ref has moved, and forgets it otherwise.
//!
//! The agent may write at any moment. So a file is never overwritten: the new one and the old one change places, and what came out is compared with what was
//! there when it was prepared. If it is something else, the agent's is put back.

use std::{
    collections::{BTreeSet, HashSet},
    io::{self, Write as _},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use bstr::{BStr, BString, ByteSlice as _};
use gix::{
    hash::{ObjectId, oid},
    objs::tree::EntryKind,
};
use rustix::{
    fs::{self as sys, Access, AtFlags, Mode, OFlags, StatxFlags},
    io::Errno,
};

use super::{
    FileStat, Held, TrackedFile, WorkspaceError,
    beneath::{
        self, Beneath, NoParent, Seen, Spot, exchange, read_at, remove_all, rename_new, stat_at, step, sync_dir,
    },
    journal::{Act, Move, Plan},
};
use crate::{
    base::Fault,
    repo::{OdbError, RefValue, TreeChange},
};

/// Where new contents wait, in the worktree's git directory.
const STAGE: &str = "gitstead-stage";
/// Where they wait in the worktree itself, if its git directory is on another file system.
pub(super) const STAGE_IN_ROOT: &str = ".gitstead-stage";
/// With more files than this, one flush of the file system is cheaper than one of each.
const SYNC_EACH: usize = 48;
/// How long git may have the index locked before it is left as it is.
const INDEX_WAIT: Duration = Duration::from_secs(2);

/// Why the files of a workspace cannot follow a commit. Nothing has changed then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransitionError {
    /// Something that is not tracked, or is ignored, is where something shall come.
    #[error("'{path}' is in the way and is saved nowhere")]
    InTheWay {
        /// What is in the way.
        path: BString,
    },
    /// A file is not as the commit that the workspace is at has it.
    #[error("'{path}' has changes that are saved nowhere")]
    Unsaved {
        /// The file.
        path: BString,
    },
    /// A name that git refuses, or that is `.git` on some system.
    #[error("'{path}' is not a path that a workspace may have")]
    Illegal {
        /// The path.
        path: BString,
    },
    /// A link could lead anywhere.
    #[error("'{path}' is a symbolic link where a directory is needed")]
    Link {
        /// The link.
        path: BString,
    },
    /// The permissions of a directory forbid it.
    #[error("the directory of '{path}' cannot be written to")]
    Denied {
        /// The file.
        path: BString,
    },
    /// Something is mounted in the workspace.
    #[error("'{path}' is on another file system")]
    Elsewhere {
        /// The file.
        path: BString,
    },
    /// The repository lacks an object of the commit.
    #[error("the content of '{path}' ({id}) is missing")]
    Missing {
        /// The file.
        path: BString,
        /// What it should hold.
        id: ObjectId,
    },
    /// The workspace could not be read.
    #[error(transparent)]
    Workspace(#[from] WorkspaceError),
    /// The objects could not be read.
    #[error("the objects of the workspace's repository")]
    Objects(#[from] OdbError),
    /// A file operation failed.
    #[error("{doing} {path}", path = path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To which directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl TransitionError {
    /// Whose move it is.
    pub fn fault(&self) -> Fault {
        match self {
            TransitionError::InTheWay { .. }
            | TransitionError::Unsaved { .. }
            | TransitionError::Illegal { .. }
            | TransitionError::Link { .. }
            | TransitionError::Denied { .. }
            | TransitionError::Elsewhere { .. } => Fault::Client,
            TransitionError::Missing { .. } => Fault::Corrupt,
            TransitionError::Workspace(err) => err.fault(),
            TransitionError::Objects(err) => err.fault(),
            TransitionError::Io { .. } => Fault::Ours,
        }
    }

    /// What a client may be told: no path of ours.
    pub fn public_text(&self) -> String {
        match self {
            TransitionError::Workspace(WorkspaceError::Busy { .. }) => "the workspace is in use".to_owned(),
            TransitionError::Workspace(_) | TransitionError::Objects(_) | TransitionError::Io { .. } => {
                "the workspace could not be updated".to_owned()
            }
            told => told
                .to_string()
                .chars()
                .map(|c| if c.is_control() { '?' } else { c })
                .collect(),
        }
    }
}

/// What files hold: objects, through whatever the workspace's attributes say.
pub(super) trait Contents {
    /// The bytes of a file or the target of a link, as they stand in the workspace.
    fn bytes(&mut self, path: &BStr, kind: EntryKind, id: &oid) -> Result<Vec<u8>, TransitionError>;
    /// Whether the file that was seen is known to hold this, without looking into it.
    fn is_known(&mut self, path: &BStr, kind: EntryKind, id: &oid, stat: &FileStat) -> bool;
    /// Whether bytes of a file become this object when they are recorded.
    fn records_as(&mut self, path: &BStr, kind: EntryKind, id: &oid, bytes: &[u8]) -> Result<bool, TransitionError>;
    /// Whether a file that is not there is not missed (sparse checkouts).
    fn is_skipped(&mut self, path: &BStr) -> bool;
}

/// What became of the files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Applied {
    /// The paths that are now as the commit has them.
    pub(crate) updated: Vec<BString>,
    /// The paths that are not, and why. What is there is the agent's, and the next checkpoint records it.
    pub(crate) left: Vec<(BString, &'static str)>,
}

/// Files that wait for a ref. If it is dropped, the journal stays, and whoever locks the workspace next asks the ref.
#[derive(Debug)]
#[must_use]
pub(crate) struct Prepared {
    plan: Plan,
}

/// Makes everything ready for the files to go from one tree to another. `changes` are the paths in which the trees differ, and the workspace is at the first.
pub(crate) fn prepare(
    held: &mut Held<'_>,
    changes: &[TreeChange],
    to_commit: &oid,
    reference: &BStr,
    from_commit: Option<&oid>,
) -> Result<Prepared, TransitionError> {
    let (root, git_dir) = (held.root().to_owned(), held.git_dir().to_owned());
    let place = Place::open(&root, &git_dir)?;
    let mut contents = super::contents::Stored::new(held, changes)?;
    match stage(&place, &mut contents, changes, to_commit, reference, from_commit) {
        Ok(plan) => Ok(Prepared { plan }),
        Err(err) => {
            // What stays is removed by whoever locks the workspace next.
            let _ = forget(&root, &git_dir);
            Err(err)
        }
    }
}

impl Prepared {
    /// How many files will change.
    pub(crate) fn len(&self) -> usize {
        self.plan.moves.iter().filter(|m| m.act != Act::Nothing).count()
    }

    /// Gives the contents their places. The ref has moved: what cannot be placed is told, and is no reason to stop.
    pub(crate) fn finish(self, held: &mut Held<'_>) -> Result<Applied, TransitionError> {
        let (root, git_dir) = (held.root().to_owned(), held.git_dir().to_owned());
        let place = Place::open_as(&root, &git_dir, self.plan.stage_in_root)?;
        finish_at(held, &place, &self.plan)
    }

    /// Forgets it: the ref did not move.
    pub(crate) fn abandon(self, held: &mut Held<'_>) {
        let git_dir = held.git_dir().to_owned();
        if let Err(error) = forget(held.root(), &git_dir) {
            tracing::warn!(%error, path = %git_dir.display(), "what was prepared for a workspace is left for its next user to remove");
        }
    }
}

fn finish_at(held: &mut Held<'_>, place: &Place, plan: &Plan) -> Result<Applied, TransitionError> {
    let fates = apply(place, plan).map_err(|source| place.io("change the files of", source))?;
    let applied = track(held, place, plan, &fates)?;
    settle(place, plan).map_err(|source| place.io("tidy up after changing the files of", source))?;
    Ok(applied)
}

/// Finishes or forgets what a killed process has left. What it did, if it finished something.
pub(super) fn recover(held: &mut Held<'_>) -> Result<Option<Applied>, WorkspaceError> {
    let (root, git_dir) = (held.root().to_owned(), held.git_dir().to_owned());
    if !is_left_over(&root, &git_dir) {
        return Ok(None);
    }
    let io = |source| WorkspaceError::Io {
        doing: "finish what another process began in",
        path: root.clone(),
        source,
    };
    if let Some(plan) = Plan::read(&git_dir).map_err(io)? {
        let value = held.repository().ref_value(plan.reference.as_bstr())?;
        if value == RefValue::Id(plan.to) {
            let as_workspace = |err| match err {
                TransitionError::Workspace(err) => err,
                TransitionError::Objects(err) => err.into(),
                other => io(io::Error::other(other)),
            };
            let place = Place::open_as(&root, &git_dir, plan.stage_in_root).map_err(as_workspace)?;
            let applied = finish_at(held, &place, &plan).map_err(as_workspace)?;
            tracing::info!(
                path = %root.display(), updated = applied.updated.len(), left = applied.left.len(),
                "finished what another process began"
            );
            return Ok(Some(applied));
        }
    }
    forget(&root, &git_dir).map_err(io)?;
    Ok(None)
}

/// Whether there is something to finish or to tidy up.
pub(super) fn is_left_over(root: &Path, git_dir: &Path) -> bool {
    Plan::exists(git_dir)
        || std::fs::symlink_metadata(git_dir.join(STAGE)).is_ok()
        || std::fs::symlink_metadata(root.join(STAGE_IN_ROOT)).is_ok()
}

/// Removes journal and stage.
fn forget(root: &Path, git_dir: &Path) -> io::Result<()> {
    Plan::remove(git_dir)?;
    remove_all(Beneath::open(git_dir)?.root(), STAGE.into())?;
    remove_all(Beneath::open(root)?.root(), STAGE_IN_ROOT.into())
}

/// Where it happens.
pub(super) struct Place {
    root: PathBuf,
    git_dir: PathBuf,
    files: Beneath,
    stage_in_root: bool,
    /// Device and mount of the worktree: nothing can be renamed from one to another.
    mount: (u64, u64),
}

impl Place {
    pub(super) fn open(root: &Path, git_dir: &Path) -> Result<Self, TransitionError> {
        let mut place = Self::open_as(root, git_dir, false)?;
        let git = Beneath::open(git_dir).map_err(|source| place.io("open the git directory of", source))?;
        let other = mount_of(git.root()).map_err(|source| place.io("look at", source))?;
        place.stage_in_root = other != place.mount;
        Ok(place)
    }

    fn open_as(root: &Path, git_dir: &Path, stage_in_root: bool) -> Result<Self, TransitionError> {
        let io = |source| TransitionError::Io {
            doing: "open",
            path: root.to_owned(),
            source,
        };
        let files = Beneath::open(root).map_err(io)?;
        let mount = mount_of(files.root()).map_err(io)?;
        Ok(Place {
            root: root.to_owned(),
            git_dir: git_dir.to_owned(),
            files,
            stage_in_root,
            mount,
        })
    }

    fn io(&self, doing: &'static str, source: io::Error) -> TransitionError {
        let path = self.root.clone();
        TransitionError::Io { doing, path, source }
    }

    /// The directory that holds the stage, and the stage's name in it.
    fn stage_in(&self) -> io::Result<(OwnedFd, &'static BStr)> {
        let (dir, name) = if self.stage_in_root {
            (&self.root, STAGE_IN_ROOT)
        } else {
            (&self.git_dir, STAGE)
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok((sys::open(dir, flags, Mode::empty())?, name.into()))
    }

    /// An empty stage.
    fn new_stage(&self) -> io::Result<OwnedFd> {
        forget(&self.root, &self.git_dir)?;
        let (dir, name) = self.stage_in()?;
        step()?;
        sys::mkdirat(&dir, name.as_bytes(), Mode::RWXU)?;
        self.stage()?
            .ok_or_else(|| io::Error::other("a directory that was made is not there"))
    }

    fn stage(&self) -> io::Result<Option<OwnedFd>> {
        let (dir, name) = self.stage_in()?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match sys::openat(&dir, name.as_bytes(), flags, Mode::empty()) {
            Ok(stage) => Ok(Some(stage)),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            Err(err) => Err(err.into()),
        }
    }
}

fn mount_of(dir: BorrowedFd<'_>) -> io::Result<(u64, u64)> {
    let stat = sys::fstat(dir)?;
    // Kernels before 5.8 do not know mounts by number; there only the device counts, and a rename may fail later.
    let mount = sys::statx(dir, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).map_or(0, |s| s.stx_mnt_id);
    Ok((Seen::of(&stat).dev, mount))
}

/// What git refuses in an index, and what would be taken for `.git` on other systems.
fn check_path(path: &BStr, is_link: bool) -> Result<(), TransitionError> {
    let illegal = || TransitionError::Illegal { path: path.to_owned() };
    if path.len() > 4096 || path.contains(&0) {
        return Err(illegal());
    }
    let options = gix::validate::path::component::Options {
        protect_windows: false,
        protect_hfs: true,
        protect_ntfs: true,
    };
    let mut components = path.split(|b| *b == b'/').peekable();
    while let Some(component) = components.next() {
        let leaf = components.peek().is_none() && is_link;
        let mode = leaf.then_some(gix::validate::path::component::Mode::Symlink);
        gix::validate::path::component(component.as_bstr(), mode, options).map_err(|_| illegal())?;
        if component.len() > 255 {
            return Err(illegal());
        }
    }
    // Where new contents may wait.
    if path.split(|b| *b == b'/').next() == Some(STAGE_IN_ROOT.as_bytes()) {
        return Err(illegal());
    }
    Ok(())
}

/// Looks at every path, stages what is new, and writes the journal.
pub(super) fn stage(
    place: &Place,
    contents: &mut dyn Contents,
    changes: &[TreeChange],
    to_commit: &oid,
    reference: &BStr,
    from_commit: Option<&oid>,
) -> Result<Plan, TransitionError> {
    let goes = |change: &&TreeChange| matches!(change.from, Some((kind, _)) if kind != EntryKind::Commit);
    // What makes room for something else: files that go, and those that become directories of nested repositories do not.
    let leaving: HashSet<&BStr> = changes
        .iter()
        .filter(goes)
        .filter(|change| change.to.is_none())
        .map(|change| change.path.as_bstr())
        .collect();
    let mut plan = Plan {
        reference: reference.to_owned(),
        from: from_commit.map(ToOwned::to_owned),
        to: to_commit.to_owned(),
        stage_in_root: place.stage_in_root,
        moves: Vec::with_capacity(changes.len()),
    };
    for change in changes {
        let is_link = matches!(change.to, Some((EntryKind::Link, _)));
        check_path(change.path.as_bstr(), is_link)?;
        let step = Look {
            place,
            contents,
            leaving: &leaving,
        }
        .decide(change)?;
        plan.moves.push(step);
    }
    write_stage(place, contents, &mut plan)?;
    plan.write(&place.git_dir)
        .map_err(|source| place.io("write the journal of", source))?;
    Ok(plan)
}

struct Look<'a> {
    place: &'a Place,
    contents: &'a mut dyn Contents,
    leaving: &'a HashSet<&'a BStr>,
}

impl Look<'_> {
    fn decide(&mut self, change: &TreeChange) -> Result<Move, TransitionError> {
        let path = change.path.as_bstr();
        let unsaved = || TransitionError::Unsaved { path: path.to_owned() };
        let io = |source| self.place.io("look at the files of", source);
        let (mut spot, mut seen) = (None, None);
        match self.place.files.spot(path).map_err(io)? {
            Ok(found) => {
                seen = stat_at(found.dir.as_fd(), found.name).map_err(io)?;
                spot = Some(found);
            }
            Err(NoParent::Absent) => {}
            // A file or link that goes makes room for a directory.
            Err(NoParent::NotADirectory { at, .. }) if self.leaving.contains(at.as_bstr()) => {}
            Err(NoParent::NotADirectory { .. }) if change.from.is_some() => return Err(unsaved()),
            Err(NoParent::NotADirectory { at, link: true }) => return Err(TransitionError::Link { path: at }),
            Err(NoParent::NotADirectory { at, link: false }) => return Err(TransitionError::InTheWay { path: at }),
        }
        let a_move = |before, act| {
            Ok(Move {
                path: change.path.clone(),
                to: change.to,
                before,
                act,
            })
        };
        let put = Act::Put { dev: 0, ino: 0 };
        let in_the_way = || TransitionError::InTheWay { path: path.to_owned() };
        let act = match (change.from, change.to) {
            (None, None) => return a_move(None, Act::Nothing),
            (Some((EntryKind::Commit, _)), Some((EntryKind::Commit, _))) => Act::Nothing,
            (Some((EntryKind::Commit, _)), None) => Act::RemoveDirectory,
            (Some((EntryKind::Commit, _)), Some(_)) => match &seen {
                None => put,
                Some(seen) if seen.is_dir() && self.is_empty(path)? => Act::PutInDirectory { dev: 0, ino: 0 },
                Some(_) => return Err(in_the_way()),
            },
            (None, Some((EntryKind::Commit, _))) => match &seen {
                None => Act::MakeDirectory,
                Some(seen) if seen.is_dir() => Act::Nothing,
                Some(_) => return Err(in_the_way()),
            },
            (from, to) => match (&spot, &seen) {
                (Some(spot), Some(seen)) if !seen.is_dir() => {
                    if let Some((kind, id)) = to
                        && kind != EntryKind::Commit
                        && self.holds(spot, seen, path, kind, &id)?
                    {
                        return a_move(None, Act::Nothing);
                    }
                    let Some((kind, id)) = from else {
                        return Err(in_the_way());
                    };
                    if !self.holds(spot, seen, path, kind, &id)? {
                        return Err(unsaved());
                    }
                    match to {
                        None => Act::Remove,
                        Some((EntryKind::Commit, _)) => Act::RemoveThenMakeDirectory,
                        Some(_) => put,
                    }
                }
                // A directory where a file is tracked is the agent's doing. One where nothing is tracked makes room if all that is in it goes.
                (_, Some(_)) if from.is_some() => return Err(unsaved()),
                (_, Some(_)) => {
                    self.check_emptied(path)?;
                    seen = None;
                    put
                }
                (_, None) => match (from, to) {
                    (Some(_), None) => return a_move(None, Act::Nothing),
                    (Some(_), Some(_)) if self.contents.is_skipped(path) => return a_move(None, Act::Nothing),
                    (Some(_), Some(_)) => return Err(unsaved()),
                    (None, _) => put,
                },
            },
        };
        if act != Act::Nothing {
            self.check_writable(path)?;
        }
        let before = seen.filter(|_| !matches!(act, Act::Nothing | Act::PutInDirectory { .. } | Act::RemoveDirectory));
        a_move(before, act)
    }

    /// Whether a file holds this object, in the way in which the workspace holds it.
    fn holds(
        &mut self,
        spot: &Spot<'_>,
        seen: &Seen,
        path: &BStr,
        kind: EntryKind,
        id: &oid,
    ) -> Result<bool, TransitionError> {
        let is_of_kind = match kind {
            EntryKind::Link => seen.is_link(),
            EntryKind::BlobExecutable => seen.is_file() && seen.is_executable(),
            EntryKind::Blob => seen.is_file() && !seen.is_executable(),
            EntryKind::Tree | EntryKind::Commit => false,
        };
        if !is_of_kind {
            return Ok(false);
        }
        let io = |source| self.place.io("read the files of", source);
        match sys::statat(&spot.dir, spot.name.as_bytes(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if Seen::of(&stat) == *seen => {
                if self.contents.is_known(path, kind, id, &FileStat::of(&stat)) {
                    return Ok(true);
                }
            }
            Ok(_) | Err(Errno::NOENT) => return Ok(false),
            Err(err) => return Err(io(err.into())),
        }
        match read_at(spot.dir.as_fd(), spot.name, seen) {
            Ok(Some(bytes)) => self.contents.records_as(path, kind, id, &bytes),
            Ok(None) => Ok(false),
            // What cannot be read is not known to be saved.
            Err(err) if err.kind() == io::ErrorKind::PermissionDenied => Ok(false),
            Err(err) => Err(io(err)),
        }
    }

    fn is_empty(&self, path: &BStr) -> Result<bool, TransitionError> {
        let mut empty = true;
        let mut visit = |_: &BStr, _: &Seen| {
            empty = false;
            false
        };
        self.place
            .files
            .visit_below(path, &mut visit)
            .map_err(|source| self.place.io("look at the files of", source))?;
        Ok(empty)
    }

    /// Whether nothing remains in a directory but what goes anyway.
    fn check_emptied(&self, path: &BStr) -> Result<(), TransitionError> {
        let mut stays = None;
        let mut visit = |path: &BStr, seen: &Seen| {
            if !seen.is_dir() && !self.leaving.contains(path) {
                stays = Some(path.to_owned());
            }
            stays.is_none()
        };
        self.place
            .files
            .visit_below(path, &mut visit)
            .map_err(|source| self.place.io("look at the files of", source))?;
        match stays {
            Some(path) => Err(TransitionError::InTheWay { path }),
            None => Ok(()),
        }
    }

    /// Whether the lowest directory of a path that is there can be written to and is where the stage is.
    fn check_writable(&self, path: &BStr) -> Result<(), TransitionError> {
        let io = |source| self.place.io("look at the files of", source);
        let mut at = path;
        let dir = loop {
            match self.place.files.spot(at).map_err(io)? {
                Ok(spot) => break spot.dir,
                Err(_) => match at.rfind_byte(b'/') {
                    Some(slash) => at = at[..slash].as_bstr(),
                    None => return Ok(()),
                },
            }
        };
        match sys::accessat(&dir, ".", Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS) {
            Ok(()) => {}
            Err(Errno::ACCESS | Errno::ROFS | Errno::PERM) => {
                return Err(TransitionError::Denied { path: path.to_owned() });
            }
            Err(err) => return Err(io(err.into())),
        }
        if mount_of(dir.as_fd()).map_err(io)? != self.place.mount {
            return Err(TransitionError::Elsewhere { path: path.to_owned() });
        }
        Ok(())
    }
}

/// Writes every new content into the stage, durably, and notes in the plan by what it will be known again.
fn write_stage(place: &Place, contents: &mut dyn Contents, plan: &mut Plan) -> Result<(), TransitionError> {
    let io = |source| place.io("prepare the files of", source);
    let stage = place.new_stage().map_err(io)?;
    let count = plan.moves.iter().filter(|m| m.act.staged().is_some()).count();
    for (n, a_move) in plan.moves.iter_mut().enumerate() {
        let (true, Some((kind, id))) = (a_move.act.staged().is_some(), a_move.to) else {
            continue;
        };
        let bytes = contents.bytes(a_move.path.as_bstr(), kind, &id)?;
        let name = staged_name(n);
        let written = match kind {
            EntryKind::Link => write_link(stage.as_fd(), name.as_bstr(), &bytes),
            _ => write_file(
                stage.as_fd(),
                name.as_bstr(),
                &bytes,
                kind == EntryKind::BlobExecutable,
                count <= SYNC_EACH,
            ),
        };
        let written = match written {
            Err(err) if err.kind() == io::ErrorKind::InvalidInput => {
                return Err(TransitionError::Illegal {
                    path: a_move.path.clone(),
                });
            }
            other => other.map_err(io)?,
        };
        match &mut a_move.act {
            Act::Put { dev, ino } | Act::PutInDirectory { dev, ino } => (*dev, *ino) = (written.dev, written.ino),
            _ => {}
        }
    }
    step().map_err(io)?;
    if count > SYNC_EACH {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let whole = sys::openat(&stage, ".", flags, Mode::empty()).and_then(sys::syncfs);
        whole.map_err(|err| io(err.into()))?;
    }
    sync_dir(stage.as_fd()).map_err(io)
}

fn staged_name(n: usize) -> BString {
    n.to_string().into()
}

fn removed_name(n: usize) -> BString {
    format!("r{n}").into()
}

fn write_file(dir: BorrowedFd<'_>, name: &BStr, bytes: &[u8], executable: bool, sync: bool) -> io::Result<Seen> {
    let mode = if executable { 0o777 } else { 0o666 };
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    step()?;
    let mut file = std::fs::File::from(sys::openat(dir, name.as_bytes(), flags, Mode::from_raw_mode(mode))?);
    step()?;
    file.write_all(bytes)?;
    if sync {
        step()?;
        file.sync_all()?;
    }
    Ok(Seen::of(&sys::fstat(&file)?))
}

fn write_link(dir: BorrowedFd<'_>, name: &BStr, target: &[u8]) -> io::Result<Seen> {
    if target.is_empty() || target.contains(&0) || target.len() >= 4096 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    step()?;
    sys::symlinkat(target, dir, name.as_bytes())?;
    stat_at(dir, name)?.ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// What became of one path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Done,
    Left(&'static str),
}

const CHANGED: &str = "it was changed meanwhile";
const APPEARED: &str = "something is in its place";
const DENIED: &str = "it cannot be written";

/// Does all of a plan that is not done yet. Can be repeated: what is done is seen from the stage.
pub(super) fn apply(place: &Place, plan: &Plan) -> io::Result<Vec<Fate>> {
    let mut fates = vec![Fate::Done; plan.moves.len()];
    let Some(stage) = place.stage()? else { return Ok(fates) };
    let doing = Apply { place, stage };
    // Everything that goes, before anything that comes: what comes may need its room. Files before the directories that held them.
    for (n, a_move) in plan.moves.iter().enumerate().rev() {
        let result = match a_move.act {
            act if act.removes() => doing.remove(n, a_move),
            Act::RemoveDirectory => place.files.remove_empty_dir(a_move.path.as_bstr()).and_then(|_| {
                place.files.prune_above(a_move.path.as_bstr())?;
                Ok(Fate::Done)
            }),
            _ => continue,
        };
        fates[n] = bearable(result)?;
    }
    for (n, a_move) in plan.moves.iter().enumerate() {
        let path = a_move.path.as_bstr();
        let result = match a_move.act {
            Act::Put { .. } => doing.put(n, a_move),
            Act::PutInDirectory { .. } => place.files.remove_empty_dir(path).and_then(|_| doing.put(n, a_move)),
            Act::MakeDirectory | Act::RemoveThenMakeDirectory if fates[n] == Fate::Done => doing.make_directory(path),
            _ => continue,
        };
        fates[n] = bearable(result)?;
    }
    for (n, a_move) in plan.moves.iter().enumerate() {
        if fates[n] == Fate::Done {
            fates[n] = bearable(doing.check(n, a_move))?;
        }
    }
    doing.make_durable(plan)?;
    Ok(fates)
}

/// What will be refused again the next time is a fate. What may not, such as a full disk, is an error: the journal stays.
fn bearable(result: io::Result<Fate>) -> io::Result<Fate> {
    match result {
        Err(err)
            if matches!(
                Errno::from_io_error(&err),
                Some(Errno::ACCESS | Errno::PERM | Errno::ROFS | Errno::XDEV | Errno::BUSY | Errno::NAMETOOLONG)
            ) =>
        {
            Ok(Fate::Left(DENIED))
        }
        other => other,
    }
}

struct Apply<'a> {
    place: &'a Place,
    stage: OwnedFd,
}

impl Apply<'_> {
    fn staged(&self, name: &BStr) -> io::Result<Option<Seen>> {
        stat_at(self.stage.as_fd(), name)
    }

    fn remove(&self, n: usize, a_move: &Move) -> io::Result<Fate> {
        let path = a_move.path.as_bstr();
        let name = removed_name(n);
        if self.staged(name.as_bstr())?.is_none()
            && let Ok(spot) = self.place.files.spot(path)?
        {
            match stat_at(spot.dir.as_fd(), spot.name)? {
                None => {}
                Some(seen) if Some(seen) == a_move.before => {
                    let to = (self.stage.as_fd(), name.as_bstr());
                    match rename_new((spot.dir.as_fd(), spot.name), to) {
                        Err(err) if err.kind() == io::ErrorKind::NotFound => {}
                        other => {
                            other?;
                        }
                    }
                }
                Some(_) => return Ok(Fate::Left(CHANGED)),
            }
        }
        self.place.files.prune_above(path)?;
        Ok(Fate::Done)
    }

    fn put(&self, n: usize, a_move: &Move) -> io::Result<Fate> {
        let Some(staged) = a_move.act.staged() else {
            return Ok(Fate::Done);
        };
        let name = staged_name(n);
        let is_ours = |seen: Option<Seen>| seen.is_some_and(|seen| seen.is_same_inode(staged));
        if !is_ours(self.staged(name.as_bstr())?) {
            // It has its place already.
            return Ok(Fate::Done);
        }
        let path = a_move.path.as_bstr();
        let spot = match a_move.before {
            // Where the file was, there is its directory, unless the agent has moved it.
            Some(_) => self.place.files.spot(path)?,
            None => self.place.files.spot_made(path)?,
        };
        let Ok(spot) = spot else {
            return Ok(Fate::Left(APPEARED));
        };
        let (from, to) = ((self.stage.as_fd(), name.as_bstr()), (spot.dir.as_fd(), spot.name));
        let Some(before) = a_move.before else {
            if stat_at(to.0, to.1)?.is_some_and(|seen| seen.is_dir()) {
                self.place.files.prune_below(path)?;
            }
            return Ok(if rename_new(from, to)? {
                Fate::Done
            } else {
                Fate::Left(APPEARED)
            });
        };
        if stat_at(to.0, to.1)? != Some(before) {
            return Ok(Fate::Left(CHANGED));
        }
        match exchange(from, to) {
            Ok(true) => {}
            // The best that such a file system can do.
            Ok(false) => {
                step()?;
                sys::renameat(from.0, from.1.as_bytes(), to.0, to.1.as_bytes())?;
            }
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(Fate::Left(CHANGED)),
            Err(err) => return Err(err),
        }
        Ok(Fate::Done)
    }

    fn make_directory(&self, path: &BStr) -> io::Result<Fate> {
        let Ok(spot) = self.place.files.spot_made(path)? else {
            return Ok(Fate::Left(APPEARED));
        };
        step()?;
        match sys::mkdirat(&spot.dir, spot.name.as_bytes(), Mode::from_raw_mode(0o777)) {
            Ok(()) => Ok(Fate::Done),
            Err(Errno::EXIST) => match stat_at(spot.dir.as_fd(), spot.name)? {
                Some(seen) if seen.is_dir() => Ok(Fate::Done),
                _ => Ok(Fate::Left(APPEARED)),
            },
            Err(err) => Err(err.into()),
        }
    }

    /// Looks at what came out: if the agent has written to it, or has put another file there just before, it goes back, unless there is something newer.
    fn check(&self, n: usize, a_move: &Move) -> io::Result<Fate> {
        let Some(before) = a_move.before else {
            return Ok(Fate::Done);
        };
        let removes = a_move.act.removes();
        let name = if removes { removed_name(n) } else { staged_name(n) };
        let out = self.staged(name.as_bstr())?;
        let Some(out) = out.filter(|out| *out != before) else {
            return Ok(Fate::Done);
        };
        let staged = a_move.act.staged();
        if staged.is_some_and(|staged| out.is_same_inode(staged)) {
            return Ok(Fate::Left(CHANGED));
        }
        let from = (self.stage.as_fd(), name.as_bstr());
        if removes {
            let kept = match self.place.files.spot_made(a_move.path.as_bstr())? {
                Ok(spot) => rename_new(from, (spot.dir.as_fd(), spot.name))?,
                Err(_) => false,
            };
            return Ok(if kept { Fate::Left(CHANGED) } else { Fate::Done });
        }
        let (Ok(spot), Some(staged)) = (self.place.files.spot(a_move.path.as_bstr())?, staged) else {
            return Ok(Fate::Done);
        };
        let to = (spot.dir.as_fd(), spot.name);
        let is_ours = |seen: Option<Seen>| seen.is_some_and(|seen| seen.is_same_inode(staged));
        if !is_ours(stat_at(to.0, to.1)?) {
            // Newer still.
            return Ok(Fate::Left(CHANGED));
        }
        match exchange(from, to) {
            Ok(_) => {}
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(Fate::Left(CHANGED)),
            Err(err) => return Err(err),
        }
        // If something newer has come out, it goes back in turn.
        if !is_ours(self.staged(name.as_bstr())?) {
            let _ = exchange(from, to);
        }
        Ok(Fate::Left(CHANGED))
    }

    fn make_durable(&self, plan: &Plan) -> io::Result<()> {
        let parents: BTreeSet<&BStr> = plan
            .moves
            .iter()
            .filter(|m| m.act != Act::Nothing)
            .map(|m| match m.path.rfind_byte(b'/') {
                Some(slash) => m.path[..slash].as_bstr(),
                None => "".into(),
            })
            .collect();
        step()?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = |dir: BorrowedFd<'_>, name: &[u8]| sys::openat(dir, name, flags, Mode::empty());
        if parents.len() > SYNC_EACH {
            sys::syncfs(open(self.place.files.root(), b".")?)?;
            return Ok(());
        }
        for path in parents {
            let opened = if path.is_empty() {
                open(self.place.files.root(), b".")
            } else {
                match self.place.files.spot(path)? {
                    Ok(spot) => open(spot.dir.as_fd(), spot.name),
                    Err(_) => continue,
                }
            };
            // What has gone, or must not be read, is not ours to flush.
            if let Ok(dir) = opened {
                sys::fsync(dir)?;
            }
        }
        Ok(())
    }
}

/// Lets the index say what is there now.
fn track(held: &mut Held<'_>, place: &Place, plan: &Plan, fates: &[Fate]) -> Result<Applied, TransitionError> {
    let mut applied = Applied::default();
    let now = SystemTime::now();
    if plan.moves.iter().any(|a_move| a_move.path.ends_with(b".gitattributes")) {
        held.state.attributes = None;
    }
    let tracked = held.tracked()?;
    for (a_move, fate) in plan.moves.iter().zip(fates) {
        let path = a_move.path.as_bstr();
        if a_move.to.is_none() && tracked.get(path).is_some() {
            tracked.remove(path);
        }
        match fate {
            Fate::Done => applied.updated.push(a_move.path.clone()),
            Fate::Left(why) => applied.left.push((a_move.path.clone(), why)),
        }
    }
    for (a_move, fate) in plan.moves.iter().zip(fates) {
        let (path, Some((kind, id))) = (a_move.path.as_bstr(), a_move.to) else {
            continue;
        };
        let stat = match place.files.spot(path) {
            Ok(Ok(spot)) => sys::statat(&spot.dir, spot.name.as_bytes(), AtFlags::SYMLINK_NOFOLLOW).ok(),
            _ => None,
        };
        // Only of what we put there is known what it holds. What was there already may be in the agent's hands.
        let known = match (fate, a_move.act.staged()) {
            (Fate::Done, Some(staged)) => stat.filter(|stat| Seen::of(stat).is_same_inode(staged)),
            _ => None,
        };
        let skipped = tracked
            .get(path)
            .map_or(0, |file| file.flags & TrackedFile::SKIP_WORKTREE);
        let stat = known.map(|stat| FileStat::of(&stat)).unwrap_or_default();
        let flags = match known {
            Some(_) if stat.is_fresh(now) => TrackedFile::RACY,
            Some(_) => 0,
            None => skipped | TrackedFile::RACY,
        };
        let file = TrackedFile { id, stat, kind, flags };
        tracked.set(path, file);
    }
    let deadline = Instant::now() + INDEX_WAIT;
    loop {
        match held.write_index()? {
            Ok(()) => break,
            Err(_) if Instant::now() < deadline => std::thread::park_timeout(Duration::from_millis(5)),
            Err(age) => {
                // The files say it, too: whoever looks at them next finds the same.
                tracing::warn!(path = %place.root.display(), ?age, "the index is locked by another program and was not brought up to date");
                break;
            }
        }
    }
    Ok(applied)
}

/// Nothing is left to be done.
pub(super) fn settle(place: &Place, plan: &Plan) -> io::Result<()> {
    debug_assert_eq!(place.stage_in_root, plan.stage_in_root);
    forget(&place.root, &place.git_dir)
}
