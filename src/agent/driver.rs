//! One agent, driven: its machine, its dialect and its process, in one task. Nothing here blocks, and nothing here waits for whoever looks on.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    os::fd::OwnedFd,
    path::PathBuf,
    sync::Arc,
};

use rustix::process::Signal;
use tokio::{
    io::AsyncWriteExt as _,
    net::{
        UnixStream,
        unix::{
            OwnedWriteHalf,
            pipe::{Receiver, Sender},
        },
    },
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};

use super::{
    handle::{Agent, Command, Host, Newborn, News, NotTaken, Orphan, Prepared, RUN_MARK, Settings, Status},
    hunt::{bury, hunt_down},
    launch::{SpawnFailure, SpawnFault},
    meter::{Depths, Meter, Step},
    output::{LogRing, Splitter, Stream},
    redact::{Redactor, Sieve},
    rules::State,
    spawn::Ward,
    spool::Spool,
    state::{Event, Machine, Order, Timer},
    tree::Process,
    wire::{self, Lines, Word},
};
use crate::{
    base::Clock,
    dialect::{Dialect, UserMessage},
};
use web::Web;

/// Bytes that wait to be read by the agent, from whoever talks to it.
const INPUT_BYTES: usize = 1 << 20;
/// Bytes of answers that wait for an agent to read them, before it is given up that it does.
const UNREAD_BYTES: usize = 8 << 20;
/// Bytes read at a time.
const CHUNK: usize = 64 << 10;
/// Reads before others have their turn.
const READS: usize = 8;
/// Orders that wait for an agent's task.
const COMMANDS: usize = 256;
/// Orders that wait for its parent process, and how many of these the agent's own do not take: it is stopped however much it wants done.
const ORDERS: usize = 512;
const OURS: usize = 64;
/// Bytes of one of the agent's own.
const ORDER_BYTES: usize = 128 << 10;

/// Starts the task of an agent. It ends when nobody controls it any more and it does not run.
pub fn drive(settings: Settings, host: impl Host) -> Agent {
    let (send, receive) = mpsc::channel(COMMANDS);
    // The machine's time begins when an end that still counts may have been.
    let window = settings.rules.restart.window;
    let ends = settings.ends.iter().filter_map(|ago| window.checked_sub(*ago));
    let machine = Machine::at(settings.rules, settings.state, settings.seed).having_ended(ends);
    let status = Status {
        state: machine.state(),
        run: settings.runs,
        pid: None,
        parent: settings.orphan.as_ref().and_then(|orphan| orphan.parent),
        exit: None,
        failure: None,
        cause: None,
        swept: 0,
        out_of_memory: 0,
        stragglers: Vec::new(),
        isolation: None,
    };
    let (tell, watch) = watch::channel(status.clone());
    let agent = Agent {
        // The task itself must not keep its own commands coming.
        commands: send,
        status: watch,
        log: Arc::clone(&settings.log),
        depths: Arc::default(),
    };
    let driver = Driver {
        machine,
        host,
        commands: receive,
        me: agent.commands.downgrade(),
        watch: agent.status.clone(),
        tell,
        status,
        log: settings.log,
        meter: settings.meter,
        depths: Arc::clone(&agent.depths),
        line_bytes: settings.line_bytes,
        spool: Spool::new(settings.spool, settings.spool_bounds),
        clock: settings.clock,
        began: Instant::now(),
        window,
        orphan: settings.orphan,
        timers: BTreeMap::new(),
        events: VecDeque::new(),
        early: Vec::new(),
        run: None,
    };
    tokio::spawn(driver.run());
    agent
}

mod streams;
mod web;

struct Driver<H> {
    machine: Machine,
    host: H,
    commands: mpsc::Receiver<Command>,
    me: mpsc::WeakSender<Command>,
    watch: watch::Receiver<Status>,
    tell: watch::Sender<Status>,
    status: Status,
    log: Arc<LogRing>,
    meter: Arc<Meter>,
    depths: Arc<Depths>,
    line_bytes: usize,
    spool: Spool,
    clock: Arc<dyn Clock>,
    began: Instant,
    window: std::time::Duration,
    orphan: Option<Orphan>,
    timers: BTreeMap<Timer, Instant>,
    /// What the machine has not been told yet.
    events: VecDeque<Event>,
    /// Input that came before there was anybody to read it.
    early: Vec<u8>,
    run: Option<Box<Run>>,
}

