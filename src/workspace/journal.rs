//! What a transition of a workspace's files is about to do, written down before the ref moves, so that whoever comes after a killed process can finish it.
//!
//! Format: fields that end in NUL, numbers in decimal, ids in hexadecimal; the last field is the CRC of everything before it. The file appears by rename, so it
//! is there whole or not at all.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use bstr::{BStr, BString, ByteSlice as _};
use gix::{hash::ObjectId, objs::tree::EntryKind};

use super::beneath::{Seen, step};

const FILE: &str = "gitstead-transition";
const TEMP: &str = "gitstead-transition.new";
const MAGIC: &[u8] = b"gitstead transition 1";
/// A journal is read whole. Ten million paths of a hundred bytes are beyond what a workspace may have.
const MAX_BYTES: u64 = 2 << 30;

/// A transition of files that goes with the move of one ref.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    /// The full name of the ref.
    pub reference: BString,
    /// What the ref was before.
    pub from: Option<ObjectId>,
    /// What it is afterwards. The files follow if it is.
    pub to: ObjectId,
    /// Whether new contents wait in the worktree's own directory, because its git directory is on another file system.
    pub stage_in_root: bool,
    /// What is done, sorted by path.
    pub moves: Vec<Move>,
}

/// What happens to one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Move {
    pub path: BString,
    /// What will be tracked there.
    pub to: Option<(EntryKind, ObjectId)>,
    /// What is there now.
    pub before: Option<Seen>,
    pub act: Act,
}

/// How a path becomes what it shall be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Act {
    /// It is already so, or is nothing that is written: only what is tracked changes.
    Nothing,
    /// The staged file, which looked like this, takes its place.
    Put(Seen),
    /// It is removed.
    Remove,
    /// A directory for a nested repository.
    MakeDirectory,
    /// The directory of a nested repository, removed if it is empty.
    RemoveDirectory,
    /// The directory of a nested repository gives way to the staged file, if it is empty.
    PutInDirectory(Seen),
    /// The file gives way to the directory of a nested repository.
    RemoveThenMakeDirectory,
}

impl Act {
    pub(super) fn staged(self) -> Option<Seen> {
        match self {
            Act::Put(seen) | Act::PutInDirectory(seen) => Some(seen),
            _ => None,
        }
    }

    pub(super) fn removes(self) -> bool {
        matches!(self, Act::Remove | Act::RemoveThenMakeDirectory)
    }

    fn code(self) -> u8 {
        match self {
            Act::Nothing => b'=',
            Act::Put(_) => b'+',
            Act::Remove => b'-',
            Act::MakeDirectory => b'd',
            Act::RemoveDirectory => b'r',
            Act::PutInDirectory(_) => b'p',
            Act::RemoveThenMakeDirectory => b'm',
        }
    }
}

impl Plan {
    /// Writes the journal into the worktree's git directory, durably.
    pub(super) fn write(&self, git_dir: &Path) -> io::Result<()> {
        let temp = git_dir.join(TEMP);
        step()?;
        match fs::remove_file(&temp) {
            Err(err) if err.kind() != io::ErrorKind::NotFound => return Err(err),
            _ => {}
        }
        step()?;
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temp)?;
        step()?;
        file.write_all(&self.encode())?;
        step()?;
        file.sync_all()?;
        step()?;
        fs::rename(&temp, git_dir.join(FILE))?;
        step()?;
        File::open(git_dir)?.sync_all()
    }

    /// The journal that is there, if it is one; what is damaged is none, and says so in the log.
    pub(super) fn read(git_dir: &Path) -> io::Result<Option<Self>> {
        let path = git_dir.join(FILE);
        let mut options = OpenOptions::new();
        options
            .read(true)
            .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits() as i32);
        let file = match options.open(&path) {
            Ok(file) => file,
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(err) => return Err(err),
        };
        let mut bytes = Vec::new();
        file.take(MAX_BYTES).read_to_end(&mut bytes)?;
        let plan = Self::decode(&bytes);
        if plan.is_none() {
            tracing::error!(path = %path.display(), "the journal of a workspace's files is damaged; they are left as they are");
        }
        Ok(plan)
    }

    /// Whether there is a journal.
    pub(super) fn exists(git_dir: &Path) -> bool {
        fs::symlink_metadata(git_dir.join(FILE)).is_ok()
    }

    /// Removes the journal: there is nothing to finish any more.
    pub(super) fn remove(git_dir: &Path) -> io::Result<()> {
        for name in [FILE, TEMP] {
            step()?;
            match fs::remove_file(git_dir.join(name)) {
                Err(err) if err.kind() != io::ErrorKind::NotFound => return Err(err),
                _ => {}
            }
        }
        Ok(())
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64 + self.moves.len() * 128);
        let mut field = |bytes: &[u8]| {
            out.extend_from_slice(bytes);
            out.push(0);
        };
        field(MAGIC);
        field(&self.reference);
        field(self.from.map(|id| id.to_string()).unwrap_or_default().as_bytes());
        field(self.to.to_string().as_bytes());
        field(if self.stage_in_root { b"root" } else { b"git" });
        field(self.moves.len().to_string().as_bytes());
        for step in &self.moves {
            field(&step.path);
            field(&[step.act.code()]);
            if let Some(seen) = step.act.staged() {
                field(seen_text(&seen).as_bytes());
            }
            match step.to {
                Some((kind, id)) => field(format!("{:o} {id}", kind as u16).as_bytes()),
                None => field(b""),
            }
            match &step.before {
                Some(seen) => field(seen_text(seen).as_bytes()),
                None => field(b""),
            }
        }
        let crc = crc32fast::hash(&out);
        out.extend_from_slice(format!("{crc:08x}").as_bytes());
        out.push(0);
        out
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (content, crc) = bytes.split_at_checked(bytes.len().checked_sub(9)?)?;
        if format!("{:08x}\0", crc32fast::hash(content)).as_bytes() != crc {
            return None;
        }
        let mut fields = content.split(|b| *b == 0).map(|field| field.as_bstr());
        if fields.next()? != MAGIC {
            return None;
        }
        let reference = fields.next()?.to_owned();
        let from = match fields.next()? {
            empty if empty.is_empty() => None,
            hex => Some(ObjectId::from_hex(hex).ok()?),
        };
        let to = ObjectId::from_hex(fields.next()?).ok()?;
        let stage_in_root = fields.next()? == "root";
        let count: usize = number(fields.next()?)?;
        let mut moves = Vec::with_capacity(count.min(bytes.len() / 8));
        for _ in 0..count {
            let path = fields.next()?.to_owned();
            let code = *fields.next()?.first()?;
            let mut staged = || seen(fields.next()?);
            let act = match code {
                b'=' => Act::Nothing,
                b'+' => staged().map(Act::Put)?,
                b'-' => Act::Remove,
                b'd' => Act::MakeDirectory,
                b'r' => Act::RemoveDirectory,
                b'p' => staged().map(Act::PutInDirectory)?,
                b'm' => Act::RemoveThenMakeDirectory,
                _ => return None,
            };
            let to = match fields.next()? {
                empty if empty.is_empty() => None,
                text => {
                    let (mode, id) = text.split_once_str(" ")?;
                    Some((kind(mode)?, ObjectId::from_hex(id).ok()?))
                }
            };
            let before = match fields.next()? {
                empty if empty.is_empty() => None,
                text => Some(seen(text)?),
            };
            moves.push(Move { path, to, before, act });
        }
        Some(Plan {
            reference,
            from,
            to,
            stage_in_root,
            moves,
        })
    }
}

