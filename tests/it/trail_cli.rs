//! Checkpoints on the command line, as a person, a script or an agent's hook meets them. The binary runs under the guard: it executes nothing.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::{Value, json};

use crate::support::{Git, Guard};

struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

/// Runs the binary in `dir`, without PATH, and sees that it starts nothing.
fn run(dir: &Path, args: &[&str], env: &[(&str, &str)], input: &[u8]) -> Said {
    let guard = Guard::new();
    let program = env!("CARGO_BIN_EXE_gitstead");
    let mut command = match &guard {
        Some(guard) => guard.command(program),
        None => Command::new(program),
    };
    let mut child = command
        .env_clear()
        .env("PATH", "")
        .env("HOME", "/nonexistent")
        .envs(env.iter().copied())
        .current_dir(dir)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let pid = child.id();
    let _ = child.stdin.take().expect("a pipe").write_all(input);
    let output = child.wait_with_output().expect("it ends");
    if let Some(guard) = guard {
        let seen = guard.seen(pid);
        assert!(seen.is_empty(), "it started something:\n{}", seen.join("\n"));
    }
    Said {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).expect("text"),
        err: String::from_utf8(output.stderr).expect("text"),
    }
}

#[track_caller]
fn ok(dir: &Path, args: &[&str]) -> String {
    let said = run(dir, args, &[], b"");
    assert_eq!(said.code, Some(0), "{args:?}: {}", said.err);
    said.out
}

#[track_caller]
fn json_of(dir: &Path, args: &[&str]) -> Value {
    let (command, rest) = args.split_first().expect("a command");
    let text = ok(dir, &[&[*command, "--json"], rest].concat());
    serde_json::from_str(&text).unwrap_or_else(|_| panic!("not JSON: {text}"))
}

fn workspace(git: &Git) -> PathBuf {
    git.init("ws")
}

#[track_caller]
fn record(dir: &Path, tool: &str, summary: &str) -> String {
    let made = json_of(dir, &["checkpoint", "--tool", tool, "--summary", summary]);
    made["commit"].as_str().expect("a commit").to_owned()
}

#[test]
fn a_checkpoint_is_one_line_and_a_commit_that_git_reads() {
    let git = Git::new();
    let ws = workspace(&git);
    fs::write(ws.join("report.md"), "# Report\n").unwrap();
    fs::write(ws.join("data.csv"), "1,2\n").unwrap();
    fs::write(ws.join(".env"), "KEY=1\n").unwrap();
    let said = ok(
        &ws,
        &[
            "checkpoint",
            "--tool",
            "Write",
            "--summary",
            "Created report.md",
            "--agent",
            "research",
            "--session",
            "s-1",
            "--turn",
            "3",
            "--tool-use-id",
            "toolu_1",
            "--tool-use-id",
            "toolu_2",
            "--outcome",
            "ok",
            "--duration-ms",
            "12",
            "--trailer",
            "Task=7",
        ],
    );
    let id = git.ok(&ws, "rev-parse HEAD");
    let want = format!(
        "[main {}] [Write] Created report.md  (2 files)\n  left out: .env (looks like a secret)\n",
        &id[..10]
    );
    assert_eq!(said, want);
    assert_eq!(
        git.ok(&ws, "log -1 --format=%an%n%B").trim_end(),
        "research\n[Write] Created report.md\n\nAgent: research\nSession: s-1\nTurn: 3\nTool-Use-Id: toolu_1\nTool-Use-Id: toolu_2\n\
         Outcome: ok\nDuration-Ms: 12\nTask: 7\nGitstead-Checkpoint: 1"
    );
    assert_eq!(git.ok(&ws, "ls-tree --name-only HEAD"), "data.csv\nreport.md");
    assert_eq!(git.ok(&ws, "status --porcelain"), "?? .env");
    // Once more: it is a record of what was done, unless that is not wanted.
    let args = ["checkpoint", "--tool", "Read", "--summary", "Read it"];
    assert!(ok(&ws, &args).contains("[Read] Read it  (nothing changed)\n"));
    let skipped = ok(&ws, &[&args[..], &["--skip-unchanged"]].concat());
    assert!(
        skipped.starts_with("[main] nothing changed, nothing recorded\n"),
        "{skipped}"
    );
    assert_eq!(git.ok(&ws, "rev-list --count HEAD"), "2");
    let made = json_of(
        &ws,
        &[&args[..], &["--no-secret-rules", "--durability", "each"]].concat(),
    );
    assert_eq!(made["changed"], 1);
    assert_eq!(made["changes"][0]["path"], ".env");
    assert_eq!(made["changes"][0]["kind"], "added");
    assert_eq!(made["reference"], "refs/heads/main");
    assert_eq!(made["placed"], "branch");
    assert_eq!(made["skipped"], json!([]));
    assert_eq!(made["commit"], git.ok(&ws, "rev-parse HEAD"));
    git.fsck(ws.join(".git"));
}

