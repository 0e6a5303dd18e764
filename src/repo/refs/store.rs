//! Reading.

use std::{
    collections::HashMap,
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak, atomic::AtomicBool},
};

use bstr::{BStr, BString, ByteSlice};
use gix::hash::{self, ObjectId, oid};

use super::{
    disk::Disk,
    loose::{self, Go, Raw},
    names::{self, Prefixes},
    packed::{Packed, Signature},
    types::{Head, Ref, RefObjects, RefQuery, RefStoreOptions, RefTarget, RefValue, RefsError},
};

/// The longest chain of symbolic refs that is followed, as in git.
const MAX_SYMREF_DEPTH: usize = 5;

/// Objects whose kind is remembered for each repository. An object never changes its kind.
const REMEMBERED_TARGETS: usize = 100_000;

/// The refs of one repository. Needs nothing but its directories, so it works before and without a whole repository.
pub struct RefStore {
    /// Where `HEAD` and the refs of one worktree are; for all but linked worktrees the same as `common_dir`.
    pub(super) git_dir: PathBuf,
    pub(super) common_dir: PathBuf,
    /// `packed-refs`, with a symbolic link in its place followed.
    pub(super) packed_path: PathBuf,
    pub(super) hash: hash::Kind,
    pub(super) options: RefStoreOptions,
    pub(super) disk: Disk,
    /// Held while refs are written: one transaction at a time in this process.
    pub(super) turn: Arc<Mutex<()>>,
    /// Whether locks of dead processes were looked for.
    pub(super) swept: AtomicBool,
    packed: Mutex<Option<Arc<Packed>>>,
    targets: Mutex<HashMap<ObjectId, RefTarget>>,
}

/// Where a chain of symbolic refs ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Resolved {
    /// The last name in the chain.
    pub(super) name: BString,
    /// `None` when that ref does not exist.
    pub(super) id: Option<ObjectId>,
}

impl RefStore {
    /// The refs of the repository whose own directory is `git_dir` and whose shared one is `common_dir`. Reads nothing yet.
    pub fn new(git_dir: &Path, common_dir: &Path, hash: hash::Kind, options: RefStoreOptions) -> Self {
        let packed = common_dir.join("packed-refs");
        RefStore {
            git_dir: git_dir.to_owned(),
            common_dir: common_dir.to_owned(),
            packed_path: if packed.is_symlink() {
                packed.canonicalize().unwrap_or(packed)
            } else {
                packed
            },
            hash,
            options,
            disk: Disk {
                shared: options.shared,
                lazy: options.lazy,
                #[cfg(test)]
                hook: None,
            },
            turn: turn_of(common_dir),
            swept: AtomicBool::new(false),
            packed: Mutex::default(),
            targets: Mutex::default(),
        }
    }

    /// The refs that a query asks for, sorted by name. Broken ones (dangling, with content that is no ref, or, when `objects` is
    /// given, of objects that do not exist) are left out with a warning, as git leaves them out.
    pub fn list(&self, query: &RefQuery, objects: Option<&dyn RefObjects>) -> Result<Vec<Ref>, RefsError> {
        Ok(self.at_once(query)?.list(objects)?.refs)
    }

    /// What `HEAD` is, or the `HEAD` of a namespace.
    pub fn head(&self, namespace: Option<&BStr>) -> Result<Head, RefsError> {
        let prefix = names::namespace_prefix(namespace)?;
        let name = BString::from([prefix.as_slice(), b"HEAD"].concat());
        match loose::read(&self.path(name.as_bstr()), self.hash)? {
            None => Ok(Head::Missing),
            Some(Raw::Id(id)) => Ok(Head::Detached(id)),
            Some(Raw::Broken) => {
                tracing::warn!(%name, "HEAD is not a ref");
                Ok(Head::Missing)
            }
            Some(Raw::Symbolic(first)) => match self.resolve(first.as_bstr())? {
                Some(end) => Ok(match end.name.strip_prefix(prefix.as_slice()) {
                    Some(target) => Head::Symbolic {
                        target: target.into(),
                        id: end.id,
                    },
                    // It points out of the namespace: its place there is nobody's business, its value is.
                    None => end.id.map_or(Head::Missing, Head::Detached),
                }),
                None => Ok(Head::Missing),
            },
        }
    }

    /// The ref of this full name, if it exists and is not broken. Peeled when `objects` is given.
    pub fn find(&self, name: &BStr, objects: Option<&dyn RefObjects>) -> Result<Option<Ref>, RefsError> {
        if !names::is_valid(name) {
            return Ok(None);
        }
        let Some(Resolved {
            name: end,
            id: Some(id),
        }) = self.resolve(name)?
        else {
            return Ok(None);
        };
        let peeled = match objects.map(|objects| self.target(objects, &id)).transpose()? {
            Some(RefTarget::Missing) => return Ok(None),
            Some(RefTarget::Tag(peeled)) => peeled,
            _ => None,
        };
        let symref_target = (end != name).then_some(end);
        Ok(Some(Ref {
            name: name.to_owned(),
            id,
            peeled,
            symref_target,
        }))
    }

    /// What there is under this name, symbolic refs followed. Unlike [`find`](Self::find) this also sees what is broken.
    pub fn value(&self, name: &BStr) -> Result<RefValue, RefsError> {
        if !names::is_valid(name) {
            return Ok(RefValue::Absent);
        }
        Ok(match self.resolve(name)? {
            None => RefValue::Broken,
            Some(Resolved { id: None, .. }) => RefValue::Absent,
            Some(Resolved { id: Some(id), .. }) => RefValue::Id(id),
        })
    }

