use std::{
    net::{SocketAddr, ToSocketAddrs as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use bstr::{BString, ByteSlice as _};

use super::file::{Creation, FileConfig, TokenEntry};
use crate::{
    base::{Grant, Limits, Rules, TokenRule},
    depot::{CreateOptions, DepotOptions, Layout},
    repo::{ContentCache, EncodedCache, OpenOptions},
    session::{AskRules, AuditRules, CgroupChoice, PermissionRule, SandboxSpec},
    workspace::WorkspaceOptions,
};

/// Everything `gitstead serve` was told, checked: what flags say wins over the environment, the environment over `gitstead.toml`, and that over the
/// defaults.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Config {
    /// The data directory.
    pub data: PathBuf,
    /// The directory of repositories.
    pub repos: PathBuf,
    /// The address to listen on, as given: `127.0.0.1:8080`.
    pub listen: String,
    /// The path before repository names: empty, or with a slash at its beginning and none at its end.
    pub url_prefix: String,
    /// Whether only repositories with `git-daemon-export-ok` are served.
    pub require_export_ok: bool,
    /// git's namespace, as `GIT_NAMESPACE` holds it (`a/b`).
    pub namespace: Option<BString>,
    /// Whether a push to a name that does not exist makes the repository.
    pub create_on_push: bool,
    /// Whether repositories are compacted in the background when they want to be.
    pub maintenance: bool,
    /// The branch HEAD of a new repository names.
    pub default_branch: String,
    /// The object format of a new repository.
    pub object_format: gix::hash::Kind,
    /// The header in which a proxy on loopback names the user.
    pub trusted_user_header: Option<String>,
    /// The cookie that may hold a token in place of a header.
    pub token_cookie: Option<String>,
    /// Public names of this server, which may stand in `Host` when nothing is configured for authentication.
    pub hosts: Vec<String>,
    /// Whether the repositories are those of Letta's agents, and which organization an agent may be in.
    pub layout: Layout,
    /// Whether a fetch of what does not exist makes it, too.
    pub create_on_fetch: bool,
    /// Who may do what.
    pub rules: Rules,
    /// Bounds.
    pub limits: Limits,
    /// How the workspaces of this server are opened and their checkpoints made; see [`Config::workspace_options`].
    pub checkpoints: WorkspaceOptions,
    /// Whether agents get cgroups.
    pub cgroups: CgroupChoice,
    /// What agents can reach of the files.
    pub sandbox: SandboxSpec,
    /// How long questions of agents for permission wait for an answer before they are denied; zero for ever.
    pub answer_within: std::time::Duration,
    /// What all agents are allowed or denied without asking anybody.
    pub permissions: Vec<PermissionRule>,
    /// Where questions and decisions are noted.
    pub audit: AuditRules,
    /// The program that starts agents in containers.
    pub container_program: Option<String>,
    /// Where Letta Code is, if not where one would look for it.
    pub letta_cli: Option<PathBuf>,
    /// Who answers questions, and how many; nobody without `[ask]`.
    pub ask: Option<AskRules>,
    /// git configuration for all repositories: lower-case section and name, value.
    pub defaults: Vec<(String, String)>,
    /// The filter of the log, in `tracing`'s language.
    pub log: String,
}

/// What flags and environment say. `None` says nothing.
#[derive(Debug, Clone, Default)]
#[allow(missing_docs, reason = "each field is the one of `Config` with its name")]
pub struct Overrides {
    pub data: Option<PathBuf>,
    pub repos: Option<PathBuf>,
    pub listen: Option<String>,
    pub url_prefix: Option<String>,
    pub require_export_ok: Option<bool>,
    pub namespace: Option<String>,
    pub create_on_push: Option<bool>,
    pub maintenance: Option<bool>,
    pub anonymous_read: Option<bool>,
    pub trusted_user_header: Option<String>,
    pub insecure_open: bool,
    pub log: Option<String>,
    /// `--letta-memfs`, perhaps with a directory.
    pub letta_memfs: Option<Option<PathBuf>>,
    /// `--config`.
    pub config: Option<PathBuf>,
}

/// Why the house cannot be set up as told.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("read {path}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not TOML, or a key or a value in it is not known.
    #[error("{path}: {message}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong and where, of several lines.
        message: String,
    },
    /// A value that cannot be used, wherever it came from.
    #[error("{key}: {why}")]
    Value {
        /// The key as in `gitstead.toml`.
        key: String,
        /// What is wrong with it.
        why: String,
    },
    /// Nobody said where data should be, and there is no home directory.
    #[error(
        "there is no home directory to keep data in; say where with --data DIR, and with --letta-memfs BASE where Letta keeps its own"
    )]
    NoHome,
    /// An open server on an address others can reach.
    #[error(
        "refusing to listen on {listen} without authentication: others can reach that address. Add a token \
         (`gitstead token new` prints one and what to add to gitstead.toml), name the header of your proxy with \
         --trusted-user-header, or say --insecure-open to let everyone who can reach it fetch and push"
    )]
    Open {
        /// The address.
        listen: String,
    },
}

