use std::{cell::Cell, collections::HashMap, sync::atomic::AtomicBool};

use gix::{
    hash::{Kind as HashKind, ObjectId, oid},
    objs::Kind,
};

use super::{Input, Source, commits};
use crate::repo::OdbError;

#[derive(Default)]
struct Objects {
    all: HashMap<ObjectId, (Kind, Vec<u8>)>,
    reads: Cell<usize>,
    clock: i64,
    tree_depth: Option<usize>,
}

impl Source for Objects {
    fn hash_kind(&self) -> HashKind {
        HashKind::Sha1
    }

    fn tree_depth(&self) -> usize {
        self.tree_depth.unwrap_or(2048)
    }

    fn contains(&self, id: &oid) -> Result<bool, OdbError> {
        Ok(self.all.contains_key(id))
    }

    fn read(&self, id: &oid, out: &mut Vec<u8>) -> Result<Option<Kind>, OdbError> {
        self.reads.set(self.reads.get() + 1);
        out.clear();
        Ok(self.all.get(id).map(|(kind, data)| {
            out.extend_from_slice(data);
            *kind
        }))
    }
}

impl Objects {
    fn put(&mut self, kind: Kind, data: &[u8]) -> ObjectId {
        let id = gix::objs::compute_hash(HashKind::Sha1, kind, data).expect("no attack");
        self.all.insert(id, (kind, data.to_vec()));
        id
    }

    fn blob(&mut self, text: &str) -> ObjectId {
        self.put(Kind::Blob, text.as_bytes())
    }

    fn tree(&mut self, entries: &[(&str, &str, ObjectId)]) -> ObjectId {
        let mut data = Vec::new();
        for (mode, name, id) in entries {
            data.extend_from_slice(format!("{mode} {name}\0").as_bytes());
            data.extend_from_slice(id.as_slice());
        }
        self.put(Kind::Tree, &data)
    }

    fn commit(&mut self, tree: ObjectId, parents: &[ObjectId]) -> ObjectId {
        self.clock += 60;
        let parents: String = parents.iter().map(|id| format!("parent {id}\n")).collect();
        let time = self.clock;
        let text = format!("tree {tree}\n{parents}author A <a> {time} +0000\ncommitter A <a> {time} +0000\n\nx\n");
        self.put(Kind::Commit, text.as_bytes())
    }

    fn tag(&mut self, object: ObjectId, kind: &str) -> ObjectId {
        self.put(Kind::Tag, format!("object {object}\ntype {kind}\ntag t\n\n").as_bytes())
    }

    /// A history of commits that each change one file of a directory.
    fn history(&mut self, from: Option<ObjectId>, len: usize, name: &str) -> Vec<ObjectId> {
        let mut last = from;
        (0..len)
            .map(|n| {
                let blob = self.blob(&format!("{name} {n}"));
                let same = self.blob("same");
                let dir = self.tree(&[("100644", name, blob), ("100644", "same", same)]);
                let root = self.tree(&[("40000", "dir", dir), ("100644", "same", same)]);
                let commit = self.commit(root, last.as_slice());
                last = Some(commit);
                commit
            })
            .collect()
    }

    fn each(&self, tips: &[ObjectId], existing: &[ObjectId], shallow: &[ObjectId]) -> Vec<bool> {
        let stop = AtomicBool::new(false);
        let input = Input {
            source: self,
            received: None,
            existing: existing.iter().copied().collect(),
            shallow: shallow.iter().copied().collect(),
            stop: &stop,
            tick: &|| (),
        };
        let all = commits::walk(&input, tips, false).expect("readable");
        let walked = commits::walk(&input, tips, true).expect("readable");
        let each: Vec<bool> = tips.iter().map(|tip| walked.good.contains(tip)).collect();
        assert_eq!(all.first_bad.is_none(), each.iter().all(|good| *good));
        each
    }
}

fn check(objects: &Objects, tips: &[ObjectId], existing: &[ObjectId]) -> Vec<bool> {
    objects.each(tips, existing, &[])
}

#[test]
fn a_complete_history_is_connected_and_each_missing_object_is_noticed() {
    let mut objects = Objects::default();
    let history = objects.history(None, 5, "a");
    let tip = history[4];
    assert_eq!(check(&objects, &[tip], &[]), [true]);
    assert_eq!(check(&objects, &[tip], &[history[1]]), [true]);
    let ids: Vec<ObjectId> = objects.all.keys().copied().collect();
    for id in ids {
        let gone = objects.all.remove(&id).expect("there");
        assert_eq!(check(&objects, &[tip], &[]), [false], "{id}");
        objects.all.insert(id, gone);
    }
}

#[test]
fn what_exists_but_no_ref_reaches_proves_nothing() {
    let mut objects = Objects::default();
    let stray = objects.history(None, 3, "a");
    let blob = objects.blob("a 0");
    objects.all.remove(&blob);
    let other = objects.history(None, 3, "b");
    let root = objects.tree(&[]);
    let child = objects.commit(root, &[stray[2]]);
    assert_eq!(check(&objects, &[child], &[other[2]]), [false]);
    // A ref makes it complete by definition.
    assert_eq!(check(&objects, &[child], &[stray[2]]), [true]);
}

