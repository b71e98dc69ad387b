//! What a stop, a kill or a crash leaves behind, and how the next run takes it up.

use nix::sys::signal::Signal;
use outboxd::demo::{StopMode, TempPostgres};

use crate::support::checker::verdict;
use crate::support::database::Database;
use crate::support::kafka_proxy::KafkaProxy;
use crate::support::pg_bin;
use crate::support::records::Kafka;
use crate::support::relay::Relay;
use crate::support::stage::Stage;
use crate::support::wait::{SOON, eventually};

/// What a crash may repeat, as configured in these tests.
const WINDOW: usize = 2_000;

#[tokio::test]
async fn twenty_kills_lose_nothing_and_repeat_at_most_the_window_each() {
    let stage = Stage::new("kills", 300).await;
    let options = stage.options().set("kafka.in_flight_events", &WINDOW.to_string());
    let mut dice = fastrand::Rng::with_seed(1);
    let writing = stage.workload.start(&stage.database);
    for _ in 0..20 {
        let relay = options.start_ready().await;
        stage.database.let_it_work(&mut dice, 1_500).await;
        relay.kill().await;
        stage.nothing_was_confirmed_too_early("after a kill").await;
    }
    writing.stop().await;
    let relay = options.start_ready().await;
    let verdict = stage.check(20 * WINDOW).await;
    assert!(verdict.delivered > 2_000, "hardly anything was tested: {verdict:?}");
    assert_eq!(relay.stop().await, 0);
    stage.clear().await;
}

#[tokio::test]
async fn twenty_stops_repeat_nothing() {
    let stage = Stage::new("stops", 300).await;
    let options = stage.options();
    let mut dice = fastrand::Rng::with_seed(2);
    let writing = stage.workload.start(&stage.database);
    for _ in 0..20 {
        let relay = options.start_ready().await;
        stage.database.let_it_work(&mut dice, 1_500).await;
        assert_eq!(relay.stop().await, 0, "a drained stop says so");
    }
    writing.stop().await;
    let relay = options.start_ready().await;
    let verdict = stage.check(0).await;
    assert!(verdict.delivered > 2_000, "hardly anything was tested: {verdict:?}");
    assert_eq!(relay.stop().await, 0);
    stage.clear().await;
}

#[tokio::test]
async fn a_crash_of_postgresql_is_survived_in_place() {
    let mut server = TempPostgres::start(&pg_bin(), &[]).unwrap();
    let mut stage = {
        let database = Database::new_at(&server.url("postgres"), "crash").await;
        Stage::at(database, Kafka::shared(), "crash", 100).await
    };
    let relay = stage.options().set("kafka.in_flight_events", "2000").start_ready().await;
    let writing = stage.workload.start(&stage.database);
    for mode in [StopMode::Immediate, StopMode::Kill, StopMode::Immediate] {
        stage.database.let_it_work(&mut fastrand::Rng::with_seed(3), 1_500).await;
        server.stop(mode);
        eventually("the relay to notice", SOON, || async { relay.get("/readyz").await.0 == 503 })
            .await;
        server.start_again().unwrap();
        stage.database.reconnect().await;
        relay.wait_for_state("streaming").await;
    }
    writing.stop().await;
    let verdict = stage.check(3 * 2_000).await;
    assert!(verdict.delivered > 1_000, "hardly anything was tested: {verdict:?}");
    assert_eq!(relay.stop().await, 0);
}

/// A server that writes down how far its slots are at their creation and hardly ever again: at no
/// checkpoint, and not after it has noted which transactions run, which it does every 15 s at most.
pub const FORGETFUL: [(&str, &str); 3] =
    [("checkpoint_timeout", "1h"), ("max_wal_size", "8GB"), ("bgwriter_delay", "10s")];

