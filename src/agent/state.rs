//! What an agent may be, and how it becomes something else: a value. Events go in, orders come out; it holds no clock and no process, and the same events at the same
//! times give the same orders.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    launch::Exit,
    restarts::Restarts,
    rules::{Reaction, RestartMode, Rules, State, Watchdog},
};

/// How long output may take to end once nothing is left that could write it: a descriptor can be passed to a stranger.
const DRAIN: Duration = Duration::from_secs(2);
/// What the parent process gets on top of its own patience before it is given up.
const PARENT: Duration = Duration::from_secs(5);
/// What an agent gets at least to hear an interrupt.
const HEARS: Duration = Duration::from_secs(1);

/// Why an agent is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Somebody asked for it.
    Asked,
    /// Somebody wants it to begin anew.
    Restart,
    /// Gitstead is closing.
    Shutdown,
    /// Gitstead was gone.
    Orphaned,
    /// Something lasted too long.
    Watchdog(Watchdog),
}

/// What times the machine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Timer {
    /// The present step of stopping.
    Rung,
    /// The wait before a restart.
    Backoff,
    /// A watchdog.
    Dog(Watchdog),
    /// What an agent gets to hear an interrupt by a watchdog.
    Heed,
}

/// What happens to an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Somebody wants it to run.
    Start,
    /// Its process runs.
    Up,
    /// Its process could not be started. Trying again is of use only if `passing`.
    SpawnFailed {
        /// Whether it may go better the next time.
        passing: bool,
    },
    /// It says that it is ready.
    SessionReady,
    /// It has begun to work on a message.
    TurnStarted,
    /// It has finished that.
    TurnEnded,
    /// It says that it has spent so many millionths of a dollar.
    Spent(u64),
    /// So many bytes on the disk are its workspace's.
    Holds(u64),
    /// Of its tools the first is under way, or none is any more.
    Tools {
        /// Which.
        under_way: bool,
    },
    /// It wants to know whether it may do something.
    PermissionAsked,
    /// No such question is open any more.
    PermissionsGone,
    /// It has written something.
    Output,
    /// It is to stop. Asked again, the next step of the ladder is taken at once.
    Stop(Cause),
    /// It is to stop at once.
    Kill(Cause),
    /// What it was started with is of no use: it ends, and is to be started without that, whatever its rules for ends are.
    Again,
    /// It has ended in a way in which it would end again.
    Unfit,
    /// A time has come.
    Due(Timer),
    /// Its own process has ended.
    LeaderEnded(Exit),
    /// Nothing of it is left.
    TreeGone,
    /// Its parent process is gone and has not said how the agent ended.
    ParentLost,
    /// It ran when an earlier Gitstead ended, and nothing of it is left.
    Adopted {
        /// How it ended, if that is known.
        exit: Option<Exit>,
        /// Whether it was ended because there was no Gitstead any more.
        orphaned: bool,
    },
    /// Its output has ended.
    OutputEnded,
    /// The last checkpoint is made, or cannot be.
    Recorded,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Start it.
    Spawn,
    /// Interrupt it in its protocol.
    Interrupt,
    /// End its standard input.
    CloseInput,
    /// SIGTERM to its own process.
    Terminate,
    /// SIGKILL to everything.
    KillTree,
    /// It was started by an earlier Gitstead: have its parent process take the next step of stopping, or kill everything at once.
    HurryOrphan {
        /// Whether everything is to be killed.
        at_once: bool,
    },
    /// Find what is left of it without the help of its parent process, and kill that.
    Hunt,
    /// Send [`Event::Due`] after this time; an earlier time of that kind is forgotten.
    Arm(Timer, Duration),
    /// Forget that time.
    Disarm(Timer),
    /// Make the last checkpoint, then send [`Event::Recorded`].
    Record,
    /// Something lasts too long.
    Warn(Watchdog),
    /// It is something else now. Of those for which [`State::is_over`] there is one for each time that it ran.
    Enter(State),
}

