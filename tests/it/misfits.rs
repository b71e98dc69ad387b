//! Rows that can never become an event, or are too large to be read: dead letters, with everything
//! that can be said of them. Their keys go on.

use crate::support::records::Record;
use crate::support::relay::{Relay, RelayOptions};
use crate::support::small::Small;
use crate::support::unique;
use crate::support::wait::{SOON, eventually};

const MIB: u64 = 1 << 20;

/// A stage with a topic for its dead letters, and one for those that have no topic.
struct Stage {
    small: Small,
    dead: String,
    homeless: String,
}

impl Stage {
    async fn new(name: &str) -> Self {
        let small = Small::new(name).await;
        let (dead, homeless) = (format!("{}.dlq", small.topic), unique("homeless"));
        for topic in [&dead, &homeless] {
            small.kafka.create_topic(topic, 1, &[]).await;
        }
        Self { small, dead, homeless }
    }

    fn options(&self) -> RelayOptions {
        self.small.options().set("dead_letter.default", &self.homeless)
    }

    /// Writes a row with that payload and those headers, and gives its id.
    async fn insert(&self, key: &str, payload: &str, headers: &str) -> String {
        let sql = "INSERT INTO outbox (aggregate_type, aggregate_id, event_type, payload, headers, \
                      topic) VALUES ('tested', $1, 'Tested', $2::text::jsonb, $3::text::jsonb, $4) \
                   RETURNING id::text";
        let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 4] =
            [&key, &payload, &headers, &self.small.topic];
        self.small.database.row(sql, &parameters).await.get(0)
    }

    /// Waits until the event is given up: its row says so, and it is held for whoever looks.
    async fn wait_until_dead(&self, id: &str, error: &str) {
        let dead = format!(
            "SELECT count(*) FROM outbox o JOIN outboxd.held_event h ON h.event_id = o.id::text \
             WHERE o.id = '{id}' AND o.status = 'FAILED' AND o.next_attempt_at IS NULL \
                AND o.last_error LIKE '%{error}%' AND h.reason = 'dead' AND h.exhausted \
                AND h.last_error LIKE '%{error}%'"
        );
        let what = format!("event {id} to be dead for: {error}");
        eventually(what, SOON, || async { self.small.database.count(&dead).await == 1 }).await;
    }

    async fn end(self, relay: Relay) {
        assert_eq!(relay.stop().await, 0);
        self.small.clear().await;
    }
}

/// What every dead letter says.
fn assert_dead(record: &Record, id: &str, error: &str, topic: &str) {
    assert_eq!(record.event_id(), id);
    assert!(record.header("dlq-error").unwrap().contains(error), "{record:?}");
    assert!(!record.header("dlq-error-class").unwrap().is_empty());
    assert!(record.header("dlq-attempts").unwrap().parse::<u32>().is_ok());
    assert!(record.header("dlq-failed-at").unwrap().starts_with("20"));
    assert_eq!(record.header("dlq-topic").unwrap_or_default(), topic);
}

