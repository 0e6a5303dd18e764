//! Files from one tree to another: what may not be lost, and a stop or a disturbance at every step.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    path::{Path, PathBuf},
};

use bstr::{BStr, ByteSlice as _};
use gix::{
    hash::{ObjectId, oid},
    objs::{Kind, tree::EntryKind},
};

use super::{
    FileStat,
    beneath::{self, kill},
    journal::Plan,
    transition::{Contents, Fate, Place, TransitionError, apply, is_left_over, settle, stage},
};
use crate::repo::TreeChange;

/// Path → kind and content.
type Tree = BTreeMap<String, (EntryKind, Vec<u8>)>;

fn tree(entries: &[(&str, EntryKind, &str)]) -> Tree {
    entries
        .iter()
        .map(|(path, kind, content)| (path.to_string(), (*kind, content.as_bytes().to_vec())))
        .collect()
}

fn id_of(content: &[u8]) -> ObjectId {
    gix::objs::compute_hash(gix::hash::Kind::Sha1, Kind::Blob, content).unwrap()
}

#[derive(Default)]
struct Known(HashMap<ObjectId, Vec<u8>>);

impl Contents for Known {
    fn bytes(&mut self, _: &BStr, _: EntryKind, id: &oid) -> Result<Vec<u8>, TransitionError> {
        Ok(self.0[&id.to_owned()].clone())
    }
    fn is_known(&mut self, _: &BStr, _: EntryKind, _: &oid, _: &FileStat) -> bool {
        false
    }
    fn records_as(&mut self, _: &BStr, _: EntryKind, id: &oid, bytes: &[u8]) -> Result<bool, TransitionError> {
        Ok(id_of(bytes) == id)
    }
    fn is_skipped(&mut self, _: &BStr) -> bool {
        false
    }
}

fn changes(from: &Tree, to: &Tree) -> (Vec<TreeChange>, Known) {
    let mut known = Known::default();
    let mut side = |tree: &Tree, path: &String| {
        tree.get(path).map(|(kind, content)| {
            let id = id_of(content);
            known.0.insert(id, content.clone());
            (*kind, id)
        })
    };
    let mut paths: Vec<&String> = from.keys().chain(to.keys()).collect();
    paths.sort();
    paths.dedup();
    let changes = paths
        .into_iter()
        .map(|path| TreeChange {
            path: path.as_str().into(),
            from: side(from, path),
            to: side(to, path),
        })
        .filter(|change| change.from != change.to)
        .collect();
    (changes, known)
}

struct Ground {
    dir: tempfile::TempDir,
}

impl Ground {
    fn new(tree: &Tree) -> Self {
        let ground = Ground {
            dir: tempfile::tempdir().unwrap(),
        };
        fs::create_dir_all(ground.root()).unwrap();
        fs::create_dir_all(ground.git()).unwrap();
        for (path, (kind, content)) in tree {
            ground.put(path, *kind, content);
        }
        ground
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("work")
    }

    fn git(&self) -> PathBuf {
        self.dir.path().join("git")
    }

    fn put(&self, path: &str, kind: EntryKind, content: &[u8]) {
        let at = self.root().join(path);
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        match kind {
            EntryKind::Link => symlink(content.to_str().unwrap(), at).unwrap(),
            EntryKind::Commit => fs::create_dir_all(at).unwrap(),
            _ => {
                fs::write(&at, content).unwrap();
                if kind == EntryKind::BlobExecutable {
                    fs::set_permissions(&at, fs::Permissions::from_mode(0o755)).unwrap();
                }
            }
        }
    }

