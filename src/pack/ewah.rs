use super::FormatError;

const WHAT: &str = "EWAH bitmap";
/// Bytes before the words of a serialised bitmap: number of bits, number of words.
const HEAD: usize = 8;
/// Bytes behind them: which word is the last marker.
const TAIL: usize = 4;
const WORD: usize = 8;
/// Words that one marker can repeat.
const MAX_FILL: u64 = u32::MAX as u64;
/// Words as they are that can follow one marker.
const MAX_LITERALS: u64 = (1 << 31) - 1;

/// A compressed set of bits, in the form in which git stores it (the appendix of gitformat-bitmap(5)).
///
/// The bits are words of 64, the first bit lowest. A marker word says how often a word of equal bits is repeated and how many words follow as they are:
/// from the lowest bit the repeated bit, 32 bits of repetitions, 31 bits of words to follow. Bits beyond the last word are 0.
#[derive(Debug, Clone, Copy)]
pub struct Ewah<D> {
    /// Marker and literal words, big-endian.
    words: D,
    bits: u32,
}

/// One stretch of equal nature.
#[derive(Debug, Clone, Copy)]
enum Run<'a> {
    /// So many words of this bit.
    Fill(bool, u64),
    /// Words as they are, big-endian.
    Literal(&'a [u8]),
}

#[inline]
fn word(bytes: &[u8]) -> u64 {
    bytes.first_chunk::<WORD>().map_or(0, |b| u64::from_be_bytes(*b))
}

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..)?.first_chunk::<4>()?;
    Some(u32::from_be_bytes(*bytes))
}

#[derive(Clone)]
struct Runs<'a> {
    rest: &'a [u8],
    /// Literal words of the marker whose fill was given out.
    literals: u64,
}

impl<'a> Iterator for Runs<'a> {
    type Item = Run<'a>;

    #[inline]
    fn next(&mut self) -> Option<Run<'a>> {
        loop {
            if self.literals > 0 {
                // Checked when it was decoded.
                let bytes = (self.literals as usize).saturating_mul(WORD).min(self.rest.len());
                let (these, rest) = self.rest.split_at(bytes);
                (self.rest, self.literals) = (rest, 0);
                return Some(Run::Literal(these));
            }
            if self.rest.len() < WORD {
                return None;
            }
            let marker = word(self.rest);
            self.rest = &self.rest[WORD..];
            let fill = (marker >> 1) & MAX_FILL;
            self.literals = marker >> 33;
            if fill > 0 {
                return Some(Run::Fill(marker & 1 == 1, fill));
            }
        }
    }
}

impl<'a> Ewah<&'a [u8]> {
    /// Reads a serialised bitmap from the front of `data`; returns it and what follows it.
    ///
    /// # Errors
    /// When it is cut, or holds more words than `max_bits` bits need: nothing that is decoded later can be larger than that.
    pub fn decode(data: &'a [u8], max_bits: u32) -> Result<(Self, &'a [u8]), FormatError> {
        let (ewah, rest) = Self::split(data)?;
        let (mut total, mut left) = (0u64, ewah.words);
        while left.len() >= WORD {
            let marker = word(left);
            let (fill, literals) = ((marker >> 1) & MAX_FILL, marker >> 33);
            total += fill + literals;
            left = usize::try_from(literals * WORD as u64)
                .ok()
                .and_then(|skip| left.get(WORD + skip..))
                .ok_or(FormatError::Truncated { what: WHAT })?;
        }
        if total > u64::from(max_bits).div_ceil(64) {
            return Err(FormatError::Invalid {
                what: WHAT,
                why: "it is longer than what it is about",
            });
        }
        Ok((ewah, rest))
    }

