//! Events that Kafka refuses: tried again after a while, alone with their key; and what becomes of
//! those that have no attempt left.

use std::time::Duration;

use crate::kafka_outage::limit;
use crate::support::records::Record;
use crate::support::relay::{Relay, RelayOptions};
use crate::support::small::Small;
use crate::support::unique;
use crate::support::wait::{SOON, eventually, stays};

/// A topic that takes small records, and one for its dead letters.
struct Scene {
    small: Small,
    dead: String,
}

impl Scene {
    async fn new(name: &str) -> Self {
        let mut small = Small::new(name).await;
        small.topic = unique(name);
        small.kafka.create_topic(&small.topic, 1, &[("max.message.bytes", "2000")]).await;
        let dead = format!("{}.dlq", small.topic);
        Self { small, dead }
    }

    async fn with_dead_letters(name: &str) -> Self {
        let scene = Self::new(name).await;
        scene.small.kafka.create_topic(&scene.dead, 1, &[]).await;
        scene
    }

    fn options(&self) -> RelayOptions {
        self.small.options().set("retry.initial_backoff", "500ms").set("retry.jitter", "0")
    }

    async fn large(&self, key: &str) -> String {
        let payload = format!("{{\"pad\": \"{}\"}}", "x".repeat(4000));
        self.small.database.emit("tested", key, &self.small.topic, &payload).await
    }

    /// The ids of the topic's records, in order, once there are so many.
    async fn arrived(&self, count: usize) -> Vec<String> {
        let records = self.small.kafka.wait_for(&self.small.topic, count).await;
        records.iter().map(|record| record.event_id().to_owned()).collect()
    }

    async fn wait_until(&self, what: &str, sql: &str) {
        eventually(what, SOON, || async { self.small.database.count(sql).await == 1 }).await;
    }

    async fn end(self, relay: Relay) {
        assert_eq!(relay.stop().await, 0);
        self.small.clear().await;
    }
}

#[tokio::test]
async fn a_refused_event_is_failed_and_tried_again_while_its_key_waits_and_others_flow() {
    let scene = Scene::new("refused").await;
    let relay = scene.options().set("retry.max_attempts", "100").start_ready().await;
    let before = scene.small.emit("a", 1).await;
    let poison = scene.large("a").await;
    let behind = scene.small.emit("a", 3).await;
    let other = scene.small.emit("b", 4).await;
    let row = format!(
        "SELECT count(*) FROM outbox WHERE id = '{poison}' AND status = 'FAILED' AND attempts >= 2 \
         AND next_attempt_at > now() - interval '10 s' AND last_error LIKE '%takes 2000%'"
    );
    scene.wait_until("two attempts to be written", &row).await;
    assert_eq!(scene.arrived(2).await, [before.clone(), other.clone()]);
    let held = format!(
        "SELECT count(*) FROM outboxd.held_event WHERE event_id = '{poison}' AND reason = 'retry' \
         AND error_code = 'OBX-4004' AND due_at IS NOT NULL"
    );
    assert_eq!(scene.small.database.count(&held).await, 1);
    let status = relay.status().await;
    assert_eq!((&status["held"]["retry"], &status["held"]["parked"]), (&1.into(), &1.into()));
    assert_eq!(status["blocked_keys"], 1);
    assert_eq!(status["state"], "streaming", "one key waits, the relay does not");
    // Nothing holds back what PostgreSQL may forget.
    scene.small.database.wait_until_confirmed(&scene.small.database.name).await;

    limit(&scene.small.kafka, &scene.small.topic, "1048576").await;
    scene.small.wait_for_sent(4).await;
    assert_eq!(scene.arrived(4).await, [before, other, poison, behind]);
    assert_eq!(scene.small.database.count("SELECT count(*) FROM outboxd.held_event").await, 0);
    let left = "SELECT count(*) FROM outbox WHERE next_attempt_at IS NOT NULL OR sent_at IS NULL";
    assert_eq!(scene.small.database.count(left).await, 0);
    scene.end(relay).await;
}

#[tokio::test]
async fn s5_and_s6_a_held_event_and_its_key_keep_their_order_through_kill_9() {
    let scene = Scene::new("held_kill").await;
    let options = scene.options().set("retry.max_attempts", "100");
    let mut relay = options.start_ready().await;
    let mut expected = vec![scene.small.emit("a", 0).await];
    expected.push(scene.large("a").await);
    for n in 2..20 {
        expected.push(scene.small.emit("a", n).await);
        if n % 5 == 0 {
            relay.kill().await;
            relay = options.start_ready().await;
        }
    }
    let parked = "SELECT count(*) FROM (SELECT 1 FROM outboxd.held_event HAVING count(*) = 19) x";
    scene.wait_until("all to be held", parked).await;
    relay.kill().await;
    limit(&scene.small.kafka, &scene.small.topic, "1048576").await;
    let relay = options.start_ready().await;
    scene.small.wait_for_sent(20).await;
    let mut first_copies = scene.arrived(20).await;
    first_copies.dedup();
    assert_eq!(first_copies, expected);
    scene.end(relay).await;
}

