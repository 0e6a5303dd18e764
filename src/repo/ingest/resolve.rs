use std::{
    collections::VecDeque,
    sync::{
        Arc, Condvar, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering},
    },
    thread,
};

use gix::{hash::ObjectId, objs::Kind};

use super::{
    IngestError, IngestProgress,
    check::{Finisher, Job, MakeFinisher, STREAMED},
    gate::Permit,
    scan::{Base, FEW, Scan},
};
use crate::pack::{EntryHeader, FormatError, Inflater, apply_delta, delta_sizes};

/// The deltas of a pack, sorted by what they are against, and which of them are done.
pub(super) struct Forest<'s> {
    job: &'s Job<'s>,
    scan: &'s Scan,
    pack: &'s [u8],
    /// Deltas by base entry: those of entry `n` are `by_entry[starts[n]..starts[n + 1]]`.
    starts: Vec<u32>,
    by_entry: Vec<u32>,
    /// Deltas by base id.
    by_id: Vec<(ObjectId, u32)>,
    claimed: Vec<AtomicBool>,
    done: AtomicU32,
}

/// Where trees of deltas begin.
enum Roots<'s> {
    /// Whole objects of the pack.
    Entries(Vec<u32>),
    /// Objects that are here and not in the pack; which of them were needed.
    Outside(&'s [ObjectId], &'s [AtomicBool]),
}

/// The bytes of an object, and the room they take if they are many.
struct Held {
    data: Vec<u8>,
    room: Option<Permit>,
}

impl std::ops::Deref for Held {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.data
    }
}

/// An object with deltas against it that wait to be applied.
struct Task {
    kind: Kind,
    data: Arc<Held>,
    /// Deltas between this and its whole base.
    depth: u32,
    children: Vec<u32>,
}

/// One object on the way from a root to where a thread works.
struct Frame {
    /// Dropped when memory is short and made again when needed; never that of the first frame.
    data: Option<Arc<Held>>,
    /// The delta that made it; the first frame has none that matters.
    delta: u32,
    children: Vec<u32>,
    next: usize,
}

struct Queue {
    tasks: VecDeque<Task>,
    idle: usize,
    over: bool,
    failed: Option<IngestError>,
}

struct Shared<'s> {
    queue: Mutex<Queue>,
    wake: Condvar,
    /// Threads without work, to be read without the lock.
    hungry: AtomicUsize,
    stopped: AtomicBool,
    next_root: AtomicUsize,
    roots: Roots<'s>,
    threads: usize,
    /// Bytes of objects that one thread keeps beside the one it works on.
    budget: usize,
}

impl Shared<'_> {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn fail(&self, err: IngestError) {
        let mut queue = self.lock();
        queue.failed.get_or_insert(err);
        queue.over = true;
        self.stopped.store(true, Ordering::Relaxed);
        self.wake.notify_all();
    }
}

impl<'s> Forest<'s> {
    pub(super) fn new(job: &'s Job<'s>, scan: &'s Scan, pack: &'s [u8]) -> Self {
        let mut starts = vec![0u32; scan.entries() as usize + 2];
        let mut by_id = Vec::with_capacity(scan.ref_bases.len());
        for (nth, delta) in scan.deltas.iter().enumerate() {
            match delta.base {
                Base::Entry(base) => starts[base as usize + 2] += 1,
                Base::Id(at) => by_id.push((scan.ref_bases[at as usize], nth as u32)),
            }
        }
        by_id.sort_unstable();
        for n in 1..starts.len() {
            starts[n] += starts[n - 1];
        }
        let mut by_entry = vec![0; scan.deltas.len() - by_id.len()];
        for (nth, delta) in scan.deltas.iter().enumerate() {
            if let Base::Entry(base) = delta.base {
                let at = &mut starts[base as usize + 1];
                by_entry[*at as usize] = nth as u32;
                *at += 1;
            }
        }
        Forest {
            job,
            scan,
            pack,
            starts,
            by_entry,
            by_id,
            claimed: scan.deltas.iter().map(|_| AtomicBool::new(false)).collect(),
            done: AtomicU32::new(0),
        }
    }

