//! Packs that git makes, taken as a push would bring them, and git's opinion of what we made of them.

use std::{
    fs,
    io::Read,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
    time::{Duration, Instant, SystemTime},
};

use gitstead::{
    base::Limits,
    repo::{
        Connectivity, ConnectivityError, IngestError, IngestOptions, IngestOutcome, OpenOptions, Quarantine,
        Repository, fsck::FsckPolicy, ingest, sweep_stale,
    },
};
use gix::hash::ObjectId;

use crate::support::Git;

fn open(path: &Path) -> Repository {
    Repository::open(path, &OpenOptions::default()).expect("a repository")
}

fn id(hex: &str) -> ObjectId {
    ObjectId::from_hex(hex.trim().as_bytes()).expect("an id")
}

fn take(repo: &Repository, quarantine: &mut Quarantine, pack: &mut dyn Read) -> Result<IngestOutcome, IngestError> {
    take_with(repo, quarantine, pack, &FsckPolicy::strict())
}

fn take_with(
    repo: &Repository,
    quarantine: &mut Quarantine,
    pack: &mut dyn Read,
    policy: &FsckPolicy,
) -> Result<IngestOutcome, IngestError> {
    ingest(
        repo,
        quarantine,
        pack,
        IngestOptions {
            fsck: Some(policy),
            max_bytes: 0,
            limits: &Limits::default(),
            threads: 2,
            client_shallow: &[],
            progress: &mut |_| {},
            stop: &AtomicBool::new(false),
        },
    )
}

/// Takes a pack for good and sets a ref with git.
fn push(git: &Git, dir: &Path, pack: &[u8], tip: &str, name: &str) -> IngestOutcome {
    let repo = open(dir);
    let mut quarantine = Quarantine::create(&repo);
    let outcome = take(&repo, &mut quarantine, &mut &pack[..]).expect("a good pack");
    let odb = repo.odb_behind(&quarantine).expect("an odb");
    let existing: Vec<ObjectId> = git
        .ok(dir, "for-each-ref --format=%(objectname)")
        .lines()
        .map(id)
        .collect();
    let connectivity = Connectivity {
        odb: &odb,
        received: Some(&outcome),
        existing_tips: &existing,
        shallow: &repo.shallow().expect("readable"),
        stop: &AtomicBool::new(false),
        tick: &|| (),
    };
    connectivity.check(&[id(tip)]).expect("connected");
    let without_hints = Connectivity {
        received: None,
        ..connectivity
    };
    without_hints.check(&[id(tip)]).expect("connected");
    let published = quarantine.migrate().expect("migrated");
    git.ok(dir, &format!("update-ref {name} {tip}"));
    drop(published);
    outcome
}

fn pack_objects(git: &Git, dir: &Path, options: &str, revisions: &str) -> Vec<u8> {
    let args = format!("pack-objects --revs --stdout -q {options}");
    let out = git.run_with(dir, args.split_whitespace(), revisions.as_bytes());
    assert!(out.ok, "{}", out.stderr);
    out.stdout
}

fn leftovers(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir.join("objects")).expect("readable");
    entries
        .map(|entry| entry.expect("readable").path())
        .filter(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("tmp_"))
        })
        .collect()
}

fn files(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir.join("objects/pack")) else {
        return Vec::new();
    };
    entries
        .map(|entry| entry.expect("readable").path())
        .filter(|path| path.extension().is_some_and(|e| e == extension))
        .collect()
}