/// How far stopping is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rung {
    /// Nobody stops it.
    None,
    Interrupted,
    InputClosed,
    Terminated,
    /// Everything is being killed, or its own process has ended and the rest is.
    Killed,
    /// It ran in an earlier Gitstead, and is waited for.
    Adopting,
    /// Its parent process does not answer.
    Hunted,
    /// Nothing of it is left; its output is being read to its end.
    Draining,
    /// The last checkpoint is being made.
    Recording,
}

/// An agent, as far as decisions go.
#[derive(Debug, Clone)]
pub struct Machine {
    rules: Rules,
    state: State,
    rung: Rung,
    cause: Option<Cause>,
    exit: Option<Exit>,
    spawned: bool,
    spawn_failed: Option<bool>,
    /// Whether it would end the same way again.
    unfit: bool,
    output_ended: bool,
    lost: bool,
    /// Whether a tool is under way.
    tools: bool,
    /// Turns of this run, and what it has spent.
    turns: u64,
    spent: u64,
    /// Whether its workspace held too much when it was last looked at.
    full: bool,
    /// Why it is not to be started again, whatever it ends of: somebody has said so.
    halted: Option<Cause>,
    /// Whether it begins anew because of what it was started with; that is no wish of somebody's.
    renewed: bool,
    /// The watchdog that has interrupted it; it is not asked nicely twice.
    warned: Option<Watchdog>,
    restarts: Restarts,
}

impl Machine {
    /// An agent that was never started. `seed` spreads the restarts of many.
    pub fn new(rules: Rules, seed: u64) -> Self {
        Machine {
            rules,
            state: State::Created,
            rung: Rung::None,
            cause: None,
            exit: None,
            spawned: false,
            spawn_failed: None,
            unfit: false,
            output_ended: false,
            lost: false,
            tools: false,
            turns: 0,
            spent: 0,
            full: false,
            halted: None,
            renewed: false,
            warned: None,
            restarts: Restarts::new(seed),
        }
    }

    /// An agent that was this at last, in an earlier Gitstead. What ran there is being stopped now; how that ended is told with [`Event::Adopted`].
    pub fn at(rules: Rules, state: State, seed: u64) -> Self {
        let (state, rung) = match state {
            State::Created => (State::Created, Rung::None),
            state if state.is_over() => (state, Rung::None),
            _ => (State::Stopping, Rung::Adopting),
        };
        Machine {
            state,
            rung,
            output_ended: true,
            ..Self::new(rules, seed)
        }
    }

    /// The same, having ended at these times lately without having been told to.
    pub(super) fn having_ended(mut self, ends: impl IntoIterator<Item = Duration>) -> Self {
        self.restarts.have_ended(ends);
        self
    }

    /// What it is.
    pub fn state(&self) -> State {
        self.state
    }

    /// How its own process ended the last time, if that is known.
    pub fn exit(&self) -> Option<Exit> {
        self.exit
    }

    /// Why it was stopped, if it was.
    pub fn cause(&self) -> Option<Cause> {
        self.cause
    }

    /// Whether everything of this run is being killed, or is gone already: nothing may be started for it any more.
    pub(super) fn is_past_saving(&self) -> bool {
        self.state.is_over() || self.rung >= Rung::Killed
    }

