//! The environment of an agent: what is on the list, what was asked for, what is secret, and what tells it where it is.

use std::{collections::BTreeMap, ffi::OsString, fs, io::Read as _, path::Path};

use super::{AgentSpec, SessionError};
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
/// Where programs are when nobody says otherwise.
pub(super) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Bytes of a secret.
const SECRET_BYTES: u64 = 64 << 10;

/// Whether a variable may be set by whoever describes an agent.
pub(super) fn check_name(name: &str) -> Result<(), SessionError> {
    let mut bytes = name.bytes();
    let begins = bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
    let why = if !begins || !bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_') || name.len() > 256 {
        let shown: String = name.chars().filter(|c| !c.is_control()).take(80).collect();
        format!("'{shown}' is not the name of a variable")
    } else if name.starts_with("LD_") || name.starts_with("GITSTEAD_") || matches!(name, "BASH_ENV" | "ENV" | "IFS") {
        format!("the variable '{name}' is not for agents' descriptions")
    } else {
        return Ok(());
    };
    Err(SessionError::Invalid { why })
}

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

/// Whether a variable holds a key or a password, to judge by its name. What is too short to be looked for is none, and neither is the name of a file.
pub(super) fn is_secret(name: &str, value: &str) -> bool {
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
    says_so && value.len() >= Redactor::SHORTEST && !value.starts_with('/')
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

/// What keeps an agent's secrets from being shown, as they are now. Blocks.
pub(super) fn redactor(spec: &AgentSpec) -> Option<Redactor> {
    let read = spec.secrets.iter().filter_map(|(name, path)| secret(name, path).ok());
    let mut values: Vec<String> = read.collect();
    let preset = spec.preset().ok().flatten();
    let passed = preset.map_or(&[][..], |preset| preset.passes()).iter().copied();
    for name in passed.chain(spec.inherit.iter().map(String::as_str)) {
        let value = value(spec, name, |name| std::env::var_os(name));
        let value = value.and_then(|value| value.into_string().ok());
        values.extend(value.filter(|value| is_secret(name, value)));
    }
    Redactor::new(values.iter().map(String::as_str))
}

/// Puts an environment together. `fixed` wins over everything else. Reads the files of secrets.
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
        .chain(passed)
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
        for (name, value) in [
            ("TOKENIZERS_PARALLELISM", key),
            ("KEYBOARD", key),
            ("SSH_AUTH_SOCK", key),
            ("MOCK_KEY", "mock"),
            ("GOOGLE_APPLICATION_CREDENTIALS", "/home/me/key.json"),
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
}
