//! Where a pack goes: bytes are counted, hashed and written in pieces of a decent size, and the trailer is put behind them.

use std::{
    io::Write,
    sync::{Arc, atomic::AtomicBool},
};

use gix::hash::ObjectId;

use super::{SendError, walk::check};
use crate::{
    pack::{Checksum, FormatError},
    repo::{Odb, Pack},
};

const BUFFER: usize = 64 << 10;
/// Bytes that are hashed and then written while they are in the processor's cache.
const PIECE: usize = 256 << 10;

/// The output: counted, hashed, and written in pieces of a decent size.
pub(super) struct Sink<'a> {
    out: &'a mut dyn Write,
    /// What is not yet written, and not yet hashed.
    buf: Vec<u8>,
    position: u64,
    /// `None` as long as the output is the beginning of `mirror`.
    hasher: Option<Checksum>,
    mirror: Option<Arc<Pack>>,
    stop: &'a AtomicBool,
}

impl<'a> Sink<'a> {
    /// `mirror` is a pack whose bytes the output may turn out to be.
    pub(super) fn new(out: &'a mut dyn Write, mirror: Option<Arc<Pack>>, stop: &'a AtomicBool) -> Self {
        Sink {
            out,
            buf: Vec::with_capacity(BUFFER),
            position: 0,
            hasher: None,
            mirror,
            stop,
        }
    }

    /// Bytes written so far.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    pub(super) fn start(&mut self, header: &[u8], odb: &Odb) -> Result<(), SendError> {
        if self.mirror.is_none() {
            self.hasher = Some(Checksum::new(odb.hash_kind()));
        }
        self.copy(header)
    }

    /// Writes bytes that differ from those of the mirror.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), SendError> {
        if let Some(mirror) = self.mirror.take() {
            let mut hasher = Checksum::new(mirror.hash_kind());
            // What waits is hashed when it goes.
            let gone = self.position as usize - self.buf.len();
            hasher.update(&mirror.data()?[..gone]);
            self.hasher = Some(hasher);
        }
        self.copy(bytes)
    }

    /// Writes bytes that are the same in the mirror if there is one.
    pub(super) fn copy(&mut self, bytes: &[u8]) -> Result<(), SendError> {
        self.position += bytes.len() as u64;
        if self.buf.len() + bytes.len() > BUFFER {
            self.drain()?;
            if bytes.len() > BUFFER / 2 {
                for piece in bytes.chunks(PIECE) {
                    check(self.stop)?;
                    if let Some(hasher) = &mut self.hasher {
                        hasher.update(piece);
                    }
                    self.out.write_all(piece).map_err(SendError::Write)?;
                }
                return Ok(());
            }
        }
        self.buf.extend_from_slice(bytes);
        Ok(())
    }

    fn drain(&mut self) -> Result<(), SendError> {
        check(self.stop)?;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&self.buf);
        }
        self.out.write_all(&self.buf).map_err(SendError::Write)?;
        self.buf.clear();
        Ok(())
    }

    pub(super) fn finish(mut self) -> Result<u64, SendError> {
        match (self.hasher.take(), self.mirror.take()) {
            (Some(mut hasher), _) => {
                hasher.update(&self.buf);
                self.copy(hasher.finish().as_slice())?;
            }
            (None, Some(mirror)) => {
                let data = mirror.data()?;
                let trailer = data
                    .get(self.position as usize..)
                    .filter(|rest| rest.len() == mirror.hash_kind().len_in_bytes());
                match trailer {
                    Some(trailer) => self.copy(trailer)?,
                    None => {
                        return Err(SendError::Format {
                            oid: ObjectId::null(mirror.hash_kind()),
                            source: FormatError::Truncated { what: "pack" },
                        });
                    }
                }
            }
            (None, None) => {}
        }
        self.drain()?;
        self.out.flush().map_err(SendError::Write)?;
        Ok(self.position)
    }
}
