//! Hooks of agents that we did not start, and the server that has their workspace open.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::{
        fs::PermissionsExt as _,
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::support::{Git, Server, ServerOptions, wire::request};

/// A server with one workspace, `app/main`.
fn house() -> (Server, PathBuf) {
    let server = Server::start();
    let body = json!({ "name": "main", "task": "Try hooks" }).to_string();
    let headers = [("Content-Type", "application/json")];
    let made = request(&server, "POST", "/api/v1/workspaces/app", &headers, body.as_bytes());
    assert_eq!(made.status, 201, "{}", made.text());
    let root = server.data().join("work/app/main").canonicalize().unwrap();
    (server, root)
}

struct Said {
    code: Option<i32>,
    out: String,
    err: String,
    took: Duration,
}

fn hook(root: &Path, args: &[&str], file: &str) -> Said {
    let event = json!({
        "session_id": "0835", "cwd": root, "hook_event_name": "PostToolUse", "tool_name": "Write", "tool_use_id": "toolu_01",
        "tool_input": { "file_path": root.join(file) }, "tool_response": { "type": "create" }, "agent_id": "sub-1"
    });
    let began = Instant::now();
    let mut child = Command::new(env!("CARGO_BIN_EXE_gitstead"))
        .env_clear()
        .env("HOME", "/nonexistent")
        .args(["hook", "claude-code"])
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(event.to_string().as_bytes())
        .unwrap();
    let out = child.wait_with_output().unwrap();
    Said {
        code: out.status.code(),
        out: String::from_utf8(out.stdout).unwrap(),
        err: String::from_utf8(out.stderr).unwrap(),
        took: began.elapsed(),
    }
}

fn frame(value: &Value) -> Vec<u8> {
    let text = value.to_string();
    [&u32::try_from(text.len()).unwrap().to_be_bytes()[..], text.as_bytes()].concat()
}

fn read_frame(stream: &mut UnixStream) -> Option<Value> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).ok()?;
    let mut text = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

#[test]
fn the_server_that_has_the_workspace_open_makes_the_checkpoint() {
    let (server, root) = house();
    let git = Git::new();
    let socket = server.data().join("hook.sock");
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    for (n, file) in ["a.md", "b.md"].into_iter().enumerate() {
        fs::write(root.join(file), "hello\n").unwrap();
        let said = hook(&root, &[], file);
        assert_eq!((said.code, said.out.as_str(), said.err.as_str()), (Some(0), "", ""));
        assert_eq!(git.ok(&root, "rev-list --count HEAD"), (n + 2).to_string());
    }
    let message = git.ok(&root, "log -1 --format=%an%n%B");
    assert_eq!(
        message.trim_end(),
        "claude-code\n[Write] Created b.md\n\nAgent: claude-code\nSession: 0835\nTool-Use-Id: toolu_01\nOutcome: ok\nSource: hook\nSubagent: sub-1\n\
         Gitstead-Checkpoint: 1"
    );
    // What a server decides for all of its workspaces is not decided by a hook: that one it makes itself.
    fs::write(root.join("c.md"), "hello\n").unwrap();
    assert_eq!(hook(&root, &["--durability", "each"], "c.md").code, Some(0));
    assert_eq!(git.ok(&root, "log -1 --format=%s"), "[Write] Created c.md");
    let (code, log) = server.terminate();
    assert_eq!(code, Some(0));
    assert_eq!(log.matches("a hook's checkpoint").count(), 2, "{log}");
    assert!(!socket.exists());
}

