//! How agents are started: a preset's name and a few options become an argument vector, the names of the variables it lives on, and the dialect it will speak.
//!
//! Arguments are never a shell's text. What is secret is passed by variable only: a value that looks like a token is refused as an argument, where everybody on the machine
//! could read it.

mod env;
mod letta;

use super::{Kind, summary};

pub use env::{EnvError, env_key};
pub use letta::{LettaBlock, LettaCli, LettaConversation, LettaOptions, LettaSystem, letta_not_found, letta_places};

/// An agent that we know how to start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Preset {
    /// Claude Code, any number of turns.
    Claude,
    /// Codex, one turn.
    Codex,
    /// Codex, any number of turns.
    CodexServer,
    /// opencode, one turn.
    Opencode,
    /// opencode over the Agent Client Protocol, any number of turns.
    OpencodeAcp,
    /// opencode's own server on loopback, any number of turns.
    OpencodeServer,
    /// Letta Code, any number of turns.
    Letta,
    /// Letta Code, one turn.
    LettaPrint,
    /// Any command.
    Custom,
}

impl Preset {
    /// All of them.
    pub const ALL: &[Preset] = &[
        Preset::Claude,
        Preset::Codex,
        Preset::CodexServer,
        Preset::Opencode,
        Preset::OpencodeAcp,
        Preset::OpencodeServer,
        Preset::Letta,
        Preset::LettaPrint,
        Preset::Custom,
    ];

    /// As configurations name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Preset::Claude => "claude",
            Preset::Codex => "codex",
            Preset::CodexServer => "codex-app-server",
            Preset::Opencode => "opencode",
            Preset::OpencodeAcp => "opencode-acp",
            Preset::OpencodeServer => "opencode-server",
            Preset::Letta => "letta",
            Preset::LettaPrint => "letta-print",
            Preset::Custom => "custom",
        }
    }

    /// The one of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|preset| preset.as_str() == name)
    }

    /// Its program, as it is called where it is installed; nothing for any command.
    pub fn program(self) -> &'static str {
        match self {
            Preset::Claude => "claude",
            Preset::Codex | Preset::CodexServer => "codex",
            Preset::Opencode | Preset::OpencodeAcp | Preset::OpencodeServer => "opencode",
            Preset::Letta | Preset::LettaPrint => "letta",
            Preset::Custom => "",
        }
    }

    /// What it speaks.
    pub fn kind(self) -> Kind {
        match self {
            Preset::Claude => Kind::Claude,
            Preset::Codex => Kind::Codex,
            Preset::CodexServer => Kind::CodexServer,
            Preset::Opencode => Kind::Opencode,
            Preset::OpencodeAcp => Kind::Acp,
            Preset::OpencodeServer => Kind::OpencodeServer,
            Preset::Letta => Kind::Letta,
            Preset::LettaPrint => Kind::LettaPrint,
            Preset::Custom => Kind::Plain,
        }
    }

    /// Whether its one turn has to be given in its arguments.
    fn takes_message(self) -> bool {
        matches!(self, Preset::Codex | Preset::Opencode | Preset::LettaPrint)
    }

    /// The first thing of what is wanted that neither its arguments nor its protocol can say.
    fn untold(self, wanted: &Wanted) -> Option<&'static str> {
        let (has_model, has_mode, has_pieces) = match self {
            Preset::Claude | Preset::Letta | Preset::LettaPrint => (true, true, true),
            Preset::Codex | Preset::Opencode => (true, true, false),
            // It tells pieces by itself; the rest is for its session, which is begun by the protocol.
            Preset::CodexServer | Preset::OpencodeAcp | Preset::OpencodeServer => (false, false, true),
            Preset::Custom => (false, false, true),
        };
        match () {
            () if wanted.model.is_some() && !has_model => Some("which model it uses"),
            () if wanted.permission_mode.is_some() && !has_mode => Some("a permission mode"),
            // Codex's app server does not heed them there (0.169.0).
            () if wanted.hook.is_some() && self != Preset::Codex => Some("hooks in its arguments"),
            () if wanted.pieces && !has_pieces => Some("to say things in pieces"),
            () => None,
        }
    }

    /// The variables that it finds its account, its home and its model with, beyond those that every program gets. Names only; those that hold secrets are among them.
    pub fn passes(self) -> &'static [&'static str] {
        match self {
            Preset::Claude => &[
                "ANTHROPIC_API_KEY",
                "ANTHROPIC_AUTH_TOKEN",
                "ANTHROPIC_BASE_URL",
                "ANTHROPIC_MODEL",
                "CLAUDE_CODE_OAUTH_TOKEN",
                "CLAUDE_CONFIG_DIR",
                "CLAUDE_CODE_USE_BEDROCK",
                "CLAUDE_CODE_USE_VERTEX",
            ],
            Preset::Codex | Preset::CodexServer => {
                &["CODEX_HOME", "CODEX_API_KEY", "OPENAI_API_KEY", "OPENAI_BASE_URL"]
            }
            Preset::Opencode | Preset::OpencodeAcp | Preset::OpencodeServer => &[
                "OPENCODE_CONFIG",
                "OPENCODE_CONFIG_DIR",
                "ANTHROPIC_API_KEY",
                "OPENAI_API_KEY",
                "OPENROUTER_API_KEY",
            ],
            Preset::Letta | Preset::LettaPrint => &[
                "LETTA_API_KEY",
                "LETTA_BASE_URL",
                "LETTA_MEMFS_BASE_URL",
                "LETTA_MEMFS_LOCAL",
                "ANTHROPIC_API_KEY",
                "OPENAI_API_KEY",
            ],
            Preset::Custom => &[],
        }
    }

    /// Variables that it gets whatever anybody says of them.
    pub fn fixed(self) -> &'static [(&'static str, &'static str)] {
        match self {
            // Several of them on a machine do not share a browser.
            Preset::Claude | Preset::Codex | Preset::CodexServer => &[("MCP_PLAYWRIGHT_ISOLATED", "1")],
            _ => &[],
        }
    }

    /// Variables that it must not see: they say that it runs inside of another one.
    pub fn drops(self) -> &'static [&'static str] {
        match self {
            Preset::Claude => &["CLAUDECODE", "CLAUDE_CODE_ENTRYPOINT"],
            _ => &[],
        }
    }
}

