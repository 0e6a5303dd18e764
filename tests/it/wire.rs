//! What the protocol has and no git client asks for by default, as bytes to the running server; where C git is the standard, it is given the same bytes.
//! Mirrors t5701, t5702, t5703, t5704, t5510, t5539, t5540 and t5551 of git's own suite.

use std::{
    cell::RefCell,
    collections::BTreeSet,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    time::Instant,
};

use gitstead::{
    base::{TokenHash, token_text},
    protocol::{Decoded, Packet, decode, to_text},
};

use crate::support::{
    Git, Server, ServerOptions,
    wire::{self, PATIENCE, PUSH_CAPS, Pack, ZERO, advertisement, fetch, pkt, pkts, push, push_body, request},
};

/// A repository with a history that forks, and tags.
struct Fork {
    git: Git,
    server: Server,
    bare: PathBuf,
    /// `main`, its first commit first.
    main: Vec<String>,
    /// Two commits on top of `main[2]`.
    side: Vec<String>,
    tag: String,
    /// Where git answered something else.
    differences: RefCell<Vec<String>>,
}

fn fork() -> Fork {
    let git = Git::new();
    let server = Server::start();
    let work = git.init("work");
    let dated = |git: &Git, n: usize, file: &str| {
        std::fs::write(work.join(file), format!("{file} {n}\n").repeat(40 + n)).unwrap();
        git.ok(&work, "add -A");
        let date = format!("{} +0000", 1_600_000_000 + n * 1000);
        let out = git
            .command(&work)
            .env("GIT_COMMITTER_DATE", date)
            .args(["commit", "-q", "-m", &format!("commit {n}")])
            .output()
            .unwrap();
        assert!(out.status.success());
        git.ok(&work, "rev-parse HEAD")
    };
    let main: Vec<String> = (0..6)
        .map(|n| dated(&git, n, if n % 2 == 0 { "a" } else { "b" }))
        .collect();
    git.ok_args(&work, ["tag", "-a", "v1", "-m", "one", &main[3]]);
    let tag = git.ok(&work, "rev-parse v1");
    git.ok(&work, &format!("checkout -q -b side {}", main[2]));
    let side: Vec<String> = (6..8).map(|n| dated(&git, n, "c")).collect();
    git.ok(&work, &format!("push -q {} main side v1", server.repo_url("fork")));
    let bare = server.repos().join("fork.git");
    git.ok(&bare, "repack -adq");
    Fork {
        git,
        server,
        bare,
        main,
        side,
        tag,
        differences: RefCell::default(),
    }
}

impl Fork {
    fn ours(&self, version: u8, body: &[u8]) -> Vec<u8> {
        let answer = fetch(&self.server, "fork", version, body);
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.body
    }

    /// What git answers, and what it dies of.
    fn theirs(&self, version: u8, body: &[u8]) -> (Vec<u8>, Option<String>) {
        use std::process::Stdio;
        let mut child = self
            .git
            .command(&self.bare)
            .env("GIT_PROTOCOL", format!("version={version}"))
            .args(["upload-pack", "--stateless-rpc", "."])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // git may stop reading when it has seen enough.
        let _ = child.stdin.take().unwrap().write_all(body);
        let out = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        let died = said.lines().find_map(|line| line.strip_prefix("fatal: "));
        (out.stdout, died.map(str::to_owned))
    }

    /// Notes where the two answer with other packets or other objects; gives ours.
    fn same(&self, what: &str, version: u8, body: &[u8]) -> (String, BTreeSet<String>) {
        let ours = self.taken_apart(&self.ours(version, body));
        let (answer, died) = self.theirs(version, body);
        let theirs = self.taken_apart(&answer);
        // What git writes before it dies is of no use to anybody, and of its last words a client over HTTP hears nothing at all.
        let told = |text: &str| {
            text.lines()
                .find(|line| line.contains("ERR "))
                .map(|line| line.trim_end_matches("\\-").to_owned())
        };
        let same = match (told(&ours.0), told(&theirs.0), died) {
            _ if sorted(&ours.0) == sorted(&theirs.0) => {
                // git sends what lies within the client's boundary again when that moves; the client has it.
                let left_out: BTreeSet<String> = theirs.1.difference(&ours.1).cloned().collect();
                ours.1.is_subset(&theirs.1) && left_out.is_subset(&self.objects_of_haves(body))
            }
            (Some(ours), Some(theirs), _) => ours == theirs,
            (Some(ours), None, Some(died)) => {
                let ours = ours.split_once("ERR ").map_or("", |(_, words)| words);
                died == ours || died.strip_prefix("git upload-pack: ") == Some(ours)
            }
            _ => false,
        };
        if !same {
            let differ = format!(
                "{what}, version {version}\n-- ours:\n{}{:#?}\n-- git's:\n{}{:#?}\n{:?}",
                ours.0,
                ours.1,
                theirs.0,
                theirs.1,
                self.theirs(version, body).1
            );
            self.differences.borrow_mut().push(differ);
        }
        ours
    }