#[test]
fn without_an_answer_the_hook_makes_it_itself() {
    let (server, root) = house();
    let git = Git::new();
    let pid = rustix::process::Pid::from_raw(i32::try_from(server.pid()).unwrap()).unwrap();
    let count = |expected: &str| assert_eq!(git.ok(&root, "rev-list --count HEAD"), expected);
    // A server that hangs.
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    fs::write(root.join("a.md"), "hello\n").unwrap();
    let said = hook(&root, &[], "a.md");
    assert_eq!((said.code, said.err.as_str()), (Some(0), ""));
    count("2");
    assert!(said.took < Duration::from_secs(20), "{:?}", said.took);
    rustix::process::kill_process(pid, rustix::process::Signal::CONT).unwrap();
    // One that was killed, whose socket is still there.
    let data = server.kill();
    let socket = data.path().join("hook.sock");
    assert!(socket.exists());
    fs::write(root.join("b.md"), "hello\n").unwrap();
    assert_eq!(hook(&root, &[], "b.md").err, "");
    // The request of the hook that did not wait may have been heard after all, which records nothing new about files.
    assert_eq!(git.ok(&root, "log -1 --format=%s"), "[Write] Created b.md");
    // Another one on the same data takes the door over.
    let server = Server::on(data, ServerOptions::default());
    fs::write(root.join("c.md"), "hello\n").unwrap();
    assert_eq!(hook(&root, &[], "c.md").err, "");
    let (_, log) = server.terminate();
    assert_eq!(log.matches("a hook's checkpoint").count(), 1, "{log}");
}

#[test]
fn who_answers_nonsense_or_breaks_off_stops_nobody() {
    let git = Git::new();
    let data = git.path("data");
    let root = data.join("work/app/main");
    fs::create_dir_all(&root).unwrap();
    git.ok(&root, "init -q");
    let listener = UnixListener::bind(data.join("hook.sock")).unwrap();
    let huge = (u32::MAX).to_be_bytes().to_vec();
    let taken = frame(&json!("taken"));
    let replies: Vec<Vec<u8>> = vec![
        Vec::new(),
        b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(),
        huge,
        frame(&json!({ "nonsense": 1 })),
        frame(&json!("yours")),
        taken.clone(),
        [&taken[..], &frame(&json!("yours"))].concat(),
        [&taken[..], &7u32.to_be_bytes(), b"half"].concat(),
    ];
    let count = replies.len();
    let server = std::thread::spawn(move || {
        for reply in replies {
            let (mut stream, _) = listener.accept().unwrap();
            let ask = read_frame(&mut stream).expect("a question");
            assert_eq!(ask["wish"]["tool"], "Write");
            stream.write_all(&reply).unwrap();
        }
        // Told why, the hook tells the agent.
        let (mut stream, _) = listener.accept().unwrap();
        read_frame(&mut stream).expect("a question");
        let failed = frame(&json!({ "failed": "the disk is full" }));
        stream.write_all(&[frame(&json!("taken")), failed].concat()).unwrap();
    });
    for n in 0..count {
        let file = format!("{n}.md");
        fs::write(root.join(&file), "hello\n").unwrap();
        let said = hook(&root, &[], &file);
        assert_eq!((said.code, said.err.as_str()), (Some(0), ""), "reply {n}");
        assert_eq!(git.ok(&root, "rev-list --count HEAD"), (n + 1).to_string(), "reply {n}");
    }
    let said = hook(&root, &[], "x.md");
    assert_eq!(said.code, Some(0));
    assert!(
        said.out.contains("systemMessage") && said.err.contains("the disk is full"),
        "{}",
        said.err
    );
    server.join().unwrap();
}

#[test]
fn the_door_takes_no_long_words_and_no_other_directories() {
    let (server, root) = house();
    let ask = |bytes: &[u8]| {
        let mut stream = UnixStream::connect(server.data().join("hook.sock")).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream.write_all(bytes).unwrap();
        let first = read_frame(&mut stream);
        (first, read_frame(&mut stream))
    };
    assert_eq!(ask(&u32::MAX.to_be_bytes()), (None, None));
    assert_eq!(ask(&frame(&json!({ "root": root }))), (None, None));
    let wish = |root: &Path| frame(&json!({ "root": root, "wish": { "summary": "Something" } }));
    assert_eq!(ask(&wish(Path::new("/etc"))), (Some(json!("yours")), None));
    let nobody = root.with_file_name("nobody");
    assert_eq!(ask(&wish(&nobody)), (Some(json!("taken")), Some(json!("yours"))));
    assert_eq!(ask(&wish(&root)), (Some(json!("taken")), Some(json!({ "done": [] }))));
}
