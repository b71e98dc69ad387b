//! Where events go. The relay knows a [`Sink`]; only `kafka` knows Kafka.
//!
//! Nothing here waits per event: [`Sink::send`] hands a record over and returns, and what became
//! of it comes back later as a [`Report`] with the number that went with it.

mod any;
mod config;
mod contact;
mod kafka;
#[cfg(test)]
pub(crate) mod memory;
pub mod nats;
pub mod redis;
mod signal;

pub use any::AnySink;
pub use config::SinkConfig;
pub use contact::NoContact;
pub use kafka::{
    ClusterFacts, KafkaConfig, KafkaSink, TopicFacts, TopicShape, librdkafka_version, look,
    reserved_property,
};
#[cfg(feature = "nats")]
pub use nats::NatsSink;
pub use nats::{NatsConfig, StreamShape};
#[cfg(feature = "redis")]
pub use redis::RedisSink;
pub use redis::{Durability, RedisConfig, Topology, Trim};

use std::collections::HashMap;
use std::future::Future;
use std::time::Duration;

use crate::ack::Seq;
use crate::lsn::Position;
use crate::outbox::{HeaderList, Headers};

/// By this name the client of NATS logs.
pub(crate) const NATS_CLIENT: &str = "async_nats";

/// A sink that does not answer within this, when somebody only looks at it, does not answer.
pub(crate) const LOOK_WITHIN: Duration = Duration::from_secs(10);

/// The most held events that are on their way at once, beside those of the window (`in_flight_events`).
/// What a sink keeps of what was sent, to have room for it or to know it when it comes again, is for both:
/// with less, a crash can repeat more than Redis remembers.
pub(crate) const HELD_ON_THE_WAY: usize = 1000;

/// What a sink is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SinkName {
    /// In metrics.
    pub label: &'static str,
    /// In sentences.
    pub title: &'static str,
}

impl SinkName {
    /// Kafka.
    pub const KAFKA: Self = Self { label: "kafka", title: "Kafka" };
    /// Redis Streams.
    pub const REDIS: Self = Self { label: "redis", title: "Redis" };
    /// NATS JetStream.
    pub const NATS: Self = Self { label: "nats", title: "NATS" };
    /// Whatever a service brings.
    pub const OTHER: Self = Self { label: "sink", title: "the sink" };
}

/// Hosts and ports of an address of several servers, without anything that could be a secret.
pub(crate) fn hosts_of(url: &str) -> String {
    let host = |part| without_login(part).split(['/', '?', '#']).next().unwrap_or_default();
    url.split(',').map(host).collect::<Vec<_>>().join(",")
}

/// An address of one server from its host on.
fn without_login(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.rsplit_once('@').map_or(rest, |(_, host)| host).trim()
}

/// The event that a record is of. Some sinks tell it to others; some know by it what they have already.
#[derive(Debug, Clone, Copy, Default)]
pub struct EventRef<'a> {
    /// Its id.
    pub id: &'a str,
    /// What happened, where that is known.
    pub event_type: Option<&'a str>,
    /// Its place in the stream, or that of the sweep that found its row; none where neither is known.
    pub position: Option<Position>,
    /// Whether an operator asked for it again: that it was sent before is no reason not to.
    pub is_redelivery: bool,
}

/// A record on its way out.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    /// What it is of.
    pub event: EventRef<'a>,
    /// Its topic, which was found to exist.
    pub topic: &'a str,
    /// Its partition.
    pub partition: i32,
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Its headers.
    pub headers: Headers<'a>,
    /// Its value; none is a tombstone.
    pub value: Option<&'a [u8]>,
    /// Its timestamp, in milliseconds since 1970; none for when it is sent.
    pub timestamp: Option<i64>,
    /// Whether it must not share a batch with others, because it was refused once and could have
    /// been refused for a neighbour's sake.
    pub alone: bool,
}

