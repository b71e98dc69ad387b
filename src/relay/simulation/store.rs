//! The relay's row, the statuses and what is held: the real rules, on a connection that fails before
//! a statement, after it, or lets it wait.

use std::cell::{Cell, RefCell};

use fastrand::Rng;
use tokio::time::Instant;

use super::wal::Connection;
use super::world::{Run, millis};
use crate::ack::{Moment, Ordinal};
use crate::lsn::Lsn;
use crate::postgres::Error;
use crate::status::{
    Batch, CaughtUp, Change, DueRow, HeldBody, HeldEntry, Orders, Reason, Request, Settled,
    StatusStore, StoreError,
};

/// The store of one session.
pub(super) struct MemoryStore {
    connection: Connection,
    rng: RefCell<Rng>,
    /// The longest that a statement takes each way, in milliseconds.
    slow: u64,
    /// Whether a transaction is under way. The real ones share one session.
    in_use: Cell<bool>,
}

/// So many rows are on a page.
const PAGE: usize = 3;

/// The session while one transaction has it.
struct InUse<'a>(&'a Cell<bool>);

impl Drop for InUse<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

/// What is written in one transaction.
enum Written {
    Run(Run),
    Changes(Vec<Change>, bool),
}

/// A transaction on its way to the server, which may get there after its relay is gone.
struct Statement<'a> {
    store: &'a MemoryStore,
    written: Option<Written>,
}

impl MemoryStore {
    pub(super) fn open(connection: Connection) -> Self {
        let mut rng = connection.witness.world.fork();
        let slow = [2, 20, 400][rng.usize(..3)];
        Self { connection, rng: RefCell::new(rng), slow, in_use: Cell::new(false) }
    }

    fn take(&self) -> InUse<'_> {
        assert!(!self.in_use.replace(true), "two transactions at once on one session");
        InUse(&self.in_use)
    }

    /// Half of a round trip, of at most so many milliseconds.
    async fn travel(&self, longest: u64) -> Result<(), Error> {
        let world = &self.connection.witness.world;
        let (way, fails) = {
            let rng = &mut *self.rng.borrow_mut();
            (millis(rng, 0..longest), world.is_troubled() && rng.u8(..) == 0)
        };
        self.connection.until(Instant::now() + way).await?;
        if fails { Err(self.connection.breaks()) } else { Ok(()) }
    }

    /// Whether the place was still there; with the numbers of what is held now.
    fn execute(&self, written: &Written) -> Option<Vec<Ordinal>> {
        let witness = &self.connection.witness;
        match written {
            Written::Run(run) => {
                let ordinals = witness.world.settle(run)?;
                witness.has_settled(run);
                Some(ordinals)
            }
            Written::Changes(changes, swept) => {
                let is_ours = witness.world.redeem(witness.epoch, changes, *swept);
                is_ours.then(|| witness.has_redeemed(changes)).map(|()| Vec::new())
            }
        }
    }

    async fn write(&self, written: Written) -> Result<Vec<Ordinal>, StoreError> {
        let witness = &self.connection.witness;
        let world = &witness.world;
        let mut statement = Statement { store: self, written: Some(written) };
        self.travel(self.slow).await.inspect_err(|_| world.tally(|tally| tally.unsettled += 1))?;
        let written = statement.written.take();
        let Some(ordinals) = written.and_then(|written| self.execute(&written)) else {
            witness.is_fenced();
            return Err(StoreError::Fenced);
        };
        self.travel(self.slow).await.inspect_err(|_| world.tally(|tally| tally.unheard += 1))?;
        Ok(ordinals)
    }

    /// Somebody may have some of the rows locked: nothing is written of these.
    fn without_locked(&self, changes: &[Change]) -> (Vec<Change>, Vec<Ordinal>) {
        let world = &self.connection.witness.world;
        let mut ordinals: Vec<_> = changes.iter().map(|change| change.ordinal).collect();
        ordinals.sort_unstable();
        ordinals.dedup();
        let has_lock =
            |_: &Ordinal| Instant::now() < world.calm_at && self.rng.borrow_mut().u8(..24) == 0;
        let locked: Vec<_> = ordinals.into_iter().filter(has_lock).collect();
        world.tally(|tally| tally.locked += locked.len() as u64);
        let free = changes.iter().filter(|change| !locked.contains(&change.ordinal));
        (free.cloned().collect(), locked)
    }

    fn defers(&self) -> u64 {
        let deferred = u64::from(self.rng.borrow_mut().u8(..8) == 0);
        self.connection.witness.world.state.borrow_mut().deferred += deferred;
        deferred
    }
}

impl Drop for Statement<'_> {
    fn drop(&mut self) {
        let lands = !std::thread::panicking() && self.store.rng.borrow_mut().bool();
        if let Some(written) = self.written.take().filter(|_| lands)
            && self.store.execute(&written).is_some()
        {
            self.store.connection.witness.world.tally(|tally| tally.landed_late += 1);
        }
    }
}

impl StatusStore for MemoryStore {
    async fn settle(&self, batch: &Batch) -> Result<Settled, StoreError> {
        let _in_use = self.take();
        let witness = &self.connection.witness;
        let run = witness.settles(batch);
        let count = run.stream.len();
        let ordinals = self.write(Written::Run(run)).await?;
        witness.hears_of_settled(count);
        Ok(Settled { deferred: self.defers(), ordinals })
    }

