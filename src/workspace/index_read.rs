//! git's index file (gitformat-index(5)), versions 2 to 4, read in one pass into directories; a large one from both ends of its middle.

use bstr::{BString, ByteSlice};
use gix::{
    hash::{Kind as HashKind, ObjectId},
    objs::tree::EntryKind,
};

use super::{
    scan::DEPTH,
    tracked::{Dir, FileStat, Name, Node, Tracked, TrackedFile},
};

/// No path of a file that the system would open is longer.
const MAX_PATH: usize = 4096;
/// Files that are not sure and known by name, in each half.
const MOST_UNSURE: usize = 5_000;
/// Entries that are worth a second thread.
const WORTH_A_THREAD: u32 = 8_000;
/// The words of an entry before its object: two times, device, inode, mode, user, group, size.
const WORDS: usize = 40;

/// What an index says.
#[derive(Debug, Default)]
pub(super) struct Parsed {
    pub(super) tracked: Tracked,
    /// Every `.gitattributes` in it.
    pub(super) attributes: Vec<BString>,
}

/// Why bytes are no index that we read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unread {
    /// They are none.
    Damaged(String),
    /// A kind of index that is not read.
    Unsupported(&'static str),
    /// Only a part of one: the rest is in another file.
    Split,
}

fn damaged<T>(why: &str) -> Result<T, Unread> {
    Err(Unread::Damaged(why.to_owned()))
}

/// Reads the bytes of an index that was written in the second `written`.
pub(super) fn parse(bytes: &[u8], hash: HashKind, written: u32, threads: usize) -> Result<Parsed, Unread> {
    let Some(end) = bytes.len().checked_sub(hash.len_in_bytes()).filter(|end| *end >= 12) else {
        return damaged("it is cut short");
    };
    if &bytes[..4] != b"DIRC" {
        return damaged("it does not begin as one");
    }
    let (version, count) = (word(bytes, 4), word(bytes, 8));
    if !(2..=4).contains(&version) {
        return Err(Unread::Unsupported("has a version that is not known"));
    }
    let bytes = &bytes[..end];
    if u64::from(count) * (WORDS + hash.len_in_bytes()) as u64 > bytes.len() as u64 {
        return damaged("it is cut short");
    }
    let first = Cursor {
        bytes,
        at: 12,
        version,
        id: hash.len_in_bytes(),
        path: Vec::new(),
    };
    let halves = match threads > 1 && count > WORTH_A_THREAD {
        true => first.clone().middle(count)?,
        false => None,
    };
    let (mut part, at) = match halves {
        None => Part::read(first, count, written)?,
        Some((half, second)) => std::thread::scope(|scope| {
            let rest = std::thread::Builder::new()
                .name("gitstead-index".into())
                .spawn_scoped(scope, || Part::read(second.clone(), count - half, written));
            let (mut part, _) = Part::read(first, half, written)?;
            let (other, at) = match rest {
                Ok(rest) => match rest.join() {
                    Ok(other) => other?,
                    Err(panic) => std::panic::resume_unwind(panic),
                },
                Err(_) => Part::read(second.clone(), count - half, written)?,
            };
            part.append(other)?;
            Ok((part, at))
        })?,
    };
    let mut rest = &bytes[at..];
    while !rest.is_empty() {
        let Some((head, after)) = rest.split_at_checked(8) else {
            return damaged("an extension is cut short");
        };
        let Some((body, after)) = after.split_at_checked(word(head, 4) as usize) else {
            return damaged("an extension is cut short");
        };
        match &head[..4] {
            b"TREE" => {
                // What is not understood of it is not known.
                let _ = trust(&mut part.root, body, hash, DEPTH);
            }
            b"link" => return Err(Unread::Split),
            b"sdir" => return Err(Unread::Unsupported("is a sparse one")),
            // Others may be passed over if their names begin with a capital.
            name if name[0].is_ascii_uppercase() => {}
            _ => return Err(Unread::Unsupported("has an extension that is not known")),
        }
        rest = after;
    }
    Ok(Parsed {
        tracked: Tracked::of_index(part.root, part.files, version).with_known(part.has_more_flags, part.unsure),
        attributes: part.attributes,
    })
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes
        .get(at..at + 4)
        .and_then(|word| word.try_into().ok())
        .map_or(0, u32::from_be_bytes)
}

