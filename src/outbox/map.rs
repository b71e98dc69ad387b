//! How the rows of a table become envelopes: as configured, and checked against the catalog.

use super::binding::Binding;
use super::columns::{
    BindError, ColumnMap, Field, Kind, Layout, LayoutColumn, MapProblem, Mapping,
};
use super::envelope::Mapper;
use super::format::{Format, FormatConfig, PayloadForm, Writer};
use super::headers;
use super::named::Named;
use super::route::{RouteConfig, Router};
use super::status::Pending;
use crate::pgoutput::Relation;

/// What a text column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PayloadEncoding {
    /// JSON; anything else is an error of that event.
    Auto,
    /// Any text; a JSON string where JSON is needed.
    Text,
}

/// What a record's timestamp is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecordTimestamp {
    /// When it is published.
    Publish,
    /// When its transaction committed.
    Commit,
    /// What that field or column says.
    Named(String),
}

/// How rows become envelopes, as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventConfig {
    /// The column map.
    pub columns: ColumnMap,
    /// What a text payload is.
    pub payload_encoding: PayloadEncoding,
    /// The topic.
    pub route: RouteConfig,
    /// The form of the value.
    pub format: FormatConfig,
    /// The record headers beside the row's own: `source`, or `name=source`.
    pub headers: Vec<String>,
    /// What the record's timestamp is.
    pub record_timestamp: RecordTimestamp,
}

/// How rows of one table become envelopes, checked against the catalog.
#[derive(Debug)]
pub struct EventMap {
    mapping: Mapping,
    router: Router,
    headers: Vec<headers::Chosen>,
    writer: Writer<LayoutColumn>,
    payload: PayloadForm,
    timestamp: Timestamp<LayoutColumn>,
    pending: Pending<LayoutColumn>,
    /// Columns whose blanks at the end mean nothing.
    padded: Vec<LayoutColumn>,
}

/// Where a record's timestamp comes from.
#[derive(Debug)]
pub(super) enum Timestamp<C> {
    Publish,
    Commit,
    Named(Named<C>),
}

impl EventConfig {
    /// What is wrong with it whatever the table is.
    pub fn problems(&self) -> Vec<MapProblem> {
        let problems = self.columns.problems().into_iter();
        problems.chain(self.route.problems()).chain(self.format.problems()).collect()
    }
}

impl EventMap {
    /// Checks the configuration against a table.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn compile(
        config: &EventConfig,
        pending: Pending<LayoutColumn>,
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
        let mut problems = Vec::new();
        let router = config.route.compile(layout).map_err(|found| problems.extend(found));
        let writer = config.format.writer(&mapping, layout).map_err(|found| problems.push(found));
        let timestamp = timestamp(&config.record_timestamp, &mapping, layout)
            .map_err(|found| problems.push(found));
        let mut headers = config.format.own_headers(payload);
        let choice = headers::Choice {
            layout,
            mapping: &mapping,
            content_type: config.format.content_type(payload),
            converter: config.format.shown_header(),
        };
        for entry in &config.headers {
            match choice.compile(entry) {
                Ok(header) => headers.push(header),
                Err(problem) => problems.push(problem),
            }
        }
        let padded = padded(&mapping, &pending, config.format.format, layout);
        match (router, writer, timestamp) {
            (Ok(router), Ok(writer), Ok(timestamp)) if problems.is_empty() => {
                Ok(Self { mapping, router, headers, writer, payload, timestamp, pending, padded })
            }
            _ => Err(problems),
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
            binding: Binding::new(&self.mapping, &self.padded, relation)?,
            router: self.router.bind(relation)?,
            chosen: self
                .headers
                .iter()
                .map(|header| header.bind(relation))
                .collect::<Result<_, _>>()?,
            pending: self.pending.bind(relation)?,
            writer: self.writer.bind(relation)?,
            payload: self.payload,
            timestamp: match &self.timestamp {
                Timestamp::Publish => Timestamp::Publish,
                Timestamp::Commit => Timestamp::Commit,
                Timestamp::Named(named) => Timestamp::Named(named.bind(relation)?),
            },
            scratch: super::envelope::Scratch::default(),
        })
    }
}

/// The columns of type `char(n)` that are read without the blanks at their end. A payload is never
/// changed; and Debezium publishes the blanks, so that for its consumers only what the relay itself
/// compares is read without them.
fn padded(
    mapping: &Mapping,
    pending: &Pending<LayoutColumn>,
    format: Format,
    layout: &Layout,
) -> Vec<LayoutColumn> {
    let is = |column: Option<&LayoutColumn>, name: &str| {
        column.is_some_and(|column| column.name == name)
    };
    let is_read_so = |column: &&LayoutColumn| {
        let name = &column.name;
        let is_compared = is(mapping.column(Field::Id), name)
            || matches!(pending, Pending::Label(status, _) if status.name == *name);
        column.is_padded
            && (is_compared
                || format != Format::Debezium && !is(mapping.column(Field::Payload), name))
    };
    layout.columns.iter().filter(is_read_so).cloned().collect()
}

fn timestamp(
    config: &RecordTimestamp,
    mapping: &Mapping,
    layout: &Layout,
) -> Result<Timestamp<LayoutColumn>, MapProblem> {
    let name = match config {
        RecordTimestamp::Publish => return Ok(Timestamp::Publish),
        RecordTimestamp::Commit => return Ok(Timestamp::Commit),
        RecordTimestamp::Named(name) => name,
    };
    let key = "envelope.record_timestamp";
    let unknown = || MapProblem::UnknownName { key, name: name.clone() };
    let named = Named::find(name, layout).ok_or_else(unknown)?;
    match named.column(mapping) {
        Some(column) if !matches!(column.kind, Kind::Timestamp | Kind::TimestampTz) => {
            let (found, column) = (column.type_name.clone(), column.name.clone());
            Err(MapProblem::WrongTimestampType { key, column, found })
        }
        _ => Ok(Timestamp::Named(named)),
    }
}
