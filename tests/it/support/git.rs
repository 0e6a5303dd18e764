use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// A git client with nothing of this machine's in it: its own HOME, identity and dates.
pub struct Git {
    program: PathBuf,
    home: tempfile::TempDir,
    env: Vec<(String, String)>,
}

/// What a git command left behind.
#[derive(Debug)]
pub struct Output {
    pub ok: bool,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Output {
    /// Standard output as text, without the last line end.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim_end_matches('\n').to_owned()
    }
}

impl Default for Git {
    fn default() -> Self {
        Self::new()
    }
}

impl Git {
    pub fn new() -> Self {
        let home = tempfile::tempdir().expect("a temporary directory");
        Git {
            program: "git".into(),
            home,
            env: Vec::new(),
        }
    }

    /// Every git of this machine, one per version.
    pub fn all() -> Vec<(String, PathBuf)> {
        let mut found: Vec<(String, PathBuf)> = Vec::new();
        for dir in std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()) {
            let path = dir.join("git");
            let Ok(out) = Command::new(&path).arg("--version").output() else {
                continue;
            };
            let version = String::from_utf8_lossy(&out.stdout).trim().to_owned();
            if !version.is_empty() && found.iter().all(|(seen, _)| *seen != version) {
                found.push((version, path));
            }
        }
        assert!(!found.is_empty(), "git is installed: the tests need it");
        found
    }

    /// A client that is this program.
    pub fn program(mut self, program: PathBuf) -> Self {
        self.program = program;
        self
    }

    /// A directory that lives as long as this value.
    pub fn dir(&self) -> &Path {
        self.home.path()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// Adds an environment variable to every later command.
    pub fn env(mut self, key: &str, value: &str) -> Self {
        self.env.push((key.to_owned(), value.to_owned()));
        self
    }

    /// A client that speaks this protocol version.
    pub fn protocol(self, version: u8) -> Self {
        self.env("GIT_CONFIG_COUNT", "1")
            .env("GIT_CONFIG_KEY_0", "protocol.version")
            .env("GIT_CONFIG_VALUE_0", &version.to_string())
    }

    pub fn command(&self, dir: &Path) -> Command {
        let mut command = Command::new(&self.program);
        command.env_clear();
        for key in ["PATH", "TMPDIR"] {
            if let Some(value) = std::env::var_os(key) {
                command.env(key, value);
            }
        }
        command
            .env("HOME", self.home.path())
            .env("XDG_CONFIG_HOME", self.home.path())
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_AUTHOR_NAME", "A U Thor")
            .env("GIT_AUTHOR_EMAIL", "author@example.com")
            .env("GIT_AUTHOR_DATE", "1700000000 +0000")
            .env("GIT_COMMITTER_NAME", "C O Mitter")
            .env("GIT_COMMITTER_EMAIL", "committer@example.com")
            .env("GIT_COMMITTER_DATE", "1700000000 +0000")
            .env("GIT_MERGE_AUTOEDIT", "no")
            .env("LC_ALL", "C")
            .env("TZ", "UTC")
            .envs(self.env.iter().map(|(k, v)| (k, v)))
            .current_dir(dir)
            .stdin(Stdio::null());
        command.args([
            "-c",
            "init.defaultBranch=main",
            "-c",
            "gc.auto=0",
            "-c",
            "maintenance.auto=false",
            "-c",
            "advice.detachedHead=false",
        ]);
        command
    }

    /// Runs git and returns what happened, whether it worked or not.
    pub fn run<S: AsRef<OsStr>>(&self, dir: impl AsRef<Path>, args: impl IntoIterator<Item = S>) -> Output {
        let out = self
            .command(dir.as_ref())
            .args(args)
            .output()
            .expect("git is installed: the tests need it");
        Output {
            ok: out.status.success(),
            stdout: out.stdout,
            stderr: String::from_utf8_lossy(&out.stderr).into_owned(),
        }
    }

    /// Runs git with `input` on its standard input.
    pub fn run_with<S: AsRef<OsStr>>(
        &self,
        dir: impl AsRef<Path>,
        args: impl IntoIterator<Item = S>,
        input: &[u8],
    ) -> Output {
        use std::io::Write as _;
        let mut child = self
            .command(dir.as_ref())
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("git is installed: the tests need it");
        let mut stdin = child.stdin.take().expect("standard input is a pipe");
        let input = input.to_vec();
        let feeder = std::thread::spawn(move || {
            // git may stop reading when it has seen enough.
            let _ = stdin.write_all(&input);
        });
        let out = child.wait_with_output().expect("git ends");
        feeder.join().expect("the feeder does not panic");
        Output {
            ok: out.status.success(),
            stdout: out.stdout,
            stderr: String::from_utf8_lossy(&out.stderr).into_owned(),
        }
    }

    /// Runs a git command line, split at spaces, that must work; returns its output.
    #[track_caller]
    pub fn ok(&self, dir: impl AsRef<Path>, line: &str) -> String {
        self.ok_args(dir, line.split_whitespace())
    }

    /// As [`ok`](Self::ok) with the arguments given one by one.
    #[track_caller]
    pub fn ok_args<S: AsRef<OsStr>>(&self, dir: impl AsRef<Path>, args: impl IntoIterator<Item = S>) -> String {
        let args: Vec<_> = args.into_iter().map(|a| a.as_ref().to_owned()).collect();
        let out = self.run(dir, &args);
        assert!(out.ok, "git {args:?} failed:\n{}\n{}", out.text(), out.stderr);
        out.text()
    }

    /// Runs a git command line that must fail; returns its standard error.
    #[track_caller]
    pub fn fails(&self, dir: impl AsRef<Path>, line: &str) -> String {
        let out = self.run(dir, line.split_whitespace());
        assert!(!out.ok, "git {line} worked:\n{}\n{}", out.text(), out.stderr);
        out.stderr
    }

    /// A new repository with a worktree beneath [`dir`](Self::dir).
    pub fn init(&self, name: &str) -> PathBuf {
        self.ok(self.dir(), &format!("init -q {name}"));
        self.path(name)
    }

    /// A new bare repository beneath [`dir`](Self::dir).
    pub fn init_bare(&self, name: &str) -> PathBuf {
        self.ok(self.dir(), &format!("init -q --bare {name}"));
        self.path(name)
    }

    /// Writes a file (directories made) and commits it.
    pub fn commit(&self, repo: &Path, file: &str, content: impl AsRef<[u8]>, message: &str) -> String {
        let path = repo.join(file);
        std::fs::create_dir_all(path.parent().expect("a file has a parent")).expect("directories can be made");
        std::fs::write(path, content).expect("the file can be written");
        self.ok(repo, "add -A");
        self.ok_args(repo, ["commit", "-q", "-m", message]);
        self.ok(repo, "rev-parse HEAD")
    }

    /// `git fsck --strict` finds nothing to say about `repo`.
    #[track_caller]
    pub fn fsck(&self, repo: impl AsRef<Path>) {
        let out = self.run(repo.as_ref(), ["fsck", "--strict", "--full", "--no-dangling"]);
        assert!(
            out.ok,
            "fsck of {}:\n{}{}",
            repo.as_ref().display(),
            out.text(),
            out.stderr
        );
        for bad in ["error", "missing", "broken", "corrupt", "warning"] {
            assert!(
                !out.stderr.contains(bad) && !out.text().contains(bad),
                "fsck says:\n{}{}",
                out.text(),
                out.stderr
            );
        }
    }

    /// A deterministic history by `git fast-import`: `commits` commits on `main` that touch a few of `files` files in nested directories.
    pub fn generate(&self, repo: &Path, commits: usize, files: usize) {
        let mut stream = String::new();
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let mut random = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        for n in 0..commits {
            stream.push_str(&format!("commit refs/heads/main\nmark :{}\n", n + 1));
            stream.push_str(&format!(
                "committer C O Mitter <committer@example.com> {} +0000\n",
                1_600_000_000 + n * 60
            ));
            let message = format!("commit number {n}");
            stream.push_str(&format!("data {}\n{message}\n", message.len()));
            for _ in 0..3 {
                let file = random() as usize % files.max(1);
                let lines = 5 + random() as usize % 40;
                let body: String = (0..lines)
                    .map(|line| format!("{file} {line} {}\n", if line % 5 == 0 { random() } else { line as u64 }))
                    .collect();
                stream.push_str(&format!(
                    "M 100644 inline d{}/e{}/file{file}.txt\ndata {}\n{body}\n",
                    file % 7,
                    file % 3,
                    body.len()
                ));
            }
        }
        stream.push_str("done\n");
        let out = self.run_with(repo, ["fast-import", "--quiet", "--done"], stream.as_bytes());
        assert!(out.ok, "{}", out.stderr);
    }
}
