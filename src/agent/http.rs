//! The client of a server that an agent runs on loopback: one request a connection (HTTP/1.1), and a stream of server-sent events.
//!
//! Only addresses of loopback are reached, heads and bodies are bounded, and what goes into a request cannot become another one.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::timeout,
};

/// Bytes of a line of an answer's head, and lines of it.
const HEAD_LINE: usize = 16 << 10;
const HEAD_LINES: usize = 100;
/// How long it may take to be connected.
const CONNECT: Duration = Duration::from_secs(10);

/// Where an agent's server is, and what it wants to hear from whoever asks.
#[derive(Debug, Clone)]
pub(super) struct Server {
    pub address: SocketAddr,
    /// The value of `Authorization`.
    pub authorization: String,
}

/// What is left of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    Bytes(u64),
    /// Bytes of the present chunk.
    Chunk(u64),
    ToTheEnd,
    Nothing,
}

/// An answer whose body was not read yet.
#[derive(Debug)]
pub(super) struct Answer {
    pub status: u16,
    from: BufReader<OwnedReadHalf>,
    left: Left,
    /// While it is open the other side knows that somebody listens.
    _to: OwnedWriteHalf,
}

fn wrong(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// The address of loopback that a line of output tells of: `… listening on http://127.0.0.1:4096`.
pub(super) fn address_in(line: &[u8]) -> Option<SocketAddr> {
    let line = &line[..line.len().min(4 << 10)];
    let text = String::from_utf8_lossy(line);
    let rest = text.split("http://").nth(1)?;
    let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '.' | ':' | '[' | ']')));
    let authority = rest[..end.unwrap_or(rest.len())].trim_end_matches('.');
    let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port != 0);
    if let Some(number) = authority.strip_prefix("localhost:") {
        return Some(SocketAddr::from(([127, 0, 0, 1], port(number)?)));
    }
    let address: SocketAddr = authority.parse().ok()?;
    (address.ip().is_loopback() && address.port() != 0).then_some(address)
}

impl Server {
    /// Sends a request and reads the head of the answer, however long that takes.
    ///
    /// # Errors
    /// When it cannot be sent, or what comes is no answer.
    pub async fn ask(&self, method: &str, path: &str, body: &str, accept: &str) -> io::Result<Answer> {
        let is_plain = |b: u8| b > b' ' && b < 0x7f;
        if !self.address.ip().is_loopback() || !path.starts_with('/') || !path.bytes().all(is_plain) {
            return Err(wrong("this is not a request to an agent's own server"));
        }
        let stream = timeout(CONNECT, TcpStream::connect(self.address))
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        stream.set_nodelay(true)?;
        let (read, mut to) = stream.into_split();
        let mut head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nAccept: {accept}\r\nAuthorization: {}\r\n",
            self.address, self.authorization
        );
        if method != "GET" {
            let length = body.len();
            head.push_str(&format!(
                "Content-Type: application/json\r\nContent-Length: {length}\r\n"
            ));
        }
        head.push_str("\r\n");
        to.write_all(head.as_bytes()).await?;
        if method != "GET" {
            to.write_all(body.as_bytes()).await?;
        }
        Answer::read(BufReader::new(read), to).await
    }
}

