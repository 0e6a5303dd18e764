//! Bringing earlier states of a workspace back, and what git says about the workspace afterwards.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use gitstead::{
    base::Fault,
    checkpoint::{
        Checkpoint, ConflictKind, LogQuery, Placed, ReadError, RestoreError, RestoreOptions, Restored, Undone, log,
        tree_of,
    },
    workspace::{Placement, SecretRules, Workspace, WorkspaceOptions},
};
use gix::hash::ObjectId;
use proptest::prelude::*;

use crate::support::Git;

fn options() -> WorkspaceOptions {
    WorkspaceOptions {
        secrets: SecretRules::none(),
        // git is asked right after each act.
        index_delay: Duration::ZERO,
        ..WorkspaceOptions::default()
    }
}

fn write(dir: &Path, path: &str, content: &str) {
    let path = dir.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

fn read(dir: &Path, path: &str) -> Option<String> {
    fs::read_to_string(dir.join(path)).ok()
}

#[track_caller]
fn take(workspace: &Workspace, summary: &str) -> ObjectId {
    let outcome = workspace.checkpoint(Checkpoint::after("Write", summary).agent("research"));
    outcome.unwrap().commit.unwrap()
}

/// A workspace on an ordinary repository, with an ignored directory.
fn workspace(git: &Git) -> (PathBuf, Workspace) {
    let dir = git.init("work");
    write(&dir, ".gitignore", "/ignored/\n");
    let workspace = Workspace::open_with(&dir, &options()).unwrap();
    workspace.checkpoint(Checkpoint::initial("try things")).unwrap();
    (dir, workspace)
}

fn limited(paths: &[&str]) -> RestoreOptions {
    let mut options = RestoreOptions::default();
    options.paths = paths.iter().map(|path| (*path).into()).collect();
    options
}

fn dry() -> RestoreOptions {
    let mut options = RestoreOptions::default();
    options.dry_run = true;
    options
}

fn changed(restored: &Restored) -> Vec<String> {
    restored.changes.iter().map(|change| change.path.to_string()).collect()
}

/// git finds the workspace as its HEAD says, and the repository whole.
#[track_caller]
fn clean(git: &Git, dir: &Path) {
    assert_eq!(git.ok(dir, "status --porcelain"), "");
    git.fsck(dir);
}

fn tree(git: &Git, dir: &Path, commit: impl std::fmt::Display) -> String {
    git.ok_args(dir, ["rev-parse", &format!("{commit}^{{tree}}")])
}

#[test]
fn a_restore_brings_everything_back_as_a_new_checkpoint() {
    let git = Git::new();
    let (dir, workspace) = workspace(&git);
    write(&dir, "report.md", "one\n");
    write(&dir, "tool", "#!/bin/sh\n");
    fs::set_permissions(dir.join("tool"), fs::Permissions::from_mode(0o755)).unwrap();
    symlink("report.md", dir.join("link")).unwrap();
    write(&dir, "deep/er/file", "x\n");
    write(&dir, "was-dir/file", "x\n");
    write(&dir, "was-file", "x\n");
    let first = take(&workspace, "first");

    write(&dir, "report.md", "two\n");
    fs::set_permissions(dir.join("tool"), fs::Permissions::from_mode(0o644)).unwrap();
    fs::remove_file(dir.join("link")).unwrap();
    symlink("elsewhere", dir.join("link")).unwrap();
    fs::remove_dir_all(dir.join("deep")).unwrap();
    fs::remove_dir_all(dir.join("was-dir")).unwrap();
    write(&dir, "was-dir", "now a file\n");
    fs::remove_file(dir.join("was-file")).unwrap();
    write(&dir, "was-file/inner", "now a directory\n");
    write(&dir, "new/file", "new\n");
    write(&dir, "ignored/cache", "keep me\n");
    let second = take(&workspace, "second");

    let restored = workspace.restore(&first, &RestoreOptions::default()).unwrap();
    assert_eq!(restored.saved, None);
    assert!(!restored.was_unsaved && restored.left.is_empty());
    assert_eq!(restored.changed, 9);
    let commit = restored.commit.unwrap();
    assert_eq!(git.ok(&dir, "rev-parse HEAD"), commit.to_string());
    assert_eq!(git.ok(&dir, "rev-parse HEAD~1"), second.to_string());
    assert_eq!(tree(&git, &dir, commit), tree(&git, &dir, first));
    assert_eq!(read(&dir, "report.md").as_deref(), Some("one\n"));
    assert_eq!(fs::read_link(dir.join("link")).unwrap(), Path::new("report.md"));
    assert!(fs::metadata(dir.join("tool")).unwrap().permissions().mode() & 0o100 != 0);
    assert!(!dir.join("new").exists());
    assert_eq!(read(&dir, "ignored/cache").as_deref(), Some("keep me\n"));
    clean(&git, &dir);
    let subject = git.ok(&dir, "log -1 --format=%s");
    assert_eq!(
        subject,
        format!("[Restore] Restored {} [Write] first", first.to_hex_with_len(10))
    );
    let trailer = git.ok(&dir, "log -1 --format=%(trailers:key=Restores,valueonly)");
    assert_eq!(trailer.trim(), first.to_string());

    // A restore can be undone like anything else.
    let Undone::Done(undone) = workspace.undo(&commit, &RestoreOptions::default()).unwrap() else {
        panic!("conflicts");
    };
    assert_eq!(tree(&git, &dir, undone.commit.unwrap()), tree(&git, &dir, second));
    assert_eq!(read(&dir, "was-file/inner").as_deref(), Some("now a directory\n"));
    clean(&git, &dir);
}

#[test]
fn a_restore_saves_what_is_unsaved_first() {
    let git = Git::new();
    let (dir, workspace) = workspace(&git);
    write(&dir, "a", "one\n");
    let first = take(&workspace, "first");
    write(&dir, "a", "precious\n");
    write(&dir, "untracked", "precious too\n");

    let preview = workspace.restore(&first, &dry()).unwrap();
    assert!(preview.was_unsaved && preview.commit.is_none() && preview.saved.is_none());
    assert_eq!(changed(&preview), ["a", "untracked"]);
    assert_eq!(git.ok(&dir, "rev-parse HEAD"), first.to_string());
    assert_eq!(read(&dir, "a").as_deref(), Some("precious\n"));

    let restored = workspace.restore(&first, &RestoreOptions::default()).unwrap();
    assert_eq!(changed(&restored), ["a", "untracked"]);
    let saved = restored.saved.unwrap();
    assert!(restored.was_unsaved);
    assert_eq!(git.ok(&dir, "show HEAD~1:a"), "precious");
    assert_eq!(git.ok(&dir, "show HEAD~1:untracked"), "precious too");
    assert_eq!(git.ok(&dir, "rev-parse HEAD~1"), saved.to_string());
    assert!(!dir.join("untracked").exists());
    clean(&git, &dir);

    // And back again.
    workspace.restore(&saved, &RestoreOptions::default()).unwrap();
    assert_eq!(read(&dir, "untracked").as_deref(), Some("precious too\n"));
    clean(&git, &dir);
    let nothing = workspace.restore(&saved, &RestoreOptions::default()).unwrap();
    assert_eq!((nothing.commit, nothing.changed), (None, 0));
}

#[test]
fn a_restore_of_paths_leaves_the_others() {
    let git = Git::new();
    let (dir, workspace) = workspace(&git);
    for path in ["a", "d/x", "d/y", "e"] {
        write(&dir, path, "one\n");
    }
    let first = take(&workspace, "first");
    for path in ["a", "d/x", "d/z", "e"] {
        write(&dir, path, "two\n");
    }
    fs::remove_file(dir.join("d/y")).unwrap();
    take(&workspace, "second");
    let before = fs::metadata(dir.join("a")).unwrap().modified().unwrap();
    let restored = workspace.restore(&first, &limited(&["d", "/e/"])).unwrap();
    assert_eq!(changed(&restored), ["d/x", "d/y", "d/z", "e"]);
    assert_eq!(read(&dir, "a").as_deref(), Some("two\n"));
    assert_eq!(fs::metadata(dir.join("a")).unwrap().modified().unwrap(), before);
    assert_eq!(read(&dir, "d/y").as_deref(), Some("one\n"));
    assert!(!dir.join("d/z").exists());
    clean(&git, &dir);

    let err = workspace.restore(&first, &limited(&["nothing"])).unwrap_err();
    assert!(matches!(err, RestoreError::Read(ReadError::NoSuchPath { .. })), "{err}");
    assert_eq!(err.fault(), Fault::NotFound);
    let absent = ObjectId::from_hex(&[b'1'; 40]).unwrap();
    let err = workspace.restore(&absent, &RestoreOptions::default()).unwrap_err();
    assert_eq!(err.fault(), Fault::NotFound);
}

#[test]
fn what_is_saved_nowhere_is_never_overwritten() {
    let git = Git::new();
    let (dir, workspace) = workspace(&git);
    write(&dir, "ignored-later", "old\n");
    let first = take(&workspace, "first");
    fs::remove_file(dir.join("ignored-later")).unwrap();
    write(&dir, ".gitignore", "ignored*\n");
    let second = take(&workspace, "second");
    write(&dir, "ignored-later", "mine\n");
    let mut only = limited(&["ignored-later"]);
    let err = workspace.restore(&first, &only).unwrap_err();
    assert_eq!(err.fault(), Fault::Client, "{err}");
    assert!(err.to_string().contains("ignored-later") && !err.to_string().contains(&*dir.to_string_lossy()));
    assert_eq!(read(&dir, "ignored-later").as_deref(), Some("mine\n"));
    assert_eq!(git.ok(&dir, "rev-parse HEAD"), second.to_string());
    assert_eq!(git.ok(&dir, "status --porcelain"), "");

    fs::remove_file(dir.join("ignored-later")).unwrap();
    only.message = Some(Checkpoint::after("Restore", "by hand").agent("person"));
    workspace.restore(&first, &only).unwrap();
    assert_eq!(read(&dir, "ignored-later").as_deref(), Some("old\n"));
    assert_eq!(git.ok(&dir, "log -1 --format=%an:%s"), "person:[Restore] by hand");
}

#[test]
fn an_undo_takes_one_checkpoint_back_and_keeps_the_others() {
    let git = Git::new();
    let (dir, workspace) = workspace(&git);
    let text = |changed: &[usize]| -> String {
        (0..20)
            .map(|n| format!("line {n}{}\n", if changed.contains(&n) { " changed" } else { "" }))
            .collect()
    };
    write(&dir, "text", &text(&[]));
    take(&workspace, "first");
    write(&dir, "text", &text(&[3]));
    write(&dir, "made", "by mistake\n");
    let mistake = take(&workspace, "mistake");
    write(&dir, "text", &text(&[3, 15]));
    let later = take(&workspace, "later");
    write(&dir, "unsaved", "x\n");

    let undone = |options: &RestoreOptions| match workspace.undo(&mistake, options).unwrap() {
        Undone::Done(restored) => restored,
        Undone::Conflicts(conflicts) => panic!("{conflicts:?}"),
    };
    assert_eq!(changed(&undone(&dry())), ["made", "text"]);
    assert_eq!(git.ok(&dir, "rev-parse HEAD"), later.to_string());
    let restored = undone(&RestoreOptions::default());
    assert!(restored.saved.is_some());
    assert_eq!(read(&dir, "text"), Some(text(&[15])));
    assert_eq!(read(&dir, "unsaved").as_deref(), Some("x\n"));
    assert!(!dir.join("made").exists());
    clean(&git, &dir);
    let trailer = git.ok(&dir, "log -1 --format=%(trailers:key=Undoes,valueonly)");
    assert_eq!(trailer.trim(), mistake.to_string());

    // git's revert of the same commit has the same outcome.
    let ours = tree(&git, &dir, "HEAD");
    git.ok(&dir, &format!("checkout -q --detach {}", restored.saved.unwrap()));
    git.ok(&dir, &format!("revert --no-edit {mistake}"));
    assert_eq!(tree(&git, &dir, "HEAD"), ours);
}

#[test]
fn an_undo_that_does_not_go_together_with_later_work_changes_nothing() {
    let git = Git::new();
    let (dir, workspace) = workspace(&git);
    write(&dir, "a", "1\n2\n3\n");
    write(&dir, "b", "1\n");
    take(&workspace, "first");
    write(&dir, "a", "1\ntwo\n3\n");
    write(&dir, "b", "one\n");
    let mistake = take(&workspace, "mistake");
    write(&dir, "a", "1\nzwei\n3\n");
    let head = git.ok(&dir, "rev-parse HEAD");
    for options in [RestoreOptions::default(), dry()] {
        let Undone::Conflicts(conflicts) = workspace.undo(&mistake, &options).unwrap() else {
            panic!("no conflict");
        };
        assert_eq!(conflicts.len(), 1);
        assert_eq!(
            (conflicts[0].path.to_string().as_str(), conflicts[0].kind),
            ("a", ConflictKind::Content)
        );
        assert_eq!(git.ok(&dir, "rev-parse HEAD"), head);
        assert_eq!(git.ok(&dir, "status --porcelain"), " M a");
        assert_eq!(read(&dir, "b").as_deref(), Some("one\n"));
    }
}

#[test]
fn an_undo_finds_a_file_where_it_was_moved() {
    let git = Git::new();
    let (dir, workspace) = workspace(&git);
    let text = |first: &str| -> String { [first].into_iter().chain((0..20).map(|_| "line\n")).collect() };
    write(&dir, "a", &text("good\n"));
    let made = take(&workspace, "made");
    write(&dir, "a", &text("bad\n"));
    let mistake = take(&workspace, "mistake");
    fs::create_dir(dir.join("d")).unwrap();
    fs::rename(dir.join("a"), dir.join("d/b")).unwrap();
    let moved = take(&workspace, "moved");
    let undo = |commit: &ObjectId| workspace.undo(commit, &RestoreOptions::default()).unwrap();
    assert!(matches!(undo(&mistake), Undone::Done(_)));
    assert_eq!(read(&dir, "d/b"), Some(text("good\n")));
    assert!(!dir.join("a").exists());
    // The move goes back, and takes later changes with it.
    assert!(matches!(undo(&moved), Undone::Done(_)));
    assert_eq!(read(&dir, "a"), Some(text("good\n")));
    assert!(!dir.join("d").exists());
    clean(&git, &dir);
    workspace.restore(&moved, &RestoreOptions::default()).unwrap();
    // Whoever moved it wants it.
    assert!(matches!(undo(&made), Undone::Conflicts(_)));
}

#[test]
fn the_first_commit_can_be_undone() {
    let git = Git::new();
    let dir = git.init("work");
    write(&dir, "a", "x\n");
    let workspace = Workspace::open_with(&dir, &options()).unwrap();
    let first = workspace.checkpoint(Checkpoint::initial("x")).unwrap().commit.unwrap();
    write(&dir, "b", "y\n");
    take(&workspace, "second");
    let Undone::Done(_) = workspace.undo(&first, &RestoreOptions::default()).unwrap() else {
        panic!("conflicts");
    };
    assert!(!dir.join("a").exists() && dir.join("b").exists());
    clean(&git, &dir);
}

#[test]
fn beside_the_branch_a_restore_leaves_branch_and_index_alone() {
    let git = Git::new();
    let dir = git.init("work");
    git.commit(&dir, "a", "zero\n", "by hand");
    let head = git.ok(&dir, "rev-parse HEAD");
    let options = WorkspaceOptions {
        placement: Placement::Shadow,
        ..options()
    };
    let workspace = Workspace::open_with(&dir, &options).unwrap();
    write(&dir, "a", "one\n");
    write(&dir, "b", "new\n");
    let first = take(&workspace, "first");
    write(&dir, "a", "two\n");
    fs::remove_file(dir.join("b")).unwrap();
    let index = fs::read(dir.join(".git/index")).unwrap();

    let restored = workspace.restore(&first, &RestoreOptions::default()).unwrap();
    assert_eq!(
        (restored.placed, restored.reference.to_string().as_str()),
        (Placed::Shadow, "refs/gitstead/checkpoints/main")
    );
    assert!(restored.saved.is_some());
    assert_eq!(read(&dir, "a").as_deref(), Some("one\n"));
    assert_eq!(read(&dir, "b").as_deref(), Some("new\n"));
    assert_eq!(git.ok(&dir, "rev-parse HEAD"), head);
    assert_eq!(fs::read(dir.join(".git/index")).unwrap(), index);
    assert_eq!(git.ok(&dir, "status --porcelain"), " M a\n?? b");
    let tip = git.ok(&dir, "rev-parse refs/gitstead/checkpoints/main");
    assert_eq!(tip, restored.commit.unwrap().to_string());
    // Another workspace of the same directory sees no change.
    let again = Workspace::open_with(&dir, &options).unwrap();
    let outcome = again.checkpoint(Checkpoint::after("Read", "nothing")).unwrap();
    assert_eq!(outcome.changed, 0);
    git.fsck(&dir);

    // To where the branch is.
    let commit = ObjectId::from_hex(head.as_bytes()).unwrap();
    again.restore(&commit, &RestoreOptions::default()).unwrap();
    assert_eq!(git.ok(&dir, "status --porcelain"), "");
}

#[test]
fn nothing_is_restored_in_the_middle_of_a_merge() {
    let git = Git::new();
    let (dir, workspace) = workspace(&git);
    let first = take(&workspace, "first");
    git.ok(&dir, "checkout -q -b side");
    git.commit(&dir, "a", "side\n", "side");
    git.ok(&dir, "checkout -q main");
    git.commit(&dir, "a", "main\n", "main");
    assert!(!git.run(&dir, ["merge", "side"]).ok);
    let status = git.ok(&dir, "status --porcelain");
    let err = workspace.restore(&first, &RestoreOptions::default()).unwrap_err();
    assert!(matches!(err, RestoreError::InProgress { what: "merge" }), "{err}");
    assert_eq!(git.ok(&dir, "status --porcelain"), status);
}

#[derive(Debug, Clone)]
enum Act {
    Write(usize, usize),
    Remove(usize),
    Take,
    Restore(usize),
    RestorePath(usize, usize),
    Undo(usize),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        4 => (0..6usize, 0..5usize).prop_map(|(path, content)| Act::Write(path, content)),
        2 => (0..6usize).prop_map(Act::Remove),
        3 => Just(Act::Take),
        2 => any::<usize>().prop_map(Act::Restore),
        1 => (any::<usize>(), 0..6usize).prop_map(|(commit, path)| Act::RestorePath(commit, path)),
        2 => any::<usize>().prop_map(Act::Undo),
    ];
    proptest::collection::vec(act, 1..25)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, max_shrink_iters: 60, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn whatever_is_done_the_files_are_those_of_the_last_checkpoint(acts in acts(), watched in any::<bool>()) {
        let git = Git::new();
        let (dir, workspace) = workspace(&git);
        let workspace = Arc::new(workspace);
        if watched {
            workspace.watch().unwrap();
        }
        let paths = ["a", "a/b", "a/c/d", "e", "f/g", "f"];
        let repository = workspace.repository();
        let mut commits = vec![take(&workspace, "first")];
        for act in acts {
            let pick = |n: usize| commits[n % commits.len()];
            let tree = |id: &ObjectId| tree_of(&repository.odb().unwrap(), id).unwrap();
            match act {
                Act::Write(path, content) => {
                    // What is in the way of a directory goes.
                    let path = dir.join(paths[path]);
                    for above in path.ancestors().skip(1).take_while(|above| *above != dir) {
                        if above.is_file() {
                            fs::remove_file(above).unwrap();
                        }
                    }
                    if path.is_dir() {
                        fs::remove_dir_all(&path).unwrap();
                    }
                    fs::create_dir_all(path.parent().unwrap()).unwrap();
                    let lines: String = (0..8).map(|n| format!("{n}{}\n", if n == content * 2 { "!" } else { "" })).collect();
                    fs::write(path, lines).unwrap();
                }
                Act::Remove(path) => {
                    let path = dir.join(paths[path]);
                    if path.is_dir() {
                        fs::remove_dir_all(path).unwrap();
                    } else {
                        let _ = fs::remove_file(path);
                    }
                }
                Act::Take => commits.push(take(&workspace, "more")),
                Act::Restore(n) => {
                    let preview = workspace.restore(&pick(n), &dry()).unwrap();
                    let restored = workspace.restore(&pick(n), &RestoreOptions::default()).unwrap();
                    prop_assert!(restored.left.is_empty());
                    prop_assert_eq!(&preview.changes, &restored.changes);
                    match restored.commit {
                        Some(commit) => {
                            prop_assert_eq!(tree(&commit), tree(&pick(n)));
                            commits.extend(restored.saved);
                            commits.push(commit);
                        }
                        // Nothing had to change; what was unsaved still is.
                        None => commits.push(take(&workspace, "same")),
                    }
                    prop_assert_eq!(git.ok(&dir, "status --porcelain"), "");
                }
                Act::RestorePath(n, path) => match workspace.restore(&pick(n), &limited(&[paths[path]])) {
                    Ok(restored) => {
                        commits.extend(restored.saved);
                        commits.extend(restored.commit);
                    }
                    Err(RestoreError::Read(ReadError::NoSuchPath { .. }) | RestoreError::Tree(_)) => {}
                    Err(err) => panic!("{err:?}"),
                },
                Act::Undo(n) => {
                    let before = git.ok(&dir, "status --porcelain");
                    match workspace.undo(&pick(n), &RestoreOptions::default()).unwrap() {
                        Undone::Done(restored) => {
                            commits.extend(restored.saved);
                            commits.extend(restored.commit);
                        }
                        Undone::Conflicts(_) => prop_assert_eq!(git.ok(&dir, "status --porcelain"), before),
                    }
                }
            }
        }
        commits.push(take(&workspace, "last"));
        prop_assert_eq!(git.ok(&dir, "status --porcelain --ignored"), "");
        git.fsck(&dir);
        // Nothing was ever rewritten: every commit is in the history.
        let tip = *commits.last().unwrap();
        let mut query = LogQuery::default();
        query.entries = 1_000;
        let page = log(repository, &tip, None, &query).unwrap();
        let seen: Vec<_> = page.entries.iter().map(|entry| entry.commit.id).collect();
        for commit in &commits {
            prop_assert!(seen.contains(commit));
        }
    }
}