#[test]
fn a_checkpoint_is_signed_on_request() {
    let git = Git::new();
    let ws = workspace(&git);
    let key = git.path("key");
    let made = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-C", "agent", "-f"])
        .arg(&key)
        .status()
        .unwrap();
    assert!(made.success());
    let allowed = git.path("allowed");
    let public = fs::read_to_string(key.with_extension("pub")).unwrap();
    fs::write(&allowed, format!("gitstead@gitstead.invalid {public}")).unwrap();
    git.ok(&ws, "config gpg.format ssh");
    git.ok_args(&ws, ["config", "gpg.ssh.allowedSignersFile", allowed.to_str().unwrap()]);
    let args = ["checkpoint", "--tool", "x", "--summary", "y", "--signing-key"];
    ok(&ws, &[&args[..], &[key.to_str().unwrap()]].concat());
    git.ok(&ws, "verify-commit HEAD");
    let said = run(&ws, &[&args[..], &["/nowhere"]].concat(), &[], b"");
    assert!(
        said.code == Some(1) && said.err.contains("error: /nowhere: "),
        "{}",
        said.err
    );
    assert_eq!(git.ok(&ws, "rev-list --count HEAD"), "1");
}

#[test]
fn a_shadow_checkpoint_leaves_the_branch_alone() {
    let git = Git::new();
    let ws = workspace(&git);
    let first = git.commit(&ws, "a", "a\n", "by hand");
    fs::write(ws.join("a"), "b\n").unwrap();
    let said = ok(
        &ws,
        &["checkpoint", "--tool", "Edit", "--summary", "Changed a", "--shadow"],
    );
    assert!(said.starts_with("[refs/gitstead/checkpoints/main "), "{said}");
    assert_eq!(git.ok(&ws, "rev-parse HEAD"), first);
    assert_eq!(git.ok(&ws, "status --porcelain"), " M a");
    let log = json_of(&ws, &["log", "--shadow"]);
    assert_eq!(log["checkpoints"][0]["subject"], "[Edit] Changed a");
    assert_eq!(ok(&ws, &["diff", "--shadow"]), "");
    assert!(ok(&ws, &["diff"]).contains("-a\n+b\n"));
}