    /// What `event` at `now` (of a clock that only goes on) makes necessary, in this order.
    pub fn on(&mut self, event: Event, now: Duration) -> Vec<Order> {
        let mut out = Vec::new();
        match event {
            Event::Start => self.start(now, &mut out),
            Event::Stop(cause) => self.stop(cause, false, now, &mut out),
            Event::Kill(cause) => self.stop(cause, true, now, &mut out),
            Event::Due(Timer::Backoff) if self.state == State::Restarting => self.spawn(now, &mut out),
            Event::Due(Timer::Backoff) => {}
            // Nothing else concerns an agent that does not run.
            _ if self.state == State::Created || self.state == State::Restarting || self.state.is_over() => {}
            Event::Up => self.up(&mut out),
            Event::SpawnFailed { passing } => {
                self.spawn_failed = Some(passing);
                self.end(now, &mut out);
            }
            Event::SessionReady if self.state == State::Starting && self.spawned && self.rung == Rung::None => {
                self.become_ready(&mut out)
            }
            Event::SessionReady => {}
            Event::TurnStarted if self.rung == Rung::None => self.turn_started(now, &mut out),
            Event::TurnStarted => {}
            Event::TurnEnded => self.turn_ended(&mut out),
            Event::Spent(cost) => {
                self.spent = match self.rules.total_cost {
                    true => self.spent.max(cost),
                    false => self.spent.saturating_add(cost),
                };
                // What there is to interrupt is the next turn.
                if self.rules.watchdogs.reaction(Watchdog::Cost) != Some(Reaction::Interrupt) {
                    self.bark_at_cost(now, &mut out);
                }
            }
            Event::Holds(bytes) => self.holds(bytes, now, &mut out),
            Event::Tools { under_way } => {
                self.tools = under_way;
                if self.state == State::Busy {
                    self.listen(&mut out);
                }
            }
            Event::PermissionAsked => {
                if self.state.is_up() && self.state != State::WaitingPermission {
                    self.enter(State::WaitingPermission, &mut out);
                    self.watch(Watchdog::Permission, &mut out);
                    self.unwatch(&[Watchdog::Silence, Watchdog::Tool], &mut out);
                }
            }
            Event::PermissionsGone => {
                if self.state == State::WaitingPermission {
                    self.unwatch(&[Watchdog::Permission], &mut out);
                    self.enter(State::Busy, &mut out);
                    self.listen(&mut out);
                }
            }
            Event::Output => {
                if self.state == State::Busy {
                    self.listen(&mut out);
                }
            }
            Event::Again => {
                self.renewed = true;
                if self.rung < Rung::Killed {
                    self.stop(Cause::Restart, false, now, &mut out);
                } else if self.rung != Rung::Adopting {
                    // It has ended over it before its last words were read.
                    self.cause.get_or_insert(Cause::Restart);
                }
            }
            Event::Unfit => self.unfit = true,
            Event::Due(Timer::Rung) => self.next_rung(now, &mut out),
            Event::Due(Timer::Dog(dog)) => self.bark(dog, now, &mut out),
            // One that does not hear is stopped.
            Event::Due(Timer::Heed) => {
                if let Some(dog) = self.warned.take().filter(|_| self.rung == Rung::None) {
                    self.stop(Cause::Watchdog(dog), false, now, &mut out);
                }
            }
            Event::LeaderEnded(exit) => {
                self.exit.get_or_insert(exit);
                if self.rung < Rung::Killed {
                    self.rung = Rung::Killed;
                    // Its parent process kills the rest by itself.
                    out.push(Order::Arm(Timer::Rung, self.rules.ladder.verify + PARENT));
                }
            }
            Event::TreeGone => self.tree_gone(&mut out),
            Event::ParentLost => {
                if self.rung < Rung::Adopting {
                    self.hunt(&mut out);
                }
            }
            Event::Adopted { exit, orphaned } => {
                if self.rung == Rung::Adopting {
                    self.exit = exit;
                    if orphaned {
                        self.cause.get_or_insert(Cause::Orphaned);
                    }
                    self.tree_gone(&mut out);
                }
            }
            Event::OutputEnded => {
                self.output_ended = true;
                if self.rung == Rung::Draining {
                    self.record(&mut out);
                }
            }
            Event::Recorded => {
                if self.rung == Rung::Recording {
                    self.end(now, &mut out);
                }
            }
        }
        out
    }

    fn enter(&mut self, state: State, out: &mut Vec<Order>) {
        if self.state != state {
            self.state = state;
            out.push(Order::Enter(state));
        }
    }

    fn watch(&self, dog: Watchdog, out: &mut Vec<Order>) {
        if let Some((after, _)) = self.rules.watchdogs.of(dog) {
            out.push(Order::Arm(Timer::Dog(dog), after));
        }
    }

    fn unwatch(&self, dogs: &[Watchdog], out: &mut Vec<Order>) {
        let watched = dogs.iter().filter(|dog| self.rules.watchdogs.of(**dog).is_some());
        out.extend(watched.map(|dog| Order::Disarm(Timer::Dog(*dog))));
    }

