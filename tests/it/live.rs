//! Pushes into workspaces in which an agent works, with the machine's git. Mirrors t5516 (`updateInstead`) of git's own suite where git has the same.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use gitstead::{
    base::{RepoName, WorkspaceName},
    checkpoint::Checkpoint,
    depot::{Depot, DepotOptions},
    workspace::{CreateWorkspace, Start},
};

use crate::support::{Git, Output, Server, ServerOptions};

/// A served repository, its workspace `main`, and somebody's clone of it.
struct Live {
    git: Git,
    server: Server,
    depot: Depot,
    /// The agent's.
    work: PathBuf,
    /// Somebody's.
    clone: PathBuf,
    bare: PathBuf,
}

fn repo() -> RepoName {
    RepoName::parse("agent").unwrap()
}

fn live() -> Live {
    live_with(gix::hash::Kind::Sha1)
}

fn live_with(object_format: gix::hash::Kind) -> Live {
    let git = Git::new();
    let server = Server::start();
    let depot = Depot::new(server.repos(), DepotOptions::default()).unwrap();
    let mut create = CreateWorkspace::new(Start::Empty { task: "work".into() });
    create.repository.object_format = object_format;
    let main = WorkspaceName::parse("main").unwrap();
    let workspace = depot.create_workspace(&repo(), &main, &create).unwrap();
    let work = workspace.root().to_owned();
    for (path, content) in [
        ("report.md", "# Report\n"),
        ("data/a.csv", "1,2\n"),
        ("data/b.csv", "3,4\n"),
        ("deep/er/file", "deep\n"),
        (".gitignore", "*.log\ncache/\nout\n"),
    ] {
        write(&work, path, content);
    }
    symlink("report.md", work.join("link")).unwrap();
    write(&work, "run.sh", "#!/bin/sh\n");
    workspace
        .checkpoint(Checkpoint::after("Write", "Created report.md"))
        .unwrap();
    write(&work, "report.md", "# Report\nwrong\n");
    workspace
        .checkpoint(Checkpoint::after("Edit", "Made it wrong"))
        .unwrap();
    let clone = git.path("clone");
    git.ok(git.dir(), &format!("clone -q {} clone", server.repo_url("agent")));
    let bare = server.repos().join("agent.git");
    Live {
        git,
        server,
        depot,
        work,
        clone,
        bare,
    }
}

fn write(root: &Path, path: &str, content: &str) {
    let at = root.join(path);
    fs::create_dir_all(at.parent().unwrap()).unwrap();
    fs::write(at, content).unwrap();
}

fn read(root: &Path, path: &str) -> String {
    fs::read_to_string(root.join(path)).unwrap()
}

impl Live {
    fn push(&self, args: &str) -> Output {
        let args: Vec<&str> = ["push"].into_iter().chain(args.split_whitespace()).collect();
        self.git.run(&self.clone, args)
    }

    #[track_caller]
    fn pushed(&self, args: &str) -> String {
        let out = self.push(args);
        assert!(out.ok, "{}", out.stderr);
        out.stderr
    }

    #[track_caller]
    fn refused(&self, args: &str, reason: &str) -> String {
        let out = self.push(args);
        assert!(!out.ok, "it was taken:\n{}", out.stderr);
        assert!(out.stderr.contains(&format!("({reason})")), "{}", out.stderr);
        let path = self.server.data().to_str().unwrap();
        assert!(
            !out.stderr.contains(path),
            "names a path of the server:\n{}",
            out.stderr
        );
        out.stderr
    }

    fn head(&self) -> String {
        self.git.ok(&self.work, "rev-parse HEAD")
    }

    /// Files, index, HEAD and branch of the workspace say the same, and it is what the clone has.
    #[track_caller]
    fn assert_as_pushed(&self) {
        assert_eq!(self.git.ok(&self.work, "status --porcelain --ignored=no"), "");
        assert_eq!(
            self.git.ok(&self.work, "rev-parse HEAD"),
            self.git.ok(&self.clone, "rev-parse HEAD")
        );
        self.assert_tidy();
    }