#[test]
fn the_trail_is_read_by_tool_session_path_and_page() {
    let git = Git::new();
    let ws = workspace(&git);
    let none = run(&ws, &["log"], &[], b"");
    assert_eq!(
        (none.code, none.out.as_str(), none.err.as_str()),
        (Some(0), "", "there is no checkpoint yet\n")
    );
    git.commit(&ws, "by-hand", "1\n", "by hand");
    fs::create_dir(ws.join("src")).unwrap();
    fs::write(ws.join("src/a.rs"), "a\n").unwrap();
    record(&ws, "Write", "Created a.rs");
    record(&ws, "Bash", "Ran the tests");
    fs::write(ws.join("b.md"), "b\n").unwrap();
    let args = [
        "checkpoint",
        "--tool",
        "Write",
        "--summary",
        "Created b.md",
        "--session",
        "s2",
        "--agent",
        "x",
        "--outcome",
        "failed",
    ];
    ok(&ws, &args);

    let subjects = |dir: &Path, args: &[&str]| -> Vec<String> {
        let log = json_of(dir, &[&["log"], args].concat());
        let all = log["checkpoints"].as_array().expect("a list").clone();
        all.iter()
            .map(|one| one["subject"].as_str().expect("text").to_owned())
            .collect()
    };
    let (a, ran, b) = ("[Write] Created a.rs", "[Bash] Ran the tests", "[Write] Created b.md");
    assert_eq!(subjects(&ws, &[]), [b, ran, a]);
    assert_eq!(subjects(&ws, &["--all"]), [b, ran, a, "by hand"]);
    assert_eq!(subjects(&ws, &["--tool", "Write"]), [b, a]);
    assert_eq!(subjects(&ws, &["--session", "s2"]), [b]);
    assert_eq!(subjects(&ws, &["--agent", "x"]), [b]);
    assert_eq!(subjects(&ws, &["--changed"]), [b, a]);
    assert_eq!(subjects(&ws, &["--path", "src"]), [a]);
    // Typed where one is.
    assert_eq!(subjects(&ws.join("src"), &["--path", "a.rs"]), [a]);
    assert_eq!(subjects(&ws.join("src"), &["--path", "../b.md"]), [b]);
    assert_eq!(subjects(&ws, &["HEAD~1"]), [ran, a]);

    let page = json_of(&ws, &["log", "-n", "2"]);
    let next = page["next"].as_str().expect("there is more").to_owned();
    assert_eq!(page["checkpoints"].as_array().map(Vec::len), Some(2));
    assert_eq!(subjects(&ws, &["--cursor", &next]), [a]);
    let text = ok(&ws, &["log"]);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 3);
    assert!(lines[0].ends_with(" [Write] Created b.md  (failed)"), "{text}");
    assert!(lines[1].ends_with(" [Bash] Ran the tests  (nothing changed)"), "{text}");
    assert!(
        git.ok(&ws, "rev-parse HEAD~1")
            .starts_with(lines[1].split(' ').next().unwrap())
    );

    let shown = ok(&ws, &["show", "--patch"]);
    for part in [
        "checkpoint ",
        "author     x\n",
        "    Session: s2\n",
        "1 file changed\n  A b.md\n",
        "+++ b/b.md\n@@ -0,0 +1 @@\n+b\n",
    ] {
        assert!(shown.contains(part), "{part:?} is not in {shown}");
    }
    let shown = json_of(&ws, &["show", "HEAD~2"]);
    assert_eq!(shown["checkpoint"]["tool"], "Write");
    assert_eq!(shown["changes"][0]["path"], "src/a.rs");
}

#[test]
fn differences_are_those_of_git() {
    let git = Git::new();
    let ws = workspace(&git);
    let text: String = (0..30).map(|n| format!("line {n}\n")).collect();
    fs::write(ws.join("a.txt"), &text).unwrap();
    fs::write(ws.join("b.txt"), "b\n").unwrap();
    record(&ws, "Write", "one");
    fs::write(ws.join("a.txt"), text.replace("line 7\n", "seven\n")).unwrap();
    fs::write(ws.join("c.txt"), "new\n").unwrap();
    fs::remove_file(ws.join("b.txt")).unwrap();
    let live = ok(&ws, &["diff"]);
    assert_eq!(live.matches("diff --git ").count(), 3, "{live}");
    let only = ok(&ws, &["diff", "--", "a.txt"]);
    assert!(only.contains("-line 7\n+seven\n") && !only.contains("c.txt"), "{only}");
    let second = record(&ws, "Bash", "two");
    assert_eq!(ok(&ws, &["diff"]), "");
    // A patch that git takes.
    let patch = ok(&ws, &["diff", "HEAD~1", "HEAD"]);
    assert_eq!(patch, live);
    git.ok(&ws, "checkout -q HEAD~1");
    let applied = git.run_with(&ws, ["apply", "--index", "-"], patch.as_bytes());
    assert!(applied.ok, "{}", applied.stderr);
    assert_eq!(
        git.ok(&ws, "write-tree"),
        git.ok(&ws, &format!("rev-parse {second}^{{tree}}"))
    );
    assert_eq!(ok(&ws, &["diff", &format!("{}..{}", &second[..8], "main")]), "");
    let stat = ok(&ws, &["diff", "main~1..main", "--stat"]);
    assert!(
        stat.contains("+1 -1  a.txt\n") && stat.ends_with("3 files, +2 -2\n"),
        "{stat}"
    );
    let view = json_of(&ws, &["diff", "main~1", "main", "--", "c.txt"]);
    assert_eq!(view["files"][0]["added"], 1);
    assert_eq!(view["files"][0]["kind"], "added");
    assert_eq!(view["to"], second);
    assert!(view["files"][0]["patch"].as_str().unwrap().contains("+new\n"));
}

