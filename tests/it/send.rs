//! What is sent, held against git: the sets of `git rev-list --objects`, the boundaries of `git upload-pack`, and packs that `git index-pack --strict` takes.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
};

use bstr::BStr;
use gitstead::{
    base::Filter,
    repo::{
        Anew, DeepenTo, FilterPlan, ObjectSet, Odb, OpenOptions, PackOptions, PackStats, Repository, SendError,
        SendRequest, ShallowPlan, enumerate, is_ancestor, plan_deepen, unreachable_of, write_pack,
    },
};
use gix::hash::ObjectId;

use crate::support::{Git, Output};

static RUN: AtomicBool = AtomicBool::new(false);

pub fn id(hex: &str) -> ObjectId {
    ObjectId::from_hex(hex.trim().as_bytes()).unwrap_or_else(|_| panic!("not an id: {hex:?}"))
}

pub fn ids(text: &str) -> Vec<ObjectId> {
    text.lines()
        .filter(|l| !l.is_empty())
        .map(|l| id(l.split(' ').next().expect("a word")))
        .collect()
}

pub fn odb(dir: &Path) -> Odb {
    let git_dir = if dir.join(".git").exists() {
        dir.join(".git")
    } else {
        dir.to_owned()
    };
    Repository::open(&git_dir, &OpenOptions::default())
        .expect("a repository")
        .odb()
        .expect("an odb")
}

pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % below.max(1) as u64) as usize
    }
}

/// A history with what makes walks go wrong: merges, octopuses, several roots, nested trees, renames, content that comes back, gitlinks, odd names, tags of
/// everything, and (`skew`) clocks that go backwards.
pub fn history(git: &Git, name: &str, seed: u64, commits: usize, skew: bool) -> PathBuf {
    let repo = git.init_bare(name);
    let mut random = Random(seed | 1);
    let mut stream = String::new();
    let mut branches: Vec<usize> = Vec::new();
    for n in 1..=commits {
        let fresh_root = branches.is_empty() || random.next(25) == 0;
        let branch = if branches.len() < 5 && random.next(6) == 0 || branches.is_empty() {
            branches.push(0);
            branches.len() - 1
        } else {
            random.next(branches.len())
        };
        let late = if skew && random.next(4) == 0 {
            random.next(50_000)
        } else {
            0
        };
        writeln!(stream, "commit refs/heads/b{branch}\nmark :{n}").expect("a string");
        writeln!(
            stream,
            "committer C <c@example.com> {} +0000\ndata 3\nc{}\n",
            1_600_000_000 + n * 60 - late,
            n % 10
        )
        .expect("a string");
        let mut parents = Vec::new();
        if !fresh_root {
            parents.push(match branches[branch] {
                0 => 1 + random.next(n - 1),
                parent => parent,
            });
            for _ in 0..[0, 0, 0, 1, 1, 3][random.next(6)] {
                parents.push(1 + random.next(n - 1));
            }
        } else if n > 1 {
            writeln!(stream, "deleteall").expect("a string");
            // A new root on an existing branch: fast-import wants it said.
            stream = stream.replace(
                &format!("commit refs/heads/b{branch}\nmark :{n}\n"),
                &format!("reset refs/heads/b{branch}\ncommit refs/heads/b{branch}\nmark :{n}\n"),
            );
        }
        let mut seen = BTreeSet::new();
        parents.retain(|p| seen.insert(*p));
        for (at, parent) in parents.iter().enumerate() {
            writeln!(stream, "{} :{parent}", if at == 0 { "from" } else { "merge" }).expect("a string");
        }
        branches[branch] = n;
        for _ in 0..1 + random.next(4) {
            let file = random.next(40);
            let path = match file % 5 {
                0 => format!("top{file}"),
                1 => format!("d{}/f{file}", file % 3),
                2 => format!("d{}/deep/er/f{file}", file % 3),
                3 => format!("\"x\\303\\244 y/f{file}.c\""),
                _ => format!("d{}/deep/g{file}.bin", file % 2),
            };
            match random.next(12) {
                0 => writeln!(stream, "D {path}").expect("a string"),
                1 => writeln!(stream, "M 160000 {:040x} sub{}", random.next(1 << 30), file % 3).expect("a string"),
                2 => writeln!(stream, "M 120000 inline link{}\ndata 4\nto{:02}", file % 4, file).expect("a string"),
                3 if !parents.is_empty() && random.next(3) == 0 => {
                    // A directory moves as a whole: the same tree at another path.
                    let to = random.next(3);
                    writeln!(stream, "M 100644 inline d0/keep\ndata 1\nk\nC d0 moved{to}").expect("a string");
                }
                _ => {
                    // Few versions of each file, so that content comes back; long enough for deltas.
                    let version = random.next(6);
                    let mut body = String::new();
                    for line in 0..60 {
                        writeln!(
                            body,
                            "{file} line {line} {}",
                            if line % 20 == version { version * 7919 } else { 0 }
                        )
                        .expect("a string");
                    }
                    writeln!(
                        stream,
                        "M {} inline {path}\ndata {}\n{body}",
                        if file.is_multiple_of(7) { 100755 } else { 100644 },
                        body.len()
                    )
                    .expect("a string");
                }
            }
        }
        if n % 9 == 0 {
            writeln!(
                stream,
                "tag t{n}\nfrom :{n}\ntagger T <t@example.com> {} +0000\ndata 1\nt",
                1_600_000_000 + n
            )
            .expect("a string");
        }
    }
    stream.push_str("done\n");
    let out = git.run_with(&repo, ["fast-import", "--quiet", "--done"], stream.as_bytes());
    assert!(out.ok, "{}", out.stderr);
    for (name, target) in [("tree-tag", "refs/heads/b0^{tree}"), ("tag-tag", "refs/tags/t9")] {
        git.ok(&repo, &format!("tag -a -m x {name} {target}"));
    }
    repo
}

