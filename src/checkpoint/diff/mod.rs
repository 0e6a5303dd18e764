//! What differs between two trees: which files, and which lines of them.

mod changes;
mod patch;
mod rename;
mod text;

pub use changes::{ChangeKind, Changes, DiffOptions, FileChange, changes};
pub use patch::{Diff, FileDiff, PatchContent, diff};
pub(super) use text::is_binary;
