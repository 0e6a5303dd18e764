//! The ask service: sessions that belong to whoever began them, one question at a time, so many an hour, and a note of each.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use gitstead::base::TokenHash;
use serde_json::{Value, json};

use crate::support::{ServerOptions, agents::House, wire::eventually};

/// Answers each question with itself and a number; `hold` waits until there is a file.
const CONVERSATION: &str = "0835c2b4-0000-4000-8000-000000000001";
const PLAYER: &str = r#"#!/bin/sh
session=0835c2b4-0000-4000-8000-000000000001
say() { printf '%s\n' "$1"; }
n=0
echo "$@" >> "$(dirname "$0")/started"
has() { [ -e "$(dirname "$0")/$1" ]; }
case "$*" in
*--resume*) if has forgotten; then echo "No conversation found with session ID: $session" >&2; exit 1; fi ;;
*) rm -f "$(dirname "$0")/forgotten-late" ;;
esac
while IFS= read -r line; do
    case "$line" in
    *'"initialize"'*)
        id=$(printf %s "$line" | sed 's/.*"request_id":"\([^"]*\)".*/\1/')
        say '{"type":"control_response","response":{"subtype":"success","request_id":"'$id'","response":{"commands":[],"hooks_applied":true}}}' ;;
    *'"interrupt"'*)
        touch "$(dirname "$0")/interrupted" ;;
    *'"type":"user"'*)
        n=$((n + 1))
        if has forgotten-late; then
            say '{"type":"result","subtype":"error_during_execution","is_error":true,"session_id":"x","errors":["No conversation found with session ID: '$session'"],"uuid":"r"}'
            exit 1
        fi
        say '{"type":"system","subtype":"init","session_id":"'$session'","model":"mock-1","tools":[],"uuid":"i'$n'"}'
        error=false
        case "$line" in
        *hold*) touch "$(dirname "$0")/held"; while [ ! -e "$(dirname "$0")/go" ]; do sleep 0.01; done ;;
        *die*) exit 1 ;;
        *wrong*) error=true ;;
        esac
        say '{"type":"assistant","message":{"id":"m'$n'","role":"assistant","content":[{"type":"text","text":"answer '$n'"}]},"session_id":"'$session'","uuid":"a'$n'"}'
        say '{"session_id":"'$session'","usage":{"input_tokens":1,"output_tokens":1},"terminal_reason":"completed","is_error":'$error',"num_turns":3,"subtype":"success","result":"answer '$n'","type":"result","uuid":"e'$n'"}' ;;
    esac
done
"#;

fn house(more: &str) -> House {
    house_with(more, Vec::new())
}

