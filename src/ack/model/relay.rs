//! One relay process, or what is left of it, and its steps in the world.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::store::{Change, Hold, Store};
use super::{Answer, Event, Id, Item, World, topic_of};
use crate::ack::{Entrance, Entry, HeldLanes, Lane, Limits, Moment, Ordinal, Prefix, Seq, Window};
use crate::lsn::Position;

/// Held events on their way, and not yet redeemed: the held way's own budget.
pub(super) const HELD_ON_THE_WAY: usize = 3;

pub(super) struct Relay {
    pub(super) epoch: u64,
    /// Whether its process runs. A record that a dead one had sent can still arrive.
    pub(super) alive: bool,
    pub(super) window: Window,
    /// The position that it read when it started: what lies at or before it is settled.
    start: Position,
    pub(super) position: Position,
    next_item: usize,
    pub(super) ids: HashMap<Seq, Id>,
    /// On the wire, per key in the order of sending.
    wire: Vec<Seq>,
    answers: Vec<(Seq, Answer)>,
    again: Vec<Seq>,
    /// To be held by the transaction that settles them.
    holds: HashMap<Seq, Hold>,
    /// To be held as soon as there is room.
    wanting: BTreeMap<Seq, Hold>,
    settling: Option<(Prefix, Position)>,
    pub(super) lanes: HeldLanes,
    pub(super) held: HashMap<Ordinal, (Id, Hold)>,
    /// Held, or to be held by the next transaction.
    pub(super) used: usize,
    pub(super) held_wire: Vec<Ordinal>,
    pub(super) held_answers: Vec<(Ordinal, Answer)>,
    /// Waits for its topic.
    pub(super) standing: Vec<(Lane, Ordinal)>,
    pub(super) changes: Vec<(Ordinal, Change)>,
    pub(super) redeeming: Option<Vec<(Ordinal, Change)>>,
    pub(super) schedule: BTreeSet<(Moment, Ordinal, Id)>,
    /// Topics that it was told take no records.
    pub(super) is_down: [bool; 2],
}

impl Relay {
    pub(super) fn start(limits: Limits, store: &Store, events: &[Event], next_item: usize) -> Self {
        let mut relay = Self {
            epoch: store.epoch,
            alive: true,
            window: Window::new(limits),
            start: store.position,
            position: store.position,
            next_item,
            ids: HashMap::new(),
            wire: Vec::new(),
            answers: Vec::new(),
            again: Vec::new(),
            holds: HashMap::new(),
            wanting: BTreeMap::new(),
            settling: None,
            lanes: HeldLanes::default(),
            held: HashMap::new(),
            used: 0,
            held_wire: Vec::new(),
            held_answers: Vec::new(),
            standing: Vec::new(),
            changes: Vec::new(),
            redeeming: None,
            schedule: BTreeSet::new(),
            is_down: [false; 2],
        };
        for (ordinal, row) in &store.held {
            if !matches!(row.hold, Hold::Scheduled(_) | Hold::Dead) {
                relay.window.close(Lane(events[row.id].key));
                relay.used += 1;
            }
            relay.know(*ordinal, row.id, row.hold, events[row.id].key);
        }
        relay
    }

    /// The event is held: from now on it can go.
    pub(super) fn know(&mut self, ordinal: Ordinal, id: Id, hold: Hold, key: u64) {
        match hold {
            Hold::Dead => {}
            Hold::Scheduled(due) => {
                self.schedule.insert((due, ordinal, id));
            }
            Hold::Parked => self.lanes.insert(Lane(key), ordinal, Some(0)),
            Hold::Retry { due, .. } => self.lanes.insert(Lane(key), ordinal, due),
        }
        self.held.insert(ordinal, (id, hold));
    }

    /// What can come twice if it dies now.
    pub(super) fn in_doubt(&self) -> u64 {
        self.window.open() + HELD_ON_THE_WAY as u64
    }

    pub(super) fn forget_wire(&mut self) {
        self.wire.clear();
        self.held_wire.clear();
    }

    pub(super) fn on_the_way(&self) -> usize {
        let redeeming = self.redeeming.as_ref().map_or(0, Vec::len);
        self.held_wire.len() + self.held_answers.len() + self.changes.len() + redeeming
    }

    /// An event that was to go is held instead, and with it what waits behind it.
    fn set_aside(&mut self, seq: Seq, hold: Hold) {
        let mut parked = Vec::new();
        self.window.set_aside(seq, &mut parked);
        self.wanting.insert(seq, hold);
        self.wanting.extend(parked.into_iter().map(|seq| (seq, Hold::Parked)));
    }

    /// The lane does not move: who joined it is held as well.
    pub(super) fn park(&mut self, lane: Lane) {
        let mut parked = Vec::new();
        self.window.park(lane, &mut parked);
        self.wanting.extend(parked.into_iter().map(|seq| (seq, Hold::Parked)));
    }

    /// Holds what there is room for, as soon as everything before it is resolved: what was held
    /// earlier than that would take up room and wait for it to be settled.
    pub(super) fn hold_what_fits(&mut self, room: usize) {
        while let Some(entry) = self.wanting.first_entry()
            && *entry.key() == self.window.first_outstanding()
            && (matches!(entry.get(), Hold::Scheduled(_)) || self.used < room)
        {
            let (seq, hold) = entry.remove_entry();
            self.used += usize::from(!matches!(hold, Hold::Scheduled(_)));
            self.window.hold(seq);
            self.holds.insert(seq, hold);
        }
    }

