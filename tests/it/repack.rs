//! Compaction against git: what is written is accepted, read and as small as git's own, whatever else goes on at the time.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

use gitstead::{
    checkpoint::Checkpoint,
    repo::{CompactOptions, CompactOutcome, OpenOptions, Repository},
    workspace::Workspace,
};

use crate::support::{Git, Server, ServerOptions};

fn open(dir: &Path) -> Repository {
    let dot = dir.join(".git");
    let dir = if dot.exists() { dot } else { dir.to_owned() };
    Repository::open(&dir, &OpenOptions::default()).expect("a repository")
}

fn compact_with(dir: &Path, options: &CompactOptions) -> CompactOutcome {
    open(dir)
        .compact(options, &AtomicBool::new(false), &mut |_| ())
        .expect("compacted")
}

fn compact(dir: &Path) -> CompactOutcome {
    compact_with(dir, &CompactOptions::default())
}

fn all() -> CompactOptions {
    let mut options = CompactOptions::default();
    options.all = true;
    options
}

fn objects_dir(dir: &Path) -> PathBuf {
    let dot = dir.join(".git/objects");
    if dot.exists() { dot } else { dir.join("objects") }
}

/// Every object that git sees: kind and size.
fn objects(git: &Git, dir: &Path) -> BTreeMap<String, String> {
    git.ok(dir, "cat-file --batch-check --batch-all-objects --unordered")
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(id, rest)| (id.to_owned(), rest.to_owned()))
        .collect()
}

fn count(git: &Git, dir: &Path) -> BTreeMap<String, u64> {
    git.ok(dir, "count-objects -v")
        .lines()
        .filter_map(|line| line.split_once(": "))
        .filter_map(|(key, value)| Some((key.to_owned(), value.parse().ok()?)))
        .collect()
}

fn packs(dir: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(objects_dir(dir).join("pack"))
        .expect("a pack directory")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|e| e == "pack"))
        .collect();
    found.sort();
    found
}

/// git has nothing to say about a repository, and each pack is one.
fn accepted(git: &Git, dir: &Path) {
    git.fsck(dir);
    // One whose deletion was interrupted has no index any more; nobody looks at it.
    for pack in packs(dir)
        .into_iter()
        .filter(|pack| pack.with_extension("idx").exists())
    {
        git.ok_args(dir, ["verify-pack".as_ref(), pack.with_extension("idx").as_os_str()]);
        let mode = fs::metadata(&pack).expect("there").permissions().mode();
        assert_eq!(mode & 0o222, 0, "{} may be written", pack.display());
    }
    let out = git.run(dir, ["cat-file", "--batch", "--batch-all-objects"]);
    assert!(out.ok && !out.stdout.is_empty(), "{}", out.stderr);
}

/// A stream for `git fast-import`: the checkpoints `from..to` of an agent that changes one file at a time, in directories of a thousand files.
fn trail(from: usize, to: usize, files: usize) -> String {
    let mut stream = String::new();
    let body = |file: usize, version: usize| {
        let lines: String = (0..60)
            .map(|line| match line == version % 60 {
                true => format!("line {line} of file {file} was changed by step {version}\n"),
                false => format!(
                    "line {line} of file {file} says {}\n",
                    (line * 7919 + file * 104_729) % 65_537
                ),
            })
            .collect();
        lines
    };
    let file_name = |file: usize| format!("src/d{}/file_{file:05}.txt", file / 1_000);
    for n in from..to {
        stream.push_str("commit refs/heads/main\n");
        let time = 1_600_000_000 + n * 60;
        stream.push_str(&format!("committer C O Mitter <committer@example.com> {time} +0000\n"));
        let message = format!(
            "[Write] Changed file {}\n\nSession: 0123456789\nTurn: {n}\n",
            n * 37 % files
        );
        stream.push_str(&format!("data {}\n{message}\n", message.len()));
        if n == from && n > 0 {
            stream.push_str("from refs/heads/main^0\n");
        }
        let changed = if n == 0 {
            0..files
        } else {
            n * 37 % files..n * 37 % files + 1
        };
        for file in changed {
            let body = body(file, n);
            stream.push_str(&format!(
                "M 100644 inline {}\ndata {}\n{body}\n",
                file_name(file),
                body.len()
            ));
        }
    }
    stream.push_str("done\n");
    stream
}

