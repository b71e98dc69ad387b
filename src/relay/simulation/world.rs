//! What outlives a session: the slot, the relay's row, the statuses, Kafka. Here the promises are
//! checked, at every step that could break one.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use fastrand::Rng;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::script::Script;
use super::setting::{blocked, brokers, what_never_ends};
use super::tally::Tally;
use crate::ack::Limits;
use crate::lsn::{Lsn, Position};
use crate::outbox::Placement;
use crate::relay::SettleConfig;
use crate::sink::memory::{Appended, Brokers};

/// One history's database and brokers.
pub(super) struct World {
    pub(super) script: Script,
    pub(super) limits: Limits,
    pub(super) settle: SettleConfig,
    pub(super) brokers: Rc<RefCell<Brokers>>,
    /// Whether nothing happens to the relay but orderly stops.
    pub(super) is_calm: bool,
    pub(super) began: Instant,
    /// From here on nothing goes wrong any more, except what never ends.
    pub(super) calm_at: Instant,
    /// The first so many events were published by a sweep; the stream repeats them.
    pub(super) swept: usize,
    pub(super) swept_until: Lsn,
    /// The events that can never be published, and those behind them in their keys.
    pub(super) blocked: Vec<bool>,
    pub(super) changed: Notify,
    pub(super) state: RefCell<State>,
    rng: RefCell<Rng>,
    /// Per event, its lane and its place in that lane.
    lanes: Vec<Option<(usize, usize)>>,
}

/// What changes.
pub(super) struct State {
    /// `confirmed_flush_lsn`, and what a crash of the server makes of it.
    pub(super) confirmed: Lsn,
    persisted: Lsn,
    /// The relay's row.
    pub(super) epoch: i64,
    pub(super) position: Position,
    /// The first so many events are SENT.
    pub(super) settled: usize,
    pub(super) deferred: u64,
    /// How often each event is in Kafka, and how much of the log was looked at.
    pub(super) copies: Vec<u32>,
    looked_at: usize,
    /// Per lane, how many of its events are in Kafka.
    published: Vec<usize>,
    /// Copies that a fault explains.
    pub(super) excused: u64,
    pub(super) tally: Tally,
}

impl World {
    pub(super) fn new(seed: u64) -> Rc<Self> {
        let mut rng = Rng::with_seed(seed);
        let is_calm = seed.is_multiple_of(4);
        let script = Script::new(&mut rng);
        let began = Instant::now();
        let calm_at = began + millis(&mut rng, 2_000..20_000);
        let per_key = if rng.u8(..5) == 0 { rng.u32(2..5) } else { 1 };
        let limits = Limits { events: rng.usize(1..40), bytes: rng.u64(300..20_000), per_key };
        let settle = SettleConfig { batch: rng.u64(1..20), interval: millis(&mut rng, 0..60) };
        let has_swept = rng.u8(..6) == 0;
        let swept = if has_swept { rng.usize(..=script.transactions.len()) } else { 0 };
        let swept_until = swept.checked_sub(1).map_or(Lsn::INVALID, |last| {
            let until = rng.usize(last..script.transactions.len());
            script.transactions[until].end
        });
        let first = script.transactions.get(swept).map_or(Lsn::from_wire(u64::MAX), |t| t.begin);
        let swept = script.events.iter().take_while(|event| event.position.commit < first).count();
        let (lanes, lane_count) = lanes(&script);
        let mut brokers = brokers(&script, &mut rng, began, calm_at, is_calm, per_key);
        let bad = what_never_ends(&script, &mut rng, &mut brokers, is_calm, per_key, swept);
        let blocked = blocked(&bad, &lanes, &brokers, &script, swept, calm_at);
        let mut published = vec![0; lane_count];
        for (number, event) in script.events.iter().enumerate().take(swept) {
            let brokers = &mut brokers;
            brokers.log.push(event.appended());
            if let Some((lane, _)) = lanes[number] {
                published[lane] += 1;
            }
        }
        let mut copies = vec![0; script.events.len()];
        copies[..swept].fill(1);
        let state = State {
            confirmed: Lsn::INVALID,
            persisted: Lsn::INVALID,
            epoch: 0,
            position: Position::ORIGIN,
            settled: swept,
            deferred: rng.u64(..3),
            copies,
            looked_at: swept,
            published,
            excused: 0,
            tally: Tally::default(),
        };
        Rc::new(Self {
            script,
            limits,
            settle,
            brokers: Rc::new(RefCell::new(brokers)),
            is_calm,
            began,
            calm_at,
            swept,
            swept_until,
            blocked,
            changed: Notify::new(),
            state: RefCell::new(state),
            rng: RefCell::new(rng),
            lanes,
        })
    }

    /// Dice of its own for a part of the world.
    pub(super) fn fork(&self) -> Rng {
        self.rng.borrow_mut().fork()
    }

    pub(super) fn is_troubled(&self) -> bool {
        Instant::now() < self.calm_at && !self.is_calm
    }

