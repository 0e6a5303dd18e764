use super::{Event, Exit, Step, ToolFinished, TurnEnded, TurnOutcome, Usage};

/// The turns of one process, counted.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Turns {
    turn: u64,
    open: bool,
}

impl Turns {
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// A turn begins, unless one is open.
    pub fn begin(&mut self, out: &mut Step) {
        if !self.open {
            self.open = true;
            self.turn += 1;
            out.events.push(Event::TurnStarted { turn: self.turn });
        }
    }

    /// The open turn ends, if there is one.
    pub fn end(&mut self, outcome: TurnOutcome, text: Option<String>, usage: Usage, out: &mut Step) {
        if std::mem::take(&mut self.open) {
            out.events.push(Event::TurnEnded(TurnEnded {
                turn: self.turn,
                outcome,
                text,
                usage,
            }));
        }
    }

    /// The process has ended in the middle of a turn, if it was one; what it had open ends before.
    pub fn end_with(&mut self, exit: &Exit, open: Option<ToolFinished>, out: &mut Step) {
        out.events.extend(open.map(Event::ToolFinished));
        let (outcome, text) = match (exit.code, exit.signal) {
            // As shells tell of signals.
            (Some(code @ (130 | 137 | 143)), _) => (TurnOutcome::Interrupted, format!("the agent exited with {code}")),
            (Some(code), _) => (TurnOutcome::Failed, format!("the agent exited with {code} in a turn")),
            (None, Some(signal)) => (TurnOutcome::Interrupted, format!("signal {signal} ended the agent")),
            (None, None) => (TurnOutcome::Interrupted, "the agent is gone".to_owned()),
        };
        self.end(outcome, Some(text), Usage::default(), out);
    }
}

/// A message of one line.
pub(super) fn message(value: &serde_json::Value) -> Vec<u8> {
    ended(value.to_string())
}

/// A text of JSON as a message of one line.
pub(super) fn ended(mut text: String) -> Vec<u8> {
    text.push('\n');
    text.into_bytes()
}

/// A text as JSON.
pub(super) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
