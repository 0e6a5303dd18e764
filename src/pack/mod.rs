//! `pack`: git's pack files as values.
//!
//! Readers over byte slices and writers into `Write`: entry headers, deltas, `.idx`, `.rev`, `.mtimes`, `.bitmap`, multi-pack-index, commit-graph, and the zlib streams
//! inside them. No file is opened here, no repository is known, and no length is believed before it was checked.
//!
//! Format sources: gitformat-pack(5), gitformat-chunk(5), gitformat-commit-graph(5).

mod bitmap;
mod bitmap_write;
mod changed_paths;
mod checksum;
mod chunk;
mod commit_graph;
mod commit_graph_write;
mod delta;
mod delta_encode;
mod entry;
mod error;
mod ewah;
mod index;
mod lookup;
mod midx;
mod midx_write;
mod mtimes;
mod numbers;
mod rev;
mod zlib;

pub use bitmap::{Bitmap, BitmapEntry};
pub use bitmap_write::{BitmapContents, ReachBitmap, path_hash, write_bitmap};
pub use changed_paths::{ChangedPathSet, ChangedPaths, MOST_CHANGED_PATHS};
pub use checksum::Checksum;
pub use commit_graph::{CommitGraph, GraphCommit};
pub use commit_graph_write::{GraphEntry, write_commit_graph};
pub use delta::{DeltaSizes, apply_delta, delta_sizes};
pub use delta_encode::{DeltaBase, encode_delta};
pub use entry::{EntryHeader, EntryKind, PACK_HEADER_LEN, pack_header, parse_pack_header, write_entry_header};
pub use error::FormatError;
pub use ewah::Ewah;
pub use index::{Index, IndexEntry, write_index};
pub use midx::MultiIndex;
pub use midx_write::{MultiIndexEntry, multi_index_order, write_multi_index};
pub use mtimes::{Mtimes, write_mtimes};
pub use rev::{Rev, write_rev};
pub use zlib::{Deflater, Inflater, Step, StreamInflater, deflate};
