use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use gix::objs::Kind;

/// Delta bases of this request, the ones not used for longest given up first.
pub(super) struct BaseCache {
    limit: usize,
    bytes: usize,
    tick: u64,
    entries: HashMap<(u32, u64), Base>,
    /// Uses in order; an entry's newest use is the one that counts.
    uses: VecDeque<(u64, (u32, u64))>,
}

struct Base {
    used: u64,
    kind: Kind,
    data: Arc<Vec<u8>>,
}

/// What an entry costs beside its bytes.
const BASE_OVERHEAD: usize = 128;

impl BaseCache {
    pub(super) fn new(limit: usize) -> Self {
        BaseCache {
            limit,
            bytes: 0,
            tick: 0,
            entries: HashMap::new(),
            uses: VecDeque::new(),
        }
    }

    pub(super) fn get(&mut self, pack: u32, offset: u64) -> Option<(Arc<Vec<u8>>, Kind)> {
        let key = (pack, offset);
        let entry = self.entries.get_mut(&key)?;
        self.tick += 1;
        entry.used = self.tick;
        let found = (entry.data.clone(), entry.kind);
        self.uses.push_back((self.tick, key));
        self.tidy();
        Some(found)
    }

    pub(super) fn put(&mut self, pack: u32, offset: u64, kind: Kind, data: Arc<Vec<u8>>) {
        let cost = data.len() + BASE_OVERHEAD;
        // One object must not push out everything else.
        if cost > self.limit / 2 {
            return;
        }
        let key = (pack, offset);
        self.tick += 1;
        let entry = Base {
            used: self.tick,
            kind,
            data,
        };
        if let Some(old) = self.entries.insert(key, entry) {
            self.bytes -= old.data.len() + BASE_OVERHEAD;
        }
        self.bytes += cost;
        self.uses.push_back((self.tick, key));
        while self.bytes > self.limit {
            let Some((used, key)) = self.uses.pop_front() else {
                break;
            };
            if self.entries.get(&key).is_some_and(|entry| entry.used == used)
                && let Some(old) = self.entries.remove(&key)
            {
                self.bytes -= old.data.len() + BASE_OVERHEAD;
            }
        }
        self.tidy();
    }

    /// Uses that were overtaken by later ones are dropped before they outgrow the entries.
    fn tidy(&mut self) {
        if self.uses.len() > 64 + 4 * self.entries.len() {
            let entries = &self.entries;
            self.uses
                .retain(|(used, key)| entries.get(key).is_some_and(|entry| entry.used == *used));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(cache: &mut BaseCache, offset: u64, size: usize) {
        cache.put(0, offset, Kind::Blob, Arc::new(vec![0; size]));
    }

    #[test]
    fn the_base_used_last_stays_and_the_bytes_are_bounded() {
        let mut cache = BaseCache::new(10_000);
        for offset in 0..8 {
            put(&mut cache, offset, 1_000);
        }
        for _ in 0..1_000 {
            assert!(cache.get(0, 0).is_some());
        }
        assert!(cache.uses.len() < 200, "uses are tidied: {}", cache.uses.len());
        for offset in 10..17 {
            put(&mut cache, offset, 1_000);
        }
        assert!(cache.get(0, 0).is_some(), "the one in use stays");
        assert!(cache.get(0, 1).is_none(), "the oldest is gone");
        assert!(cache.bytes <= 10_000);
        put(&mut cache, 99, 9_000);
        assert!(cache.get(0, 99).is_none(), "too large to keep");
        let sum: usize = cache.entries.values().map(|e| e.data.len() + BASE_OVERHEAD).sum();
        assert_eq!(sum, cache.bytes);
    }
}
