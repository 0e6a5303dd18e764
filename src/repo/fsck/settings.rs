//! The two places where fsck meets a repository: its configuration and its objects.

use super::policy::{FsckPolicy, PolicyError};
use super::state::BlobLookup;
use crate::repo::odb::{Odb, OdbError};
use crate::repo::settings::ReceiveSettings;
use bstr::ByteSlice;
use gix::hash::oid;
use gix::objs::Kind;

impl FsckPolicy {
    /// The policy of pushes into a repository, from `receive.fsckObjects` (else `transfer.fsckObjects`, else yes: git's own default is no),
    /// `receive.fsck.<msg-id>` and `receive.fsck.skipList`. `None` if objects are not to be checked.
    ///
    /// An unknown message id is logged and passed over, since repositories are shared with newer gits; an unknown severity is an error. Both
    /// as git does it.
    pub fn from_settings(receive: &ReceiveSettings) -> Result<Option<Self>, PolicyError> {
        if !receive.fsck_objects.unwrap_or(true) {
            return Ok(None);
        }
        let mut policy = Self::strict();
        for (id, severity) in &receive.fsck {
            match policy.set(id, &severity.to_str_lossy()) {
                Err(PolicyError::UnknownId { id }) => tracing::warn!("skipping unknown msg id '{id}'"),
                other => other?,
            }
        }
        for path in &receive.fsck_skip_list {
            let list = std::fs::read(path).map_err(|source| PolicyError::Unreadable {
                path: path.clone(),
                kind: source.kind(),
            })?;
            policy.skip(&list)?;
        }
        Ok(Some(policy))
    }
}

impl BlobLookup {
    /// The look-up for [`FsckState::finish`](super::FsckState::finish) in an object database: one that sees the push and the repository.
    pub fn in_odb(odb: &Odb) -> impl FnMut(&oid, u64, &mut Vec<u8>) -> Result<BlobLookup, OdbError> {
        |id, most, out| match odb.header(id)? {
            None => Ok(BlobLookup::Missing),
            Some((Kind::Blob, size)) if size > most.min(odb.limits().object_bytes) => Ok(BlobLookup::TooLarge),
            Some((Kind::Blob, _)) => Ok(odb.read(id, out)?.map_or(BlobLookup::Missing, BlobLookup::Found)),
            Some((kind, _)) => Ok(BlobLookup::Found(kind)),
        }
    }
}