    /// Everything in the trees of the commits that a request says the client has.
    fn objects_of_haves(&self, body: &[u8]) -> BTreeSet<String> {
        let mut all = BTreeSet::new();
        let text = to_text(body);
        let ids = |word: &'static str| text.lines().filter_map(move |line| line.strip_prefix(word));
        for id in ids("have ").chain(ids("shallow ")) {
            let listed = self
                .git
                .run(&self.bare, ["ls-tree", "-r", "-t", "--format=%(objectname)", id]);
            all.extend(listed.text().lines().map(str::to_owned));
        }
        all
    }

    #[track_caller]
    fn no_differences(&self) {
        let differences = self.differences.take();
        assert!(
            differences.is_empty(),
            "{} answers differ:\n{}",
            differences.len(),
            differences.join("\n")
        );
    }

    /// The packets of an answer as text, and the objects of its pack.
    fn taken_apart(&self, bytes: &[u8]) -> (String, BTreeSet<String>) {
        let (mut rest, mut head, mut pack) = (bytes, String::new(), Vec::new());
        while let Ok(Decoded::Complete { packet, consumed }) = decode(rest) {
            match packet {
                Packet::Data([2, ..]) => {}
                Packet::Data([1]) => {}
                Packet::Data([1, data @ ..]) if !pack.is_empty() || data.starts_with(b"PACK") => {
                    pack.extend_from_slice(data)
                }
                _ => head.push_str(&to_text(&rest[..consumed])),
            }
            rest = &rest[consumed..];
        }
        if rest.starts_with(b"PACK") {
            pack.extend_from_slice(rest);
        } else {
            head.push_str(&to_text(rest));
        }
        (
            head,
            if pack.is_empty() {
                BTreeSet::new()
            } else {
                self.objects(&pack)
            },
        )
    }

    fn objects(&self, pack: &[u8]) -> BTreeSet<String> {
        let path = self.git.path("answer.pack");
        std::fs::write(&path, pack).unwrap();
        let idx = self.git.path("answer.idx");
        let _ = std::fs::remove_file(&idx);
        self.git.ok(
            self.git.dir(),
            &format!("index-pack -o {} {}", idx.display(), path.display()),
        );
        let listed = self.git.run_with(
            self.git.dir(),
            ["show-index", "--object-format=sha1"],
            &std::fs::read(&idx).unwrap(),
        );
        assert!(listed.ok, "{}", listed.stderr);
        listed
            .text()
            .lines()
            .map(|line| line.split(' ').nth(1).unwrap().to_owned())
            .collect()
    }

    fn config(&self, line: &str) {
        self.git.ok(&self.bare, &format!("config {line}"));
    }
}

/// The packets of an answer, lines about the boundary in one order: git's is that of a hash table.
fn sorted(head: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = head.lines().collect();
    for group in lines.split_mut(|line| !line.starts_with("shallow ") && !line.starts_with("unshallow ")) {
        group.sort();
    }
    lines
}

fn v2(command: &str, arguments: &str) -> Vec<u8> {
    pkts(&format!(
        "command={command}\nobject-format=sha1\n0001\n{arguments}\n0000"
    ))
}

fn v0(caps: &str, wants: &[&str], more: &str) -> Vec<u8> {
    let mut out = pkt(format!("want {} {caps}\n", wants[0]));
    for want in &wants[1..] {
        out.extend(pkt(format!("want {want}\n")));
    }
    out.extend(pkts(more));
    out
}

