use serde_json::json;

use super::items::Items;
use crate::dialect::{
    Decision, Dialect, Event, Exit, Gone, Nature, Options, Permission, Refused, Step, TurnOutcome, Usage, UserMessage,
    bounded,
    calls::id,
    json::Json,
    log, may_ask, object_or_log,
    rpc::{Message, Rpc},
    subject, summary,
    turns::Turns,
    watched::says_unknown,
};

/// `codex app-server`: any number of turns in a thread, with permissions.
#[derive(Debug)]
pub(in crate::dialect) struct Server {
    options: Options,
    rpc: Rpc<Asked>,
    items: Items,
    turns: Turns,
    thread: Option<String>,
    /// The open turn as Codex calls it, once it is known.
    turn: Option<String>,
    /// The turn that Codex has begun for the message that was put in last, as it calls it.
    own_turn: Option<String>,
    usage: Usage,
    /// A message that came before the thread.
    held: Option<String>,
    /// Requests that wait for a decision, by their ids as they were written.
    permissions: Vec<String>,
    /// There is no thread, and there will be none.
    broken: bool,
    ended: bool,
}

/// What an answer is about.
#[derive(Debug, Clone, Copy)]
enum Asked {
    Initialize,
    Thread,
    Turn,
    Interrupt,
}

impl Server {
    pub fn new(options: Options) -> Self {
        Server {
            items: Items::new(&options),
            options,
            rpc: Rpc::new(false),
            turns: Turns::default(),
            thread: None,
            turn: None,
            own_turn: None,
            usage: Usage::default(),
            held: None,
            permissions: Vec::new(),
            broken: false,
            ended: false,
        }
    }

    fn answered(&mut self, asked: Asked, result: &Json, out: &mut Step) {
        match asked {
            Asked::Initialize => {
                self.rpc.notify("initialized", json!({}), out);
                self.begin_thread(out);
            }
            Asked::Thread => {
                let Some(thread) = result.path(&["thread", "id"]).some_text() else {
                    return self.failed(asked, &Json::Null, out);
                };
                let is_first = self.thread.replace(id(thread)).is_none();
                out.events.push(Event::Session {
                    id: id(thread),
                    model: result.at("model").some_text().map(id),
                });
                if is_first {
                    out.events.push(Event::Ready);
                }
                if let Some(held) = self.held.take() {
                    self.start_turn(&held, out);
                }
            }
            Asked::Turn => {
                self.own_turn = result.path(&["turn", "id"]).some_text().map(id);
                if self.turns.is_open() && self.own_turn.is_some() {
                    self.turn.clone_from(&self.own_turn);
                    self.turns.is_certain();
                }
            }
            Asked::Interrupt => {}
        }
    }

    fn begin_thread(&mut self, out: &mut Step) {
        let thread = &self.options.thread;
        let mut params = json!({ "cwd": self.options.root.display().to_string() });
        for (key, value) in [
            ("approvalPolicy", &thread.approval_policy),
            ("sandbox", &thread.sandbox),
            ("model", &thread.model),
        ] {
            if let Some(value) = value {
                params[key] = json!(value);
            }
        }
        let method = match &self.options.resume {
            Some(thread) => {
                params["threadId"] = json!(thread);
                "thread/resume"
            }
            None => "thread/start",
        };
        self.rpc.call(Asked::Thread, method, params, out);
    }

    fn failed(&mut self, asked: Asked, error: &Json, out: &mut Step) {
        let text = error
            .at("message")
            .some_text()
            .unwrap_or("the agent has made no thread");
        let text = bounded(text, &self.options);
        match asked {
            Asked::Thread if self.options.resume.is_some() && says_unknown(&text) => {
                let id = self.options.resume.take().unwrap_or_default();
                out.events.push(Event::SessionGone { id, ends: false });
                self.begin_thread(out);
            }
            Asked::Initialize | Asked::Thread => {
                out.events.push(Event::Failed { text: text.clone() });
                (self.held, self.broken) = (None, true);
                self.end_turn(TurnOutcome::Failed, Some(text), out);
            }
            Asked::Turn => self.end_turn(TurnOutcome::Failed, Some(text), out),
            Asked::Interrupt => out.events.push(Event::Trouble { text }),
        }
    }