fn house_with(more: &str, env: Vec<(String, String)>) -> House {
    let data = tempfile::tempdir().unwrap();
    let player = data.path().join("claude");
    fs::write(&player, PLAYER).unwrap();
    fs::set_permissions(&player, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let hash = |token: &str| TokenHash::of(token).to_string();
    let token = |name: &str, access: &str| {
        format!(
            "[[tokens]]\nname = \"{name}\"\nhash = \"{}\"\naccess = \"{access}\"\nrepos = [\"ask\"]\n",
            hash(&name.repeat(10))
        )
    };
    let config = format!(
        "[ask]\ncommand = [\"{}\"]\ninherit = [\"HOUSE\"]\n{more}\n{}{}{}",
        player.display(),
        token("ann", "write"),
        token("bob", "write"),
        token("eve", "read")
    );
    House::on(
        data,
        ServerOptions {
            config: Some(config),
            env,
            ..ServerOptions::default()
        },
    )
}

fn send(house: &House, user: Option<&str>, method: &str, path: &str, body: Option<&Value>) -> TcpStream {
    let address = house.server.address();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let body = body.map(Value::to_string).unwrap_or_default();
    let token = user.map_or_else(String::new, |user| {
        format!("Authorization: Bearer {}\r\n", user.repeat(10))
    });
    let text = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{token}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(text.as_bytes()).unwrap();
    stream
}

fn read(mut stream: TcpStream) -> (u16, String, Value) {
    let mut text = Vec::new();
    stream.read_to_end(&mut text).unwrap();
    let text = String::from_utf8_lossy(&text).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (
        status,
        head.to_lowercase(),
        serde_json::from_str(body).unwrap_or(Value::Null),
    )
}

fn ask(house: &House, user: &str, session: &str, message: &str) -> (u16, String, Value) {
    let body = json!({ "session_id": session, "message": message });
    read(send(house, Some(user), "POST", "/agent/ask", Some(&body)))
}

fn begin(house: &House, user: &str) -> String {
    let (status, _, body) = read(send(house, Some(user), "POST", "/agent/sessions/new", None));
    assert_eq!(status, 200, "{body}");
    body["session_id"].as_str().unwrap().to_owned()
}

fn history(house: &House, user: &str, session: &str) -> (u16, Value) {
    let path = format!("/agent/sessions/{session}/history");
    let (status, _, body) = read(send(house, Some(user), "GET", &path, None));
    (status, body)
}

#[test]
fn agents_that_have_ended_make_room_for_the_next_session() {
    let house = house("[limits]\nagents = 1");
    let first = begin(&house, "ann");
    assert_eq!(ask(&house, "ann", &first, "die").0, 502);
    house.ended_as("ann", &format!("ask-{}", &first[..13]));
    let second = begin(&house, "bob");
    let (status, _, answer) = ask(&house, "bob", &second, "one");
    assert_eq!((status, &answer["result"]), (200, &json!("answer 1")), "{answer}");
    assert_eq!(history(&house, "ann", &first), (200, json!({ "messages": [] })));
    // The one that is there is at work for somebody.
    let (status, _, answer) = ask(&house, "ann", &first, "one");
    assert_eq!(status, 502, "{answer}");
}

#[test]
fn an_agent_that_is_there_already_is_used_by_its_owner_only() {
    let house = house("");
    let session = begin(&house, "ann");
    let body = |name: &str| {
        let player = house.server.data().join("claude");
        json!({ "name": name, "repository": "ask", "dialect": "claude", "argv": [player], "inherit": ["HOUSE"], "start": false })
    };
    let name = format!("ask-{}", &session[..13]);
    house
        .ask_as(Some(&"ann".repeat(10)), "POST", "", Some(&body(&name)))
        .is(201);
    let (status, _, answer) = ask(&house, "ann", &session, "one");
    assert_eq!((status, &answer["result"]), (200, &json!("answer 1")), "{answer}");
    let session = begin(&house, "ann");
    let name = format!("ask-{}", &session[..13]);
    house
        .ask_as(Some(&"bob".repeat(10)), "POST", "", Some(&body(&name)))
        .is(201);
    assert_eq!(ask(&house, "ann", &session, "one").0, 502);
}

#[test]
fn questions_are_answered_and_remembered_for_whoever_asked() {
    let house = house("");
    let (status, _, body) = read(send(&house, None, "GET", "/agent/health", None));
    assert_eq!((status, body), (200, json!({ "status": "ok" })));
    let session = begin(&house, "ann");
    assert_eq!(history(&house, "ann", &session), (200, json!({ "messages": [] })));
    let (status, _, answer) = ask(&house, "ann", &session, "one");
    assert_eq!(status, 200, "{answer}");
    assert!(answer["duration_ms"].is_u64(), "{answer}");
    assert_eq!(
        (
            &answer["result"],
            &answer["session_id"],
            &answer["num_turns"],
            &answer["is_error"]
        ),
        (&json!("answer 1"), &json!(session), &json!(3), &json!(false))
    );
    let (_, _, answer) = ask(&house, "ann", &session, "what is wrong");
    assert_eq!(
        (&answer["result"], &answer["is_error"]),
        (&json!("answer 2"), &json!(true))
    );
    let said = |body: &Value| -> Vec<(String, String)> {
        let text = |message: &Value, key: &str| message[key].as_str().unwrap().to_owned();
        let messages = body["messages"].as_array().unwrap();
        messages
            .iter()
            .map(|one| (text(one, "role"), text(one, "text")))
            .collect()
    };
    let expected = [
        ("user", "one"),
        ("assistant", "answer 1"),
        ("user", "what is wrong"),
        ("assistant", "answer 2"),
    ]
    .map(|(role, text)| (role.to_owned(), text.to_owned()));
    let (status, body) = history(&house, "ann", &session);
    assert_eq!((status, said(&body)), (200, expected.to_vec()));
    assert!(body["messages"][0]["timestamp"].as_str().unwrap().ends_with('Z'));
    // Nobody else's.
    assert_eq!(history(&house, "bob", &session).0, 404);
    assert_eq!(ask(&house, "bob", &session, "me too").0, 404);
    assert_eq!(history(&house, "eve", &session).0, 403);
    assert_eq!(read(send(&house, None, "POST", "/agent/sessions/new", None)).0, 401);
    // A server later it is still there, and the agent is told to go on with its session.
    let data = house.kill();
    let config = fs::read_to_string(data.path().join("gitstead.toml")).unwrap();
    let house = House::on(
        data,
        ServerOptions {
            config: Some(config),
            ..ServerOptions::default()
        },
    );
    let (status, _, answer) = ask(&house, "ann", &session, "again");
    assert_eq!((status, &answer["result"]), (200, &json!("answer 1")), "{answer}");
    assert_eq!(said(&history(&house, "ann", &session).1).len(), 6);
    let started = fs::read_to_string(house.server.data().join("started")).unwrap();
    let resumed = format!("--resume {CONVERSATION}");
    assert_eq!(started.lines().collect::<Vec<_>>(), ["", &resumed]);
    let audit = fs::read_to_string(house.server.data().join("audit.jsonl")).unwrap();
    let events: Vec<Value> = audit.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let kinds: Vec<_> = events.iter().map(|event| event["event"].as_str().unwrap()).collect();
    assert_eq!(
        kinds,
        ["ask_start", "ask_ok", "ask_start", "ask_ok", "ask_start", "ask_ok"]
    );
    assert_eq!(
        (&events[0]["user"], &events[0]["message"], &events[1]["turns"]),
        (&json!("ann"), &json!("one"), &json!(3))
    );
}

#[test]
fn a_conversation_that_the_agent_does_not_know_any_more_is_begun_anew() {
    for how in ["forgotten", "forgotten-late"] {
        let house = house("");
        let session = begin(&house, "ann");
        assert_eq!(ask(&house, "ann", &session, "one").0, 200);
        let agent = format!("ask-{}", &session[..13]);
        let ann = "ann".repeat(10);
        house
            .ask_as(Some(&ann), "POST", &format!("/{agent}/stop"), None)
            .is(202);
        house.ended_as("ann", &agent);
        let data = house.server.data().to_owned();
        fs::write(data.join(how), "").unwrap();
        let (status, _, answer) = ask(&house, "ann", &session, "two");
        assert_eq!(
            (status, &answer["result"]),
            (200, &json!("answer 1")),
            "{how}: {answer}"
        );
        let started = fs::read_to_string(data.join("started")).unwrap();
        let resumed = format!("--resume {CONVERSATION}");
        assert_eq!(started.lines().collect::<Vec<_>>(), ["", &resumed, ""], "{how}");
        let path = format!("/{agent}/events?limit=1000");
        let events = house.ask_as(Some(&ann), "GET", &path, None).is(200);
        let gone = events["events"].as_array().unwrap().iter();
        let gone: Vec<_> = gone.filter(|event| event["type"] == "session_gone").collect();
        assert_eq!(
            (gone.len(), &gone[0]["session"]),
            (1, &json!(CONVERSATION)),
            "{how}: {events}"
        );
        let audit = fs::read_to_string(data.join("audit.jsonl")).unwrap();
        let events = audit.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let kinds: Vec<String> = events
            .map(|event| event["event"].as_str().unwrap().to_owned())
            .collect();
        let expected = ["ask_start", "ask_ok", "ask_start", "conversation_lost", "ask_ok"];
        assert_eq!(kinds, expected, "{how}");
        // From now on it is the new one that is gone on with.
        assert_eq!(ask(&house, "ann", &session, "three").0, 200, "{how}");
    }
}

#[test]
fn a_history_is_what_the_agents_own_file_says() {
    let home = tempfile::tempdir().unwrap();
    let fixture = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/fixtures/sessions/claude/c14-branches.jsonl"
    );
    let house = house_with("", vec![("HOME".to_owned(), home.path().display().to_string())]);
    let place = house.server.data().canonicalize().unwrap().join("work/ask/main");
    let place = place.to_str().unwrap();
    let project = home.path().join(".claude/projects");
    let project = project.join(place.replace(|c: char| !c.is_ascii_alphanumeric(), "-"));
    fs::create_dir_all(&project).unwrap();
    fs::copy(fixture, project.join("0835c2b4-0000-4000-8000-000000000001.jsonl")).unwrap();
    let session = begin(&house, "ann");
    assert_eq!(history(&house, "ann", &session), (200, json!({ "messages": [] })));
    assert_eq!(ask(&house, "ann", &session, "one").0, 200);
    let (status, body) = history(&house, "ann", &session);
    let messages = body["messages"].as_array().unwrap();
    assert_eq!((status, messages.len()), (200, 7), "{body}");
    let first =
        json!({ "role": "user", "text": "Write a poem about rivers.", "timestamp": "2026-01-01T00:00:01.000Z" });
    assert_eq!(messages[0], first);
    assert_eq!(messages[6]["text"], "Sea.");
    assert_eq!(history(&house, "bob", &session).0, 404);
}

