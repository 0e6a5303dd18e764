use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use subtle::ConstantTimeEq as _;

use crate::{
    protocol::PushCert,
    repo::{PushCertRecord, Repository},
};

use super::super::{Context, ServiceError};

/// The nonce that a signed push has to carry: the time and a keyed digest of it and of the repository, so that none has to be remembered. `None` where the repository
/// has no `receive.certNonceSeed`.
pub(in super::super) fn push_cert_nonce(repo: &Repository, ctx: &Context<'_>) -> Option<String> {
    let seed = repo.settings().receive.cert_nonce_seed.as_ref()?;
    Some(nonce(repo, seed, ctx.clock.seconds()))
}

fn nonce(repo: &Repository, seed: &[u8], seconds: i64) -> String {
    use std::os::unix::ffi::OsStrExt as _;
    let mut mac = Hmac::<Sha256>::new_from_slice(seed).expect("because HMAC takes keys of any length");
    mac.update(repo.git_dir().as_os_str().as_bytes());
    mac.update(b":");
    mac.update(seconds.to_string().as_bytes());
    let digest = mac.finalize().into_bytes();
    let hex: String = digest.iter().take(20).map(|b| format!("{b:02x}")).collect();
    format!("{seconds}-{hex}")
}

/// What git calls `GIT_PUSH_CERT_NONCE_STATUS`.
fn nonce_status(repo: &Repository, ctx: &Context<'_>, certificate: &PushCert) -> &'static str {
    let settings = &repo.settings().receive;
    let (Some(seed), Some(sent)) = (&settings.cert_nonce_seed, &certificate.nonce) else {
        return if certificate.nonce.is_none() {
            "MISSING"
        } else {
            "UNSOLICITED"
        };
    };
    let stamp = sent
        .split(|b| *b == b'-')
        .next()
        .and_then(|t| std::str::from_utf8(t).ok()?.parse::<i64>().ok());
    let Some(stamp) = stamp else { return "BAD" };
    if !bool::from(nonce(repo, seed, stamp).as_bytes().ct_eq(sent.as_slice())) {
        return "BAD";
    }
    // Over HTTP the nonce was told in another request, so some time has always passed.
    let age = ctx.clock.seconds().saturating_sub(stamp);
    if age == 0 {
        "OK"
    } else if age > 0 && age as u64 <= settings.cert_nonce_slop.as_secs() {
        "SLOP"
    } else {
        "BAD"
    }
}

/// Keeps a certificate beside the repository it was for. Its signature is not verified yet, and the record says so.
pub(super) fn record(repo: &Repository, ctx: &Context<'_>, certificate: &PushCert) -> Result<(), ServiceError> {
    repo.record_push_cert(&PushCertRecord {
        raw: &certificate.raw,
        seconds: ctx.clock.seconds(),
        nonce_status: nonce_status(repo, ctx, certificate),
        user: ctx.user,
    })?;
    Ok(())
}
