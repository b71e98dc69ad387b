//! A relay's steps on the held way.

use super::relay::HELD_ON_THE_WAY;
use super::store::{Change, Hold, Request};
use super::{Answer, World, topic_of};
use crate::ack::{Entrance, Lane};

impl World {
    /// Held events that are due go, unless their topic takes none.
    pub(super) fn held_go(&mut self) {
        let Some(which) = self.pick_alive() else {
            return;
        };
        let relay = &mut self.relays[which];
        while relay.on_the_way() < HELD_ON_THE_WAY
            && let Some((lane, ordinal)) = relay.lanes.take_due(self.clock)
        {
            if relay.is_down[topic_of(lane.0)] {
                relay.lanes.put_back(lane, ordinal, None);
                relay.standing.push((lane, ordinal));
                relay.park(lane);
            } else {
                relay.lanes.moves(lane, self.clock);
                relay.held_wire.push(ordinal);
            }
        }
        relay.hold_what_fits(self.room);
    }

    pub(super) fn held_hear(&mut self) {
        let which = self.rng.usize(..self.relays.len());
        let relay = &mut self.relays[which];
        if !relay.held_wire.is_empty() && self.rng.bool() {
            let at = self.rng.usize(..relay.held_wire.len());
            let ordinal = relay.held_wire.swap_remove(at);
            let id = relay.held[&ordinal].0;
            let answer = self.handle(id);
            self.relays[which].held_answers.push((ordinal, answer));
            return;
        }
        if !relay.alive || relay.held_answers.is_empty() {
            return;
        }
        let at = self.rng.usize(..relay.held_answers.len());
        let (ordinal, answer) = relay.held_answers.swap_remove(at);
        let (id, hold) = relay.held[&ordinal];
        let event = &self.events[id];
        let lane = Lane(event.key);
        match (answer, hold) {
            (Answer::Accepted, _) => {
                relay.changes.push((ordinal, Change::Sent));
                relay.pass(lane, ordinal);
            }
            (Answer::NoTopic, _) => {
                relay.is_down[topic_of(event.key)] = true;
                relay.lanes.put_back(lane, ordinal, None);
                relay.standing.push((lane, ordinal));
                relay.park(lane);
            }
            (Answer::Refused, hold) => {
                let tried = if let Hold::Retry { attempts, .. } = hold { attempts } else { 0 };
                let is_last = tried + 1 >= event.max_attempts;
                // The dead letter can fail as well: then everything stays as it is for a while.
                if is_last && !self.blocks_when_exhausted && self.rng.bool() {
                    self.kafka.dead_letters[id] += 1;
                    relay.changes.push((ordinal, Change::Hold(Hold::Dead)));
                    relay.pass(lane, ordinal);
                } else {
                    let waits = !(is_last && self.blocks_when_exhausted);
                    let due = waits.then(|| self.clock + self.rng.i64(0..9));
                    let attempts = (tried + 1).min(event.max_attempts);
                    let hold = Hold::Retry { attempts, due };
                    relay.held.insert(ordinal, (id, hold));
                    relay.changes.push((ordinal, Change::Hold(hold)));
                    relay.lanes.put_back(lane, ordinal, due);
                    relay.park(lane);
                }
            }
        }
        relay.hold_what_fits(self.room);
    }

    /// What became of held events becomes durable.
    pub(super) fn redeem(&mut self) {
        let Some(which) = self.pick_alive() else {
            return;
        };
        let relay = &mut self.relays[which];
        let Some(changes) = relay.redeeming.take() else {
            if !relay.changes.is_empty() {
                relay.redeeming = Some(std::mem::take(&mut relay.changes));
            }
            return;
        };
        if self.store.epoch != relay.epoch {
            relay.alive = false;
            return;
        }
        for (ordinal, change) in &changes {
            self.store.apply(*ordinal, change);
        }
        if self.rng.u8(..8) == 0 {
            self.replace_relay(true);
            return;
        }
        let relay = &mut self.relays[which];
        for (ordinal, change) in changes {
            let (id, known) = relay.held[&ordinal];
            let counted = !matches!(known, Hold::Dead | Hold::Scheduled(_));
            let is_gone = !matches!(change, Change::Hold(hold) if hold != Hold::Dead);
            relay.used -= usize::from(is_gone && counted);
            if let Change::Skipped = change {
                relay.pass(Lane(self.events[id].key), ordinal);
            }
            if is_gone {
                relay.held.remove(&ordinal);
            }
            if let Change::Hold(Hold::Dead) = change {
                relay.held.insert(ordinal, (id, Hold::Dead));
            }
        }
        relay.hold_what_fits(self.room);
    }

