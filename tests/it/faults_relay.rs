//! Faults of the relay's own process: killed, stopped, frozen, two of them.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use outboxd::demo::TempPostgres;

use crate::support::checker::wait_until_all_sent;
use crate::support::database::Database;
use crate::support::pg_bin;
use crate::support::records::Kafka;
use crate::support::stage::Stage;
use crate::support::wait::{SOON, eventually};

/// What a crash may repeat, as configured in these tests.
const WINDOW: usize = 2_000;

/// Two hundred kills at random moments; the short form is
/// `twenty_kills_lose_nothing_and_repeat_at_most_the_window_each`.
#[tokio::test]
#[ignore = "long: dev/test --faults"]
async fn f01_two_hundred_kills_lose_nothing() {
    let stage = Stage::new("f01", 300).await;
    let options = stage.options().set("kafka.in_flight_events", &WINDOW.to_string());
    let mut dice = fastrand::Rng::with_seed(101);
    for round in 0..200 {
        let writing = stage.workload.start(&stage.database);
        let relay = options.start_ready().await;
        stage.database.let_it_work(&mut dice, 1_000).await;
        relay.kill().await;
        writing.stop().await;
        if round % 20 == 0 {
            stage.nothing_was_confirmed_too_early(&format!("kill {round}")).await;
        }
    }
    options.tells("stopped").await;
    let relay = options.start_ready().await;
    stage.check(200 * WINDOW).await;
    assert_eq!(relay.stop().await, 0);
    stage.clear().await;
}

/// Fifty stops under load; the short form is `twenty_stops_repeat_nothing`.
#[tokio::test]
#[ignore = "long: dev/test --faults"]
async fn f03_fifty_stops_repeat_nothing() {
    let stage = Stage::new("f03", 300).await;
    let options = stage.options();
    let mut dice = fastrand::Rng::with_seed(103);
    for _ in 0..50 {
        let writing = stage.workload.start(&stage.database);
        let relay = options.start_ready().await;
        stage.database.let_it_work(&mut dice, 1_000).await;
        assert_eq!(relay.stop().await, 0, "a drained stop says so");
        writing.stop().await;
    }
    options.tells("stopped").await;
    let relay = options.start_ready().await;
    stage.check(0).await;
    assert_eq!(relay.stop().await, 0);
    stage.clear().await;
}

/// Two relays; the one that works is killed, its successor too, and so on.
#[tokio::test]
async fn f04_of_two_relays_one_works_and_the_other_takes_over() {
    let stage = Stage::new("f04", 200).await;
    let options = stage.options().set("kafka.in_flight_events", &WINDOW.to_string());
    let mut dice = fastrand::Rng::with_seed(104);
    let mut active = options.start_ready().await;
    let writing = stage.workload.start(&stage.database);
    for _ in 0..5 {
        let standby = options.start();
        standby.tells("standby").await;
        stage.database.let_it_work(&mut dice, 500).await;
        active.kill().await;
        let began = Instant::now();
        eventually("the standby to take over", SOON, || async {
            standby.metric("events_processed_total").await > 0.0
        })
        .await;
        assert!(began.elapsed() < Duration::from_secs(10), "it took {:?}", began.elapsed());
        active = standby;
    }
    writing.stop().await;
    stage.check(5 * WINDOW).await;
    assert_eq!(active.stop().await, 0);
    stage.clear().await;
}

/// The relay that works is frozen, the server gives it up, the standby takes over, and the frozen
/// one thaws.
#[tokio::test]
async fn f05_a_relay_that_freezes_is_replaced_and_its_return_harms_nothing() {
    let server = TempPostgres::start(&pg_bin(), &[("wal_sender_timeout", "5s")]).unwrap();
    let database = Database::new_at(&server.url("postgres"), "f05").await;
    let stage = Stage::at(database, Kafka::shared(), "f05", 200).await;
    let options = stage.options().set("kafka.in_flight_events", &WINDOW.to_string());
    let frozen = options.start_ready().await;
    let standby = options.start();
    standby.wait_for_state("standby").await;
    let writing = stage.workload.start(&stage.database);
    stage.database.let_it_work(&mut fastrand::Rng::with_seed(105), 1_000).await;
    frozen.signal(Signal::SIGSTOP);
    // The server ends the stream by itself; the sessions that hold the place it does not.
    let gone = "SELECT count(*) FROM pg_stat_replication WHERE application_name = 'outboxd'";
    eventually("the server to give up the stream", SOON, || async {
        stage.database.count(gone).await == 0
    })
    .await;
    let ours = format!("datname = '{}' AND application_name LIKE 'outboxd%'", stage.database.name);
    let holder = "application_name = 'outboxd status writer'";
    let frozen_ones = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted";
    let end = format!(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
         WHERE {ours} AND {holder} AND pid IN ({frozen_ones})"
    );
    stage.database.execute(&end).await;
    eventually("the standby to work", SOON, || async {
        standby.metric("events_processed_total").await > 200.0
    })
    .await;
    frozen.signal(Signal::SIGCONT);
    frozen.tells("standby").await;
    writing.stop().await;
    stage.check_with_a_zombie(2 * WINDOW).await;
    assert_eq!(standby.stop().await, 0);
    frozen.wait_for_state("streaming").await;
    assert_eq!(frozen.stop().await, 0);
    wait_until_all_sent(&stage.database).await;
}
