//! Requests that no git client sends, against the real server: it says what is wrong, keeps nothing, and goes on. In the spirit of t5504, t5704 and t5702
//! of git's own suite.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    path::PathBuf,
};

use gitstead::pack::EntryKind;
use gix::objs::Kind;

use crate::support::{
    Git, Server, ServerOptions,
    wire::{
        self, PUSH_CAPS, Pack, Response, ZERO, copy, delta, eventually, fetch, files_beneath, id_of, peak_mib, pkt,
        pkts, push, push_body, seal, try_request,
    },
};

/// A repository that has `main`, and a client with one commit more.
struct House {
    git: Git,
    server: Server,
    work: PathBuf,
    bare: PathBuf,
    /// What `main` is on the server.
    old: String,
    /// The commit more.
    new: String,
}

fn house() -> House {
    house_with("")
}

fn house_with(config: &str) -> House {
    let git = Git::new();
    let server = Server::with(ServerOptions {
        config: Some(config.to_owned()),
        ..Default::default()
    });
    let work = git.init("work");
    for n in 0..3 {
        git.commit(
            &work,
            "dir/a.txt",
            format!("line {n}\n").repeat(20 * (n + 1)),
            &format!("commit {n}"),
        );
    }
    git.ok(&work, &format!("push -q {} main", server.repo_url("hello")));
    let old = git.ok(&work, "rev-parse HEAD");
    let new = git.commit(&work, "dir/b.txt", "something else\n".repeat(30), "new");
    let bare = server.repos().join("hello.git");
    House {
        git,
        server,
        work,
        bare,
        old,
        new,
    }
}

impl House {
    /// The pack of the commit more.
    fn pack(&self) -> Vec<u8> {
        let wanted = format!("{}\n^{}\n", self.new, self.old);
        let args = ["pack-objects", "--revs", "--stdout", "--thin", "-q"];
        self.git.run_with(&self.work, args, wanted.as_bytes()).stdout
    }

    /// A push of the commit more with another pack.
    fn with_pack(&self, pack: &[u8]) -> Vec<u8> {
        push_body(&[(&self.old, &self.new, "refs/heads/main")], PUSH_CAPS, pack)
    }

    fn state(&self) -> (Vec<(String, u64)>, String) {
        (
            files_beneath(&self.bare.join("objects")),
            self.git.ok(&self.bare, "for-each-ref"),
        )
    }

    fn push(&self, body: &[u8]) -> Response {
        push(&self.server, "hello", body)
    }

    /// Pushes a pack that must be refused with these words and change nothing.
    #[track_caller]
    fn refuses(&self, pack: &[u8], words: &str) {
        let before = self.state();
        let answer = self.push(&self.with_pack(pack));
        let said = answer.said();
        assert!(said.contains(words), "expected {words:?}, not:\n{said}");
        assert!(said.contains("ng refs/heads/main unpacker error"), "{said}");
        assert_eq!(self.state(), before);
    }

    /// The server goes on: a good push is taken, and the repository is whole.
    #[track_caller]
    fn is_well(&self) {
        let said = self.push(&self.with_pack(&self.pack())).said();
        assert!(
            said.contains("unpack ok") && said.contains("ok refs/heads/main"),
            "{said}"
        );
        assert_eq!(self.git.ok(&self.bare, "rev-parse main"), self.new);
        self.git.fsck(&self.bare);
    }

    /// Puts an object into the client's repository, however wrong, and returns its id.
    fn write(&self, kind: &str, data: &[u8]) -> String {
        let args = ["hash-object", "-t", kind, "-w", "--stdin", "--literally"];
        let out = self.git.run_with(&self.work, args, data);
        assert!(out.ok, "{}", out.stderr);
        out.text()
    }
}

/// Where the packets of a body end, as far as they go.
fn packet_ends(body: &[u8]) -> Vec<usize> {
    use gitstead::protocol::{Decoded, decode};
    let mut ends = vec![0];
    let mut at = 0;
    while let Ok(Decoded::Complete { consumed, .. }) = decode(&body[at..]) {
        at += consumed;
        ends.push(at);
    }
    ends
}

#[test]
fn a_push_cut_anywhere_is_told_and_leaves_nothing() {
    let h = house();
    let commands = [
        (&h.old[..], &h.new[..], "refs/heads/main"),
        (ZERO, &h.new[..], "refs/heads/topic"),
    ];
    let body = push_body(&commands, PUSH_CAPS, &h.pack());
    let before = h.state();
    let packets = packet_ends(&body);
    let pack_at = *packets.last().unwrap();
    assert_eq!(packets.len(), 4, "two commands and a flush");
    let mut cuts: Vec<usize> = packets.clone();
    cuts.extend((0..pack_at).step_by(11));
    cuts.extend((pack_at..body.len()).step_by(7));
    cuts.extend(pack_at..pack_at + 16);
    cuts.extend(body.len() - 22..body.len());
    for cut in cuts {
        let answer = h.push(&body[..cut]);
        let said = answer.said();
        assert!(!said.contains("ok refs/"), "cut at {cut}: {said}");
        let told = match cut {
            _ if cut < pack_at => said.contains("the remote end hung up unexpectedly"),
            _ if cut < pack_at + 12 => said.contains("unpack eof before pack header was fully read"),
            _ => said.contains("unpack early EOF"),
        };
        assert!(told && answer.status == 200, "cut at {cut}: {answer:?}\n{said}");
        // The announced length is not reached: the client has gone, and perhaps still hears why.
        let headers = [("Content-Type", "application/x-git-receive-pack-request")];
        let path = "/repos/hello/git-receive-pack";
        if let Some(answer) = try_request(&h.server, "POST", path, &headers, &body[..cut], body.len()) {
            assert!(!answer.said().contains("ok refs/"), "cut at {cut}: {answer:?}");
        }
    }
    eventually("nothing remains", || h.state() == before);
    h.is_well();
}