/// Where in the entries one is, and the path of the last one.
#[derive(Clone)]
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    version: u32,
    /// Bytes of an id.
    id: usize,
    path: Vec<u8>,
}

/// An entry but for its path.
struct Entry<'a> {
    words: &'a [u8],
    id: &'a [u8],
    flags: u16,
    more: u16,
    /// Bytes that its path has in common with the last one, and whether it is the same path.
    common: usize,
    same: bool,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], Unread> {
        match self.bytes.get(self.at..).and_then(|rest| rest.get(..len)) {
            Some(part) => {
                self.at += len;
                Ok(part)
            }
            None => damaged("an entry is cut short"),
        }
    }

    fn short(&mut self) -> Result<u16, Unread> {
        let part = self.take(2)?;
        Ok(u16::from_be_bytes([part[0], part[1]]))
    }

    /// Bytes up to a NUL, which is taken too.
    fn text(&mut self) -> Result<&'a [u8], Unread> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        match rest[..rest.len().min(MAX_PATH + 1)].find_byte(0) {
            Some(len) => {
                self.at += len + 1;
                Ok(&rest[..len])
            }
            None => damaged("a path is too long"),
        }
    }

    fn next(&mut self) -> Result<Entry<'a>, Unread> {
        let start = self.at;
        let words = self.take(WORDS)?;
        let id = self.take(self.id)?;
        let flags = self.short()?;
        let more = match flags & 0x4000 != 0 {
            true if self.version == 2 => return damaged("an entry has flags that its version does not have"),
            true => self.short()?,
            false => 0,
        };
        let (kept, rest) = if self.version == 4 {
            let kept = self.path.len().checked_sub(self.varint()?);
            let Some(kept) = kept else {
                return damaged("a path is cut off more than there is");
            };
            (kept, self.text()?)
        } else {
            let name = match usize::from(flags & 0xfff) {
                0xfff => self.text()?,
                len => {
                    let name = self.take(len)?;
                    if self.take(1)? != [0] {
                        return damaged("a path has another length than it says");
                    }
                    name
                }
            };
            // Entries are multiples of 8 bytes.
            let padded = start + (self.at - 1 - start) / 8 * 8 + 8;
            self.take(padded.saturating_sub(self.at))?;
            (0, name)
        };
        if rest.find_byte(0).is_some() {
            return damaged("a path has a NUL in it");
        }
        let common = kept + common(&self.path[kept..], rest);
        let (old, new) = (&self.path[common..], &rest[common - kept..]);
        if old > new {
            return damaged("its entries are not in order");
        }
        let same = old.is_empty() && new.is_empty();
        self.path.truncate(common);
        self.path.extend_from_slice(new);
        if self.path.len() > MAX_PATH || self.path.is_empty() {
            return damaged("a path is too long");
        }
        Ok(Entry {
            words,
            id,
            flags,
            more,
            common,
            same,
        })
    }

    /// Passes over an entry. What is wrong with it is found by who reads it.
    fn hop(&mut self) -> Result<(), Unread> {
        let head = WORDS + self.id + 2;
        let flags = self.bytes.get(self.at + head - 2..self.at + head).unwrap_or_default();
        let flags = flags.try_into().map_or(0, u16::from_be_bytes);
        if self.version == 4 {
            self.take(head + if flags & 0x4000 == 0 { 0 } else { 2 })?;
            let kept = self.path.len().saturating_sub(self.varint()?);
            let rest = self.text()?;
            self.path.truncate(kept);
            self.path.extend_from_slice(rest);
            return Ok(());
        }
        if flags & 0xfff == 0xfff {
            self.path.clear();
            return self.next().map(|_| ());
        }
        let len = head + if flags & 0x4000 == 0 { 0 } else { 2 } + usize::from(flags & 0xfff);
        self.take(len / 8 * 8 + 8).map(|_| ())
    }

    /// How many bytes of the last path are not part of the next: as distances in packs are written.
    fn varint(&mut self) -> Result<usize, Unread> {
        let mut value = 0usize;
        for n in 0..4 {
            let byte = self.take(1)?[0];
            value = (value + usize::from(n > 0)) << 7 | usize::from(byte & 0x7f);
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        damaged("a path is cut off more than there is")
    }

    /// The number of entries before the middle, and the place; `None` where there is none between two paths.
    fn middle(mut self, count: u32) -> Result<Option<(u32, Self)>, Unread> {
        let half = count / 2;
        for _ in 0..half {
            self.hop()?;
        }
        if self.version != 4 {
            // Nobody has looked at it.
            self.path.clear();
        }
        for n in half..count {
            let before = (n > half).then(|| self.clone());
            let entry = self.next()?;
            if let Some(before) = before
                && !entry.same
            {
                return Ok(Some((n, before)));
            }
        }
        Ok(None)
    }
}

