use std::{
    collections::HashMap,
    fs::File,
    io::{self, Cursor, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

use gix::{
    hash::{ObjectId, oid},
    objs::Kind,
};

use super::odb::OdbError;
use crate::pack::{Checksum, FormatError, StreamInflater};

const WHAT: &str = "loose object";
/// Longer than any header: a type, a space, twenty digits, a NUL.
const MAX_HEADER: usize = 32;
const BUFFER: usize = 32 * 1024;

/// Loose objects that are not in files yet: what such a file would hold, by id.
pub(crate) type HeldObjects = HashMap<ObjectId, Arc<[u8]>>;

/// Where a loose object lies below an objects directory.
pub fn loose_path(objects_dir: &Path, id: &oid) -> PathBuf {
    let hex = id.to_hex().to_string();
    let (fan, rest) = hex.split_at(2);
    let mut path = PathBuf::with_capacity(objects_dir.as_os_str().len() + hex.len() + 2);
    path.push(objects_dir);
    path.push(fan);
    path.push(rest);
    path
}

/// The id of an object of ours, to find out whether it is what it was when it came in.
pub(crate) fn object_id(hash: gix::hash::Kind, kind: Kind, data: &[u8]) -> ObjectId {
    let mut checksum = Checksum::new(hash);
    checksum.update(&gix::objs::encode::loose_header(kind, data.len() as u64));
    checksum.update(data);
    checksum.finish()
}

/// A loose object, read piece by piece: the content without its header. Kind and size are known before the first byte is read; exactly `size` bytes follow or an
/// error of kind `InvalidData`.
pub struct LooseReader {
    file: Source,
    path: PathBuf,
    inflater: StreamInflater,
    input: Box<[u8]>,
    /// What of `input` is not used yet.
    unread: std::ops::Range<usize>,
    /// Content that came out together with the header.
    head: [u8; MAX_HEADER],
    head_unread: std::ops::Range<usize>,
    kind: Kind,
    size: u64,
    remaining: u64,
    ended: bool,
}

enum Source {
    File(File),
    Held(Cursor<Arc<[u8]>>),
}

impl Read for Source {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match self {
            Source::File(file) => file.read(out),
            Source::Held(bytes) => bytes.read(out),
        }
    }
}

impl LooseReader {
    /// Opens the object file at `path`. `Ok(None)` when there is none.
    pub fn open(path: PathBuf) -> Result<Option<LooseReader>, OdbError> {
        let io = |path: &Path, source| OdbError::Io {
            doing: "read",
            path: path.to_owned(),
            source,
        };
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(err) if is_absent(&err) => return Ok(None),
            Err(err) => return Err(io(&path, err)),
        };
        let len = file.metadata().map_err(|err| io(&path, err))?.len();
        Self::of(Source::File(file), path, len).map(Some)
    }

    /// An object that is not in a file yet. `path` names it in errors.
    pub(crate) fn held(bytes: Arc<[u8]>, path: PathBuf) -> Result<LooseReader, OdbError> {
        let len = bytes.len() as u64;
        Self::of(Source::Held(Cursor::new(bytes)), path, len)
    }

    fn of(source: Source, path: PathBuf, len: u64) -> Result<LooseReader, OdbError> {
        let buffer = usize::try_from(len).unwrap_or(BUFFER).clamp(16, BUFFER);
        let mut reader = LooseReader {
            file: source,
            path,
            inflater: StreamInflater::new(),
            input: vec![0; buffer].into_boxed_slice(),
            unread: 0..0,
            head: [0; MAX_HEADER],
            head_unread: 0..0,
            kind: Kind::Blob,
            size: 0,
            remaining: 0,
            ended: false,
        };
        reader.read_header()?;
        Ok(reader)
    }

    fn read_header(&mut self) -> Result<(), OdbError> {
        let mut head = [0; MAX_HEADER];
        let mut filled = 0;
        while filled < head.len() && !self.ended {
            let n = self
                .inflate(&mut head[filled..])
                .map_err(|source| match source.kind() {
                    io::ErrorKind::InvalidData => self.damaged("not a valid zlib stream"),
                    _ => OdbError::Io {
                        doing: "read",
                        path: self.path.clone(),
                        source,
                    },
                })?;
            if n == 0 {
                break;
            }
            filled += n;
        }
        let Some(end) = head[..filled].iter().position(|b| *b == 0) else {
            return Err(self.damaged("it has no header"));
        };
        let parsed = head[..end].iter().position(|b| *b == b' ').and_then(|space| {
            let kind = Kind::from_bytes(&head[..space]).ok()?;
            let digits = &head[space + 1..end];
            let plain =
                !digits.is_empty() && digits.iter().all(u8::is_ascii_digit) && (digits[0] != b'0' || digits.len() == 1);
            let size = std::str::from_utf8(digits).ok().filter(|_| plain)?.parse().ok()?;
            Some((kind, size))
        });
        let Some((kind, size)) = parsed else {
            return Err(self.damaged("its header is not one"));
        };
        (self.kind, self.size, self.remaining) = (kind, size, size);
        self.head = head;
        self.head_unread = end + 1..filled;
        Ok(())
    }

    fn damaged(&self, why: &'static str) -> OdbError {
        OdbError::LooseDamaged {
            path: self.path.clone(),
            source: FormatError::Invalid { what: WHAT, why },
        }
    }

    /// What the header says it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Bytes of content, as the header says.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the whole content to the end of `out`. The caller has checked [`size`](Self::size) against a limit.
    pub(crate) fn read_all(mut self, out: &mut Vec<u8>) -> Result<Kind, OdbError> {
        let start = out.len();
        // Not believed before it is there: a short file with a large number in it allocates little.
        out.reserve(usize::try_from(self.size).unwrap_or(usize::MAX).min(8 << 20));
        match self.read_to_end(out) {
            Ok(_) => Ok(self.kind),
            Err(source) => {
                out.truncate(start);
                Err(match source.kind() {
                    io::ErrorKind::InvalidData => self.damaged("its content is not what its header says"),
                    _ => OdbError::Io {
                        doing: "read",
                        path: self.path.clone(),
                        source,
                    },
                })
            }
        }
    }

    /// Inflates into `out`; 0 only at the end of the stream or when the file ends early (`ended` tells).
    fn inflate(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.unread.is_empty() {
                let n = self.file.read(&mut self.input)?;
                self.unread = 0..n;
            }
            let at_eof = self.unread.is_empty();
            let step = self
                .inflater
                .step(&self.input[self.unread.clone()], out)
                .map_err(|err| io::Error::new(io::ErrorKind::InvalidData, err))?;
            self.unread.start += step.consumed;
            self.ended = step.done;
            if step.written > 0 || step.done {
                return Ok(step.written);
            }
            if at_eof {
                return Ok(0);
            }
        }
    }

    fn invalid(why: &'static str) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, why)
    }
}

