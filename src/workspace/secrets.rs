//! Which files look like secrets. New ones are left out of checkpoints and named; one that is tracked already was somebody's decision.

use bstr::{BStr, ByteSlice};
use gix::glob::wildmatch;

/// How secrets are told. An empty list of names and no look at contents turns it off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretRules {
    /// Patterns of file names, or with a slash of whole paths (`*`, `?`, `[…]`). One that begins with `!` is an exception; the last that fits decides.
    pub names: Vec<String>,
    /// Whether files that begin as private keys do count, whatever they are called.
    pub contents: bool,
}

/// What is withheld unless somebody says otherwise.
const NAMES: &[&str] = &[
    ".env",
    ".env.*",
    "!.env.example",
    "!.env.sample",
    "!.env.template",
    "!.env.dist",
    "id_rsa",
    "id_dsa",
    "id_ecdsa",
    "id_ed25519",
    "*.p12",
    "*.pfx",
    "*.jks",
    "*.keystore",
    "*.kdbx",
    ".netrc",
    "_netrc",
    ".pgpass",
    ".git-credentials",
    ".htpasswd",
    "credentials.json",
    "client_secret*.json",
    "service-account*.json",
    "*.aws/credentials",
    "*.docker/config.json",
    "*.kube/config",
    "*.gnupg/*",
];

/// Where the words that begin a private key must be.
const HEAD: usize = 4 << 10;

impl Default for SecretRules {
    fn default() -> Self {
        SecretRules {
            names: NAMES.iter().map(|name| (*name).to_owned()).collect(),
            contents: true,
        }
    }
}

impl SecretRules {
    /// No file is a secret.
    pub fn none() -> Self {
        SecretRules {
            names: Vec::new(),
            contents: false,
        }
    }

    /// Whether a file is one by its name.
    pub fn is_named(&self, path: &BStr) -> bool {
        let name = path.rfind_byte(b'/').map_or(path, |slash| path[slash + 1..].as_bstr());
        let mut secret = false;
        for pattern in &self.names {
            let (pattern, verdict) = match pattern.strip_prefix('!') {
                Some(rest) => (rest, false),
                None => (pattern.as_str(), true),
            };
            let text = if pattern.contains('/') { path } else { name };
            if secret != verdict && gix::glob::wildmatch(pattern.into(), text, wildmatch::Mode::IGNORE_CASE) {
                secret = verdict;
            }
        }
        secret
    }

    /// Whether a file is one by its content.
    pub fn is_content(&self, content: &[u8]) -> bool {
        let head = &content[..content.len().min(HEAD)];
        self.contents
            && head.find_iter(b"-----BEGIN ").any(|at| {
                let line = head[at..].lines().next().unwrap_or_default();
                line.contains_str("PRIVATE KEY-----") || line.contains_str("PRIVATE KEY BLOCK-----")
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_known_by_their_names() {
        let rules = SecretRules::default();
        for path in [
            ".env",
            "a/b/.env",
            ".env.local",
            "ID_RSA",
            "deploy/.aws/credentials",
            "x.p12",
        ] {
            assert!(rules.is_named(path.into()), "{path}");
        }
        for path in [
            ".env.example",
            "a/.env.sample",
            "environment",
            "id_rsa.pub",
            "credentials",
            "env",
        ] {
            assert!(!rules.is_named(path.into()), "{path}");
        }
        assert!(!SecretRules::none().is_named(".env".into()));
    }

    #[test]
    fn private_keys_are_known_by_their_first_line() {
        let rules = SecretRules::default();
        assert!(rules.is_content(b"-----BEGIN OPENSSH PRIVATE KEY-----\nb3Bl"));
        assert!(rules.is_content(b"# mine\n-----BEGIN RSA PRIVATE KEY-----\r\n"));
        assert!(rules.is_content(
            b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n-----BEGIN PRIVATE KEY-----\n"
        ));
        assert!(!rules.is_content(b"-----BEGIN CERTIFICATE-----\n"));
        assert!(!rules.is_content(b"-----BEGIN PUBLIC KEY-----\nPRIVATE KEY-----"));
        assert!(!SecretRules::none().is_content(b"-----BEGIN PRIVATE KEY-----\n"));
    }
}
