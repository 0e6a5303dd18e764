use std::ops::Range;

use gix::hash::{Kind as HashKind, oid};

use super::{
    Checksum, FormatError,
    changed_paths::ChangedPaths,
    chunk::{Chunks, be32, be64, check_fanout, hash_number},
};

pub(super) const WHAT: &str = "commit-graph";
pub(super) const HEAD_LEN: usize = 8;
/// "There is no such parent".
pub(super) const NO_PARENT: u32 = 0x7000_0000;
/// In place of the second parent: the others are in the list of edges, from here on. In that list: this is the last one.
pub(super) const EDGE: u32 = 0x8000_0000;
/// In place of an offset: it is in the table of large ones, here.
pub(super) const LARGE: u32 = 0x8000_0000;
/// Levels are written with so many bits.
pub(super) const MOST_LEVEL: u32 = 0x3fff_ffff;
/// Layers of a chain; git merges them long before.
const MOST_LAYERS: usize = 256;

/// A commit-graph (version 1) over its bytes: one file, or the layers of a chain. gitformat-commit-graph(5).
///
/// Positions count through all layers, the base first. The sums of all files are checked when they are parsed, so that what is damaged is not believed; what may
/// still be wrong is what the writer got wrong.
pub struct CommitGraph<D> {
    layers: Vec<Layer<D>>,
    hash: HashKind,
    len: u32,
}

struct Layer<D> {
    data: D,
    /// The position of its first commit.
    first: u32,
    len: u32,
    fan_at: usize,
    ids_at: usize,
    commits_at: usize,
    edges: Range<usize>,
    offsets: Option<usize>,
    large_offsets: Range<usize>,
    filters: Option<Filters>,
}

/// Where the filters of a layer are.
struct Filters {
    ends_at: usize,
    data: Range<usize>,
    hashes: u32,
    version: u32,
    bits_per_path: u32,
}

/// What a commit-graph says of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GraphCommit<'a> {
    /// The root tree.
    pub tree: &'a oid,
    /// Committer's time, seconds since the epoch (34 bits).
    pub date: u64,
    /// 1 for a commit without parents, and for others one more than the highest of its parents' (30 bits). 0: not known.
    pub level: u32,
}

impl<D: AsRef<[u8]>> CommitGraph<D> {
    /// Reads one file, or the layers of a chain, the base first. Everything is read once, for its sum.
    ///
    /// # Errors
    /// When a file is damaged, is for another hash, or does not belong to those below it.
    pub fn parse(files: Vec<D>, hash: HashKind) -> Result<Self, FormatError> {
        let invalid = |why| FormatError::Invalid { what: WHAT, why };
        if files.is_empty() || files.len() > MOST_LAYERS {
            return Err(invalid("it has no layers, or too many"));
        }
        let mut layers: Vec<Layer<D>> = Vec::with_capacity(files.len());
        let mut len = 0u32;
        for data in files {
            let layer = Layer::parse(data, hash, &layers, len)?;
            len = (len.checked_add(layer.len))
                .filter(|len| *len < NO_PARENT)
                .ok_or(invalid("it has too many commits"))?;
            layers.push(layer);
        }
        Ok(CommitGraph { layers, hash, len })
    }

    /// Number of commits.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether it is more than one file.
    pub fn is_chain(&self) -> bool {
        self.layers.len() > 1
    }

    /// Whether all its layers have corrected commit dates.
    pub fn has_corrected_dates(&self) -> bool {
        self.layers.iter().all(|layer| layer.offsets.is_some())
    }

    /// The position of a commit.
    pub fn lookup(&self, id: &oid) -> Option<u32> {
        if id.as_bytes().len() != self.hash.len_in_bytes() {
            return None;
        }
        // The newest are on top.
        self.layers.iter().rev().find_map(|layer| layer.lookup(id, self.hash))
    }

    fn layer(&self, pos: u32) -> Option<(&Layer<D>, u32)> {
        if pos >= self.len {
            return None;
        }
        let layer = self.layers.iter().rev().find(|layer| layer.first <= pos)?;
        Some((layer, pos - layer.first))
    }

