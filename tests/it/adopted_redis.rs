//! The table of an identity service, to Redis Streams, by `testdata/tables/identity_redis.toml` and nothing
//! else: what its own relay did, but for what that did wrong.

use serde_json::Value;

use crate::mapping::migrate;
use crate::support::database::Database;
use crate::support::redis::TempRedis;
use crate::support::relay::{Relay, RelayOptions};
use crate::support::setting;
use crate::support::wait::{LATER, SOON, eventually, until};

const STREAM: &str = "identity.user.v1";
const DEAD: &str = "identity.user.v1.dlq";
/// More than the server takes when it takes little.
const LARGE: usize = 1_200_000;

/// The table, a Redis, and what is to be set besides the file.
struct Identity {
    database: Database,
    redis: TempRedis,
    options: RelayOptions,
}

fn id(n: u32) -> String {
    format!("4d47e190-0402-4048-bc2c-00000000000{n}")
}

fn user(n: u32) -> String {
    id(n).replace("4d47e190", "00000000")
}

impl Identity {
    async fn new() -> Self {
        let home = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/tables");
        let database = Database::empty_at(&setting("DATABASE_URL"), "identity_redis").await;
        let sql = std::fs::read_to_string(format!("{home}/identity.sql")).unwrap();
        database.execute(&sql).await;
        let redis = TempRedis::start(&["--appendonly", "yes", "--appendfsync", "always"]).await;
        let options = RelayOptions::of(&database).file(&format!("{home}/identity_redis.toml"));
        let options = options.set("redis.url", &redis.url());
        migrate(&options);
        Self { database, redis, options }
    }

    async fn insert(&self, n: u32, payload: &str) {
        let sql = format!(
            "INSERT INTO identity.outbox
                 (event_id, event_type, aggregate_type, aggregate_id, payload, created_at)
             VALUES ('{}', 'UserCreated', 'user', '{}', '{payload}', '2026-11-21 06:00:00Z')",
            id(n),
            user(n)
        );
        self.database.execute(&sql).await;
    }

    async fn insert_large(&self, n: u32) {
        self.insert(n, &format!("{{\"p\": \"{}\"}}", "x".repeat(LARGE))).await;
    }

    /// Waits until so many rows are like this.
    async fn rows(&self, count: i64, condition: &str) {
        let sql = format!("SELECT count(*) FROM identity.outbox WHERE {condition}");
        eventually(format!("{count} rows with {condition}"), LATER, || async {
            self.database.count(&sql).await == count
        })
        .await;
    }

    /// What the server takes of a value, from the next connection on.
    fn takes(&self, limit: &str) {
        assert_eq!(self.redis.cli(&["CONFIG", "SET", "proto-max-bulk-len", limit]), "OK");
    }

    async fn entries(&self, stream: &str, count: usize) -> Vec<Fields> {
        until(format!("{count} entries of {stream}"), SOON, || async {
            let entries = self.redis.entries(stream);
            assert!(entries.len() <= count, "none is published twice");
            (entries.len() == count).then(|| entries.into_iter().map(Fields).collect())
        })
        .await
    }
}

/// The fields of an entry, in order.
struct Fields(Vec<(String, String)>);

impl Fields {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str())
    }

    fn names(&self) -> Vec<&str> {
        self.0.iter().map(|(name, _)| name.as_str()).collect()
    }
}

async fn stop(relay: Relay) {
    assert_eq!(relay.stop().await, 0);
}