#[test]
fn restore_and_undo_make_new_checkpoints_and_lose_nothing() {
    let git = Git::new();
    let ws = workspace(&git);
    fs::write(ws.join("a"), "one\n").unwrap();
    fs::write(ws.join("keep"), "k\n").unwrap();
    let first = record(&ws, "Write", "one");
    fs::write(ws.join("a"), "two\n").unwrap();
    record(&ws, "Edit", "two");
    fs::write(ws.join("new"), "unsaved\n").unwrap();

    let dry = ok(&ws, &["restore", &first[..8], "--dry-run"]);
    assert!(
        dry.starts_with("this would change 2 files:\n") && dry.contains("it would be saved first"),
        "{dry}"
    );
    assert_eq!(git.ok(&ws, "rev-list --count HEAD"), "2");
    let said = ok(&ws, &["restore", "HEAD~1", "a"]);
    assert!(
        said.contains("[Restore] Restored a of ") && said.contains("unsaved work is saved in "),
        "{said}"
    );
    assert_eq!(fs::read_to_string(ws.join("a")).unwrap(), "one\n");
    assert_eq!(fs::read_to_string(ws.join("new")).unwrap(), "unsaved\n");
    assert_eq!(git.ok(&ws, "rev-list --count HEAD"), "4");
    assert_eq!(git.ok(&ws, "status --porcelain"), "");
    // The restore itself can be taken back.
    let undone = json_of(&ws, &["undo", "HEAD"]);
    assert_eq!(undone["changes"][0]["path"], "a");
    assert_eq!(fs::read_to_string(ws.join("a")).unwrap(), "two\n");
    assert_eq!(ok(&ws, &["restore", "HEAD"]), "nothing has to change\n");

    fs::write(ws.join("a"), "three\n").unwrap();
    record(&ws, "Edit", "three");
    let tip = git.ok(&ws, "rev-parse HEAD");
    let refused = run(&ws, &["undo", &first], &[], b"");
    assert_eq!(refused.code, Some(1));
    assert!(
        refused.out.contains("  a: ") && refused.err.contains("nothing has changed"),
        "{} {}",
        refused.out,
        refused.err
    );
    assert_eq!(git.ok(&ws, "rev-parse HEAD"), tip);
    git.fsck(ws.join(".git"));
}

#[test]
fn a_trail_becomes_a_branch_for_people() {
    let git = Git::new();
    let ws = workspace(&git);
    let base = git.commit(&ws, "a", "a\n", "base");
    for n in 0..3 {
        fs::write(ws.join("a"), format!("{n}\n")).unwrap();
        record(&ws, "Edit", &format!("step {n}"));
    }
    let said = ok(
        &ws,
        &[
            "squash",
            "clean",
            "--from",
            &base,
            "-m",
            "All of it",
            "--author",
            "P <p@example.com>",
        ],
    );
    assert!(
        said.starts_with("[clean ") && said.contains("stands for 3 commits"),
        "{said}"
    );
    assert_eq!(git.ok(&ws, "rev-parse clean~1"), base);
    assert_eq!(git.ok(&ws, "log -1 --format=%an%x20%s clean"), "P All of it");
    assert_eq!(
        git.ok(&ws, "rev-parse clean^{tree}"),
        git.ok(&ws, "rev-parse main^{tree}")
    );
    let made = ok(&ws, &["branch", "from-here", "HEAD~1"]);
    assert!(made.starts_with("branch from-here is at "), "{made}");
    assert_eq!(git.ok(&ws, "rev-parse from-here"), git.ok(&ws, "rev-parse main~1"));
    let again = run(&ws, &["branch", "from-here"], &[], b"");
    assert_eq!(again.code, Some(1), "{}", again.out);
}

#[test]
fn a_workspace_of_the_depot_is_named_by_its_repository() {
    let git = Git::new();
    let data = git.path("data");
    let depot = gitstead::depot::Depot::new(&data.join("repos"), Default::default()).unwrap();
    let repo = gitstead::base::RepoName::parse("team/app").unwrap();
    let name = gitstead::base::WorkspaceName::parse("main").unwrap();
    let start = gitstead::workspace::Start::Empty {
        task: "Analyze".to_owned(),
    };
    let made = depot
        .create_workspace(&repo, &name, &gitstead::workspace::CreateWorkspace::new(start))
        .unwrap();
    fs::write(made.root().join("a"), "a\n").unwrap();
    drop(made);
    let here = git.dir();
    let text = data.to_str().unwrap();
    let args = [
        "checkpoint",
        "--data",
        text,
        "--workspace",
        "team/app/main",
        "--tool",
        "Write",
        "--summary",
        "Created a",
    ];
    assert!(ok(here, &args).contains("[Write] Created a  (1 file)"));
    let log = ok(here, &["log", "--data", text, "-w", "team/app/main"]);
    assert_eq!(log.lines().count(), 2, "{log}");
    assert!(log.contains("Initial task: Analyze"), "{log}");
    for (workspace, words) in [
        ("team/app/other", "repository 'team/app' has no workspace 'other'"),
        ("app/main", "repository 'app' not found"),
        ("nowhere", "repository 'nowhere' not found"),
        (text, "not a workspace"),
    ] {
        let said = run(here, &["log", "--data", text, "--workspace", workspace], &[], b"");
        assert_eq!((said.code, said.out.as_str()), (Some(1), ""));
        assert!(said.err.contains(words), "{workspace}: {}", said.err);
        assert_eq!(said.err.lines().count(), 1, "{}", said.err);
    }
}

