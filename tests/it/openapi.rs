//! The description of the API against a running server: what is described is there, takes what it is said to take, and answers as it is said to answer.

use std::{
    collections::BTreeSet,
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
};

use serde_json::{Value, json};

use crate::{
    agents_sessions::Play,
    support::{Server, wire::eventually},
};

const SESSION: &str = "0835c2b4-0000-4000-8000-000000000001";

struct Answer {
    status: u16,
    head: String,
    text: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or(Value::Null)
    }

    fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find_map(|(key, value)| key.eq_ignore_ascii_case(name).then_some(value))
    }
}

/// A request of ann's, who may do everything.
fn ask(server: &Server, method: &str, path: &str, body: Option<&Value>) -> Answer {
    let mut stream = TcpStream::connect(server.address()).unwrap();
    let body = body.map(Value::to_string).unwrap_or_default();
    let kind = if body.is_empty() {
        ""
    } else {
        "Content-Type: application/json\r\n"
    };
    let text = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: Bearer {}\r\n{kind}Content-Length: {}\r\n\r\n{body}",
        "ann".repeat(10),
        body.len()
    );
    stream.write_all(text.as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let answer = String::from_utf8(answer).unwrap();
    let (head, text) = answer.split_once("\r\n\r\n").unwrap();
    Answer {
        status: head.split(' ').nth(1).unwrap().parse().unwrap(),
        head: head.to_owned(),
        text: text.to_owned(),
    }
}

fn document(server: &Server) -> Value {
    let answer = ask(server, "GET", "/api/v1/openapi.json", None);
    assert_eq!(
        (answer.status, answer.header("content-type")),
        (200, Some("application/json"))
    );
    answer.json()
}

/// Path, method and operation.
fn operations(document: &Value) -> Vec<(&str, &str, &Value)> {
    let paths = document["paths"].as_object().unwrap();
    let all = paths.iter().flat_map(|(path, item)| {
        item.as_object()
            .unwrap()
            .iter()
            .map(move |(method, one)| (path.as_str(), method.as_str(), one))
    });
    all.collect()
}

fn filled(path: &str) -> String {
    let values = [
        ("{agent}", "none"),
        ("{session}", SESSION),
        ("{request}", "1"),
        ("{name}", "nope"),
        ("{repository}", "nope"),
        ("{workspace}", "main"),
        ("{checkpoint}", "HEAD"),
        ("{path}", "x"),
    ];
    let mut path = path.to_owned();
    for (name, value) in values {
        path = path.replace(name, value);
    }
    assert!(!path.contains('{'), "{path}");
    path
}

fn play() -> Play {
    Play::with("[ask]\nworkspace = \"demo\"", &[])
}

#[test]
fn where_no_ask_service_is_configured_none_is_described() {
    let play = Play::with("", &[]);
    let document = document(&play.house.server);
    let all = operations(&document);
    assert!(all.len() > 40, "{}", all.len());
    assert!(all.iter().all(|(path, _, _)| !path.starts_with("/agent/")));
    assert_eq!(ask(&play.house.server, "GET", "/agent/openapi.json", None).status, 404);
}

#[test]
fn every_operation_is_answered_and_every_other_method_is_refused() {
    let play = play();
    let server = &play.house.server;
    let document = document(server);
    let all = operations(&document);
    assert!(all.len() > 40, "{}", all.len());
    for path in document["paths"].as_object().unwrap().keys() {
        let mut allowed = Vec::new();
        for method in ["GET", "POST", "PATCH", "DELETE", "PUT"] {
            let is_described = document["paths"][path][method.to_lowercase()].is_object();
            let answer = ask(server, method, &filled(path), None);
            let at = format!("{method} {path}: {} {}", answer.status, answer.text);
            assert_eq!(answer.status == 405, !is_described, "{at}");
            assert!(
                !answer.text.contains("there is nothing at this path") && answer.status != 500,
                "{at}"
            );
            if is_described {
                allowed.push(method);
            }
        }
        allowed.extend(Some("HEAD").filter(|_| allowed.contains(&"GET")));
        let told = ask(server, "PUT", &filled(path), None);
        let told: BTreeSet<_> = told.header("allow").unwrap().split(", ").collect();
        assert_eq!(told, allowed.into_iter().collect(), "{path}");
    }
    // What would be wrong with one that is not there.
    let answer = ask(server, "GET", "/api/v1/nothing", None);
    assert!(
        answer.status == 404 && answer.text.contains("there is nothing at this path"),
        "{}",
        answer.text
    );
    let classic = ask(server, "GET", "/agent/openapi.json", None).json();
    assert_eq!(classic["info"]["title"], "Overlord Agent");
    assert_eq!(classic["paths"]["/agent/ask"], document["paths"]["/agent/ask"]);
}

