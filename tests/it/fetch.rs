//! Clone and fetch with the machine's git client, in every protocol version. Mirrors t5500, t5537, t5616, t5702 of git's own suite.

use std::{fs, path::Path};

use rstest::rstest;

use crate::support::{
    Git, Server, ServerOptions,
    wire::{fetch, pkt, request},
};

/// A history with everything that has ever confused a server: merges (one octopus), tags of tags, nested and repeated trees, symlinks, executables, gitlinks and
/// names that are not UTF-8.
fn rich_history(git: &Git) -> std::path::PathBuf {
    let repo = git.init("rich");
    git.commit(&repo, "README.md", "hello\n", "first");
    git.commit(&repo, "src/lib.rs", "pub fn a() {}\n", "second");
    for branch in ["one", "two", "three"] {
        git.ok(&repo, &format!("checkout -q -b {branch} HEAD"));
        git.commit(
            &repo,
            &format!("{branch}.txt"),
            format!("{branch}\n").repeat(50),
            branch,
        );
        git.ok(&repo, "checkout -q main");
    }
    git.ok(&repo, "merge -q --no-edit one two three");
    #[cfg(unix)]
    {
        use std::os::unix::{ffi::OsStrExt as _, fs::PermissionsExt as _};
        std::os::unix::fs::symlink("README.md", repo.join("link")).unwrap();
        fs::write(repo.join("run.sh"), "#!/bin/sh\n").unwrap();
        fs::set_permissions(repo.join("run.sh"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(repo.join(std::ffi::OsStr::from_bytes(b"latin\xe9.txt")), "not UTF-8\n").unwrap();
    }
    git.ok(&repo, "add -A");
    git.ok(
        &repo,
        "update-index --add --cacheinfo 160000,1111111111111111111111111111111111111111,module",
    );
    git.ok_args(&repo, ["commit", "-q", "-m", "odd entries"]);
    git.ok_args(&repo, ["tag", "-a", "v1", "-m", "one"]);
    git.ok_args(&repo, ["tag", "-a", "v1-signed-off", "-m", "a tag of a tag", "v1"]);
    git.ok(&repo, "tag light HEAD~1");
    for n in 0..20 {
        git.commit(
            &repo,
            "src/lib.rs",
            (0..=n).map(|m| format!("pub fn f{m}() {{}}\n")).collect::<String>(),
            &format!("change {n}"),
        );
    }
    git.ok_args(&repo, ["notes", "add", "-m", "a note"]);
    repo
}

fn refs_of(git: &Git, repo: &Path) -> String {
    git.ok(repo, "for-each-ref --format=%(objectname)%20%(refname)")
}

/// A server that has `rich` as a bare copy, in one pack with deltas.
fn serve_rich(git: &Git) -> Server {
    let server = Server::start();
    let source = rich_history(git);
    let bare = server.repos().join("rich.git");
    fs::create_dir_all(server.repos()).unwrap();
    git.ok_args(
        git.dir(),
        [
            "clone",
            "-q",
            "--mirror",
            source.to_str().unwrap(),
            bare.to_str().unwrap(),
        ],
    );
    git.ok(&bare, "repack -adq");
    git.ok(&bare, "config uploadpack.allowFilter true");
    git.ok(&bare, "config uploadpack.allowAnySHA1InWant true");
    server
}

#[rstest]
fn a_clone_is_the_repository(#[values(0, 1, 2)] version: u8) {
    let git = Git::new().protocol(version);
    let server = serve_rich(&git);
    git.ok(
        git.dir(),
        &format!("clone -q --mirror {} copy", server.repo_url("rich")),
    );
    let copy = git.path("copy");
    assert_eq!(refs_of(&git, &copy), refs_of(&git, &server.repos().join("rich.git")));
    git.fsck(&copy);
    git.fsck(server.repos().join("rich.git"));
    // The checkout works as well, and the default branch is known.
    git.ok(git.dir(), &format!("clone -q {} work", server.repo_url("rich.git")));
    assert_eq!(git.ok(git.path("work"), "symbolic-ref HEAD"), "refs/heads/main");
    assert_eq!(git.ok(git.path("work"), "status --porcelain"), "");
}

#[rstest]
fn a_fetch_brings_what_is_new_and_only_that(#[values(0, 1, 2)] version: u8) {
    let git = Git::new().protocol(version);
    let server = serve_rich(&git);
    let bare = server.repos().join("rich.git");
    git.ok(git.dir(), &format!("clone -q {} work", server.repo_url("rich")));
    let work = git.path("work");
    // New history arrives on the server without us.
    let other = git.path("other");
    git.ok_args(
        git.dir(),
        ["clone", "-q", bare.to_str().unwrap(), other.to_str().unwrap()],
    );
    git.commit(&other, "src/new.rs", "new\n", "new");
    git.commit(&other, "src/lib.rs", "gone\n", "changed");
    git.ok_args(&other, ["tag", "-a", "v2", "-m", "two"]);
    git.ok(&other, "push -q origin main v2");
    let before = count_objects(&git, &work);
    git.ok(&work, "fetch -q");
    assert_eq!(git.ok(&work, "rev-parse origin/main"), git.ok(&other, "rev-parse HEAD"));
    assert_eq!(
        git.ok(&work, "rev-parse v2"),
        git.ok(&other, "rev-parse v2"),
        "tags of what is fetched come along"
    );
    // Two commits, four trees, two blobs and a tag.
    assert_eq!(count_objects(&git, &work) - before, 9, "no object is sent twice");
    git.fsck(&work);
    // Nothing new: nothing happens.
    let out = git.run(&work, ["fetch", "-v"]);
    assert!(out.ok && out.stderr.contains("[up to date]"), "{}", out.stderr);
}

fn count_objects(git: &Git, repo: &Path) -> usize {
    git.ok(repo, "cat-file --batch-all-objects --batch-check=%(objectname)")
        .lines()
        .count()
}

#[rstest]
fn diverged_histories_meet(#[values(0, 1, 2)] version: u8) {
    let git = Git::new().protocol(version);
    let server = serve_rich(&git);
    git.ok(git.dir(), &format!("clone -q {} work", server.repo_url("rich")));
    let work = git.path("work");
    // The client has a long history of its own that the server has never seen, on top of an old commit.
    git.ok(&work, "checkout -q -b mine HEAD~10");
    for n in 0..60 {
        git.commit(&work, "mine.txt", format!("{n}\n"), &format!("mine {n}"));
    }
    git.ok(&work, "update-ref -d refs/remotes/origin/main");
    git.ok(&work, "branch -q -D main");
    git.ok(&work, "tag -d v1 v1-signed-off light");
    git.ok(&work, "fetch -q origin main");
    assert_eq!(
        git.ok(&work, "rev-parse FETCH_HEAD"),
        git.ok(server.repos().join("rich.git"), "rev-parse main")
    );
    git.fsck(&work);
}

#[rstest]
fn a_shallow_clone_can_be_deepened_and_made_whole(#[values(0, 1, 2)] version: u8) {
    let git = Git::new().protocol(version);
    let server = serve_rich(&git);
    git.ok(
        git.dir(),
        &format!("clone -q --depth 2 --no-single-branch {} work", server.repo_url("rich")),
    );
    let work = git.path("work");
    assert_eq!(git.ok(&work, "rev-list --count origin/main"), "2");
    git.fsck(&work);
    git.ok(&work, "fetch -q --depth 5");
    assert_eq!(git.ok(&work, "rev-list --count origin/main"), "5");
    git.ok(&work, "fetch -q --deepen 3");
    assert_eq!(git.ok(&work, "rev-list --count origin/main"), "8");
    git.fsck(&work);
    git.ok(&work, "fetch -q --depth 1");
    assert_eq!(git.ok(&work, "rev-list --count origin/main"), "1");
    git.ok(&work, "fetch -q --unshallow");
    assert!(!work.join(".git/shallow").exists());
    let all = git.ok(server.repos().join("rich.git"), "rev-list --count main");
    assert_eq!(git.ok(&work, "rev-list --count origin/main"), all);
    git.fsck(&work);
}

#[rstest]
fn history_can_be_cut_by_time_and_by_ref(#[values(0, 1, 2)] version: u8) {
    let git = Git::new().protocol(version);
    let server = Server::start();
    let repo = git.init("timed");
    for n in 0..10 {
        let dated = Git::new().env("GIT_COMMITTER_DATE", &format!("{} +0000", 1_600_000_000 + n * 1000));
        dated.commit(&repo, "a.txt", format!("{n}\n"), &format!("commit {n}"));
    }
    git.ok(&repo, "tag old HEAD~6");
    let bare = server.repos().join("timed.git");
    fs::create_dir_all(server.repos()).unwrap();
    git.ok_args(
        git.dir(),
        [
            "clone",
            "-q",
            "--mirror",
            repo.to_str().unwrap(),
            bare.to_str().unwrap(),
        ],
    );
    git.ok(
        git.dir(),
        &format!("clone -q --shallow-since=1600006000 {} since", server.repo_url("timed")),
    );
    assert_eq!(git.ok(git.path("since"), "rev-list --count HEAD"), "4");
    git.fsck(git.path("since"));
    git.ok(
        git.dir(),
        &format!("clone -q --shallow-exclude=old {} not", server.repo_url("timed")),
    );
    assert_eq!(git.ok(git.path("not"), "rev-list --count HEAD"), "6");
    git.fsck(git.path("not"));
    git.ok(git.path("not"), "fetch -q --unshallow");
    assert_eq!(git.ok(git.path("not"), "rev-list --count HEAD"), "10");
    let said = git.fails(
        git.dir(),
        &format!("clone -q --shallow-exclude=nothing {} never", server.repo_url("timed")),
    );
    assert!(said.contains("nothing"), "{said}");
    let said = git.fails(
        git.dir(),
        &format!("clone -q --shallow-since=1900000000 {} never", server.repo_url("timed")),
    );
    assert!(said.contains("no commits selected for shallow requests"), "{said}");
}

#[rstest]
fn a_fetch_into_a_shallow_clone_stays_shallow(#[values(0, 1, 2)] version: u8) {
    let git = Git::new().protocol(version);
    let server = serve_rich(&git);
    git.ok(
        git.dir(),
        &format!("clone -q --depth 3 {} work", server.repo_url("rich")),
    );
    let work = git.path("work");
    let other = git.path("other");
    git.ok_args(
        git.dir(),
        [
            "clone",
            "-q",
            server.repos().join("rich.git").to_str().unwrap(),
            other.to_str().unwrap(),
        ],
    );
    git.commit(&other, "new.txt", "new\n", "new");
    git.ok(&other, "push -q origin main");
    git.ok(&work, "fetch -q");
    assert_eq!(git.ok(&work, "rev-list --count origin/main"), "4");
    git.fsck(&work);
}

#[rstest]
#[case("blob:none")]
#[case("blob:limit=100")]
#[case("tree:0")]
#[case("tree:2")]
#[case("object:type=commit")]
#[case("combine:blob:limit=1k+tree:3")]
fn a_partial_clone_leaves_out_what_git_would(#[case] filter: &str, #[values(0, 2)] version: u8) {
    let git = Git::new().protocol(version);
    let server = serve_rich(&git);
    let bare = server.repos().join("rich.git");
    git.ok(
        git.dir(),
        &format!("clone -q --bare --filter={filter} {} part", server.repo_url("rich")),
    );
    let ours = git.ok(
        git.path("part"),
        "cat-file --batch-all-objects --batch-check=%(objectname)",
    );
    git.ok_args(
        git.dir(),
        [
            "clone",
            "-q",
            "--bare",
            &format!("--filter={filter}"),
            &format!("file://{}", bare.display()),
            "theirs",
        ],
    );
    let theirs = git.ok(
        git.path("theirs"),
        "cat-file --batch-all-objects --batch-check=%(objectname)",
    );
    assert_eq!(ours, theirs, "{filter}");
    // What is missing comes when it is needed.
    git.ok(
        git.dir(),
        &format!("clone -q --filter={filter} {} work", server.repo_url("rich")),
    );
    assert_eq!(git.ok(git.path("work"), "status --porcelain"), "");
    git.ok(git.path("work"), "log -p --all --stat");
}

#[rstest]
fn a_sparse_filter_is_read_from_the_repository(#[values(0, 2)] version: u8) {
    let git = Git::new().protocol(version);
    let server = serve_rich(&git);
    let bare = server.repos().join("rich.git");
    let spec = git.run_with(&bare, ["hash-object", "-w", "--stdin"], b"/src/\n").text();
    git.ok_args(&bare, ["update-ref", "refs/tags/spec", &spec]);
    git.ok_args(
        git.dir(),
        [
            "clone",
            "-q",
            "--bare",
            &format!("--filter=sparse:oid={spec}"),
            &server.repo_url("rich"),
            "part",
        ],
    );
    let listing = git.run(git.path("part"), ["rev-list", "--objects", "--missing=print", "main"]);
    assert!(listing.ok, "{}", listing.stderr);
    let missing = listing.text().lines().filter(|l| l.starts_with('?')).count();
    assert!(missing > 0, "blobs outside of src/ are left out");
    git.ok(git.path("part"), "cat-file -e main:src/lib.rs");
}

#[test]
fn filters_that_are_not_allowed_are_refused_by_name() {
    let git = Git::new().protocol(2);
    let server = serve_rich(&git);
    let bare = server.repos().join("rich.git");
    git.ok(&bare, "config uploadpackfilter.blob:limit.allow false");
    let said = git.fails(
        git.dir(),
        &format!(
            "clone -q --bare --filter=blob:limit=10 {} part",
            server.repo_url("rich")
        ),
    );
    assert!(said.contains("filter 'blob:limit' not supported"), "{said}");
    git.ok(&bare, "config uploadpackfilter.tree.maxDepth 1");
    let said = git.fails(
        git.dir(),
        &format!("clone -q --bare --filter=tree:3 {} part", server.repo_url("rich")),
    );
    assert!(said.contains("tree filter allows max depth 1, but got 3"), "{said}");
}

#[rstest]
fn an_empty_repository_can_be_cloned(#[values(0, 1, 2)] version: u8) {
    let git = Git::new().protocol(version);
    let server = Server::start();
    fs::create_dir_all(server.repos()).unwrap();
    git.ok_args(
        git.dir(),
        [
            "init",
            "-q",
            "--bare",
            "-b",
            "trunk",
            server.repos().join("empty.git").to_str().unwrap(),
        ],
    );
    let out = git.run(git.dir(), ["clone", &server.repo_url("empty"), "work"]);
    assert!(out.ok && out.stderr.contains("empty repository"), "{}", out.stderr);
    if version == 2 {
        assert_eq!(
            git.ok(git.path("work"), "symbolic-ref HEAD"),
            "refs/heads/trunk",
            "the unborn branch is told"
        );
    }
}

#[rstest]
fn sha256_repositories_are_served(#[values(0, 1, 2)] version: u8) {
    let git = Git::new().protocol(version);
    let server = Server::start();
    fs::create_dir_all(server.repos()).unwrap();
    let bare = server.repos().join("long.git");
    git.ok_args(
        git.dir(),
        ["init", "-q", "--bare", "--object-format=sha256", bare.to_str().unwrap()],
    );
    git.ok(git.dir(), "init -q --object-format=sha256 work");
    let work = git.path("work");
    for n in 0..5 {
        git.commit(&work, "a.txt", format!("{n}\n").repeat(100), "change");
    }
    git.ok(&work, &format!("push -q {} main", server.repo_url("long")));
    git.ok(git.dir(), &format!("clone -q {} copy", server.repo_url("long")));
    assert_eq!(
        git.ok(git.path("copy"), "rev-parse HEAD"),
        git.ok(&work, "rev-parse HEAD")
    );
    git.ok(
        git.dir(),
        &format!("clone -q --depth 1 {} shallow", server.repo_url("long")),
    );
    git.commit(&work, "a.txt", "more\n", "more");
    git.ok(&work, &format!("push -q {} main", server.repo_url("long")));
    git.ok(git.path("copy"), "pull -q");
    git.fsck(git.path("copy"));
    git.fsck(git.path("shallow"));
    git.fsck(&bare);
}

#[rstest]
fn packs_loose_objects_alternates_and_grafts_on_the_server(#[values(0, 2)] version: u8) {
    let git = Git::new().protocol(version);
    let server = serve_rich(&git);
    let bare = server.repos().join("rich.git");
    // A fork that has only its own objects, some loose, in several packs, with a multi-pack-index.
    let fork = server.repos().join("team/fork.git");
    git.ok_args(
        git.dir(),
        [
            "clone",
            "-q",
            "--bare",
            "--shared",
            bare.to_str().unwrap(),
            fork.to_str().unwrap(),
        ],
    );
    let work = git.path("w");
    git.ok_args(
        git.dir(),
        ["clone", "-q", fork.to_str().unwrap(), work.to_str().unwrap()],
    );
    for n in 0..6 {
        git.commit(
            &work,
            "src/lib.rs",
            format!("// {n}\n").repeat(100 + n),
            &format!("fork {n}"),
        );
        git.ok(&work, "push -q origin main");
        if n % 2 == 0 {
            git.ok(&fork, "repack -dq -l");
        }
        if n == 4 {
            git.ok(&fork, "multi-pack-index write");
        }
    }
    git.ok(
        git.dir(),
        &format!("clone -q --mirror {} copy", server.repo_url("team/fork")),
    );
    assert_eq!(refs_of(&git, &git.path("copy")), refs_of(&git, &fork));
    git.fsck(git.path("copy"));
    // A replacement is for those who look, not for those who clone.
    let head = git.ok(&fork, "rev-parse main");
    git.ok(&fork, "replace main main~1");
    git.ok(
        git.dir(),
        &format!("clone -q --bare {} replaced", server.repo_url("team/fork")),
    );
    assert_eq!(git.ok(git.path("replaced"), "rev-parse main"), head);
    git.fsck(git.path("replaced"));
}

#[rstest]
fn a_shallow_repository_is_served_as_far_as_it_goes(#[values(0, 1, 2)] version: u8) {
    let git = Git::new().protocol(version);
    let server = serve_rich(&git);
    let shallow = server.repos().join("shallow.git");
    git.ok_args(
        git.dir(),
        [
            "clone",
            "-q",
            "--bare",
            "--depth",
            "3",
            &format!("file://{}", server.repos().join("rich.git").display()),
            shallow.to_str().unwrap(),
        ],
    );
    git.ok(git.dir(), &format!("clone -q {} copy", server.repo_url("shallow")));
    assert_eq!(git.ok(git.path("copy"), "rev-list --count HEAD"), "3");
    git.fsck(git.path("copy"));
}

#[rstest]
fn a_shallow_client_of_a_shallow_repository_gets_another_branch(#[values(0, 1, 2)] version: u8) {
    let git = Git::new().protocol(version);
    let server = serve_rich(&git);
    let cut = server.repos().join("cut.git");
    let rich = server.repos().join("rich.git");
    git.ok(
        git.dir(),
        &format!(
            "clone -q --bare --depth 2 --no-single-branch file://{} {}",
            rich.display(),
            cut.display()
        ),
    );
    let mut heads = Vec::new();
    for (copy, url) in [
        ("ours", server.repo_url("cut")),
        ("gits", format!("file://{}", cut.display())),
    ] {
        git.ok(
            git.dir(),
            &format!("clone -q --depth 1 --single-branch -b main {url} {copy}"),
        );
        let copy = git.path(copy);
        git.ok(
            &copy,
            "fetch -q --update-shallow origin one:refs/heads/one two:refs/heads/two",
        );
        git.fsck(&copy);
        heads.push(git.ok(&copy, "log --format=%H%x20%P --all"));
    }
    assert_eq!(heads[0], heads[1], "as from git");
}

/// A question between two haves must not look at all haves before it again.
#[test]
fn many_haves_that_are_not_enough_take_no_quadratic_time() {
    let git = Git::new();
    let server = Server::start();
    let bare = server.repos().join("long.git");
    git.ok(git.dir(), &format!("init -q --bare {}", bare.display()));
    let mut stream = String::from("commit refs/heads/lone\ncommitter C <c@d> 1600000000 +0000\ndata 1\nx\n\n");
    for n in 0..5_000 {
        stream.push_str(&format!(
            "commit refs/heads/main\ncommitter C <c@d> {} +0000\ndata 1\nx\n\n",
            1_600_000_100 + n
        ));
    }
    stream.push_str("done\n");
    assert!(
        git.run_with(&bare, ["fast-import", "--quiet", "--done"], stream.as_bytes())
            .ok
    );
    let lone = git.ok(&bare, "rev-parse lone");
    let mut body = pkt(format!("want {lone} multi_ack_detailed ofs-delta\n"));
    body.extend_from_slice(b"0000");
    for (n, known) in git.ok(&bare, "rev-list main").lines().enumerate() {
        body.extend(pkt(format!("have {known}\n")));
        body.extend(pkt(format!("have {:040x}\n", n + 1)));
    }
    body.extend_from_slice(b"0000");
    let began = std::time::Instant::now();
    let answer = fetch(&server, "long", 0, &body).text();
    assert_eq!(answer.matches(" common").count(), 5_000);
    // It took minutes, and takes a fraction of a second: this is no measurement.
    assert!(
        began.elapsed() < std::time::Duration::from_secs(30),
        "{:?}",
        began.elapsed()
    );
}

#[rstest]
fn ten_thousand_refs_are_listed(#[values(0, 2)] version: u8) {
    let git = Git::new().protocol(version);
    let server = serve_rich(&git);
    let bare = server.repos().join("rich.git");
    let head = git.ok(&bare, "rev-parse main");
    let list: String = (0..10_000)
        .map(|n| format!("create refs/heads/t/{n} {head}\n"))
        .collect();
    assert!(git.run_with(&bare, ["update-ref", "--stdin"], list.as_bytes()).ok);
    for packed in [false, true] {
        if packed {
            git.ok(&bare, "pack-refs --all");
        }
        let theirs = git.ok(git.dir(), &format!("ls-remote {}", bare.display()));
        let ours = git.ok(git.dir(), &format!("ls-remote {}", server.repo_url("rich")));
        assert_eq!(ours, theirs);
    }
    let some = git.ok(
        git.dir(),
        &format!("ls-remote --heads {} refs/heads/t/77", server.repo_url("rich")),
    );
    assert_eq!(some.lines().count(), 1);
}

#[test]
fn refs_can_be_wanted_by_name() {
    let git = Git::new().protocol(2);
    let server = serve_rich(&git);
    let bare = server.repos().join("rich.git");
    git.ok(&bare, "config uploadpack.allowRefInWant true");
    git.ok(git.dir(), "init -q work");
    git.ok(
        git.path("work"),
        &format!("fetch -q {} refs/heads/one:refs/heads/got", server.repo_url("rich")),
    );
    assert_eq!(
        git.ok(git.path("work"), "rev-parse got"),
        git.ok(&bare, "rev-parse one")
    );
}

#[rstest]
fn a_clone_is_whole_however_the_server_packs_meanwhile(#[values(0, 2)] version: u8) {
    let git = Git::new().protocol(version);
    let server = serve_rich(&git);
    let bare = server.repos().join("rich.git");
    let expected = refs_of(&git, &bare);
    // Twice from each layout: the second answer may come from what is kept of the first.
    for (n, layout) in [
        "gc -q",
        "unpack",
        "repack -q -adf --depth=3",
        "repack -q -adf --depth=0",
    ]
    .into_iter()
    .enumerate()
    {
        if layout == "unpack" {
            let aside = bare.join("aside.pack");
            let pack = fs::read_dir(bare.join("objects/pack"))
                .unwrap()
                .map(|entry| entry.unwrap().path())
                .find(|path| path.extension().is_some_and(|ext| ext == "pack"))
                .expect("a pack");
            fs::rename(&pack, &aside).unwrap();
            for ext in ["idx", "rev", "bitmap"] {
                let _ = fs::remove_file(pack.with_extension(ext));
            }
            git.run_with(&bare, ["unpack-objects", "-q"], &fs::read(&aside).unwrap());
            fs::remove_file(aside).unwrap();
        } else {
            git.ok(&bare, layout);
        }
        for copy in 0..2 {
            let name = format!("copy-{n}-{copy}");
            git.ok(
                git.dir(),
                &format!("clone -q --mirror {} {name}", server.repo_url("rich")),
            );
            assert_eq!(refs_of(&git, &git.path(&name)), expected, "{layout}");
            git.ok(git.path(&name), "fsck --strict");
        }
    }
}

#[rstest]
fn hidden_refs_are_neither_told_nor_given(#[values(0, 1, 2)] version: u8) {
    let git = Git::new().protocol(version);
    let server = serve_rich(&git);
    let bare = server.repos().join("rich.git");
    git.ok(&bare, "config --unset uploadpack.allowAnySHA1InWant");
    let tree = git.ok(&bare, "rev-parse main^{tree}");
    let secret = git.ok_args(&bare, ["commit-tree", &tree, "-m", "secret"]);
    git.ok(&bare, &format!("update-ref refs/secret/x {secret}"));
    // An answer of the time before is kept, and must not open what is closed now.
    for name in ["before", "again"] {
        git.ok(git.dir(), &format!("init -q {name}"));
        let fetch = format!("fetch -q {} refs/secret/x", server.repo_url("rich"));
        git.ok(git.path(name), &fetch);
        assert_eq!(git.ok(git.path(name), "rev-parse FETCH_HEAD"), secret);
        git.ok(git.path(name), "fsck --strict --no-dangling");
    }
    git.ok(&bare, "config transfer.hideRefs refs/secret");
    let told = git.ok(git.dir(), &format!("ls-remote {}", server.repo_url("rich")));
    assert!(!told.contains("refs/secret") && told.contains("refs/heads/main"));
    git.ok(git.dir(), "init -q work");
    let said = git.fails(
        git.path("work"),
        &format!("fetch -q {} {secret}", server.repo_url("rich")),
    );
    assert!(
        said.contains("not our ref") || said.contains("unadvertised object"),
        "{said}"
    );
    git.ok(&bare, "config uploadpack.allowTipSHA1InWant true");
    git.ok(
        git.path("work"),
        &format!("fetch -q {} {secret}", server.repo_url("rich")),
    );
}

#[test]
fn a_want_that_is_not_here_is_told_by_name() {
    let git = Git::new().protocol(2);
    let server = serve_rich(&git);
    git.ok(git.dir(), "init -q work");
    let said = git.fails(
        git.path("work"),
        &format!(
            "fetch -q {} 1234567890123456789012345678901234567890",
            server.repo_url("rich")
        ),
    );
    assert!(
        said.contains("upload-pack: not our ref 1234567890123456789012345678901234567890"),
        "{said}"
    );
}

#[rstest]
fn a_namespace_is_a_repository_of_its_own(#[values(0, 1, 2)] version: u8) {
    let git = Git::new().protocol(version);
    let server = Server::with(ServerOptions {
        args: vec!["--namespace".into(), "team".into()],
        ..ServerOptions::default()
    });
    let source = rich_history(&git);
    git.ok(&source, &format!("push -q {} main one", server.repo_url("spaced")));
    let bare = server.repos().join("spaced.git");
    let all = refs_of(&git, &bare);
    assert!(all.contains("refs/namespaces/team/refs/heads/main"), "{all}");
    git.ok(
        &bare,
        "update-ref refs/heads/outside refs/namespaces/team/refs/heads/main",
    );
    let told = git.ok(git.dir(), &format!("ls-remote {}", server.repo_url("spaced")));
    assert!(
        told.contains("refs/heads/main") && !told.contains("outside") && !told.contains("namespaces"),
        "{told}"
    );
    git.ok(
        git.dir(),
        &format!("clone -q --bare {} copy", server.repo_url("spaced")),
    );
    git.fsck(git.path("copy"));
}

#[test]
fn the_progress_names_its_steps() {
    let git = Git::new();
    let server = serve_rich(&git);
    let out = git.run(git.dir(), ["clone", "--progress", &server.repo_url("rich"), "work"]);
    assert!(out.ok);
    for step in [
        "remote: Enumerating objects: ",
        "remote: Counting objects: 100%",
        "remote: Total ",
    ] {
        assert!(out.stderr.contains(step), "{step}:\n{}", out.stderr);
    }
}

#[test]
fn the_dumb_protocol_is_served_to_those_who_ask_for_it() {
    let git = Git::new().env("GIT_SMART_HTTP", "0");
    let server = serve_rich(&git);
    git.ok(git.dir(), &format!("clone -q {} work", server.repo_url("rich")));
    git.fsck(git.path("work"));
}

#[test]
fn files_do_not_tell_what_refs_hide() {
    let git = Git::new();
    let server = serve_rich(&git);
    let bare = server.repos().join("rich.git");
    let tree = git.ok(&bare, "rev-parse main^{tree}");
    let secret = git.ok_args(&bare, ["commit-tree", &tree, "-m", "secret"]);
    git.ok(&bare, &format!("update-ref refs/secret/x {secret}"));
    let file = format!("/repos/rich/objects/{}/{}", &secret[..2], &secret[2..]);
    let status = |path: &str| request(&server, "GET", path, &[], b"").status;
    assert_eq!(status(&file), 200, "nothing is hidden yet");
    git.ok(&bare, "config transfer.hideRefs refs/secret");
    for path in [
        &file,
        "/repos/rich/objects/info/packs",
        "/repos/rich/info/refs",
        "/repos/rich/HEAD",
    ] {
        assert_eq!(status(path), 403, "{path}");
    }
    // Who asks for it gets it.
    git.ok(&bare, "config http.getanyfile true");
    assert_eq!(status(&file), 200);

    let spaced = Server::on(
        server.kill(),
        ServerOptions {
            args: vec!["--namespace".into(), "team".into()],
            ..ServerOptions::default()
        },
    );
    for path in [&file, "/repos/rich/HEAD"] {
        assert_eq!(request(&spaced, "GET", path, &[], b"").status, 404, "{path}");
    }
}

#[test]
fn git_repacks_while_we_serve() {
    let git = Git::new();
    let server = serve_rich(&git);
    let bare = server.repos().join("rich.git");
    for round in 0..4 {
        git.ok(
            git.dir(),
            &format!("clone -q --bare {} copy{round}", server.repo_url("rich")),
        );
        git.fsck(git.path(&format!("copy{round}")));
        match round {
            0 => drop(git.ok(&bare, "repack -adfq --depth=3")),
            1 => drop(git.ok(&bare, "gc -q --prune=now")),
            _ => {
                git.ok(&bare, "pack-refs --all");
                git.ok(&bare, "repack -dq");
                git.ok(&bare, "commit-graph write --reachable --changed-paths");
            }
        }
    }
    // And one that vanishes is not there any more.
    fs::remove_dir_all(&bare).unwrap();
    let said = git.fails(git.dir(), &format!("clone -q {} never", server.repo_url("rich")));
    assert!(said.contains("not found"), "{said}");
}

#[test]
fn a_repository_that_cannot_be_served_whole_is_refused() {
    let git = Git::new();
    let server = serve_rich(&git);
    let bare = server.repos().join("rich.git");
    git.ok(&bare, "config core.repositoryFormatVersion 1");
    git.ok(&bare, "config extensions.somethingNew true");
    let said = git.fails(git.dir(), &format!("clone -q {} never", server.repo_url("rich")));
    assert!(said.to_lowercase().contains("somethingnew"), "{said}");
    git.ok(&bare, "config --file config --unset extensions.somethingNew");
    git.ok(&bare, "config --file config extensions.refStorage reftable");
    let said = git.fails(git.dir(), &format!("clone -q {} never", server.repo_url("rich")));
    assert!(said.to_lowercase().contains("reftable"), "{said}");
}
