use super::{Event, Exit, Joined, JoinedBy, Step, ToolFinished, TurnEnded, TurnOutcome, Usage, UserMessage};

/// The turns of one process, counted.
#[derive(Debug, Clone, Default)]
pub(super) struct Turns {
    turn: u64,
    open: bool,
    /// What the open one is about.
    message: Option<Joined>,
}

impl Turns {
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// A turn of the agent's own begins, unless one is open.
    pub fn begin(&mut self, out: &mut Step) {
        self.begin_about(None, out);
    }

    /// A turn begins for this message: it was taken, and none was open.
    pub fn begin_for(&mut self, message: UserMessage<'_>, out: &mut Step) {
        let joined = Joined {
            id: message.id.to_owned(),
            by: JoinedBy::Order,
        };
        self.begin_about(Some(joined), out);
    }

    /// A turn begins, unless one is open.
    pub fn begin_about(&mut self, message: Option<Joined>, out: &mut Step) {
        if !self.open {
            self.open = true;
            self.turn += 1;
            self.message.clone_from(&message);
            out.events.push(Event::TurnStarted {
                turn: self.turn,
                message,
            });
        }
    }

    /// What the open turn is about.
    pub fn message(&self) -> Option<&Joined> {
        self.message.as_ref().filter(|_| self.open)
    }

    /// What the open turn is about is known better now.
    pub fn is_about(&mut self, message: Option<Joined>) {
        self.message = message;
    }

    /// The agent has named the message or the turn: it is the one that it was taken for.
    pub fn is_certain(&mut self) {
        if let Some(message) = &mut self.message {
            message.by = JoinedBy::Id;
        }
    }

    /// The open turn ends, if there is one.
    pub fn end(&mut self, outcome: TurnOutcome, text: Option<String>, usage: Usage, out: &mut Step) {
        if std::mem::take(&mut self.open) {
            out.events.push(Event::TurnEnded(TurnEnded {
                turn: self.turn,
                message: self.message.take(),
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
