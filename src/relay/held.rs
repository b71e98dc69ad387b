//! The held way: events that could not go are loaded when they are due and sent (`deliver`), and
//! redeemed (`redeem`).
//!
//! What is held lies in `outboxd.held_event`; in memory is only what says which event goes when.
//! The held way has a budget of its own, so that it drains when the fast way is full. An event
//! that is through leaves its lane at once; the transaction that makes it durable follows
//! (`redeem`). What operators ask for is in `orders`, what is scheduled in `schedule`.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::rc::Rc;

use tokio::time::Instant;

use super::aside::{Leaving, OVERHEAD};
use super::board::wall_clock;
use super::disposition::Fate;
use super::publish::Publisher;
use super::redeem::Running;
use super::schedule::Schedule;
use super::state::Held;
use super::topics::TopicId;
use crate::ack::{HeldLanes, Lane, Moment, Ordinal};
use crate::failure::Failure;
use crate::metrics::Meters;
use crate::outbox::TopicNames;
use crate::sink::{HELD_ON_THE_WAY, Sink};
use crate::status::{Change, HeldBody, HeldEntry, Hold, Reason, Request};

/// The bytes of the held events that are on their way at once, from being loaded to being redeemed; one
/// may be larger.
pub(super) const BYTES_ON_THE_WAY: u64 = 8 << 20;
/// Events of one lane that are loaded ahead of their turn.
pub(super) const AHEAD: usize = 32;

/// Where dead letters go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetterConfig {
    /// The topic, with `{topic}` for the event's own; empty for none.
    pub topic: String,
    /// The topic of events that have none; empty for none.
    pub default: String,
    /// What a topic can be called.
    pub names: TopicNames,
}

impl DeadLetterConfig {
    /// Where the dead letter of an event of the topic `own` goes; nothing if nowhere.
    pub(super) fn destination(&self, own: Option<&str>) -> Option<String> {
        let name = match own {
            Some(_) if self.topic.is_empty() => return None,
            Some(own) => self.topic.replace("{topic}", own),
            None => self.default.clone(),
        };
        // A name can be too long with what is added to it.
        let name = if self.names.takes(&name) { name } else { self.default.clone() };
        self.names.takes(&name).then_some(name)
    }
}

/// The held events of a session.
pub(super) struct HeldWay<T> {
    pub(super) store: Rc<T>,
    pub(super) dead_letter: DeadLetterConfig,
    pub(super) lanes: HeldLanes,
    pub(super) events: BTreeMap<Ordinal, Known>,
    pub(super) bodies: HashMap<Ordinal, HeldBody>,
    pub(super) to_load: VecDeque<Ordinal>,
    /// Asked for, and not loaded yet.
    pub(super) loading: HashSet<Ordinal>,
    pub(super) ready: VecDeque<Ordinal>,
    /// Due, and waiting for a topic.
    pub(super) standing: HashMap<TopicId, Vec<Ordinal>>,
    /// At most this many are on their way.
    pub(super) room: usize,
    pub(super) on_the_way: usize,
    pub(super) bytes_on_the_way: u64,
    pub(super) changes: Vec<Change>,
    /// Until then somebody may have some of them locked.
    pub(super) locked_until: Option<Instant>,
    pub(super) schedule: Schedule,
    /// What operators ask for of single events.
    pub(super) requests: VecDeque<(HeldEntry, Request)>,
    /// Events that were under way when something was asked for of them.
    pub(super) put_off: Vec<Ordinal>,
    pub(super) has_orders: bool,
    pub(super) running: Option<Running>,
    pub(super) dead: u64,
    pub(super) scheduled: u64,
    /// Nothing is sent.
    pub(super) is_paused: bool,
    /// The relay is to stop: nothing waits in memory for held events any more.
    pub(super) is_draining: bool,
    /// Whether the stream may bring again what a sweep has published.
    pub(super) swept: bool,
    /// The last failure of an event that is held.
    pub(super) last_failure: Option<Failure>,
    /// Whether rows may not show their failures yet.
    pub(super) shows_failures: bool,
    pub(super) meters: Meters,
}

/// What is known of a held event that is to go.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) id: String,
    pub(super) xid: u32,
    /// What it waits in line with; for an event without a key, a line of its own.
    pub(super) lane: Lane,
    /// Whether the gate counts it.
    pub(super) is_gated: bool,
    pub(super) topic: Option<TopicId>,
    pub(super) hold: Hold,
    pub(super) max_attempts: Option<u32>,
    pub(super) redelivery: bool,
    pub(super) bytes: u64,
    pub(super) stage: Stage,
    /// Since when it is held.
    since: Moment,
}

