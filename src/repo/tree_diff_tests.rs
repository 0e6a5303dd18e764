use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::repo::testing::TestRepo;

const SHA1: HashKind = HashKind::Sha1;

type Files = BTreeMap<Vec<u8>, (EntryKind, ObjectId)>;

/// Writes the trees of these files; a file whose path is a directory of another one must not occur.
fn write(repo: &TestRepo, files: &Files) -> ObjectId {
    let mut here: Vec<(Vec<u8>, EntryKind, ObjectId)> = Vec::new();
    let mut below: BTreeMap<Vec<u8>, Files> = BTreeMap::new();
    for (path, entry) in files {
        match path.split_once_str("/") {
            Some((dir, rest)) => {
                below.entry(dir.to_vec()).or_default().insert(rest.to_vec(), *entry);
            }
            None => here.push((path.clone(), entry.0, entry.1)),
        }
    }
    for (dir, files) in below {
        here.push((dir, EntryKind::Tree, write(repo, &files)));
    }
    here.sort_by_key(|(name, kind, _)| {
        let end: &[u8] = if *kind == EntryKind::Tree { b"/" } else { b"" };
        [name, end].concat()
    });
    let mut data = Vec::new();
    for (name, kind, id) in here {
        data.extend_from_slice(kind.as_octal_str());
        data.push(b' ');
        data.extend_from_slice(&name);
        data.push(0);
        data.extend_from_slice(id.as_slice());
    }
    repo.loose(Kind::Tree, &data)
}

fn blob(n: u8) -> ObjectId {
    ObjectId::from_bytes_or_panic(&[n; 20])
}

fn changes(odb: &Odb, from: Option<&oid>, to: Option<&oid>) -> Vec<TreeChange> {
    let mut all = Vec::new();
    diff_trees(odb, from, to, &mut |change| {
        all.push(change);
        ControlFlow::Continue(())
    })
    .expect("whole trees");
    all
}

fn files() -> impl Strategy<Value = Files> {
    let component = proptest::sample::select(vec!["a", "b", "a-", "a.b", "ab", "a0"]);
    let path = proptest::collection::vec(component, 1..4).prop_map(|parts| parts.join("/").into_bytes());
    let kind = proptest::sample::select(vec![
        EntryKind::Blob,
        EntryKind::BlobExecutable,
        EntryKind::Link,
        EntryKind::Commit,
    ]);
    proptest::collection::btree_map(path, (kind, 1..4u8), 0..12).prop_map(|drawn| {
        let dirs: BTreeSet<Vec<u8>> = drawn
            .keys()
            .flat_map(|path| {
                path.iter()
                    .enumerate()
                    .filter(|(_, b)| **b == b'/')
                    .map(|(at, _)| path[..at].to_vec())
            })
            .collect();
        drawn
            .into_iter()
            .filter(|(path, _)| !dirs.contains(path))
            .map(|(path, (kind, n))| (path, (kind, blob(n))))
            .collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn the_difference_of_two_trees_is_that_of_their_files(old in files(), new in files()) {
        let repo = TestRepo::new(SHA1);
        let (from, to) = (write(&repo, &old), write(&repo, &new));
        let odb = repo.open().odb().expect("an odb");
        let paths: BTreeSet<_> = old.keys().chain(new.keys()).collect();
        let expected: Vec<_> = paths
            .into_iter()
            .map(|path| TreeChange { path: path.clone().into(), from: old.get(path).copied(), to: new.get(path).copied() })
            .filter(|change| change.from != change.to)
            .collect();
        prop_assert_eq!(changes(&odb, Some(&from), Some(&to)), expected);
        for (path, entry) in &new {
            prop_assert_eq!(entry_at(&odb, &to, path.as_bstr()).expect("whole trees"), Some(*entry));
        }
        let all = changes(&odb, None, Some(&to));
        prop_assert_eq!(all.len(), new.len());
        prop_assert!(changes(&odb, Some(&to), None).iter().zip(&all).all(|(gone, come)| gone.from == come.to));
    }

    #[test]
    fn any_bytes_are_a_tree_or_an_error(data in proptest::collection::vec(any::<u8>(), 0..80)) {
        let mut at = 0;
        while let Some((_, next)) = tree_entry(&data, at, SHA1) {
            prop_assert!(next > at && next <= data.len());
            at = next;
        }
    }
}

#[test]
fn equal_subtrees_are_not_read_and_missing_ones_are_an_error() {
    let repo = TestRepo::new(SHA1);
    let tree = |entries: &[(&str, &str, u8)]| {
        let mut data = Vec::new();
        for (mode, name, id) in entries {
            data.extend_from_slice(format!("{mode} {name}\0").as_bytes());
            data.extend_from_slice(blob(*id).as_slice());
        }
        repo.loose(Kind::Tree, &data)
    };
    let a = tree(&[("40000", "gone", 1), ("100664", "x", 2)]);
    let b = tree(&[("40000", "gone", 1), ("100755", "x", 2)]);
    let c = tree(&[("40000", "gone", 3)]);
    let odb = repo.open().odb().expect("an odb");
    let all = changes(&odb, Some(&a), Some(&b));
    assert_eq!(all.len(), 1);
    assert_eq!(all[0].from, Some((EntryKind::Blob, blob(2))));
    let err = diff_trees(&odb, Some(&a), Some(&c), &mut |_| ControlFlow::Continue(())).expect_err("a hole");
    assert!(
        matches!(err, TreeDiffError::Missing { id } if id == blob(1) || id == blob(3)),
        "{err}"
    );
    assert_eq!(err.fault(), Fault::Corrupt);
    assert_eq!(entry_at(&odb, &a, "x/y".into()).expect("whole"), None);
    assert_eq!(
        entry_at(&odb, &a, "".into()).expect("whole"),
        Some((EntryKind::Tree, a))
    );
    assert!(entry_at(&odb, &a, "gone/y".into()).is_err());
}

#[test]
fn a_walk_stops_when_it_is_told_and_when_trees_are_too_deep() {
    let repo = TestRepo::new(SHA1);
    let mut tree = write(&repo, &Files::from([(b"f".to_vec(), (EntryKind::Blob, blob(1)))]));
    for _ in 0..20 {
        let mut data = b"40000 d\0".to_vec();
        data.extend_from_slice(tree.as_slice());
        tree = repo.loose(Kind::Tree, &data);
    }
    let mut options = crate::repo::OpenOptions::default();
    options.limits.tree_depth = 20;
    let deep = |options: &crate::repo::OpenOptions| {
        let odb = repo.open_with(options).odb().expect("an odb");
        diff_trees(&odb, None, Some(&tree), &mut |_| ControlFlow::Continue(()))
    };
    deep(&options).expect("just deep enough");
    options.limits.tree_depth = 19;
    assert!(matches!(deep(&options), Err(TreeDiffError::TooDeep { limit: 19 })));

    let two = Files::from([
        (b"a".to_vec(), (EntryKind::Blob, blob(1))),
        (b"b".to_vec(), (EntryKind::Blob, blob(1))),
    ]);
    let tree = write(&repo, &two);
    let odb = repo.open().odb().expect("an odb");
    let mut seen = 0;
    diff_trees(&odb, None, Some(&tree), &mut |_| {
        seen += 1;
        ControlFlow::Break(())
    })
    .expect("whole");
    assert_eq!(seen, 1);
}
