//! What is on its way to the disk, objects and large indices: one thread for all workspaces of the process, a moment behind.

use std::{
    collections::BTreeSet,
    fs::File,
    io,
    path::PathBuf,
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

    /// Flushes what is there now.
    pub(super) fn flush(&self) -> Result<(), WorkspaceError> {
        let _turn = locked(&self.flushing);
        let (paths, last) = {
            let mut paths = locked(&self.paths);
            (std::mem::take(&mut *paths), locked(&self.last).take())
        };
        let result = Self::flush_paths(paths);
        if let (Ok(()), Some((git_dir, durable))) = (&result, last)
            && let Err(error) = durable.note(&git_dir)
        {
            tracing::debug!(%error, "a checkpoint that is on the disk was not noted");
        }
        result
    }

    fn flush_paths(Paths { objects, names }: Paths) -> Result<(), WorkspaceError> {
        if objects.len() > MANY
            && let Some(Ok(file)) = objects.first().map(File::open)
            && rustix::fs::syncfs(&file).is_ok()
        {
            return Ok(());
        }
        let mut result = Ok(());
        // Files before the directories that name them: a path sorts behind those that it begins with. Refs last of all.
        for path in objects.into_iter().rev().chain(names.into_iter().rev()) {
            match File::open(&path).and_then(|file| file.sync_all()) {
                // Replaced, or packed since.
                Err(err) if err.kind() == io::ErrorKind::NotFound => {}
                Err(source) => result = result.and(Err(WorkspaceError::io("flush", path)(source))),
                Ok(()) => {}
            }
        }
        result
    }
}

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
                    tracing::error!(%error, "checkpoints may not survive a loss of power");
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
