//! Push with the machine's git client. Mirrors t5400, t5516, t5538, t5541, t5543, t5545 of git's own suite.

use std::fs;

use rstest::rstest;

use crate::support::{Git, Server, ServerOptions, wire};

struct Pushed {
    git: Git,
    server: Server,
    work: std::path::PathBuf,
    bare: std::path::PathBuf,
    url: String,
}

/// A work tree with a few commits whose `main` was pushed, which made the repository.
fn pushed(version: u8) -> Pushed {
    let git = Git::new().protocol(version);
    let server = Server::start();
    let work = git.init("work");
    for n in 0..5 {
        git.commit(
            &work,
            "a.txt",
            format!("line {n}\n").repeat(n + 1),
            &format!("commit {n}"),
        );
    }
    let url = server.repo_url("hello");
    git.ok(&work, &format!("push -q {url} main"));
    let bare = server.repos().join("hello.git");
    Pushed {
        git,
        server,
        work,
        bare,
        url,
    }
}

#[rstest]
fn the_first_push_makes_the_repository(#[values(0, 1, 2)] version: u8) {
    let p = pushed(version);
    assert_eq!(p.git.ok(&p.bare, "rev-parse main"), p.git.ok(&p.work, "rev-parse main"));
    assert_eq!(p.git.ok(&p.bare, "symbolic-ref HEAD"), "refs/heads/main");
    p.git.fsck(&p.bare);
    p.git.ok(p.git.dir(), &format!("clone -q {} copy", p.url));
    assert_eq!(
        p.git.ok(p.git.path("copy"), "rev-parse HEAD"),
        p.git.ok(&p.work, "rev-parse main")
    );
}

#[rstest]
fn branches_move_are_forced_and_deleted(#[values(0, 2)] version: u8) {
    let p = pushed(version);
    let (git, work, url) = (&p.git, &p.work, &p.url);
    git.commit(work, "b.txt", "b\n", "forward");
    git.ok(work, &format!("push -q {url} main main:refs/heads/topic"));
    git.ok_args(work, ["commit", "-q", "--amend", "-m", "rewritten"]);
    let said = git.fails(work, &format!("push {url} main"));
    assert!(
        said.contains("non-fast-forward") || said.contains("fetch first"),
        "{said}"
    );
    git.ok(work, &format!("push -q -f {url} main"));
    assert_eq!(git.ok(&p.bare, "rev-parse main"), git.ok(work, "rev-parse main"));
    git.ok(work, &format!("push -q {url} :topic"));
    assert!(!git.run(&p.bare, ["rev-parse", "-q", "--verify", "refs/heads/topic"]).ok);
    let said = git.fails(work, &format!("push {url} :main"));
    assert!(said.contains("deletion of the current branch prohibited"), "{said}");
    git.fsck(&p.bare);
}

#[rstest]
fn tags_and_notes_are_pushed(#[values(0, 2)] version: u8) {
    let p = pushed(version);
    p.git.ok_args(&p.work, ["tag", "-a", "v1", "-m", "one"]);
    p.git.ok_args(&p.work, ["tag", "-a", "v1.1", "-m", "of a tag", "v1"]);
    p.git.ok(&p.work, "tag light");
    p.git.ok_args(&p.work, ["notes", "add", "-m", "a note"]);
    p.git
        .ok(&p.work, &format!("push -q {} --tags refs/notes/*:refs/notes/*", p.url));
    let told = p.git.ok(p.git.dir(), &format!("ls-remote {}", p.url));
    for name in [
        "refs/tags/v1^{}",
        "refs/tags/v1.1^{}",
        "refs/tags/light",
        "refs/notes/commits",
    ] {
        assert!(told.contains(name), "{name}:\n{told}");
    }
    p.git.fsck(&p.bare);
}

#[rstest]
fn an_atomic_push_with_one_bad_ref_changes_nothing(#[values(0, 2)] version: u8) {
    let p = pushed(version);
    let (git, work, url) = (&p.git, &p.work, &p.url);
    git.ok(&p.bare, "config receive.denyDeletes true");
    git.ok(work, &format!("push -q {url} main:refs/heads/doomed"));
    git.commit(work, "c.txt", "c\n", "c");
    let before = git.ok(&p.bare, "for-each-ref");
    let said = git.fails(work, &format!("push --atomic {url} main main:refs/heads/new :doomed"));
    assert!(said.contains("deletion prohibited"), "{said}");
    assert!(said.contains("atomic push failure"), "{said}");
    assert_eq!(git.ok(&p.bare, "for-each-ref"), before);
    // Without it, what can be done is done.
    git.fails(work, &format!("push {url} main main:refs/heads/new :doomed"));
    assert_eq!(git.ok(&p.bare, "rev-parse new"), git.ok(work, "rev-parse main"));
    assert!(
        git.run(&p.bare, ["rev-parse", "-q", "--verify", "refs/heads/doomed"])
            .ok
    );
}

