//! An HTTP client that costs little, so that the server's work is what is seen. Keeps its connection.

use std::{
    io::{BufRead, BufReader, Read, Write as _},
    net::TcpStream,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::servers::Running;

#[derive(Clone)]
pub(crate) struct Request {
    pub(crate) path: String,
    /// `upload-pack` or `receive-pack`; none for a GET.
    pub(crate) service: Option<&'static str>,
    pub(crate) v2: bool,
    pub(crate) body: Arc<Vec<u8>>,
    /// What must stand in the answer, or the figure is worth nothing.
    pub(crate) expect: Vec<u8>,
}

/// An answer that was as it should be.
pub(crate) struct Answer {
    /// Until `expect` was there.
    pub(crate) first: Duration,
    pub(crate) body: Option<Vec<u8>>,
}

pub(crate) struct Client<'a> {
    server: &'a Running,
    stream: Option<BufReader<TcpStream>>,
    line: String,
    buf: Vec<u8>,
}

/// Looks for a text in what passes by.
struct Watch<'r> {
    expect: &'r [u8],
    start: Instant,
    carry: Vec<u8>,
    first: Option<Duration>,
    last: [u8; 4],
    body: Option<Vec<u8>>,
}

impl Watch<'_> {
    fn pass(&mut self, bytes: &[u8]) {
        if self.first.is_none() {
            let kept = self.carry.len().min(self.expect.len());
            self.carry.drain(..self.carry.len() - kept);
            self.carry.extend_from_slice(bytes);
            if self.carry.windows(self.expect.len()).any(|w| w == self.expect) {
                self.first = Some(self.start.elapsed());
            }
        }
        if let Some(last) = bytes.last_chunk::<4>() {
            self.last = *last;
        } else {
            let joined = [&self.last[..], bytes].concat();
            self.last = *joined.last_chunk().expect("four bytes and more");
        }
        if let Some(body) = &mut self.body {
            body.extend_from_slice(bytes);
        }
    }
}

impl<'a> Client<'a> {
    pub(crate) fn new(server: &'a Running) -> Self {
        Client {
            server,
            stream: None,
            line: String::new(),
            buf: vec![0; 256 << 10],
        }
    }

    /// Sends a request and reads the answer to its end.
    pub(crate) fn ask(&mut self, request: &Request, keep: bool) -> Answer {
        let server = self.server;
        let mut stream = self.stream.take().unwrap_or_else(|| {
            let stream = TcpStream::connect(("127.0.0.1", server.port)).expect("the server listens");
            stream.set_nodelay(true).expect("a socket option");
            BufReader::with_capacity(256 << 10, stream)
        });
        let start = Instant::now();
        let mut out = match request.service {
            Some(service) => format!(
                "POST {}/{} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: git/2.47.3\r\nContent-Type: application/x-git-{service}-request\r\nAccept: application/x-git-{service}-result\r\nContent-Length: {}\r\n",
                server.prefix,
                request.path,
                request.body.len()
            ),
            None => format!(
                "GET {}/{} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: git/2.47.3\r\n",
                server.prefix, request.path
            ),
        };
        if request.v2 {
            out.push_str("Git-Protocol: version=2\r\n");
        }
        out.push_str("\r\n");
        let mut out = out.into_bytes();
        let together = request.body.len() < 64 << 10;
        if together {
            out.extend_from_slice(&request.body);
        }
        stream.get_mut().write_all(&out).expect("the request is taken");
        if !together {
            stream.get_mut().write_all(&request.body).expect("the request is taken");
        }
        let mut watch = Watch {
            expect: &request.expect,
            start,
            carry: Vec::new(),
            first: None,
            last: [0; 4],
            body: keep.then(Vec::new),
        };
        let (status, stays_open) = self.read_answer(&mut stream, &mut watch);
        self.stream = stays_open.then_some(stream);
        let packets = request.service == Some("upload-pack");
        assert!(
            status.contains(" 200 ") && watch.first.is_some() && (!packets || watch.last == *b"0000"),
            "{} answered {status:?}, and not with {:?}: {:?}",
            server.name,
            String::from_utf8_lossy(&request.expect),
            String::from_utf8_lossy(&watch.carry),
        );
        Answer {
            first: watch.first.unwrap_or_default(),
            body: watch.body,
        }
    }

    fn header(&mut self, stream: &mut BufReader<TcpStream>) -> &str {
        self.line.clear();
        stream.read_line(&mut self.line).expect("a line of the answer's head");
        self.line.trim_end()
    }

    /// Reads an answer to its end; gives its status line, and whether the connection can be used again.
    fn read_answer(&mut self, stream: &mut BufReader<TcpStream>, watch: &mut Watch<'_>) -> (String, bool) {
        let status = self.header(stream).to_owned();
        let (mut length, mut chunked, mut close) = (None, false, false);
        loop {
            let line = self.header(stream).to_ascii_lowercase();
            match line.split_once(": ") {
                Some(("content-length", value)) => length = Some(value.parse::<u64>().expect("a length")),
                Some(("transfer-encoding", _)) => chunked = true,
                Some(("connection", value)) => close = value == "close",
                _ if line.is_empty() => break,
                _ => {}
            }
        }
        if chunked {
            loop {
                let size = u64::from_str_radix(self.header(stream), 16).expect("the size of a chunk");
                self.pass(stream, size, watch);
                self.header(stream);
                if size == 0 {
                    break;
                }
            }
        } else {
            self.pass(stream, length.unwrap_or(u64::MAX), watch);
        }
        (status, !close && (chunked || length.is_some()))
    }

    fn pass(&mut self, stream: &mut BufReader<TcpStream>, mut left: u64, watch: &mut Watch<'_>) {
        while left > 0 {
            let most = usize::try_from(left).map_or(self.buf.len(), |left| left.min(self.buf.len()));
            let n = stream.read(&mut self.buf[..most]).expect("the answer goes on");
            if n == 0 {
                assert!(left > u64::MAX / 2, "{} ended its answer early", self.server.name);
                return;
            }
            left -= n as u64;
            watch.pass(&self.buf[..n]);
        }
    }
}
