//! Naming commits, and putting a trail together for people.

use std::path::{Path, PathBuf};

use gitstead::{
    base::Fault,
    checkpoint::{
        Checkpoint, ReadError, Squash, SquashError, SquashOptions, Squashed, compose, create_branch, resolve, squash,
    },
    repo::{OpenOptions, Repository},
};
use gix::hash::ObjectId;

use crate::support::Git;

fn open(path: &Path) -> Repository {
    Repository::open(path, &OpenOptions::default()).unwrap()
}

fn id(hex: &str) -> ObjectId {
    ObjectId::from_hex(hex.as_bytes()).unwrap()
}

/// A trail: a task, checkpoints that change a file, one that changes nothing.
fn trail(git: &Git) -> (PathBuf, Repository) {
    let dir = git.init("repo");
    let commit = |checkpoint: Checkpoint| {
        let message = compose(&checkpoint.agent("research")).to_string();
        git.ok(&dir, "add -A");
        git.ok_args(&dir, ["commit", "-q", "--allow-empty", "-m", &message]);
    };
    commit(Checkpoint::initial("Analyze sales data"));
    std::fs::write(dir.join("report"), "1\n").unwrap();
    commit(Checkpoint::after("Write", "Created report"));
    commit(Checkpoint::after("Read", "Looked at it"));
    std::fs::write(dir.join("report"), "1\n2\n").unwrap();
    std::fs::write(dir.join("data"), "x\n").unwrap();
    commit(Checkpoint::after("Bash", "Ran: the analysis"));
    let repository = open(&dir.join(".git"));
    (dir, repository)
}

#[track_caller]
fn done(result: Result<Squash, SquashError>) -> Squashed {
    match result.unwrap() {
        Squash::Done(squashed) => squashed,
        Squash::Conflicts(conflicts) => panic!("{conflicts:?}"),
    }
}

fn named(repository: &Repository, name: &str) -> ObjectId {
    resolve(repository, name).unwrap()
}

#[test]
fn a_whole_trail_becomes_one_commit_that_names_the_task() {
    let git = Git::new();
    let (dir, repository) = trail(&git);
    let tip = named(&repository, "main");
    let squashed = done(squash(&repository, &tip, "clean", &SquashOptions::default()));
    assert_eq!((squashed.commits, squashed.parent), (4, None));
    assert_eq!(squashed.branch, "refs/heads/clean");
    assert_eq!(git.ok(&dir, "rev-parse clean"), squashed.commit.to_string());
    assert_eq!(
        git.ok(&dir, "rev-parse clean^{tree}"),
        git.ok(&dir, "rev-parse main^{tree}")
    );
    assert_eq!(git.ok(&dir, "rev-list --count clean"), "1");
    assert_eq!(git.ok(&dir, "rev-parse main"), tip.to_string());
    assert_eq!(
        git.ok(&dir, "log -1 --format=%B clean").trim(),
        "Analyze sales data\n\n- [Write] Created report\n- [Bash] Ran: the analysis"
    );
    assert_eq!(git.ok(&dir, "log -1 --format=%(trailers) clean").trim(), "");
    git.fsck(&dir);
    let err = squash(&repository, &tip, "clean", &SquashOptions::default()).unwrap_err();
    assert!(matches!(err, SquashError::Exists { .. }), "{err}");
    assert_eq!(err.fault(), Fault::Client);
}

#[test]
fn a_clean_branch_is_continued_range_by_range() {
    let git = Git::new();
    let (dir, repository) = trail(&git);
    let mut options = SquashOptions::default();
    options.message = Some("First part  \n\nWith a body\u{7}\n\n\n".to_owned());
    options.author = ("Ann <a>".to_owned(), "ann@example.com".to_owned());
    options.seconds = Some(1_700_000_000);
    let first = done(squash(&repository, &named(&repository, "main~2"), "clean", &options));
    assert_eq!(first.commits, 2);
    assert_eq!(
        git.ok(&dir, "log -1 --format=%an|%ae|%at clean"),
        "Ann  a|ann@example.com|1700000000"
    );
    assert_eq!(
        git.ok(&dir, "log -1 --format=%B clean").trim(),
        "First part\n\nWith a body"
    );

    // Somebody goes on there by hand.
    git.ok(&dir, "checkout -q clean");
    git.commit(&dir, "by-hand", "mine\n", "by hand");
    options.append = true;
    options.from = Some(named(&repository, "main~2"));
    options.message = None;
    let tip = named(&repository, "main");
    let err = squash(&repository, &tip, "clean", &options).unwrap_err();
    assert!(matches!(err, SquashError::CheckedOut { .. }), "{err}");
    git.ok(&dir, "checkout -q main");
    let second = done(squash(&repository, &tip, "refs/heads/clean", &options));
    assert_eq!(second.commits, 2);
    assert_eq!(
        git.ok(&dir, "log --format=%s clean"),
        "2 checkpoints\nby hand\nFirst part"
    );
    assert_eq!(git.ok(&dir, "ls-tree --name-only clean"), "by-hand\ndata\nreport");
    assert_eq!(git.ok(&dir, "show clean:report"), "1\n2");
    git.fsck(&dir);

    let again = squash(&repository, &tip, "clean", &options).unwrap_err();
    assert!(matches!(again, SquashError::Empty), "{again}");
}

