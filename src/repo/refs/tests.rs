//! Transactions as wholes: against a model, against crashes at every step, against each other.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bstr::{BStr, BString, ByteSlice};
use gix::hash::{Kind, ObjectId, oid};
use proptest::prelude::*;

use super::{disk::Hook, *};

/// Every id exists; those that start with `ee` are tags of a commit, those with `ff` are missing.
struct Objects;

impl RefObjects for Objects {
    fn exists(&self, id: &oid) -> Result<bool, RefsError> {
        Ok(id.first_byte() != 0xff)
    }

    fn target(&self, id: &oid) -> Result<RefTarget, RefsError> {
        Ok(match id.first_byte() {
            0xff => RefTarget::Missing,
            0xee => RefTarget::Tag(Some(commit(1))),
            _ => RefTarget::Commit,
        })
    }
}

fn commit(n: u32) -> ObjectId {
    let mut bytes = [0x11; 20];
    bytes[16..].copy_from_slice(&n.to_be_bytes());
    ObjectId::from_bytes_or_panic(&bytes)
}

fn tag(n: u32) -> ObjectId {
    let mut bytes = [0xee; 20];
    bytes[16..].copy_from_slice(&n.to_be_bytes());
    ObjectId::from_bytes_or_panic(&bytes)
}

fn repository() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("refs/heads")).unwrap();
    fs::create_dir_all(dir.path().join("refs/tags")).unwrap();
    fs::write(dir.path().join("HEAD"), "ref: refs/heads/main\n").unwrap();
    dir
}

fn open(dir: &Path) -> RefStore {
    RefStore::new(dir, dir, Kind::Sha1, RefStoreOptions::default())
}

fn update(name: &str, old: Option<ObjectId>, new: Option<ObjectId>) -> RefUpdate {
    RefUpdate {
        name: name.into(),
        old,
        new,
    }
}

fn apply(store: &RefStore, updates: &[RefUpdate], atomic: bool) -> Vec<RefOutcome> {
    store.update(updates, atomic, &RefLog::default(), &Objects).unwrap()
}

fn set(store: &RefStore, name: &str, new: ObjectId) {
    let old = store.find(name.into(), None).unwrap().map(|r| r.id);
    let outcomes = apply(store, &[update(name, old, Some(new))], false);
    assert_eq!(outcomes, [RefOutcome::Ok], "{name}");
}

type State = BTreeMap<String, ObjectId>;

fn state(store: &RefStore) -> State {
    let refs = store
        .list(
            &RefQuery {
                peel: true,
                ..Default::default()
            },
            Some(&Objects),
        )
        .unwrap();
    assert!(refs.is_sorted(), "{refs:?}");
    refs.iter().for_each(|r| {
        let peeled = (r.id.first_byte() == 0xee).then(|| commit(1));
        assert_eq!(r.peeled, peeled, "{}", r.name);
    });
    refs.into_iter().map(|r| (r.name.to_string(), r.id)).collect()
}

/// What `git pack-refs` does, for some refs.
fn pack(store: &RefStore, dir: &Path, which: impl Fn(&str) -> bool) {
    let refs = store
        .list(
            &RefQuery {
                peel: true,
                ..Default::default()
            },
            Some(&Objects),
        )
        .unwrap();
    let picked: Vec<_> = refs.iter().filter(|r| which(r.name.to_str().unwrap())).collect();
    let mut edits: Vec<_> = picked
        .iter()
        .map(|r| write::Edit {
            name: r.name.as_bstr(),
            value: Some((r.id, r.peeled)),
        })
        .collect();
    store.rewrite_packed(&mut edits, &Objects).unwrap();
    for r in picked {
        let _ = fs::remove_file(dir.join(r.name.to_str().unwrap()));
    }
}

fn files(dir: &Path) -> BTreeSet<String> {
    fn visit(dir: &Path, root: &Path, found: &mut BTreeSet<String>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            found.insert(path.strip_prefix(root).unwrap().to_str().unwrap().to_owned());
            if path.is_dir() {
                visit(&path, root, found);
            }
        }
    }
    let mut found = BTreeSet::new();
    visit(dir, dir, &mut found);
    found
}

fn locks(dir: &Path) -> Vec<String> {
    let is_lock = |f: &String| f.ends_with(".lock") || f.ends_with(".new");
    files(dir).into_iter().filter(is_lock).collect()
}