#[rstest]
fn denials_have_gits_words(#[values(0, 2)] version: u8) {
    let p = pushed(version);
    let (git, work, url) = (&p.git, &p.work, &p.url);
    git.ok(&p.bare, "config receive.denyNonFastForwards true");
    git.ok_args(work, ["commit", "-q", "--amend", "-m", "rewritten"]);
    assert!(
        git.fails(work, &format!("push -f {url} main"))
            .contains("(non-fast-forward)")
    );
    git.ok(&p.bare, "config receive.hideRefs refs/hidden");
    assert!(
        git.fails(work, &format!("push {url} main:refs/hidden/x"))
            .contains("(deny updating a hidden ref)")
    );
    // A ref cannot be a directory of refs.
    git.ok(work, &format!("push -q {url} HEAD~1:refs/heads/dir/file"));
    git.ok(&p.bare, "pack-refs --all");
    let said = git.fails(work, &format!("push {url} HEAD~1:refs/heads/dir"));
    assert!(said.contains("failed to update ref"), "{said}");
    let said = git.fails(work, &format!("push {url} HEAD~1:refs/heads/dir/file/below"));
    assert!(said.contains("failed to update ref"), "{said}");
    git.fsck(&p.bare);
}

#[test]
fn push_options_are_taken_where_they_are_offered() {
    let p = pushed(2);
    p.git.commit(&p.work, "d.txt", "d\n", "d");
    let said = p.git.fails(&p.work, &format!("push -o a=b {} main", p.url));
    assert!(said.contains("does not support push options"), "{said}");
    p.git.ok(&p.bare, "config receive.advertisePushOptions true");
    p.git.ok_args(
        &p.work,
        ["push", "-q", "-o", "a=b", "-o", "", "-o", "semi;colon", &p.url, "main"],
    );
    assert_eq!(p.git.ok(&p.bare, "rev-parse main"), p.git.ok(&p.work, "rev-parse main"));
}

#[test]
fn a_checked_out_branch_is_not_pushed_over() {
    let git = Git::new();
    let server = Server::start();
    fs::create_dir_all(server.repos()).unwrap();
    git.ok_args(server.repos(), ["init", "-q", "live"]);
    let live = server.repos().join("live");
    git.commit(&live, "a.txt", "a\n", "a");
    git.ok(git.dir(), &format!("clone -q {} work", server.repo_url("live")));
    let work = git.path("work");
    git.commit(&work, "b.txt", "b\n", "b");
    let said = git.fails(&work, "push origin main");
    assert!(said.contains("(branch is currently checked out)"), "{said}");
    git.ok(&work, "push -q origin main:other");
    git.ok(&live, "config receive.denyCurrentBranch ignore");
    git.ok(&work, "push -q origin main");
}

#[test]
fn head_of_a_new_repository_names_the_branch_that_came() {
    let p = pushed(2);
    let git = &p.git;
    for (name, branches, head) in [
        ("one", "main:refs/heads/trunk", "refs/heads/trunk"),
        ("two", "main:refs/heads/a main:refs/heads/b", "refs/heads/main"),
        ("three", "main:refs/heads/a main", "refs/heads/main"),
        ("tags", "main:refs/tags/v1", "refs/heads/main"),
    ] {
        git.ok(&p.work, &format!("push -q {} {branches}", p.server.repo_url(name)));
        let bare = p.server.repos().join(format!("{name}.git"));
        assert_eq!(git.ok(&bare, "symbolic-ref HEAD"), head, "{name}");
    }
    git.ok(git.dir(), &format!("clone -q {} copy", p.server.repo_url("one")));
    assert!(git.path("copy/a.txt").exists());
}

