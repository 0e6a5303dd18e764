//! What Claude tells about ends: of a tool, of a turn.

use std::time::Duration;

use super::{Call, Claude, Event, Json, Options, Outcome, Source, Step, ToolFinished, bounded, id, summarise};
use crate::dialect::{TurnOutcome, Usage};

/// Paths that one tool names.
const HINTS: usize = 256;
/// How the answer begins to a call that was refused before it ran: no such tool, wrong input, nothing to replace.
const REFUSED: &str = "<tool_use_error>";

/// Whether the tool goes on while the agent does something else.
pub(super) fn is_background(response: &Json) -> bool {
    response.at("backgroundTaskId").some_text().is_some() || response.at("isAsync").is_true()
}

/// Of `Exit code 3`, as a failed command is told of.
pub(super) fn exit_code(text: &str) -> Option<i32> {
    let rest = text
        .strip_prefix("Error: ")
        .unwrap_or(text)
        .strip_prefix("Exit code ")?;
    let digits = rest.split(|c: char| !c.is_ascii_digit() && c != '-').next()?;
    digits.parse().ok()
}

/// The files that a tool says it has changed.
pub(super) fn hints(tool: &str, input: &Json, response: &Json, options: &Options) -> Vec<String> {
    let changed = response.path(&["bashEditDiff", "changedFiles"]).list();
    let named = match tool {
        "Write" | "Edit" | "MultiEdit" | "NotebookEdit" => [
            response.at("filePath"),
            input.at("file_path"),
            input.at("notebook_path"),
        ]
        .into_iter()
        .find(|path| path.some_text().is_some()),
        _ => None,
    };
    let mut paths: Vec<String> = named
        .into_iter()
        .chain(changed)
        .filter_map(Json::some_text)
        .map(|path| options.relative(path))
        // Outside of the workspace it is nobody's business.
        .filter(|path| !path.starts_with('/'))
        .take(HINTS)
        .collect();
    paths.dedup();
    paths
}

/// All texts of a tool's answer, which is one or a list of blocks.
fn answer_text(content: &Json) -> &str {
    match content {
        Json::List(blocks) => blocks
            .iter()
            .find_map(|block| block.at("text").some_text())
            .unwrap_or_default(),
        content => content.str(),
    }
}

impl Claude {
    /// Lines of the user: our own, and what tools answered.
    pub(super) fn results(&mut self, line: &Json, out: &mut Step) {
        let parent = line.at("parent_tool_use_id").some_text().map(id);
        let blocks = line.path(&["message", "content"]).list();
        let results: Vec<&Json> = blocks
            .iter()
            .filter(|block| block.at("type").str() == "tool_result")
            .collect();
        for block in &results {
            let name = id(block.at("tool_use_id").str());
            if name.is_empty() {
                continue;
            }
            let meta = line
                .at("tool_result_meta")
                .list()
                .iter()
                .find(|meta| meta.at("id").str() == name);
            let kind = meta.map_or("", |meta| meta.at("non_execution_kind").str());
            // It is about the line's only result, or about nobody knows which.
            let response = match results.len() {
                1 => line.at("tool_use_result"),
                _ => &Json::Null,
            };
            self.tool_result(name, parent.clone(), block, response, kind, out);
        }
    }

    fn tool_result(
        &mut self,
        name: String,
        parent: Option<String>,
        block: &Json,
        response: &Json,
        kind: &str,
        out: &mut Step,
    ) {
        let text = answer_text(block.at("content"));
        // Some tools do not say that nothing is wrong, and some say it.
        let is_error = block.at("is_error").is_true();
        let outcome = match kind {
            _ if self.denied.has(&name) => Outcome::Denied,
            "permission-rule" => Outcome::Denied,
            // Also said of one that was stopped while it ran.
            "user-rejected" => Outcome::Interrupted,
            _ if response.at("interrupted").is_true() => Outcome::Interrupted,
            _ if is_error && text.starts_with(REFUSED) => Outcome::NotRun,
            _ if is_error => Outcome::Failed,
            _ if is_background(response) => Outcome::BackgroundStarted,
            _ => Outcome::Ok,
        };
        let (exit_code, call) = (exit_code(text).filter(|_| is_error), self.calls.get(&name));
        let (raw_tool, input_path, parent) = match call {
            Some(call) => (
                call.raw_tool.clone(),
                call.summary.clone(),
                call.parent.clone().or(parent),
            ),
            None => (String::new(), String::new(), parent),
        };
        // The line does not repeat what the tool was given.
        let input = match response.at("filePath") {
            Json::Null => Json::Null,
            path => Json::Map(vec![("file_path".to_owned(), path.clone())]),
        };
        let relative = |path: &str| self.options.relative(path);
        let mut about = summarise(&raw_tool, &input, Some(response), &relative);
        if input.is_null() {
            about.text = match raw_tool.as_str() {
                "Write" if outcome == Outcome::Ok => format!("Wrote {input_path}"),
                "Edit" | "MultiEdit" | "NotebookEdit" if outcome == Outcome::Ok => format!("Updated {input_path}"),
                "Read" | "NotebookRead" | "LS" => format!("Read {input_path}"),
                _ => input_path,
            };
        }
        let found = ToolFinished {
            exit_code,
            paths: hints(&raw_tool, &input, response, &self.options),
            parent,
            ..Call {
                id: name,
                tool: about.tool,
                raw_tool,
                server: about.server,
                summary: about.text,
                background: outcome == Outcome::BackgroundStarted,
                ..Call::default()
            }
            .finished(outcome, Source::Stream)
        };
        self.tool_ended(found, response, out);
    }