#[test]
fn packs_that_lie_about_themselves_are_refused_in_gits_words() {
    let h = house();
    let good = h.pack();
    let count = u32::from_be_bytes(good[8..12].try_into().unwrap());
    let entries = &good[12..good.len() - 20];
    let counted = |count: u32| seal([b"PACK\0\0\0\x02", &count.to_be_bytes()[..], entries].concat());
    assert_eq!(counted(count), good);
    // Behind the last entry stands the trailer, which is no entry.
    h.refuses(&counted(count + 1), "unpack ");
    h.refuses(&counted(count - 1), "unpack pack is corrupted (SHA1 mismatch)");
    h.refuses(
        &counted(u32::MAX),
        "unpack pack has 4294967295 objects, more than the 50000000 allowed",
    );
    h.refuses(&counted(49_000_000), "unpack ");
    h.refuses(&counted(0), "unpack pack is corrupted (SHA1 mismatch)");
    h.refuses(&[&good[..], b"x"].concat(), "unpack pack has junk at the end");
    h.refuses(&[&good[..], &good[..]].concat(), "unpack pack has junk at the end");
    let mut wrong = good.clone();
    *wrong.last_mut().unwrap() ^= 1;
    h.refuses(&wrong, "unpack pack is corrupted (SHA1 mismatch)");
    h.refuses(
        b"GIF89a and more than that",
        "unpack protocol error (pack signature mismatch detected)",
    );
    h.refuses(
        &[b"PACK\0\0\0\x09\0\0\0\x01", entries].concat(),
        "unpack protocol error (pack version unsupported)",
    );
    // An empty pack is a pack, but not what the command needs.
    let said = h.push(&h.with_pack(&Pack::new().build())).said();
    assert!(
        said.contains("unpack ok\n") && said.contains("ng refs/heads/main missing necessary objects"),
        "{said}"
    );
    assert!(peak_mib(&h.server) < 200, "{} MiB", peak_mib(&h.server));
    h.is_well();
}

#[test]
fn zlib_bombs_stop_at_what_they_declare() {
    let h = house();
    let idle = peak_mib(&h.server);
    let zeros = |n: usize| {
        let mut out = Vec::new();
        gitstead::pack::deflate(&vec![0u8; n], 6, &mut out);
        out
    };
    let large = zeros(64 << 20);
    for kind in [EntryKind::Blob, EntryKind::Tree, EntryKind::Commit, EntryKind::Tag] {
        // Little declared, much inflated; and the other way round.
        h.refuses(
            &Pack::new().raw(kind, 10, &large).build(),
            "unpack pack has bad object at offset 12",
        );
        h.refuses(
            &Pack::new().raw(kind, 1 << 40, &zeros(1000)).build(),
            "exceeds maximum allowed size",
        );
        h.refuses(&Pack::new().raw(kind, u64::MAX >> 4, &zeros(1000)).build(), "unpack ");
        h.refuses(
            &Pack::new().raw(kind, 200 << 20, &zeros(1000)).build(),
            "unpack pack has bad object at offset 12",
        );
    }
    // Many of them, in a pack large enough for several threads.
    let mut many = Pack::new();
    for n in 0..400u32 {
        many = many.blob(&n.to_be_bytes());
    }
    for _ in 0..3 {
        many = many.raw(EntryKind::Tree, 200 << 20, &zeros(1000));
    }
    h.refuses(&many.build(), "unpack pack has bad object");
    // What is declared and comes is a large blob like any other: it streams by.
    let blob = Pack::new().raw(EntryKind::Blob, 64 << 20, &large).build();
    let said = h.push(&h.with_pack(&blob)).said();
    assert!(said.contains("ng refs/heads/main missing necessary objects"), "{said}");
    let peak = peak_mib(&h.server);
    assert!(peak < idle + 64, "{peak} MiB, {idle} MiB before");
    h.is_well();
}

#[test]
fn large_objects_of_several_pushes_wait_for_one_another() {
    let h = house_with("[limits]\ningest_bytes = \"48m\"\n");
    let size = 40u64 << 20;
    let mut pack = Pack::new().blob(&vec![0u8; size as usize]);
    // Each makes the whole of it again, and a byte more.
    for n in 1..=3 {
        let whole = copy(0, 0xff_ffff).repeat(2);
        let rest = copy(0, (size - 2 * 0xff_ffff) as u32);
        let more = delta(size, size + n, &[whole, rest, vec![n as u8; n as usize + 1]].concat());
        let distance = pack.offset() - 12;
        pack = pack.entry(EntryKind::OfsDelta { distance }, more.len() as u64, &more);
    }
    let body = h.with_pack(&pack.build());
    assert!(body.len() < 100_000, "{}", body.len());
    let idle = peak_mib(&h.server);
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                let said = h.push(&body).said();
                assert!(said.contains("ng refs/heads/main missing necessary objects"), "{said}");
            });
        }
    });
    // One of them at a time, with a base and a result; alone each would take as much.
    let peak = peak_mib(&h.server);
    assert!(peak < idle + 150, "{peak} MiB, {idle} MiB before");
    h.is_well();
}

