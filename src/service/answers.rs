//! What was worked out for fetches and listings lately, for those who ask the same again.
//!
//! Which objects lie between what a client wants and what it has, depends on these and on nothing else, so an answer never grows old; it is only given up when there
//! is no room, or when the packs it was chosen from have changed. Who may have what is found out before and for each request: the cache is asked with
//! wants that were found good, never in their place.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use gix::hash::{Kind as HashKind, ObjectId};
use quick_cache::{
    DefaultHashBuilder, Weighter,
    sync::{Cache, DefaultLifecycle, GuardResult, PlaceholderGuard},
};

use crate::repo::{KeptSet, ObjectSet, Odb};

use super::ServiceError;

/// Answers to fetches and listings of refs, bounded in bytes; those that nobody asks for are given up first.
///
/// Small packs are kept whole, of large ones the choice of their objects, which is most of the work. Of several requests for the same that come at the same time one
/// does that work and the others wait for it.
pub struct AnswerCache {
    answers: Option<Cache<Key, Answer, Bytes>>,
    patience: Duration,
}

impl std::fmt::Debug for AnswerCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AnswerCache").finish_non_exhaustive()
    }
}

#[derive(Clone)]
enum Answer {
    Selected(Arc<KeptSet>),
    Whole(Arc<Whole>),
    Listing(Arc<Vec<u8>>),
}

/// Weighs answers by their bytes.
#[derive(Clone)]
struct Bytes;

impl Weighter<Key, Answer> for Bytes {
    fn weight(&self, _: &Key, answer: &Answer) -> u64 {
        let bytes = match answer {
            Answer::Selected(kept) => kept.memory(),
            Answer::Whole(whole) => whole.pack.len() + whole.summary.len(),
            Answer::Listing(bytes) => bytes.len(),
        };
        (bytes + OVERHEAD) as u64
    }
}

/// A question, as a hash of everything that its answer depends on.
pub(super) type Key = ObjectId;

/// A pack as it goes out, without its frame.
#[derive(Debug)]
pub(super) struct Whole {
    pub(super) pack: Vec<u8>,
    /// Objects in it.
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
/// Bytes of an answer, more or less: the table is made for so many as there is room for.
const USUAL: usize = 32 << 10;
/// Packs of more bytes are not kept whole: copying them from theirs costs little more.
pub(super) const WHOLE: usize = 256 << 10;
/// Time between two looks at whether the client is still there.
const LOOK: Duration = Duration::from_millis(250);
/// Time after which a waiter does the work himself: whoever is at it may be held up by a client that does not read.
const PATIENCE: Duration = Duration::from_secs(10);

impl AnswerCache {
    /// A cache of at most about `bytes` bytes; 0 keeps nothing.
    pub fn new(bytes: usize) -> Self {
        AnswerCache {
            answers: (bytes > 0).then(|| Cache::with_weighter(bytes / USUAL, bytes as u64, Bytes)),
            patience: PATIENCE,
        }
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
        let Some(answers) = &self.answers else {
            return Ok(Found::Nothing(None));
        };
        let until = Instant::now() + self.patience;
        loop {
            match answers.get_value_or_guard(&key, Some(LOOK)) {
                GuardResult::Value(Answer::Whole(whole)) => return Ok(Found::Whole(whole)),
                GuardResult::Value(Answer::Selected(kept)) => {
                    if let Some(set) = kept.of(odb) {
                        return Ok(Found::Selected(Box::new(set)));
                    }
                    // The packs have changed: it is done anew.
                    answers.remove_if(
                        &key,
                        |now| matches!(now, Answer::Selected(now) if Arc::ptr_eq(now, &kept)),
                    );
                }
                GuardResult::Guard(guard) => {
                    let guard = Some(guard);
                    return Ok(Found::Nothing(Some(Promise { answers, key, guard })));
                }
                // Questions of another kind: their hashes differ.
                GuardResult::Value(Answer::Listing(_)) => return Ok(Found::Nothing(None)),
                GuardResult::Timeout => alive()?,
            }
            if Instant::now() >= until {
                return Ok(Found::Nothing(None));
            }
        }
    }

