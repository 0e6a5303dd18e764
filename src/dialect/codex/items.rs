//! Items: what a turn consists of. Both faces of Codex tell of the same ones, in two spellings.

use std::time::Duration;

use crate::dialect::{
    Event, Options, Outcome, Source, Step, ToolFinished, bounded,
    calls::{Call, Calls, id},
    json::Json,
    summary::{self, summarise},
};

/// Files that a change names.
const HINTS: usize = 256;

/// The items of one process, by their ids; those begin anew with each process.
#[derive(Debug)]
pub(super) struct Items {
    pub calls: Calls,
    options: Options,
    /// The last trouble: it is repeated for as long as it lasts.
    trouble: String,
    /// What was said last: a turn's answer.
    pub last: Option<String>,
}

impl Items {
    pub fn new(options: &Options) -> Self {
        Items {
            calls: Calls::new(options.bounds.calls),
            options: options.clone(),
            trouble: String::new(),
            last: None,
        }
    }

    /// Something is in the way. Said once for as long as it says the same.
    pub fn trouble(&mut self, text: &str, out: &mut Step) {
        let text = bounded(text, &self.options);
        if !text.is_empty() && self.trouble != text {
            self.trouble.clone_from(&text);
            out.events.push(Event::Trouble { text });
        }
    }

    /// An item has begun, or has changed.
    pub fn begun(&mut self, item: &Json, out: &mut Step) {
        if let Some(call) = self.call(item, false) {
            let started = call.started();
            if self.calls.open(call) {
                out.events.push(Event::ToolStarted(started));
            }
        }
    }

    /// An item is complete. Whether it is one that we know.
    pub fn completed(&mut self, item: &Json, out: &mut Step) -> bool {
        let text = |text: &str, thought: bool, out: &mut Step| {
            if !text.is_empty() {
                out.events.push(Event::Said {
                    text: bounded(text, &self.options),
                    partial: false,
                    thought,
                    parent: None,
                });
            }
        };
        match item.at("type").str() {
            "agent_message" | "agentMessage" => {
                text(item.at("text").str(), false, out);
                self.last = item.at("text").some_text().map(|text| bounded(text, &self.options));
            }
            "reasoning" => match item.at("text").some_text() {
                Some(thought) => text(thought, true, out),
                None => {
                    for part in item.at("summary").list() {
                        text(part.str(), true, out);
                    }
                }
            },
            // A warning, mostly.
            "error" => self.trouble(item.at("message").str(), out),
            "todo_list" | "plan" | "userMessage" | "contextCompaction" => {}
            _ => match self.call(item, true) {
                Some(call) => self.ended(call, item, out),
                None => return false,
            },
        }
        true
    }

    fn ended(&mut self, told: Call, item: &Json, out: &mut Step) {
        let concurrent = self.calls.beside(&told.id, None);
        let Some(_) = self.calls.close(&told.id, Call::default) else {
            return;
        };
        let exit_code = item.at("exit_code").int().or(item.at("exitCode").int());
        let exit_code = exit_code.and_then(|code| i32::try_from(code).ok());
        let error = item.at("error");
        let outcome = match item.at("status").str() {
            "declined" => Outcome::Denied,
            "failed" => Outcome::Failed,
            "in_progress" | "inProgress" => Outcome::Interrupted,
            _ if exit_code.is_some_and(|code| code != 0) || !error.is_null() => Outcome::Failed,
            _ => Outcome::Ok,
        };
        let mut paths: Vec<String> = Vec::new();
        for change in item.at("changes").list().iter().take(HINTS) {
            let path = self.options.relative(change.at("path").str());
            if !path.starts_with('/') && !path.is_empty() {
                paths.push(path);
            }
        }
        out.events.push(Event::ToolFinished(ToolFinished {
            exit_code,
            paths,
            concurrent,
            duration: item.at("durationMs").count().map(Duration::from_millis),
            ..told.finished(outcome, Source::Stream)
        }));
    }

    /// An item that is a tool's use.
    fn call(&self, item: &Json, has_ended: bool) -> Option<Call> {
        let name = item.at("id").some_text().map(id)?;
        let raw_tool = item.at("type").str();
        let (tool, text, server) = match raw_tool {
            "command_execution" | "commandExecution" => {
                ("Bash".to_owned(), summary::command(item.at("command").str()), None)
            }
            "file_change" | "fileChange" => ("Patch".to_owned(), self.changes(item.at("changes").list()), None),
            "mcp_tool_call" | "mcpToolCall" => {
                let own_name = format!("mcp__{}__{}", item.at("server").str(), item.at("tool").str());
                let made = summarise(
                    &own_name,
                    item.at("arguments"),
                    has_ended.then_some(&Json::Null),
                    &str::to_owned,
                );
                (made.tool, made.text, made.server)
            }
            "web_search" | "webSearch" => ("WebSearch".to_owned(), summary::line(item.at("query").str()), None),
            _ => return None,
        };
        Some(Call {
            id: name,
            tool,
            raw_tool: id(raw_tool),
            server,
            summary: text,
            input_sha: ["command", "arguments", "changes", "query"]
                .iter()
                .find_map(|key| item.at(key).sha()),
            touches: touched(item.at("changes").list()),
            ..Call::default()
        })
    }

    fn changes(&self, changes: &[Json]) -> String {
        summary::changes(changes.iter().map(|change| {
            let kind = change.at("kind");
            let what = match kind.some_text().unwrap_or(kind.at("type").str()) {
                "add" => "add",
                "delete" => "delete",
                _ if kind.at("move_path").some_text().is_some() => "move",
                _ => "update",
            };
            (what, self.options.relative(change.at("path").str()))
        }))
    }
}

/// All files that changes are about, also those that they move.
fn touched(changes: &[Json]) -> Vec<String> {
    if changes.len() > HINTS {
        return Vec::new();
    }
    let moved = |change: &Json| change.path(&["kind", "move_path"]).some_text().map(str::to_owned);
    let of_one = |change: &Json| [Some(change.at("path").str().to_owned()), moved(change)];
    changes.iter().flat_map(of_one).flatten().collect()
}
