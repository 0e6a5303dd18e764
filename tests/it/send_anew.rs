//! Deltas that are made for one answer: of loose objects, of what lies whole in several packs, and against what a client has.

use std::{fs, path::PathBuf, sync::atomic::AtomicBool};

use gitstead::repo::{Anew, OpenOptions, PackOptions, PackStats, Repository, SendError, SendRequest, write_pack};

use crate::{
    send::{Random, all_tips, find, history, id, odb, write},
    support::Git,
};

const VERSIONS: usize = 40;

/// A repository in which one long file changes a little with every commit; all of it is loose.
fn versions(git: &Git, name: &str) -> PathBuf {
    let repo = git.init(name);
    let mut random = Random(7);
    let mut lines: Vec<String> = (0..400).map(|n| format!("{n}: {}", random.next(usize::MAX))).collect();
    for n in 0..VERSIONS {
        let at = random.next(lines.len());
        lines[at] = format!("{n}: {}", random.next(usize::MAX));
        git.commit(&repo, "src/a file.txt", lines.join("\n"), &format!("version {n}"));
    }
    repo.join(".git")
}

/// The same history, as pushes of one commit each leave it: every version lies whole in a pack of its own.
fn piled_up(git: &Git, name: &str, from: &std::path::Path) -> PathBuf {
    let repo = git.init_bare(name);
    let list = git.ok(from, "rev-list --reverse HEAD");
    let mut before = String::new();
    for commit in list.lines() {
        let wanted = format!("{commit}\n{before}");
        let args = ["pack-objects", "--revs", "--stdout", "-q", "--window=0"];
        let pack = git.run_with(from, args, wanted.as_bytes()).stdout;
        assert!(git.run_with(&repo, ["index-pack", "--stdin"], &pack).ok);
        before = format!("^{commit}\n");
    }
    git.ok(
        &repo,
        &format!("update-ref refs/heads/main {}", list.lines().last().expect("a commit")),
    );
    repo
}

#[test]
fn versions_of_a_file_are_sent_as_deltas_whether_they_are_loose_or_each_in_a_pack() {
    let git = Git::new();
    let loose = versions(&git, "loose");
    let piled = piled_up(&git, "piled.git", &loose);
    let tips = all_tips(&git, &piled);
    let wanted = format!("{}\n", tips[0]);
    let args = ["pack-objects", "--revs", "--stdout", "-q", "--delta-base-offset"];
    let theirs = git.run_with(&loose, args, wanted.as_bytes()).stdout.len();
    for repo in [loose, piled] {
        let odb = odb(&repo);
        let found = find(
            &odb,
            &SendRequest {
                wants: &tips,
                ..SendRequest::default()
            },
        );
        for ofs_delta in [true, false] {
            let options = PackOptions {
                ofs_delta,
                ..PackOptions::default()
            };
            let (pack, stats) = write(&odb, &found, &options);
            assert!(stats.new_deltas as usize >= VERSIONS - 1, "{stats:?}");
            let size = pack.len() - if ofs_delta { 0 } else { 20 * stats.deltas as usize };
            assert!(size < theirs * 12 / 10, "{size} bytes, git {theirs}");
            let client = git.init_bare(&format!("client-{}", pack.len()));
            let out = git.run_with(&client, ["index-pack", "--strict", "--stdin"], &pack);
            assert!(out.ok, "{}", out.stderr);
            git.ok(&client, &format!("update-ref refs/heads/main {}", tips[0]));
            git.fsck(&client);
            fs::remove_dir_all(client).expect("removed");
        }
    }
}

