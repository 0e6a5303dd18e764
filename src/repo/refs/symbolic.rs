//! Symbolic refs: `HEAD` of the repository and of its namespaces, and any other.

use std::time::Instant;

use bstr::{BStr, BString, ByteSlice};

use super::{
    disk::{LockFailure, LockSet, lock_path},
    loose::{self, Raw},
    names,
    store::RefStore,
    transaction::LONGEST_WAIT,
    types::{RefLog, RefsError},
};

impl RefStore {
    /// Makes HEAD (of a namespace) name `target`, a ref of the same namespace that need not exist yet.
    pub fn set_head(&self, namespace: Option<&BStr>, target: &BStr, log: Option<&RefLog>) -> Result<(), RefsError> {
        let prefix = names::namespace_prefix(namespace)?;
        let full = |name: &BStr| BString::from([prefix.as_slice(), name.as_bytes()].concat());
        if !target.starts_with(b"refs/heads/") {
            return Err(RefsError::Refused {
                text: format!("refusing to point HEAD outside of refs/heads/: '{target}'"),
            });
        }
        self.set_symbolic(full("HEAD".into()).as_bstr(), full(target).as_bstr(), log)
    }

    /// Makes `name` a symbolic ref to `target`: written beside it, fsynced, renamed into place, under the lock of the ref. On disk when this returns.
    pub fn set_symbolic(&self, name: &BStr, target: &BStr, log: Option<&RefLog>) -> Result<(), RefsError> {
        if !names::is_valid(name) {
            return Err(RefsError::name(name));
        }
        if !names::is_valid(target) || !target.starts_with(b"refs/") || name == target {
            return Err(RefsError::name(target));
        }
        let _turn = self.take_turn();
        let mut locks = LockSet::new(&self.disk, &self.common_dir);
        self.lock_one(&mut locks, name)?;
        self.check_free(name)?;
        let old = self.resolve(name)?.and_then(|end| end.id);
        self.write_loose(name, &[b"ref: ", target.as_bytes(), b"\n"].concat())
            .map_err(|unsettled| unsettled.error)?;
        let new = self.resolve(name)?.and_then(|end| end.id);
        if let (Some(log), Some(new)) = (log, new) {
            self.append_log(name, old, Some(new), log);
        }
        Ok(())
    }

    /// Removes a symbolic ref, not its target. One that is not there is as good as removed; a ref that is not symbolic is refused, and so is `HEAD`.
    pub fn delete_symbolic(&self, name: &BStr) -> Result<(), RefsError> {
        if !names::is_valid(name) {
            return Err(RefsError::name(name));
        }
        if name == "HEAD" {
            return Err(RefsError::Refused {
                text: "deleting 'HEAD' is not allowed".into(),
            });
        }
        let _turn = self.take_turn();
        let mut locks = LockSet::new(&self.disk, &self.common_dir);
        self.lock_one(&mut locks, name)?;
        let path = self.path(name);
        match loose::read(&path, self.hash)? {
            Some(Raw::Symbolic(_)) => {}
            None if self.raw(name)?.is_none() => return Ok(()),
            _ => {
                return Err(RefsError::Refused {
                    text: format!("'{name}' is not a symbolic ref"),
                });
            }
        }
        let io = |source| RefsError::Io {
            doing: "remove",
            path: path.clone(),
            source,
        };
        self.disk.unlink(&path).map_err(io)?;
        let parent = path.parent().unwrap_or(&path);
        self.disk.sync_dir(parent).map_err(io)?;
        self.remove_log(name);
        drop(locks);
        self.remove_empty_parents(parent);
        Ok(())
    }

    /// Removes the locks that a process of ours left behind when it was killed, and returns how many. Not needed for our own sake, for whoever wants
    /// such a lock removes it; C git does not, so this is for the start of a server. Locks of C git are left alone.
    pub fn remove_stale_locks(&self) -> Result<usize, RefsError> {
        let locks = LockSet::new(&self.disk, &self.common_dir);
        let mut removed = 0;
        let mut directories = vec![self.common_dir.clone(), self.common_dir.join("refs")];
        if self.git_dir != self.common_dir {
            directories.extend([self.git_dir.clone(), self.git_dir.join("refs")]);
        }
        let depth_of_refs = self.common_dir.components().count() + 100;
        while let Some(directory) = directories.pop() {
            let Ok(entries) = std::fs::read_dir(&directory) else {
                continue;
            };
            for entry in entries.flatten() {
                let Ok(kind) = entry.file_type() else { continue };
                let is_root = directory == self.common_dir || directory == self.git_dir;
                let path = entry.path();
                if kind.is_dir() && !is_root && path.components().count() < depth_of_refs {
                    directories.push(path);
                } else if kind.is_file() && path.extension().is_some_and(|e| e == "lock") {
                    let io = |source| RefsError::Io {
                        doing: "remove",
                        path: path.clone(),
                        source,
                    };
                    removed += usize::from(locks.remove_stale(&path).map_err(io)?);
                }
            }
        }
        Ok(removed)
    }

    fn lock_one(&self, locks: &mut LockSet<'_>, name: &BStr) -> Result<(), RefsError> {
        let path = lock_path(&self.path(name));
        let deadline = Instant::now() + self.options.ref_lock_timeout.min(LONGEST_WAIT);
        match locks.acquire(self.root_of(name), &path, deadline) {
            Ok(()) => Ok(()),
            Err(LockFailure::Held) => Err(RefsError::Locked {
                file: format!("{name}.lock").into(),
            }),
            Err(LockFailure::Blocked) => Err(RefsError::Refused {
                text: format!("cannot lock ref '{name}': another ref is in the way"),
            }),
            Err(LockFailure::Io(source)) => Err(RefsError::Io {
                doing: "lock",
                path,
                source,
            }),
        }
    }

    /// Refuses a name that another ref makes impossible.
    fn check_free(&self, name: &BStr) -> Result<(), RefsError> {
        if self.raw(name)?.is_some() || !name.starts_with(b"refs/") {
            return Ok(());
        }
        let packed = self.packed()?;
        match self.conflict_with_existing(name, &packed, &Default::default(), &mut Default::default())? {
            None => Ok(()),
            Some(other) => Err(RefsError::Refused {
                text: format!("cannot lock ref '{name}': '{other}' exists; cannot create '{name}'"),
            }),
        }
    }
}
