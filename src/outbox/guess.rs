//! A row of a table that cannot be looked at: what its columns may be, by the configuration and by
//! their values.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use super::columns::{Field, Kind, Layout, LayoutColumn, Source};
use super::json::is_json;
use super::map::{EventConfig, PayloadEncoding, RecordTimestamp};
use super::status::{Mode, StatusConfig};
use super::timestamp;

/// A row as JSON has it: its columns by name, each value as it is written.
pub type JsonRow = BTreeMap<String, Box<RawValue>>;

/// What stands for an id that the table would give.
const STAND_IN: &str = "00000000-0000-0000-0000-000000000000";

/// A row as the stream may bring it.
#[derive(Debug)]
pub struct Guess {
    /// Its columns.
    pub layout: Layout,
    /// Their values, in that order.
    pub values: Vec<Option<Vec<u8>>>,
    /// What was taken for granted.
    pub assumed: Vec<String>,
}

impl Guess {
    /// Columns that are configured or in the row. What has no value is null, but that it is pending.
    pub fn new(events: &EventConfig, status: &StatusConfig, row: &JsonRow) -> Self {
        let mut guess = Self {
            layout: Layout { columns: Vec::new() },
            values: Vec::new(),
            assumed: vec!["a column that the row does not name is null".to_owned()],
        };
        for field in Field::ALL {
            let config = events.columns.get(field);
            let Some(Source::Column(name)) = &config.source else {
                continue;
            };
            let is_needed = config.chosen || matches!(field, Field::Id | Field::Payload);
            if is_needed || row.contains_key(name) {
                guess.add_field(field, name, events, row);
            }
        }
        if let RecordTimestamp::Named(name) = &events.record_timestamp
            && Field::by_name(name).is_none()
        {
            guess.add(name, Kind::TimestampTz, row);
        }
        guess.add_status(status, row);
        for (name, json) in row {
            guess.add(name, kind_of(json.get()), row);
        }
        guess
    }

    /// A column that the configuration names, and nothing tells what it is.
    pub fn add_unknown(&mut self, name: &str) {
        self.add(name, Kind::Text, &JsonRow::new());
    }

    fn add_field(&mut self, field: Field, name: &str, events: &EventConfig, row: &JsonRow) {
        let json = row.get(name).map_or("null", |json| json.get());
        let kind = match field {
            Field::Payload => kind_of_payload(json, events.payload_encoding),
            Field::Headers if json.starts_with('"') => Kind::Text,
            Field::Headers => Kind::Json,
            Field::OccurredAt | Field::ScheduledAt => Kind::TimestampTz,
            Field::Partition | Field::MaxAttempts => Kind::Integer,
            Field::Id if !row.contains_key(name) => Kind::Scalar,
            _ => kind_of(json),
        };
        if field == Field::Payload {
            let text = match kind {
                Kind::Bytes => "is bytea",
                Kind::Text => "is text",
                _ => "is json; jsonb would be printed in PostgreSQL's own order and spacing",
            };
            self.assumed.push(format!("column \"{name}\" {text}"));
        }
        self.add(name, kind, row);
        if field == Field::Id && !row.contains_key(name) {
            self.assumed.push(format!("column \"{name}\" is {STAND_IN}, which stands for an id"));
            self.fill(name, STAND_IN);
        }
    }

    fn add_status(&mut self, status: &StatusConfig, row: &JsonRow) {
        for (column, kind) in [
            (&status.status, Kind::Text),
            (&status.sent_at, Kind::TimestampTz),
            (&status.sent_flag, Kind::Boolean),
            (&status.attempts, Kind::Integer),
            (&status.next_attempt_at, Kind::TimestampTz),
            (&status.last_error, Kind::Text),
        ] {
            let Some(name) = &column.name else { continue };
            if column.chosen || row.contains_key(name) {
                self.add(name, kind, row);
            }
        }
        let Some(name) = &status.status.name else { return };
        // A table without any of these could not be written to.
        let told = [&status.status, &status.sent_at, &status.sent_flag].map(|it| it.name.as_ref());
        let is_told = told.into_iter().flatten().any(|name| self.layout.column(name).is_some());
        if !is_told && status.mode == Mode::Update {
            self.add(name, Kind::Text, row);
        }
        if self.layout.column(name).is_some() && !row.contains_key(name) {
            self.assumed.push(format!("column \"{name}\" is {:?}", status.label_pending));
            self.fill(name, &status.label_pending);
        }
    }