#[test]
fn a_whole_history_arrives_as_one_pack_that_git_likes() {
    let git = Git::new();
    for format in ["sha1", "sha256"] {
        let source = git.path(&format!("source-{format}"));
        git.ok(
            git.dir(),
            &format!("init -q -b main --object-format={format} {}", source.display()),
        );
        git.generate(&source, 300, 40);
        git.ok(&source, "tag -a -m x v1 main~3");
        let target = git.path(&format!("target-{format}.git"));
        git.ok(
            git.dir(),
            &format!("init -q --bare -b main --object-format={format} {}", target.display()),
        );
        let tip = git.ok(&source, "rev-parse main");
        for options in [
            "--delta-base-offset",
            "",
            "--delta-base-offset --no-reuse-delta --depth=1",
        ] {
            let pack = pack_objects(&git, &source, options, "main\nv1\n");
            let outcome = push(&git, &target, &pack, &tip, "refs/heads/main");
            assert_eq!(outcome.bytes, pack.len() as u64);
            assert!(outcome.is_whole(&id(&tip)));
            assert_eq!(outcome.thin_bases, 0);
        }
        git.fsck(&target);
        assert_eq!(leftovers(&target), Vec::<PathBuf>::new());
        assert_eq!(files(&target, "keep"), Vec::<PathBuf>::new());
        for pack in files(&target, "idx") {
            git.ok(&target, &format!("verify-pack {}", pack.display()));
            // git's own indices of the same pack are the same bytes.
            let (idx, rev) = (git.path("own.idx"), git.path("own.rev"));
            git.ok(
                &target,
                &format!(
                    "index-pack --rev-index -o {} {}",
                    idx.display(),
                    pack.with_extension("pack").display()
                ),
            );
            assert!(fs::read(&idx).expect("there") == fs::read(&pack).expect("there"));
            assert!(fs::read(&rev).expect("there") == fs::read(pack.with_extension("rev")).expect("there"));
            let mode = fs::metadata(&pack).expect("there").permissions().mode();
            assert_eq!(mode & 0o222, 0, "{mode:o}");
            for file in [idx, rev] {
                fs::remove_file(file).expect("removed");
            }
        }
    }
}

#[test]
fn thin_pushes_follow_each_other_loose_and_packed() {
    let git = Git::new();
    let source = git.init("source");
    git.generate(&source, 400, 30);
    for limit in ["1", "100", "5000"] {
        let target = git.init_bare(&format!("target-{limit}.git"));
        git.ok(&target, &format!("config receive.unpackLimit {limit}"));
        let mut last = String::new();
        let mut bases = 0;
        for (nth, back) in [300, 200, 199, 198, 150, 10, 0].into_iter().enumerate() {
            let tip = git.ok(&source, &format!("rev-parse main~{back}"));
            let not = if last.is_empty() {
                String::new()
            } else {
                format!("^{last}\n")
            };
            let options = if nth % 2 == 0 {
                "--thin --delta-base-offset"
            } else {
                "--thin"
            };
            let pack = pack_objects(&git, &source, options, &format!("{tip}\n{not}"));
            bases += push(&git, &target, &pack, &tip, "refs/heads/main").thin_bases;
            last = tip;
        }
        git.fsck(&target);
        let wanted = git.ok(&source, "rev-list --objects --no-object-names main");
        let mut wanted: Vec<_> = wanted.lines().collect();
        wanted.sort_unstable();
        let found = git.ok(&target, "rev-list --objects --no-object-names main");
        let mut found: Vec<_> = found.lines().collect();
        found.sort_unstable();
        assert_eq!(wanted, found);
        assert_eq!(bases == 0, limit == "5000", "{limit}: {bases}");
        let packs = files(&target, "pack").len();
        assert_eq!(
            packs,
            match limit {
                "1" => 7,
                "100" => 5,
                _ => 0,
            },
            "{limit}"
        );
    }
}

#[test]
fn alternates_lend_bases_and_history() {
    let git = Git::new();
    let source = git.init("source");
    git.generate(&source, 100, 10);
    let shared = git.path("shared.git");
    git.ok(
        git.dir(),
        &format!("clone -q --bare {} {}", source.display(), shared.display()),
    );
    git.ok(&shared, "repack -q -a -d");
    let target = git.path("target.git");
    git.ok(
        git.dir(),
        &format!("clone -q --bare --shared {} {}", shared.display(), target.display()),
    );
    git.ok(&target, "config receive.unpackLimit 1");
    git.ok(&target, "update-ref refs/heads/main main~20");
    let tip = git.commit(&source, "d0/e0/file0.txt", "one\ntwo\n", "new");
    let pack = pack_objects(&git, &source, "--thin", &format!("{tip}\n^main~1\n"));
    push(&git, &target, &pack, &tip, "refs/heads/main");
    git.fsck(&target);
}

