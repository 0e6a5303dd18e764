use std::collections::BTreeSet;

use gix::hash::Kind as HashKind;
use proptest::prelude::*;

use super::*;
use crate::repo::{Repository, SinkForm, diff_trees, testing::TestRepo};

fn blob(n: u8) -> ObjectId {
    ObjectId::from_bytes_or_panic(&[n; 20])
}

fn edited(repository: &Repository, tree: Option<&oid>, edits: &Edits) -> Result<ObjectId, TreeEditError> {
    let odb = repository.odb().expect("an odb");
    let sink = repository.object_sink(SinkForm::Loose).expect("a sink");
    let tree = edit_tree(&odb, &sink, tree, edits)?;
    sink.publish(false).expect("written");
    Ok(tree)
}

/// Files, none of which is a directory of another one.
fn files() -> impl Strategy<Value = Edits> {
    let component = proptest::sample::select(vec!["a", "b", "a-", "a.b", "ab"]);
    let path = proptest::collection::vec(component, 1..4).prop_map(|parts| BString::from(parts.join("/")));
    proptest::collection::btree_map(path, 1..4u8, 0..10).prop_map(|drawn| {
        let above =
            |path: &BString| -> Vec<BString> { path.find_iter("/").map(|at| BString::from(&path[..at])).collect() };
        let dirs: BTreeSet<BString> = drawn.keys().flat_map(above).collect();
        drawn
            .into_iter()
            .filter(|(path, _)| !dirs.contains(path))
            .map(|(path, n)| (path, Some((EntryKind::Blob, blob(n)))))
            .collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn the_difference_of_two_trees_makes_one_of_the_other(old in files(), new in files()) {
        let repo = TestRepo::new(HashKind::Sha1);
        let repository = repo.open();
        let from = edited(&repository, None, &old).expect("no collision");
        let to = edited(&repository, None, &new).expect("no collision");
        let mut edits = Edits::new();
        let odb = repository.odb().expect("an odb");
        let mut seen = 0;
        diff_trees(&odb, None, Some(&to), &mut |_| { seen += 1; std::ops::ControlFlow::Continue(()) }).expect("whole trees");
        prop_assert_eq!(seen, new.len());
        diff_trees(&odb, Some(&from), Some(&to), &mut |change| {
            edits.insert(change.path, change.to);
            std::ops::ControlFlow::Continue(())
        }).expect("whole trees");
        prop_assert_eq!(edited(&repository, Some(&from), &edits).expect("no collision"), to);
    }
}

#[test]
fn a_file_never_takes_the_place_of_files_that_nobody_removed() {
    let repo = TestRepo::new(HashKind::Sha1);
    let repository = repo.open();
    let file = |n| Some((EntryKind::Blob, blob(n)));
    let tree = edited(
        &repository,
        None,
        &Edits::from([("d/e/x".into(), file(1)), ("d/f".into(), file(2))]),
    )
    .expect("a tree");
    let collision = |edits: Edits| match edited(&repository, Some(&tree), &edits) {
        Err(TreeEditError::Collision { path }) => path.to_string(),
        other => panic!("{other:?}"),
    };
    assert_eq!(collision(Edits::from([("d".into(), file(3))])), "d");
    assert_eq!(
        collision(Edits::from([("d/e".into(), file(3)), ("q".into(), file(1))])),
        "d/e"
    );
    assert_eq!(collision(Edits::from([("d/f/g".into(), file(3))])), "d/f");
    assert_eq!(
        collision(Edits::from([("d/f".into(), file(3)), ("d/f/g".into(), file(3))])),
        "d/f"
    );
    // What is not there cannot be removed.
    let same = Edits::from([("d".into(), None), ("d/f/g".into(), None), ("z".into(), None)]);
    assert_eq!(edited(&repository, Some(&tree), &same).expect("a tree"), tree);
    let gone = Edits::from([("d/e/x".into(), None), ("d/f".into(), None)]);
    let empty = edited(&repository, Some(&tree), &gone).expect("a tree");
    assert!(empty.is_empty_tree());
}
