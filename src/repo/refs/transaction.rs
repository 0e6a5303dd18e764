//! Changing refs.
//!
//! # What happens in which order
//!
//! In all cases, with our own mutex of the repository held:
//!
//! 1. Names are checked, symbolic refs followed, new values looked up in the object database.
//! 2. `<ref>.lock` is created for every ref, sorted by name, so C git and we exclude one another ref by ref. Thousands of locks are
//!    hard links to one file and cost little; they cannot be left out, since C git creates a ref while holding nothing but that lock.
//! 3. `packed-refs.lock` is created if anything is deleted or several refs change. (C git takes locks in the same order.)
//! 4. Under the locks, current values are compared with the expected ones, and names with all others for directory/file conflicts:
//!    loose, packed, and coming with this transaction; what the transaction deletes is no obstacle.
//!
//! Then *one update of one ref* writes the value to a file beside the ref, fsyncs it, renames it over the ref (the moment it counts), and fsyncs
//! the directory. *One deletion* renames a `packed-refs` without the ref into place if it was packed, and then unlinks the loose file: as long as that
//! is there it hides what `packed-refs` says, so again one step counts, the last.
//!
//! *Several* changes must count in one step, and the only file that holds several refs is `packed-refs`:
//!
//! 5. Those of the refs that are loose are packed with their *present* values: write `packed-refs.new`, fsync, rename, fsync the directory.
//! 6. The loose files are unlinked and their directories fsynced (or a crash could bring an old value back to hide the new one). Nothing
//!    has changed yet for a reader that looks at loose refs first.
//! 7. All changes are made by renaming a new `packed-refs` into place: the moment they count. The directory is fsynced.
//!
//! A process killed anywhere leaves the old values or the new ones, and locks that the next transaction recognises as stale
//! (see `LockSet`); the first one of every store also looks for those of other refs. Refs that are never packed (`HEAD` itself, `refs/bisect/`, `refs/worktree/`, `refs/rewritten/`) are
//! changed one by one after step 7; no push names them.
//!
//! 8. Reflogs are written, those of deleted refs removed, empty directories removed, locks removed. A reflog that cannot be written is a
//!    line in our log and does not undo what already counts.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    io,
    path::{Path, PathBuf},
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use bstr::{BStr, BString, ByteSlice};
use gix::hash::ObjectId;

use super::{
    disk::{LockFailure, LockSet, lock_path, sweep_locks},
    loose::{self, Go, Raw},
    names::{self, Prefixes},
    packed::Packed,
    store::{RefStore, Resolved},
    types::{RefLog, RefObjects, RefOutcome, RefTarget, RefUpdate, RefsError},
    write::{Edit, Unsettled},
};

/// How long one transaction waits for locks of others altogether, however many refs it has.
const LOCK_BUDGET: Duration = Duration::from_secs(2);

/// `-1` for a lock timeout means for ever in git; a server's threads have better things to do.
pub(super) const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// One ref that shall change.
pub(super) struct Change {
    /// The name at the end of symbolic refs.
    pub(super) name: BString,
    pub(super) old: Option<ObjectId>,
    pub(super) new: Option<ObjectId>,
    /// What the new value peels to, if it is a tag.
    peeled: Option<ObjectId>,
    /// Which updates asked for it: more than one if one names a symbolic ref to the other.
    asked_by: Vec<usize>,
    /// Symbolic refs by which it was named; their reflogs are written too.
    pub(super) via: Vec<BString>,
    /// Whether a loose file holds it now.
    loose: bool,
    /// Whether `packed-refs` has it now.
    packed: bool,
    /// The ref that has to go before a lock file can exist.
    blocked_by: Option<BString>,
    failed: Option<(&'static str, String)>,
}

impl Change {
    fn fail(&mut self, reason: &'static str, detail: String) {
        self.failed.get_or_insert((reason, detail));
    }

    fn cannot_lock(&mut self, why: &str) {
        let detail = format!("cannot lock ref '{}': {why}", self.name);
        self.fail(UPDATE_FAILED, detail);
    }

