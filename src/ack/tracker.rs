//! What is outstanding, what may be settled, what may be confirmed.
//!
//! An event is tracked before it enters any queue, and stays outstanding until it was resolved by
//! name. So a forgotten event stalls progress; it is never passed over. Two cursors move over the
//! events in the order in which they were read, and never back:
//!
//! ```text
//!   settled ≤ resolved ≤ next
//!   │ status durable │ acknowledged, without a gap │ outstanding … │
//! ```
//!
//! Fences lie between events: "once everything before this is settled, this LSN may be confirmed".

use std::collections::VecDeque;

use super::Seq;
use super::ring::Ring;
use crate::lsn::{Lsn, Position};

/// The events that were read and are not settled, in the order of their commits.
#[derive(Debug)]
pub(super) struct Tracker {
    capacity: u64,
    resolved_bits: Ring<bool>,
    positions: Ring<Position>,
    settled: Seq,
    resolved: Seq,
    next: Seq,
    fences: VecDeque<Fence>,
    watermark: Lsn,
}

/// Once every event before `before` is settled, `lsn` may be confirmed.
#[derive(Debug, Clone, Copy)]
struct Fence {
    before: Seq,
    lsn: Lsn,
}

/// The longest run of events that may be settled now: acknowledged, without a gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefix {
    /// The first event that is not settled.
    pub from: Seq,
    /// The first event after the run.
    pub until: Seq,
    /// The position of the run's last event: what becomes the durable position.
    pub position: Position,
}

impl Prefix {
    /// How many events it has.
    pub fn count(&self) -> u64 {
        self.until - self.from
    }
}

