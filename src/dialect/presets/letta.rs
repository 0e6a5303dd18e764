//! What Letta Code is given. Its options have changed with its versions, so each is written as the installed one understands it.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::{Argv, PresetError, name, word, wrong};

/// The options of which versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LettaCli {
    /// Those that the first SDK was written for: `--default`, `--yolo`, presets such as `letta-claude`.
    Early,
    /// Those of 0.25, with which all this was measured: none of these are known, and without a permission mode everything is allowed.
    #[default]
    Current,
}

impl LettaCli {
    /// By what `letta --version` says. What cannot be read is taken for a current one. Where exactly between the first releases and 0.25 the options changed was not measured.
    pub fn of(version: &str) -> Self {
        let digits = version
            .split(|c: char| !c.is_ascii_digit() && c != '.')
            .find(|word| word.contains('.'))
            .unwrap_or_default();
        let mut numbers = digits
            .split('.')
            .map(|number| number.parse::<u32>().unwrap_or(u32::MAX));
        match (numbers.next(), numbers.next()) {
            (Some(0), Some(minor)) if minor < 25 => LettaCli::Early,
            _ => LettaCli::Current,
        }
    }
}

/// Which conversation with which agent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum LettaConversation {
    /// That of the agent used last, the default one.
    #[default]
    Last,
    /// This one; its agent is known by it.
    Conversation(String),
    /// One with this agent: its last one, unless said otherwise.
    Agent {
        /// Its id.
        agent: String,
        /// A new one.
        new: bool,
        /// Its default one. `new` counts more.
        default: bool,
    },
    /// A new agent.
    NewAgent,
    /// A new conversation with the agent used last.
    New,
}

impl LettaConversation {
    /// By the name that an earlier session was told under.
    pub fn of(session: &str) -> Self {
        if session.starts_with("agent-") {
            LettaConversation::Agent {
                agent: session.to_owned(),
                new: false,
                default: false,
            }
        } else {
            LettaConversation::Conversation(session.to_owned())
        }
    }

    /// Whether it may be an agent that exists already, with a memory of its own.
    fn has_agent(&self) -> bool {
        matches!(
            self,
            LettaConversation::Conversation(_) | LettaConversation::Agent { .. }
        )
    }
}

/// A system prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum LettaSystem {
    /// A preset's name, or a prompt where no preset is called so.
    Text(String),
    /// A preset with something after it.
    Preset {
        /// Its name.
        preset: String,
        /// What comes after it; nothing if empty.
        append: String,
    },
}

/// A block of memory.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum LettaBlock {
    /// One of Letta's own.
    Preset(String),
    /// One with this content.
    Custom {
        /// What it is called.
        label: String,
        /// What is in it.
        value: String,
    },
    /// One that exists.
    Shared(String),
}

/// What Letta Code can be told when it starts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct LettaOptions {
    /// Which version's options.
    pub cli: LettaCli,
    /// Which conversation.
    pub conversation: LettaConversation,
    /// The model.
    pub model: Option<String>,
    /// The model of its search.
    pub embedding: Option<String>,
    /// Its system prompt.
    pub system: Option<LettaSystem>,
    /// Its memory; an empty list is none at all. Only for a new agent.
    pub memory: Option<Vec<LettaBlock>>,
    /// A block of memory. Only for a new agent.
    pub persona: Option<String>,
    /// A block of memory. Only for a new agent.
    pub human: Option<String>,
    /// What it may do without asking.
    pub permission_mode: Option<String>,
    /// Tools that it may use; an empty list is none.
    pub allowed_tools: Option<Vec<String>>,
    /// Tools that it may not use.
    pub disallowed_tools: Option<Vec<String>>,
    /// Tags of a new agent.
    pub tags: Vec<String>,
    /// Its memory as files.
    pub memfs: Option<bool>,
    /// When those are fetched: `blocking`, `background`, `skip`.
    pub memfs_startup: Option<String>,
    /// Where skills come from; an empty list is from nowhere.
    pub skill_sources: Option<Vec<String>>,
    /// `false` leaves the reminder about the system out.
    pub system_info_reminder: Option<bool>,
    /// When it reflects.
    pub reflection_trigger: Option<String>,
    /// How.
    pub reflection_behavior: Option<String>,
    /// After how many steps.
    pub reflection_step_count: Option<u32>,
    /// Tell what is said in pieces, too.
    pub pieces: bool,
}

const EARLY_PRESETS: [&str; 7] = [
    "default",
    "letta-claude",
    "letta-codex",
    "letta-gemini",
    "claude",
    "codex",
    "gemini",
];
const PRESETS: [&str; 5] = ["default", "letta", "source-claude", "source-codex", "source-gemini"];

