use std::time::Duration;

use super::{Decision, Gone, Joined, Permission, UserMessage};

/// One agent's stream protocol: what it writes to standard output becomes events, what somebody wants of it becomes bytes for its standard input.
///
/// One value per running process, from its first byte to its last; a restarted agent gets a new one. Every method adds to a [`Step`]; the caller does what the step
/// asks for, in this order: the events, then the orders, then the input, then the end of input. No method fails on what an agent says.
///
/// ```
/// use gitstead::dialect::{Event, Exit, Kind, Options, Step};
///
/// let mut agent = Kind::Plain.speaker(Options::new("/ws"));
/// let mut step = Step::default();
/// agent.begin(&mut step);
/// agent.line(b"hello", &mut step);
/// agent.finished(&Exit::code(0), &mut step);
/// assert!(step.events.contains(&Event::said("hello")));
/// ```
pub trait Dialect: Send + std::fmt::Debug {
    /// What this agent can be asked to do. Does not change while it runs.
    fn nature(&self) -> Nature;

    /// The process is up: the handshake, if the protocol has one. Called once, before anything else.
    fn begin(&mut self, out: &mut Step);

    /// One line of standard output without its `\n`. The last one may be torn, any may be cut (see [`Lines`](super::Lines)); what is not understood becomes [`Event::Log`].
    fn line(&mut self, line: &[u8], out: &mut Step);

    /// One line of standard error without its `\n`: what is said there is for people, and may be why it ends.
    fn complaint(&mut self, line: &[u8], out: &mut Step) {
        let _ = (line, out);
    }

    /// Standard output has ended and the process is gone. Calls that are still open become one [`Event::ToolFinished`] with [`Outcome::Interrupted`], an open turn ends, and
    /// whatever waits for an answer is gone. Called once, after everything else.
    fn finished(&mut self, exit: &Exit, out: &mut Step);

    /// A turn of the user's. [`Event::TurnStarted`] is in the step when it was taken. Which turn it is about is told by its id, [`TurnEnded::message`]: an agent that begins
    /// a turn of its own at this very moment ends that one first.
    ///
    /// # Errors
    ///
    /// [`Refused`] says why it was not; nothing is in the step then.
    fn ask(&mut self, message: UserMessage<'_>, out: &mut Step) -> Result<(), Refused>;

    /// Asks the agent to end its turn. The turn is over when [`Event::TurnEnded`] comes, and not before.
    ///
    /// # Errors
    ///
    /// [`Refused::NotSpoken`] where the protocol knows no interrupt (a signal is what remains), [`Refused::Idle`] where no turn is open.
    fn interrupt(&mut self, out: &mut Step) -> Result<(), Refused>;

    /// Has it go on with something else from now on, or from the next turn on. [`Event::Changed`] comes when it does.
    ///
    /// # Errors
    ///
    /// [`Refused::NotSpoken`] where the protocol has no way to say that, [`Refused::NotReady`] and [`Refused::Ended`] where it cannot be said now.
    fn change(&mut self, change: Change, out: &mut Step) -> Result<(), Refused> {
        let _ = (change, out);
        Err(Refused::NotSpoken)
    }

    /// Answers [`Event::Permission`]. A request that is not pending (answered, withdrawn, never made) is passed over.
    fn permit(&mut self, request: &str, decision: Decision, out: &mut Step) {
        let _ = (request, decision, out);
    }

    /// Lets an agent go on that waits at a barrier ([`ToolFinished::barrier`], [`Event::Settled`]): the checkpoint was made, or its deadline has passed. A barrier that is
    /// not waited at any more is passed over.
    fn release(&mut self, barrier: &str, out: &mut Step) {
        let _ = (barrier, out);
    }

    /// Answers an [`Order`] by its id. Only dialects that give orders look at it.
    fn answer(&mut self, order: &str, answer: Answer, out: &mut Step) {
        let _ = (order, answer, out);
    }
}

/// What the caller has to do, and what it learns. Reused from step to step: take what is in it and leave it empty.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Step {
    /// What happened, in its order.
    pub events: Vec<Event>,
    /// What the agent wants done; each is answered with [`Dialect::answer`].
    pub orders: Vec<Order>,
    /// Messages for standard input, each whole and with its line end.
    pub input: Vec<Vec<u8>>,
    /// Standard input is to be closed after `input` was written.
    pub close_input: bool,
}

