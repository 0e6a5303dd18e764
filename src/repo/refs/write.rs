//! Writing the two kinds of files that hold refs, each with a rename.

use std::{
    fs, io,
    os::unix::ffi::OsStrExt,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use bstr::{BStr, ByteSlice};
use gix::hash::ObjectId;

use super::{
    disk::{LockFailure, LockSet, draft_path, lock_path},
    packed::{self, Packed, Peeling, Signature},
    store::RefStore,
    types::{RefObjects, RefTarget, RefsError},
};

impl RefStore {
    /// Puts content into the file of a ref whose lock is held. An empty directory in its place makes room.
    pub(super) fn write_loose(&self, name: &BStr, content: &[u8]) -> Result<(), Unsettled> {
        let path = self.path(name);
        let parent = path.parent().unwrap_or(&path).to_owned();
        let draft = draft_path(&path);
        let written = self
            .disk
            .write(&draft, &[content])
            .and_then(|_| match self.disk.rename(&draft, &path) {
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::IsADirectory | io::ErrorKind::DirectoryNotEmpty
                    ) =>
                {
                    self.disk.remove_empty_tree(&path)?;
                    self.disk.rename(&draft, &path)
                }
                other => other,
            });
        if let Err(source) = written {
            let _ = self.disk.unlink(&draft);
            return Err(Unsettled::io("write", &path, source, false));
        }
        // The directories above may be as new as the ref.
        for directory in parent.ancestors().take_while(|d| d.starts_with(self.root_of(name))) {
            self.disk
                .sync_dir(directory)
                .map_err(|source| Unsettled::io("sync", directory, source, true))?;
            // `refs/heads` and `refs/tags` have been there since the repository was made.
            let is_old = directory.ends_with("refs/heads")
                || directory.ends_with("refs/tags")
                || fs::metadata(directory)
                    .and_then(|m| m.created())
                    .is_ok_and(|created| created.elapsed().is_ok_and(|age| age > Duration::from_secs(60)));
            if is_old {
                break;
            }
        }
        Ok(())
    }

    /// Replaces a file directly in the shared directory that is no ref, durably and in one step. `<path>.lock` is taken as those of refs are: others are
    /// waited for until `deadline`, and one that a killed process of ours left is removed. `content` is asked for under the lock; `None` leaves the file
    /// as it is.
    pub(in crate::repo) fn replace_file<E: From<RefsError>>(
        &self,
        path: &Path,
        deadline: Instant,
        content: impl FnOnce() -> Result<Option<Vec<u8>>, E>,
    ) -> Result<(), E> {
        let lock = lock_path(path);
        let io = |doing, path: &Path, source| RefsError::Io {
            doing,
            path: path.to_owned(),
            source,
        };
        let mut locks = LockSet::new(&self.disk, &self.common_dir);
        locks
            .acquire(&self.common_dir, &lock, deadline)
            .map_err(|failure| match failure {
                LockFailure::Held => RefsError::Locked {
                    file: lock.file_name().unwrap_or_default().as_bytes().into(),
                },
                LockFailure::Blocked => io("lock", &lock, io::ErrorKind::NotADirectory.into()),
                LockFailure::Io(source) => io("lock", &lock, source),
            })?;
        let Some(content) = content()? else { return Ok(()) };
        let draft = draft_path(path);
        let written = self
            .disk
            .write(&draft, &[&content])
            .and_then(|_| self.disk.rename(&draft, path));
        if let Err(source) = written {
            let _ = self.disk.unlink(&draft);
            return Err(io("write", path, source).into());
        }
        let directory = path.parent().unwrap_or(path);
        self.disk
            .sync_dir(directory)
            .map_err(|source| io("sync", directory, source))?;
        Ok(())
    }

    /// Makes edits in `packed-refs`, whose lock is held, by one rename. Sorts the edits.
    pub(super) fn rewrite_packed(&self, edits: &mut [Edit<'_>], objects: &dyn RefObjects) -> Result<(), Unsettled> {
        let before = |error| Unsettled { error, counts: false };
        let old = self.current_under_lock().map_err(before)?;
        edits.sort_by(|a, b| a.name.cmp(b.name));
        let data = self.edited(&old, edits, objects).map_err(before)?;
        let (path, draft) = (self.packed_path.clone(), draft_path(&self.packed_path));
        let written = self.disk.write(&draft, &[&data]).and_then(|file| {
            // As it is now it will be after the rename.
            let metadata = file.metadata()?;
            self.disk.rename(&draft, &path)?;
            Ok(metadata)
        });
        let metadata = match written {
            Ok(metadata) => metadata,
            Err(source) => {
                let _ = self.disk.unlink(&draft);
                return Err(Unsettled::io("write", &path, source, false));
            }
        };
        let parent = path.parent().unwrap_or(&path);
        let new = Packed::parse(data, self.hash).map_err(|error| Unsettled { error, counts: true })?;
        *self.packed_slot() = Some(Arc::new(new.now_on_disk(Signature::of(&metadata))));
        self.disk
            .sync_dir(parent)
            .map_err(|source| Unsettled::io("sync", parent, source, true))
    }

    /// The version read or written last, if it is the one on disk for sure: nobody else writes while we hold the lock, but the
    /// cache may have been filled before we took it.
    fn current_under_lock(&self) -> Result<Arc<Packed>, RefsError> {
        let now = Signature::at(&self.packed_path)?;
        let cached = self.packed_slot().clone();
        match cached {
            Some(packed) if packed.is_current(now) => Ok(packed),
            _ => self.read_packed(),
        }
    }

    fn edited(&self, old: &Packed, edits: &[Edit<'_>], objects: &dyn RefObjects) -> Result<Vec<u8>, RefsError> {
        let mut out = Vec::with_capacity(old.all().len() + edits.len() * 100 + 64);
        out.extend_from_slice(packed::HEADER);
        let mut at = old.all().start;
        for edit in edits {
            let position = old.position(edit.name)?;
            self.copy(old, at..position, objects, &mut out)?;
            at = position;
            if old.find(edit.name)?.is_some() {
                // Up to the next name: nothing sorts between a name and the same name with a zero byte.
                at = old.position(&[edit.name.as_bytes(), b"\0"].concat())?;
            }
            if let Some((id, peeled)) = edit.value {
                packed::write_record(&mut out, edit.name, &id, peeled.as_deref());
            }
        }
        self.copy(old, at..old.all().end, objects, &mut out)?;
        Ok(out)
    }

    fn copy(
        &self,
        old: &Packed,
        range: std::ops::Range<usize>,
        objects: &dyn RefObjects,
        out: &mut Vec<u8>,
    ) -> Result<(), RefsError> {
        if old.peeling == Peeling::Full {
            out.extend_from_slice(old.bytes(range));
            return Ok(());
        }
        // A file written by an older git: what it does not say about tags we have to find out, for our header promises it.
        for record in old.records(range) {
            let record = record?;
            let peeled = match record.peeled {
                None => match self.target(objects, &record.id)? {
                    RefTarget::Tag(peeled) => peeled,
                    _ => None,
                },
                known => known,
            };
            packed::write_record(out, record.name, &record.id, peeled.as_deref());
        }
        Ok(())
    }

    /// Removes directories from `directory` upwards while they are empty; `refs` and what lies directly in it stay.
    pub(super) fn remove_empty_parents(&self, directory: &Path) {
        for directory in directory.ancestors() {
            let beneath = [&self.git_dir, &self.common_dir]
                .into_iter()
                .filter_map(|root| directory.strip_prefix(root).ok())
                .any(|inner| inner.components().count() > if inner.starts_with("logs") { 3 } else { 2 });
            if !beneath || self.disk.rmdir(directory).is_err() {
                return;
            }
        }
    }
}

/// One line of `packed-refs` to be: the object and what it peels to, or nothing.
pub(super) struct Edit<'a> {
    pub(super) name: &'a BStr,
    pub(super) value: Option<(ObjectId, Option<ObjectId>)>,
}

/// A change that went wrong, and whether it counts for readers all the same.
#[derive(Debug)]
pub(super) struct Unsettled {
    pub(super) error: RefsError,
    pub(super) counts: bool,
}

impl Unsettled {
    pub(super) fn io(doing: &'static str, path: &Path, source: io::Error, counts: bool) -> Self {
        Unsettled {
            error: RefsError::Io {
                doing,
                path: path.to_owned(),
                source,
            },
            counts,
        }
    }
}
