//! What the sink reports, besides deliveries, and what follows from it.

use std::cmp::Reverse;
use std::time::Duration;

use tokio::time::Instant;

use super::board::wall_clock;
use super::disposition::{Fate, RecordFate, of_sink};
use super::failure_of_sink;
use super::publish::{HELD, Publisher, Waiting};
use super::topics::TopicId;
use crate::ack::Seq;
use crate::failure::{Code, Failure};
use crate::metrics::count_error;
use crate::outbox::Placement;
use crate::sink::{Parcel, Report, Sink, SinkError, TopicInfo};
use crate::status::{Hold, Reason};

/// How long what failed for no reason of its own waits.
pub(super) const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// How often a sink that cannot be reached is asked whether it can.
const PROBE_EVERY: Duration = Duration::from_secs(2);

impl<S: Sink> Publisher<S> {
    /// Takes in a report.
    ///
    /// # Errors
    /// The session has to end.
    pub(super) fn take_in(&mut self, report: Report, now: Instant) -> Result<(), Fate> {
        match report {
            Report::Failed { seq, error, parcel } if seq & HELD != 0 => {
                // The held way decides about its events after the fast way has sent what is ready.
                // What ends the session ends it before that.
                let topic = parcel.topic.as_deref().unwrap_or_default();
                if let RecordFate::Session(fate) = of_sink(&error, topic) {
                    return Err(fate);
                }
                self.held_failed.push(((seq & !HELD).cast_signed(), error));
            }
            Report::Failed { seq, error, parcel } => self.failed(seq, &error, parcel, now)?,
            Report::Reachable(result) => self.reached(result.map_err(failure_of_sink), now),
            Report::Suppressed(count) => self.meters.duplicates_suppressed.increment(count),
            Report::Fatal(reason) => {
                self.meters.producer_fatal.increment(1);
                count_error(self.sink.name().label, "fatal");
                let error = SinkError::Fatal(reason);
                if let RecordFate::Session(fate) = of_sink(&error, "any") {
                    return Err(fate);
                }
            }
            Report::Topic { name, result } => self.looked_up(&name, result, now)?,
        }
        Ok(())
    }

    fn looked_up(
        &mut self,
        name: &str,
        result: Result<TopicInfo, SinkError>,
        now: Instant,
    ) -> Result<(), Fate> {
        if !matches!(result, Err(SinkError::Unavailable(_))) {
            self.reached(Ok(()), now);
        }
        match result {
            Ok(info) => match self.topics.found(name, info, now) {
                Ok(waiting) => self.ready.extend(waiting),
                Err(failure) => self.topic_refuses(name, failure, now),
            },
            Err(error) => match of_sink(&error, name) {
                RecordFate::Session(fate) => return Err(fate),
                RecordFate::Again(failure) => self.topics.unknown(name, failure, now),
                RecordFate::Topic(failure) | RecordFate::Event(failure) => {
                    self.topic_refuses(name, failure, now);
                }
            },
        }
        Ok(())
    }

    /// The topic takes no records: those that wait for it are held.
    pub(super) fn topic_refuses(&mut self, name: &str, failure: Failure, now: Instant) {
        for seq in self.topics.refuse(name, failure, now) {
            self.set_aside(seq, Hold::waiting(Reason::Topic));
        }
    }

    /// Operators have paused topics: what waits for them is held.
    pub(super) fn topics_paused(&mut self, topics: &[TopicId]) {
        for topic in topics {
            for seq in self.topics.take_waiting(*topic) {
                self.set_aside(seq, Hold::waiting(Reason::Topic));
            }
        }
    }

    /// The sink has answered, or it does not, or does not let us in.
    pub(super) fn reached(&mut self, result: Result<(), Failure>, now: Instant) {
        let before = self.reachable.as_ref().and_then(|before| before.as_ref().err());
        match &result {
            Ok(()) if matches!(self.reachable, Some(Ok(()))) => return,
            Ok(()) if before.is_some() => {
                tracing::info!("{} answers again", self.sink.name().title);
            }
            Err(failure) if before.is_none_or(|before| before.code != failure.code) => {
                let (class, text) = match failure.code {
                    Code::SinkAuth => ("auth", "it does not let us in"),
                    Code::SinkTls => ("auth", "there is no TLS connection"),
                    _ => ("unavailable", "it does not answer"),
                };
                let name = self.sink.name();
                count_error(name.label, class);
                tracing::warn!(
                    code = %failure.code,
                    error = failure.message,
                    remedy = failure.remedy,
                    "waiting for {}: {text}",
                    name.title
                );
            }
            Ok(()) | Err(_) => {}
        }
        self.probe_at = result.is_err().then(|| now + PROBE_EVERY);
        self.reachable = Some(result);
    }

    /// Whether the sink can be reached, as far as it has told.
    pub(super) fn is_reachable(&self) -> bool {
        !matches!(self.reachable, Some(Err(_)))
    }

    /// Why it cannot, as far as it has told.
    pub(super) fn unreachable(&self) -> Option<&Failure> {
        self.reachable.as_ref()?.as_ref().err()
    }

