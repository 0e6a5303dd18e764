use std::ops::ControlFlow;

use bstr::{BString, ByteSlice};
use gix::hash::{ObjectId, oid};

use super::{
    Checkpoint, CheckpointError, CommitInfo, Conflict, DiffOptions, FileChange, Merge, Placed, ReadError,
    TreeEditError, changes,
    commit::{commit_of, read_commit},
    merge_trees,
    record::Target,
    tree_edit::{Edits, edit_tree},
};
use crate::{
    base::Fault,
    repo::{ObjectSink, Odb, SinkForm, TreeChange, diff_trees},
    workspace::{Durability, Held, SkipReason, TransitionError, Workspace, WorkspaceError, prepare},
};

/// How often the workspace may change under a restore.
const ATTEMPTS: usize = 8;
/// In a checkpoint: which one it brought back.
const RESTORES: &str = "Restores";
/// In a checkpoint: which one it took back.
const UNDOES: &str = "Undoes";

/// How a checkpoint is brought back or taken back.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct RestoreOptions {
    /// Only these files, and what is beneath these directories; all when there are none. An undo takes back everything, whatever this says.
    pub paths: Vec<BString>,
    /// Say what would change, and change nothing.
    pub dry_run: bool,
    /// What the new checkpoint says; by default, what was restored or undone.
    pub message: Option<Checkpoint>,
}

/// What a restore or an undo did, or would do.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Restored {
    /// The new checkpoint. `None` when it was a dry run or nothing had to change.
    pub commit: Option<ObjectId>,
    /// The checkpoint of what was unsaved before it. `None` when everything was saved.
    pub saved: Option<ObjectId>,
    /// There was something unsaved.
    pub was_unsaved: bool,
    /// The ref that names the new checkpoint, in full.
    pub reference: BString,
    /// Where the new checkpoint went.
    pub placed: Placed,
    /// The files that change, at most [`Restored::CHANGES`] of them.
    pub changes: Vec<FileChange>,
    /// How many files change.
    pub changed: usize,
    /// Files that are not as the new checkpoint has them, and why: somebody changed them in the meantime, and the next checkpoint records that.
    pub left: Vec<(BString, &'static str)>,
    /// Files that no checkpoint has, and why. They stay as they are.
    pub skipped: Vec<(BString, SkipReason)>,
}

impl Restored {
    /// The most changes that are listed; [`changed`](Self::changed) counts all of them.
    pub const CHANGES: usize = 10_000;
}

/// What came of an undo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Undone {
    /// It was taken back.
    Done(Restored),
    /// Later changes do not go together with taking it back. Nothing has changed.
    Conflicts(Vec<Conflict>),
}

