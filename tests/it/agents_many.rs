//! Many agents: how a server with some of them ends, and which make room for others.

use std::time::{Duration, Instant};

use gitstead::base::TokenHash;
use serde_json::{Value, json};

use crate::support::{ServerOptions, agents::House, wire::eventually};

/// Heeds nothing that it is asked.
const DEAF: &str = "trap '' TERM INT HUP; touch \"$GITSTEAD_AGENT\"; while :; do sleep 1; done";
/// Ends when it is asked to.
const POLITE: &str = "touch \"$GITSTEAD_AGENT\"; while :; do sleep 1; done";

fn with(config: &str) -> House {
    House::with(ServerOptions {
        config: Some(config.to_owned()),
        ..ServerOptions::default()
    })
}

#[track_caller]
fn all_run(house: &House, names: &[&str]) {
    eventually("all of them run", || {
        names.iter().all(|name| house.files().join(name).exists())
    });
}

#[test]
fn agents_are_stopped_side_by_side_and_one_that_heeds_nothing_is_killed_and_told_of() {
    let house = with("[limits]\nagent_drain = \"1s\"\n");
    let names = ["a", "b", "c", "deaf", "e", "f"];
    for name in names {
        let script = if name == "deaf" { DEAF } else { POLITE };
        house.run(name, script, json!({ "ladder": { "terminate_ms": 3_600_000 } }));
    }
    all_run(&house, &names);
    let began = Instant::now();
    let (code, said) = house.server.terminate();
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    assert_eq!(code, Some(3), "{said}");
    assert!(
        said.contains("0 connections were cut, 1 agents were killed, 0 of them"),
        "{said}"
    );
}

#[test]
fn a_server_whose_agents_end_as_they_are_told_ends_well() {
    let house = with("[limits]\nagent_drain = \"10s\"\n");
    house.run("polite", POLITE, json!({}));
    // Its own ladder is over before the time of all.
    house.run("deaf", DEAF, json!({ "ladder": { "terminate_ms": 100 } }));
    all_run(&house, &["polite", "deaf"]);
    let (code, said) = house.server.terminate();
    assert_eq!(code, Some(0), "{said}");
}

fn body(name: &str, more: Value) -> Value {
    let mut body = json!({ "name": name, "repository": "demo", "argv": ["true"] });
    for (key, value) in more.as_object().into_iter().flatten() {
        body[key] = value.clone();
    }
    body
}

