//! Names and directories: lookup as git does it, and repositories that appear, change and vanish.

use std::{fs, path::Path, sync::Arc};

use gitstead::{
    base::{Limits, Pattern, RepoName},
    depot::{CreateOptions, Depot, DepotError, DepotOptions},
    repo::OpenOptions,
};

use crate::support::Git;

fn name(text: &str) -> RepoName {
    RepoName::parse(text).expect("a name")
}

fn depot(root: &Path) -> Depot {
    Depot::new(root, DepotOptions::default()).expect("a depot")
}

fn found(depot: &Depot, text: &str) -> Option<String> {
    match depot.open(&name(text)) {
        Ok(repository) => {
            let below = repository.git_dir().strip_prefix(depot.root());
            Some(below.unwrap_or(repository.git_dir()).display().to_string())
        }
        Err(DepotError::NotFound { .. }) => None,
        Err(other) => panic!("{text}: {other:?}"),
    }
}

fn names(depot: &Depot) -> Vec<String> {
    let listing = depot.list().expect("a listing");
    assert!(!listing.truncated);
    listing.repositories.iter().map(|r| r.name.to_string()).collect()
}

/// Everything under a directory, except what is inside of repositories.
fn left(root: &Path) -> Vec<String> {
    let mut all: Vec<_> = fs::read_dir(root)
        .expect("a directory")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    all.sort();
    all
}

#[test]
fn names_are_looked_up_in_gits_order() {
    let git = Git::new();
    let root = git.path("root");
    for (bare, path) in [
        (false, "worktree"),
        (true, "plain"),
        (true, "dotted.git"),
        (false, "odd.git"),
        (false, "both"),
        (true, "both.git"),
        (true, "a/b/deep.git"),
    ] {
        let flag = if bare { "--bare " } else { "" };
        git.ok(git.dir(), &format!("init -q {flag}{}", root.join(path).display()));
    }
    fs::create_dir_all(root.join("no/repository")).unwrap();
    fs::write(root.join("file"), "text").unwrap();
    let depot = depot(&root);
    for (asked, expected) in [
        ("worktree", Some("worktree/.git")),
        ("worktree/.git", Some("worktree/.git")),
        ("worktree.git", Some("worktree/.git")),
        ("plain", Some("plain")),
        ("dotted", Some("dotted.git")),
        ("dotted.git", Some("dotted.git")),
        ("odd", Some("odd.git/.git")),
        ("odd.git", Some("odd.git/.git")),
        ("both", Some("both/.git")),
        ("both.git", Some("both.git")),
        ("a/b/deep", Some("a/b/deep.git")),
        ("a/b", None),
        ("no/repository", None),
        ("file", None),
        ("file/x", None),
        ("nothing", None),
        ("plain/objects", None),
    ] {
        assert_eq!(found(&depot, asked).as_deref(), expected, "{asked}");
    }
    assert_eq!(
        names(&depot),
        ["a/b/deep", "both", "both.git", "dotted", "odd", "plain", "worktree"]
    );
}

/// What is judged is what is served: whatever lies on disk and however it is asked for, the name that rules are held against is that of the
/// repository that was found.
#[test]
fn no_spelling_leads_to_a_repository_of_another_name() {
    let segments = [
        "app",
        "app.git",
        "app.git.git",
        "app.git.git.git",
        ".git",
        ".git.git",
        "app.GIT",
    ];
    let mut paths: Vec<String> = segments.iter().map(|s| (*s).to_owned()).collect();
    for first in segments {
        for second in segments {
            paths.push(format!("{first}/{second}"));
            paths.extend(segments.iter().map(|third| format!("{first}/{second}/{third}")));
        }
    }
    let names: Vec<RepoName> = paths.iter().filter_map(|path| RepoName::parse(path).ok()).collect();
    let mut located = 0;
    for path in &paths {
        let root = tempfile::tempdir().unwrap();
        for inner in ["objects", "refs"] {
            fs::create_dir_all(root.path().join(path).join(inner)).unwrap();
        }
        fs::write(root.path().join(path).join("HEAD"), "ref: refs/heads/main\n").unwrap();
        let depot = depot(root.path());
        let of_path = path.strip_suffix("/.git").unwrap_or(path);
        let own = of_path
            .strip_suffix(".git")
            .filter(|stem| !stem.is_empty() && !stem.ends_with('/'));
        let own = own.unwrap_or(of_path);
        for name in &names {
            if depot.contains(name).unwrap() {
                located += 1;
                assert_eq!(name.canonical(), own, "{name} leads to {path}");
                assert_eq!(found(&depot, name.as_str()).as_deref(), Some(path.as_str()));
                assert!(Pattern::parse(own).unwrap().matches(name));
            }
        }
    }
    assert!(located > 50, "{located}");
}