    fn failed(
        &mut self,
        seq: Seq,
        error: &SinkError,
        parcel: Parcel,
        now: Instant,
    ) -> Result<(), Fate> {
        // A record that was under way has given up its place in `waiting`.
        let was_sent = !self.waiting.contains_key(&seq);
        let topic = self.waiting.get(&seq).map(|waiting| waiting.topic);
        let Some(topic) =
            topic.or_else(|| parcel.topic.as_deref().and_then(|t| self.topics.find(t)))
        else {
            return Err(nowhere(error, parcel.topic.as_deref()));
        };
        // The topic may have other partitions by now.
        let placement = self.placement(seq).unwrap_or(Placement::Fixed(parcel.partition));
        let alone = self.alone.contains(&seq);
        let parcel = Parcel { timestamp: self.timestamp(seq), ..parcel };
        self.waiting.entry(seq).or_insert(Waiting { topic, placement, parcel, alone });
        let name = self.topics.name(topic).unwrap_or_default().to_owned();
        match of_sink(error, &name) {
            RecordFate::Session(fate) => return Err(fate),
            RecordFate::Again(_) => {
                self.window.hold_back(seq);
                self.again.push(Reverse((now + AGAIN_AFTER, seq)));
            }
            RecordFate::Topic(failure) => {
                self.set_aside(seq, Hold::waiting(Reason::Topic));
                self.topic_refuses(&name, failure, now);
            }
            // Perhaps it was refused for the sake of another one of its batch.
            RecordFate::Event(_) if was_sent && self.alone.insert(seq) => {
                self.window.hold_back(seq);
                if let Some(waiting) = self.waiting.get_mut(&seq) {
                    waiting.alone = true;
                }
                self.meters.publish_retried.increment(1);
                self.let_go(seq);
            }
            RecordFate::Event(failure) => self.refused(seq, topic, failure, now),
        }
        Ok(())
    }

    /// The event was refused for what it is.
    fn refused(&mut self, seq: Seq, topic: TopicId, failure: Failure, now: Instant) {
        self.alone.remove(&seq);
        self.count_failed();
        let (most, dice) = (self.max_attempts(seq), self.random.f64());
        let wall = wall_clock();
        let hold = self.retry.failed(1, most, failure.clone(), wall, dice);
        if let Some(due) = hold.due {
            // Perhaps the topic's limits will have been changed by then.
            let wait = u64::try_from(due - wall).unwrap_or(0);
            self.topics.look_again(topic, now, now + Duration::from_micros(wait));
        }
        self.newly_failed.push((seq, failure));
        self.set_aside(seq, hold);
    }

    /// An attempt failed for the event's own sake.
    pub(super) fn count_failed(&self) {
        self.meters.events_failed.increment(1);
        self.meters.events_failed_alias.increment(1);
        self.meters.publish_failed.increment(1);
        count_error(self.sink.name().label, "event");
    }
}

/// A record came back, and nothing tells where it is to go. To forget it would stop its key, and in the
/// end everything, without a word.
fn nowhere(error: &SinkError, topic: Option<&str>) -> Fate {
    if let RecordFate::Session(fate) = of_sink(error, topic.unwrap_or_default()) {
        return fate;
    }
    let named = topic.map_or("no topic".to_owned(), |topic| format!("topic {topic}"));
    let text = format!("a sink gave back a record of {named}, to which none was sent: {error}");
    Fate::Halt(Failure::new(Code::EventRefused, text))
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::HashMap;
    use std::rc::Rc;

    use super::*;
    use crate::ack::Limits;
    use crate::metrics::Meters;
    use crate::outbox::TopicNames;
    use crate::relay::{HeldLimits, OnExhausted, RetryConfig};
    use crate::retry::Backoff;
    use crate::sink::memory::{Brokers, MemorySink, Temper};

    fn publisher() -> Publisher<MemorySink> {
        let temper = Temper {
            arrival: Duration::ZERO,
            answer: Duration::ZERO,
            queue: 1,
            joined: 0,
            unavailable: 0,
            misreported: 0,
            unknown: 0,
            unanswered: 0,
            calm_at: Instant::now(),
            stalls: Vec::new(),
        };
        let brokers = Brokers::new(temper, HashMap::new(), fastrand::Rng::with_seed(1));
        let backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(1), 0.0);
        let on_exhausted = OnExhausted::Block;
        Publisher::new(
            MemorySink::open(&Rc::new(RefCell::new(brokers))),
            Limits { events: 1, bytes: 1, per_key: 1 },
            HeldLimits { events: 1, bytes: 1 },
            RetryConfig { max_attempts: 1, backoff, on_exhausted },
            TopicNames::Kafka,
            Meters::new(),
        )
    }

    /// The held way looks at what became of its records later, when more has been sent.
    #[test]
    fn what_ends_the_session_is_not_left_to_the_held_way() {
        let unknown = SinkError::Unknown("as told".to_owned());
        let errors = [(unknown, true), (SinkError::Purged, true), (SinkError::TopicMissing, false)];
        for (error, ends) in errors {
            let mut publisher = publisher();
            let report = Report::Failed { seq: HELD | 1, error, parcel: Parcel::default() };
            assert_eq!(publisher.take_in(report, Instant::now()).is_err(), ends);
            assert_eq!(publisher.held_failed.is_empty(), ends);
        }
    }

    /// A sink of somebody's own can forget the topic, or name another one.
    #[test]
    fn a_record_that_comes_back_without_its_topic_ends_the_session() {
        for (topic, named) in [(None, "no topic"), (Some("other"), "topic other")] {
            let parcel = Parcel { topic: topic.map(Into::into), ..Parcel::default() };
            let error = SinkError::Unavailable("as told".to_owned());
            let report = Report::Failed { seq: 1, error, parcel };
            let fate = publisher().take_in(report, Instant::now()).unwrap_err();
            let Fate::Halt(failure) = fate else { panic!("{fate:?}") };
            assert_eq!(failure.code, Code::EventRefused);
            assert!(failure.message.contains(named), "{}", failure.message);
        }
        let parcel = Parcel::default();
        let report = Report::Failed { seq: 1, error: SinkError::Purged, parcel };
        let fate = publisher().take_in(report, Instant::now()).unwrap_err();
        assert!(matches!(fate, Fate::Reconnect(_)), "the cause comes first: {fate:?}");
    }
}
