use crate::repo::config::{BadValue, Config};

/// What maintenance asks besides `pack.*`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct GcSettings {
    /// `repack.writeBitmaps`, or `pack.writeBitmaps`; unset means: in a bare repository.
    pub write_bitmaps: Option<bool>,
    /// `gc.writeCommitGraph` (true).
    pub write_commit_graph: bool,
    /// `gc.packRefs` (true); `None` stands for `notbare`.
    pub pack_refs: Option<bool>,
}

impl GcSettings {
    pub(in crate::repo) fn new(c: &Config) -> Result<Self, BadValue> {
        let bitmaps = match c.boolean("repack.writebitmaps")? {
            Some(said) => Some(said),
            None => c.boolean("pack.writebitmaps")?,
        };
        let pack_refs = match c.last("gc.packrefs") {
            Some(Some(value)) if value == "notbare" => None,
            _ => Some(c.boolean("gc.packrefs")?.unwrap_or(true)),
        };
        Ok(GcSettings {
            write_bitmaps: bitmaps,
            write_commit_graph: c.boolean("gc.writecommitgraph")?.unwrap_or(true),
            pack_refs,
        })
    }
}
