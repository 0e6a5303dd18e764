use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{AgentSpec, Fences, env, shared::Shared, start::Program};
use crate::{
    agent::{Sandbox, SpawnFailure, SpawnFault, find_program, probe},
    dialect::{
        LettaBlock, LettaCli, LettaConversation, LettaOptions, LettaSystem, Preset, letta_not_found, letta_places,
    },
    worker::Lane,
};

/// Versions of programs that are remembered.
const KNOWN: usize = 32;
/// Bytes of the text of a version.
const VERSION: usize = 40;

/// What only Letta Code can be told, under the names of its SDK (`agentId`) or ours (`agent_id`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LettaSpec {
    /// The agent that it talks to.
    #[serde(alias = "agentId")]
    pub agent_id: Option<String>,
    /// The conversation that it goes on with; its agent is known by it, and the other four say nothing then.
    #[serde(alias = "conversationId")]
    pub conversation_id: Option<String>,
    /// A new conversation.
    #[serde(alias = "newConversation")]
    pub new_conversation: bool,
    /// The agent's default conversation.
    #[serde(alias = "defaultConversation")]
    pub default_conversation: bool,
    /// A new agent.
    #[serde(alias = "createOnly")]
    pub create_only: bool,
    /// The model of its search.
    pub embedding: Option<String>,
    /// Its system prompt.
    #[serde(alias = "systemPrompt")]
    pub system_prompt: Option<LettaSystemSpec>,
    /// Its memory; an empty list is none at all. For a new agent.
    pub memory: Option<Vec<LettaBlockSpec>>,
    /// A block of memory. For a new agent.
    pub persona: Option<String>,
    /// A block of memory. For a new agent.
    pub human: Option<String>,
    /// Tools that it may use; an empty list is none.
    #[serde(alias = "allowedTools")]
    pub allowed_tools: Option<Vec<String>>,
    /// Tools that it may not use.
    #[serde(alias = "disallowedTools")]
    pub disallowed_tools: Option<Vec<String>>,
    /// Tags of a new agent.
    pub tags: Vec<String>,
    /// Its memory as files.
    pub memfs: Option<bool>,
    /// When those are fetched: `blocking`, `background`, `skip`.
    #[serde(alias = "memfsStartup")]
    pub memfs_startup: Option<String>,
    /// Where skills come from; an empty list is from nowhere.
    #[serde(alias = "skillSources")]
    pub skill_sources: Option<Vec<String>>,
    /// `false` leaves the reminder about the system out.
    #[serde(alias = "systemInfoReminder")]
    pub system_info_reminder: Option<bool>,
    /// When it reflects.
    pub sleeptime: SleeptimeSpec,
    /// Of which version the installed one is, instead of asking it.
    pub version: Option<String>,
}

/// When Letta reflects.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SleeptimeSpec {
    /// What makes it.
    pub trigger: Option<String>,
    /// How.
    pub behavior: Option<String>,
    /// After how many steps.
    #[serde(alias = "stepCount")]
    pub step_count: Option<u32>,
}

/// A system prompt, as it is written in descriptions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum LettaSystemSpec {
    /// The name of one of Letta's own, or a prompt.
    Text(String),
    /// One of Letta's own, with something after it.
    Preset {
        /// Its name.
        preset: String,
        /// What comes after it.
        #[serde(default)]
        append: String,
    },
}

/// A block of memory, as it is written in descriptions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum LettaBlockSpec {
    /// The name of one of Letta's own.
    Preset(String),
    /// One with this content.
    Custom {
        /// What it is called.
        label: String,
        /// What is in it.
        value: String,
    },
    /// One that exists.
    Shared {
        /// Its id.
        #[serde(alias = "blockId")]
        block_id: String,
    },
}

