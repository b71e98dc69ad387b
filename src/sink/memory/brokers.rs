//! The brokers: topics, what is under way, and the log. Nothing runs by itself: whoever looks first
//! makes happen what is due by then.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::time::Duration;

use fastrand::Rng;
use tokio::time::Instant;

use super::super::{NoContact, Parcel, Report, SinkError, TopicInfo};
use crate::ack::Seq;

/// How the brokers behave. Chances are of 256.
#[derive(Debug, Clone)]
pub(crate) struct Temper {
    /// The longest that a record takes to arrive.
    pub(crate) arrival: Duration,
    /// The longest that its report takes.
    pub(crate) answer: Duration,
    /// Records of one producer that may be under way.
    pub(crate) queue: usize,
    /// A record joins the batch of the one before it.
    pub(crate) joined: u8,
    /// A batch is not taken, for no reason of its own.
    pub(crate) unavailable: u8,
    /// A batch is taken, and reported as not.
    pub(crate) misreported: u8,
    /// A batch fails in a way that nobody knows.
    pub(crate) unknown: u8,
    /// A look at a topic is never answered.
    pub(crate) unanswered: u8,
    /// From here on none of these four happen.
    pub(crate) calm_at: Instant,
    /// Nothing arrives during these.
    pub(crate) stalls: Vec<Range<Instant>>,
}

/// The text of an error that is none.
pub(crate) const MISREPORTED: &str = "taken, and reported as not";

/// A topic and its history.
#[derive(Debug, Clone)]
pub(crate) struct Topic {
    pub(crate) partitions: i32,
    /// When it gets others, and how many it has then.
    pub(crate) grows: Option<(Instant, i32)>,
    /// The largest batch that it takes, until when.
    pub(crate) limit: (usize, Instant),
    /// When it takes nothing, and why.
    pub(crate) closed: Option<(Range<Instant>, SinkError)>,
}

impl Topic {
    pub(crate) fn partitions_at(&self, at: Instant) -> i32 {
        let grown = self.grows.filter(|(when, _)| *when <= at);
        grown.map_or(self.partitions, |(_, partitions)| partitions)
    }

    /// Whether it takes nothing.
    pub(crate) fn is_closed_at(&self, at: Instant) -> bool {
        self.closed.as_ref().is_some_and(|(when, _)| when.contains(&at))
    }
}

/// Of which of its records an event is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Refusal {
    /// Its own.
    Event,
    /// Its dead letter.
    Letter,
    /// Its dead letter with a value.
    WholeLetter,
}

/// A record that is in Kafka.
#[derive(Debug, Clone)]
pub(crate) struct Appended {
    pub(crate) topic: Box<str>,
    pub(crate) parcel: Parcel,
}

/// The brokers, and every producer there ever was.
pub(crate) struct Brokers {
    pub(crate) temper: Temper,
    pub(crate) topics: HashMap<String, Topic>,
    /// How often the events of these ids are refused; `u32::MAX` for ever.
    pub(crate) refusals: HashMap<(String, Refusal), u32>,
    /// What is there, in the order of its arrival.
    pub(crate) log: Vec<Appended>,
    pub(super) producers: Vec<Producer>,
    due: BTreeMap<(Instant, u64), Due>,
    lines: HashMap<Line, Tail>,
    serial: u64,
    rng: Rng,
}

#[derive(Debug, Default)]
pub(super) struct Producer {
    pub(super) under_way: usize,
    pub(super) delivered: Vec<Seq>,
    pub(super) reports: Vec<Report>,
    /// Since when there is something to take.
    pub(super) news_since: Option<Instant>,
}

/// What keeps its order. A record that goes alone has a client of its own.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Line {
    pub(super) producer: usize,
    pub(super) topic: Box<str>,
    pub(super) partition: i32,
    pub(super) alone: bool,
}

/// The end of a line.
#[derive(Debug, Clone, Copy)]
struct Tail {
    batch: (Instant, u64),
    answered: Instant,
}

#[derive(Debug)]
struct Batch {
    line: Line,
    flights: Vec<(Seq, Parcel)>,
    result: Result<(), SinkError>,
}

#[derive(Debug)]
enum Due {
    Arrival(Batch),
    Answer(Batch),
    LookUp(usize, String),
    Probe(usize),
    Says(usize, Report),
}

