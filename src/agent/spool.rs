//! What an agent writes, byte for byte on disk.

use std::{
    fs, io,
    io::{Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::Duration,
};

use tokio::sync::Notify;

use super::output::Stream;
use crate::base::Limits;

/// How much of an agent's output stays on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpoolBounds {
    /// Bytes of one file, about; then the next one begins.
    pub file_bytes: u64,
    /// Files of each stream, the newest included.
    pub files: u32,
    /// How long one file is written to; then the next one begins. Zero: for as long as there is room.
    pub age: Duration,
}

impl Default for SpoolBounds {
    fn default() -> Self {
        SpoolBounds {
            file_bytes: 16 << 20,
            files: 4,
            age: Duration::ZERO,
        }
    }
}

impl SpoolBounds {
    /// As somebody has configured them.
    pub fn of(limits: &Limits) -> Self {
        SpoolBounds {
            file_bytes: limits.agent_output_file_bytes as u64,
            files: u32::try_from(limits.agent_output_files).unwrap_or(u32::MAX),
            age: limits.agent_output_age,
        }
    }
}

/// Where an agent's output goes, byte for byte: `stdout`, and when that is full `stdout.1` and so on, the same for `stderr`. A byte has a position, counted from the first one that
/// the agent has ever written to that stream; `stdout.at` says that of the first byte of a file.
#[derive(Debug)]
pub(super) struct Spool {
    shared: Arc<SpoolFiles>,
    waiting: Vec<(Stream, Vec<u8>)>,
    waiting_bytes: usize,
    /// Where the next byte of each stream goes, as soon as that is known.
    ends: Option<[u64; 2]>,
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
            ends: None,
        }
    }

    /// Says where the output of earlier processes of ours has ended ([`spooled_end`]), unless that is known.
    pub(super) fn goes_on_at(&mut self, ends: [u64; 2]) {
        self.ends.get_or_insert(ends);
    }

    /// Where the next byte goes. After a failure to write this is too far, by what is lost.
    pub(super) fn end(&self, stream: Stream) -> Option<u64> {
        self.ends.map(|ends| ends[stream as usize])
    }

    /// Takes bytes on their way to the disk. There is never more than one write of an agent under way, so that what waits is bounded by [`is_full`](Self::is_full).
    pub(super) fn push(&mut self, stream: Stream, bytes: &[u8]) {
        match self.waiting.last_mut() {
            Some((last, chunk)) if *last == stream => chunk.extend_from_slice(bytes),
            _ => self.waiting.push((stream, bytes.to_vec())),
        }
        self.waiting_bytes += bytes.len();
        if let Some(ends) = &mut self.ends {
            ends[stream as usize] += bytes.len() as u64;
        }
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
        let old = match fs::OpenOptions::new().append(true).open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            other => Some(other?),
        };
        let mut file = match old {
            Some(file) if file.metadata()?.len() < self.bounds.file_bytes && !self.is_of_age(&path) => file,
            Some(file) => {
                drop(file);
                let first = ends_at(&self.dir, stream)?;
                self.rotate(&path)?;
                begin(&path, first)?
            }
            None => {
                fs::create_dir_all(&self.dir)?;
                begin(&path, ends_at(&self.dir, stream)?)?
            }
        };
        file.write_all(bytes)
    }

    /// Whether the newest file was begun too long ago.
    fn is_of_age(&self, path: &Path) -> bool {
        if self.bounds.age.is_zero() {
            return false;
        }
        let begun = fs::metadata(path.with_extension("at")).and_then(|said| said.modified());
        // One from before there was this, or from tomorrow, is written to until it is full.
        begun.is_ok_and(|begun| begun.elapsed().is_ok_and(|age| age >= self.bounds.age))
    }

    fn rotate(&self, path: &Path) -> io::Result<()> {
        let older = |n: u32| match n {
            0 => path.to_owned(),
            n => path.with_extension(n.to_string()),
        };
        let last = self.bounds.files.max(1) - 1;
        // Once there may have been more: as older ones they would count for what they are not.
        let beyond = (last + 1..).map(older).take_while(|path| path.is_file());
        beyond.for_each(|path| drop(fs::remove_file(path)));
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

/// A new file whose first byte has this position.
fn begin(path: &Path, first: u64) -> io::Result<fs::File> {
    let file = fs::OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)?;
    // Found in no file, what it says is of no use: it may come late.
    let said = format!("{first} {}\n", file.metadata()?.ino());
    let draft = path.with_extension("at.new");
    fs::write(&draft, said)?;
    fs::rename(&draft, path.with_extension("at"))?;
    Ok(file)
}

