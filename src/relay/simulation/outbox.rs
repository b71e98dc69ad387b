//! The outbox: its layout, how its rows become events, and what a row says.

use crate::ack::Moment;
use crate::outbox::columns::{ColumnMap, Field, FieldConfig, Kind, Layout, LayoutColumn, Source};
use crate::outbox::status::{self, Mode, StatusColumn, StatusConfig};
use crate::outbox::tests::events;
use crate::outbox::{EventMap, Format, HeaderList, Mapper, Placement};
use crate::pgoutput::{Column, Relation, encode};
use crate::relay::board::CLOCK_BEGINS_AT;
use crate::sink::Parcel;
use crate::sink::memory::Appended;
use crate::status::HeldContent;

/// The outbox, and another table that is published too.
pub(super) const TABLE: u32 = 16_400;
pub(super) const OTHER_TABLE: u32 = 16_500;

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
    let columns = COLUMNS.map(|(name, type_oid, kind)| {
        LayoutColumn::new(name, type_oid, &format!("{kind:?}"), kind)
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
    let config = events(columns, Format::Payload);
    let name = Some("status".to_owned());
    let status = StatusConfig {
        status: StatusColumn { name, chosen: true },
        ..status::tests::config(Mode::Update)
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

    pub(super) fn sent_by_hand() -> Self {
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

    pub(super) fn insert(&self) -> Vec<u8> {
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
