//! Reading the trail back, beside what git says about the same repositories (t4001, t4013, t4202, t6403).

use std::{collections::HashSet, path::Path};

use bstr::ByteSlice;
use gitstead::{
    checkpoint::{
        ChangeKind, Checkpoint, DiffOptions, LogCursor, LogOrder, LogQuery, Merge, PatchContent, ReadError, changes,
        compose, diff, list_tree, log, merge_trees, read_file, show, tree_of,
    },
    repo::{OpenOptions, Repository, SinkForm},
};
use gix::{hash::ObjectId, objs::tree::EntryKind};
use proptest::prelude::*;

use crate::support::Git;

fn open(path: &Path) -> Repository {
    Repository::open(path, &OpenOptions::default()).expect("a repository")
}

fn id(hex: &str) -> ObjectId {
    ObjectId::from_hex(hex.as_bytes()).expect("an id")
}

/// All pages of a log, as ids.
fn ids(repository: &Repository, tip: &str, query: &LogQuery) -> Vec<String> {
    let (mut all, mut after) = (Vec::new(), None::<LogCursor>);
    loop {
        let page = log(repository, &id(tip), after.as_ref(), query).expect("a page");
        assert!(page.entries.len() <= query.entries && page.walked <= query.commits);
        all.extend(page.entries.iter().map(|entry| entry.commit.id.to_string()));
        match page.next {
            // As it goes through a client.
            Some(next) => after = Some(next.to_string().parse().expect("a cursor")),
            None => return all,
        }
    }
}

fn lines(text: &str) -> Vec<String> {
    text.lines().map(str::to_owned).collect()
}

/// A history with merges, in which some commits change nothing.
fn branchy(git: &Git) -> (std::path::PathBuf, String) {
    let repo = git.init("branchy");
    let mut stream = String::new();
    for n in 1..=60 {
        let parents = match n {
            1 => String::new(),
            n if n % 7 == 0 => format!("from :{}\nmerge :{}\n", n - 1, n - 4),
            n if n % 5 == 0 => format!("from :{}\n", n - 2),
            n => format!("from :{}\n", n - 1),
        };
        let file = ["a/one", "a/two", "b/c/three", "four"][n % 4];
        let change = if n % 6 == 0 {
            String::new()
        } else if n % 11 == 0 {
            format!("D {file}\n")
        } else {
            let text = format!("text {n}");
            format!("M 100644 inline {file}\ndata {}\n{text}\n", text.len())
        };
        stream.push_str(&format!(
            "commit refs/heads/main\nmark :{n}\ncommitter C <c@x> {} +0130\ndata 2\nn{}\n{parents}{change}\n",
            1_700_000_000 + n * 10,
            n % 10
        ));
    }
    let out = git.run_with(&repo, ["fast-import", "--quiet"], stream.as_bytes());
    assert!(out.ok, "{}", out.stderr);
    let tip = git.ok(&repo, "rev-parse main");
    (repo.join(".git"), tip)
}

#[test]
fn a_log_has_the_commits_that_git_log_has_in_pages_of_any_size() {
    let git = Git::new();
    let (repo, tip) = branchy(&git);
    let repository = open(&repo);
    for (entries, commits) in [(50, 20_000), (1, 20_000), (7, 3), (1_000, 1)] {
        let mut query = LogQuery::default();
        query.order = LogOrder::FirstParent;
        (query.entries, query.commits) = (entries, commits);
        let expected = lines(&git.ok(&repo, "log --first-parent --format=%H main"));
        assert!(expected.len() > 20);
        assert_eq!(ids(&repository, &tip, &query), expected);

        for path in ["a/one", "a", "b/c/three", "b", "/four/", "nothing"] {
            query.path = Some(path.into());
            let line = format!("log --first-parent --format=%H main -- {}", path.trim_matches('/'));
            assert_eq!(ids(&repository, &tip, &query), lines(&git.ok(&repo, &line)), "{path}");
        }
        query.path = None;
        query.order = LogOrder::AllByDate;
        let expected = lines(&git.ok(&repo, "log --format=%H main"));
        assert!(expected.len() > 30);
        assert_eq!(ids(&repository, &tip, &query), expected);
    }
}

