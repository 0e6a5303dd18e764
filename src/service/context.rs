use std::sync::atomic::{AtomicBool, Ordering};

use bstr::{BStr, BString};

use crate::base::{Clock, Limits};

use super::{AnswerCache, LiveWorktrees, ServiceError};

/// Which of git's services is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Service {
    /// Clone and fetch.
    UploadPack,
    /// Push.
    ReceivePack,
}

impl Service {
    /// `git-upload-pack` or `git-receive-pack`.
    pub fn name(self) -> &'static str {
        match self {
            Service::UploadPack => "git-upload-pack",
            Service::ReceivePack => "git-receive-pack",
        }
    }

    /// The service of this name.
    pub fn from_name(name: &[u8]) -> Option<Self> {
        [Service::UploadPack, Service::ReceivePack]
            .into_iter()
            .find(|service| service.name().as_bytes() == name)
    }
}

/// What a service has to know beside the request: who asks, in which namespace, and when to stop.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// The bounds of this house.
    pub limits: &'a Limits,
    /// git's namespace (gitnamespaces(7)), if one is served.
    pub namespace: Option<&'a BStr>,
    /// The user's name, for reflogs. `None` is `anonymous`.
    pub user: Option<&'a str>,
    /// The client's address, for reflogs.
    pub remote_addr: &'a str,
    /// What is advertised as `session-id` where the repository wants one.
    pub session_id: &'a str,
    /// Set when nobody waits for the answer any more.
    pub stop: &'a AtomicBool,
    /// The time.
    pub clock: &'a dyn Clock,
    /// Answers to fetches for those who ask the same again. `None`: each is worked out.
    pub answers: Option<&'a AnswerCache>,
    /// The working trees that a push may change. `None`: none.
    pub worktrees: Option<&'a dyn LiveWorktrees>,
}

impl Context<'_> {
    /// The full name of a ref that a client calls `name`.
    pub(super) fn full_name(&self, name: &BStr) -> BString {
        let mut full = BString::default();
        for part in self
            .namespace
            .into_iter()
            .flat_map(|ns| ns.split(|b| *b == b'/'))
            .filter(|p| !p.is_empty())
        {
            full.extend_from_slice(b"refs/namespaces/");
            full.extend_from_slice(part);
            full.push(b'/');
        }
        full.extend_from_slice(name);
        full
    }

    /// An error as soon as the client has gone.
    pub(super) fn check(&self) -> Result<(), ServiceError> {
        if self.stop.load(Ordering::Relaxed) {
            Err(ServiceError::Gone)
        } else {
            Ok(())
        }
    }
}

/// What we call ourselves on the wire. `git/` first, since clients and proxies look for it.
pub(super) fn agent() -> String {
    concat!("git/gitstead-", env!("CARGO_PKG_VERSION")).to_owned()
}
