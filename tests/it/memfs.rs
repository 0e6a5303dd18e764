//! Letta's memory file system: what its server and its clients ask of the sidecar on port 8285, asked of us with a real git.

use std::{
    fs,
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::support::{
    Git, Server, ServerOptions,
    wire::{self, request},
};

const AGENT: &str = "agent-0b2d1f6e-7a4c-4b8e-9a1e-0123456789ab";

/// A server over a base of its own. Without more, `config` is what `[letta_memfs]` says.
fn serve(config: &str) -> (Server, PathBuf) {
    let data = tempfile::tempdir().unwrap();
    let base = data.path().join("memfs/repository");
    let server = Server::on(
        data,
        ServerOptions {
            env: vec![("GITSTEAD_LETTA_MEMFS".to_owned(), base.to_str().unwrap().to_owned())],
            config: Some(config.to_owned()),
            ..ServerOptions::default()
        },
    );
    (server, base)
}

fn url(server: &Server, agent: &str) -> String {
    format!("{}/git/{agent}/state.git", server.url())
}

fn bare(base: &Path, organization: &str, agent: &str) -> PathBuf {
    base.join(organization).join(agent).join("repo.git")
}

/// A repository with one commit on `main`.
fn memory(git: &Git) -> PathBuf {
    let work = git.init("work");
    git.commit(&work, "persona.md", "I remember.\n", "first");
    work
}

/// A bare copy of it that comes into being there at once, as a restored backup does: a server that has just been started looks through what it finds.
fn moved_in(git: &Git, place: &Path) {
    git.ok(git.dir(), "clone -q --bare work moving");
    fs::create_dir_all(place.parent().unwrap()).unwrap();
    fs::rename(git.path("moving"), place).unwrap();
}

fn info_refs(server: &Server, path: &str, headers: &[(&str, &str)]) -> wire::Response {
    request(server, "GET", path, headers, b"")
}

const ASK: &str = "info/refs?service=git-upload-pack";

#[test]
fn sixty_branches_are_cloned_in_version_two_with_a_packed_request() {
    let (server, base) = serve("");
    let git = Git::new().protocol(2).env("GIT_TRACE_CURL", "1");
    let work = git.init("work");
    for n in 0..60 {
        git.commit(&work, "memory.md", format!("{n}\n"), &format!("memory {n}"));
        git.ok(&work, &format!("branch b{n}"));
    }
    let url = url(&server, AGENT);
    git.ok(&work, &format!("push -q {url} --all"));
    // Each branch is a want of its own; on one line of history there are no others to choose.
    let told = git.run(git.dir(), ["clone", "-q", "--mirror", &url, "copy"]);
    assert!(told.ok, "{}", told.stderr);
    assert!(told.stderr.contains("Content-Encoding: gzip"), "{}", told.stderr);
    assert!(
        told.stderr.to_lowercase().contains("git-protocol: version=2"),
        "{}",
        told.stderr
    );
    let branches = git.ok(git.path("copy"), "for-each-ref --format=%(refname) refs/heads");
    assert_eq!(branches.lines().count(), 61);
    git.fsck(git.path("copy"));
    // Where Letta's backend looks for it, as git has it.
    let there = bare(&base, "default", AGENT);
    assert_eq!(
        git.ok(&there, "for-each-ref --format=%(refname) refs/heads"),
        branches,
        "refs are on the disk"
    );
    assert_eq!(git.ok(&there, "symbolic-ref HEAD"), "refs/heads/main");
    assert_eq!(git.ok(&there, "config core.bare"), "true");
    assert_eq!(git.ok(&there, "config http.receivepack"), "true");
    git.fsck(&there);
}

#[test]
fn a_large_push_in_chunks_arrives_whole() {
    let (server, base) = serve("");
    let git = Git::new().env("GIT_TRACE_CURL", "1");
    let work = memory(&git);
    let mut state = 1u64;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (state >> 56) as u8
    })
    .take(3 << 20)
    .collect();
    git.commit(&work, "noise.bin", noise, "more than a buffer");
    let url = url(&server, AGENT);
    let told = git.run(&work, ["-c", "http.postBuffer=65536", "push", "-q", &url, "main"]);
    assert!(told.ok, "{}", told.stderr);
    assert!(told.stderr.contains("Transfer-Encoding: chunked"), "{}", told.stderr);
    let there = bare(&base, "default", AGENT);
    assert_eq!(git.ok(&there, "rev-parse main"), git.ok(&work, "rev-parse main"));
    git.fsck(&there);
}

