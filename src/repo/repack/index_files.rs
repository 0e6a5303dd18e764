use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant, SystemTime},
};

use bstr::BString;
use gix::hash::ObjectId;

use super::{
    CompactProgress, RepackError, check,
    choose::is_promised_or_cruft,
    graph_file::{self, History},
    reach::{self, Universe},
};
use crate::{
    pack::{BitmapContents, MultiIndex, MultiIndexEntry, write_bitmap, write_multi_index, write_rev},
    repo::{Odb, Pack, RefsError, Repository, ingest::create_read_only, shared_mode},
};

/// For somebody else who writes a multi-pack-index; he does our work.
const PATIENCE: Duration = Duration::from_secs(1);

/// What became of the files beside the packs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct IndexFilesOutcome {
    /// Reverse indices that were written.
    pub reverse: u32,
    /// Packs of the multi-pack-index that was written; 0 when none was.
    pub packs: u32,
    /// Commits that have a bitmap in the file that was written; 0 when none was.
    pub bitmaps: u32,
}

impl Repository {
    /// Whether [`write_index_files`](Self::write_index_files) would find something to write. Cheap.
    pub(crate) fn wants_index_files(&self, odb: &Odb) -> bool {
        let own = self.own_packs(odb);
        let bitmaps = self.may_have_bitmaps();
        match own.as_slice() {
            [] => false,
            [one] => bitmaps && !one.path().with_extension("bitmap").exists(),
            _ if !self.settings().core.multi_pack_index => false,
            many => !self.has_index_of(many, bitmaps),
        }
    }

    fn may_have_bitmaps(&self) -> bool {
        let pack_dir = self.objects_dir().join("pack");
        let promised = || {
            fs::read_dir(pack_dir).is_ok_and(|mut entries| {
                entries.any(|entry| entry.is_ok_and(|entry| entry.path().extension().is_some_and(|e| e == "promisor")))
            })
        };
        let cut = |name: &str| fs::metadata(self.common_dir().join(name)).is_ok_and(|meta| meta.len() > 0);
        let alternates = self.objects_dir().join("info/alternates").exists();
        let whole = !cut("shallow") && !cut("info/grafts") && !alternates && !promised();
        self.settings().gc.write_bitmaps.unwrap_or(self.is_bare()) && whole
    }

    /// The packs that lie here and belong to history.
    fn own_packs(&self, odb: &Odb) -> Vec<Arc<Pack>> {
        let pack_dir = self.objects_dir().join("pack");
        let own = |pack: &&Arc<Pack>| pack.path().parent() == Some(&pack_dir) && !is_promised_or_cruft(pack.path());
        let usable = |pack: &&Arc<Pack>| pack.index().is_ok() && pack.path().exists();
        odb.packs().iter().filter(own).filter(usable).cloned().collect()
    }

    /// Whether there is a multi-pack-index of just these packs, and, if asked for, its bitmaps.
    fn has_index_of(&self, packs: &[Arc<Pack>], bitmaps: bool) -> bool {
        let pack_dir = self.objects_dir().join("pack");
        let Ok(map) = crate::repo::mmap::Mmap::open(&pack_dir.join("multi-pack-index")) else {
            return false;
        };
        let Ok(index) = MultiIndex::parse(map, self.hash_kind()) else {
            return false;
        };
        let names = sorted_by_name(packs);
        let same = index
            .pack_names()
            .eq(names.iter().map(|(name, _)| bstr::ByteSlice::as_bstr(name.as_slice())));
        let has_bitmaps = || {
            let sum = index.checksum().map(|sum| sum.to_hex().to_string()).unwrap_or_default();
            pack_dir.join(format!("multi-pack-index-{sum}.bitmap")).exists()
        };
        same && (!bitmaps || has_bitmaps())
    }

    /// Writes what makes packs quick to read: a `.rev` beside each, and if there is one pack its bitmaps, otherwise a multi-pack-index of all with bitmaps.
    /// What is there already is left. No bitmaps are written where `repack.writeBitmaps` says so (or, unset, the repository is not bare), where objects are
    /// borrowed or promised, or where history is not in the packs as a whole.
    ///
    /// # Errors
    /// When packs cannot be read or files cannot be written; then less is there than could be, and nothing is wrong.
    pub fn write_index_files(
        &self,
        stop: &AtomicBool,
        progress: &mut dyn FnMut(CompactProgress),
    ) -> Result<IndexFilesOutcome, RepackError> {
        let mut outcome = IndexFilesOutcome::default();
        let pack_dir = self.objects_dir().join("pack");
        let odb = self.odb()?;
        let packs = self.own_packs(&odb);
        if self.settings().pack.write_reverse_index {
            for pack in &packs {
                check(stop)?;
                outcome.reverse += u32::from(self.write_reverse(pack)?);
            }
        }
        // A chain of multi-pack-indexes is somebody's bookkeeping that we cannot mend.
        if !self.wants_index_files(&odb) || pack_dir.join("multi-pack-index.d").exists() {
            return Ok(outcome);
        }
        let bitmaps = self.may_have_bitmaps();
        match packs.as_slice() {
            [] => {}
            [one] => outcome.bitmaps = self.write_pack_bitmap(&odb, one, stop, progress)?,
            many => (outcome.packs, outcome.bitmaps) = self.write_multi_index(&odb, many, bitmaps, stop, progress)?,
        }
        Ok(outcome)
    }

