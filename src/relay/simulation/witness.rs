//! What one session was seen to do. It has no part in it, and knows it from the session's edges
//! alone: what it read, handed over, was told, wrote and confirmed. What it hands over is looked at
//! in `deliveries`, what it writes in `books`.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use super::outbox::Row;
use super::world::World;
use crate::ack::{Ordinal, Seq};
use crate::lsn::{Lsn, Position};
use crate::postgres::Feedback;
use crate::relay::{End, Fate};

/// How far an event is within a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    Read,
    UnderWay(Seq),
    /// It came back, for a reason of its own or not.
    Failed(Seq),
    Delivered,
}

impl Progress {
    /// Whether Kafka may have it.
    pub(super) fn may_be_there(self) -> bool {
        matches!(self, Progress::UnderWay(_) | Progress::Delivered)
    }
}

/// What a session did with a held event.
#[derive(Debug, Clone, Copy)]
pub(super) struct HeldProgress {
    pub(super) number: usize,
    pub(super) progress: Progress,
    /// Whether it went as a dead letter, and in a batch of its own.
    pub(super) is_letter: bool,
    pub(super) alone: bool,
    /// Whether the dead letter was refused with its value.
    pub(super) was_refused_whole: bool,
}

/// What a session has seen and done.
#[derive(Default)]
pub(super) struct Seen {
    /// Events that the stream brought.
    pub(super) read: usize,
    /// Per event of the fast way that is not settled, how far it is.
    pub(super) progress: BTreeMap<usize, Progress>,
    /// The records of the fast way, by number.
    pub(super) seqs: HashMap<Seq, usize>,
    pub(super) alone: HashSet<Seq>,
    /// Refused in a batch with others: from then on they go alone.
    pub(super) suspects: HashSet<Seq>,
    /// What the rows of scheduled events said that were due, and which of them are not to go.
    pub(super) due: HashMap<usize, Row>,
    pub(super) not_due: HashMap<usize, Option<Row>>,
    pub(super) held: BTreeMap<Ordinal, HeldProgress>,
    /// Attempts that failed for the event's own sake and are not written yet, by event; and how
    /// many were written of those held.
    pub(super) blamed: HashMap<usize, u32>,
    pub(super) attempts: HashMap<Ordinal, u32>,
    /// What it was told of topics, and by operators.
    pub(super) partitions: HashMap<String, i32>,
    pub(super) known_partitions: HashMap<String, i32>,
    pub(super) paused_topics: HashSet<String>,
    pub(super) is_paused: bool,
}

/// The witness of one session.
pub(super) struct Witness {
    pub(super) world: Rc<World>,
    pub(super) epoch: i64,
    pub(super) position: Position,
    /// The first event that was not settled when the session began.
    pub(super) first: usize,
    pub(super) seen: RefCell<Seen>,
    /// How many of them the session was told to be settled.
    pub(super) settled: Cell<usize>,
    /// How far the stream was taken, and the last whole transaction.
    brought: Cell<Lsn>,
    last_commit: Cell<Lsn>,
    last: Cell<Option<Feedback>>,
    pub(super) heard_at: Cell<Instant>,
    asked_at: Cell<Option<Instant>>,
    /// Since when there has been a record that was refused as it was handed over.
    pub(super) refused_at: Cell<Option<Instant>>,
    /// When another relay took over without this one knowing.
    pub(super) replaced_at: Cell<Option<Instant>>,
    /// The first reason to end that it was given.
    failed_at: Cell<Option<Instant>>,
    is_fenced: Cell<bool>,
    pub(super) is_puzzled: Cell<bool>,
    /// Until when it has to end.
    pub(super) deadline: Cell<Option<Instant>>,
    /// When it had loaded what is held: before, it does not stop.
    pub(super) loaded_at: Cell<Option<Instant>>,
}

/// An ending takes no longer than this.
pub(super) const PROMPT: Duration = Duration::from_millis(500);

