use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
};

use gix::hash::ObjectId;

use super::IngestError;
use crate::pack::Checksum;

/// Bytes of input that are looked at together.
pub(super) const WINDOW: usize = 512 << 10;
/// Packs up to this many bytes never touch a file before they are known to be good.
const IN_MEMORY: usize = 1 << 20;

/// Makes room for a pack and says where it may grow.
pub(super) type Place<'a> = dyn FnMut() -> Result<PathBuf, IngestError> + 'a;

/// Where the bytes of a pack go while they arrive.
pub(super) enum Sink {
    /// A small pack.
    Memory(Vec<u8>),
    /// `tmp_pack_…` in the quarantine.
    File { file: File, path: PathBuf },
}

impl Sink {
    fn write(&mut self, bytes: &[u8], place: &mut Place<'_>) -> Result<(), IngestError> {
        if let Sink::Memory(held) = self {
            if held.len() + bytes.len() <= IN_MEMORY {
                held.extend_from_slice(bytes);
                return Ok(());
            }
            let path = place()?;
            let file = create_read_only(&path).map_err(IngestError::io("create a pack in the quarantine", &path))?;
            let mut spilled = Sink::File { file, path };
            spilled.write(held, place)?;
            *self = spilled;
        }
        match self {
            Sink::Memory(_) => unreachable!("because it was spilled above"),
            Sink::File { file, path } => file
                .write_all(bytes)
                .map_err(IngestError::io("write a pack to the quarantine", &*path)),
        }
    }
}

/// Creates a new file that nobody may write to but through this handle.
pub(in crate::repo) fn create_read_only(path: &std::path::Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o444)
        .open(path)
}

/// The incoming pack: a window over what arrives, which is hashed and written to the sink once it has been consumed.
pub(super) struct Intake<'a> {
    input: &'a mut dyn Read,
    buf: Vec<u8>,
    /// The first byte not yet consumed.
    pos: usize,
    end: usize,
    /// The first byte not yet hashed and stored; `pos` at most.
    stored: usize,
    /// Where `buf[0]` lies in the pack.
    base: u64,
    eof: bool,
    crc: crc32fast::Hasher,
    hasher: Checksum,
    sink: Sink,
    place: &'a mut Place<'a>,
    max_bytes: u64,
    taken: u64,
}

impl<'a> Intake<'a> {
    /// `place` says where the pack goes when it is not small; `max_bytes` of 0 means no bound.
    pub(super) fn new(
        input: &'a mut dyn Read,
        hash: gix::hash::Kind,
        place: &'a mut Place<'a>,
        max_bytes: u64,
    ) -> Self {
        Intake {
            input,
            buf: vec![0; WINDOW],
            pos: 0,
            end: 0,
            stored: 0,
            base: 0,
            eof: false,
            crc: crc32fast::Hasher::new(),
            hasher: Checksum::new(hash),
            sink: Sink::Memory(Vec::new()),
            place,
            max_bytes,
            taken: 0,
        }
    }

    /// What has arrived and was not consumed.
    pub(super) fn window(&self) -> &[u8] {
        &self.buf[self.pos..self.end]
    }

    /// Whether the window holds all there will ever be.
    pub(super) fn at_eof(&self) -> bool {
        self.eof
    }

    /// Where the window begins in the pack.
    pub(super) fn offset(&self) -> u64 {
        self.base + self.pos as u64
    }

    /// Bytes received so far.
    pub(super) fn received(&self) -> u64 {
        self.taken
    }

    /// Waits until the window has `want` bytes, or all there are. At most [`WINDOW`].
    pub(super) fn fill(&mut self, want: usize) -> Result<(), IngestError> {
        let want = want.min(WINDOW);
        while self.end - self.pos < want && !self.eof {
            if self.pos + want > self.buf.len() || self.end == self.buf.len() {
                self.store()?;
                self.buf.copy_within(self.pos..self.end, 0);
                self.base += self.pos as u64;
                self.end -= self.pos;
                self.pos = 0;
                self.stored = 0;
            }
            let count = match self.input.read(&mut self.buf[self.end..]) {
                Ok(count) => count,
                Err(err) if err.kind() == io::ErrorKind::Interrupted => continue,
                Err(err) if err.kind() == io::ErrorKind::UnexpectedEof => 0,
                Err(source) => return Err(IngestError::Input { source }),
            };
            self.eof = count == 0;
            self.end += count;
            self.taken += count as u64;
            if self.max_bytes != 0 && self.taken > self.max_bytes {
                return Err(IngestError::TooLarge { limit: self.max_bytes });
            }
        }
        Ok(())
    }

    /// Consumes `count` bytes of the window.
    pub(super) fn advance(&mut self, count: usize) {
        let stop = (self.pos + count).min(self.end);
        self.crc.update(&self.buf[self.pos..stop]);
        self.pos = stop;
    }

    /// The CRC-32 of what was consumed since the last call.
    pub(super) fn take_crc(&mut self) -> u32 {
        std::mem::take(&mut self.crc).finalize()
    }

    /// Hashes and stores what was consumed.
    fn store(&mut self) -> Result<(), IngestError> {
        let bytes = &self.buf[self.stored..self.pos];
        self.hasher.update(bytes);
        self.sink.write(bytes, self.place)?;
        self.stored = self.pos;
        Ok(())
    }

    /// Reads the trailer and the end of the input. The sink then holds the pack with its trailer.
    pub(super) fn finish(mut self, hash: gix::hash::Kind) -> Result<(Sink, ObjectId, u64), IngestError> {
        let raw = hash.len_in_bytes();
        self.fill(raw)?;
        self.store()?;
        let trailer = match self.window().get(..raw) {
            Some(bytes) => ObjectId::from_bytes_or_panic(bytes),
            None => return Err(IngestError::Eof),
        };
        let computed = std::mem::replace(&mut self.hasher, Checksum::new(hash)).finish();
        if computed != trailer {
            return Err(IngestError::Trailer { hash });
        }
        self.advance(raw);
        self.fill(1)?;
        if !self.window().is_empty() {
            return Err(IngestError::Junk);
        }
        self.store()?;
        Ok((self.sink, trailer, self.base + self.pos as u64))
    }
}
