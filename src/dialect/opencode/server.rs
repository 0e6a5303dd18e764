use serde_json::json;

use super::parts;
use crate::dialect::{
    Answer, Change, Decision, Dialect, Event, Exit, Gone, Nature, Options, Order, Permission, Refused, Step,
    TurnOutcome, Usage, UserMessage, bounded,
    calls::{Call, Calls, Seen, id},
    json::{self, Json, Object},
    log, may_ask, subject, summary,
    turns::Turns,
};

/// The events of `opencode serve` (`GET /event`, lines of server-sent events). What is asked of it are HTTP requests, given as [`Order::Http`].
#[derive(Debug)]
pub(in crate::dialect) struct Server {
    options: Options,
    calls: Calls,
    turns: Turns,
    session: Option<String>,
    /// Sessions of subagents, newest last, with the call that they work for.
    children: Vec<(String, Option<String>)>,
    /// Messages that are the user's, and texts that were told.
    told: Seen,
    /// Parts that are thoughts: their pieces do not say so.
    thoughts: Seen,
    last: Option<String>,
    error: Option<(TurnOutcome, String)>,
    usage: Usage,
    held: Option<String>,
    permissions: Vec<Pending>,
    orders: Vec<(String, Asked)>,
    next: u64,
    /// Turns that were asked for.
    asked: u64,
    /// Somebody has interrupted the open turn.
    cancelled: bool,
    connected: bool,
    /// There is no session, and there will be none.
    broken: bool,
    ended: bool,
}

#[derive(Debug, PartialEq, Eq)]
struct Pending {
    request: String,
    session: String,
}

/// What an HTTP answer is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// Whether there is the session that is to be gone on with.
    Known,
    Session,
    Turn(u64),
    Messages,
    /// The same, at the end of a turn whose end was not told.
    Last(u64),
    Other,
}

/// Sessions of subagents that are known at a time.
const CHILDREN: usize = 64;

impl Server {
    pub fn new(options: Options) -> Self {
        Server {
            calls: Calls::new(options.bounds.calls),
            options,
            turns: Turns::default(),
            session: None,
            children: Vec::new(),
            told: Seen::default(),
            thoughts: Seen::default(),
            last: None,
            error: None,
            usage: Usage::default(),
            held: None,
            permissions: Vec::new(),
            orders: Vec::new(),
            next: 1,
            asked: 0,
            cancelled: false,
            connected: false,
            broken: false,
            ended: false,
        }
    }

    fn order(&mut self, asked: Asked, method: &'static str, path: String, body: String, out: &mut Step) {
        let name = format!("http-{}", self.next);
        self.next += 1;
        if self.orders.len() >= self.options.bounds.pending {
            self.orders.remove(0);
        }
        self.orders.push((name.clone(), asked));
        out.orders.push(Order::Http {
            id: name,
            method,
            path,
            body,
        });
    }

    fn become_ready(&mut self, session: &str, out: &mut Step) {
        self.session = Some(id(session));
        out.events.push(Event::Session {
            id: id(session),
            model: None,
        });
        out.events.push(Event::Ready);
        if let Some(held) = self.held.take() {
            self.start_turn(&held, out);
        }
    }

    fn new_session(&mut self, out: &mut Step) {
        self.order(Asked::Session, "POST", "/session".to_owned(), "{}".to_owned(), out);
    }

    /// Tells what is in the messages of the session and was not told of.
    fn look_up(&mut self, body: &[u8], out: &mut Step) {
        let text = String::from_utf8_lossy(body);
        let messages = json::parse(&text, self.options.bounds.text_bytes).unwrap_or_default();
        for message in messages.list() {
            if message.path(&["info", "role"]).str() != "user" {
                for part in message.at("parts").list() {
                    self.part(part, out);
                }
            }
        }
    }

    fn start_turn(&mut self, message: &str, out: &mut Step) {
        let path = format!("/session/{}/message", self.session.as_deref().unwrap_or_default());
        let mut body = json!({ "parts": [{ "type": "text", "text": message }] });
        if let Some((provider, model)) = self
            .options
            .thread
            .model
            .as_deref()
            .and_then(|model| model.split_once('/'))
        {
            body["model"] = json!({ "providerID": provider, "modelID": model });
        }
        self.asked += 1;
        self.order(Asked::Turn(self.asked), "POST", path, body.to_string(), out);
    }

    /// Whose session it is: `Some(None)` ours, `Some(Some(…))` a subagent's that works for that call.
    fn whose(&self, session: &str) -> Option<Option<String>> {
        if self.session.as_deref() == Some(session) {
            return Some(None);
        }
        let child = self.children.iter().find(|(child, _)| child == session)?;
        Some(child.1.clone())
    }

