//! Writing objects that we made ourselves: those of a checkpoint.

use std::{
    collections::{HashSet, hash_map::RandomState},
    fs::{self, DirBuilder, File, OpenOptions},
    hash::BuildHasher,
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use gix::{
    hash::{Kind as HashKind, ObjectId},
    objs::Kind,
};

use super::{Location, Odb, OdbError, Repository, loose_path, repack::choose::list_fan, settings::shared_mode};
use crate::{
    base::Fault,
    pack::{Checksum, Deflater, EntryKind, IndexEntry, pack_header, write_entry_header, write_index},
};

/// How new objects lie on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SinkForm {
    /// A file each: few objects.
    Loose,
    /// All of them in one pack: many.
    Pack,
}

/// Why objects could not be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// A file operation failed.
    #[error("{doing} {path}", path = path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The repository could not say what it has already.
    #[error("the objects of the repository")]
    Objects(#[from] OdbError),
    /// The content collides with another one by a known attack on SHA-1.
    #[error("the content is made to collide with another under SHA-1")]
    Collision,
}

impl WriteError {
    /// Whose move it is.
    pub fn fault(&self) -> Fault {
        match self {
            WriteError::Io { .. } => Fault::Ours,
            WriteError::Objects(source) => source.fault(),
            WriteError::Collision => Fault::Client,
        }
    }

    fn io(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| WriteError::Io { doing, path, source }
    }
}

/// Takes new objects, from several threads at once. Nothing of it is visible before [`publish`](Self::publish), and nothing of it stays without.
#[must_use = "objects that are not published are lost"]
pub struct ObjectSink {
    hash: HashKind,
    objects: PathBuf,
    level: i32,
    modes: Box<dyn Fn(u32, bool) -> u32 + Send + Sync>,
    odb: Mutex<Odb>,
    inner: Mutex<Inner>,
    form: SinkForm,
}

#[derive(Default)]
struct Inner {
    known: HashSet<ObjectId>,
    loose: Vec<(Draft, ObjectId)>,
    pack: Option<GrowingPack>,
    written: Written,
}

/// What was written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Written {
    /// Objects that the repository did not have.
    pub objects: u64,
    /// Bytes that they take on disk.
    pub bytes: u64,
    /// The files and directories that a loss of power could still take back, data before names. Empty when it was durable.
    pub unflushed: Vec<PathBuf>,
}

/// A file under a temporary name, gone with this value unless it got its own.
struct Draft(Option<PathBuf>);

impl Draft {
    fn path(&self) -> &Path {
        self.0.as_deref().unwrap_or(Path::new(""))
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if let Some(path) = self.0.take() {
            let _ = fs::remove_file(path);
        }
    }
}

struct GrowingPack {
    draft: Draft,
    file: File,
    at: u64,
    entries: Vec<IndexEntry>,
}

impl std::fmt::Debug for ObjectSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ObjectSink")
            .field("form", &self.form)
            .finish_non_exhaustive()
    }
}

impl Repository {
    /// A place for new objects.
    ///
    /// # Errors
    /// When the objects that are there already cannot be listed.
    pub fn object_sink(&self, form: SinkForm) -> Result<ObjectSink, WriteError> {
        let core = &self.settings().core;
        let shared = core.shared_repository;
        let level = match form {
            SinkForm::Loose => core.loose_compression,
            SinkForm::Pack => self.settings().pack.compression,
        };
        Ok(ObjectSink {
            hash: self.hash_kind(),
            objects: self.objects_dir().to_owned(),
            level,
            modes: Box::new(move |mode, is_dir| shared_mode(shared, mode, is_dir)),
            odb: Mutex::new(self.odb()?),
            inner: Mutex::default(),
            form,
        })
    }
}