impl Read for LooseReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() {
            return Ok(0);
        }
        if !self.head_unread.is_empty() {
            let n = out.len().min(self.head_unread.len());
            if n as u64 > self.remaining {
                return Err(Self::invalid("longer than its header says"));
            }
            out[..n].copy_from_slice(&self.head[self.head_unread.start..self.head_unread.start + n]);
            self.head_unread.start += n;
            self.remaining -= n as u64;
            return Ok(n);
        }
        if self.remaining == 0 {
            // The end must be the end: of the stream, and of the file.
            let mut spare = [0; 1];
            let more = if self.ended { 0 } else { self.inflate(&mut spare)? };
            if more != 0 || !self.ended {
                return Err(Self::invalid("longer than its header says"));
            }
            if !self.unread.is_empty() || self.file.read(&mut spare)? != 0 {
                return Err(Self::invalid("garbage after its end"));
            }
            return Ok(0);
        }
        if self.ended {
            return Err(Self::invalid("shorter than its header says"));
        }
        let n = usize::try_from(self.remaining).unwrap_or(usize::MAX).min(out.len());
        let n = self.inflate(&mut out[..n])?;
        if n == 0 {
            return Err(Self::invalid("shorter than its header says"));
        }
        self.remaining -= n as u64;
        Ok(n)
    }
}

/// `NotADirectory` too: `objects/ab` may be anything in a stranger's repository.
pub(crate) fn is_absent(err: &io::Error) -> bool {
    matches!(err.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pack::deflate;

    fn write(dir: &Path, content: &[u8]) -> PathBuf {
        let path = dir.join("object");
        let mut packed = Vec::new();
        deflate(content, 1, &mut packed);
        std::fs::write(&path, packed).expect("write");
        path
    }

    fn read(path: PathBuf) -> Result<(Kind, Vec<u8>), OdbError> {
        let reader = LooseReader::open(path)?.expect("present");
        let mut out = Vec::new();
        Ok((reader.read_all(&mut out)?, out))
    }

    #[test]
    fn objects_of_every_size_are_read_whole() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        for size in [0usize, 1, 20, 30, 31, 32, 33, 5_000, 300_000] {
            let body: Vec<u8> = (0..size).map(|n| (n * 31 % 253) as u8).collect();
            let mut content = format!("blob {size}\0").into_bytes();
            content.extend_from_slice(&body);
            let path = write(dir.path(), &content);
            let (kind, out) = read(path).unwrap_or_else(|err| panic!("{size}: {err}"));
            assert_eq!((kind, out.len()), (Kind::Blob, size));
            assert!(out == body);
        }
    }

    #[test]
    fn a_header_is_read_without_the_rest() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut content = b"tree 300000\0".to_vec();
        content.resize(300_012, 7);
        let path = write(dir.path(), &content);
        let reader = LooseReader::open(path).expect("valid").expect("present");
        assert_eq!((reader.kind(), reader.size()), (Kind::Tree, 300_000));
    }

    #[test]
    fn what_does_not_fit_its_header_is_damage() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        for content in [
            &b"blob 3\0ab"[..],
            b"blob 1\0ab",
            b"blob 01\0a",
            b"blob -1\0a",
            b"blob \0",
            b"blb 1\0a",
            b"blob 99999999999999999999999999\0a",
            b"",
            b"no nul in all of this text, which is longer than a header",
        ] {
            let path = write(dir.path(), content);
            assert!(read(path).is_err(), "{content:?} was accepted");
        }
        let path = write(dir.path(), b"blob 1\0a");
        let mut bytes = std::fs::read(&path).expect("read");
        for cut in 0..bytes.len() {
            std::fs::write(&path, &bytes[..cut]).expect("write");
            assert!(read(path.clone()).is_err(), "cut at {cut}");
        }
        bytes.push(0);
        std::fs::write(&path, &bytes).expect("write");
        assert!(read(path).is_err(), "trailing garbage");
        assert!(
            LooseReader::open(dir.path().join("absent"))
                .expect("no error")
                .is_none()
        );
    }
}
