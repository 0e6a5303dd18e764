use std::{
    collections::HashSet,
    io::{self, Write as _},
    os::fd::{AsFd as _, BorrowedFd},
};

use bstr::{BStr, BString, ByteSlice as _};
use gix::{hash::oid, objs::tree::EntryKind};
use rustix::{
    fs::{self as sys, Access, AtFlags, Mode, OFlags},
    io::Errno,
};

use super::{
    Contents, SYNC_EACH, TransitionError,
    place::{Place, STAGE_IN_ROOT, mount_of},
};
use crate::{
    repo::TreeChange,
    workspace::{
        FileStat,
        beneath::{NoParent, Seen, Spot, read_at, stat_at, step, sync_dir},
        journal::{Act, Move, Plan},
    },
};

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
pub(in crate::workspace) fn stage(
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
        let put = Act::Put(Seen::default());
        let in_the_way = || TransitionError::InTheWay { path: path.to_owned() };
        let act = match (change.from, change.to) {
            (None, None) => return a_move(None, Act::Nothing),
            (Some((EntryKind::Commit, _)), Some((EntryKind::Commit, _))) => Act::Nothing,
            (Some((EntryKind::Commit, _)), None) => Act::RemoveDirectory,
            (Some((EntryKind::Commit, _)), Some(_)) => match &seen {
                None => put,
                Some(seen) if seen.is_dir() && self.is_empty(path)? => Act::PutInDirectory(Seen::default()),
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
        let before = seen.filter(|_| !matches!(act, Act::Nothing | Act::PutInDirectory(_) | Act::RemoveDirectory));
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
            Act::Put(seen) | Act::PutInDirectory(seen) => *seen = written,
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

pub(super) fn staged_name(n: usize) -> BString {
    n.to_string().into()
}

pub(super) fn removed_name(n: usize) -> BString {
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