impl Due {
    fn concerns(&self) -> usize {
        match self {
            Due::Arrival(batch) | Due::Answer(batch) => batch.line.producer,
            Due::LookUp(producer, _) | Due::Probe(producer) | Due::Says(producer, _) => *producer,
        }
    }
}

impl Brokers {
    pub(crate) fn new(temper: Temper, topics: HashMap<String, Topic>, rng: Rng) -> Self {
        Self {
            temper,
            topics,
            refusals: HashMap::new(),
            log: Vec::new(),
            producers: Vec::new(),
            due: BTreeMap::new(),
            lines: HashMap::new(),
            serial: 0,
            rng,
        }
    }

    /// Makes happen what is due.
    pub(crate) fn pump(&mut self) {
        let now = Instant::now();
        while let Some(next) = self.due.first_entry().filter(|next| next.key().0 <= now) {
            let ((at, _), due) = next.remove_entry();
            self.happen(due, at);
        }
    }

    /// When the last thing happens that is under way.
    pub(crate) fn quiet_at(&self) -> Option<Instant> {
        self.due.last_key_value().map(|((at, _), _)| *at)
    }

    fn plan(&mut self, at: Instant, due: Due) -> (Instant, u64) {
        self.serial += 1;
        self.due.insert((at, self.serial), due);
        (at, self.serial)
    }

    fn happen(&mut self, due: Due, at: Instant) {
        match due {
            Due::Arrival(mut batch) => {
                batch.result = self.arrive(&batch, at);
                let wait = self.within(self.temper.answer);
                let Some(tail) = self.lines.get_mut(&batch.line) else { return };
                tail.answered = tail.answered.max(at + wait);
                let answered = tail.answered;
                self.plan(answered, Due::Answer(batch));
            }
            Due::Answer(batch) => {
                let producer = &mut self.producers[batch.line.producer];
                producer.news_since.get_or_insert(at);
                producer.under_way -= batch.flights.len();
                for (seq, parcel) in batch.flights {
                    match batch.result.clone() {
                        Ok(()) => producer.delivered.push(seq),
                        Err(error) => producer.reports.push(Report::Failed { seq, error, parcel }),
                    }
                }
            }
            Due::LookUp(producer, name) => {
                let result = self.look_up(&name, at);
                self.tell(producer, Report::Topic { name, result }, at);
            }
            Due::Probe(producer) => {
                self.tell(producer, Report::Reachable(self.reach(at)), at);
            }
            Due::Says(producer, report) => self.tell(producer, report, at),
        }
    }

    fn tell(&mut self, producer: usize, report: Report, at: Instant) {
        let producer = &mut self.producers[producer];
        producer.news_since.get_or_insert(at);
        producer.reports.push(report);
    }

    /// A batch is appended whole, or refused whole.
    fn arrive(&mut self, batch: &Batch, at: Instant) -> Result<(), SinkError> {
        self.look_up(&batch.line.topic, at)?;
        let mut refused = false;
        for (_, parcel) in &batch.flights {
            let headers = parcel.headers.view();
            let id = headers.get("event_id").unwrap_or_default();
            let kinds: &[Refusal] = match (headers.get("dlq-topic"), &parcel.value) {
                (None, _) => &[Refusal::Event],
                (Some(_), None) => &[Refusal::Letter],
                (Some(_), Some(_)) => &[Refusal::Letter, Refusal::WholeLetter],
            };
            for kind in kinds {
                let left = self.refusals.get_mut(&(id.to_owned(), *kind));
                if let Some(left) = left.filter(|left| **left > 0) {
                    refused = true;
                    *left = if *left == u32::MAX { u32::MAX } else { *left - 1 };
                }
            }
        }
        if refused {
            return Err(SinkError::Refused("as told".to_owned()));
        }
        let Temper { unavailable, misreported, unknown, .. } = self.temper;
        let chances =
            if at < self.temper.calm_at { [unavailable, misreported, unknown] } else { [0; 3] };
        let [unavailable, misreported, unknown] = chances.map(|chance| self.rng.u8(..) < chance);
        if unavailable {
            return Err(SinkError::Unavailable("as told".to_owned()));
        }
        for (_, parcel) in &batch.flights {
            self.log.push(Appended { topic: batch.line.topic.clone(), parcel: parcel.clone() });
        }
        match (misreported, unknown) {
            (true, _) => Err(SinkError::Unavailable(MISREPORTED.to_owned())),
            (_, true) => Err(SinkError::Unknown("as told".to_owned())),
            _ => Ok(()),
        }
    }

