use std::{
    collections::hash_map::RandomState,
    collections::{BTreeMap, BTreeSet},
    fs::{self, DirBuilder, File},
    hash::BuildHasher,
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use gix::hash::ObjectId;

use super::{IngestError, intake::create_read_only};
use crate::repo::loose::{HeldObjects, loose_path};

/// What `git prune` knows such directories by.
const PREFIX: &str = "tmp_objdir-";
/// Ours until it is locked, and after that. Whoever can lock the latter knows that its process has died.
const YOUNG: &str = "tmp_objdir-new-";
const OURS: &str = "tmp_objdir-gitstead-";
const KEEP: &[u8] = b"gitstead ";
/// Bytes of loose objects that wait in memory. Making and removing files and directories is most of what a small push costs, so what is small is not written
/// before it is accepted, and then only once.
const HELD_BYTES: usize = 1 << 20;
/// Times that a directory may be removed before a file is in it.
const DIRECTORY_RACES: usize = 10;
/// Threads that flush files for one push, beside its own.
const FLUSHES: usize = 3;

/// Where a file of a quarantine belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Loose,
    Pack,
    Rev,
    Mtimes,
    Idx,
}

struct Staged {
    rank: Rank,
    /// Below the objects directory, there as here.
    name: String,
    file: File,
}

/// The objects of one push until they count: a few loose ones in memory, everything else in a directory beside the repository's objects, which is made when
/// there is something to put into it and gone with everything in it when this value is dropped.
///
/// [`migrate`](Self::migrate) makes them the repository's own.
#[must_use = "a quarantine that is dropped takes its objects with it"]
pub struct Quarantine {
    place: Option<Place>,
    objects: PathBuf,
    modes: Modes,
    staged: Vec<Staged>,
    held: Arc<HeldObjects>,
    held_bytes: usize,
}

/// The directory of a quarantine.
struct Place {
    dir: PathBuf,
    /// Says for as long as it is open that the quarantine is in use.
    _alive: Option<File>,
}

/// How `core.sharedRepository` changes permission bits: `(mode, is a directory)` to mode.
pub(super) type Modes = Box<dyn Fn(u32, bool) -> u32 + Send + Sync>;

impl std::fmt::Debug for Quarantine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Quarantine")
            .field("dir", &self.objects_dir())
            .field("files", &self.staged.len())
            .field("held", &self.held.len())
            .finish_non_exhaustive()
    }
}

