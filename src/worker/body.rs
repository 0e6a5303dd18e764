use std::{
    error::Error,
    io::{self, Read},
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes};
use http_body::Body;
use http_body_util::BodyExt;
use tokio::{runtime::Handle, time::timeout};

/// So many bytes must come in each span of the idle time; a client that drips fewer is as good as silent.
const PACE_BYTES: usize = 1 << 10;

/// The blocking end of a request body. Reads frames when the job asks for them, so a job that does not read holds its client back. Time that the
/// job does not spend waiting is not held against the client.
#[derive(Debug)]
pub struct BodyReader<B> {
    body: Option<B>,
    chunk: Bytes,
    handle: Handle,
    read_idle: Duration,
    waited: Duration,
    since_pace: usize,
    received: u64,
}

impl<B> BodyReader<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    /// Must be made within a tokio runtime; must be read outside of one.
    pub fn new(body: B, read_idle: Duration) -> Self {
        BodyReader {
            body: Some(body),
            chunk: Bytes::new(),
            handle: Handle::current(),
            read_idle,
            waited: Duration::ZERO,
            since_pace: 0,
            received: 0,
        }
    }

    /// Bytes received so far.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// [`discard`](Self::discard) for blocking code.
    pub fn drain(&mut self, most: u64, patience: Duration) -> bool {
        self.handle.clone().block_on(self.discard(most, patience))
    }

    /// Reads and forgets what is left, up to `most` bytes and for at most `patience`. Says whether the end was seen; if not, more can be read. A client
    /// that still sends when the connection is closed would lose the answer.
    pub async fn discard(&mut self, most: u64, patience: Duration) -> bool {
        let all = async {
            let mut left = most;
            loop {
                let taken = self.chunk.len() as u64;
                if taken > left {
                    return false;
                }
                left -= taken;
                self.chunk = Bytes::new();
                match self.next_chunk().await {
                    Ok(true) => {}
                    Ok(false) => return true,
                    Err(_) => return false,
                }
            }
        };
        timeout(patience, all).await.unwrap_or(false)
    }

    /// Waits for bytes: false at the end. After an error there is nothing more. Dropping the future loses nothing.
    async fn next_chunk(&mut self) -> io::Result<bool> {
        while self.chunk.is_empty() {
            let Some(body) = &mut self.body else { return Ok(false) };
            match body.frame().await {
                None => {
                    self.body = None;
                    return Ok(false);
                }
                Some(Err(error)) => {
                    self.body = None;
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, error));
                }
                // Trailers are not data.
                Some(Ok(frame)) => self.chunk = frame.into_data().unwrap_or_default(),
            }
        }
        self.received += self.chunk.len() as u64;
        Ok(true)
    }
}

impl<B> Read for BodyReader<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        if self.chunk.is_empty() {
            let start = Instant::now();
            let patience = self.read_idle.saturating_sub(self.waited);
            let handle = self.handle.clone();
            match handle.block_on(async { timeout(patience, self.next_chunk()).await }) {
                Ok(Ok(true)) => {}
                Ok(Ok(false)) => return Ok(0),
                Ok(Err(error)) => return Err(error),
                Err(_) => {
                    self.body = None;
                    return Err(io::Error::new(io::ErrorKind::TimedOut, "the client sends no bytes"));
                }
            }
            self.waited += start.elapsed();
            self.since_pace = self.since_pace.saturating_add(self.chunk.len());
            if self.since_pace >= PACE_BYTES {
                self.since_pace = 0;
                self.waited = Duration::ZERO;
            }
        }
        let taken = buffer.len().min(self.chunk.len());
        self.chunk.copy_to_slice(&mut buffer[..taken]);
        Ok(taken)
    }
}
