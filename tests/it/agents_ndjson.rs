//! Agents of somebody's own, whose lines are JSON: where they say what is told when they are described.

use std::{path::Path, process::Command};

use serde_json::json;

use crate::support::agents::House;

fn start(house: &House, more: &[&str]) -> (bool, String) {
    let data: &Path = house.server.data();
    let mut command = Command::new(env!("CARGO_BIN_EXE_gitstead"));
    command.args([
        "agent",
        "start",
        "--workspace",
        "demo",
        "--name",
        "it",
        "--dialect",
        "ndjson",
        "--wait",
    ]);
    command.arg("--data").arg(data).args(more).args(["--", "sh", "-c"]);
    command.arg(r#"echo 1 > a; echo '{"kind":"done","what":"Note","about":"Wrote it down"}'"#);
    let out = command.output().unwrap();
    (out.status.success(), String::from_utf8_lossy(&out.stderr).into_owned())
}

#[test]
fn the_command_line_says_where_an_agent_says_what() {
    let house = House::start();
    let wrong = start(&house, &["--pointer", "evnt=/kind"]);
    assert!(
        !wrong.0 && wrong.1.contains("nothing is called 'evnt'") && wrong.1.contains("turn_ended"),
        "{}",
        wrong.1
    );
    let wrong = start(&house, &["--pointer", "asks=perhaps"]);
    assert!(!wrong.0 && wrong.1.contains("asks is true or false"), "{}", wrong.1);
    let words = ["event=/kind", "finished=over,done", "tool=/what", "summary=/about"];
    let more: Vec<_> = words.iter().flat_map(|word| ["--pointer", word]).collect();
    let right = start(&house, &more);
    assert!(right.0, "{}", right.1);
    let git = crate::support::Git::new();
    assert_eq!(
        git.ok(house.files(), "log -1 --format=%s").trim(),
        "[Note] Wrote it down"
    );
}

#[test]
fn an_agent_says_in_its_own_words_what_it_does() {
    let house = House::start();
    let script = r#"
        echo '{"kind":"begin","ref":"1","what":{"name":"Note","about":"Wrote it down"}}'
        echo hello > note.md
        echo '{"kind":"end","ref":"1","what":{"name":"Note","about":"Wrote it down"}}'
        echo '{"kind":"speech","words":"Done."}'
    "#;
    let pointers = json!({
        "event": "/kind", "started": ["begin"], "finished": ["end"], "said": ["speech"],
        "call": "/ref", "tool": "/what/name", "summary": "/what/about", "text": "/words"
    });
    house.run("noter", script, json!({ "dialect": "ndjson", "pointers": pointers }));
    let ended = house.ended("noter");
    assert_eq!(ended["state"], "exited", "{ended}");
    let git = crate::support::Git::new();
    let log = git.ok(house.files(), "log --format=%s");
    assert!(log.lines().any(|line| line == "[Note] Wrote it down"), "{log}");
    // They are for lines of JSON.
    let wrong = json!({ "repository": "app", "argv": ["sh"], "dialect": "plain", "pointers": {} });
    house.ask("POST", "", Some(&wrong)).is(400);
    let wrong = json!({ "repository": "app", "argv": ["sh"], "dialect": "ndjson", "pointers": { "evnt": "/kind" } });
    house.ask("POST", "", Some(&wrong)).is(400);
}
