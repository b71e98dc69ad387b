//! What one session was seen to do. It has no part in it, and knows it from the session's edges
//! alone: what it read, handed over, was told, wrote and confirmed.

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use super::world::{Change, World};
use crate::ack::Seq;
use crate::lsn::{Lsn, Position};
use crate::postgres::Feedback;
use crate::relay::{End, Fate};
use crate::sink::memory::MISREPORTED;
use crate::sink::{Record, Report, SinkError};
use crate::status::Batch;

/// How far an event is within a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    Read,
    UnderWay,
    Delivered,
}

/// The witness of one session.
pub(super) struct Witness {
    pub(super) world: Rc<World>,
    pub(super) epoch: i64,
    pub(super) position: Position,
    /// The first event that was not settled when the session began: its number 0.
    pub(super) first: usize,
    progress: RefCell<Vec<Progress>>,
    /// How many of them are durably settled, and for how many the session was told so.
    durable: Cell<usize>,
    settled: Cell<usize>,
    /// How far the stream was taken, and the last whole transaction.
    brought: Cell<Lsn>,
    last_commit: Cell<Lsn>,
    last: Cell<Option<Feedback>>,
    heard_at: Cell<Instant>,
    asked_at: Cell<Option<Instant>>,
    /// Since when there has been a record that was refused as it was handed over.
    refused_at: Cell<Option<Instant>>,
    /// When another relay took over without this one knowing.
    pub(super) replaced_at: Cell<Option<Instant>>,
    /// The first reason to end that it was given.
    failed_at: Cell<Option<Instant>>,
    is_fenced: Cell<bool>,
    is_puzzled: Cell<bool>,
    /// Until when it has to end.
    pub(super) deadline: Cell<Option<Instant>>,
}

