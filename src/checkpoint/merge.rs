use std::ops::ControlFlow;

use bstr::BString;
use gix::{
    diff::blob::{Algorithm, Diff, Hunk, InternedInput},
    hash::{ObjectId, oid},
    objs::{Kind, tree::EntryKind},
};

use super::{
    ReadError, TreeEditError,
    diff::is_binary,
    tree_edit::{Edits, edit_tree},
};
use crate::repo::{ObjectSink, Odb, TreeChange, diff_trees, entry_at};

/// Bytes of a file, on any side, above which its lines are not merged.
const FILE_BYTES: u64 = 16 << 20;
/// Conflicts that are listed.
const CONFLICTS: usize = 1_000;

/// Why a path could not be merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ConflictKind {
    /// Both sides changed the same lines, or lines that touch.
    Content,
    /// Both sides changed a file that is not text.
    Binary,
    /// Both sides changed a file that is too large to merge its lines.
    TooLarge,
    /// One side changed what the other took away.
    ChangedAndGone,
    /// Both sides have a new file there, and not the same.
    BothNew,
    /// Both sides changed it, and it is a link or another repository on one of them at least.
    Kind,
    /// A file on one side is a directory on the other.
    FileAndDirectory,
}

impl ConflictKind {
    /// What to tell a person.
    pub fn text(self) -> &'static str {
        match self {
            ConflictKind::Content => "both sides changed the same lines",
            ConflictKind::Binary => "both sides changed a binary file",
            ConflictKind::TooLarge => "both sides changed a file that is too large to merge",
            ConflictKind::ChangedAndGone => "one side changed it and the other removed it",
            ConflictKind::BothNew => "both sides made a new file of that name",
            ConflictKind::Kind => "both sides changed it, and it is not a file on both",
            ConflictKind::FileAndDirectory => "it is a file on one side and a directory on the other",
        }
    }
}

/// A path that two sides changed in ways that do not go together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// Where.
    pub path: BString,
    /// Why.
    pub kind: ConflictKind,
}

/// What came of a merge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Merge {
    /// Everything went together: the tree of it.
    Clean(ObjectId),
    /// Some paths did not, up to a thousand of them. There is no tree.
    Conflicts(Vec<Conflict>),
}

