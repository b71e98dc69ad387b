//! The window: everything that was read and is not settled, bounded by count and by bytes.

use super::gate::{Entrance, Entry, Gate};
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

/// The events between reading and settling.
#[derive(Debug)]
pub struct Window {
    limits: Limits,
    tracker: Tracker,
    gate: Gate,
    slots: Ring<Slot>,
    bytes: u64,
    unacked: u64,
    /// Events that are to be held, up to those that are not settled.
    held: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    lane: Option<Lane>,
    bytes: u32,
    /// Whether nothing enters the lane before it is through.
    blocks: bool,
    held: bool,
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
            held: 0,
        }
    }

    /// Whether an event of `bytes` may be read.
    pub fn has_room(&self, bytes: u64) -> bool {
        self.tracker.open() < self.limits.events as u64
            && (self.bytes == 0 || self.bytes.saturating_add(bytes) <= self.limits.bytes)
    }

    /// Takes on an event, before it enters any queue, and says what becomes of it. Without a
    /// `lane` it has no order to keep.
    pub fn admit(
        &mut self,
        position: Position,
        lane: Option<Lane>,
        bytes: u32,
        entrance: Entrance,
    ) -> (Seq, Entry) {
        let seq = self.tracker.track(position);
        self.slots.set(seq, Slot { lane, bytes, blocks: false, held: false });
        self.bytes += u64::from(bytes);
        self.unacked += 1;
        let entry = match (lane, entrance) {
            (Some(lane), entrance) => self.gate.enter(lane, seq, entrance),
            (None, Entrance::Held) => Entry::Held,
            (None, Entrance::Usual | Entrance::Joining) => Entry::Goes,
        };
        (seq, entry)
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

    /// An event that was to go is to be held. Those that wait behind it are too, and are added to
    /// `parked`, in order. [`Window::hold`] has to follow for each.
    pub fn set_aside(&mut self, seq: Seq, parked: &mut Vec<Seq>) {
        let slot = self.slots.get(seq);
        if !self.tracker.is_outstanding(seq) {
            return;
        }
        self.slots.set(seq, Slot { blocks: false, ..slot });
        if let Some(lane) = slot.lane {
            self.gate.set_aside(lane, slot.blocks, parked);
        }
    }

    /// The lane's held events do not go on for now: who joined it is to be held as well, and is
    /// added to `parked`, in order. [`Window::hold`] has to follow for each.
    pub fn park(&mut self, lane: Lane, parked: &mut Vec<Seq>) {
        self.gate.park(lane, parked);
    }

    /// The first event that is neither acknowledged nor held. To be held, an event waits until it
    /// is this one: it could not be settled earlier, and would take up room meanwhile.
    pub fn first_outstanding(&self) -> Seq {
        self.tracker.resolved()
    }

    /// The event is held as soon as it is settled: its bytes stay in memory until then.
    pub fn hold(&mut self, seq: Seq) {
        if !self.tracker.is_outstanding(seq) {
            return;
        }
        self.tracker.resolve(seq);
        let slot = self.slots.get(seq);
        self.slots.set(seq, Slot { held: true, ..slot });
        self.unacked -= 1;
        self.held += 1;
    }

    /// An earlier session held an event of the lane.
    pub fn close(&mut self, lane: Lane) {
        self.gate.close(lane);
    }

    /// A held event of the lane is through. Adds to `go` those that may go now.
    pub fn release(&mut self, lane: Lane, go: &mut Vec<Seq>) {
        self.gate.release(lane, go);
    }

    /// The lane of an event that is open.
    pub fn lane(&self, seq: Seq) -> Option<Lane> {
        self.slots.get(seq).lane
    }

    /// The position of an event that is open.
    pub fn position(&self, seq: Seq) -> Position {
        self.tracker.position(seq)
    }

    /// The position of the event that was read last; none if all are settled.
    pub fn last_position(&self) -> Option<Position> {
        self.tracker.last_position()
    }

    /// The run of at most `limit` events that may be settled now.
    pub fn prefix(&self, limit: u64) -> Option<Prefix> {
        self.tracker.prefix(limit)
    }

    /// The statuses of every event before `until`, and the position, are durable.
    pub fn settle(&mut self, until: Seq) {
        if self.held > 0 {
            for seq in self.tracker.settled()..until {
                let slot = self.slots.get(seq);
                if slot.held {
                    self.held -= 1;
                    self.bytes -= u64::from(slot.bytes);
                }
            }
        }
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

    /// What [`Window::watermark`] will be at least once `prefix` is settled.
    pub fn watermark_after(&self, prefix: &Prefix) -> Lsn {
        self.tracker.watermark_after(prefix.until)
    }

    /// Events that were read and are not settled.
    pub fn open(&self) -> u64 {
        self.tracker.open()
    }

    /// Events that were read and are neither acknowledged nor to be held.
    pub fn unacked(&self) -> u64 {
        self.unacked
    }

    /// Bytes of the events that are neither acknowledged nor held.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { events: 4, bytes: 100, per_key: 1 };

    fn at(index: u32) -> Position {
        Position { commit: Lsn::from_wire(1), index }
    }

    fn admit(window: &mut Window, index: u32, lane: Option<Lane>, bytes: u32) -> Seq {
        window.admit(at(index), lane, bytes, Entrance::Usual).0
    }

    #[test]
    fn an_event_larger_than_the_budget_goes_alone() {
        let mut window = Window::new(LIMITS);
        assert!(window.has_room(1_000));
        let large = admit(&mut window, 0, None, 1_000);
        assert!(!window.has_room(1));
        window.ack(large, &mut Vec::new());
        assert!(window.has_room(1));
    }

    #[test]
    fn room_comes_back_for_bytes_with_the_ack_for_events_with_the_status() {
        let mut window = Window::new(LIMITS);
        for index in 0..4 {
            assert!(window.has_room(25));
            admit(&mut window, index, None, 25);
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
    fn a_held_event_takes_up_memory_until_it_is_settled_and_holds_back_nobody_else() {
        let mut window = Window::new(LIMITS);
        let poison = admit(&mut window, 0, Some(Lane(7)), 60);
        let behind = admit(&mut window, 1, Some(Lane(7)), 30);
        let mut parked = Vec::new();
        window.set_aside(poison, &mut parked);
        assert_eq!(parked, [behind]);
        for seq in [poison, behind] {
            window.hold(seq);
        }
        assert_eq!((window.bytes(), window.unacked(), window.has_room(20)), (90, 0, false));
        window.settle(window.prefix(1).unwrap().until);
        assert_eq!(window.bytes(), 30);
        assert_eq!(window.admit(at(2), Some(Lane(7)), 1, Entrance::Usual).1, Entry::Held);
    }

    #[test]
    fn a_second_report_of_an_event_changes_nothing() {
        let mut window = Window::new(LIMITS);
        let lane = Some(Lane(7));
        let first = admit(&mut window, 0, lane, 1);
        admit(&mut window, 1, lane, 1);
        let mut go = Vec::new();
        window.ack(first, &mut go);
        window.ack(first, &mut go);
        window.hold_back(first);
        window.hold(first);
        assert_eq!((go.as_slice(), window.bytes()), ([1].as_slice(), 1));
    }
}
