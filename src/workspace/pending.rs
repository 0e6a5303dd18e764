//! What is on its way to the disk, objects and large indices: one thread for all workspaces of the process, a moment behind.

use std::{
    collections::BTreeSet,
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};

use super::{Durable, Workspace, WorkspaceError};

/// How long a checkpoint may be taken back by a loss of power.
const BEHIND: Duration = Duration::from_millis(900);
/// How long the thread waits for a workspace that somebody has, and when it asks again.
const PATIENCE: Duration = Duration::from_millis(5);
const AGAIN: Duration = Duration::from_millis(100);
/// Paths that are worth a flush of the whole file system.
const MANY: usize = 2_000;

/// Files and directories of one workspace that are not known to be on the disk.
#[derive(Debug, Default)]
pub(super) struct Pending {
    paths: Mutex<Paths>,
    /// The last checkpoint that is whole on the disk when they are, and where that is noted.
    last: Mutex<Option<(PathBuf, Durable)>>,
    /// Held while they are flushed: who waits for a flush waits for one that has begun, too.
    flushing: Mutex<()>,
}

#[derive(Debug, Default)]
struct Paths {
    objects: BTreeSet<PathBuf>,
    /// What names them. It must not be on the disk before they are.
    names: BTreeSet<PathBuf>,
}

