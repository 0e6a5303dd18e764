//! A cgroup (v2) for each agent, where the system lets us have some: the kernel itself then knows what belongs to it, ends that at once, and bounds all of it together.
//!
//! The files and their meaning are in the kernel's `Documentation/admin-guide/cgroup-v2.rst`. The daemon makes the directory above, the parent process of an agent that of the
//! agent. The parent process is never in it: no limit and no kill is meant for itself. What becomes the agent goes there by itself.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use rustix::fs::{Access, access, major, minor};

use super::launch::{Bounds, Isolation};

/// The directory of all agents, in the cgroup of the daemon.
const AGENTS: &str = "gitstead-agents";
/// Where the daemon goes: a cgroup whose children are bounded may hold no process itself.
const SERVER: &str = "gitstead-server";
/// What bounds agents.
const CONTROLLERS: [&str; 4] = ["memory", "pids", "cpu", "io"];
/// Directories within one another that are removed; agents may have made some of their own.
const DEPTH: u32 = 16;

/// Whether agents get cgroups.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum CgroupChoice {
    /// Where the daemon may make some in its own.
    #[default]
    Auto,
    /// None.
    Off,
    /// In this directory, which is one of a cgroup v2 that the daemon may write to.
    At(PathBuf),
}

/// Where cgroups of agents are made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroups {
    base: PathBuf,
}

impl Cgroups {
    /// Makes the directory of all agents, and hands on what bounds can be had there.
    ///
    /// # Errors
    /// When there is none to be had; the text says why.
    pub fn open(choice: &CgroupChoice) -> Result<Option<Self>, String> {
        let (above, base) = match choice {
            CgroupChoice::Off => return Ok(None),
            CgroupChoice::At(dir) => (None, dir.clone()),
            CgroupChoice::Auto => {
                let own = own_dir().ok_or("this process is in no cgroup v2")?;
                let base = own.join(AGENTS);
                (Some(own), base)
            }
        };
        let fail = |doing: &str, error: io::Error| format!("{doing} {}: {error}", base.display());
        match fs::create_dir(&base) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(fail("make", error)),
            _ => {}
        }
        for file in ["cgroup.procs", "cgroup.kill"] {
            access(base.join(file), Access::WRITE_OK).map_err(|error| fail("write to", error.into()))?;
        }
        if let Some(own) = &above {
            access(own.join("cgroup.procs"), Access::WRITE_OK)
                .map_err(|error| fail("move processes to", error.into()))?;
            hand_on(own, true);
        }
        hand_on(&base, false);
        Ok(Some(Cgroups { base }))
    }

    /// The directory of a run.
    pub fn of(&self, run: &str) -> PathBuf {
        self.base.join(run)
    }

    /// Those that are there, and the names of their runs.
    pub(super) fn runs(&self) -> Vec<(String, PathBuf)> {
        let all = fs::read_dir(&self.base).into_iter().flatten().flatten();
        all.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path())))
            .collect()
    }
}

/// Processes in a cgroup and in those that are in it.
pub(super) fn within(dir: &Path) -> Vec<i32> {
    fn inner(dir: &Path, depth: u32, found: &mut Vec<i32>) {
        let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
        found.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            if depth > 0 && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                inner(&entry.path(), depth - 1, found);
            }
        }
    }
    let mut found = Vec::new();
    inner(dir, DEPTH, &mut found);
    found
}

/// Lets the cgroups below `dir` be bounded, as far as that is possible. What is not is said of each agent that wants it.
fn hand_on(dir: &Path, own: bool) {
    let there = fs::read_to_string(dir.join("cgroup.controllers")).unwrap_or_default();
    for controller in there.split_whitespace().filter(|name| CONTROLLERS.contains(name)) {
        let control = dir.join("cgroup.subtree_control");
        let on = format!("+{controller}");
        if write(&control, &on).is_ok() || !own || !is_alone(dir) {
            continue;
        }
        let leaf = dir.join(SERVER);
        if fs::create_dir_all(&leaf).is_ok() && write(&leaf.join("cgroup.procs"), "0").is_ok() {
            let _ = write(&control, &on);
        }
    }
}

/// Whether there is nobody in a cgroup but this process.
fn is_alone(dir: &Path) -> bool {
    fs::read_to_string(dir.join("cgroup.procs")).is_ok_and(|text| text.trim() == std::process::id().to_string())
}

/// Writes to a file of the kernel's, which is there.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).open(path)?;
    io::Write::write_all(&mut file, text.as_bytes())
}

/// The directory of the cgroup v2 that this process is in.
fn own_dir() -> Option<PathBuf> {
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    dir_of(&own, &mounts)
}

