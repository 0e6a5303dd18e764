use std::{cmp::Ordering, ops::ControlFlow};

use bstr::{BStr, BString, ByteSlice};
use gix::{
    hash::{Kind as HashKind, ObjectId, oid},
    objs::{Kind, tree::EntryKind},
};

use super::{Odb, OdbError};
use crate::base::Fault;

/// Why a tree could not be followed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TreeDiffError {
    /// The store could not answer.
    #[error(transparent)]
    Odb(#[from] OdbError),
    /// There is no such tree.
    #[error("tree {id} is missing")]
    Missing {
        /// The tree.
        id: ObjectId,
    },
    /// The object is of another kind.
    #[error("object {id} is a {kind}, not a tree")]
    NotATree {
        /// The object.
        id: ObjectId,
        /// What it is.
        kind: Kind,
    },
    /// The bytes of the tree are not those of one.
    #[error("tree {id} is malformed")]
    Malformed {
        /// The tree.
        id: ObjectId,
    },
    /// Trees in trees beyond [`Limits::tree_depth`](crate::base::Limits::tree_depth).
    #[error("trees are nested deeper than the limit of {limit}")]
    TooDeep {
        /// The limit.
        limit: u32,
    },
}

impl TreeDiffError {
    /// Whose move it is.
    pub fn fault(&self) -> Fault {
        match self {
            TreeDiffError::Odb(err) => err.fault(),
            TreeDiffError::Missing { .. } | TreeDiffError::NotATree { .. } | TreeDiffError::Malformed { .. } => {
                Fault::Corrupt
            }
            TreeDiffError::TooDeep { .. } => Fault::Ours,
        }
    }
}

/// One path that two trees do not have in common. Never a directory: one that appears or goes is the files in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeChange {
    /// From the root of the trees.
    pub path: BString,
    /// What the first tree has there. `None`: nothing, or a directory.
    pub from: Option<(EntryKind, ObjectId)>,
    /// What the second tree has there. `None`: nothing, or a directory.
    pub to: Option<(EntryKind, ObjectId)>,
}

/// One entry of a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TreeEntry<'a> {
    /// What it is, with unusual permissions reduced to git's.
    pub kind: EntryKind,
    /// Its name: one component, not checked.
    pub name: &'a BStr,
    /// Its object.
    pub id: ObjectId,
}

impl<'a> TreeEntry<'a> {
    /// The order of trees: a directory's name counts as if it ended in a slash. A directory and a file of one name are different entries.
    pub(crate) fn in_order(&self, other: &TreeEntry<'_>) -> Ordering {
        let (a, b): (&[u8], &[u8]) = (self.name, other.name);
        let common = a.len().min(b.len());
        let end = |entry: &TreeEntry<'_>| match entry.name.get(common) {
            Some(&byte) => byte,
            None if entry.kind == EntryKind::Tree => b'/',
            None => 0,
        };
        a[..common]
            .cmp(&b[..common])
            .then_with(|| end(self).cmp(&end(other)))
            .then_with(|| a.len().cmp(&b.len()))
    }
}

/// The entry that begins at `at` in the bytes of a tree, and where the next one begins. `None` when the bytes are not a tree's.
pub(crate) fn tree_entry(data: &[u8], at: usize, hash: HashKind) -> Option<(TreeEntry<'_>, usize)> {
    let rest = data.get(at..)?;
    let space = rest.iter().take(8).position(|&b| b == b' ')?;
    let mode = rest[..space].iter().try_fold(0u32, |mode, &digit| {
        matches!(digit, b'0'..=b'7').then(|| (mode << 3) | u32::from(digit - b'0'))
    })?;
    let name = &rest[space + 1..];
    let name = &name[..name.find_byte(0)?];
    let id_at = space + 1 + name.len() + 1;
    let raw = rest.get(id_at..id_at + hash.len_in_bytes())?;
    let kind = match mode & 0o170_000 {
        0o040_000 => EntryKind::Tree,
        0o100_000 if mode & 0o100 != 0 => EntryKind::BlobExecutable,
        0o100_000 => EntryKind::Blob,
        0o120_000 => EntryKind::Link,
        // As git does with what it does not know.
        _ => EntryKind::Commit,
    };
    let id = ObjectId::try_from(raw).ok()?;
    let name = name.as_bstr();
    (space > 0 && !name.is_empty()).then_some((TreeEntry { kind, name, id }, at + id_at + raw.len()))
}

/// Reads a tree into `out`.
pub(crate) fn read_tree(odb: &Odb, id: &oid, out: &mut Vec<u8>) -> Result<(), TreeDiffError> {
    // No repository needs to hold the tree without entries.
    if id.is_empty_tree() {
        out.clear();
        return Ok(());
    }
    match odb.read(id, out)? {
        Some(Kind::Tree) => Ok(()),
        Some(kind) => Err(TreeDiffError::NotATree {
            id: id.to_owned(),
            kind,
        }),
        None => Err(TreeDiffError::Missing { id: id.to_owned() }),
    }
}

