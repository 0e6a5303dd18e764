//! Contents of packed objects that were inflated lately, for all requests together.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicU64, Ordering},
};

use gix::objs::Kind;
use quick_cache::{Weighter, sync::Cache};

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
}

/// Contents of packed objects, shared by all requests and repositories: bases of deltas above all, since the next request as a rule asks for what is close to
/// what the last one asked for. What is not used is given up first; the bytes are bounded.
///
/// A content is found by its place in an open pack, never by its id: one repository cannot put anything into another.
pub struct ContentCache(Option<Cache<Place, Content, Bytes>>);

impl std::fmt::Debug for ContentCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ContentCache").finish_non_exhaustive()
    }
}

/// Weighs contents by their bytes.
#[derive(Clone)]
struct Bytes;

impl Weighter<Place, Content> for Bytes {
    fn weight(&self, _: &Place, content: &Content) -> u64 {
        let starts = content.starts.as_ref().map_or(0, |starts| 4 * starts.len());
        (content.data.len() + starts + OVERHEAD) as u64
    }
}

/// What an entry costs beside its bytes.
const OVERHEAD: usize = 160;
/// Bytes of a content, more or less: the tables are made for so many as there is room for.
const USUAL: usize = 8 << 10;

impl ContentCache {
    /// A cache of at most about `bytes` bytes; 0 keeps nothing.
    pub fn new(bytes: usize) -> Self {
        ContentCache((bytes > 0).then(|| Cache::with_weighter(bytes / USUAL, bytes as u64, Bytes)))
    }

    /// The one of whoever does not bring his own, with the default bound.
    pub fn of_process() -> Arc<Self> {
        static CACHE: OnceLock<Arc<ContentCache>> = OnceLock::new();
        CACHE
            .get_or_init(|| Arc::new(ContentCache::new(Limits::default().content_cache_bytes)))
            .clone()
    }

    pub(super) fn get(&self, place: Place) -> Option<Content> {
        self.0.as_ref()?.get(&place)
    }

    pub(super) fn put(&self, place: Place, content: Content) {
        if let Some(cache) = &self.0 {
            cache.insert(place, content);
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
    fn what_is_kept_is_bounded_by_its_bytes() {
        let cache = ContentCache::new(1 << 20);
        for n in 0..1_000 {
            cache.put((1, n), blob(10_000));
        }
        let kept = (0..1_000).filter(|n| cache.get((1, *n)).is_some()).count();
        assert!((1..=104).contains(&kept), "{kept} of 10,000 bytes each");
        cache.put((2, 0), blob(2 << 20));
        assert!(cache.get((2, 0)).is_none(), "too large to keep");
    }

    #[test]
    fn a_cache_without_room_keeps_nothing() {
        let cache = ContentCache::new(0);
        cache.put((1, 1), blob(0));
        assert!(cache.get((1, 1)).is_none());
    }
}