#[test]
fn one_update_is_a_loose_file_and_several_are_one_packed_file() {
    let dir = repository();
    let store = open(dir.path());
    set(&store, "refs/heads/deep/er/a", commit(1));
    assert_eq!(
        fs::read_to_string(dir.path().join("refs/heads/deep/er/a")).unwrap(),
        format!("{}\n", commit(1))
    );
    assert!(!dir.path().join("packed-refs").exists());
    let outcomes = apply(
        &store,
        &[
            update("refs/heads/deep/er/a", Some(commit(1)), Some(commit(2))),
            update("refs/tags/t", None, Some(tag(3))),
        ],
        true,
    );
    assert!(outcomes.iter().all(RefOutcome::is_ok), "{outcomes:?}");
    assert_eq!(
        fs::read_to_string(dir.path().join("packed-refs")).unwrap(),
        format!(
            "# pack-refs with: peeled fully-peeled sorted \n{} refs/heads/deep/er/a\n{} refs/tags/t\n^{}\n",
            commit(2),
            tag(3),
            commit(1)
        )
    );
    let left: Vec<_> = files(dir.path()).into_iter().collect();
    assert_eq!(left, ["HEAD", "packed-refs", "refs", "refs/heads", "refs/tags"]);
    assert_eq!(state(&store).len(), 2);
}

#[test]
fn refusals_speak_as_c_git_does() {
    let dir = repository();
    let store = open(dir.path());
    set(&store, "refs/heads/a", commit(1));
    set(&store, "refs/heads/p/q", commit(1));
    fs::write(dir.path().join("refs/heads/loop"), "ref: refs/heads/loop\n").unwrap();
    fs::write(dir.path().join("refs/heads/broken"), "").unwrap();
    pack(&store, dir.path(), |name| name == "refs/heads/p/q");
    let missing = ObjectId::from_bytes_or_panic(&[0xff; 20]);
    let check = |name: &str, old, new, reason: &str, detail: &str| {
        let outcomes = apply(&store, &[update(name, old, new)], false);
        let [RefOutcome::Failed { reason: r, detail: d }] = outcomes.as_slice() else {
            panic!("{name}: {outcomes:?}")
        };
        assert_eq!((r.as_str(), d.as_str()), (reason, detail));
    };
    let failed = "failed to update ref";
    let new = Some(commit(2));
    check(
        "refs/heads/a",
        None,
        new,
        failed,
        "cannot lock ref 'refs/heads/a': reference already exists",
    );
    check(
        "refs/heads/a",
        Some(commit(9)),
        new,
        failed,
        &format!(
            "cannot lock ref 'refs/heads/a': is at {} but expected {}",
            commit(1),
            commit(9)
        ),
    );
    check(
        "refs/heads/none",
        Some(commit(9)),
        new,
        failed,
        "cannot lock ref 'refs/heads/none': unable to resolve reference 'refs/heads/none'",
    );
    check(
        "refs/heads/a/b",
        None,
        new,
        failed,
        "cannot lock ref 'refs/heads/a/b': 'refs/heads/a' exists; cannot create 'refs/heads/a/b'",
    );
    check(
        "refs/heads/p",
        None,
        new,
        failed,
        "cannot lock ref 'refs/heads/p': 'refs/heads/p/q' exists; cannot create 'refs/heads/p'",
    );
    check(
        "refs/heads/p/q/r",
        None,
        new,
        failed,
        "cannot lock ref 'refs/heads/p/q/r': 'refs/heads/p/q' exists; cannot create 'refs/heads/p/q/r'",
    );
    check(
        "refs/heads/broken",
        None,
        new,
        failed,
        "cannot lock ref 'refs/heads/broken': unable to resolve reference 'refs/heads/broken': reference broken",
    );
    check(
        "refs/heads/loop",
        None,
        new,
        "broken symref",
        "refusing update to broken symref 'refs/heads/loop'",
    );
    check(
        "refs/heads/../x",
        None,
        new,
        "funny refname",
        "refusing to update ref with bad name 'refs/heads/../x'",
    );
    check(
        "refs/heads/n",
        None,
        Some(missing),
        failed,
        &format!("trying to write ref 'refs/heads/n' with nonexistent object {missing}"),
    );
    check(
        "refs/heads/n",
        None,
        Some(tag(1)),
        failed,
        &format!("trying to write non-commit object {} to branch 'refs/heads/n'", tag(1)),
    );
    assert_eq!(locks(dir.path()), Vec::<String>::new());
    // Whatever a broken ref holds, it can be deleted.
    assert_eq!(
        apply(&store, &[update("refs/heads/broken", Some(commit(1)), None)], false),
        [RefOutcome::Ok]
    );
    assert!(!dir.path().join("refs/heads/broken").exists());
}

