//! The hooks of agents. An agent is never stopped by us: whatever goes wrong is said, and the exit code is 0 all the same.

use std::{
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    args::{HookOf, Hooked},
    hook_socket,
    place::wipe,
    record::warn,
    summary,
};
use crate::{
    checkpoint::ToolOutcome,
    web::{CheckpointWish, TrailerWish},
    workspace::Unchanged,
};

/// Bytes of an event: it holds whole files.
const MOST: u64 = 256 << 20;
/// Ids of the tools that one event tells of.
const CALLS: usize = 1_000;

/// What we use of an event. The second names are Letta's.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Event {
    #[serde(alias = "event_type")]
    hook_event_name: String,
    session_id: Option<String>,
    turn_id: Option<String>,
    #[serde(alias = "working_directory")]
    cwd: Option<PathBuf>,
    tool_name: Option<String>,
    tool_input: Value,
    #[serde(alias = "tool_result")]
    tool_response: Value,
    #[serde(alias = "tool_call_id")]
    tool_use_id: Option<String>,
    duration_ms: Option<f64>,
    is_interrupt: Option<bool>,
    agent_id: Option<String>,
    agent_type: Option<String>,
    tool_calls: Vec<Call>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Call {
    tool_name: Option<String>,
    tool_use_id: Option<String>,
}

pub(super) fn run(whose: Hooked, wanted: &HookOf) -> anyhow::Result<()> {
    let Err(error) = checkpoint(whose, wanted) else {
        return Ok(());
    };
    wipe();
    say(&format!("{error:#}"));
    Ok(())
}

/// Says why there is no checkpoint, to whoever reads the agent's log and to its user.
pub(in crate::cli) fn say(why: &str) {
    let text = format!("gitstead made no checkpoint: {why}");
    let _ = writeln!(io::stderr().lock(), "{text}");
    // What the agent shows to its user.
    let said = json!({ "systemMessage": text }).to_string();
    let _ = writeln!(io::stdout().lock(), "{said}");
}

fn checkpoint(whose: Hooked, wanted: &HookOf) -> anyhow::Result<()> {
    let mut bytes = Vec::new();
    io::stdin()
        .lock()
        .take(MOST)
        .read_to_end(&mut bytes)
        .context("read the event from standard input")?;
    let event: Event = serde_json::from_slice(&bytes).context("the event on standard input is not as expected")?;
    if event.hook_event_name.is_empty() {
        bail!("the event on standard input has no name");
    }
    let Some(kind) = Kind::of(whose, &event) else {
        return Ok(());
    };
    let here = event.cwd.clone().unwrap_or_else(|| PathBuf::from("."));
    // One that a server of ours has started tells of its tools in another way, too, and this is a way to have it wait: what changed nothing is recorded there.
    let started = std::env::var("GITSTEAD_AGENT").ok().filter(|name| !name.is_empty());
    let is_ours = started.is_some();
    let agent = wanted.agent.as_deref().or(started.as_deref()).unwrap_or(match whose {
        Hooked::ClaudeCode => "claude-code",
        Hooked::Codex => "codex",
        Hooked::Letta => "letta",
    });
    let wish = |root: &Path| CheckpointWish {
        agent: Some(agent.to_owned()),
        shadow: wanted.how.shadow,
        skip_unchanged: wanted.how.skip_unchanged || kind != Kind::Tool || is_ours,
        ..describe(whose, &event, kind, root, &here)
    };
    if let Some(root) = served(wanted, &here)
        && let Some(made) = hook_socket::ask(&root, &wish(&root))
    {
        warn(&made.map_err(|why| anyhow::anyhow!(why))?);
        return Ok(());
    }
    let opened = wanted.at.open_from(&here, |options| {
        wanted.how.lay_over(options)?;
        if kind != Kind::Tool || is_ours {
            options.unchanged = Unchanged::Skip;
        }
        Ok(())
    })?;
    let checkpoint = wish(opened.workspace.root()).checkpoint();
    let checkpoint = checkpoint.map_err(|word| anyhow::anyhow!("'{word}' is no outcome"))?;
    let outcome = opened.workspace.checkpoint(checkpoint)?;
    wipe();
    warn(&outcome.warnings);
    warn(&opened.settle());
    Ok(())
}