fn seen_text(seen: &Seen) -> String {
    let Seen {
        dev,
        ino,
        mode,
        size,
        mtime: (seconds, nanos),
    } = seen;
    format!("{dev} {ino} {mode} {size} {seconds} {nanos}")
}

fn seen(text: &BStr) -> Option<Seen> {
    let [dev, ino, mode, size, seconds, nanos] = numbers::<6, i128>(text)?;
    Some(Seen {
        dev: u64::try_from(dev).ok()?,
        ino: u64::try_from(ino).ok()?,
        mode: u32::try_from(mode).ok()?,
        size: u64::try_from(size).ok()?,
        mtime: (i64::try_from(seconds).ok()?, i64::try_from(nanos).ok()?),
    })
}

fn number<T: std::str::FromStr>(text: &BStr) -> Option<T> {
    text.to_str().ok()?.parse().ok()
}

fn numbers<const N: usize, T: std::str::FromStr + Copy>(text: &BStr) -> Option<[T; N]> {
    let all: Vec<T> = text
        .split_str(" ")
        .map(|n| number(n.as_bstr()))
        .collect::<Option<_>>()?;
    all.try_into().ok()
}

fn kind(mode: &[u8]) -> Option<EntryKind> {
    [
        EntryKind::Blob,
        EntryKind::BlobExecutable,
        EntryKind::Link,
        EntryKind::Commit,
    ]
    .into_iter()
    .find(|kind| format!("{:o}", *kind as u16).as_bytes() == mode)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        let id = |n: u8| ObjectId::from_bytes_or_panic(&[n; 20]);
        let seen = Seen {
            dev: 1,
            ino: u64::MAX,
            mode: 0o100644,
            size: 3,
            mtime: (-5, 999_999_999),
        };
        let a_move = |path: &str, to, before, act| Move {
            path: path.into(),
            to,
            before,
            act,
        };
        Plan {
            reference: "refs/heads/main".into(),
            from: None,
            to: id(9),
            stage_in_root: true,
            moves: vec![
                a_move(
                    "a b\nc",
                    Some((EntryKind::Link, id(1))),
                    None,
                    Act::Put(Seen { ino: 8, ..seen }),
                ),
                a_move("d", None, Some(seen), Act::Remove),
                a_move(
                    "e",
                    Some((EntryKind::Commit, id(2))),
                    Some(seen),
                    Act::RemoveThenMakeDirectory,
                ),
                a_move("f", Some((EntryKind::BlobExecutable, id(3))), None, Act::Nothing),
            ],
        }
    }

    #[test]
    fn what_was_written_down_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Plan::read(dir.path()).unwrap(), None);
        let plan = plan();
        plan.write(dir.path()).unwrap();
        assert!(Plan::exists(dir.path()));
        assert_eq!(Plan::read(dir.path()).unwrap(), Some(plan));
        Plan::remove(dir.path()).unwrap();
        assert!(!Plan::exists(dir.path()));
    }

    #[test]
    fn a_journal_with_a_changed_or_missing_byte_is_none() {
        let bytes = plan().encode();
        assert_eq!(Plan::decode(&bytes), Some(plan()));
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert_eq!(Plan::decode(&changed), None, "byte {at}");
            assert_eq!(Plan::decode(&bytes[..at]), None, "cut at {at}");
        }
    }
}
