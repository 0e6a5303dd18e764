use std::io::{self, Write};

use gix::hash::{Kind as HashKind, ObjectId};

use super::{
    FormatError,
    changed_paths::{BITS_PER_PATH, HASHES, VERSION},
    chunk::{Chunk, fanout, hash_number, write_chunks},
    commit_graph::{EDGE, LARGE, MOST_LEVEL, NO_PARENT, WHAT},
};

/// A commit for a commit-graph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GraphEntry {
    /// The commit.
    pub oid: ObjectId,
    /// Its root tree.
    pub tree: ObjectId,
    /// Its parents, as places in the list.
    pub parents: Vec<u32>,
    /// Committer's time, seconds since the epoch.
    pub date: u64,
    /// The filter of the paths it changed ([`ChangedPathSet::into_filter`](super::ChangedPathSet::into_filter)); empty when nobody has looked.
    pub filter: Vec<u8>,
}

/// How far a commit is from the first ones.
#[derive(Debug, Clone, Copy, Default)]
struct Generation {
    /// 0: not known yet.
    level: u32,
    corrected: u64,
}

/// Writes a commit-graph of one file, as git does. `commits` are sorted by id, and have the parents of each among them; with `filters` those are written, too.
///
/// # Errors
/// Those of `out`, and `InvalidInput` when a commit is its own ancestor or a parent is no place in the list.
pub fn write_commit_graph(
    commits: &[GraphEntry],
    filters: bool,
    hash: HashKind,
    out: &mut dyn Write,
) -> io::Result<ObjectId> {
    let invalid = |why| {
        let err = FormatError::Invalid { what: WHAT, why };
        io::Error::new(io::ErrorKind::InvalidInput, err)
    };
    let count = commits.len();
    if count >= NO_PARENT as usize {
        return Err(invalid("it would have too many commits"));
    }
    let bad_parent = |commit: &GraphEntry| commit.parents.iter().any(|parent| *parent as usize >= count);
    if commits.iter().any(bad_parent) {
        return Err(invalid("a parent is missing"));
    }
    let generations = generations(commits).ok_or(invalid("history goes in a circle"))?;
    let raw = hash.len_in_bytes() as u64;
    let mut chunks = vec![
        fanout(commits.iter().map(|commit| commit.oid.as_slice()[0])),
        Chunk {
            id: *b"OIDL",
            len: count as u64 * raw,
            write: Box::new(|sink| commits.iter().try_for_each(|commit| sink.put(commit.oid.as_slice()))),
        },
        Chunk {
            id: *b"CDAT",
            len: count as u64 * (raw + 16),
            write: Box::new(|sink| {
                let mut edges = 0u32;
                for (commit, generation) in commits.iter().zip(&generations) {
                    sink.put(commit.tree.as_slice())?;
                    sink.put32(commit.parents.first().copied().unwrap_or(NO_PARENT))?;
                    sink.put32(match commit.parents.get(1) {
                        Some(_) if commit.parents.len() > 2 => {
                            let here = EDGE | edges;
                            edges += commit.parents.len() as u32 - 1;
                            here
                        }
                        second => second.copied().unwrap_or(NO_PARENT),
                    })?;
                    sink.put32(generation.level.min(MOST_LEVEL) << 2 | ((commit.date >> 32) as u32 & 3))?;
                    sink.put32(commit.date as u32)?;
                }
                Ok(())
            }),
        },
    ];
    chunks.push(Chunk {
        id: *b"GDA2",
        len: count as u64 * 4,
        write: Box::new(|sink| {
            let mut large = 0;
            for offset in commits.iter().zip(&generations).map(offset) {
                match u32::try_from(offset) {
                    Ok(small) if !is_large(&offset) => sink.put32(small)?,
                    _ => {
                        sink.put32(LARGE | large)?;
                        large += 1;
                    }
                }
            }
            Ok(())
        }),
    });
    let large = commits.iter().zip(&generations).map(offset).filter(is_large);
    let large_count = large.clone().count() as u64;
    if large_count > 0 {
        chunks.push(Chunk {
            id: *b"GDO2",
            len: large_count * 8,
            write: Box::new(move |sink| {
                let mut large = large;
                large.try_for_each(|offset| sink.put(&offset.to_be_bytes()))
            }),
        });
    }
    let edges = |commit: &GraphEntry| match commit.parents.len() {
        0..=2 => 0,
        parents => parents as u64 - 1,
    };
    let edge_count: u64 = commits.iter().map(edges).sum();
    if edge_count > u64::from(EDGE - 1) {
        return Err(invalid("there are too many parents"));
    }
    if edge_count > 0 {
        chunks.push(Chunk {
            id: *b"EDGE",
            len: edge_count * 4,
            write: Box::new(|sink| {
                for commit in commits.iter().filter(|commit| commit.parents.len() > 2) {
                    let last = commit.parents.len() - 1;
                    for (nth, parent) in commit.parents.iter().enumerate().skip(1) {
                        sink.put32(if nth == last { EDGE | *parent } else { *parent })?;
                    }
                }
                Ok(())
            }),
        });
    }
    if filters {
        let bytes: u64 = commits.iter().map(|commit| commit.filter.len() as u64).sum();
        if bytes > u64::from(u32::MAX) {
            return Err(invalid("the filters of changed paths are too large"));
        }
        chunks.push(Chunk {
            id: *b"BIDX",
            len: count as u64 * 4,
            write: Box::new(|sink| {
                let mut end = 0;
                commits.iter().try_for_each(|commit| {
                    end += commit.filter.len() as u32;
                    sink.put32(end)
                })
            }),
        });
        chunks.push(Chunk {
            id: *b"BDAT",
            len: 12 + bytes,
            write: Box::new(|sink| {
                sink.put32(VERSION)?;
                sink.put32(HASHES)?;
                sink.put32(BITS_PER_PATH)?;
                commits.iter().try_for_each(|commit| sink.put(&commit.filter))
            }),
        });
    }
    let head = [b'C', b'G', b'P', b'H', 1, hash_number(hash), chunks.len() as u8, 0];
    write_chunks(&head, chunks, hash, out)
}