#[test]
fn what_is_wrong_is_said_in_a_line() {
    let git = Git::new();
    let ws = workspace(&git);
    fs::write(ws.join("a"), "a\n").unwrap();
    record(&ws, "Write", "a");
    for (args, code, words) in [
        (
            &["show", "nonsense"][..],
            1,
            "error: 'nonsense' is not a known revision\n",
        ),
        (&["show", "HEAD~5"], 1, "is not a known revision"),
        (&["restore", "HEAD", "b"], 1, "there is no 'b' in "),
        (&["restore", "HEAD", "../x"], 1, "is not in the workspace"),
        (&["log", "--cursor", "x"], 1, "error: not a cursor of this log\n"),
        (&["checkpoint", "--tool", "x"], 2, "--summary"),
        (
            &["checkpoint", "--tool", "x", "--summary", "y", "--trailer", "z"],
            2,
            "KEY=VALUE",
        ),
        (
            &["checkpoint", "--tool", "x", "--summary", "y", "--outcome", "good"],
            2,
            "interrupted",
        ),
    ] {
        let said = run(&ws, args, &[], b"");
        assert_eq!(said.code, Some(code), "{args:?}: {}", said.err);
        assert!(said.err.contains(words), "{args:?}: {}", said.err);
    }
    // A home directory is no workspace by accident.
    let home = ("HOME", ws.to_str().unwrap());
    let args = ["checkpoint", "--tool", "x", "--summary", "y"];
    let said = run(&ws, &args, &[home], b"");
    assert!(
        said.code == Some(1) && said.err.contains("a home directory"),
        "{}",
        said.err
    );
    let said = run(&ws, &[&args[..], &["--any-root"]].concat(), &[home], b"");
    assert_eq!(said.code, Some(0), "{}", said.err);
}

#[test]
fn messages_and_paths_give_a_terminal_no_orders() {
    let git = Git::new();
    let ws = workspace(&git);
    fs::write(ws.join("a\u{1b}[2Jb"), "x\n").unwrap();
    // What somebody else has written.
    git.ok(&ws, "add -A");
    git.ok_args(&ws, ["commit", "-q", "-m", "evil \u{1b}]0;title\u{7} \u{202e}txt"]);
    for args in [
        &["log", "--all"][..],
        &["show"],
        &["show", "--json"],
        &["log", "--all", "--json"],
        &["diff", "HEAD", "--stat"],
    ] {
        let said = run(&ws, args, &[], b"");
        assert_eq!(said.code, Some(0), "{}", said.err);
        let bad = said
            .out
            .chars()
            .find(|c| (c.is_control() && *c != '\n') || *c == '\u{202e}');
        assert_eq!(bad, None, "{args:?}: {}", said.out);
    }
    assert!(ok(&ws, &["show"]).contains("A a\\u{1b}[2Jb"));
}

fn hook(ws: &Path, event: &Value, args: &[&str]) -> Said {
    let said = run(
        Path::new("/"),
        &[&["hook", "claude-code"], args].concat(),
        &[],
        event.to_string().as_bytes(),
    );
    assert_eq!(
        said.code,
        Some(0),
        "an agent is not stopped: {} {}",
        said.err,
        ws.display()
    );
    said
}

