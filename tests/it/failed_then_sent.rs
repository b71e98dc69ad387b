//! Rows in modes that leave rows alone: what said that its event failed says in the end that it was
//! sent, and no other row is written.

use nix::sys::signal::Signal;
use std::os::unix::process::ExitStatusExt as _;

use crate::kafka_outage::limit;
use crate::support::relay::{Relay, RelayOptions};
use crate::support::small::Small;
use crate::support::unique;
use crate::support::wait::{SOON, eventually};

const MODES: [&str; 2] = ["ledger", "none"];

/// A topic that takes small records, a mode, and a row that has failed.
struct Scene {
    small: Small,
    mode: &'static str,
}

impl Scene {
    async fn new(name: &str, mode: &'static str) -> Self {
        let mut small = Small::new(name).await;
        small.topic = unique(name);
        small.kafka.create_topic(&small.topic, 1, &[("max.message.bytes", "2000")]).await;
        Self { small, mode }
    }

    fn options(&self) -> RelayOptions {
        let options = self.small.options().set("outbox.status.mode", self.mode);
        // As short as that, so that the next attempt is not far once there is room.
        let options = options.set("retry.initial_backoff", "300ms").set("retry.jitter", "0");
        options.set("outbox.start", "stream").set("retry.max_backoff", "300ms")
    }

    async fn large(&self) -> String {
        let payload = format!("{{\"pad\": \"{}\"}}", "x".repeat(4000));
        self.small.database.emit("tested", "a", &self.small.topic, &payload).await
    }

    /// Waits until the row is like this.
    async fn shows(&self, id: &str, condition: &str) {
        let sql = format!("SELECT count(*) FROM outbox WHERE id = '{id}' AND {condition}");
        let what = format!("{}: {condition}", self.mode);
        eventually(what, SOON, || async { self.small.database.count(&sql).await == 1 }).await;
    }

    async fn shows_failure(&self, id: &str) {
        let failed = "status = 'FAILED' AND attempts >= 1 AND next_attempt_at IS NOT NULL \
                      AND last_error LIKE '%takes 2000%'";
        self.shows(id, failed).await;
    }

    /// The same as in mode `update`: how often it failed and why stays.
    async fn shows_sent(&self, id: &str) {
        let sent = "status = 'SENT' AND sent_at IS NOT NULL AND next_attempt_at IS NULL";
        self.shows(id, sent).await;
    }

    async fn make_room(&self) {
        limit(&self.small.kafka, &self.small.topic, "1048576").await;
    }

    /// What the ledger has: every event that was sent in mode `ledger`, nothing in mode `none`.
    async fn ledger_has(&self, sent: i64) {
        let expected = if self.mode == "ledger" { sent } else { 0 };
        let kept = "SELECT count(*) FROM outboxd.ledger WHERE verdict = 'sent' AND NOT unwritten";
        let late = "SELECT count(*) FROM outboxd.ledger WHERE unwritten";
        eventually(format!("{}: the ledger", self.mode), SOON, || async {
            let database = &self.small.database;
            database.count(kept).await == expected && database.count(late).await == 0
        })
        .await;
    }

    async fn end(self, relay: Relay) {
        assert_eq!(relay.stop().await, 0);
        self.small.clear().await;
    }
}

#[tokio::test]
async fn a_row_that_failed_and_was_sent_says_so_where_rows_are_left_alone() {
    for mode in MODES {
        let scene = Scene::new("failed_sent", mode).await;
        let relay = scene.options().set("retry.max_attempts", "1000").start_ready().await;
        let before = scene.small.emit("a", 1).await;
        let poison = scene.large().await;
        let behind = scene.small.emit("a", 2).await;
        scene.shows_failure(&poison).await;
        scene.make_room().await;
        scene.small.kafka.wait_for(&scene.small.topic, 3).await;
        scene.shows_sent(&poison).await;
        scene.shows(&poison, "attempts >= 1 AND last_error LIKE '%takes 2000%'").await;
        for id in [&before, &behind] {
            scene.shows(id, "status = 'PENDING' AND sent_at IS NULL AND attempts = 0").await;
        }
        scene.ledger_has(3).await;
        scene.end(relay).await;
    }
}

