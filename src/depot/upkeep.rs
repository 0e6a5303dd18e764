use std::{
    collections::{HashMap, HashSet, VecDeque},
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use crate::repo::{CompactOptions, MaintainOutcome, Occasion, RepackError, Repository};

/// Repositories that wait. Whoever comes when there are more asks again with the next push.
const MOST_WAITING: usize = 10_000;
/// How much more modest than others the thread is (`nice`).
const NICE: i32 = 10;
/// A repository in which it went wrong, or in which something is damaged, is left alone for so long.
const REST: Duration = Duration::from_secs(30 * 60);

/// Keeps repositories small and quick in the background, one at a time, on one thread that gives way to all others: whoever has written to a repository says so, and it is
/// maintained if it wants to be. Dropped, it ends what it is at, which leaves the repository as it was.
#[derive(Debug)]
pub struct Upkeep {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    stop: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Arc<Repository>>,
    /// Their directories.
    places: HashSet<PathBuf>,
    busy: bool,
    /// Those that are left alone, and until when.
    resting: HashMap<PathBuf, Instant>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Upkeep {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system has no thread to spare.
    pub fn start() -> io::Result<Upkeep> {
        let shared = Arc::new(Shared::default());
        let theirs = shared.clone();
        let thread = std::thread::Builder::new().name("upkeep".to_owned()).spawn(move || {
            // On Linux this is the thread's own; the threads it starts have it too.
            if let Err(error) = rustix::process::nice(NICE) {
                tracing::debug!(%error, "upkeep runs at the priority of all others");
            }
            work(&theirs);
        })?;
        Ok(Upkeep {
            shared,
            thread: Some(thread),
        })
    }

    /// The one of this process, started when it is first asked for; `None` when the system has no thread to spare.
    pub fn of_process() -> Option<Arc<Upkeep>> {
        static UPKEEP: OnceLock<Option<Arc<Upkeep>>> = OnceLock::new();
        let start = || match Upkeep::start() {
            Ok(upkeep) => Some(Arc::new(upkeep)),
            Err(error) => {
                tracing::warn!(%error, "there is no thread to look after repositories");
                None
            }
        };
        UPKEEP.get_or_init(start).clone()
    }

    /// Says that something was written to a repository. Returns at once.
    pub fn consider(&self, repository: &Arc<Repository>) {
        let place = repository.common_dir();
        let mut state = self.shared.state();
        if state.places.contains(place) || state.waiting.len() >= MOST_WAITING {
            return;
        }
        state.places.insert(place.to_owned());
        state.waiting.push_back(repository.clone());
        drop(state);
        self.shared.changed.notify_all();
    }

    /// Waits until nothing waits and nothing is done, but at most so long. Says whether that is so.
    pub fn wait_until_idle(&self, at_most: Duration) -> bool {
        let working = |state: &mut State| state.busy || !state.waiting.is_empty();
        let state = self.shared.state();
        let waited = self.shared.changed.wait_timeout_while(state, at_most, working);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        !working(&mut state)
    }
}

impl Upkeep {
    /// Ends what is being done, and does nothing more. Waits for that, but at most so long.
    pub fn close(&self, at_most: Duration) {
        let state = self.shared.state();
        self.shared.stop.store(true, Ordering::Relaxed);
        self.shared.changed.notify_all();
        let _ = (self.shared.changed).wait_timeout_while(state, at_most, |state| state.busy);
    }
}

impl Drop for Upkeep {
    fn drop(&mut self) {
        self.close(Duration::ZERO);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn work(shared: &Shared) {
    loop {
        let mut state = shared.state();
        state.busy = false;
        shared.changed.notify_all();
        let idle = |state: &mut State| state.waiting.is_empty() && !shared.stop.load(Ordering::Relaxed);
        let mut state = shared
            .changed
            .wait_while(state, idle)
            .unwrap_or_else(PoisonError::into_inner);
        if shared.stop.load(Ordering::Relaxed) {
            return;
        }
        let Some(repository) = state.waiting.pop_front() else {
            continue;
        };
        let place = repository.common_dir().to_owned();
        // What is written from here on is considered anew.
        state.places.remove(&place);
        let now = Instant::now();
        state.resting.retain(|_, until| *until > now);
        if state.resting.contains_key(&place) {
            continue;
        }
        state.busy = true;
        drop(state);
        let done = catch_unwind(AssertUnwindSafe(|| look_after(&repository, &shared.stop)));
        let went_well = done.unwrap_or_else(|_| {
            tracing::error!(repository = %place.display(), "upkeep ended in a panic");
            false
        });
        if !went_well {
            shared.state().resting.insert(place, Instant::now() + REST);
        }
    }
}

/// Says whether it may be considered again soon.
fn look_after(repository: &Repository, stop: &AtomicBool) -> bool {
    let place = repository.common_dir().display();
    let settings = repository.settings();
    if !settings.maintenance_auto || settings.precious_objects {
        return true;
    }
    let start = Instant::now();
    let outcome = match repository.wants_maintenance() {
        Ok(false) => return true,
        Ok(true) => repository.maintain(&CompactOptions::default(), Occasion::Written, stop, &mut |_| ()),
        Err(error) => Err(error),
    };
    match outcome {
        Ok(outcome) => {
            let MaintainOutcome {
                compaction,
                files,
                graph,
                ..
            } = &outcome;
            // What could not be written now cannot be in a minute.
            let in_vain = compaction.pack.is_none() && files.bitmaps == 0 && files.packs == 0 && graph.commits == 0;
            if !in_vain {
                tracing::info!(
                    repository = %place,
                    objects = compaction.objects,
                    bytes = compaction.bytes,
                    packs_deleted = compaction.packs_deleted,
                    loose_deleted = compaction.loose_deleted,
                    bytes_deleted = compaction.bytes_deleted,
                    bitmaps = files.bitmaps,
                    commits = graph.commits,
                    refs = outcome.refs,
                    seconds = start.elapsed().as_secs_f32(),
                    "maintained"
                );
            }
            compaction.damaged == 0 && (!in_vain || compaction.skipped.is_some())
        }
        Err(RepackError::Stopped) => true,
        // Deleted or renamed meanwhile: nothing to be told of.
        Err(_) if !repository.objects_dir().is_dir() => true,
        Err(error) => {
            let error: &dyn std::error::Error = &error;
            tracing::warn!(repository = %place, error, "a repository cannot be maintained");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        base::RepoName,
        depot::{CreateOptions, Depot, DepotOptions},
    };

    const PATIENCE: Duration = Duration::from_secs(60);

    fn loose_objects(repository: &Repository) -> usize {
        let fans = std::fs::read_dir(repository.objects_dir()).expect("listed").flatten();
        fans.filter(|fan| fan.file_name().len() == 2)
            .map(|fan| std::fs::read_dir(fan.path()).expect("listed").count())
            .sum()
    }

    fn fill(repository: &Repository, count: u32) {
        for n in 0..count {
            let content = n.to_le_bytes();
            let id = gix::objs::compute_hash(repository.hash_kind(), gix::objs::Kind::Blob, &content).expect("an id");
            let path = crate::repo::loose_path(repository.objects_dir(), &id);
            std::fs::create_dir_all(path.parent().expect("a directory")).expect("made");
            let mut packed = Vec::new();
            // Stored, not compressed: two bytes of header, one block, and the checksum.
            let mut whole = format!("blob {}\0", content.len()).into_bytes();
            whole.extend_from_slice(&content);
            packed.extend_from_slice(&[0x78, 0x01, 0x01]);
            packed.extend_from_slice(&(whole.len() as u16).to_le_bytes());
            packed.extend_from_slice(&(!(whole.len() as u16)).to_le_bytes());
            packed.extend_from_slice(&whole);
            let (mut a, mut b) = (1u32, 0u32);
            for byte in &whole {
                a = (a + u32::from(*byte)) % 65_521;
                b = (b + a) % 65_521;
            }
            packed.extend_from_slice(&((b << 16) | a).to_be_bytes());
            std::fs::write(path, packed).expect("written");
        }
    }

    fn depot() -> (tempfile::TempDir, Depot) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let depot = Depot::new(dir.path(), DepotOptions::default()).expect("a depot");
        (dir, depot)
    }

    fn made(depot: &Depot, name: &str) -> Arc<Repository> {
        let name = RepoName::parse(name).expect("a name");
        depot.create(&name, &CreateOptions::default()).expect("created");
        depot.open(&name).expect("opened")
    }

    #[test]
    fn what_wants_it_is_compacted_and_the_rest_is_not() {
        let (_dir, depot) = depot();
        let upkeep = Upkeep::start().expect("a thread");
        let (many, few) = (made(&depot, "many"), made(&depot, "few"));
        fill(&many, 4_000);
        fill(&few, 10);
        for _ in 0..3 {
            upkeep.consider(&many);
            upkeep.consider(&few);
        }
        assert!(upkeep.wait_until_idle(PATIENCE));
        assert_eq!((loose_objects(&many), loose_objects(&few)), (0, 10));
        assert_eq!(many.odb().expect("an odb").packs().len(), 1);
    }

    #[test]
    fn a_repository_may_say_that_it_wants_none() {
        let (_dir, depot) = depot();
        let upkeep = Upkeep::start().expect("a thread");
        for (name, line) in [("a", "[gc]\n\tauto = 0\n"), ("b", "[maintenance]\n\tauto = false\n")] {
            let path = made(&depot, name).git_dir().join("config");
            let mut config = std::fs::read_to_string(&path).expect("read");
            config.push_str(line);
            std::fs::write(path, config).expect("written");
            let repository = depot.open(&RepoName::parse(name).expect("a name")).expect("opened");
            fill(&repository, 4_000);
            upkeep.consider(&repository);
            assert!(upkeep.wait_until_idle(PATIENCE));
            assert_eq!(loose_objects(&repository), 4_000, "{line}");
        }
    }

    #[test]
    fn it_ends_when_it_is_dropped_whatever_waits() {
        let (_dir, depot) = depot();
        let repository = made(&depot, "r");
        fill(&repository, 4_000);
        let upkeep = Upkeep::start().expect("a thread");
        upkeep.consider(&repository);
        drop(upkeep);
        let packed: usize = repository
            .odb()
            .expect("an odb")
            .packs()
            .iter()
            .map(|pack| pack.index().expect("a pack").len() as usize)
            .sum();
        assert_eq!(loose_objects(&repository) + packed, 4_000, "all or nothing");
    }
}
