//! Keys of the configuration whose effect is in time, size or number.

use outboxd::demo::{StopMode, TempPostgres};

use crate::support::database::Database;
use crate::support::records::Kafka;
use crate::support::relay::{Relay, RelayOptions};
use crate::support::small::Small;
use crate::support::wait::{SOON, eventually};
use crate::support::{pg_bin, unique};

/// The waits that a relay has told between its attempts, in milliseconds.
fn waits(relay: &Relay) -> Vec<u64> {
    relay.events().iter().filter_map(|line| line["wait_ms"].as_u64()).collect()
}

#[tokio::test]
async fn waits_between_connections_grow_up_to_their_cap() {
    let mut server = TempPostgres::start(&pg_bin(), &[]).unwrap();
    let database = Database::new_at(&server.url("postgres"), "waits").await;
    server.stop(StopMode::Fast);
    let options = RelayOptions::new(&database, &Kafka::shared());
    let options = options.set("relay.reconnect_backoff", "100ms");
    let relay = options.set("relay.reconnect_max", "300ms").start();
    eventually("five attempts", SOON, || async { waits(&relay).len() >= 5 }).await;
    // Each varies by a fifth of itself.
    for (wait, expected) in waits(&relay).into_iter().zip([100, 200, 300, 300, 300]) {
        let range = expected * 8 / 10..=expected * 12 / 10;
        assert!(range.contains(&wait), "{wait} ms, expected about {expected} ms");
    }
    assert_eq!(relay.stop().await, 0, "there is nothing to drain");
}

#[tokio::test]
async fn a_settle_transaction_is_no_larger_than_the_batch() {
    let small = Small::new("batch").await;
    let relay = small.options().set("outbox.status.batch", "10").start_ready().await;
    let write = format!(
        "SELECT outboxd.emit('tested', 'k' || n, 'Tested', '{{}}', topic => '{}') \
         FROM generate_series(1, 500) n",
        small.topic
    );
    small.database.execute(&write).await;
    small.wait_for_sent(500).await;
    let count = |bucket: &'static str| {
        let relay = &relay;
        async move { relay.metric(&format!("batch_size_histogram_bucket{{le=\"{bucket}\"}}")).await }
    };
    eventually("every transaction to be counted", SOON, || async {
        relay.metric("batch_size_histogram_sum").await == 500.0
    })
    .await;
    assert!(count("+Inf").await >= 50.0, "500 events take 50 transactions of 10");
    assert_eq!(count("10").await, count("+Inf").await, "one was larger");
    assert_eq!(relay.stop().await, 0);
    small.clear().await;
}

#[tokio::test]
async fn an_acknowledged_event_waits_for_others_as_long_as_is_said() {
    let small = Small::new("interval").await;
    let relay = small.options().set("outbox.status.interval", "2s").start_ready().await;
    small.emit("k", 1).await;
    small.wait_for_sent(1).await;
    let waited: bool =
        small.database.row("SELECT sent_at - created_at >= '2 s' FROM outbox", &[]).await.get(0);
    assert!(waited, "it was settled earlier");
    assert_eq!(relay.stop().await, 0);
    small.clear().await;
}

#[tokio::test]
async fn one_broker_of_several_is_enough() {
    let small = Small::new("several").await;
    let nobody = "127.0.0.1:1";
    let servers = format!("{nobody},{}", small.kafka.servers);
    let relay = small.options().set("kafka.bootstrap_servers", &servers).start_ready().await;
    small.emit("k", 1).await;
    small.wait_for_sent(1).await;
    assert_eq!(relay.stop().await, 0);
    let relay = small.options().set("kafka.bootstrap_servers", nobody).start();
    small.emit("k", 2).await;
    relay.wait_for_state("stalled").await;
    let status = relay.status().await;
    assert_eq!(status["last_error"]["code"], "OBX-4001", "{status}");
    relay.kill().await;
    small.clear().await;
}