/// What is called differently now.
fn preset_now(preset: &str) -> Option<&'static str> {
    match preset {
        "letta-claude" | "claude" => Some("source-claude"),
        "letta-codex" | "codex" => Some("source-codex"),
        "letta-gemini" | "gemini" => Some("source-gemini"),
        _ => None,
    }
}

/// Adds all of it after the program.
pub(super) fn arguments(
    wanted: &LettaOptions,
    reads_turns: bool,
    argv: &mut Argv,
    warnings: &mut Vec<String>,
) -> Result<(), PresetError> {
    argv.plain(&["--output-format", "stream-json"]);
    if reads_turns {
        argv.plain(&["--input-format", "stream-json"]);
    }
    conversation(wanted, argv)?;
    argv.maybe("-m", wanted.model.as_deref())?;
    argv.maybe("--embedding", wanted.embedding.as_deref())?;
    system(wanted, argv, warnings)?;
    memory(wanted, argv, warnings)?;
    permissions(wanted, argv)?;
    for (option, tools) in [
        ("--allowedTools", &wanted.allowed_tools),
        ("--disallowedTools", &wanted.disallowed_tools),
    ] {
        if let Some(tools) = tools {
            argv.option(option, &joined(option, tools)?)?;
        }
    }
    if !wanted.tags.is_empty() {
        argv.option("--tags", &joined("--tags", &wanted.tags)?)?;
    }
    match wanted.memfs {
        Some(true) => argv.plain(&["--memfs"]),
        Some(false) => argv.plain(&["--no-memfs"]),
        None => {}
    }
    if let Some(how) = &wanted.memfs_startup {
        if !matches!(how.as_str(), "blocking" | "background" | "skip") {
            return Err(wrong("--memfs-startup", "is none of blocking, background, skip"));
        }
        argv.plain(&["--memfs-startup", how]);
    }
    if let Some(sources) = &wanted.skill_sources {
        let mut once: Vec<String> = Vec::new();
        for source in sources {
            if !once.contains(source) {
                once.push(source.clone());
            }
        }
        match once.as_slice() {
            [] => argv.plain(&["--no-skills"]),
            some => argv.option("--skill-sources", &joined("--skill-sources", some)?)?,
        }
    }
    if wanted.system_info_reminder == Some(false) {
        argv.plain(&["--no-system-info-reminder"]);
    }
    argv.maybe("--reflection-trigger", wanted.reflection_trigger.as_deref())?;
    if let Some(behavior) = &wanted.reflection_behavior {
        if wanted.cli == LettaCli::Current {
            warnings.push("letta takes --reflection-behavior, but does not act on it any more".to_owned());
        }
        argv.option("--reflection-behavior", behavior)?;
    }
    if let Some(steps) = wanted.reflection_step_count {
        argv.plain(&["--reflection-step-count", &steps.to_string()]);
    }
    if wanted.pieces {
        argv.plain(&["--include-partial-messages"]);
    }
    Ok(())
}

fn conversation(wanted: &LettaOptions, argv: &mut Argv) -> Result<(), PresetError> {
    match &wanted.conversation {
        LettaConversation::Last => {}
        LettaConversation::Conversation(id) => argv.option("--conversation", name("--conversation", id)?)?,
        LettaConversation::Agent { agent, new, default } => {
            argv.option("--agent", name("--agent", agent)?)?;
            match (new, default, wanted.cli) {
                (true, _, _) => argv.plain(&["--new"]),
                (false, true, LettaCli::Early) => argv.plain(&["--default"]),
                // The option for it is not known any more.
                (false, true, LettaCli::Current) => argv.plain(&["--conversation", "default"]),
                (false, false, _) => {}
            }
        }
        LettaConversation::NewAgent => argv.plain(&["--new-agent"]),
        LettaConversation::New => argv.plain(&["--new"]),
    }
    Ok(())
}

fn system(wanted: &LettaOptions, argv: &mut Argv, warnings: &mut Vec<String>) -> Result<(), PresetError> {
    let mut known = |preset: &str| -> Option<String> {
        match wanted.cli {
            LettaCli::Early => EARLY_PRESETS.contains(&preset).then(|| preset.to_owned()),
            LettaCli::Current if PRESETS.contains(&preset) => Some(preset.to_owned()),
            LettaCli::Current => {
                let now = preset_now(preset)?;
                warnings.push(format!(
                    "the system prompt {preset} is called {now} by this version of letta"
                ));
                Some(now.to_owned())
            }
        }
    };
    match &wanted.system {
        None => Ok(()),
        Some(LettaSystem::Text(text)) => match known(text) {
            Some(preset) => argv.option("--system", &preset),
            // A prompt may begin as it likes.
            None => argv.text("--system-custom", text),
        },
        Some(LettaSystem::Preset { preset, append }) => {
            match known(preset) {
                Some(preset) => argv.option("--system", &preset)?,
                None => return Err(wrong("--system", "is no preset of this version of letta")),
            }
            match append.as_str() {
                "" => Ok(()),
                append => argv.text("--system-append", append),
            }
        }
    }
}

