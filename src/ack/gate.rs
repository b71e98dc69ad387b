//! Order per key while events are in flight: a lane per (topic, key), with room for a few.
//!
//! With room for one, which is the default, the next event of a key is handed to Kafka only when
//! the one before it was acknowledged. Nothing then depends on what the client does about order
//! when a record is refused, on any partition (docs/adr/0003).
//!
//! A lane with a held event is closed: its later events are held as well (they are parked), or,
//! for the end of the held phase, they join the queue and wait in memory until it is over.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use super::ring::Ring;
use super::{Lane, Seq};

/// The lanes that have an event in flight or waiting.
#[derive(Debug)]
pub(super) struct Gate {
    room: u32,
    lanes: HashMap<Lane, Queue, BuildHasherDefault<AlreadyHashed>>,
    /// For a waiting event, the one that waits behind it in its lane.
    behind: Ring<Seq>,
}

/// A lane is a hash already; hashing it again would show in a profile.
#[derive(Debug, Default)]
struct AlreadyHashed(u64);

impl Hasher for AlreadyHashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        // A lane is one number; anything else is only slower.
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }
}

/// How an event comes to its lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entrance {
    /// From the reader.
    Usual,
    /// From the reader, while the lane's last held events go: it waits for them.
    Joining,
    /// To be held whatever the lane is like.
    Held,
}

/// What becomes of an event that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// It goes now.
    Goes,
    /// It waits for those before it.
    Waits,
    /// It is to be held.
    Held,
}

#[derive(Debug, Default)]
struct Queue {
    in_flight: u32,
    /// Events that have to be sent again: nothing enters the lane before they are through.
    blocking: u32,
    /// Events that are held, or will be: the lane is closed.
    held: u32,
    /// First and last of the waiting events.
    waiting: Option<(Seq, Seq)>,
}

impl Gate {
    /// `room`: how many events of one lane may be in flight, at least 1. `capacity`: how many
    /// events can be open in all.
    pub(super) fn new(room: u32, capacity: usize) -> Self {
        Self { room: room.max(1), lanes: HashMap::default(), behind: Ring::new(capacity) }
    }

    /// What becomes of `seq`, which comes to the lane by this `entrance`.
    pub(super) fn enter(&mut self, lane: Lane, seq: Seq, entrance: Entrance) -> Entry {
        let queue = self.lanes.entry(lane).or_default();
        let is_closed = queue.held > 0 && entrance != Entrance::Joining;
        match &mut queue.waiting {
            // Whatever waits was first.
            Some((_, last)) => {
                self.behind.set(*last, seq);
                *last = seq;
                Entry::Waits
            }
            None if is_closed || entrance == Entrance::Held => {
                queue.held += 1;
                Entry::Held
            }
            None if queue.held == 0 && queue.blocking == 0 && queue.in_flight < self.room => {
                queue.in_flight += 1;
                Entry::Goes
            }
            waiting @ None => {
                *waiting = Some((seq, seq));
                Entry::Waits
            }
        }
    }

    /// An event of the lane did not arrive: it stays where it is, and nothing else enters.
    pub(super) fn block(&mut self, lane: Lane) {
        if let Some(queue) = self.lanes.get_mut(&lane) {
            queue.blocking += 1;
        }
    }

    /// An event of the lane is through, after it `was_blocking` or not. Adds to `go` those that
    /// may go now.
    pub(super) fn leave(&mut self, lane: Lane, was_blocking: bool, go: &mut Vec<Seq>) {
        let Some(queue) = self.lanes.get_mut(&lane) else {
            return;
        };
        queue.in_flight = queue.in_flight.saturating_sub(1);
        queue.blocking = queue.blocking.saturating_sub(u32::from(was_blocking));
        self.open(lane, go);
    }

    /// An event that was through the gate will be held, after it `was_blocking` or not. Those
    /// that wait behind it will be too: they are added to `parked`, in order.
    pub(super) fn set_aside(&mut self, lane: Lane, was_blocking: bool, parked: &mut Vec<Seq>) {
        let queue = self.lanes.entry(lane).or_default();
        queue.in_flight = queue.in_flight.saturating_sub(1);
        queue.blocking = queue.blocking.saturating_sub(u32::from(was_blocking));
        queue.held += 1;
        self.park(lane, parked);
    }

    /// Those that wait in the lane, and joined it while it was about to open, will be held.
    pub(super) fn park(&mut self, lane: Lane, parked: &mut Vec<Seq>) {
        let Some(queue) = self.lanes.get_mut(&lane) else {
            return;
        };
        let Some((mut seq, last)) = queue.waiting.take() else {
            return;
        };
        loop {
            queue.held += 1;
            parked.push(seq);
            if seq == last {
                return;
            }
            seq = self.behind.get(seq);
        }
    }