    /// Resolves every delta whose chain ends at a whole object of the pack.
    pub(super) fn resolve_inside<'a>(
        &self,
        threads: usize,
        finishers: &mut Vec<Finisher<'a>>,
        make: MakeFinisher<'a, '_>,
        progress: &mut dyn FnMut(IngestProgress),
    ) -> Result<(), IngestError> {
        let mut roots = Vec::new();
        {
            let names = self.job.names.lock().unwrap_or_else(|e| e.into_inner());
            for entry in 0..self.scan.entries() {
                let Some((_, id)) = names.get(entry) else { continue };
                if self.starts[entry as usize] != self.starts[entry as usize + 1] || !self.against(&id).is_empty() {
                    roots.push(entry);
                }
            }
        }
        self.run(Roots::Entries(roots), threads, finishers, make, progress)
    }

    /// Ids that unresolved deltas are against and that no entry is known to have.
    pub(super) fn missing_bases(&self) -> Vec<ObjectId> {
        let mut ids: Vec<_> = self
            .by_id
            .iter()
            .filter(|(_, delta)| !self.claimed[*delta as usize].load(Ordering::Relaxed))
            .map(|(id, _)| *id)
            .collect();
        ids.dedup();
        ids
    }

    /// Resolves deltas against objects that are here. `used` says afterwards which ones were needed.
    pub(super) fn resolve_outside<'a>(
        &self,
        bases: &[ObjectId],
        used: &[AtomicBool],
        threads: usize,
        finishers: &mut Vec<Finisher<'a>>,
        make: MakeFinisher<'a, '_>,
        progress: &mut dyn FnMut(IngestProgress),
    ) -> Result<(), IngestError> {
        self.run(Roots::Outside(bases, used), threads, finishers, make, progress)
    }

    /// Deltas that nothing resolved.
    pub(super) fn unresolved(&self) -> usize {
        self.scan.deltas.len() - self.done.load(Ordering::Relaxed) as usize
    }

    /// Deltas against an id.
    fn against(&self, id: &ObjectId) -> &[(ObjectId, u32)] {
        if self.by_id.is_empty() {
            return &[];
        }
        let start = self.by_id.partition_point(|(base, _)| base < id);
        let len = self.by_id[start..].partition_point(|(base, _)| base == id);
        &self.by_id[start..start + len]
    }

    /// Deltas against an object that nobody works on yet, now ours. The same id may be in a pack twice, hence the claim.
    fn claim_children(&self, entry: Option<u32>, id: &ObjectId) -> Vec<u32> {
        let mut children = Vec::new();
        if let Some(entry) = entry {
            let range = self.starts[entry as usize] as usize..self.starts[entry as usize + 1] as usize;
            children.extend_from_slice(&self.by_entry[range]);
        }
        children.extend(self.against(id).iter().map(|(_, delta)| *delta));
        children.retain(|delta| !self.claimed[*delta as usize].swap(true, Ordering::Relaxed));
        children
    }

    fn run<'a>(
        &self,
        roots: Roots<'_>,
        threads: usize,
        finishers: &mut Vec<Finisher<'a>>,
        make: MakeFinisher<'a, '_>,
        progress: &mut dyn FnMut(IngestProgress),
    ) -> Result<(), IngestError> {
        if self.unresolved() == 0 {
            return Ok(());
        }
        let threads = if self.unresolved() < FEW as usize {
            1
        } else {
            threads.max(1)
        };
        while finishers.len() < threads {
            finishers.push(make()?);
        }
        let shared = Shared {
            queue: Mutex::new(Queue {
                tasks: VecDeque::new(),
                idle: 0,
                over: false,
                failed: None,
            }),
            wake: Condvar::new(),
            hungry: AtomicUsize::new(0),
            stopped: AtomicBool::new(false),
            next_root: AtomicUsize::new(0),
            roots,
            threads,
            budget: self.job.limits.delta_base_cache_bytes / 2 / threads,
        };
        let (first, rest) = finishers.split_at_mut(1);
        thread::scope(|scope| {
            for finisher in rest.iter_mut().take(threads - 1) {
                let shared = &shared;
                scope.spawn(move || {
                    // A panic must wake those who wait for this thread's work.
                    let guard = PanicGuard(shared);
                    let result = Worker::new(self, shared, finisher, &mut |_| {}).run();
                    if let Err(err) = result {
                        shared.fail(err);
                    }
                    drop(guard);
                });
            }
            let guard = PanicGuard(&shared);
            if let Err(err) = Worker::new(self, &shared, &mut first[0], progress).run() {
                shared.fail(err);
            }
            drop(guard);
        });
        let queue = shared.queue.into_inner().unwrap_or_else(|e| e.into_inner());
        queue.failed.map_or(Ok(()), Err)
    }
}

