//! A standby of the server takes its place.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use outboxd::demo::{StopMode, TempPostgres};

use crate::support::database::{Database, connect};
use crate::support::kafka_proxy::KafkaProxy;
use crate::support::records::Record;
use crate::support::setting;
use crate::support::small::Small;
use crate::support::standby::{STANDBY_SLOT, pair};
use crate::support::wait::{LATER, SOON, eventually, stays};

fn numbers(records: &[Record]) -> Vec<i64> {
    records.iter().map(|record| record.json()["payload"]["n"].as_i64().unwrap()).collect()
}

async fn confirmed_at(url: &str, slot: &str) -> Option<u64> {
    let sql = connect(url).await;
    let row = sql
        .query_opt(
            "SELECT (confirmed_flush_lsn - '0/0')::int8 FROM pg_replication_slots \
             WHERE slot_name = $1 AND NOT temporary",
            &[&slot],
        )
        .await
        .unwrap()?;
    row.get::<_, Option<i64>>(0).map(|lsn| u64::try_from(lsn).unwrap())
}

/// The slot is past an event whose settling the standby never heard of. Promoted, it has the row as
/// PENDING, streams only what comes after it, and an event of the same key comes.
#[tokio::test]
async fn s1_what_the_slot_is_past_and_the_standby_does_not_know_is_swept_in_order() {
    let (mut primary, standby) = pair(setting("PG_BIN_17").as_ref()).await;
    let database = Database::new_at(&primary.url("postgres"), "s1").await;
    let mut small = Small::at(database, "s1").await;
    let relay = small.options().start_ready().await;
    small.emit("k", 0).await;
    small.wait_for_sent(1).await;
    let slot = small.database.name.clone();
    eventually("the slot to be on the standby", LATER, || async {
        // A slot starts to be kept there when it moves.
        small.database.execute("SELECT pg_log_standby_snapshot()").await;
        confirmed_at(&standby.url("postgres"), &slot).await.is_some()
    })
    .await;
    assert_eq!(relay.stop().await, 0);
    // What a relay that confirmed e1 left of it where only the slot, and not its settling, arrived.
    small.emit("k", 1).await;
    let advance = format!("SELECT pg_replication_slot_advance('{slot}', pg_current_wal_lsn())");
    small.database.execute(&advance).await;
    let target = small.database.confirmed(&slot).await.unwrap();
    eventually("the standby to have it so far", LATER, || async {
        confirmed_at(&standby.url("postgres"), &slot).await >= Some(target)
    })
    .await;
    primary.stop(StopMode::Kill);
    let promoted = connect(&standby.url("postgres")).await;
    promoted.query_one("SELECT pg_promote()", &[]).await.unwrap();
    let url = standby.url(&slot);
    small.database.sql = connect(&url).await;
    small.emit("k", 2).await;
    let options = small.options().set("postgres.url", &url);
    let relay = options.start_ready().await;
    assert!(relay.has_logged("the server was promoted"), "{}", relay.logged().join("\n"));
    small.emit("k", 3).await;
    small.wait_for_sent(4).await;
    let records = small.kafka.wait_for(&small.topic, 4).await;
    assert_eq!(numbers(&records), [0, 1, 2, 3]);
    // Once for the time line.
    assert_eq!(relay.stop().await, 0);
    let relay = options.start_ready().await;
    assert!(!relay.has_logged("the server was promoted"));
    assert_eq!(relay.stop().await, 0);
}