/// How many bytes two paths have in common at their beginning.
fn common(a: &[u8], b: &[u8]) -> usize {
    let mut at = 0;
    for (a, b) in a.chunks_exact(8).zip(b.chunks_exact(8)) {
        if a != b {
            break;
        }
        at += 8;
    }
    at + a[at..].iter().zip(&b[at..]).take_while(|(a, b)| a == b).count()
}

/// What some of the entries make.
#[derive(Default)]
struct Part {
    root: Dir,
    files: usize,
    attributes: Vec<BString>,
    /// Files that are not as sure as the others.
    unsure: Vec<BString>,
    has_more_flags: bool,
}

/// A directory that more may come to: where its name ends in the path, slash included, and what is in it.
type Open = (usize, Vec<(Name, Node)>);

impl Part {
    /// Reads `count` entries. Says where they end.
    fn read(mut cursor: Cursor<'_>, count: u32, written: u32) -> Result<(Self, usize), Unread> {
        let mut part = Part::default();
        let mut open: Vec<Open> = vec![(0, Vec::new())];
        let mut spare = Vec::new();
        // Of the directories that are open.
        let mut path: Vec<u8> = Vec::new();
        for n in 0..count {
            let entry = cursor.next()?;
            let conflicted = entry.flags & 0x3000 != 0;
            if entry.same && n > 0 {
                match conflicted {
                    true => continue,
                    false => return damaged("a path is in it twice"),
                }
            }
            while let Some((end, _)) = open.last()
                && *end > entry.common
            {
                close(&mut open, &path, &mut spare)?;
            }
            let mut end = open.last().map_or(0, |(end, _)| *end);
            path.truncate(end);
            while let Some(slash) = cursor.path[end..].find_byte(b'/') {
                is_name(&cursor.path[end..end + slash])?;
                path.extend_from_slice(&cursor.path[end..=end + slash]);
                end += slash + 1;
                open.push((end, spare.pop().unwrap_or_default()));
                if open.len() > DEPTH + 1 {
                    return Err(Unread::Unsupported("has too many directories in one another"));
                }
            }
            let name = &cursor.path[end..];
            is_name(name)?;
            if name == b".gitattributes" {
                part.attributes.push(cursor.path.as_slice().into());
            }
            let file = file(&entry, written)?;
            // With very many of them nobody asks for their names.
            if file.has(TrackedFile::UNSURE) && part.unsure.len() < MOST_UNSURE {
                part.unsure.push(cursor.path.as_slice().into());
            }
            part.has_more_flags |= file.has(TrackedFile::MORE);
            if let Some((_, nodes)) = open.last_mut() {
                nodes.push((Name::from(name), Node::File(file)));
            }
            part.files += 1;
        }
        while open.len() > 1 {
            close(&mut open, &path, &mut spare)?;
        }
        if let Some((_, nodes)) = open.pop() {
            part.root = dir(nodes)?;
        }
        Ok((part, cursor.at))
    }

    /// Takes in what comes after it.
    fn append(&mut self, mut other: Part) -> Result<(), Unread> {
        self.files += other.files;
        self.attributes.append(&mut other.attributes);
        self.unsure.append(&mut other.unsure);
        self.has_more_flags |= other.has_more_flags;
        merge(&mut self.root, other.root)
    }
}

/// Of two directories, of which the entries of one come after those of the other, only one directory can be in both.
fn merge(left: &mut Dir, right: Dir) -> Result<(), Unread> {
    let mut nodes = left.take_nodes();
    for (name, node) in right.into_nodes() {
        let twin = nodes.iter_mut().rev().find_map(|(known, node)| match node {
            Node::Dir(dir) if *known == name => Some(dir),
            _ => None,
        });
        match (twin, node) {
            (Some(twin), Node::Dir(below)) => merge(twin, *below)?,
            (_, node) => nodes.push((name, node)),
        }
    }
    *left = dir(nodes)?;
    Ok(())
}

