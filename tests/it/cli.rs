//! The command line as a person or a script meets it.

use std::{
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
};

use gitstead::base::{TOKEN_PREFIX, TokenHash};

use crate::support::{Git, Server, ServerOptions};

struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

fn gitstead(args: &[&str], env: &[(&str, &str)], input: &[u8]) -> Said {
    let mut child = Command::new(env!("CARGO_BIN_EXE_gitstead"))
        .env_clear()
        .env("PATH", "")
        .envs(env.iter().copied())
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let _ = child.stdin.take().expect("a pipe").write_all(input);
    let output = child.wait_with_output().expect("it ends");
    Said {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).expect("text"),
        err: String::from_utf8(output.stderr).expect("text"),
    }
}

/// Runs a command on a data directory; `line` is split at spaces.
fn on(data: &Path, line: &str) -> Said {
    let mut args: Vec<&str> = line.split(' ').collect();
    let data = data.to_str().expect("text");
    args.extend(["--data", data]);
    gitstead(&args, &[], b"")
}

#[track_caller]
fn ok(data: &Path, line: &str) -> String {
    let said = on(data, line);
    assert_eq!(said.code, Some(0), "{line}: {}", said.err);
    said.out
}

#[test]
fn repositories_are_made_looked_at_and_removed() {
    let git = Git::new();
    let data = git.path("data");
    assert!(ok(&data, "repo create team/app --description words").contains("created team/app"));
    ok(&data, "repo create other --object-format sha256 --default-branch trunk");
    assert_eq!(ok(&data, "repo list"), "other\nteam/app\n");
    git.fsck(data.join("repos/team/app.git"));
    let shown = ok(&data, "repo show other");
    for line in [
        "object format: sha256",
        "head:          refs/heads/trunk",
        "commit:        none",
    ] {
        assert!(shown.contains(line), "{line:?} is not in {shown}");
    }
    ok(&data, "repo set-head other main");
    let shown: serde_json::Value = serde_json::from_str(&ok(&data, "repo show team/app --json")).unwrap();
    assert_eq!(shown["name"], "team/app");
    assert_eq!(shown["description"], "words");
    assert_eq!(shown["head"], "refs/heads/main");
    assert_eq!(shown["head_id"], serde_json::Value::Null);
    assert!(ok(&data, "repo rename team/app app").contains("renamed team/app to app"));
    let listed: serde_json::Value = serde_json::from_str(&ok(&data, "repo list --json")).unwrap();
    assert_eq!(listed["repositories"][0]["name"], "app");
    assert_eq!(ok(&data, "repo delete app"), "deleted app\n");
    assert_eq!(ok(&data, "repo list"), "other\n");
}

#[test]
fn errors_are_one_line_and_have_their_codes() {
    let git = Git::new();
    let data = git.path("data");
    ok(&data, "repo create a");
    for (line, code, words) in [
        ("repo create a", 1, "error: repository 'a' exists already\n"),
        ("repo create a/b", 1, "error: 'a/b' would lie inside repository 'a'\n"),
        ("repo show b", 1, "error: repository 'b' not found\n"),
        ("repo delete b", 1, "not found"),
        ("repo create ../x", 1, "error: '../x' is not a repository name: "),
        ("repo create .x", 1, "new repositories are named"),
        ("repo create a --object-format md5", 2, "sha256"),
        ("repo set-head a b..c", 1, "not a valid branch name"),
        ("repo nonsense", 2, "Usage"),
        ("nonsense", 2, "Usage"),
        ("serve --nonsense", 2, "--nonsense"),
        (
            "serve --listen nonsense",
            2,
            "error: listen: 'nonsense' is not an address",
        ),
        ("serve --listen 0.0.0.0:0", 2, "gitstead token new"),
        (
            "serve --config /nowhere/gitstead.toml",
            2,
            "error: read /nowhere/gitstead.toml: ",
        ),
        ("serve --log =", 2, "error: log: "),
        ("token new --repos a//b", 1, "not a repository pattern"),
        ("token new --access admin", 2, "'read' or 'write'"),
    ] {
        let said = if line.starts_with("token") {
            gitstead(&line.split(' ').collect::<Vec<_>>(), &[], b"")
        } else {
            on(&data, line)
        };
        assert_eq!(said.code, Some(code), "{line}: {}", said.err);
        assert!(said.err.contains(words), "{line}: {}", said.err);
        assert_eq!(said.out, "", "{line}");
    }
    std::fs::write(data.join("gitstead.toml"), "[limits]\nwant = 3\n").unwrap();
    let said = on(&data, "repo list");
    assert_eq!(said.code, Some(2));
    assert!(
        said.err.contains("gitstead.toml") && said.err.contains("line 2"),
        "{}",
        said.err
    );
}

