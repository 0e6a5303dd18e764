use super::msg::{MsgId, Severity};
use crate::base::Fault;
use gix::hash::{ObjectId, oid};
use std::io;
use std::path::PathBuf;

/// What counts as an error: git's defaults as receive-pack uses them (strict: a warning is an error), changed by `receive.fsck.<msg-id>` and
/// by the objects of `receive.fsck.skipList`, of which nothing is said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FsckPolicy {
    severities: Vec<Severity>,
    skipped: Vec<ObjectId>,
    large_pathname: usize,
    strict: bool,
}

/// Why a policy cannot be made. The texts are git's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// No message has this id.
    #[error("Unhandled message id: {id}")]
    UnknownId {
        /// What was asked for, in lower case as git prints it.
        id: String,
    },
    /// Only `error`, `warn` and `ignore` can be asked for.
    #[error("Unknown fsck message type: '{severity}'")]
    UnknownSeverity {
        /// What was asked for.
        severity: String,
    },
    /// The finding is fatal whatever anyone wants.
    #[error("Cannot demote {id} to {severity}")]
    Fatal {
        /// The id, in lower case as git prints it.
        id: String,
        /// What was asked for.
        severity: String,
    },
    /// A line of the skip list is no object id.
    #[error("invalid object name: {line}")]
    SkipList {
        /// The line, without comment and space.
        line: String,
    },
    /// A skip list cannot be read.
    #[error("could not open object name list: {path}", path = path.display())]
    Unreadable {
        /// The list.
        path: PathBuf,
        /// What the system said.
        kind: io::ErrorKind,
    },
}

impl PolicyError {
    /// The repository's configuration is ours to put right, not the client's.
    pub fn fault(&self) -> Fault {
        Fault::Ours
    }
}

impl Default for FsckPolicy {
    fn default() -> Self {
        Self::strict()
    }
}

impl FsckPolicy {
    /// The policy of a push: every warning is an error.
    pub fn strict() -> Self {
        Self::new(true)
    }

    /// The policy of a plain `git fsck`: warnings stay warnings, and the group-writable file mode 100664 of old histories is accepted.
    pub fn lenient() -> Self {
        Self::new(false)
    }

    fn new(strict: bool) -> Self {
        let severities = MsgId::ALL
            .iter()
            .map(|id| match id.default_severity() {
                Severity::Warn if strict => Severity::Error,
                severity => severity,
            })
            .collect();
        FsckPolicy {
            severities,
            skipped: Vec::new(),
            large_pathname: 4096,
            strict,
        }
    }

    /// The strict policy with the overrides `(msg-id, "error" | "warn" | "ignore")` and the content of a skip list: one object id a line,
    /// `#` begins a comment.
    pub fn from_parts<'a>(
        overrides: impl IntoIterator<Item = (&'a str, &'a str)>,
        skip_list: Option<&[u8]>,
    ) -> Result<Self, PolicyError> {
        let mut policy = Self::strict();
        for (id, severity) in overrides {
            policy.set(id, severity)?;
        }
        if let Some(list) = skip_list {
            policy.skip(list)?;
        }
        Ok(policy)
    }

    /// Sets the severity of one message. For `largePathname` the severity may carry the longest accepted name: `warn:1000`.
    pub fn set(&mut self, id: &str, severity: &str) -> Result<(), PolicyError> {
        let Some(msg) = MsgId::from_name(id) else {
            return Err(PolicyError::UnknownId {
                id: id.to_ascii_lowercase(),
            });
        };
        let unknown = || PolicyError::UnknownSeverity {
            severity: severity.to_owned(),
        };
        let (word, number) = match severity.split_once(':') {
            Some((word, number)) if msg == MsgId::LargePathname => (word, Some(number)),
            _ => (severity, None),
        };
        let new = match word {
            "error" => Severity::Error,
            "warn" => Severity::Warn,
            "ignore" => Severity::Ignore,
            _ => return Err(unknown()),
        };
        if let Some(number) = number {
            self.large_pathname = number.parse().map_err(|_| unknown())?;
        }
        if msg.default_severity() == Severity::Fatal {
            if new != Severity::Error {
                return Err(PolicyError::Fatal {
                    id: id.to_ascii_lowercase(),
                    severity: severity.to_owned(),
                });
            }
            return Ok(());
        }
        if let Some(slot) = self.severities.get_mut(msg as usize) {
            *slot = new;
        }
        Ok(())
    }

    /// Adds the objects of a skip list.
    pub fn skip(&mut self, list: &[u8]) -> Result<(), PolicyError> {
        for line in list.split(|&byte| byte == b'\n') {
            let line = line.split(|&byte| byte == b'#').next().unwrap_or_default().trim_ascii();
            if line.is_empty() {
                continue;
            }
            let id = ObjectId::from_hex(line).map_err(|_| PolicyError::SkipList {
                line: String::from_utf8_lossy(line).into_owned(),
            })?;
            self.skipped.push(id);
        }
        self.skipped.sort_unstable();
        self.skipped.dedup();
        Ok(())
    }

    /// The severity of a message under this policy.
    pub fn severity(&self, id: MsgId) -> Severity {
        self.severities.get(id as usize).copied().unwrap_or(Severity::Error)
    }

    /// Whether nothing is to be said about this object.
    pub fn is_skipped(&self, id: &oid) -> bool {
        !self.skipped.is_empty()
            && self
                .skipped
                .binary_search_by(|skipped| skipped.as_ref().cmp(id))
                .is_ok()
    }

    pub(super) fn large_pathname(&self) -> usize {
        self.large_pathname
    }

    pub(super) fn is_strict(&self) -> bool {
        self.strict
    }
}
