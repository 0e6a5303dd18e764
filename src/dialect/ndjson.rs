use serde::{Deserialize, Serialize};

use super::{
    Asks, Dialect, Event, Exit, Nature, Options, Outcome, Refused, Source, Step, TurnOutcome, Usage, UserMessage,
    bounded,
    calls::{Call, Calls, id},
    json::{self, Json},
    log, may_ask, not_spoken, said, summary, take_session,
    turns::{self, Turns},
};

/// Where an agent of somebody's own tells what: JSON pointers (RFC 6901) into each of its lines, and the words that it uses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Pointers {
    /// What a line is about.
    pub event: String,
    /// Its words for a tool that begins.
    pub started: Vec<String>,
    /// Its words for a tool that has ended.
    pub finished: Vec<String>,
    /// Its words for what it says to its user.
    pub said: Vec<String>,
    /// Its words for the beginning of a turn.
    pub turn_started: Vec<String>,
    /// Its words for the end of a turn. Without any, the process's life is the turn.
    pub turn_ended: Vec<String>,
    /// Its words for a failure of its own.
    pub failed: Vec<String>,
    /// The id of a tool call.
    pub call: String,
    /// The name of a tool.
    pub tool: String,
    /// What a tool was given.
    pub input: String,
    /// What a tool answered.
    pub response: String,
    /// What a tool did, in a line. Where there is none it is made from what the tool was given.
    pub summary: String,
    /// Anything but null, `false`, zero and an empty text says that a tool has failed.
    pub error: String,
    /// The exit code of a command.
    pub exit_code: String,
    /// What is said, or why something failed.
    pub text: String,
    /// The agent's own name of its session.
    pub session: String,
    /// It reads turns on standard input, as `{"type":"user","text":"…"}`.
    pub asks: bool,
}

impl Default for Pointers {
    fn default() -> Self {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        Pointers {
            event: "/type".into(),
            started: words(&["tool_started"]),
            finished: words(&["tool_finished"]),
            said: words(&["said", "message"]),
            turn_started: words(&["turn_started"]),
            turn_ended: words(&["turn_ended"]),
            failed: words(&["error"]),
            call: "/id".into(),
            tool: "/tool".into(),
            input: "/input".into(),
            response: "/response".into(),
            summary: "/summary".into(),
            error: "/error".into(),
            exit_code: "/exit_code".into(),
            text: "/text".into(),
            session: "/session".into(),
            asks: false,
        }
    }
}

/// An agent whose lines are JSON objects, told apart by what a configuration says of them.
#[derive(Debug)]
pub(super) struct Ndjson {
    options: Options,
    calls: Calls,
    /// For calls without an id.
    unnamed: u64,
    session: Option<String>,
    turns: Turns,
    ended: bool,
}

impl Ndjson {
    pub fn new(options: Options) -> Self {
        Ndjson {
            calls: Calls::new(options.bounds.calls),
            options,
            unnamed: 0,
            session: None,
            turns: Turns::default(),
            ended: false,
        }
    }

    fn call(&self, line: &Json, name: String, has_ended: bool) -> Call {
        let p = &self.options.pointers;
        let raw_tool = line.pointer(&p.tool).str();
        let response = line.pointer(&p.response);
        let relative = |path: &str| self.options.relative(path);
        let made = summary::summarise(
            raw_tool,
            line.pointer(&p.input),
            has_ended.then_some(response),
            &relative,
        );
        Call {
            id: name,
            tool: made.tool,
            raw_tool: id(raw_tool),
            server: made.server,
            input_sha: line.pointer(&p.input).sha(),
            summary: match line.pointer(&p.summary).some_text() {
                Some(text) => summary::line(text),
                None => made.text,
            },
            ..Call::default()
        }
    }

    fn end_turn(&mut self, outcome: TurnOutcome, text: Option<String>, out: &mut Step) {
        out.events
            .extend(self.calls.interrupt(|_| true).map(Event::ToolFinished));
        self.turns.end(outcome, text, Usage::default(), out);
    }

    fn started(&mut self, line: &Json, out: &mut Step) {
        let name = match line.pointer(&self.options.pointers.call).some_text() {
            Some(text) => id(text),
            None => {
                self.unnamed += 1;
                format!("call-{}", self.unnamed)
            }
        };
        let call = self.call(line, name, false);
        let started = Event::ToolStarted(call.started());
        if self.calls.open(call) {
            out.events.push(started);
        }
    }

