//! What agents have done since the server was started, in numbers. Nothing in them names an agent, a session or a user.

use std::{
    fmt::Write as _,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use serde_json::Value;

use super::{Cause, State};
use crate::agent::{Meter, Status};

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
    PermissionAllowedByRule,
    PermissionDeniedByRule,
    PermissionGone,
    AskOk,
    AskError,
    AskFailed,
    AskTimedOut,
    AskAbandoned,
    AskRateLimited,
    AskBusy,
    AskFull,
    ExitOk,
    ExitCode,
    ExitSignal,
    ExitOutOfMemory,
    ExitNotStarted,
    ExitAsked,
    ExitRestart,
    ExitShutdown,
    ExitOrphaned,
    ExitWatchdog,
    ExitUnknown,
    Watchdog,
    Swept,
    OutOfMemory,
}

/// How many there are.
const COUNTS: usize = Count::OutOfMemory as usize + 1;

/// A metric, what it says, and its label with a value and what is counted for each.
type Metric = (
    &'static str,
    &'static str,
    &'static str,
    &'static [(&'static str, Count)],
);

const METRICS: [Metric; 13] = [
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
            ("allowed_by_rule", Count::PermissionAllowedByRule),
            ("denied_by_rule", Count::PermissionDeniedByRule),
            ("gone", Count::PermissionGone),
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
            ("full", Count::AskFull),
        ],
    ),
    (
        "agent_exits_total",
        "Agents that have ended, whether they are started again or not, by why.",
        "reason",
        &[
            ("ok", Count::ExitOk),
            ("exit_code", Count::ExitCode),
            ("signal", Count::ExitSignal),
            ("out_of_memory", Count::ExitOutOfMemory),
            ("not_started", Count::ExitNotStarted),
            ("asked", Count::ExitAsked),
            ("restart", Count::ExitRestart),
            ("shutdown", Count::ExitShutdown),
            ("orphaned", Count::ExitOrphaned),
            ("watchdog", Count::ExitWatchdog),
            ("unknown", Count::ExitUnknown),
        ],
    ),
    (
        "agent_watchdogs_total",
        "Times that something of an agent lasted too long.",
        "",
        &[("", Count::Watchdog)],
    ),
    (
        "agent_swept_processes_total",
        "Processes that agents had left behind when they ended, and that were killed.",
        "",
        &[("", Count::Swept)],
    ),
    (
        "agent_out_of_memory_kills_total",
        "Processes of agents that the system has killed because all of an agent's together had more memory than it may.",
        "",
        &[("", Count::OutOfMemory)],
    ),
];

/// Upper bounds of the times that are told apart, in microseconds.
const TIMES: [u64; 13] = [
    1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000, 10_000_000,
];

/// How long something took, each time.
#[derive(Debug, Default)]
pub(super) struct Histogram {
    /// Those that took up to as long as [`TIMES`] says, and longer than the one before; the last are all others.
    counts: [AtomicU64; TIMES.len() + 1],
    micros: AtomicU64,
}

impl Histogram {
    pub(super) fn add(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let at = TIMES.partition_point(|most| *most < micros);
        self.counts[at].fetch_add(1, Ordering::Relaxed);
        self.micros.fetch_add(micros, Ordering::Relaxed);
    }

    fn text(&self, out: &mut String, name: &str, says: &str) {
        head(out, name, says, "histogram");
        let seconds = |micros: u64| Duration::from_micros(micros).as_secs_f64();
        let bounds = TIMES.iter().map(|most| seconds(*most).to_string());
        let mut count = 0;
        for (most, of_it) in bounds.chain(["+Inf".to_owned()]).zip(&self.counts) {
            count += of_it.load(Ordering::Relaxed);
            let _ = writeln!(out, "gitstead_{name}_bucket{{le=\"{most}\"}} {count}");
        }
        let sum = seconds(self.micros.load(Ordering::Relaxed));
        let _ = writeln!(out, "gitstead_{name}_sum {sum}\ngitstead_{name}_count {count}");
    }
}

