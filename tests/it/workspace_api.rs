//! Workspaces and checkpoints over HTTP, against the real server under the guard.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use gitstead::base::TokenHash;
use serde_json::{Value, json};

use crate::support::{Git, Server, ServerOptions};

struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("not JSON: {:?}", self.text()))
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(": ")?;
            key.eq_ignore_ascii_case(name).then_some(value)
        })
    }

    #[track_caller]
    fn is(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.text());
        self
    }

    #[track_caller]
    fn fails(&self, status: u16, code: &str) {
        let got = self.json();
        assert_eq!(
            (self.status, got["error"]["code"].as_str()),
            (status, Some(code)),
            "{}",
            self.text()
        );
    }
}

/// One request on a connection of its own, to a path below `/api/v1/workspaces/`; to that itself if the path is empty or only a query.
fn ask_as(server: &Server, token: Option<&str>, method: &str, path: &str, body: Option<&Value>) -> Answer {
    let mut stream = TcpStream::connect(server.address()).expect("the server listens");
    let slash = if path.is_empty() || path.starts_with('?') {
        ""
    } else {
        "/"
    };
    let mut text = format!(
        "{method} /api/v1/workspaces{slash}{path} HTTP/1.1\r\nConnection: close\r\nHost: {}\r\n",
        server.address()
    );
    if let Some(token) = token {
        text.push_str(&format!("Authorization: Bearer {token}\r\n"));
    }
    match body {
        Some(body) => {
            let body = body.to_string();
            let head = "Content-Type: application/json\r\nContent-Length";
            text.push_str(&format!("{head}: {}\r\n\r\n{body}", body.len()));
        }
        None => text.push_str("\r\n"),
    }
    stream.write_all(text.as_bytes()).expect("it is sent");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an answer");
    let at = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("a head");
    let head = String::from_utf8_lossy(&answer[..at]).into_owned();
    Answer {
        status: head.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status"),
        head,
        body: answer[at + 4..].to_vec(),
    }
}

fn get(server: &Server, path: &str) -> Answer {
    ask_as(server, None, "GET", path, None)
}

fn post(server: &Server, path: &str, body: Value) -> Answer {
    ask_as(server, None, "POST", path, Some(&body))
}

fn delete(server: &Server, path: &str) -> Answer {
    ask_as(server, None, "DELETE", path, None)
}

/// A server with a workspace `main` of `team/app`, and where its files are.
fn begin() -> (Server, PathBuf) {
    let server = Server::start();
    let made = post(
        &server,
        "team%2Fapp",
        json!({ "name": "main", "task": "Analyze sales data" }),
    )
    .is(201);
    assert_eq!(made.header("location"), Some("/api/v1/workspaces/team%2Fapp/main"));
    let root = server.data().join("work/team/app/main");
    assert!(root.join(".git").is_file());
    (server, root)
}

/// Waits until git in the workspace says this of its files: the index of a watched workspace follows its checkpoints a moment later.
#[track_caller]
fn settles(git: &Git, root: &Path, status: &str) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let now = git.ok(root, "--no-optional-locks status --porcelain");
        if now == status {
            return;
        }
        assert!(Instant::now() < deadline, "{now:?} stays");
        std::thread::yield_now();
    }
}

const MAIN: &str = "team%2Fapp/main";

#[track_caller]
fn record(server: &Server, tool: &str, summary: &str) -> String {
    let made = post(
        server,
        &format!("{MAIN}/checkpoints"),
        json!({ "tool": tool, "summary": summary }),
    )
    .is(201);
    made.json()["commit"].as_str().expect("a commit").to_owned()
}

