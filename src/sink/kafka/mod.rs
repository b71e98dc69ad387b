//! Kafka, through librdkafka.
//!
//! A record is copied once, into librdkafka's queue, with its number as the only thing that is
//! remembered; the delivery callback puts the number into a [`Mailbox`], which wakes the relay
//! once for many. No future, no allocation per record.
//!
//! One producer serves the topics that take batches of the usual size. A topic with a smaller
//! `max.message.bytes` is served by a producer with smaller batches, because the limit is on the
//! batch, and the broker refuses all of it. What was refused once goes through a producer whose
//! batches have one record. Each topic is served by one producer at a time, and order per key is
//! the gate's (`ack`), not librdkafka's.

mod cluster;
mod describe;
mod properties;
mod reports;
mod size;
mod topics;

pub use cluster::{ClusterFacts, TopicFacts, look};
pub use properties::{KafkaConfig, TopicShape, librdkafka_version, reserved_property};
pub(super) use size::batch_bytes;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::config::{ClientConfig, FromClientConfigAndContext};
use rdkafka::error::KafkaError;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer as _, PurgeConfig, ThreadedProducer};
use rdkafka::types::{RDKafkaConfRes, RDKafkaErrorCode};

use super::{
    HELD_ON_THE_WAY, KnownTopics, NoContact, Parcel, Record, Report, SendError, Sink, SinkError,
    SinkName, TopicInfo,
};
use crate::ack::Seq;
use reports::{Context, Mailbox, classify};
use topics::{Answers, Question, TopicReader};

/// The usual size of a batch, below what a topic takes by default (1,048,588).
const USUAL_BATCH: usize = 1_000_000;
/// librdkafka's own bound; topics say what they take.
const LARGEST_RECORD: usize = 1_000_000_000;
/// After this, a session that ends does not wait for the producer any more.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

type Producer = ThreadedProducer<Context>;

/// Kafka as the relay's sink, for one session.
pub struct KafkaSink {
    config: ClientConfig,
    mailbox: Arc<Mailbox>,
    reader: TopicReader,
    /// By the size of their batches; 0 is the one whose batches have one record.
    producers: BTreeMap<usize, Producer>,
    topics: KnownTopics,
    is_compressed: bool,
}

impl KafkaSink {
    /// Makes the client. Nothing is sent yet, and Kafka need not answer.
    ///
    /// # Errors
    /// librdkafka does not take the configuration.
    pub fn open(kafka: &KafkaConfig) -> Result<Self, String> {
        let base = client_config(kafka);
        let mailbox = Arc::new(Mailbox::default());
        let answers = Answers { ask_limits: kafka.ask_limits, create: kafka.create_topics };
        let reader = TopicReader::start(base.clone(), answers, Arc::clone(&mailbox))
            .map_err(|error| error.to_string())?;
        let mut config = base;
        let events = kafka.in_flight_events + HELD_ON_THE_WAY;
        let kilobytes = kafka.in_flight_bytes / 1024 + LARGEST_RECORD as u64 / 1024;
        config
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("message.timeout.ms", "0")
            .set("message.max.bytes", LARGEST_RECORD.to_string())
            .set("queue.buffering.max.messages", events.to_string())
            .set("queue.buffering.max.kbytes", kilobytes.min(2_097_151).to_string())
            .set("batch.num.messages", "10000")
            // A topic that vanishes is told by its own look-up, not after half a minute.
            .set("topic.metadata.propagation.max.ms", "5000");
        let usual = [
            ("linger.ms", "0"),
            ("socket.nagle.disable", "true"),
            // A broker that is back is seen within seconds.
            ("reconnect.backoff.max.ms", "2000"),
        ];
        for (name, value) in usual {
            if !kafka.properties.contains_key(name) {
                config.set(name, value);
            }
        }
        let codec = ["compression.type", "compression.codec"];
        let codec = codec.iter().find_map(|name| kafka.properties.get(*name));
        let mut sink = Self {
            config,
            mailbox,
            reader,
            producers: BTreeMap::new(),
            topics: KnownTopics::default(),
            is_compressed: codec.is_some_and(|codec| codec != "none"),
        };
        // Made now, so that a wrong property is told now.
        sink.producer(USUAL_BATCH).map_err(|error| without_value(&error))?;
        Ok(sink)
    }

    fn producer(&mut self, batch: usize) -> Result<&Producer, KafkaError> {
        if !self.producers.contains_key(&batch) {
            let mut config = self.config.clone();
            match batch {
                0 => config.set("batch.num.messages", "1"),
                _ => config.set("batch.size", batch.to_string()),
            };
            let context = Context { mailbox: Arc::clone(&self.mailbox) };
            self.producers.insert(batch, Producer::from_config_and_context(&config, context)?);
        }
        let gone = || KafkaError::ClientCreation("the producer is gone".to_owned());
        self.producers.get(&batch).ok_or_else(gone)
    }

    /// Why a producer cannot go on, if one cannot.
    fn fatal(&self) -> Option<Report> {
        let mut producers = self.producers.values();
        let (_, reason) = producers.find_map(|producer| producer.client().fatal_error())?;
        Some(Report::Fatal(reason))
    }

    /// The record fits the topic as a batch of its own.
    fn check(&self, record: &Record<'_>, topic: TopicInfo) -> Result<(), SinkError> {
        if !(0..topic.partitions).contains(&record.partition) {
            let (partition, partitions) = (record.partition, topic.partitions);
            return Err(SinkError::NoPartition { partition, partitions });
        }
        let Some(limit) = topic.max_message_bytes else {
            return Ok(());
        };
        // What compression makes of it, only the broker sees.
        if self.is_compressed {
            return Ok(());
        }
        match batch_bytes(record) {
            bytes if bytes > limit => Err(SinkError::TooLarge { bytes, limit }),
            _ => Ok(()),
        }
    }
}

