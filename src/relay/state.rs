//! What the relay shows of itself: the fields of `status`.

use serde::Serialize;

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
    /// From commit to acknowledgement, over the last few seconds.
    pub latency: Latency,
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
    /// Whether the relay can do its job, as `/readyz` tells.
    pub ready: bool,
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
    /// For how long that lasts at the current rate of WAL; none without a limit, or while nothing is
    /// written.
    pub seconds_until_limit: Option<f64>,
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
            seconds_until_limit: None,
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

/// Events, and bytes of WAL, per second.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Rates {
    /// Read from the stream or by a sweep.
    pub read: f64,
    /// Acknowledged by Kafka.
    pub published: f64,
    /// Settled.
    pub settled: f64,
    /// WAL that the server writes, of whatever.
    pub wal_bytes: f64,
    /// WAL that is confirmed.
    pub confirmed_bytes: f64,
}

/// From commit to acknowledgement; none where nothing was acknowledged.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Latency {
    /// Half of the events took no longer.
    pub p50_seconds: Option<f64>,
    /// Of a hundred events, 99 took no longer.
    pub p99_seconds: Option<f64>,
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