    fn is_live(&self) -> bool {
        self.failed.is_none() && self.old != self.new
    }
}

const UPDATE_FAILED: &str = "failed to update ref";

impl RefStore {
    /// Changes refs as [`RefUpdate`] says, each only if it still has its old value.
    ///
    /// With `atomic`, all change or none; without, those that can do. What does change, changes in one step, however many they are. When this
    /// returns, the changes are on disk. An error means that something failed after the changes already counted for readers, or that
    /// nothing could be tried at all; a full disk or a held lock before that is an outcome of the refs.
    pub fn update(
        &self,
        updates: &[RefUpdate],
        atomic: bool,
        log: &RefLog,
        objects: &dyn RefObjects,
    ) -> Result<Vec<RefOutcome>, RefsError> {
        let mut outcomes = vec![None; updates.len()];
        let mut changes = self.plan(updates, &mut outcomes, objects)?;
        let refused = |changes: &[Change], outcomes: &[Option<RefOutcome>]| {
            atomic && (outcomes.iter().any(Option::is_some) || changes.iter().any(|c| c.failed.is_some()))
        };
        if !refused(&changes, &outcomes) {
            let turn = self.take_turn();
            if !self.swept.swap(true, Ordering::Relaxed) {
                sweep_locks(&self.disk, &self.common_dir);
            }
            let mut locks = LockSet::new(&self.disk, &self.common_dir);
            if let Err(error) = self.prepare(&mut locks, &mut changes) {
                fail_all(&mut changes, &error);
            }
            if !refused(&changes, &outcomes) {
                self.commit(&mut locks, &mut changes, atomic, log, objects)?;
            }
            drop(locks);
            drop(turn);
        }
        let refused = refused(&changes, &outcomes);
        // What C git finds out before its transaction it reports otherwise than what the transaction finds out.
        let early = outcomes.iter().any(Option::is_some)
            || changes
                .iter()
                .any(|c| c.failed.as_ref().is_some_and(|f| f.0 != UPDATE_FAILED));
        let of_others = if early {
            "atomic push failure"
        } else {
            "atomic transaction failed"
        };
        for change in changes {
            for index in change.asked_by {
                if let Some(outcome) = outcomes.get_mut(index) {
                    *outcome = Some(match &change.failed {
                        None => RefOutcome::Ok,
                        Some((reason, detail)) => RefOutcome::Failed {
                            reason: (*reason).into(),
                            detail: detail.clone(),
                        },
                    });
                }
            }
        }
        Ok(outcomes
            .into_iter()
            .map(|outcome| match outcome.unwrap_or(RefOutcome::Ok) {
                RefOutcome::Failed { reason, detail } if refused && reason == UPDATE_FAILED => RefOutcome::Failed {
                    reason: of_others.into(),
                    detail,
                },
                RefOutcome::Ok if refused => RefOutcome::Failed {
                    reason: of_others.into(),
                    detail: "another ref of the transaction failed".into(),
                },
                outcome => outcome,
            })
            .collect())
    }

