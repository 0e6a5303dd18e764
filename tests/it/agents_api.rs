//! The API over agents: shapes, statuses, rights, streams; and the command line, which speaks to it.

use std::process::Command;

use gitstead::base::TokenHash;
use serde_json::{Value, json};

use crate::support::{Git, ServerOptions, agents::House, wire::eventually};

#[test]
fn agents_are_made_listed_shown_and_removed() {
    let house = House::start();
    assert_eq!(house.get(""), json!({ "agents": [] }));
    let body = json!({ "repository": "team/app", "workspace": "w", "argv": ["/bin/sh", "-c", "sleep 1000"], "start": false, "env": { "COLOR": "abc" } });
    let made = house.ask("POST", "", Some(&body)).is(201);
    assert_eq!(
        (&made["name"], &made["state"], &made["run"]),
        (&json!("sh-1"), &json!("created"), &json!(0))
    );
    assert_eq!(made["env"], json!(["COLOR"]), "names only");
    let second = house.ask("POST", "", Some(&body)).is(201);
    assert_eq!(second["name"], "sh-2");
    let names = |list: Value| -> Vec<String> {
        let list = list["agents"].as_array().unwrap().clone();
        list.iter()
            .map(|agent| agent["name"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(names(house.get("")), ["sh-1", "sh-2"]);
    assert_eq!(names(house.get("?repository=team%2Fapp")), ["sh-1", "sh-2"]);
    assert_eq!(names(house.get("?repository=other")), [""; 0]);
    house.post("/sh-1/start");
    assert_eq!(house.get("/sh-1/wait?until=ready")["state"], "ready");
    let refused = house.ask("DELETE", "/sh-1", None);
    assert_eq!(refused.is(409)["error"]["code"], "running");
    house.post("/sh-1/kill");
    house.ended("sh-1");
    house.ask("DELETE", "/sh-1", None).is(204);
    house.ask("DELETE", "/sh-2", None).is(204);
    assert_eq!(
        house.ask("GET", "/sh-1", None).is(404)["error"]["message"],
        "there is no agent 'sh-1'"
    );
    assert_eq!(names(house.get("")), [""; 0]);
    // Also for the next server.
    let data = house.kill();
    let house = House::on(data, ServerOptions::default());
    assert_eq!(names(house.get("")), [""; 0]);
}

#[test]
fn what_makes_no_sense_is_refused_with_a_reason() {
    let house = House::start();
    let refused = |change: Value| {
        let mut body = json!({ "repository": "demo", "argv": ["true"] });
        for (key, value) in change.as_object().unwrap() {
            body[key] = value.clone();
        }
        let answer = house.ask("POST", "", Some(&body));
        assert_eq!(answer.status, 400, "{change} {}", answer.body);
        answer.body["error"]["message"].as_str().unwrap().to_owned()
    };
    assert_eq!(refused(json!({ "argv": [] })), "there is no command");
    assert!(refused(json!({ "name": "../x" })).contains("cannot be the name of an agent"));
    assert!(refused(json!({ "repository": "../x" })).contains("segment"));
    assert!(refused(json!({ "workspace": "a/b" })).contains("a/b"));
    assert!(refused(json!({ "dialect": "klingon" })).contains("plain"));
    assert!(refused(json!({ "env": { "LD_PRELOAD": "x" } })).contains("LD_PRELOAD"));
    assert!(refused(json!({ "cwd": "../.." })).contains("cwd"));
    assert!(refused(json!({ "watchdogs": { "cat": { "after_ms": 1, "action": "stop" } } })).contains("cat"));
    assert!(refused(json!({ "nonsense": 1 })).contains("nonsense"));
    house.run("it", "true", json!({}));
    let again = house.ask(
        "POST",
        "",
        Some(&json!({ "name": "it", "repository": "demo", "argv": ["true"] })),
    );
    assert_eq!(again.is(409)["error"]["code"], "exists");
    assert_eq!(house.ask("PATCH", "/it", None).status, 405);
    assert_eq!(
        house.ask("POST", "/it/ask", Some(&json!({ "message": "" }))).status,
        400
    );
}

#[test]
fn who_may_manage_a_repository_may_manage_its_agents() {
    let (write, read) = ("w".repeat(40), "r".repeat(40));
    let hash = |token: &str| TokenHash::of(token).to_string();
    let config = format!(
        "[[tokens]]\nname = \"writer\"\nhash = \"{}\"\naccess = \"write\"\nrepos = [\"demo\"]\n[[tokens]]\nname = \"reader\"\nhash = \"{}\"\nrepos = [\"demo\"]\n",
        hash(&write),
        hash(&read)
    );
    let house = House::with(ServerOptions {
        config: Some(config),
        ..ServerOptions::default()
    });
    let body = json!({ "name": "it", "repository": "demo", "argv": ["sh", "-c", "while :; do sleep 1; done"] });
    assert_eq!(house.ask("POST", "", Some(&body)).status, 401);
    assert_eq!(house.ask_as(Some(&read), "POST", "", Some(&body)).status, 403);
    let mut other = body.clone();
    other["repository"] = json!("other");
    assert_eq!(house.ask_as(Some(&write), "POST", "", Some(&other)).status, 404);
    let made = house.ask_as(Some(&write), "POST", "", Some(&body)).is(201);
    assert_eq!(made["owner"], "writer");
    assert_eq!(house.ask("GET", "/it", None).status, 401);
    assert_eq!(house.ask("GET", "/nobody", None).status, 401, "as if there were one");
    assert_eq!(house.ask_as(Some(&read), "GET", "/it", None).is(200)["name"], "it");
    assert_eq!(
        house.ask_as(Some(&read), "GET", "", None).is(200)["agents"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    for (method, path) in [
        ("GET", "/it/logs"),
        ("GET", "/it/events"),
        ("POST", "/it/stop"),
        ("POST", "/it/kill"),
        ("DELETE", "/it"),
    ] {
        assert_eq!(
            house.ask_as(Some(&read), method, path, None).status,
            403,
            "{method} {path}"
        );
    }
    assert_eq!(house.ask_as(Some(&write), "POST", "/it/kill", None).status, 202);
}

#[test]
fn events_have_numbers_and_come_again_from_any_of_them() {
    let house = House::start();
    house.run("it", "read x; echo 1 > a; exit 0", json!({}));
    let live = std::thread::scope(|scope| {
        let follower = scope.spawn(|| house.follow("/it/events?until_ended=true", |_| false));
        house.ask("POST", "/it/input", Some(&json!({ "text": "go\n" }))).is(204);
        follower.join().unwrap()
    });
    // It may be ready before or after it is written to.
    let kinds = live.iter().map(|(_, kind, _)| kind.as_str());
    let kinds: Vec<_> = kinds.filter(|kind| *kind != "input").collect();
    assert_eq!(kinds, ["created", "started", "ready", "checkpoint", "exited"]);
    for (id, kind, data) in &live {
        assert_eq!(
            (*id, Some(kind.as_str())),
            (data["seq"].as_u64(), data["type"].as_str())
        );
    }
    let third = live[2].0.unwrap();
    let rest = house.follow(&format!("/it/events?until_ended=true&after={third}"), |_| false);
    assert_eq!(rest, live[3..]);
    let page = house.get(&format!("/it/events?after={third}&limit=1"));
    assert_eq!(page["events"][0], live[3].2);
    assert_eq!(page["cursor"], json!(live[3].0));
    // Also when another server has to read them from the ledger.
    let data = house.kill();
    let house = House::on(data, ServerOptions::default());
    let again = house.follow("/it/events?until_ended=true", |_| false);
    assert_eq!(again, live);
}

#[test]
fn output_comes_between_events_for_whoever_wants_it_and_goes_on_where_one_left_off() {
    let house = House::start();
    house.run("it", "echo one; read x; echo two; echo 1 > a; exit 0", json!({}));
    let path = "/it/events?output=true&until_ended=true";
    let live = std::thread::scope(|scope| {
        let follower = scope.spawn(|| house.follow_from(path, None, |_| false));
        house.ask("POST", "/it/input", Some(&json!({ "text": "go\n" }))).is(204);
        follower.join().unwrap()
    });
    let shown = |events: &[(Option<String>, String, Value)]| {
        let text = |(_, kind, data): &(_, String, Value)| match kind.as_str() {
            "output" => format!(
                "{}: {}",
                data["stream"].as_str().unwrap(),
                data["text"].as_str().unwrap()
            ),
            kind => kind.to_owned(),
        };
        events.iter().map(text).collect::<Vec<_>>()
    };
    let all = shown(&live);
    let place = |what: &str| {
        all.iter()
            .position(|one| one == what)
            .unwrap_or_else(|| panic!("{what} {all:?}"))
    };
    assert!(place("stdout: one") < place("stdout: two"));
    assert!(place("ready") < place("checkpoint") && place("checkpoint") < place("exited"));
    assert_eq!(all.len(), 8, "{all:?}");
    assert!(all.iter().any(|one| one == "input"), "{all:?}");
    for at in 0..live.len() {
        let id = live[at].0.as_deref().unwrap();
        let rest = house.follow_from(path, Some(id), |_| false);
        let mut wanted = shown(&live[at + 1..]);
        let mut rest = shown(&rest);
        // What is there already comes as it is found.
        wanted.sort();
        rest.sort();
        assert_eq!(rest, wanted, "after {id}");
    }
    // By events alone, as browsers ask again.
    let id = live
        .iter()
        .find(|(_, kind, _)| kind == "ready")
        .unwrap()
        .0
        .clone()
        .unwrap();
    let id = id.split('.').next().unwrap().to_owned();
    let rest = house.follow_from("/it/events?until_ended=true", Some(&id), |_| false);
    let mut rest = shown(&rest);
    // It may have been written to before it was ready.
    rest.retain(|kind| kind != "input");
    assert_eq!(rest, ["checkpoint", "exited"]);
    let bad = house.follow_from("/it/events", Some("x.y"), |_| true);
    assert!(bad.is_empty(), "it is refused");
}

#[test]
fn an_agent_is_told_of_pushes_into_its_workspace() {
    let house = House::start();
    house.run("it", "echo 1 > a; touch ../there; read x", json!({}));
    house.run("elsewhere", "read x", json!({ "workspace": "other" }));
    eventually("there is a checkpoint", || {
        house.kinds("it").contains(&"checkpoint".to_owned())
    });
    let git = Git::new();
    git.ok(git.dir(), &format!("clone -q {} copy", house.server.repo_url("demo")));
    let copy = git.path("copy");
    let old = git.ok(&copy, "rev-parse HEAD");
    let new = git.commit(&copy, "b", "2\n", "From outside");
    git.ok(&copy, "push -q origin HEAD");
    let told = house
        .events("it")
        .into_iter()
        .find(|event| event["type"] == "push_applied")
        .unwrap();
    assert_eq!(
        (&told["old"], &told["new"], &told["updated"]),
        (&json!(old), &json!(new), &json!(1))
    );
    assert_eq!(
        (&told["branch"], &told["left"]),
        (&json!("refs/heads/main"), &json!([]))
    );
    assert_eq!(std::fs::read_to_string(house.files().join("b")).unwrap(), "2\n");
    assert!(!house.kinds("elsewhere").contains(&"push_applied".to_owned()));
}

#[test]
fn one_that_fails_leaves_its_last_words() {
    let house = House::start();
    house.run(
        "it",
        "echo out; echo 'no such model' >&2; echo 'giving up' >&2; exit 3",
        json!({}),
    );
    let agent = house.ended("it");
    assert_eq!(agent["last_words"], "no such model\ngiving up");
    let failed = house.events("it").into_iter().next_back().unwrap();
    assert_eq!(
        (&failed["type"], &failed["last_words"]),
        (&json!("failed"), &agent["last_words"])
    );
    house.run("well", "echo warning >&2", json!({ "workspace": "other" }));
    assert_eq!(house.ended("well")["last_words"], Value::Null);
}

#[test]
fn logs_are_followed_to_the_end() {
    let house = House::start();
    house.run("it", "echo one; read x; echo two; echo three >&2", json!({}));
    let lines = std::thread::scope(|scope| {
        let follower = scope.spawn(|| house.follow("/it/logs?follow=true", |(_, kind, _)| kind == "end"));
        house.ask("POST", "/it/input", Some(&json!({ "text": "go\n" }))).is(204);
        follower.join().unwrap()
    });
    let mut texts: Vec<_> = lines
        .iter()
        .filter(|(_, kind, _)| kind == "line")
        .map(|(_, _, data)| data["text"].as_str().unwrap())
        .collect();
    texts.sort_unstable();
    assert_eq!(texts, ["one", "three", "two"]);
    let page = house.get("/it/logs?lines=2");
    assert_eq!(page["lines"].as_array().unwrap().len(), 2);
    let cursor = house.get("/it/logs?after=0")["lines"][0]["seq"].clone();
    assert_eq!(
        house.get(&format!("/it/logs?after={cursor}"))["lines"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    // The next server has them from the disk.
    let data = house.kill();
    let house = House::on(data, ServerOptions::default());
    assert_eq!(house.get("/it/logs")["lines"].as_array().unwrap().len(), 3);
    // Its numbers go on: a cursor of before misses nothing that is new, and is told.
    house.post("/it/start");
    let newer = || house.get(&format!("/it/logs?after={cursor}"));
    eventually("it writes", || !newer()["lines"].as_array().unwrap().is_empty());
    let page = newer();
    assert_eq!(
        (&page["lines"][0]["text"], &page["restarted"]),
        (&json!("one"), &json!(true))
    );
    let (_, bytes) = house.raw("/it/output");
    assert!(bytes.starts_with(b"one\ntwo\n"), "and the disk has all of it");
}

fn cli(house: &House, args: &[&str]) -> (bool, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_gitstead"))
        .env_clear()
        .env("HOME", house.server.data())
        .arg("agent")
        .arg("--data")
        .arg(house.server.data())
        .args(args)
        .output()
        .unwrap();
    (
        output.status.success(),
        String::from_utf8_lossy(&output.stdout).into_owned(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

#[test]
fn nobody_takes_the_files_from_under_an_agent() {
    let house = House::start();
    house.run("it", "touch there; while :; do sleep 0.05; done", json!({}));
    eventually("it runs", || house.files().join("there").exists());
    let repos = house.server.data().join("repos");
    let refused = format!(
        "agent 'it' is {}: stop it first",
        house.get("/it")["state"].as_str().unwrap()
    );
    let remove = || {
        let out = std::process::Command::new(env!("CARGO_BIN_EXE_gitstead"))
            .env_clear()
            .args(["workspace", "remove", "demo", "main", "--unsaved", "discard", "--data"])
            .arg(house.server.data())
            .arg("--repos")
            .arg(&repos)
            .output()
            .unwrap();
        (out.status.code(), String::from_utf8(out.stderr).unwrap())
    };
    let (code, said) = remove();
    assert_eq!((code, said.contains(&refused)), (Some(1), true), "{said}");
    let path = "/api/v1/workspaces/demo/main?unsaved=discard";
    let answer = crate::support::wire::request(&house.server, "DELETE", path, &[], b"");
    assert!(
        answer.status == 409 && answer.text().contains(&refused),
        "{}",
        answer.text()
    );
    assert!(house.files().join("there").exists());
    house.post("/it/kill");
    house.ended("it");
    assert_eq!(remove(), (Some(0), String::new()));
    assert!(!house.files().exists());
}

#[test]
fn one_command_shows_it() {
    let house = House::start();
    let args = ["start", "--workspace", "demo", "--", "sh", "-c", "echo hi > report.md"];
    let (ok, out, err) = cli(&house, &args);
    assert!(ok, "{err}");
    assert_eq!(out, "sh-1 exited in demo/main: exit code 0, 1 checkpoint\n");
    let (ok, out, _) = cli(
        &house,
        &[
            "start",
            "-w",
            "demo/other",
            "--name",
            "echo",
            "-f",
            "--",
            "sh",
            "-c",
            "echo out; echo err >&2; exit 3",
        ],
    );
    assert!(!ok, "who waits for it learns that it has failed");
    assert_eq!(out, "out\n");
    let (_, out, _) = cli(&house, &["list"]);
    assert_eq!(
        out,
        "echo  failed  demo/other  sh -c 'echo out; echo err >&2; exit 3'\nsh-1  exited  demo/main   sh -c 'echo hi > report.md'\n"
    );
    let (_, out, err) = cli(&house, &["logs", "echo"]);
    assert_eq!((out.as_str(), err.as_str()), ("out\n", "err\n"));
    let (ok, _, err) = cli(
        &house,
        &["start", "-w", "demo", "--name", "bad", "--", "no-such-program"],
    );
    assert!(!ok && err.contains("there is no program 'no-such-program'"), "{err}");
    assert!(!cli(&house, &["show", "bad"]).0, "it never was one");
    let (ok, out, err) = cli(&house, &["start", "echo"]);
    assert!(
        !ok && out.starts_with("echo failed in demo/other: exit code 3"),
        "{out}{err}"
    );
    let (ok, out, _) = cli(&house, &["show", "echo", "--json"]);
    assert!(ok);
    assert_eq!(serde_json::from_str::<Value>(&out).unwrap()["run"], 2);
    assert!(cli(&house, &["rm", "echo"]).0);
    let (ok, _, err) = cli(&house, &["show", "echo"]);
    assert!(!ok && err.contains("there is no agent 'echo'"), "{err}");
}

#[test]
fn an_agent_is_talked_to_and_stopped_from_the_command_line() {
    let house = House::start();
    let script = "while read x; do echo \"got $x\"; done; while :; do sleep 1; done";
    let (ok, out, err) = cli(
        &house,
        &["start", "-w", "demo", "--name", "it", "--", "sh", "-c", script],
    );
    assert!(ok && out.starts_with("it ready in demo/main: process "), "{out}{err}");
    assert!(cli(&house, &["input", "it", "hello"]).0);
    eventually("it answers", || cli(&house, &["logs", "it"]).1 == "got hello\n");
    let (ok, out, err) = cli(&house, &["restart", "it"]);
    assert!(ok && out.starts_with("it ready"), "{out}{err}");
    let (ok, out, err) = cli(&house, &["stop", "it"]);
    assert!(
        ok && out.starts_with("it stopped in demo/main: signal 15"),
        "{out}{err}"
    );
    let (_, out, _) = cli(&house, &["events", "it"]);
    let last: Value = serde_json::from_str(out.lines().last().unwrap()).unwrap();
    assert_eq!(last["type"], "stopped");
}

#[test]
fn a_repository_without_a_commit_gets_its_first_one_from_an_agent() {
    let house = House::start();
    let made = Command::new(env!("CARGO_BIN_EXE_gitstead"))
        .env_clear()
        .env("HOME", house.server.data())
        .args(["repo", "create", "demo", "--data"])
        .arg(house.server.data())
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let args = [
        "start",
        "--workspace",
        "demo",
        "--task",
        "Begin",
        "--wait",
        "--",
        "sh",
        "-c",
        "echo hi > a",
    ];
    let (ok, out, err) = cli(&house, &args);
    assert!(
        ok && out == "sh-1 exited in demo/main: exit code 0, 1 checkpoint\n",
        "{out}{err}"
    );
    let git = crate::support::Git::new();
    let log = git.ok(house.files(), "log --format=%s");
    assert_eq!(log.trim(), "[sh] Created a\nInitial task: Begin");
    let args = [
        "start",
        "--workspace",
        "demo/other",
        "--wait",
        "--",
        "sh",
        "-c",
        "cat a",
    ];
    let (ok, out, err) = cli(&house, &args);
    assert!(ok && out.starts_with("sh-2 exited in demo/other"), "{out}{err}");
}

#[test]
fn a_restart_that_is_overtaken_by_a_kill_is_none() {
    let house = House::start();
    let slow = json!({ "ladder": { "terminate_ms": 3_600_000 } });
    house.run(
        "it",
        "trap 'touch asked' TERM; touch main; while :; do sleep 0.05; done",
        slow,
    );
    eventually("it runs", || house.files().join("main").exists());
    let (ok, out, err) = std::thread::scope(|scope| {
        let restart = scope.spawn(|| cli(&house, &["restart", "it"]));
        eventually("it is asked", || house.files().join("asked").exists());
        house.post("/it/kill");
        restart.join().unwrap()
    });
    assert!(
        !ok && err.contains("stopped before it could be started again"),
        "{out}{err}"
    );
    assert_eq!(house.get("/it")["run"], 1);
}

#[test]
fn without_a_server_it_is_said_how_to_start_one() {
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_gitstead"))
        .env_clear()
        .args(["agent", "list", "--data"])
        .arg(dir.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("gitstead serve"), "{said}");
    // And the parent process is for nobody else, nor is what becomes an agent.
    for hidden in ["agent-parent", "agent-stage"] {
        let output = Command::new(env!("CARGO_BIN_EXE_gitstead"))
            .arg(hidden)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.code() == Some(2) && said.contains("nobody else"),
            "{said}"
        );
    }
}