impl Repository {
    /// Removes the objects written after `since` that are not what their names say: what a loss of power leaves of files that had not reached the disk. To be called
    /// when nobody has written objects since the system was started. Says how many files went.
    ///
    /// # Errors
    /// When the objects cannot be listed, or a damaged file cannot be removed.
    pub fn remove_damaged_since(&self, since: SystemTime) -> Result<usize, WriteError> {
        let objects = self.objects_dir();
        let is_new = |path: &Path| {
            fs::metadata(path)
                .and_then(|meta| meta.modified())
                .is_ok_and(|time| time >= since)
        };
        let remove = |path: &Path| fs::remove_file(path).map_err(WriteError::io("remove", path));
        let odb = self.odb()?;
        let (mut removed, mut content) = (0, Vec::new());
        for fan in 0..=255 {
            let mut new = Vec::new();
            list_fan(objects, fan, self.hash_kind(), &mut |id| {
                let path = loose_path(objects, &id);
                if is_new(&path) {
                    new.push((id, path));
                }
            })
            .map_err(WriteError::io("list", objects))?;
            for (id, path) in new {
                content.clear();
                // Read whole, it is held against its name.
                if odb.read_at(Location::Loose, &id, &mut content).is_err() {
                    remove(&path)?;
                    removed += 1;
                }
            }
        }
        let packs = objects.join("pack");
        for entry in fs::read_dir(&packs).into_iter().flatten().flatten() {
            let pack = entry.path();
            let idx = pack.with_extension("idx");
            if pack.extension().is_none_or(|kind| kind != "pack") || !is_new(&pack) {
                continue;
            }
            if !self.ends_in_its_checksum(&pack) || !self.ends_in_its_checksum(&idx) {
                for path in [idx, pack.with_extension("rev"), pack] {
                    if path.exists() {
                        remove(&path)?;
                        removed += 1;
                    }
                }
            }
        }
        Ok(removed)
    }

    fn ends_in_its_checksum(&self, path: &Path) -> bool {
        let check = || -> io::Result<bool> {
            let mut file = File::open(path)?;
            let trailer = self.hash_kind().len_in_bytes();
            let mut left = file
                .metadata()?
                .len()
                .checked_sub(trailer as u64)
                .ok_or(io::ErrorKind::UnexpectedEof)?;
            let mut checksum = Checksum::new(self.hash_kind());
            let mut buffer = vec![0; 256 << 10];
            while left > 0 {
                let most = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
                file.read_exact(&mut buffer[..most])?;
                checksum.update(&buffer[..most]);
                left -= most as u64;
            }
            file.read_exact(&mut buffer[..trailer])?;
            Ok(checksum.finish().as_slice() == &buffer[..trailer])
        };
        check().unwrap_or(false)
    }
}

impl ObjectSink {
    /// Takes an object and says its id. One that the repository has already is not written again.
    ///
    /// # Errors
    /// Those of the file system; `Collision`.
    pub fn write(&self, kind: Kind, content: &[u8]) -> Result<ObjectId, WriteError> {
        let id = gix::objs::compute_hash(self.hash, kind, content).map_err(|_| WriteError::Collision)?;
        if !self.inner().known.insert(id) || self.is_there(&id, false)? {
            return Ok(id);
        }
        match self.form {
            SinkForm::Loose => {
                let mut bytes = Vec::with_capacity(content.len() / 2 + 64);
                let mut deflater = Deflater::new(self.level);
                deflater.feed(
                    &gix::objs::encode::loose_header(kind, content.len() as u64),
                    false,
                    &mut bytes,
                );
                deflater.feed(content, true, &mut bytes);
                let (draft, mut file) = self.draft("tmp_obj_gitstead")?;
                file.write_all(&bytes).map_err(WriteError::io("write", draft.path()))?;
                self.adjust(&file, draft.path())?;
                let mut inner = self.inner();
                inner.loose.push((draft, id));
                inner.written.objects += 1;
                inner.written.bytes += bytes.len() as u64;
            }
            SinkForm::Pack => {
                let entry = match kind {
                    Kind::Commit => EntryKind::Commit,
                    Kind::Tree => EntryKind::Tree,
                    Kind::Blob => EntryKind::Blob,
                    Kind::Tag => EntryKind::Tag,
                };
                let mut bytes = Vec::with_capacity(content.len() / 2 + 64);
                write_entry_header(entry, content.len() as u64, &mut bytes);
                Deflater::new(self.level).deflate(content, &mut bytes);
                self.append(id, &bytes)?;
            }
        }
        Ok(id)
    }

