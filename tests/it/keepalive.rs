//! An outbox that nobody writes to must not hold back the server's WAL.

use std::time::Duration;

use crate::support::database::Database;
use crate::support::records::Kafka;
use crate::support::relay::RelayOptions;
use crate::support::wait::{SOON, eventually, stays};

#[tokio::test]
async fn an_idle_slot_follows_while_other_tables_and_databases_write() {
    let database = Database::new("idle").await;
    let other = Database::new("idle_other").await;
    let relay = RelayOptions::new(&database, &Kafka::shared()).start_ready().await;
    for database in [&database, &other] {
        database.execute("CREATE TABLE noise (text text)").await;
        let noise =
            "INSERT INTO noise SELECT repeat(md5(n::text), 30) FROM generate_series(1, 30000) n";
        database.execute(noise).await;
    }
    database.wait_until_confirmed(&database.name).await;
    let lag = "SELECT (pg_current_wal_lsn() - confirmed_flush_lsn)::int8 FROM pg_replication_slots \
               WHERE slot_name = current_database()";
    eventually("the slot to be close", SOON, || async { database.count(lag).await < 1_000_000 })
        .await;
    // And it keeps up, without anything ever being published.
    for _ in 0..3 {
        database
            .execute("INSERT INTO noise SELECT repeat('x', 1000) FROM generate_series(1, 5000)")
            .await;
        database.wait_until_confirmed(&database.name).await;
    }
    assert_eq!(relay.metric("outbox_events_added_total").await, 0.0);
    stays("the relay", Duration::from_secs(1), || async { relay.get("/readyz").await.0 == 200 })
        .await;
    assert_eq!(relay.stop().await, 0);
    database.clear().await;
}

/// A transaction that is being sent is not passed by a keepalive.
#[tokio::test]
async fn nothing_is_confirmed_while_its_transaction_is_open() {
    let database = Database::new("open").await;
    let kafka = Kafka::shared();
    let topic = crate::support::unique("open");
    kafka.create_topic(&topic, 1, &[]).await;
    let relay = RelayOptions::new(&database, &kafka).start_ready().await;
    // A transaction that began long before others committed.
    let slow = database.connect().await;
    slow.batch_execute("BEGIN").await.unwrap();
    let insert = format!(
        "SELECT outboxd.emit('tested', 'slow', 'Tested', '{{\"n\": 1}}', topic => '{topic}')"
    );
    slow.batch_execute(&insert).await.unwrap();
    for n in 2..5 {
        database.emit("tested", "fast", &topic, &format!("{{\"n\": {n}}}")).await;
    }
    kafka.wait_for(&topic, 3).await;
    database.wait_until_confirmed(&database.name).await;
    slow.batch_execute("COMMIT").await.unwrap();
    let records = kafka.wait_for(&topic, 4).await;
    let order: Vec<_> =
        records.iter().map(|record| record.json()["payload"]["n"].as_i64().unwrap()).collect();
    assert_eq!(order, [2, 3, 4, 1], "the order of commits, not of writing");
    assert_eq!(relay.stop().await, 0);
    database.clear().await;
}

/// What is shown does not wait for the next event or the next feedback.
#[tokio::test]
async fn what_is_shown_follows_at_once() {
    let database = Database::new("shown").await;
    let kafka = Kafka::shared();
    let topic = crate::support::unique("shown");
    kafka.create_topic(&topic, 1, &[]).await;
    let relay = RelayOptions::new(&database, &kafka).start_ready().await;
    // Feedback goes out every ten seconds: by itself it would not be soon enough.
    let at_once = Duration::from_secs(4);
    eventually("streaming", at_once, || async { relay.state().await == "streaming" }).await;
    database.emit("tested", "key", &topic, "{}").await;
    kafka.wait_for(&topic, 1).await;
    eventually("an empty window", at_once, || async {
        let status = relay.status().await;
        status["in_flight"]["events"] == 0 && status["position"] != "0/0/0"
    })
    .await;
    assert_eq!(relay.stop().await, 0);
    database.clear().await;
}
