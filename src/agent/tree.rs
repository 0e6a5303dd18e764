//! Everything below a process, and how it is ended.
//!
//! The caller is a subreaper (`PR_SET_CHILD_SUBREAPER`): whatever its descendants do (sessions of their own, double forks), they stay its descendants. So a process tree
//! is empty exactly when the caller has no child any more, which `waitpid` says; `/proc` is only asked whom to kill next.

use std::{
    collections::{BTreeMap, HashSet},
    fs,
};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// Passes over a tree that grows while it is stopped.
const PASSES: usize = 64;
/// Processes above one another that are looked at.
const DEPTH: usize = 10_000;

/// A process, told from later ones with its number by the time it was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Process {
    pub(super) pid: i32,
    pub(super) started: u64,
}

/// What `/proc/<pid>/stat` says.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stat {
    name: String,
    state: char,
    parent: i32,
    started: u64,
}

fn stat(pid: i32) -> Option<Stat> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The name is in parentheses and may hold any character, parentheses and line ends too.
fn parse_stat(text: &str) -> Option<Stat> {
    let open = text.find('(')?;
    let close = text.rfind(')')?;
    let name = text.get(open + 1..close)?.to_owned();
    let mut fields = text.get(close + 1..)?.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let parent = fields.next()?.parse().ok()?;
    // Counted from 1, the name is field 2 and the start time field 22.
    let started = fields.nth(17)?.parse().ok()?;
    Some(Stat {
        name,
        state,
        parent,
        started,
    })
}

impl Process {
    /// The process with this number now.
    pub(super) fn of(pid: i32) -> Option<Self> {
        let started = stat(pid)?.started;
        Some(Process { pid, started })
    }

    /// Whether it is there; one that has ended and was not waited for is not.
    pub(super) fn is_alive(self) -> bool {
        stat(self.pid).is_some_and(|now| now.started == self.started && now.state != 'Z' && now.state != 'X')
    }

    /// Sends a signal to this process and to no later one with its number. Says whether it was there.
    pub(super) fn signal(self, signal: Signal) -> bool {
        let Some(pid) = Pid::from_raw(self.pid) else {
            return false;
        };
        let Ok(fd) = pidfd_open(pid, PidfdFlags::empty()) else {
            return false;
        };
        // If it is still the one, it was the one when the descriptor was made.
        self.is_alive() && pidfd_send_signal(&fd, signal).is_ok()
    }

    /// `name (pid)`, for people.
    pub(super) fn described(self) -> String {
        let name = stat(self.pid).map_or_else(|| "?".to_owned(), |now| now.name);
        let name: String = name.chars().filter(|c| !c.is_control()).collect();
        format!("{name} ({})", self.pid)
    }
}

/// The number of a process's parent.
pub(super) fn parent(pid: i32) -> Option<i32> {
    stat(pid).map(|stat| stat.parent)
}

/// The numbers of all processes there are.
fn pids() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn all() -> impl Iterator<Item = (i32, Stat)> {
    pids().filter_map(|pid| Some((pid, stat(pid)?)))
}

/// All processes there are, by their parents.
pub(super) fn children() -> BTreeMap<i32, Vec<i32>> {
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for (pid, stat) in all() {
        children.entry(stat.parent).or_default().push(pid);
    }
    children
}

/// Whether a process that is neither one of `roots` nor below one has a socket open, by its inode. One whose descriptors may not be looked at does not count. Blocks.
pub fn is_held_outside(inodes: &[u64], roots: &[i32]) -> bool {
    let parents: BTreeMap<i32, i32> = all().map(|(pid, stat)| (pid, stat.parent)).collect();
    let names: Vec<String> = inodes.iter().map(|inode| format!("socket:[{inode}]")).collect();
    let is_below = |pid: i32| {
        let mut at = pid;
        // Nobody has more ancestors than there are processes, however they change meanwhile.
        for _ in 0..=parents.len() {
            if roots.contains(&at) {
                return true;
            }
            match parents.get(&at) {
                Some(parent) if *parent > 0 => at = *parent,
                _ => return false,
            }
        }
        true
    };
    let holds = |pid: i32| {
        let open = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        open.filter_map(|one| fs::read_link(one.path()).ok())
            .any(|target| names.iter().any(|name| target.as_os_str() == name.as_str()))
    };
    // Whoever asks has mostly been started a moment ago.
    parents.keys().rev().any(|pid| !is_below(*pid) && holds(*pid))
}

