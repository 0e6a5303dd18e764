//! What is asked of the servers.

use std::{fs, path::Path, sync::Arc};

use crate::{
    check::Check,
    client::Request,
    git::{copy_tree, git, git_with, text},
    wire::{ZERO, push_body, v2_fetch, v2_ls_refs},
};

pub(crate) struct Work {
    pub(crate) name: &'static str,
    /// One list for each client that works at the same time; a client sends its list one after the other, on one connection.
    pub(crate) clients: Vec<Vec<Request>>,
    /// Reset this repository (a copy of that one) before each measurement.
    pub(crate) reset: Option<(String, String)>,
    pub(crate) check: Check,
}

impl Work {
    pub(crate) fn requests(&self) -> usize {
        self.clients.iter().map(Vec::len).sum()
    }
}

/// Pushes of one commit each: so many branches, so many commits on each.
const BRANCHES: usize = 8;
const COMMITS: usize = 25;

/// Makes every workload. `scratch` holds `empty.git`, and `repos/source.git` beside it is the repository.
pub(crate) fn all(scratch: &Path, wanted: &dyn Fn(&str) -> bool) -> Vec<Work> {
    let source = &scratch.join("repos/source.git");
    let head = text(git(source, &["rev-parse", "HEAD"]));
    let back = |n: usize| {
        let skip = format!("--skip={n}");
        let id = text(git(source, &["rev-list", "--first-parent", &skip, "-1", "HEAD"]));
        assert!(!id.is_empty(), "the repository has more than {n} commits");
        id
    };
    let upload = |path: &str, body: Vec<u8>, expect: &[u8]| Request {
        path: format!("{path}/git-upload-pack"),
        service: Some("upload-pack"),
        v2: true,
        body: Arc::new(body),
        expect: expect.to_vec(),
    };
    let work = |name, clients: usize, each: usize, request: Request, check: Check| Work {
        name,
        clients: vec![vec![request; each]; clients],
        reset: None,
        check,
    };
    let fetch = |name, clients, each, arguments: &[&str], have: Option<String>| {
        let haves: Vec<String> = have.iter().cloned().collect();
        let body = v2_fetch(std::slice::from_ref(&head), &haves, arguments);
        let check = Check::Pack {
            want: head.clone(),
            have,
            filter: arguments.iter().any(|a| a.starts_with("filter")),
        };
        work(name, clients, each, upload("source.git", body, b"PACK"), check)
    };
    let ls = |name, clients, each, path: &str, prefixes: &[&str], expect: &[u8]| {
        work(
            name,
            clients,
            each,
            upload(path, v2_ls_refs(prefixes), expect),
            Check::Same,
        )
    };
    let info = Request {
        path: "source.git/info/refs?service=git-upload-pack".into(),
        service: None,
        v2: true,
        body: Arc::default(),
        expect: b"ls-refs".to_vec(),
    };
    let usual = ["HEAD", "refs/heads/", "refs/tags/"];
    let mut all = vec![
        fetch("clone", 1, 1, &[], None),
        fetch("shallow", 1, 1, &["deepen 1"], None),
        fetch("blobless", 1, 1, &["filter blob:none"], None),
        fetch("fetch-10", 1, 1, &[], Some(back(10))),
        fetch("fetch-1000", 1, 1, &[], Some(back(1000))),
        ls("ls-refs-100k", 1, 1, "many-refs.git", &[], b"topic/99999"),
        ls(
            "ls-refs-100k-prefix",
            1,
            200,
            "many-refs.git",
            &["refs/heads/topic/9999"],
            b"topic/99999",
        ),
        fetch("clone-16-at-once", 16, 1, &[], None),
        work("info-refs-x200", 1, 200, info, Check::Same),
        ls("ls-refs-x200", 1, 200, "source.git", &usual, b"refs/heads/"),
        ls("ls-refs-x400-by-8", 8, 50, "source.git", &usual, b"refs/heads/"),
    ];
    for (name, path) in [("clone-100-packs", "packs.git"), ("clone-loose", "loose.git")] {
        if wanted(name) {
            let target = scratch.join("repos").join(path);
            match name {
                "clone-loose" => scatter(source, &target, &head),
                _ => pile_up(source, &target, &head),
            }
            copy_tree(&target, &scratch.join("repos-git").join(path));
            let check = Check::Pack {
                want: head.clone(),
                have: None,
                filter: false,
            };
            all.push(work(
                name,
                1,
                1,
                upload(path, v2_fetch(std::slice::from_ref(&head), &[], &[]), b"PACK"),
                check,
            ));
        }
    }
    if wanted("clone-all") {
        let refs = text(git(source, &["for-each-ref", "--format=%(objectname)"]));
        let mut wants: Vec<String> = refs.lines().map(str::to_owned).chain([head.clone()]).collect();
        wants.sort();
        wants.dedup();
        let check = Check::Pack {
            want: head.clone(),
            have: None,
            filter: false,
        };
        let request = upload("source.git", v2_fetch(&wants, &[], &[]), b"PACK");
        all.push(work("clone-all", 1, 1, request, check));
    }
    if wanted("fetch-1-x200") || wanted("fetch-1-x400-by-8") {
        // Each asks for another commit, whose parent it has.
        let list = text(git(source, &["rev-list", "--first-parent", "-n", "201", "HEAD"]));
        let commits: Vec<String> = list.lines().map(str::to_owned).collect();
        assert_eq!(commits.len(), 201, "the repository has enough commits");
        let requests: Vec<Request> = commits
            .windows(2)
            .map(|pair| upload("source.git", v2_fetch(&pair[..1], &pair[1..], &[]), b"PACK"))
            .collect();
        let check = Check::Pack {
            want: commits[0].clone(),
            have: Some(commits[1].clone()),
            filter: false,
        };
        let of_client = |n: usize| requests.iter().skip(n * 25).cycle().take(50).cloned().collect();
        all.push(Work {
            name: "fetch-1-x200",
            clients: vec![requests.clone()],
            reset: None,
            check: check.clone(),
        });
        all.push(Work {
            name: "fetch-1-x400-by-8",
            clients: (0..8).map(of_client).collect(),
            reset: None,
            check,
        });
    }
    if wanted("push-whole") || wanted("push-whole-nofsck") {
        let pack = git_with(
            source,
            &["pack-objects", "--revs", "--stdout", "-q", "--delta-base-offset"],
            format!("{head}\n").as_bytes(),
        );
        let request = push(push_body(ZERO, &head, "refs/heads/pushed", &pack), "refs/heads/pushed");
        for (name, template) in [("push-whole", "empty.git"), ("push-whole-nofsck", "empty-nofsck.git")] {
            all.push(Work {
                name,
                clients: vec![vec![request.clone()]],
                reset: Some(("target.git".into(), template.into())),
                check: Check::Refs(vec![("refs/heads/pushed".into(), head.clone())]),
            });
        }
    }
    if ["push-1-x50", "push-1-x200", "push-1-x200-by-8"]
        .iter()
        .any(|name| wanted(name))
    {
        let (chains, tips) = small_pushes(scratch, source, &head);
        let reset = Some(("target.git".to_owned(), "repos/source.git".to_owned()));
        all.push(Work {
            name: "push-1-x50",
            clients: vec![chains[..2].concat()],
            reset: reset.clone(),
            check: Check::Refs(tips[..2].to_vec()),
        });
        all.push(Work {
            name: "push-1-x200",
            clients: vec![chains.concat()],
            reset: reset.clone(),
            check: Check::Refs(tips.clone()),
        });
        all.push(Work {
            name: "push-1-x200-by-8",
            clients: chains,
            reset,
            check: Check::Refs(tips),
        });
    }
    all.retain(|work| wanted(work.name));
    all
}

