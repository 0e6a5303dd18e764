//! Where entries lie in a pack, and where they went.

use super::{ObjectSet, SendError, marks::Id};
use crate::repo::Pack;

/// A stretch of a pack and where it begins in the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) to: u64,
}

/// Where the entry at `offset` begins in the output. Most are asked for soon after they were sent, so the search begins at the end.
pub(super) fn sent_to(runs: &[Run], offset: u64) -> Option<u64> {
    let (mut step, mut high) = (1, runs.len());
    let low = loop {
        match high.checked_sub(step) {
            None => break 0,
            Some(at) if runs[at].start <= offset => break at,
            Some(at) => (high, step) = (at, step * 2),
        }
    };
    let after = low + runs[low..high].partition_point(|run| run.start <= offset);
    let run = runs.get(after.checked_sub(1)?)?;
    (offset < run.end).then(|| run.to + (offset - run.start))
}

/// One entry: where it is, and what the index says of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) pos: u32,
    /// Which one it is in the order of offsets.
    nth: u32,
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) crc: Option<u32>,
}

/// The chosen entries of a pack in the order of offsets.
pub(super) enum Entries {
    /// Many: go through all of the pack's. `next` is the number of the next one.
    Dense {
        next: u32,
        chosen: Vec<u64>,
    },
    Few(std::vec::IntoIter<(u64, u32)>),
}

impl Place {
    /// The place of a single entry.
    pub(super) fn of(pack: &Pack, pos: u32) -> Result<Self, SendError> {
        let index = pack.index()?;
        Ok(Place {
            pos,
            nth: 0,
            start: index.offset(pos),
            end: pack.end_offset(pos)?,
            crc: index.crc32(pos),
        })
    }
}

impl Entries {
    /// Finding the end of an entry that is looked up by itself costs as much as passing over so many.
    const WORTH: usize = 256;
    /// Places that are found at once: one by one each would be waited for.
    const BATCH: usize = 128;

    pub(super) fn of(pack: &Pack, set: &ObjectSet, range: std::ops::Range<u32>) -> Result<Self, SendError> {
        let len = range.len();
        if set.chosen.count_in(range.clone()) as usize > len / Self::WORTH {
            let mut chosen = vec![0u64; len.div_ceil(64)];
            for Id(id) in set.chosen.in_range(range.clone()) {
                let pos = (id - range.start) as usize;
                chosen[pos / 64] |= 1 << (pos % 64);
            }
            return Ok(Entries::Dense { next: 0, chosen });
        }
        let index = pack.index()?;
        let mut few: Vec<(u64, u32)> = set
            .chosen
            .in_range(range.clone())
            .map(|Id(id)| (index.offset(id - range.start), id - range.start))
            .collect();
        few.sort_unstable();
        Ok(Entries::Few(few.into_iter()))
    }

    /// Puts the next ones into `out`; none at the end.
    pub(super) fn next(&mut self, pack: &Pack, out: &mut Vec<Place>) -> Result<(), SendError> {
        let order = pack.in_order()?;
        out.clear();
        match self {
            Entries::Few(few) => {
                for (_, pos) in few.take(Self::BATCH) {
                    out.push(Place::of(pack, pos)?);
                }
            }
            Entries::Dense { next, chosen } => {
                while out.len() < Self::BATCH
                    && let Some(pos) = order.nth(*next)
                {
                    let nth = *next;
                    *next += 1;
                    if chosen[pos as usize / 64] >> (pos % 64) & 1 != 0 {
                        out.push(Place {
                            pos,
                            nth,
                            start: order.offset(pos),
                            end: 0,
                            crc: order.crc32(pos),
                        });
                    }
                }
                let mut following = None;
                for place in out.iter_mut().rev() {
                    place.end = match following {
                        Some((nth, start)) if nth == place.nth + 1 => start,
                        _ => order.nth_offset(place.nth + 1),
                    };
                    following = Some((place.nth, place.start));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sent_is_found_by_its_offset() {
        let runs = [
            Run {
                start: 12,
                end: 100,
                to: 12,
            },
            Run {
                start: 150,
                end: 151,
                to: 100,
            },
            Run {
                start: 300,
                end: 400,
                to: 120,
            },
        ];
        assert_eq!(sent_to(&runs, 12), Some(12));
        assert_eq!(sent_to(&runs, 99), Some(99));
        assert_eq!(sent_to(&runs, 100), None);
        assert_eq!(sent_to(&runs, 150), Some(100));
        assert_eq!(sent_to(&runs, 151), None);
        assert_eq!(sent_to(&runs, 310), Some(130));
        assert_eq!(sent_to(&runs, 400), None);
        assert_eq!(sent_to(&runs, 3), None);
        assert_eq!(sent_to(&[], 3), None);
    }
}