    /// What is there, as a tree; empty directories as such.
    fn found(&self) -> Tree {
        let mut found = Tree::new();
        let mut todo = vec![self.root()];
        while let Some(dir) = todo.pop() {
            let mut empty = true;
            for entry in fs::read_dir(&dir).unwrap() {
                empty = false;
                let at = entry.unwrap().path();
                let meta = fs::symlink_metadata(&at).unwrap();
                let path = at.strip_prefix(self.root()).unwrap().to_str().unwrap().to_owned();
                if meta.is_dir() {
                    todo.push(at);
                } else if meta.is_symlink() {
                    let target = fs::read_link(&at).unwrap();
                    found.insert(path, (EntryKind::Link, target.to_str().unwrap().into()));
                } else {
                    let kind = match meta.mode() & 0o100 {
                        0 => EntryKind::Blob,
                        _ => EntryKind::BlobExecutable,
                    };
                    found.insert(path, (kind, fs::read(&at).unwrap()));
                }
            }
            if empty && dir != self.root() {
                let path = dir.strip_prefix(self.root()).unwrap().to_str().unwrap().to_owned();
                found.insert(path, (EntryKind::Tree, Vec::new()));
            }
        }
        found
    }

    fn place(&self) -> Place {
        Place::open(&self.root(), &self.git()).unwrap()
    }

    fn prepare(&self, from: &Tree, to: &Tree) -> Result<Plan, TransitionError> {
        let (changes, mut known) = changes(from, to);
        stage(
            &self.place(),
            &mut known,
            &changes,
            &id_of(b"to"),
            "refs/heads/main".into(),
            None,
        )
    }

    /// All of it; `moved` says when the ref has moved.
    fn go(&self, from: &Tree, to: &Tree, moved: &mut bool) -> Result<Vec<Fate>, TransitionError> {
        let plan = self.prepare(from, to)?;
        *moved = true;
        let io = |source| TransitionError::Io {
            doing: "",
            path: PathBuf::new(),
            source,
        };
        let fates = apply(&self.place(), &plan).map_err(io)?;
        settle(&self.place(), &plan).map_err(io)?;
        Ok(fates)
    }

    /// What the next one to lock the workspace does.
    fn recover(&self, moved: bool) {
        if let Some(plan) = Plan::read(&self.git()).unwrap()
            && moved
        {
            apply(&self.place(), &plan).unwrap();
            settle(&self.place(), &plan).unwrap();
        }
        Plan::remove(&self.git()).unwrap();
        for dir in [self.root(), self.git()] {
            let dir = beneath::Beneath::open(&dir).unwrap();
            for name in ["gitstead-stage", ".gitstead-stage"] {
                beneath::remove_all(dir.root(), name.into()).unwrap();
            }
        }
    }

    fn assert_tidy(&self) {
        assert!(!is_left_over(&self.root(), &self.git()));
        assert_eq!(fs::read_dir(self.git()).unwrap().count(), 0);
    }
}

use EntryKind::{Blob, BlobExecutable, Commit, Link};

fn before() -> Tree {
    tree(&[
        ("changed", Blob, "old"),
        ("deep/er/changed", Blob, "old deep"),
        ("deep/er/gone", Blob, "gone"),
        ("dir-to-file/a", Blob, "a"),
        ("dir-to-file/b/c", Blob, "c"),
        ("file-to-dir", Blob, "file"),
        ("goes/with/its/directories", Blob, "x"),
        ("link", Link, "changed"),
        ("link-to-dir", Link, "deep"),
        ("mode", Blob, "mode"),
        ("same", Blob, "same"),
    ])
}

fn after() -> Tree {
    tree(&[
        ("changed", Blob, "new"),
        ("deep/er/changed", Blob, "new deep"),
        ("deep/new/one", Blob, "one"),
        ("dir-to-file", Blob, "now a file"),
        ("file-to-dir/a", Blob, "in it"),
        ("file-to-dir/b", BlobExecutable, "in it, too"),
        ("link", Link, "same"),
        ("link-to-dir/x", Blob, "x"),
        ("mode", BlobExecutable, "mode"),
        ("same", Blob, "same"),
        ("weird \n\u{1}name", Blob, ""),
    ])
}

#[test]
fn every_kind_of_change_arrives_and_nothing_else_is_touched() {
    let (from, to) = (before(), after());
    let ground = Ground::new(&from);
    let untouched = |ground: &Ground| {
        let meta = fs::metadata(ground.root().join("same")).unwrap();
        (meta.ino(), meta.mtime(), meta.mtime_nsec(), meta.ctime_nsec())
    };
    let same = untouched(&ground);
    let fates = ground.go(&from, &to, &mut false).unwrap();
    assert!(fates.iter().all(|fate| *fate == Fate::Done));
    assert_eq!(ground.found(), to);
    assert_eq!(untouched(&ground), same);
    ground.assert_tidy();
    // And back.
    ground.go(&to, &from, &mut false).unwrap();
    assert_eq!(ground.found(), from);
    ground.assert_tidy();
}