/// Imports a stream, as loose objects if there are few.
fn import(git: &Git, dir: &Path, stream: &str, loose: bool) {
    let limit = format!("fastimport.unpackLimit={}", if loose { 10_000_000 } else { 1 });
    let out = git.run_with(
        dir,
        ["-c", &limit, "fast-import", "--quiet", "--done"],
        stream.as_bytes(),
    );
    assert!(out.ok, "{}", out.stderr);
}

fn pack_bytes(dir: &Path) -> u64 {
    packs(dir)
        .iter()
        .map(|pack| fs::metadata(pack).expect("there").len())
        .sum()
}

/// What git itself makes of a copy of the repository.
fn repacked_by_git(git: &Git, dir: &Path) -> u64 {
    let copy = git.path("repacked-by-git");
    let _ = fs::remove_dir_all(&copy);
    git.ok_args(
        git.dir(),
        [
            "clone".as_ref(),
            "-q".as_ref(),
            "--mirror".as_ref(),
            dir.as_os_str(),
            copy.as_os_str(),
        ],
    );
    git.ok(&copy, "-c pack.threads=2 repack -q -adf --window=10 --depth=50");
    pack_bytes(&copy)
}

#[test]
fn loose_objects_become_one_pack_that_git_accepts() {
    for format in ["sha1", "sha256"] {
        let git = Git::new();
        git.ok(git.dir(), &format!("init -q --bare --object-format={format} r"));
        let dir = git.path("r");
        git.generate(&dir, 300, 20);
        git.ok(&dir, "tag -a -m annotated v1 main");
        git.ok(&dir, "repack -adq");
        git.ok_args(&dir, ["hash-object", "-w", "config"]);
        let pack = packs(&dir).remove(0);
        let bytes = fs::read(&pack).expect("readable");
        for file in fs::read_dir(dir.join("objects/pack")).expect("listed") {
            fs::remove_file(file.expect("an entry").path()).expect("removed");
        }
        assert!(git.run_with(&dir, ["unpack-objects", "-q"], &bytes).ok);
        let before = objects(&git, &dir);
        let outcome = compact(&dir);
        assert_eq!(outcome.objects as usize, before.len());
        assert_eq!(outcome.loose_deleted as usize, before.len());
        assert!(outcome.deltas > 0 && outcome.reused == 0, "{outcome:?}");
        assert_eq!(objects(&git, &dir), before);
        let left = count(&git, &dir);
        assert_eq!((left["count"], left["packs"], left["garbage"]), (0, 1, 0));
        accepted(&git, &dir);
        git.ok_args(git.dir(), ["clone", "-q", "r", &format!("clone-{format}")]);
        // And there is nothing more to do.
        assert_eq!(compact(&dir), CompactOutcome::default());
    }
}

#[test]
fn a_trail_of_checkpoints_stays_small_and_costs_what_is_new() {
    let git = Git::new();
    let dir = git.init_bare("r");
    let (files, steps, batch) = (1_000, 2_000, 250);
    let mut times = Vec::new();
    for from in (0..steps).step_by(batch) {
        import(&git, &dir, &trail(from, from + batch, files), true);
        let start = Instant::now();
        let outcome = compact(&dir);
        times.push((outcome.objects, start.elapsed()));
        assert!(outcome.pack.is_some());
    }
    let last = compact_with(&dir, &all());
    accepted(&git, &dir);
    let (ours, theirs) = (pack_bytes(&dir), repacked_by_git(&git, &dir));
    let ratio = ours as f64 / theirs as f64;
    println!("{steps} checkpoints: {ours} bytes, git {theirs}, ratio {ratio:.3}; {times:?}; {last:?}");
    assert!(ratio < 1.3, "{ratio}: {ours} bytes are too many beside git's {theirs}");
    assert!(ours < 4 << 20, "{ours}");
}

#[test]
fn a_full_search_is_about_as_good_as_that_of_git() {
    let git = Git::new();
    let dir = git.init_bare("r");
    git.generate(&dir, 1_500, 150);
    let mut options = all();
    options.search_again = true;
    let outcome = compact_with(&dir, &options);
    accepted(&git, &dir);
    let (ours, theirs) = (pack_bytes(&dir), repacked_by_git(&git, &dir));
    let ratio = ours as f64 / theirs as f64;
    assert_eq!(outcome.reused, 0);
    println!("generated history: {ours} bytes, git {theirs}, ratio {ratio:.3}; {outcome:?}");
    assert!(ratio < 1.25, "{ratio}");
}

