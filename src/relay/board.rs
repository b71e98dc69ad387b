//! The board: what the relay shows of itself, to the admin pages and to whoever embeds it.

use std::time::Duration;
#[cfg(not(test))]
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::failure::Failure;
use crate::metrics::{Meters, show_state, show_wal_status};
use crate::postgres::Slot;
use crate::status::LastError;

/// What the relay does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It connects and checks.
    Starting,
    /// It publishes what was there before it came.
    CatchingUp,
    /// It publishes events as they are committed.
    Streaming,
    /// It was told to wait.
    Paused,
    /// Another relay has the place.
    Standby,
    /// Events wait that should have gone.
    Stalled,
    /// It ended, and a person has to do something.
    Halted,
}

impl State {
    /// As in the label of `outbox_relay_state` and in `status`.
    pub const fn name(self) -> &'static str {
        match self {
            State::Starting => "starting",
            State::CatchingUp => "catching_up",
            State::Streaming => "streaming",
            State::Paused => "paused",
            State::Standby => "standby",
            State::Stalled => "stalled",
            State::Halted => "halted",
        }
    }
}

/// Everything that `status` shows.
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    /// The relay's id.
    pub relay: String,
    /// What it does.
    pub state: State,
    /// The slot, as last seen.
    pub slot: SlotStatus,
    /// What is between reading and settling.
    pub in_flight: InFlight,
    /// Events that are held, by reason.
    pub held: Held,
    /// Keys that wait for an event that Kafka refused.
    pub blocked_keys: usize,
    /// Topics that an operator has paused.
    pub paused_topics: Vec<String>,
    /// Per second, over the last few seconds.
    pub rates: Rates,
    /// Since the relay was started.
    pub totals: Totals,
    /// Age of the oldest commit that is not settled.
    pub lag_seconds: f64,
    /// Everything at or before it is settled.
    pub position: String,
    /// The last error, while it matters.
    pub last_error: Option<LastError>,
    /// Whether each part can do its job.
    pub checks: Checks,
}

/// The slot as `status` shows it.
#[derive(Debug, Clone, Default, Serialize)]
pub struct SlotStatus {
    /// Its name.
    pub name: String,
    /// Whether somebody reads it.
    pub active: bool,
    /// `reserved`, `extended`, `unreserved` or `lost`.
    pub wal_status: Option<String>,
    /// What was confirmed.
    pub confirmed_lsn: Option<String>,
    /// WAL that is not confirmed.
    pub lag_bytes: Option<u64>,
    /// WAL that can be written before the slot is in danger; none without a limit.
    pub safe_wal_bytes: Option<i64>,
}

impl SlotStatus {
    /// A slot as it was just seen.
    pub fn new(name: &str, slot: Option<&Slot>) -> Self {
        let Some(slot) = slot else {
            return Self { name: name.to_owned(), ..Self::default() };
        };
        Self {
            name: name.to_owned(),
            active: slot.active,
            wal_status: slot.wal_status.clone(),
            confirmed_lsn: Some(slot.confirmed().to_string()),
            lag_bytes: Some(slot.current().bytes_since(slot.confirmed())),
            safe_wal_bytes: slot.safe_wal_size,
        }
    }
}

/// What is between reading and settling.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct InFlight {
    /// Events that are not settled.
    pub events: u64,
    /// Bytes of events that are not acknowledged.
    pub bytes: u64,
}

/// Events that are held, by reason.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Held {
    /// Refused by Kafka, and tried again.
    pub retry: u64,
    /// Behind one of their key that is held.
    pub parked: u64,
    /// Not due yet.
    pub scheduled: u64,
    /// Their topic takes no records now.
    pub topic: u64,
    /// Given up.
    pub dead: u64,
}

/// Events per second.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Rates {
    /// Read from the stream or by a sweep.
    pub read: f64,
    /// Acknowledged by Kafka.
    pub published: f64,
    /// Settled.
    pub settled: f64,
}

