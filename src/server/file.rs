use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use serde::{Deserialize, Deserializer, de};

use super::ConfigError;
#[cfg(feature = "ssh-signatures")]
use crate::workspace::CommitSigner;
use crate::{
    base::{Access, Limits, Pattern, TokenHash},
    session::{
        AgentSpec, AskRules, AuditFlush, AuditRules, CgroupChoice, LettaSpec, PermissionRule, Place, SandboxMode,
        SandboxSpec, check_rules,
    },
    workspace::{Durability, Placement, SecretRules, Unchanged, WorkspaceOptions},
};

/// `gitstead.toml` as it is written. Unknown keys are errors.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileConfig {
    pub data: Option<PathBuf>,
    pub repos: Option<PathBuf>,
    pub listen: Option<String>,
    pub url_prefix: Option<String>,
    pub require_export_ok: Option<bool>,
    pub namespace: Option<String>,
    pub create_on_push: Option<bool>,
    pub maintenance: Option<bool>,
    pub default_branch: Option<String>,
    pub object_format: Option<String>,
    pub anonymous_read: Option<bool>,
    pub trusted_user_header: Option<String>,
    pub token_cookie: Option<String>,
    #[serde(default)]
    pub hosts: Vec<String>,
    pub log: Option<String>,
    #[serde(default)]
    pub limits: FileLimits,
    #[serde(default)]
    pub checkpoints: FileCheckpoints,
    #[serde(default)]
    pub agents: FileAgents,
    #[serde(default)]
    pub audit: FileAudit,
    pub ask: Option<FileAsk>,
    pub letta_memfs: Option<FileMemfs>,
    #[serde(default)]
    pub defaults: toml::Table,
    #[serde(default)]
    pub tokens: Vec<TokenEntry>,
}

/// One `[[tokens]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TokenEntry {
    pub name: String,
    #[serde(deserialize_with = "text")]
    pub hash: TokenHash,
    #[serde(deserialize_with = "texts", default = "everywhere")]
    pub repos: Vec<Pattern>,
    #[serde(default = "reading")]
    pub access: Access,
}