fn memory(wanted: &LettaOptions, argv: &mut Argv, warnings: &mut Vec<String>) -> Result<(), PresetError> {
    if wanted.conversation.has_agent() {
        if wanted.memory.is_some() || wanted.persona.is_some() || wanted.human.is_some() {
            warnings.push("an agent that exists keeps its memory: what was given for it is left out".to_owned());
        }
        return Ok(());
    }
    if let Some(blocks) = &wanted.memory {
        let presets: Vec<String> = blocks
            .iter()
            .filter_map(|block| match block {
                LettaBlock::Preset(name) => Some(name.clone()),
                _ => None,
            })
            .collect();
        if presets.len() == blocks.len() {
            argv.option("--init-blocks", &joined("--init-blocks", &presets)?)?;
        } else {
            if !presets.is_empty() {
                warnings.push(format!(
                    "blocks of one's own replace those of letta, which are left out: {}",
                    presets.join(", ")
                ));
            }
            let own: Vec<serde_json::Value> = blocks
                .iter()
                .filter_map(|block| match block {
                    LettaBlock::Preset(_) => None,
                    LettaBlock::Custom { label, value } => Some(json!({ "label": label, "value": value })),
                    LettaBlock::Shared(block) => Some(json!({ "blockId": block })),
                })
                .collect();
            argv.text("--memory-blocks", &serde_json::Value::from(own).to_string())?;
        }
    }
    for (key, value) in [("persona", &wanted.persona), ("human", &wanted.human)] {
        if let Some(value) = value {
            argv.text("--block-value", &format!("{key}={value}"))?;
        }
    }
    Ok(())
}

fn permissions(wanted: &LettaOptions, argv: &mut Argv) -> Result<(), PresetError> {
    let mode = match &wanted.permission_mode {
        Some(mode) => Some(word("--permission-mode", mode)?),
        None => None,
    };
    match (wanted.cli, mode) {
        (LettaCli::Early, Some("bypassPermissions")) => argv.plain(&["--yolo"]),
        (LettaCli::Early, None | Some("default")) => {}
        (LettaCli::Early, Some(mode)) => argv.plain(&["--permission-mode", mode]),
        // Without one everything is allowed, which nobody asked for.
        (LettaCli::Current, None | Some("default" | "standard")) => argv.plain(&["--permission-mode", "standard"]),
        (LettaCli::Current, Some("acceptEdits")) => argv.plain(&["--permission-mode", "acceptEdits"]),
        (LettaCli::Current, Some("unrestricted" | "bypassPermissions" | "fullAccess")) => {
            argv.plain(&["--permission-mode", "unrestricted"]);
        }
        (LettaCli::Current, Some(_)) => {
            return Err(wrong(
                "--permission-mode",
                "is none of standard, acceptEdits, unrestricted",
            ));
        }
    }
    Ok(())
}

/// A list with commas between, which none of its items may hold.
fn joined(option: &str, items: &[String]) -> Result<String, PresetError> {
    if items.iter().any(|item| item.contains(',')) {
        return Err(wrong(option, "an item holds a comma, which parts items"));
    }
    Ok(items.join(","))
}

/// Where Letta Code may be, in the order in which it is looked for: what was configured, the variable `LETTA_CLI_PATH`, the directories of `PATH`. The first that exists counts;
/// where it ends in `.js` it is an argument for `node`.
pub fn letta_places(
    configured: Option<&Path>,
    variable: Option<&Path>,
    path: Option<&std::ffi::OsStr>,
) -> Vec<PathBuf> {
    let named = [configured, variable].into_iter().flatten();
    let named = named.filter(|place| !place.as_os_str().is_empty()).map(Path::to_owned);
    let dirs = path.map(|path| path.to_string_lossy().into_owned()).unwrap_or_default();
    // A relative directory is wherever somebody happens to be.
    let found: Vec<PathBuf> = dirs
        .split(':')
        .filter(|dir| dir.starts_with('/'))
        .map(|dir| Path::new(dir).join("letta"))
        .collect();
    named.chain(found).collect()
}

/// What to say when it is nowhere.
pub fn letta_not_found(tried: &[PathBuf]) -> String {
    let places: Vec<String> = tried.iter().take(16).map(|place| place.display().to_string()).collect();
    let tried = match places.as_slice() {
        [] => "nowhere, since PATH is empty".to_owned(),
        places => places.join(", "),
    };
    format!("Letta Code CLI not found. Set LETTA_CLI_PATH or install @letta-ai/letta-code (looked for it at {tried})")
}