    /// Waits anew for its next byte.
    fn listen(&self, out: &mut Vec<Order>) {
        let (on, off) = match self.tools {
            true => (Watchdog::Tool, Watchdog::Silence),
            false => (Watchdog::Silence, Watchdog::Tool),
        };
        self.unwatch(&[off], out);
        self.watch(on, out);
    }

    fn start(&mut self, now: Duration, out: &mut Vec<Order>) {
        match self.state {
            State::Created => self.spawn(now, out),
            State::Restarting => {
                out.push(Order::Disarm(Timer::Backoff));
                self.spawn(now, out);
            }
            state if state.is_over() => {
                self.restarts.forget();
                self.spawn(now, out);
            }
            _ => {}
        }
    }

    fn spawn(&mut self, now: Duration, out: &mut Vec<Order>) {
        self.rung = Rung::None;
        self.cause = None;
        self.exit = None;
        self.spawned = false;
        self.spawn_failed = None;
        self.output_ended = false;
        self.lost = false;
        (self.tools, self.turns, self.spent, self.warned) = (false, 0, 0, None);
        self.full = false;
        (self.halted, self.renewed, self.unfit) = (None, false, false);
        self.restarts.begin(now);
        out.push(Order::Spawn);
        self.enter(State::Starting, out);
        self.watch(Watchdog::Start, out);
        self.watch(Watchdog::Wall, out);
    }

    fn up(&mut self, out: &mut Vec<Order>) {
        if self.spawned {
            return;
        }
        self.spawned = true;
        if self.rung != Rung::None {
            // Told to stop before it ran.
            self.climb(out);
        } else if !self.rules.handshake {
            self.become_ready(out);
        }
    }

    fn become_ready(&mut self, out: &mut Vec<Order>) {
        out.push(Order::Disarm(Timer::Dog(Watchdog::Start)));
        self.enter(State::Ready, out);
    }

    fn turn_started(&mut self, now: Duration, out: &mut Vec<Order>) {
        if self.state == State::Starting && self.spawned {
            self.become_ready(out);
        }
        if !matches!(self.state, State::Ready | State::Idle) {
            return;
        }
        self.turns += 1;
        self.unwatch(&[Watchdog::Linger], out);
        self.enter(State::Busy, out);
        self.watch(Watchdog::Turn, out);
        self.listen(out);
        if self.rules.watchdogs.turns.is_some_and(|(most, _)| self.turns > most) {
            self.bark(Watchdog::Turns, now, out);
        }
        if self.rules.watchdogs.reaction(Watchdog::Cost) == Some(Reaction::Interrupt) {
            self.bark_at_cost(now, out);
        }
    }

    fn turn_ended(&mut self, out: &mut Vec<Order>) {
        self.tools = false;
        self.unwatch(
            &[Watchdog::Turn, Watchdog::Silence, Watchdog::Tool, Watchdog::Permission],
            out,
        );
        // It has heard.
        if self.warned.take().is_some() {
            out.push(Order::Disarm(Timer::Heed));
        }
        if self.state.is_up() {
            self.enter(State::Idle, out);
            if self.rules.one_turn {
                self.watch(Watchdog::Linger, out);
            }
        } else if self.rung == Rung::Interrupted {
            // It has heard.
            self.close_input(out);
        }
    }

    fn stop(&mut self, cause: Cause, at_once: bool, now: Duration, out: &mut Vec<Order>) {
        match self.state {
            State::Created => {}
            state if state.is_over() => {}
            // It is what it waits for.
            State::Restarting if cause == Cause::Restart => self.start(now, out),
            State::Restarting => {
                out.push(Order::Disarm(Timer::Backoff));
                self.cause = Some(cause);
                self.enter(State::Stopped, out);
            }
            _ => {
                let first = self.rung == Rung::None;
                if matches!(cause, Cause::Asked | Cause::Shutdown) {
                    self.halted.get_or_insert(cause);
                }
                // A restart that becomes a stop is a stop.
                if self.cause.is_none() || self.cause == Some(Cause::Restart) {
                    // Unless it has ended by itself already.
                    if self.rung < Rung::Killed || self.rung == Rung::Adopting || self.cause.is_some() {
                        self.cause = Some(cause);
                    }
                }
                if self.rung < Rung::Killed {
                    self.enter(State::Stopping, out);
                }
                if self.rung == Rung::Adopting {
                    out.push(Order::HurryOrphan { at_once });
                    if at_once {
                        out.push(Order::Arm(Timer::Rung, self.rules.ladder.verify + PARENT));
                    }
                } else if at_once {
                    self.kill(out);
                } else if first && self.rules.interrupt && self.spawned {
                    self.rung = Rung::Interrupted;
                    self.rung_begins(Order::Interrupt, self.rules.ladder.interrupt, out);
                } else {
                    self.escalate(out);
                }
            }
        }
    }

