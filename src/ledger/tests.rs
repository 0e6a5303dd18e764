use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use redb::{StorageBackend, backends::InMemoryBackend};
use serde_json::{Value, json};

use super::{disk::Disk, *};

/// A disk that can be full.
#[derive(Debug, Clone)]
struct Flaky {
    disk: Arc<InMemoryBackend>,
    full: Arc<AtomicBool>,
}

impl Flaky {
    fn new() -> Self {
        Flaky {
            disk: Arc::new(InMemoryBackend::new()),
            full: Arc::default(),
        }
    }

    fn is_full(&self, full: bool) {
        self.full.store(full, Ordering::SeqCst);
    }

    fn ledger(&self) -> Ledger {
        let this = self.clone();
        let open = move || {
            redb::Database::builder()
                .create_with_backend(this.clone())
                .map_err(LedgerError::database("open the ledger"))
        };
        let (disk, next) = Disk::of(open).expect("opened");
        Ledger::on(disk, next).expect("a thread")
    }

    fn check(&self) -> io::Result<()> {
        match self.full.load(Ordering::SeqCst) {
            true => Err(io::ErrorKind::StorageFull.into()),
            false => Ok(()),
        }
    }
}

impl StorageBackend for Flaky {
    fn len(&self) -> io::Result<u64> {
        self.disk.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.disk.read(offset, out)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.check()?;
        self.disk.set_len(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.check()?;
        self.disk.sync_data()
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.check()?;
        self.disk.write(offset, data)
    }
}

#[test]
fn what_a_full_disk_did_not_take_is_written_later() {
    let flaky = Flaky::new();
    let ledger = flaky.ledger();
    let put = |n: u64| {
        ledger.put(Shelf::Agents, "one", &json!(n)).expect("JSON");
        ledger.append("one", ledger.next_seq(), n.to_string().into_bytes());
    };
    put(1);
    ledger.flush().expect("written");
    flaky.is_full(true);
    for n in 2..5 {
        put(n);
        assert!(
            matches!(ledger.flush(), Err(LedgerError::Broken)),
            "never said to be there"
        );
        assert!(ledger.flush().is_err());
        assert!(ledger.entries("one", 0, 10).is_err());
    }
    flaky.is_full(false);
    put(5);
    ledger.flush().expect("there is room again");
    let read = |ledger: &Ledger| -> (Vec<(String, u64)>, Vec<u64>) {
        let entries = ledger.entries("one", 0, 10).expect("read");
        (
            ledger.all(Shelf::Agents).expect("read"),
            entries.iter().map(|entry| entry.seq).collect(),
        )
    };
    assert_eq!(read(&ledger), (vec![("one".to_owned(), 5)], vec![1, 2, 3, 4, 5]));
    // And nobody has to ask for it: whoever closes writes what is left.
    flaky.is_full(true);
    put(6);
    assert!(ledger.flush().is_err());
    flaky.is_full(false);
    drop(ledger);
    let ledger = flaky.ledger();
    assert_eq!(read(&ledger), (vec![("one".to_owned(), 6)], vec![1, 2, 3, 4, 5, 6]));
    assert_eq!(ledger.next_seq(), 7);
}

#[test]
fn numbers_that_a_killed_process_may_have_told_do_not_come_again() {
    let flaky = Flaky::new();
    let ledger = flaky.ledger();
    ledger.append("one", ledger.next_seq(), b"1".to_vec());
    ledger.flush().expect("written");
    let told = ledger.next_seq();
    // Killed: it cannot say that it has closed.
    flaky.is_full(true);
    drop(ledger);
    flaky.is_full(false);
    assert!(flaky.ledger().next_seq() > told);
}

#[test]
fn what_was_given_is_there_after_a_restart_and_numbers_never_come_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("a/ledger.redb");
    let ledger = Ledger::open(&path).expect("opened");
    assert!(matches!(Ledger::open(&path), Err(LedgerError::InUse { .. })));
    for n in 0..3 {
        ledger.put(Shelf::Agents, "one", &json!({ "n": n })).expect("JSON");
        ledger.put(Shelf::Sessions, "one", &json!("other shelf")).expect("JSON");
        let seq = ledger.next_seq();
        ledger.append("one", seq, format!("{n}").into_bytes());
    }
    ledger.put(Shelf::Agents, "two", &json!(2)).expect("JSON");
    ledger.remove(Shelf::Agents, "two");
    let other = ledger.next_seq();
    ledger.append("other", other, b"x".to_vec());
    ledger.flush().expect("written");
    drop(ledger);

    let ledger = Ledger::open(&path).expect("opened again");
    let all: Vec<(String, Value)> = ledger.all(Shelf::Agents).expect("read");
    assert_eq!(all, [("one".to_owned(), json!({ "n": 2 }))]);
    let entries = ledger.entries("one", 1, 10).expect("read");
    assert_eq!(entries.iter().map(|entry| entry.seq).collect::<Vec<_>>(), [2, 3]);
    assert_eq!(entries[1].json, b"2");
    assert_eq!(ledger.entries("one", 0, 1).expect("read").len(), 1);
    assert!(ledger.next_seq() > other);
    ledger.remove_journal("one");
    assert!(ledger.entries("one", 0, 10).expect("read").is_empty());
    assert_eq!(ledger.entries("other", 0, 10).expect("read").len(), 1);
}

#[test]
fn a_journal_keeps_its_newest_entries() {
    let dir = tempfile::tempdir().expect("a directory");
    let ledger = Ledger::open(&dir.path().join("ledger.redb")).expect("opened");
    for _ in 0..6_000 {
        let seq = ledger.next_seq();
        ledger.append("one", seq, b"1".to_vec());
    }
    let entries = ledger.entries("one", 0, 100_000).expect("read");
    assert!((5_000..5_600).contains(&entries.len()), "{}", entries.len());
    assert_eq!(entries.last().map(|entry| entry.seq), Some(6_000));
}

#[test]
fn a_ledger_of_a_later_gitstead_is_left_alone() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("ledger.redb");
    drop(Ledger::open(&path).expect("made"));
    {
        let database = redb::Database::create(&path).expect("opened");
        let write = database.begin_write().expect("begun");
        let table = redb::TableDefinition::<&str, u64>::new("meta");
        write
            .open_table(table)
            .expect("a table")
            .insert("version", 99)
            .expect("written");
        write.commit().expect("committed");
    }
    assert!(matches!(
        Ledger::open(&path),
        Err(LedgerError::Version { found: 99, .. })
    ));
}
