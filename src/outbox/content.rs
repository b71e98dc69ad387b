//! What a row holds: mostly an envelope; else what can be said of it.
//!
//! Nothing here is hot. What is kept of a row that cannot become an event is for whoever looks at
//! it: as much as can be read, and the payload as it was written.

use std::borrow::Cow;

use super::binding::Row;
use super::columns::Field;
use super::envelope::{Envelope, Mapper};
use super::format::{PayloadForm, decode_hex};
use super::headers::HeaderList;
use super::{MapError, timestamp};
use crate::lsn::Position;

/// What a row holds.
#[derive(Debug)]
pub enum Content<'a> {
    /// What is to be published.
    Envelope(Envelope<'a>),
    /// A row that can never become an event.
    Misfit(Misfit<'a>),
    /// A row that is not due. What is published is what it says when it is.
    Scheduled {
        /// The event's id.
        id: Cow<'a, str>,
        /// What happened.
        event_type: Option<Cow<'a, str>>,
        /// When it is due, in microseconds since 1970; `i64::MAX` is never.
        due: i64,
    },
    /// A row that is larger than allowed: what its small values say of it. The payload is not among
    /// them.
    Oversize(Misfit<'a>),
}

/// A row that can never become an event: what can be said of it all the same.
#[derive(Debug)]
pub struct Misfit<'a> {
    /// The event's id.
    pub id: Cow<'a, str>,
    /// What happened.
    pub event_type: Option<Cow<'a, str>>,
    /// What else identifies it.
    pub dedup_key: Option<Cow<'a, str>>,
    /// The topic, if the row has one that Kafka takes.
    pub topic: Option<String>,
    /// The record's key; what orders.
    pub key: Option<Cow<'a, str>>,
    /// The headers that can be read.
    pub headers: HeaderList,
    /// The payload as it was written.
    pub value: Option<Cow<'a, [u8]>>,
    /// When it happened, in microseconds since 1970.
    pub occurred: Option<i64>,
    /// How often its delivery is tried.
    pub max_attempts: Option<i32>,
    /// Why it cannot.
    pub error: MapError,
}

impl Mapper {
    /// What the row holds; nothing if it has no id. `now` is in microseconds since 1970.
    pub fn read<'a>(
        &'a mut self,
        values: &'a [Option<&'a [u8]>],
        position: Position,
        now: i64,
    ) -> Option<Content<'a>> {
        let scheduled = Row { binding: &self.binding, values }.scheduled();
        if let Ok(Some(due)) = scheduled
            && due > now
        {
            return self.scheduled(values, due);
        }
        let filled = self.fill(values, position);
        let envelope = scheduled.and_then(|scheduled| self.view(values, filled?, scheduled));
        match envelope {
            Ok(envelope) => Some(Content::Envelope(envelope)),
            Err(error) => self.misfit(values, position, error).map(Content::Misfit),
        }
    }

    /// What the row holds, if its large values were left out because it has so many `bytes`.
    pub fn oversize<'a>(
        &'a self,
        values: &'a [Option<&'a [u8]>],
        position: Position,
        now: i64,
        bytes: usize,
    ) -> Option<Content<'a>> {
        if let Some(due) = self.due(values).filter(|due| *due > now) {
            return self.scheduled(values, due);
        }
        let misfit = self.misfit(values, position, MapError::TooLarge { bytes })?;
        Some(Content::Oversize(Misfit { value: None, ..misfit }))
    }

    fn scheduled<'a>(&'a self, values: &'a [Option<&'a [u8]>], due: i64) -> Option<Content<'a>> {
        let row = Row { binding: &self.binding, values };
        let event_type = row.text(Field::EventType).ok().flatten();
        Some(Content::Scheduled { id: row.any_id()?, event_type, due })
    }

    /// When the row is due, in microseconds since 1970, if it says so.
    pub fn due(&self, values: &[Option<&[u8]>]) -> Option<i64> {
        Row { binding: &self.binding, values }.scheduled().ok().flatten()
    }

    /// The same in the form of RFC 3339, or as PostgreSQL prints it where there is none.
    pub fn due_text(&self, values: &[Option<&[u8]>]) -> Option<String> {
        let row = Row { binding: &self.binding, values };
        let mut due = String::new();
        timestamp::rfc3339(&row.text(Field::ScheduledAt).ok()??, |part| due.push_str(part));
        Some(due)
    }

    /// The id of a row that may have no envelope.
    pub fn id<'a>(&'a self, values: &'a [Option<&'a [u8]>]) -> Option<Cow<'a, str>> {
        Row { binding: &self.binding, values }.any_id()
    }

    /// What can be said of a row that cannot become an event; nothing if it has no id.
    pub fn misfit<'a>(
        &'a self,
        values: &'a [Option<&'a [u8]>],
        position: Position,
        error: MapError,
    ) -> Option<Misfit<'a>> {
        let row = Row { binding: &self.binding, values };
        let text = |field| row.text(field).ok().flatten();
        let mut headers = HeaderList::default();
        // What cannot be read is left out.
        let _ = headers.fill(&self.chosen, &row, position);
        Some(Misfit {
            id: row.any_id()?,
            event_type: text(Field::EventType),
            dedup_key: text(Field::DedupKey),
            topic: self.topic_of(&row),
            key: self.key_of(&row),
            headers,
            value: row.bytes(Field::Payload).map(|bytes| as_written(bytes, self.payload)),
            occurred: text(Field::OccurredAt).and_then(|text| timestamp::micros(&text)),
            max_attempts: row.max_attempts(),
            error,
        })
    }
}

/// The bytes that the writer gave PostgreSQL, as far as they can be told.
fn as_written(bytes: &[u8], form: PayloadForm) -> Cow<'_, [u8]> {
    let mut decoded = Vec::new();
    match form {
        PayloadForm::Bytes if decode_hex(bytes, &mut decoded).is_ok() => Cow::Owned(decoded),
        _ => Cow::Borrowed(bytes),
    }
}