impl Record<'_> {
    /// The record with memory of its own and with its topic, as [`Report::Failed`] gives it back.
    pub fn to_parcel(&self) -> Parcel {
        Parcel { topic: Some(self.topic.into()), ..Parcel::from(self) }
    }
}

/// A record that waits, with memory of its own.
#[derive(Debug, Clone, Default)]
pub struct Parcel {
    /// Its topic, where it is not known otherwise.
    pub topic: Option<Box<str>>,
    /// The event's id, where the sink has a use for it.
    pub event_id: Option<Box<str>>,
    /// As in [`Record`].
    pub partition: i32,
    /// As in [`Record`].
    pub key: Option<Box<[u8]>>,
    /// As in [`Record`].
    pub headers: HeaderList,
    /// As in [`Record`].
    pub value: Option<Box<[u8]>>,
    /// As in [`Record`].
    pub timestamp: Option<i64>,
}

impl Parcel {
    /// The record of `event`, for `topic`.
    pub fn record<'a>(&'a self, event: EventRef<'a>, topic: &'a str, alone: bool) -> Record<'a> {
        Record {
            event,
            topic,
            partition: self.partition,
            key: self.key.as_deref(),
            headers: self.headers.view(),
            value: self.value.as_deref(),
            timestamp: self.timestamp,
            alone,
        }
    }
}

impl From<&Record<'_>> for Parcel {
    fn from(record: &Record<'_>) -> Self {
        Self {
            topic: None,
            event_id: Some(record.event.id.into()),
            partition: record.partition,
            key: record.key.map(Into::into),
            headers: record.headers.to_list(),
            value: record.value.map(Into::into),
            timestamp: record.timestamp,
        }
    }
}

/// What is known of a topic that can be written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TopicInfo {
    /// How many partitions it has.
    pub partitions: i32,
    /// The largest batch that it takes, in bytes; none if the sink does not say.
    pub max_message_bytes: Option<usize>,
}

/// What a sink was told of the topics that it may send to, by its own reports.
#[derive(Debug, Default)]
struct KnownTopics(HashMap<String, TopicInfo>);

impl KnownTopics {
    fn get(&self, topic: &str) -> Option<TopicInfo> {
        self.0.get(topic).copied()
    }

    /// Takes in what reports say of topics, on their way to the relay.
    fn learn(&mut self, reports: &[Report]) {
        for report in reports {
            match report {
                Report::Topic { name, result: Ok(info) } => {
                    self.0.insert(name.clone(), *info);
                }
                Report::Topic {
                    name,
                    result:
                        Err(
                            SinkError::TopicMissing
                            | SinkError::NotCreated(_)
                            | SinkError::WrongTopic(_),
                        ),
                } => {
                    self.0.remove(name);
                }
                _ => {}
            }
        }
    }
}

/// Why something was not delivered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SinkError {
    /// There is no such topic.
    #[error("the topic does not exist")]
    TopicMissing,
    /// There is no such topic, and we cannot make it.
    #[error("the topic does not exist and cannot be created: {0}")]
    NotCreated(String),
    /// We may not write to it, or not look at it.
    #[error("access to the topic is denied")]
    TopicDenied,
    /// It is there, and is something that events cannot go to.
    #[error("{0}")]
    WrongTopic(String),
    /// The record is larger than the topic takes.
    #[error("the record takes {bytes} bytes, the topic takes {limit}")]
    TooLarge {
        /// The record's size as a batch of its own.
        bytes: usize,
        /// The topic's `max.message.bytes`.
        limit: usize,
    },
    /// The record names a partition that the topic does not have.
    #[error("partition {partition} does not exist, the topic has {partitions}")]
    NoPartition {
        /// The partition.
        partition: i32,
        /// How many there are.
        partitions: i32,
    },
    /// The record was refused for good.
    #[error("refused: {0}")]
    Refused(String),
    /// Nobody answers. It is not the record's fault.
    #[error("unavailable: {0}")]
    Unavailable(String),
    /// The producer was told to forget it.
    #[error("forgotten at the end of the session")]
    Purged,
    /// The producer cannot go on.
    #[error("the producer cannot go on: {0}")]
    Fatal(String),
    /// Something that we do not know. It is never taken for delivered.
    #[error("unknown error: {0}")]
    Unknown(String),
}

