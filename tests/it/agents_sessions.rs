//! Conversations with an agent over `/api/v1/agents/{agent}/sessions`: whose they are, what an answer says, streams, who leaves, permissions, histories, bounds.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    path::PathBuf,
    time::Duration,
};

use gitstead::base::TokenHash;
use serde_json::{Value, json};

use crate::support::{Git, ServerOptions, agents::House, wire::eventually};

/// What the agent does is in the question: `hold` waits until it is interrupted or there is a file `go`, `parts` waits for that between two things that it says, `write` uses a tool, `may` asks for permission, `long` says much,
/// `later` goes on with something of its own, `tell` says what is in `$KEY`.
const PLAYER: &str = r##"#!/bin/sh
session=0835f0ad-1b2c-4d3e-8f90-0123456789ab
house=$(dirname "$0")
say() { printf '%s\n' "$1"; }
text() { say '{"type":"assistant","message":{"id":"m'$n'","role":"assistant","content":[{"type":"text","text":"'"$1"'"}]},"session_id":"'$session'","uuid":"a'$n'"}'; }
result() { say '{"session_id":"'$session'","total_cost_usd":0.002,"usage":{"input_tokens":11,"output_tokens":7},"terminal_reason":"'$2'","is_error":'$3',"num_turns":3,"subtype":"'$4'","result":"'"$1"'","type":"result","uuid":"e'$n'"}'; }
n=0
while IFS= read -r line; do
    case "$line" in
    *'"initialize"'*)
        id=$(printf %s "$line" | sed 's/.*"request_id":"\([^"]*\)".*/\1/')
        say '{"type":"control_response","response":{"subtype":"success","request_id":"'$id'","response":{"commands":[],"hooks_applied":true}}}' ;;
    *'"type":"user"'*)
        n=$((n + 1))
        say '{"type":"system","subtype":"init","session_id":"'$session'","model":"mock-1","tools":[],"uuid":"i'$n'"}'
        case "$line" in
        *hold*)
            touch "$house/held"
            while [ ! -e "$house/go" ]; do
                IFS= read -r line || exit 0
                case "$line" in
                *'"interrupt"'*) touch "$house/interrupted"; break ;;
                esac
            done
            text "late $n"
            result "late $n" aborted_tools true error_during_execution ;;
        *die*) exit 1 ;;
        *write*)
            input='{"file_path":"'$PWD'/report.md","content":"x"}'
            say '{"type":"assistant","message":{"id":"t'$n'","role":"assistant","content":[{"type":"tool_use","id":"w'$n'","name":"Write","input":'"$input"'}]},"session_id":"'$session'","uuid":"u'$n'"}'
            echo "# Report $n" > report.md
            say '{"type":"user","message":{"role":"user","content":[{"tool_use_id":"w'$n'","type":"tool_result","content":"x","is_error":false}]},"tool_use_result":{"type":"create","filePath":"'$PWD'/report.md"},"session_id":"'$session'","uuid":"r'$n'"}'
            text "written $n"
            result "written $n" completed false success ;;
        *may*)
            input='{"command":"echo hi","description":"Say hi"}'
            say '{"type":"control_request","request_id":"p'$n'","request":{"subtype":"can_use_tool","tool_name":"Bash","input":'"$input"',"tool_use_id":"w'$n'"}}'
            answer=none
            while IFS= read -r line; do
                case "$line" in
                *'"p'$n'"'*allow*) answer=allowed; break ;;
                *'"p'$n'"'*) answer=denied; break ;;
                esac
            done
            text "$answer"
            result "$answer" completed false success ;;
        *tell*)
            input='{"command":"curl -H '"$KEY"'","description":"Call with '"$KEY"'"}'
            echo "on stderr: $KEY" >&2
            say '{"type":"assistant","message":{"id":"t'$n'","role":"assistant","content":[{"type":"tool_use","id":"w'$n'","name":"Bash","input":'"$input"'}]},"session_id":"'$session'","uuid":"u'$n'"}'
            echo x > called
            say '{"type":"user","message":{"role":"user","content":[{"tool_use_id":"w'$n'","type":"tool_result","content":"x","is_error":false}]},"session_id":"'$session'","uuid":"r'$n'"}'
            say '{"type":"control_request","request_id":"p'$n'","request":{"subtype":"can_use_tool","tool_name":"Bash","input":'"$input"',"tool_use_id":"v'$n'"}}'
            while IFS= read -r line; do
                case "$line" in *'"p'$n'"'*) break ;; esac
            done
            case "$line" in *"curl -H $KEY"*) touch "$house/whole" ;; esac
            text "it is $KEY"
            result "it is $KEY, $(head -c 20000 /dev/zero | tr '\0' x) $KEY" completed false success ;;
        *parts*)
            text "part 1"
            while [ ! -e "$house/go" ]; do sleep 0.02; done
            n=$((n + 1))
            text "part 2"
            result "part 2" completed false success ;;
        *piecemeal*)
            for part in 'All ' 's3cret-' 'value' ' is said.'; do
                say '{"type":"stream_event","event":{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"'"$part"'"}},"parent_tool_use_id":null,"session_id":"'$session'"}'
            done
            text "All s3cret-value is said."
            result "All s3cret-value is said." completed false success ;;
        *later*)
            text "now $n"
            result "now $n" completed false success
            say '{"type":"command_lifecycle","state":"started","uuid":"c'$n'"}' ;;
        *long*)
            text "short"
            result "$(head -c 40000 /dev/zero | tr '\0' x)" completed false success ;;
        *)
            text "answer $n"
            result "answer $n" completed false success ;;
        esac ;;
    esac
