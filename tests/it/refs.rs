//! Our refs beside C git's, on the same files at the same time.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use bstr::ByteSlice;
use gitstead::repo::{Head, OpenOptions, RefLog, RefOutcome, RefQuery, RefUpdate, Repository};
use gix::hash::ObjectId;

use crate::support::Git;

fn open(path: &Path) -> Repository {
    Repository::open(path, &OpenOptions::default()).expect("it opens")
}

fn id(hex: &str) -> ObjectId {
    ObjectId::from_hex(hex.as_bytes()).expect("an object id")
}

fn update(name: &str, old: Option<ObjectId>, new: Option<ObjectId>) -> RefUpdate {
    RefUpdate {
        name: name.into(),
        old,
        new,
    }
}

fn log() -> RefLog {
    RefLog {
        name: "A".into(),
        email: "a@example.com".into(),
        seconds: 1_700_000_000,
        message: "push".into(),
    }
}

#[track_caller]
fn apply(repo: &Repository, updates: &[RefUpdate]) {
    let outcomes = repo.update_refs(updates, true, &log()).expect("it can be tried");
    assert!(outcomes.iter().all(RefOutcome::is_ok), "{outcomes:?}");
}

/// Ours in the form of `git for-each-ref --format='%(refname) %(objectname) %(*objectname) %(symref)'`.
fn ours(repo: &Repository) -> String {
    let query = RefQuery {
        peel: true,
        ..RefQuery::default()
    };
    repo.refs(&query)
        .expect("refs can be listed")
        .iter()
        .map(|r| {
            let peeled = r.peeled.map(|id| id.to_string()).unwrap_or_default();
            format!(
                "{} {} {} {}",
                r.name,
                r.id,
                peeled,
                r.symref_target.clone().unwrap_or_default()
            )
        })
        .collect::<Vec<_>>()
        .join("\n")
}

fn theirs(git: &Git, repo: &Path) -> String {
    git.ok_args(
        repo,
        [
            "for-each-ref",
            "--format=%(refname) %(objectname) %(*objectname) %(symref)",
        ],
    )
}

#[track_caller]
fn agree(git: &Git, path: &Path, repo: &Repository) {
    assert_eq!(ours(repo), theirs(git, path));
}

/// A bare repository with three commits in a row, an annotated tag and a tag of that tag.
fn fixture(git: &Git, options: &str) -> (PathBuf, Vec<ObjectId>) {
    git.ok(git.dir(), &format!("init -q {options} work"));
    let work = git.path("work");
    let commits = (0..3)
        .map(|n| id(&git.commit(&work, "file", format!("{n}\n"), "a commit")))
        .collect();
    git.ok_args(&work, ["tag", "-a", "-m", "x", "v1"]);
    git.ok_args(&work, ["tag", "-a", "-m", "x", "v2", "v1"]);
    git.ok(git.dir(), "clone -q --mirror work bare.git");
    (git.path("bare.git"), commits)
}

#[test]
fn lists_agree_with_for_each_ref() {
    for options in ["", "--object-format=sha256"] {
        let git = Git::new();
        let (path, commits) = fixture(&git, options);
        let repo = open(&path);
        agree(&git, &path, &repo);
        for line in [
            "update-ref refs/heads/loose HEAD",
            "symbolic-ref refs/heads/alias refs/heads/main",
            "symbolic-ref refs/heads/alias-of-alias refs/heads/alias",
            "symbolic-ref refs/heads/dangling refs/heads/none",
            "update-ref refs/notes/x HEAD~1",
            "update-ref refs/tags/light HEAD~1",
            "tag -a -m x v3",
            "pack-refs --all",
            "update-ref refs/heads/loose HEAD~1",
            "update-ref -d refs/notes/x",
        ] {
            git.ok(&path, line);
            agree(&git, &path, &repo);
        }
        assert_eq!(
            repo.head(None).expect("HEAD"),
            Head::Symbolic {
                target: "refs/heads/main".into(),
                id: commits.last().copied()
            }
        );
        // Written by a git that knew neither `sorted` nor `fully-peeled`.
        let packed = std::fs::read_to_string(path.join("packed-refs")).expect("packed-refs");
        let old: String = packed
            .lines()
            .filter(|l| !l.starts_with(['#', '^']))
            .map(|l| format!("{l}\n"))
            .collect();
        std::fs::write(path.join("packed-refs"), old).expect("it can be written");
        agree(&git, &path, &repo);
        apply(
            &repo,
            &[
                update("refs/heads/one", None, Some(commits[0])),
                update("refs/heads/two", None, Some(commits[1])),
            ],
        );
        assert_eq!(
            std::fs::read_to_string(path.join("packed-refs"))
                .expect("packed-refs")
                .matches('^')
                .count(),
            3
        );
        agree(&git, &path, &repo);
    }
}