/// Why a record was not even taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SendError {
    /// Not now: try again after the next report.
    Full,
    /// Not like this.
    Refused(SinkError),
}

/// What a sink has to say, besides deliveries.
#[derive(Debug)]
pub enum Report {
    /// A record was not delivered. Here it is again.
    Failed {
        /// Its number.
        seq: Seq,
        /// Why.
        error: SinkError,
        /// What was to be sent, with its topic ([`Record::to_parcel`]): without one the relay halts.
        parcel: Parcel,
    },
    /// What became of a look at a topic.
    Topic {
        /// The topic.
        name: String,
        /// What it takes, or why it takes nothing.
        result: Result<TopicInfo, SinkError>,
    },
    /// The sink as a whole can or cannot be reached.
    Reachable(Result<(), NoContact>),
    /// So many of the delivered records were there already, known by their event's id: they are there
    /// once. A sink that does not know what it has says nothing of it.
    Suppressed(u64),
    /// The producer cannot go on: the session must end.
    Fatal(String),
}

/// A place that keeps records in order per key and says when they are safe.
///
/// A session of the relay opens one, uses it on one thread, and closes it. No method may block; what
/// takes time happens elsewhere, and its answer comes by [`Sink::take`]. The relay's promises rest on
/// what a sink keeps:
///
/// - **Delivered means durable.** A number is given as delivered only when its record cannot be lost any
///   more. What the sink does not know for certain it reports as failed: with
///   [`SinkError::Unavailable`] the relay sends it again, which can be a duplicate and no loss.
/// - **Every record that was taken comes back once**, delivered or as [`Report::Failed`], however long
///   that takes. One that never does holds back its key, and in the end everything.
/// - **Order.** Two records of one topic and partition that are on their way at once stay in the order
///   of sending, also where the first has to be tried again inside. (With
///   `kafka.max_in_flight_per_key = 1`, the default, those of one key never are on their way at once.)
/// - **The kind of an error decides** what becomes of the event: see [`SinkError`]. What is not known to
///   be the record's fault must not be [`SinkError::Refused`], which uses up attempts; an error that the
///   sink does not know is [`SinkError::Unknown`], which halts the relay.
/// - **A session that ended** has no say: what it had not delivered is sent again by the next one, in
///   order, and may be there already. Consumers know it by its event id.
pub trait Sink {
    /// What it is called.
    fn name(&self) -> SinkName {
        SinkName::OTHER
    }

    /// Asks whether anybody answers. The answer is a [`Report::Reachable`].
    fn probe(&mut self);

    /// Finds out about a topic, before anything is sent to it. The answer is a [`Report::Topic`], each
    /// time that it is asked.
    fn look_up(&mut self, topic: &str);

    /// Hands a record over. Its topic must have been looked up. The number is given back with what
    /// becomes of it, and means nothing else.
    ///
    /// # Errors
    /// It was not taken, and nothing will be reported of it. After [`SendError::Full`] it is offered
    /// again after the next report.
    fn send(&mut self, record: &Record<'_>, seq: Seq) -> Result<(), SendError>;

    /// Takes what has been reported since the last time: the numbers of the records that are
    /// safe, and everything else.
    fn take(&mut self, delivered: &mut Vec<Seq>, reports: &mut Vec<Report>);

    /// Waits until there is something to take; also if it came before the wait began. Cancel-safe.
    fn reported(&self) -> impl Future<Output = ()>;

    /// Forgets what was not delivered, as far as it can, and ends. What it reports from now on nobody
    /// takes.
    fn close(self) -> impl Future<Output = ()>;
}
