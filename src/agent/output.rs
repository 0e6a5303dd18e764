//! What an agent writes: byte for byte on disk, its last lines in memory, its lines for whoever understands them.

use std::{
    borrow::Cow,
    collections::VecDeque,
    fs, io,
    io::{Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::Duration,
};

use serde::Serialize;
use tokio::sync::{Notify, watch};

use super::redact::Redactor;

/// Which of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    fn file_name(self) -> &'static str {
        match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        }
    }
}

/// Cuts bytes into lines. A line that is longer than the bound is given as far as that goes, and the rest of it is counted and not kept.
#[derive(Debug)]
pub(super) struct Splitter {
    most: usize,
    line: Vec<u8>,
    /// Bytes of the present line that were not kept.
    dropped: u64,
}

/// A line without its end.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Cut<'a> {
    pub(super) line: &'a [u8],
    /// Bytes of it that are not here.
    pub(super) dropped: u64,
}

impl Splitter {
    pub(super) fn new(most: usize) -> Self {
        Splitter {
            most,
            line: Vec::new(),
            dropped: 0,
        }
    }

    /// Gives every line that is whole with these bytes to `take`.
    pub(super) fn push(&mut self, mut bytes: &[u8], mut take: impl FnMut(Cut<'_>)) {
        while let Some(at) = bytes.iter().position(|&b| b == b'\n') {
            let (head, rest) = bytes.split_at(at);
            bytes = &rest[1..];
            if self.line.is_empty() && self.dropped == 0 && head.len() <= self.most {
                take(Cut { line: head, dropped: 0 });
                continue;
            }
            self.keep(head);
            self.give(&mut take);
        }
        self.keep(bytes);
    }

    /// Gives what is left, if anything is.
    pub(super) fn finish(&mut self, mut take: impl FnMut(Cut<'_>)) {
        if !self.line.is_empty() || self.dropped > 0 {
            self.give(&mut take);
        }
    }

    fn give(&mut self, take: &mut impl FnMut(Cut<'_>)) {
        let dropped = std::mem::take(&mut self.dropped);
        take(Cut {
            line: &self.line,
            dropped,
        });
        self.line.clear();
        // One long line is no reason to hold its room for ever.
        if self.line.capacity() > 64 << 10 {
            self.line = Vec::new();
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = self.most - self.line.len().min(self.most);
        let kept = bytes.len().min(room);
        self.line.extend_from_slice(&bytes[..kept]);
        self.dropped += (bytes.len() - kept) as u64;
    }
}

/// One line of output, as it is remembered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// Its number; lines of an agent are counted from 1, over all its runs in this process.
    pub seq: u64,
    /// When it was whole, since 1970.
    pub at: Duration,
    /// Where it came from.
    pub stream: Stream,
    /// Its bytes, without the line end.
    pub text: Box<[u8]>,
    /// Bytes of it that are on disk only.
    pub dropped: u64,
}

/// The last lines of an agent. Whoever reads them says how far it is; who is too slow is told how many it has missed, and holds up nobody.
#[derive(Debug)]
pub struct LogRing {
    bounds: RingBounds,
    lines: Mutex<Lines>,
    last: watch::Sender<u64>,
}

/// How much is remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingBounds {
    /// Lines.
    pub lines: usize,
    /// Bytes of all lines.
    pub bytes: usize,
    /// Bytes of one line; the rest is on disk.
    pub line_bytes: usize,
}

impl Default for RingBounds {
    fn default() -> Self {
        RingBounds {
            lines: 5_000,
            bytes: 512 << 10,
            line_bytes: 16 << 10,
        }
    }
}

#[derive(Debug, Default)]
struct Lines {
    kept: VecDeque<LogLine>,
    bytes: usize,
    next: u64,
}

/// Some lines, and how to go on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogPage {
    /// In their order.
    pub lines: Vec<LogLine>,
    /// Lines after the asked-for one that are not remembered any more.
    pub missed: u64,
    /// The cursor for what comes next.
    pub cursor: u64,
}

impl LogRing {
    /// An empty one.
    pub fn new(bounds: RingBounds) -> Self {
        LogRing {
            bounds,
            lines: Mutex::default(),
            last: watch::Sender::new(0),
        }
    }