impl LettaSpec {
    /// As the preset takes it. What everybody can be told is not in it.
    pub(super) fn options(&self) -> LettaOptions {
        let mut options = LettaOptions::default();
        options.embedding.clone_from(&self.embedding);
        options.conversation = match (&self.conversation_id, &self.agent_id) {
            (Some(conversation), _) => LettaConversation::Conversation(conversation.clone()),
            (None, Some(agent)) => LettaConversation::Agent {
                agent: agent.clone(),
                new: self.new_conversation,
                default: self.default_conversation,
            },
            (None, None) if self.create_only => LettaConversation::NewAgent,
            (None, None) if self.new_conversation => LettaConversation::New,
            (None, None) => LettaConversation::Last,
        };
        options.system = self.system_prompt.clone().map(|system| match system {
            LettaSystemSpec::Text(text) => LettaSystem::Text(text),
            LettaSystemSpec::Preset { preset, append } => LettaSystem::Preset { preset, append },
        });
        options.memory = self.memory.as_ref().map(|blocks| {
            let block = |block: &LettaBlockSpec| match block.clone() {
                LettaBlockSpec::Preset(name) => LettaBlock::Preset(name),
                LettaBlockSpec::Custom { label, value } => LettaBlock::Custom { label, value },
                LettaBlockSpec::Shared { block_id } => LettaBlock::Shared(block_id),
            };
            blocks.iter().map(block).collect()
        });
        options.persona.clone_from(&self.persona);
        options.human.clone_from(&self.human);
        options.allowed_tools.clone_from(&self.allowed_tools);
        options.disallowed_tools.clone_from(&self.disallowed_tools);
        options.tags.clone_from(&self.tags);
        options.memfs = self.memfs;
        options.memfs_startup.clone_from(&self.memfs_startup);
        options.skill_sources.clone_from(&self.skill_sources);
        options.system_info_reminder = self.system_info_reminder;
        options.reflection_trigger.clone_from(&self.sleeptime.trigger);
        options.reflection_behavior.clone_from(&self.sleeptime.behavior);
        options.reflection_step_count = self.sleeptime.step_count;
        options
    }
}

/// A program as it was when it was asked.
type Asked = (PathBuf, SystemTime, u64);
type Known = Vec<(Asked, Option<String>)>;

/// What programs have said of their versions; asked again when their file has changed.
#[derive(Debug, Clone, Default)]
pub struct Versions(Arc<Mutex<Known>>);

impl Versions {
    fn get(&self, asked: &Asked) -> Option<Option<String>> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = known.iter().find(|(one, _)| one == asked);
        found.map(|(_, version)| version.clone())
    }

    fn put(&self, asked: Asked, version: Option<String>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|(one, _)| one.0 != asked.0);
        if known.len() >= KNOWN {
            known.remove(0);
        }
        known.push((asked, version));
    }
}

/// Where an agent is prepared: its program may have to be asked for its version.
pub(super) fn lane(spec: &AgentSpec) -> Lane {
    match spec.known() {
        Some(Preset::Letta | Preset::LettaPrint) => Lane::Long,
        _ => Lane::Short,
    }
}

/// What is executed, by what is found out about the program; what somebody should know of it is told. Blocks.
///
/// # Errors
/// When the program is nowhere, or cannot be started as it is described.
pub(super) fn command(
    shared: &Shared,
    fences: &Fences,
    sandbox: Option<&Sandbox>,
    resume: Option<&str>,
) -> Result<Vec<String>, SpawnFailure> {
    let own = |name: &str| std::env::var_os(name);
    let found = find(
        &shared.spec,
        fences.letta_cli.as_deref(),
        &fences.versions,
        sandbox,
        own,
    )?;
    let (program, version) = found.unwrap_or_default();
    if shared.record().program_version != version {
        shared.change(|record| record.program_version = version);
    }
    let (argv, warnings) = shared.spec.invocation(resume, &program).map_err(|error| SpawnFailure {
        fault: SpawnFault::Other,
        text: error.to_string(),
    })?;
    for text in warnings {
        shared.events.push("warning", json!({ "text": text }));
    }
    Ok(argv)
}

/// Where Letta Code is, and of which version; nothing for other agents. Blocks, for seconds where the program has to be asked.
///
/// # Errors
/// When it is nowhere, with what was tried.
pub(super) fn find(
    spec: &AgentSpec,
    configured: Option<&Path>,
    versions: &Versions,
    sandbox: Option<&Sandbox>,
    own: impl Fn(&str) -> Option<OsString>,
) -> Result<Option<(Program, Option<String>)>, SpawnFailure> {
    if !matches!(spec.preset(), Ok(Some(Preset::Letta | Preset::LettaPrint))) {
        return Ok(None);
    }
    let told = spec.letta.as_ref().and_then(|letta| letta.version.clone());
    // What is in a container is not here to be looked at.
    if spec.container.is_some() {
        return Ok(Some((Program::default(), told)));
    }
    let path = env::value(spec, "PATH", &own).unwrap_or_else(|| env::PATH.into());
    let command = place(spec, configured, &own)?.unwrap_or_default();
    let version = match told {
        Some(version) => Some(version),
        // It could be the agent's own file by now, and would be asked outside everything that holds agents.
        None if sandbox.is_some() => None,
        None => version_of(&command, &path.to_string_lossy(), versions, &own),
    };
    let program = Program {
        letta: version.as_deref().map_or_else(LettaCli::default, LettaCli::of),
        command,
    };
    Ok(Some((program, version)))
}

