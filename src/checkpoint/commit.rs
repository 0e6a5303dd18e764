use std::fmt;

use bstr::{BStr, BString, ByteSlice};
use gix::{
    hash::{ObjectId, oid},
    objs::Kind,
};

use super::{CheckpointMessage, ReadError, parse, subject_of};
use crate::repo::Odb;

/// Bytes of a message that are kept.
const MESSAGE_BYTES: usize = 64 << 10;
/// Bytes of a name or an address that are kept.
const NAME_BYTES: usize = 1 << 10;

/// Who, and when.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Signature {
    /// The name.
    pub name: BString,
    /// The address, without brackets.
    pub email: BString,
    /// Seconds since the epoch; 0 when the commit's own cannot be read.
    pub seconds: i64,
    /// Minutes east of UTC.
    pub offset_minutes: i32,
}

/// One commit, read.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CommitInfo {
    /// Its id.
    pub id: ObjectId,
    /// Its tree.
    pub tree: ObjectId,
    /// Its parents, the first one first. None at a shallow boundary when it was read by [`log`](super::log) or [`show`](super::show).
    pub parents: Vec<ObjectId>,
    /// Who made the change.
    pub author: Signature,
    /// Who made the commit.
    pub committer: Signature,
    /// The message as it is, up to 64 KiB of it.
    pub message: BString,
    /// There is more of the message.
    pub message_is_cut: bool,
    /// It carries a signature. Nothing is said about its worth.
    pub is_signed: bool,
    /// What the message says, if it is a checkpoint's.
    pub checkpoint: Option<CheckpointMessage>,
}

impl CommitInfo {
    /// Reads a commit's bytes. `None` when they are not a commit's.
    pub fn from_bytes(id: ObjectId, data: &[u8]) -> Option<Self> {
        let (headers, message) = match data.split_once_str("\n\n") {
            Some((headers, message)) => (headers, message),
            None => (data, &b""[..]),
        };
        let mut lines = headers.lines();
        let id_in = |line: &[u8], key: &str| ObjectId::from_hex(line.strip_prefix(key.as_bytes())?).ok();
        let tree = id_in(lines.next()?, "tree ")?;
        let (mut parents, mut author, mut committer, mut is_signed) = (Vec::new(), None, None, false);
        for line in lines {
            if line.starts_with(b"parent ") {
                parents.push(id_in(line, "parent ")?);
            } else if let Some(who) = line.strip_prefix(b"author ") {
                author.get_or_insert_with(|| signature(who));
            } else if let Some(who) = line.strip_prefix(b"committer ") {
                committer.get_or_insert_with(|| signature(who));
            } else if line.starts_with(b"gpgsig") {
                is_signed = true;
            }
        }
        let kept = if message.len() > MESSAGE_BYTES {
            &message[..MESSAGE_BYTES]
        } else {
            message
        };
        Some(CommitInfo {
            id,
            tree,
            parents,
            author: author.unwrap_or_default(),
            committer: committer.unwrap_or_default(),
            message: kept.into(),
            message_is_cut: kept.len() < message.len(),
            is_signed,
            // Trailers are at the end.
            checkpoint: parse(message.as_bstr()),
        })
    }

    /// The first paragraph of the message as one line.
    pub fn subject(&self) -> String {
        subject_of(self.message.as_bstr())
    }

    /// About how many bytes it holds.
    pub(super) fn weight(&self) -> usize {
        let signature = |who: &Signature| who.name.len() + who.email.len();
        512 + 2 * self.message.len()
            + self.parents.len() * 36
            + signature(&self.author)
            + signature(&self.committer)
            + self.checkpoint.as_ref().map_or(0, CheckpointMessage::weight)
    }
}

impl fmt::Display for CommitInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.id.to_hex_with_len(10), self.subject())
    }
}

fn signature(line: &[u8]) -> Signature {
    let cut = |text: &[u8]| BString::from(&text[..text.len().min(NAME_BYTES)]);
    let (who, when) = match line.rfind_byte(b'>') {
        Some(end) => (&line[..end], &line[end + 1..]),
        None => (line, &b""[..]),
    };
    let (name, email) = match who.find_byte(b'<') {
        Some(at) => (&who[..at], &who[at + 1..]),
        None => (who, &b""[..]),
    };
    let mut words = when.fields().map(|word| word.to_str().unwrap_or_default());
    let seconds = words.next().and_then(|word| word.parse().ok()).unwrap_or(0);
    let zone: i32 = words.next().and_then(|word| word.parse().ok()).unwrap_or(0);
    Signature {
        name: cut(name.trim()),
        email: cut(email.trim()),
        seconds,
        offset_minutes: (zone / 100 * 60 + zone % 100).clamp(-1440, 1440),
    }
}

/// Reads a commit that is named by another object of the repository.
pub(super) fn read_commit(odb: &Odb, id: &oid) -> Result<CommitInfo, ReadError> {
    let id = id.to_owned();
    let mut data = Vec::new();
    match odb.read(&id, &mut data)? {
        None => Err(ReadError::Missing { id }),
        Some(Kind::Commit) => CommitInfo::from_bytes(id, &data).ok_or(ReadError::Malformed { id }),
        Some(kind) => Err(ReadError::NotACommit { id, kind }),
    }
}

/// The commit that a caller named: tags are followed.
///
/// # Errors
/// `NotFound` when there is no such object, `NotACommit` when it is of another kind.
pub(super) fn commit_of(odb: &Odb, id: &oid) -> Result<CommitInfo, ReadError> {
    let id = peel(odb, id)?;
    read_commit(odb, &id)
}

/// The tree that a caller named by a commit, a tag of one, or itself.
///
/// # Errors
/// `NotFound` when there is no such object, `NotATree` when it is neither.
pub fn tree_of(odb: &Odb, id: &oid) -> Result<ObjectId, ReadError> {
    // No repository needs to hold the tree without entries.
    if id.is_empty_tree() {
        return Ok(id.to_owned());
    }
    let id = peel(odb, id)?;
    match odb.header(&id)?.map(|(kind, _)| kind) {
        None => Err(ReadError::NotFound { id }),
        Some(Kind::Tree) => Ok(id),
        Some(Kind::Commit) => Ok(read_commit(odb, &id)?.tree),
        Some(kind) => Err(ReadError::NotATree { id, kind }),
    }
}

/// Tags in tags that are followed.
const TAGS: usize = 16;

fn peel(odb: &Odb, id: &oid) -> Result<ObjectId, ReadError> {
    let mut at = id.to_owned();
    let mut data = Vec::new();
    for depth in 0..TAGS {
        match odb.header(&at)? {
            None if depth == 0 => return Err(ReadError::NotFound { id: at }),
            None => return Err(ReadError::Missing { id: at }),
            Some((Kind::Tag, _)) => {}
            Some(_) => return Ok(at),
        }
        odb.read(&at, &mut data)?;
        let target = data
            .strip_prefix(b"object ")
            .and_then(|rest| rest.lines().next())
            .and_then(|hex| ObjectId::from_hex(hex).ok());
        at = target.ok_or(ReadError::Malformed { id: at })?;
    }
    Err(ReadError::NotACommit {
        id: at,
        kind: Kind::Tag,
    })
}

/// A path of a caller's, without slashes at its ends.
pub(super) fn trimmed(path: &BStr) -> &BStr {
    path.trim_with(|c| c == '/').as_bstr()
}
