//! A request body as the service reads it: inflated where the client says so, and bounded.

use std::{
    io::{self, Cursor, Read},
    time::Duration,
};

use axum::body::Body;
use bytes::Bytes;
use flate2::read::MultiGzDecoder;

use crate::worker::BodyReader;

/// A gzip body may always inflate to this much; below it no ratio is absurd.
const RATIO_FLOOR: u64 = 1 << 20;

/// A body's bytes as they come over the wire.
pub(super) enum Wire {
    /// Small enough to have been collected.
    Small(Cursor<Bytes>),
    /// Read while it comes.
    Stream(Box<BodyReader<Body>>),
}

/// What went wrong with a body, whatever the service made of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BodyFailure {
    /// More than any honest request of this size inflates to.
    TooLarge,
    /// Not gzip, or broken off.
    Malformed,
    /// The client fell silent.
    Silent,
    /// The client left before the end it had announced.
    Short,
}

/// The reader a service is given.
pub(super) struct RequestBody {
    source: Source,
    /// Whether the bytes are gzip, and the decoder has not begun: it reads as soon as it is made, and the wire may only be read on a worker.
    packed: bool,
    given: u64,
    ratio: u64,
    failure: Option<BodyFailure>,
}

enum Source {
    Plain(Noted),
    Gzip(Box<MultiGzDecoder<Noted>>),
}

/// The wire, with a note of what went wrong on it: what a decoder says of it afterwards cannot be told from its own troubles.
struct Noted {
    wire: Wire,
    failure: Option<BodyFailure>,
}

impl Noted {
    fn received(&self) -> u64 {
        match &self.wire {
            Wire::Small(bytes) => bytes.get_ref().len() as u64,
            Wire::Stream(reader) => reader.received(),
        }
    }
}

impl Read for Noted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let result = match &mut self.wire {
            Wire::Small(bytes) => bytes.read(buffer),
            Wire::Stream(reader) => reader.read(buffer),
        };
        if let Err(error) = &result {
            self.failure = Some(failure_of(error));
        }
        result
    }
}

fn failure_of(error: &io::Error) -> BodyFailure {
    match error.kind() {
        io::ErrorKind::TimedOut => BodyFailure::Silent,
        _ => BodyFailure::Short,
    }
}

impl Source {
    fn noted(&mut self) -> &mut Noted {
        match self {
            Source::Plain(noted) => noted,
            Source::Gzip(gzip) => gzip.get_mut(),
        }
    }
}

impl RequestBody {
    /// `ratio` bounds the bytes given out for each byte received where `gzip`; what a request may have in all is the service's to say.
    pub(super) fn new(wire: Wire, gzip: bool, ratio: u64) -> Self {
        RequestBody {
            source: Source::Plain(Noted { wire, failure: None }),
            packed: gzip,
            given: 0,
            ratio,
            failure: None,
        }
    }

    pub(super) fn failure(&self) -> Option<BodyFailure> {
        self.failure
    }

    /// All bytes of a small plain body that has not been read from.
    pub(super) fn small(&self) -> Option<&[u8]> {
        match &self.source {
            Source::Plain(Noted {
                wire: Wire::Small(bytes),
                ..
            }) if !self.packed => Some(bytes.get_ref()),
            _ => None,
        }
    }

    /// Whether the whole body is in memory.
    pub(super) fn is_collected(&mut self) -> bool {
        matches!(self.source.noted().wire, Wire::Small(_))
    }

    /// The length that was announced, while nothing has been read.
    pub(super) fn announced(&mut self) -> Option<u64> {
        match &self.source.noted().wire {
            Wire::Small(bytes) => Some(bytes.get_ref().len() as u64),
            Wire::Stream(reader) => reader.announced(),
        }
    }

