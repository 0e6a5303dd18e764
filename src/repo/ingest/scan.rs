use std::{
    sync::mpsc::{self, Receiver, SyncSender, TrySendError},
    thread,
};

use gix::{hash::ObjectId, objs::Kind};

use super::{
    IngestError, IngestProgress,
    check::{Finisher, Job, MakeFinisher, STREAMED, begin_id},
    intake::{Intake, WINDOW},
};
use crate::pack::{EntryHeader, EntryKind, FormatError, Inflater, StreamInflater};

/// Below this many entries a second thread costs more than it brings.
pub(super) const FEW: u32 = 256;
/// Inflated bytes that travel to the hashing thread together.
const BATCH: usize = 1 << 20;
/// For objects up to this size room is made before they have come; for larger ones it grows with what comes.
const TRUSTED: usize = 1 << 20;
/// Bytes of a block of inflated deltas that are kept.
const BLOCK: usize = 1 << 20;

/// What a delta is against.
#[derive(Debug, Clone, Copy)]
pub(super) enum Base {
    /// An earlier entry.
    Entry(u32),
    /// The id at this place of [`Scan::ref_bases`].
    Id(u32),
}

/// A delta entry.
#[derive(Debug, Clone, Copy)]
pub(super) struct Delta {
    pub(super) entry: u32,
    pub(super) base: Base,
    /// Where its inflated bytes are held: block, start, length.
    held: Option<(u32, u32, u32)>,
}

/// What one pass over the incoming bytes tells.
#[derive(Default)]
pub(super) struct Scan {
    /// Where each entry begins; one more says where the last one ends.
    pub(super) offsets: Vec<u64>,
    pub(super) crcs: Vec<u32>,
    /// In the order of the pack.
    pub(super) deltas: Vec<Delta>,
    pub(super) ref_bases: Vec<ObjectId>,
    /// Commits, trees and tags too large to be held while a client may take its time to send them: entries yet to be looked at.
    pub(super) skipped: Vec<u32>,
    blocks: Vec<Vec<u8>>,
}

impl Scan {
    pub(super) fn entries(&self) -> u32 {
        self.crcs.len() as u32
    }

    /// The inflated bytes of a delta, if they are still held.
    pub(super) fn held(&self, delta: &Delta) -> Option<&[u8]> {
        let (block, start, len) = delta.held?;
        self.blocks
            .get(block as usize)?
            .get(start as usize..start as usize + len as usize)
    }
}

/// Inflated objects on their way to the hashing thread.
#[derive(Default)]
struct Batch {
    data: Vec<u8>,
    used: usize,
    items: Vec<Item>,
}

struct Item {
    entry: u32,
    kind: Kind,
    offset: u64,
    start: usize,
    len: usize,
}

impl Batch {
    fn finish(&mut self, finisher: &mut Finisher<'_>) -> Result<(), IngestError> {
        for item in self.items.drain(..) {
            finisher.job.check_stop()?;
            let data = &self.data[item.start..item.start + item.len];
            finisher.object(item.entry, item.kind, data, item.offset)?;
        }
        self.used = 0;
        finisher.flush();
        Ok(())
    }
}

/// The way to the hashing thread and back.
struct Lane {
    out: SyncSender<Batch>,
    back: Receiver<Batch>,
}

struct Scanner<'s, 'a, 'i> {
    job: &'a Job<'a>,
    intake: &'s mut Intake<'i>,
    finisher: &'s mut Finisher<'a>,
    lane: Option<Lane>,
    batch: Batch,
    scan: Scan,
    held_bytes: usize,
    inflater: Inflater,
    stream: StreamInflater,
    scratch: Vec<u8>,
}

/// Why the scan ended early.
enum Ended {
    Error(IngestError),
    /// The hashing thread has gone; it knows why.
    LaneGone,
}

impl From<IngestError> for Ended {
    fn from(err: IngestError) -> Self {
        Ended::Error(err)
    }
}

