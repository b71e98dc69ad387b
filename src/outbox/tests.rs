//! Rows to envelopes, through the whole of the module.

use super::columns::tests::layout;
use super::columns::{ColumnMap, Field, FieldConfig, Kind, Layout, Source};
use super::status::{Mode, Pending};
use super::*;
use crate::lsn::{Lsn, Position};
use crate::pgoutput::{Column, Relation};
use proptest::prelude::*;

mod formats;
mod odd;
mod routing;

const NOW: i64 = 1_795_240_800_000_000; // 2026-11-21 06:00:00 UTC
const POSITION: Position = Position { commit: Lsn::from_wire(0x1_0000_00AB), index: 3 };

const ID: &str = "4d47e190-0402-4048-bc2c-89dd54343cdc";

/// Our own table's columns with a row's values.
fn ours() -> Vec<(&'static str, &'static str, Kind, Option<&'static str>)> {
    vec![
        ("id", "uuid", Kind::Scalar, Some(ID)),
        ("seq", "bigint", Kind::Integer, Some("17")),
        ("aggregate_type", "text", Kind::Text, Some("order")),
        ("aggregate_id", "text", Kind::Text, Some("o-1")),
        ("event_type", "text", Kind::Text, Some("OrderCreated")),
        ("payload", "jsonb", Kind::Json, Some(r#"{"total": 1.10}"#)),
        ("headers", "jsonb", Kind::Json, Some("{}")),
        ("topic", "text", Kind::Text, None),
        ("partition_key", "text", Kind::Text, None),
        ("tenant_id", "text", Kind::Text, None),
        ("schema_version", "integer", Kind::Integer, Some("1")),
        ("dedup_key", "text", Kind::Text, None),
        ("occurred_at", "timestamptz", Kind::TimestampTz, Some("2026-11-21 06:00:00.5+00")),
        ("scheduled_at", "timestamptz", Kind::TimestampTz, None),
        ("status", "text", Kind::Text, Some("PENDING")),
        ("sent_at", "timestamptz", Kind::TimestampTz, None),
        ("max_attempts", "integer", Kind::Integer, None),
    ]
}

struct Table {
    config: EventConfig,
    columns: Vec<(&'static str, &'static str, Kind, Option<&'static str>)>,
}

impl Table {
    fn ours() -> Self {
        let columns = ColumnMap::new(|field| FieldConfig {
            source: match field {
                Field::Key => Some(Source::Column("partition_key".to_owned())),
                Field::PartitionBy | Field::Partition => None,
                other => Some(Source::Column(other.name().to_owned())),
            },
            default: None,
            chosen: false,
        });
        let config = events(columns, Format::Envelope);
        Self { config, columns: ours() }
    }

    fn with(mut self, name: &str, value: Option<&'static str>) -> Self {
        self.columns.iter_mut().find(|column| column.0 == name).unwrap().3 = value;
        self
    }

    fn retyped(mut self, name: &str, type_name: &'static str, kind: Kind) -> Self {
        let column = self.columns.iter_mut().find(|column| column.0 == name).unwrap();
        (column.1, column.2) = (type_name, kind);
        self
    }

    fn format(mut self, format: Format) -> Self {
        self.config.format.format = format;
        self
    }

    fn field(mut self, changed: Field, config: FieldConfig) -> Self {
        let before = self.config.columns.clone();
        self.config.columns = ColumnMap::new(|field| match field == changed {
            true => config.clone(),
            false => before.get(field).clone(),
        });
        self
    }

    fn layout(&self) -> Layout {
        let columns: Vec<_> = self.columns.iter().map(|c| (c.0, c.1, c.2)).collect();
        layout(&columns)
    }

    fn mapper(&self) -> Mapper {
        let layout = self.layout();
        let columns = layout
            .columns
            .iter()
            .map(|column| Column { name: column.name.clone(), type_oid: column.type_oid });
        let relation = Relation {
            oid: 1,
            namespace: "public".to_owned(),
            name: "outbox".to_owned(),
            columns: columns.collect(),
        };
        let status = status::tests::config(Mode::Update).compile(&layout).unwrap();
        EventMap::compile(&self.config, status.pending, &layout).unwrap().bind(&relation).unwrap()
    }

    /// What is wrong with the map.
    fn problems(&self) -> Vec<String> {
        let found = EventMap::compile(&self.config, Pending::Always, &self.layout()).err();
        found.unwrap_or_default().iter().map(ToString::to_string).collect()
    }

    fn map(&self) -> Result<Published, MapError> {
        let values: Vec<_> = self.columns.iter().map(|c| c.3.map(str::as_bytes)).collect();
        self.mapper().map(&values, POSITION).map(|envelope| Published::from(&envelope))
    }

    /// Shows what the row holds to `look`.
    fn read<R>(&self, look: impl FnOnce(Option<Content<'_>>) -> R) -> R {
        let values: Vec<_> = self.columns.iter().map(|c| c.3.map(str::as_bytes)).collect();
        look(self.mapper().read(&values, POSITION, NOW))
    }

    fn published(&self) -> Published {
        self.map().unwrap()
    }
}

/// The usual configuration, with one header: the event's id.
pub(crate) fn events(columns: ColumnMap, format: Format) -> EventConfig {
    EventConfig {
        columns,
        payload_encoding: PayloadEncoding::Auto,
        route: RouteConfig {
            topic: "{topic}".to_owned(),
            default: "outbox.{aggregate_type}".to_owned(),
            by: "aggregate_type".to_owned(),
            ..RouteConfig::default()
        },
        format: FormatConfig {
            format,
            source: "/outboxd".to_owned(),
            debezium: DebeziumConfig::default(),
        },
        headers: vec!["event_id".to_owned()],
        record_timestamp: RecordTimestamp::Publish,
    }
}

/// An [`Envelope`] that owns what it says.
#[derive(Debug, PartialEq)]
struct Published {
    topic: String,
    key: Option<String>,
    headers: Vec<(String, Option<String>)>,
    value: Option<Vec<u8>>,
    timestamp: Stamp,
    scheduled: Option<i64>,
    max_attempts: Option<i32>,
}

impl From<&Envelope<'_>> for Published {
    fn from(envelope: &Envelope<'_>) -> Self {
        let owned = |(name, value): (&str, Option<&str>)| (name.into(), value.map(Into::into));
        Self {
            topic: envelope.topic.to_owned(),
            key: envelope.key.as_deref().map(str::to_owned),
            headers: envelope.headers.iter().map(owned).collect(),
            value: envelope.value.map(<[u8]>::to_vec),
            timestamp: envelope.timestamp,
            scheduled: envelope.scheduled,
            max_attempts: envelope.max_attempts,
        }
    }
}

fn text(published: &Published) -> &str {
    std::str::from_utf8(published.value.as_deref().unwrap()).unwrap()
}

fn header<'a>(published: &'a Published, name: &str) -> Option<&'a str> {
    let found = published.headers.iter().find(|(other, _)| other == name)?;
    found.1.as_deref()
}

#[test]
fn an_envelope_has_every_member_in_this_order() {
    let published = Table::ours().published();
    assert_eq!(
        text(&published),
        concat!(
            r#"{"event_id":"4d47e190-0402-4048-bc2c-89dd54343cdc","event_type":"OrderCreated","#,
            r#""topic":"outbox.order","schema_version":1,"occurred_at":"2026-11-21T06:00:00.5Z","#,
            r#""tenant_id":null,"aggregate_id":"o-1","aggregate_type":"order","#,
            r#""payload":{"total": 1.10}}"#
        )
    );
    assert_eq!(published.key.as_deref(), Some("o-1"));
    let id = "4d47e190-0402-4048-bc2c-89dd54343cdc".to_owned();
    assert_eq!(published.headers, [("event_id".to_owned(), Some(id))]);
}

#[test]
fn a_rows_topic_and_key_win() {
    let table = Table::ours().with("topic", Some("orders.v1")).with("partition_key", Some("k"));
    let published = table.published();
    assert_eq!((published.topic.as_str(), published.key.as_deref()), ("orders.v1", Some("k")));
    let empty = Table::ours().with("topic", Some("")).published();
    assert_eq!(empty.topic, "outbox.order", "an empty topic is none");
}

#[test]
fn an_event_without_a_topic_is_an_error_not_a_guess() {
    assert_eq!(Table::ours().with("aggregate_type", None).map(), Err(MapError::NoTopic));
}

#[test]
fn a_template_can_name_any_column() {
    let mut table = Table::ours();
    table.config.route.topic = "t{tenant_id}.{aggregate_type}.{seq}".to_owned();
    assert_eq!(table.published().topic, "outbox.order", "no tenant");
    let mut table = Table::ours().with("tenant_id", Some("7"));
    table.config.route.topic = "t{tenant_id}.{aggregate_type}.{seq}".to_owned();
    assert_eq!(table.published().topic, "t7.order.17");
}

#[test]
fn the_payload_alone_is_the_columns_bytes() {
    let json = r#"{ "b":1,"a":"A", "a":1e400 }"#;
    let table = Table::ours().format(Format::Payload).with("payload", Some(json));
    assert_eq!(text(&table.published()), json);
    let table = Table::ours().format(Format::Payload).with("payload", None);
    assert_eq!(table.published().value, None, "a null payload is a tombstone");
}

#[test]
fn bytes_arrive_as_bytes_or_as_base64() {
    let bytes = || {
        let table = Table::ours().retyped("payload", "bytea", Kind::Bytes);
        table.with("payload", Some("\\x00ff10"))
    };
    assert_eq!(bytes().format(Format::Payload).published().value, Some(vec![0, 0xFF, 0x10]));
    let published = bytes().published();
    assert!(text(&published).ends_with(r#","payload_base64":"AP8Q"}"#), "{}", text(&published));
    let odd = bytes().with("payload", Some("\\x0")).format(Format::Payload).map();
    assert_eq!(odd, Err(MapError::BadBytes));
}

#[test]
fn a_text_payload_is_json_unless_it_is_said_to_be_text() {
    let words = || {
        let table = Table::ours().retyped("payload", "text", Kind::Text);
        table.with("payload", Some("say \"hi\""))
    };
    assert_eq!(words().map(), Err(MapError::NotJson));
    let mut table = words();
    table.config.payload_encoding = PayloadEncoding::Text;
    assert!(text(&table.published()).ends_with(r#","payload":"say \"hi\""}"#));
    assert_eq!(text(&words().format(Format::Payload).published()), "say \"hi\"");
    let json = words().with("payload", Some(" [1] ")).published();
    assert!(text(&json).ends_with(r#","payload": [1] }"#), "embedded as it is");
}

#[test]
fn a_rows_headers_follow_the_chosen_ones() {
    let headers = r#"{"b": "x", "n": 1, "none": null, "o": {"x": [1]}}"#;
    let mut table = Table::ours().with("headers", Some(headers)).with("tenant_id", Some("t"));
    let chosen = ["event_id", "position", "content_type", "tenant_id", "dedup_key", "seq"];
    table.config.headers = chosen.map(str::to_owned).to_vec();
    let published = table.published();
    let names: Vec<_> = published.headers.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names,
        ["event_id", "position", "content-type", "tenant_id", "seq", "b", "n", "none", "o"]
    );
    assert_eq!(header(&published, "position"), Some("1/AB/3"));
    assert_eq!(header(&published, "content-type"), Some("application/json"));
    assert_eq!(header(&published, "seq"), Some("17"));
    assert_eq!(header(&published, "n"), Some("1"));
    assert_eq!(header(&published, "none"), None);
    assert_eq!(header(&published, "o"), Some(r#"{"x": [1]}"#));
    for bad in ["[]", "nul", "nullnull", "\"\"", "0"] {
        assert_eq!(Table::ours().with("headers", Some(bad)).map(), Err(MapError::BadHeaders));
    }
}

#[test]
fn no_headers_are_written_in_many_ways() {
    let none = Table::ours().with("headers", None).published();
    for written in ["{}", "null", "", " ", "\tnull\n", " {} "] {
        let table = Table::ours().with("headers", Some(written));
        let table = table.retyped("headers", "text", Kind::Text);
        assert_eq!(table.published(), none, "{written:?}");
    }
}

#[test]
fn a_field_can_be_a_member_of_the_payload_or_a_constant() {
    let zero = "00000000-0000-0000-0000-000000000000";
    let from_payload = FieldConfig {
        source: Some(Source::Payload("/tenant".to_owned())),
        default: Some(zero.to_owned()),
        chosen: true,
    };
    let table = || Table::ours().field(Field::TenantId, from_payload.clone());
    assert!(text(&table().published()).contains(&format!(r#""tenant_id":"{zero}""#)));
    let named = table().with("payload", Some(r#"{"tenant": "t-9"}"#)).published();
    assert!(text(&named).contains(r#""tenant_id":"t-9""#));

    let constant =
        FieldConfig { source: Some(Source::Const("2".to_owned())), ..FieldConfig::default() };
    let table = Table::ours().field(Field::SchemaVersion, constant);
    assert!(text(&table.published()).contains(r#""schema_version":2,"#));
}

#[test]
fn a_row_that_is_not_due_is_not_looked_at_any_further() {
    let due = |moment| Table::ours().with("scheduled_at", Some(moment));
    // Nothing else of it matters yet.
    let later = due("2026-11-21 06:00:01+00").with("aggregate_type", None);
    later.with("headers", Some("[")).read(|content| match content {
        Some(Content::Scheduled { id, event_type, due }) => {
            assert_eq!((&*id, event_type.as_deref()), (ID, Some("OrderCreated")));
            assert_eq!(due, NOW + 1_000_000);
        }
        other => panic!("{other:?}"),
    });
    let now = due("2026-11-21 06:00:00+00");
    now.read(|content| assert!(matches!(content, Some(Content::Envelope(_))), "{content:?}"));
    assert_eq!(now.published().scheduled, Some(NOW));
    assert_eq!(Table::ours().published().scheduled, None);
    due("infinity").with("id", None).read(|content| assert!(content.is_none(), "{content:?}"));
}

#[test]
fn a_due_time_that_cannot_be_read_is_an_error_and_not_now() {
    let table = Table::ours().with("scheduled_at", Some("soon"));
    assert_eq!(table.map(), Err(MapError::BadSchedule));
}

#[test]
fn a_row_says_how_often_it_is_tried() {
    let tries = |text| Table::ours().with("max_attempts", text).published().max_attempts;
    assert_eq!(tries(Some("3")), Some(3));
    for nothing in [None, Some("0"), Some("-1"), Some("many"), Some("99999999999")] {
        assert_eq!(tries(nothing), None, "{nothing:?}");
    }
}

/// The row of a misfit: what can be said of it, and why it is one.
fn misfit(table: &Table, expected: MapError, look: impl FnOnce(Misfit<'_>)) {
    table.read(|content| match content {
        Some(Content::Misfit(misfit)) => {
            assert_eq!(misfit.error, expected);
            look(misfit);
        }
        other => panic!("{other:?}"),
    });
}

#[test]
fn a_misfit_says_everything_that_can_be_read() {
    let table = Table::ours()
        .with("headers", Some(r#"{"a": "x", "b": ]"#))
        .with("dedup_key", Some("d"))
        .with("max_attempts", Some("2"));
    misfit(&table, MapError::BadHeaders, |misfit| {
        assert_eq!(misfit.id, ID);
        assert_eq!(misfit.event_type.as_deref(), Some("OrderCreated"));
        assert_eq!(misfit.dedup_key.as_deref(), Some("d"));
        assert_eq!(misfit.topic.as_deref(), Some("outbox.order"));
        assert_eq!(misfit.key.as_deref(), Some("o-1"));
        let headers: Vec<_> = misfit.headers.view().iter().collect();
        assert_eq!(headers, [("event_id", Some(ID)), ("a", Some("x"))]);
        assert_eq!(misfit.value.as_deref(), Some(br#"{"total": 1.10}"#.as_slice()));
        assert_eq!((misfit.occurred, misfit.max_attempts), (Some(NOW + 500_000), Some(2)));
    });
    let bytes = Table::ours().retyped("payload", "bytea", Kind::Bytes);
    let bytes = bytes.with("payload", Some("\\x00ff")).with("aggregate_type", None);
    misfit(&bytes, MapError::NoTopic, |misfit| {
        assert_eq!((misfit.topic, misfit.value.as_deref()), (None, Some([0, 0xFF].as_slice())));
    });
    let odd = bytes.with("payload", Some("\\x0")).with("aggregate_type", Some("order"));
    misfit(&odd, MapError::BadBytes, |misfit| {
        assert_eq!(misfit.value.as_deref(), Some(b"\\x0".as_slice()), "as PostgreSQL prints it");
    });
    Table::ours().with("id", None).read(|content| assert!(content.is_none(), "{content:?}"));
}

#[test]
fn a_topic_that_kafka_would_not_take_is_found_at_once() {
    let named = |topic| Table::ours().with("topic", Some(topic));
    for bad in ["a b", "..", "ü"] {
        misfit(&named(bad), MapError::BadTopic(TopicNames::Kafka), |misfit| {
            assert_eq!(misfit.topic, None, "{bad}")
        });
    }
    let values = |topic: &'static str| -> Vec<_> {
        let columns = named(topic).columns;
        columns.iter().map(|column| column.3.map(str::as_bytes)).collect()
    };
    let mut mapper = Table::ours().mapper();
    for (topic, is_good) in [("a", true), ("a", true), ("a/b", false), ("a", true), ("a/b", false)]
    {
        let values = values(topic);
        let mapped = mapper.map(&values, POSITION);
        assert_eq!(mapped.map(|envelope| envelope.topic).ok(), is_good.then_some(topic));
    }
}

#[test]
fn a_relation_without_a_mapped_column_is_refused() {
    let table = Table::ours();
    let layout = table.layout();
    let status = status::tests::config(Mode::Update).compile(&layout).unwrap();
    let map = EventMap::compile(&table.config, status.pending, &layout).unwrap();
    let relation = |change: &dyn Fn(&mut Vec<Column>)| {
        let columns = layout
            .columns
            .iter()
            .rev()
            .map(|column| Column { name: column.name.clone(), type_oid: column.type_oid });
        let mut columns: Vec<_> = columns.collect();
        change(&mut columns);
        Relation { oid: 1, namespace: "s".to_owned(), name: "t".to_owned(), columns }
    };
    let added = Column { name: "new".to_owned(), type_oid: 25 };
    assert!(map.bind(&relation(&|columns| columns.insert(0, added.clone()))).is_ok());
    let dropped = map.bind(&relation(&|columns| columns.retain(|column| column.name != "topic")));
    assert!(dropped.unwrap_err().to_string().contains("\"topic\" is missing"));
    let retyped = map.bind(&relation(&|columns| columns.last_mut().unwrap().type_oid = 1));
    assert!(retyped.unwrap_err().to_string().contains("another type"));
}

proptest! {
    #[test]
    fn a_payload_goes_through_unchanged(payload: String, aggregate: String, headers: String) {
        let table = Table::ours();
        let mut mapper = table.mapper();
        let values: Vec<_> = table.columns.iter().map(|column| match column.0 {
            "payload" => Some(payload.as_bytes()),
            "aggregate_id" => Some(aggregate.as_bytes()),
            _ => column.3.map(str::as_bytes),
        }).collect();
        let envelope = mapper.map(&values, POSITION).unwrap();
        let value = envelope.value.unwrap();
        let expected = format!(",\"payload\":{payload}}}");
        prop_assert!(value.ends_with(expected.as_bytes()));
        prop_assert_eq!(envelope.key.as_deref(), Some(aggregate.as_str()));

        let odd: Vec<_> = table.columns.iter().map(|column| match column.0 {
            "headers" => Some(headers.as_bytes()),
            _ => column.3.map(str::as_bytes),
        }).collect();
        let _ = mapper.read(&odd, POSITION, NOW);
    }

    #[test]
    fn no_row_panics(values in proptest::collection::vec(
        proptest::option::of(proptest::collection::vec(any::<u8>(), 0..20)), 0..20)
    ) {
        let values: Vec<_> = values.iter().map(|value| value.as_deref()).collect();
        let mut mapper = Table::ours().mapper();
        let _ = mapper.is_pending(&values);
        let _ = mapper.read(&values, POSITION, NOW);
    }
}