/// Calls `visit` with every entry of a tree, in its order. Nothing below it is read.
///
/// # Errors
/// When the tree is not there or not a tree, or the store cannot answer.
pub fn read_tree_entries(
    odb: &Odb,
    tree: &oid,
    visit: &mut dyn FnMut(TreeEntry<'_>) -> ControlFlow<()>,
) -> Result<(), TreeDiffError> {
    let mut data = Vec::new();
    read_tree(odb, tree, &mut data)?;
    let mut at = 0;
    while at < data.len() {
        let malformed = || TreeDiffError::Malformed { id: tree.to_owned() };
        let (entry, next) = tree_entry(&data, at, odb.hash_kind()).ok_or_else(malformed)?;
        if visit(entry).is_break() {
            break;
        }
        at = next;
    }
    Ok(())
}

/// One of the two trees at some level.
#[derive(Default)]
struct Side {
    id: Option<ObjectId>,
    data: Vec<u8>,
    at: usize,
}

impl Side {
    fn open(odb: &Odb, id: Option<ObjectId>) -> Result<Self, TreeDiffError> {
        let mut data = Vec::new();
        if let Some(id) = &id {
            read_tree(odb, id, &mut data)?;
        }
        Ok(Side { id, data, at: 0 })
    }

    fn peek(&self, hash: HashKind) -> Result<Option<(TreeEntry<'_>, usize)>, TreeDiffError> {
        if self.at == self.data.len() {
            return Ok(None);
        }
        match tree_entry(&self.data, self.at, hash) {
            Some(found) => Ok(Some(found)),
            None => Err(TreeDiffError::Malformed {
                id: self.id.unwrap_or_else(|| hash.null()),
            }),
        }
    }
}

struct Level {
    /// Bytes of the path that this level's names are appended to.
    prefix: usize,
    from: Side,
    to: Side,
}

/// What two trees do not have in common, path by path in byte order; `None` is a tree without entries. Equal subtrees are not read. `visit` may stop it.
///
/// Holds the trees from the roots down to where it is, and nothing else.
///
/// # Errors
/// When a tree is missing, malformed or too deep, or the store cannot answer. Changes that were visited before are true.
pub fn diff_trees(
    odb: &Odb,
    from: Option<&oid>,
    to: Option<&oid>,
    visit: &mut dyn FnMut(TreeChange) -> ControlFlow<()>,
) -> Result<(), TreeDiffError> {
    if from == to {
        return Ok(());
    }
    let hash = odb.hash_kind();
    let mut path = BString::default();
    let level = |prefix, from, to| -> Result<Level, TreeDiffError> {
        Ok(Level {
            prefix,
            from: Side::open(odb, from)?,
            to: Side::open(odb, to)?,
        })
    };
    let mut stack = vec![level(0, from.map(oid::to_owned), to.map(oid::to_owned))?];
    while let Some(top) = stack.last_mut() {
        let (old, new) = (top.from.peek(hash)?, top.to.peek(hash)?);
        let order = match (&old, &new) {
            (None, None) => {
                stack.pop();
                continue;
            }
            (Some((old, _)), Some((new, _))) => old.in_order(new),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
        };
        let old = old.filter(|_| order.is_le());
        let new = new.filter(|_| order.is_ge());
        let known = |entry: &Option<(TreeEntry<'_>, usize)>| entry.map(|(entry, _)| (entry.kind, entry.id));
        let (was, is) = (known(&old), known(&new));
        let name = old.or(new).map_or(b"".as_bstr(), |(entry, _)| entry.name);
        path.truncate(top.prefix);
        if was != is {
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(name);
        }
        let next = (old.map(|(_, next)| next), new.map(|(_, next)| next));
        top.from.at = next.0.unwrap_or(top.from.at);
        top.to.at = next.1.unwrap_or(top.to.at);
        if was == is {
            continue;
        }
        // Both are directories or neither is: the order tells them apart.
        if was.or(is).is_some_and(|(kind, _)| kind == EntryKind::Tree) {
            let limit = odb.limits().tree_depth;
            if stack.len() > limit as usize {
                return Err(TreeDiffError::TooDeep { limit });
            }
            stack.push(level(path.len(), was.map(|(_, id)| id), is.map(|(_, id)| id))?);
            continue;
        }
        let change = TreeChange {
            path: path.clone(),
            from: was,
            to: is,
        };
        if visit(change).is_break() {
            break;
        }
    }
    Ok(())
}

/// What a tree has at `path`; with an empty path, the tree itself. `None` when there is nothing there.
///
/// # Errors
/// When a tree on the way is missing, malformed or too deep, or the store cannot answer.
pub fn entry_at(odb: &Odb, tree: &oid, path: &BStr) -> Result<Option<(EntryKind, ObjectId)>, TreeDiffError> {
    let mut found = (EntryKind::Tree, tree.to_owned());
    if path.is_empty() {
        return Ok(Some(found));
    }
    let limit = odb.limits().tree_depth;
    for (depth, name) in path.split_str("/").enumerate() {
        if depth > limit as usize {
            return Err(TreeDiffError::TooDeep { limit });
        }
        if found.0 != EntryKind::Tree {
            return Ok(None);
        }
        let mut entry = None;
        read_tree_entries(odb, &found.1, &mut |have| {
            if have.name == name.as_bstr() {
                entry = Some((have.kind, have.id));
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        })?;
        match entry {
            Some(entry) => found = entry,
            None => return Ok(None),
        }
    }
    Ok(Some(found))
}

#[cfg(test)]
#[path = "tree_diff_tests.rs"]
mod tests;
