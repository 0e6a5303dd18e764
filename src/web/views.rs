//! Checkpoints as JSON: what the HTTP API answers and what `--json` prints.

use bstr::{BStr, BString, ByteSlice as _};
use gix::{hash::ObjectId, objs::tree::EntryKind};
use serde::Serialize;

use crate::{
    base::rfc3339,
    checkpoint::{
        ChangeKind, CheckpointMessage, CommitInfo, Conflict, Diff, FileChange, FileDiff, ListedEntry, Listing,
        LogEntry, LogPage, Looked, Outcome, PatchContent, Placed, Restored, Shown, Signature,
    },
    workspace::{SkipReason, WorkspaceEntry},
};

/// A path. Text in JSON cannot hold every path: one that is not UTF-8 has replacement characters in `path`, and its bytes, percent-encoded, in `path_encoded`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PathView {
    /// The path as text.
    pub path: String,
    /// The path as it goes into a URL; only where `path` is not the whole truth.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_encoded: Option<String>,
}

impl PathView {
    /// The view of a path.
    pub fn of(path: &BStr) -> Self {
        PathView {
            path: path.to_str_lossy().into_owned(),
            path_encoded: path.to_str().is_err().then(|| percent_encoded(path)),
        }
    }
}

fn percent_encoded(path: &BStr) -> String {
    let mut out = String::new();
    for &byte in path.iter() {
        if byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// A file that is not recorded, or not as it is, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SkippedView {
    /// Which.
    #[serde(flatten)]
    pub path: PathView,
    /// Why, for programs.
    pub reason: &'static str,
    /// Why, for people.
    pub text: &'static str,
}

fn skipped(all: &[(BString, SkipReason)]) -> Vec<SkippedView> {
    let view = |(path, why): &(BString, SkipReason)| SkippedView {
        path: PathView::of(path.as_bstr()),
        reason: match why {
            SkipReason::Special => "special",
            SkipReason::Unreadable => "unreadable",
            SkipReason::TooLarge => "too_large",
            SkipReason::NestedRepository => "nested_repository",
            SkipReason::EmptyRepository => "empty_repository",
            SkipReason::Changing => "changing",
            SkipReason::TooDeep => "too_deep",
            SkipReason::IllegalName => "illegal_name",
            SkipReason::Secret => "secret",
            SkipReason::Encoding => "encoding",
        },
        text: why.text(),
    };
    all.iter().map(view).collect()
}

/// A side of a change: git's mode and the object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SideView {
    /// `100644`, `100755`, `120000` (a link) or `160000` (another repository).
    pub mode: &'static str,
    /// The object.
    pub id: String,
}

fn side(entry: Option<(EntryKind, ObjectId)>) -> Option<SideView> {
    entry.map(|(kind, id)| SideView {
        mode: mode_of(kind),
        id: id.to_string(),
    })
}

/// git's mode of an entry.
pub(super) fn mode_of(kind: EntryKind) -> &'static str {
    match kind {
        EntryKind::Tree => "040000",
        EntryKind::Blob => "100644",
        EntryKind::BlobExecutable => "100755",
        EntryKind::Link => "120000",
        EntryKind::Commit => "160000",
    }
}

/// A file that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ChangeView {
    /// Its path, for renamed files the new one.
    #[serde(flatten)]
    pub path: PathView,
    /// `added`, `deleted`, `modified`, `type_changed` or `renamed`.
    pub kind: &'static str,
    /// The path of a renamed file before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub old_path: Option<PathView>,
    /// How much of a renamed file is the same, in percent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub similarity: Option<u8>,
    /// What it was; null when it was not there.
    pub from: Option<SideView>,
    /// What it is; null when it is not there any more.
    pub to: Option<SideView>,
}

impl From<&FileChange> for ChangeView {
    fn from(change: &FileChange) -> Self {
        let (kind, similarity) = match change.kind {
            ChangeKind::Added => ("added", None),
            ChangeKind::Deleted => ("deleted", None),
            ChangeKind::Modified => ("modified", None),
            ChangeKind::TypeChanged => ("type_changed", None),
            ChangeKind::Renamed { similarity } => ("renamed", Some(similarity)),
        };
        ChangeView {
            path: PathView::of(change.path.as_bstr()),
            kind,
            old_path: change.old_path.as_ref().map(|path| PathView::of(path.as_bstr())),
            similarity,
            from: side(change.from),
            to: side(change.to),
        }
    }
}

fn changes(all: &[FileChange]) -> Vec<ChangeView> {
    all.iter().map(ChangeView::from).collect()
}

