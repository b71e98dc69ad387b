//! The consumers that docs/CONSUMERS.md shows for Redis Streams and NATS JetStream, run as they are, on what a
//! relay publishes.

use crate::consumers::{Consumer, accounts, balances, kill_in_the_middle, pay, wait_for_processed};
use crate::support::database::Database;
use crate::support::nats::TempNats;
use crate::support::redis::TempRedis;
use crate::support::relay::{Relay, RelayOptions};
use crate::support::unique;
use crate::support::wait::{SOON, eventually};

/// An outbox, a relay, and the database of whoever consumes.
struct Stage {
    outbox: Database,
    topic: String,
    accounts: Database,
    relay: Relay,
}

impl Stage {
    async fn new(name: &str, options: impl FnOnce(RelayOptions) -> RelayOptions) -> Self {
        let outbox = Database::new(name).await;
        let accounts = accounts(&format!("{name}_own")).await;
        let relay = options(RelayOptions::of(&outbox)).start_ready().await;
        Self { outbox, topic: unique(name), accounts, relay }
    }

    async fn pay(&mut self, amounts: std::ops::RangeInclusive<i64>) {
        pay(&mut self.outbox, &self.topic, amounts).await;
    }

    /// Kills it within the first of these.
    async fn kill(&mut self, consumer: Consumer, amounts: std::ops::RangeInclusive<i64>) {
        let outbox = (&mut self.outbox, self.topic.as_str());
        kill_in_the_middle(consumer, &self.accounts, outbox, amounts).await;
    }

    /// Waits until everything up to this amount is processed, and looks whether it was once.
    async fn processed(&self, amount: i64) {
        wait_for_processed(&self.accounts, amount).await;
        assert_eq!(balances(&self.accounts).await, (1..=amount).sum::<i64>());
    }

    /// The ids of all events, in order.
    async fn ids(&self) -> Vec<String> {
        let rows = self.outbox.sql.query("SELECT id::text FROM outbox ORDER BY seq", &[]).await;
        rows.unwrap().iter().map(|row| row.get(0)).collect()
    }

    async fn end(self) {
        assert_eq!(self.relay.stop().await, 0);
        for database in [self.outbox, self.accounts] {
            database.clear().await;
        }
    }
}

#[tokio::test]
async fn the_documented_redis_group_processes_each_event_once_through_a_kill() {
    let redis = TempRedis::start(&[]).await;
    let set =
        |options: RelayOptions| options.set("sink.kind", "redis").set("redis.url", &redis.url());
    let mut stage = Stage::new("consumers_redis", set).await;
    let start = |stage: &Stage, group: &str, name: &str, left_after: &str| {
        let url = redis.url();
        let variables = [
            ("REDIS_URL", url.as_str()),
            ("STREAM", &stage.topic),
            ("CONSUMER_GROUP", group),
            ("CONSUMER_NAME", name),
            ("LEFT_AFTER", left_after),
        ];
        Consumer::start("redis_consumer.py", &stage.accounts, &variables)
    };
    // Nobody else claims what this one has.
    let never = "3600000";
    let one = start(&stage, "g", "one", never);
    stage.pay(1..=50).await;
    stage.processed(50).await;
    stage.kill(one, 51..=100).await;
    // Under its own name it goes on where it was.
    let one = start(&stage, "g", "one", never);
    stage.processed(100).await;
    stage.kill(one, 101..=150).await;
    // Another one gets new entries, and in time those that the first left.
    let two = start(&stage, "g", "two", "1000");
    stage.processed(150).await;
    assert_eq!(two.stop(), [""; 0]);
    // What was acknowledged does not come again.
    let two = start(&stage, "g", "two", "0");
    stage.pay(151..=151).await;
    stage.processed(151).await;
    assert_eq!(two.stop(), [""; 0]);

    // Another group gets everything, in order, and changes nothing.
    let other = start(&stage, "h", "one", never);
    stage.pay(152..=152).await;
    stage.processed(152).await;
    let skipped = other.stop();
    assert_eq!(skipped, stage.ids().await[..151]);
    stage.end().await;
}

#[tokio::test]
async fn the_documented_jetstream_consumer_processes_each_event_once_through_a_kill() {
    let nats = TempNats::start("").await;
    let set = |options: RelayOptions| {
        let options = options.set("sink.kind", "nats").set("nats.url", &nats.url());
        options.set("nats.create_streams", "true")
    };
    let mut stage = Stage::new("consumers_nats", set).await;
    let start = |stage: &Stage, durable: &str| {
        let url = nats.url();
        let variables = [
            ("NATS_URL", url.as_str()),
            ("SUBJECT", &stage.topic),
            ("DURABLE", durable),
            ("ACK_WAIT", "2"),
        ];
        Consumer::start("nats_consumer.py", &stage.accounts, &variables)
    };
    // The stream is there with the first event.
    stage.pay(1..=50).await;
    eventually("the first to be SENT", SOON, || async {
        stage.outbox.count("SELECT count(*) FROM outbox WHERE status = 'SENT'").await > 0
    })
    .await;
    let first = start(&stage, "d");
    stage.processed(50).await;
    stage.kill(first, 51..=100).await;
    let second = start(&stage, "d");
    stage.processed(100).await;
    assert_eq!(second.stop(), [""; 0]);
    // What was acknowledged does not come again.
    let third = start(&stage, "d");
    stage.pay(101..=101).await;
    stage.processed(101).await;
    assert_eq!(third.stop(), [""; 0]);

    // Another one gets everything, in order, and changes nothing.
    let other = start(&stage, "e");
    stage.pay(102..=102).await;
    stage.processed(102).await;
    assert_eq!(other.stop(), stage.ids().await[..101]);
    stage.end().await;
}
