use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};

/// One incarnation of an agent, as its parent process is told to start it. Secrets are in `env` only, which goes over a socket and never through arguments, logs or records.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Launch {
    /// Names this incarnation everywhere: in its record, in its environment (`GITSTEAD_RUN`).
    pub run: String,
    /// The program and its arguments. No shell sees them.
    pub argv: Vec<String>,
    /// The whole environment.
    pub env: Vec<(String, String)>,
    /// Where it works.
    pub cwd: PathBuf,
    /// Where the exit is recorded for a Gitstead that comes later.
    pub record: PathBuf,
    /// How it is stopped.
    pub ladder: Ladder,
    /// What the system allows it.
    pub bounds: Bounds,
    /// The cgroup that is made for it.
    #[serde(default)]
    pub cgroup: Option<PathBuf>,
    /// Which files it can reach, if not all of its user's.
    #[serde(default)]
    pub sandbox: Option<Sandbox>,
    /// The directory beneath which commands are run for it through its parent process, if they are.
    #[serde(default)]
    pub terminals: Option<PathBuf>,
    /// The container in which it is started, if it is.
    #[serde(default)]
    pub container: Option<super::container::Container>,
}

/// What an agent can reach, and everything that it starts: these files and no others, and if there are lists of them these ports.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sandbox {
    /// Whether it is not started where the system cannot do that.
    pub required: bool,
    /// What it can read and execute.
    pub read: Vec<PathBuf>,
    /// What it can do with as it likes.
    pub write: Vec<PathBuf>,
    /// Whether it may make namespaces of its own, and mount in them as far as landlock allows that.
    #[serde(default)]
    pub user_namespaces: bool,
    /// Whether it has a network of its own, with nothing in it but loopback.
    #[serde(default)]
    pub no_network: bool,
    /// The TCP ports, of whichever host, to which it can connect; all where there is no list.
    #[serde(default)]
    pub connect: Option<Vec<u16>>,
    /// The TCP ports on which it can listen, 0 for any that the system picks; all where there is no list.
    #[serde(default)]
    pub bind: Option<Vec<u16>>,
}

impl Sandbox {
    /// Whether it lets read a path without links. Blocks.
    pub fn reaches(&self, path: &Path) -> bool {
        let mut listed = self.read.iter().chain(&self.write);
        listed.any(|one| one.canonicalize().is_ok_and(|real| path.starts_with(real)))
    }
}

/// What an agent is held in by the system.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Isolation {
    /// Whether it has a cgroup of its own, by which it is killed; else it is by looking for its processes.
    pub cgroup: bool,
    /// The bounds of all of it together that hold: `memory.max`, `memory.high`, `pids.max`, `cpu.max`, `io.max`.
    pub limits: Vec<String>,
    /// Those that were asked for and do not hold, with the reason.
    pub missing: Vec<String>,
    /// The version of landlock that bounds which files it can reach.
    pub landlock: Option<u32>,
    /// Whether it is kept from calls of the kernel that programs do not need.
    #[serde(default)]
    pub seccomp: bool,
    /// Whether it has a network of its own, with nothing in it but loopback.
    #[serde(default)]
    pub no_network: bool,
    /// The TCP ports to which it can connect, where that is bounded.
    #[serde(default)]
    pub connect: Option<Vec<u16>>,
    /// The TCP ports on which it can listen, where that is bounded.
    #[serde(default)]
    pub bind: Option<Vec<u16>>,
    /// The container that it is in: it is ended by what is executed in there, and bounded by what the container is bounded by.
    #[serde(default)]
    pub container: Option<String>,
}

impl std::fmt::Debug for Launch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Launch")
            .field("run", &self.run)
            .field("argv", &self.argv)
            .field("cwd", &self.cwd)
            .finish_non_exhaustive()
    }
}

/// How long each step of stopping an agent may take before the next one follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ladder {
    /// After an interrupt in the agent's own protocol.
    pub interrupt: Duration,
    /// After the end of its standard input.
    pub end_of_input: Duration,
    /// After SIGTERM.
    pub terminate: Duration,
    /// After SIGKILL to everything: what is still there then is reported.
    pub verify: Duration,
}

/// The longest that a step takes when the Gitstead is gone that could have shortened it.
const ORPHAN_STEP: Duration = Duration::from_secs(10);
/// How long a record waits then for processes that do not die (in a system call that cannot be interrupted): nobody waits for it.
const GIVE_UP: Duration = Duration::from_secs(30);

impl Ladder {
    /// How an agent is stopped whose Gitstead is gone: its parent process does so by itself, and the next Gitstead waits for that.
    pub fn orphaned(self) -> Self {
        Ladder {
            // Nobody is left who speaks its protocol.
            interrupt: Duration::ZERO,
            end_of_input: self.end_of_input.min(ORPHAN_STEP),
            terminate: self.terminate.min(ORPHAN_STEP),
            verify: self.verify.max(GIVE_UP),
        }
    }

