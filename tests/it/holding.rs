//! What the keys of `[retry]`, `[held]` and `[dead_letter]` change, and those of the columns that
//! show a failure.

use std::time::Duration;

use crate::mapping::{migrate, with_table};
use crate::support::relay::RelayOptions;
use crate::support::small::Small;
use crate::support::unique;
use crate::support::wait::{SOON, eventually, stays};

/// A topic that takes 2 kB, and events of 4 kB.
async fn narrow(name: &str) -> (Small, String) {
    let mut small = Small::new(name).await;
    small.topic = unique(name);
    small.kafka.create_topic(&small.topic, 1, &[("max.message.bytes", "2000")]).await;
    (small, format!("{{\"pad\": \"{}\"}}", "x".repeat(4_000)))
}

/// How long each held event waits after its attempt of that number, in milliseconds.
async fn waits(small: &Small, attempts: i64, count: usize) -> Vec<i64> {
    let sql = "SELECT (extract(epoch FROM due_at - failed_at) * 1000)::int8 \
               FROM outboxd.held_event WHERE attempts = $1::int8";
    let mut found = Vec::new();
    eventually(format!("{count} waits after attempt {attempts}"), SOON, || async {
        small.database.sql.query(sql, &[&attempts]).await.unwrap().len() == count
    })
    .await;
    for row in small.database.sql.query(sql, &[&attempts]).await.unwrap() {
        found.push(row.get(0));
    }
    found
}

async fn emit_all(small: &Small, payload: &str, count: usize) {
    for key in 0..count {
        small.database.emit("tested", &format!("k{key}"), &small.topic, payload).await;
    }
}

#[tokio::test]
async fn waits_double_from_the_first_up_to_the_longest_and_vary() {
    let (small, payload) = narrow("waits").await;
    let options = small.options().set("retry.max_attempts", "3");
    let options = options.set("retry.initial_backoff", "4s").set("retry.max_backoff", "6s");
    let relay = options.clone().set("retry.jitter", "0").start_ready().await;
    emit_all(&small, &payload, 10).await;
    // Stored a moment after the attempt failed.
    for wait in waits(&small, 1, 10).await {
        assert!((3_000..=4_001).contains(&wait), "{wait} ms after the first");
    }
    for wait in waits(&small, 2, 10).await {
        assert!((5_000..=6_001).contains(&wait), "{wait} ms after the second");
    }
    relay.kill().await;
    small.database.execute("DELETE FROM outboxd.held_event").await;
    let relay = options.set("retry.jitter", "0.9").start_ready().await;
    emit_all(&small, &payload, 30).await;
    let varied = waits(&small, 1, 30).await;
    let (least, most) = (varied.iter().min().unwrap(), varied.iter().max().unwrap());
    assert!(most - least > 1_000, "they do not vary: {varied:?}");
    relay.kill().await;
    small.clear().await;
}

#[tokio::test]
async fn what_is_exhausted_blocks_its_key_or_goes_where_dead_letters_go() {
    let (small, payload) = narrow("exhausted").await;
    let options = small.options().set("retry.max_attempts", "1");
    let relay = options.clone().set("retry.on_exhausted", "block").start_ready().await;
    let id = small.database.emit("tested", "a", &small.topic, &payload).await;
    let waits = "SELECT count(*) FROM outboxd.held_event \
                 WHERE reason = 'retry' AND exhausted AND due_at IS NULL";
    eventually("it to be exhausted", SOON, || async { small.database.count(waits).await == 1 })
        .await;
    assert_eq!(relay.stop().await, 0);
    let dead = unique("exhausted_dead");
    small.kafka.create_topic(&dead, 1, &[]).await;
    let relay = options.set("dead_letter.topic", &dead).start_ready().await;
    stays("what waits for an operator", Duration::from_secs(1), || async {
        small.database.count(waits).await == 1
    })
    .await;
    let other = small.database.emit("tested", "b", &small.topic, &payload).await;
    let records = small.kafka.wait_for(&dead, 1).await;
    assert_eq!(records[0].event_id(), other, "and not {id}, which waits");
    assert_eq!(relay.stop().await, 0);
    small.clear().await;
}

