//! The workspaces of the house, as a push sees them.

use std::time::Duration;

use bstr::BStr;
use gix::hash::oid;

use crate::{
    base::{Fault, Limits},
    checkpoint::{LandError, Landing, Unclean, landing_options},
    repo::Repository,
    service::{LiveError, LiveOutcome, LiveState, LiveWorktree, LiveWorktrees, TakenWorktree},
    workspace::{Workspace, WorkspaceOptions, worktrees_on},
};

/// Finds the working tree that a push goes to.
#[derive(Debug)]
pub(super) struct Workspaces {
    wait: Duration,
    limits: Limits,
    options: WorkspaceOptions,
}

impl Workspaces {
    pub(super) fn new(limits: &Limits, options: WorkspaceOptions) -> Self {
        Workspaces {
            wait: limits.workspace_wait,
            limits: limits.clone(),
            options,
        }
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
        })))
    }
}

struct Found {
    name: String,
    managed: bool,
    workspace: Workspace,
    branch: bstr::BString,
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
        }))
    }
}

struct Taken<'w> {
    landing: Landing<'w>,
    /// By git's own rule.
    clean_only: bool,
}

impl TakenWorktree for Taken<'_> {
    fn save(&mut self) -> Result<LiveState, LiveError> {
        let saved = self.landing.save().map_err(failed)?;
        Ok(LiveState {
            tip: saved.tip,
            saved: saved.made,
        })
    }

    fn require_clean(&mut self) -> Result<LiveState, LiveError> {
        self.clean_only = true;
        let (tip, unclean) = self.landing.unclean().map_err(failed)?;
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
