//! The relay with Redis Streams as its sink, and events that Redis does not take.

use crate::support::database::Database;
use crate::support::redis::TempRedis;
use crate::support::relay::RelayOptions;
use crate::support::unique;
use crate::support::wait::{SOON, eventually};

fn options(database: &Database, redis: &TempRedis) -> RelayOptions {
    RelayOptions::of(database).set("sink.kind", "redis").set("redis.url", &redis.url())
}

#[tokio::test]
async fn an_event_that_is_too_large_is_a_dead_letter_and_a_wrong_key_holds_its_stream() {
    let redis = TempRedis::start(&["--proto-max-bulk-len", "1mb"]).await;
    let database = Database::new("redis_letters").await;
    database.execute("ALTER TABLE outbox DROP CONSTRAINT IF EXISTS outbox_payload_size").await;
    let [stream, other] = ["redis_letters", "redis_other"].map(unique);
    redis.cli(&["SET", &other, "text"]);
    let options = options(&database, &redis).set("retry.max_attempts", "1");
    let mut relay = options.start();
    relay.wait_until_ready().await;
    let text = "0123456789abcdef".repeat(70_000);
    let large = database.emit("tested", "k", &stream, &format!("{{\"t\": \"{text}\"}}")).await;
    let behind = database.emit("tested", "k", &stream, "{\"n\": 2}").await;
    let held = database.emit("tested", "k", &other, "{\"n\": 3}").await;
    let letters = format!("{stream}.dlq");
    eventually("the letter and the one behind it", SOON, || async {
        redis.ids(&letters) == [large.clone()] && redis.ids(&stream) == [behind.clone()]
    })
    .await;
    let letter = redis.entries(&letters).remove(0);
    let field = |name: &str| letter.iter().find(|(other, _)| other == name).map(|(_, value)| value);
    assert_eq!(field("dlq-topic"), Some(&stream));
    assert_eq!(field("dlq-truncated").map(String::as_str), Some("true"));
    assert_eq!(field("dlq-attempts").map(String::as_str), Some("1"));
    assert!(field("dlq-error").is_some_and(|error| error.contains("1048576")), "{letter:?}");
    assert_eq!(field("key").map(String::as_str), Some("k"));
    let statuses = database.statuses().await;
    assert_eq!(
        (statuses.get("SENT"), statuses.get("FAILED")),
        (Some(&1), Some(&1)),
        "{statuses:?}"
    );
    redis.cli(&["DEL", &other]);
    eventually("the held one", SOON, || async { redis.ids(&other) == [held.clone()] }).await;
    assert_eq!(relay.stop().await, 0);
    let (code, said, _) = options.command_output(&["doctor", "-o", "json"]);
    let said: serde_json::Value = serde_json::from_str(&said).unwrap();
    let findings = said["findings"].as_array().unwrap();
    let risk = findings
        .iter()
        .find(|finding| finding["observed"].as_str().unwrap().contains("appendonly"));
    assert!(risk.is_some_and(|risk| risk["severity"] == "warning"), "{code}: {said}");
    database.clear().await;
}
