//! Publish: envelopes go to the sink, in order per key, as soon as their topic takes records.
//!
//! An event is in the [`Window`] before anything else happens to it. What can go at once is handed
//! over straight from the row's bytes; what has to wait (for the event before it in its key, for
//! its topic, for the sink's queue) is copied into a [`Parcel`]. Reports come back by number. What
//! cannot go, and what comes behind it in its key, leaves the fast way ([`Aside`]).

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::hash::{BuildHasher, RandomState};

use tokio::time::Instant;

use super::aside::{Aside, HeldLimits, Leaving};
use super::disposition::Fate;
use super::topics::{TopicId, Topics};
use super::trial::RetryConfig;
use super::words::Words;
use crate::ack::{Entrance, Entry, Lane, Limits, Ordinal, Seq, Window};
use crate::failpoint;
use crate::failure::Failure;
use crate::lsn::Position;
use crate::metrics::Meters;
use crate::outbox::{Envelope, MapError, Placement, Stamp, TopicNames};
use crate::sink::{EventRef, Parcel, Record, Report, SendError, Sink, SinkError};
use crate::status::{HeldContent, Hold, Reason};

/// What a record costs in memory besides its own bytes.
pub(super) const RECORD_OVERHEAD: usize = 256;
/// Numbers of records that come from the held way have this bit; the rest is the event's ordinal.
pub(super) const HELD: Seq = 1 << 62;

/// Everything between reading and acknowledgement.
pub(super) struct Publisher<S> {
    pub(super) sink: S,
    pub(super) window: Window,
    pub(super) topics: Topics,
    pub(super) aside: Aside,
    pub(super) retry: RetryConfig,
    pub(super) waiting: HashMap<Seq, Waiting>,
    /// Through the gate, and only waiting for the sink to take them.
    pub(super) ready: VecDeque<Seq>,
    pub(super) again: BinaryHeap<Reverse<(Instant, Seq)>>,
    /// Sent in a batch of their own, because they were refused with others.
    pub(super) alone: HashSet<Seq>,
    /// What the record does not say of the events in the window.
    origins: Vec<Origin>,
    words: Words,
    hasher: RandomState,
    pub(super) random: fastrand::Rng,
    pub(super) meters: Meters,
    delivered: Vec<Seq>,
    pub(super) reports: Vec<Report>,
    go: Vec<Seq>,
    parked: Vec<Seq>,
    /// Reports about records of the held way.
    pub(super) held_delivered: Vec<Ordinal>,
    pub(super) held_failed: Vec<(Ordinal, SinkError)>,
    /// Events that failed, to be told.
    pub(super) newly_failed: Vec<(Seq, Failure)>,
    /// Whether the sink can be reached, as far as it has told.
    pub(super) reachable: Option<Result<(), Failure>>,
    /// When to ask it again, while it cannot.
    pub(super) probe_at: Option<Instant>,
}

/// An event that could not go at once.
pub(super) struct Waiting {
    pub(super) topic: TopicId,
    pub(super) placement: Placement,
    pub(super) parcel: Parcel,
    pub(super) alone: bool,
}

/// What is only needed of an event that fails.
#[derive(Debug, Clone, Copy)]
struct Origin {
    placement: Placement,
    max_attempts: u32,
    event_type: u32,
    redelivery: bool,
    timestamp: Option<i64>,
}

/// What is said of an event besides its envelope.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Arrival {
    /// Its place in the stream.
    pub(super) position: Position,
    /// Its number as a scheduled event that is due.
    pub(super) came_due: Option<Ordinal>,
    /// Whether an operator asked for it.
    pub(super) redelivery: bool,
    /// When its transaction committed, if that is known: in microseconds since 1970.
    pub(super) committed: Option<i64>,
}