#[test]
fn the_hook_records_what_claude_code_did() {
    let git = Git::new();
    let ws = workspace(&git);
    let event = |name: &str, tool: &str, input: Value, response: Value| {
        json!({
            "session_id": "0835", "transcript_path": "/x.jsonl", "cwd": ws, "permission_mode": "default", "hook_event_name": name,
            "tool_name": tool, "tool_input": input, "tool_response": response, "tool_use_id": "toolu_00", "duration_ms": 10
        })
    };
    fs::create_dir(ws.join("docs")).unwrap();
    fs::write(ws.join("docs/report.md"), "hello\n").unwrap();
    let path = ws.join("docs/report.md");
    let write = event(
        "PostToolUse",
        "Write",
        json!({ "file_path": path, "content": "hello\n" }),
        json!({ "type": "create", "filePath": path }),
    );
    let said = hook(&ws, &write, &[]);
    assert_eq!((said.out.as_str(), said.err.as_str()), ("", ""));
    assert_eq!(
        git.ok(&ws, "log -1 --format=%an%n%B").trim_end(),
        "claude-code\n[Write] Created docs/report.md\n\nAgent: claude-code\nSession: 0835\nTool-Use-Id: toolu_00\nOutcome: ok\nDuration-Ms: 10\nSource: hook\n\
         Gitstead-Checkpoint: 1"
    );
    // What a tool was told does not get into the message.
    fs::write(ws.join("x"), "x\n").unwrap();
    let bash = event(
        "PostToolUseFailure",
        "Bash",
        json!({ "command": "API_KEY=hunter2 ./deploy\nsecond line" }),
        Value::Null,
    );
    hook(&ws, &bash, &["--agent", "deployer"]);
    let message = git.ok(&ws, "log -1 --format=%B");
    assert!(
        message.starts_with("[Bash] API_KEY=*** ./deploy\n") && message.contains("Outcome: failed"),
        "{message}"
    );
    assert!(!message.contains("hunter2") && !message.contains("second"), "{message}");
    // At rest, only what was not recorded yet.
    let stop =
        json!({ "session_id": "0835", "cwd": ws.join("docs"), "hook_event_name": "Stop", "stop_hook_active": false });
    hook(&ws, &stop, &[]);
    assert_eq!(git.ok(&ws, "rev-list --count HEAD"), "2");
    fs::write(ws.join("late"), "late\n").unwrap();
    hook(&ws, &stop, &[]);
    assert_eq!(git.ok(&ws, "log -1 --format=%s"), "[Stop] What was not recorded before");
    let batch = json!({
        "cwd": ws, "hook_event_name": "PostToolBatch",
        "tool_calls": [{ "tool_name": "Read", "tool_use_id": "t1" }, { "tool_name": "Bash", "tool_use_id": "t2" }]
    });
    hook(&ws, &batch, &[]);
    assert_eq!(git.ok(&ws, "rev-list --count HEAD"), "3");
    fs::write(ws.join("late"), "later\n").unwrap();
    hook(&ws, &batch, &[]);
    let message = git.ok(&ws, "log -1 --format=%B");
    assert!(
        message.starts_with("[Batch] Read, Bash\n") && message.contains("Tool-Use-Id: t2"),
        "{message}"
    );
    hook(
        &ws,
        &json!({ "hook_event_name": "UserPromptSubmit", "cwd": "/nowhere" }),
        &[],
    );
    git.fsck(ws.join(".git"));
}

#[test]
fn the_hook_never_stops_an_agent() {
    let git = Git::new();
    let ws = workspace(&git);
    let nowhere = json!({ "hook_event_name": "PostToolUse", "cwd": git.path("nowhere"), "tool_name": "Write" });
    let said = hook(&ws, &nowhere, &[]);
    assert!(said.err.contains("gitstead made no checkpoint: find "), "{}", said.err);
    let told: Value = serde_json::from_str(&said.out).expect("what Claude Code shows is JSON");
    assert!(told["systemMessage"].as_str().unwrap().contains("made no checkpoint"));
    for input in [&b""[..], b"nonsense", b"[]", b"{\"hook_event_name\": 7}"] {
        let said = run(&ws, &["hook", "claude-code"], &[], input);
        assert_eq!(said.code, Some(0), "{}", said.err);
        assert!(said.out.contains("systemMessage"), "{}", said.out);
    }
    // Claude Code takes exit code 2 for an order to stop, and shows its user a systemMessage of 0.
    for words in [
        &["hook", "claude-code", "--nonsense"][..],
        &["hook", "nobody"],
        &["hook"],
    ] {
        let said = run(&ws, words, &[], b"{}");
        assert_eq!(said.code, Some(0), "{}", said.err);
        let told: Value = serde_json::from_str(&said.out).expect("what Claude Code shows is JSON");
        assert!(told["systemMessage"].as_str().unwrap().contains("made no checkpoint"));
        assert!(said.err.contains("Usage"), "{}", said.err);
    }
    // A person's command says so as others do.
    let said = run(&ws, &["hook", "install", "--nonsense"], &[], b"");
    assert_eq!(said.code, Some(2), "{}", said.err);
}