    /// The id of the commit at a position. `None` when there is none.
    pub fn oid(&self, pos: u32) -> Option<&oid> {
        let (layer, own) = self.layer(pos)?;
        Some(layer.oid(own, self.hash))
    }

    /// Tree, date and level of the commit at a position. `None` when there is none.
    pub fn commit(&self, pos: u32) -> Option<GraphCommit<'_>> {
        let (layer, own) = self.layer(pos)?;
        let bytes = layer.data.as_ref();
        let (at, raw) = (layer.commit_at(own, self.hash), self.hash.len_in_bytes());
        let high = be32(bytes, at + raw + 8);
        Some(GraphCommit {
            tree: oid::from_bytes_unchecked(&bytes[at..at + raw]),
            date: u64::from(high & 3) << 32 | u64::from(be32(bytes, at + raw + 12)),
            level: high >> 2,
        })
    }

    /// Appends the positions of the parents of the commit at a position. `None` when it is not told in a way that makes sense; then nothing is appended.
    pub fn parents(&self, pos: u32, out: &mut Vec<u32>) -> Option<()> {
        let (layer, own) = self.layer(pos)?;
        let bytes = layer.data.as_ref();
        let at = layer.commit_at(own, self.hash) + self.hash.len_in_bytes();
        let before = out.len();
        let (first, second) = (be32(bytes, at), be32(bytes, at + 4));
        if first != NO_PARENT {
            out.push(first);
        }
        if second & EDGE == 0 {
            if second != NO_PARENT {
                out.push(second);
            }
        } else {
            let edges = &bytes[layer.edges.clone()];
            let mut nth = (second & !EDGE) as usize;
            loop {
                let Some(edge) = edges.get(nth * 4..nth * 4 + 4).map(|edge| be32(edge, 0)) else {
                    out.truncate(before);
                    return None;
                };
                out.push(edge & !EDGE);
                if edge & EDGE != 0 {
                    break;
                }
                nth += 1;
            }
        }
        // A layer knows those below it and itself. What is its own parent, or comes of something else, is nonsense.
        let end = layer.first + layer.len;
        if out[before..].iter().any(|parent| *parent >= end || *parent == pos) {
            out.truncate(before);
            return None;
        }
        Some(())
    }

    /// The corrected date of the commit at a position: its own, or more than that of each parent. `None` when it is not known.
    pub fn corrected_date(&self, pos: u32) -> Option<u64> {
        let (layer, own) = self.layer(pos)?;
        let bytes = layer.data.as_ref();
        let offset = be32(bytes, layer.offsets? + own as usize * 4);
        let offset = match offset & LARGE {
            0 => u64::from(offset),
            _ => {
                let at = (offset & !LARGE) as usize * 8;
                let large = &bytes[layer.large_offsets.clone()];
                be64(large.get(at..at + 8)?, 0)
            }
        };
        self.commit(pos)?.date.checked_add(offset)
    }

    /// Which paths the commit at a position changed, against its first parent. `None` when nobody has looked.
    pub fn changed_paths(&self, pos: u32) -> Option<ChangedPaths<'_>> {
        let (layer, own) = self.layer(pos)?;
        let bytes = layer.data.as_ref();
        let filters = layer.filters.as_ref()?;
        let end_of = |nth: u32| be32(bytes, filters.ends_at + nth as usize * 4) as usize;
        let start = if own == 0 { 0 } else { end_of(own - 1) };
        let bytes = bytes[filters.data.clone()].get(start..end_of(own))?;
        (!bytes.is_empty()).then_some(ChangedPaths {
            bytes,
            hashes: filters.hashes,
            version: filters.version,
            bits_per_path: filters.bits_per_path,
        })
    }
}

