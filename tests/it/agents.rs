//! Agents next to a real server: what they do is in the repository, and nothing of them is left when they have ended, whatever they do about that.

use std::{fs, path::Path, time::Duration};

use serde_json::{Value, json};

use crate::support::{Git, ServerOptions, agents::House, wire::eventually};

/// Writes on in a session of its own, from a process that has no parent left, and cannot be asked to stop.
const DAEMON: &str = "(setsid sh -c 'trap \"\" TERM HUP INT; touch daemon; while :; do sleep 1; done' &)";
/// Writes on in a session of its own.
const SESSION: &str = "setsid sh -c 'touch session; while :; do sleep 1; done' &";

#[test]
fn what_a_command_writes_is_a_commit_for_whoever_clones() {
    let house = House::start();
    let made = house.run("hello", "echo hi > report.md", json!({ "task": "Say hello" }));
    assert_eq!(
        (&made["repository"], &made["workspace"]),
        (&json!("demo"), &json!("main"))
    );
    let agent = house.ended("hello");
    assert_eq!(
        (&agent["state"], &agent["exit_code"], &agent["checkpoints"]),
        (&json!("exited"), &json!(0), &json!(1))
    );
    let git = Git::new();
    git.ok(git.dir(), &format!("clone -q {} copy", house.server.repo_url("demo")));
    let copy = git.path("copy");
    assert_eq!(
        git.ok(&copy, "log --format=%an:%s").trim(),
        "hello:[sh] Created report.md\nGitstead:Initial task: Say hello"
    );
    assert_eq!(fs::read_to_string(copy.join("report.md")).unwrap(), "hi\n");
    assert_eq!(
        git.ok(&copy, "rev-parse HEAD").trim(),
        agent["checkpoint"].as_str().unwrap()
    );
    let kinds = house.kinds("hello");
    assert_eq!(kinds, ["created", "started", "ready", "checkpoint", "exited"]);
}

#[test]
fn files_that_have_come_to_rest_are_recorded_while_the_command_runs() {
    let house = House::start();
    let script = "echo 1 > a; read x; echo 2 > a; echo 3 > b; read x";
    house.run("steps", script, json!({ "quiet_ms": 50 }));
    let checkpoints = |n: usize| {
        eventually("a checkpoint while it runs", || {
            house.kinds("steps").iter().filter(|kind| *kind == "checkpoint").count() == n
        });
    };
    checkpoints(1);
    house
        .ask("POST", "/steps/input", Some(&json!({ "text": "go\n" })))
        .is(204);
    checkpoints(2);
    house
        .ask("POST", "/steps/input", Some(&json!({ "text": "go\n", "close": true })))
        .is(204);
    let agent = house.ended("steps");
    assert_eq!(agent["checkpoints"], 2, "nothing has changed since");
    let subjects: Vec<_> = house
        .events("steps")
        .into_iter()
        .filter(|event| event["type"] == "checkpoint")
        .map(|event| event["subject"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(subjects, ["[sh] Created a", "[sh] Changed a, b"]);
}

#[test]
fn two_agents_in_one_workspace_do_not_deafen_one_another() {
    let house = House::start();
    let more = || json!({ "quiet_ms": 20 });
    house.run(
        "stays",
        "touch stays; read x; echo 1 > later; while :; do sleep 1; done",
        more(),
    );
    eventually("it runs", || house.files().join("stays").exists());
    house.run("goes", "echo 1 > brief", more());
    house.ended("goes");
    house
        .ask("POST", "/stays/input", Some(&json!({ "text": "go\n" })))
        .is(204);
    eventually("it is still heard", || {
        house.events("stays").iter().any(|event| {
            event["type"] == "checkpoint" && event["subject"].as_str().unwrap_or_default().contains("later")
        })
    });
    house.post("/stays/kill");
    house.ended("stays");
}

#[test]
fn work_of_others_is_not_taken_for_the_agents() {
    let house = House::start();
    house.run("first", "echo 1 > a", json!({}));
    house.ended("first");
    fs::write(house.files().join("mine.txt"), "by hand").unwrap();
    house.run("second", "echo 2 > a", json!({}));
    house.ended("second");
    let git = Git::new();
    let log = git.ok(house.files(), "log --format=%an:%s -3");
    assert_eq!(
        log.trim(),
        "second:[sh] Updated a\nagent:Before second began: Created mine.txt\nfirst:[sh] Created a"
    );
}

/// Everything is in a commit; the index of a watched workspace follows its checkpoints a moment later.
#[track_caller]
fn is_recorded(git: &Git, files: &Path) {
    let mut status = String::new();
    let clean = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        eventually("everything is recorded", || {
            status = git.ok(files, "status --porcelain");
            status.is_empty()
        });
    }));
    assert!(clean.is_ok(), "not recorded: {status}");
}

