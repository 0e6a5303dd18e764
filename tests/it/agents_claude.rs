//! An agent that speaks Claude Code's stream-json, played by a shell script that really edits files: each tool is a commit before the agent goes on.

use std::fs;

use serde_json::{Value, json};

use crate::support::{Git, ServerOptions, agents::House, wire::eventually};

/// The beginning of every part: the protocol, as far as it is needed. `turn` is called for each message.
const PLAYER: &str = r#"
session=0835c2b4-0000-4000-8000-000000000001
say() { printf '%s\n' "$1"; }
init() { say '{"type":"system","subtype":"init","session_id":"'$session'","model":"mock-1","tools":[],"uuid":"i'$1'"}'; }
use_tool() { say '{"type":"assistant","message":{"id":"m'$1'","role":"assistant","content":[{"type":"tool_use","id":"'$1'","name":"'$2'","input":'"$3"'}]},"session_id":"'$session'","uuid":"a'$1'"}'; }
# Calls the hook back, and waits for the answer.
hook() {
    say '{"type":"control_request","request_id":"h'$1'","request":{"subtype":"hook_callback","callback_id":"gitstead","tool_use_id":"'$1'","input":{"session_id":"'$session'","hook_event_name":"'$2'","tool_name":"'$3'","tool_input":'"$4"',"tool_response":'"$5"',"tool_use_id":"'$1'","duration_ms":10}}}'
    while IFS= read -r answer; do
        case "$answer" in *'"h'$1'"'*) return;; esac
    done
}
result() { say '{"type":"user","message":{"role":"user","content":[{"tool_use_id":"'$1'","type":"tool_result","content":"x","is_error":'$2'}]},"session_id":"'$session'","uuid":"r'$1'"}'; }
done_with() { say '{"session_id":"'$session'","total_cost_usd":0.001,"usage":{"input_tokens":10,"output_tokens":7},"terminal_reason":"completed","is_error":false,"num_turns":1,"subtype":"success","result":"'"$1"'","type":"result","uuid":"e'$2'"}'; }
n=0
play() {
    while IFS= read -r line; do
        case "$line" in
        *'"initialize"'*)
            id=$(printf %s "$line" | sed 's/.*"request_id":"\([^"]*\)".*/\1/')
            say '{"type":"control_response","response":{"subtype":"success","request_id":"'$id'","response":{"commands":[],"hooks_applied":true,"hook_on_failure_supported":true}}}' ;;
        *'"set_model"'*|*'"set_permission_mode"'*)
            id=$(printf %s "$line" | sed 's/.*"request_id":"\([^"]*\)".*/\1/')
            say '{"type":"control_response","response":{"subtype":"success","request_id":"'$id'"}}' ;;
        *'"type":"user"'*) n=$((n + 1)); turn ;;
        esac
    done
}
"#;

const TWO_TOOLS: &str = r##"
turn() {
    init $n
    input='{"file_path":"'$PWD'/report.md","content":"# Report"}'
    use_tool w$n Write "$input"
    echo "# Report $n" > report.md
    hook w$n PostToolUse Write "$input" '{"type":"create","filePath":"'$PWD'/report.md"}'
    git log -1 --format=%s >> "$SEEN"
    result w$n false
    input='{"command":"echo x > half; exit 3","description":"Run analysis script"}'
    use_tool b$n Bash "$input"
    echo $n > half
    hook b$n PostToolUseFailure Bash "$input" null
    git log -1 --format=%s >> "$SEEN"
    result b$n true
    done_with 'All done.' $n
}
play
"##;