    fn event(&mut self, object: &Object<'_>, bytes: &[u8], out: &mut Step) {
        let line = &object.json;
        let told = line.at("properties");
        let session = told.at("sessionID").str();
        let is_ours = self.session.as_deref() == Some(session);
        match line.at("type").str() {
            "server.connected" => {
                // Again: what was told meanwhile is looked up.
                if std::mem::replace(&mut self.connected, true)
                    && let Some(session) = &self.session
                {
                    let path = format!("/session/{session}/message");
                    self.order(Asked::Messages, "GET", path, String::new(), out);
                }
            }
            "session.created" => {
                let info = told.at("info");
                let parent = info.at("parentID").some_text();
                if parent.is_some_and(|parent| self.whose(parent).is_some()) {
                    let mut tasks = self.calls.iter().filter(|call| call.raw_tool == "task");
                    let call = tasks.next_back().map(|call| call.id.clone());
                    if self.children.len() >= CHILDREN {
                        self.children.remove(0);
                    }
                    self.children.push((id(info.at("id").str()), call));
                }
            }
            "session.status" if is_ours => match told.path(&["status", "type"]).str() {
                "busy" => self.turns.begin(out),
                "idle" => self.idle(out),
                "retry" => out.events.push(Event::Trouble {
                    text: bounded(told.path(&["status", "message"]).str(), &self.options),
                }),
                _ => {}
            },
            "session.idle" if is_ours => self.idle(out),
            "session.error" if is_ours => {
                let error = told.at("error");
                let outcome = match error.at("name").str() {
                    "MessageAbortedError" => TurnOutcome::Interrupted,
                    _ => TurnOutcome::Failed,
                };
                self.error = Some((outcome, bounded(parts::error_text(error), &self.options)));
            }
            "message.updated" if told.path(&["info", "role"]).str() == "user" => {
                self.told.see(told.path(&["info", "id"]).str());
            }
            "message.part.updated" => {
                let part = told.at("part");
                self.part(part, out);
                if part.at("tool").str() == "bash"
                    && let Some(call) = self.calls.get(&id(part.at("callID").str()))
                {
                    let input = object
                        .raw(&["properties", "part", "state", "input"])
                        .unwrap_or_default();
                    call.given = subject::of_tool("Bash", input, &self.options);
                }
            }
            "message.part.delta" if told.at("field").str() == "text" => {
                if let Some(parent) = self.whose(session)
                    && let Some(text) = told.at("delta").some_text()
                {
                    out.events.push(Event::Said {
                        text: bounded(text, &self.options),
                        partial: true,
                        thought: self.thoughts.has(told.at("partID").str()),
                        parent,
                    });
                }
            }
            "permission.asked" | "permission.updated" => {
                self.asked(told, object.raw(&["properties"]).unwrap_or_default(), out);
            }
            "permission.replied" => {
                let request = told.at("requestID").some_text().or(told.at("permissionID").text());
                let request = request.unwrap_or_default();
                if let Some(at) = self.permissions.iter().position(|waits| waits.request == request) {
                    let request = self.permissions.remove(at).request;
                    out.events.push(Event::PermissionGone {
                        request,
                        why: Gone::Withdrawn,
                    });
                }
            }
            "" => out.events.push(log(bytes)),
            // Of files, plugins, servers and everything else that goes on there.
            _ => {}
        }
    }

    fn part(&mut self, part: &Json, out: &mut Step) {
        let Some(parent) = self.whose(part.at("sessionID").str()) else {
            return;
        };
        match part.at("type").str() {
            "tool" => self.tool(part, parent, out),
            kind @ ("text" | "reasoning") => {
                let name = part.at("id").str();
                if kind == "reasoning" {
                    self.thoughts.see(name);
                }
                let is_whole = !part.path(&["time", "end"]).is_null();
                let text = part.at("text").str();
                if !is_whole || text.is_empty() || self.told.has(part.at("messageID").str()) || !self.told.see(name) {
                    return;
                }
                let text = bounded(text, &self.options);
                if parent.is_none() && kind == "text" {
                    self.last = Some(text.clone());
                }
                out.events.push(Event::Said {
                    text,
                    partial: false,
                    thought: kind == "reasoning",
                    parent,
                });
            }
            "step-finish" if self.told.see(part.at("id").str()) => parts::add(&mut self.usage, part),
            _ => {}
        }
    }

