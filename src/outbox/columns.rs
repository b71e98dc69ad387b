//! The column map: which column, member of the payload or constant each field of an event is.
//!
//! Compiled twice. Once against the catalog, when the relay starts: a map that cannot work is
//! refused there, naming column, type and what is expected. Then against every `Relation` message,
//! because the stream may be older than the catalog.

use super::json::split_pointer;
pub use super::problem::{BindError, MapProblem};
use crate::pgoutput::{Column, Relation};

/// A field of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Field {
    /// What identifies the event for ever.
    Id,
    /// The kind of the thing that changed.
    AggregateType,
    /// The thing that changed.
    AggregateId,
    /// What happened.
    EventType,
    /// What is published.
    Payload,
    /// A JSON object: the record's headers.
    Headers,
    /// The record's topic.
    Topic,
    /// The record's key, where it is not the aggregate's id.
    Key,
    /// What chooses the partition, where it is not the key.
    PartitionBy,
    /// The partition itself.
    Partition,
    /// Whose event it is.
    TenantId,
    /// The version of the payload's schema.
    SchemaVersion,
    /// When it happened.
    OccurredAt,
    /// When it is due.
    ScheduledAt,
    /// What consumers may recognise a repetition by, beside the id.
    DedupKey,
    /// How often its delivery is tried.
    MaxAttempts,
}

impl Field {
    /// Every field.
    pub const ALL: [Field; 16] = [
        Field::Id,
        Field::AggregateType,
        Field::AggregateId,
        Field::EventType,
        Field::Payload,
        Field::Headers,
        Field::Topic,
        Field::Key,
        Field::PartitionBy,
        Field::Partition,
        Field::TenantId,
        Field::SchemaVersion,
        Field::OccurredAt,
        Field::ScheduledAt,
        Field::DedupKey,
        Field::MaxAttempts,
    ];

    /// Whether nothing but a column can say it.
    const fn is_column_only(self) -> bool {
        matches!(self, Field::Id | Field::Payload | Field::Headers)
    }

    /// Its name in `[outbox.columns]`, in templates and in `envelope.headers`.
    pub const fn name(self) -> &'static str {
        match self {
            Field::Id => "id",
            Field::AggregateType => "aggregate_type",
            Field::AggregateId => "aggregate_id",
            Field::EventType => "event_type",
            Field::Payload => "payload",
            Field::Headers => "headers",
            Field::Topic => "topic",
            Field::Key => "key",
            Field::PartitionBy => "partition_by",
            Field::Partition => "partition",
            Field::TenantId => "tenant_id",
            Field::SchemaVersion => "schema_version",
            Field::OccurredAt => "occurred_at",
            Field::ScheduledAt => "scheduled_at",
            Field::DedupKey => "dedup_key",
            Field::MaxAttempts => "max_attempts",
        }
    }

    /// The field of that name.
    pub fn by_name(name: &str) -> Option<Field> {
        Field::ALL.into_iter().find(|field| field.name() == name)
    }

    /// The kinds of columns it may be, in words, and whether `kind` is one.
    fn accepts(self, kind: Kind) -> (&'static str, bool) {
        use Kind::{Bytes, Integer, Json, Other, Text, Timestamp, TimestampTz};
        match self {
            Field::Payload => ("jsonb, json, text or bytea", matches!(kind, Json | Text | Bytes)),
            Field::Headers => ("jsonb, json or text", matches!(kind, Json | Text)),
            Field::OccurredAt | Field::ScheduledAt => {
                ("timestamptz or timestamp", matches!(kind, Timestamp | TimestampTz))
            }
            Field::Partition | Field::MaxAttempts => ("an integer", matches!(kind, Integer)),
            Field::Id
            | Field::AggregateType
            | Field::AggregateId
            | Field::EventType
            | Field::Topic
            | Field::Key
            | Field::PartitionBy
            | Field::TenantId
            | Field::SchemaVersion
            | Field::DedupKey => {
                ("a scalar, such as text, uuid or bigint", !matches!(kind, Json | Bytes | Other))
            }
        }
    }
}

