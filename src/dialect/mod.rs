//! `dialect`: the stream protocols of coding agents as values.
//!
//! Lines in, events out; wishes in, lines out. Holds no process, no pipe and no clock: the same lines give the same events however they were cut into pieces. Nothing
//! that an agent writes is an error here; what is not understood is passed on as a line for the log, and what is kept of it is bounded.

mod acp;
mod calls;
mod claude;
mod codex;
mod exchange;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod json;
mod letta;
mod lines;
mod ndjson;
mod opencode;
mod options;
mod permissions;
mod plain;
mod presets;
mod rpc;
mod seam;
mod subject;
mod summary;
#[cfg(test)]
mod tests;
mod turns;
mod watched;

pub use claude::{ClaudeHistory, HistoryMessage, HistoryPage, HistoryPlace, is_claude_project, is_claude_session};
pub use exchange::{Decision, Gone, Joined, JoinedBy, NamedCommand, NamedPath, Permission, Subject, UserMessage};
pub use lines::Lines;
pub use ndjson::Pointers;
pub use options::{Bounds, Kind, Options, ThreadOptions};
pub use presets::{
    EnvError, Invocation, LettaBlock, LettaCli, LettaConversation, LettaOptions, LettaSystem, Preset, PresetError,
    Wanted, env_key, going_on, invoke, letta_not_found, letta_places,
};
pub use seam::{
    Answer, Asks, Change, Dialect, Event, Exit, Nature, Order, Outcome, Refused, Source, Step, ToolFinished,
    ToolStarted, TurnEnded, TurnOutcome, Unfit, Usage,
};
#[cfg(test)]
pub(crate) use subject::of_tool as subject_of_tool;
pub use summary::{Shape, Summary, summarise};

/// Bytes of a line in the log.
const LOG: usize = 4 << 10;

/// A line that is nothing else.
fn log(line: &[u8]) -> Event {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    // Half a character at the cut is of no matter.
    let beginning = &line[..line.len().min(LOG)];
    Event::log(summary::without_escapes(&String::from_utf8_lossy(beginning)))
}

/// A line that is an object; any other goes to the log, unless it is empty.
fn object_or_log<'a>(line: &'a [u8], options: &Options, out: &mut Step) -> Option<json::Object<'a>> {
    let object = json::object(line, options.bounds.text_bytes);
    if object.is_none() && !line.trim_ascii().is_empty() {
        out.events.push(log(line));
    }
    object
}

/// Why there can be no turn now, if there can be none.
fn may_ask(message: &str, is_gone: bool, is_busy: bool, options: &Options) -> Result<(), Refused> {
    match () {
        () if is_gone => Err(Refused::Ended),
        () if is_busy => Err(Refused::Busy),
        () if message.len() > options.bounds.line_bytes => Err(Refused::TooLong),
        () => Ok(()),
    }
}

/// What is said to whoever asks for what its protocol has no way to say.
fn not_spoken(is_gone: bool) -> Result<(), Refused> {
    Err(if is_gone { Refused::Ended } else { Refused::NotSpoken })
}

/// The agent's own name of its session, as it is told: nothing, if it is known.
fn take_session(known: &mut Option<String>, told: Option<&str>, model: Option<&str>, out: &mut Step) {
    if let Some(told) = told
        && known.as_deref() != Some(told)
    {
        let told = calls::id(told);
        *known = Some(told.clone());
        out.events.push(Event::Session {
            id: told,
            model: model.map(calls::id),
        });
    }
}

/// A text as long as an event may hold.
fn bounded(text: &str, options: &Options) -> String {
    bounded_to(text, options.bounds.text_bytes)
}

fn bounded_to(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    format!("{}…", json::head(text, most))
}

/// Something whole that was said.
fn said(text: &str, options: &Options) -> Event {
    Event::said(bounded(text, options))
}