#[test]
fn a_squash_that_cannot_be_made_leaves_everything_as_it_is() {
    let git = Git::new();
    let (dir, repository) = trail(&git);
    git.ok(&dir, "checkout -q -b other main~2");
    git.commit(&dir, "report", "another\n", "other");
    git.ok(&dir, "checkout -q main");
    let before = git.ok(&dir, "for-each-ref");
    let tip = named(&repository, "main");
    let mut options = SquashOptions::default();
    options.from = Some(named(&repository, "main~2"));
    options.onto = Some(named(&repository, "other"));
    let Squash::Conflicts(conflicts) = squash(&repository, &tip, "clean", &options).unwrap() else {
        panic!("no conflict");
    };
    assert_eq!(conflicts[0].path, "report");
    options.from = Some(named(&repository, "other"));
    let err = squash(&repository, &tip, "clean", &options).unwrap_err();
    assert!(matches!(err, SquashError::NotInRange { .. }), "{err}");
    for bad in ["main", "a b", "-x", "HEAD", "a..b", "", "other"] {
        let err = squash(&repository, &tip, bad, &SquashOptions::default()).unwrap_err();
        assert_eq!(err.fault(), Fault::Client, "{bad}: {err}");
    }
    options.onto = None;
    options.from = Some(tip);
    let err = squash(&repository, &tip, "clean", &options).unwrap_err();
    assert!(matches!(err, SquashError::Empty), "{err}");
    assert_eq!(git.ok(&dir, "for-each-ref"), before);
}

#[test]
fn a_branch_begins_at_any_checkpoint() {
    let git = Git::new();
    let (dir, repository) = trail(&git);
    let at = named(&repository, "main~1");
    assert_eq!(
        create_branch(&repository, &at, "try/again").unwrap(),
        "refs/heads/try/again"
    );
    assert_eq!(git.ok(&dir, "rev-parse try/again"), at.to_string());
    assert!(matches!(
        create_branch(&repository, &at, "try/again"),
        Err(SquashError::Exists { .. })
    ));
    let err = create_branch(&repository, &at, "try").unwrap_err();
    assert_eq!(err.fault(), Fault::Client, "{err}");
    let tree = id(&git.ok(&dir, "rev-parse main^{tree}"));
    assert!(create_branch(&repository, &tree, "tree").is_err());
}

#[test]
fn commits_are_named_as_git_names_them() {
    let git = Git::new();
    let dir = git.init("repo");
    git.generate(&dir, 300, 40);
    git.ok(&dir, "reset -q --hard main");
    git.ok(&dir, "checkout -q -b side main~5");
    git.commit(&dir, "x", "x", "side");
    git.ok(&dir, "merge -q --no-ff -m merge main");
    git.ok(&dir, "tag -a -m tag v1 main~3");
    git.ok(&dir, "repack -q -a -d");
    git.commit(&dir, "y", "y", "loose");
    let repository = open(&dir.join(".git"));
    let head = git.ok(&dir, "rev-parse HEAD");
    let merge = git.ok(&dir, "rev-parse HEAD~1");
    let mut names: Vec<String> = [
        "HEAD",
        "@",
        "@~1^2",
        "main",
        "heads/main~10",
        "refs/heads/side^^",
        "v1",
        "v1~2^0",
        "HEAD^0~",
    ]
    .map(str::to_owned)
    .to_vec();
    names.extend([
        head.clone(),
        head[..7].to_owned(),
        head[..12].to_uppercase(),
        format!("{}^2~3", &merge[..10]),
    ]);
    for commit in git.ok(&dir, "rev-list main").lines().step_by(17) {
        names.push(commit[..9].to_owned());
    }
    for name in &names {
        let expected = git.ok_args(&dir, ["rev-parse", "--verify", &format!("{name}^{{commit}}")]);
        assert_eq!(named(&repository, name).to_string(), expected, "{name}");
    }
    for name in [
        "",
        "nothing",
        "main~1000",
        "main^2",
        "HEAD^3",
        "main~x",
        "^",
        "main^{tree}",
        "a b",
        "../x",
        "refs/heads",
        "abc",
        "main~99999999999999999999",
    ] {
        let err = resolve(&repository, name).unwrap_err();
        assert_eq!(err.fault(), Fault::NotFound, "{name}: {err}");
    }
    // Of 900 objects, some share four digits; commits among them may not.
    let all = git.ok(&dir, "rev-list --all");
    let mut heads: Vec<&str> = all.lines().map(|commit| &commit[..4]).collect();
    heads.sort_unstable();
    for pair in heads.windows(2).filter(|pair| pair[0] == pair[1]) {
        assert!(matches!(
            resolve(&repository, pair[0]),
            Err(ReadError::Ambiguous { .. })
        ));
    }
    let every = repository.odb().unwrap().ids_with_prefix(&head[..4], 10).unwrap();
    assert!(every.contains(&id(&head)));
}
