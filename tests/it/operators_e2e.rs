//! Operators' requests, carried out by a relay that runs: an event that is too large for its topic
//! is held, its key waits, and somebody does something about it.

use std::time::Duration;

use serde_json::Value;

use crate::kafka_outage::limit;
use crate::support::relay::{Relay, RelayOptions};
use crate::support::small::Small;
use crate::support::unique;
use crate::support::wait::{SOON, eventually, stays};

/// What the topic takes at first.
const LIMIT: &str = "2000";

struct Scene {
    small: Small,
    options: RelayOptions,
    relay: Relay,
}

impl Scene {
    /// A relay that gives up after so many attempts, and a topic that takes small records.
    async fn new(name: &str, attempts: u32) -> Self {
        let mut small = Small::new(name).await;
        small.topic = unique(name);
        small.kafka.create_topic(&small.topic, 1, &[("max.message.bytes", LIMIT)]).await;
        small.kafka.create_topic(&format!("{}.dlq", small.topic), 1, &[]).await;
        let options = small.options();
        let options = options.set("retry.max_attempts", &attempts.to_string());
        let options = options.set("retry.initial_backoff", "1s").set("retry.max_backoff", "1h");
        let relay = options.start_ready().await;
        Self { small, options, relay }
    }

    async fn large(&self, key: &str) -> String {
        let payload = format!("{{\"pad\": \"{}\"}}", "x".repeat(4000));
        self.small.database.emit("tested", key, &self.small.topic, &payload).await
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let (code, out, said) = self.options.command_output(&[arguments, &["-o", "json"]].concat());
        assert_eq!(code, 0, "{arguments:?}: {said}");
        serde_json::from_str(&out).unwrap()
    }

    /// Says that the relay has done it.
    fn done(&self, arguments: &[&str]) {
        let said = self.json(arguments);
        assert_eq!(said["message"], "done", "{arguments:?}: {said}");
    }

    /// Waits until exactly these are held, in this order, for this reason.
    async fn held(&self, expected: &[(&str, &str)]) {
        eventually(format!("{expected:?} to be held"), SOON, || async {
            let sql = "SELECT event_id, reason FROM outboxd.held_event ORDER BY ordinal";
            let rows = self.small.database.sql.query(sql, &[]).await.unwrap();
            let held: Vec<(String, String)> = rows.iter().map(|r| (r.get(0), r.get(1))).collect();
            held.iter().map(|(a, b)| (a.as_str(), b.as_str())).eq(expected.iter().copied())
        })
        .await;
    }

    /// Lets the topic take large records.
    async fn mend(&self) {
        limit(&self.small.kafka, &self.small.topic, "1048576").await;
    }

    async fn verdict(&self, id: &str) -> Option<String> {
        let sql = "SELECT verdict FROM outboxd.ledger WHERE event_id = $1";
        let row = self.small.database.sql.query_opt(sql, &[&id]).await.unwrap();
        row.map(|row| row.get(0))
    }

    /// The ids of the topic's records, in order, once there are so many.
    async fn arrived(&self, count: usize) -> Vec<String> {
        let records = self.small.kafka.wait_for(&self.small.topic, count).await;
        records.iter().map(|record| record.event_id().to_owned()).collect()
    }

    async fn clear(self) {
        assert_eq!(self.relay.stop().await, 0);
        self.small.clear().await;
    }
}

#[tokio::test]
async fn a_retry_sends_the_event_and_then_what_waited_behind_it() {
    let scene = Scene::new("e2e_retry", 5).await;
    let first = scene.large("k").await;
    let second = scene.small.emit("k", 2).await;
    scene.held(&[(&first, "retry"), (&second, "parked")]).await;
    let keys = scene.json(&["keys", "list"]);
    assert_eq!((&keys[0]["key"], &keys[0]["waiting"]), (&"k".into(), &1.into()));
    scene.mend().await;
    scene.done(&["events", "retry", &first]);
    scene.small.wait_for_sent(2).await;
    assert_eq!(scene.arrived(2).await, [first, second]);
    scene.held(&[]).await;
    scene.clear().await;
}

