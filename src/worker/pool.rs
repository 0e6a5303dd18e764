use std::{
    collections::VecDeque,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use super::{
    gate::{Busy, BusyScope, Gate, Lane, Permit},
    pace::Pace,
    reply::{Answer, Reply, StopOnDrop},
};
use crate::base::Limits;

/// The house's blocking threads. A clone is another handle to the same threads; when the last one goes, they end after their present job.
#[derive(Debug, Clone)]
pub struct Workers {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    gate: Gate,
    long: Arc<Queue>,
    short: Arc<Queue>,
    panics: Arc<AtomicU64>,
    pace: Pace,
}

/// Jobs on their way to a thread. Admission has given each a permit, so there are never more of them than threads.
///
/// The thread that went idle last gets the next job: its memory is warm, and what it keeps of it (an allocator keeps some for each thread) is reused instead of
/// adding up over all threads.
struct Queue {
    state: Mutex<State>,
    quiet: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    /// Threads without a job, the one that went idle last at the end.
    idle: Vec<Arc<Condvar>>,
    running: usize,
    closed: bool,
}

struct Job {
    run: Box<dyn FnOnce() + Send>,
    permit: Permit,
}

/// Numbers for the operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Jobs on threads of the long lane.
    pub long_running: usize,
    /// Jobs on threads of the short lane.
    pub short_running: usize,
    /// Requests that wait for a permit.
    pub waiting: usize,
    /// Requests refused since the start because there was no room.
    pub refused: u64,
    /// Jobs that panicked since the start.
    pub panics: u64,
}

/// Why [`Workers::call`] has no value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// No room.
    #[error(transparent)]
    Busy(#[from] Busy),
    /// The job panicked; the panic is in the log.
    #[error("the work ended in a panic")]
    Panicked,
}

impl CallError {
    /// Whose move it is.
    pub fn fault(&self) -> crate::base::Fault {
        match self {
            CallError::Busy(busy) => busy.fault(),
            CallError::Panicked => crate::base::Fault::Ours,
        }
    }
}

impl Workers {
    /// Starts the threads of both lanes.
    ///
    /// # Errors
    /// When the system gives no more threads.
    pub fn start(limits: &Limits) -> io::Result<Self> {
        let panics = Arc::new(AtomicU64::new(0));
        let lane = |name: &str, threads: usize| -> io::Result<Arc<Queue>> {
            let queue = Arc::new(Queue {
                state: Mutex::default(),
                quiet: Condvar::new(),
            });
            for n in 0..threads.max(1) {
                let (mine, panics) = (Arc::clone(&queue), Arc::clone(&panics));
                let started = thread::Builder::new()
                    .name(format!("{name}-{n}"))
                    .spawn(move || mine.work(&panics));
                if let Err(error) = started {
                    queue.close();
                    return Err(error);
                }
            }
            Ok(queue)
        };
        let long = lane("long", limits.long_workers)?;
        let short = match lane("short", limits.short_workers) {
            Ok(short) => short,
            Err(error) => {
                long.close();
                return Err(error);
            }
        };
        Ok(Workers {
            inner: Arc::new(Inner {
                gate: Gate::new(limits),
                long,
                short,
                panics,
                pace: Pace::new(limits.write_idle, limits.min_pace),
            }),
        })
    }

    /// Waits for the right to run one job. `key` names what shares a smaller bound (a repository); it is only counted where it is given.
    ///
    /// # Errors
    /// [`Busy`] when the queue is full or the wait was too long.
    pub async fn admit(&self, lane: Lane, key: Option<&str>) -> Result<Permit, Busy> {
        self.inner.gate.admit(lane, key).await
    }

    /// What to say where something else than threads is full.
    pub fn busy(&self) -> Busy {
        self.inner.gate.busy(BusyScope::House)
    }

    /// Runs a job under a permit, on a thread of the permit's lane. The job runs even if nobody waits for it.
    pub fn spawn(&self, permit: Permit, job: impl FnOnce() + Send + 'static) {
        let queue = match permit.lane {
            Lane::Long => &self.inner.long,
            Lane::Short => &self.inner.short,
        };
        queue.push(Job {
            run: Box::new(job),
            permit,
        });
    }

    /// Runs `job` and waits for its value. Once admitted the job runs to its end, even if the future is dropped.
    ///
    /// # Errors
    /// [`CallError::Busy`] before the job ran, [`CallError::Panicked`] if it did not come back.
    pub async fn call<T: Send + 'static>(
        &self,
        lane: Lane,
        key: Option<&str>,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, CallError> {
        let permit = self.admit(lane, key).await?;
        self.call_under(permit, job).await
    }

