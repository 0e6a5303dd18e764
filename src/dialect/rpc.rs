use serde_json::{Value, json};

use super::{
    Step,
    json::{Json, Object},
    turns::{ended, message, quoted},
};

/// Requests of ours that are remembered as unanswered.
const WAITING: usize = 64;
/// Bytes of a request's id.
const ID: usize = 256;
/// The method does not exist.
const NO_METHOD: i64 = -32601;
/// The request could not be carried out.
const INTERNAL: i64 = -32603;

/// JSON-RPC over lines, from the client's side: what we have asked and what each answer is about.
#[derive(Debug)]
pub(super) struct Rpc<W> {
    /// Whether messages bear `"jsonrpc":"2.0"`.
    version: bool,
    next: u64,
    waiting: Vec<(u64, W)>,
}

/// What a message is.
pub(super) enum Message<'a, W> {
    /// It tells something.
    Notification(&'a str, &'a Json),
    /// It asks something; its id as it was written.
    Request(String, &'a str, &'a Json),
    /// It answers what we asked.
    Result(W, &'a Json),
    /// It says that what we asked cannot be.
    Error(W, &'a Json),
    /// None of these.
    Nothing,
}

impl<W> Rpc<W> {
    pub fn new(version: bool) -> Self {
        Rpc {
            version,
            next: 1,
            waiting: Vec::new(),
        }
    }

    /// Asks something; its answer comes with `what`.
    pub fn call(&mut self, what: W, method: &str, params: Value, out: &mut Step) {
        if self.waiting.len() >= WAITING {
            self.waiting.remove(0);
        }
        self.waiting.push((self.next, what));
        let asked = json!({ "id": self.next, "method": method, "params": params });
        self.next += 1;
        self.send(asked, out);
    }

    /// Tells something.
    pub fn notify(&self, method: &str, params: Value, out: &mut Step) {
        self.send(json!({ "method": method, "params": params }), out);
    }

    fn send(&self, mut value: Value, out: &mut Step) {
        if self.version {
            value["jsonrpc"] = json!("2.0");
        }
        out.input.push(message(&value));
    }

    /// Answers a request by its id as it was written.
    pub fn reply(&self, request: &str, result: &Value, out: &mut Step) {
        let version = self.prefix();
        out.input
            .push(ended(format!(r#"{{{version}"id":{request},"result":{result}}}"#)));
    }

    /// Says that a request cannot be carried out.
    pub fn fail(&self, request: &str, why: &str, out: &mut Step) {
        self.error(request, INTERNAL, why, out);
    }

    /// Says that there is no such method.
    pub fn refuse(&self, request: &str, out: &mut Step) {
        self.error(request, NO_METHOD, "not supported by this client", out);
    }

    fn error(&self, request: &str, code: i64, why: &str, out: &mut Step) {
        let (version, why) = (self.prefix(), quoted(why));
        out.input.push(ended(format!(
            r#"{{{version}"id":{request},"error":{{"code":{code},"message":{why}}}}}"#
        )));
    }

    fn prefix(&self) -> &'static str {
        if self.version { r#""jsonrpc":"2.0","# } else { "" }
    }

    /// Says what a line is.
    pub fn read<'a>(&mut self, object: &'a Object<'_>) -> Message<'a, W> {
        let line = &object.json;
        let id = line.at("id");
        match (line.at("method").some_text(), id) {
            (Some(method), Json::Null) => Message::Notification(method, line.at("params")),
            (Some(method), Json::Int(_) | Json::Text(_)) => match object.raw(&["id"]) {
                Some(raw) if raw.len() <= ID => Message::Request(raw.to_owned(), method, line.at("params")),
                _ => Message::Nothing,
            },
            (None, id) => {
                let found = id
                    .count()
                    .and_then(|id| self.waiting.iter().position(|(asked, _)| *asked == id));
                let Some(at) = found else {
                    return Message::Nothing;
                };
                let (_, what) = self.waiting.remove(at);
                match line.at("error") {
                    Json::Null => Message::Result(what, line.at("result")),
                    error => Message::Error(what, error),
                }
            }
            _ => Message::Nothing,
        }
    }
}
