//! Checkpoints beside the machine's git: what `git add -A && git write-tree` makes of the same files.

use std::{
    ffi::OsStr,
    fs,
    os::unix::{
        ffi::OsStrExt,
        fs::{PermissionsExt, symlink},
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use gitstead::{
    checkpoint::{Checkpoint, Looked, Outcome, Placed},
    workspace::{CommitSigner, Placement, SecretRules, SkipReason, Unchanged, Workspace, WorkspaceOptions},
};
use proptest::prelude::*;

use crate::support::Git;

fn options() -> WorkspaceOptions {
    WorkspaceOptions {
        secrets: SecretRules::none(),
        index_delay: Duration::ZERO,
        ..WorkspaceOptions::default()
    }
}

/// The tree that git would commit, found without touching the repository.
fn gits_tree(git: &Git, dir: &Path) -> String {
    let scratch = tempfile::tempdir().unwrap();
    let index = scratch.path().join("index");
    let _ = fs::copy(dir.join(".git/index"), &index);
    fs::create_dir(scratch.path().join("objects")).unwrap();
    let run = |args: &[&str]| {
        let out = git
            .command(dir)
            .env("GIT_INDEX_FILE", &index)
            .env("GIT_OBJECT_DIRECTORY", scratch.path().join("objects"))
            .env("GIT_ALTERNATE_OBJECT_DIRECTORIES", dir.join(".git/objects"))
            .args(args)
            .output()
            .unwrap();
        assert!(
            out.status.success(),
            "{args:?}: {}",
            String::from_utf8_lossy(&out.stderr)
        );
        String::from_utf8(out.stdout).unwrap().trim().to_owned()
    };
    run(&["add", "-A"]);
    run(&["write-tree"])
}

fn take(workspace: &Workspace, summary: &str) -> Outcome {
    workspace
        .checkpoint(Checkpoint::after("Write", summary).agent("research"))
        .unwrap_or_else(|err| panic!("{summary}: {err:?}"))
}

fn paths(outcome: &Outcome) -> Vec<String> {
    outcome.changes.iter().map(|change| change.path.to_string()).collect()
}

fn skipped(outcome: &Outcome) -> Vec<(String, SkipReason)> {
    outcome
        .skipped
        .iter()
        .map(|(path, why)| (path.to_string(), *why))
        .collect()
}

#[test]
fn a_clone_of_the_trail_reads_as_what_the_agent_did() {
    let git = Git::new();
    let dir = git.init("work");
    let workspace = Workspace::open_with(&dir, &options()).unwrap();
    let first = workspace.checkpoint(Checkpoint::initial("Analyze sales data")).unwrap();
    assert_eq!((first.parent, first.changed), (None, 0));
    fs::write(dir.join("report.md"), "# Report\n").unwrap();
    let second = take(&workspace, "Created report.md");
    assert_eq!(paths(&second), ["report.md"]);
    assert_eq!(second.parent, first.commit);
    let third = workspace
        .checkpoint(Checkpoint::after("Bash", "Ran analysis script"))
        .unwrap();
    assert_eq!((third.changed, third.tree), (0, second.tree));
    assert_eq!(
        git.ok(&dir, "log --format=%s"),
        "[Bash] Ran analysis script\n[Write] Created report.md\nInitial task: Analyze sales data"
    );
    assert_eq!(
        git.ok_args(
            &dir,
            [
                "log",
                "-1",
                "--skip=1",
                "--format=%an <%ae>|%cn <%ce>|%(trailers:key=Agent,valueonly,separator=%x2C)"
            ]
        ),
        "research <research@agents.gitstead.invalid>|Gitstead <gitstead@gitstead.invalid>|research"
    );
    assert_eq!(git.ok(&dir, "status --porcelain"), "");
    git.fsck(&dir);
}

#[test]
fn nothing_changed_can_mean_no_commit() {
    let git = Git::new();
    let dir = git.init("work");
    let skip = WorkspaceOptions {
        unchanged: Unchanged::Skip,
        ..options()
    };
    let workspace = Workspace::open_with(&dir, &skip).unwrap();
    fs::write(dir.join("a"), "a").unwrap();
    let first = take(&workspace, "one");
    let second = take(&workspace, "two");
    assert_eq!((second.commit, second.parent), (None, first.commit));
    assert_eq!(git.ok(&dir, "rev-list --count HEAD"), "1");
}

#[test]
fn the_shadow_leaves_branch_head_and_index_alone() {
    let git = Git::new();
    let dir = git.init("work");
    git.commit(&dir, "a", "1", "by hand");
    fs::write(dir.join("staged"), "staged").unwrap();
    git.ok(&dir, "add staged");
    let before = (
        git.ok(&dir, "rev-parse HEAD"),
        fs::read(dir.join(".git/index")).unwrap(),
        git.ok(&dir, "status --porcelain"),
    );
    let shadow = WorkspaceOptions {
        placement: Placement::Shadow,
        ..options()
    };
    let workspace = Workspace::open_with(&dir, &shadow).unwrap();
    fs::write(dir.join("a"), "2").unwrap();
    let first = take(&workspace, "one");
    assert_eq!(
        (first.placed, first.reference.to_string()),
        (Placed::Shadow, "refs/gitstead/checkpoints/main".to_owned())
    );
    fs::write(dir.join("a"), "3").unwrap();
    let second = take(&workspace, "two");
    assert_eq!(second.parent, first.commit);
    assert_eq!(git.ok(&dir, "show refs/gitstead/checkpoints/main:a"), "3");
    assert_eq!(git.ok(&dir, "show refs/gitstead/checkpoints/main:staged"), "staged");
    fs::write(dir.join("a"), "2").unwrap();
    fs::write(dir.join("a"), "1").unwrap();
    let after = (
        git.ok(&dir, "rev-parse HEAD"),
        fs::read(dir.join(".git/index")).unwrap(),
        git.ok(&dir, "status --porcelain"),
    );
    assert_eq!(before, after);
    // A commit by hand is a parent of the next one, once.
    fs::write(dir.join("a"), "4").unwrap();
    git.ok(&dir, "commit -qam mine");
    take(&workspace, "three");
    take(&workspace, "four");
    let head = git.ok(&dir, "rev-parse HEAD");
    assert_eq!(git.ok(&dir, "rev-parse refs/gitstead/checkpoints/main^^2"), head);
    assert_eq!(
        git.ok(&dir, "rev-list --count --first-parent refs/gitstead/checkpoints/main"),
        "5"
    );
    git.fsck(&dir);
}

#[test]
fn in_the_middle_of_a_merge_the_branch_is_left_alone() {
    let git = Git::new();
    let dir = git.init("work");
    git.commit(&dir, "a", "1\n", "base");
    git.ok(&dir, "checkout -qb other");
    git.commit(&dir, "a", "2\n", "theirs");
    git.ok(&dir, "checkout -q main");
    git.commit(&dir, "a", "3\n", "ours");
    git.fails(&dir, "merge other");
    let head = git.ok(&dir, "rev-parse HEAD");
    let workspace = Workspace::open_with(&dir, &options()).unwrap();
    let outcome = take(&workspace, "half merged");
    assert_eq!(outcome.placed, Placed::InProgress("merge"));
    assert_eq!(git.ok(&dir, "rev-parse HEAD"), head);
    assert!(
        git.ok(&dir, "show refs/gitstead/checkpoints/main:a")
            .contains("<<<<<<<")
    );
    fs::write(dir.join("a"), "4\n").unwrap();
    git.ok(&dir, "commit -qam merged");
    let outcome = take(&workspace, "after it");
    assert_eq!(outcome.placed, Placed::Branch);
    git.ok(&dir, "checkout -q --detach");
    assert_eq!(take(&workspace, "nowhere").placed, Placed::Detached);
    assert_eq!(git.ok(&dir, "rev-parse HEAD"), git.ok(&dir, "rev-parse main"));
}

#[test]
fn what_cannot_be_recorded_is_named() {
    let git = Git::new();
    let dir = git.init("work");
    let strict = WorkspaceOptions {
        file_bytes: 1_000,
        ..WorkspaceOptions::default()
    };
    fs::write(dir.join("big"), vec![b'x'; 1_001]).unwrap();
    fs::write(dir.join("small"), vec![b'x'; 1_000]).unwrap();
    fs::write(dir.join(".env"), "KEY=secret\n").unwrap();
    fs::write(dir.join(".env.example"), "KEY=\n").unwrap();
    fs::write(dir.join("notes"), "-----BEGIN OPENSSH PRIVATE KEY-----\nabc\n").unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        dir.join("pipe"),
        rustix::fs::FileType::Fifo,
        0o600.into(),
        0,
    )
    .unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(dir.join("socket")).unwrap();
    fs::create_dir(dir.join("empty")).unwrap();
    fs::create_dir(dir.join(".GIT")).unwrap();
    fs::write(dir.join(".GIT/config"), "x").unwrap();
    for (name, commits) in [("nested", true), ("unborn", false)] {
        fs::create_dir(dir.join(name)).unwrap();
        git.ok(dir.join(name), "init -q");
        if commits {
            git.commit(&dir.join(name), "file", "content", "inside");
        }
    }
    symlink("/etc/passwd", dir.join("link")).unwrap();
    let workspace = Workspace::open_with(&dir, &strict).unwrap();
    let mut outcome = take(&workspace, "all of it");
    outcome.skipped.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(
        skipped(&outcome),
        [
            (".GIT", SkipReason::IllegalName),
            (".env", SkipReason::Secret),
            ("big", SkipReason::TooLarge),
            ("nested", SkipReason::NestedRepository),
            ("notes", SkipReason::Secret),
            ("pipe", SkipReason::Special),
            ("socket", SkipReason::Special),
            ("unborn", SkipReason::EmptyRepository),
        ]
        .map(|(path, why)| (path.to_owned(), why))
    );
    assert_eq!(paths(&outcome), [".env.example", "link", "nested", "small"]);
    assert_eq!(git.ok(&dir, "show HEAD:link"), "/etc/passwd");
    // What is tracked already was somebody's decision.
    git.ok(&dir, "add -f .env");
    fs::write(dir.join(".env"), "KEY=other\n").unwrap();
    assert_eq!(paths(&take(&workspace, "by hand")), [".env"]);
    // One that grew beyond the limit keeps its last content, and is named.
    fs::write(dir.join("small"), vec![b'x'; 2_000]).unwrap();
    let outcome = take(&workspace, "grown");
    assert_eq!(outcome.changed, 0);
    assert!(skipped(&outcome).contains(&("small".to_owned(), SkipReason::TooLarge)));
    git.fsck(&dir);
}

#[test]
fn a_directory_that_may_not_be_read_loses_nothing() {
    if rustix::process::geteuid().is_root() {
        // To the superuser nothing is unreadable; a file that is replaced by a pipe is the same to a scan.
        return;
    }
    for watched in [false, true] {
        let git = Git::new();
        let dir = git.init("work");
        fs::create_dir(dir.join("d")).unwrap();
        fs::write(dir.join("d/a"), "a").unwrap();
        let workspace = Arc::new(Workspace::open_with(&dir, &options()).unwrap());
        if watched {
            workspace.watch().unwrap();
        }
        let before = take(&workspace, "one");
        fs::write(dir.join("d/a"), "changed").unwrap();
        fs::set_permissions(dir.join("d"), fs::Permissions::from_mode(0o000)).unwrap();
        let after = take(&workspace, "two");
        fs::set_permissions(dir.join("d"), fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(before.tree, after.tree);
        assert!(skipped(&after).contains(&("d".to_owned(), SkipReason::Unreadable)));
        assert_eq!(paths(&take(&workspace, "three")), ["d/a"], "watched: {watched}");
    }
}

#[test]
fn what_a_watch_does_not_tell_of_is_recorded_all_the_same() {
    let git = Git::new();
    let dir = git.init("work");
    fs::create_dir(dir.join("d")).unwrap();
    fs::write(dir.join("a"), "1").unwrap();
    fs::hard_link(dir.join("a"), dir.join("d/b")).unwrap();
    fs::write(dir.join("c"), "1").unwrap();
    let sub = dir.join("sub");
    git.ok(&dir, "init -q sub");
    let workspace = Arc::new(Workspace::open_with(&dir, &options()).unwrap());
    workspace.watch().unwrap();
    take(&workspace, "first");
    // Written by one name, and with it by the other.
    fs::write(dir.join("a"), "22").unwrap();
    let outcome = take(&workspace, "linked");
    assert_eq!(
        (outcome.looked, paths(&outcome)),
        (Looked::Watch, vec!["a".to_owned(), "d/b".to_owned()])
    );
    // A second name that is made while it is watched, and written by at once.
    fs::hard_link(dir.join("c"), dir.join("e")).unwrap();
    fs::write(dir.join("e"), "22").unwrap();
    assert_eq!(paths(&take(&workspace, "linked again")), ["c", "e"]);
    fs::write(dir.join("e"), "333").unwrap();
    let outcome = take(&workspace, "both");
    assert_eq!(
        (outcome.looked, paths(&outcome)),
        (Looked::Watch, vec!["c".to_owned(), "e".to_owned()])
    );
    // A nested repository gets its first commit, and another one, and no file changes.
    for message in ["one", "two"] {
        git.ok(&sub, &format!("commit -q --allow-empty -m {message}"));
        let outcome = take(&workspace, message);
        assert_eq!(
            (outcome.looked, paths(&outcome)),
            (Looked::Watch, vec!["sub".to_owned()])
        );
        assert_eq!(outcome.tree.to_string(), gits_tree(&git, &dir));
    }
    // It is none any more: git would go on with the commit, and what is in there is in no commit. That is said.
    fs::write(sub.join("work"), "of the agent").unwrap();
    fs::remove_dir_all(sub.join(".git")).unwrap();
    for _ in 0..2 {
        let outcome = take(&workspace, "no repository");
        assert_eq!(outcome.tree.to_string(), gits_tree(&git, &dir));
        assert_eq!(skipped(&outcome), [("sub".to_owned(), SkipReason::EmptyRepository)]);
        workspace.look_at_everything().unwrap();
    }
}

#[test]
fn the_lock_is_not_written_through_a_link() {
    let git = Git::new();
    let dir = git.init("work");
    let precious = dir.parent().unwrap().join("precious");
    fs::write(&precious, "precious").unwrap();
    for target in [precious.clone(), dir.parent().unwrap().join("new")] {
        let lock = dir.join(".git/gitstead.lock");
        symlink(&target, &lock).unwrap();
        let workspace = Workspace::open_with(&dir, &options()).unwrap();
        assert!(workspace.checkpoint(Checkpoint::message("one")).is_err());
        fs::remove_file(&lock).unwrap();
    }
    assert_eq!(fs::read_to_string(&precious).unwrap(), "precious");
    assert!(!dir.parent().unwrap().join("new").exists());
}

#[test]
fn an_index_that_is_no_index_is_an_error_and_nothing_hangs() {
    let git = Git::new();
    let dir = git.init("work");
    let index = dir.join(".git/index");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &index,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    let workspace = Workspace::open_with(&dir, &options()).unwrap();
    assert!(workspace.checkpoint(Checkpoint::message("one")).is_err());
    fs::remove_file(&index).unwrap();
    // What git would never write: a name that leads out, and names in the wrong order.
    for name in ["aa", "ab", "c/d"] {
        fs::create_dir_all(dir.join("c")).unwrap();
        fs::write(dir.join(name), name).unwrap();
    }
    git.ok(&dir, "add .");
    let bytes = fs::read(&index).unwrap();
    for (from, to) in [(&b"aa\0"[..], &b"..\0"[..]), (b"ab\0", b"a/\0"), (b"ab\0", b"zz\0")] {
        let mut changed = bytes.clone();
        let at = changed.windows(3).position(|part| part == from).unwrap();
        changed[at..at + 3].copy_from_slice(to);
        fs::write(&index, changed).unwrap();
        assert!(workspace.checkpoint(Checkpoint::message("two")).is_err(), "{to:?}");
    }
    fs::write(&index, bytes).unwrap();
    assert_eq!(paths(&take(&workspace, "three")), ["aa", "ab", "c/d"]);
}

/// A clock that does something else when it is first looked at, which is when the files have been read.
struct Meanwhile(std::sync::Mutex<Option<Box<dyn FnOnce() + Send>>>);

impl gitstead::base::Clock for Meanwhile {
    fn now(&self) -> Duration {
        if let Some(act) = self.0.lock().unwrap().take() {
            act();
        }
        gitstead::base::SystemClock.now()
    }
}

#[test]
fn a_checkpoint_during_a_checkout_does_not_put_the_files_of_one_branch_on_the_other() {
    for unborn in [false, true] {
        let git = Git::new();
        let dir = git.init("work");
        git.commit(&dir, "a", "a", "one");
        if !unborn {
            git.ok(&dir, "branch other");
        }
        fs::write(dir.join("b"), "of the agent").unwrap();
        let mut command = git.command(&dir);
        command.args(["checkout", "-q", if unborn { "--orphan" } else { "other" }]);
        command.args(unborn.then_some("other"));
        let clock = Meanwhile(std::sync::Mutex::new(Some(Box::new(move || {
            assert!(command.status().unwrap().success());
        }))));
        let clock = Arc::new(clock);
        let workspace = Workspace::open_with(&dir, &WorkspaceOptions { clock, ..options() }).unwrap();
        let outcome = take(&workspace, "meanwhile");
        assert_eq!(outcome.reference, "refs/heads/other");
        assert_eq!(git.ok(&dir, "ls-tree --name-only main"), "a");
        assert_eq!(git.ok(&dir, "ls-tree --name-only other"), "a\nb");
        git.fsck(&dir);
    }
}

#[test]
fn an_index_that_names_what_is_nowhere_is_mended_from_the_files() {
    let git = Git::new();
    let dir = git.init("work");
    fs::write(dir.join("a"), "a").unwrap();
    git.ok(&dir, "add a");
    fs::remove_dir_all(dir.join(".git/objects")).unwrap();
    fs::create_dir(dir.join(".git/objects")).unwrap();
    // Something else to be read in the same breath.
    fs::write(dir.join("b"), "b").unwrap();
    let workspace = Workspace::open_with(&dir, &options()).unwrap();
    assert_eq!(paths(&take(&workspace, "one")), ["a", "b"]);
    git.fsck(&dir);
}

#[test]
fn no_filter_driver_is_ever_started() {
    let git = Git::new();
    let dir = git.init("work");
    let trace = git.path("started");
    let command = format!("touch {}; cat", trace.display());
    for key in [
        "filter.evil.clean",
        "filter.evil.smudge",
        "filter.evil.process",
        "core.fsmonitor",
    ] {
        git.ok_args(&dir, ["config", key, &command]);
    }
    fs::write(dir.join(".gitattributes"), "* filter=evil diff=evil merge=evil\n").unwrap();
    fs::write(dir.join("a"), "as it is\n").unwrap();
    let workspace = Workspace::open_with(&dir, &options()).unwrap();
    take(&workspace, "one");
    assert!(
        !trace.exists(),
        "a program of the repository's configuration was started"
    );
    git.ok_args(&dir, ["config", "--unset", "core.fsmonitor"]);
    assert_eq!(git.ok(&dir, "cat-file blob HEAD:a"), "as it is");
}

#[test]
fn attributes_convert_as_git_converts() {
    let git = Git::new();
    let dir = git.init("work");
    fs::write(
        dir.join(".gitattributes"),
        "*.txt text\n*.crlf text eol=crlf\n*.bin binary\n*.id ident\n*.u16 working-tree-encoding=UTF-16LE text\n* text=auto\n",
    )
    .unwrap();
    fs::create_dir(dir.join("sub")).unwrap();
    fs::write(dir.join("sub/.gitattributes"), "*.txt -text\n").unwrap();
    fs::write(dir.join("a.txt"), "one\r\ntwo\r\n").unwrap();
    fs::write(dir.join("sub/a.txt"), "one\r\ntwo\r\n").unwrap();
    fs::write(dir.join("a.crlf"), "one\r\ntwo\r\n").unwrap();
    fs::write(dir.join("a.bin"), "one\r\ntwo\r\n").unwrap();
    fs::write(dir.join("a.id"), "$Id: 0123 $\n").unwrap();
    fs::write(dir.join("auto"), "one\r\ntwo\r\n").unwrap();
    fs::write(dir.join("a.u16"), "h\0i\0\r\0\n\0").unwrap();
    let workspace = Workspace::open_with(&dir, &options()).unwrap();
    let expected = gits_tree(&git, &dir);
    assert_eq!(take(&workspace, "one").tree.to_string(), expected);
    assert_eq!(git.ok(&dir, "status --porcelain"), "");
    git.ok(&dir, "config core.autocrlf true");
    fs::write(dir.join("later"), "three\r\n").unwrap();
    let workspace = Workspace::open_with(&dir, &options()).unwrap();
    let expected = gits_tree(&git, &dir);
    assert_eq!(take(&workspace, "two").tree.to_string(), expected);
}

#[test]
fn a_signed_checkpoint_is_one_that_git_verifies() {
    for format in ["sha1", "sha256"] {
        for kind in ["ed25519", "ecdsa"] {
            let git = Git::new();
            let dir = git.path("work");
            git.ok_args(git.dir(), ["init", "-q", &format!("--object-format={format}"), "work"]);
            let key = git.path("key");
            let made = std::process::Command::new("ssh-keygen")
                .args(["-q", "-t", kind, "-N", "", "-C", "agent", "-f"])
                .arg(&key)
                .status()
                .unwrap();
            assert!(made.success());
            let public = fs::read_to_string(key.with_extension("pub")).unwrap();
            let allowed = git.path("allowed");
            fs::write(&allowed, format!("gitstead@gitstead.invalid {public}")).unwrap();
            git.ok(&dir, "config gpg.format ssh");
            git.ok_args(
                &dir,
                ["config", "gpg.ssh.allowedSignersFile", allowed.to_str().unwrap()],
            );
            let signed = WorkspaceOptions {
                signer: Some(Arc::new(CommitSigner::from_file(&key).unwrap())),
                ..options()
            };
            let workspace = Workspace::open_with(&dir, &signed).unwrap();
            fs::write(dir.join("a"), "a").unwrap();
            let outcome = take(&workspace, "signed");
            git.ok(&dir, "verify-commit HEAD");
            assert_eq!(git.ok(&dir, "log -1 --format=%s"), "[Write] signed");
            git.fsck(&dir);
            // Another commit with the same signature is not verified.
            let forged = git
                .ok(&dir, "cat-file commit HEAD")
                .replace("[Write] signed", "[Write] forged");
            let file = git.path("forged");
            fs::write(&file, forged + "\n").unwrap();
            let id = git.ok_args(&dir, ["hash-object", "-t", "commit", "-w", file.to_str().unwrap()]);
            assert_ne!(Some(id.trim().to_owned()), outcome.commit.map(|id| id.to_string()));
            git.fails(&dir, &format!("verify-commit {id}"));
        }
    }
}

/// Something that an agent does to its files, or to its repository.
#[derive(Debug, Clone)]
enum Step {
    Write(PathBuf, Vec<u8>),
    Remove(PathBuf),
    MakeDir(PathBuf),
    Link(PathBuf, PathBuf),
    Executable(PathBuf, bool),
    Rename(PathBuf, PathBuf),
    Ignore(PathBuf, Vec<String>),
    ForceAdd(PathBuf),
    Unindex(PathBuf),
    Commit,
    Reset,
    Checkpoint,
    Reopen,
}

const NAMES: &[&[u8]] = &[
    b"a",
    b"b",
    b"a.b",
    b"a-b",
    b"x y",
    b"\xc3\xa9",
    b"\xff\xfe",
    b"target",
    b"A",
];

fn path() -> impl Strategy<Value = PathBuf> {
    prop::collection::vec(prop::sample::select(NAMES), 1..4)
        .prop_map(|names| names.into_iter().map(OsStr::from_bytes).collect())
}

fn step() -> impl Strategy<Value = Step> {
    let pattern = prop::sample::select(vec![
        "a", "/b", "*.b", "!a", "target/", "a/*", "**/b", "!x y", "A", "# no",
    ]);
    prop_oneof![
        8 => (path(), prop::collection::vec(any::<u8>(), 0..6)).prop_map(|(path, bytes)| Step::Write(path, bytes)),
        3 => path().prop_map(Step::Remove),
        1 => path().prop_map(Step::MakeDir),
        1 => (path(), path()).prop_map(|(path, to)| Step::Link(path, to)),
        2 => (path(), any::<bool>()).prop_map(|(path, on)| Step::Executable(path, on)),
        3 => (path(), path()).prop_map(|(from, to)| Step::Rename(from, to)),
        2 => (path(), prop::collection::vec(pattern, 1..3))
            .prop_map(|(path, lines)| Step::Ignore(path, lines.into_iter().map(str::to_owned).collect())),
        1 => path().prop_map(Step::ForceAdd),
        1 => path().prop_map(Step::Unindex),
        1 => Just(Step::Commit),
        1 => Just(Step::Reset),
        6 => Just(Step::Checkpoint),
        1 => Just(Step::Reopen),
    ]
}

fn remove(path: &Path) {
    let Ok(meta) = fs::symlink_metadata(path) else { return };
    let _ = match meta.is_dir() {
        true => fs::remove_dir_all(path),
        false => fs::remove_file(path),
    };
}

/// Makes room for a file: what is a file above it goes, and so does what has its name.
fn make_room(root: &Path, path: &Path) {
    let mut at = root.to_owned();
    for part in path.parent().into_iter().flat_map(Path::components) {
        at.push(part);
        if fs::symlink_metadata(&at).is_ok_and(|meta| !meta.is_dir()) {
            remove(&at);
        }
    }
    fs::create_dir_all(&at).unwrap();
    remove(&root.join(path));
}

fn do_step(git: &Git, root: &Path, step: &Step) {
    match step {
        Step::Write(path, bytes) => {
            // In place where there is a file: its inode stays.
            if !fs::symlink_metadata(root.join(path)).is_ok_and(|meta| meta.is_file()) {
                make_room(root, path);
            }
            fs::write(root.join(path), bytes).unwrap();
        }
        Step::Remove(path) => remove(&root.join(path)),
        Step::MakeDir(path) => {
            make_room(root, path);
            fs::create_dir_all(root.join(path)).unwrap();
        }
        Step::Link(path, to) => {
            make_room(root, path);
            // Into nowhere: beneath a link to itself git cannot tell what is gone, and keeps it.
            symlink(Path::new("nowhere").join(to), root.join(path)).unwrap();
        }
        Step::Executable(path, on) => {
            let path = root.join(path);
            if fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_file()) {
                let mode = if *on { 0o755 } else { 0o644 };
                fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            }
        }
        Step::Rename(from, to) => {
            if fs::symlink_metadata(root.join(from)).is_ok() && !to.starts_with(from) && !from.starts_with(to) {
                make_room(root, to);
                // Making room may have taken it away.
                let _ = fs::rename(root.join(from), root.join(to));
            }
        }
        Step::Ignore(path, lines) => {
            let file = path.parent().unwrap_or(Path::new("")).join(".gitignore");
            make_room(root, &file);
            fs::write(root.join(file), lines.join("\n")).unwrap();
        }
        Step::ForceAdd(path) => {
            git.run(
                root,
                [OsStr::new("add"), OsStr::new("-f"), OsStr::new("--"), path.as_os_str()],
            );
        }
        Step::Unindex(path) => {
            git.run(
                root,
                [
                    OsStr::new("rm"),
                    OsStr::new("-rfq"),
                    OsStr::new("--cached"),
                    OsStr::new("--"),
                    path.as_os_str(),
                ],
            );
        }
        Step::Commit => {
            git.run(root, ["commit", "-qam", "by hand"]);
        }
        Step::Reset => {
            git.run(root, ["reset", "-q", "--hard"]);
        }
        Step::Checkpoint | Step::Reopen => {}
    }
}

/// More of them where somebody asks for more.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(24)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: cases(),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn whatever_an_agent_does_the_tree_is_gits(steps in prop::collection::vec(step(), 1..40), watched in any::<bool>()) {
        let git = Git::new();
        let dir = git.init("work");
        let open = || {
            let workspace = Arc::new(Workspace::open_with(&dir, &options()).unwrap());
            if watched {
                workspace.watch().unwrap();
            }
            workspace
        };
        let mut workspace = open();
        for step in steps.iter().chain([&Step::Checkpoint]) {
            do_step(&git, &dir, step);
            match step {
                Step::Reopen => workspace = open(),
                Step::Checkpoint => {
                    let expected = gits_tree(&git, &dir);
                    let outcome = take(&workspace, "a step");
                    prop_assert_eq!(outcome.tree.to_string(), expected);
                    prop_assert_eq!(git.ok(&dir, "status --porcelain"), "");
                }
                _ => {}
            }
        }
        git.fsck(&dir);
    }
}

