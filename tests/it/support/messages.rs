//! An outbox without a table: messages of one prefix, and the topic that they go to.

use serde_json::{Value, json};
use tokio_postgres::Client;

use super::database::Database;
use super::records::{Kafka, Record};
use super::relay::{Relay, RelayOptions};
use super::wait::{SOON, eventually};
use super::{setting, unique};

/// Writes one message.
const EMIT: &str = "SELECT pg_logical_emit_message($1, $2, $3)";

/// A database that `outboxd migrate` made ready, in which no table is an outbox.
pub struct Messages {
    pub database: Database,
    pub kafka: Kafka,
    pub topic: String,
    pub prefix: String,
}

impl Messages {
    /// On the shared services, with a topic of one partition.
    pub async fn new(name: &str) -> Self {
        let database = Database::empty_at(&setting("DATABASE_URL"), name).await;
        Self::at(database, name, &[]).await
    }

    /// In that database, with a topic of those settings.
    pub async fn at(database: Database, name: &str, settings: &[(&str, &str)]) -> Self {
        let (kafka, topic) = (Kafka::shared(), unique(name));
        kafka.create_topic(&topic, 1, settings).await;
        let messages = Self { database, kafka, topic, prefix: "orders".to_owned() };
        let (code, said, complaint) = messages.options().command_output(&["migrate"]);
        assert_eq!(code, 0, "{said}{complaint}");
        messages
    }

    pub fn options(&self) -> RelayOptions {
        let options = RelayOptions::new(&self.database, &self.kafka);
        options.set("outbox.message_prefix", &self.prefix)
    }

    /// What an event says.
    pub fn content(&self, id: &str, key: &str) -> Value {
        json!({
            "event_id": id, "event_type": "Tested", "aggregate_type": "tested",
            "aggregate_id": key, "topic": self.topic, "payload": {"id": id},
        })
    }

    /// Writes an event.
    pub async fn emit(&self, id: &str, key: &str) {
        self.write(&self.content(id, key).to_string()).await;
    }

    /// Writes a message that says that.
    pub async fn write(&self, content: &str) {
        self.write_by(&self.database.sql, content).await;
    }

    /// The same over another session.
    pub async fn write_by(&self, sql: &Client, content: &str) {
        sql.query_one(EMIT, &[&true, &self.prefix, &content]).await.unwrap();
    }

    /// A message of another prefix, or one that belongs to no transaction.
    pub async fn write_other(&self, is_transactional: bool, prefix: &str, content: &str) {
        let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 3] =
            [&is_transactional, &prefix, &content];
        self.database.row(EMIT, &parameters).await;
    }

    /// The ids of the topic's records, in order, once there are so many.
    pub async fn arrived(&self, count: usize) -> Vec<String> {
        ids(&self.kafka.wait_for(&self.topic, count).await)
    }

    /// Waits until exactly these are held, in this order, for this reason.
    pub async fn wait_until_held(&self, expected: &[(&str, &str)]) {
        let sql = "SELECT event_id, reason FROM outboxd.held_event ORDER BY ordinal";
        eventually(format!("{expected:?} to be held"), SOON, || async {
            let rows = self.database.sql.query(sql, &[]).await.unwrap();
            let held: Vec<(String, String)> = rows.iter().map(|r| (r.get(0), r.get(1))).collect();
            held.iter().map(|(a, b)| (a.as_str(), b.as_str())).eq(expected.iter().copied())
        })
        .await;
    }

    pub async fn wait_until_confirmed(&self) {
        self.database.wait_until_confirmed(&self.database.name).await;
    }

    pub async fn end(self, relay: Relay) {
        assert_eq!(relay.stop().await, 0);
        self.database.clear().await;
    }
}

/// The ids of records.
pub fn ids(records: &[Record]) -> Vec<String> {
    records.iter().map(|record| record.event_id().to_owned()).collect()
}