    fn start_turn(&mut self, message: &str, out: &mut Step) {
        let params = json!({
            "threadId": self.thread,
            "input": [{ "type": "text", "text": message }],
        });
        self.rpc.call(Asked::Turn, "turn/start", params, out);
    }

    fn end_turn(&mut self, outcome: TurnOutcome, text: Option<String>, out: &mut Step) {
        let left = self.items.calls.interrupt(|_| true);
        out.events.extend(left.map(Event::ToolFinished));
        (self.turn, self.own_turn) = (None, None);
        self.turns.end(outcome, text, std::mem::take(&mut self.usage), out);
    }

    fn told(&mut self, method: &str, params: &Json, bytes: &[u8], out: &mut Step) {
        let piece = |thought: bool| Event::Said {
            text: bounded(params.at("delta").str(), &self.options),
            partial: true,
            thought,
            parent: None,
        };
        match method {
            "turn/started" => {
                self.turns.begin(out);
                self.turn = params.path(&["turn", "id"]).some_text().map(id);
            }
            "turn/completed" => {
                let turn = params.at("turn");
                if self.own_turn.is_some() && turn.at("id").text() != self.own_turn.as_deref() {
                    self.turns.is_about(None);
                }
                let outcome = match turn.at("status").str() {
                    "completed" => TurnOutcome::Completed,
                    "interrupted" => TurnOutcome::Interrupted,
                    _ => TurnOutcome::Failed,
                };
                let why = turn.path(&["error", "message"]).some_text();
                let answer = self.items.last.take();
                let text = why.map(|text| bounded(text, &self.options)).or(answer);
                self.end_turn(outcome, text, out);
            }
            "item/started" | "item/updated" => self.items.begun(params.at("item"), out),
            "item/completed" => {
                if !self.items.completed(params.at("item"), out) {
                    out.events.push(log(bytes));
                }
            }
            "item/agentMessage/delta" => out.events.push(piece(false)),
            "item/reasoning/textDelta" | "item/reasoning/summaryTextDelta" => out.events.push(piece(true)),
            "thread/tokenUsage/updated" => {
                let last = params.path(&["tokenUsage", "last"]);
                self.usage = Usage {
                    input_tokens: last.at("inputTokens").count(),
                    cached_tokens: last.at("cachedInputTokens").count(),
                    output_tokens: last.at("outputTokens").count(),
                    ..Usage::default()
                };
            }
            "error" => self.items.trouble(params.path(&["error", "message"]).str(), out),
            "serverRequest/resolved" => {
                let request = match params.at("requestId") {
                    Json::Int(number) => number.to_string(),
                    name => serde_json::Value::from(name.str()).to_string(),
                };
                self.forget(&request, out);
            }
            // Of threads, plans, diffs, accounts and servers: nobody needs it here.
            _ if ["thread/", "turn/", "item/", "account/", "mcpServer/"]
                .iter()
                .any(|known| method.starts_with(known)) => {}
            _ => out.events.push(log(bytes)),
        }
    }

    fn forget(&mut self, request: &str, out: &mut Step) {
        if let Some(at) = self.permissions.iter().position(|waits| waits == request) {
            let request = self.permissions.remove(at);
            out.events.push(Event::PermissionGone {
                request,
                why: Gone::Withdrawn,
            });
        }
    }

