//! Gitstead beside C git's `http-backend` on the same repositories, in one run, interleaved. Catches: any workload that became slower or hungrier than
//! the server people would otherwise run, or whose answers became wrong.
//!
//! `cargo bench --bench macro -- [--repo /path/to/a/repository.git] [--rounds 5] [--only clone,push-whole] [--git-defaults] [--bitmaps] [--answers]`
//!
//! Without `--repo` a history is generated. Requests are written to the socket as a git client would send them and the answer is thrown away, so that the
//! client's own work (indexing a clone) does not hide the server's; in a first round, which is not counted, answers are kept and held against git: packs
//! must be complete and both servers' must bring the same objects, listings must be equal, pushed repositories must pass `git fsck`.
//!
//! For every workload it prints the medians of wall time, CPU time of the server's whole process tree, time to the first pack byte and peak anonymous
//! memory, and the ratio Gitstead / C git of each; for the small requests (`…-x200`) requests per second. C git runs behind lighttpd (Debian package
//! `lighttpd`) with the machine's `git http-backend`. Both check what is pushed (`receive.fsckObjects`) and both make it durable (`core.fsync=all` for
//! C git, which by default does neither; `--git-defaults` leaves it its own habit of flushing only packs). Neither does maintenance after a push.
//!
//! Every round asks the same. So that each request is worked out in each, Gitstead is told to keep no answers; `--answers` lets it keep them, as it does by default.
//! `--bitmaps` lets git write bitmaps into the repository first, which both servers then use.

#![allow(
    clippy::disallowed_methods,
    reason = "it starts both servers, and git to prepare what they serve"
)]

mod check;
mod client;
mod git;
mod meter;
mod servers;
mod wire;
mod workloads;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use check::Check;
use client::Client;
use git::{copy_tree, generate, git, text};
use meter::{MemorySampler, tree_cpu};
use servers::{Running, start_git, start_gitstead};
use workloads::Work;

fn main() {
    let mut repo = None;
    let mut rounds = 5usize;
    let (mut git_defaults, mut bitmaps, mut answers) = (false, false, false);
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
            "--git-defaults" => git_defaults = true,
            "--bitmaps" => bitmaps = true,
            "--answers" => answers = true,
            "--bench" => {}
            // `cargo test --benches` and nextest list or run every target; there is nothing to test here.
            "--list" | "--test" => return,
            other => panic!("unknown argument {other}"),
        }
    }
    let wanted = |name: &str| only.as_ref().is_none_or(|list| list.iter().any(|n| n == name));
    let dir = tempfile::tempdir().expect("a temporary directory");
    let bench = Bench::prepare(dir.path(), repo.as_deref(), git_defaults, bitmaps, answers);
    println!("{}\n", bench.about);
    println!(
        "| workload | objects | size | wall ms | git | ratio | CPU ms | git | ratio | first byte ms | git | ratio | peak MB | git | ratio | requests/s | git | times |"
    );
    println!("|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|");
    for work in workloads::all(dir.path(), &wanted) {
        let objects = bench.verify(&work);
        let mut results: BTreeMap<&str, Vec<Sample>> = BTreeMap::new();
        for _ in 0..rounds.max(1) {
            for server in [&bench.ours, &bench.theirs] {
                results
                    .entry(server.name)
                    .or_default()
                    .push(bench.measure(server, &work));
            }
        }
        let (ours, theirs) = (Sample::median(&results["gitstead"]), Sample::median(&results["git"]));
        print!("| {} | {objects} |", work.name);
        for get in [
            |s: &Sample| s.wall,
            |s: &Sample| s.cpu,
            |s: &Sample| s.first,
            |s: &Sample| s.memory,
        ] {
            let (a, b) = (get(&ours), get(&theirs));
            let ratio = if b > 0.0 { format!("{:.2}", a / b) } else { "–".into() };
            print!(" {a:.1} | {b:.1} | {ratio} |");
        }
        if work.name.contains("-x") {
            let rate = |sample: &Sample| work.requests() as f64 / sample.wall * 1e3;
            let (a, b) = (rate(&ours), rate(&theirs));
            println!(" {a:.0} | {b:.0} | {:.1} |", a / b);
        } else {
            println!(" | | |");
        }
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
        Sample {
            wall: middle(all.iter().map(|s| s.wall)),
            cpu: middle(all.iter().map(|s| s.cpu)),
            first: middle(all.iter().map(|s| s.first)),
            memory: middle(all.iter().map(|s| s.memory)),
        }
    }
}

