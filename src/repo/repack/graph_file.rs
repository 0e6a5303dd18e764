use std::{
    collections::{HashMap, HashSet},
    ops::ControlFlow,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use gix::{
    hash::{ObjectId, oid},
    objs::Kind,
};

use super::{CompactPhase, CompactProgress, RepackError, check};
use crate::{
    pack::{ChangedPathSet, GraphEntry, write_commit_graph},
    repo::{Odb, OdbError, RefQuery, Repository, diff_trees, send::parse},
};

/// For somebody else who writes a commit-graph; he does our work.
const PATIENCE: Duration = Duration::from_secs(1);
/// Commits whose filters one thread takes at a time.
const PIECE: usize = 64;

/// What became of a commit-graph.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct GraphOutcome {
    /// Commits in the file that was written; 0 when none was.
    pub commits: u32,
    /// Those that the file before did not have.
    pub new: u32,
    /// A commit that history needs and that is missing or damaged: nothing was written because of it.
    pub hole: Option<ObjectId>,
}

impl Repository {
    /// Whether so many commits are missing in the commit-graph that [`write_commit_graph`](Self::write_commit_graph) is worth its time: roughly, by
    /// looking at where the refs point.
    pub(crate) fn wants_commit_graph(&self, odb: &Odb) -> Result<bool, RepackError> {
        if !self.may_have_commit_graph()? {
            return Ok(false);
        }
        let Some(graph) = odb.commit_graph() else {
            return Ok(true);
        };
        if graph.is_chain() || !graph.has_corrected_dates() {
            return Ok(true);
        }
        let refs = self
            .refs(&RefQuery {
                peel: true,
                ..RefQuery::default()
            })
            .map_err(RepackError::Refs)?;
        let unknown = |id: &ObjectId| graph.lookup(id).is_none();
        Ok(refs.iter().any(|one| unknown(&one.peeled.unwrap_or(one.id))))
    }

    pub(super) fn may_have_commit_graph(&self) -> Result<bool, RepackError> {
        let settings = self.settings();
        let cut = |name: &str| std::fs::metadata(self.common_dir().join(name)).is_ok_and(|meta| meta.len() > 0);
        Ok(settings.core.commit_graph && !cut("shallow") && !cut("info/grafts"))
    }

    /// Writes the commit-graph of everything that refs reach: one file in place of whatever there was, durably and under git's lock. What the one before
    /// has is taken from it. With `changed_paths` also the filters that tell which paths each commit changed; those that are there are kept either way.
    ///
    /// Does nothing where `core.commitGraph` is off, in a shallow repository and in one with grafts, and while somebody else writes it.
    ///
    /// Where history has a hole the outcome names it. The file before is left as it was then.
    ///
    /// # Errors
    /// When the disk is in the way. The file before is left as it was.
    pub fn write_commit_graph(
        &self,
        changed_paths: bool,
        threads: usize,
        stop: &AtomicBool,
        progress: &mut dyn FnMut(CompactProgress),
    ) -> Result<GraphOutcome, RepackError> {
        if !self.may_have_commit_graph()? {
            return Ok(GraphOutcome::default());
        }
        let odb = self.odb()?;
        let (mut entries, new) = match collect(self, &odb, stop, progress)? {
            History::Whole { commits, new } => (commits, new),
            History::Hole(id) => {
                return Ok(GraphOutcome {
                    hole: Some(id),
                    ..GraphOutcome::default()
                });
            }
        };
        if entries.is_empty() {
            return Ok(GraphOutcome::default());
        }
        let had_filters = odb
            .commit_graph()
            .is_some_and(|graph| (0..graph.len().min(64)).any(|pos| graph.changed_paths(pos).is_some()));
        let filters = changed_paths || had_filters;
        if filters {
            fill_in_filters(&odb, &mut entries, threads, stop, progress)?;
        }
        let outcome = GraphOutcome {
            commits: entries.len() as u32,
            new,
            hole: None,
        };
        let info = self.objects_dir().join("info");
        if !info.is_dir() {
            std::fs::create_dir_all(&info).map_err(RepackError::io("create", &info))?;
        }
        let path = info.join("commit-graph");
        let written = self.ref_store().replace_file(&path, Instant::now() + PATIENCE, || {
            let mut bytes = Vec::new();
            write_commit_graph(&entries, filters, self.hash_kind(), &mut bytes)
                .map_err(RepackError::io("put together", &path))?;
            Ok::<_, RepackError>(Some(bytes))
        });
        match written {
            Ok(()) => {}
            Err(RepackError::Refs(crate::repo::RefsError::Locked { .. })) => return Ok(GraphOutcome::default()),
            Err(err) => return Err(err),
        }
        remove_chain(&info);
        Ok(outcome)
    }
}

