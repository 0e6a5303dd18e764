use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use bstr::ByteSlice;
use gix::hash::{Kind as HashKind, ObjectId};

use super::{loose::is_absent, mmap::Mmap, pack_set::Stamp};
use crate::pack::CommitGraph;

/// A commit-graph that lies on the disk.
pub(crate) type Graph = CommitGraph<Mmap>;

/// A list of layers is not longer.
const MOST_CHAIN_BYTES: u64 = 64 << 10;

/// The commit-graph of a repository, opened on first use and again when its file was replaced.
pub(crate) struct GraphCache {
    enabled: bool,
    /// `shallow` and `info/grafts`: with either, history is not what the commit-graph says.
    cut: [PathBuf; 2],
    known: Mutex<Option<Known>>,
}

struct Known {
    stamps: Vec<Option<Stamp>>,
    graph: Option<Arc<Graph>>,
}

impl GraphCache {
    pub(crate) fn new(common_dir: &Path, enabled: bool) -> Self {
        GraphCache {
            enabled,
            cut: [common_dir.join("shallow"), common_dir.join("info/grafts")],
            known: Mutex::new(None),
        }
    }

    pub(crate) fn get(&self, object_dirs: &[PathBuf], hash: HashKind) -> Option<Arc<Graph>> {
        if !self.enabled || self.cut.iter().any(|path| has_content(path)) {
            return None;
        }
        let files = |dir: &PathBuf| {
            [
                dir.join("info/commit-graph"),
                dir.join("info/commit-graphs/commit-graph-chain"),
            ]
        };
        let stamps: Vec<_> = object_dirs
            .iter()
            .flat_map(files)
            .map(|path| Stamp::of(&path).ok().flatten())
            .collect();
        let mut known = self.known.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(known) = &*known
            && known.stamps == stamps
        {
            return known.graph.clone();
        }
        let graph = object_dirs.iter().zip(stamps.chunks(2)).find_map(|(dir, present)| {
            let [single, chain] = files(dir);
            // git reads the single file when there are both.
            let single = present[0].and_then(|_| usable(&single, read_single(&single, hash)));
            single.or_else(|| present[1].and_then(|_| usable(&chain, read_chain(&chain, object_dirs, hash))))
        });
        *known = Some(Known {
            stamps,
            graph: graph.clone(),
        });
        graph
    }
}

fn has_content(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|meta| meta.len() > 0)
}

fn usable(path: &Path, read: Result<Graph, Box<dyn std::error::Error>>) -> Option<Arc<Graph>> {
    match read {
        Ok(graph) => Some(Arc::new(graph)),
        Err(err) => {
            tracing::warn!(path = %path.display(), %err, "the commit-graph is not used");
            None
        }
    }
}

fn read_single(path: &Path, hash: HashKind) -> Result<Graph, Box<dyn std::error::Error>> {
    Ok(CommitGraph::parse(vec![Mmap::open(path)?], hash)?)
}

/// The layers that a list names, each in whatever directory it is.
fn read_chain(list: &Path, object_dirs: &[PathBuf], hash: HashKind) -> Result<Graph, Box<dyn std::error::Error>> {
    if std::fs::metadata(list)?.len() > MOST_CHAIN_BYTES {
        return Err("the list of its layers is too long".into());
    }
    let mut layers = Vec::new();
    for line in std::fs::read(list)?.lines() {
        let id = ObjectId::from_hex(line)?;
        let name = format!("info/commit-graphs/graph-{}.graph", id.to_hex());
        let mut found = None;
        for dir in object_dirs {
            match Mmap::open(&dir.join(&name)) {
                Ok(map) => found = Some(map),
                Err(err) if is_absent(&err) => continue,
                Err(err) => return Err(err.into()),
            }
            break;
        }
        layers.push(found.ok_or("a layer of it is missing")?);
    }
    Ok(CommitGraph::parse(layers, hash)?)
}
