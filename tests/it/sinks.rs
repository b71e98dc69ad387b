//! What the relay promises whatever the sink, with Redis and NATS: times are kept, dead letters can be
//! sent after all or forgotten, and what the server had already is counted.

use crate::failpoints::dies_at;
use crate::support::nats::TempNats;
use crate::support::outlet::{Outlet, OutletSmall};
use crate::support::redis::TempRedis;
use crate::support::wait::{SOON, eventually};

/// Writes an event that is due in so many milliseconds; gives its id.
async fn schedule<O: Outlet>(small: &OutletSmall<O>, key: &str, n: i64, millis: i64) -> String {
    let sql = "SELECT outboxd.emit('tested', $1, 'Tested', jsonb_build_object('n', $2::int8), \
               topic => $3, scheduled_at => now() + $4::int8 * interval '1 ms')::text";
    small.database.row(sql, &[&key, &n, &small.topic, &millis]).await.get(0)
}

/// Each goes once, when its row says, as its row says then; also after a crash. Its key does not wait.
async fn times_are_kept<O: Outlet>(name: &str) {
    let small = OutletSmall::<O>::new(name).await;
    let options = small.options();
    let relay = options.start_ready().await;
    let mut expected = vec![small.emit("z", 0).await];
    small.wait_for_sent(1).await;
    let edited = schedule(&small, "a", 1, 8_000).await;
    let deleted = schedule(&small, "a", 2, 8_000).await;
    let moved = schedule(&small, "a", 3, 8_000).await;
    let mut equal = Vec::new();
    let at: String =
        small.database.row("SELECT (now() + interval '8500 ms')::text", &[]).await.get(0);
    for n in 10..30_i64 {
        let sql = "SELECT outboxd.emit('tested', 'b', 'Tested', jsonb_build_object('n', $1::int8), \
                   topic => $2, scheduled_at => $3::text::timestamptz)::text";
        equal.push(small.database.row(sql, &[&n, &small.topic, &at]).await.get::<_, String>(0));
    }
    small.wait_until_held("scheduled", 23).await;
    relay.kill().await;
    let edit = format!("UPDATE outbox SET payload = '{{\"n\": 100}}' WHERE id = '{edited}'");
    let delete = format!("DELETE FROM outbox WHERE id = '{deleted}'");
    let shift = format!(
        "UPDATE outbox SET scheduled_at = scheduled_at + interval '2 s' WHERE id = '{moved}'"
    );
    small.database.execute(&[edit, delete, shift].join("; ")).await;
    let relay = options.start_ready().await;
    expected.push(small.emit("a", 4).await);
    expected.push(edited.clone());
    expected.extend(equal);
    expected.push(moved);
    assert_eq!(small.arrived(24).await, expected);
    small.wait_for_sent(24).await;
    small.wait_until_held("scheduled", 0).await;
    let sql = "SELECT id::text, floor(extract(epoch FROM scheduled_at) * 1000)::int8 FROM outbox \
               WHERE scheduled_at IS NOT NULL";
    let rows = small.database.sql.query(sql, &[]).await.unwrap();
    assert_eq!(rows.len(), 22);
    let records = small.records().await;
    assert_eq!(records.len(), 24, "each once");
    for row in &rows {
        let (id, due) = (row.get::<_, &str>(0), row.get::<_, i64>(1));
        let record = records.iter().find(|record| record.event_id() == id).unwrap();
        assert!(record.timestamp >= due, "{} ms too early", due - record.timestamp);
        let n = record.json()["payload"]["n"].as_i64().unwrap();
        assert_eq!(n == 100, id == edited, "what its row says when it is due");
    }
    assert_eq!(relay.stop().await, 0);
    small.clear().await;
}

#[tokio::test]
async fn redis_gets_a_scheduled_event_once_and_not_before_its_time() {
    times_are_kept::<TempRedis>("redis_times").await;
}

#[tokio::test]
async fn nats_gets_a_scheduled_event_once_and_not_before_its_time() {
    times_are_kept::<TempNats>("nats_times").await;
}

