//! Checkpoints while others are at work in the same repository: the agent's own git, another daemon, maintenance.

use std::{
    fs,
    path::Path,
    sync::{
        Arc, Barrier,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use gitstead::{
    checkpoint::{Checkpoint, Looked, Placed},
    workspace::{SecretRules, SkipReason, Workspace, WorkspaceOptions},
};

use crate::support::Git;

fn open(dir: &Path, watched: bool) -> Arc<Workspace> {
    let options = WorkspaceOptions {
        secrets: SecretRules::none(),
        ..WorkspaceOptions::default()
    };
    let workspace = Arc::new(Workspace::open_with(dir, &options).unwrap());
    if watched {
        workspace.watch().unwrap();
    }
    workspace
}

fn take(workspace: &Workspace, summary: &str) -> gitstead::checkpoint::Outcome {
    workspace
        .checkpoint(Checkpoint::after("Write", summary))
        .unwrap_or_else(|err| panic!("{summary}: {err:?}"))
}

#[test]
fn an_agent_that_commits_itself_loses_nothing_and_neither_do_we() {
    for watched in [false, true] {
        let git = Git::new();
        let dir = git.init("work");
        git.commit(&dir, "seed", "seed", "seed");
        let workspace = open(&dir, watched);
        let begin = Barrier::new(2);
        let done = AtomicBool::new(false);
        let committed = std::thread::scope(|scope| {
            let agent = scope.spawn(|| {
                begin.wait();
                let mut committed = Vec::new();
                for n in 0..25 {
                    fs::write(dir.join(format!("agent-{n}")), format!("{n}\n")).unwrap();
                    let message = format!("agent {n}");
                    // Refused where a checkpoint is in its way, as beside any other git.
                    if git.run(&dir, ["add", "-A"]).ok && git.run(&dir, ["commit", "-qm", &message, "--allow-empty"]).ok
                    {
                        committed.push(message);
                    }
                }
                done.store(true, Ordering::Release);
                committed
            });
            begin.wait();
            while !done.load(Ordering::Acquire) {
                take(&workspace, "beside it");
            }
            agent.join().unwrap()
        });
        let last = take(&workspace, "the end");
        assert_eq!(last.placed, Placed::Branch);
        let log = git.ok(&dir, "log --format=%s");
        for message in &committed {
            assert!(log.lines().any(|line| line == message), "'{message}' is lost:\n{log}");
        }
        assert!(!committed.is_empty(), "git was never let in");
        for n in 0..25 {
            assert_eq!(git.ok(&dir, &format!("show HEAD:agent-{n}")), n.to_string());
        }
        drop(workspace);
        assert_eq!(git.ok(&dir, "status --porcelain"), "");
        git.fsck(&dir);
    }
}

#[test]
fn two_daemons_on_one_directory_write_one_history() {
    let git = Git::new();
    let dir = git.init("work");
    let first = open(&dir, true);
    let second = open(&dir, true);
    take(&first, "begin");
    let made: usize = std::thread::scope(|scope| {
        let hands: Vec<_> = [&first, &second]
            .into_iter()
            .enumerate()
            .map(|(who, workspace)| {
                let dir = &dir;
                scope.spawn(move || {
                    for n in 0..40 {
                        fs::write(dir.join(format!("file-{}", n % 7)), format!("{who} {n}\n")).unwrap();
                        assert!(take(workspace, "mine").commit.is_some());
                    }
                    40
                })
            })
            .collect();
        hands.into_iter().map(|hand| hand.join().unwrap()).sum()
    });
    assert_eq!(git.ok(&dir, "rev-list --count HEAD"), (made + 1).to_string());
    assert_eq!(git.ok(&dir, "rev-list --count --min-parents=2 HEAD"), "0");
    drop((first, second));
    let last = take(&open(&dir, false), "after all");
    assert_eq!(last.looked, Looked::Scan);
    assert_eq!(git.ok(&dir, "status --porcelain"), "");
    git.fsck(&dir);
}

#[test]
fn a_trail_stays_a_few_files_while_it_grows() {
    // The whole soak: GITSTEAD_SOAK=10000.
    let checkpoints: usize = std::env::var("GITSTEAD_SOAK")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(1_500);
    let git = Git::new();
    let dir = git.init("work");
    for n in 0..300 {
        let sub = dir.join(format!("d{}", n / 100));
        fs::create_dir_all(&sub).unwrap();
        fs::write(sub.join(format!("file-{n}")), format!("{n}\n").repeat(20)).unwrap();
    }
    let options = WorkspaceOptions {
        secrets: SecretRules::none(),
        // git looks at the objects in between, and takes what moves meanwhile for lost.
        compact: false,
        ..WorkspaceOptions::default()
    };
    let workspace = Arc::new(Workspace::open_with(&dir, &options).unwrap());
    workspace.watch().unwrap();
    take(&workspace, "begin");
    let objects = dir.join(".git/objects");
    let mut most = 0;
    for n in 0..checkpoints {
        let file = dir.join(format!("d{}/file-{}", n % 3, n % 3 * 100 + n % 11));
        fs::write(file, format!("{n}\n").repeat(20)).unwrap();
        take(&workspace, &format!("number {n}"));
        if n % 250 == 249 {
            // What a process that stays does on a thread of its own is done here where it can be waited for.
            workspace.compact().unwrap();
            most = most.max(files(&objects));
        }
    }
    let status = git.ok(&dir, "count-objects -v");
    assert!(most < 12_000, "{most} files of objects:\n{status}");
    assert_eq!(git.ok(&dir, "rev-list --count HEAD"), (checkpoints + 1).to_string());
    git.fsck(&dir);
    workspace
        .repository()
        .compact(&Default::default(), &AtomicBool::new(false), &mut |_| ())
        .unwrap();
    git.fsck(&dir);
    let packed = fs::read_dir(objects.join("pack"))
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap().len());
    let bytes: u64 = packed.sum();
    assert!(
        bytes < checkpoints as u64 * 1_500 + 200_000,
        "{bytes} bytes for {checkpoints} checkpoints"
    );
    let clone = git.path("clone");
    git.ok_args(
        git.dir(),
        [
            "clone",
            "-q",
            "--no-local",
            dir.to_str().unwrap(),
            clone.to_str().unwrap(),
        ],
    );
    assert_eq!(git.ok(&clone, "rev-parse HEAD"), git.ok(&dir, "rev-parse HEAD"));
}

fn files(dir: &Path) -> usize {
    let mut count = 0;
    let mut open = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        let Ok(entries) = fs::read_dir(dir) else { continue };
        for entry in entries.flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => open.push(entry.path()),
                _ => count += 1,
            }
        }
    }
    count
}

