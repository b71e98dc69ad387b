//! Faults of Kafka and of the way to it, made by a proxy before the real broker.

use std::time::Duration;

use crate::support::broker::Broker;
use crate::support::database::Database;
use crate::support::kafka_proxy::{KafkaProxy, Wrong, code};
use crate::support::proxy::Cut;
use crate::support::records::Kafka;
use crate::support::relay::{Relay, RelayOptions};
use crate::support::small::Small;
use crate::support::stage::Stage;
use crate::support::unique;
use crate::support::wait::{LATER, SOON, eventually, stays};

/// A stage whose relay reaches Kafka through a proxy.
async fn proxied(name: &str, keys: u64) -> (Stage, KafkaProxy, RelayOptions) {
    let stage = Stage::new(name, keys).await;
    let proxy = KafkaProxy::before(&stage.kafka);
    let options = stage.options().set("kafka.bootstrap_servers", &proxy.kafka().servers);
    (stage, proxy, options)
}

/// The clean end of a test: everything is SENT, and the relay has nothing left to do.
async fn ends_well(stage: Stage, relay: Relay, duplicates_at_most: usize) {
    let verdict = stage.check(duplicates_at_most).await;
    assert!(verdict.delivered > 500, "hardly anything was tested: {verdict:?}");
    assert_eq!(stage.database.statuses().await.get("FAILED"), None);
    assert_eq!(relay.stop().await, 0);
    stage.clear().await;
}

/// There is no Kafka when the relay starts, and for a while after.
#[tokio::test]
async fn f13_a_relay_that_starts_without_kafka_waits_for_it() {
    let (stage, proxy, options) = proxied("f13", 200).await;
    let relay = options.start_ready().await;
    stage.workload.write(&stage.database, 500).await;
    stage.check(0).await;
    proxy.proxy.order(|orders| orders.refuses = true);
    proxy.proxy.cut(Cut::Reset);
    stage.workload.write(&stage.database, 500).await;
    relay.kill().await;
    let relay = options.start();
    relay.tells("OBX-4001").await;
    stays("the process", Duration::from_secs(5), || async {
        relay.get("/livez").await.0 == 200 && relay.get("/readyz").await.0 == 503
    })
    .await;
    stage.workload.write(&stage.database, 500).await;
    proxy.proxy.heal();
    // What was in flight at the kill never arrived.
    ends_well(stage, relay, 0).await;
}

