use std::{
    collections::{BTreeMap, VecDeque},
    fmt, fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

use redb::{Database, DatabaseError, ReadableDatabase as _, ReadableTable as _, TableDefinition};
use serde::{Serialize, de::DeserializeOwned};

use super::LedgerError;

/// The format of the file.
const VERSION: u64 = 1;
/// Entries of a journal that wait for the disk; beyond it the oldest of them are forgotten, and that is told.
const WAITING: usize = 20_000;
/// Entries that each journal keeps.
const KEPT: u64 = 5_000;
/// How often a journal is cut to that, in entries.
const CUT_EVERY: u64 = 500;
/// Memory for pages of the database.
const CACHE: usize = 4 << 20;

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const RECORDS: TableDefinition<'_, (&str, &str), &[u8]> = TableDefinition::new("records");
const JOURNAL: TableDefinition<'_, (&str, u64), &[u8]> = TableDefinition::new("journal");

fn bad<E: Into<redb::Error>>(doing: &'static str) -> impl FnOnce(E) -> LedgerError {
    LedgerError::database(doing)
}

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
    fn as_str(self) -> &'static str {
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
    database: Database,
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
    broken: bool,
    closed: bool,
}

/// What is to be written in one transaction.
#[derive(Default)]
struct Changes {
    /// The newest content of each record; none to remove it.
    records: BTreeMap<(Shelf, String), Option<Vec<u8>>>,
    /// Journals that are removed, before anything is added.
    removed: Vec<String>,
    entries: VecDeque<(String, u64, Vec<u8>)>,
    forgotten: u64,
}

