/// Cuts a stream of bytes into lines, whatever pieces it comes in. Lines end in `\n` and nothing else; a `\r` before it is left to the dialects.
///
/// Of a line that is longer than the limit the beginning is given once, as cut, and the rest of it is passed over: memory is bounded by the limit.
#[derive(Debug, Clone)]
pub struct Lines {
    held: Vec<u8>,
    most: usize,
    over: bool,
}

/// What a framer that has nothing to hold keeps of its buffer.
const KEPT: usize = 16 << 10;

impl Lines {
    /// Lines of at most `most` bytes.
    pub fn new(most: usize) -> Self {
        Lines {
            held: Vec::new(),
            most: most.max(1),
            over: false,
        }
    }

    /// Takes the next piece and gives each line that is complete with it, without its end, and whether it was cut.
    pub fn feed(&mut self, mut bytes: &[u8], mut line: impl FnMut(&[u8], bool)) {
        while let Some(end) = bytes.iter().position(|&b| b == b'\n') {
            let (piece, rest) = bytes.split_at(end);
            bytes = &rest[1..];
            if self.over {
                self.over = false;
            } else if self.held.is_empty() && piece.len() <= self.most {
                line(piece, false);
            } else if self.hold(piece) {
                line(&self.held, false);
            } else {
                line(&self.held, true);
            }
            self.empty();
        }
        if !self.over && !bytes.is_empty() && !self.hold(bytes) {
            line(&self.held, true);
            self.empty();
            self.over = true;
        }
    }

    /// The stream has ended: what was not ended by a `\n` is a line, too. The framer is as new afterwards.
    pub fn end(&mut self, mut line: impl FnMut(&[u8], bool)) {
        if !self.over && !self.held.is_empty() {
            line(&self.held, false);
        }
        self.empty();
        self.over = false;
    }

    /// Bytes of the line that is not complete yet.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// Whether all of it was held.
    fn hold(&mut self, piece: &[u8]) -> bool {
        let room = self.most - self.held.len();
        self.held.extend_from_slice(&piece[..room.min(piece.len())]);
        piece.len() <= room
    }

    fn empty(&mut self) {
        self.held.clear();
        self.held.shrink_to(KEPT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(bytes: &[u8], most: usize, pieces: usize) -> Vec<(Vec<u8>, bool)> {
        let mut lines = Lines::new(most);
        let mut got = Vec::new();
        for piece in bytes.chunks(pieces) {
            lines.feed(piece, |line, cut| got.push((line.to_vec(), cut)));
            assert!(lines.held() <= most);
        }
        lines.end(|line, cut| got.push((line.to_vec(), cut)));
        got
    }

    #[test]
    fn lines_are_the_same_however_the_bytes_are_cut() {
        let text = b"one\r\n\ntwo \xe2\x80\xa8 half\nthis one is long\nx\ntorn";
        let whole = cut(text, 12, 1000);
        assert_eq!(
            whole,
            [
                (b"one\r".to_vec(), false),
                (b"".to_vec(), false),
                (b"two \xe2\x80\xa8 half".to_vec(), false),
                (b"this one is ".to_vec(), true),
                (b"x".to_vec(), false),
                (b"torn".to_vec(), false),
            ]
        );
        for pieces in 1..30 {
            assert_eq!(cut(text, 12, pieces), whole, "pieces of {pieces}");
        }
    }

    #[test]
    fn a_line_as_long_as_the_limit_is_whole() {
        for pieces in 1..8 {
            assert_eq!(
                cut(b"abcd\nabcde\n", 4, pieces),
                [(b"abcd".to_vec(), false), (b"abcd".to_vec(), true)]
            );
        }
    }

    #[test]
    fn a_large_line_leaves_no_large_buffer() {
        let mut lines = Lines::new(1 << 20);
        lines.feed(&[b'x'; 500_000], |_, _| panic!("not complete"));
        lines.feed(b"\n", |line, _| assert_eq!(line.len(), 500_000));
        assert!(lines.held.capacity() <= KEPT);
    }
}
