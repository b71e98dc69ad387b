//! The transactions of several statements: runs of which something is held, runs whose rows refuse
//! their status, and what became of held events.

use std::collections::HashSet;
use std::future::Future;
use std::time::Instant;

use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;

use super::batch::EventIds;
use super::held_sql::{FAILED, GUARD, LOCK, UNWRITTEN};
use super::held_store as held;
use super::sql::Target;
use super::store::{CATCH_UP_TIME, Pass, PgStatusStore, Place, is_a_rows_doing};
use super::{Batch, Became, Change, Settled, StoreError};
use crate::ack::Ordinal;
use crate::failpoint;
use crate::postgres::Error;

impl PgStatusStore {
    /// The same run in parts, in one transaction, with what is held of it.
    pub(super) async fn settle_in_parts(
        &self,
        target: &Target,
        batch: &Batch,
    ) -> Result<Settled, StoreError> {
        let settled = self.in_transaction(self.write_run(target, batch)).await?;
        self.prove(batch).await?;
        Ok(settled)
    }

    /// Runs `work` in a transaction: all of it is done, or nothing.
    pub(super) async fn in_transaction<R>(
        &self,
        work: impl Future<Output = Result<R, StoreError>>,
    ) -> Result<R, StoreError> {
        // A deferred constraint is to refuse its own row, not all of them at the end.
        self.execute("BEGIN; SET CONSTRAINTS ALL IMMEDIATE").await?;
        match work.await {
            Ok(done) => {
                failpoint::pass("before_settle_commit");
                self.execute("COMMIT").await?;
                Ok(done)
            }
            Err(error) => {
                // If this fails too, the connection is gone, and the transaction with it.
                let _ = self.execute("ROLLBACK").await;
                Err(error)
            }
        }
    }

    async fn write_run(&self, target: &Target, batch: &Batch) -> Result<Settled, StoreError> {
        let place = Place::new(batch);
        let parameters = place.parameters(&self.relay_id, &self.epoch);
        let move_only = target.move_only();
        let row = self.client().query_one(&move_only, &parameters).await.map_err(Error::from)?;
        if row.get::<_, i64>(0) == 0 {
            return Err(StoreError::Fenced);
        }
        let deferred = self.write_statuses(target, &batch.events).await?;
        held::came_due(self.client(), &self.relay_id, &batch.came_due).await?;
        let shows = self.shows_failures();
        let ordinals = match batch.held.as_slice() {
            [] => Vec::new(),
            events => held::hold(self.client(), &self.relay_id, events, shows).await?,
        };
        Ok(Settled { deferred, ordinals })
    }

    /// Writes that events were sent, halving the run until a row that refuses it is alone. Gives
    /// how many were deferred.
    async fn write_statuses(&self, target: &Target, events: &EventIds) -> Result<u64, StoreError> {
        let (mut deferred, mut parts) = (0, Vec::new());
        if !events.is_empty() {
            parts.push((0, events.len()));
        }
        while let Some((start, end)) = parts.pop() {
            let part = events.slice(start, end);
            self.execute("SAVEPOINT part").await?;
            match self.write_part(&target.write_part(), &part).await {
                Ok(count) => deferred += count,
                Err(error) if !is_a_rows_doing(&error) => return Err(error.into()),
                Err(error) => {
                    self.execute("ROLLBACK TO SAVEPOINT part").await?;
                    if part.len() == 1 {
                        let event_id = part.iter().next().unwrap_or_default();
                        let sqlstate = error.sqlstate().map(SqlState::code);
                        tracing::warn!(
                            event_id,
                            sqlstate,
                            "a row refused its status; it is kept in the ledger"
                        );
                        deferred += self.write_part(&target.defer_part(), &part).await?;
                    } else {
                        let middle = start + part.len() / 2;
                        parts.extend([(middle, end), (start, middle)]);
                    }
                }
            }
        }
        Ok(deferred)
    }

