//! The world around a [`Window`], small enough to be obviously right, and adverse.
//!
//! PostgreSQL is a list of commits, a slot, a durable position and a set of SENT ids. Kafka is a
//! log. Relays read, send, are told, settle and confirm, one random step at a time; records are
//! delayed, refused and reordered between keys; relays crash, are replaced while they still run,
//! and PostgreSQL restores the slot to an older place. After every step the promises are checked,
//! and at the end everything must be delivered. A failure is a seed.

use std::collections::HashMap;

use fastrand::Rng;

use super::{Lane, Limits, Prefix, Seq, Window};
use crate::lsn::{Lsn, Position};

type Id = usize;

#[derive(Clone)]
struct Event {
    key: u64,
    position: Position,
    commit_end: Lsn,
}

/// What the stream sends.
#[derive(Clone, Copy)]
enum Item {
    Row(Id),
    Commit(Lsn),
    Keepalive(Lsn),
}

struct World {
    rng: Rng,
    limits: Limits,
    /// In the order of commits, which is the order of the stream.
    events: Vec<Event>,
    stream: Vec<Item>,
    /// How often Kafka will refuse an event.
    refusals: Vec<u32>,
    log: Vec<Id>,
    copies: Vec<u32>,
    position: Position,
    sent: Vec<bool>,
    epoch: u64,
    confirmed: Lsn,
    /// Where the slot may be after a crash of PostgreSQL.
    persisted: Lsn,
    relays: Vec<Relay>,
    duplicates_allowed: u64,
}