/// What a column's type is to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// smallint, integer, bigint
    Integer,
    /// text, varchar, char
    Text,
    /// json, jsonb
    Json,
    /// bytea
    Bytes,
    /// boolean
    Boolean,
    /// timestamp without time zone
    Timestamp,
    /// timestamp with time zone
    TimestampTz,
    /// an enum type
    Enum,
    /// uuid, numeric, date and other single values
    Scalar,
    /// arrays, composite types, ranges
    Other,
}

/// A table's columns as the catalog tells them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// The columns, in no particular order.
    pub columns: Vec<LayoutColumn>,
}

/// A column of a [`Layout`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayoutColumn {
    /// Its name.
    pub name: String,
    /// The OID of its type, as the stream tells it.
    pub type_oid: u32,
    /// Its type as SQL writes it.
    pub type_name: String,
    /// What that is to us.
    pub kind: Kind,
    /// Whether it is a `char(n)`, which PostgreSQL fills up with blanks that mean nothing.
    pub is_padded: bool,
    /// Whether PostgreSQL computes it.
    pub is_generated: bool,
    /// The labels of an enum, in its order.
    pub labels: Vec<String>,
}

impl LayoutColumn {
    /// A column with nothing special.
    pub fn new(name: &str, type_oid: u32, type_name: &str, kind: Kind) -> Self {
        let (name, type_name) = (name.to_owned(), type_name.to_owned());
        let (is_padded, is_generated, labels) = (false, false, Vec::new());
        Self { name, type_oid, type_name, kind, is_padded, is_generated, labels }
    }

    /// How many characters it takes, as far as its type says: `character varying(5)`.
    pub(super) fn most_characters(&self) -> Option<usize> {
        let limit = self.type_name.strip_prefix("character")?.split_once('(')?.1;
        limit.strip_suffix(')')?.parse().ok()
    }
}

impl Layout {
    /// The same as the stream would tell it of a table that has neither name nor OID.
    pub fn relation(&self) -> Relation {
        let column =
            |column: &LayoutColumn| Column { name: column.name.clone(), type_oid: column.type_oid };
        Relation {
            oid: 0,
            namespace: String::new(),
            name: String::new(),
            columns: self.columns.iter().map(column).collect(),
        }
    }

    /// The column of that name.
    pub fn column(&self, name: &str) -> Option<&LayoutColumn> {
        self.columns.iter().find(|column| column.name == name)
    }
}

/// Where a field's value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A column.
    Column(String),
    /// A member of the payload: a JSON pointer.
    Payload(String),
    /// The same for every event.
    Const(String),
}

/// What was configured for a field.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FieldConfig {
    /// Where the value comes from; nothing if the field is not mapped.
    pub source: Option<Source>,
    /// The value where the source has none.
    pub default: Option<String>,
    /// Whether somebody chose it. A column that is only our default may be missing.
    pub chosen: bool,
}

/// The column map as configured: one entry per [`Field`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColumnMap {
    fields: [FieldConfig; Field::ALL.len()],
}

impl ColumnMap {
    /// Takes each field's configuration from `configure`.
    pub fn new(configure: impl FnMut(Field) -> FieldConfig) -> Self {
        Self { fields: Field::ALL.map(configure) }
    }

    /// What was configured for `field`.
    #[expect(clippy::indexing_slicing, reason = "one entry per field")]
    pub fn get(&self, field: Field) -> &FieldConfig {
        &self.fields[field as usize]
    }

    /// What is wrong with it whatever the table is.
    pub(super) fn problems(&self) -> Vec<MapProblem> {
        let mut problems = Vec::new();
        for field in Field::ALL {
            problems.extend(self.without_table(field).err());
            if field.is_column_only() && self.get(field).default.is_some() {
                problems.push(MapProblem::NoDefault(field.name()));
            }
        }
        problems
    }

