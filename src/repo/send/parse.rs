//! Just enough of commits, tags and trees to walk them, read in place. What git accepts is accepted; policy belongs to fsck.

use gix::{
    hash::{Kind as HashKind, ObjectId, oid},
    objs::Kind,
};

/// What a walk needs of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::repo) struct CommitFields {
    /// The root tree.
    pub tree: ObjectId,
    /// The committer's time, seconds since the epoch; 0 when it cannot be read, as git does.
    pub date: i64,
}

/// Reads a commit, appending its parents to `parents`. `None` when the bytes are not a commit.
pub(in crate::repo) fn commit(data: &[u8], parents: &mut Vec<ObjectId>) -> Option<CommitFields> {
    let (tree, mut rest) = id_line(data, b"tree ")?;
    while let Some((parent, tail)) = id_line(rest, b"parent ") {
        parents.push(parent);
        rest = tail;
    }
    Some(CommitFields {
        tree,
        date: committer_date(rest).unwrap_or(0),
    })
}

fn id_line<'a>(data: &'a [u8], key: &[u8]) -> Option<(ObjectId, &'a [u8])> {
    let rest = data.strip_prefix(key)?;
    let end = memchr(b'\n', rest)?;
    let id = ObjectId::from_hex(&rest[..end]).ok()?;
    Some((id, &rest[end + 1..]))
}

fn committer_date(mut rest: &[u8]) -> Option<i64> {
    loop {
        let end = memchr(b'\n', rest)?;
        let line = &rest[..end];
        if line.is_empty() {
            return None;
        }
        if let Some(who) = line.strip_prefix(b"committer ") {
            let after = &who[who.iter().rposition(|b| *b == b'>')? + 1..];
            let mut digits = after.iter().copied().skip_while(|b| *b == b' ').peekable();
            let negative = digits.next_if_eq(&b'-').is_some();
            let mut value = 0i64;
            for digit in digits.take_while(u8::is_ascii_digit) {
                value = value.checked_mul(10)?.checked_add(i64::from(digit - b'0'))?;
            }
            return Some(if negative { -value } else { value });
        }
        rest = &rest[end + 1..];
    }
}

/// Reads what a tag points to. `None` when the bytes are not a tag.
pub(super) fn tag(data: &[u8]) -> Option<(ObjectId, Kind)> {
    let (target, rest) = id_line(data, b"object ")?;
    let rest = rest.strip_prefix(b"type ")?;
    let kind = Kind::from_bytes(&rest[..memchr(b'\n', rest)?]).ok()?;
    Some((target, kind))
}

/// What an entry of a tree refers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EntryType {
    /// Another tree.
    Tree,
    /// A file or a symbolic link.
    Blob,
    /// A commit of another repository, which is never sent.
    Gitlink,
}

/// One entry of a tree and the bytes it lies in.
#[derive(Debug, Clone, Copy)]
pub(super) struct TreeEntry<'a> {
    pub kind: EntryType,
    pub name: &'a [u8],
    pub id: &'a oid,
    /// The first byte behind the entry.
    pub end: usize,
}

/// Reads the entry that begins at `at`. `None` when the bytes there are not an entry.
#[inline]
pub(super) fn tree_entry(data: &[u8], at: usize, hash: HashKind) -> Option<TreeEntry<'_>> {
    let bytes = data.get(at..)?;
    let mut mode = 0u32;
    let mut digits = 0;
    loop {
        match *bytes.get(digits)? {
            digit @ b'0'..=b'7' if digits < 7 => mode = (mode << 3) | u32::from(digit - b'0'),
            b' ' if digits > 0 => break,
            _ => return None,
        }
        digits += 1;
    }
    let name_start = digits + 1;
    let name_len = memchr(0, &bytes[name_start..])?;
    let id_start = name_start + name_len + 1;
    let id_end = id_start + hash.len_in_bytes();
    let id = oid::try_from_bytes(bytes.get(id_start..id_end)?).ok()?;
    let kind = match mode & 0o170000 {
        0o040000 => EntryType::Tree,
        0o160000 => EntryType::Gitlink,
        _ => EntryType::Blob,
    };
    Some(TreeEntry {
        kind,
        name: &bytes[name_start..name_start + name_len],
        id,
        end: at + id_end,
    })
}

/// Position of the first `needle`. Names in trees are short, so a plain loop does as well as anything with a set-up cost.
#[inline]
fn memchr(needle: u8, haystack: &[u8]) -> Option<usize> {
    haystack.iter().position(|b| *b == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    const B: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

    #[test]
    fn a_commit_gives_its_tree_its_parents_and_its_date() {
        let text = format!(
            "tree {A}\nparent {B}\nparent {A}\nauthor x <x> 1 +0000\ncommitter a > b <y> 1234 -0100\ngpgsig x\n\ncommitter z <z> 9 +0000\n"
        );
        let mut parents = Vec::new();
        let got = commit(text.as_bytes(), &mut parents).unwrap();
        assert_eq!((got.tree.to_string().as_str(), got.date), (A, 1234));
        assert_eq!(parents.iter().map(ToString::to_string).collect::<Vec<_>>(), [B, A]);
    }

    #[test]
    fn a_strange_date_is_zero_and_strange_bytes_are_no_commit() {
        let mut parents = Vec::new();
        for date in ["", "x", "99999999999999999999"] {
            let text = format!("tree {A}\ncommitter a <y> {date} +0000\n\n");
            assert_eq!(commit(text.as_bytes(), &mut parents).unwrap().date, 0, "{date}");
        }
        let text = format!("tree {A}\ncommitter a <y> -5 +0000\n\n");
        assert_eq!(commit(text.as_bytes(), &mut parents).unwrap().date, -5);
        assert_eq!(commit(format!("tree {A}\n").as_bytes(), &mut parents).unwrap().date, 0);
        for bad in ["", "tree ", "tree aa\n", &A.replace('a', "z")] {
            assert_eq!(commit(bad.as_bytes(), &mut parents), None);
        }
    }

    #[test]
    fn tags_name_their_target() {
        let text = format!("object {A}\ntype tree\ntag x\n");
        let (target, kind) = tag(text.as_bytes()).unwrap();
        assert_eq!((target.to_string().as_str(), kind), (A, Kind::Tree));
        assert_eq!(tag(format!("object {A}\ntype x\n").as_bytes()), None);
    }

    #[test]
    fn tree_entries_are_read_one_after_the_other() {
        let mut data = Vec::new();
        for (mode, name, byte) in [
            ("100644", "a", 1u8),
            ("40000", "dir", 2),
            ("160000", "sub", 3),
            ("120000", "z", 4),
        ] {
            data.extend_from_slice(format!("{mode} {name}\0").as_bytes());
            data.extend_from_slice(&[byte; 20]);
        }
        let (mut at, mut got) = (0, Vec::new());
        while at < data.len() {
            let entry = tree_entry(&data, at, HashKind::Sha1).unwrap();
            got.push((entry.kind, entry.name.to_vec(), entry.id.as_bytes()[0]));
            at = entry.end;
        }
        assert_eq!(
            got,
            [
                (EntryType::Blob, b"a".to_vec(), 1),
                (EntryType::Tree, b"dir".to_vec(), 2),
                (EntryType::Gitlink, b"sub".to_vec(), 3),
                (EntryType::Blob, b"z".to_vec(), 4),
            ]
        );
        for cut in 1..data.len() {
            let mut at = 0;
            while let Some(entry) = tree_entry(&data[..cut], at, HashKind::Sha1) {
                at = entry.end;
            }
            assert!(at <= cut);
        }
    }
}
