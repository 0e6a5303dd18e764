use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    base::rfc3339,
    dialect::Pointers,
    session::{
        AgentRecord, AgentSpec, Cause, ContainerSpec, Isolation, LettaSpec, PermissionRule, Reaction, Restart,
        RestartMode, SandboxMode, SandboxSpec, Watchdog, Watchdogs,
    },
};

/// An agent, as the API and `gitstead agent … --json` show it. Values of variables are in none of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(
    missing_docs,
    reason = "each field is the one of `AgentRecord` or `AgentSpec` with its name"
)]
pub struct AgentView {
    pub name: String,
    pub label: Option<String>,
    pub repository: String,
    pub workspace: String,
    pub dialect: String,
    pub argv: Vec<String>,
    pub cwd: String,
    /// Names only.
    pub env: Vec<String>,
    /// Names only.
    pub secrets: Vec<String>,
    pub owner: Option<String>,
    pub trace: Option<String>,
    /// What it was made from: `preset:claude`, `api`, `config`, `session:claude-1`.
    pub source: Option<String>,
    /// What is decided without asking anybody, in this order.
    pub permissions: Vec<PermissionRule>,
    pub restart: RestartMode,
    pub state: String,
    /// Whether it has come to an end.
    pub ended: bool,
    pub run: u32,
    pub pid: Option<i32>,
    pub exit_code: Option<i32>,
    pub signal: Option<i32>,
    /// Why it could not be started.
    pub failure: Option<String>,
    /// Why it was stopped.
    pub cause: Option<String>,
    /// The watchdog that had it stopped, if one did.
    pub watchdog: Option<Watchdog>,
    /// Processes it had left behind, which were killed.
    pub swept: usize,
    /// Processes of it that the system has ended for want of memory.
    pub out_of_memory: u64,
    /// Whether it left a core.
    pub core: bool,
    /// Why it is not started again, if it would end the same way: `login`, `arguments` or `configuration`.
    pub unfit: Option<String>,
    /// The last lines of its standard error, if it has failed.
    pub last_words: Option<String>,
    /// Processes that could not be killed.
    pub stragglers: Vec<String>,
    /// Whether the files that it can reach are to be bounded.
    pub sandbox: SandboxMode,
    /// The container in which it is started.
    pub container: Option<String>,
    /// What the system holds it in, or did the last time.
    pub isolation: Option<Isolation>,
    /// Bytes on the disk of its workspace, where that is bounded, when it was last looked at.
    pub workspace_bytes: Option<u64>,
    pub session: Option<String>,
    /// The version of its program, where that was asked for.
    pub program_version: Option<String>,
    /// The last checkpoint.
    pub checkpoint: Option<String>,
    pub checkpoints: u64,
    pub created_at: String,
    /// When anything of this changed the last time.
    pub updated_at: String,
    pub started_at: Option<String>,
    pub ended_at: Option<String>,
}

impl AgentView {
    /// What those see of it who may only look: not how it is started, which may be a message or a key, nor what its sessions are called.
    pub(super) fn for_onlookers(mut self) -> Self {
        self.argv = Vec::new();
        self.env = Vec::new();
        self.secrets = Vec::new();
        self.session = None;
        self.failure = self.failure.map(|_| "it could not be started".to_owned());
        self.stragglers = Vec::new();
        self.last_words = None;
        self.label = None;
        self.permissions = Vec::new();
        self
    }
}

