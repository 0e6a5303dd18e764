use bstr::{BString, ByteSlice};
use gix::hash::ObjectId;

use super::{
    disk::{LockSet, lock_path},
    loose::{self, Go, Raw},
    names::{self, Prefixes},
    store::RefStore,
    types::{RefObjects, RefTarget, RefsError},
    write::Edit,
};

/// Loose refs that are packed at a time.
const AT_A_TIME: usize = 100_000;

impl RefStore {
    /// Writes loose refs into `packed-refs`, if there are at least so many, and then deletes their files: git-pack-refs(1) with `--all --prune`. Returns how
    /// many are packed now that were not. Symbolic refs, broken ones, those of objects that are missing, and those of single worktrees stay as they are.
    ///
    /// At every moment each ref has its value: it is durable in `packed-refs` before its file goes, and that goes only under the ref's lock, while
    /// both still say the same.
    ///
    /// # Errors
    /// When `packed-refs` is locked by somebody else, or a file cannot be read or written. No ref has changed then.
    pub fn pack_loose(&self, objects: &dyn RefObjects, at_least: usize) -> Result<usize, RefsError> {
        let mut names: Vec<BString> = Vec::new();
        let everything = Prefixes::new(vec!["refs/".into()]);
        loose::walk(
            &self.common_dir,
            b"refs/",
            &everything,
            &names::is_per_worktree,
            &mut |name| {
                names.push(name);
                Ok(if names.len() < AT_A_TIME { Go::On } else { Go::Stop })
            },
        )?;
        if names.is_empty() || names.len() < at_least {
            return Ok(0);
        }
        names.sort_unstable();
        let packed = {
            let _turn = self.take_turn();
            let mut locks = LockSet::new(&self.disk, &self.common_dir);
            self.lock_packed(&mut locks)?;
            let mut values: Vec<(&BString, ObjectId, Option<ObjectId>)> = Vec::new();
            for name in &names {
                let Some(Raw::Id(id)) = loose::read(&self.path(name.as_bstr()), self.hash)? else {
                    continue;
                };
                match self.target(objects, &id)? {
                    RefTarget::Missing | RefTarget::Tag(None) => {}
                    RefTarget::Tag(peeled) => values.push((name, id, peeled)),
                    RefTarget::Commit | RefTarget::Other => values.push((name, id, None)),
                }
            }
            if values.is_empty() {
                return Ok(0);
            }
            let edit = |(name, id, peeled): &(&'_ BString, ObjectId, Option<ObjectId>)| {
                (name.as_bstr().to_owned(), *id, *peeled)
            };
            let owned: Vec<_> = values.iter().map(edit).collect();
            let mut edits: Vec<Edit<'_>> = owned
                .iter()
                .map(|(name, id, peeled)| Edit {
                    name: name.as_bstr(),
                    value: Some((*id, *peeled)),
                })
                .collect();
            self.rewrite_packed(&mut edits, objects)
                .map_err(|unsettled| unsettled.error)?;
            owned
        };
        for (name, id, _) in &packed {
            self.drop_packed(name, *id)?;
        }
        Ok(packed.len())
    }

    /// Deletes the file of a ref whose value is packed, unless anything has changed.
    fn drop_packed(&self, name: &BString, id: ObjectId) -> Result<(), RefsError> {
        let _turn = self.take_turn();
        let path = self.path(name.as_bstr());
        let mut locks = LockSet::new(&self.disk, &self.common_dir);
        // Somebody changes it just now: then it is no more what was packed.
        if locks
            .acquire(
                self.root_of(name.as_bstr()),
                &lock_path(&path),
                std::time::Instant::now(),
            )
            .is_err()
        {
            return Ok(());
        }
        // Deleted and made again it would be in its file only.
        let is_packed = self.packed()?.find(name)?.is_some_and(|record| record.id == id);
        if is_packed && loose::read(&path, self.hash)? == Some(Raw::Id(id)) {
            self.disk.unlink(&path).map_err(|source| RefsError::Io {
                doing: "delete",
                path: path.clone(),
                source,
            })?;
        }
        drop(locks);
        if let Some(parent) = path.parent() {
            self.remove_empty_parents(parent);
        }
        Ok(())
    }
}
