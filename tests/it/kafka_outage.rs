//! Kafka away, frozen, refusing; topics missing and too small.

use std::time::Duration;

use rdkafka::admin::{AdminOptions, AlterConfig, ResourceSpecifier};

use crate::support::broker::Broker;
use crate::support::checker::wait_until_all_sent;
use crate::support::database::Database;
use crate::support::records::Kafka;
use crate::support::relay::RelayOptions;
use crate::support::stage::Stage;
use crate::support::unique;
use crate::support::wait::{SOON, eventually, stays};

#[tokio::test]
async fn a_broker_that_stops_and_comes_back_costs_nothing_but_time() {
    let mut broker = Broker::start(&[]).await;
    let database = Database::new("bounce").await;
    let stage = Stage::at(database, broker.kafka(), "bounce", 200).await;
    let relay = stage.options().start_ready().await;
    let writing = stage.workload.start(&stage.database);
    for _ in 0..2 {
        let sent = "SELECT count(*) FROM outbox WHERE status = 'SENT'";
        let before = stage.database.count(sent).await;
        eventually("a thousand more events to be SENT", SOON, || async {
            stage.database.count(sent).await > before + 1_000
        })
        .await;
        broker.kill();
        eventually("the relay to notice", SOON, || async {
            relay.get("/readyz?verbose").await.1.contains("[-] producer")
        })
        .await;
        assert_eq!(relay.get("/livez").await.0, 200, "the loop turns");
        broker.start_again().await;
        eventually("the relay to be ready", SOON, || async { relay.get("/readyz").await.0 == 200 })
            .await;
    }
    writing.stop().await;
    // No session ended, and the idempotent producer repeats nothing.
    stage.check(0).await;
    assert_eq!(stage.database.statuses().await.get("FAILED"), None);
    assert_eq!(relay.stop().await, 0);
    stage.clear().await;
}

/// `wal_sender_timeout` is 5 s, Kafka does not answer for three times that: the link must survive.
#[tokio::test]
async fn feedback_goes_on_while_kafka_stalls() {
    use outboxd::demo::TempPostgres;
    let settings = [("wal_sender_timeout", "5s"), ("log_replication_commands", "on")];
    let server = TempPostgres::start(&crate::support::pg_bin(), &settings).unwrap();
    let database = Database::new_at(&server.url("postgres"), "stall").await;
    let broker = Broker::start(&[]).await;
    let stage = Stage::at(database, broker.kafka(), "stall", 50).await;
    let relay = stage.options().set("kafka.in_flight_events", "500").start_ready().await;
    stage.workload.write(&stage.database, 500).await;
    stage.check(0).await;
    let (walsender, before): (i32, _) = {
        let sql = "SELECT pid FROM pg_stat_replication WHERE application_name = 'outboxd'";
        let confirmed = stage.database.confirmed(&stage.slot()).await.unwrap();
        (stage.database.row(sql, &[]).await.get(0), confirmed)
    };

    broker.freeze();
    stage.workload.write(&stage.database, 5_000).await;
    stays("the connection", Duration::from_secs(15), || async {
        let sql = format!("SELECT count(*) FROM pg_stat_replication WHERE pid = {walsender}");
        stage.database.count(&sql).await == 1
    })
    .await;
    assert!(!server.logged().contains("due to replication timeout"));
    let open = relay.status().await["in_flight"]["events"].as_u64().unwrap();
    assert_eq!(open, 500, "the window is full, and no fuller");
    let confirmed = stage.database.confirmed(&stage.slot()).await.unwrap();
    assert!(confirmed >= before);
    broker.thaw();
    stage.check(0).await;
    assert_eq!(relay.stop().await, 0);
}

#[tokio::test]
async fn kafka_may_come_after_the_relay() {
    let mut broker = Broker::start(&[]).await;
    let database = Database::new("late_kafka").await;
    let stage = Stage::at(database, broker.kafka(), "late_kafka", 20).await;
    broker.kill();
    let relay = stage.options().start();
    stage.workload.write(&stage.database, 200).await;
    relay.wait_until_logged("waiting for Kafka: it does not answer").await;
    assert_eq!(relay.get("/readyz").await.0, 503);
    assert_eq!(relay.get("/livez").await.0, 200);
    broker.start_again().await;
    stage.check(0).await;
    eventually("the relay to be ready", SOON, || async { relay.get("/readyz").await.0 == 200 })
        .await;
    assert_eq!(relay.stop().await, 0);
    stage.clear().await;
}

