use std::{collections::BTreeMap, fmt, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use super::{ContainerSpec, LettaSpec, PermissionRule, SandboxSpec, SessionError, check_rules};
use crate::{
    agent::{Bounds, Ladder, Restart, Rules, Watchdogs},
    base::{RepoName, WorkspaceName},
    dialect::{Asks, Kind, Nature, Options, Pointers, Preset, env_key},
};

/// Bytes of one argument, and of all of them; the system takes not much more.
const ARG_BYTES: usize = 128 << 10;
const ARGS_BYTES: usize = 1 << 20;
/// Variables of an environment.
const VARIABLES: usize = 256;

/// The name of an agent: letters, digits, `.`, `_` and `-`, as that of a workspace.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AgentName(String);

/// Why a text is not the name of an agent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{text}' cannot be the name of an agent: up to 64 letters, digits, '.', '_' and '-', beginning with a letter or a digit"
)]
pub struct AgentNameError {
    text: String,
}

impl AgentName {
    /// The longest name accepted, in bytes.
    pub const MAX_BYTES: usize = 64;

    /// Parses a name.
    ///
    /// # Errors
    /// If the text does not follow the grammar that the error names.
    pub fn parse(text: &str) -> Result<Self, AgentNameError> {
        let begins = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
        let consists = text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
        if begins && consists && text.len() <= Self::MAX_BYTES && !text.contains("..") {
            Ok(AgentName(text.to_owned()))
        } else {
            let text = text.chars().filter(|c| !c.is_control()).take(80).collect();
            Err(AgentNameError { text })
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for AgentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for AgentName {
    type Error = AgentNameError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text)
    }
}

impl From<AgentName> for String {
    fn from(name: AgentName) -> Self {
        name.0
    }
}

/// A workspace, by name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Place {
    /// Its repository.
    pub repository: RepoName,
    /// The workspace of it.
    pub workspace: WorkspaceName,
}

impl Place {
    /// `REPOSITORY/WORKSPACE`.
    ///
    /// # Errors
    /// When these are no names.
    pub fn parse(repository: &str, workspace: &str) -> Result<Self, SessionError> {
        let invalid = |why: String| SessionError::Invalid { why };
        Ok(Place {
            repository: RepoName::parse(repository).map_err(|err| invalid(err.to_string()))?,
            workspace: WorkspaceName::parse(workspace).map_err(|err| invalid(err.to_string()))?,
        })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.repository.canonical(), self.workspace)
    }
}

/// Everything that is said about an agent before it runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentSpec {
    /// The repository of its workspace.
    pub repository: String,
    /// The workspace in which it works.
    pub workspace: String,
    /// How it speaks, as [`Kind::from_name`] knows it.
    pub dialect: String,
    /// The program and its arguments; empty for the usual one of its preset or dialect.
    pub argv: Vec<String>,
    /// Arguments after those that its preset gives it.
    #[serde(default)]
    pub args: Vec<String>,
    /// The agent that we know how to start, as [`Preset::from_name`] knows it.
    #[serde(default)]
    pub preset: Option<String>,
    /// The model, for a preset.
    #[serde(default)]
    pub model: Option<String>,
    /// Where its lines say what, for the dialect `ndjson`; as usual where there is nothing.
    #[serde(default)]
    pub pointers: Option<Pointers>,
    /// What it may do without asking, in its own word; for a preset.
    #[serde(default)]
    pub permission_mode: Option<String>,
    /// When it asks for permission, in its own word; for Codex's app server.
    #[serde(default)]
    pub approval_policy: Option<String>,
    /// How somebody is logged in where that is wanted, by its own name of it; for the Agent Client Protocol.
    #[serde(default)]
    pub auth_method: Option<String>,
    /// Whether what it says is told in pieces, as it comes.
    #[serde(default)]
    pub partial: bool,
    /// Whether it is told in its arguments to have each tool recorded by `gitstead hook` before it goes on; for Codex.
    #[serde(default)]
    pub hooks: bool,
    /// What only Letta Code can be told.
    #[serde(default)]
    pub letta: Option<LettaSpec>,
    /// Variables of its environment beside the usual ones.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Variables whose values are in files, read when it starts and kept nowhere.
    #[serde(default)]
    pub secrets: BTreeMap<String, PathBuf>,
    /// Variables of Gitstead's own environment that it gets beside the usual ones.
    #[serde(default)]
    pub inherit: Vec<String>,
    /// The directory in the workspace where it begins.
    #[serde(default)]
    pub cwd: String,
    /// What the workspace is for, if it has to be made.
    #[serde(default)]
    pub task: Option<String>,
    /// Its first message, given when it is ready.
    #[serde(default)]
    pub message: Option<String>,
    /// What people call it.
    #[serde(default)]
    pub label: Option<String>,
    /// The trace that it belongs to: 32 hexadecimal digits. One of its own without.
    #[serde(default)]
    pub trace: Option<String>,
    /// How it is stopped, where not as usual.
    #[serde(default)]
    pub ladder: Option<Ladder>,
    /// Whether it is started again.
    #[serde(default)]
    pub restart: Restart,
    /// What may last how long.
    #[serde(default)]
    pub watchdogs: Watchdogs,
    /// What the system allows it.
    #[serde(default)]
    pub bounds: Bounds,
    /// Which files it can reach.
    #[serde(default)]
    pub sandbox: SandboxSpec,
    /// The container in which it is started.
    #[serde(default)]
    pub container: Option<ContainerSpec>,
    /// How long files of a command that tells of no tools have to be left alone before there is a checkpoint.
    #[serde(default = "quiet")]
    pub quiet: Duration,
    /// How long an agent waits for a checkpoint before it goes on without it.
    #[serde(default = "patience")]
    pub patience: Duration,
    /// How long a question for permission waits for an answer before it is denied; zero for ever. As the house has it without.
    #[serde(default)]
    pub answer_within: Option<Duration>,
    /// What it is allowed or denied without asking anybody, the first rule that is meant; what none is meant for is asked.
    #[serde(default)]
    pub permissions: Vec<PermissionRule>,
}