#[test]
fn a_large_tree_is_named_after_it_came() {
    let h = house();
    // What fsck says of it shows that it was looked at.
    let tree = vec![b'x'; 9 << 20];
    let deflated = {
        let mut out = Vec::new();
        gitstead::pack::deflate(&tree, 6, &mut out);
        out
    };
    let pack = Pack::new().raw(EntryKind::Tree, tree.len() as u64, &deflated).build();
    h.refuses(&pack, &format!("unpack object {}: badTree", id_of(Kind::Tree, &tree)));
    h.is_well();
}

#[test]
fn delta_bombs_are_bounded() {
    let h = house();
    let idle = peak_mib(&h.server);
    let base = vec![7u8; 1000];
    let with = |delta: &[u8]| {
        let start = Pack::new().blob(&base);
        let distance = start.offset() - 12;
        start
            .entry(EntryKind::OfsDelta { distance }, delta.len() as u64, delta)
            .build()
    };
    // The result is absurd, or too large to be held.
    h.refuses(
        &with(&delta(1000, 1 << 40, &copy(0, 1000))),
        "delta result is larger than 536870912 bytes",
    );
    h.refuses(
        &with(&delta(1000, u64::MAX >> 1, &copy(0, 1000))),
        "delta result is larger than 536870912 bytes",
    );
    h.refuses(
        &with(&delta(1000, 400 << 20, &copy(0, 1000))),
        "unpack pack has bad object",
    );
    // Another base, more than there is, an instruction that is none, and none at all.
    h.refuses(&with(&delta(999, 1000, &copy(0, 1000))), "unpack pack has bad object");
    h.refuses(&with(&delta(1000, 1000, &copy(1, 1000))), "unpack pack has bad object");
    h.refuses(
        &with(&delta(1000, 1000, &copy(u32::MAX, 1000))),
        "unpack pack has bad object",
    );
    h.refuses(&with(&delta(1000, 1000, &copy(0, 999))), "unpack pack has bad object");
    h.refuses(&with(&delta(1000, 1, &[0])), "unpack pack has bad object");
    h.refuses(&with(&delta(1000, 5, &[9, b'x'])), "unpack pack has bad object");
    h.refuses(&with(b""), "unpack pack has bad object");
    h.refuses(&with(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"), "unpack ");
    // Bases that are nowhere, before the pack, within an entry, the delta itself, or each other.
    let one = delta(1000, 1000, &copy(0, 1000));
    let nowhere = id_of(Kind::Blob, b"nobody has this");
    for (n, header) in [
        (0, EntryKind::RefDelta { base: nowhere }),
        (1, EntryKind::OfsDelta { distance: 1 << 40 }),
        (2, EntryKind::OfsDelta { distance: 3 }),
    ] {
        let pack = Pack::new().blob(&base).entry(header, one.len() as u64, &one).build();
        let words = [
            "unpack pack has 1 unresolved delta",
            "unpack pack has bad object",
            "unpack pack has bad object",
        ];
        h.refuses(&pack, words[n]);
    }
    let itself = id_of(Kind::Blob, &base);
    let pack = Pack::new()
        .entry(EntryKind::RefDelta { base: itself }, one.len() as u64, &one)
        .build();
    h.refuses(&pack, "unpack pack has 1 unresolved delta");
    // Each doubles the one before: 2 MiB become 2 TiB in twenty steps.
    let mut pack = Pack::new().blob(&vec![1u8; 2 << 20]);
    let (mut last, mut size) = (12, 2u64 << 20);
    for _ in 0..20 {
        let doubled = delta(size, size * 2, &[copy(0, 0xff_ffff), copy(0, 0xff_ffff)].concat());
        let at = pack.offset();
        pack = pack.entry(
            EntryKind::OfsDelta { distance: at - last },
            doubled.len() as u64,
            &doubled,
        );
        (last, size) = (at, size * 2);
    }
    h.refuses(&pack.build(), "unpack ");
    // A chain that is longer than git ever makes.
    let mut pack = Pack::new().blob(&base);
    let mut last = 12;
    for _ in 0..4_200 {
        let at = pack.offset();
        pack = pack.entry(EntryKind::OfsDelta { distance: at - last }, one.len() as u64, &one);
        last = at;
    }
    h.refuses(&pack.build(), "delta chain");
    let peak = peak_mib(&h.server);
    assert!(peak < idle + 150, "{peak} MiB, {idle} MiB before");
    h.is_well();
}

/// Bytes that do not get smaller.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 1u64;
    let mut next = move || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u8
    };
    (0..len).map(|_| next()).collect()
}