#[test]
fn git_files_of_worktrees_and_submodules_are_followed() {
    let git = Git::new();
    let root = git.path("root");
    fs::create_dir(&root).unwrap();
    let main = root.join("main");
    git.ok(&root, "init -q main");
    git.commit(&main, "a", "a", "first");
    git.ok(&main, "worktree add -q ../linked");
    let inner = git.init("inner");
    git.commit(&inner, "b", "b", "first");
    git.ok(
        &main,
        &format!(
            "-c protocol.file.allow=always submodule --quiet add {} sub",
            inner.display()
        ),
    );
    fs::create_dir(root.join("broken")).unwrap();
    fs::write(root.join("broken/.git"), "gitdir: ../nowhere\n").unwrap();
    fs::create_dir(root.join("nonsense")).unwrap();
    fs::write(root.join("nonsense/.git"), b"\xff\x00").unwrap();
    let depot = depot(&root);
    for (asked, expected) in [
        ("linked", Some("main/.git/worktrees/linked")),
        ("main/sub", Some("main/.git/modules/sub")),
        ("broken", None),
        ("nonsense", None),
    ] {
        let expected = expected.map(|path| root.join(path).canonicalize().unwrap());
        let got = depot
            .open(&name(asked))
            .ok()
            .map(|r| r.git_dir().canonicalize().unwrap());
        assert_eq!(got, expected, "{asked}");
    }
    assert_eq!(names(&depot), ["linked", "main"]);
    for asked in ["main", "linked"] {
        assert!(
            matches!(depot.delete(&name(asked)), Err(DepotError::Foreign { .. })),
            "{asked}"
        );
    }
}

#[test]
fn repositories_come_and_go_between_two_requests() {
    let git = Git::new();
    let root = git.path("root");
    let depot = depot(&root);
    assert_eq!(found(&depot, "x"), None);
    git.ok(&root, "init -q --bare x.git");
    assert_eq!(found(&depot, "x").as_deref(), Some("x.git"));
    let first = depot.open(&name("x")).unwrap();
    assert!(
        Arc::ptr_eq(&first, &depot.open(&name("x.git")).unwrap()),
        "it stays open"
    );
    fs::rename(root.join("x.git"), root.join("y.git")).unwrap();
    assert_eq!(found(&depot, "x"), None);
    assert_eq!(found(&depot, "y").as_deref(), Some("y.git"));
    // Another repository in the same place is another repository.
    git.ok(&root, "init -q --bare --object-format=sha256 x.git");
    let second = depot.open(&name("x")).unwrap();
    assert!(!Arc::ptr_eq(&first, &second));
    assert_eq!(second.hash_kind(), gix::hash::Kind::Sha256);
    // One of a higher rank, too.
    git.ok(&root, "init -q x");
    assert_eq!(found(&depot, "x").as_deref(), Some("x/.git"));
    fs::remove_dir_all(root.join("x")).unwrap();
    fs::remove_dir_all(root.join("x.git")).unwrap();
    assert_eq!(found(&depot, "x"), None);
}

#[test]
fn only_so_many_repositories_stay_open() {
    let git = Git::new();
    let mut limits = Limits::default();
    limits.open_repositories = 2;
    let open = OpenOptions {
        limits,
        ..OpenOptions::default()
    };
    let options = DepotOptions {
        open,
        ..DepotOptions::default()
    };
    let depot = Depot::new(&git.path("root"), options).unwrap();
    for text in ["a", "b", "c"] {
        depot.create(&name(text), &CreateOptions::default()).unwrap();
    }
    let a = depot.open(&name("a")).unwrap();
    let b = depot.open(&name("b")).unwrap();
    assert!(Arc::ptr_eq(&a, &depot.open(&name("a")).unwrap()));
    depot.open(&name("c")).unwrap();
    assert!(
        Arc::ptr_eq(&a, &depot.open(&name("a")).unwrap()),
        "a was used last and stays"
    );
    assert!(!Arc::ptr_eq(&b, &depot.open(&name("b")).unwrap()), "b was closed for c");
}