#[tokio::test]
async fn identity_publishes_to_redis_as_its_own_relay_did() {
    let identity = Identity::new().await;
    identity.insert(1, r#"{"tenant_id": "acme", "n": 1}"#).await;
    identity.takes("1mb");
    let relay = identity.options.start_ready().await;
    identity.insert(2, r#"{"n": 2}"#).await;
    identity.rows(2, "published AND published_at IS NOT NULL AND attempts = 0").await;
    let entries = identity.entries(STREAM, 2).await;
    for (n, tenant, payload) in [
        (1, "acme", r#"{"n": 1, "tenant_id": "acme"}"#),
        (2, "00000000-0000-0000-0000-000000000000", r#"{"n": 2}"#),
    ] {
        let entry = entries.iter().find(|entry| entry.get("key") == Some(&user(n))).unwrap();
        let expected = format!(
            r#"{{"event_id":"{}","event_type":"UserCreated","topic":"{STREAM}","schema_version":1,"occurred_at":"2026-11-21T06:00:00Z","tenant_id":"{tenant}","aggregate_id":"{}","aggregate_type":"user","payload":{payload}}}"#,
            id(n),
            user(n)
        );
        assert_eq!(entry.get("data"), Some(expected.as_str()));
        assert_eq!(entry.get("event_id"), Some(id(n).as_str()));
        assert_eq!(entry.get("event_type"), Some("UserCreated"));
        let all = ["event_id", "event_type", "key", "data", "position"];
        assert!(all.starts_with(&entry.names()), "{:?}", entry.names());
    }

    // A minute to the next attempt.
    identity.insert_large(3).await;
    let failing = "NOT published AND attempts = 1 AND error_message LIKE '%takes 1048576%' \
                   AND next_attempt_at BETWEEN now() + interval '40 s' AND now() + interval '60 s'";
    identity.rows(1, failing).await;
    stop(relay).await;

    // Unless somebody asks for it now; and while the dead letter cannot be written, the row says neither
    // that it was published nor less than it knows.
    let hurried = identity.options.clone().set("retry.initial_backoff", "100ms");
    identity.redis.cli(&["SET", DEAD, "no stream"]);
    let relay = hurried.start_ready().await;
    let retry = format!("SELECT outboxd.retry('{}'::uuid)", id(3));
    identity.database.execute(&retry).await;
    identity.rows(1, "NOT published AND attempts = 5").await;
    identity.insert(4, "{}").await;
    identity.rows(3, "published").await;
    identity.rows(1, "NOT published AND attempts = 5").await;
    let held = "SELECT count(*) FROM outboxd.held_event WHERE event_id = ";
    assert_eq!(identity.database.count(&format!("{held}'{}'", id(3))).await, 1);
    stop(relay).await;

    // The dead letter is the original event, and says what became of it.
    identity.takes("512mb");
    identity.redis.cli(&["DEL", DEAD]);
    let relay = hurried.start_ready().await;
    let dead = identity.entries(DEAD, 1).await.remove(0);
    let original: Value = serde_json::from_str(dead.get("data").unwrap()).unwrap();
    assert_eq!(original["event_id"], id(3));
    assert_eq!(original["payload"]["p"].as_str().map(str::len), Some(LARGE));
    assert_eq!(dead.get("event_id"), Some(id(3).as_str()));
    assert_eq!(dead.get("key"), Some(user(3).as_str()));
    assert_eq!(dead.get("dlq-attempts"), Some("5"));
    assert_eq!(dead.get("dlq-topic"), Some(STREAM));
    assert_eq!(dead.get("dlq-truncated"), None);
    assert!(dead.get("dlq-error").unwrap().contains("takes 1048576"));
    assert!(dead.get("dlq-failed-at").unwrap().ends_with('Z'));
    identity.rows(1, "NOT published AND attempts = 5 AND next_attempt_at IS NULL").await;

    // It can be published again.
    let (code, said, complaint) = hurried.command_output(&["dlq", "redrive", "--yes", &id(3)]);
    assert_eq!(code, 0, "{said}{complaint}");
    identity.rows(4, "published AND published_at IS NOT NULL").await;
    let entries = identity.entries(STREAM, 4).await;
    assert_eq!(entries[3].get("event_id"), Some(id(3).as_str()));
    assert_eq!(entries[3].get("data"), dead.get("data"));
    stop(relay).await;
    identity.database.clear().await;
}
