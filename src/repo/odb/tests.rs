use gix::hash::ObjectId;

use super::*;
use crate::{
    base::Fault,
    pack::{deflate, write_entry_header},
    repo::testing::{Item, TestRepo, appending, id_of},
};
use proptest::prelude::*;

const SHA1: HashKind = HashKind::Sha1;

fn corrupt(odb: &Odb, id: &ObjectId) {
    let err = odb.read(id, &mut Vec::new()).expect_err("corrupt");
    assert!(matches!(err, OdbError::Corrupt { .. }), "{err}");
    assert!(odb.header(id).is_err());
}

#[test]
fn deltas_of_both_kinds_are_resolved_for_both_hashes() {
    for hash in [SHA1, HashKind::Sha256] {
        let repo = TestRepo::new(hash);
        let text = |n: usize| [b"base text".repeat(20), b"0123456789"[..n].to_vec()].concat();
        let id = |n| id_of(hash, Kind::Blob, &text(n));
        let (ids, _) = repo.pack(&[
            // A base that comes after its delta.
            Item::Ref(id(1), appending(&text(1), b"1"), id(2)),
            Item::Whole(Kind::Blob, text(0)),
            Item::Ofs(1, appending(&text(0), b"0"), id(1)),
            Item::Ofs(0, appending(&text(2), b"2"), id(3)),
        ]);
        let odb = repo.open().odb().expect("an odb");
        let mut out = vec![1];
        for (id, n) in ids.iter().zip([2, 0, 1, 3]) {
            assert_eq!(odb.header(id).expect("fine"), Some((Kind::Blob, text(n).len() as u64)));
            assert_eq!(odb.read(id, &mut out).expect("fine"), Some(Kind::Blob));
            assert_eq!(out, text(n));
        }
    }
}

#[test]
fn deltas_in_a_circle_and_on_nothing_are_damage() {
    let repo = TestRepo::new(SHA1);
    let fake = |n: u8| ObjectId::from_bytes_or_panic(&[n; 20]);
    let delta = appending(b"x", b"y");
    repo.pack(&[
        Item::Ref(fake(2), delta.clone(), fake(1)),
        Item::Ref(fake(1), delta.clone(), fake(2)),
        Item::Ref(fake(9), delta.clone(), fake(3)),
        Item::Raw([&[0x62, 0x7f][..], b"rest"].concat(), fake(4)),
        // An unknown type.
        Item::Raw(vec![0x50, 0, 0, 0], fake(5)),
    ]);
    let odb = repo.open().odb().expect("an odb");
    for n in 1..=5 {
        corrupt(&odb, &fake(n));
    }
}

#[test]
fn sizes_that_cannot_be_true_are_not_believed() {
    let repo = TestRepo::new(SHA1);
    let fake = |n: u8| ObjectId::from_bytes_or_panic(&[n; 20]);
    let lie = |kind, size: u64| {
        let mut raw = Vec::new();
        write_entry_header(kind, size, &mut raw);
        deflate(b"short", 6, &mut raw);
        raw
    };
    let base = id_of(SHA1, Kind::Blob, b"base");
    // A result of a terabyte from a delta of a few bytes.
    let mut bomb = vec![4];
    bomb.extend_from_slice(&[0x80, 0x80, 0x80, 0x80, 0x80, 0x20]);
    bomb.extend_from_slice(&[0x91, 0, 4]);
    repo.pack(&[
        Item::Whole(Kind::Blob, b"base".to_vec()),
        Item::Raw(lie(EntryKind::Blob, 1 << 29), fake(1)),
        Item::Raw(lie(EntryKind::Blob, 6), fake(2)),
        Item::Raw(lie(EntryKind::Blob, 4), fake(3)),
        Item::Ofs(0, bomb, fake(4)),
        Item::Ref(base, appending(b"another base", b""), fake(5)),
    ]);
    let odb = repo.open().odb().expect("an odb");
    corrupt(&odb, &fake(1));
    for n in [2, 3, 5] {
        let err = odb.read(&fake(n), &mut Vec::new()).expect_err("a lie");
        assert_eq!(err.fault(), Fault::Corrupt, "{err}");
    }
    let err = odb.read(&fake(4), &mut Vec::new()).expect_err("a bomb");
    assert!(
        matches!(err, OdbError::TooLarge { size, .. } if size == 1 << 40),
        "{err}"
    );
}