fn claude(house: &House, part: &str, more: Value) {
    let git = Git::new();
    let mut body = json!({
        "dialect": "claude",
        "inherit": ["HOUSE"],
        "env": { "SEEN": house.server.data().join("seen"), "GIT_CONFIG_NOSYSTEM": "1", "HOME": git.dir() },
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        body[key] = value.clone();
    }
    house.run("it", &format!("{PLAYER}{part}"), body);
}

/// Asks for something that nobody offers, again and again, and reads no answer.
const DEAF: &str = r##"
turn() {
    init $n
    touch began
    yes '{"type":"control_request","request_id":"q","request":{"subtype":"mcp_message","server_name":"x","message":{}}}' | head -n 150000
    touch asked
    while :; do sleep 1; done
}
play
"##;

#[test]
fn one_that_reads_no_answers_is_told_of_and_gets_no_more() {
    let house = House::start();
    claude(&house, DEAF, json!({ "message": "go" }));
    eventually("it has asked", || house.files().join("asked").exists());
    eventually("that is told", || {
        house.events("it").iter().any(|event| {
            event["type"] == "trouble" && event["text"] == "it does not read what it is answered: its input is closed"
        })
    });
    assert_eq!(
        house.ask("POST", "/it/input", Some(&json!({ "text": "x" }))).status,
        409
    );
    house.post("/it/kill");
    house.ended("it");
}

#[test]
fn another_model_and_another_mode_are_told_while_it_runs() {
    let house = House::start();
    claude(&house, "turn() { done_with x $n; }\nplay\n", json!({}));
    eventually("it is ready", || house.get("/it")["state"] == "ready");
    let change = |body: Value| house.ask("POST", "/it/change", Some(&body)).status;
    assert_eq!(
        change(json!({ "model": "large", "permission_mode": "acceptEdits" })),
        202
    );
    let changed = || -> Vec<Value> {
        let events = house.events("it").into_iter();
        events.filter(|event| event["type"] == "changed").collect()
    };
    eventually("they hold", || changed().len() == 2);
    let told: Vec<_> = changed()
        .iter()
        .map(|event| (event["what"].clone(), event["to"].clone()))
        .collect();
    assert_eq!(
        told,
        [
            (json!("model"), json!("large")),
            (json!("permission_mode"), json!("acceptEdits"))
        ]
    );
    for body in [
        json!({}),
        json!({ "model": "" }),
        json!({ "model": "a\nb" }),
        json!({ "temperature": 1 }),
    ] {
        assert_eq!(change(body.clone()), 400, "{body}");
    }
    house.post("/it/kill");
    house.ended("it");
    assert_eq!(change(json!({ "model": "large" })), 409);
    house.run("plain", "read x", json!({}));
    let body = json!({ "model": "large" });
    assert_eq!(house.ask("POST", "/plain/change", Some(&body)).status, 409);
    house.post("/plain/kill");
    house.ended("plain");
}

#[track_caller]
fn is_idle(house: &House) {
    let agent = house.get("/it/wait?until=idle&timeout_ms=60000");
    assert_eq!(agent["state"], "idle", "{agent} {:#?}", house.events("it"));
}

#[test]
fn each_tool_is_a_commit_before_the_agent_goes_on() {
    let house = House::start();
    claude(
        &house,
        TWO_TOOLS,
        json!({ "message": "make a report", "task": "Analyze sales data" }),
    );
    is_idle(&house);
    // What the agent itself saw when it was let go.
    let seen = fs::read_to_string(house.server.data().join("seen")).unwrap();
    assert_eq!(seen, "[Write] Created report.md\n[Bash] Run analysis script\n");
    let git = Git::new();
    git.ok(git.dir(), &format!("clone -q {} copy", house.server.repo_url("demo")));
    let copy = git.path("copy");
    assert_eq!(
        git.ok(&copy, "log --format=%an:%s").trim(),
        "it:[Bash] Run analysis script\nit:[Write] Created report.md\nGitstead:Initial task: Analyze sales data"
    );
    let body = git.ok(&copy, "log -1 --format=%b HEAD~1");
    for trailer in [
        "Agent: it",
        "Session: 0835c2b4-0000-4000-8000-000000000001",
        "Turn: 1",
        "Tool-Use-Id: w1",
        "Outcome: ok",
        "Source: barrier",
    ] {
        assert!(body.lines().any(|line| line == trailer), "{trailer}\n{body}");
    }
    assert!(
        git.ok(&copy, "log -1 --format=%b").contains("Outcome: failed"),
        "one that has failed, too"
    );
    // A second turn, and what the events say of it.
    house
        .ask("POST", "/it/ask", Some(&json!({ "message": "again" })))
        .is(202);
    eventually("the second turn ends", || {
        house.kinds("it").iter().filter(|kind| *kind == "turn_ended").count() == 2
    });
    let agent = house.get("/it");
    assert_eq!((&agent["checkpoints"], &agent["state"]), (&json!(4), &json!("idle")));
    assert_eq!(agent["session"], "0835c2b4-0000-4000-8000-000000000001");
    let events = house.events("it");
    let of_call = |call: &str| -> Vec<String> {
        let about = |event: &&Value| {
            event["call"] == call || event["calls"].as_array().is_some_and(|all| all.contains(&json!(call)))
        };
        events
            .iter()
            .filter(about)
            .map(|event| event["type"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(of_call("b2"), ["tool_started", "tool_finished", "checkpoint"]);
    let told = |kind: &str| {
        events
            .iter()
            .find(|event| event["call"] == "b2" && event["type"] == kind)
            .unwrap()
    };
    assert_eq!(told("tool_finished")["started_at_ms"], told("tool_started")["at_ms"]);
    assert!(told("tool_finished")["duration_ms"].is_u64());
    let sha = told("tool_started")["input_sha"].as_str().unwrap();
    assert!(sha.len() == 64 && told("tool_finished")["input_sha"] == sha, "{sha}");
    // And where in its output that is: behind the line that told of it.
    let (head, all) = house.raw("/it/output");
    assert!(head.contains("gitstead-offset: 0"), "{head}");
    for (kind, line) in [
        ("tool_started", r#""type":"tool_use","id":"b2""#),
        ("checkpoint", r#""request_id":"hb2""#),
    ] {
        let told = |event: &&Value| event["type"] == kind && event.to_string().contains("\"b2\"");
        let offset = events.iter().find(told).unwrap()["offset"].as_u64().unwrap();
        let before = String::from_utf8_lossy(&all[..offset as usize]);
        let last = before.strip_suffix('\n').unwrap().rsplit('\n').next().unwrap();
        assert!(last.contains(line), "{kind} {last}");
        let (_, rest) = house.raw(&format!("/it/output?offset={offset}&limit=40"));
        assert_eq!(rest, all[offset as usize..][..40]);
    }
    // The end of its input is the end of it.
    house.post("/it/stop");
    let agent = house.ended("it");
    assert_eq!(
        (&agent["state"], &agent["exit_code"]),
        (&json!("stopped"), &json!(0)),
        "{agent}"
    );
}

#[test]
fn a_checkpoint_that_takes_too_long_comes_late_and_holds_up_nobody() {
    let house = House::start();
    claude(&house, TWO_TOOLS, json!({ "patience_ms": 50 }));
    house.get("/it/wait?until=ready");
    // Somebody has the workspace.
    let lock = house.server.repos().join("demo.git/worktrees/main/gitstead.lock");
    let held = fs::OpenOptions::new().create(true).append(true).open(&lock).unwrap();
    rustix::fs::flock(&held, rustix::fs::FlockOperation::LockExclusive).unwrap();
    house.ask("POST", "/it/ask", Some(&json!({ "message": "go" }))).is(202);
    is_idle(&house);
    assert!(house.kinds("it").contains(&"checkpoint_late".to_owned()));
    drop(held);
    eventually("they are made all the same", || {
        house
            .events("it")
            .iter()
            .filter(|event| event["type"] == "checkpoint")
            .count()
            == 2
    });
    let late: Vec<_> = house
        .events("it")
        .into_iter()
        .filter(|event| event["type"] == "checkpoint")
        .map(|event| event["late"].clone())
        .collect();
    assert_eq!(late, [json!(true), json!(true)]);
    house.post("/it/kill");
    house.ended("it");
}

#[test]
fn a_tool_that_is_cut_off_by_the_end_is_recorded_as_interrupted() {
    let house = House::start();
    let part = r#"
turn() {
    init $n
    use_tool b$n Bash '{"command":"make","description":"Build it"}'
    echo half > built
    exit 1
}
play
"#;
    claude(&house, part, json!({ "message": "go" }));
    let agent = house.ended("it");
    assert_eq!((&agent["state"], &agent["exit_code"]), (&json!("failed"), &json!(1)));
    let git = Git::new();
    let log = git.ok(house.files(), "log -1 --format=%s%n%b");
    assert!(log.starts_with("[Bash] Build it\n"), "{log}");
    assert!(
        log.contains("Outcome: interrupted") && log.contains("Tool-Use-Id: b1"),
        "{log}"
    );
    let kinds = house.kinds("it");
    assert_eq!(kinds.last().map(String::as_str), Some("failed"), "{kinds:?}");
    assert!(kinds.contains(&"turn_ended".to_owned()), "{kinds:?}");
}

#[test]
fn a_tool_that_the_server_did_not_outlast_is_recorded_by_the_next_one() {
    let house = House::start();
    let part = r#"
turn() {
    init $n
    use_tool r$n Read '{"file_path":"'$PWD'/x"}'
    result r$n false
    use_tool b$n Bash '{"command":"make","description":"Build it"}'
    use_tool w$n Write '{"file_path":"'$PWD'/built","content":"x"}'
    echo half > built
    sleep 1000
}
play
"#;
    claude(&house, part, json!({ "message": "go" }));
    eventually("it is at work", || house.files().join("built").exists());
    eventually("that is told", || {
        house.kinds("it").iter().filter(|kind| *kind == "tool_started").count() == 3
    });
    // Until the ledger has that on the disk: it is what the next server goes by.
    let (_, _) = house.raw("/it/events");
    house.run("other", "true", json!({ "workspace": "other" }));
    house.ended("other");
    let house = House::on(house.kill(), ServerOptions::default());
    assert_eq!(house.ended("it")["ended"], true);
    let log = Git::new().ok(house.files(), "log -1 --format=%s%n%b");
    for part in [
        "[Bash] Build it",
        "Tool-Use-Id: b1",
        "Tool-Use-Id: w1",
        "Turn: 1",
        "Outcome: interrupted",
        "Source: end",
    ] {
        assert!(log.lines().any(|line| line == part), "{part}\n{log}");
    }
    assert!(!log.contains("r1"), "{log}");
}

#[test]
fn a_question_for_permission_is_answered_by_whoever_may() {
    let house = House::start();
    let part = r#"
turn() {
    init $n
    input='{"file_path":"'$PWD'/a","content":"x"}'
    use_tool w$n Write "$input"
    say '{"type":"control_request","request_id":"p","request":{"subtype":"can_use_tool","tool_name":"Write","input":'"$input"',"tool_use_id":"w'$n'"}}'
    while IFS= read -r answer; do
        case "$answer" in
        *'"p"'*allow*) echo x >> a; until [ -e ../go ]; do sleep 0.02; done; break;;
        *'"p"'*) break;;
        esac
    done
    result w$n false
    done_with done $n
}
play
"#;
    claude(&house, part, json!({ "message": "go" }));
    let open = || house.get("/it/permissions")["permissions"].clone();
    eventually("it asks", || !open().as_array().unwrap().is_empty());
    assert_eq!(house.get("/it")["state"], "waiting_permission");
    assert_eq!(open()[0]["tool"], "Write");
    let allow = json!({ "decision": "allow" });
    let decide = |name: &str, how: &Value| {
        let path = format!("/it/permissions/{name}");
        house.ask("POST", &path, Some(how)).status
    };
    let first = open()[0]["request"].as_str().unwrap().to_owned();
    assert_eq!((decide("other", &allow), decide("p", &allow)), (404, 404));
    assert_eq!(decide(&first, &allow), 204);
    // It says nothing of having heard; it works all the same.
    eventually("it is at work again", || house.get("/it")["state"] == "busy");
    fs::write(house.files().with_file_name("go"), "").unwrap();
    is_idle(&house);
    let lines = || {
        std::fs::read_to_string(house.files().join("a"))
            .unwrap()
            .lines()
            .count()
    };
    assert_eq!(lines(), 1);
    assert_eq!(decide(&first, &allow), 404, "once");
    // Another question, which the agent calls by the same name, is not answered with that.
    house
        .ask("POST", "/it/ask", Some(&json!({ "message": "again" })))
        .is(202);
    eventually("it asks", || !open().as_array().unwrap().is_empty());
    assert_eq!((decide(&first, &allow), decide("p", &allow)), (404, 404));
    let second = open()[0]["request"].as_str().unwrap().to_owned();
    assert_eq!(decide(&second, &json!({ "decision": "deny" })), 204);
    is_idle(&house);
    assert_eq!(lines(), 1);
    assert!(house.kinds("it").contains(&"permission_decided".to_owned()));
    house.post("/it/kill");
    house.ended("it");
}

#[test]
fn what_was_said_is_read_from_the_agents_own_file() {
    let home = tempfile::tempdir().unwrap();
    let session = "0835f0ad-1b2c-4d3e-8f90-0123456789ab";
    let project = home.path().join(".claude/projects/-ws");
    std::fs::create_dir_all(&project).unwrap();
    let fixture = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/fixtures/sessions/claude/c14-branches.jsonl"
    );
    std::fs::copy(fixture, project.join(format!("{session}.jsonl"))).unwrap();
    let history = |args: &[&str]| {
        let out = std::process::Command::new(env!("CARGO_BIN_EXE_gitstead"))
            .env_clear()
            .env("HOME", home.path())
            .args(["agent", "history", "--json"])
            .args(args)
            .output()
            .unwrap();
        let told = serde_json::from_slice::<serde_json::Value>(&out.stdout).unwrap_or_default();
        (out.status.code(), told)
    };
    let (code, last) = history(&["--session", session, "-n", "2"]);
    assert_eq!(code, Some(0));
    let texts = |told: &serde_json::Value| -> Vec<String> {
        let messages = told["messages"].as_array().expect("a list");
        messages
            .iter()
            .map(|one| one["text"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(texts(&last), ["Shorter.", "Sea."]);
    let before = last["before"].as_str().expect("there are older ones");
    let (_, first) = history(&["--session", session, "--before", before]);
    assert_eq!(
        texts(&first),
        [
            "Write a poem about rivers.",
            "I will write it to a file.",
            "It is in poem.md.",
            "Now about the sea.",
            "The sea is wide."
        ]
    );
    assert!(first["before"].is_null());
    for wrong in [
        "../../etc/passwd",
        "{0835f0ad-1b2c-4d3e-8f90-0123456789ab}",
        "0835f0ad-1b2c-4d3e-8f90-0123456789ff",
    ] {
        assert_eq!(history(&["--session", wrong]).0, Some(1), "{wrong}");
    }
}