/// Why a checkpoint was not brought back or taken back.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// What was asked for could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The new tree could not be made.
    #[error(transparent)]
    Tree(#[from] TreeEditError),
    /// The new checkpoint, or the one before it, could not be made.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// git is in the middle of something in this workspace.
    #[error("git is in the middle of a {what} in this workspace")]
    InProgress {
        /// Of what.
        what: &'static str,
    },
    /// A file stands in the way, and nothing has changed; or the checkpoint is made and the files follow when the workspace is used next.
    #[error("{text}")]
    Files {
        /// What happened, without paths of the server.
        text: String,
        /// Whose move it is.
        fault: Fault,
        /// What was said about it.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The workspace changed again and again.
    #[error("the workspace keeps changing")]
    Moving,
}

impl RestoreError {
    /// Whose move it is.
    pub fn fault(&self) -> Fault {
        match self {
            RestoreError::Read(err) => err.fault(),
            RestoreError::Tree(err) => err.fault(),
            RestoreError::Checkpoint(err) => err.fault(),
            RestoreError::InProgress { .. } => Fault::Client,
            RestoreError::Files { fault, .. } => *fault,
            RestoreError::Moving => Fault::Busy,
        }
    }
}

impl From<TransitionError> for RestoreError {
    fn from(err: TransitionError) -> Self {
        RestoreError::Files {
            text: err.public_text(),
            fault: err.fault(),
            source: Box::new(err),
        }
    }
}

impl From<WorkspaceError> for RestoreError {
    fn from(err: WorkspaceError) -> Self {
        RestoreError::Checkpoint(err.into())
    }
}

impl Workspace {
    /// Brings the files of a commit back, as a new checkpoint. Any commit of the repository will do.
    ///
    /// What is unsaved becomes a checkpoint first, so a restore can itself be undone. Files that no checkpoint has, because they are ignored or withheld, are never
    /// overwritten or removed. History is not rewritten.
    ///
    /// ```
    /// use gitstead::checkpoint::RestoreOptions;
    /// # use gitstead::{checkpoint::Checkpoint, workspace::Workspace};
    ///
    /// # let dir = tempfile::tempdir()?;
    /// # let git = dir.path().join(".git");
    /// # for sub in ["objects", "refs/heads"] { std::fs::create_dir_all(git.join(sub))?; }
    /// # std::fs::write(git.join("HEAD"), "ref: refs/heads/main\n")?;
    /// # let path = dir.path();
    /// # let workspace = Workspace::open(path)?;
    /// std::fs::write(path.join("report.md"), "# Report\n")?;
    /// let good = workspace.checkpoint(Checkpoint::after("Write", "Created report.md"))?;
    /// std::fs::write(path.join("report.md"), "overwritten by mistake\n")?;
    ///
    /// let mut options = RestoreOptions::default();
    /// options.paths = vec!["report.md".into()];
    /// let restored = workspace.restore(&good.commit.expect("recorded"), &options)?;
    /// assert_eq!(std::fs::read_to_string(path.join("report.md"))?, "# Report\n");
    /// // The mistake is a checkpoint, too: nothing is lost.
    /// assert!(restored.saved.is_some());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// `Read` when there is no such commit or path; `Files` when something that is saved nowhere is in the way. Nothing has changed then, but that unsaved work may
    /// have been saved.
    pub fn restore(&self, commit: &oid, options: &RestoreOptions) -> Result<Restored, RestoreError> {
        self.lock()?.restore(commit, options)
    }

    /// Takes back what one commit changed, as a new checkpoint, and keeps what was done since.
    ///
    /// ```
    /// use gitstead::checkpoint::{RestoreOptions, Undone};
    /// # use gitstead::{checkpoint::Checkpoint, workspace::Workspace};
    ///
    /// # let dir = tempfile::tempdir()?;
    /// # let git = dir.path().join(".git");
    /// # for sub in ["objects", "refs/heads"] { std::fs::create_dir_all(git.join(sub))?; }
    /// # std::fs::write(git.join("HEAD"), "ref: refs/heads/main\n")?;
    /// # let path = dir.path();
    /// # let workspace = Workspace::open(path)?;
    /// std::fs::write(path.join("mistake"), "x")?;
    /// let mistake = workspace.checkpoint(Checkpoint::after("Write", "A mistake"))?;
    /// std::fs::write(path.join("report.md"), "# Report\n")?;
    ///
    /// match workspace.undo(&mistake.commit.expect("recorded"), &RestoreOptions::default())? {
    ///     Undone::Done(restored) => assert_eq!(restored.changes[0].path, "mistake"),
    ///     Undone::Conflicts(conflicts) => println!("later work needs it: {conflicts:?}"),
    /// }
    /// assert!(path.join("report.md").exists() && !path.join("mistake").exists());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`restore`](Self::restore).
    pub fn undo(&self, commit: &oid, options: &RestoreOptions) -> Result<Undone, RestoreError> {
        self.lock()?.undo(commit, options)
    }
}

/// What the files shall be, or why they cannot be that.
type Wanted = Result<ObjectId, Vec<Conflict>>;

impl Held<'_> {
    /// As [`Workspace::restore`], in a workspace that is held already.
    ///
    /// # Errors
    /// As there.
    pub fn restore(&mut self, commit: &oid, options: &RestoreOptions) -> Result<Restored, RestoreError> {
        let odb = self.repository().odb().map_err(ReadError::from)?;
        let source = commit_of(&odb, commit)?;
        let text = match options.paths.as_slice() {
            [] => format!("Restored {source}"),
            [path] => format!("Restored {path} of {source}"),
            paths => format!("Restored {} paths of {source}", paths.len()),
        };
        let message = options.message.clone();
        let message = message
            .unwrap_or_else(|| Checkpoint::after("Restore", text))
            .trailer(RESTORES, source.id.to_string());
        let outcome = self.become_tree(&message, options.dry_run, &|odb, sink, now| {
            restored_tree(odb, sink, now, &source, &options.paths).map(Ok)
        })?;
        match outcome {
            Undone::Done(restored) => Ok(restored),
            Undone::Conflicts(_) => Err(RestoreError::Moving),
        }
    }

    /// As [`Workspace::undo`], in a workspace that is held already.
    ///
    /// # Errors
    /// As there.
    pub fn undo(&mut self, commit: &oid, options: &RestoreOptions) -> Result<Undone, RestoreError> {
        let odb = self.repository().odb().map_err(ReadError::from)?;
        let undone = commit_of(&odb, commit)?;
        let before = match undone.parents.first() {
            Some(parent) => Some(read_commit(&odb, parent)?.tree),
            None => None,
        };
        let message = options.message.clone();
        let message = message
            .unwrap_or_else(|| Checkpoint::after("Undo", format!("Undid {undone}")))
            .trailer(UNDOES, undone.id.to_string());
        self.become_tree(&message, options.dry_run, &|odb, sink, now| {
            let merge = merge_trees(odb, sink, Some(&undone.tree), Some(now), before.as_deref())?;
            Ok(match merge {
                Merge::Clean(tree) => Ok(tree),
                Merge::Conflicts(conflicts) => Err(conflicts),
            })
        })
    }

    /// Gives the workspace the tree that `wanted` makes of the present one, as a new checkpoint.
    fn become_tree(
        &mut self,
        message: &Checkpoint,
        dry_run: bool,
        wanted: &dyn Fn(&Odb, &ObjectSink, &ObjectId) -> Result<Wanted, RestoreError>,
    ) -> Result<Undone, RestoreError> {
        let mut saved = None;
        for _ in 0..ATTEMPTS {
            self.wait_for_git();
            let head = self.head()?;
            if let Some(what) = head.in_progress {
                return Err(RestoreError::InProgress { what });
            }
            let (live, skipped) = self.live_tree()?;
            let target = self.target(&head)?;
            // The live tree was written just now.
            let odb = self.repository().odb().map_err(ReadError::from)?;
            let last = match target.parents.first() {
                Some(parent) => Some(read_commit(&odb, parent)?.tree),
                None => None,
            };
            let was_unsaved = match last {
                Some(last) => last != live,
                None => !live.is_empty_tree(),
            };
            let sink = self
                .repository()
                .object_sink(SinkForm::Loose)
                .map_err(CheckpointError::from)?;
            let tree = match wanted(&odb, &sink, &live)? {
                Ok(tree) => tree,
                Err(conflicts) => return Ok(Undone::Conflicts(conflicts)),
            };
            let durable = self.options().durability == Durability::Each;
            let written = sink.publish(durable).map_err(CheckpointError::from)?;
            self.flush_later(written.unflushed);
            let odb = self.repository().odb().map_err(ReadError::from)?;
            let mut changes = Vec::new();
            diff_trees(&odb, Some(&live), Some(&tree), &mut |change| {
                changes.push(change);
                ControlFlow::Continue(())
            })
            .map_err(ReadError::from)?;
            let mut restored = Restored {
                commit: None,
                saved,
                was_unsaved: was_unsaved || saved.is_some(),
                reference: target.reference.clone(),
                placed: target.placed,
                changes: changes
                    .iter()
                    .take(Restored::CHANGES)
                    .cloned()
                    .map(FileChange::of)
                    .collect(),
                changed: changes.len(),
                left: Vec::new(),
                skipped,
            };
            if dry_run || changes.is_empty() {
                return Ok(Undone::Done(restored));
            }
            if was_unsaved {
                saved = self.save(message)?.or(saved);
                // The files may have changed once more: look again.
                continue;
            }
            let Some((commit, left)) = self.step_to(&target, tree, &changes, message)? else {
                continue;
            };
            (restored.commit, restored.left) = (Some(commit), left);
            return Ok(Undone::Done(restored));
        }
        Err(RestoreError::Moving)
    }

    fn save(&mut self, before: &Checkpoint) -> Result<Option<ObjectId>, RestoreError> {
        let mut checkpoint = Checkpoint::message("Unsaved work");
        if let Some(agent) = before.agent_name() {
            checkpoint = checkpoint.agent(agent);
        }
        Ok(self.checkpoint(checkpoint)?.commit)
    }

    /// Makes the commit, moves the ref and then the files. `None` when somebody changed the ref or the files meanwhile; neither has changed then.
    #[allow(clippy::type_complexity, reason = "the commit, and what was left")]
    fn step_to(
        &mut self,
        target: &Target,
        tree: ObjectId,
        changes: &[TreeChange],
        message: &Checkpoint,
    ) -> Result<Option<(ObjectId, Vec<(BString, &'static str)>)>, RestoreError> {
        let sink = self
            .repository()
            .object_sink(SinkForm::Loose)
            .map_err(CheckpointError::from)?;
        let commit = self.write_commit(&sink, tree, target, message)?;
        let durable = self.options().durability == Durability::Each;
        let written = sink.publish(durable).map_err(CheckpointError::from)?;
        self.flush_later(written.unflushed);
        let prepared = match prepare(
            self,
            changes,
            &commit,
            target.reference.as_bstr(),
            target.old.as_deref(),
        ) {
            Ok(prepared) => prepared,
            // Written since it was looked at: it is saved in the next attempt.
            Err(TransitionError::Unsaved { .. }) => return Ok(None),
            Err(err) => return Err(err.into()),
        };
        match self.move_ref(target, commit, message) {
            Ok(Ok(())) => {}
            Ok(Err(_)) => {
                prepared.abandon(self);
                return Ok(None);
            }
            Err(err) => {
                prepared.abandon(self);
                return Err(err.into());
            }
        }
        self.flush_ref_later(target, commit);
        let applied = prepared.finish(self)?;
        Ok(Some((commit, applied.left)))
    }
}

/// The tree of `source`, or `now` with some of its paths.
fn restored_tree(
    odb: &Odb,
    sink: &ObjectSink,
    now: &ObjectId,
    source: &CommitInfo,
    paths: &[BString],
) -> Result<ObjectId, RestoreError> {
    if paths.is_empty() {
        return Ok(source.tree);
    }
    let mut edits = Edits::new();
    for path in paths {
        let mut options = DiffOptions::default();
        (options.paths, options.renames, options.files) = (vec![path.clone()], None, usize::MAX);
        let found = changes(odb, Some(now), Some(&source.tree), &options)?;
        if found.files.is_empty() && !exists(odb, now, path)? && !exists(odb, &source.tree, path)? {
            return Err(ReadError::NoSuchPath {
                path: path.to_string(),
                tree: source.id,
            }
            .into());
        }
        edits.extend(found.files.into_iter().map(|file| (file.path, file.to)));
    }
    Ok(edit_tree(odb, sink, Some(now), &edits)?)
}

fn exists(odb: &Odb, tree: &ObjectId, path: &BString) -> Result<bool, ReadError> {
    let path = super::commit::trimmed(path.as_bstr());
    Ok(crate::repo::entry_at(odb, tree, path)?.is_some())
}

#[cfg(test)]
#[path = "restore_tests.rs"]
mod tests;
