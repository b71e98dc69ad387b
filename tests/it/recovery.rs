//! Slots that are lost, and the way back.

use std::time::Duration;

use nix::sys::signal::Signal;
use outboxd::demo::TempPostgres;

use crate::support::database::Database;
use crate::support::pg_bin;
use crate::support::records::Kafka;
use crate::support::small::Small;
use crate::support::stage::Stage;
use crate::support::wait::{LATER, SOON, eventually};

/// A server that does not keep WAL that nobody needs.
const TIDY: [(&str, &str); 2] = [("max_wal_size", "32MB"), ("min_wal_size", "32MB")];

async fn stage(server: &TempPostgres, name: &str) -> Stage {
    let database = Database::new_at(&server.url("postgres"), name).await;
    let stage = Stage::at(database, Kafka::shared(), name, 50).await;
    let mut stage = stage.without_oracle().await;
    stage.workload.pace = Some(Duration::from_millis(20));
    stage.workload.writers = 8;
    stage
}

pub async fn wal_status(stage: &Stage) -> Option<String> {
    let sql = "SELECT wal_status FROM pg_replication_slots WHERE slot_name = $1";
    let row = stage.database.sql.query_opt(sql, &[&stage.slot()]).await.unwrap();
    row.and_then(|row| row.get(0))
}

/// Has the server keep little WAL for slots, and writes some until it gives the slot up.
async fn lose_slot(stage: &Stage) {
    stage.database.execute("ALTER SYSTEM SET max_slot_wal_keep_size = '48MB'").await;
    stage.database.execute("SELECT pg_reload_conf()").await;
    for _ in 0..8 {
        let fill = "SELECT pg_logical_emit_message(false, 'test', 'x'), pg_switch_wal()";
        stage.database.sql.query(fill, &[]).await.unwrap();
    }
    eventually("the slot to be lost", SOON, || async {
        stage.database.execute("CHECKPOINT").await;
        wal_status(stage).await.as_deref() == Some("lost")
    })
    .await;
    stage.database.execute("ALTER SYSTEM RESET max_slot_wal_keep_size").await;
    stage.database.execute("SELECT pg_reload_conf()").await;
}

pub async fn wait_for_settled(relay: &crate::support::relay::Relay, more: f64) {
    let target = relay.metric("events_processed_total").await + more;
    eventually("it to work", SOON, || async {
        relay.metric("events_processed_total").await >= target
    })
    .await;
}

/// The relay dies, its slot is invalidated, eight writers go on all the time.
#[tokio::test]
async fn a_lost_slot_is_recovered_by_one_command_while_writers_write() {
    let server = TempPostgres::start(&pg_bin(), &TIDY).unwrap();
    let stage = stage(&server, "lost_slot").await;
    let options = stage.options().set("kafka.in_flight_events", "500");
    let relay = options.start_ready().await;
    let writing = stage.workload.start(&stage.database);
    wait_for_settled(&relay, 1_000.0).await;
    relay.kill().await;
    lose_slot(&stage).await;
    let (code, _, said) = options.command_output(&["run"]);
    assert_eq!((code, said.contains("OBX-2031")), (73, true), "{said}");
    assert!(said.contains("`outboxd slot recover`"), "{said}");
    let (code, said, _) = options.command_output(&["slot", "recover", "--yes"]);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("The next start publishes every unsent row"), "{said}");
    assert_eq!(wal_status(&stage).await, None);
    let relay = options.start_sweeping().await;
    wait_for_settled(&relay, 1_000.0).await;
    let (code, _, said) = options.command_output(&["slot", "recover", "--yes"]);
    assert_eq!((code, said.contains("stop it first")), (69, true), "{said}");
    writing.stop().await;
    stage.check(500).await;
    let audited = "SELECT count(*) FROM outboxd.audit WHERE action = 'slot recover'";
    assert_eq!(stage.database.count(audited).await, 1);
    assert_eq!(relay.stop().await, 0);
}

/// The same by policy: the slot is dropped under the relay, then invalidated while it hangs.
#[tokio::test]
async fn a_relay_that_may_recovers_by_itself() {
    let server = TempPostgres::start(&pg_bin(), &TIDY).unwrap();
    let stage = stage(&server, "recovers").await;
    let options = stage.options().set("kafka.in_flight_events", "500");
    let relay = options.set("postgres.on_slot_lost", "recover").start_ready().await;
    let writing = stage.workload.start(&stage.database);
    wait_for_settled(&relay, 1_000.0).await;
    let slot = stage.slot();
    let drop = format!(
        "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots \
            WHERE slot_name = '{slot}' AND active_pid IS NOT NULL; \
         SELECT pg_drop_replication_slot('{slot}')"
    );
    eventually("the slot to be dropped", SOON, || async {
        stage.database.sql.batch_execute(&drop).await.is_ok()
    })
    .await;
    relay.wait_until_logged("the stream is given up").await;
    wait_for_settled(&relay, 1_000.0).await;

    relay.signal(Signal::SIGSTOP);
    lose_slot(&stage).await;
    relay.signal(Signal::SIGCONT);
    eventually("it to recover again", LATER, || async {
        relay.logged().iter().filter(|line| line.contains("the stream is given up")).count() == 2
    })
    .await;
    wait_for_settled(&relay, 1_000.0).await;
    writing.stop().await;
    stage.check(2 * 500).await;
    assert_eq!(wal_status(&stage).await.as_deref(), Some("reserved"));
    assert_eq!(relay.stop().await, 0);
}

