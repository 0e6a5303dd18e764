//! Processes of ours and of agents that are to be gone.

use std::{path::Path, time::Duration};

use tokio::time::Instant;

use super::{
    cgroup,
    spawn::Ward,
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