    fn write_reverse(&self, pack: &Pack) -> Result<bool, RepackError> {
        let path = pack.path().with_extension("rev");
        if path.exists() {
            return Ok(false);
        }
        let index = pack.index()?;
        let mut positions: Vec<u32> = (0..index.len()).collect();
        positions.sort_unstable_by_key(|pos| index.offset(*pos));
        let mut bytes = Vec::new();
        write_rev(&positions, index.pack_checksum(), self.hash_kind(), &mut bytes)
            .map_err(RepackError::io("put together", &path))?;
        self.place(&path, &bytes, pack.path())
    }

    fn write_pack_bitmap(
        &self,
        odb: &Odb,
        pack: &Arc<Pack>,
        stop: &AtomicBool,
        progress: &mut dyn FnMut(CompactProgress),
    ) -> Result<u32, RepackError> {
        let index = pack.index()?;
        let mut bit_of = vec![0; index.len() as usize];
        for bit in 0..index.len() {
            let Some(pos) = pack.nth(bit)? else { return Ok(0) };
            bit_of[pos as usize] = bit;
        }
        let universe = Universe {
            lookup: &|id| index.lookup(id),
            id: &|pos| index.oid(pos).to_owned(),
            bit_of,
        };
        let Some((bytes, count)) = self.bitmap(odb, &universe, index.pack_checksum().to_owned(), stop, progress)?
        else {
            return Ok(0);
        };
        let placed = self.place(&pack.path().with_extension("bitmap"), &bytes, pack.path())?;
        Ok(if placed { count } else { 0 })
    }

    /// The bytes of a bitmap file, and of how many commits. `None` when there is nothing that it could be about.
    fn bitmap(
        &self,
        odb: &Odb,
        universe: &Universe<'_>,
        checksum: ObjectId,
        stop: &AtomicBool,
        progress: &mut dyn FnMut(CompactProgress),
    ) -> Result<Option<(Vec<u8>, u32)>, RepackError> {
        let History::Whole { commits, .. } = graph_file::collect(self, odb, stop, progress)? else {
            return Ok(None);
        };
        let tips = graph_file::tips(self, odb)?;
        let Some(reached) = reach::reach(odb, universe, &commits, &tips, stop, progress)? else {
            return Ok(None);
        };
        let count = reached.commits.len() as u32;
        if count == 0 {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        let contents = BitmapContents {
            checksum: &checksum,
            kinds: reached.kinds,
            commits: reached.commits,
            path_hashes: &reached.path_hashes,
        };
        write_bitmap(contents, self.hash_kind(), &mut bytes).map_err(RepackError::io("put together", "bitmaps"))?;
        Ok(Some((bytes, count)))
    }

    fn write_multi_index(
        &self,
        odb: &Odb,
        packs: &[Arc<Pack>],
        bitmaps: bool,
        stop: &AtomicBool,
        progress: &mut dyn FnMut(CompactProgress),
    ) -> Result<(u32, u32), RepackError> {
        let pack_dir = self.objects_dir().join("pack");
        let path = pack_dir.join("multi-pack-index");
        let named = sorted_by_name(packs);
        let names: Vec<BString> = named.iter().map(|(name, _)| name.clone()).collect();
        let (entries, preferred) = collect(&named)?;
        check(stop)?;
        let hash = self.hash_kind();
        let put_together = |preferred| {
            let mut bytes = Vec::new();
            write_multi_index(&names, &entries, preferred, hash, &mut bytes)
                .map(|checksum| (bytes, checksum))
                .map_err(RepackError::io("put together", &path))
        };
        let mut made = None;
        if bitmaps {
            let (bytes, checksum) = put_together(Some(preferred))?;
            let order = crate::pack::multi_index_order(&entries, preferred);
            let mut bit_of = vec![0; order.len()];
            for (bit, pos) in order.into_iter().enumerate() {
                bit_of[pos as usize] = bit as u32;
            }
            let unsound = |_| RepackError::Unsound {
                why: "its multi-pack-index is not one",
            };
            let index = MultiIndex::parse(&bytes[..], hash).map_err(unsound)?;
            let universe = Universe {
                lookup: &|id| index.lookup(id),
                id: &|pos| index.oid(pos).to_owned(),
                bit_of,
            };
            let written = self.bitmap(odb, &universe, checksum, stop, progress)?;
            made = written.map(|(bitmap, count)| (bytes, checksum, bitmap, count));
        }
        let (bytes, checksum, bitmap, count) = match made {
            Some(made) => made,
            None if self.has_index_of(packs, false) => return Ok((0, 0)),
            None => {
                let (bytes, checksum) = put_together(None)?;
                (bytes, checksum, Vec::new(), 0)
            }
        };
        let own = format!("multi-pack-index-{}.bitmap", checksum.to_hex());
        if !bitmap.is_empty() && !self.place(&pack_dir.join(&own), &bitmap, packs[0].path())? {
            return Ok((0, 0));
        }
        let mut written = false;
        let replaced = self.ref_store().replace_file(&path, Instant::now() + PATIENCE, || {
            // Somebody may have packed meanwhile; then it would name what is gone.
            written = packs.iter().all(|pack| pack.path().exists());
            Ok::<_, RefsError>(written.then_some(bytes))
        });
        match replaced {
            Ok(()) => {}
            Err(RefsError::Locked { .. }) => written = false,
            Err(err) => return Err(err.into()),
        }
        drop_bitmaps_but(&pack_dir, written.then_some(own.as_str()));
        Ok(if written { (packs.len() as u32, count) } else { (0, 0) })
    }

    /// Gives a file its name beside a pack, durably and at once. `false` when the pack is gone.
    fn place(&self, path: &Path, bytes: &[u8], pack: &Path) -> Result<bool, RepackError> {
        let dir = path.parent().unwrap_or(path);
        let since = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let draft = dir.join(format!("tmp_gitstead_{}_{}", std::process::id(), since.as_nanos()));
        let write = || {
            let mut file = create_read_only(&draft)?;
            file.write_all(bytes)?;
            let mode = std::os::unix::fs::PermissionsExt::mode(&file.metadata()?.permissions()) & 0o7777;
            let wanted = shared_mode(self.settings().core.shared_repository, mode, false);
            if wanted != mode {
                file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(wanted))?;
            }
            file.sync_all()?;
            if !pack.exists() {
                fs::remove_file(&draft)?;
                return Ok(false);
            }
            fs::rename(&draft, path)?;
            File::open(dir)?.sync_all()?;
            Ok(true)
        };
        write().map_err(|err| {
            let _ = fs::remove_file(&draft);
            RepackError::io("write", path)(err)
        })
    }
}

