//! Agents on the command line: everything is done by the server of the data directory, since they live as long as that.

use std::{
    io::{self, Read as _, Write as _},
    path::PathBuf,
};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Map, Value, json};

use super::{
    client::{Client, harmless},
    remote::Remote,
    told::{harmless_lines, harmless_piece, listed, place, shown, told},
};
use crate::{
    base::{RepoName, WorkspaceName},
    dialect::Pointers,
    session::{PermissionRule, RuleDecision},
};

/// A command that has run for so long counts as started; one that ends before is waited for, and how it ended is told.
const STARTED_MS: u64 = 1_500;
/// The longest that one request waits.
const WAIT_MS: u64 = 30_000;

#[derive(Debug, Args)]
pub(super) struct Agent {
    #[command(flatten)]
    remote: Remote,
    #[command(subcommand)]
    command: AgentCommand,
}

#[derive(Debug, Subcommand)]
enum AgentCommand {
    /// Start a command in a workspace, which is made if it is not there; or an agent that has ended.
    ///
    /// gitstead agent start --workspace demo -- sh -c 'echo hi > report.md'
    Start(Box<Start>),
    /// Stop an agent: gently first, then all of its processes; at last a checkpoint is made. Asked again meanwhile, it goes faster.
    Stop {
        /// The agent
        name: String,
        /// Do not wait until it has ended
        #[arg(long)]
        no_wait: bool,
    },
    /// Kill all processes of an agent at once.
    Kill {
        /// The agent
        name: String,
    },
    /// Stop an agent and start it again.
    Restart {
        /// The agent
        name: String,
    },
    /// List agents: name, state, workspace, command.
    List {
        /// Those of one repository
        #[arg(long, value_name = "REPO")]
        repository: Option<String>,
    },
    /// Show one agent.
    Show {
        /// The agent
        name: String,
    },
    /// Print what an agent writes.
    Logs {
        /// The agent
        name: String,
        /// Go on until it has ended
        #[arg(long, short)]
        follow: bool,
        /// How many of the last lines
        #[arg(long, short = 'n', value_name = "LINES", default_value_t = 200)]
        lines: usize,
    },
    /// Print what happens with an agent, one JSON value a line.
    Events {
        /// The agent
        name: String,
        /// Go on until it has ended
        #[arg(long, short)]
        follow: bool,
        /// Those after this number
        #[arg(long, value_name = "SEQ", default_value_t = 0)]
        after: u64,
    },
    /// Print where an agent is on this machine, and commands to look at it with: a shell in its workspace or container, its output, its processes.
    ///
    /// gitstead agent attach claude-1
    ///
    /// sh -c "$(gitstead agent attach claude-1 --command shell)"
    Attach {
        /// The agent
        name: String,
        /// Print one of the commands only, quoted for a shell
        #[arg(long, value_name = "NAME")]
        command: Option<String>,
    },
    /// Write to the standard input of an agent: a line, or without one all of our own.
    Input {
        /// The agent
        name: String,
        /// The line
        text: Option<String>,
        /// End its input afterwards
        #[arg(long)]
        close: bool,
    },
    /// Have an agent that runs go on with another model, or in another mode, in its own words.
    Change {
        /// The agent
        name: String,
        /// The model
        #[arg(long, value_name = "MODEL", required_unless_present = "permission_mode")]
        model: Option<String>,
        /// What it may do without asking
        #[arg(long, value_name = "MODE")]
        permission_mode: Option<String>,
    },
    /// Give an agent a message.
    Ask {
        /// The agent
        name: String,
        /// The message
        message: String,
        /// Wait until it has finished, and print what it says
        #[arg(long)]
        wait: bool,
    },
    /// Print what was said in an agent's session, from Claude Code's own file: the branch that was gone on with, oldest first.
    History(super::history::History),
    /// Forget an agent that has ended, with its output and events. Its checkpoints stay.
    Rm {
        /// The agent
        name: String,
    },
}

