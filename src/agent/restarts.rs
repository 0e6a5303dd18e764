use std::{collections::VecDeque, time::Duration};

use super::rules::Restart;

/// What an agent's ends have been like lately: how long it is waited before it is started again, and when no longer. Times are of a clock that only goes on.
#[derive(Debug, Clone)]
pub(super) struct Restarts {
    /// When it was started the last time.
    since: Duration,
    /// When it ended without having been told to, lately.
    ends: VecDeque<Duration>,
    /// The restarts since it was last sound.
    attempts: u32,
    random: u64,
}

impl Restarts {
    /// `seed` spreads the restarts of many.
    pub(super) fn new(seed: u64) -> Self {
        Restarts {
            since: Duration::ZERO,
            ends: VecDeque::new(),
            attempts: 0,
            random: seed | 1,
        }
    }

    /// It has ended at these times before.
    pub(super) fn have_ended(&mut self, ends: impl IntoIterator<Item = Duration>) {
        self.ends.extend(ends);
    }

    /// It is started.
    pub(super) fn begin(&mut self, now: Duration) {
        self.since = now;
    }

    /// Somebody starts it: what was before does not count.
    pub(super) fn forget(&mut self) {
        self.attempts = 0;
        self.ends.clear();
    }

    /// It has ended and is to be started again: after this time, if not too often.
    pub(super) fn after(&mut self, rule: &Restart, now: Duration) -> Option<Duration> {
        if now.saturating_sub(self.since) >= rule.stable {
            self.attempts = 0;
        }
        self.ends.push_back(now);
        while self
            .ends
            .front()
            .is_some_and(|&end| now.saturating_sub(end) > rule.window)
        {
            self.ends.pop_front();
        }
        if self.ends.len() >= rule.burst.max(1) {
            return None;
        }
        let wait = rule.first.saturating_mul(2u32.saturating_pow(self.attempts.min(20)));
        let wait = wait.min(rule.most);
        self.attempts += 1;
        Some(wait + wait.mul_f64(self.jitter()))
    }

    /// Up to a quarter.
    fn jitter(&mut self) -> f64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        f64::from(u32::try_from(self.random >> 40).unwrap_or(0)) / f64::from(1u32 << 24) / 4.0
    }
}
