//! Reachability bitmaps beside the packs of a repository, and which object each bit is.

use std::{
    collections::HashMap,
    ops::Range,
    path::PathBuf,
    sync::{Arc, OnceLock},
};

use gix::{
    hash::{Kind as HashKind, oid},
    objs::Kind,
};

use super::{mmap::Mmap, odb::OdbError, pack::Pack, pack_set::Stamp};
use crate::pack::{Bitmap, BitmapEntry, Ewah, FormatError, MultiIndex, Rev};

/// A `.bitmap` file, opened when it is first asked for.
pub(crate) struct BitmapFile {
    path: PathBuf,
    stamp: Stamp,
    hash: HashKind,
    about: About,
    opened: OnceLock<Option<Opened>>,
}

/// What a bitmap is about.
pub(crate) enum About {
    Pack(Arc<Pack>),
    /// A multi-pack-index and its packs by their numbers in it.
    Midx(Arc<MultiIndex<Mmap>>, Vec<Arc<Pack>>),
}

impl About {
    /// The packs whose objects have bits.
    pub(crate) fn packs(&self) -> &[Arc<Pack>] {
        match self {
            About::Pack(pack) => std::slice::from_ref(pack),
            About::Midx(_, packs) => packs,
        }
    }

    fn same(&self, other: &About) -> bool {
        let packs = || self.packs().iter().zip(other.packs());
        match (self, other) {
            (About::Pack(_), About::Pack(_)) => {}
            (About::Midx(a, _), About::Midx(b, _)) if Arc::ptr_eq(a, b) => {}
            _ => return false,
        }
        self.packs().len() == other.packs().len() && packs().all(|(a, b)| Arc::ptr_eq(a, b))
    }
}

struct Opened {
    bitmap: Bitmap<Mmap>,
    stretches: Vec<Stretch>,
    /// The stretch of each pack, by its number.
    of_pack: Vec<Option<u32>>,
}

/// Consecutive bits that are objects of one pack, in the order of its offsets.
struct Stretch {
    bits: Range<u32>,
    /// Number of the pack in what the bitmap is about.
    pack: u32,
    /// Index positions in the order of bits; `None` where the bits are the objects of the pack, all and in order.
    positions: Option<Vec<u32>>,
}

impl BitmapFile {
    /// `stamp` is what the file looked like, for [`same`](Self::same).
    pub(crate) fn new(path: PathBuf, stamp: Stamp, hash: HashKind, about: About) -> Self {
        BitmapFile {
            path,
            stamp,
            hash,
            about,
            opened: OnceLock::new(),
        }
    }

    /// Whether it is the same file about the same packs.
    pub(crate) fn same(&self, other: &BitmapFile) -> bool {
        self.stamp == other.stamp && self.path == other.path && self.about.same(&other.about)
    }

    /// `None` when the file is damaged or does not fit its packs: then we do without.
    fn opened(&self) -> Option<&Opened> {
        let opened = self.opened.get_or_init(|| {
            self.open()
                .inspect_err(|err| tracing::warn!(path = %self.path.display(), %err, "the bitmaps are not used"))
                .ok()
        });
        opened.as_ref()
    }

    fn open(&self) -> Result<Opened, OdbError> {
        let damaged = |source| OdbError::PackDamaged {
            pack: self.path.clone(),
            source,
        };
        let data = Mmap::open(&self.path).map_err(|source| OdbError::Io {
            doing: "open",
            path: self.path.clone(),
            source,
        })?;
        let (checksum, objects, stretches) = match &self.about {
            About::Pack(pack) => {
                let index = pack.index()?;
                let all = Stretch {
                    bits: 0..index.len(),
                    pack: 0,
                    positions: None,
                };
                (index.pack_checksum(), index.len(), vec![all])
            }
            About::Midx(index, packs) => {
                let cut = FormatError::Truncated {
                    what: "multi-pack-index",
                };
                let checksum = index.checksum().ok_or_else(|| damaged(cut))?;
                let places = self.order(index).map_err(damaged)?;
                (checksum, index.len(), stretches(&places, packs)?)
            }
        };
        let bitmap = Bitmap::parse(data, objects, checksum, self.hash).map_err(damaged)?;
        let mut of_pack = vec![None; self.about.packs().len()];
        for (nth, stretch) in stretches.iter().enumerate() {
            of_pack[stretch.pack as usize] = Some(nth as u32);
        }
        Ok(Opened {
            bitmap,
            stretches,
            of_pack,
        })
    }

