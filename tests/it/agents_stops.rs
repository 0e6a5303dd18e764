//! Every way in which an agent comes to be stopped ends all of it: children in sessions of their own, children without a parent, all of them writing on.

use std::fs;

use serde_json::{Value, json};

use crate::{
    agents_sessions::Play,
    support::{ServerOptions, agents::House, wire::eventually},
};

/// Writes on in a session of its own, from a process that has no parent left, and cannot be asked to stop; and another one that still has one.
const WRITERS: &str = r#"
(setsid sh -c 'trap "" TERM HUP INT; while :; do echo x >> daemon; sleep 0.02; done' &)
setsid sh -c 'trap "" TERM HUP INT; while :; do echo x >> session; sleep 0.02; done' &
"#;
const FILES: [&str; 2] = ["daemon", "session"];
/// Cannot be asked to stop, either.
const DEAF: &str = "trap '' TERM HUP INT; touch main; while :; do sleep 0.05; done";

#[track_caller]
fn all_write(house: &House) {
    eventually("both of them write", || {
        FILES.iter().all(|name| house.files().join(name).exists())
    });
    assert!(house.processes().len() > 2, "the test sees them");
}

/// That nobody is there is all that can be known at once: nobody writes who is not there.
#[track_caller]
fn nothing_is_left(house: &House, agent: &Value) {
    assert_eq!(house.processes(), [0i32; 0], "{agent}");
    assert_eq!(agent["stragglers"], json!([]), "{agent}");
    assert!(agent["swept"].as_u64().unwrap() >= 2, "{agent}");
}

#[test]
fn a_watchdog_that_stops_an_agent_ends_what_it_has_started() {
    let house = House::start();
    let dogs = json!({ "watchdogs": { "wall": { "after_ms": 1_000, "action": "stop" } } });
    house.run("it", &format!("{WRITERS}{DEAF}"), dogs);
    all_write(&house);
    let agent = house.ended("it");
    assert_eq!(agent["cause"], "watchdog", "{agent}");
    nothing_is_left(&house, &agent);
}

#[test]
fn a_second_stop_ends_what_it_has_started() {
    let house = House::start();
    let slow = json!({ "ladder": { "terminate_ms": 3_600_000 } });
    house.run("it", &format!("{WRITERS}{DEAF}"), slow);
    all_write(&house);
    house.post("/it/stop");
    assert_eq!(house.get("/it")["state"], "stopping");
    assert!(house.processes().len() > 2, "it is asked only");
    house.post("/it/stop");
    let agent = house.ended("it");
    assert_eq!(agent["state"], "stopped", "{agent}");
    nothing_is_left(&house, &agent);
}

