use super::modules;
use super::msg::{MsgId, Severity};
use super::policy::FsckPolicy;
use crate::base::Fault;
use gix::hash::{ObjectId, oid};
use gix::objs::Kind;
use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

/// Bytes of the largest `.gitmodules` or `.gitattributes` that is read: what git allows `.gitattributes`. (For `.gitmodules` git allows
/// `core.bigFileThreshold`, 512 MiB; we do not hold that much for one request.)
pub const MAX_CHECKED_BLOB: u64 = 100 * 1024 * 1024;

/// Notes kept of one push: a client wants to read some of them, not a million.
const MAX_NOTES: usize = 100;

/// One thing that is wrong with one object. Displays as git prints it: `object <oid>: <msgId>: <text>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FsckFinding {
    /// The object.
    pub object: ObjectId,
    /// What is wrong, for machines.
    pub id: MsgId,
    /// What is wrong, for people. May quote the object; control characters are replaced by `?`.
    pub text: Cow<'static, str>,
}

impl FsckFinding {
    /// The client sent it.
    pub fn fault(&self) -> Fault {
        Fault::Client
    }
}

impl fmt::Display for FsckFinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "object {}: {}: {}", self.object, self.id, self.text)
    }
}

impl std::error::Error for FsckFinding {}

/// A finding and its weight. Displays as the line git shows: `warning: object …` or `error: object …`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FsckNote {
    /// Its weight under the policy; never [`Severity::Ignore`].
    pub severity: Severity,
    /// The finding.
    pub finding: FsckFinding,
}

impl fmt::Display for FsckNote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = if self.severity >= Severity::Error {
            "error"
        } else {
            "warning"
        };
        write!(f, "{word}: {}", self.finding)
    }
}

/// What a look-up of a blob for [`FsckState::finish`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlobLookup {
    /// No such object, neither in the push nor in the repository.
    Missing,
    /// An object of this kind; the buffer holds its content if it is a blob.
    Found(Kind),
    /// A blob with more bytes than asked for.
    TooLarge,
}

/// Why [`FsckState::finish`] stopped.
#[derive(Debug, thiserror::Error)]
pub enum FinishError<E: std::error::Error + 'static> {
    /// A blob is not what it should be.
    #[error(transparent)]
    Finding(#[from] FsckFinding),
    /// The look-up failed.
    #[error(transparent)]
    Lookup(E),
}

/// What is known between objects: the blobs to be looked at in the end, and what was noted on the way. Each thread may have its own;
/// [`merge`](Self::merge) joins them.
#[derive(Debug, Default)]
pub struct FsckState {
    modules: BlobSet,
    attributes: BlobSet,
    notes: Vec<FsckNote>,
}

#[derive(Debug, Default)]
struct BlobSet {
    ids: HashSet<ObjectId>,
    // Neighbouring root trees usually share their .gitmodules.
    last: Option<ObjectId>,
}

impl BlobSet {
    fn insert(&mut self, id: &oid) {
        if self.last.as_ref().is_some_and(|last| last.as_ref() == id) {
            return;
        }
        self.ids.insert(id.to_owned());
        self.last = Some(id.to_owned());
    }

    fn take_sorted(&mut self) -> Vec<ObjectId> {
        self.last = None;
        let mut ids: Vec<_> = self.ids.drain().collect();
        ids.sort_unstable();
        ids
    }
}

/// Finds a blob: its id, the most bytes to read, and a buffer (empty) for the content.
pub type ReadBlob<'a, E> = dyn FnMut(&oid, u64, &mut Vec<u8>) -> Result<BlobLookup, E> + 'a;

impl FsckState {
    /// Nothing seen yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes over what another thread's state has seen.
    pub fn merge(&mut self, other: FsckState) {
        self.modules.ids.extend(other.modules.ids);
        self.attributes.ids.extend(other.attributes.ids);
        let room = MAX_NOTES.saturating_sub(self.notes.len());
        self.notes.extend(other.notes.into_iter().take(room));
    }

    /// Warnings, and errors beside the one returned; the first hundred.
    pub fn notes(&self) -> &[FsckNote] {
        &self.notes
    }

    /// Takes the notes out.
    pub fn take_notes(&mut self) -> Vec<FsckNote> {
        std::mem::take(&mut self.notes)
    }