#[tokio::test]
async fn a_row_that_cannot_become_an_event_is_a_dead_letter_and_its_key_goes_on() {
    let stage = Stage::new("misfit").await;
    let relay = stage.options().start_ready().await;
    let before = stage.small.emit("a", 1).await;
    // Headers that are a list, which no record has.
    let misfit = stage.insert("a", r#"{"n": 2}"#, r#"["x"]"#).await;
    let after = stage.small.emit("a", 3).await;
    let records = stage.small.kafka.wait_for(&stage.small.topic, 2).await;
    assert_eq!(records.iter().map(Record::event_id).collect::<Vec<_>>(), [before, after]);
    let dead = stage.small.kafka.wait_for(&stage.dead, 1).await.remove(0);
    assert_dead(&dead, &misfit, "headers are not a JSON object", &stage.small.topic);
    assert_eq!(dead.key(), "a");
    assert_eq!(dead.value.as_deref(), Some(br#"{"n": 2}"#.as_slice()), "the payload as it is");
    stage.wait_until_dead(&misfit, "headers are not a JSON object").await;
    stage.small.wait_for_sent(2).await;
    stage.end(relay).await;
}

/// One row comes by the sweep, one by the stream.
#[tokio::test]
async fn an_event_that_has_no_topic_goes_to_the_default_dead_letter_topic() {
    let stage = Stage::new("homeless").await;
    let insert = "INSERT INTO outbox (aggregate_type, aggregate_id, event_type, payload, topic) \
                  VALUES ('tested', 'a', 'Tested', '{}', 'not a name') RETURNING id::text";
    let swept: String = stage.small.database.row(insert, &[]).await.get(0);
    let relay = stage.options().start_ready().await;
    let streamed: String = stage.small.database.row(insert, &[]).await.get(0);
    let dead = stage.small.kafka.wait_for(&stage.homeless, 2).await;
    for (record, id) in dead.iter().zip([&swept, &streamed]) {
        assert_dead(record, id, "not a name that Kafka takes", "");
        assert_eq!(record.key(), "a");
        stage.wait_until_dead(id, "not a name that Kafka takes").await;
    }
    stage.end(relay).await;
}

#[tokio::test]
async fn a_row_above_the_limit_is_a_dead_letter_without_its_value_and_without_memory() {
    let stage = Stage::new("oversize").await;
    stage.small.database.execute("ALTER TABLE outbox DROP CONSTRAINT outbox_payload_size").await;
    let insert = format!(
        "INSERT INTO outbox (aggregate_type, aggregate_id, event_type, payload, headers, topic) \
         VALUES ('tested', 'a', 'Tested', jsonb_build_object('text', repeat(md5(''), 1310720)), \
            '{{\"h\": \"x\"}}', '{}') RETURNING id::text",
        stage.small.topic
    );
    let relay = stage.options().set("outbox.max_row_bytes", "1MiB").start_ready().await;
    stage.small.emit("a", 1).await;
    stage.small.wait_for_sent(1).await;
    let (before, _) = relay.memory();
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(stage.small.database.row(&insert, &[]).await.get::<_, String>(0));
    }
    stage.small.emit("a", 2).await;
    stage.small.wait_for_sent(2).await;
    let dead = stage.small.kafka.wait_for(&stage.dead, 3).await;
    for (record, id) in dead.iter().zip(&ids) {
        assert_dead(record, id, "more than outbox.max_row_bytes", &stage.small.topic);
        assert_eq!((record.key(), record.header("h")), ("a", Some("x")), "all but the value");
        assert_eq!((record.value.as_deref(), record.header("dlq-truncated")), (None, Some("true")));
        stage.wait_until_dead(id, "more than outbox.max_row_bytes").await;
    }
    let (_, peak) = relay.memory();
    assert!(peak < before + 8 * MIB, "{} MiB, before {}", peak / MIB, before / MIB);
    stage.end(relay).await;
}

#[tokio::test]
async fn a_row_above_the_limit_that_is_older_than_the_slot_is_the_same_dead_letter() {
    let stage = Stage::new("oversize_old").await;
    let payload = format!(r#"{{"text": "{}"}}"#, "0123456789abcdef".repeat(30_000));
    let id = stage.insert("a", &payload, r#"{"h": "x"}"#).await;
    let relay = stage.options().set("outbox.max_row_bytes", "256KiB").start_ready().await;
    let dead = stage.small.kafka.wait_for(&stage.dead, 1).await.remove(0);
    assert_dead(&dead, &id, "more than outbox.max_row_bytes", &stage.small.topic);
    assert_eq!((dead.key(), dead.header("h")), ("a", Some("x")));
    assert_eq!((dead.value.as_deref(), dead.header("dlq-truncated")), (None, Some("true")));
    stage.wait_until_dead(&id, "more than outbox.max_row_bytes").await;
    stage.end(relay).await;
}
