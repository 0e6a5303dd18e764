//! What an agent asks of its client: permissions, files, commands.

use serde::Deserialize;
use serde_json::json;

use super::{
    Acp,
    through::{Ordered, What},
};
use crate::dialect::{Decision, Event, Order, Permission, Step, bounded, calls::id, json::Json, subject};

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
            self.permissions.iter().any(|p| waits(&p.request)) || self.through.orders.iter().any(|o| waits(&o.request));
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
        if self.through.orders.len() >= self.options.bounds.pending {
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
            "terminal/create" if !self.through.has_room(self.options.bounds.terminals) => {
                return self.rpc.fail(&request, "too many terminals: release some", out);
            }
            "terminal/create" => serde_json::from_str(raw).ok().map(|asked: Create| {
                let words = std::iter::once(asked.command.as_str()).chain(asked.args.iter().map(String::as_str));
                let typed: Vec<&str> = words.take(64).collect();
                let what = What::Create {
                    command: typed.join(" "),
                };
                let most = self.options.bounds.terminal_bytes;
                let kept = asked.output_byte_limit.and_then(|asked| usize::try_from(asked).ok());
                let order = Order::TerminalCreate {
                    id: name,
                    command: asked.command,
                    args: asked.args,
                    env: asked.env.into_iter().map(|v| (v.name, v.value)).collect(),
                    cwd: asked.cwd,
                    output_bytes: kept.map_or(most, |kept| kept.min(most)),
                };
                (what, order)
            }),
            "terminal/output" => terminal().map(|terminal| {
                let what = What::Output(terminal.clone());
                (what, Order::TerminalOutput { id: name, terminal })
            }),
            "terminal/wait_for_exit" => terminal().map(|terminal| {
                let what = What::Wait(terminal.clone());
                (what, Order::TerminalWait { id: name, terminal })
            }),
            "terminal/kill" => terminal().map(|terminal| {
                let what = What::Kill(terminal.clone());
                (what, Order::TerminalKill { id: name, terminal })
            }),
            "terminal/release" => terminal().map(|terminal| {
                let what = What::Release(terminal.clone());
                (what, Order::TerminalRelease { id: name, terminal })
            }),
            _ => return self.rpc.refuse(&request, out),
        };
        match order {
            Some((what, order)) => {
                self.through.orders.push(Ordered::new(request, what));
                out.orders.push(order);
            }
            None => self.rpc.fail(&request, "the parameters are not as expected", out),
        }
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
        if params.at("sessionId").text() != self.session.as_deref() {
            return self.cancel(&request, out);
        }
        let is_refused = self.permissions.len() >= self.options.bounds.pending;
        let call = asked.at("toolCallId").some_text().map(id);
        let known = call.as_deref().and_then(|call| self.calls.get(call));
        let (tool, summary) = match known {
            Some(call) => (call.tool.clone(), call.summary.clone()),
            None => ("Tool".to_owned(), String::new()),
        };
        let remembers = choices.iter().any(|(kind, _)| kind == "allow_always");
        match is_refused {
            true => self.cancel(&request, out),
            false => self.permissions.push(Pending {
                request: request.clone(),
                call: call.clone(),
                choices,
            }),
        }
        out.events.push(Event::Permission(Permission {
            is_refused,
            request,
            call,
            name: tool.clone(),
            subject: subject::of_request(&tool, raw, &self.options),
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
