//! NATS JetStream, through `async-nats`.
//!
//! A record is copied once, into a queue to a thread that has the connection, and stays there until
//! its stream has acknowledged it: what the surroundings refuse, or a lost connection leaves open, is
//! sent again from there, with the same `Nats-Msg-Id`, by which the stream knows what it has. Order
//! per key is the gate's (`ack`): of a key there is one message under way.

mod answer;
mod api;
mod contact;
mod flight;
mod link;
mod look;
mod mailbox;
mod message;
mod streams;
mod subjects;
mod thread;
mod tls;

pub use look::{NatsFacts, look};
pub use streams::StreamFacts;

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{Sender, channel};

use super::super::{
    HELD_ON_THE_WAY, KnownTopics, NoContact, Parcel, Record, Report, SendError, Sink, SinkError,
    SinkName, TopicInfo,
};
use super::{NatsConfig, StreamShape};
use crate::ack::Seq;
use mailbox::Mailbox;
use message::Outgoing;
use thread::{Question, Worker};

/// After this, a session that ends does not wait for the thread any more.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// Questions that can wait at once; whoever finds no room asks again.
const QUESTIONS: usize = 1024;

/// NATS JetStream as the relay's sink, for one session.
pub struct NatsSink {
    mailbox: Arc<Mailbox>,
    messages: Sender<Outgoing>,
    questions: Sender<Question>,
    thread: JoinHandle<()>,
    topics: KnownTopics,
    most: (usize, u64),
}

/// Whether addresses can be made of the URL.
pub(super) fn check_url(config: &NatsConfig) -> Result<(), String> {
    contact::servers(config).map(drop)
}

impl NatsSink {
    /// Starts the connection's thread. Nothing is sent yet, and NATS need not answer.
    ///
    /// # Errors
    /// The configuration cannot be used, or the system gives no thread.
    pub fn open(config: &NatsConfig) -> Result<Self, String> {
        contact::servers(config)?;
        let most = (config.in_flight_events + HELD_ON_THE_WAY, config.in_flight_bytes);
        let mailbox = Arc::new(Mailbox::default());
        let (messages, out) = channel(most.0);
        let (questions, asked) = channel(QUESTIONS);
        let worker = Worker::new(config.clone(), Arc::clone(&mailbox), out, asked);
        let thread = std::thread::Builder::new()
            .name("outboxd-nats".to_owned())
            .spawn(move || worker.run())
            .map_err(|error| error.to_string())?;
        Ok(Self { mailbox, messages, questions, thread, topics: KnownTopics::default(), most })
    }

    fn ask(&self, question: Question) {
        match self.questions.try_send(question) {
            Ok(()) => {}
            Err(TrySendError::Full(question) | TrySendError::Closed(question)) => {
                let reason = "too many questions at once".to_owned();
                self.mailbox.report(match question {
                    Question::Subject(name) => {
                        Report::Topic { name, result: Err(SinkError::Unavailable(reason)) }
                    }
                    Question::Reachable => Report::Reachable(Err(NoContact::Unreachable(reason))),
                });
            }
        }
    }

    /// Whether there is room for a message of that size; for one there always is.
    fn has_room(&self, bytes: usize) -> bool {
        let (events, under_way) = self.mailbox.under_way();
        events == 0 || events < self.most.0 && under_way + bytes as u64 <= self.most.1
    }
}

impl Sink for NatsSink {
    fn name(&self) -> SinkName {
        SinkName::NATS
    }

    fn probe(&mut self) {
        self.ask(Question::Reachable);
    }

    fn look_up(&mut self, topic: &str) {
        self.ask(Question::Subject(topic.to_owned()));
    }

    fn send(&mut self, record: &Record<'_>, seq: Seq) -> Result<(), SendError> {
        let unknown = || SendError::Refused(SinkError::TopicMissing);
        let topic = self.topics.get(record.topic).ok_or_else(unknown)?;
        let value = record.value.map_or(0, <[u8]>::len);
        if !self.has_room(value) {
            return Err(SendError::Full);
        }
        let limit = topic.max_message_bytes.unwrap_or(usize::MAX);
        let too_large = |bytes| SendError::Refused(SinkError::TooLarge { bytes, limit });
        if value > limit {
            return Err(too_large(value));
        }
        let message = Outgoing::new(record, seq).map_err(SendError::Refused)?;
        let bytes = message.bytes();
        if bytes > limit {
            return Err(too_large(bytes));
        }
        self.mailbox.starts(bytes);
        match self.messages.try_send(message) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(_)) => {
                self.mailbox.ended(1, bytes as u64);
                Err(SendError::Full)
            }
            Err(TrySendError::Closed(_)) => {
                let reason = "the connection's thread has ended".to_owned();
                Err(SendError::Refused(SinkError::Fatal(reason)))
            }
        }
    }

    fn take(&mut self, delivered: &mut Vec<Seq>, reports: &mut Vec<Report>) {
        self.mailbox.take(delivered, reports);
        self.topics.learn(reports);
    }

    async fn reported(&self) {
        self.mailbox.reported().await;
    }

    async fn close(self) {
        let Self { messages, questions, thread, .. } = self;
        drop((messages, questions));
        // A panic there was logged by its hook; the session ends in any case.
        let ended = tokio::task::spawn_blocking(move || thread.join().is_ok());
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, ended).await;
    }
}
