//! CloudEvents 1.0: the Kafka protocol binding in both modes, and the JSON format.

use std::borrow::Cow;
use std::fmt;

use super::super::binding::Row;
use super::super::columns::Field;
use super::super::headers::{Chosen, Source};
use super::super::json::{write_display, write_string};
use super::super::named::Named;
use super::super::{MapError, timestamp};
use super::payload::PayloadForm;

/// The media type of an event in structured mode.
pub(super) const STRUCTURED: &str = "application/cloudevents+json; charset=UTF-8";
/// The version of the specification.
const VERSION: &str = "1.0";

/// Whether `text` can be a `source`: a URI or a reference. What it means is the user's.
pub(super) fn is_source(text: &str) -> bool {
    let is_uri_byte = |byte: u8| byte.is_ascii_graphic() && !b"<>\"{}|\\^`".contains(&byte);
    !text.is_empty() && text.bytes().all(is_uri_byte)
}

pub(super) fn binary_headers(source: &str, media_type: &'static str) -> Vec<Chosen> {
    let text = |text: &str| Source::Text(text.to_owned());
    vec![
        Chosen::new("ce_specversion", text(VERSION)),
        Chosen::new("ce_id", Source::Named(Named::Field(Field::Id))),
        Chosen::new("ce_source", text(source)),
        Chosen::new("ce_type", Source::Named(Named::Field(Field::EventType))),
        Chosen::new("ce_time", Source::Time),
        Chosen::new("ce_subject", Source::Subject),
        Chosen::new("content-type", text(media_type)),
    ]
}

pub(super) fn structured_headers() -> Vec<Chosen> {
    vec![Chosen::new("content-type", Source::Text(STRUCTURED.to_owned()))]
}

/// What it happened to: `<aggregate type>/<aggregate id>`, as far as there are both.
pub(in crate::outbox) struct Subject<'v> {
    first: Cow<'v, str>,
    second: Option<Cow<'v, str>>,
}

impl fmt::Display for Subject<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.first)?;
        self.second.iter().try_for_each(|second| write!(f, "/{second}"))
    }
}

pub(in crate::outbox) fn subject<'b: 'v, 'v>(
    row: &Row<'b, 'v>,
) -> Result<Option<Subject<'v>>, MapError> {
    let known = |field| Ok(row.text(field)?.filter(|text| !text.is_empty()));
    let (kind, id) = (known(Field::AggregateType)?, known(Field::AggregateId)?);
    Ok(match (kind, id) {
        (Some(first), second) => Some(Subject { first, second }),
        (None, Some(first)) => Some(Subject { first, second: None }),
        (None, None) => None,
    })
}

/// When it happened, if RFC 3339 can say it.
pub(in crate::outbox) fn time<'b: 'v, 'v>(
    row: &Row<'b, 'v>,
) -> Result<Option<Cow<'v, str>>, MapError> {
    let moment = row.text(Field::OccurredAt)?;
    Ok(moment.filter(|moment| timestamp::micros(moment).is_some()))
}

/// The attributes are ones: those that must be there are, and none holds what none may.
pub(super) fn check(row: &Row<'_, '_>, id: &str) -> Result<(), MapError> {
    let event_type = row.text(Field::EventType)?.ok_or(MapError::NoType)?;
    if event_type.is_empty() {
        return Err(MapError::NoType);
    }
    let subject = subject(row)?;
    let parts = subject.iter().flat_map(|subject| [Some(&subject.first), subject.second.as_ref()]);
    let mut texts = [id, &event_type].into_iter().chain(parts.flatten().map(|part| &**part));
    let is_bad = |text: &str| {
        !text.is_ascii() && text.chars().any(is_forbidden)
            || text.bytes().any(|byte| byte.is_ascii_control())
    };
    match id.is_empty() || texts.any(is_bad) {
        true => Err(MapError::BadAttribute),
        false => Ok(()),
    }
}

/// Control characters, and code points that are no characters.
fn is_forbidden(letter: char) -> bool {
    let point = u32::from(letter);
    letter.is_control() || point & 0xFFFE == 0xFFFE || (0xFDD0..=0xFDEF).contains(&point)
}

pub(super) fn write_structured(
    row: &Row<'_, '_>,
    id: &str,
    source: &str,
    payload: PayloadForm,
    out: &mut Vec<u8>,
) -> Result<(), MapError> {
    out.extend_from_slice(b"{\"specversion\":\"1.0\",\"id\":");
    write_string(id, out);
    out.extend_from_slice(b",\"source\":");
    write_string(source, out);
    out.extend_from_slice(b",\"type\":");
    write_string(&row.text(Field::EventType)?.ok_or(MapError::NoType)?, out);
    if let Some(subject) = subject(row)? {
        out.extend_from_slice(b",\"subject\":");
        write_display(&subject, out);
    }
    if let Some(moment) = time(row)? {
        out.extend_from_slice(b",\"time\":\"");
        timestamp::write_rfc3339(&moment, out);
        out.push(b'"');
    }
    if let Some(payload_bytes) = row.bytes(Field::Payload) {
        out.extend_from_slice(b",\"datacontenttype\":\"");
        out.extend_from_slice(payload.media_type().as_bytes());
        out.push(b'"');
        payload.write_member("data", Some(payload_bytes), out)?;
    }
    out.push(b'}');
    Ok(())
}