    /// Takes up to `most` bytes from the wire before the first is read, so that no thread waits for them.
    pub(super) async fn collect(&mut self, most: usize) -> Result<(), BodyFailure> {
        let wire = &mut self.source.noted().wire;
        let Wire::Stream(reader) = wire else { return Ok(()) };
        match reader.collect(most).await {
            Ok(Some(all)) => *wire = Wire::Small(Cursor::new(all)),
            Ok(None) => {}
            Err(error) => return Err(failure_of(&error)),
        }
        Ok(())
    }

    /// Lets the client finish sending what nobody wants any more, within bounds, while nobody waits for it. A client that still sends when its
    /// connection is closed would lose the answer.
    pub(super) fn abandon(self, most: u64, patience: Duration) {
        let noted = match self.source {
            Source::Plain(noted) => noted,
            Source::Gzip(gzip) => gzip.into_inner(),
        };
        if let Wire::Stream(reader) = noted.wire {
            reader.abandon(most, patience);
        }
    }

    fn fail(&mut self, failure: BodyFailure, kind: io::ErrorKind, text: &'static str) -> io::Error {
        self.failure = Some(failure);
        io::Error::new(kind, text)
    }
}

impl Read for RequestBody {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if std::mem::take(&mut self.packed) {
            let nothing = Noted {
                wire: Wire::Small(Cursor::default()),
                failure: None,
            };
            if let Source::Plain(wire) = std::mem::replace(&mut self.source, Source::Plain(nothing)) {
                self.source = Source::Gzip(Box::new(MultiGzDecoder::new(wire)));
            }
        }
        let (result, gzip) = match &mut self.source {
            Source::Plain(wire) => (wire.read(buffer), false),
            Source::Gzip(gzip) => (gzip.read(buffer), true),
        };
        let taken = match result {
            Ok(taken) => taken,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
            Err(error) => {
                self.failure = self.source.noted().failure.or(Some(BodyFailure::Malformed));
                return Err(error);
            }
        };
        self.given = self.given.saturating_add(taken as u64);
        if gzip {
            let received = self.source.noted().received();
            if self.given > received.saturating_mul(self.ratio).max(RATIO_FLOOR) {
                return Err(self.fail(
                    BodyFailure::TooLarge,
                    io::ErrorKind::FileTooLarge,
                    "the request inflates to too many bytes",
                ));
            }
        }
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn read(wire: &[u8], gzip: bool) -> Result<Vec<u8>, BodyFailure> {
        let wire = Wire::Small(Cursor::new(Bytes::copy_from_slice(wire)));
        let mut body = RequestBody::new(wire, gzip, 200);
        let mut all = Vec::new();
        match body.read_to_end(&mut all) {
            Ok(_) => Ok(all),
            Err(_) => Err(body.failure().expect("an error is remembered")),
        }
    }

    #[test]
    fn gzip_is_read_member_after_member() {
        let mut two = gzip(b"hello ");
        two.extend(gzip(b"world"));
        assert_eq!(read(&two, true).unwrap(), b"hello world");
        assert_eq!(read(b"plain", false).unwrap(), b"plain");
    }

    #[test]
    fn gzip_that_breaks_off_or_goes_on_is_malformed() {
        let whole = gzip(b"some text that is long enough to be cut");
        for end in 0..whole.len() {
            assert_eq!(read(&whole[..end], true), Err(BodyFailure::Malformed), "cut at {end}");
        }
        let mut more = whole.clone();
        more.extend(b"garbage");
        assert_eq!(read(&more, true), Err(BodyFailure::Malformed));
        let mut bad = whole;
        let at = bad.len() - 6;
        bad[at] ^= 1;
        assert_eq!(read(&bad, true), Err(BodyFailure::Malformed));
    }

    #[test]
    fn a_bomb_is_cut_off() {
        let bomb = gzip(&vec![0; 64 << 20]);
        assert!(bomb.len() < 70_000);
        assert_eq!(read(&bomb, true), Err(BodyFailure::TooLarge));
        // Small bodies may compress as well as they like.
        let small = gzip(&vec![0; 900 << 10]);
        assert_eq!(read(&small, true).unwrap().len(), 900 << 10);
    }
}