    pub(super) fn push(&self, stream: Stream, line: &[u8], dropped: u64, at: Duration, redactor: Option<&Redactor>) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let shown = match redactor {
            Some(redactor) => redactor.beginning(line, self.bounds.line_bytes),
            None => Cow::Borrowed(&line[..line.len().min(self.bounds.line_bytes)]),
        };
        let kept = &*shown;
        let mut lines = self.lock();
        lines.next += 1;
        let seq = lines.next;
        lines.bytes += kept.len();
        lines.kept.push_back(LogLine {
            seq,
            at,
            stream,
            text: kept.into(),
            dropped: dropped + line.len().saturating_sub(self.bounds.line_bytes) as u64,
        });
        while lines.kept.len() > self.bounds.lines || (lines.bytes > self.bounds.bytes && lines.kept.len() > 1) {
            let Some(oldest) = lines.kept.pop_front() else { break };
            lines.bytes -= oldest.text.len();
        }
    }

    /// Wakes those who follow. Once for many lines.
    pub(super) fn ring(&self) {
        let next = self.lock().next;
        self.last.send_replace(next);
    }

    /// Up to `most` lines after number `after`.
    pub fn after(&self, after: u64, most: usize) -> LogPage {
        let lines = self.lock();
        let first = lines.kept.front().map_or(lines.next + 1, |line| line.seq);
        let after = after.min(lines.next);
        let missed = first.saturating_sub(after + 1);
        let begin = usize::try_from((after + 1).saturating_sub(first)).unwrap_or(usize::MAX);
        let page: Vec<_> = lines.kept.iter().skip(begin).take(most).cloned().collect();
        let cursor = page.last().map_or(after + missed, |line| line.seq);
        LogPage {
            lines: page,
            missed,
            cursor,
        }
    }

    /// The last `most` lines.
    pub fn last(&self, most: usize) -> LogPage {
        let next = self.lock().next;
        let most_u64 = u64::try_from(most).unwrap_or(u64::MAX);
        let page = self.after(next.saturating_sub(most_u64), most);
        LogPage { missed: 0, ..page }
    }

    /// Changes when there are more lines.
    pub fn follow(&self) -> watch::Receiver<u64> {
        self.last.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How much of an agent's output stays on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpoolBounds {
    /// Bytes of one file, about; then the next one begins.
    pub file_bytes: u64,
    /// Files of each stream, the newest included.
    pub files: u32,
}

impl Default for SpoolBounds {
    fn default() -> Self {
        SpoolBounds {
            file_bytes: 16 << 20,
            files: 4,
        }
    }
}

/// Where an agent's output goes, byte for byte: `stdout`, and when that is full `stdout.1` and so on, the same for `stderr`.
#[derive(Debug)]
pub(super) struct Spool {
    shared: Arc<SpoolFiles>,
    waiting: Vec<(Stream, Vec<u8>)>,
    waiting_bytes: usize,
}

#[derive(Debug)]
struct SpoolFiles {
    dir: PathBuf,
    bounds: SpoolBounds,
    /// Whether a write is under way.
    busy: AtomicBool,
    done: Notify,
    failed: Mutex<Option<String>>,
}

/// A write for the thread that does them.
struct Write {
    to: Arc<SpoolFiles>,
    chunks: Vec<(Stream, Vec<u8>)>,
}

/// Bytes that wait while a write is under way, before an agent is not read from.
const WAITING: usize = 512 << 10;

impl Spool {
    pub(super) fn new(dir: PathBuf, bounds: SpoolBounds) -> Self {
        Spool {
            shared: Arc::new(SpoolFiles {
                dir,
                bounds,
                busy: AtomicBool::new(false),
                done: Notify::new(),
                failed: Mutex::default(),
            }),
            waiting: Vec::new(),
            waiting_bytes: 0,
        }
    }

    /// Takes bytes on their way to the disk. There is never more than one write of an agent under way, so that what waits is bounded by [`is_full`](Self::is_full).
    pub(super) fn push(&mut self, stream: Stream, bytes: &[u8]) {
        match self.waiting.last_mut() {
            Some((last, chunk)) if *last == stream => chunk.extend_from_slice(bytes),
            _ => self.waiting.push((stream, bytes.to_vec())),
        }
        self.waiting_bytes += bytes.len();
        self.flush();
    }

    /// Whether nothing more should be read before the disk has taken some.
    pub(super) fn is_full(&self) -> bool {
        self.waiting_bytes >= WAITING
    }

    /// Whether there is something that is not on disk yet. What came while a write was under way is behind also when that has just ended: nobody else would hand it over, and
    /// nothing is read while too much waits.
    pub(super) fn is_behind(&self) -> bool {
        !self.waiting.is_empty() || self.is_busy()
    }