/// `[checkpoints]`: how those of the workspaces of this house are made.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileCheckpoints {
    pub durability: Option<DurabilityWord>,
    pub placement: Option<PlacementWord>,
    pub unchanged: Option<UnchangedWord>,
    pub index_delay: Option<Span>,
    pub file_bytes: Option<Number>,
    pub files: Option<Number>,
    pub secrets: Option<Vec<String>>,
    pub committer: Option<String>,
    pub signing_key: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum DurabilityWord {
    Each,
    Batched,
    Off,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum PlacementWord {
    Branch,
    Shadow,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum UnchangedWord {
    Record,
    Skip,
}

impl FileCheckpoints {
    /// Lays what the file says over `options`. A path in it is relative to `base`.
    pub fn apply(self, base: &Path, options: &mut WorkspaceOptions) -> Result<(), ConfigError> {
        let wrong = |key: &str, why: String| ConfigError::Value {
            key: format!("checkpoints.{key}"),
            why,
        };
        match self.durability {
            None => {}
            Some(DurabilityWord::Each) => options.durability = Durability::Each,
            Some(DurabilityWord::Batched) => options.durability = Durability::Batched,
            Some(DurabilityWord::Off) => options.durability = Durability::Off,
        }
        match self.placement {
            None => {}
            Some(PlacementWord::Branch) => options.placement = Placement::Branch,
            Some(PlacementWord::Shadow) => options.placement = Placement::Shadow,
        }
        match self.unchanged {
            None => {}
            Some(UnchangedWord::Record) => options.unchanged = Unchanged::Record,
            Some(UnchangedWord::Skip) => options.unchanged = Unchanged::Skip,
        }
        if let Some(Span(delay)) = self.index_delay {
            options.index_delay = delay;
        }
        if let Some(Number(bytes)) = self.file_bytes {
            options.file_bytes = bytes;
        }
        if let Some(Number(files)) = self.files {
            options.files = usize::try_from(files).map_err(|_| wrong("files", "is too large".to_owned()))?;
        }
        if let Some(names) = self.secrets {
            options.secrets = SecretRules {
                // An empty list says that nothing is a secret.
                contents: !names.is_empty(),
                names,
            };
        }
        if let Some(text) = self.committer {
            let parts = text.strip_suffix('>').and_then(|rest| rest.split_once('<'));
            let person = parts.map(|(name, email)| (name.trim().to_owned(), email.trim().to_owned()));
            options.committer = person
                .filter(|(name, email)| !name.is_empty() && !email.is_empty())
                .ok_or_else(|| wrong("committer", format!("'{text}' is not 'Name <address>'")))?;
        }
        if let Some(path) = self.signing_key {
            sign_with(&base.join(path), options).map_err(|why| wrong("signing_key", why))?;
        }
        Ok(())
    }
}

/// Makes checkpoints signed by the private key in this file.
///
/// # Errors
/// Why it cannot be used.
#[cfg(feature = "ssh-signatures")]
pub fn sign_with(path: &Path, options: &mut WorkspaceOptions) -> Result<(), String> {
    match CommitSigner::from_file(path) {
        Ok(signer) => {
            options.signer = Some(std::sync::Arc::new(signer));
            Ok(())
        }
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

/// Makes checkpoints signed by the private key in this file.
///
/// # Errors
/// It was built without that.
#[cfg(not(feature = "ssh-signatures"))]
pub fn sign_with(_: &Path, _: &mut WorkspaceOptions) -> Result<(), String> {
    Err("this gitstead was built without signatures".to_owned())
}

/// `[letta_memfs]`: that the repositories are those of Letta's agents.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileMemfs {
    pub base: Option<PathBuf>,
    #[serde(default)]
    pub create: Creation,
    #[serde(default)]
    pub org_fallback: bool,
}

/// What makes an agent's repository.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Creation {
    /// Nothing but whoever runs the server.
    Never,
    /// The first push.
    #[default]
    OnPush,
    /// The first push or fetch of somebody who may push.
    OnAny,
}

/// `[agents]`: what holds agents in.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileAgents {
    pub cgroup: Option<String>,
    pub container_program: Option<String>,
    pub letta_cli: Option<PathBuf>,
    #[serde(default)]
    pub sandbox: SandboxMode,
    #[serde(default)]
    pub sandbox_read: Vec<PathBuf>,
    #[serde(default)]
    pub sandbox_write: Vec<PathBuf>,
    pub sandbox_user_namespaces: Option<bool>,
    pub sandbox_network: Option<bool>,
    pub sandbox_connect: Option<Vec<u16>>,
    pub sandbox_bind: Option<Vec<u16>>,
    pub answer_within: Option<Span>,
    #[serde(default)]
    pub permissions: Vec<PermissionRule>,
}

impl FileAgents {
    /// What all of them are allowed or denied.
    pub fn checked_permissions(&self) -> Result<Vec<PermissionRule>, ConfigError> {
        check_rules(&self.permissions).map_err(|why| ConfigError::Value {
            key: "agents.permissions".to_owned(),
            why,
        })?;
        Ok(self.permissions.clone())
    }

    /// Whether they get cgroups, and what they can reach.
    pub fn fences(self, base: &Path) -> Result<(CgroupChoice, SandboxSpec), ConfigError> {
        let cgroup = match self.cgroup.as_deref() {
            None | Some("auto") => CgroupChoice::Auto,
            Some("off") => CgroupChoice::Off,
            Some(dir) if dir.starts_with('/') => CgroupChoice::At(PathBuf::from(dir)),
            Some(_) => {
                return Err(ConfigError::Value {
                    key: "agents.cgroup".to_owned(),
                    why: "is \"auto\", \"off\", or the absolute path of a cgroup".to_owned(),
                });
            }
        };
        let whole = |paths: Vec<PathBuf>| paths.into_iter().map(|path| base.join(path)).collect();
        let sandbox = SandboxSpec {
            mode: self.sandbox,
            read: whole(self.sandbox_read),
            write: whole(self.sandbox_write),
            user_namespaces: self.sandbox_user_namespaces,
            network: self.sandbox_network,
            connect: self.sandbox_connect,
            bind: self.sandbox_bind,
        };
        Ok((cgroup, sandbox))
    }
}

/// `[audit]`: where questions and decisions are noted.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileAudit {
    pub file: Option<PathBuf>,
    pub texts: Option<bool>,
    pub bytes: Option<Number>,
    pub files: Option<usize>,
    pub flush: Option<AuditFlush>,
}

impl FileAudit {
    /// What the variable says that the service before this one had, then what this table says, then what `[ask]` does; else `usual`.
    pub fn rules(
        self,
        ask: Option<&FileAsk>,
        base: &Path,
        usual: PathBuf,
        env: impl Fn(&str) -> Option<String>,
    ) -> AuditRules {
        let mut rules = AuditRules::default();
        let told = env("AGENT_AUDIT_LOG")
            .filter(|path| !path.is_empty())
            .map(PathBuf::from);
        let told = told.or(self.file).or_else(|| ask?.audit.clone());
        rules.file = Some(told.map_or(usual, |path| base.join(path)));
        rules.texts = self
            .texts
            .or(ask.and_then(|ask| ask.audit_texts))
            .unwrap_or(rules.texts);
        rules.bytes = self.bytes.map_or(rules.bytes, |Number(bytes)| bytes);
        rules.files = self.files.unwrap_or(rules.files).min(1_000);
        rules.flush = self.flush.unwrap_or_default();
        rules
    }
}

