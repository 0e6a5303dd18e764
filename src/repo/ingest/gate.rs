use std::{
    collections::VecDeque,
    sync::{
        Arc, Condvar, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use super::IngestError;

/// How often those who wait look whether they are to stop.
const LOOK: Duration = Duration::from_millis(200);

/// The bytes of large objects that all ingests of this process hold at a time.
///
/// A pack of some kilobytes can claim an object of half a gigabyte, and the bounds of one push say nothing about eight of them together. So who is about to hold
/// an object larger than [`STREAMED`](super::check::STREAMED) takes its size from here first, and waits while others hold too much. Nobody who holds nothing
/// gets more than there is, except what alone is larger than all there is; those wait in line. Of those who hold something already and cannot wait
/// for one another, one at a time may exceed: it goes on to its end, and the others after it.
pub(super) struct Gate {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Default)]
struct State {
    held: u64,
    /// Who holds nothing and waits, the longest first.
    line: VecDeque<u64>,
    /// The one account that may exceed, for as long as it holds something.
    exceeds: Option<u64>,
    last: u64,
}

/// One for the process.
pub(super) static HOUSE: Gate = Gate::new();

impl Gate {
    pub(super) const fn new() -> Self {
        Gate {
            state: Mutex::new(State {
                held: 0,
                line: VecDeque::new(),
                exceeds: None,
                last: 0,
            }),
            wake: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// An account for one ingest, which may hold up to `capacity` together with all others.
    pub(super) fn account(&'static self, capacity: u64) -> Account {
        let mut state = self.lock();
        state.last += 1;
        Account(Arc::new(Inner {
            gate: self,
            number: state.last,
            capacity,
            held: Mutex::new(0),
        }))
    }
}

/// What one ingest holds of a [`Gate`].
#[derive(Clone)]
pub(super) struct Account(Arc<Inner>);

struct Inner {
    gate: &'static Gate,
    number: u64,
    capacity: u64,
    /// Changed only under the gate's lock.
    held: Mutex<u64>,
}

impl Inner {
    fn held(&self) -> MutexGuard<'_, u64> {
        self.held.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Account {
    /// Waits until `bytes` may be held, calling `tick` now and then.
    ///
    /// # Errors
    /// `Stopped` when `stop` says so.
    pub(super) fn take(&self, bytes: u64, stop: &AtomicBool, tick: &mut dyn FnMut()) -> Result<Permit, IngestError> {
        let inner = &*self.0;
        let gate = inner.gate;
        let mut state = gate.lock();
        let mut ticket = None;
        let granted = loop {
            if stop.load(Ordering::Relaxed) {
                break false;
            }
            let fits = state.held == 0 || state.held.saturating_add(bytes) <= inner.capacity;
            if *inner.held() > 0 {
                if fits || state.exceeds == Some(inner.number) {
                    break true;
                }
                if state.exceeds.is_none() {
                    state.exceeds = Some(inner.number);
                    break true;
                }
            } else {
                let ticket = *ticket.get_or_insert_with(|| {
                    state.last += 1;
                    let ticket = state.last;
                    state.line.push_back(ticket);
                    ticket
                });
                if fits && state.line.front() == Some(&ticket) {
                    break true;
                }
            }
            let (woken, waited) = gate
                .wake
                .wait_timeout(state, LOOK)
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            state = woken;
            if waited.timed_out() {
                drop(state);
                tick();
                state = gate.lock();
            }
        };
        if let Some(ticket) = ticket {
            state.line.retain(|other| *other != ticket);
            gate.wake.notify_all();
        }
        if !granted {
            return Err(IngestError::Stopped);
        }
        state.held += bytes;
        *inner.held() += bytes;
        Ok(Permit {
            account: self.clone(),
            bytes,
        })
    }
}

/// Bytes that may be held for as long as this lives.
#[must_use = "dropping it gives the bytes back"]
pub(super) struct Permit {
    account: Account,
    bytes: u64,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let inner = &*self.account.0;
        let mut state = inner.gate.lock();
        state.held -= self.bytes;
        let mut held = inner.held();
        *held -= self.bytes;
        if *held == 0 && state.exceeds == Some(inner.number) {
            state.exceeds = None;
        }
        inner.gate.wake.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::atomic::AtomicU64, thread};

    use super::*;

    static GO: AtomicBool = AtomicBool::new(false);

    fn gate() -> &'static Gate {
        Box::leak(Box::new(Gate::new()))
    }

    fn take(account: &Account, bytes: u64) -> Permit {
        account.take(bytes, &GO, &mut || ()).expect("granted")
    }

    #[test]
    fn who_holds_nothing_waits_for_room_and_stops_when_told() {
        let gate = gate();
        let (one, other) = (gate.account(100), gate.account(100));
        let held = take(&one, 60);
        let stop = AtomicBool::new(false);
        let refused = other.take(50, &stop, &mut || stop.store(true, Ordering::Relaxed));
        assert!(matches!(refused, Err(IngestError::Stopped)));
        drop(take(&other, 40));
        drop(held);
        drop(take(&other, 50));
        // What is larger than everything is taken alone.
        drop(take(&other, 500));
        let state = gate.lock();
        assert_eq!((state.held, state.line.len(), state.exceeds), (0, 0, None));
    }

    #[test]
    fn one_at_a_time_exceeds_what_there_is_and_nobody_waits_for_ever() {
        let gate = gate();
        let most = AtomicU64::new(0);
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let account = gate.account(100);
                        let base = take(&account, 50);
                        let result = take(&account, 80);
                        most.fetch_max(gate.lock().held, Ordering::Relaxed);
                        drop(base);
                        let another = take(&account, 80);
                        most.fetch_max(gate.lock().held, Ordering::Relaxed);
                        drop((result, another));
                    }
                });
            }
        });
        let most = most.load(Ordering::Relaxed);
        // All there is, and what one holds beside its first object.
        assert!(most <= 100 + 160, "{most}");
        assert_eq!(gate.lock().held, 0);
    }
}