/// Merges what became of `base` on two sides, path by path, and text files line by line. Changes that touch one another are a conflict unless they are the same. New
/// objects go to `sink`, which is the caller's to publish; after a conflict there may be some in it that nothing needs.
///
/// Renames are not followed: a file that one side moved and the other changed is a conflict. Attributes and drivers of the repository are not looked at.
///
/// # Errors
/// When objects cannot be read or written. Conflicts are not errors.
pub fn merge_trees(
    odb: &Odb,
    sink: &ObjectSink,
    base: Option<&oid>,
    ours: Option<&oid>,
    theirs: Option<&oid>,
) -> Result<Merge, TreeEditError> {
    let mut edits = Edits::new();
    let mut conflicts = Vec::new();
    let mut failed = None;
    let walked = diff_trees(odb, base, theirs, &mut |change| {
        match merge_path(odb, sink, ours, &change) {
            Ok(Resolved::Ours) => {}
            Ok(Resolved::To(to)) => {
                edits.insert(change.path, to);
            }
            Ok(Resolved::Conflict(kind)) => {
                let path = change.path;
                conflicts.push(Conflict { path, kind });
                if conflicts.len() == CONFLICTS {
                    return ControlFlow::Break(());
                }
            }
            Err(err) => {
                failed = Some(err);
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    });
    if let Some(err) = failed {
        return Err(err);
    }
    walked.map_err(ReadError::from)?;
    if !conflicts.is_empty() {
        return Ok(Merge::Conflicts(conflicts));
    }
    match edit_tree(odb, sink, ours, &edits) {
        Ok(tree) => Ok(Merge::Clean(tree)),
        Err(TreeEditError::Collision { path }) => Ok(Merge::Conflicts(vec![Conflict {
            path,
            kind: ConflictKind::FileAndDirectory,
        }])),
        Err(err) => Err(err),
    }
}

/// What is to be at a path.
enum Resolved {
    /// What we have.
    Ours,
    /// Something else.
    To(Option<(EntryKind, ObjectId)>),
    /// It is not known.
    Conflict(ConflictKind),
}

/// `change` is what they made of the base.
fn merge_path(
    odb: &Odb,
    sink: &ObjectSink,
    ours: Option<&oid>,
    change: &TreeChange,
) -> Result<Resolved, TreeEditError> {
    let ours = match ours {
        Some(tree) => entry_at(odb, tree, change.path.as_ref()).map_err(ReadError::from)?,
        None => None,
    };
    let (base, theirs) = (change.from, change.to);
    if ours == theirs {
        return Ok(Resolved::Ours);
    }
    if ours == base {
        return Ok(Resolved::To(theirs));
    }
    let conflict = |kind| Ok(Resolved::Conflict(kind));
    let (ours, theirs) = match (ours, theirs) {
        // A directory with files where the base has a file or nothing. Where we have a file in place of one of the base's directories, there is none of its files.
        (Some((EntryKind::Tree, _)), Some(_)) if base.is_none() => return Ok(Resolved::To(theirs)),
        (Some((EntryKind::Tree, _)), None) => return Ok(Resolved::Ours),
        (Some((EntryKind::Tree, _)), Some(_)) => return conflict(ConflictKind::FileAndDirectory),
        (Some(ours), Some(theirs)) => (ours, theirs),
        (None, Some(_)) | (Some(_), None) => return conflict(ConflictKind::ChangedAndGone),
        (None, None) => return Ok(Resolved::Ours),
    };
    let is_file = |kind: EntryKind| matches!(kind, EntryKind::Blob | EntryKind::BlobExecutable);
    let Some(base) = base else {
        return conflict(ConflictKind::BothNew);
    };
    if !(is_file(base.0) && is_file(ours.0) && is_file(theirs.0)) {
        return conflict(ConflictKind::Kind);
    }
    let kind = if ours.0 == base.0 { theirs.0 } else { ours.0 };
    let id = if ours.1 == base.1 || ours.1 == theirs.1 {
        theirs.1
    } else if theirs.1 == base.1 {
        ours.1
    } else {
        match merge_files(odb, sink, base.1, ours.1, theirs.1)? {
            Ok(id) => id,
            Err(kind) => return conflict(kind),
        }
    };
    Ok(Resolved::To(Some((kind, id))))
}

fn merge_files(
    odb: &Odb,
    sink: &ObjectSink,
    base: ObjectId,
    ours: ObjectId,
    theirs: ObjectId,
) -> Result<Result<ObjectId, ConflictKind>, TreeEditError> {
    let mut texts = [Vec::new(), Vec::new(), Vec::new()];
    for (id, text) in [base, ours, theirs].into_iter().zip(&mut texts) {
        let missing = || ReadError::Missing { id };
        let (_, size) = odb.header(&id).map_err(ReadError::from)?.ok_or_else(missing)?;
        if size > FILE_BYTES {
            return Ok(Err(ConflictKind::TooLarge));
        }
        match odb.read(&id, text).map_err(ReadError::from)?.ok_or_else(missing)? {
            Kind::Blob => {}
            _ => return Err(ReadError::Malformed { id }.into()),
        }
    }
    if texts.iter().any(|text| is_binary(text)) {
        return Ok(Err(ConflictKind::Binary));
    }
    match merge_lines(&texts[0], &texts[1], &texts[2]) {
        Some(text) => Ok(Ok(sink.write(Kind::Blob, &text)?)),
        None => Ok(Err(ConflictKind::Content)),
    }
}

/// Merges the lines of two texts that were made from a third one. `None` when both changed lines that overlap or touch, and not in the same way.
pub(crate) fn merge_lines(base: &[u8], ours: &[u8], theirs: &[u8]) -> Option<Vec<u8>> {
    let ours = Side::new(base, ours);
    let theirs = Side::new(base, theirs);
    let (mut a, mut b) = (ours.hunks.iter().peekable(), theirs.hunks.iter().peekable());
    let mut out = Vec::with_capacity(base.len());
    // Lines of the base that were dealt with.
    let mut at = 0;
    loop {
        let start = match (a.peek(), b.peek()) {
            (None, None) => break,
            (Some(hunk), None) | (None, Some(hunk)) => hunk.before.start,
            (Some(a), Some(b)) => a.before.start.min(b.before.start),
        };
        // What both sides changed from here on, as far as it touches.
        let mut end = start;
        let (mut from_a, mut from_b) = (Vec::new(), Vec::new());
        loop {
            let before = (from_a.len(), from_b.len());
            while let Some(hunk) = a.next_if(|hunk| hunk.before.start <= end) {
                end = end.max(hunk.before.end);
                from_a.push(hunk);
            }
            while let Some(hunk) = b.next_if(|hunk| hunk.before.start <= end) {
                end = end.max(hunk.before.end);
                from_b.push(hunk);
            }
            if before == (from_a.len(), from_b.len()) {
                break;
            }
        }
        ours.push_base(at, start, &mut out);
        if from_b.is_empty() {
            ours.push_changed(start, end, &from_a, &mut out);
        } else if from_a.is_empty() {
            theirs.push_changed(start, end, &from_b, &mut out);
        } else {
            let (mut left, mut right) = (Vec::new(), Vec::new());
            ours.push_changed(start, end, &from_a, &mut left);
            theirs.push_changed(start, end, &from_b, &mut right);
            if left != right {
                return None;
            }
            out.extend_from_slice(&left);
        }
        at = end;
    }
    ours.push_base(at, ours.input.before.len() as u32, &mut out);
    Some(out)
}

/// What one side made of the base.
struct Side<'a> {
    input: InternedInput<&'a [u8]>,
    hunks: Vec<Hunk>,
}

impl<'a> Side<'a> {
    fn new(base: &'a [u8], changed: &'a [u8]) -> Self {
        let input = InternedInput::new(base, changed);
        let mut diff = Diff::compute(Algorithm::Histogram, &input);
        diff.postprocess_no_heuristic(&input);
        let hunks = diff.hunks().collect();
        Side { input, hunks }
    }

    fn push_base(&self, from: u32, to: u32, out: &mut Vec<u8>) {
        for &token in &self.input.before[from as usize..to as usize] {
            out.extend_from_slice(self.input.interner[token]);
        }
    }

    /// The base's lines from `from` to `to` with these hunks, all of which lie between.
    fn push_changed(&self, from: u32, to: u32, hunks: &[&Hunk], out: &mut Vec<u8>) {
        let mut at = from;
        for hunk in hunks {
            self.push_base(at, hunk.before.start, out);
            for &token in &self.input.after[hunk.after.start as usize..hunk.after.end as usize] {
                out.extend_from_slice(self.input.interner[token]);
            }
            at = hunk.before.end;
        }
        self.push_base(at, to, out);
    }
}

#[cfg(test)]
#[path = "merge_tests.rs"]
mod tests;