#[test]
fn version_2_fetches_are_answered_as_git_answers_them() {
    let f = fork();
    for line in [
        "uploadpack.allowFilter true",
        "uploadpack.allowRefInWant true",
        "uploadpack.allowSidebandAll true",
    ] {
        f.config(line);
    }
    let (main, side) = (&f.main, &f.side);
    let (tip, third, first) = (&main[5], &main[2], &main[0]);
    let unknown = "1".repeat(40);
    for (what, arguments) in [
        ("everything", format!("want {tip}\ndone")),
        (
            "two tips",
            format!("want {tip}\nwant {}\nno-progress\nofs-delta\ndone", side[1]),
        ),
        ("the same twice", format!("want {tip}\nwant {tip}\ndone")),
        ("a part", format!("want {tip}\nhave {third}\ndone")),
        ("ready before done", format!("want {tip}\nhave {third}\nhave {unknown}")),
        ("not ready", format!("want {tip}\nwant {}\nhave {unknown}", side[1])),
        (
            "nothing in common, but done",
            format!("want {tip}\nhave {unknown}\ndone"),
        ),
        ("a have of another line", format!("want {tip}\nhave {}\ndone", side[1])),
        ("what is there", format!("want {tip}\nhave {tip}\ndone")),
        ("no want", format!("have {tip}\ndone")),
        ("nothing", String::new()),
        ("wait for done", format!("want {tip}\nhave {third}\nwait-for-done")),
        (
            "wait for done, nothing common",
            format!("want {tip}\nhave {unknown}\nwait-for-done"),
        ),
        (
            "wait for done without a want",
            format!("have {third}\nhave {unknown}\nwait-for-done"),
        ),
        (
            "wait for done, done",
            format!("want {tip}\nhave {third}\nwait-for-done\ndone"),
        ),
        (
            "sideband-all",
            format!("sideband-all\nwant {tip}\nhave {third}\nhave {unknown}"),
        ),
        (
            "sideband-all, shallow",
            format!("sideband-all\nwant {tip}\ndeepen 1\ndone"),
        ),
        ("sideband-all, an error", format!("sideband-all\nwant {unknown}\ndone")),
        ("a ref", "want-ref refs/heads/side\ndone".to_owned()),
        (
            "refs and ids",
            format!("want-ref refs/heads/side\nwant-ref refs/tags/v1\nwant {tip}\nhave {third}\ndone"),
        ),
        ("HEAD as a ref", "want-ref HEAD\ndone".to_owned()),
        ("a ref that is not", "want-ref refs/heads/none\ndone".to_owned()),
        (
            "a ref twice",
            "want-ref refs/heads/side\nwant-ref refs/heads/side\ndone".to_owned(),
        ),
        ("a tag", format!("want {}\ndone", f.tag)),
        ("tags included", format!("want {tip}\ninclude-tag\ndone")),
        ("tags not included", format!("want {}\ninclude-tag\ndone", main[2])),
        (
            "a tree",
            format!("want {}\ndone", f.git.ok(&f.bare, "rev-parse main^{tree}")),
        ),
        ("one deep", format!("want {tip}\ndeepen 1\ndone")),
        (
            "two deep, two tips",
            format!("want {tip}\nwant {}\ndeepen 2\ndone", side[1]),
        ),
        (
            "deeper",
            format!("want {tip}\nshallow {}\nhave {tip}\ndeepen 3\ndone", main[4]),
        ),
        (
            "relative",
            format!(
                "want {tip}\nshallow {}\nhave {tip}\ndeepen 1\ndeepen-relative\ndone",
                main[4]
            ),
        ),
        (
            "relative beyond the root",
            format!(
                "want {tip}\nshallow {}\nhave {tip}\ndeepen 9\ndeepen-relative\ndone",
                main[4]
            ),
        ),
        (
            "unshallow",
            format!("want {tip}\nshallow {}\nhave {tip}\ndeepen 2147483647\ndone", main[4]),
        ),
        ("since", format!("want {tip}\ndeepen-since 1600002500\ndone")),
        ("not", format!("want {tip}\ndeepen-not v1\ndone")),
        (
            "not, two",
            format!("want {tip}\ndeepen-not refs/tags/v1\ndeepen-not side\ndone"),
        ),
        (
            "stays shallow",
            format!("want {tip}\nshallow {}\nhave {}\ndone", main[3], main[3]),
        ),
        ("no blobs", format!("want {tip}\nfilter blob:none\ndone")),
        (
            "no blobs, the blob itself",
            format!("want {}\nfilter blob:none\ndone", f.git.ok(&f.bare, "rev-parse main:a")),
        ),
        ("small blobs", format!("want {tip}\nfilter blob:limit=300\ndone")),
        ("no trees", format!("want {tip}\nfilter tree:0\nhave {first}\ndone")),
        ("only commits", format!("want {tip}\nfilter object:type=commit\ndone")),
        ("a filter that is none", format!("want {tip}\nfilter frob\ndone")),
        (
            "two filters",
            format!("want {tip}\nfilter blob:none\nfilter tree:0\ndone"),
        ),
        ("no id", "want xyz\ndone".to_owned()),
        ("an unknown line", format!("want {tip}\nfrobnicate\ndone")),
        ("bad shallow", format!("want {tip}\nshallow xyz\ndone")),
        ("bad have", format!("want {tip}\nhave xyz\ndone")),
        ("bad deepen", format!("want {tip}\ndeepen 0\ndone")),
        ("deepen both ways", format!("want {tip}\ndeepen 1\ndeepen-not v1\ndone")),
        (
            "packfile-uris that are off",
            format!("want {tip}\npackfile-uris https\ndone"),
        ),
    ] {
        f.same(what, 2, &v2("fetch", &arguments));
    }
    f.no_differences();
}

