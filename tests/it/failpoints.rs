//! The relay is killed at every durable step, and the next one takes up what is left.

use nix::sys::signal::Signal;
use std::os::unix::process::ExitStatusExt as _;

use crate::support::relay::RelayOptions;
use crate::support::small::Small;
use crate::support::stage::Stage;
use crate::support::unique;
use crate::support::wait::{SOON, eventually};

/// What a crash may repeat, as configured in these tests.
const WINDOW: usize = 1_000;
const VARIABLE: &str = "OUTBOXD_FAILPOINTS";

async fn stage(name: &str) -> (Stage, RelayOptions) {
    let stage = Stage::new(name, 100).await;
    let options = stage.options().set("kafka.in_flight_events", &WINDOW.to_string());
    (stage, options)
}

/// Starts a relay that dies when it passes `failpoint`, and waits for that.
pub async fn dies_at(options: &RelayOptions, failpoint: &str) {
    let mut relay = options.clone().variable(VARIABLE, failpoint).start();
    let ended = relay.wait().await;
    let end = ended.signal();
    assert_eq!(end, Some(Signal::SIGKILL as i32), "{failpoint}: {ended} {:?}", relay.logged());
}

/// The steps of an event, each at its first time and in the middle of the work.
#[tokio::test]
async fn f02_a_relay_that_is_killed_at_any_step_of_an_event_loses_nothing() {
    let (stage, options) = stage("f02").await;
    // The slot is there: the sweep has a test of its own.
    assert_eq!(options.start_ready().await.stop().await, 0);
    let mut kills = 0;
    let writing = stage.workload.start(&stage.database);
    for (step, times) in [
        ("after_read", [1, 777]),
        ("before_produce", [1, 555]),
        ("after_ack", [1, 333]),
        ("before_settle", [1, 5]),
        ("after_settle", [1, 5]),
        ("before_confirm", [1, 4]),
        ("after_confirm", [1, 4]),
    ] {
        for time in times {
            let failpoint = format!("{step}=kill@{time}");
            dies_at(&options, &failpoint).await;
            stage.nothing_was_confirmed_too_early(&failpoint).await;
            kills += 1;
        }
    }
    writing.stop().await;
    let relay = options.start_ready().await;
    let verdict = stage.check(kills * WINDOW).await;
    assert!(verdict.delivered > 1_000, "hardly anything was tested: {verdict:?}");
    assert_eq!(relay.stop().await, 0);
    stage.clear().await;
}

/// A stop that is cut short, at its beginning.
#[tokio::test]
async fn f02_a_relay_that_is_killed_while_it_stops_loses_nothing() {
    let (stage, options) = stage("f02_stop").await;
    let relay = options.clone().variable(VARIABLE, "in_shutdown=kill").start_ready().await;
    stage.workload.write(&stage.database, 1_000).await;
    let writing = stage.workload.start(&stage.database);
    let killed = relay.stop().await;
    assert_eq!(killed, -1, "it was killed");
    writing.stop().await;
    let relay = options.start_ready().await;
    stage.check(WINDOW).await;
    assert_eq!(relay.stop().await, 0);
    stage.clear().await;
}

/// From the slot's creation to the end of the sweep.
#[tokio::test]
async fn f02_a_relay_that_is_killed_while_it_sweeps_loses_nothing() {
    let (stage, options) = stage("f02_sweep").await;
    stage.workload.write(&stage.database, 2_000).await;
    let kills = [
        "after_slot=kill",
        "in_sweep=kill",
        "in_sweep=kill@500",
        "before_settle=kill@2",
        "after_settle=kill@2",
        "after_sweep=kill",
    ];
    for failpoint in kills {
        dies_at(&options, failpoint).await;
        stage.workload.write(&stage.database, 500).await;
    }
    let relay = options.start_ready().await;
    stage.check(kills.len() * WINDOW).await;
    assert_eq!(relay.stop().await, 0);
    stage.clear().await;
}

/// A row that refuses its status makes the relay settle in parts; it is killed before the commit.
#[tokio::test]
async fn f02_a_relay_that_is_killed_in_a_settle_of_parts_loses_nothing() {
    let (stage, options) = stage("f02_parts").await;
    assert_eq!(options.start_ready().await.stop().await, 0);
    let refuse = "ALTER TABLE outbox ADD CONSTRAINT refuses CHECK \
                  (status <> 'SENT' OR (payload->>'seq')::int <> 7) NOT VALID";
    stage.database.execute(refuse).await;
    let writing = stage.workload.start(&stage.database);
    let failpoint = "before_settle_commit=kill";
    dies_at(&options, failpoint).await;
    stage.nothing_was_confirmed_too_early(failpoint).await;
    writing.stop().await;
    stage.database.execute("ALTER TABLE outbox DROP CONSTRAINT refuses").await;
    let relay = options.start_ready().await;
    stage.check(WINDOW).await;
    assert_eq!(relay.stop().await, 0);
    stage.clear().await;
}

/// A relay works for a while and dies, with much under way.
async fn works_and_dies(stage: &Stage, options: &RelayOptions) {
    let relay = options.start_ready().await;
    eventually("it to work", SOON, || async {
        relay.metric("events_processed_total").await > 300.0
    })
    .await;
    relay.kill().await;
    // For the sweep, besides what the writers write.
    stage.workload.write(&stage.database, 500).await;
}