#[test]
fn who_pushes_where_there_is_no_room_is_told_why() {
    let p = pushed(2);
    fs::create_dir_all(p.server.repos().join("team/app.git/x")).unwrap();
    let said = p
        .git
        .fails(&p.work, &format!("push {} main", p.server.repo_url("hello/sub")));
    assert!(said.contains("remote: ") && said.contains("'hello'"), "{said}");
    let said = p
        .git
        .fails(&p.work, &format!("push {} main", p.server.repo_url("team")));
    assert!(said.contains("remote: ") && said.contains("'team' is taken"), "{said}");
}

/// Not by a client: over HTTP git 2.47 itself needs 40 seconds to match 10,000 refs before it says anything.
#[test]
fn ten_thousand_refs_in_one_push() {
    let p = pushed(2);
    let head = p.git.ok(&p.work, "rev-parse HEAD");
    let mut body = Vec::new();
    for n in 0..10_000 {
        let capabilities = if n == 0 {
            "\0report-status atomic object-format=sha1"
        } else {
            ""
        };
        let line = format!("{:040} {head} refs/heads/t/{n}{capabilities}", 0);
        body.extend_from_slice(format!("{:04x}{line}", line.len() + 4).as_bytes());
    }
    body.extend_from_slice(b"0000");
    body.extend(p.git.run_with(&p.work, ["pack-objects", "--stdout", "-q"], b"").stdout);
    let path = "/repos/hello/git-receive-pack";
    let kind = [("Content-Type", "application/x-git-receive-pack-request")];
    let answer = wire::exchange(p.server.address(), "POST", path, &kind, &body, body.len()).expect("an answer");
    let said = String::from_utf8_lossy(&answer.body);
    assert!(said.contains("unpack ok"), "{said}");
    assert_eq!(said.matches("ok refs/heads/t/").count(), 10_000);
    assert_eq!(p.git.ok(&p.bare, "for-each-ref refs/heads/t").lines().count(), 10_000);
    p.git.fsck(&p.bare);
    // And they are told one by one again.
    assert_eq!(
        p.git.ok(&p.work, &format!("ls-remote {}", p.url)).lines().count(),
        10_002
    );
}

#[rstest]
fn many_refs_in_one_push(#[values(0, 2)] version: u8) {
    let p = pushed(version);
    let head = p.git.ok(&p.work, "rev-parse HEAD");
    let list: String = (0..500).map(|n| format!("create refs/heads/t/{n} {head}\n")).collect();
    assert!(p.git.run_with(&p.work, ["update-ref", "--stdin"], list.as_bytes()).ok);
    p.git
        .ok(&p.work, &format!("push -q {} refs/heads/t/*:refs/heads/t/*", p.url));
    let count = p.git.ok(&p.bare, "for-each-ref refs/heads/t").lines().count();
    assert_eq!(count, 500);
    p.git.fsck(&p.bare);
}

#[rstest]
fn big_and_thin_pushes(#[values(0, 2)] version: u8) {
    let git = Git::new().protocol(version);
    let server = Server::start();
    let url = server.repo_url("big");
    let work = git.init("work");
    git.generate(&work, 300, 200);
    git.ok(&work, "reset -q --hard main");
    // More than http.postBuffer: a probe, then a chunked body.
    git.ok(&work, &format!("-c http.postBuffer=65536 push -q {url} main"));
    git.commit(&work, "big.bin", pseudo_random(3 << 20), "a large blob");
    git.ok(&work, &format!("-c http.postBuffer=65536 push -q {url} main"));
    // Thin: deltas against what the server has.
    for n in 0..5 {
        let mut text = fs::read(work.join("d0/e0/file0.txt")).unwrap_or_default();
        text.extend_from_slice(format!("more {n}\n").as_bytes());
        git.commit(&work, "d0/e0/file0.txt", text, &format!("thin {n}"));
        git.ok(&work, &format!("push -q {url} main"));
    }
    let bare = server.repos().join("big.git");
    assert_eq!(git.ok(&bare, "rev-parse main"), git.ok(&work, "rev-parse main"));
    git.fsck(&bare);
    git.ok(git.dir(), &format!("clone -q {url} copy"));
    git.fsck(git.path("copy"));
    assert_eq!(git.ok(git.path("copy"), "status --porcelain"), "");
}

fn pseudo_random(len: usize) -> Vec<u8> {
    let mut state = 1u64;
    (0..len)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as u8
        })
        .collect()
}

