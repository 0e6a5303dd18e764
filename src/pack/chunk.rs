//! Files of chunks: a header, a table of contents, the chunks, and a checksum over all. gitformat-chunk(5).

use std::{
    io::{self, Write},
    ops::Range,
};

use gix::hash::{Kind as HashKind, ObjectId};

use super::{Checksum, FormatError};

/// Bytes of a line of the table of contents.
const LINE: usize = 12;
/// Bytes that are written at once.
const BUFFER: usize = 64 << 10;

/// The four bytes at `at`, or 0 behind the end.
pub(super) fn be32(bytes: &[u8], at: usize) -> u32 {
    bytes
        .get(at..at + 4)
        .map_or(0, |b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]))
}

/// The eight bytes at `at`, or 0 behind the end.
pub(super) fn be64(bytes: &[u8], at: usize) -> u64 {
    (u64::from(be32(bytes, at)) << 32) | u64::from(be32(bytes, at + 4))
}

/// What git calls a hash in files of chunks and indices.
pub(super) fn hash_number(hash: HashKind) -> u8 {
    if hash == HashKind::Sha256 { 2 } else { 1 }
}

/// A table of contents whose chunks lie in the file, one behind the other.
pub(super) struct Chunks(Vec<([u8; 4], Range<usize>)>);

impl Chunks {
    /// Reads the table of `count` chunks that begins at `at` in `bytes`.
    pub(super) fn parse(bytes: &[u8], at: usize, count: usize, what: &'static str) -> Result<Self, FormatError> {
        let table = bytes
            .get(at..at + (count + 1) * LINE)
            .ok_or(FormatError::Truncated { what })?;
        let mut found = Vec::with_capacity(count);
        let mut least = at + table.len();
        for n in 0..count {
            let line = &table[n * LINE..];
            let (start, end) = (be64(line, 4), be64(line, 4 + LINE));
            let outside = FormatError::Invalid {
                what,
                why: "a chunk reaches outside of the file",
            };
            match (usize::try_from(start), usize::try_from(end)) {
                (Ok(start), Ok(end)) if least <= start && start <= end && end <= bytes.len() => {
                    found.push(([line[0], line[1], line[2], line[3]], start..end));
                    least = start;
                }
                _ => return Err(outside),
            }
        }
        Ok(Chunks(found))
    }

    /// Where a chunk is.
    pub(super) fn get(&self, id: &[u8; 4]) -> Option<Range<usize>> {
        self.0.iter().find(|(own, _)| own == id).map(|(_, range)| range.clone())
    }
}

/// A fanout table: how many ids begin with each byte or a smaller one. Gives the number of all, if it never goes down.
pub(super) fn check_fanout(bytes: &[u8], what: &'static str) -> Result<u32, FormatError> {
    let invalid = |why| FormatError::Invalid { what, why };
    if bytes.len() != 1024 {
        return Err(invalid("the fanout table has a wrong size"));
    }
    let mut len = 0;
    for at in (0..1024).step_by(4) {
        let next = be32(bytes, at);
        if next < len {
            return Err(invalid("the fanout table goes backwards"));
        }
        len = next;
    }
    Ok(len)
}

/// Writes the bytes of a chunk.
pub(super) type Writer<'a> = dyn FnOnce(&mut Sink<'_>) -> io::Result<()> + 'a;

/// A chunk to be written: its name, its size, and who writes it.
pub(super) struct Chunk<'a> {
    pub(super) id: [u8; 4],
    pub(super) len: u64,
    pub(super) write: Box<Writer<'a>>,
}

/// Takes what is written, and sums it up.
pub(super) struct Sink<'a> {
    out: &'a mut dyn Write,
    checksum: Checksum,
    buffer: Vec<u8>,
    written: u64,
}

impl Sink<'_> {
    pub(super) fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= BUFFER {
            self.drain()?;
        }
        Ok(())
    }

    pub(super) fn put32(&mut self, n: u32) -> io::Result<()> {
        self.put(&n.to_be_bytes())
    }

    fn drain(&mut self) -> io::Result<()> {
        self.checksum.update(&self.buffer);
        self.out.write_all(&self.buffer)?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}

/// Writes a whole file: `head`, the table of contents, the chunks, the checksum. Returns that.
pub(super) fn write_chunks(
    head: &[u8],
    chunks: Vec<Chunk<'_>>,
    hash: HashKind,
    out: &mut dyn Write,
) -> io::Result<ObjectId> {
    let mut sink = Sink {
        out,
        checksum: Checksum::new(hash),
        buffer: Vec::with_capacity(BUFFER * 2),
        written: 0,
    };
    sink.put(head)?;
    let mut at = (head.len() + (chunks.len() + 1) * LINE) as u64;
    for chunk in &chunks {
        sink.put(&chunk.id)?;
        sink.put(&at.to_be_bytes())?;
        at += chunk.len;
    }
    sink.put(&[0; 4])?;
    sink.put(&at.to_be_bytes())?;
    for chunk in chunks {
        let expected = sink.written + sink.buffer.len() as u64 + chunk.len;
        (chunk.write)(&mut sink)?;
        // The table says where the next one begins.
        if sink.written + sink.buffer.len() as u64 != expected {
            return Err(io::Error::other("a chunk has not the size that was announced"));
        }
    }
    sink.drain()?;
    let checksum = sink.checksum.finish();
    sink.out.write_all(checksum.as_slice())?;
    Ok(checksum)
}

/// The fanout table of sorted ids.
pub(super) fn fanout<'a>(first_bytes: impl Iterator<Item = u8> + 'a) -> Chunk<'a> {
    Chunk {
        id: *b"OIDF",
        len: 1024,
        write: Box::new(move |sink| {
            let mut counts = [0u32; 256];
            for first in first_bytes {
                counts[first as usize] += 1;
            }
            let mut sum = 0;
            for count in counts {
                sum += count;
                sink.put32(sum)?;
            }
            Ok(())
        }),
    }
}
