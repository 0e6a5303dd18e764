use std::{ffi::OsStr, path::Path};

use super::*;

fn argv(preset: Preset, wanted: &Wanted) -> String {
    match invoke(preset, wanted) {
        Ok(made) => {
            let mut words: Vec<String> = made
                .argv
                .iter()
                .map(|word| {
                    if word.is_empty() || word.contains(' ') {
                        format!("{word:?}")
                    } else {
                        word.clone()
                    }
                })
                .collect();
            words.extend(made.warnings.iter().map(|warning| format!("\n! {warning}")));
            words.join(" ")
        }
        Err(error) => format!("error: {error}"),
    }
}

fn letta(change: impl FnOnce(&mut LettaOptions)) -> String {
    let mut wanted = Wanted::default();
    change(&mut wanted.letta);
    let all = argv(Preset::Letta, &wanted);
    all.replace("letta --output-format stream-json --input-format stream-json", "…")
        .replace(" --permission-mode standard", "")
}

fn early(change: impl FnOnce(&mut LettaOptions)) -> String {
    letta(|options| {
        options.cli = LettaCli::Early;
        change(options);
    })
}

#[test]
fn codex_is_told_of_hooks_before_what_it_does() {
    let mut wanted = Wanted {
        hook: Some("'/opt/a \"b\"/gitstead' hook codex".to_owned()),
        message: Some("do it".to_owned()),
        ..Wanted::default()
    };
    let argv = invoke(Preset::Codex, &wanted).expect("it can be told").argv;
    let told = r#"hooks.PostToolUse=[{hooks=[{type="command",command="'/opt/a \"b\"/gitstead' hook codex"}]}]"#;
    assert_eq!(argv[..4], ["codex", "--dangerously-bypass-hook-trust", "-c", told]);
    assert_eq!(argv[6], "exec");
    wanted.message = None;
    for preset in [Preset::Claude, Preset::CodexServer] {
        assert!(matches!(invoke(preset, &wanted), Err(PresetError::NotTold { .. })));
    }
}

#[test]
fn a_command_of_ones_own_is_told_which_session_to_go_on_with() {
    let going_on = |preset, command: &str| {
        let command: Vec<String> = command.split(' ').map(str::to_owned).collect();
        going_on(preset, &command, "s-1").expect("a name").join(" ")
    };
    let claude = |command| going_on(Preset::Claude, command);
    assert_eq!(claude("env A=1 claude -p"), "env A=1 claude -p --resume s-1");
    assert_eq!(claude("claude --session-id s-1 -p"), "claude -p --resume s-1");
    assert_eq!(claude("claude --session-id=s-1"), "claude --resume s-1");
    assert_eq!(claude("claude --session-id"), "claude --resume s-1");
    for command in ["claude --resume s-2", "claude --resume=s-2", "claude --continue"] {
        assert_eq!(claude(command), command);
    }
    assert_eq!(going_on(Preset::Letta, "letta"), "letta --conversation s-1");
    assert_eq!(
        going_on(Preset::Letta, "letta --agent agent-1"),
        "letta --agent agent-1"
    );
    let named = super::going_on(Preset::Letta, &["letta".to_owned()], "agent-1").expect("a name");
    assert_eq!(named, ["letta", "--agent", "agent-1"]);
    // These take it in their protocol, or are one turn.
    for preset in [
        Preset::CodexServer,
        Preset::OpencodeAcp,
        Preset::Codex,
        Preset::Opencode,
    ] {
        assert_eq!(going_on(preset, "x"), "x");
    }
    assert!(super::going_on(Preset::Claude, &["claude".to_owned()], "-x").is_err());
}

