//! What an agent says about its start, to people rather than to us: that it does not know the session that it was to go on with, that nobody is logged in, that it does
//! not understand its arguments.

use bstr::ByteSlice as _;

use super::{
    Answer, Change, Decision, Dialect, Event, Exit, Nature, Refused, Step, TurnOutcome, Unfit, UserMessage, bounded_to,
};

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
/// How agents say that nobody is logged in, or that their key is not taken.
const LOGIN: [&str; 22] = [
    "\"error\":\"authentication_failed\"",
    "invalid api key",
    "incorrect api key",
    "invalid x-api-key",
    "please run /login",
    "not logged in",
    "log in again",
    "oauth token has expired",
    "oauth token has been revoked",
    "failed to authenticate",
    "authentication required",
    "authentication failed",
    "authentication_error",
    "providerautherror",
    "401 unauthorized",
    "status 401",
    "api error: 401",
    "missing api key",
    "no api key",
    "missing letta_api_key",
    "codex login",
    "opencode auth login",
];
/// How programs say that they do not understand their arguments.
const ARGUMENTS: [&str; 17] = [
    "unknown option",
    "unknown argument",
    "unknown flag",
    "unknown command",
    "unexpected argument",
    "unexpected option",
    "unrecognized argument",
    "unrecognized option",
    "unrecognised option",
    "unrecognized subcommand",
    "invalid option",
    "invalid value for",
    "invalid value '",
    "argument is invalid",
    "missing required argument",
    "required arguments were not provided",
    "option requires an argument",
];
/// Exit codes that mean the same whoever returns them (`sysexits.h`): called wrongly, not allowed, configured wrongly.
const USAGE: i32 = 64;
const NOT_ALLOWED: i32 = 77;
const CONFIGURATION: i32 = 78;
/// What `getopt`, `argparse` and `clap` return for arguments that they do not understand; others mean other things by it.
const MISUSE: i32 = 2;
/// Bytes of a line that are looked at for a session or a word of the protocol, and of what is said to people; and of that as it is told.
const LOOK: usize = 8 << 10;
const READ: usize = 2 << 10;
const TOLD: usize = 300;

/// Whether an agent's words about a session mean that it does not have it.
pub(super) fn says_unknown(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    WORDS.iter().any(|word| text.contains(word))
}

/// An agent that is listened to for what it says to people about its start.
#[derive(Debug)]
pub(super) struct Watched {
    agent: Box<dyn Dialect>,
    /// The name of the session that it was told to go on with in its arguments, until it is known whether it is there.
    session: Option<String>,
    /// It is not: what it calls the next one before it ends is of no use, either.
    is_gone: bool,
    /// It has named a session or finished a turn: its arguments were understood.
    has_begun: bool,
    /// What it has said last of being of no use as it is, and in which words.
    unfit: Option<(Unfit, String)>,
}

impl Watched {
    pub fn new(agent: Box<dyn Dialect>, session: Option<String>) -> Self {
        Watched {
            agent,
            session,
            is_gone: false,
            has_begun: false,
            unfit: None,
        }
    }

    /// Looks for words about logins and arguments.
    fn judge(&mut self, text: &str) {
        let beginning = super::json::head(text, READ);
        let lower = beginning.to_ascii_lowercase();
        let says = |words: &[&str]| words.iter().any(|word| lower.contains(word));
        let unfit = match () {
            () if says(&LOGIN) => Unfit::Login,
            () if !self.has_begun && says(&ARGUMENTS) => Unfit::Arguments,
            () => return,
        };
        self.unfit = Some((unfit, bounded_to(beginning.trim(), TOLD)));
    }

    /// A line that is for people, whether it is on standard error or not.
    fn judge_line(&mut self, line: &[u8]) {
        // What only passes lines on says nothing of itself.
        if !self.agent.nature().tells_turns || self.has_begun {
            // Later on such a line is as likely a tool's; the agent has words of its own then.
            return;
        }
        let line = &line[..line.len().min(LOOK)];
        if !line.trim_ascii_start().starts_with(b"{") {
            self.judge(&super::summary::without_escapes(&String::from_utf8_lossy(line)));
        } else if line.contains_str(LOGIN[0]) {
            self.unfit = Some((Unfit::Login, "authentication_failed".to_owned()));
        }
    }

    /// What it has said in its own words.
    fn weigh(&mut self, before: usize, out: &Step) {
        for event in out.events.iter().skip(before) {
            match event {
                Event::Session { .. } => self.has_begun = true,
                Event::TurnEnded(ended) if ended.outcome == TurnOutcome::Completed => {
                    (self.has_begun, self.unfit) = (true, None);
                }
                Event::TurnEnded(ended) if ended.outcome == TurnOutcome::Failed => {
                    if let Some(text) = &ended.text {
                        self.judge(text);
                    }
                }
                Event::Failed { text } | Event::Trouble { text } => self.judge(text),
                _ => {}
            }
        }
    }

    /// Why it is of no use to start it again, if that is so.
    fn verdict(&mut self, exit: &Exit) -> Option<(Unfit, String)> {
        let tells = self.agent.nature().tells_turns;
        let said = |unfit, code: i32| Some((unfit, format!("exit code {code}")));
        match exit.code {
            Some(0) | None => None,
            Some(USAGE) => said(Unfit::Arguments, USAGE),
            Some(NOT_ALLOWED) => said(Unfit::Login, NOT_ALLOWED),
            Some(CONFIGURATION) => said(Unfit::Configuration, CONFIGURATION),
            Some(_) if self.unfit.is_some() => self.unfit.take(),
            Some(MISUSE) if tells && !self.has_begun => said(Unfit::Arguments, MISUSE),
            Some(_) => None,
        }
    }

