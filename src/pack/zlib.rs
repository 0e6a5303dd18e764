use std::sync::{Mutex, PoisonError};

use gix::zlib::{
    Compression, Decompress, FlushDecompress, Inflate, Status,
    stream::deflate::{Compress, FlushCompress},
};

use super::FormatError;

const WHAT: &str = "zlib stream";

fn corrupt() -> FormatError {
    FormatError::Invalid {
        what: WHAT,
        why: "not a valid deflate stream",
    }
}

/// Inflates whole streams that lie contiguously in memory and whose inflated size is known: pack entries. Reuse one for many streams.
#[derive(Default)]
pub struct Inflater {
    inner: Inflate,
}

impl Inflater {
    /// A fresh inflater.
    pub fn new() -> Self {
        Self::default()
    }

    /// Inflates the stream at the start of `input` to the end of `out`, which grows by exactly `size` bytes, and returns how many bytes of `input` the
    /// stream occupied.
    ///
    /// The caller has checked `size` against a limit: it is allocated. On error `out` has its old length.
    ///
    /// # Errors
    /// `Truncated` when `input` ends before the stream does, `Mismatch` when the stream inflates to another size.
    pub fn inflate_exact(&mut self, input: &[u8], size: usize, out: &mut Vec<u8>) -> Result<usize, FormatError> {
        let start = out.len();
        out.resize(start + size, 0);
        let result = self.inflate_into(input, &mut out[start..]);
        if result.is_err() {
            out.truncate(start);
        }
        result
    }

    /// As [`inflate_exact`](Self::inflate_exact), into a slice of exactly the inflated size.
    pub fn inflate_into(&mut self, input: &[u8], out: &mut [u8]) -> Result<usize, FormatError> {
        self.inner.reset();
        // An empty object still needs room for the decoder to make progress to the end of the stream.
        let mut spare = [0u8; 1];
        let size = out.len();
        let target: &mut [u8] = if size == 0 { &mut spare } else { out };
        match self.inner.once(input, target) {
            Ok((Status::StreamEnd, consumed, written)) if written == size => Ok(consumed),
            Ok((Status::StreamEnd, ..)) => Err(FormatError::Mismatch { what: "inflated size" }),
            Ok((_, _, written)) if written < size => Err(FormatError::Truncated { what: WHAT }),
            Ok(_) => self.finish_full(input, size),
            Err(_) => self.diagnose(input, size),
        }
    }

    /// All output was written but the end of the stream not yet seen: find out why with the resumable decoder.
    #[cold]
    fn finish_full(&mut self, input: &[u8], size: usize) -> Result<usize, FormatError> {
        let mut stream = StreamInflater::new();
        let (mut at, mut written, mut buf) = (0usize, 0usize, [0u8; 8192]);
        loop {
            let step = stream.step(&input[at..], &mut buf)?;
            at += step.consumed;
            written += step.written;
            if written > size {
                return Err(FormatError::Mismatch { what: "inflated size" });
            }
            if step.done {
                return if written == size {
                    Ok(at)
                } else {
                    Err(FormatError::Mismatch { what: "inflated size" })
                };
            }
            if step.consumed == 0 && step.written == 0 {
                return Err(FormatError::Truncated { what: WHAT });
            }
        }
    }

    #[cold]
    fn diagnose(&mut self, input: &[u8], size: usize) -> Result<usize, FormatError> {
        // The fast decoder does not tell truncation from damage; the resumable one does.
        match self.finish_full(input, size) {
            Ok(_) => Err(corrupt()),
            Err(err) => Err(err),
        }
    }
}

/// What one [`StreamInflater::step`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Bytes of input used.
    pub consumed: usize,
    /// Bytes of output written.
    pub written: usize,
    /// The stream has ended and its checksum fits.
    pub done: bool,
}

/// Inflates a stream piece by piece: for input that arrives in chunks, and for output too large to hold.
pub struct StreamInflater {
    /// From the first use on.
    inner: Option<Decompress>,
}

