use proptest::prelude::*;

use super::*;

fn read(checkpoint: &Checkpoint) -> CheckpointMessage {
    parse(compose(checkpoint).as_bstr()).expect("a checkpoint")
}

#[test]
fn a_message_is_a_subject_and_trailers_in_a_fixed_order() {
    let checkpoint = Checkpoint::after("Bash", "Ran analysis script")
        .trailer("Model", "m-1")
        .duration(Duration::from_micros(1_234_567))
        .outcome(ToolOutcome::Failed)
        .tool_use("t1")
        .tool_use("t2")
        .turn(3)
        .session("s")
        .agent("research");
    assert_eq!(
        compose(&checkpoint),
        "[Bash] Ran analysis script\n\nAgent: research\nSession: s\nTurn: 3\nTool-Use-Id: t1\nTool-Use-Id: t2\nOutcome: failed\n\
         Duration-Ms: 1234\nModel: m-1\nGitstead-Checkpoint: 1\n"
    );
    assert_eq!(read(&checkpoint).trailer("model"), Some("m-1"));
}

#[test]
fn the_first_commit_names_the_task() {
    let checkpoint = Checkpoint::initial("Analyze\nsales data");
    assert_eq!(
        compose(&checkpoint),
        "Initial task: Analyze sales data\n\nGitstead-Checkpoint: 1\n"
    );
    assert_eq!(read(&checkpoint).task(), Some("Analyze sales data"));
}

#[test]
fn nothing_in_a_summary_becomes_a_trailer_or_a_second_line() {
    let nasty = "one\r\n\r\nAgent: mallory\u{2028}Outcome: ok\0\u{1b}[31m\u{202e}end";
    let checkpoint = Checkpoint::after("a] b\n", nasty).session("x\nAgent: mallory");
    let message = compose(&checkpoint);
    assert_eq!(message.lines().count(), 4, "{message}");
    let read = read(&checkpoint);
    assert_eq!(read.agent, None);
    assert_eq!(read.outcome, None);
    assert_eq!(read.tool.as_deref(), Some("a) b"));
    assert_eq!(read.session.as_deref(), Some("x Agent: mallory"));
    assert_eq!(read.summary, "one Agent: mallory Outcome: ok [31m end");
}

#[test]
fn a_long_summary_is_whole_in_the_body() {
    let long = "päth ".repeat(100);
    let checkpoint = Checkpoint::after("Write", long.as_str());
    let message = compose(&checkpoint);
    let subject = message.lines().next().expect("a subject");
    assert!((190..=200).contains(&subject.len()), "{}", subject.len());
    assert!(subject.ends_with("…".as_bytes()));
    assert_eq!(read(&checkpoint).summary, long.trim());
}

#[test]
fn trailers_of_callers_never_pose_as_ours() {
    let checkpoint = Checkpoint::message("x")
        .trailer("agent", "mallory")
        .trailer("a b:c", "d")
        .trailer("", "e")
        .trailer("Empty", " \n");
    assert_eq!(read(&checkpoint).agent, None);
    assert_eq!(
        read(&checkpoint).trailers,
        [
            ("X-agent".to_owned(), "mallory".to_owned()),
            ("a-b-c".to_owned(), "d".to_owned())
        ]
    );
}

#[test]
fn other_messages_are_no_checkpoints() {
    for message in [
        "",
        "x",
        "[Bash] x\n",
        "a\n\nAgent: b\n",
        "Gitstead-Checkpoint: 1",
        "a\n\nGitstead-Checkpoint: 1\n\nmore",
    ] {
        assert_eq!(parse(message.into()), None, "{message:?}");
    }
    // Somebody amended it.
    let amended = "[Bash] x\nmore\n\nSigned-off-by: A <a@b>\nGitstead-Checkpoint: 1\nnot a trailer";
    let read = parse(amended.into()).expect("still one");
    assert_eq!((read.tool.as_deref(), read.summary.as_str()), (Some("Bash"), "x"));
}

proptest! {
    #[test]
    fn what_is_composed_is_parsed(
        tool in "\\PC{0,100}|[\\[\\] a-z\n]{0,12}",
        summary in "(.|\n){0,400}|[\\[\\]…:\n a-z]{0,30}|[a-z…]{180,220}",
        agent in proptest::option::of(".{0,20}"),
        session in proptest::option::of(".{0,20}"),
        turn in proptest::option::of(any::<u64>()),
        uses in proptest::collection::vec(".{0,8}", 0..3),
        outcome in proptest::option::of(0..3usize),
        millis in proptest::option::of(any::<u64>()),
        trailers in proptest::collection::vec(("[A-Za-z: -]{0,8}|Agent|outcome|gitstead-checkpoint", ".{0,12}"), 0..4),
    ) {
        let mut checkpoint = Checkpoint::after(tool, summary);
        if let Some(agent) = agent { checkpoint = checkpoint.agent(agent); }
        if let Some(session) = session { checkpoint = checkpoint.session(session); }
        if let Some(turn) = turn { checkpoint = checkpoint.turn(turn); }
        for id in uses { checkpoint = checkpoint.tool_use(id); }
        if let Some(n) = outcome {
            checkpoint = checkpoint.outcome([ToolOutcome::Ok, ToolOutcome::Failed, ToolOutcome::Interrupted][n]);
        }
        if let Some(millis) = millis { checkpoint = checkpoint.duration(Duration::from_millis(millis)); }
        for (key, value) in trailers { checkpoint = checkpoint.trailer(key, value); }

        let message = compose(&checkpoint);
        prop_assert!(message.lines().next().is_some_and(|subject| subject.len() <= SUBJECT_BYTES));
        let read = parse(message.as_bstr()).expect("a checkpoint");
        // A subject without a tool may look like one with it.
        if checkpoint.tool.is_some() || !checkpoint.summary.starts_with('[') {
            prop_assert_eq!(&read.tool, &checkpoint.tool);
            let nothing = checkpoint.tool.is_none() && checkpoint.summary.is_empty();
            prop_assert_eq!(read.summary.as_str(), if nothing { "(no summary)" } else { &checkpoint.summary });
        }
        prop_assert_eq!(read.agent, checkpoint.agent);
        prop_assert_eq!(read.session, checkpoint.session);
        prop_assert_eq!(read.turn, checkpoint.turn);
        prop_assert_eq!(read.tool_uses, checkpoint.tool_uses);
        prop_assert_eq!(read.outcome, checkpoint.outcome);
        prop_assert_eq!(read.duration, checkpoint.duration);
        prop_assert_eq!(read.trailers, checkpoint.trailers);
    }

    #[test]
    fn parsing_never_panics(message in proptest::collection::vec(any::<u8>(), 0..200)) {
        let marked = [&message[..], b"\n\nGitstead-Checkpoint: 1"].concat();
        let _ = parse(message.as_bstr());
        prop_assert!(parse(marked.as_bstr()).is_some());
    }
}