fn tree_of(entries: &[(&str, &str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (mode, name, id) in entries {
        out.extend_from_slice(format!("{mode} {name}\0").as_bytes());
        out.extend((0..20).map(|n| u8::from_str_radix(&id[n * 2..n * 2 + 2], 16).unwrap()));
    }
    out
}

#[test]
fn broken_trees_are_named_in_the_clients_terminal() {
    let h = house();
    let blob = h.write("blob", b"x");
    let dir = h.write("tree", &tree_of(&[("100644", "file", &blob)]));
    let before = h.state();
    for (entries, words) in [
        (
            vec![("100644", "b", &blob[..]), ("100644", "a", &blob)],
            "treeNotSorted",
        ),
        (
            vec![("100644", "a", &blob[..]), ("100644", "a", &blob)],
            "duplicateEntries",
        ),
        (
            vec![
                ("100644", "a", &blob[..]),
                ("100644", "a.b", &blob),
                ("40000", "a", &dir),
            ],
            "duplicateEntries",
        ),
        (vec![("40000", ".git", &dir[..])], "hasDotgit"),
        (vec![("40000", ".GIT", &dir[..])], "hasDotgit"),
        (vec![("40000", "git~1", &dir[..])], "hasDotgit"),
        (vec![("40000", ".g\u{200c}it", &dir[..])], "hasDotgit"),
        (vec![("40000", ".", &dir[..])], "hasDot"),
        (vec![("40000", "..", &dir[..])], "hasDotdot"),
        (vec![("100644", "a/b", &blob[..])], "fullPathname"),
        (vec![("100644", "", &blob[..])], "badTree"),
        (vec![("100644", "a", ZERO)], "nullSha1"),
        (vec![("120000", ".gitmodules", &blob[..])], "gitmodulesSymlink"),
    ] {
        let tree = h.write("tree", &tree_of(&entries));
        let commit = h
            .git
            .ok_args(&h.work, ["commit-tree", &tree, "-m", "evil", "-p", &h.old]);
        let url = h.server.repo_url("hello");
        let out = h.git.run(&h.work, ["push", &url, &format!("{commit}:refs/heads/evil")]);
        let said = &out.stderr;
        // git's client refuses some of them itself, unless it is told not to look: then the pack is made by hand.
        let said = if said.contains("remote: ") {
            said.clone()
        } else {
            let list = format!("{commit}\n{tree}\n{dir}\n{blob}\n");
            let out = h
                .git
                .run_with(&h.work, ["pack-objects", "--stdout", "-q"], list.as_bytes());
            push(
                &h.server,
                "hello",
                &push_body(&[(ZERO, &commit, "refs/heads/evil")], PUSH_CAPS, &out.stdout),
            )
            .said()
        };
        assert!(
            said.contains(&format!("error: object {tree}: {words}: ")),
            "{words}:\n{said}"
        );
        assert!(
            said.contains("unpack") && !said.contains("unpack ok"),
            "{words}:\n{said}"
        );
        assert_eq!(h.state(), before, "{words}");
    }
    // What is no object at all.
    for (kind, data) in [
        ("commit", &b"tree 0123\n"[..]),
        ("commit", b""),
        ("tree", b"100644 cut"),
        ("tag", b"object x\ntype commit\n"),
    ] {
        let id = h.write(kind, data);
        let out = h.git.run_with(
            &h.work,
            ["pack-objects", "--stdout", "-q"],
            format!("{id}\n").as_bytes(),
        );
        let said = push(
            &h.server,
            "hello",
            &push_body(&[(ZERO, &id, "refs/x/evil")], PUSH_CAPS, &out.stdout),
        )
        .said();
        assert!(
            said.contains("ng refs/x/evil unpacker error") && said.contains(&id),
            "{kind}: {said}"
        );
        assert_eq!(h.state(), before);
    }
    h.is_well();
}

#[test]
fn packets_with_absurd_lengths_are_told() {
    let h = house();
    let before = h.state();
    let rest = h.with_pack(&h.pack());
    for (length, words) in [
        ("0003", "protocol error: bad line length 3"),
        ("ffff", "protocol error: bad line length"),
        ("fff1", "protocol error: bad line length"),
        ("zzzz", "protocol error: bad line length character: zzzz"),
        ("-001", "protocol error: bad line length character: -001"),
        ("0x10", "protocol error: bad line length character: 0x10"),
        (" 010", "protocol error: bad line length character"),
        ("\0\0\0\0", "protocol error: bad line length character"),
        ("fff0", "the remote end hung up unexpectedly"),
    ] {
        let body = [length.as_bytes(), &rest[4..]].concat();
        let said = h.push(&body).said();
        assert!(said.contains(words), "{length:?}: {said}");
        for version in [0, 1, 2] {
            let said = fetch(&h.server, "hello", version, &body).said();
            assert!(said.contains(words), "{length:?} in version {version}: {said}");
        }
    }
    assert_eq!(h.state(), before);
    h.is_well();
}

#[test]
fn more_than_the_house_allows_is_refused_by_name() {
    let h = house_with(
        "[limits]\ncommands = 3\nwants = 3\nhaves = 3\nshallows = 3\noptions = 3\nobject_infos = 3\npack_objects = 150\nupload_request_bytes = 4096\n",
    );
    let url = h.server.repo_url("hello");
    h.git.ok(&h.bare, "config receive.advertisePushOptions true");
    h.git.ok(&h.bare, "config transfer.advertiseObjectInfo true");
    let before = h.state();
    // In a client's terminal.
    let said = h.git.fails(
        &h.work,
        &format!("push {url} main:refs/heads/a main:refs/heads/b main:refs/heads/c main:refs/heads/d"),
    );
    assert!(said.contains("too many ref commands: one request may have 3"), "{said}");
    let said = h.git.fails(&h.work, &format!("push -o a -o b -o c -o d {url} main"));
    assert!(said.contains("too many push options: one request may have 3"), "{said}");
    let many = h.git.init("many");
    h.git.generate(&many, 100, 50);
    let said = h.git.fails(&many, &format!("push {url} main:refs/heads/many"));
    assert!(said.contains("objects, more than the 150 allowed"), "{said}");
    assert_eq!(h.state(), before);
    // By hand.
    let ids: Vec<String> = (0..4u8).map(|n| id_of(Kind::Blob, &[n]).to_string()).collect();
    let lines = |word: &str, ids: &[String]| ids.iter().map(|id| format!("{word} {id}\n")).collect::<String>();
    let v2 = |lines: &str| {
        let body = pkts(&format!("command=fetch\nobject-format=sha1\n0001\n{lines}0000"));
        fetch(&h.server, "hello", 2, &body).said()
    };
    let own = vec![h.old.clone()];
    for (what, said) in [
        ("wants", v2(&lines("want", &ids))),
        ("haves", v2(&format!("{}{}", lines("want", &own), lines("have", &ids)))),
        (
            "shallow lines",
            v2(&format!("{}{}", lines("want", &own), lines("shallow", &ids))),
        ),
        (
            "wants",
            fetch(
                &h.server,
                "hello",
                0,
                &pkts(&format!("{}0000\ndone", lines("want", &ids))),
            )
            .said(),
        ),
        (
            "haves",
            fetch(
                &h.server,
                "hello",
                0,
                &pkts(&format!("{}0000\n{}done", lines("want", &own), lines("have", &ids))),
            )
            .said(),
        ),
        (
            "object-info objects",
            fetch(
                &h.server,
                "hello",
                2,
                &pkts(&format!(
                    "command=object-info\nobject-format=sha1\n0001\nsize\n{}0000",
                    lines("oid", &ids)
                )),
            )
            .said(),
        ),
        (
            "server options",
            fetch(
                &h.server,
                "hello",
                2,
                &pkts(
                    "command=ls-refs\nserver-option=a\nserver-option=b\nserver-option=c\nserver-option=d\n0001\n0000",
                ),
            )
            .said(),
        ),
    ] {
        assert!(
            said.contains(&format!("too many {what}: one request may have 3")),
            "{what}: {said}"
        );
    }
    // git ignores prefixes beyond its bound, and so do we; a request beyond all bounds is another matter.
    let long = format!(
        "command=ls-refs\n0001\n{}0000",
        "ref-prefix refs/heads/\n".repeat(1_000)
    );
    let said = fetch(&h.server, "hello", 2, &pkts(&long)).said();
    assert!(said.contains("the request is larger than"), "{said}");
    // The house as configured allows this.
    h.git.ok(&h.work, &format!("push -q {url} main"));
    h.git.fsck(&h.bare);
}

#[test]
fn hostile_ref_names_are_funny() {
    let h = house();
    let pack = h.pack();
    let long = format!("refs/heads/{}", "a/".repeat(600) + "x");
    let longer = format!("refs/heads/{}", "x".repeat(300));
    let names = [
        "refs/heads/../../x",
        "refs/../../../etc/passwd",
        "refs/heads/a.lock",
        "refs/heads/a.lock/b",
        "refs/heads/.hidden",
        "refs/heads/a..b",
        "refs/heads/a b",
        "refs/heads/a\nb",
        "refs/heads/a\x1b[31m",
        "refs/heads/a\x7f",
        "refs/heads/",
        "refs/heads//a",
        "refs/heads/a/",
        "refs/heads/@{",
        "refs/heads/a\\b",
        "refs/heads/a:b",
        "refs/heads/a?b",
        "refs/heads/a*",
        "refs/heads/[a",
        "refs/heads/~",
        "refs/heads/^",
        "refs/foo",
        "HEAD",
        "config",
        "../config",
        "objects/info/alternates",
        "/refs/heads/a",
        "refs",
        "@",
        &long,
    ];
    let refs_before = h.git.ok(&h.bare, "for-each-ref");
    for name in names {
        let answer = h.push(&push_body(&[(ZERO, &h.new, name)], PUSH_CAPS, &pack));
        let (said, progress) = (answer.said(), answer.bands().progress);
        assert!(
            said.contains("unpack ok") && said.contains("funny refname\n"),
            "{name:?}: {said}"
        );
        assert!(!progress.contains(&0x1b), "{name:?}: {said:?}");
    }
    // A name that is fine but that no file system takes.
    let said = h.push(&push_body(&[(ZERO, &h.new, &longer)], PUSH_CAPS, &pack)).said();
    assert!(said.contains(&format!("ng {longer} failed to update ref")), "{said}");
    // Not even a command.
    for line in [
        format!("{ZERO} {} refs/heads/a\0{PUSH_CAPS}\0more", h.new),
        format!("{ZERO} {}", h.new),
        format!("{ZERO} {} ", h.new),
        format!("{ZERO}{}refs/heads/a", h.new),
        "refs/heads/a".to_owned(),
        "\0".to_owned(),
        format!("{ZERO} {} refs/heads/a", h.new.to_uppercase()),
    ] {
        let answer = h.push(
            &[
                &pkt(&line)[..],
                &pkt(format!("{ZERO} {} refs/heads/b\0x", h.new)),
                b"0000",
                &pack,
            ]
            .concat(),
        );
        let said = answer.said();
        assert!(
            said.contains("protocol error: expected old/new/ref, got '"),
            "{line:?}: {said}"
        );
    }
    assert_eq!(h.git.ok(&h.bare, "for-each-ref"), refs_before);
    assert!(!h.server.data().join("x").exists() && !h.server.repos().join("x").exists());
    assert!(files_beneath(&h.bare).iter().all(|(name, _)| !name.contains("tmp_")));
    h.is_well();
}

#[test]
fn commands_that_do_not_fit_are_refused_one_by_one() {
    let h = house();
    let pack = h.pack();
    let (blob, nowhere) = (h.git.ok(&h.bare, "rev-parse main:dir/a.txt"), "1".repeat(40));
    let tree = h.git.ok(&h.bare, "rev-parse main^{tree}");
    let older = h.git.ok(&h.bare, "rev-parse main~1");
    let refs_before = h.git.ok(&h.bare, "for-each-ref");
    for (old, new, name, words) in [
        // Stale, or made up.
        (&older[..], &h.new[..], "refs/heads/main", "failed to update ref"),
        (ZERO, &h.new, "refs/heads/main", "failed to update ref"),
        (&h.old, &h.new, "refs/heads/absent", "failed to update ref"),
        (&nowhere, &h.new, "refs/heads/main", "failed to update ref"),
        // What is not here, and what no branch can be.
        (ZERO, &nowhere, "refs/heads/nowhere", "missing necessary objects"),
        (ZERO, &nowhere, "refs/tags/nowhere", "missing necessary objects"),
        (ZERO, &blob, "refs/heads/blob", "failed to update ref"),
        (ZERO, &tree, "refs/heads/tree", "failed to update ref"),
        (&h.old, &blob, "refs/heads/main", "failed to update ref"),
    ] {
        let said = h.push(&push_body(&[(old, new, name)], PUSH_CAPS, &pack)).said();
        assert!(
            said.contains(&format!("ng {name} {words}\n")),
            "{name} {old} {new}: {said}"
        );
    }
    assert_eq!(h.git.ok(&h.bare, "for-each-ref"), refs_before);
    // Deleting with another value than there is; the current branch anyway.
    h.git.ok(&h.bare, "branch other");
    let said = h
        .push(&push_body(&[(&older, ZERO, "refs/heads/other")], PUSH_CAPS, b""))
        .said();
    assert!(said.contains("ng refs/heads/other failed to update ref"), "{said}");
    let said = h
        .push(&push_body(&[(&h.old, ZERO, "refs/heads/main")], PUSH_CAPS, b""))
        .said();
    assert!(
        said.contains("ng refs/heads/main deletion of the current branch prohibited"),
        "{said}"
    );
    // The same ref twice.
    let twice = [
        (&h.old[..], ZERO, "refs/heads/other"),
        (&h.old[..], &h.new[..], "refs/heads/other"),
    ];
    let said = h.push(&push_body(&twice, PUSH_CAPS, &pack)).said();
    assert!(
        said.contains("multiple updates for ref 'refs/heads/other' not allowed"),
        "{said}"
    );
    // Nothing into nothing.
    let said = h
        .push(&push_body(&[(ZERO, ZERO, "refs/heads/ghost")], PUSH_CAPS, b""))
        .said();
    assert!(said.contains("ok refs/heads/ghost"), "as git says: {said}");
    // Whatever the branch is not allowed to be, another ref is.
    let said = h
        .push(&push_body(
            &[(ZERO, &blob, "refs/x/blob")],
            PUSH_CAPS,
            &Pack::new().build(),
        ))
        .said();
    assert!(said.contains("ok refs/x/blob"), "{said}");
    h.is_well();
}

#[test]
fn a_client_that_disappears_leaves_nothing() {
    let h = house();
    // Large enough to be written to disk while it arrives.
    let noise = noise(3_000_000);
    let commit = h.git.commit(&h.work, "noise", &noise, "noise");
    let out = h.git.run_with(
        &h.work,
        ["pack-objects", "--revs", "--stdout", "-q"],
        format!("{commit}\n^{}\n", h.old).as_bytes(),
    );
    let body = push_body(&[(&h.old, &commit, "refs/heads/main")], PUSH_CAPS, &out.stdout);
    assert!(out.stdout.len() > 1_500_000, "{} bytes", out.stdout.len());
    let before = h.state();
    let objects = h.bare.join("objects");
    for reset in [false, true] {
        let mut stream = TcpStream::connect(h.server.address()).unwrap();
        let head = format!(
            "POST /repos/hello/git-receive-pack HTTP/1.1\r\nHost: h\r\nContent-Type: application/x-git-receive-pack-request\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(&body[..body.len() - 200_000]).unwrap();
        eventually("the push is in quarantine", || {
            files_beneath(&objects)
                .iter()
                .any(|(name, _)| name.contains("tmp_objdir"))
        });
        if reset {
            // Closing with unread bytes sends a reset; here there are none, so the end is as sudden as it can be.
            stream.shutdown(std::net::Shutdown::Both).unwrap();
        }
        drop(stream);
        eventually("nothing remains", || h.state() == before);
    }
    // The probe is answered while another push is under way.
    let said = h.push(&body).said();
    assert!(said.contains("ok refs/heads/main"), "{said}");
    h.git.fsck(&h.bare);
}

#[test]
fn a_pack_beyond_the_size_limit_is_refused_before_it_is_read_whole() {
    let h = house();
    h.git.ok(&h.bare, "config receive.maxInputSize 100k");
    let noise = noise(4_000_000);
    h.git.commit(&h.work, "noise", &noise, "noise");
    let before = h.state();
    let url = h.server.repo_url("hello");
    for buffer in ["65536", "100000000"] {
        let said = h
            .git
            .fails(&h.work, &format!("-c http.postBuffer={buffer} push {url} main"));
        assert!(
            said.contains("pack exceeds maximum allowed size (100.00 KiB)"),
            "{said}"
        );
        assert_eq!(h.state(), before);
    }
    h.git.ok(&h.bare, "config receive.maxInputSize 0");
    h.git.ok(&h.work, &format!("push -q {url} main"));
    h.git.fsck(&h.bare);
}

#[test]
fn malformed_fetches_are_told_in_gits_words() {
    let h = house();
    let id = &h.old;
    let other = "1".repeat(40);
    let long = "1".repeat(64);
    let v2 = |arguments: &str| pkts(&format!("command=fetch\nobject-format=sha1\n0001\n{arguments}\n0000"));
    for (version, body, words) in [
        (
            2,
            v2("want xyz"),
            "git upload-pack: protocol error, expected to get oid, not 'want xyz'".to_owned(),
        ),
        (
            2,
            v2(&format!("want {long}")),
            format!("git upload-pack: protocol error, expected to get oid, not 'want {long}'"),
        ),
        (
            2,
            v2(&format!("want {other}\ndone")),
            format!("upload-pack: not our ref {other}"),
        ),
        (
            2,
            v2(&format!("want {id}\nfrobnicate")),
            "unexpected line: 'frobnicate'".to_owned(),
        ),
        (
            2,
            v2(&format!("want {id}\nfilter blob:none")),
            "unexpected line: 'filter blob:none'".to_owned(),
        ),
        (
            2,
            v2(&format!("want {id}\nwant-ref refs/heads/main")),
            "unexpected line: 'want-ref refs/heads/main'".to_owned(),
        ),
        (
            2,
            v2(&format!("want {id}\ndeepen 0")),
            "Invalid deepen: deepen 0".to_owned(),
        ),
        (
            2,
            v2(&format!("want {id}\ndeepen -1")),
            "Invalid deepen: deepen -1".to_owned(),
        ),
        (
            2,
            v2(&format!("want {id}\ndeepen-since x")),
            "Invalid deepen-since: deepen-since x".to_owned(),
        ),
        (
            2,
            v2(&format!("want {id}\ndeepen 1\ndeepen-since 5")),
            "deepen and deepen-since (or deepen-not) cannot be used together".to_owned(),
        ),
        (
            2,
            v2(&format!("want {id}\ndeepen-not nothing\ndone")),
            "git upload-pack: ambiguous deepen-not: nothing".to_owned(),
        ),
        (
            2,
            pkts(&format!("command=fetch\n0001\nwant {id}\n0001\ndone\n0000")),
            "expected flush after fetch arguments".to_owned(),
        ),
        (
            2,
            pkts("command=ls-refs\n0001\n0001\n0000"),
            "expected flush after ls-refs arguments".to_owned(),
        ),
        (
            2,
            pkts("command=ls-refs\n0001\nwant x\n0000"),
            "unexpected line: 'want x'".to_owned(),
        ),
        (2, pkts("command=push\n0001\n0000"), "invalid command 'push'".to_owned()),
        (
            2,
            pkts("command=object-info\n0001\nsize\n0000"),
            "invalid command 'object-info'".to_owned(),
        ),
        (
            2,
            pkts("command=bundle-uri\n0001\n0000"),
            "invalid command 'bundle-uri'".to_owned(),
        ),
        (
            2,
            pkts("frobnicate\n0000"),
            "unknown capability 'frobnicate'".to_owned(),
        ),
        (
            2,
            pkts("command=fetch\ncommand=ls-refs\n0001\n0000"),
            "command 'ls-refs' requested after already requesting command 'fetch'".to_owned(),
        ),
        (2, pkts("agent=x\n0000"), "no command requested".to_owned()),
        (
            2,
            pkts("command=fetch\nobject-format=sha256\n0001\n0000"),
            "mismatched object format: server sha1; client sha256".to_owned(),
        ),
        (
            2,
            pkts("command=fetch\nobject-format=md5\n0001\n0000"),
            "unknown object format 'md5'".to_owned(),
        ),
        (
            0,
            pkts(&format!("want {other}\n0000\ndone")),
            format!("upload-pack: not our ref {other}"),
        ),
        (
            0,
            pkts("want xyz\n0000\ndone"),
            "git upload-pack: protocol error, expected to get object ID, not 'want xyz'".to_owned(),
        ),
        (
            0,
            pkts(&format!("have {id}\n0000\ndone")),
            format!("expected to get object ID, not 'have {id}'"),
        ),
        (
            0,
            pkts(&format!("want {id}\n0000\nhave xyz\ndone")),
            "git upload-pack: expected SHA1 object, got 'xyz'".to_owned(),
        ),
        (
            0,
            pkts(&format!("want {id}\n0000\nfrob\ndone")),
            "git upload-pack: expected SHA1 list, got 'frob'".to_owned(),
        ),
        (
            0,
            pkts(&format!("want {id}\ndeepen x\n0000\ndone")),
            "Invalid deepen: deepen x".to_owned(),
        ),
        (
            0,
            pkts(&format!("want {id}\nshallow x\n0000\ndone")),
            "invalid shallow line: shallow x".to_owned(),
        ),
        (
            0,
            pkts(&format!("want {id}\nfilter blob:none\n0000\ndone")),
            "git upload-pack: filtering capability not negotiated".to_owned(),
        ),
    ] {
        let versions: &[u8] = if version == 2 { &[2] } else { &[0, 1] };
        for version in versions {
            let answer = fetch(&h.server, "hello", *version, &body);
            assert_eq!(answer.status, 200);
            let expected = pkt(format!("ERR {words}"));
            let told = answer.packets();
            assert!(
                answer.body.ends_with(&expected) || told.contains(&words),
                "version {version}: expected {words:?}, not:\n{told}"
            );
            assert!(told.starts_with("ERR "), "version {version}: {told}");
        }
    }
    // Capabilities that nobody knows are nobody's business in version 0.
    let answer = fetch(
        &h.server,
        "hello",
        0,
        &[pkt(format!("want {id} frobnicate side-band-64k\n")), pkts("0000\ndone")].concat(),
    );
    assert!(answer.bands().data.starts_with(b"PACK"), "{}", answer.packets());
    h.is_well();
}

#[test]
fn garbage_is_answered_whatever_it_is() {
    let h = house();
    let before = h.state();
    let mut state = 88_172_645_463_325_252u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let good = [
        pkts(&format!(
            "command=fetch\nobject-format=sha1\n0001\nthin-pack\nofs-delta\nwant {}\nhave {}\ndone\n0000",
            h.old, h.old
        )),
        [
            pkt(format!("want {} multi_ack_detailed side-band-64k ofs-delta\n", h.old)),
            pkts("0000\ndone"),
        ]
        .concat(),
        h.with_pack(&h.pack()),
    ];
    for round in 0..150 {
        let mut body = match round % 5 {
            0 => (0..random() % 300).map(|_| random() as u8).collect(),
            n => good[(n as usize - 1) % 3].clone(),
        };
        for _ in 0..1 + random() % 3 {
            if !body.is_empty() {
                let at = random() as usize % body.len();
                // Commands stay as they are: another ref is another push.
                body[at] = random() as u8;
            }
        }
        for version in [0, 1, 2] {
            let answer = fetch(&h.server, "hello", version, &body);
            assert_eq!(answer.status, 200, "{body:?}");
        }
        // Without its last byte no pack is whole.
        body.pop();
        let answer = h.push(&body);
        assert!(
            answer.status == 200 && !answer.said().contains("ok refs/"),
            "{}",
            answer.said()
        );
    }
    assert_eq!(h.state(), before);
    assert!(peak_mib(&h.server) < 200);
    h.is_well();
}

#[test]
fn a_client_that_vanishes_in_the_middle_of_a_pack_ends_its_job() {
    let h = house_with("[limits]\nper_repository = 2\nlong_workers = 2\nqueue_wait = \"20s\"\n");
    let noise = noise(24_000_000);
    h.git.commit(&h.work, "noise", &noise, "noise");
    h.git.ok(
        &h.work,
        &format!("push -q {} main:refs/heads/noise", h.server.repo_url("hello")),
    );
    let want = h.git.ok(&h.bare, "rev-parse noise");
    let body = pkts(&format!(
        "command=fetch\nobject-format=sha1\n0001\nwant {want}\ndone\n0000"
    ));
    // More of them than there are places: each must be free again.
    for _ in 0..6 {
        let mut stream = TcpStream::connect(h.server.address()).unwrap();
        let head = format!(
            "POST /repos/hello/git-upload-pack HTTP/1.1\r\nHost: h\r\nGit-Protocol: version=2\r\nContent-Type: application/x-git-upload-pack-request\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(&[head.as_bytes(), &body].concat()).unwrap();
        let mut some = vec![0; 100_000];
        stream.read_exact(&mut some).unwrap();
        assert!(some.starts_with(b"HTTP/1.1 200"));
    }
    h.git
        .ok(h.git.dir(), &format!("clone -q {} copy", h.server.repo_url("hello")));
    h.git.fsck(h.git.path("copy"));
    assert!(peak_mib(&h.server) < 250, "{} MiB", peak_mib(&h.server));
    h.is_well();
}

#[test]
fn the_first_push_to_a_name_makes_nothing_when_it_fails() {
    let h = house();
    let pack = h.pack();
    for body in [
        push_body(&[(ZERO, &h.new, "refs/heads/main")], PUSH_CAPS, &pack[..40]),
        push_body(&[(ZERO, &h.new, "refs/heads/../x")], PUSH_CAPS, &pack),
        push_body(&[(ZERO, &h.new, "refs/heads/main")], PUSH_CAPS, &pack),
        b"garbage".to_vec(),
        b"0000".to_vec(),
        Vec::new(),
    ] {
        let answer = push(&h.server, "fresh", &body);
        assert!(!answer.said().contains("ok refs/"), "{}", answer.said());
        let mut names: Vec<_> = std::fs::read_dir(h.server.repos())
            .unwrap()
            .flatten()
            .map(|e| e.file_name())
            .collect();
        // One hidden directory is what an absent repository is shown as.
        names.retain(|name| name != "hello.git" && !name.as_encoded_bytes().starts_with(b".gitstead-tmp-"));
        assert!(names.is_empty(), "{names:?} after {:?}", String::from_utf8_lossy(&body));
    }
    let _ = wire::advertisement(&h.server, "fresh", "git-receive-pack", 0);
    h.git
        .ok(&h.work, &format!("push -q {} main", h.server.repo_url("fresh")));
    h.is_well();
}
