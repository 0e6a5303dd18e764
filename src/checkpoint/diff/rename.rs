//! Which of the files that came are files that went.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
};

use bstr::{BStr, BString, ByteSlice};
use gix::{
    hash::ObjectId,
    objs::{Kind, tree::EntryKind},
};

use super::{
    changes::{ChangeKind, FileChange, class},
    is_binary,
};
use crate::{checkpoint::ReadError, repo::Odb};

/// A score of equal content.
const WHOLE: u64 = 60_000;
/// Files above this many bytes are not compared.
const FILE_BYTES: u64 = 8 << 20;
/// Bytes of files that are read for one comparison.
const READ_BYTES: u64 = 256 << 20;
/// Pieces of files that are compared with one another.
const STEPS: u64 = 400_000_000;
/// Best candidates that are kept for each file that came.
const CANDIDATES: usize = 4;
/// Bytes of a piece of a line.
const PIECE: usize = 64;

/// Joins files that went and files that came into renamed ones. Says whether some comparisons were left out because there would have been too many.
pub(super) fn detect(
    odb: &Odb,
    files: &mut Vec<FileChange>,
    least_percent: u8,
    pairs: usize,
) -> Result<bool, ReadError> {
    let of_kind = |kind: ChangeKind| -> Vec<usize> { (0..files.len()).filter(|&n| files[n].kind == kind).collect() };
    let (gone, come) = (of_kind(ChangeKind::Deleted), of_kind(ChangeKind::Added));
    if gone.is_empty() || come.is_empty() {
        return Ok(false);
    }
    let mut search = Search {
        odb,
        files,
        gone,
        come,
        least: u64::from(least_percent) * WHOLE / 100,
        matched: BTreeMap::new(),
        prints: HashMap::new(),
        read: 0,
        steps: 0,
    };
    search.equal_content();
    let mut skipped = false;
    if least_percent < 100 {
        search.equal_names()?;
        skipped = search.by_likeness(pairs)?;
    }
    let matched = search.matched;
    join(files, &matched);
    Ok(skipped)
}

/// Replaces each pair by one renamed file, where the file that came was.
fn join(files: &mut Vec<FileChange>, matched: &BTreeMap<usize, (usize, u64)>) {
    for (&new, &(old, score)) in matched {
        let (path, from) = (std::mem::take(&mut files[old].path), files[old].from);
        files[new].kind = ChangeKind::Renamed {
            similarity: (score * 100 / WHOLE) as u8,
        };
        files[new].old_path = Some(path);
        files[new].from = from;
    }
    let mut gone: Vec<usize> = matched.values().map(|(old, _)| *old).collect();
    gone.sort_unstable();
    let mut at = 0;
    files.retain(|_| {
        at += 1;
        gone.binary_search(&(at - 1)).is_err()
    });
}

/// Pieces of a file: their hashes in order, and the bytes of all pieces of that hash.
struct Print {
    size: u64,
    pieces: Vec<(u64, u32)>,
}

struct Search<'a> {
    odb: &'a Odb,
    files: &'a [FileChange],
    gone: Vec<usize>,
    come: Vec<usize>,
    least: u64,
    /// The file that came, the one that it was, and their score.
    matched: BTreeMap<usize, (usize, u64)>,
    prints: HashMap<ObjectId, Option<Print>>,
    read: u64,
    steps: u64,
}

fn name_of(path: &BString) -> &BStr {
    path.rsplit_once_str("/")
        .map_or(path.as_bstr(), |(_, name)| name.as_bstr())
}

