//! Requests and packs made by hand, and answers taken apart: for what no git client would send.

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    net::{Shutdown, TcpStream},
    path::Path,
    time::{Duration, Instant},
};

use gitstead::pack::{EntryKind, deflate, pack_header, write_entry_header};
use gix::hash::ObjectId;

use super::Server;

/// How long a test waits for what must happen.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// An HTTP response, its chunks joined.
#[derive(Debug, Clone)]
pub struct Response {
    pub status: u16,
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

impl Response {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as packets in the text form of `gitstead debug pkt-line`.
    pub fn packets(&self) -> String {
        gitstead::protocol::to_text(&self.body)
    }

    /// What was said on the three channels of a side-band, beginning with the first packet that is on one.
    pub fn bands(&self) -> Bands {
        bands(&self.body)
    }

    /// Everything in it that a person may read, channels or not.
    pub fn said(&self) -> String {
        let bands = self.bands();
        if bands.is_empty() {
            return self.text();
        }
        [&bands.progress[..], &bands.error, &bands.data]
            .map(String::from_utf8_lossy)
            .concat()
    }
}

/// The channels of a side-band.
#[derive(Debug, Clone, Default)]
pub struct Bands {
    pub data: Vec<u8>,
    pub progress: Vec<u8>,
    pub error: Vec<u8>,
    /// Bytes of the largest packet's payload, channel byte included.
    pub longest: usize,
    /// Packets without data: signs of life.
    pub empty: usize,
}

impl Bands {
    fn is_empty(&self) -> bool {
        self.data.is_empty() && self.progress.is_empty() && self.error.is_empty()
    }
}

/// Takes the packets of a side-band apart; packets on no channel are skipped.
pub fn bands(mut bytes: &[u8]) -> Bands {
    use gitstead::protocol::{Decoded, Packet, decode};
    let mut bands = Bands::default();
    while let Ok(Decoded::Complete { packet, consumed }) = decode(bytes) {
        bytes = &bytes[consumed..];
        let Packet::Data(data) = packet else { continue };
        let channel = match data.first() {
            Some(1) => &mut bands.data,
            Some(2) => &mut bands.progress,
            Some(3) => &mut bands.error,
            _ => continue,
        };
        channel.extend_from_slice(&data[1..]);
        bands.longest = bands.longest.max(data.len());
        bands.empty += usize::from(data.len() == 1);
    }
    bands
}

/// One packet.
pub fn pkt(data: impl AsRef<[u8]>) -> Vec<u8> {
    let data = data.as_ref();
    let mut out = format!("{:04x}", data.len() + 4).into_bytes();
    out.extend_from_slice(data);
    out
}

/// Packets from text: a line each with its line feed; `0000` and `0001` are what they say.
pub fn pkts(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for line in text.lines().map(str::trim_start) {
        match line {
            "" => {}
            "0000" | "0001" | "0002" => out.extend_from_slice(line.as_bytes()),
            line => out.extend(pkt(format!("{line}\n"))),
        }
    }
    out
}

/// Sends one request over a connection of its own.
pub fn request(server: &Server, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
    try_request(server, method, path, headers, body, body.len()).expect("the server answers")
}

/// As [`request`] with the length that is announced; the connection's sending end is closed behind `body`. `None` when there is no answer.
pub fn try_request(
    server: &Server,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
    length: usize,
) -> Option<Response> {
    exchange(server.address(), method, path, headers, body, length)
}

/// As [`try_request`] with a server of which only the address is known.
pub fn exchange(
    address: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
    length: usize,
) -> Option<Response> {
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if method == "POST" {
        head.push_str(&format!("Content-Length: {length}\r\n"));
    }
    head.push_str("\r\n");
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket option");
    stream.set_nodelay(true).expect("a socket option");
    // A server that refuses early closes its end; what it said is still there to be read.
    let _ = stream.write_all(&[head.as_bytes(), body].concat());
    if length > body.len() {
        let _ = stream.shutdown(Shutdown::Write);
    }
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    if let Err(err) = read {
        assert_ne!(err.kind(), std::io::ErrorKind::WouldBlock, "the server says nothing");
    }
    parse(&answer)
}

fn parse(bytes: &[u8]) -> Option<Response> {
    let at = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&bytes[..at]).into_owned();
    let mut lines = head.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let mut headers: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        // As one list, as the standard has it.
        let all = headers.entry(name.to_ascii_lowercase()).or_default();
        if !all.is_empty() {
            all.push_str(", ");
        }
        all.push_str(value.trim());
    }
    let mut body = bytes[at + 4..].to_vec();
    if headers.get("transfer-encoding").is_some_and(|value| value == "chunked") {
        body = unchunk(&body);
    }
    Some(Response { status, headers, body })
}

fn unchunk(mut bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    while let Some(at) = bytes.windows(2).position(|two| two == b"\r\n") {
        let length = usize::from_str_radix(&String::from_utf8_lossy(&bytes[..at]), 16).expect("a chunk's length");
        let rest = &bytes[at + 2..];
        out.extend_from_slice(&rest[..length.min(rest.len())]);
        bytes = rest.get(length + 2..).unwrap_or_default();
    }
    out
}

/// Posts to `git-receive-pack` of the repository.
pub fn push(server: &Server, repo: &str, body: &[u8]) -> Response {
    let headers = [("Content-Type", "application/x-git-receive-pack-request")];
    request(
        server,
        "POST",
        &format!("/repos/{repo}/git-receive-pack"),
        &headers,
        body,
    )
}

