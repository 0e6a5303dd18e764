//! Claude Code: `claude -p --input-format stream-json --output-format stream-json --verbose`, JSON lines both ways (measured with 2.1.329).
//!
//! The agent is made to wait by hooks that are answered over the same pipes: they are registered by the `initialize` request and called back for each tool that has ended,
//! before the model hears of it. Where a call ends without its hook (refused before it ran) or no hooks are to be had, the tool's result line tells.

mod control;
mod given;
mod history;
mod result;

pub use history::{ClaudeHistory, HistoryMessage, HistoryPage, HistoryPlace, is_claude_project, is_claude_session};

use serde_json::json;

use super::{
    Change, Decision, Dialect, Event, Exit, Nature, Options, Outcome, Refused, Source, Step, ToolFinished, UserMessage,
    bounded,
    calls::{Call, Calls, Seen, id},
    json::{Json, Object},
    log, may_ask, object_or_log,
    permissions::{Permissions, Requests, success},
    subject,
    summary::summarise,
    take_session,
    turns::{Turns, message},
};
use given::Given;

/// The agent's session as one process knows it.
#[derive(Debug)]
pub(super) struct Claude {
    options: Options,
    calls: Calls,
    turns: Turns,
    /// What it was told and has not answered.
    given: Given,
    /// Lines by their `uuid`.
    lines: Seen,
    session: Option<String>,
    ready: bool,
    ended: bool,
    requests: Requests,
    permissions: Permissions,
    /// Requests of hooks that wait.
    barriers: Vec<String>,
    /// Calls that somebody did not allow.
    denied: Seen,
    /// What was asked to be changed, by the requests that do.
    changes: Vec<(String, Change)>,
}

impl Claude {
    pub fn new(options: Options) -> Self {
        Claude {
            calls: Calls::new(options.bounds.calls),
            permissions: Permissions::new(&options),
            options,
            turns: Turns::default(),
            given: Given::default(),
            lines: Seen::default(),
            session: None,
            ready: false,
            ended: false,
            requests: Requests::default(),
            barriers: Vec::new(),
            denied: Seen::default(),
            changes: Vec::new(),
        }
    }

    fn become_ready(&mut self, out: &mut Step) {
        if !std::mem::replace(&mut self.ready, true) {
            out.events.push(Event::Ready);
        }
    }

    fn take_session(&mut self, line: &Json, out: &mut Step) {
        let model = line.at("model").some_text();
        take_session(&mut self.session, line.at("session_id").some_text(), model, out);
    }

    fn system(&mut self, bytes: &[u8], line: &Json, out: &mut Step) {
        match line.at("subtype").str() {
            "init" => {
                self.become_ready(out);
                self.take_session(line, out);
                // It is repeated at the beginning of every turn.
                self.turns.begin(out);
            }
            "task_started" => {
                if let Some(call) = self.calls.get(line.at("tool_use_id").str()) {
                    call.task = line.at("task_id").some_text().map(id);
                    call.background |= line.at("is_backgrounded").is_true();
                }
            }
            "task_updated" => {
                let task = id(line.at("task_id").str());
                if let Some(call) = self.calls.by_task(&task) {
                    call.background |= line.path(&["patch", "is_backgrounded"]).is_true();
                }
            }
            "task_notification" => self.task_ended(line, out),
            "api_retry" => out.events.push(Event::Trouble {
                text: bounded(
                    line.at("error").some_text().unwrap_or("the model is not to be reached"),
                    &self.options,
                ),
            }),
            "status"
            | "hook_started"
            | "hook_progress"
            | "hook_response"
            | "background_tasks_changed"
            | "session_state_changed"
            | "compact_boundary"
            | "task_progress" => {}
            _ => out.events.push(log(bytes)),
        }
    }

    fn task_ended(&mut self, line: &Json, out: &mut Step) {
        let task = id(line.at("task_id").str());
        let name = match self.calls.by_task(&task) {
            Some(call) => call.id.clone(),
            None => id(line.at("tool_use_id").str()),
        };
        // What the agent waits for is told of by its result.
        if !self.calls.get(&name).is_some_and(|call| call.background) {
            return;
        }
        self.leave_children(&name, out);
        let concurrent = self.calls.beside(&name, None);
        if let Some(call) = self.calls.close(&name, Call::default) {
            let outcome = match line.at("status").str() {
                "failed" => Outcome::Failed,
                "stopped" | "killed" | "cancelled" => Outcome::Interrupted,
                _ => Outcome::Ok,
            };
            out.events.push(Event::ToolFinished(ToolFinished {
                concurrent,
                ..call.finished(outcome, Source::Stream)
            }));
        }
    }

    /// The calls of a subagent that has ended ended no later.
    fn leave_children(&mut self, parent: &str, out: &mut Step) {
        let left = self
            .calls
            .interrupt(|call| call.parent.as_deref() == Some(parent) && !call.background);
        out.events.extend(left.map(Event::ToolFinished));
    }

    fn assistant(&mut self, line: &Json, out: &mut Step) {
        let parent = line.at("parent_tool_use_id").some_text().map(id);
        if parent.is_none() {
            self.turns.begin(out);
        }
        for block in line.path(&["message", "content"]).list() {
            match block.at("type").str() {
                "text" => self.say(block.at("text").str(), false, false, parent.clone(), out),
                "thinking" => self.say(block.at("thinking").str(), false, true, parent.clone(), out),
                "tool_use" => {
                    let name = block.at("name").str();
                    let input = block.at("input");
                    let relative = |path: &str| self.options.relative(path);
                    let about = summarise(name, input, None, &relative);
                    let call = Call {
                        id: id(block.at("id").str()),
                        tool: about.tool,
                        raw_tool: id(name),
                        server: about.server,
                        summary: about.text,
                        input_sha: input.sha(),
                        parent: parent.clone(),
                        background: input.at("run_in_background").is_true(),
                        ..Call::default()
                    };
                    let started = call.started();
                    if self.calls.open(call) {
                        out.events.push(Event::ToolStarted(started));
                    }
                }
                _ => {}
            }
        }
    }