/// Where a checkpoint went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlaceView {
    /// The ref, in full.
    pub reference: String,
    /// `branch`, or why it is beside the branch: `shadow` (as asked), `detached` (HEAD names no branch), `in_progress` (git is in the middle of something).
    pub placed: &'static str,
    /// Of what git is in the middle.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub in_progress: Option<&'static str>,
}

impl PlaceView {
    fn of(reference: &BString, placed: Placed) -> Self {
        let (placed, in_progress) = match placed {
            Placed::Branch => ("branch", None),
            Placed::Shadow => ("shadow", None),
            Placed::Detached => ("detached", None),
            Placed::InProgress(what) => ("in_progress", Some(what)),
        };
        PlaceView {
            reference: reference.to_string(),
            placed,
            in_progress,
        }
    }
}

/// What a checkpoint made.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OutcomeView {
    /// The commit; null when nothing was recorded.
    pub commit: Option<String>,
    /// The tree of the workspace.
    pub tree: String,
    /// The commit before.
    pub parent: Option<String>,
    /// Where it went.
    #[serde(flatten)]
    pub place: PlaceView,
    /// How many files differ from the commit before.
    pub changed: usize,
    /// Which, at most [`Outcome::CHANGES`] of them.
    pub changes: Vec<ChangeView>,
    /// What is not recorded, or not as it is.
    pub skipped: Vec<SkippedView>,
    /// How changes were found: `watch`, `scan` or `scan_after_overflow`.
    pub looked: &'static str,
    /// How many files were read.
    pub read: usize,
    /// What somebody should know.
    pub warnings: Vec<String>,
    /// How long it took, in milliseconds.
    pub took_ms: f64,
}

impl From<&Outcome> for OutcomeView {
    fn from(outcome: &Outcome) -> Self {
        OutcomeView {
            commit: outcome.commit.map(|id| id.to_string()),
            tree: outcome.tree.to_string(),
            parent: outcome.parent.map(|id| id.to_string()),
            place: PlaceView::of(&outcome.reference, outcome.placed),
            changed: outcome.changed,
            changes: changes(&outcome.changes),
            skipped: skipped(&outcome.skipped),
            looked: match outcome.looked {
                Looked::Watch => "watch",
                Looked::Scan => "scan",
                Looked::ScanAfterOverflow => "scan_after_overflow",
            },
            read: outcome.read,
            warnings: outcome.warnings.clone(),
            took_ms: outcome.took.as_micros() as f64 / 1000.0,
        }
    }
}

/// Who, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SignatureView {
    /// The name.
    pub name: String,
    /// The address.
    pub email: String,
    /// When, as RFC 3339 has it.
    pub time: String,
    /// When, in seconds since the epoch.
    pub seconds: i64,
}

impl From<&Signature> for SignatureView {
    fn from(signature: &Signature) -> Self {
        SignatureView {
            name: signature.name.to_string(),
            email: signature.email.to_string(),
            time: rfc3339(signature.seconds, signature.offset_minutes),
            seconds: signature.seconds,
        }
    }
}

/// What the message of a checkpoint says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SaidView {
    /// The tool.
    pub tool: Option<String>,
    /// What it did.
    pub summary: String,
    /// Who worked.
    pub agent: Option<String>,
    /// In which session.
    pub session: Option<String>,
    /// In which turn of it.
    pub turn: Option<u64>,
    /// The agent's ids of the tool executions.
    pub tool_use_ids: Vec<String>,
    /// `ok`, `failed` or `interrupted`.
    pub outcome: Option<&'static str>,
    /// How long the tool took, in milliseconds.
    pub duration_ms: Option<u64>,
    /// All other trailers, in their order.
    pub trailers: Vec<TrailerView>,
}

/// A trailer of a caller's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TrailerView {
    /// Its key.
    pub key: String,
    /// Its value.
    pub value: String,
}

impl From<&CheckpointMessage> for SaidView {
    fn from(said: &CheckpointMessage) -> Self {
        let trailer = |(key, value): &(String, String)| TrailerView {
            key: key.clone(),
            value: value.clone(),
        };
        SaidView {
            tool: said.tool.clone(),
            summary: said.summary.clone(),
            agent: said.agent.clone(),
            session: said.session.clone(),
            turn: said.turn,
            tool_use_ids: said.tool_uses.clone(),
            outcome: said.outcome.map(|outcome| outcome.as_str()),
            duration_ms: said
                .duration
                .map(|took| u64::try_from(took.as_millis()).unwrap_or(u64::MAX)),
            trailers: said.trailers.iter().map(trailer).collect(),
        }
    }
}