impl Search<'_> {
    fn was(&self, n: usize) -> Option<(EntryKind, ObjectId)> {
        self.files[n].from
    }

    fn is(&self, n: usize) -> Option<(EntryKind, ObjectId)> {
        self.files[n].to
    }

    fn take(&mut self, old: usize, new: usize, score: u64) {
        self.gone.retain(|&n| n != old);
        self.come.retain(|&n| n != new);
        self.matched.insert(new, (old, score));
    }

    fn equal_content(&mut self) {
        let mut by_id: HashMap<ObjectId, Vec<usize>> = HashMap::new();
        for &n in &self.gone {
            if let Some((_, id)) = self.was(n) {
                by_id.entry(id).or_default().push(n);
            }
        }
        let mut found = Vec::new();
        for &new in &self.come {
            let Some((kind, id)) = self.is(new) else { continue };
            let Some(olds) = by_id.get_mut(&id) else { continue };
            let fits = |old: usize| self.was(old).is_some_and(|(was, _)| class(was) == class(kind));
            let name = name_of(&self.files[new].path);
            let best = olds
                .iter()
                .position(|&old| fits(old) && name_of(&self.files[old].path) == name)
                .or_else(|| olds.iter().position(|&old| fits(old)));
            if let Some(best) = best {
                found.push((olds.remove(best), new));
            }
        }
        let (mut olds, mut news): (Vec<_>, Vec<_>) = found.iter().copied().unzip();
        olds.sort_unstable();
        news.sort_unstable();
        self.gone.retain(|n| olds.binary_search(n).is_err());
        self.come.retain(|n| news.binary_search(n).is_err());
        self.matched
            .extend(found.into_iter().map(|(old, new)| (new, (old, WHOLE))));
    }

    /// A file name that only one file had and only one file has is most often the same file.
    fn equal_names(&mut self) -> Result<(), ReadError> {
        let unique = |numbers: &[usize]| {
            let mut names: HashMap<BString, Option<usize>> = HashMap::new();
            for &n in numbers {
                names
                    .entry(name_of(&self.files[n].path).to_owned())
                    .and_modify(|known| *known = None)
                    .or_insert(Some(n));
            }
            names
        };
        let (olds, news) = (unique(&self.gone), unique(&self.come));
        let pairs: BTreeMap<usize, usize> = news
            .iter()
            .filter_map(|(name, new)| Some(((*new)?, (*olds.get(name)?)?)))
            .collect();
        let least = self.least + (WHOLE - self.least) / 2;
        for (new, old) in pairs {
            let score = self.score(old, new, least)?;
            if score >= least {
                self.take(old, new, score);
            }
        }
        Ok(())
    }

    fn by_likeness(&mut self, most: usize) -> Result<bool, ReadError> {
        let is_file =
            |entry: Option<(EntryKind, ObjectId)>| entry.is_some_and(|(kind, _)| class(kind) == EntryKind::Blob);
        let gone: Vec<usize> = self.gone.iter().copied().filter(|&n| is_file(self.was(n))).collect();
        let come: Vec<usize> = self.come.iter().copied().filter(|&n| is_file(self.is(n))).collect();
        if gone.len().saturating_mul(come.len()) > most {
            return Ok(true);
        }
        // Score, whether the names are equal, the file that went and the one that came.
        let mut all: Vec<(u64, bool, usize, usize)> = Vec::new();
        for &new in &come {
            let mut best = Vec::new();
            for &old in &gone {
                let score = self.score(old, new, self.least)?;
                if score >= self.least && score > 0 {
                    let named = name_of(&self.files[old].path) == name_of(&self.files[new].path);
                    best.push((score, named, old, new));
                }
            }
            best.sort_by_key(|pair| Reverse((pair.0, pair.1)));
            best.truncate(CANDIDATES);
            all.extend(best);
        }
        all.sort_by_key(|pair| Reverse((pair.0, pair.1)));
        let mut used = std::collections::HashSet::new();
        for (score, _, old, new) in all {
            if !self.matched.contains_key(&new) && used.insert(old) {
                self.matched.insert(new, (old, score));
            }
        }
        Ok(self.steps >= STEPS || self.read >= READ_BYTES)
    }

    /// How much of the larger file is in both, of [`WHOLE`]; 0 when that is surely less than `least`, or when the files are not compared.
    fn score(&mut self, old: usize, new: usize, least: u64) -> Result<u64, ReadError> {
        let (Some((was, from)), Some((is, to))) = (self.was(old), self.is(new)) else {
            return Ok(0);
        };
        if class(was) != EntryKind::Blob || class(is) != EntryKind::Blob {
            return Ok(0);
        }
        self.print(from)?;
        self.print(to)?;
        let (Some(Some(a)), Some(Some(b))) = (self.prints.get(&from), self.prints.get(&to)) else {
            return Ok(0);
        };
        let (small, large) = (a.size.min(b.size), a.size.max(b.size));
        if large == 0 || small * WHOLE < least * large || self.steps >= STEPS {
            return Ok(0);
        }
        self.steps += (a.pieces.len() + b.pieces.len()) as u64;
        Ok(common(&a.pieces, &b.pieces) * WHOLE / large)
    }

    fn print(&mut self, id: ObjectId) -> Result<(), ReadError> {
        if self.prints.contains_key(&id) {
            return Ok(());
        }
        let (kind, size) = self.odb.header(&id)?.ok_or(ReadError::Missing { id })?;
        let mut print = None;
        if kind == Kind::Blob && size <= FILE_BYTES && self.read < READ_BYTES {
            self.read += size;
            let mut data = Vec::new();
            self.odb.read(&id, &mut data)?.ok_or(ReadError::Missing { id })?;
            print = Some(Print {
                size,
                pieces: pieces(&data),
            });
        }
        self.prints.insert(id, print);
        Ok(())
    }
}

/// Cuts a file at line ends and after 64 bytes. In text, a carriage return before a line end does not count.
fn pieces(data: &[u8]) -> Vec<(u64, u32)> {
    let text = !is_binary(data);
    let mut all = Vec::with_capacity(data.len() / 32 + 1);
    let (mut hash, mut bytes) = (SEED, 0u32);
    for (at, &byte) in data.iter().enumerate() {
        if text && byte == b'\r' && data.get(at + 1) == Some(&b'\n') {
            continue;
        }
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        bytes += 1;
        if byte == b'\n' || bytes as usize == PIECE {
            all.push((hash, bytes));
            (hash, bytes) = (SEED, 0);
        }
    }
    if bytes > 0 {
        all.push((hash, bytes));
    }
    all.sort_unstable();
    all.dedup_by(|next, kept| {
        let same = next.0 == kept.0;
        if same {
            kept.1 += next.1;
        }
        same
    });
    all
}

const SEED: u64 = 0xcbf2_9ce4_8422_2325;

/// Bytes of pieces that both have.
fn common(a: &[(u64, u32)], b: &[(u64, u32)]) -> u64 {
    let (mut x, mut y, mut bytes) = (0, 0, 0);
    while let (Some(left), Some(right)) = (a.get(x), b.get(y)) {
        match left.0.cmp(&right.0) {
            std::cmp::Ordering::Less => x += 1,
            std::cmp::Ordering::Greater => y += 1,
            std::cmp::Ordering::Equal => {
                bytes += u64::from(left.1.min(right.1));
                (x, y) = (x + 1, y + 1);
            }
        }
    }
    bytes
}
