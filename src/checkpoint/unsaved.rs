use bstr::{BString, ByteSlice as _};
use gix::hash::ObjectId;

use super::{CheckpointError, DiffOptions, FileChange, changes, tree_of};
use crate::workspace::Held;

impl Held<'_> {
    /// The commit on which the next checkpoint will be, and its message; `None` before the first one.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn last(&mut self) -> Result<Option<(ObjectId, BString)>, CheckpointError> {
        let head = self.head()?;
        let target = self.target(&head)?;
        let Some(id) = target.parents.first().copied() else {
            return Ok(None);
        };
        let odb = self.repository().odb()?;
        let mut bytes = Vec::new();
        odb.read(&id, &mut bytes)
            .map_err(crate::workspace::WorkspaceError::from)?;
        let message = bytes.find("\n\n").map_or(&[][..], |at| &bytes[at + 2..]);
        Ok(Some((id, message.into())))
    }

    /// What differs from the last checkpoint or commit, sorted by path, at most `most` files of it: what a checkpoint would record now. Objects are written as for one, and no
    /// ref moves.
    ///
    /// # Errors
    /// When the workspace cannot be read, or objects cannot be written.
    pub fn unsaved(&mut self, most: usize) -> Result<Vec<FileChange>, CheckpointError> {
        let (tree, _) = self.live_tree()?;
        let head = self.head()?;
        let target = self.target(&head)?;
        let odb = self.repository().odb()?;
        let refused = |error: super::ReadError| CheckpointError::Refused {
            reference: target.reference.clone(),
            why: error.to_string(),
        };
        let base = match target.parents.first() {
            Some(parent) => Some(tree_of(&odb, parent).map_err(refused)?),
            None => None,
        };
        if base == Some(tree) {
            return Ok(Vec::new());
        }
        let options = DiffOptions {
            files: most,
            renames: None,
            ..DiffOptions::default()
        };
        Ok(changes(&odb, base.as_deref(), Some(&tree), &options)
            .map_err(refused)?
            .files)
    }
}
