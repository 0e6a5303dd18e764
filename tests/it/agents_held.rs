//! What the system holds agents in: cgroups, where there are some to be had, and a sandbox, where there is landlock.

use std::{fs, path::Path};

use serde_json::{Value, json};

use crate::support::{Git, ServerOptions, agents::House, wire::eventually};

/// Whether agents have cgroups here.
fn has_cgroup(agent: &Value) -> bool {
    let has = agent["isolation"]["cgroup"] == true;
    if !has {
        eprintln!("there are no cgroups to be had here: nothing was tested");
    }
    has
}

/// The directory of an agent's cgroup, by what it has seen of itself.
pub fn cgroup_of(text: &str) -> std::path::PathBuf {
    let path = text
        .lines()
        .find_map(|line| line.strip_prefix("0::"))
        .expect("a cgroup v2");
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let mount = mounts
        .lines()
        .find(|line| line.split(' ').nth(2) == Some("cgroup2"))
        .expect("it is mounted");
    Path::new(mount.split(' ').nth(1).unwrap()).join(path.trim_start_matches('/'))
}

#[test]
fn an_agent_has_a_cgroup_of_its_own_and_takes_it_along() {
    let house = House::start();
    let script =
        "cat /proc/self/cgroup > own; cat /proc/$PPID/cgroup > parent; touch main; while :; do sleep 0.05; done";
    house.run(
        "it",
        script,
        json!({ "bounds": { "memory": 1 << 30, "tasks": 100, "cpu_percent": 50, "io_bytes_per_second": 1 << 30 } }),
    );
    eventually("it runs", || house.files().join("main").exists());
    let agent = house.get("/it");
    let isolation = &agent["isolation"];
    // What is wanted holds, or is said not to.
    let named = |key: &str| isolation[key].as_array().unwrap().len();
    assert_eq!(named("limits") + named("missing"), 4, "{isolation}");
    let troubles = house.kinds("it").iter().filter(|kind| *kind == "trouble").count();
    assert_eq!(troubles, named("missing"));
    if has_cgroup(&agent) {
        let read = |name: &str| fs::read_to_string(house.files().join(name)).unwrap();
        let dir = cgroup_of(&read("own"));
        assert!(read("own").contains("/gitstead-agents/it-"), "{}", read("own"));
        assert!(!read("parent").contains("/gitstead-agents/it-"), "{}", read("parent"));
        assert!(dir.is_dir(), "{}", dir.display());
        house.post("/it/kill");
        house.ended("it");
        assert!(!dir.exists(), "{}", dir.display());
    }
    let agent = house.get("/it");
    assert!(agent["isolation"].is_object(), "also afterwards: {agent}");
}

#[test]
fn no_file_of_an_agent_grows_beyond_its_bound() {
    let house = House::start();
    let script = "head -c 100000 /dev/zero > small; head -c 200000 /dev/zero > large; touch after";
    house.run("it", script, json!({ "bounds": { "file_bytes": 131_072 } }));
    house.ended("it");
    let size = |name: &str| fs::metadata(house.files().join(name)).unwrap().len();
    assert_eq!((size("small"), size("large")), (100_000, 131_072));
    assert!(
        house.files().join("after").exists(),
        "what was too much is ended, and nothing else"
    );
}

#[test]
fn what_has_left_everything_behind_but_its_cgroup_ends_with_that() {
    let house = House::start();
    // No session, parent or environment of the agent's: by these nobody would find it.
    let lost = "(env -i setsid sh -c 'echo $$ > lost.tmp; mv lost.tmp lost; while :; do sleep 0.05; done' &)";
    let script = format!("{lost}; echo $PPID > parent.tmp; mv parent.tmp parent; while :; do sleep 0.05; done");
    house.run("it", &script, json!({}));
    eventually("all of it runs", || {
        ["lost", "parent"].iter().all(|sign| house.files().join(sign).exists())
    });
    let pid = |name: &str| fs::read_to_string(house.files().join(name)).unwrap().trim().to_owned();
    let agent = house.get("/it/wait?until=ready");
    let parent = rustix::process::Pid::from_raw(pid("parent").parse().unwrap()).unwrap();
    rustix::process::kill_process(parent, rustix::process::Signal::KILL).unwrap();
    assert_eq!(house.ended("it")["state"], "lost");
    let lost = pid("lost");
    let runs = || fs::read_to_string(format!("/proc/{lost}/stat")).is_ok_and(|stat| !stat.contains(") Z "));
    if has_cgroup(&agent) {
        eventually("it is gone", || !runs());
    } else if runs() {
        let lost = rustix::process::Pid::from_raw(lost.parse().unwrap()).unwrap();
        rustix::process::kill_process(lost, rustix::process::Signal::KILL).unwrap();
    }
}