#[test]
fn a_server_that_is_asked_to_end_ends_what_its_agents_have_started() {
    let house = House::start();
    house.run(
        "it",
        &format!("{WRITERS}touch main; while :; do sleep 0.05; done"),
        json!({}),
    );
    all_write(&house);
    let (code, said, left) = house.terminate();
    assert_eq!(left, [0i32; 0], "{said}");
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn a_server_whose_time_for_that_is_over_ends_it_too() {
    let house = House::with(ServerOptions {
        config: Some("[limits]\nagent_drain = \"300ms\"\n".to_owned()),
        ..ServerOptions::default()
    });
    let slow = json!({ "ladder": { "terminate_ms": 3_600_000 } });
    house.run("it", &format!("{WRITERS}{DEAF}"), slow);
    all_write(&house);
    let (code, said, left) = house.terminate();
    assert_eq!(left, [0i32; 0], "{said}");
    assert_eq!(code, Some(3), "{said}");
}

#[test]
fn a_crash_ends_what_it_has_started_before_it_is_started_again() {
    let house = House::start();
    let script = format!(
        "[ -e again ] && exec sleep 3600; touch again; {WRITERS} while [ ! -e go ]; do sleep 0.01; done; exit 3"
    );
    house.run("it", &script, json!({ "restart": "on-failure", "restart_first_ms": 1 }));
    all_write(&house);
    let before = house.processes();
    fs::write(house.files().join("go"), "").unwrap();
    eventually("it runs again", || {
        house.get("/it")["run"] == 2 && house.get("/it")["pid"].is_u64()
    });
    let after = house.processes();
    assert!(before.iter().all(|pid| !after.contains(pid)), "{before:?} {after:?}");
    house.post("/it/kill");
    house.ended("it");
    assert_eq!(house.processes(), [0i32; 0]);
}

/// Begins to write when it is asked something, and says no more until it is interrupted.
const CLAUDE: &str = r#"
say() { printf '%s\n' "$1"; }
while IFS= read -r line; do
    id=$(printf %s "$line" | sed 's/.*"request_id":"\([^"]*\)".*/\1/')
    case "$line" in
    *'"initialize"'*) say '{"type":"control_response","response":{"subtype":"success","request_id":"'$id'","response":{"commands":[],"hooks_applied":true}}}' ;;
    *'"interrupt"'*)
        touch interrupted
        say '{"type":"control_response","response":{"subtype":"success","request_id":"'$id'"}}'
        say '{"session_id":"s","total_cost_usd":0,"usage":{},"terminal_reason":"aborted_tools","is_error":true,"num_turns":1,"subtype":"error_during_execution","result":"","type":"result","uuid":"e"}' ;;
    *'"type":"user"'*)
        say '{"type":"system","subtype":"init","session_id":"s","model":"m","tools":[],"uuid":"i"}'
        say '{"type":"assistant","message":{"id":"m","role":"assistant","content":[{"type":"tool_use","id":"b1","name":"Bash","input":{"command":"run","description":"Run"}}]},"session_id":"s","uuid":"a"}'
        begin ;;
    esac
done
"#;

fn claude(begin: &str) -> String {
    format!("begin() {{\n{begin}\n}}\n{CLAUDE}")
}

#[test]
fn an_interrupt_in_its_protocol_while_a_tool_runs_is_the_first_step_of_a_stop_that_ends_everything() {
    let house = House::start();
    let more = json!({ "dialect": "claude", "message": "go", "ladder": { "interrupt_ms": 2_000, "end_of_input_ms": 2_000, "terminate_ms": 300 } });
    house.run("it", &claude(WRITERS), more);
    all_write(&house);
    eventually("the tool runs", || {
        house.kinds("it").iter().any(|kind| kind == "tool_started")
    });
    house.post("/it/stop");
    let agent = house.ended("it");
    assert!(house.files().join("interrupted").exists(), "{agent}");
    assert_eq!(
        (&agent["state"], &agent["exit_code"]),
        (&json!("stopped"), &json!(0)),
        "{agent}"
    );
    nothing_is_left(&house, &agent);
}

#[test]
fn the_end_of_a_session_ends_what_was_started_in_it() {
    let play = Play::with("", &[]);
    let player = play.file("claude");
    let usual = fs::read_to_string(&player).unwrap();
    let sign = "touch \"$house/held\"";
    assert!(usual.contains(sign));
    fs::write(&player, usual.replace(sign, &format!("{WRITERS}\n{sign}"))).unwrap();
    play.agent(
        "it",
        json!({ "ladder": { "interrupt_ms": 200, "end_of_input_ms": 200, "terminate_ms": 300 } }),
    );
    let session = play.begin("ann");
    std::thread::scope(|scope| {
        let path = format!("/it/sessions/{session}/ask");
        let play = &play;
        let asking = scope.spawn(move || play.ask("ann", "POST", &path, Some(json!({ "message": "hold" }))).0);
        eventually("it is at work", || play.file("held").exists());
        eventually("all of it is there", || play.house.processes().len() > 2);
        let (status, body) = play.ask("ann", "DELETE", &format!("/it/sessions/{session}"), None);
        assert_eq!(status, 204, "{body}");
        eventually("nothing of it is left", || play.house.processes().is_empty());
        asking.join().unwrap();
    });
    play.end();
}