#[test]
fn unchanged_commits_are_known_and_can_be_left_out() {
    let git = Git::new();
    let (repo, tip) = branchy(&git);
    let repository = open(&repo);
    let page = log(&repository, &id(&tip), None, &LogQuery::default()).expect("a page");
    for entry in &page.entries {
        let commit = entry.commit.id;
        let parent = git.run(&repo, ["rev-parse".to_owned(), format!("{commit}^^{{tree}}")]);
        assert_eq!(entry.changed, !parent.ok || id(&parent.text()) != entry.commit.tree);
    }
    let mut query = LogQuery::default();
    query.only_changed = true;
    let expected: Vec<_> = page.entries.iter().filter(|entry| entry.changed).collect();
    assert!(!expected.is_empty() && expected.len() < page.entries.len());
    assert_eq!(ids(&repository, &tip, &query).len(), expected.len());
}

#[test]
fn a_log_is_filtered_by_what_checkpoints_say() {
    let git = Git::new();
    let repo = git.init("repo");
    let commit = |checkpoint: Checkpoint| {
        let message = compose(&checkpoint).to_string();
        git.ok_args(&repo, ["commit", "-q", "--allow-empty", "-m", &message]);
        git.ok(&repo, "rev-parse HEAD")
    };
    let task = commit(Checkpoint::initial("count"));
    let write = commit(Checkpoint::after("Write", "wrote").agent("a").session("1"));
    let bash = commit(Checkpoint::after("Bash", "ran").agent("b").session("1"));
    git.ok_args(&repo, ["commit", "-q", "--allow-empty", "-m", "[Bash] by hand"]);
    let hand = git.ok(&repo, "rev-parse HEAD");
    let repository = open(&repo.join(".git"));
    let found = |change: &dyn Fn(&mut LogQuery)| {
        let mut query = LogQuery::default();
        change(&mut query);
        ids(&repository, &hand, &query)
    };
    assert_eq!(found(&|_| {}), [&*hand, &bash, &write, &task]);
    assert_eq!(found(&|query| query.all_commits = false), [&*bash, &write, &task]);
    assert_eq!(found(&|query| query.tool = Some("Bash".into())), [&*bash]);
    assert_eq!(found(&|query| query.agent = Some("a".into())), [&*write]);
    assert_eq!(found(&|query| query.session = Some("1".into())), [&*bash, &write]);
    assert_eq!(found(&|query| query.session = Some("2".into())), [""; 0]);

    // git reads the same trailers.
    let trailers = git.ok_args(&repo, ["log", "-1", "--format=%(trailers:key=Agent,valueonly)", &write]);
    assert_eq!(trailers.trim(), "a");
    let shown = show(&repository, &id(&bash), &DiffOptions::default()).expect("a commit");
    assert_eq!(shown.commit.subject(), "[Bash] ran");
    assert_eq!(shown.commit.author.name, "A U Thor");
    assert_eq!(shown.commit.committer.email, "committer@example.com");
    assert!(shown.changes.files.is_empty());
}

#[test]
fn a_log_ends_at_a_shallow_boundary_and_says_what_is_not_there() {
    let git = Git::new();
    let (repo, _) = branchy(&git);
    let source = format!("file://{}", repo.display());
    git.ok_args(git.dir(), ["clone", "-q", "--bare", "--depth", "3", &source, "shallow"]);
    let shallow = git.path("shallow");
    let tip = git.ok(&shallow, "rev-parse main");
    let repository = open(&shallow);
    let expected = lines(&git.ok(&shallow, "log --first-parent --format=%H main"));
    assert_eq!(ids(&repository, &tip, &LogQuery::default()), expected);
    let last = expected.last().expect("commits");
    let shown = show(&repository, &id(last), &DiffOptions::default()).expect("a commit");
    assert!(shown.commit.parents.is_empty());

    let absent = id(&"1".repeat(40));
    let missing = log(&repository, &absent, None, &LogQuery::default());
    assert!(matches!(missing, Err(ReadError::NotFound { .. })));
    let tree = id(&git.ok(&shallow, "rev-parse main^{tree}"));
    assert!(matches!(
        log(&repository, &tree, None, &LogQuery::default()),
        Err(ReadError::NotACommit { .. })
    ));
    for cursor in ["", "x", "1,2"] {
        assert!(cursor.parse::<LogCursor>().is_err());
    }
    let strange: LogCursor = absent.to_string().parse().expect("an id");
    assert!(matches!(
        log(&repository, &id(&tip), Some(&strange), &LogQuery::default()),
        Err(ReadError::Cursor)
    ));
}