#[test]
fn a_process_that_stays_packs_the_trail_by_itself_unless_the_repository_says_no() {
    for wanted in [true, false] {
        let git = Git::new();
        let dir = git.init("work");
        git.ok_args(&dir, ["config", "maintenance.auto", &wanted.to_string()]);
        let workspace = open(&dir, true);
        take(&workspace, "begin");
        // Enough of them for upkeep to want it; made by git, which is quicker here.
        let blobs: String = (0..9_000).map(|n| format!("blob\ndata 5\n{n:05}\n")).collect();
        fs::write(git.path("stream"), blobs).unwrap();
        git.ok(&dir, "config fastimport.unpackLimit 100000");
        let stream = fs::File::open(git.path("stream")).unwrap();
        assert!(
            git.command(&dir)
                .args(["fast-import", "--quiet"])
                .stdin(stream)
                .status()
                .unwrap()
                .success()
        );
        for n in 0..64 {
            fs::write(dir.join("a"), n.to_string()).unwrap();
            take(&workspace, "one of many");
        }
        assert!(
            gitstead::depot::Upkeep::of_process()
                .unwrap()
                .wait_until_idle(Duration::from_secs(120))
        );
        let packs = fs::read_dir(dir.join(".git/objects/pack")).unwrap().count();
        assert_eq!(packs > 0, wanted, "{packs} files of packs");
        git.fsck(&dir);
    }
}

