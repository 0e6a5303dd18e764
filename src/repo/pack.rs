use std::{
    ffi::OsStr,
    io,
    path::{Path, PathBuf},
    sync::{
        Mutex, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use gix::hash::{Kind as HashKind, ObjectId};

use super::{contents::pack_number, mmap::Mmap, odb::OdbError};
use crate::pack::{EntryHeader, FormatError, Index, PACK_HEADER_LEN, Rev, parse_pack_header};

/// One pack of a repository: `.idx` and `.pack` mapped together on first use, so that whoever found an object in the index can read it, whatever happens to the
/// files afterwards. Keeps no file descriptor.
pub struct Pack {
    path: PathBuf,
    /// No other pack of this process has it.
    number: u64,
    hash: HashKind,
    read_rev: bool,
    opened: OnceLock<Opened>,
    /// Why the files are not a pack, once that is known: damage does not heal.
    damage: OnceLock<FormatError>,
    opening: Mutex<()>,
    /// Was gone when it was first opened, and stays so: a new file of that name is another `Pack`.
    vanished: AtomicBool,
    order: OnceLock<Order>,
}

struct Opened {
    index: Index<Mmap>,
    data: Mmap,
}

/// Index positions in the order of their offsets.
enum Order {
    File(Rev<Mmap>),
    Built(Vec<u32>),
}

impl Order {
    fn nth(&self, n: u32) -> Option<u32> {
        match self {
            Order::File(rev) => rev.index_pos(n),
            Order::Built(positions) => positions.get(n as usize).copied(),
        }
    }
}

/// The entries of a pack that is open.
#[derive(Clone, Copy)]
pub(crate) struct InOrder<'p> {
    index: &'p Index<Mmap>,
    order: &'p Order,
    end: u64,
}

impl InOrder<'_> {
    /// As [`Pack::nth`].
    #[inline]
    pub(crate) fn nth(&self, n: u32) -> Option<u32> {
        self.order.nth(n).filter(|pos| *pos < self.index.len())
    }

    /// Where the entry at an index position begins.
    #[inline]
    pub(crate) fn offset(&self, pos: u32) -> u64 {
        self.index.offset(pos)
    }

    /// Where the `n`-th entry begins, or the last one ends.
    #[inline]
    pub(crate) fn nth_offset(&self, n: u32) -> u64 {
        self.nth(n).map_or(self.end, |pos| self.index.offset(pos))
    }

    /// What the index says of the bytes of the entry at an index position.
    #[inline]
    pub(crate) fn crc32(&self, pos: u32) -> Option<u32> {
        self.index.crc32(pos)
    }
}

