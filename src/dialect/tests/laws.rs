//! What holds whatever an agent says.

use proptest::{collection::vec, prelude::*};

use super::{fuzz::Listener, transcripts::Act, *};

/// Every line of every transcript of a dialect.
fn real_lines(kind: Kind) -> Vec<Vec<u8>> {
    if !super::transcripts::fixtures().join(kind.as_str()).exists() {
        return vec![br#"{"type":"tool_started","id":"1","tool":"Bash"}"#.to_vec()];
    }
    let mut lines = Vec::new();
    for (_, acts) in super::transcripts::transcripts(kind.as_str()) {
        for act in acts {
            if let Act::Bytes(bytes) = act {
                lines.extend(bytes.split(|&b| b == b'\n').map(<[u8]>::to_vec));
            }
        }
    }
    lines
}

/// What may happen next.
#[derive(Debug, Clone)]
enum Next {
    /// A line that an agent said once, with some bytes changed.
    Line(prop::sample::Index, Vec<(prop::sample::Index, u8)>),
    Noise(Vec<u8>),
    Ask,
    Interrupt,
    /// Answers whatever waits.
    Permit(bool),
    Release,
    Answer(bool),
}

fn next() -> impl Strategy<Value = Next> {
    let change = (any::<prop::sample::Index>(), any::<u8>());
    prop_oneof![
        12 => any::<prop::sample::Index>().prop_map(|at| Next::Line(at, Vec::new())),
        4 => (any::<prop::sample::Index>(), vec(change, 1..4)).prop_map(|(at, changes)| Next::Line(at, changes)),
        1 => vec(any::<u8>(), 0..60).prop_map(Next::Noise),
        2 => Just(Next::Ask),
        1 => Just(Next::Interrupt),
        2 => any::<bool>().prop_map(Next::Permit),
        2 => Just(Next::Release),
        2 => any::<bool>().prop_map(Next::Answer),
    ]
}

fn run(kind: Kind, lines: &[Vec<u8>], story: &[Next]) {
    let mut options = Options::new("/ws");
    (options.offers_files, options.offers_terminals) = (true, true);
    let bounds = options.bounds;
    let mut agent = kind.speaker(options);
    let (mut step, mut listener) = (Step::default(), Listener::default());
    agent.begin(&mut step);
    listener.hear(&mut step, &bounds);
    for next in story {
        match next {
            Next::Line(at, changes) => {
                let mut line = at.get(lines).clone();
                for (at, byte) in changes {
                    if !line.is_empty() {
                        *at.get_mut(&mut line) = *byte;
                    }
                }
                agent.line(&line, &mut step);
            }
            Next::Noise(bytes) => agent.line(bytes, &mut step),
            Next::Ask => {
                // What is said to a plain command is as many lines as it is.
                let text = if kind == Kind::Plain { "go" } else { "go\non" };
                let taken = agent.ask(UserMessage { id: "m", text }, &mut step).is_ok();
                assert!(taken || step.is_empty(), "who refuses does nothing");
            }
            Next::Interrupt => {
                let taken = agent.interrupt(&mut step).is_ok();
                assert!(taken || step.is_empty(), "who refuses does nothing");
            }
            Next::Permit(allow) => {
                if let Some(request) = listener.permissions.pop() {
                    let reason = "no".to_owned();
                    let decision = if *allow {
                        Decision::AllowAlways
                    } else {
                        Decision::Deny { reason, stop: false }
                    };
                    agent.permit(&request, decision, &mut step);
                }
            }
            Next::Release => {
                if let Some(barrier) = listener.barriers.pop() {
                    agent.release(&barrier, &mut step);
                }
            }
            Next::Answer(well) => {
                if let Some(order) = listener.orders.pop() {
                    let answer = if *well {
                        fuzz::done(&order)
                    } else {
                        Answer::Failed("no".to_owned())
                    };
                    agent.answer(order.id(), answer, &mut step);
                }
            }
        }
        listener.hear(&mut step, &bounds);
    }
    agent.finished(&Exit::signal(9), &mut step);
    listener.hear(&mut step, &bounds);
    listener.end();
    let more = UserMessage { id: "m", text: "more" };
    assert!(agent.ask(more, &mut step).is_err() && agent.interrupt(&mut step).is_err());
}

#[test]
fn whatever_an_agent_says_what_is_told_of_it_makes_sense() {
    for &kind in Kind::ALL {
        let lines = real_lines(kind);
        let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::with_cases(150)
        });
        let outcome = runner.run(&vec(next(), 0..60), |story| {
            run(kind, &lines, &story);
            Ok(())
        });
        outcome.unwrap_or_else(|err| panic!("{}: {err}", kind.as_str()));
    }
}

