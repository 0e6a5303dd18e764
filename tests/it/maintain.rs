//! The files that maintenance writes beside objects and refs, against git: it accepts them, reads them as they are meant, and where it has no choice it
//! would have written the same bytes.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
};

use gitstead::repo::{CompactOptions, GraphOutcome, MaintainOutcome, Occasion, OpenOptions, Repository};

use crate::support::Git;

fn open(dir: &Path) -> Repository {
    Repository::open(dir, &OpenOptions::default()).expect("a repository")
}

fn write_graph(dir: &Path, changed_paths: bool) -> GraphOutcome {
    open(dir)
        .write_commit_graph(changed_paths, 2, &AtomicBool::new(false), &mut |_| ())
        .expect("written")
}

fn bare(git: &Git, name: &str, format: &str) -> PathBuf {
    git.ok(git.dir(), &format!("init -q --bare --object-format={format} {name}"));
    git.path(name)
}

/// A history with all that a commit-graph has a special way for: octopus merges, dates that go back and far ahead, odd paths, many paths, links and modules.
fn odd_history(git: &Git, dir: &Path, hash_len: usize) {
    let mut stream = String::new();
    let mut commit = |branch: &str, mark: usize, date: u64, parents: &[usize], changes: &str| {
        stream.push_str(&format!("commit refs/heads/{branch}\nmark :{mark}\n"));
        stream.push_str(&format!("committer C <c@example.com> {date} +0000\ndata 2\nc\n"));
        for (nth, parent) in parents.iter().enumerate() {
            stream.push_str(&format!("{} :{parent}\n", if nth == 0 { "from" } else { "merge" }));
        }
        stream.push_str(changes);
        stream.push('\n');
    };
    let file = |path: &str, text: &str| format!("M 100644 inline {path}\ndata {}\n{text}\n", text.len());
    commit("main", 1, 1_600_000_000, &[], &file("a/b/c.txt", "one"));
    commit(
        "main",
        2,
        1_500_000_000,
        &[1],
        &file("\"a/\\303\\244/\\360\\237\\246\\200x.txt\"", "two"),
    );
    commit("main", 3, 1_600_000_100, &[2], "");
    let many: String = (0..600).map(|n| file(&format!("many/{}/{n}", n % 9), "x")).collect();
    commit("side", 4, 4_200_000_000, &[1], &many);
    let nearly: String = (0..510).map(|n| file(&format!("nearly/{n}"), "x")).collect();
    commit("other", 5, 1_600_000_300, &[1], &nearly);
    let deep: String = (0..256).map(|n| file(&format!("deep/{n}/d/e"), "x")).collect();
    commit("root", 6, 0, &[], &deep);
    commit("main", 7, 1_600_000_400, &[3, 4, 5, 6], &file("merged", "x"));
    let link = format!(
        "M 120000 inline a/b/c.txt\ndata 4\nelse\nM 160000 {} module\n",
        "1".repeat(hash_len)
    );
    commit("main", 8, 1_600_000_500, &[7], &link);
    commit(
        "main",
        9,
        1_600_000_600,
        &[8],
        &format!("D a/b/c.txt\n{}", file("a/b/c.txt/now/below", "y")),
    );
    commit("fork", 10, 1_600_000_700, &[8, 4, 1], "");
    stream.push_str("tag v1\nfrom :9\ntagger C <c@example.com> 1600000800 +0000\ndata 1\nt\n");
    stream.push_str("reset refs/tags/light\nfrom :6\ndone\n");
    let out = git.run_with(dir, ["fast-import", "--quiet", "--done"], stream.as_bytes());
    assert!(out.ok, "{}", out.stderr);
    git.ok(dir, "tag -a -m t outer v1");
}

