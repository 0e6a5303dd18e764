use std::{
    collections::HashMap,
    io::Read,
    path::Path,
    sync::{Arc, atomic::AtomicBool},
};

use gix::{
    hash::{ObjectId, oid},
    objs::Kind,
};

use super::{RepackError, check, choose::Chosen, error::Trouble};
use crate::{
    pack::{EntryKind, StreamInflater, delta_sizes},
    repo::{
        LooseReader, Odb,
        deltas::{Held, Item, NONE, Objects, PathKey},
        loose_path,
    },
};

/// A chain of deltas that is longer is cut when it is packed anew: half the way to where other readers give up would be too slow long before.
const LONGEST_CHAIN: u16 = 250;
/// Loose objects up to this size are read once and kept, up to so many bytes.
const HELD_EACH: u64 = 256 << 10;
const HELD_BYTES: usize = 64 << 20;
const PIECE: usize = 64 << 10;

/// An object in one of its places: `rank` is the place of its pack among those chosen.
struct Copy {
    id: ObjectId,
    rank: u32,
    pos: u32,
}

/// Finds out what there is to pack: each object once, from the largest pack that has it. So a delta and its base never come from packs that disagree: the base
/// is in the pack of the delta, and if it is taken from elsewhere then from a larger one, where the deltas on the way to a whole object again lead to larger
/// ones only. No circle comes of that.
///
/// Deltas stay what they are, but with `anew` only those that make more than so many bytes. Packed objects that are not `wanted` are left out, and are no bases.
pub(super) fn gather(
    odb: &Odb,
    objects_dir: &Path,
    chosen: &Chosen,
    anew: Option<u64>,
    wanted: &dyn Fn(&oid) -> bool,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(u64),
) -> Result<Objects, Trouble> {
    let packs = odb.packs().to_vec();
    let mut copies: Vec<Copy> = Vec::new();
    for (rank, number) in chosen.packs.iter().enumerate() {
        let index = packs[*number as usize].index()?;
        let wanted = (0..index.len()).filter(|pos| wanted(index.oid(*pos)));
        copies.extend(wanted.map(|pos| Copy {
            id: index.oid(pos).to_owned(),
            rank: rank as u32,
            pos,
        }));
    }
    let mut damaged = 0;
    let mut loose = read_loose(odb, objects_dir, chosen, &mut damaged, stop, progress)?;
    // Their place in that list is their position.
    copies.extend(loose.iter().enumerate().map(|(pos, one)| Copy {
        id: one.id,
        rank: chosen.packs.len() as u32,
        pos: pos as u32,
    }));
    check(stop)?;
    copies.sort_unstable_by(|a, b| (&a.id, a.rank, a.pos).cmp(&(&b.id, b.rank, b.pos)));
    if copies.len() >= NONE as usize {
        let count = copies.len() as u64;
        return Err(RepackError::TooMany { count }.into());
    }
    let mut objects = Objects {
        items: Vec::new(),
        packs,
        damaged,
        held: HashMap::new(),
    };
    // Which item an entry of a chosen pack is.
    let mut places: Vec<Vec<u32>> = Vec::new();
    for number in &chosen.packs {
        let len = objects.packs[*number as usize].index()?.len();
        places.push(vec![NONE; len as usize]);
    }
    for copy in copies {
        if objects.items.last().is_none_or(|last| last.id != copy.id) {
            let number = objects.items.len() as u32;
            let pack = chosen.packs.get(copy.rank as usize).copied().unwrap_or(NONE);
            let one = loose.get_mut(copy.pos as usize).filter(|_| pack == NONE);
            let (kind, size) = one.as_ref().map_or((Kind::Blob, 0), |one| (one.kind, one.size));
            if let Some(content) = one.and_then(|one| one.content.take()) {
                objects.held.insert(number, Held::Content(content));
            }
            objects.items.push(Item {
                id: copy.id,
                pack,
                pos: copy.pos,
                kind,
                size,
                base: NONE,
                height: 0,
                was_delta: false,
                settled: None,
                name: PathKey::default(),
                recency: 0,
            });
        }
        if let Some(places) = places.get_mut(copy.rank as usize) {
            places[copy.pos as usize] = objects.items.len() as u32 - 1;
        }
    }
    order_by_age(&mut objects, chosen, &places)?;
    let mut stream = StreamInflater::new();
    for number in 0..objects.items.len() as u32 {
        if number.is_multiple_of(1024) {
            check(stop)?;
            progress(u64::from(number));
        }
        if objects.item(number).pack != NONE {
            look_at_packed(&mut objects, odb, chosen, &places, number, &mut stream)?;
        }
    }
    settle_chains(&mut objects, anew)?;
    Ok(objects)
}