/// What is left of inflaters that were dropped: to make one and to clear it costs more than to inflate a small object.
static IDLE_INFLATERS: Mutex<Vec<Decompress>> = Mutex::new(Vec::new());

impl Drop for StreamInflater {
    fn drop(&mut self) {
        if let Some(inner) = self.inner.take() {
            let mut idle = IDLE_INFLATERS.lock().unwrap_or_else(PoisonError::into_inner);
            if idle.len() < MOST_IDLE {
                idle.push(inner);
            }
        }
    }
}

impl Default for StreamInflater {
    fn default() -> Self {
        Self::new()
    }
}

impl StreamInflater {
    /// A fresh inflater.
    pub fn new() -> Self {
        StreamInflater { inner: None }
    }

    fn inner(&mut self) -> &mut Decompress {
        self.inner.get_or_insert_with(|| {
            let idle = IDLE_INFLATERS.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let mut inner = idle.unwrap_or_default();
            inner.reset();
            inner
        })
    }

    /// Readies this inflater for another stream.
    pub fn reset(&mut self) {
        if let Some(inner) = &mut self.inner {
            inner.reset();
        }
    }

    /// Inflates from `input` into `out` until one of them is used up or the stream ends. A step that neither consumes nor writes needs more of either.
    pub fn step(&mut self, input: &[u8], out: &mut [u8]) -> Result<Step, FormatError> {
        let inner = self.inner();
        let (before_in, before_out) = (inner.total_in(), inner.total_out());
        let status = inner
            .decompress(input, out, FlushDecompress::None)
            .map_err(|_| corrupt())?;
        Ok(Step {
            consumed: (inner.total_in() - before_in) as usize,
            written: (inner.total_out() - before_out) as usize,
            done: status == Status::StreamEnd,
        })
    }
}

/// Deflates streams piece by piece, or whole. Reuse one for many streams.
pub struct Deflater {
    level: i32,
    /// From the first use on: most answers are copied.
    inner: Option<Box<Compress>>,
}

/// What is left of deflaters that were dropped. It is a third of a megabyte each, and to clear it anew costs more than to deflate a small object.
static IDLE: Mutex<Vec<(i32, Box<Compress>)>> = Mutex::new(Vec::new());
/// As many as are likely to be in use at a time.
const MOST_IDLE: usize = 8;

impl Drop for Deflater {
    fn drop(&mut self) {
        if let Some(inner) = self.inner.take() {
            let mut idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner);
            if idle.len() == MOST_IDLE {
                idle.remove(0);
            }
            idle.push((self.level, inner));
        }
    }
}

impl Deflater {
    /// A deflater at `level` 0–9; anything else, such as git's −1, means zlib's default of 6.
    pub fn new(level: i32) -> Self {
        Deflater { level, inner: None }
    }

    fn inner(&mut self) -> &mut Compress {
        let level = self.level;
        self.inner.get_or_insert_with(|| {
            let mut idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner);
            match idle.iter().rposition(|(its, _)| *its == level) {
                Some(at) => {
                    let mut inner = idle.remove(at).1;
                    inner.reset();
                    inner
                }
                None => Box::new(Compress::new(Compression::new(level).unwrap_or(Compression::DEFAULT))),
            }
        })
    }

    /// Deflates `data` as one whole stream to the end of `out`.
    pub fn deflate(&mut self, data: &[u8], out: &mut Vec<u8>) {
        self.reset();
        self.feed(data, true, out);
    }

    /// Begins a new stream that [`feed`](Self::feed) then writes.
    pub fn reset(&mut self) {
        if let Some(inner) = &mut self.inner {
            inner.reset();
        }
    }

    /// Appends the compressed form of `data` to `out`; with `last` the stream is ended.
    pub fn feed(&mut self, mut data: &[u8], last: bool, out: &mut Vec<u8>) {
        let flush = if last {
            FlushCompress::Finish
        } else {
            FlushCompress::None
        };
        loop {
            let start = out.len();
            out.resize(start + (data.len() / 2).clamp(64, 64 * 1024), 0);
            let inner = self.inner();
            let (before_in, before_out) = (inner.total_in(), inner.total_out());
            let status = inner
                .compress(data, &mut out[start..], flush)
                .expect("because deflate has no input that it refuses");
            let consumed = (inner.total_in() - before_in) as usize;
            let written = (inner.total_out() - before_out) as usize;
            let was_full = start + written == out.len();
            out.truncate(start + written);
            data = &data[consumed..];
            let done = if last {
                status == Status::StreamEnd
            } else {
                data.is_empty() && !was_full
            };
            if done {
                return;
            }
        }
    }
}