#[test]
fn a_commit_graph_is_byte_for_byte_what_git_writes() {
    for (format, hash_len) in [("sha1", 40), ("sha256", 64)] {
        let git = Git::new();
        let dir = bare(&git, "r", format);
        odd_history(&git, &dir, hash_len);
        let graph = dir.join("objects/info/commit-graph");
        for changed_paths in [false, true] {
            let outcome = write_graph(&dir, changed_paths);
            assert_eq!(outcome.commits, 10);
            git.ok(&dir, "commit-graph verify");
            let ours = fs::read(&graph).expect("written");
            fs::remove_file(&graph).expect("removed");
            let option = if changed_paths {
                "--changed-paths"
            } else {
                "--no-changed-paths"
            };
            git.ok(&dir, &format!("commit-graph write --reachable {option}"));
            let theirs = fs::read(&graph).expect("written");
            assert!(
                ours == theirs,
                "{format}, {option}: {} and {} bytes",
                ours.len(),
                theirs.len()
            );
        }
        // Once more from what is there, and it is the same.
        let before = fs::read(&graph).expect("written");
        assert_eq!(write_graph(&dir, false), {
            let mut outcome = GraphOutcome::default();
            outcome.commits = 10;
            outcome
        });
        assert!(fs::read(&graph).expect("written") == before);
        git.fsck(&dir);
    }
}

#[test]
fn a_graph_grows_with_history_and_takes_the_place_of_a_chain() {
    let git = Git::new();
    let dir = git.init_bare("r");
    git.generate(&dir, 50, 20);
    git.ok(&dir, "commit-graph write --reachable --changed-paths");
    let tree = git.ok(&dir, "rev-parse main^{tree}");
    let add = |message: &str| {
        let new = git.ok_args(&dir, ["commit-tree", &tree, "-p", "main", "-m", message]);
        git.ok(&dir, &format!("update-ref refs/heads/main {new}"));
    };
    add("one more");
    assert_eq!(
        (write_graph(&dir, false).commits, write_graph(&dir, false).new),
        (51, 0)
    );
    add("in a chain");
    git.ok(&dir, "commit-graph write --reachable --split=no-merge --changed-paths");
    assert!(dir.join("objects/info/commit-graphs/commit-graph-chain").exists());
    add("beyond the chain");
    let outcome = write_graph(&dir, true);
    assert_eq!((outcome.commits, outcome.new), (53, 1));
    assert!(!dir.join("objects/info/commit-graphs").exists());
    git.ok(&dir, "commit-graph verify");
    let ours = fs::read(dir.join("objects/info/commit-graph")).expect("written");
    fs::remove_file(dir.join("objects/info/commit-graph")).expect("removed");
    git.ok(&dir, "commit-graph write --reachable --changed-paths");
    assert!(ours == fs::read(dir.join("objects/info/commit-graph")).expect("written"));
}

#[test]
fn every_layer_of_gits_chain_is_read() {
    for (format, hash_len) in [("sha1", 40), ("sha256", 64)] {
        let git = Git::new();
        let dir = bare(&git, "r", format);
        odd_history(&git, &dir, hash_len);
        for branch in ["other", "root", "main", "fork"] {
            let command = "commit-graph write --stdin-commits --split=no-merge --changed-paths";
            let tip = git.ok(&dir, &format!("rev-parse {branch}"));
            assert!(git.run_with(&dir, command.split(' '), tip.as_bytes()).ok);
        }
        let odb = open(&dir).odb().expect("an odb");
        let graph = odb.commit_graph().expect("a graph");
        assert!(graph.is_chain() && graph.len() == 10);
        let told = git.ok(&dir, "log --all --format=%H,%T,%ct,%P");
        assert_eq!(told.lines().count(), 10);
        for line in told.lines() {
            let mut fields = line.split(',');
            let mut next = || fields.next().expect("a field");
            let id = gix::ObjectId::from_hex(next().as_bytes()).expect("an id");
            let pos = graph.lookup(&id).expect("every commit is there");
            let commit = graph.commit(pos).expect("in range");
            assert_eq!(commit.tree.to_string(), next());
            assert_eq!(commit.date.to_string(), next());
            let mut parents = Vec::new();
            graph.parents(pos, &mut parents).expect("sound");
            let parents: Vec<String> = parents
                .iter()
                .map(|pos| graph.oid(*pos).expect("there").to_string())
                .collect();
            assert_eq!(parents.join(" "), next());
            assert!(graph.corrected_date(pos).expect("known") >= commit.date);
            let changed = git.ok_args(
                &dir,
                [
                    "-c",
                    "core.quotePath=false",
                    "show",
                    "-m",
                    "--first-parent",
                    "--name-only",
                    "--format=",
                    &id.to_string(),
                ],
            );
            let filter = graph.changed_paths(pos).expect("known");
            assert!(
                changed
                    .lines()
                    .all(|path| filter.may_contain(path.trim_matches('"').as_bytes())),
                "{changed}"
            );
        }
    }
}

