use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher, Hasher},
};

/// Builds hashers for object ids that a client chose: quick, and keyed, so that nobody can prepare ids that fall into one bucket.
#[derive(Clone)]
pub(crate) struct IdHash {
    keys: [u64; 2],
}

impl Default for IdHash {
    fn default() -> Self {
        let random = RandomState::new();
        IdHash {
            keys: [random.hash_one(1u8), random.hash_one(2u8) | 1],
        }
    }
}

impl BuildHasher for IdHash {
    type Hasher = IdHasher;

    fn build_hasher(&self) -> IdHasher {
        IdHasher {
            state: self.keys[0],
            key: self.keys[1],
        }
    }
}

/// See [`IdHash`].
pub(crate) struct IdHasher {
    state: u64,
    key: u64,
}

fn fold(a: u64, b: u64) -> u64 {
    let wide = u128::from(a).wrapping_mul(u128::from(b));
    (wide as u64) ^ ((wide >> 64) as u64)
}

impl Hasher for IdHasher {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0u8; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, n: u8) {
        self.write_u64(u64::from(n));
    }

    fn write_u64(&mut self, n: u64) {
        self.state = fold(self.state ^ n, self.key).rotate_left(23);
    }

    fn write_usize(&mut self, n: usize) {
        self.write_u64(n as u64);
    }

    fn write_isize(&mut self, n: isize) {
        self.write_u64(n as u64);
    }

    fn finish(&self) -> u64 {
        self.state
    }
}

/// A set of object ids.
pub(crate) type IdSet = std::collections::HashSet<gix::hash::ObjectId, IdHash>;
/// A map from object ids.
pub(crate) type IdMap<T> = std::collections::HashMap<gix::hash::ObjectId, T, IdHash>;

#[cfg(test)]
mod tests {
    use super::*;
    use gix::hash::ObjectId;

    #[test]
    fn ids_that_differ_in_one_bit_spread() {
        let build = IdHash::default();
        let mut buckets = std::collections::HashSet::new();
        for n in 0..4096u32 {
            let mut raw = [0u8; 20];
            raw[16..].copy_from_slice(&n.to_be_bytes());
            buckets.insert(build.hash_one(ObjectId::from(raw)) >> 52);
            buckets.insert(build.hash_one(ObjectId::from(raw)) & 0xfff);
        }
        assert!(buckets.len() > 2000, "{}", buckets.len());
    }
}