/// Removes a commit-graph that has a commit which is about to go: it would be a history that is not there.
pub(super) fn forget(odb: &Odb, objects_dir: &std::path::Path, goes: &HashSet<ObjectId>) -> Result<(), RepackError> {
    let Some(graph) = odb.commit_graph() else { return Ok(()) };
    if !goes.iter().any(|id| graph.lookup(id).is_some()) {
        return Ok(());
    }
    let info = objects_dir.join("info");
    let path = info.join("commit-graph");
    match std::fs::remove_file(&path) {
        Err(err) if err.kind() != std::io::ErrorKind::NotFound => return Err(RepackError::io("remove", path)(err)),
        _ => {}
    }
    remove_chain(&info);
    Ok(())
}

/// A chain is not looked at any more beside the file: its list goes first, so that nobody looks for layers that are gone.
fn remove_chain(info: &std::path::Path) {
    let dir = info.join("commit-graphs");
    let Ok(entries) = std::fs::read_dir(&dir) else { return };
    let _ = std::fs::remove_file(dir.join("commit-graph-chain"));
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.as_encoded_bytes();
        if name.starts_with(b"graph-") && name.ends_with(b".graph") {
            let _ = std::fs::remove_file(entry.path());
        }
    }
    let _ = std::fs::remove_dir(dir);
}

/// Where history begins: every commit that a ref points to, through tags.
pub(super) fn tips(repo: &Repository, odb: &Odb) -> Result<Vec<ObjectId>, RepackError> {
    let query = RefQuery {
        peel: true,
        ..RefQuery::default()
    };
    let mut tips = Vec::new();
    for one in repo.refs(&query).map_err(RepackError::Refs)? {
        let id = one.peeled.unwrap_or(one.id);
        if odb.commit_graph().is_some_and(|graph| graph.lookup(&id).is_some())
            || matches!(odb.header(&id)?, Some((Kind::Commit, _)))
        {
            tips.push(id);
        }
    }
    tips.sort_unstable();
    tips.dedup();
    Ok(tips)
}

/// What refs reach.
pub(super) enum History {
    /// All commits, sorted by id, and how many of them the present graph does not have.
    Whole { commits: Vec<GraphEntry>, new: u32 },
    /// This commit is not there, or is damaged.
    Hole(ObjectId),
}

/// Follows history from all refs.
pub(super) fn collect(
    repo: &Repository,
    odb: &Odb,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(CompactProgress),
) -> Result<History, RepackError> {
    let old = odb.commit_graph();
    let (mut entries, mut todo, mut numbers) = (Vec::new(), Vec::new(), HashMap::new());
    let mut meet = |id: ObjectId, todo: &mut Vec<ObjectId>| {
        let next = numbers.len() as u32;
        *numbers.entry(id).or_insert_with(|| {
            todo.push(id);
            next
        })
    };
    // Numbers are given when a commit is met, which is not the order in which commits are read.
    let mut places: Vec<u32> = Vec::new();
    for id in tips(repo, odb)? {
        meet(id, &mut todo);
    }
    let (mut new, mut buf, mut parents, mut positions) = (0, Vec::new(), Vec::new(), Vec::new());
    while let Some(id) = todo.pop() {
        if entries.len() % 1024 == 0 {
            check(stop)?;
            progress(CompactProgress {
                phase: CompactPhase::CommitGraph,
                done: entries.len() as u64,
                total: 0,
            });
        }
        parents.clear();
        let known = old.and_then(|graph| {
            let pos = graph.lookup(&id)?;
            let commit = graph.commit(pos)?;
            positions.clear();
            graph.parents(pos, &mut positions)?;
            for parent in &positions {
                parents.push(graph.oid(*parent)?.to_owned());
            }
            Some((commit.tree.to_owned(), commit.date))
        });
        let (tree, date) = match known {
            Some(known) => known,
            None => {
                parents.clear();
                new += 1;
                let is_there = match odb.read(&id, &mut buf) {
                    Ok(found) => found == Some(Kind::Commit),
                    Err(OdbError::Corrupt { .. } | OdbError::LooseDamaged { .. } | OdbError::TooLarge { .. }) => false,
                    Err(err) => return Err(err.into()),
                };
                let fields = is_there.then(|| parse::commit(&buf, &mut parents)).flatten();
                let Some(fields) = fields else {
                    return Ok(History::Hole(id));
                };
                (fields.tree, u64::try_from(fields.date).unwrap_or(0))
            }
        };
        let parents = parents.iter().map(|parent| meet(*parent, &mut todo)).collect();
        places.push(meet(id, &mut todo));
        entries.push(GraphEntry {
            oid: id,
            tree,
            parents,
            date,
            filter: Vec::new(),
        });
    }
    drop(numbers);
    // From numbers to places in the sorted list.
    let mut order: Vec<u32> = (0..entries.len() as u32).collect();
    order.sort_unstable_by_key(|at| entries[*at as usize].oid);
    let mut place_of = vec![0u32; entries.len()];
    for (place, at) in order.iter().enumerate() {
        place_of[places[*at as usize] as usize] = place as u32;
    }
    for entry in &mut entries {
        entry
            .parents
            .iter_mut()
            .for_each(|parent| *parent = place_of[*parent as usize]);
    }
    entries.sort_unstable_by_key(|entry| entry.oid);
    Ok(History::Whole { commits: entries, new })
}