/// The order of packs, the newest first, and in them as they lie: what lies in front was made last. Loose objects are newer than all.
fn order_by_age(objects: &mut Objects, chosen: &Chosen, places: &[Vec<u32>]) -> Result<(), RepackError> {
    let mut next = 0;
    for item in &mut objects.items {
        if item.pack == NONE {
            item.recency = next;
            next += 1;
        }
    }
    // Views list packs newest first.
    let mut by_age: Vec<(u32, usize)> = chosen.packs.iter().enumerate().map(|(at, n)| (*n, at)).collect();
    by_age.sort_unstable();
    for (number, rank) in by_age {
        let pack = objects.packs[number as usize].clone();
        for nth in 0..pack.index()?.len() {
            let Some(pos) = pack.nth(nth)? else { continue };
            // Nobody wants it.
            let Some(item) = objects.items.get_mut(places[rank][pos as usize] as usize) else {
                continue;
            };
            if item.pack == number {
                item.recency = next;
                next += 1;
            }
        }
    }
    Ok(())
}

/// A loose object that is what its name says, with its content if that is small.
struct Loose {
    id: ObjectId,
    kind: Kind,
    size: u64,
    content: Option<Arc<Vec<u8>>>,
}

/// Reads the loose objects that no chosen pack has. Those that are damaged, or gone, are not among what is returned.
fn read_loose(
    odb: &Odb,
    objects_dir: &Path,
    chosen: &Chosen,
    damaged: &mut u32,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(u64),
) -> Result<Vec<Loose>, Trouble> {
    let (mut found, mut held) = (Vec::new(), 0);
    for (done, id) in chosen.loose.iter().enumerate() {
        if done % 256 == 0 {
            check(stop)?;
            progress(done as u64);
        }
        let mut packed = false;
        for number in &chosen.packs {
            packed |= odb.packs()[*number as usize].index()?.lookup(id).is_some();
        }
        if packed {
            continue;
        }
        match one_loose(odb, objects_dir, id, HELD_BYTES - held) {
            Ok(Some(one)) => {
                held += one.content.as_ref().map_or(0, |content| content.len());
                found.push(one);
            }
            // Somebody packed it meanwhile; wherever it is now, it is not ours to pack.
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(%id, %error, "a loose object cannot be read and stays as it is");
                *damaged += 1;
            }
        }
    }
    Ok(found)
}

fn one_loose(odb: &Odb, objects_dir: &Path, id: &ObjectId, room: usize) -> Result<Option<Loose>, RepackError> {
    let path = loose_path(objects_dir, id);
    let io = |source| RepackError::io("read", &path)(source);
    let Some(mut reader) = LooseReader::open(path.clone())? else {
        return Ok(None);
    };
    let (kind, size) = (reader.kind(), reader.size());
    let mut kept = None;
    let actual = if size <= HELD_EACH {
        let mut content = Vec::new();
        reader.read_all(&mut content)?;
        let actual = gix::objs::compute_hash(odb.hash_kind(), kind, &content);
        if content.len() <= room {
            kept = Some(Arc::new(content));
        }
        actual
    } else {
        let mut hasher = gix::hash::hasher(odb.hash_kind());
        hasher.update(&gix::objs::encode::loose_header(kind, size));
        let mut piece = vec![0; PIECE];
        loop {
            match reader.read(&mut piece).map_err(io)? {
                0 => break,
                n => hasher.update(&piece[..n]),
            }
        }
        hasher.try_finalize()
    };
    match actual {
        Ok(actual) if actual == *id => Ok(Some(Loose {
            id: *id,
            kind,
            size,
            content: kept,
        })),
        _ => Err(RepackError::Corrupt { id: *id }),
    }
}

