//! Signatures of commits by an SSH key, as `git commit -S` makes them with `gpg.format=ssh`: what `git verify-commit` accepts (PROTOCOL.sshsig of OpenSSH).

use std::{fmt, path::Path};

use ssh_key::{HashAlg, LineEnding, PrivateKey};

/// What the signature is about, so that it is good for nothing else.
const NAMESPACE: &str = "git";

/// Signs the commits of checkpoints.
///
/// ```no_run
/// use std::{path::Path, sync::Arc};
/// use gitstead::workspace::{CommitSigner, WorkspaceOptions};
///
/// let options = WorkspaceOptions {
///     signer: Some(Arc::new(CommitSigner::from_file(Path::new("/etc/gitstead/signing_key"))?)),
///     ..WorkspaceOptions::default()
/// };
/// # Ok::<(), gitstead::workspace::SignError>(())
/// ```
pub struct CommitSigner {
    key: PrivateKey,
}

/// Why a key cannot sign.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SignError {
    /// The file cannot be read, or holds no key that we know: Ed25519, or ECDSA over P-256 or P-384, in OpenSSH's format.
    #[error("cannot read the signing key {path}: {why}")]
    Key {
        /// The file.
        path: String,
        /// What is wrong with it.
        why: String,
    },
    /// The key has a passphrase, and there is nobody to ask.
    #[error("the signing key {path} has a passphrase")]
    Encrypted {
        /// The file.
        path: String,
    },
    /// The signature could not be made.
    #[error("cannot sign a commit: {why}")]
    Sign {
        /// What went wrong.
        why: String,
    },
}

impl CommitSigner {
    /// With the private key in a file that `ssh-keygen` made.
    ///
    /// # Errors
    /// `Key`, `Encrypted`.
    pub fn from_file(path: &Path) -> Result<Self, SignError> {
        let shown = || path.display().to_string();
        let key = PrivateKey::read_openssh_file(path).map_err(|err| SignError::Key {
            path: shown(),
            why: err.to_string(),
        })?;
        if key.is_encrypted() {
            return Err(SignError::Encrypted { path: shown() });
        }
        Ok(CommitSigner { key })
    }

    /// The signature of a commit without one.
    pub(crate) fn sign(&self, commit: &[u8]) -> Result<String, SignError> {
        let failed = |err: ssh_key::Error| SignError::Sign { why: err.to_string() };
        let signature = self.key.sign(NAMESPACE, HashAlg::Sha512, commit).map_err(failed)?;
        signature.to_pem(LineEnding::LF).map_err(failed)
    }
}

impl fmt::Debug for CommitSigner {
    /// Says which key, and nothing of it that is secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fingerprint = self.key.public_key().fingerprint(HashAlg::Sha256).to_string();
        f.debug_struct("CommitSigner").field("key", &fingerprint).finish()
    }
}