    fn tool(&mut self, part: &Json, parent: Option<String>, out: &mut Step) {
        let Some(call) = parts::call(part, parent, &self.options) else {
            return;
        };
        if !parts::has_ended(part) {
            // What it is given is not known before it runs.
            if part.path(&["state", "status"]).str() == "pending" {
                return;
            }
            let started = call.started();
            if self.calls.open(call) {
                out.events.push(Event::ToolStarted(started));
            }
            return;
        }
        let concurrent = self.calls.beside(&call.id, call.parent.as_deref());
        if self.calls.close(&call.id, Call::default).is_some() {
            let mut ended = parts::ended(call, part, &self.options);
            ended.concurrent = concurrent;
            out.events.push(Event::ToolFinished(ended));
        }
    }

    fn cannot(&mut self, text: String, out: &mut Step) {
        (self.held, self.broken) = (None, true);
        out.events.push(Event::Failed { text: text.clone() });
        self.turns.end(TurnOutcome::Failed, Some(text), Usage::default(), out);
    }

    fn idle(&mut self, out: &mut Step) {
        let left = self.calls.interrupt(|_| true);
        out.events.extend(left.map(Event::ToolFinished));
        self.children.clear();
        let usage = std::mem::take(&mut self.usage);
        let (outcome, text) = match self.error.take() {
            Some((outcome, text)) => (outcome, Some(text)),
            None if self.cancelled => (TurnOutcome::Interrupted, self.last.take()),
            None => (TurnOutcome::Completed, self.last.take()),
        };
        (self.last, self.cancelled) = (None, false);
        self.turns.end(outcome, text, usage, out);
    }

    fn asked(&mut self, told: &Json, raw: &str, out: &mut Step) {
        let (request, session) = (told.at("id").str(), told.at("sessionID").str());
        let is_plain = |name: &str| {
            !name.is_empty()
                && name.len() <= 256
                && name
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
        };
        // Both go into the path of a request.
        if !is_plain(request) || !is_plain(session) || self.whose(session).is_none() {
            return;
        }
        let pending = Pending {
            request: request.to_owned(),
            session: session.to_owned(),
        };
        if self.permissions.contains(&pending) {
            return;
        }
        let is_refused = self.permissions.len() >= self.options.bounds.pending;
        let call = told
            .path(&["tool", "callID"])
            .some_text()
            .or(told.at("callID").some_text());
        let call = call.map(id);
        let known = call.as_deref().and_then(|call| self.calls.get(call));
        let kind = told
            .at("permission")
            .some_text()
            .or(told.at("type").text())
            .unwrap_or_default();
        let patterns: Vec<&str> = told
            .at("patterns")
            .list()
            .iter()
            .filter_map(Json::some_text)
            .take(8)
            .collect();
        let given = known.as_ref().map(|call| call.given.clone()).unwrap_or_default();
        let (tool, text) = match known {
            Some(call) => (call.tool.clone(), call.summary.clone()),
            None => (summary::tool_name(kind), String::new()),
        };
        let text = match told.at("title").some_text() {
            Some(title) => summary::line(title),
            None if text.is_empty() => summary::line(&patterns.join(" ")),
            None => text,
        };
        let input = json!({ "permission": kind, "patterns": patterns }).to_string();
        match is_refused {
            true => self.reply(&pending, "reject", out),
            false => self.permissions.push(pending),
        }
        out.events.push(Event::Permission(Permission {
            is_refused,
            request: request.to_owned(),
            call,
            tool,
            name: id(kind),
            subject: subject::of_patterns(kind, raw, given, &self.options),
            summary: text,
            input: bounded(&input, &self.options),
            remembers: true,
        }));
    }

    fn reply(&mut self, pending: &Pending, word: &str, out: &mut Step) {
        let path = format!("/session/{}/permissions/{}", pending.session, pending.request);
        let body = json!({ "response": word }).to_string();
        self.order(Asked::Other, "POST", path, body, out);
    }
}

impl Dialect for Server {
    fn nature(&self) -> Nature {
        Nature::CONVERSING
    }

    fn begin(&mut self, out: &mut Step) {
        match self.options.resume.clone() {
            Some(session) => {
                let path = format!("/session/{}", id(&session));
                self.order(Asked::Known, "GET", path, String::new(), out);
            }
            None => self.new_session(out),
        }
    }

    fn line(&mut self, bytes: &[u8], out: &mut Step) {
        let line = bytes.trim_ascii();
        // What is no data are names of events, ids, and comments that keep the connection open.
        let Some(data) = line.strip_prefix(b"data:") else {
            let known = [&b":"[..], b"event:", b"id:", b"retry:"];
            if !line.is_empty() && !known.iter().any(|known| line.starts_with(known)) {
                out.events.push(log(bytes));
            }
            return;
        };
        match json::object(data, self.options.bounds.text_bytes) {
            Some(object) => self.event(&object, bytes, out),
            None => out.events.push(log(bytes)),
        }
    }

