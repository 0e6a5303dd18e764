use std::collections::{BinaryHeap, hash_map::Entry};

use gix::{
    hash::{Kind as HashKind, ObjectId},
    objs::Kind,
};

use super::{ConnectivityError, Input, Source, trees::Trees};
use crate::repo::ingest::ids::{IdMap, IdSet};

/// Commits that are entered before it is asked whether they are history that was there already, when nothing says what is new.
const UNASKED: usize = 64;

/// What a walk found.
#[derive(Default)]
pub(super) struct Walked {
    /// An object that is missing or of a wrong kind.
    pub(super) first_bad: Option<ObjectId>,
    /// The tips from which everything is here; only filled when each one was asked about.
    pub(super) good: IdSet,
}

/// A commit, as far as connectivity goes.
struct Commit {
    tree: ObjectId,
    parents: Vec<ObjectId>,
    time: i64,
}

/// What is found where a tip points.
enum Target {
    Commit(ObjectId),
    Tree(ObjectId),
    Blob,
    /// This object is missing or is not what it is said to be.
    Bad(ObjectId),
}

pub(super) fn walk<S: Source>(
    input: &Input<'_, S>,
    tips: &[ObjectId],
    each: bool,
) -> Result<Walked, ConnectivityError> {
    let mut walk = Walk {
        input,
        new: IdMap::default(),
        order: Vec::new(),
        old: IdSet::default(),
        buf: Vec::new(),
        out: Walked::default(),
        each,
    };
    let mut targets = Vec::with_capacity(tips.len());
    for tip in tips {
        input.check_stop()?;
        let target = walk.target(tip, None)?;
        if let Target::Bad(id) = target {
            walk.out.first_bad.get_or_insert(id);
            if !each {
                return Ok(walk.out);
            }
        }
        targets.push(target);
    }
    let starts: Vec<ObjectId> = targets
        .iter()
        .filter_map(|target| match target {
            Target::Commit(id) => Some(*id),
            _ => None,
        })
        .collect();
    if !walk.collect(starts)? {
        return Ok(walk.out);
    }
    let mut trees = Trees::new(input, each);
    let Some(bad_commits) = walk.enter_trees(&mut trees)? else {
        return Ok(walk.out);
    };
    for (tip, target) in tips.iter().zip(&targets) {
        let bad = match target {
            Target::Commit(id) => bad_commits.contains(id).then_some(*id),
            Target::Tree(id) => trees.enter(id, &[])?,
            Target::Blob => None,
            Target::Bad(id) => Some(*id),
        };
        match bad {
            None => {
                walk.out.good.insert(*tip);
            }
            Some(id) => {
                walk.out.first_bad.get_or_insert(id);
            }
        }
    }
    Ok(walk.out)
}

struct Walk<'w, 'i, S> {
    input: &'w Input<'i, S>,
    /// Commits that are not known to be old; `None` for one that is missing or no commit.
    new: IdMap<Option<Commit>>,
    /// The same in the order in which they were met.
    order: Vec<ObjectId>,
    /// Commits that an existing ref reaches.
    old: IdSet,
    buf: Vec<u8>,
    out: Walked,
    each: bool,
}

impl<S: Source> Walk<'_, '_, S> {
    /// Follows tags. Each is a new object that must be there with all it names. `wanted` is the kind the last tag promised.
    fn target(&mut self, tip: &ObjectId, wanted: Option<Kind>) -> Result<Target, ConnectivityError> {
        let (mut id, mut wanted) = (*tip, wanted);
        let mut seen = IdSet::default();
        loop {
            if self.input.existing.contains(&id) && self.input.source.contains(&id)? && wanted.is_none() {
                // What a ref points to is complete; its kind does not matter then.
                return Ok(Target::Blob);
            }
            // A tag cannot contain itself, whatever somebody managed to write into a pack.
            let kind = match self.input.source.read(&id, &mut self.buf)? {
                Some(kind) if wanted.is_none_or(|wanted| wanted == kind) && seen.insert(id) => kind,
                _ => return Ok(Target::Bad(id)),
            };
            match kind {
                Kind::Commit => return Ok(Target::Commit(id)),
                Kind::Tree => return Ok(Target::Tree(id)),
                Kind::Blob => return Ok(Target::Blob),
                Kind::Tag => match parse_tag(&self.buf, self.input.source.hash_kind()) {
                    Some((object, kind)) => (id, wanted) = (object, Some(kind)),
                    None => return Ok(Target::Bad(id)),
                },
            }
        }
    }

