use std::sync::atomic::AtomicBool;

use gix::{
    hash::{ObjectId, oid},
    objs::{CommitRefIter, Kind, TreeRefIter, tree::EntryRef},
};

use super::{check, error::Trouble};
use crate::repo::{
    Odb,
    deltas::{Loader, NONE, Objects, PathKey},
};

/// Directories in directories that are followed.
const DEEPEST: usize = 256;

struct Commit {
    number: u32,
    date: i64,
    tree: ObjectId,
    parent: Option<ObjectId>,
}

/// Gives trees and blobs the names they have in commits, so that the versions of a file are neighbours, and puts what is new in front.
///
/// Names are looked for where the search for deltas needs them: below commits whose tree is not a delta yet. Of those, what differs from the first parent is
/// named, on both sides. What is not found, or cannot be read, has no name: a worse pack, nothing else.
pub(super) fn name(
    objects: &mut Objects,
    odb: &Odb,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(u64),
) -> Result<(), Trouble> {
    let mut commits = commits(objects, odb, stop)?;
    commits.sort_by_key(|commit| (std::cmp::Reverse(commit.date), objects.item(commit.number).recency));
    for (recency, commit) in commits.iter().enumerate() {
        objects.items[commit.number as usize].recency = recency as u32;
    }
    let mut namer = Namer {
        loader: Loader::new(odb),
        odb,
        named: vec![false; objects.items.len()],
        walked: vec![false; objects.items.len()],
        order: Vec::new(),
        objects,
    };
    for (done, commit) in commits.iter().enumerate() {
        if done % 64 == 0 {
            check(stop)?;
            progress(done as u64);
        }
        let Some(tree) = namer.objects.find(&commit.tree) else {
            continue;
        };
        if namer.objects.item(tree).base != NONE {
            continue;
        }
        let before = commit.parent.and_then(|parent| namer.tree_of(&parent));
        namer.tree(&commit.tree, before.as_deref(), PathKey::default(), 0);
    }
    let order = namer.order;
    // What was met first is newest; the rest keeps its order behind.
    let shift = order.len() as u32;
    for item in &mut objects.items {
        if item.kind != Kind::Commit {
            item.recency = item.recency.saturating_add(shift);
        }
    }
    for (recency, number) in order.into_iter().enumerate() {
        objects.items[number as usize].recency = recency as u32;
    }
    Ok(())
}

fn commits(objects: &Objects, odb: &Odb, stop: &AtomicBool) -> Result<Vec<Commit>, Trouble> {
    let mut numbers: Vec<u32> = (0..objects.items.len() as u32)
        .filter(|n| objects.item(*n).kind == Kind::Commit)
        .collect();
    // As they lie: neighbours share bases.
    numbers.sort_unstable_by_key(|n| objects.item(*n).recency);
    let mut loader = Loader::new(odb);
    let mut commits = Vec::with_capacity(numbers.len());
    for (done, number) in numbers.into_iter().enumerate() {
        if done % 1024 == 0 {
            check(stop)?;
        }
        let data = loader.load(objects, number)?;
        let hash = odb.hash_kind();
        let mut parts = CommitRefIter::from_bytes(&data, hash);
        let Ok(tree) = parts.tree_id() else { continue };
        let parent = CommitRefIter::from_bytes(&data, hash).parent_ids().next();
        let date = CommitRefIter::from_bytes(&data, hash)
            .committer()
            .ok()
            .and_then(|committer| committer.time().ok())
            .map_or(0, |time| time.seconds);
        commits.push(Commit {
            number,
            date,
            tree,
            parent,
        });
    }
    Ok(commits)
}

struct Namer<'o> {
    objects: &'o mut Objects,
    odb: &'o Odb,
    loader: Loader,
    named: Vec<bool>,
    /// Trees whose entries were named.
    walked: Vec<bool>,
    /// What was named, in the order in which it was met.
    order: Vec<u32>,
}

impl Namer<'_> {
    fn read(&mut self, id: &oid) -> Option<std::sync::Arc<Vec<u8>>> {
        if let Some(number) = self.objects.find(id) {
            return self.loader.load(self.objects, number).ok();
        }
        let mut out = Vec::new();
        self.odb.read(id, &mut out).ok()??;
        Some(std::sync::Arc::new(out))
    }

    fn tree_of(&mut self, commit: &oid) -> Option<ObjectId> {
        let data = self.read(commit)?;
        CommitRefIter::from_bytes(&data, self.odb.hash_kind()).tree_id().ok()
    }

    /// Names an object, if it is one of the new pack; says which. The first name is the one that stays.
    fn give(&mut self, id: &oid, name: PathKey) -> Option<u32> {
        let number = self.objects.find(id)?;
        if !std::mem::replace(&mut self.named[number as usize], true) {
            self.order.push(number);
            self.objects.items[number as usize].name = name;
        }
        Some(number)
    }

    /// Names a tree and whatever of it is not in `before`.
    fn tree(&mut self, id: &oid, before: Option<&oid>, name: PathKey, depth: usize) {
        // What stays where it is holds nothing that is new.
        let Some(number) = self.give(id, name) else { return };
        if std::mem::replace(&mut self.walked[number as usize], true) || depth > DEEPEST {
            return;
        }
        if let Some(before) = before {
            self.give(before, name);
        }
        let Some(data) = self.read(id) else { return };
        let old = before.and_then(|before| self.read(before));
        let hash = self.odb.hash_kind();
        let mut old = old
            .as_ref()
            .map(|old| TreeRefIter::from_bytes(old, hash).map_while(Result::ok).peekable());
        for entry in TreeRefIter::from_bytes(&data, hash).map_while(Result::ok) {
            let mut counterpart: Option<EntryRef<'_>> = None;
            if let Some(old) = &mut old {
                while old.next_if(|older| *older < entry).is_some() {}
                counterpart = old
                    .next_if(|older| older.filename == entry.filename && older.mode.is_tree() == entry.mode.is_tree());
            }
            if counterpart.is_some_and(|older| older.oid == entry.oid) || entry.mode.is_commit() {
                continue;
            }
            let name = name.child(entry.filename);
            if entry.mode.is_tree() {
                self.tree(entry.oid, counterpart.map(|older| older.oid), name, depth + 1);
            } else {
                self.give(entry.oid, name);
                if let Some(older) = counterpart {
                    self.give(older.oid, name);
                }
            }
        }
    }
}