/// Writes `files` as a tree and returns its id.
fn tree(git: &Git, repo: &Path, files: &[(&str, &str, Vec<u8>)]) -> String {
    git.ok(repo, "read-tree --empty");
    for (mode, path, content) in files {
        let out = git.run_with(repo, ["hash-object", "-w", "--stdin"], content);
        assert!(out.ok, "{}", out.stderr);
        let blob = out.text();
        git.ok_args(repo, ["update-index", "--add", "--cacheinfo", mode, &blob, path]);
    }
    git.ok(repo, "write-tree")
}

/// Our difference and git's own are the same bytes.
#[track_caller]
fn same_as_git(git: &Git, repo: &Path, from: &str, to: &str) {
    let odb = open(&repo.join(".git")).odb().expect("an odb");
    let options = DiffOptions::default();
    let ours = diff(&odb, Some(&id(from)), Some(&id(to)), &options).expect("a difference");
    let theirs = git.run(repo, ["diff", "-M", "--abbrev=10", from, to]);
    assert!(theirs.ok, "{}", theirs.stderr);
    assert_eq!(ours.text().to_str_lossy(), theirs.stdout.to_str_lossy());
    let theirs = git.run(repo, ["diff", "-M", "--numstat", "-z", from, to]);
    let numbers: Vec<_> = ours
        .files
        .iter()
        .map(|file| {
            let number = |n: Option<u32>| n.map_or("-".to_owned(), |n| n.to_string());
            format!("{}\t{}", number(file.added), number(file.removed))
        })
        .collect();
    let expected: Vec<_> = theirs
        .stdout
        .split(|b| *b == 0)
        .filter(|field| field.iter().filter(|b| **b == b'\t').count() >= 2)
        .map(|field| {
            let text = field.to_str_lossy();
            let mut fields = text.splitn(3, '\t');
            format!("{}\t{}", fields.next().unwrap(), fields.next().unwrap())
        })
        .collect();
    assert_eq!(numbers, expected);
}

fn text(lines: std::ops::Range<usize>) -> Vec<u8> {
    lines.flat_map(|n| format!("line number {n}\n").into_bytes()).collect()
}

#[test]
fn a_difference_reads_as_git_writes_it() {
    let git = Git::new();
    let repo = git.init("repo");
    let long = "fn heading_that_is_rather_long(".to_owned() + &"argument: Type, ".repeat(8) + ")\n";
    let old = [
        ("100644", "mode", b"x\n".to_vec()),
        ("100644", "mode and text", b"x\ny\n".to_vec()),
        ("100644", "no-end", b"a\nb".to_vec()),
        ("100644", "gets-end", b"a\nb".to_vec()),
        ("100644", "emptied", b"a\n".to_vec()),
        ("100644", "gone", text(0..4)),
        ("100644", "gone-empty", Vec::new()),
        ("120000", "link", b"to/here".to_vec()),
        ("100644", "becomes-link", b"text\n".to_vec()),
        ("100644", "binary", b"a\0b".to_vec()),
        ("100644", "moved/exact", text(100..140)),
        ("100644", "moved/changed", text(200..260)),
        ("100755", "moved/mode", text(300..330)),
        ("100644", "tab\there", text(400..405)),
        (
            "100644",
            "code.rs",
            [
                b"struct A {\n".to_vec(),
                text(0..20),
                long.clone().into_bytes(),
                text(20..60),
            ]
            .concat(),
        ),
        ("100644", "dir", b"file\n".to_vec()),
    ];
    let new = [
        ("100755", "mode", b"x\n".to_vec()),
        ("100755", "mode and text", b"x\nz\n".to_vec()),
        ("100644", "no-end", b"a\nc".to_vec()),
        ("100644", "gets-end", b"a\nb\n".to_vec()),
        ("100644", "emptied", Vec::new()),
        ("100644", "new-empty", b"\n".to_vec()),
        ("100644", "new file", text(50..53)),
        ("120000", "link", b"to/there".to_vec()),
        ("120000", "becomes-link", b"text".to_vec()),
        ("100644", "binary", b"a\0c".to_vec()),
        ("100644", "kept/exact", text(100..140)),
        (
            "100644",
            "kept/other",
            [text(200..230), b"new\n".to_vec(), text(231..260)].concat(),
        ),
        ("100644", "moved/mode2", text(300..330)),
        ("100644", "tab\there", text(400..406)),
        (
            "100644",
            "code.rs",
            [
                b"struct A {\n".to_vec(),
                text(0..12),
                text(13..20),
                long.into_bytes(),
                text(20..30),
                b"x\n".to_vec(),
                text(30..37),
                text(38..44),
                b"y\n".to_vec(),
                text(45..60),
            ]
            .concat(),
        ),
        ("100644", "dir/file", b"file in it\n".to_vec()),
        ("100644", "ünïcode \"quoted\"\\", b"x\n".to_vec()),
    ];
    let (from, to) = (tree(&git, &repo, &old), tree(&git, &repo, &new));
    same_as_git(&git, &repo, &from, &to);
    same_as_git(&git, &repo, &to, &from);
    let empty = git.ok_args(&repo, ["hash-object", "-t", "tree", "-w", "/dev/null"]);
    same_as_git(&git, &repo, &empty, &to);
    same_as_git(&git, &repo, &to, &empty);
}

