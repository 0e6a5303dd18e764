//! `kill -9` in the middle of pushes: whatever the moment, a push is wholly there or not at all, what a client was told is so, and nothing is left lying about.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use crate::support::{
    Git, Server, ServerOptions,
    wire::{self, PUSH_CAPS, ZERO, exchange, files_beneath, push_body},
};

type Refs = BTreeMap<String, String>;

fn refs_of(git: &Git, bare: &Path) -> Refs {
    git.ok_args(bare, ["for-each-ref", "--format=%(refname) %(objectname)"])
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(name, id)| (name.to_owned(), id.to_owned()))
        .collect()
}

/// When the server is killed.
#[derive(Debug, Clone, Copy)]
enum Moment {
    /// As soon as a file whose path contains this is there.
    Sees(&'static str),
    /// So long after the push was sent.
    After(Duration),
    /// When the client has its answer.
    Answered,
}

const MOMENTS: [Moment; 8] = [
    Moment::Sees("tmp_objdir-"),
    Moment::Sees("pack/tmp_pack_incoming"),
    Moment::Sees(".keep"),
    Moment::Sees("refs/heads/t/11.lock"),
    Moment::Sees("packed-refs.lock"),
    Moment::Sees("packed-refs.new"),
    Moment::Answered,
    Moment::Sees("objects/pack/pack-"),
];

fn everything(dir: &Path) -> Vec<String> {
    files_beneath(dir).into_iter().map(|(name, _)| name).collect()
}

/// Waits for the moment, or for the end of the push.
fn wait_for(moment: Moment, bare: &Path, before: &[String], push: &thread::JoinHandle<Option<wire::Response>>) {
    let start = Instant::now();
    while !push.is_finished() {
        let now = match moment {
            Moment::Sees(part) => everything(bare)
                .iter()
                .any(|name| name.contains(part) && !before.contains(name)),
            Moment::After(delay) => start.elapsed() >= delay,
            Moment::Answered => false,
        };
        if now {
            return;
        }
        assert!(start.elapsed() < wire::PATIENCE, "{moment:?} does not come");
        thread::yield_now();
    }
}

struct Round {
    body: Vec<u8>,
    after: Refs,
}

/// A push that moves twelve refs, makes one and deletes one.
fn round(git: &Git, work: &Path, number: usize, before: &Refs) -> Round {
    // Large ones are a pack that is written while it arrives, small ones become loose objects.
    let len = if number.is_multiple_of(2) { 1_500_000 } else { 3_000 };
    let mut state = number as u64 + 1;
    let noise: Vec<u8> = (0..len)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as u8
        })
        .collect();
    let commit = git.commit(work, "noise", noise, &format!("round {number}"));
    let list = format!("{commit}\n^{commit}~1\n");
    let args = ["pack-objects", "--revs", "--stdout", "-q", "--compression=0"];
    let pack = git.run_with(work, args, list.as_bytes()).stdout;
    let mut after = before.clone();
    let mut commands = Vec::new();
    for n in 0..12 {
        let name = format!("refs/heads/t/{n}");
        let old = after.insert(name.clone(), commit.clone());
        commands.push((old.unwrap_or_else(|| ZERO.to_owned()), commit.clone(), name));
    }
    let name = format!("refs/tags/round-{number}");
    after.insert(name.clone(), commit.clone());
    commands.push((ZERO.to_owned(), commit.clone(), name));
    let gone = format!("refs/tags/round-{}", number.wrapping_sub(1));
    if let Some(old) = after.remove(&gone) {
        commands.push((old, ZERO.to_owned(), gone));
    }
    let commands: Vec<(&str, &str, &str)> = commands.iter().map(|(a, b, c)| (&a[..], &b[..], &c[..])).collect();
    let atomic = if number.is_multiple_of(3) { " atomic" } else { "" };
    Round {
        body: push_body(&commands, &format!("{PUSH_CAPS}{atomic}"), &pack),
        after,
    }
}

fn send(address: &str, body: &[u8]) -> Option<wire::Response> {
    let headers = [("Content-Type", "application/x-git-receive-pack-request")];
    exchange(
        address,
        "POST",
        "/repos/hello/git-receive-pack",
        &headers,
        body,
        body.len(),
    )
}

fn was_told_ok(answer: Option<&wire::Response>, refs: usize) -> bool {
    answer.is_some_and(|answer| answer.said().matches("ok refs/").count() >= refs)
}

/// What a push leaves behind only while it runs.
fn leftovers(bare: &Path) -> Vec<String> {
    let mut names = everything(bare);
    names.retain(|name| {
        ["tmp_", ".lock", ".keep", "packed-refs.new", ".tmp"]
            .iter()
            .any(|part| name.contains(part))
    });
    names
}