/// Posts to `git-upload-pack` of the repository in this version of the protocol.
pub fn fetch(server: &Server, repo: &str, version: u8, body: &[u8]) -> Response {
    let protocol = format!("version={version}");
    let headers = [
        ("Content-Type", "application/x-git-upload-pack-request"),
        ("Git-Protocol", &protocol),
    ];
    request(
        server,
        "POST",
        &format!("/repos/{repo}/git-upload-pack"),
        &headers,
        body,
    )
}

/// `GET info/refs` for a service.
pub fn advertisement(server: &Server, repo: &str, service: &str, version: u8) -> Response {
    let protocol = format!("version={version}");
    let path = format!("/repos/{repo}/info/refs?service={service}");
    request(server, "GET", &path, &[("Git-Protocol", &protocol)], b"")
}

/// What usual clients ask for when they push.
pub const PUSH_CAPS: &str = " report-status-v2 side-band-64k object-format=sha1 agent=git/test";

/// The body of a push: `(old, new, name)` each, and a pack, which may be empty.
pub fn push_body(commands: &[(&str, &str, &str)], caps: &str, pack: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for (n, (old, new, name)) in commands.iter().enumerate() {
        let caps = if n == 0 { format!("\0{caps}") } else { String::new() };
        out.extend(pkt(format!("{old} {new} {name}{caps}")));
    }
    out.extend_from_slice(b"0000");
    out.extend_from_slice(pack);
    out
}

/// The id of nothing.
pub const ZERO: &str = "0000000000000000000000000000000000000000";

/// A pack of which every byte can be a lie.
#[derive(Debug, Clone, Default)]
pub struct Pack {
    entries: Vec<u8>,
    count: u32,
}

impl Pack {
    pub fn new() -> Self {
        Self::default()
    }

    /// Where the next entry will begin.
    pub fn offset(&self) -> u64 {
        12 + self.entries.len() as u64
    }

    /// A whole object.
    pub fn object(self, kind: gix::objs::Kind, data: &[u8]) -> Self {
        self.entry(EntryKind::from(kind), data.len() as u64, data)
    }

    pub fn blob(self, data: &[u8]) -> Self {
        self.object(gix::objs::Kind::Blob, data)
    }

    /// An entry that declares `size` and inflates to `data`.
    pub fn entry(self, kind: EntryKind, size: u64, data: &[u8]) -> Self {
        let mut stream = Vec::new();
        deflate(data, 6, &mut stream);
        self.raw(kind, size, &stream)
    }

    /// An entry whose zlib stream is given as it is.
    pub fn raw(mut self, kind: EntryKind, size: u64, stream: &[u8]) -> Self {
        write_entry_header(kind, size, &mut self.entries);
        self.entries.extend_from_slice(stream);
        self.count += 1;
        self
    }

    pub fn build(&self) -> Vec<u8> {
        self.build_as(self.count)
    }

    /// With another count in the header.
    pub fn build_as(&self, count: u32) -> Vec<u8> {
        let mut out = pack_header(count).to_vec();
        out.extend_from_slice(&self.entries);
        seal(out)
    }
}

/// Puts the trailer behind a pack.
pub fn seal(mut pack: Vec<u8>) -> Vec<u8> {
    let mut hasher = gix::hash::hasher(gix::hash::Kind::Sha1);
    hasher.update(&pack);
    pack.extend_from_slice(hasher.try_finalize().expect("no collision").as_slice());
    pack
}

/// A delta: sizes of base and result, and instructions as they are.
pub fn delta(base: u64, result: u64, instructions: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for mut n in [base, result] {
        while n >= 0x80 {
            out.push(n as u8 | 0x80);
            n >>= 7;
        }
        out.push(n as u8);
    }
    out.extend_from_slice(instructions);
    out
}

/// The instruction to copy `size` bytes (at most 0xffffff) from `offset`.
pub fn copy(offset: u32, size: u32) -> Vec<u8> {
    let mut out = vec![0xff];
    out.extend_from_slice(&offset.to_le_bytes());
    out.extend_from_slice(&size.to_le_bytes()[..3]);
    out
}

/// The id of an object.
pub fn id_of(kind: gix::objs::Kind, data: &[u8]) -> ObjectId {
    gix::objs::compute_hash(gix::hash::Kind::Sha1, kind, data).expect("no collision")
}

/// Every file beneath a directory with its length, sorted; directories too, but no empty fan-out ones.
pub fn files_beneath(dir: &Path) -> Vec<(String, u64)> {
    let mut all = Vec::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(next) = todo.pop() {
        for entry in std::fs::read_dir(next).into_iter().flatten().flatten() {
            let path = entry.path();
            let name = path.strip_prefix(dir).expect("beneath").display().to_string();
            match entry.metadata() {
                Ok(meta) if meta.is_dir() => {
                    if name.len() != 2 {
                        all.push((name, 0));
                    }
                    todo.push(path);
                }
                Ok(meta) => all.push((name, meta.len())),
                Err(_) => {}
            }
        }
    }
    all.sort();
    all
}

/// The most memory that the server had so far, in MiB.
pub fn peak_mib(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).expect("the server runs");
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .expect("a Linux kernel");
    let kib: u64 = line
        .split_whitespace()
        .nth(1)
        .and_then(|n| n.parse().ok())
        .expect("a number");
    kib / 1024
}

/// Waits until something is so.
#[track_caller]
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
