//! What refs reach, and what else somebody may still want.

use std::{
    collections::HashSet,
    fs::{self, File},
    io::{self, Read},
    path::Path,
    sync::atomic::AtomicBool,
};

use gix::{
    hash::{ObjectId, oid},
    objs::{CommitRefIter, Kind, TagRefIter, tree::EntryKind},
};

use super::{RepackError, check};
use crate::repo::{Head, Mmap, Odb, OdbError, RefQuery, Repository, tree_diff};

/// Directories of a repository that hold no names of objects that are kept for their own sake.
const NOT_LOOKED_INTO: [&str; 3] = ["objects", "hooks", "modules"];
/// Directories in directories that are looked into.
const DEEPEST: usize = 64;

/// Objects by their place in a sorted list.
pub(super) struct Universe {
    ids: Vec<ObjectId>,
    /// Where the ids begin whose first byte is at least so much.
    fan: Vec<usize>,
}

impl Universe {
    pub(super) fn of(mut ids: Vec<ObjectId>) -> Self {
        ids.sort_unstable();
        ids.dedup();
        let fan = (0..=256usize)
            .map(|first| ids.partition_point(|id| usize::from(id.first_byte()) < first))
            .collect();
        Universe { ids, fan }
    }

    pub(super) fn ids(&self) -> &[ObjectId] {
        &self.ids
    }

    pub(super) fn place(&self, id: &oid) -> Option<usize> {
        let first = usize::from(id.first_byte());
        let from = self.fan[first];
        let found = self.ids[from..self.fan[first + 1]].binary_search_by(|one| one.as_slice().cmp(id.as_bytes()));
        found.ok().map(|at| from + at)
    }
}

/// What a walk must find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Demand {
    /// Everything: history that is not whole is no history to judge by.
    Whole,
    /// What there is.
    WhatIsThere,
}

/// Marks objects, and everything that they lead to.
pub(super) struct Marks<'a> {
    odb: &'a Odb,
    universe: &'a Universe,
    marked: Vec<u64>,
    /// Those that are in no place of the universe.
    others: HashSet<ObjectId>,
    shallow: HashSet<ObjectId>,
    stop: &'a AtomicBool,
}

/// What is known of an object that is looked at next.
enum Next {
    Something(ObjectId),
    Commit(ObjectId),
    Tree(ObjectId),
}

impl Next {
    fn id(&self) -> ObjectId {
        let (Next::Something(id) | Next::Commit(id) | Next::Tree(id)) = self;
        *id
    }
}

impl<'a> Marks<'a> {
    pub(super) fn new(odb: &'a Odb, universe: &'a Universe, shallow: &[ObjectId], stop: &'a AtomicBool) -> Self {
        Marks {
            odb,
            universe,
            marked: vec![0; universe.ids.len().div_ceil(64)],
            others: HashSet::new(),
            shallow: shallow.iter().copied().collect(),
            stop,
        }
    }

    pub(super) fn has(&self, place: usize) -> bool {
        is_set(&self.marked, place)
    }

    /// Marks what was marked before, see [`bits`](Self::bits), in the same universe.
    pub(super) fn with(mut self, bits: &[u64], others: &HashSet<ObjectId>) -> Self {
        self.marked.copy_from_slice(bits);
        self.others.clone_from(others);
        self
    }

    /// Those that were marked and are not in the universe.
    pub(super) fn others(&self) -> &HashSet<ObjectId> {
        &self.others
    }

    pub(super) fn bits(&self) -> &[u64] {
        &self.marked
    }

    /// Whether it was not marked yet.
    fn mark(&mut self, id: &oid) -> bool {
        match self.universe.place(id) {
            Some(place) => {
                let is_new = !self.has(place);
                self.marked[place / 64] |= 1 << (place % 64);
                is_new
            }
            None => self.others.insert(id.to_owned()),
        }
    }