#[test]
fn indices_over_several_packs_and_bitmaps_do_not_name_what_is_gone() {
    let git = Git::new();
    let dir = git.init_bare("r");
    for batch in 0..3 {
        import(&git, &dir, &trail(batch * 10, batch * 10 + 10, 30), false);
    }
    git.ok(&dir, "multi-pack-index write --bitmap");
    assert!(dir.join("objects/pack/multi-pack-index").exists());
    let before = objects(&git, &dir);
    let outcome = compact(&dir);
    assert!(outcome.packs_deleted > 0, "{outcome:?}");
    assert_eq!(objects(&git, &dir), before);
    accepted(&git, &dir);
    let names = |part: &str| {
        fs::read_dir(dir.join("objects/pack"))
            .expect("listed")
            .filter(|entry| {
                entry
                    .as_ref()
                    .expect("an entry")
                    .file_name()
                    .to_string_lossy()
                    .contains(part)
            })
            .count()
    };
    assert_eq!(names("multi-pack-index"), 0);
    // One whose packs all stay, stays.
    git.ok(&dir, "multi-pack-index write --bitmap");
    git.ok(&dir, "commit-graph write --reachable");
    import(&git, &dir, &trail(30, 31, 30), true);
    assert_eq!(compact(&dir).packs_deleted, 0);
    assert!(names("multi-pack-index") > 0);
    accepted(&git, &dir);
    git.ok(&dir, "multi-pack-index verify");
    git.ok(&dir, "rev-list --all --objects --use-bitmap-index --count");
}

#[test]
fn unreachable_objects_are_kept_and_git_gc_goes_on_with_what_we_made() {
    let git = Git::new();
    let dir = git.init_bare("r");
    import(&git, &dir, &trail(0, 30, 20), true);
    git.ok(&dir, "update-ref refs/heads/side refs/heads/main");
    git.ok(&dir, "update-ref refs/heads/main refs/heads/main~10");
    git.ok(&dir, "update-ref -d refs/heads/side");
    let before = objects(&git, &dir);
    compact(&dir);
    assert_eq!(objects(&git, &dir), before);
    import(&git, &dir, &trail(30, 35, 20), true);
    git.ok(&dir, "gc -q --prune=now");
    accepted(&git, &dir);
    compact(&dir);
    accepted(&git, &dir);
    assert!(objects(&git, &dir).len() < before.len(), "what git prunes stays pruned");
}

/// The command line on a repository in a directory of repositories.
fn maintain(git: &Git, args: &[&str]) -> std::process::Command {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_gitstead"));
    command.env_clear().env("PATH", "").env("HOME", git.dir());
    command
        .arg("maintain")
        .arg("--repos")
        .arg(git.dir())
        .arg("--data")
        .arg(git.path("data"));
    command.args(args);
    command
}

#[test]
fn killed_at_any_moment_it_loses_nothing_and_leaves_nothing_for_long() {
    let git = Git::new();
    let dir = git.init_bare("r");
    let moments = [
        "maintenance.lock",
        "tmp_objdir-",
        "tmp_pack_incoming",
        ".keep",
        "pack/pack-",
        "",
        "",
    ];
    for (round, moment) in moments.iter().enumerate() {
        import(&git, &dir, &trail(round * 60, round * 60 + 60, 400), true);
        import(&git, &dir, &trail(round * 60 + 60, round * 60 + 61, 400), false);
        let before = objects(&git, &dir);
        let mut names = names_beneath(&dir);
        names.retain(|name| !name.contains("lock"));
        let mut child = maintain(&git, &["r"])
            .stdout(std::process::Stdio::null())
            .spawn()
            .expect("it starts");
        let start = Instant::now();
        let mut ended = false;
        while !ended {
            let now = match *moment {
                // Somewhere in the middle of deleting.
                "" => names.iter().filter(|name| !dir.join(name).exists()).count() > 20 * (round - 4),
                part => names_beneath(&dir)
                    .iter()
                    .any(|name| name.contains(part) && !names.contains(name)),
            };
            if now {
                child.kill().expect("killed");
                break;
            }
            ended = child.try_wait().expect("asked").is_some();
            assert!(start.elapsed().as_secs() < 60, "{moment} does not come");
        }
        child.wait().expect("ended");
        assert_eq!(objects(&git, &dir), before, "killed at {moment:?}");
        git.fsck(&dir);
        let out = maintain(&git, &["r"]).output().expect("it runs");
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        assert_eq!(objects(&git, &dir), before, "after {moment:?}");
        let left: Vec<String> = names_beneath(&dir)
            .into_iter()
            .filter(|name| name.contains("tmp_") || name.ends_with(".keep"))
            .collect();
        assert!(left.is_empty(), "{left:?} after {moment:?}");
        assert_eq!(count(&git, &dir)["count"], 0, "after {moment:?}");
        accepted(&git, &dir);
    }
}

