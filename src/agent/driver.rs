//! One agent, driven: its machine, its dialect and its process, in one task. Nothing here blocks, and nothing here waits for whoever looks on.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    os::fd::OwnedFd,
    process::Child,
    sync::Arc,
};

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
    handle::{Agent, Command, Host, Newborn, News, NotTaken, Prepared, RUN_MARK, Settings, Status},
    hunt::{bury, hunt_down},
    launch::{SpawnFailure, SpawnFault},
    output::{LogRing, Splitter, Spool, Stream},
    rules::State,
    state::{Event, Machine, Order, Timer},
    tree::Process,
    wire::{self, Lines, Word},
};
use crate::{
    base::Clock,
    dialect::{self, Dialect, Step},
};

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

/// Starts the task of an agent. It ends when nobody controls it any more and it does not run.
pub fn drive(settings: Settings, host: impl Host) -> Agent {
    let (send, receive) = mpsc::channel(COMMANDS);
    let machine = Machine::at(settings.rules, settings.state, settings.seed);
    let status = Status {
        state: machine.state(),
        run: settings.runs,
        pid: None,
        parent: None,
        exit: None,
        failure: None,
        cause: None,
        swept: 0,
        stragglers: Vec::new(),
    };
    let (tell, watch) = watch::channel(status.clone());
    let agent = Agent {
        // The task itself must not keep its own commands coming.
        commands: send,
        status: watch,
        log: Arc::clone(&settings.log),
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
        line_bytes: settings.line_bytes,
        spool: Spool::new(settings.spool, settings.spool_bounds),
        clock: settings.clock,
        began: Instant::now(),
        timers: BTreeMap::new(),
        events: VecDeque::new(),
        early: Vec::new(),
        run: None,
    };
    tokio::spawn(driver.run());
    agent
}

struct Driver<H> {
    machine: Machine,
    host: H,
    commands: mpsc::Receiver<Command>,
    me: mpsc::WeakSender<Command>,
    watch: watch::Receiver<Status>,
    tell: watch::Sender<Status>,
    status: Status,
    log: Arc<LogRing>,
    line_bytes: usize,
    spool: Spool,
    clock: Arc<dyn Clock>,
    began: Instant,
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
    dialect: Box<dyn Dialect>,
    control: Option<Lines>,
    orders: OwnedWriteHalf,
    child: Option<Child>,
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
    open_questions: usize,
    finished: bool,
}

impl<H: Host> Driver<H> {
    async fn run(mut self) {
        loop {
            self.settle().await;
            let may_read = !self.spool.is_full();
            let next = self.timers.values().min().copied();
            let run = self.run.as_deref_mut();
            let (control, stdin, stdout, stderr) = match run {
                Some(run) => (
                    run.control.as_mut(),
                    run.stdin.as_ref().filter(|_| !run.input.is_empty()),
                    run.stdout.as_ref(),
                    run.stderr.as_ref(),
                ),
                None => (None, None, None, None),
            };
            tokio::select! {
                command = self.commands.recv() => match command {
                    // What runs is stopped by its parent process, when we are gone.
                    Some(Command::Forget) | None => return,
                    Some(command) => self.command(command).await,
                },
                word = next_word(control) => self.word(word),
                () = writable(stdin) => self.write(),
                () = readable(stdout), if may_read => self.read(Stream::Stdout),
                () = readable(stderr), if may_read => self.read(Stream::Stderr),
                () = self.spool.written(), if self.spool.is_busy() => self.spool.flush(),
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => self.due(),
            }
        }
    }

    /// Tells the machine everything, and does what it says.
    async fn settle(&mut self) {
        if let Some(why) = self.spool.take_failure() {
            self.host
                .told(News::Trouble(format!("output cannot be written to disk: {why}")));
        }
        while let Some(event) = self.events.pop_front() {
            let now = self.began.elapsed();
            for order in self.machine.on(event, now) {
                self.execute(order).await;
            }
        }
    }

