//! Contents of packed objects that were inflated lately, for all requests together.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use gix::objs::Kind;

use crate::base::Limits;

/// Where a packed object is: the number that its pack got when it was opened, and the offset of its entry.
pub(super) type Place = (u64, u64);

/// An object's content.
#[derive(Debug, Clone)]
pub(super) struct Content {
    pub(super) kind: Kind,
    pub(super) data: Arc<Vec<u8>>,
    /// Where each entry of a tree begins, if somebody has looked.
    pub(super) starts: Option<Arc<Vec<u32>>>,
}

impl Content {
    pub(super) fn new(kind: Kind, data: Arc<Vec<u8>>) -> Self {
        Content {
            kind,
            data,
            starts: None,
        }
    }

    fn cost(&self) -> usize {
        self.data.len() + self.starts.as_ref().map_or(0, |starts| 4 * starts.len()) + OVERHEAD
    }
}

/// Contents of packed objects, shared by all requests and repositories: bases of deltas above all, since the next request as a rule asks for what is close to
/// what the last one asked for. What was not used for longest is given up first; the bytes are bounded.
///
/// A content is found by its place in an open pack, never by its id: one repository cannot put anything into another.
pub struct ContentCache {
    shards: Box<[Mutex<Shard>]>,
}

impl std::fmt::Debug for ContentCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ContentCache").finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Shard {
    limit: usize,
    bytes: usize,
    tick: u64,
    entries: HashMap<Place, (u64, Content)>,
    /// Uses in order; an entry's newest use is the one that counts.
    uses: VecDeque<(u64, Place)>,
}

/// What an entry costs beside its bytes.
const OVERHEAD: usize = 160;
/// Requests at the same time seldom meet in one of so many.
const SHARDS: usize = 16;

impl ContentCache {
    /// A cache of at most about `bytes` bytes; 0 keeps nothing.
    pub fn new(bytes: usize) -> Self {
        let shard = || {
            Mutex::new(Shard {
                limit: bytes / SHARDS,
                bytes: 0,
                tick: 0,
                entries: HashMap::new(),
                uses: VecDeque::new(),
            })
        };
        ContentCache {
            shards: (0..SHARDS).map(|_| shard()).collect(),
        }
    }

    /// The one of whoever does not bring his own, with the default bound.
    pub fn of_process() -> Arc<Self> {
        static CACHE: OnceLock<Arc<ContentCache>> = OnceLock::new();
        CACHE
            .get_or_init(|| Arc::new(ContentCache::new(Limits::default().content_cache_bytes)))
            .clone()
    }

    fn shard(&self, place: Place) -> MutexGuard<'_, Shard> {
        let mixed = (place.0 ^ place.1.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        // Whoever panicked here has at worst miscounted bytes.
        self.shards[(mixed >> 60) as usize % SHARDS]
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub(super) fn get(&self, place: Place) -> Option<Content> {
        self.shard(place).get(place)
    }

    pub(super) fn put(&self, place: Place, content: Content) {
        self.shard(place).put(place, content);
    }
}

impl Shard {
    fn get(&mut self, place: Place) -> Option<Content> {
        let (used, content) = self.entries.get_mut(&place)?;
        self.tick += 1;
        *used = self.tick;
        let found = content.clone();
        self.uses.push_back((self.tick, place));
        self.tidy();
        Some(found)
    }

    fn put(&mut self, place: Place, content: Content) {
        let cost = content.cost();
        // One object must not push out everything else.
        if cost > self.limit / 2 {
            return;
        }
        self.tick += 1;
        if let Some((_, old)) = self.entries.insert(place, (self.tick, content)) {
            self.bytes -= old.cost();
        }
        self.bytes += cost;
        self.uses.push_back((self.tick, place));
        while self.bytes > self.limit {
            let Some((used, place)) = self.uses.pop_front() else {
                break;
            };
            if self.entries.get(&place).is_some_and(|(last, _)| *last == used)
                && let Some((_, old)) = self.entries.remove(&place)
            {
                self.bytes -= old.cost();
            }
        }
        self.tidy();
    }

    /// Uses that were overtaken by later ones are dropped before they outgrow the entries.
    fn tidy(&mut self) {
        if self.uses.len() > 64 + 4 * self.entries.len() {
            let entries = &self.entries;
            self.uses
                .retain(|(used, place)| entries.get(place).is_some_and(|(last, _)| last == used));
        }
    }
}

/// A number that no other pack of this process has had.
pub(super) fn pack_number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(size: usize) -> Content {
        Content::new(Kind::Blob, Arc::new(vec![0; size]))
    }

    #[test]
    fn the_content_used_last_stays_and_the_bytes_are_bounded() {
        let cache = ContentCache::new(10_000 * SHARDS);
        // All of these are in one shard.
        let mut places = (0u64..).map(|n| (0, n)).filter(|place| {
            let mixed = (place.0 ^ place.1.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            mixed >> 60 == 3
        });
        let first: Vec<Place> = places.by_ref().take(8).collect();
        for place in &first {
            cache.put(*place, blob(1_000));
        }
        for _ in 0..1_000 {
            assert!(cache.get(first[0]).is_some());
        }
        assert!(cache.shard(first[0]).uses.len() < 200, "uses are tidied");
        for place in places.by_ref().take(7) {
            cache.put(place, blob(1_000));
        }
        assert!(cache.get(first[0]).is_some(), "the one in use stays");
        assert!(cache.get(first[1]).is_none(), "the oldest is gone");
        let large = places.next().expect("there is no end of places");
        cache.put(large, blob(9_000));
        assert!(cache.get(large).is_none(), "too large to keep");
        let shard = cache.shard(first[0]);
        assert!(shard.bytes <= 10_000);
        let sum: usize = shard.entries.values().map(|(_, content)| content.cost()).sum();
        assert_eq!(sum, shard.bytes);
    }

    #[test]
    fn a_cache_without_room_keeps_nothing() {
        let cache = ContentCache::new(0);
        cache.put((1, 1), blob(0));
        assert!(cache.get((1, 1)).is_none());
    }
}
