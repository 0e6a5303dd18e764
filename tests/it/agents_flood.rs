//! An agent that writes without end, somebody who follows it and reads nothing, and everybody else.

use std::{
    fs,
    io::Write as _,
    net::TcpStream,
    path::Path,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::support::{agents::House, wire::peak_mib};

/// Speaks the Agent Client Protocol; each turn writes a file through its client, which is a checkpoint before it goes on.
const WRITER: &str = r#"
say() { printf '%s\n' "$1"; }
n=0
while IFS= read -r line; do
    id=$(printf %s "$line" | sed -n 's/.*"id":\([0-9]*\).*/\1/p')
    case "$line" in
    *'"initialize"'*) say '{"jsonrpc":"2.0","id":'$id',"result":{"protocolVersion":1,"agentCapabilities":{}}}' ;;
    *'"session/new"'*) say '{"jsonrpc":"2.0","id":'$id',"result":{"sessionId":"ses_1"}}' ;;
    *'"session/prompt"'*)
        n=$((n + 1))
        say '{"jsonrpc":"2.0","id":9,"method":"fs/write_text_file","params":{"sessionId":"ses_1","path":"'$PWD'/file","content":"'$n'"}}'
        read -r answer
        say '{"jsonrpc":"2.0","id":'$id',"result":{"stopReason":"end_turn"}}' ;;
    esac
done
"#;

/// Follows, and reads nothing.
fn stalled(house: &House, path: &str) -> TcpStream {
    let address = house.server.address();
    let mut stalled = TcpStream::connect(address).unwrap();
    let request = format!("GET /api/v1/agents/{path} HTTP/1.1\r\nHost: {address}\r\nAccept: text/event-stream\r\n\r\n");
    stalled.write_all(request.as_bytes()).unwrap();
    stalled
}

/// Until it has ended, however slow this machine is just now.
fn ended(house: &House, name: &str) -> Value {
    let began = Instant::now();
    loop {
        let agent = house.get(&format!("/{name}/wait?until=ended&timeout_ms=30000"));
        if agent["ended"] == true || began.elapsed() > Duration::from_secs(600) {
            return agent;
        }
    }
}

#[test]
fn a_flood_with_a_stalled_reader_changes_nothing_for_others() {
    let house = House::start();
    let before = peak_mib(&house.server);
    let script = "read x; yes $(printf %099d 0) | head -c 24000000; echo end";
    house.run("flood", script, json!({}));
    let reader = stalled(&house, "flood/logs?follow=true");
    house.get("/flood/wait?until=ready");
    house
        .ask("POST", "/flood/input", Some(&json!({ "text": "go\n" })))
        .is(204);
    house.run("other", "echo hi > other.txt", json!({ "workspace": "other" }));
    assert_eq!(house.ended("other")["state"], "exited");
    let agent = ended(&house, "flood");
    assert_eq!(agent["exit_code"], 0, "{agent}");
    let page = house.get("/flood/logs?lines=1");
    assert_eq!(page["lines"][0]["text"], "end");
    let after = peak_mib(&house.server);
    assert!(after < before + 64, "{before} MiB became {after} MiB");
    let late = house.get("/flood/logs?after=1");
    assert!(late["missed"].as_u64().unwrap() > 100_000, "{}", late["missed"]);
    drop(reader);
}

/// Times of turns of the writer, from the question to the event that says that the turn has ended; sorted.
fn turns(house: &House, goes_on: &dyn Fn(usize) -> bool) -> Vec<Duration> {
    let mut times = Vec::new();
    let mut seen = house.get("/writer/events?after=0")["cursor"].as_u64().unwrap();
    while goes_on(times.len()) {
        let began = Instant::now();
        house
            .ask("POST", "/writer/ask", Some(&json!({ "message": "go" })))
            .is(202);
        let told = house.follow(&format!("/writer/events?after={seen}"), |(_, kind, _)| {
            kind == "turn_ended"
        });
        times.push(began.elapsed());
        seen = told.last().and_then(|(id, _, _)| *id).unwrap();
        let checkpoints = told.iter().filter(|(_, kind, _)| kind == "checkpoint").count();
        assert_eq!(checkpoints, 1, "each turn is one: {told:?}");
    }
    times.sort();
    times
}

fn told(times: &[Duration]) -> String {
    let at = |share: usize| times[(times.len() * share / 100).min(times.len() - 1)];
    format!(
        "{} turns: median {:?}, 95 % {:?}, all {:?}",
        times.len(),
        at(50),
        at(95),
        at(100)
    )
}

fn bytes_below(dir: &Path) -> u64 {
    let found = fs::read_dir(dir).unwrap().flatten();
    found.map(|entry| entry.metadata().map_or(0, |meta| meta.len())).sum()
}

#[test]
#[ignore = "a gibibyte; its figures are those of a release build: cargo test --release --test it -- --ignored --nocapture a_gibibyte"]
fn a_gibibyte_with_a_stalled_subscriber_changes_nothing_for_others() {
    let house = House::start();
    // Whoever is first in a repository has its branch.
    house.run("first", "true", json!({}));
    house.ended("first");
    let more = json!({ "dialect": "acp", "argv": ["sh", "-c", WRITER], "workspace": "other" });
    house.run("writer", "", more);
    house.get("/writer/wait?until=ready");
    let quiet = turns(&house, &|n| n < 100);
    let script = "read x; yes $(printf %099d 0) | head -c 1073741800; echo end";
    house.run("flood", script, json!({}));
    let readers = [
        stalled(&house, "flood/logs?follow=true"),
        stalled(&house, "flood/events?after=0"),
        stalled(&house, "flood/logs?follow=true"),
    ];
    house.get("/flood/wait?until=ready");
    let before = peak_mib(&house.server);
    let began = Instant::now();
    house
        .ask("POST", "/flood/input", Some(&json!({ "text": "go\n" })))
        .is(204);
    let spool = house.server.data().join("logs/flood");
    let most = std::cell::Cell::new(0);
    let busy = turns(&house, &|n| {
        most.set(most.get().max(bytes_below(&spool)));
        n < 20 || house.get("/flood")["ended"] == false
    });
    let agent = ended(&house, "flood");
    let took = began.elapsed();
    assert_eq!(agent["exit_code"], 0, "{agent}");
    assert_eq!(house.get("/flood/logs?lines=1")["lines"][0]["text"], "end");
    let (after, disk) = (peak_mib(&house.server), most.get().max(bytes_below(&spool)) >> 20);
    println!(
        "a gibibyte in {took:?}; others before: {}; meanwhile: {}",
        told(&quiet),
        told(&busy)
    );
    println!("most memory of the server: {before} MiB before, {after} MiB after; on disk at most {disk} MiB");
    assert!(after < before + 64, "{before} MiB became {after} MiB");
    // Four files of 16 MiB, and what was written in one go beyond the last.
    assert!(disk <= 4 * 16 + 16, "{disk} MiB");
    let middle = |times: &[Duration]| times[times.len() / 2];
    let bound = middle(&quiet) * 4 + Duration::from_millis(20);
    assert!(
        middle(&busy) < bound,
        "{:?} against {:?}",
        middle(&busy),
        middle(&quiet)
    );
    assert!(*busy.last().unwrap() < Duration::from_secs(2), "{busy:?}");
    drop(readers);
    house.post("/writer/kill");
    house.ended("writer");
}