impl Step {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty() && self.orders.is_empty() && self.input.is_empty() && !self.close_input
    }
}

/// What an agent can be asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nature {
    /// How turns reach it.
    pub asks: Asks,
    /// It can be made to wait for a checkpoint: finished tools may come with a barrier.
    pub waits: bool,
    /// It asks before it does certain things.
    pub asks_permission: bool,
    /// Its protocol knows an interrupt.
    pub interrupts: bool,
    /// It says where turns begin and end. Without it the process's life is the turn.
    pub tells_turns: bool,
    /// It says which tools it uses. Without it files that have come to rest are all there is to go by.
    pub tells_tools: bool,
    /// What it says of money after a turn is the sum of all turns so far.
    pub total_cost: bool,
}

impl Nature {
    /// One that is talked to: turns one after another, permissions, interrupts.
    pub(super) const CONVERSING: Nature = Nature {
        asks: Asks::Many,
        waits: false,
        asks_permission: true,
        interrupts: true,
        tells_turns: true,
        tells_tools: true,
        total_cost: false,
    };
    /// One that is started with its only turn.
    pub(super) const ONE_QUESTION: Nature = Nature {
        asks: Asks::InArguments,
        asks_permission: false,
        interrupts: false,
        ..Nature::CONVERSING
    };
}

/// How turns reach an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asks {
    /// One turn for each process, given in its arguments.
    InArguments,
    /// Any number, one after another.
    Many,
    /// There are no turns; what is asked is a line on standard input.
    Lines,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// It takes turns now. Once.
    Ready,
    /// Its own name of the session, when it is known and whenever it changes: what resumes it later.
    Session {
        /// As the agent calls it.
        id: String,
        /// The model it works with, if it says so.
        model: Option<String>,
    },
    /// The session that it was to go on with is not there: the name is of no use any more.
    SessionGone {
        /// As it was called.
        id: String,
        /// It ends over it, and has to be started again; otherwise it begins a new one by itself.
        ends: bool,
    },
    /// It has ended, and would end the same way if it were started again as it is.
    Unfit {
        /// Why.
        why: Unfit,
        /// In its own words, or how it ended. May hold a secret.
        text: String,
    },
    /// Somebody has had something changed, and it holds.
    Changed(Change),
    /// A turn has begun: one that was asked for, or one that the agent began itself (background work has ended).
    TurnStarted {
        /// Counted from 1 in this process.
        turn: u64,
        /// What it is about, as far as that is known now: [`TurnEnded::message`] has the last word. None for one that the agent began itself.
        message: Option<Joined>,
    },
    /// A turn has ended. The process may go on; background work may, too.
    TurnEnded(TurnEnded),
    /// A tool is about to run.
    ToolStarted(ToolStarted),
    /// A tool has ended, or whatever is known of its end.
    ToolFinished(ToolFinished),
    /// Several tools that ran side by side have all ended; each was told of before. A checkpoint is wanted only if the files differ from the last one.
    Settled {
        /// The agent's ids of the calls.
        calls: Vec<String>,
        /// What the agent waits at; see [`Dialect::release`].
        barrier: Option<String>,
    },
    /// It says something to its user.
    Said {
        /// What; cut at `Limits::agent_text_bytes`.
        text: String,
        /// A piece of something that comes whole later. Who shows these leaves out the whole, and the other way round.
        partial: bool,
        /// It is thinking aloud.
        thought: bool,
        /// The call in which a subagent said it.
        parent: Option<String>,
    },
    /// It wants to be allowed something and waits for [`Dialect::permit`].
    Permission(Permission),
    /// A permission is not waited for any more; an answer would be for nobody.
    PermissionGone {
        /// As in [`Permission::request`].
        request: String,
        /// Why.
        why: Gone,
    },
    /// Something is in its way that may pass: a network that is away, a model that is busy.
    Trouble {
        /// Its own words.
        text: String,
    },
    /// The agent itself has failed, not a tool: the turn or the run will come to nothing.
    Failed {
        /// Its own words.
        text: String,
    },
    /// A line that is no message of the protocol, or one that nobody needs as anything else. Cut at a few KiB: the transcript has the bytes.
    Log {
        /// What it says, with `U+FFFD` where it was no UTF-8.
        text: String,
    },
}

