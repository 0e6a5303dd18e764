use crate::base::Fault;

/// The most bytes of one packet, its four length digits included (gitprotocol-common, "pkt-line Format").
pub const MAX_PACKET: usize = 65_520;
/// The most bytes of data in one packet.
pub const MAX_PAYLOAD: usize = MAX_PACKET - 4;

/// One packet, borrowed from the bytes it was read from (gitprotocol-common and, for the last two, gitprotocol-v2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packet<'a> {
    /// Any number of bytes, none included: `0004` is a packet of no bytes.
    Data(&'a [u8]),
    /// `0000`: the end of a list or of a message.
    Flush,
    /// `0001`: separates the sections of a version 2 message.
    Delim,
    /// `0002`: the end of a response where the connection does not say so.
    ResponseEnd,
}

impl<'a> Packet<'a> {
    /// The data without one line feed at its end, `None` for the special packets. git treats `x` and `x\n` alike wherever it reads text.
    pub fn line(&self) -> Option<&'a [u8]> {
        match self {
            Packet::Data(data) => Some(data.strip_suffix(b"\n").unwrap_or(data)),
            _ => None,
        }
    }
}

/// Why bytes are not a packet. After this nothing that follows can be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PktError {
    /// One of the four length digits is not a hexadecimal digit.
    #[error("protocol error: bad line length character: {}", got.escape_ascii())]
    BadLengthCharacter {
        /// The four bytes that should be digits.
        got: [u8; 4],
    },
    /// A length that no packet has: 3, or more than [`MAX_PACKET`].
    #[error("protocol error: bad line length {length}")]
    BadLength {
        /// What the digits say.
        length: usize,
    },
    /// The bytes end within a packet.
    #[error("the remote end hung up unexpectedly")]
    Truncated,
}

impl PktError {
    /// Whoever wrote the bytes.
    pub fn fault(&self) -> Fault {
        Fault::Client
    }
}

/// What [`decode`] found at the beginning of some bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decoded<'a> {
    /// A packet.
    Complete {
        /// The packet.
        packet: Packet<'a>,
        /// How many bytes it took: at least 4, never more than there were.
        consumed: usize,
    },
    /// The beginning of a packet.
    Incomplete {
        /// How many more bytes are needed at least; never 0.
        needed: usize,
    },
}

/// Reads the packet at the beginning of `bytes`. The length is four hexadecimal digits of either case, nothing else (no sign, no blank).
pub fn decode(bytes: &[u8]) -> Result<Decoded<'_>, PktError> {
    let Some((digits, rest)) = bytes.split_first_chunk::<4>() else {
        return Ok(Decoded::Incomplete {
            needed: 4 - bytes.len(),
        });
    };
    let mut length = 0usize;
    for digit in digits {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            b'A'..=b'F' => digit - b'A' + 10,
            _ => return Err(PktError::BadLengthCharacter { got: *digits }),
        };
        length = length << 4 | usize::from(value);
    }
    let special = |packet| Ok(Decoded::Complete { packet, consumed: 4 });
    match length {
        0 => special(Packet::Flush),
        1 => special(Packet::Delim),
        2 => special(Packet::ResponseEnd),
        3 => Err(PktError::BadLength { length }),
        _ if length > MAX_PACKET => Err(PktError::BadLength { length }),
        _ => Ok(match rest.get(..length - 4) {
            Some(data) => Decoded::Complete {
                packet: Packet::Data(data),
                consumed: length,
            },
            None => Decoded::Incomplete {
                needed: length - bytes.len(),
            },
        }),
    }
}

/// Turns bytes that arrive in pieces into packets. However the bytes were cut, the packets are the same.
///
/// It keeps what it was fed until it is taken, so feed it a chunk at a time and only when [`Decoder::next`] has nothing more.
#[derive(Debug, Default, Clone)]
pub struct Decoder {
    buffer: Vec<u8>,
    start: usize,
}

