//! Gitstead beside C git's `http-backend` on the same repositories, in one run, interleaved. Catches: any workload that became slower or hungrier than
//! the server people would otherwise run.
//!
//! `cargo bench --bench macro -- --repo /path/to/a/repository.git [--rounds 5] [--only clone,push]`
//!
//! Without `--repo` a history is generated. Requests are written to the socket as a git client would send them and the answer is thrown away, so that the
//! client's own work (indexing a clone) does not hide the server's. For every workload it prints the medians of wall time, CPU time of the server's whole
//! process tree, time to the first pack byte and peak anonymous memory, and the ratio Gitstead / C git of each. C git runs behind lighttpd (Debian package
//! `lighttpd`) with Debian's or the machine's `git http-backend`.

#![allow(
    clippy::disallowed_methods,
    reason = "it starts both servers, and git to prepare what they serve"
)]

use std::{
    collections::BTreeMap,
    fs,
    io::{self, BufRead as _, BufReader, Read, Write as _},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

fn main() {
    let mut repo = None;
    let mut rounds = 5usize;
    let mut only: Option<Vec<String>> = None;
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--repo" => repo = args.next().map(PathBuf::from),
            "--rounds" => {
                rounds = args
                    .next()
                    .and_then(|n| n.parse().ok())
                    .expect("--rounds takes a number")
            }
            "--only" => only = args.next().map(|list| list.split(',').map(str::to_owned).collect()),
            "--bench" => {}
            // `cargo test --benches` and nextest list or run every target; there is nothing to test here.
            "--list" | "--test" => return,
            other => panic!("unknown argument {other}"),
        }
    }
    let dir = tempfile::tempdir().expect("a temporary directory");
    let bench = Bench::prepare(dir.path(), repo.as_deref());
    let wanted = |name: &str| only.as_ref().is_none_or(|list| list.iter().any(|n| n == name));
    println!(
        "# {} objects, {:.1} MB of pack, git {}",
        bench.objects,
        bench.pack_bytes as f64 / 1e6,
        bench.git_version
    );
    println!(
        "{:<26} {:>9} {:>9} {:>6}  {:>9} {:>9} {:>6}  {:>8} {:>8} {:>6}  {:>8} {:>8} {:>6}",
        "workload",
        "wall ms",
        "git",
        "ratio",
        "cpu ms",
        "git",
        "ratio",
        "ttfb ms",
        "git",
        "ratio",
        "peak MB",
        "git",
        "ratio"
    );
    for (name, work) in bench.workloads() {
        if !wanted(name) {
            continue;
        }
        let mut results: BTreeMap<&str, Vec<Sample>> = BTreeMap::new();
        // One round to warm both, then interleaved.
        for round in 0..=rounds {
            for server in [&bench.ours, &bench.theirs] {
                let sample = bench.measure(server, &work, round);
                if round > 0 {
                    results.entry(server.name).or_default().push(sample);
                }
            }
        }
        let ours = Sample::median(&results["gitstead"]);
        let theirs = Sample::median(&results["git"]);
        let ratio = |a: f64, b: f64| if b > 0.0 { format!("{:.2}", a / b) } else { "-".into() };
        println!(
            "{name:<26} {:>9.1} {:>9.1} {:>6}  {:>9.1} {:>9.1} {:>6}  {:>8.1} {:>8.1} {:>6}  {:>8.1} {:>8.1} {:>6}",
            ours.wall,
            theirs.wall,
            ratio(ours.wall, theirs.wall),
            ours.cpu,
            theirs.cpu,
            ratio(ours.cpu, theirs.cpu),
            ours.first,
            theirs.first,
            ratio(ours.first, theirs.first),
            ours.memory,
            theirs.memory,
            ratio(ours.memory, theirs.memory),
        );
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Sample {
    wall: f64,
    cpu: f64,
    first: f64,
    memory: f64,
}

impl Sample {
    fn median(all: &[Sample]) -> Sample {
        let middle = |get: fn(&Sample) -> f64| {
            let mut values: Vec<f64> = all.iter().map(get).collect();
            values.sort_by(f64::total_cmp);
            values.get(values.len() / 2).copied().unwrap_or_default()
        };
        Sample {
            wall: middle(|s| s.wall),
            cpu: middle(|s| s.cpu),
            first: middle(|s| s.first),
            memory: middle(|s| s.memory),
        }
    }
}

/// One request to send, as often and as concurrently as the workload says.
struct Request {
    path: String,
    content_type: &'static str,
    v2: bool,
    body: Arc<Vec<u8>>,
    /// What must stand in the answer, or the figure is worth nothing.
    expect: &'static [u8],
}

struct Work {
    /// Sent one after the other, `repeat` times over, by `clients` clients at a time.
    requests: Vec<Request>,
    repeat: usize,
    clients: usize,
    /// Reset this repository (a copy of that one) before each measurement.
    reset: Option<(String, String)>,
}

struct Running {
    name: &'static str,
    child: Child,
    port: u16,
    prefix: &'static str,
    repos: PathBuf,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Bench {
    ours: Running,
    theirs: Running,
    objects: String,
    pack_bytes: u64,
    git_version: String,
    source: PathBuf,
    scratch: PathBuf,
}

fn git(dir: &Path, args: &[&str]) -> Vec<u8> {
    git_with(dir, args, &[])
}

fn git_with(dir: &Path, args: &[&str], input: &[u8]) -> Vec<u8> {
    let mut child = Command::new("git")
        .args(args)
        .current_dir(dir)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_AUTHOR_DATE", "1700000000 +0000")
        .env("GIT_COMMITTER_DATE", "1700000000 +0000")
        .env("GIT_AUTHOR_NAME", "a")
        .env("GIT_AUTHOR_EMAIL", "a@example.com")
        .env("GIT_COMMITTER_NAME", "a")
        .env("GIT_COMMITTER_EMAIL", "a@example.com")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("git is installed");
    let mut stdin = child.stdin.take().expect("a pipe");
    let input = input.to_vec();
    let feeder = thread::spawn(move || {
        let _ = stdin.write_all(&input);
    });
    let out = child.wait_with_output().expect("git ends");
    feeder.join().expect("the feeder does not panic");
    assert!(out.status.success(), "git {args:?}");
    out.stdout
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).expect("text").trim().to_owned()
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory");
    for entry in fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), &target).expect("a copy");
        }
    }
}