    /// Pack number and offset of every object of a multi-pack-index in the order of bits.
    fn order(&self, index: &MultiIndex<Mmap>) -> Result<Vec<(u32, u64)>, FormatError> {
        const WHAT: &str = "order of a multi-pack-index";
        let in_file;
        let nth: &dyn Fn(u32) -> Option<u32> = if index.nth(0).is_some() || index.is_empty() {
            &|nth| index.nth(nth)
        } else {
            // Before 2.34 git wrote it beside the file.
            let map =
                Mmap::open(&self.path.with_extension("rev")).map_err(|_| FormatError::Truncated { what: WHAT })?;
            let raw = self.hash.len_in_bytes();
            let ours = map.len().checked_sub(2 * raw).and_then(|at| map.get(at..at + raw));
            if ours.is_none() || ours != index.checksum().map(|id| id.as_bytes()) {
                return Err(FormatError::Mismatch { what: WHAT });
            }
            in_file = Rev::parse(map, index.len(), self.hash)?;
            &|nth| in_file.index_pos(nth).filter(|pos| *pos < index.len())
        };
        let place = |n| nth(n).and_then(|pos| index.location(pos));
        (0..index.len())
            .map(|n| place(n).ok_or(FormatError::Mismatch { what: WHAT }))
            .collect()
    }
}

/// Finds the index positions of entries that lie pack by pack in the order of offsets, by going through each pack beside them.
fn stretches(places: &[(u32, u64)], packs: &[Arc<Pack>]) -> Result<Vec<Stretch>, OdbError> {
    let mut seen = vec![false; packs.len()];
    let mut stretches = Vec::new();
    let mut bit = 0u32;
    for places in places.chunk_by(|a, b| a.0 == b.0) {
        let number = places[0].0;
        let pack = &packs[number as usize];
        let astray = || OdbError::PackDamaged {
            pack: pack.path().to_owned(),
            source: FormatError::Mismatch {
                what: "order of a multi-pack-index",
            },
        };
        if std::mem::replace(&mut seen[number as usize], true) {
            return Err(astray());
        }
        let index = pack.index()?;
        let mut positions = Vec::with_capacity(places.len());
        let mut entries = 0..index.len();
        for (_, offset) in places {
            loop {
                let nth = entries.next().ok_or_else(astray)?;
                let pos = pack.nth(nth)?.ok_or_else(astray)?;
                if index.offset(pos) == *offset {
                    positions.push(pos);
                    break;
                }
            }
        }
        let end = bit + places.len() as u32;
        stretches.push(Stretch {
            bits: bit..end,
            pack: number,
            positions: (places.len() as u32 != index.len()).then_some(positions),
        });
        bit = end;
    }
    Ok(stretches)
}

/// A bitmap in a view of packs, where each has a rank.
#[derive(Clone)]
pub(crate) struct Ranked {
    file: Arc<BitmapFile>,
    /// The ranks of its packs, by their numbers, and the other way round.
    ranks: Arc<[u32]>,
    numbers: Arc<[Option<u32>]>,
}

impl Ranked {
    /// `None` when a pack of the bitmap is not in the view.
    pub(crate) fn new(file: Arc<BitmapFile>, view: &[Arc<Pack>]) -> Option<Self> {
        let places: HashMap<*const Pack, u32> = (0..).zip(view).map(|(rank, pack)| (Arc::as_ptr(pack), rank)).collect();
        let rank = |pack| places.get(&Arc::as_ptr(pack)).copied();
        let ranks: Vec<u32> = file.about.packs().iter().map(rank).collect::<Option<_>>()?;
        let mut numbers = vec![None; view.len()];
        for (number, rank) in ranks.iter().enumerate() {
            numbers[*rank as usize] = Some(number as u32);
        }
        Some(Ranked {
            file,
            ranks: ranks.into(),
            numbers: numbers.into(),
        })
    }

