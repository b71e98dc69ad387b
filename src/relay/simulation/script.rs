//! What the applications wrote: transactions in the order of their commits, as the stream brings
//! them. What was rolled back is a gap between two positions and nothing else.

use std::time::Duration;

use fastrand::Rng;

use super::outbox::{OTHER_TABLE, Row};
use crate::ack::Moment;
use crate::lsn::{Lsn, Position};
use crate::pgoutput::encode;
use crate::relay::board::CLOCK_BEGINS_AT;

/// A row that was inserted as pending, by a transaction that committed.
#[derive(Debug)]
pub(super) struct Event {
    /// As it was inserted.
    pub(super) row: Row,
    pub(super) position: Position,
}

/// One that committed.
#[derive(Debug)]
pub(super) struct Transaction {
    /// Where its commit record starts, and where it ends.
    pub(super) begin: Lsn,
    pub(super) end: Lsn,
    /// When it committed, from the beginning of the history.
    pub(super) at: Duration,
    pub(super) messages: Vec<Message>,
}

/// One message of pgoutput.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) bytes: Vec<u8>,
    /// Whether the layouts have to be sent before it.
    pub(super) needs_layout: bool,
    /// The event that it brings.
    pub(super) event: Option<usize>,
}

/// Everything that was written, in the order of commits.
#[derive(Debug)]
pub(super) struct Script {
    pub(super) events: Vec<Event>,
    pub(super) transactions: Vec<Transaction>,
    pub(super) topics: usize,
    /// Whether some events are scheduled.
    schedules: bool,
}

impl Script {
    pub(super) fn new(rng: &mut Rng) -> Self {
        let mut script = Self {
            events: Vec::new(),
            transactions: Vec::new(),
            topics: rng.usize(1..4),
            schedules: rng.u8(..3) == 0,
        };
        let keys = [1, 2, 6, 40][rng.usize(..4)];
        let writes_for = if rng.u8(..3) == 0 { 0 } else { rng.u64(..15_000) };
        let count = rng.usize(1..25);
        let mut times: Vec<_> = (0..count).map(|_| rng.u64(..=writes_for)).collect();
        times.sort_unstable();
        // Some histories cross the place where the upper half of an LSN changes.
        let mut lsn = if rng.bool() { 0x15_4000 } else { 0xFFFF_F800 };
        for (xid, at) in (700..).zip(times) {
            if rng.bool() {
                // Other tables, other databases, and what was rolled back.
                lsn += rng.u64(1..400);
            }
            let rows = if rng.u8(..10) == 0 { rng.u32(20..80) } else { rng.u32(..6) };
            let begin = Lsn::from_wire(lsn + u64::from(rows) * 64);
            lsn = begin.to_wire() + 48;
            let end = Lsn::from_wire(lsn);
            let messages = script.messages(rng, keys, begin, end, xid, rows);
            let at = Duration::from_millis(at);
            script.transactions.push(Transaction { begin, end, at, messages });
        }
        script
    }

    fn messages(
        &mut self,
        rng: &mut Rng,
        keys: usize,
        begin: Lsn,
        end: Lsn,
        xid: u32,
        rows: u32,
    ) -> Vec<Message> {
        let plain = |bytes| Message { bytes, needs_layout: false, event: None };
        let mut messages = vec![plain(encode::begin(begin.to_wire(), 0, xid))];
        let mut index = 0;
        for row in 0..rows {
            // A row of the outbox has its place in the order whether it is published or not.
            match rng.u8(..12) {
                0 => {
                    let bytes = encode::insert(OTHER_TABLE, &[Some(b"x".as_slice())]);
                    messages.push(Message { bytes, needs_layout: true, event: None });
                }
                1 => messages.push(plain(vec![b'U', 0, 0, 0, 1])),
                2 => {
                    let id = format!("sent by hand {xid}.{row}");
                    let row = Row { id, ..Row::sent_by_hand() };
                    let bytes = row.insert();
                    messages.push(Message { bytes, needs_layout: true, event: None });
                    index += 1;
                }
                _ => {
                    let position = Position { commit: begin, index };
                    let event = self.event(rng, keys, position);
                    messages.push(event);
                    index += 1;
                }
            }
        }
        messages.push(plain(encode::commit(begin.to_wire(), end.to_wire(), 0)));
        messages
    }

    fn event(&mut self, rng: &mut Rng, keys: usize, position: Position) -> Message {
        let number = self.events.len();
        let pad = if rng.u8(..20) == 0 { rng.usize(..6_000) } else { rng.usize(..100) };
        let misfit = if rng.u8(..40) == 0 { rng.u8(..2) } else { u8::MAX };
        let row = Row {
            id: format!("event-{number}"),
            topic: (misfit != 0).then(|| format!("topic-{}", rng.usize(..self.topics))),
            key: (rng.u8(..16) != 0).then(|| format!("key-{}", rng.usize(..keys))),
            payload: format!("{{\"number\": {number}, \"pad\": \"{}\"}}", "-".repeat(pad)),
            due: (self.schedules && rng.u8(..6) == 0).then(|| match rng.u8(..12) {
                0 => Moment::MAX,
                _ => CLOCK_BEGINS_AT + rng.i64(0..30_000) * 1_000,
            }),
            max_attempts: (rng.u8(..6) == 0).then(|| rng.u32(1..4)),
            is_odd: misfit == 1,
            is_pending: true,
        };
        let bytes = row.insert();
        self.events.push(Event { row, position });
        Message { bytes, needs_layout: true, event: Some(number) }
    }

    /// The event of that id.
    pub(super) fn number(&self, id: &str) -> usize {
        let number = id.strip_prefix("event-").and_then(|number| number.parse().ok());
        let number = number.unwrap_or_else(|| panic!("\"{id}\" is no event that was committed"));
        assert!(number < self.events.len(), "event {number} was never written");
        number
    }

    /// The event of that id, if it is one.
    pub(super) fn find(&self, id: &str) -> Option<usize> {
        id.starts_with("event-").then(|| self.number(id))
    }

    /// Where the WAL ends.
    pub(super) fn end(&self) -> Lsn {
        self.transactions.last().map_or(Lsn::INVALID, |last| last.end)
    }
}
