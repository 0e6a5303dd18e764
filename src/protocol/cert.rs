use bstr::{BString, ByteSlice};
use gix::hash;

use crate::base::Limits;

use super::{RefCommand, RequestError, request::push_within};

/// A push certificate as it was sent (gitprotocol-pack, "PUSH CERTIFICATE"). Nothing of it is verified here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PushCert {
    /// The whole certificate, signature included: what git keeps as a blob.
    pub raw: BString,
    /// `certificate version`, normally `0.1`.
    pub version: Option<BString>,
    /// Who says to push: an identity with a time.
    pub pusher: Option<BString>,
    /// Where to, as the pusher believes.
    pub pushee: Option<BString>,
    /// The nonce we advertised, or an older one, or anything.
    pub nonce: Option<BString>,
    /// The push options that were signed.
    pub push_options: Vec<BString>,
    /// The detached signature over everything before it; empty if there is none.
    pub signature: BString,
}

impl PushCert {
    /// The bytes that the signature is about.
    pub fn signed(&self) -> &[u8] {
        &self.raw[..self.raw.len() - self.signature.len()]
    }
}

/// The lines of a certificate, put together before they are read.
#[derive(Debug, Clone, Default)]
pub(super) struct CertBuilder {
    raw: Vec<u8>,
}

impl CertBuilder {
    /// Takes a line with its line feed. The caller counts the bytes.
    pub(super) fn line(&mut self, line: &[u8]) {
        self.raw.extend_from_slice(line);
    }

    /// The certificate and the commands it holds. One without a byte counts as none in git, and has no commands here.
    pub(super) fn build(self, hash: hash::Kind, limits: &Limits) -> Result<(PushCert, Vec<RefCommand>), RequestError> {
        let raw = self.raw;
        let malformed = || RequestError::MalformedCertificate {
            text: raw[..raw.len().min(100)].into(),
        };
        let header_end = raw.find(b"\n\n").ok_or_else(malformed)?;
        let signature_at = signature_start(&raw).max(header_end + 2);

        let mut certificate = PushCert {
            raw: BString::default(),
            version: None,
            pusher: None,
            pushee: None,
            nonce: None,
            push_options: Vec::new(),
            signature: raw[signature_at..].into(),
        };
        for line in raw[..header_end].split(|b| *b == b'\n') {
            let field = |name: &[u8]| line.strip_prefix(name).map(BString::from);
            if let Some(option) = field(b"push-option ") {
                push_within(&mut certificate.push_options, option, "push options", limits.options)?;
                continue;
            }
            // The first of each counts.
            for (slot, name) in [
                (&mut certificate.version, "certificate version "),
                (&mut certificate.pusher, "pusher "),
                (&mut certificate.pushee, "pushee "),
                (&mut certificate.nonce, "nonce "),
            ] {
                if slot.is_none() {
                    *slot = field(name.as_bytes());
                }
            }
        }

        let mut commands = Vec::new();
        let body = &raw[header_end + 2..signature_at];
        for line in body.strip_suffix(b"\n").unwrap_or(body).split(|b| *b == b'\n') {
            if body.is_empty() {
                break;
            }
            let command =
                RefCommand::parse(line, hash).ok_or_else(|| RequestError::ExpectedCommand { line: line.into() })?;
            push_within(&mut commands, command, "ref commands", limits.commands)?;
        }
        certificate.raw = raw.into();
        Ok((certificate, commands))
    }

    /// Whether nothing was sent.
    pub(super) fn is_empty(&self) -> bool {
        self.raw.is_empty()
    }
}

/// Where the signature begins: at the last line that opens one of the formats git knows, else at the end.
fn signature_start(raw: &[u8]) -> usize {
    const OPENERS: [&[u8]; 4] = [
        b"-----BEGIN PGP SIGNATURE-----",
        b"-----BEGIN PGP MESSAGE-----",
        b"-----BEGIN SIGNED MESSAGE-----",
        b"-----BEGIN SSH SIGNATURE-----",
    ];
    let mut found = raw.len();
    let mut at = 0;
    for line in raw.split_inclusive(|b| *b == b'\n') {
        if OPENERS.iter().any(|opener| line.starts_with(opener)) {
            found = at;
        }
        at += line.len();
    }
    found
}