#[test]
fn a_file_that_keeps_changing_is_recorded_and_named() {
    let git = Git::new();
    let dir = git.init("work");
    let workspace = open(&dir, false);
    let file = dir.join("log");
    fs::write(&file, vec![b'x'; 4 << 20]).unwrap();
    let done = AtomicBool::new(false);
    let named = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut log = fs::OpenOptions::new().append(true).open(&file).unwrap();
            while !done.load(Ordering::Acquire) {
                std::io::Write::write_all(&mut log, b"a line\n").unwrap();
                // Not without end, should nobody notice.
                if log.metadata().unwrap().len() > 64 << 20 {
                    log.set_len(4 << 20).unwrap();
                }
            }
        });
        let named = (0..200).any(|_| {
            let outcome = take(&workspace, "while it is written");
            outcome
                .skipped
                .iter()
                .any(|(path, why)| path == "log" && *why == SkipReason::Changing)
        });
        done.store(true, Ordering::Release);
        named
    });
    assert!(named, "it was never noticed");
    let last = take(&workspace, "at rest");
    assert_eq!(last.skipped, []);
    assert_eq!(git.ok(&dir, "status --porcelain"), "");
    assert_eq!(git.ok(&dir, "rev-parse HEAD:log"), git.ok(&dir, "hash-object log"));
    git.fsck(&dir);
}

#[test]
fn gits_own_maintenance_may_run_beside_checkpoints() {
    let git = Git::new();
    let dir = git.init("work");
    fs::write(dir.join("a"), "a").unwrap();
    let workspace = open(&dir, true);
    take(&workspace, "begin");
    let done = AtomicBool::new(false);
    let count = std::thread::scope(|scope| {
        let upkeep = scope.spawn(|| {
            for round in 0..6 {
                git.ok(&dir, ["repack -adq", "gc -q", "pack-refs --all"][round % 3]);
                let _ = workspace.compact();
            }
            done.store(true, Ordering::Release);
        });
        let mut count = 1;
        while !done.load(Ordering::Acquire) {
            fs::write(dir.join("a"), count.to_string()).unwrap();
            take(&workspace, "beside it");
            count += 1;
        }
        upkeep.join().unwrap();
        count
    });
    assert_eq!(git.ok(&dir, "rev-list --count HEAD"), count.to_string());
    assert_eq!(git.ok(&dir, "show HEAD:a"), (count - 1).to_string());
    git.fsck(&dir);
}

/// A watched workspace whose index follows by itself only if it does so at once.
fn late(dir: &Path, index_at_once: usize) -> Arc<Workspace> {
    let options = WorkspaceOptions {
        secrets: SecretRules::none(),
        index_delay: Duration::from_secs(3_600),
        index_at_once,
        ..WorkspaceOptions::default()
    };
    let workspace = Arc::new(Workspace::open_with(dir, &options).unwrap());
    workspace.watch().unwrap();
    take(&workspace, "begin");
    workspace
}

#[test]
fn what_git_commits_just_after_a_checkpoint_takes_nothing_of_it_back() {
    let git = Git::new();
    let dir = git.init("work");
    git.commit(&dir, "recorded", "old", "seed");
    let workspace = late(&dir, 2_000);
    fs::write(dir.join("recorded"), "new\n").unwrap();
    fs::write(dir.join("came"), "new\n").unwrap();
    take(&workspace, "one");
    fs::write(dir.join("agent"), "agent\n").unwrap();
    git.ok(&dir, "add agent");
    git.ok(&dir, "commit -qm agent");
    assert_eq!(git.ok(&dir, "show HEAD:recorded"), "new");
    assert_eq!(git.ok(&dir, "diff --name-status HEAD^ HEAD"), "A\tagent");
    assert_eq!(git.ok(&dir, "status --porcelain"), "");
}