impl From<&AgentRecord> for AgentView {
    fn from(record: &AgentRecord) -> Self {
        let spec = &record.spec;
        let time = |millis: u64| rfc3339(i64::try_from(millis / 1_000).unwrap_or(i64::MAX), 0);
        // Of a record of before that was noted, at least what happened last.
        let known = [Some(record.updated), record.started, record.ended, Some(record.created)];
        let updated = known.into_iter().flatten().max().unwrap_or_default();
        AgentView {
            name: record.name.to_string(),
            label: spec.label.clone(),
            repository: spec.repository.clone(),
            workspace: spec.workspace.clone(),
            dialect: spec
                .kind()
                .map_or_else(|_| spec.dialect.clone(), |kind| kind.as_str().to_owned()),
            argv: spec.command(None).unwrap_or_else(|_| spec.argv.clone()),
            cwd: spec.cwd.clone(),
            env: spec.env.keys().cloned().collect(),
            secrets: spec.secrets.keys().cloned().collect(),
            owner: record.owner.clone(),
            trace: spec.trace.clone(),
            source: record.source.clone(),
            permissions: spec.permissions.clone(),
            restart: spec.restart.mode,
            state: record.state.as_str().to_owned(),
            ended: record.state.is_over(),
            run: record.run,
            pid: record.pid,
            exit_code: record.exit.and_then(|exit| exit.code),
            signal: record.exit.and_then(|exit| exit.signal),
            failure: record.failure.as_ref().map(|failure| failure.text.clone()),
            cause: record.cause.map(|cause| {
                match cause {
                    Cause::Asked => "asked",
                    Cause::Restart => "restart",
                    Cause::Shutdown => "shutdown",
                    Cause::Orphaned => "orphaned",
                    Cause::Watchdog(_) => "watchdog",
                }
                .to_owned()
            }),
            watchdog: match record.cause {
                Some(Cause::Watchdog(dog)) => Some(dog),
                _ => None,
            },
            swept: record.swept,
            out_of_memory: record.out_of_memory,
            core: record.exit.is_some_and(|exit| exit.core),
            unfit: record.unfit.clone(),
            last_words: record.last_words.clone(),
            stragglers: record.stragglers.clone(),
            sandbox: spec.sandbox.mode,
            container: spec.container.as_ref().map(|container| container.name.clone()),
            isolation: record.isolation.clone(),
            workspace_bytes: record.workspace_bytes,
            session: record.session.clone(),
            program_version: record.program_version.clone(),
            checkpoint: record.checkpoint.clone(),
            checkpoints: record.checkpoints,
            created_at: time(record.created),
            updated_at: time(updated),
            started_at: record.started.map(time),
            ended_at: record.ended.map(time),
        }
    }
}

/// What a request says of an agent.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CreateBody {
    pub name: Option<String>,
    pub repository: String,
    pub workspace: Option<String>,
    #[serde(default)]
    pub argv: Vec<String>,
    #[serde(default)]
    pub args: Vec<String>,
    pub dialect: Option<String>,
    pub preset: Option<String>,
    pub model: Option<String>,
    pub permission_mode: Option<String>,
    pub approval_policy: Option<String>,
    pub auth_method: Option<String>,
    /// Whether what it says is told in pieces, too.
    #[serde(default)]
    pub partial: bool,
    pub letta: Option<LettaSpec>,
    pub pointers: Option<Pointers>,
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    #[serde(default)]
    pub secrets: BTreeMap<String, std::path::PathBuf>,
    #[serde(default)]
    pub inherit: Vec<String>,
    pub cwd: Option<String>,
    pub task: Option<String>,
    pub message: Option<String>,
    pub label: Option<String>,
    #[serde(default)]
    pub hooks: bool,
    pub trace: Option<String>,
    pub restart: Option<RestartMode>,
    /// Milliseconds.
    pub restart_first_ms: Option<u64>,
    pub restart_most_ms: Option<u64>,
    pub restart_stable_ms: Option<u64>,
    pub restart_window_ms: Option<u64>,
    pub restart_burst: Option<usize>,
    pub quiet_ms: Option<u64>,
    pub patience_ms: Option<u64>,
    /// How long questions for permission wait for an answer; 0 for ever.
    pub answer_within_ms: Option<u64>,
    #[serde(default)]
    pub permissions: Vec<PermissionRule>,
    #[serde(default)]
    pub ladder: LadderBody,
    #[serde(default)]
    pub watchdogs: BTreeMap<String, WatchdogBody>,
    #[serde(default)]
    pub bounds: BoundsBody,
    #[serde(default)]
    pub sandbox: SandboxSpec,
    pub container: Option<ContainerSpec>,
    /// Whether it is started at once.
    #[serde(default = "yes")]
    pub start: bool,
}

fn yes() -> bool {
    true
}

