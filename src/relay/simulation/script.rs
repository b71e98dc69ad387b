//! What the applications wrote: transactions in the order of their commits, as the stream brings
//! them. What was rolled back is a gap between two positions and nothing else.

use std::time::Duration;

use fastrand::Rng;

use crate::ack::Moment;
use crate::lsn::{Lsn, Position};
use crate::outbox::columns::{ColumnMap, Field, FieldConfig, Kind, Layout, LayoutColumn, Source};
use crate::outbox::status::{Mode, StatusColumn, StatusConfig};
use crate::outbox::{
    EventConfig, EventMap, Format, HeaderList, Mapper, PayloadEncoding, Placement,
};
use crate::pgoutput::{Column, Relation, encode};
use crate::relay::board::CLOCK_BEGINS_AT;
use crate::sink::Parcel;
use crate::sink::memory::Appended;
use crate::status::HeldContent;

/// The outbox, and another table that is published too.
pub(super) const TABLE: u32 = 16_400;
const OTHER_TABLE: u32 = 16_500;

const COLUMNS: [(&str, u32, Kind); 8] = [
    ("id", 25, Kind::Text),
    ("topic", 25, Kind::Text),
    ("key", 25, Kind::Text),
    ("payload", 3802, Kind::Json),
    ("status", 25, Kind::Text),
    ("scheduled_at", 1184, Kind::TimestampTz),
    ("max_attempts", 23, Kind::Integer),
    ("headers", 3802, Kind::Json),
];

/// A row of the outbox, as it is at some time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) id: String,
    /// Without one it can never be published.
    pub(super) topic: Option<String>,
    pub(super) key: Option<String>,
    pub(super) payload: String,
    /// When it is due; [`Moment::MAX`] is never.
    pub(super) due: Option<Moment>,
    pub(super) max_attempts: Option<u32>,
    /// Its headers are no object: it can never be published.
    pub(super) is_odd: bool,
    pub(super) is_pending: bool,
}

/// A row that was inserted as pending, by a transaction that committed.
#[derive(Debug)]
pub(super) struct Event {
    /// As it was inserted.
    pub(super) row: Row,
    pub(super) position: Position,
}

/// One that committed.
#[derive(Debug)]
pub(super) struct Transaction {
    /// Where its commit record starts, and where it ends.
    pub(super) begin: Lsn,
    pub(super) end: Lsn,
    /// When it committed, from the beginning of the history.
    pub(super) at: Duration,
    pub(super) messages: Vec<Message>,
}

/// One message of pgoutput.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) bytes: Vec<u8>,
    /// Whether the layouts have to be sent before it.
    pub(super) needs_layout: bool,
    /// The event that it brings.
    pub(super) event: Option<usize>,
}

/// Everything that was written, in the order of commits.
#[derive(Debug)]
pub(super) struct Script {
    pub(super) events: Vec<Event>,
    pub(super) transactions: Vec<Transaction>,
    pub(super) topics: usize,
    /// Whether some events are scheduled.
    schedules: bool,
}

impl Script {
    pub(super) fn new(rng: &mut Rng) -> Self {
        let mut script = Self {
            events: Vec::new(),
            transactions: Vec::new(),
            topics: rng.usize(1..4),
            schedules: rng.u8(..3) == 0,
        };
        let keys = [1, 2, 6, 40][rng.usize(..4)];
        let writes_for = if rng.u8(..3) == 0 { 0 } else { rng.u64(..15_000) };
        let count = rng.usize(1..25);
        let mut times: Vec<_> = (0..count).map(|_| rng.u64(..=writes_for)).collect();
        times.sort_unstable();
        // Some histories cross the place where the upper half of an LSN changes.
        let mut lsn = if rng.bool() { 0x15_4000 } else { 0xFFFF_F800 };
        for (xid, at) in (700..).zip(times) {
            if rng.bool() {
                // Other tables, other databases, and what was rolled back.
                lsn += rng.u64(1..400);
            }
            let rows = if rng.u8(..10) == 0 { rng.u32(20..80) } else { rng.u32(..6) };
            let begin = Lsn::from_wire(lsn + u64::from(rows) * 64);
            lsn = begin.to_wire() + 48;
            let end = Lsn::from_wire(lsn);
            let messages = script.messages(rng, keys, begin, end, xid, rows);
            let at = Duration::from_millis(at);
            script.transactions.push(Transaction { begin, end, at, messages });
        }
        script
    }

