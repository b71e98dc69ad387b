//! Our own format: JSON with the event's fields. Every member is always there, null where it is
//! unknown. What a field says is quoted and escaped, whatever it is: only the payload is taken for
//! JSON.

use std::borrow::Cow;
use std::fmt;

use super::super::binding::Row;
use super::super::columns::Field;
use super::super::json::{write_display, write_string};
use super::super::{MapError, timestamp};
use super::payload::PayloadForm;

pub(super) fn write(
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
        Some(number) if is_whole_number(&number) => out.extend_from_slice(number.as_bytes()),
        other => string(other, out),
    }
    out.extend_from_slice(b",\"occurred_at\":");
    match row.text(Field::OccurredAt)? {
        Some(moment) if timestamp::micros(&moment).is_some() => {
            write_display(&Rfc3339(&moment), out);
        }
        other => string(other, out),
    }
    out.extend_from_slice(b",\"tenant_id\":");
    string(row.text(Field::TenantId)?, out);
    out.extend_from_slice(b",\"aggregate_id\":");
    string(row.text(Field::AggregateId)?, out);
    out.extend_from_slice(b",\"aggregate_type\":");
    string(row.text(Field::AggregateType)?, out);
    payload.write_member("payload", row.bytes(Field::Payload), out)?;
    out.push(b'}');
    Ok(())
}

/// Whether `text` is a number as JSON writes it: `007` and `+5` are texts.
fn is_whole_number(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    !digits.starts_with(['0', '+']) && text.parse::<i64>().is_ok() || text == "0"
}

/// A moment in the form of RFC 3339.
struct Rfc3339<'a>(&'a str);

impl fmt::Display for Rfc3339<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut written = Ok(());
        timestamp::rfc3339(self.0, |part| written = written.and_then(|()| f.write_str(part)));
        written
    }
}