#[test]
fn history_that_is_not_all_there_is_not_connected() {
    let git = Git::new();
    let source = git.init("source");
    git.generate(&source, 50, 10);
    let target = git.init_bare("target.git");
    let tip = git.ok(&source, "rev-parse main");
    let repo = open(&target);
    let mut quarantine = Quarantine::create(&repo);
    // Ten commits without what came before.
    let pack = pack_objects(&git, &source, "", "main\n^main~10\n");
    let outcome = take(&repo, &mut quarantine, &mut &pack[..]).expect("a good pack");
    let odb = repo.odb_behind(&quarantine).expect("an odb");
    let stop = AtomicBool::new(false);
    let mut connectivity = Connectivity {
        odb: &odb,
        received: Some(&outcome),
        existing_tips: &[],
        shallow: &[],
        stop: &stop,
        tick: &|| (),
    };
    let check = |c: &Connectivity<'_>| matches!(c.check(&[id(&tip)]), Err(ConnectivityError::Missing { .. }));
    assert!(check(&connectivity));
    connectivity.received = None;
    assert!(check(&connectivity));
    assert_eq!(connectivity.check_each(&[id(&tip)]).expect("checked"), [false]);
    drop(quarantine);
    assert_eq!(leftovers(&target), Vec::<PathBuf>::new());
    assert_eq!(git.ok(&target, "count-objects"), "0 objects, 0 kilobytes");
}

#[test]
fn objects_that_git_would_refuse_are_refused_in_its_words() {
    let git = Git::new();
    let source = git.init("source");
    let blob = git.run_with(&source, ["hash-object", "-w", "--stdin"], b"x").text();
    let tree = git
        .run_with(&source, ["mktree"], format!("100644 blob {blob}\t.GIT\n").as_bytes())
        .text();
    let commit = git.ok(&source, &format!("commit-tree -m x {tree}"));
    let target = git.init_bare("target.git");
    let repo = open(&target);
    let pack = pack_objects(&git, &source, "", &format!("{commit}\n"));
    let mut quarantine = Quarantine::create(&repo);
    let error = take(&repo, &mut quarantine, &mut &pack[..]).expect_err("a bad tree");
    assert_eq!(error.to_string(), format!("object {tree}: hasDotgit: contains '.git'"));
    let mut policy = FsckPolicy::strict();
    policy.set("hasDotgit", "warn").expect("a message");
    let mut quarantine = Quarantine::create(&repo);
    let outcome = take_with(&repo, &mut quarantine, &mut &pack[..], &policy).expect("only a warning");
    assert_eq!(outcome.notes.len(), 1);

    // Found in a tree, judged as a blob.
    let modules = b"[submodule \"x\"]\n\tpath = x\n\turl = -u/evil\n";
    let blob = git.run_with(&source, ["hash-object", "-w", "--stdin"], modules).text();
    let tree = git
        .run_with(
            &source,
            ["mktree"],
            format!("100644 blob {blob}\t.gitmodules\n").as_bytes(),
        )
        .text();
    let commit = git.ok(&source, &format!("commit-tree -m x {tree}"));
    for limit in ["1", "100"] {
        git.ok(&target, &format!("config receive.unpackLimit {limit}"));
        let repo = open(&target);
        let pack = pack_objects(&git, &source, "", &format!("{commit}\n"));
        let mut quarantine = Quarantine::create(&repo);
        let error = take(&repo, &mut quarantine, &mut &pack[..]).expect_err("bad modules");
        assert!(
            error
                .to_string()
                .starts_with(&format!("object {blob}: gitmodulesUrl: ")),
            "{error}"
        );
    }
}

