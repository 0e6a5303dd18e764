//! The environment of an agent: what is on the list, what was asked for, what is secret, and what tells it where it is.

use std::{collections::BTreeMap, ffi::OsString, fs, io::Read as _, path::Path};

use super::AgentSpec;
use crate::agent::Redactor;

/// What every agent gets of Gitstead's own environment.
const USUAL: [&str; 21] = [
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "LANGUAGE",
    "TZ",
    "TMPDIR",
    "TERM",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "NODE_EXTRA_CA_CERTS",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "XDG_CONFIG_HOME",
    "XDG_RUNTIME_DIR",
];
/// Directories and files of ours, by which agents are told where theirs are: in a container there are none of these.
const OURS: [&str; 4] = [
    "CLAUDE_CONFIG_DIR",
    "CODEX_HOME",
    "OPENCODE_CONFIG",
    "OPENCODE_CONFIG_DIR",
];
/// Where programs are when nobody says otherwise.
pub(super) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Bytes of a secret.
const SECRET_BYTES: u64 = 64 << 10;

/// The value that a variable will have which is no secret, unless it has none.
pub(super) fn value(spec: &AgentSpec, name: &str, own: impl Fn(&str) -> Option<OsString>) -> Option<OsString> {
    if let Some(told) = spec.env.get(name) {
        return Some(told.into());
    }
    let preset = spec.known();
    let passed = preset.map_or(&[][..], |preset| preset.passes());
    let is_passed = USUAL.contains(&name) || passed.contains(&name) || spec.inherit.iter().any(|one| one == name);
    own(name).filter(|value| is_passed && !value.is_empty())
}

/// Whether a variable holds a key or a password that can be looked for: what is too short cannot.
pub(super) fn is_secret(name: &str, value: &str) -> bool {
    value.len() >= Redactor::SHORTEST && is_called_secret(name, value)
}

/// Whether a variable holds a key or a password, to judge by its name; the name of a file is none.
pub(super) fn is_called_secret(name: &str, value: &str) -> bool {
    const WORDS: [&str; 11] = [
        "KEY",
        "KEYS",
        "APIKEY",
        "TOKEN",
        "TOKENS",
        "SECRET",
        "SECRETS",
        "PASSWORD",
        "PASSWD",
        "PASSPHRASE",
        "CREDENTIALS",
    ];
    let says_so = name
        .split('_')
        .any(|word| WORDS.iter().any(|secret| word.eq_ignore_ascii_case(secret)));
    // A key may begin with a slash as well.
    let names_a_file = ["CREDENTIALS", "FILE", "PATH", "DIR"]
        .iter()
        .any(|word| name.to_ascii_uppercase().ends_with(word));
    says_so && !value.is_empty() && !(names_a_file && value.starts_with('/'))
}

/// The value of a secret. Blocks.
fn secret(name: &str, path: &Path) -> Result<String, String> {
    let read = fs::File::open(path).and_then(|file| {
        let mut text = String::new();
        file.take(SECRET_BYTES).read_to_string(&mut text)?;
        Ok(text)
    });
    let text = read.map_err(|error| format!("the secret {name} cannot be read: {error}"))?;
    let value = text.strip_suffix('\n').unwrap_or(&text);
    let value = value.strip_suffix('\r').unwrap_or(value);
    match value.contains('\0') {
        true => Err(format!("the secret {name} has a NUL in it")),
        false => Ok(value.to_owned()),
    }
}

/// What an agent that is a server wants to hear from whoever asks it something.
pub(super) struct Login(String);

impl Login {
    const USER: &str = "opencode";

    /// A new one, that nobody can guess.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn new() -> Result<Self, String> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).map_err(|error| format!("the system has no randomness: {error}"))?;
        Ok(Login(bytes.iter().map(|byte| format!("{byte:02x}")).collect()))
    }

    pub fn password(&self) -> &str {
        &self.0
    }

    /// The variables by which it is told.
    pub fn variables(&self) -> [(&'static str, String); 2] {
        [
            ("OPENCODE_SERVER_USERNAME", Self::USER.to_owned()),
            ("OPENCODE_SERVER_PASSWORD", self.0.clone()),
        ]
    }

    /// The header that it wants to see.
    pub fn authorization(&self) -> String {
        use base64::Engine as _;
        let both = format!("{}:{}", Self::USER, self.0);
        format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(both))
    }
}