#[test]
fn a_mistyped_directory_is_not_made_by_looking_into_it() {
    let git = Git::new();
    let data = git.path("data");
    assert_eq!(ok(&data, "repo list"), "");
    assert_eq!(on(&data, "repo show a").code, Some(1));
    assert!(!data.exists());
}

#[test]
fn version_and_help_are_there() {
    let version = gitstead(&["--version"], &[], b"");
    assert_eq!(version.out, format!("gitstead {}\n", env!("CARGO_PKG_VERSION")));
    let help = gitstead(&["serve", "--help"], &[], b"");
    assert_eq!(help.code, Some(0));
    for flag in [
        "--data",
        "--repos",
        "--listen",
        "--url-prefix",
        "--require-export-ok",
        "--namespace",
        "--config",
        "--insecure-open",
    ] {
        assert!(help.out.contains(flag), "{flag} is not in the help");
    }
}

#[test]
fn a_token_is_printed_once_with_what_to_add() {
    let said = gitstead(
        &[
            "token", "new", "--name", "ci \"x\"", "--repos", "team/*", "--repos", "docs", "--access", "write",
        ],
        &[],
        b"",
    );
    assert_eq!(said.code, Some(0), "{}", said.err);
    let token = said.out.lines().next().unwrap();
    assert!(token.starts_with(TOKEN_PREFIX) && token.len() == 44, "{token}");
    let config: toml::Table = said
        .out
        .split_once("toml and restart the server:")
        .unwrap()
        .1
        .parse()
        .unwrap();
    let entry = &config["tokens"][0];
    assert_eq!(entry["name"].as_str(), Some("ci \"x\""));
    assert_eq!(entry["repos"].as_array().map(Vec::len), Some(2));
    assert_eq!(entry["hash"].as_str(), Some(TokenHash::of(token).to_string().as_str()));
    let other = gitstead(&["token", "new"], &[], b"");
    assert_ne!(other.out.lines().next(), Some(token));
}

#[test]
fn packets_are_shown_as_text() {
    let said = gitstead(&["debug", "pkt-line"], &[], b"000ahello\n00000001");
    assert_eq!(said.code, Some(0));
    assert!(
        said.out.contains("hello") && said.out.contains("0000\n0001\n"),
        "{}",
        said.out
    );
}

#[test]
fn the_address_is_on_the_first_line_and_sigterm_ends_it_well() {
    let server = Server::start();
    assert!(server.url().starts_with("http://127.0.0.1:"), "{}", server.url());
    assert!(!server.url().ends_with(":0"));
    assert!(server.repos().is_dir());
    let (code, said) = server.terminate();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("git clone http://127.0.0.1:"), "{said}");
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let git = Git::new();
    for (name, dir) in [("file", "f"), ("env", "e"), ("flag", "g")] {
        let data = git.path(dir);
        ok(&data, &format!("repo create from-{name}"));
    }
    let repos = |dir: &str| git.path(dir).join("repos").display().to_string();
    let config = git.path("c.toml");
    std::fs::write(&config, format!("repos = {:?}", repos("f"))).unwrap();
    let config = config.to_str().unwrap();
    let home = ("HOME", git.dir().to_str().unwrap());
    let list = |args: &[&str], env: &[(&str, &str)]| {
        let said = gitstead(
            &[&["repo", "list", "--config", config], args].concat(),
            &[&[home], env].concat(),
            b"",
        );
        assert_eq!(said.code, Some(0), "{}", said.err);
        said.out
    };
    let env = repos("e");
    assert_eq!(list(&[], &[]), "from-file\n");
    assert_eq!(list(&[], &[("GITSTEAD_REPOS", &env)]), "from-env\n");
    assert_eq!(
        list(&["--repos", &repos("g")], &[("GITSTEAD_REPOS", &env)]),
        "from-flag\n"
    );
}

