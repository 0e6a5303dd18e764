//! What an agent writes: its last lines in memory, its lines for whoever understands them. All of it, byte for byte, is on disk (`spool`).

use std::{
    borrow::Cow,
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::Serialize;
use tokio::sync::watch;

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
    pub(super) fn file_name(self) -> &'static str {
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
    /// Behind which of the bytes it is whole, its end included.
    pub(super) end: usize,
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
        let all = bytes.len();
        while let Some(at) = bytes.iter().position(|&b| b == b'\n') {
            let (head, rest) = bytes.split_at(at);
            bytes = &rest[1..];
            let end = all - bytes.len();
            if self.line.is_empty() && self.dropped == 0 && head.len() <= self.most {
                take(Cut {
                    line: head,
                    dropped: 0,
                    end,
                });
                continue;
            }
            self.keep(head);
            self.give(end, &mut take);
        }
        self.keep(bytes);
    }

    /// Gives what is left, if anything is.
    pub(super) fn finish(&mut self, mut take: impl FnMut(Cut<'_>)) {
        if !self.line.is_empty() || self.dropped > 0 {
            self.give(0, &mut take);
        }
    }

    fn give(&mut self, end: usize, take: &mut impl FnMut(Cut<'_>)) {
        let dropped = std::mem::take(&mut self.dropped);
        take(Cut {
            line: &self.line,
            dropped,
            end,
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
    /// Its number: one more than that of the line before, and larger than those of all earlier processes of ours.
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
    /// The number before the first one.
    base: u64,
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
    /// Lines of this process after the asked-for one that are not remembered any more.
    pub missed: u64,
    /// Whether the asked-for one was of an earlier process of ours: what came after it there is on disk only.
    pub restarted: bool,
    /// The cursor for what comes next.
    pub cursor: u64,
}

impl LogRing {
    /// An empty one, of a process that began when this clock has this time, which counts from 1970.
    pub fn new(bounds: RingBounds, now: Duration) -> Self {
        // A thousand lines each millisecond are more than ever come, and numbers stay exact in JavaScript for centuries.
        let base = u64::try_from(now.as_millis()).unwrap_or_default().saturating_mul(1_024);
        LogRing {
            bounds,
            base,
            lines: Mutex::new(Lines {
                next: base,
                ..Lines::default()
            }),
            last: watch::Sender::new(base),
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
        let restarted = after > 0 && after < self.base;
        let after = after.clamp(self.base, lines.next);
        let missed = first.saturating_sub(after + 1);
        let begin = usize::try_from((after + 1).saturating_sub(first)).unwrap_or(usize::MAX);
        let page: Vec<_> = lines.kept.iter().skip(begin).take(most).cloned().collect();
        let cursor = page.last().map_or(after + missed, |line| line.seq);
        LogPage {
            lines: page,
            missed,
            restarted,
            cursor,
        }
    }

    /// Whether this process has seen no line.
    pub fn is_empty(&self) -> bool {
        self.lock().next == self.base
    }

    /// The last `most` lines.
    pub fn last(&self, most: usize) -> LogPage {
        let next = self.lock().next;
        let most_u64 = u64::try_from(most).unwrap_or(u64::MAX);
        let page = self.after(next.saturating_sub(most_u64), most);
        LogPage {
            missed: 0,
            restarted: false,
            ..page
        }
    }

    /// Changes when there are more lines.
    pub fn follow(&self) -> watch::Receiver<u64> {
        self.last.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
            let mut ends = Vec::new();
            Splitter::new(most).push(&bytes, |cut| ends.push(cut.end));
            let lines = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1);
            prop_assert!(lines.eq(ends));
            prop_assert!(whole.iter().all(|(line, _)| line.len() <= most));
        }
    }

    #[test]
    fn who_is_slow_is_told_what_was_missed() {
        let bounds = RingBounds {
            lines: 3,
            bytes: 1_000,
            line_bytes: 4,
        };
        let ring = LogRing::new(bounds, Duration::ZERO);
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
        // The next process of ours counts on, far behind.
        let next = LogRing::new(bounds, Duration::from_secs(1_800_000_000));
        assert!(next.is_empty());
        next.push(Stream::Stderr, b"new", 0, Duration::ZERO, None);
        let page = next.after(5, 2);
        assert_eq!((page.lines.len(), page.missed, page.restarted), (1, 0, true));
        assert!(page.lines[0].seq > 5 && page.lines[0].seq < 1 << 53 && !next.is_empty());
        assert!(!next.after(page.cursor, 2).restarted && !next.after(0, 2).restarted);
        assert!(!next.last(9).restarted, "it is what was asked for");
    }
}