/// What keeps an agent's secrets from being shown, as they are now. Blocks.
pub(super) fn redactor(spec: &AgentSpec) -> Option<Redactor> {
    let read = spec.secrets.iter().filter_map(|(name, path)| secret(name, path).ok());
    let mut values: Vec<String> = read.collect();
    let preset = spec.known();
    let passed = preset.map_or(&[][..], |preset| preset.passes()).iter().copied();
    for name in passed.chain(spec.inherit.iter().map(String::as_str)) {
        let value = value(spec, name, |name| std::env::var_os(name));
        let value = value.and_then(|value| value.into_string().ok());
        values.extend(value.filter(|value| is_secret(name, value)));
    }
    Redactor::new(values.iter().map(String::as_str))
}

/// Puts an environment together: what is on the list, what was asked for, secrets, what is always so with the agent that it is, `fixed`; what comes later wins. Reads the files of secrets.
///
/// # Errors
/// When a secret cannot be read; its content is in no text.
pub(super) fn build(
    spec: &AgentSpec,
    fixed: &[(&str, String)],
    own: impl Fn(&str) -> Option<OsString>,
    all: impl Iterator<Item = (OsString, OsString)>,
) -> Result<Vec<(String, String)>, String> {
    let mut env = BTreeMap::new();
    let preset = spec.known();
    let passed = preset.map_or(&[][..], |preset| preset.passes());
    // Where programs and home directories are is for a container itself to say.
    let inside = spec.container.is_some();
    let usual = if inside { &[][..] } else { &USUAL[..] };
    for name in usual
        .iter()
        .chain(passed.iter().filter(|name| !inside || !OURS.contains(*name)))
        .copied()
        .chain(spec.inherit.iter().map(String::as_str))
    {
        if let Some(value) = own(name).and_then(|value| value.into_string().ok())
            && !value.is_empty()
        {
            env.insert(name.to_owned(), value);
        }
    }
    for (name, value) in all {
        if let (Ok(name), Ok(value)) = (name.into_string(), value.into_string())
            && name.starts_with("LC_")
            && !inside
        {
            env.insert(name, value);
        }
    }
    if !inside {
        env.entry("PATH".to_owned()).or_insert_with(|| PATH.to_owned());
    }
    if let Some(container) = &spec.container {
        let who = container.identity().into_iter();
        env.extend(who.map(|(name, value)| (name.to_owned(), value)));
    }
    env.extend(spec.env.clone());
    for (name, path) in &spec.secrets {
        env.insert(name.clone(), secret(name, path)?);
    }
    if let Some(preset) = preset {
        for (name, value) in preset.fixed() {
            env.insert((*name).to_owned(), (*value).to_owned());
        }
        for name in preset.drops() {
            env.remove(*name);
        }
    }
    for (name, value) in fixed {
        env.insert((*name).to_owned(), value.clone());
    }
    Ok(env.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::Place;

    #[test]
    fn what_is_called_a_key_is_one() {
        let key = "sk-0123456789";
        for name in [
            "ANTHROPIC_API_KEY",
            "GH_TOKEN",
            "db_password",
            "X_APIKEY",
            "AWS_SECRET_ACCESS_KEY",
        ] {
            assert!(is_secret(name, key), "{name}");
        }
        assert!(is_secret("AWS_SECRET_ACCESS_KEY", "/0123456789abcdef"));
        for (name, value) in [
            ("TOKENIZERS_PARALLELISM", key),
            ("KEYBOARD", key),
            ("SSH_AUTH_SOCK", key),
            ("MOCK_KEY", "mock"),
            ("GOOGLE_APPLICATION_CREDENTIALS", "/home/me/key.json"),
            ("API_KEY_FILE", "/home/me/key"),
        ] {
            assert!(!is_secret(name, value), "{name}");
        }
    }

    #[test]
    fn only_what_is_on_the_list_is_handed_on_and_fixed_values_win() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("key");
        fs::write(&file, "s3cret\n").expect("written");
        let place = Place::parse("demo", "main").expect("names");
        let mut spec = AgentSpec::new(&place, vec!["sh".to_owned()]);
        spec.env.insert("COLOR".to_owned(), "blue".to_owned());
        spec.env.insert("HOME".to_owned(), "/theirs".to_owned());
        spec.secrets.insert("KEY".to_owned(), file.clone());
        spec.inherit.push("EXTRA".to_owned());
        let own = |name: &str| match name {
            "HOME" => Some("/ours".into()),
            "EXTRA" => Some("1".into()),
            "AWS_SECRET_ACCESS_KEY" => Some("no".into()),
            "PATH" => Some("".into()),
            _ => None,
        };
        let all = [("LC_ALL", "C"), ("OTHER", "no")].map(|(k, v)| (k.into(), v.into()));
        let fixed = [("GITSTEAD_AGENT", "a".to_owned()), ("COLOR", "red".to_owned())];
        let env = build(&spec, &fixed, own, all.into_iter()).expect("built");
        let env: Vec<_> = env.iter().map(|(k, v)| format!("{k}={v}")).collect();
        let path = format!("PATH={PATH}");
        assert_eq!(
            env,
            [
                "COLOR=red",
                "EXTRA=1",
                "GITSTEAD_AGENT=a",
                "HOME=/theirs",
                "KEY=s3cret",
                "LC_ALL=C",
                &path
            ]
        );
        fs::remove_file(&file).expect("removed");
        let error = build(&spec, &[], own, std::iter::empty()).expect_err("it is gone");
        assert!(error.contains("KEY") && !error.contains("s3cret"), "{error}");
    }

    #[test]
    fn what_is_always_so_with_an_agent_wins_also_where_its_command_was_given() {
        let place = Place::parse("demo", "main").expect("names");
        let mut spec = AgentSpec::new(&place, vec!["my-claude".to_owned()]);
        spec.inherit.push("CLAUDE_CODE_ENTRYPOINT".to_owned());
        spec.env.insert("MCP_PLAYWRIGHT_ISOLATED".to_owned(), "0".to_owned());
        spec.env.insert("CLAUDECODE".to_owned(), "1".to_owned());
        let own = |name: &str| match name {
            "CLAUDE_CODE_ENTRYPOINT" => Some("cli".into()),
            "ANTHROPIC_API_KEY" => Some("k".into()),
            "OPENAI_API_KEY" => Some("o".into()),
            _ => None,
        };
        let built = |spec: &AgentSpec| -> BTreeMap<String, String> {
            let fixed = [("GITSTEAD_AGENT", "a".to_owned())];
            let env = build(spec, &fixed, own, std::iter::empty()).expect("built");
            env.into_iter().collect()
        };
        let plain = built(&spec);
        assert_eq!(plain["MCP_PLAYWRIGHT_ISOLATED"], "0");
        assert!(plain.contains_key("CLAUDECODE") && !plain.contains_key("ANTHROPIC_API_KEY"));
        let (mut by_dialect, mut by_preset) = (spec.clone(), spec.clone());
        by_dialect.dialect = "claude".to_owned();
        by_preset.preset = Some("claude".to_owned());
        for spec in [by_dialect, by_preset] {
            let env = built(&spec);
            assert_eq!(env["MCP_PLAYWRIGHT_ISOLATED"], "1");
            assert_eq!(
                (&env["ANTHROPIC_API_KEY"], &env["GITSTEAD_AGENT"]),
                (&"k".to_owned(), &"a".to_owned())
            );
            for dropped in ["CLAUDECODE", "CLAUDE_CODE_ENTRYPOINT", "OPENAI_API_KEY"] {
                assert!(!env.contains_key(dropped), "{dropped}");
            }
        }
    }

    #[test]
    fn in_a_container_an_agent_is_who_it_is_there_and_is_told_of_no_directory_of_ours() {
        let place = Place::parse("demo", "main").expect("names");
        let mut spec = AgentSpec::new(&place, Vec::new());
        spec.preset = Some("codex-app-server".to_owned());
        let own = |name: &str| Some(format!("our {name}").into());
        let built = |spec: &AgentSpec| -> BTreeMap<String, String> {
            let env = build(spec, &[], own, std::iter::empty()).expect("built");
            env.into_iter().collect()
        };
        assert_eq!(built(&spec)["CODEX_HOME"], "our CODEX_HOME");
        spec.container = Some(crate::session::ContainerSpec {
            name: "box".to_owned(),
            user: Some("dev:dev".to_owned()),
            workspace: None,
            home: Some("/home/dev".into()),
        });
        let env = built(&spec);
        for (name, value) in [
            ("HOME", "/home/dev"),
            ("USER", "dev"),
            ("LOGNAME", "dev"),
            ("OPENAI_API_KEY", "our OPENAI_API_KEY"),
        ] {
            assert_eq!(env[name], value, "{name}");
        }
        assert!(!env.contains_key("CODEX_HOME") && !env.contains_key("PATH"), "{env:?}");
        // Whoever names it means it.
        spec.inherit.push("CODEX_HOME".to_owned());
        spec.env.insert("HOME".to_owned(), "/srv".to_owned());
        assert_eq!(
            (built(&spec)["CODEX_HOME"].as_str(), built(&spec)["HOME"].as_str()),
            ("our CODEX_HOME", "/srv")
        );
        spec.container.as_mut().expect("set").user = Some("1000:1000".to_owned());
        assert!(!built(&spec).contains_key("USER"), "a number is no name");
    }
}