/// Everything below `root` that has not ended, nearest first.
pub(super) fn below(root: i32) -> Vec<Process> {
    let mut children: BTreeMap<i32, Vec<(i32, Stat)>> = BTreeMap::new();
    for (pid, stat) in all() {
        children.entry(stat.parent).or_default().push((pid, stat));
    }
    let mut found = Vec::new();
    let mut seen = HashSet::from([root]);
    let mut next = vec![root];
    while let Some(at) = next.pop() {
        for (pid, stat) in children.get(&at).into_iter().flatten() {
            if seen.insert(*pid) {
                next.push(*pid);
                if !matches!(stat.state, 'Z' | 'X') {
                    let (pid, started) = (*pid, stat.started);
                    found.push(Process { pid, started });
                }
            }
        }
    }
    found
}

/// Stops everything below `root`, so that nothing is born while it dies, and kills it. Returns what was killed; those that were born meanwhile are found the next time.
pub(super) fn kill_below(root: i32) -> Vec<Process> {
    let mut frozen: HashSet<Process> = HashSet::new();
    for _ in 0..PASSES {
        let fresh: Vec<_> = below(root)
            .into_iter()
            .filter(|process| !frozen.contains(process))
            .collect();
        if fresh.is_empty() {
            break;
        }
        for process in fresh {
            process.signal(Signal::STOP);
            frozen.insert(process);
        }
    }
    let mut killed: Vec<_> = frozen.into_iter().collect();
    killed.retain(|process| process.signal(Signal::KILL));
    killed.sort_unstable();
    killed
}

/// Processes whose environment has this entry: those of an incarnation whose parent process is gone. What belongs to other users cannot be read and is none of ours.
pub(super) fn marked(entry: &str) -> Vec<Process> {
    let (variable, wanted) = entry.split_once('=').unwrap_or((entry, ""));
    let found = marks(variable).into_iter().filter(|(_, value)| value == wanted);
    found.map(|(process, _)| process).collect()
}

/// Processes in whose environment this variable is set, with what to.
pub(super) fn marks(variable: &str) -> Vec<(Process, String)> {
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    let value = |pid: i32| {
        let environ = fs::read(format!("/proc/{pid}/environ")).ok()?;
        let value = environ.split(|&b| b == 0).find_map(|one| {
            let value = one.strip_prefix(variable.as_bytes())?;
            value.strip_prefix(b"=")
        });
        String::from_utf8(value?.to_vec()).ok()
    };
    // In this order: most have none, and one that has is to be the same one still.
    let found = pids()
        .filter(|&pid| pid != own)
        .filter_map(|pid| Some((pid, value(pid)?)));
    found
        .filter_map(|(pid, value)| Some((Process::of(pid)?, value)))
        .filter(|(process, _)| process.is_alive())
        .collect()
}

/// Whether something above a process was started with this as its first argument.
pub(super) fn is_below(pid: i32, argument: &str) -> bool {
    let mut above = parent(pid);
    for _ in 0..DEPTH {
        let Some(pid) = above.filter(|&pid| pid > 0) else {
            return false;
        };
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        if words.split(|&b| b == 0).nth(1) == Some(argument.as_bytes()) {
            return true;
        }
        above = parent(pid);
    }
    // Nobody can tell.
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_hold_anything() {
        let text = "42 (a) R 1 (b\n) S 7 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 9001 123 45";
        let stat = parse_stat(text).expect("it is whole");
        assert_eq!((stat.name.as_str(), stat.state), ("a) R 1 (b\n", 'S'));
        assert_eq!((stat.parent, stat.started), (7, 9001));
        for cut in ["", "42", "42 (sh", "42 (sh) S 7 1 2"] {
            assert_eq!(parse_stat(cut), None, "{cut:?}");
        }
    }

    #[test]
    fn a_process_is_told_from_a_later_one_with_its_number() {
        let pid = i32::try_from(std::process::id()).expect("small");
        let me = Process::of(pid).expect("we are there");
        assert!(me.is_alive());
        let earlier = Process {
            started: me.started - 1,
            ..me
        };
        assert!(!earlier.is_alive());
        assert!(!earlier.signal(Signal::KILL), "we are not the one");
        assert_eq!(Process::of(0), None);
    }
}