/// How far a held event is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// For its turn, its time or its topic.
    Waits,
    /// On its way to Kafka.
    Goes {
        /// In a batch of its own.
        alone: bool,
        /// Without its value, as a dead letter that was too large.
        bare: bool,
    },
    /// What became of it is not durable yet.
    Through,
}

impl<T> HeldWay<T> {
    /// `in_flight`: how many events may be repeated after a crash.
    pub(super) fn new(
        store: Rc<T>,
        dead_letter: DeadLetterConfig,
        in_flight: usize,
        meters: Meters,
    ) -> Self {
        Self {
            store,
            dead_letter,
            lanes: HeldLanes::default(),
            events: BTreeMap::new(),
            bodies: HashMap::new(),
            to_load: VecDeque::new(),
            loading: HashSet::new(),
            ready: VecDeque::new(),
            standing: HashMap::new(),
            room: HELD_ON_THE_WAY.min(in_flight),
            on_the_way: 0,
            bytes_on_the_way: 0,
            changes: Vec::new(),
            locked_until: None,
            schedule: Schedule::default(),
            requests: VecDeque::new(),
            put_off: Vec::new(),
            has_orders: false,
            running: None,
            dead: 0,
            scheduled: 0,
            is_paused: false,
            is_draining: false,
            swept: false,
            last_failure: None,
            shows_failures: false,
            meters,
        }
    }

    /// An event that the last settle transaction has stored.
    pub(super) fn take_on<S: Sink>(
        &mut self,
        entry: HeldEntry,
        leaving: &Leaving,
        publisher: &mut Publisher<S>,
        now: Instant,
    ) {
        if let Some(ordinal) = leaving.was_scheduled {
            self.was_due(ordinal);
        }
        if let Some(error) = &entry.hold.error {
            self.last_failure = Some(error.clone());
            self.shows_failures = true;
        }
        if entry.hold.reason == Reason::Scheduled {
            self.scheduled += 1;
            self.schedule.add(entry);
            return;
        }
        let topic = entry.topic.as_deref().and_then(|name| publisher.topic(name, now));
        self.know(entry, topic, leaving.lane, leaving.bytes, publisher);
    }

    /// A scheduled event is not held as one any more.
    pub(super) fn was_due(&mut self, ordinal: Ordinal) {
        self.schedule.is_through(ordinal);
        self.scheduled = self.scheduled.saturating_sub(1);
    }

    /// An event that an earlier session held, or that is given back to its key.
    pub(super) fn restore<S: Sink>(
        &mut self,
        entry: HeldEntry,
        publisher: &mut Publisher<S>,
        now: Instant,
    ) {
        let topic = entry.topic.as_deref().and_then(|name| publisher.topic(name, now));
        let lane = topic.and_then(|topic| publisher.lane(topic, entry.key.as_deref()));
        let bytes = entry.bytes as u64 + OVERHEAD;
        publisher.aside.add(bytes);
        if let Some(lane) = lane {
            publisher.window.close(lane);
        }
        self.know(entry, topic, lane, bytes, publisher);
    }

    fn know<S: Sink>(
        &mut self,
        entry: HeldEntry,
        topic: Option<TopicId>,
        lane: Option<Lane>,
        bytes: u64,
        publisher: &mut Publisher<S>,
    ) {
        let ordinal = entry.ordinal;
        // Numbers are unique, and half of them are never hashed to.
        let own = Lane(ordinal.cast_unsigned().rotate_left(32));
        let known = Known {
            id: entry.id,
            xid: entry.xid,
            lane: lane.unwrap_or(own),
            is_gated: lane.is_some(),
            topic,
            max_attempts: entry.max_attempts,
            redelivery: entry.redelivery,
            bytes,
            stage: Stage::Waits,
            since: entry.since,
            hold: Hold { error: None, ..entry.hold },
        };
        let lane = known.lane;
        self.lanes.insert(lane, ordinal, known.hold.due);
        self.events.insert(ordinal, known);
        self.park_if_it_waits(lane, publisher);
    }

    /// Who joined a lane waits no longer if its first event may wait for ever.
    pub(super) fn park_if_it_waits<S: Sink>(&mut self, lane: Lane, publisher: &mut Publisher<S>) {
        if self.is_draining || !self.lanes.goes_on(lane, wall_clock()) {
            self.lanes.stands(lane);
            publisher.park(lane);
        }
    }

