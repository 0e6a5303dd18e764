//! The Agent Client Protocol, version 1, from the client's side: JSON-RPC 2.0 over lines. One dialect for every agent that speaks it (opencode, Gemini CLI, Goose, and by
//! adapters Claude Code and Codex).
//!
//! An agent may read and write files and run commands through its client. Where that is offered it becomes an [`Order`](super::Order). What was written, or has ended, is told
//! as a finished tool, and the answer waits until there is a checkpoint: the agent waits for it.

mod asks;
mod through;
mod tools;

use serde_json::{Value, json};

use super::{
    Answer, Change, Decision, Dialect, Event, Exit, Gone, Joined, JoinedBy, Nature, Options, Refused, Step,
    TurnOutcome, Usage, UserMessage, bounded,
    calls::{Calls, id},
    json::{self, Json},
    log, may_ask, object_or_log,
    rpc::{Message, Rpc},
    turns::Turns,
    watched::says_unknown,
};
use asks::Pending;
use through::Through;

/// Ways to log in that are told of.
const METHODS: usize = 16;

/// One session with one agent.
#[derive(Debug)]
pub(super) struct Acp {
    options: Options,
    rpc: Rpc<Asked>,
    calls: Calls,
    turns: Turns,
    session: Option<String>,
    /// What was said before is being told again.
    is_replayed: bool,
    held: Option<String>,
    permissions: Vec<Pending>,
    /// What it does through us.
    through: Through,
    /// What it says, which comes in pieces only.
    speech: String,
    thought: String,
    last: Option<String>,
    /// Somebody has interrupted the open turn.
    cancelled: bool,
    /// A mode that it was asked to be in.
    mode: Option<String>,
    /// How one can log in, as the agent names it.
    methods: Vec<String>,
    /// There is no session, and there will be none.
    broken: bool,
    ended: bool,
}

/// What the protocol answers to somebody who has to log in first.
const AUTHENTICATE: i64 = -32_000;
/// What the protocol answers for something that is not there.
const NOT_FOUND: i64 = -32_002;

/// What an answer is about.
#[derive(Debug, Clone, Copy)]
enum Asked {
    Initialize,
    Authenticate,
    NewSession,
    LoadSession,
    Prompt,
    Mode,
}

impl Acp {
    pub fn new(options: Options) -> Self {
        Acp {
            calls: Calls::new(options.bounds.calls),
            options,
            rpc: Rpc::new(true),
            turns: Turns::default(),
            session: None,
            is_replayed: false,
            held: None,
            permissions: Vec::new(),
            through: Through::default(),
            speech: String::new(),
            thought: String::new(),
            last: None,
            cancelled: false,
            mode: None,
            methods: Vec::new(),
            broken: false,
            ended: false,
        }
    }

    fn answered(&mut self, asked: Asked, result: &Json, out: &mut Step) {
        match asked {
            Asked::Initialize => {
                let methods = result.at("authMethods").list().iter().take(METHODS);
                self.methods = methods.filter_map(|one| one.at("id").some_text().map(id)).collect();
                if !result.path(&["agentCapabilities", "loadSession"]).is_true() && self.options.resume.take().is_some()
                {
                    out.events.push(Event::Trouble {
                        text: "the agent cannot go on with an earlier session: a new one is begun".to_owned(),
                    });
                }
                self.begin_session(out);
            }
            Asked::Authenticate => self.begin_session(out),
            Asked::Mode => {
                let mode = self.mode.take();
                out.events
                    .extend(mode.map(|mode| Event::Changed(Change::PermissionMode(mode))));
            }
            Asked::NewSession => match result.at("sessionId").some_text() {
                Some(session) => {
                    self.session = Some(id(session));
                    self.become_ready(result, out);
                }
                None => self.cannot("the agent has made no session", out),
            },
            Asked::LoadSession => {
                self.is_replayed = false;
                self.become_ready(result, out);
            }
            Asked::Prompt => {
                let (outcome, why) = match result.at("stopReason").str() {
                    "end_turn" => (TurnOutcome::Completed, None),
                    "cancelled" => (TurnOutcome::Interrupted, None),
                    "refusal" => (TurnOutcome::Failed, Some("the model refuses")),
                    "max_tokens" => (TurnOutcome::Limit, Some("the model's limit of tokens is reached")),
                    "max_turn_requests" => (TurnOutcome::Limit, Some("the limit of requests is reached")),
                    _ => (TurnOutcome::Completed, None),
                };
                self.end_turn(outcome, why.map(str::to_owned), out);
            }
        }
    }