#[test]
fn where_a_graph_would_not_be_true_none_is_written() {
    let git = Git::new();
    let dir = git.init_bare("r");
    git.generate(&dir, 10, 5);
    let graph = dir.join("objects/info/commit-graph");
    git.ok(git.dir(), "clone -q --bare --depth=3 --no-local r shallow");
    assert_eq!(write_graph(&git.path("shallow"), true), GraphOutcome::default());
    // Nor bitmaps; the rest is done.
    git.ok(git.path("shallow"), "branch other");
    maintain(&git.path("shallow"), true);
    assert!(!git.path("shallow/refs/heads/other").exists(), "refs are packed");
    git.ok(git.path("shallow"), "fsck --strict");
    git.ok(&dir, "config core.commitGraph false");
    assert_eq!(write_graph(&dir, true), GraphOutcome::default());
    git.ok(&dir, "config core.commitGraph true");
    fs::create_dir_all(dir.join("objects/info")).expect("made");
    let lock = dir.join("objects/info/commit-graph.lock");
    fs::write(&lock, "").expect("written");
    assert_eq!(write_graph(&dir, true), GraphOutcome::default(), "git is at it");
    fs::remove_file(&lock).expect("removed");
    assert!(!graph.exists());
    assert_eq!(write_graph(&dir, true).commits, 10);
    assert!(graph.exists() && !lock.exists());
}

fn options(full: bool) -> CompactOptions {
    let mut options = CompactOptions::default();
    (options.all, options.search_again) = (full, full);
    options
}

fn maintain(dir: &Path, full: bool) -> MaintainOutcome {
    open(dir)
        .maintain(&options(full), Occasion::Asked, &AtomicBool::new(false), &mut |_| ())
        .expect("maintained")
}

fn names_in(dir: &Path, ending: &str) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("listed").flatten();
    let mut names: Vec<String> = entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.retain(|name| name.ends_with(ending));
    names.sort();
    names
}

/// Puts what is loose into a pack of its own.
fn pack_loose_objects(git: &Git, dir: &Path) {
    git.ok(dir, "repack -d -q --no-write-bitmap-index");
}

/// git finds nothing wrong, and the bitmaps say of commits what a walk says.
fn bitmaps_hold(git: &Git, dir: &Path, commits: &[&str]) {
    git.fsck(dir);
    for commit in commits {
        let out = git.run(dir, ["rev-list", "--test-bitmap", commit]);
        assert!(
            out.ok && out.stderr.contains("OK!"),
            "{commit}: {}{}",
            out.text(),
            out.stderr
        );
    }
    for options in ["", "--filter=blob:none", "--filter=object:type=tag"] {
        let list = |bitmap: &str| {
            let listed = git.ok(dir, format!("rev-list --objects --all {options} {bitmap}").trim());
            let mut ids: Vec<String> = listed
                .lines()
                .map(|line| line.split(' ').next().unwrap_or("").to_owned())
                .collect();
            ids.sort();
            ids
        };
        assert_eq!(list("--use-bitmap-index"), list(""), "{options}");
    }
}

#[test]
fn a_full_maintenance_leaves_a_pack_with_bitmaps_that_git_believes() {
    for (format, hash_len) in [("sha1", 40), ("sha256", 64)] {
        let git = Git::new();
        let dir = bare(&git, "r", format);
        odd_history(&git, &dir, hash_len);
        git.ok_args(&dir, ["hash-object", "-w", "config"]);
        let outcome = maintain(&dir, true);
        assert_eq!((outcome.files.bitmaps, outcome.graph.commits), (10, 10), "{outcome:?}");
        let packs = dir.join("objects/pack");
        assert_eq!(names_in(&packs, ".bitmap").len(), 1);
        assert_eq!(names_in(&packs, ".rev").len(), 1);
        bitmaps_hold(&git, &dir, &["main", "side", "fork", "root", "main~2"]);
        let refs = names_in(&dir.join("refs/heads"), "");
        assert_eq!(refs, Vec::<String>::new(), "all are packed");
        assert_eq!(
            maintain(&dir, false),
            MaintainOutcome::default(),
            "nothing is left to do"
        );
        git.ok(git.dir(), &format!("clone -q --mirror r again-{format}"));
    }
}