#[rstest]
fn a_push_from_a_shallow_clone(#[values(0, 2)] version: u8) {
    let p = pushed(version);
    let git = &p.git;
    git.ok(git.dir(), &format!("clone -q --depth 2 {} shallow", p.url));
    let shallow = git.path("shallow");
    git.commit(&shallow, "s.txt", "s\n", "from a shallow clone");
    // The server has what is cut off.
    git.ok(&shallow, "push -q origin main");
    git.fsck(&p.bare);
    // Another server does not.
    let elsewhere = p.server.repo_url("elsewhere");
    let bare = p.server.repos().join("elsewhere.git");
    git.ok(git.dir(), &format!("init -q --bare {}", bare.display()));
    let said = git.fails(&shallow, &format!("push {elsewhere} main"));
    assert!(said.contains("shallow update not allowed"), "{said}");
    git.ok(&bare, "config receive.shallowUpdate true");
    git.ok(&shallow, &format!("push -q {elsewhere} main"));
    git.fsck(&bare);
    assert_eq!(git.ok(&bare, "rev-list --count main"), "3");
}

#[test]
fn a_shallow_push_cuts_off_no_history_that_the_repository_has() {
    let p = pushed(2);
    let git = &p.git;
    git.ok(&p.bare, "config receive.shallowUpdate true");
    let other = git.init("other");
    for n in 0..3 {
        git.commit(&other, "o.txt", format!("{n}\n"), &format!("other {n}"));
    }
    // One clone with two boundaries: the repository has what is behind the one, not what is behind the other.
    git.ok(git.dir(), &format!("clone -q --depth 1 {} shallow", p.url));
    let shallow = git.path("shallow");
    git.ok(
        &shallow,
        &format!("fetch -q --depth 1 file://{} main:other", other.display()),
    );
    git.commit(&shallow, "s.txt", "s\n", "on top");
    git.ok(&shallow, "push -q origin main other");
    let boundary = git.ok(&shallow, "rev-parse other");
    assert_eq!(fs::read_to_string(p.bare.join("shallow")).unwrap().trim(), boundary);
    assert_eq!(git.ok(&p.bare, "rev-list --count main"), "6");
    git.fsck(&p.bare);
}

#[test]
fn a_broken_ref_that_is_deleted_is_gone() {
    let p = pushed(2);
    let heads = p.bare.join("refs/heads");
    let (nowhere, other) = ("12".repeat(20), "34".repeat(20));
    let delete = |old: &str, name: &str| {
        let body = wire::push_body(&[(old, wire::ZERO, name)], wire::PUSH_CAPS, b"");
        wire::push(&p.server, "hello", &body).said()
    };
    // What it holds is no id; its object is missing, as the client says or otherwise; it hides what is packed.
    fs::write(heads.join("garbage"), "garbage\n").unwrap();
    fs::write(heads.join("empty"), "").unwrap();
    fs::write(heads.join("lost"), format!("{nowhere}\n")).unwrap();
    fs::write(heads.join("astray"), format!("{nowhere}\n")).unwrap();
    p.git.ok(&p.bare, "branch packed main");
    p.git.ok(&p.bare, "pack-refs --all");
    fs::write(heads.join("packed"), "").unwrap();
    for (old, name) in [
        (&other, "garbage"),
        (&other, "empty"),
        (&nowhere, "lost"),
        (&other, "astray"),
        (&other, "packed"),
    ] {
        let name = format!("refs/heads/{name}");
        let said = delete(old, &name);
        assert!(said.contains(&format!("ok {name}\n")), "{said}");
        assert!(said.contains("deletion of corrupt ref"), "{said}");
        assert!(!p.bare.join(&name).exists(), "{name}");
        assert!(
            !fs::read_to_string(p.bare.join("packed-refs")).unwrap().contains(&name),
            "{name}"
        );
    }
    // A good one is still compared, and what is not there is no reason to fail.
    let said = delete(&other, "refs/heads/main");
    assert!(said.contains("ng refs/heads/main"), "{said}");
    p.git.ok(&p.bare, "branch topic main");
    let said = delete(&other, "refs/heads/topic");
    assert!(said.contains("ng refs/heads/topic failed to update ref\n"), "{said}");
    let said = delete(&other, "refs/heads/absent");
    assert!(said.contains("ok refs/heads/absent\n"), "{said}");
    assert!(said.contains("deleting a non-existent ref"), "{said}");
}