    /// The promises about Kafka, for what has arrived since the last look.
    pub(super) fn look_at_kafka(&self) {
        let mut brokers = self.brokers.borrow_mut();
        brokers.pump();
        let state = &mut *self.state.borrow_mut();
        for appended in &brokers.log[state.looked_at..] {
            let Appended { topic, parcel } = appended;
            let headers = parcel.headers.view();
            let number = self.script.number(headers.get("event_id").unwrap());
            let event = &self.script.events[number];
            let key = event.key.as_deref();
            assert_eq!(**topic, *event.topic, "event {number} is in another topic");
            assert_eq!(parcel.key.as_deref(), key.map(str::as_bytes), "event {number}'s key");
            assert_eq!(parcel.value.as_deref(), Some(event.payload.as_bytes()), "of {number}");
            if let Some(key) = key {
                let partitions = brokers.topics[&event.topic].partitions;
                let expected = Placement::of_key(key.as_bytes()).partition(partitions);
                assert_eq!(parcel.partition, expected, "event {number} is in another partition");
            }
            state.copies[number] += 1;
            if let (1, Some((lane, place))) = (state.copies[number], self.lanes[number]) {
                assert_eq!(place, state.published[lane], "event {number} overtook one of its key");
                state.published[lane] += 1;
            }
        }
        state.looked_at = brokers.log.len();
    }

    /// Another relay, or a person, takes the place.
    pub(super) fn take_place(&self) -> (i64, Position) {
        let mut state = self.state.borrow_mut();
        state.epoch += 1;
        (state.epoch, state.position)
    }

    /// `UPDATE … WHERE position = old AND epoch = mine`, and the statuses with it. Whether the
    /// place was still there.
    pub(super) fn settle(&self, change: &Change) -> bool {
        self.look_at_kafka();
        let state = &mut *self.state.borrow_mut();
        if change.epoch != state.epoch || change.from != state.position {
            assert_ne!(change.epoch, state.epoch, "it does not settle from where it stands");
            return false;
        }
        let Range { start, end } = change.events;
        assert_eq!(start, state.settled, "a run does not begin behind the one before it");
        assert_eq!(change.to, self.script.events[end - 1].position, "a run ends elsewhere");
        for number in start..end {
            assert!(state.copies[number] > 0, "event {number} is SENT and not in Kafka");
        }
        (state.position, state.settled) = (change.to, end);
        self.changed.notify_waiters();
        true
    }

    /// The server takes in a status update.
    pub(super) fn confirm(&self, lsn: Lsn) {
        self.look_at_kafka();
        let state = &mut *self.state.borrow_mut();
        if let Some(event) = self.script.events.get(state.settled) {
            let open = event.position.commit;
            assert!(lsn <= open, "{lsn} is confirmed, the event at {open} is not SENT");
        }
        // What it can forget it may have forgotten already, or not yet.
        state.confirmed = state.confirmed.max(lsn);
        if self.rng.borrow_mut().u8(..4) == 0 {
            state.persisted = state.confirmed;
        }
        self.changed.notify_waiters();
    }

    /// The slot is where the server last wrote it down.
    pub(super) fn restore_slot(&self) {
        let mut state = self.state.borrow_mut();
        state.confirmed = state.persisted;
    }

    /// Whether everything is published, settled and confirmed.
    pub(super) fn is_done(&self) -> bool {
        let state = self.state.borrow();
        state.settled == self.script.events.len() && state.confirmed >= self.script.end()
    }

    pub(super) async fn done(&self) {
        while !self.is_done() {
            self.changed.notified().await;
        }
    }

    /// Whether the history ends with events that wait.
    pub(super) fn ends_stalled(&self) -> bool {
        self.blocked.contains(&true)
    }

    pub(super) fn tally(&self, count: impl FnOnce(&mut Tally)) {
        count(&mut self.state.borrow_mut().tally);
    }
}

/// One settle transaction.
#[derive(Debug, Clone)]
pub(super) struct Change {
    pub(super) epoch: i64,
    pub(super) from: Position,
    pub(super) to: Position,
    pub(super) events: Range<usize>,
}

pub(super) fn millis(rng: &mut Rng, range: Range<u64>) -> Duration {
    Duration::from_millis(rng.u64(range))
}

/// The events of one key and topic are a lane.
fn lanes(script: &Script) -> (Vec<Option<(usize, usize)>>, usize) {
    let mut lengths: Vec<usize> = Vec::new();
    let mut by_key = HashMap::new();
    let lanes = script.events.iter().map(|event| {
        let key = event.key.as_deref()?;
        let lane = *by_key.entry((&*event.topic, key)).or_insert_with(|| {
            lengths.push(0);
            lengths.len() - 1
        });
        lengths[lane] += 1;
        Some((lane, lengths[lane] - 1))
    });
    let lanes = lanes.collect();
    (lanes, lengths.len())
}