/// What the sink never takes is given up, and its key goes on; operators send one and forget the other.
async fn dead_letters_are_redriven_and_discarded<O: Outlet>(name: &str) {
    let mut small = OutletSmall::<O>::new(name).await;
    let letters = format!("{}.dlq", small.topic);
    small.outlet.prepare(std::slice::from_ref(&letters)).await;
    small.outlet.limit(&small.topic, 1 << 20).await;
    small.database.execute("ALTER TABLE outbox DROP CONSTRAINT outbox_payload_size").await;
    let options = small.options().set("retry.max_attempts", "2");
    let options = options.set("retry.initial_backoff", "100ms");
    let relay = options.start_ready().await;
    let text = "0123456789abcdef".repeat(70_000);
    let poison = async || {
        let payload = format!("{{\"text\": \"{text}\"}}");
        small.database.emit("tested", "a", &small.topic, &payload).await
    };
    let (first, behind) = (poison().await, small.emit("a", 1).await);
    let (second, last) = (poison().await, small.emit("a", 2).await);
    assert_eq!(small.arrived(2).await, [behind, last]);
    small.wait_until_held("dead", 2).await;
    let found = small.outlet.records(std::slice::from_ref(&letters)).await;
    assert_eq!(found.len(), 2);
    for (letter, id) in found.iter().zip([&first, &second]) {
        assert_eq!((letter.event_id(), letter.key()), (id.as_str(), "a"));
        assert_eq!(letter.header("dlq-topic"), Some(small.topic.as_str()));
        assert_eq!(letter.header("dlq-attempts"), Some("2"));
        assert_eq!(letter.header("dlq-error-class"), Some("OBX-4004"));
    }
    let failed = "SELECT count(*) FROM outbox WHERE status = 'FAILED' AND attempts = 2 \
                  AND next_attempt_at IS NULL AND last_error IS NOT NULL";
    eventually("the rows to say so", SOON, || async { small.database.count(failed).await == 2 })
        .await;
    let operate = |arguments: &[&str]| {
        let (code, said, complaint) = options.command_output(arguments);
        assert_eq!(code, 0, "{arguments:?}: {said}{complaint}");
        said
    };
    let listed = operate(&["dlq", "list"]);
    assert!(listed.contains(&first) && listed.contains(&second), "{listed}");

    small.outlet.limit(&small.topic, 4 << 20).await;
    operate(&["dlq", "redrive", &first, "--yes"]);
    operate(&["dlq", "discard", &second, "--yes"]);
    assert_eq!(small.arrived(3).await.last(), Some(&first));
    let again = small.records().await.remove(2);
    assert_eq!(again.header("outboxd-redelivery"), Some("true"));
    assert_eq!(again.json()["payload"]["text"].as_str().map(str::len), Some(text.len()), "whole");
    small.wait_until_held("dead", 0).await;
    small.wait_for_sent(3).await;
    let verdict = format!(
        "SELECT count(*) FROM outboxd.ledger WHERE event_id = '{second}' AND verdict = 'discarded'"
    );
    assert_eq!(small.database.count(&verdict).await, 1);
    let next = small.emit("a", 3).await;
    assert_eq!(small.arrived(4).await.last(), Some(&next));
    assert_eq!(small.outlet.records(&[letters]).await.len(), 2, "no letter more");
    assert_eq!(relay.stop().await, 0);
    small.clear().await;
}

#[tokio::test]
async fn redis_gets_a_dead_letter_after_all_and_another_is_forgotten() {
    dead_letters_are_redriven_and_discarded::<TempRedis>("redis_redriven").await;
}

#[tokio::test]
async fn nats_gets_a_dead_letter_after_all_and_another_is_forgotten() {
    dead_letters_are_redriven_and_discarded::<TempNats>("nats_redriven").await;
}

/// The relay dies when the server has events, and the table does not say so yet.
async fn what_was_there_is_counted<O: Outlet>(name: &str) {
    let small = OutletSmall::<O>::new(name).await;
    let options = small.options();
    assert_eq!(options.start_ready().await.stop().await, 0);
    for n in 1..=20 {
        small.emit(&format!("k{n}"), n).await;
    }
    dies_at(&options, "before_settle=kill").await;
    let before = small.arrived(1).await.len();
    let relay = options.start_ready().await;
    small.wait_for_sent(20).await;
    assert_eq!(small.arrived(20).await.len(), 20, "each once");
    // What was still in the socket when it died has arrived, too.
    let expected = before..=20;
    let counted = || async { relay.metric("outbox_duplicates_suppressed_total").await as usize };
    eventually("what was there to be counted", SOON, || async {
        expected.contains(&counted().await)
    })
    .await;
    assert_eq!(relay.metric("outbox_events_published_total").await, 20.0);
    assert_eq!(relay.stop().await, 0);
    small.clear().await;
}

#[tokio::test]
async fn what_redis_had_already_is_counted() {
    what_was_there_is_counted::<TempRedis>("redis_suppressed").await;
}

#[tokio::test]
async fn what_nats_had_already_is_counted() {
    what_was_there_is_counted::<TempNats>("nats_suppressed").await;
}