/// A copy of a repository beside it.
pub fn copy(repo: &Path, name: &str) -> PathBuf {
    let to = repo.with_extension(name);
    let out = std::process::Command::new("cp")
        .arg("-r")
        .arg(repo)
        .arg(&to)
        .status()
        .expect("cp");
    assert!(out.success());
    to
}

/// Packs of single branches, which overlap with whatever there is.
pub fn pack_branches(git: &Git, repo: &Path) {
    for branch in git.ok(repo, "for-each-ref --format=%(refname) refs/heads").lines() {
        let out = git.run_with(
            repo,
            ["pack-objects", "--revs", "--quiet", "objects/pack/pack"],
            format!("{branch}\n").as_bytes(),
        );
        assert!(out.ok, "{}", out.stderr);
    }
}

/// The layouts in which git leaves a repository.
fn layouts(git: &Git, repo: &Path) -> Vec<PathBuf> {
    let copy = |name: &str| copy(repo, name);
    let one = copy("one");
    git.ok(&one, "repack -adfq --depth=20 --window=20");
    let graphed = copy("graphed");
    git.ok(&graphed, "repack -adq");
    git.ok(&graphed, "commit-graph write --reachable");
    let many = copy("many");
    git.ok(&many, "repack -adq");
    // Packs that overlap, with a multi-pack-index over them, and some loose objects.
    pack_branches(git, &many);
    git.ok(&many, "multi-pack-index write");
    git.ok(&many, "tag -a -m loose loose-tag refs/heads/b0");
    let loose = copy("loose");
    let packs = git.ok(&loose, "rev-parse --git-path objects/pack");
    for pack in std::fs::read_dir(loose.join(packs)).expect("a directory") {
        let path = pack.expect("an entry").path();
        let data = std::fs::read(&path).expect("a file");
        std::fs::remove_file(&path).expect("removed");
        if path.extension().is_some_and(|e| e == "pack") {
            assert!(git.run_with(&loose, ["unpack-objects", "-q"], &data).ok);
        }
    }
    vec![repo.to_owned(), one, graphed, many, loose]
}

pub fn find(odb: &Odb, request: &SendRequest<'_>) -> ObjectSet {
    try_find(odb, request).expect("a set")
}

fn try_find(odb: &Odb, request: &SendRequest<'_>) -> Result<ObjectSet, SendError> {
    enumerate(odb, &[], request, &mut |_| (), &RUN)
}

pub fn set(set: &ObjectSet) -> BTreeSet<ObjectId> {
    let all = set.ids().expect("ids");
    let unique: BTreeSet<_> = all.iter().copied().collect();
    assert_eq!((unique.len(), all.len()), (set.len() as usize, set.len() as usize));
    unique
}

pub fn rev_list(git: &Git, repo: &Path, args: &[&str], wants: &[ObjectId], haves: &[ObjectId]) -> BTreeSet<ObjectId> {
    let mut input = String::new();
    for want in wants {
        writeln!(input, "{want}").expect("a string");
    }
    for have in haves {
        writeln!(input, "^{have}").expect("a string");
    }
    let args = ["rev-list", "--objects", "--no-object-names", "--stdin"]
        .iter()
        .chain(args)
        .copied();
    let out = git.run_with(repo, args.collect::<Vec<_>>(), input.as_bytes());
    assert!(out.ok, "{}", out.stderr);
    ids(&out.text()).into_iter().collect()
}