#[test]
fn an_address_that_is_taken_is_an_error_that_says_so() {
    let server = Server::start();
    let git = Git::new();
    let said = on(&git.path("data"), &format!("serve --listen {}", server.address()));
    assert_eq!(said.code, Some(1));
    assert!(
        said.err.contains(&format!("error: listen on {}: ", server.address())),
        "{}",
        said.err
    );
}

#[test]
fn what_a_killed_server_left_half_made_is_gone_after_the_next_start() {
    let git = Git::new();
    let data = tempfile::tempdir().unwrap();
    let left = data.path().join("repos/team/.gitstead-tmp-1");
    std::fs::create_dir_all(left.join("objects")).unwrap();
    let server = Server::on(data, ServerOptions::default());
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while left.exists() {
        assert!(std::time::Instant::now() < deadline, "it is still there");
        std::thread::yield_now();
    }
    drop((server, git));
}

#[test]
fn workspaces_are_made_listed_and_removed() {
    let git = Git::new();
    let data = git.path("data");
    let said = gitstead(
        &[
            "workspace",
            "create",
            "agent",
            "main",
            "--task",
            "Analyze sales data",
            "--data",
            data.to_str().unwrap(),
        ],
        &[],
        b"",
    );
    assert_eq!(said.code, Some(0), "{}", said.err);
    let root = data.join("work/agent/main");
    assert_eq!(
        said.out,
        format!("created {}\n", root.canonicalize().unwrap().display())
    );
    assert_eq!(git.ok(&root, "log --format=%s"), "Initial task: Analyze sales data");
    git.commit(&root, "a", "a", "by git");
    ok(&data, "workspace create agent second");
    ok(&data, "workspace create agent old --at main~1 --branch past");
    ok(&data, "workspace create other main --fork agent");
    let listed = ok(&data, "workspace list agent");
    let lines: Vec<Vec<&str>> = listed.lines().map(|line| line.split('\t').collect()).collect();
    let seen: Vec<_> = lines.iter().map(|line| (line[0], line[1], line[2])).collect();
    assert_eq!(
        seen,
        [
            ("main", "main", "ready"),
            ("old", "past", "ready"),
            ("second", "second", "ready")
        ]
    );
    let shown = ok(&data, "workspace show agent second --json");
    assert!(shown.contains("\"branch\": \"second\""), "{shown}");
    assert!(shown.contains("\"managed\": true"), "{shown}");
    let second = data.join("work/agent/second");
    std::fs::write(second.join("unsaved"), "u").unwrap();
    let said = on(&data, "workspace remove agent second");
    assert_eq!(said.code, Some(1));
    assert!(said.err.contains("changes that are in no commit"), "{}", said.err);
    // What cannot be saved is not called saved.
    std::fs::write(second.join(".env"), "KEY=1").unwrap();
    let said = on(&data, "workspace remove agent second --unsaved checkpoint");
    assert_eq!(said.code, Some(1));
    assert!(
        said.err.contains(".env") && second.join(".env").exists(),
        "{}",
        said.err
    );
    std::fs::remove_file(second.join(".env")).unwrap();
    ok(&data, "workspace remove agent second --unsaved checkpoint");
    assert!(!second.exists());
    assert_eq!(git.ok(data.join("repos/agent.git"), "show second:unsaved"), "u");
    for (line, code) in [
        ("workspace show agent none", 1),
        ("workspace create agent a/b", 1),
        ("workspace create agent x --task t --from main", 2),
        ("workspace remove agent old --unsaved perhaps", 2),
    ] {
        assert_eq!(on(&data, line).code, Some(code), "{line}");
    }
    ok(&data, "workspace remove agent old --unsaved discard");
}