#[test]
fn every_client_asks_by_either_path_and_for_its_organization() {
    let (server, base) = serve("");
    let git = Git::new();
    let work = memory(&git);
    let direct = format!("{}/v1/git/{AGENT}/state.git", server.url());
    let of = |organization: &str| format!("http.extraHeader=X-Organization-Id: {organization}");
    git.ok(&work, &format!("push -q {direct} main"));
    git.ok_args(&work, ["-c", &of("org-7"), "push", "-q", &direct, "main:other"]);
    assert!(bare(&base, "default", AGENT).is_dir());
    assert!(bare(&base, "org-7", AGENT).is_dir());
    let heads = |organization: &str| {
        let url = url(&server, AGENT);
        git.ok_args(git.dir(), ["-c", &of(organization), "ls-remote", "--heads", &url])
    };
    assert!(heads("default").ends_with("refs/heads/main"));
    assert!(heads("org-7").ends_with("refs/heads/other"));
    // Only one branch has come: a clone is on it.
    let there = bare(&base, "org-7", AGENT);
    assert_eq!(git.ok(&there, "symbolic-ref HEAD"), "refs/heads/other");
}

#[test]
fn what_is_no_agent_is_no_path() {
    let (server, base) = serve("[letta_memfs]\ncreate = \"on-any\"\n");
    for agent in ["..", "%2e%2e", "-x", "a%00", "a%2Fb", ".git", "a.git", "", "a/b"] {
        let answer = info_refs(&server, &format!("/git/{agent}/state.git/{ASK}"), &[]);
        assert_eq!(answer.status, 404, "{agent}");
        assert_eq!(answer.text().trim_end(), "Not a valid memfs path", "{agent}");
    }
    for organization in ["..", "../../x", "a/b", "-x", ".git"] {
        let answer = info_refs(
            &server,
            &format!("/git/a/state.git/{ASK}"),
            &[("X-Organization-Id", organization)],
        );
        assert_eq!(answer.status, 404, "{organization}");
    }
    let twice = [("X-Organization-Id", "a"), ("X-Organization-Id", "b")];
    assert_eq!(
        info_refs(&server, &format!("/git/a/state.git/{ASK}"), &twice).status,
        400
    );
    let answer = request(&server, "DELETE", &format!("/git/a/state.git/{ASK}"), &[], b"");
    assert_eq!((answer.status, answer.headers["allow"].as_str()), (405, "GET, HEAD"));
    // Files are not given out one by one, and other names have no place here.
    request(&server, "GET", &format!("/git/a/state.git/{ASK}"), &[], b"");
    assert_eq!(info_refs(&server, "/git/a/state.git/HEAD", &[]).status, 403);
    let git = Git::new();
    let work = memory(&git);
    let said = git.fails(&work, &format!("push -q {}/repos/other main", server.url()));
    assert!(said.contains("organization/agent/repo"), "{said}");
    let made: Vec<_> = fs::read_dir(&base)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.starts_with(".gitstead-"))
        .collect();
    assert_eq!(made, ["default"]);
}

#[test]
fn asking_makes_a_repository_only_where_that_is_wanted() {
    let agent = |server: &Server| info_refs(server, &format!("/git/{AGENT}/state.git/{ASK}"), &[]).status;
    let (server, base) = serve("");
    assert_eq!(agent(&server), 404);
    assert!(!bare(&base, "default", AGENT).exists());

    let (server, base) = serve("[letta_memfs]\ncreate = \"on-any\"\n");
    let git = Git::new();
    git.ok(git.dir(), &format!("clone -q {} empty", url(&server, AGENT)));
    assert!(bare(&base, "default", AGENT).is_dir());
    assert_eq!(git.ok(git.path("empty"), "symbolic-ref HEAD"), "refs/heads/main");
    // The same letters in another case are the same to many.
    let answer = info_refs(&server, &format!("/git/{}/state.git/{ASK}", AGENT.to_uppercase()), &[]);
    assert_eq!(answer.status, 400, "{}", answer.text());

    let (server, base) = serve("[letta_memfs]\ncreate = \"never\"\n");
    let work = memory(&git);
    git.fails(&work, &format!("push -q {} main", url(&server, AGENT)));
    assert!(!bare(&base, "default", AGENT).exists());
}

