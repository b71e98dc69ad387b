//! Deliver: held events that are due are loaded and sent, and what becomes of them is
//! noted, to be redeemed.

use std::time::Duration;

use tokio::time::Instant;

use super::disposition::{Fate, RecordFate, of_sink};
use super::held::{AHEAD, BYTES_ON_THE_WAY, HeldWay, Known, Stage};
use super::publish::Publisher;
use super::report::AGAIN_AFTER;
use super::topics::TopicId;
use super::trial::{OnExhausted, micros};
use crate::ack::{Moment, Ordinal};
use crate::failpoint;
use crate::failure::{Code, Failure};
use crate::outbox::{HeaderList, Placement};
use crate::sink::{EventRef, HELD_ON_THE_WAY, Record, SendError, Sink, SinkError};
use crate::status::{Became, Change, HeldBody, Hold, Reason};

impl<T> HeldWay<T> {
    pub(super) fn start_due<S: Sink>(
        &mut self,
        publisher: &mut Publisher<S>,
        now: Instant,
        wall: Moment,
    ) {
        while self.has_room()
            && let Some((lane, ordinal)) = self.lanes.take_due(wall)
        {
            if !self.events.contains_key(&ordinal) {
                // An id that was held twice is there once.
                self.lanes.remove(lane, ordinal);
                publisher.release(lane);
                continue;
            }
            match self.destination(ordinal, publisher, now) {
                Destination::Nowhere => self.bury_unheard(ordinal),
                Destination::Topic(topic) if publisher.topics.info(topic).is_none() => {
                    self.stand(ordinal, topic, publisher);
                }
                Destination::Topic(_) => {
                    self.lanes.moves(lane, wall);
                    self.go(ordinal);
                    let ahead: Vec<_> = self.lanes.behind_first(lane).take(AHEAD).collect();
                    for ordinal in ahead {
                        self.load(ordinal);
                    }
                }
            }
        }
    }

    /// It is this event's turn.
    fn go(&mut self, ordinal: Ordinal) {
        let Some(known) = self.events.get_mut(&ordinal) else {
            return;
        };
        // What failed by itself is not to take others with it.
        known.stage = Stage::Goes { alone: known.hold.attempts > 0, bare: false };
        if known.hold.attempts > 0 && !known.hold.exhausted || known.redelivery {
            self.meters.retries.increment(1);
            self.meters.publish_retried.increment(1);
        }
        self.on_the_way += 1;
        self.bytes_on_the_way += known.bytes;
        if self.bodies.contains_key(&ordinal) {
            self.ready.push_back(ordinal);
        } else if self.loading.insert(ordinal) {
            self.to_load.push_back(ordinal);
        }
    }

    /// Loads an event ahead of its turn, if it is a small one that was never tried.
    fn load(&mut self, ordinal: Ordinal) {
        let is_plain = self.events.get(&ordinal).is_some_and(|known| {
            known.hold.attempts == 0 && known.bytes < BYTES_ON_THE_WAY / HELD_ON_THE_WAY as u64
        });
        let is_new = !self.bodies.contains_key(&ordinal) && !self.loading.contains(&ordinal);
        if is_plain && is_new && self.bodies.len() < HELD_ON_THE_WAY {
            self.loading.insert(ordinal);
            self.to_load.push_back(ordinal);
        }
    }

    /// The event is not on its way any more.
    fn leave_the_way(&mut self, ordinal: Ordinal) -> Option<&mut Known> {
        let known = self.events.get_mut(&ordinal)?;
        if let Stage::Goes { .. } = known.stage {
            self.on_the_way = self.on_the_way.saturating_sub(1);
            self.bytes_on_the_way = self.bytes_on_the_way.saturating_sub(known.bytes);
        }
        known.stage = Stage::Waits;
        self.bodies.remove(&ordinal);
        Some(known)
    }

