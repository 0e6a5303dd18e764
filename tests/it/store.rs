//! The object store on repositories that git made: every layout git can leave on disk must read as git reads it.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use gitstead::{
    base::{Fault, Limits},
    repo::{ContentCache, Location, Odb, OpenError, OpenOptions, Repository},
};
use gix::hash::ObjectId;

use crate::support::Git;

fn open(path: impl AsRef<Path>) -> Repository {
    Repository::open(path.as_ref(), &OpenOptions::default()).expect("a repository")
}

fn id(hex: &str) -> ObjectId {
    ObjectId::from_hex(hex.as_bytes()).expect("an id")
}

/// Every object that git sees, with kind and size.
fn objects(git: &Git, dir: &Path) -> BTreeMap<ObjectId, (String, u64)> {
    git.ok(dir, "cat-file --batch-check --batch-all-objects --unordered")
        .lines()
        .map(|line| {
            let parts: Vec<_> = line.split(' ').collect();
            (id(parts[0]), (parts[1].to_owned(), parts[2].parse().expect("a size")))
        })
        .collect()
}

/// What git reads must be what we read: kind, size, and bytes that hash to the id.
fn check(git: &Git, dir: &Path) -> usize {
    let odb = open(git_dir(dir)).odb().expect("an odb");
    check_odb(&odb, &objects(git, dir))
}

fn check_odb(odb: &Odb, expected: &BTreeMap<ObjectId, (String, u64)>) -> usize {
    let mut out = Vec::new();
    for (id, (kind, size)) in expected {
        let header = odb.header(id).expect("a header").expect("present");
        assert_eq!((header.0.to_string(), header.1), (kind.clone(), *size), "{id}");
        let read = odb.read(id, &mut out).expect("readable").expect("present");
        assert_eq!((read.to_string(), out.len() as u64), (kind.clone(), *size), "{id}");
        assert_eq!(
            gix::objs::compute_hash(odb.hash_kind(), read, &out).expect("a hash"),
            *id
        );
    }
    expected.len()
}

fn git_dir(dir: &Path) -> PathBuf {
    if dir.join(".git").exists() {
        dir.join(".git")
    } else {
        dir.to_owned()
    }
}

/// A working repository whose files change a little in each commit, so that packing makes deltas.
fn history(git: &Git, name: &str, commits: usize, format: &str) -> PathBuf {
    let dir = git.path(name);
    git.ok(git.dir(), &format!("init -q --object-format={format} {name}"));
    for n in 0..commits {
        let mut text: String = (0..400)
            .map(|line| format!("line {line} of a file that grows\n"))
            .collect();
        text.push_str(&"more\n".repeat(n));
        fs::write(dir.join("file"), text).expect("write");
        fs::write(dir.join(format!("f{}", n % 7)), n.to_string()).expect("write");
        git.ok(&dir, "add -A");
        git.ok(&dir, &format!("commit -q -m commit-{n}"));
    }
    git.ok(&dir, "tag -a -m annotated v1");
    dir
}

fn packs(dir: &Path, suffix: &str) -> Vec<PathBuf> {
    let mut found: Vec<_> = fs::read_dir(git_dir(dir).join("objects/pack"))
        .expect("a pack directory")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|ext| ext == suffix))
        .collect();
    found.sort();
    found
}

fn writable(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).expect("chmod");
}

#[test]
fn loose_objects_and_packs_read_as_git_reads_them() {
    for format in ["sha1", "sha256"] {
        let git = Git::new();
        let dir = history(&git, "r", 12, format);
        let loose = check(&git, &dir);
        assert!(loose > 30);
        git.ok(&dir, "repack -q -d -f --depth=50");
        git.ok(&dir, "commit -q --allow-empty -m after");
        assert_eq!(check(&git, &dir), loose + 1);
        git.ok(&dir, "repack -q -d");
        assert_eq!(packs(&dir, "pack").len(), 2);
        assert_eq!(check(&git, &dir), loose + 1);
    }
}