/// The network between the relay and Kafka goes silent, again and again.
#[tokio::test]
async fn f15_a_silent_network_to_kafka_costs_nothing_but_time() {
    let (stage, proxy, options) = proxied("f15", 200).await;
    // As long as a request may take; the default is a minute.
    let options = options.set("kafka.properties", r#"{"socket.timeout.ms":"3000"}"#);
    let relay = options.start_ready().await;
    let writing = stage.workload.start(&stage.database);
    for _ in 0..2 {
        stage.database.wait_for_more(300).await;
        proxy.proxy.silence();
        stays("the loop", Duration::from_secs(6), || async { relay.get("/livez").await.0 == 200 })
            .await;
        relay.tells("outbox_relay_lag_seconds").await;
        let stalled_at = stage.database.sent().await;
        proxy.proxy.heal();
        eventually("it to go on", SOON, || async {
            stage.database.sent().await > stalled_at + 100
        })
        .await;
    }
    writing.stop().await;
    ends_well(stage, relay, 0).await;
}

/// Latency of 200 ms ± 100 ms and 64 kB/s to Kafka and back.
#[tokio::test]
async fn f16_a_slow_network_to_kafka_keeps_the_order() {
    let (stage, proxy, options) = proxied("f16", 100).await;
    let relay = options.start_ready().await;
    proxy.proxy.order(|orders| {
        for way in [&mut orders.requests, &mut orders.answers] {
            way.delay = Duration::from_millis(100);
            way.jitter = Duration::from_millis(200);
            way.bytes_per_second = Some(64_000);
        }
    });
    stage.workload.write(&stage.database, 1_500).await;
    relay.tells("outbox_relay_lag_seconds").await;
    ends_well(stage, relay, 0).await;
}

/// Requests arrive, answers do not, the connection is reset: the client asks again, and the broker
/// knows what it has.
#[tokio::test]
async fn f17_a_lost_acknowledgement_repeats_nothing() {
    let (stage, proxy, options) = proxied("f17", 200).await;
    let relay = options.start_ready().await;
    let writing = stage.workload.start(&stage.database);
    for round in 0..10 {
        stage.database.wait_for_more(100).await;
        proxy.proxy.order(|orders| orders.answers.frozen = true);
        // More than there are keys: every key has one that nobody answers.
        eventually("requests without an answer", SOON, || async {
            relay.status().await["in_flight"]["events"].as_u64() > Some(500)
        })
        .await;
        relay.tells("outbox_relay_lag_seconds").await;
        proxy.proxy.cut(if round % 2 == 0 { Cut::Reset } else { Cut::End });
        proxy.proxy.heal();
    }
    writing.stop().await;
    ends_well(stage, relay, 0).await;
}

/// Every answer takes five seconds.
#[tokio::test]
#[ignore = "long: dev/test --faults"]
async fn f18_a_kafka_that_takes_five_seconds_for_everything_is_waited_for() {
    let (stage, proxy, options) = proxied("f18", 2_000).await;
    let relay = options.start_ready().await;
    // What topics take is known; questions about them are given up after five seconds.
    stage.workload.write(&stage.database, 300).await;
    stage.check(0).await;
    proxy.proxy.order(|orders| orders.answers.delay = Duration::from_secs(5));
    stage.workload.write(&stage.database, 300).await;
    relay.tells("outbox_relay_lag_seconds").await;
    ends_well(stage, relay, 0).await;
}

/// The producer breaks beyond repair, with much in flight, once before and once after the broker
/// has appended: it is made anew, and nothing is lost or overtaken.
#[tokio::test]
async fn f19_a_producer_that_breaks_is_made_anew() {
    let (stage, proxy, options) = proxied("f19", 200).await;
    let relay = options.set("kafka.in_flight_events", "500").start_ready().await;
    let writing = stage.workload.start(&stage.database);
    let breaks = [code::OUT_OF_ORDER_SEQUENCE, code::UNKNOWN_PRODUCER_ID];
    for (code, appended) in breaks.into_iter().flat_map(|code| [(code, false), (code, true)]) {
        stage.database.wait_for_more(200).await;
        let before = proxy.answered_wrong();
        let wrong = Wrong::refuse("", code).times(1);
        proxy.go_wrong(if appended { wrong.though_appended() } else { wrong });
        eventually("it to break", SOON, || async { proxy.answered_wrong() > before }).await;
        stage.database.wait_for_more(200).await;
    }
    writing.stop().await;
    relay.tells("outbox_producer_fatal_total").await;
    ends_well(stage, relay, 4 * 500).await;
}

/// After a fatal error librdkafka reports nothing of what is in flight until it is told to forget
/// it. The relay does so, and goes on within seconds.
#[tokio::test]
async fn s3_a_producer_that_breaks_with_much_in_flight_is_made_anew_at_once() {
    let (stage, proxy, options) = proxied("s3", 1_000).await;
    let relay = options.start_ready().await;
    stage.workload.write(&stage.database, 1_000).await;
    stage.check(0).await;
    for round in 1..=2 {
        proxy.proxy.order(|orders| orders.answers.frozen = true);
        stage.workload.write(&stage.database, 3_000).await;
        eventually("much in flight", SOON, || async {
            relay.status().await["in_flight"]["events"].as_u64() >= Some(3_000)
        })
        .await;
        proxy.go_wrong(Wrong::refuse("", code::OUT_OF_ORDER_SEQUENCE).times(1));
        let began = std::time::Instant::now();
        // The answers of those that are under way are lost; what is sent then breaks the producer.
        proxy.proxy.cut(Cut::Reset);
        proxy.proxy.heal();
        eventually("the producer to break", SOON, || async {
            relay.metric("outbox_producer_fatal_total").await >= f64::from(round)
        })
        .await;
        eventually("everything to be SENT", SOON, || async {
            !stage.database.statuses().await.contains_key("PENDING")
        })
        .await;
        assert!(began.elapsed() < Duration::from_secs(20), "it took {:?}", began.elapsed());
    }
    ends_well(stage, relay, 2 * 4_000).await;
}

/// Errors that a broker can answer a Produce with, and that pass.
const PASSING: [i16; 16] = [
    code::CORRUPT_MESSAGE,
    code::UNKNOWN_TOPIC_OR_PARTITION,
    code::NOT_LEADER,
    code::REQUEST_TIMED_OUT,
    code::MESSAGE_TOO_LARGE,
    code::INVALID_TOPIC,
    code::RECORD_LIST_TOO_LARGE,
    code::NOT_ENOUGH_REPLICAS,
    code::NOT_ENOUGH_REPLICAS_AFTER_APPEND,
    code::TOPIC_AUTHORIZATION_FAILED,
    code::CLUSTER_AUTHORIZATION_FAILED,
    code::INVALID_TIMESTAMP,
    code::UNSUPPORTED_FOR_MESSAGE_FORMAT,
    code::POLICY_VIOLATION,
    code::KAFKA_STORAGE_ERROR,
    code::INVALID_RECORD,
];

/// Errors that a producer does not survive.
const BREAKING: [i16; 3] =
    [code::OUT_OF_ORDER_SEQUENCE, code::UNKNOWN_PRODUCER_ID, code::INVALID_PRODUCER_EPOCH];

/// Eight events of a key, the first of them marked, and one each of eight other keys, in one
/// transaction.
async fn eight_and_eight(small: &Small, topic: &str, marker: &str) {
    let emit = |key: &str, n: i32, mark: &str| {
        format!(
            "SELECT outboxd.emit('tested', '{key}', 'Tested', '{{\"n\": {n}, \"mark\": \"{mark}\"}}', \
             topic => '{topic}');"
        )
    };
    let mut sql = "BEGIN;".to_owned();
    for n in 0..8 {
        sql.push_str(&emit("a", n, if n == 0 { marker } else { "" }));
        sql.push_str(&emit(&format!("other{n}"), n, ""));
    }
    small.database.execute(&(sql + "COMMIT")).await;
}

/// What is in the topic: the numbers of the key, each where it came first, and of how many other
/// keys there is something.
fn arrived(kafka: &Kafka, topic: &str) -> (Vec<i64>, usize) {
    let (mut numbers, mut others) = (Vec::new(), std::collections::BTreeSet::new());
    for record in kafka.read(&[topic]) {
        let n = record.json()["payload"]["n"].as_i64().unwrap();
        match record.key() {
            "a" if !numbers.contains(&n) => numbers.push(n),
            "a" => {}
            key => _ = others.insert(key.to_owned()),
        }
    }
    (numbers, others.len())
}

/// Events that say that they are old, on a topic that keeps records for a minute: they are stamped
/// with the time of their publishing, and stay.
#[tokio::test]
async fn s18_s27_old_events_are_not_deleted_by_retention() {
    let settings =
        [("log.retention.check.interval.ms", "500"), ("log.initial.task.delay.ms", "500")];
    let broker = Broker::start(&settings).await;
    let small = Small::new("s18").await;
    let topic = unique("s18");
    broker.kafka().create_topic(&topic, 1, &[("retention.ms", "60000")]).await;
    let options = small.options().set("kafka.bootstrap_servers", &broker.kafka().servers);
    let relay = options.start_ready().await;
    let sql = format!(
        "INSERT INTO outbox (aggregate_type, aggregate_id, event_type, payload, topic, occurred_at) \
         SELECT 'tested', 'k' || n, 'Old', '{{}}', '{topic}', now() - interval '30 days' \
         FROM generate_series(1, 1000) n"
    );
    small.database.execute(&sql).await;
    small.wait_for_sent(1000).await;
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_millis() as i64;
    stays("the records", Duration::from_secs(5), || async {
        broker.kafka().read(&[&topic]).len() == 1000
    })
    .await;
    let records = broker.kafka().read(&[&topic]);
    assert!(records.iter().all(|record| (now - record.timestamp).abs() < 60_000));
    assert_eq!(relay.stop().await, 0);
    small.clear().await;
}

/// Three brokers are restarted one after the other, in order and by a crash, while the leaders of
/// the partitions move about.
#[tokio::test]
#[ignore = "long: dev/test --faults"]
async fn f10_brokers_that_are_restarted_one_by_one_cost_nothing_but_time() {
    let mut brokers = Broker::start_cluster(3, &[]).await;
    let kafka = Kafka::at(brokers.iter().map(|b| b.kafka().servers).collect::<Vec<_>>().join(","));
    let stage = Stage::at(Database::new("f10").await, kafka, "f10", 200).await;
    let relay = stage.options().start_ready().await;
    let writing = stage.workload.start(&stage.database);
    for (which, in_order) in [(0, true), (1, false), (2, true), (0, false)] {
        stage.database.wait_for_more(300).await;
        if in_order {
            brokers[which].stop().await;
        } else {
            brokers[which].kill();
            relay.tells("outbox_relay_lag_seconds").await;
        }
        // Two in-sync replicas are left, which is enough once the leaders have moved.
        let before = stage.database.sent().await;
        eventually("it to go on", LATER, || async { stage.database.sent().await > before + 300 })
            .await;
        brokers[which].start_again().await;
    }
    writing.stop().await;
    ends_well(stage, relay, 0).await;
}

/// The first of eight events of a key gets an error in place of an acknowledgement, on a partition
/// that is new to the producer; the broker has it, or has not.
async fn nothing_passes(appended: bool, codes: &[i16], name: &str) {
    let small = Small::new(name).await;
    let proxy = KafkaProxy::before(&small.kafka);
    let options = small.options().set("kafka.bootstrap_servers", &proxy.kafka().servers);
    let relay = options.start_ready().await;
    small.emit("warm", 0).await;
    small.wait_for_sent(1).await;
    let mut topics = Vec::new();
    for code in codes {
        let topic = unique(&format!("{name}_{code}"));
        small.kafka.create_topic(&topic, 1, &[]).await;
        let marker = format!("marked-{code}-");
        let wrong = Wrong::refuse(&marker, *code).times(2);
        proxy.go_wrong(if appended { wrong.though_appended() } else { wrong });
        eight_and_eight(&small, &topic, &marker).await;
        topics.push((*code, topic));
    }
    for (code, topic) in &topics {
        eventually(format!("all of {code}"), SOON, || async {
            let (numbers, others) = arrived(&small.kafka, topic);
            assert!(numbers.is_sorted(), "{code}: {numbers:?}");
            (numbers.len(), others) == (8, 8)
        })
        .await;
    }
    let all = i64::try_from(1 + 16 * codes.len()).unwrap();
    eventually("all to be SENT", SOON, || async {
        small.database.statuses().await.get("SENT") == Some(&all)
    })
    .await;
    assert!(proxy.answered_wrong() >= codes.len(), "{}", proxy.answered_wrong());
    assert_eq!(relay.stop().await, 0);
    small.clear().await;
}

#[tokio::test]
async fn no_error_that_passes_lets_a_later_event_pass() {
    nothing_passes(false, &PASSING, "passing").await;
}

#[tokio::test]
async fn no_error_after_the_append_lets_a_later_event_pass() {
    nothing_passes(true, &PASSING, "appended").await;
}

#[tokio::test]
async fn no_producer_that_breaks_lets_a_later_event_pass() {
    for code in BREAKING {
        nothing_passes(false, &[code], "breaking").await;
        nothing_passes(true, &[code], "broken").await;
    }
}

/// An error that makes no sense stops the relay: it is neither delivered nor skipped.
#[tokio::test]
async fn an_error_that_is_not_known_stops_the_relay_and_loses_nothing() {
    let small = Small::new("unknown").await;
    let proxy = KafkaProxy::before(&small.kafka);
    let options = small.options().set("kafka.bootstrap_servers", &proxy.kafka().servers);
    let mut relay = options.start_ready().await;
    proxy.go_wrong(Wrong::refuse("marked", code::INVALID_REQUEST));
    eight_and_eight(&small, &small.topic, "marked").await;
    let code = relay.wait().await.code();
    assert_eq!(code, Some(78), "{}", relay.logged().join("\n"));
    assert!(relay.has_logged("OBX-4005"));
    proxy.go_right();
    let relay = options.start_ready().await;
    small.wait_for_sent(16).await;
    assert_eq!(arrived(&small.kafka, &small.topic), ((0..8).collect(), 8));
    assert_eq!(relay.stop().await, 0);
    small.clear().await;
}

/// The broker blames one record of a batch: the others are sent again, and none is refused.
#[tokio::test]
async fn the_innocents_of_a_blamed_batch_are_sent_again() {
    let small = Small::new("blamed").await;
    let proxy = KafkaProxy::before(&small.kafka);
    let options = small.options().set("kafka.bootstrap_servers", &proxy.kafka().servers);
    let relay = options.start_ready().await;
    proxy.go_wrong(Wrong::refuse("marked", code::INVALID_RECORD).times(1).blaming(&[0]));
    eight_and_eight(&small, &small.topic, "marked").await;
    small.wait_for_sent(16).await;
    assert_eq!(arrived(&small.kafka, &small.topic), ((0..8).collect(), 8));
    assert_eq!(relay.stop().await, 0);
    small.clear().await;
}

/// A batch is turned away, and the next one, which was sent right behind it, is taken, by a broker
/// that does not know the producer yet. librdkafka takes the first one for acknowledged.
#[tokio::test]
async fn a_batch_that_was_turned_away_is_not_taken_for_acknowledged() {
    let small = Small::new("turned_away").await;
    let proxy = KafkaProxy::before(&small.kafka);
    let options = small.options().set("kafka.bootstrap_servers", &proxy.kafka().servers);
    for round in 0..5 {
        let relay = options.start_ready().await;
        let topic = unique("turned_away");
        small.kafka.create_topic(&topic, 1, &[]).await;
        proxy.go_wrong(Wrong::refuse("first", code::NOT_ENOUGH_REPLICAS).times(1));
        // So that one batch is on its way when the next one is sent.
        proxy.proxy.order(|orders| orders.answers.delay = Duration::from_millis(50));
        let mut sql = "BEGIN;".to_owned();
        for n in 0..1000 {
            let mark = if n == 0 { "first" } else { "" };
            sql.push_str(&format!(
                "SELECT outboxd.emit('tested', 'k{n}', 'Tested', \
                 '{{\"n\": {n}, \"mark\": \"{mark}\"}}', topic => '{topic}');"
            ));
        }
        small.database.execute(&(sql + "COMMIT")).await;
        small.wait_for_sent(1000 * (round + 1)).await;
        let arrived: std::collections::BTreeSet<_> =
            small.kafka.read(&[&topic]).iter().map(|record| record.key().to_owned()).collect();
        assert_eq!(arrived.len(), 1000, "round {round}: SENT, and not in Kafka");
        proxy.proxy.heal();
        assert_eq!(relay.stop().await, 0);
    }
    small.clear().await;
}