#[test]
fn a_watch_knows_where_to_look() {
    let git = Git::new();
    let dir = git.init("work");
    for n in 0..100 {
        let sub = dir.join(format!("d{}", n % 10));
        fs::create_dir_all(&sub).unwrap();
        fs::write(sub.join(format!("f{n}")), format!("{n}\n")).unwrap();
    }
    fs::write(dir.join(".gitignore"), "ignored/\n").unwrap();
    let workspace = Arc::new(Workspace::open_with(&dir, &options()).unwrap());
    workspace.watch().unwrap();
    assert_eq!(take(&workspace, "first").looked, Looked::Scan);
    let idle = take(&workspace, "idle");
    assert_eq!((idle.looked, idle.read, idle.changed), (Looked::Watch, 0, 0));
    fs::write(dir.join("d3/f3"), "changed\n").unwrap();
    fs::create_dir_all(dir.join("new/deep")).unwrap();
    fs::write(dir.join("new/deep/file"), "new\n").unwrap();
    fs::create_dir(dir.join("ignored")).unwrap();
    fs::write(dir.join("ignored/file"), "no\n").unwrap();
    fs::remove_file(dir.join("d4/f4")).unwrap();
    let outcome = take(&workspace, "some");
    assert_eq!((outcome.looked, outcome.read), (Looked::Watch, 2));
    assert_eq!(paths(&outcome), ["d3/f3", "d4/f4", "new/deep/file"]);
    // In a directory that came later, too.
    fs::write(dir.join("new/deep/file"), "newer\n").unwrap();
    fs::rename(dir.join("d5"), dir.join("moved")).unwrap();
    fs::write(dir.join("moved/f5"), "moved\n").unwrap();
    let outcome = take(&workspace, "later");
    assert_eq!((outcome.looked, outcome.changed), (Looked::Watch, 21));
    // No longer ignored.
    fs::write(dir.join(".gitignore"), "\n").unwrap();
    assert_eq!(paths(&take(&workspace, "unignored")), [".gitignore", "ignored/file"]);
    fs::write(dir.join(".git/info/exclude"), "d6\n").unwrap();
    fs::write(dir.join("d6/another"), "\n").unwrap();
    let outcome = take(&workspace, "excluded");
    assert_eq!((outcome.looked, outcome.changed), (Looked::Scan, 0));
    // An index that git has changed is read again.
    git.ok(&dir, "add -f d6/another");
    assert_eq!(paths(&take(&workspace, "forced")), ["d6/another"]);
    assert_eq!(take(&workspace, "steady").looked, Looked::Watch);
    assert_eq!(git.ok(&dir, "status --porcelain"), "");
    git.fsck(&dir);
}