#[test]
fn several_packs_have_one_index_and_bitmaps_that_git_believes() {
    for format in ["sha1", "sha256"] {
        let git = Git::new();
        let dir = bare(&git, "r", format);
        git.generate(&dir, 120, 40);
        git.ok(&dir, "repack -adq");
        let seed = git.ok(&dir, "rev-parse main");
        for n in 0..12 {
            let tree = git.ok(&dir, &format!("rev-parse main~{n}^{{tree}}"));
            let commit = git.ok_args(&dir, ["commit-tree", &tree, "-p", &seed, "-m", &format!("side {n}")]);
            git.ok(&dir, &format!("update-ref refs/heads/side-{n} {commit}"));
            git.ok(&dir, &format!("tag -a -m note v{n} {commit}"));
            if n == 5 {
                pack_loose_objects(&git, &dir);
            }
        }
        let packs = dir.join("objects/pack");
        for name in names_in(&packs, ".bitmap") {
            fs::remove_file(packs.join(name)).expect("removed");
        }
        let outcome = maintain(&dir, false);
        assert!(outcome.files.packs == 2 && outcome.files.bitmaps > 60, "{outcome:?}");
        git.ok(&dir, "multi-pack-index verify");
        let bitmaps = names_in(&packs, ".bitmap");
        assert!(
            bitmaps.len() == 1 && bitmaps[0].starts_with("multi-pack-index-"),
            "{bitmaps:?}"
        );
        bitmaps_hold(&git, &dir, &["main", "side-3", "side-11", "main~100"]);
        // git writes the same index, and reads ours as its own.
        let ours = fs::read(packs.join("multi-pack-index")).expect("there");
        fs::remove_file(packs.join("multi-pack-index")).expect("removed");
        let largest = names_in(&packs, ".pack")
            .into_iter()
            .max_by_key(|name| fs::metadata(packs.join(name)).expect("there").len());
        let largest = largest.expect("a pack").replace(".pack", ".idx");
        git.ok(
            &dir,
            &format!("multi-pack-index write --bitmap --preferred-pack={largest}"),
        );
        let theirs = fs::read(packs.join("multi-pack-index")).expect("there");
        assert!(ours == theirs, "{format}: {} and {} bytes", ours.len(), theirs.len());
        // What comes later is added.
        git.ok(&dir, "repack -adq");
        let outcome = maintain(&dir, false);
        assert_eq!(outcome.files.packs, 0);
    }
}

#[test]
fn an_incomplete_history_gets_no_bitmaps() {
    let git = Git::new();
    let dir = git.init_bare("r");
    git.generate(&dir, 20, 5);
    git.ok(&dir, "repack -adq --no-write-bitmap-index");
    let tree = git.ok(&dir, "rev-parse main~1^{tree}");
    let commit = git.ok_args(&dir, ["commit-tree", &tree, "-p", "main", "-m", "loose"]);
    git.ok(&dir, &format!("update-ref refs/heads/loose {commit}"));
    let other = git.ok_args(&dir, ["commit-tree", &tree, "-p", &commit, "-m", "packed"]);
    git.ok(&dir, &format!("update-ref refs/heads/packed {other}"));
    let pack = dir.join("objects/pack/pack");
    let out = git.run_with(&dir, ["pack-objects", "-q", &pack.to_string_lossy()], other.as_bytes());
    assert!(out.ok);
    let repo = open(&dir);
    let written = |repo: &Repository| {
        repo.write_index_files(&AtomicBool::new(false), &mut |_| ())
            .expect("no error")
    };
    let outcome = written(&repo);
    assert_eq!(
        (outcome.packs, outcome.bitmaps),
        (2, 0),
        "a parent of what is packed is loose"
    );
    git.ok(&dir, "multi-pack-index verify");
    for (key, value) in [("repack.writeBitmaps", "false"), ("core.multiPackIndex", "false")] {
        git.ok(&dir, "repack -dq");
        fs::remove_file(dir.join("objects/pack/multi-pack-index")).ok();
        git.ok(&dir, &format!("config {key} {value}"));
        let outcome = written(&open(&dir));
        assert_eq!(outcome.bitmaps, 0);
        assert_eq!(outcome.packs > 0, key == "repack.writeBitmaps");
    }
}

