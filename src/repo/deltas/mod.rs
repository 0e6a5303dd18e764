//! Deltas made anew, for packs that are sent and for those that stay: of the objects of a pack in the making that are whole, each is compared with its neighbours by kind, name and size.
//!
//! What is found is proved before it is used. Bounded in objects compared, depth, bytes and threads.

use std::sync::atomic::{AtomicBool, Ordering};

use gix::hash::ObjectId;

use super::OdbError;

mod objects;
mod search;

pub(in crate::repo) use objects::{Held, Item, Loader, NONE, Objects};
pub(in crate::repo) use search::{Found, Search, in_order, search};

/// Why a search ended.
#[derive(Debug)]
pub(in crate::repo) enum Trouble {
    /// The pack of this number is damaged.
    Pack(u32),
    /// The loose object is damaged.
    Loose(ObjectId),
    /// A delta does not make what it was made for: a bug.
    Unsound,
    /// The stop flag was set.
    Stopped,
    /// A pack cannot be opened.
    Objects(OdbError),
}

impl From<OdbError> for Trouble {
    fn from(error: OdbError) -> Self {
        Trouble::Objects(error)
    }
}

fn check(stop: &AtomicBool) -> Result<(), Trouble> {
    match stop.load(Ordering::Relaxed) {
        true => Err(Trouble::Stopped),
        false => Ok(()),
    }
}

/// How a path sorts: by the end of the name, so that those of one suffix are together, and among them by the whole path. A path is made of `/` and a name, again and again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::repo) struct PathKey {
    tail: u64,
    path: u32,
}

impl PathKey {
    /// The key of what has this name in the directory.
    pub(in crate::repo) fn child(self, name: &[u8]) -> PathKey {
        let mut tail = [0u8; 8];
        for (to, from) in tail.iter_mut().zip(name.iter().rev()) {
            *to = *from;
        }
        let mut path = crc32fast::Hasher::new_with_initial(self.path);
        path.update(b"/");
        path.update(name);
        PathKey {
            tail: u64::from_be_bytes(tail),
            path: path.finalize(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_one_end_are_neighbours_and_each_path_is_one_of_its_own() {
        let key = |path: &str| {
            let parts = path.split('/').filter(|part| !part.is_empty());
            parts.fold(PathKey::default(), |key, name| key.child(name.as_bytes()))
        };
        let mut names: Vec<_> = ["src/b_tests.rs", "README.md", "src/a_tests.rs", "CHANGES.md", ""]
            .iter()
            .map(|path| (key(path), *path))
            .collect();
        names.sort();
        let place = |wanted: &str| names.iter().position(|(_, path)| *path == wanted).expect("there");
        assert_eq!(place("README.md").abs_diff(place("CHANGES.md")), 1, "{names:?}");
        assert_eq!(
            place("src/a_tests.rs").abs_diff(place("src/b_tests.rs")),
            1,
            "{names:?}"
        );
        assert_eq!(key("x/lib.rs").tail, key("y/lib.rs").tail);
        assert_ne!(key("x/lib.rs"), key("y/lib.rs"));
    }
}
