//! The world around a [`Window`] and its [`HeldLanes`], small enough to be obviously right, and
//! adverse.
//!
//! PostgreSQL is a list of commits, a slot, a durable position and a few tables. Kafka is a log.
//! Relays (`relay`) read, send, are told, hold, settle, redeem and confirm, one random step at a
//! time; records are delayed, refused and reordered between keys; topics come and go; rows are
//! scheduled, moved and deleted; operators ask for things; relays crash, are replaced while they
//! still run, and PostgreSQL restores the slot to an older place. After every step the promises
//! are checked, and at the end everything must be delivered or given up by a word. A failure is a
//! seed.

mod held;
mod relay;
mod store;

use fastrand::Rng;

use self::relay::Relay;
use self::store::Store;
use super::{Limits, Moment};
use crate::lsn::{Lsn, Position};

type Id = usize;

#[derive(Clone)]
struct Event {
    key: u64,
    position: Position,
    commit_end: Lsn,
    max_attempts: u32,
    /// When its row says that it is due; changed by the application.
    due: Option<Moment>,
    is_deleted: bool,
    /// Whether its place in the order is not the one of its commit.
    is_out_of_order: bool,
}

/// What the stream sends.
#[derive(Clone, Copy)]
enum Item {
    Row(Id),
    Commit(Lsn),
    Keepalive(Lsn),
}

/// What Kafka answers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Answer {
    Accepted,
    Refused,
    NoTopic,
}

struct Kafka {
    /// How often it will refuse an event.
    refusals: Vec<u32>,
    log: Vec<Id>,
    copies: Vec<u32>,
    dead_letters: Vec<u32>,
    /// Keys are spread over two topics.
    is_up: [bool; 2],
}

struct World {
    rng: Rng,
    limits: Limits,
    /// The most events that can be held.
    room: usize,
    blocks_when_exhausted: bool,
    /// In the order of commits, which is the order of the stream.
    events: Vec<Event>,
    stream: Vec<Item>,
    kafka: Kafka,
    store: Store,
    clock: Moment,
    confirmed: Lsn,
    /// Where the slot may be after a crash of PostgreSQL.
    persisted: Lsn,
    relays: Vec<Relay>,
    duplicates_allowed: u64,
}