#[test]
fn a_location_is_the_same_whoever_asks_and_entries_have_exact_ends() {
    let git = Git::new();
    let dir = history(&git, "r", 30, "sha1");
    git.ok(&dir, "repack -q -a -d -f --depth=50");
    for rev in [true, false] {
        if !rev {
            packs(&dir, "rev")
                .iter()
                .for_each(|path| fs::remove_file(path).expect("remove"));
        }
        let odb = open(git_dir(&dir)).odb().expect("an odb");
        let [pack] = odb.packs() else { panic!("one pack") };
        let index = pack.index().expect("an index");
        let mut end = 12;
        for n in 0..index.len() {
            let pos = pack.nth(n).expect("an order").expect("an entry");
            let offset = index.offset(pos);
            assert_eq!(offset, end, "entries follow one another");
            assert_eq!(pack.pos_at_offset(offset).expect("known"), Some(pos));
            assert_eq!(pack.rank(offset).expect("known"), Some(n));
            end = pack.end_offset(pos).expect("an end");
            let raw = pack.raw_entry(pos).expect("an entry");
            assert_eq!(raw.len() as u64, end - offset);
            assert_eq!(index.crc32(pos), Some(crc32fast::hash(raw)));
            let (header, compressed) = pack.entry(pos).expect("an entry");
            assert_eq!(header.header_len + compressed.len(), raw.len());
            let location = odb.locate(index.oid(pos)).expect("no error");
            assert_eq!(location, Some(Location::Packed { pack: 0, pos }));
        }
        assert_eq!(end, pack.data().expect("mapped").len() as u64 - 20);
        assert_eq!(pack.nth(index.len()).expect("an order"), None);
        assert_eq!(pack.pos_at_offset(13).expect("known"), None);
    }
}

#[test]
fn a_multi_pack_index_is_used_and_one_that_is_stale_is_not() {
    let git = Git::new();
    let dir = history(&git, "r", 5, "sha1");
    git.ok(&dir, "repack -q -d");
    for n in 0..4 {
        git.ok(&dir, &format!("commit -q --allow-empty -m empty-{n}"));
        git.ok(&dir, "repack -q -d");
    }
    let midx = git_dir(&dir).join("objects/pack/multi-pack-index");
    git.ok(&dir, "multi-pack-index write");
    let count = check(&git, &dir);
    // A pack that it does not cover.
    git.ok(&dir, "commit -q --allow-empty -m uncovered");
    git.ok(&dir, "repack -q -d");
    assert_eq!(check(&git, &dir), count + 1);
    // One that covers packs that are gone.
    let stale = fs::read(&midx).expect("a multi-pack-index");
    git.ok(&dir, "repack -q -a -d");
    let _ = fs::remove_file(&midx);
    fs::write(&midx, stale).expect("write");
    assert_eq!(check(&git, &dir), count + 1);
    // And nonsense.
    fs::write(&midx, b"MIDXnonsense").expect("write");
    assert_eq!(check(&git, &dir), count + 1);
}

#[test]
fn alternates_are_followed_relative_nested_and_round() {
    let git = Git::new();
    let base = history(&git, "base", 6, "sha1");
    git.ok(git.dir(), "clone -q --bare --shared base middle.git");
    git.ok(git.dir(), "clone -q --bare --shared middle.git top.git");
    let top = git.path("top.git");
    let alternates = top.join("objects/info/alternates");
    fs::write(&alternates, "# comment\n../../middle.git/objects\n/nowhere/objects\n").expect("write");
    // Round in a circle.
    fs::write(
        git.path("base/.git/objects/info/alternates"),
        "../../../top.git/objects\n",
    )
    .expect("write");
    let all = objects(&git, &base);
    let repo = open(&top);
    let odb = repo.odb().expect("an odb");
    assert_eq!(check_odb(&odb, &all), all.len());
    assert_eq!(repo.alternate_object_dirs().expect("listed").len(), 2);
    // A change in an alternate is seen by the next request.
    git.ok(&base, "commit -q --allow-empty -m later");
    git.ok(&base, "repack -q -a -d");
    let later = id(&git.ok(&base, "rev-parse HEAD"));
    assert!(repo.odb().expect("an odb").contains(&later).expect("no error"));
    // And so is a change of the list.
    fs::remove_file(&alternates).expect("remove");
    assert!(!repo.odb().expect("an odb").contains(&later).expect("no error"));
}