    /// Step 1.
    fn plan(
        &self,
        updates: &[RefUpdate],
        outcomes: &mut [Option<RefOutcome>],
        objects: &dyn RefObjects,
    ) -> Result<Vec<Change>, RefsError> {
        let mut changes: Vec<Change> = Vec::with_capacity(updates.len());
        let mut by_name: HashMap<BString, usize> = HashMap::with_capacity(updates.len());
        for ((index, update), outcome) in updates.iter().enumerate().zip(outcomes) {
            let mut fail = |reason: &str, detail: String| {
                *outcome = Some(RefOutcome::Failed {
                    reason: reason.into(),
                    detail,
                });
            };
            if !names::is_valid(&update.name) {
                fail(
                    "funny refname",
                    format!("refusing to update ref with bad name '{}'", update.name),
                );
                continue;
            }
            let name = match loose::read(&self.path(update.name.as_bstr()), self.hash)? {
                Some(Raw::Symbolic(first)) => match self.resolve(first.as_bstr())? {
                    Some(Resolved { name, .. }) => name,
                    None => {
                        fail(
                            "broken symref",
                            format!("refusing update to broken symref '{}'", update.name),
                        );
                        continue;
                    }
                },
                _ => update.name.clone(),
            };
            let via = (name != update.name).then(|| update.name.clone());
            if let Some(change) = by_name.get(&name).and_then(|at| changes.get_mut(*at)) {
                if via.is_none() && change.via.is_empty() {
                    fail(UPDATE_FAILED, format!("multiple updates for ref '{name}' not allowed"));
                    continue;
                }
                if (change.old, change.new) != (update.old, update.new) {
                    change.fail(
                        "inconsistent aliased update",
                        format!(
                            "refusing inconsistent update between symref '{}' and its target '{name}'",
                            update.name
                        ),
                    );
                }
                change.asked_by.push(index);
                change.via.extend(via);
                continue;
            }
            let mut change = Change {
                name,
                old: update.old,
                new: update.new,
                peeled: None,
                asked_by: vec![index],
                via: via.into_iter().collect(),
                loose: false,
                packed: false,
                blocked_by: None,
                failed: None,
            };
            if let Some(new) = update.new {
                let is_branch = change.name.starts_with(b"refs/heads/") || change.name == "HEAD";
                match self.target(objects, &new)? {
                    RefTarget::Missing => {
                        let detail = format!("trying to write ref '{}' with nonexistent object {new}", change.name);
                        change.fail(UPDATE_FAILED, detail);
                    }
                    RefTarget::Commit => {}
                    _ if is_branch => {
                        let detail = format!("trying to write non-commit object {new} to branch '{}'", change.name);
                        change.fail(UPDATE_FAILED, detail);
                    }
                    RefTarget::Tag(peeled) => change.peeled = peeled,
                    RefTarget::Other => {}
                }
            }
            by_name.insert(change.name.clone(), changes.len());
            changes.push(change);
        }
        Ok(changes)
    }

    /// Steps 2 to 4. What fails here fails its change; an error fails them all.
    fn prepare(&self, locks: &mut LockSet<'_>, changes: &mut [Change]) -> Result<(), RefsError> {
        let overall = Instant::now() + LOCK_BUDGET.max(self.options.ref_lock_timeout.min(LONGEST_WAIT));
        let going: BTreeSet<BString> = changes
            .iter()
            .filter(|c| c.failed.is_none() && c.new.is_none())
            .map(|c| c.name.clone())
            .collect();
        let mut order: Vec<usize> = (0..changes.len()).collect();
        order.sort_by(|a, b| changes.get(*a).map(|c| &c.name).cmp(&changes.get(*b).map(|c| &c.name)));
        for at in order {
            let Some(change) = changes.get_mut(at).filter(|c| c.failed.is_none()) else {
                continue;
            };
            self.lock(locks, change, &going, overall)?;
        }
        let live = changes.iter().filter(|c| c.is_live()).count();
        let deletes = changes.iter().any(|c| c.is_live() && c.new.is_none());
        let packed = if live > 1 || deletes {
            self.lock_packed(locks)?;
            self.read_packed()?
        } else {
            self.packed()?
        };
        for change in changes.iter_mut().filter(|c| c.failed.is_none()) {
            self.compare(change, &packed)?;
        }
        self.check_conflicts(changes, &packed)?;
        // Locks of what will not happen may be in the way of what will.
        let failed: HashSet<PathBuf> = changes
            .iter()
            .filter(|c| c.failed.is_some())
            .map(|c| lock_path(&self.path(c.name.as_bstr())))
            .collect();
        if !failed.is_empty() {
            locks.release_if(|path| failed.contains(path));
        }
        Ok(())
    }

    /// Takes the lock of one ref.
    fn lock(
        &self,
        locks: &mut LockSet<'_>,
        change: &mut Change,
        going: &BTreeSet<BString>,
        overall: Instant,
    ) -> Result<(), RefsError> {
        let deadline = overall.min(Instant::now() + self.options.ref_lock_timeout.min(LONGEST_WAIT));
        let path = lock_path(&self.path(change.name.as_bstr()));
        match locks.acquire(self.root_of(change.name.as_bstr()), &path, deadline) {
            Ok(()) => {}
            Err(LockFailure::Held) => {
                let why = format!(
                    "Unable to create '{}.lock': File exists. Another process is changing this ref, or one that crashed left the file behind.",
                    change.name
                );
                change.cannot_lock(&why);
            }
            Err(LockFailure::Blocked) => {
                let other = names::ancestors(change.name.as_bstr())
                    .find(|name| loose::is_file(&self.path(name)))
                    .map(BStr::to_owned);
                match other {
                    Some(other) if going.contains(&other) => change.blocked_by = Some(other),
                    Some(other) => {
                        let why = format!("'{other}' exists; cannot create '{}'", change.name);
                        change.cannot_lock(&why);
                    }
                    None => change.cannot_lock("unable to create the directories above it"),
                }
            }
            Err(LockFailure::Io(source)) if is_about_the_name(&source) => {
                let why = format!("Unable to create '{}.lock': {source}", change.name);
                change.cannot_lock(&why);
            }
            Err(LockFailure::Io(source)) => {
                return Err(RefsError::Io {
                    doing: "lock",
                    path,
                    source,
                });
            }
        }
        Ok(())
    }