#[test]
fn a_commit_of_another_repository_differs_by_its_id() {
    let git = Git::new();
    let repo = git.init("repo");
    git.ok_args(
        &repo,
        ["update-index", "--add", "--cacheinfo", "160000", &"1".repeat(40), "sub"],
    );
    let from = git.ok(&repo, "write-tree");
    git.ok_args(
        &repo,
        ["update-index", "--add", "--cacheinfo", "160000", &"2".repeat(40), "sub"],
    );
    let to = git.ok(&repo, "write-tree");
    same_as_git(&git, &repo, &from, &to);
}

#[test]
fn a_difference_can_be_limited_to_paths() {
    let git = Git::new();
    let repo = git.init("repo");
    let from = tree(
        &git,
        &repo,
        &[
            ("100644", "a/x", text(0..5)),
            ("100644", "a/y/z", text(0..6)),
            ("100644", "ab", text(0..7)),
            ("100644", "c", text(0..8)),
        ],
    );
    let to = tree(
        &git,
        &repo,
        &[
            ("100644", "a", text(1..5)),
            ("100644", "ab", text(1..7)),
            ("100644", "c/d", text(1..8)),
        ],
    );
    let odb = open(&repo.join(".git")).odb().expect("an odb");
    for paths in [
        vec!["a"],
        vec!["a/y"],
        vec!["a", "c"],
        vec!["c", "ab", "a", "a/x"],
        vec!["no"],
    ] {
        let mut options = DiffOptions::default();
        options.paths = paths.iter().map(|path| (*path).into()).collect();
        options.renames = None;
        let ours = changes(&odb, Some(&id(&from)), Some(&id(&to)), &options).expect("changes");
        let ours: Vec<_> = ours.files.iter().map(|file| file.path.to_string()).collect();
        let args = ["diff", "--no-renames", "--name-only", &from, &to, "--"];
        let theirs = git.ok_args(&repo, args.into_iter().chain(paths.iter().copied()));
        assert_eq!(ours, lines(&theirs), "{paths:?}");
    }
}

#[test]
fn what_is_too_much_is_named_and_not_shown() {
    let git = Git::new();
    let repo = git.init("repo");
    let files: Vec<(&str, &str, Vec<u8>)> = vec![
        ("100644", "a", text(0..100)),
        ("100644", "b", text(0..100)),
        ("100644", "c", text(0..10)),
        ("100644", "d", text(0..10_000)),
    ];
    let to = id(&tree(&git, &repo, &files));
    let odb = open(&repo.join(".git")).odb().expect("an odb");
    let mut options = DiffOptions::default();
    options.patch_bytes = text(0..100).len() + 1_000;
    options.file_bytes = 100_000;
    let all = diff(&odb, None, Some(&to), &options).expect("a difference");
    let content: Vec<_> = all.files.iter().map(|file| file.content).collect();
    use PatchContent::{LeftOut, NotRead, Text, TooLarge};
    assert_eq!(content, [Text, LeftOut, Text, TooLarge]);
    assert_eq!(all.files[1].added, Some(100));
    assert_eq!(all.files[3].added, None);
    assert!(all.text().len() < options.patch_bytes + 1_000);

    options.read_bytes = 1;
    let some = diff(&odb, None, Some(&to), &options).expect("a difference");
    assert_eq!(some.files[0].content, Text);
    assert_eq!(some.files[1].content, NotRead);
    options.files = 2;
    let few = diff(&odb, None, Some(&to), &options).expect("a difference");
    assert!(few.more && few.files.len() == 2 && !some.more);
}

