//! What takes the records: a broker in this process, or a real one.

use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::config::{ClientConfig, FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::KafkaError;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::RDKafkaErrorCode;

use crate::failure::{Code, Failure};
use crate::sink::KafkaConfig;

/// A broker.
pub(super) enum Broker {
    /// librdkafka's own, for tests: it speaks the protocol and keeps the last 5 MiB of each
    /// partition in memory.
    InProcess(MockCluster<'static, DefaultProducerContext>),
    /// At these addresses.
    Real(String),
}

/// The topic's partitions.
pub(super) const PARTITIONS: i32 = 6;
/// A broker that does not answer within this does not answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

impl Broker {
    /// The broker at `servers`; without them one in this process.
    pub(super) fn new(servers: Option<&str>) -> Result<Self, Failure> {
        match servers {
            Some(servers) => Ok(Self::Real(servers.to_owned())),
            None => MockCluster::new(1).map(Self::InProcess).map_err(|error| {
                Failure::new(Code::Bug, format!("start the in-process broker: {error}"))
            }),
        }
    }

    /// How to reach it.
    pub(super) fn servers(&self) -> String {
        match self {
            Self::InProcess(cluster) => cluster.bootstrap_servers(),
            Self::Real(servers) => servers.clone(),
        }
    }

    /// As the demo calls it.
    pub(super) fn name(&self) -> String {
        match self {
            Self::InProcess(_) => "in-process broker".to_owned(),
            Self::Real(servers) => format!("Kafka at {servers}"),
        }
    }

    /// How long a consumer's request may wait for records. The in-process broker answers only
    /// after that, a real one as soon as it has some.
    pub(super) fn fetch_wait(&self) -> Duration {
        Duration::from_millis(match self {
            Self::InProcess(_) => 1,
            Self::Real(_) => 100,
        })
    }

    /// Creates the topic.
    pub(super) async fn create_topic(
        &self,
        kafka: &KafkaConfig,
        name: &str,
    ) -> Result<(), Failure> {
        if let Self::InProcess(cluster) = self {
            return cluster.create_topic(name, PARTITIONS, 1).map_err(|error| {
                Failure::new(Code::Bug, format!("create the topic {name}: {error}"))
            });
        }
        let topic = NewTopic::new(name, PARTITIONS, TopicReplication::Fixed(-1));
        let create = async {
            let results = admin(kafka)?.create_topics([&topic], &patience()).await?;
            match results.into_iter().next() {
                Some(Err((_, code))) => Err(KafkaError::AdminOp(code)),
                _ => Ok(()),
            }
        };
        create.await.map_err(|error: KafkaError| {
            use RDKafkaErrorCode::{ClusterAuthorizationFailed, TopicAuthorizationFailed};
            let code = match error.rdkafka_error_code() {
                Some(ClusterAuthorizationFailed | TopicAuthorizationFailed) => Code::TopicDenied,
                _ => Code::SinkUnavailable,
            };
            let servers = &kafka.bootstrap_servers;
            Failure::new(code, format!("create the topic {name} at {servers}: {error}"))
        })
    }

    /// Deletes the topic, where it would stay.
    pub(super) async fn delete_topic(&self, kafka: &KafkaConfig, name: &str) {
        if let Self::InProcess(_) = self {
            return;
        }
        let delete = async {
            let results = admin(kafka)?.delete_topics(&[name], &patience()).await?;
            match results.into_iter().next() {
                Some(Err((_, code))) => Err(KafkaError::AdminOp(code)),
                _ => Ok(()),
            }
        };
        if let Err(error) = delete.await {
            let error: KafkaError = error;
            tracing::warn!(topic = name, %error, "the demo's topic could not be deleted");
        }
    }
}

/// A client of the same Kafka as the relay's.
pub(super) fn client(kafka: &KafkaConfig) -> ClientConfig {
    let mut config = ClientConfig::new();
    for (name, value) in &kafka.properties {
        config.set(name, value);
    }
    config.set("client.id", "outboxd-demo").set("bootstrap.servers", &kafka.bootstrap_servers);
    config
}

fn admin(kafka: &KafkaConfig) -> Result<AdminClient<Quiet>, KafkaError> {
    AdminClient::from_config_and_context(&client(kafka), Quiet)
}

fn patience() -> AdminOptions {
    AdminOptions::new()
        .request_timeout(Some(ANSWER_TIMEOUT))
        .operation_timeout(Some(ANSWER_TIMEOUT))
}

/// What a client has to say is for debugging; what matters are its answers.
pub(super) struct Quiet;

impl ClientContext for Quiet {
    fn log(&self, _: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(facility, message, "librdkafka");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "librdkafka");
    }
}

impl ConsumerContext for Quiet {}