/// Why a run of an agent has ended.
pub(super) fn reason(status: &Status, is_starved: bool) -> Count {
    match (status.cause, &status.exit) {
        (Some(Cause::Asked), _) => Count::ExitAsked,
        (Some(Cause::Restart), _) => Count::ExitRestart,
        (Some(Cause::Shutdown), _) => Count::ExitShutdown,
        (Some(Cause::Orphaned), _) => Count::ExitOrphaned,
        (Some(Cause::Watchdog(_)), _) => Count::ExitWatchdog,
        (None, _) if status.failure.is_some() => Count::ExitNotStarted,
        (None, Some(exit)) if exit.is_success() => Count::ExitOk,
        (None, Some(_)) if is_starved => Count::ExitOutOfMemory,
        (None, Some(exit)) if exit.signal.is_some() => Count::ExitSignal,
        (None, Some(_)) => Count::ExitCode,
        (None, None) => Count::ExitUnknown,
    }
}

/// Counters over all agents of a house.
#[derive(Debug)]
pub struct Tally {
    counts: [AtomicU64; COUNTS],
    /// What agents' tasks count themselves.
    pub(super) meter: Arc<Meter>,
    missed: AtomicU64,
    /// From when a checkpoint was due until it was made.
    pub(super) latency: Histogram,
    /// How much of that was work on it.
    pub(super) work: Histogram,
}

impl Default for Tally {
    fn default() -> Self {
        Tally {
            counts: std::array::from_fn(|_| AtomicU64::new(0)),
            meter: Arc::default(),
            missed: AtomicU64::new(0),
            latency: Histogram::default(),
            work: Histogram::default(),
        }
    }
}

impl Tally {
    pub(super) fn add(&self, what: Count) {
        self.add_all(what, 1);
    }

    fn add_all(&self, what: Count, how_many: u64) {
        self.counts[what as usize].fetch_add(how_many, Ordering::Relaxed);
    }

    /// Somebody was too slow for so many lines.
    pub(super) fn add_missed(&self, lines: u64) {
        self.missed.fetch_add(lines, Ordering::Relaxed);
    }

    /// Counts what an event tells.
    pub(super) fn event(&self, kind: &str, data: &Value) {
        let is = |key: &str, word: &str| data[key].as_str() == Some(word);
        let killed = data["killed"].as_u64().unwrap_or(0);
        match kind {
            "swept" => self.add_all(Count::Swept, killed),
            "out_of_memory" => self.add_all(Count::OutOfMemory, killed),
            _ => {}
        }
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
            "watchdog" => Count::Watchdog,
            "permission" => Count::PermissionAsked,
            "permission_gone" => Count::PermissionGone,
            "permission_decided" if data["rule"].is_object() => match is("decision", "allowed") {
                true => Count::PermissionAllowedByRule,
                false => Count::PermissionDeniedByRule,
            },
            "permission_decided" if is("decision", "allowed") => Count::PermissionAllowed,
            "permission_decided" if data["why"].is_string() => Count::PermissionByItself,
            "permission_decided" => Count::PermissionDenied,
            _ => return,
        });
    }

    /// All of it as Prometheus reads it.
    pub(super) fn text(&self, out: &mut String) {
        for (name, says, label, counts) in METRICS {
            head(out, name, says, "counter");
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
                &self.meter.output,
            ),
            (
                "agent_missed_lines_total",
                "Lines of output that were not remembered any more when somebody who follows came to them.",
                &self.missed,
            ),
        ] {
            head(out, name, says, "counter");
            let _ = writeln!(out, "gitstead_{name} {}", count.load(Ordering::Relaxed));
        }
        self.latency.text(
            out,
            "agent_checkpoint_latency_seconds",
            "From when a checkpoint was due (a tool had ended, files had come to rest) until it was made.",
        );
        self.work.text(
            out,
            "agent_checkpoint_work_seconds",
            "How long it took to make a checkpoint once it was its turn.",
        );
    }
}

pub(super) fn head(out: &mut String, name: &str, says: &str, kind: &str) {
    let _ = writeln!(out, "# HELP gitstead_{name} {says}\n# TYPE gitstead_{name} {kind}");
}