    fn finished(&mut self, exit: &Exit, out: &mut Step) {
        self.ended = true;
        self.orders.clear();
        let gone = self.permissions.drain(..);
        out.events.extend(gone.map(|waits| Event::PermissionGone {
            request: waits.request,
            why: Gone::Ended,
        }));
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
        if self.session.is_some() {
            self.start_turn(message.text, out);
        } else {
            self.held = Some(message.text.to_owned());
        }
        self.turns.begin_for(message, out);
        Ok(())
    }

    fn interrupt(&mut self, out: &mut Step) -> Result<(), Refused> {
        match &self.session {
            _ if self.ended => Err(Refused::Ended),
            _ if !self.turns.is_open() => Err(Refused::Idle),
            None => Err(Refused::NotReady),
            Some(session) => {
                let path = format!("/session/{session}/abort");
                self.order(Asked::Other, "POST", path, "{}".to_owned(), out);
                self.cancelled = true;
                for pending in std::mem::take(&mut self.permissions) {
                    self.reply(&pending, "reject", out);
                    out.events.push(Event::PermissionGone {
                        request: pending.request,
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
            // Each turn says its own.
            Change::Model(model) if model.contains('/') => {
                self.options.thread.model = Some(model.clone());
                out.events.push(Event::Changed(Change::Model(model)));
                Ok(())
            }
            _ => Err(Refused::NotSpoken),
        }
    }

    fn permit(&mut self, request: &str, decision: Decision, out: &mut Step) {
        let Some(at) = self.permissions.iter().position(|waits| waits.request == request) else {
            return;
        };
        let pending = self.permissions.remove(at);
        let word = match decision {
            Decision::Allow => "once",
            Decision::AllowAlways => "always",
            Decision::Deny { .. } => "reject",
        };
        self.reply(&pending, word, out);
        if let Decision::Deny { stop: true, .. } = decision {
            // It has nothing to interrupt if the turn has ended meanwhile.
            let _ = self.interrupt(out);
        }
    }

    fn answer(&mut self, order: &str, answer: Answer, out: &mut Step) {
        let Some(at) = self.orders.iter().position(|(name, _)| name == order) else {
            return;
        };
        let (_, asked) = self.orders.remove(at);
        let is_unknown = matches!(answer, Answer::Http { status: 404, .. });
        let told = match answer {
            Answer::Http {
                status: 200..=299,
                body,
            } => Ok(body),
            Answer::Http { status, .. } => Err(format!("the agent's server answers {status}")),
            Answer::Failed(why) => Err(bounded(&why, &self.options)),
            _ => Err("the agent's server was not asked".to_owned()),
        };
        match (asked, told) {
            (Asked::Known, Ok(_)) => {
                let session = self.options.resume.take().unwrap_or_default();
                self.become_ready(&session, out);
            }
            (Asked::Known, Err(_)) if is_unknown => {
                let id = self.options.resume.take().unwrap_or_default();
                out.events.push(Event::SessionGone { id, ends: false });
                self.new_session(out);
            }
            (Asked::Known, Err(text)) => self.cannot(text, out),
            (Asked::Session, Ok(body)) => {
                let made = json::object(&body, 1 << 10);
                match made.as_ref().and_then(|made| made.json.at("id").some_text()) {
                    Some(session) => self.become_ready(session, out),
                    None => self.cannot("the agent has made no session".to_owned(), out),
                }
            }
            (Asked::Messages, Ok(body)) => self.look_up(&body, out),
            // It is over, and that may have been told while nobody listened.
            (Asked::Turn(turn), Ok(_)) if turn == self.asked && self.turns.is_open() => {
                let path = format!("/session/{}/message", self.session.as_deref().unwrap_or_default());
                self.order(Asked::Last(turn), "GET", path, String::new(), out);
            }
            (Asked::Last(turn), answer) => {
                if turn == self.asked && self.turns.is_open() {
                    self.look_up(&answer.unwrap_or_default(), out);
                    self.idle(out);
                }
            }
            (Asked::Turn(_) | Asked::Other, Ok(_)) => {}
            (Asked::Session, Err(text)) => self.cannot(text, out),
            (Asked::Turn(_), Err(text)) => {
                self.error = Some((TurnOutcome::Failed, text));
                self.idle(out);
            }
            (Asked::Messages | Asked::Other, Err(text)) => out.events.push(Event::Trouble { text }),
        }
    }
}
