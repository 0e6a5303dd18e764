//! A commit that comes from elsewhere, by a push, into a workspace in which an agent works.

use std::{collections::HashMap, ops::ControlFlow, time::Duration};

use bstr::{BStr, BString, ByteSlice as _};
use gix::{
    hash::{ObjectId, oid},
    objs::tree::EntryKind,
};

use super::{Checkpoint, CheckpointError, Placed};
use crate::{
    base::Fault,
    repo::{OdbError, TreeDiffError, diff_trees},
    workspace::{
        HeadState, Held, Prepared, SkipReason, TransitionError, Unchanged, Workspace, WorkspaceError, WorkspaceOptions,
        prepare,
    },
};

/// Why a commit did not come into a workspace. Nothing of it is there then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LandError {
    /// git is in the middle of something in the workspace.
    #[error("a {what} is in progress in the workspace")]
    InProgress {
        /// A merge, a rebase, …
        what: &'static str,
    },
    /// The workspace is on another branch by now.
    #[error("the workspace is not on '{branch}' any more")]
    Elsewhere {
        /// The branch that was pushed to.
        branch: BString,
    },
    /// What is unsaved could not be saved.
    #[error("the unsaved work in the workspace cannot be saved")]
    Save(#[from] Box<CheckpointError>),
    /// The workspace could not be taken or read.
    #[error(transparent)]
    Workspace(#[from] WorkspaceError),
    /// Its files cannot become those of the commit.
    #[error(transparent)]
    Files(#[from] Box<TransitionError>),
    /// The commit cannot be read.
    #[error("the trees of the commit")]
    Compare(#[from] TreeDiffError),
    /// The objects cannot be read.
    #[error("the objects of the repository")]
    Objects(#[from] OdbError),
    /// The commit is not one, or is not here.
    #[error("{id} is not a commit that is here")]
    NoCommit {
        /// What was pushed.
        id: ObjectId,
    },
}

impl LandError {
    /// Whose move it is.
    pub fn fault(&self) -> Fault {
        match self {
            LandError::InProgress { .. } | LandError::Elsewhere { .. } => Fault::Busy,
            LandError::NoCommit { .. } => Fault::Client,
            LandError::Save(err) => err.fault(),
            LandError::Workspace(err) => err.fault(),
            LandError::Files(err) => err.fault(),
            LandError::Compare(err) => err.fault(),
            LandError::Objects(err) => err.fault(),
        }
    }

    /// What a client may be told: no path of ours.
    pub fn public_text(&self) -> String {
        match self {
            LandError::InProgress { .. } => self.to_string(),
            LandError::Elsewhere { .. } => "the workspace is on another branch now".to_owned(),
            LandError::Workspace(WorkspaceError::Busy { .. }) => "the workspace is in use; try again".to_owned(),
            LandError::Files(err) => err.public_text(),
            LandError::Save(_) => "the unsaved work in the workspace cannot be saved".to_owned(),
            LandError::NoCommit { .. } => "not a commit".to_owned(),
            LandError::Workspace(_) | LandError::Compare(_) | LandError::Objects(_) => {
                "the workspace could not be updated".to_owned()
            }
        }
    }

    /// Whether the agent has changed something since it was saved.
    pub fn is_unsaved_work(&self) -> bool {
        matches!(self, LandError::Files(err) if matches!(**err, TransitionError::Unsaved { .. }))
    }
}

/// What is unsaved in a workspace, in git's words for a push that wants none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unclean {
    /// A tracked file is not as the index has it.
    Unstaged,
    /// The index is not as HEAD has it.
    Staged,
}

/// Where a workspace is once its work is saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Saved {
    /// What its branch is at; `None` for a branch that has no commit.
    pub tip: Option<ObjectId>,
    /// The commit that was made of unsaved work, if there was any.
    pub made: Option<ObjectId>,
}

/// What became of a workspace's files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Landed {
    /// Paths that are as the commit has them now.
    pub updated: Vec<BString>,
    /// Paths that the agent changed meanwhile, and what happened. They are as the agent left them; the next checkpoint records that.
    pub left: Vec<(BString, &'static str)>,
    /// Git has the index locked, for so long already: until it follows, git there takes the files for changed.
    pub index_locked: Option<Duration>,
}

/// A workspace that is held while a commit comes in: save, [`prepare`](Self::prepare), move the branch, [`finish`](Self::finish).
///
/// Whatever becomes of this process, the files are those of the branch in the end: a journal says what was begun.
#[derive(Debug)]
pub struct Landing<'w> {
    held: Held<'w>,
    branch: BString,
    prepared: Option<Prepared>,
}

/// How a workspace is opened for a [`Landing`].
pub fn landing_options(lock_wait: Duration, base: WorkspaceOptions) -> WorkspaceOptions {
    WorkspaceOptions {
        lock_wait,
        // A commit of nothing would only be in the way of what comes.
        unchanged: Unchanged::Skip,
        ..base
    }
}

impl<'w> Landing<'w> {
    /// Takes a workspace for a commit that shall come to its branch, given by its full name. Open it with [`landing_options`].
    ///
    /// # Errors
    /// `Busy` when somebody else is at work in it for too long.
    pub fn take(workspace: &'w Workspace, branch: &BStr) -> Result<Self, LandError> {
        let landing = Landing {
            held: workspace.lock()?,
            branch: branch.to_owned(),
            prepared: None,
        };
        landing.head()?;
        Ok(landing)
    }

    fn head(&self) -> Result<HeadState, LandError> {
        let head = self.held.head()?;
        if let Some(what) = head.in_progress {
            return Err(LandError::InProgress { what });
        }
        if head.branch.as_ref() != Some(&self.branch) {
            return Err(LandError::Elsewhere {
                branch: self.branch.clone(),
            });
        }
        Ok(head)
    }

    /// Makes a commit of what is unsaved, if anything is.
    ///
    /// # Errors
    /// When it cannot be read or written: then nothing may come in.
    pub fn save(&mut self) -> Result<Saved, LandError> {
        let before = Checkpoint::message("Unsaved work before a push");
        let outcome = self.held.checkpoint(before).map_err(Box::new)?;
        if outcome.commit.is_some() && outcome.placed != Placed::Branch {
            return Err(LandError::Elsewhere {
                branch: self.branch.clone(),
            });
        }
        let tip = self.head()?.commit;
        Ok(Saved {
            tip,
            made: outcome.commit,
        })
    }

    /// What the branch is at, and what is unsaved. What is not tracked does not count.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn unclean(&mut self) -> Result<(Option<ObjectId>, Option<Unclean>), LandError> {
        let head = self.head()?;
        let mut entries: HashMap<BString, (EntryKind, ObjectId)> = HashMap::new();
        self.held.tracked()?.for_each(&mut |path, file| {
            entries.insert(path.to_owned(), (file.kind, file.id));
        });
        let untracked = |found: &crate::workspace::Found, _: Option<&[u8]>| found.is_new.then_some(SkipReason::Special);
        let captured = self.held.capture(&untracked);
        let mut now = 0;
        let mut unstaged = captured.is_err();
        if captured.is_ok() {
            self.held.tracked()?.for_each(&mut |path, file| {
                now += 1;
                unstaged |= entries.get(path) != Some(&(file.kind, file.id));
            });
        }
        // The objects it made are dropped with it.
        self.held.forget();
        captured.map_err(|err| Box::new(CheckpointError::from(err)))?;
        if unstaged || now != entries.len() {
            return Ok((head.commit, Some(Unclean::Unstaged)));
        }
        let odb = self.held.repository().odb()?;
        let mut staged = false;
        let mut committed = 0;
        diff_trees(&odb, None, head.tree.as_deref(), &mut |change| {
            committed += 1;
            staged |= entries.get(&change.path).copied() != change.to;
            if staged {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        })?;
        let staged = staged || committed != entries.len();
        Ok((head.commit, staged.then_some(Unclean::Staged)))
    }

    /// Makes everything ready for the files to become those of `commit`. Its objects are in the repository.
    ///
    /// # Errors
    /// When something would be lost that is saved nowhere, or that cannot be.
    pub fn prepare(&mut self, commit: &oid) -> Result<(), LandError> {
        let head = self.head()?;
        let odb = self.held.repository().odb()?;
        let no_commit = || LandError::NoCommit { id: commit.to_owned() };
        let tree = super::tree_of(&odb, commit).map_err(|_| no_commit())?;
        let mut changes = Vec::new();
        diff_trees(&odb, head.tree.as_deref(), Some(&tree), &mut |change| {
            changes.push(change);
            ControlFlow::Continue(())
        })?;
        let branch = self.branch.clone();
        let prepared = prepare(
            &mut self.held,
            &changes,
            commit,
            branch.as_bstr(),
            head.commit.as_deref(),
        );
        self.prepared = Some(prepared.map_err(Box::new)?);
        Ok(())
    }

    /// Gives the files their places, after the branch has moved.
    ///
    /// # Errors
    /// When it cannot be finished now. The journal stays, and the next one who locks the workspace tries again.
    pub fn finish(mut self) -> Result<Landed, LandError> {
        let Some(prepared) = self.prepared.take() else {
            return Ok(Landed::default());
        };
        let applied = prepared.finish(&mut self.held).map_err(Box::new)?;
        Ok(Landed {
            updated: applied.updated,
            left: applied.left,
            index_locked: applied.index_locked,
        })
    }

    /// Gives it up: the branch did not move.
    pub fn abandon(mut self) {
        if let Some(prepared) = self.prepared.take() {
            prepared.abandon(&mut self.held);
        }
    }
}
