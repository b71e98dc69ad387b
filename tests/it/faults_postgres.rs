//! Faults of PostgreSQL and of the way to it.

use std::time::Duration;

use outboxd::demo::{StopMode, TempPostgres};

use crate::support::checker::wait_until_all_sent;
use crate::support::database::Database;
use crate::support::pg_bin;
use crate::support::proxy::{Cut, Proxy};
use crate::support::records::Kafka;
use crate::support::relay::{Relay, RelayOptions};
use crate::support::stage::Stage;
use crate::support::wait::{SOON, eventually, until};

/// What an incident may repeat, as configured in these tests.
const WINDOW: usize = 2_000;

async fn stage(server: &TempPostgres, name: &str) -> (Stage, RelayOptions) {
    let database = Database::new_at(&server.url("postgres"), name).await;
    let stage = Stage::at(database, Kafka::shared(), name, 200).await;
    let options = stage.options().set("kafka.in_flight_events", &WINDOW.to_string());
    (stage, options)
}

async fn ends_well(stage: &Stage, relay: Relay, duplicates_at_most: usize) {
    let verdict = stage.check(duplicates_at_most).await;
    assert!(verdict.delivered > 500, "hardly anything was tested: {verdict:?}");
    assert_eq!(stage.database.statuses().await.get("FAILED"), None);
    assert_eq!(relay.stop().await, 0);
}

/// The server crashes after each few hundred events, without a checkpoint in between: the slot goes
/// back, and what is settled is not repeated.
#[tokio::test]
async fn f06_a_server_that_crashes_again_and_again_repeats_only_what_was_in_flight() {
    let settings = [("checkpoint_timeout", "1h"), ("max_wal_size", "8GB")];
    let mut server = TempPostgres::start(&pg_bin(), &settings).unwrap();
    let (mut stage, options) = stage(&server, "f06").await;
    let relay = options.start_ready().await;
    let writing = stage.workload.start(&stage.database);
    for mode in [StopMode::Kill, StopMode::Immediate, StopMode::Kill] {
        stage.database.wait_for_more(500).await;
        server.stop(mode);
        server.start_again().unwrap();
        stage.database.reconnect().await;
    }
    writing.stop().await;
    relay.tells("outbox_replication_reconnects_total").await;
    relay.tells("outbox_duplicates_suppressed_total").await;
    ends_well(&stage, relay, 3 * WINDOW).await;
}

/// The walsender is ended again and again.
#[tokio::test]
async fn f07_a_stream_that_is_ended_again_and_again_goes_on() {
    let server = TempPostgres::start(&pg_bin(), &[]).unwrap();
    let (stage, options) = stage(&server, "f07").await;
    let options = options.set("relay.reconnect_backoff", "50ms");
    let relay = options.start_ready().await;
    let writing = stage.workload.start(&stage.database);
    let mut descriptors = 0;
    for round in 0..15 {
        stage.database.wait_for_more(200).await;
        // By then all is open that is opened once; between two sessions it is less.
        if round <= 5 {
            descriptors = descriptors.max(relay.descriptors() + 8);
        }
        let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_replication";
        until("a stream to end", SOON, || async {
            (stage.database.count(end).await > 0).then_some(())
        })
        .await;
    }
    writing.stop().await;
    relay.tells("outbox_replication_reconnects_total").await;
    wait_until_all_sent(&stage.database).await;
    eventually("nothing to be left of ten sessions", SOON, || async {
        relay.descriptors() <= descriptors
    })
    .await;
    ends_well(&stage, relay, 15 * WINDOW).await;
}

/// The network to PostgreSQL goes silent: nobody is told, nothing arrives. For a moment, and for
/// longer than the server has patience.
#[tokio::test]
async fn f14_a_silent_network_to_postgresql_costs_nothing_but_time() {
    let server = TempPostgres::start(&pg_bin(), &[("wal_sender_timeout", "5s")]).unwrap();
    let (stage, options) = stage(&server, "f14").await;
    let proxy = Proxy::before(server.port());
    let options = options.set("postgres.url", &proxy.url(&stage.database.url));
    let relay = options.start_ready().await;
    let writing = stage.workload.start(&stage.database);
    stage.database.wait_for_more(300).await;
    proxy.silence();
    let stalled_at = stage.database.sent().await;
    eventually("a moment", SOON, || async { relay.get("/livez").await.0 == 200 }).await;
    proxy.heal();
    eventually("it to go on", SOON, || async { stage.database.sent().await > stalled_at + 300 })
        .await;

    proxy.silence();
    let streams = "SELECT count(*) FROM pg_stat_replication";
    eventually("the server to give up the stream", SOON, || async {
        stage.database.count(streams).await == 0
    })
    .await;
    // What was on its way is lost with the connections.
    proxy.cut(Cut::Reset);
    proxy.heal();
    writing.stop().await;
    relay.tells("outbox_replication_reconnects_total").await;
    relay.tells("OBX-2001").await;
    ends_well(&stage, relay, 2 * WINDOW).await;
}

