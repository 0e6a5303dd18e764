use std::{fs, io, path::Path};

use gix::hash::{Kind as HashKind, ObjectId};

use super::{Avoid, RepackError};
use crate::repo::{Odb, loose::is_absent};

/// What is packed anew.
#[derive(Debug, Default, Clone)]
pub(super) struct Chosen {
    /// Numbers of packs in the view, those with the most objects first.
    pub(super) packs: Vec<u32>,
    /// Loose objects, sorted.
    pub(super) loose: Vec<ObjectId>,
}

/// A pack that may be replaced.
struct Candidate {
    number: u32,
    objects: u64,
}

/// How many of the smallest packs are to become one, together with `loose` objects, so that each of the packs that are left has at least `factor` times the
/// objects of the next smaller one. `counts` are those of the packs, smallest first.
pub(super) fn split(counts: &[u64], loose: u64, factor: u64) -> usize {
    let broken = (1..counts.len())
        .rev()
        .find(|at| counts[*at] < factor.saturating_mul(counts[*at - 1]));
    let mut take = broken.map_or(0, |at| at + 1);
    let mut total = loose + counts[..take].iter().sum::<u64>();
    while let Some(next) = counts.get(take)
        && *next < factor.saturating_mul(total)
    {
        total += next;
        take += 1;
    }
    if take == 1 && loose == 0 { 0 } else { take }
}

/// Chooses packs and loose objects of the repository's own directory.
pub(super) fn choose(
    odb: &Odb,
    objects_dir: &Path,
    all: bool,
    factor: u64,
    avoid: &Avoid,
) -> Result<Chosen, RepackError> {
    let mut loose = list_loose(objects_dir, odb.hash_kind())?;
    loose.retain(|id| !avoid.loose.contains(id));
    let candidates = candidates(odb, objects_dir, avoid);
    let take = if all {
        candidates.len()
    } else {
        let counts: Vec<u64> = candidates.iter().map(|one| one.objects).collect();
        split(&counts, loose.len() as u64, factor)
    };
    let packs = candidates[..take].iter().rev().map(|one| one.number).collect();
    Ok(Chosen { packs, loose })
}

/// Packs of the repository's own that hold what nothing refers to, by their numbers in the view.
pub(super) fn cruft(odb: &Odb, objects_dir: &Path, avoid: &Avoid) -> Vec<u32> {
    let pack_dir = objects_dir.join("pack");
    if has_chain(&pack_dir) {
        return Vec::new();
    }
    let is_cruft = |path: &Path| {
        path.parent() == Some(&pack_dir)
            && path.with_extension("mtimes").exists()
            && !avoid.packs.contains(path)
            && !is_held(path)
    };
    let packs = odb.packs().iter().enumerate();
    packs
        .filter(|(_, pack)| is_cruft(pack.path()) && pack.index().is_ok())
        .map(|(number, _)| number as u32)
        .collect()
}

/// How many packs a compaction would make one.
pub(super) fn would_take(odb: &Odb, objects_dir: &Path, factor: u64) -> usize {
    let candidates = candidates(odb, objects_dir, &Avoid::default());
    let counts: Vec<u64> = candidates.iter().map(|one| one.objects).collect();
    split(&counts, 0, factor)
}

/// The packs that may be replaced, smallest first: none that somebody keeps, promised or set aside, none of another repository, none that is damaged.
fn candidates(odb: &Odb, objects_dir: &Path, avoid: &Avoid) -> Vec<Candidate> {
    let pack_dir = objects_dir.join("pack");
    if has_chain(&pack_dir) {
        return Vec::new();
    }
    let mut found: Vec<Candidate> = Vec::new();
    for (number, pack) in odb.packs().iter().enumerate() {
        let path = pack.path();
        if path.parent() != Some(&pack_dir) || avoid.packs.contains(path) || is_kept(path) {
            continue;
        }
        // Without checksums of its entries (version 1 of the index) nothing can be copied out of it.
        let Ok(index) = pack.index() else { continue };
        if !index.is_empty() && index.crc32(0).is_none() {
            continue;
        }
        found.push(Candidate {
            number: number as u32,
            objects: u64::from(index.len()),
        });
    }
    found.sort_by_key(|one| one.objects);
    found
}