#[test]
fn maintenance_works_around_what_is_missing_and_says_what_it_is() {
    let git = Git::new();
    for full in [false, true] {
        for (nth, rev) in ["main~2", "main~2^{tree}", "main~2:f"].into_iter().enumerate() {
            let name = format!("r{nth}{full}");
            let work = git.init(&name);
            for n in 0..5 {
                git.commit(&work, "f", format!("{n}\n"), &format!("{n}"));
            }
            let gone = git.ok(&work, &format!("rev-parse {rev}")).trim().to_owned();
            let there = git.ok(&work, "rev-list --objects --all").lines().count();
            let bare = git.path(&format!("{name}.git"));
            git.ok(git.dir(), &format!("clone -q --bare {name} {name}.git"));
            fs::remove_file(bare.join("objects").join(&gone[..2]).join(&gone[2..])).expect("a loose object");

            let outcome = maintain(&bare, full);

            assert_eq!(outcome.compaction.objects as usize, there - 1, "{rev}");
            assert_eq!(
                outcome.graph.hole.map(|id| id.to_string()),
                (nth == 0).then(|| gone.clone())
            );
            assert_eq!(outcome.files.bitmaps, 0, "{rev}");
            assert_eq!(names_in(&bare.join("objects/pack"), ".pack").len(), 1);
            let told = git.fails(&bare, "rev-list --objects --missing=error --all");
            assert!(told.contains(&gone), "{told}");
            assert_eq!(git.ok(&bare, "show main:f"), "4");
            // The next one finds the same hole, and nothing else to do.
            let again = maintain(&bare, full);
            assert_eq!(again.graph.hole, outcome.graph.hole);
        }
    }
}

#[test]
fn refs_are_packed_as_git_packs_them() {
    let git = Git::new();
    let dir = git.init_bare("r");
    odd_history(&git, &dir, 40);
    git.ok(&dir, "symbolic-ref refs/heads/alias refs/heads/main");
    fs::write(dir.join("refs/heads/broken"), "nonsense").expect("written");
    fs::write(dir.join("refs/heads/gone"), format!("{}\n", "1".repeat(40))).expect("written");
    git.ok(&dir, "update-ref refs/heads/deep/down/here main");
    let refs = |dir: &Path| {
        git.run(
            dir,
            [
                "for-each-ref",
                "--format=%(refname) %(objectname) %(symref) %(*objectname)",
            ],
        )
        .text()
    };
    let (before, copy) = (refs(&dir), git.path("copy"));
    git.ok_args(git.dir(), ["init", "-q", "--bare", "copy"]);
    let outcome = maintain(&dir, false);
    assert_eq!(outcome.refs, 9, "{before} {outcome:?}");
    assert_eq!(refs(&dir), before);
    let mut left = names_in(&dir.join("refs/heads"), "");
    left.retain(|name| name != "deep");
    assert_eq!(left, ["alias", "broken", "gone"]);
    assert!(!dir.join("refs/heads/deep/down").exists());
    let ours = fs::read_to_string(dir.join("packed-refs")).expect("there");
    git.ok(&copy, "fetch -q ../r refs/heads/main:refs/heads/main refs/heads/side:refs/heads/side refs/heads/other:refs/heads/other refs/heads/root:refs/heads/root refs/heads/fork:refs/heads/fork refs/heads/deep/down/here:refs/heads/deep/down/here refs/tags/*:refs/tags/*");
    git.ok(&copy, "pack-refs --all");
    let theirs = fs::read_to_string(copy.join("packed-refs")).expect("there");
    let of = |text: &str| -> Vec<String> {
        text.lines()
            .filter(|line| !line.contains("alias"))
            .map(str::to_owned)
            .collect()
    };
    assert_eq!(of(&ours), of(&theirs));
    git.ok(&dir, "update-ref refs/heads/new main");
    for held in ["true", "notbare"] {
        git.ok(
            &dir,
            &format!("config gc.packRefs {}", if held == "true" { "false" } else { held }),
        );
        assert_eq!(maintain(&dir, false).refs, 0);
    }
    git.ok(&dir, "config gc.packRefs true");
    let lock = dir.join("packed-refs.lock");
    fs::write(&lock, "").expect("written");
    assert_eq!(maintain(&dir, false).refs, 0, "git holds the lock");
    fs::remove_file(lock).expect("removed");
    assert_eq!(maintain(&dir, false).refs, 1);
}