#[derive(Debug, Args)]
struct Start {
    /// An agent that is there already, to be started again
    #[arg(value_name = "NAME", conflicts_with_all = ["workspace", "name", "argv"])]
    again: Option<String>,
    /// Where it works: a repository (its workspace 'main'), or REPO/WORKSPACE; made if it is not there
    #[arg(long, short, value_name = "REPO[/WORKSPACE]")]
    workspace: Option<String>,
    /// What it is called [default: after its program]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// How it speaks
    #[arg(long, value_name = "DIALECT", default_value = "plain")]
    dialect: String,
    /// Where its lines of JSON say what (a JSON pointer), or in which words, for the dialect 'ndjson': event=/kind, finished=end,done
    #[arg(long, value_name = "WHAT=WHERE")]
    pointer: Vec<String>,
    /// An agent that we know how to start: claude, codex, codex-app-server, opencode, opencode-acp, opencode-server, letta, letta-print
    #[arg(long, value_name = "PRESET", conflicts_with = "dialect")]
    preset: Option<String>,
    /// The model of a preset
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,
    /// What a preset may do without asking, in its own word
    #[arg(long, value_name = "MODE")]
    permission_mode: Option<String>,
    /// When codex-app-server asks for permission, in its own word
    #[arg(long, value_name = "POLICY")]
    approval_policy: Option<String>,
    /// How somebody is logged in where an ACP agent wants that, by its own name of it
    #[arg(long, value_name = "METHOD")]
    auth_method: Option<String>,
    /// An argument after those that a preset gives its program: --arg=--add-dir --arg=/srv/data
    #[arg(long = "arg", value_name = "ARG", allow_hyphen_values = true)]
    args: Vec<String>,
    /// Tell what it says in pieces, as it comes
    #[arg(long)]
    partial: bool,
    /// Have Codex run `gitstead hook` after each tool, so that it is recorded before Codex goes on; other hooks that are enabled then run without review
    #[arg(long)]
    hooks: bool,
    /// What only Letta Code can be told: JSON, or a file of JSON or TOML, with the options of its SDK
    #[arg(long, value_name = "OPTIONS")]
    letta: Option<String>,
    /// A variable of its environment; it gets few others
    #[arg(long, short, value_name = "KEY=VALUE")]
    env: Vec<String>,
    /// A variable whose value is in a file, which is read when it starts and kept nowhere
    #[arg(long, value_name = "KEY=FILE")]
    secret: Vec<String>,
    /// A variable that it gets from the server's environment
    #[arg(long, value_name = "KEY")]
    inherit: Vec<String>,
    /// The directory in the workspace where it begins
    #[arg(long, value_name = "DIR")]
    cwd: Option<String>,
    /// What the workspace is for, if it has to be made
    #[arg(long, value_name = "TEXT")]
    task: Option<String>,
    /// Its first message
    #[arg(long, short, value_name = "TEXT")]
    message: Option<String>,
    /// What it may do without asking: a tool, or with a pattern, 'Bash(git status*)'; '*' stands for any characters. Never a command with another one in it
    #[arg(long, value_name = "TOOL[(PATTERN)]")]
    allow: Vec<String>,
    /// What is denied without asking, also as a part of something else: 'Read(/etc/*)'. Looked at first
    #[arg(long, value_name = "TOOL[(PATTERN)]")]
    deny: Vec<String>,
    /// What somebody is asked about, although --allow would allow it
    #[arg(long, value_name = "TOOL[(PATTERN)]")]
    ask: Vec<String>,
    /// When it is started again after it has ended
    #[arg(long, value_name = "WHEN", default_value = "never")]
    restart: RestartWord,
    /// Let it reach the files of its workspace, what programs are made of, and nothing else
    #[arg(long, value_name = "HOW", default_value = "off")]
    sandbox: SandboxWord,
    /// What it can read and execute in its sandbox, too
    #[arg(long, value_name = "PATH")]
    allow_read: Vec<PathBuf>,
    /// Start it in a running container, by `docker exec` (or what the server is configured to use)
    #[arg(long, value_name = "NAME")]
    container: Option<String>,
    /// Who it is in its container
    #[arg(long, value_name = "USER", requires = "container")]
    container_user: Option<String>,
    /// Where its container has the workspace [default: at the same path]
    #[arg(long, value_name = "DIR", requires = "container")]
    container_workspace: Option<PathBuf>,
    /// Its home directory in its container [default: as the container's list of users has it]
    #[arg(long, value_name = "DIR", requires = "container")]
    container_home: Option<PathBuf>,
    /// What it can write in its sandbox, too
    #[arg(long, value_name = "PATH")]
    allow_write: Vec<PathBuf>,
    #[command(flatten)]
    hold: super::hold::Hold,
    /// Wait until it has ended
    #[arg(long, conflicts_with = "follow")]
    wait: bool,
    /// Print what it writes until it has ended
    #[arg(long, short)]
    follow: bool,
    /// The command [default: that of the preset or dialect]
    #[arg(last = true, value_name = "COMMAND")]
    argv: Vec<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum SandboxWord {
    /// It can reach what the server's user can
    Off,
    /// Where the system can do that
    BestEffort,
    /// Else it is not started
    Required,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum RestartWord {
    /// Not by itself
    Never,
    /// When it has failed
    OnFailure,
    /// Whenever nobody has stopped it, also when the server was gone meanwhile
    Always,
}

pub(super) fn run(wanted: &Agent) -> anyhow::Result<()> {
    if let AgentCommand::History(history) = &wanted.command {
        return super::history::run(history, wanted.remote.json, || wanted.remote.client());
    }
    let client = wanted.remote.client()?;
    let show = |agent: &Value| match wanted.remote.json {
        true => super::print_json(agent),
        false => super::print(&told(agent)),
    };
    let act = |name: &str, what: &str| client.ask("POST", &path(name, what), None);
    match &wanted.command {
        AgentCommand::Start(start) => begin(&client, start, wanted.remote.json),
        AgentCommand::Stop { name, no_wait } => {
            let agent = act(name, "/stop")?;
            let agent = if *no_wait { agent } else { ended(&client, name)? };
            show(&agent)
        }
        AgentCommand::Kill { name } => {
            act(name, "/kill")?;
            show(&ended(&client, name)?)
        }
        AgentCommand::Restart { name } => {
            let before = client.ask("GET", &path(name, ""), None)?["run"].as_u64();
            act(name, "/restart")?;
            // It may take as long as stopping does.
            loop {
                let agent = client.ask("GET", &path(name, "/wait?until=ready&timeout_ms=200"), None)?;
                if agent["run"].as_u64() > before {
                    show(&agent)?;
                    return match agent["failure"].as_str() {
                        Some(failure) => bail!("{}", harmless(failure)),
                        None => Ok(()),
                    };
                }
                if agent["ended"] == true {
                    show(&agent)?;
                    bail!("it was stopped before it could be started again");
                }
            }
        }
        AgentCommand::List { repository } => {
            let query = repository
                .as_deref()
                .map_or_else(String::new, |name| format!("?repository={}", name.replace('/', "%2F")));
            let list = client.ask("GET", &format!("/api/v1/agents{query}"), None)?;
            if wanted.remote.json {
                return super::print_json(&list);
            }
            super::print(&listed(list["agents"].as_array().map_or(&[], Vec::as_slice)))
        }
        AgentCommand::Show { name } => {
            let agent = client.ask("GET", &path(name, ""), None)?;
            match wanted.remote.json {
                true => super::print_json(&agent),
                false => super::print(&shown(&agent)),
            }
        }
        AgentCommand::Logs { name, follow, lines } => logs(&client, name, *follow, *lines, wanted.remote.json),
        AgentCommand::Events { name, follow, after } => {
            let ends = if *follow { "&until_ended=true" } else { "" };
            let target = path(name, &format!("/events?after={after}{ends}"));
            if *follow {
                return client
                    .send("GET", &target, None, "text/event-stream")?
                    .events(|_, event| super::print(&format!("{event}\n")).map(|()| true));
            }
            let page = client.ask("GET", &target, None)?;
            let mut text = String::new();
            for event in page["events"].as_array().into_iter().flatten() {
                text.push_str(&format!("{event}\n"));
            }
            super::print(&text)
        }
        AgentCommand::Attach { name, command } => {
            super::attach::run(&client, name, command.as_deref(), wanted.remote.json)
        }
        AgentCommand::Input { name, text, close } => input(&client, name, text.as_deref(), *close),
        AgentCommand::Change {
            name,
            model,
            permission_mode,
        } => {
            let body = json!({ "model": model, "permission_mode": permission_mode });
            client.ask("POST", &path(name, "/change"), Some(&body)).map(drop)
        }
        AgentCommand::Ask { name, message, wait } => ask(&client, name, message, *wait),
        AgentCommand::History(_) => Ok(()),
        AgentCommand::Rm { name } => client.ask("DELETE", &path(name, ""), None).map(drop),
    }
}

pub(super) fn path(name: &str, what: &str) -> String {
    // What is no name is no agent's; it must only not become another path.
    let name: String = name
        .chars()
        .map(|c| match c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') {
            true => c,
            false => '!',
        })
        .collect();
    format!("/api/v1/agents/{name}{what}")
}

/// Waits until it has ended.
fn ended(client: &Client, name: &str) -> anyhow::Result<Value> {
    loop {
        let target = path(name, &format!("/wait?until=ended&timeout_ms={WAIT_MS}"));
        let agent = client.ask("GET", &target, None)?;
        if agent["ended"] == true {
            return Ok(agent);
        }
    }
}

fn pairs(texts: &[String], what: &str) -> anyhow::Result<Map<String, Value>> {
    let pair = |text: &String| match text.split_once('=') {
        Some((key, value)) => Ok((key.to_owned(), json!(value))),
        None => bail!("--{what} wants KEY=…, not '{text}'"),
    };
    texts.iter().map(pair).collect()
}

fn begin(client: &Client, wanted: &Start, as_json: bool) -> anyhow::Result<()> {
    let agent = match (&wanted.again, &wanted.workspace) {
        (Some(name), _) => client.ask("POST", &path(name, "/start"), None)?,
        (None, Some(workspace)) => create(client, wanted, workspace)?,
        (None, None) => bail!("say where a new agent works (--workspace REPO), or which one is to be started again"),
    };
    let name = agent["name"].as_str().context("the server names no agent")?.to_owned();
    if wanted.follow {
        if !as_json {
            let _ = writeln!(io::stderr(), "{name} started in {}", place(&agent));
        }
        logs(client, &name, true, 1_000, as_json)?;
    }
    let agent = if wanted.wait || wanted.follow {
        ended(client, &name)?
    } else {
        let target = path(&name, &format!("/wait?until=ended&timeout_ms={STARTED_MS}"));
        client.ask("GET", &target, None)?
    };
    match as_json {
        true => super::print_json(&agent)?,
        false if wanted.follow => {
            let _ = write!(io::stderr(), "{}", told(&agent));
        }
        false => super::print(&told(&agent))?,
    }
    if let Some(failure) = agent["failure"].as_str() {
        bail!("{}", harmless(failure));
    }
    // A script wants to know, too.
    match agent["state"].as_str() {
        Some("lost") => bail!("nobody knows how the agent ended"),
        Some("crash_looping") => bail!("the agent has failed again and again"),
        Some("failed") => bail!("the agent has failed"),
        _ => Ok(()),
    }
}

fn create(client: &Client, wanted: &Start, workspace: &str) -> anyhow::Result<Value> {
    let (repository, workspace) = match workspace.rsplit_once('/') {
        Some((repository, workspace)) => (repository, workspace),
        None => (workspace, "main"),
    };
    RepoName::parse(repository)?;
    WorkspaceName::parse(workspace)?;
    let mut secrets = pairs(&wanted.secret, "secret")?;
    for file in secrets.values_mut() {
        let typed = PathBuf::from(file.as_str().unwrap_or_default());
        let whole = std::path::absolute(&typed).context("find the file of a secret")?;
        *file = json!(whole);
    }
    let restart = match wanted.restart {
        RestartWord::Never => "never",
        RestartWord::OnFailure => "on-failure",
        RestartWord::Always => "always",
    };
    let sandbox = match wanted.sandbox {
        SandboxWord::Off => "off",
        SandboxWord::BestEffort => "best-effort",
        SandboxWord::Required => "required",
    };
    let whole = |paths: &[PathBuf]| paths.iter().map(std::path::absolute).collect::<io::Result<Vec<_>>>();
    let container = wanted
        .container
        .as_ref()
        .map(|name| json!({ "name": name, "user": wanted.container_user, "workspace": wanted.container_workspace, "home": wanted.container_home }));
    let mut body = json!({
        "name": wanted.name,
        "repository": repository,
        "workspace": workspace,
        "dialect": wanted.dialect,
        "argv": wanted.argv,
        "preset": wanted.preset,
        "model": wanted.model,
        "permission_mode": wanted.permission_mode,
        "approval_policy": wanted.approval_policy,
        "auth_method": wanted.auth_method,
        "args": wanted.args,
        "partial": wanted.partial,
        "hooks": wanted.hooks,
        "env": pairs(&wanted.env, "env")?,
        "secrets": secrets,
        "inherit": wanted.inherit,
        "cwd": wanted.cwd,
        "task": wanted.task,
        "message": wanted.message,
        "permissions": rules(wanted)?,
        "restart": restart,
        "container": container,
        "sandbox": { "mode": sandbox, "read": whole(&wanted.allow_read)?, "write": whole(&wanted.allow_write)? },
    });
    if !wanted.pointer.is_empty() {
        body["pointers"] = pointers(&wanted.pointer)?;
    }
    wanted.hold.lay(&mut body)?;
    if let Some(told) = &wanted.letta {
        body["letta"] = letta_options(told)?;
    }
    client.ask("POST", "/api/v1/agents", Some(&body))
}

/// What is denied comes first, then what is asked about: so it does not matter in which order flags are given.
fn rules(wanted: &Start) -> anyhow::Result<Vec<PermissionRule>> {
    let of = |decision: RuleDecision, texts: &'_ [String]| -> anyhow::Result<Vec<PermissionRule>> {
        let read = |text: &String| {
            PermissionRule::parse(decision, text)
                .map_err(anyhow::Error::msg)
                .with_context(|| format!("--{} {text}", decision.as_str()))
        };
        texts.iter().map(read).collect()
    };
    let mut all = of(RuleDecision::Deny, &wanted.deny)?;
    all.extend(of(RuleDecision::Ask, &wanted.ask)?);
    all.extend(of(RuleDecision::Allow, &wanted.allow)?);
    Ok(all)
}