    /// A held event is through.
    pub(super) fn pass(&mut self, lane: Lane, ordinal: Ordinal) {
        if self.lanes.remove(lane, ordinal) {
            let mut go = Vec::new();
            self.window.release(lane, &mut go);
            self.wire.extend(go);
        }
    }
}

impl World {
    pub(super) fn read(&mut self) {
        let relay = self.relays.last_mut().unwrap();
        let Some(item) = self.stream.get(relay.next_item).copied() else {
            return;
        };
        match item {
            Item::Row(id) => {
                let event = &self.events[id];
                let size = u32::try_from(event.key).unwrap() + 1;
                if event.position <= relay.start {
                    relay.next_item += 1;
                    return;
                }
                if !relay.window.has_room(u64::from(size)) {
                    return;
                }
                let lane = Lane(event.key);
                // As the row was inserted: later changes are not streamed.
                if let Some(due) = event.due.filter(|due| *due > self.clock) {
                    let (seq, _) = relay.window.admit(event.position, None, size, Entrance::Held);
                    relay.ids.insert(seq, id);
                    relay.wanting.insert(seq, Hold::Scheduled(due));
                } else {
                    let entrance = if relay.is_down[topic_of(event.key)] {
                        Entrance::Held
                    } else if relay.lanes.is_ending(lane, self.clock) {
                        Entrance::Joining
                    } else {
                        Entrance::Usual
                    };
                    let admitted = relay.window.admit(event.position, Some(lane), size, entrance);
                    relay.take_on(id, admitted);
                }
            }
            Item::Commit(lsn) | Item::Keepalive(lsn) => relay.window.fence(lsn),
        }
        relay.next_item += 1;
        relay.hold_what_fits(self.room);
    }

    /// Kafka handles a record of some relay, dead or alive: the oldest on the wire of some key.
    pub(super) fn broker(&mut self) {
        let which = self.rng.usize(..self.relays.len());
        let relay = &mut self.relays[which];
        if relay.wire.is_empty() {
            return;
        }
        let picked = relay.wire[self.rng.usize(..relay.wire.len())];
        let key = self.events[relay.ids[&picked]].key;
        let at = relay.wire.iter().position(|seq| self.events[relay.ids[seq]].key == key).unwrap();
        let seq = relay.wire.remove(at);
        let id = relay.ids[&seq];
        let answer = self.handle(id);
        self.relays[which].answers.push((seq, answer));
    }

    /// A relay hears of one of its records, in any order.
    pub(super) fn hear(&mut self) {
        let Some(which) = self.pick_alive() else {
            return;
        };
        let relay = &mut self.relays[which];
        if relay.answers.is_empty() {
            return;
        }
        let (seq, answer) = relay.answers.swap_remove(self.rng.usize(..relay.answers.len()));
        let event = &self.events[relay.ids[&seq]];
        match answer {
            Answer::Accepted => {
                let mut go = Vec::new();
                relay.window.ack(seq, &mut go);
                relay.wire.extend(go);
            }
            // Perhaps for the sake of another one of its batch: it is sent again, alone.
            Answer::Refused if self.rng.bool() => {
                relay.window.hold_back(seq);
                relay.again.push(seq);
            }
            Answer::Refused => {
                let due = Some(self.clock + self.rng.i64(0..9));
                let is_last = event.max_attempts <= 1 && self.blocks_when_exhausted;
                let due = due.filter(|_| !is_last);
                relay.set_aside(seq, Hold::Retry { attempts: 1, due });
            }
            Answer::NoTopic => {
                relay.is_down[topic_of(event.key)] = true;
                relay.set_aside(seq, Hold::Parked);
            }
        }
        relay.hold_what_fits(self.room);
    }

    pub(super) fn resend(&mut self) {
        let Some(which) = self.pick_alive() else {
            return;
        };
        let relay = &mut self.relays[which];
        if !relay.again.is_empty() {
            let seq = relay.again.swap_remove(self.rng.usize(..relay.again.len()));
            relay.wire.push(seq);
        }
    }

    /// First the transaction is sent; then PostgreSQL does it; the relay may never hear of it.
    pub(super) fn settle(&mut self) {
        let Some(which) = self.pick_alive() else {
            return;
        };
        let limit = self.rng.u64(1..6);
        let relay = &mut self.relays[which];
        let Some((prefix, before)) = relay.settling.take() else {
            relay.settling = relay.window.prefix(limit).map(|prefix| (prefix, relay.position));
            return;
        };
        if self.store.position != before || self.store.epoch != relay.epoch {
            relay.alive = false;
            return;
        }
        let mut held = Vec::new();
        for seq in prefix.from..prefix.until {
            let id = relay.ids[&seq];
            match relay.holds.remove(&seq) {
                Some(hold) => held.push((self.store.hold(id, hold), id, hold)),
                None => self.store.send(id),
            }
        }
        self.store.position = prefix.position;
        if self.rng.u8(..8) == 0 {
            self.replace_relay(true);
            return;
        }
        let relay = &mut self.relays[which];
        relay.position = prefix.position;
        relay.window.settle(prefix.until);
        for (ordinal, id, hold) in held {
            relay.know(ordinal, id, hold, self.events[id].key);
        }
    }
}

impl Relay {
    pub(super) fn take_on(&mut self, id: Id, (seq, entry): (Seq, Entry)) {
        self.ids.insert(seq, id);
        match entry {
            Entry::Goes => self.wire.push(seq),
            Entry::Waits => {}
            Entry::Held => {
                self.wanting.insert(seq, Hold::Parked);
            }
        }
    }
}
