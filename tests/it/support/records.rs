//! What is in Kafka, read by an independent consumer from the first to the last record.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Headers as _, Message as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::setting;

/// A record as a consumer sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
    pub key: Option<Vec<u8>>,
    pub headers: Vec<(String, Option<Vec<u8>>)>,
    pub value: Option<Vec<u8>>,
    /// Milliseconds since 1970.
    pub timestamp: i64,
}

impl Record {
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(other, _)| other == name)?;
        found.1.as_deref().map(|value| std::str::from_utf8(value).unwrap())
    }

    pub fn event_id(&self) -> &str {
        self.header("event_id").expect("every record carries its event's id")
    }

    pub fn key(&self) -> &str {
        std::str::from_utf8(self.key.as_deref().unwrap()).unwrap()
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(self.value.as_deref().unwrap()).unwrap()
    }

    /// Its headers, in their order.
    pub fn texts(&self) -> Vec<(&str, Option<&str>)> {
        let text = |value| std::str::from_utf8(value).unwrap();
        self.headers.iter().map(|(name, value)| (&**name, value.as_deref().map(text))).collect()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(self.value.as_deref().unwrap()).unwrap()
    }
}

/// A Kafka cluster, to look at.
#[derive(Clone)]
pub struct Kafka {
    pub servers: String,
    /// Who asks, where that matters; the password is the same.
    pub user: Option<&'static str>,
}

impl Kafka {
    /// The shared one.
    pub fn shared() -> Self {
        Self::at(setting("KAFKA_BOOTSTRAP_SERVERS"))
    }

    /// One that asks nobody who he is.
    pub fn at(servers: String) -> Self {
        Self { servers, user: None }
    }

    fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.servers);
        if let Some(user) = self.user {
            config.set("security.protocol", "SASL_PLAINTEXT").set("sasl.mechanism", "PLAIN");
            config.set("sasl.username", user).set("sasl.password", user);
        }
        config
    }

    pub fn admin(&self) -> AdminClient<DefaultClientContext> {
        self.config().create().unwrap()
    }

    /// Creates a topic and waits until everybody knows it.
    pub async fn create_topic(&self, name: &str, partitions: i32, settings: &[(&str, &str)]) {
        let mut topic = NewTopic::new(name, partitions, TopicReplication::Fixed(-1));
        for (key, value) in settings {
            topic = topic.set(key, value);
        }
        let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(20)));
        let created = self.admin().create_topics([&topic], &options).await.unwrap();
        created.into_iter().next().unwrap().unwrap();
        super::wait::eventually("the topic to be there", super::wait::SOON, || async {
            self.partitions(name) == usize::try_from(partitions).unwrap()
        })
        .await;
    }

    #[allow(dead_code, reason = "the benchmark asks")]
    pub fn exists(&self, topic: &str) -> bool {
        self.partitions(topic) > 0
    }

    /// How many partitions it has; 0 if it does not exist.
    pub fn partitions(&self, topic: &str) -> usize {
        Self::partitions_of(&self.config().create().unwrap(), topic)
    }

    fn partitions_of(consumer: &BaseConsumer, topic: &str) -> usize {
        let metadata = consumer.fetch_metadata(Some(topic), Duration::from_secs(10));
        metadata
            .ok()
            .and_then(|found| found.topics().first().map(|t| t.partitions().len()))
            .unwrap_or(0)
    }

    /// Every record of these topics, in the order of offsets within each partition.
    pub fn read(&self, topics: &[&str]) -> Vec<Record> {
        self.try_read(topics).expect("partitions that are led")
    }

    /// The same; none where a topic is so new that nobody leads one of its partitions.
    pub fn try_read(&self, topics: &[&str]) -> Option<Vec<Record>> {
        let mut config = self.config();
        config.set("group.id", "checker").set("enable.auto.commit", "false");
        config.set("fetch.wait.max.ms", "10").set("enable.partition.eof", "false");
        let consumer: BaseConsumer = config.create().unwrap();
        let mut assignment = TopicPartitionList::new();
        let mut left: BTreeMap<(String, i32), i64> = BTreeMap::new();
        for topic in topics {
            let partitions = Self::partitions_of(&consumer, topic);
            for partition in 0..i32::try_from(partitions).unwrap() {
                let marks = consumer.fetch_watermarks(topic, partition, Duration::from_secs(10));
                let (low, high) = match marks {
                    Ok(marks) => marks,
                    Err(KafkaError::MetadataFetch(RDKafkaErrorCode::NotLeaderForPartition)) => {
                        return None;
                    }
                    Err(error) => panic!("{topic}/{partition}: {error}"),
                };
                if high > low {
                    assignment.add_partition_offset(topic, partition, Offset::Beginning).unwrap();
                    left.insert(((*topic).to_owned(), partition), high - 1);
                }
            }
        }
        consumer.assign(&assignment).unwrap();
        let mut records = Vec::new();
        let deadline = std::time::Instant::now() + super::wait::LATER;
        while !left.is_empty() {
            assert!(
                std::time::Instant::now() < deadline,
                "{} partitions cannot be read",
                left.len()
            );
            let Some(message) = consumer.poll(Duration::from_millis(200)) else {
                continue;
            };
            let message = message.unwrap();
            let place = (message.topic().to_owned(), message.partition());
            let headers = message.headers().into_iter().flat_map(|headers| headers.iter());
            records.push(Record {
                topic: place.0.clone(),
                partition: place.1,
                offset: message.offset(),
                key: message.key().map(<[u8]>::to_vec),
                headers: headers
                    .map(|header| (header.key.to_owned(), header.value.map(<[u8]>::to_vec)))
                    .collect(),
                value: message.payload().map(<[u8]>::to_vec),
                timestamp: message.timestamp().to_millis().unwrap_or(0),
            });
            if left.get(&place).is_some_and(|last| message.offset() >= *last) {
                left.remove(&place);
            }
        }
        records.sort_by(|a, b| {
            (&a.topic, a.partition, a.offset).cmp(&(&b.topic, b.partition, b.offset))
        });
        Some(records)
    }

    /// Waits until a topic has so many records, and gives them.
    pub async fn wait_for(&self, topic: &str, count: usize) -> Vec<Record> {
        super::wait::until(format!("{count} records in {topic}"), super::wait::SOON, || async {
            self.try_read(&[topic]).filter(|records| records.len() >= count)
        })
        .await
    }
}
