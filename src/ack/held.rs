//! The events that are held, per lane: which one goes, and when.
//!
//! In a lane they go one after the other, in the order in which they were read; the first one's due
//! time is the lane's. A lane is here as long as it has a held event, and as long as it is here
//! the gate is closed to the events that the reader brings.

use std::collections::{BTreeSet, HashMap, VecDeque};

use super::Lane;

/// An event's number in the order of holding: durable, and unique within a relay's database.
pub type Ordinal = i64;

/// A point in time, in microseconds since 1970.
pub type Moment = i64;

/// The held events that are to go, by lane.
#[derive(Debug, Default)]
pub struct HeldLanes {
    lanes: HashMap<Lane, Queue>,
    /// The lanes whose first event waits for a time, by that time; of equal times the event that was
    /// held first.
    due: BTreeSet<(Moment, Ordinal, Lane)>,
}

#[derive(Debug, Default)]
struct Queue {
    /// In the order of their ordinals.
    events: VecDeque<Held>,
    /// The one that is going.
    going: Option<Ordinal>,
    /// Since when one after the other goes.
    moves_since: Option<Moment>,
}

#[derive(Debug, Clone, Copy)]
struct Held {
    ordinal: Ordinal,
    /// When it may go; none until an operator says so.
    due: Option<Moment>,
}

/// With so few left in a lane that moves, whoever comes waits for them in memory.
const LAST_FEW: usize = 32;
/// A lane that has moved for so long without an end gets no more: otherwise it might never end.
const LONG: Moment = 5_000_000;

impl Queue {
    /// The time of its first event, while that one waits for a time.
    fn time(&self) -> Option<(Moment, Ordinal)> {
        let first = self.events.front().filter(|_| self.going.is_none())?;
        Some((first.due?, first.ordinal))
    }

    fn place(&self, ordinal: Ordinal) -> Option<usize> {
        self.events.binary_search_by_key(&ordinal, |held| held.ordinal).ok()
    }
}

impl HeldLanes {
    /// Takes on an event. One that was set aside earlier can come before those that are there.
    pub fn insert(&mut self, lane: Lane, ordinal: Ordinal, due: Option<Moment>) {
        self.change(lane, |queue| {
            let place = queue.events.partition_point(|held| held.ordinal < ordinal);
            queue.events.insert(place, Held { ordinal, due });
        });
    }

    /// The next event that is due at `now`; it is going from then on.
    pub fn take_due(&mut self, now: Moment) -> Option<(Lane, Ordinal)> {
        let (_, _, lane) = self.due.first().copied().filter(|(due, ..)| *due <= now)?;
        self.change(lane, |queue| {
            queue.going = queue.events.front().map(|first| first.ordinal);
            Some((lane, queue.going?))
        })
    }

    /// The event that is going is on its way.
    pub fn moves(&mut self, lane: Lane, now: Moment) {
        self.change(lane, |queue| {
            queue.moves_since.get_or_insert(now);
        });
    }

    /// The event that is going waits for something else than a time; the lane does not move.
    pub fn stands(&mut self, lane: Lane) {
        self.change(lane, |queue| queue.moves_since = None);
    }

    /// The event did not arrive, or another time was set for it; none until an operator says so.
    pub fn put_back(&mut self, lane: Lane, ordinal: Ordinal, due: Option<Moment>) {
        self.change(lane, |queue| {
            if queue.going == Some(ordinal) {
                queue.going = None;
                queue.moves_since = None;
            }
            let place = queue.place(ordinal);
            if let Some(held) = place.and_then(|place| queue.events.get_mut(place)) {
                held.due = due;
            }
        });
    }

    /// The event is through, or given up. Whether it was here.
    pub fn remove(&mut self, lane: Lane, ordinal: Ordinal) -> bool {
        self.change(lane, |queue| {
            if queue.going == Some(ordinal) {
                queue.going = None;
            }
            let place = queue.place(ordinal);
            place.and_then(|place| queue.events.remove(place)).is_some()
        })
    }

    /// Events of the lane behind the first, in order.
    pub fn behind_first(&self, lane: Lane) -> impl Iterator<Item = Ordinal> {
        let queue = self.lanes.get(&lane);
        queue.into_iter().flat_map(|queue| queue.events.iter().skip(1)).map(|held| held.ordinal)
    }

    /// Whether an event that comes to the lane now should wait for the held ones in memory: they
    /// will soon be through, or must be at some time.
    pub fn is_ending(&self, lane: Lane, now: Moment) -> bool {
        self.lanes.get(&lane).is_some_and(|queue| {
            let few = queue.events.len() <= LAST_FEW;
            queue.moves_since.is_some_and(|since| few || now - since >= LONG)
        })
    }