/// What is wanted of an agent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Wanted {
    /// The program and its first arguments, in place of the preset's own; without it a [`Preset::Custom`] cannot be.
    pub command: Vec<String>,
    /// Arguments after all others but the message, as they are.
    pub args: Vec<String>,
    /// The model.
    pub model: Option<String>,
    /// The agent's own name of a session that is to be gone on with.
    pub resume: Option<String>,
    /// What it may do without asking, in its own word; for Codex its sandbox.
    pub permission_mode: Option<String>,
    /// Tell what is said in pieces, too.
    pub pieces: bool,
    /// The turn, where one process is one turn.
    pub message: Option<String>,
    /// A command, as a shell has it, that the agent is to run after each tool and wait for.
    pub hook: Option<String>,
    /// For [`Preset::Letta`] and [`Preset::LettaPrint`].
    pub letta: LettaOptions,
}

/// How an agent is started.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Invocation {
    /// The program, and what it is given.
    pub argv: Vec<String>,
    /// What it speaks.
    pub kind: Kind,
    /// What somebody should know.
    pub warnings: Vec<String>,
}

/// Why an agent cannot be started so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PresetError {
    /// There is no command.
    #[error("Custom provider requires a non-empty 'command'.")]
    NoCommand,
    /// One process is one turn, and there is none.
    #[error("{preset} takes its one turn as an argument, and there is no message")]
    NoMessage {
        /// Its name.
        preset: &'static str,
    },
    /// A message for an agent that takes them later.
    #[error("{preset} takes its turns on standard input, not as an argument")]
    MessageTooEarly {
        /// Its name.
        preset: &'static str,
    },
    /// Something that it has no way to be told.
    #[error("{preset} has no way to be told {option}")]
    NotTold {
        /// Its name.
        preset: &'static str,
        /// What that is.
        option: &'static str,
    },
    /// A value that cannot be what it is meant for.
    #[error("{option}: {why}")]
    Value {
        /// What it was meant for.
        option: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A value that looks like a secret.
    #[error("{option} looks like a secret: pass it as a variable, arguments can be read by everybody")]
    Secret {
        /// What it was meant for.
        option: String,
    },
}

impl PresetError {
    /// Whose move it is.
    pub fn fault(&self) -> crate::base::Fault {
        crate::base::Fault::Client
    }
}

