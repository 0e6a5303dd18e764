//! `packed-refs` (git-pack-refs(1), gitrepository-layout(5)): one line `<id> <name>` for each ref, `^<id>` after an annotated tag for
//! what it peels to, and a first line `# pack-refs with: <traits>`.

use std::{
    fs::{self, File},
    io::{self, Read},
    ops::Range,
    os::unix::fs::MetadataExt,
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bstr::{BStr, BString, ByteSlice};
use gix::hash::{self, ObjectId};

use super::types::RefsError;

/// What we write at the top: sorted by name, and every tag peeled.
pub(super) const HEADER: &[u8] = b"# pack-refs with: peeled fully-peeled sorted \n";

/// For how long after its last change a file may change again without looking different.
const RACY: Duration = Duration::from_millis(50);

/// What tells one version of the file from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Signature {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl Signature {
    pub(super) fn of(metadata: &fs::Metadata) -> Self {
        Signature {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }

    /// That of the file now; `None` if there is none.
    pub(super) fn at(path: &Path) -> Result<Option<Self>, RefsError> {
        match fs::metadata(path) {
            Ok(metadata) => Ok(Some(Signature::of(&metadata))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(RefsError::Io {
                doing: "look at",
                path: path.to_owned(),
                source,
            }),
        }
    }
}

/// How much the `^` lines say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
pub(super) enum Peeling {
    /// Where there is one it is right; a tag may lack it.
    Some,
    /// Every tag beneath `refs/tags/` has one.
    Tags,
    /// Every tag has one.
    Full,
}

/// One ref in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record<'a> {
    pub(super) name: &'a BStr,
    pub(super) id: ObjectId,
    pub(super) peeled: Option<ObjectId>,
}

/// Versions of files read by this process so far.
static SERIALS: AtomicU64 = AtomicU64::new(0);

/// One version of the file, sorted.
pub(super) struct Packed {
    /// No other version that this process has read, of any repository, has the same.
    pub(super) serial: u64,
    data: Vec<u8>,
    body: usize,
    hash: hash::Kind,
    pub(super) peeling: Peeling,
    pub(super) signature: Option<Signature>,
    read_at: SystemTime,
    /// Ranges in which every name was found valid and every object found to exist.
    verified: Mutex<Vec<Range<usize>>>,
}

impl Packed {
    /// Reads the file as it is now; without one there are no packed refs.
    pub(super) fn read(path: &Path, hash: hash::Kind) -> Result<Self, RefsError> {
        let io = |source| RefsError::Io {
            doing: "read",
            path: path.to_owned(),
            source,
        };
        let read_at = SystemTime::now();
        let mut file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Packed {
                    read_at,
                    ..Packed::parse(Vec::new(), hash)?
                });
            }
            Err(error) => return Err(io(error)),
        };
        let metadata = file.metadata().map_err(io)?;
        let mut data = Vec::with_capacity(usize::try_from(metadata.size()).unwrap_or_default().saturating_add(1));
        file.read_to_end(&mut data).map_err(io)?;
        Ok(Packed {
            signature: Some(Signature::of(&metadata)),
            read_at,
            ..Packed::parse(data, hash)?
        })
    }

    /// Takes the bytes of a file.
    pub(super) fn parse(data: Vec<u8>, hash: hash::Kind) -> Result<Self, RefsError> {
        if data.last().is_some_and(|b| *b != b'\n') {
            let last = data.rsplit(|b| *b == b'\n').next().unwrap_or_default();
            return Err(unexpected(last));
        }
        let mut traits: &[u8] = b"";
        let mut body = 0;
        if data.starts_with(b"#") {
            let line = data.lines().next().unwrap_or_default();
            traits = line
                .strip_prefix(b"# pack-refs with:")
                .ok_or_else(|| unexpected(line))?;
            body = line.len() + 1;
        }
        let has = |name: &str| traits.split(|b| *b == b' ').any(|t| t == name.as_bytes());
        let (sorted, peeling) = (
            has("sorted"),
            match (has("fully-peeled"), has("peeled")) {
                (true, _) => Peeling::Full,
                (false, true) => Peeling::Tags,
                _ => Peeling::Some,
            },
        );
        let mut packed = Packed {
            serial: SERIALS.fetch_add(1, Ordering::Relaxed),
            data,
            body,
            hash,
            peeling,
            signature: None,
            read_at: UNIX_EPOCH,
            verified: Mutex::default(),
        };
        if !sorted {
            packed.sort()?;
        }
        Ok(packed)
    }

    fn sort(&mut self) -> Result<(), RefsError> {
        let mut lines = Vec::new();
        let mut at = self.body;
        while let Some((record, next)) = self.record(at)? {
            lines.push((record.name, self.data.get(at..next).unwrap_or_default()));
            at = next;
        }
        lines.sort_by(|a, b| a.0.cmp(b.0));
        // Twice the same name is nothing that git writes; its first line counts.
        lines.dedup_by(|later, first| later.0 == first.0);
        let sorted: Vec<u8> = lines.into_iter().flat_map(|(_, line)| line).copied().collect();
        self.data = sorted;
        self.body = 0;
        Ok(())
    }

    /// Whether this is still what the file holds, going by its looks; a file that changed a moment before we read it is not trusted.
    pub(super) fn is_current(&self, now: Option<Signature>) -> bool {
        if self.signature != now {
            return false;
        }
        let Some(signature) = now else { return true };
        let modified = Duration::new(
            u64::try_from(signature.modified.0).unwrap_or_default(),
            u32::try_from(signature.modified.1).unwrap_or_default(),
        );
        self.read_at
            .duration_since(UNIX_EPOCH)
            .is_ok_and(|read| read > modified + RACY)
    }

    /// The record that starts at `at`, and where the next one starts.
    fn record(&self, at: usize) -> Result<Option<(Record<'_>, usize)>, RefsError> {
        let rest = self.data.get(at..).unwrap_or_default();
        if rest.is_empty() {
            return Ok(None);
        }
        let hex_len = self.hash.len_in_hex();
        let line_end = rest.find_byte(b'\n').unwrap_or(rest.len());
        let line = rest.get(..line_end).unwrap_or_default();
        let (id, name) = line
            .split_at_checked(hex_len)
            .and_then(|(hex, tail)| Some((id(hex)?, tail.strip_prefix(b" ").filter(|name| !name.is_empty())?)))
            .ok_or_else(|| unexpected(line))?;
        let mut next = at + line_end + 1;
        let mut peeled = None;
        if let Some(tail) = self.data.get(next..).and_then(|tail| tail.strip_prefix(b"^")) {
            peeled = tail
                .get(..=hex_len)
                .and_then(id_of_line)
                .map(Some)
                .ok_or_else(|| unexpected(tail.lines().next().unwrap_or_default()))?;
            next += hex_len + 2;
        }
        Ok(Some((
            Record {
                name: name.as_bstr(),
                id,
                peeled,
            },
            next,
        )))
    }

    /// Where the first record stands whose name is not less than `name`.
    pub(super) fn position(&self, name: &[u8]) -> Result<usize, RefsError> {
        let (mut low, mut high) = (self.body, self.data.len());
        while low < high {
            let middle = low + (high - low) / 2;
            let start = self.line_start(low, middle);
            let Some((record, next)) = self.record(start)? else {
                break;
            };
            if record.name.as_bytes() < name {
                low = next;
            } else {
                high = start;
            }
        }
        Ok(low)
    }

    /// The start of the record that the byte at `at` belongs to, known to lie at or after `floor`.
    fn line_start(&self, floor: usize, at: usize) -> usize {
        let mut at = at;
        loop {
            let before = self.data.get(floor..at).unwrap_or_default();
            let start = before.rfind_byte(b'\n').map_or(floor, |newline| floor + newline + 1);
            if start > floor && self.data.get(start) == Some(&b'^') {
                at = start - 1;
                continue;
            }
            return start;
        }
    }

    /// The ref of exactly this name.
    pub(super) fn find(&self, name: &[u8]) -> Result<Option<Record<'_>>, RefsError> {
        Ok(self
            .record(self.position(name)?)?
            .map(|(record, _)| record)
            .filter(|record| record.name == name))
    }

    /// The bytes in which all names start with `prefix`.
    pub(super) fn range(&self, prefix: &[u8]) -> Result<Range<usize>, RefsError> {
        let start = self.position(prefix)?;
        let mut after = prefix.to_owned();
        while after.pop_if(|last| *last == 0xff).is_some() {}
        let end = match after.last_mut() {
            Some(last) => {
                *last += 1;
                self.position(&after)?
            }
            None => self.data.len(),
        };
        Ok(start..end)
    }

    /// The records in a range of bytes.
    pub(super) fn records(&self, range: Range<usize>) -> Records<'_> {
        Records {
            packed: self,
            at: range.start,
            end: range.end,
        }
    }

    /// The bytes of a range, in which each line is as git wrote it.
    pub(super) fn bytes(&self, range: Range<usize>) -> &[u8] {
        self.data.get(range).unwrap_or_default()
    }

    /// All records.
    pub(super) fn all(&self) -> Range<usize> {
        self.body..self.data.len()
    }

    pub(super) fn is_verified(&self, range: &Range<usize>) -> bool {
        let verified = self.verified.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        verified.iter().any(|v| v.start <= range.start && range.end <= v.end)
    }

    pub(super) fn set_verified(&self, range: Range<usize>) {
        let mut verified = self.verified.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        verified.retain(|v| v.start < range.start || range.end < v.end);
        if verified.len() >= 16 {
            verified.remove(0);
        }
        verified.push(range);
    }

    /// Says that this version, made by us, is what the file now holds.
    pub(super) fn now_on_disk(mut self, signature: Signature) -> Self {
        self.signature = Some(signature);
        self.read_at = SystemTime::now();
        self
    }
}

