//! Objects that nothing refers to: kept as long as git keeps them, set aside as git sets them aside, and never dropped while anybody may want them.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, SystemTime},
};

use gitstead::{
    checkpoint::{Checkpoint, SquashOptions, create_branch, squash},
    repo::{CompactOptions, CompactOutcome, Expiry, ExpirySkip, Occasion, OpenOptions, Repository},
    workspace::Workspace,
};
use gix::hash::ObjectId;

use crate::support::Git;

const WEEK: Duration = Duration::from_secs(7 * 24 * 60 * 60);

fn full(dir: &Path, expiry: Expiry) -> CompactOutcome {
    let mut options = CompactOptions::default();
    (options.all, options.expiry) = (true, expiry);
    let repo = Repository::open(dir, &OpenOptions::default()).expect("a repository");
    repo.compact(&options, &AtomicBool::new(false), &mut |_| ())
        .expect("compacted")
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut todo = vec![dir.join("objects")];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(dir).expect("listed").flatten() {
            match entry.file_type().expect("known").is_dir() {
                true => todo.push(entry.path()),
                false => found.push(entry.path()),
            }
        }
    }
    found
}

fn cruft(dir: &Path) -> Vec<PathBuf> {
    let mut found = files(dir);
    found.retain(|path| path.extension().is_some_and(|kind| kind == "mtimes"));
    found
}

/// Makes every file of objects so old. What a cruft pack says of each object is left.
fn age(dir: &Path, by: Duration) {
    for path in files(dir) {
        let file = fs::File::options().read(true).open(&path).expect("opened");
        file.set_modified(SystemTime::now() - by).expect("set");
    }
}

fn has(git: &Git, dir: &Path, id: &str) -> bool {
    git.run(dir, ["cat-file", "-e", id]).ok
}

/// A repository with a history, and a branch of two commits that was deleted. Returns the deleted ones.
fn with_a_deleted_branch(git: &Git, name: &str) -> (PathBuf, Vec<String>) {
    let work = git.init(&format!("{name}-work"));
    git.generate(&work, 8, 5);
    let dir = git.path(name);
    git.ok(git.dir(), &format!("clone -q --no-local --bare {name}-work {name}"));
    git.ok(&work, "checkout -q -b gone");
    let deleted = vec![
        git.commit(&work, "secret", "a key\n", "leak"),
        git.commit(&work, "secret", "another key\n", "leak again"),
    ];
    git.ok(&dir, "fetch -q ../{}-work gone:gone".replace("{}", name).as_str());
    git.ok(&dir, "branch -q -D gone");
    (dir, deleted)
}

#[test]
fn what_nothing_refers_to_is_set_aside_and_dropped_when_it_is_old() {
    let git = Git::new();
    let (dir, deleted) = with_a_deleted_branch(&git, "r.git");
    let all = git.ok(&dir, "rev-list --objects --all");
    let outcome = full(&dir, Expiry::Configured);
    assert_eq!((outcome.aside, outcome.expired, outcome.postponed), (6, 0, None));
    let [mtimes] = &cruft(&dir)[..] else {
        panic!("one cruft pack")
    };
    let listed = git.ok_args(
        &dir,
        ["verify-pack", "-v", &mtimes.with_extension("idx").to_string_lossy()],
    );
    assert!(deleted.iter().all(|id| listed.contains(id)), "{listed}");
    assert_eq!(git.ok(&dir, "rev-list --objects --all"), all);
    git.fsck(&dir);
    // Nothing to do for whoever comes next.
    let again = full(&dir, Expiry::Configured);
    assert_eq!((again.pack, again.aside, again.expired), (None, 0, 0));
    // git agrees that it is a cruft pack: its own upkeep takes it over, with the times.
    let times = fs::read(mtimes).expect("read");
    git.ok(&dir, "repack -d -q --cruft --cruft-expiration=2.weeks.ago");
    let [theirs] = &cruft(&dir)[..] else {
        panic!("one cruft pack")
    };
    let (theirs, header) = (fs::read(theirs).expect("read"), 12 + 6 * 4);
    assert_eq!(theirs[..header], times[..header]);
    // Whoever says so drops it at once.
    let outcome = full(&dir, Expiry::After(Duration::ZERO));
    assert_eq!((outcome.aside, outcome.expired, outcome.postponed), (0, 6, None));
    assert!(cruft(&dir).is_empty());
    assert!(deleted.iter().all(|id| !has(&git, &dir, id)));
    assert_eq!(git.ok(&dir, "rev-list --objects --all"), all);
    git.fsck(&dir);
}