    pub(super) fn lock_packed(&self, locks: &mut LockSet<'_>) -> Result<(), RefsError> {
        let path = lock_path(&self.packed_path);
        match locks.acquire(
            &self.common_dir,
            &path,
            Instant::now() + self.options.packed_lock_timeout,
        ) {
            Ok(()) => Ok(()),
            Err(LockFailure::Held) => Err(RefsError::Locked {
                file: "packed-refs.lock".into(),
            }),
            Err(LockFailure::Blocked) => Err(RefsError::Io {
                doing: "lock",
                path,
                source: io::ErrorKind::NotADirectory.into(),
            }),
            Err(LockFailure::Io(source)) => Err(RefsError::Io {
                doing: "lock",
                path,
                source,
            }),
        }
    }

    /// Compares the present value of a ref, whose lock is held, with the expected one.
    fn compare(&self, change: &mut Change, packed: &Packed) -> Result<(), RefsError> {
        let in_packed = match names::is_per_worktree(&change.name) {
            true => None,
            false => packed.find(&change.name)?.map(|record| record.id),
        };
        change.packed = in_packed.is_some();
        let current = match loose::read(&self.path(change.name.as_bstr()), self.hash)? {
            Some(raw) => {
                change.loose = true;
                Some(raw)
            }
            None => in_packed.map(Raw::Id),
        };
        let current = match current {
            None => None,
            Some(Raw::Id(id)) => Some(id),
            // Whatever it holds can be deleted; there is no other way to get rid of it.
            Some(Raw::Broken) if change.new.is_none() => {
                change.old = Some(self.hash.null());
                return Ok(());
            }
            Some(Raw::Broken) => {
                let why = format!("unable to resolve reference '{}': reference broken", change.name);
                change.cannot_lock(&why);
                return Ok(());
            }
            Some(Raw::Symbolic(_)) => {
                change.cannot_lock("it became a symbolic ref");
                return Ok(());
            }
        };
        match (current, change.old) {
            (current, old) if current == old => {}
            (None, Some(_)) => {
                let why = format!("unable to resolve reference '{}'", change.name);
                change.cannot_lock(&why);
            }
            (Some(_), None) => change.cannot_lock("reference already exists"),
            (Some(current), Some(old)) => change.cannot_lock(&format!("is at {current} but expected {old}")),
            (None, None) => {}
        }
        Ok(())
    }

    /// No ref may be a directory of another. Deletions are looked at first, then creations in the order they were asked for.
    fn check_conflicts(&self, changes: &mut [Change], packed: &Packed) -> Result<(), RefsError> {
        let going: BTreeSet<BString> = changes
            .iter()
            .filter(|c| c.is_live() && c.new.is_none())
            .map(|c| c.name.clone())
            .collect();
        let mut coming: BTreeSet<BString> = BTreeSet::new();
        let mut exists: HashMap<BString, bool> = HashMap::new();
        for change in changes.iter_mut() {
            if !change.is_live() || change.old.is_some() || change.new.is_none() {
                continue;
            }
            let name = change.name.clone();
            if let Some(other) = self.conflict_within(name.as_bstr(), &coming) {
                change.cannot_lock(&format!("cannot process '{other}' and '{name}' at the same time"));
            } else if let Some(other) = self.conflict_with_existing(name.as_bstr(), packed, &going, &mut exists)? {
                change.cannot_lock(&format!("'{other}' exists; cannot create '{name}'"));
            } else if change.blocked_by.as_ref().is_some_and(|other| !going.contains(other)) {
                change.cannot_lock("the ref that is in its way was not deleted");
            } else {
                coming.insert(name);
            }
        }
        Ok(())
    }