#[tokio::test]
async fn an_event_without_a_topic_has_a_dead_letter_topic_too() {
    let small = Small::new("default_dead").await;
    let dead = unique("default_dead");
    small.kafka.create_topic(&dead, 1, &[]).await;
    let relay = small.options().set("dead_letter.default", &dead).start_ready().await;
    let id = small.database.emit("tested", "a", "not a name", "{}").await;
    let records = small.kafka.wait_for(&dead, 1).await;
    assert_eq!(records[0].event_id(), id);
    assert_eq!(relay.metric("events_dlq_total").await, 1.0);
    eventually("it to be counted", SOON, || async {
        relay.metric("outbox_held_events{reason=\"dead\"}").await == 1.0
    })
    .await;
    assert_eq!(relay.stop().await, 0);
    small.clear().await;
}

/// Both bounds, each for itself.
#[tokio::test]
async fn no_more_is_held_than_may_be() {
    for (key, value, most) in [("held.max_events", "3", 3), ("held.max_bytes", "4KiB", 5)] {
        let small = Small::new("hold_bound").await;
        let missing = unique("hold_bound_missing");
        let relay = small.options().set(key, value).start_ready().await;
        for n in 0..10 {
            let payload = format!("{{\"pad\": \"{}\"}}", "x".repeat(500));
            small.database.emit("tested", &format!("k{n}"), &missing, &payload).await;
        }
        relay.wait_until_logged("OBX-4010").await;
        let held = "SELECT count(*) FROM outboxd.held_event";
        eventually("some to be held", SOON, || async { small.database.count(held).await > 0 })
            .await;
        stays("the bound", Duration::from_secs(1), || async {
            (1..=most).contains(&small.database.count(held).await)
        })
        .await;
        small.kafka.create_topic(&missing, 1, &[]).await;
        small.wait_for_sent(10).await;
        assert_eq!(relay.stop().await, 0);
        small.clear().await;
    }
}

#[tokio::test]
async fn a_relay_that_starts_paused_waits_until_it_is_resumed() {
    let small = Small::new("start_paused").await;
    let relay = small.options().set("relay.paused", "true").start();
    relay.wait_for_state("paused").await;
    small.emit("a", 1).await;
    stays("nothing", Duration::from_secs(2), || async {
        small.kafka.read(&[&small.topic]).is_empty()
    })
    .await;
    let (code, _, said) = small.options().command_output(&["resume"]);
    assert_eq!(code, 0, "{said}");
    small.wait_for_sent(1).await;
    assert_eq!(relay.stop().await, 0);
    small.clear().await;
}

/// Columns of all kinds, a check that counts attempts, and an error that is longer than its column.
#[tokio::test]
async fn failures_go_into_the_columns_that_are_named_with_their_labels() {
    let table = "CREATE TYPE progress AS ENUM ('new', 'waits', 'lost', 'done'); \
                 CREATE TABLE outbox (id int PRIMARY KEY, aggregate_id text, payload jsonb, \
                    topic text, progress progress DEFAULT 'new', tries smallint DEFAULT 0, \
                    most int DEFAULT 2, again_at timestamp, reason varchar(12), \
                    CHECK (tries <= most))";
    let mut small = with_table("failures", table).await;
    small.topic = unique("failures_narrow");
    small.kafka.create_topic(&small.topic, 1, &[("max.message.bytes", "2000")]).await;
    let options: RelayOptions = small
        .options()
        .set("outbox.status.status", "progress")
        .set("outbox.status.labels.pending", "new")
        .set("outbox.status.labels.sent", "done")
        .set("outbox.status.labels.retrying", "waits")
        .set("outbox.status.labels.failed", "lost")
        .set("outbox.status.attempts", "tries")
        .set("outbox.status.next_attempt_at", "again_at")
        .set("outbox.status.last_error", "reason")
        .set("outbox.columns.max_attempts", "most")
        .set("retry.initial_backoff", "2s")
        .set("dead_letter.topic", "");
    migrate(&options);
    let relay = options.start_ready().await;
    let insert = format!(
        "INSERT INTO outbox VALUES (1, 'k', jsonb_build_object('pad', repeat('x', 4000)), '{}')",
        small.topic
    );
    small.database.execute(&insert).await;
    let waits = "SELECT count(*) FROM outbox WHERE progress = 'waits' AND tries = 1 \
                 AND again_at > (now() AT TIME ZONE 'UTC') - interval '1 min' \
                 AND again_at < (now() AT TIME ZONE 'UTC') + interval '1 min' \
                 AND length(reason) = 12";
    eventually("the first failure", SOON, || async { small.database.count(waits).await == 1 })
        .await;
    let lost = "SELECT count(*) FROM outbox WHERE progress = 'lost' AND tries = 2 \
                AND again_at IS NULL";
    eventually("the last failure", SOON, || async { small.database.count(lost).await == 1 }).await;
    assert_eq!(relay.stop().await, 0);
    small.clear().await;
}