    /// Whether a write is under way.
    pub(super) fn is_busy(&self) -> bool {
        self.shared.busy.load(Ordering::Acquire)
    }

    /// Hands what waits to the thread that writes, unless that is at it.
    pub(super) fn flush(&mut self) {
        if self.waiting.is_empty() || self.shared.busy.swap(true, Ordering::AcqRel) {
            return;
        }
        let chunks = std::mem::take(&mut self.waiting);
        self.waiting_bytes = 0;
        let write = Write {
            to: Arc::clone(&self.shared),
            chunks,
        };
        if writer().send(write).is_err() {
            self.shared.fail("there is no thread to write it".to_owned());
            self.shared.end();
        }
    }

    /// Waits until the write that is under way is done.
    pub(super) async fn written(&self) {
        let done = self.shared.done.notified();
        if self.is_busy() {
            done.await;
        }
    }

    /// Why output is not on disk, once.
    pub(super) fn take_failure(&self) -> Option<String> {
        self.shared.failed.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// The thread of the process that writes output. Each agent has at most one write in its queue.
fn writer() -> &'static mpsc::Sender<Write> {
    static WRITER: OnceLock<mpsc::Sender<Write>> = OnceLock::new();
    WRITER.get_or_init(|| {
        let (send, receive) = mpsc::channel::<Write>();
        let started = std::thread::Builder::new()
            .name("agent-output".to_owned())
            .spawn(move || {
                for write in receive {
                    for (stream, bytes) in &write.chunks {
                        if let Err(error) = write.to.append(*stream, bytes) {
                            write.to.fail(error.to_string());
                            break;
                        }
                    }
                    write.to.end();
                }
            });
        if let Err(error) = started {
            tracing::error!(%error, "no thread for the output of agents");
        }
        send
    })
}

impl SpoolFiles {
    fn append(&self, stream: Stream, bytes: &[u8]) -> io::Result<()> {
        let path = self.dir.join(stream.file_name());
        let open = || fs::OpenOptions::new().append(true).create(true).mode(0o600).open(&path);
        let mut file = match open() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(&self.dir)?;
                open()?
            }
            other => other?,
        };
        if file.metadata()?.len() >= self.bounds.file_bytes {
            drop(file);
            self.rotate(&path)?;
            file = open()?;
        }
        file.write_all(bytes)
    }

