use std::{
    fmt,
    path::Path,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use serde::{Serialize, de::DeserializeOwned};

use super::{
    LedgerError,
    changes::Changes,
    disk::{Cuts, Disk},
};

/// After a failure it is tried again so much later, or as soon as somebody wants to know.
const AGAIN: Duration = Duration::from_secs(1);

/// A kind of record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Shelf {
    /// Agents, by name.
    Agents,
    /// Sessions, by id.
    Sessions,
}

impl Shelf {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Shelf::Agents => "agents",
            Shelf::Sessions => "sessions",
        }
    }
}

/// One entry of a journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its number. Numbers grow over all journals, and never come again.
    pub seq: u64,
    /// What was written, as JSON.
    pub json: Vec<u8>,
}

/// The ledger of a data directory. Clones are the same one; when the last one goes, what waits is written.
#[derive(Clone)]
pub struct Ledger {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
}

struct Shared {
    disk: Disk,
    state: Mutex<State>,
    work: Condvar,
    done: Condvar,
}

#[derive(Default)]
struct State {
    waiting: Changes,
    next_seq: u64,
    /// Changes that were given, and those that are on the disk.
    given: u64,
    written: u64,
    /// Times that writing has failed.
    failures: u64,
    /// The last attempt has failed.
    failing: bool,
    /// When it is tried again.
    again: Option<Instant>,
    closed: bool,
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ledger").finish_non_exhaustive()
    }
}

impl Ledger {
    /// Opens the file, or makes it. Blocks.
    ///
    /// # Errors
    /// When it cannot be opened, another process has it, or a later Gitstead has written it.
    pub fn open(path: &Path) -> Result<Self, LedgerError> {
        let (disk, next_seq) = Disk::open(path)?;
        Self::on(disk, next_seq).map_err(|source| LedgerError::Io {
            doing: "start a thread for",
            path: path.to_owned(),
            source,
        })
    }