    /// The pack that is to be searched first, if the bitmap is about one.
    pub(crate) fn only_pack(&self) -> Option<u32> {
        match self.file.about {
            About::Pack(_) => self.ranks.first().copied(),
            About::Midx(..) => None,
        }
    }

    /// Whether it is about this multi-pack-index.
    pub(crate) fn is_about(&self, index: &Arc<MultiIndex<Mmap>>) -> bool {
        matches!(&self.file.about, About::Midx(about, _) if Arc::ptr_eq(about, index))
    }

    /// `None` when the file cannot be used.
    pub(crate) fn open(&self) -> Option<Bitmaps<'_>> {
        Some(Bitmaps {
            of: self,
            opened: self.file.opened()?,
        })
    }
}

/// The bitmaps of one view of the packs.
#[derive(Clone, Copy)]
pub(crate) struct Bitmaps<'s> {
    of: &'s Ranked,
    opened: &'s Opened,
}

impl<'s> Bitmaps<'s> {
    /// Words that hold a bit for each object.
    pub(crate) fn words(&self) -> usize {
        self.opened.bitmap.words()
    }

    /// Bits that are objects of one pack in the order of offsets, and that pack's place in the view.
    pub(crate) fn stretches(&self) -> impl Iterator<Item = (Range<u32>, u32)> + 's {
        let ranks = &self.of.ranks;
        let stretches = self.opened.stretches.iter();
        stretches.map(move |stretch| (stretch.bits.clone(), ranks[stretch.pack as usize]))
    }

    /// Which object a bit is: its place in the index of the pack. `nth` counts stretches.
    pub(crate) fn pos(&self, nth: usize, bit: u32) -> Result<u32, OdbError> {
        let stretch = &self.opened.stretches[nth];
        self.pos_in(stretch, bit)
    }

    fn pos_in(&self, stretch: &Stretch, bit: u32) -> Result<u32, OdbError> {
        let at = bit - stretch.bits.start;
        match &stretch.positions {
            Some(positions) => Ok(positions[at as usize]),
            None => {
                let pack = &self.of.file.about.packs()[stretch.pack as usize];
                pack.nth(at)?.ok_or_else(|| OdbError::PackDamaged {
                    pack: pack.path().to_owned(),
                    source: FormatError::Mismatch { what: "reverse index" },
                })
            }
        }
    }

    /// The bit of an object by its place, if it has one.
    pub(crate) fn bit(&self, rank: u32, pos: u32) -> Result<Option<u32>, OdbError> {
        let number = self.of.numbers.get(rank as usize).copied().flatten();
        let Some(nth) = number.and_then(|number| self.opened.of_pack[number as usize]) else {
            return Ok(None);
        };
        let stretch = &self.opened.stretches[nth as usize];
        let pack = &self.of.file.about.packs()[stretch.pack as usize];
        let offset = pack.index()?.offset(pos);
        let Some(positions) = &stretch.positions else {
            return Ok(pack.rank(offset)?.map(|nth| stretch.bits.start + nth));
        };
        let index = pack.index()?;
        let found = positions.binary_search_by_key(&offset, |pos| index.offset(*pos));
        Ok(found.ok().map(|at| stretch.bits.start + at as u32))
    }

    /// The bitmap of a commit.
    pub(crate) fn entry(&self, id: &oid, pos: u32) -> Option<BitmapEntry> {
        let pos = match &self.of.file.about {
            About::Pack(_) => pos,
            About::Midx(index, _) => index.lookup(id)?,
        };
        self.opened.bitmap.find(pos)
    }

    /// What a commit with a bitmap reaches.
    pub(crate) fn reach(&self, entry: BitmapEntry) -> Result<Vec<u64>, FormatError> {
        self.opened.bitmap.reach(entry)
    }

    /// The objects of a kind.
    pub(crate) fn of_kind(&self, kind: Kind) -> Result<Ewah<&'s [u8]>, FormatError> {
        self.opened.bitmap.of_kind(kind)
    }
}