/// The files that hold a stream on disk, newest first. Blocks.
pub fn spooled(dir: &Path, stream: Stream) -> Vec<PathBuf> {
    let newest = dir.join(stream.file_name());
    let older = (1u32..)
        .map(|n| newest.with_extension(n.to_string()))
        .take_while(|path| path.is_file());
    // Between two files there is no newest one for a moment.
    let first = Some(newest.clone()).filter(|path| path.is_file());
    first.into_iter().chain(older).collect()
}

/// The files of a stream with the position of the first byte of each and its length, oldest first. Blocks.
fn positions(dir: &Path, stream: Stream) -> io::Result<Vec<(PathBuf, u64, u64)>> {
    let mut files = Vec::new();
    for path in spooled(dir, stream) {
        let meta = fs::metadata(&path)?;
        files.push((path, meta.ino(), meta.len()));
    }
    files.reverse();
    let said = fs::read_to_string(dir.join(stream.file_name()).with_extension("at")).unwrap_or_default();
    let mut words = said.split_whitespace().map(|word| word.parse::<u64>().ok());
    let (first, of) = (words.next().flatten(), words.next().flatten());
    // Before it was ever said, the oldest file was the first.
    let (known, first) = match files.iter().position(|(_, inode, _)| Some(*inode) == of) {
        Some(at) => (at, first.unwrap_or_default()),
        None => (0, 0),
    };
    let before: u64 = files[..known].iter().map(|(_, _, length)| length).sum();
    let mut at = first.saturating_sub(before);
    let placed = files.into_iter().map(|(path, _, length)| {
        let begins = at;
        at += length;
        (path, begins, length)
    });
    Ok(placed.collect())
}

fn ends_at(dir: &Path, stream: Stream) -> io::Result<u64> {
    let files = positions(dir, stream)?;
    Ok(files.last().map_or(0, |(_, begins, length)| begins + length))
}

/// The positions behind what there is of both streams, by [`Stream`]. Blocks.
pub fn spooled_end(dir: &Path) -> [u64; 2] {
    [Stream::Stdout, Stream::Stderr].map(|stream| ends_at(dir, stream).unwrap_or_default())
}

/// A piece of a stream from disk.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SpoolPiece {
    /// The position of its first byte: later than asked for where that is not kept any more.
    pub begins: u64,
    /// Its bytes; they may be fewer than there are.
    pub bytes: Vec<u8>,
    /// The position behind the last byte that is there.
    pub end: u64,
}

/// Up to `most` bytes of a stream from position `from` on. Blocks.
///
/// # Errors
/// When there are files that cannot be read.
pub fn spooled_from(dir: &Path, stream: Stream, from: u64, most: usize) -> io::Result<SpoolPiece> {
    let newest = || fs::metadata(dir.join(stream.file_name())).map(|meta| meta.ino()).ok();
    let mut tries = 0;
    loop {
        tries += 1;
        let before = newest();
        let piece = read_from(dir, stream, from, most);
        // Where the next file was begun meanwhile, names are those of other files.
        if before == newest() || tries >= 5 {
            return piece;
        }
    }
}