#[test]
fn a_commit_of_an_index_that_was_behind_is_named_and_what_it_took_back_is_recorded_again() {
    let git = Git::new();
    let dir = git.init("work");
    git.commit(&dir, "recorded", "old", "seed");
    let workspace = late(&dir, 0);
    fs::write(dir.join("recorded"), "new\n").unwrap();
    fs::write(dir.join("came"), "new\n").unwrap();
    assert_eq!(take(&workspace, "one").warnings, [""; 0]);
    fs::write(dir.join("agent"), "agent\n").unwrap();
    git.ok(&dir, "add agent");
    git.ok(&dir, "commit -qm agent");
    // What it is about: git has taken the old index for the present.
    assert_eq!(git.ok(&dir, "show HEAD:recorded"), "old");
    let commit = git.ok(&dir, "rev-parse HEAD");
    let next = take(&workspace, "two");
    let [warning] = &next.warnings[..] else {
        panic!("{:?}", next.warnings)
    };
    assert!(
        warning.contains(&commit[..10]) && warning.contains("(came, recorded)"),
        "{warning}"
    );
    assert_eq!(git.ok(&dir, "show HEAD:recorded"), "new");
    assert_eq!(git.ok(&dir, "show HEAD:came"), "new");
    assert_eq!(git.ok(&dir, "show HEAD:agent"), "agent");
    // Once is enough, and what the agent takes back on purpose is its own affair.
    workspace.look_at_everything().unwrap();
    assert_eq!(take(&workspace, "three").warnings, [""; 0]);
    drop(workspace);
    assert_eq!(git.ok(&dir, "status --porcelain"), "");
}

#[test]
fn what_was_taken_back_through_us_is_not_blamed_on_a_late_index() {
    let git = Git::new();
    let dir = git.init("work");
    git.commit(&dir, "recorded", "old", "seed");
    let workspace = late(&dir, 0);
    fs::write(dir.join("recorded"), "new\n").unwrap();
    let one = take(&workspace, "one");
    // It writes the index anew, which is behind at this time.
    git.ok(&dir, "status --porcelain");
    git.ok(&dir, "update-index --force-write-index");
    let commit = one.commit.expect("recorded");
    workspace
        .undo(&commit, &gitstead::checkpoint::RestoreOptions::default())
        .unwrap();
    assert_eq!(fs::read_to_string(dir.join("recorded")).unwrap(), "old");
    fs::write(dir.join("more"), "more\n").unwrap();
    assert_eq!(take(&workspace, "two").warnings, [""; 0]);
    assert_eq!(git.ok(&dir, "show HEAD:recorded"), "old");
}

#[test]
fn nobody_waits_for_an_index_lock_that_is_old() {
    let git = Git::new();
    let dir = git.init("work");
    git.commit(&dir, "a", "a", "seed");
    let lock = dir.join(".git/index.lock");
    let old = std::time::SystemTime::now() - Duration::from_secs(90);
    fs::File::create(&lock).unwrap().set_modified(old).unwrap();
    let options = WorkspaceOptions {
        git_wait: Duration::from_secs(60),
        ..WorkspaceOptions::default()
    };
    let workspace = Workspace::open_with(&dir, &options).unwrap();
    fs::write(dir.join("b"), "b").unwrap();
    let outcome = take(&workspace, "all the same");
    assert!(outcome.took < Duration::from_secs(30), "{:?}", outcome.took);
    assert!(outcome.commit.is_some());
    let said = outcome.warnings.join("\n");
    assert!(said.contains("index.lock has been there for 9"), "{said}");
    assert!(lock.exists(), "it is nobody's but git's");
}
