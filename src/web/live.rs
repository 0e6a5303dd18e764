//! The workspaces of the house, as a push sees them.

use std::{fmt, sync::Arc, time::Duration};

use bstr::BStr;
use gix::hash::{ObjectId, oid};

use crate::{
    base::{Fault, Limits, RepoName},
    checkpoint::{LandError, Landing, Unclean, landing_options},
    repo::Repository,
    service::{LiveError, LiveOutcome, LiveState, LiveWorktree, LiveWorktrees, TakenWorktree},
    workspace::{Workspace, WorkspaceOptions, worktrees_on},
};

/// A push that has changed the files of a workspace.
#[derive(Debug, Clone)]
pub struct PushApplied {
    /// The repository.
    pub repository: RepoName,
    /// The workspace.
    pub workspace: String,
    /// Its branch, by its full name.
    pub branch: bstr::BString,
    /// What the branch was at, with what was unsaved before.
    pub old: Option<ObjectId>,
    /// What it is at.
    pub new: ObjectId,
    /// Files that are as the commit has them now.
    pub updated: usize,
    /// Files that are not, and why.
    pub left: Vec<(bstr::BString, &'static str)>,
}

/// Whoever wants to be told of that. Called by the thread that serves the push.
#[derive(Clone)]
pub struct OnPushApplied(pub Arc<dyn Fn(&PushApplied) + Send + Sync>);

impl fmt::Debug for OnPushApplied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OnPushApplied").finish_non_exhaustive()
    }
}

/// Finds the working tree that a push goes to.
#[derive(Debug)]
pub(super) struct Workspaces {
    wait: Duration,
    limits: Limits,
    options: WorkspaceOptions,
    told: Option<(RepoName, OnPushApplied)>,
}

impl Workspaces {
    pub(super) fn new(limits: &Limits, options: WorkspaceOptions) -> Self {
        Workspaces {
            wait: limits.workspace_wait,
            limits: limits.clone(),
            options,
            told: None,
        }
    }

    /// Has somebody told of pushes to this repository.
    pub(super) fn tell(mut self, name: &RepoName, whom: Option<OnPushApplied>) -> Self {
        self.told = whom.map(|whom| (name.clone(), whom));
        self
    }
}

impl LiveWorktrees for Workspaces {
    fn on_branch(&self, repo: &Repository, branch: &BStr) -> Result<Option<Box<dyn LiveWorktree>>, LiveError> {
        let found = worktrees_on(repo, branch).map_err(|err| LiveError {
            reason: "the worktrees of the repository cannot be read".to_owned(),
            detail: None,
            source: Some(Box::new(err)),
        })?;
        // One in two of them is somebody's force, and nobody can say which is meant.
        let [only] = &found[..] else { return Ok(None) };
        let Some(root) = &only.root else { return Ok(None) };
        let base = WorkspaceOptions {
            any_root: true,
            ..self.options.clone()
        };
        let mut options = landing_options(self.wait, base);
        options.open.limits = self.limits.clone();
        let workspace = Workspace::open_with(root, &options).map_err(|err| failed(err.into()))?;
        Ok(Some(Box::new(Found {
            name: only.name.clone(),
            managed: only.managed,
            workspace,
            branch: branch.to_owned(),
            told: self.told.clone(),
        })))
    }
}

struct Found {
    name: String,
    managed: bool,
    workspace: Workspace,
    branch: bstr::BString,
    told: Option<(RepoName, OnPushApplied)>,
}

impl LiveWorktree for Found {
    fn name(&self) -> &str {
        &self.name
    }

    fn is_workspace(&self) -> bool {
        self.managed
    }

    fn take(&self) -> Result<Box<dyn TakenWorktree + '_>, LiveError> {
        let landing = Landing::take(&self.workspace, self.branch.as_ref()).map_err(failed)?;
        Ok(Box::new(Taken {
            landing,
            clean_only: false,
            found: self,
            old: None,
            new: None,
        }))
    }
}

struct Taken<'w> {
    landing: Landing<'w>,
    /// By git's own rule.
    clean_only: bool,
    found: &'w Found,
    old: Option<ObjectId>,
    new: Option<ObjectId>,
}

impl TakenWorktree for Taken<'_> {
    fn save(&mut self) -> Result<LiveState, LiveError> {
        let saved = self.landing.save().map_err(failed)?;
        self.old = saved.tip;
        Ok(LiveState {
            tip: saved.tip,
            saved: saved.made,
        })
    }

    fn require_clean(&mut self) -> Result<LiveState, LiveError> {
        self.clean_only = true;
        let (tip, unclean) = self.landing.unclean().map_err(failed)?;
        self.old = tip;
        let reason = match unclean {
            None => return Ok(LiveState { tip, saved: None }),
            Some(Unclean::Unstaged) => "Working directory has unstaged changes",
            Some(Unclean::Staged) => "Working directory has staged changes",
        };
        Err(LiveError {
            reason: reason.to_owned(),
            detail: None,
            source: None,
        })
    }

    fn prepare(&mut self, commit: &oid) -> Result<(), LiveError> {
        self.new = Some(commit.to_owned());
        self.landing.prepare(commit).map_err(|err| {
            if self.clean_only {
                LiveError {
                    reason: "Could not update working tree to new HEAD".to_owned(),
                    detail: Some(err.public_text()),
                    source: Some(Box::new(err)),
                }
            } else if err.is_unsaved_work() {
                LiveError {
                    reason: "fetch first".to_owned(),
                    detail: Some(format!("{}: the agent is writing it now", err.public_text())),
                    source: Some(Box::new(err)),
                }
            } else {
                failed(err)
            }
        })
    }

    fn finish(self: Box<Self>) -> Result<LiveOutcome, LiveError> {
        let landed = self.landing.finish().map_err(failed)?;
        if let (Some((repository, whom)), Some(new)) = (&self.found.told, self.new) {
            (whom.0)(&PushApplied {
                repository: repository.clone(),
                workspace: self.found.name.clone(),
                branch: self.found.branch.clone(),
                old: self.old,
                new,
                updated: landed.updated.len(),
                left: landed.left.clone(),
            });
        }
        Ok(LiveOutcome {
            updated: landed.updated.len(),
            left: landed.left,
            index_locked: landed.index_locked,
        })
    }

    fn abandon(self: Box<Self>) {
        self.landing.abandon();
    }
}

fn failed(err: LandError) -> LiveError {
    let reason = err.public_text();
    let detail = matches!(err.fault(), Fault::Client).then(|| reason.clone());
    LiveError {
        reason,
        detail,
        source: Some(Box::new(err)),
    }
}
