//! Where an agent is on this machine: what is told of it is so, and the commands can be executed as they are.

use std::{fs, process::Command};

use gitstead::base::TokenHash;
use serde_json::{Value, json};

use crate::support::{Git, ServerOptions, agents::House, wire::eventually};

fn command<'a>(found: &'a Value, name: &str) -> &'a Value {
    let all = found["commands"].as_array().unwrap();
    let one = all.iter().find(|one| one["name"] == name);
    one.unwrap_or_else(|| panic!("{name}: {found}"))
}

fn argv(found: &Value, name: &str) -> Vec<String> {
    let words = command(found, name)["argv"].as_array().unwrap();
    words.iter().map(|word| word.as_str().unwrap().to_owned()).collect()
}

fn names(found: &Value) -> Vec<&str> {
    let all = found["commands"].as_array().unwrap();
    all.iter().map(|one| one["name"].as_str().unwrap()).collect()
}

/// What a shell says to this, with `input` as its standard input.
fn shell(text: &str, input: &str) -> String {
    let output = Command::new("sh")
        .arg("-c")
        .arg(format!("{{ {text}\n}} <<'END'\n{input}\nEND\n"))
        .env("SHELL", "/bin/sh")
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{text}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn what_is_told_of_an_agent_leads_to_it() {
    const KEY: &str = "a-key-that-is-secret";
    let house = House::start();
    house.run("first", "mkdir \"it's here\"; touch \"it's here/x\"", json!({}));
    house.ended("first");
    let key = house.server.data().join("key");
    fs::write(&key, KEY).unwrap();
    let script = "echo out; echo err >&2; : argument-of-mine; read x; sleep 0";
    let more = json!({ "cwd": "it's here", "secrets": { "KEY": key }, "env": { "COLOR": "blue-as-the-sky" } });
    house.run("it", script, more);
    house.get("/it/wait?until=ready");
    eventually("its output is on the disk", || {
        house.server.data().join("logs/it/stderr").exists() && house.server.data().join("logs/it/stdout").exists()
    });
    let found = house.get("/it/attach");
    assert_eq!(
        (&found["name"], &found["running"], &found["run"]),
        (&json!("it"), &json!(true), &json!(1)),
        "{found}"
    );
    let files = house.files().canonicalize().unwrap();
    let cwd = files.join("it's here");
    let workspace = &found["workspace"];
    assert_eq!((&workspace["cwd"], &workspace["name"]), (&json!(cwd), &json!("main")));
    assert_eq!(fs::canonicalize(workspace["path"].as_str().unwrap()).unwrap(), files);
    // Its process is the one that it says itself, and no later one with that number.
    let shown = house.get("/it");
    for process in [&found["process"], &found["parent"]] {
        let stat = fs::read_to_string(format!("/proc/{}/stat", process["pid"])).unwrap();
        let fields: Vec<_> = stat[stat.rfind(')').unwrap() + 2..].split(' ').collect();
        assert_eq!(fields[19], process["start_ticks"].to_string());
        assert!(process["started_at"].as_str().unwrap().ends_with('Z'), "{found}");
    }
    assert_eq!(found["process"]["pid"], shown["pid"]);
    let environ = fs::read(format!("/proc/{}/environ", found["process"]["pid"])).unwrap();
    assert!(String::from_utf8_lossy(&environ).contains("GITSTEAD_AGENT=it\0"));
    for (at, stream, text) in [(0, "stdout", "out\n"), (1, "stderr", "err\n")] {
        let output = &found["output"][at];
        assert_eq!(output["stream"], stream);
        let file = output["files"][0].as_str().unwrap();
        assert_eq!(fs::read_to_string(file).unwrap(), text);
    }
    // The commands do what they say.
    let text = command(&found, "shell")["shell"].as_str().unwrap();
    assert_eq!(shell(text, "pwd").trim(), cwd.to_str().unwrap());
    assert_eq!(&argv(&found, "output")[..5], ["tail", "-n", "50", "-F", "--"]);
    assert!(argv(&found, "process").ends_with(&[shown["pid"].to_string()]));
    let git = Git::new();
    let clone = argv(&found, "clone");
    assert_eq!((clone[0].as_str(), clone[1].as_str()), ("git", "clone"));
    let mut words: Vec<_> = clone[1..].iter().map(String::as_str).collect();
    let into = git.path("looked-at");
    words.push(into.to_str().unwrap());
    git.ok_args(git.dir(), &words);
    assert!(into.join("it's here/x").exists());
    // Nothing of how it was started is told.
    let text = found.to_string();
    for hidden in [KEY, "blue-as-the-sky", "argument-of-mine", key.to_str().unwrap()] {
        assert!(!text.contains(hidden), "{hidden}: {text}");
    }
    house.post("/it/stop");
    house.ended("it");
    // What remains true is still told.
    let found = house.get("/it/attach");
    assert_eq!(
        (&found["running"], &found["process"], &found["parent"], &found["cgroup"]),
        (&json!(false), &Value::Null, &Value::Null, &Value::Null),
        "{found}"
    );
    assert_eq!(names(&found), ["shell", "output", "events", "clone"]);
    assert_eq!(found["output"][0]["files"].as_array().unwrap().len(), 1);
}

#[test]
fn who_may_not_see_what_an_agent_writes_is_not_told_where_it_is() {
    let token = |name: &str, access: &str| {
        let hash = TokenHash::of(&name.repeat(10)).to_string();
        format!("[[tokens]]\nname = \"{name}\"\nhash = \"{hash}\"\naccess = \"{access}\"\n")
    };
    let house = House::with(ServerOptions {
        config: Some([token("ann", "write"), token("eve", "read")].concat()),
        ..ServerOptions::default()
    });
    let body = json!({ "name": "it", "repository": "demo", "argv": ["true"], "start": false });
    house.ask_as(Some(&"ann".repeat(10)), "POST", "", Some(&body)).is(201);
    let ask = |user: Option<&str>, path: &str| {
        let token = user.map(|user| user.repeat(10));
        house.ask_as(token.as_deref(), "GET", path, None)
    };
    assert_eq!(ask(Some("eve"), "/it/attach").status, 403);
    assert_eq!(ask(None, "/it/attach").status, 401);
    assert_eq!(
        ask(Some("ann"), "/none/attach").is(404)["error"]["message"],
        "there is no agent 'none'"
    );
    let refused = ask(Some("ann"), "/it/attach").is(409);
    assert_eq!(
        (&refused["error"]["code"], &refused["error"]["message"]),
        (
            &json!("not_started"),
            &json!("agent 'it' was never started: there is nothing to look at")
        )
    );
    assert_eq!(
        house.ask_as(Some(&"ann".repeat(10)), "POST", "/it/attach", None).status,
        405
    );
}

#[test]
fn the_command_line_prints_where_an_agent_is_and_one_command_for_a_shell() {
    let house = House::start();
    house.run("it", "echo hi; read x", json!({}));
    house.get("/it/wait?until=ready");
    eventually("its output is on the disk", || {
        house.server.data().join("logs/it/stdout").exists()
    });
    let cli = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_gitstead"))
            .env_clear()
            .args(["agent", "attach", "it", "--data"])
            .arg(house.server.data())
            .args(args)
            .output()
            .unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.success(), text(output.stdout), text(output.stderr))
    };
    let (ok, out, err) = cli(&[]);
    let found = house.get("/it/attach");
    assert!(ok, "{err}");
    for line in [
        format!(
            "workspace:  demo/main, {}",
            found["workspace"]["path"].as_str().unwrap()
        ),
        format!("stdout:     {}", found["output"][0]["files"][0].as_str().unwrap()),
        format!("            {}", command(&found, "clone")["shell"].as_str().unwrap()),
    ] {
        assert!(out.lines().any(|found| found == line), "{line}\n{out}");
    }
    assert!(
        out.contains(&format!("process:    {}, since ", found["process"]["pid"])),
        "{out}"
    );
    let (ok, out, err) = cli(&["--command", "shell"]);
    assert!(ok, "{err}");
    let cwd = house.files().canonicalize().unwrap();
    assert_eq!(shell(&out, "pwd").trim(), cwd.to_str().unwrap());
    let (ok, _, err) = cli(&["--command", "enter"]);
    assert!(
        !ok && err.contains("no command 'enter'") && err.contains("shell, output"),
        "{err}"
    );
    let (ok, out, _) = cli(&["--json"]);
    let whole: Value = serde_json::from_str(&out).unwrap();
    assert!(ok && whole["process"] == found["process"], "{whole}");
}