    fn finished_tool(&mut self, line: &Json, out: &mut Step) {
        let p = self.options.pointers.clone();
        let raw_tool = line.pointer(&p.tool).str();
        let name = match line.pointer(&p.call).some_text() {
            Some(text) => id(text),
            // The oldest of that tool, else one of its own.
            None => match self.calls.iter().find(|call| call.raw_tool == raw_tool) {
                Some(call) => call.id.clone(),
                None => {
                    self.unnamed += 1;
                    format!("call-{}", self.unnamed)
                }
            },
        };
        let told = self.call(line, name.clone(), true);
        let concurrent = self.calls.beside(&name, None);
        let Some(mut call) = self.calls.close(&name, || told.clone()) else {
            return;
        };
        if !raw_tool.is_empty() {
            (call.tool, call.raw_tool, call.server) = (told.tool, told.raw_tool, told.server);
        }
        if !told.summary.is_empty() {
            call.summary = told.summary;
        }
        let exit_code = line
            .pointer(&p.exit_code)
            .int()
            .and_then(|code| i32::try_from(code).ok());
        let has_failed = says_so(line.pointer(&p.error)) || exit_code.is_some_and(|code| code != 0);
        let outcome = if has_failed { Outcome::Failed } else { Outcome::Ok };
        let mut finished = call.finished(outcome, Source::Stream);
        (finished.exit_code, finished.concurrent) = (exit_code, concurrent);
        out.events.push(Event::ToolFinished(finished));
    }
}

/// Anything that is not a way to say no.
fn says_so(value: &Json) -> bool {
    match value {
        Json::Null | Json::Bool(false) | Json::Int(0) => false,
        Json::Text(text) => !text.is_empty(),
        _ => true,
    }
}

impl Dialect for Ndjson {
    fn nature(&self) -> Nature {
        let p = &self.options.pointers;
        Nature {
            asks: if p.asks { Asks::Many } else { Asks::InArguments },
            tells_turns: !p.turn_ended.is_empty(),
            tells_tools: !p.finished.is_empty(),
            ..Nature::ONE_QUESTION
        }
    }

    fn begin(&mut self, out: &mut Step) {
        out.close_input = !self.options.pointers.asks;
        out.events.push(Event::Ready);
    }

    fn line(&mut self, bytes: &[u8], out: &mut Step) {
        let Some(object) = json::object(bytes, self.options.bounds.text_bytes) else {
            out.events.push(log(bytes));
            return;
        };
        let (line, p) = (object.json, self.options.pointers.clone());
        let event = line.pointer(&p.event).str();
        let is = |words: &[String]| words.iter().any(|word| word == event);
        take_session(&mut self.session, line.pointer(&p.session).some_text(), None, out);
        let text = line.pointer(&p.text).some_text();
        if is(&p.started) {
            self.started(&line, out);
        } else if is(&p.finished) {
            self.finished_tool(&line, out);
        } else if is(&p.said) {
            out.events.extend(text.map(|text| said(text, &self.options)));
        } else if is(&p.turn_started) {
            self.turns.begin(out);
        } else if is(&p.turn_ended) {
            self.turns.begin(out);
            let has_failed = says_so(line.pointer(&p.error));
            let outcome = if has_failed {
                TurnOutcome::Failed
            } else {
                TurnOutcome::Completed
            };
            let text = text.map(|text| bounded(text, &self.options));
            self.end_turn(outcome, text, out);
        } else if is(&p.failed) {
            out.events.push(Event::Failed {
                text: bounded(text.unwrap_or("the agent reports an error"), &self.options),
            });
        } else {
            out.events.push(log(bytes));
        }
    }

    fn finished(&mut self, exit: &Exit, out: &mut Step) {
        self.ended = true;
        let outcome = match exit.code {
            Some(0) => TurnOutcome::Completed,
            Some(_) => TurnOutcome::Failed,
            None => TurnOutcome::Interrupted,
        };
        self.end_turn(outcome, None, out);
    }

    fn ask(&mut self, message: UserMessage<'_>, out: &mut Step) -> Result<(), Refused> {
        if !self.options.pointers.asks {
            return not_spoken(self.ended);
        }
        may_ask(message.text, self.ended, self.turns.is_open(), &self.options)?;
        out.input.push(turns::message(
            &serde_json::json!({"type": "user", "text": message.text}),
        ));
        if !self.options.pointers.turn_ended.is_empty() {
            self.turns.begin_for(message, out);
        }
        Ok(())
    }

    fn interrupt(&mut self, _: &mut Step) -> Result<(), Refused> {
        Err(Refused::NotSpoken)
    }
}