    fn look_up(&self, name: &str, at: Instant) -> Result<TopicInfo, SinkError> {
        let topic = self.topics.get(name).ok_or(SinkError::TopicMissing)?;
        match &topic.closed {
            Some((when, error)) if when.contains(&at) => Err(error.clone()),
            _ => {
                let (limit, until) = topic.limit;
                let max_message_bytes = (at < until).then_some(limit);
                Ok(TopicInfo { partitions: topic.partitions_at(at), max_message_bytes })
            }
        }
    }

    fn reach(&self, at: Instant) -> Result<(), NoContact> {
        let stalls = self.temper.stalls.iter().any(|stall| stall.contains(&at));
        match stalls {
            true => Err(NoContact::Unreachable("stalled as told".to_owned())),
            false => Ok(()),
        }
    }

    fn within(&mut self, longest: Duration) -> Duration {
        let millis = u64::try_from(longest.as_millis()).unwrap();
        Duration::from_millis(self.rng.u64(..=millis))
    }

    fn answers_at(&mut self) -> Instant {
        Instant::now() + self.within(self.temper.answer)
    }

    /// A new producer's number.
    pub(super) fn begin(&mut self) -> usize {
        self.producers.push(Producer::default());
        self.producers.len() - 1
    }

    pub(super) fn ask_reachable(&mut self, producer: usize) {
        let at = self.answers_at();
        self.plan(at, Due::Probe(producer));
    }

    pub(super) fn ask_topic(&mut self, producer: usize, topic: &str) {
        let is_calm = Instant::now() >= self.temper.calm_at;
        if is_calm || self.rng.u8(..) >= self.temper.unanswered {
            let at = self.answers_at();
            self.plan(at, Due::LookUp(producer, topic.to_owned()));
        }
    }

    pub(super) fn say(&mut self, producer: usize, report: Report, at: Instant) {
        self.plan(at, Due::Says(producer, report));
    }

    /// When something happens next that concerns a producer.
    pub(super) fn next_for(&self, producer: usize) -> Option<Instant> {
        let next = self.due.iter().find(|(_, due)| due.concerns() == producer);
        next.map(|((at, _), _)| *at)
    }

    /// A record sets out: with the batch before it, or in one of its own.
    pub(super) fn set_out(&mut self, line: Line, seq: Seq, parcel: Parcel) {
        self.producers[line.producer].under_way += 1;
        let joins = !line.alone && self.rng.u8(..) < self.temper.joined;
        let tail = self.lines.get(&line).copied();
        if joins
            && let Some(Due::Arrival(batch)) = tail.and_then(|tail| self.due.get_mut(&tail.batch))
        {
            batch.flights.push((seq, parcel));
            return;
        }
        let now = Instant::now();
        let mut at = now + self.within(self.temper.arrival);
        if let Some(tail) = tail {
            at = at.max(tail.batch.0);
        }
        while let Some(stall) = self.temper.stalls.iter().find(|stall| stall.contains(&at)) {
            at = stall.end;
        }
        let flights = vec![(seq, parcel)];
        let batch = Batch { line: line.clone(), flights, result: Ok(()) };
        let batch = self.plan(at, Due::Arrival(batch));
        let answered = tail.map_or(now, |tail| tail.answered);
        if self.reach(now).is_err() && self.rng.bool() {
            self.plan(now, Due::Says(line.producer, Report::Reachable(self.reach(now))));
        }
        self.lines.insert(line, Tail { batch, answered });
    }

    /// The producer is gone. Of each line a piece from its front may be on the wire already.
    pub(super) fn end(&mut self, producer: usize) {
        let (rng, mut cut) = (&mut self.rng, HashMap::new());
        self.due.retain(|_, due| match due {
            Due::Arrival(batch) if batch.line.producer == producer => {
                let is_cut = cut.entry(batch.line.clone()).or_insert(false);
                *is_cut |= rng.u8(..3) == 0;
                !*is_cut
            }
            _ => true,
        });
    }
}