fn topic_of(key: u64) -> usize {
    usize::from(key % 2 == 1)
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let per_key = if rng.u8(..4) == 0 { rng.u32(2..4) } else { 1 };
        let limits = Limits { events: rng.usize(1..12), bytes: rng.u64(1..40), per_key };
        let keys = rng.u64(1..6);
        let schedules = rng.bool();
        let (mut events, mut stream, mut lsn) = (Vec::new(), Vec::new(), 1u64);
        for _ in 0..rng.usize(1..8) {
            let (begin, rows) = (lsn, rng.u32(0..5));
            let end = Lsn::from_wire(begin + 1);
            for index in 0..rows {
                let position = Position { commit: Lsn::from_wire(begin), index };
                let due = (schedules && rng.u8(..4) == 0).then(|| rng.i64(1..200));
                stream.push(Item::Row(events.len()));
                events.push(Event {
                    key: rng.u64(..keys),
                    position,
                    commit_end: end,
                    max_attempts: rng.u32(1..4),
                    due,
                    is_deleted: false,
                    is_out_of_order: due.is_some(),
                });
            }
            stream.push(Item::Commit(end));
            lsn = begin + 1 + rng.u64(..2);
            if rng.bool() {
                stream.push(Item::Keepalive(Lsn::from_wire(lsn)));
            }
        }
        // A record that is refused for good may be overtaken when a key has more than one in
        // flight: that is documented, and the model does not ask for more.
        let refusals = events.iter().map(|_| if per_key == 1 { rng.u32(..8) / 2 } else { 0 });
        let kafka = Kafka {
            refusals: refusals.collect(),
            log: Vec::new(),
            copies: vec![0; events.len()],
            dead_letters: vec![0; events.len()],
            is_up: [true; 2],
        };
        Self {
            room: rng.usize(1..8),
            blocks_when_exhausted: rng.bool(),
            rng,
            limits,
            store: Store::new(events.len()),
            events,
            stream,
            kafka,
            clock: 0,
            confirmed: Lsn::INVALID,
            persisted: Lsn::INVALID,
            relays: Vec::new(),
            duplicates_allowed: 0,
        }
    }

    /// A relay takes the lock: a new epoch, what is held, and the stream from where the slot is.
    fn start_relay(&mut self) {
        let confirmed = self.confirmed;
        let next_item = self.stream.iter().position(|item| match item {
            Item::Row(id) => self.events[*id].commit_end > confirmed,
            Item::Commit(end) => *end > confirmed,
            Item::Keepalive(_) => false,
        });
        let next_item = next_item.unwrap_or(self.stream.len());
        self.store.epoch += 1;
        self.relays.push(Relay::start(self.limits, &self.store, &self.events, next_item));
    }

    fn current(&mut self) -> &mut Relay {
        self.relays.last_mut().unwrap()
    }

    /// The current relay is replaced; it `dies` or goes on without knowing.
    fn replace_relay(&mut self, dies: bool) {
        let lost = self.rng.bool();
        self.duplicates_allowed += self.current().in_doubt();
        let relay = self.current();
        relay.alive = !dies;
        if dies && lost {
            relay.forget_wire();
        }
        self.start_relay();
    }

    /// A dead relay's records can still arrive, but it hears and does nothing any more.
    fn pick_alive(&mut self) -> Option<usize> {
        let which = self.rng.usize(..self.relays.len());
        self.relays[which].alive.then_some(which)
    }

    /// Kafka handles a record: whether it is in the log then.
    fn handle(&mut self, id: Id) -> Answer {
        if !self.kafka.is_up[topic_of(self.events[id].key)] {
            return Answer::NoTopic;
        }
        if self.kafka.refusals[id] > 0 {
            self.kafka.refusals[id] -= 1;
            return Answer::Refused;
        }
        self.kafka.copies[id] += 1;
        self.kafka.log.push(id);
        self.check_order(id);
        Answer::Accepted
    }

    /// The relay that has the slot is the only one that can confirm.
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

    /// Somebody changes a scheduled row.
    fn edit(&mut self) {
        if self.events.is_empty() {
            return;
        }
        let id = self.rng.usize(..self.events.len());
        let (clock, later) = (self.clock, self.rng.i64(1..50));
        let event = &mut self.events[id];
        // Before it is read, the stream would bring it as it was inserted.
        if self.store.scheduled_at(id).is_some() {
            if self.rng.bool() {
                event.is_deleted = true;
            } else {
                event.due = event.due.map(|due| due.max(clock) + later);
            }
        }
    }

    /// The first copy of an event comes after the first copies of all earlier ones of its key,
    /// unless these were given up or have a time of their own.
    fn check_order(&self, id: Id) {
        let event = &self.events[id];
        if self.kafka.copies[id] > 1 || event.is_out_of_order || self.kafka.dead_letters[id] > 0 {
            return;
        }
        for (earlier, before) in self.events[..id].iter().enumerate() {
            let is_through = before.key != event.key
                || before.is_out_of_order
                || self.kafka.copies[earlier] > 0
                || self.kafka.dead_letters[earlier] > 0
                || self.store.is_given_up(earlier);
            assert!(is_through, "event {id} overtook event {earlier} of its key");
        }
    }

    fn check(&self) {
        for (id, event) in self.events.iter().enumerate() {
            let is_settled = self.store.is_settled(id);
            let is_before = event.position <= self.store.position;
            assert_eq!(is_settled, is_before, "event {id}: its verdict and the position disagree");
            assert!(
                !self.store.sent[id] || self.kafka.copies[id] > 0,
                "event {id} is SENT and not in Kafka"
            );
            assert!(
                event.commit_end > self.confirmed || is_settled,
                "event {id} is confirmed and not settled"
            );
            let is_dead = self.store.is_dead(id);
            assert!(!is_dead || self.kafka.dead_letters[id] > 0, "event {id} has no dead letter");
        }
        assert!(self.store.held_count() <= self.room, "more are held than there is room for");
        let copies: u64 = self.kafka.copies.iter().map(|copies| u64::from(*copies)).sum();
        let distinct = self.kafka.copies.iter().filter(|copies| **copies > 0).count() as u64;
        // A zombie can repeat what it had open, once more than its successor did.
        assert!(copies - distinct <= 2 * self.duplicates_allowed, "more duplicates than were open");
    }

    fn step(&mut self, faults: bool) {
        self.clock += self.rng.i64(0..3);
        match self.rng.u8(..100) {
            0..20 => self.read(),
            20..32 => self.broker(),
            32..44 => self.hear(),
            44..48 => self.resend(),
            48..58 => self.settle(),
            58..63 => self.confirm(),
            63..72 => self.held_go(),
            72..80 => self.held_hear(),
            80..88 => self.redeem(),
            88..91 => self.look_up(),
            91..93 => self.answer_requests(),
            93..95 => self.schedule(),
            // As with refusals: what is denied may be overtaken when more than one is in flight.
            95 if faults && self.limits.per_key == 1 => {
                self.kafka.is_up[self.rng.usize(..2)] = self.rng.bool();
            }
            96 if faults => self.edit(),
            97 if faults => self.store.ask(&mut self.rng),
            98 if faults && self.rng.bool() => self.replace_relay(true),
            99 if faults && self.rng.bool() => {
                if self.rng.bool() {
                    self.replace_relay(false);
                } else {
                    self.crash_postgres();
                }
            }
            _ => {}
        }
        self.check();
    }

    fn is_done(&self) -> bool {
        let last_end = self.events.last().map_or(Lsn::INVALID, |event| event.commit_end);
        self.confirmed >= last_end && (0..self.events.len()).all(|id| self.store.is_final(id))
    }
}

fn run(seed: u64) {
    let mut world = World::new(seed);
    world.start_relay();
    let steps = world.rng.usize(..350);
    let faults = !seed.is_multiple_of(4);
    for _ in 0..steps {
        world.step(faults);
    }
    // With the faults over, everything arrives. A relay that lost its place has to be replaced, and
    // what is blocked needs an operator.
    world.kafka.is_up = [true; 2];
    for round in 0..100_000 {
        if world.is_done() {
            break;
        }
        if !world.current().alive {
            world.start_relay();
        }
        if round % 500 == 499 {
            world.kafka.refusals.fill(0);
            world.store.unblock_all();
        }
        world.step(false);
    }
    assert!(world.is_done(), "it stalled: {:?}", world.store.held);
    let copies: u64 = world.kafka.copies.iter().map(|copies| u64::from(*copies)).sum();
    let distinct = world.kafka.copies.iter().filter(|copies| **copies > 0).count() as u64;
    assert!(faults || world.relays.len() > 1 || copies == distinct, "duplicates without a fault");
}

/// Runs many histories; how many is `OUTBOXD_HISTORIES`, where more time is at hand.
#[test]
fn promises_hold_over_random_histories() {
    let histories = std::env::var("OUTBOXD_HISTORIES").ok();
    let histories = histories.map_or(100_000, |count| count.parse().unwrap());
    for seed in 0..histories {
        if std::panic::catch_unwind(|| run(seed)).is_err() {
            panic!("the history of seed {seed} broke a promise; see above");
        }
    }
}