/// The members that a message names behind the word "expected".
fn expected(message: &str) -> Option<BTreeSet<&str>> {
    let (_, rest) = message.split_once("unknown field `nonsense!`")?;
    let names = rest.split(" at line ").next().unwrap().split('`');
    // Names in the spelling of somebody else's program are other names of the same.
    let is_ours = |name: &&str| !name.contains(|c: char| c.is_ascii_uppercase());
    Some(names.skip(1).step_by(2).filter(is_ours).collect())
}

/// What a schema says that its members are.
fn members<'a>(document: &'a Value, schema: &'a Value) -> BTreeSet<&'a str> {
    let schema = followed(document, schema);
    let members = schema["properties"].as_object().into_iter().flatten();
    members.map(|(name, _)| name.as_str()).collect()
}

fn followed<'a>(document: &'a Value, schema: &'a Value) -> &'a Value {
    match schema["$ref"].as_str() {
        Some(target) => document.pointer(&target[1..]).unwrap(),
        None => schema,
    }
}

#[test]
fn what_bodies_and_queries_may_hold_is_what_is_described() {
    let play = play();
    let server = &play.house.server;
    let document = document(server);
    let (mut bodies, mut queries) = (0, 0);
    for (path, method, operation) in operations(&document) {
        let (method, target) = (method.to_uppercase(), filled(path));
        let at = format!("{method} {path}");
        let none = Vec::new();
        let parameters = operation["parameters"].as_array().unwrap_or(&none).iter();
        let described: BTreeSet<_> = parameters
            .filter(|one| one["in"] == "query")
            .map(|one| one["name"].as_str().unwrap())
            .collect();
        let told = ask(server, &method, &format!("{target}?nonsense!=1"), None).json();
        match expected(told["error"]["message"].as_str().unwrap_or_default()) {
            Some(known) => {
                assert_eq!(described, known, "{at}");
                queries += 1;
            }
            None => assert!(described.is_empty(), "{at} takes no query: {told}"),
        }
        let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
        // The ask service takes more than it knows.
        if schema.is_null() || path.starts_with("/agent/") {
            continue;
        }
        let known = |body: Value| {
            let answer = ask(server, &method, &target, Some(&body));
            let told = answer.json();
            let message = told["error"]["message"].as_str().unwrap_or_default().to_owned();
            let names = expected(&message).unwrap_or_else(|| panic!("{at}: {body}: {}", answer.text));
            names.into_iter().map(str::to_owned).collect::<BTreeSet<_>>()
        };
        let text = |names: BTreeSet<&str>| names.into_iter().map(str::to_owned).collect::<BTreeSet<_>>();
        assert_eq!(
            text(members(&document, schema)),
            known(json!({ "nonsense!": 1 })),
            "{at}"
        );
        bodies += 1;
        for (name, inner) in followed(&document, schema)["properties"].as_object().unwrap() {
            let (item, wrap): (&Value, fn(Value) -> Value) = match inner["type"].as_str() {
                Some("array") => (&inner["items"], |item| json!([item])),
                Some("object") => (&inner["additionalProperties"], |item| json!({ "x": item })),
                _ => (inner, |item| item),
            };
            let members = members(&document, item);
            if !members.is_empty() {
                let body = json!({ name: wrap(json!({ "nonsense!": 1 })) });
                assert_eq!(text(members), known(body), "{at} {name}");
                bodies += 1;
            }
        }
    }
    assert!(bodies > 15 && queries > 8, "{bodies} {queries}");
}

