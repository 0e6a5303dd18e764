use std::{
    collections::HashMap,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::{PoisonError, RwLock},
};

use redb::{Database, DatabaseError, ReadTransaction, ReadableDatabase as _, ReadableTable as _, TableDefinition};

use super::{Entry, LedgerError, Shelf, changes::Changes};

/// The format of the file.
const VERSION: u64 = 1;
/// Entries that each journal keeps.
const KEPT: u64 = 5_000;
/// How often a journal is cut to that, in entries of its own.
const CUT_EVERY: u64 = 500;
/// Memory for pages of the database.
const CACHE: usize = 4 << 20;
/// Numbers that may have been told to somebody and not to the disk when a process was killed: far more than may wait, since a full disk may have lasted.
const MAY_BE_LOST: u64 = 1_000_000;

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const RECORDS: TableDefinition<'_, (&str, &str), &[u8]> = TableDefinition::new("records");
const JOURNAL: TableDefinition<'_, (&str, u64), &[u8]> = TableDefinition::new("journal");

fn bad<E: Into<redb::Error>>(doing: &'static str) -> impl FnOnce(E) -> LedgerError {
    LedgerError::database(doing)
}

type Open = dyn Fn() -> Result<Database, LedgerError> + Send + Sync;

/// The ledger on the disk. A database that has met an error of the disk answers nothing any more until it is opened again; that is done here.
pub(super) struct Disk {
    open: Box<Open>,
    /// None when it could not be opened again.
    database: RwLock<Option<Database>>,
}

/// What the one who writes remembers from one time to the next: entries of each journal since it was cut.
#[derive(Default)]
pub(super) struct Cuts(HashMap<String, u64>);

impl Disk {
    /// The disk, and the number of the next entry.
    pub(super) fn open(path: &Path) -> Result<(Self, u64), LedgerError> {
        let path = path.to_owned();
        Self::of(move || open_file(&path))
    }

    pub(super) fn of(
        open: impl Fn() -> Result<Database, LedgerError> + Send + Sync + 'static,
    ) -> Result<(Self, u64), LedgerError> {
        let database = open()?;
        let next = begin(&database)?;
        let disk = Disk {
            open: Box::new(open),
            database: RwLock::new(Some(database)),
        };
        Ok((disk, next))
    }

    /// Opens it anew, after an error.
    pub(super) fn again(&self) -> Result<(), LedgerError> {
        let mut database = self.database.write().unwrap_or_else(PoisonError::into_inner);
        // The file's lock goes with it.
        *database = None;
        *database = Some((self.open)()?);
        Ok(())
    }

    fn with<T>(&self, f: impl FnOnce(&Database) -> Result<T, LedgerError>) -> Result<T, LedgerError> {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        f(database.as_ref().ok_or(LedgerError::Broken)?)
    }

    fn read<T>(&self, f: impl FnOnce(&ReadTransaction) -> Result<T, LedgerError>) -> Result<T, LedgerError> {
        self.with(|database| {
            f(&database
                .begin_read()
                .map_err(bad("begin a transaction of the ledger"))?)
        })
    }

    /// Hands over every record of a kind.
    pub(super) fn records(&self, shelf: Shelf, found: &mut dyn FnMut(&str, &[u8])) -> Result<(), LedgerError> {
        self.read(|read| {
            let table = read.open_table(RECORDS).map_err(bad("open a table of the ledger"))?;
            let range = table.range((shelf.as_str(), "")..).map_err(bad("read the ledger"))?;
            for record in range {
                let (key, value) = record.map_err(bad("read the ledger"))?;
                let (on, key) = key.value();
                if on != shelf.as_str() {
                    break;
                }
                found(key, value.value());
            }
            Ok(())
        })
    }

    /// Up to `most` entries of a journal after number `after`.
    pub(super) fn entries(&self, journal: &str, after: u64, most: usize) -> Result<Vec<Entry>, LedgerError> {
        self.read(|read| {
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
        })
    }

    /// Writes all of it or nothing. `last` says that nothing more comes.
    pub(super) fn write(
        &self,
        changes: &Changes,
        next_seq: u64,
        last: bool,
        cuts: &mut Cuts,
    ) -> Result<(), LedgerError> {
        self.with(|database| {
            let write = database
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
                for name in &changes.removed {
                    cuts.0.remove(name);
                    cut(&mut journal, name, u64::MAX)?;
                }
                for (name, seq, json) in &changes.entries {
                    journal
                        .insert((name.as_str(), *seq), json.as_slice())
                        .map_err(bad("write the ledger"))?;
                    let since = cuts.0.entry(name.clone()).or_default();
                    *since += 1;
                    if *since >= CUT_EVERY {
                        *since = 0;
                        keep_newest(&mut journal, name)?;
                    }
                }
                let mut meta = write.open_table(META).map_err(bad("open a table of the ledger"))?;
                meta.insert("next", next_seq).map_err(bad("write the ledger"))?;
                meta.insert("closed", u64::from(last))
                    .map_err(bad("write the ledger"))?;
            }
            write.commit().map_err(bad("commit a transaction of the ledger"))
        })
    }
}

type Journal<'a> = redb::Table<'a, (&'static str, u64), &'static [u8]>;

/// Removes the entries of a journal up to a number.
fn cut(journal: &mut Journal<'_>, name: &str, up_to: u64) -> Result<(), LedgerError> {
    journal
        .retain_in((name, 0)..=(name, up_to), |_, _| false)
        .map_err(bad("write the ledger"))
}

fn keep_newest(journal: &mut Journal<'_>, name: &str) -> Result<(), LedgerError> {
    let oldest = {
        let mut newest = journal
            .range((name, 0)..=(name, u64::MAX))
            .map_err(bad("read the ledger"))?
            .rev();
        match newest.nth(usize::try_from(KEPT).unwrap_or(usize::MAX)) {
            Some(found) => found.map_err(bad("read the ledger"))?.0.value().1,
            None => return Ok(()),
        }
    };
    cut(journal, name, oldest)
}

fn open_file(path: &Path) -> Result<Database, LedgerError> {
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
    Ok(database)
}

/// Looks at the version, makes what is not there, and says the number of the next entry.
fn begin(database: &Database) -> Result<u64, LedgerError> {
    let write = database
        .begin_write()
        .map_err(bad("begin a transaction of the ledger"))?;
    let next;
    {
        let mut meta = write.open_table(META).map_err(bad("open a table of the ledger"))?;
        let read = |name| -> Result<Option<u64>, LedgerError> {
            let found = meta.get(name).map_err(bad("read the ledger"))?;
            Ok(found.map(|found| found.value()))
        };
        let (version, number, closed) = (read("version")?, read("next")?, read("closed")?);
        match version {
            None => {
                meta.insert("version", VERSION).map_err(bad("write the ledger"))?;
            }
            Some(VERSION) => {}
            Some(found) => return Err(LedgerError::Version { found, known: VERSION }),
        }
        next = match (number, closed) {
            (None, _) => 1,
            (Some(next), Some(1)) => next,
            (Some(next), _) => next + MAY_BE_LOST,
        };
        meta.insert("next", next).map_err(bad("write the ledger"))?;
        meta.insert("closed", 0).map_err(bad("write the ledger"))?;
        write.open_table(RECORDS).map_err(bad("open a table of the ledger"))?;
        write.open_table(JOURNAL).map_err(bad("open a table of the ledger"))?;
    }
    write.commit().map_err(bad("commit a transaction of the ledger"))?;
    Ok(next)
}