#[tokio::test]
async fn a_skip_lets_the_key_go_on_without_the_event() {
    let scene = Scene::new("e2e_skip", 5).await;
    let first = scene.large("k").await;
    let second = scene.small.emit("k", 2).await;
    scene.held(&[(&first, "retry"), (&second, "parked")]).await;
    scene.done(&["events", "skip", &first]);
    scene.small.wait_for_sent(1).await;
    assert_eq!(scene.arrived(1).await, [second]);
    assert_eq!(scene.verdict(&first).await.as_deref(), Some("skipped"));
    scene.clear().await;
}

#[tokio::test]
async fn an_unblocked_key_goes_on_and_its_event_is_a_dead_letter() {
    let scene = Scene::new("e2e_unblock", 5).await;
    let first = scene.large("k").await;
    let second = scene.small.emit("k", 2).await;
    scene.held(&[(&first, "retry"), (&second, "parked")]).await;
    scene.done(&["keys", "unblock", "k"]);
    scene.small.wait_for_sent(1).await;
    assert_eq!(scene.arrived(1).await, [second]);
    scene.held(&[(&first, "dead")]).await;
    scene.clear().await;
}

#[tokio::test]
async fn dead_letters_are_redriven_in_order_and_say_so() {
    let scene = Scene::new("e2e_redrive", 1).await;
    let first = scene.large("k").await;
    let second = scene.large("k").await;
    scene.held(&[(&first, "dead"), (&second, "dead")]).await;
    scene.mend().await;
    scene.done(&["dlq", "redrive", &second, &first]);
    scene.small.wait_for_sent(2).await;
    assert_eq!(scene.arrived(2).await, [first, second]);
    let records = scene.small.kafka.read(&[&scene.small.topic]);
    assert!(records.iter().all(|record| record.header("outboxd-redelivery").is_some()));
    scene.held(&[]).await;
    scene.clear().await;
}

#[tokio::test]
async fn a_discarded_dead_letter_is_forgotten_and_its_row_stays_failed() {
    let scene = Scene::new("e2e_discard", 1).await;
    let first = scene.large("k").await;
    scene.held(&[(&first, "dead")]).await;
    scene.done(&["dlq", "discard", &first]);
    scene.held(&[]).await;
    assert_eq!(scene.verdict(&first).await.as_deref(), Some("discarded"));
    assert_eq!(scene.small.database.statuses().await.get("FAILED"), Some(&1));
    scene.clear().await;
}

#[tokio::test]
async fn requests_that_were_filed_while_no_relay_ran_are_carried_out_at_its_start() {
    let scene = Scene::new("e2e_filed", 5).await;
    let first = scene.large("k").await;
    scene.held(&[(&first, "retry")]).await;
    let Scene { small, options, relay } = scene;
    assert_eq!(relay.stop().await, 0);
    let (code, said, _) = options.command_output(&["events", "skip", &first]);
    assert_eq!((code, said.contains("when the relay runs")), (0, true), "{said}");
    let scene = Scene { relay: options.start_ready().await, small, options };
    scene.held(&[]).await;
    assert_eq!(scene.verdict(&first).await.as_deref(), Some("skipped"));
    scene.clear().await;
}

#[tokio::test]
async fn a_row_that_was_set_back_to_pending_is_published_again() {
    let scene = Scene::new("e2e_row", 5).await;
    let first = scene.small.emit("k", 1).await;
    scene.small.wait_for_sent(1).await;
    scene.small.database.execute("UPDATE outbox SET status = 'PENDING'").await;
    let sql = format!("SELECT outboxd.retry('{first}')");
    let done = scene.small.database.row(&sql, &[]).await;
    assert_eq!(done.get::<_, &str>(0), "publish");
    scene.small.wait_for_sent(1).await;
    assert_eq!(scene.arrived(2).await, [first.clone(), first]);
    scene.held(&[]).await;
    scene.clear().await;
}

