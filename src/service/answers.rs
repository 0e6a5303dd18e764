//! What was worked out for fetches lately, for those who ask the same again.
//!
//! Which objects lie between what a client wants and what it has, depends on these and on nothing else, so an answer never grows old; it is only given up when there
//! is no room, or when the packs it was chosen from have changed. Who may have what is found out before and for each request: the cache is asked with
//! wants that were found good, never in their place.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Condvar, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use gix::hash::{Kind as HashKind, ObjectId};

use crate::repo::{KeptSet, ObjectSet, Odb};

use super::ServiceError;

/// Answers to fetches, bounded in bytes; those not asked for longest are given up first.
///
/// Small packs are kept whole, of large ones the choice of their objects, which is most of the work. Of several requests for the same that come at the same time one
/// does that work and the others wait for it.
pub struct AnswerCache {
    limit: usize,
    patience: Duration,
    inner: Mutex<Inner>,
    /// Something that was underway is there, or given up.
    changed: Condvar,
}

impl std::fmt::Debug for AnswerCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AnswerCache")
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Inner {
    bytes: usize,
    tick: u64,
    entries: HashMap<Key, Entry>,
    /// By last use.
    order: BTreeMap<u64, Key>,
}

struct Entry {
    used: u64,
    cost: usize,
    answer: Answer,
}

enum Answer {
    /// Somebody is at it.
    Underway,
    Selected(Arc<KeptSet>),
    Whole(Arc<Whole>),
    /// It takes too much room: everybody works it out alone.
    TooLarge,
}

/// A question, as a hash of everything that its answer depends on.
pub(super) type Key = ObjectId;

/// An answer as it goes out, without its frame.
#[derive(Debug)]
pub(super) struct Whole {
    pub(super) bytes: Vec<u8>,
    /// Objects in it, if it is a pack.
    pub(super) objects: u32,
    /// What is said at its end.
    pub(super) summary: String,
}

/// What is known of an answer.
pub(super) enum Found<'c> {
    Whole(Arc<Whole>),
    Selected(Box<ObjectSet>),
    /// Nothing: whoever holds the promise works it out, for others too.
    Nothing(Option<Promise<'c>>),
}

/// What an entry costs beside its bytes.
const OVERHEAD: usize = 256;
/// Answers of more bytes are not kept whole: copying them from their packs costs little more.
pub(super) const WHOLE: usize = 256 << 10;
/// Time between two looks at whether the client is still there.
const LOOK: Duration = Duration::from_millis(250);
/// Time after which a waiter does the work himself: whoever is at it may be held up by a client that does not read.
const PATIENCE: Duration = Duration::from_secs(10);

impl AnswerCache {
    /// A cache of at most about `bytes` bytes; 0 keeps nothing.
    pub fn new(bytes: usize) -> Self {
        AnswerCache {
            limit: bytes,
            patience: PATIENCE,
            inner: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing in it is half done between two statements that could panic.
        self.inner.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// What is known; waits while somebody else is working it out, calling `alive` now and then. `odb` is the view that a set would be sent from.
    ///
    /// # Errors
    /// Those of `alive`.
    pub(super) fn find(
        &self,
        key: Key,
        odb: &Odb,
        alive: &mut dyn FnMut() -> Result<(), ServiceError>,
    ) -> Result<Found<'_>, ServiceError> {
        if self.limit == 0 {
            return Ok(Found::Nothing(None));
        }
        let mut inner = self.lock();
        let until = Instant::now() + self.patience;
        loop {
            match inner.touch(&key) {
                Some(Answer::TooLarge) => return Ok(Found::Nothing(None)),
                Some(Answer::Whole(whole)) => return Ok(Found::Whole(whole.clone())),
                Some(Answer::Selected(kept)) => {
                    let kept = kept.clone();
                    drop(inner);
                    if let Some(set) = kept.of(odb) {
                        return Ok(Found::Selected(Box::new(set)));
                    }
                    inner = self.lock();
                    // The packs have changed; unless somebody is at it already, it is done anew.
                    if let Some(Answer::Selected(same)) = inner.touch(&key)
                        && Arc::ptr_eq(same, &kept)
                    {
                        break;
                    }
                }
                Some(Answer::Underway) => {
                    let (guard, _) = self
                        .changed
                        .wait_timeout(inner, LOOK)
                        .unwrap_or_else(|poisoned| poisoned.into_inner());
                    drop(guard);
                    alive()?;
                    if Instant::now() >= until {
                        return Ok(Found::Nothing(None));
                    }
                    inner = self.lock();
                }
                None => break,
            }
        }
        inner.put(key, OVERHEAD, Answer::Underway, self.limit);
        Ok(Found::Nothing(Some(Promise { cache: self, key })))
    }

    /// Keeps an answer whole, if there is room for it.
    fn keep_whole(&self, key: Key, whole: Whole) {
        let cost = whole.bytes.len() + whole.summary.len() + OVERHEAD;
        self.lock().put(key, cost, Answer::Whole(Arc::new(whole)), self.limit);
        self.changed.notify_all();
    }
}

impl Inner {
    fn touch(&mut self, key: &Key) -> Option<&Answer> {
        self.tick += 1;
        let entry = self.entries.get_mut(key)?;
        self.order.remove(&entry.used);
        entry.used = self.tick;
        self.order.insert(entry.used, *key);
        Some(&entry.answer)
    }

