//! The walk for filters that judge by path: a tree is entered once for every path at which it stands.

use std::collections::HashMap;

use bstr::{BString, ByteSlice};

use super::{
    SendError, enumerate::Chosen, marks::Id, parse::EntryType, reader::Reader, trees::TreeReader, walk::IdMap,
};

/// A directory's path, and what each sparse specification says of what it does not name beneath it.
struct Place {
    path: BString,
    verdicts: Vec<bool>,
}

/// Enters every tree beneath `roots`, as [`Chosen::levels`] does, but path by path.
pub(super) fn walk(
    chosen: &mut Chosen<'_>,
    reader: &mut Reader<'_>,
    trees: &mut TreeReader,
    roots: Vec<Id>,
) -> Result<(), SendError> {
    let filter = chosen.filter;
    let max_depth = filter.depth.unwrap_or(u64::MAX);
    let mut places = vec![Place {
        path: BString::default(),
        verdicts: vec![false; filter.sparse.len()],
    }];
    let mut numbers: HashMap<(u32, BString), u32> = HashMap::new();
    let mut visited: IdMap<Vec<u32>> = IdMap::default();
    let mut level = Vec::new();
    let mut visit = |id: Id, place: u32, level: &mut Vec<(Id, u32)>| {
        let at = visited.entry(id).or_default();
        if !at.contains(&place) {
            at.push(place);
            level.push((id, place));
        }
    };
    for root in roots {
        visit(root, 0, &mut level);
    }
    let mut depth = 1u64;
    while !level.is_empty() {
        let mut next = Vec::new();
        for (id, place) in std::mem::take(&mut level) {
            if chosen.had.contains(id) {
                continue;
            }
            chosen.step()?;
            chosen.choose_tree(id);
            if depth >= max_depth {
                continue;
            }
            let tree = trees.read(reader, id)?;
            tree.all(|entry| {
                let path_of = |places: &[Place]| {
                    let mut path = places[place as usize].path.clone();
                    if !path.is_empty() {
                        path.push(b'/');
                    }
                    path.extend_from_slice(entry.name);
                    path
                };
                match entry.kind {
                    EntryType::Gitlink => {}
                    EntryType::Blob => {
                        let path = path_of(&places);
                        let inherited = &places[place as usize].verdicts;
                        let included = filter
                            .sparse
                            .iter()
                            .zip(inherited)
                            .all(|(spec, inherited)| spec.verdict(path.as_bstr(), false).unwrap_or(*inherited));
                        if included {
                            chosen.admit_blob(reader, entry.id)?;
                        }
                    }
                    EntryType::Tree => {
                        let child = reader.require(entry.id)?;
                        let known = numbers.get(&(place, BString::from(entry.name))).copied();
                        let number = match known {
                            Some(number) => number,
                            None => {
                                let number = u32::try_from(places.len()).map_err(|_| SendError::TooManyObjects)?;
                                let path = path_of(&places);
                                let inherited = &places[place as usize].verdicts;
                                let verdicts = filter
                                    .sparse
                                    .iter()
                                    .zip(inherited)
                                    .map(|(spec, inherited)| spec.verdict(path.as_bstr(), true).unwrap_or(*inherited))
                                    .collect();
                                places.push(Place { path, verdicts });
                                numbers.insert((place, entry.name.into()), number);
                                number
                            }
                        };
                        visit(child, number, &mut next);
                    }
                }
                Ok::<_, SendError>(())
            })?;
        }
        level = next;
        depth += 1;
    }
    Ok(())
}
