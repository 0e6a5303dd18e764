//! Parts: what a message of opencode's consists of. The same in both faces.

use std::time::Duration;

use crate::dialect::{
    Options, Outcome, Source, ToolFinished, Usage,
    calls::{Call, id},
    json::Json,
    summary::{self, summarise, tool_name},
};

/// The tool as others call it, so that trails of different agents read alike.
fn known_as(tool: &str) -> Option<&'static str> {
    Some(match tool {
        "bash" => "Bash",
        "write" => "Write",
        "edit" => "Edit",
        "multiedit" => "MultiEdit",
        "patch" | "apply_patch" => "Patch",
        "read" => "Read",
        "list" => "LS",
        "glob" => "Glob",
        "grep" => "Grep",
        "task" => "Task",
        "webfetch" => "WebFetch",
        "websearch" => "WebSearch",
        "todowrite" => "TodoWrite",
        "todoread" => "TodoRead",
        _ => return None,
    })
}

/// A part that is a tool's use.
pub(super) fn call(part: &Json, parent: Option<String>, options: &Options) -> Option<Call> {
    let name = part.at("callID").some_text().map(id)?;
    let raw_tool = part.at("tool").str();
    let state = part.at("state");
    let relative = |path: &str| options.relative(path);
    let tool = known_as(raw_tool).map_or_else(|| tool_name(raw_tool), str::to_owned);
    let path = state.path(&["input", "filePath"]).some_text().map(relative);
    let ended_well = state.at("status").str() == "completed";
    let text = match (tool.as_str(), path, state.at("title").some_text()) {
        ("Write", Some(path), _) if ended_well => {
            let verb = match state.path(&["metadata", "exists"]) {
                Json::Bool(false) => "Created",
                Json::Bool(true) => "Updated",
                _ => "Wrote",
            };
            summary::line(&format!("{verb} {path}"))
        }
        ("Edit" | "MultiEdit", Some(path), _) if ended_well => summary::line(&format!("Updated {path}")),
        (_, _, Some(title)) => summary::line(title),
        _ => summarise(&tool, state.at("input"), None, &relative).text,
    };
    Some(Call {
        id: name,
        tool,
        raw_tool: id(raw_tool),
        summary: text,
        input_sha: state.at("input").sha(),
        parent,
        ..Call::default()
    })
}

/// Whether a part's tool has ended.
pub(super) fn has_ended(part: &Json) -> bool {
    matches!(part.path(&["state", "status"]).str(), "completed" | "error")
}

/// How a tool has ended.
pub(super) fn ended(call: Call, part: &Json, options: &Options) -> ToolFinished {
    let state = part.at("state");
    let exit_code = state
        .path(&["metadata", "exit"])
        .int()
        .and_then(|code| i32::try_from(code).ok());
    let error = state.at("error").str();
    let outcome = match state.at("status").str() {
        // A call that could not be understood becomes a call of this one.
        _ if call.raw_tool == "invalid" => Outcome::NotRun,
        "error" if error.contains("rejected permission") => Outcome::Denied,
        "error" if error.contains("aborted") => Outcome::Interrupted,
        "error" => Outcome::Failed,
        // A command that fails has completed.
        _ if exit_code.is_some_and(|code| code != 0) => Outcome::Failed,
        _ => Outcome::Ok,
    };
    let times = state.at("time");
    let millis = |key: &str| times.at(key).count();
    let path = match call.tool.as_str() {
        "Write" | "Edit" | "MultiEdit" => state.path(&["input", "filePath"]).some_text(),
        _ => None,
    };
    ToolFinished {
        exit_code,
        duration: millis("end")
            .zip(millis("start"))
            .and_then(|(end, start)| end.checked_sub(start))
            .map(Duration::from_millis),
        paths: path
            .map(|path| options.relative(path))
            .filter(|path| !path.starts_with('/'))
            .into_iter()
            .collect(),
        ..call.finished(outcome, Source::Stream)
    }
}

/// Adds what a step has cost.
pub(super) fn add(usage: &mut Usage, part: &Json) {
    fn plus(sum: &mut Option<u64>, more: Option<u64>) {
        if let Some(more) = more {
            *sum = Some(sum.unwrap_or_default().saturating_add(more));
        }
    }
    let tokens = part.at("tokens");
    let cached = tokens.path(&["cache", "read"]).count();
    let input = tokens.at("input").count();
    plus(
        &mut usage.input_tokens,
        input.map(|fresh| fresh.saturating_add(cached.unwrap_or_default())),
    );
    plus(&mut usage.cached_tokens, cached);
    plus(&mut usage.output_tokens, tokens.at("output").count());
    let cost = part.at("cost").float().filter(|cost| (0.0..1e9).contains(cost));
    plus(
        &mut usage.cost_microusd,
        cost.map(|dollars| (dollars * 1e6).round() as u64),
    );
    plus(&mut usage.model_turns, Some(1));
}

/// The words of an error.
pub(super) fn error_text(error: &Json) -> &str {
    let own = error.path(&["data", "message"]).some_text();
    own.or(error.at("message").some_text())
        .or(error.at("name").some_text())
        .unwrap_or("the agent reports an error")
}