/// The same, from what `/proc/self/cgroup` and `/proc/self/mountinfo` say (`proc_pid_cgroup(5)`, `proc_pid_mountinfo(5)`).
fn dir_of(own: &str, mounts: &str) -> Option<PathBuf> {
    let path = own.lines().find_map(|line| line.strip_prefix("0::"))?;
    mounts.lines().find_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        if kind.split(' ').next() != Some("cgroup2") {
            return None;
        }
        let mut fields = mount.split(' ').skip(3);
        let (root, at) = (fields.next()?, fields.next()?);
        let below = Path::new(path).strip_prefix(root).ok()?;
        Some(Path::new(at).join(below))
    })
}

/// The cgroup of one run, as its parent process has it.
#[derive(Debug)]
pub(super) struct Cell {
    dir: PathBuf,
}

impl Cell {
    /// Makes it, with what bounds can be had. What is read and written is bounded on the disk that has the directory `works_in`.
    pub(super) fn make(dir: &Path, bounds: &Bounds, works_in: &Path, isolation: &mut Isolation) -> io::Result<Self> {
        match fs::create_dir(dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        isolation.cgroup = true;
        set_limits(dir, bounds, &disk_of(works_in), isolation);
        let dir = dir.to_owned();
        Ok(Cell { dir })
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// How many of its processes the system has ended because they had more memory than they may.
    pub(super) fn out_of_memory(&self) -> u64 {
        let text = fs::read_to_string(self.dir.join("memory.events")).unwrap_or_default();
        let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        count.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
    }

    pub(super) fn kill(&self) {
        kill(&self.dir);
    }

    pub(super) fn remove(&self) {
        remove(&self.dir);
    }
}

/// This process is in it from now on, and so is what it starts.
pub(super) fn enter(dir: &Path) -> io::Result<()> {
    write(&dir.join("cgroup.procs"), "0")
}

/// Kills everything in a cgroup and below it.
pub(super) fn kill(dir: &Path) {
    let _ = write(&dir.join("cgroup.kill"), "1");
}

/// Removes a cgroup in which nobody is, and those that are in it.
pub(super) fn remove(dir: &Path) {
    fn inner(dir: &Path, depth: u32) {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            if depth > 0 && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                inner(&entry.path(), depth - 1);
            }
        }
        let _ = fs::remove_dir(dir);
    }
    inner(dir, DEPTH);
}

/// The whole disk that has a file, as `io.max` names it: bounds cannot be set on a part of one.
fn disk_of(path: &Path) -> Result<String, String> {
    let device = fs::metadata(path).map_err(|error| error.to_string())?.dev();
    whole_disk(Path::new("/sys/dev/block"), major(device), minor(device))
}

/// The same, of a block device; `known` has a link to each (`Documentation/ABI/stable/sysfs-dev` of the kernel).
fn whole_disk(known: &Path, major: u32, minor: u32) -> Result<String, String> {
    let name = format!("{major}:{minor}");
    // A file system that is on several, or on none (btrfs, overlayfs, tmpfs, NFS), has a number that is no device's.
    let device = known.join(&name).canonicalize();
    let device = device.map_err(|_| format!("its files are on no block device of their own ({name})"))?;
    if !device.join("partition").exists() {
        return Ok(name);
    }
    let disk = device.parent().map(|disk| disk.join("dev")).unwrap_or_default();
    let whole = fs::read_to_string(disk).map_err(|error| format!("the disk of {name} is not known: {error}"))?;
    Ok(whole.trim().to_owned())
}

fn set_limits(dir: &Path, bounds: &Bounds, disk: &Result<String, String>, isolation: &mut Isolation) {
    // Of each 100 ms; more than one processor is more than that.
    let cpu = bounds
        .cpu_percent
        .map(|percent| format!("{} 100000", u64::from(percent.max(1)) * 1_000));
    let wanted = [
        ("memory.max", bounds.memory.map(|bytes| bytes.to_string())),
        ("memory.high", bounds.memory_high.map(|bytes| bytes.to_string())),
        ("pids.max", bounds.tasks.map(|number| number.to_string())),
        ("cpu.max", cpu),
    ];
    for (file, value) in wanted {
        let Some(value) = value else { continue };
        match write(&dir.join(file), &value) {
            Ok(()) => isolation.limits.push(file.to_owned()),
            Err(error) => isolation.missing.push(format!("{file}: {error}")),
        }
    }
    if let Some(bytes) = bounds.io_bytes_per_second {
        let set = match disk {
            // It has to be at least 1.
            Ok(disk) => write(&dir.join("io.max"), &format!("{disk} rbps={0} wbps={0}", bytes.max(1)))
                .map_err(|error| error.to_string()),
            Err(why) => Err(why.clone()),
        };
        match set {
            Ok(()) => isolation.limits.push("io.max".to_owned()),
            Err(why) => isolation.missing.push(format!("io.max: {why}")),
        }
    }
    if bounds.memory.is_some() {
        // Or it would have as much again on the disk. Not every system has any.
        let _ = write(&dir.join("memory.swap.max"), "0");
    }
}