/// Adds one record to the bytes of a file.
pub(super) fn write_record(out: &mut Vec<u8>, name: &BStr, id: &hash::oid, peeled: Option<&hash::oid>) {
    let mut buffer = hash::Kind::hex_buf();
    out.extend_from_slice(id.hex_to_buf(&mut buffer).as_bytes());
    out.push(b' ');
    out.extend_from_slice(name);
    out.push(b'\n');
    if let Some(peeled) = peeled {
        out.push(b'^');
        out.extend_from_slice(peeled.hex_to_buf(&mut buffer).as_bytes());
        out.push(b'\n');
    }
}

pub(super) struct Records<'a> {
    packed: &'a Packed,
    at: usize,
    end: usize,
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, RefsError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.end {
            return None;
        }
        match self.packed.record(self.at) {
            Ok(Some((record, next))) => {
                self.at = next;
                Some(Ok(record))
            }
            Ok(None) => None,
            Err(error) => {
                self.at = self.end;
                Some(Err(error))
            }
        }
    }
}

fn id_of_line(line: &[u8]) -> Option<ObjectId> {
    id(line.strip_suffix(b"\n")?)
}

/// An object id in full; upper-case digits are taken as git takes them.
pub(super) fn id(hex: &[u8]) -> Option<ObjectId> {
    ObjectId::from_hex(hex).ok()
}