/// One incarnation.
struct Run {
    mark: String,
    cgroup: Option<PathBuf>,
    dialect: Box<dyn Dialect>,
    control: Option<Lines>,
    orders: Mouth,
    child: Option<Ward>,
    stdin: Option<Sender>,
    input: VecDeque<Vec<u8>>,
    input_bytes: usize,
    /// Bytes of the first of them that are written.
    written: usize,
    close_input: bool,
    stdout: Option<Receiver>,
    stderr: Option<Receiver>,
    out: Splitter,
    err: Splitter,
    redactor: Option<Arc<Redactor>>,
    /// For standard output and standard error.
    sieves: [Sieve; 2],
    /// Where the bytes that were just read are on disk.
    piece: Piece,
    /// Behind which position the line is that is being understood.
    line_end: Option<u64>,
    /// Its own names of what it wants to be allowed and was not answered yet.
    open_questions: Vec<String>,
    /// Calls under way that it waits for.
    open_calls: usize,
    finished: bool,
    /// Its server, if it is one.
    web: Option<Web>,
}

/// Where some bytes of standard output are on disk.
#[derive(Debug, Default, Clone, Copy)]
struct Piece {
    /// The position of the first of them, where each is.
    begins: Option<u64>,
    /// The position behind the last one.
    ends: Option<u64>,
}

impl<H: Host> Driver<H> {
    async fn run(mut self) {
        loop {
            self.settle();
            self.tell_depths();
            let may_read = !self.spool.is_full();
            let next = self.timers.values().min().copied();
            let run = self.run.as_deref_mut();
            let (control, stdin, stdout, stderr, web) = match run {
                Some(run) => (
                    run.control.as_mut(),
                    run.stdin.as_ref().filter(|_| !run.input.is_empty()),
                    run.stdout.as_ref(),
                    run.stderr.as_ref(),
                    run.web.as_mut(),
                ),
                None => (None, None, None, None, None),
            };
            tokio::select! {
                command = self.commands.recv() => match command {
                    // What runs is stopped by its parent process, when we are gone.
                    None => return,
                    Some(Command::Forget(reply)) => {
                        let state = self.status.state;
                        if state == State::Created || state.is_over() {
                            // Whoever asks for anything after this answer finds nobody.
                            self.commands.close();
                            let _ = reply.send(Ok(()));
                            return;
                        }
                        let _ = reply.send(Err(state));
                    }
                    Some(command) => self.command(command).await,
                },
                word = next_word(control) => self.word(word),
                heard = Web::next(web) => self.heard(heard),
                () = writable(stdin) => self.write(),
                () = readable(stdout), if may_read => self.read(Stream::Stdout),
                () = readable(stderr), if may_read => self.read(Stream::Stderr),
                () = self.spool.written(), if self.spool.is_behind() => self.spool.flush(),
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => self.due(),
            }
        }
    }

    /// Tells the machine everything, and does what it says.
    fn settle(&mut self) {
        if let Some(why) = self.spool.take_failure() {
            self.host
                .told(News::Trouble(format!("output cannot be written to disk: {why}")));
        }
        while let Some(event) = self.events.pop_front() {
            let now = self.window + self.began.elapsed();
            for order in self.machine.on(event, now) {
                self.execute(order);
            }
        }
    }

    fn tell_depths(&self) {
        let (input, orders) = match self.run.as_deref() {
            Some(run) => (run.input_bytes, run.orders.waiting()),
            None => (self.early.len(), 0),
        };
        self.depths.set(input, orders);
    }

