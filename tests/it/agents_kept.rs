//! What an agent is kept from before its first instruction: calls of the kernel, ports, and a life after its parent process.

use std::{fs, net::TcpListener, process::Command};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::support::{ServerOptions, agents::House, wire::eventually};

/// Whether this bound holds.
fn holds(agent: &Value, what: &str) -> bool {
    let holds = agent["isolation"]["limits"].as_array().unwrap().contains(&json!(what));
    if !holds {
        eprintln!("there is no {what} here: nothing was tested ({})", agent["isolation"]);
    }
    holds
}

/// Whether it is in a sandbox that has this.
fn has(agent: &Value, what: &str) -> bool {
    let has = match &agent["isolation"][what] {
        Value::Bool(has) => *has,
        other => !other.is_null(),
    };
    if !has {
        eprintln!("this system has no {what}: nothing was tested");
    }
    has
}

/// What came of each of these calls of the kernel, as perl makes them; nothing where there is no perl.
fn called(house: &House, name: &str, calls: &[(&str, i64, &str)], more: Value) -> Option<(Value, Vec<String>)> {
    if !std::path::Path::new("/usr/bin/perl").exists() {
        eprintln!("there is no perl: nothing was tested");
        return None;
    }
    let mut script = String::from("use Errno; my $r; my $parent = $ENV{PARENT} + 0; my $own = $$ + 0;\n");
    for (what, number, args) in calls {
        script.push_str(&format!(
            "$r = syscall({number}{args}); print '{what} ', ($r == -1 ? ($!{{EPERM}} ? 'EPERM' : $!{{ENOSYS}} ? 'ENOSYS' : 'other') : 'done'), \"\\n\";\n"
        ));
    }
    fs::create_dir_all(house.files()).unwrap();
    fs::write(house.files().join(format!("{name}.pl")), script).unwrap();
    let mut body = json!({ "argv": ["sh", "-c", format!("PARENT=$PPID exec perl {name}.pl > {name}.txt")] });
    for (key, value) in more.as_object().unwrap() {
        body[key] = value.clone();
    }
    house.run(name, "", body);
    let agent = house.ended(name);
    let text = fs::read_to_string(house.files().join(format!("{name}.txt"))).unwrap();
    Some((agent, text.lines().map(str::to_owned).collect()))
}

