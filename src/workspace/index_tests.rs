use bstr::{BString, ByteSlice};
use gix::{
    hash::{Kind as HashKind, ObjectId},
    index,
    objs::tree::EntryKind,
};
use proptest::prelude::*;

use super::{
    index_read::{Parsed, Unread, parse},
    index_write::{IndexForm, write},
    tracked::{Dir, FileStat, Tracked, TrackedFile},
};

const FORM: IndexForm = IndexForm {
    hash: HashKind::Sha1,
    version: 2,
    skip_hash: false,
};

fn file(n: u32, flags: u8, hash: HashKind) -> TrackedFile {
    let kinds = [
        EntryKind::Blob,
        EntryKind::BlobExecutable,
        EntryKind::Link,
        EntryKind::Commit,
    ];
    let mut id = vec![n as u8; hash.len_in_bytes()];
    id[..4].copy_from_slice(&n.to_be_bytes());
    TrackedFile {
        id: ObjectId::from_bytes_or_panic(&id),
        stat: FileStat {
            mtime: (n, n + 1),
            ctime: (n + 2, n + 3),
            dev: n + 4,
            ino: n + 5,
            uid: n + 6,
            gid: n + 7,
            size: n + 8,
        },
        kind: kinds[n as usize % 4],
        flags,
    }
}

fn bytes(tracked: &Tracked, form: &IndexForm) -> Vec<u8> {
    let mut out = Vec::new();
    write(tracked, form, &mut out).expect("written");
    out
}

/// Everything, the trees that are known included.
fn all(tracked: &Tracked) -> (Vec<(BString, TrackedFile)>, Vec<Option<ObjectId>>) {
    fn trees(dir: &Dir, out: &mut Vec<Option<ObjectId>>) {
        out.push(dir.tree);
        for (_, node) in dir.nodes() {
            if let super::tracked::Node::Dir(below) = node {
                trees(below, out);
            }
        }
    }
    let (mut files, mut known) = (Vec::new(), Vec::new());
    tracked.for_each(&mut |path, file| files.push((path.to_owned(), file.clone())));
    trees(tracked.root(), &mut known);
    assert_eq!(files.len(), tracked.len());
    (files, known)
}

fn know_trees(dir: &mut Dir, n: &mut u8, hash: HashKind) {
    *n = n.wrapping_add(1);
    dir.tree = (!n.is_multiple_of(3)).then(|| ObjectId::from_bytes_or_panic(&vec![*n; hash.len_in_bytes()]));
    for (_, below) in dir.dirs_mut() {
        know_trees(below, n, hash);
    }
}

fn read(bytes: &[u8], hash: HashKind, threads: usize) -> Result<Parsed, Unread> {
    parse(bytes, hash, u32::MAX, threads)
}

proptest! {
    /// What was written is what is read, by us and by gix, in every form.
    #[test]
    fn an_index_is_read_as_it_was_written(
        files in prop::collection::btree_map("[a-c.-]{1,3}(/[a-c.-]{1,9}){0,4}", (0u32..1000, 0u8..32), 0..40),
        version in prop::sample::select(vec![2u32, 4]),
        skip_hash in any::<bool>(),
        sha256 in any::<bool>(),
    ) {
        let hash = if sha256 { HashKind::Sha256 } else { HashKind::Sha1 };
        let form = IndexForm { hash, version, skip_hash };
        let mut tracked = Tracked::default();
        for (path, (n, flags)) in &files {
            // Those that say how sure one is are not in the file.
            let flags = flags & !(TrackedFile::RACY | TrackedFile::SAME_SECOND);
            if path.split('/').all(|name| !matches!(name, "." | "..")) {
                tracked.set(path.as_str().into(), file(*n, flags, hash));
            }
        }
        know_trees(&mut tracked.root, &mut 0, hash);
        // A tree is not said to be whole with a file in it that is in no tree.
        fn clear(dir: &mut Dir) -> bool {
            let mut whole = true;
            for (_, below) in dir.dirs_mut() {
                whole &= clear(below);
            }
            whole &= !dir.nodes().iter().any(|(_, node)| matches!(node, super::tracked::Node::File(file) if file.has(TrackedFile::INTENT)));
            if !whole {
                dir.tree = None;
            }
            whole
        }
        let bytes = bytes(&tracked, &form);
        clear(&mut tracked.root);
        let parsed = read(&bytes, hash, 1).expect("read");
        prop_assert_eq!(all(&parsed.tracked), all(&tracked));
        let attributes: Vec<BString> = all(&tracked).0.into_iter().map(|(path, _)| path).filter(|path| path.ends_with(b".gitattributes")).collect();
        prop_assert_eq!(parsed.attributes, attributes);
        // In the form that it has, not in the one that another would have.
        if !files.is_empty() {
            let other = IndexForm { version: 6 - version, ..form };
            prop_assert_eq!(self::bytes(&parsed.tracked, &other), self::bytes(&tracked, &form));
        }
        if let Ok((state, checksum)) = index::State::from_bytes(&bytes, filetime::FileTime::zero(), hash, Default::default()) {
            prop_assert_eq!(checksum.is_none(), skip_hash);
            let theirs: Vec<_> = state.entries().iter().map(|entry| (entry.path(&state).to_owned(), entry.id, entry.stat.size, entry.stat.mtime.nsecs)).collect();
            let ours: Vec<_> = all(&tracked).0.into_iter().map(|(path, file)| (path, file.id, file.stat.size, file.stat.mtime.1)).collect();
            prop_assert_eq!(theirs, ours);
        } else {
            prop_assert!(false, "gix does not read it");
        }
    }

    #[test]
    fn no_bytes_make_it_panic(at in any::<prop::sample::Index>(), with in any::<[u8; 3]>(), cut in any::<prop::sample::Index>(), version in prop::sample::select(vec![2u32, 4])) {
        let mut tracked = Tracked::default();
        for n in 0..9 {
            tracked.set(format!("d{}/e/f{n}", n % 3).as_str().into(), file(n, if n == 4 { TrackedFile::INTENT } else { 0 }, HashKind::Sha1));
        }
        know_trees(&mut tracked.root, &mut 0, HashKind::Sha1);
        let mut bytes = bytes(&tracked, &IndexForm { version, ..FORM });
        let at = at.index(bytes.len() - with.len());
        bytes[at..at + with.len()].copy_from_slice(&with);
        let _ = read(&bytes, HashKind::Sha1, 2);
        bytes.truncate(cut.index(bytes.len()));
        let _ = read(&bytes, HashKind::Sha1, 2);
    }
}