impl Witness {
    pub(super) fn new(world: &Rc<World>) -> Rc<Self> {
        let (epoch, position) = world.take_place();
        let first = world.state.borrow().settled;
        world.tally(|tally| tally.sessions += 1);
        Rc::new(Self {
            world: Rc::clone(world),
            epoch,
            position,
            first,
            seen: RefCell::default(),
            settled: Cell::new(0),
            brought: Cell::new(Lsn::INVALID),
            last_commit: Cell::new(Lsn::INVALID),
            last: Cell::new(None),
            heard_at: Cell::new(Instant::now()),
            asked_at: Cell::new(None),
            refused_at: Cell::new(None),
            replaced_at: Cell::new(None),
            failed_at: Cell::new(None),
            is_fenced: Cell::new(false),
            is_puzzled: Cell::new(false),
            deadline: Cell::new(None),
            loaded_at: Cell::new(None),
        })
    }

    /// Whether it still has the place: then what is stored is its own doing.
    pub(super) fn has_place(&self) -> bool {
        self.world.state.borrow().epoch == self.epoch
    }

    /// It is given a reason to end, and does nothing else from then on.
    pub(super) fn fails(&self) {
        if self.failed_at.get().is_none() {
            self.failed_at.set(Some(Instant::now()));
        }
    }

    pub(super) fn is_fenced(&self) {
        self.is_fenced.set(true);
        self.world.tally(|tally| tally.fenced += 1);
    }

    pub(super) fn acts(&self) {
        assert!(!self.is_fenced.get(), "it goes on, told that its place is lost");
        assert!(!self.is_puzzled.get(), "it goes on, told what it cannot know");
        assert!(self.failed_at.get().is_none(), "it goes on, told that it cannot");
    }

    /// It begins to follow the stream.
    pub(super) fn has_loaded(&self) {
        self.loaded_at.set(Some(Instant::now()));
        self.heard_at.set(Instant::now());
    }

    /// The stream's next message is an event of `bytes` on the wire.
    pub(super) fn reads(&self, number: usize, bytes: usize) {
        let seen = &mut *self.seen.borrow_mut();
        if number < self.first {
            self.world.tally(|tally| tally.skipped += 1);
            return;
        }
        assert!(!seen.is_paused, "it reads on, told to pause");
        assert_eq!(number, self.first + seen.read, "the script skips an event");
        let open = self.open(seen);
        let limits = self.world.flow.limits;
        // One without its place leaves out what its successor has seen to: then what is open is not
        // what was read.
        let has_place = self.has_place();
        let is_in_bounds = open.len() < limits.events || !has_place;
        assert!(is_in_bounds, "more events are open than the window has room for");
        let is_full = open.len() + 1 == limits.events;
        let waits = |number: &usize| {
            let row = &self.world.script.events[*number].row;
            let progress = seen.progress.get(number);
            row.due.is_none() && progress.is_some_and(|p| *p != Progress::Delivered)
        };
        let payload = |number: usize| self.world.script.events[number].row.payload.len() + 256;
        let open: usize = open.filter(waits).map(payload).sum();
        let fits = open == 0 || (open + bytes) as u64 <= limits.bytes || !has_place;
        assert!(fits, "{open} and {bytes} bytes are open, {} may be", limits.bytes);
        seen.progress.insert(number, Progress::Read);
        seen.read += 1;
        self.world.tally(|tally| tally.full_windows += u64::from(is_full));
    }

    pub(super) fn brings(&self, lsn: Lsn, is_commit: bool) {
        self.brought.set(self.brought.get().max(lsn));
        if is_commit {
            self.last_commit.set(lsn);
        }
    }

    pub(super) fn is_asked(&self) {
        self.asked_at.set(self.asked_at.get().or(Some(Instant::now())));
    }

    /// Events that are read and not known to be settled.
    fn open(&self, seen: &Seen) -> Range<usize> {
        self.first + self.settled.get()..self.first + seen.read
    }

