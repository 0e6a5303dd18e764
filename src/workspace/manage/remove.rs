use std::{
    fs,
    path::{Path, PathBuf},
};

use gix::hash::ObjectId;

use super::{
    ManageError, Unsaved,
    admin::{Admin, Makers, remove_dir, stepped, sync_dir},
    create::HIDDEN,
    parent,
};
use crate::{
    base::{RepoName, WorkspaceName},
    depot::Depot,
    repo::{RefLog, RefQuery, RefUpdate, Repository, is_ancestor},
    workspace::{
        Held, SkipReason, Workspace, WorkspaceError, WorkspaceOptions, index_file::has_own_lock,
        transition::is_left_over,
    },
};

impl Depot {
    /// Removes a workspace: its files and what the repository knows of it. Its branch, and so everything that was recorded, stays. Who is killed in between has
    /// it removed by the next one.
    ///
    /// # Errors
    /// `NotFound`; `Unsaved` when there is work that would be lost and that is [refused](Unsaved::Refuse); `Locked` after `git worktree lock`; `Busy` while
    /// somebody is at work in it. It is as it was then.
    pub fn remove_workspace(
        &self,
        repository: &RepoName,
        name: &WorkspaceName,
        unsaved: Unsaved<'_>,
    ) -> Result<(), ManageError> {
        self.remove_workspace_with(repository, name, unsaved, &WorkspaceOptions::default())
    }

    /// As [`remove_workspace`](Self::remove_workspace), of one that is opened so: a last checkpoint is made by these rules.
    ///
    /// # Errors
    /// As there.
    pub fn remove_workspace_with(
        &self,
        repository: &RepoName,
        name: &WorkspaceName,
        unsaved: Unsaved<'_>,
        options: &WorkspaceOptions,
    ) -> Result<(), ManageError> {
        let repo = self.open(repository)?;
        let _makers = Makers::of(&repo)?;
        let admin = Admin::of(&repo, name);
        if !admin.exists() {
            return Err(ManageError::NotFound {
                repository: repository.clone(),
                name: name.clone(),
            });
        }
        if admin.is_half_removed() || admin.is_half_done() {
            admin.begin_removal()?;
            return self.finish_removal(repository, &admin);
        }
        if let Some(why) = admin.locked()
            && !matches!(unsaved, Unsaved::Discard)
        {
            return Err(ManageError::Locked {
                name: name.clone(),
                why,
            });
        }
        let usual = self.workspace_dir(repository, name);
        let root = admin.root().filter(|root| admin.is_at(root));
        let root = root.or_else(|| admin.is_at(&usual).then_some(usual));
        let Some(root) = root else {
            // There is nothing to lose.
            admin.begin_removal()?;
            return self.finish_removal(repository, &admin);
        };
        let options = WorkspaceOptions {
            any_root: true,
            ..options.clone()
        };
        let workspace = Workspace::open_with(&root, &options)?;
        // Held until it is gone, so that no checkpoint is made of half of it.
        let mut held = workspace.lock()?;
        let keep = |what: String| {
            Err(ManageError::Unsaved {
                name: name.clone(),
                what,
            })
        };
        match unsaved {
            Unsaved::Discard => {}
            Unsaved::Refuse => {
                if let Some(what) = unsaved_work(&mut held)? {
                    return keep(what);
                }
                if stray_commit(&repo, &held)?.is_some() {
                    return keep("commits that no branch holds".to_owned());
                }
            }
            Unsaved::Save(save) => {
                save(&mut held).map_err(|source| ManageError::Save {
                    name: name.clone(),
                    source,
                })?;
                if let Some(commit) = stray_commit(&repo, &held)? {
                    keep_commit(&repo, name, commit)?;
                }
            }
        }
        admin.begin_removal()?;
        self.finish_removal(repository, &admin)
    }

    /// Removes what is marked as half removed.
    pub(super) fn finish_removal(&self, repository: &RepoName, admin: &Admin) -> Result<(), ManageError> {
        let usual = self.workspace_dir(repository, admin.name());
        for root in admin.root().into_iter().chain([usual]) {
            let above = parent(&root);
            let temp = above.join(format!("{HIDDEN}{}", admin.name()));
            if admin.is_at(&root) {
                remove_dir(&temp)?;
                stepped(|| fs::rename(&root, &temp)).map_err(ManageError::io("rename", &root))?;
                sync_dir(above)?;
            }
            if fs::symlink_metadata(&temp).is_ok() {
                remove_dir(&temp)?;
            }
        }
        admin.remove()?;
        let mut at = self.work_of(repository);
        while at.starts_with(self.work_dir()) && at != self.work_dir() && fs::remove_dir(&at).is_ok() {
            at = parent(&at).to_owned();
        }
        Ok(())
    }