/// `[ask]`: who answers the questions of `/agent/ask`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileAsk {
    pub workspace: Option<String>,
    pub preset: Option<String>,
    pub dialect: Option<String>,
    #[serde(default)]
    pub command: Vec<String>,
    pub model: Option<String>,
    pub permission_mode: Option<String>,
    pub approval_policy: Option<String>,
    pub auth_method: Option<String>,
    #[serde(default)]
    pub args: Vec<String>,
    #[serde(default)]
    pub partial: bool,
    pub letta: Option<LettaSpec>,
    #[serde(default)]
    pub secrets: std::collections::BTreeMap<String, PathBuf>,
    #[serde(default)]
    pub inherit: Vec<String>,
    #[serde(default)]
    pub permissions: Vec<PermissionRule>,
    pub rate_max: Option<Number>,
    pub address_max: Option<usize>,
    pub rate_window: Option<Span>,
    pub per_user: Option<Number>,
    pub total: Option<Number>,
    pub deadline: Option<Span>,
    pub idle: Option<Span>,
    pub audit: Option<PathBuf>,
    pub audit_texts: Option<bool>,
}

impl FileAsk {
    /// What the variables say that the service before this one had, then what the file says, then what is usual: Claude Code, in `ask/main`.
    pub fn rules(self, base: &Path, env: impl Fn(&str) -> Option<String>) -> Result<AskRules, ConfigError> {
        let wrong = |key: &str, why: String| ConfigError::Value {
            key: format!("ask.{key}"),
            why,
        };
        let workspace = self.workspace.unwrap_or_else(|| "ask".to_owned());
        let (repository, name) = workspace.rsplit_once('/').unwrap_or((&workspace, "main"));
        let place = Place::parse(repository, name).map_err(|error| wrong("workspace", error.to_string()))?;
        let mut spec = AgentSpec::new(&place, self.command);
        spec.preset = self.preset;
        spec.dialect = match self.dialect {
            Some(dialect) => dialect,
            None => "claude".to_owned(),
        };
        (spec.model, spec.permission_mode) = (self.model, self.permission_mode);
        (spec.approval_policy, spec.args, spec.partial) = (self.approval_policy, self.args, self.partial);
        (spec.letta, spec.auth_method) = (self.letta, self.auth_method);
        spec.secrets = self
            .secrets
            .into_iter()
            .map(|(key, path)| (key, base.join(path)))
            .collect();
        spec.inherit = self.inherit;
        spec.permissions = self.permissions;
        spec.task = Some("Questions and answers".to_owned());
        spec.check().map_err(|error| wrong("command", error.to_string()))?;
        let mut rules = AskRules {
            spec: Some(spec),
            address_max: self.address_max.unwrap_or_default(),
            ..AskRules::default()
        };
        let number = |key: &str, told: Option<Number>, slot: &mut usize| match told {
            None => Ok(()),
            Some(Number(0)) => Err(wrong(key, "must be at least 1".to_owned())),
            Some(Number(told)) => {
                *slot = usize::try_from(told).map_err(|_| wrong(key, "is too large".to_owned()))?;
                Ok(())
            }
        };
        let told_by_env = |name: &str| match env(name).filter(|told| !told.is_empty()) {
            None => Ok(None),
            Some(told) => told.parse::<u64>().map(Some).map_err(|_| ConfigError::Value {
                key: name.to_owned(),
                why: "is no number".to_owned(),
            }),
        };
        let rate_max = told_by_env("AGENT_RATE_MAX")?.map(Number);
        let per_user = told_by_env("AGENT_CONCURRENCY_PER_USER")?.map(Number);
        let rate_window = told_by_env("AGENT_RATE_WINDOW_S")?.map(|seconds| Span(Duration::from_secs(seconds)));
        number("rate_max", rate_max.or(self.rate_max), &mut rules.rate_max)?;
        number("per_user", per_user.or(self.per_user), &mut rules.per_user)?;
        number("total", self.total, &mut rules.total)?;
        for (told, slot) in [
            (rate_window.or(self.rate_window), &mut rules.rate_window),
            (self.deadline, &mut rules.deadline),
            (self.idle, &mut rules.idle),
        ] {
            if let Some(Span(told)) = told {
                *slot = told;
            }
        }
        Ok(rules)
    }
}

fn everywhere() -> Vec<Pattern> {
    Pattern::parse("**").into_iter().collect()
}

fn reading() -> Access {
    Access::Read
}

