//! What outlives a session: the slot, the relay's row, the outbox, what is held, Kafka. Here the
//! promises are checked, at every step that could break one.

use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use fastrand::Rng;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::outbox::Row;
use super::script::Script;
use super::setting::Setting;
use super::state::{Standing, State};
use super::tally::Tally;
use crate::lsn::{Lsn, Position};
use crate::relay::{DeadLetterConfig, FlowConfig};
use crate::sink::memory::{Appended, Brokers};
use crate::status::{Became, Change, HeldEvent, Orders, Reason, Verdict};

/// One history's database and brokers.
pub(super) struct World {
    pub(super) script: Script,
    pub(super) flow: FlowConfig,
    pub(super) brokers: Rc<RefCell<Brokers>>,
    /// Whether nothing happens to the relay but orderly stops.
    pub(super) is_calm: bool,
    pub(super) began: Instant,
    /// From here on nothing goes wrong any more, except what never ends.
    pub(super) calm_at: Instant,
    /// The first so many events were read by a sweep; the stream repeats them.
    pub(super) swept: usize,
    pub(super) swept_until: Lsn,
    pub(super) changed: Notify,
    /// `NOTIFY`.
    pub(super) notices: watch::Sender<u64>,
    pub(super) state: RefCell<State>,
    rng: RefCell<Rng>,
    /// Per event that is in order, its lane and its place in that lane; and their events.
    pub(super) lanes: Vec<Option<(usize, usize)>>,
    pub(super) members: Vec<Vec<usize>>,
}

impl World {
    pub(super) fn new(seed: u64) -> Rc<Self> {
        let mut rng = Rng::with_seed(seed);
        let is_calm = seed.is_multiple_of(4);
        let script = Script::new(&mut rng);
        let setting = Setting::new(&script, &mut rng, is_calm);
        let Setting { flow, brokers, began, calm_at, swept, swept_until } = setting;
        let (lanes, members) = lanes(&script);
        let rows: Vec<_> = script.events.iter().map(|event| event.row.clone()).collect();
        let state = State::new(rows, members.len(), rng.u64(..3));
        let world = Self {
            script,
            flow,
            brokers: Rc::new(RefCell::new(brokers)),
            is_calm,
            began,
            calm_at,
            swept,
            swept_until,
            changed: Notify::new(),
            notices: watch::Sender::new(0),
            state: RefCell::new(state),
            rng: RefCell::new(rng),
            lanes,
            members,
        };
        world.sweep();
        Rc::new(world)
    }

    /// Dice of its own for a part of the world.
    pub(super) fn fork(&self) -> Rng {
        self.rng.borrow_mut().fork()
    }

    pub(super) fn is_troubled(&self) -> bool {
        Instant::now() < self.calm_at && !self.is_calm
    }

    /// How many events may be held.
    pub(super) fn most_held(&self) -> usize {
        usize::try_from(self.flow.held.events.max(1)).unwrap()
    }

    /// What orders an event.
    pub(super) fn lane(&self, number: usize) -> Option<(&str, &str)> {
        let row = &self.script.events[number].row;
        Some((row.topic.as_deref()?, row.key.as_deref()?))
    }

    /// Where an event's dead letter goes, if anywhere.
    pub(super) fn letters(&self, number: usize) -> Option<String> {
        let DeadLetterConfig { topic, default, .. } = &self.flow.dead_letter;
        let name = match &self.script.events[number].row.topic {
            Some(own) => topic.replace("{topic}", own),
            None => default.clone(),
        };
        (!name.is_empty()).then_some(name)
    }

    /// The promises about Kafka, for what has arrived since the last look.
    pub(super) fn look_at_kafka(&self) {
        let mut brokers = self.brokers.borrow_mut();
        brokers.pump();
        let state = &mut *self.state.borrow_mut();
        for appended in &brokers.log[state.looked_at..] {
            let Appended { topic, parcel } = appended;
            let number = self.script.number(parcel.headers.view().get("event_id").unwrap());
            let row = &self.script.events[number].row;
            let key = row.key.as_deref().map(str::as_bytes);
            assert_eq!(parcel.key.as_deref(), key, "event {number}'s key");
            if row.topic.as_deref() != Some(topic) {
                let letters = self.letters(number);
                assert_eq!(
                    letters.as_deref(),
                    Some(&**topic),
                    "event {number} is in another topic"
                );
                state.letters[number] += 1;
                continue;
            }
            state.copies[number] += 1;
            if let (1, Some((lane, place))) = (state.copies[number], self.lanes[number]) {
                let front = self.front(state, lane);
                assert!(
                    place < front,
                    "event {number} overtook {} of its key",
                    self.members[lane][front]
                );
            }
        }
        state.looked_at = brokers.log.len();
    }