/// Only one of the relay's connections is cut, each in turn.
#[tokio::test]
async fn f14_a_connection_that_is_cut_ends_the_session_and_no_more() {
    let server = TempPostgres::start(&pg_bin(), &[]).unwrap();
    let (stage, options) = stage(&server, "f14_one").await;
    let proxy = Proxy::before(server.port());
    let options = options.set("postgres.url", &proxy.url(&stage.database.url));
    let relay = options.start_ready().await;
    let writing = stage.workload.start(&stage.database);
    let connections = ["outboxd status writer", "outboxd control", "replication"];
    for (only, cut) in
        connections.into_iter().flat_map(|only| [(only, Cut::Reset), (only, Cut::End)])
    {
        stage.database.wait_for_more(300).await;
        let before = relay.metric("outbox_replication_reconnects_total").await;
        proxy.order(|orders| orders.only = Some(only));
        proxy.cut(cut);
        eventually(format!("{only} to be missed"), SOON, || async {
            relay.metric("outbox_replication_reconnects_total").await > before
        })
        .await;
        proxy.heal();
    }
    writing.stop().await;
    relay.tells("OBX-2001").await;
    ends_well(&stage, relay, 6 * WINDOW).await;
}

/// A latency of 200 ms ± 100 ms and 64 kB/s: the server does not lose patience.
#[tokio::test]
async fn f16_a_slow_network_to_postgresql_keeps_the_link() {
    let server = TempPostgres::start(&pg_bin(), &[("wal_sender_timeout", "5s")]).unwrap();
    let (stage, options) = stage(&server, "f16_pg").await;
    let proxy = Proxy::before(server.port());
    let options = options.set("postgres.url", &proxy.url(&stage.database.url));
    let relay = options.start_ready().await;
    proxy.order(|orders| {
        for way in [&mut orders.requests, &mut orders.answers] {
            way.delay = Duration::from_millis(100);
            way.jitter = Duration::from_millis(200);
            way.bytes_per_second = Some(64_000);
        }
    });
    stage.workload.write(&stage.database, 1_500).await;
    relay.tells("outbox_relay_lag_seconds").await;
    stage.check(0).await;
    proxy.heal();
    ends_well(&stage, relay, 0).await;
    assert!(!server.logged().contains("due to replication timeout"));
}

/// The settle transaction is committed, its answer is lost with the connection: the relay does not
/// know its position, and finds it.
#[tokio::test]
async fn f17_a_settle_whose_answer_is_lost_repeats_only_what_was_in_flight() {
    let server = TempPostgres::start(&pg_bin(), &[]).unwrap();
    let (stage, options) = stage(&server, "f17_pg").await;
    let proxy = Proxy::before(server.port());
    let options = options.set("postgres.url", &proxy.url(&stage.database.url));
    let relay = options.start_ready().await;
    let writing = stage.workload.start(&stage.database);
    for _ in 0..5 {
        stage.database.wait_for_more(300).await;
        proxy.order(|orders| {
            orders.only = Some("outboxd status writer");
            orders.answers.frozen = true;
        });
        // Nothing is settled any more, so far as the relay knows.
        eventually("a settle without an answer", SOON, || async {
            relay.status().await["in_flight"]["events"].as_u64() >= Some(WINDOW as u64 / 2)
        })
        .await;
        proxy.cut(Cut::Reset);
        proxy.heal();
    }
    writing.stop().await;
    relay.tells("outbox_replication_reconnects_total").await;
    ends_well(&stage, relay, 5 * WINDOW).await;
}

/// The slot is dropped while the relay is away; what was written before and after is published by a
/// sweep.
#[tokio::test]
async fn f32_a_slot_that_is_dropped_is_a_halt_and_loses_nothing() {
    let stage = Stage::new("f32", 100).await;
    let options = stage.options();
    let relay = options.start_ready().await;
    stage.workload.write(&stage.database, 1_000).await;
    relay.kill().await;
    stage.workload.write(&stage.database, 500).await;
    let drop = format!("SELECT pg_drop_replication_slot('{}')", stage.slot());
    until("the slot to be free", SOON, || async {
        stage.database.sql.batch_execute(&drop).await.ok()
    })
    .await;
    stage.workload.write(&stage.database, 500).await;
    let (code, _, said) = options.command_output(&["run"]);
    assert_eq!((code, said.contains("OBX-2030")), (73, true), "{said}");
    options.tells("OBX-2030").await;
    let (code, _, said) = options.command_output(&["slot", "drop", "--yes"]);
    assert_eq!(code, 0, "{said}");
    let writing = stage.workload.start(&stage.database);
    let relay = options.start_ready().await;
    stage.database.wait_for_more(500).await;
    writing.stop().await;
    // Acknowledged, and not settled at the kill.
    ends_well(&stage, relay, 10_000).await;
    stage.clear().await;
}

