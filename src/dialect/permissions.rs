//! Requests over the pipes of an agent, as Claude Code and Letta make them, and what is answered.

use super::{
    Decision, Event, Gone, Options, Step,
    turns::{ended, message, quoted},
};

/// Permissions that wait for somebody's decision.
#[derive(Debug)]
pub(super) struct Permissions {
    waiting: Vec<Waiting>,
    most: usize,
    /// Bytes of inputs that may be held for all of them.
    bytes: usize,
}

/// One of them.
#[derive(Debug)]
pub(super) struct Waiting {
    pub request: String,
    pub call: Option<String>,
    /// What the tool was given, as it was written: it goes back with the answer.
    pub input: String,
    /// What would be remembered, as it was written.
    pub suggestions: Option<String>,
}

impl Waiting {
    fn bytes(&self) -> usize {
        self.input.len() + self.suggestions.as_ref().map_or(0, String::len)
    }
}

impl Permissions {
    pub fn new(options: &Options) -> Self {
        Permissions {
            waiting: Vec::new(),
            most: options.bounds.pending,
            bytes: options.bounds.line_bytes,
        }
    }

    /// Whether there was room for it.
    pub fn hold(&mut self, waiting: Waiting) -> bool {
        let held: usize = self.waiting.iter().map(Waiting::bytes).sum();
        let fits = self.waiting.len() < self.most && held + waiting.bytes() <= self.bytes;
        if fits {
            self.waiting.push(waiting);
        }
        fits
    }

    /// Whether it waits.
    pub fn has(&self, request: &str) -> bool {
        self.waiting.iter().any(|waits| waits.request == request)
    }

    /// It is not waited for any more.
    pub fn take(&mut self, request: &str) -> Option<Waiting> {
        let at = self.waiting.iter().position(|waits| waits.request == request)?;
        Some(self.waiting.remove(at))
    }

    /// Answers one; the call that was denied by it, if one was.
    pub fn answer(&mut self, request: &str, decision: Decision, out: &mut Step) -> Option<String> {
        let waiting = self.take(request)?;
        // What is not repeated is taken away from the tool.
        let (answer, denied) = match decision {
            Decision::Allow => (
                format!(r#"{{"behavior":"allow","updatedInput":{}}}"#, waiting.input),
                None,
            ),
            Decision::AllowAlways => {
                let lasting = waiting.suggestions.map_or_else(String::new, |suggestions| {
                    format!(r#","updatedPermissions":{suggestions}"#)
                });
                let answer = format!(r#"{{"behavior":"allow","updatedInput":{}{lasting}}}"#, waiting.input);
                (answer, None)
            }
            Decision::Deny { reason, stop } => (deny(&reason, stop), waiting.call),
        };
        out.input.push(success(request, &answer));
        denied
    }

    /// Nobody waits any more: it has ended.
    pub fn drop_all(&mut self, out: &mut Step) {
        let gone = self.waiting.drain(..);
        out.events.extend(gone.map(|waiting| Event::PermissionGone {
            request: waiting.request,
            why: Gone::Ended,
        }));
    }

    /// Answers all with no: somebody has interrupted the agent, which may not heed that before it is answered. The calls that were denied so.
    pub fn interrupt(&mut self, out: &mut Step) -> Vec<String> {
        let mut calls = Vec::new();
        for waiting in self.waiting.drain(..) {
            out.input.push(success(
                &waiting.request,
                &deny("the user has interrupted the turn", true),
            ));
            calls.extend(waiting.call);
            out.events.push(Event::PermissionGone {
                request: waiting.request,
                why: Gone::Interrupted,
            });
        }
        calls
    }
}

/// Requests of our own, by their numbers.
#[derive(Debug, Default)]
pub(super) struct Requests(u64);

impl Requests {
    /// Asks it, and says how the request is called.
    pub fn send(&mut self, request: serde_json::Value, out: &mut Step) -> String {
        self.0 += 1;
        let name = format!("gitstead-{}", self.0);
        out.input.push(message(&serde_json::json!({
            "type": "control_request", "request_id": name, "request": request,
        })));
        name
    }
}

/// The answer no.
pub(super) fn deny(reason: &str, stop: bool) -> String {
    let reason = quoted(reason);
    format!(r#"{{"behavior":"deny","message":{reason},"interrupt":{stop}}}"#)
}

/// An answer to a request, with a response that is JSON already.
pub(super) fn success(request: &str, response: &str) -> Vec<u8> {
    let request = quoted(request);
    ended(format!(
        r#"{{"type":"control_response","response":{{"subtype":"success","request_id":{request},"response":{response}}}}}"#
    ))
}

/// An answer that there is none.
pub(super) fn failure(request: &str, why: &str) -> Vec<u8> {
    let (request, why) = (quoted(request), quoted(why));
    ended(format!(
        r#"{{"type":"control_response","response":{{"subtype":"error","request_id":{request},"error":{why}}}}}"#
    ))
}