impl Decoder {
    /// A decoder that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds bytes behind those that were not taken yet.
    pub fn feed(&mut self, bytes: &[u8]) {
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole packet; `None` when more bytes are needed. After an error the answer is the same error for ever.
    // Not an iterator: the packet borrows the decoder.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<Packet<'_>>, PktError> {
        match decode(&self.buffer[self.start..])? {
            Decoded::Complete { packet, consumed } => {
                self.start += consumed;
                Ok(Some(packet))
            }
            Decoded::Incomplete { .. } => Ok(None),
        }
    }

    /// How many more bytes the next packet needs at least; 0 if it is already whole or already wrong.
    pub fn needed(&self) -> usize {
        match decode(&self.buffer[self.start..]) {
            Ok(Decoded::Incomplete { needed }) => needed,
            _ => 0,
        }
    }

    /// The bytes that were fed but not taken.
    pub fn unread(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    /// Ends the packets and hands over the bytes that were fed but not taken: after a push's commands this is the beginning of its pack.
    pub fn into_unread(mut self) -> Vec<u8> {
        self.buffer.drain(..self.start);
        self.buffer
    }

    /// To be asked when no more bytes come: an error if they ended within a packet.
    pub fn end(&self) -> Result<(), PktError> {
        if self.unread().is_empty() {
            Ok(())
        } else {
            Err(PktError::Truncated)
        }
    }
}

/// The four digits for a packet of `payload` bytes of data; the caller keeps `payload` within [`MAX_PAYLOAD`].
pub(super) fn length_digits(payload: usize) -> [u8; 4] {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let length = payload + 4;
    [12, 8, 4, 0].map(|shift| HEX[length >> shift & 0xf])
}

/// Writes `data` as one packet, as it is. Nothing git sends as a line is longer than [`MAX_PAYLOAD`]; what is, is cut there rather than
/// break the framing. Longer streams go through [`band`](super::band).
pub fn data(out: &mut Vec<u8>, data: &[u8]) {
    let data = &data[..data.len().min(MAX_PAYLOAD)];
    out.extend_from_slice(&length_digits(data.len()));
    out.extend_from_slice(data);
}

/// Writes the pieces of `text` and a line feed as one packet. Cut like [`data`], the line feed kept.
pub fn text(out: &mut Vec<u8>, text: &[&[u8]]) {
    prefixed_text(out, &[], text);
}

pub(super) fn prefixed_text(out: &mut Vec<u8>, prefix: &[u8], text: &[&[u8]]) {
    let begin = out.len();
    out.extend_from_slice(b"0000");
    out.extend_from_slice(prefix);
    for piece in text {
        let room = (MAX_PACKET - 1).saturating_sub(out.len() - begin);
        out.extend_from_slice(&piece[..piece.len().min(room)]);
    }
    out.push(b'\n');
    let digits = length_digits(out.len() - begin - 4);
    out[begin..begin + 4].copy_from_slice(&digits);
}

/// Writes `0000`.
pub fn flush(out: &mut Vec<u8>) {
    out.extend_from_slice(b"0000");
}

/// Writes `0001`.
pub fn delim(out: &mut Vec<u8>) {
    out.extend_from_slice(b"0001");
}

/// Writes `0002`.
pub fn response_end(out: &mut Vec<u8>) {
    out.extend_from_slice(b"0002");
}

/// Writes any packet.
pub fn packet(out: &mut Vec<u8>, packet: Packet<'_>) {
    match packet {
        Packet::Data(bytes) => data(out, bytes),
        Packet::Flush => flush(out),
        Packet::Delim => delim(out),
        Packet::ResponseEnd => response_end(out),
    }
}

/// Writes an `ERR` packet: the last thing a client reads before it gives up (gitprotocol-pack, "error-line"). Not inside a side-band; there
/// it is [`Channel::Error`](super::Channel). Control characters become spaces, since clients print this on terminals.
pub fn error(out: &mut Vec<u8>, message: &str) {
    data(out, format!("ERR {}", printable(message)).as_bytes());
}

/// `message` with every control character, the line feed too, turned into a space.
pub(super) fn printable(message: &str) -> String {
    message.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
