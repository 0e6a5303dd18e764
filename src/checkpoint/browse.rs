use std::ops::ControlFlow;

use bstr::{BStr, BString, ByteSlice};
use gix::{
    hash::{ObjectId, oid},
    objs::{Kind, tree::EntryKind},
};

use super::{ReadError, commit::trimmed, tree_of};
use crate::repo::{Odb, entry_at, read_tree_entries};

/// A file as it is in a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct FileContent {
    /// A file or a link.
    pub kind: EntryKind,
    /// The blob.
    pub id: ObjectId,
    /// Bytes of the whole file.
    pub size: u64,
    /// Its content; that of a link is where it points.
    pub bytes: Vec<u8>,
    /// The file is larger than the limit, and `bytes` is empty.
    pub is_too_large: bool,
}

/// The file at `path` in a commit or a tree, when it has at most `limit` bytes.
///
/// # Errors
/// `NotFound` when there is no such commit or tree, `NoSuchPath` and `WrongKind` when it has no file there, and what reading objects brings.
pub fn read_file(odb: &Odb, treeish: &oid, path: &BStr, limit: u64) -> Result<FileContent, ReadError> {
    let tree = tree_of(odb, treeish)?;
    let path = trimmed(path);
    let (kind, id) = entry_at(odb, &tree, path)?.ok_or_else(|| no_such(path, tree))?;
    if matches!(kind, EntryKind::Tree | EntryKind::Commit) {
        return Err(wrong(path, "file"));
    }
    let (found, size) = odb.header(&id)?.ok_or(ReadError::Missing { id })?;
    if found != Kind::Blob {
        return Err(ReadError::Malformed { id });
    }
    let mut bytes = Vec::new();
    let is_too_large = size > limit;
    if !is_too_large {
        odb.read(&id, &mut bytes)?.ok_or(ReadError::Missing { id })?;
    }
    Ok(FileContent {
        kind,
        id,
        size,
        bytes,
        is_too_large,
    })
}

/// One entry of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedEntry {
    /// From the root of the tree.
    pub path: BString,
    /// What it is.
    pub kind: EntryKind,
    /// Its object.
    pub id: ObjectId,
    /// Bytes of a file or a link.
    pub size: Option<u64>,
}

/// Entries of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Listing {
    /// In git's order.
    pub entries: Vec<ListedEntry>,
    /// There are more. The last path goes into the next call.
    pub more: bool,
}

/// What a directory of a commit or a tree has in it: up to `limit` entries that come behind `after`, the path of an entry. The root has an empty path.
///
/// # Errors
/// `NotFound` when there is no such commit or tree, `NoSuchPath` and `WrongKind` when it has no directory there, and what reading objects brings.
pub fn list_tree(
    odb: &Odb,
    treeish: &oid,
    path: &BStr,
    after: Option<&BStr>,
    limit: usize,
) -> Result<Listing, ReadError> {
    let root = tree_of(odb, treeish)?;
    let path = trimmed(path);
    let (kind, tree) = entry_at(odb, &root, path)?.ok_or_else(|| no_such(path, root))?;
    if kind != EntryKind::Tree {
        return Err(wrong(path, "directory"));
    }
    let mut listing = Listing {
        entries: Vec::new(),
        more: false,
    };
    let mut is_behind = after.is_none();
    read_tree_entries(odb, &tree, &mut |entry| {
        let mut whole = path.to_owned();
        if !whole.is_empty() {
            whole.push(b'/');
        }
        whole.extend_from_slice(entry.name);
        if !is_behind {
            is_behind = after.is_some_and(|after| after == whole.as_bstr());
            return ControlFlow::Continue(());
        }
        if listing.entries.len() == limit {
            listing.more = true;
            return ControlFlow::Break(());
        }
        listing.entries.push(ListedEntry {
            path: whole,
            kind: entry.kind,
            id: entry.id,
            size: None,
        });
        ControlFlow::Continue(())
    })?;
    if !is_behind {
        return Err(ReadError::Cursor);
    }
    for entry in &mut listing.entries {
        if !matches!(entry.kind, EntryKind::Tree | EntryKind::Commit) {
            entry.size = odb.header(&entry.id)?.map(|(_, size)| size);
        }
    }
    Ok(listing)
}

fn no_such(path: &BStr, tree: ObjectId) -> ReadError {
    ReadError::NoSuchPath {
        path: path.to_str_lossy().into_owned(),
        tree,
    }
}

fn wrong(path: &BStr, expected: &'static str) -> ReadError {
    ReadError::WrongKind {
        path: path.to_str_lossy().into_owned(),
        expected,
    }
}
