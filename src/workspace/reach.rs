//! Reaching what is beneath a root, without following any link on the way.

use std::{
    ffi::OsStr,
    io::Read,
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use bstr::{BStr, BString, ByteSlice, ByteVec};
use rustix::{
    fs::{self as sys, AtFlags, Mode, OFlags, ResolveFlags},
    io::Errno,
};

pub(super) const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Opens a path beneath a directory without following any symbolic link.
pub(super) fn open_beneath(root: &impl AsFd, path: &BStr, flags: OFlags) -> Result<OwnedFd, Errno> {
    let path: &[u8] = if path.is_empty() { b"." } else { path };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    match sys::openat2(root, path, flags, Mode::empty(), resolve) {
        // An old system, or a sandbox that does not know the call.
        Err(Errno::NOSYS | Errno::PERM) => {}
        other => return other,
    }
    let mut names = path.split(|b| *b == b'/').peekable();
    let mut dir: Option<OwnedFd> = None;
    while let Some(name) = names.next() {
        let flags = if names.peek().is_none() { flags } else { DIRECTORY };
        let opened = match &dir {
            Some(dir) => sys::openat(dir, name, flags | OFlags::NOFOLLOW, Mode::empty())?,
            None => sys::openat(root, name, flags | OFlags::NOFOLLOW, Mode::empty())?,
        };
        dir = Some(opened);
    }
    dir.ok_or(Errno::NOENT)
}

/// What is at a path beneath a directory; `None` if nothing. An error is no such answer: nothing is gone because it may not be looked at.
pub(super) fn stat(root: &OwnedFd, path: &BStr) -> Result<Option<sys::Stat>, Errno> {
    let (dir, name) = match path.rfind_byte(b'/') {
        Some(slash) => (&path.as_bytes()[..slash], &path.as_bytes()[slash + 1..]),
        None => (&b""[..], path.as_bytes()),
    };
    let there = open_beneath(root, dir.as_bstr(), OFlags::PATH | DIRECTORY)
        .and_then(|dir| sys::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW));
    match there {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NAMETOOLONG) => Ok(None),
        Err(err) => Err(err),
    }
}

/// A regular file of a few bytes.
pub(super) fn read_small(root: &impl AsFd, path: &BStr, most: u64) -> Option<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = std::fs::File::from(open_beneath(root, path, flags).ok()?);
    let meta = file.metadata().ok()?;
    if !meta.is_file() || meta.len() > most {
        return None;
    }
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

pub(super) fn join(dir: &BStr, name: &[u8]) -> BString {
    let mut path = BString::new(Vec::with_capacity(dir.len() + 1 + name.len()));
    if !dir.is_empty() {
        path.push_str(dir);
        path.push_byte(b'/');
    }
    path.push_str(name);
    path
}

pub(super) fn as_path(path: &BStr) -> &Path {
    Path::new(OsStr::from_bytes(path))
}