    /// Finds the commits to be entered. `false` ends the walk: one is missing.
    fn collect(&mut self, starts: Vec<ObjectId>) -> Result<bool, ConnectivityError> {
        let mut todo = starts;
        let mut doubtful = Vec::new();
        while let Some(id) = todo.pop() {
            self.input.check_stop()?;
            if self.input.existing.contains(&id) || self.new.contains_key(&id) {
                continue;
            }
            let is_new = match self.input.received {
                Some(received) => received(&id).is_some(),
                None => self.new.len() < UNASKED,
            };
            if !is_new {
                doubtful.push(id);
                continue;
            }
            if !self.meet(id)? {
                return Ok(false);
            }
            if let Some(Some(commit)) = self.new.get(&id) {
                todo.extend_from_slice(&commit.parents);
            }
        }
        // An existing ref's value is taken as it is, unless it is broken.
        let input = self.input;
        let boundary: Vec<ObjectId> = self.boundary();
        for id in boundary {
            if input.existing.contains(&id) {
                if input.source.contains(&id)? {
                    self.old.insert(id);
                } else if !self.meet(id)? {
                    return Ok(false);
                }
            }
        }
        if doubtful.is_empty() {
            return Ok(true);
        }
        self.paint(doubtful)
    }

    /// Parents of new commits that are not new.
    fn boundary(&self) -> Vec<ObjectId> {
        let parents = self.new.values().flatten().flat_map(|commit| &commit.parents);
        parents.filter(|id| !self.new.contains_key(*id)).copied().collect()
    }

    /// Reads a commit that must be there. `false` ends the walk.
    fn meet(&mut self, id: ObjectId) -> Result<bool, ConnectivityError> {
        let commit = self.read(&id)?;
        let missing = commit.is_none();
        if self.new.insert(id, commit).is_none() {
            self.order.push(id);
        }
        if missing {
            self.out.first_bad.get_or_insert(id);
        }
        Ok(!missing || self.each)
    }

    fn read(&mut self, id: &ObjectId) -> Result<Option<Commit>, ConnectivityError> {
        if self.input.source.read(id, &mut self.buf)? != Some(Kind::Commit) {
            return Ok(None);
        }
        let mut commit = parse_commit(&self.buf, self.input.source.hash_kind());
        if let Some(commit) = &mut commit
            && self.input.shallow.contains(id)
        {
            commit.parents.clear();
        }
        Ok(commit)
    }

    /// Parents and time of a commit whose tree does not matter.
    fn peek(&mut self, id: &ObjectId) -> Result<Option<(Vec<ObjectId>, i64)>, ConnectivityError> {
        if let Some(Some(commit)) = self.new.get(id) {
            return Ok(Some((commit.parents.clone(), commit.time)));
        }
        if self.input.shallow.is_empty()
            && let Some(known) = self.input.source.known_commit(id)
        {
            return Ok(Some(known));
        }
        Ok(self.read(id)?.map(|commit| (commit.parents, commit.time)))
    }