    #[track_caller]
    fn assert_tidy(&self) {
        for dir in [self.work.clone(), self.bare.join("worktrees/main"), self.bare.clone()] {
            for entry in fs::read_dir(dir).unwrap() {
                let name = entry.unwrap().file_name().into_string().unwrap();
                let ours =
                    name.contains("gitstead-stage") || name.contains("gitstead-transition") || name.ends_with(".lock");
                assert!(
                    !ours || name == "gitstead.lock" || name.starts_with("gitstead-workspaces"),
                    "{name} was left"
                );
            }
        }
        self.git.fsck(&self.bare);
    }

    fn commit(&self, path: &str, content: &str, message: &str) -> String {
        self.git.commit(&self.clone, path, content, message)
    }
}

#[test]
fn a_revert_changes_the_agents_files() {
    let live = live();
    let untouched = fs::metadata(live.work.join("data/a.csv")).unwrap();
    live.git.ok(&live.clone, "revert --no-edit HEAD");
    let said = live.pushed("origin main");
    assert!(said.contains("workspace main: 1 file updated"), "{said}");
    assert_eq!(read(&live.work, "report.md"), "# Report\n");
    live.assert_as_pushed();
    let after = fs::metadata(live.work.join("data/a.csv")).unwrap();
    assert_eq!(
        (after.ino(), after.mtime_nsec()),
        (untouched.ino(), untouched.mtime_nsec())
    );
    // The agent goes on from there.
    let workspace = live
        .depot
        .workspace(&repo(), &WorkspaceName::parse("main").unwrap())
        .unwrap();
    write(&live.work, "next", "n");
    workspace.checkpoint(Checkpoint::after("Write", "next")).unwrap();
    let log = live.git.ok(&live.work, "log --format=%s -3");
    assert!(
        log.starts_with("[Write] next\nRevert \"[Edit] Made it wrong\"\n"),
        "{log}"
    );
}

#[test]
fn a_new_instruction_file_arrives() {
    let live = live();
    live.commit("instructions/TODO.md", "be brief\n", "Tell the agent");
    live.pushed("origin main");
    assert_eq!(read(&live.work, "instructions/TODO.md"), "be brief\n");
    live.assert_as_pushed();
}

#[test]
fn unsaved_work_is_saved_first_and_can_be_merged() {
    let live = live();
    let before = live.head();
    write(&live.work, "report.md", "# Report\nwrong\nmore by the agent\n");
    write(&live.work, "new-by-agent", "n\n");
    fs::remove_file(live.work.join("data/b.csv")).unwrap();
    live.commit("hint.md", "a hint\n", "A hint");
    let said = live.refused("origin main", "fetch first");
    assert!(said.contains("workspace main: unsaved work is commit"), "{said}");
    assert_ne!(live.head(), before);
    assert_eq!(
        live.git.ok(&live.work, "log -1 --format=%s"),
        "Unsaved work before a push"
    );
    assert_eq!(live.git.ok(&live.work, "status --porcelain"), "");
    assert!(!live.work.join("hint.md").exists());
    live.git.ok(&live.clone, "pull -q --no-rebase origin main");
    live.pushed("origin main");
    assert_eq!(read(&live.work, "report.md"), "# Report\nwrong\nmore by the agent\n");
    assert_eq!(read(&live.work, "hint.md"), "a hint\n");
    assert!(!live.work.join("data/b.csv").exists());
    live.assert_as_pushed();
}