    /// What follows the serialised bitmap at the front of `data`. Looks at nothing but its length.
    ///
    /// # Errors
    /// When it is cut.
    pub fn skip(data: &'a [u8]) -> Result<&'a [u8], FormatError> {
        Ok(Self::split(data)?.1)
    }

    fn split(data: &'a [u8]) -> Result<(Self, &'a [u8]), FormatError> {
        const CUT: FormatError = FormatError::Truncated { what: WHAT };
        let bits = be32(data, 0).ok_or(CUT)?;
        let count = be32(data, 4).ok_or(CUT)?;
        let end = u64::from(count) * WORD as u64 + HEAD as u64;
        let end = usize::try_from(end).map_err(|_| CUT)?;
        let words = data.get(HEAD..end).ok_or(CUT)?;
        let last = be32(data, end).ok_or(CUT)?;
        if last >= count.max(1) {
            return Err(FormatError::Invalid {
                what: WHAT,
                why: "its last marker is outside of it",
            });
        }
        Ok((Ewah { words, bits }, &data[end + TAIL..]))
    }
}

impl Ewah<Vec<u8>> {
    /// Compresses words.
    pub fn from_words(words: &[u64]) -> Self {
        let used = words.iter().rposition(|word| *word != 0).map_or(0, |last| last + 1);
        let mut builder = Builder::default();
        for word in &words[..used] {
            builder.word(*word);
        }
        builder.finish((used as u64).saturating_mul(64))
    }

    /// Compresses the set that consists of these bits, which are in ascending order; repetitions do no harm.
    ///
    /// # Panics
    /// When they are not in order.
    pub fn from_ones(ones: impl IntoIterator<Item = u32>) -> Self {
        let mut builder = Builder::default();
        let (mut at, mut word, mut bits) = (0u64, 0u64, 0u64);
        for bit in ones {
            let place = u64::from(bit) / 64;
            assert!(place >= at, "because bits come in ascending order");
            if place > at {
                builder.word(word);
                builder.fill(false, place - at - 1);
                (at, word) = (place, 0);
            }
            word |= 1 << (bit % 64);
            bits = bits.max(u64::from(bit) + 1);
        }
        if word != 0 {
            builder.word(word);
        }
        builder.finish(bits)
    }
}

impl<D: AsRef<[u8]>> Ewah<D> {
    fn runs(&self) -> Runs<'_> {
        Runs {
            rest: self.words.as_ref(),
            literals: 0,
        }
    }

    /// Number of bits that it claims to hold. Writers round up as they like, and no bit beyond is set.
    pub fn bits(&self) -> u32 {
        self.bits
    }