    /// The relay looks whether a topic is back.
    pub(super) fn look_up(&mut self) {
        let Some(which) = self.pick_alive() else {
            return;
        };
        let topic = self.rng.usize(..2);
        let relay = &mut self.relays[which];
        relay.is_down[topic] = !self.kafka.is_up[topic];
        if !relay.is_down[topic] {
            let standing = std::mem::take(&mut relay.standing);
            for (lane, ordinal) in standing {
                if topic_of(lane.0) == topic {
                    relay.lanes.put_back(lane, ordinal, Some(0));
                } else {
                    relay.standing.push((lane, ordinal));
                }
            }
        }
    }

    /// The relay does what operators ask for, of events that are not on their way.
    pub(super) fn answer_requests(&mut self) {
        let clock = self.clock;
        let relay = self.relays.last_mut().unwrap();
        if !relay.alive || relay.redeeming.is_some() || !relay.changes.is_empty() {
            return;
        }
        for (ordinal, row) in &self.store.held {
            let Some((id, hold)) = relay.held.get(ordinal).copied() else {
                continue;
            };
            let lane = Lane(self.events[id].key);
            let busy = relay.held_wire.contains(ordinal)
                || relay.held_answers.iter().any(|(busy, _)| busy == ordinal);
            match row.request {
                None => {}
                Some(_) if busy => {}
                Some(Request::Skip) => {
                    relay.lanes.put_back(lane, *ordinal, None);
                    relay.standing.retain(|(_, standing)| standing != ordinal);
                    relay.changes.push((*ordinal, Change::Skipped));
                }
                Some(Request::Retry) => {
                    let again = Hold::Retry { attempts: 0, due: Some(clock) };
                    if hold == Hold::Dead {
                        if relay.used >= self.room {
                            continue;
                        }
                        relay.used += 1;
                        relay.window.close(lane);
                        relay.know(*ordinal, id, again, lane.0);
                        relay.park(lane);
                    } else {
                        relay.held.insert(*ordinal, (id, again));
                        relay.lanes.put_back(lane, *ordinal, Some(clock));
                        relay.standing.retain(|(_, standing)| standing != ordinal);
                    }
                    relay.changes.push((*ordinal, Change::Hold(again)));
                }
            }
        }
        relay.hold_what_fits(self.room);
    }

    /// A scheduled event that is due takes its place behind what was read so far.
    pub(super) fn schedule(&mut self) {
        let relay = self.relays.last_mut().unwrap();
        let Some((due, ordinal, id)) = relay.schedule.first().copied() else {
            return;
        };
        let event = &self.events[id];
        let size = u32::try_from(event.key).unwrap() + 1;
        if !relay.alive || due > self.clock || !relay.window.has_room(u64::from(size)) {
            return;
        }
        if !self.store.held.contains_key(&ordinal) {
            return;
        }
        relay.schedule.pop_first();
        if event.is_deleted {
            relay.changes.push((ordinal, Change::Cancelled));
        } else if let Some(later) = event.due.filter(|due| *due > self.clock) {
            relay.schedule.insert((later, ordinal, id));
            relay.changes.push((ordinal, Change::Hold(Hold::Scheduled(later))));
        } else {
            let position = relay.window.last_position().unwrap_or(relay.position);
            let lane = Lane(event.key);
            let ending = relay.lanes.is_ending(lane, self.clock);
            let entrance = if relay.is_down[topic_of(event.key)] {
                Entrance::Held
            } else if ending {
                Entrance::Joining
            } else {
                Entrance::Usual
            };
            let admitted = relay.window.admit(position, Some(lane), size, entrance);
            relay.take_on(id, admitted);
            relay.hold_what_fits(self.room);
        }
    }
}