#[test]
fn other_commands_of_version_2_are_answered_as_git_answers_them() {
    let f = fork();
    for line in [
        "transfer.advertiseObjectInfo true",
        "uploadpack.advertiseBundleURIs true",
        "bundle.version 1",
        "bundle.mode all",
        "bundle.heuristic creationToken",
        "bundle.one.uri https://example.com/one.bundle",
        "bundle.one.creationToken 1",
        "bundle.Two.uri https://example.com/two.bundle",
    ] {
        f.config(line);
    }
    f.git.ok(&f.bare, "symbolic-ref refs/heads/alias refs/heads/side");
    let blob = f.git.ok(&f.bare, "rev-parse main:a");
    let unknown = "1".repeat(40);
    for (command, arguments) in [
        ("bundle-uri", String::new()),
        ("bundle-uri", "frob".to_owned()),
        (
            "object-info",
            format!("size\noid {blob}\noid {}\noid {}", f.main[5], f.tag),
        ),
        ("object-info", format!("size\noid {blob}\noid {blob}")),
        ("object-info", format!("size\noid {unknown}")),
        ("object-info", "size".to_owned()),
        ("object-info", format!("oid {blob}")),
        ("object-info", "size\nfrob".to_owned()),
        ("object-info", "size\noid xyz".to_owned()),
        ("ls-refs", String::new()),
        ("ls-refs", "peel".to_owned()),
        ("ls-refs", "symrefs".to_owned()),
        ("ls-refs", "peel\nsymrefs\nunborn".to_owned()),
        ("ls-refs", "ref-prefix refs/heads/\nref-prefix HEAD".to_owned()),
        ("ls-refs", "ref-prefix HEAD\nsymrefs".to_owned()),
        ("ls-refs", "peel\nref-prefix refs/tags/v".to_owned()),
        ("ls-refs", "ref-prefix nothing".to_owned()),
        ("ls-refs", "frob".to_owned()),
    ] {
        let (told, _) = f.same(&format!("{command} {arguments:?}"), 2, &v2(command, &arguments));
        assert!(
            command != "bundle-uri" || !arguments.is_empty() || told.contains("bundle.one.uri=https://"),
            "{told}"
        );
    }
    for body in [
        "command=ls-refs\nserver-option=one\nserver-option=two\nagent=git/test\n0001\n0000",
        "command=ls-refs\n0000",
        "0000",
        "",
        "agent=git/test\n0000",
        "command=frob\n0001\n0000",
        "frob\n0001\n0000",
        "command=ls-refs\ncommand=fetch\n0001\n0000",
        "command=ls-refs\nobject-format=sha256\n0001\n0000",
        "command=ls-refs\nobject-format=md5\n0001\n0000",
        "command=ls-refs\n0001\n0001\n0000",
        "command=fetch\n0001\n0001\n0000",
    ] {
        f.same(body, 2, &pkts(body));
    }
    // HEAD that is not born yet.
    f.git.ok(&f.bare, "symbolic-ref HEAD refs/heads/unborn");
    f.same("unborn", 2, &v2("ls-refs", "symrefs\nunborn\nref-prefix HEAD"));
    f.same("unborn, not asked", 2, &v2("ls-refs", "symrefs\nref-prefix HEAD"));
    // What the client may say with a request, by the real one.
    let url = f.server.repo_url("fork");
    let told = f.git.ok(
        f.git.dir(),
        &format!("-c protocol.version=2 ls-remote -o x --server-option=y {url}"),
    );
    assert!(told.contains("refs/heads/main"), "{told}");
    f.no_differences();
}

#[test]
fn rounds_of_versions_0_and_1_are_answered_as_git_answers_them() {
    let f = fork();
    f.config("uploadpack.allowFilter true");
    let (main, side) = (&f.main, &f.side);
    let (tip, third) = (&main[5][..], &main[2][..]);
    let unknown = "1".repeat(40);
    let band = "side-band-64k ofs-delta no-progress";
    let haves = format!("0000\nhave {third}\nhave {unknown}\n");
    for (what, body) in [
        ("everything", v0(band, &[tip], "0000\ndone")),
        ("no band", v0("", &[tip], "0000\ndone")),
        ("the small band", v0("side-band", &[tip], "0000\ndone")),
        ("two wants", v0(band, &[tip, &side[1]], "0000\ndone")),
        ("plain, flush", v0(band, &[tip], &format!("{haves}0000"))),
        ("plain, done", v0(band, &[tip], &format!("{haves}done"))),
        (
            "plain, nothing common",
            v0(band, &[tip], &format!("0000\nhave {unknown}\n0000")),
        ),
        (
            "multi_ack, flush",
            v0(&format!("multi_ack {band}"), &[tip], &format!("{haves}0000")),
        ),
        (
            "multi_ack, done",
            v0(&format!("multi_ack {band}"), &[tip], &format!("{haves}done")),
        ),
        (
            "multi_ack, not all",
            v0(
                &format!("multi_ack {band}"),
                &[tip, &side[1]],
                &format!("0000\nhave {}\n0000", side[0]),
            ),
        ),
        (
            "detailed, flush",
            v0(&format!("multi_ack_detailed {band}"), &[tip], &format!("{haves}0000")),
        ),
        (
            "detailed, done",
            v0(&format!("multi_ack_detailed {band}"), &[tip], &format!("{haves}done")),
        ),
        (
            "detailed, all known",
            v0(
                &format!("multi_ack_detailed {band}"),
                &[tip],
                &format!("0000\nhave {third}\n0000"),
            ),
        ),
        (
            "detailed, none",
            v0(
                &format!("multi_ack_detailed {band}"),
                &[tip],
                &format!("0000\nhave {unknown}\n0000"),
            ),
        ),
        (
            "no-done, ready",
            v0(
                &format!("multi_ack_detailed no-done {band}"),
                &[tip],
                &format!("{haves}0000"),
            ),
        ),
        (
            "no-done, all known",
            v0(
                &format!("multi_ack_detailed no-done {band}"),
                &[tip],
                &format!("0000\nhave {third}\n0000"),
            ),
        ),
        (
            "no-done, not ready",
            v0(
                &format!("multi_ack_detailed no-done {band}"),
                &[tip],
                &format!("0000\nhave {unknown}\n0000"),
            ),
        ),
        (
            "no-done, one line only",
            v0(
                &format!("multi_ack_detailed no-done {band}"),
                &[tip, &side[1]],
                &format!("0000\nhave {}\n0000", main[4]),
            ),
        ),
        ("tags", v0(&format!("include-tag {band}"), &[tip], "0000\ndone")),
        ("a tag", v0(band, &[&f.tag], "0000\ndone")),
        (
            "one deep",
            v0(&format!("shallow {band}"), &[tip], "deepen 1\n0000\ndone"),
        ),
        (
            "where would it end",
            v0(&format!("shallow {band}"), &[tip], "deepen 1\n0000"),
        ),
        (
            "deeper",
            v0(
                band,
                &[tip],
                &format!("shallow {}\ndeepen 3\n0000\nhave {tip}\ndone", main[4]),
            ),
        ),
        (
            "relative",
            v0(
                &format!("deepen-relative {band}"),
                &[tip],
                &format!("shallow {}\ndeepen 1\n0000\nhave {tip}\ndone", main[4]),
            ),
        ),
        (
            "since",
            v0(
                &format!("deepen-since {band}"),
                &[tip],
                "deepen-since 1600002500\n0000\ndone",
            ),
        ),
        (
            "not",
            v0(
                &format!("deepen-not {band}"),
                &[tip],
                "deepen-not refs/tags/v1\n0000\ndone",
            ),
        ),
        (
            "no blobs",
            v0(&format!("filter {band}"), &[tip], "filter blob:none\n0000\ndone"),
        ),
        ("nothing", b"0000".to_vec()),
        ("not there", v0(band, &[&unknown], "0000\ndone")),
        ("no id", v0(band, &["xyz"], "0000\ndone")),
        ("no have", v0(band, &[tip], "0000\nhave xyz\ndone")),
        ("no line", v0(band, &[tip], "0000\nfrob\ndone")),
        ("bad deepen", v0(band, &[tip], "deepen x\n0000\ndone")),
    ] {
        for version in [0, 1] {
            f.same(what, version, &body);
        }
    }
    // The frames are as small, or as large, as was asked for.
    let small = wire::bands(&f.ours(0, &v0("side-band", &[tip, &side[1]], "0000\ndone")));
    assert!(small.longest <= 996 && !small.data.is_empty(), "{}", small.longest);
    let large = wire::bands(&f.ours(0, &v0("side-band-64k", &[tip, &side[1]], "0000\ndone")));
    assert!(large.longest > 996, "{}", large.longest);
    f.no_differences();
}