    /// The place in a lane of the first event that is not through.
    fn front(&self, state: &mut State, lane: usize) -> usize {
        let members = &self.members[lane];
        let mut front = state.fronts[lane];
        while members.get(front).is_some_and(|number| state.is_through(*number)) {
            front += 1;
        }
        state.fronts[lane] = front;
        front
    }

    /// Another relay, or a person, takes the place.
    pub(super) fn take_place(&self) -> (i64, Position) {
        let mut state = self.state.borrow_mut();
        state.epoch += 1;
        (state.epoch, state.position)
    }

    /// `UPDATE … WHERE position = old AND epoch = mine`, and the statuses and the held ones with
    /// it. Nothing if the place was lost.
    pub(super) fn settle(&self, run: &Run) -> Option<Vec<i64>> {
        self.look_at_kafka();
        let state = &mut *self.state.borrow_mut();
        if run.epoch != state.epoch || run.from != state.position {
            assert_ne!(run.epoch, state.epoch, "it does not settle from where it stands");
            return None;
        }
        let Range { start, end } = run.stream;
        assert_eq!(start, state.settled, "a run does not begin behind the one before it");
        let last = run.stream.clone().next_back();
        let to = last.map_or(run.from, |last| self.script.events[last].position);
        assert_eq!(run.to, to, "a run ends elsewhere");
        for number in &run.sent {
            state.is_sent(*number);
            state.noted[*number] |= run.swept;
        }
        state.table.came_due(&run.came_due);
        let mut ordinals = Vec::new();
        for (number, event) in &run.held {
            state.was_held[*number] |= event.hold.reason != Reason::Scheduled;
            ordinals.push(state.table.hold(*number, event));
        }
        (state.position, state.settled) = (run.to, end);
        state.confirmable = state.confirmable.max(run.confirmable);
        state.tally.held += run.held.len() as u64;
        self.check(state);
        self.changed.notify_waiters();
        Some(ordinals)
    }

    /// What became of held events, if the place is still there.
    pub(super) fn redeem(&self, epoch: i64, changes: &[Change], swept: bool) -> bool {
        self.look_at_kafka();
        let state = &mut *self.state.borrow_mut();
        if epoch != state.epoch {
            return false;
        }
        for Change { ordinal, id, became, .. } in changes {
            let number = self.script.number(id);
            let is_there = state.table.rows.contains_key(ordinal);
            match became {
                Became::Sent => {
                    state.is_sent(number);
                    state.noted[number] |= swept;
                }
                Became::Removed(verdict) => {
                    assert!(is_there, "event {number} is given up, and is not held");
                    state.standing[number] = Standing::GivenUp;
                    state.passed[number] = true;
                    match verdict {
                        Verdict::Skipped => state.tally.skipped_by_hand += 1,
                        Verdict::Discarded => state.tally.discarded += 1,
                    }
                }
                Became::Cancelled if is_there && state.standing[number] == Standing::Open => {
                    state.noted[number] |= swept;
                    state.standing[number] = Standing::Cancelled;
                    state.tally.cancelled += 1;
                }
                Became::Held(hold) if hold.reason == Reason::Dead => state.passed[number] = true,
                _ => {}
            }
        }
        state.table.keep_books(changes);
        self.check(state);
        self.changed.notify_waiters();
        true
    }

    /// An event is SENT, held or given up if and only if it lies at or before the position; and no
    /// more are held than may be.
    fn check(&self, state: &State) {
        for number in 0..self.script.events.len() {
            let is_known = state.standing[number] != Standing::Open || state.table.has(number);
            assert_eq!(is_known, number < state.settled, "event {number}, at {}", state.settled);
        }
        let (count, bytes) = state.held();
        assert!(count <= self.most_held(), "{count} events are held");
        let most = self.flow.held.bytes;
        // The keys are counted once only.
        assert!(
            bytes <= most + 8 * count as u64 || count == 1,
            "{bytes} bytes are held, {most} may be"
        );
    }