#[test]
fn a_workspace_on_another_file_system_than_its_repository_is_changed_as_safely() {
    use std::os::unix::fs::MetadataExt as _;
    let git = Git::new();
    let dir = git.init("work");
    git.commit(&dir, "a", "one", "seed");
    let elsewhere = tempfile::tempdir_in("/dev/shm").unwrap();
    let root = elsewhere.path().join("tree");
    git.ok(&dir, &format!("worktree add -q -b other {}", root.display()));
    let device = |path: &Path| fs::metadata(path).unwrap().dev();
    assert_ne!(device(&root), device(&dir.join(".git")), "it is no test without");
    let workspace = Workspace::open_with(&root, &options()).unwrap();
    write(&root, "d/b", "two");
    let first = take(&workspace, "first");
    write(&root, "d/b", "three");
    write(&root, "c", "new");
    fs::remove_file(root.join("a")).unwrap();
    take(&workspace, "second");
    write(&root, "unsaved", "kept");
    let restored = workspace.restore(&first, &RestoreOptions::default()).unwrap();
    assert!(restored.left.is_empty(), "{:?}", restored.left);
    let there = ["a", "d/b", "c", "unsaved"].map(|path| read(&root, path));
    assert_eq!(there, [Some("one".to_owned()), Some("two".to_owned()), None, None]);
    assert_eq!(git.ok(&root, "status --porcelain"), "");
    assert_eq!(git.ok(&root, "show HEAD^:unsaved"), "kept");
    let names: Vec<_> = fs::read_dir(&root)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(!names.iter().any(|name| name.contains("gitstead")), "{names:?}");
}
