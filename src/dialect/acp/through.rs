//! What an agent does through us: the orders that it has given, what they were about, and what is told of them.

use std::collections::VecDeque;

use serde_json::{Value, json};

use super::Acp;
use crate::dialect::{
    Answer, Event, Exit, Outcome, Source, Step, ToolFinished,
    calls::{Call, id},
    summary,
};

/// Calls that are remembered of which a part was told.
const REMEMBERED: usize = 64;
/// Bytes of an answer: a text of control characters is six times as long as JSON.
const ANSWER: usize = 6 << 20;
/// Signals by their names, as other clients tell them; any other is its number.
const SIGNALS: [(i32, &str); 9] = [
    (1, "SIGHUP"),
    (2, "SIGINT"),
    (3, "SIGQUIT"),
    (6, "SIGABRT"),
    (9, "SIGKILL"),
    (11, "SIGSEGV"),
    (13, "SIGPIPE"),
    (15, "SIGTERM"),
    (24, "SIGXCPU"),
];

/// What goes through us.
#[derive(Debug, Default)]
pub(super) struct Through {
    pub orders: Vec<Ordered>,
    terminals: Vec<Terminal>,
    /// Calls whose end was told when something that they did through us was done, and that have not told it themselves; with a terminal of theirs.
    told: VecDeque<(String, Option<String>)>,
    /// Numbers what belongs to no call of its own.
    count: u64,
}

/// An order that was given.
#[derive(Debug)]
pub(super) struct Ordered {
    /// The request's id as it was written.
    pub request: String,
    what: What,
    /// The answer, and at which barrier it waits for a checkpoint.
    held: Option<(String, Value)>,
}

impl Ordered {
    pub fn new(request: String, what: What) -> Self {
        let held = None;
        Ordered { request, what, held }
    }
}

/// What it was about; the terminal, if it was one.
#[derive(Debug, Clone)]
pub(super) enum What {
    Read,
    Write,
    Create { command: String },
    Output(String),
    Wait(String),
    Kill(String),
    Release(String),
}

/// A command that runs, or has.
#[derive(Debug)]
struct Terminal {
    id: String,
    summary: String,
    end: End,
}

/// What was told of the end of a command.
#[derive(Debug)]
enum End {
    Untold,
    /// The checkpoint is being made, for whoever waits at this barrier.
    Recording(String),
    Recorded,
}

impl Through {
    /// Whether there may be one more terminal, if all that were asked for come.
    pub fn has_room(&self, most: usize) -> bool {
        let coming = self.orders.iter().filter(|o| matches!(o.what, What::Create { .. }));
        self.terminals.len() + coming.count() < most
    }

    /// Whether a part of this call was told of before its end, which is now.
    pub fn forget_call(&mut self, call: &str) -> bool {
        let at = self.told.iter().position(|(told, _)| told == call);
        at.is_some_and(|at| self.told.remove(at).is_some())
    }

    /// The turn has ended: nobody will tell of their ends.
    pub fn forget_calls(&mut self) {
        self.told.clear();
    }

    fn remember_call(&mut self, call: &str, terminal: Option<String>) {
        if self.told.len() >= REMEMBERED {
            self.told.pop_front();
        }
        self.told.push_back((call.to_owned(), terminal));
    }
}

impl Acp {
    /// An order was carried out, or was not.
    pub(super) fn carried_out(&mut self, order: &str, answer: Answer, out: &mut Step) {
        let waits = |given: &Ordered| given.request == order && given.held.is_none();
        let Some(at) = self.through.orders.iter().position(waits) else {
            return;
        };
        let given = self.through.orders.remove(at);
        let (request, what) = (given.request, given.what);
        let mut told = None;
        let result = match (&what, answer) {
            (What::Read, Answer::Text(text)) => json!({ "content": text }),
            (What::Write, Answer::Written { path, created }) => {
                told = Some(self.has_written(&path, created));
                json!({})
            }
            (What::Create { command }, Answer::Terminal(name)) => {
                self.has_begun(&name, command);
                json!({ "terminalId": name })
            }
            (What::Output(name), Answer::Output { text, truncated, exit }) => {
                told = exit.and_then(|exit| self.has_ended(name, &exit));
                let exit = exit.map(|exit| status(&exit));
                json!({ "output": text, "truncated": truncated, "exitStatus": exit })
            }
            (What::Wait(name), Answer::Exited(exit)) => {
                told = self.has_ended(name, &exit);
                status(&exit)
            }
            (What::Kill(name) | What::Release(name), Answer::Exited(exit)) => {
                told = self.has_ended(name, &exit);
                json!({})
            }
            (_, Answer::Failed(why)) => return self.rpc.fail(&request, &why, out),
            _ => return self.rpc.fail(&request, "it was not done", out),
        };
        // What others ask about the same command waits with it.
        let mut barrier = None;
        if let What::Output(name) | What::Wait(name) | What::Kill(name) | What::Release(name) = &what
            && let Some(terminal) = self.through.terminals.iter_mut().find(|one| one.id == *name)
        {
            if told.is_some() {
                terminal.end = match self.options.barrier {
                    true => End::Recording(request.clone()),
                    false => End::Recorded,
                };
            }
            if let End::Recording(at) = &terminal.end {
                barrier = Some(at.clone());
            }
        }
        if let Some(told) = told {
            if barrier.is_none() && self.options.barrier {
                barrier = Some(request.clone());
            }
            out.events.push(Event::ToolFinished(ToolFinished {
                barrier: barrier.clone(),
                ..told
            }));
        }
        if let What::Release(name) = &what {
            self.through.terminals.retain(|terminal| terminal.id != *name);
        }
        match barrier {
            Some(barrier) => {
                let held = Some((barrier, result));
                self.through.orders.insert(at, Ordered { request, what, held });
            }
            None => self.send(&request, &result, out),
        }
    }