/// What is missing where there is no cgroup at all.
pub(super) fn without(bounds: &Bounds, isolation: &mut Isolation) {
    let wanted = [
        ("memory.max", bounds.memory.is_some()),
        ("memory.high", bounds.memory_high.is_some()),
        ("pids.max", bounds.tasks.is_some()),
        ("cpu.max", bounds.cpu_percent.is_some()),
        ("io.max", bounds.io_bytes_per_second.is_some()),
    ];
    for (file, _) in wanted.iter().filter(|(_, wanted)| *wanted) {
        isolation.missing.push(format!("{file}: there is no cgroup"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_cgroup_is_found_where_it_is_mounted() {
        let mounts = "25 1 0:22 / /sys rw - sysfs sysfs rw\n36 25 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n40 25 0:33 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw\n";
        let own = "4:memory:/other\n0::/user.slice/a.service\n";
        assert_eq!(
            dir_of(own, mounts).as_deref(),
            Some(Path::new("/sys/fs/cgroup/unified/user.slice/a.service"))
        );
        let within = mounts.replace(" / /sys/fs/cgroup/unified", " /user.slice /sys/fs/cgroup/unified");
        assert_eq!(
            dir_of(own, &within).as_deref(),
            Some(Path::new("/sys/fs/cgroup/unified/a.service"))
        );
        assert_eq!(dir_of("4:memory:/other\n", mounts), None);
        assert_eq!(dir_of(own, "25 1 0:22 / /sys rw - sysfs sysfs rw\n"), None);
    }

    #[test]
    fn bounds_are_written_as_the_kernel_reads_them_and_what_cannot_be_had_is_said() {
        let dir = tempfile::tempdir().expect("a directory");
        for file in ["memory.max", "memory.high", "memory.swap.max", "cpu.max", "io.max"] {
            fs::write(dir.path().join(file), "").expect("written");
        }
        fs::write(
            dir.path().join("memory.events"),
            "low 0\nhigh 0\nmax 9\noom 2\noom_kill 3\noom_group_kill 0\n",
        )
        .expect("written");
        let bounds = Bounds {
            memory: Some(64 << 20),
            memory_high: Some(48 << 20),
            tasks: Some(50),
            cpu_percent: Some(150),
            io_bytes_per_second: Some(1 << 20),
            ..Bounds::default()
        };
        let mut isolation = Isolation::default();
        set_limits(dir.path(), &bounds, &Ok("8:0".to_owned()), &mut isolation);
        let read = |name: &str| fs::read_to_string(dir.path().join(name)).expect("there");
        assert_eq!(
            (read("memory.max"), read("memory.swap.max"), read("cpu.max")),
            ("67108864".to_owned(), "0".to_owned(), "150000 100000".to_owned())
        );
        assert_eq!(read("memory.high"), "50331648");
        assert_eq!(read("io.max"), "8:0 rbps=1048576 wbps=1048576");
        assert_eq!(isolation.limits, ["memory.max", "memory.high", "cpu.max", "io.max"]);
        assert!(
            isolation.missing.len() == 1 && isolation.missing[0].starts_with("pids.max: "),
            "{isolation:?}"
        );
        let cell = Cell {
            dir: dir.path().to_owned(),
        };
        assert_eq!(cell.out_of_memory(), 3);
        let mut nothing = Isolation::default();
        without(&bounds, &mut nothing);
        assert_eq!(nothing.missing.len(), 5);
        let mut nowhere = Isolation::default();
        set_limits(dir.path(), &bounds, &Err("on no disk".to_owned()), &mut nowhere);
        assert_eq!(nowhere.missing.last().map(String::as_str), Some("io.max: on no disk"));
    }

    #[test]
    fn of_a_part_of_a_disk_the_whole_is_meant() {
        let dir = tempfile::tempdir().expect("a directory");
        let known = dir.path().join("dev/block");
        let disk = dir.path().join("devices/sda");
        fs::create_dir_all(disk.join("sda1")).expect("made");
        fs::create_dir_all(&known).expect("made");
        fs::write(disk.join("dev"), "8:0\n").expect("written");
        fs::write(disk.join("sda1/dev"), "8:1\n").expect("written");
        fs::write(disk.join("sda1/partition"), "1\n").expect("written");
        std::os::unix::fs::symlink("../../devices/sda", known.join("8:0")).expect("made");
        std::os::unix::fs::symlink("../../devices/sda/sda1", known.join("8:1")).expect("made");
        assert_eq!(whole_disk(&known, 8, 1).as_deref(), Ok("8:0"));
        assert_eq!(whole_disk(&known, 8, 0).as_deref(), Ok("8:0"));
        let none = whole_disk(&known, 0, 42).expect_err("it is no device");
        assert!(none.contains("0:42"), "{none}");
    }

    #[test]
    fn a_cgroup_goes_with_those_that_are_in_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let base = dir.path().join("run");
        fs::create_dir_all(base.join("own/deeper")).expect("made");
        remove(&base);
        assert!(!base.exists());
    }
}