#[test]
fn every_preset_has_its_arguments() {
    let plain = Wanted::default();
    let asked = Wanted {
        message: Some("-x; $(rm) 'y'".into()),
        model: Some("mock/m".into()),
        resume: Some("0835c2b4-0000".into()),
        ..Wanted::default()
    };
    let many = Wanted {
        message: None,
        pieces: true,
        args: vec!["--add-dir".into(), "/x y".into()],
        ..asked.clone()
    };
    let all: Vec<String> = [
        (Preset::Claude, &plain),
        (Preset::Claude, &many),
        (Preset::Codex, &asked),
        (Preset::CodexServer, &plain),
        (Preset::Opencode, &asked),
        (Preset::OpencodeAcp, &plain),
        (Preset::Letta, &plain),
        (Preset::LettaPrint, &asked),
        (Preset::Codex, &plain),
        (Preset::Claude, &asked),
        (Preset::Custom, &plain),
    ]
    .into_iter()
    .map(|(preset, wanted)| argv(preset, wanted))
    .collect();
    assert_eq!(
        all,
        [
            "claude -p --output-format stream-json --input-format stream-json --verbose --permission-prompt-tool stdio",
            "claude -p --output-format stream-json --input-format stream-json --verbose --permission-prompt-tool stdio \
             --model mock/m --resume 0835c2b4-0000 --include-partial-messages --add-dir \"/x y\"",
            "codex exec --json --skip-git-repo-check -s workspace-write -m mock/m resume 0835c2b4-0000 -- \"-x; $(rm) 'y'\"",
            "codex app-server",
            "opencode run --format json -m mock/m -s 0835c2b4-0000 -- \"-x; $(rm) 'y'\"",
            "opencode acp",
            "letta --output-format stream-json --input-format stream-json --permission-mode standard",
            "letta -p --output-format stream-json --conversation 0835c2b4-0000 -m mock/m --permission-mode standard -- \
             \"-x; $(rm) 'y'\"",
            "error: codex takes its one turn as an argument, and there is no message",
            "error: claude takes its turns on standard input, not as an argument",
            "error: Custom provider requires a non-empty 'command'.",
        ]
    );
    for preset in Preset::ALL {
        assert_eq!(Preset::from_name(preset.as_str()), Some(*preset));
        assert!(preset.passes().iter().all(|key| env_key(key).is_ok()));
    }
}

#[test]
fn a_command_of_ones_own_is_taken_as_it_is() {
    let wanted = Wanted {
        command: vec!["/opt/my agent".into(), "two\nlines  and blanks".into()],
        args: vec!["-v".into()],
        ..Wanted::default()
    };
    let made = invoke(Preset::Custom, &wanted).expect("it is a command");
    assert_eq!(made.argv, ["/opt/my agent", "two\nlines  and blanks", "-v"]);
    assert_eq!(made.kind, Kind::Plain);
    let node = Wanted {
        command: vec!["node".into(), "/x/letta.js".into()],
        ..Wanted::default()
    };
    assert!(argv(Preset::Letta, &node).starts_with("node /x/letta.js --output-format"));
    let blank = Wanted {
        command: vec![" ".into()],
        ..Wanted::default()
    };
    assert_eq!(invoke(Preset::Claude, &blank), Err(PresetError::NoCommand));
}

#[test]
fn what_could_be_taken_for_something_else_is_refused() {
    let with = |change: fn(&mut Wanted)| {
        let mut wanted = Wanted::default();
        change(&mut wanted);
        argv(Preset::Claude, &wanted)
    };
    for (got, begins) in [
        (
            with(|w| w.model = Some("--dangerously-skip-permissions".into())),
            "error: --model: begins with a dash",
        ),
        (
            with(|w| w.resume = Some("../../x".into())),
            "error: resume: is not an id",
        ),
        (with(|w| w.resume = Some("--x".into())), "error: resume: is not an id"),
        (with(|w| w.resume = Some(String::new())), "error: resume: is not an id"),
        (
            with(|w| w.permission_mode = Some("a b".into())),
            "error: permission mode: is not a word",
        ),
        (
            with(|w| w.args = vec!["a\0b".into()]),
            "error: argument: holds a zero byte",
        ),
        (
            with(|w| w.args = vec!["--key=sk-ant-0123456789abcdef".into()]),
            "error: argument looks like a secret",
        ),
        (
            with(|w| w.command = vec!["x".into(), "ghp_0123456789abcdef0123".into()]),
            "error: command looks like a secret",
        ),
    ] {
        assert!(got.starts_with(begins), "{got}");
    }
}

