//! `gitstead session`, by the real binary: what is said is printed as it comes, and everything that the API can do can be done.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    process::{Child, Command, Stdio},
};

use serde_json::{Value, json};

use crate::{agents_sessions::Play, support::wire::eventually};

fn command(play: &Play, user: &str, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gitstead"));
    command
        .env_clear()
        .env("GITSTEAD_TOKEN", user.repeat(10))
        .arg("session")
        .args(args)
        .arg("--data")
        .arg(play.house.server.data());
    command
}

/// Whether it went well, and what it said on both.
fn run(play: &Play, user: &str, args: &[&str]) -> (bool, String, String) {
    let output = command(play, user, args).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.success(), text(output.stdout), text(output.stderr))
}

#[track_caller]
fn ok(play: &Play, args: &[&str]) -> String {
    let (ok, out, err) = run(play, "ann", args);
    assert!(ok, "{args:?}: {out}{err}");
    out
}

fn ask(play: &Play, args: &[&str]) -> Child {
    let mut all = vec!["ask", "it"];
    all.extend(args);
    let mut command = command(play, "ann", &all);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command.spawn().unwrap()
}

/// Whether it went well, and the rest of what it said on both.
fn ended(mut child: Child) -> (bool, String, String) {
    drop(child.stdin.take());
    let (mut out, mut err) = (String::new(), String::new());
    if let Some(mut stdout) = child.stdout.take() {
        stdout.read_to_string(&mut out).unwrap();
    }
    if let Some(mut stderr) = child.stderr.take() {
        stderr.read_to_string(&mut err).unwrap();
    }
    (child.wait().unwrap().success(), out, err)
}

#[test]
fn a_conversation_is_had_read_and_closed_from_the_command_line() {
    let play = Play::with("", &[]);
    play.agent("it", json!({}));
    let (ok_, _, err) = run(&play, "ann", &["show", "it", "last"]);
    assert!(!ok_ && err.contains("'new' begins one"), "{err}");
    let id = ok(&play, &["create", "it"]).trim().to_owned();
    assert_eq!(play.get("ann", &format!("/it/sessions/{id}"))["state"], "new");
    let (went, out, err) = run(&play, "ann", &["ask", "it", &id, "write it"]);
    assert!(went && out == "written 1\n", "{out}{err}");
    let subject = "[Write] Created report.md";
    assert!(err.contains("Write: report.md") && err.contains(subject), "{err}");
    // From standard input, as events.
    let mut child = ask(&play, &["--json", "last"]);
    child.stdin.take().unwrap().write_all(b"and now?\n").unwrap();
    let (went, out, err) = ended(child);
    assert!(went, "{err}");
    let events: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let kinds: Vec<_> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!((kinds[0], kinds.last()), ("asked", Some(&"answer")), "{kinds:?}");
    assert!(
        kinds.contains(&"said") && events.last().unwrap()["result"] == "answer 2",
        "{out}"
    );
    let (went, out, err) = run(&play, "ann", &["ask", "it", "new", "another"]);
    assert!(went && out == "answer 1\n" && err.starts_with("session "), "{out}{err}");
    // Newest first.
    let listed = ok(&play, &["list", "it"]);
    let lines: Vec<Vec<_>> = listed.lines().map(|line| line.split('\t').collect()).collect();
    assert_eq!(
        (lines.len(), lines[1][0], lines[1][2]),
        (2, id.as_str(), "2"),
        "{listed}"
    );
    assert_eq!(ok(&play, &["list", "it", "-n", "1"]).lines().count(), 1);
    let shown = ok(&play, &["show", "it", &id]);
    assert!(
        shown.contains(&format!("id:            {id}\n")) && shown.contains("questions:     2\n"),
        "{shown}"
    );
    let said = ok(&play, &["history", "it", &id]);
    let texts: Vec<_> = said
        .lines()
        .filter(|line| !line.is_empty() && !line.contains("  20"))
        .collect();
    assert_eq!(texts, ["write it", "written 1", "and now?", "answer 2"], "{said}");
    let page = ok(&play, &["history", "it", &id, "-n", "2"]);
    let older = page
        .lines()
        .last()
        .unwrap()
        .strip_prefix("older: --before ")
        .unwrap()
        .to_owned();
    let page = ok(&play, &["history", "it", &id, "-n", "2", "--before", &older, "--json"]);
    let page: Value = serde_json::from_str(&page).unwrap();
    assert_eq!(
        (&page["messages"][1]["text"], &page["cursor"]),
        (&json!("written 1"), &Value::Null)
    );
    ok(&play, &["close", "it", &id]);
    let (went, _, err) = run(&play, "ann", &["show", "it", &id]);
    assert!(!went && err == "error: no such session\n", "{err}");
    play.end();
}