    /// Whether a row can show that its event failed.
    pub(super) fn shows_failures(&self) -> bool {
        !self.failures.is_empty()
    }

    /// The failures that rows do not show yet. Whether that was all of them.
    pub(super) async fn show_failures(
        &self,
        target: &Target,
        pass: &mut Pass,
    ) -> Result<bool, StoreError> {
        let began = Instant::now();
        let after = pass.after_failure;
        let rows = self.client().query(UNWRITTEN, &[&self.relay_id, &after]).await;
        let rows = rows.map_err(Error::from)?;
        for row in &rows {
            let ordinal: Ordinal = row.get(0);
            let (id, error): (&str, Option<&str>) = (row.get(1), row.get(3));
            let (attempts, due) = (i64::from(row.get::<_, i32>(2)), row.get::<_, Option<i64>>(4));
            let sql = target.show_failure(&self.failures, row.get(5));
            let parameters: [&(dyn ToSql + Sync); 6] =
                [&self.relay_id, &id, &attempts, &error, &due, &ordinal];
            match self.client().query_one(&sql, &parameters).await.map_err(Error::from) {
                Ok(row) if row.get::<_, i64>(0) > 0 => {}
                Ok(_) => pass.left += 1,
                Err(error) if is_a_rows_doing(&error) => pass.left += 1,
                Err(error) => return Err(error.into()),
            }
            pass.after_failure = ordinal;
            if began.elapsed() >= CATCH_UP_TIME {
                return Ok(false);
            }
        }
        Ok(rows.is_empty())
    }

    pub(super) async fn write_changes(
        &self,
        target: &Target,
        changes: &[Change],
    ) -> Result<Settled, StoreError> {
        let ours = self.client().query_opt(GUARD, &[&self.relay_id, &self.epoch]).await;
        if ours.map_err(Error::from)?.is_none() {
            return Err(StoreError::Fenced);
        }
        // An operator's transaction can have some of them locked, for as long as it likes.
        let ordinals: Vec<Ordinal> = changes.iter().map(|change| change.ordinal).collect();
        let locked = self.client().query(LOCK, &[&self.relay_id, &ordinals]).await;
        let locked: Vec<Ordinal> =
            locked.map_err(Error::from)?.iter().map(|row| row.get(0)).collect();
        let free: Vec<Change>;
        let changes = if locked.is_empty() {
            changes
        } else {
            let is_free = |change: &&Change| !locked.contains(&change.ordinal);
            free = changes.iter().filter(is_free).cloned().collect();
            &free
        };
        let mut sent = EventIds::default();
        for change in changes.iter().filter(|change| change.became == Became::Sent) {
            sent.push(&change.id, change.xid);
        }
        let mut deferred = self.write_statuses(target, &sent).await?;
        if let Some(target) = target.for_failed() {
            deferred += self.write_statuses(&target, &self.failed_before(changes).await?).await?;
        }
        let shows = self.shows_failures();
        held::keep_books(self.client(), &self.relay_id, changes, target.swept, shows).await?;
        Ok(Settled { deferred, ordinals: locked })
    }

    /// Those that were sent and had failed before.
    async fn failed_before(&self, changes: &[Change]) -> Result<EventIds, StoreError> {
        let mut events = EventIds::default();
        let sent: Vec<&Change> =
            changes.iter().filter(|change| change.became == Became::Sent).collect();
        if sent.is_empty() {
            return Ok(events);
        }
        let ordinals: Vec<Ordinal> = sent.iter().map(|change| change.ordinal).collect();
        let failed = self.client().query(FAILED, &[&self.relay_id, &ordinals]).await;
        let failed: HashSet<Ordinal> =
            failed.map_err(Error::from)?.iter().map(|row| row.get(0)).collect();
        for change in sent.into_iter().filter(|change| failed.contains(&change.ordinal)) {
            events.push(&change.id, change.xid);
        }
        Ok(events)
    }
}