/// Milliseconds.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LadderBody {
    interrupt_ms: Option<u64>,
    end_of_input_ms: Option<u64>,
    terminate_ms: Option<u64>,
    verify_ms: Option<u64>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WatchdogBody {
    after_ms: Option<u64>,
    /// For `turns`.
    most: Option<u64>,
    /// For `cost`.
    most_usd: Option<f64>,
    /// For `disk`.
    most_bytes: Option<u64>,
    action: Reaction,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BoundsBody {
    open_files: Option<u64>,
    address_space: Option<u64>,
    processes: Option<u64>,
    new_privileges: Option<bool>,
    oom_score_adj: Option<i16>,
    umask: Option<u32>,
    memory: Option<u64>,
    memory_high: Option<u64>,
    tasks: Option<u64>,
    cpu_percent: Option<u32>,
    file_bytes: Option<u64>,
    io_bytes_per_second: Option<u64>,
}

impl CreateBody {
    /// What it says, laid over what is usual.
    pub(super) fn spec(self, place: &crate::session::Place) -> Result<AgentSpec, String> {
        let ms = Duration::from_millis;
        let mut spec = AgentSpec::new(place, self.argv);
        if let Some(dialect) = self.dialect {
            spec.dialect = dialect;
        }
        (spec.preset, spec.model, spec.permission_mode) = (self.preset, self.model, self.permission_mode);
        (spec.args, spec.approval_policy, spec.partial) = (self.args, self.approval_policy, self.partial);
        (spec.letta, spec.auth_method) = (self.letta, self.auth_method);
        (spec.env, spec.secrets, spec.inherit) = (self.env, self.secrets, self.inherit);
        spec.pointers = self.pointers;
        spec.cwd = self.cwd.unwrap_or_default();
        (spec.task, spec.message, spec.label) = (self.task, self.message, self.label);
        (spec.trace, spec.hooks) = (self.trace, self.hooks);
        let usual = Restart::default();
        let or = |told: Option<u64>, usual| told.map_or(usual, ms);
        // With what is usual for what nobody says.
        spec.restart = Restart {
            mode: self.restart.unwrap_or(usual.mode),
            first: or(self.restart_first_ms, usual.first),
            most: or(self.restart_most_ms, usual.most),
            stable: or(self.restart_stable_ms, usual.stable),
            window: or(self.restart_window_ms, usual.window),
            burst: self.restart_burst.unwrap_or(usual.burst),
        };
        if let Some(time) = self.quiet_ms {
            spec.quiet = ms(time);
        }
        if let Some(time) = self.patience_ms {
            spec.patience = ms(time);
        }
        spec.answer_within = self.answer_within_ms.map(ms);
        spec.permissions = self.permissions;
        let mut ladder = spec.usual_ladder();
        for (told, slot) in [
            (self.ladder.interrupt_ms, &mut ladder.interrupt),
            (self.ladder.end_of_input_ms, &mut ladder.end_of_input),
            (self.ladder.terminate_ms, &mut ladder.terminate),
            (self.ladder.verify_ms, &mut ladder.verify),
        ] {
            if let Some(told) = told {
                // A day is longer than anybody waits.
                *slot = ms(told.min(86_400_000));
            }
        }
        spec.ladder = Some(ladder);
        for (name, body) in self.watchdogs {
            body.set(&name, &mut spec.watchdogs)?;
        }
        (spec.sandbox, spec.container) = (self.sandbox, self.container);
        let bounds = &mut spec.bounds;
        (bounds.memory, bounds.tasks) = (self.bounds.memory, self.bounds.tasks);
        (bounds.memory_high, bounds.cpu_percent) = (self.bounds.memory_high, self.bounds.cpu_percent);
        (bounds.file_bytes, bounds.io_bytes_per_second) = (self.bounds.file_bytes, self.bounds.io_bytes_per_second);
        bounds.open_files = self.bounds.open_files;
        bounds.address_space = self.bounds.address_space;
        bounds.processes = self.bounds.processes;
        bounds.new_privileges = self.bounds.new_privileges.unwrap_or(bounds.new_privileges);
        bounds.oom_score_adj = self.bounds.oom_score_adj.unwrap_or(bounds.oom_score_adj);
        bounds.umask = self.bounds.umask.unwrap_or(bounds.umask);
        Ok(spec)
    }
}

impl WatchdogBody {
    /// Has the watchdog of that name be as this says.
    fn set(&self, name: &str, dogs: &mut Watchdogs) -> Result<(), String> {
        let action = self.action;
        let timed = match name {
            "start" => &mut dogs.start,
            "silence" => &mut dogs.silence,
            "tool" => &mut dogs.tool,
            "permission" => &mut dogs.permission,
            "turn" => &mut dogs.turn,
            "linger" => &mut dogs.linger,
            "wall" => &mut dogs.wall,
            "turns" | "cost" | "disk" => {
                let (slot, most, word) = match name {
                    "turns" => (&mut dogs.turns, self.most, "most"),
                    "disk" => (&mut dogs.disk, self.most_bytes, "most_bytes"),
                    _ => {
                        let dollars = self.most_usd.filter(|dollars| (0.0..1e9).contains(dollars));
                        let millionths = dollars.map(|dollars| (dollars * 1e6) as u64);
                        (&mut dogs.cost, millionths, "most_usd")
                    }
                };
                let most = most.ok_or_else(|| format!("the watchdog '{name}' needs '{word}'"))?;
                *slot = Some((most, action));
                return Ok(());
            }
            _ => {
                return Err(format!(
                    "there is no watchdog '{name}'; there are start, silence, tool, permission, turn, linger, wall, turns, cost and disk"
                ));
            }
        };
        let after = self
            .after_ms
            .ok_or_else(|| format!("the watchdog '{name}' needs 'after_ms'"))?;
        *timed = Some((Duration::from_millis(after.max(1)), action));
        Ok(())
    }
}
