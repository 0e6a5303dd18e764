//! `gitstead bench serve`, asked of a real server.

use std::process::{Command, Output};

use crate::support::{Git, Server};

fn bench(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_gitstead"))
        .args(["bench", "serve", "--rounds", "1", "--requests", "3", "--clients", "2"])
        .args(args)
        .env_clear()
        .output()
        .expect("the binary runs")
}

#[test]
fn what_servers_take_is_told_side_by_side() {
    let (git, server) = (Git::new(), Server::start());
    let work = git.init("work");
    for n in 0..3 {
        git.commit(&work, "file.txt", format!("version {n}\n"), "a commit");
    }
    for name in ["one", "two"] {
        git.ok_args(&work, ["push", "-q", &server.repo_url(name), "HEAD:refs/heads/main"]);
    }
    git.ok(server.repos().join("one.git"), "config uploadpack.allowFilter true");
    let out = bench(&[&server.repo_url("one"), &server.repo_url("two")]);
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success(), "{text}{}", String::from_utf8_lossy(&out.stderr));
    // Three commits, each with a tree and a blob.
    let objects = |line: &str| {
        line.split(" objects")
            .next()
            .and_then(|head| head.rsplit(' ').next())
            .map(str::to_owned)
    };
    let row = |name: &str, server: usize| {
        let at = text
            .lines()
            .position(|line| line.starts_with(name))
            .unwrap_or_else(|| panic!("{name}: {text}"));
        text.lines()
            .nth(at + server)
            .expect("a line for each server")
            .to_owned()
    };
    for server in 0..2 {
        assert_eq!(objects(&row("clone", server)).as_deref(), Some("9"), "{text}");
        assert_eq!(objects(&row("shallow clone", server)).as_deref(), Some("3"), "{text}");
        assert_eq!(
            objects(&row("2 clones at once", server)).as_deref(),
            Some("18"),
            "{text}"
        );
    }
    assert_eq!(objects(&row("blobless clone", 0)).as_deref(), Some("6"), "{text}");
    assert!(row("blobless clone", 1).ends_with("not offered"), "{text}");
    assert!(row("list refs, 3 times", 1).contains("of [1]'s time"), "{text}");
}

#[test]
fn what_cannot_be_measured_is_named() {
    let server = Server::start();
    for (url, why) in [
        (server.repo_url("missing"), "404"),
        ("https://example.com/x".to_owned(), "http://"),
        (format!("http://{}", server.address()), "names no repository"),
    ] {
        let out = bench(&[&url]);
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.code() == Some(1) && said.contains(why), "{url}: {said}");
    }
}
