//! A stop at every step of making and removing a workspace.

use std::{fs, path::Path};

use super::{CreateWorkspace, ManageError, Start, Unsaved, WorkspaceState};
use crate::{
    base::{RepoName, WorkspaceName},
    depot::{Depot, DepotOptions},
    repo::{RefLog, RefUpdate, SinkForm},
    workspace::beneath::kill,
};
use gix::objs::Kind;

fn repo() -> RepoName {
    RepoName::parse("team/app").unwrap()
}

fn ws(name: &str) -> WorkspaceName {
    WorkspaceName::parse(name).unwrap()
}

/// A depot with a repository of one file and one link, and no workspace.
fn depot(dir: &Path) -> Depot {
    let depot = Depot::new(&dir.join("repos"), DepotOptions::default()).unwrap();
    depot.create(&repo(), &Default::default()).unwrap();
    let repository = depot.open(&repo()).unwrap();
    let sink = repository.object_sink(SinkForm::Loose).unwrap();
    let blob = sink.write(Kind::Blob, b"content").unwrap();
    let mut inner = b"100644 file\0".to_vec();
    inner.extend_from_slice(blob.as_slice());
    let inner = sink.write(Kind::Tree, &inner).unwrap();
    let mut tree = b"40000 dir\0".to_vec();
    tree.extend_from_slice(inner.as_slice());
    tree.extend_from_slice(b"120000 link\0");
    tree.extend_from_slice(blob.as_slice());
    let tree = sink.write(Kind::Tree, &tree).unwrap();
    let commit = format!("tree {tree}\nauthor A <a@b> 1 +0000\ncommitter A <a@b> 1 +0000\n\nfirst\n");
    let commit = sink.write(Kind::Commit, commit.as_bytes()).unwrap();
    sink.publish(false).unwrap();
    let update = RefUpdate {
        name: "refs/heads/main".into(),
        old: None,
        new: Some(commit),
    };
    let outcome = repository.update_refs(&[update], true, &RefLog::default()).unwrap();
    assert!(outcome[0].is_ok());
    depot
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.map(|e| e.file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn assert_no_left_overs(dir: &Path) {
    for place in ["repos/team/app.git", "work/team/app", "repos/team/app.git/worktrees/s"] {
        for name in names(&dir.join(place)) {
            let ours = name.contains("tmp-") || name.contains("stage") || name.contains("transition");
            assert!(!ours && !name.ends_with("ing"), "{place}/{name}");
        }
    }
}

fn assert_whole(depot: &Depot) {
    let entries = depot.workspaces(&repo()).unwrap();
    assert_eq!(entries.len(), 1);
    assert_eq!(entries[0].state, WorkspaceState::Ready);
    assert!(entries[0].managed);
    let workspace = depot.workspace(&repo(), &ws("s")).unwrap();
    assert_eq!(fs::read(workspace.root().join("dir/file")).unwrap(), b"content");
    assert_eq!(
        fs::read_link(workspace.root().join("link")).unwrap(),
        Path::new("content")
    );
}

#[test]
fn who_is_killed_while_making_a_workspace_leaves_one_or_none() {
    let (mut steps, mut finished, mut again) = (0, 0, 0);
    loop {
        let dir = tempfile::tempdir().unwrap();
        let depot = depot(dir.path());
        let create = CreateWorkspace::new(Start::Default);
        let (_, killed) = kill::after(steps, || depot.create_workspace(&repo(), &ws("s"), &create).is_ok());
        // One of the two ways to go on: a start of the server, or the next one who asks.
        if steps % 2 == 0 {
            depot.recover_workspaces().unwrap();
        } else {
            match depot.workspace(&repo(), &ws("s")) {
                Ok(_) | Err(ManageError::NotFound { .. }) => {}
                Err(other) => panic!("killed at {steps}: {other}"),
            }
        }
        match depot.create_workspace(&repo(), &ws("s"), &create) {
            Ok(_) => again += 1,
            Err(ManageError::Exists { .. }) => finished += 1,
            Err(other) => panic!("killed at {steps}: {other}"),
        }
        depot.recover_workspaces().unwrap();
        assert_whole(&depot);
        assert_no_left_overs(dir.path());
        // It is as its commit has it.
        depot.remove_workspace(&repo(), &ws("s"), Unsaved::Refuse).unwrap();
        if !killed {
            break;
        }
        steps += 1;
    }
    assert!(again > 5 && finished > 20, "{again} made again, {finished} finished");
}

#[test]
fn who_is_killed_while_removing_a_workspace_leaves_it_whole_or_gone() {
    let (mut steps, mut whole, mut gone) = (0, 0, 0);
    loop {
        let dir = tempfile::tempdir().unwrap();
        let depot = depot(dir.path());
        let create = CreateWorkspace::new(Start::Default);
        depot.create_workspace(&repo(), &ws("s"), &create).unwrap();
        let (_, killed) = kill::after(steps, || {
            depot.remove_workspace(&repo(), &ws("s"), Unsaved::Discard).is_ok()
        });
        depot.recover_workspaces().unwrap();
        if depot.workspaces(&repo()).unwrap().is_empty() {
            gone += 1;
            assert!(names(&dir.path().join("work/team/app")).is_empty());
            assert!(names(&dir.path().join("repos/team/app.git/worktrees")).is_empty());
        } else {
            whole += 1;
            assert_whole(&depot);
        }
        assert_no_left_overs(dir.path());
        if !killed {
            break;
        }
        steps += 1;
    }
    assert!(whole > 0 && gone > 8, "{whole} whole, {gone} gone");
}
