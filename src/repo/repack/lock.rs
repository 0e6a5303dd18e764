use std::{
    fs::{self, OpenOptions},
    io,
    path::Path,
    time::{Duration, SystemTime},
};

use rustix::process::{Pid, test_kill_process};

use super::RepackError;
use crate::repo::Flock;

/// Stays when it is unlocked: the system unlocks it when the process that held it has died.
const NAME: &str = "gitstead-maintenance.lock";
/// git takes an older `gc.pid` for one that was left behind.
const GC_LASTS: Duration = Duration::from_secs(12 * 60 * 60);
/// What `gc.pid` holds is not longer.
const MOST: u64 = 1 << 10;

/// The right to do maintenance in a repository, of this process or another one.
#[derive(Debug)]
pub(super) struct MaintenanceLock {
    _lock: Flock,
}

/// `None` when somebody else has it.
pub(super) fn take(common_dir: &Path) -> Result<Option<MaintenanceLock>, RepackError> {
    let path = common_dir.join(NAME);
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(RepackError::io("open", &path))?;
    let lock = Flock::try_exclusive(file).map_err(RepackError::io("lock", &path))?;
    Ok(lock.map(|lock| MaintenanceLock { _lock: lock }))
}

/// Whether a `git gc` runs here, as git itself finds out: by `gc.pid`, which names a process and a machine.
pub(super) fn git_gc_runs(common_dir: &Path, now: SystemTime) -> bool {
    let path = common_dir.join("gc.pid");
    let Ok(Some((text, age))) = read(&path, now) else {
        return false;
    };
    if age > GC_LASTS {
        return false;
    }
    let mut words = text.split_ascii_whitespace();
    let (Some(pid), Some(host)) = (words.next().and_then(|word| word.parse().ok()), words.next()) else {
        return false;
    };
    let here = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    // On another machine we cannot look.
    if host != here.trim_end() {
        return true;
    }
    let Some(pid) = Pid::from_raw(pid) else {
        return false;
    };
    !matches!(test_kill_process(pid), Err(rustix::io::Errno::SRCH))
}

fn read(path: &Path, now: SystemTime) -> io::Result<Option<(String, Duration)>> {
    let meta = match fs::metadata(path) {
        Ok(meta) if meta.len() <= MOST => meta,
        Ok(_) => return Ok(None),
        Err(err) => return Err(err),
    };
    let age = now.duration_since(meta.modified()?).unwrap_or_default();
    Ok(Some((fs::read_to_string(path)?, age)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_has_the_lock() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let first = take(dir.path()).expect("no error").expect("free");
        assert!(take(dir.path()).expect("no error").is_none());
        drop(first);
        assert!(take(dir.path()).expect("no error").is_some());
    }

    #[test]
    fn a_living_gc_of_git_is_seen_and_a_dead_one_is_not() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let now = SystemTime::now();
        assert!(!git_gc_runs(dir.path(), now));
        let host = fs::read_to_string("/proc/sys/kernel/hostname").expect("Linux");
        let write = |text: String| fs::write(dir.path().join("gc.pid"), text).expect("written");
        write(format!("{} {host}", std::process::id()));
        assert!(git_gc_runs(dir.path(), now));
        assert!(!git_gc_runs(dir.path(), now + GC_LASTS * 2), "left behind");
        // No process has this number: Linux counts to 2^22.
        write(format!("{} {host}", i32::MAX));
        assert!(!git_gc_runs(dir.path(), now));
        write(format!("{} another.machine\n", i32::MAX));
        assert!(git_gc_runs(dir.path(), now));
        write("nonsense".to_owned());
        assert!(!git_gc_runs(dir.path(), now));
    }
}
