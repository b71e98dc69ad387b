//! Statuses: what becomes durable before anything is confirmed.
//!
//! [`StatusStore::settle`] is the one transaction of the design: it writes the statuses of a run
//! of events and moves the position from where the last run ended to where this one ends, if this
//! relay still has its place. So an event is SENT or held if and only if its position is at or
//! before the stored one, whatever crashes. [`StatusStore::redeem`] is the other one: what became
//! of held events.

mod batch;
mod held;
mod held_sql;
mod held_store;
mod relay_row;
mod sql;
mod store;
mod transactions;

pub use batch::{EventIds, EventQueue, EventTimes};
pub use held::{
    Became, Change, DueRow, HeldBody, HeldContent, HeldEntry, HeldEvent, Hold, Orders, Reason,
    Request, Verdict,
};
pub use relay_row::{LastError, RelayRow, Sweep};
pub(crate) use store::is_a_rows_doing;
pub use store::{PgStatusStore, StoreOptions};

use std::future::Future;

use crate::ack::{Moment, Ordinal};
use crate::lsn::{Lsn, Position};
use crate::postgres;

/// A run of events to be settled, in the order of their positions.
#[derive(Debug, Default)]
pub struct Batch {
    /// The ids of those that Kafka has, and the transactions that inserted the rows.
    pub events: EventIds,
    /// The position of the last event settled before.
    pub from: Position,
    /// The position of the last one of these.
    pub to: Position,
    /// Up to here the slot may be confirmed once they are settled.
    pub confirmable: Lsn,
    /// Whether a sweep read them that the stream may repeat.
    pub swept: bool,
    /// Those of the run that are not sent but held, in order.
    pub held: Vec<HeldEvent>,
    /// Those of `events` that were held until now, as scheduled.
    pub came_due: Vec<String>,
}

/// What settling did, besides what was asked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settled {
    /// Rows that do not show their status yet, because they were locked, refused it, or cannot be
    /// seen yet; it is kept in `outboxd.ledger` until they do.
    pub deferred: u64,
    /// The numbers of the events that are held now, in order; of a redemption, those that somebody
    /// has locked and of which nothing was written.
    pub ordinals: Vec<Ordinal>,
}

/// How far a pass over the deferred statuses has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CaughtUp {
    /// There are more to be tried.
    Partly,
    /// Every one was tried; so many could not be written.
    All {
        /// They are tried again in the next pass.
        left: u64,
    },
}

/// Why a run was not settled. Nothing of it was.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The position or the epoch is not ours any more: another relay took over.
    #[error("the position was moved by another relay")]
    Fenced,
    /// The table is gone, or is another one.
    #[error("the outbox table is gone")]
    TableGone,
    /// PostgreSQL said no, or nothing.
    #[error(transparent)]
    Postgres(#[from] postgres::Error),
}

/// Where statuses are kept: the real place, or a test's.
pub trait StatusStore {
    /// Writes the statuses of a run and moves the position, in one transaction.
    fn settle(&self, batch: &Batch) -> impl Future<Output = Result<Settled, StoreError>>;

    /// Makes durable that the slot may be confirmed up to `lsn`. Whether it did: somebody else may
    /// have the relay's row locked. Not to be called while a transaction is under way.
    fn allow_confirming(&self, lsn: Lsn) -> impl Future<Output = Result<bool, StoreError>>;

    /// Tries again to write some of what was deferred into its rows, for no longer than a settle
    /// transaction takes. Not to be called while one is under way.
    fn catch_up(&self) -> impl Future<Output = Result<CaughtUp, StoreError>>;

    /// Whether the event was published or held by a sweep that the stream has not passed yet. Not
    /// to be called while a transaction is under way.
    fn was_swept(&self, event_id: &str) -> impl Future<Output = Result<bool, StoreError>>;

    /// The events held after the number `after` that are to go by themselves, in order; a page of
    /// them. None after the last.
    fn held(&self, after: Ordinal) -> impl Future<Output = Result<Vec<HeldEntry>, StoreError>>;

    /// How many events are held as dead, and how many as scheduled.
    fn at_rest(&self) -> impl Future<Output = Result<(u64, u64), StoreError>>;

    /// What is published of held events.
    fn bodies(
        &self,
        ordinals: &[Ordinal],
    ) -> impl Future<Output = Result<Vec<HeldBody>, StoreError>>;

    /// Makes durable what became of held events, in one transaction. With `swept`, the stream may
    /// bring them again, and is to leave them out.
    fn redeem(
        &self,
        changes: &[Change],
        swept: bool,
    ) -> impl Future<Output = Result<Settled, StoreError>>;

    /// What operators want.
    fn orders(&self) -> impl Future<Output = Result<Orders, StoreError>>;

    /// The scheduled events after the one of that time and number, the earliest first; a page of
    /// them.
    fn scheduled(
        &self,
        after: (Moment, Ordinal),
    ) -> impl Future<Output = Result<Vec<HeldEntry>, StoreError>>;

    /// The rows of scheduled events, in the same order.
    fn due_rows(
        &self,
        events: &[HeldEntry],
    ) -> impl Future<Output = Result<Vec<DueRow>, StoreError>>;

    /// Remembers how many partitions topics have.
    fn remember_partitions(
        &self,
        partitions: &[(String, i32)],
    ) -> impl Future<Output = Result<(), StoreError>>;
}
