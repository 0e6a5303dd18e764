use std::{
    fs, io,
    path::{Path, PathBuf},
};

use gix::hash::{ObjectId, oid};

use super::{RepackError, choose::is_held};
use crate::repo::{Pack, loose::is_absent, loose_path};

/// What belongs to a pack, in the order in which it is deleted: without an index a pack is not looked at any more.
const PARTS: [&str; 5] = ["idx", "rev", "bitmap", "mtimes", "pack"];

/// What was deleted.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Retired {
    pub(super) packs: u32,
    pub(super) loose: u32,
    pub(super) bytes: u64,
}

/// Deletes packs and loose objects all of whose objects are in `new`, which is durable, or that are not `wanted` any more. A loose object that is not in it after
/// all stays; a file that cannot be deleted stays too, and is somebody's next time.
pub(super) fn retire(
    new: &[Pack],
    wanted: &dyn Fn(&oid) -> bool,
    packs: &[std::sync::Arc<Pack>],
    loose: &[ObjectId],
    objects_dir: &Path,
) -> Result<Retired, RepackError> {
    let mut retired = Retired::default();
    let mut indices = Vec::new();
    for pack in new {
        indices.push(pack.index()?);
    }
    let is_there = |id: &oid| indices.iter().any(|index| index.lookup(id).is_some());
    let mut gone: Vec<PathBuf> = Vec::new();
    for pack in packs {
        let theirs = pack.index()?;
        let missing = (0..theirs.len()).any(|pos| wanted(theirs.oid(pos)) && !is_there(theirs.oid(pos)));
        if missing {
            return Err(RepackError::Unsound {
                why: "it lacks objects of a pack that it should replace",
            });
        }
        // The same objects in the same order may well make the same pack; and whoever keeps one since we looked shall have it.
        let is_new = new.iter().any(|new| pack.path().file_name() == new.path().file_name());
        if !is_new && !is_held(pack.path()) {
            gone.push(pack.path().to_owned());
        }
    }
    drop_multi_index(objects_dir, &gone)?;
    for pack in gone {
        for part in PARTS {
            retired.bytes += remove(&pack.with_extension(part)).unwrap_or_default();
        }
        retired.packs += 1;
    }
    for id in loose {
        if is_there(id)
            && let Ok(bytes) = remove(&loose_path(objects_dir, id))
        {
            retired.loose += 1;
            retired.bytes += bytes;
        }
    }
    Ok(retired)
}

/// Deletes a file. Says how large it was.
pub(super) fn remove(path: &Path) -> io::Result<u64> {
    let removed = fs::symlink_metadata(path).and_then(|meta| fs::remove_file(path).map(|()| meta.len()));
    if let Err(err) = &removed
        && !is_absent(err)
    {
        tracing::warn!(path = %path.display(), %err, "a file that is not needed any more cannot be deleted");
    }
    removed
}

/// A multi-pack-index that names a pack that goes away is of no more use, as in git's own repack: every pack is found by its own index without it.
fn drop_multi_index(objects_dir: &Path, gone: &[PathBuf]) -> Result<(), RepackError> {
    let pack_dir = objects_dir.join("pack");
    let path = pack_dir.join("multi-pack-index");
    if gone.is_empty() || !path.exists() {
        return Ok(());
    }
    let names: Vec<_> = gone
        .iter()
        .filter_map(|pack| {
            pack.with_extension("idx")
                .file_name()
                .map(|name| name.as_encoded_bytes().to_vec())
        })
        .collect();
    let named = match crate::repo::mmap::Mmap::open(&path) {
        // Its list of packs is text; a name that is found elsewhere by chance only costs us the file.
        Ok(map) => names.iter().any(|name| bstr::ByteSlice::find(&*map, name).is_some()),
        Err(_) => true,
    };
    if !named {
        return Ok(());
    }
    match fs::remove_file(&path) {
        Err(err) if !is_absent(&err) => return Err(RepackError::io("delete", path)(err)),
        _ => {}
    }
    // What belonged to it is named after its checksum.
    if let Ok(entries) = fs::read_dir(&pack_dir) {
        for entry in entries.flatten() {
            if entry.file_name().as_encoded_bytes().starts_with(b"multi-pack-index-") {
                let _ = remove(&entry.path());
            }
        }
    }
    Ok(())
}