#[tokio::test]
async fn a_row_says_how_often_it_is_tried_and_tries_are_counted_from_the_first() {
    let scene = Scene::with_dead_letters("tries").await;
    let relay = scene.options().set("retry.max_attempts", "50").start_ready().await;
    let payload = format!("{{\"pad\": \"{}\"}}", "x".repeat(4000));
    let sql = "SELECT outboxd.emit('tested', 'a', 'Tested', $1::text::jsonb, topic => $2, \
               max_attempts => 3)::text";
    let row = scene.small.database.row(sql, &[&payload, &scene.small.topic]).await;
    let id: String = row.get(0);
    let dead = scene.small.kafka.wait_for(&scene.dead, 1).await.remove(0);
    assert_eq!(dead.event_id(), id);
    assert_eq!(dead.header("dlq-attempts"), Some("3"));
    assert_eq!(dead.header("dlq-topic"), Some(scene.small.topic.as_str()));
    assert_eq!(dead.header("dlq-error-class"), Some("OBX-4004"));
    assert!(dead.header("dlq-error").unwrap().contains("takes 2000"));
    assert_eq!(dead.key(), "a");
    assert_eq!(dead.json()["payload"]["pad"].as_str().unwrap().len(), 4000);
    let row = format!(
        "SELECT count(*) FROM outbox WHERE id = '{id}' AND status = 'FAILED' AND attempts = 3 \
         AND next_attempt_at IS NULL"
    );
    scene.wait_until("the row to say so", &row).await;
    scene
        .wait_until(
            "it to be dead",
            "SELECT count(*) FROM outboxd.held_event WHERE reason = 'dead'",
        )
        .await;
    let behind = scene.small.emit("a", 2).await;
    assert_eq!(scene.arrived(1).await, [behind]);
    assert_eq!(relay.metric("events_dlq_total").await, 1.0);
    scene.end(relay).await;
}

/// Until a dead letter is acknowledged its key waits; one that is too large goes without its value.
#[tokio::test]
async fn a_failing_dead_letter_topic_loses_nothing_and_unblocks_nothing() {
    let scene = Scene::new("dlq_fails").await;
    let options = scene.options().set("retry.max_attempts", "1").set("retry.max_backoff", "1s");
    let relay = options.start_ready().await;
    let poison = scene.large("a").await;
    let behind = scene.small.emit("a", 2).await;
    let other = scene.small.emit("b", 3).await;
    assert_eq!(scene.arrived(1).await, std::slice::from_ref(&other));
    let held = "SELECT count(*) FROM (SELECT FROM outboxd.held_event \
                HAVING array_agg(reason ORDER BY ordinal) = '{retry,parked}') x";
    scene.wait_until("the event and its key to be held", held).await;
    // It is given up, and is not tried again: only its letter is on its way.
    let row = format!(
        "SELECT count(*) FROM outbox WHERE id = '{poison}' AND status = 'FAILED' AND attempts = 1 \
         AND next_attempt_at IS NULL"
    );
    scene.wait_until("the row to say so", &row).await;
    stays("the key", Duration::from_secs(3), || async {
        scene.small.kafka.read(&[&scene.small.topic]).len() == 1
    })
    .await;
    let kafka = &scene.small.kafka;
    kafka.create_topic(&scene.dead, 1, &[("max.message.bytes", "1500")]).await;
    let dead = kafka.wait_for(&scene.dead, 1).await.remove(0);
    assert_eq!((dead.event_id(), dead.value.clone()), (poison.as_str(), None));
    assert_eq!(dead.header("dlq-truncated"), Some("true"));
    assert_eq!(scene.arrived(2).await, [other, behind]);
    let whole = "SELECT count(*) FROM outboxd.held_event WHERE reason = 'dead' \
                 AND octet_length(value) > 4000";
    scene.wait_until("the whole event to be kept", whole).await;
    scene.end(relay).await;
}

#[tokio::test]
async fn without_a_dead_letter_topic_the_event_stays_in_held_event_alone() {
    let scene = Scene::new("dlq_none").await;
    let options = scene.options().set("retry.max_attempts", "1").set("dead_letter.topic", "");
    let relay = options.start_ready().await;
    scene.large("a").await;
    let behind = scene.small.emit("a", 2).await;
    assert_eq!(scene.arrived(1).await, [behind]);
    scene
        .wait_until(
            "it to be dead",
            "SELECT count(*) FROM outboxd.held_event WHERE reason = 'dead'",
        )
        .await;
    assert_eq!(scene.small.kafka.partitions(&scene.dead), 0);
    scene.end(relay).await;
}

