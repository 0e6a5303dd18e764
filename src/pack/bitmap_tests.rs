use super::*;
use gix::hash::ObjectId;
use proptest::prelude::*;

// Made by git 2.47.3: twelve commits, each of which changes `a` and adds a file to one of three directories, and an annotated tag of the last;
// `git -c pack.writeBitmapLookupTable={false,true} repack -adb`.
const PLAIN: &str = "4249544d000100050000000c3252f4a3ee063849b3a3bad2eb8c4090e1f8e4210000000d0000000200000002000000000000000000001ffd00000000000000250000000200000002000000\
    000000001fffffe000000000000000003d0000000200000002000000001fffffe0000000000000000000000002000000020000000200000000000000000000000200000000000000130000\
    000000400000000200000002000000001ffffffffffffffd00000000000000040000000000400000000200000002000000001fffff9fffff9ffc0000000000000037000000000040000000\
    0200000002000000001ffbbf9ffffc9ff800000000000000260000000000400000000200000002000000001ff3b79ffff41ff0000000000000002d00000000004000000002000000020000\
    00001fe3b59fffd01fe000000000000000110000000000400000000200000002000000001fc1b59fff401fc0000000000000001a0000000000400000000200000002000000001f81959ffd\
    001f8000000000000000060000000000400000000200000002000000001f01949ff4001f00000000000000000c0000000000400000000200000002000000001e00949fd0001e0000000000\
    0000002f0000000000400000000200000002000000001c00849f40001c00000000000000000d0000000000400000000200000002000000001800841d000018000000000000000009000000\
    00004000000002000000020000000010000414000010000000000061000000610000004b0000004b0000000000000000000000000000006100000000000000000000004a00000044a70000\
    0000000000000000000000004a000000610000000000000061000000000000004b0000005198000049000000559c00000000000000000000000000004f9c00005498000000000000610000\
    0061000000539400000000000043a600004e980000490000000000000000000000000000004a0000000000000061000000610000000000000000000000490000000000000000000000529c\
    00006100000045a50000569400004b0000004e000000000000004a0000004900000061000000610000005094000093c1a8db8e6afbf394c321f48bf79d67353698d7";
const TABLE: &str = "4249544d000100150000000c3252f4a3ee063849b3a3bad2eb8c4090e1f8e4210000000d0000000200000002000000000000000000001ffd00000000000000250000000200000002000000\
    000000001fffffe000000000000000003d0000000200000002000000001fffffe0000000000000000000000002000000020000000200000000000000000000000200000000000000130000\
    000000400000000200000002000000001ffffffffffffffd00000000000000040000000000400000000200000002000000001fffff9fffff9ffc0000000000000037000000000040000000\
    0200000002000000001ffbbf9ffffc9ff800000000000000260000000000400000000200000002000000001ff3b79ffff41ff0000000000000002d00000000004000000002000000020000\
    00001fe3b59fffd01fe000000000000000110000000000400000000200000002000000001fc1b59fff401fc0000000000000001a0000000000400000000200000002000000001f81959ffd\
    001f8000000000000000060000000000400000000200000002000000001f01949ff4001f00000000000000000c0000000000400000000200000002000000001e00949fd0001e0000000000\
    0000002f0000000000400000000200000002000000001c00849f40001c00000000000000000d0000000000400000000200000002000000001800841d000018000000000000000009000000\
    0000400000000200000002000000001000041400001000000000000000000400000000000000b2ffffffff00000006000000000000017effffffff000000090000000000000206ffffffff\
    0000000c00000000000001a0ffffffff0000000d00000000000001e4ffffffff00000011000000000000013affffffff000000130000000000000090ffffffff0000001a00000000000001\
    5cffffffff0000002600000000000000f6ffffffff0000002d0000000000000118ffffffff0000002f00000000000001c2ffffffff0000003700000000000000d4ffffffff610000006100\
    00004b0000004b0000000000000000000000000000006100000000000000000000004a00000044a700000000000000000000000000004a000000610000000000000061000000000000004b\
    0000005198000049000000559c00000000000000000000000000004f9c000054980000000000006100000061000000539400000000000043a600004e980000490000000000000000000000\
    000000004a0000000000000061000000610000000000000000000000490000000000000000000000529c00006100000045a50000569400004b0000004e000000000000004a000000490000\
    00610000006100000050940000bf7c8c5a65ec201e441a6fac50424815a5810e3c";