#[test]
fn what_is_not_exported_is_not_there() {
    let git = Git::new();
    let root = git.path("root");
    let options = DepotOptions {
        require_export_ok: true,
        ..DepotOptions::default()
    };
    let depot = Depot::new(&root, options).unwrap();
    git.ok(&root, "init -q --bare a.git");
    assert_eq!(found(&depot, "a"), None);
    assert!(names(&depot).is_empty());
    fs::write(root.join("a.git/git-daemon-export-ok"), "").unwrap();
    assert_eq!(found(&depot, "a").as_deref(), Some("a.git"));
    assert_eq!(names(&depot), ["a"]);
    fs::remove_file(root.join("a.git/git-daemon-export-ok")).unwrap();
    assert_eq!(found(&depot, "a"), None);
}

#[test]
fn git_accepts_what_we_create() {
    let git = Git::new();
    let depot = depot(&git.path("root"));
    for (text, format) in [
        ("one", gix::hash::Kind::Sha1),
        ("team/two.git", gix::hash::Kind::Sha256),
    ] {
        let options = CreateOptions {
            object_format: format,
            default_branch: "trunk".into(),
            description: Some("what it is for".into()),
            ..CreateOptions::default()
        };
        depot.create(&name(text), &options).unwrap();
        let dir = depot.open(&name(text)).unwrap().git_dir().to_owned();
        git.fsck(&dir);
        assert_eq!(git.ok(&dir, "symbolic-ref HEAD"), "refs/heads/trunk");
        assert_eq!(git.ok(&dir, "rev-parse --is-bare-repository"), "true");
        let expected = if format == gix::hash::Kind::Sha1 {
            "sha1"
        } else {
            "sha256"
        };
        assert_eq!(git.ok(&dir, "rev-parse --show-object-format"), expected);
        assert_eq!(fs::read_to_string(dir.join("description")).unwrap(), "what it is for\n");
        let work = git.init(&format!("work-{expected}"));
        fs::remove_dir_all(&work).unwrap();
        git.ok(git.dir(), &format!("clone -q {} {}", dir.display(), work.display()));
        git.commit(&work, "a", "a", "first");
        git.ok(&work, "push -q origin trunk");
        git.fsck(&dir);
    }
    assert_eq!(names(&depot), ["one", "team/two"]);
    assert_eq!(left(depot.root()), ["one.git", "team"]);
}

#[test]
fn names_that_are_taken_are_not_given_again() {
    let git = Git::new();
    let root = git.path("root");
    let depot = depot(&root);
    let create = |text: &str| depot.create(&name(text), &CreateOptions::default());
    create("a").unwrap();
    create("team/app").unwrap();
    git.ok(&root, "init -q work");
    fs::create_dir_all(root.join("stuff/inner")).unwrap();
    fs::create_dir(root.join("empty")).unwrap();
    fs::write(root.join("note"), "text").unwrap();
    for (text, kind) in [
        ("a", "exists"),
        ("a.git", "exists"),
        ("work", "exists"),
        ("a/b", "inside"),
        ("a/b/c", "inside"),
        ("work/x", "inside"),
        ("team/app/x", "inside"),
        ("team", "taken"),
        ("stuff", "taken"),
        ("note", "taken"),
        ("note/x", "taken"),
        (".hidden", "named with"),
        ("a b", "named with"),
    ] {
        let error = create(text).expect_err(text).to_string();
        assert!(error.contains(kind), "{text}: {error}");
    }
    create("empty").unwrap();
    create("team/other").unwrap();
    let bad = CreateOptions {
        default_branch: "a..b".into(),
        ..CreateOptions::default()
    };
    assert!(matches!(depot.create(&name("z"), &bad), Err(DepotError::Branch { .. })));
    assert_eq!(names(&depot), ["a", "empty", "team/app", "team/other", "work"]);
    assert!(!root.join("z.git").exists());
}

