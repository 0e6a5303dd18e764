//! The laws of this room as functions of any bytes: what the fuzz target calls and ordinary tests replay over `fuzz/corpus`.
//! Each panics if a law is broken.

use std::collections::{HashMap, HashSet};

use super::{Answer, Bounds, Decision, Event, Exit, Kind, Lines, Options, Order, Outcome, Step, UserMessage};

/// Follows what is told, and finds contradictions in it.
#[derive(Debug, Default)]
pub(super) struct Listener {
    pub started: HashMap<String, u32>,
    pub ended: HashSet<String>,
    pub turn: Option<u64>,
    turns: u64,
    pub permissions: Vec<String>,
    pub barriers: Vec<String>,
    pub orders: Vec<Order>,
}

impl Listener {
    /// Takes what is in a step.
    pub fn hear(&mut self, step: &mut Step, bounds: &Bounds) {
        let step = std::mem::take(step);
        for event in &step.events {
            self.event(event, bounds);
        }
        self.orders.extend(step.orders);
        for input in &step.input {
            let text = std::str::from_utf8(input).expect("UTF-8");
            assert_eq!(text.find('\n'), Some(text.len() - 1), "one message, one line: {text:?}");
        }
    }

    fn event(&mut self, event: &Event, bounds: &Bounds) {
        match event {
            Event::TurnStarted { turn, .. } => {
                assert_eq!(self.turn, None, "a turn in a turn");
                self.turns += 1;
                assert_eq!(*turn, self.turns);
                self.turn = Some(*turn);
            }
            Event::TurnEnded(ended) => assert_eq!(self.turn.take(), Some(ended.turn)),
            Event::ToolStarted(tool) => {
                let times = self.started.entry(tool.call.clone()).or_default();
                *times += 1;
                let is_known = *times > 1 || self.ended.contains(&tool.call);
                assert!(!is_known || self.ended.len() > 1_000, "{} starts twice", tool.call);
                one_line(&tool.summary);
                one_line(&tool.tool);
            }
            Event::ToolFinished(tool) => {
                one_line(&tool.summary);
                one_line(&tool.tool);
                assert!(!tool.tool.is_empty());
                self.barriers.extend(tool.barrier.clone());
                if tool.outcome != Outcome::BackgroundStarted {
                    for call in std::iter::once(&tool.call).chain(&tool.with) {
                        let is_new = self.ended.insert(call.clone());
                        // A thousand are remembered.
                        assert!(is_new || self.ended.len() > 1_000, "{call} ends twice");
                    }
                }
            }
            Event::Settled { barrier, .. } => self.barriers.extend(barrier.clone()),
            Event::Said { text, .. } => assert!(text.len() <= bounds.text_bytes + 3),
            Event::Permission(asked) => {
                one_line(&asked.summary);
                if !asked.is_refused {
                    self.permissions.push(asked.request.clone());
                }
            }
            Event::PermissionGone { request, .. } => {
                let at = self.permissions.iter().position(|waits| waits == request);
                self.permissions.remove(at.expect("it was asked for"));
            }
            Event::Log { text } | Event::Trouble { text } | Event::Failed { text } | Event::Unfit { text, .. } => {
                assert!(text.len() <= bounds.text_bytes + 3);
            }
            Event::Ready | Event::Session { .. } | Event::SessionGone { .. } | Event::Changed(_) => {}
        }
    }
}

/// What whoever carries out an order answers.
pub(super) fn done(order: &Order) -> Answer {
    match order {
        Order::ReadFile { .. } => Answer::Text("text".to_owned()),
        Order::WriteFile { path, .. } => Answer::Written {
            path: path.trim_start_matches("/ws/").to_owned(),
            created: true,
        },
        Order::TerminalCreate { .. } => Answer::Terminal("t1".to_owned()),
        Order::TerminalOutput { .. } => Answer::Output {
            text: "text".to_owned(),
            truncated: false,
            exit: Some(Exit::code(3)),
        },
        Order::TerminalWait { .. } => Answer::Exited(Exit::code(0)),
        Order::TerminalKill { .. } | Order::TerminalRelease { .. } => Answer::Exited(Exit::signal(9)),
        Order::Http { .. } => Answer::Http {
            status: 200,
            body: b"[]".to_vec(),
        },
    }
}

fn one_line(text: &str) {
    assert!(!text.contains(char::is_control), "{text:?}");
    assert!(text.chars().count() <= 80, "{text:?}");
}

impl Listener {
    /// The process has ended, and nothing may be open.
    pub fn end(&self) {
        assert_eq!(self.turn, None, "a turn is left open");
        assert!(self.permissions.is_empty(), "a permission is left open");
        for call in self.started.keys() {
            assert!(self.ended.contains(call), "{call} is left open");
        }
    }
}

/// The first byte says which dialect it is; the rest is what an agent writes. Between its lines it is asked, allowed and let go on.
pub fn lines(input: &[u8]) {
    let (first, rest) = input.split_first().map_or((0, input), |(first, rest)| (*first, rest));
    let kind = Kind::ALL[usize::from(first) % Kind::ALL.len()];
    let mut options = Options::new("/ws");
    options.bounds = Bounds {
        line_bytes: 4 << 10,
        text_bytes: 256,
        calls: 16,
        pending: 8,
        terminals: 2,
        terminal_bytes: 100,
    };
    (options.offers_files, options.offers_terminals) = (true, true);
    let bounds = options.bounds;
    let mut agent = kind.speaker(options);
    let (mut step, mut listener) = (Step::default(), Listener::default());
    agent.begin(&mut step);
    listener.hear(&mut step, &bounds);
    let mut told = Vec::new();
    let mut framer = Lines::new(bounds.line_bytes);
    framer.feed(rest, |line, _| told.push(line.to_vec()));
    framer.end(|line, _| told.push(line.to_vec()));
    for (at, line) in told.iter().enumerate() {
        agent.line(line, &mut step);
        listener.hear(&mut step, &bounds);
        match at % 5 {
            0 => {
                let taken = agent.ask(UserMessage { id: "m", text: "go" }, &mut step).is_ok();
                assert!(taken || step.is_empty(), "who refuses does nothing");
            }
            1 => listener.permissions.pop().into_iter().for_each(|request| {
                agent.permit(&request, Decision::Allow, &mut step);
            }),
            2 => listener.barriers.pop().into_iter().for_each(|barrier| {
                agent.release(&barrier, &mut step);
            }),
            3 => listener.orders.pop().into_iter().for_each(|order| {
                agent.answer(order.id(), done(&order), &mut step);
            }),
            _ => {}
        }
        listener.hear(&mut step, &bounds);
    }
    agent.finished(&Exit::code(0), &mut step);
    listener.hear(&mut step, &bounds);
    listener.end();
}