    fn asked(&mut self, request: String, method: &str, params: &Json, input: Option<&str>, out: &mut Step) {
        let tool = match method {
            "item/commandExecution/requestApproval" => "Bash",
            "item/fileChange/requestApproval" => "Patch",
            _ => return self.rpc.refuse(&request, out),
        };
        if self.permissions.contains(&request) {
            return self.rpc.reply(&request, &json!({ "decision": "decline" }), out);
        }
        let is_refused = self.permissions.len() >= self.options.bounds.pending;
        let call = params.at("itemId").some_text().map(id);
        let known = call.as_deref().and_then(|call| self.items.calls.get(call)).cloned();
        let summary = match (params.at("command").some_text(), &known) {
            (Some(command), _) => summary::command(command),
            (None, Some(call)) => call.summary.clone(),
            (None, None) => summary::line(params.at("reason").str()),
        };
        let touched = known.map(|call| call.touches).unwrap_or_default();
        let subject = subject::of_approval(tool, input.unwrap_or_default(), touched, &self.options);
        match is_refused {
            true => self.rpc.reply(&request, &json!({ "decision": "decline" }), out),
            false => self.permissions.push(request.clone()),
        }
        out.events.push(Event::Permission(Permission {
            is_refused,
            request,
            call,
            tool: tool.to_owned(),
            name: tool.to_owned(),
            subject,
            summary,
            input: bounded(input.unwrap_or("{}"), &self.options),
            remembers: true,
        }));
    }
}

impl Dialect for Server {
    fn nature(&self) -> Nature {
        Nature::CONVERSING
    }

    fn begin(&mut self, out: &mut Step) {
        let us = json!({ "name": "gitstead", "title": "Gitstead", "version": env!("CARGO_PKG_VERSION") });
        self.rpc
            .call(Asked::Initialize, "initialize", json!({ "clientInfo": us }), out);
    }

    fn line(&mut self, bytes: &[u8], out: &mut Step) {
        let Some(object) = object_or_log(bytes, &self.options, out) else {
            return;
        };
        match self.rpc.read(&object) {
            Message::Notification(method, params) => self.told(method, params, bytes, out),
            Message::Request(request, method, params) => {
                self.asked(request, method, params, object.raw(&["params"]), out);
            }
            Message::Result(asked, result) => self.answered(asked, result, out),
            Message::Error(asked, error) => self.failed(asked, error, out),
            Message::Nothing => out.events.push(log(bytes)),
        }
    }

    fn finished(&mut self, exit: &Exit, out: &mut Step) {
        self.ended = true;
        let gone = self.permissions.drain(..);
        out.events.extend(gone.map(|request| Event::PermissionGone {
            request,
            why: Gone::Ended,
        }));
        let left = self.items.calls.interrupt(|_| true);
        self.turns.end_with(exit, left, out);
    }

    fn ask(&mut self, message: UserMessage<'_>, out: &mut Step) -> Result<(), Refused> {
        may_ask(
            message.text,
            self.ended || self.broken,
            self.turns.is_open(),
            &self.options,
        )?;
        if self.thread.is_some() {
            self.start_turn(message.text, out);
        } else {
            self.held = Some(message.text.to_owned());
        }
        self.turns.begin_for(message, out);
        Ok(())
    }

    fn interrupt(&mut self, out: &mut Step) -> Result<(), Refused> {
        match &self.turn {
            _ if self.ended => Err(Refused::Ended),
            _ if !self.turns.is_open() => Err(Refused::Idle),
            None => Err(Refused::NotReady),
            Some(turn) => {
                let params = json!({ "threadId": self.thread, "turnId": turn });
                self.rpc.call(Asked::Interrupt, "turn/interrupt", params, out);
                for request in std::mem::take(&mut self.permissions) {
                    self.rpc.reply(&request, &json!({ "decision": "cancel" }), out);
                    out.events.push(Event::PermissionGone {
                        request,
                        why: Gone::Interrupted,
                    });
                }
                Ok(())
            }
        }
    }

    fn permit(&mut self, request: &str, decision: Decision, out: &mut Step) {
        let Some(at) = self.permissions.iter().position(|waits| waits == request) else {
            return;
        };
        self.permissions.remove(at);
        let word = match decision {
            Decision::Allow => "accept",
            Decision::AllowAlways => "acceptForSession",
            Decision::Deny { stop: false, .. } => "decline",
            Decision::Deny { stop: true, .. } => "cancel",
        };
        self.rpc.reply(request, &json!({ "decision": word }), out);
    }
}
