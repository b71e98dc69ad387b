//! PostgreSQL's tables: what is durable of each event.

use std::collections::BTreeMap;

use fastrand::Rng;

use super::Id;
use crate::ack::{Moment, Ordinal};
use crate::lsn::Position;

/// Why an event is held, and what is known of it.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) id: Id,
    pub(super) hold: Hold,
    pub(super) request: Option<Request>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hold {
    /// Tried so often; goes again at this time, or when an operator says so.
    Retry {
        attempts: u32,
        due: Option<Moment>,
    },
    /// Behind one of its key, or its topic took no records.
    Parked,
    Scheduled(Moment),
    Dead,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    Retry,
    Skip,
}

/// What became of held events, to be made durable.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Sent,
    Hold(Hold),
    /// An operator's word, carried out.
    Skipped,
    /// Its row was deleted.
    Cancelled,
}

pub(super) struct Store {
    pub(super) epoch: u64,
    pub(super) position: Position,
    pub(super) sent: Vec<bool>,
    given_up: Vec<bool>,
    pub(super) held: BTreeMap<Ordinal, Row>,
    next_ordinal: Ordinal,
}

impl Store {
    pub(super) fn new(events: usize) -> Self {
        Self {
            epoch: 0,
            position: Position::ORIGIN,
            sent: vec![false; events],
            given_up: vec![false; events],
            held: BTreeMap::new(),
            next_ordinal: 1,
        }
    }

    fn row(&self, id: Id) -> Option<&Row> {
        self.held.values().find(|row| row.id == id)
    }

    pub(super) fn scheduled_at(&self, id: Id) -> Option<Moment> {
        match self.row(id)?.hold {
            Hold::Scheduled(due) => Some(due),
            _ => None,
        }
    }

    pub(super) fn is_dead(&self, id: Id) -> bool {
        self.row(id).is_some_and(|row| row.hold == Hold::Dead)
    }

    pub(super) fn is_given_up(&self, id: Id) -> bool {
        self.given_up[id]
    }

    pub(super) fn is_settled(&self, id: Id) -> bool {
        self.sent[id] || self.given_up[id] || self.row(id).is_some()
    }

    pub(super) fn is_final(&self, id: Id) -> bool {
        self.sent[id] || self.given_up[id] || self.is_dead(id)
    }

    /// Those that count for the bound.
    pub(super) fn held_count(&self) -> usize {
        let counts = |row: &&Row| !matches!(row.hold, Hold::Dead | Hold::Scheduled(_));
        self.held.values().filter(counts).count()
    }

    /// Holds an event anew: behind all that are held. Whatever was known of it is replaced.
    pub(super) fn hold(&mut self, id: Id, hold: Hold) -> Ordinal {
        self.held.retain(|_, row| row.id != id);
        let ordinal = self.next_ordinal;
        self.next_ordinal += 1;
        self.held.insert(ordinal, Row { id, hold, request: None });
        ordinal
    }

    /// A scheduled event was published.
    pub(super) fn send(&mut self, id: Id) {
        self.sent[id] = true;
        self.held.retain(|_, row| row.id != id);
    }

    pub(super) fn apply(&mut self, ordinal: Ordinal, change: &Change) {
        let Some(row) = self.held.get_mut(&ordinal) else {
            // It was moved, came due, and was settled meanwhile.
            if matches!(change, Change::Hold(Hold::Scheduled(_))) {
                return;
            }
            panic!("a held event is gone, and only the relay removes them");
        };
        let id = row.id;
        match change {
            Change::Hold(hold) => {
                row.hold = *hold;
                row.request = None;
                return;
            }
            Change::Sent => self.sent[id] = true,
            Change::Skipped | Change::Cancelled => self.given_up[id] = true,
        }
        self.held.remove(&ordinal);
    }

    /// An operator asks for something.
    pub(super) fn ask(&mut self, rng: &mut Rng) {
        if self.held.is_empty() {
            return;
        }
        let which = rng.usize(..self.held.len());
        if let Some(row) = self.held.values_mut().nth(which)
            && !matches!(row.hold, Hold::Scheduled(_))
        {
            row.request = Some(if rng.bool() { Request::Retry } else { Request::Skip });
        }
    }

    /// An operator retries whatever waits for one.
    pub(super) fn unblock_all(&mut self) {
        for row in self.held.values_mut() {
            if matches!(row.hold, Hold::Retry { due: None, .. }) {
                row.request = Some(Request::Retry);
            }
        }
    }
}