    fn listen(&mut self, line: &[u8], out: &mut Step) {
        let Some(session) = &self.session else { return };
        let line = &line[..line.len().min(LOOK)];
        let has = |word: &[u8]| line.contains_str(word);
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

impl Dialect for Watched {
    fn nature(&self) -> Nature {
        self.agent.nature()
    }

    fn begin(&mut self, out: &mut Step) {
        self.agent.begin(out);
    }

    fn line(&mut self, line: &[u8], out: &mut Step) {
        self.listen(line, out);
        self.judge_line(line);
        let before = out.events.len();
        self.agent.line(line, out);
        self.look(out);
        self.weigh(before, out);
    }

    fn complaint(&mut self, line: &[u8], out: &mut Step) {
        self.listen(line, out);
        self.judge_line(line);
        self.agent.complaint(line, out);
    }

    fn finished(&mut self, exit: &Exit, out: &mut Step) {
        let before = out.events.len();
        self.agent.finished(exit, out);
        self.weigh(before, out);
        if let Some((why, text)) = self.verdict(exit) {
            out.events.push(Event::Unfit { why, text });
        }
    }

    fn ask(&mut self, message: UserMessage<'_>, out: &mut Step) -> Result<(), Refused> {
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
        let before = out.events.len();
        self.agent.answer(order, answer, out);
        self.weigh(before, out);
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

    /// What an agent that says this on standard error and ends so is told to be.
    fn unfit(kind: Kind, complaint: &str, code: i32) -> Option<Unfit> {
        let mut agent = kind.speaker(Options::new("/ws"));
        let mut step = Step::default();
        agent.begin(&mut step);
        agent.complaint(complaint.as_bytes(), &mut step);
        agent.finished(&Exit::code(code), &mut step);
        step.events.iter().find_map(|event| match event {
            Event::Unfit { why, .. } => Some(*why),
            _ => None,
        })
    }

    #[test]
    fn who_is_not_logged_in_or_called_wrongly_is_not_fit_to_be_started_again() {
        for (kind, complaint, code, meant) in [
            (
                Kind::Claude,
                "Invalid API key · Please run /login",
                1,
                Some(Unfit::Login),
            ),
            (
                Kind::Claude,
                "error: unknown option '--frob'",
                1,
                Some(Unfit::Arguments),
            ),
            (
                Kind::Codex,
                "error: unexpected argument '--frob' found",
                2,
                Some(Unfit::Arguments),
            ),
            (
                Kind::Codex,
                "\u{1b}[31mERROR\u{1b}[0m: 401 Unauthorized: Missing bearer",
                1,
                Some(Unfit::Login),
            ),
            (Kind::LettaPrint, "Missing LETTA_API_KEY", 1, Some(Unfit::Login)),
            (Kind::Acp, "something else", 2, Some(Unfit::Arguments)),
            (Kind::Claude, "Connection reset by peer", 1, None),
            (Kind::Claude, "Please run /login", 0, None),
            (Kind::Plain, "error: unknown option '--frob'", 1, None),
            (Kind::Plain, "make: *** [all] Error 1", 2, None),
            (Kind::Plain, "usage: x", 64, Some(Unfit::Arguments)),
            (Kind::Plain, "x: no permission", 77, Some(Unfit::Login)),
            (Kind::Plain, "x: bad line 3", 78, Some(Unfit::Configuration)),
        ] {
            assert_eq!(unfit(kind, complaint, code), meant, "{kind:?}: {complaint}");
        }
    }

    #[test]
    fn what_an_agent_has_come_over_is_not_held_against_it() {
        let mut agent = Kind::Codex.speaker(Options::new("/ws"));
        let mut step = Step::default();
        let mut say = |agent: &mut dyn Dialect, line: &str| agent.line(line.as_bytes(), &mut step);
        say(agent.as_mut(), r#"{"type":"thread.started","thread_id":"01a1"}"#);
        say(agent.as_mut(), r#"{"type":"turn.started"}"#);
        say(
            agent.as_mut(),
            r#"{"type":"error","message":"401 Unauthorized, trying again"}"#,
        );
        // Its own words about a tool of somebody's are about that tool.
        say(agent.as_mut(), "ls: unknown option -- z");
        say(agent.as_mut(), r#"{"type":"turn.completed","usage":{}}"#);
        agent.finished(&Exit::code(2), &mut step);
        let is_unfit = |event: &Event| matches!(event, Event::Unfit { .. });
        assert!(!step.events.iter().any(is_unfit), "{step:?}");
        let mut agent = Kind::Codex.speaker(Options::new("/ws"));
        let mut step = Step::default();
        agent.line(br#"{"type":"thread.started","thread_id":"01a1"}"#, &mut step);
        agent.line(br#"{"type":"turn.started"}"#, &mut step);
        agent.line(
            br#"{"type":"turn.failed","error":{"message":"status 401: no key"}}"#,
            &mut step,
        );
        agent.finished(&Exit::code(1), &mut step);
        assert!(step.events.iter().any(is_unfit), "{step:?}");
        // What it fails of later is something else than what a tool of its has written.
        let mut agent = Kind::Codex.speaker(Options::new("/ws"));
        let mut step = Step::default();
        agent.line(br#"{"type":"thread.started","thread_id":"01a1"}"#, &mut step);
        agent.complaint(b"fatal: Authentication failed for 'https://a.example/x'", &mut step);
        agent.finished(&Exit::code(1), &mut step);
        assert!(!step.events.iter().any(is_unfit), "{step:?}");
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