/// The relay finds itself on another server, gives its stream up, and is killed at each step of that.
#[tokio::test]
async fn f02_a_relay_that_is_killed_while_it_recovers_loses_nothing() {
    let (stage, options) = stage("f02_recovers").await;
    let options = options.set("postgres.on_slot_lost", "recover");
    let writing = stage.workload.start(&stage.database);
    let kills = [
        "after_sweep_due=kill",
        "after_slot_drop=kill",
        "after_forgetting=kill",
        "after_slot=kill",
        "in_sweep=kill",
        "in_sweep=kill@300",
        "after_sweep=kill",
    ];
    for failpoint in kills {
        works_and_dies(&stage, &options).await;
        stage.database.execute("UPDATE outboxd.relay SET system_id = 'another'").await;
        dies_at(&options, failpoint).await;
    }
    let relay = options.start_ready().await;
    writing.stop().await;
    let verdict = stage.check(2 * kills.len() * WINDOW).await;
    assert!(verdict.delivered > 1_000, "hardly anything was tested: {verdict:?}");
    let audited = "SELECT count(*) FROM outboxd.audit WHERE action = 'slot recover'";
    assert!(stage.database.count(audited).await > 0, "it did not recover");
    assert_eq!(relay.stop().await, 0);
    stage.clear().await;
}

/// The command that gives the stream up is killed at each step. What it leaves is a relay that sweeps,
/// or one that halts and wants the command again.
#[tokio::test]
async fn f02_a_recovery_by_command_that_is_killed_loses_nothing() {
    let (stage, options) = stage("f02_command").await;
    let recover = ["slot", "recover", "--yes"];
    let writing = stage.workload.start(&stage.database);
    let kills =
        [("after_sweep_due", false), ("after_slot_drop", true), ("after_forgetting", false)];
    for (step, halts) in kills {
        works_and_dies(&stage, &options).await;
        // The server may not know yet that the relay is dead.
        eventually("the command to be killed", SOON, || async {
            let armed = options.clone().variable(VARIABLE, &format!("{step}=kill"));
            armed.command_output(&recover).0 == -1
        })
        .await;
        if halts {
            let (code, _, said) = options.command_output(&["run"]);
            assert_eq!((code, said.contains("OBX-2030")), (73, true), "{step}: {said}");
            let (code, said, _) = options.command_output(&recover);
            assert_eq!(code, 0, "{step}: {said}");
        }
    }
    let relay = options.start_ready().await;
    writing.stop().await;
    let verdict = stage.check(2 * kills.len() * WINDOW).await;
    assert!(verdict.delivered > 1_000, "hardly anything was tested: {verdict:?}");
    assert_eq!(relay.stop().await, 0);
    stage.clear().await;
}

/// An event that is too large is held, given up, and its dead letter sent; the relay is killed at each
/// step of it, and once while it holds the next.
#[tokio::test]
async fn f02_a_relay_that_is_killed_at_any_step_of_the_held_way_loses_nothing() {
    let mut small = Small::new("f02_held").await;
    small.topic = unique("f02_held");
    let dead = format!("{}.dlq", small.topic);
    small.kafka.create_topic(&small.topic, 1, &[("max.message.bytes", "2000")]).await;
    small.kafka.create_topic(&dead, 1, &[]).await;
    let options =
        small.options().set("retry.max_attempts", "2").set("retry.initial_backoff", "100ms");
    assert_eq!(options.start_ready().await.stop().await, 0);
    let large = format!("{{\"pad\": \"{}\"}}", "x".repeat(4_000));
    let (mut poisons, mut behind) = (Vec::new(), Vec::new());
    let failpoints = [
        "before_settle_commit=kill",
        "before_redeem=kill",
        "after_redeem=kill",
        "before_redeem=kill@2",
        "after_redeem=kill@2",
        "in_dead_letter=kill",
    ];
    for failpoint in failpoints {
        poisons.push(small.database.emit("tested", "a", &small.topic, &large).await);
        behind.push(small.emit("a", 1).await);
        dies_at(&options, failpoint).await;
    }
    let relay = options.start_ready().await;
    small.wait_for_sent(behind.len().try_into().unwrap()).await;
    let count = "SELECT count(*) FROM outboxd.held_event WHERE reason = 'dead'";
    eventually("all to be dead", SOON, || async {
        small.database.count(count).await == i64::try_from(poisons.len()).unwrap()
    })
    .await;
    for (topic, expected) in [(&small.topic, &behind), (&dead, &poisons)] {
        let records = small.kafka.read(&[topic]);
        let mut first_copies: Vec<&str> = Vec::new();
        for record in &records {
            if !first_copies.contains(&record.event_id()) {
                first_copies.push(record.event_id());
            }
        }
        assert_eq!(first_copies, *expected, "first copies are in order, and all are there");
    }
    assert_eq!(relay.stop().await, 0);
    small.clear().await;
}

#[tokio::test]
async fn a_failpoint_that_cannot_be_understood_is_told_at_the_start() {
    let options = RelayOptions::bare().set("postgres.url", "postgres://a@127.0.0.1/b");
    let (code, _, said) =
        options.variable(VARIABLE, "after_settle=explode").command_output(&["run"]);
    assert_eq!((code, said.contains("after_settle=explode")), (78, true), "{said}");
}
