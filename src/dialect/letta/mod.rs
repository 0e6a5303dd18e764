//! Letta Code: `letta -p --output-format stream-json`, one turn for each process, and the same with `--input-format stream-json`, any number (measured with 0.25.9).
//!
//! It does not say when a tool has ended: that is told by what comes after it (the next run, or the result), or by a server that returns what tools answered. Where a
//! checkpoint is wanted before it goes on, its own hooks call `gitstead hook letta`.

mod calls;

use serde_json::json;

use super::{
    Decision, Dialect, Event, Exit, Gone, Nature, Options, Permission, Refused, Step, TurnOutcome, Usage, UserMessage,
    bounded,
    calls::{Calls, id},
    json::{Json, Object},
    log, may_ask, not_spoken, object_or_log,
    permissions::{Permissions, Requests, Waiting, deny, failure, success},
    subject,
    summary::summarise,
    take_session,
    turns::{Turns, message},
};
use calls::Pieces;

/// The agent's conversation as one process knows it.
#[derive(Debug)]
pub(super) struct Letta {
    options: Options,
    /// It reads turns on standard input.
    asks: bool,
    calls: Calls,
    pieces: Pieces,
    turns: Turns,
    /// Its own name of the message that it has in its queue.
    item: Option<String>,
    session: Option<String>,
    /// The run that messages came of last.
    run: Option<String>,
    permissions: Permissions,
    usage: Usage,
    last: Option<String>,
    requests: Requests,
    ready: bool,
    ended: bool,
}

impl Letta {
    pub fn new(options: Options, asks: bool) -> Self {
        Letta {
            asks,
            calls: Calls::new(options.bounds.calls),
            pieces: Pieces::new(&options),
            permissions: Permissions::new(&options),
            options,
            turns: Turns::default(),
            item: None,
            session: None,
            run: None,
            usage: Usage::default(),
            last: None,
            requests: Requests::default(),
            ready: false,
            ended: false,
        }
    }

    fn become_ready(&mut self, out: &mut Step) {
        if !std::mem::replace(&mut self.ready, true) {
            out.events.push(Event::Ready);
        }
    }

    fn init(&mut self, line: &Json, out: &mut Step) {
        self.become_ready(out);
        // Its session is the agent, who may have many conversations; the default one has no name of its own.
        let conversation = line.at("conversation_id").some_text().filter(|name| *name != "default");
        let session = conversation.or(line.at("agent_id").some_text());
        take_session(&mut self.session, session, line.at("model").some_text(), out);
    }

    fn asked(&mut self, object: &Object<'_>, out: &mut Step) {
        let line = &object.json;
        let request = line.at("request_id").str().to_owned();
        if request.is_empty() || request.len() > 256 || self.permissions.has(&request) {
            return;
        }
        let asked = line.at("request");
        if asked.at("subtype").str() != "can_use_tool" {
            out.input.push(failure(&request, "not supported by this client"));
            return;
        }
        let (tool, input) = (asked.at("tool_name").str(), asked.at("input"));
        let call = asked.at("tool_call_id").some_text().map(id);
        if let Some(call) = &call {
            self.know(call, tool, input, out);
        }
        let suggestions = object
            .raw(&["request", "permission_suggestions"])
            .filter(|_| !asked.at("permission_suggestions").list().is_empty());
        let relative = |path: &str| self.options.relative(path);
        let about = summarise(tool, input, None, &relative);
        let raw = object.raw(&["request", "input"]).unwrap_or("{}");
        let mut shown = Permission {
            request: request.clone(),
            call: call.clone(),
            tool: about.tool,
            name: id(tool),
            subject: subject::of_tool(tool, raw, &self.options),
            summary: about.text,
            input: bounded(raw, &self.options),
            is_refused: false,
            remembers: suggestions.is_some(),
        };
        let waiting = Waiting {
            request: request.clone(),
            call,
            // As it was.
            input: "null".to_owned(),
            suggestions: suggestions.map(str::to_owned),
        };
        if !self.permissions.hold(waiting) {
            let answer = deny("too many questions wait for an answer", false);
            out.input.push(success(&request, &answer));
            shown.is_refused = true;
        }
        out.events.push(Event::Permission(shown));
    }

    fn answered(&mut self, line: &Json, out: &mut Step) {
        let response = line.at("response");
        if response.at("request_id").str() == "gitstead-1" {
            self.become_ready(out);
        } else if response.at("subtype").str() == "error" {
            out.events.push(Event::Trouble {
                text: bounded(response.at("error").str(), &self.options),
            });
        }
    }