fn names_beneath(dir: &Path) -> Vec<String> {
    crate::support::wire::files_beneath(dir)
        .into_iter()
        .map(|(name, _)| name)
        .collect()
}

/// Whatever happens, the others shall end.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn clones_and_pushes_do_not_notice() {
    let git = Git::new();
    let server = Server::start();
    let work = git.init("work");
    for n in 0..150 {
        git.commit(
            &work,
            &format!("d{}/f{n}", n % 5),
            format!("content {n}\n").repeat(50),
            &format!("step {n}"),
        );
    }
    let url = server.repo_url("r");
    git.ok_args(&work, ["push", "-q", &url, "main"]);
    let bare = server.repos().join("r");
    let bare = if bare.exists() {
        bare
    } else {
        server.repos().join("r.git")
    };
    let done = AtomicBool::new(false);
    let finished = std::thread::scope(|scope| {
        let cloning: Vec<_> = (0..2)
            .map(|thread| {
                let (done, url) = (&done, &url);
                scope.spawn(move || {
                    let git = Git::new();
                    let mut clones = 0;
                    while !done.load(Ordering::Relaxed) || clones == 0 {
                        let name = format!("clone-{thread}-{clones}");
                        git.ok_args(git.dir(), ["clone", "-q", "--bare", url, &name]);
                        git.fsck(git.path(&name));
                        clones += 1;
                    }
                    clones
                })
            })
            .collect();
        let compacting = scope.spawn(|| {
            let repo = open(&bare);
            let mut compactions = 0;
            while !done.load(Ordering::Relaxed) || compactions == 0 {
                let options = CompactOptions::default();
                let outcome = repo.compact(&options, &AtomicBool::new(false), &mut |_| ());
                compactions += usize::from(outcome.expect("compacted").pack.is_some());
            }
            compactions
        });
        let repacking = scope.spawn(|| {
            let git = Git::new();
            let mut repacks = 0;
            while !done.load(Ordering::Relaxed) || repacks == 0 {
                git.ok(&bare, "repack -q -d");
                git.ok(&bare, "rev-list --objects --all");
                repacks += 1;
            }
            repacks
        });
        let ends = SetOnDrop(&done);
        for n in 0..25 {
            git.commit(
                &work,
                &format!("d{}/f{n}", n % 5),
                format!("changed {n}\n").repeat(50),
                &format!("more {n}"),
            );
            git.ok_args(&work, ["push", "-q", &url, "main"]);
        }
        drop(ends);
        let clones: usize = cloning.into_iter().map(|thread| thread.join().expect("clones")).sum();
        (
            clones,
            compacting.join().expect("compacts"),
            repacking.join().expect("repacks"),
        )
    });
    println!("{finished:?} clones, compactions and repacks");
    assert!(finished.1 > 0);
    accepted(&git, &bare);
    assert_eq!(git.ok(&bare, "rev-parse main"), git.ok(&work, "rev-parse main"));
    server.terminate();
}