fn unexpected(line: &[u8]) -> RefsError {
    RefsError::PackedRefs {
        line: BString::from(line.get(..120).unwrap_or(line)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn oid(n: u8) -> ObjectId {
        ObjectId::from_bytes_or_panic(&[n; 20])
    }

    fn file(header: &str, refs: &[(String, u8, bool)]) -> Vec<u8> {
        let mut data = header.as_bytes().to_vec();
        for (name, n, peeled) in refs {
            write_record(
                &mut data,
                name.as_str().into(),
                &oid(*n),
                peeled.then(|| oid(n + 1)).as_deref(),
            );
        }
        data
    }

    proptest! {
        #[test]
        fn what_is_written_is_found(
            refs in proptest::collection::btree_map("refs/[abc/]{1,6}", (0u8..200, any::<bool>()), 0..40),
            probe in "refs/[abc/]{0,6}",
        ) {
            let list: Vec<_> = refs.iter().map(|(name, (n, peeled))| (name.clone(), *n, *peeled)).collect();
            let packed = Packed::parse(file(std::str::from_utf8(HEADER).unwrap(), &list), hash::Kind::Sha1).unwrap();
            let read: Vec<_> = packed.records(packed.all()).map(|r| r.unwrap().name.to_string()).collect();
            prop_assert_eq!(read, refs.keys().cloned().collect::<Vec<_>>());
            let found = packed.find(probe.as_bytes()).unwrap().map(|r| (r.id, r.peeled));
            prop_assert_eq!(found, refs.get(&probe).map(|(n, peeled)| (oid(*n), peeled.then(|| oid(n + 1)))));
            let beneath: Vec<_> = packed
                .records(packed.range(probe.as_bytes()).unwrap())
                .map(|r| r.unwrap().name.to_string())
                .collect();
            let expected: Vec<_> = refs.keys().filter(|name| name.starts_with(&probe)).cloned().collect();
            prop_assert_eq!(beneath, expected);
        }

        #[test]
        fn no_bytes_make_it_panic(data in proptest::collection::vec(any::<u8>(), 0..200), sorted in any::<bool>()) {
            let mut bytes = if sorted { HEADER.to_vec() } else { Vec::new() };
            bytes.extend_from_slice(&data);
            bytes.push(b'\n');
            if let Ok(packed) = Packed::parse(bytes, hash::Kind::Sha1) {
                let _ = packed.find(b"refs/heads/a");
                let _ = packed.records(packed.all()).count();
            }
        }
    }

    #[test]
    fn files_without_the_sorted_trait_are_sorted() {
        let list = [("refs/b".to_owned(), 2, true), ("refs/a".to_owned(), 1, false)];
        for (header, peeling) in [
            ("", Peeling::Some),
            ("# pack-refs with: peeled \n", Peeling::Tags),
            ("# pack-refs with: peeled fully-peeled \n", Peeling::Full),
        ] {
            let packed = Packed::parse(file(header, &list), hash::Kind::Sha1).unwrap();
            assert_eq!(packed.peeling, peeling);
            assert_eq!(packed.find(b"refs/b").unwrap().unwrap().peeled, Some(oid(3)));
            assert_eq!(packed.find(b"refs/a").unwrap().unwrap().id, oid(1));
        }
    }

    #[test]
    fn damage_is_an_error() {
        for bad in [
            "x\n",
            "# other\n",
            "0123 refs/a\n",
            "1111111111111111111111111111111111111111 refs/a",
            "1111111111111111111111111111111111111111 \n",
            "1111111111111111111111111111111111111111 refs/a\n^12\n",
            "^1111111111111111111111111111111111111111\n",
        ] {
            assert!(Packed::parse(bad.into(), hash::Kind::Sha1).is_err(), "{bad:?}");
        }
    }
}
