//! What agents are, have done and need now, as Prometheus reads it. Labels are words of ours.

use std::{fmt::Write as _, sync::PoisonError, time::Duration};

use tokio::time::Instant;

use super::{
    Agents,
    tally::{STATES, head},
};
use crate::agent::{self, Scale, Step};

/// How long what was weighed stays good: however many ask, it is not looked more often.
const FRESH: Duration = Duration::from_secs(1);

/// What the agents that run have of the memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Weighed {
    /// Bytes of all.
    pub total: u64,
    /// Bytes of the one that has the most.
    pub largest: u64,
    /// Agents of which it could be found out.
    pub agents: usize,
    /// Those of which it could not.
    pub unknown: usize,
}

/// A gauge of one line, or of one for each value of a label.
fn gauge(out: &mut String, name: &str, says: &str, lines: &[(&str, u64)]) {
    head(out, name, says, "gauge");
    for (label, value) in lines {
        let _ = writeln!(out, "gitstead_{name}{label} {value}");
    }
}

fn number(size: usize) -> u64 {
    u64::try_from(size).unwrap_or(u64::MAX)
}

impl Agents {
    /// Finds out what memory the agents have that run: what their cgroups say, else the resident memory of all their processes. Blocks: for as long as it takes to look at
    /// every process of the machine once, and not more often than once a second.
    pub fn weigh(&self) -> Weighed {
        let mut last = self.weighed().lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, weighed)) = &*last
            && at.elapsed() < FRESH
        {
            return *weighed;
        }
        let cgroups = self.context().fences.cgroups.as_ref();
        let scale = |record: super::AgentRecord| {
            let (parent, _) = record.parent.filter(|_| record.pid.is_some())?;
            let is_held = record.isolation.as_ref().is_some_and(|held| held.cgroup);
            let cgroup = cgroups.filter(|_| is_held);
            let cgroup = cgroup.map(|all| all.of(&record.run_name(record.run)));
            Some(Scale { parent, cgroup })
        };
        let scales: Vec<_> = self.list().iter().filter_map(|entry| scale(entry.record())).collect();
        let mut weighed = Weighed::default();
        for bytes in agent::weigh(&scales) {
            match bytes {
                Some(bytes) => {
                    weighed.agents += 1;
                    weighed.total = weighed.total.saturating_add(bytes);
                    weighed.largest = weighed.largest.max(bytes);
                }
                None => weighed.unknown += 1,
            }
        }
        *last = Some((Instant::now(), weighed));
        weighed
    }

    /// What all agents are and have done since the server was started, as Prometheus reads it; with what they weigh, if that is known.
    pub fn metrics(&self, weighed: Option<Weighed>) -> String {
        let mut out = String::new();
        let mut there = [0u64; STATES.len()];
        let (mut input, mut orders, mut commands, mut checkpoints) = (0, 0, 0, 0);
        for entry in self.list() {
            let state = entry.state();
            if let Some(at) = STATES.iter().position(|one| *one == state) {
                there[at] += 1;
            }
            let (depths, others) = entry.depths();
            input += number(depths.input());
            orders += number(depths.orders());
            commands += number(others.commands);
            checkpoints += number(others.checkpoints);
        }
        head(&mut out, "agents", "Agents that are known, by what they are.", "gauge");
        for (state, count) in STATES.iter().zip(there) {
            let _ = writeln!(out, "gitstead_agents{{state=\"{}\"}} {count}", state.as_str());
        }
        let says = "Bytes for the standard input of agents that they have not read.";
        gauge(&mut out, "agent_input_queue_bytes", says, &[("", input)]);
        let says = "What waits for agents, by where: orders for their parent processes, commands for their tasks, checkpoints to be made.";
        let waiting = [
            ("{queue=\"orders\"}", orders),
            ("{queue=\"commands\"}", commands),
            ("{queue=\"checkpoints\"}", checkpoints),
        ];
        gauge(&mut out, "agent_queue_entries", says, &waiting);
        if let Some(weighed) = weighed {
            let says = "Memory of the agents that run: of their cgroups, else resident memory of all of their processes (in a container only that of the client that started it).";
            gauge(&mut out, "agent_memory_bytes", says, &[("", weighed.total)]);
            let says = "Memory of the agent that has the most.";
            gauge(&mut out, "agent_memory_largest_bytes", says, &[("", weighed.largest)]);
            let says = "Agents that run, by whether their memory is known.";
            let agents = [
                ("{known=\"true\"}", number(weighed.agents)),
                ("{known=\"false\"}", number(weighed.unknown)),
            ];
            gauge(&mut out, "agent_memory_agents", says, &agents);
        }
        let tally = self.tally();
        tally.text(&mut out);
        let says = "Steps that were taken to stop agents, by which; each is taken when the one before was not heeded in time, or somebody asked again.";
        head(&mut out, "agent_stop_steps_total", says, "counter");
        for step in Step::ALL {
            let (word, count) = (step.as_str(), tally.meter.steps(step));
            let _ = writeln!(out, "gitstead_agent_stop_steps_total{{step=\"{word}\"}} {count}");
        }
        out
    }
}