/// Reads `count` entries: finds where each begins and ends, sees that each inflates to the size it declares, and names those that are no deltas. With
/// more than one thread, naming happens beside inflating.
pub(super) fn scan<'a>(
    job: &'a Job<'a>,
    intake: &mut Intake<'_>,
    count: u32,
    threads: usize,
    finishers: &mut Vec<Finisher<'a>>,
    make: MakeFinisher<'a, '_>,
    progress: &mut dyn FnMut(IngestProgress),
) -> Result<Scan, IngestError> {
    let mut own = make()?;
    let mut scanner = Scanner {
        job,
        intake,
        finisher: &mut own,
        lane: None,
        batch: Batch::default(),
        scan: Scan::default(),
        held_bytes: 0,
        inflater: Inflater::new(),
        stream: StreamInflater::new(),
        scratch: Vec::new(),
    };
    let scan = if threads > 1 && count >= FEW {
        let mut other = make()?;
        let (out, incoming) = mpsc::sync_channel::<Batch>(2);
        let (give_back, back) = mpsc::channel();
        scanner.lane = Some(Lane { out, back });
        let (scan, named) = thread::scope(|scope| {
            let other = &mut other;
            let hashing = scope.spawn(move || -> Result<(), IngestError> {
                for mut batch in incoming {
                    batch.finish(other)?;
                    let _ = give_back.send(batch);
                }
                Ok(())
            });
            let scan = scanner.run(count, progress);
            (
                scan,
                hashing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            )
        });
        finishers.push(other);
        match (scan, named) {
            (_, Err(err)) | (Err(Ended::Error(err)), _) => return Err(err),
            (Err(Ended::LaneGone), Ok(())) => unreachable!("because the lane only goes away with an error"),
            (Ok(scan), Ok(())) => scan,
        }
    } else {
        match scanner.run(count, progress) {
            Ok(scan) => scan,
            Err(Ended::Error(err)) => return Err(err),
            Err(Ended::LaneGone) => unreachable!("because there is no lane"),
        }
    };
    own.flush();
    finishers.push(own);
    Ok(scan)
}

