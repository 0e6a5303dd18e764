use super::{Decoded, MAX_PAYLOAD, decode, pkt};

/// Why a text is not packets.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// A backslash before something that is no escape.
    #[error("line {line}: unknown escape")]
    Escape {
        /// Counted from 1.
        line: usize,
    },
    /// A line that does not fit into a packet.
    #[error("line {line}: longer than a packet")]
    TooLong {
        /// Counted from 1.
        line: usize,
    },
}

/// Packets as text, a line each, for people, fixtures and snapshots. [`from_text`] reads it back to the same bytes, save that upper-case
/// length digits become lower-case ones.
///
/// * `0000`, `0001`, `0002` are the special packets.
/// * Any other line is a packet's data and a line feed. `\-` at the end means that there is no line feed.
/// * `!` begins bytes that stand outside of packets, such as a pack or broken framing.
/// * Escapes: `\\ \n \r \t \0 \xNN`, and `\` before the first character of a line that would mean something else; a blank at the end of a line is `\x20`.
///
/// [`from_text`] also ignores empty lines and those that begin with `#`.
pub fn to_text(bytes: &[u8]) -> String {
    let mut out = String::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let Ok(Decoded::Complete { packet, consumed }) = decode(rest) else {
            for piece in rest.chunks(64) {
                out.push('!');
                escape(piece, &mut out);
                out.push('\n');
            }
            break;
        };
        match packet {
            pkt::Packet::Flush => out.push_str("0000"),
            pkt::Packet::Delim => out.push_str("0001"),
            pkt::Packet::ResponseEnd => out.push_str("0002"),
            pkt::Packet::Data(data) => {
                let line = data.strip_suffix(b"\n");
                match line.unwrap_or(data) {
                    b"0000" => out.push_str("\\x30000"),
                    b"0001" => out.push_str("\\x30001"),
                    b"0002" => out.push_str("\\x30002"),
                    // Would be no line at all.
                    b"" if line.is_some() => out.push_str("\\n\\-"),
                    shown => {
                        if matches!(shown.first(), Some(b'#' | b'!')) {
                            out.push('\\');
                        }
                        escape(shown, &mut out);
                    }
                }
                if line.is_none() {
                    out.push_str("\\-");
                }
            }
        }
        out.push('\n');
        rest = &rest[consumed..];
    }
    out
}

fn escape(bytes: &[u8], out: &mut String) {
    use std::fmt::Write as _;
    for (at, byte) in bytes.iter().enumerate() {
        match byte {
            b'\\' => out.push_str("\\\\"),
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            b'\t' => out.push_str("\\t"),
            // Not before a digit, where it would read like an octal number.
            0 if !bytes.get(at + 1).is_some_and(u8::is_ascii_digit) => out.push_str("\\0"),
            b' ' if at + 1 == bytes.len() => out.push_str("\\x20"),
            b' '..=b'~' => out.push(char::from(*byte)),
            _ => write!(out, "\\x{byte:02x}").expect("writing to a String does not fail"),
        }
    }
}

/// The bytes that [`to_text`] would show as this text.
pub fn from_text(text: &str) -> Result<Vec<u8>, TextError> {
    let mut out = Vec::new();
    for (at, shown) in text.lines().enumerate() {
        let line = at + 1;
        match shown {
            "0000" => pkt::flush(&mut out),
            "0001" => pkt::delim(&mut out),
            "0002" => pkt::response_end(&mut out),
            _ if shown.is_empty() || shown.starts_with('#') => {}
            _ => {
                if let Some(raw) = shown.strip_prefix('!') {
                    unescape(raw, &mut out).ok_or(TextError::Escape { line })?;
                    continue;
                }
                let mut data = Vec::new();
                match shown.strip_suffix("\\-").filter(|head| ends_unescaped(head)) {
                    Some(head) => unescape(head, &mut data).ok_or(TextError::Escape { line })?,
                    None => {
                        unescape(shown, &mut data).ok_or(TextError::Escape { line })?;
                        data.push(b'\n');
                    }
                }
                if data.len() > MAX_PAYLOAD {
                    return Err(TextError::TooLong { line });
                }
                pkt::data(&mut out, &data);
            }
        }
    }
    Ok(out)
}

/// Whether a backslash after `head` would begin an escape: not if `head` ends in an odd number of them.
fn ends_unescaped(head: &str) -> bool {
    (head.len() - head.trim_end_matches('\\').len()).is_multiple_of(2)
}

fn unescape(text: &str, out: &mut Vec<u8>) -> Option<()> {
    let mut rest = text.as_bytes();
    while let Some((byte, tail)) = rest.split_first() {
        rest = tail;
        if *byte != b'\\' {
            out.push(*byte);
            continue;
        }
        let (escape, tail) = rest.split_first()?;
        rest = tail;
        out.push(match escape {
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'0' => 0,
            b'\\' | b'#' | b'!' => *escape,
            b'x' => {
                let (digits, tail) = rest.split_first_chunk::<2>()?;
                rest = tail;
                u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?
            }
            _ => return None,
        });
    }
    Some(())
}
