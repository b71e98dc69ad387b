//! What a real authorizer denies the relay: it waits, fails no event, and heals when it is granted.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use crate::kafka_outage::limit;
use crate::recovery::wait_for_settled;
use crate::support::broker::{Broker, login_of};
use crate::support::checker::{Excused, Verdict, truth};
use crate::support::database::Database;
use crate::support::relay::RelayOptions;
use crate::support::stage::Stage;
use crate::support::wait::{LATER, SOON, eventually, stays};

/// What an incident may repeat, as configured in these tests.
const WINDOW: usize = 500;
const TRIED: &str = "SELECT count(*) FROM outbox WHERE attempts > 1 OR status = 'FAILED'";

/// A broker, as one user's rights on it are changed.
struct Guard {
    broker: Arc<Broker>,
    user: &'static str,
}

/// A stage on a broker where the relay may do everything with topics.
async fn guarded(name: &str, user: &'static str) -> (Guard, Stage, RelayOptions) {
    let broker = Broker::guarded().await;
    let mut stage = Stage::at(Database::new(name).await, broker.as_admin(), name, 50).await;
    stage.workload.pace = Some(Duration::from_millis(50));
    broker.access(["add", "ALLOW", user, "ALL", "*"]).await;
    let options = stage.options().set("kafka.properties", &login_of(user));
    let options = options.set("kafka.in_flight_events", &WINDOW.to_string());
    (Guard { broker, user }, stage, options)
}

impl Guard {
    async fn deny(&self, operation: &str, topic: &str) {
        self.broker.access(["add", "DENY", self.user, operation, topic]).await;
    }

    async fn grant(&self, operation: &str, topic: &str) {
        self.broker.access(["remove", "DENY", self.user, operation, topic]).await;
    }
}

async fn count_held(stage: &Stage, condition: &str) -> i64 {
    let sql = format!("SELECT count(*) FROM outboxd.held_event WHERE {condition}");
    stage.database.count(&sql).await
}

/// Waits until more events of a topic are held, and more of the other are sent.
async fn one_waits_the_other_flows(stage: &Stage, one: &str, other: &str) {
    let waits = format!("topic = '{one}' AND reason = 'topic'");
    let held = count_held(stage, &waits).await;
    eventually("more to be held", SOON, || async { count_held(stage, &waits).await > held }).await;
    let flows = format!("SELECT count(*) FROM outbox WHERE status = 'SENT' AND topic = '{other}'");
    let sent = stage.database.count(&flows).await;
    eventually("the other topic to flow", SOON, || async {
        stage.database.count(&flows).await > sent + 100
    })
    .await;
    // Parked are those that came while an earlier one of their key was refused.
    let otherwise =
        format!("topic <> '{one}' OR reason NOT IN ('topic', 'parked') OR attempts > 0");
    assert_eq!(count_held(stage, &otherwise).await, 0, "held with its topic, without an attempt");
    assert_eq!(stage.database.count(TRIED).await, 0);
}

async fn wait_until_drained(stage: &Stage) {
    eventually("nothing to be held", LATER, || async { count_held(stage, "true").await == 0 })
        .await;
}

/// The right to write goes under load, the right to see the topic while the relay is away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f21_a_topic_that_a_real_authorizer_denies_waits_alone_until_it_is_granted() {
    let (guard, stage, options) = guarded("f21_acl", "relay").await;
    let [denied, open] = [0, 1].map(|n| stage.workload.topic_names()[n].clone());
    let relay = options.start_ready().await;
    let writing = stage.workload.start(&stage.database);
    wait_for_settled(&relay, 300.0).await;
    guard.deny("WRITE", &denied).await;
    one_waits_the_other_flows(&stage, &denied, &open).await;
    relay.tells("OBX-4003").await;
    guard.grant("WRITE", &denied).await;
    wait_until_drained(&stage).await;

    assert_eq!(relay.stop().await, 0);
    guard.deny("DESCRIBE", &denied).await;
    let relay = options.start_ready().await;
    one_waits_the_other_flows(&stage, &denied, &open).await;
    guard.grant("DESCRIBE", &denied).await;
    writing.stop().await;
    wait_until_drained(&stage).await;
    stage.check(0).await;
    assert_eq!(stage.database.count(TRIED).await, 0);
    assert_eq!(relay.stop().await, 0);
    stage.clear().await;
}

