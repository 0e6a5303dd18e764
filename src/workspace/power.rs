//! What survives a loss of power when it need not be awaited: a note of the last checkpoint that is known to be on the disk.
//!
//! In batches, a ref may reach the disk before the objects that it names. Should the power go just then, the note says to where everything is whole.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    time::SystemTime,
};

use bstr::{BString, ByteSlice};
use gix::hash::ObjectId;

/// Beside HEAD: `<boot> <ref> <commit>`.
const NOTE: &str = "gitstead-durable";

/// A checkpoint that is on the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Durable {
    /// The ref that names it, in full.
    pub(crate) reference: BString,
    pub(crate) commit: ObjectId,
}

/// What is known from before the system was last started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Before {
    pub(crate) durable: Durable,
    /// When the note was written: what is older was on the disk by then.
    pub(crate) since: SystemTime,
}

/// Which start of the system this is; `None` where it does not say.
fn boot() -> Option<String> {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(id.trim().to_owned()).filter(|id| !id.is_empty() && !id.contains(' '))
}

fn path(git_dir: &Path) -> PathBuf {
    git_dir.join(NOTE)
}

impl Durable {
    /// Notes that it is on the disk.
    pub(super) fn note(&self, git_dir: &Path) -> io::Result<()> {
        let Some(boot) = boot() else { return Ok(()) };
        let path = path(git_dir);
        let draft = path.with_extension("new");
        let mut file = File::create(&draft)?;
        file.write_all(format!("{boot} ").as_bytes())?;
        file.write_all(&self.reference)?;
        file.write_all(format!(" {}\n", self.commit).as_bytes())?;
        file.sync_all()?;
        fs::rename(&draft, &path)
    }

    /// What was noted before the system was last started; `None` if that is not known, or was in this life of it.
    pub(super) fn from_before(git_dir: &Path) -> Option<Before> {
        let path = path(git_dir);
        let since = fs::metadata(&path).and_then(|meta| meta.modified()).ok()?;
        let text = fs::read(&path).ok().filter(|text| text.len() < 4096)?;
        let mut words = text.trim().split(|b| *b == b' ');
        let (then, reference, commit) = (words.next()?, words.next()?, words.next()?);
        if then == boot()?.as_bytes() {
            return None;
        }
        let durable = Durable {
            reference: reference.into(),
            commit: ObjectId::from_hex(commit).ok()?,
        };
        Some(Before { durable, since })
    }
}
