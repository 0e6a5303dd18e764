//! Speaks to the server of a data directory: HTTP/1.1, one request on a connection.

use std::{
    io::{self, BufRead as _, BufReader, Read, Write as _},
    net::{TcpStream, ToSocketAddrs as _},
    time::Duration,
};

use anyhow::{Context as _, bail};
use serde_json::Value;

/// How long a server may take to answer, beyond what it was asked to wait.
const PATIENCE: Duration = Duration::from_secs(90);
/// Bytes of a line of an answer's head, and lines of it.
const HEAD_LINE: u64 = 16 << 10;
const HEAD_LINES: usize = 200;
/// Bytes of an answer that is read whole.
const ANSWER: u64 = 64 << 20;

/// A server, and who one is to it.
#[derive(Debug)]
pub(super) struct Client {
    authority: String,
    token: Option<String>,
}

/// An answer whose body was not read yet.
pub(super) struct Answer {
    pub(super) status: u16,
    body: Box<dyn Read>,
}

impl Client {
    /// For a server at `http://HOST:PORT`.
    pub(super) fn new(url: &str, token: Option<String>) -> anyhow::Result<Self> {
        let Some(rest) = url.strip_prefix("http://") else {
            bail!("'{url}' is not a URL that begins with http://");
        };
        let authority = rest.split('/').next().unwrap_or_default().to_owned();
        if authority.is_empty() || rest.trim_end_matches('/') != authority {
            bail!("'{url}' is not the URL of a server, such as http://127.0.0.1:8080");
        }
        let token = token.filter(|token| !token.is_empty());
        if token
            .as_deref()
            .is_some_and(|token| token.chars().any(char::is_control))
        {
            bail!("the token has a control character in it");
        }
        Ok(Client { authority, token })
    }

    /// Sends a request with JSON in it and reads the head of the answer.
    pub(super) fn send(&self, method: &str, path: &str, body: Option<&Value>, accept: &str) -> anyhow::Result<Answer> {
        let text = body.map(Value::to_string);
        let mut headers = vec![("Accept", accept)];
        headers.extend(body.map(|_| ("Content-Type", "application/json")));
        self.exchange(method, path, &headers, text.as_deref().map(str::as_bytes))
    }

    /// Sends a request and reads the head of the answer.
    pub(super) fn exchange(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&[u8]>,
    ) -> anyhow::Result<Answer> {
        let host = match self.authority.rsplit_once(':') {
            Some((_, port)) if port.bytes().all(|b| b.is_ascii_digit()) => self.authority.clone(),
            _ => format!("{}:80", self.authority),
        };
        let unreachable = || {
            format!(
                "no server answers at http://{}; start one with `gitstead serve`",
                self.authority
            )
        };
        let address = host
            .to_socket_addrs()
            .with_context(unreachable)?
            .next()
            .with_context(unreachable)?;
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(10)).with_context(unreachable)?;
        stream.set_read_timeout(Some(PATIENCE)).context("set a time limit")?;
        let mut request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n",
            self.authority
        );
        if let Some(token) = &self.token {
            request.push_str(&format!("Authorization: Bearer {token}\r\n"));
        }
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        if body.is_some() || method == "POST" {
            request.push_str(&format!("Content-Length: {}\r\n", body.map_or(0, <[u8]>::len)));
        }
        request.push_str("\r\n");
        let mut request = request.into_bytes();
        request.extend_from_slice(body.unwrap_or_default());
        stream.write_all(&request).context("speak to the server")?;
        let mut stream = BufReader::new(stream);
        let first = head_line(&mut stream)?;
        let status = first
            .split(' ')
            .nth(1)
            .and_then(|word| word.parse().ok())
            .with_context(|| format!("what answers at http://{} does not speak HTTP", self.authority))?;
        let mut chunked = false;
        let mut length = None;
        for n in 0.. {
            let line = head_line(&mut stream)?;
            if line.is_empty() {
                break;
            }
            if n > HEAD_LINES {
                bail!("the head of the answer does not end");
            }
            let Some((name, value)) = line.split_once(':') else {
                continue;
            };
            if name.eq_ignore_ascii_case("transfer-encoding") {
                chunked = value.trim().eq_ignore_ascii_case("chunked");
            } else if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse().ok();
            }
        }
        let body: Box<dyn Read> = match (chunked, length) {
            (true, _) => Box::new(Chunks {
                stream,
                left: 0,
                over: false,
            }),
            (false, Some(length)) => Box::new(stream.take(length)),
            (false, None) => Box::new(stream),
        };
        Ok(Answer { status, body })
    }

    /// Sends a request and reads the JSON that answers it. Null where there is nothing.
    pub(super) fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> anyhow::Result<Value> {
        self.send(method, path, body, "application/json")?.json()
    }
}