    /// Goes on with the session that is to be gone on with, or begins a new one.
    fn begin_session(&mut self, out: &mut Step) {
        let mut params = json!({ "cwd": self.options.root.display().to_string(), "mcpServers": [] });
        match self.options.resume.clone() {
            Some(session) => {
                params["sessionId"] = json!(session);
                self.is_replayed = true;
                self.session = Some(id(&session));
                self.rpc.call(Asked::LoadSession, "session/load", params, out);
            }
            None => self.rpc.call(Asked::NewSession, "session/new", params, out),
        }
    }

    fn become_ready(&mut self, result: &Json, out: &mut Step) {
        out.events.push(Event::Session {
            id: self.session.clone().unwrap_or_default(),
            model: result.path(&["models", "currentModelId"]).some_text().map(id),
        });
        out.events.push(Event::Ready);
        if let Some(held) = self.held.take() {
            self.prompt(&held, out);
        }
    }

    fn cannot(&mut self, why: &str, out: &mut Step) {
        let text = bounded(why, &self.options);
        (self.held, self.session, self.is_replayed, self.broken) = (None, None, false, true);
        out.events.push(Event::Failed { text: text.clone() });
        self.end_turn(TurnOutcome::Failed, Some(text), out);
    }

    fn failed(&mut self, asked: Asked, error: &Json, out: &mut Step) {
        let text = error.at("message").some_text().unwrap_or("the agent reports an error");
        match asked {
            Asked::NewSession | Asked::LoadSession if error.at("code").int() == Some(AUTHENTICATE) => {
                // Once: who is refused afterwards is not helped by that.
                match self.options.thread.auth_method.take() {
                    Some(method) => {
                        let params = json!({ "methodId": method });
                        self.rpc.call(Asked::Authenticate, "authenticate", params, out);
                    }
                    None if self.methods.is_empty() => self.cannot(text, out),
                    None => {
                        let text = format!("{text} (one of these as auth_method: {})", self.methods.join(", "));
                        self.cannot(&text, out);
                    }
                }
            }
            Asked::LoadSession if error.at("code").int() == Some(NOT_FOUND) || says_unknown(text) => {
                (self.is_replayed, self.session) = (false, None);
                if let Some(id) = self.options.resume.take() {
                    out.events.push(Event::SessionGone { id, ends: false });
                }
                self.begin_session(out);
            }
            Asked::Initialize | Asked::Authenticate | Asked::NewSession | Asked::LoadSession => self.cannot(text, out),
            Asked::Mode => {
                self.mode = None;
                let text = bounded(text, &self.options);
                out.events.push(Event::Trouble { text });
            }
            Asked::Prompt => {
                let text = bounded(text, &self.options);
                self.end_turn(TurnOutcome::Failed, Some(text), out);
            }
        }
    }

    fn prompt(&mut self, message: &str, out: &mut Step) {
        let params = json!({
            "sessionId": self.session,
            "prompt": [{ "type": "text", "text": message }],
        });
        self.rpc.call(Asked::Prompt, "session/prompt", params, out);
    }

    fn end_turn(&mut self, outcome: TurnOutcome, why: Option<String>, out: &mut Step) {
        self.flush(out);
        self.cancelled = false;
        self.through.forget_calls();
        let left = self.calls.interrupt(|_| true);
        out.events.extend(left.map(Event::ToolFinished));
        let answer = self.last.take();
        self.turns.end(outcome, why.or(answer), Usage::default(), out);
    }

    /// What was said in pieces, whole: something else comes now.
    fn flush(&mut self, out: &mut Step) {
        for (text, thought) in [(&mut self.thought, true), (&mut self.speech, false)] {
            let text = std::mem::take(text);
            if text.is_empty() {
                continue;
            }
            if !thought {
                self.last = Some(text.clone());
            }
            out.events.push(Event::Said {
                text,
                partial: false,
                thought,
                parent: None,
            });
        }
    }

    fn chunk(&mut self, text: &str, thought: bool, out: &mut Step) {
        if text.is_empty() {
            return;
        }
        // The other one has come to its end.
        if (thought && !self.speech.is_empty()) || (!thought && !self.thought.is_empty()) {
            self.flush(out);
        }
        let whole = if thought { &mut self.thought } else { &mut self.speech };
        let room = self.options.bounds.text_bytes.saturating_sub(whole.len());
        whole.push_str(json::head(text, room));
        out.events.push(Event::Said {
            text: bounded(text, &self.options),
            partial: true,
            thought,
            parent: None,
        });
    }

