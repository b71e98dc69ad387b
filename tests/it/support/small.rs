//! A small stage: a database and one topic with one partition, for single events.

use super::database::Database;
use super::records::Kafka;
use super::relay::RelayOptions;
use super::unique;

/// Everything of a test with single events but the relay.
pub struct Small {
    pub database: Database,
    pub kafka: Kafka,
    pub topic: String,
}

impl Small {
    /// On the shared services.
    pub async fn new(name: &str) -> Self {
        Self::at(Database::new(name).await, name).await
    }

    /// With a database of the test's own.
    pub async fn at(database: Database, name: &str) -> Self {
        let kafka = Kafka::shared();
        let topic = unique(name);
        kafka.create_topic(&topic, 1, &[]).await;
        Self { database, kafka, topic }
    }

    pub fn options(&self) -> RelayOptions {
        RelayOptions::new(&self.database, &self.kafka)
    }

    /// Writes an event and gives its id.
    pub async fn emit(&self, key: &str, n: i64) -> String {
        self.database.emit("tested", key, &self.topic, &format!("{{\"n\": {n}}}")).await
    }

    pub async fn wait_for_sent(&self, count: i64) {
        self.database.wait_for_sent(count).await;
    }

    pub async fn clear(self) {
        self.database.clear().await;
    }
}