#[test]
fn deleting_leaves_nothing() {
    let git = Git::new();
    let root = git.path("root");
    let depot = depot(&root);
    depot.create(&name("team/deep/app"), &CreateOptions::default()).unwrap();
    depot.create(&name("team/other"), &CreateOptions::default()).unwrap();
    depot.delete(&name("team/deep/app.git")).unwrap();
    assert_eq!(left(&root.join("team")), ["other.git"]);
    assert!(matches!(
        depot.delete(&name("team/deep/app")),
        Err(DepotError::NotFound { .. })
    ));
    depot.delete(&name("team/other")).unwrap();
    assert!(left(&root).is_empty());
    std::os::unix::fs::symlink("/", root.join("link")).unwrap();
    git.ok(git.dir(), "init -q --bare elsewhere");
    std::os::unix::fs::symlink(git.path("elsewhere"), root.join("alias.git")).unwrap();
    assert!(matches!(depot.delete(&name("alias")), Err(DepotError::Foreign { .. })));
    assert!(found(&depot, "alias").is_some());
}

#[test]
fn renaming_takes_everything_along() {
    let git = Git::new();
    let root = git.path("root");
    let depot = depot(&root);
    depot.create(&name("old/app"), &CreateOptions::default()).unwrap();
    depot.create(&name("taken"), &CreateOptions::default()).unwrap();
    fs::write(root.join("old/app.git/marker"), "").unwrap();
    let error = depot.rename(&name("old/app"), &name("taken")).unwrap_err();
    assert!(matches!(error, DepotError::Exists { .. }), "{error:?}");
    depot.rename(&name("old/app"), &name("new/place/app")).unwrap();
    assert_eq!(names(&depot), ["new/place/app", "taken"]);
    assert!(root.join("new/place/app.git/marker").exists());
    assert!(!root.join("old").exists());
    depot.rename(&name("taken"), &name("taken/inner")).unwrap();
    assert_eq!(names(&depot), ["new/place/app", "taken/inner"]);
}

#[test]
fn head_can_name_another_branch() {
    let git = Git::new();
    let depot = depot(&git.path("root"));
    depot.create(&name("a"), &CreateOptions::default()).unwrap();
    depot.set_head(&name("a"), "topic/x").unwrap();
    let dir = depot.open(&name("a")).unwrap().git_dir().to_owned();
    assert_eq!(git.ok(&dir, "symbolic-ref HEAD"), "refs/heads/topic/x");
    depot.set_head(&name("a"), "refs/heads/main").unwrap();
    assert_eq!(git.ok(&dir, "symbolic-ref HEAD"), "refs/heads/main");
    for bad in ["", "a..b", "-x", "a b", "HEAD", "x.lock"] {
        assert!(
            matches!(depot.set_head(&name("a"), bad), Err(DepotError::Branch { .. })),
            "{bad:?}"
        );
    }
    assert!(!dir.join("HEAD.lock").exists());
    // What a working tree is on is its owner's business.
    git.ok(depot.root(), "init -q tree");
    assert!(matches!(
        depot.set_head(&name("tree"), "other"),
        Err(DepotError::Foreign { .. })
    ));
    assert_eq!(
        git.ok(depot.root().join("tree"), "symbolic-ref HEAD"),
        "refs/heads/main"
    );
}

#[test]
fn what_a_killed_process_left_is_swept_and_never_served() {
    let git = Git::new();
    let root = git.path("root");
    let depot = depot(&root);
    depot.create(&name("team/app"), &CreateOptions::default()).unwrap();
    for place in [".gitstead-tmp-1", "team/.gitstead-tmp-2"] {
        git.ok(&root, &format!("init -q --bare {place}"));
    }
    assert_eq!(names(&depot), ["team/app"]);
    assert_eq!(found(&depot, ".gitstead-tmp-1"), None);
    assert_eq!(depot.sweep().unwrap(), 2);
    assert_eq!(left(&root), ["team"]);
    assert_eq!(left(&root.join("team")), ["app.git"]);
}

