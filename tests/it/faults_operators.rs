//! Operators at work while writers write and the relay is stopped and killed: what they give up is
//! recorded and is all that is missing, the rest arrives in order.

use std::collections::HashSet;
use std::time::Duration;

use crate::kafka_outage::limit;
use crate::recovery::wait_for_settled;
use crate::support::checker::{Excused, Verdict, redelivered, truth};
use crate::support::free_port;
use crate::support::records::Record;
use crate::support::relay::RelayOptions;
use crate::support::stage::Stage;
use crate::support::wait::{LATER, SOON, eventually};

/// What a kill may repeat, as configured here.
const WINDOW: usize = 500;
/// What the topics take at first, and text that is too much for them.
const LIMIT: &str = "2000";
const TOO_MUCH: i32 = 4_000;

/// Events that are too large for their topics, by what the operator does with them.
#[derive(Default)]
struct Fates {
    kept: Vec<String>,
    retried: Vec<String>,
    skipped: Vec<String>,
    dead: Vec<String>,
    redriven: Vec<String>,
    discarded: Vec<String>,
}

struct Scene {
    stage: Stage,
    options: RelayOptions,
    fates: Fates,
}

impl Scene {
    async fn new(name: &str) -> Self {
        let mut stage = Stage::new(name, 100).await;
        stage.workload.writers = 6;
        stage.workload.pace = Some(Duration::from_millis(100));
        for topic in stage.workload.topic_names() {
            limit(&stage.kafka, &topic, LIMIT).await;
            stage.kafka.create_topic(&format!("{topic}.dlq"), 1, &[]).await;
        }
        let options = stage.options().set("kafka.in_flight_events", &WINDOW.to_string());
        let options = options.set("retry.max_attempts", "1000");
        let options = options.set("retry.initial_backoff", "500ms").set("retry.max_backoff", "1s");
        // Where `pause` and `resume` ask whether it is done.
        let options = options.set("admin.listen", &format!("127.0.0.1:{}", free_port()));
        Self { stage, options, fates: Fates::default() }
    }

    /// Has an operator do something. Gives what is said about it.
    fn operate(&self, arguments: &[&str]) -> String {
        let arguments = [arguments, &["--yes", "-o", "json"]].concat();
        let (code, out, said) = self.options.command_output(&arguments);
        assert_eq!(code, 0, "{arguments:?}: {said}");
        let said: serde_json::Value = serde_json::from_str(&out).unwrap();
        said["message"].as_str().unwrap().to_owned()
    }

    /// The same with the relay running, which has done it then.
    fn done(&self, arguments: &[&str]) {
        assert_eq!(self.operate(arguments), "done", "{arguments:?}");
    }

    async fn count_held(&self, condition: &str) -> i64 {
        let sql = format!("SELECT count(*) FROM outboxd.held_event WHERE {condition}");
        self.stage.database.count(&sql).await
    }

    /// Waits until each of the events is held for that reason.
    async fn held(&self, reason: &str, events: &[&str]) {
        let condition = format!("reason = '{reason}' AND event_id IN ('{}')", events.join("','"));
        eventually(format!("{events:?} to be {reason}"), LATER, || async {
            self.count_held(&condition).await == events.len() as i64
        })
        .await;
    }

    /// An event that its topic does not take, and its key.
    async fn poison(&self, key: u64) -> (String, String) {
        let key = format!("key-{key}");
        let id = self.stage.workload.write_large(&self.stage.database, &key, TOO_MUCH).await;
        (id, key)
    }

    async fn ids(&self, sql: &str) -> HashSet<String> {
        let rows = self.stage.database.sql.query(sql, &[]).await.unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    }

