//! Tool calls of Letta: their arguments come in pieces, and their ends are mostly a matter of inference.

use super::Letta;
use crate::dialect::{
    Event, Options, Outcome, Source, Step, ToolFinished,
    calls::{Call, id},
    json::{self, Json},
    summary::summarise,
};

/// Calls whose arguments are incomplete at a time.
const OPEN: usize = 16;

/// Arguments that have not come whole.
#[derive(Debug)]
pub(super) struct Pieces {
    open: Vec<Piece>,
    /// Bytes of one.
    most: usize,
}

#[derive(Debug)]
struct Piece {
    call: String,
    tool: String,
    arguments: String,
}

impl Pieces {
    pub fn new(options: &Options) -> Self {
        Pieces {
            open: Vec::new(),
            most: options.bounds.text_bytes / OPEN,
        }
    }

    /// Adds a piece; the whole once it is one.
    fn add(&mut self, call: &str, tool: &str, arguments: &str) -> Option<(String, Json)> {
        let at = match self.open.iter().position(|piece| piece.call == call) {
            Some(at) => at,
            None => {
                if self.open.len() >= OPEN {
                    self.open.remove(0);
                }
                self.open.push(Piece {
                    call: call.to_owned(),
                    tool: String::new(),
                    arguments: String::new(),
                });
                self.open.len() - 1
            }
        };
        let piece = &mut self.open[at];
        if piece.tool.is_empty() {
            piece.tool = id(tool);
        }
        // What comes at once is read at once, however long it is.
        let whole = match piece.arguments.as_str() {
            "" => parse(arguments),
            held if held.len() + arguments.len() <= self.most => {
                piece.arguments.push_str(arguments);
                parse(&piece.arguments)
            }
            _ => None,
        };
        match whole {
            Some(input) => Some((self.open.remove(at).tool, input)),
            None if piece.arguments.is_empty() => {
                piece.arguments.push_str(json::head(arguments, self.most));
                None
            }
            None => None,
        }
    }

    /// The name of a call whose arguments never came whole.
    fn give_up(&mut self, call: &str) -> Option<String> {
        let at = self.open.iter().position(|piece| piece.call == call)?;
        Some(self.open.remove(at).tool)
    }
}

fn parse(arguments: &str) -> Option<Json> {
    // A piece may be a number or a word by chance; arguments are an object.
    let text = arguments.trim();
    (text.starts_with('{') && text.ends_with('}'))
        .then(|| json::parse(text, 4 << 10))
        .flatten()
}

impl Letta {
    /// A call, or a piece of one, of the model's.
    pub(super) fn called(&mut self, call: &Json, out: &mut Step) {
        let Some(name) = call.at("tool_call_id").some_text().map(id) else {
            return;
        };
        let tool = call.at("name").str();
        match call.at("arguments") {
            Json::Text(arguments) => {
                if let Some((tool, input)) = self.pieces.add(&name, tool, arguments) {
                    self.know(&name, &tool, &input, out);
                }
            }
            Json::Null => {}
            input => self.know(&name, tool, input, out),
        }
    }

    /// A call is known with all that it was given.
    pub(super) fn know(&mut self, name: &str, tool: &str, input: &Json, out: &mut Step) {
        let relative = |path: &str| self.options.relative(path);
        let before = summarise(tool, input, None, &relative);
        let after = summarise(tool, input, Some(&Json::Null), &relative);
        let path = match tool {
            "Write" | "Edit" | "MultiEdit" => input.at("file_path").some_text(),
            _ => None,
        };
        let call = Call {
            id: id(name),
            tool: before.tool,
            raw_tool: id(tool),
            server: before.server,
            summary: before.text,
            input_sha: input.sha(),
            after: Some(after.text),
            paths: path
                .map(relative)
                .filter(|path| !path.starts_with('/'))
                .into_iter()
                .collect(),
            run: self.run.clone(),
            ..Call::default()
        };
        let started = call.started();
        if self.calls.open(call) {
            out.events.push(Event::ToolStarted(started));
        }
    }

    /// A call is allowed and runs from now on.
    pub(super) fn approved(&mut self, call: &Json, out: &mut Step) {
        self.called(call, out);
        let Some(name) = call.at("tool_call_id").some_text().map(id) else {
            return;
        };
        if self.calls.get(&name).is_none() {
            let tool = self.pieces.give_up(&name).unwrap_or_default();
            let tool = call.at("name").some_text().map_or(tool, str::to_owned);
            self.know(&name, &tool, &Json::Null, out);
        }
    }

    /// What a tool answered, as a server tells it.
    pub(super) fn returned(&mut self, told: &Json, out: &mut Step) {
        let Some(name) = told.at("tool_call_id").some_text().map(id) else {
            return;
        };
        let concurrent = self.calls.beside(&name, None);
        let tool = told.at("name").some_text().unwrap_or("Tool");
        let unknown = || Call {
            id: name.clone(),
            tool: crate::dialect::summary::tool_name(tool),
            raw_tool: id(tool),
            ..Call::default()
        };
        let Some(call) = self.calls.close(&name, unknown) else {
            return;
        };
        let outcome = match told.at("status").str() {
            "error" if call.denied => Outcome::Denied,
            "error" => Outcome::Failed,
            _ => Outcome::Ok,
        };
        out.events.push(Event::ToolFinished(ToolFinished {
            concurrent,
            ..call.finished(outcome, Source::Stream)
        }));
    }

    /// A message of a new run: what earlier ones have called has ended.
    pub(super) fn earlier_runs_ended(&mut self, run: &str, out: &mut Step) {
        let ended = self
            .calls
            .close_those(|call| call.run.as_deref().is_some_and(|own| own != run));
        self.infer(ended, Outcome::Ok, out);
    }

    /// The turn has ended, and what it has called with it.
    pub(super) fn turn_ended(&mut self, well: bool, out: &mut Step) {
        if well {
            let ended = self.calls.close_those(|_| true);
            self.infer(ended, Outcome::Ok, out);
        } else {
            let denied = self.calls.close_those(|call| call.denied);
            self.infer(denied, Outcome::Denied, out);
            let left = self.calls.interrupt(|_| true);
            out.events.extend(left.map(Event::ToolFinished));
        }
    }

    fn infer(&mut self, ended: Vec<Call>, outcome: Outcome, out: &mut Step) {
        for call in ended {
            let outcome = if call.denied { Outcome::Denied } else { outcome };
            out.events
                .push(Event::ToolFinished(call.finished(outcome, Source::Inferred)));
        }
    }
}