#[test]
fn git_s_cruft_packs_expire_by_their_own_times_and_what_is_wanted_again_comes_out() {
    let git = Git::new();
    let (dir, deleted) = with_a_deleted_branch(&git, "r.git");
    age(&dir, 3 * WEEK);
    git.ok(&dir, &format!("update-ref refs/heads/for-the-graph {}", deleted[1]));
    git.ok(&dir, "commit-graph write --reachable --split");
    git.ok(&dir, "branch -q -D for-the-graph");
    git.ok(&dir, "repack -d -q --cruft --cruft-expiration=never");
    assert_eq!(cruft(&dir).len(), 1);
    git.ok(&dir, &format!("update-ref refs/heads/back {}", deleted[0]));
    let outcome = full(&dir, Expiry::Configured);
    assert_eq!((outcome.aside, outcome.expired, outcome.postponed), (0, 3, None));
    assert!(has(&git, &dir, &deleted[0]) && !has(&git, &dir, &deleted[1]));
    assert!(cruft(&dir).is_empty());
    git.fsck(&dir);
}

#[test]
fn what_young_objects_and_the_files_of_git_mention_stays_however_old() {
    let git = Git::new();
    let (dir, deleted) = with_a_deleted_branch(&git, "r.git");
    age(&dir, 3 * WEEK);
    // A young tag of the first of them, without a ref; the reflog names the second.
    let tag = format!(
        "object {}\ntype commit\ntag t\ntagger a <a@b.c> 1 +0000\n\nm\n",
        deleted[0]
    );
    git.run_with(&dir, ["hash-object", "-w", "-t", "tag", "--stdin"], tag.as_bytes());
    let kept = full(&dir, Expiry::Configured);
    assert_eq!((kept.aside, kept.expired), (4, 3), "a tag, a commit, a tree, a blob");
    assert!(has(&git, &dir, &deleted[0]) && !has(&git, &dir, &deleted[1]));

    let (dir, deleted) = with_a_deleted_branch(&git, "logged.git");
    age(&dir, 3 * WEEK);
    fs::create_dir_all(dir.join("logs/refs/heads")).expect("made");
    let line = format!("{} {} a <a@b.c> 1 +0000\tx\n", deleted[0], deleted[1]);
    fs::write(dir.join("logs/refs/heads/main"), line).expect("written");
    let kept = full(&dir, Expiry::Configured);
    assert_eq!((kept.aside, kept.expired), (6, 0));
    assert!(deleted.iter().all(|id| has(&git, &dir, id)));

    // What is staged in a worktree, and nowhere else.
    let work = git.init("work");
    git.generate(&work, 3, 3);
    fs::write(work.join("staged"), "only in the index\n").expect("written");
    git.ok(&work, "add staged");
    let blob = git.ok(&work, "rev-parse :staged");
    age(&work.join(".git"), 3 * WEEK);
    let kept = full(&work.join(".git"), Expiry::Configured);
    assert_eq!(kept.aside, 1);
    assert!(has(&git, &work, &blob));
    git.ok(&work, "rm -q --cached staged");
    age(&work.join(".git"), 3 * WEEK);
    // It was set aside with the time of its file.
    let gone = full(&work.join(".git"), Expiry::Configured);
    assert_eq!((gone.aside, gone.expired), (0, 1));
    git.fsck(&work);
}