#[test]
fn a_sandbox_denies_calls_that_break_out_of_one_and_the_end_of_the_parent_process() {
    let house = House::start();
    house.run("first", "true", json!({}));
    house.ended("first");
    let parent = ", $parent";
    let group = ", -$parent";
    let calls = [
        ("bpf", libc::SYS_bpf, ", 0, 0, 0"),
        ("ptrace", libc::SYS_ptrace, ", 0, 0, 0, 0"),
        ("keyctl", libc::SYS_keyctl, ", 0, 0, 0, 0, 0"),
        ("io_uring", libc::SYS_io_uring_setup, ", 1, 0"),
        ("userfaultfd", libc::SYS_userfaultfd, ", 0"),
        ("perf", libc::SYS_perf_event_open, ", 0, 0, 0, 0, 0"),
        ("mount", libc::SYS_mount, ", 0, 0, 0, 0, 0"),
        ("unshare", libc::SYS_unshare, ", 0x10000000"),
        ("unshare-files", libc::SYS_unshare, ", 0x400"),
        ("clone3", libc::SYS_clone3, ", 0, 0"),
        ("odd", libc::SYS_personality, ", 0x0400000"),
        ("plain", libc::SYS_personality, ", 0xffffffff"),
        ("kill", libc::SYS_kill, &format!("{parent}, 9")),
        ("kill-group", libc::SYS_kill, &format!("{group}, 9")),
        ("kill-all", libc::SYS_kill, ", -1, 0"),
        ("tgkill", libc::SYS_tgkill, &format!("{parent}{parent}, 9")),
        ("tkill", libc::SYS_tkill, &format!("{parent}, 9")),
        ("pidfd", libc::SYS_pidfd_open, &format!("{parent}, 0")),
        ("limits", libc::SYS_prlimit64, &format!("{parent}, 0, 0, 0")),
        // Any thread stands for its process: that of the server has many, and nobody knows their numbers beforehand.
        ("limits-any", libc::SYS_prlimit64, ", 1, 0, 0, 0"),
        ("limits-own", libc::SYS_prlimit64, ", 0, 0, 0, 0"),
        ("nice", libc::SYS_setpriority, &format!(", 0{parent}, 19")),
        ("nice-user", libc::SYS_setpriority, ", 2, 0, 19"),
        ("nice-own", libc::SYS_setpriority, ", 0, 0, 1"),
        ("idle", libc::SYS_sched_setscheduler, &format!("{parent}, 0, 0")),
        ("disk", libc::SYS_ioprio_set, &format!(", 1{parent}, 0")),
        ("processor", libc::SYS_sched_setaffinity, &format!("{parent}, 0, 0")),
        ("join", libc::SYS_setpgid, &format!(", 0{parent}")),
        // As somebody may write it whom only the low half concerns.
        ("kill-low", libc::SYS_kill, ", $parent + 0x100000000, 9"),
        ("kill-self", libc::SYS_kill, ", $own, 0"),
    ];
    let sandbox = json!({ "sandbox": { "mode": "best-effort" } });
    let Some((agent, seen)) = called(&house, "it", &calls, sandbox) else {
        return;
    };
    assert_eq!(agent["state"], "exited", "{agent}");
    if !has(&agent, "seccomp") {
        return;
    }
    let expected: Vec<_> = calls
        .iter()
        .map(|(what, ..)| match *what {
            "unshare-files" | "plain" | "kill-self" | "limits-own" | "nice-own" => format!("{what} done"),
            "clone3" => format!("{what} ENOSYS"),
            _ => format!("{what} EPERM"),
        })
        .collect();
    assert_eq!(seen, expected);
    let server = format!("http://{}", house.server.address());
    let shown = Command::new(env!("CARGO_BIN_EXE_gitstead"))
        .env_clear()
        .args(["agent", "show", "it", "--server", &server])
        .output()
        .unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains(", seccomp"), "{shown}");
    // Who asks for none has none.
    let free = [
        ("unshare", libc::SYS_unshare, ", 0x400"),
        ("clone3", libc::SYS_clone3, ", 0, 0"),
    ];
    let (agent, seen) = called(&house, "free", &free, json!({})).unwrap();
    assert_eq!(
        (&agent["isolation"]["seccomp"], &seen[1]),
        (&json!(false), &"clone3 other".to_owned())
    );
}

#[test]
fn namespaces_are_for_those_to_whom_they_are_given() {
    let house = House::start();
    house.run("first", "true", json!({}));
    house.ended("first");
    let calls = [
        ("clone3", libc::SYS_clone3, ", 0, 0"),
        ("setns", libc::SYS_setns, ", -1, 0"),
        ("bpf", libc::SYS_bpf, ", 0, 0, 0"),
    ];
    let given = json!({ "sandbox": { "mode": "best-effort", "user_namespaces": true } });
    let Some((agent, seen)) = called(&house, "it", &calls, given) else {
        return;
    };
    if has(&agent, "seccomp") {
        assert_eq!(seen, ["clone3 other", "setns other", "bpf EPERM"]);
    }
    if has(&agent, "landlock") && !rustix::process::geteuid().is_root() {
        let script = "unshare -Urn sh -c 'id -u > root; ip link > links'; unshare -Urm mount -t tmpfs none \"$TMPDIR\" && touch mounted";
        let wants = |name: &str, given: bool| {
            let sandbox = json!({ "mode": "best-effort", "user_namespaces": given });
            house.run(name, script, json!({ "sandbox": sandbox }));
            house.ended(name);
            fs::read_to_string(house.files().join("root")).unwrap_or_default()
        };
        let free = Command::new("unshare").args(["-Urn", "true"]).status();
        if free.is_ok_and(|free| free.success()) {
            assert_eq!(
                (wants("denied", false).as_str(), wants("given", true).as_str()),
                ("", "0\n")
            );
            assert!(!house.files().join("mounted").exists(), "landlock lets nobody mount");
        }
    }
    let wanted = json!({ "repository": "demo", "argv": ["true"], "sandbox": { "user_namespaces": true } });
    let refused = house.ask("POST", "", Some(&wanted)).is(400).to_string();
    assert!(refused.contains("in a sandbox only"), "{refused}");
}

