//! A row becomes an envelope: what is published, under which topic and key.
//!
//! The payload's bytes go through as PostgreSQL printed them; nothing re-serialises them.

use std::borrow::Cow;

use data_encoding::{BASE64, HEXLOWER};

use super::binding::{Binding, Row};
use super::columns::{BindError, ColumnMap, Field, Kind, Layout, MapProblem, Mapping};
use super::headers::{self, Headers};
use super::json::{is_json, write_string};
use super::route::{BoundTemplate, Template};
use super::status::Pending;
use super::{MapError, timestamp};
use crate::lsn::Position;
use crate::names::is_topic_name;
use crate::pgoutput::Relation;

/// The form of a record's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// JSON with the event's fields, the payload embedded as it is.
    Envelope,
    /// The payload alone.
    Payload,
}

/// What a text column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PayloadEncoding {
    /// JSON; anything else is an error of that event.
    Auto,
    /// Any text; a JSON string where JSON is needed.
    Text,
}

/// How rows become envelopes, as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventConfig {
    /// The column map.
    pub columns: ColumnMap,
    /// What a text payload is.
    pub payload_encoding: PayloadEncoding,
    /// `route.topic`: the topic, if all its names have values.
    pub topic: String,
    /// `route.default`: the topic otherwise.
    pub default_topic: String,
    /// The form of the value.
    pub format: Format,
    /// The record headers beside the row's own.
    pub headers: Vec<String>,
}

/// How rows of one table become envelopes, checked against the catalog.
#[derive(Debug)]
pub struct EventMap {
    mapping: Mapping,
    topic: Template,
    default_topic: Template,
    headers: Vec<headers::Chosen>,
    format: Format,
    payload: PayloadForm,
    pending: Pending<super::columns::LayoutColumn>,
}

/// What the payload's bytes are, and so how they are published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PayloadForm {
    /// JSON for sure: PostgreSQL checked it.
    Json,
    /// JSON as the writer promises.
    JsonText,
    /// Any text.
    Text,
    /// Bytes, which PostgreSQL prints in hexadecimal.
    Bytes,
}

impl EventMap {
    /// Checks the configuration against a table.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn compile(
        config: &EventConfig,
        pending: Pending<super::columns::LayoutColumn>,
        layout: &Layout,
    ) -> Result<Self, Vec<MapProblem>> {
        let mapping = config.columns.compile(layout)?;
        let kind = mapping.column(Field::Payload).map(|column| column.kind);
        let payload = match (kind, config.payload_encoding) {
            (Some(Kind::Bytes), _) => PayloadForm::Bytes,
            (Some(Kind::Text), PayloadEncoding::Text) => PayloadForm::Text,
            (Some(Kind::Text), PayloadEncoding::Auto) => PayloadForm::JsonText,
            _ => PayloadForm::Json,
        };
        let content_type = match (config.format, payload) {
            (Format::Payload, PayloadForm::Bytes) => "application/octet-stream",
            (Format::Payload, PayloadForm::Text) => "text/plain; charset=utf-8",
            _ => "application/json",
        };
        let mut problems = Vec::new();
        let mut keep = |result: Result<_, MapProblem>| match result {
            Ok(template) => Some(template),
            Err(problem) => {
                problems.push(problem);
                None
            }
        };
        let topic = keep(Template::compile("route.topic", &config.topic, layout));
        let default_topic = keep(Template::compile("route.default", &config.default_topic, layout));
        let headers: Result<Vec<_>, _> = config
            .headers
            .iter()
            .map(|name| headers::Chosen::compile(name, content_type, layout))
            .collect();
        match (topic, default_topic, headers) {
            (Some(topic), Some(default_topic), Ok(headers)) => Ok(Self {
                mapping,
                topic,
                default_topic,
                headers,
                format: config.format,
                payload,
                pending,
            }),
            (_, _, headers) => {
                problems.extend(headers.err());
                Err(problems)
            }
        }
    }

    /// The compiled column map.
    pub fn mapping(&self) -> &Mapping {
        &self.mapping
    }

    /// Prepares for the rows that follow `relation`.
    ///
    /// # Errors
    /// A column that is needed is missing, or has another type than in the catalog.
    pub fn bind(&self, relation: &Relation) -> Result<Mapper, BindError> {
        Ok(Mapper {
            binding: Binding::new(&self.mapping, relation)?,
            topic: self.topic.bind(relation)?,
            default_topic: self.default_topic.bind(relation)?,
            chosen: self
                .headers
                .iter()
                .map(|header| header.bind(relation))
                .collect::<Result<_, _>>()?,
            pending: self.pending.bind(relation)?,
            format: self.format,
            payload: self.payload,
            scratch: Scratch::default(),
        })
    }
}