#[test]
fn advertisements_are_gits() {
    let f = fork();
    let agent = |text: &str| {
        let at = text.find("agent=").expect("an agent");
        let end = text[at..].find(['\n', ' ']).map_or(text.len(), |n| at + n);
        format!("{}agent=X{}", &text[..at], &text[end..])
    };
    for lines in [
        &[][..],
        &[
            "uploadpack.allowFilter true",
            "uploadpack.allowTipSHA1InWant true",
            "uploadpack.allowReachableSHA1InWant true",
        ],
        &[
            "uploadpack.allowRefInWant true",
            "uploadpack.allowSidebandAll true",
            "uploadpack.advertiseBundleURIs true",
        ],
        &[
            "transfer.advertiseObjectInfo true",
            "lsrefs.unborn ignore",
            "transfer.hideRefs refs/tags",
        ],
        &[
            "receive.advertiseAtomic false",
            "receive.advertisePushOptions true",
            "repack.useDeltaBaseOffset false",
        ],
    ] {
        for line in lines {
            f.config(line);
        }
        for service in ["upload-pack", "receive-pack"] {
            for version in [0u8, 1, 2] {
                let ours = advertisement(&f.server, "fork", &format!("git-{service}"), version);
                assert_eq!(
                    ours.headers["content-type"],
                    format!("application/x-git-{service}-advertisement")
                );
                let out = f
                    .git
                    .command(&f.bare)
                    .env("GIT_PROTOCOL", format!("version={version}"))
                    .args([service, "--http-backend-info-refs", "."])
                    .output()
                    .unwrap();
                let mut theirs = out.stdout;
                if version != 2 {
                    theirs = [
                        format!(
                            "{}0000",
                            String::from_utf8(pkt(format!("# service=git-{service}\n"))).unwrap()
                        )
                        .as_bytes(),
                        &theirs,
                    ]
                    .concat();
                }
                // Newer ones say what they can be asked for.
                let theirs = to_text(&theirs).replace("\nobject-info\n", "\nobject-info=size\n");
                let (ours, theirs) = (agent(&ours.packets()), agent(&theirs));
                if service == "receive-pack" && version == 2 {
                    // Version 2 has no push, and who asks for one is answered in version 0. http-backend leaves out the service line all the same, which no
                    // client that reads version 0 would understand.
                    assert_eq!(ours.trim_start_matches("\\# service=git-receive-pack\n0000\n"), theirs);
                } else {
                    assert_eq!(ours, theirs, "{service} {version} {lines:?} (ours first)");
                }
                if version == 1 {
                    assert!(ours.contains("0000\nversion 1\n"), "{ours}");
                }
            }
        }
    }
}