/// A repository with the configuration of `source` and without its objects.
fn bare_like(source: &Path, target: &Path) {
    let directory = target.parent().expect("a directory");
    git(
        directory,
        &["init", "-q", "--bare", "-b", "main", &target.display().to_string()],
    );
    fs::copy(source.join("config"), target.join("config")).expect("a configuration");
}

/// All that HEAD reaches as loose objects.
fn scatter(source: &Path, target: &Path, head: &str) {
    bare_like(source, target);
    let pack = git_with(
        source,
        &["pack-objects", "--revs", "--stdout", "-q"],
        format!("{head}\n").as_bytes(),
    );
    git_with(target, &["unpack-objects", "-q"], &pack);
    git(target, &["update-ref", "refs/heads/main", head]);
}

/// The history of HEAD as a hundred pushes leave it that nobody tidied up after, each in a pack of its own.
fn pile_up(source: &Path, target: &Path, head: &str) {
    bare_like(source, target);
    let list = text(git(source, &["rev-list", "--first-parent", "--reverse", head]));
    let commits: Vec<&str> = list.lines().collect();
    let from = source.display().to_string();
    for n in 1..=100 {
        let tip = commits[(commits.len() * n / 100).max(1) - 1];
        let spec = format!("+{tip}:refs/heads/main");
        let arguments = ["-c", "fetch.unpackLimit=1", "fetch", "-q", "--no-tags", &from, &spec];
        git(target, &arguments);
    }
    let packs = fs::read_dir(target.join("objects/pack")).expect("a directory");
    let packs = packs.filter(|entry| {
        entry
            .as_ref()
            .is_ok_and(|entry| entry.path().extension() == Some("pack".as_ref()))
    });
    assert_eq!(packs.count(), 100, "every push left a pack");
}

