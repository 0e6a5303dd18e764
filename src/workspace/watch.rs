//! Tells which files have changed since they were last looked at, so that nothing else needs to be: inotify(7), one instance for all workspaces of the process
//! (a user has 128 of them). What it does not tell is written through shared memory mappings; an occasional full scan finds that.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    mem::MaybeUninit,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak},
};

use bstr::{BStr, BString, ByteSlice};
use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags},
    io::Errno,
};

use super::reach::join;

/// Paths that are remembered; with more of them a scan costs no more.
const MOST_DIRTY: usize = 20_000;

/// What is asked of the system about a directory.
const MASK: WatchFlags = WatchFlags::MODIFY
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::CREATE)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVE)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::ONLYDIR)
    .union(WatchFlags::DONT_FOLLOW)
    .union(WatchFlags::EXCL_UNLINK);

/// The watch over one workspace, for as long as this lives.
#[derive(Debug)]
pub(super) struct Watch {
    hub: Arc<Hub>,
    root: PathBuf,
    seen: Arc<Seen>,
}

/// What has been seen in one workspace.
#[derive(Debug, Default)]
struct Seen(Mutex<Changes>);

/// Who wants to know that something has been seen, for as long as they do.
#[derive(Default)]
struct Bells(Vec<Weak<dyn Fn() + Send + Sync>>);

impl Bells {
    fn ring(&self) {
        for tell in self.0.iter().filter_map(Weak::upgrade) {
            tell();
        }
    }
}

impl std::fmt::Debug for Bells {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Bells").field(&self.0.len()).finish()
    }
}

#[derive(Debug, Default)]
struct Changes {
    dirty: BTreeSet<BString>,
    /// Whether something was missed.
    lost: bool,
    /// Whether there are directories that the system would not watch, and what it said.
    refused: Option<Errno>,
    watches: HashSet<i32>,
    bells: Bells,
}

/// What has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Changed {
    /// These paths, and nothing else.
    Paths(Vec<BString>),
    /// The watch has lost track.
    Lost,
    /// The watch never had it whole.
    Unwatched(Errno),
}

#[derive(Debug)]
struct Hub {
    fd: OwnedFd,
    /// Held from the reading of events until all of them are where they belong.
    reading: Mutex<()>,
    watches: Mutex<HashMap<i32, Vec<Watched>>>,
}

#[derive(Debug)]
struct Watched {
    seen: Weak<Seen>,
    dir: BString,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Watch {
    /// A watch over nothing yet: [`enter`](Self::enter) adds directories.
    pub(super) fn over(root: &Path) -> Result<Self, Errno> {
        Ok(Watch {
            hub: Hub::get()?,
            root: root.to_owned(),
            seen: Arc::default(),
        })
    }

    /// Watches a directory. To be called before it is read, so that nothing falls between.
    pub(super) fn enter(&self, dir: &BStr) {
        let path = self.root.join(Path::new(std::ffi::OsStr::from_bytes(dir)));
        // Held meanwhile: an event of a watch that is not known yet would be nobody's.
        let mut watches = locked(&self.hub.watches);
        match inotify::add_watch(&self.hub.fd, &path, MASK) {
            Ok(watch) => {
                let known = watches.entry(watch).or_default();
                known.retain(|one| !std::ptr::eq(one.seen.as_ptr(), Arc::as_ptr(&self.seen)));
                known.push(Watched {
                    seen: Arc::downgrade(&self.seen),
                    dir: dir.to_owned(),
                });
                locked(&self.seen.0).watches.insert(watch);
            }
            // Gone, or no directory any more: its parent tells.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
            // What may not be read is not recorded either.
            Err(Errno::ACCESS) => {}
            Err(errno) => {
                locked(&self.seen.0).refused.get_or_insert(errno);
            }
        }
    }

    /// What has changed up to now: everything that was written before this is called is in it.
    pub(super) fn take(&self) -> Changed {
        self.hub.read();
        let mut seen = locked(&self.seen.0);
        let dirty = std::mem::take(&mut seen.dirty);
        let lost = std::mem::take(&mut seen.lost);
        match (seen.refused, lost) {
            (Some(errno), _) => Changed::Unwatched(errno),
            (None, true) => Changed::Lost,
            (None, false) => Changed::Paths(dirty.into_iter().collect()),
        }
    }

    /// Has `tell` called whenever something is seen, for as long as somebody holds it, from whatever thread sees it and while others wait: it has to be quick, and must not ask for
    /// the workspace.
    pub(super) fn on_change(&self, tell: &Arc<dyn Fn() + Send + Sync>) {
        let bells = &mut locked(&self.seen.0).bells.0;
        bells.retain(|other| other.strong_count() > 0);
        bells.push(Arc::downgrade(tell));
    }

    /// How many directories are watched.
    #[cfg(test)]
    fn directories(&self) -> usize {
        locked(&self.seen.0).watches.len()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut watches = locked(&self.hub.watches);
        for watch in std::mem::take(&mut locked(&self.seen.0).watches) {
            if let Some(known) = watches.get_mut(&watch) {
                known.retain(|one| !std::ptr::eq(one.seen.as_ptr(), Arc::as_ptr(&self.seen)));
                if known.is_empty() {
                    watches.remove(&watch);
                    let _ = inotify::remove_watch(&self.hub.fd, watch);
                }
            }
        }
    }
}

impl Hub {
    /// The one of the process.
    fn get() -> Result<Arc<Self>, Errno> {
        static HUB: OnceLock<Arc<Hub>> = OnceLock::new();
        if let Some(hub) = HUB.get() {
            return Ok(hub.clone());
        }
        let fd = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        let hub = Arc::new(Hub {
            fd,
            reading: Mutex::default(),
            watches: Mutex::default(),
        });
        let hub = HUB.get_or_init(|| {
            let reader = hub.clone();
            // So that the queue of the system stays short while no checkpoint is made. Without it, it may overflow, and says so.
            let thread = std::thread::Builder::new().name("gitstead-watch".into());
            let _ = thread.spawn(move || {
                loop {
                    match poll(&mut [PollFd::new(&reader.fd, PollFlags::IN)], None) {
                        Ok(_) => reader.read(),
                        Err(Errno::INTR) => {}
                        Err(_) => break,
                    }
                }
            });
            hub.clone()
        });
        Ok(hub.clone())
    }