#[test]
fn a_repack_while_an_odb_is_in_use_breaks_nothing() {
    let git = Git::new();
    let dir = history(&git, "r", 8, "sha1");
    git.ok(&dir, "repack -q -d");
    git.ok(&dir, "commit -q --allow-empty -m second-pack");
    git.ok(&dir, "repack -q -d");
    let expected = objects(&git, &dir);
    let repo = open(git_dir(&dir));
    // Nothing opened before the packs go.
    let untouched = repo.odb().expect("an odb");
    // Everything located before the packs go.
    let located = repo.odb().expect("an odb");
    let locations: Vec<_> = expected
        .keys()
        .map(|id| (*id, located.locate(id).expect("no error").expect("present")))
        .collect();
    git.ok(&dir, "commit -q --allow-empty -m third");
    git.ok(&dir, "repack -q -a -d -f");
    let _ = fs::remove_file(git_dir(&dir).join("objects/pack/multi-pack-index"));
    check_odb(&untouched, &expected);
    let mut out = Vec::new();
    for (id, location) in locations {
        located.read_at(location, &id, &mut out).expect("still mapped");
        assert_eq!(
            located.locate(&id).expect("no error"),
            Some(location),
            "locations stay true"
        );
    }
    let new = id(&git.ok(&dir, "rev-parse HEAD"));
    assert!(located.contains(&new).expect("no error"), "the one refresh finds it");
    for id in expected.keys() {
        assert!(matches!(located.locate(id).expect("no error"), Some(Location::Packed { pack, .. }) if pack < 2));
    }
}

#[test]
fn loose_objects_packed_and_pruned_meanwhile_are_found() {
    let git = Git::new();
    let dir = history(&git, "r", 4, "sha1");
    let expected = objects(&git, &dir);
    let odb = open(git_dir(&dir)).odb().expect("an odb");
    let head = id(&git.ok(&dir, "rev-parse HEAD"));
    assert_eq!(odb.locate(&head).expect("no error"), Some(Location::Loose));
    git.ok(&dir, "gc -q --prune=now");
    assert!(odb.read_at(Location::Loose, &head, &mut Vec::new()).is_ok());
    check_odb(&odb, &expected);
}

#[test]
fn a_push_between_two_requests_is_seen_at_once() {
    let git = Git::new();
    let dir = history(&git, "r", 2, "sha1");
    let repo = open(git_dir(&dir));
    for n in 0..10 {
        let before = repo.odb().expect("an odb");
        git.ok(&dir, &format!("commit -q --allow-empty -m push-{n}"));
        git.ok(&dir, "repack -q -d");
        let head = id(&git.ok(&dir, "rev-parse HEAD"));
        let after = repo.odb().expect("an odb");
        assert_eq!(after.packs().len(), n + 1);
        assert!(after.contains(&head).expect("no error"));
        // The older view looks again once; it appends.
        assert!(before.contains(&head).expect("no error"));
        assert_eq!(before.packs().len(), n + 1);
        if n > 0 {
            assert_ne!(
                before.locate(&head).expect("no error"),
                after.locate(&head).expect("no error"),
                "newest first in a new view, last in an old one"
            );
        }
    }
}

#[test]
fn unknown_ids_are_looked_for_again_only_when_the_directory_has_changed() {
    let git = Git::new();
    let dir = history(&git, "r", 2, "sha1");
    let odb = open(git_dir(&dir)).odb().expect("an odb");
    let unknown = |n: u8| ObjectId::from_bytes_or_panic(&[n; 20]);
    for n in 2..200 {
        assert!(!odb.contains(&unknown(n)).expect("no error"));
    }
    assert!(odb.packs().is_empty());
    // What is loose now may be in a pack at any moment, and must not be missed then.
    git.ok(&dir, "repack -q -a -d");
    for n in 2..200 {
        assert!(!odb.contains(&unknown(n)).expect("no error"));
    }
    assert_eq!(odb.packs().len(), 1, "looked once more, and not once for each");
}

#[test]
fn kept_and_promised_packs_are_packs() {
    let git = Git::new();
    let dir = history(&git, "r", 3, "sha1");
    git.ok(&dir, "repack -q -a -d");
    for path in packs(&dir, "pack") {
        fs::write(path.with_extension("keep"), "").expect("write");
        fs::write(path.with_extension("promisor"), "").expect("write");
    }
    git.ok(&dir, "commit -q --allow-empty -m more");
    git.ok(&dir, "repack -q -d");
    assert_eq!(packs(&dir, "pack").len(), 2);
    check(&git, &dir);
    // An index without its pack, a pack without its index, and somebody's unfinished business.
    let pack_dir = git_dir(&dir).join("objects/pack");
    for name in ["pack-1.idx", "pack-2.pack", "tmp_pack_x", "tmp_idx_y"] {
        fs::write(pack_dir.join(name), "").expect("write");
    }
    check(&git, &dir);
}

