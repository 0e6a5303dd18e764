use super::Guard;
use std::{
    io::{BufRead as _, BufReader, Read as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

/// How a test wants its server.
#[derive(Default)]
pub struct ServerOptions {
    /// More arguments after `serve --data … --listen 127.0.0.1:0`.
    pub args: Vec<String>,
    /// The content of `gitstead.toml`.
    pub config: Option<String>,
    /// A directory of repositories instead of `<data>/repos`.
    pub repos: Option<PathBuf>,
    /// More environment.
    pub env: Vec<(String, String)>,
    /// Whether it will run agents: then it starts processes, and there is no guard.
    pub agents: bool,
}

/// A real `gitstead serve` on a port of its own, with an empty PATH, under a guard that sees if it executes anything. Killed when dropped.
pub struct Server {
    child: Child,
    data: tempfile::TempDir,
    repos: PathBuf,
    url: String,
    stderr: Option<std::thread::JoinHandle<String>>,
    guard: Option<Guard>,
}

impl Server {
    pub fn start() -> Self {
        Self::with(ServerOptions::default())
    }

    pub fn with(options: ServerOptions) -> Self {
        let data = tempfile::tempdir().expect("a temporary directory");
        Self::on(data, options)
    }

    /// Starts on an existing data directory.
    pub fn on(data: tempfile::TempDir, options: ServerOptions) -> Self {
        let repos = options.repos.clone().unwrap_or_else(|| data.path().join("repos"));
        let guard = if options.agents { None } else { Guard::new() };
        let mut command = match &guard {
            Some(guard) => guard.command(env!("CARGO_BIN_EXE_gitstead")),
            None => Command::new(env!("CARGO_BIN_EXE_gitstead")),
        };
        command.env_clear().env("PATH", "").env("HOME", data.path());
        command.envs(options.env.iter().map(|(k, v)| (k, v)));
        command
            .arg("serve")
            .arg("--data")
            .arg(data.path())
            .args(["--listen", "127.0.0.1:0"]);
        if let Some(repos) = &options.repos {
            command.arg("--repos").arg(repos);
        }
        if let Some(config) = &options.config {
            let path = data.path().join("gitstead.toml");
            std::fs::write(&path, config).expect("the configuration can be written");
            command.arg("--config").arg(path);
        }
        command.args(&options.args);
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the server starts");
        let mut stderr = child.stderr.take().expect("standard error is a pipe");
        let stderr = std::thread::spawn(move || {
            let mut text = Vec::new();
            let _ = stderr.read_to_end(&mut text);
            String::from_utf8_lossy(&text).into_owned()
        });
        let mut first = String::new();
        BufReader::new(child.stdout.as_mut().expect("standard output is a pipe"))
            .read_line(&mut first)
            .expect("a first line");
        let Some(at) = first.find("http://") else {
            let _ = child.kill();
            panic!(
                "the first line {first:?} names no address; it said:\n{}",
                stderr.join().unwrap_or_default()
            );
        };
        let url = first[at..]
            .split_whitespace()
            .next()
            .expect("an address")
            .trim_end_matches('/')
            .to_owned();
        Server {
            child,
            data,
            repos,
            url,
            stderr: Some(stderr),
            guard,
        }
    }

    /// `http://127.0.0.1:PORT`
    pub fn url(&self) -> &str {
        &self.url
    }

    /// `127.0.0.1:PORT`
    pub fn address(&self) -> &str {
        self.url.trim_start_matches("http://")
    }

    /// The URL of a repository under the default prefix.
    pub fn repo_url(&self, name: &str) -> String {
        format!("{}/repos/{name}", self.url)
    }

    pub fn repos(&self) -> &Path {
        &self.repos
    }

    pub fn data(&self) -> &Path {
        self.data.path()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// `kill -9`, and the data directory for another server.
    pub fn kill(mut self) -> tempfile::TempDir {
        let _ = self.child.kill();
        let _ = self.child.wait();
        std::mem::replace(&mut self.data, tempfile::tempdir().expect("a temporary directory"))
    }

    /// SIGTERM; waits for the end and returns the exit code and what was said on standard error.
    pub fn terminate(mut self) -> (Option<i32>, String) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("the server runs");
        let status = self.child.wait().expect("the server ends");
        let said = self
            .stderr
            .take()
            .map(|t| t.join().unwrap_or_default())
            .unwrap_or_default();
        (status.code(), said)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            if let Some(said) = self.stderr.take() {
                eprintln!("the server said:\n{}", said.join().unwrap_or_default());
            }
        } else if let Some(guard) = &self.guard {
            let seen = guard.seen(self.child.id());
            assert!(seen.is_empty(), "the server started something:\n{}", seen.join("\n"));
        }
    }
}
