//! What `/metrics` says of real agents, and what `/healthz` and `/readyz` say.

use std::{collections::BTreeSet, fs};

use serde_json::{Value, json};

use crate::{
    agents_sessions::Play,
    support::{Server, agents::House, raw, wire::eventually},
};

fn get(server: &Server, path: &str) -> (String, String) {
    let answer = raw(
        server,
        format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").as_bytes(),
    );
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_lowercase(), body.to_owned())
}

struct Metrics(String);

impl Metrics {
    #[track_caller]
    fn of(server: &Server) -> Self {
        let (head, body) = get(server, "/metrics");
        assert!(head.starts_with("http/1.1 200"), "{head}");
        assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
        Metrics(body)
    }

    /// The value of one line.
    #[track_caller]
    fn number(&self, series: &str) -> f64 {
        let found = self
            .0
            .lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        let found = found.unwrap_or_else(|| panic!("{series}\n{}", self.0));
        found.parse().unwrap()
    }

    /// Whether it is text as Prometheus takes it: each metric described once, each series once and under its description.
    #[track_caller]
    fn is_sound(&self) {
        let (mut described, mut series, mut now) = (BTreeSet::new(), BTreeSet::new(), String::new());
        for line in self.0.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                now = rest.split(' ').next().unwrap().to_owned();
                assert!(described.insert(now.clone()), "twice: {line}");
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                assert!(
                    name == now && ["counter", "gauge", "histogram"].contains(&kind),
                    "{line}"
                );
            } else {
                let (name, value) = line.rsplit_once(' ').unwrap();
                assert!(value.parse::<f64>().unwrap() >= 0.0, "{line}");
                let rest = name
                    .strip_prefix(now.as_str())
                    .unwrap_or_else(|| panic!("{line} under {now}"));
                let ends = ["", "_bucket", "_sum", "_count"];
                assert!(ends.contains(&rest.split('{').next().unwrap()), "{line} under {now}");
                assert!(series.insert(name.to_owned()), "twice: {line}");
            }
        }
        assert!(series.len() > 50, "{}", self.0);
    }
}

fn exits(metrics: &Metrics, reason: &str) -> f64 {
    metrics.number(&format!("gitstead_agent_exits_total{{reason=\"{reason}\"}}"))
}

fn steps(metrics: &Metrics, step: &str) -> f64 {
    metrics.number(&format!("gitstead_agent_stop_steps_total{{step=\"{step}\"}}"))
}

#[test]
fn what_agents_need_and_how_they_are_stopped_can_be_read() {
    let house = House::start();
    // Twenty megabytes in a grandchild, which hears no SIGTERM; and nobody who reads.
    let script = "trap '' TERM; sh -c 'x=$(head -c 20000000 /dev/zero | tr \"\\0\" x); touch ready; while :; do sleep 0.05; done'";
    house.run("it", script, json!({ "ladder": { "terminate_ms": 50 } }));
    eventually("it has its memory", || house.files().join("ready").exists());
    let text = "x".repeat(40_000);
    for _ in 0..5 {
        house.ask("POST", "/it/input", Some(&json!({ "text": text }))).is(204);
    }
    let metrics = Metrics::of(&house.server);
    metrics.is_sound();
    let memory = metrics.number("gitstead_agent_memory_bytes");
    assert!((20e6..2e9).contains(&memory), "{memory}");
    assert_eq!(
        metrics.number("gitstead_agent_memory_largest_bytes"),
        memory,
        "there is one"
    );
    assert_eq!(metrics.number("gitstead_agent_memory_agents{known=\"true\"}"), 1.0);
    assert_eq!(metrics.number("gitstead_agent_memory_agents{known=\"false\"}"), 0.0);
    // A pipe takes 64 KiB of it.
    let input = metrics.number("gitstead_agent_input_queue_bytes");
    assert!((100_000.0..=200_000.0).contains(&input), "{input}");
    assert_eq!(metrics.number("gitstead_agents{state=\"ready\"}"), 1.0);
    assert_eq!(metrics.number("gitstead_agents_served"), 1.0);
    assert_eq!(steps(&metrics, "terminate"), 0.0);
    assert!(metrics.number("process_resident_memory_bytes") > 1e6);
    house.post("/it/stop");
    assert_eq!(house.ended("it")["state"], "stopped");
    let metrics = Metrics::of(&house.server);
    assert_eq!(
        (
            steps(&metrics, "terminate"),
            steps(&metrics, "kill"),
            steps(&metrics, "hunt")
        ),
        (1.0, 1.0, 0.0),
        "{}",
        metrics.0
    );
    assert_eq!((exits(&metrics, "asked"), exits(&metrics, "signal")), (1.0, 0.0));
    assert_eq!(metrics.number("gitstead_agent_input_queue_bytes"), 0.0);
    // One that heeds SIGTERM is not killed.
    house.run(
        "kind",
        "trap 'exit 0' TERM; touch kind; while :; do sleep 0.02; done",
        json!({ "ladder": { "terminate_ms": 60_000 } }),
    );
    eventually("it runs", || house.files().join("kind").exists());
    house.post("/kind/stop");
    house.ended("kind");
    let metrics = Metrics::of(&house.server);
    assert_eq!((steps(&metrics, "terminate"), steps(&metrics, "kill")), (2.0, 1.0));
    // Each checkpoint is in both histograms.
    let made = ["made", "unchanged"]
        .map(|how| metrics.number(&format!("gitstead_agent_checkpoints_total{{outcome=\"{how}\"}}")));
    let count = made.iter().sum::<f64>();
    for part in ["latency", "work"] {
        let name = format!("gitstead_agent_checkpoint_{part}_seconds");
        assert_eq!(metrics.number(&format!("{name}_count")), count, "{}", metrics.0);
        let of = |le: &str| metrics.number(&format!("{name}_bucket{{le=\"{le}\"}}"));
        assert!(count >= 2.0 && of("+Inf") == count && of("0.001") <= of("10"));
        assert!(metrics.number(&format!("{name}_sum")) > 0.0);
    }
}