fn quiet() -> Duration {
    Duration::from_millis(500)
}

fn patience() -> Duration {
    Duration::from_secs(10)
}

impl AgentSpec {
    /// A command in a workspace, and everything else as usual.
    pub fn new(place: &Place, argv: Vec<String>) -> Self {
        AgentSpec {
            repository: place.repository.canonical().to_owned(),
            workspace: place.workspace.as_str().to_owned(),
            dialect: Kind::Plain.as_str().to_owned(),
            argv,
            args: Vec::new(),
            preset: None,
            model: None,
            pointers: None,
            permission_mode: None,
            approval_policy: None,
            auth_method: None,
            partial: false,
            hooks: false,
            letta: None,
            env: BTreeMap::new(),
            secrets: BTreeMap::new(),
            inherit: Vec::new(),
            cwd: String::new(),
            task: None,
            message: None,
            label: None,
            trace: None,
            ladder: None,
            restart: Restart::default(),
            watchdogs: Watchdogs::default(),
            bounds: Bounds::default(),
            sandbox: SandboxSpec::default(),
            container: None,
            quiet: quiet(),
            patience: patience(),
            answer_within: None,
            permissions: Vec::new(),
        }
    }

    /// The workspace that is meant.
    ///
    /// # Errors
    /// When the names are none.
    pub fn place(&self) -> Result<Place, SessionError> {
        Place::parse(&self.repository, &self.workspace)
    }

    /// How it speaks.
    ///
    /// # Errors
    /// When there is no such dialect.
    pub fn kind(&self) -> Result<Kind, SessionError> {
        if self.preset.is_some()
            && let Some(preset) = self.preset()?
            && preset != Preset::Custom
        {
            return Ok(preset.kind());
        }
        Kind::from_name(&self.dialect).ok_or_else(|| {
            let known: Vec<_> = Kind::ALL.iter().map(|kind| kind.as_str()).collect();
            SessionError::Invalid {
                why: format!("there is no dialect '{}'; there are {}", self.dialect, known.join(", ")),
            }
        })
    }