/// What is executed where Letta Code is meant; nothing for other agents. Blocks.
///
/// # Errors
/// When it is nowhere, with what was tried.
pub(super) fn place(
    spec: &AgentSpec,
    configured: Option<&Path>,
    own: impl Fn(&str) -> Option<OsString>,
) -> Result<Option<Vec<String>>, SpawnFailure> {
    if !matches!(spec.preset(), Ok(Some(Preset::Letta | Preset::LettaPrint))) {
        return Ok(None);
    }
    if !spec.argv.is_empty() {
        return Ok(Some(spec.argv.clone()));
    }
    let path = env::value(spec, "PATH", &own).unwrap_or_else(|| env::PATH.into());
    let variable = env::value(spec, "LETTA_CLI_PATH", &own).map(PathBuf::from);
    let places = letta_places(configured, variable.as_deref(), Some(&path));
    let found = places
        .iter()
        .find(|place| place.is_file())
        .ok_or_else(|| SpawnFailure {
            fault: SpawnFault::Missing,
            text: letta_not_found(&places),
        })?;
    let found = std::path::absolute(found).unwrap_or_else(|_| found.clone());
    let found = found.to_string_lossy().into_owned();
    Ok(Some(match found.ends_with(".js") {
        true => vec!["node".to_owned(), found],
        false => vec![found],
    }))
}

/// What a program says of its version.
fn version_of(
    command: &[String],
    path: &str,
    versions: &Versions,
    own: &impl Fn(&str) -> Option<OsString>,
) -> Option<String> {
    let first = find_program(command.first()?, Some(path), Path::new("/")).ok()?;
    // What is interpreted is what may change.
    let file = match command.get(1).filter(|second| second.ends_with(".js")) {
        Some(script) => PathBuf::from(script),
        None => first,
    };
    let found = fs::metadata(&file).ok()?;
    let asked = (file, found.modified().ok()?, found.len());
    if let Some(known) = versions.get(&asked) {
        return known;
    }
    let mut env = vec![("PATH".to_owned(), path.to_owned())];
    for name in ["HOME", "LANG"] {
        if let Some(value) = own(name).and_then(|value| value.into_string().ok()) {
            env.push((name.to_owned(), value));
        }
    }
    // What did not answer now may answer another time.
    let said = probe(command, &env).ok()?;
    let version = version_in(&String::from_utf8_lossy(&said));
    versions.put(asked, version.clone());
    version
}

