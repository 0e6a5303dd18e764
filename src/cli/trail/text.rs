//! Text of others on a terminal.

use std::fmt::Write as _;

use bstr::{BStr, ByteSlice as _};
use gix::hash::ObjectId;

use crate::checkpoint::{ChangeKind, FileChange};

/// Digits of an id.
pub(super) const ABBREV: usize = 10;

pub(super) fn short(id: &ObjectId) -> String {
    id.to_hex_with_len(ABBREV).to_string()
}

/// Characters that a terminal takes for orders, or that make text look like other text.
pub(super) fn is_harmful(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// One line of text: whatever a terminal could take for an order is written as its code.
pub(super) fn harmless(text: &BStr) -> String {
    clean(text, false)
}

/// As [`harmless`] for a text of several lines.
pub(super) fn harmless_lines(text: &BStr) -> String {
    clean(text, true)
}

fn clean(text: &BStr, lines: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for chunk in text.utf8_chunks() {
        for c in chunk.valid().chars() {
            if is_harmful(c) && !(lines && matches!(c, '\n' | '\t')) {
                out.extend(c.escape_default());
            } else {
                out.push(c);
            }
        }
        for byte in chunk.invalid() {
            // Writing to a string does not fail.
            let _ = write!(out, "\\x{byte:02x}");
        }
    }
    out
}

/// The name of a ref for people.
pub(super) fn ref_name(reference: &BStr) -> String {
    harmless(reference.strip_prefix(b"refs/heads/").unwrap_or(reference).as_bstr())
}

pub(super) fn files(count: usize) -> String {
    match count {
        0 => "no files".to_owned(),
        1 => "1 file".to_owned(),
        count => format!("{count} files"),
    }
}

/// A line about a file that differs: `M report.md`, `R old -> new`.
pub(super) fn change_line(change: &FileChange) -> String {
    let path = harmless(change.path.as_bstr());
    match change.kind {
        ChangeKind::Added => format!("A {path}"),
        ChangeKind::Deleted => format!("D {path}"),
        ChangeKind::Modified => format!("M {path}"),
        ChangeKind::TypeChanged => format!("T {path}"),
        ChangeKind::Renamed { .. } => format!("R {} -> {path}", harmless(change.path_before())),
    }
}

/// As many of these as somebody reads, each on a line of its own, and how many more there are.
pub(super) fn list(out: &mut String, lines: impl IntoIterator<Item = String>, all: usize) {
    const MOST: usize = 100;
    for line in lines.into_iter().take(MOST) {
        out.push_str("  ");
        out.push_str(&line);
        out.push('\n');
    }
    if all > MOST {
        let _ = writeln!(out, "  ... and {} more (--json lists them)", all - MOST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_gets_no_orders() {
        let text = b"a\x1b[31mb\x9b\xc2\x9b1m\r\nc\xe2\x80\xaed\xff\tz\xc3\xbc".as_bstr();
        let line = harmless(text);
        assert_eq!(line, "a\\u{1b}[31mb\\x9b\\u{9b}1m\\r\\nc\\u{202e}d\\xff\\tzü");
        let block = harmless_lines(text);
        assert!(block.contains("\\r\nc") && block.contains("\tz") && !block.contains('\u{1b}'));
    }
}
