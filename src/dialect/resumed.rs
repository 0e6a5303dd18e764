use super::{Answer, Change, Decision, Dialect, Event, Exit, Nature, Refused, Step};

/// How Claude Code says that it does not know a session, in a line of text or in a result.
const CLAUDE: &[u8] = b"No conversation found with session ID";
/// How others say it, beside the session's name.
const WORDS: [&str; 6] = [
    "not found",
    "no conversation",
    "no rollout",
    "no such",
    "does not exist",
    "unknown session",
];
/// Bytes of a line that are looked at.
const LOOK: usize = 8 << 10;

/// Whether an agent's words about a session mean that it does not have it.
pub(super) fn says_unknown(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    WORDS.iter().any(|word| text.contains(word))
}

/// An agent that was told in its arguments which session to go on with: until it says that it has, it is listened to for saying that there is none.
#[derive(Debug)]
pub(super) struct Resumed {
    agent: Box<dyn Dialect>,
    /// Its name, until it is known whether it is there.
    session: Option<String>,
    /// It is not: what it calls the next one before it ends is of no use, either.
    is_gone: bool,
}

impl Resumed {
    pub fn new(agent: Box<dyn Dialect>, session: String) -> Self {
        Resumed {
            agent,
            session: Some(session),
            is_gone: false,
        }
    }

    fn listen(&mut self, line: &[u8], out: &mut Step) {
        let Some(session) = &self.session else { return };
        let line = &line[..line.len().min(LOOK)];
        let has = |word: &[u8]| line.windows(word.len()).any(|part| part == word);
        // Messages name their session whatever they are about.
        let is_text = !line.trim_ascii_start().starts_with(b"{");
        let is_unknown =
            has(CLAUDE) || is_text && has(session.as_bytes()) && says_unknown(&String::from_utf8_lossy(line));
        if is_unknown && let Some(session) = self.session.take() {
            self.is_gone = true;
            out.events.push(Event::SessionGone {
                id: session,
                ends: true,
            });
        }
    }

    fn look(&mut self, out: &mut Step) {
        if self.is_gone {
            out.events.retain(|event| !matches!(event, Event::Session { .. }));
        } else if self.session.is_some() && out.events.iter().any(|event| matches!(event, Event::Session { .. })) {
            self.session = None;
        }
    }
}

impl Dialect for Resumed {
    fn nature(&self) -> Nature {
        self.agent.nature()
    }

    fn begin(&mut self, out: &mut Step) {
        self.agent.begin(out);
    }

    fn line(&mut self, line: &[u8], out: &mut Step) {
        self.listen(line, out);
        self.agent.line(line, out);
        self.look(out);
    }

    fn complaint(&mut self, line: &[u8], out: &mut Step) {
        self.listen(line, out);
        self.agent.complaint(line, out);
    }

    fn finished(&mut self, exit: &Exit, out: &mut Step) {
        self.agent.finished(exit, out);
    }

    fn ask(&mut self, message: &str, out: &mut Step) -> Result<(), Refused> {
        self.agent.ask(message, out)
    }

    fn interrupt(&mut self, out: &mut Step) -> Result<(), Refused> {
        self.agent.interrupt(out)
    }

    fn change(&mut self, change: Change, out: &mut Step) -> Result<(), Refused> {
        self.agent.change(change, out)
    }

    fn permit(&mut self, request: &str, decision: Decision, out: &mut Step) {
        self.agent.permit(request, decision, out);
    }

    fn release(&mut self, barrier: &str, out: &mut Step) {
        self.agent.release(barrier, out);
    }

    fn answer(&mut self, order: &str, answer: Answer, out: &mut Step) {
        self.agent.answer(order, answer, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::{Kind, Options};

    const SESSION: &str = "0835c2b4-0000-4000-8000-000000000001";

    fn resumed(kind: Kind) -> Box<dyn Dialect> {
        let mut options = Options::new("/ws");
        options.resume = Some(SESSION.to_owned());
        kind.speaker(options)
    }

    fn is_gone(agent: &mut dyn Dialect, say: impl FnOnce(&mut dyn Dialect, &mut Step)) -> bool {
        let mut step = Step::default();
        say(agent, &mut step);
        let gone = Event::SessionGone {
            id: SESSION.to_owned(),
            ends: true,
        };
        step.events.contains(&gone)
    }

    #[test]
    fn a_session_that_the_agent_does_not_know_is_told_of_once_wherever_it_says_so() {
        let text = format!("No conversation found with session ID: {SESSION}");
        let result = format!(
            r#"{{"type":"result","subtype":"error_during_execution","is_error":true,"session_id":"x","errors":["{text}"]}}"#
        );
        let mut agent = resumed(Kind::Claude);
        assert!(is_gone(agent.as_mut(), |agent, out| agent.complaint(text.as_bytes(), out)));
        assert!(!is_gone(agent.as_mut(), |agent, out| agent.complaint(text.as_bytes(), out)));
        let mut agent = resumed(Kind::Claude);
        assert!(is_gone(agent.as_mut(), |agent, out| agent.line(text.as_bytes(), out)));
        let mut agent = resumed(Kind::Claude);
        let mut step = Step::default();
        agent.line(result.as_bytes(), &mut step);
        let at = |is: fn(&Event) -> bool| step.events.iter().position(is);
        let gone = at(|event| matches!(event, Event::SessionGone { .. }));
        let named = |event: &Event| matches!(event, Event::Session { .. });
        assert!(!step.events.iter().any(named), "what ends is not gone on with");
        assert!(
            gone.is_some() && gone < at(|event| matches!(event, Event::TurnEnded(_))),
            "{step:?}"
        );
        for (kind, text) in [
            (Kind::Codex, format!("Error: no rollout found for thread id {SESSION}")),
            (Kind::Opencode, format!("Error: Session not found: {SESSION}")),
            (Kind::LettaPrint, format!("Conversation {SESSION} does not exist")),
        ] {
            let mut agent = resumed(kind);
            assert!(is_gone(agent.as_mut(), |agent, out| agent.complaint(text.as_bytes(), out)));
        }
    }

    #[test]
    fn what_is_missing_otherwise_is_not_the_session() {
        let mut agent = resumed(Kind::Claude);
        let hook = format!(
            r#"{{"type":"system","subtype":"hook_response","session_id":"{SESSION}","stderr":"sh: x: not found"}}"#
        );
        assert!(!is_gone(agent.as_mut(), |agent, out| agent.line(hook.as_bytes(), out)));
        assert!(!is_gone(agent.as_mut(), |agent, out| agent
            .complaint(b"sh: claude: not found", out)));
        // It has it: what is said now is about something else.
        let init = format!(r#"{{"type":"system","subtype":"init","session_id":"{SESSION}","uuid":"1"}}"#);
        assert!(!is_gone(agent.as_mut(), |agent, out| agent.line(init.as_bytes(), out)));
        let text = format!("No conversation found with session ID: {SESSION}");
        assert!(!is_gone(agent.as_mut(), |agent, out| agent.complaint(text.as_bytes(), out)));
        let mut fresh = Kind::Claude.speaker(Options::new("/ws"));
        let mut step = Step::default();
        fresh.complaint(text.as_bytes(), &mut step);
        assert!(step.is_empty());
    }
}