    /// It tells the server how far it is. The server hangs up on those who are silent.
    pub(super) fn feeds_back(&self, feedback: Feedback, sender_timeout: Option<Duration>) {
        self.acts();
        let now = Instant::now();
        let patience = sender_timeout.map_or(Duration::from_secs(15), |timeout| timeout / 2);
        assert!(now - self.heard_at.get() <= patience, "silent for longer than the server waits");
        let asked_at = self.asked_at.take().unwrap_or(now);
        assert!(now - asked_at <= PROMPT, "the server asked, and was not answered");
        self.heard_at.set(now);
        let Feedback { received, confirmed, .. } = feedback;
        assert!(confirmed <= received, "{confirmed} is confirmed, {received} received");
        assert!(received <= self.brought.get(), "{received} was not brought by this stream");
        if let Some(last) = self.last.replace(Some(feedback)) {
            assert!(confirmed >= last.confirmed && received >= last.received, "feedback goes back");
        }
    }

    /// The session is over, for a reason that it was given.
    pub(super) fn ends(&self, end: &End) {
        let now = Instant::now();
        match end {
            End::Stopped { drained } => {
                let deadline = self.deadline.get().expect("it stops, and nobody asked");
                let deadline = deadline.max(self.loaded_at.get().unwrap_or(deadline));
                assert!(now <= deadline + PROMPT, "it stops after its grace");
                let world = &self.world;
                world.tally(
                    |tally| if *drained { tally.drained += 1 } else { tally.undrained += 1 },
                );
                if *drained {
                    self.is_drained();
                } else {
                    let is_early = now < deadline && self.failed_at.get().is_none();
                    assert!(!is_early, "it does not drain, and has time");
                    let has_room = !world.is_full();
                    // Nothing was wrong for long enough.
                    let had_time = deadline >= world.calm_at + Duration::from_secs(60);
                    let is_well = world.is_calm || had_time && self.has_place();
                    let (held, progress) =
                        (world.state.borrow().held(), &self.seen.borrow().progress);
                    assert!(
                        !is_well || !has_room || self.failed_at.get().is_some(),
                        "a stop had time, and did not drain: {held:?} of {:?}; {progress:?}",
                        world.flow.held
                    );
                }
            }
            End::Failed(Fate::Reconnect(failure)) => {
                let failed_at = self.failed_at.get();
                let failed_at = failed_at.unwrap_or_else(|| panic!("no reason for {failure}"));
                assert!(now - failed_at <= PROMPT, "it goes on without a connection");
                self.world.tally(|tally| tally.reconnects += 1);
            }
            End::Failed(Fate::StandBy(_)) => {
                assert!(self.is_fenced.get(), "it stands by, and has the place");
                self.world.tally(|tally| tally.stood_by += 1);
            }
            End::Failed(Fate::Halt(failure)) => {
                assert!(self.is_puzzled.get(), "it halts: {failure}");
                self.world.tally(|tally| tally.halts += 1);
            }
        }
        self.is_over();
    }

    /// Nothing that it did can come again.
    fn is_drained(&self) {
        let seen = self.seen.borrow();
        assert_eq!(self.open(&seen).len(), 0, "drained, with open events");
        let open = seen.progress.values().filter(|progress| **progress != Progress::Read);
        assert_eq!(open.count(), 0, "drained, and not settled: {:?}", seen.progress);
        let state = self.world.state.borrow();
        assert!(state.confirmed >= self.last_commit.get(), "drained, and not confirmed");
        for (ordinal, held) in &seen.held {
            assert!(!self.can_repeat(*ordinal, held), "drained, with {held:?} not redeemed");
        }
    }

    /// Whether a held event that may be in Kafka goes again.
    fn can_repeat(&self, ordinal: Ordinal, held: &HeldProgress) -> bool {
        let state = self.world.state.borrow();
        let row = state.table.rows.get(&ordinal);
        held.progress.may_be_there() && row.is_some_and(super::table::HeldRow::is_to_go)
    }

    /// The session is over, whyever. What it had under way can come again.
    pub(super) fn is_over(&self) {
        let seen = self.seen.borrow();
        let fast = seen.progress.values().filter(|progress| progress.may_be_there()).count();
        assert!(fast <= self.world.flow.limits.events, "more than a window can come again");
        let held = seen.held.values().filter(|held| held.progress.may_be_there()).count();
        self.world.state.borrow_mut().excused += (fast + held) as u64;
    }
}
