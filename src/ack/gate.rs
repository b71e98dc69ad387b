//! Order per key while events are in flight: a lane per (topic, key), with room for a few.
//!
//! With room for one, which is the default, the next event of a key is handed to Kafka only when
//! the one before it was acknowledged. Nothing then depends on what the client does about order
//! when a record is refused, on any partition (docs/adr/0003).

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

#[derive(Debug, Default)]
struct Queue {
    in_flight: u32,
    /// Events that have to be sent again: nothing enters the lane before they are through.
    blocking: u32,
    /// First and last of the waiting events.
    waiting: Option<(Seq, Seq)>,
}

impl Gate {
    /// `room`: how many events of one lane may be in flight, at least 1. `capacity`: how many
    /// events can be open in all.
    pub(super) fn new(room: u32, capacity: usize) -> Self {
        Self { room: room.max(1), lanes: HashMap::default(), behind: Ring::new(capacity) }
    }

    /// Whether `seq` may go now; if not, it waits in its lane.
    pub(super) fn enter(&mut self, lane: Lane, seq: Seq) -> bool {
        let queue = self.lanes.entry(lane).or_default();
        match &mut queue.waiting {
            None if queue.blocking == 0 && queue.in_flight < self.room => {
                queue.in_flight += 1;
                return true;
            }
            Some((_, last)) => {
                self.behind.set(*last, seq);
                *last = seq;
            }
            waiting @ None => *waiting = Some((seq, seq)),
        }
        false
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
        while queue.blocking == 0 && queue.in_flight < self.room {
            let Some((first, last)) = queue.waiting else {
                break;
            };
            queue.waiting = (first != last).then(|| (self.behind.get(first), last));
            queue.in_flight += 1;
            go.push(first);
        }
        if queue.in_flight == 0 && queue.waiting.is_none() {
            self.lanes.remove(&lane);
        }
    }

    /// Lanes with an event that has to be sent again.
    pub(super) fn blocked(&self) -> usize {
        self.lanes.values().filter(|queue| queue.blocking > 0).count()
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.lanes.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leave(gate: &mut Gate, lane: Lane, was_blocking: bool) -> Vec<Seq> {
        let mut go = Vec::new();
        gate.leave(lane, was_blocking, &mut go);
        go
    }

    #[test]
    fn one_event_of_a_key_at_a_time_any_number_of_keys() {
        let mut gate = Gate::new(1, 8);
        assert!(gate.enter(Lane(1), 0));
        assert!(gate.enter(Lane(2), 1));
        assert!(!gate.enter(Lane(1), 2));
        assert!(!gate.enter(Lane(1), 3));
        assert_eq!(leave(&mut gate, Lane(1), false), [2]);
        assert_eq!(leave(&mut gate, Lane(1), false), [3]);
        assert!(leave(&mut gate, Lane(1), false).is_empty());
        assert!(leave(&mut gate, Lane(2), false).is_empty());
        assert!(gate.is_empty(), "a lane lives as long as it has events");
    }

    #[test]
    fn nothing_overtakes_what_waits_even_where_there_is_room() {
        let mut gate = Gate::new(2, 8);
        assert!(gate.enter(Lane(1), 0));
        assert!(gate.enter(Lane(1), 1));
        assert!(!gate.enter(Lane(1), 2));
        gate.block(Lane(1));
        assert!(leave(&mut gate, Lane(1), false).is_empty(), "a refused one is before them");
        assert!(!gate.enter(Lane(1), 3));
        assert_eq!(leave(&mut gate, Lane(1), true), [2, 3], "it is through: both have room");
    }

    #[test]
    fn a_refused_event_blocks_its_lane_alone() {
        let mut gate = Gate::new(1, 8);
        assert!(gate.enter(Lane(1), 0));
        gate.block(Lane(1));
        assert_eq!(gate.blocked(), 1);
        assert!(!gate.enter(Lane(1), 1));
        assert!(gate.enter(Lane(2), 2));
        assert_eq!(leave(&mut gate, Lane(1), true), [1]);
        assert_eq!(gate.blocked(), 0);
    }
}
