use super::msg::MsgId;
use super::names::{self, GITATTRIBUTES, GITIGNORE, GITMODULES, MAILMAP};
use super::state::Report;
use gix::hash::oid;
use std::cmp::Ordering;

const FORMAT: u32 = 0o170_000;
const DIRECTORY: u32 = 0o040_000;
const SYMLINK: u32 = 0o120_000;

// One bit for each finding, in the order in which git reports them.
const NULL_SHA1: u32 = 1;
const FULL_PATHNAME: u32 = 1 << 1;
const HAS_DOT: u32 = 1 << 2;
const HAS_DOTDOT: u32 = 1 << 3;
const HAS_DOTGIT: u32 = 1 << 4;
const ZERO_PADDED: u32 = 1 << 5;
const BAD_FILEMODE: u32 = 1 << 6;
const DUPLICATE: u32 = 1 << 7;
const NOT_SORTED: u32 = 1 << 8;
const LARGE_PATHNAME: u32 = 1 << 9;

const MESSAGES: [(u32, MsgId, &str); 10] = [
    (NULL_SHA1, MsgId::NullSha1, "contains entries pointing to null sha1"),
    (FULL_PATHNAME, MsgId::FullPathname, "contains full pathnames"),
    (HAS_DOT, MsgId::HasDot, "contains '.'"),
    (HAS_DOTDOT, MsgId::HasDotdot, "contains '..'"),
    (HAS_DOTGIT, MsgId::HasDotgit, "contains '.git'"),
    (
        ZERO_PADDED,
        MsgId::ZeroPaddedFilemode,
        "contains zero-padded file modes",
    ),
    (BAD_FILEMODE, MsgId::BadFilemode, "contains bad file modes"),
    (DUPLICATE, MsgId::DuplicateEntries, "contains duplicate file entries"),
    (NOT_SORTED, MsgId::TreeNotSorted, "not properly sorted"),
    (
        LARGE_PATHNAME,
        MsgId::LargePathname,
        "contains excessively large pathname",
    ),
];

struct Entry<'a> {
    mode: u32,
    zero_padded: bool,
    name: &'a [u8],
    id: &'a [u8],
}

/// One pass; allocates only when one name is the beginning of the next (`a`, `a-b`) or something is wrong.
pub(super) fn check(data: &[u8], hash_len: usize, report: &mut Report<'_>) {
    let strict = report.policy.is_strict();
    let large = report.policy.large_pathname();
    let mut wrong = 0u32;
    let mut previous: Option<(u32, &[u8])> = None;
    let mut open_files = Vec::new();
    // Whatever comes before, it must end in a NUL and an id; if not, git does not begin to read.
    let ends_well = data.len().checked_sub(hash_len + 1).and_then(|at| data.get(at)) == Some(&0);
    let mut upcoming = if ends_well { parse_entry(data, hash_len) } else { None };
    let mut bad_tree = upcoming.is_none() && !data.is_empty();
    while let Some((entry, rest)) = upcoming {
        if entry.id.iter().all(|&byte| byte == 0) {
            wrong |= NULL_SHA1;
        }
        if entry.zero_padded {
            wrong |= ZERO_PADDED;
        }
        if entry.name.len() > large {
            wrong |= LARGE_PATHNAME;
        }
        if is_suspect(entry.name) {
            wrong |= check_name(&entry, report);
        }
        upcoming = parse_entry(rest, hash_len);
        if upcoming.is_none() && !rest.is_empty() {
            bad_tree = true;
            break;
        }
        match entry.mode {
            0o100_644 | 0o100_755 | 0o040_000 | 0o120_000 | 0o160_000 => {}
            0o100_664 if !strict => {}
            _ => wrong |= BAD_FILEMODE,
        }
        if let Some(before) = previous {
            wrong |= check_order(before, &entry, &mut open_files);
        }
        previous = Some((entry.mode, entry.name));
    }
    if bad_tree {
        report.found(MsgId::BadTree, "cannot be parsed as a tree");
    }
    if wrong != 0 {
        for (bit, id, text) in MESSAGES {
            if wrong & bit != 0 {
                report.found(id, text);
            }
        }
    }
}

