//! Which sink, and how to reach it: what the configuration says of it.

use std::time::Duration;

use super::kafka::{self, KafkaConfig};
use super::nats::NatsConfig;
use super::redis::RedisConfig;
use super::{NoContact, SinkName};

/// Where events go.
#[derive(Debug, Clone)]
pub enum SinkConfig {
    /// To Kafka.
    Kafka(KafkaConfig),
    /// To Redis Streams.
    Redis(RedisConfig),
    /// To NATS JetStream.
    Nats(NatsConfig),
}

impl SinkConfig {
    /// What it is called.
    pub fn name(&self) -> SinkName {
        match self {
            Self::Kafka(_) => SinkName::KAFKA,
            Self::Redis(_) => SinkName::REDIS,
            Self::Nats(_) => SinkName::NATS,
        }
    }

    /// Whether its client can make something of the address. Kafka's finds out when it connects.
    ///
    /// # Errors
    /// What is wrong, without secrets.
    pub(crate) fn check_url(&self) -> Result<(), String> {
        match self {
            Self::Kafka(_) => Ok(()),
            Self::Redis(redis) => redis.check_url(),
            Self::Nats(nats) => nats.check_url(),
        }
    }

    /// Where it is, without secrets.
    pub fn describe(&self) -> String {
        match self {
            Self::Kafka(kafka) => kafka.bootstrap_servers.clone(),
            Self::Redis(redis) => redis.describe(),
            Self::Nats(nats) => nats.describe(),
        }
    }

    /// The key by which `other`, of the same kind, is somewhere else: the one that names the servers and
    /// can hold a secret, too.
    pub fn elsewhere(&self, other: &Self) -> Option<&'static str> {
        match (self, other) {
            (Self::Redis(own), Self::Redis(other)) if own.place() != other.place() => {
                Some("redis.url")
            }
            (Self::Nats(own), Self::Nats(other)) if own.describe() != other.describe() => {
                Some("nats.url")
            }
            (Self::Kafka(_) | Self::Redis(_) | Self::Nats(_), _) => None,
        }
    }

    /// Takes over from `other`, which is not [elsewhere](Self::elsewhere), how to be let in, and nothing
    /// else.
    pub fn take_credentials(&mut self, other: &Self) {
        match (self, other) {
            (Self::Kafka(own), Self::Kafka(other)) => own.properties.clone_from(&other.properties),
            (Self::Redis(own), Self::Redis(other)) => own.take_credentials(other),
            (Self::Nats(own), Self::Nats(other)) => own.take_credentials(other),
            // Another sink is another configuration: a start takes it on.
            (Self::Kafka(_) | Self::Redis(_) | Self::Nats(_), _) => {}
        }
    }

    /// Finds out within this whether it lets us in.
    ///
    /// # Errors
    /// Why it does not.
    pub async fn contact(&self, within: Duration) -> Result<(), NoContact> {
        match self {
            Self::Kafka(kafka) => kafka::look(kafka, &[], within).await.map(drop),
            #[cfg(feature = "redis")]
            Self::Redis(redis) => super::redis::look(redis, &[], within).await.map(drop),
            #[cfg(not(feature = "redis"))]
            Self::Redis(_) => Err(not_built("redis")),
            #[cfg(feature = "nats")]
            Self::Nats(nats) => super::nats::look(nats, &[], within).await.map(drop),
            #[cfg(not(feature = "nats"))]
            Self::Nats(_) => Err(not_built("nats")),
        }
    }
}

/// What is said of a sink that this build has not.
#[cfg(not(all(feature = "redis", feature = "nats")))]
fn not_built(feature: &str) -> NoContact {
    NoContact::Config(super::any::not_built(feature))
}
