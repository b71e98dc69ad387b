//! Rows from before the slot.

use std::time::Duration;

use crate::support::database::Database;
use crate::support::kafka_proxy::KafkaProxy;
use crate::support::records::Kafka;
use crate::support::stage::Stage;
use crate::support::wait::{LATER, SOON, eventually};

#[tokio::test]
async fn rows_from_before_the_slot_come_first_without_a_gap_or_an_overlap() {
    let stage = Stage::new("sweep", 100).await;
    // Rows that are older than the slot, more while it is made, and more after it.
    stage.workload.write(&stage.database, 5_000).await;
    let writing = stage.workload.start(&stage.database);
    let relay = stage.options().start_ready().await;
    eventually("the stream to be on", SOON, || async { relay.state().await == "streaming" }).await;
    eventually("it to publish what is new", SOON, || async {
        relay.metric("events_processed_total").await > 6_000.0
    })
    .await;
    writing.stop().await;
    stage.check(0).await;
    assert!(relay.has_logged("published the rows older than the slot"));
    assert_eq!(relay.stop().await, 0);
    // Once is enough.
    let relay = stage.options().start_ready().await;
    assert!(!relay.has_logged("published the rows older than the slot"));
    assert_eq!(relay.stop().await, 0);
    stage.clear().await;
}

#[tokio::test]
async fn start_stream_leaves_older_rows_alone() {
    let stage = Stage::new("no_sweep", 10).await;
    stage.workload.write(&stage.database, 100).await;
    let old = stage.database.count("SELECT count(*) FROM outbox").await;
    let relay = stage.options().set("outbox.start", "stream").start_ready().await;
    stage.database.emit("tested", "k", &stage.workload.topic_names()[0], "{}").await;
    eventually("the new row to be SENT", SOON, || async {
        stage.database.statuses().await.get("SENT") == Some(&1)
    })
    .await;
    assert_eq!(stage.database.statuses().await.get("PENDING"), Some(&old));
    assert_eq!(relay.stop().await, 0);
    stage.clear().await;
}

/// A sweep dies: its snapshot is gone, and the slot brings only what came after it. Nothing may be
/// lost, and no other relay may stream before the sweep is done.
#[tokio::test]
async fn s4_a_sweep_that_died_is_swept_again_before_anything_is_streamed() {
    for mode in ["update", "ledger", "delete"] {
        let stage = Stage::new("s4", 50).await;
        let proxy = KafkaProxy::before(&stage.kafka);
        stage.workload.write(&stage.database, 20_000).await;
        let options = stage.options().set("outbox.status.mode", mode);
        let options = options.set("kafka.in_flight_events", "500");
        let options = options.set("kafka.bootstrap_servers", &proxy.kafka().servers);
        // The sweep is in its middle when Kafka stops answering; a second relay waits.
        let relay = options.start();
        let swept = "SELECT count(*) FROM outbox o JOIN truth t ON t.event_id = o.id::text \
                     WHERE o.status = 'PENDING' AND NOT EXISTS \
                        (SELECT FROM outboxd.ledger l WHERE l.event_id = t.event_id)";
        eventually("some of them to be settled", SOON, || async {
            relay.metric("events_processed_total").await > 0.0
        })
        .await;
        proxy.proxy.silence();
        let left = stage.database.count(swept).await;
        assert!(left > 0, "it was to be in its middle");
        assert!(!relay.has_logged("published the rows older than the slot"));
        let standby = options.start();
        standby.wait_for_state("standby").await;
        stage.workload.write(&stage.database, 500).await;
        relay.kill().await;
        proxy.proxy.heal();
        // The standby takes over: it sweeps again, although the slot is there.
        standby.wait_for_state("streaming").await;
        assert!(standby.has_logged("published the rows older than the slot"));
        stage.workload.write(&stage.database, 500).await;
        let expected = "SELECT count(*) FROM truth";
        eventually("everything to be settled", LATER, || async {
            stage.database.count(swept).await == 0
        })
        .await;
        stage.database.wait_until_confirmed(&stage.slot()).await;
        let verdict =
            crate::support::checker::verdict(&stage.database, &stage.kafka, &stage.workload).await;
        verdict.assert_kept(500);
        assert_eq!(verdict.delivered as i64, stage.database.count(expected).await);
        assert_eq!(standby.stop().await, 0);
        stage.clear().await;
    }
}