fn pkt(out: &mut Vec<u8>, line: &str) {
    out.extend_from_slice(format!("{:04x}{line}", line.len() + 4).as_bytes());
}

fn v2_fetch(wants: &[String], haves: &[String], arguments: &[&str]) -> Vec<u8> {
    let mut body = Vec::new();
    pkt(&mut body, "command=fetch");
    pkt(&mut body, "agent=git/2.47.3");
    pkt(&mut body, "object-format=sha1");
    body.extend_from_slice(b"0001");
    for line in ["thin-pack", "no-progress", "ofs-delta"] {
        pkt(&mut body, line);
    }
    for argument in arguments {
        pkt(&mut body, argument);
    }
    for want in wants {
        pkt(&mut body, &format!("want {want}\n"));
    }
    for have in haves {
        pkt(&mut body, &format!("have {have}\n"));
    }
    pkt(&mut body, "done\n");
    body.extend_from_slice(b"0000");
    body
}

fn v2_ls_refs(prefixes: &[&str]) -> Vec<u8> {
    let mut body = Vec::new();
    pkt(&mut body, "command=ls-refs\n");
    pkt(&mut body, "agent=git/2.47.3");
    pkt(&mut body, "object-format=sha1");
    body.extend_from_slice(b"0001");
    pkt(&mut body, "peel\n");
    pkt(&mut body, "symrefs\n");
    for prefix in prefixes {
        pkt(&mut body, &format!("ref-prefix {prefix}\n"));
    }
    body.extend_from_slice(b"0000");
    body
}

fn push_body(old: &str, new: &str, name: &str, pack: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    pkt(
        &mut body,
        &format!("{old} {new} {name}\0report-status-v2 side-band-64k quiet object-format=sha1 agent=git/2.47.3"),
    );
    body.extend_from_slice(b"0000");
    body.extend_from_slice(pack);
    body
}

const ZERO: &str = "0000000000000000000000000000000000000000";

