//! An outbox in memory, for unit tests of services.

use std::future::{Future, ready};
use std::sync::{Mutex, PoisonError};

use uuid::Uuid;

use super::check::{Limits, check_all};
use super::{AddError, Added, Event, Writer};
use crate::names::TopicNames;

/// Takes events as the table does: the same checks, the same rule for duplicates. Anything can be
/// its transaction; it knows no rollback.
#[derive(Debug, Default)]
pub struct MemoryOutbox {
    events: Mutex<Vec<Event>>,
    limits: Limits,
}

impl MemoryOutbox {
    /// With nothing in it.
    pub fn new() -> Self {
        Self::default()
    }

    /// As [`Outbox::payload_limit`](super::Outbox::payload_limit).
    pub fn payload_limit(mut self, bytes: usize) -> Self {
        self.limits.payload = bytes;
        self
    }

    /// As [`Outbox::topic_names`](super::Outbox::topic_names).
    pub fn topic_names(mut self, names: TopicNames) -> Self {
        self.limits.topics = names;
        self
    }

    /// What was added, in order; each event has its id.
    pub fn events(&self) -> Vec<Event> {
        self.lock().clone()
    }

    /// Takes out what was added.
    pub fn take(&self) -> Vec<Event> {
        std::mem::take(&mut self.lock())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Event>> {
        // A test that panicked elsewhere leaves whole events.
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn insert(&self, added: &[Event]) -> Result<Vec<Added>, AddError> {
        check_all(added, self.limits)?;
        let mut events = self.lock();
        let mut results = Vec::with_capacity(added.len());
        for event in added {
            let is_there = events.iter().any(|other| {
                let has_id = event.id.is_some() && other.id == event.id;
                has_id || (event.dedup_key.is_some() && other.dedup_key == event.dedup_key)
            });
            if is_there {
                results.push(Added::Duplicate);
                continue;
            }
            let id = event.id.unwrap_or_else(|| free_id(&events));
            events.push(Event { id: Some(id), ..event.clone() });
            results.push(Added::New(id));
        }
        Ok(results)
    }
}

/// An id that none of them has: the same in every run of a test.
fn free_id(events: &[Event]) -> Uuid {
    let mut number = events.len() as u128 + 1;
    while events.iter().any(|event| event.id == Some(Uuid::from_u128(number))) {
        number += 1;
    }
    Uuid::from_u128(number)
}

impl<Tx: ?Sized> Writer<Tx> for MemoryOutbox {
    fn add(
        &self,
        _transaction: &Tx,
        event: &Event,
    ) -> impl Future<Output = Result<Added, AddError>> + Send {
        let added = self.insert(std::slice::from_ref(event));
        ready(added.map(|added| added.into_iter().next().unwrap_or(Added::Duplicate)))
    }

    fn add_all(
        &self,
        _transaction: &Tx,
        events: &[Event],
    ) -> impl Future<Output = Result<Vec<Added>, AddError>> + Send {
        ready(self.insert(events))
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use super::*;
    use crate::writer::Problem;

    fn event(key: Option<&str>) -> Event {
        let event = Event::new("order", "o-1", "OrderPlaced", 1);
        Event { dedup_key: key.map(str::to_owned), ..event }
    }

    #[test]
    fn the_second_of_an_id_or_a_dedup_key_is_a_duplicate() {
        let outbox = MemoryOutbox::new();
        let id = Uuid::from_u128(2);
        let events = [
            event(Some("a")),
            event(None).id(id),
            event(None).id(id),
            event(Some("a")),
            event(None),
        ];
        let added = outbox.insert(&events).unwrap();
        let (one, three) = (Uuid::from_u128(1), Uuid::from_u128(3));
        assert_eq!(
            added,
            [
                Added::New(one),
                Added::New(id),
                Added::Duplicate,
                Added::Duplicate,
                Added::New(three)
            ]
        );
        assert_eq!(outbox.take().len(), 3);
        assert!(outbox.events().is_empty());
    }

    #[test]
    fn a_topic_is_checked_by_the_rule_of_its_sink() {
        let there = |topic: &str| [event(None).topic(topic)];
        let error = MemoryOutbox::new().insert(&there("user:v1")).unwrap_err();
        let AddError::Invalid { problem, .. } = error else { panic!("{error}") };
        assert_eq!(problem.problem, Problem::NoTopic(TopicNames::Kafka));
        let redis = MemoryOutbox::new().topic_names(TopicNames::Redis);
        redis.insert(&there("user:v1")).unwrap();
        let nats = MemoryOutbox::new().topic_names(TopicNames::Nats);
        nats.insert(&there("user:v1")).unwrap();
        let error = nats.insert(&there("user.*")).unwrap_err();
        assert!(error.source().unwrap().to_string().contains("NATS"), "{error}");
    }

    #[test]
    fn nothing_is_taken_with_a_bad_event_among_them() {
        let outbox = MemoryOutbox::new();
        let error = outbox.insert(&[event(None), event(Some(""))]).unwrap_err();
        assert!(matches!(error, AddError::Invalid { at: 1, .. }), "{error}");
        assert!(outbox.events().is_empty());
    }
}