#[test]
fn a_killed_push_is_wholly_there_or_not_at_all() {
    let git = Git::new();
    let work = git.init("work");
    git.ok(&work, "config core.compression 0");
    git.commit(&work, "a.txt", "a\n", "first");
    let mut server = Server::start();
    git.ok(&work, &format!("push -q {} main", server.repo_url("hello")));
    let bare: PathBuf = server.repos().join("hello.git");
    let mut refs = refs_of(&git, &bare);
    let (mut whole, mut not_at_all, mut dirty) = (0, 0, 0);
    for number in 0..26 {
        let next = round(&git, &work, number, &refs);
        git.ok(
            &bare,
            &format!("config receive.unpackLimit {}", if number % 2 == 0 { 1 } else { 100 }),
        );
        let moment = match number % 2 {
            _ if number < 16 => MOMENTS[number / 2],
            _ => Moment::After(Duration::from_micros(700 * (number as u64 - 15))),
        };
        let before = everything(&bare);
        let (address, body) = (server.address().to_owned(), next.body.clone());
        let push = thread::spawn(move || send(&address, &body));
        wait_for(moment, &bare, &before, &push);
        let data = server.kill();
        let answer = push.join().unwrap();
        let told_ok = was_told_ok(answer.as_ref(), 13);
        dirty += usize::from(!leftovers(&bare).is_empty());

        // What the killed one left is a whole repository, for git as well.
        let found = refs_of(&git, &bare);
        git.fsck(&bare);
        assert!(
            found == refs || found == next.after,
            "round {number}, killed at {moment:?}: half a push\nbefore {refs:#?}\nfound {found:#?}"
        );
        assert!(
            !told_ok || found == next.after,
            "round {number}, killed at {moment:?}: told ok, and not there"
        );

        // The next server takes the push, and clears up.
        server = Server::on(data, ServerOptions::default());
        if found == next.after {
            whole += 1;
            // Another push, since that is what clears up.
            let small = push_body(
                &[(ZERO, &next.after["refs/heads/t/0"], "refs/x/again")],
                PUSH_CAPS,
                &wire::Pack::new().build(),
            );
            assert!(was_told_ok(send(server.address(), &small).as_ref(), 1));
            let id = &next.after["refs/heads/t/0"];
            let gone = push_body(&[(id, ZERO, "refs/x/again")], PUSH_CAPS, b"");
            assert!(was_told_ok(send(server.address(), &gone).as_ref(), 1));
        } else {
            not_at_all += 1;
            let answer = send(server.address(), &next.body);
            assert!(
                was_told_ok(answer.as_ref(), 13),
                "round {number}: {}",
                answer.unwrap().said()
            );
        }
        refs = refs_of(&git, &bare);
        assert_eq!(refs, next.after, "round {number}");
        assert_eq!(
            leftovers(&bare),
            Vec::<String>::new(),
            "round {number}, killed at {moment:?}"
        );
    }
    git.fsck(&bare);
    git.ok(git.dir(), &format!("clone -q {} copy", server.repo_url("hello")));
    git.fsck(git.path("copy"));
    // The moments were moments of pushes.
    assert!(
        whole >= 2 && not_at_all >= 5 && dirty >= 5,
        "{whole} whole, {not_at_all} not, {dirty} dirty"
    );
}

#[test]
fn the_first_push_to_a_name_survives_a_kill_too() {
    let git = Git::new();
    let work = git.init("work");
    let commit = git.commit(&work, "a.txt", "a\n", "first");
    let list = format!("{commit}\n");
    let pack = git
        .run_with(&work, ["pack-objects", "--revs", "--stdout", "-q"], list.as_bytes())
        .stdout;
    let body = push_body(&[(ZERO, &commit, "refs/heads/main")], PUSH_CAPS, &pack);
    let mut server = Server::start();
    for number in 0..8 {
        let bare = server.repos().join("hello.git");
        let (address, sent) = (server.address().to_owned(), body.clone());
        let push = thread::spawn(move || send(&address, &sent));
        let start = Instant::now();
        let seen = |part: &str| everything(&bare).iter().any(|name| name.contains(part));
        while !push.is_finished()
            && !match number {
                0 => bare.exists(),
                1 => seen("tmp_objdir"),
                2 => seen("main.lock"),
                _ => start.elapsed() > Duration::from_millis(number * 2),
            }
        {
            thread::yield_now();
        }
        let data = server.kill();
        let told_ok = was_told_ok(push.join().unwrap().as_ref(), 1);
        if bare.exists() {
            git.fsck(&bare);
        }
        let there = bare.exists() && git.run(&bare, ["rev-parse", "-q", "--verify", "main"]).ok;
        assert!(there || !told_ok, "round {number}");
        server = Server::on(data, ServerOptions::default());
        let url = server.repo_url("hello");
        git.ok(&work, &format!("push -q {url} main"));
        git.fsck(&bare);
        assert_eq!(git.ok(&bare, "rev-parse main"), commit);
        git.ok(&bare, "symbolic-ref HEAD");
        std::fs::remove_dir_all(&bare).unwrap();
    }
}