#[test]
fn a_storm_of_processes_stays_within_its_bound_and_is_ended() {
    const MOST: usize = 40;
    let house = House::start();
    let bombs = "bomb() { while :; do sleep 1000 & done; }; (bomb) & (bomb) & touch main; exec sleep 1000";
    let bounds = match rustix::process::geteuid().is_root() {
        true => json!({ "tasks": MOST }),
        // Of all processes of this user, whatever else he does.
        false => json!({ "tasks": MOST, "processes": threads_of_mine() + MOST }),
    };
    let probe = json!({ "bounds": bounds });
    house.run("probe", "true", probe.clone());
    let isolation = house.ended("probe")["isolation"].clone();
    let has_tasks = isolation["limits"].as_array().unwrap().contains(&json!("pids.max"));
    if !has_tasks && rustix::process::geteuid().is_root() {
        eprintln!("there is no cgroup with pids.max here, and NPROC holds nobody who is root: nothing was tested");
        return;
    }
    house.run("storm", bombs, probe);
    eventually("it is at its bound", || house.processes().len() >= MOST - 10);
    // Others are served meanwhile.
    house.run("calm", "echo done > calm", json!({ "workspace": "calm" }));
    assert_eq!(house.ended("calm")["state"], "exited");
    assert!(house.processes().len() <= MOST, "{}", house.processes().len());
    house.post("/storm/stop");
    let agent = house.ended("storm");
    nothing_is_left(&house, &agent);
}

/// Processes and threads of this user.
fn threads_of_mine() -> usize {
    let own = rustix::process::geteuid().as_raw();
    let all = fs::read_dir("/proc").unwrap().flatten();
    let mine = all.filter(|entry| {
        std::os::unix::fs::MetadataExt::uid(&match entry.metadata() {
            Ok(metadata) => metadata,
            Err(_) => return false,
        }) == own
    });
    mine.filter_map(|entry| Some(fs::read_dir(entry.path().join("task")).ok()?.count()))
        .sum()
}

#[test]
fn one_that_never_says_that_it_is_ready_is_stopped() {
    let house = House::start();
    let more = json!({ "dialect": "claude", "watchdogs": { "start": { "after_ms": 200, "action": "stop" } }, "ladder": { "interrupt_ms": 0, "end_of_input_ms": 0, "terminate_ms": 300 } });
    house.run("it", &format!("{WRITERS}while :; do sleep 0.05; done"), more);
    let agent = house.ended("it");
    assert_eq!(
        (&agent["state"], &agent["cause"]),
        (&json!("failed"), &json!("watchdog")),
        "{agent}"
    );
    barked(&house, "start");
    assert!(!house.kinds("it").contains(&"ready".to_owned()));
    assert_eq!(house.processes(), [0i32; 0]);
}

#[track_caller]
fn barked(house: &House, name: &str) {
    let events = house.events("it");
    let all: Vec<_> = events.iter().filter(|event| event["type"] == "watchdog").collect();
    assert_eq!(all.len(), 1, "{events:#?}");
    assert_eq!(all[0]["watchdog"], name);
}

#[test]
fn one_whose_question_nobody_answers_is_stopped() {
    let house = House::start();
    let asks = r#"say '{"type":"control_request","request_id":"p1","request":{"subtype":"can_use_tool","tool_name":"Bash","input":{"command":"x"},"tool_use_id":"b1"}}'"#;
    let more = json!({ "dialect": "claude", "message": "go", "watchdogs": { "permission": { "after_ms": 300, "action": "stop" } }, "ladder": { "interrupt_ms": 200, "end_of_input_ms": 2_000, "terminate_ms": 300 } });
    house.run("it", &claude(asks), more);
    let agent = house.ended("it");
    assert_eq!(
        (&agent["state"], &agent["cause"]),
        (&json!("failed"), &json!("watchdog")),
        "{agent}"
    );
    barked(&house, "permission");
    let kinds = house.kinds("it");
    let at = |kind: &str| kinds.iter().position(|one| one == kind);
    assert!(
        at("permission").is_some() && at("permission") < at("watchdog"),
        "{kinds:?}"
    );
    assert!(at("permission_gone") > at("permission"), "{kinds:?}");
}