fn push(body: Vec<u8>, name: &str) -> Request {
    Request {
        path: "target.git/git-receive-pack".into(),
        service: Some("receive-pack"),
        v2: false,
        body: Arc::new(body),
        expect: format!("ok {name}").into_bytes(),
    }
}

type Tips = Vec<(String, String)>;

/// For each branch its pushes, each of one commit with one changed file as a thin pack; and where the branches stand in the end.
fn small_pushes(scratch: &Path, source: &Path, head: &str) -> (Vec<Vec<Request>>, Tips) {
    let work = scratch.join("small.git");
    let _ = fs::remove_dir_all(&work);
    copy_tree(source, &work);
    let base = String::from_utf8_lossy(&git(&work, &["ls-tree", head])).into_owned();
    let (mut chains, mut tips) = (Vec::new(), Vec::new());
    for branch in 0..BRANCHES {
        let name = format!("refs/heads/small-{branch}");
        let (mut parent, mut old) = (head.to_owned(), ZERO.to_owned());
        let mut chain = Vec::new();
        for n in 0..COMMITS {
            let content = format!("small change {n} on branch {branch}\n");
            let blob = text(git_with(&work, &["hash-object", "-w", "--stdin"], content.as_bytes()));
            let listing = format!("{base}100644 blob {blob}\tsmall-change.txt\n");
            let tree = text(git_with(&work, &["mktree"], listing.as_bytes()));
            let message = format!("small {n}");
            let commit = text(git(&work, &["commit-tree", &tree, "-p", &parent, "-m", &message]));
            let arguments = [
                "pack-objects",
                "--revs",
                "--stdout",
                "-q",
                "--thin",
                "--delta-base-offset",
            ];
            let pack = git_with(&work, &arguments, format!("{commit}\n^{parent}\n").as_bytes());
            chain.push(push(push_body(&old, &commit, &name, &pack), &name));
            old = commit.clone();
            parent = commit;
        }
        chains.push(chain);
        tips.push((name, parent));
    }
    (chains, tips)
}