/// One relay process, or what is left of it.
struct Relay {
    epoch: u64,
    /// Whether its process runs. A record that a dead one had sent can still arrive.
    alive: bool,
    window: Window,
    /// The position that it read when it started: what lies at or before it is settled.
    start: Position,
    position: Position,
    next_item: usize,
    ids: HashMap<Seq, Id>,
    /// On the wire, per key in the order of sending.
    wire: Vec<Seq>,
    /// What Kafka answered: true for yes.
    answers: Vec<(Seq, bool)>,
    refused: Vec<Seq>,
    settling: Option<(Prefix, Position)>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let per_key = if rng.u8(..4) == 0 { rng.u32(2..4) } else { 1 };
        let limits = Limits { events: rng.usize(1..12), bytes: rng.u64(1..40), per_key };
        let keys = rng.u64(1..6);
        let (mut events, mut stream, mut lsn) = (Vec::new(), Vec::new(), 1u64);
        for _ in 0..rng.usize(1..8) {
            let (begin, rows) = (lsn, rng.u32(0..5));
            let end = Lsn::from_wire(begin + 1);
            for index in 0..rows {
                let position = Position { commit: Lsn::from_wire(begin), index };
                stream.push(Item::Row(events.len()));
                events.push(Event { key: rng.u64(..keys), position, commit_end: end });
            }
            stream.push(Item::Commit(end));
            lsn = begin + 1 + rng.u64(..2);
            if rng.bool() {
                stream.push(Item::Keepalive(Lsn::from_wire(lsn)));
            }
        }
        // A record that is refused for good may be overtaken when a key has more than one in
        // flight: that is documented, and the model does not ask for more.
        let refusals = events.iter().map(|_| if per_key == 1 { rng.u32(..4) / 2 } else { 0 });
        let refusals = refusals.collect();
        Self {
            copies: vec![0; events.len()],
            sent: vec![false; events.len()],
            rng,
            limits,
            events,
            stream,
            refusals,
            log: Vec::new(),
            position: Position::ORIGIN,
            epoch: 0,
            confirmed: Lsn::INVALID,
            persisted: Lsn::INVALID,
            relays: Vec::new(),
            duplicates_allowed: 0,
        }
    }

    /// A relay takes the lock: a new epoch, and the stream from where the slot is.
    fn start_relay(&mut self) {
        self.epoch += 1;
        let confirmed = self.confirmed;
        let next_item = self.stream.iter().position(|item| match item {
            Item::Row(id) => self.events[*id].commit_end > confirmed,
            Item::Commit(end) => *end > confirmed,
            Item::Keepalive(_) => false,
        });
        self.relays.push(Relay {
            epoch: self.epoch,
            alive: true,
            window: Window::new(self.limits),
            start: self.position,
            position: self.position,
            next_item: next_item.unwrap_or(self.stream.len()),
            ids: HashMap::new(),
            wire: Vec::new(),
            answers: Vec::new(),
            refused: Vec::new(),
            settling: None,
        });
    }

    fn current(&mut self) -> &mut Relay {
        self.relays.last_mut().unwrap()
    }

    /// The current relay is replaced; it `dies` or goes on without knowing.
    fn replace_relay(&mut self, dies: bool) {
        let open = self.current().window.open();
        self.duplicates_allowed += open;
        let lost = self.rng.bool();
        let relay = self.current();
        relay.alive = !dies;
        if dies && lost {
            relay.wire.clear();
        }
        self.start_relay();
    }

    fn read(&mut self) {
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
                let admitted = relay.window.admit(event.position, Some(Lane(event.key)), size);
                relay.ids.insert(admitted.seq, id);
                if admitted.goes {
                    relay.wire.push(admitted.seq);
                }
            }
            Item::Commit(lsn) | Item::Keepalive(lsn) => relay.window.fence(lsn),
        }
        relay.next_item += 1;
    }

    /// Kafka handles a record of some relay, dead or alive: the oldest on the wire of some key.
    fn broker(&mut self) {
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
        let accepted = self.refusals[id] == 0;
        relay.answers.push((seq, accepted));
        if accepted {
            self.copies[id] += 1;
            self.log.push(id);
            self.check_order(id);
        } else {
            self.refusals[id] -= 1;
        }
    }

    /// A relay hears of one of its records, in any order.
    fn hear(&mut self) {
        let Some(relay) = self.pick_alive() else {
            return;
        };
        let relay = &mut self.relays[relay];
        if relay.answers.is_empty() {
            return;
        }
        let (seq, accepted) = relay.answers.swap_remove(self.rng.usize(..relay.answers.len()));
        if accepted {
            let mut go = Vec::new();
            relay.window.ack(seq, &mut go);
            relay.wire.extend(go);
        } else {
            if self.rng.bool() {
                relay.window.refuse(seq);
            } else {
                relay.window.hold_back(seq);
            }
            relay.refused.push(seq);
        }
    }

    fn resend(&mut self) {
        let Some(relay) = self.pick_alive() else {
            return;
        };
        let relay = &mut self.relays[relay];
        if !relay.refused.is_empty() {
            let seq = relay.refused.swap_remove(self.rng.usize(..relay.refused.len()));
            relay.wire.push(seq);
        }
    }

    /// First the transaction is sent; then PostgreSQL does it; the relay may never hear of it.
    fn settle(&mut self) {
        let Some(which) = self.pick_alive() else {
            return;
        };
        let limit = self.rng.u64(1..6);
        let relay = &mut self.relays[which];
        let Some((prefix, before)) = relay.settling.take() else {
            relay.settling = relay.window.prefix(limit).map(|prefix| (prefix, relay.position));
            return;
        };
        if self.position != before || self.epoch != relay.epoch {
            relay.alive = false;
            return;
        }
        for seq in prefix.from..prefix.until {
            self.sent[relay.ids[&seq]] = true;
        }
        self.position = prefix.position;
        if self.rng.u8(..8) == 0 {
            self.replace_relay(true);
            return;
        }
        let relay = &mut self.relays[which];
        relay.position = prefix.position;
        relay.window.settle(prefix.until);
    }

    /// Only the relay that has the slot can confirm.
    fn confirm(&mut self) {
        let watermark = self.current().window.watermark();
        if self.current().alive {
            self.confirmed = self.confirmed.max(watermark);
        }
        if self.rng.u8(..4) == 0 {
            self.persisted = self.confirmed;
        }
    }

    fn crash_postgres(&mut self) {
        self.confirmed = self.persisted;
        self.replace_relay(true);
    }

    fn pick_alive(&mut self) -> Option<usize> {
        let which = self.rng.usize(..self.relays.len());
        self.relays[which].alive.then_some(which)
    }

    /// The first copy of an event comes after the first copies of all earlier ones of its key.
    fn check_order(&self, id: Id) {
        if self.copies[id] > 1 {
            return;
        }
        let key = self.events[id].key;
        for earlier in (0..id).filter(|earlier| self.events[*earlier].key == key) {
            assert!(self.copies[earlier] > 0, "event {id} overtook event {earlier} of its key");
        }
    }

    fn check(&self) {
        for (id, event) in self.events.iter().enumerate() {
            let sent = self.sent[id];
            assert_eq!(sent, event.position <= self.position, "SENT and the position disagree");
            assert!(!sent || self.copies[id] > 0, "event {id} is SENT and not in Kafka");
            assert!(event.commit_end > self.confirmed || sent, "event {id} confirmed, not SENT");
        }
        let copies: u64 = self.copies.iter().map(|copies| u64::from(*copies)).sum();
        let distinct = self.copies.iter().filter(|copies| **copies > 0).count() as u64;
        // A zombie can repeat what it had open, once more than its successor did.
        assert!(copies - distinct <= 2 * self.duplicates_allowed, "more duplicates than were open");
    }

    fn step(&mut self, faults: bool) {
        match self.rng.u8(..64) {
            0..16 => self.read(),
            16..30 => self.broker(),
            30..42 => self.hear(),
            42..46 => self.resend(),
            46..56 => self.settle(),
            56..61 => self.confirm(),
            61 if faults => self.replace_relay(true),
            62 if faults => self.replace_relay(false),
            63 if faults => self.crash_postgres(),
            _ => {}
        }
        self.check();
    }

    fn is_done(&self) -> bool {
        let last_end = self.events.last().map_or(Lsn::INVALID, |event| event.commit_end);
        self.confirmed >= last_end && self.sent.iter().all(|sent| *sent)
    }
}

fn run(seed: u64) {
    let mut world = World::new(seed);
    world.start_relay();
    let steps = world.rng.usize(..250);
    let faults = !seed.is_multiple_of(4);
    for _ in 0..steps {
        world.step(faults);
    }
    // With the faults over, everything arrives. A relay that lost its place has to be replaced.
    for _ in 0..100_000 {
        if world.is_done() {
            break;
        }
        if !world.current().alive {
            world.start_relay();
        }
        world.step(false);
    }
    assert!(world.is_done(), "it stalled");
    let duplicates = world.log.len() - world.events.len();
    assert!(faults || world.relays.len() > 1 || duplicates == 0, "duplicates without a fault");
}

/// Runs many histories; how many is `OUTBOXD_HISTORIES`, where more time is at hand.
#[test]
fn promises_hold_over_random_histories() {
    let histories = std::env::var("OUTBOXD_HISTORIES").ok();
    let histories = histories.map_or(150_000, |count| count.parse().unwrap());
    for seed in 0..histories {
        if std::panic::catch_unwind(|| run(seed)).is_err() {
            panic!("the history of seed {seed} broke a promise; see above");
        }
    }
}
