//! The parent process of one agent: a small process of our own that the agent can neither outlive nor lose its children from.
//!
//! It leads a session of its own, adopts whatever the agent's processes leave behind, starts the agent, and ends when nothing below it is left. Gitstead tells it when to
//! be gentle and when not. If Gitstead is gone, which it sees by the end of their socket, it stops the agent by itself and leaves a record of the exit.

use std::{
    collections::BTreeSet,
    fs,
    io::{self, Write as _},
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::{fs::OpenOptionsExt as _, net::UnixStream as StdUnixStream},
    },
    path::Path,
    process::ExitCode,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustix::{
    fs::{Mode, OFlags},
    process::{Signal, WaitOptions, getpid, set_child_subreaper, setsid, wait},
};
use tokio::{
    io::AsyncWriteExt as _,
    net::{UnixStream, unix::OwnedWriteHalf},
    signal::unix::{SignalKind, signal},
    time::{Instant, sleep_until, timeout},
};

use super::{
    cgroup::{self, Cell},
    container::Whom,
    launch::{Exit, ExitRecord, Isolation, Launch, SpawnFailure, SpawnFault},
    spawn::{self, Streams},
    stage,
    terminals::Terminals,
    tree::{self, Process},
    wire::{Deed, Lines, Order, Word, line},
};

/// How often a tree is killed anew that is not gone yet.
const AGAIN: Duration = Duration::from_millis(20);
/// How long Gitstead may take to say what is to be started.
const PATIENCE: Duration = Duration::from_secs(30);

/// Is the parent process: what `gitstead agent-parent` does. Standard input is the socket to Gitstead.
pub fn run_parent() -> ExitCode {
    match parent() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(
                io::stderr(),
                "error: this is started by `gitstead serve` for each agent, and by nobody else: {error}"
            );
            ExitCode::from(2)
        }
    }
}

fn parent() -> io::Result<()> {
    let control = StdUnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let streams = spawn::receive_streams(&control)?;
    // Whatever Gitstead was started with is nothing for an agent.
    close_fds::set_fds_cloexec(3, &[]);
    setsid()?;
    set_child_subreaper(Some(getpid()))?;
    control.set_nonblocking(true)?;
    // One thread for all: what becomes the agent is killed when the one ends that has started it.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(supervise(control, streams))
}

/// What this process knows of its agent.
struct Care {
    launch: Launch,
    /// The file that is executed as the agent, which it reaches in its sandbox wherever that is. Nothing that it names itself is reached so.
    program: Option<OwnedFd>,
    leader: Option<Process>,
    exit: Option<Exit>,
    failure: Option<SpawnFailure>,
    /// What it had left behind and was killed.
    swept: BTreeSet<Process>,
    cell: Option<Cell>,
    /// What runs for it beside it.
    terminals: Terminals,
    /// What kills everything in its container, while it does, and what it could not do.
    ender: Option<i32>,
    not_emptied: Option<String>,
    orphaned: bool,
    /// When the agent was sent SIGTERM.
    asked: Option<Instant>,
    phase: Phase,
}

/// What goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// It runs.
    Running,
    /// Gitstead is gone; by this time the agent should have ended because its input has.
    Left { until: Instant },
    /// SIGTERM was sent because Gitstead is gone.
    Asked { until: Instant },
    /// Everything in the container is being killed from within.
    Emptying { until: Instant },
    /// Everything is being killed.
    Sweeping { report: Instant, give_up: Instant },
}

