//! The pace: how much happens per second, and how long it takes, over the last few seconds.
//!
//! Events are counted by the relay itself; WAL is what the server wrote and what was confirmed
//! between two looks at the slot. What is too old to be true is not shown.

use std::time::Duration;

use tokio::time::Instant;

use super::board::float;
use super::latency::Latencies;
use super::state::{Latency, Rates, Totals};
use crate::lsn::Lsn;
use crate::postgres::Slot;

/// Rates of events are taken over this long.
const SAMPLE_TIME: Duration = Duration::from_secs(2);
/// Whoever has not seen the slot for so long does not know how fast it moves.
const LOOK_IS_OLD: Duration = Duration::from_secs(15);

/// What the rates are made of.
pub(crate) struct Pace {
    sampled: (Instant, Totals),
    /// The slot as it was last seen.
    look: Option<Look>,
    rates: Rates,
}

#[derive(Clone, Copy)]
struct Look {
    at: Instant,
    written: Lsn,
    confirmed: Lsn,
}

impl Pace {
    pub(crate) fn new(now: Instant) -> Self {
        Self { sampled: (now, Totals::default()), look: None, rates: Rates::default() }
    }

    /// The session is over: nothing moves, as far as is known.
    pub(super) fn stop(&mut self, now: Instant, totals: Totals) {
        *self = Self { sampled: (now, totals), ..Self::new(now) };
    }

    /// Whether what is shown will have to be shown anew although nothing happens.
    pub(super) fn is_moving(&self, totals: Totals) -> bool {
        let Rates { read, published, settled, .. } = self.rates;
        self.sampled.1 != totals || read + published + settled > 0.0
    }

    /// Takes a new sample of the events, if it is time: the rates, the latency, and what happened.
    pub(super) fn sample(
        &mut self,
        totals: Totals,
        latencies: &mut Latencies,
        now: Instant,
    ) -> Option<(Rates, Latency, Totals)> {
        let (since, before) = self.sampled;
        let elapsed = now - since;
        if elapsed < SAMPLE_TIME {
            return None;
        }
        let happened = Totals {
            read: totals.read - before.read,
            published: totals.published - before.published,
            settled: totals.settled - before.settled,
        };
        self.rates.read = per_second(happened.read, elapsed);
        self.rates.published = per_second(happened.published, elapsed);
        self.rates.settled = per_second(happened.settled, elapsed);
        if self.look.is_some_and(|look| now - look.at > LOOK_IS_OLD) {
            self.look = None;
            self.rates = Rates { wal_bytes: 0.0, confirmed_bytes: 0.0, ..self.rates };
        }
        let seconds = |permille| latencies.quantile(permille).map(|latency| latency.as_secs_f64());
        let latency = Latency { p50_seconds: seconds(500), p99_seconds: seconds(990) };
        latencies.clear();
        self.sampled = (now, totals);
        Some((self.rates, latency, happened))
    }

    /// Takes in a look at the slot. Gives the rates, and for how long the WAL that can be written
    /// lasts at the current one.
    pub(crate) fn look(&mut self, slot: Option<&Slot>, now: Instant) -> (Rates, Option<f64>) {
        let before = self.look.take();
        self.look =
            slot.map(|slot| Look { at: now, written: slot.current(), confirmed: slot.confirmed() });
        let (mut wal_bytes, mut confirmed_bytes) = (0.0, 0.0);
        if let (Some(before), Some(look)) = (before, self.look)
            && look.at > before.at
        {
            let elapsed = look.at - before.at;
            wal_bytes = per_second(look.written.bytes_since(before.written), elapsed);
            confirmed_bytes = per_second(look.confirmed.bytes_since(before.confirmed), elapsed);
        }
        self.rates = Rates { wal_bytes, confirmed_bytes, ..self.rates };
        let safe = slot.and_then(|slot| slot.safe_wal_size);
        // What is already over the limit has no time left, however slow the WAL grows.
        let safe = safe.map(|bytes| float(u64::try_from(bytes).unwrap_or(0)));
        let lasts = safe.filter(|safe| *safe == 0.0 || wal_bytes > 0.0);
        (self.rates, lasts.map(|safe| if safe == 0.0 { 0.0 } else { (safe / wal_bytes).round() }))
    }
}