    /// It has taken a message into its queue. Over its pipes Letta Code (0.25.9) keeps nothing of a message but its content, and makes a name of its own out of that of the queue's item: then it is the one that was put in last.
    fn enqueued(&mut self, line: &Json) {
        let item = line.at("item_id").str();
        let told = line.at("client_message_id").some_text();
        let told = told.filter(|told| told.strip_prefix("cm-") != Some(item));
        let is_ours = match (told, self.turns.message()) {
            (Some(told), Some(message)) => told == message.id,
            (None, Some(_)) => self.item.is_none() && line.at("source").str() == "user",
            (_, None) => false,
        };
        if is_ours {
            self.item = line.at("item_id").some_text().map(id);
            if told.is_some() {
                self.turns.is_certain();
            }
        }
    }

    /// It has thrown away what was in its queue.
    fn dequeued_unread(&mut self, line: &Json, out: &mut Step) {
        let gone = line.at("item_id").some_text();
        let is_ours = self.item.is_some() && gone.is_none_or(|gone| self.item.as_deref() == Some(gone));
        if is_ours {
            self.item = None;
            let why = line.at("reason").some_text().unwrap_or("no reason is told");
            let text = bounded(&format!("the agent has dropped the message: {why}"), &self.options);
            self.turns
                .end(TurnOutcome::Interrupted, Some(text), Usage::default(), out);
        }
    }

    /// A message of the model's or of a tool's; `whole` if it is not a piece of one.
    fn said(&mut self, told: &Json, whole: bool, bytes: &[u8], out: &mut Step) {
        if let Some(run) = told.at("run_id").some_text()
            && self.run.as_deref() != Some(run)
        {
            let run = id(run);
            self.earlier_runs_ended(&run, out);
            self.run = Some(run);
        }
        match told.at("message_type").str() {
            "assistant_message" => {
                self.turns.begin(out);
                match told.at("content") {
                    Json::List(parts) => {
                        for part in parts {
                            self.say(part.at("text").str(), false, whole, out);
                        }
                    }
                    text => self.say(text.str(), false, whole, out),
                }
            }
            "reasoning_message" => self.say(told.at("reasoning").str(), true, whole, out),
            "approval_request_message" | "tool_call_message" => {
                self.turns.begin(out);
                self.called(told.at("tool_call"), out);
                for call in told.at("tool_calls").list() {
                    self.called(call, out);
                }
            }
            "tool_return_message" => {
                self.returned(told, out);
                for one in told.at("tool_returns").list() {
                    self.returned(one, out);
                }
            }
            "usage_statistics" => self.take_usage(told),
            "stop_reason"
            | "approval_response_message"
            | "user_message"
            | "system_message"
            | "ping"
            | "hidden_reasoning_message"
            | "event_message"
            | "summary_message" => {}
            _ => out.events.push(log(bytes)),
        }
    }

    fn say(&mut self, text: &str, thought: bool, whole: bool, out: &mut Step) {
        if text.is_empty() {
            return;
        }
        let text = bounded(text, &self.options);
        if whole && !thought {
            self.last = Some(text.clone());
        }
        out.events.push(Event::Said {
            text,
            partial: !whole,
            thought,
            parent: None,
        });
    }

    fn take_usage(&mut self, told: &Json) {
        fn plus(sum: &mut Option<u64>, more: Option<u64>) {
            if let Some(more) = more {
                *sum = Some(sum.unwrap_or_default().saturating_add(more));
            }
        }
        plus(&mut self.usage.input_tokens, told.at("prompt_tokens").count());
        plus(&mut self.usage.output_tokens, told.at("completion_tokens").count());
        plus(&mut self.usage.cached_tokens, told.at("cached_input_tokens").count());
    }

    fn result(&mut self, line: &Json, out: &mut Step) {
        self.turns.begin(out);
        let outcome = match line.at("subtype").str() {
            "interrupted" => TurnOutcome::Interrupted,
            "error" => TurnOutcome::Failed,
            _ if line.at("is_error").is_true() => TurnOutcome::Failed,
            _ if line.at("stop_reason").str() == "max_steps" => TurnOutcome::Limit,
            _ => TurnOutcome::Completed,
        };
        self.turn_ended(outcome == TurnOutcome::Completed, out);
        let mut usage = std::mem::take(&mut self.usage);
        if line.at("usage").at("prompt_tokens").count().is_some() {
            let told = line.at("usage");
            usage.input_tokens = told.at("prompt_tokens").count();
            usage.output_tokens = told.at("completion_tokens").count();
        }
        usage.model_turns = line.at("num_turns").count();
        usage.duration = line.at("duration_ms").count().map(std::time::Duration::from_millis);
        let text = line.at("result").some_text().map(|text| bounded(text, &self.options));
        let why = line.at("stop_reason").some_text().map(id);
        let text = text
            .or(self.last.take())
            .or(why.filter(|_| outcome != TurnOutcome::Completed));
        (self.last, self.run) = (None, None);
        self.turns.end(outcome, text, usage, out);
    }
}

