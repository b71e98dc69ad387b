//! Where events go if not to Kafka: a server of the test's own, and what is in its streams.

use async_nats::jetstream::stream::Config;

use super::checker::{Verdict, truth, wait_until_all_sent};
use super::database::Database;
use super::nats::TempNats;
use super::records::Record;
use super::redis::TempRedis;
use super::relay::RelayOptions;
use super::unique;
use super::wait::{SOON, eventually, until};
use super::workload::Workload;

/// A server that events go to.
pub trait Outlet {
    /// Starts one that keeps what it acknowledges.
    async fn durable() -> Self;
    /// Sends the relay there.
    fn named(&self, options: RelayOptions) -> RelayOptions;
    /// Makes what the relay will not make by itself.
    async fn prepare(&mut self, topics: &[String]);
    /// What is there, in the order of each topic.
    async fn records(&self, topics: &[String]) -> Vec<Record>;
    /// Takes records of up to so many bytes, a megabyte at least, from the next connection on.
    async fn limit(&self, topic: &str, bytes: i32);
    /// Ends it at once, as a crash does.
    fn crash(&mut self);
    /// Starts it again on what it has stored.
    async fn start_again(&mut self);
    /// It stays, and does nothing any more, or goes on.
    fn freeze(&self, is_frozen: bool);
}

/// A record as Kafka would have it, where a topic is one partition.
fn record<'a>(
    (topic, offset, timestamp): (&str, usize, i64),
    key: Option<Vec<u8>>,
    headers: impl Iterator<Item = (&'a String, &'a String)>,
    value: Option<Vec<u8>>,
) -> Record {
    let header =
        |(name, value): (&String, &String)| (name.clone(), Some(value.clone().into_bytes()));
    Record {
        topic: topic.to_owned(),
        partition: 0,
        offset: i64::try_from(offset).unwrap(),
        key,
        headers: headers.map(header).collect(),
        value,
        timestamp,
    }
}

impl Outlet for TempRedis {
    async fn durable() -> Self {
        Self::start(&["--appendonly", "yes", "--appendfsync", "always"]).await
    }

    fn named(&self, options: RelayOptions) -> RelayOptions {
        let options = options.set("sink.kind", "redis").set("redis.url", &self.url());
        options.set("redis.durability", "aof")
    }

    async fn prepare(&mut self, _: &[String]) {}

    async fn records(&self, topics: &[String]) -> Vec<Record> {
        let mut records = Vec::new();
        for topic in topics {
            for (offset, (time, fields)) in self.stamped_entries(topic).into_iter().enumerate() {
                let take = |name: &str| {
                    let found = fields.iter().find(|(other, _)| other == name);
                    found.map(|(_, value)| value.clone().into_bytes())
                };
                let of_ours = ["key", "data"];
                let headers = fields.iter().filter(|(name, _)| !of_ours.contains(&&**name));
                let headers = headers.map(|(name, value)| (name, value));
                records.push(record((topic, offset, time), take("key"), headers, take("data")));
            }
        }
        records
    }

    async fn limit(&self, _: &str, bytes: i32) {
        assert_eq!(self.cli(&["CONFIG", "SET", "proto-max-bulk-len", &bytes.to_string()]), "OK");
        self.cli(&["CLIENT", "KILL", "TYPE", "normal"]);
    }

    fn crash(&mut self) {
        self.kill();
    }

    async fn start_again(&mut self) {
        self.restart().await;
    }

    fn freeze(&self, is_frozen: bool) {
        if is_frozen { Self::freeze(self) } else { self.thaw() }
    }
}

impl Outlet for TempNats {
    async fn durable() -> Self {
        // What a stream takes is for its own limit to say.
        Self::start("max_payload: 8MB").await
    }

    fn named(&self, options: RelayOptions) -> RelayOptions {
        options.set("sink.kind", "nats").set("nats.url", &self.url())
    }

    async fn prepare(&mut self, topics: &[String]) {
        for topic in topics {
            self.create(&stream_of(topic), &[topic]).await;
        }
    }

    async fn records(&self, topics: &[String]) -> Vec<Record> {
        let mut records = Vec::new();
        for topic in topics {
            for (offset, message) in self.messages(&stream_of(topic)).await.into_iter().enumerate()
            {
                let key = message.header("key").map(|key| key.as_bytes().to_vec());
                let headers = message.headers.iter();
                let place = (&*message.subject, offset, message.time);
                records.push(record(place, key, headers, Some(message.data)));
            }
        }
        records
    }