/// The role may not replicate any more: the stream that there is goes on, the next one is refused,
/// and nothing is lost when it may again.
#[tokio::test]
async fn f35_a_role_that_loses_its_right_to_replicate_stops_the_relay_and_loses_nothing() {
    let server = TempPostgres::start(&pg_bin(), &[]).unwrap();
    let (stage, options) = stage(&server, "f35").await;
    let url = stage.database.url.replace("postgres://postgres@", "postgres://outboxd@");
    let options = options.set("postgres.url", &url);
    let mut relay = options.start_ready().await;
    let writing = stage.workload.start(&stage.database);
    stage.database.wait_for_more(300).await;
    stage.database.execute("ALTER ROLE outboxd NOREPLICATION").await;
    stage.database.wait_for_more(300).await;
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_replication";
    stage.database.execute(end).await;
    let code = relay.wait().await.code();
    assert_eq!(code, Some(77), "{}", relay.logged().join("\n"));
    options.tells("halted").await;
    writing.stop().await;
    stage.database.execute("ALTER ROLE outboxd REPLICATION").await;
    let relay = options.start_ready().await;
    ends_well(&stage, relay, WINDOW).await;
}

/// The table changes under load in ways that the relay need not care about.
#[tokio::test]
async fn f31_changes_of_the_table_that_are_not_mapped_stop_nothing() {
    let server = TempPostgres::start(&pg_bin(), &[]).unwrap();
    let (stage, options) = stage(&server, "f31").await;
    let relay = options.start_ready().await;
    let writing = stage.workload.start(&stage.database);
    for change in [
        "ALTER TABLE outbox ADD COLUMN added text",
        "ALTER TABLE outbox ADD COLUMN filled int NOT NULL DEFAULT 7",
        "ALTER TABLE outbox ALTER COLUMN added SET DEFAULT 'x'",
        "ALTER TABLE outbox ALTER COLUMN filled TYPE bigint",
        "ALTER TABLE outbox RENAME COLUMN added TO renamed",
        "ALTER TABLE outbox DROP COLUMN renamed",
        "VACUUM FULL outbox",
    ] {
        stage.database.wait_for_more(200).await;
        stage.database.execute(change).await;
    }
    stage.database.wait_for_more(200).await;
    writing.stop().await;
    ends_well(&stage, relay, 2 * WINDOW).await;
}

/// Rows are deleted before the relay reads them: they were committed, and are published.
#[tokio::test]
async fn f36_rows_that_are_gone_before_they_are_read_are_published() {
    for remove in ["DELETE FROM outbox", "TRUNCATE outbox"] {
        let stage = Stage::new("f36", 50).await;
        let options = stage.options();
        assert_eq!(options.start_ready().await.stop().await, 0);
        stage.workload.write(&stage.database, 1_000).await;
        stage.database.execute(remove).await;
        let relay = options.start_ready().await;
        stage.database.wait_until_confirmed(&stage.slot()).await;
        let verdict =
            crate::support::checker::verdict(&stage.database, &stage.kafka, &stage.workload).await;
        verdict.assert_kept(0);
        assert!(verdict.delivered >= 1_000, "{verdict:?}");
        assert_eq!(relay.stop().await, 0);
        stage.clear().await;
    }
}

/// Commits wait for a synchronous standby that is not there: their events are streamed before
/// anybody can see their rows.
#[tokio::test]
async fn f39_rows_that_cannot_be_seen_yet_are_not_taken_for_deleted() {
    let server = TempPostgres::start(&pg_bin(), &[]).unwrap();
    let (stage, options) = stage(&server, "f39").await;
    let relay = options.start_ready().await;
    let writing = stage.workload.start(&stage.database);
    for _ in 0..3 {
        stage.database.wait_for_more(200).await;
        stage.database.execute("ALTER SYSTEM SET synchronous_standby_names = 'nosuch'").await;
        stage.database.execute("SELECT pg_reload_conf()").await;
        let waiting = "SELECT count(*) FROM pg_stat_activity \
                       WHERE wait_event = 'SyncRep' OR wait_event_type = 'Lock'";
        // Four writers, of which some wait for others, and the status writer.
        eventually("all commits to wait", SOON, || async {
            stage.database.count(waiting).await >= 5
        })
        .await;
        relay.tells("outbox_relay_lag_seconds").await;
        stage.database.execute("ALTER SYSTEM RESET synchronous_standby_names").await;
        stage.database.execute("SELECT pg_reload_conf()").await;
    }
    writing.stop().await;
    ends_well(&stage, relay, 0).await;
}
