//! The window: everything that was read and is not settled, bounded by count and by bytes.

use super::gate::Gate;
use super::ring::Ring;
use super::tracker::{Prefix, Tracker};
use super::{Lane, Seq};
use crate::lsn::{Lsn, Position};

/// What may be open at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Events that were read and are not settled.
    pub events: usize,
    /// Bytes of events that were read and are not acknowledged. One event may be larger; it then
    /// goes alone.
    pub bytes: u64,
    /// Events of one key that are in flight.
    pub per_key: u32,
}

/// What became of an event that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admitted {
    /// Its number.
    pub seq: Seq,
    /// Whether it goes now. If not, an [`Window::ack`] will name it later.
    pub goes: bool,
}

/// The events between reading and settling.
#[derive(Debug)]
pub struct Window {
    limits: Limits,
    tracker: Tracker,
    gate: Gate,
    slots: Ring<Slot>,
    bytes: u64,
    unacked: u64,
    refused: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    lane: Option<Lane>,
    bytes: u32,
    /// Whether nothing enters the lane before it is through.
    blocks: bool,
    refused: bool,
}

impl Window {
    /// An empty window.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            tracker: Tracker::new(limits.events),
            gate: Gate::new(limits.per_key, limits.events),
            slots: Ring::new(limits.events),
            bytes: 0,
            unacked: 0,
            refused: 0,
        }
    }

    /// Whether an event of `bytes` may be read.
    pub fn has_room(&self, bytes: u64) -> bool {
        self.tracker.open() < self.limits.events as u64
            && (self.bytes == 0 || self.bytes.saturating_add(bytes) <= self.limits.bytes)
    }

    /// Takes on an event, before it enters any queue. Without a `lane` it has no order to keep.
    pub fn admit(&mut self, position: Position, lane: Option<Lane>, bytes: u32) -> Admitted {
        let seq = self.tracker.track(position);
        self.slots.set(seq, Slot { lane, bytes, blocks: false, refused: false });
        self.bytes += u64::from(bytes);
        self.unacked += 1;
        let goes = lane.is_none_or(|lane| self.gate.enter(lane, seq));
        Admitted { seq, goes }
    }

    /// Kafka has the event. Adds to `go` those that may go now; reports of an event that is
    /// through already change nothing.
    pub fn ack(&mut self, seq: Seq, go: &mut Vec<Seq>) {
        if !self.tracker.is_outstanding(seq) {
            return;
        }
        self.tracker.resolve(seq);
        let slot = self.slots.get(seq);
        self.bytes -= u64::from(slot.bytes);
        self.unacked -= 1;
        self.refused -= u64::from(slot.refused);
        if let Some(lane) = slot.lane {
            self.gate.leave(lane, slot.blocks, go);
        }
    }

    /// The event did not arrive, for no reason of its own. It stays open, nothing more of its key
    /// goes before it, and it is the caller's to send again.
    pub fn hold_back(&mut self, seq: Seq) {
        let slot = self.slots.get(seq);
        if !self.tracker.is_outstanding(seq) || slot.blocks {
            return;
        }
        self.slots.set(seq, Slot { blocks: true, ..slot });
        if let Some(lane) = slot.lane {
            self.gate.block(lane);
        }
    }

    /// Kafka refused the event for what it is. It is held back, and counted.
    pub fn refuse(&mut self, seq: Seq) {
        self.hold_back(seq);
        let slot = self.slots.get(seq);
        if !self.tracker.is_outstanding(seq) || slot.refused {
            return;
        }
        self.slots.set(seq, Slot { refused: true, ..slot });
        self.refused += 1;
    }

    /// The run of at most `limit` events that may be settled now.
    pub fn prefix(&self, limit: u64) -> Option<Prefix> {
        self.tracker.prefix(limit)
    }

    /// The statuses of every event before `until`, and the position, are durable.
    pub fn settle(&mut self, until: Seq) {
        self.tracker.settle(until);
    }

    /// A place between transactions: everything read so far lies before `lsn`.
    pub fn fence(&mut self, lsn: Lsn) {
        self.tracker.fence(lsn);
    }

    /// The highest LSN before which everything is settled: what may be confirmed. Never goes
    /// down.
    pub fn watermark(&self) -> Lsn {
        self.tracker.watermark()
    }

    /// Events that were read and are not settled.
    pub fn open(&self) -> u64 {
        self.tracker.open()
    }

    /// Events that were read and are not acknowledged.
    pub fn unacked(&self) -> u64 {
        self.unacked
    }

    /// Bytes of the events that are not acknowledged.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Events that Kafka refused and that wait to be sent again.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// Keys that wait for a refused event.
    pub fn blocked_keys(&self) -> usize {
        self.gate.blocked()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { events: 4, bytes: 100, per_key: 1 };

    fn at(index: u32) -> Position {
        Position { commit: Lsn::from_wire(1), index }
    }

    #[test]
    fn an_event_larger_than_the_budget_goes_alone() {
        let mut window = Window::new(LIMITS);
        assert!(window.has_room(1_000));
        let large = window.admit(at(0), None, 1_000);
        assert!(!window.has_room(1));
        window.ack(large.seq, &mut Vec::new());
        assert!(window.has_room(1));
    }

    #[test]
    fn room_comes_back_for_bytes_with_the_ack_for_events_with_the_status() {
        let mut window = Window::new(LIMITS);
        for index in 0..4 {
            assert!(window.has_room(25));
            window.admit(at(index), None, 25);
        }
        assert!(!window.has_room(1), "both budgets are used up");
        for seq in 0..4 {
            window.ack(seq, &mut Vec::new());
        }
        assert_eq!(window.bytes(), 0);
        assert!(!window.has_room(1), "nothing is settled");
        window.settle(window.prefix(1).unwrap().until);
        assert!(window.has_room(1));
    }

    #[test]
    fn a_second_report_of_an_event_changes_nothing() {
        let mut window = Window::new(LIMITS);
        let lane = Some(Lane(7));
        let first = window.admit(at(0), lane, 1);
        window.admit(at(1), lane, 1);
        let mut go = Vec::new();
        window.ack(first.seq, &mut go);
        window.ack(first.seq, &mut go);
        window.refuse(first.seq);
        assert_eq!((go.as_slice(), window.refused(), window.bytes()), ([1].as_slice(), 0, 1));
    }
}
