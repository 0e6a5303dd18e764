//! Agents of somebody's own, whose lines are JSON: where they say what is told when they are described.

use serde_json::json;

use crate::support::agents::House;

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
