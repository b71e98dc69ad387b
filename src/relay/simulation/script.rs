//! What the applications wrote: transactions in the order of their commits, as the stream brings
//! them. What was rolled back is a gap between two positions and nothing else.

use std::time::Duration;

use fastrand::Rng;

use crate::lsn::{Lsn, Position};
use crate::outbox::columns::{ColumnMap, Field, FieldConfig, Kind, Layout, LayoutColumn, Source};
use crate::outbox::status::{Mode, StatusColumn, StatusConfig};
use crate::outbox::{EventConfig, EventMap, Format, HeaderList, PayloadEncoding};
use crate::pgoutput::encode;
use crate::sink::Parcel;
use crate::sink::memory::Appended;

/// The outbox, and another table that is published too.
pub(super) const TABLE: u32 = 16_400;
const OTHER_TABLE: u32 = 16_500;

const COLUMNS: [(&str, u32, Kind); 5] = [
    ("id", 25, Kind::Text),
    ("topic", 25, Kind::Text),
    ("key", 25, Kind::Text),
    ("payload", 3802, Kind::Json),
    ("status", 25, Kind::Text),
];

/// A row that was inserted as pending, by a transaction that committed.
#[derive(Debug)]
pub(super) struct Event {
    pub(super) id: String,
    pub(super) topic: String,
    pub(super) key: Option<String>,
    pub(super) payload: String,
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
}

impl Script {
    pub(super) fn new(rng: &mut Rng) -> Self {
        let mut script =
            Self { events: Vec::new(), transactions: Vec::new(), topics: rng.usize(1..4) };
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
                    let values = [id.as_str(), "topic-0", "key-0", "{}", "SENT"];
                    let bytes = encode::insert(TABLE, &values.map(|v| Some(v.as_bytes())));
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
        let event = Event {
            id: format!("event-{number}"),
            topic: format!("topic-{}", rng.usize(..self.topics)),
            key: (rng.u8(..16) != 0).then(|| format!("key-{}", rng.usize(..keys))),
            payload: format!("{{\"number\": {number}, \"pad\": \"{}\"}}", "-".repeat(pad)),
            position,
        };
        let values = [
            Some(event.id.as_bytes()),
            Some(event.topic.as_bytes()),
            event.key.as_deref().map(str::as_bytes),
            Some(event.payload.as_bytes()),
            Some(b"PENDING"),
        ];
        let bytes = encode::insert(TABLE, &values);
        self.events.push(event);
        Message { bytes, needs_layout: true, event: Some(number) }
    }

    /// The event of that id.
    pub(super) fn number(&self, id: &str) -> usize {
        let number = id.strip_prefix("event-").and_then(|number| number.parse().ok());
        let number = number.unwrap_or_else(|| panic!("\"{id}\" is no event that was committed"));
        assert!(number < self.events.len(), "event {number} was never written");
        number
    }

    /// Where the WAL ends.
    pub(super) fn end(&self) -> Lsn {
        self.transactions.last().map_or(Lsn::INVALID, |last| last.end)
    }
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
        let is_there = matches!(field, Field::Id | Field::Topic | Field::Key | Field::Payload);
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
        label_pending: "PENDING".to_owned(),
        label_sent: "SENT".to_owned(),
    };
    let status = status.compile(&layout).unwrap();
    EventMap::compile(&config, status.pending, &layout).unwrap()
}

impl Event {
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
        Appended { topic: self.topic.as_str().into(), parcel }
    }
}
