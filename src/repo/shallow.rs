use std::{
    collections::BTreeSet,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    path::Path,
};

use bstr::ByteSlice;
use gix::hash::{Kind as HashKind, ObjectId};

use super::open::StoreError;

/// A shallow file has a line for each root of a cut history; this is some million of them.
const MAX_SHALLOW_BYTES: u64 = 64 << 20;

/// Reads a `shallow` file: sorted, without duplicates. Empty when there is none.
pub(crate) fn read(path: &Path, hash: HashKind) -> Result<Vec<ObjectId>, StoreError> {
    let io = |source| StoreError::Io {
        doing: "read",
        path: path.to_owned(),
        source,
    };
    let mut bytes = Vec::new();
    match File::open(path) {
        Ok(file) => file.take(MAX_SHALLOW_BYTES).read_to_end(&mut bytes).map_err(io)?,
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(err) => return Err(io(err)),
    };
    let mut ids = Vec::new();
    for line in bytes.lines() {
        let line = line.trim_end();
        if line.is_empty() {
            continue;
        }
        let id = ObjectId::from_hex(line).ok().filter(|id| id.kind() == hash);
        ids.push(id.ok_or_else(|| StoreError::Damaged {
            path: path.to_owned(),
            why: "a line is not an object id",
        })?);
    }
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}

/// Adds ids to a `shallow` file, durably and in one step, under `shallow.lock` as git takes it.
pub(crate) fn add(path: &Path, hash: HashKind, new: &[ObjectId]) -> Result<(), StoreError> {
    if new.is_empty() {
        return Ok(());
    }
    let lock = path.with_extension("lock");
    let io = |doing, source| StoreError::Io {
        doing,
        path: lock.clone(),
        source,
    };
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&lock)
        .map_err(|err| io("create", err))?;
    let mut write = || -> Result<(), StoreError> {
        let mut all: BTreeSet<ObjectId> = read(path, hash)?.into_iter().collect();
        all.extend(new.iter().copied());
        let mut text = Vec::with_capacity(all.len() * (hash.len_in_hex() + 1));
        for id in all {
            text.extend_from_slice(id.to_hex().to_string().as_bytes());
            text.push(b'\n');
        }
        file.write_all(&text).map_err(|err| io("write", err))?;
        file.sync_all().map_err(|err| io("sync", err))?;
        fs::rename(&lock, path).map_err(|err| io("rename", err))?;
        let dir = path.parent().unwrap_or(Path::new("."));
        File::open(dir)
            .and_then(|dir| dir.sync_all())
            .map_err(|err| io("sync the directory of", err))
    };
    let result = write();
    if result.is_err() {
        let _ = fs::remove_file(&lock);
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_added_once_and_read_back_sorted() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("shallow");
        let id = |n: u8| ObjectId::from_bytes_or_panic(&[n; 20]);
        assert!(read(&path, HashKind::Sha1).expect("none").is_empty());
        add(&path, HashKind::Sha1, &[id(2)]).expect("add");
        add(&path, HashKind::Sha1, &[id(1), id(2)]).expect("add");
        assert_eq!(read(&path, HashKind::Sha1).expect("read"), [id(1), id(2)]);
        assert!(!path.with_extension("lock").exists());
        assert!(read(&path, HashKind::Sha256).is_err());
    }

    #[test]
    fn somebody_elses_lock_is_respected() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("shallow");
        std::fs::write(path.with_extension("lock"), b"").expect("write");
        assert!(add(&path, HashKind::Sha1, &[ObjectId::from_bytes_or_panic(&[1; 20])]).is_err());
        assert!(path.with_extension("lock").exists());
    }
}
