use std::{fs, io};

use bstr::{BString, ByteSlice};

use super::{Repository, open::StoreError};

impl Repository {
    /// The branches that some working tree is on: that of a repository which is not bare, and those of its linked worktrees. Full names.
    ///
    /// A worktree whose HEAD cannot be read is on no branch.
    ///
    /// # Errors
    /// When the list of worktrees cannot be read.
    pub fn checked_out_branches(&self) -> Result<Vec<BString>, StoreError> {
        let mut heads = Vec::new();
        if !self.is_bare() {
            heads.push(self.common_dir().join("HEAD"));
        }
        let worktrees = self.common_dir().join("worktrees");
        match fs::read_dir(&worktrees) {
            Ok(entries) => heads.extend(entries.flatten().map(|entry| entry.path().join("HEAD"))),
            Err(err) if err.kind() == io::ErrorKind::NotFound => {}
            Err(source) => {
                return Err(StoreError::Io {
                    doing: "list",
                    path: worktrees,
                    source,
                });
            }
        }
        let branch = |path: std::path::PathBuf| {
            let content = fs::read(path).ok()?;
            Some(BString::from(content.strip_prefix(b"ref:")?.trim()))
        };
        Ok(heads.into_iter().filter_map(branch).collect())
    }
}
