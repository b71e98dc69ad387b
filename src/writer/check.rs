//! What is wrong with an event, before PostgreSQL is asked: there it would end the transaction.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::jsonb::printed_len;
use super::{AddError, Event};
use crate::names::TopicNames;

/// The largest payload that the table takes unless its check is changed, in bytes, as PostgreSQL
/// prints it.
pub const PAYLOAD_BYTES: usize = 1 << 20;

/// The longest name, id or key, in bytes: a key is no document, and `dedup_key` has an index.
pub const KEY_BYTES: usize = 2048;

/// The years that RFC 3339 can say, from 0001 to 9999, in seconds before and after 1970.
const SECONDS: (u64, u64) = (62_135_596_800, 253_402_300_799);

/// What depends on the table and on the sink behind it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// The most bytes of a payload, as PostgreSQL prints it.
    pub(super) payload: usize,
    /// Who has to take the topic's name.
    pub(super) topics: TopicNames,
}

impl Default for Limits {
    fn default() -> Self {
        Self { payload: PAYLOAD_BYTES, topics: TopicNames::Kafka }
    }
}

/// An event that cannot be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{column}: {problem}")]
#[non_exhaustive]
pub struct Invalid {
    /// The column that it is about.
    pub column: &'static str,
    /// What is wrong there.
    pub problem: Problem,
}

/// What is wrong with a value. It is named without the value itself.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Problem {
    /// There is nothing in it.
    Empty,
    /// It contains the character U+0000, which PostgreSQL does not hold.
    Nul,
    /// It contains one half of a surrogate pair.
    HalfPair,
    /// It contains a number that is too large or too fine for PostgreSQL.
    Number,
    /// It is nested too deeply.
    TooDeep,
    /// It is too long.
    TooLong {
        /// Its bytes.
        bytes: usize,
        /// How many there may be.
        limit: usize,
    },
    /// The sink has no such names.
    NoTopic(TopicNames),
    /// It is not a number that the table takes.
    OutOfRange,
    /// It is not between the years 1 and 9999.
    NoTime,
    /// It cannot be serialised.
    NoJson(String),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::Empty => f.write_str("is empty"),
            Problem::Nul => f.write_str("contains the character U+0000"),
            Problem::HalfPair => f.write_str("contains one half of a surrogate pair"),
            Problem::Number => f.write_str("contains a number that PostgreSQL does not hold"),
            Problem::TooDeep => f.write_str("is nested too deeply"),
            Problem::TooLong { bytes, limit } => write!(f, "takes {bytes} bytes, at most {limit}"),
            Problem::NoTopic(names) => {
                write!(f, "is no name that {names} takes: {}", names.rule())
            }
            Problem::OutOfRange => f.write_str("is not between 1 and 2147483647"),
            Problem::NoTime => f.write_str("is not between the years 1 and 9999"),
            Problem::NoJson(reason) => write!(f, "cannot be serialised: {reason}"),
        }
    }
}

/// The first thing that is wrong with any of the events.
pub(super) fn check_all(events: &[Event], limits: Limits) -> Result<(), AddError> {
    for (at, event) in events.iter().enumerate() {
        check(event, limits).map_err(|problem| AddError::Invalid { at, problem })?;
    }
    Ok(())
}

/// The first thing that is wrong with an event.
pub(super) fn check(event: &Event, limits: Limits) -> Result<(), Invalid> {
    let texts = [
        ("aggregate_type", Some(&event.aggregate_type)),
        ("aggregate_id", Some(&event.aggregate_id)),
        ("event_type", Some(&event.event_type)),
        ("topic", event.topic.as_ref()),
        ("partition_key", event.partition_key.as_ref()),
        ("tenant_id", event.tenant_id.as_ref()),
        ("dedup_key", event.dedup_key.as_ref()),
    ];
    for (column, text) in texts {
        let Some(text) = text else { continue };
        of(column, name(text))?;
    }
    if event.topic.as_ref().is_some_and(|topic| !limits.topics.takes(topic)) {
        return Err(Invalid { column: "topic", problem: Problem::NoTopic(limits.topics) });
    }
    of("headers", headers(event))?;
    of("payload", payload(event, limits.payload))?;
    if event.max_attempts.is_some_and(|most| most == 0 || i32::try_from(most).is_err()) {
        return Err(Invalid { column: "max_attempts", problem: Problem::OutOfRange });
    }
    of("occurred_at", time(event.occurred_at))?;
    of("scheduled_at", time(event.scheduled_at))
}

