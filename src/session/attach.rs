//! Where an agent is on this machine, for whoever wants to look at it with his own tools.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{AgentRecord, Agents, Entry, State, Stream};
use crate::agent::{self, Sandbox};

/// What Linux counts the time of processes in, a second; the same for all programs on the machines that we run on, whatever the kernel counts in itself
/// (`USER_HZ`; `proc_pid_stat(5)`).
const TICKS: u64 = 100;

/// Where an agent is. Nothing in it is from its arguments or its environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// Its own process, or in a container the engine's client that stands for it; while there is one.
    pub process: Option<Located>,
    /// Its parent process, below which all of its processes are unless they are in a container; while there is one.
    pub parent: Option<Located>,
    /// The cgroup that all of its processes are in, if it has one and runs.
    pub cgroup: Option<PathBuf>,
    /// Where it begins, if that is there and in its workspace.
    pub cwd: Option<PathBuf>,
    /// How its container is entered.
    pub container: Option<Entrance>,
    /// What it has written to each stream, as far as that is kept: the newest file, and older ones, oldest last.
    pub spool: Vec<(Stream, Vec<PathBuf>)>,
}

/// A process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Located {
    /// Its number.
    pub pid: i32,
    /// When the system started it, in clock ticks since it booted itself: tells it from a later one with its number.
    pub ticks: u64,
    /// The same in seconds since 1970, if the system tells when it booted.
    pub at: Option<i64>,
}

/// How a container is entered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entrance {
    /// The client of its engine.
    pub program: String,
    /// What it is called.
    pub name: String,
    /// Who the agent is in it, if not who the container says.
    pub user: Option<String>,
    /// Where the agent begins in it.
    pub dir: PathBuf,
}

impl Located {
    fn of(pid: i32) -> Option<Self> {
        let ticks = agent::start_time(pid)?;
        let boot = fs::read_to_string("/proc/stat").ok();
        let boot = boot.as_deref().and_then(booted);
        let at = boot.and_then(|boot| boot.checked_add(i64::try_from(ticks / TICKS).ok()?));
        Some(Located { pid, ticks, at })
    }
}

/// When the system was started, in seconds since 1970, by what `/proc/stat` says.
fn booted(stat: &str) -> Option<i64> {
    let line = stat.lines().find_map(|line| line.strip_prefix("btime "))?;
    line.trim().parse().ok()
}

impl Agents {
    /// Where an agent is whose workspace is at `root`, if it is. Blocks.
    pub fn attachment(&self, entry: &Entry, root: Option<&Path>) -> Attachment {
        let record = entry.record();
        let context = self.context();
        let process = record.pid.and_then(Located::of);
        let parent = record.parent.and_then(|(pid, started)| {
            let found = Located::of(pid)?;
            (found.ticks == started).then_some(found)
        });
        let is_held = record.isolation.as_ref().is_some_and(|held| held.cgroup);
        let runs = process.is_some() || parent.is_some();
        let cgroups = context.fences.cgroups.as_ref().filter(|_| is_held && runs);
        let cgroup = cgroups.map(|all| all.of(&record.run_name(record.run)));
        let cwd = root.and_then(|root| {
            let cwd = root.join(&record.spec.cwd).canonicalize().ok()?;
            cwd.starts_with(root.canonicalize().ok()?).then_some(cwd)
        });
        let container = record
            .spec
            .container
            .as_ref()
            .zip(root)
            .map(|(container, root)| Entrance {
                program: context
                    .fences
                    .container_program
                    .clone()
                    .unwrap_or_else(|| "docker".to_owned()),
                name: container.name.clone(),
                user: container.user.clone(),
                dir: container.at(root, &root.join(&record.spec.cwd)),
            });
        let spool = [Stream::Stdout, Stream::Stderr].map(|stream| (stream, agent::spooled(entry.logs(), stream)));
        Attachment {
            process,
            parent,
            cgroup: cgroup.filter(|dir| dir.is_dir()),
            cwd,
            container,
            spool: spool.into(),
        }
    }

    /// Finds where an agent works, without links, and which files it can reach if that is bounded. What is found blocks.
    pub(super) fn reach(&self, record: &AgentRecord) -> impl FnOnce() -> Option<(PathBuf, Option<Sandbox>)> + use<> {
        let context = self.context();
        let (workspaces, fences, runs) = (
            Arc::clone(&context.workspaces),
            context.fences.clone(),
            context.runs.clone(),
        );
        let (name, spec) = (record.name.clone(), record.spec.clone());
        move || {
            let workspace = workspaces.open(&spec.place().ok()?).ok()?;
            let root = workspace.root().canonicalize().ok()?;
            let cwd = root.join(&spec.cwd).canonicalize().ok()?;
            let temporary = runs.join(format!("{name}.tmp"));
            let sandbox = fences.sandbox(&spec, &workspace, None, &temporary, &runs);
            cwd.starts_with(&root).then_some((cwd, sandbox))
        }
    }
}

impl Entry {
    /// Whether it was ever started: before that there is nothing to look at.
    pub fn was_started(&self) -> bool {
        self.state() != State::Created
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn when_a_process_began_is_known_to_the_second() {
        assert_eq!(booted("cpu 1 2\nbtime 1700000000\nprocesses 9\n"), Some(1_700_000_000));
        assert_eq!(booted("cpu 1 2\n"), None);
        let own = i32::try_from(std::process::id()).expect("small");
        let me = Located::of(own).expect("we are there");
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .expect("after 1970");
        let now = i64::try_from(now.as_secs()).expect("small");
        let at = me.at.expect("the system says when it booted");
        assert!(at <= now + 1 && at > now - 3_600, "{at} {now}");
        assert_eq!(Located::of(-1), None);
    }
}