    pub(super) fn on(disk: Disk, next_seq: u64) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            disk,
            state: Mutex::new(State {
                next_seq,
                ..State::default()
            }),
            work: Condvar::new(),
            done: Condvar::new(),
        });
        let writer = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("ledger".to_owned())
            .spawn(move || writer.work())?;
        Ok(Ledger {
            inner: Arc::new(Inner {
                shared,
                thread: Mutex::new(Some(thread)),
            }),
        })
    }

    /// Keeps a record. Does not wait for the disk.
    ///
    /// # Errors
    /// When it cannot be written as JSON.
    pub fn put(&self, shelf: Shelf, key: &str, record: &impl Serialize) -> Result<(), LedgerError> {
        let json = serde_json::to_vec(record)?;
        self.change(|state| state.waiting.records.insert((shelf, key.to_owned()), Some(json)));
        Ok(())
    }

    /// Removes a record.
    pub fn remove(&self, shelf: Shelf, key: &str) {
        self.change(|state| state.waiting.records.insert((shelf, key.to_owned()), None));
    }

    /// The number of the next entry of any journal, for whoever puts it into the entry; to be used once, with [`append`](Self::append).
    pub fn next_seq(&self) -> u64 {
        let mut state = self.inner.shared.lock();
        let seq = state.next_seq;
        state.next_seq += 1;
        seq
    }

    /// Adds an entry to a journal. Does not wait for the disk; where it is too slow or full the oldest entries that wait are forgotten, and the log tells.
    pub fn append(&self, journal: &str, seq: u64, json: Vec<u8>) {
        self.change(|state| state.waiting.append(journal.to_owned(), seq, json));
    }

    /// Removes a journal and what waits for it.
    pub fn remove_journal(&self, journal: &str) {
        self.change(|state| state.waiting.remove_journal(journal));
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) {
        let mut state = self.inner.shared.lock();
        change(&mut state);
        state.given += 1;
        self.inner.shared.work.notify_one();
    }

    /// Whether what was given cannot be written at this moment, and waits.
    pub fn is_stuck(&self) -> bool {
        self.inner.shared.lock().again.is_some()
    }

    /// Waits until everything that was given so far is on the disk. Blocks.
    ///
    /// # Errors
    /// When it cannot be written now. It is kept and tried again, until it is written or the process ends.
    pub fn flush(&self) -> Result<(), LedgerError> {
        let shared = &self.inner.shared;
        let mut state = shared.lock();
        let (until, failures) = (state.given, state.failures);
        // Whoever asks does not wait for the next attempt.
        if state.again.take().is_some() {
            shared.work.notify_one();
        }
        while state.written < until {
            if state.failures > failures {
                return Err(LedgerError::Broken);
            }
            state = shared.done.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        Ok(())
    }

    /// All records of a kind that can be read, in the order of their keys. Those that cannot are told of in the log. Blocks.
    ///
    /// # Errors
    /// When what was given cannot be written, or the file cannot be read.
    pub fn all<T: DeserializeOwned>(&self, shelf: Shelf) -> Result<Vec<(String, T)>, LedgerError> {
        self.flush()?;
        let mut all = Vec::new();
        self.inner
            .shared
            .disk
            .records(shelf, &mut |key, json| match serde_json::from_slice(json) {
                Ok(record) => all.push((key.to_owned(), record)),
                Err(error) => {
                    tracing::error!(shelf = shelf.as_str(), key, %error, "a record of the ledger cannot be read");
                }
            })?;
        Ok(all)
    }

    /// Up to `most` entries of a journal after number `after`. Blocks.
    ///
    /// # Errors
    /// As [`all`](Self::all).
    pub fn entries(&self, journal: &str, after: u64, most: usize) -> Result<Vec<Entry>, LedgerError> {
        self.flush()?;
        self.inner.shared.disk.entries(journal, after, most)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        let mut cuts = Cuts::default();
        loop {
            let mut state = self.lock();
            while !state.closed {
                if state.waiting.is_empty() {
                    state.written = state.given;
                    self.done.notify_all();
                    state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
                    continue;
                }
                let Some(again) = state.again else { break };
                let pause = again.saturating_duration_since(Instant::now());
                if pause.is_zero() {
                    break;
                }
                state = self
                    .work
                    .wait_timeout(state, pause)
                    .unwrap_or_else(PoisonError::into_inner)
                    .0;
            }
            let last = state.closed;
            let after_failure = state.failing;
            let mut changes = std::mem::take(&mut state.waiting);
            let (until, next_seq) = (state.given, state.next_seq);
            drop(state);
            let forgotten = std::mem::take(&mut changes.forgotten);
            if forgotten > 0 {
                tracing::error!(entries = forgotten, "the ledger is too slow: events are lost");
            }
            let mut write = || {
                // A database that is damaged may panic; whoever waits for this thread must not wait for ever.
                let write = std::panic::AssertUnwindSafe(|| self.disk.write(&changes, next_seq, last, &mut cuts));
                std::panic::catch_unwind(write).unwrap_or(Err(LedgerError::Broken))
            };
            let written = write().or_else(|error| {
                // The first failure is told of once; what comes after it are attempts with a database that was opened anew.
                if !after_failure {
                    tell(&error);
                }
                self.disk.again()?;
                write()
            });
            let mut state = self.lock();
            match written {
                Ok(()) => {
                    state.written = until;
                    state.failing = false;
                    state.again = None;
                    if after_failure {
                        tracing::info!("the ledger can be written again");
                    }
                }
                Err(error) if last => {
                    tell(&error);
                    tracing::error!("what the ledger could not write is lost");
                }
                Err(_) => {
                    let later = std::mem::take(&mut state.waiting);
                    state.waiting = changes.then(later);
                    state.failures += 1;
                    state.failing = true;
                    state.again = Some(Instant::now() + AGAIN);
                }
            }
            self.done.notify_all();
            if last {
                return;
            }
        }
    }
}

fn tell(error: &LedgerError) {
    tracing::error!(%error, source = ?std::error::Error::source(error).map(ToString::to_string), "the ledger cannot be written");
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.work.notify_one();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // It has said what there is to say.
            let _ = thread.join();
        }
    }
}
