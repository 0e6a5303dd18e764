//! Every transcript of `fixtures/dialect` is played to its dialect; what comes of it is a snapshot. A line with a member `@` is something that we do (see the README
//! there), all others are the agent's.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use super::*;
use crate::dialect::json::{self, Json};

/// What happens, in its order.
#[derive(Debug, Clone)]
pub(super) enum Act {
    /// Bytes of the agent's, with line ends.
    Bytes(Vec<u8>),
    Ours(Json),
}

pub(super) fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/dialect")
}

/// Name and acts of each transcript of a dialect.
pub(super) fn transcripts(dialect: &str) -> Vec<(String, Vec<Act>)> {
    let dir = fixtures().join(dialect);
    let mut found = Vec::new();
    for entry in fs::read_dir(&dir).unwrap_or_else(|err| panic!("{}: {err}", dir.display())) {
        let path = entry.expect("an entry").path();
        let name = path
            .file_stem()
            .expect("a name")
            .to_str()
            .expect("a plain name")
            .to_owned();
        assert!(
            path.extension().is_some_and(|end| end == "ndjson"),
            "{}",
            path.display()
        );
        found.push((name, acts(&fs::read(&path).expect("a transcript"))));
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    assert!(!found.is_empty(), "no transcripts for {dialect}");
    found
}

fn acts(bytes: &[u8]) -> Vec<Act> {
    let mut acts: Vec<Act> = Vec::new();
    for line in bytes.split_inclusive(|&b| b == b'\n') {
        match json::object(line, 1 << 20) {
            Some(object) if object.json.at("@").str() == "torn" => match acts.last_mut() {
                Some(Act::Bytes(bytes)) => assert_eq!(bytes.pop(), Some(b'\n')),
                _ => panic!("nothing is torn"),
            },
            Some(object) if !object.json.at("@").is_null() => acts.push(Act::Ours(object.json)),
            _ => match acts.last_mut() {
                Some(Act::Bytes(bytes)) => bytes.extend_from_slice(line),
                _ => acts.push(Act::Bytes(line.to_vec())),
            },
        }
    }
    acts
}

fn options(acts: &[Act]) -> Options {
    let mut options = Options::new("/ws");
    for act in acts {
        if let Act::Ours(told) = act
            && told.at("@").str() == "options"
        {
            options.barrier = !matches!(told.at("barrier"), Json::Bool(false));
            options.thread.auth_method = told.at("auth").some_text().map(str::to_owned);
            options.resume = told.at("resume").some_text().map(str::to_owned);
            options.offers_files = told.at("files").is_true();
            options.offers_terminals = told.at("terminals").is_true();
        }
    }
    options
}

/// Plays a transcript in pieces of that size and gives each step's content as text, without log lines of it if `quiet`.
fn play(kind: Kind, acts: &[Act], piece: usize, change: &dyn Fn(Vec<u8>) -> Vec<u8>) -> String {
    let mut agent = kind.speaker(options(acts));
    let (mut step, mut out) = (Step::default(), String::new());
    let mut lines = Lines::new(Bounds::default().line_bytes);
    let mut ended = false;
    agent.begin(&mut step);
    show(&mut step, &mut out);
    for act in acts {
        match act {
            Act::Bytes(bytes) => {
                let bytes = change(bytes.clone());
                let mut told = Vec::new();
                for piece in bytes.chunks(piece) {
                    lines.feed(piece, |line, _| told.push(line.to_vec()));
                }
                for line in told {
                    agent.line(&line, &mut step);
                    show(&mut step, &mut out);
                }
            }
            Act::Ours(told) => {
                let what = told.at("@").str();
                if what == "exit" {
                    let mut last = None;
                    lines.end(|line, _| last = Some(line.to_vec()));
                    if let Some(last) = last {
                        agent.line(&last, &mut step);
                    }
                    ended = true;
                }
                do_it(&mut *agent, told, &mut step, &mut out);
                show(&mut step, &mut out);
            }
        }
    }
    assert!(ended, "a transcript ends with an exit");
    out
}

fn do_it(agent: &mut dyn Dialect, told: &Json, step: &mut Step, out: &mut String) {
    let what = told.at("@").str();
    let said = match what {
        "options" | "wait" | "about" => return,
        "ask" => {
            let id = told.at("id").some_text().unwrap_or("m");
            let text = told.at("text").str();
            agent.ask(UserMessage { id, text }, step).err()
        }
        "interrupt" => agent.interrupt(step).err(),
        "change" => {
            let word = |key: &str| told.at(key).some_text().map(str::to_owned);
            let model = word("model").map(Change::Model);
            let change = model.or(word("mode").map(Change::PermissionMode));
            agent.change(change.expect("a model or a mode"), step).err()
        }
        "permit" => {
            let reason = told.at("reason").str().to_owned();
            let stop = told.at("stop").is_true();
            let decision = match told.at("decision").str() {
                "allow" => Decision::Allow,
                "always" => Decision::AllowAlways,
                "deny" => Decision::Deny { reason, stop },
                other => panic!("no decision {other}"),
            };
            agent.permit(told.at("request").str(), decision, step);
            None
        }
        "release" => {
            agent.release(told.at("barrier").str(), step);
            None
        }
        "answer" => {
            agent.answer(told.at("order").str(), answer(told), step);
            None
        }
        "exit" => {
            let number = |key: &str| told.at(key).int().and_then(|n| i32::try_from(n).ok());
            let exit = Exit {
                code: number("code"),
                signal: number("signal"),
            };
            agent.finished(&exit, step);
            None
        }
        other => panic!("nobody does {other}"),
    };
    let _ = writeln!(out, "@ {what}");
    if let Some(refused) = said {
        let _ = writeln!(out, "  refused: {refused}");
    }
}

fn answer(told: &Json) -> Answer {
    let text = told.at("text").str().to_owned();
    let code = told.at("code").int().and_then(|n| i32::try_from(n).ok());
    match told.at("with").str() {
        "text" => Answer::Text(text),
        "written" => Answer::Written {
            path: text,
            created: told.at("created").is_true(),
        },
        "terminal" => Answer::Terminal(text),
        "output" => Answer::Output {
            text,
            truncated: told.at("truncated").is_true(),
            exit: code.map(Exit::code),
        },
        "exited" => Answer::Exited(code.map_or(Exit::signal(9), Exit::code)),
        "http" => Answer::Http {
            status: told
                .at("status")
                .int()
                .and_then(|n| u16::try_from(n).ok())
                .unwrap_or(200),
            body: text.into_bytes(),
        },
        "failed" => Answer::Failed(text),
        other => panic!("no answer {other}"),
    }
}

fn show(step: &mut Step, out: &mut String) {
    let step = std::mem::take(step);
    for event in &step.events {
        let _ = writeln!(out, "{}", brief(event));
    }
    for order in &step.orders {
        let _ = writeln!(out, "order {order:?}");
    }
    for input in &step.input {
        let text = std::str::from_utf8(input).expect("we write UTF-8");
        let line = text.strip_suffix('\n').expect("a message ends its line");
        assert!(!line.contains('\n'), "one message is one line: {line}");
        let _ = writeln!(out, "> {line}");
    }
    if step.close_input {
        let _ = writeln!(out, "> end of input");
    }
}

/// Plays all transcripts of a dialect, compares them with their snapshots, and each with itself in other pieces.
fn check(kind: Kind) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(fixtures().join("snapshots"));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| {
        for (name, acts) in transcripts(kind.as_str()) {
            let whole = play(kind, &acts, usize::MAX, &|bytes| bytes);
            for piece in [1, 7, 1000] {
                assert_eq!(
                    play(kind, &acts, piece, &|bytes| bytes),
                    whole,
                    "{name} in pieces of {piece}"
                );
            }
            let ends_of_windows = |bytes: Vec<u8>| {
                let mut out = Vec::new();
                for line in bytes.split_inclusive(|&b| b == b'\n') {
                    match line.strip_suffix(b"\n") {
                        Some(line) if !line.ends_with(b"\r") => {
                            out.extend_from_slice(line);
                            out.extend_from_slice(b"\r\n");
                        }
                        _ => out.extend_from_slice(line),
                    }
                }
                out
            };
            assert_eq!(play(kind, &acts, 500, &ends_of_windows), whole, "{name} with CRLF");
            insta::assert_snapshot!(format!("{}-{name}", kind.as_str()), whole);
        }
    });
}