impl<S: Sink> Publisher<S> {
    pub(super) fn new(
        sink: S,
        limits: Limits,
        held: HeldLimits,
        retry: RetryConfig,
        names: TopicNames,
        meters: Meters,
    ) -> Self {
        let none = Origin {
            placement: Placement::Fixed(-1),
            max_attempts: 0,
            event_type: 0,
            redelivery: false,
            timestamp: None,
        };
        Self {
            sink,
            window: Window::new(limits),
            topics: Topics::new(names),
            aside: Aside::new(held),
            retry,
            waiting: HashMap::new(),
            ready: VecDeque::new(),
            again: BinaryHeap::new(),
            alone: HashSet::new(),
            origins: vec![none; limits.events.next_power_of_two()],
            words: Words::default(),
            hasher: RandomState::new(),
            random: fastrand::Rng::new(),
            meters,
            delivered: Vec::new(),
            reports: Vec::new(),
            go: Vec::new(),
            parked: Vec::new(),
            held_delivered: Vec::new(),
            held_failed: Vec::new(),
            newly_failed: Vec::new(),
            reachable: None,
            probe_at: None,
        }
    }

    /// Whether an event of about `bytes` may be read.
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        self.window.has_room((bytes + RECORD_OVERHEAD) as u64)
    }

    /// A topic by its name, which is one that the sink takes.
    pub(super) fn topic(&mut self, name: &str, now: Instant) -> Option<TopicId> {
        self.topics.find(name).or_else(|| self.topics.add(name, now))
    }

    /// What orders the events of a key.
    pub(super) fn lane(&self, topic: TopicId, key: Option<&[u8]>) -> Option<Lane> {
        key.map(|key| Lane(self.hasher.hash_one((topic, key))))
    }

    /// Takes on an event and sends it, if it may go. `joins` says of a lane whether its last held
    /// events are going. Gives the event's number.
    ///
    /// # Errors
    /// The topic's name is not one. The event was not taken on.
    pub(super) fn publish(
        &mut self,
        envelope: &Envelope<'_>,
        arrival: Arrival,
        joins: impl FnOnce(Lane) -> bool,
        now: Instant,
    ) -> Result<Seq, MapError> {
        let topic = self.topic(envelope.topic, now);
        let topic = topic.ok_or_else(|| MapError::BadTopic(self.topics.names()))?;
        let key = envelope.key.as_deref().map(str::as_bytes);
        let lane = self.lane(topic, key);
        let placement = envelope.placement();
        let placement =
            placement.unwrap_or_else(|| Placement::Hashed(self.random.u32(..=0x7FFF_FFFF)));
        let bytes = u32::try_from(envelope.bytes() + RECORD_OVERHEAD).unwrap_or(u32::MAX);
        let entrance = if self.topics.refuses(topic) {
            Entrance::Held
        } else if lane.is_some_and(joins) {
            Entrance::Joining
        } else {
            Entrance::Usual
        };
        let (seq, entry) = self.window.admit(arrival.position, lane, bytes, entrance);
        if let Some(ordinal) = arrival.came_due {
            self.aside.note_due(seq, ordinal);
        }
        let max_attempts = envelope.max_attempts.and_then(|most| u32::try_from(most).ok());
        let origin = Origin {
            placement,
            max_attempts: max_attempts.unwrap_or(0),
            event_type: self.words.number(envelope.event_type.as_deref()),
            redelivery: arrival.redelivery,
            timestamp: match envelope.timestamp {
                Stamp::Publish => None,
                Stamp::Commit => arrival.committed.map(|micros| micros / 1000),
                Stamp::At(millis) => Some(millis),
            },
        };
        self.set_origin(seq, origin);
        let event = EventRef {
            id: envelope.id,
            event_type: envelope.event_type.as_deref(),
            position: arrival.position.known(),
            is_redelivery: arrival.redelivery,
        };
        let mut record = Record {
            event,
            topic: envelope.topic,
            partition: -1,
            key,
            headers: envelope.headers,
            value: envelope.value,
            timestamp: origin.timestamp,
            alone: false,
        };
        if entry == Entry::Goes
            && self.ready.is_empty()
            && let Some(info) = self.topics.info(topic)
        {
            record.partition = placement.partition(info.partitions);
            failpoint::pass("before_produce");
            match self.sink.send(&record, seq) {
                Ok(()) => return Ok(seq),
                Err(SendError::Full) => {}
                Err(SendError::Refused(error)) => {
                    let parcel = Parcel::from(&record);
                    self.waiting.insert(seq, Waiting { topic, placement, parcel, alone: false });
                    self.reports.push(refusal(seq, error));
                    return Ok(seq);
                }
            }
        }
        let parcel = Parcel::from(&record);
        self.waiting.insert(seq, Waiting { topic, placement, parcel, alone: false });
        match entry {
            Entry::Goes => self.let_go(seq),
            Entry::Waits => {}
            Entry::Held if self.topics.refuses(topic) => {
                self.leave(seq, Hold::waiting(Reason::Topic));
            }
            Entry::Held => self.leave(seq, Hold::waiting(Reason::Parked)),
        }
        Ok(seq)
    }

    /// Takes on an event that is held from the start.
    pub(super) fn hold(
        &mut self,
        position: Position,
        topic: Option<TopicId>,
        hold: Hold,
        content: HeldContent,
    ) -> Seq {
        let lane = topic.and_then(|topic| self.lane(topic, content.parcel.key.as_deref()));
        let leaving = Leaving::new(lane, hold, content);
        let bytes = u32::try_from(leaving.bytes).unwrap_or(u32::MAX);
        let (seq, entry) = self.window.admit(position, lane, bytes, Entrance::Held);
        if entry == Entry::Waits
            && let Some(lane) = lane
        {
            // Those that joined the lane are held before it.
            self.park(lane);
        }
        self.aside.want(seq, leaving);
        seq
    }

    #[expect(clippy::cast_possible_truncation, reason = "masked by a length in memory")]
    fn set_origin(&mut self, seq: Seq, origin: Origin) {
        let mask = self.origins.len() - 1;
        if let Some(slot) = self.origins.get_mut(seq as usize & mask) {
            *slot = origin;
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "masked by a length in memory")]
    fn origin(&self, seq: Seq) -> Option<Origin> {
        self.origins.get(seq as usize & (self.origins.len() - 1)).copied()
    }

    /// An event that was to go is held, and with it those that wait behind it.
    pub(super) fn set_aside(&mut self, seq: Seq, hold: Hold) {
        let mut parked = std::mem::take(&mut self.parked);
        self.window.set_aside(seq, &mut parked);
        self.leave(seq, hold);
        for seq in parked.drain(..) {
            self.leave(seq, Hold::waiting(Reason::Parked));
        }
        self.parked = parked;
    }

    /// The lane's held events do not go on for now: who joined it is held as well.
    pub(super) fn park(&mut self, lane: Lane) {
        let mut parked = std::mem::take(&mut self.parked);
        self.window.park(lane, &mut parked);
        for seq in parked.drain(..) {
            self.leave(seq, Hold::waiting(Reason::Parked));
        }
        self.parked = parked;
    }

    fn leave(&mut self, seq: Seq, hold: Hold) {
        let (Some(waiting), Some(origin)) = (self.waiting.remove(&seq), self.origin(seq)) else {
            return;
        };
        let topic = self.topics.name(waiting.topic).map(Into::into);
        let content = HeldContent {
            event_type: self.words.word(origin.event_type).map(Into::into),
            max_attempts: (origin.max_attempts > 0).then_some(origin.max_attempts),
            placement: Some(origin.placement),
            parcel: Parcel { topic, ..waiting.parcel },
            redelivery: origin.redelivery,
        };
        self.aside.want(seq, Leaving::new(self.window.lane(seq), hold, content));
    }

    /// What chooses the event's partition.
    pub(super) fn placement(&self, seq: Seq) -> Option<Placement> {
        self.origin(seq).map(|origin| origin.placement)
    }

    /// The timestamp that the event's record is to have, if it is not that of publishing.
    pub(super) fn timestamp(&self, seq: Seq) -> Option<i64> {
        self.origin(seq).and_then(|origin| origin.timestamp)
    }

    /// How often the event's row allows it to be tried.
    pub(super) fn max_attempts(&self, seq: Seq) -> Option<u32> {
        self.origin(seq).map(|origin| origin.max_attempts).filter(|most| *most > 0)
    }

    /// A held event of the lane is through.
    pub(super) fn release(&mut self, lane: Lane) {
        let mut go = std::mem::take(&mut self.go);
        self.window.release(lane, &mut go);
        for seq in go.drain(..) {
            self.let_go(seq);
        }
        self.go = go;
    }

    /// Hands over a record of the held way.
    pub(super) fn send_held(
        &mut self,
        record: &Record<'_>,
        ordinal: Ordinal,
    ) -> Result<(), SendError> {
        self.sink.send(record, HELD | ordinal.cast_unsigned())
    }

    /// The event is through the gate: it goes, waits for its topic, or is held with it.
    pub(super) fn let_go(&mut self, seq: Seq) {
        let Some(waiting) = self.waiting.get(&seq) else {
            return;
        };
        match self.topics.info(waiting.topic) {
            Some(_) => self.ready.push_back(seq),
            None if self.topics.refuses(waiting.topic) => {
                self.set_aside(seq, Hold::waiting(Reason::Topic));
            }
            None => self.topics.wait(waiting.topic, seq),
        }
    }

    /// Hands over what may go, until the sink takes no more.
    fn send_ready(&mut self) {
        while let Some(seq) = self.ready.front().copied() {
            let origin = self.origin(seq);
            let Some(waiting) = self.waiting.get(&seq) else {
                self.ready.pop_front();
                continue;
            };
            let (Some(info), Some(topic)) =
                (self.topics.info(waiting.topic), self.topics.name(waiting.topic))
            else {
                self.ready.pop_front();
                self.let_go(seq);
                continue;
            };
            let event = EventRef {
                id: waiting.parcel.event_id.as_deref().unwrap_or_default(),
                event_type: origin.and_then(|origin| self.words.word(origin.event_type)),
                position: self.window.position(seq).known(),
                is_redelivery: origin.is_some_and(|origin| origin.redelivery),
            };
            let mut record = waiting.parcel.record(event, topic, waiting.alone);
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
        let held = self.held_delivered.len();
        let count = delivered.len();
        for seq in delivered.drain(..) {
            if seq & HELD != 0 {
                self.held_delivered.push((seq & !HELD).cast_signed());
                continue;
            }
            acked(seq);
            if !self.alone.is_empty() {
                self.alone.remove(&seq);
            }
            self.window.ack(seq, &mut self.go);
        }
        self.delivered = delivered;
        self.count_published((count - (self.held_delivered.len() - held)) as u64);
        let mut go = std::mem::take(&mut self.go);
        for seq in go.drain(..) {
            self.let_go(seq);
        }
        self.go = go;
        for report in reports.drain(..) {
            self.take_in(report, now)?;
        }
        // There is no better answer than an acknowledgement.
        if count > 0 && !self.is_reachable() {
            self.reached(Ok(()), now);
        }
        // What a refusal at the hand-over reported meanwhile is for the next round.
        if self.reports.is_empty() {
            self.reports = reports;
        }
        while self.again.peek().is_some_and(|next| next.0.0 <= now) {
            if let Some(Reverse((_, seq))) = self.again.pop() {
                self.let_go(seq);
            }
        }
        for topic in self.topics.due(now) {
            self.sink.look_up(&topic);
        }
        if self.probe_at.take_if(|at| *at <= now).is_some() {
            self.sink.probe();
        }
        self.send_ready();
        self.aside.hold_what_fits(&mut self.window);
        Ok(())
    }

    /// The sink has acknowledged so many events.
    pub(super) fn count_published(&self, events: u64) {
        self.meters.events_published.increment(events);
        self.meters.publish_sent.increment(events);
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
}

fn refusal(seq: Seq, error: SinkError) -> Report {
    Report::Failed { seq, error, parcel: Parcel::default() }
}