#[test]
fn now_and_then_everything_is_looked_at() {
    let git = Git::new();
    let dir = git.init("work");
    let often = WorkspaceOptions {
        rescan: Duration::ZERO,
        ..options()
    };
    let workspace = Arc::new(Workspace::open_with(&dir, &often).unwrap());
    workspace.watch().unwrap();
    fs::write(dir.join("a"), "a").unwrap();
    take(&workspace, "first");
    assert_eq!(take(&workspace, "again").looked, Looked::Scan);
}

#[test]
fn what_was_left_out_is_named_for_as_long_as_it_is_left_out() {
    let git = Git::new();
    let dir = git.init("work");
    let workspace = Arc::new(Workspace::open(&dir).unwrap());
    workspace.watch().unwrap();
    fs::create_dir(dir.join("d")).unwrap();
    fs::write(dir.join("d/.env"), "KEY=1\n").unwrap();
    let secret = [("d/.env".to_owned(), SkipReason::Secret)];
    assert_eq!(skipped(&take(&workspace, "one")), secret);
    fs::write(dir.join("a"), "a").unwrap();
    assert_eq!(skipped(&take(&workspace, "two")), secret);
    fs::remove_dir_all(dir.join("d")).unwrap();
    assert_eq!(skipped(&take(&workspace, "three")), []);
}