#[tokio::test]
async fn a_blocked_key_waits_for_an_operator() {
    let scene = Scene::with_dead_letters("blocks").await;
    let options = scene.options().set("retry.max_attempts", "2");
    let relay = options.set("retry.on_exhausted", "block").start_ready().await;
    let poison = scene.large("a").await;
    scene.small.emit("a", 2).await;
    let other = scene.small.emit("b", 3).await;
    assert_eq!(scene.arrived(1).await, [other]);
    let row = format!(
        "SELECT count(*) FROM outbox WHERE id = '{poison}' AND status = 'FAILED' AND attempts = 2 \
         AND next_attempt_at IS NULL"
    );
    scene.wait_until("the attempts to be used up", &row).await;
    limit(&scene.small.kafka, &scene.small.topic, "1048576").await;
    stays("the key", Duration::from_secs(3), || async {
        scene.small.kafka.read(&[&scene.small.topic]).len() == 1
    })
    .await;
    assert!(scene.small.kafka.read(&[&scene.dead]).is_empty());
    assert_eq!(relay.status().await["blocked_keys"], 1);
    scene.end(relay).await;
}

/// A window full of one topic's trouble does not stop the others; beyond the bound reading stops,
/// loudly, and what is held drains all the same.
#[tokio::test]
async fn s21_beyond_the_bound_nothing_more_is_read_and_draining_goes_on() {
    let small = Small::new("bound").await;
    let missing = unique("bound_missing");
    let options = small.options().set("held.max_events", "50").set("kafka.in_flight_events", "20");
    let relay = options.start_ready().await;
    for n in 0..200 {
        let key = format!("k{}", n % 7);
        small.database.emit("tested", &key, &missing, &format!("{{\"n\": {n}}}")).await;
    }
    let last = small.emit("z", 1).await;
    relay.wait_until_logged("OBX-4010").await;
    relay.wait_for_state("stalled").await;
    assert_eq!(relay.status().await["last_error"]["code"], "OBX-4010");
    let held = "SELECT count(*) FROM outboxd.held_event WHERE reason IN ('topic', 'parked')";
    let is_at_the_bound = || async { small.database.count(held).await == 50 };
    eventually("as many events to be held as may be", SOON, is_at_the_bound).await;
    stays("the bound", Duration::from_secs(2), is_at_the_bound).await;
    small.kafka.create_topic(&missing, 2, &[]).await;
    small.wait_for_sent(201).await;
    assert_eq!(small.kafka.wait_for(&small.topic, 1).await[0].event_id(), last);
    let records = small.kafka.wait_for(&missing, 200).await;
    for key in 0..7 {
        let key = format!("k{key}");
        let of_key: Vec<i64> = records
            .iter()
            .filter(|record| record.key() == key)
            .map(|record| record.json()["payload"]["n"].as_i64().unwrap())
            .collect();
        assert!(of_key.is_sorted() && of_key.len() >= 28, "{key}: {of_key:?}");
    }
    relay.wait_for_state("streaming").await;
    assert_eq!(relay.stop().await, 0);
    small.clear().await;
}

/// Its events would go to other partitions: an operator has to say that this is meant.
#[tokio::test]
async fn a_topic_with_more_partitions_than_before_waits_until_it_is_resumed() {
    use rdkafka::admin::{AdminOptions, NewPartitions};
    let small = Small::new("repartition").await;
    let options = small.options();
    let relay = options.start_ready().await;
    small.emit("a", 1).await;
    small.wait_for_sent(1).await;
    eventually("the number of partitions to be remembered", SOON, || async {
        let sql =
            format!("SELECT count(*) FROM outboxd.relay WHERE partitions ? '{}'", small.topic);
        small.database.count(&sql).await == 1
    })
    .await;
    assert_eq!(relay.stop().await, 0);
    let more = NewPartitions::new(&small.topic, 3);
    small.kafka.admin().create_partitions([&more], &AdminOptions::new()).await.unwrap();
    eventually("three partitions", SOON, || async { small.kafka.partitions(&small.topic) == 3 })
        .await;
    let relay = options.start_ready().await;
    small.emit("a", 2).await;
    relay.wait_until_logged("OBX-4008").await;
    let held = "SELECT count(*) FROM outboxd.held_event WHERE reason = 'topic'";
    eventually("the event to be held", SOON, || async { small.database.count(held).await == 1 })
        .await;
    let (code, _, said) = options.command_output(&["resume", "--topic", &small.topic, "--yes"]);
    assert_eq!(code, 0, "{said}");
    small.wait_for_sent(2).await;
    let keys: Vec<Record> = small.kafka.wait_for(&small.topic, 2).await;
    assert_eq!(keys.len(), 2);
    assert_eq!(relay.stop().await, 0);
    small.clear().await;
}