#[test]
fn what_is_no_question_is_refused_as_ever() {
    let house = house("");
    let session = begin(&house, "ann");
    for (id, message, status, detail) in [
        (
            "{0835c2b4-0000-4000-8000-000000000001}",
            "x",
            400,
            Some("invalid session_id"),
        ),
        ("--resume", "x", 400, Some("invalid session_id")),
        (
            "0835c2b4-0000-4000-8000-000000000001",
            "x",
            404,
            Some("no such session"),
        ),
        (session.as_str(), "", 422, None),
        (session.as_str(), &"x".repeat(10_001), 422, None),
    ] {
        let (got, _, body) = ask(&house, "ann", id, message);
        assert_eq!(got, status, "{id} {body}");
        if let Some(detail) = detail {
            assert_eq!(body["detail"], detail);
        }
    }
    assert_eq!(
        history(&house, "ann", "nonsense"),
        (400, json!({ "detail": "invalid session_id" }))
    );
    let (status, _, _) = read(send(
        &house,
        Some("ann"),
        "POST",
        "/agent/ask",
        Some(&json!({ "message": 1 })),
    ));
    assert_eq!(status, 422);
    let (status, _, body) = ask(&house, "ann", &session, "die");
    assert_eq!(
        (status, &body["detail"]),
        (502, &json!("the agent has ended without an answer"))
    );
}