    /// Blobs that trees named `.gitmodules` or `.gitattributes` (in any spelling a checkout may take for it) and that
    /// [`finish`](Self::finish) will look at.
    pub fn pending_blobs(&self) -> usize {
        self.modules.ids.len() + self.attributes.ids.len()
    }

    /// Looks at the collected blobs, once every object of the push is known. `lookup` gets an id, the most bytes to read, and a buffer
    /// (empty) for the content; it must find objects of the push and of the repository.
    pub fn finish<E: std::error::Error + 'static>(
        &mut self,
        policy: &FsckPolicy,
        lookup: &mut ReadBlob<'_, E>,
    ) -> Result<(), FinishError<E>> {
        let mut data = Vec::new();
        for id in self.modules.take_sorted() {
            data.clear();
            let found = lookup(&id, MAX_CHECKED_BLOB, &mut data).map_err(FinishError::Lookup)?;
            let mut report = Report::new(&id, policy, self);
            match found {
                BlobLookup::Missing => report.found(MsgId::GitmodulesMissing, "unable to read .gitmodules blob"),
                BlobLookup::TooLarge => report.found(MsgId::GitmodulesLarge, ".gitmodules too large to parse"),
                BlobLookup::Found(Kind::Blob) => modules::check_modules(&data, &mut report),
                BlobLookup::Found(_) => report.found(MsgId::GitmodulesBlob, "non-blob found at .gitmodules"),
            }
            report.end()?;
        }
        for id in self.attributes.take_sorted() {
            data.clear();
            let found = lookup(&id, MAX_CHECKED_BLOB, &mut data).map_err(FinishError::Lookup)?;
            let mut report = Report::new(&id, policy, self);
            match found {
                BlobLookup::Missing => report.found(MsgId::GitattributesMissing, "unable to read .gitattributes blob"),
                BlobLookup::TooLarge => report.found(MsgId::GitattributesLarge, ".gitattributes too large to parse"),
                BlobLookup::Found(Kind::Blob) => modules::check_attributes(&data, &mut report),
                BlobLookup::Found(_) => report.found(MsgId::GitattributesBlob, "non-blob found at .gitattributes"),
            }
            report.end()?;
        }
        Ok(())
    }
}

/// The findings of one object on their way out.
pub(super) struct Report<'a> {
    object: &'a oid,
    pub(super) policy: &'a FsckPolicy,
    state: &'a mut FsckState,
    skipped: Option<bool>,
    error: Option<FsckFinding>,
}

impl<'a> Report<'a> {
    pub(super) fn new(object: &'a oid, policy: &'a FsckPolicy, state: &'a mut FsckState) -> Self {
        Report {
            object,
            policy,
            state,
            skipped: None,
            error: None,
        }
    }

    /// Something is wrong.
    #[cold]
    pub(super) fn found(&mut self, id: MsgId, text: impl Into<Cow<'static, str>>) {
        let severity = self.policy.severity(id);
        if severity == Severity::Ignore {
            return;
        }
        let (object, policy) = (self.object, self.policy);
        if *self.skipped.get_or_insert_with(|| policy.is_skipped(object)) {
            return;
        }
        let finding = FsckFinding {
            object: self.object.to_owned(),
            id,
            text: text.into(),
        };
        if severity >= Severity::Error && self.error.is_none() {
            self.error = Some(finding);
        } else if self.state.notes.len() < MAX_NOTES {
            self.state.notes.push(FsckNote { severity, finding });
        }
    }

    /// Something is wrong, and the object's own words say what. They may be a terminal's control codes.
    #[cold]
    pub(super) fn found_quoting(&mut self, id: MsgId, text: &str, quoted: &[u8]) {
        let mut whole = text.to_owned();
        let lossy = String::from_utf8_lossy(quoted);
        whole.extend(lossy.chars().take(1000).map(|c| if c.is_control() { '?' } else { c }));
        self.found(id, whole);
    }

    /// Whether the object is refused already, so that text after the broken part need not be read.
    pub(super) fn is_refused(&self) -> bool {
        self.error.is_some()
    }

    pub(super) fn modules_blob(&mut self, id: &oid) {
        self.state.modules.insert(id);
    }

    pub(super) fn attributes_blob(&mut self, id: &oid) {
        self.state.attributes.insert(id);
    }

    pub(super) fn end(self) -> Result<(), FsckFinding> {
        match self.error {
            None => Ok(()),
            Some(finding) => Err(finding),
        }
    }
}