/// A commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CommitView {
    /// Its id.
    pub id: String,
    /// Its tree.
    pub tree: String,
    /// Its parents.
    pub parents: Vec<String>,
    /// The first paragraph of its message as one line.
    pub subject: String,
    /// The message.
    pub message: String,
    /// Who made the change: the agent.
    pub author: SignatureView,
    /// Who made the commit.
    pub committer: SignatureView,
    /// Whether it carries a signature. Nothing is said about its worth.
    pub signed: bool,
    /// What a checkpoint says; null for other commits.
    pub checkpoint: Option<SaidView>,
}

impl From<&CommitInfo> for CommitView {
    fn from(commit: &CommitInfo) -> Self {
        CommitView {
            id: commit.id.to_string(),
            tree: commit.tree.to_string(),
            parents: commit.parents.iter().map(ToString::to_string).collect(),
            subject: commit.subject(),
            message: commit.message.to_string(),
            author: (&commit.author).into(),
            committer: (&commit.committer).into(),
            signed: commit.is_signed,
            checkpoint: commit.checkpoint.as_ref().map(SaidView::from),
        }
    }
}

/// A commit in a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LogEntryView {
    /// The commit.
    #[serde(flatten)]
    pub commit: CommitView,
    /// Whether it changed any file.
    pub changed: bool,
}

/// A page of a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LogView {
    /// Newest first.
    pub checkpoints: Vec<LogEntryView>,
    /// Where the next page begins; null at the end.
    pub next: Option<String>,
}

impl From<&LogPage> for LogView {
    fn from(page: &LogPage) -> Self {
        let entry = |entry: &LogEntry| LogEntryView {
            commit: (&entry.commit).into(),
            changed: entry.changed,
        };
        LogView {
            checkpoints: page.entries.iter().map(entry).collect(),
            next: page.next.as_ref().map(ToString::to_string),
        }
    }
}

impl LogView {
    /// The log of a branch without a commit.
    pub fn empty() -> Self {
        LogView {
            checkpoints: Vec::new(),
            next: None,
        }
    }
}

/// A commit with what it changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ShownView {
    /// The commit.
    #[serde(flatten)]
    pub commit: CommitView,
    /// The files that differ from its first parent.
    pub changes: Vec<ChangeView>,
    /// There are more.
    pub more: bool,
}

impl From<&Shown> for ShownView {
    fn from(shown: &Shown) -> Self {
        ShownView {
            commit: (&shown.commit).into(),
            changes: changes(&shown.changes.files),
            more: shown.changes.more,
        }
    }
}

/// One file of a difference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileDiffView {
    /// Which file.
    #[serde(flatten)]
    pub change: ChangeView,
    /// Lines that came; null where lines were not compared.
    pub added: Option<u32>,
    /// Lines that went; null where lines were not compared.
    pub removed: Option<u32>,
    /// `text`; else why `patch` has no lines: `binary`, `too_large`, `left_out`, `not_read`.
    pub content: &'static str,
    /// The difference as git writes it. Bytes that are not UTF-8 are replaced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patch: Option<String>,
}

/// A difference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DiffView {
    /// The commit before, or null for nothing.
    pub from: Option<String>,
    /// The commit after, or `live`.
    pub to: String,
    /// In the order of their paths.
    pub files: Vec<FileDiffView>,
    /// There are more.
    pub more: bool,
    /// There were too many files to look for renames among all of them.
    pub renames_skipped: bool,
    /// Live files that no checkpoint would have, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub skipped: Vec<SkippedView>,
}

impl DiffView {
    /// The view of a difference; `patches` says whether the lines are shown.
    pub fn of(
        diff: &Diff,
        from: Option<String>,
        to: String,
        patches: bool,
        left_out: &[(BString, SkipReason)],
    ) -> Self {
        let file = |file: &FileDiff| FileDiffView {
            change: (&file.change).into(),
            added: file.added,
            removed: file.removed,
            content: match file.content {
                PatchContent::Text => "text",
                PatchContent::LeftOut => "left_out",
                PatchContent::Binary => "binary",
                PatchContent::TooLarge => "too_large",
                PatchContent::NotRead => "not_read",
            },
            patch: patches.then(|| file.patch.to_str_lossy().into_owned()),
        };
        DiffView {
            from,
            to,
            files: diff.files.iter().map(file).collect(),
            more: diff.more,
            renames_skipped: diff.renames_skipped,
            skipped: skipped(left_out),
        }
    }
}