impl<D: AsRef<[u8]>> Layer<D> {
    fn parse(data: D, hash: HashKind, below: &[Layer<D>], first: u32) -> Result<Self, FormatError> {
        const CUT: FormatError = FormatError::Truncated { what: WHAT };
        let invalid = |why| FormatError::Invalid { what: WHAT, why };
        let (bytes, raw) = (data.as_ref(), hash.len_in_bytes());
        let head = bytes.get(..HEAD_LEN).ok_or(CUT)?;
        if &head[..4] != b"CGPH" || head[4] != 1 {
            return Err(invalid("unsupported version"));
        }
        if head[5] != hash_number(hash) {
            return Err(invalid("it is for another hash"));
        }
        if head[7] as usize != below.len() {
            return Err(invalid("it belongs to another place in a chain"));
        }
        let end = bytes.len().checked_sub(raw).ok_or(CUT)?;
        if Checksum::of(hash, &bytes[..end]).as_slice() != &bytes[end..] {
            return Err(FormatError::Mismatch { what: WHAT });
        }
        let chunks = Chunks::parse(&bytes[..end], HEAD_LEN, head[6] as usize, WHAT)?;
        let need = |id| chunks.get(id).ok_or(invalid("a chunk is missing"));
        let fan = need(b"OIDF")?;
        let len = check_fanout(&bytes[fan.clone()], WHAT)?;
        let (ids, commits) = (need(b"OIDL")?, need(b"CDAT")?);
        let sized = |range: &Range<usize>, each: usize| range.len() as u64 == u64::from(len) * each as u64;
        if !sized(&ids, raw) || !sized(&commits, raw + 16) {
            return Err(invalid("a table's size does not fit the number of commits"));
        }
        if !below.is_empty() {
            let base = need(b"BASE")?;
            let sums = below.iter().flat_map(|layer| layer.checksum(hash));
            if base.len() != below.len() * raw || !sums.eq(&bytes[base]) {
                return Err(invalid("it does not belong to the layers below"));
            }
        }
        // Without these it is still of use.
        let offsets = chunks.get(b"GDA2").filter(|range| sized(range, 4));
        let filters = match (chunks.get(b"BIDX"), chunks.get(b"BDAT")) {
            (Some(ends), Some(data)) if sized(&ends, 4) && data.len() >= 12 => {
                let (version, hashes) = (be32(bytes, data.start), be32(bytes, data.start + 4));
                ((1..=2).contains(&version) && (1..=32).contains(&hashes)).then_some(Filters {
                    ends_at: ends.start,
                    data: data.start + 12..data.end,
                    hashes,
                    version,
                    bits_per_path: be32(bytes, data.start + 8),
                })
            }
            _ => None,
        };
        Ok(Layer {
            first,
            len,
            fan_at: fan.start,
            ids_at: ids.start,
            commits_at: commits.start,
            edges: chunks.get(b"EDGE").unwrap_or(0..0),
            offsets: offsets.map(|range| range.start),
            large_offsets: chunks.get(b"GDO2").unwrap_or(0..0),
            filters,
            data,
        })
    }

    fn checksum(&self, hash: HashKind) -> &[u8] {
        let bytes = self.data.as_ref();
        &bytes[bytes.len() - hash.len_in_bytes()..]
    }

    fn commit_at(&self, own: u32, hash: HashKind) -> usize {
        self.commits_at + own as usize * (hash.len_in_bytes() + 16)
    }

    fn oid(&self, own: u32, hash: HashKind) -> &oid {
        let raw = hash.len_in_bytes();
        let at = self.ids_at + own as usize * raw;
        oid::from_bytes_unchecked(&self.data.as_ref()[at..at + raw])
    }

    fn lookup(&self, id: &oid, hash: HashKind) -> Option<u32> {
        let (bytes, first) = (self.data.as_ref(), id.as_bytes()[0] as usize);
        let mut low = match first {
            0 => 0,
            _ => be32(bytes, self.fan_at + (first - 1) * 4),
        };
        let mut high = be32(bytes, self.fan_at + first * 4);
        while low < high {
            let mid = low + (high - low) / 2;
            match self.oid(mid, hash).cmp(id) {
                std::cmp::Ordering::Less => low = mid + 1,
                std::cmp::Ordering::Greater => high = mid,
                std::cmp::Ordering::Equal => return Some(self.first + mid),
            }
        }
        None
    }
}
