//! What can be wrong between a map and a table, in words for whoever wrote the map.

use super::columns::Field;

/// Something that a column or status map gets wrong about a table.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MapProblem {
    /// A field without which there is no event.
    #[error("outbox.columns.{} must be mapped to a column", .0.name())]
    Required(Field),
    /// A column that the table does not have.
    #[error("outbox.columns.{field}: the table has no column \"{column}\"")]
    NoColumn {
        /// The field.
        field: &'static str,
        /// The column.
        column: String,
    },
    /// A column whose type cannot be that field.
    #[error("outbox.columns.{field}: column \"{column}\" is of type {found}; expected {expected}")]
    WrongType {
        /// The field.
        field: &'static str,
        /// The column.
        column: String,
        /// Its type.
        found: String,
        /// What would do.
        expected: &'static str,
    },
    /// A field that must be a column.
    #[error("outbox.columns.{0} must be a column, not a member of the payload or a constant")]
    ColumnOnly(&'static str),
    /// A default of what must be a column's own.
    #[error("outbox.columns.{0} takes no default: its column alone says what it is")]
    NoDefault(&'static str),
    /// A pointer that is none.
    #[error("outbox.columns.{0}: a JSON pointer starts with \"/\", as in \"/tenant_id\"")]
    BadPointer(&'static str),
    /// A status column that the table does not have.
    #[error("outbox.status.{key}: the table has no column \"{column}\"")]
    NoStatusColumn {
        /// The configuration's key.
        key: &'static str,
        /// The column.
        column: String,
    },
    /// A status column whose type cannot be written so.
    #[error("outbox.status.{key}: column \"{column}\" is of type {found}; expected {expected}")]
    WrongStatusType {
        /// The configuration's key.
        key: &'static str,
        /// The column.
        column: String,
        /// Its type.
        found: String,
        /// What would do.
        expected: &'static str,
    },
    /// A status column that nobody can write.
    #[error(
        "outbox.status.{key}: column \"{column}\" of type {found} is generated; expected one that \
         can be written"
    )]
    GeneratedStatus {
        /// The configuration's key.
        key: &'static str,
        /// The column.
        column: String,
        /// Its type.
        found: String,
    },
    /// A label that the status column cannot hold.
    #[error(
        "outbox.status.labels.{key}: column \"{column}\" is of type {found}, which cannot be \
         \"{label}\"; expected {expected}"
    )]
    BadLabel {
        /// The configuration's key.
        key: &'static str,
        /// The label.
        label: String,
        /// The column.
        column: String,
        /// Its type.
        found: String,
        /// What would do.
        expected: String,
    },
    /// Mode `update` with nothing to update.
    #[error(
        "outbox.status.mode is \"update\", but none of the status columns exists in the table; \
         map one, or choose \"ledger\", \"delete\" or \"none\""
    )]
    NothingToUpdate,
    /// A name in a template or list that is neither a field nor a column.
    #[error("{key}: \"{name}\" is neither a field of the event nor a column of the table")]
    UnknownName {
        /// The configuration's key.
        key: &'static str,
        /// The name.
        name: String,
    },
    /// A column that holds no timestamps.
    #[error("{key}: column \"{column}\" is of type {found}; expected timestamptz or timestamp")]
    WrongTimestampType {
        /// The configuration's key.
        key: &'static str,
        /// The column.
        column: String,
        /// Its type.
        found: String,
    },
    /// Something in `[route]` or `[envelope]` that cannot be used.
    #[error("{key}: {problem}")]
    BadSetting {
        /// The configuration's key.
        key: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// A template that cannot be read.
    #[error("{key}: {problem}")]
    BadTemplate {
        /// The configuration's key.
        key: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
}

/// The stream's layout does not fit the map any more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BindError {
    /// A mapped column is gone, or is not published.
    #[error(
        "the mapped column \"{column}\" is missing in the stream: dropped, renamed, generated, or left out of the publication's column list"
    )]
    Missing {
        /// The column.
        column: String,
    },
    /// A mapped column has another type.
    #[error("the mapped column \"{column}\" has another type in the stream than in the catalog")]
    Retyped {
        /// The column.
        column: String,
    },
}