#[test]
fn an_object_in_many_places_is_found_in_one_and_read_from_any() {
    let repo = TestRepo::new(SHA1);
    let shared = b"in two packs and loose".to_vec();
    let id = repo.loose(Kind::Blob, &shared);
    let odb = repo.open().odb().expect("an odb");
    assert_eq!(odb.locate(&id).expect("fine"), Some(Location::Loose));
    let (_, first) = repo.pack(&[Item::Whole(Kind::Blob, shared.clone())]);
    repo.pack(&[
        Item::Whole(Kind::Blob, shared.clone()),
        Item::Whole(Kind::Blob, b"other".to_vec()),
    ]);
    let odb = repo.open().odb().expect("an odb");
    assert_eq!(odb.packs().len(), 2);
    for _ in 0..10 {
        assert!(matches!(
            odb.locate(&id).expect("fine"),
            Some(Location::Packed { pack: 0, .. })
        ));
    }
    // Neither pack was opened by this view yet; both go, the loose copy stays.
    let odb = repo.open().odb().expect("an odb");
    for pack in odb.packs() {
        std::fs::remove_file(pack.path()).expect("remove");
    }
    assert_eq!(odb.locate(&id).expect("fine"), Some(Location::Loose));
    assert!(!first.exists());
}

#[test]
fn a_pack_that_goes_after_the_last_look_is_no_reason_to_call_an_object_missing() {
    let repo = TestRepo::new(SHA1);
    let (ids, path) = repo.pack(&[Item::Whole(Kind::Blob, b"x".to_vec())]);
    let odb = repo.open().odb().expect("an odb");
    let (view, number) = odb.newest();
    odb.refresh(view, number).expect("listed");
    std::fs::remove_file(&path).expect("remove");
    let err = odb.contains(&ids[0]).expect_err("who knows");
    assert_eq!(err.fault(), Fault::Busy);
    // A new view knows.
    assert!(!repo.open().odb().expect("an odb").contains(&ids[0]).expect("fine"));
}

#[test]
fn gix_plumbing_reads_from_it() {
    use gix::objs::{Exists, Find, FindHeader};
    let repo = TestRepo::new(SHA1);
    let id = repo.loose(Kind::Tag, b"tag");
    let odb = repo.open().odb().expect("an odb");
    assert!(odb.exists(&id));
    let mut buffer = Vec::new();
    let data = odb.try_find(&id, &mut buffer).expect("fine").expect("present");
    assert_eq!((data.kind, data.data), (Kind::Tag, &b"tag"[..]));
    assert_eq!(odb.try_header(&id).expect("fine").expect("present").size, 3);
    let absent = ObjectId::from_bytes_or_panic(&[1; 20]);
    assert!(!odb.exists(&absent) && odb.try_find(&absent, &mut buffer).expect("fine").is_none());
}

proptest! {
    #[test]
    fn a_damaged_pack_never_panics(at in any::<prop::sample::Index>(), value in any::<u8>()) {
        let repo = TestRepo::new(SHA1);
        let text = b"some text that is long enough ".repeat(10);
        let child = [&text[..], b"more"].concat();
        let (ids, path) = repo.pack(&[
            Item::Whole(Kind::Blob, text.clone()),
            Item::Ofs(0, appending(&text, b"more"), id_of(SHA1, Kind::Blob, &child)),
            Item::Whole(Kind::Tree, Vec::new()),
        ]);
        let mut bytes = std::fs::read(&path).expect("read");
        let at = at.index(bytes.len());
        bytes[at] = value;
        std::fs::write(&path, bytes).expect("write");
        let odb = repo.open().odb().expect("an odb");
        let mut out = Vec::new();
        for id in &ids {
            let _ = odb.header(id);
            let _ = odb.read(id, &mut out);
            if let Ok(Some(Location::Packed { pack, pos })) = odb.locate(id) {
                let _ = odb.packs()[pack as usize].entry(pos);
            }
        }
    }
}

#[test]
fn an_odb_can_be_sent_to_a_thread() {
    fn is_send<T: Send>() {}
    is_send::<Odb>();
}