impl Answer {
    /// The body of an answer that is not an error.
    pub(super) fn ok(self) -> anyhow::Result<Box<dyn Read>> {
        if self.status == 200 {
            return Ok(self.body);
        }
        let mut text = String::new();
        let _ = self.body.take(300).read_to_string(&mut text);
        bail!(
            "the server answers with status {}: {}",
            self.status,
            harmless(text.trim())
        )
    }

    /// The whole answer.
    pub(super) fn json(self) -> anyhow::Result<Value> {
        let mut text = Vec::new();
        self.body
            .take(ANSWER)
            .read_to_end(&mut text)
            .context("read the answer of the server")?;
        let value = match text.is_empty() {
            true => Value::Null,
            false => serde_json::from_slice(&text).unwrap_or(Value::Null),
        };
        if self.status >= 400 {
            match value["error"]["message"].as_str() {
                Some(message) => bail!("{}", harmless(message)),
                None => bail!("the server answers with status {}", self.status),
            }
        }
        Ok(value)
    }

    /// The events of an answer, one after another: their kinds and data. `each` says whether to go on.
    pub(super) fn events(self, mut each: impl FnMut(&str, &Value) -> anyhow::Result<bool>) -> anyhow::Result<()> {
        if self.status >= 400 {
            self.json()?;
            return Ok(());
        }
        let mut lines = BufReader::new(self.body);
        let mut kind = String::new();
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = (&mut lines).take(ANSWER).read_until(b'\n', &mut line);
            if read.context("read the answer of the server")? == 0 {
                return Ok(());
            }
            let text = String::from_utf8_lossy(&line);
            let text = text.trim_end();
            if let Some(word) = text.strip_prefix("event: ") {
                kind = word.to_owned();
            } else if let Some(data) = text.strip_prefix("data: ") {
                let value = serde_json::from_str(data).unwrap_or(Value::Null);
                if !each(&kind, &value)? {
                    return Ok(());
                }
            }
        }
    }
}

fn head_line(stream: &mut BufReader<TcpStream>) -> anyhow::Result<String> {
    let mut line = Vec::new();
    stream
        .take(HEAD_LINE)
        .read_until(b'\n', &mut line)
        .context("read the answer of the server")?;
    if line.last() != Some(&b'\n') {
        bail!("the server has ended the connection without an answer");
    }
    Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
}

/// A body in chunks.
struct Chunks {
    stream: BufReader<TcpStream>,
    left: u64,
    over: bool,
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.over || buffer.is_empty() {
            return Ok(0);
        }
        if self.left == 0 {
            let mut line = String::new();
            while line.trim().is_empty() {
                line.clear();
                if (&mut self.stream).take(64).read_line(&mut line)? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
            let size = line.trim().split(';').next().unwrap_or_default();
            self.left = u64::from_str_radix(size, 16)
                .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "the answer is broken"))?;
            if self.left == 0 {
                self.over = true;
                return Ok(0);
            }
        }
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.stream.read(&mut buffer[..most])?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= read as u64;
        Ok(read)
    }
}

/// A text from elsewhere, without what a terminal takes for an order.
pub(super) fn harmless(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c })
        .collect()
}