    /// Reads all events that there are, and hands them to those whom they concern.
    fn read(&self) {
        let _turn = locked(&self.reading);
        let mut buffer = [MaybeUninit::uninit(); 16 << 10];
        let mut reader = Reader::new(&self.fd, &mut buffer);
        loop {
            match reader.next() {
                Ok(event) => {
                    let name = event.file_name().map(|name| name.to_bytes());
                    self.hand_out(event.wd(), event.events(), name);
                }
                Err(Errno::INTR) => {}
                Err(_) => return,
            }
        }
    }

    fn hand_out(&self, watch: i32, events: ReadFlags, name: Option<&[u8]>) {
        let mut watches = locked(&self.watches);
        if events.contains(ReadFlags::QUEUE_OVERFLOW) {
            for seen in watches.values().flatten().filter_map(|one| one.seen.upgrade()) {
                let mut seen = locked(&seen.0);
                seen.lost = true;
                seen.bells.ring();
            }
            return;
        }
        let Some(known) = watches.get(&watch) else { return };
        let mut moved = Vec::new();
        for one in known {
            let Some(seen) = one.seen.upgrade() else { continue };
            let mut seen = locked(&seen.0);
            if events.contains(ReadFlags::IGNORED) {
                seen.watches.remove(&watch);
                // A directory that went is told of by its parent; the root has none.
                // So has a file system that is unmounted: what was below it is there again.
                seen.lost |= one.dir.is_empty() || events.contains(ReadFlags::UNMOUNT);
                continue;
            }
            let path = match name {
                Some(name) => join(one.dir.as_bstr(), name),
                None => one.dir.clone(),
            };
            if name.is_none() && one.dir.is_empty() && events.intersects(ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF)
            {
                seen.lost = true;
            }
            seen.lost |= events.contains(ReadFlags::UNMOUNT);
            if events.contains(ReadFlags::ISDIR) && events.contains(ReadFlags::MOVED_FROM) {
                moved.push((one.seen.clone(), path.clone()));
            }
            // Its own attributes are told of by the parent too.
            if name.is_none() && !one.dir.is_empty() {
                continue;
            }
            if name == Some(b".gitignore") {
                // What was ignored may not be any more, and the other way round.
                seen.dirty.insert(one.dir.clone());
            }
            if seen.dirty.len() < MOST_DIRTY {
                seen.dirty.insert(path);
            } else {
                seen.lost = true;
            }
            seen.bells.ring();
        }
        if events.contains(ReadFlags::IGNORED) {
            watches.remove(&watch);
        }
        // What is below a directory that was moved away is no longer where it was.
        for (seen, dir) in moved {
            let mut prefix = dir.clone();
            prefix.push(b'/');
            let Some(owner) = seen.upgrade() else { continue };
            let mut owner = locked(&owner.0);
            let mut unused = Vec::new();
            for watch in &owner.watches {
                if let Some(known) = watches.get_mut(watch) {
                    known.retain(|one| {
                        !one.seen.ptr_eq(&seen) || !(one.dir == dir || one.dir.starts_with(prefix.as_slice()))
                    });
                    if known.is_empty() {
                        unused.push(*watch);
                    }
                }
            }
            for watch in unused {
                owner.watches.remove(&watch);
                watches.remove(&watch);
                let _ = inotify::remove_watch(&self.fd, watch);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn paths(changed: Changed) -> Vec<String> {
        match changed {
            Changed::Paths(paths) => paths.iter().map(ToString::to_string).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_was_written_before_is_told() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::create_dir(dir.path().join("d")).expect("made");
        let watch = Watch::over(dir.path()).expect("a watch");
        watch.enter("".into());
        watch.enter("d".into());
        assert_eq!(paths(watch.take()), [""; 0]);
        fs::write(dir.path().join("d/a"), "1").expect("written");
        fs::write(dir.path().join("b"), "1").expect("written");
        assert_eq!(paths(watch.take()), ["b", "d/a"]);
        fs::remove_file(dir.path().join("b")).expect("removed");
        assert_eq!(paths(watch.take()), ["b"]);
        fs::write(dir.path().join("d/.gitignore"), "a").expect("written");
        assert_eq!(paths(watch.take()), ["d", "d/.gitignore"]);
    }

    #[test]
    fn who_wants_to_know_is_told_that_something_has_changed() {
        let dir = tempfile::tempdir().expect("a directory");
        let watch = Watch::over(dir.path()).expect("a watch");
        watch.enter("".into());
        let bell = || {
            let (send, told) = std::sync::mpsc::channel();
            let tell: Arc<dyn Fn() + Send + Sync> = Arc::new(move || {
                let _ = send.send(());
            });
            watch.on_change(&tell);
            (tell, told)
        };
        let (first, told_first) = bell();
        let (second, told_second) = bell();
        let soon = std::time::Duration::from_secs(20);
        fs::write(dir.path().join("a"), "1").expect("written");
        told_first.recv_timeout(soon).expect("it is told by itself");
        told_second.recv_timeout(soon).expect("and so is the other");
        drop(first);
        while told_first.try_recv().is_ok() {}
        assert!(told_first.recv().is_err(), "nobody can call any more");
        while told_second.try_recv().is_ok() {}
        fs::write(dir.path().join("b"), "1").expect("written");
        told_second.recv_timeout(soon).expect("the other still is");
        drop(second);
        assert_eq!(paths(watch.take()), ["a", "b"]);
    }

    #[test]
    fn a_directory_that_moved_is_told_of_where_it_is() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::create_dir_all(dir.path().join("d/e")).expect("made");
        let watch = Watch::over(dir.path()).expect("a watch");
        for path in ["", "d", "d/e"] {
            watch.enter(path.into());
        }
        fs::rename(dir.path().join("d"), dir.path().join("f")).expect("moved");
        assert_eq!(paths(watch.take()), ["d", "f"]);
        assert_eq!(watch.directories(), 1);
        watch.enter("f".into());
        watch.enter("f/e".into());
        fs::write(dir.path().join("f/e/a"), "1").expect("written");
        assert_eq!(paths(watch.take()), ["f/e/a"]);
    }

    #[test]
    fn two_watches_over_one_directory_see_the_same() {
        let dir = tempfile::tempdir().expect("a directory");
        let one = Watch::over(dir.path()).expect("a watch");
        let two = Watch::over(dir.path()).expect("a watch");
        one.enter("".into());
        two.enter("".into());
        fs::write(dir.path().join("a"), "1").expect("written");
        assert_eq!(
            (paths(one.take()), paths(two.take())),
            (vec!["a".to_owned()], vec!["a".to_owned()])
        );
        drop(one);
        fs::write(dir.path().join("b"), "1").expect("written");
        assert_eq!(paths(two.take()), ["b"]);
    }

    #[test]
    fn too_much_to_remember_is_lost_and_said_so() {
        let dir = tempfile::tempdir().expect("a directory");
        let watch = Watch::over(dir.path()).expect("a watch");
        watch.enter("".into());
        for n in 0..=MOST_DIRTY {
            fs::write(dir.path().join(n.to_string()), "").expect("written");
        }
        assert_eq!(watch.take(), Changed::Lost);
        assert_eq!(paths(watch.take()), [""; 0]);
        fs::remove_dir_all(dir.path()).expect("removed");
        assert_eq!(watch.take(), Changed::Lost);
    }

    #[test]
    fn what_the_system_could_not_tell_or_took_away_is_lost_and_said_so() {
        for (events, of_a_dir) in [
            (ReadFlags::QUEUE_OVERFLOW, false),
            (ReadFlags::UNMOUNT, true),
            (ReadFlags::UNMOUNT | ReadFlags::IGNORED, true),
        ] {
            let dir = tempfile::tempdir().expect("a directory");
            fs::create_dir(dir.path().join("mounted")).expect("made");
            let watch = Watch::over(dir.path()).expect("a watch");
            watch.enter("".into());
            let root = locked(&watch.seen.0).watches.clone();
            watch.enter("mounted".into());
            assert_eq!(paths(watch.take()), [""; 0]);
            let of_mounted = locked(&watch.seen.0).watches.difference(&root).copied().next();
            // As the system says it: an overflow is no watch's.
            let number = if of_a_dir { of_mounted.expect("watched") } else { -1 };
            watch.hub.hand_out(number, events, None);
            assert_eq!(watch.take(), Changed::Lost, "{events:?}");
            assert_eq!(paths(watch.take()), [""; 0], "said once");
        }
    }
}