#[test]
fn each_tip_is_judged_for_itself() {
    let mut objects = Objects::default();
    let base = objects.history(None, 2, "a");
    let good = objects.history(Some(base[1]), 2, "b");
    let bad = objects.history(Some(base[1]), 3, "c");
    let gone = objects.blob("c 1");
    objects.all.remove(&gone);
    let tag = objects.tag(bad[0], "commit");
    let bad_tag = objects.tag(bad[2], "commit");
    let lying_tag = objects.tag(good[0], "tree");
    let nothing = ObjectId::from([7; 20]);
    let tips = [good[1], bad[0], bad[1], bad[2], tag, bad_tag, lying_tag, nothing];
    let wanted = [true, true, false, false, true, false, false, false];
    assert_eq!(check(&objects, &tips, &[base[1]]), wanted);
    assert_eq!(check(&objects, &tips, &[]), wanted);
}

#[test]
fn submodules_are_not_followed_and_kinds_must_fit() {
    let mut objects = Objects::default();
    let elsewhere = ObjectId::from([9; 20]);
    let blob = objects.blob("x");
    let tree = objects.tree(&[("160000", "module", elsewhere), ("100644", "x", blob)]);
    let good = objects.commit(tree, &[]);
    let wrong = objects.tree(&[("40000", "x", blob)]);
    let wrong = objects.commit(wrong, &[]);
    let no_tree = objects.commit(blob, &[]);
    let no_parent = objects.commit(tree, &[tree]);
    assert_eq!(
        check(&objects, &[good, wrong, no_tree, no_parent, tree, blob], &[]),
        [true, false, false, false, true, true]
    );
}

#[test]
fn shallow_commits_have_no_parents() {
    let mut objects = Objects::default();
    let history = objects.history(None, 3, "a");
    objects.all.remove(&history[0]);
    assert_eq!(objects.each(&[history[2]], &[], &[]), [false]);
    assert_eq!(objects.each(&[history[2]], &[], &[history[1]]), [true]);
}

#[test]
fn a_small_push_onto_a_long_history_reads_little() {
    let mut objects = Objects::default();
    let history = objects.history(None, 2000, "a");
    let tips = [history[1999], history[1500]];
    let new = objects.history(Some(history[1999]), 3, "b");
    let reads = |objects: &Objects, tip: ObjectId| {
        let stop = AtomicBool::new(false);
        let received = |id: &ObjectId| new.contains(id).then_some(Kind::Commit);
        let input = Input {
            source: objects,
            received: Some(&received),
            existing: tips.into_iter().collect(),
            shallow: Default::default(),
            stop: &stop,
            tick: &|| (),
        };
        objects.reads.set(0);
        assert!(
            commits::walk(&input, &[tip], false)
                .expect("readable")
                .first_bad
                .is_none()
        );
        objects.reads.get()
    };
    assert!(reads(&objects, new[2]) < 30);
    // A branch that starts a hundred commits back, where no ref points.
    let side = objects.history(Some(history[1900]), 1, "c");
    let count = reads(&objects, side[0]);
    assert!(count < 500, "{count}");
    // Nothing new at all.
    assert!(reads(&objects, history[1500]) < 5);
}

#[test]
fn clocks_that_ran_backwards_change_no_answer() {
    let mut objects = Objects::default();
    let old = objects.history(None, 50, "a");
    objects.clock = -100_000;
    let skewed = objects.history(Some(old[49]), 50, "b");
    objects.clock = 1_000_000;
    let tip = objects.history(Some(skewed[49]), 10, "c");
    let root = objects.tree(&[]);
    let new = objects.commit(root, &[skewed[10], old[3]]);
    let stop = AtomicBool::new(false);
    let received = |id: &ObjectId| (*id == new).then_some(Kind::Commit);
    let input = Input {
        source: &objects,
        received: Some(&received),
        existing: [tip[9]].into_iter().collect(),
        shallow: Default::default(),
        stop: &stop,
        tick: &|| (),
    };
    let walked = commits::walk(&input, &[new], false).expect("readable");
    assert!(walked.first_bad.is_none());
}

#[test]
fn as_many_levels_of_trees_are_followed_as_the_limit_says() {
    let mut objects = Objects::default();
    let mut tree = objects.tree(&[]);
    for _ in 0..4 {
        tree = objects.tree(&[("40000", "d", tree)]);
    }
    let commit = objects.commit(tree, &[]);
    for (limit, good) in [(3, false), (4, true)] {
        objects.tree_depth = Some(limit);
        assert_eq!(check(&objects, &[commit], &[]), [good], "{limit}");
    }
}

#[test]
fn trees_that_nest_too_deeply_end() {
    let mut objects = Objects::default();
    let mut tree = objects.tree(&[]);
    for _ in 0..3000 {
        tree = objects.tree(&[("40000", "d", tree)]);
    }
    let commit = objects.commit(tree, &[]);
    assert_eq!(check(&objects, &[commit], &[]), [false]);
}
