use super::items::Items;
use crate::dialect::{
    Dialect, Event, Exit, Nature, Options, Refused, Step, TurnOutcome, Usage, UserMessage, bounded, calls::id,
    json::Json, log, not_spoken, object_or_log, turns::Turns,
};

/// `codex exec --json`: one process is one turn, which is in its arguments.
#[derive(Debug)]
pub(in crate::dialect) struct Exec {
    options: Options,
    items: Items,
    turns: Turns,
    ended: bool,
}

impl Exec {
    pub fn new(options: Options) -> Self {
        Exec {
            items: Items::new(&options),
            options,
            turns: Turns::default(),
            ended: false,
        }
    }

    /// What is open now stays without an end: a long command may never be told of again.
    fn end(&mut self, outcome: TurnOutcome, text: Option<String>, usage: Usage, out: &mut Step) {
        let left = self.items.calls.interrupt(|_| true);
        out.events.extend(left.map(Event::ToolFinished));
        self.turns.end(outcome, text, usage, out);
    }
}

impl Dialect for Exec {
    fn nature(&self) -> Nature {
        Nature::ONE_QUESTION
    }

    fn begin(&mut self, out: &mut Step) {
        // It would wait for more of the message there.
        out.close_input = true;
        out.events.push(Event::Ready);
        self.turns.begin(out);
    }

    fn line(&mut self, bytes: &[u8], out: &mut Step) {
        let Some(object) = object_or_log(bytes, &self.options, out) else {
            return;
        };
        let line = &object.json;
        match line.at("type").str() {
            "thread.started" => out.events.push(Event::Session {
                id: id(line.at("thread_id").str()),
                model: None,
            }),
            "turn.started" => self.turns.begin(out),
            "item.started" | "item.updated" => self.items.begun(line.at("item"), out),
            "item.completed" => {
                if !self.items.completed(line.at("item"), out) {
                    out.events.push(log(bytes));
                }
            }
            "error" => self.items.trouble(line.at("message").str(), out),
            "turn.completed" => {
                let answer = self.items.last.take();
                self.end(TurnOutcome::Completed, answer, usage(line.at("usage")), out);
            }
            "turn.failed" => {
                let why = line.path(&["error", "message"]).some_text();
                let text = why.map(|text| bounded(text, &self.options));
                self.end(TurnOutcome::Failed, text, Usage::default(), out);
            }
            _ => out.events.push(log(bytes)),
        }
    }

    fn finished(&mut self, exit: &Exit, out: &mut Step) {
        self.ended = true;
        let left = self.items.calls.interrupt(|_| true);
        self.turns.end_with(exit, left, out);
    }

    fn ask(&mut self, _: UserMessage<'_>, _: &mut Step) -> Result<(), Refused> {
        not_spoken(self.ended)
    }

    fn interrupt(&mut self, _: &mut Step) -> Result<(), Refused> {
        not_spoken(self.ended)
    }
}

fn usage(told: &Json) -> Usage {
    Usage {
        input_tokens: told.at("input_tokens").count(),
        cached_tokens: told.at("cached_input_tokens").count(),
        output_tokens: told.at("output_tokens").count(),
        ..Usage::default()
    }
}
