//! How to reach Kafka, and what cannot be configured because promises rest on it.

use std::collections::BTreeMap;

/// How to reach Kafka, and how much may be under way.
#[derive(Clone)]
pub struct KafkaConfig {
    /// `host:port`, separated by commas.
    pub bootstrap_servers: String,
    /// librdkafka's own properties.
    pub properties: BTreeMap<String, String>,
    /// Records that can be under way at once.
    pub in_flight_events: usize,
    /// Bytes of records that can be under way at once.
    pub in_flight_bytes: u64,
    /// Whether to ask what topics take. The demo's in-process broker leaves that unanswered.
    pub ask_limits: bool,
    /// What a missing topic is made like; none if it is not.
    pub create_topics: Option<TopicShape>,
}

/// What a topic is made like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TopicShape {
    /// How many partitions it has.
    pub partitions: i32,
    /// How many brokers keep each; -1 for as many as the brokers are configured to.
    pub replication: i32,
}

impl std::fmt::Debug for KafkaConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Values can be secrets.
        let names: Vec<_> = self.properties.keys().collect();
        f.debug_struct("KafkaConfig")
            .field("bootstrap_servers", &self.bootstrap_servers)
            .field("properties", &names)
            .finish_non_exhaustive()
    }
}

/// Properties that the relay's promises rest on.
const RESERVED: [(&str, &str); 21] = [
    ("bootstrap.servers", "set kafka.bootstrap_servers"),
    ("metadata.broker.list", "set kafka.bootstrap_servers"),
    ("enable.idempotence", "it is always on"),
    ("enable.gapless.guarantee", "order is kept by the relay"),
    ("acks", "it is always all"),
    ("request.required.acks", "it is always all"),
    ("message.timeout.ms", "a record is never given up because of time"),
    ("delivery.timeout.ms", "a record is never given up because of time"),
    ("message.send.max.retries", "a record is never given up because of time"),
    ("retries", "a record is never given up because of time"),
    ("transactional.id", "the relay does not use Kafka's transactions"),
    ("partitioner", "the relay computes the partition, as Java clients do"),
    ("partitioner_cb", "the relay computes the partition, as Java clients do"),
    ("batch.size", "it follows what the topics take"),
    ("batch.num.messages", "it follows what the topics take"),
    ("message.max.bytes", "it follows what the topics take"),
    ("queue.buffering.max.messages", "set kafka.in_flight_events"),
    ("queue.buffering.max.kbytes", "set kafka.in_flight_bytes"),
    ("max.in.flight", "it is 5, which keeps the order"),
    ("max.in.flight.requests.per.connection", "it is 5, which keeps the order"),
    ("delivery.report.only.error", "every report counts"),
];

/// Why a property cannot be set, if it cannot.
pub fn reserved_property(name: &str) -> Option<&'static str> {
    RESERVED.iter().find(|(reserved, _)| *reserved == name).map(|(_, reason)| *reason)
}

/// The version of librdkafka that is linked in.
pub fn librdkafka_version() -> String {
    rdkafka::util::get_rdkafka_version().1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_that_promises_rest_on_are_reserved() {
        assert!(reserved_property("acks").is_some());
        assert!(reserved_property("enable.idempotence").is_some());
        assert!(reserved_property("compression.type").is_none());
    }
}