#[test]
fn nothing_is_dropped_where_it_cannot_be_known_what_is_needed() {
    let git = Git::new();
    let (dir, deleted) = with_a_deleted_branch(&git, "r.git");
    let tree = git.ok(&dir, "rev-parse main~3^{tree}");
    full(&dir, Expiry::Never);
    assert!(cruft(&dir).is_empty());
    age(&dir, 3 * WEEK);
    // A ref to a commit whose parent is not there.
    let commit = format!(
        "tree {tree}\nparent {}\nauthor a <a@b.c> 1 +0000\ncommitter a <a@b.c> 1 +0000\n\nm\n",
        "1".repeat(40)
    );
    let out = git.run_with(
        &dir,
        ["hash-object", "-w", "-t", "commit", "--stdin"],
        commit.as_bytes(),
    );
    fs::write(dir.join("refs/heads/torn"), out.text()).expect("written");
    let outcome = full(&dir, Expiry::Configured);
    let missing = ObjectId::from_hex("1".repeat(40).as_bytes()).expect("an id");
    assert_eq!(outcome.postponed, Some(ExpirySkip::Incomplete(missing)));
    assert!(deleted.iter().all(|id| has(&git, &dir, id)));
    fs::remove_file(dir.join("refs/heads/torn")).expect("removed");
    // Nor in somebody else's name.
    git.ok(&dir, "config gc.pruneExpire never");
    let outcome = full(&dir, Expiry::Configured);
    assert_eq!((outcome.aside, outcome.expired), (0, 0));
    git.ok(&dir, "config gc.pruneExpire 1.week.ago");
    let pack = files(&dir)
        .into_iter()
        .find(|path| path.extension().is_some_and(|kind| kind == "pack"));
    let promisor = pack.expect("a pack").with_extension("promisor");
    fs::write(&promisor, "").expect("written");
    assert_eq!(full(&dir, Expiry::Configured).postponed, Some(ExpirySkip::Partial));
    fs::remove_file(promisor).expect("removed");
    age(&dir, 2 * WEEK);
    assert_eq!(full(&dir, Expiry::Configured).expired, 7, "with the torn commit");
    git.fsck(&dir);
}

#[test]
fn checkpoints_that_bring_old_contents_back_lose_nothing() {
    let git = Git::new();
    let dir = git.init("work");
    fs::write(dir.join("f"), "0\n").expect("written");
    let workspace = Workspace::open(&dir).expect("a workspace");
    workspace.checkpoint(Checkpoint::after("Write", "first")).expect("made");
    let done = AtomicBool::new(false);
    let dropped = std::thread::scope(|scope| {
        let dropping = scope.spawn(|| {
            let mut dropped = 0;
            while !done.load(Ordering::Relaxed) || dropped == 0 {
                dropped += full(&dir.join(".git"), Expiry::After(Duration::ZERO)).expired;
            }
            dropped
        });
        for n in 0..150u32 {
            // The same few contents again and again, each time nobody's since the branch went back.
            fs::write(dir.join("f"), format!("content {}\n", n % 3).repeat(20)).expect("written");
            let outcome = workspace.checkpoint(Checkpoint::after("Write", format!("step {n}")));
            let commit = outcome.expect("a checkpoint").commit.expect("a commit");
            git.ok(&dir, &format!("cat-file -p {commit}:f"));
            if n % 2 == 0 {
                git.ok(&dir, "update-ref -d refs/heads/main");
                let _ = fs::remove_dir_all(dir.join(".git/logs"));
            }
        }
        done.store(true, Ordering::Relaxed);
        dropping.join().expect("drops")
    });
    assert!(dropped > 10, "{dropped}");
    git.fsck(&dir);
}

#[test]
fn a_server_looks_once_a_week() {
    let git = Git::new();
    let (dir, deleted) = with_a_deleted_branch(&git, "r.git");
    age(&dir, 3 * WEEK);
    let maintain = || {
        let repo = Repository::open(&dir, &OpenOptions::default()).expect("a repository");
        let wanted = repo.wants_maintenance().expect("known");
        let options = CompactOptions::default();
        let outcome = repo.maintain(&options, Occasion::Written, &AtomicBool::new(false), &mut |_| ());
        (wanted, outcome.expect("maintained").compaction.expired)
    };
    assert_eq!(maintain(), (false, 0), "the repository is new");
    let date_back = |name: &str| {
        let file = fs::File::open(dir.join(name)).expect("opened");
        file.set_modified(SystemTime::now() - WEEK - WEEK / 7).expect("set");
    };
    date_back("config");
    assert_eq!(maintain(), (true, 6));
    assert!(deleted.iter().all(|id| !has(&git, &dir, id)));
    assert_eq!(maintain(), (false, 0));
    date_back("gitstead-expired");
    assert_eq!(maintain(), (true, 0), "there is nothing any more");
    git.fsck(&dir);
}

