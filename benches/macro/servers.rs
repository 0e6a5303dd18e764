//! The two servers.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::git::{copy_tree, git, text};

pub(crate) struct Running {
    pub(crate) name: &'static str,
    child: Child,
    pub(crate) port: u16,
    pub(crate) prefix: &'static str,
    /// Its own copy of the repositories.
    pub(crate) repos: PathBuf,
}

impl Running {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|l| l.local_addr())
        .expect("a free port")
        .port()
}

fn wait_for(port: u16) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(Instant::now() < deadline, "nothing listens on {port}");
        thread::sleep(Duration::from_millis(10));
    }
}

pub(crate) fn start_git(dir: &Path, repos: &Path) -> Running {
    let backend = PathBuf::from(text(git(dir, &["--exec-path"]))).join("git-http-backend");
    let port = free_port();
    let repos_git = dir.join("repos-git");
    copy_tree(repos, &repos_git);
    let config = dir.join("lighttpd.conf");
    let conf = format!(
        r#"server.document-root = "{root}"
server.bind = "127.0.0.1"
server.port = {port}
server.modules = ( "mod_alias", "mod_setenv", "mod_cgi" )
server.upload-dirs = ( "{tmp}" )
server.stream-response-body = 1
server.stream-request-body = 1
server.max-keep-alive-requests = 100000
alias.url += ( "/git" => "{backend}" )
cgi.assign = ( "" => "" )
setenv.set-environment = ( "GIT_PROJECT_ROOT" => "{root}", "GIT_HTTP_EXPORT_ALL" => "1", "REMOTE_USER" => "bench", "GIT_CONFIG_NOSYSTEM" => "1", "GIT_CONFIG_GLOBAL" => "/dev/null", "PATH" => "{path}" )
"#,
        root = repos_git.display(),
        tmp = dir.display(),
        backend = backend.display(),
        path = std::env::var("PATH").unwrap_or_default(),
    );
    fs::write(&config, conf).expect("a configuration");
    let child = Command::new("lighttpd")
        .args(["-D", "-f"])
        .arg(&config)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("lighttpd is installed (Debian package lighttpd)");
    wait_for(port);
    Running {
        name: "git",
        child,
        port,
        prefix: "/git",
        repos: repos_git,
    }
}

pub(crate) fn start_gitstead(dir: &Path, repos: &Path, answers: bool) -> Running {
    let config = dir.join("gitstead.toml");
    let text = if answers {
        ""
    } else {
        "[limits]\nanswer_cache_bytes = 0\nencoded_cache_bytes = 0\n"
    };
    fs::write(&config, text).expect("a configuration");
    let mut child = Command::new(env!("CARGO_BIN_EXE_gitstead"))
        .arg("serve")
        .arg("--data")
        .arg(dir.join("data"))
        .arg("--repos")
        .arg(repos)
        .args(["--listen", "127.0.0.1:0", "--config"])
        .arg(&config)
        .env("PATH", "")
        .env("GITSTEAD_LOG", "error")
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .expect("gitstead starts");
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().expect("a pipe"))
        .read_line(&mut line)
        .expect("a first line");
    let port = line
        .trim()
        .trim_end_matches('/')
        .rsplit(':')
        .next()
        .and_then(|digits| {
            digits
                .chars()
                .take_while(char::is_ascii_digit)
                .collect::<String>()
                .parse()
                .ok()
        })
        .unwrap_or_else(|| panic!("no port in {line:?}"));
    wait_for(port);
    Running {
        name: "gitstead",
        child,
        port,
        prefix: "/repos",
        repos: repos.to_owned(),
    }
}