    fn say(&self, text: &str, partial: bool, thought: bool, parent: Option<String>, out: &mut Step) {
        if !text.is_empty() {
            out.events.push(Event::Said {
                text: bounded(text, &self.options),
                partial,
                thought,
                parent,
            });
        }
    }

    fn piece(&mut self, line: &Json, out: &mut Step) {
        let parent = line.at("parent_tool_use_id").some_text().map(id);
        let event = line.at("event");
        match event.at("type").str() {
            "message_start" if parent.is_none() => self.turns.begin(out),
            "content_block_delta" => {
                let delta = event.at("delta");
                match delta.at("type").str() {
                    "text_delta" => self.say(delta.at("text").str(), true, false, parent, out),
                    "thinking_delta" => self.say(delta.at("thinking").str(), true, true, parent, out),
                    // A tool's input comes whole with the message.
                    _ => {}
                }
            }
            _ => {}
        }
    }
}

impl Dialect for Claude {
    fn nature(&self) -> Nature {
        Nature {
            waits: self.options.barrier,
            total_cost: true,
            ..Nature::CONVERSING
        }
    }

    fn begin(&mut self, out: &mut Step) {
        let mut request = json!({ "subtype": "initialize" });
        if self.options.barrier {
            let hook = |name: &str| json!([{ "matcher": null, "hookCallbackIds": [name] }]);
            request["hooks"] = json!({
                "PostToolUse": hook(control::HOOK),
                "PostToolUseFailure": hook(control::HOOK),
                "PostToolBatch": hook(control::HOOK),
            });
        }
        let _ = self.requests.send(request, out);
    }

    fn line(&mut self, bytes: &[u8], out: &mut Step) {
        let Some(object) = object_or_log(bytes, &self.options, out) else {
            return;
        };
        let Object { json: line, .. } = &object;
        if let Some(uuid) = line.at("uuid").some_text()
            && !self.lines.see(uuid)
        {
            return;
        }
        match line.at("type").str() {
            "control_request" => self.asked(&object, out),
            "control_response" => self.answered(line, out),
            "control_cancel_request" => self.withdrawn(line.at("request_id").str(), out),
            "system" => self.system(bytes, line, out),
            "assistant" => self.assistant(line, out),
            "user" => self.results(line, out),
            "stream_event" => self.piece(line, out),
            "result" => self.result(line, out),
            "command_lifecycle" => self.heard(line, out),
            "rate_limit_event" => {
                if line.path(&["rate_limit_info", "status"]).str() == "rejected" {
                    out.events.push(Event::Trouble {
                        text: "the model's rate limit is reached".to_owned(),
                    });
                }
            }
            "keep_alive" | "tool_progress" | "tool_use_summary" | "transcript_mirror" | "conversation_reset" => {}
            _ => out.events.push(log(bytes)),
        }
    }

    fn finished(&mut self, exit: &Exit, out: &mut Step) {
        self.ended = true;
        self.barriers.clear();
        self.given = Given::default();
        self.permissions.drop_all(out);
        let open = self.calls.interrupt(|_| true);
        self.turns.end_with(exit, open, out);
    }

    fn ask(&mut self, asked: UserMessage<'_>, out: &mut Step) -> Result<(), Refused> {
        let is_busy = self.turns.is_open() || self.given.is_full();
        may_ask(asked.text, self.ended, is_busy, &self.options)?;
        out.input.push(message(&json!({
            "type": "user",
            "message": { "role": "user", "content": asked.text },
            "parent_tool_use_id": null,
            "session_id": self.session.as_deref().unwrap_or_default(),
            "uuid": asked.id,
        })));
        self.given.put(asked.id);
        self.turns.begin_for(asked, out);
        Ok(())
    }

    fn interrupt(&mut self, out: &mut Step) -> Result<(), Refused> {
        if self.ended {
            return Err(Refused::Ended);
        }
        if !self.turns.is_open() {
            return Err(Refused::Idle);
        }
        self.requests.send(json!({ "subtype": "interrupt" }), out);
        for call in self.permissions.interrupt(out) {
            self.denied.see(&call);
        }
        Ok(())
    }

    fn change(&mut self, change: Change, out: &mut Step) -> Result<(), Refused> {
        if self.ended {
            return Err(Refused::Ended);
        }
        if !self.ready || self.changes.len() >= self.options.bounds.pending {
            return Err(Refused::NotReady);
        }
        let request = match &change {
            Change::Model(model) => json!({ "subtype": "set_model", "model": model }),
            Change::PermissionMode(mode) => json!({ "subtype": "set_permission_mode", "mode": mode }),
        };
        let request = self.requests.send(request, out);
        self.changes.push((request, change));
        Ok(())
    }

    fn permit(&mut self, request: &str, decision: Decision, out: &mut Step) {
        if let Some(call) = self.permissions.answer(request, decision, out) {
            self.denied.see(&call);
        }
    }

    fn release(&mut self, barrier: &str, out: &mut Step) {
        if let Some(at) = self.barriers.iter().position(|waits| waits == barrier) {
            self.barriers.remove(at);
            out.input.push(success(barrier, "{}"));
        }
    }
}