#[test]
fn old_leftovers_go_and_young_ones_stay() {
    let git = Git::new();
    let dir = git.init_bare("r");
    git.generate(&dir, 5, 5);
    let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(3 * 24 * 60 * 60);
    fs::create_dir_all(dir.join("objects/17")).expect("made");
    let drafts = [
        "objects/pack/tmp_pack_x",
        "objects/17/tmp_obj_x",
        "objects/pack/tmp_idx_y",
    ]
    .map(|name| dir.join(name));
    for (nth, draft) in drafts.iter().enumerate() {
        fs::write(draft, "half").expect("written");
        if nth < 2 {
            fs::File::options()
                .write(true)
                .open(draft)
                .expect("opened")
                .set_modified(long_ago)
                .expect("set");
        }
    }
    assert_eq!(maintain(&dir, false).leftovers, 2);
    assert_eq!(drafts.map(|draft| draft.exists()), [false, false, true]);
}

/// Every call by which something on disk changes.
const CHANGES: &str =
    "write,pwrite64,rename,renameat,renameat2,link,linkat,unlink,unlinkat,mkdir,mkdirat,fsync,ftruncate,fchmod";

#[test]
fn killed_at_any_change_of_the_disk_it_leaves_a_whole_repository() {
    let git = Git::new();
    let repos = git.path("repos");
    fs::create_dir_all(&repos).expect("made");
    let seed = git.init_bare("seed.git");
    git.generate(&seed, 12, 6);
    git.ok(&seed, "repack -adbq");
    let tree = git.ok(&seed, "rev-parse main^{tree}");
    for n in 0..3 {
        let commit = git.ok_args(&seed, ["commit-tree", &tree, "-p", "main", "-m", &format!("{n}")]);
        git.ok(&seed, &format!("update-ref refs/heads/side-{n} {commit}"));
        git.ok(&seed, &format!("tag -a -m note v{n} {commit}"));
        if n == 1 {
            pack_loose_objects(&git, &seed);
        }
    }
    git.ok(&seed, "multi-pack-index write --bitmap");
    // Something that nothing refers to, packed and loose.
    for n in 0..3 {
        git.ok_args(
            &seed,
            ["commit-tree", &tree, "-p", "main", "-m", &format!("nobody's {n}")],
        );
        if n == 1 {
            git.ok(&seed, "repack -adkq");
        }
    }
    let kills = killed_everywhere(&git, &repos, &seed, &[]);
    assert!(kills > 15, "only {kills} changes were interrupted");
    let kills = killed_everywhere(&git, &repos, &seed, &["--full", "--expire", "now"]);
    assert!(kills > 20, "only {kills} changes were interrupted");
}

/// Maintains copies of a repository, killed at each change of the disk. Returns how often.
fn killed_everywhere(git: &Git, repos: &Path, seed: &Path, how: &[&str]) -> u32 {
    let refs = git.ok(seed, "for-each-ref");
    let dir = repos.join("r.git");
    let (mut kills, mut n) = (0, 0);
    loop {
        n += 1;
        let _ = fs::remove_dir_all(&dir);
        let copied = std::process::Command::new("cp").arg("-a").args([seed, &dir]).status();
        assert!(copied.expect("cp runs").success());
        let out = std::process::Command::new("strace")
            .args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={CHANGES}"), "-e"])
            .arg(format!("inject={CHANGES}:signal=KILL:when={n}"))
            .arg(env!("CARGO_BIN_EXE_gitstead"))
            .args(["maintain", "r", "--repos"])
            .arg(repos)
            .arg("--data")
            .arg(git.path("data"))
            .args(how)
            .env_remove("GITSTEAD_DATA")
            .output()
            .expect("strace runs");
        assert_eq!(git.ok(&dir, "for-each-ref"), refs, "killed at change {n}");
        git.fsck(&dir);
        if out.status.success() {
            assert_eq!(how.is_empty(), nobodys(git, &dir), "dropped if it was asked for");
            return kills;
        }
        kills += 1;
        assert!(n < 500, "{}", String::from_utf8_lossy(&out.stderr));
        // The next one ends the work, whatever the killed one left.
        if n % 8 == 0 {
            maintain(&dir, true);
            assert_eq!(git.ok(&dir, "for-each-ref"), refs);
            bitmaps_hold(git, &dir, &["main", "side-1"]);
            git.ok(&dir, "commit-graph verify");
        }
    }
}

/// Whether there are objects that nothing refers to.
fn nobodys(git: &Git, dir: &Path) -> bool {
    !git.ok(dir, "fsck --unreachable --no-reflogs --no-progress").is_empty()
}
