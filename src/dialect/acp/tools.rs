//! Tool calls, of which each update tells only what has changed.

use super::Acp;
use crate::dialect::{
    Event, Outcome, Source, Step, ToolFinished,
    calls::{Call, id},
    json::Json,
    summary,
};

/// Files that one call names.
const HINTS: usize = 256;

impl Acp {
    /// A call, or what has changed about one.
    pub(super) fn tool(&mut self, told: &Json, out: &mut Step) {
        let Some(name) = told.at("toolCallId").some_text().map(id) else {
            return;
        };
        let status = told.at("status").str();
        let has_ended = matches!(status, "completed" | "failed");
        if self.calls.is_done(&name) {
            if has_ended && self.through.forget_call(&name) {
                // What went through us was told of; what else it has done has no other end.
                out.events.push(Event::Settled {
                    calls: vec![name],
                    barrier: None,
                });
            }
            return;
        }
        if self.calls.get(&name).is_none() {
            let mut call = Call {
                id: name.clone(),
                tool: "Tool".to_owned(),
                ..Call::default()
            };
            self.update(&mut call, told);
            // Some agents tell what it is only when it runs.
            let is_bare = told.at("status").str() == "pending" && told.at("rawInput") == &Json::Map(Vec::new());
            call.told = !is_bare;
            let started = call.started();
            if self.calls.open(call) && !is_bare {
                out.events.push(Event::ToolStarted(started));
            }
        } else if let Some(mut call) = self.calls.get(&name).cloned() {
            self.update(&mut call, told);
            if !std::mem::replace(&mut call.told, true) {
                out.events.push(Event::ToolStarted(call.started()));
            }
            if let Some(known) = self.calls.get(&name) {
                *known = call;
            }
        }
        if !has_ended {
            return;
        }
        let concurrent = self.calls.beside(&name, None);
        let unknown = || Call {
            id: name.clone(),
            tool: "Tool".to_owned(),
            ..Call::default()
        };
        let Some(mut call) = self.calls.close(&name, unknown) else {
            return;
        };
        let exit_code = told
            .path(&["rawOutput", "metadata", "exit"])
            .int()
            .or(told.path(&["rawOutput", "exitCode"]).int())
            .or(told.path(&["rawOutput", "exit_code"]).int())
            .and_then(|code| i32::try_from(code).ok());
        let outcome = match status {
            _ if call.denied => Outcome::Denied,
            "failed" if self.cancelled => Outcome::Interrupted,
            "failed" => Outcome::Failed,
            // Some agents call a command that fails completed.
            _ if exit_code.is_some_and(|code| code != 0) => Outcome::Failed,
            _ => Outcome::Ok,
        };
        if outcome != Outcome::Ok {
            call.after = None;
        }
        out.events.push(Event::ToolFinished(ToolFinished {
            exit_code,
            concurrent,
            ..call.finished(outcome, Source::Stream)
        }));
    }

    fn update(&self, call: &mut Call, told: &Json) {
        let own_name = told.at("name").some_text();
        let kind = told.at("kind").some_text();
        if let Some(name) = own_name {
            (call.tool, call.raw_tool) = (summary::tool_name(name), id(name));
        } else if let Some(kind) = kind
            && (call.raw_tool.is_empty() || call.tool == "Tool")
        {
            (call.tool, call.raw_tool) = (known_as(kind).to_owned(), id(kind));
        }
        call.input_sha = told.at("rawInput").sha().or(call.input_sha.take());
        if let Some(title) = told.at("title").some_text() {
            call.summary = summary::line(title.trim_matches('`'));
        }
        let terminal = told.at("content").list().iter().rev().find_map(|part| {
            let is_one = part.at("type").str() == "terminal";
            part.at("terminalId").some_text().filter(|_| is_one)
        });
        if let Some(terminal) = terminal {
            call.task = Some(id(terminal));
        }
        let changes = matches!(call.tool.as_str(), "Edit" | "Delete" | "Move") || kind == Some("edit");
        let diffs: Vec<&Json> = told
            .at("content")
            .list()
            .iter()
            .filter(|part| part.at("type").str() == "diff")
            .collect();
        let located = told.at("locations").list().iter().filter(|_| changes);
        for part in diffs.iter().copied().chain(located) {
            let path = self.options.relative(part.at("path").str());
            let is_ours = !path.is_empty() && !path.starts_with('/');
            if is_ours && call.paths.len() < HINTS && !call.paths.contains(&path) {
                call.paths.push(path);
            }
        }
        if let [diff] = diffs.as_slice() {
            let verb = if diff.at("oldText").is_null() {
                "Created"
            } else {
                "Updated"
            };
            let path = self.options.relative(diff.at("path").str());
            call.after = Some(summary::line(&format!("{verb} {path}")));
        }
    }
}

/// What a kind of call is called in a checkpoint.
fn known_as(kind: &str) -> &'static str {
    match kind {
        "read" => "Read",
        "edit" => "Edit",
        "delete" => "Delete",
        "move" => "Move",
        "search" => "Search",
        "execute" => "Bash",
        "think" => "Think",
        "fetch" => "Fetch",
        "switch_mode" => "Mode",
        _ => "Tool",
    }
}
