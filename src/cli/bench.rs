//! `bench`: what a git server does for its clients, as they see it, for one server or for several side by side.

use std::{
    io::{BufReader, Read},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};

use super::{args::BenchServe, client::Client, print};
use crate::protocol::{data, delim, flush};

/// Bytes of refs that are listened to.
const REFS: u64 = 256 << 20;
/// Clones ask for so many tips at most: what a request may weigh is the server's affair.
const WANTS: usize = 10_000;

/// A repository on a server.
struct Target {
    url: String,
    client: Client,
    path: String,
    /// Tips of branches and tags.
    wants: Vec<String>,
    filters: bool,
}

/// What one round of a workload took.
#[derive(Clone, Copy, Default)]
struct Sample {
    wall: Duration,
    first: Duration,
    bytes: u64,
    objects: u32,
}

/// What is asked.
#[derive(Clone, Copy, PartialEq)]
enum Workload {
    Advertisement,
    Refs,
    Clone,
    Shallow,
    Blobless,
    Clones,
}

impl Workload {
    fn name(self, options: &BenchServe) -> String {
        match self {
            Workload::Advertisement => format!("capabilities, {} times", options.requests),
            Workload::Refs => format!("list refs, {} times", options.requests),
            Workload::Clone => "clone".into(),
            Workload::Shallow => "shallow clone".into(),
            Workload::Blobless => "blobless clone".into(),
            Workload::Clones => format!("{} clones at once", options.clients),
        }
    }
}

/// Runs it.
pub(super) fn serve(options: &BenchServe) -> anyhow::Result<()> {
    let mut targets = Vec::new();
    for url in &options.urls {
        targets.push(Target::new(url, options.token.clone()).with_context(|| format!("ask {url}"))?);
    }
    print(&format!(
        "The least of {} rounds, servers in turn; each request on a connection of its own, answers thrown away.\n\n",
        options.rounds
    ))?;
    for (n, target) in targets.iter().enumerate() {
        let tips = target.wants.len();
        print(&format!(
            "[{}] {}: {tips} {}\n",
            n + 1,
            target.url,
            if tips == 1 { "tip" } else { "tips" }
        ))?;
    }
    print("\n")?;
    let all = [
        Workload::Advertisement,
        Workload::Refs,
        Workload::Shallow,
        Workload::Blobless,
        Workload::Clone,
        Workload::Clones,
    ];
    for workload in all {
        let mut best: Vec<Option<Sample>> = vec![None; targets.len()];
        for _ in 0..options.rounds {
            for (target, best) in targets.iter().zip(&mut best) {
                let is_fetch = !matches!(workload, Workload::Advertisement | Workload::Refs);
                if (workload == Workload::Blobless && !target.filters) || (is_fetch && target.wants.is_empty()) {
                    continue;
                }
                let sample = target
                    .run(workload, options)
                    .with_context(|| format!("{} of {}", workload.name(options), target.url))?;
                if best.is_none_or(|best| sample.wall < best.wall) {
                    *best = Some(sample);
                }
            }
        }
        for (n, sample) in best.iter().enumerate() {
            print(&line(&workload.name(options), n, *sample, best[0]))?;
        }
    }
    Ok(())
}

fn line(name: &str, n: usize, sample: Option<Sample>, beside: Option<Sample>) -> String {
    let head = format!("{:<24} [{}]", if n == 0 { name } else { "" }, n + 1);
    let Some(sample) = sample else {
        return format!("{head}  not offered\n");
    };
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let mut text = format!(
        "{head} {:>10.1} ms  first byte {:>8.1} ms  {:>9.2} MB",
        ms(sample.wall),
        ms(sample.first),
        sample.bytes as f64 / 1e6
    );
    if sample.objects > 0 {
        text.push_str(&format!("  {} objects", sample.objects));
    }
    if let Some(beside) = beside.filter(|_| n > 0) {
        text.push_str(&format!(
            "  {:.2} of [1]'s time",
            ms(sample.wall) / ms(beside.wall).max(1e-3)
        ));
    }
    text.push('\n');
    text
}

impl Target {
    fn new(url: &str, token: Option<String>) -> anyhow::Result<Target> {
        let Some(rest) = url.strip_prefix("http://") else {
            bail!("only URLs that begin with http:// can be measured: TLS would be measured with the rest");
        };
        let (authority, path) = rest.split_once('/').context("the URL names no repository")?;
        let path = path.trim_end_matches('/');
        if path.is_empty() {
            bail!("the URL names no repository");
        }
        let mut target = Target {
            url: url.to_owned(),
            client: Client::new(&format!("http://{authority}"), token)?,
            path: format!("/{path}"),
            wants: Vec::new(),
            filters: false,
        };
        let told = target.advertisement()?;
        let told = String::from_utf8_lossy(&told);
        if !told.contains("version 2") {
            bail!("the server does not speak version 2 of git's protocol");
        }
        target.filters = told.lines().any(|line| {
            line.get(4..)
                .is_some_and(|line| line.starts_with("fetch=") && line.contains("filter"))
        });
        let listing = target.post(&ls_refs())?;
        let (mut rest, mut line) = (&listing[..], Vec::new());
        while packet(&mut rest, &mut line)? {
            if let Some((id, _)) = std::str::from_utf8(&line).ok().and_then(|line| line.split_once(' '))
                && id.bytes().all(|b| b.is_ascii_hexdigit())
            {
                target.wants.push(id.to_owned());
            }
        }
        target.wants.sort_unstable();
        target.wants.dedup();
        if target.wants.len() > WANTS {
            bail!("more than {WANTS} tips of branches and tags");
        }
        Ok(target)
    }

