use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

/// A tracer (ptrace) around a server, which sees everything that is executed and every process that is started. It slows nothing else down: a
/// seccomp filter stops the server at these calls only.
pub struct Guard {
    // Holds `trace`.
    _dir: tempfile::TempDir,
    trace: PathBuf,
}

impl Guard {
    /// `None` where the environment says that there is no ptrace (`GITSTEAD_TEST_UNGUARDED=1`).
    pub fn new() -> Option<Self> {
        if std::env::var_os("GITSTEAD_TEST_UNGUARDED").is_some() {
            return None;
        }
        let dir = tempfile::tempdir().expect("a temporary directory");
        Some(Guard {
            trace: dir.path().join("trace"),
            _dir: dir,
        })
    }

    /// A command line that runs `program` under the guard and keeps its process id.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(strace());
        command
            .args(["-D", "-f", "--seccomp-bpf", "-q"])
            .args(["-e", "trace=execve,execveat,fork,vfork,clone,clone3", "-o"])
            .arg(&self.trace)
            .arg(program);
        command
    }

    /// What the process executed and started, its own program and its threads left out. The process has ended.
    pub fn seen(&self, pid: u32) -> Vec<String> {
        let deadline = Instant::now() + Duration::from_secs(20);
        let end = format!("{pid} ");
        let text = loop {
            let text = fs::read_to_string(&self.trace).unwrap_or_default();
            if text.lines().any(|line| line.starts_with(&end) && line.contains("+++ ")) {
                break text;
            }
            assert!(
                Instant::now() < deadline,
                "the tracer ends with the process it traces:\n{text}"
            );
            std::thread::sleep(Duration::from_millis(2));
        };
        let is_thread = |line: &str| line.contains("CLONE_THREAD") || line.contains("resumed>");
        // A process that is killed at a call may be gone before its number could be read: whatever it was, it was not done.
        let is_cut = |line: &str| line.contains("???");
        let mut lines = text
            .lines()
            .filter(|line| !line.contains("+++ ") && !line.contains("--- ") && !is_cut(line));
        let first = lines.next().expect("the program itself is executed");
        assert!(first.contains("execve("), "{first}");
        lines
            .filter(|line| !line.contains("clone") || !is_thread(line))
            .map(str::to_owned)
            .collect()
    }
}

fn strace() -> &'static Path {
    static FOUND: std::sync::OnceLock<PathBuf> = std::sync::OnceLock::new();
    FOUND.get_or_init(|| {
        std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
            .map(|dir| dir.join("strace"))
            .find(|path| path.is_file())
            .expect("strace is installed (or GITSTEAD_TEST_UNGUARDED=1 is set where ptrace is not allowed)")
    })
}