    async fn limit(&self, topic: &str, bytes: i32) {
        let config = Config {
            name: stream_of(topic),
            subjects: vec![topic.into()],
            max_message_size: bytes,
            ..Config::default()
        };
        self.jetstream().await.update_stream(config).await.unwrap();
    }

    fn crash(&mut self) {
        self.kill();
    }

    async fn start_again(&mut self) {
        self.restart().await;
    }

    fn freeze(&self, is_frozen: bool) {
        if is_frozen { Self::freeze(self) } else { self.thaw() }
    }
}

/// A stream's name has no dots.
pub fn stream_of(subject: &str) -> String {
    subject.replace('.', "_")
}

/// Everything of a test with single events but the relay: as [`Small`](super::small::Small), with another
/// sink.
pub struct OutletSmall<O> {
    pub database: Database,
    pub outlet: O,
    pub topic: String,
}

impl<O: Outlet> OutletSmall<O> {
    pub async fn new(name: &str) -> Self {
        Self::with(O::durable().await, name).await
    }

    /// With a server of the test's own.
    pub async fn with(mut outlet: O, name: &str) -> Self {
        let topic = unique(name);
        outlet.prepare(std::slice::from_ref(&topic)).await;
        Self { database: Database::new(name).await, outlet, topic }
    }

    pub fn options(&self) -> RelayOptions {
        self.outlet.named(RelayOptions::of(&self.database))
    }

    /// Writes an event and gives its id.
    pub async fn emit(&self, key: &str, n: i64) -> String {
        self.database.emit("tested", key, &self.topic, &format!("{{\"n\": {n}}}")).await
    }

    pub async fn records(&self) -> Vec<Record> {
        self.outlet.records(std::slice::from_ref(&self.topic)).await
    }

    /// Waits until so many are there; gives their events' ids, in their order.
    pub async fn arrived(&self, count: usize) -> Vec<String> {
        let records = until(format!("{count} to arrive"), SOON, || async {
            Some(self.records().await).filter(|records| records.len() >= count)
        })
        .await;
        records.iter().map(|record| record.event_id().to_owned()).collect()
    }

    pub async fn wait_for_sent(&self, count: i64) {
        self.database.wait_for_sent(count).await;
    }

    pub async fn wait_until_held(&self, reason: &str, count: i64) {
        let sql = format!("SELECT count(*) FROM outboxd.held_event WHERE reason = '{reason}'");
        eventually(format!("{count} to be held as {reason}"), SOON, || async {
            self.database.count(&sql).await == count
        })
        .await;
    }

    pub async fn clear(self) {
        self.database.clear().await;
    }
}

/// Everything of a test but the relay: as [`Stage`](super::stage::Stage), with another sink.
pub struct OutletStage<O> {
    pub database: Database,
    pub outlet: O,
    pub workload: Workload,
}

impl<O: Outlet> OutletStage<O> {
    pub async fn new(name: &str) -> Self {
        Self::at(Database::new(name).await, name).await
    }

    /// With a database of the test's own.
    pub async fn at(database: Database, name: &str) -> Self {
        Self::with(O::durable().await, database, name).await
    }

    /// With a server of the test's own, too.
    pub async fn with(mut outlet: O, database: Database, name: &str) -> Self {
        let prefix = unique(name);
        let workload =
            Workload { prefix, topics: 2, keys: 200, writers: 4, drafts: false, pace: None };
        workload.prepare_tables(&database).await;
        outlet.prepare(&workload.topic_names()).await;
        Self { database, outlet, workload }
    }

    pub fn options(&self) -> RelayOptions {
        self.outlet.named(RelayOptions::of(&self.database))
    }

    /// Waits until everything is SENT and holds the streams against the truth.
    pub async fn check(&self, duplicates_at_most: usize) -> Verdict {
        wait_until_all_sent(&self.database).await;
        let truth = truth(&self.database).await;
        let records = self.outlet.records(&self.workload.topic_names()).await;
        let verdict = Verdict::new(&truth, &records);
        verdict.assert_kept(duplicates_at_most);
        assert!(verdict.delivered > 500, "hardly anything was tested: {verdict:?}");
        verdict
    }

    pub async fn clear(self) {
        self.database.clear().await;
    }
}