#[test]
fn blobs_can_be_left_to_other_servers() {
    let f = fork();
    f.config("uploadpack.allowSidebandAll true");
    // git looks at its list of such blobs only for loose ones.
    for entry in std::fs::read_dir(f.bare.join("objects/pack")).unwrap().flatten() {
        let bytes = std::fs::read(entry.path()).unwrap();
        std::fs::remove_file(entry.path()).unwrap();
        if entry.path().extension().is_some_and(|extension| extension == "pack") {
            assert!(f.git.run_with(&f.bare, ["unpack-objects", "-q"], &bytes).ok);
        }
    }
    let blob = f.git.ok(&f.bare, "rev-parse main:a");
    let hash = "2".repeat(40);
    f.git.ok_args(
        &f.bare,
        [
            "config",
            "uploadpack.blobPackfileUri",
            &format!("{blob} {hash} https://example.com/a.pack"),
        ],
    );
    let tip = &f.main[5];
    let ask = |more: &str| f.same("packfile-uris", 2, &v2("fetch", &format!("{more}want {tip}\ndone")));
    let (told, with) = ask("sideband-all\npackfile-uris https\n");
    assert!(
        told.contains(&format!("packfile-uris\n\\x01{hash} https://example.com/a.pack")) || told.contains("a.pack"),
        "{told}"
    );
    assert!(!with.contains(&blob));
    // Not without the right scheme.
    let (told, with) = ask("sideband-all\npackfile-uris http\n");
    assert!(!told.contains("a.pack") && with.contains(&blob), "{told}");
    let (_, with) = ask("sideband-all\n");
    assert!(with.contains(&blob));
    f.no_differences();
}

#[test]
fn a_ref_can_be_wanted_by_the_real_client_while_it_moves() {
    let f = fork();
    f.config("uploadpack.allowRefInWant true");
    let into = f.git.init("into");
    let url = f.server.repo_url("fork");
    let trace = f.git.path("trace");
    let out = f
        .git
        .command(&into)
        .env("GIT_TRACE_PACKET", &trace)
        .args([
            "-c",
            "protocol.version=2",
            "fetch",
            "-q",
            &url,
            "refs/heads/side:refs/heads/got",
        ])
        .output()
        .unwrap();
    assert!(out.status.success());
    assert_eq!(f.git.ok(&into, "rev-parse got"), f.side[1]);
    let trace = std::fs::read_to_string(trace).unwrap();
    assert!(
        trace.contains("want-ref refs/heads/side") && trace.contains("wanted-refs"),
        "{trace}"
    );
    // Only negotiating, which is what `wait-for-done` is for.
    f.git.ok(&into, &format!("remote add origin {url}"));
    let common = f.git.ok(
        &into,
        &format!(
            "-c protocol.version=2 fetch -q --negotiate-only --negotiation-tip={} origin",
            f.side[1]
        ),
    );
    assert!(common.contains(&f.side[1]), "{common}");
}

#[test]
fn probes_and_empty_pushes_are_answered_with_nothing() {
    let f = fork();
    let answer = push(&f.server, "fork", b"0000");
    assert_eq!((answer.status, &answer.body[..]), (200, &b""[..]));
    assert_eq!(answer.headers["content-type"], "application/x-git-receive-pack-result");
    assert_eq!(answer.headers["cache-control"], "no-cache, max-age=0, must-revalidate");
    // One for a name that a push would make, makes nothing.
    let answer = push(&f.server, "absent", b"0000");
    assert_eq!((answer.status, &answer.body[..]), (200, &b""[..]));
    assert!(!f.server.repos().join("absent.git").exists());
}

/// What `git receive-pack` answers to the same bytes on a copy of the repository.
fn theirs(git: &Git, copy: &Path, body: &[u8]) -> Vec<u8> {
    git.run_with(copy, ["receive-pack", "--stateless-rpc", "."], body)
        .stdout
}