    /// Whether the repository has an object, or was given it here.
    ///
    /// # Errors
    /// When the repository cannot tell.
    pub fn has(&self, id: &ObjectId) -> Result<bool, WriteError> {
        Ok(self.inner().known.contains(id) || self.is_there(id, true)?)
    }

    /// What is packed just now may be taken for absent: it is written once more then, which does no harm.
    /// With `is_news` the directories are listed anew for it, once.
    fn is_there(&self, id: &ObjectId, is_news: bool) -> Result<bool, WriteError> {
        let found = {
            let odb = self.odb.lock().unwrap_or_else(PoisonError::into_inner);
            match is_news {
                true => odb.contains_probably(id)?,
                false => odb.contains_as_listed(id)?,
            }
        };
        // Nobody needed it until now; what is old and not needed is pruned, unless it is in a pack.
        if found {
            let now = rustix::fs::Timestamps {
                last_access: NOW,
                last_modification: NOW,
            };
            let path = loose_path(&self.objects, id);
            let _ = rustix::fs::utimensat(rustix::fs::CWD, &path, &now, rustix::fs::AtFlags::empty());
        }
        Ok(found)
    }

    fn append(&self, id: ObjectId, bytes: &[u8]) -> Result<(), WriteError> {
        let mut inner = self.inner();
        if inner.pack.is_none() {
            let (draft, mut file) = self.draft("pack/tmp_pack_gitstead")?;
            file.write_all(&pack_header(0))
                .map_err(WriteError::io("write", draft.path()))?;
            inner.pack = Some(GrowingPack {
                draft,
                file,
                at: 12,
                entries: Vec::new(),
            });
        }
        let Some(pack) = &mut inner.pack else { return Ok(()) };
        pack.file
            .write_all(bytes)
            .map_err(WriteError::io("write", pack.draft.path()))?;
        pack.entries.push(IndexEntry {
            oid: id,
            offset: pack.at,
            crc32: crc32fast::hash(bytes),
        });
        pack.at += bytes.len() as u64;
        inner.written.objects += 1;
        inner.written.bytes += bytes.len() as u64;
        Ok(())
    }

    /// Makes the objects the repository's own: data first, then names, a pack before its index. With `durable` they survive a loss of power when this returns;
    /// a killed process they survive in any case.
    ///
    /// # Errors
    /// Those of the file system. Objects that have their names by then stay, and nothing refers to them.
    pub fn publish(self, durable: bool) -> Result<Written, WriteError> {
        let inner = std::mem::take(&mut *self.inner());
        let Inner {
            mut loose,
            pack,
            mut written,
            ..
        } = inner;
        let mut dirs = Vec::new();
        if durable {
            for (draft, _) in &loose {
                flush(draft.path())?;
            }
        }
        // In the order in which they were made: a commit comes last.
        for (draft, id) in &mut loose {
            let to = loose_path(&self.objects, id);
            let dir = to.parent().unwrap_or(&self.objects).to_owned();
            self.rename(draft, &to, &dir, &mut dirs)?;
            if !durable {
                written.unflushed.push(to);
            }
        }
        if let Some(pack) = pack {
            let files = self.finish_pack(pack, durable, &mut dirs)?;
            if !durable {
                written.unflushed.extend(files);
            }
        }
        if durable {
            for dir in dirs.iter().rev() {
                flush(dir)?;
            }
        } else {
            written.unflushed.extend(dirs.into_iter().rev());
        }
        Ok(written)
    }

    /// Renames, making the directory if need be; `dirs` are those whose names changed, outer ones first.
    fn rename(&self, draft: &mut Draft, to: &Path, dir: &Path, dirs: &mut Vec<PathBuf>) -> Result<(), WriteError> {
        let Some(from) = draft.0.clone() else { return Ok(()) };
        let mut renamed = fs::rename(&from, to);
        // git removes directories of objects that are empty just now, this one perhaps more than once.
        for _ in 0..ROOM_ATTEMPTS {
            match &renamed {
                Err(err) if err.kind() == io::ErrorKind::NotFound => {
                    self.make_dir(dir)?;
                    if dirs.first() != Some(&self.objects) {
                        dirs.insert(0, self.objects.clone());
                    }
                    renamed = fs::rename(&from, to);
                }
                _ => break,
            }
        }
        renamed.map_err(WriteError::io("name", to))?;
        draft.0 = None;
        if !dirs.iter().any(|known| known == dir) {
            dirs.push(dir.to_owned());
        }
        Ok(())
    }

