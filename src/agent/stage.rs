//! What becomes an agent: this binary, started by the agent's parent process. It binds itself as the agent is to be bound, and then executes the agent in its own place, so that
//! everything holds before the agent's first instruction and nothing of it holds for anybody else.
//!
//! What it is to do comes over a socket, its standard input, and on that it says what holds and what went wrong. The socket is closed by the execution: its end, with nothing said of
//! a failure, is how the parent process knows that there is an agent now.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    net::Shutdown,
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use rustix::{
    fs::Mode,
    process::{
        Pid, Resource, Rlimit, Signal, WaitOptions, chdir, getpid, getppid, getrlimit, kill_process,
        set_parent_process_death_signal, setrlimit, umask, waitpid,
    },
};
use serde::{Deserialize, Serialize};

use super::{
    alone, cgroup,
    launch::{Isolation, Launch, SpawnFailure, SpawnFault},
    sandbox,
    spawn::{self, Streams},
    wire::line,
};

/// How long each word of it may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes that it says at most.
const SAID: u64 = 1 << 20;
/// Bytes that are put by for what is still to be done when no memory can be had any more, beside what its environment takes.
const PUT_BY: usize = 64 << 10;

/// What it is told.
#[derive(Serialize, Deserialize)]
struct Task {
    launch: Launch,
    /// The file that is executed.
    program: PathBuf,
    /// The cgroup that it goes to.
    cell: Option<PathBuf>,
    /// Its parent process, and the Gitstead above.
    parent: i32,
    server: Option<i32>,
}

/// What it says.
#[derive(Serialize, Deserialize)]
enum Told {
    /// It is bound so, and is about to execute the agent.
    Bound(Box<Isolation>),
    /// There will be no agent.
    Failed(SpawnFailure),
}

fn other(text: String) -> SpawnFailure {
    SpawnFailure {
        fault: SpawnFault::Other,
        text,
    }
}

/// Starts an agent, or what runs beside it, from the thread that is to outlive it: it is killed when that ends. Says its number, and notes what it is held in. Blocks until it is executed.
///
/// # Errors
/// When it cannot be. Nothing of it is left then.
pub(super) fn start(
    launch: &Launch,
    cell: Option<&Path>,
    program: Option<BorrowedFd<'_>>,
    streams: Streams,
    isolation: &mut Isolation,
) -> Result<i32, SpawnFailure> {
    if !launch.cwd.is_dir() {
        return Err(SpawnFailure {
            fault: SpawnFault::MissingDirectory,
            text: "the directory that it works in is not there".to_owned(),
        });
    }
    let number = |pid: Pid| pid.as_raw_nonzero().get();
    let task = Task {
        program: spawn::program_of(launch)?,
        launch: launch.clone(),
        cell: cell.map(Path::to_owned),
        parent: number(getpid()),
        // Unless that is gone, and whoever adopts orphans is in its place.
        server: getppid().filter(|pid| !pid.is_init()).map(number),
    };
    let unstarted = |error: io::Error| other(format!("no process can be started: {error}"));
    let (pid, control) = spawn::stage(streams, program).map_err(unstarted)?;
    let failure = match converse(&control, &task) {
        Ok((Some(bound), None)) => {
            isolation.landlock = bound.landlock;
            isolation.seccomp = bound.seccomp;
            isolation.no_network = bound.no_network;
            isolation.connect = bound.connect;
            isolation.bind = bound.bind;
            isolation.missing.extend(bound.missing);
            return Ok(pid);
        }
        Ok((_, Some(failure))) => failure,
        Ok((None, None)) => other("what was to become it has ended".to_owned()),
        Err(error) => other(format!("what was to become it does not answer: {error}")),
    };
    if let Some(pid) = Pid::from_raw(pid) {
        // Nobody has waited for it, so it is nobody else yet.
        let _ = kill_process(pid, Signal::KILL);
        // One that is stuck in the kernel is waited for with all others.
        let _ = waitpid(Some(pid), WaitOptions::NOHANG);
    }
    Err(failure)
}

/// Tells it what to do, and hears all that it says.
fn converse(mut control: &UnixStream, task: &Task) -> io::Result<(Option<Isolation>, Option<SpawnFailure>)> {
    control.set_write_timeout(Some(PATIENCE))?;
    control.set_read_timeout(Some(PATIENCE))?;
    // If it is gone already, it may have said why.
    let _ = control.write_all(&line(task));
    let _ = control.shutdown(Shutdown::Write);
    let mut said = Vec::new();
    control.take(SAID).read_to_end(&mut said)?;
    let (mut bound, mut failed) = (None, None);
    for word in said.split(|&b| b == b'\n').filter(|word| !word.is_empty()) {
        match serde_json::from_slice(word).map_err(io::Error::other)? {
            Told::Bound(isolation) => bound = Some(*isolation),
            Told::Failed(failure) => failed = Some(failure),
        }
    }
    Ok((bound, failed))
}

/// Is what becomes an agent: what `gitstead agent-stage` does. Standard input is the socket to its parent process. It comes back only when there is no agent.
pub fn run_stage() -> ExitCode {
    if let Err(error) = stage() {
        let _ = writeln!(
            io::stderr(),
            "error: this is started by the parent process of an agent, and by nobody else: {error}"
        );
    }
    ExitCode::from(2)
}