#[test]
fn the_index_follows_a_moment_later() {
    let git = Git::new();
    let dir = git.init("work");
    for n in 0..250 {
        let sub = dir.join(format!("d{}", n / 100));
        fs::create_dir_all(&sub).unwrap();
        fs::write(sub.join(format!("f{n}")), "").unwrap();
    }
    let late = WorkspaceOptions {
        index_delay: Duration::from_secs(3_600),
        ..options()
    };
    let workspace = Arc::new(Workspace::open_with(&dir, &late).unwrap());
    workspace.watch().unwrap();
    take(&workspace, "first");
    assert_ne!(git.ok(&dir, "diff --cached --name-only"), "");
    fs::write(dir.join("d1/f100"), "changed").unwrap();
    take(&workspace, "second");
    // Whoever lets go of the workspace leaves no index behind.
    drop(workspace);
    assert_eq!(git.ok(&dir, "diff --cached --name-only"), "");
    assert_eq!(git.ok(&dir, "status --porcelain"), "");
}

#[test]
fn after_a_loss_of_power_the_trail_goes_on_from_what_survived() {
    for ref_too in [false, true] {
        let git = Git::new();
        let dir = git.init("work");
        let workspace = Workspace::open_with(&dir, &options()).unwrap();
        fs::write(dir.join("a"), "1").unwrap();
        let first = take(&workspace, "on the disk");
        workspace.flush().unwrap();
        let note = dir.join(".git/gitstead-durable");
        let noted = fs::read_to_string(&note).unwrap();
        assert!(noted.contains(&first.commit.unwrap().to_string()), "{noted}");
        fs::write(dir.join("a"), "2").unwrap();
        fs::create_dir(dir.join("d")).unwrap();
        fs::write(dir.join("d/b"), "b").unwrap();
        take(&workspace, "on its way");
        drop(workspace);
        // As if it had not got there: names without contents, under a system that was started since.
        let new = git.ok(&dir, "rev-list --objects HEAD ^HEAD^");
        for id in new.lines().filter_map(|line| line.split(' ').next()) {
            let path = dir.join(".git/objects").join(&id[..2]).join(&id[2..]);
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
            fs::write(&path, "").unwrap();
        }
        if ref_too {
            fs::write(dir.join(".git/refs/heads/main"), "").unwrap();
        }
        fs::write(&note, format!("another-start {}", noted.split_once(' ').unwrap().1)).unwrap();
        let workspace = Workspace::open_with(&dir, &options()).unwrap();
        let outcome = take(&workspace, "afterwards");
        assert_eq!(outcome.parent, first.commit);
        assert_eq!(paths(&outcome), ["a", "d/b"]);
        assert!(
            outcome.warnings.iter().any(|text| text.contains("loss of power")),
            "{:?}",
            outcome.warnings
        );
        assert_eq!(git.ok(&dir, "status --porcelain"), "");
        git.fsck(&dir);
        // Once is enough.
        drop(workspace);
        let workspace = Workspace::open_with(&dir, &options()).unwrap();
        assert_eq!(take(&workspace, "later").warnings, [""; 0]);
    }
}