#[test]
fn calls_of_another_kind_end_who_makes_them() {
    if !cfg!(target_arch = "x86_64") {
        return;
    }
    // A program of nothing but this: mov eax, 20 (getpid of 32-bit programs); int 0x80; xor edi, edi; test eax, eax; setg dil; add edi, 6; mov eax, 231
    // (exit_group); syscall.
    let code = [
        0xb8, 20, 0, 0, 0, 0xcd, 0x80, 0x31, 0xff, 0x85, 0xc0, 0x40, 0x0f, 0x9f, 0xc7, 0x83, 0xc7, 6, 0xb8, 231, 0, 0,
        0, 0x0f, 0x05,
    ];
    let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    let at = 0x40_0000u64;
    for (value, size) in [
        (2u64, 2),
        (62, 2),
        (1, 4),
        (at + 120, 8),
        (64, 8),
        (0, 8),
        (0, 4),
        (64, 2),
        (56, 2),
        (1, 2),
        (0, 2),
        (0, 2),
        (0, 2),
    ] {
        elf.extend(&value.to_le_bytes()[..size]);
    }
    let length = 120 + code.len() as u64;
    for (value, size) in [
        (1u64, 4),
        (5, 4),
        (0, 8),
        (at, 8),
        (at, 8),
        (length, 8),
        (length, 8),
        (0x1000, 8),
    ] {
        elf.extend(&value.to_le_bytes()[..size]);
    }
    elf.extend(code);
    let house = House::start();
    house.run("first", "true", json!({}));
    house.ended("first");
    let program = house.files().join("old");
    fs::write(&program, elf).unwrap();
    fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    house.run("free", "./old; echo $? > free", json!({}));
    house.ended("free");
    let told = |name: &str| fs::read_to_string(house.files().join(name)).unwrap();
    if told("free") != "7\n" {
        eprintln!("this system has no such calls: nothing was tested");
        return;
    }
    house.run(
        "held",
        "./old; echo $? > held",
        json!({ "sandbox": { "mode": "best-effort" } }),
    );
    if has(&house.ended("held"), "seccomp") {
        // 128 and SIGSYS.
        assert_eq!(told("held"), "159\n");
    }
}

/// Connects and listens, and writes down how that went.
const DIALS: &str = r##"
try() { what=$1; shift; if (eval "$@") 2>> errors; then echo "$what yes" >> "$OUT"; else echo "$what no" >> "$OUT"; fi; }
try allowed 'exec 3<>/dev/tcp/127.0.0.1/'$YES
try other 'exec 3<>/dev/tcp/127.0.0.1/'$NO
try six 'exec 3<>/dev/tcp/::1/'$NO
"##;

#[test]
fn an_agent_connects_to_listed_ports_and_no_others() {
    let house = House::start();
    let (yes, no) = (
        TcpListener::bind("127.0.0.1:0").unwrap(),
        TcpListener::bind("127.0.0.1:0").unwrap(),
    );
    let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
    let (yes_port, no_port) = (port(&yes), port(&no));
    let ask = |name: &str, connect: Value| {
        let env = json!({ "YES": yes_port.to_string(), "NO": no_port.to_string(), "OUT": name });
        let sandbox = json!({ "mode": "best-effort", "connect": connect });
        house.run(
            name,
            "",
            json!({ "argv": ["bash", "-c", DIALS], "env": env, "sandbox": sandbox }),
        );
        let agent = house.ended(name);
        (agent, fs::read_to_string(house.files().join(name)).unwrap())
    };
    let (agent, listed) = ask("listed", json!([yes_port]));
    if agent["isolation"]["landlock"].as_u64() < Some(4) {
        let missing = agent["isolation"]["missing"].to_string();
        assert!(missing.contains("connect: "), "it is said: {agent}");
        return;
    }
    assert_eq!(listed, "allowed yes\nother no\nsix no\n");
    assert_eq!(
        (&agent["isolation"]["connect"], &agent["isolation"]["bind"]),
        (&json!([yes_port]), &Value::Null)
    );
    let (_, none) = ask("none", json!([]));
    assert_eq!(none, "allowed no\nother no\nsix no\n");
    let (_, all) = ask("all", Value::Null);
    assert!(all.starts_with("allowed yes\nother yes\n"), "{all}");
}