#[test]
fn pushes_are_reported_as_git_reports_them() {
    let f = fork();
    let copy = f.git.path("copy.git");
    f.git.ok(
        f.git.dir(),
        &format!("clone -q --mirror {} {}", f.bare.display(), copy.display()),
    );
    let (old, side) = (&f.main[5][..], &f.side[1][..]);
    let empty = Pack::new().build();
    let one = [(old, side, "refs/heads/main")];
    let create = [(ZERO, side, "refs/heads/new")];
    // git judges no further command of an atomic push than the first bad one; we tell all that is wrong.
    let atomic = [
        (ZERO, side, "refs/heads/x"),
        (ZERO, side, "refs/heads/a..b"),
        (ZERO, &f.main[0], "refs/heads/side"),
    ];
    let mixed = [
        (ZERO, side, "refs/heads/x"),
        (ZERO, side, "refs/heads/a..b"),
        (old, ZERO, "refs/heads/main"),
        (ZERO, &f.main[0], "refs/heads/side"),
    ];
    let gone = [(side, ZERO, "refs/heads/side")];
    let ghost = [(ZERO, ZERO, "refs/heads/ghost")];
    for (what, body) in [
        (
            "v2, a band",
            push_body(&create, "report-status-v2 side-band-64k object-format=sha1", &empty),
        ),
        (
            "v1, a band",
            push_body(
                &[(ZERO, side, "refs/heads/new1")],
                "report-status side-band-64k",
                &empty,
            ),
        ),
        (
            "v1, none",
            push_body(&[(ZERO, side, "refs/heads/new2")], "report-status", &empty),
        ),
        (
            "no report",
            push_body(&[(ZERO, side, "refs/heads/new3")], "side-band-64k", &empty),
        ),
        ("neither", push_body(&[(ZERO, side, "refs/heads/new4")], "", &empty)),
        (
            "quiet",
            push_body(
                &[(ZERO, side, "refs/heads/new5")],
                "report-status side-band-64k quiet",
                &empty,
            ),
        ),
        (
            "not a fast-forward",
            push_body(&one, "report-status-v2 side-band-64k", &empty),
        ),
        (
            "back again",
            push_body(&[(side, old, "refs/heads/main")], "report-status", &empty),
        ),
        ("mixed, atomic", push_body(&atomic, "report-status-v2 atomic", &empty)),
        ("mixed", push_body(&mixed, "report-status-v2", &empty)),
        ("deleted", push_body(&gone, "report-status delete-refs", b"")),
        ("not there", push_body(&ghost, "report-status delete-refs", b"")),
        (
            "nowhere",
            push_body(
                &[(ZERO, &"1".repeat(40), "refs/heads/nowhere")],
                "report-status",
                &empty,
            ),
        ),
        (
            "no pack",
            push_body(&[(ZERO, side, "refs/heads/y")], "report-status", b""),
        ),
        (
            "no signature",
            push_body(&[(ZERO, side, "refs/heads/y")], "report-status", b"GIF89a and more"),
        ),
        (
            "stale",
            push_body(&[(&f.main[1], side, "refs/heads/main")], "report-status", &empty),
        ),
        (
            "stale, atomic",
            push_body(&[(&f.main[1], side, "refs/heads/main")], "report-status atomic", &empty),
        ),
    ] {
        let ours = push(&f.server, "fork", &body).body;
        let theirs = theirs(&f.git, &copy, &body);
        let text = |bytes: &[u8]| {
            let data = wire::bands(bytes).data;
            to_text(if data.is_empty() { bytes } else { &data })
        };
        assert_eq!(text(&ours), text(&theirs), "{what} (ours first)");
        assert_eq!(
            f.git.ok(&f.bare, "for-each-ref"),
            f.git.ok(&copy, "for-each-ref"),
            "{what}"
        );
    }
}

#[test]
fn tips_of_alternates_are_told_as_haves_and_hidden_refs_are_not() {
    let f = fork();
    f.git.ok_args(
        f.server.repos(),
        ["clone", "-q", "--bare", "--shared", "fork.git", "borrower.git"],
    );
    let borrower = f.server.repos().join("borrower.git");
    f.git.ok(&borrower, "update-ref -d refs/heads/side");
    let told = advertisement(&f.server, "borrower", "git-receive-pack", 0).packets();
    assert!(told.contains(&format!("{} .have\\0", f.side[1])), "{told}");
    assert!(
        !told.contains(&format!("{} .have", f.main[5])),
        "what a ref tells needs no telling: {told}"
    );
    f.config("receive.hideRefs refs/heads/side");
    let told = advertisement(&f.server, "fork", "git-receive-pack", 0).packets();
    assert!(
        !told.contains(&f.side[1]) && !told.contains("refs/heads/side"),
        "{told}"
    );
}