    /// Where a field comes from that is not a column's value.
    fn without_table(&self, field: Field) -> Result<Option<MappedSource>, MapProblem> {
        match &self.get(field).source {
            None | Some(Source::Column(_)) => Ok(None),
            Some(_) if field.is_column_only() => Err(MapProblem::ColumnOnly(field.name())),
            Some(Source::Payload(pointer)) => {
                let path = split_pointer(pointer).ok_or(MapProblem::BadPointer(field.name()))?;
                Ok(Some(MappedSource::Pointer(path)))
            }
            Some(Source::Const(value)) => Ok(Some(MappedSource::Const(value.clone()))),
        }
    }

    /// Checks the map against a table and settles which columns it needs.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn compile(&self, layout: &Layout) -> Result<Mapping, Vec<MapProblem>> {
        let mut problems = Vec::new();
        let fields = Field::ALL.map(|field| {
            self.compile_field(field, layout).unwrap_or_else(|problem| {
                problems.push(problem);
                Mapped { source: MappedSource::Nothing, default: None }
            })
        });
        if problems.is_empty() { Ok(Mapping { fields }) } else { Err(problems) }
    }

    fn compile_field(&self, field: Field, layout: &Layout) -> Result<Mapped, MapProblem> {
        let config = self.get(field);
        let required = matches!(field, Field::Id | Field::Payload);
        let source = match &config.source {
            Some(Source::Column(name)) => match layout.column(name) {
                Some(column) => {
                    let (expected, accepted) = field.accepts(column.kind);
                    if !accepted {
                        return Err(MapProblem::WrongType {
                            field: field.name(),
                            column: name.clone(),
                            found: column.type_name.clone(),
                            expected,
                        });
                    }
                    MappedSource::Column(column.clone())
                }
                None if config.chosen || required => {
                    return Err(MapProblem::NoColumn { field: field.name(), column: name.clone() });
                }
                None => MappedSource::Nothing,
            },
            None if required => return Err(MapProblem::Required(field)),
            _ => self.without_table(field)?.unwrap_or(MappedSource::Nothing),
        };
        Ok(Mapped { source, default: config.default.clone() })
    }
}

/// The column map, checked against the catalog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    fields: [Mapped; Field::ALL.len()],
}

/// A field that is settled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mapped {
    pub(super) source: MappedSource,
    pub(super) default: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum MappedSource {
    Column(LayoutColumn),
    Pointer(Vec<String>),
    Const(String),
    Nothing,
}

impl Mapping {
    #[expect(clippy::indexing_slicing, reason = "one entry per field")]
    pub(super) fn get(&self, field: Field) -> &Mapped {
        &self.fields[field as usize]
    }

    /// Whether something stands in where the field's column is null.
    pub fn has_default(&self, field: Field) -> bool {
        self.get(field).default.is_some()
    }

    /// The column that a field is, if it is one.
    pub fn column(&self, field: Field) -> Option<&LayoutColumn> {
        match &self.get(field).source {
            MappedSource::Column(column) => Some(column),
            MappedSource::Pointer(_) | MappedSource::Const(_) | MappedSource::Nothing => None,
        }
    }
}