#[test]
fn letta_finds_its_conversation() {
    use LettaConversation::*;
    let agent = |new, default| Agent {
        agent: "agent-1".into(),
        new,
        default,
    };
    for (conversation, current, old) in [
        (Last, "…", "…"),
        (
            Conversation("conv-1".into()),
            "… --conversation conv-1",
            "… --conversation conv-1",
        ),
        (agent(false, false), "… --agent agent-1", "… --agent agent-1"),
        (agent(true, true), "… --agent agent-1 --new", "… --agent agent-1 --new"),
        (
            agent(false, true),
            "… --agent agent-1 --conversation default",
            "… --agent agent-1 --default",
        ),
        (NewAgent, "… --new-agent", "… --new-agent"),
        (New, "… --new", "… --new"),
    ] {
        assert_eq!(letta(|o| o.conversation = conversation.clone()), current);
        assert_eq!(early(|o| o.conversation = conversation), old);
    }
    assert_eq!(LettaConversation::of("agent-1"), agent(false, false));
    assert_eq!(
        LettaConversation::of("local-conv-2"),
        Conversation("local-conv-2".into())
    );
}

#[test]
fn letta_gets_its_system_prompt_by_the_name_of_its_version() {
    let text = |text: &str| Some(LettaSystem::Text(text.into()));
    assert_eq!(early(|o| o.system = text("letta-claude")), "… --system letta-claude");
    assert_eq!(
        letta(|o| o.system = text("letta-claude")),
        "… --system source-claude \n! the system prompt letta-claude is called source-claude by this version of letta"
    );
    assert_eq!(letta(|o| o.system = text("letta")), "… --system letta");
    assert_eq!(early(|o| o.system = text("letta")), "… --system-custom letta");
    assert_eq!(letta(|o| o.system = text("")), "… --system-custom \"\"");
    assert_eq!(
        letta(|o| o.system = text("- be kind")),
        "… --system-custom \"- be kind\""
    );
    let preset = |preset: &str, append: &str| {
        Some(LettaSystem::Preset {
            preset: preset.into(),
            append: append.into(),
        })
    };
    assert_eq!(
        letta(|o| o.system = preset("default", "Be kind")),
        "… --system default --system-append \"Be kind\""
    );
    assert_eq!(letta(|o| o.system = preset("default", "")), "… --system default");
    assert_eq!(
        letta(|o| o.system = preset("nobody", "")),
        "error: --system: is no preset of this version of letta"
    );
}

#[test]
fn letta_gets_a_memory_only_when_it_is_new() {
    let own = LettaBlock::Custom {
        label: "a".into(),
        value: "b,c".into(),
    };
    let preset = |name: &str| LettaBlock::Preset(name.into());
    assert_eq!(letta(|o| o.memory = Some(vec![])), "… --init-blocks \"\"");
    assert_eq!(
        letta(|o| o.memory = Some(vec![preset("persona"), preset("human")])),
        "… --init-blocks persona,human"
    );
    assert_eq!(
        letta(|o| o.memory = Some(vec![
            preset("persona"),
            own.clone(),
            LettaBlock::Shared("block-1".into())
        ])),
        "… --memory-blocks [{\"label\":\"a\",\"value\":\"b,c\"},{\"blockId\":\"block-1\"}] \
         \n! blocks of one's own replace those of letta, which are left out: persona"
    );
    assert_eq!(
        letta(|o| o.memory = Some(vec![preset("a,b")])),
        "error: --init-blocks: an item holds a comma, which parts items"
    );
    assert_eq!(
        letta(|o| (o.persona, o.human) = (Some("Kind".into()), Some(String::new()))),
        "… --block-value persona=Kind --block-value human="
    );
    for conversation in [LettaConversation::of("agent-1"), LettaConversation::of("conv-1")] {
        let got = letta(|o| {
            o.conversation = conversation;
            (o.memory, o.persona) = (Some(vec![own.clone()]), Some("x".into()));
        });
        assert!(!got.contains("block-value") && !got.contains("memory-blocks"), "{got}");
        assert!(got.ends_with("is left out"), "{got}");
    }
}