    /// The words in their order, as far as they were stored.
    pub fn words(&self) -> impl Iterator<Item = u64> + '_ {
        self.runs().flat_map(|run| {
            let (fill, literal): (_, &[u8]) = match run {
                Run::Fill(bit, count) => (std::iter::repeat_n(all(bit), count as usize), &[]),
                Run::Literal(bytes) => (std::iter::repeat_n(0, 0), bytes),
            };
            fill.chain(literal.chunks_exact(WORD).map(word))
        })
    }

    /// The bits that are set, in ascending order. Steps over what is empty.
    pub fn ones(&self) -> impl Iterator<Item = u32> + '_ {
        let mut at = 0u64;
        self.runs().flat_map(move |run| {
            let start = at;
            let (bits, literal): (_, &[u8]) = match run {
                Run::Fill(bit, count) => {
                    at += count * 64;
                    (if bit { start..at } else { 0..0 }, &[])
                }
                Run::Literal(bytes) => {
                    at += (bytes.len() / WORD) as u64 * 64;
                    (0..0, bytes)
                }
            };
            let words = literal.chunks_exact(WORD).map(word).enumerate();
            bits.chain(words.flat_map(move |(n, word)| {
                let base = start + n as u64 * 64;
                ones_of(word).map(move |bit| base + u64::from(bit))
            }))
            .map(|bit| bit as u32)
        })
    }

    /// How many bits are set.
    pub fn count_ones(&self) -> u64 {
        self.runs()
            .map(|run| match run {
                Run::Fill(bit, count) => u64::from(bit) * count * 64,
                Run::Literal(bytes) => bytes.chunks_exact(WORD).map(|w| u64::from(word(w).count_ones())).sum(),
            })
            .sum()
    }

    /// The words of `dense` that each run is about; what lies beyond its end is passed over.
    #[inline]
    fn each_run(&self, dense: &mut [u64], mut act: impl FnMut(&mut [u64], Run<'_>)) -> usize {
        let mut at = 0usize;
        for run in self.runs() {
            let len = match run {
                Run::Fill(_, count) => count as usize,
                Run::Literal(bytes) => bytes.len() / WORD,
            };
            let end = at.saturating_add(len).min(dense.len());
            act(&mut dense[at..end], run);
            at = end;
        }
        at
    }

    /// `dense |= self`. Words that `dense` is too short for are left out, here and below.
    pub fn or_into(&self, dense: &mut [u64]) {
        self.each_run(dense, |dense, run| match run {
            Run::Fill(true, _) => dense.fill(!0),
            Run::Fill(false, _) => {}
            Run::Literal(bytes) => with_words(dense, bytes, |d, w| d | w),
        });
    }

    /// `dense ^= self`.
    pub fn xor_into(&self, dense: &mut [u64]) {
        self.each_run(dense, |dense, run| match run {
            Run::Fill(true, _) => dense.iter_mut().for_each(|d| *d = !*d),
            Run::Fill(false, _) => {}
            Run::Literal(bytes) => with_words(dense, bytes, |d, w| d ^ w),
        });
    }

    /// `dense &= self`.
    pub fn and_into(&self, dense: &mut [u64]) {
        let end = self.each_run(dense, |dense, run| match run {
            Run::Fill(true, _) => {}
            Run::Fill(false, _) => dense.fill(0),
            Run::Literal(bytes) => with_words(dense, bytes, |d, w| d & w),
        });
        dense[end..].fill(0);
    }

    /// `dense &= !self`.
    pub fn and_not_into(&self, dense: &mut [u64]) {
        self.each_run(dense, |dense, run| match run {
            Run::Fill(true, _) => dense.fill(0),
            Run::Fill(false, _) => {}
            Run::Literal(bytes) => with_words(dense, bytes, |d, w| d & !w),
        });
    }

    /// What is in both.
    pub fn and<E: AsRef<[u8]>>(&self, other: &Ewah<E>) -> Ewah<Vec<u8>> {
        self.combine(other, |a, b| a & b)
    }

    /// What is in either.
    pub fn or<E: AsRef<[u8]>>(&self, other: &Ewah<E>) -> Ewah<Vec<u8>> {
        self.combine(other, |a, b| a | b)
    }

    /// What is in one of them only.
    pub fn xor<E: AsRef<[u8]>>(&self, other: &Ewah<E>) -> Ewah<Vec<u8>> {
        self.combine(other, |a, b| a ^ b)
    }

    /// What is in this one only.
    pub fn and_not<E: AsRef<[u8]>>(&self, other: &Ewah<E>) -> Ewah<Vec<u8>> {
        self.combine(other, |a, b| a & !b)
    }

    /// Word by word, where one of them is not a fill. What `op` makes of two zeros must be zero.
    fn combine<E: AsRef<[u8]>>(&self, other: &Ewah<E>, op: impl Fn(u64, u64) -> u64) -> Ewah<Vec<u8>> {
        let (mut a, mut b) = (Cursor::new(self.runs()), Cursor::new(other.runs()));
        let mut builder = Builder::default();
        let mut pending = 0;
        while !(a.done() && b.done()) {
            // Beyond its end a bitmap is empty.
            let len = match (a.len(), b.len()) {
                (0, len) | (len, 0) => len,
                (a, b) => a.min(b),
            };
            if let (Some(x), Some(y)) = (a.fill(), b.fill()) {
                match op(x, y) {
                    0 => pending += len,
                    word => {
                        builder.fill(false, std::mem::take(&mut pending));
                        builder.fill(word != 0, len);
                    }
                }
            } else {
                for n in 0..len {
                    match op(a.word(n), b.word(n)) {
                        0 => pending += 1,
                        word => {
                            builder.fill(false, std::mem::take(&mut pending));
                            builder.word(word);
                        }
                    }
                }
            }
            a.advance(len);
            b.advance(len);
        }
        let bits = builder.count.saturating_mul(64);
        builder.finish(bits)
    }

    /// All words, none compressed.
    pub fn to_words(&self) -> Vec<u64> {
        self.words().collect()
    }

    /// Bytes of the serialised form.
    pub fn encoded_len(&self) -> usize {
        HEAD + self.words.as_ref().len() + TAIL
    }

    /// Appends the serialised form.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let words = self.words.as_ref();
        let mut last = 0;
        let mut at = 0;
        while at < words.len() {
            last = at / WORD;
            at = at.saturating_add(((word(&words[at..]) >> 33) as usize + 1).saturating_mul(WORD));
        }
        out.extend_from_slice(&self.bits.to_be_bytes());
        out.extend_from_slice(&((words.len() / WORD) as u32).to_be_bytes());
        out.extend_from_slice(words);
        out.extend_from_slice(&(last as u32).to_be_bytes());
    }
}

