use std::cell::OnceCell;

/// Bytes of the base that are looked up together. A match shorter than this is not found, except beside a longer one.
const BLOCK: usize = 16;
/// What one copy instruction can copy without its third length byte, which old readers do not know.
const MAX_COPY: usize = 0xffff;
const MAX_INSERT: usize = 0x7f;
/// So many new bytes in one place are not looked for elsewhere in the base.
const SMALL_CHANGE: usize = 64;

/// Appends a delta that makes `target` from `base` to `out`, if there is one of at most `max` bytes; says whether. Finds what two versions of a file have
/// in common, in time linear in their sizes; it does not look for the smallest delta.
///
/// [`apply_delta`](super::apply_delta) is its inverse.
pub fn encode_delta(base: &[u8], target: &[u8], max: usize, out: &mut Vec<u8>) -> bool {
    DeltaBase::new(base).encode(target, max, out)
}

/// A base that several targets are compared with: what is looked up in it is prepared once.
pub struct DeltaBase<D> {
    data: D,
    table: OnceCell<Table>,
}

impl<D: AsRef<[u8]>> DeltaBase<D> {
    /// Prepares nothing yet.
    pub fn new(data: D) -> Self {
        DeltaBase {
            data,
            table: OnceCell::new(),
        }
    }

    /// The bytes of the base.
    pub fn data(&self) -> &[u8] {
        self.data.as_ref()
    }

    /// As [`encode_delta`].
    pub fn encode(&self, target: &[u8], max: usize, out: &mut Vec<u8>) -> bool {
        let start = out.len();
        let mut delta = Delta {
            out,
            limit: start.saturating_add(max),
        };
        let fits = u32::try_from(self.data().len()).is_ok() && delta.encode(self, target);
        if !fits {
            out.truncate(start);
        }
        fits
    }

    fn table(&self) -> &Table {
        self.table.get_or_init(|| Table::of(self.data()))
    }
}

struct Delta<'o> {
    out: &'o mut Vec<u8>,
    limit: usize,
}

impl Delta<'_> {
    fn encode(&mut self, prepared: &DeltaBase<impl AsRef<[u8]>>, target: &[u8]) -> bool {
        let base = prepared.data();
        self.size(base.len());
        self.size(target.len());
        // Most changes are in one place: what is before it needs no table.
        let (mut at, mut literal) = (0, 0);
        let same = common(base, target);
        if same >= BLOCK {
            if !self.copy(0, same) {
                return false;
            }
            (at, literal) = (same, same);
        }
        if at == target.len() {
            return true;
        }
        // What is behind it needs none either, if there is but little between.
        let rest = &target[at..];
        let tail = common_end(&base[at..], rest);
        let between = rest.len() - tail;
        if between <= SMALL_CHANGE {
            return self.insert(&rest[..between]) && self.copy(base.len() - tail, tail);
        }
        let table = prepared.table();
        while let Some(block) = target.get(at..at + BLOCK) {
            let Some(found) = table.find(base, block) else {
                at += 1;
                // Far too much that is new: no use to go on.
                if self.out.len() + (at - literal) > self.limit {
                    return false;
                }
                continue;
            };
            let before = base[..found]
                .iter()
                .rev()
                .zip(target[literal..at].iter().rev())
                .take_while(|(a, b)| a == b)
                .count();
            let (from, to) = (found - before, at - before);
            let len = common(&base[from..], &target[to..]);
            if !self.insert(&target[literal..to]) || !self.copy(from, len) {
                return false;
            }
            at = to + len;
            literal = at;
        }
        self.insert(&target[literal..])
    }

    fn size(&mut self, mut size: usize) {
        while size > 0x7f {
            self.out.push(size as u8 | 0x80);
            size >>= 7;
        }
        self.out.push(size as u8);
    }

    fn insert(&mut self, bytes: &[u8]) -> bool {
        for piece in bytes.chunks(MAX_INSERT) {
            self.out.push(piece.len() as u8);
            self.out.extend_from_slice(piece);
        }
        self.out.len() <= self.limit
    }

    fn copy(&mut self, mut from: usize, mut len: usize) -> bool {
        while len > 0 {
            let piece = len.min(MAX_COPY);
            let op = self.out.len();
            self.out.push(0x80);
            let fields = (from as u32)
                .to_le_bytes()
                .into_iter()
                .chain((piece as u16).to_le_bytes());
            for (bit, byte) in fields.enumerate() {
                if byte != 0 {
                    self.out.push(byte);
                    self.out[op] |= 1 << bit;
                }
            }
            from += piece;
            len -= piece;
        }
        self.out.len() <= self.limit
    }
}

/// How many bytes are the same at the end of both.
fn common_end(a: &[u8], b: &[u8]) -> usize {
    const STEP: usize = 64;
    let mut same = 0;
    for (a, b) in a.rchunks_exact(STEP).zip(b.rchunks_exact(STEP)) {
        if a != b {
            break;
        }
        same += STEP;
    }
    let left = |bytes: &[u8]| bytes.len() - same;
    let ends = a[..left(a)].iter().rev().zip(b[..left(b)].iter().rev());
    same + ends.take_while(|(a, b)| a == b).count()
}