    fn conflict_within(&self, name: &BStr, coming: &BTreeSet<BString>) -> Option<BString> {
        if let Some(other) = names::ancestors(name).find(|ancestor| coming.contains(*ancestor)) {
            return Some(other.to_owned());
        }
        let directory = directory_of(name);
        coming
            .range(directory.clone()..)
            .next()
            .filter(|other| other.starts_with(&directory))
            .cloned()
    }

    pub(super) fn conflict_with_existing(
        &self,
        name: &BStr,
        packed: &Packed,
        going: &BTreeSet<BString>,
        exists: &mut HashMap<BString, bool>,
    ) -> Result<Option<BString>, RefsError> {
        for ancestor in names::ancestors(name) {
            let there = match exists.get(ancestor.as_bytes().as_bstr()) {
                Some(there) => *there,
                None => {
                    let there = !going.contains(ancestor)
                        && (loose::is_file(&self.path(ancestor)) || packed.find(ancestor)?.is_some());
                    exists.insert(ancestor.to_owned(), there);
                    there
                }
            };
            if there {
                return Ok(Some(ancestor.to_owned()));
            }
        }
        let directory = directory_of(name);
        for record in packed.records(packed.range(&directory)?) {
            let record = record?;
            if !going.contains(record.name) {
                return Ok(Some(record.name.to_owned()));
            }
        }
        let mut other = None;
        if self.path(name).is_dir() {
            let everything = Prefixes::new(vec![directory.clone()]);
            loose::walk(self.root_of(name), &directory, &everything, &|_| false, &mut |found| {
                if going.contains(&found) {
                    return Ok(Go::On);
                }
                other = Some(found);
                Ok(Go::Stop)
            })?;
        }
        Ok(other)
    }

    /// Steps 5 to 8.
    fn commit(
        &self,
        locks: &mut LockSet<'_>,
        changes: &mut [Change],
        atomic: bool,
        log: &RefLog,
        objects: &dyn RefObjects,
    ) -> Result<(), RefsError> {
        let live = changes.iter().filter(|c| c.is_live()).count();
        if live == 1 {
            let Some(change) = changes.iter_mut().find(|c| c.is_live()) else {
                return Ok(());
            };
            self.commit_one(change, objects)?;
        } else if live > 1 {
            if let Err(error) = self.make_room(locks, changes, objects) {
                fail_all(changes, &error);
            }
            if atomic && changes.iter().any(|c| c.failed.is_some()) {
                return Ok(());
            }
            let together: Vec<&Change> = changes
                .iter()
                .filter(|c| c.is_live() && !names::is_per_worktree(&c.name))
                .collect();
            let mut edits: Vec<Edit<'_>> = together
                .iter()
                .map(|c| Edit {
                    name: c.name.as_bstr(),
                    value: c.new.map(|id| (id, c.peeled)),
                })
                .collect();
            if !edits.is_empty() {
                match self.rewrite_packed(&mut edits, objects) {
                    Ok(()) => {}
                    Err(Unsettled { error, counts: true }) => return Err(error),
                    Err(Unsettled { error, counts: false }) => fail_all(changes, &error),
                }
            }
            for change in changes
                .iter_mut()
                .filter(|c| c.is_live() && names::is_per_worktree(&c.name))
            {
                self.commit_one(change, objects)?;
            }
        }
        self.write_logs(changes.iter().filter(|c| c.is_live()), log);
        let mut parents = BTreeSet::new();
        for change in changes.iter().filter(|c| c.is_live()) {
            if change.new.is_none() || live > 1 {
                parents.extend(self.path(change.name.as_bstr()).parent().map(Path::to_owned));
            }
        }
        // Locks keep directories from being empty.
        locks.release();
        for directory in parents.iter().rev() {
            self.remove_empty_parents(directory);
        }
        Ok(())
    }