    /// Finishes what killed processes have left of the workspaces of every repository, and removes their temporary files. Says how many there were. For the start
    /// of a server; each is also finished when it is next asked for.
    ///
    /// # Errors
    /// When the repositories cannot be listed. What goes wrong with one is in the log.
    pub fn recover_workspaces(&self) -> Result<usize, ManageError> {
        let mut count = 0;
        for listed in self.list()?.repositories {
            match self.recover_workspaces_of(&listed.name) {
                Ok(finished) => count += finished,
                Err(error) => {
                    let error: &dyn std::error::Error = &error;
                    tracing::warn!(repository = %listed.name, error, "its workspaces could not be looked after");
                }
            }
        }
        Ok(count)
    }

    fn recover_workspaces_of(&self, repository: &RepoName) -> Result<usize, ManageError> {
        let repo = self.open(repository)?;
        let mut count = 0;
        for admin in Admin::all(&repo)? {
            if admin.is_half_removed() {
                let _makers = Makers::of(&repo)?;
                if admin.is_half_removed() {
                    self.finish_removal(repository, &admin)?;
                    count += 1;
                }
            } else if admin.is_half_done() {
                self.finish_creation(&repo, repository, &admin, &WorkspaceOptions::default())?;
                count += 1;
            } else if let Some(root) = admin.root().filter(|root| admin.is_at(root))
                && (is_left_over(&root, admin.dir()) || has_own_lock(&admin.dir().join("index")))
            {
                let options = WorkspaceOptions {
                    any_root: true,
                    ..WorkspaceOptions::default()
                };
                // Whoever takes it finishes it.
                drop(Workspace::open_with(&root, &options)?.lock()?);
                count += 1;
            }
        }
        let work = self.work_of(repository);
        let begins = |path: &Path, prefix: &str| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with(prefix))
        };
        let left_overs = |dir: &Path, prefix: &str| -> Vec<PathBuf> {
            let entries = fs::read_dir(dir).into_iter().flatten().flatten();
            entries
                .map(|entry| entry.path())
                .filter(|path| begins(path, prefix))
                .collect()
        };
        let found = || {
            [
                left_overs(repo.common_dir(), "gitstead-tmp-"),
                left_overs(&work, HIDDEN),
            ]
            .concat()
        };
        if !found().is_empty() {
            let _makers = Makers::of(&repo)?;
            for path in found() {
                remove_dir(&path)?;
                count += 1;
            }
            // As git does with the last one.
            let _ = fs::remove_dir(repo.common_dir().join("worktrees"));
        }
        Ok(count)
    }
}

/// What in a workspace is in no commit of its branch, in words. Ignored files do not count.
fn unsaved_work(held: &mut Held<'_>) -> Result<Option<String>, ManageError> {
    let head = held.head()?;
    if let Some(what) = head.in_progress {
        return Ok(Some(format!("a {what} in progress")));
    }
    // What a checkpoint would leave out is all the more unsaved.
    let captured = held.capture(&|_, _| None).map_err(|err| WorkspaceError::Damaged {
        what: "the workspace",
        path: held.root().to_owned(),
        why: err.to_string(),
    })?;
    // Its objects are not published, so nothing may be taken for known that names them.
    held.forget();
    let empty = ObjectId::empty_tree(held.repository().hash_kind());
    if captured.tree != head.tree.unwrap_or(empty) {
        return Ok(Some("changes that are in no commit".to_owned()));
    }
    let lost = captured.skipped.iter().find(|(_, why)| {
        !matches!(
            why,
            SkipReason::Special | SkipReason::Encoding | SkipReason::NestedRepository
        )
    });
    Ok(lost.map(|(path, why)| {
        let path: String = path.to_string().chars().filter(|c| !c.is_control()).collect();
        format!("'{path}', which is in no commit: {}", why.text())
    }))
}

/// The commit that a detached HEAD is at, if nothing else holds it.
fn stray_commit(repo: &Repository, held: &Held<'_>) -> Result<Option<ObjectId>, ManageError> {
    let head = held.head()?;
    let (None, Some(commit)) = (head.branch, head.commit) else {
        return Ok(None);
    };
    let odb = repo.odb()?;
    let stop = std::sync::atomic::AtomicBool::new(false);
    for held_by in repo.refs(&RefQuery::default())? {
        let reaches = held_by.id == commit || is_ancestor(&odb, &commit, &held_by.id, &[], &stop).unwrap_or(false);
        if reaches {
            return Ok(None);
        }
    }
    Ok(Some(commit))
}

/// Gives a commit a ref, so that it is not lost.
fn keep_commit(repo: &Repository, name: &WorkspaceName, commit: ObjectId) -> Result<(), ManageError> {
    let update = RefUpdate {
        name: format!("refs/gitstead/removed/{name}/{commit}").into(),
        old: None,
        new: Some(commit),
    };
    let outcome = repo.update_refs(&[update], true, &RefLog::default())?.pop();
    match outcome {
        Some(outcome) if outcome.is_ok() => Ok(()),
        _ => Err(ManageError::Unsaved {
            name: name.clone(),
            what: "commits that no branch holds, and they could not be kept".to_owned(),
        }),
    }
}