async fn supervise(control: StdUnixStream, streams: Streams) -> io::Result<()> {
    // Signals that are caught here are as the system has them by default in what is executed from here, whatever they were in Gitstead. So are those that are looked at by nobody.
    for ignored in ignored(&fs::read_to_string("/proc/self/status").unwrap_or_default()) {
        let _ = signal(SignalKind::from_raw(ignored));
    }
    let mut child_ended = signal(SignalKind::child())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let mut quit = signal(SignalKind::quit())?;
    // From a Gitstead that was started after the one that started us: it has no socket to us.
    let mut hurry = signal(SignalKind::user_defined1())?;
    let mut at_once = signal(SignalKind::user_defined2())?;

    let (read, mut write) = UnixStream::from_std(control)?.into_split();
    let mut read = Lines::new(read);
    let Ok(first) = timeout(PATIENCE, read.next()).await else {
        return Ok(());
    };
    let Some(first) = first else { return Ok(()) };
    let launch: Launch = serde_json::from_slice(&first).map_err(io::Error::other)?;
    drop(first);

    let mut care = Care {
        terminals: Terminals::of(&launch),
        ender: None,
        not_emptied: None,
        program: program(&launch),
        launch,
        leader: None,
        exit: None,
        failure: None,
        swept: BTreeSet::new(),
        cell: None,
        orphaned: false,
        asked: None,
        phase: Phase::Running,
    };
    let mut isolation = Isolation::default();
    let program = care.program.as_ref().map(OwnedFd::as_fd);
    match start(&care.launch, program, streams, &mut isolation, &mut care.cell) {
        Ok(pid) => {
            care.leader = Process::of(pid);
            say(&mut write, &Word::Up { pid, isolation }).await;
        }
        Err(failure) => {
            say(&mut write, &Word::Failed(failure.clone())).await;
            care.failure = Some(failure);
            care.sweep();
        }
    }
    // What is secret in it is where it belongs now.
    care.launch.env = Vec::new();
    let mut connected = true;
    loop {
        if care.reap(&mut write).await {
            break;
        }
        for word in care.terminals.news() {
            say(&mut write, &word).await;
        }
        let now = Instant::now();
        let next = match care.phase {
            Phase::Running => None,
            Phase::Left { until } | Phase::Asked { until } | Phase::Emptying { until } => Some(until),
            Phase::Sweeping { .. } => Some(now + AGAIN),
        };
        let next = next.into_iter().chain(care.terminals.due()).min();
        let bell = std::sync::Arc::clone(&care.terminals.bell);
        tokio::select! {
            _ = child_ended.recv() => {}
            _ = terminate.recv() => care.let_go(),
            _ = interrupt.recv() => care.let_go(),
            _ = hang_up.recv() => care.let_go(),
            _ = quit.recv() => care.let_go(),
            _ = hurry.recv() => care.hurry(),
            _ = at_once.recv() => care.sweep(),
            () = bell.notified() => {}
            order = read.next(), if connected => match order {
                Some(order) => match serde_json::from_slice(&order) {
                    Ok(Order::Terminate) => care.terminate(),
                    Ok(Order::Kill) => care.sweep(),
                    Ok(Order::Terminal { order, deed }) => {
                        if let Some(word) = care.terminal(order, deed) {
                            say(&mut write, &word).await;
                        }
                    }
                    // A Gitstead of another version; it kills what does not obey.
                    Err(_) => {}
                },
                None => {
                    connected = false;
                    care.orphaned = true;
                    care.let_go();
                }
            },
            () = sleep_until(next.unwrap_or(now)), if next.is_some() => {}
        }
        if care.step() {
            break;
        }
    }
    let record = care.record();
    if let Some(cell) = &care.cell {
        cell.remove();
    }
    // A record that cannot be written is still told to whoever is there.
    let _ = write_record(&care.launch.record, &record);
    say(&mut write, &Word::Gone(record)).await;
    Ok(())
}