/// Every line with its ids made new, again and again.
fn flood(kind: Kind, rounds: usize) -> Box<dyn Dialect> {
    let lines = real_lines(kind);
    let mut options = Options::new("/ws");
    (options.offers_files, options.offers_terminals) = (true, true);
    let mut agent = kind.speaker(options);
    let mut step = Step::default();
    agent.begin(&mut step);
    for round in 0..rounds {
        for line in &lines {
            let line = String::from_utf8_lossy(line);
            let mut fresh = line.into_owned();
            for name in ["toolu_", "call_", "item_", "\"p", "u-", "req", "h1", "b0x", "prt_"] {
                fresh = fresh.replace(name, &format!("{name}{round}x"));
            }
            agent.line(fresh.as_bytes(), &mut step);
            for order in std::mem::take(&mut step).orders {
                agent.answer(order.id(), fuzz::done(&order), &mut Step::default());
                agent.release(order.id(), &mut Step::default());
            }
        }
    }
    agent
}

#[test]
fn what_a_dialect_holds_does_not_grow_for_ever() {
    for &kind in Kind::ALL {
        let some = format!("{:?}", flood(kind, 150)).len();
        let more = format!("{:?}", flood(kind, 300)).len();
        assert!(
            more < some + some / 4 + 2_000,
            "{}: {some} and then {more} characters",
            kind.as_str()
        );
    }
}

/// Every transcript is a seed for the fuzz target, and every seed and every input that once broke a law is replayed here. With `UPDATE_CORPUS=1` the seeds are written.
#[test]
fn the_fuzz_corpus_is_complete_and_keeps_the_laws() {
    let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/dialect");
    let update = std::env::var_os("UPDATE_CORPUS").is_some();
    for (at, &kind) in Kind::ALL.iter().enumerate() {
        if !super::transcripts::fixtures().join(kind.as_str()).exists() {
            continue;
        }
        for (name, acts) in super::transcripts::transcripts(kind.as_str()) {
            let mut seed = vec![u8::try_from(at).expect("few dialects")];
            for act in acts {
                if let Act::Bytes(bytes) = act {
                    seed.extend(bytes);
                }
            }
            let path = corpus.join(format!("{}-{name}", kind.as_str()));
            if update {
                std::fs::create_dir_all(&corpus).expect("a directory");
                std::fs::write(&path, &seed).expect("a seed");
            }
            let have = std::fs::read(&path).ok();
            assert!(have == Some(seed), "{}: run again with UPDATE_CORPUS=1", path.display());
        }
    }
    for entry in std::fs::read_dir(&corpus).expect("the corpus") {
        fuzz::lines(&std::fs::read(entry.expect("an entry").path()).expect("a seed"));
    }
}

#[test]
fn a_dialect_that_has_nothing_to_do_is_small() {
    for &kind in Kind::ALL {
        let mut agent = kind.speaker(Options::new("/ws"));
        agent.begin(&mut Step::default());
        let size = size_of_val(&*agent);
        assert!(size < 4 << 10, "{} has {size} bytes", kind.as_str());
    }
}

#[test]
fn a_line_of_20_mib_is_a_line() {
    let big = "x".repeat(20 << 20);
    let line = format!(
        r#"{{"type":"user","message":{{"content":[{{"type":"tool_result","content":"{big}","tool_use_id":"t1"}}]}},"uuid":"big","tool_use_result":{{"type":"create","filePath":"/ws/big.txt","content":"{big}"}}}}"#
    );
    let mut agent = Kind::Claude.speaker(Options::new("/ws"));
    let mut step = Step::default();
    agent.line(
        br#"{"type":"assistant","message":{"content":[{"type":"tool_use","id":"t1","name":"Write","input":{}}]}}"#,
        &mut step,
    );
    step = Step::default();
    let mut lines = Lines::new(64 << 20);
    for piece in line.as_bytes().chunks(64 << 10).chain([&b"\n"[..]]) {
        lines.feed(piece, |line, cut| {
            assert!(!cut);
            agent.line(line, &mut step);
        });
    }
    let told: Vec<String> = step.events.iter().map(brief).collect();
    assert_eq!(told, ["finish t1 [Write] Created big.txt: ok paths big.txt"]);
    // The default bound cuts this one, and what is left of it is for the log.
    let mut lines = Lines::new(Bounds::default().line_bytes);
    step = Step::default();
    lines.feed(line.as_bytes(), |line, cut| {
        assert!(cut);
        agent.line(line, &mut step);
    });
    assert!(matches!(&step.events[..], [Event::Log { text }] if text.len() <= 4 << 10));
}