impl Event {
    /// Something whole that was said to the user.
    pub fn said(text: impl Into<String>) -> Self {
        Event::Said {
            text: text.into(),
            partial: false,
            thought: false,
            parent: None,
        }
    }

    /// A line for the log.
    pub fn log(text: impl Into<String>) -> Self {
        Event::Log { text: text.into() }
    }
}

/// A tool that is about to run.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ToolStarted {
    /// The agent's id of the call; unique in a process, at most 256 bytes.
    pub call: String,
    /// As a checkpoint shall name it.
    pub tool: String,
    /// What it is about, in a line without secrets; may be empty.
    pub summary: String,
    /// The SHA-256 of what it is given, as JSON without spaces and with members in the order of their names, where that is known by now: who is given the same has the same.
    pub input_sha: Option<String>,
    /// The call of the subagent that uses it.
    pub parent: Option<String>,
    /// It runs on while the agent does something else.
    pub background: bool,
}

/// A tool that has ended.
///
/// A call that goes on in the background is told of twice: with [`Outcome::BackgroundStarted`] when the agent goes on, and again with `background` when it has ended.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ToolFinished {
    /// The agent's id of the call.
    pub call: String,
    /// Calls that ended with it and are not told of otherwise (an interrupted run ends all that were open at once).
    pub with: Vec<String>,
    /// As a checkpoint shall name it.
    pub tool: String,
    /// As the agent names it.
    pub raw_tool: String,
    /// The server of a tool of the Model Context Protocol.
    pub server: Option<String>,
    /// What it did, in a line without secrets; may be empty.
    pub summary: String,
    /// How it ended.
    pub outcome: Outcome,
    /// It had gone on in the background.
    pub background: bool,
    /// The exit code of a command, if it is told.
    pub exit_code: Option<i32>,
    /// How long it took by the agent's own account.
    pub duration: Option<Duration>,
    /// The call of the subagent that used it.
    pub parent: Option<String>,
    /// Other calls that were open when it ended, at most 16: what changed may be theirs.
    pub concurrent: Vec<String>,
    /// Files in the workspace that it says it has changed, relative to its root, at most 256. A hint.
    pub paths: Vec<String>,
    /// What the agent waits at before it goes on; see [`Dialect::release`].
    pub barrier: Option<String>,
    /// How we know.
    pub source: Source,
}

/// How a tool ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Outcome {
    /// It did what it was asked.
    #[default]
    Ok,
    /// It said that it could not. It may have changed files all the same.
    Failed,
    /// Somebody did not allow it; it never ran.
    Denied,
    /// It never ran for another reason: no such tool, wrong arguments.
    NotRun,
    /// Somebody stopped it before its end, or its end was never told.
    Interrupted,
    /// The agent goes on while it runs.
    BackgroundStarted,
}

impl Outcome {
    /// The word for trailers, journals and events.
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Ok => "ok",
            Outcome::Failed => "failed",
            Outcome::Denied => "denied",
            Outcome::NotRun => "not-run",
            Outcome::Interrupted => "interrupted",
            Outcome::BackgroundStarted => "background-started",
        }
    }

    /// Whether it ran at all, so that it may have changed files.
    pub fn may_have_changed(self) -> bool {
        !matches!(self, Outcome::Denied | Outcome::NotRun)
    }
}

/// How it is known that a tool has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Source {
    /// The agent said so in its stream, and did not wait.
    #[default]
    Stream,
    /// The agent asked us, and waits.
    Barrier,
    /// What came later makes sense only after it.
    Inferred,
    /// The turn or the process ended over it.
    End,
}