    /// Whether the lane's first event is going, or could; so it is where there is none.
    pub fn goes_on(&self, lane: Lane, now: Moment) -> bool {
        self.lanes.get(&lane).is_none_or(|queue| {
            let is_due = |(due, _): (Moment, Ordinal)| due <= now;
            queue.going.is_some() || queue.time().is_some_and(is_due)
        })
    }

    /// When the next event is due.
    pub fn next_due(&self) -> Option<Moment> {
        self.due.first().map(|(due, ..)| *due)
    }

    /// Lanes with held events.
    pub fn lanes(&self) -> usize {
        self.lanes.len()
    }

    /// Which lanes these are.
    pub fn all(&self) -> impl Iterator<Item = Lane> {
        self.lanes.keys().copied()
    }

    fn change<R>(&mut self, lane: Lane, change: impl FnOnce(&mut Queue) -> R) -> R {
        let queue = self.lanes.entry(lane).or_default();
        let before = queue.time();
        let result = change(queue);
        let after = queue.time();
        if queue.events.is_empty() {
            self.lanes.remove(&lane);
        }
        if before != after {
            if let Some((due, ordinal)) = before {
                self.due.remove(&(due, ordinal, lane));
            }
            if let Some((due, ordinal)) = after {
                self.due.insert((due, ordinal, lane));
            }
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LANE: Lane = Lane(1);

    #[test]
    fn one_at_a_time_in_order_when_the_first_is_due() {
        let mut held = HeldLanes::default();
        held.insert(LANE, 5, Some(10));
        held.insert(LANE, 7, Some(0));
        held.insert(Lane(2), 6, Some(4));
        assert_eq!(held.next_due(), Some(4));
        assert_eq!(held.take_due(9), Some((Lane(2), 6)));
        assert_eq!(held.take_due(9), None, "the first one's time is the lane's");
        assert_eq!(held.take_due(10), Some((LANE, 5)));
        assert_eq!(held.take_due(99), None, "one at a time");
        assert!(held.remove(LANE, 5));
        assert_eq!(held.take_due(10), Some((LANE, 7)));
        held.put_back(LANE, 7, None);
        assert_eq!((held.next_due(), held.take_due(99)), (None, None), "an operator has to say so");
        held.put_back(LANE, 7, Some(20));
        assert_eq!(held.take_due(20), Some((LANE, 7)));
        assert!(held.remove(LANE, 7) && held.remove(Lane(2), 6));
        assert!(!held.remove(LANE, 7));
        assert_eq!((held.lanes(), held.next_due()), (0, None));
    }

    #[test]
    fn one_that_comes_back_takes_its_old_place() {
        let mut held = HeldLanes::default();
        held.insert(LANE, 5, Some(0));
        assert_eq!(held.take_due(0), Some((LANE, 5)));
        held.insert(LANE, 3, Some(0));
        assert_eq!(held.take_due(0), None, "another one of the lane is going");
        assert_eq!(held.behind_first(LANE).collect::<Vec<_>>(), [5]);
        assert!(held.remove(LANE, 5));
        assert_eq!(held.take_due(0), Some((LANE, 3)));
        // Whoever waits for something else than a time does not hold up an older one.
        held.put_back(LANE, 3, None);
        held.insert(LANE, 2, Some(0));
        assert_eq!(held.take_due(0), Some((LANE, 2)));
        assert!(held.remove(LANE, 2));
        assert_eq!(held.take_due(0), None);
    }

    #[test]
    fn a_lane_ends_when_few_are_left_or_after_long() {
        let mut held = HeldLanes::default();
        for ordinal in 0..100 {
            held.insert(LANE, ordinal, Some(0));
        }
        assert_eq!(held.take_due(0), Some((LANE, 0)));
        assert!(!held.is_ending(LANE, 0), "it does not move");
        held.moves(LANE, 0);
        assert!(!held.is_ending(LANE, LONG - 1));
        assert!(held.is_ending(LANE, LONG));
        for ordinal in 0..70 {
            held.remove(LANE, ordinal);
        }
        assert!(held.is_ending(LANE, 1), "few are left");
        assert!(held.goes_on(LANE, 0));
        held.put_back(LANE, 70, Some(5));
        assert_eq!((held.goes_on(LANE, 4), held.goes_on(LANE, 5)), (false, true));
        held.put_back(LANE, 70, None);
        assert!(!held.goes_on(LANE, LONG), "its first event waits for an operator");
        held.stands(LANE);
        assert!(!held.is_ending(LANE, LONG));
    }
}
