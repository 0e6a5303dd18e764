use std::path::PathBuf;

use bstr::BStr;

use super::{ManageError, admin::Admin};
use crate::{repo::Repository, workspace::WorkspaceError};

/// A working tree that is on a branch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OnBranch {
    /// What it is called: its directory in `worktrees`, or `main`.
    pub name: String,
    /// Its files; `None` when they are gone, or when it is half made or half removed.
    pub root: Option<PathBuf>,
    /// Whether Gitstead made it.
    pub managed: bool,
}

/// The working trees of a repository that are on a branch, which is given by its full name.
///
/// # Errors
/// When the list of worktrees cannot be read.
pub fn worktrees_on(repo: &Repository, branch: &BStr) -> Result<Vec<OnBranch>, ManageError> {
    let mut found = Vec::new();
    let text = std::fs::read(repo.common_dir().join("HEAD")).unwrap_or_default();
    let own = text.strip_prefix(b"ref:").map(bstr::ByteSlice::trim);
    if !repo.is_bare() && own == Some(branch) {
        let root = repo.common_dir().canonicalize().ok();
        found.push(OnBranch {
            name: "main".to_owned(),
            root: root.and_then(|dir| dir.parent().map(ToOwned::to_owned)),
            managed: false,
        });
    }
    for admin in Admin::all(repo)? {
        if admin.branch().is_none_or(|on| on != branch) {
            continue;
        }
        let whole = !admin.is_half_done() && !admin.is_half_removed();
        found.push(OnBranch {
            name: admin.name().to_string(),
            root: admin.root().filter(|root| whole && admin.is_at(root)),
            managed: admin.is_managed(),
        });
    }
    Ok(found)
}

impl From<ManageError> for WorkspaceError {
    fn from(error: ManageError) -> Self {
        match error {
            ManageError::Workspace(error) => error,
            ManageError::Io { doing, path, source } => WorkspaceError::Io { doing, path, source },
            other => WorkspaceError::Damaged {
                what: "the list of worktrees",
                path: PathBuf::new(),
                why: other.to_string(),
            },
        }
    }
}
