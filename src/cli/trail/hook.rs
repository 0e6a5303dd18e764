//! The hooks of agents. An agent is never stopped by us: whatever goes wrong is said, and the exit code is 0 all the same.

use std::{
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, bail};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    args::{HookOf, Hooked},
    place::wipe,
    record::warn,
    summary,
};
use crate::{
    checkpoint::{Checkpoint, ToolOutcome},
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
    let text = format!("gitstead made no checkpoint: {error:#}");
    let _ = writeln!(io::stderr().lock(), "{text}");
    // What the agent shows to its user.
    let said = json!({ "systemMessage": text }).to_string();
    let _ = writeln!(io::stdout().lock(), "{said}");
    Ok(())
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
    let opened = wanted.at.open_from(&here, |options| {
        wanted.how.lay_over(options)?;
        if kind != Kind::Tool {
            options.unchanged = Unchanged::Skip;
        }
        Ok(())
    })?;
    let agent = wanted.agent.as_deref().unwrap_or(match whose {
        Hooked::ClaudeCode => "claude-code",
        Hooked::Codex => "codex",
        Hooked::Letta => "letta",
    });
    let checkpoint = describe(whose, &event, kind, opened.workspace.root(), &here).agent(agent);
    let outcome = opened.workspace.checkpoint(checkpoint)?;
    wipe();
    warn(&outcome.warnings);
    warn(&opened.settle());
    Ok(())
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

fn describe(whose: Hooked, event: &Event, kind: Kind, root: &Path, cwd: &Path) -> Checkpoint {
    let mut checkpoint = match kind {
        Kind::Tool => {
            let name = event.tool_name.as_deref().unwrap_or("Tool");
            let crate::dialect::Summary { tool, text, server } =
                summary::of_tool(name, &event.tool_input, &event.tool_response, root, cwd);
            let mut checkpoint = Checkpoint::after(tool, text);
            if let Some(outcome) = outcome_of(whose, event) {
                checkpoint = checkpoint.outcome(outcome);
            }
            if let Some(server) = server {
                checkpoint = checkpoint.trailer("Server", server);
            }
            checkpoint
        }
        Kind::Tools => {
            let mut names: Vec<&str> = event
                .tool_calls
                .iter()
                .filter_map(|call| call.tool_name.as_deref())
                .take(CALLS)
                .collect();
            names.dedup();
            let mut checkpoint = Checkpoint::after("Batch", names.join(", "));
            for call in event.tool_calls.iter().take(CALLS) {
                if let Some(id) = &call.tool_use_id {
                    checkpoint = checkpoint.tool_use(id);
                }
            }
            checkpoint
        }
        Kind::Rest => Checkpoint::after(&event.hook_event_name, "What was not recorded before"),
    };
    // Letta's agents are their sessions.
    let session = match whose {
        Hooked::Letta => event.session_id.as_ref().or(event.agent_id.as_ref()),
        Hooked::ClaudeCode | Hooked::Codex => event.session_id.as_ref(),
    };
    if let Some(session) = session {
        checkpoint = checkpoint.session(session);
    }
    if let Some(turn) = &event.turn_id {
        checkpoint = checkpoint.trailer("Turn-Id", turn);
    }
    if let Some(id) = &event.tool_use_id {
        checkpoint = checkpoint.tool_use(id);
    }
    if let Some(millis) = event.duration_ms.filter(|millis| *millis >= 0.0 && *millis < 1e12) {
        checkpoint = checkpoint.duration(Duration::from_millis(millis as u64));
    }
    for (key, value) in [("Subagent", &event.agent_id), ("Subagent-Type", &event.agent_type)] {
        if let Some(value) = value
            && whose != Hooked::Letta
        {
            checkpoint = checkpoint.trailer(key, value);
        }
    }
    checkpoint
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