#[test]
fn many_at_once_make_one_repository() {
    let git = Git::new();
    let depot = depot(&git.path("root"));
    let made: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| depot.create(&name("team/app"), &CreateOptions::default()).is_ok()))
            .collect();
        threads.into_iter().map(|t| usize::from(t.join().unwrap())).sum()
    });
    assert_eq!(made, 1);
    git.fsck(depot.root().join("team/app.git"));
    assert_eq!(left(&depot.root().join("team")), ["app.git"]);
}

#[test]
fn the_blank_repository_is_shown_and_not_kept() {
    let git = Git::new();
    let root = git.path("root");
    let house = depot(&root);
    let options = CreateOptions::default();
    let blank = house.blank(&options).unwrap();
    assert!(Arc::ptr_eq(&blank, &house.blank(&options).unwrap()));
    fs::remove_dir_all(blank.git_dir()).unwrap();
    assert!(
        house.blank(&options).unwrap().git_dir().join("HEAD").exists(),
        "it is made again"
    );
    assert!(names(&house).is_empty());
    drop(house);
    assert!(left(&root).is_empty());
}

#[test]
fn a_repository_that_a_failed_push_made_goes_again_and_others_stay() {
    let git = Git::new();
    let root = git.path("root");
    let depot = depot(&root);
    depot.create(&name("team/fresh"), &CreateOptions::default()).unwrap();
    assert!(depot.discard_if_empty(&name("team/fresh")).unwrap());
    assert!(left(&root).is_empty());
    depot.create(&name("used"), &CreateOptions::default()).unwrap();
    let work = git.init("work");
    git.commit(&work, "a", "a", "first");
    git.ok(&work, &format!("push -q {} main", root.join("used.git").display()));
    assert!(!depot.discard_if_empty(&name("used")).unwrap());
    assert_eq!(names(&depot), ["used"]);
}

#[test]
fn circles_of_links_end() {
    let git = Git::new();
    let root = git.path("root");
    let depot = depot(&root);
    depot.create(&name("team/app"), &CreateOptions::default()).unwrap();
    std::os::unix::fs::symlink(&root, root.join("team/up")).unwrap();
    std::os::unix::fs::symlink("loop", root.join("loop")).unwrap();
    assert_eq!(found(&depot, "loop"), None);
    assert_eq!(depot.list().unwrap().repositories.len(), 1);
}

#[test]
fn a_repository_that_somebody_uses_is_not_discarded() {
    let root = tempfile::tempdir().unwrap();
    let depot = Arc::new(depot(root.path()));
    let x = name("team/x");
    depot.create(&x, &CreateOptions::default()).unwrap();
    let (first, second) = (depot.lease(&x).unwrap(), depot.lease(&name("team/x.git")).unwrap());
    drop(first);
    assert!(!depot.discard_if_empty(&x).unwrap());
    assert!(second.git_dir().join("HEAD").exists());
    // The last one takes it away.
    drop(second);
    assert!(left(root.path()).is_empty());
    // Unless something has come meanwhile.
    depot.create(&x, &CreateOptions::default()).unwrap();
    let lease = depot.lease(&x).unwrap();
    assert!(!depot.discard_if_empty(&x).unwrap());
    fs::write(lease.git_dir().join("refs/heads/main"), "1".repeat(40)).unwrap();
    drop(lease);
    assert!(depot.contains(&x).unwrap());
}

#[test]
fn what_a_depot_makes_is_exported_where_it_has_to_be() {
    let root = tempfile::tempdir().unwrap();
    let options = DepotOptions {
        require_export_ok: true,
        ..DepotOptions::default()
    };
    let depot = Depot::new(root.path(), options).unwrap();
    depot.create(&name("x"), &CreateOptions::default()).unwrap();
    assert!(depot.contains(&name("x")).unwrap());
    assert!(depot.discard_if_empty(&name("x")).unwrap());
    assert!(left(root.path()).is_empty());
}

#[test]
fn a_sweep_leaves_the_blank_repository() {
    let root = tempfile::tempdir().unwrap();
    let depot = depot(root.path());
    let blank = depot.blank(&CreateOptions::default()).unwrap();
    fs::create_dir_all(root.path().join("team/.gitstead-tmp-1-2-3/objects")).unwrap();
    assert_eq!(depot.sweep().unwrap(), 1);
    assert!(blank.git_dir().join("HEAD").exists());
    assert!(left(&root.path().join("team")).is_empty());
}