#[test]
fn a_shallow_push_that_cannot_lock_the_shallow_file_is_told_so() {
    let p = pushed(2);
    let git = &p.git;
    let bare = takes_shallow(&p, "elsewhere");
    git.ok(git.dir(), &format!("clone -q --depth 2 {} shallow", p.url));
    let shallow = git.path("shallow");
    // Somebody else's lock stays, and the client learns which ref it was.
    fs::write(bare.join("shallow.lock"), "").unwrap();
    let url = p.server.repo_url("elsewhere");
    let said = git.fails(&shallow, &format!("push {url} main"));
    assert!(said.contains("(failed to update shallow file)"), "{said}");
    assert!(bare.join("shallow.lock").exists());
    assert!(!bare.join("refs/heads/main").exists());
    // One of ours whose process died does not.
    fs::write(bare.join("shallow.lock"), "gitstead lock\n").unwrap();
    git.ok(&shallow, &format!("push -q {url} main"));
    assert!(!bare.join("shallow.lock").exists());
    git.fsck(&bare);
}

#[test]
fn shallow_pushes_at_once_all_succeed() {
    let p = pushed(2);
    let git = &p.git;
    let bare = takes_shallow(&p, "elsewhere");
    let url = p.server.repo_url("elsewhere");
    let clones: Vec<_> = (1..=4)
        .map(|depth| {
            git.ok(git.dir(), &format!("clone -q --depth {depth} {} depth{depth}", p.url));
            git.path(&format!("depth{depth}"))
        })
        .collect();
    std::thread::scope(|scope| {
        for (n, clone) in clones.iter().enumerate() {
            let url = &url;
            scope.spawn(move || git.ok(clone, &format!("push -q {url} main:refs/heads/b{n}")));
        }
    });
    git.fsck(&bare);
    assert!(!bare.join("shallow.lock").exists());
    assert_eq!(git.ok(&bare, "for-each-ref").lines().count(), 4);
}

/// An empty repository that takes shallow pushes.
fn takes_shallow(p: &Pushed, name: &str) -> std::path::PathBuf {
    let bare = p.server.repos().join(format!("{name}.git"));
    p.git.ok(p.git.dir(), &format!("init -q --bare {}", bare.display()));
    p.git.ok(&bare, "config receive.shallowUpdate true");
    bare
}

#[test]
fn objects_that_clients_must_not_see_are_refused() {
    let p = pushed(2);
    let git = &p.git;
    let blob = git.run_with(&p.work, ["hash-object", "-w", "--stdin"], b"x").text();
    let entry = "100644 .git\0".to_string().into_bytes();
    let mut tree = entry;
    tree.extend((0..20).map(|n| u8::from_str_radix(&blob[n * 2..n * 2 + 2], 16).unwrap()));
    let tree = git
        .run_with(
            &p.work,
            ["hash-object", "-t", "tree", "-w", "--stdin", "--literally"],
            &tree,
        )
        .text();
    let commit = git.ok_args(&p.work, ["commit-tree", &tree, "-m", "evil"]);
    let before = objects_of(&p);
    let said = git.fails(&p.work, &format!("push {} {commit}:refs/heads/evil", p.url));
    assert!(said.contains("hasDotgit"), "{said}");
    assert_eq!(objects_of(&p), before, "nothing is left of a refused push");
    git.ok(&p.bare, "config receive.fsckObjects false");
    git.ok(&p.work, &format!("push -q {} {commit}:refs/heads/evil", p.url));
}

/// Every file beneath `objects/`.
fn objects_of(p: &Pushed) -> Vec<String> {
    let mut all = Vec::new();
    let mut todo = vec![p.bare.join("objects")];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(dir).unwrap().flatten() {
            if entry.file_type().unwrap().is_dir() {
                todo.push(entry.path());
            } else {
                all.push(entry.path().display().to_string());
            }
        }
    }
    all.sort();
    all
}

#[test]
fn a_push_that_lacks_objects_is_refused() {
    let p = pushed(2);
    let git = &p.git;
    // A commit whose tree the server never gets: made by lying to the client about what the server has.
    let commit = git.commit(&p.work, "new/file.txt", "content\n", "new");
    let tree = git.ok(&p.work, "rev-parse HEAD^{tree}");
    let pack = git
        .run_with(
            &p.work,
            ["pack-objects", "--stdout", "-q"],
            format!("{commit}\n").as_bytes(),
        )
        .stdout;
    assert!(!tree.is_empty());
    let old = git.ok(&p.bare, "rev-parse main");
    let line = format!("{old} {commit} refs/heads/main\0report-status object-format=sha1");
    let mut body = format!("{:04x}{line}0000", line.len() + 4).into_bytes();
    body.extend_from_slice(&pack);
    let before = objects_of(&p);
    let answer = crate::support::post(
        &p.server,
        "/repos/hello/git-receive-pack",
        "application/x-git-receive-pack-request",
        &body,
    );
    assert!(
        answer.contains("unpack ok") && answer.contains("ng refs/heads/main missing necessary objects"),
        "{answer}"
    );
    assert_eq!(objects_of(&p), before);
}

