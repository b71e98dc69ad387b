//! Our own format: JSON with the event's fields. Every member is always there, null where it is
//! unknown.

use std::borrow::Cow;

use super::super::binding::Row;
use super::super::columns::Field;
use super::super::json::write_string;
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
    payload.write_member("payload", row.bytes(Field::Payload), out)?;
    out.push(b'}');
    Ok(())
}