fn read_from(dir: &Path, stream: Stream, from: u64, most: usize) -> io::Result<SpoolPiece> {
    let files = positions(dir, stream)?;
    let Some((_, last, length)) = files.last() else {
        return Ok(SpoolPiece::default());
    };
    let end = last + length;
    let oldest = files.first().map_or(end, |(_, begins, _)| *begins);
    let begins = from.clamp(oldest, end);
    let mut bytes = Vec::new();
    for (path, first, length) in files {
        let at = begins + bytes.len() as u64;
        if bytes.len() >= most || at >= first + length {
            continue;
        }
        let mut file = fs::File::open(path)?;
        file.seek(SeekFrom::Start(at - first))?;
        let room = (most - bytes.len()) as u64;
        file.take(room.min(first + length - at)).read_to_end(&mut bytes)?;
    }
    Ok(SpoolPiece { begins, bytes, end })
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
    use super::*;

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
    async fn a_file_that_was_begun_long_ago_is_followed_by_another_one() {
        let dir = tempfile::tempdir().expect("a directory");
        let bounds = SpoolBounds {
            age: Duration::from_secs(3_600),
            ..SpoolBounds::default()
        };
        let mut spool = Spool::new(dir.path().to_owned(), bounds);
        let mut say = async |text: &str| {
            spool.push(Stream::Stderr, text.as_bytes());
            while spool.is_behind() {
                spool.written().await;
                spool.flush();
            }
        };
        let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap_or_default();
        say("one").await;
        say("two").await;
        assert_eq!(read("stderr"), "onetwo");
        let said = fs::File::options().append(true).open(dir.path().join("stderr.at"));
        let yesterday = std::time::SystemTime::now() - Duration::from_secs(86_400);
        said.and_then(|said| said.set_modified(yesterday))
            .expect("it is older now");
        say("three").await;
        say("four").await;
        assert_eq!(
            (read("stderr.1").as_str(), read("stderr").as_str()),
            ("onetwo", "threefour")
        );
        let piece = spooled_from(dir.path(), Stream::Stderr, 4, 4).expect("read");
        assert_eq!((piece.begins, piece.bytes.as_slice()), (4, &b"woth"[..]));
    }

    #[tokio::test]
    async fn every_byte_is_on_disk_and_old_files_go() {
        let dir = tempfile::tempdir().expect("a directory");
        let bounds = SpoolBounds {
            file_bytes: 100,
            files: 2,
            age: Duration::ZERO,
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
        // Each byte is where it always was.
        let dir_of = dir.path().join("a/b");
        let begin = all.len() - kept.len();
        assert_eq!(spooled_end(&dir_of), [600, 0]);
        for (from, most) in [(0, 1_000), (begin, 3), (begin + 95, 20), (599, 9), (600, 9), (9_999, 9)] {
            let piece = spooled_from(&dir_of, Stream::Stdout, from as u64, most).expect("read");
            let first = from.clamp(begin, 600);
            assert_eq!((piece.begins, piece.end), (first as u64, 600));
            assert_eq!(piece.bytes, all[first..(first + most).min(600)], "{from} {most}");
        }
        // Killed between the names and what is said of them: that is of the file before.
        let (one, two) = (dir_of.join("stdout"), dir_of.join("stdout.1"));
        fs::rename(&one, &two).expect("renamed");
        fs::write(&one, "new").expect("written");
        assert_eq!(spooled_end(&dir_of), [603, 0]);
        assert_eq!(
            spooled_from(&dir_of, Stream::Stdout, 600, 9).expect("read").bytes,
            b"new"
        );
        let files = SpoolFiles {
            dir: dir_of.clone(),
            bounds,
            busy: AtomicBool::new(false),
            done: Notify::new(),
            failed: Mutex::default(),
        };
        // Files of when there might be more of them go with the next one.
        fs::write(dir_of.join("stdout.2"), "old").expect("written");
        files.append(Stream::Stdout, &[b'x'; 100]).expect("written");
        files.append(Stream::Stdout, b"y").expect("written");
        assert!(!dir_of.join("stdout.2").exists());
        assert_eq!(spooled_end(&dir_of), [704, 0]);
        // Killed between the two names: positions go on.
        fs::rename(&one, &two).expect("renamed");
        assert_eq!(spooled_end(&dir_of), [704, 0]);
        files.append(Stream::Stdout, b"er").expect("written");
        let piece = spooled_from(&dir_of, Stream::Stdout, 703, 9).expect("read");
        assert_eq!((piece.bytes.as_slice(), piece.end), (&b"yer"[..], 706));
        let tail = spooled_tail(&dir.path().join("a/b"), Stream::Stderr, 5, 100).expect("read");
        assert!(tail.is_empty());
    }
}