#[test]
fn a_volume_that_is_gone_is_not_a_workspace_without_files() {
    let git = Git::new();
    let dir = git.init("work");
    git.commit(&dir, "a", "a", "by hand");
    let tree = git.path("linked");
    git.ok_args(&dir, ["worktree", "add", "-q", tree.to_str().unwrap()]);
    let workspace = Workspace::open_with(&tree, &options()).unwrap();
    fs::rename(&tree, git.path("elsewhere")).unwrap();
    fs::create_dir(&tree).unwrap();
    let error = workspace.checkpoint(Checkpoint::after("Write", "nothing")).unwrap_err();
    assert!(error.to_string().contains("not a workspace"), "{error}");
    assert_eq!(git.ok(&dir, "rev-list --count linked"), "1");
}

#[test]
fn what_is_deeper_than_anybody_means_is_named() {
    let git = Git::new();
    let dir = git.init("work");
    let mut deep = dir.clone();
    deep.extend(std::iter::repeat_n("d", 600));
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("file"), "deep").unwrap();
    fs::write(dir.join("a"), "a").unwrap();
    let workspace = Workspace::open_with(&dir, &options()).unwrap();
    let outcome = take(&workspace, "deep");
    assert_eq!(paths(&outcome), ["a"]);
    assert!(
        matches!(&outcome.skipped[..], [(_, SkipReason::TooDeep)]),
        "{:?}",
        outcome.skipped
    );
}

