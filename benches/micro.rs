//! What single parts cost: times by divan, and numbers of instructions, which stay the same from run to run.
//!
//!     cargo bench --bench micro [-- FILTER]
//!     benches/instructions [FILTER]            under valgrind
//!
//! For the second this program does one case so many times and nothing else: `micro --case NAME --times N`; `micro --cases` names them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a measurement that cannot go on says so by panicking"
)]

use std::{hint::black_box, sync::atomic::AtomicBool};

use gitstead::{
    base::RepoName,
    depot::{CreateOptions, Depot, DepotOptions},
    pack::{DeltaBase, Ewah, Inflater, apply_delta, deflate},
    protocol::{Channel, Decoder, Sideband},
    repo::{Anew, ObjectSet, ObjectSink, PackOptions, Repository, SendRequest, SinkForm, enumerate, write_pack},
};
use gix::{hash::ObjectId, objs::Kind};

type Body = Box<dyn FnMut()>;
type Make = fn() -> Body;

/// Every case: its name, and what makes it ready.
const CASES: [(&str, Make); 12] = [
    ("pkt-decode-1000-lines", pkt_decode),
    ("pkt-encode-1000-lines", pkt_encode),
    ("sideband-1-mib", sideband),
    ("ewah-from-2m-bits", ewah_from),
    ("ewah-or-2m-bits", ewah_or),
    ("ewah-ones-2m-bits", ewah_ones),
    ("delta-encode-64-kib", delta_encode),
    ("delta-apply-64-kib", delta_apply),
    ("inflate-64-kib", inflate),
    ("enumerate-clone-6000-objects", enumerate_clone),
    ("enumerate-fetch-10-commits", enumerate_fetch),
    ("copy-pack-6000-objects", copy_pack),
];

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words[..] {
        ["--cases"] => CASES.iter().for_each(|(name, _)| println!("{name}")),
        ["--case", name, "--times", times] => {
            let mut body = body(name);
            for _ in 0..times.parse::<u32>().expect("a number") {
                body();
            }
        }
        _ => divan::main(),
    }
}

fn body(name: &str) -> Body {
    let (_, make) = CASES.iter().find(|(case, _)| *case == name).expect("a case");
    make()
}

#[divan::bench(args = CASES.map(|(name, _)| name))]
fn micro(bencher: divan::Bencher<'_, '_>, name: &str) {
    let mut body = body(name);
    bencher.bench_local(&mut body);
}

/// Numbers that look random and are the same every time (SplitMix64).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Lines of words, as in source code.
    fn text(&mut self, len: usize) -> Vec<u8> {
        let mut text = Vec::with_capacity(len + 32);
        while text.len() < len {
            let n = self.next();
            let word = [" fn ", " let ", "\n", " value", " self.", "(", ")\n", " = ", " return "][n as usize % 9];
            text.extend_from_slice(word.as_bytes());
            if n & 0x700 == 0 {
                text.extend_from_slice(format!("{:x}", n >> 40).as_bytes());
            }
        }
        text.truncate(len);
        text
    }
}

fn wants() -> Vec<Vec<u8>> {
    let mut numbers = Numbers(1);
    let line = |_| {
        let id: String = (0..5).map(|_| format!("{:08x}", numbers.next() as u32)).collect();
        format!("want {id}\n").into_bytes()
    };
    (0..1_000).map(line).collect()
}

fn pkt_decode() -> Body {
    let mut bytes = Vec::new();
    for line in wants() {
        gitstead::protocol::data(&mut bytes, &line);
    }
    Box::new(move || {
        let (mut decoder, mut found) = (Decoder::new(), 0);
        for piece in bytes.chunks(8 << 10) {
            decoder.feed(piece);
            while let Some(packet) = decoder.next().expect("packets") {
                found += packet.line().map_or(0, <[u8]>::len);
            }
        }
        assert_eq!(black_box(found), 45_000);
    })
}

fn pkt_encode() -> Body {
    let lines = wants();
    let mut out = Vec::new();
    Box::new(move || {
        out.clear();
        for line in &lines {
            gitstead::protocol::data(&mut out, line);
        }
        black_box(&out);
    })
}

fn sideband() -> Body {
    let pack = vec![7; 1 << 20];
    let mut out = Vec::new();
    Box::new(move || {
        out.clear();
        for piece in pack.chunks(Sideband::Large.max_data()) {
            Sideband::Large.write(&mut out, Channel::Data, piece);
        }
        black_box(&out);
    })
}

/// Runs of all lengths, as bitmaps of commits have them.
fn words(seed: u64) -> Vec<u64> {
    let mut numbers = Numbers(seed);
    let mut words = Vec::new();
    while words.len() < 2_000_000 / 64 {
        let n = numbers.next();
        let run = (n >> 8) as usize % 200;
        match n % 3 {
            0 => words.extend(std::iter::repeat_n(0, run)),
            1 => words.extend(std::iter::repeat_n(u64::MAX, run)),
            _ => words.extend((0..run / 8).map(|_| numbers.next())),
        }
    }
    words
}

fn ewah_from() -> Body {
    let words = words(1);
    Box::new(move || {
        black_box(Ewah::from_words(&words));
    })
}