impl FileConfig {
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Io {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text, path)
    }

    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        toml::from_str(text).map_err(|error| ConfigError::File {
            path: path.to_owned(),
            message: error.to_string().trim_end().to_owned(),
        })
    }
}

fn text<'de, D: Deserializer<'de>, T: FromStr<Err: fmt::Display>>(from: D) -> Result<T, D::Error> {
    String::deserialize(from)?.parse().map_err(de::Error::custom)
}

fn texts<'de, D: Deserializer<'de>, T: FromStr<Err: fmt::Display>>(from: D) -> Result<Vec<T>, D::Error> {
    let all = Vec::<String>::deserialize(from)?;
    all.iter().map(|text| text.parse().map_err(de::Error::custom)).collect()
}

/// A number: `1024`, or a text with git's units, `"64m"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Number(u64);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Number;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number, or a text such as \"64m\" with the unit k, m or g")
            }
            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Number, E> {
                u64::try_from(number)
                    .map(Number)
                    .map_err(|_| E::custom("must not be negative"))
            }
            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Number, E> {
                Ok(Number(number))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Number, E> {
                size(text)
                    .map(Number)
                    .ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }
        from.deserialize_any(Visitor)
    }
}

/// A number of bytes: `64m`, with the unit k, m, g, or none.
pub(crate) fn size(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match text.get(digits.len()..)?.to_ascii_lowercase().as_str() {
        "" => 1u64,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        _ => return None,
    };
    digits.trim_end().parse::<u64>().ok()?.checked_mul(factor)
}

/// A span of time: `"30s"`, `"500ms"`, `"5m"`, `"1h"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span(pub Duration);

impl FromStr for Span {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("'{text}' is not a time such as \"30s\": use ms, s, m or h");
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let number: u64 = digits.trim_end().parse().map_err(|_| wrong())?;
        let seconds = |factor: u64| number.checked_mul(factor).map(Duration::from_secs);
        match text.get(digits.len()..) {
            Some("ms") => Some(Duration::from_millis(number)),
            Some("s") => seconds(1),
            Some("m" | "min") => seconds(60),
            Some("h") => seconds(3600),
            _ => None,
        }
        // A year is as good as for ever, and far from what a timer can hold.
        .filter(|span| *span <= Duration::from_secs(366 * 86_400))
        .map(Span)
        .ok_or_else(wrong)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        text(from)
    }
}

/// `[limits]` from one list of names. [`Limits`] is taken apart whole, so that a limit without a key does not compile.
macro_rules! limits {
    (numbers: $($number:ident)*; spans: $($span:ident)*; may_be_zero: $($zero:ident)*) => {
        #[derive(Debug, Default, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub(super) struct FileLimits {
            $($number: Option<Number>,)*
            $($span: Option<Span>,)*
        }

        impl FileLimits {
            /// Lays what the file says over `limits`.
            pub fn apply(&self, limits: &mut Limits) -> Result<(), ConfigError> {
                let Limits { $($number,)* $($span,)* } = limits;
                let may_be_zero: &[&str] = &[$(stringify!($zero),)*];
                let wrong = |key: &str, why: &str| ConfigError::Value { key: format!("limits.{key}"), why: why.to_owned() };
                $(if let Some(Number(told)) = self.$number {
                    let key = stringify!($number);
                    if told == 0 && !may_be_zero.contains(&key) {
                        return Err(wrong(key, "must be at least 1"));
                    }
                    *$number = told.try_into().map_err(|_| wrong(key, "is too large"))?;
                })*
                $(if let Some(Span(told)) = self.$span {
                    let key = stringify!($span);
                    if told.is_zero() && !may_be_zero.contains(&key) {
                        return Err(wrong(key, "must be longer than nothing"));
                    }
                    *$span = told;
                })*
                Ok(())
            }
        }
    };
}

limits! {
    numbers: upload_request_bytes wants haves shallows ref_prefixes options command_bytes commands pack_bytes pack_objects object_bytes
        delta_depth delta_base_cache_bytes answer_cache_bytes content_cache_bytes encoded_cache_bytes ingest_bytes tree_depth object_infos inflate_ratio threads_per_request connections long_workers
        short_workers queued per_repository min_pace open_repositories open_workspaces
        agent_line_bytes agent_text_bytes agent_calls agent_pending agent_file_bytes agent_terminals agent_terminal_bytes agent_output_file_bytes agent_output_files
        agents agents_running agents_per_user;
    spans: workspace_wait queue_wait header_timeout read_idle write_idle drain workspace_idle agent_drain agent_keep agent_output_age;
    may_be_zero: queued workspace_wait queue_wait drain agent_drain agent_keep agent_output_age options delta_base_cache_bytes answer_cache_bytes content_cache_bytes encoded_cache_bytes
}
