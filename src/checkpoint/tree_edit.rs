//! A tree with some paths changed.

use std::collections::{BTreeMap, btree_map::Entry};

use bstr::{BStr, BString, ByteSlice};
use gix::{
    hash::{ObjectId, oid},
    objs::{Kind, tree::EntryKind},
};

use super::ReadError;
use crate::{
    base::Fault,
    repo::{ObjectSink, Odb, WriteError, read_tree_entries},
};

/// What shall be at some paths: a file, or nothing. Never a directory.
pub(crate) type Edits = BTreeMap<BString, Option<(EntryKind, ObjectId)>>;

/// Why a tree could not be changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TreeEditError {
    /// There would be a file and a directory with files at one path.
    #[error("'{path}' would be a file and a directory")]
    Collision {
        /// The path.
        path: BString,
    },
    /// The tree that is changed could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The new trees could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
}

impl TreeEditError {
    /// Whose move it is.
    pub fn fault(&self) -> Fault {
        match self {
            TreeEditError::Collision { .. } => Fault::Client,
            TreeEditError::Read(err) => err.fault(),
            TreeEditError::Write(err) => err.fault(),
        }
    }
}

/// Writes `tree` with these edits. Only trees on the way to an edited path are read; directories without files vanish. A file may come where a directory is when the
/// edits take away everything in it, and the other way round.
///
/// # Errors
/// `Collision`, and what reading and writing bring.
pub(crate) fn edit_tree(
    odb: &Odb,
    sink: &ObjectSink,
    tree: Option<&oid>,
    edits: &Edits,
) -> Result<ObjectId, TreeEditError> {
    if let (Some(tree), true) = (tree, edits.is_empty()) {
        return Ok(tree.to_owned());
    }
    let edits: Vec<_> = edits.iter().map(|(path, to)| (path.as_bstr(), *to)).collect();
    match edit(odb, sink, tree, &edits, 0, odb.limits().tree_depth)? {
        Some(tree) => Ok(tree),
        None => Ok(sink.write(Kind::Tree, b"")?),
    }
}

type Edit<'a> = (&'a BStr, Option<(EntryKind, ObjectId)>);

/// What edits say about one name.
#[derive(Default)]
struct AtName<'a> {
    here: Option<Option<(EntryKind, ObjectId)>>,
    below: Vec<Edit<'a>>,
}

/// One level; paths are looked at from `skip` on. `None` is a tree without entries.
fn edit(
    odb: &Odb,
    sink: &ObjectSink,
    tree: Option<&oid>,
    edits: &[Edit<'_>],
    skip: usize,
    depth: u32,
) -> Result<Option<ObjectId>, TreeEditError> {
    if depth == 0 {
        let limit = odb.limits().tree_depth;
        return Err(ReadError::from(crate::repo::TreeDiffError::TooDeep { limit }).into());
    }
    let mut entries: BTreeMap<BString, (EntryKind, ObjectId)> = BTreeMap::new();
    if let Some(tree) = tree {
        read_tree_entries(odb, tree, &mut |entry| {
            entries.insert(entry.name.to_owned(), (entry.kind, entry.id));
            std::ops::ControlFlow::Continue(())
        })
        .map_err(ReadError::from)?;
    }
    let mut names: BTreeMap<&BStr, AtName<'_>> = BTreeMap::new();
    for &(path, to) in edits {
        match path[skip..].find_byte(b'/') {
            Some(at) => {
                let name = names.entry(path[skip..skip + at].as_bstr()).or_default();
                name.below.push((path, to));
            }
            None => names.entry(path[skip..].as_bstr()).or_default().here = Some(to),
        }
    }
    let mut changed = false;
    for (name, what) in names {
        let was = entries.get(name).copied();
        let directory = match was {
            Some((EntryKind::Tree, id)) => Some(id),
            _ => None,
        };
        let below = if what.below.is_empty() {
            directory
        } else {
            let skip = skip + name.len() + 1;
            edit(odb, sink, directory.as_deref(), &what.below, skip, depth - 1)?
        };
        let file = match what.here {
            Some(to) => to,
            None => was.filter(|(kind, _)| *kind != EntryKind::Tree),
        };
        let is = match (below, file) {
            (Some(_), Some(_)) => {
                let mut path = BString::from(&edits[0].0[..skip]);
                path.extend_from_slice(name);
                return Err(TreeEditError::Collision { path });
            }
            (Some(id), None) => Some((EntryKind::Tree, id)),
            (None, file) => file,
        };
        if was == is {
            continue;
        }
        changed = true;
        match (entries.entry(name.to_owned()), is) {
            (Entry::Occupied(entry), None) => drop(entry.remove()),
            (Entry::Vacant(_), None) => {}
            (Entry::Occupied(mut entry), Some(is)) => drop(entry.insert(is)),
            (Entry::Vacant(entry), Some(is)) => drop(entry.insert(is)),
        }
    }
    if entries.is_empty() {
        return Ok(None);
    }
    match tree {
        Some(tree) if !changed => Ok(Some(tree.to_owned())),
        _ => Ok(Some(sink.write(Kind::Tree, &encode(&entries))?)),
    }
}

/// The bytes of a tree.
fn encode(entries: &BTreeMap<BString, (EntryKind, ObjectId)>) -> Vec<u8> {
    let mut sorted: Vec<_> = entries.iter().collect();
    // As if names of directories ended in a slash.
    let end = |kind: EntryKind| (kind == EntryKind::Tree).then_some(b'/');
    sorted.sort_by(|(a, (a_kind, _)), (b, (b_kind, _))| {
        let a = a.iter().copied().chain(end(*a_kind));
        a.cmp(b.iter().copied().chain(end(*b_kind)))
    });
    let mut out = Vec::new();
    for (name, (kind, id)) in sorted {
        out.extend_from_slice(kind.as_octal_str());
        out.push(b' ');
        out.extend_from_slice(name);
        out.push(0);
        out.extend_from_slice(id.as_slice());
    }
    out
}

#[cfg(test)]
#[path = "tree_edit_tests.rs"]
mod tests;