#[test]
fn deep_delta_chains_are_read_without_recursion_and_beyond_the_limit_refused() {
    let git = Git::new();
    let dir = git.path("r");
    git.ok(git.dir(), "init -q r");
    // fast-import makes every blob a delta of the one before.
    let mut text: String = (0..300).map(|line| format!("line {line}, some text\n")).collect();
    let mut stream = String::new();
    for n in 0..600 {
        text.push_str(&format!("{n}\n"));
        stream.push_str(&format!("blob\ndata {}\n{text}\n", text.len()));
    }
    let out = git.run_with(&dir, ["fast-import", "--quiet", "--depth=4095"], stream.as_bytes());
    assert!(out.ok, "{}", out.stderr);
    let verify = git.ok(&dir, &format!("verify-pack -v {}", packs(&dir, "idx")[0].display()));
    let deepest = verify
        .lines()
        .filter_map(|line| line.split_whitespace().nth(5)?.parse::<u32>().ok())
        .max();
    assert!(deepest.expect("deltas") > 300, "git made {deepest:?}");
    check(&git, &dir);
    // With a small cache, and with none.
    for bytes in [0, 320_000] {
        let options = OpenOptions {
            contents: Arc::new(ContentCache::new(bytes)),
            ..OpenOptions::default()
        };
        let repo = Repository::open(&git_dir(&dir), &options).expect("a repository");
        check_odb(&repo.odb().expect("an odb"), &objects(&git, &dir));
    }
    let mut limits = Limits::default();
    limits.delta_depth = 50;
    // What is kept of a chain's middle would make it shorter.
    let options = OpenOptions {
        limits,
        contents: Arc::new(ContentCache::new(0)),
        ..OpenOptions::default()
    };
    let odb = Repository::open(&git_dir(&dir), &options)
        .expect("a repository")
        .odb()
        .expect("an odb");
    let refused = objects(&git, &dir)
        .keys()
        .filter(|id| odb.clone().read(id, &mut Vec::new()).is_err() && odb.header(id).is_err())
        .count();
    assert!(refused > 100, "{refused} refused");
}

#[test]
fn objects_beyond_the_limit_are_refused_by_size_alone() {
    let git = Git::new();
    let dir = history(&git, "r", 3, "sha1");
    fs::write(dir.join("big"), vec![b'x'; 200_000]).expect("write");
    let big = id(&git.ok(&dir, "hash-object -w big"));
    let mut limits = Limits::default();
    limits.object_bytes = 100_000;
    let options = OpenOptions {
        limits,
        ..OpenOptions::default()
    };
    for pack in [false, true] {
        if pack {
            git.ok(&dir, "add -A");
            git.ok(&dir, "commit -q -m big");
            git.ok(&dir, "repack -q -a -d");
        }
        let odb = Repository::open(&git_dir(&dir), &options)
            .expect("a repository")
            .odb()
            .expect("an odb");
        assert_eq!(odb.header(&big).expect("fine").expect("present").1, 200_000);
        let err = odb.read(&big, &mut Vec::new()).expect_err("too large");
        assert_eq!(err.fault(), Fault::Ours);
        assert!(err.to_string().contains("200000"), "{err}");
        if !pack {
            let mut reader = odb.open_loose(&big).expect("fine").expect("loose");
            let mut all = Vec::new();
            std::io::Read::read_to_end(&mut reader, &mut all).expect("readable");
            assert!(all == vec![b'x'; 200_000]);
        }
    }
}