#[test]
fn letta_is_never_unrestricted_by_silence() {
    let mode = |cli, mode: Option<&str>| {
        let mut wanted = Wanted::default();
        (wanted.letta.cli, wanted.permission_mode) = (cli, mode.map(str::to_owned));
        let all = argv(Preset::Letta, &wanted);
        all.trim_start_matches("letta --output-format stream-json --input-format stream-json")
            .trim()
            .to_owned()
    };
    for (word, old, current) in [
        (None, "", "--permission-mode standard"),
        (Some("default"), "", "--permission-mode standard"),
        (Some("bypassPermissions"), "--yolo", "--permission-mode unrestricted"),
        (
            Some("acceptEdits"),
            "--permission-mode acceptEdits",
            "--permission-mode acceptEdits",
        ),
        (
            Some("plan"),
            "--permission-mode plan",
            "error: --permission-mode: is none of standard, acceptEdits, unrestricted",
        ),
    ] {
        assert_eq!(mode(LettaCli::Early, word), old);
        assert_eq!(mode(LettaCli::Current, word), current);
    }
    for (version, cli) in [
        ("0.25.9", LettaCli::Current),
        ("letta-code 0.3.1", LettaCli::Early),
        ("v1.0.0 (x)", LettaCli::Current),
        ("nonsense", LettaCli::Current),
        ("", LettaCli::Current),
    ] {
        assert_eq!(LettaCli::of(version), cli, "{version}");
    }
}

#[test]
fn letta_gets_the_rest() {
    let list = |items: &[&str]| items.iter().map(|item| (*item).to_owned()).collect::<Vec<_>>();
    let got = letta(|o| {
        (o.model, o.embedding) = (Some("m".into()), Some("e".into()));
        o.allowed_tools = Some(list(&["Bash(ls)", "Read"]));
        o.disallowed_tools = Some(vec![]);
        o.tags = list(&["a", "b"]);
        o.memfs = Some(false);
        o.memfs_startup = Some("skip".into());
        o.skill_sources = Some(list(&["project", "global", "project"]));
        o.system_info_reminder = Some(false);
        (o.reflection_trigger, o.reflection_step_count) = (Some("step-count".into()), Some(7));
        o.pieces = true;
    });
    assert_eq!(
        got,
        "… -m m --embedding e --allowedTools Bash(ls),Read --disallowedTools \"\" --tags a,b --no-memfs --memfs-startup skip \
         --skill-sources project,global --no-system-info-reminder --reflection-trigger step-count --reflection-step-count 7 \
         --include-partial-messages"
    );
    assert_eq!(letta(|o| o.memfs = Some(true)), "… --memfs");
    assert_eq!(letta(|o| o.skill_sources = Some(vec![])), "… --no-skills");
    assert_eq!(letta(|o| o.system_info_reminder = Some(true)), "…");
    assert_eq!(
        letta(|o| o.allowed_tools = Some(list(&["Bash(a,b)"]))),
        "error: --allowedTools: an item holds a comma, which parts items"
    );
    assert!(letta(|o| o.memfs_startup = Some("later".into())).starts_with("error: --memfs-startup"));
    assert!(letta(|o| o.reflection_behavior = Some("auto".into())).contains("does not act on it"));
}

#[test]
fn letta_is_looked_for_where_it_was_configured_first() {
    let places = letta_places(
        Some(Path::new("/opt/letta.js")),
        Some(Path::new("/env/letta")),
        Some(OsStr::new("/usr/bin::bin:/usr/local/bin")),
    );
    let shown: Vec<String> = places.iter().map(|place| place.display().to_string()).collect();
    assert_eq!(
        shown,
        ["/opt/letta.js", "/env/letta", "/usr/bin/letta", "/usr/local/bin/letta"]
    );
    assert!(letta_not_found(&places).contains("/usr/local/bin/letta"));
    assert!(letta_not_found(&letta_places(None, Some(Path::new("")), None)).contains("PATH is empty"));
}

#[test]
fn variables_that_change_what_programs_run_are_not_passed_on() {
    for key in ["A", "_x9", "OPENAI_API_KEY", "GIT_AUTHOR_NAME", "LDFLAGS"] {
        assert_eq!(env_key(key), Ok(()), "{key}");
    }
    for key in ["", "9A", "A-B", "A=B", "Ä", "A\nB", " A"] {
        assert!(matches!(env_key(key), Err(EnvError::Key { .. })), "{key:?}");
    }
    for key in [
        "LD_PRELOAD",
        "LD_LIBRARY_PATH",
        "BASH_ENV",
        "NODE_OPTIONS",
        "BASH_FUNC_x",
        "GIT_CONFIG_COUNT",
    ] {
        assert!(matches!(env_key(key), Err(EnvError::Forbidden { .. })), "{key}");
    }
    assert_eq!(
        env_key("A-B").map_err(|e| e.to_string()),
        Err("Invalid agent env key: A-B".to_owned())
    );
}