/// What a restore or an undo did, or would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RestoredView {
    /// Whether nothing was done on purpose.
    pub dry_run: bool,
    /// The new checkpoint; null when nothing had to change.
    pub commit: Option<String>,
    /// The checkpoint of what was unsaved before it.
    pub saved: Option<String>,
    /// There was something unsaved.
    pub was_unsaved: bool,
    /// Where the new checkpoint went.
    #[serde(flatten)]
    pub place: PlaceView,
    /// How many files change.
    pub changed: usize,
    /// Which, at most [`Restored::CHANGES`] of them.
    pub changes: Vec<ChangeView>,
    /// Files that are not as the new checkpoint has them, and why.
    pub left: Vec<WhyView>,
    /// Files that no checkpoint has, and why.
    pub skipped: Vec<SkippedView>,
}

impl RestoredView {
    /// The view of it.
    pub fn of(restored: &Restored, dry_run: bool) -> Self {
        RestoredView {
            dry_run,
            commit: restored.commit.map(|id| id.to_string()),
            saved: restored.saved.map(|id| id.to_string()),
            was_unsaved: restored.was_unsaved,
            place: PlaceView::of(&restored.reference, restored.placed),
            changed: restored.changed,
            changes: changes(&restored.changes),
            left: restored.left.iter().map(|(path, why)| WhyView::of(path, why)).collect(),
            skipped: skipped(&restored.skipped),
        }
    }
}

/// A path, and what is to be said about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WhyView {
    /// Which.
    #[serde(flatten)]
    pub path: PathView,
    /// What.
    pub text: &'static str,
}

impl WhyView {
    fn of(path: &BString, text: &'static str) -> Self {
        WhyView {
            path: PathView::of(path.as_bstr()),
            text,
        }
    }
}

/// The paths of an undo or a squash that do not go together with what was done since.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ConflictsView {
    /// Up to a thousand of them.
    pub conflicts: Vec<WhyView>,
}

impl From<&[Conflict]> for ConflictsView {
    fn from(conflicts: &[Conflict]) -> Self {
        let view = |conflict: &Conflict| WhyView::of(&conflict.path, conflict.kind.text());
        ConflictsView {
            conflicts: conflicts.iter().map(view).collect(),
        }
    }
}

/// An entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TreeEntryView {
    /// From the root.
    #[serde(flatten)]
    pub path: PathView,
    /// `file`, `link`, `directory` or `repository`.
    pub kind: &'static str,
    /// git's mode.
    pub mode: &'static str,
    /// Its object.
    pub id: String,
    /// Bytes of a file or a link.
    pub size: Option<u64>,
}

/// What a directory has in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TreeView {
    /// The commit that it was looked for in.
    pub at: String,
    /// In git's order.
    pub entries: Vec<TreeEntryView>,
    /// The path to go on after (`?after=`); null at the end.
    pub next: Option<String>,
}

impl TreeView {
    /// The view of a listing.
    pub fn of(listing: &Listing, at: String) -> Self {
        let entry = |entry: &ListedEntry| TreeEntryView {
            path: PathView::of(entry.path.as_bstr()),
            kind: match entry.kind {
                EntryKind::Tree => "directory",
                EntryKind::Blob | EntryKind::BlobExecutable => "file",
                EntryKind::Link => "link",
                EntryKind::Commit => "repository",
            },
            mode: mode_of(entry.kind),
            id: entry.id.to_string(),
            size: entry.size,
        };
        let last = listing.entries.last().filter(|_| listing.more);
        TreeView {
            at,
            entries: listing.entries.iter().map(entry).collect(),
            next: last.map(|last| percent_encoded(last.path.as_bstr())),
        }
    }
}

/// A workspace of a repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WorkspaceView {
    /// Its name.
    pub name: String,
    /// The branch that it is on, in full; null when it is on none.
    pub branch: Option<String>,
    /// The commit that it is at.
    pub commit: Option<String>,
    /// Whether Gitstead made it.
    pub managed: bool,
    /// `ready`, `creating`, `removing` or `missing`.
    pub state: &'static str,
}

impl From<&WorkspaceEntry> for WorkspaceView {
    fn from(entry: &WorkspaceEntry) -> Self {
        WorkspaceView {
            name: entry.name.to_string(),
            branch: entry.branch.as_ref().map(ToString::to_string),
            commit: entry.commit.map(|id| id.to_string()),
            managed: entry.managed,
            state: entry.state.as_str(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_is_no_text_can_still_be_asked_for() {
        let plain = PathView::of("a b/ü".into());
        assert_eq!((plain.path.as_str(), plain.path_encoded), ("a b/ü", None));
        let odd = PathView::of(b"a b/\xff".as_bstr());
        assert_eq!(odd.path_encoded.as_deref(), Some("a%20b/%FF"));
    }
}