impl Scanner<'_, '_, '_> {
    fn run(mut self, count: u32, progress: &mut dyn FnMut(IngestProgress)) -> Result<Scan, Ended> {
        for entry in 0..count {
            if entry % 64 == 0 {
                self.job.check_stop()?;
                progress(IngestProgress::Receiving {
                    objects: entry,
                    total: count,
                    bytes: self.intake.received(),
                });
            }
            self.entry(entry)?;
        }
        self.scan.offsets.push(self.intake.offset());
        self.pass_on(true)?;
        progress(IngestProgress::Receiving {
            objects: count,
            total: count,
            bytes: self.intake.received(),
        });
        Ok(self.scan)
    }

    fn entry(&mut self, entry: u32) -> Result<(), Ended> {
        let offset = self.intake.offset();
        if self.intake.window().len() < EntryHeader::MAX_LEN {
            self.intake.fill(EntryHeader::MAX_LEN)?;
        }
        let header = match EntryHeader::parse(self.intake.window(), self.job.hash) {
            Ok(header) => header,
            Err(FormatError::Truncated { .. }) => return Err(IngestError::Eof.into()),
            Err(err) => return Err(IngestError::entry(offset, err.to_string()).into()),
        };
        self.intake.advance(header.header_len);
        match header.kind.object_kind() {
            Some(Kind::Blob) if header.size > STREAMED => {
                self.job.check_size(Kind::Blob, header.size, offset)?;
                self.streamed_blob(entry, header.size, offset)?;
            }
            Some(kind) if header.size > STREAMED => {
                self.job.check_size(kind, header.size, offset)?;
                self.skipped(entry, header.size, offset)?;
            }
            Some(kind) => {
                self.job.check_size(kind, header.size, offset)?;
                self.object(entry, kind, header.size as usize, offset)?;
            }
            None => {
                let limit = self.job.delta_limit();
                if header.size > limit {
                    return Err(IngestError::ObjectTooLarge { offset, limit }.into());
                }
                self.delta(entry, header, offset)?;
            }
        }
        self.scan.offsets.push(offset);
        let crc = self.intake.take_crc();
        self.scan.crcs.push(crc);
        Ok(())
    }

    fn object(&mut self, entry: u32, kind: Kind, size: usize, offset: u64) -> Result<(), Ended> {
        if size > TRUSTED {
            return self.large_object(entry, kind, size, offset);
        }
        if self.batch.used + size > self.batch.data.len() {
            if self.batch.used > 0 {
                self.pass_on(false)?;
            }
            if self.batch.data.len() < size.max(1) {
                // Without a second thread nothing gathers, and small pushes should not pay for room.
                let room = if self.lane.is_some() {
                    size.max(BATCH)
                } else {
                    size.max(8 << 10)
                };
                self.batch.data.resize(room, 0);
            }
        }
        let start = self.batch.used;
        let out = &mut self.batch.data[start..start + size];
        inflate(self.intake, &mut self.inflater, &mut self.stream, out, offset)?;
        self.batch.used += size;
        self.batch.items.push(Item {
            entry,
            kind,
            offset,
            start,
            len: size,
        });
        if self.lane.is_none() || self.batch.items.len() >= 2048 {
            self.pass_on(false)?;
        }
        Ok(())
    }

    /// An object for which a few bytes of pack could claim a lot of memory. It is named here at once, so that there is never more than one.
    fn large_object(&mut self, entry: u32, kind: Kind, size: usize, offset: u64) -> Result<(), Ended> {
        let mut data = Vec::new();
        stream(self.intake, &mut self.stream, size as u64, offset, &mut |piece| {
            data.extend_from_slice(piece);
            Ok(())
        })?;
        self.job.check_stop()?;
        self.finisher.object(entry, kind, &data, offset)?;
        Ok(())
    }

    /// Hands the batch to the hashing thread, or names its objects here when that one is busy or absent.
    fn pass_on(&mut self, last: bool) -> Result<(), Ended> {
        let Some(lane) = &self.lane else {
            return Ok(self.batch.finish(self.finisher)?);
        };
        if self.batch.items.is_empty() {
            return Ok(());
        }
        let batch = std::mem::take(&mut self.batch);
        match lane.out.try_send(batch) {
            Ok(()) => {
                if !last {
                    self.batch = lane.back.try_recv().unwrap_or_default();
                }
            }
            Err(TrySendError::Full(batch)) => {
                self.batch = batch;
                self.batch.finish(self.finisher)?;
            }
            Err(TrySendError::Disconnected(_)) => return Err(Ended::LaneGone),
        }
        Ok(())
    }

    fn delta(&mut self, entry: u32, header: EntryHeader, offset: u64) -> Result<(), Ended> {
        let base = match header.kind {
            EntryKind::OfsDelta { distance } => offset
                .checked_sub(distance)
                .and_then(|base| self.scan.offsets.binary_search(&base).ok())
                .map(|base| Base::Entry(base as u32))
                .ok_or_else(|| IngestError::entry(offset, "delta base offset is out of bound"))?,
            EntryKind::RefDelta { base } => {
                self.scan.ref_bases.push(base);
                Base::Id(self.scan.ref_bases.len() as u32 - 1)
            }
            _ => return Ok(()),
        };
        let size = header.size as usize;
        let mut held = None;
        let budget = self.job.limits.delta_base_cache_bytes / 2;
        if size <= BLOCK / 16 && self.held_bytes + size <= budget {
            let fits = self.scan.blocks.last().is_some_and(|b| b.capacity() - b.len() >= size);
            if !fits {
                // Small pushes should not pay for a whole block; it is counted as it fills.
                let room = if self.lane.is_some() { BLOCK } else { BLOCK / 16 };
                self.scan.blocks.push(Vec::with_capacity(room));
            }
            let at = self.scan.blocks.len() - 1;
            let block = &mut self.scan.blocks[at];
            let start = block.len();
            block.resize(start + size, 0);
            inflate(
                self.intake,
                &mut self.inflater,
                &mut self.stream,
                &mut block[start..],
                offset,
            )?;
            held = Some((at as u32, start as u32, size as u32));
            self.held_bytes += size;
        } else if size as u64 <= STREAMED {
            if self.scratch.len() < size {
                self.scratch.resize(size, 0);
            }
            let out = &mut self.scratch[..size];
            inflate(self.intake, &mut self.inflater, &mut self.stream, out, offset)?;
        } else {
            stream(self.intake, &mut self.stream, header.size, offset, &mut |_| Ok(()))?;
        }
        self.scan.deltas.push(Delta { entry, base, held });
        Ok(())
    }

    fn skipped(&mut self, entry: u32, size: u64, offset: u64) -> Result<(), Ended> {
        let job = self.job;
        stream(self.intake, &mut self.stream, size, offset, &mut |_| job.check_stop())?;
        self.scan.skipped.push(entry);
        Ok(())
    }

    fn streamed_blob(&mut self, entry: u32, size: u64, offset: u64) -> Result<(), Ended> {
        let mut hashed = begin_id(self.job.hash, Kind::Blob, size);
        let job = self.job;
        stream(self.intake, &mut self.stream, size, offset, &mut |piece| {
            hashed.update(piece);
            job.check_stop()
        })?;
        self.finisher.streamed_blob(entry, hashed, offset)?;
        Ok(())
    }
}

