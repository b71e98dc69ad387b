//! The board: what the relay shows of itself, to the admin pages and to whoever embeds it.

#[cfg(not(test))]
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::watch;
use tokio::time::Instant;

use super::latency::Latencies;
use super::pace::Pace;
use super::state::{Checks, Held, InFlight, Latency, Rates, SlotStatus, State, Status, Totals};
use crate::failure::Failure;
use crate::metrics::{Meters, show_state, show_wal_status};
use crate::postgres::Slot;

/// The writing side of the board.
pub struct Board {
    shown: watch::Sender<Status>,
    meters: Meters,
    /// Over all sessions.
    pub(super) totals: Totals,
    /// Whether Kafka can have events that no session has settled since.
    pub(super) in_doubt: bool,
    /// Whether any session came as far as the stream.
    pub(super) has_streamed: bool,
    pace: Pace,
}

impl Board {
    /// An empty board.
    pub fn new(relay: &str, slot: &str, meters: Meters) -> Self {
        let status = Status {
            relay: relay.to_owned(),
            state: State::Starting,
            slot: SlotStatus::new(slot, None),
            in_flight: InFlight::default(),
            held: Held::default(),
            blocked_keys: 0,
            paused_topics: Vec::new(),
            rates: Rates::default(),
            latency: Latency::default(),
            totals: Totals::default(),
            lag_seconds: 0.0,
            position: String::new(),
            last_error: None,
            checks: Checks::default(),
            ready: false,
        };
        show_state(status.state.name());
        show_no_slot(&meters);
        Self {
            shown: watch::Sender::new(status),
            meters,
            totals: Totals::default(),
            in_doubt: false,
            has_streamed: false,
            pace: Pace::new(Instant::now()),
        }
    }

    /// The reading side.
    pub fn watch(&self) -> watch::Receiver<Status> {
        self.shown.subscribe()
    }

    /// What is shown now.
    pub fn status(&self) -> Status {
        self.shown.borrow().clone()
    }

    /// Another relay has the place: what was in doubt is for it to publish and settle.
    pub(super) fn stand_by(&mut self) {
        self.in_doubt = false;
        self.show_state(State::Standby, None);
    }

    /// Shows a new state, with the failure that goes with it.
    pub fn show_state(&mut self, state: State, failure: Option<&Failure>) {
        if matches!(state, State::Starting | State::Standby | State::Halted) {
            self.show_nothing_moves(state);
        }
        self.update(|status| {
            if status.state != state {
                tracing::info!(from = status.state.name(), to = state.name(), "state");
                show_state(state.name());
            }
            status.state = state;
            if let Some(failure) = failure {
                status.last_error = Some(failure.into());
            } else if matches!(state, State::Streaming | State::CatchingUp) {
                status.last_error = None;
            }
        });
    }

    /// There is no session: whatever only one can know is not known.
    fn show_nothing_moves(&mut self, state: State) {
        self.pace.stop(Instant::now(), self.totals);
        // Whoever has the place sees the slot, and what waits.
        let is_ours = state == State::Starting;
        self.shown.send_modify(|status| {
            status.checks = Checks::default();
            status.in_flight = InFlight::default();
            status.held = Held::default();
            status.blocked_keys = 0;
            status.rates = Rates::default();
            status.latency = Latency::default();
            status.slot.seconds_until_limit = None;
            if !is_ours {
                status.slot = SlotStatus::new(&status.slot.name, None);
                status.lag_seconds = 0.0;
            }
        });
        for gauge in [
            &self.meters.new_count,
            &self.meters.queue_depth,
            &self.meters.failed_count,
            &self.meters.blocked_keys,
            &self.meters.blocked_oldest_age,
        ] {
            gauge.set(0.0);
        }
        self.meters.show_held([0; 5]);
        self.meters.held_ratio.set(0.0);
        if !is_ours {
            self.meters.lag_seconds.set(0.0);
            self.meters.missed_events.set(0.0);
            show_no_slot(&self.meters);
        }
    }

    /// Shows the slot.
    pub(super) fn show_slot(&mut self, slot: Option<&Slot>, now: Instant) {
        let (rates, seconds_until_limit) = self.pace.look(slot, now);
        self.shown.send_modify(|status| {
            status.slot =
                SlotStatus { seconds_until_limit, ..SlotStatus::new(&status.slot.name, slot) };
            status.rates = rates;
        });
        let Some(slot) = slot else {
            return show_no_slot(&self.meters);
        };
        show_wal_status(slot.wal_status.as_deref().unwrap_or_default());
        self.meters.slot_lag_confirmed.set(float(slot.current().bytes_since(slot.confirmed())));
        self.meters.slot_lag_restart.set(float(slot.current().bytes_since(slot.restart())));
        let safe = slot.safe_wal_size.map(|bytes| float(u64::try_from(bytes).unwrap_or(0)));
        self.meters.slot_safe_wal.set(safe.unwrap_or(f64::INFINITY));
    }

    /// Changes what is shown.
    pub fn update(&self, change: impl FnOnce(&mut Status)) {
        self.shown.send_modify(|status| {
            change(status);
            status.ready = status.is_ready();
            self.meters.ready.set(f64::from(u8::from(status.ready)));
        });
    }