/// Fails unless the sets are equal, saying which objects are not in both.
#[track_caller]
pub fn same(git: &Git, repo: &Path, got: &BTreeSet<ObjectId>, expected: &BTreeSet<ObjectId>, what: &str) {
    let show = |a: &BTreeSet<ObjectId>, b: &BTreeSet<ObjectId>| {
        let named = |id: &ObjectId| format!("{id} {}", git.ok(repo, &format!("cat-file -t {id}")));
        a.difference(b).take(8).map(named).collect::<Vec<_>>()
    };
    assert!(
        got == expected,
        "{} {what}: lacks {:?}, has too much {:?}",
        repo.display(),
        show(expected, got),
        show(got, expected)
    );
}

pub fn write(odb: &Odb, set: &ObjectSet, options: &PackOptions) -> (Vec<u8>, PackStats) {
    let mut pack = Vec::new();
    let anew = Anew::find(odb, set, options, &mut |_, _| (), &RUN).expect("deltas");
    let stats = write_pack(odb, set, options, anew, &mut pack, &mut |_| (), &RUN).expect("a pack");
    assert_eq!((stats.objects, stats.bytes), (set.len(), pack.len() as u64));
    (pack, stats)
}

pub fn all_tips(git: &Git, repo: &Path) -> Vec<ObjectId> {
    let mut tips = ids(&git.ok(repo, "for-each-ref --format=%(objectname)"));
    tips.sort();
    tips.dedup();
    tips
}

/// Every ref's object and what it points to through tags.
pub fn peeled(git: &Git, repo: &Path) -> BTreeMap<ObjectId, Vec<ObjectId>> {
    git.ok(repo, "for-each-ref --format=%(objectname)")
        .lines()
        .map(|tip| {
            let mut chain = vec![id(tip)];
            while git.ok(repo, &format!("cat-file -t {}", chain[chain.len() - 1])) == "tag" {
                let tag = git.ok(repo, &format!("cat-file tag {}", chain[chain.len() - 1]));
                chain.push(id(tag
                    .lines()
                    .next()
                    .and_then(|l| l.strip_prefix("object "))
                    .expect("a target")));
            }
            (id(tip), chain)
        })
        .collect()
}

pub fn pick(random: &mut Random, from: &[ObjectId], n: usize) -> Vec<ObjectId> {
    (0..n).map(|_| from[random.next(from.len())]).collect()
}

#[test]
fn a_clone_sends_what_rev_list_lists_and_index_pack_takes_it() {
    let git = Git::new();
    for (seed, skew) in [(1, false), (2, true), (3, false)] {
        let repo = history(&git, &format!("r{seed}"), seed * 77, 150, skew);
        for repo in layouts(&git, &repo) {
            let odb = odb(&repo);
            let tips = all_tips(&git, &repo);
            let request = SendRequest {
                wants: &tips,
                ..SendRequest::default()
            };
            let found = find(&odb, &request);
            let expected = rev_list(&git, &repo, &[], &tips, &[]);
            same(&git, &repo, &set(&found), &expected, "clone");
            for options in [
                PackOptions::default(),
                PackOptions {
                    ofs_delta: false,
                    ..PackOptions::default()
                },
            ] {
                let (pack, _) = write(&odb, &found, &options);
                let client = git.init_bare(&format!("c{}", pack.len()));
                let out = git.run_with(&client, ["index-pack", "--strict", "--stdin"], &pack);
                assert!(out.ok, "{}: {}", repo.display(), out.stderr);
                let listed = ids(&git.ok(&client, "cat-file --batch-all-objects --batch-check=%(objectname)"));
                assert_eq!(listed.into_iter().collect::<BTreeSet<_>>(), expected);
                std::fs::remove_dir_all(client).expect("removed");
            }
        }
    }
}

#[test]
fn a_pack_that_is_all_of_ours_is_sent_as_it_is() {
    let git = Git::new();
    let repo = history(&git, "r", 5, 80, false);
    git.ok(&repo, "repack -adfq");
    let odb = odb(&repo);
    let tips = all_tips(&git, &repo);
    let found = find(
        &odb,
        &SendRequest {
            wants: &tips,
            ..SendRequest::default()
        },
    );
    let (pack, stats) = write(&odb, &found, &PackOptions::default());
    assert_eq!(pack, std::fs::read(odb.packs()[0].path()).expect("the pack"));
    assert_eq!(stats.reused, stats.objects);
}