    fn remove(&mut self, key: &Key) {
        if let Some(old) = self.entries.remove(key) {
            self.order.remove(&old.used);
            self.bytes -= old.cost;
        }
    }

    fn put(&mut self, key: Key, mut cost: usize, mut answer: Answer, limit: usize) {
        self.remove(&key);
        // One answer must not push out everything else.
        if cost > limit / 4 && !matches!(answer, Answer::Underway) {
            (cost, answer) = (OVERHEAD, Answer::TooLarge);
        }
        self.tick += 1;
        self.bytes += cost;
        self.order.insert(self.tick, key);
        let used = self.tick;
        self.entries.insert(key, Entry { used, cost, answer });
        while self.bytes > limit {
            let idle = self
                .order
                .values()
                .find(|key| !matches!(self.entries[*key].answer, Answer::Underway));
            match idle.copied() {
                Some(key) => self.remove(&key),
                None => break,
            }
        }
    }
}

/// The duty to find an answer. Dropped, it goes over to the next one who asks.
pub(super) struct Promise<'c> {
    cache: &'c AnswerCache,
    key: Key,
}

impl Promise<'_> {
    /// The objects were chosen: others need not wait until they are sent.
    pub(super) fn selected(&self, set: &ObjectSet) {
        let kept = set.keep();
        let cost = kept.memory() + OVERHEAD;
        let answer = Answer::Selected(Arc::new(kept));
        self.cache.lock().put(self.key, cost, answer, self.cache.limit);
        self.cache.changed.notify_all();
    }

    /// All of it is there.
    pub(super) fn whole(self, whole: Whole) {
        self.cache.keep_whole(self.key, whole);
    }
}

impl Drop for Promise<'_> {
    fn drop(&mut self) {
        let mut inner = self.cache.lock();
        if let Some(Entry {
            answer: Answer::Underway,
            ..
        }) = inner.entries.get(&self.key)
        {
            inner.remove(&self.key);
            self.cache.changed.notify_all();
        }
    }
}

/// A question in the making: every part with its length, so that no two questions are alike.
pub(super) struct Question(gix::hash::Hasher);

impl Question {
    pub(super) fn new(about: &str) -> Self {
        let mut question = Question(gix::hash::hasher(HashKind::Sha256));
        question.bytes(about.as_bytes());
        question
    }

    pub(super) fn number(&mut self, n: u64) {
        self.0.update(&n.to_le_bytes());
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.update(bytes);
    }

    /// A set of ids: their order does not matter, nor whether one is there twice.
    pub(super) fn ids(&mut self, ids: &[ObjectId]) {
        let mut sorted = ids.to_vec();
        sorted.sort_unstable();
        sorted.dedup();
        self.number(sorted.len() as u64);
        for id in &sorted {
            self.0.update(id.as_slice());
        }
    }

