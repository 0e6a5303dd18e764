//! Deltas that are made for one answer: of loose objects, of what lies whole in several packs, and against what a client has.

use std::{fs, path::PathBuf, sync::atomic::AtomicBool};

use gitstead::repo::{Anew, PackOptions, SendError, SendRequest, write_pack};

use crate::{
    send::{Random, all_tips, find, id, odb, write},
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