impl Place {
    fn make(objects: &Path) -> Result<Self, IngestError> {
        for _ in 0..100 {
            let random = RandomState::new().hash_one(std::process::id());
            let mut dir = objects.join(format!("{YOUNG}{random:016x}"));
            match DirBuilder::new().mode(0o700).create(&dir) {
                Ok(()) => {
                    // Under its final name it has always been locked. Where directories cannot be locked, only age tells.
                    let gone = |err: &io::Error| err.kind() == io::ErrorKind::NotFound;
                    let alive = match File::open(&dir).map(|file| (lock(&file), file)) {
                        Ok((Lock::Taken, file)) => Some(file),
                        Ok((Lock::Unknown, _)) => None,
                        // Swept before it was locked.
                        Ok((Lock::Held, _)) => continue,
                        Err(err) if gone(&err) => continue,
                        Err(_) => None,
                    };
                    let named = objects.join(format!("{OURS}{random:016x}"));
                    if alive.is_some() {
                        match fs::rename(&dir, &named) {
                            Ok(()) => dir = named,
                            Err(err) if gone(&err) => continue,
                            Err(_) => {}
                        }
                    }
                    return Ok(Place { dir, _alive: alive });
                }
                Err(err) if err.kind() == io::ErrorKind::AlreadyExists => {}
                Err(err) => return Err(IngestError::io("create a quarantine", dir)(err)),
            }
        }
        let taken = io::Error::new(io::ErrorKind::AlreadyExists, "every name is taken");
        Err(IngestError::io("create a quarantine", objects)(taken))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

impl Quarantine {
    pub(super) fn below(objects: &Path) -> Self {
        Quarantine {
            place: None,
            objects: objects.to_owned(),
            modes: Box::new(|mode, _| mode),
            staged: Vec::new(),
            held: Arc::default(),
            held_bytes: 0,
        }
    }

    /// The quarantine as an objects directory: packs in `pack/`, loose objects in their fan-out directories. `None` when all there is is in memory.
    pub fn objects_dir(&self) -> Option<&Path> {
        self.place.as_ref().map(|place| place.dir.as_path())
    }

    /// What of the quarantine is in memory.
    pub(crate) fn held(&self) -> Arc<HeldObjects> {
        self.held.clone()
    }

    fn dir(&mut self) -> Result<&Path, IngestError> {
        let place = match self.place.take() {
            Some(place) => place,
            None => Place::make(&self.objects)?,
        };
        Ok(&self.place.insert(place).dir)
    }

    /// Makes `pack/`, and says where in it a pack may grow.
    pub(in crate::repo) fn pack_path(&mut self) -> Result<PathBuf, IngestError> {
        let dir = self.dir()?.join("pack");
        make_dir(&dir, 0o700).map_err(IngestError::io("create a directory in the quarantine", &dir))?;
        Ok(dir.join("tmp_pack_incoming"))
    }

    /// Takes a loose object, compressed.
    pub(super) fn add_loose(&mut self, id: &ObjectId, bytes: &[u8]) -> Result<(), IngestError> {
        if self.held_bytes + bytes.len() <= HELD_BYTES {
            self.held_bytes += bytes.len();
            Arc::make_mut(&mut self.held).insert(*id, bytes.into());
            return Ok(());
        }
        self.write_loose(id, bytes)
    }

    fn write_loose(&mut self, id: &ObjectId, bytes: &[u8]) -> Result<(), IngestError> {
        let hex = id.to_hex().to_string();
        let dir = self.dir()?.join(&hex[..2]);
        make_dir(&dir, 0o700).map_err(IngestError::io("create a directory in the quarantine", &dir))?;
        let name = format!("{}/{}", &hex[..2], &hex[2..]);
        self.add(Rank::Loose, name, bytes)
    }

    /// Takes a pack that is in memory, or is the file at `grown`, with its indices.
    pub(in crate::repo) fn add_pack(
        &mut self,
        stem: &str,
        pack: NewPack<'_>,
        idx: &[u8],
        rev: &[u8],
    ) -> Result<(), IngestError> {
        self.pack_path()?;
        let name = format!("pack/{stem}.pack");
        match pack {
            NewPack::Bytes(bytes) => self.add(Rank::Pack, name, bytes)?,
            NewPack::Grown(file, grown) => {
                let path = self.dir()?.join(&name);
                fs::rename(&grown, &path).map_err(IngestError::io("rename a pack in the quarantine", path))?;
                self.staged.push(Staged {
                    rank: Rank::Pack,
                    name,
                    file,
                });
            }
        }
        if !rev.is_empty() {
            self.add(Rank::Rev, format!("pack/{stem}.rev"), rev)?;
        }
        self.add(Rank::Idx, format!("pack/{stem}.idx"), idx)
    }

    /// Takes the times of the objects of a pack that was added, which makes it a cruft pack.
    pub(in crate::repo) fn add_mtimes(&mut self, stem: &str, mtimes: &[u8]) -> Result<(), IngestError> {
        self.add(Rank::Mtimes, format!("pack/{stem}.mtimes"), mtimes)
    }

    fn add(&mut self, rank: Rank, name: String, bytes: &[u8]) -> Result<(), IngestError> {
        let path = self.dir()?.join(&name);
        let mut file = create_read_only(&path).map_err(IngestError::io("create a file in the quarantine", &path))?;
        file.write_all(bytes)
            .map_err(IngestError::io("write a file in the quarantine", path))?;
        self.staged.push(Staged { rank, name, file });
        Ok(())
    }

    /// Makes the objects the repository's own, for good: when this returns they survive a loss of power. Data first, then names; a pack before its index, so
    /// that at no moment an index without its pack can be seen. An interrupted migration leaves objects that nothing refers to.
    ///
    /// # Errors
    /// Those of the file system. What was moved before stays; no ref points to it.
    pub fn migrate(mut self) -> Result<Published, IngestError> {
        let mut changed = BTreeSet::new();
        self.write_held(&mut changed)?;
        let mut staged = std::mem::take(&mut self.staged);
        let Some(dir) = self.objects_dir().map(Path::to_owned) else {
            return Ok(Published::default());
        };
        staged.sort_by(|a, b| (a.rank, &a.name).cmp(&(b.rank, &b.name)));
        let paths: Vec<PathBuf> = staged.iter().map(|one| dir.join(&one.name)).collect();
        self.make_durable(
            staged
                .iter()
                .map(|one| &one.file)
                .zip(paths.iter().map(PathBuf::as_path)),
        )?;
        let mut published = Published::default();
        for one in staged {
            let to = self.objects.join(&one.name);
            let holds = self.final_dir(&to, &mut changed)?;
            if one.rank == Rank::Pack
                && let Some(keep) = keep(
                    &dir.join(format!("keep-{}", published.keeps.len())),
                    &to.with_extension("keep"),
                )?
            {
                published.keeps.push(keep);
            }
            let len = one.file.metadata().map(|m| m.len()).unwrap_or_default();
            drop(one.file);
            // The name is the content's; what is there already may be in use and stays.
            let there = fs::metadata(&to).is_ok_and(|meta| meta.is_file() && meta.len() == len);
            if !there || one.rank == Rank::Loose {
                self.move_out(&dir.join(&one.name), &to, &mut changed)?;
            }
            changed.insert(holds);
        }
        // Deeper directories sort behind the one that holds them.
        let mut dirs = Vec::with_capacity(changed.len());
        for dir in changed.iter().rev() {
            match File::open(dir) {
                Ok(file) => dirs.push((file, dir.as_path())),
                // Empty, and so removed: somebody has packed already what was in it.
                Err(err) if err.kind() == io::ErrorKind::NotFound => {}
                Err(err) => return Err(IngestError::io("open a directory of objects", dir)(err)),
            }
        }
        flush_together(dirs.iter().map(|(file, dir)| (file, *dir)))?;
        Ok(published)
    }

    /// Writes the loose objects that are in memory, all in one directory: under it they are nobody's, and are swept if we die.
    fn write_held(&mut self, changed: &mut BTreeSet<PathBuf>) -> Result<(), IngestError> {
        let held = std::mem::take(&mut self.held);
        if held.is_empty() {
            return Ok(());
        }
        let dir = self.dir()?.to_owned();
        let (mut files, mut names) = (Vec::new(), Vec::new());
        for (id, bytes) in held.iter() {
            let draft = dir.join(id.to_hex().to_string());
            let mut file = create_read_only(&draft).map_err(IngestError::io("create an object", &draft))?;
            file.write_all(bytes)
                .map_err(IngestError::io("write an object", &draft))?;
            files.push(file);
            names.push((draft, loose_path(&self.objects, id)));
        }
        self.make_durable(files.iter().zip(names.iter().map(|(draft, _)| draft.as_path())))?;
        for (draft, to) in &names {
            let holds = self.final_dir(to, changed)?;
            self.move_out(draft, to, changed)?;
            changed.insert(holds);
        }
        Ok(())
    }

    /// Gives files the mode they are to have, and brings them to the disk.
    fn make_durable<'f>(&self, files: impl Iterator<Item = (&'f File, &'f Path)> + Clone) -> Result<(), IngestError> {
        for (file, path) in files.clone() {
            let Ok(meta) = file.metadata() else { continue };
            let mode = meta.permissions().mode() & 0o7777;
            let wanted = (self.modes)(mode, false);
            if wanted != mode {
                file.set_permissions(fs::Permissions::from_mode(wanted))
                    .map_err(IngestError::io("set the mode of a file in the quarantine", path))?;
            }
        }
        flush_together(files)
    }

    /// Gives a file its place. git removes the directories of loose objects when they are empty, perhaps just now.
    fn move_out(&self, from: &Path, to: &Path, changed: &mut BTreeSet<PathBuf>) -> Result<(), IngestError> {
        let mut tries = 0;
        loop {
            match fs::rename(from, to) {
                Err(err) if err.kind() == io::ErrorKind::NotFound && tries < DIRECTORY_RACES => {
                    tries += 1;
                    self.final_dir(to, changed)?;
                }
                moved => return moved.map_err(IngestError::io("move a file out of the quarantine", to)),
            }
        }
    }

    /// The directory that a file of the repository is in, made if there is none.
    fn final_dir(&self, file: &Path, changed: &mut BTreeSet<PathBuf>) -> Result<PathBuf, IngestError> {
        let dir = file.parent().unwrap_or(&self.objects).to_owned();
        if !dir.is_dir() {
            let made = make_dir(&dir, (self.modes)(0o777, true));
            made.map_err(IngestError::io("create a directory of objects", &dir))?;
            changed.insert(self.objects.clone());
        }
        Ok(dir)
    }

    pub(super) fn set_modes(&mut self, modes: Modes) {
        self.modes = modes;
    }
}

/// A pack on its way into a quarantine.
pub(in crate::repo) enum NewPack<'a> {
    Bytes(&'a [u8]),
    /// A file of the quarantine under a temporary name.
    Grown(File, PathBuf),
}

/// Objects that are in the repository and to which no ref points yet. While this lives, a `.keep` file keeps a repack by git from dropping their pack: hold
/// it until the refs are updated.
#[must_use = "hold it until the refs are updated"]
#[derive(Debug, Default)]
pub struct Published {
    keeps: Vec<Keep>,
}

/// A `.keep` file of ours, shared by all pushes of this process that bring the same pack at the same time: the last one takes it away.
#[derive(Debug)]
struct Keep(PathBuf);

/// The `.keep` files of this process: how many pushes each is for, and the file, which says for as long as it is open that they are in use.
static KEEPS: Mutex<BTreeMap<PathBuf, (usize, File)>> = Mutex::new(BTreeMap::new());

impl Drop for Keep {
    fn drop(&mut self) {
        let mut keeps = KEEPS.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((users, _)) = keeps.get_mut(&self.0) else {
            return;
        };
        *users -= 1;
        if *users == 0 {
            // Before it is unlocked, and before another push looks for it.
            let _ = fs::remove_file(&self.0);
            keeps.remove(&self.0);
        }
    }
}

/// Writes a `.keep` file and locks it, or joins those who did. One that is there already otherwise is somebody's wish, and stays.
fn keep(temporary: &Path, path: &Path) -> Result<Option<Keep>, IngestError> {
    let named = match (path.parent().map(Path::canonicalize), path.file_name()) {
        (Some(Ok(parent)), Some(name)) => parent.join(name),
        _ => path.to_owned(),
    };
    let mut keeps = KEEPS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((users, _)) = keeps.get_mut(&named) {
        *users += 1;
        return Ok(Some(Keep(named)));
    }
    let text = [KEEP, std::process::id().to_string().as_bytes(), b"\n"].concat();
    let mut file = create_read_only(temporary).map_err(IngestError::io("create a keep file", temporary))?;
    file.write_all(&text)
        .map_err(IngestError::io("write a keep file", temporary))?;
    lock(&file);
    // A link, since it fails where something is; a copy where there are none.
    let made = match fs::hard_link(temporary, path) {
        Err(err) if err.kind() != io::ErrorKind::AlreadyExists => create_read_only(path).and_then(|mut copy| {
            copy.write_all(&text)?;
            lock(&copy);
            file = copy;
            Ok(())
        }),
        other => other,
    };
    match made {
        Ok(()) => {
            keeps.insert(named.clone(), (1, file));
            Ok(Some(Keep(named)))
        }
        Err(err) if err.kind() == io::ErrorKind::AlreadyExists => Ok(None),
        Err(err) => Err(IngestError::io("create a keep file", path)(err)),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lock {
    Taken,
    /// Somebody else's, who is alive.
    Held,
    /// This file system has none.
    Unknown,
}

/// Locks a file or directory for as long as it is open. The system unlocks what belonged to a process that was killed.
fn lock(file: &File) -> Lock {
    match rustix::fs::flock(file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Lock::Taken,
        Err(rustix::io::Errno::WOULDBLOCK) => Lock::Held,
        Err(_) => Lock::Unknown,
    }
}

fn make_dir(path: &Path, mode: u32) -> io::Result<()> {
    match DirBuilder::new().mode(mode).create(path) {
        Err(err) if err.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(err) => Err(err),
        Ok(()) => {
            // The umask does not apply to what core.sharedRepository asks for.
            if mode & 0o7000 != 0 || mode & 0o777 != mode {
                fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
            }
            Ok(())
        }
    }
}

/// Flushes several files or directories at the same time: most of a flush is waiting for the disk, which serves many waiters with one flush of its own.
fn flush_together<'f>(files: impl Iterator<Item = (&'f File, &'f Path)>) -> Result<(), IngestError> {
    let flush = |file: &File, path: &Path| file.sync_all().map_err(IngestError::io("flush", path));
    let files: Vec<(&File, &Path)> = files.collect();
    let Some(((file, path), others)) = files.split_first() else {
        return Ok(());
    };
    std::thread::scope(|scope| {
        let share = others.len().div_ceil(FLUSHES).max(1);
        let helpers: Vec<_> = others
            .chunks(share)
            .map(|some| {
                // Without a thread to spare it is done one after the other.
                std::thread::Builder::new()
                    .spawn_scoped(scope, move || {
                        some.iter().try_for_each(|(file, path)| flush(file, path))
                    })
                    .map_err(|_| some)
            })
            .collect();
        let mut result = flush(file, path);
        for helper in helpers {
            let done = match helper {
                Ok(thread) => thread.join().unwrap_or_else(|_| {
                    let source = io::Error::other("the thread that flushed it panicked");
                    Err(IngestError::io("flush", *path)(source))
                }),
                Err(some) => some.iter().try_for_each(|(file, path)| flush(file, path)),
            };
            result = result.and(done);
        }
        result
    })
}

pub(super) fn sweep(objects: &Path, older_than: Duration, now: SystemTime) -> io::Result<usize> {
    let old = |path: &Path| {
        fs::symlink_metadata(path)
            .and_then(|meta| meta.modified())
            .is_ok_and(|modified| now.duration_since(modified).is_ok_and(|age| age > older_than))
    };
    // Nobody may take for dead what is being swept: so the lock is held until that is done.
    let claim = |path: &Path, by_age: &dyn Fn() -> bool| -> Option<Option<File>> {
        match File::open(path).map(|file| (lock(&file), file)) {
            Ok((Lock::Taken, file)) => Some(Some(file)),
            Ok((Lock::Held, _)) => None,
            Ok((Lock::Unknown, _)) | Err(_) => by_age().then_some(None),
        }
    };
    let mut swept = 0;
    for entry in fs::read_dir(objects)? {
        let entry = entry?;
        let name = entry.file_name();
        let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_dir && name.as_encoded_bytes().starts_with(PREFIX.as_bytes()) {
            // A long push touches the pack inside, not the directory.
            let path = entry.path();
            let by_age = || old(&path) && old_or_absent(&path.join("pack"), &old);
            let starts = |with: &str| name.as_encoded_bytes().starts_with(with.as_bytes());
            let dead = if starts(OURS) || starts(YOUNG) {
                claim(&path, &by_age)
            } else {
                by_age().then_some(None)
            };
            let removed = match dead {
                None => continue,
                // Its maker may be about to lock it, and makes another then.
                Some(Some(_)) if starts(YOUNG) => fs::remove_dir(&path),
                Some(_) => fs::remove_dir_all(&path),
            };
            swept += usize::from(removed.is_ok());
        }
    }
    let Ok(packs) = fs::read_dir(objects.join("pack")) else {
        return Ok(swept);
    };
    for entry in packs {
        let path = entry?.path();
        let is_keep = path.extension().is_some_and(|e| e == "keep");
        if is_keep && fs::read(&path).is_ok_and(|text| text.starts_with(KEEP)) {
            let dead = claim(&path, &|| old(&path));
            if dead.is_some() && fs::remove_file(&path).is_ok() {
                swept += 1;
            }
        }
    }
    Ok(swept)
}

fn old_or_absent(dir: &Path, old: &dyn Fn(&Path) -> bool) -> bool {
    match fs::read_dir(dir) {
        Err(_) => true,
        Ok(entries) => entries.flatten().all(|entry| old(&entry.path())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut found = Vec::new();
        let mut todo = vec![dir.to_owned()];
        while let Some(next) = todo.pop() {
            for entry in fs::read_dir(&next).expect("readable").flatten() {
                if entry.path().is_dir() {
                    todo.push(entry.path());
                }
                let path = entry.path();
                found.push(path.strip_prefix(dir).expect("below").to_string_lossy().into_owned());
            }
        }
        found.sort();
        found
    }

    #[test]
    fn a_dropped_quarantine_leaves_nothing() {
        let tmp = tempfile::tempdir().expect("a directory");
        let mut quarantine = Quarantine::below(tmp.path());
        quarantine.add_loose(&ObjectId::from([0xab; 20]), b"x").expect("added");
        assert_eq!(names(tmp.path()), Vec::<String>::new());
        let large = vec![0; HELD_BYTES];
        quarantine
            .add_loose(&ObjectId::from([0xcd; 20]), &large)
            .expect("added");
        quarantine.add_loose(&ObjectId::from([0xef; 20]), b"y").expect("added");
        assert_eq!(names(tmp.path()).len(), 3, "only what is too large to be held");
        drop(quarantine);
        assert_eq!(names(tmp.path()), Vec::<String>::new());
    }

    #[test]
    fn loose_objects_from_memory_and_from_files_all_arrive() {
        let tmp = tempfile::tempdir().expect("a directory");
        let mut quarantine = Quarantine::below(tmp.path());
        let large = vec![0; HELD_BYTES];
        for (byte, bytes) in [(0xab, &b"x"[..]), (0xcd, &large), (0xef, b"y")] {
            quarantine.add_loose(&ObjectId::from([byte; 20]), bytes).expect("added");
        }
        drop(quarantine.migrate().expect("migrated"));
        let loose = |two: &str| format!("{two}/{}", two.repeat(19));
        assert_eq!(
            names(tmp.path()),
            ["ab", &loose("ab"), "cd", &loose("cd"), "ef", &loose("ef")]
        );
        let metadata = fs::metadata(tmp.path().join(loose("ab"))).expect("there");
        assert_eq!(metadata.permissions().mode() & 0o777 & !0o044, 0o400);
    }

    #[test]
    fn when_one_object_cannot_be_written_the_quarantine_goes() {
        let tmp = tempfile::tempdir().expect("a directory");
        fs::write(tmp.path().join("cd"), b"no directory").expect("written");
        let mut quarantine = Quarantine::below(tmp.path());
        for byte in [0xab, 0xcd, 0xef] {
            quarantine.add_loose(&ObjectId::from([byte; 20]), b"x").expect("added");
        }
        quarantine.migrate().expect_err("cd is in the way");
        let left = names(tmp.path());
        assert!(!left.iter().any(|name| name.starts_with("tmp_")), "{left:?}");
    }

    #[test]
    fn migration_moves_everything_read_only_and_holds_a_keep_file() {
        let tmp = tempfile::tempdir().expect("a directory");
        let mut quarantine = Quarantine::below(tmp.path());
        quarantine.add_loose(&ObjectId::from([0xab; 20]), b"x").expect("added");
        quarantine
            .add_pack("pack-1", NewPack::Bytes(b"pack"), b"idx", b"rev")
            .expect("added");
        let published = quarantine.migrate().expect("migrated");
        let loose = format!("ab/{}", "ab".repeat(19));
        assert_eq!(
            names(tmp.path()),
            [
                "ab",
                &loose,
                "pack",
                "pack/pack-1.idx",
                "pack/pack-1.keep",
                "pack/pack-1.pack",
                "pack/pack-1.rev"
            ]
        );
        for name in [&loose[..], "pack/pack-1.idx", "pack/pack-1.pack"] {
            let mode = fs::metadata(tmp.path().join(name)).expect("there").permissions().mode();
            assert_eq!(mode & 0o777 & !0o044, 0o400, "{name}");
        }
        drop(published);
        assert!(!names(tmp.path()).contains(&"pack/pack-1.keep".to_owned()));
    }

    #[test]
    fn a_pack_that_is_there_already_stays_and_a_foreign_keep_file_too() {
        let tmp = tempfile::tempdir().expect("a directory");
        fs::create_dir(tmp.path().join("pack")).expect("created");
        fs::write(tmp.path().join("pack/pack-1.pack"), b"pack").expect("written");
        fs::write(tmp.path().join("pack/pack-1.keep"), b"mine").expect("written");
        let mut quarantine = Quarantine::below(tmp.path());
        quarantine
            .add_pack("pack-1", NewPack::Bytes(b"kcap"), b"idx", b"rev")
            .expect("added");
        drop(quarantine.migrate().expect("migrated"));
        assert_eq!(fs::read(tmp.path().join("pack/pack-1.pack")).expect("there"), b"pack");
        assert_eq!(fs::read(tmp.path().join("pack/pack-1.keep")).expect("there"), b"mine");
        assert!(tmp.path().join("pack/pack-1.idx").exists());
    }

    #[test]
    fn the_last_of_those_who_bring_the_same_pack_takes_the_keep_file_away() {
        let tmp = tempfile::tempdir().expect("a directory");
        let bring = || {
            let mut quarantine = Quarantine::below(tmp.path());
            quarantine
                .add_pack("pack-1", NewPack::Bytes(b"pack"), b"idx", b"rev")
                .expect("added");
            quarantine.migrate().expect("migrated")
        };
        let keep = tmp.path().join("pack/pack-1.keep");
        let (first, second) = (bring(), bring());
        drop(first);
        assert!(keep.exists(), "the second still needs it");
        let third = bring();
        drop(second);
        assert!(keep.exists(), "the third still needs it");
        drop(third);
        assert!(!keep.exists());
        assert!(tmp.path().join("pack/pack-1.pack").exists());
    }

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn what_a_killed_server_left_is_swept_at_once() {
        let tmp = tempfile::tempdir().expect("a directory");
        let dead = tmp.path().join(format!("{OURS}0123"));
        fs::create_dir_all(dead.join("pack")).expect("created");
        fs::write(dead.join("pack/tmp_pack_incoming"), b"half a pack").expect("written");
        fs::create_dir(tmp.path().join(format!("{YOUNG}4567"))).expect("created");
        fs::create_dir(tmp.path().join("pack")).expect("created");
        fs::write(tmp.path().join("pack/pack-1.keep"), b"gitstead 1\n").expect("written");
        fs::write(tmp.path().join("pack/pack-2.keep"), b"mine\n").expect("written");
        assert_eq!(sweep(tmp.path(), HOUR, SystemTime::now()).expect("swept"), 3);
        assert_eq!(names(tmp.path()), ["pack", "pack/pack-2.keep"]);
    }

    #[test]
    fn what_is_in_use_is_not_swept_however_old() {
        let tmp = tempfile::tempdir().expect("a directory");
        let later = SystemTime::now() + 24 * HOUR;
        let mut quarantine = Quarantine::below(tmp.path());
        quarantine
            .add_pack("pack-1", NewPack::Bytes(b"pack"), b"idx", b"")
            .expect("added");
        let before = names(tmp.path());
        assert_eq!(sweep(tmp.path(), HOUR, later).expect("swept"), 0);
        assert_eq!(names(tmp.path()), before);
        let published = quarantine.migrate().expect("migrated");
        assert_eq!(sweep(tmp.path(), HOUR, later).expect("swept"), 0);
        assert!(tmp.path().join("pack/pack-1.keep").exists());
        drop(published);
        assert_eq!(names(tmp.path()), ["pack", "pack/pack-1.idx", "pack/pack-1.pack"]);
    }

    #[test]
    fn quarantines_of_others_are_swept_when_they_are_old() {
        let tmp = tempfile::tempdir().expect("a directory");
        fs::create_dir_all(tmp.path().join("tmp_objdir-incoming-AbCdEf/pack")).expect("created");
        let now = SystemTime::now();
        assert_eq!(sweep(tmp.path(), HOUR, now).expect("swept"), 0);
        assert_eq!(sweep(tmp.path(), HOUR, now + 2 * HOUR).expect("swept"), 1);
        assert_eq!(names(tmp.path()), Vec::<String>::new());
    }
}
