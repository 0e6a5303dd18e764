use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::launch::Ladder;

/// What an agent is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Never started.
    Created,
    /// Its process is being started, or has not said yet that it is ready.
    Starting,
    /// It runs, and waits for its first message or needs none.
    Ready,
    /// It is at work on a message.
    Busy,
    /// It has finished one, and waits for the next.
    Idle,
    /// It wants to know whether it may do something.
    WaitingPermission,
    /// It was told to stop.
    Stopping,
    /// It has ended and will be started again in a moment.
    Restarting,
    /// It has ended because it was told to.
    Stopped,
    /// It has ended by itself, and well.
    Exited,
    /// It has ended by itself otherwise, or could not be started.
    Failed,
    /// It has ended so often that it is not started again.
    CrashLooping,
    /// Nobody saw how it ended.
    Lost,
}

impl State {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Created => "created",
            State::Starting => "starting",
            State::Ready => "ready",
            State::Busy => "busy",
            State::Idle => "idle",
            State::WaitingPermission => "waiting_permission",
            State::Stopping => "stopping",
            State::Restarting => "restarting",
            State::Stopped => "stopped",
            State::Exited => "exited",
            State::Failed => "failed",
            State::CrashLooping => "crash_looping",
            State::Lost => "lost",
        }
    }

    /// Whether it has come to an end; it can be started again.
    pub fn is_over(self) -> bool {
        matches!(
            self,
            State::Stopped | State::Exited | State::Failed | State::CrashLooping | State::Lost
        )
    }

    /// Whether it can be talked to.
    pub fn is_up(self) -> bool {
        matches!(
            self,
            State::Ready | State::Busy | State::Idle | State::WaitingPermission
        )
    }
}

/// When an agent that has ended is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartMode {
    /// Not by itself.
    #[default]
    Never,
    /// When it has failed.
    OnFailure,
    /// Whenever nobody has stopped it.
    Always,
}

/// How an agent that has ended is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restart {
    /// When at all.
    pub mode: RestartMode,
    /// The wait before the first restart; each further one is twice as long.
    pub first: Duration,
    /// The longest wait.
    pub most: Duration,
    /// Having run for so long, an agent counts as sound again.
    pub stable: Duration,
    /// So many ends within [`window`](Self::window), and it is not started again.
    pub burst: usize,
    /// See [`burst`](Self::burst).
    pub window: Duration,
}

impl Default for Restart {
    fn default() -> Self {
        Restart {
            mode: RestartMode::Never,
            first: Duration::from_secs(1),
            most: Duration::from_secs(60),
            stable: Duration::from_secs(60),
            burst: 5,
            window: Duration::from_secs(600),
        }
    }
}

/// What is done when something lasts too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reaction {
    /// It is told.
    Warn,
    /// The agent is interrupted in its protocol, and goes on living.
    Interrupt,
    /// The agent is stopped.
    Stop,
}

/// What may last too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Watchdog {
    /// From the start until it is ready.
    Start,
    /// At work, no tool under way, and not a byte of output: the model, or an agent that is stuck after a tool.
    Silence,
    /// A tool under way, without a byte of output.
    Tool,
    /// A question for permission without an answer.
    Permission,
    /// One turn.
    Turn,
    /// After the only turn of one that is started with it, until it has ended.
    Linger,
    /// From the start to the end.
    Wall,
    /// More turns than it may have in a run. No time, but it barks as the others.
    Turns,
    /// More money than it may spend in a run, by its own account.
    Cost,
    /// More on the disk than its workspace may hold.
    Disk,
}

impl Watchdog {
    /// Those that go by time.
    pub(super) const TIMED: [Watchdog; 7] = [
        Watchdog::Start,
        Watchdog::Silence,
        Watchdog::Tool,
        Watchdog::Permission,
        Watchdog::Turn,
        Watchdog::Linger,
        Watchdog::Wall,
    ];
}

/// A bound on time and what follows.
pub type Bound = Option<(Duration, Reaction)>;
/// A bound on a number and what follows.
pub type Most = Option<(u64, Reaction)>;

/// Bounds on how long things may last, and on how much they may be. Unless somebody says so only the start has one, and one that lingers is told of: how long a model thinks is nobody's to
/// know. An interrupt that does not help within [`Ladder::interrupt`] is followed by a stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "each field is the bound of the watchdog with its name")]
#[serde(default)]
pub struct Watchdogs {
    pub start: Bound,
    pub silence: Bound,
    pub tool: Bound,
    pub permission: Bound,
    pub turn: Bound,
    pub linger: Bound,
    pub wall: Bound,
    pub turns: Most,
    /// Millionths of a dollar.
    pub cost: Most,
    /// Bytes.
    pub disk: Most,
}

impl Default for Watchdogs {
    fn default() -> Self {
        Watchdogs {
            start: Some((Duration::from_secs(120), Reaction::Stop)),
            silence: None,
            tool: None,
            permission: None,
            turn: None,
            linger: Some((Duration::from_secs(300), Reaction::Warn)),
            wall: None,
            turns: None,
            cost: None,
            disk: None,
        }
    }
}

impl Watchdogs {
    pub(super) fn of(&self, dog: Watchdog) -> Bound {
        match dog {
            Watchdog::Start => self.start,
            Watchdog::Silence => self.silence,
            Watchdog::Tool => self.tool,
            Watchdog::Permission => self.permission,
            Watchdog::Turn => self.turn,
            Watchdog::Linger => self.linger,
            Watchdog::Wall => self.wall,
            Watchdog::Turns | Watchdog::Cost | Watchdog::Disk => None,
        }
    }

    pub(super) fn reaction(&self, dog: Watchdog) -> Option<Reaction> {
        match dog {
            Watchdog::Turns => self.turns.map(|(_, reaction)| reaction),
            Watchdog::Cost => self.cost.map(|(_, reaction)| reaction),
            Watchdog::Disk => self.disk.map(|(_, reaction)| reaction),
            timed => self.of(timed).map(|(_, reaction)| reaction),
        }
    }
}

/// Everything that is decided about an agent before it starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Rules {
    /// How it is stopped.
    pub ladder: Ladder,
    /// Whether and how it is started again.
    pub restart: Restart,
    /// What may last how long.
    pub watchdogs: Watchdogs,
    /// Whether it says itself when it is ready.
    pub handshake: bool,
    /// Whether its protocol has an interrupt.
    pub interrupt: bool,
    /// Whether it is started with its only turn.
    pub one_turn: bool,
    /// Whether what it says of money is the sum of all turns of a run.
    pub total_cost: bool,
    /// How long the last checkpoint may hold up the end.
    pub record: Duration,
}
