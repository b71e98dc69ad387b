//! PostgreSQL away, stopping, or set up so that it would wait for us.

use std::time::Duration;

use outboxd::demo::{StopMode, TempPostgres};

use crate::support::database::Database;
use crate::support::kafka_proxy::KafkaProxy;
use crate::support::pg_bin;
use crate::support::records::Kafka;
use crate::support::relay::RelayOptions;
use crate::support::stage::Stage;
use crate::support::wait::{SOON, eventually, until};

#[tokio::test]
async fn postgresql_may_come_after_the_relay() {
    let mut server = TempPostgres::start(&pg_bin(), &[]).unwrap();
    let database = Database::new_at(&server.url("postgres"), "late").await;
    let mut stage = Stage::at(database, Kafka::shared(), "late", 10).await;
    server.stop(StopMode::Fast);
    let relay = stage.options().start();
    relay.wait_until_logged("OBX-2001").await;
    assert_eq!(relay.get("/readyz").await.0, 503);
    assert_eq!(relay.get("/livez").await.0, 200);
    server.start_again().unwrap();
    stage.database.reconnect().await;
    relay.wait_for_state("streaming").await;
    stage.workload.write(&stage.database, 100).await;
    stage.check(0).await;
    assert_eq!(relay.stop().await, 0);
}

/// `pg_ctl stop -m fast` waits until every walsender has confirmed all WAL. A relay that cannot,
/// because Kafka does not answer, has to let go.
#[tokio::test]
async fn s22_a_fast_stop_of_the_server_does_not_wait_for_us() {
    let mut server = TempPostgres::start(&pg_bin(), &[]).unwrap();
    let database = Database::new_at(&server.url("postgres"), "s22").await;
    let mut stage = Stage::at(database, Kafka::shared(), "s22", 10).await;
    let proxy = KafkaProxy::before(&stage.kafka);
    let options = stage.options().set("kafka.bootstrap_servers", &proxy.kafka().servers);
    let relay = options.start_ready().await;
    stage.workload.write(&stage.database, 100).await;
    stage.check(0).await;
    proxy.proxy.silence();
    stage.workload.write(&stage.database, 100).await;
    eventually("events in flight", SOON, || async {
        relay.status().await["in_flight"]["events"].as_u64() >= Some(100)
    })
    .await;
    let began = std::time::Instant::now();
    server.signal_stop(StopMode::Fast);
    let stopping = std::sync::Mutex::new(&mut server);
    eventually("the server to stop", Duration::from_secs(15), || async {
        stopping.lock().unwrap().has_stopped()
    })
    .await;
    assert!(began.elapsed() < Duration::from_secs(10), "it took {:?}", began.elapsed());
    server.stop(StopMode::Fast);
    proxy.proxy.heal();
    server.start_again().unwrap();
    stage.database.reconnect().await;
    relay.wait_for_state("streaming").await;
    stage.check(10_000).await;
    assert_eq!(relay.stop().await, 0);
}

/// A prepared transaction that nobody ends blocks the creation of a slot. It is named.
#[tokio::test]
async fn s23_what_blocks_the_slot_is_named_within_a_deadline() {
    let server = TempPostgres::start(&pg_bin(), &[]).unwrap();
    let database = Database::new_at(&server.url("postgres"), "s23").await;
    database.execute("CREATE TABLE orphan (n int)").await;
    let orphan = database.connect().await;
    orphan.batch_execute("BEGIN; INSERT INTO orphan VALUES (1)").await.unwrap();
    orphan.batch_execute("PREPARE TRANSACTION 'forgotten-by-all'").await.unwrap();
    let kafka = Kafka::shared();
    let options = RelayOptions::new(&database, &kafka);
    let relay = options.start();
    let blocked = || async { relay.has_logged("forgotten-by-all") };
    eventually("the prepared transaction's name", Duration::from_secs(40), blocked).await;
    assert!(relay.has_logged("OBX-2033"));
    assert_eq!(relay.get("/readyz").await.0, 503);
    let (code, _, said) = options.command_output(&["slot", "create"]);
    assert_eq!(code, 69);
    assert!(said.contains("forgotten-by-all"), "{said}");
    database.execute("ROLLBACK PREPARED 'forgotten-by-all'").await;
    eventually("the relay to go on", Duration::from_secs(60), || async {
        relay.state().await == "streaming"
    })
    .await;
    assert_eq!(relay.stop().await, 0);
    let slots = database.count("SELECT count(*) FROM pg_replication_slots").await;
    assert_eq!(slots, 1, "the attempts left no slot behind");
}