#[test]
fn a_corrupt_copy_is_an_error_unless_there_is_another() {
    let git = Git::new();
    let dir = history(&git, "r", 10, "sha1");
    git.ok(&dir, "repack -q -a -d -f");
    let expected = objects(&git, &dir);
    let path = packs(&dir, "pack").remove(0);
    writable(&path);
    let whole = fs::read(&path).expect("read");
    let mut broken = whole.clone();
    let middle = broken.len() / 2;
    broken[middle..middle + 40].fill(0xaa);
    fs::write(&path, &broken).expect("write");
    let odb = open(git_dir(&dir)).odb().expect("an odb");
    let bad: Vec<_> = expected
        .keys()
        .filter(|id| match odb.read(id, &mut Vec::new()) {
            Ok(_) => false,
            Err(err) => {
                assert_eq!(err.fault(), Fault::Corrupt);
                assert!(err.to_string().contains(&id.to_hex().to_string()), "{err}");
                assert!(err.to_string().contains("pack-"), "{err}");
                true
            }
        })
        .copied()
        .collect();
    assert!(!bad.is_empty());
    // The same objects once more, in a pack of another repository.
    fs::write(&path, &whole).expect("write");
    git.ok(git.dir(), "clone -q --bare --no-local r other.git");
    fs::write(&path, &broken).expect("write");
    fs::write(
        git_dir(&dir).join("objects/info/alternates"),
        "../../../other.git/objects\n",
    )
    .expect("write");
    // A header is not covered by a checksum, so a damaged one may go unnoticed where only the size is asked for; reading finds out.
    let odb = open(git_dir(&dir)).odb().expect("an odb");
    let mut out = Vec::new();
    for id in expected.keys() {
        let kind = odb.read(id, &mut out).expect("the other copy").expect("present");
        assert_eq!(
            gix::objs::compute_hash(odb.hash_kind(), kind, &out).expect("a hash"),
            *id
        );
    }
}

#[test]
fn a_truncated_pack_or_index_is_named_and_nothing_else_suffers() {
    let git = Git::new();
    let dir = history(&git, "r", 4, "sha1");
    git.ok(&dir, "repack -q -a -d");
    let old = id(&git.ok(&dir, "rev-parse HEAD"));
    let names = [packs(&dir, "pack").remove(0), packs(&dir, "idx").remove(0)];
    git.ok(&dir, "commit -q --allow-empty -m more");
    git.ok(&dir, "repack -q -d");
    let new = id(&git.ok(&dir, "rev-parse HEAD"));
    for name in names {
        writable(&name);
        let whole = fs::read(&name).expect("read");
        for cut in [0, 11, 30, whole.len() / 2, whole.len() - 1] {
            fs::write(&name, &whole[..cut]).expect("write");
            let odb = open(git_dir(&dir)).odb().expect("an odb");
            assert!(odb.contains(&new).expect("the other pack is fine"));
            let err = odb.contains(&old).expect_err("cannot know");
            assert_eq!(err.fault(), Fault::Corrupt, "{err}");
        }
        fs::write(&name, &whole).expect("write");
    }
    check(&git, &dir);
}

#[test]
fn a_corrupt_loose_object_is_an_error_that_names_it() {
    let git = Git::new();
    let dir = history(&git, "r", 2, "sha1");
    let head = git.ok(&dir, "rev-parse HEAD");
    let path = git_dir(&dir).join("objects").join(&head[..2]).join(&head[2..]);
    writable(&path);
    let whole = fs::read(&path).expect("read");
    // Another object's content is damage too: a loose file has no checksum but its name.
    let tree = git.ok(&dir, "rev-parse HEAD^{tree}");
    let other = fs::read(git_dir(&dir).join("objects").join(&tree[..2]).join(&tree[2..])).expect("read");
    for bytes in [&whole[..whole.len() / 2], b"", &other] {
        fs::write(&path, bytes).expect("write");
        let err = open(git_dir(&dir))
            .odb()
            .expect("an odb")
            .read(&id(&head), &mut Vec::new())
            .expect_err("corrupt");
        assert_eq!(err.fault(), Fault::Corrupt);
        assert!(err.to_string().contains(&head), "{err}");
    }
    // A packed copy helps.
    fs::write(&path, &whole).expect("write");
    git.ok(&dir, "repack -q -a");
    fs::write(&path, b"").expect("write");
    assert!(
        open(git_dir(&dir))
            .odb()
            .expect("an odb")
            .read(&id(&head), &mut Vec::new())
            .is_ok()
    );
}