#[test]
fn what_an_agent_says_is_printed_while_it_goes_on() {
    let play = Play::with("", &[]);
    play.agent("it", json!({}));
    let mut child = ask(&play, &["new", "parts"]);
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    assert_eq!(line, "part 1\n");
    assert!(child.try_wait().unwrap().is_none(), "the agent waits");
    fs::write(play.file("go"), "").unwrap();
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "part 2\n", "and not once more as the answer");
    assert!(ended(child).0);
    play.end();
}

#[test]
fn what_an_agent_wants_to_be_allowed_is_told_and_decided() {
    let play = Play::with("", &[]);
    play.agent("it", json!({}));
    for (decision, expected) in [("allow", "allowed\n"), ("deny", "denied\n")] {
        let mut child = ask(&play, &["new", "may I?"]);
        let mut err = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        while !line.contains("wants to be allowed") {
            line.clear();
            assert!(err.read_line(&mut line).unwrap() > 0, "it is told");
        }
        assert!(line.contains("Bash: Say hi"), "{line}");
        let open = ok(&play, &["permissions", "list", "it", "last"]);
        let fields: Vec<_> = open.trim_end().split('\t').collect();
        assert_eq!(&fields[1..], ["Bash", "Say hi"], "{open}");
        assert!(line.contains(&format!("(request {})", fields[0])), "{line}");
        ok(&play, &["permissions", decision, "it", "last", fields[0]]);
        let (went, out, _) = ended(child);
        assert!(went && out == expected, "{out}");
        assert_eq!(ok(&play, &["permissions", "list", "it", "last"]), "");
        let (went, _, err) = run(&play, "ann", &["permissions", decision, "it", "last", fields[0]]);
        assert!(!went && err.contains("not open (any more)"), "{err}");
    }
    play.end();
}

#[test]
fn a_question_can_be_interrupted_and_somebody_elses_session_cannot_be_seen() {
    let play = Play::with("", &[]);
    play.agent("it", json!({}));
    let id = play.begin("ann");
    let child = ask(&play, &[&id, "hold"]);
    eventually("it is at work", || play.file("held").exists());
    let (went, _, err) = run(&play, "ann", &["ask", "it", &id, "more"]);
    assert!(
        !went && err.contains("A previous question is still being processed"),
        "{err}"
    );
    for args in [
        &["show", "it", &id][..],
        &["interrupt", "it", &id],
        &["history", "it", &id],
    ] {
        let (went, out, err) = run(&play, "bob", args);
        assert!(
            !went && out.is_empty() && err == "error: no such session\n",
            "{args:?} {err}"
        );
    }
    ok(&play, &["interrupt", "it", &id]);
    let (went, out, err) = ended(child);
    assert!(
        !went && out == "late 1\n" && err.contains("the turn ended: interrupted"),
        "{out}{err}"
    );
    assert!(play.file("interrupted").exists());
    let (went, _, err) = run(&play, "ann", &["ask", "it", &id, ""]);
    assert!(!went && err.contains("'message' has 1 to"), "{err}");
    let (went, _, err) = run(&play, "ann", &["list", "none"]);
    assert!(!went && err.contains("there is no agent 'none'"), "{err}");
    play.end();
}

#[test]
fn the_help_shows_how_it_is_used() {
    let help = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_gitstead"))
            .args(args)
            .output()
            .unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    };
    let text = help(&["session", "--help"]);
    for word in [
        "create",
        "list",
        "show",
        "ask",
        "history",
        "close",
        "interrupt",
        "permissions",
    ] {
        assert!(
            text.lines().any(|line| line.trim_start().starts_with(word)),
            "{word}\n{text}"
        );
    }
    // The examples are commands that are understood.
    let (_, examples) = text.split_once("Examples:\n").unwrap();
    let examples: Vec<_> = examples
        .lines()
        .filter_map(|line| line.split_once("gitstead session "))
        .collect();
    assert!(examples.len() >= 6, "{text}");
    for (_, example) in examples {
        let mut words = vec!["session"];
        words.extend(
            example
                .split(" | ")
                .next()
                .unwrap()
                .split(' ')
                .take_while(|word| !word.starts_with('\'')),
        );
        words.retain(|word| !word.starts_with("--json"));
        let last = words.iter().position(|word| *word == "claude-1").unwrap();
        words.truncate(last);
        words.push("--help");
        assert!(help(&words).contains("<AGENT>"), "{words:?}");
    }
    assert!(help(&["--help"]).contains("session"));
}