impl Changes {
    fn is_empty(&self) -> bool {
        self.records.is_empty() && self.removed.is_empty() && self.entries.is_empty()
    }
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
        let io = |doing| {
            move |source| LedgerError::Io {
                doing,
                path: path.to_owned(),
                source,
            }
        };
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).map_err(io("create the directory of"))?;
        }
        let mut builder = Database::builder();
        builder.set_cache_size(CACHE);
        let database = builder.create(path).map_err(|error| match error {
            DatabaseError::DatabaseAlreadyOpen => LedgerError::InUse { path: path.to_owned() },
            other => bad("open the ledger")(other),
        })?;
        // It says who asked for what.
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(io("protect"))?;
        let write = database
            .begin_write()
            .map_err(bad("begin a transaction of the ledger"))?;
        let next_seq;
        {
            let mut meta = write.open_table(META).map_err(bad("open a table of the ledger"))?;
            let found = meta
                .get("version")
                .map_err(bad("read the ledger"))?
                .map(|found| found.value());
            match found {
                None => {
                    meta.insert("version", VERSION).map_err(bad("write the ledger"))?;
                }
                Some(VERSION) => {}
                Some(found) => {
                    return Err(LedgerError::Version {
                        path: path.to_owned(),
                        found,
                        known: VERSION,
                    });
                }
            }
            next_seq = meta
                .get("next")
                .map_err(bad("read the ledger"))?
                .map_or(1, |found| found.value());
            write.open_table(RECORDS).map_err(bad("open a table of the ledger"))?;
            write.open_table(JOURNAL).map_err(bad("open a table of the ledger"))?;
        }
        write.commit().map_err(bad("commit a transaction of the ledger"))?;
        let shared = Arc::new(Shared {
            database,
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
            .spawn(move || writer.work())
            .map_err(io("start a thread for"))?;
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

    /// Adds an entry to a journal. Does not wait for the disk.
    pub fn append(&self, journal: &str, seq: u64, json: Vec<u8>) {
        self.change(|state| {
            if state.waiting.entries.len() >= WAITING {
                state.waiting.entries.pop_front();
                state.waiting.forgotten += 1;
            }
            state.waiting.entries.push_back((journal.to_owned(), seq, json));
        });
    }

    /// Removes a journal and what waits for it.
    pub fn remove_journal(&self, journal: &str) {
        self.change(|state| {
            state.waiting.entries.retain(|(name, ..)| name != journal);
            state.waiting.removed.push(journal.to_owned());
        });
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) {
        let mut state = self.inner.shared.lock();
        change(&mut state);
        state.given += 1;
        self.inner.shared.work.notify_one();
    }

    /// Waits until everything that was given so far is on the disk. Blocks.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn flush(&self) -> Result<(), LedgerError> {
        let shared = &self.inner.shared;
        let mut state = shared.lock();
        let until = state.given;
        while state.written < until {
            if state.broken {
                return Err(LedgerError::Broken);
            }
            state = shared.done.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        Ok(())
    }

    /// All records of a kind that can be read, in the order of their keys. Those that cannot are told of in the log. Blocks.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn all<T: DeserializeOwned>(&self, shelf: Shelf) -> Result<Vec<(String, T)>, LedgerError> {
        self.flush()?;
        let read = self
            .inner
            .shared
            .database
            .begin_read()
            .map_err(bad("begin a transaction of the ledger"))?;
        let table = read.open_table(RECORDS).map_err(bad("open a table of the ledger"))?;
        let mut all = Vec::new();
        let range = table.range((shelf.as_str(), "")..).map_err(bad("read the ledger"))?;
        for found in range {
            let (key, value) = found.map_err(bad("read the ledger"))?;
            let (on, key) = key.value();
            if on != shelf.as_str() {
                break;
            }
            match serde_json::from_slice(value.value()) {
                Ok(record) => all.push((key.to_owned(), record)),
                Err(error) => {
                    tracing::error!(shelf = shelf.as_str(), key, %error, "a record of the ledger cannot be read");
                }
            }
        }
        Ok(all)
    }

    /// Up to `most` entries of a journal after number `after`. Blocks.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn entries(&self, journal: &str, after: u64, most: usize) -> Result<Vec<Entry>, LedgerError> {
        self.flush()?;
        let read = self
            .inner
            .shared
            .database
            .begin_read()
            .map_err(bad("begin a transaction of the ledger"))?;
        let table = read.open_table(JOURNAL).map_err(bad("open a table of the ledger"))?;
        let range = table
            .range((journal, after.saturating_add(1))..=(journal, u64::MAX))
            .map_err(bad("read the ledger"))?;
        let mut entries = Vec::new();
        for found in range.take(most) {
            let (key, value) = found.map_err(bad("read the ledger"))?;
            entries.push(Entry {
                seq: key.value().1,
                json: value.value().to_vec(),
            });
        }
        Ok(entries)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        loop {
            let (changes, until, next_seq) = {
                let mut state = self.lock();
                while state.waiting.is_empty() {
                    if state.closed {
                        return;
                    }
                    state.written = state.given;
                    self.done.notify_all();
                    state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
                (std::mem::take(&mut state.waiting), state.given, state.next_seq)
            };
            if changes.forgotten > 0 {
                tracing::error!(entries = changes.forgotten, "the ledger is too slow: events are lost");
            }
            let result = self.write(&changes, next_seq);
            let mut state = self.lock();
            match result {
                Ok(()) => {
                    state.written = until;
                    state.broken = false;
                }
                Err(error) => {
                    tracing::error!(%error, source = ?std::error::Error::source(&error).map(ToString::to_string), "the ledger cannot be written");
                    state.broken = true;
                }
            }
            self.done.notify_all();
        }
    }

    fn write(&self, changes: &Changes, next_seq: u64) -> Result<(), LedgerError> {
        let write = self
            .database
            .begin_write()
            .map_err(bad("begin a transaction of the ledger"))?;
        {
            let mut records = write.open_table(RECORDS).map_err(bad("open a table of the ledger"))?;
            for ((shelf, key), json) in &changes.records {
                let at = (shelf.as_str(), key.as_str());
                match json {
                    Some(json) => records.insert(at, json.as_slice()).map(drop),
                    None => records.remove(at).map(drop),
                }
                .map_err(bad("write the ledger"))?;
            }
            let mut journal = write.open_table(JOURNAL).map_err(bad("open a table of the ledger"))?;
            let cut = |journal: &mut redb::Table<'_, (&str, u64), &[u8]>, name: &str, below: u64| {
                journal.retain_in((name, 0)..=(name, below), |_, _| false)
            };
            for name in &changes.removed {
                cut(&mut journal, name, u64::MAX).map_err(bad("write the ledger"))?;
            }
            for (name, seq, json) in &changes.entries {
                journal
                    .insert((name.as_str(), *seq), json.as_slice())
                    .map_err(bad("write the ledger"))?;
                if seq % CUT_EVERY == 0 {
                    let oldest = {
                        let kept = usize::try_from(KEPT).unwrap_or(usize::MAX);
                        let mut newest = journal
                            .range((name.as_str(), 0)..=(name.as_str(), u64::MAX))
                            .map_err(bad("read the ledger"))?
                            .rev();
                        match newest.nth(kept) {
                            Some(found) => Some(found.map_err(bad("read the ledger"))?.0.value().1),
                            None => None,
                        }
                    };
                    if let Some(oldest) = oldest {
                        cut(&mut journal, name, oldest).map_err(bad("write the ledger"))?;
                    }
                }
            }
            let mut meta = write.open_table(META).map_err(bad("open a table of the ledger"))?;
            meta.insert("next", next_seq).map_err(bad("write the ledger"))?;
        }
        write.commit().map_err(bad("commit a transaction of the ledger"))
    }
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