done
"##;

pub struct Play {
    pub house: House,
    player: PathBuf,
}

impl Play {
    pub fn with(config: &str, env: &[(&str, String)]) -> Self {
        let data = tempfile::tempdir().unwrap();
        Self::on(data, config, env)
    }

    pub fn on(data: tempfile::TempDir, config: &str, env: &[(&str, String)]) -> Self {
        let player = data.path().join("claude");
        fs::write(&player, PLAYER).unwrap();
        fs::set_permissions(&player, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let token = |name: &str, access: &str| {
            let hash = TokenHash::of(&name.repeat(10)).to_string();
            format!("[[tokens]]\nname = \"{name}\"\nhash = \"{hash}\"\naccess = \"{access}\"\n")
        };
        let tokens = [token("ann", "write"), token("bob", "write"), token("eve", "read")].concat();
        let options = ServerOptions {
            config: Some(format!("{config}\n{tokens}")),
            env: env
                .iter()
                .map(|(key, value)| ((*key).to_owned(), value.clone()))
                .collect(),
            ..ServerOptions::default()
        };
        Play {
            house: House::on(data, options),
            player,
        }
    }

    /// Somebody's answered request below `/api/v1/agents`.
    pub fn ask(&self, user: &str, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
        let answer = self.house.ask_as(Some(&user.repeat(10)), method, path, body.as_ref());
        (answer.status, answer.body)
    }

    #[track_caller]
    pub fn get(&self, user: &str, path: &str) -> Value {
        let (status, body) = self.ask(user, "GET", path, None);
        assert_eq!(status, 200, "{path} {body}");
        body
    }

    /// An agent that answers when asked. It is not started itself.
    pub fn agent(&self, name: &str, more: Value) {
        let mut body = json!({ "name": name, "repository": "demo", "dialect": "claude", "argv": [self.player], "inherit": ["HOUSE"], "start": false });
        for (key, value) in more.as_object().into_iter().flatten() {
            body[key] = value.clone();
        }
        let (status, made) = self.ask("ann", "POST", "", Some(body));
        assert_eq!(status, 201, "{made}");
    }

    #[track_caller]
    pub fn begin(&self, user: &str) -> String {
        let (status, made) = self.ask(user, "POST", "/it/sessions", None);
        assert_eq!(status, 201, "{made}");
        made["id"].as_str().unwrap().to_owned()
    }

    #[track_caller]
    fn answer(&self, user: &str, session: &str, message: &str) -> Value {
        let (status, body) = self.question(user, session, message);
        assert_eq!(status, 200, "{body}");
        body
    }

    fn question(&self, user: &str, session: &str, message: &str) -> (u16, Value) {
        let path = format!("/it/sessions/{session}/ask");
        self.ask(user, "POST", &path, Some(json!({ "message": message })))
    }

    /// A question whose answer nobody has read yet.
    fn send(&self, user: &str, session: &str, body: &Value, accept: &str) -> TcpStream {
        let address = self.house.server.address();
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let (body, token) = (body.to_string(), user.repeat(10));
        let text = format!(
            "POST /api/v1/agents/it/sessions/{session}/ask HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nAuthorization: Bearer {token}\r\nAccept: {accept}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(text.as_bytes()).unwrap();
        stream
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.house.server.data().join(name)
    }

    fn audit(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.file("audit.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Of everything that there is, so that nothing is left at the end.
    pub fn end(&self) {
        for agent in self.get("ann", "")["agents"].as_array().unwrap() {
            let name = agent["name"].as_str().unwrap();
            self.ask("ann", "POST", &format!("/{name}/kill"), None);
        }
    }
}

/// The head of an answer in lower case, and all events in it.
fn events(stream: TcpStream) -> (String, Vec<(Option<u64>, String, Value)>) {
    let (mut head, mut found) = (String::new(), Vec::new());
    let (mut id, mut kind) = (None, String::new());
    for line in BufReader::new(stream).lines() {
        let line = line.unwrap();
        if let Some(number) = line.strip_prefix("id: ") {
            id = number.parse().ok();
        } else if let Some(word) = line.strip_prefix("event: ") {
            kind = word.to_owned();
        } else if let Some(data) = line.strip_prefix("data: ") {
            found.push((
                id.take(),
                std::mem::take(&mut kind),
                serde_json::from_str(data).unwrap(),
            ));
        } else if found.is_empty() {
            head.push_str(&line.to_lowercase());
            head.push('\n');
        }
    }
    (head, found)
}

#[test]
fn sessions_are_their_owners_and_come_in_pages() {
    let play = Play::with("", &[]);
    play.agent("it", json!({}));
    let mut made: Vec<String> = (0..5).map(|_| play.begin("ann")).collect();
    let others = play.begin("bob");
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = play.get("ann", &format!("/it/sessions?limit=2{cursor}"));
        let page_ids = page["sessions"].as_array().unwrap();
        assert!(page_ids.len() <= 2, "{page}");
        seen.extend(page_ids.iter().map(|one| one["id"].as_str().unwrap().to_owned()));
        match page["cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    seen.sort();
    made.sort();
    assert_eq!(seen, made, "each once, and nobody else's");
    let one = play.get("ann", &format!("/it/sessions/{}", made[0]));
    assert_eq!(
        (
            &one["owner"],
            &one["agent"],
            &one["state"],
            &one["busy"],
            &one["answered_by"]
        ),
        (&json!("ann"), &json!("it"), &json!("new"), &json!(false), &Value::Null)
    );
    for (method, rest, body) in [
        ("GET", "", None),
        ("DELETE", "", None),
        ("POST", "/ask", Some(json!({ "message": "x" }))),
        ("POST", "/interrupt", None),
        ("GET", "/permissions", None),
        ("POST", "/permissions/p1", Some(json!({ "decision": "allow" }))),
        ("GET", "/history", None),
    ] {
        let path = format!("/it/sessions/{}{rest}", made[0]);
        assert_eq!(play.ask("bob", method, &path, body.clone()).0, 404, "{method} {rest}");
        assert_eq!(play.ask("eve", method, &path, body.clone()).0, 403, "{method} {rest}");
        let of_none = format!("/it/sessions/0835c2b4-0000-4000-8000-000000000001{rest}");
        assert_eq!(play.ask("ann", method, &of_none, body).0, 404, "{method} {rest}");
    }
    for query in ["limit=0", "limit=1001", "limit=-1", "limit=x", "cursor=x", "nonsense=1"] {
        assert_eq!(
            play.ask("ann", "GET", &format!("/it/sessions?{query}"), None).0,
            400,
            "{query}"
        );
        let path = format!("/it/sessions/{}/history?{query}", made[0]);
        assert_eq!(play.ask("ann", "GET", &path, None).0, 400, "{query}");
    }
    let path = format!("/it/sessions/{}", made[0]);
    assert_eq!(play.ask("ann", "DELETE", &path, None).0, 204);
    assert_eq!(play.ask("ann", "GET", &path, None).0, 404);
    assert_eq!(play.ask("ann", "PUT", &path, None).0, 405);
    // Of agents that cannot be asked there are none, nor of one that is forgotten.
    play.agent("plain", json!({ "dialect": "plain", "argv": ["true"] }));
    assert_eq!(play.ask("ann", "POST", "/plain/sessions", None).0, 400);
    assert_eq!(play.ask("ann", "DELETE", "/it", None).0, 204);
    play.agent("it", json!({}));
    assert_eq!(play.ask("bob", "GET", &format!("/it/sessions/{others}"), None).0, 404);
    assert_eq!(play.get("ann", "/it/sessions")["sessions"], json!([]));
}

#[test]
fn an_answer_says_what_it_took_and_which_checkpoints_there_are() {
    let play = Play::with("", &[]);
    play.agent("it", json!({}));
    let session = play.begin("ann");
    let answer = play.answer("ann", &session, "write it");
    assert_eq!(
        (
            &answer["result"],
            &answer["is_error"],
            &answer["outcome"],
            &answer["tools"]
        ),
        (&json!("written 1"), &json!(false), &json!("completed"), &json!(1)),
        "{answer}"
    );
    assert_eq!(
        (&answer["session_id"], &answer["num_turns"]),
        (&json!(session), &json!(3))
    );
    assert_eq!(answer["usage"]["cost_microusd"], 2_000);
    let made = answer["checkpoints"].as_array().unwrap();
    assert_eq!((made.len(), &made[0]["calls"]), (1, &json!(["w1"])), "{answer}");
    let git = Git::new();
    let head = git.ok(play.house.files(), "log -1 --format=%H%x20%s");
    let expected = format!(
        "{} {}",
        made[0]["commit"].as_str().unwrap(),
        made[0]["subject"].as_str().unwrap()
    );
    assert_eq!(head.trim(), expected);
    let second = play.answer("ann", &session, "and now?");
    assert_eq!(
        (&second["result"], &second["checkpoints"]),
        (&json!("answer 2"), &json!([]))
    );
    let long = play.answer("ann", &session, "long");
    assert_eq!(long["result"], "x".repeat(40_000), "all of it");
    let shown = play.get("ann", &format!("/it/sessions/{session}"));
    assert_eq!((&shown["state"], &shown["questions"]), (&json!("idle"), &json!(3)));
    // The agent that answers there is for whoever asks there, also where others may manage it.
    let name = shown["answered_by"].as_str().unwrap();
    for (method, path) in [
        ("GET", "logs"),
        ("GET", "events"),
        ("GET", "permissions"),
        ("POST", "interrupt"),
    ] {
        assert_eq!(
            play.ask("bob", method, &format!("/{name}/{path}"), None).0,
            404,
            "{path}"
        );
    }
    assert_eq!(play.ask("ann", "GET", &format!("/{name}/events"), None).0, 200);
    assert_eq!(play.ask("bob", "GET", &format!("/{name}"), None).0, 200);
    assert_eq!(play.ask("ann", "POST", &format!("/{name}/sessions"), None).0, 409);
    // Closed, it is gone with what was said.
    assert_eq!(
        play.ask("ann", "DELETE", &format!("/it/sessions/{session}"), None).0,
        204
    );
    eventually("its agent is gone", || {
        play.ask("ann", "GET", &format!("/{name}"), None).0 == 404
    });
}

#[test]
fn an_answer_can_be_followed_as_it_comes() {
    let play = Play::with("", &[]);
    play.agent("it", json!({}));
    let session = play.begin("ann");
    for (body, accept) in [
        (json!({ "message": "write it" }), "text/event-stream"),
        (json!({ "message": "write it", "stream": true }), "*/*"),
    ] {
        let (head, found) = events(play.send("ann", &session, &body, accept));
        assert!(head.starts_with("http/1.1 200"), "{head}");
        assert!(head.contains("content-type: text/event-stream"), "{head}");
        let kinds: Vec<_> = found.iter().map(|(_, kind, _)| kind.as_str()).collect();
        assert_eq!((kinds[0], *kinds.last().unwrap()), ("asked", "answer"), "{kinds:?}");
        let at = |kind: &str| kinds.iter().position(|one| *one == kind).expect(kind);
        assert!(at("tool_finished") < at("turn_ended"), "{kinds:?}");
        assert!(at("checkpoint") < at("answer"), "{kinds:?}");
        let numbers: Vec<_> = found.iter().filter_map(|(id, _, _)| *id).collect();
        assert!(numbers.is_sorted() && numbers.len() == found.len() - 1, "{numbers:?}");
        let (_, _, answer) = found.last().unwrap();
        assert_eq!(answer["checkpoints"].as_array().unwrap().len(), 1, "{answer}");
        assert_eq!(answer["seq"], json!(numbers.last().unwrap()));
    }
    let (_, found) = events(play.send("ann", &session, &json!({ "message": "die" }), "text/event-stream"));
    let (_, kind, last) = found.last().unwrap();
    assert_eq!(
        (kind.as_str(), &last["status"], &last["error"]["code"]),
        ("error", &json!(502), &json!("agent_failed"))
    );
    // What is refused before it begins is no stream.
    let (head, _) = events(play.send("ann", &session, &json!({ "message": "" }), "text/event-stream"));
    assert!(head.starts_with("http/1.1 400"), "{head}");
}

#[test]
fn what_is_said_can_be_followed_in_pieces_and_is_not_told_twice() {
    let play = Play::with("", &[]);
    fs::write(play.file("key"), "s3cret-value").unwrap();
    play.agent("it", json!({ "partial": true, "secrets": { "KEY": play.file("key") } }));
    let session = play.begin("ann");
    let (_, found) = events(play.send("ann", &session, &json!({ "message": "piecemeal" }), "text/event-stream"));
    let told = |wanted: &str| -> Vec<String> {
        let of = found.iter().filter(|(_, kind, _)| kind == wanted);
        of.map(|(_, _, event)| event["text"].as_str().unwrap().to_owned())
            .collect()
    };
    let pieces = told("piece");
    assert!(pieces.len() > 1, "{pieces:?}");
    assert_eq!(pieces.concat(), "All [redacted] is said.");
    assert!(told("said").is_empty(), "{found:?}");
    assert_eq!(found.last().unwrap().2["result"], "All [redacted] is said.");
    // Whoever reads the journal later has it whole.
    let path = format!("/it/sessions/{session}/history");
    let history = play.get("ann", &path);
    assert_eq!(history["messages"][1]["text"], "All [redacted] is said.", "{history}");
    // Nobody else has asked for pieces.
    play.ask("ann", "POST", "", Some(json!({ "name": "other", "repository": "demo", "dialect": "claude", "argv": [play.player], "inherit": ["HOUSE"], "message": "piecemeal" })));
    let kinds = || -> Vec<String> {
        let events = play.get("ann", "/other/events")["events"].clone();
        let events = events.as_array().unwrap().iter();
        events.map(|event| event["type"].as_str().unwrap().to_owned()).collect()
    };
    eventually("it is said", || kinds().contains(&"turn_ended".to_owned()));
    assert!(kinds().contains(&"said".to_owned()) && !kinds().contains(&"piece".to_owned()));
    play.end();
}

#[test]
fn whoever_leaves_has_the_turn_stopped_and_the_next_answer_is_the_next_questions() {
    let play = Play::with("", &[]);
    play.agent("it", json!({}));
    let session = play.begin("ann");
    for accept in ["text/event-stream", "application/json"] {
        let body = json!({ "message": "hold" });
        let mut held = play.send("ann", &session, &body, accept);
        eventually("it is at work", || play.file("held").exists());
        assert_eq!(play.get("ann", &format!("/it/sessions/{session}"))["busy"], true);
        let (status, refused) = play.question("ann", &session, "impatient");
        assert_eq!((status, &refused["error"]["code"]), (429, &json!("busy")));
        if accept == "text/event-stream" {
            let mut some = [0; 100];
            assert!(held.read(&mut some).unwrap() > 0);
        }
        drop(held);
        eventually("it is told to stop", || play.file("interrupted").exists());
        eventually("it has", || {
            play.get("ann", &format!("/it/sessions/{session}"))["busy"] == false
        });
        let answer = play.answer("ann", &session, "what now?");
        assert!(answer["result"].as_str().unwrap().starts_with("answer "), "{answer}");
        fs::remove_file(play.file("held")).unwrap();
        fs::remove_file(play.file("interrupted")).unwrap();
    }
    eventually("both are noted", || {
        play.audit()
            .iter()
            .filter(|one| one["event"] == "ask_abandoned")
            .count()
            == 2
    });
    // The same by somebody who waits and says so.
    let held = play.send("ann", &session, &json!({ "message": "hold" }), "application/json");
    eventually("it is at work", || play.file("held").exists());
    let path = format!("/it/sessions/{session}/interrupt");
    assert_eq!(play.ask("ann", "POST", &path, None).0, 202);
    let mut answer = String::new();
    BufReader::new(held).read_to_string(&mut answer).unwrap();
    assert!(
        answer.contains("\"is_error\":true") && answer.contains("late "),
        "{answer}"
    );
}

#[test]
fn an_answer_that_does_not_come_in_time_is_waited_for_no_longer() {
    let play = Play::with("[ask]\nworkspace = \"demo\"\ndeadline = \"300ms\"", &[]);
    play.agent("it", json!({}));
    let session = play.begin("ann");
    // To start takes its time, too.
    eventually("it is there", || play.question("ann", &session, "one").0 == 200);
    for accept in ["application/json", "text/event-stream"] {
        let held = play.send("ann", &session, &json!({ "message": "hold" }), accept);
        if accept == "application/json" {
            let mut text = String::new();
            BufReader::new(held).read_to_string(&mut text).unwrap();
            assert!(
                text.starts_with("HTTP/1.1 504") && text.contains("\"timeout\""),
                "{text}"
            );
        } else {
            let (_, found) = events(held);
            let (_, kind, last) = found.last().unwrap();
            assert_eq!((kind.as_str(), &last["status"]), ("error", &json!(504)));
        }
        eventually("it is told to stop", || play.file("interrupted").exists());
        eventually("it has", || {
            play.get("ann", &format!("/it/sessions/{session}"))["busy"] == false
        });
        fs::remove_file(play.file("interrupted")).unwrap();
    }
}

#[test]
fn whoever_leaves_while_it_starts_does_not_leave_it_behind() {
    let play = Play::with("[ask]\nworkspace = \"demo\"\nidle = \"50ms\"", &[]);
    let (begun, go) = (play.file("begun"), play.file("go"));
    let script = format!(
        "touch {}; while [ ! -e {} ]; do sleep 0.02; done; exec {}",
        begun.display(),
        go.display(),
        play.player.display()
    );
    play.agent("it", json!({ "argv": ["sh", "-c", script] }));
    let session = play.begin("ann");
    let path = format!("/it/sessions/{session}");
    let asked = play.send("ann", &session, &json!({ "message": "x" }), "application/json");
    eventually("it starts", || begun.exists());
    drop(asked);
    eventually("nobody waits", || play.get("ann", &path)["busy"] == false);
    fs::write(&go, "").unwrap();
    eventually("it is let go", || play.get("ann", &path)["state"] == "stopped");
}

#[test]
fn what_the_agent_does_not_take_is_not_counted_and_in_no_history() {
    let play = Play::with("[ask]\nworkspace = \"demo\"\nrate_max = 2", &[]);
    play.agent("it", json!({}));
    let session = play.begin("ann");
    let path = format!("/it/sessions/{session}");
    play.answer("ann", &session, "later");
    let name = play.get("ann", &path)["answered_by"].as_str().unwrap().to_owned();
    eventually("it does something of its own", || {
        let events = play.get("ann", &format!("/{name}/events"))["events"].clone();
        let begun = events.as_array().unwrap().iter();
        begun.filter(|one| one["type"] == "turn_started").count() == 2
    });
    for _ in 0..3 {
        let (status, refused) = play.question("ann", &session, "and now?");
        assert_eq!((status, &refused["error"]["code"]), (429, &json!("busy")));
    }
    assert_eq!(play.get("ann", &path)["questions"], 1);
    let history = play.get("ann", &format!("{path}/history"));
    let texts: Vec<_> = history["messages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["text"])
        .collect();
    assert_eq!(texts, ["later", "now 1"]);
    // The second one of this hour.
    let other = play.begin("ann");
    play.answer("ann", &other, "one");
    play.end();
}

#[test]
fn what_it_wants_to_be_allowed_is_decided_in_the_session() {
    let play = Play::with("", &[]);
    play.agent("it", json!({}));
    let session = play.begin("ann");
    let path = format!("/it/sessions/{session}/permissions");
    assert_eq!(play.get("ann", &path), json!({ "permissions": [] }));
    for (decision, result) in [("allow", "allowed"), ("deny", "denied")] {
        let asked = play.send("ann", &session, &json!({ "message": "may I?" }), "text/event-stream");
        let open = || play.get("ann", &path)["permissions"].clone();
        eventually("it asks", || !open().as_array().unwrap().is_empty());
        let question = open()[0]["request"].as_str().unwrap().to_owned();
        let decide = |user: &str| {
            let body = json!({ "decision": decision });
            play.ask(user, "POST", &format!("{path}/{question}"), Some(body)).0
        };
        assert_eq!(decide("bob"), 404);
        assert_eq!(decide("ann"), 204);
        assert_eq!(decide("ann"), 404, "once");
        let (_, found) = events(asked);
        assert_eq!(found.last().unwrap().2["result"], result);
        let kinds: Vec<_> = found.iter().map(|(_, kind, _)| kind.as_str()).collect();
        assert!(
            kinds.contains(&"permission") && kinds.contains(&"permission_decided"),
            "{kinds:?}"
        );
    }
    let audit = play.audit();
    let decided: Vec<_> = audit
        .iter()
        .filter(|one| one["event"] == "permission")
        .map(|one| (one["user"].clone(), one["decision"].clone(), one["by"].clone()))
        .collect();
    assert_eq!(
        decided,
        [
            (json!("ann"), json!("allowed"), json!("user")),
            (json!("ann"), json!("denied"), json!("user"))
        ]
    );
    let note = audit.iter().find(|one| one["event"] == "permission").unwrap();
    assert_eq!((&note["session_id"], &note["owner"]), (&json!(session), &json!("ann")));
    assert!(
        note["request_id"].is_string() && note["address"] == "127.0.0.1",
        "{note}"
    );
}

#[test]
fn what_nobody_answers_is_denied_after_a_while() {
    let play = Play::with("[agents]\nanswer_within = \"50ms\"", &[]);
    play.agent("it", json!({}));
    let session = play.begin("ann");
    let asked = play.send("ann", &session, &json!({ "message": "may I?" }), "text/event-stream");
    let (_, found) = events(asked);
    assert_eq!(found.last().unwrap().2["result"], "denied");
    let (_, _, decided) = found.iter().find(|(_, kind, _)| kind == "permission_decided").unwrap();
    assert_eq!(
        (&decided["decision"], &decided["by"], &decided["why"]),
        (
            &json!("denied"),
            &Value::Null,
            &json!("nobody has answered for 0.05 seconds")
        )
    );
    // What an agent says of itself comes before what is usual.
    play.agent(
        "other",
        json!({ "answer_within_ms": 0, "message": "may I?", "start": true }),
    );
    eventually("it asks", || {
        !play.get("ann", "/other/permissions")["permissions"]
            .as_array()
            .unwrap()
            .is_empty()
    });
    play.answer("ann", &session, "may I?");
    assert_eq!(play.get("ann", "/other")["state"], "waiting_permission");
    let deny = json!({ "decision": "deny" });
    let open = play.get("ann", "/other/permissions")["permissions"].clone();
    let path = format!("/other/permissions/{}", open[0]["request"].as_str().unwrap());
    assert_eq!(play.ask("ann", "POST", &path, Some(deny)).0, 204);
    play.end();
}

/// Files below a directory that hold these bytes.
fn holding(dir: &std::path::Path, bytes: &[u8]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap().flatten() {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            found.extend(holding(&entry.path(), bytes));
        } else if kind.is_file() {
            let text = fs::read(entry.path()).unwrap();
            if text.windows(bytes.len()).any(|found| found == bytes) {
                found.push(entry.path());
            }
        }
    }
    found
}

#[test]
fn a_secret_that_an_agent_tells_is_shown_nowhere_and_kept_nowhere() {
    const KEY: &str = "horse-staple-0123456789";
    let data = tempfile::tempdir().unwrap();
    let kept = tempfile::tempdir().unwrap();
    let file = kept.path().join("key");
    fs::write(&file, format!("{KEY}\n")).unwrap();
    let play = Play::on(data, "", &[]);
    play.agent("it", json!({ "secrets": { "KEY": file } }));
    let session = play.begin("ann");
    let path = format!("/it/sessions/{session}/permissions");
    let message = format!("tell me whether it is {KEY}");
    let asked = play.send("ann", &session, &json!({ "message": message }), "text/event-stream");
    let open = || play.get("ann", &path)["permissions"].clone();
    eventually("it asks", || !open().as_array().unwrap().is_empty());
    let question = open()[0].clone();
    assert!(
        question["input"].as_str().unwrap().contains("curl -H [redacted]"),
        "{question}"
    );
    let answered = play.ask(
        "ann",
        "POST",
        &format!("{path}/{}", question["request"].as_str().unwrap()),
        Some(json!({ "decision": "allow" })),
    );
    assert_eq!(answered.0, 204);
    let (_, found) = events(asked);
    let answer = found.last().unwrap().2.clone();
    let result = answer["result"].as_str().unwrap();
    assert!(
        result.starts_with("it is [redacted], x") && result.ends_with("x [redacted]"),
        "{answer}"
    );
    assert!(
        play.file("whole").exists(),
        "the agent itself is answered with what it said"
    );
    let name = play.get("ann", &format!("/it/sessions/{session}"))["answered_by"].clone();
    let name = name.as_str().unwrap().to_owned();
    // In pieces, and at the very end.
    let script = "printf 'horse-staple-'; sleep 0.05; printf '0123456789 and horse-staple-0123'; sleep 0.05; printf '456789\\n'; printf 'last: %s' \"$KEY\"";
    play.agent(
        "plain",
        json!({ "dialect": "plain", "argv": ["sh", "-c", script], "start": true, "secrets": { "KEY": file }, "workspace": "other" }),
    );
    play.house.ended_as("ann", "plain");
    let lines = play.get("ann", "/plain/logs")["lines"].clone();
    let texts: Vec<_> = lines
        .as_array()
        .unwrap()
        .iter()
        .map(|line| line["text"].clone())
        .collect();
    assert_eq!(texts, ["[redacted] and [redacted]", "last: [redacted]"]);
    let spooled = fs::read_to_string(play.file("logs/plain/stdout")).unwrap();
    assert_eq!(spooled, "[redacted] and [redacted]\nlast: [redacted]");
    for shown in [
        json!(found.iter().map(|(_, _, data)| data).collect::<Vec<_>>()),
        play.get("ann", &format!("/{name}/events")),
        play.get("ann", &format!("/{name}/logs")),
        play.get("ann", &format!("/{name}")),
        play.get("ann", &format!("/it/sessions/{session}/history")),
        json!(play.audit()),
    ] {
        let text = shown.to_string();
        assert!(
            !text.contains(KEY) && text.contains("[redacted]") | shown["state"].is_string(),
            "{text}"
        );
    }
    let git = Git::new();
    let log = git.ok(play.house.files(), "log --format=%B");
    assert!(
        log.contains("[Bash] Call with [redacted]") && !log.contains(KEY),
        "{log}"
    );
    play.end();
    eventually("it has ended", || play.get("ann", &format!("/{name}"))["ended"] == true);
    let data = play.house.kill();
    assert_eq!(holding(data.path(), KEY.as_bytes()), Vec::<PathBuf>::new());
}

#[test]
fn a_history_is_the_agents_own_file_or_else_our_journal() {
    let home = tempfile::tempdir().unwrap();
    let play = Play::with(
        "[ask]\nworkspace = \"demo\"\naudit_texts = false",
        &[("HOME", home.path().display().to_string())],
    );
    play.agent("it", json!({}));
    let session = play.begin("ann");
    let path = format!("/it/sessions/{session}/history");
    let texts = |page: &Value| -> Vec<String> {
        let messages = page["messages"].as_array().unwrap();
        messages
            .iter()
            .map(|one| format!("{}: {}", one["role"].as_str().unwrap(), one["text"].as_str().unwrap()))
            .collect()
    };
    let all = || {
        let (mut found, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = play.get("ann", &format!("{path}?limit=2{cursor}"));
            found.splice(0..0, texts(&page));
            match page["cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return found,
            }
        }
    };
    assert_eq!(all(), [""; 0]);
    for question in ["one", "two"] {
        play.answer("ann", &session, question);
    }
    let ours = ["user: one", "assistant: answer 1", "user: two", "assistant: answer 2"];
    assert_eq!(all(), ours);
    assert_eq!(play.get("ann", &path)["source"], "journal");
    assert_eq!(play.ask("ann", "GET", &format!("{path}?cursor=nobody"), None).0, 400);
    // The agent has written a file of its own: that has what was gone on with.
    // One of that name elsewhere is somebody else's, whatever an agent says of itself.
    let projects = home.path().join(".claude/projects");
    let place = play.house.files().canonicalize().unwrap();
    let place = place.to_str().unwrap();
    let project = projects.join(place.replace(|c: char| !c.is_ascii_alphanumeric(), "-"));
    let others = projects.join("-home-others");
    fs::create_dir_all(&project).unwrap();
    fs::create_dir_all(&others).unwrap();
    let fixture = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/fixtures/sessions/claude/c14-branches.jsonl"
    );
    let file = "0835f0ad-1b2c-4d3e-8f90-0123456789ab.jsonl";
    fs::copy(fixture, others.join(file)).unwrap();
    assert_eq!(all(), ours);
    fs::rename(others.join(file), project.join(file)).unwrap();
    let theirs = [
        "user: Write a poem about rivers.",
        "assistant: I will write it to a file.",
        "assistant: It is in poem.md.",
        "user: Now about the sea.",
        "assistant: The sea is wide.",
        "user: Shorter.",
        "assistant: Sea.",
    ];
    assert_eq!(all(), theirs);
    let page = play.get("ann", &path);
    assert_eq!(
        (&page["source"], &page["messages"][0]["timestamp"]),
        (&json!("agent"), &json!("2026-01-01T00:00:01.000Z"))
    );
    assert_eq!(play.ask("ann", "GET", &format!("{path}?cursor=nobody"), None).0, 400);
    // What a sandbox keeps an agent from reading is not read for it.
    for (name, home, source) in [("held", None, "journal"), ("allowed", Some(home.path()), "agent")] {
        let read: Vec<_> = [Some(play.house.server.data()), home].into_iter().flatten().collect();
        play.agent(name, json!({ "sandbox": { "mode": "best-effort", "read": read } }));
        let (_, begun) = play.ask("ann", "POST", &format!("/{name}/sessions"), None);
        let path = format!("/{name}/sessions/{}", begun["id"].as_str().unwrap());
        let message = json!({ "message": "one" });
        let (status, answer) = play.ask("ann", "POST", &format!("{path}/ask"), Some(message));
        assert_eq!(status, 200, "{answer}");
        assert_eq!(play.get("ann", &format!("{path}/history"))["source"], source, "{name}");
    }
    // A place in our journal stays one.
    let seq = play.answer("ann", &session, "three")["seq"].as_u64().unwrap();
    let page = play.get("ann", &format!("{path}?cursor={}", seq + 1));
    assert_eq!(texts(&page).last().map(String::as_str), Some("assistant: answer 3"));
    // The same for the older paths.
    let classic = |method: &str, path: &str, body: Option<Value>| {
        let address = play.house.server.address();
        let mut stream = TcpStream::connect(address).unwrap();
        let body = body.map(|body| body.to_string()).unwrap_or_default();
        write!(
            stream,
            "{method} /agent{path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            "ann".repeat(10),
            body.len()
        )
        .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        serde_json::from_str::<Value>(text.split_once("\r\n\r\n").unwrap().1).unwrap()
    };
    let begun = classic("POST", "/sessions/new", None);
    let id = begun["session_id"].as_str().unwrap().to_owned();
    // Without a command of its own `[ask]` would start the real one.
    assert_eq!(
        classic("GET", &format!("/sessions/{id}/history"), None),
        json!({ "messages": [] })
    );
    // What was asked is in no note.
    let audit = play.audit();
    assert!(
        audit
            .iter()
            .all(|one| one.get("message").is_none() && one.get("result_preview").is_none())
    );
    assert_eq!(
        (&audit[0]["message_len"], &audit[0]["address"]),
        (&json!(3), &json!("127.0.0.1"))
    );
    assert!(audit[0]["timestamp"].as_str().unwrap().ends_with('Z') && audit[0]["request_id"].is_string());
}

#[test]
fn bounds_are_those_of_all_questions() {
    let data = tempfile::tempdir().unwrap();
    let command = data.path().join("claude");
    let config = format!(
        "[ask]\ncommand = [\"{}\"]\ninherit = [\"HOUSE\"]\nworkspace = \"demo\"\nrate_max = 2",
        command.display()
    );
    let play = Play::on(data, &config, &[]);
    play.agent("it", json!({}));
    let session = play.begin("ann");
    play.answer("ann", &session, "one");
    play.answer("ann", &session, "two");
    let other = play.begin("ann");
    let address = play.house.server.address();
    for path in [
        format!("/api/v1/agents/it/sessions/{other}/ask"),
        "/agent/ask".to_owned(),
    ] {
        let begun = match path.as_str() {
            "/agent/ask" => {
                let mut stream = TcpStream::connect(address).unwrap();
                write!(stream, "POST /agent/sessions/new HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nAuthorization: Bearer {}\r\nContent-Length: 0\r\n\r\n", "ann".repeat(10)).unwrap();
                let mut text = String::new();
                stream.read_to_string(&mut text).unwrap();
                let body: Value = serde_json::from_str(text.split_once("\r\n\r\n").unwrap().1).unwrap();
                json!({ "session_id": body["session_id"], "message": "x" })
            }
            _ => json!({ "message": "x" }),
        };
        let body = begun.to_string();
        let mut stream = TcpStream::connect(address).unwrap();
        write!(stream, "POST {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", "ann".repeat(10), body.len()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let text = text.to_lowercase();
        assert!(text.starts_with("http/1.1 429"), "{path} {text}");
        assert!(text.contains("retry-after: 3"), "within the hour: {text}");
    }
    // Others have their own hour.
    let session = play.begin("bob");
    play.answer("bob", &session, "one");
    play.end();
}

#[test]
fn what_agents_do_is_counted_without_saying_whose_it_is() {
    let play = Play::with("[ask]\nrate_max = 2\nworkspace = \"demo\"", &[]);
    let metrics = |user: Option<&str>, host: &str| {
        let mut stream = TcpStream::connect(play.house.server.address()).unwrap();
        let token = user.map_or_else(String::new, |user| {
            format!("Authorization: Bearer {}\r\n", user.repeat(10))
        });
        write!(
            stream,
            "GET /metrics HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{token}\r\n"
        )
        .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    };
    play.agent("it", json!({}));
    let session = play.begin("ann");
    play.answer("ann", &session, "write it");
    assert_eq!(play.question("ann", &session, "die").0, 502);
    let name = play.get("ann", &format!("/it/sessions/{session}"))["answered_by"].clone();
    play.house.ended_as("ann", name.as_str().unwrap());
    assert_eq!(play.question("ann", &session, "more").0, 429);
    play.agent(
        "plain",
        json!({ "dialect": "plain", "argv": ["sh", "-c", "echo 12345"], "start": true, "workspace": "other" }),
    );
    play.house.ended_as("ann", "plain");
    let text = metrics(Some("eve"), "localhost");
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    for line in [
        "gitstead_agents{state=\"created\"} 1",
        "gitstead_agents{state=\"exited\"} 1",
        "gitstead_agents{state=\"failed\"} 1",
        "gitstead_agent_starts_total 2",
        "gitstead_agent_restarts_total 0",
        "gitstead_agent_ends_total{how=\"exited\"} 1",
        "gitstead_agent_ends_total{how=\"failed\"} 1",
        "gitstead_agent_turns_total{outcome=\"completed\"} 1",
        "gitstead_agent_tool_calls_total{outcome=\"ok\"} 1",
        "gitstead_agent_checkpoints_total{outcome=\"made\"} 1",
        "gitstead_agent_checkpoints_late_total 0",
        "gitstead_asks_total{outcome=\"ok\"} 1",
        "gitstead_asks_total{outcome=\"failed\"} 1",
        "gitstead_asks_total{outcome=\"rate_limited\"} 1",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
    assert!(!text.contains(&session[..13]) && !text.contains("ann"), "{text}");
    assert!(
        metrics(None, "localhost").starts_with("HTTP/1.1 200"),
        "on this machine"
    );
    assert!(metrics(None, "elsewhere.example").starts_with("HTTP/1.1 401"));
}

#[test]
fn sessions_outlive_the_server() {
    let play = Play::with("", &[]);
    play.agent("it", json!({}));
    let (session, closed) = (play.begin("ann"), play.begin("ann"));
    play.answer("ann", &session, "one");
    assert_eq!(
        play.ask("ann", "DELETE", &format!("/it/sessions/{closed}"), None).0,
        204
    );
    let name = play.get("ann", &format!("/it/sessions/{session}"))["answered_by"].clone();
    // Whose beginning and end were the last things that it said.
    let unused = play.begin("ann");
    let (last, path) = (play.begin("ann"), |id: &str| format!("/it/sessions/{id}"));
    assert_eq!(play.ask("ann", "DELETE", &path(&last), None).0, 204);
    let Play { house, .. } = play;
    let play = Play::on(house.kill(), "", &[]);
    let shown = play.get("ann", &format!("/it/sessions/{session}"));
    assert_eq!(
        (&shown["answered_by"], &shown["questions"]),
        (&name, &json!(1)),
        "{shown}"
    );
    assert_eq!(play.answer("ann", &session, "two")["result"], "answer 1");
    let said = play.get("ann", &format!("/it/sessions/{session}/history"));
    assert_eq!(said["messages"].as_array().unwrap().len(), 4);
    assert_eq!(play.ask("ann", "GET", &path(&closed), None).0, 404);
    assert_eq!(play.ask("ann", "GET", &path(&last), None).0, 404);
    assert_eq!(play.get("ann", &path(&unused))["state"], "new");
}