/// In tenths: nobody reads more.
fn per_second(count: u64, elapsed: Duration) -> f64 {
    (float(count) / elapsed.as_secs_f64() * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(written: &str, confirmed: &str, safe: Option<i64>) -> Slot {
        let slot = serde_json::json!({
            "slot_type": "logical", "active": true, "safe_wal_size": safe,
            "current_lsn": written, "confirmed_flush_lsn": confirmed,
        });
        serde_json::from_value(slot).unwrap()
    }

    #[test]
    fn wal_is_counted_between_two_looks() {
        let began = Instant::now();
        let after = |seconds| began + Duration::from_secs(seconds);
        let mut pace = Pace::new(began);
        let look = |pace: &mut Pace, slot: Slot, seconds| {
            let (rates, lasts) = pace.look(Some(&slot), after(seconds));
            (rates.wal_bytes, rates.confirmed_bytes, lasts)
        };
        assert_eq!(look(&mut pace, slot("0/0", "0/0", Some(9000)), 0), (0.0, 0.0, None));
        let seen = look(&mut pace, slot("0/1388", "0/64", Some(4000)), 5);
        assert_eq!(seen, (1000.0, 20.0, Some(4.0)));
        let seen = look(&mut pace, slot("0/1388", "0/1388", Some(4000)), 10);
        assert_eq!(seen, (0.0, 980.0, None), "at this rate it lasts for ever");
        assert_eq!(look(&mut pace, slot("0/1770", "0/1388", None), 15), (200.0, 0.0, None));
        assert_eq!(look(&mut pace, slot("0/1770", "0/1388", Some(-1)), 20).2, Some(0.0));

        // Nobody has seen the slot since; it is not known to move.
        look(&mut pace, slot("0/2770", "0/1388", None), 25);
        let sample = |pace: &mut Pace, seconds| {
            let sample = pace.sample(Totals::default(), &mut Latencies::default(), after(seconds));
            sample.unwrap().0.wal_bytes
        };
        assert!(sample(&mut pace, 30) > 0.0);
        assert_eq!(sample(&mut pace, 41), 0.0);
        assert_eq!(look(&mut pace, slot("0/9770", "0/1388", None), 45), (0.0, 0.0, None));
    }

    #[test]
    fn a_sample_tells_of_the_last_seconds_and_of_no_others() {
        let began = Instant::now();
        let mut pace = Pace::new(began);
        let mut latencies = Latencies::default();
        let mut sample = |pace: &mut Pace, published, seconds, taken: &[u64]| {
            for millis in taken {
                latencies.record(Duration::from_millis(*millis));
            }
            let totals = Totals { published, ..Totals::default() };
            let sample = pace.sample(totals, &mut latencies, began + Duration::from_secs(seconds));
            sample.map(|(rates, latency, _)| (rates.published, latency.p50_seconds))
        };
        assert_eq!(sample(&mut pace, 50, 1, &[10]), None, "too soon");
        let (rate, p50) = sample(&mut pace, 100, 2, &[10, 10]).unwrap();
        assert!(rate == 50.0 && (0.010..0.0104).contains(&p50.unwrap()), "{rate} {p50:?}");
        let totals = Totals { published: 100, ..Totals::default() };
        assert!(pace.is_moving(totals), "a rate is shown that is over");
        assert_eq!(sample(&mut pace, 100, 4, &[]), Some((0.0, None)));
        assert!(!pace.is_moving(totals));

        sample(&mut pace, 200, 6, &[10]).unwrap();
        pace.stop(began + Duration::from_secs(7), Totals { published: 200, ..totals });
        assert!(!pace.is_moving(Totals { published: 200, ..totals }));
    }
}
