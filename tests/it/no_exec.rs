//! The server starts no process: clone, fetch and push against a server that is traced for it.

use std::{fs, process::Command};

use crate::support::{Git, Server, ServerOptions};

#[test]
fn nothing_is_ever_executed() {
    let git = Git::new();
    let trace = git.path("trace");
    // `env -i` in the wrapper's place would hide strace itself; a full path does not need a PATH.
    let strace = String::from_utf8(
        Command::new("sh")
            .args(["-c", "command -v strace"])
            .output()
            .unwrap()
            .stdout,
    )
    .unwrap();
    let strace = strace.trim();
    assert!(!strace.is_empty(), "this test needs strace (Debian package strace)");
    let wrapper = [
        strace,
        "-D",
        "-f",
        "--seccomp-bpf",
        "-qq",
        "-e",
        "trace=execve,execveat,fork,vfork,clone,clone3",
        "-o",
    ];
    let mut wrapper: Vec<String> = wrapper.iter().map(|s| (*s).to_owned()).collect();
    wrapper.push(trace.display().to_string());
    let server = Server::with(ServerOptions {
        wrapper,
        ..ServerOptions::default()
    });

    let work = git.init("work");
    git.generate(&work, 50, 40);
    git.ok(&work, "reset -q --hard main");
    let url = server.repo_url("hello");
    git.ok(&work, &format!("push -q {url} main"));
    for version in [0, 1, 2] {
        let client = Git::new().protocol(version);
        client.ok(client.dir(), &format!("clone -q {url} copy"));
        client.ok(client.dir(), &format!("clone -q --depth 1 {url} shallow"));
        git.commit(&work, "a.txt", format!("{version}\n"), "more");
        git.ok_args(&work, ["tag", "-a", &format!("v{version}"), "-m", "tag"]);
        git.ok(&work, &format!("push -q --tags {url} main main:refs/heads/b{version}"));
        client.ok(client.path("copy"), "fetch -q");
        client.ok(client.path("shallow"), "fetch -q --unshallow");
        client.fsck(client.path("copy"));
        git.ok(&work, &format!("push -q {url} :b{version}"));
    }
    git.fails(&work, &format!("push -q -o x {url} main:refs/heads/x"));
    // Hooks and filters of a repository are data, not programs.
    let bare = server.repos().join("hello.git");
    fs::create_dir_all(bare.join("hooks")).unwrap();
    for hook in [
        "pre-receive",
        "update",
        "post-receive",
        "post-update",
        "reference-transaction",
    ] {
        use std::os::unix::fs::PermissionsExt as _;
        fs::write(bare.join("hooks").join(hook), "#!/bin/sh\nexit 1\n").unwrap();
        fs::set_permissions(bare.join("hooks").join(hook), fs::Permissions::from_mode(0o755)).unwrap();
    }
    git.commit(&work, "b.txt", "b\n", "past the hooks");
    git.ok(&work, &format!("push -q {url} main"));
    drop(server);

    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    let text = loop {
        let text = fs::read_to_string(&trace).unwrap_or_default();
        // The tracer writes its last line when the server has been killed.
        if text.contains("killed by SIGKILL") || std::time::Instant::now() > deadline {
            break text;
        }
        std::thread::yield_now();
    };
    let executed: Vec<&str> = text.lines().filter(|line| line.contains("execve")).collect();
    assert_eq!(
        executed.len(),
        1,
        "only the server itself was executed:\n{}",
        executed.join("\n")
    );
    assert!(executed[0].contains("gitstead"), "{}", executed[0]);
    let forked: Vec<&str> = text
        .lines()
        .filter(|line| {
            line.contains("fork(")
                || (line.contains("clone")
                    && line.contains("(")
                    && !line.contains("CLONE_THREAD")
                    && !line.contains("resumed"))
        })
        .collect();
    assert!(forked.is_empty(), "only threads were started:\n{}", forked.join("\n"));
    assert!(
        text.contains("CLONE_THREAD"),
        "the trace sees threads, so it would have seen processes"
    );
}