#[test]
fn the_hook_records_what_codex_and_letta_did() {
    let git = Git::new();
    let ws = workspace(&git);
    let tell = |agent: &str, event: Value| {
        let said = run(Path::new("/"), &["hook", agent], &[], event.to_string().as_bytes());
        assert_eq!((said.code, said.out.as_str(), said.err.as_str()), (Some(0), "", ""));
        git.ok(&ws, "log -1 --format=%an%n%B").trim_end().to_owned()
    };
    fs::write(ws.join("a"), "a\n").unwrap();
    let codex = json!({
        "session_id": "01a1", "turn_id": "t-1", "transcript_path": "/x.jsonl", "cwd": ws, "hook_event_name": "PostToolUse", "model": "m",
        "permission_mode": "default", "tool_name": "Bash", "tool_input": { "command": "touch a" }, "tool_response": "", "tool_use_id": "call_2_0"
    });
    assert_eq!(
        tell("codex", codex),
        "codex\n[Bash] touch a\n\nAgent: codex\nSession: 01a1\nTool-Use-Id: call_2_0\nSource: hook\nTurn-Id: t-1\nGitstead-Checkpoint: 1"
    );
    fs::write(ws.join("b"), "b\n").unwrap();
    let letta = |event: &str| {
        json!({
            "event_type": event, "working_directory": ws, "tool_name": "Write", "tool_input": { "file_path": ws.join("b") },
            "tool_call_id": "call_0_0", "tool_result": { "status": "error", "output": "no" }, "agent_id": "agent-1"
        })
    };
    let told = tell("letta", letta("PostToolUse"));
    assert_eq!(
        told,
        "letta\n[Write] Wrote b\n\nAgent: letta\nSession: agent-1\nTool-Use-Id: call_0_0\nOutcome: failed\nSource: hook\nGitstead-Checkpoint: 1"
    );
    // A failure is told of twice.
    let before = git.ok(&ws, "rev-parse HEAD");
    tell("letta", letta("PostToolUseFailure"));
    assert_eq!(git.ok(&ws, "rev-parse HEAD"), before);
}

#[test]
fn hooks_are_written_once_and_only_when_somebody_says_so() {
    let git = Git::new();
    let dir = git.path("project");
    fs::create_dir(&dir).unwrap();
    for (agent, file) in [
        ("claude-code", ".claude/settings.json"),
        ("codex", ".codex/hooks.json"),
        ("letta", ".letta/settings.json"),
    ] {
        let said = run(&dir, &["hook", "install", agent], &[], b"y\n");
        assert_eq!(said.code, Some(1), "nobody was asked: {}", said.err);
        assert!(
            said.out.contains(&format!("hook {agent}")) && said.err.contains("--yes"),
            "{}",
            said.err
        );
        assert!(!dir.join(file).exists());
        let said = run(
            &dir,
            &["hook", "install", agent, "--yes", "--command", "gitstead"],
            &[],
            b"",
        );
        assert_eq!(said.code, Some(0), "{}", said.err);
        let written: Value = serde_json::from_slice(&fs::read(dir.join(file)).unwrap()).expect("it is JSON");
        let command = &written["hooks"]["PostToolUse"][0]["hooks"][0]["command"];
        assert_eq!(command, &json!(format!("gitstead hook {agent}")));
        let before = fs::read(dir.join(file)).unwrap();
        let said = run(&dir, &["hook", "install", agent, "--yes"], &[], b"");
        assert!(said.code == Some(0) && said.out.contains("already"), "{}", said.out);
        assert_eq!(fs::read(dir.join(file)).unwrap(), before);
        assert_eq!(
            fs::read_dir(dir.join(file).parent().unwrap()).unwrap().count(),
            1,
            "nothing is left beside it"
        );
    }
    let broken = dir.join(".letta/settings.json");
    fs::write(&broken, "{ // mine\n}").unwrap();
    let said = run(&dir, &["hook", "install", "letta", "--yes"], &[], b"");
    assert!(
        said.code == Some(1) && said.err.contains("settings.json"),
        "{}",
        said.err
    );
    assert_eq!(fs::read_to_string(&broken).unwrap(), "{ // mine\n}");
}