#[test]
fn a_pipe_where_a_nested_repository_has_its_head_does_not_keep_us() {
    let git = Git::new();
    let dir = git.init("work");
    for sub in ["nested/.git/objects", "nested/.git/refs"] {
        fs::create_dir_all(dir.join(sub)).unwrap();
    }
    let pipe = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, dir.join("nested/.git/HEAD"), pipe, 0o600.into(), 0).unwrap();
    let workspace = Workspace::open_with(&dir, &options()).unwrap();
    let outcome = take(&workspace, "beside it");
    assert_eq!(skipped(&outcome), [("nested".to_owned(), SkipReason::EmptyRepository)]);
}

#[test]
fn an_index_that_git_writes_while_it_is_behind_is_brought_up_to_date_all_the_same() {
    let git = Git::new();
    let dir = git.init("work");
    let late = WorkspaceOptions {
        index_delay: Duration::from_secs(3_600),
        ..options()
    };
    fs::write(dir.join(".gitignore"), "ignored\n").unwrap();
    fs::write(dir.join("old"), "old").unwrap();
    fs::write(dir.join("gone"), "gone").unwrap();
    let workspace = Arc::new(Workspace::open_with(&dir, &late).unwrap());
    workspace.watch().unwrap();
    take(&workspace, "first");
    drop(workspace);
    let workspace = Arc::new(Workspace::open_with(&dir, &late).unwrap());
    workspace.watch().unwrap();
    fs::write(dir.join("new"), "new").unwrap();
    fs::write(dir.join("old"), "changed").unwrap();
    fs::remove_file(dir.join("gone")).unwrap();
    take(&workspace, "second");
    // An index that is behind says so, and what git does with it is not undone.
    assert!(git.ok(&dir, "status --porcelain").contains("D  new"));
    fs::write(dir.join("ignored"), "by force").unwrap();
    git.ok(&dir, "add -f ignored");
    drop(workspace);
    assert_eq!(git.ok(&dir, "status --porcelain"), "A  ignored");
    git.ok(&dir, "commit -qm mine");
    assert_eq!(git.ok(&dir, "show --format= --name-status HEAD"), "A\tignored");
    git.fsck(&dir);
}