    /// All steps together.
    pub fn total(self) -> Duration {
        [self.interrupt, self.end_of_input, self.terminate, self.verify]
            .into_iter()
            .fold(Duration::ZERO, Duration::saturating_add)
    }
}

impl Default for Ladder {
    fn default() -> Self {
        Ladder {
            interrupt: Duration::from_secs(5),
            end_of_input: Duration::from_secs(5),
            terminate: Duration::from_secs(10),
            verify: Duration::from_secs(5),
        }
    }
}

/// What the system allows an agent and everything that it starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bounds {
    /// Open files of each process (`RLIMIT_NOFILE`).
    pub open_files: Option<u64>,
    /// Bytes of address space of each process (`RLIMIT_AS`).
    pub address_space: Option<u64>,
    /// Processes of the user that it runs as, all of them (`RLIMIT_NPROC`).
    pub processes: Option<u64>,
    /// Whether it may become somebody else by executing a set-user-id file.
    pub new_privileges: bool,
    /// How much sooner than others the system ends it when memory is short: -1000 to 1000.
    pub oom_score_adj: i16,
    /// Which permissions new files do not get.
    pub umask: u32,
    /// Bytes of memory of all of it together; needs a cgroup.
    #[serde(default)]
    pub memory: Option<u64>,
    /// Bytes of memory of all of it together from which on it is slowed down and has to give some back; needs a cgroup.
    #[serde(default)]
    pub memory_high: Option<u64>,
    /// Processes and threads of all of it together; needs a cgroup.
    #[serde(default)]
    pub tasks: Option<u64>,
    /// Hundredths of a processor for all of it together; needs a cgroup.
    #[serde(default)]
    pub cpu_percent: Option<u32>,
    /// Bytes of each file that it writes (`RLIMIT_FSIZE`).
    #[serde(default)]
    pub file_bytes: Option<u64>,
    /// Bytes a second that all of it together reads from the disk on which its workspace is, and as many that it writes there; needs a cgroup.
    #[serde(default)]
    pub io_bytes_per_second: Option<u64>,
}

impl Default for Bounds {
    fn default() -> Self {
        Bounds {
            open_files: None,
            address_space: None,
            processes: None,
            new_privileges: false,
            oom_score_adj: 200,
            umask: 0o022,
            memory: None,
            memory_high: None,
            tasks: None,
            cpu_percent: None,
            file_bytes: None,
            io_bytes_per_second: None,
        }
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Exit {
    /// What it returned, if it ended by itself.
    pub code: Option<i32>,
    /// What ended it otherwise.
    pub signal: Option<i32>,
    /// Whether the system has written its memory to a file.
    pub core: bool,
}

impl Exit {
    /// It returned this.
    pub fn of_code(code: i32) -> Self {
        Exit {
            code: Some(code),
            signal: None,
            core: false,
        }
    }

    /// Whether it said that all went well.
    pub fn is_success(&self) -> bool {
        self.code == Some(0)
    }

    /// From what `waitpid` fills in.
    pub(super) fn of_wait(status: rustix::process::WaitStatus) -> Self {
        Exit {
            code: status.exit_status(),
            signal: status.terminating_signal(),
            core: status.signaled() && status.as_raw() & 0x80 != 0,
        }
    }
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.code, self.signal) {
            (Some(code), _) => write!(f, "exit code {code}"),
            (None, Some(signal)) => write!(f, "signal {signal}{}", if self.core { ", core dumped" } else { "" }),
            (None, None) => f.write_str("an unknown end"),
        }
    }
}

/// Why nothing could be executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SpawnFault {
    /// There is no such program.
    Missing,
    /// It is there, but may not be executed, or is none.
    NotExecutable,
    /// It begins with `#!` and a program that is not there, or wants a loader that is not there.
    BadInterpreter,
    /// The directory to work in is not there.
    MissingDirectory,
    /// It has to be in a sandbox, and can be in none.
    NoSandbox,
    /// Its workspace holds more than it may.
    Full,
    /// The system refuses for another reason.
    Other,
}

/// Why an agent did not come up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{text}")]
pub struct SpawnFailure {
    /// Which kind.
    pub fault: SpawnFault,
    /// What happened, with the program's name.
    pub text: String,
}

/// What is left on disk when an incarnation has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// The format of this record.
    pub version: u32,
    /// Which incarnation.
    pub run: String,
    /// How the agent's own process ended; `None` when it never started.
    pub exit: Option<Exit>,
    /// Why it never started.
    pub failure: Option<SpawnFailure>,
    /// How many processes that it had left behind were killed.
    pub swept: usize,
    /// Processes that could not be killed, with their names.
    pub stragglers: Vec<String>,
    /// Whether nobody was there any more to be told.
    pub orphaned: bool,
    /// How many of its processes the system has ended because all of it together had more memory than it may.
    #[serde(default)]
    pub out_of_memory: u64,
    /// When, in seconds since 1970.
    pub at: i64,
}

impl ExitRecord {
    /// The present format.
    pub const VERSION: u32 = 1;
}