    async fn execute(&mut self, order: Order) {
        match order {
            Order::Spawn => {
                self.status.run += 1;
                self.status.pid = None;
                self.status.parent = None;
                self.status.failure = None;
                self.status.swept = 0;
                self.status.stragglers.clear();
                self.run = None;
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
            Order::Terminate => self.order(&wire::Order::Terminate).await,
            Order::KillTree => {
                self.order(&wire::Order::Kill).await;
                if self.run.is_none() {
                    // It is being prepared, and will be told when it is there; there is nothing to wait for.
                    self.events.push_back(Event::TreeGone);
                }
            }
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
                    self.host.record(&me);
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
        })
    }

    async fn command(&mut self, command: Command) {
        match command {
            Command::Start => self.events.push_back(Event::Start),
            Command::Stop(cause) => self.events.push_back(Event::Stop(cause)),
            Command::Kill(cause) => self.events.push_back(Event::Kill(cause)),
            Command::Prepared(run, prepared) => self.prepared(run, prepared).await,
            Command::Recorded => self.events.push_back(Event::Recorded),
            Command::Hunted(killed) => {
                self.status.swept += killed;
                self.events.push_back(Event::TreeGone);
            }
            Command::Adopted(record, killed) => {
                self.status.swept += killed;
                let mut exit = None;
                let mut orphaned = false;
                if let Some(record) = record {
                    self.status.swept += record.swept;
                    self.status.stragglers.clone_from(&record.stragglers);
                    self.status.failure.clone_from(&record.failure);
                    (exit, orphaned) = (record.exit, record.orphaned);
                }
                self.events.push_back(Event::Adopted { exit, orphaned });
            }
            Command::Forget => {}
            Command::Interrupt(reply) => {
                let mut result = self.may_take_input();
                if result.is_ok() && !self.interrupt() {
                    result = Err(NotTaken::Refused("there is nothing to interrupt".to_owned()));
                }
                let _ = reply.send(result);
            }
            Command::CloseInput => self.close_input(),
            Command::Release(barrier) => self.speak(|dialect, step| dialect.release(&barrier, step)),
            Command::Permit(request, decision) => {
                self.speak(|dialect, step| dialect.permit(&request, decision, step));
            }
            Command::Input(bytes, reply) => {
                let result = self.take_input(bytes);
                let _ = reply.send(result);
            }
            Command::Ask(message, reply) => {
                let mut result = self.may_take_input();
                if result.is_ok() {
                    self.speak(|dialect, step| {
                        if let Err(refused) = dialect.ask(&message, step) {
                            result = Err(NotTaken::Refused(refused.to_string()));
                        }
                    });
                }
                let _ = reply.send(result);
            }
        }
    }