/// Somebody moves the slot past rows that nobody has read, after a stop, after a kill, and while the
/// relay had nothing to publish for long.
#[tokio::test]
async fn a_slot_that_was_moved_forward_is_a_halt_or_recovered() {
    let small = Small::new("moved").await;
    let advance =
        "SELECT pg_replication_slot_advance(current_database()::name, pg_current_wal_lsn())";
    let mut sent = 0;
    for is_killed in [false, true] {
        let relay = small.options().start_ready().await;
        small.emit("a", sent).await;
        sent += 1;
        small.wait_for_sent(sent).await;
        small.database.execute("CREATE TABLE IF NOT EXISTS noise (n int)").await;
        small.database.execute("INSERT INTO noise SELECT generate_series(1, 10000)").await;
        small.database.wait_until_confirmed(&small.database.name).await;
        if is_killed {
            relay.kill().await;
        } else {
            assert_eq!(relay.stop().await, 0);
        }
        small.emit("a", sent).await;
        eventually("the slot to be moved", SOON, || async {
            small.database.sql.batch_execute(advance).await.is_ok()
        })
        .await;
        let (code, _, said) = small.options().command_output(&["run"]);
        assert_eq!((code, said.contains("OBX-2035")), (73, true), "{said}");
        assert!(said.contains("`outboxd slot recover`"), "{said}");
        small.wait_for_sent(sent).await;

        let options = small.options().set("postgres.on_slot_lost", "recover");
        let relay = options.start_ready().await;
        sent += 1;
        small.wait_for_sent(sent).await;
        assert_eq!(relay.stop().await, 0);
    }
    let records = small.kafka.wait_for(&small.topic, 4).await;
    let order = records.iter().map(|record| record.json()["payload"]["n"].as_i64().unwrap());
    assert!(order.eq(0..4), "each once, and in order");
    small.clear().await;
}

/// A sweep publishes what is unsent and unknown, and revives nothing else.
#[tokio::test]
async fn s15_a_sweep_revives_nothing_that_is_known() {
    let small = Small::new("s15").await;
    let relay = small.options().start_ready().await;
    small.emit("first", 0).await;
    small.wait_for_sent(1).await;
    assert_eq!(relay.stop().await, 0);
    let id = "outboxd";
    let mut known = Vec::new();
    for reason in ["dead", "retry", "topic", "parked", "scheduled"] {
        let event = small.emit(reason, 1).await;
        let hold = format!(
            "INSERT INTO outboxd.held_event (relay_id, event_id, reason, exhausted, due_at, topic, value) \
             VALUES ('{id}', '{event}', '{reason}', {}, now() + '1 hour', 'nowhere', '')",
            reason == "dead"
        );
        small.database.execute(&hold).await;
        known.push(event);
    }
    for verdict in ["sent", "skipped", "discarded"] {
        let event = small.emit(verdict, 1).await;
        let note = format!(
            "INSERT INTO outboxd.ledger (relay_id, event_id, verdict, unwritten) \
             VALUES ('{id}', '{event}', '{verdict}', {})",
            verdict == "sent"
        );
        small.database.execute(&note).await;
        known.push(event);
    }
    let failed = small.emit("failed", 1).await;
    let fail = format!("UPDATE outbox SET status = 'FAILED' WHERE id = '{failed}'");
    small.database.execute(&fail).await;
    known.push(failed);
    let unsent = small.emit("unsent", 2).await;
    let (code, said, _) = small.options().command_output(&["slot", "recover", "--yes"]);
    assert_eq!(code, 0, "{said}");
    let relay = small.options().start_ready().await;
    let last = small.emit("last", 3).await;
    let records = small.kafka.wait_for(&small.topic, 3).await;
    let ids: Vec<_> = records.iter().map(|record| record.event_id().to_owned()).skip(1).collect();
    assert_eq!(ids, [unsent, last], "{known:?}");
    assert_eq!(relay.stop().await, 0);
    small.clear().await;
}

/// Without statuses nothing tells what is unsent, and that is said.
#[tokio::test]
async fn mode_none_says_that_it_knows_no_unsent_row() {
    let small = Small::new("none_recover").await;
    let options = small.options().set("outbox.status.mode", "none").set("outbox.start", "stream");
    let relay = options.start_ready().await;
    small.emit("k", 1).await;
    small.kafka.wait_for(&small.topic, 1).await;
    assert_eq!(relay.stop().await, 0);
    let drop = format!("SELECT pg_drop_replication_slot('{}')", small.database.name);
    small.database.execute(&drop).await;
    small.emit("k", 2).await;
    let (code, _, said) = options.command_output(&["run"]);
    assert_eq!((code, said.contains("OBX-2030")), (73, true), "{said}");
    let (code, said, _) = options.command_output(&["slot", "recover", "--yes"]);
    assert_eq!((code, said.contains("knows no unsent row")), (0, true), "{said}");
    let relay = options.start_ready().await;
    small.emit("k", 3).await;
    let records = small.kafka.wait_for(&small.topic, 2).await;
    let numbers: Vec<_> =
        records.iter().map(|record| record.json()["payload"]["n"].as_i64().unwrap()).collect();
    assert_eq!(numbers, [1, 3]);
    assert_eq!(relay.stop().await, 0);
    let automatic = options.set("postgres.on_slot_lost", "recover");
    let (code, _, said) = automatic.command_output(&["check"]);
    assert_eq!((code, said.contains("knows no unsent row")), (78, true), "{said}");
    small.clear().await;
}
