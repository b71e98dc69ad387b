//! The relay's row and the statuses: the real rule, on a connection that fails before it, after it,
//! or lets it wait.

use std::cell::{Cell, RefCell};

use fastrand::Rng;
use tokio::time::Instant;

use super::wal::Connection;
use super::world::{Change, millis};
use crate::postgres::Error;
use crate::status::{Batch, CaughtUp, Settled, StatusStore, StoreError};

/// The store of one session.
pub(super) struct MemoryStore {
    connection: Connection,
    rng: RefCell<Rng>,
    /// The longest that a statement takes each way, in milliseconds.
    slow: u64,
    /// Whether a transaction is under way. The real ones share one session.
    in_use: Cell<bool>,
}

/// The session while one transaction has it.
struct InUse<'a>(&'a Cell<bool>);

impl Drop for InUse<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

/// A settle transaction on its way to the server, which may get there after its relay is gone.
struct Statement<'a> {
    store: &'a MemoryStore,
    change: Option<Change>,
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

    fn execute(&self, change: &Change) -> bool {
        let witness = &self.connection.witness;
        let is_done = witness.world.settle(change);
        if is_done {
            witness.has_settled(change.events.len());
        }
        is_done
    }
}

impl Drop for Statement<'_> {
    fn drop(&mut self) {
        let lands = !std::thread::panicking() && self.store.rng.borrow_mut().bool();
        if let Some(change) = self.change.take().filter(|_| lands)
            && self.store.execute(&change)
        {
            self.store.connection.witness.world.tally(|tally| tally.landed_late += 1);
        }
    }
}

impl StatusStore for MemoryStore {
    async fn settle(&self, batch: &Batch) -> Result<Settled, StoreError> {
        let _in_use = self.take();
        let witness = &self.connection.witness;
        let world = &witness.world;
        let mut statement = Statement { store: self, change: Some(witness.settles(batch)) };
        self.travel(self.slow).await.inspect_err(|_| world.tally(|tally| tally.unsettled += 1))?;
        if let Some(change) = statement.change.take()
            && !self.execute(&change)
        {
            witness.is_fenced();
            return Err(StoreError::Fenced);
        }
        self.travel(self.slow).await.inspect_err(|_| world.tally(|tally| tally.unheard += 1))?;
        witness.hears_of_settled(batch.events.len());
        let deferred = u64::from(self.rng.borrow_mut().u8(..8) == 0);
        world.state.borrow_mut().deferred += deferred;
        Ok(Settled { deferred })
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
        let was_swept = world.script.events[..world.swept].iter().any(|e| e.id == event_id);
        world.tally(|tally| tally.swept += u64::from(was_swept));
        Ok(was_swept)
    }
}
