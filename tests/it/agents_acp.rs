//! An agent that speaks the Agent Client Protocol, played by a shell script that does through its client what it does: everything is a commit before it goes on.

use std::{fs, os::unix::fs::PermissionsExt as _};

use serde_json::{Value, json};

use crate::support::{Git, agents::House, wire::eventually};

/// The beginning of every part: the protocol, as far as it is needed. `turn` is called for each message.
const PLAYER: &str = r#"
say() { printf '%s\n' "$1"; }
n=0
# Asks the client for something, and waits for the answer, which is in $answer.
want() {
    n=$((n + 1))
    say '{"jsonrpc":"2.0","id":'$n',"method":"'$1'","params":{"sessionId":"ses_1",'"$2"'}}'
    while IFS= read -r answer; do
        case "$answer" in *'"id":'$n,*) return;; esac
    done
    exit 0
}
update() { say '{"jsonrpc":"2.0","method":"session/update","params":{"sessionId":"ses_1","update":{"sessionUpdate":"'$1'",'"$2"'}}}'; }
head() { git log -1 --format=%s >> "$SEEN"; }
tell() { printf '%s\n' "$answer" >> "$SEEN"; }
play() {
    while IFS= read -r line; do
        id=$(printf %s "$line" | sed -n 's/.*"id":\([0-9]*\).*/\1/p')
        case "$line" in
        *'"initialize"'*)
            printf '%s\n' "$line" > "$SEEN.init"
            say '{"jsonrpc":"2.0","id":'$id',"result":{"protocolVersion":1,"agentCapabilities":{}}}' ;;
        *'"session/new"'*) say '{"jsonrpc":"2.0","id":'$id',"result":{"sessionId":"ses_1"}}' ;;
        *'"session/prompt"'*) turn; say '{"jsonrpc":"2.0","id":'$id',"result":{"stopReason":"end_turn"}}' ;;
        esac
    done
}
"#;

#[track_caller]
fn played(house: &House, part: &str) -> Vec<String> {
    start(house, part);
    let agent = house.get("/it/wait?until=idle&timeout_ms=60000");
    assert_eq!(agent["state"], "idle", "{agent} {:#?}", house.events("it"));
    lines(house)
}

fn start(house: &House, part: &str) {
    start_with(house, part, json!({}));
}

