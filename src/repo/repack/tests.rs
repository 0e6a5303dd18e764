use std::{sync::atomic::AtomicBool, time::Duration};

use gix::{
    hash::{Kind as HashKind, ObjectId},
    objs::Kind,
};

use super::{CompactOptions, CompactOutcome, CompactSkip, Expiry, ExpirySkip, RepackError, Step};
use crate::repo::{
    Repository, loose_path,
    testing::{Item, TestRepo, appending, id_of},
};

const SHA1: HashKind = HashKind::Sha1;

fn text(seed: u32) -> Vec<u8> {
    (0..200u32)
        .map(|n| format!("{} ", n.wrapping_mul(seed.wrapping_mul(2_654_435_761) | 1)))
        .collect::<String>()
        .into_bytes()
}

fn compact(repo: &Repository) -> CompactOutcome {
    let options = CompactOptions::default();
    repo.compact(&options, &AtomicBool::new(false), &mut |_| ())
        .expect("compacted")
}

fn until(repo: &Repository, step: Step) -> Result<CompactOutcome, RepackError> {
    let options = CompactOptions::default();
    repo.compact_until(&options, &AtomicBool::new(false), &mut |_| (), &mut |now| now != step)
}

fn reads(repo: &Repository, ids: &[ObjectId]) {
    let odb = repo.odb().expect("an odb");
    let mut out = Vec::new();
    for id in ids {
        let kind = odb.read(id, &mut out).expect("readable").expect("there");
        assert_eq!(id_of(SHA1, kind, &out), *id);
    }
}

/// Some loose objects, some of them alike, and three packs of which the largest is left alone.
fn mixed() -> (TestRepo, Vec<ObjectId>) {
    let repo = TestRepo::new(SHA1);
    let mut ids = Vec::new();
    for n in 0..4u32 {
        ids.push(repo.loose(Kind::Blob, &[&text(1)[..], &n.to_le_bytes()].concat()));
    }
    ids.push(repo.loose(Kind::Tree, b""));
    for pack in 0..2 {
        let base = text(10 + pack);
        let more = [&base[..], b"more"].concat();
        let (found, _) = repo.pack(&[
            Item::Whole(Kind::Blob, base.clone()),
            Item::Ofs(0, appending(&base, b"more"), id_of(SHA1, Kind::Blob, &more)),
        ]);
        ids.extend(found);
    }
    let many: Vec<Item> = (0..40).map(|n| Item::Whole(Kind::Blob, text(100 + n))).collect();
    ids.extend(repo.pack(&many).0);
    (repo, ids)
}

fn files(repo: &TestRepo) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(repo.path().join("objects/pack"))
        .expect("listed")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[test]
fn what_is_small_becomes_one_and_what_is_large_stays() {
    let (made, ids) = mixed();
    let repo = made.open();
    let outcome = compact(&repo);
    assert_eq!(
        (outcome.objects, outcome.packs_deleted, outcome.loose_deleted),
        (9, 2, 5)
    );
    assert_eq!((outcome.deltas, outcome.reused, outcome.damaged), (5, 2, 0));
    reads(&repo, &ids);
    reads(&made.open(), &ids);
    let names = files(&made);
    assert_eq!(
        names.iter().filter(|name| name.ends_with(".pack")).count(),
        2,
        "{names:?}"
    );
    assert!(!names.iter().any(|name| name.ends_with(".keep")), "{names:?}");
    assert_eq!(
        compact(&repo),
        CompactOutcome::default(),
        "and there is nothing left to do"
    );
}

#[test]
fn killed_at_any_step_it_loses_nothing_and_the_next_one_ends_the_work() {
    for step in [Step::Written, Step::Staged, Step::Published] {
        let (made, ids) = mixed();
        let repo = made.open();
        assert!(matches!(until(&repo, step), Err(RepackError::Stopped)), "{step:?}");
        reads(&made.open(), &ids);
        // The keep file of the dead is as a sweep would find it.
        let stale = std::fs::read_dir(made.path().join("objects/pack")).expect("listed");
        for entry in stale
            .flatten()
            .filter(|entry| entry.path().extension().is_some_and(|e| e == "keep"))
        {
            std::fs::remove_file(entry.path()).expect("removed");
        }
        let outcome = compact(&made.open());
        assert!(
            outcome.pack.is_some() || step == Step::Published,
            "{step:?}: {outcome:?}"
        );
        reads(&made.open(), &ids);
        let loose = ids
            .iter()
            .filter(|id| loose_path(&made.path().join("objects"), id).exists());
        assert_eq!(loose.count(), 0, "{step:?}");
    }
}