#[test]
fn who_is_killed_at_any_step_has_done_nothing_or_can_be_finished() {
    let (from, to) = (before(), after());
    let mut steps = 0;
    let (mut dropped, mut finished) = (0, 0);
    loop {
        let ground = Ground::new(&from);
        let mut moved = false;
        let (_, killed) = kill::after(steps, || ground.go(&from, &to, &mut moved));
        if !killed {
            assert_eq!(ground.found(), to);
            break;
        }
        // The one who comes next may be killed, too.
        let (_, _) = kill::after(steps / 2, || {
            let plan = Plan::read(&ground.git()).ok().flatten();
            if let (Some(plan), true) = (plan, moved) {
                let _ = apply(&ground.place(), &plan).and_then(|_| settle(&ground.place(), &plan));
            }
        });
        ground.recover(moved);
        let expected = if moved { &to } else { &from };
        assert_eq!(&ground.found(), expected, "killed at step {steps}");
        ground.assert_tidy();
        if moved {
            finished += 1;
        } else {
            dropped += 1;
        }
        steps += 1;
    }
    assert!(
        dropped > 20 && finished > 20,
        "{dropped} before the ref moved, {finished} after it"
    );
}

/// What an agent may do to a file while it is replaced.
#[derive(Clone, Copy, Debug)]
enum Deed {
    Write,
    Replace,
    Delete,
}

fn do_deed(deed: Deed, root: &Path, path: &str) {
    let at = root.join(path);
    match deed {
        Deed::Write => {
            let _ = fs::create_dir_all(at.parent().unwrap());
            fs::write(&at, "the agent's").unwrap();
        }
        Deed::Replace => {
            let _ = fs::create_dir_all(at.parent().unwrap());
            let beside = root.join("beside");
            fs::write(&beside, "the agent's").unwrap();
            fs::rename(beside, at).unwrap();
        }
        Deed::Delete => {
            let _ = fs::remove_file(at);
        }
    }
}

#[test]
fn what_the_agent_does_at_any_step_is_kept() {
    let from = tree(&[("a", Blob, "old a"), ("d/b", Blob, "old b"), ("gone", Blob, "old gone")]);
    let to = tree(&[("a", Blob, "new a"), ("d/b", Blob, "new b"), ("e/new", Blob, "new e")]);
    for deed in [Deed::Write, Deed::Replace, Deed::Delete] {
        for path in ["a", "d/b", "gone", "e/new"] {
            let mut steps = 0;
            loop {
                let ground = Ground::new(&from);
                let root = ground.root();
                let act = move || do_deed(deed, &root, path);
                let (_, acted) = kill::disturbed(steps, act, || ground.go(&from, &to, &mut false));
                if !acted {
                    break;
                }
                let content = fs::read_to_string(ground.root().join(path)).ok();
                match deed {
                    Deed::Write | Deed::Replace => {
                        assert_eq!(content.as_deref(), Some("the agent's"), "{deed:?} {path} at {steps}");
                    }
                    // What is not there any more is either left so, or was deleted before it came.
                    Deed::Delete => {
                        let old = content.as_deref().is_some_and(|content| content.starts_with("old"));
                        assert!(!old, "{path} at {steps} is back");
                    }
                }
                // Nothing else was harmed.
                for (other, (_, new)) in to.iter().filter(|(other, _)| *other != path) {
                    let content = fs::read(ground.root().join(other)).unwrap();
                    assert_eq!(&content, new, "{other} after {deed:?} {path} at {steps}");
                }
                ground.assert_tidy();
                steps += 1;
            }
            assert!(steps > 15, "{steps} steps");
        }
    }
}