    /// The next step of the ladder, if there is one that is ours to take.
    fn escalate(&mut self, out: &mut Vec<Order>) {
        match self.rung {
            Rung::None | Rung::Interrupted => self.close_input(out),
            Rung::InputClosed => self.terminate(out),
            Rung::Terminated => self.kill(out),
            _ => {}
        }
    }

    /// What the present step says, of an agent that was not there when it was taken.
    fn climb(&mut self, out: &mut Vec<Order>) {
        match self.rung {
            rung if rung >= Rung::Killed => out.push(Order::KillTree),
            Rung::Terminated => out.push(Order::Terminate),
            _ => self.terminate(out),
        }
    }

    /// A step that may take no time is followed by the next one at once.
    fn rung_begins(&mut self, order: Order, time: Duration, out: &mut Vec<Order>) {
        out.push(order);
        if time.is_zero() {
            self.escalate(out);
        } else {
            out.push(Order::Arm(Timer::Rung, time));
        }
    }

    fn close_input(&mut self, out: &mut Vec<Order>) {
        self.rung = Rung::InputClosed;
        self.rung_begins(Order::CloseInput, self.rules.ladder.end_of_input, out);
    }

    fn terminate(&mut self, out: &mut Vec<Order>) {
        self.rung = Rung::Terminated;
        self.rung_begins(Order::Terminate, self.rules.ladder.terminate, out);
    }

    fn kill(&mut self, out: &mut Vec<Order>) {
        if self.rung < Rung::Killed {
            self.rung = Rung::Killed;
            out.push(Order::KillTree);
            out.push(Order::Arm(Timer::Rung, self.rules.ladder.verify + PARENT));
        }
    }

    fn hunt(&mut self, out: &mut Vec<Order>) {
        self.lost = true;
        self.rung = Rung::Hunted;
        out.push(Order::Hunt);
        out.push(Order::Arm(Timer::Rung, self.rules.ladder.verify + PARENT));
    }

    fn tree_gone(&mut self, out: &mut Vec<Order>) {
        if self.rung >= Rung::Draining {
            return;
        }
        self.rung = Rung::Draining;
        if self.output_ended {
            self.record(out);
        } else {
            out.push(Order::Arm(Timer::Rung, DRAIN));
        }
    }

    fn record(&mut self, out: &mut Vec<Order>) {
        self.rung = Rung::Recording;
        out.push(Order::Record);
        out.push(Order::Arm(Timer::Rung, self.rules.record));
    }

    fn next_rung(&mut self, now: Duration, out: &mut Vec<Order>) {
        match self.rung {
            Rung::None => {}
            Rung::Interrupted | Rung::InputClosed | Rung::Terminated => self.escalate(out),
            Rung::Killed | Rung::Adopting => self.hunt(out),
            Rung::Hunted => self.tree_gone(out),
            Rung::Draining => self.record(out),
            Rung::Recording => self.end(now, out),
        }
    }

    fn bark_at_cost(&mut self, now: Duration, out: &mut Vec<Order>) {
        if self.rules.watchdogs.cost.is_some_and(|(most, _)| self.spent > most) {
            self.bark(Watchdog::Cost, now, out);
        }
    }

