//! Faults of events and topics, which are answered by holding what cannot go now.

use std::time::Duration;

use outboxd::demo::{StopMode, TempPostgres};
use rdkafka::admin::{AdminOptions, AlterConfig, ResourceSpecifier};

use crate::resumption::FORGETFUL;
use crate::support::database::Database;
use crate::support::kafka_proxy::{KafkaProxy, Wrong, code};
use crate::support::records::Kafka;
use crate::support::relay::RelayOptions;
use crate::support::small::Small;
use crate::support::stage::Stage;
use crate::support::wait::{SOON, eventually, stays};
use crate::support::{pg_bin, unique};

/// A stage whose relay reaches Kafka through a proxy and tries again soon.
async fn proxied(name: &str) -> (Small, KafkaProxy, RelayOptions) {
    before_a_proxy(Small::new(name).await)
}

fn before_a_proxy(small: Small) -> (Small, KafkaProxy, RelayOptions) {
    let proxy = KafkaProxy::before(&small.kafka);
    let options = small.options().set("kafka.bootstrap_servers", &proxy.kafka().servers);
    let options = options.set("retry.initial_backoff", "200ms").set("retry.max_backoff", "1s");
    (small, proxy, options)
}

/// Five events of each of five keys, in turn; the second of key "a" is marked.
async fn five_by_five(small: &Small) {
    let mut sql = "BEGIN;".to_owned();
    for n in 0..5 {
        for key in ["a", "b", "c", "d", "e"] {
            let mark = if (key, n) == ("a", 1) { "poison" } else { "" };
            let payload = format!(r#"{{"n": {n}, "mark": "{mark}"}}"#);
            sql.push_str(&format!(
                "SELECT outboxd.emit('tested', '{key}', 'Tested', '{payload}', topic => '{}');",
                small.topic
            ));
        }
    }
    small.database.execute(&(sql + "COMMIT")).await;
}

/// The numbers of a key's events, as they are in Kafka.
fn numbers(kafka: &Kafka, topic: &str, key: &str) -> Vec<i64> {
    let records = kafka.read(&[topic]);
    let of_key = records.iter().filter(|record| record.key() == key);
    of_key.map(|record| record.json()["payload"]["n"].as_i64().unwrap()).collect()
}

async fn held(small: &Small, reason: &str) -> i64 {
    let sql = format!("SELECT count(*) FROM outboxd.held_event WHERE reason = '{reason}'");
    small.database.count(&sql).await
}

/// An event in the middle of a pipeline is refused, for each reason that is the event's own. It is
/// FAILED and its key waits; the innocents of its batch are SENT at once.
#[tokio::test]
async fn f20_a_poison_in_the_middle_of_a_pipeline_stops_its_key_alone() {
    for code in [
        code::MESSAGE_TOO_LARGE,
        code::RECORD_LIST_TOO_LARGE,
        code::INVALID_RECORD,
        code::INVALID_TIMESTAMP,
        code::POLICY_VIOLATION,
        code::UNSUPPORTED_FOR_MESSAGE_FORMAT,
    ] {
        let (small, proxy, options) = proxied("f20").await;
        let relay = options.set("retry.max_attempts", "1000").start_ready().await;
        proxy.go_wrong(Wrong::refuse("poison", code));
        five_by_five(&small).await;
        small.wait_for_sent(21).await;
        for key in ["b", "c", "d", "e"] {
            assert_eq!(numbers(&small.kafka, &small.topic, key), [0, 1, 2, 3, 4], "{code}");
        }
        assert_eq!(numbers(&small.kafka, &small.topic, "a"), [0], "{code}");
        assert_eq!((held(&small, "retry").await, held(&small, "parked").await), (1, 3), "{code}");
        assert_eq!(small.database.statuses().await.get("FAILED"), Some(&1), "{code}");
        assert_eq!(relay.metric("outbox_blocked_keys").await, 1.0, "{code}");
        relay.tells("outbox_events_failed_total").await;
        // A later event of the key waits as well, and one of another does not.
        small.emit("a", 5).await;
        small.emit("b", 5).await;
        small.wait_for_sent(22).await;
        assert_eq!(numbers(&small.kafka, &small.topic, "a"), [0], "{code}");
        proxy.go_right();
        small.wait_for_sent(27).await;
        assert_eq!(numbers(&small.kafka, &small.topic, "a"), [0, 1, 2, 3, 4, 5], "{code}");
        assert_eq!(relay.stop().await, 0);
        small.clear().await;
    }
}

/// What is exhausted goes to the dead-letter topic, and its key goes on.
#[tokio::test]
async fn f20_what_is_exhausted_is_dead_lettered_and_its_key_goes_on() {
    let (small, proxy, options) = proxied("f20_dead").await;
    let dead = format!("{}.dlq", small.topic);
    small.kafka.create_topic(&dead, 1, &[]).await;
    let relay = options.set("retry.max_attempts", "2").start_ready().await;
    // The record for the dead-letter topic has the same value: it may pass.
    proxy.go_wrong(Wrong::refuse("poison", code::INVALID_RECORD).times(3));
    five_by_five(&small).await;
    small.wait_for_sent(24).await;
    assert_eq!(numbers(&small.kafka, &small.topic, "a"), [0, 2, 3, 4]);
    let letters = small.kafka.wait_for(&dead, 1).await;
    assert_eq!(letters[0].header("dlq-topic"), Some(small.topic.as_str()));
    eventually("it to be dead", SOON, || async { held(&small, "dead").await == 1 }).await;
    relay.tells("events_dlq_total").await;
    assert_eq!(small.database.statuses().await.get("FAILED"), Some(&1));
    assert_eq!(relay.stop().await, 0);
    small.clear().await;
}

/// A topic is missing, then denied, then there: its events wait and use up no attempts, other topics
/// flow.
#[tokio::test]
async fn f21_a_topic_that_is_missing_then_denied_uses_up_no_attempts() {
    let (small, proxy, options) = proxied("f21").await;
    let relay = options.set("retry.max_attempts", "1").start_ready().await;
    let missing = unique("f21_missing");
    for n in 0..10 {
        let payload = format!(r#"{{"n": {n}, "mark": "late"}}"#);
        small.database.emit("tested", "k", &missing, &payload).await;
        small.emit("k", n).await;
    }
    small.wait_for_sent(10).await;
    relay.tells("OBX-4002").await;
    proxy.go_wrong(Wrong::refuse("late", code::TOPIC_AUTHORIZATION_FAILED).times(3));
    small.kafka.create_topic(&missing, 2, &[]).await;
    small.wait_for_sent(20).await;
    relay.tells("OBX-4003").await;
    assert_eq!(numbers(&small.kafka, &missing, "k"), (0..10).collect::<Vec<_>>());
    let tried = "SELECT count(*) FROM outbox WHERE attempts > 1 OR status = 'FAILED'";
    assert_eq!(small.database.count(tried).await, 0);
    assert_eq!(relay.stop().await, 0);
    small.clear().await;
}

/// The dead-letter topic takes nothing while an event is exhausted: the event stays `retry`, also
/// across a kill, and is dead-lettered when the topic is there.
#[tokio::test]
async fn f23_a_dead_letter_topic_that_takes_nothing_loses_nothing() {
    let (small, proxy, options) = proxied("f23").await;
    let dead = unique("f23_dead");
    let options = options.set("retry.max_attempts", "2").set("dead_letter.topic", &dead);
    let relay = options.start_ready().await;
    proxy.go_wrong(Wrong::refuse("poison", code::INVALID_RECORD).times(3));
    five_by_five(&small).await;
    small.wait_for_sent(21).await;
    stays("the event's reason", Duration::from_secs(3), || async {
        held(&small, "dead").await == 0 && held(&small, "retry").await == 1
    })
    .await;
    relay.tells("outbox_held_events{reason=\"retry\"}").await;
    relay.kill().await;
    let relay = options.start_ready().await;
    stays("the event's reason", Duration::from_secs(3), || async {
        held(&small, "dead").await == 0 && held(&small, "retry").await == 1
    })
    .await;
    assert_eq!(numbers(&small.kafka, &small.topic, "a"), [0], "its key waits with it");
    small.kafka.create_topic(&dead, 1, &[]).await;
    small.kafka.wait_for(&dead, 1).await;
    eventually("it to be dead", SOON, || async { held(&small, "dead").await == 1 }).await;
    assert_eq!(relay.stop().await, 0);
    small.clear().await;
}

/// An event is larger than its topic takes; then the topic takes more.
#[tokio::test]
async fn f29_an_event_that_is_too_large_is_failed_and_goes_when_the_topic_takes_it() {
    let (small, _proxy, options) = proxied("f29").await;
    let relay = options.set("retry.max_attempts", "1000").start_ready().await;
    small
        .database
        .execute("ALTER TABLE outbox DROP CONSTRAINT IF EXISTS outbox_payload_size")
        .await;
    let pad = "x".repeat(3_000_000);
    let large = format!(r#"{{"n": 0, "pad": "{pad}"}}"#);
    small.database.emit("tested", "a", &small.topic, &large).await;
    small.emit("a", 1).await;
    small.emit("b", 0).await;
    small.wait_for_sent(1).await;
    eventually("it to be FAILED", SOON, || async {
        small.database.statuses().await.get("FAILED") == Some(&1)
    })
    .await;
    relay.tells("OBX-4004").await;
    relay.tells("outbox_blocked_keys").await;
    let admin = small.kafka.admin();
    let more = AlterConfig::new(ResourceSpecifier::Topic(&small.topic));
    let more = more.set("max.message.bytes", "16000000");
    admin.alter_configs([&more], &AdminOptions::new()).await.unwrap();
    small.wait_for_sent(3).await;
    assert_eq!(numbers(&small.kafka, &small.topic, "a"), [0, 1]);
    assert_eq!(relay.stop().await, 0);
    small.clear().await;
}

/// e1 is in flight, e2 of its key is too large and held; a crash; the limit is raised: e2 must not
/// go before e1 comes again.
#[tokio::test]
async fn s5_a_held_event_does_not_pass_one_that_was_in_flight_at_a_crash() {
    let (small, proxy, options) = proxied("s5").await;
    let relay = options.start_ready().await;
    proxy.go_wrong(Wrong::refuse("first", code::NOT_ENOUGH_REPLICAS));
    proxy.go_wrong(Wrong::refuse("second", code::MESSAGE_TOO_LARGE));
    for (n, mark) in [(0, "first"), (1, "second"), (2, "")] {
        let payload = format!(r#"{{"n": {n}, "mark": "{mark}"}}"#);
        small.database.emit("tested", "a", &small.topic, &payload).await;
    }
    eventually("e1 to be in flight", SOON, || async { proxy.answered_wrong() > 0 }).await;
    relay.kill().await;
    proxy.go_right();
    let relay = options.start_ready().await;
    small.wait_for_sent(3).await;
    assert_eq!(numbers(&small.kafka, &small.topic, "a"), [0, 1, 2]);
    assert_eq!(relay.stop().await, 0);
    small.clear().await;
}

/// e2 is held and skipped by an operator, and e3 is published; the relay is killed, and a crash of the
/// server sets the slot back: the stream brings e2 again, and it stays skipped.
#[tokio::test]
async fn s6_a_skipped_event_does_not_come_back_with_a_replay() {
    let mut server = TempPostgres::start(&pg_bin(), &FORGETFUL).unwrap();
    let small = Small::at(Database::new_at(&server.url("postgres"), "s6").await, "s6").await;
    let (mut small, proxy, options) = before_a_proxy(small);
    let relay = options.clone().set("retry.max_attempts", "1000").start_ready().await;
    // What the creation of the slot left to be written down.
    small.database.wait_until_confirmed(&small.database.name).await;
    proxy.go_wrong(Wrong::refuse("poison", code::INVALID_RECORD));
    five_by_five(&small).await;
    small.wait_for_sent(21).await;
    let skip = "UPDATE outboxd.held_event SET request = 'skip' WHERE reason = 'retry'; \
                SELECT pg_notify('outboxd', relay_id) FROM outboxd.relay";
    small.database.execute(skip).await;
    small.wait_for_sent(24).await;
    relay.kill().await;
    server.stop(StopMode::Kill);
    server.start_again().unwrap();
    small.database.reconnect().await;
    proxy.go_right();
    let relay = options.start_ready().await;
    small.emit("a", 5).await;
    small.wait_for_sent(25).await;
    let suppressed = relay.metric("outbox_duplicates_suppressed_total").await;
    assert!(suppressed >= 25.0, "the stream brought {suppressed} again");
    assert_eq!(numbers(&small.kafka, &small.topic, "a"), [0, 2, 3, 4, 5]);
    assert_eq!(relay.stop().await, 0);
}

/// The held bound is reached: the relay reads no more, and what is held drains all the same when its
/// topic takes it, also while arrivals go on.
#[tokio::test]
async fn s21_a_full_hold_drains_while_arrivals_go_on() {
    let stage = Stage::new("s21", 100).await;
    let missing = unique("s21_missing");
    let options =
        stage.options().set("held.max_events", "500").set("kafka.in_flight_events", "200");
    let relay = options.start_ready().await;
    let write = format!(
        "SELECT outboxd.emit('tested', 'k' || n % 20, 'Tested', '{{}}', topic => '{missing}') \
         FROM generate_series(1, 1000) n"
    );
    stage.database.execute(&write).await;
    let count = "SELECT count(*) FROM outboxd.held_event";
    eventually("the bound to be reached", SOON, || async {
        stage.database.count(count).await >= 500
    })
    .await;
    stays("the bound", Duration::from_secs(2), || async {
        stage.database.count(count).await <= 700
    })
    .await;
    relay.wait_for_state("stalled").await;
    let writing = stage.workload.start(&stage.database);
    stage.kafka.create_topic(&missing, 3, &[]).await;
    eventually("what is held to drain", SOON, || async { stage.database.count(count).await == 0 })
        .await;
    writing.stop().await;
    stage.check(0).await;
    assert_eq!(stage.kafka.read(&[&missing]).len(), 1000);
    assert_eq!(relay.stop().await, 0);
    stage.clear().await;
}
