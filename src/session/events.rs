use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde_json::{Map, Value, json};
use tokio::sync::watch;

use super::{Veil, tally::Tally};
use crate::{
    base::Clock,
    ledger::{Ledger, LedgerError},
};

/// Events of an agent that are kept in memory; older ones are read from the ledger.
const KEPT: usize = 256;
/// Bytes of them.
const KEPT_BYTES: usize = 128 << 10;

/// What happens with one agent, in order, with numbers.
pub struct EventLog {
    ledger: Ledger,
    journal: String,
    clock: Arc<dyn Clock>,
    veil: Arc<Veil>,
    tally: Arc<Tally>,
    ring: Mutex<Ring>,
    last: watch::Sender<u64>,
}

#[derive(Default)]
struct Ring {
    kept: VecDeque<(u64, Arc<str>)>,
    bytes: usize,
    /// Whether something older is in the ledger only.
    older: bool,
    /// Whether the agent is forgotten: nothing that comes late is kept.
    closed: bool,
}

/// Some events, and how to go on.
#[derive(Debug, Clone, Default)]
pub struct EventPage {
    /// Number and JSON text, in their order.
    pub events: Vec<(u64, Arc<str>)>,
    /// The cursor for what comes next.
    pub cursor: u64,
}

impl EventLog {
    /// The events of an agent; `known` if there are some from before.
    pub(super) fn new(
        ledger: Ledger,
        journal: &str,
        clock: Arc<dyn Clock>,
        veil: Arc<Veil>,
        tally: Arc<Tally>,
        known: bool,
    ) -> Self {
        EventLog {
            ledger,
            journal: journal.to_owned(),
            clock,
            veil,
            tally,
            ring: Mutex::new(Ring {
                older: known,
                ..Ring::default()
            }),
            last: watch::Sender::new(0),
        }
    }

    /// Where what agents do is counted.
    pub(super) fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Adds one: `{"seq": …, "at": …, "type": kind, "agent": …}` and the members of `data`, without secrets. Returns its number.
    pub(super) fn push(&self, kind: &str, data: Value) -> u64 {
        self.add(kind, None, data)
    }

    /// The same, with its number as a text in the member `key`: the name of what it tells of.
    pub(super) fn push_named(&self, kind: &str, key: &str, data: Value) -> u64 {
        self.add(kind, Some(key), data)
    }

    fn add(&self, kind: &str, key: Option<&str>, mut data: Value) -> u64 {
        self.tally.event(kind, &data);
        if let Some(redactor) = self.veil.load().as_deref() {
            redactor.value(&mut data);
        }
        let millis = self.clock.millis();
        let mut ring = self.lock();
        // Under the lock, so that numbers come in their order.
        let seq = self.ledger.next_seq();
        if ring.closed {
            return seq;
        }
        let mut event = Map::new();
        event.insert("seq".to_owned(), json!(seq));
        event.insert("at_ms".to_owned(), json!(millis));
        event.insert("type".to_owned(), json!(kind));
        event.insert("agent".to_owned(), json!(self.journal));
        if let Some(key) = key {
            event.insert(key.to_owned(), json!(seq.to_string()));
        }
        if let Value::Object(data) = data {
            event.extend(data);
        }
        let text: Arc<str> = Value::Object(event).to_string().into();
        self.ledger.append(&self.journal, seq, text.as_bytes().to_vec());
        ring.bytes += text.len();
        ring.kept.push_back((seq, text));
        while ring.kept.len() > KEPT || (ring.bytes > KEPT_BYTES && ring.kept.len() > 1) {
            let Some((_, gone)) = ring.kept.pop_front() else { break };
            ring.bytes -= gone.len();
            ring.older = true;
        }
        drop(ring);
        self.last.send_replace(seq);
        seq
    }

    /// Nothing is added any more: the agent is being forgotten.
    pub(super) fn close(&self) {
        self.lock().closed = true;
    }

    /// Up to `most` events after number `after`, if all of these are in memory.
    pub fn recent(&self, after: u64, most: usize) -> Option<EventPage> {
        let ring = self.lock();
        let first = ring.kept.front().map(|(seq, _)| *seq);
        // Numbers of one agent have gaps: whether there is one between is only known if the cursor is among them.
        let whole = !ring.older || first.is_some_and(|first| after >= first);
        if !whole {
            return None;
        }
        let begin = ring.kept.partition_point(|(seq, _)| *seq <= after);
        let events: Vec<_> = ring.kept.iter().skip(begin).take(most).cloned().collect();
        let cursor = events.last().map_or(after, |(seq, _)| *seq);
        Some(EventPage { events, cursor })
    }

    /// Up to `most` events after number `after`, from the ledger. Blocks.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(&self, after: u64, most: usize) -> Result<EventPage, LedgerError> {
        let entries = self.ledger.entries(&self.journal, after, most)?;
        let events: Vec<_> = entries
            .into_iter()
            .map(|entry| (entry.seq, String::from_utf8_lossy(&entry.json).into()))
            .collect();
        let cursor = events.last().map_or(after, |(seq, _): &(u64, Arc<str>)| *seq);
        Ok(EventPage { events, cursor })
    }

    /// Changes when there are more.
    pub fn follow(&self) -> watch::Receiver<u64> {
        self.last.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::base::FixedClock;

    #[test]
    fn events_are_numbered_and_old_ones_come_from_the_ledger() {
        let dir = tempfile::tempdir().expect("a directory");
        let ledger = Ledger::open(&dir.path().join("ledger.redb")).expect("opened");
        let clock = Arc::new(FixedClock(Duration::from_millis(7)));
        let veil = Arc::new(Veil::default());
        let tally = Arc::new(Tally::default());
        let log = EventLog::new(
            ledger.clone(),
            "one",
            clock.clone(),
            Arc::clone(&veil),
            Arc::clone(&tally),
            false,
        );
        let other = EventLog::new(ledger, "other", clock, veil, tally, false);
        let first = log.push("started", json!({ "run": 1 }));
        for n in 0..300 {
            other.push("said", json!({}));
            log.push("said", json!({ "n": n }));
        }
        assert!(log.recent(0, 10).is_none(), "the first ones are not in memory");
        let page = log.read(0, 2).expect("read");
        assert_eq!(page.events[0].0, first);
        let event: Value = serde_json::from_str(&page.events[0].1).expect("JSON");
        assert_eq!(
            event,
            json!({ "seq": first, "at_ms": 7, "type": "started", "agent": "one", "run": 1 })
        );
        let mut cursor = page.cursor;
        let mut count = 2;
        loop {
            let page = match log.recent(cursor, 50) {
                Some(page) => page,
                None => log.read(cursor, 50).expect("read"),
            };
            if page.events.is_empty() {
                break;
            }
            count += page.events.len();
            cursor = page.cursor;
        }
        assert_eq!(count, 301);
    }
}
