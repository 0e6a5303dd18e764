use super::parts;
use crate::dialect::{
    Dialect, Event, Exit, Nature, Options, Refused, Step, TurnOutcome, Usage, UserMessage, bounded, calls::Calls, log,
    not_spoken, object_or_log, take_session, turns::Turns,
};

/// `opencode run --format json`: one process is one turn, which is in its arguments. Tools are told of when they have ended, and the end of the process is that of the turn.
#[derive(Debug)]
pub(in crate::dialect) struct Run {
    options: Options,
    /// Only to tell of each call once.
    calls: Calls,
    turns: Turns,
    session: Option<String>,
    usage: Usage,
    last: Option<String>,
    error: Option<String>,
    /// The last step said that it was the last.
    stopped: bool,
    ended: bool,
}

impl Run {
    pub fn new(options: Options) -> Self {
        Run {
            calls: Calls::new(options.bounds.calls),
            options,
            turns: Turns::default(),
            session: None,
            usage: Usage::default(),
            last: None,
            error: None,
            stopped: false,
            ended: false,
        }
    }

    fn say(&mut self, text: &str, thought: bool, out: &mut Step) {
        if text.is_empty() {
            return;
        }
        let text = bounded(text, &self.options);
        if !thought {
            self.last = Some(text.clone());
        }
        out.events.push(Event::Said {
            text,
            partial: false,
            thought,
            parent: None,
        });
    }
}

impl Dialect for Run {
    fn nature(&self) -> Nature {
        Nature::ONE_QUESTION
    }

    fn begin(&mut self, out: &mut Step) {
        out.close_input = true;
        out.events.push(Event::Ready);
        self.turns.begin(out);
    }

    fn line(&mut self, bytes: &[u8], out: &mut Step) {
        let Some(object) = object_or_log(bytes, &self.options, out) else {
            return;
        };
        let line = &object.json;
        take_session(&mut self.session, line.at("sessionID").some_text(), None, out);
        let part = line.at("part");
        match line.at("type").str() {
            "step_start" => self.stopped = false,
            "tool_use" => {
                let Some(call) = parts::call(part, None, &self.options).filter(|_| parts::has_ended(part)) else {
                    out.events.push(log(bytes));
                    return;
                };
                if let Some(call) = self.calls.close(&call.id.clone(), || call) {
                    let ended = parts::ended(call, part, &self.options);
                    out.events.push(Event::ToolFinished(ended));
                }
            }
            "text" => self.say(part.at("text").str(), false, out),
            "reasoning" => self.say(part.at("text").str(), true, out),
            "step_finish" => {
                parts::add(&mut self.usage, part);
                self.stopped = part.at("reason").str() == "stop";
            }
            "error" => {
                let text = bounded(parts::error_text(line.at("error")), &self.options);
                self.error = Some(text.clone());
                out.events.push(Event::Failed { text });
            }
            _ => out.events.push(log(bytes)),
        }
    }

    fn finished(&mut self, exit: &Exit, out: &mut Step) {
        self.ended = true;
        let usage = std::mem::take(&mut self.usage);
        match (self.error.take(), exit.code) {
            (Some(error), _) => self.turns.end(TurnOutcome::Failed, Some(error), usage, out),
            (None, Some(0)) if self.stopped => self.turns.end(TurnOutcome::Completed, self.last.take(), usage, out),
            // A permission that was refused ends a run so.
            (None, Some(0)) => {
                let text = "the run has ended before the agent was done".to_owned();
                self.turns.end(TurnOutcome::Failed, Some(text), usage, out);
            }
            (None, _) => self.turns.end_with(exit, None, out),
        }
    }

    fn ask(&mut self, _: UserMessage<'_>, _: &mut Step) -> Result<(), Refused> {
        not_spoken(self.ended)
    }

    fn interrupt(&mut self, _: &mut Step) -> Result<(), Refused> {
        not_spoken(self.ended)
    }
}
