//! Agents in containers. There is no engine here: a script plays the client of one, writes down what it is called with, and executes the rest beside us, as a child that gets none of its signals.

use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf};

use serde_json::{Value, json};

use crate::support::{ServerOptions, agents::House, wire::eventually};

/// `docker exec` as far as it is needed. It knows the container `box`, which has at `/box` what is written in `base`.
const CLIENT: &str = r#"#!/bin/sh
here=$(dirname "$0")
# What is in a container does not see the client's environment.
[ -n "$MARK" ] || MARK=x$GITSTEAD_RUN exec env -u GITSTEAD_RUN "$0" "$@"
call=
for word in "$@"; do case "$word" in *'
'*) word=SCRIPT;; esac; call="$call $word"; done
echo "docker$call" >> "$here/log"
[ "$1" = exec ] || exit 125; shift
dir=/
while :; do case "$1" in
    -i) shift;; -u|-e) shift 2;; -w) dir=$2; shift 2;; *) break;;
esac; done
[ "$1" = box ] || { echo "Error response from daemon: No such container: $1" >&2; exit 1; }
shift
case "$*" in *"/proc/[0-9]"*) [ ! -e "$here/frozen" ] || exit 1;; esac
case "$dir" in /box*) dir=$(cat "$here/base")${dir#/box};; esac
cd "$dir" || exit 126
# What a shell puts into the background reads nothing, unless it is told so.
exec 3<&0
( [ "$MARK" = x ] || export GITSTEAD_RUN="${MARK#x}"; unset MARK; exec "$@" <&3 3<&- ) &
trap 'exit 143' TERM
wait $!
"#;

struct Engine {
    house: House,
    bin: PathBuf,
}

impl Engine {
    fn start() -> Self {
        let data = tempfile::tempdir().unwrap();
        let bin = data.path().join("engine");
        fs::create_dir(&bin).unwrap();
        fs::write(bin.join("docker"), CLIENT).unwrap();
        fs::set_permissions(bin.join("docker"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(
            bin.join("base"),
            data.path().join("work/demo/main").display().to_string(),
        )
        .unwrap();
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
        let options = ServerOptions {
            env: vec![("PATH".to_owned(), path)],
            ..ServerOptions::default()
        };
        let house = House::on(data, options);
        Engine { house, bin }
    }

    fn log(&self) -> Vec<String> {
        let log = fs::read_to_string(self.bin.join("log")).unwrap_or_default();
        log.lines().map(str::to_owned).collect()
    }
}

fn inside(more: Value) -> Value {
    let mut body = json!({ "container": { "name": "box", "user": "dev", "workspace": "/box" }, "inherit": ["HOUSE"] });
    for (key, value) in more.as_object().into_iter().flatten() {
        body[key] = value.clone();
    }
    body
}

#[test]
fn an_agent_in_a_container_is_given_its_environment_by_name_and_its_work_is_recorded() {
    let engine = Engine::start();
    let house = &engine.house;
    let key = house.server.data().join("key");
    fs::write(&key, "s3cret\n").unwrap();
    house.run("first", "mkdir sub; touch sub/x", json!({}));
    house.ended("first");
    let more = json!({ "cwd": "sub", "env": { "COLOR": "blue" }, "secrets": { "KEY": key } });
    house.run("it", "read x; echo $x $COLOR $KEY > made; exit 3", inside(more));
    house.get("/it/wait?until=ready");
    house.ask("POST", "/it/input", Some(&json!({ "text": "hi\n" }))).is(204);
    let agent = house.ended("it");
    assert_eq!(
        (&agent["state"], &agent["exit_code"]),
        (&json!("failed"), &json!(3)),
        "{agent}"
    );
    assert_eq!(
        (&agent["container"], &agent["isolation"]["container"]),
        (&json!("box"), &json!("box"))
    );
    assert_eq!(agent["isolation"]["cgroup"], false);
    assert_eq!(agent["stragglers"], json!([]), "{agent}");
    assert_eq!(
        fs::read_to_string(house.files().join("sub/made")).unwrap(),
        "hi blue s3cret\n"
    );
    let subject = house
        .events("it")
        .into_iter()
        .find(|event| event["type"] == "checkpoint");
    assert_eq!(subject.unwrap()["subject"], "[sh] Created sub/made");
    let log = engine.log();
    let keys = "-e COLOR -e GITSTEAD_AGENT -e GITSTEAD_RUN -e GITSTEAD_WORKSPACE -e HOUSE -e KEY -e LOGNAME=dev -e TRACEPARENT -e USER=dev";
    let script = "read x; echo $x $COLOR $KEY > made; exit 3";
    assert_eq!(
        log[0],
        format!("docker exec -i -u dev -w /box/sub {keys} box sh -c {script}")
    );
    assert!(
        log[1].starts_with("docker exec -u dev box sh -c SCRIPT sh GITSTEAD_RUN=it-"),
        "{log:?}"
    );
    assert!(log[1].ends_with(" all") && log.len() == 2, "{log:?}");
    assert!(!log.join("\n").contains("s3cret"));
}

#[test]
fn one_in_a_container_is_asked_and_ended_from_within() {
    let engine = Engine::start();
    let house = &engine.house;
    let script = "(setsid sh -c 'trap \"\" TERM; touch daemon; while :; do sleep 1; done' &) ; trap 'touch asked; exit' TERM; touch main; while :; do sleep 0.05; done";
    // Who it is that hears of it takes a while to find on a machine that has much to do.
    house.run(
        "it",
        script,
        inside(json!({ "ladder": { "terminate_ms": 60_000, "verify_ms": 60_000 } })),
    );
    eventually("all of it runs", || {
        ["main", "daemon"].iter().all(|sign| house.files().join(sign).exists())
    });
    let attached = house.get("/it/attach");
    let commands = attached["commands"].as_array().unwrap();
    let enter = commands.iter().find(|one| one["name"] == "enter").unwrap();
    assert_eq!(
        (&enter["shell"], &attached["container"]["name"]),
        (&json!("docker exec -it -u dev -w /box box sh"), &json!("box"))
    );
    house.post("/it/stop");
    let agent = house.ended("it");
    assert_eq!(
        (&agent["state"], &agent["stragglers"]),
        (&json!("stopped"), &json!([])),
        "{agent}"
    );
    assert!(house.files().join("asked").exists(), "it has heard SIGTERM");
    assert_eq!(house.processes(), [0i32; 0]);
    let log = engine.log();
    assert!(log[1].ends_with(" first") && log[2].ends_with(" all"), "{log:?}");
    // Where nothing can be executed in it any more, that is said.
    fs::remove_file(house.files().join("main")).unwrap();
    house.post("/it/start");
    eventually("it runs", || house.files().join("main").exists());
    fs::write(engine.bin.join("frozen"), "").unwrap();
    house.post("/it/kill");
    let agent = house.ended("it");
    let left = agent["stragglers"][0].as_str().unwrap_or_default();
    assert!(
        left.contains("in the container 'box'") && left.contains("exit code 1"),
        "{agent}"
    );
}

#[test]
fn what_a_container_cannot_be_is_refused() {
    let engine = Engine::start();
    let house = &engine.house;
    let refused = |more: Value| {
        let mut body = json!({ "name": "it", "repository": "demo", "argv": ["sh"] });
        for (key, value) in more.as_object().into_iter().flatten() {
            body[key] = value.clone();
        }
        house.ask("POST", "", Some(&body)).is(400)["error"]["message"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let both = inside(json!({ "sandbox": { "mode": "best-effort" } }));
    assert!(refused(both).contains("the one or the other"));
    assert!(refused(inside(json!({ "bounds": { "memory": 1 } }))).contains("what bounds the container"));
    assert!(refused(json!({ "container": { "name": "-it" } })).contains("name of a container"));
    // One that is not there: what the client says is in the log.
    house.run("it", "true", json!({ "container": { "name": "nowhere" } }));
    let agent = house.ended("it");
    assert_eq!(
        (&agent["state"], &agent["exit_code"]),
        (&json!("failed"), &json!(1)),
        "{agent}"
    );
    let page = house.get("/it/logs");
    assert_eq!(
        page["lines"][0]["text"],
        "Error response from daemon: No such container: nowhere"
    );
    let other = House::with(ServerOptions {
        config: Some("[agents]\nsandbox = \"best-effort\"\n".to_owned()),
        ..ServerOptions::default()
    });
    let body = inside(json!({ "name": "it", "repository": "demo", "argv": ["sh"] }));
    let answer = other.ask("POST", "", Some(&body)).is(400);
    assert!(
        answer["error"]["message"]
            .as_str()
            .unwrap()
            .contains("does not reach into containers")
    );
}

#[test]
fn one_in_a_container_is_not_started_where_all_have_to_be_in_a_sandbox() {
    let engine = Engine::start();
    engine.house.run("it", "touch ran", inside(json!({})));
    engine.house.ended("it");
    let ran = engine.house.files().join("ran");
    assert!(ran.exists());
    fs::remove_file(&ran).unwrap();
    let (path, data) = (engine.bin.clone(), engine.house.kill());
    let options = ServerOptions {
        config: Some("[agents]\nsandbox = \"required\"\n".to_owned()),
        env: vec![(
            "PATH".to_owned(),
            format!("{}:{}", path.display(), std::env::var("PATH").unwrap()),
        )],
        ..ServerOptions::default()
    };
    let house = House::on(data, options);
    house.post("/it/start");
    let agent = house.ended("it");
    assert_eq!(agent["state"], "failed", "{agent}");
    assert_eq!(
        house.events("it").last().unwrap()["failure"]["fault"],
        "no_sandbox",
        "{agent}"
    );
    assert!(!ran.exists());
}