fn stage() -> io::Result<()> {
    // First of all: whatever comes to pass, nobody is left alone.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let mut control = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut given = spawn::receive(&control)?.into_iter();
    let (stdin, program) = (given.next(), given.next());
    let stdin = stdin.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no stream came with it"))?;
    let mut text = Vec::new();
    control.read_to_end(&mut text)?;
    let task: Task = serde_json::from_slice(&text).map_err(io::Error::other)?;
    drop(text);
    // It may have been gone before the kernel was told to end us with it.
    end_with(task.parent)?;
    rustix::stdio::dup2_stdin(stdin)?;
    close_fds::set_fds_cloexec(3, &[]);
    let failure = become_it(&task, program.as_ref(), &mut control);
    control.write_all(&line(&Told::Failed(failure)))
}

/// Has the kernel end this process with its parent, which is this one.
fn end_with(parent: i32) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    match getppid().map(|now| now.as_raw_nonzero().get()) {
        Some(now) if now == parent => Ok(()),
        _ => Err(io::Error::other("that is gone")),
    }
}

/// Comes back only with what went wrong.
fn become_it(task: &Task, program: Option<&OwnedFd>, control: &mut UnixStream) -> SpawnFailure {
    let mut held = Isolation::default();
    match bind(task, program, &mut held) {
        Ok(()) => {}
        Err(failure) => return failure,
    }
    let launch = &task.launch;
    let words = launch.env.iter().map(|(key, value)| key.len() + value.len() + 64);
    let much = PUT_BY + 4 * words.sum::<usize>();
    spawn::replace_by(launch, &task.program, || {
        control.write_all(&line(&Told::Bound(Box::new(held))))?;
        put_by(much);
        match launch.bounds.address_space {
            Some(most) => limit(Resource::As, most),
            None => Ok(()),
        }
    })
}

/// What holds for good from here on, in an order in which each step can still be taken.
fn bind(task: &Task, program: Option<&OwnedFd>, held: &mut Isolation) -> Result<(), SpawnFailure> {
    let (launch, bounds) = (&task.launch, task.launch.bounds);
    let unset = |error: io::Error| other(format!("its limits cannot be set: {error}"));
    // As far as we may; it is a wish.
    let _ = fs::write("/proc/self/oom_score_adj", bounds.oom_score_adj.to_string());
    if let Some(cell) = &task.cell {
        cgroup::enter(cell).map_err(unset)?;
    }
    umask(Mode::from_raw_mode(bounds.umask & 0o777));
    chdir(&launch.cwd).map_err(|error| match error {
        rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR => SpawnFailure {
            fault: SpawnFault::MissingDirectory,
            text: "the directory that it works in is not there".to_owned(),
        },
        error => other(format!("the directory that it works in cannot be entered: {error}")),
    })?;
    // Clients of engines without a privileged server need some; what is in the container has what that has.
    if !bounds.new_privileges && launch.container.is_none() {
        rustix::thread::set_no_new_privs(true)
            .map_err(|error| other(format!("its privileges cannot be bounded: {error}")))?;
    }
    if let Some(sandbox) = launch.sandbox.as_ref().filter(|sandbox| sandbox.no_network) {
        match alone::leave_networks() {
            Ok(known) => {
                alone::settle(&known)
                    .map_err(|error| other(format!("it cannot be who it is in a network of its own: {error}")))?;
                held.no_network = true;
            }
            Err(error) if sandbox.required => {
                return Err(SpawnFailure {
                    fault: SpawnFault::NoSandbox,
                    text: format!("it is to have no network, and that cannot be had: {error}"),
                });
            }
            Err(error) => held.missing.push(format!("no network: {error}")),
        }
        // Whoever is given other rights is not ended any more with his parent process.
        end_with(task.parent).map_err(|error| other(format!("its parent process cannot be watched: {error}")))?;
    }
    if let Some(sandbox) = &launch.sandbox {
        let spared = [Some(task.parent), task.server];
        sandbox::restrict(sandbox, program.map(|file| file.as_fd()), spared, held)?;
    }
    for (resource, most) in [
        (Resource::Core, Some(0)),
        (Resource::Nofile, bounds.open_files.map(|number| number.max(16))),
        (Resource::Nproc, bounds.processes),
        (Resource::Fsize, bounds.file_bytes),
    ] {
        if let Some(most) = most {
            limit(resource, most).map_err(unset)?;
        }
    }
    Ok(())
}

/// As much and no more, and nobody raises it again.
fn limit(resource: Resource, most: u64) -> io::Result<()> {
    let most = getrlimit(resource).maximum.map_or(most, |hard| hard.min(most));
    let limit = Rlimit {
        current: Some(most),
        maximum: Some(most),
    };
    Ok(setrlimit(resource, limit)?)
}

/// Has the allocator keep so many bytes: who may have less address space than he has already gets none any more from the system.
fn put_by(bytes: usize) {
    // In pieces of a size that is not given back one by one, below one that stays.
    const PIECE: usize = 16 << 10;
    let pieces: Vec<Vec<u8>> = (0..bytes.div_ceil(PIECE)).map(|_| Vec::with_capacity(PIECE)).collect();
    std::mem::forget(Vec::<u8>::with_capacity(PIECE));
    drop(pieces);
}