/// `<octal mode> SP <name> NUL <id>`; `None` if the bytes are something else.
fn parse_entry(data: &[u8], hash_len: usize) -> Option<(Entry<'_>, &[u8])> {
    let (mode, zero_padded, rest) = match data {
        [b'1', b'0', b'0', b'6', b'4', b'4', b' ', rest @ ..] => (0o100_644, false, rest),
        [b'4', b'0', b'0', b'0', b'0', b' ', rest @ ..] => (0o040_000, false, rest),
        _ => {
            let mut mode = 0u32;
            let mut len = 0usize;
            for &byte in data {
                match byte {
                    b'0'..=b'7' => mode = mode.wrapping_shl(3).wrapping_add(u32::from(byte - b'0')),
                    b' ' => break,
                    _ => return None,
                }
                len += 1;
            }
            if len == 0 {
                return None;
            }
            // Sixteen bits are what git keeps of it.
            (mode & 0xffff, data.first() == Some(&b'0'), data.get(len + 1..)?)
        }
    };
    let end = rest.iter().position(|&byte| byte == 0)?;
    let (name, rest) = rest.split_at_checked(end)?;
    if name.is_empty() {
        return None;
    }
    let (id, rest) = rest.get(1..)?.split_at_checked(hash_len)?;
    Some((
        Entry {
            mode,
            zero_padded,
            name,
            id,
        },
        rest,
    ))
}

/// Whether a name needs a closer look: anything that matters begins with a dot or has one of a few bytes in it (separators, the tilde of
/// short names, the first bytes of the code points that HFS+ ignores).
fn is_suspect(name: &[u8]) -> bool {
    const SUSPECT: [bool; 256] = {
        let mut table = [false; 256];
        table[b'/' as usize] = true;
        table[b'\\' as usize] = true;
        table[b'~' as usize] = true;
        table[0xe2] = true;
        table[0xef] = true;
        table
    };
    name.first() == Some(&b'.') || name.iter().fold(false, |any, &byte| any | SUSPECT[usize::from(byte)])
}

fn check_name(entry: &Entry<'_>, report: &mut Report<'_>) -> u32 {
    let name = entry.name;
    let mut wrong = 0;
    if name.contains(&b'/') {
        wrong |= FULL_PATHNAME;
    }
    if name == b"." {
        wrong |= HAS_DOT;
    }
    if name == b".." {
        wrong |= HAS_DOTDOT;
    }
    if names::is_dotgit(name) {
        wrong |= HAS_DOTGIT;
    }
    let is_symlink = entry.mode & FORMAT == SYMLINK;
    if GITMODULES.ends(name) {
        if is_symlink {
            report.found(MsgId::GitmodulesSymlink, ".gitmodules is a symbolic link");
        } else if let Ok(id) = oid::try_from_bytes(entry.id) {
            report.modules_blob(id);
        }
    }
    if GITATTRIBUTES.is(name) {
        if is_symlink {
            report.found(MsgId::GitattributesSymlink, ".gitattributes is a symlink");
        } else if let Ok(id) = oid::try_from_bytes(entry.id) {
            report.attributes_blob(id);
        }
    }
    if is_symlink && GITIGNORE.is(name) {
        report.found(MsgId::GitignoreSymlink, ".gitignore is a symlink");
    }
    if is_symlink && MAILMAP.is(name) {
        report.found(MsgId::MailmapSymlink, ".mailmap is a symlink");
    }
    wrong
}

/// Trees are sorted as if directories ended with a slash, so a file `a` and a directory `a` need not be neighbours (`a`, `a-b`, `a/`).
/// `open_files` holds the files whose name the current entry's begins with and that may still meet a directory of the same name.
fn check_order<'a>((mode, name): (u32, &'a [u8]), entry: &Entry<'a>, open_files: &mut Vec<&'a [u8]>) -> u32 {
    let shared = name.len().min(entry.name.len());
    let (a, b) = (name.split_at(shared), entry.name.split_at(shared));
    match a.0.cmp(b.0) {
        Ordering::Less => {
            if !open_files.is_empty() {
                close_files(entry.name, open_files);
            }
            return is_open(entry, open_files);
        }
        Ordering::Greater => {
            close_files(entry.name, open_files);
            return NOT_SORTED | is_open(entry, open_files);
        }
        Ordering::Equal => {}
    }
    let is_directory = |mode: u32| mode & FORMAT == DIRECTORY;
    let end = |rest: &[u8], mode: u32| {
        rest.first()
            .copied()
            .unwrap_or(if is_directory(mode) { b'/' } else { 0 })
    };
    if a.1.is_empty() && b.1.is_empty() {
        return DUPLICATE;
    }
    if end(a.1, mode) >= end(b.1, entry.mode) {
        close_files(entry.name, open_files);
        return NOT_SORTED | is_open(entry, open_files);
    }
    close_files(entry.name, open_files);
    if a.1.is_empty() && !is_directory(mode) && b.1.first().is_some_and(|&byte| byte < b'/') {
        open_files.push(name);
    }
    is_open(entry, open_files)
}

fn close_files(name: &[u8], open_files: &mut Vec<&[u8]>) {
    while open_files.last().is_some_and(|file| !name.starts_with(file)) {
        open_files.pop();
    }
}

fn is_open(entry: &Entry<'_>, open_files: &[&[u8]]) -> u32 {
    if entry.mode & FORMAT == DIRECTORY && open_files.last().is_some_and(|file| *file == entry.name) {
        DUPLICATE
    } else {
        0
    }
}