/// How many bytes are the same at the beginning of both.
fn common(a: &[u8], b: &[u8]) -> usize {
    const STEP: usize = 64;
    let mut same = 0;
    for (a, b) in a.chunks_exact(STEP).zip(b.chunks_exact(STEP)) {
        if a != b {
            break;
        }
        same += STEP;
    }
    same + a[same..].iter().zip(&b[same..]).take_while(|(a, b)| a == b).count()
}

/// Where the blocks of a base are. Where two have the same place in the table, the first has it.
struct Table {
    /// The number of a block plus one.
    slots: Vec<u32>,
    shift: u32,
}

impl Table {
    fn of(base: &[u8]) -> Table {
        let blocks = base.len() / BLOCK;
        let bits = (blocks * 2).next_power_of_two().trailing_zeros().max(4);
        let mut table = Table {
            slots: vec![0; 1 << bits],
            shift: 64 - bits,
        };
        for (number, block) in base.chunks_exact(BLOCK).enumerate() {
            let slot = table.slot(block);
            if table.slots[slot] == 0 {
                table.slots[slot] = number as u32 + 1;
            }
        }
        table
    }

    fn slot(&self, block: &[u8]) -> usize {
        let word = |at: usize| {
            let bytes: [u8; 8] = block[at..at + 8].try_into().expect("because a block has sixteen bytes");
            u64::from_le_bytes(bytes)
        };
        let mixed = word(0).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ word(8).wrapping_mul(0xc2b2_ae3d_27d4_eb4f);
        ((mixed ^ (mixed >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> self.shift) as usize
    }

    fn find(&self, base: &[u8], block: &[u8]) -> Option<usize> {
        let at = (self.slots[self.slot(block)].checked_sub(1)? as usize) * BLOCK;
        (&base[at..at + BLOCK] == block).then_some(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pack::apply_delta;
    use proptest::prelude::*;

    fn both_ways(base: &[u8], target: &[u8]) -> usize {
        let mut delta = b"kept".to_vec();
        assert!(encode_delta(base, target, usize::MAX >> 1, &mut delta));
        let mut made = Vec::new();
        apply_delta(base, &delta[4..], 1 << 30, &mut made).expect("a good delta");
        assert!(made == target);
        delta.len() - 4
    }

    #[test]
    fn a_changed_line_costs_little_wherever_it_is() {
        let base: String = (0..5_000)
            .map(|n| format!("line {n} of many, {}\n", n * 7919))
            .collect();
        for line in [0, 1, 2_500, 4_999] {
            let target = base.replace(&format!("line {line} "), "another line ");
            let size = both_ways(base.as_bytes(), target.as_bytes());
            assert!(size < 120, "{size} bytes for line {line}");
        }
        let size = both_ways(base.as_bytes(), base.as_bytes());
        assert!(size < 40, "{size}");
    }

    #[test]
    fn moved_content_is_found() {
        let words: Vec<u8> = (0..40_000u32)
            .flat_map(|n| (n.wrapping_mul(2_654_435_761)).to_le_bytes())
            .collect();
        let (a, b) = words.split_at(70_000);
        assert!(both_ways(&words, &[b, b"new", a].concat()) < 200);
    }

    #[test]
    fn one_that_would_be_too_large_is_not_made() {
        let base: Vec<u8> = (0..10_000u32)
            .flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes())
            .collect();
        let target: Vec<u8> = (0..10_000u32)
            .flat_map(|n| n.wrapping_mul(97_654_321).to_le_bytes())
            .collect();
        let mut delta = b"kept".to_vec();
        assert!(!encode_delta(&base, &target, 20_000, &mut delta));
        assert_eq!(delta, b"kept");
    }

    proptest! {
        #[test]
        fn whatever_is_encoded_is_made_again(
            base in proptest::collection::vec(0u8..3, 0..400),
            target in proptest::collection::vec(0u8..3, 0..400),
            cut in any::<prop::sample::Index>(),
            paste in any::<prop::sample::Index>(),
        ) {
            both_ways(&base, &target);
            let (front, back) = base.split_at(cut.index(base.len() + 1));
            let (before, after) = target.split_at(paste.index(target.len() + 1));
            both_ways(&base, &[back, before, front, after, back].concat());
        }

        #[test]
        fn a_bound_decides_whether_there_is_a_delta_and_never_how_it_looks(
            base in proptest::collection::vec(0u8..3, 0..400),
            target in proptest::collection::vec(0u8..3, 0..400),
            max in 0usize..300,
        ) {
            let (mut bounded, mut free) = (Vec::new(), Vec::new());
            prop_assert!(encode_delta(&base, &target, usize::MAX, &mut free));
            if encode_delta(&base, &target, max, &mut bounded) {
                prop_assert_eq!(bounded, free);
            }
        }
    }
}
