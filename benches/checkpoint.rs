//! What a checkpoint of one changed file costs, beside `git add -A && git commit` on the same tree in one run, the two taking turns.
//!
//! `cargo bench --bench checkpoint -- [--files 1000,10000,100000] [--rounds N]`
//!
//! git runs in its best configuration: untracked cache and index version 4 without a checksum, which our repositories say, too; with the built-in file system monitor where this git has one for the platform. Ours is
//! measured with a watch (a workspace that stays open) and cold (opened anew each time, as the command line does).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a measurement that cannot go on says so by panicking, and it starts git"
)]

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use gitstead::{
    checkpoint::{Checkpoint, Looked},
    workspace::{Durability, Workspace, WorkspaceOptions},
};

fn main() {
    let mut sizes = vec![1_000, 10_000, 100_000];
    let mut rounds = 21;
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--files" => {
                let list = args.next().expect("--files needs a list");
                sizes = list.split(',').map(|n| n.parse().expect("a number")).collect();
            }
            "--rounds" => {
                rounds = args
                    .next()
                    .and_then(|n| n.parse().ok())
                    .expect("--rounds needs a number")
            }
            // A process of its own that holds one workspace: see `held`.
            "--hold" => return hold(Path::new(&args.next().expect("--hold needs a directory"))),
            // cargo's own.
            "--bench" => {}
            other => panic!("unknown argument {other}"),
        }
    }
    println!(
        "{:>8}  {:>10} {:>10}  {:>10} {:>10} {:>10}  {:>9} {:>9} {:>9}  {:>9} {:>9}",
        "files",
        "git",
        "git+mon",
        "watched",
        "w. each",
        "cold",
        "git/w.",
        "best/w.",
        "git/cold",
        "B/f first",
        "B/f held"
    );
    for files in sizes {
        measure(files, rounds);
    }
}

/// A tree of `files` files, 50 to a directory.
fn plant(dir: &Path, files: usize) {
    for n in 0..files {
        let sub = dir.join(format!("d{:03}/e{:02}", n / 1_000, n / 50 % 20));
        if n % 50 == 0 {
            fs::create_dir_all(&sub).unwrap();
        }
        fs::write(sub.join(format!("file-{n}.txt")), format!("this is file {n}\n")).unwrap();
    }
}

fn git(dir: &Path, args: &[&str]) -> bool {
    let mut command = Command::new("git");
    command
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_AUTHOR_NAME", "A")
        .env("GIT_AUTHOR_EMAIL", "a@example.com")
        .env("GIT_COMMITTER_NAME", "A")
        .env("GIT_COMMITTER_EMAIL", "a@example.com")
        .args(["-c", "gc.auto=0", "-c", "maintenance.auto=false"])
        .current_dir(dir)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.status().unwrap().success()
}