#[test]
fn a_fetch_sends_what_is_needed_and_no_more_than_git() {
    let git = Git::new();
    for (seed, skew) in [(11u64, false), (12, false), (13, true)] {
        let repo = history(&git, &format!("r{seed}"), seed * 991, 150, skew);
        let commits = ids(&git.ok(&repo, "rev-list --all"));
        let tips = all_tips(&git, &repo);
        let mut random = Random(seed);
        for repo in layouts(&git, &repo) {
            let odb = odb(&repo);
            for _ in 0..3 {
                let (w, h) = (1 + random.next(3), 1 + random.next(4));
                let mut wants = pick(&mut random, &commits, w);
                if random.next(3) == 0 {
                    wants.extend(pick(&mut random, &tips, 1));
                }
                let mut haves = pick(&mut random, &commits, h);
                if random.next(3) == 0 {
                    haves.extend(pick(&mut random, &tips, 1));
                }
                let request = SendRequest {
                    wants: &wants,
                    haves: &haves,
                    thin: true,
                    ..SendRequest::default()
                };
                let found = find(&odb, &request);
                let got = set(&found);
                let had = rev_list(&git, &repo, &[], &haves, &[]);
                let closure = rev_list(&git, &repo, &[], &wants, &[]);
                let needed: BTreeSet<_> = closure.difference(&had).copied().collect();
                let missing: Vec<_> = needed.difference(&got).collect();
                assert!(
                    missing.is_empty(),
                    "{}: {wants:?} {haves:?} lacks {missing:?}",
                    repo.display()
                );
                let gits = rev_list(&git, &repo, &[], &wants, &haves);
                let allowed: BTreeSet<_> = if skew { closure } else { gits };
                let extra: Vec<_> = got.difference(&allowed).filter(|id| !wants.contains(id)).collect();
                assert!(
                    extra.is_empty(),
                    "{}: {wants:?} {haves:?} sends too much: {extra:?}",
                    repo.display()
                );

                // A client that has exactly the haves can use the pack.
                let client = git.init_bare("client");
                let first = find(
                    &odb,
                    &SendRequest {
                        wants: &haves,
                        ..SendRequest::default()
                    },
                );
                let (pack, _) = write(&odb, &first, &PackOptions::default());
                assert!(git.run_with(&client, ["index-pack", "--stdin"], &pack).ok);
                for thin in [false, true] {
                    let (pack, _) = write(
                        &odb,
                        &found,
                        &PackOptions {
                            thin,
                            ..PackOptions::default()
                        },
                    );
                    let args = if thin {
                        vec!["index-pack", "--fix-thin", "--stdin"]
                    } else {
                        vec!["index-pack", "--stdin"]
                    };
                    let out = git.run_with(&client, args, &pack);
                    assert!(
                        out.ok || (pack.len() == 32 && found.is_empty()),
                        "{}: {}",
                        repo.display(),
                        out.stderr
                    );
                    rev_list(&git, &client, &[], &wants, &[]);
                }
                std::fs::remove_dir_all(client).expect("removed");
            }
        }
    }
}

pub fn plan(odb: &Odb, repo: &Path, git: &Git, spec: &str) -> FilterPlan {
    let filter = Filter::parse(spec.into()).expect("a filter");
    FilterPlan::resolve(&filter, &mut |name: &BStr| {
        let oid = id(&git.ok(repo, &format!("rev-parse {name}")));
        let mut out = Vec::new();
        Ok::<_, ()>(odb.read(&oid, &mut out).expect("a blob").map(|_| out))
    })
    .expect("a plan")
}

