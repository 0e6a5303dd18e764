use super::*;

fn speak(kind: Kind, options: Options, lines: &[&str]) -> Vec<Event> {
    let mut agent = kind.speaker(options);
    let mut step = Step::default();
    agent.begin(&mut step);
    for line in lines {
        agent.line(line.as_bytes(), &mut step);
    }
    agent.finished(&Exit::code(0), &mut step);
    step.events
}

#[test]
fn a_plain_command_only_says_things() {
    let events = speak(
        Kind::Plain,
        Options::new("/ws"),
        &["{\"type\":\"tool_started\"}\r", "", "done"],
    );
    assert_eq!(
        events,
        [
            Event::Ready,
            Event::said("{\"type\":\"tool_started\"}"),
            Event::log(""),
            Event::said("done")
        ]
    );
}

#[test]
fn a_plain_command_is_asked_by_lines() {
    let mut agent = Kind::Plain.speaker(Options::new("/ws"));
    let mut step = Step::default();
    agent.ask("ls", &mut step).expect("it takes lines");
    assert_eq!(step.input, [b"ls\n".to_vec()]);
    assert_eq!(agent.interrupt(&mut step), Err(Refused::NotSpoken));
    agent.finished(&Exit::signal(15), &mut step);
    assert_eq!(agent.ask("ls", &mut step), Err(Refused::Ended));
}

#[test]
fn an_agent_of_ones_own_is_understood_by_its_pointers() {
    let mut options = Options::new("/ws");
    options.pointers = Pointers {
        event: "/e".into(),
        started: vec!["go".into()],
        finished: vec!["end".into()],
        call: "/x/id".into(),
        tool: "/x/0".into(),
        ..Pointers::default()
    };
    options.pointers.tool = "/x/name".into();
    let events = speak(
        Kind::Ndjson,
        options,
        &[
            r#"{"x":{"id":"1","name":"Write"},"input":{"file_path":"/ws/a.md"},"e":"go"}"#,
            r#"{"x":{"id":"2","name":"Bash"},"input":{"command":"false"},"e":"go"}"#,
            r#"{"x":{"id":"2"},"exit_code":1,"e":"end"}"#,
            r#"{"x":{"id":"2"},"exit_code":1,"e":"end"}"#,
            r#"{"x":{"name":"Write"},"input":{"file_path":"/ws/a.md"},"response":{"type":"create"},"e":"end"}"#,
            r#"{"x":{"id":"3","name":"Bash"},"input":{"command":"sleep"},"e":"go"}"#,
            "not json",
        ],
    );
    let told: Vec<String> = events.iter().map(brief).collect();
    assert_eq!(
        told,
        [
            "ready",
            "start 1 [Write] a.md",
            "start 2 [Bash] false",
            "finish 2 [Bash] false: failed exit 1 beside 1",
            "finish 1 [Write] Created a.md: ok",
            "start 3 [Bash] sleep",
            "log not json",
            "finish 3 [Bash] sleep: interrupted by end",
        ]
    );
}
