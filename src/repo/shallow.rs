use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, Read},
    path::Path,
    time::{Duration, Instant},
};

use bstr::ByteSlice;
use gix::hash::{Kind as HashKind, ObjectId};

use super::{RefStore, RefsError, open::StoreError};

/// A shallow file has a line for each root of a cut history; this is some million of them.
const MAX_SHALLOW_BYTES: u64 = 64 << 20;

/// How long a push waits for others that change the shallow file.
pub(crate) const WAIT: Duration = Duration::from_secs(5);

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

/// Adds to a `shallow` file what `pick` picks, knowing under the lock what is in it. Durable, and in one step.
pub(crate) fn add<E: From<StoreError> + From<RefsError>>(
    refs: &RefStore,
    path: &Path,
    hash: HashKind,
    deadline: Instant,
    pick: impl FnOnce(&[ObjectId]) -> Result<Vec<ObjectId>, E>,
) -> Result<(), E> {
    refs.replace_file(path, deadline, || {
        let present = read(path, hash)?;
        let picked = pick(&present)?;
        let mut all: BTreeSet<ObjectId> = present.iter().copied().collect();
        all.extend(picked);
        if all.len() == present.len() {
            return Ok(None);
        }
        let mut text = Vec::with_capacity(all.len() * (hash.len_in_hex() + 1));
        for id in all {
            text.extend_from_slice(id.to_hex().to_string().as_bytes());
            text.push(b'\n');
        }
        Ok(Some(text))
    })
}

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf};

    use super::*;
    use crate::repo::RefStoreOptions;

    #[derive(Debug)]
    enum Failure {
        Store,
        Refs(RefsError),
    }

    impl From<StoreError> for Failure {
        fn from(_: StoreError) -> Self {
            Failure::Store
        }
    }

    impl From<RefsError> for Failure {
        fn from(err: RefsError) -> Self {
            Failure::Refs(err)
        }
    }

    struct House {
        _dir: tempfile::TempDir,
        refs: RefStore,
        path: PathBuf,
    }

    fn house() -> House {
        let dir = tempfile::tempdir().expect("a temporary directory");
        House {
            refs: RefStore::new(dir.path(), dir.path(), HashKind::Sha1, RefStoreOptions::default()),
            path: dir.path().join("shallow"),
            _dir: dir,
        }
    }

    impl House {
        fn add(&self, wait: Duration, new: &[ObjectId]) -> Result<(), Failure> {
            let pick = |_: &[ObjectId]| Ok(new.to_vec());
            add(&self.refs, &self.path, HashKind::Sha1, Instant::now() + wait, pick)
        }
    }

    fn id(n: u8) -> ObjectId {
        ObjectId::from_bytes_or_panic(&[n; 20])
    }

    #[test]
    fn ids_are_added_once_and_read_back_sorted() {
        let house = house();
        let path = &house.path;
        assert!(read(path, HashKind::Sha1).expect("none").is_empty());
        house.add(WAIT, &[id(2)]).expect("add");
        house.add(WAIT, &[id(1), id(2)]).expect("add");
        assert_eq!(read(path, HashKind::Sha1).expect("read"), [id(1), id(2)]);
        assert_eq!(
            fs::read_dir(path.parent().expect("a parent")).expect("listed").count(),
            1
        );
        assert!(read(path, HashKind::Sha256).is_err());
    }

    #[test]
    fn somebody_elses_lock_is_respected() {
        let house = house();
        fs::write(house.path.with_extension("lock"), b"").expect("write");
        let failure = house.add(Duration::from_millis(20), &[id(1)]).expect_err("locked");
        assert!(
            matches!(failure, Failure::Refs(RefsError::Locked { .. })),
            "{failure:?}"
        );
        assert!(house.path.with_extension("lock").exists());
    }

    #[test]
    fn a_lock_that_goes_is_waited_for_and_one_of_the_dead_is_removed() {
        let house = house();
        let lock = house.path.with_extension("lock");
        fs::write(&lock, b"gitstead lock\n").expect("write");
        house.add(Duration::ZERO, &[id(1)]).expect("nobody holds it");
        fs::write(&lock, b"").expect("write");
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| house.add(WAIT, &[id(2)]));
            fs::remove_file(&lock).expect("remove");
            waiting.join().expect("joined").expect("added");
        });
        assert_eq!(read(&house.path, HashKind::Sha1).expect("read"), [id(1), id(2)]);
    }

    #[test]
    fn all_who_add_at_once_are_heard() {
        let house = house();
        std::thread::scope(|scope| {
            for n in 1..=8 {
                let house = &house;
                scope.spawn(move || house.add(WAIT, &[id(n)]).expect("added"));
            }
        });
        assert_eq!(read(&house.path, HashKind::Sha1).expect("read").len(), 8);
    }
}
