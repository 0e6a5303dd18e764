use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::Shelf;

/// Entries of journals that wait for the disk, at most.
pub(super) const WAITING: usize = 20_000;
/// The bytes of them, at most.
const WAITING_BYTES: usize = 32 << 20;

/// What is to be written in one transaction.
#[derive(Default)]
pub(super) struct Changes {
    /// The newest content of each record; none to remove it.
    pub(super) records: BTreeMap<(Shelf, String), Option<Vec<u8>>>,
    /// Journals that are removed, before anything is added.
    pub(super) removed: BTreeSet<String>,
    /// Journal, number, JSON.
    pub(super) entries: VecDeque<(String, u64, Vec<u8>)>,
    bytes: usize,
    /// Entries that there was no room for.
    pub(super) forgotten: u64,
}

impl Changes {
    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty() && self.removed.is_empty() && self.entries.is_empty()
    }

    /// Adds an entry. Where there is no room the oldest of the same journal go, or the oldest of all.
    pub(super) fn append(&mut self, journal: String, seq: u64, json: Vec<u8>) {
        self.bytes += json.len();
        self.entries.push_back((journal, seq, json));
        while self.entries.len() > WAITING || self.bytes > WAITING_BYTES {
            let newest = self.entries.len() - 1;
            let journal = &self.entries[newest].0;
            let same = self.entries.iter().take(newest).position(|(name, ..)| name == journal);
            let Some((.., json)) = self.entries.remove(same.unwrap_or(0)) else {
                return;
            };
            self.bytes -= json.len();
            self.forgotten += 1;
        }
    }

    /// Removes a journal and what waits for it.
    pub(super) fn remove_journal(&mut self, journal: &str) {
        let bytes = &mut self.bytes;
        self.entries.retain(|(name, _, json)| {
            let stays = name != journal;
            *bytes -= if stays { 0 } else { json.len() };
            stays
        });
        self.removed.insert(journal.to_owned());
    }

    /// These changes and then the later ones, as one.
    pub(super) fn then(mut self, later: Changes) -> Changes {
        for journal in &later.removed {
            self.remove_journal(journal);
        }
        self.records.extend(later.records);
        self.forgotten += later.forgotten;
        for (journal, seq, json) in later.entries {
            self.append(journal, seq, json);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(changes: &Changes) -> Vec<(&str, u64)> {
        changes
            .entries
            .iter()
            .map(|(name, seq, _)| (name.as_str(), *seq))
            .collect()
    }

    #[test]
    fn a_flood_of_one_journal_pushes_out_its_own_entries() {
        let mut changes = Changes::default();
        changes.append("quiet".to_owned(), 1, vec![1]);
        for seq in 2..100 {
            changes.append("loud".to_owned(), seq, vec![0; 1 << 20]);
        }
        assert_eq!(
            names(&changes)[..2],
            [("quiet", 1), ("loud", 69)],
            "32 MiB are 31 of them"
        );
        assert_eq!(changes.forgotten, 67);
        changes.append("huge".to_owned(), 100, vec![0; WAITING_BYTES]);
        assert_eq!(names(&changes), [("huge", 100)], "what fits alone is kept alone");
        changes.append("huge".to_owned(), 101, vec![0; WAITING_BYTES + 1]);
        assert!(changes.entries.is_empty(), "and what does not is not");
        assert_eq!(changes.bytes, 0);
    }

    #[test]
    fn later_changes_win() {
        let mut early = Changes::default();
        early.append("gone".to_owned(), 1, b"x".to_vec());
        early.append("stays".to_owned(), 2, b"x".to_vec());
        early
            .records
            .insert((Shelf::Agents, "a".to_owned()), Some(b"old".to_vec()));
        early
            .records
            .insert((Shelf::Agents, "b".to_owned()), Some(b"old".to_vec()));
        let mut later = Changes::default();
        later.remove_journal("gone");
        later.append("gone".to_owned(), 3, b"x".to_vec());
        later.records.insert((Shelf::Agents, "a".to_owned()), None);
        let both = early.then(later);
        assert_eq!(names(&both), [("stays", 2), ("gone", 3)]);
        assert_eq!(both.bytes, 2);
        assert!(both.removed.contains("gone"));
        let records: Vec<_> = both.records.values().map(Option::is_some).collect();
        assert_eq!(records, [false, true]);
    }
}