struct PanicGuard<'q, 's>(&'q Shared<'s>);

impl Drop for PanicGuard<'_, '_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.fail(IngestError::Stopped);
        }
    }
}

struct Worker<'w, 's, 'a> {
    forest: &'w Forest<'s>,
    shared: &'w Shared<'w>,
    finisher: &'w mut Finisher<'a>,
    progress: &'w mut dyn FnMut(IngestProgress),
    inflater: Inflater,
    delta: Vec<u8>,
    result: Vec<u8>,
    /// The room that `result` takes.
    room: Option<Permit>,
    /// Held from the first large object of a tree to the tree's end.
    large: Option<MutexGuard<'s, ()>>,
    stack: Vec<Frame>,
    /// Bytes of all frames' data but the first one's.
    kept: usize,
    reported: u32,
}

impl<'w, 's, 'a> Worker<'w, 's, 'a> {
    fn new(
        forest: &'w Forest<'s>,
        shared: &'w Shared<'w>,
        finisher: &'w mut Finisher<'a>,
        progress: &'w mut dyn FnMut(IngestProgress),
    ) -> Self {
        Worker {
            forest,
            shared,
            finisher,
            progress,
            inflater: Inflater::new(),
            delta: Vec::new(),
            result: Vec::new(),
            room: None,
            large: None,
            stack: Vec::new(),
            kept: 0,
            reported: 0,
        }
    }

    fn run(mut self) -> Result<(), IngestError> {
        while let Some(task) = self.next_task()? {
            self.tree(task)?;
            self.stack.clear();
            self.clear_result();
            self.large = None;
        }
        self.finisher.flush();
        self.report(true);
        Ok(())
    }

    /// Asks for room for an object that may be large. Only one thread of an ingest works on large objects.
    fn room(&mut self, bytes: u64) -> Result<Option<Permit>, IngestError> {
        let forest = self.forest;
        if bytes > STREAMED && self.large.is_none() {
            self.large = Some(forest.job.large.lock().unwrap_or_else(|e| e.into_inner()));
        }
        let progress = &mut self.progress;
        forest.job.room(bytes, &mut || {
            progress(IngestProgress::Resolving {
                done: forest.done.load(Ordering::Relaxed),
                total: forest.scan.deltas.len() as u32,
            });
        })
    }

    /// Empties `self.result`, for good if it was large.
    fn clear_result(&mut self) {
        self.result.clear();
        if self.room.is_some() {
            self.result = Vec::new();
            self.room = None;
        }
    }

    fn report(&mut self, now: bool) {
        let done = self.forest.done.load(Ordering::Relaxed);
        if now || done.wrapping_sub(self.reported) >= 64 {
            self.reported = done;
            (self.progress)(IngestProgress::Resolving {
                done,
                total: self.forest.scan.deltas.len() as u32,
            });
        }
    }