/// What every client needs to reach Kafka.
pub(super) fn client_config(kafka: &KafkaConfig) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("client.id", "outboxd");
    for (name, value) in &kafka.properties {
        config.set(name, value);
    }
    config.set("bootstrap.servers", &kafka.bootstrap_servers);
    config
}

/// What is wrong with a property, without its value: that can be a secret.
pub(super) fn without_value(error: &KafkaError) -> String {
    match error {
        KafkaError::ClientConfig(RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN, _, name, _) => {
            format!("kafka.properties: there is no property {name}")
        }
        KafkaError::ClientConfig(_, _, name, _) => {
            format!("kafka.properties: {name} cannot have this value")
        }
        other => other.to_string(),
    }
}

/// The batches of a topic that takes `limit` bytes: safely below it, and of few sizes.
fn batch_for(limit: Option<usize>) -> usize {
    match limit {
        Some(limit) if limit < USUAL_BATCH + USUAL_BATCH / 64 => {
            let safe = limit - limit / 16;
            if safe < 2 { 1 } else { 1 << safe.ilog2() }
        }
        _ => USUAL_BATCH,
    }
}

impl Sink for KafkaSink {
    fn name(&self) -> SinkName {
        SinkName::KAFKA
    }

    fn probe(&mut self) {
        self.reader.ask(Question::Reachable, &self.mailbox);
    }

    fn look_up(&mut self, topic: &str) {
        self.reader.ask(Question::Topic(topic.to_owned()), &self.mailbox);
    }

    fn send(&mut self, record: &Record<'_>, seq: Seq) -> Result<(), SendError> {
        let unknown = || SendError::Refused(SinkError::TopicMissing);
        let topic = self.topics.get(record.topic).ok_or_else(unknown)?;
        self.check(record, topic).map_err(SendError::Refused)?;
        let batch = if record.alone { 0 } else { batch_for(topic.max_message_bytes) };
        let producer = self
            .producer(batch)
            .map_err(|error| SendError::Refused(SinkError::Fatal(without_value(&error))))?;
        #[expect(
            clippy::cast_possible_truncation,
            reason = "a number of 64 bits on every platform"
        )]
        let number = seq as usize;
        let mut out = BaseRecord::<[u8], [u8], usize>::with_opaque_to(record.topic, number)
            .partition(record.partition);
        out.key = record.key;
        out.payload = record.value;
        out.timestamp = record.timestamp;
        if record.headers.count() > 0 {
            let mut headers = OwnedHeaders::new_with_capacity(record.headers.count());
            for (key, value) in record.headers.iter() {
                headers = headers.insert(Header { key, value: value.map(str::as_bytes) });
            }
            out.headers = Some(headers);
        }
        match producer.send(out) {
            Ok(()) => Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => {
                Err(SendError::Full)
            }
            Err((error, _)) => {
                let text = error.to_string();
                let code = error.rdkafka_error_code();
                let error = code.map(|code| classify(code, text.clone()));
                Err(SendError::Refused(error.unwrap_or(SinkError::Unknown(text))))
            }
        }
    }

    fn take(&mut self, delivered: &mut Vec<Seq>, reports: &mut Vec<Report>) {
        self.mailbox.signal.reset();
        let is_suspect = {
            let mut content = self.mailbox.content();
            delivered.append(&mut content.delivered);
            reports.append(&mut content.reports);
            std::mem::take(&mut content.is_suspect)
        };
        if is_suspect {
            // Before what became of its records: they are told as forgotten because of it.
            reports.splice(0..0, self.fatal());
        }
        self.topics.learn(reports);
    }

    async fn reported(&self) {
        self.mailbox.signal.given().await;
    }

    async fn close(self) {
        let Self { producers, reader, .. } = self;
        let ended = tokio::task::spawn_blocking(move || {
            for producer in producers.values() {
                producer.purge(PurgeConfig::default().queue().inflight());
            }
            drop(producers);
            reader.stop();
        });
        // Whatever it still does, it can repeat records, never reorder them.
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, ended).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_stay_below_what_the_topic_takes() {
        assert_eq!(batch_for(None), USUAL_BATCH);
        assert_eq!(batch_for(Some(1_048_588)), USUAL_BATCH);
        assert_eq!(batch_for(Some(10_000_000)), USUAL_BATCH);
        for limit in [1usize, 100, 4096, 100_000, 1_000_000, 1_015_000] {
            let batch = batch_for(Some(limit));
            assert!(batch <= limit && batch >= limit / 3, "{limit}: {batch}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_property_is_told_without_its_value() {
        for (name, said) in [("sasl.pasword", "no property"), ("linger.ms", "this value")] {
            let property = [(name.to_owned(), "hunter2".to_owned())];
            let config = KafkaConfig {
                bootstrap_servers: "127.0.0.1:1".to_owned(),
                properties: property.into(),
                in_flight_events: 1,
                in_flight_bytes: 1,
                ask_limits: true,
                create_topics: None,
            };
            let said_so = KafkaSink::open(&config).err().unwrap();
            assert!(said_so.contains(name) && said_so.contains(said), "{said_so}");
            assert!(!said_so.contains("hunter2"), "{said_so}");
        }
    }
}