/// Tries things in a sandbox, and writes down how that ended.
const TRIES: &str = r##"
try() { what=$1; shift; if "$@" > /dev/null 2>> errors; then echo "$what yes" >> tried; else echo "$what no" >> tried; fi; }
try ledger cat "$DATA/ledger.redb"
try data ls "$DATA"
try repos ls "$DATA/repos"
try other cat "$DATA/work/demo/other/secret"
try write-other sh -c 'echo x > "$DATA/work/demo/other/mine"'
try home ls "$DATA/home"
try config sh -c 'echo x >> "$DATA/repos/demo.git/config"'
try hooks sh -c 'echo x > "$DATA/repos/demo.git/hooks/post-receive"'
try signal kill -0 "$PPID"
try environment sh -c 'tr "\0" "\n" < "/proc/$SERVER/environ" | grep -q .'
try through sh -c 'cat "/proc/$PPID/root/$DATA/ledger.redb"'
try own sh -c 'echo mine > own && cat own'
try script sh -c 'printf "#!/bin/sh\ntrue\n" > run && chmod +x run && ./run'
try tools sh -c 'ls / /usr/bin > /dev/null; echo 3 | sed s/3/4/ | grep -q 4'
try null sh -c 'echo x > /dev/null'
try temporary sh -c 'echo x > "$TMPDIR/x" && cat "$TMPDIR/x"'
try others-temporary ls /tmp
try read cat "$DATA/allowed/file"
try write-read sh -c 'echo x > "$DATA/allowed/file"'
try commit sh -c 'git add own && git -c user.name=a -c user.email=a@b commit -qm Mine && git log -1'
"##;

/// What comes of them; without landlock nothing is said.
#[track_caller]
fn tried(house: &House, agent: &Value) -> Option<Vec<(String, bool)>> {
    if agent["isolation"]["landlock"].as_u64().is_none() {
        eprintln!("this system has no landlock: nothing was tested");
        return None;
    }
    let text = fs::read_to_string(house.files().join("tried")).unwrap();
    let pairs = text.lines().map(|line| line.rsplit_once(' ').unwrap());
    Some(pairs.map(|(what, how)| (what.to_owned(), how == "yes")).collect())
}

fn secrets(house: &House) {
    house.run("first", "true", json!({}));
    house.ended("first");
    house.run("other", "echo s3cret > secret", json!({ "workspace": "other" }));
    house.ended("other");
    for (dir, file) in [("home", "key"), ("allowed", "file")] {
        fs::create_dir(house.server.data().join(dir)).unwrap();
        fs::write(house.server.data().join(dir).join(file), "x").unwrap();
    }
}

#[test]
fn an_agent_in_a_sandbox_reaches_its_workspace_and_nothing_else_of_ours() {
    let house = House::start();
    secrets(&house);
    let data = house.server.data();
    let environ = fs::read(format!("/proc/{}/environ", house.server.pid())).unwrap();
    assert!(!environ.is_empty(), "there is something to be hidden");
    let sandbox = json!({ "mode": "best-effort", "read": [data.join("allowed")] });
    house.run(
        "it",
        TRIES,
        json!({ "env": { "DATA": data, "HOME": "/", "SERVER": house.server.pid().to_string() }, "sandbox": sandbox }),
    );
    let agent = house.ended("it");
    let Some(tried) = tried(&house, &agent) else { return };
    let yes: Vec<_> = tried
        .iter()
        .filter(|(_, yes)| *yes)
        .map(|(what, _)| what.as_str())
        .collect();
    let errors = fs::read_to_string(house.files().join("errors")).unwrap();
    let mut expected = vec!["own", "script", "tools", "null", "temporary", "read", "commit"];
    if agent["isolation"]["landlock"].as_u64() < Some(6) {
        expected.insert(0, "signal");
    }
    assert_eq!(yes, expected, "{errors}");
    assert_eq!(tried.len(), 20, "{errors}");
    let git = Git::new();
    let log = git.ok(house.files(), "log --format=%s");
    assert!(
        log.contains("Mine") && log.contains("[sh] "),
        "its own commit, and the last checkpoint: {log}"
    );
    // It is the sandbox of that agent alone.
    house.run(
        "free",
        "cat \"$DATA/work/demo/other/secret\" > seen",
        json!({ "env": { "DATA": data } }),
    );
    house.ended("free");
    assert_eq!(fs::read_to_string(house.files().join("seen")).unwrap(), "s3cret\n");
    assert_eq!(house.get("/free")["isolation"]["landlock"], Value::Null);
    house.ask("DELETE", "/it", None).is(204);
    assert!(!data.join("run/it.tmp").exists());
}