/// Kind and size of a packed object; of a delta its base instead of its kind, which is its base's.
fn look_at_packed(
    objects: &mut Objects,
    odb: &Odb,
    chosen: &Chosen,
    places: &[Vec<u32>],
    number: u32,
    stream: &mut StreamInflater,
) -> Result<(), Trouble> {
    let item = objects.item(number);
    let (pack_number, pos) = (item.pack, item.pos);
    let pack = objects.packs[pack_number as usize].clone();
    let damaged = || Trouble::Pack(pack_number);
    let offset = pack.index()?.offset(pos);
    let (header, rest) = pack.entry_at(offset).map_err(|_| damaged())?;
    if let Some(kind) = header.kind.object_kind() {
        let item = &mut objects.items[number as usize];
        (item.kind, item.size) = (kind, header.size);
        return Ok(());
    }
    let base_pos = match header.kind {
        EntryKind::OfsDelta { distance } => {
            let base = offset.checked_sub(distance).ok_or_else(damaged)?;
            pack.pos_at_offset(base).map_err(|_| damaged())?
        }
        EntryKind::RefDelta { base } => pack.index()?.lookup(&base),
        _ => None,
    };
    let rank = chosen.packs.iter().position(|one| *one == pack_number);
    let base = rank
        .zip(base_pos)
        .and_then(|(rank, pos)| places[rank].get(pos as usize));
    let base = *base.ok_or_else(damaged)?;
    if base == NONE {
        // A delta of something that nobody wants becomes whole.
        let id = objects.item(number).id;
        let (kind, size) = odb.header(&id).map_err(|_| damaged())?.ok_or_else(damaged)?;
        let item = &mut objects.items[number as usize];
        (item.kind, item.size, item.was_delta) = (kind, size, true);
        return Ok(());
    }
    let mut head = [0; 32];
    stream.reset();
    let (mut at, mut filled) = (0, 0);
    while filled < head.len() {
        let step = stream.step(&rest[at..], &mut head[filled..]).map_err(|_| damaged())?;
        at += step.consumed;
        filled += step.written;
        if step.done || step.consumed + step.written == 0 {
            break;
        }
    }
    let sizes = delta_sizes(&head[..filled]).map_err(|_| damaged())?;
    let item = &mut objects.items[number as usize];
    (item.base, item.size, item.was_delta) = (base, sizes.result, true);
    Ok(())
}

/// Gives every delta the kind of what it is made of, cuts chains that are too long or shall be made anew, and counts what hangs on each object.
fn settle_chains(objects: &mut Objects, anew: Option<u64>) -> Result<(), Trouble> {
    const UNKNOWN: u16 = u16::MAX;
    const BEING_ASKED: u16 = u16::MAX - 1;
    let items = &mut objects.items;
    let mut depths: Vec<u16> = items
        .iter()
        .map(|item| if item.base == NONE { 0 } else { UNKNOWN })
        .collect();
    let mut chain = Vec::new();
    for start in 0..items.len() {
        let mut at = start;
        while depths[at] == UNKNOWN {
            depths[at] = BEING_ASKED;
            chain.push(at);
            at = items[at].base as usize;
        }
        if depths[at] == BEING_ASKED && !chain.is_empty() {
            return Err(Trouble::Pack(items[at].pack));
        }
        let (mut depth, kind) = (depths[at], items[at].kind);
        while let Some(at) = chain.pop() {
            depth += 1;
            items[at].kind = kind;
            if depth > LONGEST_CHAIN {
                items[at].base = NONE;
                depth = 0;
            }
            depths[at] = depth;
        }
    }
    for item in items.iter_mut() {
        if anew.is_some_and(|largest| item.size <= largest) {
            item.base = NONE;
        }
    }
    // From the ends of the chains inwards.
    let mut deltas: Vec<u32> = (0..items.len() as u32)
        .filter(|n| items[*n as usize].base != NONE)
        .collect();
    deltas.sort_unstable_by_key(|n| std::cmp::Reverse(depths[*n as usize]));
    for number in deltas {
        let item = &items[number as usize];
        let (base, height) = (item.base as usize, item.height + 1);
        items[base].height = items[base].height.max(height);
    }
    Ok(())
}
