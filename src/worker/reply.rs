use std::{
    io::{self, Write},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Instant,
};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot},
    time::timeout,
};

use super::{Pace, gate::Lane};

/// Bytes collected before they are sent on without being asked to.
pub const CHUNK_BYTES: usize = 64 << 10;

/// Chunks on their way from a job to a client. A long transfer is paced by its client; a short one should leave its thread soon, so its pipe is
/// wider.
fn depth(lane: Lane) -> usize {
    match lane {
        Lane::Long => 4,
        Lane::Short => 16,
    }
}

/// The blocking end of an answer. Bytes are collected into chunks of [`CHUNK_BYTES`]; [`Write::flush`] sends what there is at once. A write blocks
/// while the client is slow, for as long as its [`Pace`] allows, and fails when the client is gone.
#[derive(Debug)]
pub struct Reply<H, E> {
    first: Option<oneshot::Sender<Answer<H, E>>>,
    head: Option<H>,
    buffer: BytesMut,
    rest: Option<mpsc::Sender<Item>>,
    cut: bool,
    stop: Arc<AtomicBool>,
    handle: Handle,
    pace: Pace,
    depth: usize,
    written: u64,
}

#[derive(Debug)]
struct Item {
    bytes: Bytes,
    last: bool,
}

/// What a job answered, as soon as its form is known.
#[derive(Debug)]
pub enum Answer<H, E> {
    /// Everything, in one piece.
    Whole {
        /// What the job said with [`Reply::set_head`].
        head: Option<H>,
        /// All bytes.
        body: Bytes,
    },
    /// More than fits one piece, or sent before the end was known.
    Stream {
        /// What the job said with [`Reply::set_head`].
        head: Option<H>,
        /// The bytes as they come.
        body: ReplyBody,
    },
    /// The job failed and had not written anything.
    Failed(E),
    /// The job panicked before anything was sent.
    Panicked,
}

/// The async end of an answer, as an HTTP body. Dropping it before its end raises the job's stop flag.
#[derive(Debug)]
pub struct ReplyBody {
    first: Option<Bytes>,
    second: Option<Item>,
    rest: mpsc::Receiver<Item>,
    ended: bool,
    stop: Option<StopOnDrop>,
}

/// The job did not come to its end, so what was sent is not the whole answer. The connection must be broken, lest the client believes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the answer was cut short")]
pub struct CutShort;

/// Raises a job's stop flag when whoever waits for the job goes away.
#[derive(Debug, Default)]
pub(super) struct StopOnDrop {
    flag: Arc<AtomicBool>,
}

impl StopOnDrop {
    pub(super) fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.flag)
    }
}

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.flag.store(true, Ordering::Relaxed);
    }
}

impl<H, E> Reply<H, E> {
    /// Must be called within a tokio runtime, whose timers the deadline uses.
    pub(super) fn new(stop: Arc<AtomicBool>, lane: Lane, pace: Pace) -> (Self, oneshot::Receiver<Answer<H, E>>) {
        let (first, receive) = oneshot::channel();
        let reply = Reply {
            first: Some(first),
            head: None,
            buffer: BytesMut::new(),
            rest: None,
            cut: false,
            stop,
            handle: Handle::current(),
            pace,
            depth: depth(lane),
            written: 0,
        };
        (reply, receive)
    }

    /// Says what goes before the bytes. Without effect once bytes have been sent.
    pub fn set_head(&mut self, head: H) {
        self.head = Some(head);
    }