#[test]
fn one_question_at_a_time_and_so_many_an_hour() {
    let house = house("rate_max = 3");
    let (first, second) = (begin(&house, "ann"), begin(&house, "ann"));
    let body = json!({ "session_id": first, "message": "hold" });
    let held = send(&house, Some("ann"), "POST", "/agent/ask", Some(&body));
    eventually("it is held", || house.server.data().join("held").exists());
    for session in [&first, &second] {
        let (status, head, body) = ask(&house, "ann", session, "impatient");
        assert_eq!(
            (status, &body["detail"]),
            (429, &json!("A previous question is still being processed"))
        );
        assert!(
            head.contains("retry-after: 1\r\n") || head.ends_with("retry-after: 1"),
            "{head}"
        );
    }
    // Others are not held up.
    let other = begin(&house, "bob");
    assert_eq!(ask(&house, "bob", &other, "me").0, 200);
    fs::write(house.server.data().join("go"), "").unwrap();
    assert_eq!(read(held).0, 200);
    // What was refused has spent nothing.
    assert_eq!(ask(&house, "ann", &first, "two").0, 200);
    assert_eq!(ask(&house, "ann", &second, "three").0, 200);
    let (status, head, body) = ask(&house, "ann", &first, "four");
    assert_eq!(status, 429);
    let detail = body["detail"].as_str().unwrap();
    let seconds = detail
        .strip_prefix("Rate limit exceeded; retry in ")
        .and_then(|rest| rest.strip_suffix('s'))
        .unwrap();
    assert!(head.contains(&format!("retry-after: {seconds}")), "{head}");
    assert!((1..=3_600).contains(&seconds.parse::<u64>().unwrap()));
}