/// Starts a script, waits until the files are there that say that all of it runs, has it end by `end`, and looks that nothing is left.
#[track_caller]
fn nothing_is_left(script: &str, signs: &[&str], end: impl FnOnce(&House), state: &str) -> Value {
    let house = House::start();
    house.run("it", script, json!({}));
    eventually("all of it runs", || {
        let agent = house.get("/it");
        assert_eq!(agent["ended"], false, "{agent} {:#?}", house.events("it"));
        signs.iter().all(|sign| house.files().join(sign).exists())
    });
    assert!(!house.processes().is_empty(), "the test sees its processes");
    end(&house);
    let agent = house.ended("it");
    assert_eq!(house.processes(), [0i32; 0], "{agent}");
    assert_eq!(agent["state"], state, "{agent}");
    assert_eq!(agent["stragglers"], json!([]), "{agent}");
    let events = house.events("it");
    let endings: Vec<_> = events
        .iter()
        .filter(|event| ["stopped", "exited", "failed", "lost"].contains(&event["type"].as_str().unwrap()))
        .collect();
    assert_eq!(endings.len(), 1, "{events:#?}");
    // The last checkpoint is before the end, and has everything.
    let git = Git::new();
    is_recorded(&git, &house.files());
    agent
}

#[test]
fn a_stop_ends_what_is_in_sessions_of_its_own() {
    let script = format!("{DAEMON}; {SESSION} touch main; while :; do sleep 1; done");
    let agent = nothing_is_left(
        &script,
        &["main", "session", "daemon"],
        |house| drop(house.post("/it/stop")),
        "stopped",
    );
    assert_eq!(agent["signal"], 15, "its own process heeds SIGTERM");
    assert!(agent["swept"].as_u64().unwrap() >= 2, "{agent}");
}

#[test]
fn a_stop_ends_what_heeds_no_signal() {
    let script = format!("trap '' TERM INT HUP; {DAEMON}; {SESSION} touch main; while :; do sleep 1; done");
    let agent = nothing_is_left(
        &script,
        &["main", "session", "daemon"],
        |house| drop(house.post("/it/stop")),
        "stopped",
    );
    assert_eq!(agent["signal"], 9);
}

#[test]
fn a_kill_ends_everything_at_once() {
    let script = format!("trap '' TERM; {DAEMON}; {SESSION} touch main; while :; do sleep 1; done");
    let agent = nothing_is_left(
        &script,
        &["main", "session", "daemon"],
        |house| drop(house.post("/it/kill")),
        "stopped",
    );
    assert_eq!(agent["signal"], 9);
}

#[test]
fn a_second_stop_is_less_patient() {
    let house = House::start();
    let slow = json!({ "ladder": { "terminate_ms": 3_600_000 } });
    house.run("it", "trap '' TERM; touch main; while :; do sleep 1; done", slow);
    eventually("it runs", || house.files().join("main").exists());
    house.post("/it/stop");
    assert_eq!(house.get("/it")["state"], "stopping");
    house.post("/it/stop");
    let agent = house.ended("it");
    assert_eq!((&agent["state"], &agent["signal"]), (&json!("stopped"), &json!(9)));
}

#[test]
fn what_a_command_leaves_behind_ends_with_it() {
    let script = format!("{DAEMON}; {SESSION} while [ ! -e go ]; do sleep 0.01; done; exit 3");
    let agent = nothing_is_left(
        &script,
        &["session", "daemon"],
        |house| fs::write(house.files().join("go"), "").unwrap(),
        "failed",
    );
    assert_eq!(agent["exit_code"], 3);
    assert!(agent["swept"].as_u64().unwrap() >= 2, "{agent}");
}

#[test]
fn the_end_of_its_own_process_by_anybodys_hand_ends_the_rest() {
    let script = format!("{DAEMON}; {SESSION} echo $$ > pid.tmp; mv pid.tmp pid; while :; do sleep 1; done");
    let kill = |house: &House| {
        let pid = fs::read_to_string(house.files().join("pid")).unwrap();
        let pid = rustix::process::Pid::from_raw(pid.trim().parse().unwrap()).unwrap();
        rustix::process::kill_process_group(pid, rustix::process::Signal::KILL).unwrap();
    };
    let agent = nothing_is_left(&script, &["session", "daemon", "pid"], kill, "failed");
    assert_eq!(agent["signal"], 9);
}