fn of(column: &'static str, checked: Result<(), Problem>) -> Result<(), Invalid> {
    checked.map_err(|problem| Invalid { column, problem })
}

fn name(text: &str) -> Result<(), Problem> {
    match text.len() {
        0 => Err(Problem::Empty),
        _ if text.contains('\0') => Err(Problem::Nul),
        1..=KEY_BYTES => Ok(()),
        bytes => Err(Problem::TooLong { bytes, limit: KEY_BYTES }),
    }
}

fn headers(event: &Event) -> Result<(), Problem> {
    for (header, value) in &event.headers {
        name(header)?;
        if value.contains('\0') {
            return Err(Problem::Nul);
        }
    }
    Ok(())
}

fn payload(event: &Event, limit: usize) -> Result<(), Problem> {
    let json = event.payload.as_ref().map_err(|reason| Problem::NoJson(reason.clone()))?;
    let bytes = printed_len(json)?;
    if bytes > limit {
        return Err(Problem::TooLong { bytes, limit });
    }
    Ok(())
}

fn time(time: Option<SystemTime>) -> Result<(), Problem> {
    let Some(time) = time else { return Ok(()) };
    let is_sayable = match time.duration_since(UNIX_EPOCH) {
        Ok(after) => after.as_secs() <= SECONDS.1,
        Err(before) => before.duration() <= Duration::from_secs(SECONDS.0),
    };
    if is_sayable { Ok(()) } else { Err(Problem::NoTime) }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn event() -> Event {
        Event::new("order", "o-1", "OrderPlaced", serde_json::json!({"n": 1}))
    }

    fn told(event: &Event) -> String {
        check(event, Limits::default())
            .map_or_else(|invalid| invalid.to_string(), |()| String::new())
    }

    #[test]
    fn a_good_event_is_not_told_off() {
        let all = event()
            .header("a", "")
            .topic("orders.v1")
            .partition_key("k")
            .tenant_id("t")
            .dedup_key("x".repeat(KEY_BYTES))
            .occurred_at(UNIX_EPOCH)
            .scheduled_at(UNIX_EPOCH - Duration::from_secs(SECONDS.0))
            .max_attempts(1);
        assert_eq!((told(&event()), told(&all)), (String::new(), String::new()));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_column() {
        let long = "x".repeat(KEY_BYTES + 1);
        let late = UNIX_EPOCH + Duration::from_secs(SECONDS.1 + 1);
        let no_json = HashMap::from([((1, 2), 3)]);
        for (bad, expected) in [
            (Event::new("", "o-1", "T", 1), "aggregate_type: is empty"),
            (Event::new("order", "", "T", 1), "aggregate_id: is empty"),
            (Event::new("order", "o-1", "", 1), "event_type: is empty"),
            (Event::new("order", "o\0", "T", 1), "aggregate_id: contains the character U+0000"),
            (event().dedup_key(""), "dedup_key: is empty"),
            (event().partition_key(&long), "partition_key: takes 2049 bytes, at most 2048"),
            (event().header("", "v"), "headers: is empty"),
            (event().header("a", "\0"), "headers: contains the character U+0000"),
            (event().max_attempts(0), "max_attempts: is not between 1 and 2147483647"),
            (event().max_attempts(1 << 31), "max_attempts: is not between 1 and 2147483647"),
            (event().scheduled_at(late), "scheduled_at: is not between the years 1 and 9999"),
            (
                event().topic("a b"),
                "topic: is no name that Kafka takes: 1 to 249 of A-Z a-z 0-9 . _ -",
            ),
            (Event::new("a", "b", "c", "\0"), "payload: contains the character U+0000"),
            (
                Event::new("a", "b", "c", "x".repeat(PAYLOAD_BYTES)),
                "payload: takes 1048578 bytes, at most 1048576",
            ),
            (
                Event::new("a", "b", "c", no_json),
                "payload: cannot be serialised: key must be a string",
            ),
        ] {
            assert_eq!(told(&bad), expected);
        }
    }
}
