use std::time::Duration;

/// How long one client is still waited for, in one direction. Waiting uses patience up, bytes that move give it back: a client may be still for the
/// idle time, and is given up sooner the further it stays below the least pace.
#[derive(Debug, Clone)]
pub struct Pace {
    idle: Duration,
    bytes_per_second: u64,
    spent: Duration,
}

impl Pace {
    /// `idle` is the longest time without a byte, `bytes_per_second` the pace at which a client may go on for ever.
    pub fn new(idle: Duration, bytes_per_second: u64) -> Self {
        Pace {
            idle,
            bytes_per_second: bytes_per_second.max(1),
            spent: Duration::ZERO,
        }
    }

    /// So long it is waited for the next bytes.
    pub fn left(&self) -> Duration {
        self.idle.saturating_sub(self.spent)
    }

    /// Says that so many bytes moved after so much waiting.
    pub fn moved(&mut self, waited: Duration, bytes: usize) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_second);
        let earned = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        self.spent = self.spent.saturating_add(waited).saturating_sub(earned);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_keeps_the_pace_is_waited_for_and_who_drips_is_not() {
        let second = Duration::from_secs(1);
        let mut pace = Pace::new(60 * second, 4096);
        for _ in 0..10_000 {
            pace.moved(second, 4096);
        }
        assert_eq!(pace.left(), 60 * second);
        // Half a minute of silence is made good again.
        pace.moved(30 * second, 1);
        assert!(pace.left() <= 31 * second);
        pace.moved(second, 1 << 20);
        assert_eq!(pace.left(), 60 * second);
        let drops = (0..10_000).take_while(|_| {
            pace.moved(second, 1024);
            !pace.left().is_zero()
        });
        assert!((60..100).contains(&drops.count()));
    }
}