#[test]
fn every_kind_of_change_arrives() {
    let live = live();
    let clone = &live.clone;
    fs::remove_dir_all(clone.join("deep")).unwrap();
    fs::remove_file(clone.join("data/a.csv")).unwrap();
    fs::set_permissions(clone.join("run.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::remove_file(clone.join("link")).unwrap();
    symlink("data/b.csv", clone.join("link")).unwrap();
    fs::remove_file(clone.join("report.md")).unwrap();
    write(clone, "report.md/part-1", "now a directory\n");
    write(clone, "ümläut \"quoted\"\n", "odd\n");
    live.commit(".gitattributes", "*.txt text eol=crlf\n", "All at once");
    live.commit("windows.txt", "one\ntwo\n", "Ends of lines");
    live.pushed("origin main");
    assert!(!live.work.join("deep").exists());
    assert!(live.work.join("data/b.csv").exists() && !live.work.join("data/a.csv").exists());
    assert_eq!(fs::metadata(live.work.join("run.sh")).unwrap().mode() & 0o111, 0o111);
    assert_eq!(fs::read_link(live.work.join("link")).unwrap(), Path::new("data/b.csv"));
    assert_eq!(read(&live.work, "report.md/part-1"), "now a directory\n");
    assert_eq!(read(&live.work, "ümläut \"quoted\"\n"), "odd\n");
    assert_eq!(fs::read(live.work.join("windows.txt")).unwrap(), b"one\r\ntwo\r\n");
    live.assert_as_pushed();
    // And back again.
    live.git.ok(clone, "revert --no-edit HEAD~1..HEAD");
    live.git.ok(clone, "revert --no-edit HEAD~2");
    live.pushed("origin main");
    assert_eq!(read(&live.work, "deep/er/file"), "deep\n");
    assert_eq!(fs::metadata(live.work.join("run.sh")).unwrap().mode() & 0o111, 0);
    live.assert_as_pushed();
}

#[test]
fn links_that_the_agent_plants_lead_nothing_out() {
    let live = live();
    let outside = live.git.path("outside");
    fs::create_dir(&outside).unwrap();
    write(&outside, "a.csv", "precious\n");
    // In place of a directory that is tracked: that is unsaved work.
    fs::remove_dir_all(live.work.join("data")).unwrap();
    symlink(&outside, live.work.join("data")).unwrap();
    live.commit("data/a.csv", "pushed\n", "Change a file in it");
    live.refused("origin main", "fetch first");
    assert_eq!(read(&outside, "a.csv"), "precious\n");
    // In a place that is ignored, so that nobody saves it.
    live.git.ok(&live.clone, "reset -q --hard HEAD~1");
    live.git.ok(&live.clone, "pull -q origin main");
    symlink(&outside, live.work.join("out")).unwrap();
    write(&live.clone, "out/a.csv", "pushed\n");
    live.git.ok(&live.clone, "add -f out/a.csv");
    live.git.ok(&live.clone, "commit -q -m through");
    let head = live.head();
    let reason = "'out' is a symbolic link where a directory is needed";
    live.refused("origin main", reason);
    assert_eq!(read(&outside, "a.csv"), "precious\n");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    assert_eq!(live.head(), head);
    live.assert_tidy();
}

#[test]
fn what_is_in_the_way_is_not_overwritten() {
    let live = live();
    for (path, reason) in [
        ("debug.log", "'debug.log' is in the way and is saved nowhere"),
        ("cache/x", "'cache/x' is in the way and is saved nowhere"),
        (".env", "'.env' is in the way and is saved nowhere"),
    ] {
        write(&live.work, path, "the agent's\n");
        write(&live.clone, path, "pushed\n");
        live.git.ok(&live.clone, &format!("add -f {path}"));
        live.git.ok(&live.clone, "commit -q -m in-the-way");
        let head = live.head();
        live.refused("origin main", reason);
        assert_eq!(read(&live.work, path), "the agent's\n");
        assert_eq!(live.head(), head, "{path}");
        assert_eq!(live.git.ok(&live.bare, "rev-parse main"), head);
        live.git.ok(&live.clone, "reset -q --hard HEAD~1");
        live.assert_tidy();
    }
    // Untracked and neither ignored nor a secret: saved first.
    write(&live.work, "plain", "the agent's\n");
    live.commit("plain", "pushed\n", "plain");
    live.refused("origin main", "fetch first");
    assert_eq!(live.git.ok(&live.bare, "show main:plain"), "the agent's");
}

#[test]
fn only_what_follows_is_taken() {
    let live = live();
    live.git.ok(&live.clone, "reset -q --hard HEAD~1");
    live.commit("other", "o\n", "Another history");
    let head = live.head();
    let said = live.refused("--force origin main", "non-fast-forward");
    assert!(said.contains("revert"), "{said}");
    assert_eq!(live.head(), head);
    live.refused("origin :main", "deletion of the current branch prohibited");
    assert!(!live.work.join("other").exists());
    live.assert_tidy();
}

#[test]
fn illegal_names_do_not_arrive() {
    let live = live();
    let git = &live.git;
    let blob = git.ok(&live.clone, "rev-parse HEAD:report.md");
    let head = live.head();
    for name in [".GIT", "git~1", ".git"] {
        let inner = git.run_with(
            &live.clone,
            ["mktree"],
            format!("100644 blob {blob}\tconfig\n").as_bytes(),
        );
        let line = format!("040000 tree {}\t{name}\n", inner.text());
        let tree = git.run_with(&live.clone, ["mktree"], line.as_bytes());
        assert!(tree.ok, "{}", tree.stderr);
        let commit = git.ok(&live.clone, &format!("commit-tree {} -p HEAD -m evil", tree.text()));
        let out = live.push(&format!("origin {commit}:refs/heads/main"));
        assert!(!out.ok, "{name} was taken:\n{}", out.stderr);
        assert_eq!(live.head(), head);
    }
    assert_eq!(git.ok(&live.work, "status --porcelain"), "");
    live.assert_tidy();
}

#[test]
fn the_repositorys_own_word_counts() {
    let live = live();
    let set = |value: &str| {
        live.git
            .ok(&live.bare, &format!("config receive.denyCurrentBranch {value}"));
    };
    live.commit("one", "1\n", "one");
    set("refuse");
    let said = live.refused("origin main", "branch is currently checked out");
    assert!(said.contains("refusing to update checked out branch"), "{said}");
    assert!(!live.work.join("one").exists());
    set("updateInstead");
    // By git's rule: nothing is saved for anybody.
    write(&live.work, "report.md", "changed\n");
    live.refused("origin main", "Working directory has unstaged changes");
    live.git.ok(&live.work, "add report.md");
    live.refused("origin main", "Working directory has staged changes");
    live.git.ok(&live.work, "reset -q --hard");
    write(&live.work, "one", "untracked\n");
    live.refused("origin main", "Could not update working tree to new HEAD");
    assert_eq!(read(&live.work, "one"), "untracked\n");
    fs::remove_file(live.work.join("one")).unwrap();
    write(&live.work, "untracked", "stays\n");
    live.pushed("origin main");
    assert_eq!(read(&live.work, "one"), "1\n");
    assert_eq!(live.git.ok(&live.work, "status --porcelain"), "?? untracked");
    // Backwards, too.
    live.pushed("--force origin HEAD~1:main");
    assert!(!live.work.join("one").exists());
    assert_eq!(live.git.ok(&live.work, "status --porcelain"), "?? untracked");
    for value in ["ignore", "warn"] {
        set(value);
        let said = live.pushed("origin main");
        assert_eq!(
            said.contains("warning: updating the current branch"),
            value == "warn",
            "{said}"
        );
        assert!(!live.work.join("one").exists(), "only the ref moves");
        live.git.ok(&live.work, "update-ref HEAD HEAD~1");
        live.git.ok(&live.clone, "fetch -q");
    }
}

#[test]
fn worktrees_of_others_are_left_alone() {
    let live = live();
    let git = &live.git;
    git.ok(&live.bare, "branch theirs");
    git.ok(
        &live.bare,
        &format!("worktree add -q {} theirs", git.path("theirs").display()),
    );
    live.commit("x", "x\n", "x");
    live.refused("origin main:theirs", "branch is currently checked out");
    assert!(!git.path("theirs/x").exists());
    // A repository with a working tree of its own, by its own word.
    let plain = live.server.repos().join("plain");
    git.ok(
        git.dir(),
        &format!("clone -q {} {}", live.clone.display(), plain.display()),
    );
    git.ok(
        &live.clone,
        &format!("remote add plain {}", live.server.repo_url("plain")),
    );
    live.commit("y", "y\n", "y");
    live.refused("plain main", "branch is currently checked out");
    git.ok(&plain, "config receive.denyCurrentBranch updateInstead");
    live.pushed("plain main");
    assert_eq!(read(&plain, "y"), "y\n");
    assert_eq!(git.ok(&plain, "status --porcelain"), "");
}

#[test]
fn several_refs_move_together_or_each_for_itself() {
    let live = live();
    let second = WorkspaceName::parse("second").unwrap();
    let create = CreateWorkspace::new(Start::Default);
    let other = live.depot.create_workspace(&repo(), &second, &create).unwrap();
    live.git.ok(&live.clone, "fetch -q");
    live.commit("x", "x\n", "x");
    // Work in one of them.
    write(other.root(), "unsaved", "u\n");
    let head = live.head();
    let out = live.push("--atomic origin main main:second main:refs/heads/third");
    assert!(!out.ok, "{}", out.stderr);
    assert!(out.stderr.contains("atomic push failure"), "{}", out.stderr);
    assert_eq!(live.head(), head);
    assert!(!live.work.join("x").exists() && !other.root().join("x").exists());
    assert!(!live.git.run(&live.bare, ["rev-parse", "-q", "--verify", "third"]).ok);
    live.assert_tidy();
    // Without `--atomic` each goes as far as it can.
    let out = live.push("origin main main:second main:refs/heads/third");
    assert!(!out.ok && out.stderr.contains("main -> third"), "{}", out.stderr);
    assert_eq!(read(&live.work, "x"), "x\n");
    assert_eq!(read(other.root(), "unsaved"), "u\n");
    live.assert_as_pushed();
    // And both when nothing stands against it.
    live.git.ok(&live.clone, "fetch -q");
    live.git.ok(&live.clone, "checkout -q -b second origin/second");
    live.commit("y", "y\n", "y");
    live.git.ok(&live.clone, "checkout -q main");
    live.commit("z", "z\n", "z");
    live.pushed("--atomic origin main second");
    assert_eq!(read(&live.work, "z"), "z\n");
    assert_eq!(read(other.root(), "y"), "y\n");
    live.assert_as_pushed();
}

#[test]
fn sha256_workspaces_take_pushes() {
    let live = live_with(gix::hash::Kind::Sha256);
    live.commit("x", "x\n", "x");
    live.pushed("origin main");
    assert_eq!(read(&live.work, "x"), "x\n");
    live.assert_as_pushed();
}

#[test]
fn a_merge_in_progress_is_not_disturbed() {
    let live = live();
    let git = &live.git;
    git.ok(&live.work, "checkout -q -b side HEAD~1");
    git.commit(&live.work, "report.md", "# Report\nside\n", "side");
    git.ok(&live.work, "checkout -q main");
    git.fails(&live.work, "merge side");
    let conflicted = read(&live.work, "report.md");
    live.commit("x", "x\n", "x");
    live.refused("origin main", "a merge is in progress in the workspace");
    assert_eq!(read(&live.work, "report.md"), conflicted);
    git.ok(&live.work, "merge --abort");
    live.pushed("origin main");
    live.assert_as_pushed();
}

#[test]
fn a_push_waits_for_a_checkpoint_and_not_for_ever() {
    let git = Git::new();
    let options = ServerOptions {
        config: Some("[limits]\nworkspace_wait = \"300ms\"\n".to_owned()),
        ..ServerOptions::default()
    };
    let server = Server::with(options);
    let depot = Depot::new(server.repos(), DepotOptions::default()).unwrap();
    let create = CreateWorkspace::new(Start::Empty { task: "t".into() });
    let workspace = depot
        .create_workspace(&repo(), &WorkspaceName::parse("main").unwrap(), &create)
        .unwrap();
    git.ok(git.dir(), &format!("clone -q {} clone", server.repo_url("agent")));
    let clone = git.path("clone");
    git.commit(&clone, "x", "x\n", "x");
    let held = workspace.lock().unwrap();
    let began = Instant::now();
    let said = git.fails(&clone, "push origin main");
    assert!(said.contains("(the workspace is in use; try again)"), "{said}");
    assert!(began.elapsed() < Duration::from_secs(8));
    drop(held);
    git.ok(&clone, "push -q origin main");
    assert!(workspace.root().join("x").exists());
}

#[test]
fn a_server_killed_in_the_middle_leaves_files_that_follow_the_branch() {
    let mut live = live();
    let main = WorkspaceName::parse("main").unwrap();
    let (mut moved, mut kept) = (0, 0);
    for round in 0..14u64 {
        for n in 0..60 {
            write(&live.clone, &format!("many/{}/{n}", n % 7), &format!("{round} {n}\n"));
        }
        if round % 2 == 1 {
            fs::remove_dir_all(live.clone.join("many/3")).unwrap();
        }
        live.git.ok(&live.clone, "add -A");
        live.git
            .ok_args(&live.clone, ["commit", "-q", "-m", &format!("round {round}")]);
        let before = live.head();
        let (clone, after) = (live.clone.clone(), live.git.ok(&live.clone, "rev-parse HEAD"));
        let mut command = live.git.command(&clone);
        command.stderr(std::process::Stdio::null());
        let mut push = command.args(["push", "-q", "origin", "main"]).spawn().unwrap();
        // Somewhere between the first byte and the report: later each time.
        let deadline = Instant::now() + Duration::from_millis(15 + round * 12);
        while Instant::now() < deadline && push.try_wait().unwrap().is_none() {
            std::thread::yield_now();
        }
        let data = live.server.kill();
        let _ = push.wait();
        live.server = Server::on(data, ServerOptions::default());
        let url = live.server.repo_url("agent");
        live.git.ok(&live.clone, &format!("remote set-url origin {url}"));
        let head = live.head();
        assert!(head == before || head == after, "round {round}");
        if head == after {
            moved += 1
        } else {
            kept += 1
        }
        // Whoever uses the workspace next finishes it.
        let workspace = live.depot.workspace(&repo(), &main).unwrap();
        drop(workspace.lock().unwrap());
        assert_eq!(live.git.ok(&live.work, "status --porcelain"), "", "round {round}");
        live.assert_tidy();
        live.pushed("origin main");
        live.assert_as_pushed();
    }
    assert!(kept > 0, "no push was killed before its branch moved");
    // On a slow machine none may get that far; the unit tests of transitions stop at every step.
    eprintln!("{moved} moved, {kept} kept");
}

#[test]
fn an_index_lock_that_somebody_left_costs_no_wait_and_is_named() {
    let live = live();
    let lock = live.bare.join("worktrees/main/index.lock");
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(3_600);
    fs::File::create(&lock).unwrap().set_modified(old).unwrap();
    live.git.ok(&live.clone, "revert --no-edit HEAD");
    let began = std::time::Instant::now();
    let said = live.pushed("origin main");
    assert!(
        began.elapsed() < std::time::Duration::from_secs(2),
        "{:?}",
        began.elapsed()
    );
    assert!(
        said.contains("workspace main: index.lock has been there for 36"),
        "{said}"
    );
    assert_eq!(read(&live.work, "report.md"), "# Report\n");
    assert_eq!(live.head(), live.git.ok(&live.clone, "rev-parse HEAD"));
    // Once it is gone, the next checkpoint brings everything in order, and has nothing to record.
    fs::remove_file(&lock).unwrap();
    let main = WorkspaceName::parse("main").unwrap();
    let workspace = live.depot.workspace(&repo(), &main).unwrap();
    let outcome = workspace.checkpoint(Checkpoint::after("Read", "nothing")).unwrap();
    assert_eq!(outcome.changed, 0);
    drop(workspace);
    assert_eq!(live.git.ok(&live.work, "status --porcelain --ignored=no"), "");
}