/// Arguments that are put together, each looked at.
#[derive(Debug, Default)]
struct Argv(Vec<String>);

impl Argv {
    fn plain(&mut self, words: &[&str]) {
        self.0.extend(words.iter().map(|word| (*word).to_owned()));
    }

    /// An option and its value, which cannot be taken for another option.
    fn option(&mut self, option: &str, value: &str) -> Result<(), PresetError> {
        if value.starts_with('-') {
            return Err(wrong(option, "begins with a dash, which would make it an option"));
        }
        self.text(option, value)
    }

    /// An option and a value of any kind.
    fn text(&mut self, option: &str, value: &str) -> Result<(), PresetError> {
        check(option, value)?;
        self.plain(&[option, value]);
        Ok(())
    }

    fn maybe(&mut self, option: &str, value: Option<&str>) -> Result<(), PresetError> {
        value.map_or(Ok(()), |value| self.option(option, value))
    }

    /// The last argument, which is no option whatever it begins with.
    fn message(&mut self, text: &str) -> Result<(), PresetError> {
        if text.contains('\0') {
            return Err(wrong("message", "holds a zero byte"));
        }
        self.plain(&["--", text]);
        Ok(())
    }
}

fn wrong(option: &str, why: &'static str) -> PresetError {
    PresetError::Value {
        option: option.to_owned(),
        why,
    }
}

/// A value that may be an argument at all.
fn check(option: &str, value: &str) -> Result<(), PresetError> {
    if value.contains('\0') {
        return Err(wrong(option, "holds a zero byte"));
    }
    if value.split_whitespace().any(summary::is_token) {
        return Err(PresetError::Secret {
            option: option.to_owned(),
        });
    }
    Ok(())
}

/// A word: what modes and sandboxes are called.
fn word<'a>(option: &str, value: &'a str) -> Result<&'a str, PresetError> {
    let is_word = !value.is_empty()
        && value.len() <= 64
        && !value.starts_with('-')
        && value
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    if is_word {
        Ok(value)
    } else {
        Err(wrong(option, "is not a word"))
    }
}

/// An id as agents make them: letters, digits and a few marks.
fn name<'a>(option: &str, value: &'a str) -> Result<&'a str, PresetError> {
    let is_name = !value.is_empty()
        && value.len() <= 256
        && !value.starts_with(['-', '.'])
        && value
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b':'));
    if is_name {
        Ok(value)
    } else {
        Err(wrong(option, "is not an id"))
    }
}

