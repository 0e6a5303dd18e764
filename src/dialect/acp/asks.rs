//! What an agent asks of its client: permissions, files, commands.

use serde::Deserialize;
use serde_json::{Value, json};

use super::Acp;
use crate::dialect::{Answer, Decision, Event, Exit, Order, Permission, Step, bounded, calls::id, json::Json};

/// Answers that are offered to one question.
const CHOICES: usize = 16;

/// A permission that waits.
#[derive(Debug)]
pub(super) struct Pending {
    /// The request's id as it was written.
    pub request: String,
    call: Option<String>,
    /// Kind and name of each answer that is offered.
    choices: Vec<(String, String)>,
}

/// An order that was given.
#[derive(Debug)]
pub(super) struct Ordered {
    /// The request's id as it was written.
    request: String,
    what: What,
}

#[derive(Debug, Clone, Copy)]
enum What {
    Read,
    Write,
    Create,
    Output,
    Wait,
    /// Kill or release: nothing is told.
    End,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Write {
    path: String,
    content: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Create {
    command: String,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    env: Vec<Variable>,
    cwd: Option<String>,
    output_byte_limit: Option<u64>,
}

#[derive(Deserialize)]
struct Variable {
    name: String,
    value: String,
}

impl Acp {
    /// A request of the agent's; `raw` are its parameters as they were written.
    pub(super) fn asked(&mut self, request: String, method: &str, params: &Json, raw: &str, out: &mut Step) {
        let waits = |have: &str| have == request;
        let is_known =
            self.permissions.iter().any(|p| waits(&p.request)) || self.orders.iter().any(|o| waits(&o.request));
        if is_known {
            return;
        }
        if method == "session/request_permission" {
            return self.may_it(request, params, raw, out);
        }
        let offered = match method.split('/').next() {
            Some("fs") => self.options.offers_files,
            Some("terminal") => self.options.offers_terminals,
            _ => false,
        };
        if !offered {
            return self.rpc.refuse(&request, out);
        }
        if self.orders.len() >= self.options.bounds.pending {
            return self.rpc.fail(&request, "too many requests wait for an answer", out);
        }
        let terminal = || params.at("terminalId").some_text().map(id);
        let name = request.clone();
        let order = match method {
            "fs/read_text_file" => params.at("path").some_text().map(|path| {
                let order = Order::ReadFile {
                    id: name,
                    path: path.to_owned(),
                    line: params.at("line").count(),
                    limit: params.at("limit").count(),
                };
                (What::Read, order)
            }),
            // Whole, however long: what is kept of other lines may be cut.
            "fs/write_text_file" => serde_json::from_str(raw).ok().map(|Write { path, content }| {
                let order = Order::WriteFile {
                    id: name,
                    path,
                    content,
                };
                (What::Write, order)
            }),
            "terminal/create" => serde_json::from_str(raw).ok().map(|asked: Create| {
                let order = Order::TerminalCreate {
                    id: name,
                    command: asked.command,
                    args: asked.args,
                    env: asked.env.into_iter().map(|v| (v.name, v.value)).collect(),
                    cwd: asked.cwd,
                    output_bytes: asked.output_byte_limit,
                };
                (What::Create, order)
            }),
            "terminal/output" => {
                terminal().map(|terminal| (What::Output, Order::TerminalOutput { id: name, terminal }))
            }
            "terminal/wait_for_exit" => {
                terminal().map(|terminal| (What::Wait, Order::TerminalWait { id: name, terminal }))
            }
            "terminal/kill" => terminal().map(|terminal| (What::End, Order::TerminalKill { id: name, terminal })),
            "terminal/release" => terminal().map(|terminal| (What::End, Order::TerminalRelease { id: name, terminal })),
            _ => return self.rpc.refuse(&request, out),
        };
        match order {
            Some((what, order)) => {
                self.orders.push(Ordered { request, what });
                out.orders.push(order);
            }
            None => self.rpc.fail(&request, "the parameters are not as expected", out),
        }
    }

    /// An order was carried out, or was not.
    pub(super) fn carried_out(&mut self, order: &str, answer: Answer, out: &mut Step) {
        let Some(at) = self.orders.iter().position(|given| given.request == order) else {
            return;
        };
        let Ordered { request, what } = self.orders.remove(at);
        let result = match (what, answer) {
            (What::Read, Answer::Text(text)) => json!({ "content": text }),
            (What::Create, Answer::Terminal(name)) => json!({ "terminalId": name }),
            (What::Output, Answer::Output { text, truncated, exit }) => json!({
                "output": text, "truncated": truncated, "exitStatus": exit.map(|exit| status(&exit)),
            }),
            (What::Wait, Answer::Exited(exit)) => status(&exit),
            (What::Write | What::End, Answer::Done) => Value::Null,
            (_, Answer::Failed(why)) => return self.rpc.fail(&request, &why, out),
            _ => return self.rpc.fail(&request, "it was not done", out),
        };
        self.rpc.reply(&request, &result, out);
    }

    fn may_it(&mut self, request: String, params: &Json, raw: &str, out: &mut Step) {
        let asked = params.at("toolCall");
        self.flush(out);
        // It may be told of here first, and more of it than before.
        self.tool(asked, out);
        let choices: Vec<(String, String)> = params
            .at("options")
            .list()
            .iter()
            .take(CHOICES)
            .map(|choice| (id(choice.at("kind").str()), choice.at("optionId").str().to_owned()))
            .collect();
        if self.permissions.len() >= self.options.bounds.pending
            || params.at("sessionId").text() != self.session.as_deref()
        {
            return self.cancel(&request, out);
        }
        let call = asked.at("toolCallId").some_text().map(id);
        let known = call.as_deref().and_then(|call| self.calls.get(call));
        let (tool, summary) = match known {
            Some(call) => (call.tool.clone(), call.summary.clone()),
            None => ("Tool".to_owned(), String::new()),
        };
        let remembers = choices.iter().any(|(kind, _)| kind == "allow_always");
        self.permissions.push(Pending {
            request: request.clone(),
            call: call.clone(),
            choices,
        });
        out.events.push(Event::Permission(Permission {
            request,
            call,
            tool,
            summary,
            input: bounded(raw, &self.options),
            remembers,
        }));
    }

    /// Somebody has decided.
    pub(super) fn decide(&mut self, request: &str, decision: Decision, out: &mut Step) {
        let Some(at) = self.permissions.iter().position(|waits| waits.request == request) else {
            return;
        };
        let waits = self.permissions.remove(at);
        let (kinds, stop) = match decision {
            Decision::Allow => (["allow_once", "allow_always"], false),
            Decision::AllowAlways => (["allow_always", "allow_once"], false),
            Decision::Deny { stop, .. } => (["reject_once", "reject_always"], stop),
        };
        let denies = kinds[0].starts_with("reject");
        if denies && let Some(call) = waits.call.as_deref().and_then(|call| self.calls.get(call)) {
            call.denied = true;
        }
        let choice = kinds
            .iter()
            .find_map(|kind| waits.choices.iter().find(|(have, _)| have == kind));
        match choice {
            Some((_, choice)) => {
                let outcome = json!({ "outcome": { "outcome": "selected", "optionId": choice } });
                self.rpc.reply(request, &outcome, out);
            }
            None => self.cancel(request, out),
        }
        if stop {
            // It has nothing to interrupt if the turn has ended meanwhile.
            let _ = crate::dialect::Dialect::interrupt(self, out);
        }
    }

    /// Answers a question with none of its answers.
    pub(super) fn cancel(&self, request: &str, out: &mut Step) {
        self.rpc
            .reply(request, &json!({ "outcome": { "outcome": "cancelled" } }), out);
    }
}

fn status(exit: &Exit) -> Value {
    json!({ "exitCode": exit.code, "signal": exit.signal.map(|signal| signal.to_string()) })
}