    /// The checkpoint is there that answers wait for.
    pub(super) fn let_go(&mut self, barrier: &str, out: &mut Step) {
        for terminal in &mut self.through.terminals {
            if matches!(&terminal.end, End::Recording(at) if at == barrier) {
                terminal.end = End::Recorded;
            }
        }
        let mut kept = Vec::new();
        for given in std::mem::take(&mut self.through.orders) {
            match given.held {
                Some((at, result)) if at == barrier => self.send(&given.request, &result, out),
                held => kept.push(Ordered { held, ..given }),
            }
        }
        self.through.orders = kept;
    }

    fn send(&self, request: &str, result: &Value, out: &mut Step) {
        self.rpc.reply(request, result, out);
        if out.input.last().is_some_and(|last| last.len() > ANSWER) {
            out.input.pop();
            self.rpc
                .fail(request, "the answer is too long: ask for less of it", out);
        }
    }

    fn has_written(&mut self, path: &str, created: bool) -> ToolFinished {
        let changes = |call: &Call| matches!(call.tool.as_str(), "Write" | "Edit" | "Delete" | "Move" | "Tool");
        let by_path = |call: &&Call| call.paths.iter().any(|one| one == path);
        let found = self.calls.iter().find(by_path).or_else(|| {
            let mut those = self.calls.iter().filter(|call| changes(call) && call.paths.is_empty());
            those.next().filter(|_| those.next().is_none())
        });
        let call = found.map(|call| call.id.clone());
        let verb = if created { "Created" } else { "Updated" };
        let (mut call, parent) = self.close_or_make(call, None, "write");
        if parent.is_some() || matches!(call.tool.as_str(), "" | "Tool") {
            (call.tool, call.raw_tool) = ("Write".to_owned(), "fs/write_text_file".to_owned());
        }
        call.after = Some(summary::line(&format!("{verb} {path}")));
        call.paths = vec![path.to_owned()];
        call.parent = parent;
        call.finished(Outcome::Ok, Source::Barrier)
    }

    fn has_begun(&mut self, name: &str, command: &str) {
        let name = id(name);
        // Its call may say so itself, later.
        let runs: Vec<_> = self
            .calls
            .iter()
            .filter(|call| call.tool == "Bash" && call.task.is_none())
            .map(|call| call.id.clone())
            .collect();
        if let [only] = runs.as_slice()
            && let Some(call) = self.calls.get(only)
        {
            call.task = Some(name.clone());
        }
        self.through.terminals.push(Terminal {
            id: name,
            summary: summary::command(command),
            end: End::Untold,
        });
    }

    /// Nothing, if it was told before.
    fn has_ended(&mut self, name: &str, exit: &Exit) -> Option<ToolFinished> {
        let those = |terminal: &&Terminal| terminal.id == name && matches!(terminal.end, End::Untold);
        let terminal = self.through.terminals.iter().find(those)?;
        let typed = terminal.summary.clone();
        let call = self.calls.by_task(name).map(|call| call.id.clone());
        let (mut call, parent) = self.close_or_make(call, Some(name), "terminal");
        if parent.is_some() || matches!(call.tool.as_str(), "" | "Tool") {
            (call.tool, call.raw_tool) = ("Bash".to_owned(), "terminal/create".to_owned());
        }
        if parent.is_some() || call.summary.is_empty() {
            call.summary = typed;
        }
        call.parent = parent;
        let outcome = match exit {
            Exit { signal: Some(_), .. } => Outcome::Interrupted,
            Exit { code: Some(0), .. } => Outcome::Ok,
            _ => Outcome::Failed,
        };
        Some(ToolFinished {
            exit_code: exit.code,
            ..call.finished(outcome, Source::Barrier)
        })
    }

    /// The call that something belongs to, ended; else one of our own, and the call of the agent's that it is a part of if that was ended by another part.
    fn close_or_make(&mut self, call: Option<String>, terminal: Option<&str>, own: &str) -> (Call, Option<String>) {
        if let Some(name) = call
            && let Some(call) = self.calls.close(&name, Call::default)
        {
            self.through.remember_call(&name, call.task.clone());
            return (call, None);
        }
        let mut told = self.through.told.iter().rev();
        let parent = match terminal {
            Some(_) => told.find(|(_, have)| have.as_deref() == terminal),
            // One after another: the last that was told is the one that goes on.
            None => told.find(|(_, have)| have.is_none()),
        };
        let parent = parent.map(|(call, _)| call.clone());
        let call = loop {
            self.through.count += 1;
            let name = format!("{own}-{}", self.through.count);
            // An agent may have a call of that name.
            if let Some(call) = self.calls.close(&name, Call::default) {
                break Call { id: name, ..call };
            }
        };
        (call, parent)
    }
}

fn status(exit: &Exit) -> Value {
    let signal = exit.signal.map(|number| {
        let known = SIGNALS.iter().find(|(known, _)| *known == number);
        known.map_or_else(|| number.to_string(), |(_, name)| (*name).to_owned())
    });
    json!({ "exitCode": exit.code, "signal": signal })
}