#[test]
fn git_reads_what_we_write() {
    let git = Git::new();
    let (path, commits) = fixture(&git, "");
    let repo = open(&path);
    let [a, b, c] = commits.as_slice() else {
        panic!("three commits")
    };
    let tag = id(&git.ok(&path, "rev-parse v2"));
    git.ok(&path, "update-ref refs/heads/x/y HEAD");
    for updates in [
        vec![update("refs/heads/main", Some(*c), Some(*b))],
        vec![
            update("refs/heads/main", Some(*b), Some(*a)),
            update("refs/heads/new/branch", None, Some(*b)),
            update("refs/tags/v4", None, Some(tag)),
            update("refs/tags/v1", Some(id(&git.ok(&path, "rev-parse v1"))), None),
        ],
        vec![update("refs/heads/new/branch", Some(*b), None)],
        vec![
            update("refs/heads/x/y", Some(*c), None),
            update("refs/heads/x", None, Some(*c)),
        ],
        vec![
            update("refs/heads/x", Some(*c), None),
            update("refs/heads/x/y", None, Some(*c)),
        ],
        vec![update("HEAD", Some(*a), Some(*c))],
    ] {
        apply(&repo, &updates);
        agree(&git, &path, &repo);
        git.fsck(&path);
        git.run(&path, ["refs", "verify", "--strict"]);
    }
    git.ok(&path, "pack-refs --all --prune");
    agree(&git, &path, &repo);
    repo.set_head(None, "refs/heads/x/y".into(), None)
        .expect("HEAD can be set");
    assert_eq!(git.ok(&path, "symbolic-ref HEAD"), "refs/heads/x/y");
}

#[test]
fn reflogs_are_git_s() {
    let git = Git::new();
    let (path, commits) = fixture(&git, "");
    git.ok(&path, "config core.logAllRefUpdates true");
    let repo = open(&path);
    apply(&repo, &[update("refs/heads/main", Some(commits[2]), Some(commits[1]))]);
    apply(
        &repo,
        &[
            update("refs/heads/main", Some(commits[1]), Some(commits[0])),
            update("refs/heads/n", None, Some(commits[0])),
        ],
    );
    let format = "--format=%H %gd %gs %gn";
    let expected = format!("{} main@{{0}} push A\n{} main@{{1}} push A", commits[0], commits[1]);
    assert_eq!(git.ok_args(&path, ["reflog", "show", format, "main"]), expected);
    assert_eq!(
        git.ok_args(&path, ["reflog", "show", format, "HEAD"]),
        expected.replace("main@", "HEAD@")
    );
    git.fsck(&path);
}

#[test]
fn refusals_are_those_of_git() {
    let git = Git::new();
    let (path, commits) = fixture(&git, "");
    git.ok(&path, "pack-refs --all");
    let repo = open(&path);
    let zero = repo.hash_kind().null();
    for (name, old, new) in [
        ("refs/heads/main", None, Some(commits[0])),
        ("refs/heads/main", Some(commits[0]), Some(commits[1])),
        ("refs/heads/none", Some(commits[0]), Some(commits[1])),
        ("refs/heads/main/x", None, Some(commits[0])),
        ("refs/heads", None, Some(commits[0])),
    ] {
        let outcomes = repo
            .update_refs(&[update(name, old, new)], false, &log())
            .expect("it can be tried");
        let [RefOutcome::Failed { detail, .. }] = outcomes.as_slice() else {
            panic!("{name}: {outcomes:?}")
        };
        let line = format!("update-ref {name} {} {}", new.unwrap_or(zero), old.unwrap_or(zero));
        let said = git.fails(&path, &line);
        let said = said.trim().trim_start_matches("fatal: update_ref failed for ref ");
        assert_eq!(said, format!("'{name}': {detail}"));
    }
}

#[test]
fn linked_worktrees_have_refs_of_their_own() {
    let git = Git::new();
    let main = git.init("main");
    git.commit(&main, "a", "a", "a");
    git.ok(&main, "worktree add -q ../linked -b topic");
    let linked = git.path("linked");
    git.ok(&main, "update-ref refs/bisect/bad HEAD");
    git.ok(&linked, "update-ref refs/worktree/mine HEAD");
    for path in [&main, &linked] {
        let repo = open(&path.join(".git"));
        agree(&git, path, &repo);
        let head = git.ok(path, "symbolic-ref HEAD");
        assert!(matches!(repo.head(None).expect("HEAD"), Head::Symbolic { target, .. } if target == head.as_str()));
    }
}

#[test]
fn alternates_show_their_tips() {
    let git = Git::new();
    let (path, commits) = fixture(&git, "");
    git.ok(git.dir(), "clone -q --shared --bare bare.git borrower.git");
    let repo = open(&git.path("borrower.git"));
    let tips = repo.alternate_tips();
    assert!(tips.contains(&commits[2]), "{tips:?}");
    assert!(tips.contains(&id(&git.ok(&path, "rev-parse v2"))));
    assert!(open(&path).alternate_tips().is_empty());
}

