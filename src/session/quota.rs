//! How much the workspace of an agent holds on the disk, and who is told when that is more than it may: the watchdog `disk`.

use std::{collections::HashSet, io, path::Path, sync::Arc, time::Duration};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, fstat, openat, statat};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{AgentSpec, Place, State, Watchdog, Workspaces, shared::Shared};
use crate::{
    agent::{Agent, Command, Reaction, SpawnFailure, SpawnFault},
    worker::{Lane, Workers},
};

/// Directories within one another that are looked into, each with a descriptor of its own.
const DEPTH: usize = 256;
/// Entries between two looks at whether anybody wants to know it still.
const OFTEN: u64 = 1_024;
/// Files of several names that are remembered; each name of a further one counts.
const LINKED: usize = 1 << 20;
/// How often it is looked at most while the agent is at work, and while it waits for somebody.
const WORKING: Duration = Duration::from_secs(1);
const WAITING: Duration = Duration::from_secs(10);
/// Of the time at most one part in so many is spent on looking.
const SHARE: u32 = 20;
/// What the system counts blocks by, whatever size they have (`stat(2)`).
const BLOCK: u64 = 512;

/// Bytes on the disk of everything in a directory, and of that itself: what is allocated, each file once whatever names it has. No link is followed, no other file system is entered. What
/// cannot be looked at, or lies deeper than 256 directories, is not counted. Blocks.
///
/// # Errors
/// When the directory cannot be looked at, or nobody wants to know it any more.
pub(super) fn held(root: &Path, is_wanted: impl Fn() -> bool) -> io::Result<u64> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let top = openat(CWD, root, flags, Mode::empty())?;
    let about = fstat(&top)?;
    let device = about.st_dev;
    let mut bytes = allocated(&about);
    let mut linked = HashSet::new();
    let mut open = vec![Dir::new(top)?];
    let mut seen = 0u64;
    while let Some(dir) = open.last_mut() {
        seen += 1;
        if seen.is_multiple_of(OFTEN) && !is_wanted() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let entry = match dir.read() {
            Some(Ok(entry)) => entry,
            // The rest of it cannot be read.
            Some(Err(_)) | None => {
                open.pop();
                continue;
            }
        };
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let Ok(fd) = dir.fd() else { continue };
        // It may be gone by now.
        let Ok(about) = statat(fd, name, AtFlags::SYMLINK_NOFOLLOW) else {
            continue;
        };
        let is_dir = FileType::from_raw_mode(about.st_mode) == FileType::Directory;
        let is_linked = !is_dir && about.st_nlink > 1;
        if about.st_dev != device || (is_linked && linked.contains(&about.st_ino)) {
            continue;
        }
        if is_linked && linked.len() < LINKED {
            linked.insert(about.st_ino);
        }
        bytes = bytes.saturating_add(allocated(&about));
        if is_dir
            && let Ok(inner) = openat(fd, name, flags | OFlags::NOFOLLOW, Mode::empty())
            && let Ok(inner) = Dir::new(inner)
            && open.len() < DEPTH
        {
            open.push(inner);
        }
    }
    Ok(bytes)
}

fn allocated(about: &Stat) -> u64 {
    u64::try_from(about.st_blocks).unwrap_or(0).saturating_mul(BLOCK)
}

/// Refuses to start an agent whose workspace holds too much already, unless that is only told. Says how much it is, where it may not hold everything. Blocks.
pub(super) fn check(spec: &AgentSpec, root: &Path) -> Result<Option<u64>, SpawnFailure> {
    let Some((most, reaction)) = spec.watchdogs.disk else {
        return Ok(None);
    };
    let held = held(root, || true).ok();
    match held {
        Some(bytes) if bytes > most && reaction != Reaction::Warn => Err(SpawnFailure {
            fault: SpawnFault::Full,
            text: format!("its workspace holds {bytes} bytes on the disk, and may hold {most}"),
        }),
        held => Ok(held),
    }
}

/// What an event says of a watchdog.
pub(super) fn barked(dog: Watchdog, shared: &Shared) -> Value {
    let mut data = json!({ "watchdog": dog });
    if dog == Watchdog::Disk {
        data["bytes"] = json!(shared.record().workspace_bytes);
        data["most"] = json!(shared.spec.watchdogs.disk.map(|(most, _)| most));
    }
    data
}

