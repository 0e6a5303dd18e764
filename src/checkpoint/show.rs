use gix::hash::oid;

use super::{
    Changes, CommitInfo, DiffOptions, ReadError, changes,
    commit::{commit_of, read_commit},
};
use crate::repo::Repository;

/// One commit and what it changed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Shown {
    /// The commit.
    pub commit: CommitInfo,
    /// The files that differ from its first parent. For their lines, see [`diff`](super::diff).
    pub changes: Changes,
}

/// A commit (or a tag of one) with the files that differ from its first parent.
///
/// # Errors
/// `NotFound` when there is no such commit, and what reading objects brings.
pub fn show(repository: &Repository, id: &oid, options: &DiffOptions) -> Result<Shown, ReadError> {
    let odb = repository.odb()?;
    let mut commit = commit_of(&odb, id)?;
    if repository.shallow()?.contains(&commit.id) {
        commit.parents.clear();
    }
    let parent = match commit.parents.first() {
        Some(parent) => Some(read_commit(&odb, parent)?.tree),
        None => None,
    };
    let changes = changes(&odb, parent.as_deref(), Some(&commit.tree), options)?;
    Ok(Shown { commit, changes })
}
