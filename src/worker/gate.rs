use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout_at},
};

use crate::base::{Fault, Limits};

/// Which threads a job runs on. Long transfers and short work have threads of their own, so that slow clones never starve small requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lane {
    /// Work that may last as long as a client takes to send or to receive.
    Long,
    /// Work that ends by itself soon.
    Short,
}

/// What is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BusyScope {
    /// Every thread of the lane is taken and so is every place to wait.
    House,
    /// One key (a repository) has as many jobs running and waiting as it may.
    Key,
}

/// There is no room now. Nothing is wrong with the request; it may be sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{}; try again in {} s", match scope { BusyScope::House => "the server is busy", BusyScope::Key => "the repository is busy" }, retry_after.as_secs())]
pub struct Busy {
    /// When another attempt makes sense. Whole seconds, at least one.
    pub retry_after: Duration,
    /// What was full.
    pub scope: BusyScope,
}

impl Busy {
    /// Always [`Fault::Busy`].
    pub fn fault(&self) -> Fault {
        Fault::Busy
    }
}

/// The right to run one job. Given back on drop.
#[must_use = "a permit that is dropped lets the next job in"]
#[derive(Debug)]
pub struct Permit {
    // Field order is drop order: the thread's place is given back before the key's, so a waiter for the key finds a thread.
    _lane: OwnedSemaphorePermit,
    _key: Option<KeyPermit>,
    pub(super) lane: Lane,
}

/// Admission: house, then key, then thread. A job that holds a permit never waits for a thread longer than one takes to come round.
#[derive(Debug)]
pub(super) struct Gate {
    long: LaneGate,
    short: LaneGate,
    keys: Arc<Mutex<HashMap<Box<str>, KeyGate>>>,
    per_key: usize,
    waiting_per_key: usize,
    queue_wait: Duration,
    refused: AtomicU64,
}

#[derive(Debug)]
struct LaneGate {
    threads: Arc<Semaphore>,
    waiting: AtomicUsize,
    max_waiting: usize,
}

#[derive(Debug)]
struct KeyGate {
    running: Arc<Semaphore>,
    /// Jobs that run or wait under this key; the entry goes when there are none.
    users: usize,
}

/// Membership of a key's gate, from the moment of waiting to the end of the job.
#[derive(Debug)]
struct KeyUser {
    keys: Arc<Mutex<HashMap<Box<str>, KeyGate>>>,
    key: Box<str>,
}

#[derive(Debug)]
struct KeyPermit {
    _running: OwnedSemaphorePermit,
    _user: KeyUser,
}

/// One place in a lane's queue.
struct Waiting<'a>(&'a AtomicUsize);

impl Gate {
    pub(super) fn new(limits: &Limits) -> Self {
        let lane = |threads: usize| LaneGate {
            threads: Arc::new(Semaphore::new(threads.clamp(1, Semaphore::MAX_PERMITS))),
            waiting: AtomicUsize::new(0),
            max_waiting: limits.queued,
        };
        Gate {
            long: lane(limits.long_workers),
            short: lane(limits.short_workers),
            keys: Arc::default(),
            per_key: limits.per_repository.clamp(1, Semaphore::MAX_PERMITS),
            waiting_per_key: limits.queued.div_ceil(4),
            queue_wait: limits.queue_wait,
            refused: AtomicU64::new(0),
        }
    }

    /// Waits for a permit for at most the queue's waiting time. Dropping the future gives the place in the queue back.
    pub(super) async fn admit(&self, lane: Lane, key: Option<&str>) -> Result<Permit, Busy> {
        let result = self.try_admit(lane, key).await;
        if result.is_err() {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        result
    }

    async fn try_admit(&self, lane: Lane, key: Option<&str>) -> Result<Permit, Busy> {
        let gate = self.lane(lane);
        let mut place = None;
        let mut deadline = None;
        let key_permit = match key {
            None => None,
            Some(key) => {
                let (user, running) = self.enter(key)?;
                let running = match Arc::clone(&running).try_acquire_owned() {
                    Ok(permit) => permit,
                    Err(_) => {
                        place = Some(gate.wait(self)?);
                        let until = *deadline.get_or_insert_with(|| Instant::now() + self.queue_wait);
                        self.acquire(running, until, BusyScope::Key).await?
                    }
                };
                Some(KeyPermit {
                    _running: running,
                    _user: user,
                })
            }
        };
        let lane_permit = match Arc::clone(&gate.threads).try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => {
                if place.is_none() {
                    place = Some(gate.wait(self)?);
                }
                let until = *deadline.get_or_insert_with(|| Instant::now() + self.queue_wait);
                self.acquire(Arc::clone(&gate.threads), until, BusyScope::House).await?
            }
        };
        drop(place);
        Ok(Permit {
            _lane: lane_permit,
            _key: key_permit,
            lane,
        })
    }

    async fn acquire(
        &self,
        from: Arc<Semaphore>,
        until: Instant,
        scope: BusyScope,
    ) -> Result<OwnedSemaphorePermit, Busy> {
        match timeout_at(until, from.acquire_owned()).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) | Err(_) => Err(self.busy(scope)),
        }
    }

    fn enter(&self, key: &str) -> Result<(KeyUser, Arc<Semaphore>), Busy> {
        let mut keys = lock(&self.keys);
        let gate = keys.entry(key.into()).or_insert_with(|| KeyGate {
            running: Arc::new(Semaphore::new(self.per_key)),
            users: 0,
        });
        if gate.users >= self.per_key.saturating_add(self.waiting_per_key) {
            return Err(self.busy(BusyScope::Key));
        }
        gate.users += 1;
        let running = Arc::clone(&gate.running);
        drop(keys);
        Ok((
            KeyUser {
                keys: Arc::clone(&self.keys),
                key: key.into(),
            },
            running,
        ))
    }

    fn lane(&self, lane: Lane) -> &LaneGate {
        match lane {
            Lane::Long => &self.long,
            Lane::Short => &self.short,
        }
    }

    /// A quarter of the time a request may wait: by then some of those who wait now have been served.
    pub(super) fn busy(&self, scope: BusyScope) -> Busy {
        Busy {
            retry_after: Duration::from_secs((self.queue_wait.as_secs() / 4).max(1)),
            scope,
        }
    }

    pub(super) fn waiting(&self) -> usize {
        self.long.waiting.load(Ordering::Relaxed) + self.short.waiting.load(Ordering::Relaxed)
    }

    pub(super) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    #[cfg(test)]
    pub(super) fn keys_in_use(&self) -> usize {
        lock(&self.keys).len()
    }
}

impl LaneGate {
    fn wait(&self, gate: &Gate) -> Result<Waiting<'_>, Busy> {
        self.waiting
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| {
                (n < self.max_waiting).then_some(n + 1)
            })
            .map(|_| Waiting(&self.waiting))
            .map_err(|_| gate.busy(BusyScope::House))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for KeyUser {
    fn drop(&mut self) {
        let mut keys = lock(&self.keys);
        if let Some(gate) = keys.get_mut(&self.key) {
            gate.users = gate.users.saturating_sub(1);
            if gate.users == 0 {
                keys.remove(&self.key);
            }
        }
    }
}

/// A map of counters is whole after every statement, so a panic elsewhere while it was locked says nothing about it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
