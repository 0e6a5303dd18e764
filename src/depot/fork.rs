use std::{
    ffi::OsString,
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use bstr::{BString, ByteSlice as _};

use super::{CreateOptions, Depot, DepotError, layout};
use crate::{
    base::RepoName,
    repo::{Head, Ref, RefQuery, Repository},
};

/// How often it is begun again because the source was repacked meanwhile.
const ATTEMPTS: usize = 5;
/// The files of a pack, the index last: without it the others are nothing.
const PACK_FILES: [&str; 5] = ["pack", "rev", "promisor", "mtimes", "idx"];

impl Depot {
    /// Creates a bare repository at `name` with the branches, tags and objects of `source`.
    ///
    /// Objects are shared as hard links where the file system has them, and copied elsewhere: neither git nor Gitstead ever changes a file of objects in place, so a
    /// link costs nothing and each repository can be repacked or deleted for itself. Alternates would make the fork a ruin when its source goes.
    ///
    /// # Errors
    /// `NotFound` for the source; as [`create`](Self::create) for the new one.
    pub fn create_fork_of(&self, source: &RepoName, name: &RepoName) -> Result<(), DepotError> {
        let from = self.open(source)?;
        let refs_error = |source_error| DepotError::Refs {
            name: source.clone(),
            source: source_error,
        };
        let mut options = CreateOptions {
            object_format: from.hash_kind(),
            ..CreateOptions::default()
        };
        if let Head::Symbolic { target, .. } = from.head(None).map_err(refs_error)?
            && let Some(branch) = target.strip_prefix(b"refs/heads/").and_then(|b| b.to_str().ok())
        {
            options.default_branch = branch.to_owned();
        }
        let _held = from
            .hold_objects()
            .map_err(|err| DepotError::io("hold objects of", from.objects_dir().to_owned(), io::Error::other(err)))?;
        self.create_filled(name, &options, |dir| {
            for _ in 0..ATTEMPTS {
                let packs = packs_of(&from)?;
                let refs = from
                    .refs(&RefQuery {
                        prefixes: ["refs/heads/", "refs/tags/", "refs/notes/"].map(BString::from).into(),
                        peel: true,
                        ..RefQuery::default()
                    })
                    .map_err(refs_error)?;
                let linked = link_objects(&from, &dir.join("objects"));
                // A repack removes what is elsewhere by then: what was linked may be half of each.
                let same = packs_of(&from)? == packs;
                match linked {
                    Ok(()) if same => {
                        copy_shallow(&from, dir)?;
                        return write_packed_refs(dir, &refs);
                    }
                    Err(err) if same => return Err(err),
                    _ => {}
                }
            }
            let changing = io::Error::other("its packs change all the time");
            Err(DepotError::io("copy", from.objects_dir().to_owned(), changing))
        })
    }
}

fn object_dirs(from: &Repository) -> Result<Vec<PathBuf>, DepotError> {
    let alternates = from
        .alternate_object_dirs()
        .map_err(|err| DepotError::io("list", from.objects_dir().to_owned(), io::Error::other(err)))?;
    Ok([vec![from.objects_dir().to_owned()], alternates].concat())
}

fn packs_of(from: &Repository) -> Result<Vec<(PathBuf, OsString)>, DepotError> {
    let mut packs = Vec::new();
    for dir in object_dirs(from)? {
        let pack = dir.join("pack");
        for name in names_in(&pack)? {
            if extension(&name).is_some_and(|ext| PACK_FILES.contains(&ext)) {
                packs.push((pack.clone(), name));
            }
        }
    }
    packs.sort();
    Ok(packs)
}

fn link_objects(from: &Repository, to: &Path) -> Result<(), DepotError> {
    for dir in object_dirs(from)? {
        for name in names_in(&dir)? {
            let is_fan_out = name.len() == 2 && name.to_str().is_some_and(|n| n.bytes().all(|b| b.is_ascii_hexdigit()));
            if !is_fan_out {
                continue;
            }
            let target = to.join(&name);
            match fs::create_dir(&target) {
                Err(err) if err.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(DepotError::io("create", target, err));
                }
                _ => {}
            }
            for object in names_in(&dir.join(&name))? {
                if object
                    .to_str()
                    .is_some_and(|n| n.bytes().all(|b| b.is_ascii_hexdigit()))
                {
                    link(&dir.join(&name).join(&object), &target.join(&object))?;
                }
            }
            layout::sync_dir(&target)?;
        }
        let packs = names_in(&dir.join("pack"))?;
        for wanted in PACK_FILES {
            for name in packs.iter().filter(|name| extension(name) == Some(wanted)) {
                link(&dir.join("pack").join(name), &to.join("pack").join(name))?;
            }
        }
    }
    layout::sync_dir(&to.join("pack"))?;
    layout::sync_dir(to)
}

/// The same file under another name, or a copy where that cannot be.
fn link(from: &Path, to: &Path) -> Result<(), DepotError> {
    use rustix::io::Errno;
    let error = |source| DepotError::io("link to", to.to_owned(), source);
    match fs::hard_link(from, to) {
        Ok(()) => Ok(()),
        Err(err) if err.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(err)
            if matches!(
                Errno::from_io_error(&err),
                Some(Errno::XDEV | Errno::PERM | Errno::MLINK | Errno::NOTSUP | Errno::NOSYS | Errno::ACCESS)
            ) =>
        {
            let copy = || {
                fs::copy(from, to)?;
                fs::File::open(to)?.sync_all()
            };
            copy().map_err(error)
        }
        Err(err) => Err(error(err)),
    }
}

fn copy_shallow(from: &Repository, dir: &Path) -> Result<(), DepotError> {
    let path = from.common_dir().join("shallow");
    match fs::copy(&path, dir.join("shallow")) {
        Ok(_) => Ok(()),
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(DepotError::io("copy", path, source)),
    }
}

/// Format: gitrepository-layout(5), git-pack-refs(1).
fn write_packed_refs(dir: &Path, refs: &[Ref]) -> Result<(), DepotError> {
    let mut text = b"# pack-refs with: peeled fully-peeled sorted \n".to_vec();
    for one in refs {
        text.extend_from_slice(format!("{} ", one.id).as_bytes());
        text.extend_from_slice(&one.name);
        text.push(b'\n');
        if let Some(peeled) = one.peeled {
            text.extend_from_slice(format!("^{peeled}\n").as_bytes());
        }
    }
    let path = dir.join("packed-refs");
    let write = || {
        let mut file = fs::File::create(&path)?;
        file.write_all(&text)?;
        file.sync_all()
    };
    write().map_err(|source| DepotError::io("write", path.clone(), source))?;
    layout::sync_dir(dir)
}

fn names_in(dir: &Path) -> Result<Vec<OsString>, DepotError> {
    let read = |source| DepotError::io("read", dir.to_owned(), source);
    match fs::read_dir(dir) {
        Ok(entries) => entries
            .map(|entry| entry.map(|entry| entry.file_name()).map_err(read))
            .collect(),
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(err) => Err(read(err)),
    }
}

fn extension(name: &OsString) -> Option<&str> {
    name.to_str()?.rsplit_once('.').map(|(_, ext)| ext)
}