/// The relay's role does not see since when sessions of others are in their transactions.
#[tokio::test]
async fn s23_a_session_that_blocks_the_slot_is_named_to_a_role_without_rights() {
    let server = TempPostgres::start(&pg_bin(), &[]).unwrap();
    let database = Database::new_at(&server.url("postgres"), "s23_role").await;
    database.execute("CREATE ROLE plain LOGIN REPLICATION IN ROLE outboxd").await;
    let writer = database.connect().await;
    writer.batch_execute("SET application_name = 'a-long-job'; BEGIN").await.unwrap();
    writer.batch_execute("CREATE TABLE left_open (n int)").await.unwrap();
    let plain = database.url.replace("postgres@", "plain@");
    let options = RelayOptions::new(&database, &Kafka::shared()).set("postgres.url", &plain);
    let (code, _, said) = options.command_output(&["slot", "create"]);
    assert_eq!(code, 69, "{said}");
    assert!(said.contains("OBX-2033") && said.contains("(postgres"), "{said}");
    writer.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(options.command_output(&["slot", "create"]).0, 0);
}

/// `synchronous_standby_names = '*'` makes our walsender a synchronous standby: commits would wait
/// for us, and we for our own.
#[tokio::test]
async fn s11_a_synchronous_standby_refuses_to_be_one() {
    let server = TempPostgres::start(&pg_bin(), &[]).unwrap();
    let database = Database::new_at(&server.url("postgres"), "s11").await;
    let options = RelayOptions::new(&database, &Kafka::shared());
    let mut relay = options.start_ready().await;
    database.execute("ALTER SYSTEM SET synchronous_standby_names = '*'").await;
    database.execute("SELECT pg_reload_conf()").await;
    assert_eq!(relay.wait().await.code(), Some(78));
    assert!(relay.has_logged("OBX-2006"));
    // And at the start.
    let mut relay = options.start();
    assert_eq!(relay.wait().await.code(), Some(78));
    assert!(relay.has_logged("OBX-2006"));
}

/// A role whose default is `synchronous_commit = off`: a status must be durable before the slot
/// moves past its event, whatever the role says.
#[tokio::test]
async fn s12_statuses_are_durable_before_the_slot_moves() {
    let settings = [("wal_writer_delay", "10s"), ("checkpoint_timeout", "1h")];
    let mut server = TempPostgres::start(&pg_bin(), &settings).unwrap();
    let database = Database::new_at(&server.url("postgres"), "s12").await;
    let mut stage = Stage::at(database, Kafka::shared(), "s12", 10).await;
    stage.database.execute("ALTER ROLE postgres SET synchronous_commit = off").await;
    let relay = stage.options().start_ready().await;
    for round in 0..5 {
        let sql = "SET synchronous_commit = on; SELECT outboxd.emit('tested', 'k', 'Tested', '{}', topic => '";
        let topic = &stage.workload.topic_names()[0];
        stage.database.execute(&format!("{sql}{topic}')")).await;
        let expected = i64::from(round) + 1;
        eventually("it to be SENT", SOON, || async {
            stage.database.statuses().await.get("SENT") == Some(&expected)
        })
        .await;
        let slot = stage.slot();
        let settled: i64 = stage
            .database
            .row("SELECT (position_lsn - '0/0')::int8 FROM outboxd.relay WHERE slot = $1", &[&slot])
            .await
            .get(0);
        until("the slot to move past it", SOON, || async {
            let confirmed = stage.database.confirmed(&slot).await?;
            (confirmed > settled as u64).then_some(())
        })
        .await;
        server.stop(StopMode::Kill);
        server.start_again().unwrap();
        stage.database.reconnect().await;
        let sent = stage.database.statuses().await.get("SENT").copied();
        assert_eq!(sent, Some(expected), "round {round}: a status was lost");
        relay.wait_for_state("streaming").await;
    }
    assert_eq!(relay.stop().await, 0);
}
