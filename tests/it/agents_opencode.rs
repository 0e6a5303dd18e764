//! The server of opencode, played by this test: the agent is a shell that says where it listens, and knows the password.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
};

use base64::Engine as _;
use serde_json::{Value, json};

use crate::support::{Git, agents::House, wire::eventually};

const PLAYER: &str = r#"#!/bin/sh
here=$(dirname "$0")
echo "$@" >> "$here/arguments"
printf %s "$OPENCODE_SERVER_USERNAME:$OPENCODE_SERVER_PASSWORD" > "$here/login"
echo "Warning: this is for people"
echo "opencode server listening on http://127.0.0.1:$(cat "$here/port")"
exec sleep 1000
"#;

#[derive(Default)]
struct Book {
    /// Method, path and body of what was asked, in its order.
    asked: Vec<(String, String, String)>,
    /// The stream of events, if somebody listens.
    events: Option<TcpStream>,
    listened: usize,
    /// A turn that waits for its answer.
    turn: Option<TcpStream>,
    /// What is in the session.
    messages: String,
    is_gone: bool,
    strangers: usize,
}

/// A server of one session `ses_1`.
struct Fake {
    house: House,
    book: Arc<Mutex<Book>>,
}

fn answer(stream: &mut TcpStream, status: &str, body: &str) {
    let _ = write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nContent-Type: application/json\r\n\r\n{body}",
        body.len()
    );
}

fn serve(mut stream: TcpStream, book: &Mutex<Book>, login: &std::path::Path) {
    let mut lines = BufReader::new(stream.try_clone().unwrap());
    let (mut first, mut line, mut length, mut is_known) = (String::new(), String::new(), 0, false);
    if lines.read_line(&mut first).unwrap_or(0) == 0 {
        return;
    }
    loop {
        line.clear();
        if lines.read_line(&mut line).unwrap_or(0) == 0 || line == "\r\n" {
            break;
        }
        if let Some(number) = line.strip_prefix("Content-Length: ") {
            length = number.trim().parse().unwrap();
        }
        if let Some(told) = line.strip_prefix("Authorization: Basic ") {
            let login = fs::read(login).unwrap_or_default();
            is_known = base64::engine::general_purpose::STANDARD.decode(told.trim()).unwrap() == login;
        }
    }
    let mut body = vec![0; length];
    lines.read_exact(&mut body).unwrap();
    let words: Vec<&str> = first.split(' ').collect();
    let (method, path) = (words[0].to_owned(), words[1].to_owned());
    let mut book = book.lock().unwrap();
    if !is_known {
        book.strangers += 1;
        return answer(&mut stream, "401 Unauthorized", "");
    }
    match (method.as_str(), path.as_str()) {
        ("GET", "/event") => {
            let _ = stream
                .write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: text/event-stream\r\n\r\n");
            book.events = Some(stream);
            book.listened += 1;
            drop(book);
            return;
        }
        ("POST", "/session") => answer(&mut stream, "200 OK", r#"{"id":"ses_1"}"#),
        ("GET", "/session/ses_1") if book.is_gone => answer(&mut stream, "404 Not Found", ""),
        ("GET", "/session/ses_1") => answer(&mut stream, "200 OK", r#"{"id":"ses_1"}"#),
        ("GET", "/session/ses_1/message") => answer(&mut stream, "200 OK", &book.messages),
        ("POST", "/session/ses_1/message") => book.turn = Some(stream),
        _ => answer(&mut stream, "200 OK", "true"),
    }
    book.asked.push((method, path, String::from_utf8(body).unwrap()));
}

impl Fake {
    fn start() -> Self {
        let house = House::start();
        let data = house.server.data().to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        fs::write(data.join("port"), listener.local_addr().unwrap().port().to_string()).unwrap();
        let player = data.join("opencode");
        fs::write(&player, PLAYER).unwrap();
        fs::set_permissions(&player, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let book = Arc::new(Mutex::new(Book {
            messages: "[]".to_owned(),
            ..Book::default()
        }));
        let of_server = Arc::clone(&book);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (book, login) = (Arc::clone(&of_server), data.join("login"));
                let Ok(stream) = stream else { return };
                std::thread::spawn(move || serve(stream, &book, &login));
            }
        });
        Fake { house, book }
    }

    fn book(&self) -> std::sync::MutexGuard<'_, Book> {
        self.book.lock().unwrap()
    }

    fn agent(&self, more: Value) {
        let player = self.house.server.data().join("opencode");
        let mut body = json!({
            "name": "it", "repository": "demo", "preset": "opencode-server", "argv": [player], "inherit": ["HOUSE"], "task": "Build",
            "ladder": { "interrupt_ms": 200, "end_of_input_ms": 200, "terminate_ms": 300 },
        });
        for (key, value) in more.as_object().into_iter().flatten() {
            body[key] = value.clone();
        }
        self.house.ask("POST", "", Some(&body)).is(201);
    }

    /// Tells an event.
    fn tell(&self, kind: &str, properties: Value) {
        let data = format!("data: {}\n\n", json!({ "type": kind, "properties": properties }));
        let mut book = self.book();
        let stream = book.events.as_mut().expect("somebody listens");
        // In two pieces, so that a line is cut.
        for part in [&data[..9], &data[9..]] {
            write!(stream, "{:x}\r\n{part}\r\n", part.len()).unwrap();
        }
    }

    fn part(&self, part: Value) {
        self.tell("message.part.updated", json!({ "part": part }));
    }

    fn asked(&self, method: &str, path: &str) -> Vec<String> {
        let book = self.book();
        let of = book.asked.iter().filter(|one| one.0 == method && one.1 == path);
        of.map(|one| one.2.clone()).collect()
    }

    fn wait_for(&self, method: &str, path: &str, times: usize) -> String {
        eventually(&format!("{method} {path}"), || self.asked(method, path).len() >= times);
        self.asked(method, path).pop().unwrap()
    }

    fn count(&self, kind: &str) -> usize {
        self.house.kinds("it").iter().filter(|one| *one == kind).count()
    }
}

