//! A stage: a database, a workload and its topics, ready to be relayed.

use super::checker::{Verdict, check};
use super::database::Database;
use super::records::Kafka;
use super::relay::RelayOptions;
use super::unique;
use super::workload::Workload;

/// Everything of a test but the relay.
pub struct Stage {
    pub database: Database,
    pub kafka: Kafka,
    pub workload: Workload,
}

impl Stage {
    /// On the shared services: 2 topics × 3 partitions.
    pub async fn new(name: &str, keys: u64) -> Self {
        Self::at(Database::new(name).await, Kafka::shared(), name, keys).await
    }

    /// On services of the test's own.
    pub async fn at(database: Database, kafka: Kafka, name: &str, keys: u64) -> Self {
        let prefix = unique(name);
        let workload = Workload { prefix, topics: 2, keys, writers: 4, drafts: false, pace: None };
        workload.prepare(&database).await;
        for topic in workload.topic_names() {
            kafka.create_topic(&topic, 3, &[]).await;
        }
        Self { database, kafka, workload }
    }

    pub fn options(&self) -> RelayOptions {
        RelayOptions::new(&self.database, &self.kafka)
    }

    /// The slot's name, and the relay's.
    pub fn slot(&self) -> String {
        self.database.name.clone()
    }

    /// Waits until everything is SENT and holds Kafka against the truth.
    pub async fn check(&self, duplicates_at_most: usize) -> Verdict {
        check(&self.database, &self.kafka, &self.workload, duplicates_at_most).await
    }

    /// Cleans up.
    pub async fn clear(self) {
        let slot = self.slot();
        self.database.drop(&slot).await;
    }
}