/// The same set, however it is compressed.
impl<D: AsRef<[u8]>, E: AsRef<[u8]>> PartialEq<Ewah<E>> for Ewah<D> {
    fn eq(&self, other: &Ewah<E>) -> bool {
        self.ones().eq(other.ones())
    }
}

fn all(bit: bool) -> u64 {
    if bit { !0 } else { 0 }
}

/// The places of the bits that are set in a word, ascending.
fn ones_of(mut word: u64) -> impl Iterator<Item = u32> {
    std::iter::from_fn(move || {
        (word != 0).then(|| {
            let bit = word.trailing_zeros();
            word &= word - 1;
            bit
        })
    })
}

#[inline]
fn with_words(dense: &mut [u64], bytes: &[u8], op: impl Fn(u64, u64) -> u64) {
    for (d, w) in dense.iter_mut().zip(bytes.chunks_exact(WORD)) {
        *d = op(*d, word(w));
    }
}

/// A place within the runs of one bitmap.
struct Cursor<'a> {
    runs: Runs<'a>,
    run: Option<Run<'a>>,
}

impl<'a> Cursor<'a> {
    fn new(mut runs: Runs<'a>) -> Self {
        let run = runs.next();
        Cursor { runs, run }
    }

    fn done(&self) -> bool {
        self.run.is_none()
    }

    /// Words left of the present run; 0 at the end.
    fn len(&self) -> u64 {
        match self.run {
            None => 0,
            Some(Run::Fill(_, count)) => count,
            Some(Run::Literal(bytes)) => (bytes.len() / WORD) as u64,
        }
    }

    fn fill(&self) -> Option<u64> {
        match self.run {
            None => Some(0),
            Some(Run::Fill(bit, _)) => Some(all(bit)),
            Some(Run::Literal(_)) => None,
        }
    }

    fn word(&self, n: u64) -> u64 {
        match self.run {
            None => 0,
            Some(Run::Fill(bit, _)) => all(bit),
            Some(Run::Literal(bytes)) => bytes.get(n as usize * WORD..).map_or(0, word),
        }
    }

    fn advance(&mut self, by: u64) {
        let left = self.len().saturating_sub(by);
        self.run = match self.run {
            Some(Run::Fill(bit, _)) if left > 0 => Some(Run::Fill(bit, left)),
            Some(Run::Literal(bytes)) if left > 0 => Some(Run::Literal(&bytes[by as usize * WORD..])),
            _ => self.runs.next(),
        };
    }
}