/// Nothing more comes to the last of the directories that are open.
fn close(open: &mut Vec<Open>, path: &[u8], spare: &mut Vec<Vec<(Name, Node)>>) -> Result<(), Unread> {
    if let (Some((end, mut nodes)), Some((start, above))) = (open.pop(), open.last_mut()) {
        let name = path.get(*start..end.saturating_sub(1)).unwrap_or_default();
        // As much room as they need, and the room in which they were gathered for the next.
        #[allow(clippy::drain_collect, reason = "the room is used again")]
        let exact = nodes.drain(..).collect();
        above.push((Name::from(name), Node::Dir(Box::new(dir(exact)?))));
        spare.push(nodes);
    }
    Ok(())
}

fn dir(nodes: Vec<(Name, Node)>) -> Result<Dir, Unread> {
    let dir = Dir::of(nodes);
    match dir.nodes().windows(2).any(|pair| pair[0].0 == pair[1].0) {
        true => damaged("a path is a file and a directory in it"),
        false => Ok(dir),
    }
}

fn is_name(name: &[u8]) -> Result<(), Unread> {
    match name {
        b"" | b"." | b".." => damaged("a path in it is none"),
        _ => Ok(()),
    }
}

fn file(entry: &Entry<'_>, written: u32) -> Result<TrackedFile, Unread> {
    let at = |n: usize| word(entry.words, n * 4);
    let mode = at(6);
    let kind = match (mode & 0o170_000, mode & 0o100) {
        (0o100_000, 0) => EntryKind::Blob,
        (0o100_000, _) => EntryKind::BlobExecutable,
        (0o120_000, _) => EntryKind::Link,
        (0o160_000, _) => EntryKind::Commit,
        (0o040_000, _) => return Err(Unread::Unsupported("is a sparse one")),
        _ => return damaged("a file has a mode that is none"),
    };
    let conflicted = entry.flags & 0x3000 != 0;
    let mut flags = 0;
    for (theirs, ours) in [
        (entry.flags & 0x8000, TrackedFile::ASSUME_VALID),
        (entry.more & 0x4000, TrackedFile::SKIP_WORKTREE),
        (entry.more & 0x2000, TrackedFile::INTENT),
    ] {
        if theirs != 0 {
            flags |= ours;
        }
    }
    let mut stat = FileStat {
        ctime: (at(0), at(1)),
        mtime: (at(2), at(3)),
        dev: at(4),
        ino: at(5),
        uid: at(7),
        gid: at(8),
        size: at(9),
    };
    if stat.mtime.0 >= written || conflicted {
        flags |= TrackedFile::RACY;
    }
    if conflicted {
        stat = FileStat::default();
    }
    Ok(TrackedFile {
        id: ObjectId::try_from(entry.id).or_else(|_| damaged("an object has no id"))?,
        stat,
        kind,
        flags,
    })
}

/// Takes over what the extension TREE knows of a directory: a name, how many files are below and how many directories, and the id where it is known. Returns the rest.
fn trust<'a>(dir: &mut Dir, bytes: &'a [u8], hash: HashKind, depth: usize) -> Option<&'a [u8]> {
    // The name of the root is empty, the others' were looked at above it.
    let rest = &bytes[bytes.find_byte(0)? + 1..];
    trust_named(Some(dir), rest, hash, depth)
}

fn trust_named<'a>(dir: Option<&mut Dir>, rest: &'a [u8], hash: HashKind, depth: usize) -> Option<&'a [u8]> {
    let depth = depth.checked_sub(1)?;
    let (files, rest) = rest.split_at_checked(rest.find_byte(b' ')?)?;
    let (below, rest) = rest[1..].split_at_checked(rest[1..].find_byte(b'\n')?)?;
    let mut rest = &rest[1..];
    let below: u32 = below.to_str().ok()?.parse().ok()?;
    let mut dir = dir;
    if !files.starts_with(b"-") {
        let (id, after) = rest.split_at_checked(hash.len_in_bytes())?;
        if let Some(dir) = &mut dir {
            dir.tree = ObjectId::try_from(id).ok();
        }
        rest = after;
    }
    for _ in 0..below {
        let (name, after) = rest.split_at_checked(rest.find_byte(0)?)?;
        let known = dir.as_mut().and_then(|dir| dir.dir_mut(name));
        rest = trust_named(known, &after[1..], hash, depth)?;
    }
    Some(rest)
}
