//! The sink itself, through the crate `redis`.
//!
//! A record is copied once, into a [`batch`] of its stream, and is kept there until it is safe. A thread
//! of its own ([`worker`]) makes each batch one call of a script ([`script`]), sends the calls of all
//! streams together, and takes in the answers. Nothing is allocated or woken per record.
//!
//! Order is kept here, for a stream as a whole: calls form a chain, and one whose predecessor was not
//! carried out adds nothing. What a crash or a lost connection repeats, the script knows by its id and
//! leaves out.

mod address;
mod batch;
mod errors;
mod group;
mod link;
mod look;
mod node;
mod route;
mod script;
mod shared;
mod stream;
mod troubles;
mod worker;

pub use look::{RedisFacts, ServerFacts, look};

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::RedisConfig;
use crate::ack::Seq;
use crate::sink::{KnownTopics, Record, Report, SendError, Sink, SinkError, SinkName};
use address::Address;
use batch::size;
use link::Access;
use script::MAX_HEADERS;
use shared::{Question, Shared};
use worker::Worker;

/// After this, a session that ends does not wait for the thread any more.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Redis as the relay's sink, for one session.
pub struct RedisSink {
    shared: Arc<Shared>,
    topics: KnownTopics,
    /// The streams' numbers.
    streams: HashMap<String, usize>,
    /// How many reports were taken that a stream takes no records.
    taken: u64,
    ended: oneshot::Receiver<()>,
}

/// Whether an address can be made of the URL.
pub(super) fn check_url(config: &RedisConfig) -> Result<(), String> {
    Address::parse(&config.url, &config.topology).map(drop)
}

impl RedisSink {
    /// Starts the thread. Nothing is sent yet, and Redis need not answer.
    ///
    /// # Errors
    /// The configuration cannot be meant, or the system gives no thread.
    pub fn open(config: &RedisConfig) -> Result<Self, String> {
        let access = Access::of(config)?;
        let shared = Arc::new(Shared::new(config.in_flight_events, config.in_flight_bytes));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| error.to_string())?;
        let (end, ended) = oneshot::channel();
        let worker = Worker::new(config, access, Arc::clone(&shared));
        let guard = Guard { shared: Arc::clone(&shared), _end: end };
        let thread = std::thread::Builder::new().name("outboxd-redis".to_owned());
        let run = move || {
            // Dropped last: then no connection is left.
            let _guard = guard;
            runtime.block_on(worker.run());
        };
        thread.spawn(run).map_err(|error| error.to_string())?;
        let streams = HashMap::new();
        Ok(Self { shared, topics: KnownTopics::default(), streams, taken: 0, ended })
    }

    fn check(&self, record: &Record<'_>) -> Result<usize, SinkError> {
        let topic = self.topics.get(record.topic).ok_or(SinkError::TopicMissing)?;
        let stream = self.streams.get(record.topic).ok_or(SinkError::TopicMissing)?;
        let (bytes, headers) = (size(record), record.headers.count());
        match topic.max_message_bytes {
            Some(limit) if bytes > limit => Err(SinkError::TooLarge { bytes, limit }),
            _ if headers > MAX_HEADERS => {
                Err(SinkError::Refused(format!("{headers} headers are more than {MAX_HEADERS}")))
            }
            _ => Ok(*stream),
        }
    }
}

/// Says that the thread has ended: in order, or by a panic, which was logged by its hook.
struct Guard {
    shared: Arc<Shared>,
    /// Dropping it is the message.
    _end: oneshot::Sender<()>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        let is_closing = self.shared.content().is_closing;
        if !is_closing {
            self.shared.report(Report::Fatal("the sink's thread has ended".to_owned()));
        }
    }
}

impl Sink for RedisSink {
    fn name(&self) -> SinkName {
        SinkName::REDIS
    }

    fn probe(&mut self) {
        self.shared.ask(Question::Reachable);
    }

    fn look_up(&mut self, topic: &str) {
        let next = self.streams.len();
        let stream = match self.streams.get(topic) {
            Some(stream) => *stream,
            None => *self.streams.entry(topic.to_owned()).or_insert(next),
        };
        self.shared.ask(Question::Stream { stream, name: topic.to_owned(), taken: self.taken });
    }

    fn send(&mut self, record: &Record<'_>, seq: Seq) -> Result<(), SendError> {
        let stream = self.check(record).map_err(SendError::Refused)?;
        if self.shared.push(stream, record, seq) { Ok(()) } else { Err(SendError::Full) }
    }

    fn take(&mut self, delivered: &mut Vec<Seq>, reports: &mut Vec<Report>) {
        self.shared.to_relay.reset();
        {
            let mut content = self.shared.content();
            delivered.append(&mut content.delivered);
            reports.append(&mut content.reports);
            self.taken = content.refusals;
        }
        self.topics.learn(reports);
    }

    async fn reported(&self) {
        self.shared.to_relay.given().await;
    }

    async fn close(mut self) {
        self.shared.close();
        // What it still does can repeat records, never reorder them.
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, &mut self.ended).await;
    }
}

impl Drop for RedisSink {
    fn drop(&mut self) {
        self.shared.close();
    }
}