#[test]
fn a_link_planted_at_any_step_leads_nothing_out() {
    let from = tree(&[("d/keep", Blob, "k"), ("d/old", Blob, "old")]);
    let to = tree(&[("d/keep", Blob, "k2"), ("d/new/file", Blob, "new")]);
    let mut steps = 0;
    loop {
        let ground = Ground::new(&from);
        let outside = ground.dir.path().join("outside");
        fs::create_dir(&outside).unwrap();
        for (name, content) in [("keep", "k"), ("old", "old")] {
            fs::write(outside.join(name), content).unwrap();
        }
        let (root, away, target) = (ground.root(), ground.dir.path().join("away"), outside.clone());
        let act = move || {
            if root.join("d").exists() {
                fs::rename(root.join("d"), away).unwrap();
            }
            symlink(target, root.join("d")).unwrap();
        };
        let (_, acted) = kill::disturbed(steps, act, || ground.go(&from, &to, &mut false));
        if !acted {
            break;
        }
        let mut names: Vec<_> = fs::read_dir(&outside)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["keep", "old"], "at step {steps}");
        assert_eq!(fs::read(outside.join("keep")).unwrap(), b"k", "at step {steps}");
        assert!(fs::symlink_metadata(ground.root().join("d")).unwrap().is_symlink());
        steps += 1;
    }
    assert!(steps > 15, "{steps} steps");
}

fn refusal(ground: &Ground, from: &Tree, to: &Tree) -> String {
    let there = ground.found();
    let refused = ground.prepare(from, to).unwrap_err().to_string();
    assert_eq!(ground.found(), there, "a refusal changes nothing");
    assert!(Plan::read(&ground.git()).unwrap().is_none());
    refused
}

