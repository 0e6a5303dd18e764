//! The lines that differ between two texts, as `diff -u` writes them.

use bstr::{BStr, BString, ByteSlice};
use gix::diff::blob::{Algorithm, Diff, Hunk, InternedInput};

/// Bytes at whose beginning a NUL makes a file binary.
const SNIFFED: usize = 8_000;
/// Bytes of the line that is shown behind a hunk's line numbers.
const HEADING: usize = 80;

/// Whether git takes the file for binary.
pub(in crate::checkpoint) fn is_binary(data: &[u8]) -> bool {
    data[..data.len().min(SNIFFED)].contains(&0)
}

/// Lines that went and lines that came.
pub(super) struct Lines<'a> {
    input: InternedInput<&'a [u8]>,
    diff: Diff,
}

impl<'a> Lines<'a> {
    pub(super) fn new(before: &'a [u8], after: &'a [u8]) -> Self {
        let input = InternedInput::new(before, after);
        let mut diff = Diff::compute(Algorithm::Myers, &input);
        diff.postprocess_lines(&input);
        Lines { input, diff }
    }

    pub(super) fn added(&self) -> u32 {
        self.diff.count_additions()
    }

    pub(super) fn removed(&self) -> u32 {
        self.diff.count_removals()
    }

    fn before(&self, n: u32) -> &'a [u8] {
        self.input.interner[self.input.before[n as usize]]
    }

    fn after(&self, n: u32) -> &'a [u8] {
        self.input.interner[self.input.after[n as usize]]
    }

    /// Appends the hunks, each change with `context` lines around it. Gives up and says so once `out` has more than `most` bytes.
    pub(super) fn write(&self, context: u32, most: usize, out: &mut Vec<u8>) -> bool {
        let mut hunks = self.diff.hunks().peekable();
        let mut heading = Heading::default();
        let mut group: Vec<Hunk> = Vec::new();
        while let Some(first) = hunks.next() {
            group.clear();
            let mut end = first.before.end;
            group.push(first);
            while let Some(next) = hunks.next_if(|next| next.before.start - end <= context.saturating_mul(2)) {
                end = next.before.end;
                group.push(next);
            }
            self.write_group(&group, context, &mut heading, out);
            if out.len() > most {
                return false;
            }
        }
        true
    }

    fn write_group(&self, group: &[Hunk], context: u32, heading: &mut Heading<'a>, out: &mut Vec<u8>) {
        let (Some(first), Some(last)) = (group.first(), group.last()) else {
            return;
        };
        let lead = context.min(first.before.start);
        let trail = context.min(self.input.before.len() as u32 - last.before.end);
        let old = first.before.start - lead..last.before.end + trail;
        let new = first.after.start - lead..last.after.end + trail;
        let range = |range: &std::ops::Range<u32>| match range.len() {
            0 => format!("{},0", range.start),
            1 => format!("{}", range.start + 1),
            len => format!("{},{len}", range.start + 1),
        };
        out.extend_from_slice(format!("@@ -{} +{} @@", range(&old), range(&new)).as_bytes());
        if let Some(line) = heading.above(old.start, |n| self.before(n)) {
            out.push(b' ');
            out.extend_from_slice(line);
        }
        out.push(b'\n');
        let mut at = old.start;
        for hunk in group {
            for n in at..hunk.before.start {
                line(b' ', self.before(n), out);
            }
            for n in hunk.before.clone() {
                line(b'-', self.before(n), out);
            }
            for n in hunk.after.clone() {
                line(b'+', self.after(n), out);
            }
            at = hunk.before.end;
        }
        for n in at..old.end {
            line(b' ', self.before(n), out);
        }
    }
}

fn line(sign: u8, text: &[u8], out: &mut Vec<u8>) {
    out.push(sign);
    out.extend_from_slice(text);
    if !text.ends_with(b"\n") {
        out.extend_from_slice(b"\n\\ No newline at end of file\n");
    }
}

/// The last line above a hunk that begins with a letter, `_` or `$`: most often what the hunk is part of.
#[derive(Default)]
struct Heading<'a> {
    seen: u32,
    found: Option<&'a [u8]>,
}

impl<'a> Heading<'a> {
    fn above(&mut self, start: u32, line: impl Fn(u32) -> &'a [u8]) -> Option<&'a [u8]> {
        let begins =
            |text: &[u8]| matches!(text.first(), Some(b) if b.is_ascii_alphabetic() || matches!(b, b'_' | b'$'));
        if let Some(text) = (self.seen..start).rev().map(line).find(|text| begins(text)) {
            self.found = Some(text[..text.len().min(HEADING)].trim_end());
        }
        self.seen = self.seen.max(start);
        self.found
    }
}

/// A path as git writes it: between quotes, with escapes, when it holds quotes, backslashes, control characters or bytes beyond ASCII.
pub(super) fn quoted(prefix: &str, path: &BStr) -> BString {
    let plain = |byte: u8| (0x20..0x7f).contains(&byte) && !matches!(byte, b'"' | b'\\');
    let mut out = BString::default();
    if path.iter().copied().all(plain) {
        out.extend_from_slice(prefix.as_bytes());
        out.extend_from_slice(path);
        return out;
    }
    out.push(b'"');
    out.extend_from_slice(prefix.as_bytes());
    for &byte in path.iter() {
        let short = match byte {
            b'"' | b'\\' => Some(byte),
            0x07 => Some(b'a'),
            0x08 => Some(b'b'),
            b'\t' => Some(b't'),
            b'\n' => Some(b'n'),
            0x0b => Some(b'v'),
            0x0c => Some(b'f'),
            b'\r' => Some(b'r'),
            _ => None,
        };
        match short {
            Some(short) => out.extend_from_slice(&[b'\\', short]),
            None if plain(byte) => out.push(byte),
            None => out.extend_from_slice(format!("\\{byte:03o}").as_bytes()),
        }
    }
    out.push(b'"');
    out
}