#[test]
fn packs_that_somebody_wants_are_left_alone() {
    for extension in ["keep", "promisor", "mtimes"] {
        let repo = TestRepo::new(SHA1);
        let (_, kept) = repo.pack(&[Item::Whole(Kind::Blob, text(1))]);
        repo.pack(&[Item::Whole(Kind::Blob, text(2))]);
        repo.pack(&[Item::Whole(Kind::Blob, text(3))]);
        std::fs::write(kept.with_extension(extension), b"").expect("written");
        let outcome = compact(&repo.open());
        assert_eq!((outcome.objects, outcome.packs_deleted), (2, 2), "{extension}");
        assert!(kept.exists() && kept.with_extension("idx").exists(), "{extension}");
    }
}

#[test]
fn objects_of_an_alternate_are_neither_taken_nor_relied_upon() {
    let (lender, borrower) = (TestRepo::new(SHA1), TestRepo::new(SHA1));
    let (_, lent) = lender.pack(&[Item::Whole(Kind::Blob, text(1)), Item::Whole(Kind::Blob, text(2))]);
    let lent_loose = lender.loose(Kind::Blob, &text(3));
    let alternates = borrower.path().join("objects/info/alternates");
    std::fs::write(alternates, format!("{}\n", lender.path().join("objects").display())).expect("written");
    let ids = [
        borrower.loose(Kind::Blob, &text(1)),
        borrower.loose(Kind::Blob, &text(3)),
    ];
    let outcome = compact(&borrower.open());
    assert_eq!(
        (outcome.objects, outcome.loose_deleted, outcome.packs_deleted),
        (2, 2, 0)
    );
    assert!(lent.exists() && loose_path(&lender.path().join("objects"), &lent_loose).exists());
    std::fs::remove_dir_all(lender.path().join("objects")).expect("removed");
    reads(&borrower.open(), &ids);
}

#[test]
fn what_is_damaged_stays_where_it_is_and_the_rest_is_packed() {
    let (made, ids) = mixed();
    let objects = made.path().join("objects");
    let bad = made.loose(Kind::Blob, b"to be damaged");
    let path = loose_path(&objects, &bad);
    std::fs::write(&path, b"no object").expect("written");
    let (_, pack) = made.pack(&[Item::Whole(Kind::Blob, text(77))]);
    let mut bytes = std::fs::read(&pack).expect("read");
    bytes[40] ^= 0x55;
    std::fs::write(&pack, &bytes).expect("written");
    let repo = made.open();
    let outcome = compact(&repo);
    assert_eq!((outcome.damaged, outcome.objects, outcome.packs_deleted), (2, 9, 2));
    assert!(path.exists() && pack.exists());
    reads(&repo, &ids);
}

#[test]
fn a_good_copy_is_taken_where_the_pack_of_another_is_damaged() {
    let repo = TestRepo::new(SHA1);
    let (ids, pack) = repo.pack(&[Item::Whole(Kind::Blob, text(1)), Item::Whole(Kind::Blob, text(2))]);
    let mut bytes = std::fs::read(&pack).expect("read");
    bytes[40] ^= 0x55;
    std::fs::write(&pack, &bytes).expect("written");
    repo.loose(Kind::Blob, &text(1));
    repo.loose(Kind::Blob, &text(3));
    let outcome = compact(&repo.open());
    assert_eq!((outcome.objects, outcome.damaged, outcome.loose_deleted), (2, 1, 2));
    reads(&repo.open(), &ids[..1]);
    assert!(pack.exists());
}

#[test]
fn the_same_object_in_packs_that_disagree_about_bases_makes_no_circle() {
    let repo = TestRepo::new(SHA1);
    let short = text(5);
    let long = [&short[..], b"and more"].concat();
    let (short_id, long_id) = (id_of(SHA1, Kind::Blob, &short), id_of(SHA1, Kind::Blob, &long));
    // Shortening is a delta too: copy what is wanted.
    let mut shorten = appending(&short, b"");
    let mut size = Vec::new();
    let mut n = long.len();
    while n >= 0x80 {
        size.push(n as u8 | 0x80);
        n >>= 7;
    }
    size.push(n as u8);
    let head = shorten.iter().position(|byte| byte & 0x80 == 0).expect("a size") + 1;
    shorten.splice(..head, size);
    repo.pack(&[
        Item::Whole(Kind::Blob, short.clone()),
        Item::Ofs(0, appending(&short, b"and more"), long_id),
    ]);
    repo.pack(&[Item::Whole(Kind::Blob, long.clone()), Item::Ofs(0, shorten, short_id)]);
    let outcome = compact(&repo.open());
    assert_eq!(outcome.objects, 2);
    let packs = files(&repo);
    assert_eq!(
        packs.iter().filter(|name| name.ends_with(".pack")).count(),
        1,
        "{packs:?}"
    );
    assert!(
        packs.contains(&outcome.pack.expect("made")),
        "it may be one of the two, which then stays"
    );
    reads(&repo.open(), &[short_id, long_id]);
}

