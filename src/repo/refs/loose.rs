//! Loose refs: one file for each ref, holding an object id or `ref: <name>` (gitrepository-layout(5)).

use std::{
    ffi::OsStr,
    fs::{self, OpenOptions},
    io::{self, Read},
    os::unix::{
        ffi::{OsStrExt, OsStringExt},
        fs::OpenOptionsExt,
    },
    path::Path,
};

use bstr::{BString, ByteSlice};
use gix::hash::{self, ObjectId};
use rustix::{fs::OFlags, io::Errno};

use super::{
    names::{self, Prefixes},
    packed,
    types::RefsError,
};

/// Directories deeper than this are somebody's loop of symbolic links.
const MAX_DEPTH: usize = 100;

/// The content of a ref, nothing followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Raw {
    Id(ObjectId),
    Symbolic(BString),
    /// Anything else, an id of zeros and an empty file among it.
    Broken,
}

/// Reads the file of a ref. Directories and missing files are no refs.
pub(super) fn read(path: &Path, hash: hash::Kind) -> Result<Option<Raw>, RefsError> {
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32)
        .open(path);
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => return read_link(path, hash),
        Err(error) => return absent(path, error),
    };
    read_file(path, file, hash)
}

fn absent(path: &Path, error: io::Error) -> Result<Option<Raw>, RefsError> {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Ok(None),
        // A socket, or a name that no file system takes.
        _ if error.raw_os_error() == Some(Errno::NXIO.raw_os_error()) => Ok(Some(Raw::Broken)),
        _ if error.raw_os_error() == Some(Errno::NAMETOOLONG.raw_os_error()) => Ok(None),
        _ => Err(RefsError::Io {
            doing: "open",
            path: path.to_owned(),
            source: error,
        }),
    }
}

fn read_file(path: &Path, file: fs::File, hash: hash::Kind) -> Result<Option<Raw>, RefsError> {
    let io = |source| RefsError::Io {
        doing: "read",
        path: path.to_owned(),
        source,
    };
    let metadata = file.metadata().map_err(io)?;
    if metadata.is_dir() {
        return Ok(None);
    }
    if !metadata.is_file() {
        return Ok(Some(Raw::Broken));
    }
    let mut content = Vec::with_capacity(128);
    file.take(8192).read_to_end(&mut content).map_err(io)?;
    Ok(Some(parse(&content, hash)))
}

/// A symbolic link into `refs/` is a symbolic ref of old; any other is followed as the system follows it.
fn read_link(path: &Path, hash: hash::Kind) -> Result<Option<Raw>, RefsError> {
    let target = match fs::read_link(path) {
        Ok(target) => target.into_os_string().into_vec(),
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => return Ok(Some(Raw::Broken)),
        Err(error) => return absent(path, error),
    };
    if target.starts_with(b"refs/") && names::is_valid(&target) {
        return Ok(Some(Raw::Symbolic(target.into())));
    }
    match OpenOptions::new()
        .read(true)
        .custom_flags(OFlags::NONBLOCK.bits() as i32)
        .open(path)
    {
        Ok(file) => read_file(path, file, hash),
        Err(error) if error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => Ok(Some(Raw::Broken)),
        Err(error) => absent(path, error),
    }
}

/// Takes the bytes of a loose ref.
pub(super) fn parse(content: &[u8], hash: hash::Kind) -> Raw {
    if let Some(target) = content.strip_prefix(b"ref:") {
        let target = target.trim_ascii();
        return if names::is_valid(target) {
            Raw::Symbolic(target.into())
        } else {
            Raw::Broken
        };
    }
    let (hex, rest) = content.split_at_checked(hash.len_in_hex()).unwrap_or_default();
    if rest.first().is_some_and(|b| !b.is_ascii_whitespace()) {
        return Raw::Broken;
    }
    match packed::id(hex) {
        Some(id) if !id.is_null() => Raw::Id(id),
        _ => Raw::Broken,
    }
}

/// Whether a file (not a directory) stands at this path.
pub(super) fn is_file(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|m| !m.is_dir())
}