#[test]
fn a_checkpoint_is_made_by_a_call_and_cloned() {
    let (server, root) = begin();
    let git = Git::new();
    fs::write(root.join("report.md"), "# Report\n").unwrap();
    fs::write(root.join(".env"), "KEY=1\n").unwrap();
    let body = json!({
        "tool": "Write", "summary": "Created report.md", "agent": "research", "session": "s1", "turn": 2, "tool_use_ids": ["t1"],
        "outcome": "ok", "duration_ms": 12, "trailers": [{ "key": "Task", "value": "7" }]
    });
    let made = post(&server, &format!("{MAIN}/checkpoints"), body).is(201);
    let view = made.json();
    let id = view["commit"].as_str().unwrap().to_owned();
    assert_eq!(
        made.header("location").unwrap(),
        format!("/api/v1/workspaces/team%2Fapp/main/checkpoints/{id}")
    );
    assert_eq!(view["changed"], 1);
    assert_eq!(view["changes"][0]["path"], "report.md");
    assert_eq!(view["changes"][0]["to"]["mode"], "100644");
    assert_eq!(
        view["skipped"],
        json!([{ "path": ".env", "reason": "secret", "text": "looks like a secret" }])
    );
    assert_eq!(
        (&view["reference"], &view["placed"]),
        (&json!("refs/heads/main"), &json!("branch"))
    );
    assert!(
        !made.text().contains(server.data().to_str().unwrap()),
        "no paths of the server"
    );

    let shown = get(&server, &format!("{MAIN}/checkpoints/{}", &id[..10]))
        .is(200)
        .json();
    assert_eq!(shown["id"], id);
    assert_eq!(shown["subject"], "[Write] Created report.md");
    let said = &shown["checkpoint"];
    assert_eq!(
        (&said["tool"], &said["turn"], &said["duration_ms"]),
        (&json!("Write"), &json!(2), &json!(12))
    );
    assert_eq!(said["trailers"], json!([{ "key": "Task", "value": "7" }]));
    assert_eq!(shown["author"]["name"], "research");

    // Nothing has changed: a record, unless that is not wanted.
    let again = json!({ "summary": "Looked around", "skip_unchanged": true });
    let skipped = post(&server, &format!("{MAIN}/checkpoints"), again).is(200);
    assert_eq!(skipped.json()["commit"], Value::Null);
    record(&server, "Read", "Read report.md");

    git.ok(git.dir(), &format!("clone -q {} clone", server.repo_url("team/app")));
    let log = git.ok(git.path("clone"), "log --format=%s");
    assert_eq!(
        log,
        "[Read] Read report.md\n[Write] Created report.md\nInitial task: Analyze sales data"
    );
    git.fsck(git.path("clone"));
    git.fsck(server.repos().join("team/app.git"));
    settles(&git, &root, "?? .env");
}

#[test]
fn a_shadow_checkpoint_is_beside_the_branch() {
    let (server, root) = begin();
    let before = get(&server, MAIN).is(200).json()["commit"].clone();
    fs::write(root.join("a"), "a\n").unwrap();
    let body = json!({ "tool": "Write", "summary": "a", "shadow": true });
    let made = post(&server, &format!("{MAIN}/checkpoints"), body).is(201).json();
    assert_eq!(made["reference"], "refs/gitstead/checkpoints/main");
    assert_eq!(get(&server, MAIN).is(200).json()["commit"], before);
    let log = get(&server, &format!("{MAIN}/checkpoints?shadow=true&limit=1"))
        .is(200)
        .json();
    assert_eq!(log["checkpoints"][0]["subject"], "[Write] a");
}