    fn rotate(&self, path: &Path) -> io::Result<()> {
        let older = |n: u32| match n {
            0 => path.to_owned(),
            n => path.with_extension(n.to_string()),
        };
        let last = self.bounds.files.max(1) - 1;
        if last == 0 {
            return fs::remove_file(path);
        }
        for n in (0..last).rev() {
            match fs::rename(older(n), older(n + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    fn fail(&self, why: String) {
        self.failed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert(why);
    }

    fn end(&self) {
        self.busy.store(false, Ordering::Release);
        self.done.notify_waiters();
    }
}

/// The files that hold a stream on disk, newest first. Blocks.
pub fn spooled(dir: &Path, stream: Stream) -> Vec<PathBuf> {
    let newest = dir.join(stream.file_name());
    let older = (1u32..).map(|n| newest.with_extension(n.to_string()));
    std::iter::once(newest.clone())
        .chain(older)
        .take_while(|path| path.is_file())
        .collect()
}

/// The last lines of a stream from disk, for agents that ran in an earlier process. Blocks.
///
/// # Errors
/// When there is a file that cannot be read; without one there are no lines.
pub fn spooled_tail(dir: &Path, stream: Stream, lines: usize, bytes: u64) -> io::Result<Vec<Vec<u8>>> {
    let mut file = match fs::File::open(dir.join(stream.file_name())) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let length = file.metadata()?.len();
    let begin = length.saturating_sub(bytes);
    file.seek(SeekFrom::Start(begin))?;
    let mut text = Vec::new();
    file.take(bytes).read_to_end(&mut text)?;
    let mut found: Vec<_> = text.split(|&b| b == b'\n').map(<[u8]>::to_vec).collect();
    if found.last().is_some_and(Vec::is_empty) {
        found.pop();
    }
    if begin > 0 && !found.is_empty() {
        // It may have begun before.
        found.remove(0);
    }
    let skip = found.len().saturating_sub(lines);
    Ok(found.split_off(skip))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn split(most: usize, chunks: &[&[u8]]) -> Vec<(Vec<u8>, u64)> {
        let mut splitter = Splitter::new(most);
        let mut out = Vec::new();
        for chunk in chunks {
            splitter.push(chunk, |cut| out.push((cut.line.to_vec(), cut.dropped)));
        }
        splitter.finish(|cut| out.push((cut.line.to_vec(), cut.dropped)));
        out
    }

    proptest! {
        #[test]
        fn lines_do_not_depend_on_how_the_bytes_were_cut(
            bytes in proptest::collection::vec(prop_oneof![Just(b'\n'), any::<u8>()], 0..200),
            cuts in proptest::collection::vec(0usize..200, 0..8),
            most in 1usize..20,
        ) {
            let mut cuts: Vec<_> = cuts.into_iter().map(|at| at.min(bytes.len())).collect();
            cuts.sort_unstable();
            let mut chunks = Vec::new();
            let mut at = 0;
            for cut in cuts {
                chunks.push(&bytes[at..cut]);
                at = cut;
            }
            chunks.push(&bytes[at..]);
            let whole = split(most, &[&bytes]);
            prop_assert_eq!(&split(most, &chunks), &whole);
            let total: u64 = whole.iter().map(|(line, dropped)| line.len() as u64 + dropped).sum();
            let ends = bytes.iter().filter(|&&b| b == b'\n').count() as u64;
            prop_assert_eq!(total + ends, bytes.len() as u64);
            prop_assert!(whole.iter().all(|(line, _)| line.len() <= most));
        }
    }

    #[test]
    fn who_is_slow_is_told_what_was_missed() {
        let ring = LogRing::new(RingBounds {
            lines: 3,
            bytes: 1_000,
            line_bytes: 4,
        });
        assert_eq!(ring.after(0, 10), LogPage::default());
        for n in 1..=5 {
            ring.push(
                Stream::Stdout,
                format!("line {n}\r").as_bytes(),
                0,
                Duration::ZERO,
                None,
            );
        }
        let page = ring.after(0, 2);
        assert_eq!((page.missed, page.cursor), (2, 4));
        assert_eq!(page.lines[0].seq, 3);
        assert_eq!((&*page.lines[0].text, page.lines[0].dropped), (&b"line"[..], 2));
        let page = ring.after(page.cursor, 2);
        assert_eq!((page.missed, page.cursor, page.lines.len()), (0, 5, 1));
        assert_eq!(ring.after(99, 2).cursor, 5, "a cursor of an earlier process");
        assert_eq!(ring.last(2).lines.len(), 2);
    }

    #[tokio::test]
    async fn what_came_during_a_write_that_has_ended_since_is_not_forgotten() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut spool = Spool::new(dir.path().to_owned(), SpoolBounds::default());
        assert!(!spool.is_behind());
        // A write is under way, and ends before anybody looks.
        spool.shared.busy.store(true, Ordering::Release);
        spool.push(Stream::Stdout, &vec![b'x'; WAITING]);
        spool.shared.end();
        assert!(spool.is_full() && !spool.is_busy() && spool.is_behind());
        spool.written().await;
        spool.flush();
        assert!(!spool.is_full());
        while spool.is_busy() {
            spool.written().await;
        }
        assert!(!spool.is_behind());
        assert_eq!(fs::read(dir.path().join("stdout")).expect("written").len(), WAITING);
    }

    #[tokio::test]
    async fn every_byte_is_on_disk_and_old_files_go() {
        let dir = tempfile::tempdir().expect("a directory");
        let bounds = SpoolBounds {
            file_bytes: 100,
            files: 2,
        };
        let mut spool = Spool::new(dir.path().join("a/b"), bounds);
        let mut all = Vec::new();
        for n in 0u8..60 {
            let bytes = [n; 10];
            all.extend_from_slice(&bytes);
            spool.push(Stream::Stdout, &bytes);
            spool.written().await;
            spool.flush();
        }
        while spool.is_busy() {
            spool.written().await;
        }
        assert_eq!(spool.take_failure(), None);
        let read = |name: &str| fs::read(dir.path().join("a/b").join(name)).expect("it is there");
        let kept = [read("stdout.1"), read("stdout")].concat();
        assert!(kept.len() >= 100, "{}", kept.len());
        assert!(all.ends_with(&kept));
        assert!(!dir.path().join("a/b/stdout.2").exists());
        let tail = spooled_tail(&dir.path().join("a/b"), Stream::Stderr, 5, 100).expect("read");
        assert!(tail.is_empty());
    }
}