#[tokio::test]
async fn a_pause_holds_through_a_restart_and_loses_nothing() {
    let scene = Scene::new("e2e_pause", 5).await;
    let port = crate::support::free_port();
    let Scene { small, options, relay } = scene;
    assert_eq!(relay.stop().await, 0);
    let options = options.set("admin.listen", &format!("127.0.0.1:{port}"));
    let scene = Scene { relay: options.start_ready().await, small, options };
    scene.done(&["pause"]);
    let first = scene.small.emit("k", 1).await;
    let Scene { small, options, relay } = scene;
    assert_eq!(relay.stop().await, 0);
    let scene = Scene { relay: options.start(), small, options };
    scene.relay.wait_for_state("paused").await;
    stays("nothing is SENT", Duration::from_secs(2), || async {
        !scene.small.database.statuses().await.contains_key("SENT")
    })
    .await;
    scene.done(&["resume"]);
    scene.small.wait_for_sent(1).await;
    assert_eq!(scene.arrived(1).await, [first]);
    scene.clear().await;
}

#[tokio::test]
async fn a_paused_topic_waits_and_others_go_on() {
    let scene = Scene::new("e2e_topic", 5).await;
    let other = unique("e2e_other");
    scene.small.kafka.create_topic(&other, 1, &[]).await;
    let Scene { small, options, relay } = scene;
    assert_eq!(relay.stop().await, 0);
    // Of a single topic a relay does not show that it heeds the pause; one that starts does.
    let (code, _, said) = options.command_output(&["pause", "--topic", &small.topic]);
    assert_eq!(code, 0, "{said}");
    let scene = Scene { relay: options.start_ready().await, small, options };
    let first = scene.small.emit("k", 1).await;
    let second = scene.small.database.emit("tested", "k", &other, "{}").await;
    scene.small.wait_for_sent(1).await;
    assert_eq!(scene.small.kafka.wait_for(&other, 1).await[0].event_id(), second);
    scene.held(&[(&first, "topic")]).await;
    scene.json(&["resume", "--topic", &scene.small.topic]);
    scene.small.wait_for_sent(2).await;
    assert_eq!(scene.arrived(1).await, [first]);
    scene.clear().await;
}

/// What is paused is shown by the relay, and by the database when no relay runs.
#[tokio::test]
async fn paused_topics_are_shown_by_the_status() {
    let Scene { small, options, relay } = Scene::new("e2e_paused", 5).await;
    let shown = |options: &RelayOptions| {
        let (code, text, said) = options.command_output(&["status"]);
        assert_eq!(code, 0, "{said}");
        let (_, json, _) = options.command_output(&["status", "-o", "json"]);
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        (json["paused_topics"].clone(), text.contains("paused     topics e2e_paused"))
    };
    let asks_relay = options.clone().set("admin.listen", &relay.admin().await);
    assert_eq!(shown(&asks_relay), (serde_json::json!([]), false));
    for topic in [small.topic.as_str(), "other"] {
        let (code, _, said) = options.command_output(&["pause", "--topic", topic]);
        assert_eq!(code, 0, "{said}");
    }
    let mut topics = ["other", small.topic.as_str()];
    topics.sort_unstable();
    let (paused, none) = (serde_json::json!(topics), serde_json::json!([]));
    eventually("the relay to show it", SOON, || async {
        shown(&asks_relay) == (paused.clone(), true)
    })
    .await;
    assert_eq!(relay.status().await["state"], "streaming");
    small.emit("k", 1).await;
    eventually("it to wait", SOON, || async { relay.status().await["held"]["topic"] == 1 }).await;
    assert_eq!(relay.stop().await, 0);
    assert_eq!(shown(&options), (paused, true));
    let relay = options.start_ready().await;
    for topic in topics {
        let (code, _, said) = options.command_output(&["resume", "--topic", topic]);
        assert_eq!(code, 0, "{said}");
    }
    eventually("the relay to show it", SOON, || async {
        relay.status().await["paused_topics"] == none
    })
    .await;
    small.wait_for_sent(1).await;
    Scene { small, options, relay }.clear().await;
}