    /// Waits until no other thread of this process changes refs of this repository.
    pub(super) fn take_turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The directory that the file of a ref lies in, by the rules for worktrees.
    pub(super) fn root_of(&self, name: &BStr) -> &Path {
        if names::is_per_worktree(name) {
            &self.git_dir
        } else {
            &self.common_dir
        }
    }

    /// The file of a loose ref.
    pub(super) fn path(&self, name: &BStr) -> PathBuf {
        self.root_of(name).join(OsStr::from_bytes(name))
    }

    /// In a linked worktree, the shared directory's own worktree refs belong to the main worktree.
    pub(super) fn is_shared_here(&self, name: &[u8]) -> bool {
        self.git_dir == self.common_dir || !names::is_per_worktree(name)
    }

    /// `packed-refs` as it is now, read again only if it looks different.
    pub(super) fn packed(&self) -> Result<Arc<Packed>, RefsError> {
        let now = Signature::at(&self.packed_path)?;
        let cached = self.packed_slot().clone();
        match cached {
            Some(packed) if packed.is_current(now) => Ok(packed),
            _ => self.read_packed(),
        }
    }

    /// `packed-refs` read from disk whatever it looks like. Under its lock nothing else will do.
    pub(super) fn read_packed(&self) -> Result<Arc<Packed>, RefsError> {
        let packed = Arc::new(Packed::read(&self.packed_path, self.hash)?);
        *self.packed_slot() = Some(packed.clone());
        Ok(packed)
    }

    pub(super) fn packed_slot(&self) -> MutexGuard<'_, Option<Arc<Packed>>> {
        self.packed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The content of a ref, loose before packed: a ref moves from loose to packed by being written there first.
    pub(super) fn raw(&self, name: &BStr) -> Result<Option<Raw>, RefsError> {
        if let Some(raw) = loose::read(&self.path(name), self.hash)? {
            return Ok(Some(raw));
        }
        if !name.starts_with(b"refs/") || !self.is_shared_here(name) {
            return Ok(None);
        }
        let found = self.packed()?.find(name)?.map(|record| record.id);
        Ok(found.map(|id| if id.is_null() { Raw::Broken } else { Raw::Id(id) }))
    }

    /// Follows symbolic refs from `name`. `None` if the chain is too long or ends in something broken.
    pub(super) fn resolve(&self, name: &BStr) -> Result<Option<Resolved>, RefsError> {
        let mut name = name.to_owned();
        for _ in 0..=MAX_SYMREF_DEPTH {
            match self.raw(name.as_bstr())? {
                None => return Ok(Some(Resolved { name, id: None })),
                Some(Raw::Id(id)) => return Ok(Some(Resolved { name, id: Some(id) })),
                Some(Raw::Symbolic(next)) => name = next,
                Some(Raw::Broken) => return Ok(None),
            }
        }
        Ok(None)
    }

    pub(super) fn loose(&self, wanted: &Prefixes) -> Result<Vec<(BString, Raw)>, RefsError> {
        let mut found = Vec::new();
        let mut read = |name: BString| {
            // Gone since it was listed: then it is packed, or no more.
            if let Some(raw) = loose::read(&self.path(name.as_bstr()), self.hash)? {
                found.push((name, raw));
            }
            Ok(Go::On)
        };
        if wanted.may_be_beneath(b"refs/") {
            let linked = self.git_dir != self.common_dir;
            let skip = |name: &[u8]| linked && names::is_per_worktree(name);
            loose::walk(&self.common_dir, b"refs/", wanted, &skip, &mut read)?;
            if linked {
                for own in [&b"refs/bisect/"[..], b"refs/rewritten/", b"refs/worktree/"] {
                    if wanted.may_be_beneath(own) {
                        loose::walk(&self.git_dir, own, wanted, &|_| false, &mut read)?;
                    }
                }
            }
        }
        found.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        Ok(found)
    }

    /// What an object is, remembered for as long as the repository is open.
    pub(super) fn target(&self, objects: &dyn RefObjects, id: &oid) -> Result<RefTarget, RefsError> {
        let lock = || self.targets.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(target) = lock().get(id) {
            return Ok(*target);
        }
        let target = objects.target(id)?;
        // A tag whose end is missing may be completed by a later push.
        if !matches!(target, RefTarget::Missing | RefTarget::Tag(None)) {
            let mut targets = lock();
            if targets.len() >= REMEMBERED_TARGETS {
                targets.clear();
            }
            targets.insert(id.to_owned(), target);
        }
        Ok(target)
    }
}

/// One mutex for each repository in this process, shared by everybody who has it open.
fn turn_of(common_dir: &Path) -> Arc<Mutex<()>> {
    static TURNS: Mutex<Option<HashMap<PathBuf, Weak<Mutex<()>>>>> = Mutex::new(None);
    let path = common_dir.canonicalize().unwrap_or_else(|_| common_dir.to_owned());
    let mut turns = TURNS.lock().unwrap_or_else(PoisonError::into_inner);
    let turns = turns.get_or_insert_default();
    if let Some(turn) = turns.get(&path).and_then(Weak::upgrade) {
        return turn;
    }
    if turns.len() % 64 == 63 {
        turns.retain(|_, turn| turn.strong_count() > 0);
    }
    let turn = Arc::new(Mutex::default());
    turns.insert(path, Arc::downgrade(&turn));
    turn
}