#[test]
fn a_name_longer_than_a_file_name_fails_alone() {
    let dir = repository();
    let store = open(dir.path());
    let long = format!("refs/heads/{}", "x".repeat(300));
    let outcomes = apply(
        &store,
        &[
            update(&long, None, Some(commit(1))),
            update("refs/heads/b", None, Some(commit(1))),
        ],
        false,
    );
    assert!(!outcomes[0].is_ok() && outcomes[1].is_ok(), "{outcomes:?}");
    set(&store, &format!("refs/heads/{}", "y".repeat(250)), commit(1));
}

#[test]
fn an_atomic_transaction_fails_as_one() {
    let dir = repository();
    let store = open(dir.path());
    let updates = [
        update("refs/heads/a", None, Some(commit(1))),
        update("refs/heads/b", Some(commit(7)), Some(commit(1))),
    ];
    let reasons: Vec<_> = apply(&store, &updates, true)
        .into_iter()
        .map(|o| match o {
            RefOutcome::Failed { reason, .. } => reason,
            RefOutcome::Ok => "ok".into(),
        })
        .collect();
    assert_eq!(reasons, ["atomic transaction failed", "atomic transaction failed"]);
    assert_eq!(state(&store), State::new());
    let outcomes = apply(&store, &updates, false);
    assert!(outcomes[0].is_ok() && !outcomes[1].is_ok());
    assert_eq!(state(&store), State::from([("refs/heads/a".into(), commit(1))]));
}

#[test]
fn symbolic_refs_are_followed_and_aliases_must_agree() {
    let dir = repository();
    let store = open(dir.path());
    set(&store, "refs/heads/main", commit(1));
    store
        .set_symbolic("refs/heads/alias".into(), "refs/heads/main".into(), None)
        .unwrap();
    let both = |new| {
        [
            update("refs/heads/alias", Some(commit(1)), Some(commit(2))),
            update("refs/heads/main", Some(commit(1)), Some(new)),
        ]
    };
    for outcome in apply(&store, &both(commit(3)), false) {
        assert!(matches!(outcome, RefOutcome::Failed { reason, .. } if reason == "inconsistent aliased update"));
    }
    assert!(apply(&store, &both(commit(2)), false).iter().all(RefOutcome::is_ok));
    set(&store, "HEAD", commit(4));
    let head = Head::Symbolic {
        target: "refs/heads/main".into(),
        id: Some(commit(4)),
    };
    assert_eq!(store.head(None).unwrap(), head);
    let listed = store.list(&RefQuery::default(), None).unwrap();
    let alias = &listed[0];
    assert_eq!((alias.name.as_bstr(), alias.id), ("refs/heads/alias".into(), commit(4)));
    assert_eq!(
        alias.symref_target.as_deref(),
        Some(&b"refs/heads/main".into()).map(|b: &BString| &**b)
    );
    store.delete_symbolic("refs/heads/alias".into()).unwrap();
    assert!(store.delete_symbolic("refs/heads/main".into()).is_err());
    assert!(store.delete_symbolic("HEAD".into()).is_err());
    assert_eq!(state(&store).len(), 1);
}

#[test]
fn heads_are_told_apart() {
    let dir = repository();
    let store = open(dir.path());
    let head = |content: &str| {
        fs::write(dir.path().join("HEAD"), content).unwrap();
        store.head(None).unwrap()
    };
    let unborn = Head::Symbolic {
        target: "refs/heads/x".into(),
        id: None,
    };
    assert_eq!(head("ref: refs/heads/x\n"), unborn);
    assert_eq!(head(&commit(5).to_string()), Head::Detached(commit(5)));
    assert_eq!(head("nonsense"), Head::Missing);
    assert_eq!(store.head(Some("ns".into())).unwrap(), Head::Missing);
    store.set_head(Some("ns".into()), "refs/heads/y".into(), None).unwrap();
    assert_eq!(
        fs::read_to_string(dir.path().join("refs/namespaces/ns/HEAD")).unwrap(),
        "ref: refs/namespaces/ns/refs/heads/y\n"
    );
    let unborn = Head::Symbolic {
        target: "refs/heads/y".into(),
        id: None,
    };
    assert_eq!(store.head(Some("ns".into())).unwrap(), unborn);
    store.set_head(None, "refs/heads/z".into(), None).unwrap();
    assert_eq!(
        fs::read_to_string(dir.path().join("HEAD")).unwrap(),
        "ref: refs/heads/z\n"
    );
    assert!(store.set_head(None, "refs/tags/z".into(), None).is_err());
}