/// Compresses words as they come.
struct Builder {
    words: Vec<u8>,
    /// Where the last marker is, and what it says.
    marker_at: usize,
    bit: bool,
    fill: u64,
    literals: u64,
    /// Words so far.
    count: u64,
}

impl Default for Builder {
    fn default() -> Self {
        Builder {
            words: vec![0; WORD],
            marker_at: 0,
            bit: false,
            fill: 0,
            literals: 0,
            count: 0,
        }
    }
}

impl Builder {
    fn mark(&mut self) {
        let marker = u64::from(self.bit) | (self.fill << 1) | (self.literals << 33);
        self.words[self.marker_at..self.marker_at + WORD].copy_from_slice(&marker.to_be_bytes());
    }

    fn next_marker(&mut self) {
        self.mark();
        self.marker_at = self.words.len();
        self.words.extend_from_slice(&[0; WORD]);
        (self.bit, self.fill, self.literals) = (false, 0, 0);
    }

    fn fill(&mut self, bit: bool, mut count: u64) {
        self.count += count;
        while count > 0 {
            if self.literals > 0 || (self.fill > 0 && self.bit != bit) || self.fill == MAX_FILL {
                self.next_marker();
            }
            let now = count.min(MAX_FILL - self.fill);
            self.bit = bit;
            self.fill += now;
            count -= now;
        }
    }

    #[inline]
    fn word(&mut self, word: u64) {
        match word {
            0 => self.fill(false, 1),
            u64::MAX => self.fill(true, 1),
            word => {
                if self.literals == MAX_LITERALS {
                    self.next_marker();
                }
                self.count += 1;
                self.literals += 1;
                self.words.extend_from_slice(&word.to_be_bytes());
            }
        }
    }