#[test]
fn two_compactions_do_not_meet() {
    let (made, _) = mixed();
    let repo = made.open();
    let other = made.open();
    let mut second = None;
    let options = CompactOptions::default();
    let first = repo.compact(&options, &AtomicBool::new(false), &mut |_| {
        second.get_or_insert_with(|| compact(&other));
    });
    assert_eq!(
        second.expect("progress was told").skipped,
        Some(CompactSkip::Compaction)
    );
    assert!(first.expect("compacted").pack.is_some());
}

#[test]
fn a_git_gc_goes_first() {
    let (made, ids) = mixed();
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").expect("Linux");
    std::fs::write(made.path().join("gc.pid"), format!("{} {host}", std::process::id())).expect("written");
    let outcome = compact(&made.open());
    assert_eq!((outcome.skipped, outcome.pack), (Some(CompactSkip::GitGc), None));
    reads(&made.open(), &ids);
}

#[test]
fn precious_objects_are_not_deleted() {
    let (made, ids) = mixed();
    let config = made.path().join("config");
    let mut text = std::fs::read_to_string(&config).expect("read");
    text.push_str("[extensions]\n\tpreciousObjects = true\n");
    std::fs::write(config, text).expect("written");
    let before = files(&made);
    assert_eq!(compact(&made.open()).skipped, Some(CompactSkip::PreciousObjects));
    assert_eq!(files(&made), before);
    reads(&made.open(), &ids);
}

#[test]
fn a_stopped_one_changes_nothing() {
    let (made, ids) = mixed();
    let before = files(&made);
    let err = made
        .open()
        .compact(&CompactOptions::default(), &AtomicBool::new(true), &mut |_| ())
        .expect_err("stopped");
    assert!(matches!(err, RepackError::Stopped));
    assert_eq!(files(&made), before);
    reads(&made.open(), &ids);
}

#[test]
fn whoever_reads_meanwhile_finds_every_object_however_often_it_moves() {
    let (made, ids) = mixed();
    let repo = made.open();
    let odb = repo.odb().expect("an odb");
    let absent = ObjectId::from_bytes_or_panic(&[3; 20]);
    let mut out = Vec::new();
    assert!(
        odb.read(&absent, &mut out).expect("no error").is_none(),
        "its view is renewed once"
    );
    let loose: Vec<_> = (ids.iter())
        .map(|id| odb.locate(id).expect("no error").expect("there"))
        .collect();
    for round in 0..5 {
        made.loose(Kind::Blob, &text(1_000 + round));
        made.loose(Kind::Blob, &text(2_000 + round));
        assert!(compact(&repo).pack.is_some());
        assert!(!odb.contains(&absent).expect("no error"));
        let late = id_of(SHA1, Kind::Blob, &text(1_000 + round));
        assert!(odb.contains(&late).expect("no error"), "round {round}");
        for (id, place) in ids.iter().zip(&loose) {
            odb.read_at(*place, id, &mut out).expect("readable where it was");
            odb.read(id, &mut out).expect("readable").expect("there");
        }
    }
}

#[test]
fn a_repository_says_when_it_wants_to_be_compacted() {
    let repo = TestRepo::new(SHA1);
    assert!(!repo.open().wants_compaction().expect("no error"));
    for n in 0..super::MANY_PACKS as u32 {
        assert!(!repo.open().wants_compaction().expect("no error"), "{n}");
        repo.pack(&[Item::Whole(Kind::Blob, text(n))]);
    }
    assert!(repo.open().wants_compaction().expect("no error"));
    compact(&repo.open());
    assert!(!repo.open().wants_compaction().expect("no error"));
    let dir = repo.path().join("objects/17");
    std::fs::create_dir(&dir).expect("made");
    for n in 0..super::MANY_LOOSE / 256 {
        assert!(!repo.open().wants_compaction().expect("no error"), "{n}");
        std::fs::write(dir.join(format!("{n:038x}")), b"").expect("written");
    }
    assert!(repo.open().wants_compaction().expect("no error"));
}

