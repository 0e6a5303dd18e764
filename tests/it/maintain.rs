//! The files that maintenance writes beside objects and refs, against git: it accepts them, reads them as they are meant, and where it has no choice it
//! would have written the same bytes.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
};

use gitstead::repo::{GraphOutcome, OpenOptions, Repository};

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