const OBJECTS: u32 = 61;
/// Positions in the index of the commits, newest first, and `git rev-list --objects <commit> | wc -l`.
const COMMITS: [(u32, usize); 12] = [
    (19, 60),
    (4, 55),
    (55, 50),
    (38, 45),
    (45, 40),
    (17, 35),
    (26, 30),
    (6, 25),
    (12, 20),
    (47, 15),
    (13, 10),
    (9, 5),
];
/// What the commit at position 26 reaches, as places in the pack.
const REACHED: [u32; 30] = [
    7, 8, 9, 10, 11, 12, 24, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 39, 40, 42, 44, 47, 48, 55, 56, 57, 58, 59, 60,
];

fn from_hex(text: &str) -> Vec<u8> {
    let digit = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).expect("hex");
    (0..text.len()).step_by(2).map(digit).collect()
}

fn parse(bytes: &[u8], objects: u32) -> Result<Bitmap<&[u8]>, FormatError> {
    let checksum = bytes.get(12..32).unwrap_or(&[0; 20]);
    Bitmap::parse(bytes, objects, oid::from_bytes_unchecked(checksum), HashKind::Sha1)
}

fn ones(words: &[u64]) -> Vec<u32> {
    Ewah::from_words(words).ones().collect()
}

#[test]
fn a_bitmap_of_git_reads_as_git_says() {
    for text in [PLAIN, TABLE] {
        let bytes = from_hex(text);
        let bitmap = parse(&bytes, OBJECTS).expect("a good file");
        assert_eq!((bitmap.len(), bitmap.objects(), bitmap.words()), (12, 61, 1));
        let of_kind = |kind| bitmap.of_kind(kind).expect("a good file").ones().collect::<Vec<_>>();
        assert_eq!(of_kind(Kind::Commit), [&[0], &(2..13).collect::<Vec<_>>()[..]].concat());
        assert_eq!(of_kind(Kind::Tag), [1]);
        assert_eq!(of_kind(Kind::Tree), (13..37).collect::<Vec<_>>());
        assert_eq!(of_kind(Kind::Blob), (37..61).collect::<Vec<_>>());
        let mut positions = COMMITS.map(|(pos, _)| pos);
        positions.sort();
        assert!(bitmap.commits().eq(positions));
        for (pos, count) in COMMITS {
            let entry = bitmap.find(pos).expect("every commit has one");
            assert_eq!(ones(&bitmap.reach(entry).expect("a good file")).len(), count);
        }
        let entry = bitmap.find(26).expect("every commit has one");
        assert_eq!(ones(&bitmap.reach(entry).expect("a good file")), REACHED);
        assert_eq!(bitmap.find(0), None);
        assert_eq!(bitmap.find(OBJECTS), None);
        // The file `a` has the hash of a letter; a commit has none.
        assert_eq!(bitmap.name_hash(0), Some(0x6100_0000));
        assert_eq!(bitmap.name_hash(4), Some(0));
        assert_eq!(bitmap.name_hash(OBJECTS), None);
    }
}

#[test]
fn a_bitmap_is_for_one_pack() {
    let bytes = from_hex(PLAIN);
    assert!(parse(&bytes, OBJECTS + 1).is_err());
    let other = ObjectId::from_bytes_or_panic(&[9; 20]);
    assert_eq!(
        Bitmap::parse(&bytes[..], OBJECTS, &other, HashKind::Sha1).err(),
        Some(FormatError::Mismatch { what: WHAT })
    );
    assert!(Bitmap::parse(&bytes[..], OBJECTS, &other, HashKind::Sha256).is_err());
}

#[test]
fn every_cut_is_an_error() {
    for text in [PLAIN, TABLE] {
        let bytes = from_hex(text);
        for cut in 0..bytes.len() {
            let read = parse(&bytes[..cut], OBJECTS).map(|bitmap| {
                let entries: Vec<_> = COMMITS.iter().filter_map(|(pos, _)| bitmap.find(*pos)).collect();
                entries.len() == 12 && entries.iter().all(|entry| bitmap.reach(*entry).is_ok())
            });
            assert_ne!(read, Ok(true), "cut at {cut}");
        }
    }
}

/// What is put into a file: for each commit its position, what it is XORed with, and what it reaches.
#[derive(Debug)]
struct Made {
    objects: u32,
    commits: Vec<(u32, usize, Vec<u64>)>,
}

