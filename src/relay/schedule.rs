//! Scheduled events: the next ones in memory, by their times; the rest stay in the database until
//! these are through.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, VecDeque};

use crate::ack::{Moment, Ordinal};
use crate::status::{DueRow, HeldEntry};

/// So many are kept in memory; up to twice as many before some are let go.
const KEPT: usize = 10_000;
/// So many rows are asked for at once.
const ROWS_AT_ONCE: usize = 64;

/// The scheduled events of a session.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    next: BTreeMap<(Moment, Ordinal), HeldEntry>,
    /// The database has more after this one.
    more_after: Option<(Moment, Ordinal)>,
    /// Due, with what their rows say now.
    pub(super) rows: VecDeque<(HeldEntry, DueRow)>,
    /// Due, and what became of them is not durable yet. One can be taken again before that.
    under_way: HashMap<Ordinal, usize>,
}

impl Schedule {
    /// A scheduled event that is in the database.
    pub(super) fn add(&mut self, entry: HeldEntry) {
        let key = key(&entry);
        if self.more_after.is_some_and(|last| key > last) {
            return;
        }
        self.next.insert(key, entry);
        if self.next.len() > 2 * KEPT {
            let far = self.next.keys().nth(KEPT).copied();
            if let Some(far) = far {
                let _ = self.next.split_off(&far);
                self.more_after = self.next.last_key_value().map(|(key, _)| *key);
            }
        }
    }

    /// One of those that were taken is to be looked at again, whatever the database says.
    pub(super) fn put_off(&mut self, entry: HeldEntry) {
        self.is_through(entry.ordinal);
        self.next.insert(key(&entry), entry);
    }

    /// What became of one that was taken is durable.
    pub(super) fn is_through(&mut self, ordinal: Ordinal) {
        if let Entry::Occupied(mut times) = self.under_way.entry(ordinal) {
            match times.get_mut() {
                0 | 1 => drop(times.remove()),
                times => *times -= 1,
            }
        }
    }

    /// Whether it was taken, and it is not known yet what became of it.
    pub(super) fn is_under_way(&self, ordinal: Ordinal) -> bool {
        self.under_way.contains_key(&ordinal)
    }

    /// After which one the next page has to be read, if one has to be. Not while some are taken:
    /// one that turns out to be due later belongs on a page, and must be stored before that is read.
    pub(super) fn wants_page(&self) -> Option<(Moment, Ordinal)> {
        self.more_after.filter(|_| self.next.is_empty() && self.rows.is_empty())
    }

    /// A page that was read; an empty one is the last.
    pub(super) fn add_page(&mut self, page: Vec<HeldEntry>) {
        self.more_after = page.last().map(key);
        self.next.extend(page.into_iter().map(|entry| (key(&entry), entry)));
    }

    /// Every event of the database is still to be read.
    pub(super) fn start(&mut self) {
        self.more_after = Some((0, 0));
    }

    /// When the next one is due.
    pub(super) fn next_due(&self) -> Option<Moment> {
        self.next.first_key_value().map(|((due, _), _)| *due)
    }

    /// Takes those that are due, if there is none that waits to go.
    pub(super) fn take_due(&mut self, now: Moment) -> Vec<HeldEntry> {
        let mut due = Vec::new();
        while self.rows.is_empty()
            && due.len() < ROWS_AT_ONCE
            && let Some(entry) = self.next.first_entry().filter(|entry| entry.key().0 <= now)
        {
            due.push(entry.remove());
        }
        for entry in &due {
            *self.under_way.entry(entry.ordinal).or_default() += 1;
        }
        due
    }

    /// Whether some are due, and none waits to go.
    pub(super) fn is_due(&self, now: Moment) -> bool {
        self.rows.is_empty() && self.next_due().is_some_and(|due| due <= now)
    }

    /// The event is not to go any more.
    pub(super) fn remove(&mut self, entry: &HeldEntry) {
        self.next.retain(|(_, ordinal), _| *ordinal != entry.ordinal);
    }
}

fn key(entry: &HeldEntry) -> (Moment, Ordinal) {
    (entry.hold.due.unwrap_or(Moment::MAX), entry.ordinal)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lsn::Position;
    use crate::status::{Hold, Reason};

    fn entry(due: Moment, ordinal: Ordinal) -> HeldEntry {
        HeldEntry {
            ordinal,
            id: ordinal.to_string(),
            xid: 0,
            position: Position::ORIGIN,
            hold: Hold { due: Some(due), ..Hold::waiting(Reason::Scheduled) },
            topic: None,
            key: None,
            max_attempts: None,
            redelivery: false,
            bytes: 0,
            since: 0,
        }
    }

    fn ordinals(due: &[HeldEntry]) -> Vec<Ordinal> {
        due.iter().map(|entry| entry.ordinal).collect()
    }

    #[test]
    fn the_earliest_goes_first_and_equal_times_keep_their_order() {
        let mut schedule = Schedule::default();
        for (due, ordinal) in [(20, 1), (10, 3), (10, 2), (30, 4)] {
            schedule.add(entry(due, ordinal));
        }
        assert_eq!(schedule.next_due(), Some(10));
        assert_eq!(ordinals(&schedule.take_due(20)), [2, 3, 1]);
        schedule.remove(&entry(30, 4));
        assert_eq!(schedule.next_due(), None);
    }

    #[test]
    fn memory_is_bounded_and_the_rest_is_read_when_its_time_comes() {
        let mut schedule = Schedule::default();
        let most = i64::try_from(2 * KEPT).unwrap();
        for ordinal in 0..=most {
            schedule.add(entry(ordinal, ordinal));
        }
        assert_eq!(schedule.next.len(), KEPT);
        let last = most / 2 - 1;
        schedule.add(entry(last + 1, most + 1));
        assert_eq!(schedule.next.len(), KEPT, "it is in the database");
        schedule.add(entry(0, most + 2));
        assert_eq!(schedule.next.len(), KEPT + 1, "it comes before");
        while !schedule.take_due(Moment::MAX).is_empty() {}
        assert_eq!(schedule.wants_page(), Some((last, last)));
        schedule.add_page(vec![entry(last + 1, last + 1)]);
        assert_eq!(schedule.take_due(Moment::MAX).len(), 1);
        schedule.add_page(Vec::new());
        assert_eq!(schedule.wants_page(), None);
    }
}
