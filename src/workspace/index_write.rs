//! git's index file (gitformat-index(5)), written in one pass: in the version that it had, 2 or 4, or 3 where an entry's flags need it.

use std::{
    io::{self, Write},
    sync::mpsc,
};

use gix::{
    hash::{Kind as HashKind, oid},
    objs::tree::EntryKind,
};

use super::tracked::{Dir, Node, Tracked, TrackedFile};
use crate::pack::Checksum;

/// Bytes that are hashed and written at a time: they stay in the processor's cache.
const PIECE: usize = 256 << 10;
/// Files that are worth a second thread.
const WORTH_A_THREAD: usize = 8_000;

/// How an index is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct IndexForm {
    pub(crate) hash: HashKind,
    /// 2 or 4, where there was none.
    pub(crate) version: u32,
    /// It ends in zeros and not in a checksum.
    pub(crate) skip_hash: bool,
}

/// Takes the bytes of an index, piece by piece: what comes back is an empty piece.
type Take<'a> = &'a mut dyn FnMut(Vec<u8>) -> io::Result<Vec<u8>>;

/// Writes the index of what is tracked.
pub(super) fn write(tracked: &Tracked, form: &IndexForm, file: &mut (impl Write + Send)) -> io::Result<()> {
    if tracked.len() < WORTH_A_THREAD {
        return encode(tracked, form, &mut |mut piece| {
            file.write_all(&piece)?;
            piece.clear();
            Ok(piece)
        });
    }
    // One writes while the other goes on.
    std::thread::scope(|scope| {
        let (full, pieces) = mpsc::sync_channel::<Vec<u8>>(4);
        let (used, empty) = mpsc::channel::<Vec<u8>>();
        let mut spare = None;
        let file = &mut *file;
        let writer = move || {
            for piece in pieces {
                file.write_all(&piece)?;
                let _ = used.send(piece);
            }
            Ok(())
        };
        let writer = std::thread::Builder::new()
            .name("gitstead-index".into())
            .spawn_scoped(scope, writer)?;
        let encoded = encode(tracked, form, &mut |piece| {
            full.send(piece).map_err(|_| io::ErrorKind::BrokenPipe)?;
            let mut piece = spare
                .take()
                .or_else(|| empty.try_recv().ok())
                .unwrap_or_else(|| Vec::with_capacity(PIECE + 8192));
            piece.clear();
            Ok(piece)
        });
        drop(full);
        match writer.join() {
            // Its error is why nobody took any more.
            Ok(written) => written.and(encoded),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

struct Encoder<'a> {
    out: Vec<u8>,
    take: Take<'a>,
    checksum: Option<Checksum>,
    version: u32,
    /// Of the directory that is written.
    path: Vec<u8>,
    /// Of the last entry.
    last: Vec<u8>,
    /// Every directory, in the order of the extension TREE.
    trees: Vec<Subtree<'a>>,
}

/// What the extension TREE says of a directory.
struct Subtree<'a> {
    name: &'a [u8],
    /// Its tree, if that is known.
    id: Option<&'a oid>,
    files: u32,
    dirs: u32,
}

fn encode<'a>(tracked: &'a Tracked, form: &IndexForm, take: Take<'a>) -> io::Result<()> {
    let version = match tracked.version().unwrap_or(form.version) {
        4 => 4,
        // Where there may be some and are none it does no harm.
        _ if tracked.may_have_more_flags() => 3,
        _ => 2,
    };
    let count = u32::try_from(tracked.len()).map_err(|_| io::ErrorKind::FileTooLarge)?;
    let mut encoder = Encoder {
        out: Vec::with_capacity(PIECE + 8192),
        take,
        checksum: (!form.skip_hash).then(|| Checksum::new(form.hash)),
        version,
        path: Vec::new(),
        last: Vec::new(),
        trees: Vec::new(),
    };
    encoder.out.extend_from_slice(b"DIRC");
    encoder.out.extend_from_slice(&version.to_be_bytes());
    encoder.out.extend_from_slice(&count.to_be_bytes());
    encoder.dir(b"", &tracked.root)?;
    let mut tree = encode_trees(&encoder.trees);
    if let Ok(len) = u32::try_from(tree.len()) {
        encoder.out.extend_from_slice(b"TREE");
        encoder.out.extend_from_slice(&len.to_be_bytes());
        encoder.out.append(&mut tree);
    }
    encoder.flush()?;
    let mut end = encoder.out;
    match encoder.checksum {
        Some(checksum) => end.extend_from_slice(checksum.finish().as_slice()),
        None => end.resize(form.hash.len_in_bytes(), 0),
    }
    (encoder.take)(end).map(|_| ())
}

impl<'a> Encoder<'a> {
    fn flush(&mut self) -> io::Result<()> {
        if let Some(checksum) = &mut self.checksum {
            checksum.update(&self.out);
        }
        let piece = std::mem::take(&mut self.out);
        self.out = (self.take)(piece)?;
        Ok(())
    }

    /// Writes the entries of a directory, and notes how many they are. Says that, and whether all of them are in its tree.
    fn dir(&mut self, name: &'a [u8], dir: &'a Dir) -> io::Result<(u32, bool)> {
        let slot = self.trees.len();
        let (files, dirs) = (0, 0);
        self.trees.push(Subtree {
            name,
            id: dir.tree.as_deref(),
            files,
            dirs,
        });
        let (mut files, mut dirs, mut whole) = (0, 0, true);
        let len = self.path.len();
        for at in dir.in_tree_order() {
            let (name, node) = dir.node(at);
            match node {
                Node::File(file) => {
                    self.entry(name, file);
                    files += 1;
                    whole &= !file.has(TrackedFile::INTENT);
                    if self.out.len() >= PIECE {
                        self.flush()?;
                    }
                }
                Node::Dir(below) => {
                    self.path.extend_from_slice(name);
                    self.path.push(b'/');
                    let (more, all) = self.dir(name, below)?;
                    files += more;
                    dirs += 1;
                    whole &= all;
                    self.path.truncate(len);
                }
            }
        }
        let noted = &mut self.trees[slot];
        (noted.files, noted.dirs) = (files, dirs);
        noted.id = noted.id.filter(|_| whole);
        Ok((files, whole))
    }

    fn entry(&mut self, name: &[u8], file: &TrackedFile) {
        let start = self.out.len();
        let stat = &file.stat;
        // What git would take for clean by its seconds alone is made to look changed.
        let unsure = TrackedFile::RACY | TrackedFile::SAME_SECOND;
        let size = if file.has(unsure) { 0 } else { stat.size };
        let mode: u32 = match file.kind {
            EntryKind::Blob | EntryKind::Tree => 0o100_644,
            EntryKind::BlobExecutable => 0o100_755,
            EntryKind::Link => 0o120_000,
            EntryKind::Commit => 0o160_000,
        };
        let mut words = [0u8; 40];
        for (word, value) in words.chunks_exact_mut(4).zip([
            stat.ctime.0,
            stat.ctime.1,
            stat.mtime.0,
            stat.mtime.1,
            stat.dev,
            stat.ino,
            mode,
            stat.uid,
            stat.gid,
            size,
        ]) {
            word.copy_from_slice(&value.to_be_bytes());
        }
        self.out.extend_from_slice(&words);
        self.out.extend_from_slice(file.id.as_slice());
        let len = self.path.len() + name.len();
        let mut flags = u16::try_from(len).unwrap_or(u16::MAX).min(0xfff);
        if file.has(TrackedFile::ASSUME_VALID) {
            flags |= 0x8000;
        }
        let mut more = 0u16;
        if file.has(TrackedFile::SKIP_WORKTREE) {
            more |= 0x4000;
        }
        if file.has(TrackedFile::INTENT) {
            more |= 0x2000;
        }
        if more != 0 {
            flags |= 0x4000;
        }
        self.out.extend_from_slice(&flags.to_be_bytes());
        if more != 0 {
            self.out.extend_from_slice(&more.to_be_bytes());
        }
        if self.version == 4 {
            self.short_path(name);
            self.out.push(0);
        } else {
            self.out.extend_from_slice(&self.path);
            self.out.extend_from_slice(name);
            let len = self.out.len() - start;
            self.out.resize(start + (len / 8 + 1) * 8, 0);
        }
    }

    /// How much of the last path is cut off, and what comes instead.
    fn short_path(&mut self, name: &[u8]) {
        let dir = self.path.len();
        let common = match self.last.get(..dir) {
            Some(start) if start == self.path => dir + same(&self.last[dir..], name),
            _ => same(&self.last, &self.path),
        };
        let mut cut = self.last.len() - common;
        let mut digits = [0u8; 10];
        let mut at = digits.len() - 1;
        digits[at] = (cut & 0x7f) as u8;
        while cut >> 7 != 0 && at > 0 {
            cut = (cut >> 7) - 1;
            at -= 1;
            digits[at] = 0x80 | (cut & 0x7f) as u8;
        }
        self.out.extend_from_slice(&digits[at..]);
        self.last.truncate(common);
        let (of_dir, of_name) = (common.min(dir), common.saturating_sub(dir));
        self.last.extend_from_slice(&self.path[of_dir..]);
        self.last.extend_from_slice(&name[of_name..]);
        self.out.extend_from_slice(&self.last[common..]);
    }
}

fn same(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// The extension TREE, depth first: a name, how many files are below and how many directories, and the id where it is known.
fn encode_trees(trees: &[Subtree<'_>]) -> Vec<u8> {
    let mut out = Vec::with_capacity(trees.len() * 48);
    for Subtree { name, id, files, dirs } in trees {
        out.extend_from_slice(name);
        out.push(0);
        // Writing to memory does not fail.
        let _ = match id {
            Some(_) => writeln!(out, "{files} {dirs}"),
            None => writeln!(out, "-1 {dirs}"),
        };
        if let Some(id) = id {
            out.extend_from_slice(id.as_bytes());
        }
    }
    out
}