/// A record of 60 kB that compresses well goes into a topic that takes 10 kB, if and only if the
/// property says so: in the environment, in a file, or the file's in place of the environment's.
#[tokio::test]
async fn properties_go_to_kafkas_client() {
    let small = Small::new("properties").await;
    let topic = unique("properties_narrow");
    small.kafka.create_topic(&topic, 1, &[("max.message.bytes", "10000")]).await;
    let payload = format!(r#"{{"text": "{}"}}"#, "x".repeat(60_000));
    small.database.emit("tested", "k", &topic, &payload).await;

    let options = small.options();
    let relay = options.start();
    relay.wait_until_logged("OBX-4004").await;
    relay.kill().await;
    let zstd = r#"{"compression.type": "zstd"}"#;
    let relay = options.clone().set("kafka.properties", zstd).start();
    small.wait_for_sent(1).await;
    assert_eq!(relay.stop().await, 0);

    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, "# no less\ncompression.type = gzip\n").unwrap();
    let options = options.set("kafka.properties_file", file.path().to_str().unwrap());
    let relay = options.set("kafka.properties", r#"{"compression.type": "none"}"#).start();
    small.database.emit("tested", "k", &topic, &payload).await;
    small.wait_for_sent(2).await;
    assert_eq!(small.kafka.read(&[&topic]).len(), 2);
    assert_eq!(relay.stop().await, 0);
    small.clear().await;
}

/// Events that cannot be held stay in flight: as many as there is room for.
#[tokio::test]
async fn no_more_bytes_are_in_flight_than_is_said() {
    let small = Small::new("bytes").await;
    let missing = unique("bytes_missing");
    let options = small.options().set("kafka.in_flight_bytes", "32KiB");
    let options = options.set("held.max_events", "1");
    let relay = options.start_ready().await;
    let write = format!(
        "SELECT outboxd.emit('tested', 'k' || n, 'Tested', \
            jsonb_build_object('text', repeat('x', 1000)), topic => '{missing}') \
         FROM generate_series(1, 200) n"
    );
    small.database.execute(&write).await;
    let in_flight = || async {
        let shown = relay.status().await["in_flight"].clone();
        (shown["events"].as_u64().unwrap(), shown["bytes"].as_u64().unwrap())
    };
    eventually("the window to be full", SOON, || async {
        let (events, bytes) = in_flight().await;
        // Whatever comes next takes more than 2 KiB on the wire.
        events >= 10 && bytes > 28 * 1024
    })
    .await;
    relay.wait_for_state("stalled").await;
    let (events, bytes) = in_flight().await;
    assert!(bytes <= 34 * 1024 && events < 40, "{events} events, {bytes} bytes");
    small.kafka.create_topic(&missing, 1, &[]).await;
    small.wait_for_sent(200).await;
    assert_eq!(relay.stop().await, 0);
    small.clear().await;
}

/// Each of a key's events waits for the acknowledgement of the one before it, which here takes
/// 300 ms; where more may be under way, they all go at once.
#[tokio::test]
async fn events_of_a_key_go_one_by_one_unless_more_are_allowed() {
    let small = Small::new("per_key").await;
    // How many settle transactions there were, and whether the last came 8 lingers after the write.
    let settled = "SELECT count(DISTINCT sent_at), max(sent_at) - min(created_at) >= '2.4 s' \
                   FROM outbox WHERE aggregate_id = $1";
    for (per_key, one_by_one) in [("1", true), ("10", false)] {
        let options = small.options().set("kafka.properties", r#"{"linger.ms": 300}"#);
        let options = options.set("outbox.status.interval", "1s");
        let relay = options.set("kafka.max_in_flight_per_key", per_key).start_ready().await;
        let write = format!(
            "SELECT outboxd.emit('tested', '{per_key}', 'Tested', '{{}}', topic => '{}') \
             FROM generate_series(1, 8) n",
            small.topic
        );
        small.database.execute(&write).await;
        let sent = format!(
            "SELECT count(*) FROM outbox WHERE aggregate_id = '{per_key}' AND status = 'SENT'"
        );
        eventually("all to be SENT", SOON, || async { small.database.count(&sent).await == 8 })
            .await;
        let row = small.database.row(settled, &[&per_key]).await;
        let (transactions, took_long): (i64, bool) = (row.get(0), row.get(1));
        if one_by_one {
            assert!(took_long && transactions > 1, "{transactions} transactions, {took_long}");
        } else {
            assert_eq!(transactions, 1, "they did not go at once");
        }
        assert_eq!(relay.stop().await, 0);
    }
    small.clear().await;
}
