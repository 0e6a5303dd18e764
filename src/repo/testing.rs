//! Small repositories made by hand, for the tests of these rooms: no git needed.

use std::path::{Path, PathBuf};

use gix::{
    hash::{Kind as HashKind, ObjectId},
    objs::Kind,
};

use super::{OpenOptions, Repository, loose_path};
use crate::pack::{EntryKind, IndexEntry, deflate, pack_header, write_entry_header, write_index};

/// A bare repository in a temporary directory.
pub(crate) struct TestRepo {
    dir: tempfile::TempDir,
    pub(crate) hash: HashKind,
}

/// One entry of a handmade pack.
pub(crate) enum Item {
    /// A whole object.
    Whole(Kind, Vec<u8>),
    /// A delta on the n-th entry of the pack, and what it makes of it.
    Ofs(usize, Vec<u8>, ObjectId),
    /// A delta on any object, and the id of what it makes of it.
    Ref(ObjectId, Vec<u8>, ObjectId),
    /// An entry as it is written, under this id.
    Raw(Vec<u8>, ObjectId),
}

pub(crate) fn id_of(hash: HashKind, kind: Kind, data: &[u8]) -> ObjectId {
    gix::objs::compute_hash(hash, kind, data).expect("no collision")
}

fn size(mut n: u64, out: &mut Vec<u8>) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// A delta that copies all of a base (under 64 KiB) and appends some bytes (under 128).
pub(crate) fn appending(base: &[u8], tail: &[u8]) -> Vec<u8> {
    let mut delta = Vec::new();
    size(base.len() as u64, &mut delta);
    size((base.len() + tail.len()) as u64, &mut delta);
    if !base.is_empty() {
        delta.push(0x80 | 0x10 | 0x20);
        delta.extend_from_slice(&(base.len() as u16).to_le_bytes());
    }
    if !tail.is_empty() {
        delta.push(tail.len() as u8);
        delta.extend_from_slice(tail);
    }
    delta
}

impl TestRepo {
    pub(crate) fn new(hash: HashKind) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        for sub in ["objects/pack", "objects/info", "refs/heads", "refs/tags"] {
            std::fs::create_dir_all(dir.path().join(sub)).expect("a directory");
        }
        std::fs::write(dir.path().join("HEAD"), "ref: refs/heads/main\n").expect("write");
        let config = match hash {
            HashKind::Sha256 => {
                "[core]\nrepositoryformatversion = 1\nbare = true\n[extensions]\nobjectformat = sha256\n"
            }
            _ => "[core]\nrepositoryformatversion = 0\nbare = true\n",
        };
        std::fs::write(dir.path().join("config"), config).expect("write");
        TestRepo { dir, hash }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn open(&self) -> Repository {
        self.open_with(&OpenOptions::default())
    }

    pub(crate) fn open_with(&self, options: &OpenOptions) -> Repository {
        Repository::open(self.path(), options).expect("a repository")
    }

    pub(crate) fn loose(&self, kind: Kind, data: &[u8]) -> ObjectId {
        let id = id_of(self.hash, kind, data);
        let path = loose_path(&self.path().join("objects"), &id);
        std::fs::create_dir_all(path.parent().expect("a fan-out directory")).expect("a directory");
        let mut content = format!("{kind} {}\0", data.len()).into_bytes();
        content.extend_from_slice(data);
        let mut packed = Vec::new();
        deflate(&content, 1, &mut packed);
        std::fs::write(path, packed).expect("write");
        id
    }

    /// Writes a pack and its index; returns the ids in the order of the entries and where the pack is.
    pub(crate) fn pack(&self, items: &[Item]) -> (Vec<ObjectId>, PathBuf) {
        let mut bytes = pack_header(items.len() as u32).to_vec();
        let (mut offsets, mut ids, mut index) = (Vec::new(), Vec::new(), Vec::new());
        for item in items {
            let offset = bytes.len() as u64;
            let mut entry = Vec::new();
            let id = match item {
                Item::Whole(kind, data) => {
                    write_entry_header(EntryKind::from(*kind), data.len() as u64, &mut entry);
                    deflate(data, 6, &mut entry);
                    id_of(self.hash, *kind, data)
                }
                Item::Ofs(base, delta, id) => {
                    let base: &u64 = &offsets[*base];
                    let kind = EntryKind::OfsDelta {
                        distance: offset - base,
                    };
                    write_entry_header(kind, delta.len() as u64, &mut entry);
                    deflate(delta, 6, &mut entry);
                    *id
                }
                Item::Ref(base, delta, id) => {
                    write_entry_header(EntryKind::RefDelta { base: *base }, delta.len() as u64, &mut entry);
                    deflate(delta, 6, &mut entry);
                    *id
                }
                Item::Raw(raw, id) => {
                    entry.extend_from_slice(raw);
                    *id
                }
            };
            index.push(IndexEntry {
                oid: id,
                offset,
                crc32: crc32fast::hash(&entry),
            });
            bytes.extend_from_slice(&entry);
            offsets.push(offset);
            ids.push(id);
        }
        let mut hasher = gix::hash::hasher(self.hash);
        hasher.update(&bytes);
        let checksum = hasher.try_finalize().expect("no collision");
        bytes.extend_from_slice(checksum.as_slice());
        index.sort();
        let path = self.path().join(format!("objects/pack/pack-{checksum}.pack"));
        std::fs::write(&path, &bytes).expect("write");
        let mut idx = Vec::new();
        write_index(&index, &checksum, self.hash, &mut idx).expect("a Vec takes everything");
        std::fs::write(path.with_extension("idx"), idx).expect("write");
        (ids, path)
    }
}
