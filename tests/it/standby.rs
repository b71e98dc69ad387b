//! Two relays, one place.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::stage::Stage;
use crate::support::wait::{SOON, eventually, stays};

#[tokio::test]
async fn a_second_relay_waits_and_takes_over() {
    let stage = Stage::new("standby", 100).await;
    let options = stage.options();
    let first = options.start_ready().await;
    let second = options.start();
    second.wait_for_state("standby").await;
    assert_eq!(second.get("/readyz").await.0, 200, "a standby is ready: its job is to wait");
    let writing = stage.workload.start(&stage.database);
    stays("the second relay", Duration::from_secs(2), || async {
        second.state().await == "standby"
    })
    .await;
    let began = std::time::Instant::now();
    first.kill().await;
    second.wait_for_state("streaming").await;
    assert!(began.elapsed() < Duration::from_secs(10), "it took {:?}", began.elapsed());
    let third = options.start();
    third.wait_for_state("standby").await;
    writing.stop().await;
    stage.check(10_000).await;
    assert_eq!(second.stop().await, 0);
    third.wait_for_state("streaming").await;
    assert_eq!(third.stop().await, 0);
    stage.clear().await;
}

#[tokio::test]
async fn a_relay_that_is_not_to_wait_ends_with_its_own_code() {
    let stage = Stage::new("no_standby", 10).await;
    let first = stage.options().start_ready().await;
    let mut second = stage.options().set("relay.standby", "false").start();
    assert_eq!(second.wait().await.code(), Some(75));
    assert!(second.has_logged("OBX-5001"));
    assert_eq!(first.stop().await, 0);
    stage.clear().await;
}

/// The same where something else reads the slot.
#[tokio::test]
async fn a_slot_in_use_ends_a_relay_that_is_not_to_wait() {
    let stage = Stage::new("slot_in_use", 10).await;
    let first = stage.options().start_ready().await;
    let other_id = stage.options().set("relay.id", "other").set("relay.standby", "false");
    let mut second = other_id.start();
    assert_eq!(second.wait().await.code(), Some(75));
    assert!(second.has_logged("is in use by process"));
    assert_eq!(first.stop().await, 0);
    stage.clear().await;
}

/// A relay that is frozen while its server ends its sessions, and thawed when another has its
/// place, can write nothing: its lock is gone, and its epoch is an old one.
#[tokio::test]
async fn s7_a_zombie_writes_nothing() {
    let stage = Stage::new("s7", 50).await;
    let options = stage.options().set("kafka.in_flight_events", "1000");
    let zombie = options.start_ready().await;
    let writing = stage.workload.start(&stage.database);
    eventually("it to work", SOON, || async {
        stage.database.statuses().await.get("SENT") > Some(&500)
    })
    .await;
    zombie.signal(Signal::SIGSTOP);
    // What the network or a failover would do to it.
    let ours = format!("datname = '{}' AND application_name LIKE 'outboxd%'", stage.database.name);
    let end = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {ours}");
    stage.database.execute(&end).await;
    let successor = options.start_ready().await;
    eventually("the successor to work", SOON, || async {
        successor.metric("events_processed_total").await > 200.0
    })
    .await;
    zombie.signal(Signal::SIGCONT);
    zombie.wait_for_state("standby").await;
    writing.stop().await;
    stage.check_with_a_zombie(2 * 1_000).await;
    let epoch = stage.database.count("SELECT epoch FROM outboxd.relay").await;
    assert!(epoch >= 2, "each taker raises the epoch: {epoch}");
    assert_eq!(successor.stop().await, 0);
    zombie.wait_for_state("streaming").await;
    assert_eq!(zombie.stop().await, 0);
    stage.clear().await;
}

/// Only the replication connection breaks. The session ends with all that belongs to it, the lock
/// too; whoever takes the place next takes up the stream, and nobody writes without it.
#[tokio::test]
async fn s7_losing_only_the_stream_hands_the_place_on_in_order() {
    let stage = Stage::new("s7_stream", 50).await;
    let relay = stage.options().set("kafka.in_flight_events", "1000").start_ready().await;
    let other = stage.options().start();
    other.wait_for_state("standby").await;
    let writing = stage.workload.start(&stage.database);
    for _ in 0..10 {
        let before = relay.metric("events_processed_total").await;
        let ours = format!("datname = '{}' AND backend_type = 'walsender'", stage.database.name);
        let end = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {ours}");
        stage.database.execute(&end).await;
        eventually("somebody to go on", SOON, || async {
            relay.metric("events_processed_total").await > before
                || other.metric("events_processed_total").await > 0.0
        })
        .await;
    }
    writing.stop().await;
    stage.check(11 * 1_000).await;
    assert_eq!(relay.stop().await, 0);
    assert_eq!(other.stop().await, 0);
    stage.clear().await;
}

/// Both are told to take over. Each does it once: the second one has the place then, and the first
/// one stands by.
#[tokio::test]
async fn s24_taking_over_is_done_once_and_not_undone() {
    let stage = Stage::new("s24", 50).await;
    let options = stage.options().set("kafka.in_flight_events", "1000");
    let first = options.start_with(&["run", "--takeover"]);
    first.wait_for_state("streaming").await;
    let writing = stage.workload.start(&stage.database);
    eventually("it to work", SOON, || async {
        stage.database.statuses().await.get("SENT") > Some(&500)
    })
    .await;
    let began = std::time::Instant::now();
    let second = options.start_with(&["run", "--takeover"]);
    second.wait_for_state("streaming").await;
    assert!(began.elapsed() < Duration::from_secs(10), "it took {:?}", began.elapsed());
    first.wait_for_state("standby").await;
    stays("one and the other", Duration::from_secs(5), || async {
        first.state().await == "standby" && second.get("/readyz").await.0 == 200
    })
    .await;
    let epoch = stage.database.count("SELECT epoch FROM outboxd.relay").await;
    assert_eq!(epoch, 2, "each of them took the place once");
    writing.stop().await;
    stage.check(1_000).await;
    assert_eq!(second.stop().await, 0);
    first.wait_for_state("streaming").await;
    assert_eq!(first.stop().await, 0);
    stage.clear().await;
}