#[test]
fn who_may_only_read_makes_nothing_and_who_is_nobody_does_not_push() {
    let config = |more: &str| {
        format!(
            "{more}\n[[tokens]]\nname = \"org-7\"\nhash = \"{}\"\nrepos = [\"org-7/**\"]\naccess = \"write\"\n\
             [letta_memfs]\ncreate = \"on-any\"\n",
            gitstead::base::TokenHash::of("gst_seven")
        )
    };
    let (server, base) = serve(&config("anonymous_read = true"));
    let git = Git::new();
    let work = memory(&git);
    let (token, org) = (
        "http.extraHeader=Authorization: Bearer gst_seven",
        "http.extraHeader=X-Organization-Id: org-7",
    );
    let url = url(&server, AGENT);
    git.ok_args(&work, ["-c", token, "-c", org, "push", "-q", &url, "main"]);
    assert!(bare(&base, "org-7", AGENT).is_dir());
    // All of these repositories say `http.receivepack = true`, which is no reason to let everybody in.
    let told = git.run(&work, ["-c", org, "push", "-q", &url, "main:x"]);
    assert!(!told.ok);
    // The organization is what its grant is about, whatever the header says.
    let told = git.run(&work, ["-c", token, "push", "-q", &url, "main"]);
    assert!(!told.ok);
    let answer = info_refs(&server, &format!("/git/{AGENT}/state.git/{ASK}"), &[]);
    assert_eq!(answer.status, 401, "{}", answer.text());
    assert!(!bare(&base, "default", AGENT).exists());
}

#[test]
fn an_agent_is_found_in_another_organization_if_there_is_only_one() {
    let (server, base) = serve("[letta_memfs]\norg_fallback = true\n");
    let git = Git::new();
    let work = memory(&git);
    moved_in(&git, &bare(&base, "org-1", AGENT));
    let url = url(&server, AGENT);
    for _ in 0..2 {
        assert!(
            git.ok(&work, &format!("ls-remote --heads {url}"))
                .ends_with("refs/heads/main")
        );
    }
    git.ok(&work, &format!("push -q {url} main:more"));
    assert_eq!(
        git.ok(bare(&base, "org-1", AGENT), "rev-parse more"),
        git.ok(&work, "rev-parse main")
    );
    assert!(!bare(&base, "default", AGENT).exists());

    let another = "agent-2";
    for organization in ["org-1", "org-2"] {
        moved_in(&git, &bare(&base, organization, another));
    }
    let answer = info_refs(&server, &format!("/git/{another}/state.git/{ASK}"), &[]);
    assert_eq!(answer.status, 400);
    assert!(
        answer.text().contains("several other organizations"),
        "{}",
        answer.text()
    );

    let (server, base) = serve("");
    moved_in(&git, &bare(&base, "org-1", AGENT));
    assert_eq!(
        info_refs(&server, &format!("/git/{AGENT}/state.git/{ASK}"), &[]).status,
        404
    );
}

#[test]
fn a_repository_that_lettas_backend_made_is_mended_once() {
    let (server, base) = serve("");
    let git = Git::new();
    let work = memory(&git);
    // It uploads the `.git` of a working tree.
    let there = bare(&base, "default", AGENT);
    fs::create_dir_all(there.parent().unwrap()).unwrap();
    fs::rename(work.join(".git"), &there).unwrap();
    assert_eq!(git.ok(&there, "config --file config core.bare"), "false");
    let url = url(&server, AGENT);
    git.ok(git.dir(), &format!("clone -q {url} copy"));
    let copy = git.path("copy");
    git.commit(&copy, "persona.md", "I remember more.\n", "second");
    git.ok(&copy, "push -q origin main");
    assert_eq!(git.ok(&there, "rev-parse main"), git.ok(&copy, "rev-parse main"));
    assert_eq!(git.ok(&there, "config core.bare"), "true");
    let mended = fs::read_to_string(there.join("config")).unwrap();
    git.commit(&copy, "persona.md", "And more.\n", "third");
    git.ok(&copy, "push -q origin main");
    assert_eq!(fs::read_to_string(there.join("config")).unwrap(), mended);
}