    /// [`call`](Self::call) under a permit that has been got already.
    ///
    /// # Errors
    /// [`CallError::Panicked`] if the job did not come back.
    pub async fn call_under<T: Send + 'static>(
        &self,
        permit: Permit,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, CallError> {
        let (send, receive) = oneshot::channel();
        self.spawn(permit, move || {
            // Nobody waiting is no error: the work is done either way.
            let _ = send.send(job());
        });
        receive.await.map_err(|_| CallError::Panicked)
    }

    /// Runs `job` under a permit with a [`Reply`] to write to, and waits for as much of an answer as decides its form: all of it if it is small, else
    /// its first bytes. Dropping the future, or later the answer's body, raises the job's stop flag.
    pub async fn pipe<H, E>(
        &self,
        permit: Permit,
        job: impl FnOnce(&mut Reply<H, E>) -> Result<(), E> + Send + 'static,
    ) -> Answer<H, E>
    where
        H: Send + 'static,
        E: Send + 'static,
    {
        let stop = StopOnDrop::default();
        let (mut reply, receive) = Reply::new(stop.flag(), permit.lane, self.inner.pace.clone());
        let panics = Arc::clone(&self.inner.panics);
        self.spawn(permit, move || {
            if reply.is_stopped() {
                return;
            }
            match catch_unwind(AssertUnwindSafe(|| job(&mut reply))) {
                Ok(result) => reply.finish(result),
                Err(_) => {
                    count_panic(&panics);
                    reply.panicked();
                }
            }
        });
        match receive.await {
            Ok(answer) => answer.settled().with_stop(stop),
            // Only a job that never ran drops its reply unanswered.
            Err(_) => Answer::Panicked,
        }
    }

    /// What goes on now.
    pub fn stats(&self) -> Stats {
        Stats {
            long_running: self.inner.long.lock().running,
            short_running: self.inner.short.lock().running,
            waiting: self.inner.gate.waiting(),
            refused: self.inner.gate.refused(),
            panics: self.inner.panics.load(Ordering::Relaxed),
        }
    }

    /// Blocks until no job runs, or until `patience` is over. Says whether it is quiet.
    /// New jobs are still taken meanwhile: close the doors first.
    pub fn wait_until_quiet(&self, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        self.inner.long.wait_until_quiet(until) && self.inner.short.wait_until_quiet(until)
    }

    #[cfg(test)]
    pub(super) fn keys_in_use(&self) -> usize {
        self.inner.gate.keys_in_use()
    }
}

fn count_panic(panics: &AtomicU64) {
    panics.fetch_add(1, Ordering::Relaxed);
    // The panic hook has printed message and place; this line carries the request's span.
    tracing::error!(thread = thread::current().name().unwrap_or_default(), "a job panicked");
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.long.close();
        self.short.close();
    }
}

impl Queue {
    fn push(&self, job: Job) {
        let mut state = self.lock();
        state.jobs.push_back(job);
        if let Some(thread) = state.idle.pop() {
            thread.notify_one();
        }
    }

    fn work(&self, panics: &AtomicU64) {
        let bell = Arc::new(Condvar::new());
        let mut state = self.lock();
        loop {
            let Some(job) = state.jobs.pop_front() else {
                if state.closed {
                    return;
                }
                state.idle.push(Arc::clone(&bell));
                state = bell.wait(state).unwrap_or_else(PoisonError::into_inner);
                // Woken for no reason, it would be there twice.
                state.idle.retain(|other| !Arc::ptr_eq(other, &bell));
                continue;
            };
            state.running += 1;
            drop(state);
            let Job { run, permit } = job;
            if catch_unwind(AssertUnwindSafe(run)).is_err() {
                count_panic(panics);
            }
            state = self.lock();
            state.running -= 1;
            if state.running == 0 && state.jobs.is_empty() {
                self.quiet.notify_all();
            }
            drop(permit);
        }
    }

    fn wait_until_quiet(&self, until: Instant) -> bool {
        let mut state = self.lock();
        while state.running > 0 || !state.jobs.is_empty() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = self
                .quiet
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        true
    }

    fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        for thread in state.idle.drain(..) {
            thread.notify_one();
        }
    }

    /// No job runs while the lock is held, so a poisoned lock cannot hide a half-made state.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = self.lock();
        f.debug_struct("Queue")
            .field("jobs", &state.jobs.len())
            .field("running", &state.running)
            .finish()
    }
}