#[test]
fn claude_is_understood() {
    check(Kind::Claude);
}

#[test]
fn codex_is_understood() {
    check(Kind::Codex);
    check(Kind::CodexServer);
}

#[test]
fn opencode_is_understood() {
    check(Kind::Opencode);
    check(Kind::OpencodeServer);
}

#[test]
fn letta_is_understood() {
    check(Kind::Letta);
    check(Kind::LettaPrint);
}

#[test]
fn agents_of_the_agent_client_protocol_are_understood() {
    check(Kind::Acp);
}

#[test]
fn a_line_of_claude_counts_once_however_often_it_comes() {
    for (name, acts) in transcripts("claude") {
        let twice = |bytes: Vec<u8>| {
            let mut out = Vec::new();
            for line in bytes.split_inclusive(|&b| b == b'\n') {
                out.extend_from_slice(line);
                if line.ends_with(b"\n") && json::object(line, 1000).is_some_and(|o| !o.json.at("uuid").is_null()) {
                    out.extend_from_slice(line);
                }
            }
            out
        };
        let once = play(Kind::Claude, &acts, 1000, &|bytes| bytes);
        assert_eq!(play(Kind::Claude, &acts, 1000, &twice), once, "{name}");
    }
}

#[test]
fn no_snapshot_is_left_behind() {
    let mut wanted = Vec::new();
    for kind in Kind::ALL {
        if fixtures().join(kind.as_str()).exists() {
            let names = transcripts(kind.as_str()).into_iter();
            wanted.extend(names.map(|(name, _)| format!("{}-{name}.snap", kind.as_str())));
        }
    }
    for entry in fs::read_dir(fixtures().join("snapshots")).expect("the snapshots") {
        let name = entry
            .expect("an entry")
            .file_name()
            .into_string()
            .expect("a plain name");
        assert!(wanted.contains(&name), "nothing makes snapshots/{name}");
    }
}