#[test]
fn a_forced_push_and_a_deletion_leave_what_was_there() {
    let (server, base) = serve("");
    let git = Git::new();
    let work = memory(&git);
    let url = url(&server, AGENT);
    git.commit(&work, "persona.md", "A long life.\n", "second");
    let long = git.ok(&work, "rev-parse main");
    git.ok(&work, &format!("push -q {url} main main:side"));
    git.ok(&work, "reset -q --hard HEAD~1");
    git.commit(&work, "persona.md", "Who am I?\n", "other");
    let told = git.run(&work, ["push", "-f", &url, "main"]);
    assert!(told.ok, "{}", told.stderr);
    let kept = format!("refs/gitstead/replaced/heads/main/{long}");
    assert!(told.stderr.contains(&kept), "{}", told.stderr);
    git.ok(&work, &format!("push -q {url} :side"));
    let there = bare(&base, "default", AGENT);
    let listed = git.ok(&there, "for-each-ref --format=%(objectname):%(refname) refs/gitstead");
    assert_eq!(
        listed,
        format!("{long}:{kept}\n{long}:refs/gitstead/replaced/heads/side/{long}")
    );
    // The way back, which is a forced push, too; and nobody takes away what is kept.
    let short = git.ok(&work, "rev-parse main");
    git.ok(&work, &format!("push -q -f {url} {long}:refs/heads/main"));
    git.ok(
        &work,
        &format!("fetch -q {url} refs/gitstead/replaced/heads/main/{short}"),
    );
    let said = git.fails(&work, &format!("push {url} :{kept}"));
    assert!(said.contains("it keeps what was replaced"), "{said}");
    // An advance replaces nothing.
    git.ok(&work, "reset -q --hard FETCH_HEAD");
    git.ok(&work, &format!("push -q {url} main:ahead"));
    git.commit(&work, "persona.md", "Ahead.\n", "ahead");
    git.ok(&work, &format!("push -q {url} main:ahead"));
    assert_eq!(git.ok(&there, "for-each-ref refs/gitstead/replaced").lines().count(), 3);
    let log = git.ok(&there, "reflog show --format=%gs main");
    assert_eq!(log.lines().count(), 3, "{log}");
}

#[test]
fn a_body_with_two_lengths_is_none() {
    let (server, _) = serve("");
    let smuggled = format!(
        "POST /git/{AGENT}/state.git/git-receive-pack HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-git-receive-pack-request\r\n\
         Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n0000\r\n0\r\n\r\nGET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    );
    let said = crate::support::raw(&server, smuggled.as_bytes());
    assert!(
        !said.contains("ok\n"),
        "what may be a body is taken for a request: {said}"
    );
}

#[test]
fn the_operator_may_forbid_forced_pushes() {
    let (server, _) = serve("[defaults]\n\"receive.denyNonFastForwards\" = true\n");
    let git = Git::new();
    let work = memory(&git);
    let url = url(&server, AGENT);
    git.ok(&work, &format!("push -q {url} main"));
    git.ok(&work, "commit -q --amend -m other");
    let said = git.fails(&work, &format!("push -f {url} main"));
    assert!(said.contains("non-fast-forward"), "{said}");
}

#[test]
fn an_agent_in_every_organization_cannot_be_kept_from_tokens() {
    let data = tempfile::tempdir().unwrap();
    let config = data.path().join("gitstead.toml");
    let hash = gitstead::base::TokenHash::of("gst_x");
    let text = format!("[letta_memfs]\norg_fallback = true\n[[tokens]]\nname = \"x\"\nhash = \"{hash}\"\n");
    fs::write(&config, text).unwrap();
    let out = std::process::Command::new(env!("CARGO_BIN_EXE_gitstead"))
        .args(["serve", "--data"])
        .arg(data.path())
        .env("HOME", data.path())
        .output()
        .unwrap();
    assert_eq!(out.status.code(), Some(2));
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(said.contains("letta_memfs.org_fallback"), "{said}");
}

#[test]
fn who_starts_it_is_told_where_it_is_and_when_it_is_ready() {
    let data = tempfile::tempdir().unwrap();
    let told = UnixDatagram::bind(data.path().join("notify")).unwrap();
    told.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let home = data.path().to_owned();
    let notify = home.join("notify").to_str().unwrap().to_owned();
    let server = Server::on(
        data,
        ServerOptions {
            args: vec!["--letta-memfs".to_owned()],
            env: vec![
                ("NOTIFY_SOCKET".to_owned(), notify),
                ("WATCHDOG_USEC".to_owned(), "200000".to_owned()),
            ],
            ..ServerOptions::default()
        },
    );
    let mut seen = Vec::new();
    while seen.iter().filter(|text| *text == "WATCHDOG=1").count() < 2 || !seen.iter().any(|text| text == "READY=1") {
        let mut text = [0; 64];
        let length = told.recv(&mut text).expect("it says how it is");
        seen.push(String::from_utf8_lossy(&text[..length]).into_owned());
    }
    assert!(
        home.join(".letta/memfs/repository").is_dir(),
        "the usual base is made at the start"
    );
    let port = server.url().to_owned();
    let (code, said) = server.terminate();
    assert_eq!(code, Some(0));
    assert!(said.contains(&format!("LETTA_MEMFS_SERVICE_URL={port}")), "{said}");
    assert!(said.contains("LETTA_MEMFS_LOCAL=1"), "{said}");
}
