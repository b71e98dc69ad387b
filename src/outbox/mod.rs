//! Rows become envelopes. Pure: a row's values in, a topic, key, headers and value out.
//!
//! A logical message is a row of a table that does not exist ([`message`]).
//!
//! What a table's columns mean is configuration ([`columns`], [`status`]), checked against the
//! catalog once and against the stream's own layout for every `Relation`. The hot path is
//! [`Mapper::read`]: it borrows from the row, writes into memory that it reuses, and never changes
//! a payload's bytes. A row that is not due or cannot become an event is a [`Content`] of its own.

pub mod columns;
pub mod message;
pub mod status;

mod binding;
mod content;
mod envelope;
mod format;
mod guess;
mod headers;
mod json;
mod map;
mod named;
mod partition;
mod problem;
mod route;
mod timestamp;
mod trace;

pub use content::{Content, Misfit};
pub use envelope::{Envelope, Mapper, Stamp};
pub use format::{Converter, DebeziumConfig, Format, FormatConfig};
pub use guess::{Guess, JsonRow};
pub use headers::{HeaderList, Headers};
pub use map::{EventConfig, EventMap, PayloadEncoding, RecordTimestamp};
pub use partition::Placement;
pub use route::RouteConfig;

pub use crate::names::TopicNames;

/// A row that can never become an event. The texts name what is wrong, never the row's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MapError {
    /// The id is null.
    #[error("the event's id is null")]
    NoId,
    /// Neither template has all its values.
    #[error("no topic: neither route.topic nor what comes after it has a value for all its names")]
    NoTopic,
    /// A type that nobody gave a topic.
    #[error("no topic: the event's type is not in route.map, and route.unmapped is \"error\"")]
    Unmapped,
    /// A topic that events may not have.
    #[error("the topic is not one of those that route.allow names")]
    NotAllowed,
    /// A CloudEvent without a type.
    #[error("the event has no type, and a CloudEvent needs one")]
    NoType,
    /// A CloudEvent with an attribute that may not be one.
    #[error("the id, type or subject is empty or has characters that no CloudEvent may have")]
    BadAttribute,
    /// A name that the sink does not take.
    #[error("the topic is not a name that {0} takes: {rule}", rule = .0.rule())]
    BadTopic(TopicNames),
    /// Text that is not UTF-8.
    #[error("a value is not UTF-8")]
    NotUtf8,
    /// A text payload that is not JSON.
    #[error("the payload is not JSON; for other text set outbox.payload_encoding to \"text\"")]
    NotJson,
    /// Headers that are not a JSON object.
    #[error("the headers are not a JSON object of texts")]
    BadHeaders,
    /// A bytea in another form than hexadecimal.
    #[error("the payload is not in PostgreSQL's hexadecimal form")]
    BadBytes,
    /// A partition that is not a number.
    #[error("the partition is not a number")]
    BadPartition,
    /// A logical message that is no object.
    #[error("the message is not a JSON object")]
    NotAnObject,
    /// A member of a logical message that no column could hold.
    #[error("the message's member \"{member}\" is not {expected}")]
    BadMember {
        /// Its name.
        member: &'static str,
        /// What would do.
        expected: &'static str,
    },
    /// A logical message that is to go later.
    #[error("the message has a member \"scheduled_at\", and messages cannot be scheduled")]
    NoSchedule,
    /// A due time that is none.
    #[error("the time that it is due cannot be read")]
    BadSchedule,
    /// A row above the limit.
    #[error("the row has {bytes} bytes, more than outbox.max_row_bytes")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
}

#[cfg(test)]
pub(crate) mod tests;