impl std::fmt::Debug for Pack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pack").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Pack {
    /// A pack at `path`, which ends in `.pack`. Nothing is opened yet.
    pub fn new(path: PathBuf, hash: HashKind) -> Self {
        Self::with_rev(path, hash, true)
    }

    /// As [`new`](Self::new), choosing whether a `.rev` file may be used (`pack.readReverseIndex`).
    pub fn with_rev(path: PathBuf, hash: HashKind, read_rev: bool) -> Self {
        Pack {
            path,
            number: pack_number(),
            hash,
            read_rev,
            opened: OnceLock::new(),
            damage: OnceLock::new(),
            opening: Mutex::new(()),
            vanished: AtomicBool::new(false),
            order: OnceLock::new(),
        }
    }

    /// The number that names it in the cache of contents.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Where the `.pack` file is, or was.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file name, for messages.
    pub fn name(&self) -> &str {
        self.path.file_name().and_then(OsStr::to_str).unwrap_or("pack")
    }

    /// The hash its ids are made with.
    pub fn hash_kind(&self) -> HashKind {
        self.hash
    }

    fn opened(&self) -> Result<&Opened, OdbError> {
        if let Some(opened) = self.opened.get() {
            return Ok(opened);
        }
        if let Some(why) = self.damage.get() {
            return Err(self.damaged(why.clone()));
        }
        if self.has_vanished() {
            return Err(OdbError::PackVanished {
                pack: self.path.clone(),
            });
        }
        // A poisoned lock guards nothing but the right to open.
        let _one_at_a_time = self.opening.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(opened) = self.opened.get() {
            return Ok(opened);
        }
        match self.open()? {
            Ok(opened) => Ok(self.opened.get_or_init(|| opened)),
            Err(why) => Err(self.damaged(self.damage.get_or_init(|| why).clone())),
        }
    }

    /// Opening may fail for reasons that pass (outer) and for reasons that stay (inner).
    fn open(&self) -> Result<Result<Opened, FormatError>, OdbError> {
        let map = |path: &Path| {
            Mmap::open(path).map_err(|source| match source.kind() {
                io::ErrorKind::NotFound => {
                    self.vanished.store(true, Ordering::Relaxed);
                    OdbError::PackVanished {
                        pack: self.path.clone(),
                    }
                }
                _ => OdbError::Io {
                    doing: "open",
                    path: path.to_owned(),
                    source,
                },
            })
        };
        let index = map(&self.path.with_extension("idx"))?;
        let data = map(&self.path)?;
        Ok(self.check(index, data))
    }

    fn check(&self, index: Mmap, data: Mmap) -> Result<Opened, FormatError> {
        let index = Index::parse(index, self.hash)?;
        let trailer = self.hash.len_in_bytes();
        let header = data
            .first_chunk::<PACK_HEADER_LEN>()
            .filter(|_| data.len() >= PACK_HEADER_LEN + trailer)
            .ok_or(FormatError::Truncated { what: "pack" })?;
        if parse_pack_header(header)? != index.len() {
            return Err(FormatError::Mismatch {
                what: "the number of objects of the pack",
            });
        }
        if &data[data.len() - trailer..] != index.pack_checksum().as_bytes() {
            return Err(FormatError::Mismatch {
                what: "the checksum at the end of the pack",
            });
        }
        Ok(Opened { index, data })
    }

    fn damaged(&self, source: FormatError) -> OdbError {
        OdbError::PackDamaged {
            pack: self.path.clone(),
            source,
        }
    }

    pub(crate) fn has_vanished(&self) -> bool {
        self.vanished.load(Ordering::Relaxed)
    }

    /// The index.
    ///
    /// # Errors
    /// `PackVanished` when someone repacked before this was first used, `PackDamaged`, `Io`. Never fails once it has succeeded.
    pub fn index(&self) -> Result<&Index<Mmap>, OdbError> {
        Ok(&self.opened()?.index)
    }

    /// All bytes of the pack, header and trailer included. Errors as [`index`](Self::index).
    pub fn data(&self) -> Result<&[u8], OdbError> {
        Ok(&self.opened()?.data)
    }

    /// The mapping itself, for advice to the kernel and for `Bytes::from_owner`-like sharing.
    pub fn map(&self) -> Result<&Mmap, OdbError> {
        Ok(&self.opened()?.data)
    }

    /// The bytes between header and trailer start at 12 and end here.
    fn entries_end(&self) -> Result<u64, OdbError> {
        Ok((self.data()?.len() - self.hash.len_in_bytes()) as u64)
    }

    /// Everything from `offset` to the end of the entries.
    ///
    /// # Errors
    /// When the offset is outside of the entries.
    pub fn from_offset(&self, offset: u64) -> Result<&[u8], OdbError> {
        let end = self.entries_end()?;
        if offset < PACK_HEADER_LEN as u64 || offset >= end {
            return Err(self.damaged(FormatError::Invalid {
                what: "pack offset",
                why: "outside of the pack",
            }));
        }
        Ok(&self.data()?[offset as usize..end as usize])
    }

    /// The header of the entry at `offset`, and all that follows it: its compressed bytes and more.
    pub fn entry_at(&self, offset: u64) -> Result<(EntryHeader, &[u8]), OdbError> {
        let bytes = self.from_offset(offset)?;
        let header = EntryHeader::parse(bytes, self.hash).map_err(|source| self.damaged(source))?;
        Ok((header, &bytes[header.header_len..]))
    }

    /// The header of the entry at index position `pos`, and exactly its compressed bytes.
    pub fn entry(&self, pos: u32) -> Result<(EntryHeader, &[u8]), OdbError> {
        let offset = self.index()?.offset(pos);
        let end = self.end_offset(pos)?;
        let (header, rest) = self.entry_at(offset)?;
        let len = usize::try_from(end - offset)
            .ok()
            .and_then(|len| len.checked_sub(header.header_len));
        match len.and_then(|len| rest.get(..len)) {
            Some(compressed) => Ok((header, compressed)),
            None => Err(self.damaged(FormatError::Truncated { what: "pack entry" })),
        }
    }

    /// The whole entry at index position `pos`, header included: what the index's CRC-32 is of.
    pub fn raw_entry(&self, pos: u32) -> Result<&[u8], OdbError> {
        let offset = self.index()?.offset(pos);
        let end = self.end_offset(pos)?;
        let bytes = self.from_offset(offset)?;
        bytes
            .get(..(end - offset) as usize)
            .ok_or_else(|| self.damaged(FormatError::Truncated { what: "pack entry" }))
    }

    /// Where the entry at index position `pos` ends: the next entry's offset. Always beyond the entry's own.
    pub fn end_offset(&self, pos: u32) -> Result<u64, OdbError> {
        let index = self.index()?;
        let offset = index.offset(pos);
        let end = match self.rank(offset)? {
            None => return Err(self.damaged(FormatError::Mismatch { what: "reverse index" })),
            Some(rank) => match self.nth(rank + 1)? {
                Some(next) => index.offset(next),
                None => self.entries_end()?,
            },
        };
        if end <= offset || end > self.entries_end()? {
            return Err(self.damaged(FormatError::Invalid {
                what: "pack index",
                why: "an offset is outside of the pack",
            }));
        }
        Ok(end)
    }

    /// The index position of the entry that begins at `offset`.
    pub fn pos_at_offset(&self, offset: u64) -> Result<Option<u32>, OdbError> {
        match self.rank(offset)? {
            Some(rank) => self.nth(rank),
            None => Ok(None),
        }
    }

    /// The index position of the n-th entry of the pack in the order of offsets. `None` beyond the last.
    pub fn nth(&self, n: u32) -> Result<Option<u32>, OdbError> {
        let len = self.index()?.len();
        Ok(self.order()?.nth(n).filter(|pos| *pos < len))
    }

    /// Which entry, counted in the order of offsets, begins at `offset`.
    pub fn rank(&self, offset: u64) -> Result<Option<u32>, OdbError> {
        let index = self.index()?;
        let order = self.order()?;
        let (mut low, mut high) = (0, index.len());
        while low < high {
            let mid = low + (high - low) / 2;
            let Some(pos) = order.nth(mid).filter(|pos| *pos < index.len()) else {
                return Err(self.damaged(FormatError::Mismatch { what: "reverse index" }));
            };
            match index.offset(pos).cmp(&offset) {
                std::cmp::Ordering::Less => low = mid + 1,
                std::cmp::Ordering::Greater => high = mid,
                std::cmp::Ordering::Equal => return Ok(Some(mid)),
            }
        }
        Ok(None)
    }

    /// The entries in the order of offsets, for going through many of them.
    pub(crate) fn in_order(&self) -> Result<InOrder<'_>, OdbError> {
        Ok(InOrder {
            index: self.index()?,
            order: self.order()?,
            end: self.entries_end()?,
        })
    }

    fn order(&self) -> Result<&Order, OdbError> {
        let index = self.index()?;
        Ok(self.order.get_or_init(|| match self.rev_file(index) {
            Some(rev) => Order::File(rev),
            None => {
                let mut positions: Vec<u32> = (0..index.len()).collect();
                positions.sort_unstable_by_key(|pos| index.offset(*pos));
                Order::Built(positions)
            }
        }))
    }

    /// The `.rev` file, if there is one that belongs to this pack.
    fn rev_file(&self, index: &Index<Mmap>) -> Option<Rev<Mmap>> {
        if !self.read_rev {
            return None;
        }
        let map = Mmap::open(&self.path.with_extension("rev")).ok()?;
        let raw = self.hash.len_in_bytes();
        let checksum = map.len().checked_sub(2 * raw)?;
        if map.get(checksum..checksum + raw)? != index.pack_checksum().as_bytes() {
            return None;
        }
        Rev::parse(map, index.len(), self.hash).ok()
    }

    /// The id at an index position.
    pub fn oid(&self, pos: u32) -> Result<ObjectId, OdbError> {
        Ok(self.index()?.oid(pos).to_owned())
    }
}
