//! Agents played from their transcripts (`fixtures/dialect`), by shell scripts that say what these say and really do what they tell of: a clone shows a commit for each tool.

use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf};

use serde_json::{Value, json};

use crate::support::{Git, ServerOptions, agents::House, wire::eventually};

/// `await TEXT` reads what it is told until there is that text, `commits N` waits until there are so many commits.
const PLAYER: &str = r#"#!/bin/sh
here=$(dirname "$0")
case "$*" in *--version*) echo "x" >> "$here/versions"; echo '0.25.9 (Letta Code)'; exit;; esac
for word in "$@"; do printf '%s\n' "$word" >> "$here/arguments"; done
await() { while IFS= read -r line; do case "$line" in *"$1"*) return;; esac; done; exit 9; }
commits() { n=0; while [ "$(git rev-list --count HEAD)" -lt "$1" ] && [ $n -lt 1000 ]; do sleep 0.01; n=$((n + 1)); done; }
"#;

/// What is done at a line that has this text: `before` it is said or `after`.
struct Deed {
    at: &'static str,
    before: &'static str,
    after: &'static str,
}

fn deed(at: &'static str, before: &'static str, after: &'static str) -> Deed {
    Deed { at, before, after }
}

/// Writes the player of a transcript, without the lines that have one of `without`; each deed is done once, at the first such line.
fn player(house: &House, transcript: &str, without: &[&str], deeds: Vec<Deed>) -> PathBuf {
    let lines = format!("{}/fixtures/dialect/{transcript}.ndjson", env!("CARGO_MANIFEST_DIR"));
    let lines = fs::read_to_string(lines).unwrap();
    let (mut script, mut deeds) = (PLAYER.to_owned(), deeds);
    for line in lines.lines().filter(|line| !line.starts_with(r#"{"@""#)) {
        if without.iter().any(|text| line.contains(text)) {
            continue;
        }
        let now = deeds
            .iter()
            .position(|deed| line.contains(deed.at))
            .map(|at| deeds.remove(at));
        let line = line
            .replace("/ws", house.files().to_str().unwrap())
            .replace('\'', r"'\''");
        let (before, after) = now.map_or(("", ""), |deed| (deed.before, deed.after));
        script.push_str(&format!("{before}\nprintf '%s\\n' '{line}'\n{after}\n"));
    }
    let left: Vec<_> = deeds.iter().map(|deed| deed.at).collect();
    assert!(left.is_empty(), "no line has {left:?}");
    let path = house.server.data().join("player");
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn start(house: &House, player: &PathBuf, more: Value) {
    let git = Git::new();
    let mut body = json!({
        "name": "it", "repository": "demo", "argv": [player], "inherit": ["HOUSE"], "task": "Play",
        "env": { "GIT_CONFIG_NOSYSTEM": "1", "HOME": git.dir() },
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        body[key] = value.clone();
    }
    house.ask("POST", "", Some(&body)).is(201);
}

/// Author and subject of every commit of a clone, newest first, and what the commits say of their tools.
fn cloned(house: &House) -> (Vec<String>, String) {
    let git = Git::new();
    git.ok(git.dir(), &format!("clone -q {} copy", house.server.repo_url("demo")));
    let copy = git.path("copy");
    let log = git.ok(&copy, "log --format=%an:%s");
    (
        log.lines().map(str::to_owned).collect(),
        git.ok(&copy, "log --format=%b"),
    )
}

fn arguments(house: &House) -> String {
    let text = fs::read_to_string(house.server.data().join("arguments")).unwrap();
    text.lines().collect::<Vec<_>>().join(" ")
}

/// Answers the questions for permission in their order.
fn decide(house: &House, decisions: &[&str]) {
    for (at, decision) in decisions.iter().enumerate() {
        let asked = || -> Vec<Value> {
            let events = house.events("it").into_iter();
            events.filter(|event| event["type"] == "permission").collect()
        };
        eventually("it asks", || asked().len() > at);
        let request = asked()[at]["request"].as_str().unwrap().to_owned();
        let body = json!({ "decision": decision });
        house
            .ask("POST", &format!("/it/permissions/{request}"), Some(&body))
            .is(204);
    }
}

#[test]
fn what_codex_has_recorded_by_its_hooks_is_recorded_once() {
    let house = House::start();
    // As its hook is called: it waits for that, and tells of the command in its stream afterwards.
    let hook = |call: &str| -> &'static str {
        let event = r#"{"session_id":"s","turn_id":"t","cwd":"'"$PWD"'","hook_event_name":"PostToolUse","tool_name":"Bash","tool_use_id":"CALL","tool_input":{"command":"make"},"tool_response":"x"}"#;
        let event = event.replace("CALL", call);
        let program = env!("CARGO_BIN_EXE_gitstead");
        Box::leak(
            format!("printf %s '{event}' | {program} hook codex > ../hooked 2>&1; git log -1 --format=%s >> ../seen; cat ../hooked >&2").into_boxed_str(),
        )
    };
    let change: &'static str = Box::leak(format!("echo oops > log; {}", hook("call_1")).into_boxed_str());
    let deeds = vec![
        deed(r#"item.completed","item":{"id":"item_2""#, change, ""),
        deed(r#"item.completed","item":{"id":"item_3""#, hook("call_2"), ""),
    ];
    let player = player(&house, "codex/x02-failure-and-changes", &[], deeds);
    start(&house, &player, json!({ "preset": "codex", "message": "do it" }));
    assert_eq!(house.ended("it")["state"], "exited", "{:#?}", house.events("it"));
    let seen = fs::read_to_string(house.files().with_file_name("seen")).unwrap();
    assert_eq!(
        seen.lines().next(),
        Some("[Bash] make"),
        "it was there before the agent went on: {}",
        fs::read_to_string(house.files().with_file_name("hooked")).unwrap()
    );
    let (log, bodies) = cloned(&house);
    let of_bash: Vec<_> = log.iter().filter(|line| line.contains("[Bash]")).collect();
    assert_eq!(of_bash, ["it:[Bash] make"], "{log:?}");
    assert!(
        bodies.contains("Source: hook") && bodies.contains("Tool-Use-Id: call_1"),
        "{bodies}"
    );
    // What changed nothing is told of by the stream alone.
    assert!(
        !bodies.contains("call_2") && log.iter().any(|line| line.contains("[Patch]")),
        "{log:?}"
    );
}

#[test]
fn what_codex_does_in_one_turn_is_recorded() {
    let house = House::start();
    let deeds = vec![
        deed(
            r#"item.completed","item":{"id":"item_2""#,
            "echo oops > log",
            "commits 2",
        ),
        deed(
            r#"item.completed","item":{"id":"item_3""#,
            "echo new > new.txt; echo r > report.md",
            "commits 3",
        ),
        deed(
            r#"item.completed","item":{"id":"item_4""#,
            "mkdir a; echo b > a/b.txt; echo d > d",
            "commits 4",
        ),
    ];
    let player = player(&house, "codex/x02-failure-and-changes", &[], deeds);
    let more = json!({ "preset": "codex", "message": "do it", "args": ["--add-dir", "/x y"], "model": "mock" });
    start(&house, &player, more);
    assert_eq!(house.ended("it")["state"], "exited", "{:#?}", house.events("it"));
    assert_eq!(
        arguments(&house),
        "exec --json --skip-git-repo-check -s workspace-write -m mock --add-dir /x y -- do it"
    );
    let (log, bodies) = cloned(&house);
    assert_eq!(
        log,
        [
            // It has failed, and changed nothing.
            "it:[Patch] update x",
            "it:[Patch] delete old.txt, add a/b.txt (+2)",
            "it:[Patch] add new.txt, update report.md",
            "it:[Bash] echo oops >&2; exit 3",
            "Gitstead:Initial task: Play",
        ]
    );
    for trailer in [
        "Session: 01a1-0000",
        "Outcome: failed",
        "Exit-Code: 3",
        "Tool-Use-Id: item_3",
    ] {
        assert!(bodies.lines().any(|line| line == trailer), "{trailer}\n{bodies}");
    }
}

#[test]
fn what_codex_does_over_its_app_server_is_recorded() {
    let house = House::start();
    let deeds = vec![
        deed(r#""id":1,"result""#, "await '\"initialize\"'", ""),
        deed(
            r#""id":2,"result""#,
            "await thread/start; printf '%s\\n' \"$line\" > \"$here/thread\"",
            "",
        ),
        deed(r#""id":3,"result""#, "await turn/start", ""),
        deed(r#"requestId":0"#, "await decision", ""),
        deed(
            r#"completed","params":{"threadId":"thr_1","turnId":"turn_1","item":{"id":"i2""#,
            "echo m > made",
            "commits 2",
        ),
        deed(
            r#"completed","params":{"threadId":"thr_1","turnId":"turn_1","item":{"id":"i3""#,
            "await decision",
            "",
        ),
        deed("turn/completed", "", "await never"),
    ];
    let left_out = [
        r#""id":9,"#,
        r#""id":10,"#,
        r#""id":11,"#,
        r#"requestId":11"#,
        "turn_2",
        "j0",
        r#""id":5,"#,
        r#""id":6,"#,
        "stream disconnected",
        "gave up",
        "future/thing",
        r#""id":99"#,
    ];
    let player = player(&house, "codex-app-server/x09-approvals", &left_out, deeds);
    let more =
        json!({ "preset": "codex-app-server", "message": "make", "approval_policy": "on-request", "model": "mock" });
    start(&house, &player, more);
    decide(&house, &["allow", "deny"]);
    eventually("the turn ends", || house.kinds("it").contains(&"turn_ended".to_owned()));
    house.post("/it/stop");
    house.ended("it");
    assert_eq!(arguments(&house), "app-server");
    let thread = fs::read_to_string(house.server.data().join("thread")).unwrap();
    for told in [
        r#""approvalPolicy":"on-request""#,
        r#""sandbox":"workspace-write""#,
        r#""model":"mock""#,
    ] {
        assert!(thread.contains(told), "{thread}");
    }
    let (log, bodies) = cloned(&house);
    assert_eq!(log, ["it:[Bash] make all", "Gitstead:Initial task: Play"]);
    assert!(
        bodies.contains("Session: thr_1") && bodies.contains("Tool-Use-Id: i2"),
        "{bodies}"
    );
    let ends: Vec<_> = house
        .events("it")
        .into_iter()
        .filter(|event| event["type"] == "tool_finished")
        .collect();
    assert_eq!(ends[1]["outcome"], "denied", "{ends:?}");
}

#[test]
fn what_opencode_does_in_one_turn_is_recorded() {
    let house = House::start();
    let deeds = vec![
        deed("call_0_0", "echo x > report.md", "commits 2"),
        deed("call_1_1", "commits 3; echo y > report.md", "commits 4"),
    ];
    let player = player(&house, "opencode/o01-run", &[], deeds);
    start(
        &house,
        &player,
        json!({ "preset": "opencode", "message": "write it", "permission_mode": "auto" }),
    );
    assert_eq!(house.ended("it")["state"], "exited", "{:#?}", house.events("it"));
    assert_eq!(arguments(&house), "run --format json --auto -- write it");
    let (log, bodies) = cloned(&house);
    assert_eq!(
        log,
        [
            "it:[Edit] Updated report.md",
            "it:[Bash] Look",
            "it:[Write] Created report.md",
            "Gitstead:Initial task: Play"
        ]
    );
    assert!(
        bodies.contains("Session: ses_1") && bodies.contains("Tool-Use-Id: call_1_1"),
        "{bodies}"
    );
}

#[test]
fn what_letta_does_is_recorded_and_its_version_says_what_it_is_given() {
    let house = House::start();
    let deeds = vec![
        deed("gitstead-1", "await '\"initialize\"'", ""),
        deed("queue_item_enqueued", "await '\"user\"'", ""),
        deed(
            r#""auto_approval","tool_call":{"tool_call_id":"call_0_0"#,
            "await control_response",
            "echo x > report.md",
        ),
        deed(r#""run_id":"local-run-2","seq_id":4"#, "", "commits 2"),
        deed(r#""run_id":"local-run-3","seq_id":6"#, "await control_response", ""),
        deed("local-run-4", "echo list > list", "commits 4"),
        deed(r#""type":"result""#, "", "await never"),
    ];
    let left_out = ["x-1", "call_3_0", "queue_cleared"];
    let player = player(&house, "letta/l02-approvals", &left_out, deeds);
    let letta =
        json!({ "createOnly": true, "systemPrompt": "letta-claude", "tags": ["a"], "sleeptime": { "behavior": "x" } });
    start(
        &house,
        &player,
        json!({ "preset": "letta", "message": "make it", "letta": letta }),
    );
    decide(&house, &["allow", "deny"]);
    eventually("the turn ends", || house.kinds("it").contains(&"turn_ended".to_owned()));
    let agent = house.get("/it");
    assert_eq!(agent["program_version"], "0.25.9", "{agent}");
    let warnings: Vec<_> = house
        .events("it")
        .into_iter()
        .filter(|event| event["type"] == "warning")
        .collect();
    let texts: Vec<_> = warnings.iter().map(|event| event["text"].as_str().unwrap()).collect();
    assert_eq!(texts.len(), 2, "{texts:?}");
    assert!(
        texts[0].contains("source-claude") && texts[1].contains("--reflection-behavior"),
        "{texts:?}"
    );
    house.post("/it/stop");
    house.ended("it");
    assert_eq!(
        arguments(&house),
        "--output-format stream-json --input-format stream-json --new-agent --system source-claude --permission-mode standard \
         --tags a --reflection-behavior x"
    );
    let (log, bodies) = cloned(&house);
    assert_eq!(
        log,
        [
            "it:[Read] Read a",
            "it:[Bash] ls",
            "it:[Write] Wrote report.md",
            "Gitstead:Initial task: Play"
        ]
    );
    assert!(
        bodies.contains("Session: local-conv-2") && bodies.contains("Source: inferred"),
        "{bodies}"
    );
    // It is asked once for its version, and goes on with its conversation.
    house.post("/it/start");
    eventually("it is up again", || house.get("/it")["state"] != "starting");
    house.post("/it/kill");
    house.ended("it");
    assert_eq!(fs::read_to_string(house.server.data().join("versions")).unwrap(), "x\n");
    assert!(
        arguments(&house).contains("--conversation local-conv-2"),
        "{}",
        arguments(&house)
    );
}

#[test]
fn where_letta_is_nowhere_that_is_said_with_what_was_tried() {
    let house = House::start();
    let nowhere = house.server.data().join("nowhere");
    let body = json!({
        "name": "it", "repository": "demo", "preset": "letta", "inherit": ["HOUSE"],
        "env": { "PATH": nowhere, "LETTA_CLI_PATH": "/no/letta.js" },
    });
    let answer = house.ask("POST", "", Some(&body));
    assert!(answer.status >= 400, "{}", answer.body);
    let text = answer.body.to_string();
    assert!(text.contains("Letta Code CLI not found. Set LETTA_CLI_PATH"), "{text}");
    assert!(
        text.contains("/no/letta.js") && text.contains("nowhere/letta"),
        "{text}"
    );
}

#[test]
fn what_cannot_be_told_an_agent_is_refused() {
    let house = House::start();
    let refused = |more: Value| {
        let mut body = json!({ "repository": "demo", "start": false });
        for (key, value) in more.as_object().into_iter().flatten() {
            body[key] = value.clone();
        }
        house.ask("POST", "", Some(&body)).is(400).to_string()
    };
    assert!(refused(json!({ "preset": "opencode-acp", "model": "m" })).contains("opencode-acp has no way to be told"));
    assert!(refused(json!({ "preset": "custom" })).contains("Custom provider requires a non-empty 'command'."));
    assert!(refused(json!({ "dialect": "claude", "argv": ["x"], "model": "m" })).contains("'model'"));
    assert!(refused(json!({ "preset": "claude", "letta": {} })).contains("'letta'"));
    let env = json!({ "preset": "claude", "env": { "NODE_OPTIONS": "--require /x" } });
    assert!(refused(env).contains("Invalid agent env key: NODE_OPTIONS"));
}

#[test]
fn options_are_said_on_the_command_line_and_letta_is_found_where_the_configuration_says() {
    let data = tempfile::tempdir().unwrap();
    let cli = data.path().join("letta-code");
    fs::write(&cli, PLAYER).unwrap();
    fs::set_permissions(&cli, fs::Permissions::from_mode(0o755)).unwrap();
    let options = ServerOptions {
        config: Some("[agents]\nletta_cli = \"letta-code\"".to_owned()),
        ..ServerOptions::default()
    };
    let house = House::on(data, options);
    let file = house.server.data().join("letta.toml");
    fs::write(&file, "tags = ['a']\n[sleeptime]\nstepCount = 5\n").unwrap();
    let start = |letta: &str| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_gitstead"))
            .args([
                "agent",
                "start",
                "--server",
                &format!("http://{}", house.server.address()),
            ])
            .args([
                "--workspace",
                "demo",
                "--preset",
                "letta",
                "--letta",
                letta,
                "--partial",
                "--wait",
            ])
            .args(["--arg", "--x", "--arg=y z", "--name", "it", "--inherit", "HOUSE"])
            .output()
            .unwrap();
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    };
    let told = start(file.to_str().unwrap());
    assert!(told.starts_with("it exited"), "{told}");
    assert_eq!(
        arguments(&house),
        "--output-format stream-json --input-format stream-json --permission-mode standard --tags a --reflection-step-count 5 \
         --include-partial-messages --x y z"
    );
    assert_eq!(house.get("/it")["program_version"], "0.25.9");
    assert!(start(r#"{"nonsense": 1}"#).contains("nonsense"));
    assert!(start("/no/such.toml").contains("/no/such.toml"));
}
