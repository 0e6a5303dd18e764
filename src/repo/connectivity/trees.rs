use gix::{hash::ObjectId, objs::Kind};

use super::{ConnectivityError, Input, Source};
use crate::repo::ingest::ids::IdMap;

/// Enters trees, each one once.
pub(super) struct Trees<'w, 'i, S> {
    input: &'w Input<'i, S>,
    /// Trees that were entered, with what is bad below them.
    seen: IdMap<Option<ObjectId>>,
    /// Every object is looked at, and what is bad is remembered for each tree.
    thorough: bool,
}

/// A tree that is being read.
struct Frame {
    id: ObjectId,
    data: Vec<u8>,
    at: usize,
    /// Trees of the parents at the same path, complete ones, and how far they were read.
    beside: Vec<(Vec<u8>, usize)>,
    bad: Option<ObjectId>,
}

struct Entry<'a> {
    name: &'a [u8],
    id: ObjectId,
    mode: Mode,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Tree,
    Module,
    Blob,
}

impl<'w, 'i, S: Source> Trees<'w, 'i, S> {
    pub(super) fn new(input: &'w Input<'i, S>, thorough: bool) -> Self {
        Trees {
            input,
            seen: IdMap::default(),
            thorough,
        }
    }

    /// Enters the tree `root`, but not what it shares with `beside`, trees that are complete or are checked elsewhere. Returns an object that is missing.
    pub(super) fn enter(
        &mut self,
        root: &ObjectId,
        beside: &[ObjectId],
    ) -> Result<Option<ObjectId>, ConnectivityError> {
        if beside.contains(root) {
            return Ok(None);
        }
        if let Some(known) = self.seen.get(root) {
            return Ok(*known);
        }
        let mut stack = Vec::new();
        if !self.push(&mut stack, *root, beside)? {
            return Ok(Some(*root));
        }
        while let Some(frame) = stack.last_mut() {
            if frame.at == frame.data.len() {
                let (id, bad) = (frame.id, frame.bad);
                self.seen.insert(id, bad);
                stack.pop();
                match stack.last_mut() {
                    Some(above) => above.bad = above.bad.or(bad),
                    None => return Ok(bad),
                }
                continue;
            }
            let tree = frame.id;
            let raw = self.input.source.hash_kind().len_in_bytes();
            let Some((entry, next)) = parse(&frame.data, frame.at, raw) else {
                // Not a tree. Whatever it should name is not known to be here.
                frame.bad.get_or_insert(tree);
                frame.at = frame.data.len();
                if !self.thorough {
                    return Ok(Some(tree));
                }
                continue;
            };
            let known = match entry.mode {
                Mode::Module => Some(None),
                Mode::Tree => self.seen.get(&entry.id).copied(),
                Mode::Blob => None,
            };
            let mut same = false;
            let mut below = Vec::new();
            if known.is_none() {
                for (data, at) in &mut frame.beside {
                    if let Some(other) = find(data, at, &entry, raw) {
                        same |= other.id == entry.id && other.mode == entry.mode;
                        if other.mode == Mode::Tree {
                            below.push(other.id);
                        }
                    }
                }
            }
            let (id, mode) = (entry.id, entry.mode);
            frame.at = next;
            let bad = match known {
                Some(known) => known,
                None if same => None,
                None if mode == Mode::Blob => (!self.has_blob(&id)?).then_some(id),
                None => {
                    let cyclic = stack.iter().any(|frame| frame.id == id);
                    if !cyclic && stack.len() <= self.input.source.tree_depth() && self.push(&mut stack, id, &below)? {
                        continue;
                    }
                    Some(id)
                }
            };
            if let Some(bad) = bad {
                if !self.thorough {
                    return Ok(Some(bad));
                }
                if let Some(frame) = stack.last_mut() {
                    frame.bad.get_or_insert(bad);
                }
            }
        }
        Ok(None)
    }

    fn push(&mut self, stack: &mut Vec<Frame>, id: ObjectId, beside: &[ObjectId]) -> Result<bool, ConnectivityError> {
        self.input.check_stop()?;
        let mut data = Vec::new();
        if self.input.source.read(&id, &mut data)? != Some(Kind::Tree) {
            self.seen.insert(id, Some(id));
            return Ok(false);
        }
        let mut others = Vec::with_capacity(beside.len());
        for other in beside {
            let mut data = Vec::new();
            if self.input.source.read(other, &mut data)? == Some(Kind::Tree) {
                others.push((data, 0));
            }
        }
        stack.push(Frame {
            id,
            data,
            at: 0,
            beside: others,
            bad: None,
        });
        Ok(true)
    }

    fn has_blob(&self, id: &ObjectId) -> Result<bool, ConnectivityError> {
        if let Some(received) = self.input.received
            && let Some(kind) = received(id)
        {
            return Ok(kind == Kind::Blob);
        }
        Ok(self.input.source.contains(id)?)
    }
}

fn parse(data: &[u8], at: usize, raw: usize) -> Option<(Entry<'_>, usize)> {
    let rest = &data[at..];
    let space = rest.iter().take(8).position(|b| *b == b' ')?;
    let mut mode = 0u32;
    for byte in &rest[..space] {
        mode = (mode << 3) | u32::from(byte.checked_sub(b'0').filter(|digit| *digit < 8)?);
    }
    let name = &rest[space + 1..];
    let nul = name.iter().position(|b| *b == 0)?;
    let id = name.get(nul + 1..nul + 1 + raw)?;
    let entry = Entry {
        name: &name[..nul],
        id: ObjectId::from_bytes_or_panic(id),
        mode: match mode & 0o170000 {
            0o040000 => Mode::Tree,
            0o160000 => Mode::Module,
            _ => Mode::Blob,
        },
    };
    Some((entry, at + space + 1 + nul + 1 + raw))
}

/// The entry of the same name in a tree that is read along. In trees that are not sorted entries are overlooked, which costs time and nothing else.
fn find<'d>(data: &'d [u8], at: &mut usize, wanted: &Entry<'_>, raw: usize) -> Option<Entry<'d>> {
    while *at < data.len() {
        let Some((entry, next)) = parse(data, *at, raw) else {
            *at = data.len();
            return None;
        };
        match key(&entry).cmp(key(wanted)) {
            std::cmp::Ordering::Less => *at = next,
            std::cmp::Ordering::Equal => {
                *at = next;
                return Some(entry);
            }
            std::cmp::Ordering::Greater => return None,
        }
    }
    None
}

/// Entries are sorted as if the names of trees ended in a slash.
fn key<'e>(entry: &'e Entry<'_>) -> impl Iterator<Item = u8> + 'e {
    let slash = (entry.mode == Mode::Tree).then_some(b'/');
    entry.name.iter().copied().chain(slash)
}