    fn advertisement(&self) -> anyhow::Result<Vec<u8>> {
        let path = format!("{}/info/refs?service=git-upload-pack", self.path);
        let headers = [("Git-Protocol", "version=2"), ("Accept", "*/*")];
        read(self.client.exchange("GET", &path, &headers, None)?.ok()?)
    }

    fn open(&self, body: &[u8]) -> anyhow::Result<Box<dyn Read>> {
        let path = format!("{}/git-upload-pack", self.path);
        let headers = [
            ("Git-Protocol", "version=2"),
            ("Content-Type", "application/x-git-upload-pack-request"),
            ("Accept", "application/x-git-upload-pack-result"),
        ];
        self.client.exchange("POST", &path, &headers, Some(body))?.ok()
    }

    fn post(&self, body: &[u8]) -> anyhow::Result<Vec<u8>> {
        read(self.open(body)?)
    }

    fn run(&self, workload: Workload, options: &BenchServe) -> anyhow::Result<Sample> {
        let start = Instant::now();
        let mut sample = match workload {
            Workload::Advertisement | Workload::Refs => {
                let (mut bytes, mut first) = (0, None);
                for _ in 0..options.requests {
                    let answer = match workload {
                        Workload::Advertisement => self.advertisement()?,
                        _ => self.post(&ls_refs())?,
                    };
                    first.get_or_insert_with(|| start.elapsed());
                    bytes += answer.len() as u64;
                }
                Sample {
                    bytes,
                    first: first.unwrap_or_default(),
                    ..Sample::default()
                }
            }
            Workload::Clone => self.fetch(&[])?,
            Workload::Shallow => self.fetch(&["deepen 1"])?,
            Workload::Blobless => self.fetch(&["filter blob:none"])?,
            Workload::Clones => thread::scope(|scope| {
                let clones: Vec<_> = (0..options.clients).map(|_| scope.spawn(|| self.fetch(&[]))).collect();
                let mut total = Sample::default();
                for clone in clones {
                    let Ok(one) = clone.join() else {
                        bail!("a client has failed")
                    };
                    let one = one?;
                    total.bytes += one.bytes;
                    total.objects += one.objects;
                    total.first = total.first.max(one.first);
                }
                anyhow::Ok(total)
            })?,
        };
        sample.wall = start.elapsed();
        Ok(sample)
    }

    /// Fetches everything, as a client that has nothing, and throws it away.
    fn fetch(&self, arguments: &[&str]) -> anyhow::Result<Sample> {
        let mut body = command("fetch");
        for argument in ["ofs-delta", "no-progress"].iter().chain(arguments) {
            data(&mut body, format!("{argument}\n").as_bytes());
        }
        for want in &self.wants {
            data(&mut body, format!("want {want}\n").as_bytes());
        }
        data(&mut body, b"done\n");
        flush(&mut body);
        let start = Instant::now();
        let mut answer = BufReader::with_capacity(256 << 10, self.open(&body)?);
        let mut sample = Sample::default();
        let (mut line, mut in_pack, mut head) = (Vec::new(), false, Vec::new());
        while packet(&mut answer, &mut line)? {
            match line.split_first() {
                Some((1, pack)) if in_pack => {
                    if sample.bytes == 0 {
                        sample.first = start.elapsed();
                    }
                    sample.bytes += pack.len() as u64;
                    head.extend(pack.iter().take(12 - head.len()));
                }
                Some((3, said)) if in_pack => bail!(
                    "the server says: {}",
                    super::client::harmless(&String::from_utf8_lossy(said))
                ),
                _ if line.starts_with(b"ERR ") => {
                    bail!(
                        "the server says: {}",
                        super::client::harmless(&String::from_utf8_lossy(&line[4..]))
                    )
                }
                _ => in_pack |= line.starts_with(b"packfile"),
            }
        }
        match head.split_first_chunk::<8>() {
            Some((b"PACK\0\0\0\x02", count)) if count.len() == 4 => {
                sample.objects = u32::from_be_bytes([count[0], count[1], count[2], count[3]]);
            }
            _ => bail!("the answer holds no pack"),
        }
        Ok(sample)
    }
}

/// Reads a packet that is a line; says no at the end of the answer. The other special packets are empty lines.
fn packet(answer: &mut impl Read, line: &mut Vec<u8>) -> anyhow::Result<bool> {
    let mut head = [0; 4];
    answer.read_exact(&mut head).context("the answer ends early")?;
    let length = std::str::from_utf8(&head)
        .ok()
        .and_then(|hex| usize::from_str_radix(hex, 16).ok());
    line.clear();
    match length {
        Some(0) => Ok(false),
        Some(1..4) => Ok(true),
        Some(length) => {
            line.resize(length - 4, 0);
            answer.read_exact(line).context("the answer ends early")?;
            Ok(true)
        }
        None => bail!("the answer is not in git's packets"),
    }
}

fn read(mut body: Box<dyn Read>) -> anyhow::Result<Vec<u8>> {
    let mut answer = Vec::new();
    (&mut body)
        .take(REFS)
        .read_to_end(&mut answer)
        .context("read the answer")?;
    Ok(answer)
}

fn command(name: &str) -> Vec<u8> {
    let mut body = Vec::new();
    data(&mut body, format!("command={name}\n").as_bytes());
    data(
        &mut body,
        concat!("agent=git/gitstead-bench-", env!("CARGO_PKG_VERSION"), "\n").as_bytes(),
    );
    delim(&mut body);
    body
}

fn ls_refs() -> Vec<u8> {
    let mut body = command("ls-refs");
    for line in [
        "ref-prefix HEAD\n",
        "ref-prefix refs/heads/\n",
        "ref-prefix refs/tags/\n",
    ] {
        data(&mut body, line.as_bytes());
    }
    flush(&mut body);
    body
}