#[test]
fn commands_alone_keep_a_long_trail_a_few_files_unless_the_repository_says_no() {
    for wanted in [true, false] {
        let git = Git::new();
        let dir = workspace(&git);
        git.ok_args(&dir, ["config", "maintenance.auto", &wanted.to_string()]);
        git.ok(&dir, "config fastimport.unpackLimit 100000");
        let blobs: String = (0..9_000).map(|n| format!("blob\ndata 5\n{n:05}\n")).collect();
        fs::write(git.path("stream"), blobs).expect("written");
        let stream = fs::File::open(git.path("stream")).expect("there");
        let made = git
            .command(&dir)
            .args(["fast-import", "--quiet"])
            .stdin(stream)
            .status();
        assert!(made.expect("git runs").success());
        fs::write(dir.join("a"), "a").expect("written");
        ok(&dir, &["checkpoint", "--tool", "Write", "--summary", "one of many"]);
        let packs = fs::read_dir(dir.join(".git/objects/pack")).expect("there").count();
        assert_eq!(packs > 0, wanted, "{packs} files of packs");
        git.fsck(&dir);
    }
}

#[test]
fn what_a_log_does_not_show_is_counted() {
    let git = Git::new();
    let ws = workspace(&git);
    git.commit(&ws, "a", "a", "by hand");
    record(&ws, "Write", "one");
    git.commit(&ws, "b", "b", "by hand");
    let said = run(&ws, &["log"], &[], b"");
    assert_eq!(said.out.lines().count(), 1, "{}", said.out);
    assert!(
        said.err
            .contains("2 commits that are no checkpoints are not shown; --all"),
        "{}",
        said.err
    );
    let said = run(&ws, &["log", "--all"], &[], b"");
    assert_eq!((said.out.lines().count(), said.err.as_str()), (3, ""));
}

#[test]
fn numbers_and_messages_that_mean_nothing_are_refused() {
    let git = Git::new();
    let ws = workspace(&git);
    record(&ws, "Write", "one");
    for args in [&["log", "-n", "0"][..], &["squash", "-m", " ", "--to", "clean"]] {
        let said = run(&ws, args, &[], b"");
        assert_eq!(said.code, Some(2), "{args:?}: {}", said.err);
    }
    let data = ws.join("data");
    let data = data.to_str().expect("text");
    let said = run(&ws, &["workspace", "create", "none", "main", "--data", data], &[], b"");
    assert!(said.code == Some(1) && said.err.contains("--task TEXT"), "{}", said.err);
}

#[test]
fn all_workspaces_are_listed_where_no_repository_is_named() {
    let git = Git::new();
    let dir = git.dir();
    for (repository, name) in [("team/app", "main"), ("team/app", "beside"), ("other", "main")] {
        let args = ["workspace", "create", repository, name, "--data", "data"];
        let task: &[&str] = if name == "main" { &["--task", "work"] } else { &[] };
        ok(dir, &[&args[..], task].concat());
    }
    let listed = ok(dir, &["workspace", "list", "--data", "data"]);
    let names: Vec<_> = listed.lines().filter_map(|line| line.split('\t').next()).collect();
    assert_eq!(names, ["other/main", "team/app/beside", "team/app/main"]);
    assert_eq!(
        ok(dir, &["workspace", "list", "other", "--data", "data"])
            .lines()
            .count(),
        1
    );
}

/// Whoever is told to fetch first, merges; the agent's checkpoints are then on the second parent's side.
#[test]
fn a_log_shows_what_was_merged_into_somebody_elses_work() {
    let git = Git::new();
    let dir = workspace(&git);
    git.commit(&dir, "a", "a", "seed");
    git.ok(&dir, "branch theirs");
    fs::write(dir.join("agent.txt"), "agent\n").unwrap();
    ok(&dir, &["checkpoint", "--tool", "Write", "--summary", "agents own"]);
    git.ok(&dir, "checkout -q theirs");
    git.commit(&dir, "b", "b", "theirs");
    git.ok(&dir, "merge -q --no-edit main");
    for args in [
        &["log"][..],
        &["log", "--tool", "Write"],
        &["log", "--path", "agent.txt"],
    ] {
        let text = ok(&dir, args);
        assert!(text.contains("agents own"), "{args:?}: {text}");
    }
}