impl Care {
    /// Waits for whoever has ended. Says whether nobody is left.
    async fn reap(&mut self, write: &mut OwnedWriteHalf) -> bool {
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => {
                    let is_leader = self
                        .leader
                        .is_some_and(|leader| leader.pid == pid.as_raw_nonzero().get());
                    if is_leader && (status.exited() || status.signaled()) {
                        let exit = Exit::of_wait(status);
                        self.exit = Some(exit);
                        self.leader = None;
                        say(write, &Word::Ended(exit)).await;
                        // Whoever is left has nobody to work for.
                        self.sweep();
                    } else if self.ender == Some(pid.as_raw_nonzero().get()) {
                        self.ender = None;
                        if !status.exited() || status.exit_status() != Some(0) {
                            self.not_emptied = Some(Exit::of_wait(status).to_string());
                        }
                        self.kill_the_rest();
                    } else if status.exited() || status.signaled() {
                        self.terminals.ended(pid.as_raw_nonzero().get(), Exit::of_wait(status));
                    }
                }
                Ok(None) => return false,
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return true,
            }
        }
    }

    /// Does something about a command that runs for the agent.
    fn terminal(&mut self, order: String, deed: Deed) -> Option<Word> {
        let is_late = self.phase != Phase::Running;
        let (cell, program) = (self.cell.as_ref(), self.program.as_ref().map(OwnedFd::as_fd));
        self.terminals.take(order, deed, |launch, streams| {
            if is_late {
                return Err("the agent is being stopped".to_owned());
            }
            // As the agent is: in its cgroup, with its bounds, in its sandbox, which has the agent's own program in it.
            let mut held = Isolation::default();
            let started = stage::start(launch, cell.map(Cell::dir), program, streams, &mut held);
            started.map_err(|failure| match failure.fault {
                SpawnFault::NoSandbox | SpawnFault::Other => failure.text,
                // Which of these it is would tell what there is outside.
                _ if launch.sandbox.is_some() => "this is no program that can be reached here".to_owned(),
                _ => failure.text,
            })
        })
    }

    /// Nobody tells us what to do any more: the agent is stopped, gently first.
    fn let_go(&mut self) {
        if self.phase == Phase::Running {
            let ladder = self.launch.ladder.orphaned();
            self.phase = match self.asked {
                // What was asked for need not be asked for again.
                Some(at) => Phase::Asked {
                    until: at + ladder.terminate,
                },
                None => Phase::Left {
                    until: Instant::now() + ladder.end_of_input,
                },
            };
        }
    }

    /// The next step now.
    fn hurry(&mut self) {
        match self.phase {
            Phase::Running => self.let_go(),
            Phase::Left { .. } => self.ask(),
            Phase::Asked { .. } => self.sweep(),
            Phase::Emptying { .. } | Phase::Sweeping { .. } => {}
        }
    }

    fn ask(&mut self) {
        self.terminate();
        self.phase = Phase::Asked {
            until: Instant::now() + self.launch.ladder.orphaned().terminate,
        };
    }

    fn terminate(&mut self) {
        self.asked.get_or_insert_with(Instant::now);
        if let Some(container) = &self.launch.container {
            // The client does not hand signals on. Nobody waits for what does: if it fails, the next step follows.
            let _ = spawn::ender(container, &self.launch.run, Whom::First);
            return;
        }
        if let Some(leader) = self.leader {
            leader.signal(Signal::TERM);
            // One that is stopped would not notice.
            leader.signal(Signal::CONT);
        }
    }

    fn sweep(&mut self) {
        if matches!(self.phase, Phase::Emptying { .. }) {
            return;
        }
        if let Some(container) = &self.launch.container
            && self.failure.is_none()
            && !matches!(self.phase, Phase::Sweeping { .. })
        {
            match spawn::ender(container, &self.launch.run, Whom::All) {
                Ok(pid) => {
                    self.ender = Some(pid);
                    let until = Instant::now() + self.launch.ladder.verify;
                    self.phase = Phase::Emptying { until };
                    return;
                }
                Err(error) => self.not_emptied = Some(error.to_string()),
            }
        }
        self.kill_the_rest();
    }

    /// Everything that is below this process.
    fn kill_the_rest(&mut self) {
        if !matches!(self.phase, Phase::Sweeping { .. }) {
            let now = Instant::now();
            self.phase = Phase::Sweeping {
                report: now + self.launch.ladder.verify,
                give_up: now + self.launch.ladder.orphaned().verify,
            };
        }
        self.kill_all();
    }

    fn kill_all(&mut self) {
        let (leader, me) = (self.leader, getpid().as_raw_nonzero().get());
        let mut killed = tree::below(me);
        if let Some(cell) = &self.cell {
            cell.kill();
        }
        // Also without a cgroup, and what has gone out of it.
        killed.extend(tree::kill_below(me));
        self.swept
            .extend(killed.into_iter().filter(|process| Some(*process) != leader));
    }

    /// Does what is due. Says whether it is time to give up.
    fn step(&mut self) -> bool {
        let now = Instant::now();
        match self.phase {
            Phase::Running => {}
            Phase::Left { until } if now >= until => self.ask(),
            Phase::Asked { until } if now >= until => self.sweep(),
            Phase::Emptying { until } if now >= until => {
                self.ender = None;
                self.not_emptied = Some("it took too long".to_owned());
                self.kill_the_rest();
            }
            Phase::Left { .. } | Phase::Asked { .. } | Phase::Emptying { .. } => {}
            Phase::Sweeping { report, give_up } => {
                self.kill_all();
                // Without a Gitstead that waits, the record can wait for the very last.
                return now >= if self.orphaned { give_up } else { report };
            }
        }
        false
    }

    fn record(&self) -> ExitRecord {
        let left = tree::below(getpid().as_raw_nonzero().get());
        let unsure = self.launch.container.as_ref().zip(self.not_emptied.as_ref());
        let unsure = unsure.map(|(container, why)| {
            let name = &container.name;
            format!("whatever of it is in the container '{name}': it could not be ended from within ({why})")
        });
        ExitRecord {
            version: ExitRecord::VERSION,
            run: self.launch.run.clone(),
            exit: self.exit,
            failure: self.failure.clone(),
            swept: self.swept.len(),
            out_of_memory: self.cell.as_ref().map_or(0, Cell::out_of_memory),
            stragglers: left.into_iter().map(Process::described).chain(unsure).collect(),
            orphaned: self.orphaned,
            at: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX)),
        }
    }
}

