use std::{io, path::PathBuf, time::Duration};

use bstr::{BStr, BString};
use gix::hash::{ObjectId, oid};

use crate::base::Fault;

/// A ref as it is listed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ref {
    /// The name, without the namespace it was asked for in.
    pub name: BString,
    /// The object it points to, after following symbolic refs.
    pub id: ObjectId,
    /// What the annotated tag at `id` points to in the end; `None` when `id` is no tag or peeling was not asked for.
    pub peeled: Option<ObjectId>,
    /// For a symbolic ref the ref at the end of its chain, without the namespace.
    pub symref_target: Option<BString>,
}

/// What a ref holds, whatever its object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefValue {
    /// There is no such ref, or it is a symbolic ref to one that does not exist.
    Absent,
    /// It leads to this id, of which there need not be an object.
    Id(ObjectId),
    /// There is something that is no ref.
    Broken,
}

/// Which refs to list. `HEAD` is not among them; see [`Head`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RefQuery {
    /// Only refs of this namespace (`a/b` means `refs/namespaces/a/refs/namespaces/b/`), with names as seen inside of it.
    pub namespace: Option<BString>,
    /// Only refs whose name (inside the namespace) starts with one of these bytes; empty means all.
    pub prefixes: Vec<BString>,
    /// Whether to fill [`Ref::peeled`].
    pub peel: bool,
}

/// What `HEAD` is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Head {
    /// It names a ref; without an id that ref does not exist (an unborn branch).
    Symbolic {
        /// The ref at the end of the chain, without the namespace.
        target: BString,
        /// What that ref points to.
        id: Option<ObjectId>,
    },
    /// It holds an object id itself.
    Detached(ObjectId),
    /// There is none, or its content is not that of a ref.
    Missing,
}

impl Head {
    /// The commit that HEAD resolves to.
    pub fn id(&self) -> Option<ObjectId> {
        match self {
            Head::Symbolic { id, .. } => *id,
            Head::Detached(id) => Some(*id),
            Head::Missing => None,
        }
    }
}

/// One change to a ref: compare with `old`, then set `new`. A symbolic ref is followed and its target changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefUpdate {
    /// The full name, namespace included.
    pub name: BString,
    /// The value that the ref must have; `None` means that it must not exist.
    pub old: Option<ObjectId>,
    /// The value that it shall have; `None` deletes it.
    pub new: Option<ObjectId>,
}

/// What became of one [`RefUpdate`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RefOutcome {
    /// It has the new value, and that is on disk.
    Ok,
    /// Nothing happened to this ref.
    Failed {
        /// What stands behind `ng <ref>`, in C git's words: `failed to update ref`, `atomic transaction failed`, `funny refname`,
        /// `broken symref`, `inconsistent aliased update`.
        reason: String,
        /// Why exactly, in C git's words for its terminal (`cannot lock ref '…': …`). Names files relative to the repository only.
        detail: String,
    },
}

impl RefOutcome {
    /// Whether the ref has its new value.
    pub fn is_ok(&self) -> bool {
        matches!(self, RefOutcome::Ok)
    }
}

/// Who changed refs and why: the right half of a reflog line.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RefLog {
    /// The committer's name. Line breaks and angle brackets are dropped when written.
    pub name: String,
    /// The committer's e-mail address, likewise.
    pub email: String,
    /// Seconds since the epoch; always written as `+0000`.
    pub seconds: i64,
    /// The message; runs of white space become one space.
    pub message: String,
}

/// `core.logAllRefUpdates`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogRefUpdates {
    /// Create a log for no ref; logs that exist are continued. The default for bare repositories.
    #[default]
    Never,
    /// Create logs for branches, remote branches, notes and HEAD.
    Branches,
    /// Create logs for every ref.
    Always,
}

/// `core.sharedRepository`: who else may read and write what is created.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SharedRepository {
    /// What the umask says.
    #[default]
    Umask,
    /// The group may read and write.
    Group,
    /// The group may read and write, everybody may read.
    Everybody,
    /// Exactly these permission bits for files; directories get the search bit wherever they get the read bit.
    Mode(u32),
}

/// What a [`super::RefStore`] has to know beside its directories.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RefStoreOptions {
    /// `core.logAllRefUpdates`, with the default for bare or not already applied.
    pub log_updates: LogRefUpdates,
    /// `core.sharedRepository`.
    pub shared: SharedRepository,
    /// How long to wait for a `<ref>.lock` of another process: `core.filesRefLockTimeout`.
    pub ref_lock_timeout: Duration,
    /// How long to wait for `packed-refs.lock`: `core.packedRefsTimeout`.
    pub packed_lock_timeout: Duration,
    /// Whether updates return before they are on the disk: [`OpenOptions::lazy_refs`](crate::repo::OpenOptions::lazy_refs).
    pub lazy: bool,
}

impl Default for RefStoreOptions {
    fn default() -> Self {
        RefStoreOptions {
            log_updates: LogRefUpdates::Never,
            shared: SharedRepository::Umask,
            ref_lock_timeout: Duration::from_millis(100),
            packed_lock_timeout: Duration::from_secs(1),
            lazy: false,
        }
    }
}

/// What the ref room asks the object database about an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefTarget {
    /// There is no such object.
    Missing,
    /// A commit.
    Commit,
    /// A tree or a blob.
    Other,
    /// An annotated tag, and the object at the end of its chain of tags; `None` when that is missing or not readable.
    Tag(Option<ObjectId>),
}

/// The objects that refs point to, as far as the ref room must know them.
pub trait RefObjects {
    /// Whether there is such an object.
    fn exists(&self, id: &oid) -> Result<bool, RefsError>;
    /// What the object is, tags followed to their end.
    fn target(&self, id: &oid) -> Result<RefTarget, RefsError>;
}

/// Why refs could not be read or written at all.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RefsError {
    /// A file operation failed.
    #[error("{doing} {path}", path = path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A line of `packed-refs` is not one.
    #[error("unexpected line in packed-refs: {line:?}")]
    PackedRefs {
        /// The line, cut to a printable length.
        line: BString,
    },
    /// Another process holds a lock.
    #[error("unable to create '{file}': File exists")]
    Locked {
        /// The lock file, relative to the repository.
        file: BString,
    },
    /// A name that git does not allow for a ref or namespace.
    #[error("invalid ref name '{name}'")]
    Name {
        /// The name.
        name: BString,
    },
    /// The ref may not be what was asked for.
    #[error("{text}")]
    Refused {
        /// Why, in git's words where it has some.
        text: String,
    },
    /// The object database could not say whether an object exists.
    #[error("cannot look up the object of a ref")]
    Objects {
        /// What it said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl RefsError {
    /// Whose move it is.
    pub fn fault(&self) -> Fault {
        match self {
            RefsError::Io { .. } | RefsError::Objects { .. } => Fault::Ours,
            RefsError::PackedRefs { .. } => Fault::Corrupt,
            RefsError::Locked { .. } => Fault::Busy,
            RefsError::Name { .. } | RefsError::Refused { .. } => Fault::Client,
        }
    }

    pub(super) fn name(name: &BStr) -> Self {
        RefsError::Name { name: name.to_owned() }
    }
}