    /// Raised when the client is gone. Jobs look at it wherever they work for long without writing.
    pub fn stop(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.stop)
    }

    /// Whether nobody waits for the answer any more.
    pub fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Bytes written so far, sent or not.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// What was written is not to be believed: the answer will be cut short instead of ended, or the job counts as failed if nothing was sent.
    pub fn cut_short(&mut self) {
        self.cut = true;
    }

    /// Ends the answer. A job that failed after writing has said so in the bytes themselves, so its answer ends like any other.
    pub(super) fn finish(mut self, result: Result<(), E>) {
        let bytes = self.buffer.split().freeze();
        match (self.first.take(), result) {
            (Some(first), Err(error)) if self.written == 0 || self.cut => {
                let _ = first.send(Answer::Failed(error));
            }
            (Some(first), _) if self.cut => {
                let _ = first.send(Answer::Panicked);
            }
            (Some(first), _) => {
                let _ = first.send(Answer::Whole {
                    head: self.head.take(),
                    body: bytes,
                });
            }
            (None, _) if self.cut => {}
            (None, _) => {
                // Whoever does not take the end has left; there is nobody to tell.
                let _ = self.push(Item { bytes, last: true });
            }
        }
    }

    pub(super) fn panicked(mut self) {
        if let Some(first) = self.first.take() {
            let _ = first.send(Answer::Panicked);
        }
        // Else: dropping the sender without a last item is what cuts the body short.
    }

    fn send(&mut self) -> io::Result<()> {
        let bytes = self.buffer.split().freeze();
        match self.first.take() {
            None => self.push(Item { bytes, last: false }),
            Some(first) => {
                let (rest, receive) = mpsc::channel(self.depth);
                self.rest = Some(rest);
                let body = ReplyBody {
                    first: Some(bytes),
                    second: None,
                    rest: receive,
                    ended: false,
                    stop: None,
                };
                let head = self.head.take();
                first
                    .send(Answer::Stream { head, body })
                    .map_err(|_| self.broken(io::ErrorKind::BrokenPipe))
            }
        }
    }

    fn push(&mut self, item: Item) -> io::Result<()> {
        let Some(rest) = &self.rest else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        let item = match rest.try_send(item) {
            Ok(()) => return Ok(()),
            Err(mpsc::error::TrySendError::Closed(_)) => return Err(self.broken(io::ErrorKind::BrokenPipe)),
            Err(mpsc::error::TrySendError::Full(item)) => item,
        };
        let (start, bytes) = (Instant::now(), item.bytes.len());
        let sent = self
            .handle
            .block_on(async { timeout(self.pace.left(), rest.send(item)).await });
        match sent {
            Ok(Ok(())) => {
                self.pace.moved(start.elapsed(), bytes);
                Ok(())
            }
            Ok(Err(_)) => Err(self.broken(io::ErrorKind::BrokenPipe)),
            Err(_) => Err(self.broken(io::ErrorKind::TimedOut)),
        }
    }

    /// From now on there is nobody to write to, and the other end sees an answer that is cut short.
    fn broken(&mut self, kind: io::ErrorKind) -> io::Error {
        self.stop.store(true, Ordering::Relaxed);
        self.rest = None;
        self.cut = true;
        match kind {
            io::ErrorKind::TimedOut => io::Error::new(kind, "the client takes no bytes"),
            kind => io::Error::new(kind, "the client is gone"),
        }
    }
}

impl<H, E> Write for Reply<H, E> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.is_stopped() {
            return Err(self.broken(io::ErrorKind::BrokenPipe));
        }
        let room = CHUNK_BYTES - self.buffer.len().min(CHUNK_BYTES - 1);
        let taken = bytes.get(..room).unwrap_or(bytes);
        self.buffer.extend_from_slice(taken);
        self.written += taken.len() as u64;
        if self.buffer.len() >= CHUNK_BYTES {
            self.send()?;
            self.buffer.reserve(CHUNK_BYTES);
        }
        Ok(taken.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.is_stopped() {
            return Err(self.broken(io::ErrorKind::BrokenPipe));
        }
        if self.buffer.is_empty() {
            return Ok(());
        }
        self.send()
    }
}

impl<H, E> Answer<H, E> {
    /// Makes one piece of an answer whose end has come in the meantime: a flush just before the end costs nothing then.
    pub(super) fn settled(self) -> Self {
        match self {
            Answer::Stream { head, mut body } => match (body.first.take(), body.rest.try_recv()) {
                (Some(first), Ok(Item { bytes, last: true })) => {
                    let body = if bytes.is_empty() {
                        first
                    } else {
                        [first, bytes].concat().into()
                    };
                    Answer::Whole { head, body }
                }
                (first, next) => {
                    body.first = first;
                    body.second = next.ok();
                    Answer::Stream { head, body }
                }
            },
            other => other,
        }
    }

    pub(super) fn with_stop(mut self, guard: StopOnDrop) -> Self {
        if let Answer::Stream { body, .. } = &mut self {
            body.stop = Some(guard);
        }
        self
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = CutShort;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, CutShort>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        if self.ended {
            return Poll::Ready(None);
        }
        let next = match self.second.take() {
            Some(item) => Poll::Ready(Some(item)),
            None => self.rest.poll_recv(context),
        };
        match next {
            Poll::Pending => Poll::Pending,
            Poll::Ready(None) => {
                self.ended = true;
                Poll::Ready(Some(Err(CutShort)))
            }
            Poll::Ready(Some(item)) => {
                self.ended = item.last;
                if item.last && item.bytes.is_empty() {
                    Poll::Ready(None)
                } else {
                    Poll::Ready(Some(Ok(Frame::data(item.bytes))))
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ended && self.first.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        if self.is_end_stream() {
            SizeHint::with_exact(0)
        } else {
            SizeHint::default()
        }
    }
}