impl Dialect for Letta {
    fn nature(&self) -> Nature {
        if self.asks {
            Nature::CONVERSING
        } else {
            Nature::ONE_QUESTION
        }
    }

    fn begin(&mut self, out: &mut Step) {
        if self.asks {
            self.requests.send(json!({ "subtype": "initialize" }), out);
        } else {
            out.close_input = true;
            self.become_ready(out);
            self.turns.begin(out);
        }
    }

    fn line(&mut self, bytes: &[u8], out: &mut Step) {
        // Hooks write to the same output, in colours.
        let Some(object) = object_or_log(bytes, &self.options, out) else {
            return;
        };
        let line = &object.json;
        match line.at("type").str() {
            "system" if line.at("subtype").str() == "init" => self.init(line, out),
            "control_request" => self.asked(&object, out),
            "control_response" => self.answered(line, out),
            "control_cancel_request" => {
                if let Some(gone) = self.permissions.take(line.at("request_id").str()) {
                    out.events.push(Event::PermissionGone {
                        request: gone.request,
                        why: Gone::Withdrawn,
                    });
                }
            }
            "message" => self.said(line, true, bytes, out),
            "stream_event" => self.said(line.at("event"), false, bytes, out),
            "auto_approval" => self.approved(line.at("tool_call"), out),
            "result" => self.result(line, out),
            "queue_item_enqueued" => self.enqueued(line),
            "queue_batch_dequeued" => {
                self.item = None;
                self.turns.begin(out);
            }
            "queue_item_dropped" | "queue_cleared" => self.dequeued_unread(line, out),
            "queue_blocked" => out.events.push(Event::Trouble {
                text: bounded(
                    &format!("the message waits in the agent's queue: {}", line.at("reason").str()),
                    &self.options,
                ),
            }),
            "retry" => {
                let attempt = line.at("attempt").int().unwrap_or_default();
                let reason = line
                    .at("reason")
                    .some_text()
                    .unwrap_or("the model is not to be reached");
                out.events.push(Event::Trouble {
                    text: bounded(&format!("{reason} (attempt {attempt})"), &self.options),
                });
            }
            "recovery" => out.events.push(Event::Trouble {
                text: format!("recovers: {}", id(line.at("recovery_type").str())),
            }),
            "error" => out.events.push(Event::Failed {
                text: bounded(line.at("message").str(), &self.options),
            }),
            "approval_requested" | "approval_received" => {}
            _ => out.events.push(log(bytes)),
        }
    }

    fn finished(&mut self, exit: &Exit, out: &mut Step) {
        self.ended = true;
        self.permissions.drop_all(out);
        let left = self.calls.interrupt(|_| true);
        self.turns.end_with(exit, left, out);
    }

    fn ask(&mut self, asked: UserMessage<'_>, out: &mut Step) -> Result<(), Refused> {
        if !self.asks {
            return not_spoken(self.ended);
        }
        may_ask(asked.text, self.ended, self.turns.is_open(), &self.options)?;
        out.input.push(message(&json!({
            "type": "user", "message": { "role": "user", "content": asked.text }, "client_message_id": asked.id,
        })));
        self.item = None;
        self.turns.begin_for(asked, out);
        Ok(())
    }

    fn interrupt(&mut self, out: &mut Step) -> Result<(), Refused> {
        match () {
            () if self.ended => return Err(Refused::Ended),
            () if !self.asks => return Err(Refused::NotSpoken),
            () if !self.turns.is_open() => return Err(Refused::Idle),
            () => {}
        }
        self.requests.send(json!({ "subtype": "interrupt" }), out);
        for call in self.permissions.interrupt(out) {
            if let Some(call) = self.calls.get(&call) {
                call.denied = true;
            }
        }
        Ok(())
    }

    fn permit(&mut self, request: &str, decision: Decision, out: &mut Step) {
        if let Some(call) = self.permissions.answer(request, decision, out)
            && let Some(call) = self.calls.get(&call)
        {
            call.denied = true;
        }
    }
}
