//! What a kill, and an agent that goes on writing, find at every step of a restore.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use super::*;
use crate::{
    checkpoint::{LogQuery, log, tree_of},
    workspace::{SecretRules, WorkspaceOptions, kill},
};

struct Place {
    _dir: tempfile::TempDir,
    path: PathBuf,
    first: ObjectId,
}

fn open(path: &Path) -> Workspace {
    let options = WorkspaceOptions {
        secrets: SecretRules::none(),
        ..WorkspaceOptions::default()
    };
    Workspace::open_with(path, &options).expect("a workspace")
}

fn write(dir: &Path, path: &str, content: &str) {
    let path = dir.join(path);
    fs::create_dir_all(path.parent().expect("a directory")).expect("made");
    fs::write(path, content).expect("written");
}

/// All files, with what they hold.
fn files(dir: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(at) = todo.pop() {
        for entry in fs::read_dir(at).expect("a directory") {
            let path = entry.expect("an entry").path();
            let name = path
                .strip_prefix(dir)
                .expect("beneath")
                .to_str()
                .expect("UTF-8")
                .to_owned();
            if name == ".git" {
                continue;
            }
            if path.is_dir() {
                todo.push(path);
            } else {
                found.insert(name, fs::read_to_string(path).expect("a file"));
            }
        }
    }
    found
}

/// A workspace with two checkpoints and unsaved work.
fn place() -> Place {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("work");
    for sub in [".git/objects", ".git/refs/heads"] {
        fs::create_dir_all(path.join(sub)).expect("made");
    }
    write(&path, ".git/HEAD", "ref: refs/heads/main\n");
    let workspace = open(&path);
    write(&path, "a", "first\n");
    write(&path, "d/e/gone", "first\n");
    write(&path, "kind", "a file\n");
    let first = workspace.checkpoint(Checkpoint::initial("x")).expect("recorded").commit;
    write(&path, "a", "second\n");
    fs::remove_dir_all(path.join("d")).expect("removed");
    fs::remove_file(path.join("kind")).expect("removed");
    write(&path, "kind/inner", "a directory\n");
    workspace
        .checkpoint(Checkpoint::after("Write", "second"))
        .expect("recorded");
    write(&path, "a", "unsaved\n");
    write(&path, "new", "unsaved, too\n");
    Place {
        _dir: dir,
        path,
        first: first.expect("a commit"),
    }
}

/// The files of all checkpoints from the tip on.
fn trail(workspace: &Workspace) -> Vec<BTreeMap<String, String>> {
    let repository = workspace.repository();
    let tip = repository.head(None).expect("HEAD").id().expect("a commit");
    let page = log(repository, &tip, None, &LogQuery::default()).expect("a log");
    let odb = repository.odb().expect("an odb");
    page.entries
        .iter()
        .map(|entry| {
            let mut files = BTreeMap::new();
            let tree = tree_of(&odb, &entry.commit.id).expect("a tree");
            diff_trees(&odb, None, Some(&tree), &mut |change| {
                let mut content = Vec::new();
                let (_, id) = change.to.expect("a file");
                odb.read(&id, &mut content).expect("readable").expect("there");
                files.insert(change.path.to_string(), String::from_utf8(content).expect("text"));
                ControlFlow::Continue(())
            })
            .expect("whole trees");
            files
        })
        .collect()
}

fn holds(files: &BTreeMap<String, String>, path: &str, content: &str) -> bool {
    files.get(path).is_some_and(|have| have == content)
}

#[test]
fn a_restore_killed_at_any_step_has_happened_or_not_and_nothing_is_lost() {
    let (mut undone, mut done) = (0, 0);
    for steps in 0.. {
        let place = place();
        let before = files(&place.path);
        let (result, killed) = kill::after(steps, || {
            open(&place.path).restore(&place.first, &RestoreOptions::default())
        });
        if !killed {
            assert!(result.expect("nothing in the way").commit.is_some());
        }
        // Somebody else comes, finds what was left, and goes on.
        let workspace = open(&place.path);
        drop(workspace.lock().expect("recovered"));
        let now = files(&place.path);
        let trail = trail(&workspace);
        if now == before {
            undone += 1;
        } else {
            done += 1;
            assert_eq!(now, trail[0], "after {steps} steps the files are those of the tip");
            assert_eq!(now, *trail.last().expect("the first checkpoint"));
        }
        assert!(
            holds(&now, "new", "unsaved, too\n") || trail.iter().any(|files| holds(files, "new", "unsaved, too\n")),
            "after {steps} steps unsaved work is lost"
        );
        let outcome = workspace
            .checkpoint(Checkpoint::after("Bash", "went on"))
            .expect("recorded");
        assert_eq!(now, self::trail(&workspace)[0]);
        assert!(outcome.skipped.is_empty());
        if !killed {
            break;
        }
    }
    assert!(undone > 5 && done > 5, "{undone} undone, {done} done");
}

#[test]
fn what_an_agent_writes_during_a_restore_is_on_disk_or_in_the_trail() {
    let mut acted_at = 0;
    for steps in 0.. {
        let place = place();
        let path = place.path.clone();
        let act = move || {
            // As editors do it, and as shells do.
            write(&path, "agent.tmp", "the agent's\n");
            fs::rename(path.join("agent.tmp"), path.join("a")).expect("renamed");
            write(&path, "new", "the agent's, too\n");
        };
        let (result, acted) = kill::disturbed(steps, act, || {
            open(&place.path).restore(&place.first, &RestoreOptions::default())
        });
        if !acted {
            break;
        }
        acted_at += 1;
        match result {
            Ok(_) | Err(RestoreError::Files { .. }) => {}
            Err(err) => panic!("after {steps} steps: {err}"),
        }
        let workspace = open(&place.path);
        workspace
            .checkpoint(Checkpoint::after("Bash", "went on"))
            .expect("recorded");
        let (now, trail) = (files(&place.path), trail(&workspace));
        assert_eq!(now, trail[0]);
        for (path, content) in [
            ("a", "the agent's\n"),
            ("new", "the agent's, too\n"),
            ("a", "unsaved\n"),
        ] {
            assert!(
                trail.iter().any(|files| holds(files, path, content)),
                "after {steps} steps {path} is lost"
            );
        }
    }
    assert!(acted_at > 5, "{acted_at}");
}