/// JSON as it is, or what a file says: TOML if it is called so.
fn letta_options(told: &str) -> anyhow::Result<Value> {
    if told.trim_start().starts_with('{') {
        return serde_json::from_str(told).context("--letta is no JSON");
    }
    let text = std::fs::read_to_string(told).with_context(|| format!("read {told}"))?;
    match told.ends_with(".toml") {
        true => toml::from_str(&text).with_context(|| format!("{told} is no TOML")),
        false => serde_json::from_str(&text).with_context(|| format!("{told} is no JSON")),
    }
}

/// `finished=end,done`: words are several, a pointer is one.
fn pointers(texts: &[String]) -> anyhow::Result<Value> {
    let mut told = pairs(texts, "pointer")?;
    let usual = json!(Pointers::default());
    for (key, value) in &mut told {
        let text = value.as_str().unwrap_or_default();
        *value = match &usual[key] {
            Value::Array(_) => json!(text.split(',').collect::<Vec<_>>()),
            Value::Bool(_) => json!(
                text.parse::<bool>()
                    .with_context(|| format!("--pointer {key} is true or false"))?
            ),
            Value::String(_) => json!(text),
            _ => {
                let known: Vec<_> = usual
                    .as_object()
                    .into_iter()
                    .flatten()
                    .map(|(key, _)| key.as_str())
                    .collect();
                bail!(
                    "nothing is called '{key}' with --pointer; there are {}",
                    known.join(", ")
                )
            }
        };
    }
    Ok(Value::Object(told))
}