#[test]
fn a_namespace_shows_its_own_refs_under_their_own_names() {
    let dir = repository();
    let store = open(dir.path());
    set(&store, "refs/heads/out", commit(1));
    set(&store, "refs/namespaces/a/refs/heads/in", commit(2));
    set(
        &store,
        "refs/namespaces/a/refs/namespaces/b/refs/heads/nested",
        commit(3),
    );
    store.set_head(Some("a".into()), "refs/heads/in".into(), None).unwrap();
    let names = |namespace: &str, prefixes: &[&str]| -> Vec<String> {
        let query = RefQuery {
            namespace: Some(namespace.into()),
            prefixes: prefixes.iter().map(|p| (*p).into()).collect(),
            peel: false,
        };
        store
            .list(&query, None)
            .unwrap()
            .into_iter()
            .map(|r| r.name.to_string())
            .collect()
    };
    assert_eq!(
        names("a", &[]),
        ["refs/heads/in", "refs/namespaces/b/refs/heads/nested"]
    );
    assert_eq!(names("a/b", &[]), ["refs/heads/nested"]);
    assert_eq!(
        names("a", &["refs/heads/", "HEAD", "refs/heads/in", "x"]),
        ["refs/heads/in"]
    );
    assert!(
        store
            .list(
                &RefQuery {
                    namespace: Some("../a".into()),
                    ..Default::default()
                },
                None
            )
            .is_err()
    );
}

#[test]
fn broken_refs_are_left_out_of_lists() {
    let dir = repository();
    let store = open(dir.path());
    set(&store, "refs/heads/good", commit(1));
    let heads = dir.path().join("refs/heads");
    for (name, content) in [
        ("empty", ""),
        ("text", "hello"),
        ("zeros", "0000000000000000000000000000000000000000"),
        ("dangling", "ref: refs/heads/none"),
        ("missing", "ffffffffffffffffffffffffffffffffffffffff"),
        ("odd name", "1111111111111111111111111111111111111111"),
        ("x.lock", "1111111111111111111111111111111111111111"),
        (".hidden", "1111111111111111111111111111111111111111"),
    ] {
        fs::write(heads.join(name), content).unwrap();
    }
    rustix::fs::mkfifoat(
        rustix::fs::CWD,
        heads.join("fifo"),
        rustix::fs::Mode::from_raw_mode(0o600),
    )
    .unwrap();
    fs::write(
        dir.path().join("packed-refs"),
        format!(
            "{} refs/heads/..\n{} refs/heads/p\nffffffffffffffffffffffffffffffffffffffff refs/heads/q\n",
            commit(1),
            commit(2)
        ),
    )
    .unwrap();
    let names: Vec<_> = state(&store).into_keys().collect();
    assert_eq!(names, ["refs/heads/good", "refs/heads/p"]);
    assert_eq!(state(&store).len(), 2);
}

#[test]
fn a_rewritten_packed_file_is_seen_at_once() {
    let dir = repository();
    let store = open(dir.path());
    for n in 0..200 {
        // Same size, likely the same tick of the clock, possibly the same inode.
        let draft = dir.path().join("draft");
        fs::write(&draft, format!("{} refs/heads/a\n", commit(n))).unwrap();
        fs::rename(&draft, dir.path().join("packed-refs")).unwrap();
        assert_eq!(store.find("refs/heads/a".into(), None).unwrap().unwrap().id, commit(n));
    }
}

#[test]
fn reflogs_are_kept_when_asked_for() {
    let dir = repository();
    let options = RefStoreOptions {
        log_updates: LogRefUpdates::Branches,
        ..Default::default()
    };
    let store = RefStore::new(dir.path(), dir.path(), Kind::Sha1, options);
    let log = RefLog {
        name: "A".into(),
        email: "a@b".into(),
        seconds: 5,
        message: "push".into(),
    };
    let go = |updates: &[RefUpdate]| {
        let outcomes = store.update(updates, false, &log, &Objects).unwrap();
        assert!(outcomes.iter().all(RefOutcome::is_ok), "{outcomes:?}");
    };
    go(&[update("refs/heads/main", None, Some(commit(1)))]);
    go(&[
        update("refs/heads/main", Some(commit(1)), Some(commit(2))),
        update("refs/tags/t", None, Some(commit(2))),
        update("refs/heads/d/e", None, Some(commit(2))),
    ]);
    let read = |name: &str| fs::read_to_string(dir.path().join("logs").join(name)).unwrap_or_default();
    let expected = format!(
        "{} {} A <a@b> 5 +0000\tpush\n{} {} A <a@b> 5 +0000\tpush\n",
        Kind::Sha1.null(),
        commit(1),
        commit(1),
        commit(2)
    );
    assert_eq!(read("refs/heads/main"), expected);
    assert_eq!(read("HEAD"), expected);
    assert_eq!(read("refs/tags/t"), "");
    // A directory of logs makes room for a log, and the other way round.
    go(&[
        update("refs/heads/d/e", Some(commit(2)), None),
        update("refs/heads/d", None, Some(commit(2))),
    ]);
    assert!(read("refs/heads/d").contains("push"));
    go(&[
        update("refs/heads/d", Some(commit(2)), None),
        update("refs/heads/d/e", None, Some(commit(2))),
    ]);
    assert!(read("refs/heads/d/e").contains("push"));
}