    pub(super) fn key(self) -> Option<Key> {
        self.0.try_finalize().ok()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use gix::objs::Kind;

    use super::*;
    use crate::repo::{
        SendRequest, enumerate,
        testing::{Item, TestRepo},
    };

    fn whole(size: usize) -> Whole {
        Whole {
            bytes: vec![0; size],
            objects: 1,
            summary: String::new(),
        }
    }

    fn is_there(cache: &AnswerCache, n: u64) -> bool {
        matches!(cache.lock().touch(&key(n)), Some(Answer::Whole(_)))
    }

    fn alive() -> Result<(), ServiceError> {
        Ok(())
    }

    /// A repository with one pack, and the set of all that it holds.
    fn selected(repo: &TestRepo) -> (Odb, ObjectSet) {
        let (ids, _) = repo.pack(&[
            Item::Whole(Kind::Blob, b"one".to_vec()),
            Item::Whole(Kind::Blob, b"two".to_vec()),
        ]);
        let odb = repo.open().odb().expect("an odb");
        let request = SendRequest {
            wants: &ids,
            ..SendRequest::default()
        };
        let set = enumerate(&odb, &[], &request, &mut |_| {}, &AtomicBool::new(false)).expect("a set");
        (odb, set)
    }

    #[test]
    fn who_asks_the_same_meanwhile_gets_what_the_first_one_found() {
        let repo = TestRepo::new(HashKind::Sha1);
        let (odb, set) = selected(&repo);
        let cache = AnswerCache::new(1 << 20);
        let Ok(Found::Nothing(Some(promise))) = cache.find(key(1), &odb, &mut alive) else {
            panic!("nobody has asked yet");
        };
        let (asked, asking) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            let other = scope.spawn({
                let (odb, cache) = (odb.clone(), &cache);
                move || {
                    // Called only by one who waits.
                    let mut alive = || {
                        let _ = asked.send(());
                        Ok(())
                    };
                    matches!(cache.find(key(1), &odb, &mut alive), Ok(Found::Selected(set)) if set.len() == 2)
                }
            });
            asking.recv().expect("it waits");
            promise.selected(&set);
            assert!(other.join().expect("no panic"));
        });
        promise.whole(whole(10));
        assert!(matches!(cache.find(key(1), &odb, &mut alive), Ok(Found::Whole(_))));
    }

    #[test]
    fn a_promise_that_is_dropped_goes_to_the_next_one_who_asks_and_who_has_gone_waits_no_more() {
        let repo = TestRepo::new(HashKind::Sha1);
        let (odb, _) = selected(&repo);
        let cache = AnswerCache::new(1 << 20);
        let promise = cache.find(key(1), &odb, &mut alive);
        assert!(matches!(promise, Ok(Found::Nothing(Some(_)))));
        let gone = cache.find(key(1), &odb, &mut || Err(ServiceError::Gone));
        assert!(matches!(gone, Err(ServiceError::Gone)));
        drop(promise);
        assert!(matches!(
            cache.find(key(1), &odb, &mut alive),
            Ok(Found::Nothing(Some(_)))
        ));
    }

    #[test]
    fn nobody_waits_for_ever_for_one_who_does_not_get_on() {
        let repo = TestRepo::new(HashKind::Sha1);
        let (odb, _) = selected(&repo);
        let mut cache = AnswerCache::new(1 << 20);
        cache.patience = Duration::ZERO;
        let stalled = cache.find(key(1), &odb, &mut alive);
        assert!(matches!(stalled, Ok(Found::Nothing(Some(_)))));
        assert!(matches!(cache.find(key(1), &odb, &mut alive), Ok(Found::Nothing(None))));
    }

    #[test]
    fn nobody_waits_for_what_is_too_large_to_be_kept_or_where_nothing_is() {
        let repo = TestRepo::new(HashKind::Sha1);
        let (odb, set) = selected(&repo);
        for (bytes, first) in [(OVERHEAD + 16, true), (0, false)] {
            let cache = AnswerCache::new(bytes);
            let Ok(Found::Nothing(promise)) = cache.find(key(1), &odb, &mut alive) else {
                panic!("nobody has asked yet");
            };
            assert_eq!(promise.is_some(), first);
            if let Some(promise) = &promise {
                promise.selected(&set);
            }
            let mut waits = || Err(ServiceError::Gone);
            assert!(matches!(cache.find(key(1), &odb, &mut waits), Ok(Found::Nothing(None))));
        }
    }

    #[test]
    fn a_choice_of_objects_is_not_used_with_other_packs() {
        let repo = TestRepo::new(HashKind::Sha1);
        let (odb, set) = selected(&repo);
        let kept = set.keep();
        assert_eq!(kept.of(&odb).map(|set| set.len()), Some(2));
        repo.pack(&[Item::Whole(Kind::Blob, b"three".to_vec())]);
        let other = repo.open().odb().expect("an odb");
        assert!(kept.of(&other).is_none());
        // Nor does it keep its own open.
        let packs: Vec<_> = odb.packs().iter().map(Arc::downgrade).collect();
        drop((odb, set));
        assert!(packs.iter().all(|pack| pack.strong_count() == 0));
        assert!(kept.memory() > 0);
    }

    fn key(n: u64) -> Key {
        let mut question = Question::new("test");
        question.number(n);
        question.key().expect("a hash")
    }

    #[test]
    fn the_answer_asked_for_last_stays_and_the_bytes_are_bounded() {
        let cache = AnswerCache::new(20_000);
        for n in 0..10 {
            cache.keep_whole(key(n), whole(3_000));
            assert!(is_there(&cache, 0), "the one in use stays");
        }
        assert!(!is_there(&cache, 1), "the oldest is gone");
        assert!(is_there(&cache, 9));
        cache.keep_whole(key(77), whole(6_000));
        assert!(!is_there(&cache, 77), "too large to keep");
        let inner = cache.lock();
        assert!(inner.bytes <= 20_000);
        let sum: usize = inner.entries.values().map(|entry| entry.cost).sum();
        assert_eq!(inner.bytes, sum);
        assert_eq!(inner.order.len(), inner.entries.len());
    }

    #[test]
    fn a_question_is_the_same_however_its_ids_are_ordered_and_another_when_a_boundary_moves() {
        let ids = [key(1), key(2), key(3)];
        let ask = |parts: &[&[ObjectId]]| {
            let mut question = Question::new("fetch");
            parts.iter().for_each(|part| question.ids(part));
            question.key()
        };
        assert_eq!(ask(&[&ids, &[]]), ask(&[&[ids[2], ids[0], ids[1], ids[0]], &[]]));
        assert_ne!(ask(&[&ids, &[]]), ask(&[&ids[..2], &ids[2..]]));
        assert_ne!(ask(&[&ids, &[]]), ask(&[&[], &ids]));
    }
}
