//! The consumer: reads every record of the topic, from the first to the last, into the ledger.

use std::time::{Duration, Instant};

use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::RDKafkaErrorCode;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::broker::{PARTITIONS, Quiet, client};
use super::proof::SharedLedger;
use crate::failure::{Code, Failure};
use crate::sink::KafkaConfig;

/// A consumer, on a thread of its own because the client's calls block. It ends with this value.
pub(super) struct Consumer {
    until: watch::Sender<Until>,
    thread: JoinHandle<Result<(), Failure>>,
}

/// How far to read.
#[derive(Debug, Clone, Copy)]
enum Until {
    Told,
    /// To the end as it is now, or until this time.
    End(Instant),
}

/// How long the consumer waits for a record before it looks whether it should go on.
const POLL: Duration = Duration::from_millis(50);

impl Consumer {
    /// Starts to read `topic`.
    pub(super) fn start(
        kafka: &KafkaConfig,
        fetch_wait: Duration,
        topic: &str,
        ledger: SharedLedger,
    ) -> Result<Self, Failure> {
        let mut config = client(kafka);
        config
            .set("group.id", "outboxd-demo")
            .set("enable.auto.commit", "false")
            .set("fetch.wait.max.ms", fetch_wait.as_millis().to_string())
            // What is gone before it was read must not be passed over.
            .set("auto.offset.reset", "error");
        let make = || -> KafkaResult<BaseConsumer<Quiet>> {
            let consumer = BaseConsumer::from_config_and_context(&config, Quiet)?;
            let mut assignment = TopicPartitionList::new();
            for partition in 0..PARTITIONS {
                assignment.add_partition_offset(topic, partition, Offset::Offset(0))?;
            }
            consumer.assign(&assignment)?;
            Ok(consumer)
        };
        let consumer = make().map_err(|error| {
            Failure::new(Code::SinkConfig, format!("start the consumer: {error}"))
        })?;
        let (until, told) = watch::channel(Until::Told);
        let reader = Reader { consumer, topic: topic.to_owned(), ledger, next: Vec::new() };
        let thread = tokio::task::spawn_blocking(move || reader.read(&told));
        Ok(Self { until, thread })
    }

    /// Waits until it has failed. Cancel-safe.
    pub(super) async fn failed(&mut self) -> Failure {
        match (&mut self.thread).await {
            Ok(Err(failure)) => failure,
            Ok(Ok(())) => Failure::new(Code::Bug, "the consumer ended before it was told to"),
            Err(error) => Failure::new(Code::Bug, format!("the consumer: {error}")),
        }
    }

    /// Reads to the end of the topic, within `limit`.
    pub(super) async fn finish(self, limit: Duration) -> Result<(), Failure> {
        self.until.send_replace(Until::End(Instant::now() + limit));
        match self.thread.await {
            Ok(result) => result,
            Err(error) => Err(Failure::new(Code::Bug, format!("the consumer: {error}"))),
        }
    }
}

struct Reader {
    consumer: BaseConsumer<Quiet>,
    topic: String,
    ledger: SharedLedger,
    /// By partition, the offset after the last record that was read.
    next: Vec<i64>,
}

impl Reader {
    fn read(mut self, told: &watch::Receiver<Until>) -> Result<(), Failure> {
        self.next = (0..PARTITIONS).map(|_| 0).collect();
        let deadline = loop {
            self.step()?;
            match *told.borrow() {
                Until::End(deadline) => break deadline,
                // Whoever could tell is gone.
                Until::Told if told.has_changed().is_err() => return Ok(()),
                Until::Told => {}
            }
        };
        let ends = self.ends(deadline)?;
        while Instant::now() < deadline && self.next.iter().zip(&ends).any(|(next, end)| next < end)
        {
            self.step()?;
        }
        Ok(())
    }

    /// One record, if there is one.
    fn step(&mut self) -> Result<(), Failure> {
        match self.consumer.poll(POLL) {
            Some(Ok(message)) => {
                let now = Instant::now();
                let (key, id) = (text(message.key()), event_id(&message));
                self.ledger.lock().receive(key, id, now);
                let partition = usize::try_from(message.partition()).ok();
                let next = partition.and_then(|partition| self.next.get_mut(partition));
                if let Some(next) = next {
                    *next = message.offset() + 1;
                }
                Ok(())
            }
            Some(Err(error)) if is_final(&error) => {
                let text = format!("the consumer cannot go on: {error}");
                Err(Failure::new(Code::SinkUnavailable, text))
            }
            // The client tries again by itself.
            Some(Err(_)) | None => Ok(()),
        }
    }

    /// The offset after the last record of each partition.
    fn ends(&self, deadline: Instant) -> Result<Vec<i64>, Failure> {
        (0..PARTITIONS)
            .map(|partition| {
                let limit = deadline.saturating_duration_since(Instant::now());
                let marks = self.consumer.fetch_watermarks(&self.topic, partition, limit);
                marks.map(|(_, end)| end).map_err(|error| {
                    let text = format!("look for the topic's end: {error}");
                    Failure::new(Code::SinkUnavailable, text)
                })
            })
            .collect()
    }
}

fn is_final(error: &KafkaError) -> bool {
    use RDKafkaErrorCode::{AutoOffsetReset, Fatal, GroupAuthorizationFailed};
    let code = error.rdkafka_error_code();
    let final_codes = [AutoOffsetReset, Fatal, GroupAuthorizationFailed];
    code.is_some_and(|code| final_codes.contains(&code))
}

fn event_id<'a>(message: &'a BorrowedMessage<'_>) -> &'a str {
    let mut headers = message.headers().into_iter().flat_map(|headers| headers.iter());
    let id = headers.find(|header| header.key == "event_id");
    text(id.and_then(|header| header.value))
}

/// What is no text is no name of ours.
fn text(bytes: Option<&[u8]>) -> &str {
    bytes.and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or_default()
}
