//! The forms that a record's value can have.

mod cloudevents;
mod debezium;
mod envelope;
mod java;
mod payload;
mod shown;

pub use debezium::{Converter, DebeziumConfig};

pub(super) use cloudevents::{subject, time};
pub(super) use payload::{PayloadForm, decode_hex};
pub(super) use shown::Shown;

use super::MapError;
use super::binding::Row;
use super::columns::{BindError, Field, Layout, LayoutColumn, MapProblem, Mapping};
use super::headers::Chosen;
use crate::pgoutput::Relation;

/// The form of a record's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// JSON with the event's fields, the payload embedded as it is.
    Envelope,
    /// The payload alone.
    Payload,
    /// The payload, with a CloudEvent's attributes as headers.
    CloudEventsBinary,
    /// A CloudEvent in JSON, the payload embedded as it is.
    CloudEventsStructured,
    /// As Debezium's outbox event router.
    Debezium,
}

impl Format {
    /// Every format.
    pub const ALL: [Format; 5] = [
        Format::Envelope,
        Format::Payload,
        Format::CloudEventsBinary,
        Format::CloudEventsStructured,
        Format::Debezium,
    ];

    /// The names of all in the configuration.
    pub const NAMES: [&str; 5] = {
        let [a, b, c, d, e] = Self::ALL;
        [a.name(), b.name(), c.name(), d.name(), e.name()]
    };

    /// Its name in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Format::Envelope => "envelope",
            Format::Payload => "payload",
            Format::CloudEventsBinary => "cloudevents-binary",
            Format::CloudEventsStructured => "cloudevents-structured",
            Format::Debezium => "debezium",
        }
    }

    /// The format of that name.
    pub fn by_name(name: &str) -> Option<Format> {
        Format::ALL.into_iter().find(|format| format.name() == name)
    }

    /// The headers that are chosen where nobody chooses.
    pub const fn usual_headers(self) -> &'static [&'static str] {
        match self {
            Format::Envelope => &["event_id"],
            // Its value does not tell what happened.
            Format::Payload => &["event_id", "event_type"],
            // A CloudEvent's attributes say it all, and are no matter of choice.
            Format::CloudEventsBinary | Format::CloudEventsStructured => &[],
            Format::Debezium => &["id"],
        }
    }
}

/// What a format needs to know besides the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FormatConfig {
    /// The form of the value.
    pub format: Format,
    /// A CloudEvent's `source`.
    pub source: String,
    /// How Debezium was configured.
    pub debezium: DebeziumConfig,
}

/// Writes the value of one format. `C` is a column in the catalog, or its place in the rows of a
/// layout.
#[derive(Debug)]
pub(super) enum Writer<C> {
    Envelope,
    Payload,
    CloudEventsBinary,
    CloudEventsStructured { source: String },
    Debezium(debezium::Writer<C>),
}

/// Where a record's value lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Body {
    /// Nowhere: a tombstone.
    #[default]
    None,
    /// It was written.
    Written,
    /// It is the payload, in its row.
    Payload,
}

impl FormatConfig {
    /// What is wrong with it whatever the table is.
    pub fn problems(&self) -> Vec<MapProblem> {
        let is_source = cloudevents::is_source(&self.source);
        let problem = "expected a URI, or a reference such as \"/shop/orders\", without spaces";
        let problem =
            MapProblem::BadSetting { key: "envelope.source", problem: problem.to_owned() };
        if is_source { Vec::new() } else { vec![problem] }
    }

    /// What writes the value.
    pub(super) fn writer(
        &self,
        mapping: &Mapping,
        layout: &Layout,
    ) -> Result<Writer<LayoutColumn>, MapProblem> {
        Ok(match self.format {
            Format::Envelope => Writer::Envelope,
            Format::Payload => Writer::Payload,
            Format::CloudEventsBinary => Writer::CloudEventsBinary,
            Format::CloudEventsStructured => {
                Writer::CloudEventsStructured { source: self.source.clone() }
            }
            Format::Debezium => Writer::Debezium(self.debezium.writer(mapping, layout)?),
        })
    }

    /// The headers that belong to the format, whatever else is chosen.
    pub(super) fn own_headers(&self, payload: PayloadForm) -> Vec<Chosen> {
        match self.format {
            Format::CloudEventsBinary => {
                cloudevents::binary_headers(&self.source, payload.media_type())
            }
            Format::CloudEventsStructured => cloudevents::structured_headers(),
            Format::Envelope | Format::Payload | Format::Debezium => Vec::new(),
        }
    }

    /// What the header `content_type` says.
    pub(super) fn content_type(&self, payload: PayloadForm) -> &'static str {
        match self.format {
            Format::Envelope => "application/json",
            Format::CloudEventsStructured => cloudevents::STRUCTURED,
            Format::Payload | Format::CloudEventsBinary | Format::Debezium => payload.media_type(),
        }
    }

    /// How Debezium shows what `source` holds in a header; nothing in the other formats, which
    /// show it as PostgreSQL does.
    pub(super) fn shown_header(&self) -> Option<Converter> {
        (self.format == Format::Debezium).then_some(self.debezium.headers)
    }
}

impl Writer<LayoutColumn> {
    pub(super) fn bind(&self, relation: &Relation) -> Result<Writer<usize>, BindError> {
        Ok(match self {
            Writer::Envelope => Writer::Envelope,
            Writer::Payload => Writer::Payload,
            Writer::CloudEventsBinary => Writer::CloudEventsBinary,
            Writer::CloudEventsStructured { source } => {
                Writer::CloudEventsStructured { source: source.clone() }
            }
            Writer::Debezium(writer) => Writer::Debezium(writer.bind(relation)?),
        })
    }
}

impl Writer<usize> {
    /// Puts the value into `out`, unless it lies in the row as it is published.
    pub(super) fn write(
        &self,
        row: &Row<'_, '_>,
        id: &str,
        topic: &str,
        payload: PayloadForm,
        out: &mut Vec<u8>,
    ) -> Result<Body, MapError> {
        match self {
            Writer::Envelope => {
                envelope::write(row, id, topic, payload, out)?;
                Ok(Body::Written)
            }
            Writer::Payload => payload.write_bare(row.bytes(Field::Payload), out),
            Writer::CloudEventsBinary => {
                cloudevents::check(row, id)?;
                payload.write_bare(row.bytes(Field::Payload), out)
            }
            Writer::CloudEventsStructured { source } => {
                cloudevents::check(row, id)?;
                cloudevents::write_structured(row, id, source, payload, out)?;
                Ok(Body::Written)
            }
            Writer::Debezium(writer) => writer.write(row, payload, out),
        }
    }

    /// Puts the record's key into `out`, where it is another than the text of its column. Whether
    /// it did.
    pub(super) fn write_key(&self, row: &Row<'_, '_>, out: &mut String) -> Result<bool, MapError> {
        match self {
            Writer::Debezium(writer) => writer.write_key(row, out),
            _ => Ok(false),
        }
    }
}