impl Tracker {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            capacity: capacity as u64,
            resolved_bits: Ring::new(capacity),
            positions: Ring::new(capacity),
            settled: 0,
            resolved: 0,
            next: 0,
            fences: VecDeque::new(),
            watermark: Lsn::INVALID,
        }
    }

    /// Events that were read and are not settled.
    pub(super) fn open(&self) -> u64 {
        self.next - self.settled
    }

    /// The first event that is not settled.
    pub(super) fn settled(&self) -> Seq {
        self.settled
    }

    /// The first event that is not resolved.
    pub(super) fn resolved(&self) -> Seq {
        self.resolved
    }

    /// The position of an event that is open.
    pub(super) fn position(&self, seq: Seq) -> Position {
        self.positions.get(seq)
    }

    /// The position of the last event that was tracked, while any is open.
    pub(super) fn last_position(&self) -> Option<Position> {
        (self.open() > 0).then(|| self.positions.get(self.next - 1))
    }

    /// Takes on an obligation: from now on nothing after it can be settled before it.
    pub(super) fn track(&mut self, position: Position) -> Seq {
        assert!(self.open() < self.capacity, "more events are open than the window has room for");
        let seq = self.next;
        self.positions.set(seq, position);
        self.resolved_bits.set(seq, false);
        self.next += 1;
        seq
    }

    /// Whether `seq` is still waited for.
    pub(super) fn is_outstanding(&self, seq: Seq) -> bool {
        assert!(seq < self.next, "an event that was never tracked was reported");
        seq >= self.resolved && !self.resolved_bits.get(seq)
    }

    /// Someone proved the event durable.
    pub(super) fn resolve(&mut self, seq: Seq) {
        if !self.is_outstanding(seq) {
            return;
        }
        self.resolved_bits.set(seq, true);
        while self.resolved < self.next && self.resolved_bits.get(self.resolved) {
            self.resolved += 1;
        }
    }

    /// The run of at most `limit` events that may be settled now.
    pub(super) fn prefix(&self, limit: u64) -> Option<Prefix> {
        let until = self.resolved.min(self.settled.saturating_add(limit));
        (until > self.settled).then(|| Prefix {
            from: self.settled,
            until,
            position: self.positions.get(until - 1),
        })
    }

    /// The statuses of every event before `until` are durable.
    pub(super) fn settle(&mut self, until: Seq) {
        assert!(
            self.settled <= until && until <= self.resolved,
            "only acknowledged events can be settled, and only once"
        );
        self.settled = until;
        while let Some(fence) = self.fences.front().filter(|fence| fence.before <= until) {
            self.watermark = self.watermark.max(fence.lsn);
            self.fences.pop_front();
        }
    }

    /// Everything that was read so far lies before `lsn`, and no transaction is open there.
    pub(super) fn fence(&mut self, lsn: Lsn) {
        if self.open() == 0 {
            self.watermark = self.watermark.max(lsn);
            return;
        }
        match self.fences.back_mut().filter(|fence| fence.before == self.next) {
            Some(last) => last.lsn = last.lsn.max(lsn),
            None => self.fences.push_back(Fence { before: self.next, lsn }),
        }
    }

    /// The watermark once every event before `until` is settled, as far as is known by now.
    pub(super) fn watermark_after(&self, until: Seq) -> Lsn {
        let reached = self.fences.iter().take_while(|fence| fence.before <= until);
        reached.map(|fence| fence.lsn).fold(self.watermark, Lsn::max)
    }

    /// The highest LSN before which everything is settled. Never goes down.
    pub(super) fn watermark(&self) -> Lsn {
        self.watermark
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(index: u32) -> Position {
        Position { commit: Lsn::from_wire(1), index }
    }

    fn lsn(value: u64) -> Lsn {
        Lsn::from_wire(value)
    }

    #[test]
    fn a_gap_holds_back_everything_behind_it() {
        let mut tracker = Tracker::new(8);
        let events: Vec<_> = (0..4).map(|index| tracker.track(at(index))).collect();
        tracker.fence(lsn(100));
        for seq in &events[1..] {
            tracker.resolve(*seq);
        }
        assert_eq!(tracker.prefix(u64::MAX), None);
        tracker.resolve(events[0]);
        let prefix = tracker.prefix(u64::MAX).unwrap();
        assert_eq!((prefix.count(), prefix.position), (4, at(3)));
        assert_eq!(tracker.watermark(), Lsn::INVALID, "acknowledged is not settled");
        tracker.settle(prefix.until);
        assert_eq!(tracker.watermark(), lsn(100));
    }

    #[test]
    fn a_keepalive_counts_at_once_only_when_nothing_is_open() {
        let mut tracker = Tracker::new(8);
        tracker.fence(lsn(10));
        assert_eq!(tracker.watermark(), lsn(10));
        let seq = tracker.track(at(0));
        tracker.fence(lsn(20));
        tracker.fence(lsn(30));
        assert_eq!(tracker.watermark(), lsn(10));
        tracker.resolve(seq);
        tracker.settle(seq + 1);
        assert_eq!(tracker.watermark(), lsn(30), "fences at one place are one fence");
    }

    #[test]
    fn settling_in_parts_moves_the_watermark_fence_by_fence() {
        let mut tracker = Tracker::new(8);
        for (index, end) in [(0, 10), (1, 20), (2, 30)] {
            let seq = tracker.track(at(index));
            tracker.fence(lsn(end));
            tracker.resolve(seq);
        }
        let prefix = tracker.prefix(2).unwrap();
        assert_eq!(prefix.position, at(1));
        tracker.settle(prefix.until);
        assert_eq!(tracker.watermark(), lsn(20));
    }

    #[test]
    #[should_panic(expected = "only acknowledged events can be settled")]
    fn what_is_not_acknowledged_cannot_be_settled() {
        let mut tracker = Tracker::new(8);
        let seq = tracker.track(at(0));
        tracker.settle(seq + 1);
    }

    proptest! {
        /// Against the plainest model there is: a list of events with a flag.
        #[test]
        fn agrees_with_a_list(actions in proptest::collection::vec(any::<(u8, u8)>(), 1..300)) {
            let mut tracker = Tracker::new(16);
            let mut resolved: Vec<bool> = Vec::new();
            let mut fences: Vec<(usize, u64)> = Vec::new();
            let (mut settled, mut clock, mut watermark) = (0usize, 0u64, 0u64);
            for (action, choice) in actions {
                clock += 1;
                match action % 4 {
                    0 if resolved.len() - settled < 16 => {
                        let index = u32::try_from(resolved.len()).unwrap();
                        prop_assert_eq!(tracker.track(at(index)), resolved.len() as u64);
                        resolved.push(false);
                    }
                    1 if !resolved.is_empty() => {
                        let seq = usize::from(choice) % resolved.len();
                        tracker.resolve(seq as u64);
                        resolved[seq] = true;
                    }
                    2 => {
                        tracker.fence(lsn(clock));
                        fences.push((resolved.len(), clock));
                    }
                    _ => {
                        let run = resolved[settled..].iter().take_while(|flag| **flag).count();
                        let run = run.min(usize::from(choice));
                        let prefix = tracker.prefix(u64::from(choice));
                        prop_assert_eq!(prefix.map_or(0, |prefix| prefix.count()), run as u64);
                        if let Some(prefix) = prefix {
                            settled += run;
                            let last = u32::try_from(settled - 1).unwrap();
                            prop_assert_eq!(prefix.position, at(last));
                            tracker.settle(prefix.until);
                        }
                    }
                }
                let reached = fences.iter().filter(|(before, _)| *before <= settled);
                watermark = reached.map(|(_, lsn)| *lsn).max().unwrap_or(0).max(watermark);
                prop_assert_eq!(tracker.watermark(), lsn(watermark));
                prop_assert_eq!(tracker.open(), (resolved.len() - settled) as u64);
            }
        }
    }
}