/// Where `column` stands in the rows that follow `relation`.
///
/// # Errors
/// The column is not published any more, or its type is another.
pub(super) fn place_of(column: &LayoutColumn, relation: &Relation) -> Result<usize, BindError> {
    let found = relation.columns.iter().enumerate().find(|(_, found)| found.name == column.name);
    match found {
        None => Err(BindError::Missing { column: column.name.clone() }),
        Some((_, found)) if found.type_oid != column.type_oid => {
            Err(BindError::Retyped { column: column.name.clone() })
        }
        Some((place, _)) => Ok(place),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn layout(columns: &[(&str, &str, Kind)]) -> Layout {
        let column =
            |(place, (name, type_name, kind)): (usize, &(&str, &str, Kind))| LayoutColumn {
                is_padded: type_name.starts_with("character("),
                ..LayoutColumn::new(name, 100 + u32::try_from(place).unwrap(), type_name, *kind)
            };
        Layout { columns: columns.iter().enumerate().map(column).collect() }
    }

    fn by_column(name: &str, chosen: bool) -> FieldConfig {
        FieldConfig { source: Some(Source::Column(name.to_owned())), default: None, chosen }
    }

    fn map(set: &[(Field, FieldConfig)]) -> ColumnMap {
        ColumnMap::new(|field| {
            set.iter()
                .find(|(name, _)| *name == field)
                .map_or_else(|| by_column(field.name(), false), |(_, config)| config.clone())
        })
    }

    fn problems(set: &[(Field, FieldConfig)]) -> Vec<String> {
        let layout = layout(&[
            ("id", "uuid", Kind::Scalar),
            ("payload", "jsonb", Kind::Json),
            ("tags", "text[]", Kind::Other),
            ("due", "integer", Kind::Integer),
        ]);
        let problems = map(set).compile(&layout).err().unwrap_or_default();
        problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_default_column_may_be_missing_a_chosen_one_may_not() {
        assert_eq!(problems(&[]), [""; 0]);
        assert_eq!(
            problems(&[(Field::Key, by_column("routing", true))]),
            ["outbox.columns.key: the table has no column \"routing\""]
        );
        assert_eq!(
            problems(&[(Field::Id, by_column("event_id", false))]),
            ["outbox.columns.id: the table has no column \"event_id\""],
            "without an id there is no event"
        );
    }

    #[test]
    fn a_wrong_map_is_told_with_column_type_and_what_is_expected() {
        let wrong = problems(&[
            (Field::ScheduledAt, by_column("due", true)),
            (Field::Topic, by_column("tags", true)),
            (Field::Payload, by_column("id", true)),
            (
                Field::Headers,
                FieldConfig {
                    source: Some(Source::Const("{}".to_owned())),
                    ..FieldConfig::default()
                },
            ),
            (
                Field::TenantId,
                FieldConfig {
                    source: Some(Source::Payload("tenant".to_owned())),
                    ..FieldConfig::default()
                },
            ),
        ]);
        assert_eq!(
            wrong,
            [
                "outbox.columns.payload: column \"id\" is of type uuid; expected jsonb, json, text or bytea",
                "outbox.columns.headers must be a column, not a member of the payload or a constant",
                "outbox.columns.topic: column \"tags\" is of type text[]; expected a scalar, such as text, uuid or bigint",
                "outbox.columns.tenant_id: a JSON pointer starts with \"/\", as in \"/tenant_id\"",
                "outbox.columns.scheduled_at: column \"due\" is of type integer; expected timestamptz or timestamp",
            ]
        );
    }

    #[test]
    fn what_is_wrong_whatever_the_table_is_needs_no_table() {
        let default = Some("{}".to_owned());
        let odd = |field: Field| match field {
            Field::Id => FieldConfig {
                source: Some(Source::Payload("/id".to_owned())),
                ..FieldConfig::default()
            },
            Field::Payload | Field::Headers => {
                FieldConfig { default: default.clone(), ..by_column(field.name(), true) }
            }
            Field::TenantId => FieldConfig {
                source: Some(Source::Payload("tenant".to_owned())),
                default: default.clone(),
                chosen: true,
            },
            other => FieldConfig { default: default.clone(), ..by_column(other.name(), true) },
        };
        let problems: Vec<_> =
            ColumnMap::new(odd).problems().iter().map(ToString::to_string).collect();
        assert_eq!(
            problems,
            [
                "outbox.columns.id must be a column, not a member of the payload or a constant",
                "outbox.columns.payload takes no default: its column alone says what it is",
                "outbox.columns.headers takes no default: its column alone says what it is",
                "outbox.columns.tenant_id: a JSON pointer starts with \"/\", as in \"/tenant_id\"",
            ]
        );
    }

    #[test]
    fn every_field_has_its_own_place() {
        for (place, field) in Field::ALL.into_iter().enumerate() {
            assert_eq!(field as usize, place);
            assert_eq!(Field::by_name(field.name()), Some(field));
        }
    }
}
