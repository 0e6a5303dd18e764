//! Objects as they went into packs that were sent: compressed anew, whole or as deltas, for the next answer in which they are.

use std::sync::{Arc, OnceLock};

use gix::{hash::ObjectId, objs::Kind};
use quick_cache::{Weighter, sync::Cache};

use super::Odb;
use crate::base::Limits;

/// What was made of an object.
#[derive(Debug, Clone)]
pub(super) struct Encoded {
    pub(super) kind: Kind,
    /// Bytes of the object.
    pub(super) size: u64,
    /// The object that it was made a delta of.
    pub(super) base: Option<ObjectId>,
    /// Bytes of the delta, or of the object, before they were compressed.
    pub(super) len: usize,
    /// It, compressed. `None` says that nothing better was found than what its pack has.
    pub(super) packed: Option<Arc<[u8]>>,
}

/// A repository, by a number of this process, and an object of it: one repository cannot put anything into another.
type Key = (u64, ObjectId);

/// What was compressed for answers, bounded in bytes; what is not used is given up first.
///
/// Choosing and making deltas, and compressing, is most of the work of an answer out of loose objects or many packs, and history does not change: a clone after the next push needs nearly all
/// of it again.
pub struct EncodedCache(Option<Cache<Key, Encoded, Bytes>>);

impl std::fmt::Debug for EncodedCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EncodedCache").finish_non_exhaustive()
    }
}

/// Weighs by bytes.
#[derive(Clone)]
struct Bytes;

impl Weighter<Key, Encoded> for Bytes {
    fn weight(&self, _: &Key, encoded: &Encoded) -> u64 {
        (encoded.packed.as_ref().map_or(0, |packed| packed.len()) + OVERHEAD) as u64
    }
}

/// What an entry costs beside its bytes.
const OVERHEAD: usize = 200;
/// Bytes of an entry, more or less: the tables are made for so many as there is room for.
const USUAL: usize = 2 << 10;
/// What takes more bytes is not kept.
const LARGEST: usize = 256 << 10;

impl EncodedCache {
    /// A cache of at most about `bytes` bytes; 0 keeps nothing.
    pub fn new(bytes: usize) -> Self {
        EncodedCache((bytes > 0).then(|| Cache::with_weighter(bytes / USUAL, bytes as u64, Bytes)))
    }

    /// The one of whoever does not bring his own, with the default bound.
    pub fn of_process() -> Arc<Self> {
        static CACHE: OnceLock<Arc<EncodedCache>> = OnceLock::new();
        CACHE
            .get_or_init(|| Arc::new(EncodedCache::new(Limits::default().encoded_cache_bytes)))
            .clone()
    }

    pub(super) fn get(&self, repository: u64, id: &ObjectId) -> Option<Encoded> {
        self.0.as_ref()?.get(&(repository, *id))
    }

    pub(super) fn put(&self, repository: u64, id: ObjectId, encoded: Encoded) {
        if let Some(cache) = &self.0
            && encoded.packed.as_ref().is_none_or(|packed| packed.len() <= LARGEST)
        {
            cache.insert((repository, id), encoded);
        }
    }
}

impl Odb {
    /// What was made of an object of this repository for an answer before.
    pub(super) fn encoded(&self, id: &ObjectId) -> Option<Encoded> {
        self.caches().encoded.get(self.repository(), id)
    }

    /// Keeps what was made of an object, which was compared with its id.
    pub(super) fn keep_encoded(&self, id: ObjectId, encoded: Encoded) {
        self.caches().encoded.put(self.repository(), id, encoded);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(bytes: usize) -> Encoded {
        Encoded {
            kind: Kind::Blob,
            size: 0,
            base: None,
            len: 0,
            packed: Some(vec![0; bytes].into()),
        }
    }

    #[test]
    fn what_is_kept_is_bounded_and_of_one_repository() {
        let cache = EncodedCache::new(1 << 20);
        let id = |n: u32| {
            let mut bytes = [0; 20];
            bytes[..4].copy_from_slice(&n.to_be_bytes());
            ObjectId::from(bytes)
        };
        for n in 0..1_000 {
            cache.put(1, id(n), encoded(10_000));
        }
        let kept = (0..1_000).filter(|n| cache.get(1, &id(*n)).is_some()).count();
        assert!((1..=104).contains(&kept), "{kept} of 10,000 bytes each");
        cache.put(1, id(7), encoded(10));
        assert!(cache.get(1, &id(7)).is_some() && cache.get(2, &id(7)).is_none());
        cache.put(1, id(8), encoded(LARGEST + 1));
        assert!(cache.get(1, &id(8)).is_none(), "too large to keep");
        let none = EncodedCache::new(0);
        none.put(1, id(1), encoded(1));
        assert!(none.get(1, &id(1)).is_none());
    }
}