#[test]
fn too_many_candidates_leave_only_the_certain_renames() {
    let git = Git::new();
    let repo = git.init("repo");
    let from = tree(
        &git,
        &repo,
        &[
            ("100644", "a", text(0..50)),
            ("100644", "b", text(100..150)),
            ("100644", "d/same", text(200..250)),
        ],
    );
    let to = tree(
        &git,
        &repo,
        &[
            ("100644", "x", text(0..50)),
            ("100644", "y", text(100..149)),
            ("100644", "e/same", text(200..249)),
        ],
    );
    let odb = open(&repo.join(".git")).odb().expect("an odb");
    let mut options = DiffOptions::default();
    options.rename_pairs = 0;
    let found = changes(&odb, Some(&id(&from)), Some(&id(&to)), &options).expect("changes");
    assert!(found.renames_skipped);
    let kinds: Vec<_> = found
        .files
        .iter()
        .map(|file| (file.path.to_string(), file.kind))
        .collect();
    assert_eq!(kinds[0], ("b".to_owned(), ChangeKind::Deleted));
    assert!(matches!(&kinds[1], (path, ChangeKind::Renamed { similarity: 90..=99 }) if path == "e/same"));
    assert_eq!(kinds[2], ("x".to_owned(), ChangeKind::Renamed { similarity: 100 }));
    assert_eq!(kinds[3], ("y".to_owned(), ChangeKind::Added));
}

#[test]
fn files_and_directories_are_read_at_any_commit() {
    let git = Git::new();
    let repo = git.init("repo");
    let first = git.commit(&repo, "dir/file", "one\n", "first");
    std::os::unix::fs::symlink("dir/file", repo.join("link")).expect("a link");
    let second = git.commit(&repo, "dir/file", "second\n", "second");
    git.ok(&repo, "tag -a -m t v1 HEAD~1");
    let tag = id(&git.ok(&repo, "rev-parse v1"));
    let odb = open(&repo.join(".git")).odb().expect("an odb");
    let read = |at: &ObjectId, path: &str, limit| read_file(&odb, at, path.into(), limit);
    assert_eq!(read(&id(&first), "dir/file", 4).expect("a file").bytes, b"one\n");
    assert_eq!(read(&tag, "dir/file", 4).expect("a file").bytes, b"one\n");
    let large = read(&id(&second), "/dir/file", 4).expect("a file");
    assert!(large.is_too_large && large.bytes.is_empty() && large.size == 7);
    let link = read(&id(&second), "link", 100).expect("a link");
    assert_eq!((link.kind, link.bytes.as_slice()), (EntryKind::Link, &b"dir/file"[..]));
    assert!(matches!(read(&id(&second), "dir", 9), Err(ReadError::WrongKind { .. })));
    assert!(matches!(
        read(&id(&first), "link", 9),
        Err(ReadError::NoSuchPath { .. })
    ));
    assert!(matches!(
        read(&id(&first), "../x", 9),
        Err(ReadError::NoSuchPath { .. })
    ));

    let tree = tree_of(&odb, &id(&second)).expect("a tree");
    let list = |path: &str, after: Option<&str>, limit| {
        let listing = list_tree(&odb, &tree, path.into(), after.map(Into::into), limit).expect("a listing");
        let paths: Vec<_> = listing.entries.iter().map(|entry| entry.path.to_string()).collect();
        (paths, listing.more)
    };
    assert_eq!(list("", None, 9), (vec!["dir".to_owned(), "link".to_owned()], false));
    assert_eq!(list("", None, 1), (vec!["dir".to_owned()], true));
    assert_eq!(list("", Some("dir"), 1), (vec!["link".to_owned()], false));
    assert_eq!(list("dir", None, 9), (vec!["dir/file".to_owned()], false));
    let listing = list_tree(&odb, &tree, "dir/".into(), None, 1).expect("a listing");
    assert_eq!(listing.entries[0].size, Some(7));
    assert!(list_tree(&odb, &tree, "".into(), Some("nothing".into()), 1).is_err());
}

