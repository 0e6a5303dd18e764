//! Compaction against git: what is written is accepted, read and as small as git's own, whatever else goes on at the time.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
    time::Instant,
};

use gitstead::repo::{CompactOptions, CompactOutcome, OpenOptions, Repository};

use crate::support::Git;

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
    for pack in packs(dir) {
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
    let (files, steps, batch) = (1_000, 4_000, 500);
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
    println!("generated history: {ours} bytes, git {theirs}, ratio {ratio:.3}; {outcome:?}");
    assert!(ratio < 1.25, "{ratio}");
}
