use std::cmp::Ordering;

/// Guesses before the search goes on by halves. Ids are hashes, so the third is right as a rule; a table that was made to mislead costs a few probes more.
const GUESSES: u32 = 4;
/// Few enough to be looked at one after the other.
const FEW: u32 = 4;

/// A table of ids in ascending order, one every `stride` bytes.
pub(super) struct Ids<'a> {
    /// From the first id on.
    pub(super) bytes: &'a [u8],
    pub(super) stride: usize,
}

impl Ids<'_> {
    /// The place of `key` between the places `low` and `high` (excluded), which the fanout table gave for the key's first byte.
    ///
    /// Ids are spread evenly, so where one lies follows from its value: that takes fewer looks into memory than halving.
    ///
    /// # Panics
    /// When `high` is beyond the table, or the key shorter than eight bytes.
    pub(super) fn find(&self, key: &[u8], mut low: u32, mut high: u32) -> Option<u32> {
        let want = prefix(key);
        let byte = u64::from(key[0]) << 56;
        let (mut least, mut most) = (byte, byte | (u64::MAX >> 8));
        let mut guesses = GUESSES;
        while low < high {
            let count = high - low;
            let step = if guesses > 0 && count > FEW {
                guesses -= 1;
                let share = want.saturating_sub(least) as f64 / (most.saturating_sub(least) as f64 + 1.0);
                ((share * f64::from(count)) as u32).min(count - 1)
            } else {
                count / 2
            };
            let mid = low + step;
            let id = &self.bytes[mid as usize * self.stride..][..key.len()];
            let have = prefix(id);
            let order = have.cmp(&want).then_with(|| id[8..].cmp(&key[8..]));
            match order {
                Ordering::Less => (low, least) = (mid + 1, have),
                Ordering::Greater => (high, most) = (mid, have),
                Ordering::Equal => return Some(mid),
            }
        }
        None
    }
}

fn prefix(id: &[u8]) -> u64 {
    u64::from_be_bytes([id[0], id[1], id[2], id[3], id[4], id[5], id[6], id[7]])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const WIDTH: usize = 20;

    /// The ids of a table that begin with the byte 7, in order and without repetition; few different values, so that prefixes coincide.
    fn tables() -> impl Strategy<Value = Vec<[u8; WIDTH]>> {
        let even = prop::array::uniform20(any::<u8>());
        let alike = (0u8..4, 0u8..4, any::<u8>()).prop_map(|(a, b, c)| {
            let mut id = [0; WIDTH];
            (id[1], id[7], id[8], id[19]) = (a * 85, b, a ^ b, c);
            id
        });
        prop::collection::vec(prop_oneof![even, alike], 0..300).prop_map(|mut ids| {
            ids.iter_mut().for_each(|id| id[0] = 7);
            ids.sort_unstable();
            ids.dedup();
            ids
        })
    }

    proptest! {
        #[test]
        fn every_id_is_found_at_its_place_and_no_other_is_found(ids in tables(), other in prop::array::uniform20(any::<u8>()), gap in 0usize..5) {
            let mut bytes = Vec::new();
            for id in &ids {
                bytes.extend_from_slice(id);
                bytes.extend(std::iter::repeat_n(0xee, gap));
            }
            let table = Ids { bytes: &bytes, stride: WIDTH + gap };
            let len = ids.len() as u32;
            for (place, id) in ids.iter().enumerate() {
                prop_assert_eq!(table.find(id, 0, len), Some(place as u32));
                let mut near = *id;
                near[19] ^= 1;
                prop_assert_eq!(table.find(&near, 0, len), ids.binary_search(&near).ok().map(|n| n as u32));
            }
            prop_assert_eq!(table.find(&other, 0, len), ids.binary_search(&other).ok().map(|n| n as u32));
        }

        #[test]
        fn a_table_that_is_not_in_order_is_searched_in_vain_but_to_an_end(bytes in prop::collection::vec(any::<u8>(), 0..2000), key in prop::array::uniform20(any::<u8>())) {
            let len = (bytes.len() / WIDTH) as u32;
            let table = Ids { bytes: &bytes, stride: WIDTH };
            if let Some(place) = table.find(&key, 0, len) {
                prop_assert_eq!(&bytes[place as usize * WIDTH..][..WIDTH], &key[..]);
            }
        }
    }
}