#[test]
fn objects_beyond_the_threshold_stay_whole() {
    let repo = TestRepo::new(SHA1);
    let config = repo.path().join("config");
    let mut text_of = std::fs::read_to_string(&config).expect("read");
    text_of.push_str("\tbigFileThreshold = 1000\n");
    std::fs::write(config, text_of).expect("written");
    let ids = [text(1), [&text(1)[..], b"x"].concat()].map(|data| repo.loose(Kind::Blob, &data));
    let outcome = compact(&repo.open());
    assert_eq!((outcome.objects, outcome.deltas), (2, 0));
    reads(&repo.open(), &ids);
}

#[test]
fn a_large_loose_object_is_packed_piece_by_piece() {
    let repo = TestRepo::new(SHA1);
    let large: Vec<u8> = (0..3_000_000u32)
        .flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect();
    let ids = [repo.loose(Kind::Blob, &large), repo.loose(Kind::Blob, &text(1))];
    assert_eq!(compact(&repo.open()).objects, 2);
    reads(&repo.open(), &ids);
}

/// A commit that a ref leads to, and one that nothing leads to, in one old pack.
fn with_something_old() -> (TestRepo, ObjectId, ObjectId) {
    let repo = TestRepo::new(SHA1);
    let tree = id_of(SHA1, Kind::Tree, b"");
    let commit = |message: &str| {
        format!("tree {tree}\nauthor a <a@b> 1 +0000\ncommitter a <a@b> 1 +0000\n\n{message}\n").into_bytes()
    };
    let (ids, pack) = repo.pack(&[
        Item::Whole(Kind::Tree, Vec::new()),
        Item::Whole(Kind::Commit, commit("needed")),
        Item::Whole(Kind::Commit, commit("nobody's")),
    ]);
    let file = std::fs::File::open(pack).expect("opened");
    file.set_modified(std::time::SystemTime::now() - Duration::from_secs(1_000))
        .expect("set");
    point(&repo, "main", &ids[1]);
    (repo, ids[1], ids[2])
}

fn point(repo: &TestRepo, branch: &str, id: &ObjectId) {
    std::fs::create_dir_all(repo.path().join("refs/heads")).expect("made");
    std::fs::write(repo.path().join("refs/heads").join(branch), format!("{id}\n")).expect("written");
}

fn expire(repo: &Repository, meanwhile: &mut dyn FnMut(Step)) -> CompactOutcome {
    let options = CompactOptions {
        all: true,
        expiry: Expiry::After(Duration::from_secs(100)),
        ..CompactOptions::default()
    };
    repo.compact_until(&options, &AtomicBool::new(false), &mut |_| (), &mut |step| {
        meanwhile(step);
        true
    })
    .expect("compacted")
}

#[test]
fn what_becomes_of_use_while_it_is_sorted_out_stays() {
    let (made, needed, old) = with_something_old();
    let outcome = expire(&made.open(), &mut |step| {
        if step == Step::Staged {
            point(&made, "again", &old);
        }
    });
    assert_eq!(outcome.postponed, Some(ExpirySkip::Wanted), "a ref leads to it");
    reads(&made.open(), &[needed, old]);

    let (made, needed, old) = with_something_old();
    let pack = made.open().odb().expect("an odb").packs()[0].path().to_owned();
    let outcome = expire(&made.open(), &mut |step| {
        if step == Step::Staged {
            let file = std::fs::File::open(&pack).expect("opened");
            file.set_modified(std::time::SystemTime::now()).expect("set");
        }
    });
    assert_eq!(outcome.postponed, Some(ExpirySkip::Wanted), "git has found it");
    reads(&made.open(), &[needed, old]);

    // Whoever holds the objects is waited for, and is asked again then.
    let (made, needed, old) = with_something_old();
    let repo = made.open();
    let outcome = std::thread::scope(|scope| {
        let mut writer = None;
        let outcome = expire(&repo, &mut |step| {
            if step == Step::Staged {
                let held = repo.hold_objects().expect("held").expect("a lock");
                let made = &made;
                writer = Some(scope.spawn(move || {
                    std::thread::park_timeout(Duration::from_millis(30));
                    point(made, "again", &old);
                    drop(held);
                }));
            }
        });
        writer.expect("started").join().expect("written");
        outcome
    });
    assert_eq!(outcome.postponed, Some(ExpirySkip::Wanted));
    reads(&made.open(), &[needed, old]);

    let (made, needed, old) = with_something_old();
    let outcome = expire(&made.open(), &mut |_| ());
    assert_eq!((outcome.postponed, outcome.expired), (None, 1));
    reads(&made.open(), &[needed]);
    assert!(!made.open().odb().expect("an odb").contains(&old).expect("looked"));
}
