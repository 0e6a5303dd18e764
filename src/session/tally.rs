//! What agents have done since the server was started, in numbers. Nothing in them names an agent, a session or a user.

use std::{
    fmt::Write as _,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use serde_json::Value;

use super::State;

/// Something that is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Count {
    Start,
    Restart,
    Stopped,
    Exited,
    Failed,
    CrashLooping,
    Lost,
    TurnCompleted,
    TurnOther,
    ToolOk,
    ToolFailed,
    ToolDenied,
    ToolNotRun,
    ToolInterrupted,
    ToolBackground,
    CheckpointMade,
    CheckpointUnchanged,
    CheckpointFailed,
    CheckpointLate,
    PermissionAsked,
    PermissionAllowed,
    PermissionDenied,
    PermissionByItself,
    AskOk,
    AskError,
    AskFailed,
    AskTimedOut,
    AskAbandoned,
    AskRateLimited,
    AskBusy,
}

/// How many there are.
const COUNTS: usize = Count::AskBusy as usize + 1;

/// A metric, what it says, and its label with a value and what is counted for each.
type Metric = (
    &'static str,
    &'static str,
    &'static str,
    &'static [(&'static str, Count)],
);

const METRICS: [Metric; 9] = [
    (
        "agent_starts_total",
        "Agents that were started, restarts included.",
        "",
        &[("", Count::Start)],
    ),
    (
        "agent_restarts_total",
        "Agents that have ended and are started again.",
        "",
        &[("", Count::Restart)],
    ),
    (
        "agent_ends_total",
        "Agents that have ended and are not started again, by how.",
        "how",
        &[
            ("stopped", Count::Stopped),
            ("exited", Count::Exited),
            ("failed", Count::Failed),
            ("crash_looping", Count::CrashLooping),
            ("lost", Count::Lost),
        ],
    ),
    (
        "agent_turns_total",
        "Turns that have ended.",
        "outcome",
        &[("completed", Count::TurnCompleted), ("other", Count::TurnOther)],
    ),
    (
        "agent_tool_calls_total",
        "Tools that have ended.",
        "outcome",
        &[
            ("ok", Count::ToolOk),
            ("failed", Count::ToolFailed),
            ("denied", Count::ToolDenied),
            ("not_run", Count::ToolNotRun),
            ("interrupted", Count::ToolInterrupted),
            ("background_started", Count::ToolBackground),
        ],
    ),
    (
        "agent_checkpoints_total",
        "Checkpoints of what agents did.",
        "outcome",
        &[
            ("made", Count::CheckpointMade),
            ("unchanged", Count::CheckpointUnchanged),
            ("failed", Count::CheckpointFailed),
        ],
    ),
    (
        "agent_checkpoints_late_total",
        "Checkpoints for which an agent did not wait any longer, or that another one had to stand for.",
        "",
        &[("", Count::CheckpointLate)],
    ),
    (
        "agent_permissions_total",
        "Questions for permission.",
        "event",
        &[
            ("asked", Count::PermissionAsked),
            ("allowed", Count::PermissionAllowed),
            ("denied", Count::PermissionDenied),
            ("denied_by_itself", Count::PermissionByItself),
        ],
    ),
    (
        "asks_total",
        "Questions that somebody asked in a session.",
        "outcome",
        &[
            ("ok", Count::AskOk),
            ("error", Count::AskError),
            ("failed", Count::AskFailed),
            ("timed_out", Count::AskTimedOut),
            ("abandoned", Count::AskAbandoned),
            ("rate_limited", Count::AskRateLimited),
            ("busy", Count::AskBusy),
        ],
    ),
];

/// Counters over all agents of a house.
#[derive(Debug, Default)]
pub struct Tally {
    counts: [AtomicU64; COUNTS],
    /// Bytes that agents have written.
    pub(super) output: Arc<AtomicU64>,
    missed: AtomicU64,
}

