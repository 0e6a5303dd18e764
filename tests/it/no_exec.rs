//! The server starts no process. Every server of these tests runs under a guard that fails its test otherwise (`support/guard.rs`), so that all of the
//! clone, fetch and push suite shows it. Here: that the guard sees what it looks for, and what a server might be tempted to execute.

use std::{fs, os::unix::fs::PermissionsExt as _};

use crate::support::{Git, Guard, Server};

#[test]
fn the_guard_sees_programs_and_processes() {
    let Some(guard) = Guard::new() else { return };
    let script = "/bin/true; (exit 3) & wait";
    let mut child = guard.command("/bin/sh").args(["-c", script]).spawn().unwrap();
    let pid = child.id();
    assert!(child.wait().unwrap().success());
    let seen = guard.seen(pid);
    assert!(
        seen.iter().any(|line| line.contains("execve(\"/bin/true\"")),
        "{seen:#?}"
    );
    assert!(
        seen.iter()
            .filter(|line| line.contains("fork") || line.contains("clone"))
            .count()
            >= 2,
        "{seen:#?}"
    );
}

#[test]
fn hooks_and_filters_of_a_repository_are_data() {
    let git = Git::new();
    let server = Server::start();
    let work = git.init("work");
    git.commit(&work, "a.txt", "a\n", "one");
    fs::write(work.join(".gitattributes"), "* filter=evil diff=evil\n").unwrap();
    git.ok(&work, "add .");
    git.ok_args(&work, ["commit", "-q", "-m", "attributes"]);
    let url = server.repo_url("hello");
    git.ok(&work, &format!("push -q {url} main"));

    let bare = server.repos().join("hello.git");
    let witness = git.path("witness");
    let evil = format!("#!/bin/sh\ntouch {}\nexit 1\n", witness.display());
    fs::create_dir_all(bare.join("hooks")).unwrap();
    for hook in [
        "pre-receive",
        "update",
        "proc-receive",
        "post-receive",
        "post-update",
        "push-to-checkout",
        "pre-auto-gc",
        "reference-transaction",
        "upload-pack",
    ] {
        fs::write(bare.join("hooks").join(hook), &evil).unwrap();
        fs::set_permissions(bare.join("hooks").join(hook), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let script = bare.join("hooks/update");
    let script = script.display();
    for key in [
        "filter.evil.clean",
        "filter.evil.smudge",
        "core.fsmonitor",
        "core.sshCommand",
        "core.alternateRefsCommand",
        "uploadpack.packObjectsHook",
        "gpg.program",
        "credential.helper",
        "core.pager",
    ] {
        git.ok(&bare, &format!("config {key} {script}"));
    }
    git.ok(
        &bare,
        &format!("config core.hooksPath {}", bare.join("hooks").display()),
    );

    git.commit(&work, "b.txt", "b\n", "past the hooks");
    git.ok(&work, &format!("push -q {url} main main:refs/heads/other"));
    git.ok(&work, &format!("push -q {url} :other"));
    git.ok(git.dir(), &format!("clone -q {url} copy"));
    assert!(!witness.exists(), "something of the repository was executed");
}
