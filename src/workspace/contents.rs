use std::collections::HashMap;

use bstr::{BStr, BString, ByteSlice as _};
use gix::{
    hash::{ObjectId, oid},
    objs::{Kind, tree::EntryKind},
};

use super::{
    FileStat, FilterWorker, Filters, Held, TrackedFile, WorkspaceError,
    transition::{Contents, TransitionError},
};
use crate::repo::{Odb, TreeChange};

/// What the objects of a workspace's repository are as files of that workspace.
pub(super) struct Stored<'h, 'w> {
    held: &'h mut Held<'w>,
    odb: Odb,
    /// By the attributes that hold now.
    now: FilterWorker,
    /// By those of the commit that the files go to.
    then: FilterWorker,
}

impl<'h, 'w> Stored<'h, 'w> {
    pub(super) fn new(held: &'h mut Held<'w>, changes: &[TreeChange]) -> Result<Self, WorkspaceError> {
        // Read once, so that later questions cannot fail.
        held.tracked()?;
        let odb = held.repository().odb()?;
        let filters = held.filters(Vec::new())?;
        let is_attributes = |path: &BString| path == ".gitattributes" || path.ends_with(b"/.gitattributes");
        let mut changed = HashMap::new();
        for change in changes.iter().filter(|change| is_attributes(&change.path)) {
            let mut bytes = Vec::new();
            let there = match change.to {
                Some((EntryKind::Blob | EntryKind::BlobExecutable, id)) => {
                    odb.read(&id, &mut bytes)? == Some(Kind::Blob)
                }
                _ => false,
            };
            changed.insert(change.path.clone(), there.then_some(bytes));
        }
        let then = match changed.is_empty() {
            true => filters.worker(),
            false => {
                let files = held.attributes_with(changed)?;
                Filters::new(held.repository(), held.root(), files).worker()
            }
        };
        let now = filters.worker();
        Ok(Stored { held, odb, now, then })
    }

    fn tracked(&mut self, path: &BStr) -> Option<TrackedFile> {
        self.held.tracked().ok()?.get(path).cloned()
    }
}

impl Contents for Stored<'_, '_> {
    fn bytes(&mut self, path: &BStr, kind: EntryKind, id: &oid) -> Result<Vec<u8>, TransitionError> {
        let mut bytes = Vec::new();
        if self.odb.read(id, &mut bytes)? != Some(Kind::Blob) {
            return Err(TransitionError::Missing {
                path: path.to_owned(),
                id: id.to_owned(),
            });
        }
        if kind == EntryKind::Link {
            return Ok(bytes);
        }
        let converted = match self.then.smudge(path, &bytes) {
            Ok(std::borrow::Cow::Owned(converted)) => Some(converted),
            // What cannot be converted is given as it is, which is how it was taken.
            _ => None,
        };
        Ok(converted.unwrap_or(bytes))
    }

    fn is_known(&mut self, path: &BStr, kind: EntryKind, id: &oid, stat: &FileStat) -> bool {
        self.tracked(path).is_some_and(|file| {
            (file.kind, file.id.as_ref()) == (kind, id)
                && file.stat == *stat
                && !file.has(TrackedFile::RACY)
                && !file.has(TrackedFile::INTENT)
        })
    }

    fn records_as(&mut self, path: &BStr, kind: EntryKind, id: &oid, bytes: &[u8]) -> Result<bool, TransitionError> {
        if blob_id(id.kind(), bytes).is_some_and(|found| found == id) {
            return Ok(true);
        }
        if kind == EntryKind::Link {
            return Ok(false);
        }
        let odb = &self.odb;
        let mut indexed = |out: &mut Vec<u8>| matches!(odb.read(id, out), Ok(Some(Kind::Blob)));
        match self.now.clean(path, bytes, &mut indexed) {
            Ok(std::borrow::Cow::Owned(clean)) => Ok(blob_id(id.kind(), &clean).is_some_and(|found| found == id)),
            _ => Ok(false),
        }
    }

    fn is_skipped(&mut self, path: &BStr) -> bool {
        self.tracked(path)
            .is_some_and(|file| file.has(TrackedFile::SKIP_WORKTREE))
    }
}

fn blob_id(hash: gix::hash::Kind, bytes: &[u8]) -> Option<ObjectId> {
    gix::objs::compute_hash(hash, Kind::Blob, bytes.as_bstr()).ok()
}