/// A text whose lines repeat, with some of them changed, taken out and put in.
fn edited() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
    let word = proptest::sample::select(vec![
        "a",
        "b",
        "  c",
        "\td",
        "{",
        "}",
        "",
        "fn e()",
        "long enough to matter",
    ]);
    let edit = (0..60usize, 0..4usize, proptest::collection::vec(word.clone(), 0..4));
    (
        proptest::collection::vec(word, 0..60),
        proptest::collection::vec(edit, 0..6),
        any::<(bool, bool)>(),
    )
        .prop_map(|(old, edits, ends)| {
            let mut new = old.clone();
            for (at, gone, come) in edits {
                let at = at.min(new.len());
                let end = (at + gone).min(new.len());
                new.splice(at..end, come);
            }
            let join = |lines: &[&str], end: bool| {
                let mut text = lines.join("\n");
                if end && !lines.is_empty() {
                    text.push('\n');
                }
                text.into_bytes()
            };
            (join(&old, ends.0), join(&new, ends.1))
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4, max_shrink_iters: 40, ..ProptestConfig::default() })]
    #[test]
    fn lines_differ_as_git_says(texts in proptest::collection::vec(edited(), 30)) {
        let git = Git::new();
        let repo = git.init("repo");
        let names: Vec<String> = (0..texts.len()).map(|n| format!("f{n:03}")).collect();
        let (old, new): (Vec<_>, Vec<_>) = names
            .iter()
            .zip(texts)
            .map(|(name, (old, new))| (("100644", name.as_str(), old), ("100644", name.as_str(), new)))
            .unzip();
        let (from, to) = (tree(&git, &repo, &old), tree(&git, &repo, &new));
        same_as_git(&git, &repo, &from, &to);
    }

    #[test]
    fn renames_are_those_of_git(moves in proptest::collection::vec((0..3usize, 0..12usize, 0..12usize, 0..4usize), 12)) {
        let git = Git::new();
        let repo = git.init("repo");
        let mut paths = HashSet::new();
        let (mut old, mut new) = (Vec::new(), Vec::new());
        for (n, (way, cut, extra, dir)) in moves.iter().enumerate() {
            let lines = |salt: usize, count: usize| -> Vec<u8> {
                (0..count).flat_map(|line| format!("file {n} {salt} {}\n", line * 7919 % 1000).into_bytes()).collect()
            };
            let before = format!("d{}/f{n}", dir % 2);
            let after = match way {
                0 => format!("e{dir}/f{n}"),
                1 => format!("d{}/g{n}", dir % 2),
                _ => before.clone(),
            };
            paths.insert(after.clone());
            old.push(("100644", before, lines(0, 12)));
            new.push(("100644", after, [lines(0, 12 - cut), lines(1, *extra)].concat()));
        }
        prop_assert_eq!(paths.len(), new.len());
        let borrowed = |files: &[(&'static str, String, Vec<u8>)]| -> String {
            let files: Vec<_> = files.iter().map(|(mode, path, content)| (*mode, path.as_str(), content.clone())).collect();
            tree(&git, &repo, &files)
        };
        let (from, to) = (borrowed(&old), borrowed(&new));
        same_as_git(&git, &repo, &from, &to);
    }
}

/// Files of three sides, few names and few contents, so that they meet.
fn sides() -> impl Strategy<Value = Vec<Vec<(usize, usize, bool)>>> {
    // What each side does to a path: nothing, take it away, one of several contents; and whether it is executable.
    let act = (0..24usize, 0..3usize, proptest::bool::weighted(0.2));
    proptest::collection::vec(proptest::collection::vec(act, 3), 6)
}

/// Merges with git: the tree, or nothing when there are conflicts.
fn merged_by_git(git: &Git, repo: &Path, base: &str, ours: &str, theirs: &str) -> Option<String> {
    let base = format!("--merge-base={base}");
    let out = git.run(repo, ["merge-tree", "--write-tree", &base, ours, theirs]);
    let text = out.text();
    assert!(out.ok || text.contains("CONFLICT"), "{text}{}", out.stderr);
    out.ok.then_some(text)
}

