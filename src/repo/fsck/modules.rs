//! `.gitmodules` and `.gitattributes` as a client will read them: git's configuration syntax (git-config(1)), reported value by value, so
//! that what stands before a syntax error counts, as it does for git.

use super::msg::MsgId;
use super::state::{MAX_CHECKED_BLOB, Report};
use super::url;
use bstr::ByteSlice;

/// gitattributes(5): longer lines are ignored by clients that know better and overflow those that do not.
const MAX_ATTRIBUTES_LINE: usize = 2048;

pub(super) fn check_attributes(data: &[u8], report: &mut Report<'_>) {
    if data.len() as u64 > MAX_CHECKED_BLOB {
        return report.found(MsgId::GitattributesLarge, ".gitattributes too large to parse");
    }
    // git reads it as a C string.
    let text = data.find_byte(0).and_then(|end| data.get(..end)).unwrap_or(data);
    if text
        .split(|&byte| byte == b'\n')
        .any(|line| line.len() >= MAX_ATTRIBUTES_LINE)
    {
        report.found(
            MsgId::GitattributesLineLength,
            ".gitattributes has too long lines to parse",
        );
    }
}

pub(super) fn check_modules(data: &[u8], report: &mut Report<'_>) {
    let mut parser = Parser {
        data,
        at: 0,
        section: Vec::new(),
        key: Vec::new(),
        value: Vec::new(),
    };
    loop {
        match parser.next() {
            Ok(true) => check_value(&parser, report),
            Ok(false) => return,
            Err(Syntax) => return report.found(MsgId::GitmodulesParse, "could not parse gitmodules blob"),
        }
    }
}

fn check_value(parser: &Parser<'_>, report: &mut Report<'_>) {
    // `submodule.<name>.<key>`: the name is what stands between the first and the last dot.
    let Some(name) = parser.section.strip_prefix(b"submodule.") else {
        return;
    };
    if !is_submodule_name(name) {
        report.found_quoting(MsgId::GitmodulesName, "disallowed submodule name: ", name);
    }
    let value = parser.value.as_slice();
    match parser.key.as_slice() {
        b"url" if url::is_disallowed(value) => {
            report.found_quoting(MsgId::GitmodulesUrl, "disallowed submodule url: ", value);
        }
        b"path" if value.starts_with(b"-") => {
            report.found_quoting(MsgId::GitmodulesPath, "disallowed submodule path: ", value);
        }
        b"update" if value.starts_with(b"!") => {
            report.found_quoting(MsgId::GitmodulesUpdate, "disallowed submodule update setting: ", value);
        }
        _ => {}
    }
}

/// The name becomes a directory under `.git/modules/`.
fn is_submodule_name(name: &[u8]) -> bool {
    !name.is_empty()
        && !name
            .split(|&byte| byte == b'/' || byte == b'\\')
            .any(|part| part == b"..")
}

/// The bytes are no configuration.
struct Syntax;

/// A pull parser: after `Ok(true)`, `section`, `key` and `value` (empty for a key without `=`) are those of one line.
struct Parser<'a> {
    data: &'a [u8],
    at: usize,
    section: Vec<u8>,
    key: Vec<u8>,
    value: Vec<u8>,
}

impl Parser<'_> {
    /// The next byte; a carriage return before a line feed is none, and the end is a line feed as often as it is asked for.
    fn byte(&mut self) -> u8 {
        let mut byte = self.data.get(self.at).copied();
        if byte == Some(b'\r') && self.data.get(self.at + 1) == Some(&b'\n') {
            self.at += 1;
            byte = Some(b'\n');
        }
        self.at = self.at.saturating_add(1);
        byte.unwrap_or(b'\n')
    }

    fn is_at_end(&self) -> bool {
        self.at >= self.data.len()
    }

    fn next(&mut self) -> Result<bool, Syntax> {
        while !self.is_at_end() {
            match self.byte() {
                b' ' | b'\t' | b'\n' | b'\r' => {}
                b'#' | b';' => while self.byte() != b'\n' {},
                b'[' => self.read_section()?,
                byte if byte.is_ascii_alphabetic() => {
                    self.read_key_and_value(byte)?;
                    return Ok(true);
                }
                _ => return Err(Syntax),
            }
        }
        Ok(false)
    }

    fn read_section(&mut self) -> Result<(), Syntax> {
        self.section.clear();
        loop {
            if self.is_at_end() {
                return Err(Syntax);
            }
            match self.byte() {
                b']' if self.section.is_empty() => return Err(Syntax),
                b']' => return Ok(()),
                b' ' | b'\t' | b'\r' => break,
                byte if byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.' => {
                    self.section.push(byte.to_ascii_lowercase());
                }
                _ => return Err(Syntax),
            }
        }
        loop {
            match self.byte() {
                b' ' | b'\t' | b'\r' => {}
                b'"' => break,
                _ => return Err(Syntax),
            }
        }
        self.section.push(b'.');
        loop {
            match self.byte() {
                b'\n' => return Err(Syntax),
                b'"' => break,
                b'\\' => match self.byte() {
                    b'\n' => return Err(Syntax),
                    byte => self.section.push(byte),
                },
                byte => self.section.push(byte),
            }
        }
        if self.byte() == b']' { Ok(()) } else { Err(Syntax) }
    }

    fn read_key_and_value(&mut self, first: u8) -> Result<(), Syntax> {
        self.key.clear();
        self.value.clear();
        let mut byte = first;
        while byte.is_ascii_alphanumeric() || byte == b'-' {
            self.key.push(byte.to_ascii_lowercase());
            byte = self.byte();
        }
        while byte == b' ' || byte == b'\t' {
            byte = self.byte();
        }
        match byte {
            b'\n' => Ok(()),
            b'=' => self.read_value(),
            _ => Err(Syntax),
        }
    }

    fn read_value(&mut self) -> Result<(), Syntax> {
        let mut quoted = false;
        let mut in_comment = false;
        // Up to where the value is kept: white space at the end is not.
        let mut kept = 0;
        loop {
            let byte = self.byte();
            match byte {
                b'\n' if quoted => return Err(Syntax),
                b'\n' => {
                    self.value.truncate(kept);
                    return Ok(());
                }
                _ if in_comment => {}
                b' ' | b'\t' | b'\r' if !quoted => {
                    if kept > 0 {
                        self.value.push(byte);
                    }
                }
                b'#' | b';' if !quoted => in_comment = true,
                b'\\' => {
                    let escaped = match self.byte() {
                        b'\n' => continue,
                        b't' => b'\t',
                        b'b' => 0x08,
                        b'n' => b'\n',
                        byte @ (b'\\' | b'"') => byte,
                        _ => return Err(Syntax),
                    };
                    self.value.push(escaped);
                    kept = self.value.len();
                }
                b'"' => {
                    quoted = !quoted;
                    kept = self.value.len();
                }
                byte => {
                    self.value.push(byte);
                    kept = self.value.len();
                }
            }
        }
    }
}