#[test]
fn what_a_loss_of_power_took_is_told_although_the_branch_moved_meanwhile() {
    let git = Git::new();
    let dir = git.init("work");
    let workspace = Workspace::open_with(&dir, &options()).unwrap();
    fs::write(dir.join("a"), "1").unwrap();
    let first = take(&workspace, "on the disk").commit.unwrap();
    workspace.flush().unwrap();
    let note = dir.join(".git/gitstead-durable");
    let noted = fs::read_to_string(&note).unwrap();
    drop(workspace);
    fs::write(dir.join(".git/refs/heads/main"), "").unwrap();
    fs::write(&note, format!("another-start {}", noted.split_once(' ').unwrap().1)).unwrap();
    // The agent commits while everything is looked at for the first time.
    let (once, agents) = (std::sync::Once::new(), Git::new());
    let there = dir.clone();
    let progress = move |_| once.call_once(|| drop(agents.ok(&there, "commit -q --allow-empty -m agent")));
    let busy = WorkspaceOptions {
        progress: Some(Arc::new(progress)),
        ..options()
    };
    let workspace = Workspace::open_with(&dir, &busy).unwrap();
    fs::write(dir.join("a"), "2").unwrap();
    let outcome = take(&workspace, "afterwards");
    assert_eq!(git.ok(&dir, "log -1 --format=%s HEAD^"), "agent");
    let said = outcome.warnings.join("\n");
    assert!(said.contains(&format!("is back at {first}")), "{said}");
}