#[test]
fn a_watchdog_that_only_warns_tells_and_lets_it_go_on() {
    let house = House::start();
    let more = json!({ "watchdogs": { "wall": { "after_ms": 50, "action": "warn" } } });
    house.run("it", "read x; echo on > after", more);
    eventually("it is told", || house.kinds("it").contains(&"watchdog".to_owned()));
    house.ask("POST", "/it/input", Some(&json!({ "text": "go\n" }))).is(204);
    let agent = house.ended("it");
    assert_eq!(
        (&agent["state"], &agent["cause"]),
        (&json!("exited"), &Value::Null),
        "{agent}"
    );
    barked(&house, "wall");
    assert!(house.files().join("after").exists());
}

#[test]
fn a_line_that_is_too_long_is_kept_whole_on_the_disk_and_what_follows_is_understood() {
    const LONG: usize = 300_000;
    let house = House::with(ServerOptions {
        config: Some("[limits]\nagent_line_bytes = \"64k\"\n".to_owned()),
        ..ServerOptions::default()
    });
    let long = format!(
        r#"printf '{{"type":"assistant","message":{{"id":"m2","role":"assistant","content":[{{"type":"text","text":"%0{LONG}d"}}]}},"session_id":"s","uuid":"a2"}}\n' 0
say '{{"session_id":"s","total_cost_usd":0,"usage":{{}},"terminal_reason":"completed","is_error":false,"num_turns":1,"subtype":"success","result":"the end","type":"result","uuid":"e"}}'"#
    );
    house.run("it", &claude(&long), json!({ "dialect": "claude", "message": "go" }));
    eventually("the turn is over", || {
        house
            .events("it")
            .iter()
            .any(|event| event["type"] == "turn_ended" && event["text"] == "the end")
    });
    let page = house.get("/it/logs");
    let lines = page["lines"].as_array().unwrap();
    let dropped: u64 = lines.iter().map(|line| line["dropped"].as_u64().unwrap()).sum();
    assert!(dropped > 200_000, "what is not shown is counted: {dropped}");
    let (head, bytes) = house.raw("/it/output?stream=stdout&limit=1000000");
    assert!(head.starts_with("http/1.1 200"), "{head}");
    let zeros = bytes.iter().filter(|&&byte| byte == b'0').count();
    assert!(zeros >= LONG, "all of it is on the disk: {zeros}");
    assert!(house.get("/it")["ended"] == false, "it goes on");
    house.post("/it/stop");
    assert_eq!(house.ended("it")["state"], "stopped");
}

fn resident_kib(house: &House) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", house.server.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn an_idle_agent_costs_the_server_less_than_64_kib() {
    const WARM: usize = 16;
    const MORE: usize = 128;
    let house = House::start();
    let start = |from: usize, to: usize| {
        // Side by side: most of the time is the kernel's.
        std::thread::scope(|scope| {
            for part in 0..8 {
                let house = &house;
                scope.spawn(move || {
                    for n in (from..to).filter(|n| n % 8 == part) {
                        house.run(&format!("idle-{n}"), "exec sleep 3600", json!({}));
                    }
                });
            }
        });
    };
    // What is there once is not theirs: threads, caches, the workspace.
    house.run("first", "exec sleep 3600", json!({}));
    start(0, WARM);
    let before = resident_kib(&house);
    start(WARM, WARM + MORE);
    let after = resident_kib(&house);
    let each = after.saturating_sub(before) / MORE as u64;
    eprintln!("{before} KiB, then {after} KiB: {each} KiB for each agent");
    assert!(each < 64, "{before} KiB, then {after} KiB: {each} KiB for each agent");
    let (_, said, left) = house.terminate();
    assert_eq!(left, [0i32; 0], "{said}");
}