/// A missing topic is known before anything is sent to it. Its events wait; the others do not
/// notice; once it is there, it heals by itself.
#[tokio::test]
async fn s28_a_missing_topic_stops_only_itself() {
    let stage = Stage::new("s28", 50).await;
    let missing = unique("s28_missing");
    let relay = stage.options().start_ready().await;
    let started = std::time::Instant::now();
    for key in 0..100 {
        stage.database.emit("tested", &format!("k{key}"), &missing, r#"{"n": 1}"#).await;
    }
    relay.wait_until_logged("OBX-4002").await;
    assert!(started.elapsed() < Duration::from_secs(15), "not after half a minute");
    stage.workload.write(&stage.database, 3_000).await;
    wait_until_all_published(&stage).await;
    stage.database.wait_until_confirmed(&stage.slot()).await;
    assert_eq!(relay.state().await, "streaming");
    let status = relay.status().await;
    assert_eq!(status["held"]["topic"], 100);
    let attempts = "SELECT count(*) FROM outbox WHERE attempts > 0 OR status = 'FAILED'";
    assert_eq!(stage.database.count(attempts).await, 0, "it is not the events' fault");
    let error = &status["last_error"];
    assert_eq!(error["code"], "OBX-4002");
    assert!(error["message"].as_str().unwrap().contains(&missing), "{error}");
    assert_eq!(relay.get("/readyz").await.0, 200);

    stage.kafka.create_topic(&missing, 2, &[]).await;
    let records = stage.kafka.wait_for(&missing, 100).await;
    assert_eq!(records.len(), 100);
    wait_until_all_sent(&stage.database).await;
    eventually("the held ones to be SENT", SOON, || async {
        !stage.database.statuses().await.contains_key("PENDING")
    })
    .await;
    stage.check(0).await;
    assert_eq!(relay.stop().await, 0);
    stage.clear().await;
}

async fn wait_until_all_published(stage: &Stage) {
    use crate::support::checker::verdict;
    eventually("the other topics' events to arrive", SOON, || async {
        let verdict = verdict(&stage.database, &stage.kafka, &stage.workload).await;
        verdict.lost.is_empty()
    })
    .await;
}

pub async fn limit(kafka: &Kafka, topic: &str, bytes: &str) {
    let admin = kafka.admin();
    let config = AlterConfig::new(ResourceSpecifier::Topic(topic)).set("max.message.bytes", bytes);
    admin.alter_configs([&config], &AdminOptions::new()).await.unwrap();
    eventually("the limit to be known", SOON, || async {
        let topic = [ResourceSpecifier::Topic(topic)];
        let found = admin.describe_configs(&topic, &AdminOptions::new()).await.unwrap();
        let found = found.into_iter().next().unwrap().unwrap();
        found.get("max.message.bytes").unwrap().value.as_deref() == Some(bytes)
    })
    .await;
}

/// Values of the records of a topic that belong to a key.
fn numbers(kafka: &Kafka, topic: &str, key: &str) -> Vec<i64> {
    let records = kafka.read(&[topic]);
    let of_key = records.iter().filter(|record| record.key() == key);
    of_key.map(|record| record.json()["payload"]["n"].as_i64().unwrap()).collect()
}

fn payload(n: usize, size: usize) -> String {
    // No repetition, which compression would make small.
    let pad: String = std::iter::repeat_with(fastrand::alphanumeric).take(size).collect();
    format!(r#"{{"n": {n}, "pad": "{pad}"}}"#)
}

/// The first event on a partition that this producer has never written to is refused; seven of the
/// same key come right behind it. With pipelining they would pass it.
#[tokio::test]
async fn s2_nothing_passes_a_refused_event_on_a_new_producers_first_batch() {
    let kafka = Kafka::shared();
    for round in 0..2 {
        let database = Database::new("s2").await;
        let topic = unique("s2");
        kafka.create_topic(&topic, 1, &[]).await;
        // What compression makes of a record only the broker sees: it is the one that refuses.
        let options = RelayOptions::new(&database, &kafka);
        let options = options.set("kafka.properties", r#"{"compression.type":"lz4"}"#);
        let options = options.set("retry.max_attempts", "100");
        let relay = options.start_ready().await;
        let other = unique("s2_other");
        kafka.create_topic(&other, 1, &[]).await;
        database.emit("tested", "warm", &other, "{}").await;
        kafka.wait_for(&other, 1).await;
        poison_then_seven(&database, &kafka, &topic, "a").await;
        let held = || async { relay.status().await["held"]["retry"] == 1 };
        eventually("the event to be held", SOON, held).await;
        assert!(relay.has_logged("OBX-400"), "round {round}");
        let passed = || async { numbers(&kafka, &topic, "a").is_empty() };
        stays("the key's order", Duration::from_secs(3), passed).await;
        // Mended, it goes on by itself, in order.
        limit(&kafka, &topic, "10000000").await;
        eventually("all eight", SOON, || async { numbers(&kafka, &topic, "a").len() == 8 }).await;
        assert_eq!(numbers(&kafka, &topic, "a"), [0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(relay.stop().await, 0);
        database.clear().await;
    }
}

/// One event too large for the topic and seven small ones of its key, in one transaction. A relay
/// that has not looked at the topic yet sees the new limit and refuses the event itself; one that
/// has leaves that to the broker.
async fn poison_then_seven(database: &Database, kafka: &Kafka, topic: &str, key: &str) {
    limit(kafka, topic, "20000").await;
    let mut sql = String::from("BEGIN;");
    for n in 0..8 {
        let size = if n == 0 { 100_000 } else { 10 };
        let payload = payload(n, size);
        sql.push_str(&format!(
            "SELECT outboxd.emit('tested', '{key}', 'Tested', '{payload}', topic => '{topic}');"
        ));
    }
    sql.push_str("COMMIT");
    database.execute(&sql).await;
}

/// The same on a partition that was written to, long enough ago for the broker to have forgotten
/// the producer.
#[tokio::test]
async fn s26_nothing_passes_a_refused_event_on_a_partition_that_was_idle() {
    let settings = [
        ("producer.id.expiration.ms", "1000"),
        ("producer.id.expiration.check.interval.ms", "500"),
    ];
    let broker = Broker::start(&settings).await;
    let kafka = broker.kafka();
    let database = Database::new("s26").await;
    let topic = unique("s26");
    kafka.create_topic(&topic, 1, &[]).await;
    let options = RelayOptions::new(&database, &kafka).set("retry.max_attempts", "100");
    let relay = options.start_ready().await;
    database.emit("tested", "prime", &topic, r#"{"n": 0}"#).await;
    kafka.wait_for(&topic, 1).await;
    // Nothing tells when the broker forgets; it does so within twice the time.
    stays("the relay", Duration::from_secs(4), || async { relay.state().await == "streaming" })
        .await;
    // The relay knows the old limit, so the broker is the one to refuse.
    poison_then_seven(&database, &kafka, &topic, "b").await;
    eventually("the event to be held", SOON, || async {
        relay.status().await["held"]["retry"] == 1
    })
    .await;
    let error = relay.status().await["last_error"]["code"].clone();
    assert!(error == "OBX-4005" || error == "OBX-4004", "{error}");
    stays("the key's order", Duration::from_secs(3), || async {
        numbers(&kafka, &topic, "b").is_empty()
    })
    .await;
    // Other keys go on, in the same partition.
    database.emit("tested", "c", &topic, r#"{"n": 9}"#).await;
    eventually("the other key", SOON, || async { numbers(&kafka, &topic, "c") == [9] }).await;
    limit(&kafka, &topic, "10000000").await;
    eventually("all eight", SOON, || async { numbers(&kafka, &topic, "b").len() == 8 }).await;
    assert_eq!(numbers(&kafka, &topic, "b"), [0, 1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(relay.stop().await, 0);
    database.clear().await;
}

/// No event is too large, but a batch of all of them is: the limit is on the batch.
#[tokio::test]
async fn s17_a_batch_never_exceeds_what_its_topic_takes() {
    let database = Database::new("s17").await;
    let kafka = Kafka::shared();
    let topic = unique("s17");
    kafka.create_topic(&topic, 1, &[("max.message.bytes", "100000")]).await;
    let usual = unique("s17_usual");
    kafka.create_topic(&usual, 1, &[]).await;
    let relay = RelayOptions::new(&database, &kafka).start_ready().await;
    for topic in [&topic, &usual] {
        let sql = format!(
            "SELECT outboxd.emit('tested', 'k' || n, 'Tested', \
                jsonb_build_object('n', n, 'pad', repeat('x', 400)), topic => '{topic}') \
             FROM generate_series(1, 1000) n"
        );
        database.execute(&sql).await;
    }
    for topic in [&topic, &usual] {
        let records = kafka.wait_for(topic, 1000).await;
        assert_eq!(records.len(), 1000);
    }
    assert_eq!(relay.metric("outbox_events_failed_total").await, 0.0);
    assert_eq!(relay.stop().await, 0);
    database.clear().await;
}

/// The largest event that a topic takes, to the byte: what the relay computes is what the broker
/// counts.
#[tokio::test]
async fn an_event_is_too_large_exactly_when_the_broker_says_so() {
    let database = Database::new("exact").await;
    let kafka = Kafka::shared();
    let topic = unique("exact");
    kafka.create_topic(&topic, 1, &[("max.message.bytes", "10000")]).await;
    let options = RelayOptions::new(&database, &kafka).set("envelope.format", "payload");
    let options = options.set("retry.max_attempts", "1000");
    let relay = options.start_ready().await;
    let mut sizes: Vec<_> = (9_700..9_860).collect();
    fastrand::Rng::with_seed(4).shuffle(&mut sizes);
    for size in &sizes {
        let payload = payload(*size, *size);
        database.emit("tested", &format!("k{size}"), &topic, &payload).await;
    }
    let refused = || async {
        let failed = relay.status().await["held"]["retry"].as_u64().unwrap() as usize;
        failed + kafka.read(&[topic.as_str()]).len() == sizes.len()
    };
    eventually("every event's fate", SOON, refused).await;
    let arrived = kafka.read(&[topic.as_str()]);
    let largest = arrived.iter().map(|record| record.value.as_ref().unwrap().len()).max().unwrap();
    let failed = sizes.len() - arrived.len();
    assert!((10..150).contains(&failed), "{failed} were refused");
    // Everything up to the largest that fits has arrived, and nothing was refused by the broker.
    let smaller = sizes.iter().filter(|size| payload(**size, **size).len() <= largest).count();
    assert_eq!(smaller, arrived.len());
    assert!(!relay.has_logged("Broker: Message size too large"));
    assert!(relay.has_logged("OBX-4004"));
    relay.kill().await;
    database.clear().await;
}
