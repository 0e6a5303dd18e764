use std::{
    cell::{Cell, OnceCell},
    collections::HashSet,
    fs::File,
    io::Read,
    path::PathBuf,
    sync::Arc,
};

use gix::hash::{Kind as HashKind, ObjectId, oid};

use super::Odb;
use crate::repo::{loose::loose_path, repack::choose::list_fan};

/// Loose objects found by asking for each, from which on all are listed.
const MANY: u32 = 256;
/// Ids that are kept.
const MOST: usize = 2_000_000;

/// The loose objects of a repository, listed once when many are asked for: a walk over ten thousand of them would ask the system about each.
///
/// What is not in the list may have come since: that is still asked for. What was in it and has gone is in a pack, and whoever reads it looks there too.
#[derive(Default)]
pub(super) struct LooseList {
    found: Cell<u32>,
    ids: OnceCell<HashSet<ObjectId>>,
}

impl LooseList {
    /// Whether the object was listed.
    pub(super) fn has(&self, id: &oid) -> bool {
        self.ids.get().is_some_and(|ids| ids.contains(id))
    }

    /// An object was found without the list.
    pub(super) fn found(&self, dirs: &[PathBuf], hash: HashKind) {
        self.found.set(self.found.get().saturating_add(1));
        if self.found.get() != MANY {
            return;
        }
        let mut ids = HashSet::new();
        for dir in dirs {
            for fan in 0..=255u8 {
                let mut add = |id| {
                    if ids.len() < MOST {
                        ids.insert(id);
                    }
                };
                // What cannot be listed is asked for.
                let _ = list_fan(dir, fan, hash, &mut add);
            }
        }
        let _ = self.ids.set(ids);
    }
}

impl Odb {
    /// The file of a loose object, if it has at most so many bytes and can be read.
    pub(in crate::repo) fn loose_file(&self, id: &oid, most: u64) -> Option<Arc<[u8]>> {
        if let Some(bytes) = self.shared.held.get(id) {
            return Some(bytes.clone());
        }
        self.set().object_dirs().iter().find_map(|dir| {
            let file = File::open(loose_path(dir, id)).ok()?;
            let size = file.metadata().ok()?.len();
            let mut bytes = Vec::with_capacity(usize::try_from(size).ok().filter(|_| size <= most)?);
            file.take(most).read_to_end(&mut bytes).ok()?;
            Some(bytes.into())
        })
    }
}