fn large() -> Tracked {
    let mut tracked = Tracked::default();
    for n in 0..20_000u32 {
        let path = format!(
            "{}/deep/directory-{:03}/file{}",
            ["a", "b-", "b"][n as usize * 3 / 20_000],
            n / 100,
            n
        );
        tracked.set(path.as_str().into(), file(n, 0, HashKind::Sha1));
    }
    know_trees(&mut tracked.root, &mut 0, HashKind::Sha1);
    tracked
}

#[test]
fn a_large_index_is_read_by_two_as_by_one() {
    let tracked = large();
    for version in [2, 4] {
        let bytes = bytes(&tracked, &IndexForm { version, ..FORM });
        let by = |threads| all(&read(&bytes, HashKind::Sha1, threads).expect("read").tracked);
        assert!(by(1) == all(&tracked));
        assert!(by(2) == all(&tracked), "version {version}");
    }
}

#[test]
fn a_large_index_whose_middle_is_a_conflict_is_read_by_two_as_by_one() {
    // Three stages of every path, so that there is one in the middle whatever that is.
    let mut bytes = b"DIRC\0\0\0\x02".to_vec();
    bytes.extend_from_slice(&30_000u32.to_be_bytes());
    for n in 0..10_000 {
        for stage in 1..=3u16 {
            let start = bytes.len();
            let name = format!("dir/{n:05}");
            bytes.extend_from_slice(&[1; 24]);
            bytes.extend_from_slice(&0o100_644u32.to_be_bytes());
            bytes.extend_from_slice(&[2; 32]);
            bytes.extend_from_slice(&(stage << 12 | name.len() as u16).to_be_bytes());
            bytes.extend_from_slice(name.as_bytes());
            let len = bytes.len() - start;
            bytes.resize(start + (len / 8 + 1) * 8, 0);
        }
    }
    bytes.extend_from_slice(&[0; 20]);
    let by = |threads| all(&read(&bytes, HashKind::Sha1, threads).expect("read").tracked);
    let one = by(1);
    assert_eq!(one.0.len(), 10_000);
    assert!(one.0.iter().all(|(_, file)| file.has(TrackedFile::RACY)));
    assert!(by(2) == one);
}

#[test]
fn what_is_no_index_is_refused() {
    let mut tracked = Tracked::default();
    for path in ["a/b", "a/c", "d"] {
        tracked.set(path.into(), file(0, 0, HashKind::Sha1));
    }
    let good = bytes(&tracked, &FORM);
    let with = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        read(&bytes, HashKind::Sha1, 1).map(|_| ())
    };
    assert_eq!(with(0, b'D'), Ok(()));
    let is_damaged = |result| matches!(result, Err(Unread::Damaged(_)));
    // The path of the first entry begins 62 bytes into it.
    let path = 12 + 62;
    assert!(is_damaged(with(0, b'X')), "another beginning");
    assert!(is_damaged(with(path, b'e')), "not in order");
    assert!(is_damaged(with(path, b'/')), "no name");
    assert!(is_damaged(with(path + 2, 0)), "a NUL in a name");
    assert!(is_damaged(with(path + 2, b'c')), "the same twice");
    assert!(is_damaged(with(12 + 26, 0)), "a mode that is none");
    assert!(is_damaged(with(11, 200)), "more than there is");
    assert_eq!(with(7, 5), Err(Unread::Unsupported("has a version that is not known")));
    let tree = good.find(b"TREE").expect("it has one");
    assert_eq!(
        with(tree, b't'),
        Err(Unread::Unsupported("has an extension that is not known"))
    );
    assert_eq!(with(tree, b'X'), Ok(()));
    let mut file_and_dir = Vec::new();
    for name in ["a", "a.b", "a/c"] {
        let mut tracked = Tracked::default();
        tracked.set(name.into(), file(0, 0, HashKind::Sha1));
        let one = bytes(&tracked, &FORM);
        let end = one.find(b"TREE").expect("it has one");
        file_and_dir.extend_from_slice(&one[12..end]);
    }
    let mut bytes = b"DIRC\0\0\0\x02\0\0\0\x03".to_vec();
    bytes.append(&mut file_and_dir);
    bytes.extend_from_slice(&[0; 20]);
    assert!(is_damaged(read(&bytes, HashKind::Sha1, 1).map(|_| ())));
}