    /// A listing of refs as it goes out.
    pub(super) fn listing(&self, key: &Key) -> Option<Arc<Vec<u8>>> {
        match self.answers.as_ref()?.get(key)? {
            Answer::Listing(bytes) => Some(bytes),
            Answer::Selected(_) | Answer::Whole(_) => None,
        }
    }

    pub(super) fn keep_listing(&self, key: Key, listing: Arc<Vec<u8>>) {
        if let Some(answers) = &self.answers {
            answers.insert(key, Answer::Listing(listing));
        }
    }
}

type Guard<'c> = PlaceholderGuard<'c, Key, Answer, Bytes, DefaultHashBuilder, DefaultLifecycle<Key, Answer>>;

/// The duty to find an answer. Dropped, it goes over to the next one who asks.
pub(super) struct Promise<'c> {
    answers: &'c Cache<Key, Answer, Bytes>,
    key: Key,
    /// Others wait as long as it is there.
    guard: Option<Guard<'c>>,
}

impl Promise<'_> {
    /// The objects were chosen: others need not wait until they are sent.
    pub(super) fn selected(&mut self, set: &ObjectSet) {
        if let Some(guard) = self.guard.take() {
            // Those who wait get it even if there is no room to keep it.
            let _ = guard.insert(Answer::Selected(Arc::new(set.keep())));
        }
    }

    /// All of it is there.
    pub(super) fn whole(self, whole: Whole) {
        self.answers.insert(self.key, Answer::Whole(Arc::new(whole)));
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
            pack: vec![0; size],
            objects: 1,
            summary: String::new(),
        }
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

    /// Makes a promise of `set` while another waits for it. The promise, and what the other got.
    fn promised_to_another<'a>(cache: &'a AnswerCache, odb: &Odb, set: &ObjectSet) -> (Promise<'a>, Option<u32>) {
        let Ok(Found::Nothing(Some(mut promise))) = cache.find(key(1), odb, &mut alive) else {
            panic!("nobody has asked yet");
        };
        let (asked, asking) = std::sync::mpsc::channel();
        let got = std::thread::scope(|scope| {
            let odb = odb.clone();
            let other = scope.spawn(move || {
                // Called only by one who waits.
                let mut alive = || {
                    let _ = asked.send(());
                    Ok(())
                };
                match cache.find(key(1), &odb, &mut alive) {
                    Ok(Found::Selected(set)) => Some(set.len()),
                    _ => None,
                }
            });
            asking.recv().expect("it waits");
            promise.selected(set);
            other.join().expect("no panic")
        });
        (promise, got)
    }

    #[test]
    fn who_asks_the_same_meanwhile_gets_what_the_first_one_found() {
        let repo = TestRepo::new(HashKind::Sha1);
        let (odb, set) = selected(&repo);
        let cache = AnswerCache::new(1 << 20);
        let (promise, got) = promised_to_another(&cache, &odb, &set);
        assert_eq!(got, Some(2));
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
    fn where_nothing_is_kept_nobody_waits() {
        let repo = TestRepo::new(HashKind::Sha1);
        let (odb, _) = selected(&repo);
        let cache = AnswerCache::new(0);
        for _ in 0..2 {
            let found = cache.find(key(1), &odb, &mut || Err(ServiceError::Gone));
            assert!(matches!(found, Ok(Found::Nothing(None))));
        }
    }

    #[test]
    fn who_waits_gets_also_what_there_is_no_room_for() {
        let repo = TestRepo::new(HashKind::Sha1);
        let (odb, set) = selected(&repo);
        // Who looks just then whether his client is still there misses it, and does the work himself.
        let got = (0..5).find_map(|_| {
            let cache = AnswerCache::new(1);
            let (_promise, got) = promised_to_another(&cache, &odb, &set);
            assert!(matches!(
                cache.find(key(1), &odb, &mut alive),
                Ok(Found::Nothing(Some(_)))
            ));
            got
        });
        assert_eq!(got, Some(2));
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
