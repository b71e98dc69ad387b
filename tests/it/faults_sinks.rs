//! The faults of docs/GUARANTEES.md with Redis and NATS in Kafka's place: nothing is lost, and nothing
//! comes twice, because both know what they have.

use std::time::Duration;

use outboxd::demo::{StopMode, TempPostgres};

use crate::support::database::Database;
use crate::support::nats::TempNats;
use crate::support::outlet::{Outlet, OutletStage};
use crate::support::pg_bin;
use crate::support::redis::TempRedis;
use crate::support::wait::{SOON, stays, until};

/// Twenty kills, then twenty stops.
async fn kills_and_stops<O: Outlet>(name: &str) {
    let stage = OutletStage::<O>::new(name).await;
    let options = stage.options();
    let mut dice = fastrand::Rng::with_seed(7);
    let writing = stage.workload.start(&stage.database);
    for _ in 0..20 {
        let relay = options.start_ready().await;
        stage.database.let_it_work(&mut dice, 700).await;
        relay.kill().await;
    }
    for _ in 0..20 {
        let relay = options.start_ready().await;
        stage.database.let_it_work(&mut dice, 700).await;
        assert_eq!(relay.stop().await, 0, "a drained stop says so");
    }
    writing.stop().await;
    let relay = options.start_ready().await;
    stage.check(0).await;
    assert_eq!(relay.stop().await, 0);
    stage.clear().await;
}

#[tokio::test]
async fn redis_twenty_kills_and_twenty_stops_lose_nothing_and_repeat_nothing() {
    kills_and_stops::<TempRedis>("redis_kills").await;
}

#[tokio::test]
async fn nats_twenty_kills_and_twenty_stops_lose_nothing_and_repeat_nothing() {
    kills_and_stops::<TempNats>("nats_kills").await;
}

/// The server crashes and comes back, then hangs for 20 s; no attempt is used up meanwhile.
async fn crashes_and_hangs<O: Outlet>(name: &str) {
    let mut stage = OutletStage::<O>::new(name).await;
    let relay = stage.options().start_ready().await;
    let writing = stage.workload.start(&stage.database);
    for _ in 0..3 {
        stage.database.wait_for_more(300).await;
        stage.outlet.crash();
        relay.tells("OBX-4001").await;
        stage.outlet.start_again().await;
    }
    stage.database.wait_for_more(300).await;
    stage.outlet.freeze(true);
    let database = &stage.database;
    let failed = "SELECT count(*) FROM outbox WHERE status = 'FAILED' OR attempts > 1";
    stays("no attempt used up", Duration::from_secs(20), || async {
        database.count(failed).await == 0
    })
    .await;
    stage.outlet.freeze(false);
    stage.database.wait_for_more(300).await;
    writing.stop().await;
    stage.check(0).await;
    assert_eq!(stage.database.count(failed).await, 0);
    assert_eq!(relay.stop().await, 0);
    stage.clear().await;
}

#[tokio::test]
async fn redis_that_crashes_and_hangs_loses_nothing_and_repeats_nothing() {
    crashes_and_hangs::<TempRedis>("redis_crash").await;
}

#[tokio::test]
async fn nats_that_crashes_and_hangs_loses_nothing_and_repeats_nothing() {
    crashes_and_hangs::<TempNats>("nats_crash").await;
}

/// PostgreSQL crashes; later its slot is gone, and one command publishes what is unsent.
async fn postgres_crashes_and_loses_the_slot<O: Outlet>(name: &str) {
    let mut server = TempPostgres::start(&pg_bin(), &[]).unwrap();
    let database = Database::new_at(&server.url("postgres"), name).await;
    let mut stage = OutletStage::<O>::at(database, name).await;
    stage.workload.pace = Some(Duration::from_millis(20));
    let options = stage.options();
    let relay = options.start_ready().await;
    let writing = stage.workload.start(&stage.database);
    for mode in [StopMode::Kill, StopMode::Immediate] {
        stage.database.wait_for_more(200).await;
        server.stop(mode);
        server.start_again().unwrap();
        stage.database.reconnect().await;
    }
    stage.database.wait_for_more(200).await;
    relay.kill().await;
    let drop_slot = format!("SELECT pg_drop_replication_slot('{}')", stage.database.name);
    until("the slot to be free", SOON, || async {
        stage.database.sql.execute(&drop_slot, &[]).await.ok()
    })
    .await;
    let (code, _, said) = options.command_output(&["slot", "recover", "--yes"]);
    assert_eq!(code, 0, "{said}");
    let relay = options.start_sweeping().await;
    stage.database.wait_for_more(200).await;
    writing.stop().await;
    stage.check(0).await;
    assert_eq!(relay.stop().await, 0);
}

#[tokio::test]
async fn redis_gets_everything_once_though_postgresql_crashes_and_loses_the_slot() {
    postgres_crashes_and_loses_the_slot::<TempRedis>("redis_slot").await;
}

#[tokio::test]
async fn nats_gets_everything_once_though_postgresql_crashes_and_loses_the_slot() {
    postgres_crashes_and_loses_the_slot::<TempNats>("nats_slot").await;
}
