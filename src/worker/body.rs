use std::{
    error::Error,
    io::{self, Read},
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes, BytesMut};
use http_body::Body;
use http_body_util::BodyExt;
use tokio::{runtime::Handle, time::timeout};

use super::Pace;

/// The blocking end of a request body. Reads frames when the job asks for them, so a job that does not read holds its client back. Time that the
/// job does not spend waiting is not held against the client.
#[derive(Debug)]
pub struct BodyReader<B> {
    body: Option<B>,
    chunk: Bytes,
    handle: Handle,
    pace: Pace,
    received: u64,
}

impl<B> BodyReader<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    /// Must be made within a tokio runtime; must be read outside of one.
    pub fn new(body: B, pace: Pace) -> Self {
        BodyReader {
            body: Some(body),
            chunk: Bytes::new(),
            handle: Handle::current(),
            pace,
            received: 0,
        }
    }

    /// Bytes received so far.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Takes what comes into memory, until the end or until it is more than `most` bytes. Gives everything if the end was seen; if not, the bytes are what is
    /// read first.
    ///
    /// # Errors
    /// As for reading.
    pub async fn collect(&mut self, most: usize) -> io::Result<Option<Bytes>> {
        let mut ahead = BytesMut::new();
        while ahead.len() <= most {
            if self.chunk.is_empty() && !self.paced_chunk().await? {
                return Ok(Some(ahead.freeze()));
            }
            ahead.extend_from_slice(&self.chunk);
            self.chunk = Bytes::new();
        }
        self.chunk = ahead.freeze();
        Ok(None)
    }

    /// The length that was announced, while nothing has been read.
    pub fn announced(&self) -> Option<u64> {
        self.body.as_ref()?.size_hint().exact()
    }

    /// Leaves what is still to come to a task that reads and forgets it: see [`discard`](Self::discard).
    pub fn abandon(mut self, most: u64, patience: Duration)
    where
        B: Send + 'static,
    {
        if self.body.is_some() {
            self.handle
                .clone()
                .spawn(async move { self.discard(most, patience).await });
        }
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

impl<B> BodyReader<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    /// [`next_chunk`](Self::next_chunk) for as long as the client's pace allows.
    async fn paced_chunk(&mut self) -> io::Result<bool> {
        let start = Instant::now();
        match timeout(self.pace.left(), self.next_chunk()).await {
            Ok(Ok(true)) => {
                self.pace.moved(start.elapsed(), self.chunk.len());
                Ok(true)
            }
            Ok(other) => other,
            Err(_) => {
                self.body = None;
                Err(io::Error::new(io::ErrorKind::TimedOut, "the client sends no bytes"))
            }
        }
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
            let handle = self.handle.clone();
            if !handle.block_on(self.paced_chunk())? {
                return Ok(0);
            }
        }
        let taken = buffer.len().min(self.chunk.len());
        self.chunk.copy_to_slice(&mut buffer[..taken]);
        Ok(taken)
    }
}