/// Two of us and C git change refs and pack them, all at once. Every change that somebody was told had worked is there.
#[test]
fn we_and_git_work_at_the_same_time() {
    let git = Git::new();
    let (path, commits) = fixture(&git, "");
    git.ok(&path, "config core.packedRefsTimeout 20000");
    git.ok(&path, "config core.filesRefLockTimeout 20000");
    let done = AtomicBool::new(false);
    let mut expected: BTreeMap<String, ObjectId> = BTreeMap::new();
    std::thread::scope(|scope| {
        let packer = scope.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                // It fails when it meets a lock; the next round will do.
                git.run(&path, ["pack-refs", "--all", "--prune"]);
            }
        });
        let reader = scope.spawn(|| {
            let repo = open(&path);
            while !done.load(Ordering::SeqCst) {
                let found = repo.find_ref("refs/heads/main".into()).expect("refs can be read");
                assert!(found.is_some(), "a ref that always exists was not found");
                let query = RefQuery {
                    prefixes: vec!["refs/heads/main".into(), "refs/tags/".into()],
                    ..RefQuery::default()
                };
                let listed = repo.refs(&query).expect("refs can be listed");
                assert_eq!(listed.len(), 3, "{listed:?}");
            }
        });
        let ours: Vec<_> = (0..2)
            .map(|who| {
                let (path, commits) = (&path, &commits);
                scope.spawn(move || {
                    let repo = open(path);
                    let mut mine = BTreeMap::new();
                    let mut failed = 0;
                    for round in 0..60 {
                        let width = 1 + round % 4;
                        let updates: Vec<_> = (0..width)
                            .map(|n| {
                                let name = format!("refs/heads/ours/{who}/{n}");
                                let old = mine.get(&name).copied();
                                let new = (round % 7 != 6 || old.is_none()).then(|| commits[round % 3]);
                                update(&name, old, new)
                            })
                            .collect();
                        let outcomes = repo.update_refs(&updates, false, &log()).expect("it can be tried");
                        for (update, outcome) in updates.iter().zip(outcomes) {
                            match (outcome, update.new) {
                                (RefOutcome::Ok, Some(new)) => {
                                    mine.insert(update.name.to_string(), new);
                                }
                                (RefOutcome::Ok, None) => {
                                    mine.remove(&update.name.to_string());
                                }
                                (RefOutcome::Failed { detail, .. }, _) => {
                                    assert!(detail.contains("File exists"), "{detail}");
                                    failed += 1;
                                }
                            }
                        }
                    }
                    assert!(failed < 60, "{failed} updates failed");
                    mine
                })
            })
            .collect();
        let theirs = scope.spawn(|| {
            let mut mine = BTreeMap::new();
            for round in 0..40 {
                let name = format!("refs/heads/theirs/{}", round % 5);
                if round % 9 == 8 {
                    if git.run(&path, ["update-ref", "-d", &name]).ok {
                        mine.remove(&name);
                    }
                } else {
                    let new = commits[round % 3];
                    if git.run(&path, ["update-ref", &name, &new.to_string()]).ok {
                        mine.insert(name, new);
                    }
                }
            }
            mine
        });
        for thread in ours.into_iter().chain([theirs]) {
            expected.extend(thread.join().expect("no writer panics"));
        }
        done.store(true, Ordering::SeqCst);
        packer.join().expect("the packer does not panic");
        reader.join().expect("the reader does not panic");
    });
    let repo = open(&path);
    let query = RefQuery {
        prefixes: vec!["refs/heads/ours/".into(), "refs/heads/theirs/".into()],
        ..RefQuery::default()
    };
    let found: BTreeMap<String, ObjectId> = repo
        .refs(&query)
        .expect("refs can be listed")
        .into_iter()
        .map(|r| (r.name.to_str_lossy().into_owned(), r.id))
        .collect();
    assert_eq!(found, expected);
    agree(&git, &path, &repo);
    git.fsck(&path);
}

/// Both create the same refs, all starting from nothing: each is created once, whoever it was.
#[test]
fn a_ref_is_created_by_one_of_us_only() {
    let git = Git::new();
    let (path, commits) = fixture(&git, "");
    for round in 0..10 {
        let name = |n: usize| format!("refs/heads/race/{round}/{n}");
        let zero = "0".repeat(40);
        std::thread::scope(|scope| {
            let theirs = scope.spawn(|| {
                (0..6)
                    .map(|n| {
                        git.run(&path, ["update-ref", &name(n), &commits[0].to_string(), &zero])
                            .ok
                    })
                    .collect::<Vec<_>>()
            });
            let repo = open(&path);
            let updates: Vec<_> = (0..6).map(|n| update(&name(n), None, Some(commits[1]))).collect();
            std::thread::sleep(std::time::Duration::from_millis(round));
            let ours = repo.update_refs(&updates, false, &log()).expect("it can be tried");
            let theirs = theirs.join().expect("no panic");
            for (n, (ours, theirs)) in ours.iter().zip(theirs).enumerate() {
                let now = repo
                    .find_ref(name(n).as_str().into())
                    .expect("refs can be read")
                    .map(|r| r.id);
                let expected = match (ours.is_ok(), theirs) {
                    (true, false) => Some(commits[1]),
                    (false, true) => Some(commits[0]),
                    // Each met the lock of the other.
                    (false, false) => None,
                    (true, true) => panic!("both were told that they had created {}", name(n)),
                };
                assert_eq!(now, expected, "{}", name(n));
            }
        });
    }
    agree(&git, &path, &open(&path));
}