fn tool(call: &str, tool: &str, state: Value) -> Value {
    json!({ "id": format!("prt_{call}"), "type": "tool", "tool": tool, "callID": call, "sessionID": "ses_1", "messageID": "msg_2", "state": state })
}

fn done(description: &str) -> Value {
    json!({ "status": "completed", "input": { "command": "make", "description": description }, "metadata": { "exit": 0 }, "title": description })
}

#[test]
fn rules_answer_what_its_server_asks() {
    let fake = Fake::start();
    let rules = json!([
        { "decision": "deny", "tool": "bash", "matches": "rm *" },
        { "decision": "allow", "tool": "Bash", "matches": "git *" },
        { "decision": "allow", "tool": "edit", "matches": "src/*" },
    ]);
    fake.agent(json!({ "message": "go", "permissions": rules }));
    fake.wait_for("POST", "/session/ses_1/message", 1);
    fake.tell("server.connected", json!({}));
    let busy = json!({ "sessionID": "ses_1", "status": { "type": "busy" } });
    fake.tell("session.status", busy);
    // It names each command of a line by itself, and not all of them: what its tool was told of is what counts.
    for (call, command) in [("c1", "git status"), ("c5", "cd /etc && git status")] {
        let state = json!({ "status": "running", "input": { "command": command, "description": "Look" } });
        fake.part(tool(call, "bash", state));
    }
    for (id, kind, call, patterns, response) in [
        ("per_1", "bash", "c1", json!(["git status"]), "once"),
        ("per_2", "bash", "c2", json!(["git status", "rm x"]), "reject"),
        ("per_3", "edit", "c3", json!(["src/a.rs"]), "once"),
    ] {
        let asked = json!({ "id": id, "sessionID": "ses_1", "permission": kind, "patterns": patterns, "tool": { "callID": call } });
        fake.tell("permission.asked", asked);
        assert_eq!(
            fake.wait_for("POST", &format!("/session/ses_1/permissions/{id}"), 1),
            format!(r#"{{"response":"{response}"}}"#)
        );
    }
    let asked =
        json!({ "id": "per_4", "sessionID": "ses_1", "permission": "edit", "patterns": ["src/a.rs", "src/../../x"] });
    fake.tell("permission.asked", asked);
    for (id, call) in [("per_5", "c5"), ("per_6", "c6")] {
        let asked = json!({ "id": id, "sessionID": "ses_1", "permission": "bash", "patterns": ["git status"], "tool": { "callID": call } });
        fake.tell("permission.asked", asked);
    }
    eventually("somebody is asked", || {
        fake.house.get("/it/permissions")["permissions"]
            .as_array()
            .is_some_and(|open| open.len() == 3)
    });
    fake.house.post("/it/interrupt");
    assert_eq!(
        fake.wait_for("POST", "/session/ses_1/permissions/per_4", 1),
        r#"{"response":"reject"}"#
    );
    let events = fake.house.events("it");
    let of = |kind: &str| events.iter().filter(|event| event["type"] == kind).count();
    assert_eq!(
        (of("permission"), of("permission_decided"), of("permission_gone")),
        (6, 3, 3)
    );
    fake.house.post("/it/kill");
    fake.house.ended("it");
}

#[test]
fn a_turn_over_its_server_is_recorded_also_what_was_told_while_nobody_listened() {
    let fake = Fake::start();
    fake.agent(json!({ "message": "build it", "model": "mock/large", "partial": true }));
    let turn = fake.wait_for("POST", "/session/ses_1/message", 1);
    assert!(
        turn.contains(r#""modelID":"large""#) && turn.contains("build it"),
        "{turn}"
    );
    fake.tell("server.connected", json!({}));
    fake.tell(
        "session.status",
        json!({ "sessionID": "ses_1", "status": { "type": "busy" } }),
    );
    fake.part(tool(
        "c0",
        "bash",
        json!({ "status": "running", "input": { "command": "make", "description": "Build" } }),
    ));
    fake.tell(
        "permission.asked",
        json!({ "id": "per_1", "sessionID": "ses_1", "permission": "bash", "patterns": ["make"], "tool": { "callID": "c0" } }),
    );
    eventually("it asks", || fake.count("permission") == 1);
    let events = fake.house.events("it");
    let asked = events.iter().find(|event| event["type"] == "permission").unwrap();
    let path = format!("/it/permissions/{}", asked["request"].as_str().unwrap());
    fake.house
        .ask("POST", &path, Some(&json!({ "decision": "allow" })))
        .is(204);
    assert_eq!(
        fake.wait_for("POST", "/session/ses_1/permissions/per_1", 1),
        r#"{"response":"once"}"#
    );
    fs::write(fake.house.files().join("built"), "x").unwrap();
    fake.part(tool("c0", "bash", done("Build")));
    eventually("it is recorded", || fake.count("checkpoint") == 1);
    fake.tell(
        "message.part.delta",
        json!({ "sessionID": "ses_1", "partID": "prt_t", "field": "text", "delta": "Bui" }),
    );
    eventually("a piece of it is told", || fake.count("piece") == 1);
    // The stream breaks off, and something happens meanwhile.
    fs::write(fake.house.files().join("more"), "y").unwrap();
    {
        let mut book = fake.book();
        let text = json!({ "type": "text", "id": "prt_t", "text": "Built.", "sessionID": "ses_1", "messageID": "msg_2", "time": { "end": 1 } });
        book.messages =
            json!([{ "info": { "role": "assistant" }, "parts": [tool("c1", "bash", done("Build more")), text] }])
                .to_string();
        drop(book.events.take());
    }
    eventually("it listens again", || fake.book().listened == 2);
    fake.tell("server.connected", json!({}));
    eventually("that is recorded, too", || fake.count("checkpoint") == 2);
    // The end of the turn is told by its answer alone.
    let mut stream = fake.book().turn.take().unwrap();
    answer(&mut stream, "200 OK", "{}");
    eventually("the turn ends", || fake.count("turn_ended") == 1);
    let events = fake.house.events("it");
    let ended = events.iter().find(|event| event["type"] == "turn_ended").unwrap();
    assert_eq!(
        (&ended["outcome"], &ended["text"]),
        (&json!("completed"), &json!("Built."))
    );
    assert_eq!(fake.book().strangers, 0);
    let arguments = fs::read_to_string(fake.house.server.data().join("arguments")).unwrap();
    assert_eq!(arguments, "serve --hostname 127.0.0.1 --port 0\n");
    let git = Git::new();
    git.ok(
        git.dir(),
        &format!("clone -q {} copy", fake.house.server.repo_url("demo")),
    );
    let log = git.ok(git.path("copy"), "log --format=%an:%s");
    assert_eq!(
        log.lines().collect::<Vec<_>>(),
        [
            "it:[Bash] Build more",
            "it:[Bash] Build",
            "Gitstead:Initial task: Build"
        ]
    );
    // Its password is in nothing that is shown.
    let login = fs::read_to_string(fake.house.server.data().join("login")).unwrap();
    let password = login.split_once(':').unwrap().1;
    assert_eq!(password.len(), 32);
    assert!(!fake.house.get("/it").to_string().contains(password));
    fake.house.post("/it/kill");
    fake.house.ended("it");
}

#[test]
fn a_session_of_its_server_is_gone_on_with_or_begun_anew_and_a_turn_can_be_interrupted() {
    let fake = Fake::start();
    fake.agent(json!({}));
    let up = |run: u64| {
        eventually("it is ready", || {
            let agent = fake.house.get("/it");
            agent["run"] == run && agent["state"] == "ready"
        });
    };
    up(1);
    fake.house.post("/it/kill");
    fake.house.ended("it");
    fake.house.post("/it/start");
    up(2);
    assert_eq!(
        fake.asked("POST", "/session").len(),
        1,
        "it goes on with the one that it had"
    );
    fake.house
        .ask("POST", "/it/ask", Some(&json!({ "message": "go" })))
        .is(202);
    fake.wait_for("POST", "/session/ses_1/message", 1);
    fake.house.ask("POST", "/it/interrupt", None).is(202);
    fake.wait_for("POST", "/session/ses_1/abort", 1);
    let mut stream = fake.book().turn.take().unwrap();
    answer(&mut stream, "200 OK", "{}");
    eventually("the turn ends", || fake.count("turn_ended") == 1);
    let events = fake.house.events("it");
    let ended = events.iter().find(|event| event["type"] == "turn_ended").unwrap();
    assert_eq!(ended["outcome"], "interrupted");
    fake.house.post("/it/kill");
    fake.house.ended("it");
    fake.book().is_gone = true;
    fake.house.post("/it/start");
    up(3);
    assert_eq!(fake.asked("POST", "/session").len(), 2);
    assert_eq!(fake.count("session_gone"), 1);
    fake.house.post("/it/kill");
    fake.house.ended("it");
}