fn offset((commit, generation): (&GraphEntry, &Generation)) -> u64 {
    generation.corrected - commit.date
}

fn is_large(offset: &u64) -> bool {
    *offset >= u64::from(LARGE)
}

/// Levels and corrected dates. `None` when a commit is its own ancestor.
fn generations(commits: &[GraphEntry]) -> Option<Vec<Generation>> {
    let mut known = vec![Generation::default(); commits.len()];
    let mut waiting: Vec<(u32, usize)> = Vec::new();
    let mut on_the_way = vec![false; commits.len()];
    for start in 0..commits.len() as u32 {
        if known[start as usize].level != 0 {
            continue;
        }
        waiting.push((start, 0));
        on_the_way[start as usize] = true;
        while let Some((at, nth)) = waiting.last_mut() {
            let (number, commit) = (*at as usize, &commits[*at as usize]);
            if let Some(parent) = commit.parents.get(*nth) {
                *nth += 1;
                if known[*parent as usize].level == 0 {
                    if std::mem::replace(&mut on_the_way[*parent as usize], true) {
                        return None;
                    }
                    waiting.push((*parent, 0));
                }
                continue;
            }
            let parents = commit.parents.iter().map(|parent| known[*parent as usize]);
            let (level, corrected) = parents.fold((0, 0), |(level, corrected), parent| {
                (parent.level.max(level), parent.corrected.max(corrected))
            });
            known[number] = Generation {
                level: level.saturating_add(1),
                corrected: commit.date.max(corrected + 1),
            };
            on_the_way[number] = false;
            waiting.pop();
        }
    }
    Some(known)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pack::CommitGraph;
    use proptest::prelude::*;

    fn id(n: u32, hash: HashKind) -> ObjectId {
        let mut raw = vec![7u8; hash.len_in_bytes()];
        raw[..4].copy_from_slice(&n.wrapping_mul(0x9e37_79b9).to_be_bytes());
        raw[4..8].copy_from_slice(&n.to_be_bytes());
        ObjectId::from_bytes_or_panic(&raw)
    }

    /// Commit `n` has some of those before it for parents.
    fn histories() -> impl Strategy<Value = Vec<GraphEntry>> {
        let commit = (
            proptest::collection::vec(any::<prop::sample::Index>(), 0..5),
            prop_oneof![0u64..100, Just(1u64 << 33), any::<u32>().prop_map(u64::from)],
            proptest::collection::vec(any::<u8>(), 0..6),
        );
        (proptest::collection::vec(commit, 0..40), any::<bool>()).prop_map(|(seeds, sha256)| {
            let hash = if sha256 { HashKind::Sha256 } else { HashKind::Sha1 };
            let mut order: Vec<u32> = (0..seeds.len() as u32).collect();
            order.sort_by_key(|n| id(*n, hash));
            let place = |n: usize| order.iter().position(|m| *m as usize == n).expect("there") as u32;
            let mut entries: Vec<GraphEntry> = seeds
                .iter()
                .enumerate()
                .map(|(n, (parents, date, filter))| GraphEntry {
                    oid: id(n as u32, hash),
                    tree: id(n as u32 + 1_000, hash),
                    parents: match n {
                        0 => Vec::new(),
                        _ => parents.iter().map(|parent| place(parent.index(n))).collect(),
                    },
                    date: *date,
                    filter: filter.clone(),
                })
                .collect();
            entries.sort_by_key(|entry| entry.oid);
            entries
        })
    }

    fn written(entries: &[GraphEntry]) -> (Vec<u8>, HashKind) {
        let hash = entries.first().map_or(HashKind::Sha1, |entry| entry.oid.kind());
        let mut bytes = Vec::new();
        write_commit_graph(entries, true, hash, &mut bytes).expect("a Vec takes everything");
        (bytes, hash)
    }

    /// Asks a graph for everything it has.
    fn ask(graph: &CommitGraph<&[u8]>) {
        for pos in 0..graph.len() {
            let id = graph.oid(pos).expect("there").to_owned();
            let (_, _, mut parents) = (graph.lookup(&id), graph.commit(pos), Vec::new());
            if graph.parents(pos, &mut parents).is_none() {
                assert!(parents.is_empty());
            }
            assert!(parents.iter().all(|parent| graph.oid(*parent).is_some()));
            let _ = graph.corrected_date(pos);
            let _ = graph.changed_paths(pos).map(|paths| paths.may_contain(b"a/b"));
        }
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(entries in histories()) {
            let (bytes, hash) = written(&entries);
            let graph = CommitGraph::parse(vec![&bytes[..]], hash).expect("our own graph is valid");
            prop_assert_eq!(graph.len() as usize, entries.len());
            for (pos, entry) in entries.iter().enumerate() {
                let pos = pos as u32;
                prop_assert_eq!(graph.lookup(&entry.oid), Some(pos));
                let commit = graph.commit(pos).expect("there");
                prop_assert_eq!((commit.tree, commit.date), (entry.tree.as_ref(), entry.date));
                let mut parents = Vec::new();
                prop_assert!(graph.parents(pos, &mut parents).is_some());
                prop_assert_eq!(&parents, &entry.parents);
                let corrected = graph.corrected_date(pos).expect("known");
                prop_assert!(corrected >= entry.date);
                for parent in parents {
                    prop_assert!(commit.level > graph.commit(parent).expect("there").level);
                    prop_assert!(corrected > graph.corrected_date(parent).expect("known"));
                }
                let filter = graph.changed_paths(pos).map(|paths| paths.as_bytes().to_vec());
                prop_assert_eq!(filter.unwrap_or_default(), entry.filter.clone());
            }
            prop_assert_eq!(graph.lookup(&id(77_777, hash)), None);
        }

        #[test]
        fn a_damaged_graph_is_refused_and_a_wrong_one_never_panics(entries in histories(), damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6), cut in any::<prop::sample::Index>()) {
            let (good, hash) = written(&entries);
            let mut bytes = good.clone();
            for (at, value) in damage {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            let read = |bytes: &[u8]| CommitGraph::parse(vec![bytes], hash).is_ok();
            prop_assert!(bytes == good || !read(&bytes));
            prop_assert!(!read(&good[..cut.index(good.len())]));
            let raw = hash.len_in_bytes();
            let end = bytes.len() - raw;
            let sum = crate::pack::Checksum::of(hash, &bytes[..end]);
            bytes[end..].copy_from_slice(sum.as_slice());
            if let Ok(graph) = CommitGraph::parse(vec![&bytes[..]], hash) {
                ask(&graph);
            }
        }
    }

    #[test]
    fn a_circle_and_a_missing_parent_are_refused() {
        let entry = |n: u32, parents: Vec<u32>| GraphEntry {
            oid: id(n, HashKind::Sha1),
            tree: id(n, HashKind::Sha1),
            parents,
            date: 1,
            filter: Vec::new(),
        };
        for entries in [
            vec![entry(1, vec![0])],
            vec![entry(1, vec![3])],
            vec![entry(1, vec![1]), entry(2, vec![0])],
        ] {
            let refused = write_commit_graph(&entries, false, HashKind::Sha1, &mut Vec::new());
            assert_eq!(refused.expect_err("refused").kind(), io::ErrorKind::InvalidInput);
        }
    }
}