/// The first thing in a text that looks like a version.
fn version_in(text: &str) -> Option<String> {
    let is_version = |word: &&str| {
        let mut parts = word.split('.');
        let is_number =
            |part: Option<&str>| part.is_some_and(|part| part.bytes().next().is_some_and(|b| b.is_ascii_digit()));
        is_number(parts.next()) && is_number(parts.next()) && word.len() <= VERSION
    };
    let words = text.split_whitespace().map(|word| word.trim_start_matches('v'));
    let sound = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '+');
    let mut found = words.filter(|word| word.chars().all(sound));
    found.find(is_version).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::session::Place;

    fn spec() -> AgentSpec {
        let place = Place::parse("demo", "main").expect("names");
        let mut spec = AgentSpec::new(&place, Vec::new());
        spec.preset = Some("letta".to_owned());
        spec
    }

    fn script(path: &Path, text: &str) {
        fs::write(path, format!("#!/bin/sh\n{text}\n")).expect("written");
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("changed");
    }

    #[test]
    fn options_of_its_sdk_become_its_arguments() {
        let mut spec = spec();
        let json = r#"{
            "agentId": "agent-1", "newConversation": true, "embedding": "e", "systemPrompt": {"type": "preset", "preset": "default", "append": "x"},
            "allowedTools": ["Bash", "Read"], "tags": ["t"], "memfs": false, "skillSources": [], "systemInfoReminder": false,
            "sleeptime": {"trigger": "step-count", "stepCount": 5}, "memfsStartup": "skip"
        }"#;
        spec.letta = Some(serde_json::from_str(json).expect("as the SDK has it"));
        spec.model = Some("m".to_owned());
        assert!(spec.check().is_ok());
        assert_eq!(
            spec.command(None).expect("known").join(" "),
            "letta --output-format stream-json --input-format stream-json --agent agent-1 --new -m m --embedding e \
             --system default --system-append x --permission-mode standard --allowedTools Bash,Read --tags t --no-memfs \
             --memfs-startup skip --no-skills --no-system-info-reminder --reflection-trigger step-count --reflection-step-count 5"
        );
        let resumed = spec.command(Some("local-conv-2")).expect("known").join(" ");
        assert!(
            resumed.contains("--conversation local-conv-2") && !resumed.contains("--agent"),
            "{resumed}"
        );
        let mut new = self::spec();
        let json = r#"{"create_only": true, "memory": ["persona", {"label": "l", "value": "v"}, {"blockId": "b"}], "human": ""}"#;
        new.letta = Some(serde_json::from_str(json).expect("ours"));
        let (argv, warnings) = new.invocation(None, &Program::default()).expect("known");
        let argv = argv.join(" ");
        assert!(
            argv.contains(
                r#"--new-agent --memory-blocks [{"label":"l","value":"v"},{"blockId":"b"}] --block-value human="#
            ),
            "{argv}"
        );
        assert!(warnings[0].contains("persona"), "{warnings:?}");
        assert!(serde_json::from_str::<LettaSpec>(r#"{"nonsense": 1}"#).is_err());
        new.letta.as_mut().expect("set").tags = vec!["a,b".to_owned()];
        assert!(
            new.check()
                .expect_err("a comma parts tags")
                .to_string()
                .contains("--tags")
        );
    }

    #[test]
    fn the_program_is_looked_for_where_it_was_said_to_be_and_asked_for_its_version_once() {
        let dir = tempfile::tempdir().expect("a directory");
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("bin")).expect("made");
        script(
            &at("bin/letta"),
            &format!("echo x >> {}\necho 0.24.3 '(Letta Code)'", at("asked").display()),
        );
        script(&at("other"), "echo letta-code v0.26.0");
        let mut spec = spec();
        spec.env
            .insert("PATH".to_owned(), format!("{}:/usr/bin:/bin", at("bin").display()));
        let versions = Versions::default();
        let none = |_: &str| None;
        let find = |spec: &AgentSpec, configured: Option<&Path>| find(spec, configured, &versions, None, none);
        let (program, version) = find(&spec, None).expect("found").expect("letta");
        assert_eq!(program.command, [at("bin/letta").display().to_string()]);
        assert_eq!((version.as_deref(), program.letta), (Some("0.24.3"), LettaCli::Early));
        let mut early = spec.clone();
        early.permission_mode = Some("bypassPermissions".to_owned());
        let argv = early.invocation(None, &program).expect("known").0;
        assert!(argv.contains(&"--yolo".to_owned()), "{argv:?}");
        find(&spec, None).expect("found");
        assert_eq!(fs::read_to_string(at("asked")).expect("asked"), "x\n", "once");
        script(&at("bin/letta"), "echo 0.25.9");
        assert_eq!(
            find(&spec, None).expect("found").expect("letta").1.as_deref(),
            Some("0.25.9")
        );
        spec.env
            .insert("LETTA_CLI_PATH".to_owned(), at("other").display().to_string());
        assert_eq!(
            find(&spec, None).expect("found").expect("letta").1.as_deref(),
            Some("0.26.0")
        );
        let (program, _) = find(&spec, Some(&at("bin/letta"))).expect("found").expect("letta");
        assert_eq!(program.command, [at("bin/letta").display().to_string()]);
        // A package's own file is for node.
        fs::write(at("letta.js"), "").expect("written");
        let (program, version) = find(&spec, Some(&at("letta.js"))).expect("found").expect("letta");
        assert_eq!(
            program.command,
            ["node".to_owned(), at("letta.js").display().to_string()]
        );
        assert_eq!(version, None);
        spec.env.insert("PATH".to_owned(), at("nowhere").display().to_string());
        spec.env.remove("LETTA_CLI_PATH");
        let failure = find(&spec, Some(&at("gone"))).expect_err("nowhere");
        assert_eq!(failure.fault, SpawnFault::Missing);
        assert!(
            failure
                .text
                .starts_with("Letta Code CLI not found. Set LETTA_CLI_PATH or install")
        );
        assert!(
            failure.text.contains("nowhere/letta") && failure.text.contains("gone"),
            "{failure}"
        );
        // One that is named, or is somewhere else, is not looked for.
        spec.letta = Some(LettaSpec {
            version: Some("0.20".to_owned()),
            ..LettaSpec::default()
        });
        spec.argv = vec!["npx".to_owned(), "letta".to_owned()];
        let (program, version) = find(&spec, None).expect("told").expect("letta");
        assert_eq!((program.command, version.as_deref()), (spec.argv.clone(), Some("0.20")));
        assert_eq!(program.letta, LettaCli::Early);
    }

    #[test]
    fn a_version_is_found_in_what_programs_say() {
        for (text, version) in [
            ("0.25.9", Some("0.25.9")),
            ("letta-code v0.26.0-rc.1\n", Some("0.26.0-rc.1")),
            ("0.25.9 (Letta Code)", Some("0.25.9")),
            ("no version", None),
            ("", None),
            ("1. x", None),
        ] {
            assert_eq!(version_in(text).as_deref(), version, "{text}");
        }
    }
}
