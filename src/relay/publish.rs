//! Publish: envelopes go to the sink, in order per key, as soon as their topic takes records.
//!
//! An event is in the [`Window`] before anything else happens to it. What can go at once is handed
//! over straight from the row's bytes; what has to wait (for the event before it in its key, for
//! its topic, for the sink's queue) is copied into a [`Parcel`]. Reports come back by number.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use tokio::time::Instant;

use super::disposition::{Fate, RecordFate, of_sink};
use super::topics::{TopicId, Topics};
use crate::ack::{Lane, Limits, Seq, Window};
use crate::failpoint;
use crate::failure::{Code, Failure};
use crate::lsn::Position;
use crate::metrics::{Meters, count_error};
use crate::outbox::{Envelope, MapError, Placement};
use crate::retry::Backoff;
use crate::sink::{Parcel, Record, Report, SendError, Sink, SinkError};

/// What a record costs in memory besides its own bytes.
const RECORD_OVERHEAD: usize = 256;
/// How long what Kafka refused waits before it is tried again.
const REFUSED_INITIAL: Duration = Duration::from_secs(1);
const REFUSED_MAX: Duration = Duration::from_mins(1);
/// How long what failed for no reason of its own waits.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// How often a sink that cannot be reached is asked whether it can.
const PROBE_EVERY: Duration = Duration::from_secs(2);

/// Everything between reading and acknowledgement.
pub(super) struct Publisher<S> {
    pub(super) sink: S,
    pub(super) window: Window,
    topics: Topics,
    waiting: HashMap<Seq, Waiting>,
    /// Through the gate, and only waiting for the sink to take them.
    ready: VecDeque<Seq>,
    again: BinaryHeap<Reverse<(Instant, Seq)>>,
    refused: HashMap<Seq, Refusal>,
    /// Refused for the first time, and not told yet.
    pub(super) newly_refused: Vec<(Seq, Failure)>,
    backoff: Backoff,
    hasher: RandomState,
    random: fastrand::Rng,
    meters: Meters,
    delivered: Vec<Seq>,
    reports: Vec<Report>,
    go: Vec<Seq>,
    /// Whether the sink can be reached, as far as it has told.
    reachable: Option<Result<(), Failure>>,
    /// When to ask it again, while it cannot.
    probe_at: Option<Instant>,
}

/// An event that could not go at once.
struct Waiting {
    topic: TopicId,
    placement: Placement,
    parcel: Parcel,
    alone: bool,
}

/// An event that was refused for what it is.
struct Refusal {
    attempts: u32,
    since: Instant,
    failure: Failure,
}

impl<S: Sink> Publisher<S> {
    pub(super) fn new(sink: S, limits: Limits, meters: Meters) -> Self {
        Self {
            sink,
            window: Window::new(limits),
            topics: Topics::default(),
            waiting: HashMap::new(),
            ready: VecDeque::new(),
            again: BinaryHeap::new(),
            refused: HashMap::new(),
            newly_refused: Vec::new(),
            backoff: Backoff::new(REFUSED_INITIAL, REFUSED_MAX, 0.2),
            hasher: RandomState::new(),
            random: fastrand::Rng::new(),
            meters,
            delivered: Vec::new(),
            reports: Vec::new(),
            go: Vec::new(),
            reachable: None,
            probe_at: None,
        }
    }