#[tokio::test]
async fn a_dead_letter_that_is_redriven_is_sent_where_rows_are_left_alone() {
    for mode in MODES {
        let scene = Scene::new("redriven_sent", mode).await;
        let options = scene.options().set("retry.max_attempts", "1").set("dead_letter.topic", "");
        let relay = options.start_ready().await;
        let poison = scene.large().await;
        scene
            .shows(&poison, "status = 'FAILED' AND attempts = 1 AND next_attempt_at IS NULL")
            .await;
        let dead = "SELECT count(*) FROM outboxd.held_event WHERE reason = 'dead'";
        eventually("a dead letter", SOON, || async { scene.small.database.count(dead).await == 1 })
            .await;
        scene.make_room().await;
        let sql = format!("SELECT outboxd.retry('{poison}')");
        scene.small.database.execute(&sql).await;
        scene.shows_sent(&poison).await;
        scene.ledger_has(1).await;
        assert_eq!(scene.small.kafka.read(&[&scene.small.topic]).len(), 1);
        scene.end(relay).await;
    }
}

/// The row's status and the end of the held event are one transaction: a crash between Kafka's answer
/// and that transaction repeats the record, and none leaves a row that failed.
#[tokio::test]
async fn a_kill_between_the_answer_and_the_status_leaves_no_row_that_failed() {
    for mode in MODES {
        for failpoint in ["before_redeem=kill", "before_settle_commit=kill", "after_redeem=kill"] {
            let scene = Scene::new("failed_kill", mode).await;
            let options = scene.options().set("retry.max_attempts", "1000");
            let relay = options.start_ready().await;
            let poison = scene.large().await;
            scene.shows_failure(&poison).await;
            relay.kill().await;
            scene.make_room().await;
            // It finds nothing but the held event, so what it redeems first is that it was sent.
            let mut relay = options.clone().variable("OUTBOXD_FAILPOINTS", failpoint).start();
            assert_eq!(relay.wait().await.signal(), Some(Signal::SIGKILL as i32), "{failpoint}");
            assert_eq!(scene.small.kafka.wait_for(&scene.small.topic, 1).await.len(), 1);
            if failpoint != "after_redeem=kill" {
                scene.shows_failure(&poison).await;
            }
            let relay = options.start_ready().await;
            scene.shows_sent(&poison).await;
            scene.ledger_has(1).await;
            scene.end(relay).await;
        }
    }
}

/// Whoever has the row locked is not waited for: the ledger keeps the status until the row shows it.
#[tokio::test]
async fn a_row_that_failed_and_is_locked_when_its_event_is_sent_is_written_later() {
    for mode in MODES {
        let scene = Scene::new("failed_locked", mode).await;
        let relay = scene.options().set("retry.max_attempts", "1000").start_ready().await;
        let poison = scene.large().await;
        scene.shows_failure(&poison).await;
        let application = scene.small.database.connect().await;
        let lock = format!("BEGIN; SELECT FROM outbox WHERE id = '{poison}' FOR UPDATE");
        application.batch_execute(&lock).await.unwrap();
        scene.make_room().await;
        let late = "SELECT count(*) FROM outboxd.ledger WHERE verdict = 'sent' AND unwritten";
        eventually("its status to be kept elsewhere", SOON, || async {
            scene.small.database.count(late).await == 1
        })
        .await;
        let held = "SELECT count(*) FROM outboxd.held_event";
        assert_eq!(scene.small.database.count(held).await, 0);
        application.batch_execute("COMMIT").await.unwrap();
        scene.shows_sent(&poison).await;
        scene.ledger_has(1).await;
        scene.end(relay).await;
    }
}