    /// The lane has one more held event, from an earlier session.
    pub(super) fn close(&mut self, lane: Lane) {
        self.lanes.entry(lane).or_default().held += 1;
    }

    /// A held event of the lane is through. Adds to `go` those that may go now.
    pub(super) fn release(&mut self, lane: Lane, go: &mut Vec<Seq>) {
        if let Some(queue) = self.lanes.get_mut(&lane) {
            queue.held = queue.held.saturating_sub(1);
            self.open(lane, go);
        }
    }

    fn open(&mut self, lane: Lane, go: &mut Vec<Seq>) {
        let Some(queue) = self.lanes.get_mut(&lane) else {
            return;
        };
        while queue.held == 0 && queue.blocking == 0 && queue.in_flight < self.room {
            let Some((first, last)) = queue.waiting else {
                break;
            };
            queue.waiting = (first != last).then(|| (self.behind.get(first), last));
            queue.in_flight += 1;
            go.push(first);
        }
        if queue.in_flight == 0 && queue.held == 0 && queue.waiting.is_none() {
            self.lanes.remove(&lane);
        }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.lanes.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LANE: Lane = Lane(1);

    fn leave(gate: &mut Gate, was_blocking: bool) -> Vec<Seq> {
        let mut go = Vec::new();
        gate.leave(LANE, was_blocking, &mut go);
        go
    }

    fn release(gate: &mut Gate) -> Vec<Seq> {
        let mut go = Vec::new();
        gate.release(LANE, &mut go);
        go
    }

    fn set_aside(gate: &mut Gate) -> Vec<Seq> {
        let mut parked = Vec::new();
        gate.set_aside(LANE, false, &mut parked);
        parked
    }

    fn enter(gate: &mut Gate, seq: Seq) -> Entry {
        gate.enter(LANE, seq, Entrance::Usual)
    }

    #[test]
    fn one_event_of_a_key_at_a_time_any_number_of_keys() {
        let mut gate = Gate::new(1, 8);
        assert_eq!(enter(&mut gate, 0), Entry::Goes);
        assert_eq!(gate.enter(Lane(2), 1, Entrance::Usual), Entry::Goes);
        assert_eq!(enter(&mut gate, 2), Entry::Waits);
        assert_eq!(enter(&mut gate, 3), Entry::Waits);
        assert_eq!(leave(&mut gate, false), [2]);
        assert_eq!(leave(&mut gate, false), [3]);
        assert!(leave(&mut gate, false).is_empty());
        gate.leave(Lane(2), false, &mut Vec::new());
        assert!(gate.is_empty(), "a lane lives as long as it has events");
    }

    #[test]
    fn nothing_overtakes_what_waits_even_where_there_is_room() {
        let mut gate = Gate::new(2, 8);
        assert_eq!(enter(&mut gate, 0), Entry::Goes);
        assert_eq!(enter(&mut gate, 1), Entry::Goes);
        assert_eq!(enter(&mut gate, 2), Entry::Waits);
        gate.block(LANE);
        assert!(leave(&mut gate, false).is_empty(), "one that is sent again is before them");
        assert_eq!(enter(&mut gate, 3), Entry::Waits);
        assert_eq!(leave(&mut gate, true), [2, 3], "it is through: both have room");
    }

    #[test]
    fn what_waits_behind_a_held_event_is_held_and_so_is_what_comes() {
        let mut gate = Gate::new(1, 8);
        for seq in 0..3 {
            enter(&mut gate, seq);
        }
        assert_eq!(set_aside(&mut gate), [1, 2]);
        assert_eq!(enter(&mut gate, 3), Entry::Held);
        assert_eq!(gate.enter(Lane(2), 4, Entrance::Usual), Entry::Goes, "another key");
        for _ in 0..4 {
            assert!(release(&mut gate).is_empty());
        }
        assert_eq!(enter(&mut gate, 5), Entry::Goes, "all four are through");
    }

    #[test]
    fn who_joined_waits_for_the_last_held_event_or_is_held_after_all() {
        let mut gate = Gate::new(1, 8);
        gate.close(LANE);
        assert_eq!(gate.enter(LANE, 0, Entrance::Joining), Entry::Waits);
        assert_eq!(enter(&mut gate, 1), Entry::Waits, "never before one that joined");
        assert_eq!(gate.enter(LANE, 2, Entrance::Held), Entry::Waits, "nor held before it");
        assert_eq!(release(&mut gate), [0]);
        assert_eq!(set_aside(&mut gate), [1, 2], "in order");
    }
}