    /// Where the event goes now: to its topic, to that of dead letters, or nowhere any more.
    fn destination<S: Sink>(
        &self,
        ordinal: Ordinal,
        publisher: &mut Publisher<S>,
        now: Instant,
    ) -> Destination {
        let Some(known) = self.events.get(&ordinal) else {
            return Destination::Nowhere;
        };
        if !known.hold.exhausted {
            return known.topic.map_or(Destination::Nowhere, Destination::Topic);
        }
        let own = known.topic.and_then(|topic| publisher.topics.name(topic));
        let name = self.dead_letter.destination(own);
        let topic = name.and_then(|name| publisher.topic(&name, now));
        topic.map_or(Destination::Nowhere, Destination::Topic)
    }

    /// It waits for its topic; its lane does not move. It is not going any more: an older event that
    /// is redriven into its lane does not wait for a topic that is not its own.
    fn stand<S: Sink>(&mut self, ordinal: Ordinal, topic: TopicId, publisher: &mut Publisher<S>) {
        if let Some(known) = self.leave_the_way(ordinal) {
            let lane = known.lane;
            self.lanes.put_back(lane, ordinal, None);
            self.standing.entry(topic).or_default().push(ordinal);
            publisher.park(lane);
        }
    }

    pub(super) fn send_ready<S: Sink>(
        &mut self,
        publisher: &mut Publisher<S>,
        now: Instant,
        wall: Moment,
    ) -> Result<(), Fate> {
        while let Some(ordinal) = self.ready.front().copied() {
            let Destination::Topic(topic) = self.destination(ordinal, publisher, now) else {
                self.ready.pop_front();
                continue;
            };
            let Some(info) = publisher.topics.info(topic) else {
                self.ready.pop_front();
                self.stand(ordinal, topic, publisher);
                continue;
            };
            let (Some(known), Some(body)) =
                (self.events.get(&ordinal), self.bodies.get_mut(&ordinal))
            else {
                self.ready.pop_front();
                continue;
            };
            let Stage::Goes { alone, bare } = known.stage else {
                self.ready.pop_front();
                continue;
            };
            let headers = headers(known, body, bare, publisher);
            let by_key = || body.key.as_deref().map(Placement::of_key);
            let placement = match body.placement {
                // Another topic, other partitions.
                Some(Placement::Fixed(_)) if known.hold.exhausted => by_key(),
                Some(placement) => Some(placement),
                None => by_key(),
            };
            let name = publisher.topics.name(topic).unwrap_or_default().to_owned();
            let event = EventRef {
                id: &known.id,
                event_type: body.event_type.as_deref(),
                position: body.position.known(),
                is_redelivery: known.redelivery,
            };
            let record = Record {
                event,
                topic: &name,
                partition: placement.map_or(0, |placement| placement.partition(info.partitions)),
                key: body.key.as_deref(),
                headers: headers.view(),
                value: body.value.as_deref().filter(|_| !bare),
                // A dead letter is as young as its death.
                timestamp: body.timestamp.filter(|_| !known.hold.exhausted),
                alone,
            };
            match publisher.send_held(&record, ordinal) {
                Err(SendError::Full) => return Ok(()),
                Ok(()) => {
                    self.ready.pop_front();
                }
                Err(SendError::Refused(error)) => {
                    self.ready.pop_front();
                    // Not for the sake of another one: it was not even sent.
                    if let Some(known) = self.events.get_mut(&ordinal) {
                        known.stage = Stage::Goes { alone: true, bare };
                    }
                    self.failed(ordinal, &error, publisher, now, wall)?;
                }
            }
        }
        Ok(())
    }

    /// Kafka has the event, or its dead letter. Whether it was the event.
    pub(super) fn delivered<S: Sink>(
        &mut self,
        ordinal: Ordinal,
        publisher: &mut Publisher<S>,
    ) -> bool {
        let Some(known) = self.events.get(&ordinal) else {
            return false;
        };
        if known.hold.exhausted {
            failpoint::pass("in_dead_letter");
            self.bury(ordinal, publisher);
            return false;
        }
        publisher.count_published(1);
        self.become_through(ordinal, Became::Sent, publisher);
        true
    }

    /// The event is given up, and kept for whoever looks.
    fn bury<S: Sink>(&mut self, ordinal: Ordinal, publisher: &mut Publisher<S>) {
        if let Some(dead) = self.give_up(ordinal) {
            self.become_through(ordinal, dead, publisher);
        }
    }

