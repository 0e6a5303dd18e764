//! How an agent is started: what its description becomes as a command.

use super::{AgentSpec, SandboxMode, SessionError};
use crate::dialect::{Asks, Invocation, Kind, LettaCli, Preset, ThreadOptions, Wanted, going_on, invoke};

/// What is found out about an agent's program before it is started.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Program {
    /// It, and its first arguments, in place of the preset's own.
    pub command: Vec<String>,
    /// Which options Letta Code understands.
    pub letta: LettaCli,
}

fn invalid(why: impl ToString) -> SessionError {
    SessionError::Invalid { why: why.to_string() }
}

impl AgentSpec {
    /// The preset that says how it is started: the one that is named, or without a command that of its dialect.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn preset(&self) -> Result<Option<Preset>, SessionError> {
        match &self.preset {
            Some(name) => Preset::from_name(name).map(Some).ok_or_else(|| {
                let known: Vec<_> = Preset::ALL.iter().map(|preset| preset.as_str()).collect();
                invalid(format!("there is no preset '{name}'; there are {}", known.join(", ")))
            }),
            None if self.argv.is_empty() => {
                Ok(Preset::from_name(&self.dialect).filter(|preset| *preset != Preset::Custom))
            }
            None => Ok(None),
        }
    }

    /// The agent that it is, whoever says how it is started: that of its preset, or of its dialect.
    pub(super) fn known(&self) -> Option<Preset> {
        let known = |name: &str| Preset::from_name(name).filter(|preset| *preset != Preset::Custom);
        match self.preset.as_deref() {
            None => known(&self.dialect),
            Some(name) if name == Preset::Custom.as_str() => known(&self.dialect),
            Some(name) => known(name),
        }
    }

    /// What is executed: the command, or what its preset says, so that it goes on with the session `resume` where that can be said in arguments.
    ///
    /// # Errors
    /// When the preset cannot be started so.
    pub fn command(&self, resume: Option<&str>) -> Result<Vec<String>, SessionError> {
        let program = Program::default();
        self.invocation(resume, &program).map(|invocation| invocation.0)
    }

    /// The same with what was found out about its program, and what somebody should know of it.
    pub(super) fn invocation(
        &self,
        resume: Option<&str>,
        program: &Program,
    ) -> Result<(Vec<String>, Vec<String>), SessionError> {
        let Some(preset) = self.preset()? else {
            let argv = match (self.known(), resume) {
                (Some(preset), Some(session)) => going_on(preset, &self.argv, session).map_err(invalid)?,
                _ => self.argv.clone(),
            };
            return Ok((argv, Vec::new()));
        };
        let mut wanted = Wanted::default();
        match program.command.is_empty() {
            true => wanted.command.clone_from(&self.argv),
            false => wanted.command.clone_from(&program.command),
        }
        wanted.args.clone_from(&self.args);
        // These are told in its protocol.
        if preset.kind().begins_threads() {
            wanted.resume = None;
        } else {
            wanted.model.clone_from(&self.model);
            wanted.permission_mode.clone_from(&self.permission_mode);
            wanted.resume = resume.map(str::to_owned);
            wanted.pieces = self.partial;
        }
        if self.hooks {
            let program = std::env::current_exe().ok();
            let program = program.as_deref().and_then(std::path::Path::to_str);
            let program =
                program.ok_or_else(|| invalid("the path of this program is no text: there can be no hooks"))?;
            wanted.hook = Some(format!("'{}' hook codex", program.replace('\'', r"'\''")));
        }
        if let Some(letta) = &self.letta {
            wanted.letta = letta.options();
        }
        wanted.letta.cli = match self.letta.as_ref().and_then(|letta| letta.version.as_deref()) {
            Some(version) => LettaCli::of(version),
            None => program.letta,
        };
        if self.nature().asks == Asks::InArguments {
            wanted.message.clone_from(&self.message);
        }
        let Invocation { argv, warnings, .. } = invoke(preset, &wanted).map_err(invalid)?;
        match (preset, self.known(), resume) {
            (Preset::Custom, Some(known), Some(session)) => {
                Ok((going_on(known, &argv, session).map_err(invalid)?, warnings))
            }
            _ => Ok((argv, warnings)),
        }
    }

    /// Refuses what there is no way to tell it: an option that nobody heeds is worse than none.
    pub(super) fn check_options(&self) -> Result<(), SessionError> {
        let kind = self.kind()?;
        let preset = self.preset()?.filter(|preset| *preset != Preset::Custom);
        let dogs = &self.watchdogs;
        let of_turns = [
            ("silence", dogs.silence.is_some()),
            ("tool", dogs.tool.is_some()),
            ("permission", dogs.permission.is_some()),
            ("turn", dogs.turn.is_some()),
            ("turns", dogs.turns.is_some()),
            ("cost", dogs.cost.is_some()),
        ];
        if let Some((name, _)) = of_turns.iter().find(|(_, is_set)| *is_set)
            && !self.nature().tells_turns
        {
            return Err(invalid(format!(
                "the watchdog '{name}' is for agents that tell of their turns; 'wall' bounds how long a command runs"
            )));
        }
        if !self.args.is_empty() && self.preset()?.is_none() {
            return Err(invalid(
                "'args' go after the arguments of a preset: those of a command of your own are in it",
            ));
        }
        if self.hooks {
            if preset != Some(Preset::Codex) {
                return Err(invalid(
                    "'hooks' is for the preset 'codex': Claude Code waits without, others have them installed by `gitstead hook install`",
                ));
            }
            if self.container.is_some() || self.sandbox.mode != SandboxMode::Off {
                return Err(invalid("hooks do not reach this server from a sandbox or a container"));
            }
        }
        let is_letta = matches!(preset, Some(Preset::Letta | Preset::LettaPrint));
        if self.letta.is_some() && !is_letta {
            return Err(invalid("'letta' is for the presets 'letta' and 'letta-print'"));
        }
        let own = |option: &str| {
            invalid(format!(
                "'{option}' is for agents that we know how to start: a command of your own, of the dialect '{}', says it itself",
                kind.as_str()
            ))
        };
        let by_thread = kind.begins_threads();
        if preset.is_none() && !by_thread {
            for (option, is_told) in [
                ("model", self.model.is_some()),
                ("permission_mode", self.permission_mode.is_some()),
            ] {
                if is_told {
                    return Err(own(option));
                }
            }
        }
        if self.approval_policy.is_some() && kind != Kind::CodexServer {
            return Err(invalid("'approval_policy' is for 'codex-app-server'"));
        }
        if self.auth_method.is_some() && kind != Kind::Acp {
            return Err(invalid("'auth_method' is for the Agent Client Protocol"));
        }
        let is_word = |text: &str| {
            let sound = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
            !text.is_empty() && text.len() <= 64 && text.chars().all(sound)
        };
        for (option, told) in [
            ("approval_policy", &self.approval_policy),
            ("permission_mode", &self.permission_mode),
        ] {
            if by_thread && told.as_deref().is_some_and(|told| !is_word(told)) {
                return Err(invalid(format!("'{option}' is not a word")));
            }
        }
        match kind {
            Kind::OpencodeServer if self.container.is_some() => {
                Err(invalid("what listens in a container is not on this machine's loopback"))
            }
            Kind::OpencodeServer if self.permission_mode.is_some() => {
                Err(invalid("opencode-server has no way to be told 'permission_mode'"))
            }
            Kind::OpencodeServer if self.model.as_deref().is_some_and(|model| !model.contains('/')) => {
                Err(invalid("the model of opencode-server is PROVIDER/MODEL"))
            }
            kind if self.partial && !kind.tells_pieces() => {
                Err(invalid(format!("'{}' tells nothing in pieces", kind.as_str())))
            }
            _ => Ok(()),
        }
    }

    /// How its session is begun, where that is said in its protocol.
    pub(super) fn thread(&self) -> ThreadOptions {
        let mut thread = ThreadOptions::default();
        let Ok(kind) = self.kind() else { return thread };
        if kind.begins_threads() {
            thread.model.clone_from(&self.model);
        }
        thread.auth_method.clone_from(&self.auth_method);
        if kind == Kind::CodexServer {
            thread.approval_policy.clone_from(&self.approval_policy);
            // As with one turn in its arguments: what Codex does by itself may not even write its workspace.
            let usual = || "workspace-write".to_owned();
            thread.sandbox = Some(self.permission_mode.clone().unwrap_or_else(usual));
        }
        thread
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::{LettaSpec, Place};

    fn spec(preset: &str) -> AgentSpec {
        let place = Place::parse("demo", "main").expect("names");
        let mut spec = AgentSpec::new(&place, Vec::new());
        spec.preset = Some(preset.to_owned());
        spec
    }

    #[test]
    fn arguments_of_ones_own_come_after_those_of_a_preset() {
        let mut codex = spec("codex");
        codex.message = Some("do it".to_owned());
        codex.args = vec!["--add-dir".to_owned(), "/x y".to_owned()];
        assert!(codex.check().is_ok());
        let argv = codex.command(None).expect("known");
        assert_eq!(argv[argv.len() - 4..], ["--add-dir", "/x y", "--", "do it"]);
        codex.args.push("a\0b".to_owned());
        assert!(codex.check().is_err());
        codex.args = vec![format!("sk-ant-{}", "a1B2c3".repeat(8))];
        assert!(codex.check().is_err(), "everybody can read arguments");
        let mut own = spec("codex");
        (own.preset, own.argv, own.args) = (None, vec!["sh".to_owned()], vec!["-x".to_owned()]);
        assert!(
            own.check()
                .expect_err("there is no preset")
                .to_string()
                .contains("'args'")
        );
    }

    #[test]
    fn an_option_that_an_agent_cannot_be_told_is_refused() {
        let refused = |preset: &str, change: fn(&mut AgentSpec)| {
            let mut spec = spec(preset);
            change(&mut spec);
            spec.check().err().map(|error| error.to_string()).unwrap_or_default()
        };
        let model: fn(&mut AgentSpec) = |spec| spec.model = Some("mock/m".to_owned());
        let mode: fn(&mut AgentSpec) = |spec| spec.permission_mode = Some("auto".to_owned());
        let policy: fn(&mut AgentSpec) = |spec| spec.approval_policy = Some("on-request".to_owned());
        let login: fn(&mut AgentSpec) = |spec| spec.auth_method = Some("api-key".to_owned());
        let partial: fn(&mut AgentSpec) = |spec| spec.partial = true;
        for (preset, change) in [
            ("opencode-acp", model),
            ("opencode-acp", mode),
            ("claude", policy),
            ("letta", policy),
            ("claude", login),
        ] {
            assert!(!refused(preset, change).is_empty(), "{preset}");
        }
        for (preset, change) in [
            ("claude", model),
            ("claude", partial),
            ("letta", partial),
            ("opencode-acp", partial),
            ("opencode-acp", login),
            ("codex-app-server", model),
            ("codex-app-server", mode),
            ("codex-app-server", policy),
        ] {
            assert_eq!(refused(preset, change), "", "{preset}");
        }
        let asked: fn(&mut AgentSpec) = |spec| (spec.partial, spec.message) = (true, Some("x".to_owned()));
        for preset in ["codex", "opencode"] {
            assert!(refused(preset, asked).contains("in pieces"), "{preset}");
        }
        let own: fn(&mut AgentSpec) = |spec| {
            (spec.preset, spec.dialect) = (None, "claude".to_owned());
            (spec.argv, spec.model) = (vec!["claude".to_owned()], Some("m".to_owned()));
        };
        assert!(refused("claude", own).contains("'model'"));
        let letta: fn(&mut AgentSpec) = |spec| spec.letta = Some(LettaSpec::default());
        assert!(refused("claude", letta).contains("'letta'"));
        let mut server = spec("codex-app-server");
        policy(&mut server);
        assert_eq!(server.thread().approval_policy.as_deref(), Some("on-request"));
    }

    #[test]
    fn variables_that_change_what_programs_run_are_refused_by_name() {
        for key in [
            "LD_PRELOAD",
            "NODE_OPTIONS",
            "PYTHONSTARTUP",
            "PERL5OPT",
            "DYLD_INSERT_LIBRARIES",
            "BASH_FUNC_x",
            "GIT_CONFIG_COUNT",
            "GITSTEAD_RUN",
            "A-B",
        ] {
            for is_secret in [false, true] {
                let mut spec = spec("claude");
                match is_secret {
                    true => drop(spec.secrets.insert(key.to_owned(), "/key".into())),
                    false => drop(spec.env.insert(key.to_owned(), "x".to_owned())),
                }
                let error = spec.check().expect_err(key).to_string();
                assert!(error.starts_with(&format!("Invalid agent env key: {key}")), "{error}");
            }
        }
    }
}