    fn messages(
        &mut self,
        rng: &mut Rng,
        keys: usize,
        begin: Lsn,
        end: Lsn,
        xid: u32,
        rows: u32,
    ) -> Vec<Message> {
        let plain = |bytes| Message { bytes, needs_layout: false, event: None };
        let mut messages = vec![plain(encode::begin(begin.to_wire(), 0, xid))];
        let mut index = 0;
        for row in 0..rows {
            // A row of the outbox has its place in the order whether it is published or not.
            match rng.u8(..12) {
                0 => {
                    let bytes = encode::insert(OTHER_TABLE, &[Some(b"x".as_slice())]);
                    messages.push(Message { bytes, needs_layout: true, event: None });
                }
                1 => messages.push(plain(vec![b'U', 0, 0, 0, 1])),
                2 => {
                    let id = format!("sent by hand {xid}.{row}");
                    let row = Row { id, ..Row::sent_by_hand() };
                    let bytes = row.insert();
                    messages.push(Message { bytes, needs_layout: true, event: None });
                    index += 1;
                }
                _ => {
                    let position = Position { commit: begin, index };
                    let event = self.event(rng, keys, position);
                    messages.push(event);
                    index += 1;
                }
            }
        }
        messages.push(plain(encode::commit(begin.to_wire(), end.to_wire(), 0)));
        messages
    }

    fn event(&mut self, rng: &mut Rng, keys: usize, position: Position) -> Message {
        let number = self.events.len();
        let pad = if rng.u8(..20) == 0 { rng.usize(..6_000) } else { rng.usize(..100) };
        let misfit = if rng.u8(..40) == 0 { rng.u8(..2) } else { u8::MAX };
        let row = Row {
            id: format!("event-{number}"),
            topic: (misfit != 0).then(|| format!("topic-{}", rng.usize(..self.topics))),
            key: (rng.u8(..16) != 0).then(|| format!("key-{}", rng.usize(..keys))),
            payload: format!("{{\"number\": {number}, \"pad\": \"{}\"}}", "-".repeat(pad)),
            due: (self.schedules && rng.u8(..6) == 0).then(|| match rng.u8(..12) {
                0 => Moment::MAX,
                _ => CLOCK_BEGINS_AT + rng.i64(0..30_000) * 1_000,
            }),
            max_attempts: (rng.u8(..6) == 0).then(|| rng.u32(1..4)),
            is_odd: misfit == 1,
            is_pending: true,
        };
        let bytes = row.insert();
        self.events.push(Event { row, position });
        Message { bytes, needs_layout: true, event: Some(number) }
    }

    /// The event of that id.
    pub(super) fn number(&self, id: &str) -> usize {
        let number = id.strip_prefix("event-").and_then(|number| number.parse().ok());
        let number = number.unwrap_or_else(|| panic!("\"{id}\" is no event that was committed"));
        assert!(number < self.events.len(), "event {number} was never written");
        number
    }

    /// The event of that id, if it is one.
    pub(super) fn find(&self, id: &str) -> Option<usize> {
        id.starts_with("event-").then(|| self.number(id))
    }

    /// Where the WAL ends.
    pub(super) fn end(&self) -> Lsn {
        self.transactions.last().map_or(Lsn::INVALID, |last| last.end)
    }
}

/// The outbox as the catalog tells it.
pub(super) fn mapper() -> Mapper {
    let columns = COLUMNS.map(|(name, type_oid, _)| Column { name: name.to_owned(), type_oid });
    let (namespace, name) = ("public".to_owned(), "outbox".to_owned());
    let relation = Relation { oid: TABLE, namespace, name, columns: columns.into() };
    event_map().bind(&relation).unwrap()
}

/// The layouts of both tables, as every connection is told them before their rows.
pub(super) fn layouts() -> [Vec<u8>; 2] {
    let columns = COLUMNS.map(|(name, type_oid, _)| (name, type_oid));
    [
        encode::relation(OTHER_TABLE, "public", "other", &[("x", 25)]),
        encode::relation(TABLE, "public", "outbox", &columns),
    ]
}