/// The names of the loose refs beneath `root/<directory>` that `wanted` matches, unsorted. `directory` ends with a slash. `skip` tells
/// which names to leave out with all that is beneath them.
pub(super) fn walk(
    root: &Path,
    directory: &[u8],
    wanted: &Prefixes,
    skip: &dyn Fn(&[u8]) -> bool,
    found: &mut dyn FnMut(BString) -> Result<Go, RefsError>,
) -> Result<Go, RefsError> {
    let mut stack = vec![BString::from(directory)];
    while let Some(directory) = stack.pop() {
        let path = root.join(OsStr::from_bytes(&directory));
        let io = |source| RefsError::Io {
            doing: "list",
            path: path.clone(),
            source,
        };
        let entries = match fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(error) => match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => continue,
                _ => return Err(io(error)),
            },
        };
        for entry in entries {
            let entry = entry.map_err(io)?;
            let file_name = entry.file_name();
            let base = file_name.as_bytes();
            if base.starts_with(b".") || base.ends_with(b".lock") {
                continue;
            }
            let mut name = directory.clone();
            name.extend_from_slice(base);
            let Ok(mut kind) = entry.file_type() else { continue };
            if kind.is_symlink() {
                match fs::metadata(entry.path()) {
                    Ok(metadata) if metadata.is_dir() => kind = metadata.file_type(),
                    _ => {}
                }
            }
            if kind.is_dir() {
                name.push(b'/');
                if wanted.may_be_beneath(&name) && !skip(&name) && name.find_iter(b"/").count() < MAX_DEPTH {
                    stack.push(name);
                }
            } else if wanted.matches(&name) && !skip(&name) {
                if !names::is_valid(&name) {
                    tracing::warn!(%name, "ignoring a ref with a broken name");
                } else if found(name)? == Go::Stop {
                    return Ok(Go::Stop);
                }
            }
        }
    }
    Ok(Go::On)
}

/// Whether a walk goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Go {
    On,
    Stop,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_are_read_as_git_reads_them() {
        let hex = "0123456789012345678901234567890123456789";
        let id = Raw::Id(ObjectId::from_hex(hex.as_bytes()).unwrap());
        let check = |content: &str| parse(content.as_bytes(), hash::Kind::Sha1);
        assert_eq!(check(hex), id);
        assert_eq!(check(&format!("{hex}\n")), id);
        assert_eq!(check(&format!("{hex} anything")), id);
        assert_eq!(check("ref: refs/heads/a\n"), Raw::Symbolic("refs/heads/a".into()));
        assert_eq!(check("ref:refs/heads/a"), Raw::Symbolic("refs/heads/a".into()));
        assert_eq!(check("ref: \t refs/heads/a \n"), Raw::Symbolic("refs/heads/a".into()));
        for bad in [
            "",
            "\n",
            "0123",
            "ref: ",
            "ref: ../x",
            "ref: refs/heads/a..b",
            &format!("{hex}0"),
        ] {
            assert_eq!(check(bad), Raw::Broken, "{bad:?}");
        }
        assert_eq!(check(&"0".repeat(40)), Raw::Broken);
        assert_eq!(parse(hex.as_bytes(), hash::Kind::Sha256), Raw::Broken);
    }

    #[test]
    fn what_is_no_file_is_no_ref() {
        let dir = tempfile::tempdir().unwrap();
        let check = |name: &str| read(&dir.path().join(name), hash::Kind::Sha1).unwrap();
        std::fs::create_dir(dir.path().join("d")).unwrap();
        std::fs::write(dir.path().join("f"), "x").unwrap();
        std::os::unix::fs::symlink("refs/heads/a", dir.path().join("link")).unwrap();
        std::os::unix::fs::symlink("loop", dir.path().join("loop")).unwrap();
        assert_eq!(check("d"), None);
        assert_eq!(check("f"), Some(Raw::Broken));
        assert_eq!(check("f/g"), None);
        assert_eq!(check("none/g"), None);
        assert_eq!(check("link"), Some(Raw::Symbolic("refs/heads/a".into())));
        assert_eq!(check("loop"), Some(Raw::Broken));
        assert_eq!(check(&"n".repeat(300)), None);
    }
}