    /// The same where no dead letter says so. Nothing of its key goes before that is durable: after a
    /// crash it would be tried again.
    fn bury_unheard(&mut self, ordinal: Ordinal) {
        if let Some(dead) = self.give_up(ordinal) {
            self.note(ordinal, dead);
            self.freeze(ordinal);
        }
    }

    fn give_up(&self, ordinal: Ordinal) -> Option<Became> {
        let Known { id, hold, .. } = self.events.get(&ordinal)?;
        tracing::warn!(event_id = id, attempts = hold.attempts, "an event was given up");
        self.meters.dead_letters.increment(1);
        let dead = Hold { reason: Reason::Dead, due: None, exhausted: true, ..hold.clone() };
        Some(Became::Held(dead))
    }

    /// The event holds back its key no more; what became of it is to be made durable.
    fn become_through<S: Sink>(
        &mut self,
        ordinal: Ordinal,
        became: Became,
        publisher: &mut Publisher<S>,
    ) {
        if let Some(known) = self.leave_the_way(ordinal) {
            known.stage = Stage::Through;
            self.note(ordinal, became);
            self.pass(ordinal, publisher);
        }
    }

    /// What became of an event is to be made durable.
    fn note(&mut self, ordinal: Ordinal, became: Became) {
        if let Some(Known { id, xid, .. }) = self.events.get(&ordinal) {
            let (id, xid) = (id.clone(), *xid);
            self.changes.push(Change { ordinal, id, xid, became, answers: false });
        }
    }

    /// The event leaves its lane.
    pub(super) fn pass<S: Sink>(&mut self, ordinal: Ordinal, publisher: &mut Publisher<S>) {
        let Some(known) = self.events.get(&ordinal) else {
            return;
        };
        let (lane, is_gated) = (known.lane, known.is_gated);
        if !self.lanes.remove(lane, ordinal) {
            return;
        }
        self.park_if_it_waits(lane, publisher);
        if is_gated {
            publisher.release(lane);
        }
    }

    pub(super) fn failed<S: Sink>(
        &mut self,
        ordinal: Ordinal,
        error: &SinkError,
        publisher: &mut Publisher<S>,
        now: Instant,
        wall: Moment,
    ) -> Result<(), Fate> {
        let Destination::Topic(topic) = self.destination(ordinal, publisher, now) else {
            return Ok(());
        };
        let Some(known) = self.events.get_mut(&ordinal) else {
            return Ok(());
        };
        let Stage::Goes { alone, bare } = known.stage else {
            return Ok(());
        };
        let is_dead_letter = known.hold.exhausted;
        let name = publisher.topics.name(topic).unwrap_or_default().to_owned();
        match of_sink(error, &name) {
            RecordFate::Session(fate) => return Err(fate),
            RecordFate::Again(_) => self.put_back(ordinal, publisher, wall, AGAIN_AFTER),
            RecordFate::Topic(failure) => {
                publisher.topic_refuses(&name, failure.clone(), now);
                self.last_failure = Some(failure);
                self.stand(ordinal, topic, publisher);
            }
            RecordFate::Event(_) if !alone => {
                known.stage = Stage::Goes { alone: true, bare };
                self.ready.push_back(ordinal);
            }
            RecordFate::Event(_) if is_dead_letter && !bare => {
                known.stage = Stage::Goes { alone: true, bare: true };
                self.ready.push_back(ordinal);
            }
            RecordFate::Event(failure) if is_dead_letter => {
                tracing::warn!(
                    event_id = known.id,
                    code = %failure.code,
                    error = failure.message,
                    "a dead letter was refused; its key waits, and it is tried again"
                );
                self.last_failure = Some(failure);
                let wait = publisher.retry.backoff.wait(u32::MAX, publisher.random.f64());
                self.put_back(ordinal, publisher, wall, wait);
            }
            RecordFate::Event(failure) => {
                self.refused(ordinal, topic, failure, publisher, now, wall)
            }
        }
        Ok(())
    }

