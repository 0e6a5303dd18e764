//! What is sent by reachability bitmaps that git wrote, held against `git rev-list --objects`.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
};

use gitstead::repo::{ObjectSet, PackOptions, SendRequest, enumerate};
use gix::hash::ObjectId;

use crate::{
    send::{
        Random, all_tips, copy, find, history, ids, odb, pack_branches, peeled, pick, plan, rev_list, same, set, write,
    },
    support::Git,
};

/// Files of a repository's pack directory with this ending.
fn pack_files(repo: &Path, ending: &str) -> Vec<PathBuf> {
    let dir = std::fs::read_dir(repo.join("objects/pack")).expect("a directory");
    let paths = dir.map(|entry| entry.expect("an entry").path());
    let name = |path: &PathBuf| path.to_string_lossy().ends_with(ending);
    paths.filter(name).collect()
}

/// Repacks with bitmaps as long as some refs are not there and the others are older, and leaves loose what these would have reached.
fn bitmap_a_part(git: &Git, repo: &Path) {
    let refs = git.ok(repo, "for-each-ref --format=%(refname)\u{20}%(objectname)");
    let (mut back, mut forth) = (String::new(), String::new());
    for (n, line) in refs.lines().enumerate() {
        let (name, id) = line.split_once(' ').expect("two words");
        writeln!(forth, "update {name} {id}").expect("a string");
        let out = git.run(
            repo,
            ["rev-parse", "--verify", "--quiet", &format!("{name}~12^{{commit}}")],
        );
        match out.ok && n % 3 < 2 {
            true => writeln!(back, "update {name} {}", out.text().trim()).expect("a string"),
            false => writeln!(back, "delete {name}").expect("a string"),
        }
    }
    assert!(git.run_with(repo, ["update-ref", "--stdin"], back.as_bytes()).ok);
    git.ok(repo, "repack -Adbq --depth=20");
    assert!(git.run_with(repo, ["update-ref", "--stdin"], forth.as_bytes()).ok);
    assert_eq!(pack_files(repo, ".bitmap").len(), 1);
}

/// The layouts in which git leaves a repository that has bitmaps.
fn layouts(git: &Git, repo: &Path) -> Vec<PathBuf> {
    let one = copy(repo, "one");
    git.ok(&one, "repack -adbfq --depth=20 --window=20");
    let table = copy(repo, "table");
    git.ok(
        &table,
        "-c pack.writeBitmapLookupTable=true -c pack.writeReverseIndex=false repack -adbq",
    );
    let part = copy(repo, "part");
    bitmap_a_part(git, &part);
    let beside = copy(repo, "beside");
    bitmap_a_part(git, &beside);
    // What was loose, and then everything again in newer packs.
    git.ok(&beside, "repack -dq");
    pack_branches(git, &beside);
    let midx = copy(repo, "midx");
    pack_branches(git, &midx);
    git.ok(&midx, "repack -dq");
    git.ok(&midx, "multi-pack-index write --bitmap");
    git.ok(&midx, "tag -a -m loose loose-tag refs/heads/b0");
    let midx_of_part = copy(repo, "midx-of-part");
    bitmap_a_part(git, &midx_of_part);
    pack_branches(git, &midx_of_part);
    git.ok(&midx_of_part, "multi-pack-index write");
    let all = vec![one, table, part, beside, midx, midx_of_part];
    for repo in &all {
        assert_eq!(pack_files(repo, ".bitmap").len(), 1, "{}", repo.display());
    }
    all
}

fn union(sets: [&BTreeSet<ObjectId>; 2]) -> BTreeSet<ObjectId> {
    sets.into_iter().flatten().copied().collect()
}

#[test]
fn a_clone_by_bitmaps_is_what_rev_list_lists() {
    let git = Git::new();
    for (seed, skew) in [(4, false), (5, true)] {
        let repo = history(&git, &format!("r{seed}"), seed * 177, 200, skew);
        let commits = ids(&git.ok(&repo, "rev-list --all"));
        let mut random = Random(seed);
        for repo in layouts(&git, &repo) {
            let odb = odb(&repo);
            let tips = all_tips(&git, &repo);
            let single = pick(&mut random, &commits, 1);
            let few = [pick(&mut random, &commits, 3), pick(&mut random, &tips, 2)].concat();
            for wants in [tips, single, few] {
                let request = SendRequest {
                    wants: &wants,
                    ..SendRequest::default()
                };
                let found = find(&odb, &request);
                let expected = rev_list(&git, &repo, &[], &wants, &[]);
                same(&git, &repo, &set(&found), &expected, "clone");
                for ofs_delta in [true, false] {
                    let options = PackOptions {
                        ofs_delta,
                        ..PackOptions::default()
                    };
                    let (pack, stats) = write(&odb, &found, &options);
                    let client = git.init_bare("client");
                    let out = git.run_with(&client, ["index-pack", "--strict", "--stdin"], &pack);
                    assert!(out.ok, "{}: {}", repo.display(), out.stderr);
                    let listed = ids(&git.ok(&client, "cat-file --batch-all-objects --batch-check=%(objectname)"));
                    assert_eq!(listed.into_iter().collect::<BTreeSet<_>>(), expected);
                    // A pack that is sent as it is was not looked into.
                    assert!(
                        stats.deltas > stats.objects / 5 || stats.objects < 400 || stats.reused == stats.objects,
                        "{stats:?}"
                    );
                    std::fs::remove_dir_all(client).expect("removed");
                }
            }
        }
    }
}

