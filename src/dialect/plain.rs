use super::{Asks, Dialect, Event, Exit, Nature, Options, Refused, Step, UserMessage, log, may_ask, said};

/// Any command: what it writes is what it says, and what it is asked is a line of its input. It has no turns and tells of no tools.
#[derive(Debug)]
pub(super) struct Plain {
    options: Options,
    ended: bool,
}

impl Plain {
    pub fn new(options: Options) -> Self {
        Plain { options, ended: false }
    }
}

impl Dialect for Plain {
    fn nature(&self) -> Nature {
        Nature {
            asks: Asks::Lines,
            tells_turns: false,
            tells_tools: false,
            total_cost: false,
            ..Nature::ONE_QUESTION
        }
    }

    fn begin(&mut self, out: &mut Step) {
        out.events.push(Event::Ready);
    }

    fn line(&mut self, line: &[u8], out: &mut Step) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let text = String::from_utf8_lossy(line);
        if text.trim().is_empty() {
            out.events.push(log(line));
        } else {
            out.events.push(said(&text, &self.options));
        }
    }

    fn finished(&mut self, _: &Exit, _: &mut Step) {
        self.ended = true;
    }

    fn ask(&mut self, message: UserMessage<'_>, out: &mut Step) -> Result<(), Refused> {
        may_ask(message.text, self.ended, false, &self.options)?;
        out.input.push(format!("{}\n", message.text).into_bytes());
        Ok(())
    }

    fn interrupt(&mut self, _: &mut Step) -> Result<(), Refused> {
        Err(Refused::NotSpoken)
    }
}
