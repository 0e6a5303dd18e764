//! What is measured of agents while they run.

use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
};

use super::tree;

/// A step of stopping an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// An interrupt in its own protocol.
    Interrupt,
    /// The end of its input.
    EndOfInput,
    /// SIGTERM.
    Terminate,
    /// SIGKILL to all of its processes.
    Kill,
    /// A search for what is left without its parent process.
    Hunt,
}

impl Step {
    /// All, in the order in which they are taken.
    pub const ALL: [Step; 5] = [
        Step::Interrupt,
        Step::EndOfInput,
        Step::Terminate,
        Step::Kill,
        Step::Hunt,
    ];

    /// A word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Step::Interrupt => "interrupt",
            Step::EndOfInput => "end_of_input",
            Step::Terminate => "terminate",
            Step::Kill => "kill",
            Step::Hunt => "hunt",
        }
    }
}

/// What is counted over all agents.
#[derive(Debug, Default)]
pub struct Meter {
    /// Bytes that they have written.
    pub output: AtomicU64,
    steps: [AtomicU64; Step::ALL.len()],
}

impl Meter {
    pub(super) fn step(&self, step: Step) {
        self.steps[step as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// How often a step was taken.
    pub fn steps(&self, step: Step) -> u64 {
        self.steps[step as usize].load(Ordering::Relaxed)
    }
}

/// What waits in one agent's task, as it was when that had its last turn.
#[derive(Debug, Default)]
pub struct Depths {
    input: AtomicUsize,
    orders: AtomicUsize,
}

impl Depths {
    pub(super) fn set(&self, input: usize, orders: usize) {
        self.input.store(input, Ordering::Relaxed);
        self.orders.store(orders, Ordering::Relaxed);
    }

    /// Bytes for its standard input that it has not read.
    pub fn input(&self) -> usize {
        self.input.load(Ordering::Relaxed)
    }

    /// Orders for its parent process.
    pub fn orders(&self) -> usize {
        self.orders.load(Ordering::Relaxed)
    }
}

/// Where the memory of one agent is looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scale {
    /// Its parent process, below which all of it is.
    pub parent: i32,
    /// Its cgroup, if it has one.
    pub cgroup: Option<PathBuf>,
}

/// Bytes of memory that each has: what its cgroup says, else the resident memory of all of its processes, in which what they share counts more than once. `None` where that
/// cannot be found out. Blocks for as long as it takes to look at every process once.
pub fn weigh(scales: &[Scale]) -> Vec<Option<u64>> {
    let of_cgroup = |scale: &Scale| {
        let text = fs::read_to_string(scale.cgroup.as_ref()?.join("memory.current")).ok()?;
        text.trim().parse().ok()
    };
    let mut found: Vec<Option<u64>> = scales.iter().map(of_cgroup).collect();
    if found.iter().all(Option::is_some) {
        return found;
    }
    let mut children = tree::children();
    for (scale, bytes) in scales.iter().zip(&mut found).filter(|(_, bytes)| bytes.is_none()) {
        *bytes = below(&mut children, scale.parent, resident);
    }
    found
}

/// Bytes of resident memory of a process (`VmRSS`, `proc_pid_status(5)`). Blocks.
pub fn resident(pid: i32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    kilobytes.checked_mul(1_024)
}

/// What all below a process have; `None` without any. Each process is taken out of the map, so that a circle (numbers are given again while one looks) ends.
fn below(children: &mut BTreeMap<i32, Vec<i32>>, root: i32, of: impl Fn(i32) -> Option<u64>) -> Option<u64> {
    let mut next = children.remove(&root)?;
    let mut sum = 0u64;
    while let Some(pid) = next.pop() {
        sum = sum.saturating_add(of(pid).unwrap_or(0));
        next.extend(children.remove(&pid).into_iter().flatten());
    }
    Some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_of_a_tree_is_that_of_all_below_its_root() {
        // With a circle in it.
        let map = || BTreeMap::from([(1, vec![2, 9]), (2, vec![3, 4]), (4, vec![5]), (5, vec![4])]);
        let of = |pid: i32| (pid != 9).then_some(1 << pid);
        assert_eq!(
            below(&mut map(), 2, of),
            Some((1 << 3) + (1 << 4) + (1 << 5) + (1 << 4))
        );
        assert_eq!(below(&mut map(), 1, of).map(|sum| sum & 4), Some(4));
        assert_eq!(below(&mut map(), 3, of), None);
        let own = resident(i32::try_from(std::process::id()).expect("small"));
        assert!(own.is_some_and(|bytes| bytes > 100 << 10), "{own:?}");
        assert_eq!(resident(-1), None);
    }

    #[test]
    fn what_a_cgroup_says_counts() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join("memory.current"), "4096\n").expect("written");
        let scale = |cgroup: Option<PathBuf>| Scale { parent: -1, cgroup };
        let found = weigh(&[
            scale(Some(dir.path().to_owned())),
            scale(Some(dir.path().join("gone"))),
            scale(None),
        ]);
        assert_eq!(found, [Some(4096), None, None]);
    }

    #[test]
    fn steps_are_counted_one_by_one() {
        let meter = Meter::default();
        meter.step(Step::Kill);
        meter.step(Step::Kill);
        meter.step(Step::Interrupt);
        assert_eq!(Step::ALL.map(|step| meter.steps(step)), [1, 0, 0, 2, 0]);
        assert!(Step::ALL.iter().enumerate().all(|(at, step)| at == *step as usize));
    }
}