    /// An attempt failed for the event's own sake.
    fn refused<S: Sink>(
        &mut self,
        ordinal: Ordinal,
        topic: TopicId,
        failure: Failure,
        publisher: &mut Publisher<S>,
        now: Instant,
        wall: Moment,
    ) {
        publisher.count_failed();
        let dice = publisher.random.f64();
        let Some(known) = self.leave_the_way(ordinal) else {
            return;
        };
        let attempts = known.hold.attempts + 1;
        let hold =
            publisher.retry.failed(attempts, known.max_attempts, failure.clone(), wall, dice);
        let (id, lane, due) = (&known.id, known.lane, hold.due);
        tracing::debug!(event_id = id, error = failure.message, attempts, "refused again");
        known.hold = Hold { error: None, ..hold.clone() };
        if hold.exhausted && publisher.retry.on_exhausted == OnExhausted::Block {
            tracing::warn!(
                event_id = id,
                attempts,
                "no attempt is left; its key waits for an operator"
            );
        }
        self.last_failure = Some(failure);
        self.note(ordinal, Became::Held(hold));
        self.lanes.put_back(lane, ordinal, due);
        publisher.park(lane);
        if let Some(due) = due {
            let wait = Duration::from_micros(u64::try_from(due - wall).unwrap_or(0));
            publisher.topics.look_again(topic, now, now + wait);
        }
    }

    /// The event goes again after `wait`, as it is.
    fn put_back<S: Sink>(
        &mut self,
        ordinal: Ordinal,
        publisher: &mut Publisher<S>,
        wall: Moment,
        wait: Duration,
    ) {
        if let Some(known) = self.leave_the_way(ordinal) {
            let lane = known.lane;
            self.lanes.put_back(lane, ordinal, Some(wall.saturating_add(micros(wait))));
            publisher.park(lane);
        }
    }

    /// What was loaded.
    pub(super) fn loaded(&mut self, bodies: Vec<HeldBody>) {
        for body in bodies {
            let ordinal = body.ordinal;
            self.loading.remove(&ordinal);
            let Some(known) = self.events.get(&ordinal) else {
                continue;
            };
            if let Stage::Goes { .. } = known.stage {
                self.ready.push_back(ordinal);
            }
            self.bodies.insert(ordinal, body);
        }
    }

    /// Somebody has removed an event from under us: its key goes on without it.
    pub(super) fn vanish_unless_loaded<S: Sink>(
        &mut self,
        ordinal: Ordinal,
        publisher: &mut Publisher<S>,
    ) {
        self.loading.remove(&ordinal);
        let goes = |known: &Known| matches!(known.stage, Stage::Goes { .. });
        if self.bodies.contains_key(&ordinal) || !self.events.get(&ordinal).is_some_and(goes) {
            return;
        }
        self.leave_the_way(ordinal);
        self.pass(ordinal, publisher);
        if let Some(known) = self.events.remove(&ordinal) {
            tracing::warn!(event_id = known.id, "somebody has removed a held event");
            publisher.aside.free(known.bytes);
        }
    }
}

enum Destination {
    Topic(TopicId),
    Nowhere,
}

/// The record's headers: its own, and what is said of it on its second way.
fn headers<S: Sink>(
    known: &Known,
    body: &HeldBody,
    bare: bool,
    publisher: &Publisher<S>,
) -> HeaderList {
    let mut headers = body.headers.clone();
    if known.redelivery && !known.hold.exhausted {
        headers.mark_redelivery();
    }
    if known.hold.exhausted {
        let topic = known.topic.and_then(|topic| publisher.topics.name(topic));
        headers.add("dlq-error", body.error.as_deref());
        headers.add("dlq-error-class", body.error_code.as_deref());
        headers.add("dlq-attempts", Some(&known.hold.attempts.to_string()));
        headers.add("dlq-failed-at", body.failed_at.as_deref());
        headers.add("dlq-topic", Some(topic.unwrap_or_default()));
        let is_cut = body.error_code.as_deref() == Some(&Code::RowTooLarge.to_string());
        if bare || is_cut {
            headers.add("dlq-truncated", Some("true"));
        }
    }
    headers
}