#[test]
fn the_trail_is_read_back_in_pages_and_by_what_is_asked() {
    let (server, root) = begin();
    fs::create_dir(root.join("src")).unwrap();
    fs::write(root.join("src/a.rs"), "a\n").unwrap();
    let a = record(&server, "Write", "Created a.rs");
    record(&server, "Bash", "Ran the tests");
    fs::write(root.join("b.md"), "b\n").unwrap();
    let b = record(&server, "Write", "Created b.md");
    let subjects = |query: &str| -> Vec<String> {
        let log = get(&server, &format!("{MAIN}/checkpoints{query}")).is(200).json();
        let all = log["checkpoints"].as_array().expect("a list").clone();
        all.iter()
            .map(|one| one["subject"].as_str().expect("text").to_owned())
            .collect()
    };
    let (first, second, third) = ("[Write] Created a.rs", "[Bash] Ran the tests", "[Write] Created b.md");
    assert_eq!(subjects(""), [third, second, first, "Initial task: Analyze sales data"]);
    assert_eq!(subjects("?tool=Write"), [third, first]);
    assert_eq!(subjects("?path=src&changed=true"), [first]);
    assert_eq!(
        subjects(&format!("?at={a}")),
        [first, "Initial task: Analyze sales data"]
    );
    let page = get(&server, &format!("{MAIN}/checkpoints?limit=2")).is(200).json();
    let next = page["next"].as_str().expect("there is more");
    assert_eq!(
        subjects(&format!("?cursor={next}")),
        [first, "Initial task: Analyze sales data"]
    );

    // Differences, between checkpoints and to the files as they are.
    fs::write(root.join("b.md"), "b\nlive\n").unwrap();
    let diff = get(&server, &format!("{MAIN}/diff?from={a}&to={b}")).is(200).json();
    assert_eq!(diff["files"].as_array().map(Vec::len), Some(1));
    assert_eq!(
        (&diff["files"][0]["path"], &diff["files"][0]["kind"]),
        (&json!("b.md"), &json!("added"))
    );
    let live = get(&server, &format!("{MAIN}/diff")).is(200).json();
    assert_eq!((&live["from"], &live["to"]), (&json!(b), &json!("live")));
    assert!(live["files"][0]["patch"].as_str().unwrap().contains("+live\n"));
    let stat = get(&server, &format!("{MAIN}/diff?from={a}&to=live&stat=true&path=b.md"))
        .is(200)
        .json();
    assert_eq!(
        (&stat["files"][0]["added"], stat["files"][0].get("patch")),
        (&json!(2), None)
    );

    // Files and directories at a checkpoint.
    let file = get(&server, &format!("{MAIN}/files/src/a.rs?at={a}")).is(200);
    assert_eq!(
        (file.text().as_str(), file.header("gitstead-mode")),
        ("a\n", Some("100644"))
    );
    assert_eq!(file.header("content-type"), Some("application/octet-stream"));
    assert_eq!(file.header("gitstead-commit"), Some(a.as_str()));
    assert_eq!(get(&server, &format!("{MAIN}/files/b.md")).is(200).text(), "b\n");
    get(&server, &format!("{MAIN}/files/b.md?at={a}")).fails(404, "not_found");
    get(&server, &format!("{MAIN}/files/src")).fails(400, "bad_request");
    let tree = get(&server, &format!("{MAIN}/tree?limit=1")).is(200).json();
    assert_eq!(
        (&tree["entries"][0]["path"], &tree["entries"][0]["kind"]),
        (&json!("b.md"), &json!("file"))
    );
    let next = tree["next"].as_str().unwrap();
    let tree = get(&server, &format!("{MAIN}/tree?after={next}")).is(200).json();
    assert_eq!(
        (&tree["entries"][0]["path"], &tree["next"]),
        (&json!("src"), &Value::Null)
    );
    let tree = get(&server, &format!("{MAIN}/tree/src")).is(200).json();
    assert_eq!(
        (&tree["entries"][0]["path"], &tree["entries"][0]["size"]),
        (&json!("src/a.rs"), &json!(2))
    );
}

#[test]
fn names_that_are_no_text_are_reached_by_their_bytes() {
    use std::os::unix::ffi::OsStrExt as _;
    let (server, root) = begin();
    let name = std::ffi::OsStr::from_bytes(b"caf\xe9 %41.txt");
    fs::write(root.join(name), "latin\n").unwrap();
    let made = post(&server, &format!("{MAIN}/checkpoints"), json!({ "summary": "latin" }))
        .is(201)
        .json();
    let encoded = made["changes"][0]["path_encoded"].as_str().unwrap();
    assert_eq!(encoded, "caf%E9%20%2541.txt");
    assert_eq!(
        get(&server, &format!("{MAIN}/files/{encoded}")).is(200).text(),
        "latin\n"
    );
}

#[test]
fn restore_and_undo_over_the_wire_lose_nothing() {
    let (server, root) = begin();
    let git = Git::new();
    fs::write(root.join("a"), "one\n").unwrap();
    let one = record(&server, "Write", "one");
    fs::write(root.join("a"), "two\n").unwrap();
    let two = record(&server, "Edit", "two");
    fs::write(root.join("new"), "unsaved\n").unwrap();
    let dry = json!({ "checkpoint": one, "dry_run": true });
    let dry = post(&server, &format!("{MAIN}/restore"), dry).is(200).json();
    assert_eq!(
        (&dry["changed"], &dry["was_unsaved"], &dry["commit"]),
        (&json!(2), &json!(true), &Value::Null)
    );
    let body = json!({ "checkpoint": one, "paths": ["a"], "agent": "boss", "summary": "Back to one" });
    let back = post(&server, &format!("{MAIN}/restore"), body).is(200).json();
    assert!(back["commit"].is_string() && back["saved"].is_string(), "{back}");
    assert_eq!(fs::read_to_string(root.join("a")).unwrap(), "one\n");
    assert_eq!(fs::read_to_string(root.join("new")).unwrap(), "unsaved\n");
    assert_eq!(git.ok(&root, "log -1 --format=%an%x20%s"), "boss [Restore] Back to one");
    let undone = post(&server, &format!("{MAIN}/undo"), json!({ "checkpoint": "HEAD" }))
        .is(200)
        .json();
    assert_eq!(undone["changes"][0]["path"], "a");
    assert_eq!(fs::read_to_string(root.join("a")).unwrap(), "two\n");
    fs::write(root.join("a"), "three\n").unwrap();
    record(&server, "Edit", "three");
    let refused = post(&server, &format!("{MAIN}/undo"), json!({ "checkpoint": two }));
    refused.fails(409, "conflict");
    assert_eq!(refused.json()["conflicts"][0]["path"], "a");
    assert_eq!(fs::read_to_string(root.join("a")).unwrap(), "three\n");
    settles(&git, &root, "");

    let branch = post(
        &server,
        &format!("{MAIN}/branches"),
        json!({ "name": "try", "checkpoint": one }),
    )
    .is(201)
    .json();
    assert_eq!(branch, json!({ "branch": "refs/heads/try", "commit": one }));
    let squash = json!({ "branch": "clean", "message": "All of it" });
    let squash = post(&server, &format!("{MAIN}/squash"), squash).is(201).json();
    assert_eq!(git.ok(&root, "rev-parse clean"), squash["commit"]);
    git.fsck(server.repos().join("team/app.git"));
}