fn merged_by_us(repo: &Path, base: &str, ours: &str, theirs: &str) -> Option<String> {
    let repository = open(&repo.join(".git"));
    let odb = repository.odb().expect("an odb");
    let sink = repository.object_sink(SinkForm::Loose).expect("a sink");
    let merge = merge_trees(&odb, &sink, Some(&id(base)), Some(&id(ours)), Some(&id(theirs))).expect("a merge");
    sink.publish(false).expect("written");
    match merge {
        Merge::Clean(tree) => Some(tree.to_string()),
        Merge::Conflicts(conflicts) => {
            assert!(!conflicts.is_empty());
            None
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, max_shrink_iters: 40, ..ProptestConfig::default() })]
    #[test]
    fn trees_are_merged_as_git_merges_them(acts in sides()) {
        let git = Git::new();
        let repo = git.init("repo");
        let paths = ["a", "a/b", "a/c", "d", "d/e/f", "g"];
        // No path's content is like another's: git would find renames.
        let content = |path: &str, n: usize| -> Vec<u8> {
            let changed: Vec<_> = match n {
                0 => vec![],
                1 => vec![2],
                2 => vec![8],
                3 => vec![3],
                4 => vec![2, 8],
                _ => return format!("{path}\0{n}").into_bytes(),
            };
            let mark = |line| if changed.contains(&line) { "!" } else { "" };
            (0..10).flat_map(|line| format!("{path} {line}{}\n", mark(line)).into_bytes()).collect()
        };
        let side = |which: usize| -> String {
            let mut files: Vec<(&str, &str, Vec<u8>)> = Vec::new();
            for (path, acts) in paths.iter().zip(&acts) {
                // Most often a side leaves a path as it was.
                let (act, gone, exec) = if acts[which].0 < 9 { acts[which] } else { acts[0] };
                // A directory wins over a file of its name.
                let above = |file: &&str| path.starts_with(&format!("{file}/"));
                files.retain(|(_, file, _)| !above(file));
                if gone == 0 {
                    continue;
                }
                let (mode, content) = match act {
                    6 => ("120000", path.as_bytes().to_vec()),
                    7..9 => ("100644", content(path, which)),
                    n => (if exec { "100755" } else { "100644" }, content(path, n % 6)),
                };
                files.push((mode, path, content));
            }
            tree(&git, &repo, &files)
        };
        let (base, ours, theirs) = (side(0), side(1), side(2));
        prop_assert_eq!(merged_by_us(&repo, &base, &ours, &theirs), merged_by_git(&git, &repo, &base, &ours, &theirs));
    }

    #[test]
    fn lines_are_merged_as_git_merges_them(texts in proptest::collection::vec((edited(), edited()), 6)) {
        let git = Git::new();
        let repo = git.init("repo");
        for ((base, ours), (_, other)) in texts {
            // Two edits of one text.
            let cut = other.len().min(12);
            let theirs = [&other[..cut], &base[..]].concat();
            let one = |content: &[u8]| tree(&git, &repo, &[("100644", "f", content.to_vec())]);
            let (base, ours, theirs) = (one(&base), one(&ours), one(&theirs));
            prop_assert_eq!(merged_by_us(&repo, &base, &ours, &theirs), merged_by_git(&git, &repo, &base, &ours, &theirs));
        }
    }
}

#[test]
fn a_change_follows_a_file_that_the_other_side_moved() {
    let git = Git::new();
    let repo = git.init("repo");
    let changed = |at: usize| [text(0..at), b"changed\n".to_vec(), text(at + 1..30)].concat();
    let one = |files: &[(&str, &str, Vec<u8>)]| tree(&git, &repo, files);
    let base = one(&[("100644", "a", text(0..30)), ("100644", "keep", b"x\n".to_vec())]);
    let edited = one(&[("100644", "a", changed(3)), ("100644", "keep", b"x\n".to_vec())]);
    let moved = one(&[("100644", "d/b", text(0..30)), ("100644", "keep", b"y\n".to_vec())]);
    let both = one(&[("100755", "d/b", changed(20)), ("100644", "keep", b"x\n".to_vec())]);
    let clash = one(&[("100644", "d/b", changed(4)), ("100644", "keep", b"x\n".to_vec())]);
    let taken = one(&[("100644", "a", changed(3)), ("100644", "d/b", b"mine\n".to_vec())]);
    let gone = one(&[("100644", "keep", b"x\n".to_vec())]);
    let mut clean = 0;
    for (ours, theirs) in [
        (&edited, &moved),
        (&edited, &both),
        (&edited, &clash),
        (&edited, &gone),
        (&taken, &moved),
        (&moved, &gone),
    ] {
        for (ours, theirs) in [(ours, theirs), (theirs, ours)] {
            let expected = merged_by_git(&git, &repo, &base, ours, theirs);
            assert_eq!(merged_by_us(&repo, &base, ours, theirs), expected);
            clean += usize::from(expected.is_some());
        }
    }
    assert_eq!(clean, 4);
}
