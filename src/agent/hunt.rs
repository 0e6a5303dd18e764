//! Processes of ours and of agents that are to be gone.

use std::{path::Path, time::Duration};

use tokio::time::Instant;

use super::{
    cgroup::{self, Cgroups},
    handle::RUN_MARK,
    spawn::{PARENT_COMMAND, Ward},
    tree::{self, Process},
};

/// How long a process of ours that has said its last word may take to end.
const LAST_BREATH: Duration = Duration::from_secs(5);

/// Kills every process of a run, found by its cgroup, if it has one, and by what is in its environment, until there is none or it is clear that there will always be. Blocks. Says how many there were.
pub fn hunt_down(mark: &str, cgroup: Option<&Path>) -> usize {
    let mut killed = std::collections::BTreeSet::new();
    if let Some(dir) = cgroup {
        killed.extend(tree::marked(mark));
        cgroup::kill(dir);
    }
    for _ in 0..100 {
        let found = tree::marked(mark);
        if found.is_empty() {
            break;
        }
        for process in &found {
            process.signal(rustix::process::Signal::STOP);
        }
        killed.extend(
            found
                .into_iter()
                .filter(|process| process.signal(rustix::process::Signal::KILL)),
        );
    }
    if let Some(dir) = cgroup {
        cgroup::remove(dir);
    }
    killed.len()
}

/// Kills what is left of runs that nobody looks after any more, `is_left` says of which, and removes their cgroups. Blocks. Says how many processes there were.
///
/// Three things have to be true of what is killed. It names such a run, in its environment or by the cgroup that it is in; what this user may not look at is none of it. Names of
/// runs have the name of an agent, the millisecond when that was made and a random number, so those of other servers are others; `is_left` is asked for whole names and has to know both.
/// And no parent process of an agent is above it: one that is still there, of whichever server, ends what is below it by itself.
pub fn sweep_left(cgroups: Option<&Cgroups>, is_left: impl Fn(&str) -> bool) -> usize {
    let mut killed = std::collections::BTreeSet::new();
    let is_alone = |process: &Process| !tree::is_below(process.pid, PARENT_COMMAND);
    let dirs = cgroups.map(Cgroups::runs).unwrap_or_default();
    let dirs: Vec<_> = dirs
        .into_iter()
        .filter(|(run, _)| is_left(run))
        .map(|(_, dir)| dir)
        .collect();
    for dir in &dirs {
        let within: Vec<_> = cgroup::within(dir).into_iter().filter_map(Process::of).collect();
        if within.iter().all(is_alone) {
            cgroup::kill(dir);
            killed.extend(within);
        }
    }
    for _ in 0..100 {
        let mut found: Vec<_> = tree::marks(RUN_MARK)
            .into_iter()
            .filter(|(process, run)| is_left(run) && is_alone(process))
            .map(|(process, _)| process)
            .collect();
        if found.is_empty() {
            break;
        }
        for process in &found {
            process.signal(rustix::process::Signal::STOP);
        }
        found.retain(|process| process.signal(rustix::process::Signal::KILL));
        killed.extend(found);
    }
    for dir in &dirs {
        // Not if somebody is in it still.
        cgroup::remove(dir);
    }
    killed.len()
}

/// Whether a process is there that the system started at this time (in clock ticks since it booted itself).
pub fn is_alive(pid: i32, started: u64) -> bool {
    Process { pid, started }.is_alive()
}

/// When the system started the process with this number now (in clock ticks since it booted itself); `None` without one.
pub fn start_time(pid: i32) -> Option<u64> {
    Process::of(pid)
        .filter(|process| process.is_alive())
        .map(|process| process.started)
}

/// Waits for a process of ours that ends by itself.
pub(super) fn bury(mut child: Ward) {
    tokio::spawn(async move {
        let until = Instant::now() + LAST_BREATH;
        let mut pause = Duration::from_millis(1);
        while !child.is_gone() {
            if Instant::now() >= until {
                child.kill();
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(1));
        }
    });
}