/// Turns the rows of one layout into envelopes. Its memory is reused from row to row.
#[derive(Debug)]
pub struct Mapper {
    pub(super) binding: Binding,
    topic: BoundTemplate,
    default_topic: BoundTemplate,
    pub(super) chosen: Vec<headers::Bound>,
    pending: Pending<usize>,
    format: Format,
    pub(super) payload: PayloadForm,
    scratch: Scratch,
}

#[derive(Debug, Default)]
struct Scratch {
    topic: String,
    /// The last one that Kafka would take, so that one topic is not checked for every event.
    good_topic: String,
    headers: headers::HeaderList,
    value: Vec<u8>,
}

/// Scratch space above this is given back, so that one large row does not stay in memory.
const SCRATCH_KEPT: usize = 1 << 20;

/// What is published for one event. It borrows from the row and from its [`Mapper`].
#[derive(Debug)]
pub struct Envelope<'a> {
    /// The event's id.
    pub id: &'a str,
    /// What happened, for the log.
    pub event_type: Option<Cow<'a, str>>,
    /// What else identifies it, for the log.
    pub dedup_key: Option<Cow<'a, str>>,
    /// The topic, a name that Kafka takes.
    pub topic: &'a str,
    /// The record's key; what orders.
    pub key: Option<Cow<'a, str>>,
    /// What chooses the partition, where it is not the key.
    pub partition_by: Option<Cow<'a, str>>,
    /// The partition, where the row names it.
    pub partition: Option<i32>,
    /// The record's headers.
    pub headers: Headers<'a>,
    /// The record's value; none is a tombstone.
    pub value: Option<&'a [u8]>,
    /// When it happened, in microseconds since 1970, if the row says so.
    pub occurred: Option<i64>,
    /// When it was to be published, in microseconds since 1970, if the row says so.
    pub scheduled: Option<i64>,
    /// How often its delivery is tried, if the row says so.
    pub max_attempts: Option<i32>,
}

impl Envelope<'_> {
    /// About what it takes in memory and on the wire.
    pub fn bytes(&self) -> usize {
        let key = self.key.as_ref().map_or(0, |key| key.len());
        self.headers.bytes() + key + self.value.map_or(0, <[u8]>::len)
    }
}

impl Mapper {
    /// Whether the row was inserted as one to be published.
    pub fn is_pending(&self, values: &[Option<&[u8]>]) -> bool {
        self.pending.holds(values)
    }

    /// The envelope of a row.
    ///
    /// # Errors
    /// A row that cannot become an event, whatever is tried.
    pub fn map<'a>(
        &'a mut self,
        values: &'a [Option<&'a [u8]>],
        position: Position,
    ) -> Result<Envelope<'a>, MapError> {
        let scheduled = Row { binding: &self.binding, values }.scheduled()?;
        let id = self.fill(values, position)?;
        self.view(values, id, scheduled)
    }

    /// Puts together what does not lie in the row as it is published. Gives the id.
    pub(super) fn fill<'v>(
        &mut self,
        values: &'v [Option<&'v [u8]>],
        position: Position,
    ) -> Result<&'v str, MapError> {
        let Self { binding, chosen, format, payload, scratch, .. } = self;
        let row = Row { binding, values };
        let id = binding.value(Field::Id, values).ok_or(MapError::NoId)?;
        let id = std::str::from_utf8(id).map_err(|_| MapError::NotUtf8)?;
        route(&self.topic, &self.default_topic, &row, &mut scratch.topic)?;
        if scratch.topic != scratch.good_topic {
            if !is_topic_name(&scratch.topic) {
                return Err(MapError::BadTopic);
            }
            scratch.good_topic.clone_from(&scratch.topic);
        }
        scratch.headers.fill(chosen, &row, position)?;
        scratch.value.clear();
        scratch.value.shrink_to(SCRATCH_KEPT);
        match (*format, *payload) {
            (Format::Envelope, payload) => {
                write_envelope(&row, id, &scratch.topic, payload, &mut scratch.value)?;
            }
            (Format::Payload, PayloadForm::Bytes) => {
                let hex = row.bytes(Field::Payload);
                hex.map_or(Ok(()), |hex| decode_hex(hex, &mut scratch.value))?;
            }
            (Format::Payload, _) => {}
        }
        Ok(id)
    }

    /// The envelope of the row that was put together last.
    #[inline]
    pub(super) fn view<'a>(
        &'a self,
        values: &'a [Option<&'a [u8]>],
        id: &'a str,
        scheduled: Option<i64>,
    ) -> Result<Envelope<'a>, MapError> {
        let Self { binding, scratch, .. } = self;
        let row = Row { binding, values };
        let payload = row.bytes(Field::Payload);
        let partition = row.text(Field::Partition)?.map(|text| text.parse()).transpose();
        Ok(Envelope {
            id,
            event_type: row.text(Field::EventType)?,
            dedup_key: row.text(Field::DedupKey)?,
            topic: &scratch.topic,
            key: row.key()?,
            partition_by: row.text(Field::PartitionBy)?,
            partition: partition.map_err(|_| MapError::BadPartition)?,
            headers: scratch.headers.view(),
            value: match (self.format, self.payload) {
                (Format::Envelope, _) => Some(&scratch.value),
                (Format::Payload, PayloadForm::Bytes) => payload.map(|_| scratch.value.as_slice()),
                (Format::Payload, _) => payload,
            },
            occurred: row.text(Field::OccurredAt)?.and_then(|text| timestamp::micros(&text)),
            scheduled,
            max_attempts: row.max_attempts(),
        })
    }

    /// The topic of a row, if it has one that Kafka would take.
    pub(super) fn topic_of(&self, row: &Row<'_, '_>) -> Option<String> {
        let mut topic = String::new();
        route(&self.topic, &self.default_topic, row, &mut topic).ok()?;
        is_topic_name(&topic).then_some(topic)
    }
}