    fn next_task(&mut self) -> Result<Option<Task>, IngestError> {
        loop {
            if self.shared.stopped.load(Ordering::Relaxed) {
                return Ok(None);
            }
            let root = self.shared.next_root.fetch_add(1, Ordering::Relaxed);
            let task = match &self.shared.roots {
                Roots::Entries(entries) => match entries.get(root) {
                    Some(&entry) => self.inside(entry)?,
                    None => break,
                },
                Roots::Outside(ids, used) => match ids.get(root) {
                    Some(id) => self.outside(id, &used[root])?,
                    None => break,
                },
            };
            if task.is_some() {
                return Ok(task);
            }
        }
        let mut queue = self.shared.lock();
        queue.idle += 1;
        self.shared.hungry.store(queue.idle, Ordering::Relaxed);
        loop {
            if queue.over {
                return Ok(None);
            }
            if let Some(task) = queue.tasks.pop_front() {
                queue.idle -= 1;
                self.shared.hungry.store(queue.idle, Ordering::Relaxed);
                return Ok(Some(task));
            }
            if queue.idle == self.shared.threads {
                queue.over = true;
                self.shared.wake.notify_all();
                return Ok(None);
            }
            queue = self.shared.wake.wait(queue).unwrap_or_else(|e| e.into_inner());
        }
    }

    fn inside(&mut self, entry: u32) -> Result<Option<Task>, IngestError> {
        let named = {
            let names = self.forest.job.names.lock().unwrap_or_else(|e| e.into_inner());
            names.get(entry)
        };
        let Some((kind, id)) = named else { return Ok(None) };
        let children = self.forest.claim_children(Some(entry), &id);
        if children.is_empty() {
            return Ok(None);
        }
        let size = entry_of(self.forest.job, self.forest.scan, self.forest.pack, entry)?
            .0
            .size;
        let room = self.room(size)?;
        let mut data = Vec::new();
        inflate_entry(self.forest, &mut self.inflater, entry, &mut data)?;
        Ok(Some(Task {
            kind,
            data: Arc::new(Held { data, room }),
            depth: 0,
            children,
        }))
    }

    fn outside(&mut self, id: &ObjectId, used: &AtomicBool) -> Result<Option<Task>, IngestError> {
        if self
            .forest
            .against(id)
            .iter()
            .all(|(_, delta)| self.forest.claimed[*delta as usize].load(Ordering::Relaxed))
        {
            // Another base's deltas made this very object.
            return Ok(None);
        }
        let Some(existing) = &mut self.finisher.existing else {
            return Ok(None);
        };
        let limit = self.forest.job.delta_limit();
        let size = match existing.header(id)? {
            Some((_, size)) if size <= limit => size,
            _ => return Ok(None),
        };
        let room = self.room(size)?;
        let Some(existing) = &mut self.finisher.existing else {
            return Ok(None);
        };
        let mut data = Vec::new();
        let Some(kind) = existing.read(id, &mut data)? else {
            return Ok(None);
        };
        let children = self.forest.claim_children(None, id);
        if children.is_empty() {
            return Ok(None);
        }
        used.store(true, Ordering::Relaxed);
        Ok(Some(Task {
            kind,
            data: Arc::new(Held { data, room }),
            depth: 0,
            children,
        }))
    }

    /// Applies all that depends on one object, depth first, without recursion.
    fn tree(&mut self, task: Task) -> Result<(), IngestError> {
        let Task {
            kind,
            data,
            depth,
            children,
        } = task;
        self.stack.clear();
        self.kept = 0;
        self.stack.push(Frame {
            data: Some(data),
            delta: 0,
            children,
            next: 0,
        });
        while let Some(top) = self.stack.last_mut() {
            let Some(&nth) = top.children.get(top.next) else {
                self.pop();
                continue;
            };
            top.next += 1;
            if self.shared.stopped.load(Ordering::Relaxed) {
                return Ok(());
            }
            self.forest.job.check_stop()?;
            let base = self.top_data()?;
            let entry = self.forest.scan.deltas[nth as usize].entry;
            let offset = self.forest.scan.offsets[entry as usize];
            let limit = self.forest.job.limits.delta_depth;
            let below = depth as usize + self.stack.len();
            if below > limit as usize {
                return Err(IngestError::DeltaDepth { offset, limit });
            }
            self.apply(nth, &base)?;
            let id = self.finisher.object(entry, kind, &self.result, offset)?;
            self.forest.done.fetch_add(1, Ordering::Relaxed);
            self.report(false);
            drop(base);
            let children = self.forest.claim_children(Some(entry), &id);
            if !children.is_empty() {
                self.push(nth, children);
            }
            if self.shared.hungry.load(Ordering::Relaxed) > 0 {
                self.donate(kind, depth);
            }
        }
        Ok(())
    }