#[test]
fn a_parent_process_that_is_killed_takes_nothing_with_it() {
    let script = format!("{DAEMON}; {SESSION} echo $PPID > pid.tmp; mv pid.tmp pid; while :; do sleep 1; done");
    let kill = |house: &House| {
        let pid = fs::read_to_string(house.files().join("pid")).unwrap();
        let pid = rustix::process::Pid::from_raw(pid.trim().parse().unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    };
    let agent = nothing_is_left(&script, &["session", "daemon", "pid"], kill, "lost");
    assert_eq!((&agent["exit_code"], &agent["signal"]), (&Value::Null, &Value::Null));
}

#[test]
fn a_restart_ends_the_old_one_first() {
    let house = House::start();
    let script = format!("{DAEMON}; echo $$ >> pids; touch \"$GITSTEAD_RUN\"; while :; do sleep 1; done");
    house.run("it", &script, json!({}));
    let runs = |n: usize| {
        eventually("it runs", || {
            fs::read_to_string(house.files().join("pids")).is_ok_and(|text| text.lines().count() == n)
                && house.files().join("daemon").exists()
        });
    };
    runs(1);
    let before = house.processes();
    fs::remove_file(house.files().join("daemon")).unwrap();
    house.post("/it/restart");
    runs(2);
    let after = house.processes();
    assert!(before.iter().all(|pid| !after.contains(pid)), "{before:?} {after:?}");
    assert_eq!(house.get("/it")["run"], 2);
    house.post("/it/kill");
    house.ended("it");
    assert_eq!(house.processes(), [0i32; 0]);
}

#[test]
fn one_that_is_being_stopped_is_not_started_meanwhile_and_nobody_is_told_it_was() {
    let house = House::start();
    let slow = json!({ "ladder": { "terminate_ms": 3_600_000 } });
    let script = "trap 'touch asked' TERM; touch main; while :; do sleep 0.05; done";
    house.run("it", script, slow);
    eventually("it runs", || house.files().join("main").exists());
    house.post("/it/stop");
    eventually("it is asked", || house.files().join("asked").exists());
    for what in ["start", "restart"] {
        let answer = house.ask("POST", &format!("/it/{what}"), None);
        assert_eq!(
            (answer.status, answer.body["error"]["code"].as_str()),
            (409, Some("stopping")),
            "{what}"
        );
    }
    house.post("/it/kill");
    house.ended("it");
    assert_eq!(house.get("/it")["run"], 1);
}

#[test]
fn one_that_waits_to_be_started_again_is_started_at_once_by_whoever_wants_that() {
    let house = House::start();
    let more = json!({ "restart": "always", "restart_first_ms": 3_600_000 });
    house.run("it", "echo x >> runs", more);
    eventually("it waits", || house.get("/it")["state"] == "restarting");
    house.post("/it/restart");
    eventually("it ran again", || {
        house.get("/it")["run"] == 2 && house.get("/it")["state"] == "restarting"
    });
    house.post("/it/stop");
    assert_eq!(house.ended("it")["state"], "stopped");
    assert_eq!(fs::read_to_string(house.files().join("runs")).unwrap(), "x\nx\n");
}

#[test]
fn when_the_server_is_killed_agents_end_and_the_next_one_tells_how() {
    let house = House::start();
    let script = format!("{DAEMON}; {SESSION} touch main; while :; do sleep 1; done");
    house.run("it", &script, json!({}));
    house.run("done", "true", json!({ "workspace": "other" }));
    house.ended("done");
    eventually("all of it runs", || {
        ["main", "session", "daemon"]
            .iter()
            .all(|sign| house.files().join(sign).exists())
    });
    let data = house.kill();
    let house = House::on(data, ServerOptions::default());
    assert_eq!(house.get("/done")["state"], "exited");
    let agent = house.ended("it");
    assert_eq!(house.processes(), [0i32; 0]);
    assert_eq!(
        (&agent["state"], &agent["cause"]),
        (&json!("stopped"), &json!("orphaned")),
        "{agent}"
    );
    let git = Git::new();
    is_recorded(&git, &house.files());
    // Numbers go on where they were.
    let events = house.events("it");
    let numbers: Vec<_> = events.iter().map(|event| event["seq"].as_u64().unwrap()).collect();
    assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
    assert_eq!(events.last().unwrap()["type"], "stopped");
    // It can be started again.
    house.post("/it/start");
    assert_eq!(house.get("/it/wait?until=ready")["run"], 2);
    house.post("/it/kill");
    house.ended("it");
}

/// Kills the server and starts another one, in which the agent `it` is being taken up.
fn taken_up(house: House) -> House {
    // What is made is on disk when that is told, and with it whatever was before.
    house.run("it", "", json!({ "name": null, "start": false }));
    let house = House::on(house.kill(), ServerOptions::default());
    assert_eq!(house.get("/it")["state"], "stopping");
    house
}

#[test]
fn one_that_is_taken_up_by_the_next_server_can_be_killed_and_hurried() {
    let slow = || json!({ "ladder": { "end_of_input_ms": 3_600_000, "terminate_ms": 3_600_000 } });
    let script = format!("trap 'echo x >> asked' TERM; {DAEMON}; touch main; while :; do sleep 0.05; done");
    let runs = |house: &House| {
        eventually("all of it runs", || {
            ["main", "daemon"].iter().all(|sign| house.files().join(sign).exists())
        });
        house.get("/it/wait?until=ready");
    };
    let house = House::start();
    house.run("it", &script, slow());
    runs(&house);
    let house = taken_up(house);
    let began = std::time::Instant::now();
    house.post("/it/kill");
    let agent = house.ended("it");
    assert!(began.elapsed() < Duration::from_secs(8), "nobody waits for its ladder");
    assert_eq!(
        (&agent["state"], &agent["cause"]),
        (&json!("stopped"), &json!("asked")),
        "{agent}"
    );
    assert_eq!(agent["signal"], 9, "{agent}");
    assert_eq!(house.processes(), [0i32; 0]);
    assert!(!house.files().join("asked").exists());
    // Each stop is one step: SIGTERM, then the end of all.
    house.post("/it/start");
    fs::remove_file(house.files().join("main")).unwrap();
    runs(&house);
    let house = taken_up(house);
    let began = std::time::Instant::now();
    house.post("/it/stop");
    eventually("it is asked", || house.files().join("asked").exists());
    house.post("/it/stop");
    house.ended("it");
    assert!(began.elapsed() < Duration::from_secs(8), "nobody waits for its ladder");
    assert_eq!(house.processes(), [0i32; 0]);
}

#[test]
fn what_was_asked_for_before_the_server_was_killed_is_not_asked_for_again() {
    let house = House::start();
    let slow = json!({ "ladder": { "end_of_input_ms": 0, "terminate_ms": 3_600_000 } });
    let script = "trap 'echo x >> asked' TERM; touch main; while :; do sleep 0.05; done";
    house.run("it", script, slow);
    eventually("it runs", || house.files().join("main").exists());
    house.post("/it/stop");
    eventually("it is asked", || house.files().join("asked").exists());
    let house = taken_up(house);
    house.ended("it");
    assert_eq!(fs::read_to_string(house.files().join("asked")).unwrap(), "x\n");
}

#[test]
fn one_that_always_runs_outlasts_its_server() {
    let house = House::start();
    let always = json!({ "restart": "always", "restart_first_ms": 1, "restart_burst": 3 });
    let script = "echo \"$GITSTEAD_RUN\" >> runs; while :; do sleep 0.05; done";
    house.run("it", script, always);
    let runs = |house: &House, n: usize| {
        eventually("it runs", || {
            fs::read_to_string(house.files().join("runs")).is_ok_and(|text| text.lines().count() == n)
        });
    };
    runs(&house, 1);
    let house = House::on(house.kill(), ServerOptions::default());
    runs(&house, 2);
    let kinds = house.kinds("it");
    assert_eq!(
        kinds.iter().filter(|kind| *kind == "restarting").count(),
        1,
        "{kinds:?}"
    );
    // One that is closed in order stops its agents, and the next one goes on with them.
    let pid = rustix::process::Pid::from_raw(house.server.pid().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    eventually("it has ended", || {
        fs::read_to_string(format!("/proc/{}/stat", house.server.pid())).is_ok_and(|stat| stat.contains(") Z "))
    });
    let house = House::on(house.kill(), ServerOptions::default());
    runs(&house, 3);
    // Three servers that die under it are too many.
    let house = House::on(house.kill(), ServerOptions::default());
    runs(&house, 4);
    let house = House::on(house.kill(), ServerOptions::default());
    runs(&house, 5);
    let house = House::on(house.kill(), ServerOptions::default());
    assert_eq!(house.ended("it")["state"], "crash_looping");
    assert_eq!(house.processes(), [0i32; 0]);
}

#[test]
fn when_the_parent_processes_are_killed_with_the_server_nothing_runs_on_either() {
    let house = House::start();
    let script = format!("{DAEMON}; {SESSION} echo $PPID > pid.tmp; mv pid.tmp pid; while :; do sleep 1; done");
    house.run("it", &script, json!({}));
    eventually("all of it runs", || {
        ["pid", "session", "daemon"]
            .iter()
            .all(|sign| house.files().join(sign).exists())
    });
    let parent = fs::read_to_string(house.files().join("pid")).unwrap();
    let parent = rustix::process::Pid::from_raw(parent.trim().parse().unwrap()).unwrap();
    let server = rustix::process::Pid::from_raw(house.server.pid().cast_signed()).unwrap();
    // Stopped first, so that neither can do anything about the other.
    rustix::process::kill_process(server, rustix::process::Signal::STOP).unwrap();
    rustix::process::kill_process(parent, rustix::process::Signal::KILL).unwrap();
    let data = house.kill();
    let house = House::on(data, ServerOptions::default());
    let agent = house.ended("it");
    assert_eq!(agent["state"], "lost", "{agent}");
    assert_eq!(house.processes(), [0i32; 0]);
}

#[test]
fn a_server_that_is_asked_to_end_stops_its_agents_and_records_what_they_did() {
    let house = House::start();
    let script = format!("trap 'echo bye > last; exit 0' TERM; {DAEMON}; touch main; while :; do sleep 0.05; done");
    house.run("it", &script, json!({ "ladder": { "terminate_ms": 20_000 } }));
    eventually("it runs", || {
        ["main", "daemon"].iter().all(|sign| house.files().join(sign).exists())
    });
    let git = Git::new();
    let keep = git.path("data");
    let files = house.files();
    let House { server, .. } = house;
    let data = server.data().to_owned();
    // The directory goes with the server: what is looked at is a copy that is made before.
    let repo = server.repos().join("demo.git");
    let pid = rustix::process::Pid::from_raw(server.pid().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    eventually("it has ended", || {
        fs::read_to_string(format!("/proc/{}/stat", server.pid())).is_ok_and(|stat| stat.contains(") Z "))
    });
    assert_eq!(fs::read_to_string(files.join("last")).unwrap(), "bye\n");
    let log = git.ok(&repo, "log --format=%s -1 main");
    assert!(log.starts_with("[sh] Created"), "{log}");
    is_recorded(&git, &files);
    assert!(
        !data.join("server").exists(),
        "nobody is told any more that it is there"
    );
    drop(keep);
}

#[test]
fn what_cannot_be_executed_is_said_to_be_so() {
    let house = House::start();
    let case = |name: &str, argv: &[&str], more: Value| {
        let mut more = more;
        more["argv"] = json!(argv);
        more["start"] = json!(false);
        house.run(name, "", more);
        house.post(&format!("/{name}/start"));
        let agent = house.ended(name);
        assert_eq!(
            (&agent["state"], &agent["run"]),
            (&json!("failed"), &json!(1)),
            "{agent}"
        );
        assert_eq!(
            (&agent["exit_code"], &agent["signal"]),
            (&Value::Null, &Value::Null),
            "{agent}"
        );
        let kind = house.events(name).last().unwrap()["failure"]["fault"].clone();
        (kind, agent["failure"].as_str().unwrap().to_owned())
    };
    let restart = json!({ "restart": "always" });
    let (kind, text) = case("missing", &["no-such-program"], restart);
    assert_eq!(
        (kind, text.as_str()),
        (json!("missing"), "there is no program 'no-such-program'")
    );
    // Who starts a new one in vain has none afterwards, and can use its name.
    let body = json!({ "name": "new", "repository": "demo", "argv": ["no-such-program"] });
    for _ in 0..2 {
        let refused = house.ask("POST", "", Some(&body)).is(422);
        assert_eq!(
            (&refused["error"]["code"], &refused["error"]["message"]),
            (&json!("not_started"), &json!("there is no program 'no-such-program'"))
        );
    }
    house.ask("GET", "/new", None).is(404);
    assert!(!house.server.data().join("logs/new").exists());
    let work = house.files();
    fs::write(work.join("plain"), "#!/bin/sh\n").unwrap();
    fs::write(work.join("bad"), "#!/no/such/shell\n").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(work.join("bad"), mode).unwrap();
    let (kind, text) = case("plain", &["./plain"], json!({}));
    assert_eq!(
        (kind, text.as_str()),
        (json!("not_executable"), "'./plain' may not be executed")
    );
    let (kind, text) = case("bad", &["./bad"], json!({}));
    assert_eq!(kind, "bad_interpreter");
    assert!(text.contains("/no/such/shell"), "{text}");
    let (kind, _) = case("nowhere", &["sh"], json!({ "cwd": "not/there" }));
    assert_eq!(kind, "missing_directory");
    std::os::unix::fs::symlink("/tmp", work.join("out")).unwrap();
    let (kind, _) = case("outside", &["sh"], json!({ "cwd": "out" }));
    assert_eq!(kind, "missing_directory");
    assert_eq!(house.processes(), [0i32; 0]);
}

#[test]
fn a_key_that_is_passed_on_is_not_shown_and_one_that_is_told_is_not_taken() {
    const KEY: &str = "sk-passed-on-0123456789";
    let mut options = ServerOptions::default();
    options.env.push(("HOUSE_API_KEY".to_owned(), KEY.to_owned()));
    let house = House::with(options);
    house.run(
        "it",
        "echo \"it is $HOUSE_API_KEY\"",
        json!({ "inherit": ["HOUSE_API_KEY"] }),
    );
    house.ended("it");
    let logs = house.get("/it/logs").to_string();
    assert!(logs.contains("it is [redacted]") && !logs.contains(KEY), "{logs}");
    let body = json!({ "repository": "demo", "argv": ["true"], "env": { "HOUSE_API_KEY": KEY } });
    // One that is too short to be looked for is kept where anybody looks, too.
    let short = json!({ "repository": "demo", "argv": ["true"], "env": { "PASSWORD": "hunter2" } });
    house.ask("POST", "", Some(&short)).is(400);
    let refused = house.ask("POST", "", Some(&body)).is(400).to_string();
    assert!(
        refused.contains("--secret HOUSE_API_KEY=FILE") && !refused.contains(KEY),
        "{refused}"
    );
    let ledger = fs::read(house.server.data().join("ledger.redb")).unwrap();
    assert!(!ledger.windows(KEY.len()).any(|bytes| bytes == KEY.as_bytes()));
}

#[test]
fn an_agent_gets_a_clean_process() {
    let house = House::with(ServerOptions {
        env: vec![("SECRET_OF_THE_SERVER".to_owned(), "1".to_owned())],
        ..ServerOptions::default()
    });
    let key = house.server.data().join("key");
    fs::write(&key, "s3cret\n").unwrap();
    let script = "env > env; ulimit -c > core; umask > umask; ls -l /proc/self/fd > fds; grep -E 'Sig(Blk|Ign)|NoNewPrivs' /proc/self/status > status; \
                  tr '\\0' '\\n' < /proc/$PPID/cmdline > parent; cut -d' ' -f5,6 /proc/$$/stat > ids; echo $$ >> ids";
    house.run("it", script, json!({ "secrets": { "KEY": key }, "env": { "COLOR": "blue" }, "bounds": { "open_files": 64, "umask": 0o077 } }));
    house.ended("it");
    let read = |name: &str| fs::read_to_string(house.files().join(name)).unwrap();
    let env = read("env");
    for line in [
        "KEY=s3cret",
        "COLOR=blue",
        "GITSTEAD_AGENT=it",
        &format!("GITSTEAD_WORKSPACE={}", house.files().display()),
    ] {
        assert!(env.lines().any(|have| have == line), "{line}\n{env}");
    }
    assert!(!env.contains("SECRET_OF_THE_SERVER"), "{env}");
    assert_eq!((read("core").trim(), read("umask").trim()), ("0", "0077"));
    let fds = read("fds");
    assert!(fds.lines().filter(|line| line.contains("->")).count() <= 4, "{fds}");
    let status = read("status");
    assert!(status.contains("NoNewPrivs:\t1"), "{status}");
    let mask = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a line");
        u64::from_str_radix(line.trim(), 16).expect("a mask")
    };
    // Those above 31 are the business of the C library.
    assert_eq!((mask("SigBlk:"), mask("SigIgn:") & 0x7fff_ffff), (0, 0), "{status}");
    assert_eq!(read("parent").trim(), "gitstead\nagent-parent");
    let ids: Vec<_> = read("ids").split_whitespace().map(str::to_owned).collect();
    assert_eq!(ids[0], ids[2], "it leads a group of its own");
    assert_ne!(ids[1], ids[2], "in the session of its parent process");
    // The secret is nowhere else.
    let shown = house.get("/it").to_string() + &house.get("/it/events").to_string();
    assert!(!shown.contains("s3cret"), "{shown}");
    let ledger = fs::read(house.server.data().join("ledger.redb")).unwrap();
    assert!(!ledger.windows(6).any(|bytes| bytes == b"s3cret"));
}

#[test]
fn what_an_agent_may_have_is_no_bound_of_what_looks_after_it() {
    let house = House::start();
    // From its first moment: it looks at once.
    let script = "ulimit -n > own; ulimit -Hn >> own; ulimit -v >> own; grep -E 'open files|address space' /proc/$PPID/limits > parent";
    let bounds = json!({ "bounds": { "open_files": 20, "address_space": 1 << 28, "processes": 100_000 } });
    house.run("it", script, bounds);
    assert_eq!(house.ended("it")["state"], "exited");
    let read = |name: &str| fs::read_to_string(house.files().join(name)).unwrap();
    assert_eq!(read("own"), format!("20\n20\n{}\n", (1 << 28) / 1024));
    let parent = read("parent");
    assert_eq!(parent.lines().count(), 2);
    assert!(
        !parent.contains(" 20 ") && !parent.contains(&(1 << 28).to_string()),
        "{parent}"
    );
}

#[test]
fn one_may_have_less_room_than_what_starts_it_takes() {
    let house = House::start();
    // `gitstead` itself is larger than this, and so is the environment that it hands on.
    let much: std::collections::BTreeMap<_, _> = (0..100).map(|n| (format!("MUCH_{n}"), "x".repeat(500))).collect();
    let small = json!({ "bounds": { "address_space": 12 << 20 }, "env": much });
    house.run("it", "ulimit -v > own; echo ${#MUCH_99} >> own", small);
    let agent = house.ended("it");
    assert_eq!(agent["state"], "exited", "{agent}");
    let own = fs::read_to_string(house.files().join("own")).unwrap();
    assert_eq!(own, format!("{}\n500\n", (12 << 20) / 1024));
    // What cannot be executed is told as ever.
    let body =
        json!({ "name": "bad", "repository": "demo", "argv": ["./bad"], "bounds": { "address_space": 12 << 20 } });
    fs::write(house.files().join("bad"), "#!/no/such/shell\n").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(house.files().join("bad"), mode).unwrap();
    let refused = house.ask("POST", "", Some(&body)).is(422).to_string();
    assert!(refused.contains("/no/such/shell"), "{refused}");
}

#[test]
fn output_is_kept_byte_for_byte_and_nobody_who_looks_on_holds_it_up() {
    let house = House::start();
    house.run(
        "it",
        "printf 'a\\r\\n\\377\\000b\\nlast'; echo err >&2; exit 0",
        json!({}),
    );
    house.ended("it");
    let spool = house.server.data().join("logs/it");
    eventually("it is on disk", || {
        fs::read(spool.join("stdout")).is_ok_and(|bytes| bytes == b"a\r\n\xff\0b\nlast")
            && fs::read(spool.join("stderr")).is_ok_and(|bytes| bytes == b"err\n")
    });
    let page = house.get("/it/logs");
    let texts: Vec<_> = page["lines"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|line| line["stream"] == "stdout")
        .map(|line| line["text"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(texts, ["a", "\u{fffd}\0b", "last"]);
}

#[test]
fn an_agent_that_reads_nothing_is_told_of_and_one_that_is_gone_too() {
    let house = House::start();
    house.run("deaf", "touch main; while :; do sleep 1; done", json!({}));
    eventually("it runs", || house.files().join("main").exists());
    let much = json!({ "text": "x".repeat(60_000) });
    let mut answers = Vec::new();
    for _ in 0..40 {
        answers.push(house.ask("POST", "/deaf/input", Some(&much)).status);
    }
    assert_eq!((answers[0], answers[39]), (204, 503), "{answers:?}");
    house.post("/deaf/stop");
    house.ended("deaf");
    let answer = house.ask("POST", "/deaf/input", Some(&much));
    assert_eq!(answer.is(409)["error"]["message"], "the agent does not run");
    house.run(
        "closed",
        "exec 0<&-; touch closed; while :; do sleep 1; done",
        json!({ "workspace": "other" }),
    );
    let files = house.server.data().join("work/demo/other");
    eventually("it runs", || files.join("closed").exists());
    // Whether the first is taken nobody can say before it is written.
    let _ = house.ask("POST", "/closed/input", Some(&json!({ "text": "a" })));
    let answer = house.ask("POST", "/closed/input", Some(&json!({ "text": "b" })));
    assert_eq!(answer.is(409)["error"]["message"], "the agent takes no more input");
    house.post("/closed/kill");
    house.ended("closed");
}

#[test]
fn one_that_fails_again_and_again_is_not_started_for_ever() {
    let house = House::start();
    let more = json!({ "restart": "on-failure", "restart_first_ms": 1, "restart_burst": 3 });
    house.run("it", "echo x >> runs; exit 1", more);
    let agent = house.ended("it");
    assert_eq!(
        (&agent["state"], &agent["run"]),
        (&json!("crash_looping"), &json!(3)),
        "{agent}"
    );
    assert_eq!(fs::read_to_string(house.files().join("runs")).unwrap(), "x\nx\nx\n");
    let more = json!({ "restart": "on-failure", "workspace": "other" });
    house.run("fine", "exit 0", more);
    assert_eq!(house.ended("fine")["run"], 1);
}

#[test]
fn what_would_end_the_same_way_is_not_started_again() {
    let house = House::start();
    let more = json!({ "restart": "always", "restart_first_ms": 1, "dialect": "claude" });
    house.run(
        "login",
        "echo 'Invalid API key · Please run /login' >&2; exit 1",
        more.clone(),
    );
    house.run("arguments", "echo \"error: unknown option '--frob'\" >&2; exit 1", more);
    let plain = json!({ "restart": "on-failure", "restart_first_ms": 1 });
    house.run("configuration", "echo x >> runs; exit 78", plain);
    for name in ["login", "arguments", "configuration"] {
        let agent = house.ended(name);
        assert_eq!(
            (&agent["state"], &agent["run"], &agent["unfit"]),
            (&json!("failed"), &json!(1), &json!(name)),
            "{agent}"
        );
        let events = house.events(name);
        let told = events.iter().find(|event| event["type"] == "unfit").expect("told");
        assert_eq!(told["why"], name, "{told}");
    }
    let events = house.events("login");
    let told = events.iter().find(|event| event["type"] == "unfit").unwrap();
    assert_eq!(told["text"], "Invalid API key · Please run /login");
    let failed = events.iter().find(|event| event["type"] == "failed").unwrap();
    assert_eq!(
        (&failed["lines"], &failed["unanswered"]),
        (&json!(1), &json!(0)),
        "{failed}"
    );
    assert!(failed["silent_ms"].is_u64(), "{failed}");
    // Whoever has logged in starts it again.
    house.post("/configuration/start");
    eventually("it runs again", || {
        fs::read_to_string(house.files().join("runs")).is_ok_and(|text| text == "x\nx\n")
    });
    house.ended("configuration");
}

#[test]
fn whoever_has_an_agent_made_finds_it_in_his_trace() {
    let house = House::start();
    let of = |agent: &Value| agent["trace"].as_str().expect("a trace").to_owned();
    let mine = "4bf92f3577b34da6a3ce929d0e0e4736";
    house.run("mine", "echo \"$TRACEPARENT\" > mine", json!({ "trace": mine }));
    house.run("own", "echo \"$TRACEPARENT\" > own", json!({}));
    let told = |name: &str| {
        house.ended(name);
        let text = fs::read_to_string(house.files().join(name)).unwrap();
        text.trim_end().split('-').map(str::to_owned).collect::<Vec<_>>()
    };
    for name in ["mine", "own"] {
        let (agent, parts) = (house.ended(name), told(name));
        assert_eq!(parts.len(), 4, "{parts:?}");
        assert_eq!(
            (parts[0].as_str(), &parts[1], parts[3].as_str()),
            ("00", &of(&agent), "01")
        );
        let events = house.events(name);
        let started = events.iter().find(|event| event["type"] == "started").unwrap();
        assert_eq!(started["trace"], of(&agent));
    }
    assert_eq!(of(&house.ended("mine")), mine);
    assert_ne!(of(&house.ended("own")), mine);
    let wrong = json!({ "repository": "demo", "argv": ["true"], "trace": "4bf9" });
    house.ask("POST", "", Some(&wrong)).is(400);
}

#[test]
fn a_second_server_does_not_touch_what_the_first_one_has() {
    let house = House::start();
    let second = std::process::Command::new(env!("CARGO_BIN_EXE_gitstead"))
        .env_clear()
        .args(["serve", "--listen", "127.0.0.1:0", "--data"])
        .arg(house.server.data())
        .output()
        .unwrap();
    let said = String::from_utf8(second.stderr).unwrap();
    assert_eq!(
        (second.status.code(), second.stdout.as_slice()),
        (Some(1), &b""[..]),
        "{said}"
    );
    assert!(said.contains("another gitstead serves from"), "{said}");
    house.run("it", "true", json!({}));
    assert_eq!(house.ended("it")["state"], "exited");
}

#[test]
fn a_watchdog_that_would_never_bark_is_refused() {
    let house = House::start();
    let dogs = json!({ "silence": { "after_ms": 50, "action": "stop" } });
    let body = json!({ "repository": "demo", "argv": ["true"], "watchdogs": dogs });
    let refused = house.ask("POST", "", Some(&body)).is(400);
    assert!(
        refused["error"]["message"].as_str().unwrap().contains("'wall'"),
        "{refused}"
    );
}

#[test]
fn what_lasts_too_long_is_stopped() {
    let house = House::start();
    let dogs = json!({ "watchdogs": { "wall": { "after_ms": 50, "action": "stop" } } });
    house.run("it", "while :; do sleep 1; done", dogs);
    let agent = house.ended("it");
    assert_eq!(
        (&agent["state"], &agent["cause"]),
        (&json!("failed"), &json!("watchdog")),
        "{agent}"
    );
    assert!(house.kinds("it").contains(&"watchdog".to_owned()));
    assert_eq!(house.processes(), [0i32; 0]);
}

#[test]
fn output_that_a_stranger_holds_open_does_not_hold_up_the_end() {
    // The test itself holds the other end: a process that is no descendant.
    let house = House::start();
    let fifo = house.server.data().join("fifo");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    let script = format!("echo $$ > pid.tmp; mv pid.tmp pid; read x < {}", fifo.display());
    house.run("it", &script, json!({}));
    eventually("it runs", || house.files().join("pid").exists());
    let pid = fs::read_to_string(house.files().join("pid")).unwrap();
    let held = fs::OpenOptions::new()
        .write(true)
        .open(format!("/proc/{}/fd/1", pid.trim()))
        .unwrap();
    fs::write(&fifo, "go\n").unwrap();
    let started = std::time::Instant::now();
    let agent = house.ended("it");
    assert_eq!(agent["state"], "exited");
    assert!(started.elapsed() < Duration::from_secs(30));
    drop(held);
}