    fn make_dir(&self, dir: &Path) -> Result<(), WriteError> {
        let mode = (self.modes)(0o777, true);
        match DirBuilder::new().mode(mode).create(dir) {
            Err(err) if err.kind() != io::ErrorKind::AlreadyExists => Err(WriteError::io("create", dir)(err)),
            Ok(()) if mode != 0o777 => fs::set_permissions(dir, fs::Permissions::from_mode(mode))
                .map_err(WriteError::io("set the mode of", dir)),
            _ => Ok(()),
        }
    }

    fn finish_pack(
        &self,
        pack: GrowingPack,
        durable: bool,
        dirs: &mut Vec<PathBuf>,
    ) -> Result<[PathBuf; 2], WriteError> {
        let GrowingPack {
            mut draft,
            mut file,
            mut entries,
            ..
        } = pack;
        let path = draft.path().to_owned();
        let io = |doing| WriteError::io(doing, path.clone());
        let count = u32::try_from(entries.len()).map_err(|_| io("count")(io::Error::other("too many objects")))?;
        file.write_all_at(&pack_header(count), 0).map_err(io("write"))?;
        file.seek(SeekFrom::Start(0)).map_err(io("read"))?;
        let mut hasher = Checksum::new(self.hash);
        let mut buffer = vec![0; 256 << 10];
        loop {
            match file.read(&mut buffer).map_err(io("read"))? {
                0 => break,
                n => hasher.update(&buffer[..n]),
            }
        }
        let checksum = hasher.finish();
        file.write_all(checksum.as_slice()).map_err(io("write"))?;
        self.adjust(&file, &path)?;
        entries.sort();
        let (mut idx, mut index) = self.draft("pack/tmp_idx_gitstead")?;
        write_index(&entries, &checksum, self.hash, &mut index).map_err(WriteError::io("write", idx.path()))?;
        self.adjust(&index, idx.path())?;
        if durable {
            file.sync_all().map_err(io("flush"))?;
            index.sync_all().map_err(WriteError::io("flush", idx.path()))?;
        }
        let dir = self.objects.join("pack");
        let to = dir.join(format!("pack-{}.pack", checksum.to_hex()));
        let to_idx = to.with_extension("idx");
        self.rename(&mut draft, &to, &dir, dirs)?;
        self.rename(&mut idx, &to_idx, &dir, dirs)?;
        Ok([to, to_idx])
    }

    /// A file under a name that git knows for a temporary one and prunes when it is old.
    fn draft(&self, prefix: &str) -> Result<(Draft, File), WriteError> {
        for _ in 0..100 {
            let random = RandomState::new().hash_one(std::process::id());
            let path = self.objects.join(format!("{prefix}_{random:016x}"));
            let mut options = OpenOptions::new();
            match options.read(true).write(true).create_new(true).mode(0o444).open(&path) {
                Ok(file) => return Ok((Draft(Some(path)), file)),
                Err(err) if err.kind() == io::ErrorKind::AlreadyExists => {}
                Err(err) if err.kind() == io::ErrorKind::NotFound && prefix.starts_with("pack/") => {
                    self.make_dir(&self.objects.join("pack"))?;
                }
                Err(err) => return Err(WriteError::io("create", path)(err)),
            }
        }
        let taken = io::Error::new(io::ErrorKind::AlreadyExists, "every name is taken");
        Err(WriteError::io("create a temporary file in", &self.objects)(taken))
    }