impl Bench {
    fn prepare(dir: &Path, repo: Option<&Path>) -> Bench {
        let repos = dir.join("repos");
        fs::create_dir_all(&repos).expect("a directory");
        let source = repos.join("source.git");
        match repo {
            Some(path) => {
                git(
                    dir,
                    &[
                        "clone",
                        "-q",
                        "--bare",
                        "--no-hardlinks",
                        &path.display().to_string(),
                        &source.display().to_string(),
                    ],
                );
            }
            None => {
                git(
                    dir,
                    &["init", "-q", "--bare", "-b", "main", &source.display().to_string()],
                );
                generate(&source, 4_000, 3_000);
            }
        }
        git(&source, &["config", "http.receivepack", "true"]);
        git(&source, &["config", "uploadpack.allowFilter", "true"]);
        git(&source, &["config", "uploadpack.allowAnySHA1InWant", "true"]);
        git(&source, &["repack", "-adq"]);
        // Neither side gets a bitmap here: the engine's own marks measure with and without.
        for entry in fs::read_dir(source.join("objects/pack")).expect("packs").flatten() {
            if entry.path().extension().is_some_and(|e| e == "bitmap") {
                fs::remove_file(entry.path()).expect("removable");
            }
        }
        git(&source, &["config", "repack.writeBitmaps", "false"]);
        let pack_bytes = fs::read_dir(source.join("objects/pack"))
            .expect("packs")
            .flatten()
            .filter(|e| e.path().extension().is_some_and(|x| x == "pack"))
            .map(|e| e.metadata().map(|m| m.len()).unwrap_or_default())
            .sum();
        let objects = text(git(&source, &["rev-list", "--all", "--objects", "--count"]));
        let many = repos.join("many-refs.git");
        copy_tree(&source, &many);
        let head = text(git(&source, &["rev-parse", "HEAD"]));
        let mut refs = String::new();
        for n in 0..50_000 {
            refs.push_str(&format!("create refs/heads/topic/{n:05} {head}\n"));
        }
        git_with(&many, &["update-ref", "--stdin"], refs.as_bytes());
        git(&many, &["pack-refs", "--all"]);
        let empty = dir.join("empty.git");
        git(
            dir,
            &["init", "-q", "--bare", "-b", "main", &empty.display().to_string()],
        );
        git(&empty, &["config", "http.receivepack", "true"]);
        let theirs = start_git(dir, &repos);
        let ours = start_gitstead(dir, &repos);
        Bench {
            ours,
            theirs,
            objects,
            pack_bytes,
            git_version: text(git(dir, &["version"])).replace("git version ", ""),
            source,
            scratch: dir.to_owned(),
        }
    }