    /// Whether an event that comes to the lane now should wait for the held ones in memory.
    pub(super) fn is_ending(&self, lane: Lane) -> bool {
        !self.events.is_empty() && self.lanes.is_ending(lane, wall_clock())
    }

    /// Takes in what became of records, and sends what is due. Gives how many events went.
    ///
    /// # Errors
    /// The session has to end.
    pub(super) fn advance<S: Sink>(
        &mut self,
        publisher: &mut Publisher<S>,
        now: Instant,
        wall: Moment,
    ) -> Result<u64, Fate> {
        let mut published = 0;
        for ordinal in std::mem::take(&mut publisher.held_delivered) {
            published += u64::from(self.delivered(ordinal, publisher));
        }
        for (ordinal, error) in std::mem::take(&mut publisher.held_failed) {
            self.failed(ordinal, &error, publisher, now, wall)?;
        }
        for topic in std::mem::take(&mut publisher.topics.healed) {
            for ordinal in self.standing.remove(&topic).unwrap_or_default() {
                if let Some(known) = self.events.get(&ordinal) {
                    self.lanes.put_back(known.lane, ordinal, Some(wall));
                }
            }
        }
        self.answer(publisher, now, wall);
        if !self.is_paused {
            self.start_due(publisher, now, wall);
        }
        self.send_ready(publisher, now, wall)?;
        Ok(published)
    }

    pub(super) fn has_room(&self) -> bool {
        self.in_doubt() < self.room
            && (self.bytes_on_the_way < BYTES_ON_THE_WAY || self.on_the_way == 0)
    }

    /// Events that are on their way, or through and not redeemed: what can come again.
    pub(super) fn in_doubt(&self) -> usize {
        let redeeming = self.running.as_ref().map_or(0, Running::changes);
        self.on_the_way + self.changes.len() + redeeming
    }

    /// It does not wait for a topic any more.
    pub(super) fn forget_standing(&mut self, ordinal: Ordinal) {
        for standing in self.standing.values_mut() {
            standing.retain(|other| *other != ordinal);
        }
    }

    /// An operator wants it tried from the beginning, with whatever its topic takes by now.
    pub(super) fn try_anew<S: Sink>(
        &mut self,
        ordinal: Ordinal,
        publisher: &mut Publisher<S>,
        now: Instant,
        wall: Moment,
    ) {
        self.forget_standing(ordinal);
        if let Some(known) = self.events.get_mut(&ordinal) {
            if let Some(topic) = known.topic {
                publisher.topics.doubt(topic, now);
            }
            known.hold = Hold { due: Some(wall), ..Hold::waiting(Reason::Retry) };
            known.redelivery = true;
            self.lanes.put_back(known.lane, ordinal, Some(wall));
            self.bodies.remove(&ordinal);
        }
    }

    /// Since when the oldest event is held that is to go.
    pub(super) fn oldest(&self) -> Option<Moment> {
        self.events.first_key_value().map(|(_, known)| known.since)
    }

    /// How many events are held, by reason.
    pub(super) fn count(&self) -> Held {
        let mut held = Held { dead: self.dead, scheduled: self.scheduled, ..Held::default() };
        for known in self.events.values() {
            match known.hold.reason {
                Reason::Topic => held.topic += 1,
                Reason::Parked => held.parked += 1,
                Reason::Retry | Reason::Scheduled | Reason::Dead => held.retry += 1,
            }
        }
        held
    }

    /// Whether there is nothing that a stop should wait for.
    pub(super) fn is_idle(&self) -> bool {
        self.running.is_none() && self.changes.is_empty() && self.on_the_way == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_letter_has_the_topic_of_its_event_or_the_one_for_all() {
        let of = |topic: &str, default: &str, own: Option<&str>| {
            let config = DeadLetterConfig {
                topic: topic.to_owned(),
                default: default.to_owned(),
                names: TopicNames::Kafka,
            };
            config.destination(own)
        };
        let (own, default) = (Some("orders"), Some("dead".to_owned()));
        assert_eq!(of("{topic}.dlq", "dead", own).as_deref(), Some("orders.dlq"));
        assert_eq!(of("{topic}.dlq", "dead", None), default);
        assert_eq!(of("{topic}.dlq", "dead", Some(&"x".repeat(249))), default, "too long");
        assert_eq!(of("", "dead", own), None, "only in the database");
        assert_eq!(of("", "", None), None);
    }
}
