use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use gix::{commitgraph::Graph, hash::Kind as HashKind};

use super::pack_set::Stamp;

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

/// Parents of one octopus in the graph; this bounds what a damaged file makes us allocate.
const ALLOC_LIMIT: usize = 256 << 20;

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
            if present.iter().all(Option::is_none) {
                return None;
            }
            let [single, chain] = files(dir);
            // git reads the single file when there are both.
            let path = if present[0].is_some() {
                single
            } else {
                chain.parent()?.to_owned()
            };
            Graph::at(&path, hash, Some(ALLOC_LIMIT))
                .inspect_err(|err| tracing::warn!(path = %path.display(), %err, "the commit-graph is not used"))
                .ok()
                .map(Arc::new)
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