/// A PostgreSQL crash sets the slot back to where a checkpoint left it. In modes that leave no
/// trace in the row, only the stored position tells what was sent, even after a clean stop.
#[tokio::test]
async fn s19_a_slot_that_a_crash_set_back_repeats_nothing_in_any_mode() {
    for mode in ["none", "delete", "ledger", "update"] {
        let mut server = TempPostgres::start(&pg_bin(), &FORGETFUL).unwrap();
        let mut stage = {
            let database = Database::new_at(&server.url("postgres"), "s19").await;
            Stage::at(database, Kafka::shared(), "s19", 20).await
        };
        let start = if mode == "none" { "stream" } else { "pending" };
        let options = stage.options().set("outbox.status.mode", mode).set("outbox.start", start);
        let relay = options.start_ready().await;
        // What the creation of the slot left to be written down.
        stage.database.wait_until_confirmed(&stage.slot()).await;
        stage.workload.write(&stage.database, 3_000).await;
        stage.database.wait_until_confirmed(&stage.slot()).await;
        let before_crash = stage.database.confirmed(&stage.slot()).await.unwrap();
        assert_eq!(relay.stop().await, 0);

        server.stop(StopMode::Kill);
        server.start_again().unwrap();
        stage.database.reconnect().await;
        let after_crash = stage.database.confirmed(&stage.slot()).await.unwrap();
        assert!(after_crash < before_crash, "the crash did not set the slot back: {after_crash}");

        let relay = options.start_ready().await;
        stage.workload.write(&stage.database, 100).await;
        stage.database.wait_until_confirmed(&stage.slot()).await;
        let verdict = verdict(&stage.database, &stage.kafka, &stage.workload).await;
        verdict.assert_kept(0);
        let suppressed = relay.metric("outbox_duplicates_suppressed_total").await;
        assert!(suppressed >= 3_000.0, "mode {mode}: the stream brought {suppressed} again");
        assert_eq!(relay.stop().await, 0);
    }
}

/// The relay has sent ten events, and nobody answers.
async fn freeze_with_events_in_flight(proxy: &KafkaProxy, stage: &Stage, relay: &Relay) {
    stage.workload.write(&stage.database, 10).await;
    stage.check(0).await;
    proxy.proxy.silence();
    stage.workload.write(&stage.database, 10).await;
    eventually("events in flight", SOON, || async {
        relay.status().await["in_flight"]["events"].as_u64() >= Some(10)
    })
    .await;
}

/// The session broke with events in flight, and the relay is told to stop before there is another:
/// nobody knows whether Kafka has them.
#[tokio::test]
async fn a_stop_between_two_sessions_does_not_claim_to_have_drained() {
    let mut server = TempPostgres::start(&pg_bin(), &[]).unwrap();
    let database = Database::new_at(&server.url("postgres"), "between").await;
    let mut stage = Stage::at(database, Kafka::shared(), "between", 5).await;
    let proxy = KafkaProxy::before(&stage.kafka);
    let options = stage.options().set("kafka.bootstrap_servers", &proxy.kafka().servers);
    let mut relay = options.start_ready().await;
    freeze_with_events_in_flight(&proxy, &stage, &relay).await;
    server.stop(StopMode::Immediate);
    relay.wait_for_state("starting").await;
    relay.signal(Signal::SIGTERM);
    assert_eq!(relay.wait().await.code(), Some(69));
    assert!(relay.has_logged("OBX-5003"));
    proxy.proxy.heal();
    server.start_again().unwrap();
    stage.database.reconnect().await;
    let relay = stage.options().start_ready().await;
    stage.check(10).await;
    assert_eq!(relay.stop().await, 0);
}

/// The grace is over before Kafka answers: the relay says that it may repeat something.
#[tokio::test]
async fn a_stop_that_could_not_drain_says_so() {
    let stage = Stage::new("undrained", 5).await;
    let proxy = KafkaProxy::before(&stage.kafka);
    let options = stage.options().set("relay.shutdown_grace", "1s");
    let options = options.set("kafka.bootstrap_servers", &proxy.kafka().servers);
    let mut relay = options.start_ready().await;
    freeze_with_events_in_flight(&proxy, &stage, &relay).await;
    relay.signal(Signal::SIGTERM);
    let code = relay.wait().await.code();
    assert_eq!(code, Some(69));
    assert!(relay.has_logged("OBX-5003"), "{}", relay.logged().join("\n"));
    proxy.proxy.heal();

    let relay = options.start_ready().await;
    stage.check(10).await;
    assert_eq!(relay.stop().await, 0);
    stage.clear().await;
}