    fn holds(&mut self, bytes: u64, now: Duration, out: &mut Vec<Order>) {
        let Some((most, reaction)) = self.rules.watchdogs.disk else {
            return;
        };
        // While it is being stopped nobody is told: it counts as not told yet.
        if self.rung != Rung::None {
            return;
        }
        let was = std::mem::replace(&mut self.full, bytes > most);
        let is_at_work = matches!(self.state, State::Busy | State::WaitingPermission);
        // What is only told is told once each time; what is interrupted is so in each turn.
        let barks = match reaction {
            Reaction::Warn => !was,
            Reaction::Interrupt if self.rules.interrupt => is_at_work && self.warned.is_none(),
            Reaction::Interrupt | Reaction::Stop => true,
        };
        if self.full && barks {
            self.bark(Watchdog::Disk, now, out);
        }
    }

    fn bark(&mut self, dog: Watchdog, now: Duration, out: &mut Vec<Order>) {
        let concerns = match dog {
            Watchdog::Start => self.state == State::Starting,
            Watchdog::Silence => self.state == State::Busy && !self.tools,
            Watchdog::Tool => self.state == State::Busy && self.tools,
            Watchdog::Permission => self.state == State::WaitingPermission,
            Watchdog::Turn => matches!(self.state, State::Busy | State::WaitingPermission),
            Watchdog::Linger => self.state == State::Idle && self.rules.one_turn,
            Watchdog::Wall => self.state.is_up() || self.state == State::Starting,
            Watchdog::Turns | Watchdog::Cost => self.state.is_up(),
            Watchdog::Disk => self.state.is_up() || self.state == State::Starting,
        };
        let Some(reaction) = self.rules.watchdogs.reaction(dog) else {
            return;
        };
        if !concerns || self.rung != Rung::None {
            return;
        }
        out.push(Order::Warn(dog));
        match reaction {
            Reaction::Warn => {}
            // One has, and what comes of it is waited for.
            Reaction::Interrupt if self.rules.interrupt && self.warned.is_some() => {}
            Reaction::Interrupt if self.rules.interrupt => {
                out.push(Order::Interrupt);
                self.warned = Some(dog);
                let patience = self.rules.ladder.interrupt.max(HEARS);
                out.push(Order::Arm(Timer::Heed, patience));
            }
            Reaction::Interrupt | Reaction::Stop => self.stop(Cause::Watchdog(dog), false, now, out),
        }
    }

    /// Nothing of it is left and everything is recorded.
    fn end(&mut self, now: Duration, out: &mut Vec<Order>) {
        out.push(Order::Disarm(Timer::Rung));
        self.unwatch(&Watchdog::TIMED, out);
        if self.warned.take().is_some() {
            out.push(Order::Disarm(Timer::Heed));
        }
        self.rung = Rung::None;
        let ended = match (self.cause, self.exit) {
            (Some(Cause::Watchdog(_)), _) => State::Failed,
            (Some(_), _) => State::Stopped,
            _ if self.spawn_failed.is_some() => State::Failed,
            (None, Some(exit)) if exit.is_success() => State::Exited,
            (None, Some(_)) => State::Failed,
            (None, None) => State::Lost,
        };
        if self.cause == Some(Cause::Restart) && self.halted.is_none() {
            // One that begins anew by itself may do so for ever.
            if !self.renewed {
                self.restarts.forget();
            }
            self.enter(State::Restarting, out);
            self.spawn(now, out);
            return;
        }
        let again = match self.rules.restart.mode {
            RestartMode::Never => false,
            RestartMode::OnFailure => matches!(ended, State::Failed | State::Lost),
            // That it was stopped because there was no Gitstead is nobody's wish.
            RestartMode::Always => ended != State::Stopped || self.cause == Some(Cause::Orphaned),
        };
        if again && let Some(halted) = self.halted {
            // It had ended already, or was being stopped for another reason: it is not started again all the same.
            self.cause = Some(halted);
            self.enter(State::Stopped, out);
            return;
        }
        if !again || self.spawn_failed == Some(false) || self.unfit {
            self.enter(ended, out);
            return;
        }
        match self.restarts.after(&self.rules.restart, now) {
            Some(wait) => {
                self.enter(State::Restarting, out);
                out.push(Order::Arm(Timer::Backoff, wait));
            }
            None => self.enter(State::CrashLooping, out),
        }
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