impl Made {
    fn file(&self, with_table: bool, unknown: &[u8]) -> Vec<u8> {
        let flags = FULL_DAG | HASH_CACHE | if with_table { LOOKUP_TABLE } else { 0 };
        let mut out = b"BITM\0\x01".to_vec();
        out.extend_from_slice(&flags.to_be_bytes());
        out.extend_from_slice(&(self.commits.len() as u32).to_be_bytes());
        out.extend_from_slice(&[7; 20]);
        for _ in 0..4 {
            Ewah::from_ones([]).encode(&mut out);
        }
        let mut places = Vec::new();
        for (n, (pos, back, reach)) in self.commits.iter().enumerate() {
            places.push(out.len() as u64);
            out.extend_from_slice(&pos.to_be_bytes());
            out.extend_from_slice(&[*back as u8, 0]);
            let own = Ewah::from_words(reach);
            match back {
                0 => own.encode(&mut out),
                back => own.xor(&Ewah::from_words(&self.commits[n - back].2)).encode(&mut out),
            }
        }
        out.extend_from_slice(unknown);
        if with_table {
            let mut order: Vec<usize> = (0..self.commits.len()).collect();
            order.sort_by_key(|n| self.commits[*n].0);
            for n in &order {
                let (pos, back, _) = &self.commits[*n];
                out.extend_from_slice(&pos.to_be_bytes());
                out.extend_from_slice(&places[*n].to_be_bytes());
                let row = match back {
                    0 => NO_ROW,
                    back => order.iter().position(|m| *m == n - back).expect("it is a row") as u32,
                };
                out.extend_from_slice(&row.to_be_bytes());
            }
        }
        for pos in 0..self.objects {
            out.extend_from_slice(&(pos * 3).to_be_bytes());
        }
        out.extend_from_slice(&[0; 20]);
        out
    }
}

fn made() -> impl Strategy<Value = Made> {
    (1u32..400).prop_flat_map(|objects| {
        let words = prop::collection::vec(
            prop_oneof![Just(0u64), Just(!0), any::<u64>()],
            objects.div_ceil(64) as usize,
        );
        let commit = (0..objects, any::<prop::sample::Index>(), words);
        prop::collection::vec(commit, 0..12).prop_map(move |commits| {
            let mut seen = std::collections::HashSet::new();
            let mut all: Vec<(u32, usize, Vec<u64>)> = Vec::new();
            for (pos, back, mut words) in commits {
                if !seen.insert(pos) {
                    continue;
                }
                let over = objects % 64;
                if over > 0 {
                    *words.last_mut().expect("an object is a word") &= (1 << over) - 1;
                }
                let back = back.index(all.len() + 1);
                all.push((pos, back, words));
            }
            Made { objects, commits: all }
        })
    })
}

proptest! {
    #[test]
    fn chains_are_resolved_with_and_without_a_table(made in made(), with_table: bool, unknown in prop::collection::vec(any::<u8>(), 0..40)) {
        let bytes = made.file(with_table, &unknown);
        let bitmap = parse(&bytes, made.objects).expect("our own bytes");
        for (pos, _, reach) in &made.commits {
            let entry = bitmap.find(*pos).expect("it was put in");
            prop_assert_eq!(&bitmap.reach(entry).expect("our own bytes"), reach);
        }
        for pos in 0..made.objects {
            prop_assert_eq!(bitmap.name_hash(pos), Some(pos * 3));
            prop_assert_eq!(bitmap.find(pos).is_some(), made.commits.iter().any(|commit| commit.0 == pos));
        }
    }

    #[test]
    fn damaged_files_never_panic(made in made(), with_table: bool, damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6), cut in any::<prop::sample::Index>()) {
        let mut bytes = made.file(with_table, &[]);
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        let cut = cut.index(bytes.len() + 1);
        for bytes in [&bytes[..], &bytes[..cut]] {
            for objects in [made.objects, 0, 5_000] {
                let Ok(bitmap) = parse(bytes, objects) else { continue };
                for pos in (0..objects).chain(bitmap.commits().collect::<Vec<_>>()) {
                    let _ = bitmap.name_hash(pos);
                    if let Some(reach) = bitmap.find(pos).and_then(|entry| bitmap.reach(entry).ok()) {
                        prop_assert!(ones(&reach).last().is_none_or(|last| *last < objects));
                    }
                }
                let _ = [Kind::Commit, Kind::Tree, Kind::Blob, Kind::Tag].map(|kind| bitmap.of_kind(kind).map(|ewah| ewah.count_ones()));
            }
        }
    }
}

#[test]
fn a_row_that_leads_to_itself_is_an_error() {
    let made = Made {
        objects: 3,
        commits: vec![(1, 0, vec![2])],
    };
    let mut bytes = made.file(true, &[]);
    let row = bytes.len() - 20 - 3 * 4 - 4;
    bytes[row..row + 4].copy_from_slice(&0u32.to_be_bytes());
    let bitmap = parse(&bytes, 3).expect("the table is read when it is needed");
    let entry = bitmap.find(1).expect("it is there");
    assert!(bitmap.reach(entry).is_err());
}