/// How the rows become events.
pub(super) fn event_map() -> EventMap {
    let columns = COLUMNS.map(|(name, type_oid, kind)| LayoutColumn {
        name: name.to_owned(),
        type_oid,
        type_name: format!("{kind:?}"),
        kind,
    });
    let layout = Layout { columns: columns.into() };
    let columns = ColumnMap::new(|field| {
        let is_there = matches!(
            field,
            Field::Id
                | Field::Topic
                | Field::Key
                | Field::Payload
                | Field::ScheduledAt
                | Field::MaxAttempts
                | Field::Headers
        );
        let source = is_there.then(|| Source::Column(field.name().to_owned()));
        FieldConfig { source, default: None, chosen: true }
    });
    let config = EventConfig {
        columns,
        payload_encoding: PayloadEncoding::Auto,
        topic: "{topic}".to_owned(),
        default_topic: "{topic}".to_owned(),
        format: Format::Payload,
        headers: vec!["event_id".to_owned()],
    };
    let status = StatusConfig {
        mode: Mode::Update,
        status: StatusColumn { name: Some("status".to_owned()), chosen: true },
        sent_at: StatusColumn::default(),
        sent_flag: StatusColumn::default(),
        attempts: StatusColumn::default(),
        next_attempt_at: StatusColumn::default(),
        last_error: StatusColumn::default(),
        label_pending: "PENDING".to_owned(),
        label_sent: "SENT".to_owned(),
        label_failed: "FAILED".to_owned(),
        label_retrying: "FAILED".to_owned(),
    };
    let status = status.compile(&layout).unwrap();
    EventMap::compile(&config, status.pending, &layout).unwrap()
}

impl Row {
    /// What is held of it, whole.
    pub(super) fn content(&self) -> HeldContent {
        let Appended { topic, parcel } = self.appended();
        let key = self.key.as_deref().map(str::as_bytes);
        HeldContent {
            event_type: None,
            max_attempts: self.max_attempts,
            placement: Some(key.map_or(Placement::Hashed(7), Placement::of_key)),
            parcel: Parcel { topic: Some(topic).filter(|topic| !topic.is_empty()), ..parcel },
            redelivery: false,
        }
    }

    fn sent_by_hand() -> Self {
        Self {
            id: String::new(),
            topic: Some("topic-0".to_owned()),
            key: Some("key-0".to_owned()),
            payload: "{}".to_owned(),
            due: None,
            max_attempts: None,
            is_odd: false,
            is_pending: false,
        }
    }

    /// Whether it can become an event.
    pub(super) fn is_misfit(&self) -> bool {
        self.topic.is_none() || self.is_odd
    }

    /// Its values, in the order of the columns.
    pub(super) fn values(&self) -> Vec<Option<Box<[u8]>>> {
        let due = self.due.map(timestamp);
        let max_attempts = self.max_attempts.map(|most| most.to_string());
        let values = [
            Some(self.id.as_str()),
            self.topic.as_deref(),
            self.key.as_deref(),
            Some(self.payload.as_str()),
            Some(if self.is_pending { "PENDING" } else { "SENT" }),
            due.as_deref(),
            max_attempts.as_deref(),
            self.is_odd.then_some("[1]"),
        ];
        values.iter().map(|value| value.map(|value| value.as_bytes().into())).collect()
    }

    fn insert(&self) -> Vec<u8> {
        let values = self.values();
        let values: Vec<_> = values.iter().map(Option::as_deref).collect();
        encode::insert(TABLE, &values)
    }

    /// As it is in Kafka.
    pub(super) fn appended(&self) -> Appended {
        let mut headers = HeaderList::default();
        headers.add("event_id", Some(&self.id));
        let parcel = Parcel {
            headers,
            key: self.key.as_deref().map(|key| key.as_bytes().into()),
            value: Some(self.payload.as_bytes().into()),
            ..Parcel::default()
        };
        Appended { topic: self.topic.as_deref().unwrap_or_default().into(), parcel }
    }
}

/// As PostgreSQL prints it.
fn timestamp(at: Moment) -> String {
    if at == Moment::MAX {
        return "infinity".to_owned();
    }
    // The clock begins on the 14th at 22:13:20.
    let (seconds, micros) = ((at - CLOCK_BEGINS_AT) / 1_000_000 + 80_000, at % 1_000_000);
    let (day, hour) = (14 + seconds / 86_400, seconds / 3_600 % 24);
    let (minute, second) = (seconds / 60 % 60, seconds % 60);
    format!("2023-11-{day} {hour:02}:{minute:02}:{second:02}.{micros:06}+00")
}
