//! What is kept of events that are held, and what becomes of them.

use std::fmt;
use std::str::FromStr;

use crate::ack::{Moment, Ordinal};
use crate::failure::Failure;
use crate::lsn::Position;
use crate::outbox::{HeaderList, Placement};
use crate::sink::Parcel;

/// Why an event is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Its delivery failed; it is tried again, or waits for an operator.
    Retry,
    /// Its topic takes no records now.
    Topic,
    /// It is behind one of its key that is held.
    Parked,
    /// It is not due. What is published is its row as it is then.
    Scheduled,
    /// It was given up.
    Dead,
}

impl Reason {
    /// Every reason.
    pub const ALL: [Reason; 5] =
        [Reason::Retry, Reason::Topic, Reason::Parked, Reason::Scheduled, Reason::Dead];

    /// As in `outboxd.held_event` and in the label of `outbox_held_events`.
    pub const fn name(self) -> &'static str {
        match self {
            Reason::Retry => "retry",
            Reason::Topic => "topic",
            Reason::Parked => "parked",
            Reason::Scheduled => "scheduled",
            Reason::Dead => "dead",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Reason {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Reason::ALL.into_iter().find(|reason| reason.name() == text);
        found.ok_or_else(|| format!("expected one of {}", Reason::ALL.map(Reason::name).join(", ")))
    }
}

/// Where a held event stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    /// Why it is held.
    pub reason: Reason,
    /// How often its delivery was tried and failed for its own sake.
    pub attempts: u32,
    /// Whether no attempt is left.
    pub exhausted: bool,
    /// When it goes; none until an operator says so.
    pub due: Option<Moment>,
    /// Why the last attempt failed.
    pub error: Option<Failure>,
}

impl Hold {
    /// An event that waits for something else than itself.
    pub fn waiting(reason: Reason) -> Self {
        Self { reason, attempts: 0, exhausted: false, due: Some(0), error: None }
    }
}

/// An event to be held, whole unless it is scheduled.
#[derive(Debug)]
pub struct HeldEvent {
    /// The event's id.
    pub id: String,
    /// The transaction that inserted its row, without the epoch; 0 where it is not known.
    pub xid: u32,
    /// Its place in the stream.
    pub position: Position,
    /// Where it stands.
    pub hold: Hold,
    /// What is published of it.
    pub content: HeldContent,
}

/// What is published of a held event.
#[derive(Debug, Clone, Default)]
pub struct HeldContent {
    /// What happened.
    pub event_type: Option<Box<str>>,
    /// How often its row allows it to be tried.
    pub max_attempts: Option<u32>,
    /// Where it belongs, where that is not its key's hash.
    pub placement: Option<Placement>,
    /// Its topic, key, headers and value, as far as there are any.
    pub parcel: Parcel,
    /// Whether an operator asked for it to be sent again.
    pub redelivery: bool,
}

/// What the relay keeps in memory of a held event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldEntry {
    /// Its number.
    pub ordinal: Ordinal,
    /// The event's id.
    pub id: String,
    /// As in [`HeldEvent`].
    pub xid: u32,
    /// As in [`HeldEvent`].
    pub position: Position,
    /// As in [`HeldEvent`], without the error.
    pub hold: Hold,
    /// Its topic, if it has one.
    pub topic: Option<Box<str>>,
    /// Its key, if it has one.
    pub key: Option<Box<[u8]>>,
    /// As in [`HeldContent`].
    pub max_attempts: Option<u32>,
    /// As in [`HeldContent`].
    pub redelivery: bool,
    /// The size of what is held.
    pub bytes: usize,
    /// Since when it is held.
    pub since: Moment,
}

/// What is published of a held event, and why it could not be.
#[derive(Debug, Clone)]
pub struct HeldBody {
    /// Its number.
    pub ordinal: Ordinal,
    /// What happened.
    pub event_type: Option<String>,
    /// Its place in the stream.
    pub position: Position,
    /// Its partition, or the hash that leads to it; none where that is the key's.
    pub placement: Option<Placement>,
    /// Its key.
    pub key: Option<Box<[u8]>>,
    /// Its headers.
    pub headers: HeaderList,
    /// Its value.
    pub value: Option<Box<[u8]>>,
    /// Its record's timestamp, if it is not that of publishing: in milliseconds since 1970.
    pub timestamp: Option<i64>,
    /// The code of the last error.
    pub error_code: Option<String>,
    /// The last error.
    pub error: Option<String>,
    /// When it happened, as in RFC 3339.
    pub failed_at: Option<String>,
}

/// What became of a held event, to be made durable.
#[derive(Debug, Clone)]
pub struct Change {
    /// Its number.
    pub ordinal: Ordinal,
    /// The event's id.
    pub id: String,
    /// The transaction that inserted its row, without the epoch; 0 where it is not known.
    pub xid: u32,
    /// What became of it.
    pub became: Became,
    /// Whether an operator asked for it.
    pub answers: bool,
}

impl Change {
    /// What became of `entry`; `answers` says whether an operator asked for it.
    pub fn of(entry: &HeldEntry, became: Became, answers: bool) -> Self {
        Self { ordinal: entry.ordinal, id: entry.id.clone(), xid: entry.xid, became, answers }
    }
}

/// What became of a held event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Became {
    /// Kafka has it.
    Sent,
    /// It stays, like this.
    Held(Hold),
    /// It goes again from the beginning, because an operator asked for it.
    Again(Moment),
    /// An operator gave it up.
    Removed(Verdict),
    /// Its row was deleted, or is not to be published any more.
    Cancelled,
    /// Its row says another time.
    Moved(Moment),
    /// What an operator asked for does not apply to it.
    Declined,
}

/// How an operator gave an event up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is not to be published.
    Skipped,
    /// It was dead.
    Discarded,
}

impl Verdict {
    /// As in `outboxd.ledger`.
    pub const fn name(self) -> &'static str {
        match self {
            Verdict::Skipped => "skipped",
            Verdict::Discarded => "discarded",
        }
    }
}

/// What operators want.
#[derive(Debug, Clone, Default)]
pub struct Orders {
    /// Nothing is to be published.
    pub paused: bool,
    /// Nothing is to be published to these topics.
    pub paused_topics: Vec<String>,
    /// How many partitions each known topic had.
    pub partitions: Vec<(String, i32)>,
    /// What is asked for single events.
    pub requests: Vec<(HeldEntry, Request)>,
}

/// What an operator asks for one event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// To be tried again at once, from the beginning.
    Retry,
    /// Not to be published.
    Skip,
    /// To be forgotten, as a dead letter.
    Discard,
    /// To be set aside, so that its key goes on.
    Unblock,
    /// To be taken on: somebody else put it there.
    Publish,
}

impl Request {
    /// Every request.
    const ALL: [Request; 5] =
        [Request::Retry, Request::Skip, Request::Discard, Request::Unblock, Request::Publish];

    /// As in `outboxd.held_event`.
    pub const fn name(self) -> &'static str {
        match self {
            Request::Retry => "retry",
            Request::Skip => "skip",
            Request::Discard => "discard",
            Request::Unblock => "unblock",
            Request::Publish => "publish",
        }
    }

    /// The request of that name.
    pub fn by_name(name: &str) -> Option<Self> {
        Request::ALL.into_iter().find(|request| request.name() == name)
    }
}

/// What was found of a scheduled event's row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DueRow {
    /// The row's values, in the order of the table's columns.
    Found(Vec<Option<Box<[u8]>>>),
    /// It was deleted.
    Gone,
    /// Its transaction cannot be seen yet.
    NotYet,
}
