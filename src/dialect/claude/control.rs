//! What Claude asks of us and waits for: hooks and permissions.

use super::{
    Call, Claude, Event, Json, Object, Outcome, Source, Step, ToolFinished, bounded, id,
    result::{exit_code, hints, is_background},
    subject, summarise,
};
use crate::dialect::{
    Gone, Permission,
    permissions::{Waiting, deny, failure, success},
};

/// The name of our hooks: which of them is called its event says.
pub(super) const HOOK: &str = "gitstead";

impl Claude {
    /// A request of the agent's.
    pub(super) fn asked(&mut self, object: &Object<'_>, out: &mut Step) {
        let line = &object.json;
        // It is repeated in the answer, so it is taken as it is, and one that is too long to be anybody's is not answered.
        let request = line.at("request_id").str().to_owned();
        if request.is_empty() || request.len() > 256 {
            return;
        }
        let asked = line.at("request");
        match asked.at("subtype").str() {
            "hook_callback" => self.hook(request, asked, out),
            "can_use_tool" if self.permissions.has(&request) => {}
            "can_use_tool" => self.may_it(request, object, out),
            _ => out.input.push(failure(&request, "not supported by this client")),
        }
    }

    /// An answer to a request of ours.
    pub(super) fn answered(&mut self, line: &Json, out: &mut Step) {
        let response = line.at("response");
        let is_error = response.at("subtype").str() == "error";
        let is_it = |(request, _): &(String, _)| request == response.at("request_id").str();
        if let Some(at) = self.changes.iter().position(is_it) {
            let (_, change) = self.changes.remove(at);
            if !is_error {
                out.events.push(Event::Changed(change));
            }
        }
        if response.at("request_id").str() == "gitstead-1" {
            let no_hooks = response.path(&["response", "hooks_applied"]) == &Json::Bool(false);
            if self.options.barrier && (is_error || no_hooks) {
                self.options.barrier = false;
                out.events.push(Event::Trouble {
                    text: "the agent takes no hooks: it will not wait for checkpoints".to_owned(),
                });
            }
            self.become_ready(out);
        } else if is_error {
            out.events.push(Event::Trouble {
                text: bounded(response.at("error").str(), &self.options),
            });
        }
    }

    /// A request is not waited for any more, and must not be answered.
    pub(super) fn withdrawn(&mut self, request: &str, out: &mut Step) {
        self.barriers.retain(|waits| waits != request);
        if let Some(gone) = self.permissions.take(request) {
            out.events.push(Event::PermissionGone {
                request: gone.request,
                why: Gone::Withdrawn,
            });
        }
    }

    fn may_it(&mut self, request: String, object: &Object<'_>, out: &mut Step) {
        let asked = object.json.at("request");
        let input = object.raw(&["request", "input"]).unwrap_or("{}");
        let suggestions = object
            .raw(&["request", "permission_suggestions"])
            .filter(|_| !asked.at("permission_suggestions").list().is_empty());
        let relative = |path: &str| self.options.relative(path);
        let name = asked.at("tool_name").str();
        let about = summarise(name, asked.at("input"), None, &relative);
        let call = asked.at("tool_use_id").some_text().map(id);
        let waiting = Waiting {
            request: request.clone(),
            call: call.clone(),
            input: input.to_owned(),
            suggestions: suggestions.map(str::to_owned),
        };
        let mut shown = Permission {
            request: request.clone(),
            call,
            tool: about.tool,
            name: id(name),
            subject: subject::of_tool(name, input, &self.options),
            summary: about.text,
            input: bounded(input, &self.options),
            is_refused: false,
            remembers: suggestions.is_some(),
        };
        if !self.permissions.hold(waiting) {
            let answer = deny("too many questions wait for an answer", false);
            out.input.push(success(&request, &answer));
            shown.is_refused = true;
        }
        out.events.push(Event::Permission(shown));
    }

    fn hook(&mut self, request: String, asked: &Json, out: &mut Step) {
        let input = asked.at("input");
        let barrier = if asked.at("callback_id").str() == HOOK && self.barriers.len() < self.options.bounds.pending {
            self.barriers.push(request.clone());
            Some(request)
        } else {
            // Not ours, or too many at a time: it shall not wait.
            out.input.push(success(&request, "{}"));
            None
        };
        match input.at("hook_event_name").str() {
            "PostToolUse" | "PostToolUseFailure" => self.hook_of_tool(barrier, asked, out),
            "PostToolBatch" => out.events.push(Event::Settled {
                calls: input
                    .at("tool_calls")
                    .list()
                    .iter()
                    .filter_map(|call| call.at("tool_use_id").some_text().map(id))
                    .collect(),
                barrier,
            }),
            _ => {
                if let Some(barrier) = barrier {
                    super::Dialect::release(self, &barrier, out);
                }
            }
        }
    }

    fn hook_of_tool(&mut self, barrier: Option<String>, asked: &Json, out: &mut Step) {
        let input = asked.at("input");
        let name = input.at("tool_use_id").some_text().or(asked.at("tool_use_id").text());
        let name = id(name.unwrap_or_default());
        let raw_tool = input.at("tool_name").str();
        let response = input.at("tool_response");
        let parent = input.at("agent_id").some_text().and_then(|agent| {
            let call = self.calls.by_task(&id(agent))?;
            Some(call.id.clone())
        });
        let known = self
            .calls
            .get(&name)
            .map(|call| (call.raw_tool.clone(), call.parent.clone()));
        let (own_name, parent) = match known {
            Some((own_name, own_parent)) => (own_name, own_parent.or(parent)),
            None => (id(raw_tool), parent),
        };
        let relative = |path: &str| self.options.relative(path);
        let about = summarise(&own_name, input.at("tool_input"), Some(response), &relative);
        let error = input.at("error").some_text();
        let outcome = match () {
            () if input.at("is_interrupt").is_true() || response.at("interrupted").is_true() => Outcome::Interrupted,
            () if input.at("hook_event_name").str() == "PostToolUseFailure" => Outcome::Failed,
            () if is_background(response) => Outcome::BackgroundStarted,
            () => Outcome::Ok,
        };
        let found = ToolFinished {
            exit_code: error.and_then(exit_code),
            duration: millis(input.at("duration_ms")),
            paths: hints(&own_name, input.at("tool_input"), response, &self.options),
            barrier: barrier.clone(),
            parent,
            ..Call {
                id: name.clone(),
                tool: about.tool,
                // Some tools have another name in hooks.
                raw_tool: id(raw_tool),
                server: about.server,
                summary: about.text,
                background: outcome == Outcome::BackgroundStarted,
                ..Call::default()
            }
            .finished(
                outcome,
                if barrier.is_some() {
                    Source::Barrier
                } else {
                    Source::Stream
                },
            )
        };
        if !self.tool_ended(found, response, out)
            && let Some(barrier) = barrier
        {
            // It was told of before; the files may have changed since.
            out.events.push(Event::Settled {
                calls: vec![name],
                barrier: Some(barrier),
            });
        }
    }
}

fn millis(value: &Json) -> Option<std::time::Duration> {
    let millis = value.float().filter(|millis| (0.0..1e12).contains(millis))?;
    Some(std::time::Duration::from_millis(millis as u64))
}