fn logs(client: &Client, name: &str, follow: bool, lines: usize, as_json: bool) -> anyhow::Result<()> {
    if !follow {
        let page = client.ask("GET", &path(name, &format!("/logs?lines={lines}")), None)?;
        if as_json {
            return super::print_json(&page);
        }
        for line in page["lines"].as_array().into_iter().flatten() {
            print_line(line)?;
        }
        return Ok(());
    }
    let target = path(name, &format!("/logs?follow=true&lines={lines}"));
    let answer = client.send("GET", &target, None, "text/event-stream")?;
    answer.events(|kind, data| {
        match kind {
            "line" if as_json => super::print(&format!("{data}\n"))?,
            "line" => print_line(data)?,
            "missed" => {
                let _ = match data["restarted"] == true {
                    true => writeln!(
                        io::stderr(),
                        "(the server was started anew: what came before is on its disk)"
                    ),
                    false => writeln!(io::stderr(), "({} lines were missed)", data["lines"]),
                };
            }
            "end" => return Ok(false),
            _ => {}
        }
        Ok(true)
    })
}

/// What it wrote to standard error goes to ours.
fn print_line(line: &Value) -> anyhow::Result<()> {
    let text = format!("{}\n", line["text"].as_str().unwrap_or_default());
    if line["stream"] == "stderr" {
        let _ = io::stderr().lock().write_all(text.as_bytes());
        return Ok(());
    }
    super::print(&text)
}