    fn finish(mut self, bits: u64) -> Ewah<Vec<u8>> {
        self.mark();
        Ewah {
            words: self.words,
            bits: u32::try_from(bits).unwrap_or(u32::MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn encoded<D: AsRef<[u8]>>(ewah: &Ewah<D>) -> Vec<u8> {
        let mut bytes = Vec::new();
        ewah.encode(&mut bytes);
        assert_eq!(bytes.len(), ewah.encoded_len());
        bytes
    }

    /// Words with stretches of equal ones, as real bitmaps have.
    fn words() -> impl Strategy<Value = Vec<u64>> {
        let stretch = (
            prop_oneof![Just(0u64), Just(!0), any::<u64>(), Just(1 << 63)],
            1usize..20,
        );
        prop::collection::vec(stretch, 0..12).prop_map(|parts| {
            parts
                .into_iter()
                .flat_map(|(word, count)| std::iter::repeat_n(word, count))
                .collect()
        })
    }

    fn set(words: &[u64]) -> BTreeSet<u32> {
        let bits = words.iter().enumerate();
        bits.flat_map(|(n, word)| {
            (0..64)
                .filter(move |bit| word >> bit & 1 == 1)
                .map(move |bit| n as u32 * 64 + bit)
        })
        .collect()
    }

    fn padded(mut words: Vec<u64>, len: usize) -> Vec<u64> {
        words.resize(len, 0);
        words
    }

    proptest! {
        #[test]
        fn what_is_compressed_comes_back(words in words(), tail: Vec<u8>) {
            let ewah = Ewah::from_words(&words);
            let mut bytes = encoded(&ewah);
            bytes.extend_from_slice(&tail);
            let (read, rest) = Ewah::decode(&bytes, words.len() as u32 * 64).expect("our own bytes");
            prop_assert_eq!(rest, &tail[..]);
            prop_assert_eq!(Ewah::skip(&bytes).expect("our own bytes"), &tail[..]);
            prop_assert_eq!(padded(read.to_words(), words.len()), words.clone());
            let ones = set(&words);
            prop_assert!(read.ones().eq(ones.iter().copied()));
            prop_assert_eq!(read.count_ones(), ones.len() as u64);
            prop_assert!(ones.last().is_none_or(|last| *last < read.bits()));
            let again = Ewah::from_ones(ones);
            prop_assert_eq!(&again, &read);
            prop_assert_eq!(again.words, ewah.words);
        }

        #[test]
        fn operations_are_those_of_sets(a in words(), b in words()) {
            let (x, y) = (Ewah::from_words(&a), Ewah::from_words(&b));
            let len = a.len().max(b.len());
            let (a, b) = (padded(a, len), padded(b, len));
            let each = |op: fn(u64, u64) -> u64| a.iter().zip(&b).map(|(a, b)| op(*a, *b)).collect::<Vec<_>>();
            let (mut or, mut and, mut xor, mut and_not) = (a.clone(), a.clone(), a.clone(), a.clone());
            y.or_into(&mut or);
            y.and_into(&mut and);
            y.xor_into(&mut xor);
            y.and_not_into(&mut and_not);
            let expected = [each(|a, b| a | b), each(|a, b| a & b), each(|a, b| a ^ b), each(|a, b| a & !b)];
            prop_assert_eq!(&[or, and, xor, and_not], &expected);
            for (made, expected) in [x.or(&y), x.and(&y), x.xor(&y), x.and_not(&y)].iter().zip(&expected) {
                prop_assert_eq!(&padded(made.to_words(), len), expected);
                // As small as it would be if it were made from its words.
                prop_assert_eq!(made.encoded_len(), Ewah::from_words(expected).encoded_len());
                let bytes = encoded(made);
                prop_assert!(Ewah::decode(&bytes, len as u32 * 64).is_ok());
            }
        }

        #[test]
        fn a_short_target_takes_what_fits(a in words(), len in 0usize..40) {
            let ewah = Ewah::from_words(&a);
            let mut dense = vec![0; len];
            ewah.or_into(&mut dense);
            prop_assert_eq!(dense, padded(a, len));
        }

        #[test]
        fn damaged_bytes_never_panic_and_never_grow(words in words(), damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5), cut in any::<prop::sample::Index>(), max_bits in 0u32..10_000) {
            let mut bytes = encoded(&Ewah::from_words(&words));
            for (at, value) in damage {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            let cut = cut.index(bytes.len() + 1);
            for bytes in [&bytes[..], &bytes[..cut]] {
                if let Ok((ewah, _)) = Ewah::decode(bytes, max_bits) {
                    let words = ewah.to_words();
                    prop_assert!(words.len() as u64 <= u64::from(max_bits).div_ceil(64));
                    prop_assert_eq!(ewah.ones().count() as u64, ewah.count_ones());
                    prop_assert_eq!(ewah.xor(&ewah).count_ones(), 0);
                }
            }
        }
    }

    #[test]
    fn every_cut_is_an_error() {
        let bytes = encoded(&Ewah::from_words(&[0, 5, !0, !0, 7]));
        for cut in 0..bytes.len() {
            assert!(Ewah::decode(&bytes[..cut], 320).is_err(), "cut at {cut}");
            assert!(Ewah::skip(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        assert!(Ewah::decode(&bytes, 320).is_ok());
        assert!(Ewah::decode(&bytes, 256).is_err());
    }

    #[test]
    fn a_marker_that_promises_more_than_there_is_is_an_error() {
        let mut bytes = encoded(&Ewah::from_words(&[5]));
        // Two literal words, of which one is there.
        bytes[HEAD..HEAD + WORD].copy_from_slice(&(2u64 << 33).to_be_bytes());
        assert!(Ewah::decode(&bytes, 1000).is_err());
    }

    #[test]
    fn an_empty_bitmap_is_one_marker() {
        let empty = Ewah::from_ones([]);
        assert_eq!(
            encoded(&empty),
            [0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        );
        assert_eq!(empty.ones().next(), None);
        assert_eq!(empty.or(&empty).to_words(), [0u64; 0]);
    }
}
