//! Both sides' trees, path by path.

use std::collections::HashMap;

use super::marks::Id;
use crate::repo::deltas::PathKey;

/// What stands at one path on both sides.
#[derive(Debug, Default)]
pub(super) struct Pair {
    pub(super) key: PathKey,
    pub(super) had: Vec<Id>,
    pub(super) wanted: Vec<Id>,
}

/// The pairs of a path's children.
#[derive(Debug, Default)]
pub(super) struct Children {
    names: HashMap<Vec<u8>, usize>,
    pub(super) pairs: Vec<Pair>,
}

impl Children {
    pub(super) fn entry(&mut self, directory: PathKey, name: &[u8]) -> &mut Pair {
        let at = match self.names.get(name) {
            Some(at) => *at,
            None => {
                self.names.insert(name.to_vec(), self.pairs.len());
                self.pairs.push(Pair {
                    key: directory.child(name),
                    ..Pair::default()
                });
                self.pairs.len() - 1
            }
        };
        &mut self.pairs[at]
    }
}