    fn adjust(&self, file: &File, path: &Path) -> Result<(), WriteError> {
        // Most repositories are shared with nobody.
        if (self.modes)(0o600, false) == 0o600 && (self.modes)(0o444, false) == 0o444 {
            return Ok(());
        }
        let mode = file
            .metadata()
            .map_err(WriteError::io("look at", path))?
            .permissions()
            .mode()
            & 0o7777;
        let wanted = (self.modes)(mode, false);
        if wanted == mode {
            return Ok(());
        }
        file.set_permissions(fs::Permissions::from_mode(wanted))
            .map_err(WriteError::io("set the mode of", path))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How often a directory is made again that somebody removes.
const ROOM_ATTEMPTS: usize = 20;

const NOW: rustix::fs::Timespec = rustix::fs::Timespec {
    tv_sec: 0,
    tv_nsec: rustix::fs::UTIME_NOW,
};

/// Brings a file or a directory to the disk.
fn flush(path: &Path) -> Result<(), WriteError> {
    File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(WriteError::io("flush", path))
}

impl Written {
    /// Brings what is not on the disk yet to it. What has been moved into a pack since needs nothing.
    ///
    /// # Errors
    /// The first failure; the rest is tried all the same.
    pub fn flush(&self) -> Result<(), WriteError> {
        let mut result = Ok(());
        for path in &self.unflushed {
            match flush(path) {
                Err(WriteError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
                other => result = result.and(other),
            }
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repo::testing::TestRepo;

    fn files(repo: &TestRepo) -> usize {
        let mut open = vec![repo.path().join("objects")];
        let mut count = 0;
        while let Some(dir) = open.pop() {
            for entry in fs::read_dir(dir).expect("a directory") {
                let entry = entry.expect("an entry");
                match entry.file_type().expect("a type").is_dir() {
                    true => open.push(entry.path()),
                    false => count += 1,
                }
            }
        }
        count
    }

    #[test]
    fn objects_are_there_after_they_were_published_and_not_before() {
        for hash in [HashKind::Sha1, HashKind::Sha256] {
            for form in [SinkForm::Loose, SinkForm::Pack] {
                for durable in [false, true] {
                    let repo = TestRepo::new(hash);
                    let there = repo.loose(Kind::Blob, b"there already");
                    let repository = repo.open();
                    let sink = repository.object_sink(form).expect("a sink");
                    let contents: Vec<Vec<u8>> = (0..50u8).map(|n| vec![n; usize::from(n) * 100]).collect();
                    let ids: Vec<_> = contents
                        .iter()
                        .map(|content| sink.write(Kind::Blob, content).expect("written"))
                        .collect();
                    assert_eq!(sink.write(Kind::Blob, &contents[3]).expect("known"), ids[3]);
                    assert_eq!(sink.write(Kind::Blob, b"there already").expect("known"), there);
                    assert!(!repository.odb().expect("objects").contains(&ids[0]).expect("an answer"));
                    let written = sink.publish(durable).expect("published");
                    assert_eq!(written.objects, 50);
                    assert_eq!(written.unflushed.is_empty(), durable);
                    written.flush().expect("flushed");
                    let odb = repository.odb().expect("objects");
                    for (id, content) in ids.iter().zip(&contents) {
                        let mut out = Vec::new();
                        assert_eq!(odb.read(id, &mut out).expect("readable"), Some(Kind::Blob));
                        assert!(out == *content);
                    }
                    assert_eq!(files(&repo), 1 + if form == SinkForm::Loose { 50 } else { 2 });
                }
            }
        }
    }

    #[test]
    fn what_is_not_published_leaves_nothing() {
        for form in [SinkForm::Loose, SinkForm::Pack] {
            let repo = TestRepo::new(HashKind::Sha1);
            let repository = repo.open();
            let sink = repository.object_sink(form).expect("a sink");
            sink.write(Kind::Blob, b"one").expect("written");
            sink.write(Kind::Blob, b"two").expect("written");
            assert!(files(&repo) > 0);
            drop(sink);
            assert_eq!(files(&repo), 0);
        }
    }

    #[test]
    fn an_object_that_was_old_and_is_needed_again_is_no_longer_old() {
        let repo = TestRepo::new(HashKind::Sha1);
        let id = repo.loose(Kind::Blob, b"old");
        let path = loose_path(&repo.path().join("objects"), &id);
        let old = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
        File::options()
            .write(true)
            .open(&path)
            .and_then(|file| file.set_modified(old))
            .expect("set");
        let repository = repo.open();
        let sink = repository.object_sink(SinkForm::Loose).expect("a sink");
        sink.write(Kind::Blob, b"old").expect("known");
        assert!(fs::metadata(&path).and_then(|meta| meta.modified()).expect("a time") > old);
    }
}