#[test]
fn filters_leave_out_what_rev_list_leaves_out() {
    let git = Git::new();
    let repo = history(&git, "r", 31, 120, false);
    let sparse = |text: &str| {
        let out = git.run_with(&repo, ["hash-object", "-w", "--stdin"], text.as_bytes());
        out.text()
    };
    let specs = [
        "blob:none".to_owned(),
        "blob:limit=1000".into(),
        "blob:limit=1".into(),
        "blob:limit=0".into(),
        "tree:0".into(),
        "tree:1".into(),
        "tree:2".into(),
        "tree:3".into(),
        "tree:9".into(),
        "object:type=commit".into(),
        "object:type=tree".into(),
        "object:type=blob".into(),
        "object:type=tag".into(),
        "combine:tree:2+blob:none".into(),
        "combine:tree:3+blob:limit=1200".into(),
        "combine:object:type=blob+blob:limit=1200".into(),
        format!("sparse:oid={}", sparse("/d0/\n")),
        format!("sparse:oid={}", sparse("*.c\n/d1/*\n!/d1/deep/\n")),
        format!("sparse:oid={}", sparse("/*\n!/*/\n/d2/deep/\n")),
        format!("sparse:oid={}", sparse("deep\n!*.bin\n")),
        format!("combine:tree:3+sparse:oid={}", sparse("/d0/\n/d1/\n")),
    ];
    let mut random = Random(7);
    for repo in layouts(&git, &repo).into_iter().skip(1).take(2) {
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
                let found = find(&odb, &request);
                let mut expected = rev_list(&git, &repo, &[&filter], &wants, &[]);
                // Of what was asked for by id git leaves out what it also meets on another way.
                expected.extend(
                    wants
                        .iter()
                        .flat_map(|want| peeled.get(want).cloned().unwrap_or_else(|| vec![*want])),
                );
                let got = set(&found);
                if spec.starts_with("combine:") && spec.contains("sparse:") {
                    // git's combination forgets a blob that one part let pass at a place where the other did not: less than what passes both.
                    assert!(expected.is_subset(&got), "{spec} {wants:?}");
                } else {
                    same(&git, &repo, &got, &expected, &format!("{spec} {wants:?}"));
                }
                let (pack, _) = write(&odb, &found, &PackOptions::default());
                let client = git.init_bare("client");
                let out = git.run_with(&client, ["index-pack", "--stdin"], &pack);
                assert!(out.ok, "{}", out.stderr);
                std::fs::remove_dir_all(client).expect("removed");

                // With haves: never more than git leaves, never less than is needed.
                let haves = pick(&mut random, &commits, 2);
                let found = find(
                    &odb,
                    &SendRequest {
                        haves: &haves,
                        thin: true,
                        ..request
                    },
                );
                let got = set(&found);
                let had = rev_list(&git, &repo, &[], &haves, &[]);
                let needed: BTreeSet<_> = rev_list(&git, &repo, &[&filter], &wants, &[])
                    .difference(&had)
                    .copied()
                    .collect();
                assert!(needed.is_subset(&got), "{} {spec}", repo.display());
            }
        }
    }
}

fn pkt(line: &str) -> String {
    format!("{:04x}{line}\n", line.len() + 5)
}

/// What git's own upload-pack says the boundary becomes.
fn gits_plan(
    git: &Git,
    repo: &Path,
    wants: &[ObjectId],
    shallow: &[ObjectId],
    lines: &[String],
    relative: bool,
) -> Result<ShallowPlan, Output> {
    let mut input = String::new();
    for (at, want) in wants.iter().enumerate() {
        let caps = match (at, relative) {
            (0, true) => " shallow deepen-since deepen-not deepen-relative",
            (0, false) => " shallow deepen-since deepen-not",
            _ => "",
        };
        input.push_str(&pkt(&format!("want {want}{caps}")));
    }
    for id in shallow {
        input.push_str(&pkt(&format!("shallow {id}")));
    }
    for line in lines {
        input.push_str(&pkt(line));
    }
    input.push_str("0000");
    let out = git.run_with(
        repo,
        [
            "-c",
            "uploadpack.allowAnySHA1InWant=true",
            "upload-pack",
            "--stateless-rpc",
            ".",
        ],
        input.as_bytes(),
    );
    let (mut plan, mut rest) = (ShallowPlan::default(), &out.stdout[..]);
    while let Some(len) = rest.get(..4) {
        let len = usize::from_str_radix(std::str::from_utf8(len).expect("hex"), 16).expect("hex");
        if len < 4 {
            return Ok(plan);
        }
        let line = String::from_utf8_lossy(&rest[4..len]).into_owned();
        match line.trim().split_once(' ') {
            Some(("shallow", oid)) => plan.shallow.push(id(oid)),
            Some(("unshallow", oid)) => plan.unshallow.push(id(oid)),
            _ => break,
        }
        rest = &rest[len..];
    }
    Err(out)
}

fn sorted(mut plan: ShallowPlan) -> ShallowPlan {
    plan.shallow.sort();
    plan.unshallow.sort();
    plan
}