    /// Makes `self.result` out of a base and a delta.
    fn apply(&mut self, nth: u32, base: &[u8]) -> Result<(), IngestError> {
        let forest = self.forest;
        let delta = &forest.scan.deltas[nth as usize];
        let offset = forest.scan.offsets[delta.entry as usize];
        let bad = |err: FormatError| IngestError::entry(offset, format!("failed to apply delta: {err}"));
        self.clear_result();
        let held = forest.scan.held(delta);
        let mut for_delta = None;
        if held.is_none() {
            let size = entry_of(forest.job, forest.scan, forest.pack, delta.entry)?.0.size;
            for_delta = self.room(size)?;
            inflate_entry(forest, &mut self.inflater, delta.entry, &mut self.delta)?;
        }
        let (limit, size) = (
            forest.job.delta_limit(),
            delta_sizes(held.unwrap_or(&self.delta)).map_err(bad)?.result,
        );
        if size <= limit {
            self.room = self.room(size)?;
        }
        if self.room.is_some() {
            // Doubling what there is would take more than was asked for.
            self.result.reserve_exact(size as usize);
        }
        apply_delta(base, held.unwrap_or(&self.delta), limit, &mut self.result).map_err(bad)?;
        if for_delta.is_some() {
            self.delta = Vec::new();
        }
        drop(for_delta);
        self.forest.job.produce(self.result.len())
    }

    /// The bytes of the object on top, made again when they were dropped.
    fn top_data(&mut self) -> Result<Arc<Held>, IngestError> {
        let top = self.stack.len() - 1;
        if let Some(data) = &self.stack[top].data {
            return Ok(Arc::clone(data));
        }
        let from = self.stack[..top]
            .iter()
            .rposition(|frame| frame.data.is_some())
            .unwrap_or(0);
        let mut data = self.stack[from]
            .data
            .clone()
            .expect("because the first frame keeps its data");
        for level in from + 1..=top {
            let nth = self.stack[level].delta;
            self.apply(nth, &data)?;
            data = Arc::new(Held {
                data: std::mem::take(&mut self.result),
                room: self.room.take(),
            });
        }
        self.kept += data.len();
        self.stack[top].data = Some(Arc::clone(&data));
        self.shed();
        Ok(data)
    }

    /// Puts `self.result` on top.
    fn push(&mut self, nth: u32, children: Vec<u32>) {
        let spare = match self.stack.last() {
            // Nobody needs the one below any more.
            Some(frame) if frame.next == frame.children.len() && self.stack.len() > 1 => self.pop_for_reuse(),
            _ => Vec::new(),
        };
        let mut data = std::mem::replace(&mut self.result, spare);
        // The result may have been made in a buffer that once held something much larger.
        if data.capacity() > 2 * data.len() + 4096 {
            data.shrink_to_fit();
        }
        self.kept += data.len();
        self.stack.push(Frame {
            data: Some(Arc::new(Held {
                data,
                room: self.room.take(),
            })),
            delta: nth,
            children,
            next: 0,
        });
        self.shed();
    }

    /// Gives up the bytes of the frame on top, which has no children left; the frame stays when frames above may have to be made again from it.
    fn pop_for_reuse(&mut self) -> Vec<u8> {
        let Some(frame) = self.stack.last_mut() else {
            return Vec::new();
        };
        let Some(data) = frame.data.take() else {
            return Vec::new();
        };
        self.kept -= data.len();
        // What took room is given back.
        let held = Arc::try_unwrap(data).ok().filter(|held| held.room.is_none());
        held.map(|held| held.data).unwrap_or_default()
    }

