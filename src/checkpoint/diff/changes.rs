use std::{collections::BTreeMap, ops::ControlFlow};

use bstr::{BStr, BString, ByteSlice};
use gix::{
    hash::{ObjectId, oid},
    objs::tree::EntryKind,
};

use super::rename;
use crate::{
    checkpoint::{ReadError, commit::trimmed},
    repo::{Odb, TreeChange, diff_trees, entry_at},
};

/// What of a difference is looked for, and how much work may be spent on it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DiffOptions {
    /// Only these files, and what is beneath these directories; all when there are none.
    pub paths: Vec<BString>,
    /// A file that went and one that came are one renamed file when at least this much of their content is the same, in percent. `None`: renames are not looked for.
    pub renames: Option<u8>,
    /// Pairs of files that are compared to find renames of changed files. When there are more, only those with equal content or with equal file names are found.
    pub rename_pairs: usize,
    /// Files that are listed.
    pub files: usize,
    /// Unchanged lines around a change.
    pub context: u32,
    /// Bytes of a file, on either side, above which its lines are not compared.
    pub file_bytes: u64,
    /// Bytes of text about all files. The lines of files beyond it are counted and not shown.
    pub patch_bytes: usize,
    /// Bytes of files that are read to compare their lines. Files beyond it are listed only.
    pub read_bytes: u64,
}

impl Default for DiffOptions {
    fn default() -> Self {
        DiffOptions {
            paths: Vec::new(),
            renames: Some(50),
            rename_pairs: 1_000_000,
            files: 20_000,
            context: 3,
            file_bytes: 1 << 20,
            patch_bytes: 8 << 20,
            read_bytes: 256 << 20,
        }
    }
}

/// What became of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChangeKind {
    /// It came.
    Added,
    /// It went.
    Deleted,
    /// Its content or its executable bit changed.
    Modified,
    /// It is a link, a file or another repository now, and was something else.
    TypeChanged,
    /// It has another path.
    Renamed {
        /// How much of the content is the same, in percent.
        similarity: u8,
    },
}

/// One file that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileChange {
    /// What became of it.
    pub kind: ChangeKind,
    /// Its path, for renamed files the new one.
    pub path: BString,
    /// The path it had, if that was another.
    pub old_path: Option<BString>,
    /// What it was.
    pub from: Option<(EntryKind, ObjectId)>,
    /// What it is.
    pub to: Option<(EntryKind, ObjectId)>,
}

impl FileChange {
    pub(in crate::checkpoint) fn of(change: TreeChange) -> Self {
        let kind = match (&change.from, &change.to) {
            (None, _) => ChangeKind::Added,
            (_, None) => ChangeKind::Deleted,
            (Some((from, _)), Some((to, _))) if class(*from) == class(*to) => ChangeKind::Modified,
            _ => ChangeKind::TypeChanged,
        };
        FileChange {
            kind,
            path: change.path,
            old_path: None,
            from: change.from,
            to: change.to,
        }
    }

    /// The path before the change.
    pub fn path_before(&self) -> &BStr {
        self.old_path.as_ref().unwrap_or(&self.path).as_bstr()
    }
}

/// Kinds between which a file changes its type.
pub(super) fn class(kind: EntryKind) -> EntryKind {
    match kind {
        EntryKind::BlobExecutable => EntryKind::Blob,
        kind => kind,
    }
}

/// The files that differ.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Changes {
    /// In the order of their paths.
    pub files: Vec<FileChange>,
    /// There are more: the list ended at [`DiffOptions::files`], and renames were looked for among these only.
    pub more: bool,
    /// There were too many files to compare for renames of changed files.
    pub renames_skipped: bool,
}

/// Which files differ between two trees; `None` is a tree without files.
///
/// # Errors
/// When a tree or a file that is compared cannot be read.
pub fn changes(odb: &Odb, from: Option<&oid>, to: Option<&oid>, options: &DiffOptions) -> Result<Changes, ReadError> {
    let mut found = BTreeMap::new();
    let mut more = false;
    let mut take = |change: TreeChange| {
        if found.len() == options.files && !found.contains_key(&change.path) {
            more = true;
            return ControlFlow::Break(());
        }
        found.insert(change.path.clone(), change);
        ControlFlow::Continue(())
    };
    if options.paths.is_empty() {
        diff_trees(odb, from, to, &mut take)?;
    }
    for path in &options.paths {
        diff_at(odb, from, to, trimmed(path.as_bstr()), &mut take)?;
    }
    let files = found.into_values().map(FileChange::of).collect();
    let mut changes = Changes {
        files,
        more,
        renames_skipped: false,
    };
    if let Some(least) = options.renames {
        changes.renames_skipped = rename::detect(odb, &mut changes.files, least.min(100), options.rename_pairs)?;
    }
    Ok(changes)
}

/// The difference at one file or beneath one directory.
fn diff_at(
    odb: &Odb,
    from: Option<&oid>,
    to: Option<&oid>,
    path: &BStr,
    take: &mut dyn FnMut(TreeChange) -> ControlFlow<()>,
) -> Result<(), ReadError> {
    let at = |tree: Option<&oid>| match tree {
        Some(tree) => entry_at(odb, tree, path),
        None => Ok(None),
    };
    let (from, to) = (at(from)?, at(to)?);
    let split = |entry: Option<(EntryKind, ObjectId)>| match entry {
        Some((EntryKind::Tree, id)) => (None, Some(id)),
        entry => (entry, None),
    };
    let ((old_file, old_tree), (new_file, new_tree)) = (split(from), split(to));
    if old_file != new_file {
        let change = TreeChange {
            path: path.to_owned(),
            from: old_file,
            to: new_file,
        };
        if take(change).is_break() {
            return Ok(());
        }
    }
    diff_trees(odb, old_tree.as_deref(), new_tree.as_deref(), &mut |mut change| {
        if !path.is_empty() {
            let mut whole = path.to_owned();
            whole.push(b'/');
            whole.extend_from_slice(&change.path);
            change.path = whole;
        }
        take(change)
    })?;
    Ok(())
}
