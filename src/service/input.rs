use std::io::{self, Read};

use crate::{
    base::Limits,
    protocol::{Decoder, Parser, Progress},
};

use super::ServiceError;

/// A request body from which packets are taken first and raw bytes afterwards.
pub(super) struct Input<'a> {
    body: &'a mut dyn Read,
    decoder: Decoder,
    chunk: Vec<u8>,
    /// Bytes that may still be read before the request counts as too large; only while packets are read.
    budget: u64,
    limit: u64,
}

impl<'a> Input<'a> {
    /// `limit` bounds the bytes of the packets, not those of a pack behind them.
    pub(super) fn new(body: &'a mut dyn Read, limit: u64) -> Self {
        Input {
            body,
            decoder: Decoder::new(),
            chunk: vec![0; 16 * 1024],
            budget: limit,
            limit,
        }
    }

    /// Reads one request. Bytes behind it stay for [`rest`](Self::rest).
    pub(super) fn request<P: Parser>(&mut self, parser: P, limits: &Limits) -> Result<P::Request, ServiceError> {
        self.request_or(parser, limits, |_| ()).map_err(|(err, ())| err)
    }

    /// As [`request`](Self::request); a failure comes with what the parser had learned until then.
    pub(super) fn request_or<P: Parser, T>(
        &mut self,
        mut parser: P,
        limits: &Limits,
        learned: impl Fn(&P) -> T,
    ) -> Result<P::Request, (ServiceError, T)> {
        match self.feed(&mut parser, limits) {
            Ok(()) => {
                let told = learned(&parser);
                parser.finish().map_err(|err| (err.into(), told))
            }
            Err(err) => Err((err, learned(&parser))),
        }
    }

    fn feed<P: Parser>(&mut self, parser: &mut P, limits: &Limits) -> Result<(), ServiceError> {
        loop {
            while let Some(packet) = self.decoder.next()? {
                if parser.packet(packet, limits)? == Progress::Done {
                    return Ok(());
                }
            }
            let n = self.read_chunk()?;
            if n == 0 {
                // Bytes that are no whole packet are not an end, but a cut.
                self.decoder.end()?;
                return Ok(());
            }
        }
    }

    fn read_chunk(&mut self) -> Result<usize, ServiceError> {
        loop {
            match self.body.read(&mut self.chunk) {
                Ok(n) => {
                    self.budget = self
                        .budget
                        .checked_sub(n as u64)
                        .ok_or(ServiceError::TooLarge { limit: self.limit })?;
                    self.decoder.feed(&self.chunk[..n]);
                    return Ok(n);
                }
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) => return Err(ServiceError::Body(err)),
            }
        }
    }

    /// What follows the packets: first what was read already.
    pub(super) fn rest(self) -> Rest<'a> {
        Rest {
            read: io::Cursor::new(self.decoder.into_unread()),
            body: self.body,
        }
    }
}

/// The raw bytes behind the packets of a request.
pub(super) struct Rest<'a> {
    read: io::Cursor<Vec<u8>>,
    body: &'a mut dyn Read,
}

impl Read for Rest<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self.read.read(buf)? {
            0 => self.body.read(buf),
            n => Ok(n),
        }
    }
}