/// An ending takes no longer than this.
const PROMPT: Duration = Duration::from_millis(500);

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
            progress: RefCell::default(),
            durable: Cell::new(0),
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
        })
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

    fn acts(&self) {
        assert!(!self.is_fenced.get(), "it goes on, told that its place is lost");
        assert!(!self.is_puzzled.get(), "it goes on, told what it cannot know");
        assert!(self.failed_at.get().is_none(), "it goes on, told that it cannot");
    }

    /// The stream's next message is an event of `bytes` on the wire.
    pub(super) fn reads(&self, number: usize, bytes: usize) {
        let mut progress = self.progress.borrow_mut();
        if number < self.first {
            self.world.tally(|tally| tally.skipped += 1);
            return;
        }
        assert_eq!(number, self.first + progress.len(), "the script skips an event");
        let Range { start, end } = self.settled.get()..progress.len();
        let limits = self.world.limits;
        assert!(end - start < limits.events, "more events are open than the window has room for");
        let is_open = |seq: &usize| progress[*seq] != Progress::Delivered;
        let payload = |seq: usize| self.world.script.events[self.first + seq].payload.len() + 256;
        let open: usize = (start..end).filter(is_open).map(payload).sum();
        let fits = open == 0 || (open + bytes) as u64 <= limits.bytes;
        assert!(fits, "{open} and {bytes} bytes are open, {} may be", limits.bytes);
        progress.push(Progress::Read);
        let is_full = end + 1 - start == limits.events;
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
    pub(super) fn open(&self) -> Range<usize> {
        self.first + self.settled.get()..self.first + self.progress.borrow().len()
    }

    pub(super) fn is_delivered(&self, number: usize) -> bool {
        self.progress.borrow()[number - self.first] == Progress::Delivered
    }

    /// It handed a record over.
    pub(super) fn hands_over(&self, seq: Seq, record: &Record<'_>) {
        self.acts();
        let mut progress = self.progress.borrow_mut();
        let seq = usize::try_from(seq).unwrap();
        let number = self.world.script.number(record.headers.get("event_id").unwrap());
        assert_eq!(number, self.first + seq, "a record has the number of another event");
        assert_eq!(progress[seq], Progress::Read, "event {number} is handed over twice");
        let events = &self.world.script.events;
        let lane = |number: usize| (&events[number].topic, &events[number].key);
        let per_key = usize::try_from(self.world.limits.per_key).unwrap();
        let mut room = per_key;
        for earlier in (self.settled.get()..seq).filter(|_| record.key.is_some()) {
            if lane(self.first + earlier) == lane(number) {
                assert_ne!(progress[earlier], Progress::Read, "event {number} leaves one behind");
                room -= usize::from(progress[earlier] == Progress::UnderWay);
                assert!(room > 0, "more than {per_key} events of a key are under way");
            }
        }
        progress[seq] = Progress::UnderWay;
    }

    /// A record was refused at once: nobody will report it.
    pub(super) fn is_refused(&self) {
        self.refused_at.set(self.refused_at.get().or(Some(Instant::now())));
    }

    /// It is told what became of records.
    pub(super) fn hears(&self, delivered: &[Seq], reports: &[Report]) {
        let now = Instant::now();
        let refused_at = self.refused_at.take().unwrap_or(now);
        assert!(now - refused_at <= PROMPT, "it sleeps over a record that was refused");
        let mut progress = self.progress.borrow_mut();
        for seq in delivered {
            progress[usize::try_from(*seq).unwrap()] = Progress::Delivered;
        }
        for report in reports {
            match report {
                Report::Failed { seq, error, .. } => {
                    progress[usize::try_from(*seq).unwrap()] = Progress::Read;
                    let state = &mut *self.world.state.borrow_mut();
                    match error {
                        SinkError::Unknown(_) => {
                            state.excused += 1;
                            self.is_puzzled.set(true);
                        }
                        SinkError::Unavailable(text) => {
                            state.tally.unavailable += 1;
                            state.excused += u64::from(text == MISREPORTED);
                        }
                        SinkError::Refused(_) => state.tally.refusals += 1,
                        _ => state.tally.topics_away += 1,
                    }
                }
                Report::Topic { result: Err(_), .. } => {
                    self.world.tally(|tally| tally.topics_away += 1);
                }
                Report::Fatal(_) => self.fails(),
                Report::Topic { .. } | Report::Reachable(_) => {}
            }
        }
    }

    /// It settles a run: every event of it was acknowledged, to this very session.
    pub(super) fn settles(&self, batch: &Batch) -> Change {
        self.acts();
        let numbers = batch.events.iter().map(|id| self.world.script.number(id));
        let numbers: Vec<_> = numbers.collect();
        let start = self.first + self.settled.get();
        assert!(numbers.iter().copied().eq(start..start + numbers.len()), "settled: {numbers:?}");
        for number in &numbers {
            assert!(self.is_delivered(*number), "event {number} is settled before its ack");
        }
        let events = start..start + numbers.len();
        Change { epoch: self.epoch, from: batch.from, to: batch.to, events }
    }

    pub(super) fn has_settled(&self, count: usize) {
        self.durable.set(self.durable.get() + count);
    }

    pub(super) fn hears_of_settled(&self, count: usize) {
        self.settled.set(self.settled.get() + count);
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
                assert!(now <= deadline + PROMPT, "it stops after its grace");
                let world = &self.world;
                world.tally(
                    |tally| if *drained { tally.drained += 1 } else { tally.undrained += 1 },
                );
                if *drained {
                    assert_eq!(self.open().len(), 0, "drained, with open events");
                    let confirmed = world.state.borrow().confirmed;
                    assert!(confirmed >= self.last_commit.get(), "drained, and not confirmed");
                } else {
                    let is_early = now < deadline && self.failed_at.get().is_none();
                    assert!(!is_early, "it does not drain, and has time");
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

    /// The session is over, whyever. What it had under way can come again.
    pub(super) fn is_over(&self) {
        let progress = self.progress.borrow();
        let open = &progress[self.durable.get()..];
        let repeats = open.iter().filter(|progress| **progress != Progress::Read).count();
        assert!(repeats <= self.world.limits.events, "more than a window can come again");
        self.world.state.borrow_mut().excused += repeats as u64;
    }
}