#[test]
fn what_lies_whole_in_a_pack_is_a_delta_for_a_client_that_has_the_version_before() {
    let git = Git::new();
    let repo = versions(&git, "r");
    git.ok(&repo, "repack -adfq --window=0");
    let odb = odb(&repo);
    let commits = git.ok(&repo, "rev-list --max-count=2 HEAD");
    let commits: Vec<_> = commits.lines().map(id).collect();
    let (wants, haves) = commits.split_at(1);
    let request = SendRequest {
        wants,
        haves,
        thin: true,
        ..SendRequest::default()
    };
    let options = PackOptions {
        thin: true,
        ..PackOptions::default()
    };
    let (pack, stats) = write(&odb, &find(&odb, &request), &options);
    assert!(stats.new_deltas > 0, "{stats:?}");
    // The file has some eight thousand bytes, most of them random digits.
    assert!(pack.len() < 1_000, "{} bytes", pack.len());
    let client = git.init_bare("client.git");
    let from = repo.display().to_string();
    git.ok_args(&client, ["fetch", "-q", &from, &format!("{}:refs/heads/old", haves[0])]);
    let out = git.run_with(&client, ["index-pack", "--fix-thin", "--stdin"], &pack);
    assert!(out.ok, "{}", out.stderr);
    git.ok(&client, &format!("update-ref refs/heads/new {}", wants[0]));
    git.fsck(&client);
}

#[test]
fn a_damaged_object_is_named_and_not_made_a_delta_of_others() {
    let git = Git::new();
    let repo = versions(&git, "r");
    let tips = all_tips(&git, &repo);
    let blob = git.ok_args(&repo, ["rev-parse", "HEAD~3:src/a file.txt"]);
    let path = repo.join("objects").join(&blob[..2]).join(&blob[2..]);
    let mut bytes = fs::read(&path).expect("a loose object");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x55;
    fs::remove_file(&path).expect("removed");
    fs::write(&path, bytes).expect("written");
    let odb = odb(&repo);
    let found = find(
        &odb,
        &SendRequest {
            wants: &tips,
            ..SendRequest::default()
        },
    );
    let run = AtomicBool::new(false);
    let options = PackOptions::default();
    let anew = Anew::find(&odb, &found, &options, &mut |_, _| (), &run).expect("others can be compared");
    let sent = write_pack(&odb, &found, &options, anew, &mut Vec::new(), &mut |_| (), &run);
    match sent {
        Err(error @ (SendError::Corrupt { .. } | SendError::Odb { .. })) => assert!(error.to_string().len() > 10),
        Err(error) => panic!("another error: {error:?}"),
        Ok(stats) => panic!("it was sent: {stats:?}"),
    }
}

fn opened(dir: &std::path::Path) -> Repository {
    Repository::open(dir, &OpenOptions::default()).expect("a repository")
}

/// All that `wants` reach, as a client gets it.
fn clone_of(repo: &Repository, wants: &[gix::ObjectId], ofs_delta: bool) -> (Vec<u8>, PackStats) {
    let odb = repo.odb().expect("objects");
    let request = SendRequest {
        wants,
        ..SendRequest::default()
    };
    let options = PackOptions {
        ofs_delta,
        ..PackOptions::default()
    };
    write(&odb, &find(&odb, &request), &options)
}

#[test]
fn what_was_made_for_one_answer_is_in_the_next_though_its_file_can_no_longer_be_read() {
    let git = Git::new();
    let dir = versions(&git, "r");
    let tips = all_tips(&git, &dir);
    let repo = opened(&dir);
    let (first, stats) = clone_of(&repo, &tips, true);
    assert!(stats.new_deltas as usize >= VERSIONS - 1, "{stats:?}");
    for commit in git.ok(&dir, "rev-list HEAD").lines() {
        let blob = git.ok_args(&dir, ["rev-parse", &format!("{commit}:src/a file.txt")]);
        let file = dir.join("objects").join(&blob[..2]).join(&blob[2..]);
        fs::remove_file(&file).expect("removed");
        fs::write(&file, b"damaged").expect("written");
    }
    let (second, again) = clone_of(&repo, &tips, true);
    assert_eq!((second == first, again.new_deltas), (true, stats.new_deltas));
    // Another repository knows nothing of it, though it is the same on disk.
    let other = opened(&dir).odb().expect("objects");
    let request = SendRequest {
        wants: &tips,
        ..SendRequest::default()
    };
    let (set, options) = (find(&other, &request), PackOptions::default());
    let anew = Anew::find(&other, &set, &options, &mut |_, _| (), &AtomicBool::new(false)).expect("without deltas");
    let mut out = Vec::new();
    let stop = AtomicBool::new(false);
    assert!(write_pack(&other, &set, &options, anew, &mut out, &mut |_| (), &stop).is_err());
}