#[test]
fn a_long_fetch_by_bitmaps_is_exactly_the_difference() {
    let git = Git::new();
    let mut long = 0;
    for (seed, skew) in [(21, false), (22, true)] {
        let repo = history(&git, &format!("r{seed}"), seed * 991, 900, skew);
        let commits = ids(&git.ok(&repo, "rev-list --all"));
        let tips = all_tips(&git, &repo);
        let mut random = Random(seed);
        for repo in layouts(&git, &repo) {
            let odb = odb(&repo);
            for _ in 0..5 {
                let (w, h) = (1 + random.next(4), 1 + random.next(3));
                let wants = [pick(&mut random, &commits[..300], w), pick(&mut random, &tips, 1)].concat();
                let haves = [
                    pick(&mut random, &commits[400..], h),
                    vec![commits[0]; random.next(5) / 4],
                ]
                .concat();
                let request = SendRequest {
                    wants: &wants,
                    haves: &haves,
                    thin: true,
                    ..SendRequest::default()
                };
                let found = find(&odb, &request);
                let had = rev_list(&git, &repo, &[], &haves, &[]);
                let needed: BTreeSet<_> = rev_list(&git, &repo, &[], &wants, &[])
                    .difference(&had)
                    .copied()
                    .collect();
                let filter = "--filter=object:type=commit";
                let new = rev_list(&git, &repo, &[filter, "--filter-provided-objects"], &wants, &haves).len();
                if new > 300 {
                    long += 1;
                    // Trees and blobs asked for by id are sent anyway.
                    let got = set(&found)
                        .into_iter()
                        .filter(|id| !had.contains(id) || !tips.contains(id));
                    same(&git, &repo, &got.collect(), &needed, &format!("{wants:?} {haves:?}"));
                } else {
                    assert!(
                        needed.is_subset(&set(&found)),
                        "{}: {wants:?} {haves:?}",
                        repo.display()
                    );
                }
                takes(&git, &repo, &haves, &found, &wants);
            }
        }
    }
    assert!(long > 20, "{long}");
}

/// A client that has exactly the haves can use the pack.
fn takes(git: &Git, repo: &Path, haves: &[ObjectId], found: &ObjectSet, wants: &[ObjectId]) {
    let odb = odb(repo);
    let client = git.init_bare("client");
    let request = SendRequest {
        wants: haves,
        ..SendRequest::default()
    };
    let (pack, _) = write(&odb, &find(&odb, &request), &PackOptions::default());
    assert!(git.run_with(&client, ["index-pack", "--stdin"], &pack).ok);
    for thin in [true, false] {
        let client = copy(&client, "again");
        let options = PackOptions {
            thin,
            ..PackOptions::default()
        };
        let (pack, _) = write(&odb, found, &options);
        let args = match thin {
            true => vec!["index-pack", "--fix-thin", "--stdin"],
            false => vec!["index-pack", "--stdin"],
        };
        let out = git.run_with(&client, args, &pack);
        assert!(out.ok || found.is_empty(), "{}: {}", repo.display(), out.stderr);
        rev_list(git, &client, &[], wants, &[]);
        std::fs::remove_dir_all(client).expect("removed");
    }
    std::fs::remove_dir_all(client).expect("removed");
}

