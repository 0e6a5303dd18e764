use bstr::{BStr, ByteSlice as _};
use gix::{
    hash::{ObjectId, oid},
    objs::{Kind, tree::EntryKind},
};

use super::{
    FileStat, Held, TrackedFile, WorkspaceError,
    transition::{Contents, TransitionError},
};
use crate::repo::Odb;

/// What the objects of a workspace's repository are as files of that workspace.
pub(super) struct Stored<'h, 'w> {
    held: &'h mut Held<'w>,
    odb: Odb,
}

impl<'h, 'w> Stored<'h, 'w> {
    pub(super) fn new(held: &'h mut Held<'w>) -> Result<Self, WorkspaceError> {
        // Read once, so that later questions cannot fail.
        held.tracked()?;
        let odb = held.repository().odb()?;
        Ok(Stored { held, odb })
    }

    fn tracked(&mut self, path: &BStr) -> Option<TrackedFile> {
        self.held.tracked().ok()?.get(path).cloned()
    }
}

impl Contents for Stored<'_, '_> {
    fn bytes(&mut self, path: &BStr, _kind: EntryKind, id: &oid) -> Result<Vec<u8>, TransitionError> {
        let missing = || TransitionError::Missing {
            path: path.to_owned(),
            id: id.to_owned(),
        };
        let mut bytes = Vec::new();
        match self.odb.read(id, &mut bytes)? {
            Some(Kind::Blob) => Ok(bytes),
            _ => Err(missing()),
        }
    }

    fn is_known(&mut self, path: &BStr, kind: EntryKind, id: &oid, stat: &FileStat) -> bool {
        self.tracked(path).is_some_and(|file| {
            (file.kind, file.id.as_ref()) == (kind, id)
                && file.stat == *stat
                && !file.has(TrackedFile::RACY)
                && !file.has(TrackedFile::INTENT)
        })
    }

    fn records_as(&mut self, _path: &BStr, _kind: EntryKind, id: &oid, bytes: &[u8]) -> Result<bool, TransitionError> {
        Ok(blob_id(id.kind(), bytes).is_some_and(|found| found == id))
    }

    fn is_skipped(&mut self, path: &BStr) -> bool {
        self.tracked(path)
            .is_some_and(|file| file.has(TrackedFile::SKIP_WORKTREE))
    }
}

fn blob_id(hash: gix::hash::Kind, bytes: &[u8]) -> Option<ObjectId> {
    gix::objs::compute_hash(hash, Kind::Blob, bytes.as_bstr()).ok()
}