    /// Tells of an end, unless it was told. What goes on in the background stays open. Whether it was told now.
    pub(super) fn tool_ended(&mut self, mut found: ToolFinished, response: &Json, out: &mut Step) -> bool {
        let name = found.call.clone();
        if found.outcome == Outcome::BackgroundStarted {
            let task = [response.at("backgroundTaskId"), response.at("agentId")];
            let Some(call) = self.calls.get(&name) else {
                // Its beginning was not told, or its end was: a short one ends before its start is.
                if self.calls.is_done(&name) {
                    return false;
                }
                out.events.push(Event::ToolFinished(found));
                return true;
            };
            call.background = true;
            call.task = call.task.take().or(task.into_iter().find_map(Json::some_text).map(id));
            if std::mem::replace(&mut call.told, true) {
                return false;
            }
        } else {
            if self.calls.get(&name).is_some_and(|call| call.told) {
                return false;
            }
            if !self.calls.is_done(&name) {
                self.leave_children(&name, out);
            }
            let Some(call) = self.calls.close(&name, Call::default) else {
                return false;
            };
            if !call.tool.is_empty() {
                (found.tool, found.server) = (call.tool, call.server);
                found.background = false;
                if found.raw_tool.is_empty() {
                    found.raw_tool = call.raw_tool;
                }
                if found.summary.is_empty() {
                    found.summary = call.summary;
                }
            }
        }
        found.concurrent = self.calls.beside(&name, found.parent.as_deref());
        out.events.push(Event::ToolFinished(found));
        true
    }

    /// The end of a turn, which is not the end of the run.
    pub(super) fn result(&mut self, line: &Json, out: &mut Step) {
        self.take_session(line, out);
        self.turns.begin(out);
        // What a turn has begun ends with it, but for what was sent to the background.
        let background: Vec<String> = self
            .calls
            .iter()
            .filter(|call| call.background)
            .map(|call| call.id.clone())
            .collect();
        let goes_on =
            |call: &Call| call.background || call.parent.as_ref().is_some_and(|parent| background.contains(parent));
        let left = self.calls.interrupt(|call| !goes_on(call));
        out.events.extend(left.map(Event::ToolFinished));
        let subtype = line.at("subtype").str();
        let reason = line.at("terminal_reason").str();
        let outcome = match () {
            () if reason.starts_with("aborted") => TurnOutcome::Interrupted,
            () if matches!(subtype, "error_max_turns" | "error_max_budget_usd") => TurnOutcome::Limit,
            // `success` is said of failures, too.
            () if line.at("is_error").is_true() || subtype.starts_with("error") => TurnOutcome::Failed,
            () => TurnOutcome::Completed,
        };
        let errors = || {
            let errors: Vec<&str> = line
                .at("errors")
                .list()
                .iter()
                .filter_map(Json::some_text)
                .take(8)
                .collect();
            (!errors.is_empty()).then(|| errors.join("; "))
        };
        let text = match line.at("result").text() {
            Some(text) => Some(bounded(text, &self.options)),
            None => errors().map(|text| bounded(&text, &self.options)),
        };
        self.settle_message();
        self.turns.end(outcome, text, usage(line), out);
    }
}

fn usage(line: &Json) -> Usage {
    let of = |key: &str| line.path(&["usage", key]).count();
    let cached = of("cache_read_input_tokens");
    let created = of("cache_creation_input_tokens").unwrap_or_default();
    let cost = line
        .at("total_cost_usd")
        .float()
        .filter(|cost| (0.0..1e9).contains(cost));
    Usage {
        input_tokens: of("input_tokens")
            .map(|fresh| fresh.saturating_add(cached.unwrap_or_default()).saturating_add(created)),
        cached_tokens: cached,
        output_tokens: of("output_tokens"),
        cost_microusd: cost.map(|dollars| (dollars * 1e6).round() as u64),
        model_turns: line.at("num_turns").count(),
        duration: line.at("duration_ms").count().map(Duration::from_millis),
    }
}