    /// Checks what can be checked before it runs.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<(), SessionError> {
        let invalid = |why: String| Err(SessionError::Invalid { why });
        self.place()?;
        self.kind()?;
        let preset = self.preset()?;
        if self.pointers.is_some() && self.kind()? != Kind::Ndjson {
            return invalid("pointers are for the dialect 'ndjson'".to_owned());
        }
        if preset.is_none() && self.argv.first().is_none_or(String::is_empty) {
            return invalid("there is no command".to_owned());
        }
        if preset.is_none() && self.message.is_some() && self.nature().asks == Asks::InArguments {
            return invalid("an agent of this dialect has its message among its arguments".to_owned());
        }
        self.check_options()?;
        check_rules(&self.permissions).map_err(|why| SessionError::Invalid { why })?;
        if !self.permissions.is_empty() && !self.nature().asks_permission {
            return invalid(
                "an agent of this dialect asks nobody for permission: rules for that would say nothing".to_owned(),
            );
        }
        self.command(None)?;
        if self
            .message
            .as_deref()
            .is_some_and(|text| text.is_empty() || text.contains('\0'))
        {
            return invalid("the message is empty, or has a NUL in it".to_owned());
        }
        let words = || self.argv.iter().chain(&self.args);
        let total: usize = words().map(String::len).sum();
        if total > ARGS_BYTES || words().any(|arg| arg.len() >= ARG_BYTES) {
            return invalid(format!(
                "the command is longer than {ARGS_BYTES} bytes, or an argument than {ARG_BYTES}"
            ));
        }
        if words().any(|arg| arg.contains('\0')) {
            return invalid("an argument has a NUL in it".to_owned());
        }
        if self.env.len() + self.secrets.len() + self.inherit.len() > VARIABLES {
            return invalid(format!("there are more than {VARIABLES} variables"));
        }
        for name in self.env.keys().chain(self.secrets.keys()).chain(&self.inherit) {
            env_key(name).map_err(|error| SessionError::Invalid { why: error.to_string() })?;
        }
        if self
            .env
            .values()
            .any(|value| value.contains('\0') || value.len() >= ARG_BYTES)
        {
            return invalid("a variable has a NUL in it, or is too long".to_owned());
        }
        if let Some((name, _)) = self
            .env
            .iter()
            .find(|(name, value)| super::env::is_called_secret(name, value))
        {
            return invalid(format!(
                "'{name}' looks like a secret, and variables are kept in the ledger: give it as a file (--secret {name}=FILE), or have that of the server passed on (--inherit {name})"
            ));
        }
        if let Some(path) = self.secrets.values().find(|path| !path.is_absolute()) {
            return invalid(format!("'{}' is not an absolute path", path.display()));
        }
        let sound = |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains('\0');
        if !self.cwd.is_empty() && !self.cwd.split('/').all(sound) {
            return invalid("'cwd' is not a path in the workspace".to_owned());
        }
        if self.trace.as_deref().is_some_and(|id| !super::trace::is_id(id)) {
            return invalid("'trace' is 32 lower-case hexadecimal digits, not all of them 0".to_owned());
        }
        self.sandbox.check()?;
        if let Some(container) = &self.container {
            container.check(self)?;
        }
        if self.bounds.oom_score_adj.unsigned_abs() > 1_000 {
            return invalid("'oom_score_adj' is between -1000 and 1000".to_owned());
        }
        Ok(())
    }

    /// The name of its program, without directories.
    pub fn program(&self) -> String {
        let argv = self.command(None).unwrap_or_default();
        let name = argv.first().map_or("", String::as_str);
        let last = name.rsplit('/').next().unwrap_or_default();
        if last.is_empty() { "command" } else { last }.to_owned()
    }

    /// What can be asked of it.
    pub(super) fn nature(&self) -> Nature {
        let kind = self.kind().unwrap_or(Kind::Plain);
        let mut options = Options::new("/");
        options.pointers = self.pointers.clone().unwrap_or_default();
        kind.speaker(options).nature()
    }

    /// How one that speaks so is stopped when nobody says otherwise.
    pub fn usual_ladder(&self) -> Ladder {
        match self.nature().asks {
            // Most commands do not care whether their input is open: there is nothing to wait for.
            Asks::Lines => Ladder {
                end_of_input: Duration::ZERO,
                ..Ladder::default()
            },
            _ => Ladder::default(),
        }
    }

    /// What its machine is told.
    pub(super) fn rules(&self) -> Rules {
        let nature = self.nature();
        Rules {
            ladder: self.ladder.unwrap_or_else(|| self.usual_ladder()),
            restart: self.restart,
            watchdogs: self.watchdogs,
            handshake: true,
            interrupt: nature.interrupts,
            one_turn: nature.asks == Asks::InArguments,
            total_cost: nature.total_cost,
            record: Duration::from_secs(60),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::ThreadOptions;

    #[test]
    fn what_cannot_be_run_is_refused_before() {
        let place = Place::parse("team/demo", "main").expect("names");
        let sound = AgentSpec::new(&place, vec!["sh".to_owned(), "-c".to_owned(), "true".to_owned()]);
        assert!(sound.check().is_ok());
        let wrong = |change: fn(&mut AgentSpec)| {
            let mut spec = sound.clone();
            change(&mut spec);
            spec.check().expect_err("it is wrong").to_string()
        };
        assert_eq!(wrong(|spec| spec.argv.clear()), "there is no command");
        assert!(wrong(|spec| spec.argv[2] = "a\0b".to_owned()).contains("NUL"));
        assert!(wrong(|spec| spec.dialect = "klingon".to_owned()).contains("plain"));
        assert!(wrong(|spec| spec.cwd = "../x".to_owned()).contains("cwd"));
        assert!(wrong(|spec| spec.workspace = "..".to_owned()).contains("workspace"));
        let preload = |spec: &mut AgentSpec| drop(spec.env.insert("LD_PRELOAD".to_owned(), "x".to_owned()));
        assert!(wrong(preload).contains("LD_PRELOAD"));
        let relative = |spec: &mut AgentSpec| drop(spec.secrets.insert("KEY".to_owned(), "key".into()));
        assert!(wrong(relative).contains("absolute"));
        assert_eq!(sound.program(), "sh");
    }

    #[test]
    fn a_known_agent_needs_no_command() {
        let place = Place::parse("demo", "main").expect("names");
        let mut spec = AgentSpec::new(&place, Vec::new());
        spec.dialect = "claude".to_owned();
        assert!(spec.check().is_ok());
        assert_eq!(spec.program(), "claude");
        let argv = spec.command(Some("0835")).expect("known");
        assert_eq!(argv[0], "claude");
        assert!(argv.windows(2).any(|two| two == ["--resume", "0835"]), "{argv:?}");
        spec.dialect = "codex".to_owned();
        assert!(spec.check().is_err(), "it is asked in its arguments");
        spec.message = Some("do it".to_owned());
        assert!(spec.check().is_ok());
        assert_eq!(
            spec.command(None).expect("known").last().map(String::as_str),
            Some("do it")
        );
        let mut server = spec.clone();
        (server.dialect, server.message) = ("codex-app-server".to_owned(), None);
        assert_eq!(server.thread().sandbox.as_deref(), Some("workspace-write"));
        (server.model, server.permission_mode) = (Some("large".to_owned()), Some("read-only".to_owned()));
        let thread = server.thread();
        assert_eq!(
            (thread.model.as_deref(), thread.sandbox.as_deref()),
            (Some("large"), Some("read-only"))
        );
        assert_eq!(spec.thread(), ThreadOptions::default(), "it has that in its arguments");
        spec.argv = vec!["codex".to_owned(), "exec".to_owned(), "do it".to_owned()];
        assert!(spec.check().is_err(), "it is there twice");
        spec.message = None;
        assert_eq!(spec.command(Some("0835")).expect("given"), spec.argv);
        let mut own = AgentSpec::new(&place, vec!["my-claude".to_owned(), "-x".to_owned()]);
        own.dialect = "claude".to_owned();
        assert_eq!(own.command(None).expect("given"), own.argv);
        assert_eq!(
            own.command(Some("0835")).expect("given"),
            ["my-claude", "-x", "--resume", "0835"]
        );
        assert!(own.command(Some("--evil")).is_err());
        spec.preset = Some("nobody".to_owned());
        assert!(spec.check().is_err());
        spec.preset = None;
        spec.dialect = "acp".to_owned();
        spec.argv.clear();
        assert!(spec.check().is_err());
    }

    #[test]
    fn names_of_agents_are_one_segment_of_a_path() {
        for name in ["a", "sh-1", "9", "a.b_c"] {
            assert!(AgentName::parse(name).is_ok(), "{name}");
        }
        for name in ["", ".a", "-a", "a/b", "a..b", "a b", "ä", &"a".repeat(65)] {
            assert!(AgentName::parse(name).is_err(), "{name}");
        }
    }
}