    /// Marks these and what they reach. `told` is called with the number of objects looked at. Returns what is missing or damaged and must be there, if anything.
    ///
    /// # Errors
    /// When a file cannot be read, and `Stopped`.
    pub(super) fn from(
        &mut self,
        tips: impl IntoIterator<Item = ObjectId>,
        demand: Demand,
        told: &mut dyn FnMut(u64),
    ) -> Result<Option<ObjectId>, RepackError> {
        let mut todo: Vec<Next> = Vec::new();
        for tip in tips {
            if self.mark(&tip) {
                todo.push(Next::Something(tip));
            }
        }
        let (mut data, mut done) = (Vec::new(), 0u64);
        while let Some(next) = todo.pop() {
            if done.is_multiple_of(1024) {
                check(self.stop)?;
                told(done);
            }
            done += 1;
            let whole = self.look(&next, &mut data, &mut todo)?;
            if !whole && demand == Demand::Whole {
                return Ok(Some(next.id()));
            }
        }
        Ok(None)
    }

    /// Whether the object is there and is what it must be. What it leads to is marked and put on the list.
    fn look(&mut self, next: &Next, data: &mut Vec<u8>, todo: &mut Vec<Next>) -> Result<bool, RepackError> {
        let (id, expected) = match next {
            Next::Something(id) => (id, None),
            Next::Commit(id) => (id, Some(Kind::Commit)),
            Next::Tree(id) => (id, Some(Kind::Tree)),
        };
        // Not read before it is known to be small.
        if expected.is_none() {
            match readable(self.odb.header(id))? {
                Some((Kind::Blob, _)) => return Ok(true),
                Some(_) => {}
                None => return Ok(false),
            }
        }
        let Some(kind) = readable(self.odb.read(id, data))? else {
            return Ok(false);
        };
        if expected.is_some_and(|expected| expected != kind) {
            return Ok(false);
        }
        let hash = self.odb.hash_kind();
        match kind {
            Kind::Blob => {}
            Kind::Tag => match TagRefIter::from_bytes(data, hash).target_id() {
                Ok(target) if self.mark(&target) => todo.push(Next::Something(target)),
                Ok(_) => {}
                Err(_) => return Ok(false),
            },
            Kind::Commit => {
                let Ok(tree) = CommitRefIter::from_bytes(data, hash).tree_id() else {
                    return Ok(false);
                };
                if self.mark(&tree) {
                    todo.push(Next::Tree(tree));
                }
                if !self.shallow.contains(id) {
                    for parent in CommitRefIter::from_bytes(data, hash).parent_ids() {
                        if self.mark(&parent) {
                            todo.push(Next::Commit(parent));
                        }
                    }
                }
            }
            Kind::Tree => {
                let mut at = 0;
                while at < data.len() {
                    let Some((entry, behind)) = tree_diff::tree_entry(data, at, hash) else {
                        return Ok(false);
                    };
                    at = behind;
                    if entry.kind != EntryKind::Commit && self.mark(&entry.id) && entry.kind == EntryKind::Tree {
                        todo.push(Next::Tree(entry.id.to_owned()));
                    }
                }
            }
        }
        Ok(true)
    }
}

pub(super) fn is_set(bits: &[u64], place: usize) -> bool {
    bits[place / 64] >> (place % 64) & 1 == 1
}

/// What is damaged is as good as missing.
fn readable<T>(read: Result<Option<T>, OdbError>) -> Result<Option<T>, RepackError> {
    match read {
        Err(OdbError::Corrupt { .. } | OdbError::LooseDamaged { .. } | OdbError::TooLarge { .. }) => Ok(None),
        other => Ok(other?),
    }
}

/// What all refs and HEAD point to, whether it is there or not. `None` when one of them is broken: nobody knows then what it was.
pub(super) fn tips(repo: &Repository) -> Result<Option<Vec<ObjectId>>, RepackError> {
    let query = RefQuery::default();
    let listed = repo.ref_store().at_once(&query)?.list(None)?;
    let mut tips: Vec<ObjectId> = listed.refs.into_iter().map(|one| one.id).collect();
    match repo.head(None)? {
        Head::Missing => return Ok(None),
        Head::Detached(id) => tips.push(id),
        Head::Symbolic { .. } => {}
    }
    tips.sort_unstable();
    tips.dedup();
    Ok(listed.complete.then_some(tips))
}