/// Looks which paths each commit changed, where the present graph does not say.
fn fill_in_filters(
    odb: &Odb,
    entries: &mut [GraphEntry],
    threads: usize,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(CompactProgress),
) -> Result<(), RepackError> {
    let mut todo: Vec<u32> = Vec::new();
    for (at, entry) in entries.iter_mut().enumerate() {
        let known = odb.commit_graph().and_then(|graph| {
            let filter = graph.changed_paths(graph.lookup(&entry.oid)?)?;
            filter.is_as_written_here().then(|| filter.as_bytes().to_vec())
        });
        match known {
            Some(filter) => entry.filter = filter,
            None => todo.push(at as u32),
        }
    }
    // Neighbours in time have trees in common.
    todo.sort_unstable_by_key(|at| std::cmp::Reverse(entries[*at as usize].date));
    let pieces: Vec<&[u32]> = todo.chunks(PIECE).collect();
    let (next, found) = (AtomicUsize::new(0), Mutex::new(Ok(Vec::new())));
    let entries_now = &*entries;
    let work = |odb: &Odb, tell: &mut dyn FnMut(u64)| {
        loop {
            let nth = next.fetch_add(1, Ordering::Relaxed);
            let Some(piece) = pieces.get(nth) else { return };
            tell((nth * PIECE) as u64);
            let mut made = Vec::with_capacity(piece.len());
            let result = check(stop).and_then(|()| {
                for at in *piece {
                    made.push((*at, filter(odb, entries_now, *at)?));
                }
                Ok(())
            });
            let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
            match (result, &mut *found) {
                (Ok(()), Ok(all)) => all.extend(made),
                (Err(err), Ok(_)) => {
                    next.store(pieces.len(), Ordering::Relaxed);
                    *found = Err(err);
                }
                (_, Err(_)) => return,
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads.min(pieces.len()) {
            let (work, odb) = (&work, odb.clone());
            // Without a thread to spare this one does it all.
            let _ = std::thread::Builder::new().spawn_scoped(scope, move || work(&odb, &mut |_| ()));
        }
        work(odb, &mut |done| {
            progress(CompactProgress {
                phase: CompactPhase::ChangedPaths,
                done,
                total: todo.len() as u64,
            });
        });
    });
    let found = found.into_inner().unwrap_or_else(PoisonError::into_inner)?;
    for (at, filter) in found {
        entries[at as usize].filter = filter;
    }
    Ok(())
}

/// What a commit changed against its first parent. Trees that cannot be read leave it open.
fn filter(odb: &Odb, entries: &[GraphEntry], at: u32) -> Result<Vec<u8>, RepackError> {
    let entry = &entries[at as usize];
    let before: Option<&oid> = entry
        .parents
        .first()
        .map(|parent| entries[*parent as usize].tree.as_ref());
    let mut set = ChangedPathSet::default();
    let walked = diff_trees(
        odb,
        before,
        Some(&entry.tree),
        &mut |change| match set.add(&change.path) {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        },
    );
    match walked {
        Ok(()) => Ok(set.into_filter()),
        Err(crate::repo::TreeDiffError::Odb(err)) => Err(err.into()),
        Err(error) => {
            tracing::debug!(commit = %entry.oid, %error, "it is not known which paths a commit changed");
            Ok(Vec::new())
        }
    }
}