fn middle(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

struct Bench {
    ours: Running,
    theirs: Running,
    about: String,
    source: PathBuf,
    scratch: PathBuf,
}

impl Bench {
    fn prepare(dir: &Path, repo: Option<&Path>, git_defaults: bool, bitmaps: bool, answers: bool) -> Bench {
        let source = dir.join("repos/source.git");
        fs::create_dir_all(dir.join("repos")).expect("a directory");
        let (from, to) = (
            repo.unwrap_or(Path::new("")).display().to_string(),
            source.display().to_string(),
        );
        if repo.is_some() {
            git(dir, &["clone", "-q", "--mirror", "--no-hardlinks", &from, &to]);
        } else {
            git(dir, &["init", "-q", "--bare", "-b", "main", &to]);
            generate(&source, 4_000, 3_000);
        }
        let configure = |dir: &Path, fsck: bool| {
            let mut settings = vec![
                ("http.receivepack", "true"),
                ("uploadpack.allowFilter", "true"),
                ("uploadpack.allowAnySHA1InWant", "true"),
                ("receive.fsckObjects", if fsck { "true" } else { "false" }),
                ("receive.autogc", "false"),
                ("gc.auto", "0"),
                ("repack.writeBitmaps", if bitmaps { "true" } else { "false" }),
            ];
            if !git_defaults {
                settings.push(("core.fsync", "all"));
            }
            for (key, value) in settings {
                git(dir, &["config", key, value]);
            }
        };
        configure(&source, true);
        git(&source, &["repack", if bitmaps { "-adbq" } else { "-adq" }]);
        for (name, fsck) in [("empty.git", true), ("empty-nofsck.git", false)] {
            git(dir, &["init", "-q", "--bare", "-b", "main", name]);
            configure(&dir.join(name), fsck);
        }
        let head = text(git(&source, &["rev-parse", "HEAD"]));
        let many = dir.join("repos/many-refs.git");
        copy_tree(&source, &many);
        // As `git pack-refs` leaves them, only sooner than by making a hundred thousand files first.
        git(&many, &["pack-refs", "--all", "--prune"]);
        let packed = many.join("packed-refs");
        let text_before = fs::read_to_string(&packed).expect("packed refs");
        let mut lines: Vec<(String, String)> = Vec::new();
        for line in text_before.lines().filter(|line| !line.starts_with('#')) {
            match line.split_once(' ') {
                Some((_, name)) => lines.push((name.to_owned(), format!("{line}\n"))),
                None => lines.last_mut().expect("a ref before its peeled value").1 += &format!("{line}\n"),
            }
        }
        lines.extend((0..100_000).map(|n| {
            let name = format!("refs/heads/topic/{n:05}");
            let line = format!("{head} {name}\n");
            (name, line)
        }));
        lines.sort();
        let body: String = lines.into_iter().map(|(_, line)| line).collect();
        fs::write(
            &packed,
            format!("# pack-refs with: peeled fully-peeled sorted \n{body}"),
        )
        .expect("packed refs");

        let counts = String::from_utf8_lossy(&git(&source, &["count-objects", "-v"])).into_owned();
        let count = |key: &str| {
            let line = counts.lines().find_map(|line| line.strip_prefix(key));
            line.unwrap_or_default().trim().to_owned()
        };
        let about = format!(
            "{}: {} objects in {} KiB of pack, {} reachable from HEAD in {} commits, {} refs; {}bitmaps; {}; C git {}",
            repo.and_then(Path::file_name)
                .map_or("generated".into(), |name| name.to_string_lossy()),
            count("in-pack:"),
            count("size-pack:"),
            text(git(&source, &["rev-list", "--objects", "--count", "HEAD"])),
            text(git(&source, &["rev-list", "--count", "HEAD"])),
            text(git(&source, &["for-each-ref"])).lines().count(),
            if bitmaps { "with " } else { "no " },
            text(git(dir, &["version"])),
            if git_defaults {
                "flushes as it does by default"
            } else {
                "flushes everything (core.fsync=all)"
            },
        );
        let repos = dir.join("repos");
        let theirs = start_git(dir, &repos);
        let ours = start_gitstead(dir, &repos, answers);
        Bench {
            ours,
            theirs,
            about,
            source,
            scratch: dir.to_owned(),
        }
    }

    fn reset(&self, server: &Running, work: &Work) {
        if let Some((target, template)) = &work.reset {
            let target = server.repos.join(target);
            // Put aside and not removed: ext4 makes every new file look for an inode that was not freed in the last seconds, so that what the
            // bench removed would be charged to the servers.
            if target.exists() {
                let aside = self.scratch.join("aside");
                fs::create_dir_all(&aside).expect("a directory");
                let count = fs::read_dir(&aside).expect("a directory").count();
                fs::rename(&target, aside.join(count.to_string())).expect("it can be moved");
            }
            copy_tree(&self.scratch.join(template), &target);
            // Write-back of the copy must not be charged to the server.
            let _ = Command::new("sync").status();
        }
    }

    /// Lets both answer once, and holds the answers against git and each other. Returns how many objects both sent, if they did, and our answer's size by theirs.
    fn verify(&self, work: &Work) -> String {
        let mut sides = Vec::new();
        for server in [&self.ours, &self.theirs] {
            self.reset(server, work);
            let mut client = Client::new(server);
            let requests = if work.reset.is_some() {
                work.clients.concat()
            } else {
                vec![work.clients[0][0].clone()]
            };
            let bodies: Vec<Vec<u8>> = requests
                .iter()
                .map(|request| client.ask(request, true).body.unwrap_or_default())
                .collect();
            let (mut count, mut content) = (0, Vec::new());
            match &work.check {
                Check::Same => content = check::neutral(&bodies[0]),
                Check::Pack { .. } => {
                    let (objects, ids) = check::fetch(&self.scratch, &self.source, &work.check, &bodies[0]);
                    count = objects;
                    content = ids.into_iter().map(String::into_bytes).collect();
                }
                Check::Refs(refs) => check::push(&server.repos.join("target.git"), refs),
            }
            sides.push((count, content, bodies[0].len()));
        }
        let ((ours, our_content, our_bytes), (theirs, their_content, their_bytes)) = (&sides[0], &sides[1]);
        assert_eq!(
            our_content.len(),
            their_content.len(),
            "{}: the servers' answers differ",
            work.name
        );
        assert!(
            our_content == their_content,
            "{}: the servers' answers differ",
            work.name
        );
        let bytes = format!("{:.3}", *our_bytes as f64 / *their_bytes as f64);
        match (ours, theirs) {
            (0, 0) => " | ".into(),
            (a, b) if a == b => format!("{a} | {bytes}"),
            (a, b) => format!("{a}, git {b} | {bytes}"),
        }
    }

    fn measure(&self, server: &Running, work: &Work) -> Sample {
        self.reset(server, work);
        let pid = server.pid();
        let cpu = tree_cpu(pid);
        let sampler = MemorySampler::start(pid);
        let start = Instant::now();
        let firsts: Vec<f64> = thread::scope(|scope| {
            let clients: Vec<_> = work
                .clients
                .iter()
                .map(|requests| {
                    scope.spawn(|| {
                        let mut client = Client::new(server);
                        let first = requests.iter().map(|r| client.ask(r, false).first.as_secs_f64() * 1e3);
                        first.collect::<Vec<f64>>()
                    })
                })
                .collect();
            clients
                .into_iter()
                .flat_map(|client| client.join().expect("the client does not panic"))
                .collect()
        });
        let wall = start.elapsed().as_secs_f64() * 1e3;
        let memory = sampler.stop();
        // http-backend's children are accounted when their parent has waited for them.
        thread::sleep(Duration::from_millis(30));
        Sample {
            wall,
            cpu: tree_cpu(pid) - cpu,
            first: middle(firsts.into_iter()),
            memory,
        }
    }
}