    fn execute(&mut self, order: Order) {
        if let Some(step) = step_of(&order, self.status.state) {
            self.meter.step(step);
        }
        match order {
            Order::Spawn => {
                self.status.run += 1;
                self.status.pid = None;
                self.status.parent = None;
                self.status.failure = None;
                (self.status.swept, self.status.out_of_memory) = (0, 0);
                self.status.stragglers.clear();
                self.status.isolation = None;
                self.run = None;
                self.orphan = None;
                self.early.clear();
                if let Some(me) = self.remote() {
                    self.host.prepare(self.status.run, &me);
                }
            }
            Order::Interrupt => {
                if !self.interrupt() && self.status.state == State::Stopping {
                    // There is nothing to interrupt: the next step need not wait.
                    self.events.push_back(Event::TurnEnded);
                }
            }
            Order::CloseInput => self.close_input(),
            Order::Terminate => drop(self.order(&wire::Order::Terminate)),
            Order::KillTree => {
                self.order(&wire::Order::Kill);
                if self.run.is_none() {
                    // It is being prepared: what comes of that is refused, so there is nothing to wait for.
                    self.events.push_back(Event::OutputEnded);
                    self.events.push_back(Event::TreeGone);
                }
            }
            Order::HurryOrphan { at_once } => self.hurry_orphan(at_once),
            Order::Hunt => self.hunt(),
            Order::Arm(timer, after) => {
                self.timers.insert(timer, Instant::now() + after);
            }
            Order::Disarm(timer) => {
                self.timers.remove(&timer);
            }
            Order::Record => {
                self.finish_output();
                if let Some(me) = self.remote() {
                    self.host.record(self.status.run, &me);
                }
            }
            Order::Warn(dog) => self.host.told(News::Warned(dog)),
            Order::Enter(state) => {
                if state.is_over() || state == State::Restarting {
                    self.finish_output();
                    self.bury();
                }
                self.status.state = state;
                self.status.exit = self.machine.exit();
                self.status.cause = self.machine.cause();
                // In this order: whoever sees that it has ended finds everything about that.
                self.host.told(News::Entered(&self.status));
                self.publish();
            }
        }
    }

    fn publish(&self) {
        self.tell.send_replace(self.status.clone());
    }

    fn remote(&self) -> Option<Agent> {
        Some(Agent {
            commands: self.me.upgrade()?,
            status: self.watch.clone(),
            log: Arc::clone(&self.log),
            depths: Arc::clone(&self.depths),
        })
    }

    async fn command(&mut self, command: Command) {
        match command {
            Command::Start(reply) => {
                self.events.push_back(Event::Start);
                self.settle();
                let _ = reply.send(());
            }
            Command::Stop(cause) => self.events.push_back(Event::Stop(cause)),
            Command::Kill(cause) => self.events.push_back(Event::Kill(cause)),
            Command::Prepared(run, prepared) => self.prepared(run, prepared),
            // Of a run that was given up before it answered: the present one is not that far.
            Command::Recorded(run) | Command::Hunted(run, _) | Command::Holds(run, _) if run != self.status.run => {}
            Command::Holds(_, bytes) => self.events.push_back(Event::Holds(bytes)),
            Command::Recorded(_) => self.events.push_back(Event::Recorded),
            Command::Hunted(_, killed) => {
                self.status.swept += killed;
                self.events.push_back(Event::TreeGone);
            }
            Command::Adopted(record, killed) => {
                self.status.swept += killed;
                let mut exit = None;
                let mut orphaned = false;
                if let Some(record) = record {
                    self.status.swept += record.swept;
                    self.status.out_of_memory = record.out_of_memory;
                    self.host.told(News::Gone(&record));
                    self.status.stragglers.clone_from(&record.stragglers);
                    self.status.failure.clone_from(&record.failure);
                    (exit, orphaned) = (record.exit, record.orphaned);
                }
                self.events.push_back(Event::Adopted { exit, orphaned });
            }
            // The loop has seen to it.
            Command::Forget(_) => {}
            Command::Interrupt(reply) => {
                let mut result = self.may_take_input();
                if result.is_ok() && !self.interrupt() {
                    result = Err(NotTaken::Refused("there is nothing to interrupt".to_owned()));
                }
                let _ = reply.send(result);
            }
            Command::Change(change, reply) => {
                let mut result = self.may_take_input();
                if result.is_ok() {
                    self.speak(|dialect, step| {
                        if let Err(refused) = dialect.change(change, step) {
                            result = Err(NotTaken::Refused(refused.to_string()));
                        }
                    });
                }
                let _ = reply.send(result);
            }
            Command::CloseInput => self.close_input(),
            Command::Answer(run, order, answer) if run == self.status.run => {
                self.speak(|dialect, step| dialect.answer(&order, answer, step));
            }
            Command::Answer(..) => {}
            Command::Release(barrier) => self.speak(|dialect, step| dialect.release(&barrier, step)),
            Command::Permit(request, decision) => {
                self.speak(|dialect, step| dialect.permit(&request, decision, step));
                // Most do not say that they have heard.
                self.question_gone(&request);
            }
            Command::Input(bytes, reply) => {
                let result = self.take_input(bytes);
                let _ = reply.send(result);
            }
            Command::Ask { id, text, reply } => {
                let mut result = self.may_take_input();
                if result.is_ok() {
                    self.speak(|dialect, step| {
                        let message = UserMessage { id: &id, text: &text };
                        if let Err(refused) = dialect.ask(message, step) {
                            result = Err(NotTaken::Refused(refused.to_string()));
                        }
                    });
                }
                let _ = reply.send(result);
            }
        }
    }