#[test]
fn what_is_new_since_the_last_answer_is_a_delta_of_what_was_in_it() {
    let git = Git::new();
    let dir = versions(&git, "r");
    let repo = opened(&dir);
    let (first, before) = clone_of(&repo, &all_tips(&git, &dir), true);
    let file = git.ok_args(&dir, ["cat-file", "blob", "HEAD:src/a file.txt"]);
    let changed = file.replacen("7: ", "seven: ", 1);
    assert_ne!(changed, file);
    git.commit(dir.parent().expect("its files"), "src/a file.txt", changed, "one more");
    let (second, after) = clone_of(&repo, &all_tips(&git, &dir), true);
    // The trees are too small to be deltas.
    assert_eq!(after.new_deltas, before.new_deltas + 1);
    assert!(second.len() < first.len() + 700, "{} and {}", first.len(), second.len());
    let client = git.init_bare("client.git");
    let out = git.run_with(&client, ["index-pack", "--strict", "--stdin"], &second);
    assert!(out.ok, "{}", out.stderr);
}

#[test]
fn a_file_that_grows_between_answers_is_whole_once() {
    let git = Git::new();
    let dir = git.init("r");
    let (mut random, mut text) = (Random(5), String::new());
    let repo = opened(&dir.join(".git"));
    let mut last = Vec::new();
    for n in 0..12 {
        for _ in 0..60 {
            text.push_str(&format!("{n}: {}\n", random.next(usize::MAX)));
        }
        git.commit(&dir, "log.txt", &text, "more");
        last = clone_of(&repo, &all_tips(&git, &dir), true).0;
    }
    let (anew, _) = clone_of(&opened(&dir.join(".git")), &all_tips(&git, &dir), true);
    assert!(
        last.len() < anew.len() + anew.len() / 10,
        "{} and {}",
        last.len(),
        anew.len()
    );
    let client = git.init_bare("client.git");
    let out = git.run_with(&client, ["index-pack", "--strict", "--stdin"], &last);
    assert!(out.ok, "{}", out.stderr);
}

#[test]
fn answers_are_whole_whatever_was_remembered_from_others() {
    for seed in [11, 12] {
        let git = Git::new();
        let packed = history(&git, "packed.git", seed, 60, false);
        git.ok(&packed, "repack -adq");
        let loose = git.path("loose.git");
        git.ok(git.dir(), "clone -q --bare --no-local packed.git loose.git");
        for entry in fs::read_dir(packed.join("objects/pack")).expect("packs").flatten() {
            if entry.path().extension().is_some_and(|kind| kind == "pack") {
                let pack = fs::read(entry.path()).expect("a pack");
                fs::remove_dir_all(loose.join("objects/pack")).expect("removed");
                fs::create_dir(loose.join("objects/pack")).expect("made");
                assert!(git.run_with(&loose, ["unpack-objects", "-q"], &pack).ok);
            }
        }
        let tips = all_tips(&git, &packed);
        let mut random = Random(seed);
        for dir in [&loose, &packed] {
            let repo = opened(dir);
            for round in 0..6 {
                let wants: Vec<_> = (0..1 + random.next(3)).map(|_| tips[random.next(tips.len())]).collect();
                let (pack, _) = clone_of(&repo, &wants, round % 3 != 2);
                let client = git.init_bare("client.git");
                let out = git.run_with(&client, ["index-pack", "--strict", "--stdin"], &pack);
                assert!(out.ok, "seed {seed}, round {round}: {}", out.stderr);
                let names: Vec<String> = wants.iter().map(ToString::to_string).collect();
                let args = [&["rev-list".to_owned(), "--objects".to_owned()], &names[..]].concat();
                let list = |dir| {
                    let text = git.ok_args(dir, &args);
                    let mut ids: Vec<_> = text.lines().map(|line| line[..40].to_owned()).collect();
                    ids.sort();
                    ids
                };
                assert_eq!(list(client.as_path()), list(packed.as_path()));
                fs::remove_dir_all(client).expect("removed");
            }
        }
    }
}