/// Whether there is a chain of multi-pack-indexes: somebody's bookkeeping that we cannot mend.
fn has_chain(pack_dir: &Path) -> bool {
    pack_dir.join("multi-pack-index.d").exists()
}

/// Whether a pack holds what somebody else promised, or what nothing refers to.
pub(super) fn is_promised_or_cruft(pack: &Path) -> bool {
    ["promisor", "mtimes"]
        .iter()
        .any(|extension| pack.with_extension(extension).exists())
}

/// Whether a pack belongs to somebody else.
pub(super) fn is_held(pack: &Path) -> bool {
    ["keep", "promisor"]
        .iter()
        .any(|extension| pack.with_extension(extension).exists())
}

fn is_kept(pack: &Path) -> bool {
    is_held(pack) || pack.with_extension("mtimes").exists()
}

/// The ids of all loose objects, sorted.
fn list_loose(objects_dir: &Path, hash: HashKind) -> Result<Vec<ObjectId>, RepackError> {
    let mut found = Vec::new();
    for fan in 0..=255u8 {
        list_fan(objects_dir, fan, hash, &mut |id| found.push(id))
            .map_err(RepackError::io("list the objects below", objects_dir))?;
    }
    found.sort_unstable();
    Ok(found)
}

/// The ids of the loose objects in one of the 256 directories.
pub(in crate::repo) fn list_fan(
    objects_dir: &Path,
    fan: u8,
    hash: HashKind,
    found: &mut dyn FnMut(ObjectId),
) -> io::Result<()> {
    let prefix = format!("{fan:02x}");
    let entries = match fs::read_dir(objects_dir.join(&prefix)) {
        Ok(entries) => entries,
        Err(err) if is_absent(&err) => return Ok(()),
        Err(err) => return Err(err),
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let hex = [prefix.as_bytes(), name.as_encoded_bytes()].concat();
        if hex.len() != hash.len_in_hex() || hex.iter().any(u8::is_ascii_uppercase) {
            continue;
        }
        if let Ok(id) = ObjectId::from_hex(&hex) {
            found(id);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_progression_is_left_alone() {
        assert_eq!(split(&[], 0, 2), 0);
        assert_eq!(split(&[5], 0, 2), 0);
        assert_eq!(split(&[1, 2, 4, 8], 0, 2), 0);
        assert_eq!(split(&[1, 3, 7, 100], 0, 2), 0);
    }

    #[test]
    fn what_breaks_it_becomes_one_pack_that_does_not() {
        assert_eq!(split(&[1, 1], 0, 2), 2);
        assert_eq!(split(&[5, 5, 100], 0, 2), 2);
        assert_eq!(split(&[5, 5, 15], 0, 2), 3, "ten would be more than half of fifteen");
        assert_eq!(split(&[1, 2, 4, 7], 0, 2), 4);
        assert_eq!(split(&[1, 1, 1, 1, 50], 0, 2), 4);
    }

    #[test]
    fn loose_objects_count() {
        assert_eq!(split(&[], 7, 2), 0);
        assert_eq!(split(&[14], 7, 2), 0);
        assert_eq!(split(&[13], 7, 2), 1);
        assert_eq!(split(&[4, 8], 3, 2), 2);
        assert_eq!(split(&[2, 100], 3, 2), 1);
    }

    proptest::proptest! {
        #[test]
        fn afterwards_it_is_a_progression(mut counts in proptest::collection::vec(0u64..2_000, 0..20), loose in 0u64..500) {
            counts.sort_unstable();
            let take = split(&counts, loose, 2);
            let made = loose + counts[..take].iter().sum::<u64>();
            let mut after: Vec<u64> = Vec::new();
            if made > 0 { after.push(made); }
            after.extend(&counts[take..]);
            for pair in after.windows(2) {
                proptest::prop_assert!(pair[1] >= 2 * pair[0], "{counts:?} with {loose} became {after:?}");
            }
            if loose == 0 {
                proptest::prop_assert_ne!(take, 1);
            }
        }
    }
}