    fn prepared(&mut self, run: u32, prepared: Result<Box<Prepared>, SpawnFailure>) {
        let wanted = run == self.status.run && self.run.is_none() && !self.machine.is_past_saving();
        match prepared {
            // Dropped, it ends by itself: it has been told nothing.
            Ok(prepared) if !wanted => bury(prepared.newborn.0.child),
            Err(_) if !wanted => {}
            Ok(prepared) => {
                if let Err(error) = self.begin(*prepared) {
                    self.status.failure = Some(SpawnFailure {
                        fault: SpawnFault::Other,
                        text: format!("its parent process cannot be spoken to: {error}"),
                    });
                    self.events.push_back(Event::SpawnFailed { passing: true });
                }
            }
            Err(failure) => self.spawn_failed(failure),
        }
    }

    fn spawn_failed(&mut self, failure: SpawnFailure) {
        let passing = failure.fault == SpawnFault::Other;
        self.status.failure = Some(failure);
        self.events.push_back(Event::SpawnFailed { passing });
    }

    fn begin(&mut self, prepared: Prepared) -> io::Result<()> {
        let Prepared {
            newborn: Newborn(parent),
            launch,
            dialect,
            redactor,
            web,
            spooled,
        } = prepared;
        self.spool.goes_on_at(spooled);
        parent.control.set_nonblocking(true)?;
        let (read, orders) = UnixStream::from_std(parent.control)?.into_split();
        self.status.parent = parent
            .child
            .id()
            .and_then(Process::of)
            .map(|process| (process.pid, process.started));
        // Before it has been told anything: whoever comes after us knows whom to look for.
        self.publish();
        self.host.told(News::Fostered(&self.status));
        self.run = Some(Box::new(Run {
            mark: format!("{RUN_MARK}={}", launch.run),
            cgroup: launch.cgroup.clone(),
            dialect,
            control: Some(Lines::new(read)),
            child: Some(parent.child),
            stdin: Some(Sender::from_owned_fd(OwnedFd::from(parent.stdin))?),
            input_bytes: self.early.len(),
            input: Some(std::mem::take(&mut self.early))
                .filter(|early| !early.is_empty())
                .into_iter()
                .collect(),
            written: 0,
            close_input: false,
            stdout: Some(Receiver::from_owned_fd(OwnedFd::from(parent.stdout))?),
            stderr: Some(Receiver::from_owned_fd(OwnedFd::from(parent.stderr))?),
            out: Splitter::new(self.line_bytes),
            err: Splitter::new(64 << 10),
            redactor,
            sieves: Default::default(),
            piece: Piece::default(),
            line_end: None,
            open_questions: Vec::new(),
            open_calls: 0,
            finished: false,
            web: web.map(|authorization| Web::new(authorization, self.line_bytes)),
            // It reads this before anything else.
            orders: Mouth::new(orders, wire::line(&launch)),
        }));
        Ok(())
    }

    fn word(&mut self, word: Option<Word>) {
        match word {
            Some(Word::Up { pid, isolation }) => {
                self.status.pid = Some(pid);
                for missing in &isolation.missing {
                    self.host
                        .told(News::Trouble(format!("a bound does not hold: {missing}")));
                }
                self.status.isolation = Some(isolation);
                self.publish();
                self.events.push_back(Event::Up);
                self.speak(|dialect, step| dialect.begin(step));
            }
            Some(Word::Failed(failure)) => self.spawn_failed(failure),
            Some(Word::Ended(exit)) => {
                self.status.pid = None;
                self.publish();
                self.events.push_back(Event::LeaderEnded(exit));
            }
            Some(Word::Terminal { order, done }) => {
                let answer = streams::answer_of(done);
                self.speak(|dialect, step| dialect.answer(&order, answer, step));
            }
            Some(Word::Gone(record)) => {
                self.status.swept = record.swept;
                self.status.out_of_memory = record.out_of_memory;
                self.status.stragglers.clone_from(&record.stragglers);
                if let Some(exit) = record.exit {
                    self.events.push_back(Event::LeaderEnded(exit));
                }
                self.host.told(News::Gone(&record));
                self.events.push_back(Event::TreeGone);
                if let Some(run) = &mut self.run {
                    run.control = None;
                }
            }
            None => {
                if let Some(run) = &mut self.run {
                    run.control = None;
                }
                self.events.push_back(Event::ParentLost);
            }
        }
    }