fn input(client: &Client, name: &str, text: Option<&str>, close: bool) -> anyhow::Result<()> {
    let target = path(name, "/input");
    if let Some(text) = text {
        let body = json!({ "text": format!("{text}\n"), "close": close });
        return client.ask("POST", &target, Some(&body)).map(drop);
    }
    let mut stdin = io::stdin().lock();
    let mut buffer = vec![0; 32 << 10];
    loop {
        let read = stdin.read(&mut buffer).context("read standard input")?;
        if read == 0 {
            break;
        }
        use base64::Engine as _;
        let text = base64::engine::general_purpose::STANDARD.encode(&buffer[..read]);
        client.ask("POST", &target, Some(&json!({ "base64": text })))?;
    }
    if close {
        client.ask("POST", &target, Some(&json!({ "close": true })))?;
    }
    Ok(())
}

fn ask(client: &Client, name: &str, message: &str, wait: bool) -> anyhow::Result<()> {
    let given = client.ask("POST", &path(name, "/ask"), Some(&json!({ "message": message })))?;
    if !wait {
        return Ok(());
    }
    let seq = given["seq"].as_u64().unwrap_or(0);
    let target = path(name, &format!("/events?after={seq}&until_ended=true"));
    let mut failed = None;
    client
        .send("GET", &target, None, "text/event-stream")?
        .events(|kind, event| {
            match kind {
                "piece" if event["thought"] == false && event["parent"].is_null() => {
                    super::print(&harmless_piece(event["text"].as_str().unwrap_or_default()))?;
                }
                "said" if event["in_pieces"] == true && event["thought"] == false && event["parent"].is_null() => {
                    super::print("\n")?;
                }
                "said" => super::print(&format!(
                    "{}\n",
                    harmless_lines(event["text"].as_str().unwrap_or_default())
                ))?,
                // One that is about something else may end before.
                "turn_ended" if event["message_id"] == given["message_id"] => {
                    if event["outcome"] != "completed" {
                        failed = Some(event["outcome"].as_str().unwrap_or("failed").to_owned());
                    }
                    return Ok(false);
                }
                _ => {}
            }
            Ok(true)
        })?;
    match failed {
        Some(how) => bail!("the turn ended: {how}"),
        None => Ok(()),
    }
}
