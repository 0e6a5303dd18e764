use std::{
    collections::HashMap,
    ops::Range,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

use super::{
    Trouble, check,
    objects::{Loader, NONE, Objects},
};
use crate::{
    pack::{Deflater, DeltaBase, apply_delta},
    repo::Odb,
};

/// Bytes of an object for which a delta is looked for.
const SMALLEST: u64 = 50;
/// Objects up to this size may become deltas of more than half of it, if that saves something.
const DOUBTED: usize = 64 << 10;
/// A list is shared out in pieces of at least so many objects.
const PIECE: usize = 1_000;
/// Deltas that are kept until they are written: of at most so many bytes each, and all together. Others are made a second time.
const KEPT_EACH: usize = 64 << 10;
const KEPT_BYTES: usize = 64 << 20;

/// How deltas are looked for.
#[derive(Debug, Clone)]
pub(in crate::repo) struct Search {
    /// Objects that each one is compared with.
    pub(in crate::repo) window: usize,
    /// Deltas from an object to a whole one, at most.
    pub(in crate::repo) depth: u16,
    /// Bytes of objects that one thread holds.
    pub(in crate::repo) window_bytes: usize,
    pub(in crate::repo) threads: usize,
    /// Larger objects stay whole.
    pub(in crate::repo) largest: u64,
    /// Compare also what lies whole in one pack: whoever wrote that has compared it before.
    pub(in crate::repo) again: bool,
    /// Zlib level.
    pub(in crate::repo) level: i32,
    /// A delta of less than this part of the object is good enough to look no further; 0 for never.
    pub(in crate::repo) enough: usize,
    /// Compress loose objects of which no delta was made, too: whoever asks would have to read them again.
    pub(in crate::repo) wholes: bool,
}

/// A delta that was found.
pub(in crate::repo) struct Found {
    /// [`NONE`] for an object that stays whole.
    pub(in crate::repo) base: u32,
    /// Bytes of the delta, or of the object.
    pub(in crate::repo) len: usize,
    /// It, compressed, if it was kept.
    pub(in crate::repo) packed: Option<Arc<[u8]>>,
}

/// What may become a delta, or the base of one, in the order in which a base comes before what is made of it.
pub(in crate::repo) fn in_order(objects: &Objects, search: &Search) -> Vec<u32> {
    let mut list: Vec<u32> = (0..objects.items.len() as u32)
        .filter(|number| {
            let item = objects.item(*number);
            item.base == NONE && (SMALLEST..=search.largest).contains(&item.size)
        })
        .collect();
    // The largest first: a delta that takes away is smaller than one that adds. What is new is whole, what is older is made of it.
    list.sort_unstable_by_key(|number| {
        let item = objects.item(*number);
        (
            item.kind as u8,
            item.name,
            std::cmp::Reverse(item.size),
            item.recency,
            *number,
        )
    });
    list
}

/// Looks for deltas for all objects that are whole and not settled, among their neighbours by kind, name and size. `list` has them [in order](in_order).
pub(in crate::repo) fn search(
    objects: &Objects,
    list: &[u32],
    odb: &Odb,
    search: &Search,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<HashMap<u32, Found>, Trouble> {
    if search.window < 2 || search.depth == 0 {
        return Ok(HashMap::new());
    }
    let pieces = share_out(objects, list, search.threads);
    let shared = Shared {
        objects,
        search,
        list,
        pieces: &pieces,
        next: AtomicUsize::new(0),
        done: AtomicU64::new(0),
        kept: AtomicUsize::new(0),
        stop,
        failed: AtomicBool::new(false),
        results: Mutex::new(Ok(HashMap::new())),
    };
    std::thread::scope(|scope| {
        for _ in 1..search.threads.min(pieces.len()) {
            let mut worker = Worker::new(odb, &shared);
            // Without a thread to spare this one does it all.
            let _ = std::thread::Builder::new().spawn_scoped(scope, move || worker.run(&mut |_, _| ()));
        }
        Worker::new(odb, &shared).run(progress);
    });
    shared.results.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// Cuts the list between names, where it can.
fn share_out(objects: &Objects, list: &[u32], threads: usize) -> Vec<Range<usize>> {
    let size = (list.len() / (threads.max(1) * 4)).max(PIECE);
    let key = |at: usize| {
        let item = objects.item(list[at]);
        (item.kind, item.name)
    };
    let (mut pieces, mut start) = (Vec::new(), 0);
    while start < list.len() {
        let mut end = (start + size).min(list.len());
        let latest = (end + size).min(list.len());
        while end < latest && key(end) == key(end - 1) {
            end += 1;
        }
        pieces.push(start..end);
        start = end;
    }
    pieces
}

struct Shared<'a> {
    objects: &'a Objects,
    search: &'a Search,
    list: &'a [u32],
    pieces: &'a [Range<usize>],
    next: AtomicUsize,
    done: AtomicU64,
    kept: AtomicUsize,
    stop: &'a AtomicBool,
    failed: AtomicBool,
    results: Mutex<Result<HashMap<u32, Found>, Trouble>>,
}

struct Content(Arc<Vec<u8>>);

impl AsRef<[u8]> for Content {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// A place in the window.
struct Slot {
    number: u32,
    depth: u16,
    data: Option<DeltaBase<Content>>,
}

impl Slot {
    fn bytes(&self) -> usize {
        self.data.as_ref().map_or(0, |data| data.data().len())
    }
}

struct Best {
    base: u32,
    depth: u16,
    /// What lying deeper by one costs, in bytes of delta.
    level: usize,
    delta: Vec<u8>,
}

impl Best {
    fn price(&self, depth: u16) -> usize {
        self.level * usize::from(depth)
    }
}

/// A chain of versions ends when it is as deep as it may be, and then one is whole again. If the next version costs `c` as a delta on the one before, and `k` versions
/// share a base, they cost about `ck/2` each, and their part of the whole one `W/(Dk)` with `D` for the depth. That is least when `k` is the root of `2W/(cD)`,
/// and `k` versions will share a base if another level costs `ck`. `W` is taken for half of the size.
fn price_of_a_level(size: u64, delta: usize, depth: u16) -> usize {
    (size.saturating_mul(delta as u64) / u64::from(depth.max(1))).isqrt() as usize
}

struct Worker<'a> {
    shared: &'a Shared<'a>,
    loader: Loader,
    deflater: Deflater,
    window: Vec<Slot>,
    made: Vec<u8>,
    spare: Vec<u8>,
}

impl<'a> Worker<'a> {
    fn new(odb: &Odb, shared: &'a Shared<'a>) -> Self {
        Worker {
            shared,
            loader: Loader::new(odb),
            deflater: Deflater::new(shared.search.level),
            window: Vec::new(),
            made: Vec::new(),
            spare: Vec::new(),
        }
    }

    fn run(&mut self, progress: &mut dyn FnMut(u64, u64)) {
        let shared = self.shared;
        while let Some(piece) = shared.pieces.get(shared.next.fetch_add(1, Ordering::Relaxed)) {
            if shared.failed.load(Ordering::Relaxed) {
                return;
            }
            let found = self.piece(&shared.list[piece.clone()], progress);
            let mut results = shared.results.lock().unwrap_or_else(PoisonError::into_inner);
            match (found, &mut *results) {
                (Ok(found), Ok(all)) => all.extend(found),
                (Err(trouble), Ok(_)) => {
                    shared.failed.store(true, Ordering::Relaxed);
                    *results = Err(trouble);
                }
                (_, Err(_)) => {}
            }
        }
    }

    fn piece(&mut self, list: &[u32], progress: &mut dyn FnMut(u64, u64)) -> Result<Vec<(u32, Found)>, Trouble> {
        self.window.clear();
        let (shared, mut found) = (self.shared, Vec::new());
        for number in list {
            let done = shared.done.fetch_add(1, Ordering::Relaxed);
            if done.is_multiple_of(64) {
                check(shared.stop)?;
                progress(done, shared.list.len() as u64);
                if shared.failed.load(Ordering::Relaxed) {
                    return Ok(found);
                }
            }
            let item = shared.objects.item(*number);
            if self
                .window
                .last()
                .is_some_and(|last| shared.objects.item(last.number).kind != item.kind)
            {
                self.window.clear();
            }
            let mut target = Slot {
                number: *number,
                depth: 0,
                data: None,
            };
            if let Some(depth) = item.settled {
                target.depth = depth;
            } else if let Some(best) = self.best(&mut target)? {
                target.depth = best.depth;
                // Good for this one, so probably for the next one too: it stays in the window longest.
                if let Some(at) = self.window.iter().position(|slot| slot.number == best.base) {
                    self.window[at..].rotate_left(1);
                }
                let made = self.keep(best.base, &best.delta);
                found.push((*number, made));
            } else if shared.search.wholes && item.pack == NONE {
                let data = match &target.data {
                    Some(data) => data,
                    None => {
                        let content = self.loader.load(shared.objects, *number)?;
                        target.data.insert(DeltaBase::new(Content(content)))
                    }
                };
                let content = data.data().to_owned();
                let whole = self.keep(NONE, &content);
                found.push((*number, whole));
            }
            // Nothing can be made of what lies deepest: it shall not take the place of what lies higher.
            if target.depth >= shared.search.depth {
                continue;
            }
            self.window.push(target);
            let mut held: usize = self.window.iter().map(Slot::bytes).sum();
            while self.window.len() > shared.search.window
                || (held > shared.search.window_bytes && self.window.len() > 1)
            {
                held -= self.window.remove(0).bytes();
            }
        }
        Ok(found)
    }

    /// The best delta that makes an object from one in the window: a small one that does not lie deep.
    fn best(&mut self, target: &mut Slot) -> Result<Option<Best>, Trouble> {
        let (objects, search) = (self.shared.objects, self.shared.search);
        let item = objects.item(target.number);
        let Some(room) = search.depth.checked_sub(item.height).filter(|room| *room > 0) else {
            return Ok(None);
        };
        let size = item.size as usize;
        // Of small objects also what is hardly smaller may be: that is looked at when it is compressed.
        let most = if size <= DOUBTED { size / 16 * 15 } else { size / 2 };
        let most = most.saturating_sub(item.id.as_slice().len());
        let mut best: Option<Best> = None;
        for at in (0..self.window.len()).rev() {
            let slot = &mut self.window[at];
            let base = objects.item(slot.number);
            if slot.depth >= room || (!search.again && base.pack == item.pack && item.pack != NONE) {
                continue;
            }
            let depth = slot.depth + 1;
            // A large delta is worth less the deeper it lies.
            let most = (most * usize::from(search.depth - slot.depth)) / usize::from(search.depth);
            let most = match &best {
                Some(best) => most.min((best.delta.len() + best.price(best.depth)).saturating_sub(best.price(depth))),
                None => most,
            };
            let grows = item.size.saturating_sub(base.size) as usize;
            if grows >= most || item.size < base.size / 32 {
                continue;
            }
            let target_data = match &target.data {
                Some(data) => data,
                None => target
                    .data
                    .insert(DeltaBase::new(Content(self.loader.load(objects, target.number)?))),
            };
            let base_data = match &slot.data {
                Some(data) => data,
                None => slot
                    .data
                    .insert(DeltaBase::new(Content(self.loader.load(objects, slot.number)?))),
            };
            self.spare.clear();
            if !base_data.encode(target_data.data(), most, &mut self.spare) {
                continue;
            }
            let len = self.spare.len();
            let level = match &best {
                Some(best) if best.delta.len() + best.price(best.depth) <= len + best.price(depth) => continue,
                Some(best) => best.level,
                None => price_of_a_level(item.size, len, search.depth),
            };
            best = Some(Best {
                base: slot.number,
                depth,
                level,
                delta: self.spare.clone(),
            });
            if len.saturating_mul(search.enough) > 0 && len.saturating_mul(search.enough) < size {
                break;
            }
        }
        let Some(best) = best else { return Ok(None) };
        if best.delta.len() > size / 2 && !self.is_smaller_packed(target, &best) {
            return Ok(None);
        }
        self.prove(target, &best)?;
        Ok(Some(best))
    }

    /// Whether a delta saves something worth a longer way to the object: what it leaves out may be what compresses well.
    fn is_smaller_packed(&mut self, target: &Slot, best: &Best) -> bool {
        let objects = self.shared.objects;
        let item = objects.item(target.number);
        self.made.clear();
        self.deflater.deflate(&best.delta, &mut self.made);
        let delta = self.made.len();
        let whole = match objects.entry(target.number) {
            Ok((header, bytes)) if !item.was_delta => bytes.len() - header.header_len,
            _ => {
                let Some(data) = &target.data else { return false };
                self.made.clear();
                self.deflater.deflate(data.data(), &mut self.made);
                self.made.len()
            }
        };
        delta < whole / 8 * 7
    }

    /// Everything else will be deleted: so it is made sure that the delta makes the object.
    fn prove(&mut self, target: &Slot, best: &Best) -> Result<(), Trouble> {
        let base = self.window.iter().find(|slot| slot.number == best.base);
        let base = base.and_then(|slot| slot.data.as_ref()).map(DeltaBase::data);
        let wanted = target.data.as_ref().map(DeltaBase::data);
        self.made.clear();
        let (Some(base), Some(wanted)) = (base, wanted) else {
            return Err(Trouble::Unsound);
        };
        match apply_delta(base, &best.delta, wanted.len() as u64, &mut self.made) {
            Ok(()) if self.made == wanted => Ok(()),
            _ => Err(Trouble::Unsound),
        }
    }

    fn keep(&mut self, base: u32, data: &[u8]) -> Found {
        let kept = &self.shared.kept;
        let mut packed = None;
        if data.len() <= KEPT_EACH && kept.load(Ordering::Relaxed) < KEPT_BYTES {
            let mut out = Vec::new();
            self.deflater.deflate(data, &mut out);
            kept.fetch_add(out.len(), Ordering::Relaxed);
            packed = Some(out.into());
        }
        Found {
            base,
            len: data.len(),
            packed,
        }
    }
}