/// A slot that was made beforehand: what is older than it is published, what it brings comes once.
#[tokio::test]
async fn a_slot_that_was_there_already_and_the_sweep_overlap_without_duplicates() {
    let stage = Stage::new("overlap", 50).await;
    stage.workload.write(&stage.database, 1_000).await;
    let (code, said, _) = stage.options().command_output(&["slot", "create"]);
    assert_eq!(code, 0, "{said}");
    let writing = stage.workload.start(&stage.database);
    eventually("rows that the slot and the table both have", SOON, || async {
        stage.database.count("SELECT count(*) FROM truth").await > 2_500
    })
    .await;
    let relay = stage.options().start_ready().await;
    eventually("the stream to go on", SOON, || async { relay.state().await == "streaming" }).await;
    writing.stop().await;
    stage.check(0).await;
    assert!(relay.metric("outbox_duplicates_suppressed_total").await > 500.0);
    assert_eq!(relay.stop().await, 0);
    stage.clear().await;
}

/// Two transactions that the aggregate's row lock serialises: time and transaction id order them
/// the wrong way round, `seq` does not.
#[tokio::test]
async fn s14_a_sweep_follows_the_order_of_commits_within_a_key() {
    let database = Database::new("s14").await;
    let kafka = Kafka::shared();
    let topic = crate::support::unique("s14");
    kafka.create_topic(&topic, 1, &[]).await;
    database.execute("CREATE TABLE lock (id int PRIMARY KEY); INSERT INTO lock VALUES (1)").await;
    let (first, second) = (database.connect().await, database.connect().await);
    let begin = "BEGIN; SELECT now(), txid_current()";
    for sql in [&first, &second] {
        sql.batch_execute(begin).await.unwrap();
    }
    // The one that began later commits first.
    for (sql, n) in [(&second, 1), (&first, 2)] {
        let write = format!(
            "SELECT FROM lock WHERE id = 1 FOR UPDATE; \
             SELECT outboxd.emit('tested', 'k', 'Tested', '{{\"n\": {n}}}', topic => '{topic}'); COMMIT"
        );
        sql.batch_execute(&write).await.unwrap();
    }
    let inverted: bool = database
        .row("SELECT (SELECT payload->>'n' FROM outbox ORDER BY occurred_at LIMIT 1) = '2'", &[])
        .await
        .get(0);
    assert!(inverted, "the set-up does not show the hazard");
    let relay = crate::support::relay::RelayOptions::new(&database, &kafka).start_ready().await;
    let records = kafka.wait_for(&topic, 2).await;
    let order: Vec<_> =
        records.iter().map(|r| r.json()["payload"]["n"].as_i64().unwrap()).collect();
    assert_eq!(order, [1, 2]);
    assert_eq!(relay.stop().await, 0);
    database.clear().await;
}

/// Without such a column the sweep says that it may invert; with one configured it follows it.
#[tokio::test]
async fn a_sweep_says_when_it_cannot_follow_the_order() {
    let database = Database::new("order").await;
    let kafka = Kafka::shared();
    let topic = crate::support::unique("order");
    kafka.create_topic(&topic, 1, &[]).await;
    database.execute("ALTER TABLE outbox DROP COLUMN seq; ALTER TABLE outbox ADD rank int").await;
    for n in 0..10 {
        let id = database.emit("tested", "k", &topic, &format!("{{\"n\": {n}}}")).await;
        let rank = format!("UPDATE outbox SET rank = {} WHERE id = '{id}'", 100 - n);
        database.execute(&rank).await;
    }
    let options = crate::support::relay::RelayOptions::new(&database, &kafka);
    let relay = options.set("outbox.sweep_order", "[\"rank\"]").start_ready().await;
    let records = kafka.wait_for(&topic, 10).await;
    let order: Vec<_> =
        records.iter().map(|r| r.json()["payload"]["n"].as_i64().unwrap()).collect();
    assert_eq!(order, [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]);
    assert!(!relay.has_logged("can invert"));
    assert_eq!(relay.stop().await, 0);
    let slot = database.name.clone();

    // A second relay of the same table, without the setting.
    database.execute("UPDATE outbox SET status = 'PENDING', sent_at = NULL").await;
    let options = crate::support::relay::RelayOptions::new(&database, &kafka)
        .set("relay.id", "second")
        .set("postgres.slot", &format!("{slot}_b"));
    let relay = options.start_ready().await;
    relay.wait_until_logged("can invert").await;
    kafka.wait_for(&topic, 20).await;
    assert_eq!(relay.stop().await, 0);
    let free = format!("SELECT pg_drop_replication_slot('{slot}_b')");
    eventually("the slot to be free", Duration::from_secs(10), || async {
        database.sql.batch_execute(&free).await.is_ok()
    })
    .await;
    database.clear().await;
}