/// Inflates the stream that the window begins with into `out`, which is of the size it must have.
fn inflate(
    intake: &mut Intake<'_>,
    inflater: &mut Inflater,
    stepper: &mut StreamInflater,
    out: &mut [u8],
    offset: u64,
) -> Result<(), IngestError> {
    // What deflate makes of incompressible bytes, with room to spare: a window of this many bytes holds the whole stream of any sane encoder.
    let bound = out.len() + out.len() / 512 + 64;
    if intake.window().len() < bound && bound <= WINDOW / 2 {
        intake.fill(bound)?;
    }
    if intake.window().len() >= bound || intake.at_eof() {
        match inflater.inflate_into(intake.window(), out) {
            Ok(used) => {
                intake.advance(used);
                return Ok(());
            }
            Err(FormatError::Truncated { .. }) if !intake.at_eof() => {}
            Err(FormatError::Truncated { .. }) => return Err(IngestError::Eof),
            Err(err) => return Err(bad_stream(offset, &err)),
        }
    }
    let mut written = 0;
    let size = out.len() as u64;
    stream(intake, stepper, size, offset, &mut |piece| {
        out[written..written + piece.len()].copy_from_slice(piece);
        written += piece.len();
        Ok(())
    })
}

/// Inflates the stream that the window begins with piece by piece; it is not larger than `size` at any moment and exactly that at its end.
fn stream(
    intake: &mut Intake<'_>,
    stepper: &mut StreamInflater,
    size: u64,
    offset: u64,
    take: &mut dyn FnMut(&[u8]) -> Result<(), IngestError>,
) -> Result<(), IngestError> {
    stepper.reset();
    let mut buf = vec![0u8; 64 << 10];
    let mut left = size;
    loop {
        let step = stepper
            .step(intake.window(), &mut buf)
            .map_err(|err| bad_stream(offset, &err))?;
        intake.advance(step.consumed);
        left = left
            .checked_sub(step.written as u64)
            .ok_or_else(|| bad_stream(offset, &FormatError::Mismatch { what: "inflated size" }))?;
        take(&buf[..step.written])?;
        if step.done {
            if left != 0 {
                return Err(bad_stream(offset, &FormatError::Mismatch { what: "inflated size" }));
            }
            return Ok(());
        }
        if step.consumed == 0 && step.written == 0 {
            if intake.at_eof() {
                return Err(IngestError::Eof);
            }
            let had = intake.window().len();
            intake.fill(had + 1)?;
            if intake.window().len() == had && !intake.at_eof() {
                return Err(bad_stream(offset, &FormatError::Mismatch { what: "inflated size" }));
            }
        }
    }
}

fn bad_stream(offset: u64, err: &FormatError) -> IngestError {
    IngestError::entry(offset, format!("inflate: {err}"))
}