/// A commit is confirmed to a slot that survives only once the stream, which waits for the standby,
/// has passed what settled it.
#[tokio::test]
async fn s1_a_slot_is_never_ahead_of_what_its_standby_knows() {
    let (primary, standby) = pair(setting("PG_BIN_17").as_ref()).await;
    let database = Database::new_at(&primary.url("postgres"), "s1_confirm").await;
    let small = Small::at(database, "s1_confirm").await;
    let proxy = KafkaProxy::before(&small.kafka);
    let set = format!("ALTER SYSTEM SET synchronized_standby_slots = '{STANDBY_SLOT}'");
    small.database.execute(&set).await;
    small.database.execute("SELECT pg_reload_conf()").await;
    let options = small.options().set("kafka.bootstrap_servers", &proxy.kafka().servers);
    let relay = options.start_ready().await;
    let slot = small.database.name.clone();
    small.emit("k", 0).await;
    small.wait_for_sent(1).await;
    small.database.wait_until_confirmed(&slot).await;

    // e1 is read while Kafka hangs; then the standby hangs, and Kafka goes on.
    proxy.proxy.silence();
    small.emit("k", 1).await;
    let commit: i64 =
        small.database.row("SELECT (pg_current_wal_lsn() - '0/0')::int8", &[]).await.get(0);
    eventually("it to be read", SOON, || async { relay.metric("outbox_queue_depth").await == 1.0 })
        .await;
    let receiver = connect(&standby.url("postgres")).await;
    let row = receiver.query_one("SELECT pid FROM pg_stat_wal_receiver", &[]).await.unwrap();
    let receiver = Pid::from_raw(row.get(0));
    kill(receiver, Signal::SIGSTOP).unwrap();
    proxy.proxy.heal();
    small.wait_for_sent(2).await;
    let before = u64::try_from(commit).unwrap();
    stays("it to be unconfirmed", Duration::from_secs(3), || async {
        small.database.confirmed(&slot).await.unwrap() < before
    })
    .await;
    kill(receiver, Signal::SIGCONT).unwrap();
    eventually("it to be confirmed", SOON, || async {
        small.database.confirmed(&slot).await.unwrap() >= before
    })
    .await;
    assert_eq!(relay.stop().await, 0);
}

#[tokio::test]
async fn a_slot_can_survive_a_failover_unless_that_is_switched_off() {
    let server = TempPostgres::start(setting("PG_BIN_17").as_ref(), &[]).unwrap();
    let database = Database::new_at(&server.url("postgres"), "failover_slot").await;
    let small = Small::at(database, "failover_slot").await;
    for (value, expected) in [("auto", 1), ("off", 0)] {
        let options = small.options().set("postgres.failover_slot", value);
        let relay = options.start_ready().await;
        let survives = "SELECT count(*) FROM pg_replication_slots WHERE failover";
        assert_eq!(small.database.count(survives).await, expected, "{value}");
        small.emit("k", 1).await;
        small.database.wait_until_confirmed(&small.database.name).await;
        assert_eq!(relay.stop().await, 0);
        let (code, said, _) = options.command_output(&["slot", "drop", "--yes"]);
        assert_eq!(code, 0, "{said}");
    }
}

/// A promoted server without the slot: by policy.
#[tokio::test]
async fn a_time_line_without_the_slot_is_a_halt_or_recovered() {
    let small = Small::new("timeline").await;
    let relay = small.options().start_ready().await;
    small.emit("k", 1).await;
    small.wait_for_sent(1).await;
    assert_eq!(relay.stop().await, 0);
    let change = "UPDATE outboxd.relay SET timeline = 0";
    small.database.execute(change).await;
    let slot = small.database.name.clone();
    small.database.execute(&format!("SELECT pg_drop_replication_slot('{slot}')")).await;
    small.emit("k", 2).await;
    let (code, _, said) = small.options().command_output(&["run"]);
    assert_eq!((code, said.contains("OBX-2030")), (73, true), "{said}");
    let relay = small.options().set("postgres.on_slot_lost", "recover").start_ready().await;
    small.wait_for_sent(2).await;
    assert_eq!(numbers(&small.kafka.wait_for(&small.topic, 2).await), [1, 2]);
    assert_eq!(relay.stop().await, 0);
    small.clear().await;
}

/// Another system, or a position that this server never wrote: by policy, and never skipped.
#[tokio::test]
async fn another_system_or_a_position_in_the_future_is_a_halt_or_recovered() {
    let small = Small::new("elsewhere").await;
    let mut sent = 0;
    for change in ["system_id = '1'", "position_lsn = 'FFFF/0'"] {
        let relay = small.options().start_ready().await;
        sent += 1;
        small.emit("k", sent).await;
        small.wait_for_sent(sent).await;
        assert_eq!(relay.stop().await, 0);
        small.database.execute(&format!("UPDATE outboxd.relay SET {change}")).await;
        sent += 1;
        small.emit("k", sent).await;
        let (code, _, said) = small.options().command_output(&["run"]);
        assert_eq!((code, said.contains("OBX-2040")), (73, true), "{said}");
        let relay = small.options().set("postgres.on_slot_lost", "recover").start_ready().await;
        small.wait_for_sent(sent).await;
        assert_eq!(relay.stop().await, 0);
    }
    let records = small.kafka.wait_for(&small.topic, 4).await;
    assert_eq!(numbers(&records), [1, 2, 3, 4]);
    small.clear().await;
}