    fn read(&self, suffix: &str) -> Vec<Record> {
        let topics = self.stage.workload.topic_names();
        let topics: Vec<_> = topics.iter().map(|topic| format!("{topic}{suffix}")).collect();
        self.stage.kafka.read(&topics.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// Six keys get an event that is too large, and each another fate; in the middle of it the relay
    /// is stopped or killed, with one topic paused and requests filed while it is away.
    async fn shift(&mut self, first_key: u64, is_killed: bool) {
        let relay = self.options.start_ready().await;
        let mut poisons = Vec::new();
        for key in first_key..first_key + 6 {
            poisons.push(self.poison(key).await);
        }
        let [kept, retried, skipped, dead, redriven, discarded] =
            [0, 1, 2, 3, 4, 5].map(|n: usize| poisons[n].0.as_str());
        self.held("retry", &[kept, retried, skipped, dead, redriven, discarded]).await;
        self.done(&["events", "retry", retried]);
        self.done(&["events", "skip", skipped]);
        for (_, key) in &poisons[3..] {
            self.done(&["keys", "unblock", key]);
        }
        self.held("dead", &[dead, redriven, discarded]).await;

        let [one, other] = [0, 1].map(|n| self.stage.workload.topic_names()[n].clone());
        self.operate(&["pause", "--topic", &one]);
        // Whatever does not wait for an event that is too large.
        let waits = format!(
            "reason = 'topic' AND topic = '{one}' AND NOT EXISTS (SELECT FROM outboxd.held_event b \
             WHERE b.key = held_event.key AND b.reason = 'retry')"
        );
        eventually("the topic to wait", SOON, || async { self.count_held(&waits).await > 0 }).await;
        if is_killed {
            relay.kill().await;
        } else {
            assert_eq!(relay.stop().await, 0);
        }
        self.operate(&["dlq", "redrive", redriven]);
        self.operate(&["dlq", "discard", discarded]);
        let relay = self.options.start_ready().await;
        let asked = "request IS NOT NULL";
        eventually("the relay to do it", SOON, || async { self.count_held(asked).await == 0 })
            .await;
        let flows =
            format!("SELECT count(*) FROM outbox WHERE status = 'SENT' AND topic = '{other}'");
        let sent = self.stage.database.count(&flows).await;
        eventually("the other topic to flow", SOON, || async {
            self.stage.database.count(&flows).await > sent + 100
        })
        .await;
        assert!(self.count_held(&waits).await > 0, "it is paused still");
        self.done(&["pause"]);
        self.operate(&["resume", "--topic", &one]);
        assert_eq!(relay.state().await, "paused");
        self.done(&["resume"]);
        eventually("the topic to drain", LATER, || async { self.count_held(&waits).await == 0 })
            .await;
        wait_for_settled(&relay, 300.0).await;
        assert_eq!(relay.stop().await, 0);

        self.fates.kept.push(kept.to_owned());
        self.fates.retried.push(retried.to_owned());
        self.fates.skipped.push(skipped.to_owned());
        self.fates.dead.push(dead.to_owned());
        self.fates.redriven.push(redriven.to_owned());
        self.fates.discarded.push(discarded.to_owned());
    }

    /// What was asked for is in the audit and in the ledger, and nothing else is.
    async fn is_recorded(&self) {
        let Fates { skipped, redriven, discarded, dead, retried, .. } = &self.fates;
        let again = [redriven.as_slice(), dead].concat();
        let unblocked = [redriven.as_slice(), discarded, dead].concat();
        for (action, events) in [
            ("retry", retried),
            ("skip", skipped),
            ("unblock", &unblocked),
            ("redrive", &again),
            ("discard", discarded),
        ] {
            let sql = format!("SELECT target FROM outboxd.audit WHERE action = '{action}'");
            assert_eq!(self.ids(&sql).await, set(&[events]), "{action}");
        }
        for (verdict, events) in [("skipped", skipped), ("discarded", discarded)] {
            let sql = format!("SELECT event_id FROM outboxd.ledger WHERE verdict = '{verdict}'");
            assert_eq!(self.ids(&sql).await, set(&[events]), "{verdict}");
        }
    }
}

fn set(events: &[&Vec<String>]) -> HashSet<String> {
    events.iter().flat_map(|events| events.iter().cloned()).collect()
}

/// Two shifts of an operator under load; then the topics take large events.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f37_operators_at_work_under_load_lose_only_what_they_give_up() {
    let mut scene = Scene::new("f37").await;
    let writing = scene.stage.workload.start(&scene.stage.database);
    scene.shift(0, false).await;
    scene.shift(10, true).await;

    let relay = scene.options.start_ready().await;
    relay.tells("outbox_held_events{reason=\"dead\"}").await;
    relay.tells("outbox_blocked_keys").await;
    for topic in scene.stage.workload.topic_names() {
        limit(&scene.stage.kafka, &topic, "1048576").await;
    }
    writing.stop().await;
    scene.done(&["dlq", "redrive", "--all"]);
    eventually("nothing to be held", LATER, || async { scene.count_held("true").await == 0 }).await;
    let unsent = "SELECT id::text FROM outbox WHERE status <> 'SENT'";
    let Fates { skipped, discarded, dead, redriven, retried, .. } = &scene.fates;
    let given_up = set(&[skipped, discarded]);
    eventually("everything else to be SENT", LATER, || async {
        scene.ids(unsent).await == given_up
    })
    .await;
    assert_eq!(relay.stop().await, 0);

    scene.is_recorded().await;
    let records = scene.read("");
    let flagged = redelivered(&records);
    assert_eq!(flagged, set(&[retried, redriven, dead]), "they say that they were asked for");
    let excused = Excused { given_up, late: flagged };
    let verdict = Verdict::excusing(&truth(&scene.stage.database).await, &records, &excused);
    verdict.assert_kept(WINDOW);
    assert!(verdict.delivered > 1_000, "hardly anything was tested: {verdict:?}");
    let letters: HashSet<_> =
        scene.read(".dlq").iter().map(|record| record.event_id().to_owned()).collect();
    assert_eq!(letters, set(&[dead, redriven, discarded]));
    scene.stage.clear().await;
}