#[test]
fn an_agent_that_is_to_have_no_network_has_loopback_for_itself() {
    let house = House::start();
    let outside = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = outside.local_addr().unwrap().port();
    let script = "id -u > own; tail -n +3 /proc/net/dev | cut -d: -f1 > devices; \
                  (exec 3<>/dev/tcp/127.0.0.1/$PORT) 2> refused && touch reached; cat /proc/$PPID/comm > parent; \
                  (trap 'exit 0' TERM; while :; do sleep 0.05; done) & sleep 1000";
    let more = json!({
        "argv": ["bash", "-c", script],
        "env": { "PORT": port.to_string() },
        "sandbox": { "mode": "best-effort", "network": false, "read": ["/proc/net"] },
    });
    house.run("it", "", more);
    let agent = house.get("/it/wait?until=ready");
    if !has(&agent, "no_network") || agent["isolation"]["no_network"] == false {
        let missing = agent["isolation"]["missing"].to_string();
        assert!(missing.contains("no network: "), "it is said: {agent}");
        return;
    }
    eventually("it has looked", || house.files().join("refused").exists());
    eventually("it is still there", || !house.processes().is_empty());
    let read = |name: &str| fs::read_to_string(house.files().join(name)).unwrap_or_default();
    let own = format!("{}\n", rustix::process::geteuid().as_raw());
    assert_eq!(read("own"), own, "it is who it was");
    eventually("nobody is reached", || read("refused").contains("refused"));
    assert!(!house.files().join("reached").exists());
    house.post("/it/stop");
    let agent = house.ended("it");
    assert_eq!(
        (&agent["state"], agent["stragglers"].as_array().map(Vec::len)),
        (&json!("stopped"), Some(0)),
        "{agent}"
    );
    assert_eq!(house.processes(), [0i32; 0]);
}

#[test]
fn ports_of_the_house_are_for_all_its_agents() {
    let house = House::with(ServerOptions {
        config: Some("[agents]\nsandbox = \"best-effort\"\nsandbox_connect = [443, 8443]\nsandbox_bind = []\nsandbox_user_namespaces = false\n".to_owned()),
        ..ServerOptions::default()
    });
    house.run("it", "true", json!({ "sandbox": { "connect": [8443, 22] } }));
    let agent = house.ended("it");
    if agent["isolation"]["landlock"].as_u64() >= Some(4) {
        assert_eq!(
            (&agent["isolation"]["connect"], &agent["isolation"]["bind"]),
            (&json!([8443]), &json!([]))
        );
    }
    let wider = json!({ "repository": "demo", "argv": ["true"], "sandbox": { "user_namespaces": true } });
    let refused = house.ask("POST", "", Some(&wider)).is(400).to_string();
    assert!(refused.contains("configuration"), "{refused}");
}

#[test]
fn an_agent_ends_with_its_parent_process_also_when_nobody_looks() {
    let house = House::start();
    let script = "echo $$ > pid.tmp; echo $PPID > parent; mv pid.tmp pid; while :; do sleep 0.05; done";
    // Without the mark by which it would be looked for.
    house.run(
        "it",
        "",
        json!({ "argv": ["env", "-i", "PATH=/usr/bin:/bin", "sh", "-c", script] }),
    );
    eventually("it runs", || house.files().join("pid").exists());
    let pid = |name: &str| {
        let text = fs::read_to_string(house.files().join(name)).unwrap();
        text.trim().parse::<i32>().unwrap()
    };
    let (agent, parent) = (pid("pid"), pid("parent"));
    let server = Pid::from_raw(i32::try_from(house.server.pid()).unwrap()).unwrap();
    kill_process(server, Signal::STOP).unwrap();
    kill_process(Pid::from_raw(parent).unwrap(), Signal::KILL).unwrap();
    let is_gone = || !fs::read_to_string(format!("/proc/{agent}/stat")).is_ok_and(|stat| !stat.contains(") Z "));
    let gone = std::panic::catch_unwind(|| eventually("it is gone", is_gone));
    kill_process(server, Signal::CONT).unwrap();
    assert!(gone.is_ok(), "it lives on");
    assert_eq!(house.ended("it")["state"], "lost");
}