#[test]
fn a_slow_push_hears_signs_of_life() {
    let f = fork();
    f.config("receive.keepAlive 1");
    let mut pack = Pack::new();
    for n in 0..8_000u32 {
        pack = pack.blob(&n.to_be_bytes());
    }
    let pack = pack.build();
    let body = push_body(&[(ZERO, &f.side[1], "refs/heads/slow")], PUSH_CAPS, &pack);
    let mut stream = TcpStream::connect(f.server.address()).unwrap();
    let head = format!(
        "POST /repos/fork/git-receive-pack HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Type: application/x-git-receive-pack-request\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut heard = Vec::new();
    let alive = |heard: &[u8]| heard.windows(5).any(|five| five == b"0005\x02");
    let start = Instant::now();
    let mut pieces = body.chunks(body.len() / 100);
    // A piece now and then until there is a sign, then all the rest.
    stream
        .set_read_timeout(Some(std::time::Duration::from_millis(40)))
        .unwrap();
    while !alive(&heard) {
        let piece = pieces
            .next()
            .unwrap_or_else(|| panic!("no sign of life in {:?}", start.elapsed()));
        stream.write_all(piece).unwrap();
        let mut some = [0; 4096];
        if let Ok(n) = stream.read(&mut some) {
            assert!(n > 0, "the server hung up");
            heard.extend_from_slice(&some[..n]);
        }
    }
    for piece in pieces {
        stream.write_all(piece).unwrap();
    }
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.read_to_end(&mut heard).unwrap();
    let heard = String::from_utf8_lossy(&heard);
    assert!(heard.contains("ok refs/heads/slow"), "{heard}");
}

#[test]
fn the_doors_are_the_repositorys_own() {
    let (read, write) = (token_text(&[1; 25]), token_text(&[2; 25]));
    let entry = |name: &str, token: &str, access: &str| {
        format!(
            "[[tokens]]\nname = \"{name}\"\nhash = \"{}\"\nrepos = [\"**\"]\naccess = \"{access}\"\n",
            TokenHash::of(token)
        )
    };
    let config = format!(
        "anonymous_read = true\n{}{}",
        entry("r", &read, "read"),
        entry("w", &write, "write")
    );
    let git = Git::new();
    let guarded = Server::with(ServerOptions {
        config: Some(config),
        ..Default::default()
    });
    let open = Server::start();
    let work = git.init("work");
    git.commit(&work, "a", "a\n", "a");
    for server in [&guarded, &open] {
        std::fs::create_dir_all(server.repos()).unwrap();
        git.ok(server.repos(), "init -q --bare hello.git");
    }
    let bearer = |token: &str| format!("Bearer {token}");
    let (reader, writer, nonsense) = (bearer(&read), bearer(&write), bearer("gst_nonsense"));
    for (setting, guarded_by, open_by) in [
        // Nobody, a reader, a writer, a wrong token; and where no token is configured, anybody.
        (None, [401, 403, 200, 401], 200),
        (Some("true"), [200, 200, 200, 401], 200),
        (Some("false"), [403, 403, 403, 401], 403),
    ] {
        for (server, expected) in [(&guarded, &guarded_by[..]), (&open, &[open_by][..])] {
            let bare = server.repos().join("hello.git");
            match setting {
                Some(value) => git.ok(&bare, &format!("config http.receivepack {value}")),
                None => String::new(),
            };
            let who = [None, Some(&reader), Some(&writer), Some(&nonsense)];
            for (who, expected) in who.iter().zip(expected) {
                let mut headers = vec![("Content-Type", "application/x-git-receive-pack-request")];
                headers.extend(who.map(|value| ("Authorization", &value[..])));
                let post = request(server, "POST", "/repos/hello/git-receive-pack", &headers, b"0000");
                let get = request(
                    server,
                    "GET",
                    "/repos/hello/info/refs?service=git-receive-pack",
                    &headers,
                    b"",
                );
                assert_eq!(
                    (post.status, get.status),
                    (*expected, *expected),
                    "{setting:?} {who:?}: {}",
                    post.text()
                );
                assert_eq!(post.headers.contains_key("www-authenticate"), *expected == 401);
                if *expected == 401 {
                    assert!(post.headers["www-authenticate"].starts_with("Basic realm="), "{post:?}");
                }
            }
        }
    }
    // A real client asks its helper when it is told to, and only then.
    let bare = guarded.repos().join("hello.git");
    git.ok(&bare, "config --unset http.receivepack");
    let url = guarded.repo_url("hello");
    let helper = |token: &str| {
        let log = git.path("asked").display().to_string();
        format!(
            "credential.helper=!f() {{ echo $1 >>{log}; test $1 = get && printf 'username=x\\npassword={token}\\n'; }}; f"
        )
    };
    let asked = || std::fs::read_to_string(git.path("asked")).unwrap_or_default();
    git.ok_args(&work, ["-c", &helper(&write), "ls-remote", &url]);
    assert_eq!(asked(), "");
    let said = git.run(&work, ["-c", &helper("gst_nonsense"), "push", &url, "main"]);
    assert!(
        !said.ok && said.stderr.contains("Authentication failed"),
        "{}",
        said.stderr
    );
    assert_eq!(asked(), "get\nerase\n");
    let said = git.run(&work, ["-c", &helper(&read), "push", &url, "main"]);
    assert!(!said.ok && said.stderr.contains("403"), "{}", said.stderr);
    git.ok_args(&work, ["-c", &helper(&write), "push", "-q", &url, "main"]);
    assert!(asked().ends_with("get\nstore\n"), "{}", asked());
    git.ok(&bare, "config core.logAllRefUpdates true");
    git.ok_args(
        &work,
        ["-c", &helper(&write), "push", "-q", &url, "main:refs/heads/other"],
    );
    let log = std::fs::read_to_string(bare.join("logs/refs/heads/other")).unwrap();
    assert!(log.contains("w <w@http.127.0.0.1>"), "{log}");
}

#[test]
fn doors_for_reading_can_be_closed() {
    let f = fork();
    let path = "/repos/fork/info/refs";
    let status = |query: &str| request(&f.server, "GET", &format!("{path}{query}"), &[], b"").status;
    f.config("http.uploadpack false");
    assert_eq!(status("?service=git-upload-pack"), 403);
    assert_eq!(fetch(&f.server, "fork", 2, &v2("ls-refs", "")).status, 403);
    assert_eq!(status(""), 200);
    f.config("http.getanyfile false");
    assert_eq!(status(""), 403);
    assert_eq!(status("?service=git-receive-pack"), 200);
    let said = f
        .git
        .fails(f.git.dir(), &format!("clone {} never", f.server.repo_url("fork")));
    assert!(said.contains("403"), "{said}");
}
