//! Latencies, counted in buckets: the same memory however many there are.

use std::time::Duration;

/// How often each latency was seen, to within 3 % and from 1 µs to an hour.
#[derive(Debug, Clone, Default)]
pub(crate) struct Latencies {
    counts: Vec<u64>,
    total: u64,
}

impl Latencies {
    /// One more.
    pub(crate) fn record(&mut self, latency: Duration) {
        let bucket = bucket(latency);
        if self.counts.len() <= bucket {
            self.counts.resize(bucket + 1, 0);
        }
        if let Some(count) = self.counts.get_mut(bucket) {
            *count += 1;
        }
        self.total += 1;
    }

    /// None were seen; the memory stays.
    pub(crate) fn clear(&mut self) {
        self.counts.fill(0);
        self.total = 0;
    }

    /// What `permille` of a thousand do not exceed; none if nothing was seen.
    pub(crate) fn quantile(&self, permille: u64) -> Option<Duration> {
        let rank = (self.total * permille).div_ceil(1000).max(1);
        let mut passed = 0;
        let bucket = self.counts.iter().position(|count| {
            passed += count;
            passed >= rank
        })?;
        Some(longest(bucket))
    }
}

/// Buckets per doubling, as a power of two.
const BITS: u32 = 5;

/// The bucket of a latency: its power of two, and the bits that follow the first.
fn bucket(latency: Duration) -> usize {
    let micros = u32::try_from(latency.as_micros()).unwrap_or(u32::MAX);
    let shift = (micros | 1 << BITS).ilog2() - BITS;
    let bucket = (shift << BITS) + (micros >> shift);
    usize::try_from(bucket).unwrap_or(usize::MAX)
}

/// The longest latency of a bucket.
fn longest(bucket: usize) -> Duration {
    let bucket = u64::try_from(bucket).unwrap_or(u64::MAX);
    let shift = (bucket >> BITS).saturating_sub(1);
    let leading = bucket - (shift << BITS);
    Duration::from_micros(((leading + 1) << shift) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_latency_is_told_to_within_three_percent() {
        for micros in (0..10_000).chain([123_456, 7_654_321, u64::from(u32::MAX)]) {
            let told = longest(bucket(Duration::from_micros(micros)));
            let told = u64::try_from(told.as_micros()).unwrap();
            assert!(told >= micros && told - micros <= micros / 32, "{micros} as {told}");
        }
    }

    #[test]
    fn a_quantile_is_what_so_many_do_not_exceed() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.quantile(500), None);
        for millis in 1..=100 {
            latencies.record(Duration::from_millis(millis));
        }
        let near = |permille, millis: u64| {
            let told = latencies.quantile(permille).unwrap();
            let exact = Duration::from_millis(millis);
            assert!(told >= exact && told <= exact * 33 / 32, "{permille}: {told:?}");
        };
        near(0, 1);
        near(500, 50);
        near(990, 99);
        near(1000, 100);
    }
}