#[test]
fn ten_thousand_refs_are_one_quick_transaction() {
    let dir = repository();
    let store = open(dir.path());
    let updates: Vec<_> = (0..10_000)
        .map(|n| update(&format!("refs/heads/topic-{n:05}"), None, Some(commit(n))))
        .collect();
    let start = Instant::now();
    assert!(apply(&store, &updates, false).iter().all(RefOutcome::is_ok));
    let took = start.elapsed();
    assert_eq!(state(&store).len(), 10_000);
    assert_eq!(locks(dir.path()), Vec::<String>::new());
    // Generous: the machine may be busy. It is about a tenth of a second.
    assert!(took < Duration::from_secs(5), "{took:?}");
    eprintln!("10,000 refs took {took:?}");
}

#[test]
fn a_hundred_thousand_packed_refs_list_quickly() {
    let dir = repository();
    let mut data = packed::HEADER.to_vec();
    for n in 0..100_000 {
        packed::write_record(&mut data, BStr::new(&format!("refs/heads/b{n:06}")), &commit(n), None);
    }
    fs::write(dir.path().join("packed-refs"), data).unwrap();
    let store = open(dir.path());
    for _ in 0..3 {
        let start = Instant::now();
        assert_eq!(store.list(&RefQuery::default(), Some(&Objects)).unwrap().len(), 100_000);
        eprintln!("100,000 refs took {:?}", start.elapsed());
    }
    let query = RefQuery {
        prefixes: vec!["refs/heads/b0500".into()],
        ..Default::default()
    };
    let start = Instant::now();
    assert_eq!(store.list(&query, Some(&Objects)).unwrap().len(), 100);
    eprintln!("100 of them took {:?}", start.elapsed());
}

#[test]
fn locks_of_others_are_respected_and_ours_recognised() {
    let dir = repository();
    let store = open(dir.path());
    set(&store, "refs/heads/a", commit(1));
    let lock = dir.path().join("refs/heads/a.lock");
    for content in ["", "1111111111111111111111111111111111111111\n"] {
        fs::write(&lock, content).unwrap();
        let outcomes = apply(
            &store,
            &[update("refs/heads/a", Some(commit(1)), Some(commit(2)))],
            false,
        );
        let [RefOutcome::Failed { detail, .. }] = outcomes.as_slice() else {
            panic!()
        };
        assert!(
            detail.starts_with("cannot lock ref 'refs/heads/a': Unable to create 'refs/heads/a.lock': File exists."),
            "{detail}"
        );
        assert!(lock.exists());
    }
    // Ours, and nobody alive holds it.
    fs::write(&lock, "gitstead lock\n").unwrap();
    fs::write(dir.path().join("refs/heads/b.lock"), "gitstead lock\n").unwrap();
    fs::write(dir.path().join("packed-refs.lock"), "").unwrap();
    set(&store, "refs/heads/a", commit(2));
    assert!(!lock.exists());
    assert_eq!(store.remove_stale_locks().unwrap(), 1);
    assert_eq!(locks(dir.path()), ["packed-refs.lock"]);
    let outcomes = apply(&store, &[update("refs/heads/a", Some(commit(2)), None)], false);
    let [RefOutcome::Failed { detail, .. }] = outcomes.as_slice() else {
        panic!()
    };
    assert_eq!(detail, "unable to create 'packed-refs.lock': File exists");
    assert_eq!(state(&store), State::from([("refs/heads/a".into(), commit(2))]));
}

