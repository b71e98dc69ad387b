//! The sink that the configuration names. The relay is built for one kind of sink: this one.

use super::kafka::KafkaSink;
#[cfg(feature = "nats")]
use super::nats::NatsSink;
#[cfg(feature = "redis")]
use super::redis::RedisSink;
use super::{Record, Report, SendError, Sink, SinkConfig, SinkName};
use crate::ack::Seq;

/// One of the sinks.
pub enum AnySink {
    /// Kafka.
    Kafka(Box<KafkaSink>),
    /// Redis Streams.
    #[cfg(feature = "redis")]
    Redis(Box<RedisSink>),
    /// NATS JetStream.
    #[cfg(feature = "nats")]
    Nats(Box<NatsSink>),
}

impl AnySink {
    /// Makes the client. Nothing is sent yet, and nobody need answer.
    ///
    /// # Errors
    /// The configuration cannot be used.
    pub fn open(config: &SinkConfig) -> Result<Self, String> {
        match config {
            SinkConfig::Kafka(kafka) => Ok(Self::Kafka(Box::new(KafkaSink::open(kafka)?))),
            #[cfg(feature = "redis")]
            SinkConfig::Redis(redis) => Ok(Self::Redis(Box::new(RedisSink::open(redis)?))),
            #[cfg(not(feature = "redis"))]
            SinkConfig::Redis(_) => Err(not_built("redis")),
            #[cfg(feature = "nats")]
            SinkConfig::Nats(nats) => Ok(Self::Nats(Box::new(NatsSink::open(nats)?))),
            #[cfg(not(feature = "nats"))]
            SinkConfig::Nats(_) => Err(not_built("nats")),
        }
    }
}

/// What is said of a sink that this build has not.
#[cfg(not(all(feature = "redis", feature = "nats")))]
pub(super) fn not_built(feature: &str) -> String {
    format!("sink.kind: this outboxd was built without the feature {feature}")
}

/// The same of whichever it is.
macro_rules! each {
    ($any:expr, $sink:ident => $does:expr) => {
        match $any {
            Self::Kafka($sink) => $does,
            #[cfg(feature = "redis")]
            Self::Redis($sink) => $does,
            #[cfg(feature = "nats")]
            Self::Nats($sink) => $does,
        }
    };
}

impl Sink for AnySink {
    fn name(&self) -> SinkName {
        each!(self, sink => sink.name())
    }

    fn probe(&mut self) {
        each!(self, sink => sink.probe());
    }

    fn look_up(&mut self, topic: &str) {
        each!(self, sink => sink.look_up(topic));
    }

    fn send(&mut self, record: &Record<'_>, seq: Seq) -> Result<(), SendError> {
        each!(self, sink => sink.send(record, seq))
    }

    fn take(&mut self, delivered: &mut Vec<Seq>, reports: &mut Vec<Report>) {
        each!(self, sink => sink.take(delivered, reports));
    }

    async fn reported(&self) {
        each!(self, sink => sink.reported().await);
    }

    async fn close(self) {
        each!(self, sink => sink.close().await);
    }
}