impl Paths {
    fn is_empty(&self) -> bool {
        self.objects.is_empty() && self.names.is_empty()
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pending {
    pub(super) fn add(
        self: &Arc<Self>,
        objects: impl IntoIterator<Item = PathBuf>,
        names: impl IntoIterator<Item = PathBuf>,
        last: Option<(PathBuf, Durable)>,
    ) {
        let mut known = locked(&self.paths);
        if last.is_some() {
            *locked(&self.last) = last;
        }
        let was_empty = known.is_empty();
        known.objects.extend(objects);
        known.names.extend(names);
        let is_empty = known.is_empty();
        drop(known);
        if was_empty && !is_empty && !Flusher::take(BEHIND, Errand::Flush(self.clone())) {
            // Without a thread it is done at once.
            let _ = self.flush();
        }
    }

    /// Flushes what is there now. What cannot be stays to be flushed, and so does what names it.
    pub(super) fn flush(&self) -> Result<(), WorkspaceError> {
        self.flush_by(&mut |path| File::open(path).and_then(|file| file.sync_all()))
    }

    fn flush_by(&self, sync: Sync<'_>) -> Result<(), WorkspaceError> {
        let _turn = locked(&self.flushing);
        let (mut paths, last) = {
            let mut paths = locked(&self.paths);
            (std::mem::take(&mut *paths), locked(&self.last).take())
        };
        let result = Self::flush_paths(&mut paths, sync);
        match (&result, last) {
            (Ok(()), Some((git_dir, durable))) => {
                if let Err(error) = durable.note(&git_dir) {
                    tracing::debug!(%error, "a checkpoint that is on the disk was not noted");
                }
            }
            (Ok(()), None) => {}
            (Err(_), last) => {
                let mut known = locked(&self.paths);
                known.objects.append(&mut paths.objects);
                known.names.append(&mut paths.names);
                let mut newer = locked(&self.last);
                *newer = newer.take().or(last);
            }
        }
        result
    }

    /// Takes out of `paths` what is on the disk.
    fn flush_paths(paths: &mut Paths, sync: Sync<'_>) -> Result<(), WorkspaceError> {
        let Paths { objects, names } = paths;
        if objects.len() > MANY
            && let Some(Ok(file)) = objects.first().map(File::open)
            && rustix::fs::syncfs(&file).is_ok()
        {
            objects.clear();
        }
        let mut result = Ok(());
        // Files before the directories that name them: a path sorts behind those that it begins with. Refs last of all, and not before everything else is there.
        for set in [objects, names] {
            let mut left = BTreeSet::new();
            while let Some(path) = set.pop_last() {
                match sync(&path) {
                    // Replaced, or packed since.
                    Err(err) if err.kind() == io::ErrorKind::NotFound => {}
                    Err(source) => {
                        result = result.and(Err(WorkspaceError::io("flush", &path)(source)));
                        left.insert(path);
                    }
                    Ok(()) => {}
                }
            }
            *set = left;
            if result.is_err() {
                break;
            }
        }
        result
    }
}

/// Brings a file or a directory to the disk.
type Sync<'a> = &'a mut dyn FnMut(&Path) -> io::Result<()>;

/// The thread that flushes, and what it is to flush when.
struct Flusher {
    due: Mutex<Due>,
    more: Condvar,
}

struct Due {
    has_thread: bool,
    when: Vec<(Instant, Errand)>,
}

enum Errand {
    Flush(Arc<Pending>),
    Index(Weak<Workspace>),
}

/// Has the index of a workspace written in a while. `false` when there is nobody to do it.
pub(super) fn write_index_later(workspace: Weak<Workspace>, delay: Duration) -> bool {
    Flusher::take(delay, Errand::Index(workspace))
}

static FLUSHER: Flusher = Flusher {
    due: Mutex::new(Due {
        has_thread: false,
        when: Vec::new(),
    }),
    more: Condvar::new(),
};

impl Errand {
    fn run(self) {
        match self {
            Errand::Flush(pending) => {
                if let Err(error) = pending.flush() {
                    tracing::error!(%error, "checkpoints may not survive a loss of power; trying again");
                    // Nobody is left to be told once the workspace is closed, and its last flush has failed, too.
                    if Arc::strong_count(&pending) > 1 {
                        Flusher::take(BEHIND, Errand::Flush(pending));
                    }
                }
            }
            Errand::Index(workspace) => {
                let Some(workspace) = workspace.upgrade() else { return };
                let result = workspace.lock_within(PATIENCE).and_then(|mut held| held.catch_up());
                // Other workspaces wait for this thread.
                if let Err(WorkspaceError::Busy { .. }) = result {
                    Flusher::take(AGAIN, Errand::Index(Arc::downgrade(&workspace)));
                } else if let Err(error) = result {
                    tracing::warn!(workspace = %workspace.root.display(), %error, "the index stays behind");
                }
            }
        }
    }
}

impl Flusher {
    /// Takes something on. `false` when there can be no thread.
    fn take(delay: Duration, errand: Errand) -> bool {
        let mut due = locked(&FLUSHER.due);
        if !due.has_thread {
            let thread = std::thread::Builder::new().name("gitstead-flush".into());
            if thread.spawn(|| FLUSHER.run()).is_err() {
                return false;
            }
            due.has_thread = true;
        }
        due.when.push((Instant::now() + delay, errand));
        FLUSHER.more.notify_one();
        true
    }

    fn run(&self) {
        let mut due = locked(&self.due);
        loop {
            let now = Instant::now();
            let next = due.when.iter().map(|(at, _)| *at).min();
            due = match next {
                None => self.more.wait(due).unwrap_or_else(PoisonError::into_inner),
                Some(at) if at > now => {
                    let waited = self.more.wait_timeout(due, at - now);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                Some(_) => {
                    let ready: Vec<_> = due.when.extract_if(.., |(at, _)| *at <= now).collect();
                    drop(due);
                    for (_, errand) in ready {
                        // It is the only thread there is for this: it outlives what goes wrong with one workspace.
                        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| errand.run())).is_err() {
                            tracing::error!("what a workspace had to be flushed was not");
                        }
                    }
                    locked(&self.due)
                }
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pending(objects: &[&str], names: &[&str]) -> Arc<Pending> {
        let pending = Arc::new(Pending::default());
        let all = |paths: &[&str]| paths.iter().map(PathBuf::from).collect();
        let (objects, names) = (all(objects), all(names));
        *locked(&pending.paths) = Paths { objects, names };
        pending
    }

    fn flush(pending: &Pending, fails: &str) -> (Vec<String>, bool) {
        let mut order = Vec::new();
        let result = pending.flush_by(&mut |path| {
            order.push(path.display().to_string());
            match path == Path::new(fails) {
                true => Err(io::Error::other("no")),
                false => Ok(()),
            }
        });
        (order, result.is_ok())
    }

    #[test]
    fn objects_are_flushed_before_their_directories_and_refs_after_both() {
        let pending = pending(&["o/aa", "o/aa/1", "o/bb/2", "o", "o/bb"], &["a-ref/main", "a-ref"]);
        let (order, done) = flush(&pending, "");
        assert!(done);
        assert_eq!(order, ["o/bb/2", "o/bb", "o/aa/1", "o/aa", "o", "a-ref/main", "a-ref"]);
        assert_eq!(flush(&pending, ""), (vec![], true), "once");
    }

    #[test]
    fn what_could_not_be_flushed_is_flushed_next_time_and_no_ref_before_it() {
        let pending = pending(&["o/aa/1", "o/aa"], &["ref"]);
        assert_eq!(
            flush(&pending, "o/aa/1"),
            (vec!["o/aa/1".to_owned(), "o/aa".to_owned()], false)
        );
        // What comes meanwhile is flushed with it.
        locked(&pending.paths).objects.insert("o/bb/2".into());
        let (order, done) = flush(&pending, "ref");
        assert_eq!(
            (order, done),
            (["o/bb/2", "o/aa/1", "ref"].map(str::to_owned).to_vec(), false)
        );
        assert_eq!(flush(&pending, ""), (vec!["ref".to_owned()], true));
    }

    #[test]
    fn a_checkpoint_is_noted_as_durable_when_all_of_it_is_on_the_disk_and_not_before() {
        let dir = tempfile::tempdir().expect("a directory");
        let pending = pending(&["o"], &["ref"]);
        let durable = Durable {
            reference: "refs/heads/main".into(),
            commit: gix::hash::ObjectId::from_bytes_or_panic(&[7; 20]),
        };
        *locked(&pending.last) = Some((dir.path().to_owned(), durable));
        let noted = || dir.path().join("gitstead-durable").exists();
        for fails in ["o", "ref"] {
            assert!(!flush(&pending, fails).1);
            assert!(!noted(), "{fails}");
        }
        assert!(flush(&pending, "").1);
        assert!(noted());
    }

    #[test]
    fn the_thread_tries_again_what_it_could_not_flush() {
        let dir = tempfile::tempdir().expect("a directory");
        // A file in the place of its directory is another error than that there is none.
        let object = dir.path().join("fan/object");
        std::fs::write(dir.path().join("fan"), "").expect("written");
        let pending = Arc::new(Pending::default());
        locked(&pending.paths).objects.insert(object);
        Errand::Flush(pending.clone()).run();
        assert!(!locked(&pending.paths).is_empty(), "it is not given up");
        std::fs::remove_file(dir.path().join("fan")).expect("removed");
        let deadline = Instant::now() + BEHIND * 20;
        while !locked(&pending.paths).is_empty() {
            assert!(Instant::now() < deadline, "nobody came back to it");
            std::thread::park_timeout(Duration::from_millis(10));
        }
    }
}