fn value(key: impl Into<String>, why: impl Into<String>) -> ConfigError {
    ConfigError::Value {
        key: key.into(),
        why: why.into(),
    }
}

/// How long a question for permission waits, when nobody says otherwise.
const ANSWER_WITHIN: std::time::Duration = std::time::Duration::from_secs(600);

/// The directory data goes to when nobody says another: `$XDG_DATA_HOME/gitstead`, else `~/.local/share/gitstead`.
pub fn default_data_dir(env: impl Fn(&str) -> Option<std::ffi::OsString>) -> Option<PathBuf> {
    let absolute = |name| env(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_DATA_HOME")
        .map(|dir| dir.join("gitstead"))
        .or_else(|| absolute("HOME").map(|home| home.join(".local/share/gitstead")))
}

/// Where the server listens that nobody told, and where the sidecar did that Letta knows.
const LISTEN: &str = "127.0.0.1:8080";
const LETTA_LISTEN: &str = "127.0.0.1:8285";

/// Where Letta keeps the memories of its agents: `~/.letta/memfs/repository`.
fn letta_base(env: impl Fn(&str) -> Option<std::ffi::OsString>) -> Option<PathBuf> {
    let home = env("HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    home.map(|home| home.join(".letta/memfs/repository"))
}

impl Config {
    /// Reads `--config`, or `gitstead.toml` in the data directory if there is one, and lays `overrides` over it.
    pub fn load(overrides: &Overrides) -> Result<Self, ConfigError> {
        let fallback = overrides
            .data
            .clone()
            .or_else(|| default_data_dir(|name| std::env::var_os(name)));
        let in_data = || {
            let path = fallback.as_ref()?.join("gitstead.toml");
            path.exists().then_some(path)
        };
        let path = overrides.config.clone().or_else(in_data);
        let file = match &path {
            Some(path) => FileConfig::read(path)?,
            None => FileConfig::default(),
        };
        // Paths in the file are relative to the file.
        let base = path.as_deref().and_then(Path::parent).unwrap_or(Path::new(""));
        Self::build(file, base, overrides, fallback)
    }

    /// [`Config::load`] for a text in place of a file.
    pub fn from_toml(text: &str, path: &Path, overrides: &Overrides) -> Result<Self, ConfigError> {
        let base = path.parent().unwrap_or(Path::new(""));
        Self::build(FileConfig::parse(text, path)?, base, overrides, overrides.data.clone())
    }

    fn build(file: FileConfig, base: &Path, over: &Overrides, fallback: Option<PathBuf>) -> Result<Self, ConfigError> {
        let data = over
            .data
            .clone()
            .or_else(|| file.data.map(|path| base.join(path)))
            .or(fallback);
        let repos = over.repos.clone().or_else(|| file.repos.map(|path| base.join(path)));
        let memfs = match (&over.letta_memfs, file.letta_memfs) {
            (None, told) => told,
            (Some(_), told) => Some(told.unwrap_or_default()),
        };
        let repos = match &memfs {
            None => repos,
            Some(told) => {
                let flag = over
                    .letta_memfs
                    .clone()
                    .flatten()
                    .filter(|path| !path.as_os_str().is_empty());
                let told = flag.or_else(|| told.base.as_ref().map(|path| base.join(path)));
                let usual = || letta_base(|name| std::env::var_os(name));
                Some(told.or(repos).or_else(usual).ok_or(ConfigError::NoHome)?)
            }
        };
        let (data, repos) = match (data, repos) {
            (Some(data), Some(repos)) => (data, repos),
            (Some(data), None) => (data.clone(), data.join("repos")),
            // Enough to serve a directory that is there; nothing else needs the data directory yet.
            (None, Some(repos)) => (repos.clone(), repos),
            (None, None) => return Err(ConfigError::NoHome),
        };
        let tokens = tokens(file.tokens)?;
        let header = over.trusted_user_header.clone().or(file.trusted_user_header);
        if let Some(header) = &header {
            check_header(header)?;
        }
        let rules = Rules {
            tokens,
            trusted_header: header.is_some(),
            anonymous_read: over.anonymous_read.or(file.anonymous_read).unwrap_or(false),
            insecure_open: over.insecure_open,
        };
        let creation = memfs.as_ref().map(|told| told.create);
        let layout = match &memfs {
            None => Layout::Names,
            Some(told) if told.org_fallback && !rules.tokens.is_empty() => {
                let why = "finds an agent in whichever organization has it, so it cannot be kept from any token; do without one of them";
                return Err(value("letta_memfs.org_fallback", why));
            }
            Some(told) => Layout::LettaMemfs {
                org_fallback: told.org_fallback,
            },
        };
        let mut limits = Limits::default();
        file.limits.apply(&mut limits)?;
        let mut checkpoints = WorkspaceOptions {
            threads: limits.threads_per_request,
            ..WorkspaceOptions::default()
        };
        file.checkpoints.apply(base, &mut checkpoints)?;
        let answer_within = file.agents.answer_within.as_ref().map_or(ANSWER_WITHIN, |span| span.0);
        let container_program = file.agents.container_program.clone();
        let letta_cli = file.agents.letta_cli.as_ref().map(|path| base.join(path));
        let permissions = file.agents.checked_permissions()?;
        let (cgroups, sandbox) = file.agents.fences(base)?;
        let audit = file
            .audit
            .rules(file.ask.as_ref(), base, data.join("audit.jsonl"), |name| {
                std::env::var(name).ok()
            });
        let ask = file
            .ask
            .map(|ask| ask.rules(base, |name| std::env::var(name).ok()))
            .transpose()?;
        let namespace = over
            .namespace
            .clone()
            .or(file.namespace)
            .filter(|text| !text.is_empty());
        let default_branch = file.default_branch.unwrap_or_else(|| "main".to_owned());
        check_ref("default_branch", &format!("refs/heads/{default_branch}"))?;
        Ok(Config {
            data,
            repos,
            listen: over
                .listen
                .clone()
                .or(file.listen)
                .unwrap_or_else(|| if memfs.is_some() { LETTA_LISTEN } else { LISTEN }.to_owned()),
            url_prefix: url_prefix(over.url_prefix.as_deref().or(file.url_prefix.as_deref()))?,
            require_export_ok: over.require_export_ok.or(file.require_export_ok).unwrap_or(false),
            namespace: namespace.map(checked_namespace).transpose()?,
            create_on_push: over
                .create_on_push
                .or(creation.map(|creation| creation != Creation::Never))
                .or(file.create_on_push)
                .unwrap_or(true),
            create_on_fetch: creation == Some(Creation::OnAny) && over.create_on_push != Some(false),
            layout,
            maintenance: over.maintenance.or(file.maintenance).unwrap_or(true),
            default_branch,
            object_format: object_format(file.object_format.as_deref())?,
            trusted_user_header: header,
            token_cookie: file.token_cookie.map(checked_cookie).transpose()?,
            hosts: file.hosts,
            rules,
            limits,
            checkpoints,
            cgroups,
            sandbox,
            answer_within,
            permissions,
            audit,
            container_program,
            letta_cli,
            ask,
            defaults: defaults(layout, &file.defaults)?,
            log: over.log.clone().or(file.log).unwrap_or_else(|| "info".to_owned()),
        })
    }

    /// What a new repository is like when nobody says otherwise.
    pub fn create_options(&self) -> CreateOptions {
        CreateOptions {
            object_format: self.object_format,
            default_branch: self.default_branch.clone(),
            description: None,
            export_ok: self.require_export_ok,
        }
    }

    /// How the server opens repositories.
    pub fn depot_options(&self) -> DepotOptions {
        DepotOptions {
            open: OpenOptions {
                defaults: self.defaults.clone(),
                limits: self.limits.clone(),
                contents: Arc::new(ContentCache::new(self.limits.content_cache_bytes)),
                encoded: Arc::new(EncodedCache::new(self.limits.encoded_cache_bytes)),
                ..OpenOptions::default()
            },
            require_export_ok: self.require_export_ok,
            layout: self.layout,
            work: Some(self.data.join("work")),
        }
    }

    /// How the server opens workspaces.
    pub fn workspace_options(&self) -> WorkspaceOptions {
        WorkspaceOptions {
            open: self.depot_options().open,
            compact: self.maintenance,
            ..self.checkpoints.clone()
        }
    }

    /// How the command line opens them: what is not exported is there for the operator all the same.
    pub fn depot_options_for_operator(&self) -> DepotOptions {
        DepotOptions {
            require_export_ok: false,
            ..self.depot_options()
        }
    }

    /// The socket address to listen on. Refuses one that is not loopback when nothing is configured that tells friend from stranger.
    pub fn address(&self) -> Result<SocketAddr, ConfigError> {
        let wrong = |why: String| value("listen", format!("'{}' {why}", self.listen));
        let all: Vec<_> = self
            .listen
            .to_socket_addrs()
            .map_err(|error| wrong(format!("is not an address such as 127.0.0.1:8080: {error}")))?
            .collect();
        let first = *all.first().ok_or_else(|| wrong("has no address".to_owned()))?;
        let open = !self.rules.authentication_configured() && !self.rules.insecure_open;
        if open && !first.ip().to_canonical().is_loopback() {
            return Err(ConfigError::Open {
                listen: self.listen.clone(),
            });
        }
        Ok(first)
    }
}

fn tokens(entries: Vec<TokenEntry>) -> Result<Vec<TokenRule>, ConfigError> {
    let mut rules: Vec<TokenRule> = Vec::with_capacity(entries.len());
    for entry in entries {
        let name = &entry.name;
        if name.is_empty() || name.len() > 100 || name.chars().any(|c| c.is_control() || matches!(c, '<' | '>')) {
            return Err(value(
                "tokens.name",
                format!("'{}' is not a name for a token", name.escape_debug()),
            ));
        }
        if rules.iter().any(|rule| rule.id == *name) {
            return Err(value("tokens.name", format!("there are two tokens named '{name}'")));
        }
        if let Some(twin) = rules.iter().find(|rule| rule.hash.same(&entry.hash)) {
            return Err(value(
                "tokens.hash",
                format!("'{name}' and '{}' are the same token", twin.id),
            ));
        }
        let access = entry.access;
        let grants = entry.repos.into_iter().map(|pattern| Grant { pattern, access });
        rules.push(TokenRule {
            id: entry.name,
            hash: entry.hash,
            grants: grants.collect(),
        });
    }
    Ok(rules)
}

fn check_header(name: &str) -> Result<(), ConfigError> {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    let reserved = ["authorization", "host", "cookie", "origin", "forwarded"];
    if name.is_empty() || !name.bytes().all(token) || reserved.contains(&name.to_ascii_lowercase().as_str()) {
        return Err(value(
            "trusted_user_header",
            format!("'{name}' is not the name of a header for users"),
        ));
    }
    Ok(())
}

fn checked_cookie(name: String) -> Result<String, ConfigError> {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    match name.is_empty() || name.len() > 256 || !name.bytes().all(token) {
        true => Err(value(
            "token_cookie",
            format!("'{}' is not the name of a cookie", name.escape_debug()),
        )),
        false => Ok(name),
    }
}

fn url_prefix(text: Option<&str>) -> Result<String, ConfigError> {
    let text = text.unwrap_or("/repos").trim_end_matches('/');
    if text.is_empty() {
        return Ok(String::new());
    }
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    let rest = text.strip_prefix('/').unwrap_or(text);
    let sound = rest
        .split('/')
        .all(|s| !s.is_empty() && s != "." && s != ".." && s.bytes().all(plain));
    let ours = ["api", "healthz", "metrics", "readyz"];
    if sound && ours.iter().any(|taken| rest.split('/').next() == Some(taken)) {
        Err(value(
            "url_prefix",
            format!("'/{rest}' is where Gitstead's own pages are"),
        ))
    } else if sound {
        Ok(format!("/{rest}"))
    } else {
        Err(value("url_prefix", format!("'{text}' is not a path such as /repos")))
    }
}

fn check_ref(key: &str, name: &str) -> Result<(), ConfigError> {
    gix::validate::reference::name(name.as_bytes().as_bstr())
        .map(|_| ())
        .map_err(|_| value(key, format!("'{name}' is not a valid ref name")))
}

fn checked_namespace(text: String) -> Result<BString, ConfigError> {
    let sound = text
        .split('/')
        .all(|part| check_ref("namespace", &format!("refs/namespaces/{part}")).is_ok());
    if sound {
        Ok(text.into())
    } else {
        Err(value(
            "namespace",
            format!("'{text}' is not a namespace: segments of a ref name"),
        ))
    }
}

fn object_format(text: Option<&str>) -> Result<gix::hash::Kind, ConfigError> {
    match text {
        None | Some("sha1") => Ok(gix::hash::Kind::Sha1),
        Some("sha256") => Ok(gix::hash::Kind::Sha256),
        Some(other) => Err(value(
            "object_format",
            format!("'{other}' is neither 'sha1' nor 'sha256'"),
        )),
    }
}

/// `[defaults]` as git configuration. Both `"uploadpack.allowFilter" = true` and tables in tables are read; lists are keys with several values.
fn defaults(layout: Layout, table: &toml::Table) -> Result<Vec<(String, String)>, ConfigError> {
    let mut all = Vec::new();
    if layout != Layout::Names {
        // Agents' memories were lost to forced pushes. What the operator says comes after this, and counts.
        for key in ["gitstead.keepreplaced", "core.logallrefupdates"] {
            all.push((key.to_owned(), "true".to_owned()));
        }
    }
    flatten("", table, &mut all)?;
    let options = OpenOptions {
        defaults: all,
        ..OpenOptions::default()
    };
    options.check().map_err(|bad| value("defaults", bad.to_string()))?;
    Ok(options.defaults)
}

fn flatten(above: &str, table: &toml::Table, out: &mut Vec<(String, String)>) -> Result<(), ConfigError> {
    for (name, item) in table {
        let key = if above.is_empty() {
            name.clone()
        } else {
            format!("{above}.{name}")
        };
        if let toml::Value::Table(inner) = item {
            flatten(&key, inner, out)?;
            continue;
        }
        let git_key =
            git_key(&key).ok_or_else(|| value(format!("defaults.{key}"), "is not a git configuration key"))?;
        let items = match item {
            toml::Value::Array(items) => items.as_slice(),
            one => std::slice::from_ref(one),
        };
        for item in items {
            let text = match item {
                toml::Value::String(text) => text.clone(),
                toml::Value::Integer(number) => number.to_string(),
                toml::Value::Boolean(truth) => truth.to_string(),
                _ => {
                    return Err(value(
                        format!("defaults.{key}"),
                        "must be text, a number, a truth value or a list of these",
                    ));
                }
            };
            out.push((git_key.clone(), text));
        }
    }
    Ok(())
}

/// `section.name` or `section.subsection.name`, with section and name in lower case.
fn git_key(key: &str) -> Option<String> {
    let (section, rest) = key.split_once('.')?;
    let (subsection, name) = match rest.rsplit_once('.') {
        Some((subsection, name)) => (Some(subsection), name),
        None => (None, rest),
    };
    let word = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if !word(section) || !word(name) || key.chars().any(char::is_control) {
        return None;
    }
    let (section, name) = (section.to_ascii_lowercase(), name.to_ascii_lowercase());
    Some(match subsection {
        Some(subsection) => format!("{section}.{subsection}.{name}"),
        None => format!("{section}.{name}"),
    })
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