impl Tally {
    pub(super) fn add(&self, what: Count) {
        self.counts[what as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Somebody was too slow for so many lines.
    pub(super) fn add_missed(&self, lines: u64) {
        self.missed.fetch_add(lines, Ordering::Relaxed);
    }

    /// Counts what an event tells.
    pub(super) fn event(&self, kind: &str, data: &Value) {
        let is = |key: &str, word: &str| data[key].as_str() == Some(word);
        self.add(match kind {
            "started" => Count::Start,
            "restarting" => Count::Restart,
            "stopped" => Count::Stopped,
            "exited" => Count::Exited,
            "failed" => Count::Failed,
            "crash_looping" => Count::CrashLooping,
            "lost" => Count::Lost,
            "turn_ended" if is("outcome", "completed") => Count::TurnCompleted,
            "turn_ended" => Count::TurnOther,
            "tool_finished" => match data["outcome"].as_str() {
                Some("ok") => Count::ToolOk,
                Some("denied") => Count::ToolDenied,
                Some("not-run") => Count::ToolNotRun,
                Some("interrupted") => Count::ToolInterrupted,
                Some("background-started") => Count::ToolBackground,
                _ => Count::ToolFailed,
            },
            "checkpoint" if data["changed"] == 0 => Count::CheckpointUnchanged,
            "checkpoint" => Count::CheckpointMade,
            "checkpoint_failed" => Count::CheckpointFailed,
            "checkpoint_late" => Count::CheckpointLate,
            "permission" => Count::PermissionAsked,
            "permission_decided" if is("decision", "allowed") => Count::PermissionAllowed,
            "permission_decided" if data["why"].is_string() => Count::PermissionByItself,
            "permission_decided" => Count::PermissionDenied,
            _ => return,
        });
    }

    /// All of it as Prometheus reads it, with the agents that are there by their states.
    pub(super) fn text(&self, states: impl Iterator<Item = State>) -> String {
        let mut out = String::new();
        let mut there = [0u64; ALL.len()];
        for state in states {
            if let Some(at) = ALL.iter().position(|one| *one == state) {
                there[at] += 1;
            }
        }
        head(&mut out, "agents", "Agents that are known, by what they are.", "gauge");
        for (state, count) in ALL.iter().zip(there) {
            let _ = writeln!(out, "gitstead_agents{{state=\"{}\"}} {count}", state.as_str());
        }
        for (name, says, label, counts) in METRICS {
            head(&mut out, name, says, "counter");
            for (value, what) in counts {
                let count = self.counts[*what as usize].load(Ordering::Relaxed);
                let _ = match label {
                    "" => writeln!(out, "gitstead_{name} {count}"),
                    label => writeln!(out, "gitstead_{name}{{{label}=\"{value}\"}} {count}"),
                };
            }
        }
        for (name, says, count) in [
            (
                "agent_output_bytes_total",
                "Bytes that agents have written.",
                &*self.output,
            ),
            (
                "agent_missed_lines_total",
                "Lines of output that were not remembered any more when somebody who follows came to them.",
                &self.missed,
            ),
        ] {
            head(&mut out, name, says, "counter");
            let _ = writeln!(out, "gitstead_{name} {}", count.load(Ordering::Relaxed));
        }
        out
    }
}

fn head(out: &mut String, name: &str, says: &str, kind: &str) {
    let _ = writeln!(out, "# HELP gitstead_{name} {says}\n# TYPE gitstead_{name} {kind}");
}

const ALL: [State; 13] = [
    State::Created,
    State::Starting,
    State::Ready,
    State::Busy,
    State::Idle,
    State::WaitingPermission,
    State::Stopping,
    State::Restarting,
    State::Stopped,
    State::Exited,
    State::Failed,
    State::CrashLooping,
    State::Lost,
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::json;

    use super::*;

    #[test]
    fn each_count_is_told_once_and_as_prometheus_reads_it() {
        let tally = Tally::default();
        let told: Vec<usize> = METRICS
            .iter()
            .flat_map(|(_, _, _, counts)| counts.iter().map(|(_, what)| *what as usize))
            .collect();
        let distinct: BTreeSet<_> = told.iter().copied().collect();
        assert_eq!((told.len(), distinct.len()), (tally.counts.len(), tally.counts.len()));
        for (kind, data) in [
            ("started", Value::Null),
            ("restarting", Value::Null),
            ("started", Value::Null),
            ("failed", Value::Null),
            ("said", Value::Null),
            ("checkpoint", json!({ "changed": 0 })),
            ("checkpoint", json!({ "changed": 3 })),
            ("permission_decided", json!({ "decision": "denied", "why": "late" })),
        ] {
            tally.event(kind, &data);
        }
        tally.add_missed(7);
        let text = tally.text([State::Idle, State::Idle, State::Failed].into_iter());
        for line in [
            "gitstead_agents{state=\"idle\"} 2",
            "gitstead_agents{state=\"busy\"} 0",
            "gitstead_agent_starts_total 2",
            "gitstead_agent_restarts_total 1",
            "gitstead_agent_ends_total{how=\"failed\"} 1",
            "gitstead_agent_missed_lines_total 7",
            "gitstead_agent_checkpoints_total{outcome=\"unchanged\"} 1",
            "gitstead_agent_checkpoints_total{outcome=\"made\"} 1",
            "gitstead_agent_permissions_total{event=\"denied_by_itself\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        for line in text.lines().filter(|line| !line.starts_with("# ")) {
            let (name, count) = line.rsplit_once(' ').expect("a name and a number");
            assert!(count.parse::<u64>().is_ok(), "{line}");
            let bare = name.split('{').next().expect("a name");
            assert!(text.contains(&format!("# TYPE {bare} ")), "{line}");
        }
    }
}