    /// Steps 5 and 6, and the locks that could not exist before.
    fn make_room(
        &self,
        locks: &mut LockSet<'_>,
        changes: &mut [Change],
        objects: &dyn RefObjects,
    ) -> Result<(), RefsError> {
        let movable = |c: &&Change| c.is_live() && c.loose && !names::is_per_worktree(&c.name);
        let mut present = Vec::new();
        for change in changes.iter().filter(movable) {
            // A broken one has no value to keep: it goes with this step.
            let value = match change.old.filter(|id| !id.is_null()) {
                Some(id) => match self.target(objects, &id)? {
                    RefTarget::Tag(peeled) => Some((id, peeled)),
                    _ => Some((id, None)),
                },
                None => None,
            };
            present.push(Edit {
                name: change.name.as_bstr(),
                value,
            });
        }
        if present.is_empty() {
            return Ok(());
        }
        self.rewrite_packed(&mut present, objects)
            .map_err(|unsettled| unsettled.error)?;
        let mut directories = BTreeSet::new();
        for change in changes.iter().filter(movable) {
            let path = self.path(change.name.as_bstr());
            self.disk.unlink(&path).map_err(|source| RefsError::Io {
                doing: "remove",
                path: path.clone(),
                source,
            })?;
            directories.extend(path.parent().map(Path::to_owned));
        }
        for directory in directories {
            self.disk.sync_dir(&directory).map_err(|source| RefsError::Io {
                doing: "sync",
                path: directory,
                source,
            })?;
        }
        let overall = Instant::now() + LOCK_BUDGET.max(self.options.ref_lock_timeout.min(LONGEST_WAIT));
        for change in changes.iter_mut().filter(|c| c.is_live() && c.blocked_by.is_some()) {
            self.lock(locks, change, &BTreeSet::new(), overall)?;
            if change.failed.is_none() && loose::read(&self.path(change.name.as_bstr()), self.hash)?.is_some() {
                change.cannot_lock("reference already exists");
            }
        }
        Ok(())
    }

    /// One change by itself: see the head of this file.
    fn commit_one(&self, change: &mut Change, objects: &dyn RefObjects) -> Result<(), RefsError> {
        let name = change.name.clone();
        let path = self.path(name.as_bstr());
        let settled = match change.new {
            Some(new) => self.write_loose(name.as_bstr(), format!("{new}\n").as_bytes()),
            None => self.delete_one(change, &path, objects),
        };
        match settled {
            Ok(()) => Ok(()),
            Err(Unsettled { error, counts: true }) => Err(error),
            Err(Unsettled { error, counts: false }) => {
                change.fail(UPDATE_FAILED, describe(&error));
                Ok(())
            }
        }
    }

    fn delete_one(&self, change: &Change, path: &Path, objects: &dyn RefObjects) -> Result<(), Unsettled> {
        if change.packed {
            self.rewrite_packed(
                &mut [Edit {
                    name: change.name.as_bstr(),
                    value: None,
                }],
                objects,
            )
            .map_err(|unsettled| Unsettled {
                counts: unsettled.counts && !change.loose,
                ..unsettled
            })?;
        }
        if change.loose {
            let io = |counts| move |source| Unsettled::io("remove", path, source, counts);
            self.disk.unlink(path).map_err(io(false))?;
            let parent = path.parent().unwrap_or(path);
            self.disk.sync_dir(parent).map_err(io(true))?;
        }
        Ok(())
    }
}

fn fail_all(changes: &mut [Change], error: &RefsError) {
    tracing::error!(error = error as &dyn std::error::Error, "cannot change refs");
    for change in changes {
        change.fail(UPDATE_FAILED, describe(error));
    }
}

/// An error in words that name no path outside of the repository.
fn describe(error: &RefsError) -> String {
    match error {
        RefsError::Io { doing, source, .. } => format!("unable to {doing} refs: {source}"),
        other => other.to_string(),
    }
}

fn directory_of(name: &BStr) -> BString {
    [name.as_bytes(), b"/"].concat().into()
}

/// Whether the system refuses this one name rather than the work as such.
fn is_about_the_name(error: &io::Error) -> bool {
    use rustix::io::Errno;
    matches!(
        Errno::from_io_error(error),
        Some(Errno::NAMETOOLONG | Errno::INVAL | Errno::ILSEQ | Errno::LOOP | Errno::ISDIR | Errno::EXIST)
    )
}