/// Asks the server for things, as nobody, and writes down how it answers.
const ASKS: &str = r##"
ask() {
    exec 3<>"/dev/tcp/127.0.0.1/$PORT"
    printf '%s %s HTTP/1.1\r\nHost: 127.0.0.1:%s\r\nX-User: admin\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: %s\r\n\r\n%s' "$1" "$2" "$PORT" "${#3}" "$3" >&3
    read -r _ status _ <&3
    cat <&3 > /dev/null
    exec 3<&-
    echo "$status" >> "$1-$OUT"
}
ask GET /repos/demo/info/refs?service=git-upload-pack ""
ask GET /api/v1/repos ""
ask POST /api/v1/agents '{"repository":"demo","argv":["true"]}'
ask DELETE /api/v1/repos/nothing ""
"##;

#[test]
fn an_agent_in_a_sandbox_is_nobody_to_the_server_and_everybody_else_is_who_he_is() {
    let house = House::start();
    house.run("first", "true", json!({}));
    house.ended("first");
    let port = house
        .server
        .address()
        .to_string()
        .rsplit(':')
        .next()
        .unwrap()
        .to_owned();
    let ask = |name: &str, sandbox: &str| {
        let env = json!({ "PORT": port, "OUT": name });
        let more = json!({ "argv": ["bash", "-c", ASKS], "env": env, "sandbox": { "mode": sandbox } });
        house.run(name, "", more);
        let agent = house.ended(name);
        let told =
            |method: &str| fs::read_to_string(house.files().join(format!("{method}-{name}"))).unwrap_or_default();
        (agent, [told("GET"), told("POST"), told("DELETE")])
    };
    // While it runs, others are asked who they are, too: these requests are the test's own.
    let (_, held) = ask("held", "best-effort");
    assert_eq!(held, ["403\n403\n", "403\n", "403\n"]);
    let (_, free) = ask("free", "off");
    assert_eq!(free, ["200\n200\n", "201\n", "404\n"]);
}

#[test]
fn a_sandbox_of_the_house_is_for_all_and_nobody_widens_it() {
    let house = House::with(ServerOptions {
        config: Some("[agents]\nsandbox = \"best-effort\"\nsandbox_write = [\"shared\"]\n".to_owned()),
        ..ServerOptions::default()
    });
    let data = house.server.data();
    fs::create_dir(data.join("shared")).unwrap();
    let wider = json!({ "repository": "demo", "argv": ["true"], "sandbox": { "mode": "best-effort", "read": ["/"] } });
    let refused = house.ask("POST", "", Some(&wider)).is(400);
    assert!(
        refused["error"]["message"].as_str().unwrap().contains("configuration"),
        "{refused}"
    );
    let script = "cat \"$DATA/ledger.redb\" > seen; echo x > \"$DATA/shared/x\"";
    house.run(
        "it",
        script,
        json!({ "env": { "DATA": data }, "sandbox": { "mode": "off" } }),
    );
    let agent = house.ended("it");
    assert_eq!(agent["exit_code"], 0, "{agent}");
    assert!(data.join("shared/x").exists());
    if agent["isolation"]["landlock"].is_u64() {
        assert_eq!(fs::read(house.files().join("seen")).unwrap(), b"");
    }
    let relative = json!({ "repository": "demo", "argv": ["true"], "sandbox": { "read": ["x"] } });
    house.ask("POST", "", Some(&relative)).is(400);
}
