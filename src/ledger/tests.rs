use serde_json::{Value, json};

use super::*;

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
