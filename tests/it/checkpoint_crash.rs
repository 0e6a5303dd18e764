//! A checkpoint that is killed at any of its changes to the disk: `gitstead checkpoint` under a tracer that sends SIGKILL at the n-th one, for every n.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use crate::support::Git;

const BINARY: &str = env!("CARGO_BIN_EXE_gitstead");

/// Every call by which something on disk changes.
const CHANGES: &str = "write,pwrite64,rename,renameat,renameat2,link,linkat,unlink,unlinkat,mkdir,mkdirat,symlink,symlinkat,fsync,ftruncate,fchmod,utimensat";

/// What the killed command had said, and whether it came to its end.
fn checkpoint(dir: &Path, extra: &[&str], trouble: Option<(&str, usize)>) -> (String, bool) {
    let mut command = match trouble {
        None => Command::new(BINARY),
        Some((what, n)) => {
            let mut command = Command::new("strace");
            command.args(["-f", "-qq", "-o", "/dev/null", "-e"]);
            command.arg(format!("trace={CHANGES}"));
            command.arg("-e").arg(format!("inject={CHANGES}:{what}:when={n}"));
            command.arg(BINARY);
            command
        }
    };
    let out = command
        .args(["checkpoint", "--workspace"])
        .arg(dir)
        .args(["--tool", "Write", "--summary", "a change"])
        .args(extra)
        .env_remove("GITSTEAD_DATA")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    (String::from_utf8_lossy(&out.stdout).into_owned(), out.status.success())
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).unwrap()),
        }
    }
}

const KILLED: &str = "signal=KILL";
/// A small checkpoint makes fewer changes than this.
const LAST_CHANGE: usize = 60;
const DISK_FULL: &str = "error=ENOSPC";

fn at_every_change(what: &str, extra: &[&str], reference: &str, change: impl Fn(&Path)) {
    let git = Git::new();
    let seed = git.init("seed");
    for n in 0..20 {
        fs::create_dir_all(seed.join(format!("d{}", n % 3))).unwrap();
        fs::write(seed.join(format!("d{}/f{n}", n % 3)), format!("{n}\n")).unwrap();
    }
    assert!(checkpoint(&seed, extra, None).1);
    let before = git.ok(&seed, &format!("rev-parse {reference}"));
    let mut troubles = 0;
    for n in 1..2_000 {
        let dir = git.path("killed");
        let _ = fs::remove_dir_all(&dir);
        copy(&seed, &dir);
        change(&dir);
        let (said, ended) = checkpoint(&dir, extra, Some((what, n)));
        let after = git.ok(&dir, &format!("rev-parse {reference}"));
        if after != before {
            assert_eq!(
                git.ok(&dir, &format!("rev-parse {reference}^")),
                before,
                "killed at change {n}"
            );
        }
        assert!(
            said.is_empty() || after != before,
            "killed at change {n}: '{said}' was said, and there is no commit"
        );
        git.fsck(&dir);
        let at_the_end = ended && what == KILLED;
        if at_the_end || (what != KILLED && n > LAST_CHANGE) {
            break;
        }
        troubles += 1;
        // Whoever comes next finds nothing in the way, and has everything.
        let (said, ended) = checkpoint(&dir, extra, None);
        assert!(ended, "after a kill at change {n}: {said}");
        let scratch = tempfile::tempdir().unwrap();
        let index = scratch.path().join("index");
        let tree = |args: &[&str]| {
            let out = git
                .command(&dir)
                .env("GIT_INDEX_FILE", &index)
                .args(args)
                .output()
                .unwrap();
            assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
            String::from_utf8(out.stdout).unwrap().trim().to_owned()
        };
        tree(&["add", "-A"]);
        let live = tree(&["write-tree"]);
        assert_eq!(
            git.ok(&dir, &format!("rev-parse {reference}^{{tree}}")),
            live,
            "after a kill at change {n}"
        );
        if reference == "HEAD" {
            assert_eq!(git.ok(&dir, "status --porcelain"), "", "after a kill at change {n}");
        }
        assert!(!dir.join(".git/index.lock").exists(), "after a kill at change {n}");
        git.fsck(&dir);
    }
    assert!(troubles > 10, "only {troubles} changes were made");
}

#[test]
fn a_killed_checkpoint_is_there_or_not_and_the_next_one_has_everything() {
    at_every_change(KILLED, &[], "HEAD", |dir| {
        fs::write(dir.join("d1/f1"), "changed\n").unwrap();
        fs::write(dir.join("new"), "new\n").unwrap();
        fs::remove_file(dir.join("d2/f2")).unwrap();
    });
}

#[test]
fn a_killed_checkpoint_of_many_files_is_there_or_not() {
    at_every_change(KILLED, &["--durability", "each"], "HEAD", |dir| {
        fs::create_dir(dir.join("many")).unwrap();
        for n in 0..150 {
            fs::write(dir.join(format!("many/{n}")), format!("{n} of many\n")).unwrap();
        }
    });
}

#[test]
fn a_killed_checkpoint_beside_the_branch_is_there_or_not() {
    at_every_change(KILLED, &["--shadow"], "refs/gitstead/checkpoints/main", |dir| {
        fs::write(dir.join("d1/f1"), "changed\n").unwrap();
    });
}

#[test]
fn on_a_full_disk_a_checkpoint_is_there_or_not() {
    at_every_change(DISK_FULL, &[], "HEAD", |dir| {
        fs::write(dir.join("d1/f1"), "changed\n").unwrap();
        fs::write(dir.join("new"), "new\n").unwrap();
    });
}