impl Source {
    /// The word for trailers, journals and events.
    pub fn as_str(self) -> &'static str {
        match self {
            Source::Stream => "stream",
            Source::Barrier => "barrier",
            Source::Inferred => "inferred",
            Source::End => "end",
        }
    }
}

/// A turn that has ended.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TurnEnded {
    /// Counted from 1 in this process.
    pub turn: u64,
    /// The message that it was about; none if the agent began it itself.
    pub message: Option<Joined>,
    /// How.
    pub outcome: TurnOutcome,
    /// The agent's last word, or why it failed.
    pub text: Option<String>,
    /// What it cost.
    pub usage: Usage,
}

/// What keeps an agent from being of use until somebody does something about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Unfit {
    /// Nobody is logged in, or its key is not taken.
    Login,
    /// It does not understand its arguments.
    Arguments,
    /// It says that it is configured wrongly.
    Configuration,
}

impl Unfit {
    /// The word for it in events.
    pub fn as_str(self) -> &'static str {
        match self {
            Unfit::Login => "login",
            Unfit::Arguments => "arguments",
            Unfit::Configuration => "configuration",
        }
    }
}

/// How a turn ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum TurnOutcome {
    /// The agent was done.
    #[default]
    Completed,
    /// Somebody stopped it.
    Interrupted,
    /// It could not go on: the model was not to be reached, or refused.
    Failed,
    /// It came to a limit of steps, tokens or money.
    Limit,
}

impl TurnOutcome {
    /// The word for journals and events.
    pub fn as_str(self) -> &'static str {
        match self {
            TurnOutcome::Completed => "completed",
            TurnOutcome::Interrupted => "interrupted",
            TurnOutcome::Failed => "failed",
            TurnOutcome::Limit => "limit",
        }
    }
}

/// What a turn cost, as far as the agent tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Tokens read by the model, those from its cache included.
    pub input_tokens: Option<u64>,
    /// Tokens that came from its cache.
    pub cached_tokens: Option<u64>,
    /// Tokens written by the model.
    pub output_tokens: Option<u64>,
    /// Millionths of a dollar.
    pub cost_microusd: Option<u64>,
    /// Calls of the model.
    pub model_turns: Option<u64>,
    /// Time by the agent's own account.
    pub duration: Option<Duration>,
}

/// Something that can be changed while an agent runs, in its own word.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// The model.
    Model(String),
    /// What it may do without asking.
    PermissionMode(String),
}

impl Change {
    /// What it is that changes, and to what.
    pub fn told(&self) -> (&'static str, &str) {
        match self {
            Change::Model(model) => ("model", model),
            Change::PermissionMode(mode) => ("permission_mode", mode),
        }
    }

    /// Whether it can be such a value at all: of some length, and without control characters.
    pub fn is_sound(&self) -> bool {
        let (_, to) = self.told();
        !to.is_empty() && to.len() <= 256 && !to.chars().any(char::is_control)
    }
}

/// Why something was not passed on to an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// A turn is open already.
    #[error("the agent is busy with a turn")]
    Busy,
    /// No turn is open.
    #[error("the agent has no turn open")]
    Idle,
    /// The handshake is not over.
    #[error("the agent is not ready yet")]
    NotReady,
    /// The agent's protocol has no way to say it.
    #[error("the agent's protocol has no way to say this")]
    NotSpoken,
    /// The process is gone, or its input is closed.
    #[error("the agent has ended")]
    Ended,
    /// The message is longer than `Limits::agent_line_bytes`.
    #[error("the message is too long")]
    TooLong,
}