    fn told(&mut self, method: &str, params: &Json, bytes: &[u8], out: &mut Step) {
        if method != "session/update" {
            // Cancellations of requests of its own: they are answered all the same.
            if !method.starts_with("$/") {
                out.events.push(log(bytes));
            }
            return;
        }
        let is_ours = params.at("sessionId").text() == self.session.as_deref();
        if self.is_replayed || !is_ours {
            return;
        }
        let update = params.at("update");
        let text = update.path(&["content", "text"]).str();
        match update.at("sessionUpdate").str() {
            "agent_message_chunk" => self.chunk(text, false, out),
            "agent_thought_chunk" => self.chunk(text, true, out),
            "tool_call" | "tool_call_update" => {
                self.flush(out);
                self.tool(update, out);
            }
            "user_message_chunk"
            | "plan"
            | "available_commands_update"
            | "current_mode_update"
            | "config_option_update"
            | "session_info_update"
            | "usage_update" => {}
            _ => out.events.push(log(bytes)),
        }
    }
}

impl Dialect for Acp {
    fn nature(&self) -> Nature {
        let offers = self.options.offers_files || self.options.offers_terminals;
        Nature {
            waits: offers && self.options.barrier,
            ..Nature::CONVERSING
        }
    }

    fn begin(&mut self, out: &mut Step) {
        let files = self.options.offers_files;
        let params: Value = json!({
            "protocolVersion": 1,
            "clientCapabilities": {
                "fs": { "readTextFile": files, "writeTextFile": files },
                "terminal": self.options.offers_terminals,
            },
            "clientInfo": { "name": "gitstead", "title": "Gitstead", "version": env!("CARGO_PKG_VERSION") },
        });
        self.rpc.call(Asked::Initialize, "initialize", params, out);
    }

    fn line(&mut self, bytes: &[u8], out: &mut Step) {
        let Some(object) = object_or_log(bytes, &self.options, out) else {
            return;
        };
        match self.rpc.read(&object) {
            Message::Notification(method, params) => self.told(method, params, bytes, out),
            Message::Request(request, method, params) => {
                let raw = object.raw(&["params"]).unwrap_or("{}");
                self.asked(request, method, params, raw, out);
            }
            Message::Result(asked, result) => self.answered(asked, result, out),
            Message::Error(asked, error) => self.failed(asked, error, out),
            Message::Nothing => out.events.push(log(bytes)),
        }
    }

    fn finished(&mut self, exit: &Exit, out: &mut Step) {
        self.ended = true;
        self.through = Through::default();
        let gone = self.permissions.drain(..);
        out.events.extend(gone.map(|waits| Event::PermissionGone {
            request: waits.request,
            why: Gone::Ended,
        }));
        self.flush(out);
        let left = self.calls.interrupt(|_| true);
        self.turns.end_with(exit, left, out);
    }

    fn ask(&mut self, message: UserMessage<'_>, out: &mut Step) -> Result<(), Refused> {
        may_ask(
            message.text,
            self.ended || self.broken,
            self.turns.is_open(),
            &self.options,
        )?;
        if self.session.is_some() && !self.is_replayed {
            self.prompt(message.text, out);
        } else {
            self.held = Some(message.text.to_owned());
        }
        // The turn ends with the answer to the request that has the message.
        let joined = Joined {
            id: message.id.to_owned(),
            by: JoinedBy::Id,
        };
        self.turns.begin_about(Some(joined), out);
        Ok(())
    }

    fn interrupt(&mut self, out: &mut Step) -> Result<(), Refused> {
        match &self.session {
            _ if self.ended => Err(Refused::Ended),
            _ if !self.turns.is_open() => Err(Refused::Idle),
            None => Err(Refused::NotReady),
            Some(_) if self.held.is_some() => Err(Refused::NotReady),
            Some(session) => {
                let params = json!({ "sessionId": session });
                self.rpc.notify("session/cancel", params, out);
                self.cancelled = true;
                // The protocol wants them answered so.
                for waits in std::mem::take(&mut self.permissions) {
                    self.cancel(&waits.request, out);
                    out.events.push(Event::PermissionGone {
                        request: waits.request,
                        why: Gone::Interrupted,
                    });
                }
                Ok(())
            }
        }
    }

    fn change(&mut self, change: Change, out: &mut Step) -> Result<(), Refused> {
        match change {
            _ if self.ended => Err(Refused::Ended),
            Change::PermissionMode(_) if self.session.is_none() || self.is_replayed || self.mode.is_some() => {
                Err(Refused::NotReady)
            }
            Change::PermissionMode(mode) => {
                let params = json!({ "sessionId": self.session, "modeId": mode });
                self.rpc.call(Asked::Mode, "session/set_mode", params, out);
                self.mode = Some(mode);
                Ok(())
            }
            Change::Model(_) => Err(Refused::NotSpoken),
        }
    }

    fn permit(&mut self, request: &str, decision: Decision, out: &mut Step) {
        self.decide(request, decision, out);
    }

    fn release(&mut self, barrier: &str, out: &mut Step) {
        self.let_go(barrier, out);
    }

    fn answer(&mut self, order: &str, answer: Answer, out: &mut Step) {
        self.carried_out(order, answer, out);
    }
}
