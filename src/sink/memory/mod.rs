//! Kafka in memory, for tests that turn the clock: it appends, refuses, stalls and reports as told.
//!
//! A record's way is planned when it is sent. Records of one line (producer, topic, partition)
//! arrive and are reported in order, those of different lines in any. What was on its way when its
//! producer ended may still arrive, an unbroken piece of each line from its front; nobody is told.

mod brokers;

pub(crate) use brokers::{Appended, Brokers, MISREPORTED, Refusal, Temper, Topic};

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::kafka::batch_bytes;
use super::{KnownTopics, Parcel, Record, Report, SendError, Sink, SinkError};
use crate::ack::Seq;
use brokers::Line;

/// One producer.
pub(crate) struct MemorySink {
    brokers: Rc<RefCell<Brokers>>,
    producer: usize,
    /// What it was told of topics.
    topics: KnownTopics,
    /// How often it was asked in the same moment; nothing before the first time.
    taken: Option<(Instant, u32)>,
}

/// Whatever there is to take is taken within this.
const PROMPT: Duration = Duration::from_millis(500);
/// A loop that asks so often without the time passing does not wait for anything.
const TAKES_AT_ONCE: u32 = 100_000;

impl MemorySink {
    pub(crate) fn open(brokers: &Rc<RefCell<Brokers>>) -> Self {
        let producer = brokers.borrow_mut().begin();
        let brokers = Rc::clone(brokers);
        Self { brokers, producer, topics: KnownTopics::default(), taken: None }
    }

    /// It will report that it cannot go on.
    pub(crate) fn dies_at(&self, at: Instant) {
        let report = Report::Fatal("as told".to_owned());
        self.brokers.borrow_mut().say(self.producer, report, at);
    }
}

impl Sink for MemorySink {
    fn probe(&mut self) {
        self.brokers.borrow_mut().ask_reachable(self.producer);
    }

    fn look_up(&mut self, topic: &str) {
        self.brokers.borrow_mut().ask_topic(self.producer, topic);
    }

    fn send(&mut self, record: &Record<'_>, seq: Seq) -> Result<(), SendError> {
        let unknown = SendError::Refused(SinkError::TopicMissing);
        let info = self.topics.get(record.topic).ok_or(unknown)?;
        let (partition, partitions) = (record.partition, info.partitions);
        if !(0..partitions).contains(&partition) {
            let error = SinkError::NoPartition { partition, partitions };
            return Err(SendError::Refused(error));
        }
        let bytes = batch_bytes(record);
        if let Some(limit) = info.max_message_bytes.filter(|limit| bytes > *limit) {
            return Err(SendError::Refused(SinkError::TooLarge { bytes, limit }));
        }
        let mut brokers = self.brokers.borrow_mut();
        brokers.pump();
        if brokers.producers[self.producer].under_way >= brokers.temper.queue {
            return Err(SendError::Full);
        }
        let topic: Box<str> = record.topic.into();
        let parcel = Parcel { topic: Some(topic.clone()), ..Parcel::from(record) };
        let line = Line { producer: self.producer, topic, partition, alone: record.alone };
        brokers.set_out(line, seq, parcel);
        Ok(())
    }

    fn take(&mut self, delivered: &mut Vec<Seq>, reports: &mut Vec<Report>) {
        let now = Instant::now();
        let is_first = self.taken.is_none();
        let times = self.taken.map_or(0, |(at, times)| if at == now { times + 1 } else { 0 });
        self.taken = Some((now, times));
        assert!(times < TAKES_AT_ONCE, "the loop turns without waiting for anything");
        let mut brokers = self.brokers.borrow_mut();
        brokers.pump();
        let producer = &mut brokers.producers[self.producer];
        let news_since = producer.news_since.take().unwrap_or(now);
        assert!(is_first || now - news_since <= PROMPT, "reports lie about");
        self.topics.learn(&producer.reports);
        delivered.append(&mut producer.delivered);
        reports.append(&mut producer.reports);
    }

    async fn reported(&self) {
        loop {
            let next = {
                let mut brokers = self.brokers.borrow_mut();
                brokers.pump();
                let producer = &brokers.producers[self.producer];
                if producer.news_since.is_some() {
                    return;
                }
                brokers.next_for(self.producer)
            };
            match next {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        }
    }

    async fn close(self) {}
}

impl Drop for MemorySink {
    fn drop(&mut self) {
        // After a failed assertion somebody else may be in the middle of something.
        if let Ok(mut brokers) = self.brokers.try_borrow_mut() {
            brokers.pump();
            brokers.end(self.producer);
        }
    }
}