    /// Whether an event of about `bytes` may be read.
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        self.window.has_room((bytes + RECORD_OVERHEAD) as u64)
    }

    /// Takes on an event and sends it, if it may go. Gives its number.
    ///
    /// # Errors
    /// The topic's name is not one. The event was not taken on.
    pub(super) fn publish(
        &mut self,
        envelope: &Envelope<'_>,
        position: Position,
        now: Instant,
    ) -> Result<Seq, MapError> {
        let topic = match self.topics.find(envelope.topic) {
            Some(topic) => topic,
            None => self.topics.add(envelope.topic, now).ok_or(MapError::BadTopic)?,
        };
        let key = envelope.key.as_deref().map(str::as_bytes);
        let lane = key.map(|key| Lane(self.hasher.hash_one((topic, key))));
        let by = envelope.partition_by.as_deref().map(str::as_bytes).or(key);
        let placement = match (envelope.partition, by) {
            (Some(partition), _) => Placement::Fixed(partition),
            (None, Some(by)) => Placement::of_key(by),
            (None, None) => Placement::Hashed(self.random.u32(..=0x7FFF_FFFF)),
        };
        let bytes = u32::try_from(envelope.bytes() + RECORD_OVERHEAD).unwrap_or(u32::MAX);
        let admitted = self.window.admit(position, lane, bytes);
        let mut record = Record {
            topic: envelope.topic,
            partition: -1,
            key,
            headers: envelope.headers,
            value: envelope.value,
            alone: false,
        };
        if admitted.goes
            && self.ready.is_empty()
            && let Some(info) = self.topics.info(topic)
        {
            record.partition = placement.partition(info.partitions);
            failpoint::pass("before_produce");
            match self.sink.send(&record, admitted.seq) {
                Ok(()) => return Ok(admitted.seq),
                Err(SendError::Full) => {}
                Err(SendError::Refused(error)) => {
                    let parcel = Parcel::from(&record);
                    let waiting = Waiting { topic, placement, parcel, alone: false };
                    self.waiting.insert(admitted.seq, waiting);
                    self.reports.push(refusal(admitted.seq, error));
                    return Ok(admitted.seq);
                }
            }
        }
        let parcel = Parcel::from(&record);
        self.waiting.insert(admitted.seq, Waiting { topic, placement, parcel, alone: false });
        if admitted.goes {
            self.let_go(admitted.seq);
        }
        Ok(admitted.seq)
    }

    /// The event is through the gate: it goes, or waits for its topic.
    fn let_go(&mut self, seq: Seq) {
        let Some(waiting) = self.waiting.get(&seq) else {
            return;
        };
        match self.topics.info(waiting.topic) {
            Some(_) => self.ready.push_back(seq),
            None => self.topics.wait(waiting.topic, seq),
        }
    }

    /// Hands over what may go, until the sink takes no more.
    fn send_ready(&mut self) {
        while let Some(seq) = self.ready.front().copied() {
            let Some(waiting) = self.waiting.get(&seq) else {
                self.ready.pop_front();
                continue;
            };
            let (Some(info), Some(topic)) =
                (self.topics.info(waiting.topic), self.topics.name(waiting.topic))
            else {
                self.topics.wait(waiting.topic, seq);
                self.ready.pop_front();
                continue;
            };
            let mut record = waiting.parcel.record(topic, waiting.alone);
            record.partition = waiting.placement.partition(info.partitions);
            failpoint::pass("before_produce");
            match self.sink.send(&record, seq) {
                Err(SendError::Full) => return,
                Ok(()) => {
                    self.waiting.remove(&seq);
                }
                Err(SendError::Refused(error)) => self.reports.push(refusal(seq, error)),
            }
            self.ready.pop_front();
        }
    }

    /// Takes in what the sink reports, and sends what may go because of it. Calls `acked` for
    /// every event that is safe.
    ///
    /// # Errors
    /// The session has to end.
    pub(super) fn advance(&mut self, now: Instant, mut acked: impl FnMut(Seq)) -> Result<(), Fate> {
        let mut reports = std::mem::take(&mut self.reports);
        self.sink.take(&mut self.delivered, &mut reports);
        let mut delivered = std::mem::take(&mut self.delivered);
        self.meters.events_published.increment(delivered.len() as u64);
        self.meters.publish_sent.increment(delivered.len() as u64);
        for seq in delivered.drain(..) {
            acked(seq);
            if !self.refused.is_empty() {
                self.refused.remove(&seq);
            }
            self.window.ack(seq, &mut self.go);
        }
        self.delivered = delivered;
        let mut go = std::mem::take(&mut self.go);
        for seq in go.drain(..) {
            self.let_go(seq);
        }
        self.go = go;
        for report in reports.drain(..) {
            self.take_in(report, now)?;
        }
        // What a refusal at the hand-over reported meanwhile is for the next round.
        if self.reports.is_empty() {
            self.reports = reports;
        }
        while self.again.peek().is_some_and(|next| next.0.0 <= now) {
            if let Some(Reverse((_, seq))) = self.again.pop() {
                self.retry(seq);
            }
        }
        for topic in self.topics.due(now) {
            self.sink.look_up(&topic);
        }
        if self.probe_at.take_if(|at| *at <= now).is_some() {
            self.sink.probe();
        }
        self.send_ready();
        Ok(())
    }

    fn take_in(&mut self, report: Report, now: Instant) -> Result<(), Fate> {
        match report {
            Report::Failed { seq, error, parcel } => self.failed(seq, &error, parcel, now)?,
            Report::Reachable(result) => self.reached(result, now),
            Report::Fatal(reason) => {
                self.meters.producer_fatal.increment(1);
                count_error("kafka", "fatal");
                let error = SinkError::Fatal(reason);
                if let RecordFate::Session(fate) = of_sink(&error, "any") {
                    return Err(fate);
                }
            }
            Report::Topic { name, result } => {
                if !matches!(result, Err(SinkError::Unavailable(_))) {
                    self.reached(Ok(()), now);
                }
                match result {
                    Ok(info) => {
                        for seq in self.topics.ready(&name, info) {
                            self.ready.push_back(seq);
                        }
                    }
                    Err(error) => match of_sink(&error, &name) {
                        RecordFate::Session(fate) => return Err(fate),
                        RecordFate::Again(failure)
                        | RecordFate::Topic(failure)
                        | RecordFate::Event(failure) => {
                            self.topics.unavailable(&name, failure, now);
                        }
                    },
                }
            }
        }
        Ok(())
    }

    /// The sink has answered, or nobody does.
    fn reached(&mut self, result: Result<(), String>, now: Instant) {
        match (&self.reachable, &result) {
            (Some(Ok(())), Ok(())) => return,
            (Some(Err(_)), Ok(())) => tracing::info!("Kafka answers again"),
            (None | Some(Ok(())), Err(reason)) => {
                count_error("kafka", "unavailable");
                tracing::warn!(
                    code = %Code::KafkaUnavailable,
                    error = reason,
                    remedy = Code::KafkaUnavailable.remedy(),
                    "Kafka does not answer; waiting for it"
                );
            }
            (None, Ok(())) | (Some(Err(_)), Err(_)) => {}
        }
        self.probe_at = result.is_err().then(|| now + PROBE_EVERY);
        let failure = |reason| Failure::new(Code::KafkaUnavailable, reason);
        self.reachable = Some(result.map_err(failure));
    }

    /// Whether the sink can be reached, as far as it has told.
    pub(super) fn is_reachable(&self) -> bool {
        !matches!(self.reachable, Some(Err(_)))
    }

    fn failed(
        &mut self,
        seq: Seq,
        error: &SinkError,
        parcel: Parcel,
        now: Instant,
    ) -> Result<(), Fate> {
        // A record that was under way has given up its place in `waiting`.
        let topic = self.waiting.get(&seq).map(|waiting| waiting.topic);
        let Some(topic) =
            topic.or_else(|| parcel.topic.as_deref().and_then(|t| self.topics.find(t)))
        else {
            return Ok(());
        };
        let placement = Placement::Fixed(parcel.partition);
        self.waiting.entry(seq).or_insert(Waiting { topic, placement, parcel, alone: false });
        let name = self.topics.name(topic).unwrap_or_default().to_owned();
        match of_sink(error, &name) {
            RecordFate::Session(fate) => return Err(fate),
            RecordFate::Again(_) => {
                self.window.hold_back(seq);
                self.again.push(Reverse((now + AGAIN_AFTER, seq)));
            }
            RecordFate::Topic(failure) => {
                self.window.hold_back(seq);
                self.topics.unavailable(&name, failure, now);
                self.topics.wait(topic, seq);
            }
            RecordFate::Event(failure) => self.refuse(seq, topic, failure, now),
        }
        Ok(())
    }

    fn refuse(&mut self, seq: Seq, topic: TopicId, failure: Failure, now: Instant) {
        self.window.refuse(seq);
        self.meters.events_failed.increment(1);
        self.meters.events_failed_alias.increment(1);
        self.meters.publish_failed.increment(1);
        count_error("kafka", "event");
        if let Some(waiting) = self.waiting.get_mut(&seq) {
            waiting.alone = true;
        }
        let refusal = self.refused.entry(seq);
        let refusal =
            refusal.or_insert(Refusal { attempts: 0, since: now, failure: failure.clone() });
        refusal.attempts += 1;
        let wait = self.backoff.wait(refusal.attempts, self.random.f64());
        // Perhaps the topic's limits will have been changed by then.
        self.topics.look_again(topic, now, now + wait);
        if refusal.attempts == 1 {
            self.newly_refused.push((seq, failure.clone()));
        } else {
            tracing::debug!(error = failure.message, attempts = refusal.attempts, "refused again");
        }
        refusal.failure = failure;
        self.again.push(Reverse((now + wait, seq)));
    }

    fn retry(&mut self, seq: Seq) {
        if self.refused.contains_key(&seq) {
            self.meters.retries.increment(1);
            self.meters.publish_retried.increment(1);
        }
        self.let_go(seq);
    }

    /// Whether many of the events that were read wait for others to be acknowledged.
    pub(super) fn is_crowded(&self) -> bool {
        self.waiting.len() as u64 * 4 > self.window.unacked()
    }

    /// When something has to be done again.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let again = self.again.peek().map(|next| next.0.0);
        [again, self.topics.next_due(), self.probe_at].into_iter().flatten().min()
    }

    /// Whether a report waits that no signal of the sink will announce.
    pub(super) fn has_reports(&self) -> bool {
        !self.reports.is_empty()
    }

    /// Why events wait that should have gone, if any do.
    pub(super) fn stall(&self) -> Option<&Failure> {
        let oldest = self.refused.iter().min_by_key(|(seq, _)| **seq);
        let refused = oldest.map(|(_, refusal)| &refusal.failure);
        let unreachable = self.reachable.as_ref().and_then(|reachable| reachable.as_ref().err());
        let unreachable = unreachable.filter(|_| self.window.unacked() > 0);
        refused.or_else(|| self.topics.stall()).or(unreachable)
    }

    /// Since when the oldest refused event has waited.
    pub(super) fn refused_since(&self) -> Option<Instant> {
        self.refused.values().map(|refusal| refusal.since).min()
    }
}

fn refusal(seq: Seq, error: SinkError) -> Report {
    Report::Failed { seq, error, parcel: Parcel::default() }
}