#[test]
fn a_broken_ref_or_one_to_nothing_keeps_everything() {
    let git = Git::new();
    let (dir, deleted) = with_a_deleted_branch(&git, "r.git");
    age(&dir, 3 * WEEK);
    let main = fs::read(dir.join("packed-refs")).expect("packed by the clone");
    for (torn, expected) in [
        ("", Some(ExpirySkip::BrokenRef)),
        ("nonsense", Some(ExpirySkip::BrokenRef)),
        ("ref: refs/heads/nowhere\n", Some(ExpirySkip::BrokenRef)),
    ] {
        fs::write(dir.join("refs/heads/main"), torn).expect("written");
        assert_eq!(full(&dir, Expiry::Configured).postponed, expected, "{torn}");
    }
    let lost = "1".repeat(40);
    fs::write(dir.join("refs/heads/main"), &lost).expect("written");
    let missing = ObjectId::from_hex(lost.as_bytes()).expect("an id");
    assert_eq!(
        full(&dir, Expiry::Configured).postponed,
        Some(ExpirySkip::Incomplete(missing))
    );
    fs::remove_file(dir.join("refs/heads/main")).expect("removed");
    assert_eq!(fs::read(dir.join("packed-refs")).expect("there"), main);
    assert!(deleted.iter().all(|id| has(&git, &dir, id)));
    git.fsck(&dir);
}

#[test]
fn a_workspace_that_stays_does_not_rely_on_what_was_dropped() {
    let git = Git::new();
    let dir = git.init("work");
    fs::create_dir_all(dir.join("d")).expect("made");
    fs::write(dir.join("d/f"), "one\n").expect("written");
    let workspace = Workspace::open(&dir).expect("a workspace");
    workspace.checkpoint(Checkpoint::after("Write", "first")).expect("made");
    fs::write(dir.join("d/f"), "two\n").expect("written");
    // A look at the live files makes objects that nothing refers to.
    let mut held = workspace.lock().expect("locked");
    let (tree, _) = held.live_tree().expect("a tree");
    drop(held);
    assert!(has(&git, &dir, &tree.to_string()));
    assert!(full(&dir.join(".git"), Expiry::After(Duration::ZERO)).expired >= 3);
    assert!(!has(&git, &dir, &tree.to_string()));
    workspace
        .checkpoint(Checkpoint::after("Write", "second"))
        .expect("made");
    assert_eq!(git.ok(&dir, "show HEAD:d/f"), "two");
    git.fsck(&dir);
}

#[test]
fn a_pack_that_was_set_aside_and_is_wanted_again_is_no_cruft_pack() {
    let git = Git::new();
    let work = git.init("work");
    git.commit(&work, "file", "text\n", "only");
    let dir = git.path("r.git");
    git.ok(git.dir(), "clone -q --no-local --bare work r.git");
    let tip = git.ok(&dir, "rev-parse main");
    full(&dir, Expiry::Configured);
    git.ok(&dir, "update-ref -d refs/heads/main");
    assert_eq!(full(&dir, Expiry::Configured).aside, 3);
    let [aside] = &cruft(&dir)[..] else {
        panic!("one cruft pack")
    };
    git.ok(&dir, &format!("update-ref refs/heads/main {}", tip.trim()));
    let outcome = full(&dir, Expiry::Configured);
    // The same objects in the same order: the same pack, which is now something else.
    let name = aside.with_extension("pack");
    assert_eq!(outcome.pack.as_deref(), name.file_name().and_then(|name| name.to_str()));
    assert_eq!(cruft(&dir), Vec::<PathBuf>::new());
    git.fsck(&dir);
}

#[test]
fn no_branch_is_made_of_a_commit_that_is_not_whole() {
    let git = Git::new();
    let (dir, deleted) = with_a_deleted_branch(&git, "r.git");
    let repository = Repository::open(&dir, &OpenOptions::default()).expect("a repository");
    let commit = |n: usize| ObjectId::from_hex(deleted[n].as_bytes()).expect("an id");
    create_branch(&repository, &commit(0), "first").expect("everything is there");
    let tree = git.ok(&dir, &format!("rev-parse {}^{{tree}}", deleted[1]));
    let (fan, rest) = tree.trim().split_at(2);
    fs::remove_file(dir.join("objects").join(fan).join(rest)).expect("loose");
    let refused = create_branch(&repository, &commit(1), "second").expect_err("its tree is gone");
    assert_eq!(refused.to_string(), "not everything of that commit is here");
    let squashed = squash(&repository, &commit(1), "third", &SquashOptions::default());
    assert!(squashed.is_err(), "{squashed:?}");
    assert_eq!(git.ok(&dir, "branch --format=%(refname:short)"), "first\nmain");
}