    /// Adds a column with its value, if it is not there yet.
    fn add(&mut self, name: &str, kind: Kind, row: &JsonRow) {
        if self.layout.column(name).is_some() {
            return;
        }
        let (type_oid, type_name) = match kind {
            Kind::Integer => (20, "bigint"),
            Kind::Json => (114, "json"),
            Kind::Bytes => (17, "bytea"),
            Kind::Boolean => (16, "boolean"),
            Kind::TimestampTz => (1184, "timestamp with time zone"),
            Kind::Scalar => (1700, "numeric"),
            _ => (25, "text"),
        };
        let value = row.get(name).and_then(|json| value(json.get(), kind));
        self.values.push(value.map(String::into_bytes));
        self.layout.columns.push(LayoutColumn::new(name, type_oid, type_name, kind));
    }

    fn fill(&mut self, name: &str, text: &str) {
        let place = self.layout.columns.iter().position(|column| column.name == name);
        if let Some(value) = place.and_then(|place| self.values.get_mut(place)) {
            *value = Some(text.as_bytes().to_vec());
        }
    }
}

fn kind_of(json: &str) -> Kind {
    match json.as_bytes().first() {
        Some(b'{' | b'[') => Kind::Json,
        Some(b't' | b'f') => Kind::Boolean,
        Some(b'-' | b'0'..=b'9') if json.parse::<i64>().is_ok() => Kind::Integer,
        Some(b'-' | b'0'..=b'9') => Kind::Scalar,
        _ => Kind::Text,
    }
}

fn kind_of_payload(json: &str, encoding: PayloadEncoding) -> Kind {
    let Some(text) = string(json) else {
        return Kind::Json;
    };
    let hex = text.strip_prefix("\\x").filter(|hex| hex.len() % 2 == 0);
    match encoding {
        _ if hex.is_some_and(|hex| hex.bytes().all(|byte| byte.is_ascii_hexdigit())) => Kind::Bytes,
        PayloadEncoding::Text => Kind::Text,
        PayloadEncoding::Auto if is_json(text.as_bytes()) => Kind::Text,
        PayloadEncoding::Auto => Kind::Json,
    }
}

/// A value as PostgreSQL may print it.
fn value(json: &str, kind: Kind) -> Option<String> {
    let text = || string(json).unwrap_or_else(|| json.to_owned());
    match (json, kind) {
        ("null", _) => None,
        (_, Kind::Json) => Some(json.to_owned()),
        ("true" | "false", Kind::Boolean) => json.get(..1).map(Into::into),
        (_, Kind::TimestampTz) => {
            let text = text();
            Some(timestamp::in_postgresql_s_form(&text).unwrap_or(text))
        }
        _ => Some(text()),
    }
}

fn string(json: &str) -> Option<String> {
    if json.starts_with('"') { serde_json::from_str(json).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(json: &str) -> Kind {
        kind_of_payload(json, PayloadEncoding::Auto)
    }

    #[test]
    fn a_payload_is_what_its_value_looks_like() {
        assert_eq!(kind(r#"{"a": 1}"#), Kind::Json);
        assert_eq!(kind("7"), Kind::Json);
        assert_eq!(kind(r#""{\"a\": 1}""#), Kind::Text, "json in a text");
        assert_eq!(kind(r#""plain""#), Kind::Json, "a string of json");
        assert_eq!(kind(r#""\\x00ff""#), Kind::Bytes);
        assert_eq!(kind(r#""\\x00f""#), Kind::Json);
        assert_eq!(kind_of_payload(r#""plain""#, PayloadEncoding::Text), Kind::Text);
    }

    #[test]
    fn values_are_as_postgresql_prints_them() {
        for (json, kind, expected) in [
            ("null", Kind::Json, None),
            (r#"{ "a":  1.10 }"#, Kind::Json, Some(r#"{ "a":  1.10 }"#)),
            (r#""a\u00fc""#, Kind::Text, Some("aü")),
            ("true", Kind::Boolean, Some("t")),
            ("7", Kind::Integer, Some("7")),
            ("1.50", Kind::Scalar, Some("1.50")),
            (r#""2026-11-21T06:00:00.5Z""#, Kind::TimestampTz, Some("2026-11-21 06:00:00.5+00")),
            (r#""tomorrow""#, Kind::TimestampTz, Some("tomorrow")),
        ] {
            assert_eq!(value(json, kind).as_deref(), expected, "{json}");
        }
    }
}