    /// Walks back from `doubtful` commits and from the existing tips at once, latest first, until every commit in question is known to be old or has been
    /// added to the new ones. Clocks that ran wrong cost time here, never an answer: what is not proven old is entered.
    fn paint(&mut self, doubtful: Vec<ObjectId>) -> Result<bool, ConnectivityError> {
        struct Seen {
            old: bool,
            done: bool,
            missing: bool,
            parents: Vec<ObjectId>,
        }
        let mut seen: IdMap<Seen> = IdMap::default();
        let mut heap: BinaryHeap<(i64, ObjectId)> = BinaryHeap::new();
        let mut open = 0usize;
        let existing: Vec<ObjectId> = self.input.existing.iter().copied().collect();
        let mut starts: Vec<(ObjectId, bool)> = doubtful.into_iter().map(|id| (id, false)).collect();
        for tip in existing {
            if let Target::Commit(id) = self.peel(&tip)? {
                starts.push((id, true));
            }
        }
        let mut pending = starts;
        loop {
            // `pending` holds commits with the colour that they just got.
            while let Some((id, old)) = pending.pop() {
                match seen.entry(id) {
                    Entry::Occupied(mut known) => {
                        let known = known.get_mut();
                        if old && !known.old {
                            known.old = true;
                            if known.done {
                                // Its parents were given the wrong colour.
                                pending.extend(known.parents.iter().map(|parent| (*parent, true)));
                            } else {
                                open -= 1;
                            }
                        }
                    }
                    Entry::Vacant(vacant) => {
                        let (parents, time, missing) = match self.peek(&id)? {
                            Some((parents, time)) => (parents, time, false),
                            None => (Vec::new(), i64::MIN, true),
                        };
                        vacant.insert(Seen {
                            old,
                            done: false,
                            missing,
                            parents,
                        });
                        open += usize::from(!old);
                        heap.push((time, id));
                    }
                }
            }
            if open == 0 {
                break;
            }
            let Some((_, id)) = heap.pop() else { break };
            self.input.check_stop()?;
            if let Some(commit) = seen.get_mut(&id)
                && !commit.done
            {
                commit.done = true;
                open -= usize::from(!commit.old);
                let old = commit.old;
                pending.extend(commit.parents.iter().map(|parent| (*parent, old)));
            }
        }
        for (id, commit) in seen {
            if commit.old && !commit.missing {
                self.old.insert(id);
            } else if !commit.old && !self.new.contains_key(&id) && !self.meet(id)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The commit that an existing ref's value leads to.
    fn peel(&mut self, tip: &ObjectId) -> Result<Target, ConnectivityError> {
        if self.input.source.known_commit(tip).is_some() {
            return Ok(Target::Commit(*tip));
        }
        let mut id = *tip;
        for _ in 0..64 {
            match self.input.source.read(&id, &mut self.buf)? {
                Some(Kind::Commit) => return Ok(Target::Commit(id)),
                Some(Kind::Tag) => match parse_tag(&self.buf, self.input.source.hash_kind()) {
                    Some((object, _)) => id = object,
                    None => break,
                },
                _ => break,
            }
        }
        Ok(Target::Bad(id))
    }

    /// Enters the trees of all new commits, older ones first as far as we know, and returns the commits that reach something bad. `None` when that ended the walk.
    fn enter_trees(&mut self, trees: &mut Trees<'_, '_, S>) -> Result<Option<IdSet>, ConnectivityError> {
        let mut bad = IdSet::default();
        let order: Vec<ObjectId> = self.order.iter().rev().copied().collect();
        for id in &order {
            self.input.check_stop()?;
            let Some(Some(commit)) = self.new.get(id) else {
                bad.insert(*id);
                continue;
            };
            let tree = commit.tree;
            let mut beside = Vec::new();
            if !self.each {
                for parent in commit.parents.clone().iter().take(2) {
                    let parent_tree = match self.new.get(parent) {
                        Some(commit) => commit.as_ref().map(|commit| commit.tree),
                        None if self.old.contains(parent) => self.read(parent)?.map(|commit| commit.tree),
                        None => None,
                    };
                    beside.extend(parent_tree);
                }
            }
            if let Some(missing) = trees.enter(&tree, &beside)? {
                self.out.first_bad.get_or_insert(missing);
                if !self.each {
                    return Ok(None);
                }
                bad.insert(*id);
            }
        }
        // What is bad makes all its descendants bad.
        let mut children: IdMap<Vec<ObjectId>> = IdMap::default();
        if !bad.is_empty() {
            for (id, commit) in &self.new {
                for parent in commit.iter().flat_map(|commit| &commit.parents) {
                    children.entry(*parent).or_default().push(*id);
                }
            }
        }
        let mut todo: Vec<ObjectId> = bad.iter().copied().collect();
        while let Some(id) = todo.pop() {
            for child in children.get(&id).into_iter().flatten() {
                if bad.insert(*child) {
                    todo.push(*child);
                }
            }
        }
        Ok(Some(bad))
    }
}

fn hex(text: &[u8], hash: HashKind) -> Option<ObjectId> {
    ObjectId::from_hex(text).ok().filter(|id| id.kind() == hash)
}

fn parse_tag(data: &[u8], hash: HashKind) -> Option<(ObjectId, Kind)> {
    let mut lines = data.split(|b| *b == b'\n');
    let object = hex(lines.next()?.strip_prefix(b"object ")?, hash)?;
    let kind = Kind::from_bytes(lines.next()?.strip_prefix(b"type ")?).ok()?;
    Some((object, kind))
}

fn parse_commit(data: &[u8], hash: HashKind) -> Option<Commit> {
    let mut lines = data.split(|b| *b == b'\n');
    let tree = hex(lines.next()?.strip_prefix(b"tree ")?, hash)?;
    let (mut parents, mut time) = (Vec::new(), 0);
    for line in lines {
        if let Some(parent) = line.strip_prefix(b"parent ") {
            parents.push(hex(parent, hash)?);
        } else if line.starts_with(b"committer ") {
            time = time_of(line).unwrap_or(0);
            break;
        } else if line.is_empty() {
            break;
        }
    }
    Some(Commit { tree, parents, time })
}

/// Seconds of a line `committer name <mail> seconds zone`.
fn time_of(line: &[u8]) -> Option<i64> {
    let after = &line[line.iter().rposition(|b| *b == b'>')? + 1..];
    let word = after.split(|b| *b == b' ').find(|word| !word.is_empty())?;
    std::str::from_utf8(word).ok()?.parse().ok()
}