#[test]
fn workspaces_come_and_go() {
    let (server, root) = begin();
    fs::write(root.join("a"), "a\n").unwrap();
    let a = record(&server, "Write", "a");
    let made = post(&server, "team%2Fapp", json!({ "name": "session-7" }))
        .is(201)
        .json();
    assert_eq!(
        (&made["branch"], &made["commit"], &made["state"]),
        (&json!("refs/heads/session-7"), &json!(a), &json!("ready"))
    );
    post(&server, "team%2Fapp", json!({ "name": "old", "at": "HEAD~1" })).is(201);
    post(&server, "fork", json!({ "name": "main", "fork": "team/app" })).is(201);
    assert_eq!(
        fs::read_to_string(server.data().join("work/fork/main/a")).unwrap(),
        "a\n"
    );
    let list = get(&server, "team%2Fapp").is(200).json();
    let names: Vec<_> = list["workspaces"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["name"].clone())
        .collect();
    assert_eq!(names, ["main", "old", "session-7"]);

    let other = server.data().join("work/team/app/session-7");
    fs::write(other.join("b"), "unsaved\n").unwrap();
    delete(&server, "team%2Fapp/session-7").fails(409, "unsaved");
    delete(&server, "team%2Fapp/session-7?unsaved=checkpoint").is(204);
    assert!(!other.exists());
    let git = Git::new();
    assert_eq!(
        git.ok(server.repos().join("team/app.git"), "show session-7:b"),
        "unsaved"
    );
    get(&server, "team%2Fapp/session-7").fails(404, "not_found");
    post(&server, "team%2Fapp/session-7/checkpoints", json!({ "summary": "x" })).fails(404, "not_found");
    // Again, on the branch that is there.
    post(
        &server,
        "team%2Fapp",
        json!({ "name": "session-7", "from": "session-7" }),
    )
    .is(201);
    assert_eq!(fs::read_to_string(other.join("b")).unwrap(), "unsaved\n");
    fs::write(other.join("c"), "gone\n").unwrap();
    post(
        &server,
        "team%2Fapp/session-7/checkpoints",
        json!({ "summary": "in the new one" }),
    )
    .is(201);
    fs::write(other.join("d"), "gone\n").unwrap();
    delete(&server, "team%2Fapp/session-7?unsaved=discard").is(204);
}