#[test]
fn a_live_lock_of_another_process_of_ours_is_respected() {
    let dir = repository();
    // Two stores with different mutexes are like two processes.
    let (one, mut two) = (open(dir.path()), open(dir.path()));
    two.turn = Arc::default();
    let held = one.disk_locks_for_test("refs/heads/a");
    let outcomes = apply(&two, &[update("refs/heads/a", None, Some(commit(1)))], false);
    assert!(!outcomes[0].is_ok());
    assert_eq!(two.remove_stale_locks().unwrap(), 0);
    drop(held);
    assert!(apply(&two, &[update("refs/heads/a", None, Some(commit(1)))], false)[0].is_ok());
}

#[test]
fn locks_do_without_what_a_file_system_lacks() {
    let nameless: &[&str] = &["tmpfile"];
    for lacks in [nameless, &["tmpfile", "link"], &["link"]] {
        let dir = repository();
        let mut store = open(dir.path());
        store.disk.hook = Some(Arc::new(move |what, _path| match lacks.contains(&what) {
            true => Err(rustix::io::Errno::XDEV.into()),
            false => Ok(()),
        }));
        let names: Vec<_> = (0..100).map(|n| format!("refs/heads/d{}/{n}", n % 3)).collect();
        let updates: Vec<_> = names.iter().map(|n| update(n, None, Some(commit(1)))).collect();
        assert!(apply(&store, &updates, true).iter().all(RefOutcome::is_ok), "{lacks:?}");
        assert_eq!(files(dir.path()).len(), 5, "{lacks:?}");
        // Alive it is respected, dead it is removed.
        let other = open(dir.path());
        let held = store.disk_locks_for_test("refs/heads/a");
        assert_eq!(other.remove_stale_locks().unwrap(), 0, "{lacks:?}");
        held.forget_for_test();
        assert_eq!(other.remove_stale_locks().unwrap(), 1, "{lacks:?}");
        set(&store, "refs/heads/a", commit(2));
    }
}

impl disk::LockSet<'_> {
    /// What being killed does: the files stay, nobody holds them.
    fn forget_for_test(mut self) {
        self.held.clear();
        self.created.clear();
    }
}

impl RefStore {
    fn disk_locks_for_test(&self, name: &str) -> disk::LockSet<'_> {
        let mut locks = disk::LockSet::new(&self.disk, &self.common_dir);
        let path = disk::lock_path(&self.path(name.into()));
        locks.acquire(&self.common_dir, &path, Instant::now()).unwrap();
        locks
    }
}

// ---- crashes ----

/// Fails the n-th change; with `dead` everything after it too, as if the process had been killed.
fn failing(n: usize, dead: bool) -> (Hook, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let seen = count.clone();
    let hook: Hook = Arc::new(move |what, _path| {
        let at = seen.fetch_add(1, Ordering::SeqCst);
        if at == n || (dead && at > n) {
            return Err(io::Error::other(format!("stopped before {what}")));
        }
        Ok(())
    });
    (hook, count)
}

struct Scene {
    name: &'static str,
    loose: &'static [(&'static str, u32)],
    packed: &'static [(&'static str, u32)],
    updates: Vec<RefUpdate>,
}

fn scenes() -> Vec<Scene> {
    let (c, some) = (commit, |n| Some(commit(n)));
    vec![
        Scene {
            name: "create one",
            loose: &[],
            packed: &[("refs/heads/z", 9)],
            updates: vec![update("refs/heads/new/dir/a", None, some(1))],
        },
        Scene {
            name: "update one",
            loose: &[("refs/heads/a", 1)],
            packed: &[("refs/heads/a", 7)],
            updates: vec![update("refs/heads/a", some(1), some(2))],
        },
        Scene {
            name: "delete one that is loose and packed",
            loose: &[("refs/heads/d/a", 1)],
            packed: &[("refs/heads/d/a", 7), ("refs/heads/z", 9)],
            updates: vec![update("refs/heads/d/a", some(1), None)],
        },
        Scene {
            name: "delete one that is packed",
            loose: &[],
            packed: &[("refs/heads/a", 1)],
            updates: vec![update("refs/heads/a", some(1), None)],
        },
        Scene {
            name: "several",
            loose: &[("refs/heads/l", 1), ("refs/heads/both", 2), ("refs/heads/gone/x", 3)],
            packed: &[
                ("refs/heads/p", 4),
                ("refs/heads/both", 8),
                ("refs/heads/q", 5),
                ("refs/heads/stay", 6),
            ],
            updates: vec![
                update("refs/heads/l", some(1), some(11)),
                update("refs/heads/both", some(2), some(12)),
                update("refs/heads/gone/x", some(3), None),
                update("refs/heads/p", some(4), some(14)),
                update("refs/heads/q", some(5), None),
                update("refs/heads/n/e/w", None, some(16)),
                update("refs/tags/t", None, Some(tag(1))),
            ],
        },
        Scene {
            name: "a file becomes a directory and a directory a file",
            loose: &[("refs/heads/a", 1), ("refs/heads/x/y", 2)],
            packed: &[("refs/heads/x/z", 3)],
            updates: vec![
                update("refs/heads/a/b", None, Some(c(4))),
                update("refs/heads/a", some(1), None),
                update("refs/heads/x", None, some(5)),
                update("refs/heads/x/y", some(2), None),
                update("refs/heads/x/z", some(3), None),
            ],
        },
    ]
}