#[test]
fn filters_by_bitmaps_leave_out_what_rev_list_leaves_out() {
    let git = Git::new();
    let repo = history(&git, "r", 41, 700, false);
    let specs = [
        "blob:none",
        "blob:limit=1200",
        "tree:0",
        "tree:2",
        "object:type=commit",
        "object:type=tree",
        "object:type=blob",
        "object:type=tag",
        "combine:object:type=blob+blob:limit=1200",
    ];
    let mut random = Random(7);
    for repo in layouts(&git, &repo) {
        let odb = odb(&repo);
        let tips = all_tips(&git, &repo);
        let peeled = peeled(&git, &repo);
        let commits = ids(&git.ok(&repo, "rev-list --all"));
        for spec in &specs {
            let plan = plan(&odb, &repo, &git, spec);
            let filter = format!("--filter={spec}");
            for wants in [tips.clone(), pick(&mut random, &commits, 1)] {
                let request = SendRequest {
                    wants: &wants,
                    filter: Some(&plan),
                    ..SendRequest::default()
                };
                let listed = rev_list(&git, &repo, &[&filter], &wants, &[]);
                let named = wants
                    .iter()
                    .flat_map(|want| peeled.get(want).cloned().unwrap_or_else(|| vec![*want]));
                let named: BTreeSet<_> = named.collect();
                let found = find(&odb, &request);
                same(
                    &git,
                    &repo,
                    &set(&found),
                    &union([&listed, &named]),
                    &format!("{spec} {wants:?}"),
                );

                let haves = pick(&mut random, &commits[500..], 1);
                let found = find(
                    &odb,
                    &SendRequest {
                        haves: &haves,
                        ..request
                    },
                );
                let had = rev_list(&git, &repo, &[], &haves, &[]);
                let needed: BTreeSet<_> = listed.difference(&had).copied().collect();
                if wants.len() > 1 && !spec.starts_with("tree:2") {
                    let got: BTreeSet<_> = set(&found).difference(&named).copied().collect();
                    let needed = needed.difference(&named).copied().collect();
                    same(&git, &repo, &got, &needed, &format!("{spec} {wants:?} {haves:?}"));
                } else {
                    assert!(needed.is_subset(&set(&found)), "{} {spec}", repo.display());
                }
            }
        }
    }
}

#[test]
fn what_bitmaps_speak_for_is_not_read() {
    let git = Git::new();
    let repo = history(&git, "r", 51, 60, false);
    git.ok(&repo, "repack -adbq");
    let tips = all_tips(&git, &repo);
    let expected = rev_list(&git, &repo, &[], &tips, &[]);
    // The first byte of what a root tree is compressed into.
    let root = git.ok(&repo, "rev-list --max-parents=0 --all");
    let tree = git.ok(
        &repo,
        &format!("rev-parse {}^{{tree}}", root.lines().next().expect("a root")),
    );
    let index = pack_files(&repo, ".idx").remove(0);
    let listed = git
        .run_with(&repo, ["show-index"], &std::fs::read(index).expect("an index"))
        .text();
    let line = listed
        .lines()
        .find(|line| line.contains(tree.trim()))
        .expect("it is packed");
    let offset: usize = line.split(' ').next().and_then(|n| n.parse().ok()).expect("an offset");
    let pack = pack_files(&repo, ".pack").remove(0);
    let mut bytes = std::fs::read(&pack).expect("a pack");
    bytes[offset + 1..offset + 4].fill(0xff);
    std::fs::remove_file(&pack).expect("removed");
    std::fs::write(&pack, bytes).expect("written");
    let request = SendRequest {
        wants: &tips,
        ..SendRequest::default()
    };
    same(&git, &repo, &set(&find(&odb(&repo), &request)), &expected, "by bitmaps");
    git.ok(&repo, "config pack.useBitmaps false");
    let stop = AtomicBool::new(false);
    assert!(enumerate(&odb(&repo), &[], &request, &mut |_| (), &stop).is_err());
}

#[test]
fn a_damaged_bitmap_is_done_without() {
    let git = Git::new();
    let original = history(&git, "r", 61, 100, false);
    let of_pack = copy(&original, "of-pack");
    git.ok(&of_pack, "repack -adbq");
    let of_midx = copy(&original, "of-midx");
    git.ok(&of_midx, "repack -adq");
    git.ok(&of_midx, "multi-pack-index write --bitmap");
    for repo in [of_pack, of_midx] {
        let tips = all_tips(&git, &repo);
        let expected = rev_list(&git, &repo, &[], &tips, &[]);
        let request = SendRequest {
            wants: &tips,
            ..SendRequest::default()
        };
        let path = pack_files(&repo, ".bitmap").remove(0);
        let good = std::fs::read(&path).expect("a bitmap");
        let mut random = Random(61);
        for round in 0..40 {
            let mut bytes = good.clone();
            match round % 3 {
                0 => bytes.truncate(random.next(good.len())),
                // The header, or the head of one of the first bitmaps.
                1 => bytes[random.next(44)] ^= 0x15,
                _ => bytes.splice(32..32, [0; 8]).for_each(drop),
            }
            std::fs::remove_file(&path).expect("removed");
            std::fs::write(&path, bytes).expect("written");
            let found = find(&odb(&repo), &request);
            // The number of bits, bytes 32 to 35, says nothing; every other damage is seen.
            same(&git, &repo, &set(&found), &expected, &format!("round {round}"));
        }
    }
}