/// What `/readyz` is made of.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Checks {
    /// The stream is followed.
    pub stream: bool,
    /// Kafka answers, as far as is known.
    pub producer: bool,
    /// Statuses can be written: a session that cannot write them ends.
    pub status_writer: bool,
    /// The publication is the one that it was: the session ends when it is not.
    pub publication: bool,
    /// The slot is there: the session ends when it is not.
    pub slot: bool,
}

impl Status {
    /// Whether the relay can do its job. A standby can: its job is to wait.
    pub fn is_ready(&self) -> bool {
        let Checks { stream, producer, status_writer, publication, slot } = self.checks;
        match self.state {
            State::Standby => true,
            State::Starting | State::Stalled | State::Halted => false,
            State::CatchingUp | State::Streaming | State::Paused => {
                stream && producer && status_writer && publication && slot
            }
        }
    }
}

/// Numbers that only grow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Events read from the stream or by a sweep.
    pub read: u64,
    /// Events acknowledged by Kafka.
    pub published: u64,
    /// Events settled.
    pub settled: u64,
}

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
    sampled: (Instant, Totals),
}

/// Rates are taken over this long.
const SAMPLE_TIME: Duration = Duration::from_secs(2);

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
            totals: Totals::default(),
            lag_seconds: 0.0,
            position: String::new(),
            last_error: None,
            checks: Checks::default(),
        };
        show_state(status.state.name());
        Self {
            shown: watch::Sender::new(status),
            meters,
            totals: Totals::default(),
            in_doubt: false,
            has_streamed: false,
            sampled: (Instant::now(), Totals::default()),
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
    pub fn show_state(&self, state: State, failure: Option<&Failure>) {
        self.shown.send_modify(|status| {
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
            if matches!(state, State::Starting | State::Standby | State::Halted) {
                status.checks = Checks::default();
                status.in_flight = InFlight::default();
                status.held = Held::default();
                status.blocked_keys = 0;
                for gauge in [
                    &self.meters.new_count,
                    &self.meters.queue_depth,
                    &self.meters.failed_count,
                    &self.meters.blocked_keys,
                    &self.meters.blocked_oldest_age,
                ] {
                    gauge.set(0.0);
                }
            }
        });
    }

    /// Shows the slot.
    pub fn show_slot(&self, slot: Option<&Slot>) {
        self.shown.send_modify(|status| status.slot = SlotStatus::new(&status.slot.name, slot));
        let Some(slot) = slot else { return };
        show_wal_status(slot.wal_status.as_deref().unwrap_or_default());
        self.meters.slot_lag_confirmed.set(float(slot.current().bytes_since(slot.confirmed())));
        self.meters.slot_lag_restart.set(float(slot.current().bytes_since(slot.restart())));
        let safe = slot.safe_wal_size.and_then(|bytes| u64::try_from(bytes).ok());
        let unlimited = slot.safe_wal_size.is_none();
        self.meters.slot_safe_wal.set(match safe {
            Some(bytes) => float(bytes),
            None if unlimited => f64::INFINITY,
            None => 0.0,
        });
    }

    /// Changes what is shown.
    pub fn update(&self, change: impl FnOnce(&mut Status)) {
        self.shown.send_modify(change);
    }

    /// Takes a new sample of the rates, if it is time.
    pub(super) fn sample(&mut self, now: Instant) {
        let (since, before) = self.sampled;
        let elapsed = now - since;
        if elapsed < SAMPLE_TIME {
            return;
        }
        let per_second = |now: u64, before: u64| {
            // In tenths: nobody reads more.
            (float(now - before) / elapsed.as_secs_f64() * 10.0).round() / 10.0
        };
        let rates = Rates {
            read: per_second(self.totals.read, before.read),
            published: per_second(self.totals.published, before.published),
            settled: per_second(self.totals.settled, before.settled),
        };
        if self.totals.settled != before.settled {
            tracing::info!(
                read = self.totals.read - before.read,
                published = self.totals.published - before.published,
                settled = self.totals.settled - before.settled,
                "events in the last seconds"
            );
        }
        self.shown.send_modify(|status| status.rates = rates);
        self.meters.memory.set(float(resident_bytes()));
        self.sampled = (now, self.totals);
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