#[test]
fn what_is_saved_nowhere_is_not_overwritten() {
    let from = tree(&[("a", Blob, "a"), ("d/x", Blob, "x")]);
    // Changed since it was recorded; gone; another kind of thing.
    let to = tree(&[("a", Blob, "b"), ("d/x", Blob, "x")]);
    let ground = Ground::new(&from);
    ground.put("a", Blob, b"changed");
    assert_eq!(refusal(&ground, &from, &to), "'a' has changes that are saved nowhere");
    fs::remove_file(ground.root().join("a")).unwrap();
    assert_eq!(refusal(&ground, &from, &to), "'a' has changes that are saved nowhere");
    ground.put("a/inner", Blob, b"now a directory");
    assert_eq!(refusal(&ground, &from, &to), "'a' has changes that are saved nowhere");
    // Executable now.
    let ground = Ground::new(&from);
    fs::set_permissions(ground.root().join("a"), fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(refusal(&ground, &from, &to), "'a' has changes that are saved nowhere");
    // Untracked or ignored, where something shall come.
    let to = tree(&[
        ("a", Blob, "a"),
        ("d/x", Blob, "x"),
        ("new", Blob, "new"),
        ("sub/new", Blob, "new"),
    ]);
    let ground = Ground::new(&from);
    ground.put("new", Blob, b"not yours");
    assert_eq!(refusal(&ground, &from, &to), "'new' is in the way and is saved nowhere");
    let ground = Ground::new(&from);
    ground.put("sub", Blob, b"not yours");
    assert_eq!(refusal(&ground, &from, &to), "'sub' is in the way and is saved nowhere");
    let ground = Ground::new(&from);
    ground.put("new/inner", Blob, b"not yours");
    assert_eq!(
        refusal(&ground, &from, &to),
        "'new/inner' is in the way and is saved nowhere"
    );
    // A directory that shall become a file has something in it that is not tracked.
    let to = tree(&[("a", Blob, "a"), ("d", Blob, "now a file")]);
    let ground = Ground::new(&from);
    ground.put("d/ignored", Blob, b"not yours");
    assert_eq!(
        refusal(&ground, &from, &to),
        "'d/ignored' is in the way and is saved nowhere"
    );
}

#[test]
fn what_is_there_already_as_it_shall_be_stays() {
    let from = tree(&[("a", Blob, "a"), ("b", Blob, "b")]);
    let to = tree(&[("a", Blob, "new"), ("c", Link, "target")]);
    let ground = Ground::new(&tree(&[("a", Blob, "new"), ("c", Link, "target")]));
    let inode = |path: &str| fs::symlink_metadata(ground.root().join(path)).unwrap().ino();
    let was = (inode("a"), inode("c"));
    ground.go(&from, &to, &mut false).unwrap();
    assert_eq!((inode("a"), inode("c")), was);
    assert_eq!(ground.found(), to);
}

#[test]
fn links_in_place_of_directories_are_not_followed() {
    let from = tree(&[("a", Blob, "a")]);
    let to = tree(&[("a", Blob, "a"), ("out/file", Blob, "x")]);
    let ground = Ground::new(&from);
    let outside = ground.dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    symlink(&outside, ground.root().join("out")).unwrap();
    assert_eq!(
        refusal(&ground, &from, &to),
        "'out' is a symbolic link where a directory is needed"
    );
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
}

#[test]
fn names_that_git_refuses_are_refused() {
    let from = Tree::new();
    for bad in [
        ".git",
        ".GIT",
        ".git/config",
        "sub/.Git/hooks/x",
        "git~1",
        "GIT~1/config",
        "..",
        "../x",
        "a/../../x",
        "./a",
        "a//b",
        "/etc/passwd",
        ".git ",
        ".git::$INDEX_ALLOCATION/x",
        ".g\u{200c}it/config",
        "a\0b",
        ".gitstead-stage/1",
        &format!("long/{}", "x".repeat(256)),
    ] {
        let ground = Ground::new(&from);
        let to = tree(&[(bad, Blob, "x")]);
        let refused = ground.prepare(&from, &to).unwrap_err();
        assert!(matches!(refused, TransitionError::Illegal { .. }), "{bad:?}: {refused}");
        assert!(!refused.public_text().contains(ground.dir.path().to_str().unwrap()));
        assert_eq!(ground.found(), from);
    }
    let ground = Ground::new(&from);
    let to = tree(&[(".gitmodules", Link, "/etc/passwd")]);
    assert!(matches!(
        ground.prepare(&from, &to),
        Err(TransitionError::Illegal { .. })
    ));
    // And those that it takes are taken.
    let to = tree(&[
        ("back\\slash", Blob, "1"),
        (".gitignore", Blob, "2"),
        ("..a", Blob, "3"),
        ("A", Blob, "4"),
        ("a", Blob, "5"),
    ]);
    ground.go(&from, &to, &mut false).unwrap();
    assert_eq!(ground.found(), to);
}

#[test]
fn the_directory_of_a_nested_repository_is_left_alone() {
    let from = tree(&[("sub", Commit, "one"), ("gone", Commit, "g"), ("emptied", Commit, "e")]);
    let to = tree(&[("sub", Commit, "two"), ("fresh", Commit, "f")]);
    let ground = Ground::new(&from);
    ground.put("sub/file", Blob, b"of the nested one");
    ground.put("gone/file", Blob, b"of the nested one");
    ground.go(&from, &to, &mut false).unwrap();
    assert_eq!(fs::read(ground.root().join("sub/file")).unwrap(), b"of the nested one");
    assert_eq!(fs::read(ground.root().join("gone/file")).unwrap(), b"of the nested one");
    assert!(ground.root().join("fresh").is_dir());
    assert!(!ground.root().join("emptied").exists());
    // A file takes its place only when nothing is in it.
    let (from, to) = (tree(&[("sub", Commit, "two")]), tree(&[("sub", Blob, "file")]));
    assert_eq!(refusal(&ground, &from, &to), "'sub' is in the way and is saved nowhere");
    fs::remove_file(ground.root().join("sub/file")).unwrap();
    ground.go(&from, &to, &mut false).unwrap();
    assert_eq!(fs::read(ground.root().join("sub")).unwrap(), b"file");
    ground.go(&to, &from, &mut false).unwrap();
    assert!(ground.root().join("sub").is_dir());
}

#[test]
fn a_directory_that_cannot_be_written_to_refuses() {
    // Root may write everywhere.
    if rustix::process::geteuid().is_root() {
        return;
    }
    let (from, to) = (tree(&[("d/a", Blob, "a")]), tree(&[("d/a", Blob, "b")]));
    let ground = Ground::new(&from);
    fs::set_permissions(ground.root().join("d"), fs::Permissions::from_mode(0o555)).unwrap();
    assert_eq!(
        refusal(&ground, &from, &to),
        "the directory of 'd/a' cannot be written to"
    );
    fs::set_permissions(ground.root().join("d"), fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn a_stage_of_an_earlier_one_is_replaced_even_if_it_is_a_link() {
    let (from, to) = (tree(&[("a", Blob, "a")]), tree(&[("a", Blob, "b")]));
    let ground = Ground::new(&from);
    let outside = ground.dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("0"), "kept").unwrap();
    symlink(&outside, ground.git().join("gitstead-stage")).unwrap();
    ground.go(&from, &to, &mut false).unwrap();
    assert_eq!(ground.found(), to);
    assert_eq!(fs::read(outside.join("0")).unwrap(), b"kept");
    ground.assert_tidy();
}

#[test]
fn everything_is_removed_however_deep_it_is_and_whatever_its_permissions() {
    let dir = tempfile::tempdir().unwrap();
    let top = dir.path().join("top");
    let mut at = top.clone();
    for _ in 0..1500 {
        at.push("d");
        // Beyond what one path may be: made from within.
        if at.as_os_str().len() > 3000 {
            break;
        }
    }
    fs::create_dir_all(&at).unwrap();
    fs::write(at.join("f"), "x").unwrap();
    fs::create_dir_all(top.join("closed/in")).unwrap();
    fs::write(top.join("closed/in/f"), "x").unwrap();
    fs::set_permissions(top.join("closed/in"), fs::Permissions::from_mode(0o000)).unwrap();
    fs::set_permissions(top.join("closed"), fs::Permissions::from_mode(0o000)).unwrap();
    let outside = dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("kept"), "kept").unwrap();
    symlink(&outside, top.join("link")).unwrap();
    let parent = beneath::Beneath::open(dir.path()).unwrap();
    beneath::remove_all(parent.root(), "top".into()).unwrap();
    assert!(!top.exists());
    assert_eq!(fs::read(outside.join("kept")).unwrap(), b"kept");
    beneath::remove_all(parent.root(), "top".into()).unwrap();
}

mod random {
    use proptest::prelude::*;

    use super::*;

    const NAMES: [&str; 4] = ["a", "b", "c", "a.b"];

    /// Some files, none of which is also a directory.
    fn trees() -> impl Strategy<Value = Tree> {
        let path = prop::collection::vec(0..NAMES.len(), 1..4);
        let kind = prop_oneof![Just(Blob), Just(BlobExecutable), Just(Link)];
        let content = prop_oneof![Just("x"), Just("y"), Just("z z")];
        prop::collection::vec((path, kind, content), 0..14).prop_map(|entries| {
            let mut tree = Tree::new();
            for (path, kind, content) in entries {
                let path: Vec<&str> = path.into_iter().map(|n| NAMES[n]).collect();
                let path = path.join("/");
                let below = format!("{path}/");
                let clashes = tree
                    .keys()
                    .any(|other| other.starts_with(&below) || path.starts_with(&format!("{other}/")));
                if !clashes {
                    tree.insert(path, (kind, content.as_bytes().to_vec()));
                }
            }
            tree
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 250, ..ProptestConfig::default() })]

        #[test]
        fn any_tree_becomes_any_other_killed_or_not(from in trees(), to in trees(), steps in 0u64..120) {
            let ground = Ground::new(&from);
            let mut moved = false;
            let (_, killed) = kill::after(steps, || ground.go(&from, &to, &mut moved).map(|_| ()));
            if killed {
                ground.recover(moved);
            }
            prop_assert!(killed || moved);
            prop_assert_eq!(&ground.found(), if moved { &to } else { &from });
            ground.assert_tidy();
            // And the rest of the way, or back.
            let (here, there) = if moved { (&to, &from) } else { (&from, &to) };
            ground.go(here, there, &mut false).unwrap();
            prop_assert_eq!(&ground.found(), there);
        }
    }
}