/// Deflates `data` as one stream to the end of `out`.
pub fn deflate(data: &[u8], level: i32, out: &mut Vec<u8>) {
    Deflater::new(level).deflate(data, out);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_was_deflated_inflates_to_itself(data in proptest::collection::vec(any::<u8>(), 0..5000), level in -1i32..10, tail in proptest::collection::vec(any::<u8>(), 0..20)) {
            let mut packed = Vec::new();
            deflate(&data, level, &mut packed);
            let stream_len = packed.len();
            packed.extend_from_slice(&tail);
            let mut out = vec![7];
            prop_assert_eq!(Inflater::new().inflate_exact(&packed, data.len(), &mut out), Ok(stream_len));
            prop_assert_eq!(&out[1..], &data[..]);
        }

        #[test]
        fn a_wrong_size_or_a_cut_stream_is_an_error(data in proptest::collection::vec(any::<u8>(), 1..3000), cut in any::<prop::sample::Index>()) {
            let mut packed = Vec::new();
            deflate(&data, 6, &mut packed);
            let mut out = Vec::new();
            prop_assert!(Inflater::new().inflate_exact(&packed, data.len() - 1, &mut out).is_err());
            prop_assert!(Inflater::new().inflate_exact(&packed, data.len() + 1, &mut out).is_err());
            let cut = cut.index(packed.len());
            prop_assert!(Inflater::new().inflate_exact(&packed[..cut], data.len(), &mut out).is_err());
            prop_assert!(out.is_empty());
        }

        #[test]
        fn arbitrary_bytes_never_panic(data in proptest::collection::vec(any::<u8>(), 0..200), size in 0usize..1000) {
            let _ = Inflater::new().inflate_exact(&data, size, &mut Vec::new());
        }
    }

    #[test]
    fn an_output_of_exactly_the_right_size_takes_the_fast_path() {
        for size in [1usize, 100, 5_000, 100_000] {
            let data: Vec<u8> = (0..size).map(|n| (n * 7 % 251) as u8).collect();
            let mut packed = Vec::new();
            deflate(&data, 6, &mut packed);
            let (status, ..) = Inflate::default()
                .once(&packed, &mut vec![0; size])
                .expect("our own stream is valid");
            assert_eq!(status, Status::StreamEnd, "{size}");
        }
    }

    #[test]
    fn a_deflater_that_was_dropped_half_way_spoils_nothing_for_the_next_one() {
        let data = b"the same words, the same words, and the same again".repeat(9);
        let mut expected = Vec::new();
        std::thread::scope(|scope| {
            scope.spawn(|| deflate(&data, 6, &mut expected));
        });
        for level in [6, 1, 6] {
            let mut half = Deflater::new(level);
            half.feed(&data[..100], false, &mut Vec::new());
            drop(half);
            let mut packed = Vec::new();
            deflate(&data, 6, &mut packed);
            assert_eq!(packed, expected);
        }
    }

    #[test]
    fn a_stream_written_in_pieces_is_one_stream() {
        let data: Vec<u8> = (0..200_000u32).flat_map(|n| n.to_le_bytes()).collect();
        let mut deflater = Deflater::new(1);
        let mut packed = Vec::new();
        deflater.reset();
        for piece in data.chunks(777) {
            deflater.feed(piece, false, &mut packed);
        }
        deflater.feed(&[], true, &mut packed);
        let mut out = Vec::new();
        assert_eq!(
            Inflater::new().inflate_exact(&packed, data.len(), &mut out),
            Ok(packed.len())
        );
        assert!(out == data);
    }
}