    fn pop(&mut self) {
        if self.stack.len() > 1 {
            let buffer = self.pop_for_reuse();
            if buffer.capacity() > self.result.capacity() {
                self.result = buffer;
            }
        }
        self.stack.pop();
    }

    /// Drops bytes that can be made again, those nearest to the root first, until the budget is kept. The one on top stays.
    fn shed(&mut self) {
        let top = self.stack.len() - 1;
        let mut level = 1;
        while self.kept > self.shared.budget && level < top {
            if let Some(data) = self.stack[level].data.take() {
                self.kept -= data.len();
            }
            level += 1;
        }
    }

    /// Gives the waiting children nearest to the root to a thread that has nothing to do.
    fn donate(&mut self, kind: Kind, depth: u32) {
        let top = self.stack.len() - 1;
        for (level, frame) in self.stack.iter_mut().enumerate() {
            let waiting = frame.children.len() - frame.next;
            let keep = usize::from(level == top) * waiting.div_ceil(2);
            // Large objects stay with the thread that works on them.
            let (Some(data), true) = (frame.data.as_ref().filter(|held| held.room.is_none()), waiting > keep) else {
                continue;
            };
            let children = frame.children.split_off(frame.next + keep);
            let task = Task {
                kind,
                data: Arc::clone(data),
                depth: depth + level as u32,
                children,
            };
            let mut queue = self.shared.lock();
            queue.tasks.push_back(task);
            drop(queue);
            self.shared.wake.notify_one();
            return;
        }
    }
}

/// Names and checks the objects that were only skimmed while they arrived.
pub(super) fn look_at_skipped(
    job: &Job<'_>,
    scan: &Scan,
    pack: &[u8],
    finisher: &mut Finisher<'_>,
    tick: &mut dyn FnMut(),
) -> Result<(), IngestError> {
    let mut inflater = Inflater::new();
    for &entry in &scan.skipped {
        let offset = scan.offsets[entry as usize];
        let (header, bytes) = entry_of(job, scan, pack, entry)?;
        let kind = header
            .kind
            .object_kind()
            .ok_or_else(|| IngestError::entry(offset, "not a whole object"))?;
        let _room = job.room(header.size, tick)?;
        let mut data = Vec::new();
        inflater
            .inflate_exact(bytes, header.size as usize, &mut data)
            .map_err(|err| IngestError::entry(offset, err.to_string()))?;
        finisher.object(entry, kind, &data, offset)?;
    }
    finisher.flush();
    Ok(())
}

/// An entry's header and its deflated bytes.
fn entry_of<'p>(
    job: &Job<'_>,
    scan: &Scan,
    pack: &'p [u8],
    entry: u32,
) -> Result<(EntryHeader, &'p [u8]), IngestError> {
    let offset = scan.offsets[entry as usize];
    let end = scan.offsets[entry as usize + 1];
    let bytes = pack
        .get(offset as usize..end as usize)
        .ok_or_else(|| IngestError::entry(offset, "outside of the pack"))?;
    let header = EntryHeader::parse(bytes, job.hash).map_err(|err| IngestError::entry(offset, err.to_string()))?;
    Ok((header, &bytes[header.header_len..]))
}

/// Replaces `out` by the inflated bytes of an entry, whose size was checked when it arrived.
fn inflate_entry(
    forest: &Forest<'_>,
    inflater: &mut Inflater,
    entry: u32,
    out: &mut Vec<u8>,
) -> Result<(), IngestError> {
    let offset = forest.scan.offsets[entry as usize];
    let (header, bytes) = entry_of(forest.job, forest.scan, forest.pack, entry)?;
    out.clear();
    inflater
        .inflate_exact(bytes, header.size as usize, out)
        .map_err(|err| IngestError::entry(offset, err.to_string()))?;
    Ok(())
}