fn sorted_by_name(packs: &[Arc<Pack>]) -> Vec<(BString, &Arc<Pack>)> {
    let name = |pack: &Pack| -> BString {
        let path: PathBuf = pack.path().with_extension("idx");
        path.file_name().unwrap_or_default().as_encoded_bytes().into()
    };
    let mut named: Vec<_> = packs.iter().map(|pack| (name(pack), pack)).collect();
    named.sort_by(|a, b| a.0.cmp(&b.0));
    named
}

/// Every object once: from the pack with the most objects, which is the preferred one, and otherwise from the newest that has it.
fn collect(named: &[(BString, &Arc<Pack>)]) -> Result<(Vec<MultiIndexEntry>, u32), RepackError> {
    let mut ranks = Vec::with_capacity(named.len());
    for (number, (_, pack)) in named.iter().enumerate() {
        let modified = fs::metadata(pack.path()).and_then(|meta| meta.modified());
        let modified = modified.map_err(RepackError::io("look at", pack.path()))?;
        ranks.push((pack.index()?.len(), modified, number as u32));
    }
    let preferred = ranks
        .iter()
        .max_by_key(|(len, _, number)| (*len, std::cmp::Reverse(*number)));
    let preferred = preferred.map_or(0, |(_, _, number)| *number);
    let mut entries = Vec::new();
    for (number, (_, pack)) in named.iter().enumerate() {
        let index = pack.index()?;
        entries.extend((0..index.len()).map(|pos| MultiIndexEntry {
            oid: index.oid(pos).to_owned(),
            pack: number as u32,
            offset: index.offset(pos),
        }));
    }
    let age = |pack: u32| std::cmp::Reverse(ranks[pack as usize].1);
    entries.sort_unstable_by(|a, b| {
        let key = |entry: &MultiIndexEntry| (entry.pack != preferred, age(entry.pack), entry.pack);
        a.oid.cmp(&b.oid).then_with(|| key(a).cmp(&key(b)))
    });
    entries.dedup_by(|later, first| later.oid == first.oid);
    Ok((entries, preferred))
}

/// Deletes what belonged to multi-pack-indexes that are no more.
fn drop_bitmaps_but(pack_dir: &Path, own: Option<&str>) {
    let Some(own) = own else { return };
    let Ok(entries) = fs::read_dir(pack_dir) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        if name.as_encoded_bytes().starts_with(b"multi-pack-index-") && name != own {
            let _ = fs::remove_file(entry.path());
        }
    }
}
