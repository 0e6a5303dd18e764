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
    agent
        .ask(UserMessage { id: "m", text: "ls" }, &mut step)
        .expect("it takes lines");
    assert_eq!(step.input, [b"ls\n".to_vec()]);
    assert_eq!(agent.interrupt(&mut step), Err(Refused::NotSpoken));
    agent.finished(&Exit::signal(15), &mut step);
    assert_eq!(
        agent.ask(UserMessage { id: "m", text: "ls" }, &mut step),
        Err(Refused::Ended)
    );
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

#[test]
fn tools_side_by_side_end_in_any_order() {
    let result = |call: &str, more: &str| {
        format!(r#"{{"type":"user","message":{{"content":[{{"type":"tool_result","tool_use_id":"{call}"{more}}}]}}}}"#)
    };
    let begin = [
        r#"{"type":"assistant","message":{"content":[{"type":"tool_use","id":"a","name":"Bash","input":{"command":"make"}}]}}"#,
        r#"{"type":"assistant","message":{"content":[{"type":"tool_use","id":"b","name":"Read","input":{"file_path":"/ws/x"}}]}}"#,
        r#"{"type":"assistant","message":{"content":[{"type":"tool_use","id":"c","name":"Bash","input":{"command":"false"}}]}}"#,
    ];
    let ends = [
        result("a", r#","content":"ok""#),
        result("b", ""),
        result("c", r#","is_error":true,"content":"Exit code 1""#),
    ];
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let lines: Vec<&str> = begin.into_iter().chain(order.map(|at| ends[at].as_str())).collect();
        let mut told: Vec<String> = speak(Kind::Claude, Options::new("/ws"), &lines)
            .iter()
            .map(brief)
            .filter(|line| line.starts_with("finish"))
            .map(|line| line.split(" beside").next().unwrap_or_default().to_owned())
            .collect();
        told.sort();
        assert_eq!(
            told,
            [
                "finish a [Bash] make: ok",
                "finish b [Read] Read x: ok",
                "finish c [Bash] false: failed exit 1",
            ],
            "{order:?}"
        );
    }
}