#[test]
fn a_quarantine_is_seen_behind_everything_else() {
    let git = Git::new();
    let dir = history(&git, "r", 3, "sha1");
    git.ok(&dir, "repack -q -a -d");
    let main = id(&git.ok(&dir, "rev-parse HEAD"));
    git.ok(git.dir(), "clone -q --bare --no-local r other.git");
    let other = git.path("other.git");
    let blob = id(&git
        .run_with(&other, ["hash-object", "-w", "--stdin"], b"only there")
        .text());
    let repo = open(git_dir(&dir));
    assert!(!repo.odb().expect("an odb").contains(&blob).expect("no error"));
    let odb = repo.odb_with_quarantine(&other.join("objects")).expect("an odb");
    assert_eq!(odb.packs().len(), 2);
    assert_eq!(odb.locate(&blob).expect("no error"), Some(Location::Loose));
    assert!(matches!(
        odb.locate(&main).expect("no error"),
        Some(Location::Packed { pack: 0, .. })
    ));
}

#[test]
fn the_commit_graph_is_read_and_reread_and_ignored_when_history_is_cut() {
    let git = Git::new();
    let dir = history(&git, "r", 4, "sha1");
    let repo = open(git_dir(&dir));
    assert!(repo.odb().expect("an odb").commit_graph().is_none());
    git.ok(&dir, "commit-graph write --reachable");
    let odb = repo.odb().expect("an odb");
    assert_eq!(odb.commit_graph().expect("a graph").len(), 4);
    git.ok(&dir, "commit -q --allow-empty -m more");
    git.ok(&dir, "commit-graph write --reachable --split=no-merge");
    assert_eq!(odb.commit_graph().expect("a graph").len(), 4, "a view does not change");
    let head = id(&git.ok(&dir, "rev-parse HEAD"));
    let odb = repo.odb().expect("an odb");
    assert!(odb.commit_graph().expect("a graph").lookup(&head).is_some());
    repo.add_shallow(|_| Ok::<_, gitstead::service::ServiceError>(vec![head]))
        .expect("written");
    assert!(repo.odb().expect("an odb").commit_graph().is_none());
    assert_eq!(repo.shallow().expect("read"), [head]);
    fs::remove_file(git_dir(&dir).join("shallow")).expect("remove");
    let _ = fs::remove_dir_all(git_dir(&dir).join("objects/info/commit-graphs"));
    fs::write(git_dir(&dir).join("objects/info/commit-graph"), b"CGPHnonsense").ok();
    assert!(
        repo.odb().expect("an odb").commit_graph().is_none(),
        "damage is no graph"
    );
}

#[test]
fn linked_worktrees_and_git_files_lead_to_their_repository() {
    let git = Git::new();
    let dir = history(&git, "r", 2, "sha1");
    git.ok(&dir, "worktree add -q ../linked -b side");
    let linked = open(git.path("linked/.git"));
    assert!(linked.git_dir().ends_with("r/.git/worktrees/linked"));
    assert_eq!(
        fs::canonicalize(linked.common_dir()).expect("there"),
        fs::canonicalize(dir.join(".git")).expect("there")
    );
    assert!(!linked.is_bare());
    check_odb(&linked.odb().expect("an odb"), &objects(&git, &dir));
    assert!(!open(dir.join(".git")).is_bare());
    git.ok(git.dir(), "clone -q --bare r bare.git");
    assert!(open(git.path("bare.git")).is_bare());
}