fn set_up(scene: &Scene) -> (tempfile::TempDir, State, State) {
    let dir = repository();
    let store = open(dir.path());
    for (name, n) in scene.packed {
        set(&store, name, commit(*n));
    }
    pack(&store, dir.path(), |_| true);
    for (name, n) in scene.loose {
        set(&store, name, commit(*n));
    }
    let before = state(&store);
    let mut after = before.clone();
    for u in &scene.updates {
        match u.new {
            Some(new) => after.insert(u.name.to_string(), new),
            None => after.remove(&u.name.to_string()),
        };
    }
    (dir, before, after)
}

#[test]
fn a_process_killed_at_any_step_leaves_all_or_nothing() {
    for scene in scenes() {
        let mut n = 0;
        let mut seen = [false; 2];
        loop {
            let (dir, before, after) = set_up(&scene);
            let mut store = open(dir.path());
            let (hook, count) = failing(n, true);
            store.disk.hook = Some(hook);
            let _ = store.update(&scene.updates, true, &RefLog::default(), &Objects);
            drop(store);
            let finished = count.load(Ordering::SeqCst) <= n;

            let store = open(dir.path());
            let now = state(&store);
            assert!(now == before || now == after, "{}: step {n}: {now:?}", scene.name);
            seen[usize::from(now == after)] = true;
            // Life goes on: whatever did not happen can happen now, over the locks of the dead.
            if now == before {
                let outcomes = apply(&store, &scene.updates, true);
                assert!(
                    outcomes.iter().all(RefOutcome::is_ok),
                    "{}: step {n}: {outcomes:?}",
                    scene.name
                );
                assert_eq!(state(&store), after, "{}: step {n}", scene.name);
            } else {
                store.remove_stale_locks().unwrap();
            }
            assert_eq!(locks(dir.path()), Vec::<String>::new(), "{}: step {n}", scene.name);
            if finished {
                assert_eq!(now, after, "{}", scene.name);
                break;
            }
            n += 1;
        }
        assert_eq!(seen, [true, true], "{}", scene.name);
        assert!(n > 5, "{}: only {n} steps", scene.name);
    }
}

#[test]
fn what_fails_at_any_step_is_reported_as_it_is() {
    for scene in scenes() {
        for n in 0.. {
            let (dir, before, after) = set_up(&scene);
            let mut store = open(dir.path());
            let (hook, count) = failing(n, false);
            store.disk.hook = Some(hook);
            let result = store.update(&scene.updates, true, &RefLog::default(), &Objects);
            let finished = count.load(Ordering::SeqCst) <= n;
            let now = state(&open(dir.path()));
            let what = format!("{}: step {n}: {result:?}", scene.name);
            match result {
                Ok(outcomes) if outcomes.iter().all(RefOutcome::is_ok) => assert_eq!(now, after, "{what}"),
                Ok(outcomes) => {
                    assert!(outcomes.iter().all(|o| !o.is_ok()), "{what}");
                    assert_eq!(now, before, "{what}");
                }
                Err(_) => assert_eq!(now, after, "{what}"),
            }
            if finished {
                break;
            }
        }
    }
}

// ---- races ----