#[test]
fn who_leaves_has_the_agent_interrupted_and_who_waits_too_long_is_told() {
    let house = house("deadline = \"300ms\"");
    let session = begin(&house, "ann");
    // To start takes its time, too.
    eventually("it is there", || ask(&house, "ann", &session, "one").0 == 200);
    let (status, _, body) = ask(&house, "ann", &session, "hold");
    assert_eq!((status, &body["detail"]), (504, &json!("no answer in time")));
    fs::write(house.server.data().join("go"), "").unwrap();
    eventually("it hears of it", || house.server.data().join("interrupted").exists());
}

#[test]
fn without_being_told_to_nobody_answers() {
    let house = House::start();
    for path in [
        "/agent/health",
        "/agent/sessions/0835c2b4-0000-4000-8000-000000000001/history",
    ] {
        assert_eq!(read(send(&house, None, "GET", path, None)).0, 404, "{path}");
    }
}

fn notes(file: &std::path::Path) -> Vec<Value> {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn every_question_is_noted_whatever_becomes_of_it() {
    let house = house("rate_max = 5");
    let file = house.server.data().join("audit.jsonl");
    let (first, second) = (begin(&house, "ann"), begin(&house, "ann"));
    assert_eq!(ask(&house, "ann", &first, "how are you?").0, 200);
    assert_eq!(ask(&house, "ann", &first, "what is wrong").0, 200);
    assert_eq!(ask(&house, "ann", &first, "die").0, 502);
    let body = json!({ "session_id": first, "message": "hold" });
    let held = send(&house, Some("ann"), "POST", "/agent/ask", Some(&body));
    eventually("it is held", || house.server.data().join("held").exists());
    assert_eq!(ask(&house, "ann", &second, "impatient").0, 429);
    fs::write(house.server.data().join("go"), "").unwrap();
    assert_eq!(read(held).0, 200);
    assert_eq!(ask(&house, "ann", &first, &"ü".repeat(600)).0, 200);
    let (status, head, _) = ask(&house, "ann", &first, "once more");
    assert_eq!(status, 429);
    let found = notes(&file);
    let kinds: Vec<_> = found.iter().map(|note| note["event"].as_str().unwrap()).collect();
    let expected = [
        "ask_start",
        "ask_ok",
        "ask_start",
        "ask_ok",
        "ask_start",
        "ask_error",
        "ask_start",
        "concurrency_blocked",
        "ask_ok",
        "ask_start",
        "ask_ok",
        "rate_limited",
    ];
    assert_eq!(kinds, expected);
    let mut requests = Vec::new();
    for note in &found {
        let session = if note["event"] == "concurrency_blocked" {
            &second
        } else {
            &first
        };
        assert_eq!(
            (&note["user"], &note["session_id"]),
            (&json!("ann"), &json!(session)),
            "{note}"
        );
        assert_eq!(note["address"], "127.0.0.1", "{note}");
        // Whole seconds for whoever knows the service before, and to the millisecond.
        let at = note["timestamp"].as_str().unwrap();
        assert!(at.len() == 20 && at.ends_with('Z') && at.as_bytes()[10] == b'T', "{at}");
        assert!(note["timestamp_ms"].as_u64().unwrap() > 1_600_000_000_000, "{note}");
        requests.push(note["request_id"].as_str().unwrap().to_owned());
    }
    assert_eq!(requests[0], requests[1], "of one request");
    assert_ne!(requests[0], requests[2]);
    let (started, ended) = (&found[0], &found[1]);
    assert_eq!(
        (&started["message"], &started["message_len"]),
        (&json!("how are you?"), &json!(12))
    );
    assert_eq!(
        (&ended["result_preview"], &ended["result_len"]),
        (&json!("answer 1"), &json!(8))
    );
    assert_eq!((&ended["turns"], &ended["is_error"]), (&json!(3), &json!(false)));
    assert!(
        ended["elapsed_ms"].is_u64() && ended.get("subprocess_ms").is_some(),
        "{ended}"
    );
    assert_eq!(ended["message_id"].as_str().map(str::len), Some(36));
    assert_eq!(found[3]["is_error"], true);
    assert_eq!(found[5]["error"], "the agent has ended without an answer");
    assert!(found[5]["elapsed_ms"].is_u64());
    assert_eq!(found[7]["error"], "A previous question is still being processed");
    let long = found[9]["message"].as_str().unwrap();
    assert_eq!((long.chars().count(), &found[9]["message_len"]), (500, &json!(600)));
    let limited = found.last().unwrap();
    let seconds = limited["retry_after_s"].as_u64().unwrap();
    assert!(
        (1..=3_600).contains(&seconds) && head.contains(&format!("retry-after: {seconds}")),
        "{head}"
    );
    assert_eq!(limited["bound"], "user");
}

#[test]
fn an_audit_file_that_cannot_be_written_is_told_of_and_questions_are_answered() {
    let wall = tempfile::tempdir().unwrap();
    let in_the_way = wall.path().join("file");
    fs::write(&in_the_way, "").unwrap();
    for (path, is_told) in [(in_the_way.join("audit.jsonl"), true), ("/dev/null".into(), false)] {
        let house = house(&format!("audit = \"{}\"", path.display()));
        let session = begin(&house, "ann");
        assert_eq!(ask(&house, "ann", &session, "one").0, 200, "{path:?}");
        assert_eq!(ask(&house, "ann", &session, "two").0, 200, "{path:?}");
        assert!(!house.server.data().join("audit.jsonl").exists());
        let (_, said, _) = house.terminate();
        assert_eq!(
            said.matches("the audit file cannot be written").count(),
            usize::from(is_told),
            "{said}"
        );
    }
    assert!(
        fs::metadata("/dev/null").is_ok_and(|found| !found.is_file()),
        "it is what it was"
    );
}

#[test]
fn notes_are_put_aside_bare_and_elsewhere_as_the_configuration_says() {
    let more = "[audit]\nfile = \"notes/a.jsonl\"\nbytes = 1\nfiles = 2\ntexts = false\nflush = \"each\"";
    let house = house(more);
    let session = begin(&house, "ann");
    for message in ["one", "two"] {
        assert_eq!(ask(&house, "ann", &session, message).0, 200);
    }
    let dir = house.server.data().join("notes");
    let all: Vec<_> = ["a.jsonl", "a.1.jsonl", "a.2.jsonl", "a.3.jsonl"]
        .map(|name| notes(&dir.join(name)))
        .to_vec();
    let kinds: Vec<Vec<_>> = all
        .iter()
        .map(|notes| notes.iter().map(|note| note["event"].clone()).collect())
        .collect();
    assert_eq!(
        kinds,
        [
            vec![json!("ask_ok")],
            vec![json!("ask_start")],
            vec![json!("ask_ok")],
            vec![]
        ]
    );
    for note in all.iter().flatten() {
        assert!(
            note.get("message").is_none() && note.get("result_preview").is_none(),
            "{note}"
        );
    }
    assert_eq!(all[1][0]["message_len"], 3);
    use std::os::unix::fs::PermissionsExt as _;
    let mode = fs::metadata(dir.join("a.jsonl")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "nobody else's");
}

#[test]
fn one_address_asks_only_so_often_whoever_it_is() {
    let house = house("address_max = 2");
    let (anns, bobs) = (begin(&house, "ann"), begin(&house, "bob"));
    assert_eq!(ask(&house, "ann", &anns, "one").0, 200);
    assert_eq!(ask(&house, "bob", &bobs, "two").0, 200);
    for (user, session) in [("ann", &anns), ("bob", &bobs)] {
        let (status, head, body) = ask(&house, user, session, "three");
        assert_eq!(status, 429, "{body}");
        assert!(
            body["detail"]
                .as_str()
                .unwrap()
                .starts_with("Rate limit exceeded; retry in "),
            "{body}"
        );
        assert!(head.contains("retry-after: 3"), "within the hour: {head}");
    }
    let last = notes(&house.server.data().join("audit.jsonl")).pop().unwrap();
    assert_eq!(
        (&last["event"], &last["bound"], &last["user"]),
        (&json!("rate_limited"), &json!("address"), &json!("bob"))
    );
}

#[test]
fn whether_a_question_would_be_answered_is_told_to_whoever_may_ask_one() {
    let home = tempfile::tempdir().unwrap();
    let house = house_with(
        "total = 1",
        vec![("HOME".to_owned(), home.path().display().to_string())],
    );
    let ready = |user: Option<&str>| {
        let (status, _, body) = read(send(&house, user, "GET", "/agent/ready", None));
        (status, body)
    };
    assert_eq!((ready(None).0, ready(Some("eve")).0), (401, 403));
    let (status, body) = ready(Some("ann"));
    let expected = json!({
        "status": "ready", "dialect": "claude", "program": "claude", "program_found": true, "sessions_dir_exists": false,
        "questions": { "running": 0, "waiting": 0, "most": 1 }, "sessions": 0, "agents": 0,
    });
    assert_eq!((status, body), (200, expected));
    fs::create_dir_all(home.path().join(".claude/projects")).unwrap();
    let session = begin(&house, "ann");
    let body = json!({ "session_id": session, "message": "hold" });
    let held = send(&house, Some("ann"), "POST", "/agent/ask", Some(&body));
    eventually("it is held", || house.server.data().join("held").exists());
    let (status, body) = ready(Some("bob"));
    assert_eq!(
        (status, &body["status"], &body["sessions_dir_exists"]),
        (503, &json!("not_ready"), &json!(true))
    );
    assert_eq!(body["questions"], json!({ "running": 1, "waiting": 0, "most": 1 }));
    assert_eq!((&body["sessions"], &body["agents"]), (&json!(1), &json!(1)));
    fs::write(house.server.data().join("go"), "").unwrap();
    assert_eq!(read(held).0, 200);
    assert_eq!(ready(Some("ann")).0, 200);
    fs::remove_file(house.server.data().join("claude")).unwrap();
    let (status, body) = ready(Some("ann"));
    assert_eq!((status, &body["program_found"]), (503, &json!(false)));
    let text = body.to_string();
    assert!(!text.contains(home.path().to_str().unwrap()), "no places: {text}");
    // Without a service there is nothing to be ready.
    let other = House::start();
    assert_eq!(read(send(&other, None, "GET", "/agent/ready", None)).0, 404);
}

/// A request with these headers: its status and body.
fn with(house: &House, method: &str, path: &str, headers: &[&str], body: Option<&Value>) -> (u16, Value) {
    let address = house.server.address();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let body = body.map(Value::to_string).unwrap_or_default();
    let mut text = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n");
    for header in headers {
        text.push_str(&format!("{header}\r\n"));
    }
    text.push_str(&format!(
        "Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    ));
    stream.write_all(text.as_bytes()).unwrap();
    let (status, _, body) = read(stream);
    (status, body)
}

#[test]
fn a_token_in_a_cookie_is_one_where_that_is_wanted_and_only_for_pages_of_ours() {
    // Before the tables.
    let data = tempfile::tempdir().unwrap();
    let player = data.path().join("claude");
    fs::write(&player, PLAYER).unwrap();
    fs::set_permissions(&player, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let hash = TokenHash::of(&"ann".repeat(10));
    let config = |cookie: &str| {
        format!(
            "{cookie}\n[ask]\ncommand = [\"{}\"]\ninherit = [\"HOUSE\"]\n[[tokens]]\nname = \"ann\"\nhash = \"{hash}\"\naccess = \"write\"\n",
            player.display()
        )
    };
    let options = |cookie: &str| ServerOptions {
        config: Some(config(cookie)),
        ..ServerOptions::default()
    };
    let house = House::on(data, options("token_cookie = \"sid\""));
    let cookie = format!("Cookie: other=1; sid={}", "ann".repeat(10));
    let wrong = format!("Cookie: sid={}", "bob".repeat(10));
    let origin = format!("Origin: http://{}", house.server.address());
    let new = "/agent/sessions/new";
    // To look is free.
    for (headers, status) in [(&[cookie.as_str()][..], 200), (&[wrong.as_str()], 401), (&[], 401)] {
        assert_eq!(
            with(&house, "GET", "/agent/ready", headers, None).0,
            status,
            "{headers:?}"
        );
        assert_eq!(
            with(&house, "GET", "/api/v1/agents?repository=ask", headers, None).0,
            status,
            "{headers:?}"
        );
    }
    // To do something takes a page of ours.
    for (more, status) in [
        (&["Sec-Fetch-Site: same-origin"][..], 200),
        (&["Sec-Fetch-Site: none"], 200),
        (&[origin.as_str()], 200),
        (&["Sec-Fetch-Site: same-site"], 403),
        (&["Sec-Fetch-Site: cross-site"], 403),
        (&["Origin: http://evil.example"], 403),
        (&["Origin: null"], 403),
        (&[], 403),
    ] {
        let mut headers = vec![cookie.as_str()];
        headers.extend_from_slice(more);
        assert_eq!(with(&house, "POST", new, &headers, None).0, status, "{more:?}");
    }
    // A header needs no page.
    let bearer = format!("Authorization: Bearer {}", "ann".repeat(10));
    assert_eq!(with(&house, "POST", new, &[&bearer], None).0, 200);
    assert_eq!(with(&house, "POST", new, &[&bearer, &wrong], None).0, 200, "and wins");
    let twice = format!("{cookie}; sid=x");
    assert_eq!(with(&house, "GET", "/agent/ready", &[&twice], None).0, 401);
    // The whole way.
    let (_, made) = with(&house, "POST", new, &[&cookie, &origin], None);
    let question = json!({ "session_id": made["session_id"], "message": "one" });
    let (status, answer) = with(&house, "POST", "/agent/ask", &[&cookie, &origin], Some(&question));
    assert_eq!((status, &answer["result"]), (200, &json!("answer 1")), "{answer}");
    // Git has its own ways, and no cookies.
    let refs = "/repos/ask/info/refs?service=git-upload-pack";
    assert_eq!(with(&house, "GET", refs, &[&bearer], None).0, 200);
    assert_eq!(with(&house, "GET", refs, &[&cookie], None).0, 401);
    // Nor has anybody where nobody has said so.
    let house = House::on(house.kill(), options(""));
    assert_eq!(with(&house, "GET", "/agent/ready", &[&cookie], None).0, 401);
    assert_eq!(
        with(&house, "POST", new, &[&cookie, "Sec-Fetch-Site: same-origin"], None).0,
        401
    );
}

#[test]
fn what_a_session_is_answered_by_says_where_it_comes_from() {
    let house = house("");
    let session = begin(&house, "ann");
    assert_eq!(ask(&house, "ann", &session, "one").0, 200);
    let name = format!("ask-{}", &session[..13]);
    let ann = "ann".repeat(10);
    let show = || house.ask_as(Some(&ann), "GET", &format!("/{name}"), None).is(200);
    assert_eq!(show()["source"], "config");
    let player = house.server.data().join("claude");
    let body = json!({ "name": "it", "repository": "ask", "preset": "claude", "argv": [player], "inherit": ["HOUSE"], "start": false });
    let made = house.ask_as(Some(&ann), "POST", "", Some(&body)).is(201);
    assert_eq!(made["source"], "preset:claude");
    assert_eq!(made["updated_at"], made["created_at"]);
    let begun = house.ask_as(Some(&ann), "POST", "/it/sessions", None).is(201);
    let path = format!("/it/sessions/{}", begun["id"].as_str().unwrap());
    let question = json!({ "message": "one" });
    let answer = house
        .ask_as(Some(&ann), "POST", &format!("{path}/ask"), Some(&question))
        .is(200);
    assert_eq!(answer["message_id"].as_str().map(str::len), Some(36), "{answer}");
    let session = house.ask_as(Some(&ann), "GET", &path, None).is(200);
    let answered_by = session["answered_by"].as_str().unwrap();
    let shown = house
        .ask_as(Some(&ann), "GET", &format!("/{answered_by}"), None)
        .is(200);
    assert_eq!(shown["source"], "session:it");
}