/// The dead-letter topic may not be written to: an event without an attempt left stays `retry`, and
/// its key waits, also across a kill.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f23_a_dead_letter_topic_that_a_real_authorizer_denies_loses_and_unblocks_nothing() {
    let (guard, stage, options) = guarded("f23_acl", "second").await;
    let topic = stage.workload.topic_names().remove(0);
    let letters = format!("{topic}.dlq");
    stage.kafka.create_topic(&letters, 1, &[]).await;
    limit(&stage.kafka, &topic, "2000").await;
    guard.deny("WRITE", &letters).await;
    let options = options.set("retry.max_attempts", "2").set("retry.initial_backoff", "200ms");
    let relay = options.start_ready().await;
    let writing = stage.workload.start(&stage.database);
    let poison = stage.workload.write_large(&stage.database, "key-0", 4_000).await;
    let exhausted = format!("event_id = '{poison}' AND reason = 'retry' AND exhausted");
    eventually("it to be exhausted", SOON, || async { count_held(&stage, &exhausted).await == 1 })
        .await;
    let behind = "reason = 'parked' AND convert_from(key, 'UTF8') = 'key-0'";
    eventually("its key to wait", SOON, || async { count_held(&stage, behind).await > 0 }).await;
    relay.kill().await;
    let relay = options.start_ready().await;
    wait_for_settled(&relay, 300.0).await;
    stays("held", Duration::from_secs(2), || async {
        count_held(&stage, &exhausted).await == 1 && count_held(&stage, behind).await > 0
    })
    .await;
    relay.tells("OBX-4003").await;
    assert!(stage.kafka.read(&[&letters]).is_empty());

    guard.grant("WRITE", &letters).await;
    writing.stop().await;
    eventually("all but the dead letter to be SENT", LATER, || async {
        let statuses = stage.database.statuses().await;
        statuses.get("FAILED") == Some(&1) && !statuses.contains_key("PENDING")
    })
    .await;
    assert_eq!(count_held(&stage, &format!("event_id = '{poison}' AND reason = 'dead'")).await, 1);
    assert_eq!(count_held(&stage, "true").await, 1, "its key goes on");
    assert_eq!(stage.kafka.wait_for(&letters, 1).await[0].event_id(), poison);
    let records = stage.records();
    let excused = Excused { given_up: HashSet::from([poison]), ..Excused::default() };
    Verdict::excusing(&truth(&stage.database).await, &records, &excused).assert_kept(WINDOW);
    assert_eq!(relay.stop().await, 0);
    stage.clear().await;
}

/// Everything is denied under load, and at a start: then a producer gets no id, either. Every event
/// waits, none fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f21_a_relay_that_a_real_authorizer_denies_everything_fails_no_event() {
    let (guard, stage, options) = guarded("f21_all", "third").await;
    let options = options.set("held.max_events", "1000");
    let relay = options.start_ready().await;
    let writing = stage.workload.start(&stage.database);
    wait_for_settled(&relay, 300.0).await;
    guard.deny("ALL", "*").await;
    relay.wait_for_state("stalled").await;
    assert_eq!(stage.database.count(TRIED).await, 0);
    relay.kill().await;
    let relay = options.start();
    relay.tells("OBX-4006").await;
    writing.stop().await;
    assert_eq!(count_held(&stage, "attempts > 0").await, 0);
    assert_eq!(stage.database.count(TRIED).await, 0);

    guard.grant("ALL", "*").await;
    wait_until_drained(&stage).await;
    stage.check(WINDOW).await;
    assert_eq!(stage.database.count(TRIED).await, 0);
    assert_eq!(relay.stop().await, 0);
    stage.clear().await;
}