#[test]
fn the_one_that_ended_first_makes_room_and_those_that_are_needed_stay() {
    let house = with("[limits]\nagents = 4\n");
    house.run("always", "true", json!({ "restart": "always", "restart_burst": 1 }));
    assert_eq!(house.ended("always")["state"], "crash_looping");
    house.run("runs", POLITE, json!({}));
    for name in ["first", "second"] {
        house.run(name, "echo words", json!({}));
        house.ended(name);
    }
    let data = house.server.data();
    assert!(data.join("logs/first").exists());
    house.run("third", "true", json!({}));
    house.ended("third");
    let names = || -> Vec<String> {
        let list = house.get("");
        let agents = list["agents"].as_array().unwrap();
        agents
            .iter()
            .map(|one| one["name"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(names(), ["always", "runs", "second", "third"]);
    assert!(!data.join("logs/first").exists(), "its output is gone, too");
    // Of those that have not ended none makes room, even if it never ran.
    for name in ["fourth", "fifth"] {
        house
            .ask("POST", "", Some(&body(name, json!({ "start": false }))))
            .is(201);
    }
    assert_eq!(names(), ["always", "fifth", "fourth", "runs"]);
    let refused = house.ask("POST", "", Some(&body("sixth", json!({})))).is(503);
    assert!(
        refused["error"]["message"].as_str().unwrap().contains("limits.agents"),
        "{refused}"
    );
}

#[test]
fn what_ended_long_ago_is_forgotten() {
    let house = with("[limits]\nagent_keep = \"1s\"\n");
    house.run("always", "true", json!({ "restart": "always", "restart_burst": 1 }));
    house.ended("always");
    house.run("brief", "true", json!({}));
    house.run("runs", POLITE, json!({}));
    eventually("it is forgotten", || house.ask("GET", "/brief", None).status == 404);
    assert_eq!(house.get("")["agents"].as_array().unwrap().len(), 2);
}

#[test]
fn no_more_run_at_a_time_than_may() {
    let house = with("[limits]\nagents_running = 1\n");
    house.run("one", POLITE, json!({}));
    let refused = house.ask("POST", "", Some(&body("two", json!({})))).is(503);
    assert!(
        refused["error"]["message"].as_str().unwrap().contains("1 agents run"),
        "{refused}"
    );
    house.ask("GET", "/two", None).is(404);
    house
        .ask("POST", "", Some(&body("two", json!({ "start": false }))))
        .is(201);
    house.ask("POST", "/two/start", None).is(503);
    house.post("/one/kill");
    house.ended("one");
    house.post("/two/start");
    house.ended("two");
}

#[test]
fn one_user_has_no_more_agents_than_may_be_and_others_are_not_kept_from_theirs() {
    let token = |name: &str| {
        format!(
            "[[tokens]]\nname = \"{name}\"\nhash = \"{}\"\naccess = \"write\"\n",
            TokenHash::of(&name.repeat(10))
        )
    };
    let house = with(&format!(
        "{}{}[limits]\nagents_per_user = 1\n",
        token("annemarie"),
        token("bartholomew")
    ));
    let ask = |user: &str, path: &str, body: Option<&Value>| house.ask_as(Some(&user.repeat(10)), "POST", path, body);
    let wait = body("one", json!({ "argv": ["sleep", "3600"] }));
    ask("annemarie", "", Some(&wait)).is(201);
    let refused = ask("annemarie", "", Some(&body("two", json!({})))).is(429);
    assert!(
        refused["error"]["message"]
            .as_str()
            .unwrap()
            .contains("you have 1 agents"),
        "{refused}"
    );
    ask("bartholomew", "", Some(&body("his", json!({})))).is(201);
    house.ended_as("bartholomew", "his");
    ask("annemarie", "/one/kill", None).is(202);
    house.ended_as("annemarie", "one");
    ask("annemarie", "", Some(&body("two", json!({ "start": false })))).is(201);
    ask("annemarie", "/one/start", None).is(429);
}

#[test]
fn agents_that_begin_at_once_share_a_workspace_that_none_of_them_found() {
    let house = House::start();
    for repository in ["one", "two", "three"] {
        std::thread::scope(|scope| {
            for n in 0..6 {
                let house = &house;
                let body = body(&format!("{repository}-{n}"), json!({ "repository": repository }));
                scope.spawn(move || house.ask("POST", "", Some(&body)).is(201));
            }
        });
    }
    for agent in house.get("")["agents"].as_array().unwrap() {
        let agent = house.ended(agent["name"].as_str().unwrap());
        assert_eq!(agent["state"], "exited", "{agent}");
    }
}

/// A process that is in no agent's tree, with the mark of a run.
struct Stray(std::process::Child);

impl Stray {
    fn of(run: &str) -> Self {
        let mut command = std::process::Command::new("sleep");
        Stray(command.arg("3600").env("GITSTEAD_RUN", run).spawn().unwrap())
    }

    fn is_there(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }
}

impl Drop for Stray {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn what_earlier_runs_have_left_is_ended_by_the_next_server_and_what_is_anothers_is_not() {
    let house = House::start();
    house.run(
        "it",
        "cat /proc/self/cgroup > cgroup; echo \"$GITSTEAD_RUN\" > run",
        json!({}),
    );
    let has_cgroup = house.ended("it")["isolation"]["cgroup"] == true;
    let run = std::fs::read_to_string(house.files().join("run")).unwrap();
    let run = run.trim().to_owned();
    let stem = run.strip_suffix("-1").unwrap();
    let (_, created) = stem.rsplit_once('-').unwrap();
    let mut left = [Stray::of(&run), Stray::of(&format!("{stem}-7"))];
    let mut others = [
        Stray::of(&format!("other-{created}-1")),
        Stray::of("it-1700000000000-1"),
        Stray::of("it"),
    ];
    let cgroups = has_cgroup.then(|| {
        let own = std::fs::read_to_string(house.files().join("cgroup")).unwrap();
        let base = crate::agents_held::cgroup_of(&own).parent().unwrap().to_owned();
        let (ours, others) = (base.join(format!("{stem}-3")), base.join(format!("other-{created}-3")));
        std::fs::create_dir(&ours).unwrap();
        std::fs::create_dir(&others).unwrap();
        (ours, others)
    });
    let data = house.kill();
    let next = House::on(data, ServerOptions::default());
    // They are gone when it listens.
    next.get("/it");
    for stray in &mut left {
        eventually("it is ended", || !stray.is_there());
    }
    assert!(others.iter_mut().all(Stray::is_there), "nobody else's");
    if let Some((ours, others)) = cgroups {
        assert!(!ours.exists(), "{}", ours.display());
        std::fs::remove_dir(others).expect("it is nobody's of ours");
    }
    // With the agent everything goes by which it could be known.
    let mut late = Stray::of(&run);
    next.ask("DELETE", "/it", None).is(204);
    eventually("it is ended", || !late.is_there());
    assert!(others.iter_mut().all(Stray::is_there), "nobody else's");
}