/// All that an agent may be.
pub(super) const STATES: [State; 13] = [
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
    use crate::agent::{Exit, SpawnFailure, SpawnFault, Watchdog};

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
            (
                "permission_decided",
                json!({ "decision": "allowed", "rule": { "number": 1 } }),
            ),
            (
                "permission_decided",
                json!({ "decision": "denied", "rule": { "number": 2 } }),
            ),
            ("permission_gone", json!({ "why": "interrupted" })),
        ] {
            tally.event(kind, &data);
        }
        tally.add_missed(7);
        tally.event("swept", &json!({ "killed": 3, "stragglers": [] }));
        for millis in [1, 2, 300, 11_000] {
            tally.latency.add(Duration::from_millis(millis));
        }
        let mut text = String::new();
        tally.text(&mut text);
        for line in [
            "gitstead_agent_swept_processes_total 3",
            "gitstead_agent_checkpoint_latency_seconds_bucket{le=\"0.001\"} 1",
            "gitstead_agent_checkpoint_latency_seconds_bucket{le=\"0.0025\"} 2",
            "gitstead_agent_checkpoint_latency_seconds_bucket{le=\"0.25\"} 2",
            "gitstead_agent_checkpoint_latency_seconds_bucket{le=\"10\"} 3",
            "gitstead_agent_checkpoint_latency_seconds_bucket{le=\"+Inf\"} 4",
            "gitstead_agent_checkpoint_latency_seconds_sum 11.303",
            "gitstead_agent_checkpoint_latency_seconds_count 4",
            "gitstead_agent_checkpoint_work_seconds_count 0",
            "gitstead_agent_starts_total 2",
            "gitstead_agent_restarts_total 1",
            "gitstead_agent_ends_total{how=\"failed\"} 1",
            "gitstead_agent_missed_lines_total 7",
            "gitstead_agent_checkpoints_total{outcome=\"unchanged\"} 1",
            "gitstead_agent_checkpoints_total{outcome=\"made\"} 1",
            "gitstead_agent_permissions_total{event=\"denied_by_itself\"} 1",
            "gitstead_agent_permissions_total{event=\"allowed\"} 0",
            "gitstead_agent_permissions_total{event=\"allowed_by_rule\"} 1",
            "gitstead_agent_permissions_total{event=\"denied_by_rule\"} 1",
            "gitstead_agent_permissions_total{event=\"gone\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        for line in text.lines().filter(|line| !line.starts_with("# ")) {
            let (name, count) = line.rsplit_once(' ').expect("a name and a number");
            assert!(count.parse::<f64>().is_ok(), "{line}");
            let bare = name.split('{').next().expect("a name");
            let of_times = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|end| bare.strip_suffix(end));
            let bare = of_times.unwrap_or(bare);
            assert!(text.contains(&format!("# TYPE {bare} ")), "{line}");
        }
    }

    #[test]
    fn each_end_has_one_reason() {
        let ended = |cause: Option<Cause>, exit: Option<Exit>, failure: Option<SpawnFailure>| Status {
            state: State::Failed,
            run: 1,
            pid: None,
            parent: None,
            exit,
            failure,
            cause,
            swept: 0,
            out_of_memory: 0,
            stragglers: Vec::new(),
            isolation: None,
        };
        let killed = Exit {
            code: None,
            signal: Some(9),
            core: false,
        };
        let failure = SpawnFailure {
            fault: SpawnFault::Missing,
            text: String::new(),
        };
        let by_itself = |exit: Exit| ended(None, Some(exit), None);
        assert_eq!(reason(&by_itself(Exit::of_code(0)), false), Count::ExitOk);
        assert_eq!(reason(&by_itself(Exit::of_code(3)), false), Count::ExitCode);
        assert_eq!(reason(&by_itself(killed), false), Count::ExitSignal);
        assert_eq!(reason(&by_itself(killed), true), Count::ExitOutOfMemory);
        assert_eq!(
            reason(&by_itself(Exit::of_code(0)), true),
            Count::ExitOk,
            "a child of it"
        );
        assert_eq!(reason(&ended(None, None, Some(failure)), false), Count::ExitNotStarted);
        assert_eq!(reason(&ended(None, None, None), false), Count::ExitUnknown);
        assert_eq!(
            reason(&ended(Some(Cause::Asked), Some(killed), None), true),
            Count::ExitAsked
        );
        let barked = ended(Some(Cause::Watchdog(Watchdog::Silence)), Some(killed), None);
        assert_eq!(reason(&barked, false), Count::ExitWatchdog);
    }
}