#[test]
fn what_cannot_be_served_whole_is_refused() {
    let git = Git::new();
    let refused = |dir: &Path| match Repository::open(dir, &OpenOptions::default()) {
        Ok(_) => panic!("{} was opened", dir.display()),
        Err(err) => err,
    };
    git.ok(git.dir(), "init -q --bare --ref-format=reftable reftable.git");
    let err = refused(&git.path("reftable.git"));
    assert!(matches!(err, OpenError::Unsupported { .. }));
    assert!(err.to_string().contains("reftable"), "{err}");
    let config = |lines: &str| {
        let dir = git.path("x.git");
        let _ = fs::remove_dir_all(&dir);
        git.ok(git.dir(), "init -q --bare x.git");
        fs::write(dir.join("config"), lines).expect("write");
        dir
    };
    for (text, word) in [
        ("[core]\nrepositoryformatversion = 2\n", "version"),
        (
            "[core]\nrepositoryformatversion = 1\n[extensions]\nfuture = true\n",
            "future",
        ),
        (
            "[core]\nrepositoryformatversion = 1\n[extensions]\nobjectformat = sha512\n",
            "sha512",
        ),
        (
            "[core]\nrepositoryformatversion = 0\n[extensions]\nobjectformat = sha256\n",
            "objectformat",
        ),
        ("[extensions]\nrefstorage = reftable\n", "reftable"),
        ("[extensions]\nrefstorage = files\n", "v1-only"),
        ("[core\n", "config"),
        ("[receive]\ndenyDeletes = perhaps\n", "receive.denydeletes"),
    ] {
        let err = refused(&config(text));
        assert!(err.to_string().contains(word), "{text:?}: {err}");
        assert!(!err.public_text().contains('/'), "{}", err.public_text());
    }
    for text in [
        "",
        "[core]\nrepositoryformatversion = 0\n[extensions]\nfuture = true\n",
        "[core]\nrepositoryformatversion = 1\n[extensions]\nnoop\nnoop-v1\npreciousobjects = true\nworktreeconfig = true\nrelativeworktrees\npartialclone = origin\n",
        "[core]\nrepositoryformatversion = 1\n[extensions]\nobjectformat = sha1\nrefstorage = files\n",
        "[include]\npath = /nowhere\n[core]\nworktree = /nowhere\n",
    ] {
        open(config(text));
    }
    let plain = config("");
    fs::write(plain.join("HEAD"), "nonsense\n").expect("write");
    assert_eq!(refused(&plain).fault(), Fault::NotFound);
    let plain = config("");
    fs::remove_dir_all(plain.join("refs")).expect("remove");
    assert_eq!(refused(&plain).fault(), Fault::NotFound);
    assert_eq!(refused(&git.path("absent")).fault(), Fault::NotFound);
    fs::write(git.path("file"), "gitdir: nowhere\n").expect("write");
    assert_eq!(refused(&git.path("file")).fault(), Fault::NotFound);
}

#[test]
fn a_repository_knows_when_it_must_be_opened_again() {
    let git = Git::new();
    git.ok(git.dir(), "init -q --bare r.git");
    let repo = open(git.path("r.git"));
    assert!(!repo.is_stale());
    git.ok(git.path("r.git"), "config receive.denyDeletes true");
    assert!(repo.is_stale());
    let repo = open(git.path("r.git"));
    assert!(repo.settings().receive.deny_deletes && !repo.is_stale());
    fs::rename(git.path("r.git"), git.path("moved.git")).expect("rename");
    assert!(repo.is_stale());
    git.ok(git.dir(), "init -q --bare r.git");
    assert!(repo.is_stale(), "another repository of that name");
}

#[test]
fn defaults_lie_under_the_repositorys_own_words() {
    let git = Git::new();
    git.ok(git.dir(), "init -q --bare r.git");
    git.ok(git.path("r.git"), "config uploadpack.allowFilter false");
    let options = OpenOptions {
        defaults: vec![
            ("uploadpack.allowfilter".into(), "true".into()),
            ("uploadpack.allowRefInWant".into(), "true".into()),
            ("core.repositoryformatversion".into(), "99".into()),
        ],
        ..OpenOptions::default()
    };
    let repo = Repository::open(&git.path("r.git"), &options).expect("a repository");
    assert!(!repo.settings().uploadpack.allow_filter);
    assert!(repo.settings().uploadpack.allow_ref_in_want);
}

#[test]
fn threads_share_a_view_and_agree_on_locations() {
    let git = Git::new();
    let dir = history(&git, "r", 6, "sha1");
    git.ok(&dir, "repack -q -d");
    let repo = open(git_dir(&dir));
    let odb = repo.odb().expect("an odb");
    git.ok(&dir, "commit -q --allow-empty -m later");
    git.ok(&dir, "repack -q -d");
    let expected = objects(&git, &dir);
    let all: Vec<Vec<_>> = std::thread::scope(|scope| {
        let handles: Vec<_> = (0..4)
            .map(|_| {
                let odb = odb.clone();
                let expected = &expected;
                scope.spawn(move || {
                    check_odb(&odb, expected);
                    expected.keys().map(|id| odb.locate(id).expect("no error")).collect()
                })
            })
            .collect();
        handles.into_iter().map(|h| h.join().expect("no panic")).collect()
    });
    assert!(all.windows(2).all(|pair| pair[0] == pair[1]));
}
