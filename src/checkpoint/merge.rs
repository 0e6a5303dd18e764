use std::{collections::HashMap, ops::ControlFlow};

use bstr::BString;
use gix::{
    diff::blob::{Algorithm, Diff, Hunk, InternedInput},
    hash::{ObjectId, oid},
    objs::{Kind, tree::EntryKind},
};

use super::{
    DiffOptions, FileChange, ReadError, TreeEditError, changes,
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
/// A file that one side moved and the other changed has the change in its new place; one that was moved and removed, or moved to two places, is a conflict.
/// Directories are not followed. Attributes and drivers of the repository are not looked at.
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
    let (mut conflicts, mut moved, mut both_gone) = (Vec::new(), Vec::new(), Vec::new());
    let mut failed = None;
    let walked = diff_trees(odb, base, theirs, &mut |change| {
        match merge_path(odb, sink, ours, &change) {
            Ok(Resolved::Ours) => {}
            Ok(Resolved::BothGone) => both_gone.push(change.path),
            Ok(Resolved::To(to)) => {
                edits.insert(change.path, to);
            }
            Ok(Resolved::Conflict(ConflictKind::ChangedAndGone)) if moved.len() < CONFLICTS => moved.push(change),
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
    // Were they only moved? It is not asked when it does not matter any more.
    if conflicts.is_empty() {
        let mut renames = Renames::new(odb, base, ours, theirs);
        for path in both_gone {
            if conflicts.len() < CONFLICTS && renames.differ(&path)? {
                let kind = ConflictKind::ChangedAndGone;
                conflicts.push(Conflict { path, kind });
            }
        }
        for change in moved {
            let path = change.path.clone();
            if let Some(kind) = renames.follow(sink, change, &mut edits)? {
                conflicts.push(Conflict { path, kind });
            }
        }
    } else {
        let kind = ConflictKind::ChangedAndGone;
        conflicts.extend(moved.into_iter().map(|change| Conflict {
            path: change.path,
            kind,
        }));
        conflicts.sort_by(|a, b| a.path.cmp(&b.path));
    }
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
    /// Both sides have nothing there any more.
    BothGone,
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
        return Ok(match ours {
            Some(_) => Resolved::Ours,
            None => Resolved::BothGone,
        });
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
    let Some(base) = base else {
        return conflict(ConflictKind::BothNew);
    };
    match merge_entries(odb, sink, base, ours, theirs)? {
        Ok(merged) => Ok(Resolved::To(Some(merged))),
        Err(kind) => conflict(kind),
    }
}

/// Merges what two sides made of one file.
fn merge_entries(
    odb: &Odb,
    sink: &ObjectSink,
    base: (EntryKind, ObjectId),
    ours: (EntryKind, ObjectId),
    theirs: (EntryKind, ObjectId),
) -> Result<Result<(EntryKind, ObjectId), ConflictKind>, TreeEditError> {
    if ours == base || ours == theirs {
        return Ok(Ok(theirs));
    }
    if theirs == base {
        return Ok(Ok(ours));
    }
    let is_file = |kind: EntryKind| matches!(kind, EntryKind::Blob | EntryKind::BlobExecutable);
    if !(is_file(base.0) && is_file(ours.0) && is_file(theirs.0)) {
        return Ok(Err(ConflictKind::Kind));
    }
    let kind = if ours.0 == base.0 { theirs.0 } else { ours.0 };
    let id = if ours.1 == base.1 || ours.1 == theirs.1 {
        theirs.1
    } else if theirs.1 == base.1 {
        ours.1
    } else {
        match merge_files(odb, sink, base.1, ours.1, theirs.1)? {
            Ok(id) => id,
            Err(kind) => return Ok(Err(kind)),
        }
    };
    Ok(Ok((kind, id)))
}

/// Where files went, on both sides; found when it is asked for.
struct Renames<'a> {
    odb: &'a Odb,
    base: Option<&'a oid>,
    ours: Option<&'a oid>,
    theirs: Option<&'a oid>,
    found: [Option<HashMap<BString, FileChange>>; 2],
}

impl<'a> Renames<'a> {
    fn new(odb: &'a Odb, base: Option<&'a oid>, ours: Option<&'a oid>, theirs: Option<&'a oid>) -> Self {
        Renames {
            odb,
            base,
            ours,
            theirs,
            found: [None, None],
        }
    }

    /// The file that was at `path` in the base, where it is now on our side (0) or on theirs (1).
    fn of(&mut self, side: usize, path: &BString) -> Result<Option<FileChange>, TreeEditError> {
        if self.found[side].is_none() {
            let to = [self.ours, self.theirs][side];
            let all = changes(self.odb, self.base, to, &DiffOptions::default())?;
            let renames = all.files.into_iter();
            let renames = renames
                .filter_map(|file| Some((file.old_path.clone()?, file)))
                .collect();
            self.found[side] = Some(renames);
        }
        Ok(self.found[side].as_ref().and_then(|renames| renames.get(path)).cloned())
    }

    /// Both sides have nothing at `path`: whether the file went to different places, one of which may be nowhere.
    fn differ(&mut self, path: &BString) -> Result<bool, TreeEditError> {
        let [ours, theirs] = [self.of(0, path)?, self.of(1, path)?];
        Ok(ours.map(|file| file.path) != theirs.map(|file| file.path))
    }

    /// One side changed `change.path` and the other has nothing there: brings the change to where the file went. Says what stands against it.
    fn follow(
        &mut self,
        sink: &ObjectSink,
        change: TreeChange,
        edits: &mut Edits,
    ) -> Result<Option<ConflictKind>, TreeEditError> {
        let gone = Ok(Some(ConflictKind::ChangedAndGone));
        let odb = self.odb;
        let at = |tree: Option<&oid>, path: &BString| match tree {
            Some(tree) => entry_at(odb, tree, path.as_ref()).map_err(ReadError::from),
            None => Ok(None),
        };
        let here = at(self.ours, &change.path)?;
        // The side that moved it, and what the other one made of it.
        let (side, stayed) = if change.to.is_none() { (1, here) } else { (0, change.to) };
        let Some(rename) = self.of(side, &change.path)? else {
            return gone;
        };
        let other = [self.theirs, self.ours][side];
        if at(self.base, &rename.path)?.is_some() || at(other, &rename.path)?.is_some() {
            return gone;
        }
        let (Some(base), Some(moved), Some(stayed)) = (change.from, rename.to, stayed) else {
            return gone;
        };
        match merge_entries(odb, sink, base, moved, stayed)? {
            Ok(merged) => {
                edits.insert(change.path, None);
                edits.insert(rename.path, Some(merged));
                Ok(None)
            }
            Err(kind) => Ok(Some(kind)),
        }
    }
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