fn ewah_or() -> Body {
    let (one, other) = (Ewah::from_words(&words(1)), words(2));
    Box::new(move || {
        let mut dense = other.clone();
        one.or_into(&mut dense);
        black_box(&dense);
    })
}

fn ewah_ones() -> Body {
    let bits = Ewah::from_words(&words(1));
    Box::new(move || {
        black_box(bits.ones().map(u64::from).sum::<u64>());
    })
}

/// A file and a later version of it.
fn versions() -> (Vec<u8>, Vec<u8>) {
    let mut numbers = Numbers(3);
    let before = numbers.text(64 << 10);
    let mut after = before.clone();
    for at in [100, 20_000, 41_000, 60_000] {
        after.splice(at..at + 40, numbers.text(200));
    }
    (before, after)
}

fn delta() -> (Vec<u8>, Vec<u8>, Vec<u8>) {
    let (before, after) = versions();
    let mut delta = Vec::new();
    assert!(DeltaBase::new(&before).encode(&after, 8 << 10, &mut delta));
    (before, after, delta)
}

fn delta_encode() -> Body {
    let (before, after) = versions();
    Box::new(move || {
        let mut delta = Vec::new();
        assert!(DeltaBase::new(&before).encode(&after, 8 << 10, &mut delta));
        black_box(&delta);
    })
}

fn delta_apply() -> Body {
    let (before, after, delta) = delta();
    let mut out = Vec::new();
    Box::new(move || {
        out.clear();
        apply_delta(&before, &delta, 1 << 20, &mut out).expect("a delta");
        assert_eq!(black_box(&out).len(), after.len());
    })
}

fn inflate() -> Body {
    let (text, _) = versions();
    let mut small = Vec::new();
    deflate(&text, -1, &mut small);
    let (mut inflater, mut out) = (Inflater::new(), Vec::new());
    Box::new(move || {
        out.clear();
        inflater.inflate_exact(&small, text.len(), &mut out).expect("a stream");
        black_box(&out);
    })
}

/// A repository of 2,000 commits, each of which changes one of a hundred files, in one pack without deltas.
struct History {
    _dir: tempfile::TempDir,
    repo: Repository,
    commits: Vec<ObjectId>,
}

fn history() -> History {
    let dir = tempfile::tempdir().expect("a directory");
    let depot = Depot::new(&dir.path().join("repos"), DepotOptions::default()).expect("a depot");
    let name = RepoName::parse("r").expect("a name");
    depot.create(&name, &CreateOptions::default()).expect("made");
    let path = dir.path().join("repos/r.git");
    let repo = Repository::open(&path, &Default::default()).expect("a repository");
    let sink: ObjectSink = repo.object_sink(SinkForm::Pack).expect("a sink");
    let (mut numbers, mut files, mut commits) = (Numbers(4), Vec::new(), Vec::<ObjectId>::new());
    for _ in 0..100 {
        files.push(sink.write(Kind::Blob, &numbers.text(400)).expect("written"));
    }
    for n in 0..2_000usize {
        files[n % 100] = sink.write(Kind::Blob, &numbers.text(400)).expect("written");
        let mut tree = Vec::new();
        for (at, file) in files.iter().enumerate() {
            tree.extend_from_slice(format!("100644 file-{at:03}\0").as_bytes());
            tree.extend_from_slice(file.as_slice());
        }
        let tree = sink.write(Kind::Tree, &tree).expect("written");
        let parent = commits
            .last()
            .map_or(String::new(), |parent| format!("parent {parent}\n"));
        let who = format!("A U Thor <a@example.com> {} +0000", 1_700_000_000 + n);
        let commit = format!("tree {tree}\n{parent}author {who}\ncommitter {who}\n\nchange {n}\n");
        commits.push(sink.write(Kind::Commit, commit.as_bytes()).expect("written"));
    }
    sink.publish(false).expect("published");
    History {
        _dir: dir,
        repo,
        commits,
    }
}

fn find(history: &History, haves: &[ObjectId]) -> ObjectSet {
    let odb = history.repo.odb().expect("an odb");
    let wants = &history.commits[history.commits.len() - 1..];
    let request = SendRequest {
        wants,
        haves,
        ..SendRequest::default()
    };
    enumerate(&odb, &[], &request, &mut |_| (), &AtomicBool::new(false)).expect("enumerated")
}

fn enumerate_clone() -> Body {
    let history = history();
    Box::new(move || {
        let history = &history;
        black_box(find(history, &[]));
    })
}

fn enumerate_fetch() -> Body {
    let history = history();
    let had = history.commits[history.commits.len() - 11];
    Box::new(move || {
        let history = &history;
        black_box(find(history, &[had]));
    })
}

fn copy_pack() -> Body {
    let history = history();
    // All but the first commit: else the pack would go out as it is.
    let set = find(&history, &history.commits[..1]);
    let mut out = Vec::new();
    Box::new(move || {
        // The directory of the repository lives as long as this.
        let history = &history;
        out.clear();
        let odb = history.repo.odb().expect("an odb");
        let options = PackOptions::default();
        let stats = write_pack(
            &odb,
            &set,
            &options,
            Anew::default(),
            &mut out,
            &mut |_| (),
            &AtomicBool::new(false),
        );
        assert!(stats.expect("written").objects > 5_900);
    })
}