/// Hands over everything that may be the id of an object in the files of a repository beside its refs: reflogs, the indices and HEADs of all worktrees, what git is in
/// the middle of; only what was fetched last counts for nothing, as for git. Which file means what is not asked: an id that is there by chance keeps an object a little longer.
pub(super) fn mentioned(
    common_dir: &Path,
    hex_len: usize,
    found: &mut dyn FnMut(ObjectId),
    raw: &mut dyn FnMut(&oid),
    stop: &AtomicBool,
) -> Result<(), RepackError> {
    let mut todo = vec![(common_dir.to_owned(), 0)];
    while let Some((dir, depth)) = todo.pop() {
        check(stop)?;
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(err) if err.kind() == io::ErrorKind::NotFound => continue,
            Err(err) => return Err(RepackError::io("list", dir)(err)),
        };
        for entry in entries {
            let entry = entry.map_err(RepackError::io("list", &dir))?;
            let Ok(kind) = entry.file_type() else { continue };
            let (path, name) = (entry.path(), entry.file_name());
            if kind.is_dir() {
                if depth < DEEPEST && (depth > 0 || !NOT_LOOKED_INTO.iter().any(|skipped| *skipped == name)) {
                    todo.push((path, depth + 1));
                }
            } else if kind.is_file() && name != "FETCH_HEAD" && !(depth == 0 && name == "packed-refs") {
                match in_file(&path, hex_len, found, raw) {
                    Err(err) if err.kind() != io::ErrorKind::NotFound => {
                        return Err(RepackError::io("read", path)(err));
                    }
                    _ => {}
                }
            }
        }
    }
    Ok(())
}

fn in_file(path: &Path, hex_len: usize, found: &mut dyn FnMut(ObjectId), raw: &mut dyn FnMut(&oid)) -> io::Result<()> {
    let mut file = File::open(path)?;
    let mut buffer = vec![0; 64 << 10];
    let mut run: Vec<u8> = Vec::with_capacity(hex_len);
    let (mut len, mut first) = (0, true);
    let mut end = |run: &mut Vec<u8>, len: &mut usize| {
        if *len == hex_len
            && let Ok(id) = ObjectId::from_hex(run)
        {
            found(id);
        }
        run.clear();
        *len = 0;
    };
    loop {
        let got = file.read(&mut buffer)?;
        if got == 0 {
            break;
        }
        if std::mem::take(&mut first) && buffer[..got].starts_with(b"DIRC") {
            return in_index(path, hex_len / 2, raw);
        }
        for byte in &buffer[..got] {
            if byte.is_ascii_hexdigit() {
                if len < hex_len {
                    run.push(*byte);
                }
                len += 1;
            } else {
                end(&mut run, &mut len);
            }
        }
    }
    end(&mut run, &mut len);
    Ok(())
}

/// An index of git has ids in its entries and in its extensions, whatever its version: every window of the right length is asked about.
fn in_index(path: &Path, len: usize, raw: &mut dyn FnMut(&oid)) -> io::Result<()> {
    let map = Mmap::open(path)?;
    for window in map.windows(len) {
        raw(oid::from_bytes_unchecked(window));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_found_wherever_they_are_written() {
        let dir = tempfile::tempdir().expect("a directory");
        let write = |name: &str, bytes: &[u8]| {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().expect("below")).expect("made");
            fs::write(path, bytes).expect("written");
        };
        let id = |n: char| n.to_string().repeat(40);
        write("HEAD", id('1').as_bytes());
        write("logs/HEAD", format!("{} {} who\n", id('2'), id('3')).as_bytes());
        write("worktrees/w/rebase-merge/onto", format!("{}\n", id('4')).as_bytes());
        write("too-long", format!("{}0", id('5')).as_bytes());
        write("FETCH_HEAD", id('9').as_bytes());
        write("objects/x", id('6').as_bytes());
        write("refs/heads/main", id('7').as_bytes());
        write(
            "far",
            [vec![b'.'; (64 << 10) - 7], id('8').into_bytes()].concat().as_slice(),
        );
        write("worktrees/w/index", &[b"DIRC..".as_slice(), &[0xab; 20]].concat());
        let (mut found, mut is_there) = (Vec::new(), false);
        let wanted = ObjectId::from_bytes_or_panic(&[0xab; 20]);
        mentioned(
            dir.path(),
            40,
            &mut |id| found.push(id.to_string()),
            &mut |id| is_there |= *id == *wanted,
            &AtomicBool::new(false),
        )
        .expect("read");
        found.sort();
        assert_eq!(found, ['1', '2', '3', '4', '7', '8'].map(id));
        assert!(is_there);
    }
}