#[test]
fn boundaries_are_where_git_puts_them() {
    let git = Git::new();
    let full = history(&git, "full", 404, 120, false);
    let url = format!("file://{}", full.display());
    git.ok(
        git.dir(),
        &format!("clone -q --bare --depth=6 --no-single-branch {url} cut"),
    );
    let mut random = Random(99);
    for repo in [full, git.path("cut")] {
        let odb = odb(&repo);
        let tips = all_tips(&git, &repo);
        let own: Vec<ObjectId> = std::fs::read_to_string(repo.join("shallow"))
            .map(|text| ids(&text))
            .unwrap_or_default();
        let commits = ids(&git.ok(&repo, "rev-list --all"));
        for round in 0..40 {
            let (w, s) = (1 + random.next(2), random.next(4));
            let wants = if round % 2 == 0 {
                pick(&mut random, &commits, w)
            } else {
                pick(&mut random, &tips, w)
            };
            let mut shallow = pick(&mut random, &commits, s);
            shallow.sort();
            shallow.dedup();
            let depth = 1 + random.next(7) as u32;
            let since = 1_600_000_000 + random.next(120 * 60) as i64;
            let (to, lines, relative) = match round % 5 {
                0 => (DeepenTo::Depth(depth), vec![format!("deepen {depth}")], false),
                1 => (DeepenTo::Relative(depth), vec![format!("deepen {depth}")], true),
                2 => (
                    DeepenTo::RevList {
                        since: Some(since),
                        not: vec![],
                    },
                    vec![format!("deepen-since {since}")],
                    false,
                ),
                3 => {
                    let not = git.ok(&repo, "rev-parse refs/heads/b1");
                    (
                        DeepenTo::RevList {
                            since: None,
                            not: ids(&not),
                        },
                        vec!["deepen-not refs/heads/b1".into()],
                        false,
                    )
                }
                _ => (DeepenTo::Depth(0x7fff_ffff), vec!["deepen 2147483647".into()], false),
            };
            let ours = plan_deepen(&odb, &own, &wants, &tips, &shallow, &to, &RUN);
            match gits_plan(&git, &repo, &wants, &shallow, &lines, relative) {
                Ok(gits) => {
                    let mut ours = ours.expect("a plan");
                    let mut gits = gits;
                    if matches!(to, DeepenTo::RevList { .. }) {
                        // Git does not name the repository's own boundaries here, and a client of version 2 is left with parents
                        // that it never gets. We name them.
                        ours.shallow.retain(|id| !own.contains(id));
                        gits.shallow.retain(|id| !own.contains(id));
                    }
                    let (ours, gits) = (sorted(ours), sorted(gits));
                    assert_eq!(
                        ours,
                        gits,
                        "{} {to:?} wants {wants:?} shallow {shallow:?}",
                        repo.display()
                    );
                }
                Err(out) => {
                    let err = ours.expect_err("git refuses");
                    assert!(
                        out.stderr.contains(&err.to_string()),
                        "{err}: {} {}",
                        out.stderr,
                        out.text()
                    );
                }
            }
        }
    }
}

#[test]
fn who_reaches_whom_is_what_git_says() {
    let git = Git::new();
    let repo = history(&git, "reach", 77, 90, true);
    let odb = odb(&repo);
    let commits = ids(&git.ok(&repo, "rev-list --all"));
    let mut random = Random(5);
    for _ in 0..60 {
        let pair = pick(&mut random, &commits, 2);
        let (a, b) = (pair[0], pair[1]);
        let gits = git
            .run(&repo, ["merge-base", "--is-ancestor", &a.to_string(), &b.to_string()])
            .ok;
        assert_eq!(
            is_ancestor(&odb, &a, &b, &[], &RUN).expect("an answer"),
            gits,
            "{a} {b}"
        );
    }
    for _ in 0..10 {
        let tips = pick(&mut random, &commits, 2);
        let mut all = vec!["rev-list".to_owned(), "--objects".to_owned()];
        all.extend(tips.iter().map(ToString::to_string));
        let reached: BTreeSet<ObjectId> = ids(&git.ok_args(&repo, &all)).into_iter().collect();
        let everything = ids(&git.ok(&repo, "rev-list --objects --all"));
        let asked = pick(&mut random, &everything, 8);
        let expected: Vec<ObjectId> = asked.iter().copied().filter(|id| !reached.contains(id)).collect();
        let ours = unreachable_of(&odb, &asked, &tips, &[], &RUN).expect("an answer");
        assert_eq!(ours, expected, "of {asked:?} by {tips:?}");
    }
}
