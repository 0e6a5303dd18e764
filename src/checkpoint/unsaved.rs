use super::{CheckpointError, DiffOptions, FileChange, changes, tree_of};
use crate::workspace::Held;

impl Held<'_> {
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