fn start_with(house: &House, part: &str, more: Value) {
    let git = Git::new();
    let mut body = json!({
        "dialect": "acp",
        "inherit": ["HOUSE"],
        "env": { "SEEN": house.server.data().join("seen"), "GIT_CONFIG_NOSYSTEM": "1", "HOME": git.dir(), "WORD": "s3cret" },
        "message": "go",
        "ladder": { "interrupt_ms": 50, "end_of_input_ms": 50, "terminate_ms": 50 },
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        body[key] = value.clone();
    }
    house.run("it", &format!("{PLAYER}{part}play\n"), body);
}

fn lines(house: &House) -> Vec<String> {
    let seen = fs::read_to_string(house.server.data().join("seen")).unwrap_or_default();
    seen.lines().map(str::to_owned).collect()
}

fn result(line: &str) -> Value {
    serde_json::from_str::<Value>(line).expect("JSON")["result"].clone()
}

#[test]
fn what_an_agent_writes_through_its_client_is_a_commit_before_it_is_answered() {
    let house = House::start();
    let part = r##"
turn() {
    update tool_call '"toolCallId":"c0","title":"Write report.md","kind":"edit","status":"in_progress","locations":[{"path":"'$PWD'/report.md"}]'
    want fs/write_text_file '"path":"'$PWD'/report.md","content":"# Report\n\"x\"\n"'
    head; tell
    update tool_call_update '"toolCallId":"c0","status":"completed"'
    want fs/read_text_file '"path":"'$PWD'/report.md","line":2,"limit":1'
    tell
    want fs/write_text_file '"path":"'$PWD'/sub/../sub/new.md","content":"2"'
    head
    ln -s /etc out
    want fs/write_text_file '"path":"'$PWD'/out/motd","content":"3"'
    tell
    want fs/read_text_file '"path":"/etc/passwd"'
    tell
    want fs/write_text_file '"path":"'$PWD'/.git","content":"3"'
    tell
}
"##;
    let seen = played(&house, part);
    assert_eq!(seen[0], "[Edit] Created report.md", "it saw the commit: {seen:#?}");
    assert_eq!(result(&seen[1]), json!({}));
    assert_eq!(result(&seen[2]), json!({ "content": "\"x\"\n" }));
    assert_eq!(seen[3], "[Write] Created sub/new.md");
    for (line, why) in seen[4..]
        .iter()
        .zip(["not in the workspace", "not in the workspace", "git's own"])
    {
        assert!(line.contains(r#""error""#) && line.contains(why), "{why}: {line}");
    }
    assert_eq!(seen.len(), 7);
    let told: Value =
        serde_json::from_str(&fs::read_to_string(house.server.data().join("seen.init")).unwrap()).unwrap();
    let capabilities = &told["params"]["clientCapabilities"];
    assert_eq!(
        capabilities,
        &json!({ "fs": { "readTextFile": true, "writeTextFile": true }, "terminal": true })
    );
    let git = Git::new();
    let log = git.ok(house.files(), "log --format=%s");
    assert_eq!(
        log.lines().take(2).collect::<Vec<_>>(),
        ["[Write] Created sub/new.md", "[Edit] Created report.md"],
        "what is told at the end of a call is no second commit: {log}"
    );
    let body = git.ok(house.files(), "log -1 --format=%b HEAD~1");
    for trailer in [
        "Agent: it",
        "Session: ses_1",
        "Turn: 1",
        "Tool-Use-Id: c0",
        "Outcome: ok",
        "Source: barrier",
    ] {
        assert!(body.lines().any(|line| line == trailer), "{trailer}\n{body}");
    }
    house.post("/it/kill");
    house.ended("it");
}

#[test]
fn what_an_agent_runs_through_its_client_is_a_commit_before_its_end_is_told() {
    let house = House::start();
    let part = r##"
field() { printf %s "$answer" | sed -n 's/.*"'$1'":"\([^"]*\)".*/\1/p'; }
turn() {
    update tool_call '"toolCallId":"c0","title":"`make`","kind":"execute","status":"in_progress"'
    want terminal/create '"command":"sh","args":["-c","echo made > made; pwd; echo $A $WORD; exit 3"],"env":[{"name":"A","value":"b c"}],"cwd":"'$PWD'"'
    t=$(field terminalId)
    update tool_call_update '"toolCallId":"c0","content":[{"type":"terminal","terminalId":"'$t'"}]'
    want terminal/wait_for_exit '"terminalId":"'$t'"'
    head; tell
    want terminal/output '"terminalId":"'$t'"'
    tell
    want terminal/release '"terminalId":"'$t'"'
    tell
    want terminal/output '"terminalId":"'$t'"'
    tell
    update tool_call_update '"toolCallId":"c0","status":"completed"'
    want terminal/create '"command":"seq 1 5000; printf ä; printf ö","outputByteLimit":3'
    t=$(field terminalId)
    want terminal/wait_for_exit '"terminalId":"'$t'"'
    want terminal/output '"terminalId":"'$t'"'
    tell
    want terminal/create '"command":"(setsid sh -c \"trap : TERM; while :; do sleep 1; done\" &) ; echo begun > begun; trap : TERM; while :; do sleep 1; done"'
    t=$(field terminalId)
    while [ ! -e begun ]; do sleep 0.01; done
    want terminal/kill '"terminalId":"'$t'"'
    head; tell
    want terminal/wait_for_exit '"terminalId":"'$t'"'
    tell
    want terminal/create '"command":"ls","cwd":"/"'
    tell
    want terminal/create '"command":"no-such-program"'
    tell
}
"##;
    let seen = played(&house, part);
    assert_eq!(seen[0], "[Bash] make", "{seen:#?}");
    assert_eq!(result(&seen[1]), json!({ "exitCode": 3, "signal": null }));
    let output = result(&seen[2]);
    let cwd = house.files().canonicalize().unwrap();
    assert_eq!(output["output"], format!("{}\nb c s3cret\n", cwd.display()));
    assert_eq!(output["truncated"], false);
    assert_eq!(output["exitStatus"], json!({ "exitCode": 3, "signal": null }));
    assert_eq!(result(&seen[3]), json!({}));
    assert!(seen[4].contains("there is no terminal"), "{}", seen[4]);
    let output = result(&seen[5]);
    assert_eq!((&output["output"], &output["truncated"]), (&json!("ö"), &json!(true)));
    assert!(seen[6].starts_with("[Bash] (setsid"), "{}", seen[6]);
    assert_eq!(result(&seen[7]), json!({}));
    assert_eq!(result(&seen[8]), json!({ "exitCode": null, "signal": "SIGKILL" }));
    assert!(seen[9].contains("no directory that is in the workspace"), "{}", seen[9]);
    assert!(
        seen[10].contains("there is no program 'no-such-program'"),
        "{}",
        seen[10]
    );
    assert_eq!(seen.len(), 11);
    let git = Git::new();
    let body = git.ok(house.files(), "log --format=%b --grep=^.Bash..make");
    for trailer in ["Tool-Use-Id: c0", "Outcome: failed", "Exit-Code: 3"] {
        assert!(body.lines().any(|line| line == trailer), "{trailer}\n{body}");
    }
    house.post("/it/kill");
    house.ended("it");
}

#[test]
fn commands_of_an_agent_end_with_it() {
    let house = House::start();
    let part = r##"
turn() {
    want terminal/create '"command":"(setsid sh -c \"trap : TERM; touch daemon; while :; do sleep 1; done\" &) ; trap : TERM; while :; do sleep 1; done"'
    want terminal/wait_for_exit '"terminalId":"terminal-1"'
}
"##;
    start(&house, part);
    eventually("it runs", || house.files().join("daemon").exists());
    assert!(house.processes().len() >= 4, "{:?}", house.processes());
    house.post("/it/stop");
    let agent = house.ended("it");
    assert_eq!(agent["state"], "stopped", "{agent}");
    assert_eq!(house.processes(), [0i32; 0], "{agent}");
}

#[test]
fn a_command_that_an_agent_names_is_in_the_agents_own_sandbox() {
    let house = House::start();
    let data = house.server.data().to_owned();
    let out = data.join("out");
    fs::create_dir(&out).unwrap();
    let secret = data.join("deploy");
    fs::write(&secret, "#!/bin/sh\n# s3cret\ncat \"$0\"\n").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o755)).unwrap();
    let part = r##"
turn() {
    for name in deploy nowhere; do
        want terminal/create '"command":"'$DATA/$name'","args":["x"]'
        tell
        want terminal/wait_for_exit '"terminalId":"terminal-1"'
        want terminal/output '"terminalId":"terminal-1"'
        tell
    done
    for dir in out nowhere; do
        want terminal/create '"command":"pwd","cwd":"'$DATA/$dir'"'
        tell
    done
    printf '#!/bin/sh\necho mine\n' > mine; chmod +x mine
    want terminal/create '"command":"./mine"'
    want terminal/wait_for_exit '"terminalId":"terminal-1"'
    want terminal/output '"terminalId":"terminal-1"'
    tell
}
"##;
    let more = json!({
        "env": { "SEEN": out.join("seen"), "DATA": data, "HOME": "/" },
        "sandbox": { "mode": "best-effort", "write": [out] },
    });
    start_with(&house, part, more);
    let agent = house.get("/it/wait?until=idle&timeout_ms=60000");
    assert_eq!(agent["state"], "idle", "{agent} {:#?}", house.events("it"));
    let seen = fs::read_to_string(out.join("seen")).unwrap();
    if agent["isolation"]["landlock"].as_u64().is_none() {
        eprintln!("this system has no landlock: nothing was tested");
        return;
    }
    assert!(!seen.contains("s3cret"), "{seen}");
    let why = |line: &str| {
        let answer: Value = serde_json::from_str(line).expect("JSON");
        let text = answer["error"]["message"].as_str().expect("it is refused");
        text.replace("/out'", "/nowhere'")
    };
    let lines: Vec<&str> = seen.lines().collect();
    assert_eq!(why(lines[0]), why(lines[2]), "{seen}");
    assert_eq!(why(lines[4]), why(lines[5]), "{seen}");
    assert_eq!(result(lines[6])["output"], "mine\n", "{seen}");
    house.post("/it/kill");
    house.ended("it");
}

#[test]
fn what_an_agent_asks_for_at_once_is_done_in_its_order() {
    let house = House::start();
    let part = r##"
turn() {
    big=$(command head -c 400000 /dev/zero | tr '\0' x)
    all=
    for text in $big a $big b; do
        n=$((n + 1))
        all="$all"'{"jsonrpc":"2.0","id":'$n',"method":"fs/write_text_file","params":{"sessionId":"ses_1","path":"'$PWD'/file","content":"'$text'"}}
'
    done
    printf %s "$all"
    want fs/read_text_file '"path":"'$PWD'/file"'
    tell
}
"##;
    let seen = played(&house, part);
    assert_eq!(result(&seen[0])["content"], "b");
    house.post("/it/kill");
    house.ended("it");
}