#[test]
fn each_end_of_an_agent_is_counted_once_by_its_reason() {
    let house = House::start();
    house.run("ok", "true", json!({}));
    house.ended("ok");
    let failing = json!({ "restart": "on-failure", "restart_first_ms": 1, "restart_burst": 3 });
    house.run("failing", "exit 3", failing);
    let runs = house.ended("failing")["run"].as_f64().unwrap();
    house.run("killed", "kill -9 $$", json!({}));
    house.ended("killed");
    house.run(
        "slow",
        "echo; sleep 1000",
        json!({ "restart": "always", "restart_first_ms": 3_600_000 }),
    );
    house.post("/slow/kill");
    house.ended("slow");
    // Stopped while it waits to be started again: that end was counted.
    house.run(
        "waits",
        "exit 4",
        json!({ "restart": "on-failure", "restart_first_ms": 3_600_000 }),
    );
    eventually("it waits", || house.get("/waits")["state"] == "restarting");
    house.post("/waits/stop");
    assert_eq!(house.ended("waits")["state"], "stopped");
    let body = json!({ "repository": "demo", "argv": ["/no/such/program"] });
    house.ask("POST", "", Some(&body)).is(422);
    let metrics = Metrics::of(&house.server);
    metrics.is_sound();
    let told: Vec<_> = [
        "ok",
        "exit_code",
        "signal",
        "asked",
        "not_started",
        "unknown",
        "watchdog",
    ]
    .map(|reason| exits(&metrics, reason))
    .into();
    assert_eq!(told, [1.0, runs + 1.0, 1.0, 1.0, 1.0, 0.0, 0.0], "{}", metrics.0);
    assert_eq!(
        metrics.number("gitstead_agent_restarts_total"),
        runs - 1.0 + 1.0,
        "{runs}"
    );
    assert_eq!(metrics.number("gitstead_agent_ends_total{how=\"crash_looping\"}"), 1.0);
}

#[test]
fn questions_are_seen_while_they_are_answered() {
    let play = Play::with("", &[]);
    play.agent("it", json!({}));
    let session = play.begin("ann");
    let now = |state: &str| {
        let metrics = Metrics::of(&play.house.server);
        metrics.is_sound();
        metrics.number(&format!("gitstead_asks_in_progress{{state=\"{state}\"}}"))
    };
    assert_eq!((now("running"), now("waiting")), (0.0, 0.0));
    std::thread::scope(|scope| {
        let path = format!("/it/sessions/{session}/ask");
        let play = &play;
        let asked = scope.spawn(move || play.ask("ann", "POST", &path, Some(json!({ "message": "hold" }))));
        eventually("it is at work", || play.file("held").exists());
        assert_eq!((now("running"), now("waiting")), (1.0, 0.0));
        let path = format!("/it/sessions/{session}/ask");
        assert_eq!(
            play.ask("ann", "POST", &path, Some(json!({ "message": "more" }))).0,
            429
        );
        fs::write(play.file("go"), "").unwrap();
        play.ask("ann", "POST", &format!("/it/sessions/{session}/interrupt"), None);
        let _ = asked.join().unwrap();
    });
    eventually("it is over", || now("running") == 0.0);
    let metrics = Metrics::of(&play.house.server);
    assert_eq!(metrics.number("gitstead_asks_total{outcome=\"busy\"}"), 1.0);
    assert_eq!(metrics.number("gitstead_sessions"), 1.0);
    play.end();
}

#[test]
fn health_and_readiness_say_ok_and_nothing_else() {
    let house = House::start();
    for path in ["/healthz", "/readyz"] {
        let (head, body) = get(&house.server, path);
        assert!(
            head.starts_with("http/1.1 200") && body == "ok\n",
            "{path} {head} {body}"
        );
    }
    // Git is served without agents; who sends people here wants to know, all the same.
    let data = tempfile::tempdir().unwrap();
    std::fs::write(data.path().join("ledger.redb"), "no ledger").unwrap();
    let server = crate::support::Server::on(data, crate::support::ServerOptions::default());
    let (head, body) = get(&server, "/readyz");
    assert!(head.starts_with("http/1.1 503"), "{head}");
    assert!(body.starts_with("agents: they are not run"), "{body}");
    for path in ["/readyz?exclude=agents", "/healthz"] {
        let (head, body) = get(&server, path);
        assert!(head.starts_with("http/1.1 200") && body == "ok\n", "{head} {body}");
    }
    // The path of the ask service is there only where that is configured.
    let (head, body) = get(&house.server, "/agent/health");
    let told: Value = serde_json::from_str(&body).unwrap();
    assert!(head.starts_with("http/1.1 404"), "{head}");
    assert_eq!(told, json!({ "detail": "Not Found" }));
}
