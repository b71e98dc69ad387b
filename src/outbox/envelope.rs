//! A row becomes an envelope: what is published, under which topic and key.
//!
//! The payload's bytes go through as PostgreSQL printed them; nothing re-serialises them.

use std::borrow::Cow;

use super::binding::{Binding, Row};
use super::columns::Field;
use super::format::{Body, PayloadForm, Writer};
use super::headers::{self, Headers};
use super::map::Timestamp;
use super::partition::Placement;
use super::route::{BoundRouter, Routed};
use super::status::Pending;
use super::{MapError, timestamp};
use crate::lsn::Position;

/// Turns the rows of one layout into envelopes. Its memory is reused from row to row.
#[derive(Debug)]
pub struct Mapper {
    pub(super) binding: Binding,
    pub(super) router: BoundRouter,
    pub(super) chosen: Vec<headers::Bound>,
    pub(super) pending: Pending<usize>,
    pub(super) writer: Writer<usize>,
    pub(super) payload: PayloadForm,
    pub(super) timestamp: Timestamp<usize>,
    pub(super) scratch: Scratch,
}

/// What the last row was put together in.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    routed: Routed,
    headers: headers::HeaderList,
    value: Vec<u8>,
    body: Body,
    key: String,
    /// Whether the key is that one, and not the text of its column.
    has_key: bool,
}

/// A record's timestamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Stamp {
    /// When it is published.
    #[default]
    Publish,
    /// When its transaction committed.
    Commit,
    /// Then: milliseconds since 1970.
    At(i64),
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
    /// The topic, a name that the sink takes.
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
    /// What the record's timestamp is.
    pub timestamp: Stamp,
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

    /// What chooses the record's partition; nothing if any will do.
    #[inline]
    pub fn placement(&self) -> Option<Placement> {
        let by = self.partition_by.as_deref().or(self.key.as_deref());
        match (self.partition, by) {
            (Some(partition), _) => Some(Placement::Fixed(partition)),
            (None, by) => by.map(|by| Placement::of_key(by.as_bytes())),
        }
    }
}

impl Mapper {
    /// Whether the row was inserted as one to be published.
    pub fn is_pending(&self, values: &[Option<&[u8]>]) -> bool {
        self.pending.holds(|place| self.binding.value_at(place, values))
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
        let Self { binding, router, chosen, writer, payload, scratch, .. } = self;
        let row = Row { binding, values };
        let id = binding.value(Field::Id, values).ok_or(MapError::NoId)?;
        let id = std::str::from_utf8(id).map_err(|_| MapError::NotUtf8)?;
        router.route(&row, &mut scratch.routed)?;
        scratch.headers.fill(chosen, &row, position)?;
        scratch.value.clear();
        scratch.value.shrink_to(SCRATCH_KEPT);
        scratch.key.clear();
        scratch.has_key = writer.write_key(&row, &mut scratch.key)?;
        let topic = &scratch.routed.topic;
        scratch.body = writer.write(&row, id, topic, *payload, &mut scratch.value)?;
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
        let partition = row.text(Field::Partition)?.map(|text| text.parse()).transpose();
        Ok(Envelope {
            id,
            event_type: row.text(Field::EventType)?,
            dedup_key: row.text(Field::DedupKey)?,
            topic: &scratch.routed.topic,
            key: match scratch.has_key {
                true => Some(Cow::Borrowed(&*scratch.key)),
                false => row.key()?,
            },
            partition_by: row.text(Field::PartitionBy)?,
            partition: partition.map_err(|_| MapError::BadPartition)?,
            headers: scratch.headers.view(),
            value: match scratch.body {
                Body::None => None,
                Body::Written => Some(&scratch.value),
                Body::Payload => row.bytes(Field::Payload),
            },
            timestamp: self.record_timestamp(&row)?,
            occurred: row.text(Field::OccurredAt)?.and_then(|text| timestamp::micros(&text)),
            scheduled,
            max_attempts: row.max_attempts(),
        })
    }

    /// What the record's timestamp is; where the row has none that Kafka takes, the usual one.
    fn record_timestamp(&self, row: &Row<'_, '_>) -> Result<Stamp, MapError> {
        let named = match &self.timestamp {
            Timestamp::Publish => return Ok(Stamp::Publish),
            Timestamp::Commit => return Ok(Stamp::Commit),
            Timestamp::Named(named) => named,
        };
        let micros = named.text(row)?.and_then(|text| timestamp::micros(&text));
        Ok(micros.filter(|micros| *micros >= 0).map_or(Stamp::Publish, |it| Stamp::At(it / 1000)))
    }

    /// The topic of a row of which nothing else is asked, if it has one.
    pub fn topic(&self, values: &[Option<&[u8]>]) -> Option<String> {
        self.topic_of(&Row { binding: &self.binding, values })
    }

    /// The topic of a row, if it has one.
    pub(super) fn topic_of(&self, row: &Row<'_, '_>) -> Option<String> {
        let mut routed = Routed::default();
        self.router.route(row, &mut routed).ok()?;
        Some(routed.topic)
    }

    /// The record's key.
    pub(super) fn key_of<'a>(&'a self, row: &Row<'a, 'a>) -> Option<Cow<'a, str>> {
        let mut key = String::new();
        match self.writer.write_key(row, &mut key) {
            Ok(true) => Some(Cow::Owned(key)),
            Ok(false) => row.key().ok().flatten(),
            Err(_) => None,
        }
    }
}