    fn workloads(&self) -> Vec<(&'static str, Work)> {
        let head = text(git(&self.source, &["rev-parse", "HEAD"]));
        let back = |n: usize| {
            let list = text(git(
                &self.source,
                &["rev-list", "--first-parent", &format!("--skip={n}"), "-1", "HEAD"],
            ));
            if list.is_empty() { head.clone() } else { list }
        };
        let upload = |body: Vec<u8>, expect: &'static [u8]| Request {
            path: "source.git/git-upload-pack".into(),
            content_type: "upload-pack",
            v2: true,
            body: Arc::new(body),
            expect,
        };
        let wants = vec![head.clone()];
        let one = |request: Request| Work {
            requests: vec![request],
            repeat: 1,
            clients: 1,
            reset: None,
        };
        let fetch = |arguments: &[&str], haves: &[String]| one(upload(v2_fetch(&wants, haves, arguments), b"PACK"));
        let mut all = vec![
            ("clone", fetch(&[], &[])),
            ("shallow", fetch(&["deepen 1"], &[])),
            ("blobless", fetch(&["filter blob:none"], &[])),
            ("fetch-10", fetch(&[], &[back(10)])),
            ("fetch-1000", fetch(&[], &[back(1000)])),
        ];
        let mut small = fetch(&[], &[back(1)]);
        small.repeat = 50;
        all.push(("fetch-1-x50", small));
        let mut ls = one(upload(
            v2_ls_refs(&["HEAD", "refs/heads/", "refs/tags/"]),
            b"refs/heads/",
        ));
        ls.repeat = 50;
        all.push(("ls-refs-x50", ls));
        let mut many = one(upload(v2_ls_refs(&[]), b"topic/49999"));
        many.requests[0].path = "many-refs.git/git-upload-pack".into();
        all.push(("ls-refs-50k", many));
        let mut prefix = one(upload(v2_ls_refs(&["refs/heads/topic/4999"]), b"topic/49999"));
        prefix.requests[0].path = "many-refs.git/git-upload-pack".into();
        prefix.repeat = 20;
        all.push(("ls-refs-50k-prefix-x20", prefix));
        let mut concurrent = fetch(&[], &[]);
        concurrent.clients = 16;
        all.push(("clone-16-at-once", concurrent));
        all.push(("push-whole", self.push_whole(&head)));
        all.push(("push-small-x50", self.push_small(&head)));
        all
    }

    fn push_whole(&self, head: &str) -> Work {
        let pack = git_with(
            &self.source,
            &["pack-objects", "--revs", "--stdout", "-q", "--delta-base-offset"],
            format!("{head}\n").as_bytes(),
        );
        Work {
            requests: vec![Request {
                path: "target.git/git-receive-pack".into(),
                content_type: "receive-pack",
                v2: false,
                body: Arc::new(push_body(ZERO, head, "refs/heads/pushed", &pack)),
                expect: b"ok refs/heads/pushed",
            }],
            repeat: 1,
            clients: 1,
            reset: Some(("target.git".into(), "empty.git".into())),
        }
    }

    fn push_small(&self, head: &str) -> Work {
        // Fifty commits on top of HEAD, each with one changed file, each pushed as a thin pack.
        let work = self.scratch.join("small.git");
        copy_tree(&self.source, &work);
        let mut requests = Vec::new();
        let mut parent = head.to_owned();
        let mut old = ZERO.to_owned();
        for n in 0..50 {
            let index = self.scratch.join("small.index");
            let _ = fs::remove_file(&index);
            let blob = text(git_with(
                &work,
                &["hash-object", "-w", "--stdin"],
                format!("small change {n}\n").as_bytes(),
            ));
            let mut listing = git(&work, &["ls-tree", &parent]);
            let kept: Vec<u8> = listing
                .split(|b| *b == b'\n')
                .filter(|line| !line.is_empty() && !line.ends_with(b"\tsmall.txt"))
                .flat_map(|line| line.iter().copied().chain([b'\n']))
                .collect();
            listing = kept;
            listing.extend_from_slice(format!("100644 blob {blob}\tsmall.txt\n").as_bytes());
            let tree = text(git_with(&work, &["mktree"], &listing));
            let commit = text(git(
                &work,
                &["commit-tree", &tree, "-p", &parent, "-m", &format!("small {n}")],
            ));
            let pack = git_with(
                &work,
                &[
                    "pack-objects",
                    "--revs",
                    "--stdout",
                    "-q",
                    "--thin",
                    "--delta-base-offset",
                ],
                format!("{commit}\n^{parent}\n").as_bytes(),
            );
            requests.push(Request {
                path: "target.git/git-receive-pack".into(),
                content_type: "receive-pack",
                v2: false,
                body: Arc::new(push_body(&old, &commit, "refs/heads/small", &pack)),
                expect: b"ok refs/heads/small",
            });
            old = commit.clone();
            parent = commit;
        }
        Work {
            requests,
            repeat: 1,
            clients: 1,
            reset: Some(("target.git".into(), "repos/source.git".into())),
        }
    }

    fn measure(&self, server: &Running, work: &Work, _round: usize) -> Sample {
        if let Some((target, template)) = &work.reset {
            let target = server.repos.join(target);
            let _ = fs::remove_dir_all(&target);
            copy_tree(&self.scratch.join(template), &target);
            // Write-back of the copy must not be charged to the server.
            git(&self.scratch, &["version"]);
            let _ = Command::new("sync").status();
        }
        let pid = server.child.id();
        let cpu = tree_cpu(pid);
        let sampler = MemorySampler::start(pid);
        let start = Instant::now();
        let first: f64 = thread::scope(|scope| {
            let clients: Vec<_> = (0..work.clients)
                .map(|_| {
                    scope.spawn(|| {
                        let mut first = 0.0;
                        for _ in 0..work.repeat {
                            for request in &work.requests {
                                first = send(server, request).as_secs_f64() * 1e3;
                            }
                        }
                        first
                    })
                })
                .collect();
            clients
                .into_iter()
                .map(|c| c.join().expect("the client does not panic"))
                .fold(0.0, f64::max)
        });
        let wall = start.elapsed().as_secs_f64() * 1e3;
        let memory = sampler.stop();
        // http-backend's children are accounted when their parent has waited for them.
        thread::sleep(Duration::from_millis(30));
        Sample {
            wall,
            cpu: tree_cpu(pid) - cpu,
            first,
            memory,
        }
    }
}