    async fn prepared(&mut self, run: u32, prepared: Result<Box<Prepared>, SpawnFailure>) {
        let wanted = run == self.status.run && self.run.is_none() && !self.status.state.is_over();
        match prepared {
            // Dropped, it ends by itself: it has been told nothing.
            Ok(prepared) if !wanted => bury(prepared.newborn.0.child),
            Err(_) if !wanted => {}
            Ok(prepared) => {
                if let Err(error) = self.begin(*prepared).await {
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

    async fn begin(&mut self, prepared: Prepared) -> io::Result<()> {
        let Prepared {
            newborn: Newborn(parent),
            launch,
            dialect,
        } = prepared;
        parent.control.set_nonblocking(true)?;
        let (read, mut orders) = UnixStream::from_std(parent.control)?.into_split();
        self.status.parent = i32::try_from(parent.child.id())
            .ok()
            .and_then(Process::of)
            .map(|process| (process.pid, process.started));
        self.run = Some(Box::new(Run {
            mark: format!("{RUN_MARK}={}", launch.run),
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
            open_questions: 0,
            finished: false,
            orders: {
                // It reads this before anything else, and nothing else is to be read from it before.
                orders.write_all(&wire::line(&launch)).await?;
                orders
            },
        }));
        Ok(())
    }

    fn word(&mut self, word: Option<Word>) {
        match word {
            Some(Word::Up { pid }) => {
                self.status.pid = Some(pid);
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
            Some(Word::Gone(record)) => {
                self.status.swept = record.swept;
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

    /// Says whether there was something to interrupt, in words that the agent knows.
    fn interrupt(&mut self) -> bool {
        let mut heard = false;
        self.speak(|dialect, step| heard = dialect.interrupt(step).is_ok());
        heard
    }

    /// Lets the dialect do something, and does what it says.
    fn speak(&mut self, act: impl FnOnce(&mut dyn Dialect, &mut Step)) {
        let Some(run) = &mut self.run else { return };
        let mut step = Step::default();
        act(run.dialect.as_mut(), &mut step);
        for order in std::mem::take(&mut step.orders) {
            let answer = dialect::Answer::Failed("this is not offered here".to_owned());
            let mut more = Step::default();
            run.dialect.answer(order.id(), answer, &mut more);
            step.events.append(&mut more.events);
            step.input.append(&mut more.input);
        }
        for bytes in step.input {
            run.input_bytes += bytes.len();
            run.input.push_back(bytes);
        }
        if run.input_bytes > UNREAD_BYTES && !run.close_input {
            // It asks and asks and does not read what it is told.
            run.close_input = true;
            run.input.clear();
            (run.input_bytes, run.written) = (0, 0);
            tracing::warn!("an agent does not read its answers: its input is closed");
        }
        run.close_input |= step.close_input;
        for event in step.events {
            match &event {
                dialect::Event::Ready => self.events.push_back(Event::SessionReady),
                dialect::Event::TurnStarted { .. } => self.events.push_back(Event::TurnStarted),
                dialect::Event::TurnEnded(_) => {
                    run.open_questions = 0;
                    self.events.push_back(Event::TurnEnded);
                }
                dialect::Event::Permission(_) => {
                    run.open_questions += 1;
                    self.events.push_back(Event::PermissionAsked);
                }
                dialect::Event::PermissionGone { .. } => {
                    run.open_questions = run.open_questions.saturating_sub(1);
                    if run.open_questions == 0 {
                        self.events.push_back(Event::PermissionsGone);
                    }
                }
                _ => {}
            }
            self.host.told(News::Said(Box::new(event)));
        }
        self.write();
    }

    fn may_take_input(&self) -> Result<(), NotTaken> {
        match self.run.as_deref() {
            _ if !self.status.state.is_up() && self.status.state != State::Starting => Err(NotTaken::NotRunning),
            None => Err(NotTaken::NotRunning),
            Some(run) if run.stdin.is_none() || run.close_input => Err(NotTaken::Closed),
            Some(run) if run.input_bytes >= INPUT_BYTES => Err(NotTaken::Full),
            Some(_) => Ok(()),
        }
    }

    fn take_input(&mut self, bytes: Vec<u8>) -> Result<(), NotTaken> {
        if self.run.is_none() && self.status.state == State::Starting {
            if self.early.len() >= INPUT_BYTES {
                return Err(NotTaken::Full);
            }
            self.early.extend_from_slice(&bytes);
            return Ok(());
        }
        self.may_take_input()?;
        if let Some(run) = &mut self.run {
            run.input_bytes += bytes.len();
            run.input.push_back(bytes);
        }
        self.write();
        Ok(())
    }

    fn close_input(&mut self) {
        if let Some(run) = &mut self.run {
            run.close_input = true;
        }
        self.write();
    }

    /// Gives the agent as much as it takes.
    fn write(&mut self) {
        let Some(run) = &mut self.run else { return };
        while let Some(stdin) = &run.stdin
            && let Some(bytes) = run.input.front()
        {
            match stdin.try_write(&bytes[run.written..]) {
                Ok(written) => {
                    run.written += written;
                    if run.written >= bytes.len() {
                        run.input_bytes = run.input_bytes.saturating_sub(bytes.len());
                        run.written = 0;
                        run.input.pop_front();
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    // While it is being stopped nobody waits for it to read.
                    if run.close_input && self.status.state == State::Stopping {
                        break;
                    }
                    return;
                }
                Err(_) => {
                    // It has closed its end. That is its right.
                    run.stdin = None;
                }
            }
        }
        if run.stdin.is_none() || run.close_input {
            run.stdin = None;
            run.input.clear();
            (run.input_bytes, run.written) = (0, 0);
        }
    }

    fn read(&mut self, stream: Stream) {
        thread_local! {
            static BUFFER: std::cell::RefCell<Vec<u8>> = std::cell::RefCell::new(vec![0; CHUNK]);
        }
        BUFFER.with_borrow_mut(|buffer| {
            for _ in 0..READS {
                let Some(run) = &mut self.run else { return };
                let pipe = match stream {
                    Stream::Stdout => &mut run.stdout,
                    Stream::Stderr => &mut run.stderr,
                };
                let Some(open) = pipe else { return };
                match open.try_read(buffer) {
                    Ok(0) => {
                        *pipe = None;
                        self.flush_tail(stream);
                        self.output_may_have_ended();
                        break;
                    }
                    Ok(n) => {
                        self.spool.push(stream, &buffer[..n]);
                        self.events.push_back(Event::Output);
                        self.take_lines(stream, &buffer[..n]);
                        if self.spool.is_full() {
                            break;
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(_) => {
                        *pipe = None;
                        self.output_may_have_ended();
                        break;
                    }
                }
            }
        });
        self.log.ring();
    }

    fn output_may_have_ended(&mut self) {
        let ended = self
            .run
            .as_deref()
            .is_some_and(|run| run.stdout.is_none() && run.stderr.is_none());
        if ended {
            self.events.push_back(Event::OutputEnded);
        }
    }

    fn take_lines(&mut self, stream: Stream, bytes: &[u8]) {
        self.with_splitter(stream, |splitter, take| splitter.push(bytes, take));
    }

    /// A last line without an end.
    fn flush_tail(&mut self, stream: Stream) {
        self.with_splitter(stream, |splitter, take| splitter.finish(take));
    }

    fn with_splitter(
        &mut self,
        stream: Stream,
        cut: impl FnOnce(&mut Splitter, &mut dyn FnMut(super::output::Cut<'_>)),
    ) {
        let at = self.clock.now();
        let Some(run) = &mut self.run else { return };
        let splitter = match stream {
            Stream::Stdout => &mut run.out,
            Stream::Stderr => &mut run.err,
        };
        // Its place is taken meanwhile: what a line says may change everything else.
        let mut own = std::mem::replace(splitter, Splitter::new(0));
        cut(&mut own, &mut |found| {
            self.log.push(stream, found.line, found.dropped, at);
            if stream == Stream::Stderr {
                return;
            }
            if found.dropped > 0 {
                let bytes = found.line.len() as u64 + found.dropped;
                let text = format!("a line of {bytes} bytes was too long to be understood");
                self.host.told(News::Trouble(text));
            } else {
                self.speak(|dialect, step| dialect.line(found.line, step));
            }
        });
        if let Some(run) = &mut self.run {
            match stream {
                Stream::Stdout => run.out = own,
                Stream::Stderr => run.err = own,
            }
        }
    }

    /// Whatever was said is said now, and what was begun has come to an end.
    fn finish_output(&mut self) {
        if self.run.as_deref().is_none_or(|run| run.finished) {
            return;
        }
        for stream in [Stream::Stdout, Stream::Stderr] {
            self.flush_tail(stream);
        }
        if let Some(run) = &mut self.run {
            (run.stdout, run.stderr, run.finished) = (None, None, true);
        }
        self.spool.flush();
        self.log.ring();
        let exit = self.machine.exit();
        self.speak(|dialect, step| {
            let exit = dialect::Exit {
                code: exit.and_then(|exit| exit.code),
                signal: exit.and_then(|exit| exit.signal),
            };
            dialect.finished(&exit, step);
        });
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

    async fn order(&mut self, order: &wire::Order) {
        if let Some(run) = &mut self.run {
            // A few bytes, and the socket is empty: whoever does not take them is gone, and is missed soon.
            let _ = run.orders.write_all(&wire::line(order)).await;
        }
    }

    /// Kills what is marked as belonging to this run, where its parent process did not.
    fn hunt(&mut self) {
        let (Some(run), Some(me)) = (&mut self.run, self.me.upgrade()) else {
            self.events.push_back(Event::TreeGone);
            return;
        };
        if let Some(child) = &mut run.child {
            let _ = child.kill();
        }
        let mark = run.mark.clone();
        let started = std::thread::Builder::new()
            .name("agent-hunt".to_owned())
            .spawn(move || {
                let killed = hunt_down(&mark);
                let _ = me.blocking_send(Command::Hunted(killed));
            });
        if started.is_err() {
            self.events.push_back(Event::TreeGone);
        }
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
