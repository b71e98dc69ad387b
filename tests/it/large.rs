//! Large transactions and large rows, with the memory that they take.

use crate::support::database::Database;
use crate::support::records::Kafka;
use crate::support::relay::RelayOptions;
use crate::support::small::Small;
use crate::support::wait::{LATER, SOON, eventually};
use crate::support::{server_apart, unique};

const MIB: u64 = 1 << 20;

#[tokio::test]
async fn a_million_rows_in_one_transaction_pass_in_bounded_memory() {
    let server = server_apart();
    let database = Database::new_at(&server.url("postgres"), "million").await;
    let kafka = Kafka::shared();
    let topic = unique("million");
    kafka.create_topic(&topic, 6, &[]).await;
    let options = RelayOptions::new(&database, &kafka).set("outbox.status.mode", "ledger");
    let relay = options.start_ready().await;
    let write = format!(
        "INSERT INTO outbox (aggregate_type, aggregate_id, event_type, payload, topic) \
         SELECT 'tested', 'k' || n % 5000, 'Tested', jsonb_build_object('n', n), '{topic}' \
         FROM generate_series(1, 1000000) n ORDER BY n"
    );
    database.execute(&write).await;

    // A kill in the middle: what was settled is not sent again, though nothing is confirmed.
    let settled = "SELECT count(*) FROM outboxd.ledger";
    eventually("some to be settled", LATER, || async { database.count(settled).await > 200_000 })
        .await;
    relay.kill().await;
    assert!(database.count(settled).await < 1_000_000, "it was too fast to be killed");
    let commit = database.count("SELECT (position_lsn - '0/0')::int8 FROM outboxd.relay").await;
    let confirmed = database.confirmed(&database.name).await.unwrap();
    assert!(confirmed <= commit as u64, "a transaction was confirmed before it was settled whole");
    let relay = options.start_ready().await;
    eventually("all to be settled", LATER, || async { database.count(settled).await == 1_000_000 })
        .await;
    database.wait_until_confirmed(&database.name).await;
    let (_, peak) = relay.memory();
    assert!(peak < 100 * MIB, "{} MiB", peak / MIB);

    let records = kafka.read(&[&topic]);
    let duplicates = records.len() - 1_000_000;
    assert!(duplicates <= 10_000, "{duplicates} duplicates");
    let mut last = std::collections::HashMap::new();
    for record in &records {
        let n = record.json()["payload"]["n"].as_i64().unwrap();
        let last = last.entry(record.key().to_owned()).or_insert((n - 5_000).max(0));
        assert!(n <= *last + 5_000, "{}: {n} after {last}", record.key());
        *last = n.max(*last);
    }
    assert_eq!(relay.stop().await, 0);
    database.clear().await;
}

#[tokio::test]
async fn a_row_of_16_mib_arrives_whole_in_bounded_memory() {
    let database = Database::new("wide").await;
    let kafka = Kafka::shared();
    let topic = unique("wide");
    kafka.create_topic(&topic, 1, &[("max.message.bytes", "40000000")]).await;
    database.execute("ALTER TABLE outbox DROP CONSTRAINT outbox_payload_size").await;
    let relay = RelayOptions::new(&database, &kafka).start_ready().await;
    for key in ["a", "b", "a"] {
        let sql = format!(
            "SELECT outboxd.emit('tested', '{key}', 'Tested', \
                jsonb_build_object('text', repeat(md5('{key}'), 524288)), topic => '{topic}')"
        );
        database.execute(&sql).await;
        database.emit("tested", key, &topic, "{}").await;
    }
    let records = kafka.wait_for(&topic, 6).await;
    let sizes: Vec<_> = records.iter().map(|record| record.value.as_ref().unwrap().len()).collect();
    assert_eq!(sizes.iter().filter(|size| **size > 16 << 20).count(), 3, "{sizes:?}");
    eventually("all to be SENT", SOON, || async {
        database.statuses().await.get("SENT") == Some(&6)
    })
    .await;
    let (now, peak) = relay.memory();
    assert!(peak < 256 * MIB, "{} MiB at most", peak / MIB);
    assert!(now < 100 * MIB, "{} MiB stay", now / MIB);
    assert_eq!(relay.stop().await, 0);
    database.clear().await;
}

/// A row above `outbox.max_row_bytes` is not held in memory, but read to its end: what says that it
/// is not to be published comes last, and it has its place among the rows of its transaction.
#[tokio::test]
async fn a_row_above_the_limit_that_is_not_pending_passes_without_being_held() {
    let small = Small::new("passing").await;
    small.database.execute("ALTER TABLE outbox DROP CONSTRAINT outbox_payload_size").await;
    let options = small.options().set("outbox.max_row_bytes", "1MiB");
    let options = options.set("envelope.headers", r#"["event_id", "position"]"#);
    let relay = options.start_ready().await;
    small.emit("a", 0).await;
    small.wait_for_sent(1).await;
    let (before, _) = relay.memory();
    let write = format!(
        "INSERT INTO outbox (aggregate_type, aggregate_id, event_type, payload, topic, status) \
         SELECT 'tested', 'a', 'Tested', jsonb_build_object('text', repeat(md5(''), n * 1310720)), \
            '{}', CASE n WHEN 1 THEN 'SENT' ELSE 'PENDING' END FROM generate_series(1, 0, -1) n",
        small.topic
    );
    for count in 2..5 {
        small.database.execute(&write).await;
        let records = small.kafka.wait_for(&small.topic, count).await;
        let position = records.last().unwrap().header("position").unwrap().to_owned();
        assert!(position.ends_with("/1"), "{position}: the large row comes first");
    }
    small.database.wait_until_confirmed(&small.database.name).await;
    let (_, peak) = relay.memory();
    assert!(peak < before + 8 * MIB, "{} MiB, before {}", peak / MIB, before / MIB);
    assert_eq!(relay.stop().await, 0);
    small.clear().await;
}