/// The workspace that a server may have open: unless something is wanted that a server decides for all.
fn served(wanted: &HookOf, here: &Path) -> Option<PathBuf> {
    let how = &wanted.how;
    let is_usual = how.durability.is_none()
        && !how.no_secret_rules
        && how.max_file_bytes.is_none()
        && how.max_files.is_none()
        && how.signing_key.is_none();
    if !is_usual {
        return None;
    }
    hook_socket::root_of(wanted.at.workspace.as_deref().unwrap_or(here))
}

/// What an event is to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A tool has ended: recorded, also when no file changed.
    Tool,
    /// Several tools have ended, each of which may have been told of before.
    Tools,
    /// An agent rests: what changed since is recorded, if anything did.
    Rest,
}

impl Kind {
    fn of(whose: Hooked, event: &Event) -> Option<Self> {
        match event.hook_event_name.as_str() {
            // It tells of a failure by both.
            "PostToolUseFailure" if whose == Hooked::Letta => None,
            "PostToolUse" | "PostToolUseFailure" => Some(Kind::Tool),
            "PostToolBatch" => Some(Kind::Tools),
            "Stop" | "SubagentStop" | "SessionEnd" => Some(Kind::Rest),
            _ => None,
        }
    }
}

fn describe(whose: Hooked, event: &Event, kind: Kind, root: &Path, cwd: &Path) -> CheckpointWish {
    let mut wish = CheckpointWish::default();
    let mut trailer = |key: &str, value: &Option<String>| {
        if let Some(value) = value {
            let (key, value) = (key.to_owned(), value.clone());
            wish.trailers.push(TrailerWish { key, value });
        }
    };
    let (tool, summary) = match kind {
        Kind::Tool => {
            let name = event.tool_name.as_deref().unwrap_or("Tool");
            let said = summary::of_tool(name, &event.tool_input, &event.tool_response, root, cwd);
            trailer("Server", &said.server);
            (said.tool, said.text)
        }
        Kind::Tools => {
            let mut names: Vec<&str> = event
                .tool_calls
                .iter()
                .filter_map(|call| call.tool_name.as_deref())
                .take(CALLS)
                .collect();
            names.dedup();
            ("Batch".to_owned(), names.join(", "))
        }
        Kind::Rest => (event.hook_event_name.clone(), "What was not recorded before".to_owned()),
    };
    trailer("Source", &Some("hook".to_owned()));
    trailer("Turn-Id", &event.turn_id);
    if whose != Hooked::Letta {
        trailer("Subagent", &event.agent_id);
        trailer("Subagent-Type", &event.agent_type);
    }
    if kind == Kind::Tool {
        wish.outcome = outcome_of(whose, event).map(|outcome| outcome.as_str().to_owned());
    }
    if kind == Kind::Tools {
        let calls = event.tool_calls.iter().take(CALLS);
        wish.tool_use_ids
            .extend(calls.filter_map(|call| call.tool_use_id.clone()));
    }
    wish.tool_use_ids.extend(event.tool_use_id.clone());
    wish.session = match whose {
        // Letta's agents are their sessions.
        Hooked::Letta => event.session_id.clone().or(event.agent_id.clone()),
        Hooked::ClaudeCode | Hooked::Codex => event.session_id.clone(),
    };
    let millis = event.duration_ms.filter(|millis| *millis >= 0.0 && *millis < 1e12);
    wish.duration_ms = millis.map(|millis| millis as u64);
    (wish.tool, wish.summary) = (Some(tool), summary);
    wish
}

/// How the tool ended, if the agent says.
fn outcome_of(whose: Hooked, event: &Event) -> Option<ToolOutcome> {
    let is = |key: &str| event.tool_response.get(key) == Some(&Value::Bool(true));
    let has_failed = match whose {
        // It tells only what the tool has written.
        Hooked::Codex => return None,
        Hooked::Letta => event.tool_response.get("status").and_then(Value::as_str) == Some("error"),
        Hooked::ClaudeCode => event.hook_event_name == "PostToolUseFailure" || is("is_error"),
    };
    Some(if event.is_interrupt == Some(true) || is("interrupted") {
        ToolOutcome::Interrupted
    } else if has_failed {
        ToolOutcome::Failed
    } else {
        ToolOutcome::Ok
    })
}
