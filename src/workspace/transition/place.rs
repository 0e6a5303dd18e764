use std::{
    io,
    os::fd::{BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use bstr::{BStr, ByteSlice as _};
use rustix::{
    fs::{self as sys, AtFlags, Mode, OFlags, StatxFlags},
    io::Errno,
};

use super::TransitionError;
use crate::workspace::{
    beneath::{Beneath, Seen, remove_all, step},
    journal::Plan,
};

/// Where new contents wait, in the worktree's git directory.
const STAGE: &str = "gitstead-stage";
/// Where they wait in the worktree itself, if its git directory is on another file system.
pub(super) const STAGE_IN_ROOT: &str = ".gitstead-stage";

/// Where it happens.
pub(in crate::workspace) struct Place {
    pub(super) root: PathBuf,
    pub(super) git_dir: PathBuf,
    pub(super) files: Beneath,
    pub(super) stage_in_root: bool,
    /// Device and mount of the worktree: nothing can be renamed from one to another.
    pub(super) mount: (u64, u64),
}

impl Place {
    pub(in crate::workspace) fn open(root: &Path, git_dir: &Path) -> Result<Self, TransitionError> {
        let mut place = Self::open_as(root, git_dir, false)?;
        let git = Beneath::open(git_dir).map_err(|source| place.io("open the git directory of", source))?;
        let other = mount_of(git.root()).map_err(|source| place.io("look at", source))?;
        place.stage_in_root = other != place.mount;
        Ok(place)
    }

    pub(super) fn open_as(root: &Path, git_dir: &Path, stage_in_root: bool) -> Result<Self, TransitionError> {
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

    pub(super) fn io(&self, doing: &'static str, source: io::Error) -> TransitionError {
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
    pub(super) fn new_stage(&self) -> io::Result<OwnedFd> {
        forget(&self.root, &self.git_dir)?;
        let (dir, name) = self.stage_in()?;
        step()?;
        sys::mkdirat(&dir, name.as_bytes(), Mode::RWXU)?;
        self.stage()?
            .ok_or_else(|| io::Error::other("a directory that was made is not there"))
    }

    pub(super) fn stage(&self) -> io::Result<Option<OwnedFd>> {
        let (dir, name) = self.stage_in()?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match sys::openat(&dir, name.as_bytes(), flags, Mode::empty()) {
            Ok(stage) => Ok(Some(stage)),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            Err(err) => Err(err.into()),
        }
    }
}

pub(super) fn mount_of(dir: BorrowedFd<'_>) -> io::Result<(u64, u64)> {
    let stat = sys::fstat(dir)?;
    // Kernels before 5.8 do not know mounts by number; there only the device counts, and a rename may fail later.
    let mount = sys::statx(dir, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).map_or(0, |s| s.stx_mnt_id);
    Ok((Seen::of(&stat).dev, mount))
}

/// Whether there is something to finish or to tidy up.
pub(in crate::workspace) fn is_left_over(root: &Path, git_dir: &Path) -> bool {
    Plan::exists(git_dir)
        || std::fs::symlink_metadata(git_dir.join(STAGE)).is_ok()
        || std::fs::symlink_metadata(root.join(STAGE_IN_ROOT)).is_ok()
}

/// Removes journal and stage.
pub(super) fn forget(root: &Path, git_dir: &Path) -> io::Result<()> {
    Plan::remove(git_dir)?;
    remove_all(Beneath::open(git_dir)?.root(), STAGE.into())?;
    remove_all(Beneath::open(root)?.root(), STAGE_IN_ROOT.into())
}