/// Signals that a process ignores, by what `/proc/<pid>/status` says of it; not SIGPIPE, which is what it should be in whatever is started from here anyway.
fn ignored(status: &str) -> Vec<i32> {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    let mask = mask.unwrap_or(0);
    let pipe = Signal::PIPE.as_raw();
    (1..=64)
        .filter(|number| mask >> (number - 1) & 1 == 1 && *number != pipe)
        .collect()
}

/// The file that is executed as the agent, if its sandbox has to be widened by it: not when whoever is in there could have put another one in its place.
fn program(launch: &Launch) -> Option<OwnedFd> {
    let own = &launch.sandbox.as_ref()?.write;
    let own: Vec<_> = own.iter().filter_map(|dir| dir.canonicalize().ok()).collect();
    let path = spawn::program_of(launch).ok()?;
    let is_own = |at: &Path| {
        at.canonicalize()
            .is_ok_and(|at| own.iter().any(|dir| at.starts_with(dir)))
    };
    if path.ancestors().any(is_own) {
        return None;
    }
    rustix::fs::open(&path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).ok()
}

/// Starts the agent, with what bounds it all together.
fn start(
    launch: &Launch,
    program: Option<BorrowedFd<'_>>,
    streams: Streams,
    isolation: &mut Isolation,
    cell: &mut Option<Cell>,
) -> Result<i32, SpawnFailure> {
    let bounds = launch.bounds;
    match launch
        .cgroup
        .as_deref()
        .map(|dir| Cell::make(dir, &bounds, &launch.cwd, isolation))
    {
        Some(Ok(made)) => *cell = Some(made),
        // It was there when Gitstead looked; the agent can do without.
        Some(Err(error)) => isolation.missing.push(format!("cgroup: {error}")),
        None => {}
    }
    if cell.is_none() {
        cgroup::without(&bounds, isolation);
    }
    isolation.container = launch.container.as_ref().map(|container| container.name.clone());
    stage::start(launch, cell.as_ref().map(Cell::dir), program, streams, isolation)
}

/// Tells Gitstead, if it is there.
async fn say(write: &mut OwnedWriteHalf, word: &Word) {
    let _ = timeout(PATIENCE, write.write_all(&line(word))).await;
}

/// Writes the record beside its place and renames it.
fn write_record(path: &Path, record: &ExitRecord) -> io::Result<()> {
    let beside = path.with_extension("tmp");
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&beside)?;
    file.write_all(&line(record))?;
    file.sync_all()?;
    fs::rename(&beside, path)
}
