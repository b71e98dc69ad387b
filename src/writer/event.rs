//! An event as a service says it.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

/// What goes into one row of the outbox. What is not said is left to the table's defaults.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Event {
    /// Its id, unique for ever; else PostgreSQL makes one.
    pub id: Option<Uuid>,
    /// What kind of thing it is about: `order`.
    pub aggregate_type: String,
    /// Which one: `o-1`. Events of one topic with the same id keep their order.
    pub aggregate_id: String,
    /// What happened: `OrderPlaced`.
    pub event_type: String,
    /// Record headers.
    pub headers: BTreeMap<String, String>,
    /// The topic, where the relay's routing is not to choose it.
    pub topic: Option<String>,
    /// The record's key in place of the aggregate's id.
    pub partition_key: Option<String>,
    /// Whose it is.
    pub tenant_id: Option<String>,
    /// The version of the payload's form.
    pub schema_version: i32,
    /// At most one event with this key is ever written.
    pub dedup_key: Option<String>,
    /// When it happened; else the beginning of the transaction.
    pub occurred_at: Option<SystemTime>,
    /// Not before this.
    pub scheduled_at: Option<SystemTime>,
    /// How often it is tried, the first time included; else as the relay is configured.
    pub max_attempts: Option<u32>,
    /// JSON, or why it is none.
    pub(super) payload: Result<String, String>,
}

impl Event {
    /// An event of a thing, with a payload that is serialised to JSON here and now. The text goes to
    /// the database as it is. A payload that cannot be serialised is told when the event is added.
    pub fn new(
        aggregate_type: impl Into<String>,
        aggregate_id: impl Into<String>,
        event_type: impl Into<String>,
        payload: impl Serialize,
    ) -> Self {
        Self {
            id: None,
            aggregate_type: aggregate_type.into(),
            aggregate_id: aggregate_id.into(),
            event_type: event_type.into(),
            headers: BTreeMap::new(),
            topic: None,
            partition_key: None,
            tenant_id: None,
            schema_version: 1,
            dedup_key: None,
            occurred_at: None,
            scheduled_at: None,
            max_attempts: None,
            payload: serde_json::to_string(&payload).map_err(|error| error.to_string()),
        }
    }

    /// Gives it an id, which must never be used again. Of two events with one id the second is a
    /// duplicate.
    pub fn id(mut self, id: Uuid) -> Self {
        self.id = Some(id);
        self
    }

    /// Adds a record header; a second one of a name takes the place of the first.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.insert(name.into(), value.into());
        self
    }

    /// Names the topic.
    pub fn topic(mut self, topic: impl Into<String>) -> Self {
        self.topic = Some(topic.into());
        self
    }

    /// Names the record's key, in place of the aggregate's id. Events of one topic with the same
    /// key keep their order.
    pub fn partition_key(mut self, key: impl Into<String>) -> Self {
        self.partition_key = Some(key.into());
        self
    }

    /// Says whose it is.
    pub fn tenant_id(mut self, tenant: impl Into<String>) -> Self {
        self.tenant_id = Some(tenant.into());
        self
    }

    /// Says which version of its type the payload has; 1 if it is not said.
    pub fn schema_version(mut self, version: i32) -> Self {
        self.schema_version = version;
        self
    }

    /// Says what makes it the same event as another: the second with one key is a duplicate.
    pub fn dedup_key(mut self, key: impl Into<String>) -> Self {
        self.dedup_key = Some(key.into());
        self
    }

    /// Says when it happened. Microseconds are kept.
    pub fn occurred_at(mut self, time: impl Into<SystemTime>) -> Self {
        self.occurred_at = Some(time.into());
        self
    }

    /// Says when it is due. It takes its place in the order of its key then.
    pub fn scheduled_at(mut self, time: impl Into<SystemTime>) -> Self {
        self.scheduled_at = Some(time.into());
        self
    }

    /// Limits how often it is tried, the first time included.
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.max_attempts = Some(attempts);
        self
    }

    /// The payload's JSON; none if it cannot be serialised.
    pub fn payload_json(&self) -> Option<&str> {
        self.payload.as_deref().ok()
    }

    /// The payload, read back; none if it is not such a thing.
    pub fn payload<T: DeserializeOwned>(&self) -> Option<T> {
        serde_json::from_str(self.payload_json()?).ok()
    }

    /// The headers' JSON.
    pub(super) fn headers_json(&self) -> String {
        // A map of texts can always be serialised.
        serde_json::to_string(&self.headers).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_is_kept_as_it_was_serialised() {
        #[derive(Serialize, serde::Deserialize, PartialEq, Debug)]
        struct Placed {
            total: f64,
            note: String,
        }
        let placed = Placed { total: 0.5, note: "é\n".to_owned() };
        let event = Event::new("order", "o-1", "OrderPlaced", &placed);
        assert_eq!(event.payload_json(), Some("{\"total\":0.5,\"note\":\"é\\n\"}"));
        assert_eq!(event.payload::<Placed>(), Some(placed));
        let raw = serde_json::value::RawValue::from_string("{\"b\":1, \"a\":1.50}".to_owned());
        let event = Event::new("order", "o-1", "OrderPlaced", raw.unwrap());
        assert_eq!(event.payload_json(), Some("{\"b\":1, \"a\":1.50}"));
    }
}