/// The untracked cache of git and ours rest on the same; and git's configuration says how its index is to be written.
#[test]
fn an_index_of_version_4_without_a_checksum_is_read_and_written_as_git_does() {
    let git = Git::new();
    let dir = git.init("work");
    git.ok(&dir, "config feature.manyFiles true");
    for n in 0..30 {
        let sub = dir.join(format!("d{}/e", n % 3));
        fs::create_dir_all(&sub).unwrap();
        fs::write(sub.join(format!("file-{n}")), format!("{n}")).unwrap();
    }
    for by_git in [false, true] {
        if by_git {
            fs::write(dir.join("git"), "").unwrap();
            git.ok(&dir, "add -A");
            git.ok(&dir, "commit -qm git");
        }
        fs::write(dir.join("d1/e/file-1"), format!("{by_git}")).unwrap();
        let workspace = Workspace::open_with(&dir, &options()).unwrap();
        take(&workspace, "ours");
        drop(workspace);
        let index = fs::read(dir.join(".git/index")).unwrap();
        assert_eq!(
            (&index[..8], &index[index.len() - 20..]),
            (&b"DIRC\0\0\0\x04"[..], &[0; 20][..])
        );
        assert_eq!(git.ok(&dir, "status --porcelain"), "");
        assert_eq!(git.ok(&dir, "write-tree"), git.ok(&dir, "rev-parse HEAD^{tree}"));
        assert_eq!(git.ok(&dir, "fsck --strict"), "");
    }
    git.ok(&dir, "config index.version 2");
    git.ok(&dir, "config index.skipHash false");
    fs::remove_file(dir.join(".git/index")).unwrap();
    let workspace = Workspace::open_with(&dir, &options()).unwrap();
    take(&workspace, "anew");
    drop(workspace);
    assert_eq!(fs::read(dir.join(".git/index")).unwrap()[7], 2);
    assert_eq!(git.ok(&dir, "status --porcelain"), "");
}

/// git does not believe an index about trees that do not exist, nor do we.
#[test]
fn a_damaged_index_puts_nothing_into_a_checkpoint_that_is_not_there() {
    let git = Git::new();
    let dir = git.init("damaged");
    fs::create_dir(dir.join("d")).unwrap();
    fs::write(dir.join("d/file"), "content\n").unwrap();
    git.commit(&dir, "a", "a", "seed");
    git.ok(&dir, "config index.skipHash true");
    git.ok(&dir, "update-index --force-write-index");
    let tree = git.ok(&dir, "rev-parse HEAD:d");
    let tree: Vec<u8> = (0..20)
        .map(|n| u8::from_str_radix(&tree[2 * n..2 * n + 2], 16).unwrap())
        .collect();
    let path = dir.join(".git/index");
    let mut index = fs::read(&path).unwrap();
    let at = index
        .windows(20)
        .position(|bytes| bytes == tree)
        .expect("the index knows the tree");
    index[at + 7] ^= 1;
    fs::write(&path, index).unwrap();
    fs::write(dir.join("h"), "new\n").unwrap();
    let expected = gits_tree(&git, &dir);
    let workspace = Workspace::open_with(&dir, &options()).unwrap();
    let outcome = take(&workspace, "new");
    assert_eq!(outcome.tree.to_string(), expected);
    drop(workspace);
    assert_eq!(git.ok(&dir, "fsck --strict"), "");
}

#[test]
fn a_process_that_ends_leaves_no_index_behind_whoever_else_holds_the_workspace() {
    let git = Git::new();
    let dir = git.init("w");
    let workspace = std::sync::Arc::new(
        Workspace::open_with(
            &dir,
            &WorkspaceOptions {
                index_delay: std::time::Duration::from_secs(3_600),
                index_at_once: 0,
                ..options()
            },
        )
        .expect("a workspace"),
    );
    workspace.watch().expect("a watch");
    fs::write(dir.join("a.txt"), "one\n").expect("written");
    take(&workspace, "a first one");
    fs::write(dir.join("b.txt"), "two\n").expect("written");
    take(&workspace, "a second one");
    let elsewhere = workspace.clone();
    assert_ne!(git.ok(&dir, "status --porcelain"), "", "the index is behind");
    workspace.settle().expect("settled");
    assert_eq!(git.ok(&dir, "status --porcelain"), "");
    drop(elsewhere);
}