/// Holds a value against a schema, as far as the words of ours go.
#[track_caller]
fn holds(document: &Value, schema: &Value, value: &Value, at: &str) {
    let schema = followed(document, schema);
    if let Some(any) = schema["anyOf"].as_array() {
        match value {
            Value::Null => assert!(any.iter().any(|one| one["type"] == "null"), "{at} is null"),
            value => holds(document, &any[0], value, at),
        }
        return;
    }
    if let Some(words) = schema["enum"].as_array() {
        assert!(words.contains(value), "{at}: {value} is none of {words:?}");
    }
    let kinds: Vec<&str> = match &schema["type"] {
        Value::Null => return,
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
        kind => vec![kind.as_str().unwrap()],
    };
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if kinds.contains(&"integer") && (number.is_u64() || number.is_i64()) => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    assert!(kinds.contains(&kind), "{at}: {value} is not {kinds:?}");
    for (n, item) in value.as_array().into_iter().flatten().enumerate() {
        holds(document, &schema["items"], item, &format!("{at}[{n}]"));
    }
    if let Some(object) = value.as_object() {
        for name in schema["required"].as_array().into_iter().flatten() {
            assert!(
                object.contains_key(name.as_str().unwrap()),
                "{at} has no {name}: {value}"
            );
        }
        for (name, member) in object {
            match &schema["properties"][name] {
                Value::Null => assert!(schema["additionalProperties"] != false, "{at} has {name}: {value}"),
                inner => holds(document, inner, member, &format!("{at}.{name}")),
            }
        }
    }
}

/// Makes requests, and holds each answer against the description.
struct Reader<'a> {
    server: &'a Server,
    document: Value,
    seen: BTreeSet<String>,
}

impl Reader<'_> {
    #[track_caller]
    fn ask(&mut self, id: &str, path: &str, body: Option<Value>, status: u16) -> Value {
        let all = operations(&self.document);
        let (template, method, operation) = all.iter().find(|(_, _, one)| one["operationId"] == id).unwrap();
        let bare = path.split('?').next().unwrap();
        let same = template.split('/').count() == bare.split('/').count();
        assert!(
            same || template.ends_with("{path}") || template.ends_with("{name}"),
            "{id}: {path} is no {template}"
        );
        let answer = ask(self.server, &method.to_uppercase(), path, body.as_ref());
        assert_eq!(answer.status, status, "{id} {path}: {}", answer.text);
        let responses = &operation["responses"];
        let response = match &responses[status.to_string()] {
            Value::Null if status >= 400 => &responses["default"],
            response => response,
        };
        let response = followed(&self.document, response);
        assert!(response.is_object(), "{id} does not tell of {status}");
        let content = &response["content"];
        let kind = answer.header("content-type").unwrap_or_default();
        let kind = kind.split(';').next().unwrap();
        match content.is_null() {
            true => assert!(answer.text.is_empty(), "{id}: {}", answer.text),
            false => assert!(content[kind].is_object(), "{id} gives {kind}"),
        }
        let told = answer.json();
        if kind == "application/json" {
            holds(&self.document, &content[kind]["schema"], &told, id);
        }
        if !response["headers"]["Location"].is_null() {
            let location = answer
                .header("location")
                .unwrap_or_else(|| panic!("{id} says where: {}", answer.head));
            assert!(location.starts_with("/api/v1/"), "{location}");
        }
        if status < 400 {
            self.seen.insert(id.to_owned());
        }
        told
    }
}