#[test]
fn what_fills_its_workspace_on_and_on_is_stopped_and_not_started_again() {
    let house = House::start();
    let fills = "while :; do head -c 200000 /dev/zero >> big; sleep 0.02; done";
    let dog = |action: &str| json!({ "watchdogs": { "disk": { "most_bytes": 3_000_000, "action": action } } });
    house.run("it", fills, dog("stop"));
    let agent = house.ended("it");
    assert_eq!(
        (&agent["state"], &agent["cause"]),
        (&json!("failed"), &json!("watchdog")),
        "{agent}"
    );
    let events = house.events("it");
    let barked: Vec<_> = events.iter().filter(|event| event["type"] == "watchdog").collect();
    assert_eq!(barked.len(), 1, "{events:#?}");
    assert_eq!(
        (&barked[0]["watchdog"], &barked[0]["most"]),
        (&json!("disk"), &json!(3_000_000))
    );
    assert!(barked[0]["bytes"].as_u64() > Some(3_000_000), "{events:#?}");
    assert!(agent["workspace_bytes"].as_u64() > Some(3_000_000), "{agent}");
    assert_eq!(house.processes(), [0i32; 0]);
    house.ask("POST", "/it/start", None);
    let agent = house.ended("it");
    let failure = agent["failure"].as_str().unwrap_or_default();
    assert!(failure.contains("may hold 3000000"), "{agent}");
    // Neither is another one in there, but for one that is only to be told.
    let mut body = json!({ "name": "other", "repository": "demo", "argv": ["true"] });
    body["watchdogs"] = dog("stop")["watchdogs"].clone();
    let refused = house.ask("POST", "", Some(&body)).is(422).to_string();
    assert!(refused.contains("may hold 3000000"), "{refused}");
    house.run("told", "read x", dog("warn"));
    eventually("it is told", || house.kinds("told").contains(&"watchdog".to_owned()));
    house
        .ask("POST", "/told/input", Some(&json!({ "text": "go\n" })))
        .is(204);
    assert_eq!(house.ended("told")["state"], "exited");
    // It is as it was before.
    fs::remove_file(house.files().join("big")).unwrap();
    house.run("other", "true", dog("stop"));
    assert_eq!(house.ended("other")["state"], "exited");
}

#[test]
fn what_writes_too_fast_is_held_back() {
    let house = House::start();
    let write = |name: &str, bounds: Value| {
        let script = format!("dd if=/dev/zero of=big bs=256k count=16 oflag=direct 2> {name}");
        house.run(name, &script, json!({ "bounds": bounds }));
        let agent = house.ended(name);
        let said = fs::read_to_string(house.files().join(name)).unwrap();
        let took = said.split("copied, ").nth(1).and_then(|rest| rest.split(' ').next());
        (agent, took.and_then(|took| took.parse::<f64>().ok()), said)
    };
    // Four mebibytes, two each second; what is allowed at the beginning is little.
    let (agent, held, said) = write("held", json!({ "io_bytes_per_second": 2 << 20 }));
    if holds(&agent, "io.max") {
        let (_, free, _) = write("free", json!({}));
        eprintln!("{held:?} seconds, without a bound {free:?}");
        assert!(held > Some(1.2) && free < Some(0.6), "{said}: {held:?}, {free:?}");
    }
}

#[test]
fn what_wants_more_memory_than_it_should_is_slowed_down_and_lives() {
    let house = House::start();
    let script = "cat /proc/self/cgroup > own.tmp; mv own.tmp own; head -c 24000000 /dev/zero | tail -c 24000000 > /dev/null; read x";
    house.run("it", script, json!({ "bounds": { "memory_high": 16 << 20 } }));
    eventually("it runs", || house.files().join("own").exists());
    let agent = house.get("/it/wait?until=ready");
    if holds(&agent, "memory.high") {
        let own = fs::read_to_string(house.files().join("own")).unwrap();
        let dir = crate::agents_held::cgroup_of(&own);
        let read = |name: &str| fs::read_to_string(dir.join(name)).unwrap();
        assert_eq!(read("memory.high").trim(), (16 << 20).to_string());
        let count = |name: &str| {
            let events = read("memory.events");
            let line = events.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim().parse::<u64>().unwrap()
        };
        eventually("it is slowed down", || count("high ") > 0);
        assert_eq!(count("oom_kill "), 0);
    }
    house.post("/it/kill");
    house.ended("it");
}