/// How an agent of this kind is started.
///
/// # Errors
///
/// [`PresetError`] where something is missing, is no value for its option, or looks like a secret.
pub fn invoke(preset: Preset, wanted: &Wanted) -> Result<Invocation, PresetError> {
    let mut argv = Argv::default();
    let mut warnings = Vec::new();
    match (&wanted.message, preset.takes_message()) {
        (None, true) => {
            return Err(PresetError::NoMessage {
                preset: preset.as_str(),
            });
        }
        (Some(_), false) => {
            return Err(PresetError::MessageTooEarly {
                preset: preset.as_str(),
            });
        }
        _ => {}
    }
    if let Some(option) = preset.untold(wanted) {
        return Err(PresetError::NotTold {
            preset: preset.as_str(),
            option,
        });
    }
    let program = preset.program();
    match wanted.command.first() {
        Some(first) if !first.trim().is_empty() => {
            for argument in &wanted.command {
                check("command", argument)?;
                argv.0.push(argument.clone());
            }
        }
        Some(_) => return Err(PresetError::NoCommand),
        None if program.is_empty() => return Err(PresetError::NoCommand),
        None => argv.plain(&[program]),
    }
    if let Some(hook) = &wanted.hook {
        // These are options of the program itself, whatever it is told to do.
        argv.plain(&["--dangerously-bypass-hook-trust"]);
        for event in ["PostToolUse", "Stop"] {
            let command = serde_json::Value::from(hook.as_str());
            let told = format!("hooks.{event}=[{{hooks=[{{type=\"command\",command={command}}}]}}]");
            argv.text("-c", &told)?;
        }
    }
    let resume = match &wanted.resume {
        Some(session) => Some(name("resume", session)?),
        None => None,
    };
    let mode = match &wanted.permission_mode {
        Some(mode) => Some(word("permission mode", mode)?),
        None => None,
    };
    match preset {
        Preset::Claude => {
            argv.plain(&["-p", "--output-format", "stream-json", "--input-format", "stream-json"]);
            argv.plain(&["--verbose", "--permission-prompt-tool", "stdio"]);
            argv.maybe("--permission-mode", mode)?;
            argv.maybe("--model", wanted.model.as_deref())?;
            argv.maybe("--resume", resume)?;
            if wanted.pieces {
                argv.plain(&["--include-partial-messages"]);
            }
        }
        Preset::Codex => {
            argv.plain(&["exec", "--json", "--skip-git-repo-check"]);
            argv.option("-s", mode.unwrap_or("workspace-write"))?;
            argv.maybe("-m", wanted.model.as_deref())?;
        }
        // Its thread says the rest.
        Preset::CodexServer => argv.plain(&["app-server"]),
        Preset::Opencode => {
            argv.plain(&["run", "--format", "json"]);
            if mode == Some("auto") {
                argv.plain(&["--auto"]);
            } else if mode.is_some() {
                return Err(wrong("permission mode", "opencode knows `auto` only"));
            }
            argv.maybe("-m", wanted.model.as_deref())?;
            argv.maybe("-s", resume)?;
        }
        Preset::OpencodeAcp => argv.plain(&["acp"]),
        // Port 0 is any that is free; it says which.
        Preset::OpencodeServer => argv.plain(&["serve", "--hostname", "127.0.0.1", "--port", "0"]),
        Preset::Letta | Preset::LettaPrint => {
            if preset == Preset::LettaPrint {
                argv.plain(&["-p"]);
            }
            let mut options = wanted.letta.clone();
            if options.model.is_none() {
                options.model.clone_from(&wanted.model);
            }
            if options.permission_mode.is_none() {
                options.permission_mode = mode.map(str::to_owned);
            }
            options.pieces |= wanted.pieces;
            if let Some(session) = resume {
                options.conversation = LettaConversation::of(session);
                // It was given them when it was made.
                (options.memory, options.persona, options.human) = (None, None, None);
            }
            letta::arguments(&options, preset == Preset::Letta, &mut argv, &mut warnings)?;
        }
        Preset::Custom => {}
    }
    for argument in &wanted.args {
        check("argument", argument)?;
        argv.0.push(argument.clone());
    }
    match (preset, &wanted.message) {
        (Preset::Codex, Some(message)) => {
            if let Some(thread) = resume {
                argv.plain(&["resume", thread]);
            }
            argv.message(message)?;
        }
        (Preset::Opencode | Preset::LettaPrint, Some(message)) => argv.message(message)?,
        _ => {}
    }
    Ok(Invocation {
        argv: argv.0,
        kind: preset.kind(),
        warnings,
    })
}

/// A command of somebody's own, so that it goes on with a session: what its agent is told for that comes after its own arguments, unless they say themselves which session is meant. As it is for
/// agents that are told otherwise, or whose one turn is among the arguments.
///
/// # Errors
///
/// [`PresetError`] where that is no name of a session.
pub fn going_on(preset: Preset, command: &[String], session: &str) -> Result<Vec<String>, PresetError> {
    let mut argv = command.to_vec();
    let own: &[&str] = match preset {
        Preset::Claude => &["--resume", "--continue"],
        Preset::Letta => &["--conversation", "--agent", "--new", "--new-agent", "--default"],
        _ => return Ok(argv),
    };
    let is = |argument: &str, option: &str| {
        argument
            .strip_prefix(option)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
    };
    if argv
        .iter()
        .any(|argument| own.iter().any(|option| is(argument, option)))
    {
        return Ok(argv);
    }
    let session = name("resume", session)?;
    if preset == Preset::Claude {
        // It makes a new one of that name, and there is one now.
        if let Some(at) = argv.iter().position(|argument| is(argument, "--session-id")) {
            let with_value = argv[at] == "--session-id" && at + 1 < argv.len();
            argv.drain(at..=at + usize::from(with_value));
        }
        argv.extend(["--resume".to_owned(), session.to_owned()]);
    } else {
        let option = match LettaConversation::of(session) {
            LettaConversation::Agent { .. } => "--agent",
            _ => "--conversation",
        };
        argv.extend([option.to_owned(), session.to_owned()]);
    }
    Ok(argv)
}

#[cfg(test)]
mod tests;