async fn line(from: &mut BufReader<OwnedReadHalf>) -> io::Result<String> {
    let mut line = Vec::new();
    let mut bounded = from.take(HEAD_LINE as u64);
    bounded.read_until(b'\n', &mut line).await?;
    if line.pop() != Some(b'\n') {
        return Err(match line.len() >= HEAD_LINE - 1 {
            true => wrong("a line of an answer is too long"),
            false => io::Error::from(io::ErrorKind::UnexpectedEof),
        });
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    String::from_utf8(line).map_err(|_| wrong("an answer's head is no text"))
}

impl Answer {
    async fn read(mut from: BufReader<OwnedReadHalf>, to: OwnedWriteHalf) -> io::Result<Self> {
        loop {
            let first = line(&mut from).await?;
            let status = first
                .strip_prefix("HTTP/1.")
                .and_then(|rest| rest.split(' ').nth(1)?.parse::<u16>().ok())
                .filter(|status| (100..600).contains(status))
                .ok_or_else(|| wrong("this is not an answer"))?;
            let mut left = Left::ToTheEnd;
            for n in 0.. {
                let header = line(&mut from).await?;
                if header.is_empty() {
                    break;
                }
                if n >= HEAD_LINES {
                    return Err(wrong("an answer's head is too long"));
                }
                let Some((name, value)) = header.split_once(':') else {
                    continue;
                };
                let value = value.trim();
                if name.eq_ignore_ascii_case("transfer-encoding") && value.eq_ignore_ascii_case("chunked") {
                    left = Left::Chunk(0);
                } else if name.eq_ignore_ascii_case("content-length") && left == Left::ToTheEnd {
                    left = Left::Bytes(value.parse().map_err(|_| wrong("an answer has no length"))?);
                }
            }
            if matches!(status, 204 | 304) {
                left = Left::Nothing;
            }
            // What is told before the answer is no answer.
            if status >= 200 {
                return Ok(Answer {
                    status,
                    from,
                    left,
                    _to: to,
                });
            }
        }
    }

    /// The next bytes of the body; none at its end.
    ///
    /// # Errors
    /// When it breaks off.
    pub async fn next(&mut self) -> io::Result<Vec<u8>> {
        let most = loop {
            match self.left {
                Left::Nothing | Left::Bytes(0) => return Ok(Vec::new()),
                Left::Bytes(left) | Left::Chunk(left) if left > 0 => break left,
                Left::ToTheEnd => break u64::MAX,
                _ => {
                    let size = line(&mut self.from).await?;
                    let size = size.split(';').next().unwrap_or_default().trim();
                    match u64::from_str_radix(size, 16).map_err(|_| wrong("a chunk has no length"))? {
                        0 => self.left = Left::Nothing,
                        size => self.left = Left::Chunk(size),
                    }
                }
            }
        };
        let found = self.from.fill_buf().await?;
        let taken = found.len().min(usize::try_from(most).unwrap_or(usize::MAX));
        let bytes = found[..taken].to_vec();
        self.from.consume(taken);
        match (&mut self.left, taken) {
            (Left::ToTheEnd, 0) => self.left = Left::Nothing,
            (_, 0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
            (Left::Bytes(left), taken) => *left -= taken as u64,
            (Left::Chunk(left), taken) => {
                *left -= taken as u64;
                if *left == 0 && !line(&mut self.from).await?.is_empty() {
                    return Err(wrong("a chunk is longer than it says"));
                }
            }
            _ => {}
        }
        Ok(bytes)
    }

    /// The body, as far as `most` bytes.
    ///
    /// # Errors
    /// When it breaks off.
    pub async fn whole(mut self, most: usize) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        while body.len() < most {
            let bytes = self.next().await?;
            if bytes.is_empty() {
                break;
            }
            let room = bytes.len().min(most - body.len());
            body.extend_from_slice(&bytes[..room]);
        }
        Ok(body)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::TcpListener,
    };

    use super::*;

    /// What comes of an answer that is these bytes, and the request.
    fn asked(answer: &'static str, path: &str, most: usize) -> (io::Result<(u16, String)>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let server = Server {
            address: listener.local_addr().expect("bound"),
            authorization: "Basic eDp5".to_owned(),
        };
        let other = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("asked");
            let mut request = vec![0; 4096];
            let read = stream.read(&mut request).unwrap_or(0);
            let _ = stream.write_all(answer.as_bytes());
            String::from_utf8_lossy(&request[..read]).into_owned()
        });
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let result = runtime.block_on(async {
            let answer = server.ask("GET", path, "", "*/*").await?;
            let status = answer.status;
            Ok((status, String::from_utf8_lossy(&answer.whole(most).await?).into_owned()))
        });
        if result.is_err() {
            // It may wait still.
            drop(std::net::TcpStream::connect(server.address));
        }
        (result, other.join().expect("no panic"))
    }

    #[test]
    fn answers_are_read_however_their_end_is_told() {
        for (answer, status, body) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhellomore", 200, "hello"),
            ("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", 404, ""),
            ("HTTP/1.1 200 OK\r\n\r\nto the end", 200, "to the end"),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\n\r\n",
                200,
                "hello",
            ),
            (
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 204 No\r\nContent-Length: 3\r\n\r\n",
                204,
                "",
            ),
            ("HTTP/1.1 200 OK\nContent-Length: 2\n\nok", 200, "ok"),
        ] {
            let (found, request) = asked(answer, "/event?x=1", 1_000);
            assert_eq!(found.expect(answer), (status, body.to_owned()), "{answer}");
            assert!(request.starts_with("GET /event?x=1 HTTP/1.1\r\n"), "{request}");
            assert!(request.contains("\r\nAuthorization: Basic eDp5\r\n"), "{request}");
        }
        let (found, _) = asked("HTTP/1.1 200 OK\r\n\r\n0123456789", "/", 4);
        assert_eq!(found.expect("cut"), (200, "0123".to_owned()));
    }

    #[test]
    fn what_is_no_answer_is_an_error_and_what_is_no_path_is_not_asked() {
        for answer in [
            "",
            "nonsense\r\n\r\n",
            "HTTP/1.1 999 x\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n",
        ] {
            assert!(asked(answer, "/", 1_000).0.is_err(), "{answer:?}");
        }
        for path in ["", "x", "/a b", "/a\r\nX: y"] {
            let (found, request) = asked("HTTP/1.1 200 OK\r\n\r\n", path, 10);
            assert!(found.is_err() && request.is_empty(), "{path:?}");
        }
    }

    #[test]
    fn only_addresses_of_loopback_are_taken_from_what_an_agent_prints() {
        let found = |line: &str| address_in(line.as_bytes()).map(|address| address.to_string());
        for (line, address) in [
            (
                "opencode server listening on http://127.0.0.1:4096",
                Some("127.0.0.1:4096"),
            ),
            (
                "listening on http://127.0.0.1:4096/ (unsecured)",
                Some("127.0.0.1:4096"),
            ),
            ("listening on http://localhost:4096.", Some("127.0.0.1:4096")),
            ("on http://[::1]:80\r", Some("[::1]:80")),
            ("on http://10.0.0.1:80", None),
            ("on http://example.com:80", None),
            ("on http://127.0.0.1", None),
            ("on http://127.0.0.1:0", None),
            ("on http://127.0.0.1:99999", None),
            ("on http://0.0.0.0:80", None),
            ("nothing", None),
        ] {
            assert_eq!(found(line).as_deref(), address, "{line}");
        }
    }
}