    /// The server takes in a status update.
    pub(super) fn confirm(&self, lsn: Lsn) {
        self.look_at_kafka();
        let state = &mut *self.state.borrow_mut();
        if let Some(event) = self.script.events.get(state.settled) {
            let open = event.position.commit;
            assert!(lsn <= open, "{lsn} is confirmed, the event at {open} is not settled");
        }
        assert!(lsn <= state.confirmable, "{lsn} is confirmed, {} may be", state.confirmable);
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

    /// Whether the stream is to leave out what a sweep has seen to.
    pub(super) fn was_swept(&self, number: usize) -> bool {
        let state = self.state.borrow();
        let is_given_up = state.standing[number] == Standing::GivenUp;
        state.noted[number] || is_given_up || state.table.has(number)
    }

    /// How many events are held that are to go, are scheduled, and are dead.
    pub(super) fn held_counts(&self) -> (u64, u64, u64) {
        let state = self.state.borrow();
        let count = |reason: Reason| {
            let rows = state.table.rows.values().filter(|row| row.hold.reason == reason);
            rows.count() as u64
        };
        (state.held().0 as u64, count(Reason::Scheduled), count(Reason::Dead))
    }

    /// What operators want.
    pub(super) fn orders(&self) -> Orders {
        let state = self.state.borrow();
        let requested = state.table.rows.iter();
        let requests = requested
            .filter_map(|(ordinal, row)| Some((state.table.entry(*ordinal)?, row.request?)));
        Orders {
            paused: state.is_paused,
            paused_topics: state.paused_topics.iter().cloned().collect(),
            partitions: state
                .partitions
                .iter()
                .map(|(name, count)| (name.clone(), *count))
                .collect(),
            requests: requests.collect(),
        }
    }

    /// What a row of the outbox says now; nothing if it is gone.
    pub(super) fn row(&self, id: &str) -> Option<Row> {
        self.state.borrow().rows[self.script.number(id)].clone()
    }

    pub(super) fn remember_partitions(&self, epoch: i64, partitions: &[(String, i32)]) -> bool {
        let mut state = self.state.borrow_mut();
        if epoch == state.epoch {
            state.partitions.extend(partitions.iter().cloned());
        }
        epoch == state.epoch
    }

    /// Whether the place was still there: then the slot may be confirmed up to `lsn`.
    pub(super) fn allow_confirming(&self, epoch: i64, lsn: Lsn) -> bool {
        let mut state = self.state.borrow_mut();
        if epoch == state.epoch {
            state.confirmable = state.confirmable.max(lsn);
        }
        epoch == state.epoch
    }

    /// Tells the relay that operators want something.
    pub(super) fn notify(&self) {
        self.notices.send_modify(|notices| *notices += 1);
        self.changed.notify_waiters();
    }

    pub(super) fn tally(&self, count: impl FnOnce(&mut Tally)) {
        count(&mut self.state.borrow_mut().tally);
    }
}

/// One settle transaction.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) epoch: i64,
    pub(super) from: Position,
    pub(super) to: Position,
    pub(super) confirmable: Lsn,
    /// Its events that the stream brought.
    pub(super) stream: Range<usize>,
    pub(super) sent: Vec<usize>,
    /// Whether the stream may bring them again.
    pub(super) swept: bool,
    /// Those that were sent and had been scheduled.
    pub(super) came_due: Vec<usize>,
    pub(super) held: Vec<(usize, HeldEvent)>,
}

pub(super) fn millis(rng: &mut Rng, range: Range<u64>) -> Duration {
    Duration::from_millis(rng.u64(range))
}

/// The events of one key and topic are a lane; scheduled ones go when they are due.
#[expect(clippy::type_complexity, reason = "two tables, made at once")]
fn lanes(script: &Script) -> (Vec<Option<(usize, usize)>>, Vec<Vec<usize>>) {
    let mut members: Vec<Vec<usize>> = Vec::new();
    let mut by_key = std::collections::HashMap::new();
    let lanes = script.events.iter().enumerate().map(|(number, event)| {
        let row = &event.row;
        let (Some(topic), Some(key), None) = (&row.topic, &row.key, row.due) else {
            return None;
        };
        let lane = *by_key.entry((topic, key)).or_insert_with(|| {
            members.push(Vec::new());
            members.len() - 1
        });
        members[lane].push(number);
        Some((lane, members[lane].len() - 1))
    });
    let lanes = lanes.collect();
    (lanes, members)
}
