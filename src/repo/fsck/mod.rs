//! `fsck`: are these bytes an object that git would accept? Pure functions over bytes: no repository, no file, no clock. The ids, the
//! severities and the words are those of git-fsck(1), so that a rejected push reads the same whoever refuses it. (Only `settings` reads a file: the
//! skip list.)
//!
//! [`check_object`] looks at one object, in one pass and without allocating while nothing is wrong. What can only be judged when every object is
//! known (`.gitmodules` and `.gitattributes`, found by name in trees) is collected in an [`FsckState`] and looked at by
//! [`FsckState::finish`].

mod modules;
mod msg;
mod names;
mod policy;
mod settings;
mod state;
mod text;
mod tree;
mod url;

#[cfg(test)]
mod tests;

pub use msg::{MsgId, Severity};
pub use policy::{FsckPolicy, PolicyError};
pub use state::{BlobLookup, FinishError, FsckFinding, FsckNote, FsckState, MAX_CHECKED_BLOB, ReadBlob};

use gix::hash::oid;
use gix::objs::Kind;

/// Checks one object: `data` is its content without the loose header, `id` its id, whose length also says how long ids inside it are.
///
/// Findings below [`Severity::Error`] under `policy` are noted in `state` and do not fail the object. The first finding that does is the
/// error; further ones of the same object are noted too. Blobs are never looked at here: see [`FsckState::finish`].
pub fn check_object(
    kind: Kind,
    id: &oid,
    data: &[u8],
    policy: &FsckPolicy,
    state: &mut FsckState,
) -> Result<(), FsckFinding> {
    let mut report = state::Report::new(id, policy, state);
    match kind {
        Kind::Tree => tree::check(data, id.as_bytes().len(), &mut report),
        Kind::Commit => text::check_commit(data, id.as_bytes().len(), &mut report),
        Kind::Tag => text::check_tag(data, id.as_bytes().len(), &mut report),
        Kind::Blob => {}
    }
    report.end()
}