fn repository(dir: &Path, files: usize) {
    fs::create_dir_all(dir).unwrap();
    assert!(git(dir, &["init", "-q", "-b", "main"]));
    plant(dir, files);
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// Bytes of memory of our own: a mapped file is not.
fn resident() -> usize {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    let pages: Vec<usize> = statm.split_whitespace().filter_map(|n| n.parse().ok()).collect();
    (pages[1] - pages[2]) * 4096
}

/// Opens and watches a workspace, records one change, and says by how many bytes the process has grown.
fn hold(dir: &Path) {
    let before = resident();
    let workspace = Arc::new(Workspace::open(dir).unwrap());
    workspace.watch().unwrap();
    for round in 0..2 {
        fs::write(dir.join("d000/e00/file-0.txt"), format!("held {round}\n")).unwrap();
        let outcome = workspace.checkpoint(Checkpoint::after("Write", "held")).unwrap();
        assert_eq!(outcome.changed, 1);
    }
    println!("{}", resident().saturating_sub(before));
}

/// What a workspace holds that was opened by a process that did nothing else, in bytes a file.
fn held(dir: &Path, files: usize) -> usize {
    let output = Command::new(std::env::current_exe().unwrap())
        .arg("--hold")
        .arg(dir)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let bytes: usize = String::from_utf8(output.stdout).unwrap().trim().parse().unwrap();
    bytes / files
}

fn measure(files: usize, rounds: usize) {
    let scratch = tempfile::tempdir().unwrap();
    let path = |name: &str| scratch.path().join(name);
    for name in ["git", "monitored", "watched", "each", "cold"] {
        repository(&path(name), files);
    }
    for name in ["git", "monitored", "watched", "each", "cold"] {
        let dir = path(name);
        for (key, value) in [("core.untrackedCache", "true"), ("feature.manyFiles", "true")] {
            assert!(git(&dir, &["config", key, value]));
        }
    }
    // Not every git has a monitor for every platform.
    let monitored = git(&path("monitored"), &["config", "core.fsmonitor", "true"])
        && git(&path("monitored"), &["fsmonitor--daemon", "start"]);
    for name in ["git", "monitored"] {
        assert!(git(&path(name), &["add", "-A"]) && git(&path(name), &["commit", "-qm", "first"]));
    }
    let before = resident();
    let open = |name: &str, durability| {
        let options = WorkspaceOptions {
            durability,
            ..WorkspaceOptions::default()
        };
        let workspace = Arc::new(Workspace::open_with(path(name), &options).unwrap());
        workspace.watch().unwrap();
        workspace.checkpoint(Checkpoint::initial("measure")).unwrap();
        workspace
    };
    let watched = open("watched", Durability::Batched);
    let per_file = resident().saturating_sub(before) / files;
    let each = open("each", Durability::Each);
    Workspace::open(path("cold"))
        .unwrap()
        .checkpoint(Checkpoint::initial("measure"))
        .unwrap();
    let mut times: [Vec<Duration>; 5] = Default::default();
    for round in 0..rounds {
        let file = round * 7_919 % files;
        let name = format!("d{:03}/e{:02}/file-{file}.txt", file / 1_000, file / 50 % 20);
        let content = format!("changed in round {round}\n");
        let change = |which: &str| fs::write(path(which).join(&name), &content).unwrap();
        for (slot, which) in [(0, "git"), (1, "monitored")] {
            if which == "monitored" && !monitored {
                continue;
            }
            change(which);
            let began = Instant::now();
            assert!(git(&path(which), &["add", "-A"]) && git(&path(which), &["commit", "-qm", "changed"]));
            times[slot].push(began.elapsed());
        }
        for (slot, which, workspace) in [(2, "watched", &watched), (3, "each", &each)] {
            change(which);
            let began = Instant::now();
            let outcome = workspace.checkpoint(Checkpoint::after("Write", "changed")).unwrap();
            times[slot].push(began.elapsed());
            assert_eq!((outcome.changed, outcome.looked), (1, Looked::Watch));
        }
        change("cold");
        let began = Instant::now();
        let workspace = Workspace::open(path("cold")).unwrap();
        let outcome = workspace.checkpoint(Checkpoint::after("Write", "changed")).unwrap();
        times[4].push(began.elapsed());
        assert_eq!(outcome.changed, 1);
    }
    if monitored {
        git(&path("monitored"), &["fsmonitor--daemon", "stop"]);
    }
    let ms = |time: Option<Duration>| time.map_or("-".to_owned(), |time| format!("{:.2} ms", time.as_secs_f64() * 1e3));
    let held = held(&path("cold"), files);
    let [plain, with_monitor, watched, each, cold] = times.map(|times| (!times.is_empty()).then(|| median(times)));
    let best = match (plain, with_monitor) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    };
    let ratio = |a: Option<Duration>, b: Option<Duration>| match (a, b) {
        (Some(a), Some(b)) => format!("{:.1}x", a.as_secs_f64() / b.as_secs_f64()),
        _ => "-".to_owned(),
    };
    println!(
        "{files:>8}  {:>10} {:>10}  {:>10} {:>10} {:>10}  {:>9} {:>9} {:>9}  {per_file:>9} {held:>9}",
        ms(plain),
        ms(with_monitor),
        ms(watched),
        ms(each),
        ms(cold),
        ratio(plain, watched),
        ratio(best, watched),
        ratio(plain, cold),
    );
}
