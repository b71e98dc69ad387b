//! When to try again. Pure: the clock and the dice are the caller's.

use std::time::Duration;

/// Exponential waits: `initial × 2ⁿ`, at most `max`, each varied by up to `jitter` of itself, so
/// that many relays do not come back at the same moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Backoff {
    initial: Duration,
    max: Duration,
    jitter: f64,
}

impl Backoff {
    /// A backoff from `initial` to `max`; `jitter` from 0 (none) to 1. It never waits less than a
    /// millisecond or so: without a wait it would be a loop.
    pub const fn new(initial: Duration, max: Duration, jitter: f64) -> Self {
        let least = Duration::from_millis(1);
        let initial = if initial.as_nanos() < least.as_nanos() { least } else { initial };
        let max = if max.as_nanos() < initial.as_nanos() { initial } else { max };
        Self { initial, max, jitter: jitter.clamp(0.0, 1.0) }
    }

    /// The wait after `failures` failures in a row, at least 1. `dice` is a random number from 0
    /// to 1.
    pub fn wait(&self, failures: u32, dice: f64) -> Duration {
        let factor = 2u32.saturating_pow(failures.saturating_sub(1).min(31));
        let wait = self.initial.saturating_mul(factor).min(self.max);
        let varied = 1.0 + self.jitter * (2.0 * dice.clamp(0.0, 1.0) - 1.0);
        wait.mul_f64(varied.max(0.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_cap() {
        let backoff = Backoff::new(Duration::from_secs(1), Duration::from_mins(1), 0.0);
        let waits: Vec<_> = (1..9).map(|failures| backoff.wait(failures, 0.5).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(backoff.wait(u32::MAX, 0.5).as_secs(), 60);
    }

    #[test]
    fn jitter_varies_a_wait_both_ways() {
        let backoff = Backoff::new(Duration::from_secs(10), Duration::from_secs(10), 0.2);
        assert_eq!(backoff.wait(1, 0.0), Duration::from_secs(8));
        assert_eq!(backoff.wait(1, 1.0), Duration::from_secs(12));
    }
}
