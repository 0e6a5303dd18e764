use gix::hash::{Kind as HashKind, ObjectId};
use sha1::Digest as _;

/// The checksum at the end of packs and their indices, and of git's index.
///
/// It tells whether bytes were damaged on their way, so it is a plain hash by the fastest means the processor has. Names of objects are made otherwise: there somebody
/// may gain by a collision, and attacks on SHA-1 are looked for ([`gix::hash::hasher`]).
#[derive(Debug, Clone)]
pub struct Checksum(Inner);

#[derive(Debug, Clone)]
enum Inner {
    Sha1(sha1::Sha1),
    Sha256(sha2::Sha256),
}

impl Checksum {
    /// Of nothing yet.
    pub fn new(hash: HashKind) -> Self {
        Checksum(match hash {
            HashKind::Sha256 => Inner::Sha256(sha2::Sha256::new()),
            _ => Inner::Sha1(sha1::Sha1::new()),
        })
    }

    /// Takes more bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            Inner::Sha1(hasher) => hasher.update(bytes),
            Inner::Sha256(hasher) => hasher.update(bytes),
        }
    }

    /// The checksum of everything that was taken.
    pub fn finish(self) -> ObjectId {
        match self.0 {
            Inner::Sha1(hasher) => ObjectId::from_bytes_or_panic(&hasher.finalize()),
            Inner::Sha256(hasher) => ObjectId::from_bytes_or_panic(&hasher.finalize()),
        }
    }

    /// Of these bytes.
    pub fn of(hash: HashKind, bytes: &[u8]) -> ObjectId {
        let mut checksum = Checksum::new(hash);
        checksum.update(bytes);
        checksum.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_is_the_hash_however_the_bytes_come(bytes in prop::collection::vec(any::<u8>(), 0..500), cut in any::<prop::sample::Index>()) {
            for hash in [HashKind::Sha1, HashKind::Sha256] {
                let mut careful = gix::hash::hasher(hash);
                careful.update(&bytes);
                let mut plain = Checksum::new(hash);
                let cut = cut.index(bytes.len() + 1);
                plain.update(&bytes[..cut]);
                plain.update(&bytes[cut..]);
                prop_assert_eq!(plain.finish(), careful.try_finalize().expect("no collision"));
            }
        }
    }
}