impl Refused {
    /// Whose move it is.
    pub fn fault(self) -> crate::base::Fault {
        use crate::base::Fault;
        match self {
            Refused::Busy | Refused::NotReady => Fault::Busy,
            Refused::Idle | Refused::NotSpoken | Refused::Ended | Refused::TooLong => Fault::Client,
        }
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Exit {
    /// Its exit code, if it exited.
    pub code: Option<i32>,
    /// The signal that ended it, if one did.
    pub signal: Option<i32>,
}

impl Exit {
    /// It exited with this code.
    pub fn code(code: i32) -> Self {
        Exit {
            code: Some(code),
            signal: None,
        }
    }

    /// This signal ended it.
    pub fn signal(signal: i32) -> Self {
        Exit {
            code: None,
            signal: Some(signal),
        }
    }
}

/// Something that an agent wants its client to do: files and commands go through us where a protocol offers that, which makes a natural barrier (do it, make the
/// checkpoint, then answer). Paths and commands are the agent's words: whoever carries an order out checks them.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Order {
    /// Read a text file: [`Answer::Text`].
    ReadFile {
        /// For [`Dialect::answer`].
        id: String,
        /// Absolute.
        path: String,
        /// The first line wanted, from 1.
        line: Option<u64>,
        /// How many lines.
        limit: Option<u64>,
    },
    /// Write a text file, whole: [`Answer::Written`].
    WriteFile {
        /// For [`Dialect::answer`].
        id: String,
        /// Absolute.
        path: String,
        /// All of it.
        content: String,
    },
    /// Start a command: [`Answer::Terminal`].
    TerminalCreate {
        /// For [`Dialect::answer`].
        id: String,
        /// The program.
        command: String,
        /// Its arguments.
        args: Vec<String>,
        /// Variables beyond those of the agent itself.
        env: Vec<(String, String)>,
        /// Where, if not in the workspace.
        cwd: Option<String>,
        /// Bytes of output that are to be kept, the newest.
        output_bytes: usize,
    },
    /// What a command has written so far: [`Answer::Output`].
    TerminalOutput {
        /// For [`Dialect::answer`].
        id: String,
        /// As in [`Answer::Terminal`].
        terminal: String,
    },
    /// Wait for its end: [`Answer::Exited`].
    TerminalWait {
        /// For [`Dialect::answer`].
        id: String,
        /// As in [`Answer::Terminal`].
        terminal: String,
    },
    /// End it, and keep what it wrote: [`Answer::Exited`], also when it had ended before.
    TerminalKill {
        /// For [`Dialect::answer`].
        id: String,
        /// As in [`Answer::Terminal`].
        terminal: String,
    },
    /// End it, and forget it: [`Answer::Exited`], also when it had ended before.
    TerminalRelease {
        /// For [`Dialect::answer`].
        id: String,
        /// As in [`Answer::Terminal`].
        terminal: String,
    },
    /// Send this to the agent's own HTTP server: [`Answer::Http`].
    Http {
        /// For [`Dialect::answer`].
        id: String,
        /// `GET`, `POST`.
        method: &'static str,
        /// From the slash on.
        path: String,
        /// JSON; empty for none.
        body: String,
    },
}

impl Order {
    /// The id that [`Dialect::answer`] takes.
    pub fn id(&self) -> &str {
        match self {
            Order::ReadFile { id, .. }
            | Order::WriteFile { id, .. }
            | Order::TerminalCreate { id, .. }
            | Order::TerminalOutput { id, .. }
            | Order::TerminalWait { id, .. }
            | Order::TerminalKill { id, .. }
            | Order::TerminalRelease { id, .. }
            | Order::Http { id, .. } => id,
        }
    }
}

/// What came of an [`Order`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Answer {
    /// The text that was read.
    Text(String),
    /// A file was written.
    Written {
        /// Relative to the workspace, links followed.
        path: String,
        /// It was not there before.
        created: bool,
    },
    /// A command runs, and is called this from now on.
    Terminal(String),
    /// What a command has written.
    Output {
        /// The newest of it.
        text: String,
        /// Older output is left out.
        truncated: bool,
        /// How it ended, if it has.
        exit: Option<Exit>,
    },
    /// A command has ended.
    Exited(Exit),
    /// An HTTP answer.
    Http {
        /// Its status.
        status: u16,
        /// Its body.
        body: Vec<u8>,
    },
    /// It was not done.
    Failed(String),
}