    /// Takes a new sample of the rates, if it is time. Whether there is more to show soon, even if
    /// nothing happens.
    pub(super) fn sample(&mut self, latencies: &mut Latencies, now: Instant) -> bool {
        if let Some((rates, latency, happened)) = self.pace.sample(self.totals, latencies, now) {
            let Totals { read, published, settled } = happened;
            if settled > 0 {
                tracing::info!(read, published, settled, "events in the last seconds");
            }
            self.shown.send_modify(|status| {
                status.rates = rates;
                status.latency = latency;
            });
            self.meters.memory.set(float(resident_bytes()));
        }
        self.pace.is_moving(self.totals)
    }
}

/// Nobody knows of the slot: no number is right, and none raises an alarm.
fn show_no_slot(meters: &Meters) {
    show_wal_status("");
    for gauge in [
        &meters.slot_lag_confirmed,
        &meters.slot_lag_restart,
        &meters.slot_lag_received,
        &meters.slot_safe_wal,
    ] {
        gauge.set(f64::NAN);
    }
}

#[expect(clippy::cast_precision_loss, reason = "shown to people")]
pub(super) fn float(number: u64) -> f64 {
    number as f64
}

/// Microseconds since 1970.
#[cfg(not(test))]
pub(super) fn wall_clock() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

/// Microseconds since 1970, or so: a simulation turns the clock.
#[cfg(test)]
pub(super) fn wall_clock() -> i64 {
    let began = CLOCK_BEGAN.get().unwrap_or_else(begin_clock);
    CLOCK_BEGINS_AT + i64::try_from(began.elapsed().as_micros()).unwrap_or(i64::MAX)
}

/// When the clock of a test begins: 2023-11-14 22:13:20.
#[cfg(test)]
pub(super) const CLOCK_BEGINS_AT: i64 = 1_700_000_000_000_000;

#[cfg(test)]
thread_local! {
    static CLOCK_BEGAN: std::cell::Cell<Option<Instant>> = const { std::cell::Cell::new(None) };
}

/// A simulation begins: the clock is set to its beginning.
#[cfg(test)]
pub(super) fn begin_clock() -> Instant {
    let now = Instant::now();
    CLOCK_BEGAN.set(Some(now));
    now
}

/// Memory of this process that is resident; 0 where the system does not say.
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok());
    pages.unwrap_or(0) * 4096
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::failure::Code;

    fn slot(written: &str) -> Slot {
        let slot = serde_json::json!({
            "slot_type": "logical", "active": true, "wal_status": "reserved",
            "safe_wal_size": 1_000_000, "current_lsn": written, "confirmed_flush_lsn": "0/1000",
        });
        serde_json::from_value(slot).unwrap()
    }

    /// A board that shows a relay at work.
    fn busy() -> Board {
        let mut board = Board::new("relay", "slot", Meters::new());
        let began = Instant::now();
        board.show_slot(Some(&slot("0/1000")), began);
        board.show_slot(Some(&slot("0/9000")), began + Duration::from_secs(5));
        board.totals = Totals { read: 10, published: 10, settled: 10 };
        let mut latencies = Latencies::default();
        latencies.record(Duration::from_millis(3));
        board.sample(&mut latencies, began + Duration::from_secs(6));
        board.update(|status| {
            status.checks = Checks {
                stream: true,
                producer: true,
                status_writer: true,
                publication: true,
                slot: true,
            };
            status.held.retry = 1;
            status.lag_seconds = 1.0;
        });
        board.show_state(State::Streaming, None);
        board
    }

    #[test]
    fn what_only_a_session_knows_ends_with_it() {
        let shown = busy().status();
        assert!(shown.ready && shown.rates.published > 0.0 && shown.rates.wal_bytes > 0.0);
        assert!(shown.latency.p99_seconds.is_some() && shown.slot.seconds_until_limit.is_some());

        let failure = Failure::new(Code::PostgresUnavailable, "it went away");
        let end: [fn(&mut Board, &Failure); 3] = [
            |board, failure| board.show_state(State::Starting, Some(failure)),
            |board, _| board.stand_by(),
            |board, failure| board.show_state(State::Halted, Some(failure)),
        ];
        for (end, remembers_slot) in end.into_iter().zip([true, false, false]) {
            let mut board = busy();
            end(&mut board, &failure);
            let Status { state, rates, latency, held, slot, lag_seconds, ready, .. } =
                board.status();
            let Rates { read, published, settled, wal_bytes, confirmed_bytes } = rates;
            assert_eq!(read + published + settled + wal_bytes + confirmed_bytes, 0.0, "{state:?}");
            assert_eq!((latency.p50_seconds, latency.p99_seconds), (None, None), "{state:?}");
            assert_eq!((held.retry, slot.seconds_until_limit), (0, None), "{state:?}");
            assert_eq!(slot.lag_bytes.is_some(), remembers_slot, "{state:?}");
            assert_eq!(lag_seconds > 0.0, remembers_slot, "{state:?}");
            assert_eq!(ready, state == State::Standby, "its job is to wait");
        }
    }
}
