//! What operators ask for, of the relay and of single events.
//!
//! They write it into the database and wake the relay; only the relay changes what is held. An
//! event that is on its way to Kafka is left alone until it is known what became of it.

use tokio::time::Instant;

use super::aside::OVERHEAD;
use super::held::{HeldWay, Stage};
use super::publish::Publisher;
use super::redeem::Running;
use super::trial::OnExhausted;
use crate::ack::{Moment, Ordinal};
use crate::sink::Sink;
use crate::status::{Became, Change, HeldEntry, Hold, Reason, Request, Verdict};

impl<T> HeldWay<T> {
    /// Does what is asked for, of events that can be dealt with now.
    pub(super) fn answer<S: Sink>(
        &mut self,
        publisher: &mut Publisher<S>,
        now: Instant,
        wall: Moment,
    ) {
        // What is being read is not to be changed meanwhile.
        if self.running.as_ref().is_some_and(Running::reads_requests) {
            return;
        }
        if self.put_off.iter().any(|ordinal| !self.is_under_way(*ordinal)) {
            self.put_off.clear();
            self.has_orders = true;
        }
        for _ in 0..self.requests.len() {
            let Some((entry, request)) = self.requests.pop_front() else {
                return;
            };
            if self.is_under_way(entry.ordinal) {
                // Much may have happened to it by then: it is read again.
                self.put_off.push(entry.ordinal);
            } else if !self.carry_out(&entry, request, publisher, now, wall) {
                self.requests.push_back((entry, request));
            }
        }
    }

    fn is_under_way(&self, ordinal: Ordinal) -> bool {
        let known = self.events.get(&ordinal);
        known.is_some_and(|known| known.stage != Stage::Waits)
            || self.schedule.is_under_way(ordinal)
    }

    /// Whether it was done.
    fn carry_out<S: Sink>(
        &mut self,
        entry: &HeldEntry,
        request: Request,
        publisher: &mut Publisher<S>,
        now: Instant,
        wall: Moment,
    ) -> bool {
        let known = self.events.get(&entry.ordinal);
        match (known.map(|known| &known.hold), entry.hold.reason, request) {
            (Some(_), _, Request::Retry) => {
                self.try_anew(entry.ordinal, publisher, now, wall);
                self.change(entry, Became::Again(wall));
            }
            (Some(_), _, Request::Skip) => {
                self.freeze(entry.ordinal);
                self.change(entry, Became::Removed(Verdict::Skipped));
            }
            (Some(hold), _, Request::Unblock) => {
                let hold = Hold { exhausted: true, ..hold.clone() };
                let hold = match publisher.retry.on_exhausted {
                    OnExhausted::DeadLetter => {
                        Hold { reason: Reason::Retry, due: Some(wall), ..hold }
                    }
                    // Where nothing goes to dead-letter topics, this does not either.
                    OnExhausted::Block => Hold { reason: Reason::Dead, due: None, ..hold },
                };
                self.freeze(entry.ordinal);
                self.change(entry, Became::Held(hold));
            }
            (None, Reason::Dead, Request::Retry) => {
                if !publisher.aside.has_room(entry.bytes as u64 + OVERHEAD) {
                    return false;
                }
                self.dead = self.dead.saturating_sub(1);
                let hold = Hold { due: Some(wall), ..Hold::waiting(Reason::Retry) };
                let entry = HeldEntry { hold, redelivery: true, ..entry.clone() };
                self.restore(entry.clone(), publisher, now);
                self.try_anew(entry.ordinal, publisher, now, wall);
                self.change(&entry, Became::Again(wall));
            }
            (None, Reason::Dead, Request::Discard) => {
                self.change(entry, Became::Removed(Verdict::Discarded));
            }
            (None, Reason::Scheduled, Request::Skip) => {
                self.schedule.remove(entry);
                self.change(entry, Became::Removed(Verdict::Skipped));
            }
            (None, Reason::Scheduled, Request::Retry | Request::Publish) => {
                if request == Request::Publish {
                    self.scheduled += 1;
                }
                self.schedule.remove(entry);
                let hold = Hold { due: Some(wall), ..entry.hold.clone() };
                self.schedule.add(HeldEntry { hold, ..entry.clone() });
                self.change(entry, Became::Moved(wall));
            }
            _ => self.change(entry, Became::Declined),
        }
        true
    }

    fn change(&mut self, entry: &HeldEntry, became: Became) {
        self.changes.push(Change::of(entry, became, true));
    }

    /// That the event has no attempt left is durable: its dead letter is due.
    pub(super) fn exhaust(&mut self, ordinal: Ordinal, hold: &Hold) {
        self.bodies.remove(&ordinal);
        if let Some(known) = self.events.get_mut(&ordinal) {
            known.stage = Stage::Waits;
            known.hold = Hold { error: None, ..hold.clone() };
            self.lanes.put_back(known.lane, ordinal, hold.due);
        }
    }

    /// The event does not go any more; its lane waits until that is durable.
    pub(super) fn freeze(&mut self, ordinal: Ordinal) {
        self.forget_standing(ordinal);
        if let Some(known) = self.events.get_mut(&ordinal) {
            known.stage = Stage::Through;
            self.lanes.put_back(known.lane, ordinal, None);
        }
    }

    /// An event that was dead or scheduled was given up by an operator.
    pub(super) fn was_at_rest(&mut self, change: &Change) {
        match change.became {
            Became::Removed(Verdict::Discarded) => self.dead = self.dead.saturating_sub(1),
            _ => self.scheduled = self.scheduled.saturating_sub(1),
        }
    }
}
