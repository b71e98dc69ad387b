//! Held events as a relay would have written them, and a stand-in that hears what it would hear.

use std::future::poll_fn;

use tokio::sync::mpsc;
use tokio_postgres::{AsyncMessage, Client, NoTls};

use super::database::Database;

/// Holds an event of that relay: `reason` with topic `orders` and the value `{"card": "4711"}`.
pub async fn hold(database: &Database, relay: &str, id: &str, reason: &str, key: &str) {
    let sql = "INSERT INTO outboxd.held_event (relay_id, event_id, reason, event_type, topic, key, \
                   position_lsn, position_index, headers, value, attempts, max_attempts, exhausted, \
                   last_error, error_code, due_at, since) \
               VALUES ($1, $2, $3, 'Placed', 'orders', $4, '0/A1', 3, '[[\"event_id\",\"x\"]]', \
                   $5, 2, 5, $3 = 'dead', 'too large', 'OBX-4004', '2026-03-01 12:00:00Z', \
                   now() - interval '1 hour')";
    let value: &[u8] = br#"{"card": "4711"}"#;
    let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 5] =
        [&relay, &id, &reason, &key.as_bytes(), &value];
    database.sql.execute(sql, &parameters).await.unwrap();
}

/// The place of a relay, taken: whoever asks finds that the relay runs, and a real one stands by.
pub struct StandIn {
    pub sql: Client,
    told: mpsc::Receiver<String>,
}

impl StandIn {
    pub async fn take_place(database: &Database, relay: &str) -> Self {
        let stand_in = Self::listen(database).await;
        let lock = "SELECT pg_advisory_lock(hashtextextended('outboxd relay ' || $1, 0))";
        stand_in.sql.execute(lock, &[&relay]).await.unwrap();
        stand_in
    }

    /// Only hears what relays are told.
    pub async fn listen(database: &Database) -> Self {
        let (sql, mut connection) = tokio_postgres::connect(&database.url, NoTls).await.unwrap();
        let (tell, told) = mpsc::channel(100);
        tokio::spawn(async move {
            while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await
            {
                if let AsyncMessage::Notification(notification) = message {
                    // A test that is over listens no more.
                    let _ = tell.send(notification.payload().to_owned()).await;
                }
            }
        });
        sql.batch_execute("LISTEN outboxd").await.unwrap();
        Self { sql, told }
    }

    /// Waits until a relay is told something, and says which.
    pub async fn told(&mut self) -> String {
        let told = tokio::time::timeout(super::wait::SOON, self.told.recv()).await;
        told.expect("a notification").unwrap()
    }

    /// Whether nothing was told. A round trip of this session brings what was.
    pub async fn heard_nothing(&mut self) -> bool {
        self.sql.batch_execute("SELECT").await.unwrap();
        self.told.try_recv().is_err()
    }
}
