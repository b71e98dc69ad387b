//! A stage: a database, a workload and its topics, ready to be relayed, and who checks what becomes of
//! it.

use std::time::Duration;

use tokio::sync::Mutex;

use super::checker::{Verdict, out_of_line, verdict, wait_until_all_sent};
use super::database::Database;
use super::oracle::Oracle;
use super::records::{Kafka, Record};
use super::relay::RelayOptions;
use super::unique;
use super::workload::Workload;

/// Hundreds of events in a second, of all writers together: enough for whatever is to be shown. What is
/// written while something is away has to be relayed and checked afterwards.
const PACE: Duration = Duration::from_millis(50);

/// Everything of a test but the relay.
pub struct Stage {
    pub database: Database,
    pub kafka: Kafka,
    pub workload: Workload,
    oracle: Option<Mutex<Oracle>>,
}

impl Stage {
    /// On the shared services: 2 topics × 3 partitions.
    pub async fn new(name: &str, keys: u64) -> Self {
        Self::at(Database::new(name).await, Kafka::shared(), name, keys).await
    }

    /// On services of the test's own.
    pub async fn at(database: Database, kafka: Kafka, name: &str, keys: u64) -> Self {
        let prefix = unique(name);
        let pace = Some(PACE);
        let workload = Workload { prefix, topics: 2, keys, writers: 4, drafts: false, pace };
        Self::of(database, kafka, workload, 3).await
    }

    /// With another workload.
    pub async fn of(database: Database, kafka: Kafka, workload: Workload, partitions: i32) -> Self {
        workload.prepare(&database, &kafka, partitions).await;
        let oracle = Some(Mutex::new(Oracle::new(&database).await));
        Self { database, kafka, workload, oracle }
    }

    /// Without the oracle, whose slot is a slot: for a server that loses slots.
    pub async fn without_oracle(mut self) -> Self {
        if let Some(oracle) = self.oracle.take() {
            oracle.into_inner().drop(&self.database).await;
        }
        self
    }

    pub fn options(&self) -> RelayOptions {
        RelayOptions::new(&self.database, &self.kafka)
    }

    /// The slot's name, and the relay's.
    pub fn slot(&self) -> String {
        self.database.name.clone()
    }

    /// Waits until everything is SENT and holds Kafka against the truth, and the slot against what
    /// it may keep.
    pub async fn check(&self, duplicates_at_most: usize) -> Verdict {
        let verdict = self.judge().await;
        verdict.assert_kept(duplicates_at_most);
        verdict
    }

    /// The same where a relay that was replaced may still have sent what it had queued.
    pub async fn check_with_a_zombie(&self, duplicates_at_most: usize) -> Verdict {
        let verdict = self.judge().await;
        verdict.assert_kept_with_a_zombie(duplicates_at_most);
        verdict
    }

    async fn judge(&self) -> Verdict {
        wait_until_all_sent(&self.database).await;
        let verdict = verdict(&self.database, &self.kafka, &self.workload).await;
        assert_eq!(self.out_of_line().await, None, "not in the order of commits: {verdict:?}");
        self.database.wait_until_wal_is_let_go(&self.slot()).await;
        verdict
    }

    /// Where the topic of one partition and one key is not in the order of commits.
    pub async fn out_of_line(&self) -> Option<String> {
        let oracle = self.oracle.as_ref()?;
        let line = self.workload.line();
        let committed = oracle.lock().await.committed_to(&self.database, &line).await;
        out_of_line(&committed, &self.kafka.read(&[&line]))
    }

    /// Every record of the workload's topics.
    pub fn records(&self) -> Vec<Record> {
        self.workload.records(&self.kafka)
    }

    /// The events that are confirmed and that Kafka does not have.
    pub async fn confirmed_too_early(&self) -> Vec<String> {
        let confirmed = self.database.confirmed(&self.slot()).await.unwrap();
        let records = self.records();
        let oracle = self.oracle.as_ref().expect("a stage with its oracle");
        oracle.lock().await.confirmed_too_early(&self.database, confirmed, &records).await
    }

    /// Asserts that nothing is confirmed that Kafka does not have.
    pub async fn nothing_was_confirmed_too_early(&self, when: &str) {
        let too_early = self.confirmed_too_early().await;
        assert!(too_early.is_empty(), "{when}: {} were confirmed before the ack", too_early.len());
    }

    /// Cleans up.
    pub async fn clear(self) {
        self.without_oracle().await.database.clear().await;
    }
}