#[test]
fn answers_are_as_they_are_described() {
    let play = play();
    let server = &play.house.server;
    let mut read = Reader {
        server,
        document: document(server),
        seen: BTreeSet::new(),
    };
    let repos = "/api/v1/repos";
    read.ask(
        "createRepository",
        repos,
        Some(json!({ "name": "team/app", "description": "x" })),
        201,
    );
    read.ask("createRepository", repos, Some(json!({ "name": "team/app" })), 409);
    read.ask("listRepositories", repos, None, 200);
    read.ask("showRepository", "/api/v1/repos/team/app", None, 200);
    read.ask(
        "changeRepository",
        "/api/v1/repos/team/app",
        Some(json!({ "name": "team/other" })),
        200,
    );
    read.ask("deleteRepository", "/api/v1/repos/team/other", None, 204);
    read.ask("showRepository", "/api/v1/repos/team/app", None, 404);

    let all = "/api/v1/workspaces";
    let one = |rest: &str| format!("/api/v1/workspaces/demo/main{rest}");
    read.ask(
        "createWorkspace",
        "/api/v1/workspaces/demo",
        Some(json!({ "name": "main", "task": "x" })),
        201,
    );
    read.ask(
        "createWorkspace",
        "/api/v1/workspaces/demo",
        Some(json!({ "name": "main" })),
        409,
    );
    read.ask("listAllWorkspaces", all, None, 200);
    read.ask("listWorkspaces", "/api/v1/workspaces/demo", None, 200);
    read.ask("showWorkspace", &one(""), None, 200);
    let files = play.house.files();
    fs::create_dir(files.join("sub")).unwrap();
    fs::write(files.join("sub/a"), "one\n").unwrap();
    let wish = json!({ "summary": "Made a", "tool": "Write", "agent": "ann", "turn": 1, "outcome": "ok", "duration_ms": 5, "trailers": [{ "key": "Why", "value": "so" }], "skip_unchanged": true });
    read.ask("recordCheckpoint", &one("/checkpoints"), Some(wish.clone()), 201);
    read.ask("recordCheckpoint", &one("/checkpoints"), Some(wish), 200);
    fs::write(files.join("sub/a"), "two\n").unwrap();
    read.ask("diff", &one("/diff"), None, 200);
    read.ask(
        "recordCheckpoint",
        &one("/checkpoints"),
        Some(json!({ "summary": "Changed a" })),
        201,
    );
    read.ask("listCheckpoints", &one("/checkpoints?all=true&limit=2"), None, 200);
    read.ask("showCheckpoint", &one("/checkpoints/HEAD"), None, 200);
    read.ask("diff", &one("/diff?from=HEAD~1&to=HEAD"), None, 200);
    read.ask("readFile", &one("/files/sub/a"), None, 200);
    read.ask("readFile", &one("/files/none"), None, 404);
    read.ask("listRoot", &one("/tree"), None, 200);
    read.ask("listDirectory", &one("/tree/sub"), None, 200);
    read.ask(
        "restore",
        &one("/restore"),
        Some(json!({ "checkpoint": "HEAD~1", "dry_run": true })),
        200,
    );
    read.ask("undo", &one("/undo"), Some(json!({ "checkpoint": "HEAD~1" })), 409);
    read.ask("undo", &one("/undo"), Some(json!({ "checkpoint": "HEAD" })), 200);
    read.ask("createBranch", &one("/branches"), Some(json!({ "name": "other" })), 201);
    read.ask("squash", &one("/squash"), Some(json!({ "branch": "all" })), 201);

    let agents = "/api/v1/agents";
    play.agent("it", json!({}));
    read.ask("attachAgent", "/api/v1/agents/it/attach", None, 409);
    let body = json!({ "name": "sh", "repository": "demo", "argv": ["sh", "-c", "echo hi; read x; read y"], "label": "a shell", "ladder": { "terminate_ms": 50 } });
    read.ask("createAgent", agents, Some(body.clone()), 201);
    read.ask("createAgent", agents, Some(body), 409);
    let of_sh = |rest: &str| format!("/api/v1/agents/sh{rest}");
    read.ask("waitForAgent", &of_sh("/wait?until=ready"), None, 200);
    eventually("it has said something", || {
        server.data().join("logs/sh/stdout").exists()
    });
    read.ask("listAgents", agents, None, 200);
    read.ask("showAgent", &of_sh(""), None, 200);
    read.ask("attachAgent", &of_sh("/attach"), None, 200);
    read.ask("readLogs", &of_sh("/logs"), None, 200);
    read.ask("readOutput", &of_sh("/output?limit=10"), None, 200);
    read.ask("readEvents", &of_sh("/events"), None, 200);
    read.ask("listPermissions", &of_sh("/permissions"), None, 200);
    read.ask(
        "decidePermission",
        &of_sh("/permissions/1"),
        Some(json!({ "decision": "allow" })),
        404,
    );
    read.ask("tellAgent", &of_sh("/ask"), Some(json!({ "message": "hello" })), 409);
    play.agent("talks", json!({ "start": true }));
    read.ask("waitForAgent", "/api/v1/agents/talks/wait?until=ready", None, 200);
    let hello = json!({ "message": "hello" });
    read.ask("tellAgent", "/api/v1/agents/talks/ask", Some(hello), 202);
    read.ask("changeAgent", &of_sh("/change"), Some(json!({ "model": "m" })), 409);
    read.ask("interruptAgent", &of_sh("/interrupt"), None, 409);
    read.ask("removeAgent", &of_sh(""), None, 409);
    // It may end over that at once.
    read.ask("writeInput", &of_sh("/input"), Some(json!({ "close": true })), 204);
    read.ask("restartAgent", &of_sh("/restart"), None, 202);
    read.ask("stopAgent", &of_sh("/stop"), None, 202);
    read.ask("killAgent", &of_sh("/kill"), None, 202);
    play.house.ended_as("ann", "sh");
    read.ask("startAgent", &of_sh("/start"), None, 202);
    read.ask("killAgent", &of_sh("/kill"), None, 202);
    play.house.ended_as("ann", "sh");
    read.ask("attachAgent", &of_sh("/attach"), None, 200);
    read.ask("removeAgent", &of_sh(""), None, 204);

    let sessions = "/api/v1/agents/it/sessions";
    let made = read.ask("createSession", sessions, None, 201);
    let id = made["id"].as_str().unwrap().to_owned();
    let of_it = |rest: &str| format!("{sessions}/{id}{rest}");
    read.ask("listSessionPermissions", &of_it("/permissions"), None, 200);
    read.ask("ask", &of_it("/ask"), Some(json!({ "message": "write it" })), 200);
    read.ask("ask", &of_it("/ask"), Some(json!({ "message": "" })), 400);
    read.ask("listSessions", sessions, None, 200);
    read.ask("showSession", &of_it(""), None, 200);
    read.ask("readHistory", &of_it("/history"), None, 200);
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| ask(server, "POST", &of_it("/ask"), Some(&json!({ "message": "may I?" }))));
        let mut open = Value::Null;
        eventually("it wants to know", || {
            open = read.ask("listSessionPermissions", &of_it("/permissions"), None, 200);
            open["permissions"][0].is_object()
        });
        let request = open["permissions"][0]["request"].as_str().unwrap();
        let path = of_it(&format!("/permissions/{request}"));
        read.ask(
            "decideSessionPermission",
            &path,
            Some(json!({ "decision": "deny" })),
            204,
        );
        assert_eq!(asked.join().unwrap().status, 200);
    });
    read.ask("interruptSession", &of_it("/interrupt"), None, 409);
    read.ask("closeSession", &of_it(""), None, 204);
    read.ask("showSession", &of_it(""), None, 404);

    read.ask("health", "/agent/health", None, 200);
    let begun = read.ask("newSession", "/agent/sessions/new", None, 200);
    let id = begun["session_id"].as_str().unwrap();
    read.ask("sessionHistory", &format!("/agent/sessions/{id}/history"), None, 200);
    read.ask("sessionHistory", "/agent/sessions/x/history", None, 400);
    read.ask(
        "askAgent",
        "/agent/ask",
        Some(json!({ "session_id": "x", "message": "x" })),
        400,
    );
    // There is no such program here.
    read.ask("ready", "/agent/ready", None, 503);
    read.ask("askServiceDescription", "/agent/openapi.json", None, 200);
    read.ask("description", "/api/v1/openapi.json", None, 200);
    read.ask("metrics", "/metrics", None, 200);
    // Nobody takes the files from under an agent.
    read.ask("killAgent", "/api/v1/agents/talks/kill", None, 202);
    play.house.ended_as("ann", "talks");
    read.ask("removeWorkspace", &one("?unsaved=discard"), None, 204);
    let described: BTreeSet<_> = operations(&read.document)
        .iter()
        .map(|(_, _, one)| one["operationId"].as_str().unwrap().to_owned())
        .collect();
    // Which would take the real agent, something to change or to interrupt, and a question of an agent's own.
    let left = [
        "askAgent",
        "changeAgent",
        "decidePermission",
        "interruptAgent",
        "interruptSession",
        "ready",
    ];
    let unseen: Vec<_> = described.difference(&read.seen).collect();
    assert_eq!(unseen, left, "each was seen to go well");
    play.end();
}