/// Puts the topic into `out`, by the first template that has all its values.
fn route(
    topic: &BoundTemplate,
    default_topic: &BoundTemplate,
    row: &Row<'_, '_>,
    out: &mut String,
) -> Result<(), MapError> {
    match topic.render(row, out)? || default_topic.render(row, out)? {
        true => Ok(()),
        false => Err(MapError::NoTopic),
    }
}

/// Every member is always there, null where it is unknown.
fn write_envelope(
    row: &Row<'_, '_>,
    id: &str,
    topic: &str,
    payload: PayloadForm,
    out: &mut Vec<u8>,
) -> Result<(), MapError> {
    let string = |value: Option<Cow<'_, str>>, out: &mut Vec<u8>| match value {
        Some(value) => write_string(&value, out),
        None => out.extend_from_slice(b"null"),
    };
    out.extend_from_slice(b"{\"event_id\":");
    write_string(id, out);
    out.extend_from_slice(b",\"event_type\":");
    string(row.text(Field::EventType)?, out);
    out.extend_from_slice(b",\"topic\":");
    write_string(topic, out);
    out.extend_from_slice(b",\"schema_version\":");
    match row.text(Field::SchemaVersion)? {
        Some(number) if number.parse::<i64>().is_ok() => out.extend_from_slice(number.as_bytes()),
        other => string(other, out),
    }
    out.extend_from_slice(b",\"occurred_at\":");
    match row.text(Field::OccurredAt)? {
        Some(moment) => {
            out.push(b'"');
            timestamp::write_rfc3339(&moment, out);
            out.push(b'"');
        }
        None => out.extend_from_slice(b"null"),
    }
    out.extend_from_slice(b",\"tenant_id\":");
    string(row.text(Field::TenantId)?, out);
    out.extend_from_slice(b",\"aggregate_id\":");
    string(row.text(Field::AggregateId)?, out);
    out.extend_from_slice(b",\"aggregate_type\":");
    string(row.text(Field::AggregateType)?, out);
    write_payload(row.bytes(Field::Payload), payload, out)?;
    out.push(b'}');
    Ok(())
}

fn write_payload(
    bytes: Option<&[u8]>,
    form: PayloadForm,
    out: &mut Vec<u8>,
) -> Result<(), MapError> {
    let name: &[u8] = match form {
        PayloadForm::Bytes => b",\"payload_base64\":",
        PayloadForm::Json | PayloadForm::JsonText | PayloadForm::Text => b",\"payload\":",
    };
    out.extend_from_slice(name);
    match (bytes, form) {
        (None, _) => out.extend_from_slice(b"null"),
        (Some(json), PayloadForm::Json) => out.extend_from_slice(json),
        (Some(text), PayloadForm::JsonText) if !is_json(text) => return Err(MapError::NotJson),
        (Some(json), PayloadForm::JsonText) => out.extend_from_slice(json),
        (Some(text), PayloadForm::Text) => {
            write_string(std::str::from_utf8(text).map_err(|_| MapError::NotUtf8)?, out);
        }
        (Some(hex), PayloadForm::Bytes) => {
            let mut bytes = Vec::new();
            decode_hex(hex, &mut bytes)?;
            out.push(b'"');
            out.extend_from_slice(BASE64.encode(&bytes).as_bytes());
            out.push(b'"');
        }
    }
    Ok(())
}

/// Appends the bytes that PostgreSQL prints as `\x00ff`.
pub(super) fn decode_hex(text: &[u8], out: &mut Vec<u8>) -> Result<(), MapError> {
    let hex = text.strip_prefix(b"\\x").ok_or(MapError::BadBytes)?;
    let len = HEXLOWER.decode_len(hex.len()).map_err(|_| MapError::BadBytes)?;
    let start = out.len();
    out.resize(start + len, 0);
    let into = out.get_mut(start..).unwrap_or_default();
    HEXLOWER.decode_mut(hex, into).map(|_| ()).map_err(|_| MapError::BadBytes)
}