#[test]
fn writers_that_race_lose_no_update() {
    let dir = repository();
    let dir = dir.path();
    let names = ["refs/heads/x", "refs/heads/y"];
    let first = open(dir);
    for name in names {
        set(&first, name, commit(0));
    }
    let done = AtomicBool::new(false);
    let won: u32 = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let store = open(dir);
            while !done.load(Ordering::SeqCst) {
                assert_eq!(store.list(&RefQuery::default(), None).unwrap().len(), 2);
                assert!(store.find("refs/heads/x".into(), None).unwrap().is_some());
            }
        });
        let writers: Vec<_> = (0..4)
            .map(|who| {
                scope.spawn(move || {
                    let mut store = open(dir);
                    // Two of them as if in processes of their own.
                    if who < 2 {
                        store.turn = Arc::default();
                    }
                    let mut won = 0;
                    for _ in 0..40 {
                        let current = store.find("refs/heads/x".into(), None).unwrap().unwrap().id;
                        let n = u32::from_be_bytes(current.as_slice()[16..].try_into().unwrap());
                        let updates: Vec<_> = names
                            .iter()
                            .map(|name| update(name, Some(current), Some(commit(n + 1))))
                            .collect();
                        let outcomes = apply(&store, &updates, true);
                        won += u32::from(outcomes.iter().all(RefOutcome::is_ok));
                    }
                    won
                })
            })
            .collect();
        let won = writers.into_iter().map(|w| w.join().unwrap()).sum();
        done.store(true, Ordering::SeqCst);
        reader.join().unwrap();
        won
    });
    assert!(won >= 40, "{won}");
    let end = state(&first);
    assert!(end.values().all(|id| *id == commit(won)), "{won} {end:?}");
    assert_eq!(locks(dir), Vec::<String>::new());
}

// ---- the model ----

#[derive(Debug, Clone)]
struct Command {
    name: usize,
    right: bool,
    delete: bool,
    value: u32,
}

const NAMES: [&str; 7] = [
    "refs/heads/a",
    "refs/heads/a/b",
    "refs/heads/a/b/c",
    "refs/heads/b",
    "refs/heads/c/d",
    "refs/heads/c",
    "refs/tags/a-b",
];

fn commands() -> impl Strategy<Value = (Vec<Command>, bool, u8)> {
    let command = (
        0..NAMES.len(),
        prop::bool::weighted(0.9),
        prop::bool::weighted(0.35),
        1..50u32,
    )
        .prop_map(|(name, right, delete, value)| Command {
            name,
            right,
            delete,
            value,
        });
    (prop::collection::vec(command, 1..6), any::<bool>(), any::<u8>())
}

fn conflicts(a: &str, b: &str) -> bool {
    a.starts_with(&format!("{b}/")) || b.starts_with(&format!("{a}/"))
}

/// What should happen, written the simple way.
fn model(state: &State, updates: &[RefUpdate], atomic: bool) -> (State, Vec<bool>) {
    let mut seen = BTreeSet::new();
    let mut ok: Vec<bool> = updates
        .iter()
        .map(|u| seen.insert(u.name.clone()) && state.get(&u.name.to_string()) == u.old.as_ref())
        .collect();
    let mut next = state.clone();
    for (u, ok) in updates.iter().zip(&ok) {
        if *ok && u.new.is_none() {
            next.remove(&u.name.to_string());
        }
    }
    for (u, ok) in updates.iter().zip(&mut ok) {
        let name = u.name.to_string();
        if let (true, Some(new)) = (*ok, u.new) {
            if next.keys().any(|other| conflicts(other, &name)) {
                *ok = false;
            } else {
                next.insert(name, new);
            }
        }
    }
    if atomic && ok.contains(&false) {
        return (state.clone(), vec![false; updates.len()]);
    }
    (next, ok)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]
    #[test]
    fn transactions_do_what_the_model_does(steps in prop::collection::vec(commands(), 1..12)) {
        let dir = repository();
        let store = open(dir.path());
        let mut expected = State::new();
        for (commands, atomic, packing) in steps {
            let updates: Vec<_> = commands
                .iter()
                .filter_map(|c| {
                    let name = NAMES[c.name];
                    let old = expected.get(name).copied();
                    let old = if c.right { old } else { Some(commit(1000)) };
                    let new = (!c.delete).then(|| commit(c.value));
                    (old.is_some() || new.is_some()).then(|| update(name, old, new))
                })
                .collect();
            let (next, ok) = model(&expected, &updates, atomic);
            let outcomes = apply(&store, &updates, atomic);
            let got: Vec<bool> = outcomes.iter().map(RefOutcome::is_ok).collect();
            prop_assert_eq!(&got, &ok, "{:?} from {:?}: {:?}", updates, expected, outcomes);
            expected = next;
            prop_assert_eq!(&state(&store), &expected);
            prop_assert_eq!(&state(&open(dir.path())), &expected);
            prop_assert_eq!(locks(dir.path()), Vec::<String>::new());
            for (name, id) in &expected {
                prop_assert_eq!(store.find(name.as_str().into(), None).unwrap().map(|r| r.id), Some(*id));
            }
            pack(&store, dir.path(), |name| name.len() % 8 == usize::from(packing % 16));
        }
    }
}