/// Sends one request on a connection of its own and reads the answer to its end; returns the time to the first byte of `expect`, or of the body.
fn send(server: &Running, request: &Request) -> Duration {
    let start = Instant::now();
    let stream = TcpStream::connect(("127.0.0.1", server.port)).expect("the server listens");
    stream.set_nodelay(true).expect("a socket option");
    let mut head = format!(
        "POST {}/{} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: git/2.47.3\r\nContent-Type: application/x-git-{}-request\r\nAccept: application/x-git-{}-result\r\nContent-Length: {}\r\nConnection: close\r\n",
        server.prefix,
        request.path,
        request.content_type,
        request.content_type,
        request.body.len()
    );
    if request.v2 {
        head.push_str("Git-Protocol: version=2\r\n");
    }
    head.push_str("\r\n");
    let mut writer = stream.try_clone().expect("a socket");
    let body = Arc::clone(&request.body);
    let writing = thread::spawn(move || {
        writer.write_all(head.as_bytes())?;
        writer.write_all(&body)
    });
    let mut reader = BufReader::with_capacity(256 << 10, stream);
    let mut status = String::new();
    reader.read_line(&mut status).expect("a status line");
    let mut buf = vec![0u8; 256 << 10];
    let mut tail = Vec::new();
    let mut first = None;
    let mut seen = false;
    loop {
        let n = match reader.read(&mut buf) {
            Ok(0) => break,
            Ok(n) => n,
            Err(err) if err.kind() == io::ErrorKind::Interrupted => continue,
            Err(err) => panic!("{}: {err}", server.name),
        };
        if !seen {
            let at = tail.len();
            tail.extend_from_slice(&buf[..n]);
            if tail[at.saturating_sub(64)..]
                .windows(request.expect.len())
                .any(|w| w == request.expect)
            {
                seen = true;
                first.get_or_insert_with(|| start.elapsed());
            }
        }
    }
    writing
        .join()
        .expect("the writer does not panic")
        .expect("the request is taken");
    assert!(
        status.contains("200") && seen,
        "{} answered {status:?} without {:?}: {}",
        server.name,
        String::from_utf8_lossy(request.expect),
        String::from_utf8_lossy(&tail[..tail.len().min(2000)])
    );
    first.unwrap_or_default()
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

fn start_git(dir: &Path, repos: &Path) -> Running {
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
alias.url += ( "/git" => "{backend}" )
cgi.assign = ( "" => "" )
setenv.set-environment = ( "GIT_PROJECT_ROOT" => "{root}", "GIT_HTTP_EXPORT_ALL" => "1", "REMOTE_USER" => "bench", "PATH" => "{path}" )
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

fn start_gitstead(dir: &Path, repos: &Path) -> Running {
    let mut child = Command::new(env!("CARGO_BIN_EXE_gitstead"))
        .arg("serve")
        .arg("--data")
        .arg(dir.join("data"))
        .arg("--repos")
        .arg(repos)
        .args(["--listen", "127.0.0.1:0"])
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

/// CPU milliseconds of a process and every child it has waited for.
fn tree_cpu(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    // Fields 14 to 17 of proc(5), of which the first two were cut off with the name.
    let ticks: u64 = fields
        .get(11..15)
        .into_iter()
        .flatten()
        .filter_map(|f| f.parse::<u64>().ok())
        .sum();
    ticks as f64 * 10.0
}

struct MemorySampler {
    stop: Arc<AtomicBool>,
    peak: Arc<AtomicU64>,
    thread: thread::JoinHandle<()>,
}

impl MemorySampler {
    fn start(pid: u32) -> Self {
        let (stop, peak) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let thread = thread::spawn({
            let (stop, peak) = (Arc::clone(&stop), Arc::clone(&peak));
            move || {
                while !stop.load(Ordering::Relaxed) {
                    peak.fetch_max(tree_anonymous(pid), Ordering::Relaxed);
                    thread::sleep(Duration::from_millis(10));
                }
            }
        });
        MemorySampler { stop, peak, thread }
    }

    /// Megabytes of anonymous memory at the peak.
    fn stop(self) -> f64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the sampler does not panic");
        self.peak.load(Ordering::Relaxed) as f64 / 1e3
    }
}

fn tree_anonymous(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let own: u64 = status
        .lines()
        .find_map(|l| l.strip_prefix("RssAnon:"))
        .and_then(|v| v.split_whitespace().next())
        .and_then(|v| v.parse().ok())
        .unwrap_or(0);
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    own + children
        .split_whitespace()
        .filter_map(|c| c.parse().ok())
        .map(tree_anonymous)
        .sum::<u64>()
}

fn generate(repo: &Path, commits: usize, files: usize) {
    let mut stream = String::new();
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for n in 0..commits {
        stream.push_str(&format!(
            "commit refs/heads/main\ncommitter a <a@example.com> {} +0000\n",
            1_600_000_000 + n * 60
        ));
        let message = format!("commit number {n}");
        stream.push_str(&format!("data {}\n{message}\n", message.len()));
        for _ in 0..4 {
            let file = random() as usize % files;
            let lines = 20 + random() as usize % 80;
            let body: String = (0..lines)
                .map(|l| format!("{file} {l} {}\n", if l % 7 == 0 { random() } else { l as u64 }))
                .collect();
            stream.push_str(&format!(
                "M 100644 inline d{}/e{}/file{file}.txt\ndata {}\n{body}\n",
                file % 17,
                file % 5,
                body.len()
            ));
        }
    }
    stream.push_str("done\n");
    git_with(repo, &["fast-import", "--quiet", "--done"], stream.as_bytes());
}