#[test]
fn a_watched_workspace_is_kept_open_and_shutting_down_loses_nothing() {
    let (server, root) = begin();
    for n in 0..30 {
        fs::write(root.join(format!("f{n}")), "x\n").unwrap();
    }
    record(&server, "Bash", "made them");
    fs::write(root.join("f7"), "y\n").unwrap();
    let made = post(&server, &format!("{MAIN}/checkpoints"), json!({ "summary": "one" }))
        .is(201)
        .json();
    assert_eq!(
        (&made["looked"], &made["changed"]),
        (&json!("watch"), &json!(1)),
        "{made}"
    );
    // Somebody else takes it away and makes another of that name.
    let git = Git::new();
    let repo = server.repos().join("team/app.git");
    git.ok(&repo, &format!("worktree remove --force {}", root.display()));
    post(&server, &format!("{MAIN}/checkpoints"), json!({ "summary": "x" })).fails(404, "not_found");
    git.ok(&repo, &format!("worktree add -q {} main", root.display()));
    fs::write(root.join("f8"), "z\n").unwrap();
    let made = post(&server, &format!("{MAIN}/checkpoints"), json!({ "summary": "two" }))
        .is(201)
        .json();
    assert_eq!(made["changes"][0]["path"], "f8");
    assert_eq!(made["changed"], 1);
    let (code, said) = server.terminate();
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn many_at_once_take_turns() {
    let (server, root) = begin();
    std::thread::scope(|scope| {
        for n in 0..12 {
            let (server, root) = (&server, &root);
            scope.spawn(move || {
                fs::write(root.join(format!("f{n}")), "x\n").unwrap();
                record(server, "Write", &format!("f{n}"));
            });
        }
    });
    let log = get(&server, &format!("{MAIN}/checkpoints")).is(200).json();
    assert_eq!(log["checkpoints"].as_array().map(Vec::len), Some(13));
    let git = Git::new();
    settles(&git, &root, "");
    assert_eq!(git.ok(&root, "ls-files").lines().count(), 12);
}

#[test]
fn wrong_requests_are_told_what_is_wrong() {
    let (server, root) = begin();
    fs::write(root.join("a"), "a\n").unwrap();
    record(&server, "Write", "a");
    let p = |rest: &str, body: Value| post(&server, &format!("{MAIN}{rest}"), body);
    p("/checkpoints", json!({})).fails(400, "bad_request");
    p("/checkpoints", json!({ "summary": "x", "outcome": "good" })).fails(400, "bad_request");
    p("/checkpoints", json!({ "summary": "x", "unknown": 1 })).fails(400, "bad_request");
    p("/restore", json!({ "checkpoint": "nonsense" })).fails(404, "not_found");
    p("/restore", json!({ "checkpoint": "HEAD", "paths": ["nothing"] })).fails(404, "not_found");
    p("/undo", json!({ "checkpoint": "HEAD", "paths": ["a"] })).fails(400, "bad_request");
    p("/branches", json!({ "name": "a..b" })).fails(409, "conflict");
    p("/branches", json!({ "name": "main" })).fails(409, "conflict");
    for (path, status, code) in [
        ("team%2Fapp/main/checkpoints?cursor=x", 400, "bad_request"),
        ("team%2Fapp/main/checkpoints?unknown=1", 400, "bad_request"),
        ("team%2Fapp/main/checkpoints/nonsense", 404, "not_found"),
        ("team%2Fapp/main/files/..%2F..%2Fetc%2Fpasswd", 404, "not_found"),
        ("team%2Fapp/..%2Fmain/checkpoints", 400, "bad_name"),
        ("..%2Fx/main/checkpoints", 400, "bad_name"),
        ("nobody/main/checkpoints", 404, "not_found"),
        ("team/app/main/checkpoints", 404, "not_found"),
        ("team%2Fapp/other", 404, "not_found"),
    ] {
        get(&server, path).fails(status, code);
    }
    post(&server, "team%2Fapp", json!({ "name": "main" })).fails(409, "exists");
    post(&server, "team%2Fapp", json!({ "name": "a/b" })).fails(400, "bad_name");
    post(&server, "team%2Fapp", json!({ "name": "x", "task": "y" })).fails(409, "conflict");
    post(&server, "team%2Fapp", json!({ "name": "x", "task": "y", "fork": "z" })).fails(400, "bad_request");
    post(&server, "nobody", json!({ "name": "x" })).fails(404, "not_found");
    let wrong = ask_as(&server, None, "PUT", &format!("{MAIN}/checkpoints"), None);
    wrong.fails(405, "method_not_allowed");
    assert_eq!(wrong.header("allow"), Some("GET, HEAD, POST"));
    assert_eq!(get(&server, &format!("{MAIN}/undo")).header("allow"), Some("POST"));
    // What is wrong inside is in the log, not in the answer.
    fs::write(root.join(".git"), "gitdir: /nowhere\n").unwrap();
    let broken = p("/checkpoints", json!({ "summary": "x" }));
    assert!(broken.status >= 404, "{}", broken.text());
    assert!(!broken.text().contains('/'), "{}", broken.text());
}

#[test]
fn readers_read_and_only_writers_change() {
    let (reader, writer, other) = (
        "reader-token-0123456789",
        "writer-token-0123456789",
        "other-token-01234567890",
    );
    let entry = |name: &str, token: &str, repos: &str, access: &str| {
        format!(
            "[[tokens]]\nname = \"{name}\"\nhash = \"{}\"\nrepos = [\"{repos}\"]\naccess = \"{access}\"\n",
            TokenHash::of(token)
        )
    };
    let config = [
        entry("r", reader, "team/**", "read"),
        entry("w", writer, "team/**", "write"),
        entry("o", other, "elsewhere", "write"),
    ];
    let server = Server::with(ServerOptions {
        config: Some(config.concat()),
        ..ServerOptions::default()
    });
    let as_writer = |method: &str, path: &str, body: Option<&Value>| ask_as(&server, Some(writer), method, path, body);
    as_writer("POST", "team%2Fapp", Some(&json!({ "name": "main", "task": "t" }))).is(201);
    let checkpoint = json!({ "summary": "x" });
    let back = json!({ "checkpoint": "HEAD" });
    let name = json!({ "name": "x", "branch": "y" });
    let (plain, squash) = (json!({ "name": "x" }), json!({ "branch": "z" }));
    let changes: [(&str, &str, Option<&Value>); 7] = [
        ("POST", "team%2Fapp/main/checkpoints", Some(&checkpoint)),
        ("POST", "team%2Fapp/main/restore", Some(&back)),
        ("POST", "team%2Fapp/main/undo", Some(&back)),
        ("POST", "team%2Fapp/main/branches", Some(&plain)),
        ("POST", "team%2Fapp/main/squash", Some(&squash)),
        ("POST", "team%2Fapp", Some(&name)),
        ("DELETE", "team%2Fapp/main?unsaved=discard", None),
    ];
    let looks = [
        "team%2Fapp",
        "team%2Fapp/main",
        "team%2Fapp/main/checkpoints",
        "team%2Fapp/main/checkpoints/HEAD",
        "team%2Fapp/main/diff",
        "team%2Fapp/main/tree",
    ];
    for path in looks {
        ask_as(&server, Some(reader), "GET", path, None).is(200);
        ask_as(&server, None, "GET", path, None).fails(401, "unauthorized");
        ask_as(&server, Some(other), "GET", path, None).fails(404, "not_found");
    }
    for (method, path, body) in changes {
        ask_as(&server, Some(reader), method, path, body).fails(403, "forbidden");
        ask_as(&server, Some(other), method, path, body).fails(404, "not_found");
        ask_as(&server, None, method, path, body).fails(401, "unauthorized");
    }
    // A fork needs to be let in at both ends.
    let fork = json!({ "name": "main", "fork": "team/app" });
    ask_as(&server, Some(other), "POST", "elsewhere", Some(&fork)).fails(404, "not_found");
    assert!(server.data().join("work/team/app/main").exists());
    as_writer("POST", "team%2Fapp/main/checkpoints", Some(&checkpoint)).is(201);
    as_writer("DELETE", "team%2Fapp/main", None).is(204);
}

#[test]
fn the_workspaces_of_all_repositories_are_listed() {
    let (server, _) = begin();
    for (repository, name) in [("alone", "main"), ("team%2Fapp", "beside")] {
        let task = (repository == "alone").then_some("work");
        post(&server, repository, json!({ "name": name, "task": task })).is(201);
    }
    let names = |list: &Value| -> Vec<String> {
        let list = list["workspaces"].as_array().unwrap();
        list.iter()
            .map(|one| {
                format!(
                    "{}/{}",
                    one["repository"].as_str().unwrap(),
                    one["name"].as_str().unwrap()
                )
            })
            .collect()
    };
    let all = get(&server, "").is(200).json();
    assert_eq!(names(&all), ["alone/main", "team/app/beside", "team/app/main"]);
    assert_eq!(
        (&all["next"], &all["workspaces"][0]["state"]),
        (&Value::Null, &json!("ready"))
    );
    assert_eq!(
        names(&get(&server, "?after=alone").is(200).json()),
        ["team/app/beside", "team/app/main"]
    );
    let wrong = ask_as(&server, None, "DELETE", "", None).is(405);
    assert_eq!(wrong.header("allow"), Some("GET, HEAD"));
}

#[test]
fn a_restore_names_the_commit_and_not_the_word_for_it() {
    let (server, root) = begin();
    fs::write(root.join("a"), "one\n").unwrap();
    let one = record(&server, "Write", "one");
    fs::write(root.join("a"), "two\n").unwrap();
    record(&server, "Write", "two");
    let body = json!({ "checkpoint": "HEAD~1", "agent": "boss" });
    post(&server, &format!("{MAIN}/restore"), body).is(200);
    let said = Git::new().ok(&root, "log -1 --format=%s");
    assert_eq!(said, format!("[Restore] Restored {}", &one[..10]));
}
