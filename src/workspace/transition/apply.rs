use std::{
    collections::BTreeSet,
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

use bstr::{BStr, ByteSlice as _};
use rustix::{
    fs::{self as sys, Mode, OFlags},
    io::Errno,
};

use super::{
    SYNC_EACH,
    look::{removed_name, staged_name},
    place::Place,
};
use crate::workspace::{
    beneath::{Seen, exchange, rename_new, stat_at, step},
    journal::{Act, Move, Plan},
};

/// What became of one path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::workspace) enum Fate {
    Done,
    Left(&'static str),
}

const CHANGED: &str = "it was changed meanwhile";
const APPEARED: &str = "something is in its place";
const DENIED: &str = "it cannot be written";

/// Does all of a plan that is not done yet. Can be repeated: what is done is seen from the stage.
pub(in crate::workspace) fn apply(place: &Place, plan: &Plan) -> io::Result<Vec<Fate>> {
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
            Act::Put(_) => doing.put(n, a_move),
            Act::PutInDirectory(_) => place.files.remove_empty_dir(path).and_then(|_| doing.put(n, a_move)),
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
        let is_ours = |seen: Option<Seen>| seen.is_some_and(|seen| seen.is_same_inode(&staged));
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
        if staged.is_some_and(|staged| out.is_same_inode(&staged)) {
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
        let is_ours = |seen: Option<Seen>| seen.is_some_and(|seen| seen.is_same_inode(&staged));
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