    /// The run is over.
    fn bury(&mut self) {
        if let Some(child) = self.run.take().and_then(|run| run.child) {
            bury(child);
        }
        self.status.pid = None;
        self.status.parent = None;
    }

    fn due(&mut self) {
        let now = Instant::now();
        let due: Vec<_> = self
            .timers
            .iter()
            .filter(|(_, at)| **at <= now)
            .map(|(timer, _)| *timer)
            .collect();
        for timer in due {
            self.timers.remove(&timer);
            self.events.push_back(Event::Due(timer));
        }
    }

    fn order(&self, order: &wire::Order) -> bool {
        // Whoever does not take it is gone, and is missed soon.
        self.run.as_ref().is_some_and(|run| run.orders.say(wire::line(order)))
    }

    /// A signal to the parent process that an earlier Gitstead has started, which has no other ear for us.
    fn signal_orphan(&self, signal: Signal) {
        if let Some((pid, started)) = self.orphan.as_ref().and_then(|orphan| orphan.parent) {
            Process { pid, started }.signal(signal);
        }
    }

    fn hurry_orphan(&self, at_once: bool) {
        self.signal_orphan(if at_once { Signal::USR2 } else { Signal::USR1 });
    }

    /// Kills what is marked as belonging to this run, where its parent process did not.
    fn hunt(&mut self) {
        let mark = match (&mut self.run, &self.orphan) {
            (Some(run), _) => {
                if let Some(child) = &mut run.child {
                    child.kill();
                }
                Some((run.mark.clone(), run.cgroup.clone()))
            }
            (None, Some(orphan)) => {
                self.signal_orphan(Signal::KILL);
                Some((format!("{RUN_MARK}={}", orphan.run), orphan.cgroup.clone()))
            }
            (None, None) => None,
        };
        let (Some((mark, cgroup)), Some(me)) = (mark, self.me.upgrade()) else {
            self.events.push_back(Event::TreeGone);
            return;
        };
        let number = self.status.run;
        let started = std::thread::Builder::new()
            .name("agent-hunt".to_owned())
            .spawn(move || {
                let killed = hunt_down(&mark, cgroup.as_deref());
                let _ = me.blocking_send(Command::Hunted(number, killed));
            });
        if started.is_err() {
            self.events.push_back(Event::TreeGone);
        }
    }
}

/// What is said to a parent process, in its order. Nobody waits for it to listen: while it speaks itself it does not.
struct Mouth(mpsc::Sender<Vec<u8>>);

impl Mouth {
    fn new(mut to: OwnedWriteHalf, first: Vec<u8>) -> Self {
        let (send, mut receive) = mpsc::channel::<Vec<u8>>(ORDERS);
        tokio::spawn(async move {
            let mut next = Some(first);
            while let Some(line) = next {
                if to.write_all(&line).await.is_err() {
                    break;
                }
                drop(line);
                next = receive.recv().await;
            }
        });
        Mouth(send)
    }

    fn waiting(&self) -> usize {
        self.0.max_capacity() - self.0.capacity()
    }

    /// Says whether there was room for it.
    fn say(&self, line: Vec<u8>) -> bool {
        self.0.try_send(line).is_ok()
    }

    /// The same for what the agent wants.
    fn pass_on(&self, line: Vec<u8>) -> bool {
        self.0.capacity() > OURS && self.say(line)
    }
}

/// Which step of stopping an order is.
fn step_of(order: &Order, state: State) -> Option<Step> {
    match order {
        // A watchdog may have one interrupted that goes on.
        Order::Interrupt if state == State::Stopping => Some(Step::Interrupt),
        Order::CloseInput => Some(Step::EndOfInput),
        Order::Terminate => Some(Step::Terminate),
        Order::KillTree => Some(Step::Kill),
        Order::Hunt => Some(Step::Hunt),
        _ => None,
    }
}

async fn next_word(control: Option<&mut Lines>) -> Option<Word> {
    match control {
        Some(lines) => {
            let line = lines.next().await?;
            serde_json::from_slice(&line).ok()
        }
        None => std::future::pending().await,
    }
}

async fn readable(pipe: Option<&Receiver>) {
    match pipe {
        // An error is found by who reads.
        Some(pipe) => drop(pipe.readable().await),
        None => std::future::pending().await,
    }
}

async fn writable(pipe: Option<&Sender>) {
    match pipe {
        Some(pipe) => drop(pipe.writable().await),
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
