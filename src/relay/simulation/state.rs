//! What a database and its relay know, from one session to the next.

use std::collections::{BTreeMap, BTreeSet};

use super::outbox::Row;
use super::table::HeldTable;
use super::tally::Tally;
use crate::lsn::{Lsn, Position};

/// How an event stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    Open,
    Sent,
    /// By an operator.
    GivenUp,
    /// Its row was deleted before it was due, or says that it is not to be published.
    Cancelled,
}

/// What changes.
pub(super) struct State {
    /// `confirmed_flush_lsn`, and what a crash of the server makes of it.
    pub(super) confirmed: Lsn,
    pub(super) persisted: Lsn,
    /// The relay's row.
    pub(super) epoch: i64,
    pub(super) position: Position,
    pub(super) confirmable: Lsn,
    pub(super) is_paused: bool,
    /// Nobody does anything any more.
    pub(super) is_left_alone: bool,
    pub(super) paused_topics: BTreeSet<String>,
    /// Every topic that was ever paused.
    pub(super) were_paused: BTreeSet<String>,
    pub(super) partitions: BTreeMap<String, i32>,
    /// The first so many events are SENT, held or given up.
    pub(super) settled: usize,
    pub(super) standing: Vec<Standing>,
    /// A sweep has published them, as the ledger says.
    pub(super) noted: Vec<bool>,
    /// They were held at some time, and not as scheduled.
    pub(super) was_held: Vec<bool>,
    pub(super) deferred: u64,
    pub(super) table: HeldTable,
    /// The outbox.
    pub(super) rows: Vec<Option<Row>>,
    /// How often each event is in Kafka, and its dead letter, and how much of the log was looked at.
    pub(super) copies: Vec<u32>,
    pub(super) letters: Vec<u32>,
    pub(super) looked_at: usize,
    /// They hold back their keys no more, though they are not in Kafka.
    pub(super) passed: Vec<bool>,
    /// Per lane, the first event that is not through.
    pub(super) fronts: Vec<usize>,
    /// Copies that a fault explains, and those that somebody asked for.
    pub(super) excused: u64,
    pub(super) asked_for: u64,
    pub(super) tally: Tally,
}

impl State {
    pub(super) fn new(rows: Vec<Row>, lanes: usize, deferred: u64) -> Self {
        let events = rows.len();
        Self {
            confirmed: Lsn::INVALID,
            persisted: Lsn::INVALID,
            epoch: 0,
            position: Position::ORIGIN,
            confirmable: Lsn::INVALID,
            is_paused: false,
            is_left_alone: false,
            paused_topics: BTreeSet::new(),
            were_paused: BTreeSet::new(),
            partitions: BTreeMap::new(),
            settled: 0,
            standing: vec![Standing::Open; events],
            noted: vec![false; events],
            was_held: vec![false; events],
            deferred,
            table: HeldTable::default(),
            rows: rows.into_iter().map(Some).collect(),
            copies: vec![0; events],
            letters: vec![0; events],
            looked_at: 0,
            passed: vec![false; events],
            fronts: vec![0; lanes],
            excused: 0,
            asked_for: 0,
            tally: Tally::default(),
        }
    }

    /// What changes as long as anything goes on.
    pub(super) fn marks(&self) -> (usize, usize, usize) {
        (self.settled, self.looked_at, self.table.rows.len())
    }

    /// Whether an event holds back its key no more.
    pub(super) fn is_through(&self, number: usize) -> bool {
        self.copies[number] > 0 || self.letters[number] > 0 || self.passed[number]
    }

    /// Its row says SENT.
    pub(super) fn is_sent(&mut self, number: usize) {
        assert!(self.copies[number] > 0, "event {number} is SENT and not in Kafka");
        self.standing[number] = Standing::Sent;
        if let Some(row) = &mut self.rows[number] {
            row.is_pending = false;
        }
    }

    /// How many events that are to go are held, and at least how many bytes.
    pub(super) fn held(&self) -> (usize, u64) {
        let held = self.table.to_go();
        held.fold((0, 0), |(count, bytes), (_, row)| (count + 1, bytes + row.bytes()))
    }
}