/// Who looks how much it is, for as long as a run lasts.
pub(super) struct Scales {
    pub(super) shared: Arc<Shared>,
    pub(super) place: Place,
    pub(super) workers: Workers,
    pub(super) workspaces: Arc<dyn Workspaces>,
    pub(super) agent: Agent,
    pub(super) run: u32,
}

impl Scales {
    /// Starts looking, where there is a bound.
    pub(super) fn begin(self) {
        if self.shared.spec.watchdogs.disk.is_some() {
            tokio::spawn(self.look());
        }
    }

    async fn look(self) {
        let mut watch = self.agent.watch();
        let (mut last, mut took) = (Instant::now(), Duration::ZERO);
        loop {
            let (run, state) = {
                let status = watch.borrow_and_update();
                (status.run, status.state)
            };
            // Whoever begins to look may be ahead of who tells that the run has begun.
            let is_early = run < self.run;
            if run > self.run || (!is_early && (state.is_over() || state == State::Restarting)) {
                return;
            }
            let pause = if state == State::Idle && !is_early {
                WAITING
            } else {
                WORKING
            };
            let due = last + pause.max(took * SHARE);
            tokio::select! {
                changed = watch.changed() => match changed {
                    Ok(()) => continue,
                    Err(_) => return,
                },
                () = tokio::time::sleep_until(due) => {}
            }
            let (workspaces, place) = (Arc::clone(&self.workspaces), self.place.clone());
            let (ends, run) = (self.agent.watch(), self.run);
            let began = Instant::now();
            let looked = self.workers.call(Lane::Long, None, move || {
                // From here on: to wait for a thread costs nobody anything.
                let began = std::time::Instant::now();
                let root = workspaces.open(&place).ok()?.root().to_owned();
                let is_wanted = || {
                    let status = ends.borrow();
                    status.run == run && !status.state.is_over()
                };
                Some((held(&root, is_wanted).ok()?, began.elapsed()))
            });
            let looked = looked.await.ok().flatten();
            last = Instant::now();
            // Where that cannot be had, as rarely as if it had been looked at all that time.
            took = looked.map_or(last - began, |(_, took)| took);
            if let Some((bytes, _)) = looked {
                // It is in the ledger with whatever changes next.
                self.shared.record().workspace_bytes = Some(bytes);
                self.agent.send(Command::Holds(self.run, bytes)).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_is_on_the_disk_counts_once_and_nothing_beyond_links() {
        let dir = tempfile::tempdir().expect("a directory");
        let (root, beyond) = (dir.path().join("root"), dir.path().join("beyond"));
        for path in [&root, &root.join("a/b"), &beyond] {
            fs::create_dir_all(path).expect("made");
        }
        let much = vec![1; 1 << 20];
        fs::write(beyond.join("much"), &much).expect("written");
        std::os::unix::fs::symlink(&beyond, root.join("link")).expect("made");
        let empty = held(&root, || true).expect("looked at");
        assert!(empty < 64 << 10, "{empty}");
        fs::write(root.join("a/b/much"), &much).expect("written");
        fs::hard_link(root.join("a/b/much"), root.join("again")).expect("made");
        let sparse = fs::File::create(root.join("sparse")).expect("made");
        sparse.set_len(1 << 40).expect("long");
        let full = held(&root, || true).expect("looked at");
        let more = full - empty;
        assert!((1 << 20..(1 << 20) + (64 << 10)).contains(&more), "{more}");
        assert!(held(&root.join("nowhere"), || true).is_err());
    }

    #[test]
    fn nobody_goes_on_looking_for_what_nobody_wants_to_know() {
        let dir = tempfile::tempdir().expect("a directory");
        for n in 0..2 * OFTEN {
            fs::write(dir.path().join(n.to_string()), "").expect("written");
        }
        assert!(held(dir.path(), || true).is_ok());
        assert!(held(dir.path(), || false).is_err());
    }

    #[test]
    fn what_lies_too_deep_is_left_out_and_the_rest_is_not() {
        let dir = tempfile::tempdir().expect("a directory");
        let deep: std::path::PathBuf = std::iter::repeat_n("d", DEPTH + 20).collect();
        fs::create_dir_all(dir.path().join(&deep)).expect("made");
        fs::write(dir.path().join(&deep).join("x"), vec![1; 1 << 20]).expect("written");
        fs::write(dir.path().join("y"), vec![1; 1 << 20]).expect("written");
        let bytes = held(dir.path(), || true).expect("looked at");
        assert!((1 << 20..3 << 20).contains(&bytes), "{bytes}");
    }
}
