//! What was written held against what arrived: the demo's proof.
//!
//! The writers enter every event before they commit it, so a record that is in no entry is of a
//! transaction that was rolled back. They hold a lock on the key's row meanwhile, so the entries
//! of a key are in the order of its commits.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::relay::Latencies;
use crate::terminal::{Grouped, Millis};

/// Every event that was written, and what came of it.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    keys: HashMap<String, History>,
    tally: Tally,
    latencies: Latencies,
    recent: Latencies,
}

/// The ledger of all writers and the consumer.
#[derive(Debug, Clone, Default)]
pub(super) struct SharedLedger(Arc<Mutex<Ledger>>);

impl SharedLedger {
    /// For a moment.
    pub(super) fn lock(&self) -> MutexGuard<'_, Ledger> {
        // Nothing is left half done under this lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The events of one key, in the order of commits.
#[derive(Debug, Default)]
struct History {
    events: Vec<Event>,
    /// After the latest of those that arrived.
    next: usize,
}

#[derive(Debug)]
struct Event {
    id: String,
    committed: Instant,
    has_arrived: bool,
}

/// Counts of what happened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// Events that were committed.
    pub(super) written: u64,
    /// Events that were rolled back.
    pub(super) rolled_back: u64,
    /// Events that arrived.
    pub(super) delivered: u64,
    /// Events that arrived after a later one of their key.
    pub(super) out_of_order: u64,
    /// Copies beyond the first.
    pub(super) duplicates: u64,
    /// Records of nothing that was committed.
    pub(super) phantoms: u64,
}

impl Tally {
    /// Events that were committed and have not arrived.
    pub(super) fn under_way(&self) -> u64 {
        self.written - self.delivered
    }
}

impl Ledger {
    /// An event that is being committed.
    pub(super) fn commit(&mut self, key: &str, id: &str, now: Instant) {
        let event = Event { id: id.to_owned(), committed: now, has_arrived: false };
        self.keys.entry(key.to_owned()).or_default().events.push(event);
        self.tally.written += 1;
    }

    /// Events that were written and rolled back.
    pub(super) fn roll_back(&mut self, events: u64) {
        self.tally.rolled_back += events;
    }

    /// A record has arrived.
    pub(super) fn receive(&mut self, key: &str, id: &str, now: Instant) {
        let history = self.keys.get_mut(key);
        match history.map_or(Arrival::Unknown, |history| history.arrive(id)) {
            Arrival::First { committed, is_late } => {
                let latency = now.saturating_duration_since(committed);
                self.latencies.record(latency);
                self.recent.record(latency);
                self.tally.delivered += 1;
                self.tally.out_of_order += u64::from(is_late);
            }
            Arrival::Again => self.tally.duplicates += 1,
            Arrival::Unknown => self.tally.phantoms += 1,
        }
    }

    /// What was counted so far.
    pub(super) fn tally(&self) -> Tally {
        self.tally
    }

    /// The latencies since the last time that this was asked.
    pub(super) fn take_recent(&mut self) -> Latencies {
        std::mem::take(&mut self.recent)
    }

    /// The proof, with how many events the table says are sent. `cut_short` if nobody waited for
    /// what was under way.
    pub(super) fn proof(&self, sent: u64, cut_short: bool) -> Proof {
        let (p50, p99) = (self.latencies.quantile(500), self.latencies.quantile(990));
        Proof { tally: self.tally, sent, cut_short, p50, p99 }
    }
}

/// What a record is to its key.
enum Arrival {
    /// The first copy of an event; late if one of a later event was first.
    First { committed: Instant, is_late: bool },
    /// Another copy.
    Again,
    /// Of nothing that was committed.
    Unknown,
}

impl History {
    fn arrive(&mut self, id: &str) -> Arrival {
        let is_next = self.events.get(self.next).is_some_and(|event| event.id == id);
        let place = match is_next {
            true => Some(self.next),
            false => self.events.iter().position(|event| event.id == id),
        };
        let Some((place, event)) = place.and_then(|at| Some((at, self.events.get_mut(at)?))) else {
            return Arrival::Unknown;
        };
        if std::mem::replace(&mut event.has_arrived, true) {
            return Arrival::Again;
        }
        let is_late = place < self.next;
        self.next = self.next.max(place + 1);
        Arrival::First { committed: event.committed, is_late }
    }
}

/// What the demo ends with. As text it is one line.
#[derive(Debug, Clone)]
pub(super) struct Proof {
    tally: Tally,
    sent: u64,
    cut_short: bool,
    p50: Option<Duration>,
    p99: Option<Duration>,
}

impl Proof {
    /// Which promises were broken, in words; none if all were kept.
    pub(super) fn broken(&self) -> Option<String> {
        let Tally { written, out_of_order, phantoms, .. } = self.tally;
        let (lost, unsent) = match self.cut_short {
            true => (0, 0),
            false => (self.tally.under_way(), written.saturating_sub(self.sent)),
        };
        let broken: Vec<_> = [
            (lost, "lost"),
            (out_of_order, "out of order"),
            (phantoms, "rolled back and yet delivered"),
            (unsent, "not SENT in the table"),
        ]
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{} {what}", Grouped(count)))
        .collect();
        (!broken.is_empty()).then(|| broken.join(", "))
    }
}

impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tally = &self.tally;
        let number = Grouped;
        let undelivered = if self.cut_short { "under way" } else { "lost" };
        write!(
            f,
            "written {}, delivered {}, SENT {}, {undelivered} {}, out of order {}, duplicates {}, \
             phantoms {} of {} rolled back; commit to consumer: p50 {}, p99 {}",
            number(tally.written),
            number(tally.delivered),
            number(self.sent),
            number(tally.under_way()),
            number(tally.out_of_order),
            number(tally.duplicates),
            number(tally.phantoms),
            number(tally.rolled_back),
            Millis(self.p50),
            Millis(self.p99),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two keys with events that are named by key and number.
    fn written() -> (Ledger, Instant) {
        let mut ledger = Ledger::default();
        let now = Instant::now();
        for id in ["a1", "b1", "a2", "a3", "b2"] {
            ledger.commit(&id[..1], id, now);
        }
        ledger.roll_back(2);
        (ledger, now)
    }

    fn after(ids: &[&str]) -> Tally {
        let (mut ledger, now) = written();
        for id in ids {
            ledger.receive(&id[..1], id, now);
        }
        ledger.tally()
    }

    #[test]
    fn what_arrives_once_and_in_order_is_delivered() {
        let tally = after(&["b1", "a1", "a2", "b2", "a3"]);
        let kept = Tally { written: 5, rolled_back: 2, delivered: 5, ..Tally::default() };
        assert_eq!(tally, kept);
        assert_eq!(tally.under_way(), 0);
    }

    #[test]
    fn what_does_not_arrive_is_lost_and_nothing_else_is_wrong() {
        let tally = after(&["a1", "a3", "b1", "b2"]);
        assert_eq!((tally.under_way(), tally.delivered), (1, 4));
        assert_eq!((tally.out_of_order, tally.duplicates, tally.phantoms), (0, 0, 0));
    }

    #[test]
    fn what_arrives_after_a_later_one_of_its_key_is_out_of_order() {
        let tally = after(&["a2", "a1", "b1", "a3", "b2"]);
        assert_eq!((tally.out_of_order, tally.delivered, tally.duplicates), (1, 5, 0));
        let tally = after(&["a3", "a2", "a1", "b1", "b2"]);
        assert_eq!((tally.out_of_order, tally.delivered), (2, 5));
    }

    #[test]
    fn a_second_copy_is_a_duplicate_wherever_it_comes() {
        let tally = after(&["a1", "a1", "a2", "a3", "a2", "b1", "b2"]);
        assert_eq!((tally.duplicates, tally.delivered, tally.out_of_order), (2, 5, 0));
    }

    #[test]
    fn what_was_not_committed_is_a_phantom() {
        let tally = after(&["a1", "a9", "c1", "a2", "a3", "b1", "b2"]);
        assert_eq!((tally.phantoms, tally.delivered, tally.out_of_order), (2, 5, 0));
        // Under another key than it was written with, too.
        let (mut ledger, now) = written();
        ledger.receive("b", "a1", now);
        assert_eq!((ledger.tally().phantoms, ledger.tally().delivered), (1, 0));
    }

    #[test]
    fn latency_is_from_commit_to_arrival() {
        let (mut ledger, now) = written();
        ledger.receive("a", "a1", now + Duration::from_millis(3));
        let expected = Some(Duration::from_millis(3));
        let p50 = ledger.proof(1, false).p50;
        assert!(p50 >= expected && p50 <= Some(Duration::from_micros(3100)), "{p50:?}");
        assert!(ledger.take_recent().quantile(500) >= expected);
        assert_eq!(ledger.take_recent().quantile(500), None);
    }

    fn proof(ids: &[&str], sent: u64, cut_short: bool) -> Proof {
        let (mut ledger, now) = written();
        for id in ids {
            ledger.receive(&id[..1], id, now);
        }
        ledger.proof(sent, cut_short)
    }

    const ALL: [&str; 5] = ["a1", "a2", "a3", "b1", "b2"];

    #[test]
    fn the_proof_names_every_promise_that_was_broken() {
        assert_eq!(proof(&ALL, 5, false).broken(), None);
        let unsent = proof(&ALL, 4, false).broken();
        assert_eq!(unsent.as_deref(), Some("1 not SENT in the table"));
        let much = proof(&["a2", "a1", "a9", "b2"], 5, false).broken().unwrap();
        assert_eq!(much, "2 lost, 1 out of order, 1 rolled back and yet delivered");
        // Delivery at least once is what is promised.
        assert_eq!(proof(&["a1", "a1", "a2", "a3", "b1", "b2"], 5, false).broken(), None);
    }

    #[test]
    fn what_nobody_waited_for_is_under_way_and_not_lost() {
        let proof = proof(&["a1"], 0, true);
        assert_eq!(proof.broken(), None);
        assert!(proof.to_string().contains("under way 4,"), "{proof}");
    }

    #[test]
    fn the_proof_is_one_line() {
        let line = proof(&ALL, 5, false).to_string();
        assert_eq!(
            line,
            "written 5, delivered 5, SENT 5, lost 0, out of order 0, duplicates 0, \
             phantoms 0 of 2 rolled back; commit to consumer: p50 0.00 ms, p99 0.00 ms"
        );
    }
}