    async fn allow_confirming(&self, lsn: Lsn) -> Result<bool, StoreError> {
        let _in_use = self.take();
        self.travel(self.slow).await?;
        if self.rng.borrow_mut().u8(..8) == 0 {
            return Ok(false);
        }
        let witness = &self.connection.witness;
        if !witness.world.allow_confirming(witness.epoch, lsn) {
            witness.is_fenced();
            return Err(StoreError::Fenced);
        }
        self.travel(self.slow).await?;
        Ok(true)
    }

    async fn catch_up(&self) -> Result<CaughtUp, StoreError> {
        let _in_use = self.take();
        self.travel(self.slow).await?;
        let state = &mut *self.connection.witness.world.state.borrow_mut();
        state.deferred = self.rng.borrow_mut().u64(..=state.deferred);
        if self.rng.borrow_mut().bool() {
            return Ok(CaughtUp::Partly);
        }
        Ok(CaughtUp::All { left: state.deferred })
    }

    async fn was_swept(&self, event_id: &str) -> Result<bool, StoreError> {
        let _in_use = self.take();
        self.travel(5).await?;
        let world = &self.connection.witness.world;
        // It is asked about rows that are no events too.
        let was_swept = world.script.find(event_id).is_some_and(|number| world.was_swept(number));
        world.tally(|tally| tally.swept += u64::from(was_swept));
        Ok(was_swept)
    }

    async fn held(&self, after: Ordinal) -> Result<Vec<HeldEntry>, StoreError> {
        let _in_use = self.take();
        self.travel(5).await?;
        let state = self.connection.witness.world.state.borrow();
        let held = state.table.to_go().filter(|(ordinal, _)| *ordinal > after);
        Ok(held.filter_map(|(ordinal, _)| state.table.entry(ordinal)).take(PAGE).collect())
    }

    async fn at_rest(&self) -> Result<(u64, u64), StoreError> {
        let _in_use = self.take();
        self.travel(5).await?;
        let state = self.connection.witness.world.state.borrow();
        let rows = state.table.rows.values();
        let count = |reason| rows.clone().filter(move |row| row.hold.reason == reason);
        let scheduled = count(Reason::Scheduled);
        let scheduled = scheduled.filter(|row| row.request != Some(Request::Publish));
        Ok((count(Reason::Dead).count() as u64, scheduled.count() as u64))
    }

    async fn bodies(&self, ordinals: &[Ordinal]) -> Result<Vec<HeldBody>, StoreError> {
        let _in_use = self.take();
        self.travel(self.slow).await?;
        let bodies = {
            let state = self.connection.witness.world.state.borrow();
            let mut wanted = ordinals.to_vec();
            wanted.sort_unstable();
            wanted.dedup();
            wanted.iter().filter_map(|ordinal| state.table.body(*ordinal)).collect()
        };
        self.travel(self.slow).await?;
        Ok(bodies)
    }

    async fn redeem(&self, changes: &[Change], swept: bool) -> Result<Settled, StoreError> {
        let _in_use = self.take();
        let (free, locked) = self.without_locked(changes);
        self.connection.witness.redeems(&free);
        self.write(Written::Changes(free, swept)).await?;
        Ok(Settled { deferred: self.defers(), ordinals: locked })
    }

    async fn orders(&self) -> Result<Orders, StoreError> {
        let _in_use = self.take();
        let witness = &self.connection.witness;
        self.travel(self.slow).await?;
        let orders = witness.world.orders();
        self.travel(self.slow).await?;
        witness.hears_of_orders(&orders);
        Ok(orders)
    }

    async fn scheduled(&self, after: (Moment, Ordinal)) -> Result<Vec<HeldEntry>, StoreError> {
        let _in_use = self.take();
        self.travel(self.slow).await?;
        let page = {
            let state = self.connection.witness.world.state.borrow();
            let rows = state.table.rows.iter();
            let scheduled = rows.filter(|(_, row)| row.hold.reason == Reason::Scheduled);
            let keys = scheduled.filter_map(|(ordinal, row)| Some((row.hold.due?, *ordinal)));
            let mut keys: Vec<_> = keys.filter(|key| *key > after).collect();
            keys.sort_unstable();
            keys.iter().take(PAGE).filter_map(|(_, ordinal)| state.table.entry(*ordinal)).collect()
        };
        self.travel(self.slow).await?;
        Ok(page)
    }

    async fn due_rows(&self, events: &[HeldEntry]) -> Result<Vec<DueRow>, StoreError> {
        let _in_use = self.take();
        self.travel(self.slow).await?;
        let witness = &self.connection.witness;
        let rows = events.iter().map(|event| {
            let row = witness.world.row(&event.id);
            // A row can be there and not to be seen yet.
            let is_early = self.rng.borrow_mut().u8(..8) == 0;
            match &row {
                _ if is_early => (DueRow::NotYet, None),
                None => (DueRow::Gone, None),
                Some(found) => (DueRow::Found(found.values()), row),
            }
        });
        let rows: Vec<_> = rows.collect();
        self.travel(self.slow).await?;
        witness.finds(events, &rows);
        Ok(rows.into_iter().map(|(answer, _)| answer).collect())
    }

    async fn remember_partitions(&self, partitions: &[(String, i32)]) -> Result<(), StoreError> {
        let _in_use = self.take();
        self.travel(self.slow).await?;
        let witness = &self.connection.witness;
        if !witness.world.remember_partitions(witness.epoch, partitions) {
            witness.is_fenced();
            return Err(StoreError::Fenced);
        }
        self.travel(self.slow).await.map_err(StoreError::from)
    }
}