#[test]
fn what_a_killed_server_left_is_swept() {
    let git = Git::new();
    let target = git.init_bare("target.git");
    let source = git.init("source");
    git.generate(&source, 3, 2);
    git.ok(&target, "config receive.unpackLimit 1");
    let repo = open(&target);
    let mut quarantine = Quarantine::create(&repo);
    let pack = pack_objects(&git, &source, "", "main\n");
    take(&repo, &mut quarantine, &mut &pack[..]).expect("a good pack");
    let dir = quarantine.objects_dir().expect("a pack has a file").to_owned();
    // In use, however old it looks.
    let hour = Duration::from_secs(3600);
    let later = SystemTime::now() + 2 * hour;
    assert_eq!(sweep_stale(&repo, hour, later).expect("swept"), 0);
    assert_eq!(leftovers(&target).len(), 1);
    drop(quarantine);
    assert_eq!(leftovers(&target), Vec::<PathBuf>::new());
    // The same directory when nobody is alive to hold it.
    std::fs::create_dir(&dir).expect("created");
    std::fs::write(dir.join("half"), b"a pack").expect("written");
    assert_eq!(sweep_stale(&repo, hour, SystemTime::now()).expect("swept"), 1);
    assert_eq!(leftovers(&target), Vec::<PathBuf>::new());
}

/// Not a test: how long a large pack takes beside `git index-pack`, and small ones as packs or loose. `INGEST_REPO` names a repository.
#[test]
#[ignore = "a measurement"]
fn measure() {
    let git = Git::new();
    let source = match std::env::var_os("INGEST_REPO") {
        Some(path) => PathBuf::from(path),
        None => {
            let source = git.init("source");
            git.generate(&source, 20_000, 2_000);
            source
        }
    };
    let pack_path = git.path("whole.pack");
    let pack = pack_objects(&git, &source, "--delta-base-offset --all", "");
    fs::write(&pack_path, &pack).expect("written");
    println!("pack: {} bytes", pack.len());
    for round in 0..3 {
        let target = git.init_bare(&format!("ours-{round}.git"));
        let repo = open(&target);
        let start = Instant::now();
        let mut quarantine = Quarantine::create(&repo);
        let mut file = fs::File::open(&pack_path).expect("there");
        let lenient = FsckPolicy::lenient();
        let outcome = take_with(&repo, &mut quarantine, &mut file, &lenient).expect("a good pack");
        let taken = start.elapsed();
        let whole = outcome.ids().next().is_some_and(|id| outcome.is_whole(&id));
        let published = quarantine.migrate().expect("migrated");
        println!(
            "ours: {taken:?}, migrated {:?}, {} objects, whole {whole}",
            start.elapsed(),
            outcome.objects
        );
        drop(published);
        fs::remove_dir_all(&target).expect("removed");

        for args in [
            "index-pack --stdin --fix-thin",
            "index-pack --stdin --fix-thin --strict",
        ] {
            let target = git.init_bare(&format!("git-{round}.git"));
            let start = Instant::now();
            let mut command = git.command(&target);
            command
                .args(args.split(' '))
                .stdin(fs::File::open(&pack_path).expect("there"));
            let done = command.output().expect("git runs");
            println!("git {args}: {:?} {}", start.elapsed(), done.status);
            fs::remove_dir_all(&target).expect("removed");
        }
    }
    let small = git.init("small");
    git.generate(&small, 1100, 50);
    for limit in ["1", "100"] {
        let target = git.init_bare(&format!("small-{limit}.git"));
        git.ok(&target, &format!("config receive.unpackLimit {limit}"));
        let packs: Vec<_> = (100..1000usize)
            .rev()
            .step_by(9)
            .map(|back| {
                pack_objects(
                    &git,
                    &small,
                    "--thin --delta-base-offset",
                    &format!("main~{back}\n^main~{}\n", back + 1),
                )
            })
            .collect();
        let all = pack_objects(&git, &small, "", "main\n");
        push(
            &git,
            &target,
            &all,
            &git.ok(&small, "rev-parse main"),
            "refs/heads/main",
        );
        let repo = open(&target);
        let (mut taking, mut moving) = (Duration::ZERO, Duration::ZERO);
        for pack in &packs {
            let start = Instant::now();
            let mut quarantine = Quarantine::create(&repo);
            take(&repo, &mut quarantine, &mut &pack[..]).expect("a good pack");
            taking += start.elapsed();
            let start = Instant::now();
            drop(quarantine.migrate().expect("migrated"));
            moving += start.elapsed();
        }
        let count = packs.len() as u32;
        println!(
            "unpackLimit {limit}: take {:?}, migrate {:?}",
            taking / count,
            moving / count
        );
    }
}