#[test]
fn many_small_pushes_are_packed_in_the_background_unless_that_is_switched_off() {
    for on in [true, false] {
        let git = Git::new();
        let server = Server::with(ServerOptions {
            args: if on {
                Vec::new()
            } else {
                vec!["--maintenance=false".to_owned()]
            },
            repos: Some(git.path("repos")),
            ..ServerOptions::default()
        });
        let work = git.init_bare("work");
        let url = server.repo_url("r");
        // Each is below receive.unpackLimit, and so becomes loose objects, or above, and so a pack.
        import(&git, &work, &trail(0, 1, 150), false);
        git.ok_args(&work, ["push", "-q", &url, "main"]);
        let bare = ["r", "r.git"].map(|name| server.repos().join(name));
        let bare = bare.iter().find(|path| path.exists()).expect("made by the push");
        for push in 0..18 {
            import(&git, &work, &trail(1 + push * 30, 31 + push * 30, 150), false);
            git.ok_args(&work, ["push", "-q", &url, "main"]);
        }
        let start = Instant::now();
        let many = packs(bare).len();
        while on && packs(bare).len() >= 16 {
            assert!(start.elapsed().as_secs() < 60, "{many} packs stay");
            std::thread::yield_now();
        }
        if !on {
            assert_eq!(packs(bare).len(), 19);
        }
        // A git that lists objects and reads them later is not made for packs that go meanwhile.
        server.terminate();
        accepted(&git, bare);
        assert_eq!(git.ok(bare, "rev-parse main"), git.ok(&work, "rev-parse main"));
    }
}

#[test]
fn the_command_line_maintains_one_or_all_and_says_what_it_did() {
    let git = Git::new();
    let run = |args: &[&str]| {
        let out = maintain(&git, args).output().expect("it runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (out.status.code(), text(&out.stdout), text(&out.stderr))
    };
    for name in ["a.git", "team/b.git"] {
        git.init_bare(name);
        import(&git, &git.path(name), &trail(0, 20, 30), true);
    }
    let (code, said, complained) = run(&["a", "--auto"]);
    assert_eq!(
        (code, said.as_str(), complained.as_str()),
        (Some(0), "a: nothing to do\n", "")
    );
    let (code, said, _) = run(&["a"]);
    assert!(
        code == Some(0) && said.starts_with("a: ") && said.contains("loose objects deleted"),
        "{said}"
    );
    let (code, said, _) = run(&["--all", "--full"]);
    assert!(
        code == Some(0) && said.lines().count() == 2 && said.contains("team/b: "),
        "{said}"
    );
    for name in ["a.git", "team/b.git"] {
        accepted(&git, &git.path(name));
        assert_eq!(packs(&git.path(name)).len(), 1);
    }
    assert_eq!(run(&["absent"]).0, Some(1));
    assert_eq!(run(&[]).0, Some(2), "which one?");
    assert_eq!(run(&["a", "--all"]).0, Some(2));
    // One that cannot be opened is no reason to leave the others alone.
    fs::write(git.path("a.git/config"), "[core\n").expect("written");
    import(&git, &git.path("team/b.git"), &trail(20, 30, 30), true);
    let (code, said, complained) = run(&["--all"]);
    assert_eq!(code, Some(1), "{said}{complained}");
    assert!(
        said.contains("team/b: ") && complained.contains("a: "),
        "{said}{complained}"
    );
}

#[test]
fn checkpoints_go_on_beside_it() {
    let git = Git::new();
    let dir = git.init("work");
    for n in 0..40 {
        let path = dir.join(format!("d{}/f{n}", n % 4));
        fs::create_dir_all(path.parent().expect("a directory")).expect("made");
        fs::write(path, format!("content {n}\n").repeat(50)).expect("written");
    }
    let workspace = Workspace::open(&dir).expect("a workspace");
    let done = AtomicBool::new(false);
    let compactions = std::thread::scope(|scope| {
        let compacting = scope.spawn(|| {
            let repo = workspace.repository();
            let mut compactions = 0;
            while !done.load(Ordering::Relaxed) || compactions == 0 {
                let options = CompactOptions::default();
                let outcome = repo.compact(&options, &AtomicBool::new(false), &mut |_| ());
                compactions += usize::from(outcome.expect("compacted").pack.is_some());
            }
            compactions
        });
        let ends = SetOnDrop(&done);
        for n in 0..60 {
            let content = format!("changed by step {n}\n").repeat(50);
            fs::write(dir.join(format!("d{}/f{}", n % 4, n % 40)), content).expect("written");
            let checkpoint = Checkpoint::after("Write", format!("step {n}"));
            workspace.checkpoint(checkpoint).expect("a checkpoint");
        }
        drop(ends);
        compacting.join().expect("compacts")
    });
    assert!(compactions > 1, "{compactions}");
    accepted(&git, &dir);
    assert_eq!(git.ok(&dir, "rev-list --count HEAD"), "60");
    assert_eq!(git.ok(&dir, "status --porcelain"), "");
}