#[test]
fn reflogs_say_who_pushed() {
    let p = pushed(2);
    p.git.ok(&p.bare, "config core.logAllRefUpdates true");
    p.git.commit(&p.work, "e.txt", "e\n", "e");
    p.git.ok(&p.work, &format!("push -q {} main", p.url));
    let log = fs::read_to_string(p.bare.join("logs/refs/heads/main")).unwrap();
    assert!(
        log.contains("anonymous <anonymous@http.127.0.0.1>") && log.trim_end().ends_with("\tpush"),
        "{log}"
    );
}

#[test]
fn signed_pushes_are_recorded() {
    let p = pushed(2);
    p.git.ok(&p.bare, "config receive.certNonceSeed seed");
    // A stand-in for gpg that signs anything.
    let gpg = p.git.path("gpg.sh");
    fs::write(&gpg, "#!/bin/sh\ncat >/dev/null\necho '[GNUPG:] SIG_CREATED ' >&2\necho '-----BEGIN PGP SIGNATURE-----'\necho\necho 'x'\necho '-----END PGP SIGNATURE-----'\n").unwrap();
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(&gpg, fs::Permissions::from_mode(0o755)).unwrap();
    p.git.commit(&p.work, "f.txt", "f\n", "f");
    p.git.ok_args(
        &p.work,
        [
            "-c",
            &format!("gpg.program={}", gpg.display()),
            "push",
            "-q",
            "--signed",
            &p.url,
            "main",
        ],
    );
    let records: Vec<_> = fs::read_dir(p.bare.join("push-certs")).unwrap().flatten().collect();
    assert_eq!(records.len(), 1);
    let text = fs::read_to_string(records[0].path()).unwrap();
    assert!(
        text.contains("refs/heads/main") && text.contains("pusher ") && text.contains("nonce-status "),
        "{text}"
    );
}

#[test]
fn what_is_made_where_exports_are_required_is_exported() {
    let git = Git::new();
    let server = Server::with(ServerOptions {
        config: Some("require_export_ok = true\n".to_owned()),
        ..ServerOptions::default()
    });
    let work = git.init("work");
    git.commit(&work, "a", "a", "first");
    git.ok(&work, &format!("push -q {} main", server.repo_url("pushed")));
    let by_api = wire::exchange(
        server.address(),
        "POST",
        "/api/v1/repos",
        &[("Content-Type", "application/json")],
        br#"{"name":"by-api"}"#,
        17,
    );
    assert_eq!(by_api.unwrap().status, 201);
    let status = std::process::Command::new(env!("CARGO_BIN_EXE_gitstead"))
        .args(["repo", "create", "by-cli", "--data"])
        .arg(server.repos().parent().unwrap())
        .arg("--config")
        .arg(server.repos().parent().unwrap().join("gitstead.toml"))
        .stdout(std::process::Stdio::null())
        .status();
    assert!(status.unwrap().success());
    for name in ["pushed", "by-api", "by-cli"] {
        git.ok(&work, &format!("ls-remote {}", server.repo_url(name)));
    }
}

/// Whoever changes names for long, in this process or another, keeps nobody waiting who only asks.
#[test]
fn asking_for_a_push_waits_for_no_lock() {
    let server = Server::start();
    let root = fs::File::open(server.repos()).unwrap();
    root.lock().unwrap();
    let path = "/repos/new/info/refs?service=git-receive-pack";
    let (done, is_done) = std::sync::mpsc::channel();
    let address = server.address().to_owned();
    let asking = std::thread::spawn(move || done.send(wire::exchange(&address, "GET", path, &[], b"", 0)));
    let answer = is_done.recv_timeout(std::time::Duration::from_secs(5));
    root.unlock().unwrap();
    asking.join().unwrap().unwrap();
    assert_eq!(
        answer.expect("an answer in time").map(|answer| answer.status),
        Some(200)
    );
}
