//! The status store in PostgreSQL.
//!
//! The usual run is one statement in one round trip. It waits for a locked row at most a fraction
//! of `deadlock_timeout`, so the application is never the victim of a deadlock with us. A run that
//! fails because of a row (locked for longer, refused by a constraint or trigger) is settled once
//! more, carefully: locked rows are left out, the rest is halved until the refused one is alone,
//! and their statuses go to `outboxd.ledger`, which counts as durable. Everything else that fails
//! is not the rows' doing and is the caller's to handle.

use std::cell::{OnceCell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio_postgres::error::SqlState;
use tokio_postgres::types::{PgLsn, ToSql};
use tokio_postgres::{Client, Statement};

use super::batch::EventIds;
use super::held_sql::FailureColumns;
use super::held_store::{self as held, RowSource};
use super::sql::{ALLOW_CONFIRMING, DEFERRED, IS_AT, Target};
use super::{
    Batch, CaughtUp, Change, DueRow, HeldBody, HeldEntry, Orders, Settled, StatusStore, StoreError,
};
use crate::ack::{Moment, Ordinal};
use crate::lsn::{Lsn, Position};
use crate::outbox::columns::LayoutColumn;
use crate::outbox::status::StatusMap;
use crate::postgres::{Error, OutboxTable, SqlSession};

/// What a store is opened with.
pub struct StoreOptions<'a> {
    /// Whose statuses.
    pub relay_id: &'a str,
    /// Raised when this relay took its place.
    pub epoch: i64,
    /// The outbox.
    pub table: &'a OutboxTable,
    /// Its id column.
    pub id: &'a LayoutColumn,
    /// The column that says how often an event is tried, if there is one.
    pub max_attempts: Option<&'a LayoutColumn>,
    /// How statuses are written.
    pub status: &'a StatusMap,
    /// The server's, in milliseconds.
    pub deadlock_timeout: i64,
}

/// Statuses in PostgreSQL, over the session that holds the relay's lock.
pub struct PgStatusStore {
    session: Rc<SqlSession>,
    pub(super) relay_id: String,
    pub(super) epoch: i64,
    prepared: RefCell<Rc<Prepared>>,
    pass: RefCell<Pass>,
    pub(super) failures: FailureColumns,
    /// The table's columns, in order.
    columns: Vec<String>,
}

/// A pass over the deferred statuses, and then over the failures.
pub(super) struct Pass {
    /// The last one that was tried, by its time and id.
    after: (String, String),
    /// The last failure that was tried, by its number.
    pub(super) after_failure: Ordinal,
    pub(super) left: u64,
}

impl Default for Pass {
    fn default() -> Self {
        Self { after: ("-infinity".to_owned(), String::new()), after_failure: 0, left: 0 }
    }
}

struct Prepared {
    target: Target,
    settle: Statement,
    /// For the events of a sweep; prepared when there is one.
    sweep: OnceCell<(Target, Statement)>,
}

/// A status waits no longer than this for a row that somebody else has locked.
const LOCK_WAIT: Duration = Duration::from_millis(100);
/// Catching up holds back the next run for about this long at most.
pub(super) const CATCH_UP_TIME: Duration = Duration::from_millis(20);

impl PgStatusStore {
    /// Prepares the session for writing statuses.
    ///
    /// # Errors
    /// The connection broke, or the statements do not fit the table.
    pub async fn open(
        session: Rc<SqlSession>,
        options: &StoreOptions<'_>,
    ) -> Result<Self, StoreError> {
        let quarter = u64::try_from(options.deadlock_timeout / 4).unwrap_or(1).max(1);
        session.set_lock_timeout(LOCK_WAIT.min(Duration::from_millis(quarter))).await?;
        // A plan that was made while the table was small must not read all of it later.
        session.client.batch_execute("SET enable_seqscan = off").await.map_err(Error::from)?;
        let target = Target::new(options.table, options.id, options.status);
        let prepared = Prepared::new(&session.client, target).await?;
        let columns = &options.table.layout.columns;
        Ok(Self {
            session,
            relay_id: options.relay_id.to_owned(),
            epoch: options.epoch,
            prepared: RefCell::new(Rc::new(prepared)),
            pass: RefCell::default(),
            failures: FailureColumns::new(options.table, options.status, options.max_attempts),
            columns: columns.iter().map(|column| column.name.clone()).collect(),
        })
    }

    pub(super) fn client(&self) -> &Client {
        &self.session.client
    }

    /// The usual run, by the one statement.
    async fn settle_at_once(
        &self,
        target: &Target,
        settle: &Statement,
        batch: &Batch,
    ) -> Result<Settled, StoreError> {
        let place = Place::new(batch);
        let xids = wide(batch.events.xids());
        let mut parameters = place.parameters(&self.relay_id, &self.epoch);
        let place_parameters = parameters.len();
        // Mode `none` has no use for the ids, mode `ledger` none for the transactions.
        let events: [&(dyn ToSql + Sync); 2] = [&batch.events, &xids];
        parameters.extend(events.into_iter().take(settle.params().len() - place_parameters));
        match self.client().query_one(settle, &parameters).await.map_err(Error::from) {
            Ok(row) if row.get::<_, i64>(0) == 1 => {
                let deferred = u64::try_from(row.get::<_, i64>(1)).unwrap_or(0);
                Ok(Settled { deferred, ordinals: Vec::new() })
            }
            // The position did not move.
            Ok(_) => Err(StoreError::Fenced),
            Err(error) if is_a_rows_doing(&error) => {
                tracing::debug!(
                    sqlstate = error.sqlstate().map(SqlState::code),
                    "settling in parts"
                );
                self.settle_in_parts(target, batch).await
            }
            Err(error) => Err(error.into()),
        }
    }

    /// `COMMIT` of a transaction that has failed rolls back and reports no error.
    pub(super) async fn prove(&self, batch: &Batch) -> Result<(), StoreError> {
        let (lsn, index) = Place::new(batch).to;
        let parameters: [&(dyn ToSql + Sync); 4] = [&self.relay_id, &self.epoch, &lsn, &index];
        let row = self.client().query_one(IS_AT, &parameters).await.map_err(Error::from)?;
        if row.get(0) { Ok(()) } else { Err(StoreError::Fenced) }
    }

    pub(super) async fn write_part(&self, sql: &str, events: &EventIds) -> Result<u64, Error> {
        let row =
            self.client().query_one(sql, &[events, &wide(events.xids()), &self.relay_id]).await?;
        Ok(u64::try_from(row.get::<_, i64>(0)).unwrap_or(0))
    }

    pub(super) async fn execute(&self, sql: &str) -> Result<(), StoreError> {
        Ok(self.client().batch_execute(sql).await.map_err(Error::from)?)
    }

    async fn catch_up_under(&self, target: &Target) -> Result<CaughtUp, StoreError> {
        let began = Instant::now();
        let sql = target.catch_up();
        // A pass that fails starts anew.
        let mut pass = self.pass.take();
        let (at, event_id) = &pass.after;
        let rows = match target.writes_rows() {
            true => self.client().query(DEFERRED, &[&self.relay_id, at, event_id]).await,
            false => Ok(Vec::new()),
        };
        let rows = rows.map_err(Error::from)?;
        if rows.is_empty() {
            let is_done = !self.shows_failures() || self.show_failures(target, &mut pass).await?;
            if is_done {
                return Ok(CaughtUp::All { left: pass.left });
            }
            self.pass.replace(pass);
            return Ok(CaughtUp::Partly);
        }
        for row in rows {
            let event_id: String = row.get(1);
            match self.client().query_one(&sql, &[&self.relay_id, &event_id]).await {
                Ok(row) if row.get::<_, i64>(0) > 0 => {}
                Ok(_) => pass.left += 1,
                Err(error) => match Error::from(error) {
                    error if is_a_rows_doing(&error) => pass.left += 1,
                    error => return Err(error.into()),
                },
            }
            pass.after = (row.get(0), event_id);
            if began.elapsed() >= CATCH_UP_TIME {
                break;
            }
        }
        self.pass.replace(pass);
        Ok(CaughtUp::Partly)
    }

    /// What failed may go under the name that the table has now, if that is another one; else it
    /// failed.
    async fn renamed(
        &self,
        prepared: &Prepared,
        failure: StoreError,
    ) -> Result<Rc<Prepared>, StoreError> {
        let oid = prepared.target.oid;
        if !prepared.target.has_table() {
            return Err(failure);
        }
        let name = OutboxTable::current_name(self.client(), oid).await?;
        let name = name.ok_or(StoreError::TableGone)?;
        if name == prepared.target.name {
            return Err(failure);
        }
        tracing::info!(from = %prepared.target.name, to = %name, "the outbox table was renamed");
        let target = prepared.target.renamed(name);
        let prepared = Rc::new(Prepared::new(self.client(), target).await?);
        self.prepared.replace(Rc::clone(&prepared));
        Ok(prepared)
    }
}

/// Whether that can come of a table that has another name now: none has the old one, or another one
/// has it and the position did not move.
fn may_be_renamed(error: &StoreError) -> bool {
    match error {
        StoreError::Fenced => true,
        StoreError::Postgres(error) => error.sqlstate() == Some(&SqlState::UNDEFINED_TABLE),
        StoreError::TableGone => false,
    }
}

impl Prepared {
    async fn new(client: &Client, target: Target) -> Result<Self, StoreError> {
        let settle = client.prepare(&target.settle()).await.map_err(Error::from)?;
        Ok(Self { target, settle, sweep: OnceCell::new() })
    }

    /// What settles a run: the target and its one statement.
    async fn for_batch(
        &self,
        client: &Client,
        swept: bool,
    ) -> Result<(&Target, &Statement), StoreError> {
        if !swept {
            return Ok((&self.target, &self.settle));
        }
        if self.sweep.get().is_none() {
            let target = self.target.for_sweep();
            let settle = client.prepare(&target.settle()).await.map_err(Error::from)?;
            // One run at a time is settled: nobody was faster.
            let _ = self.sweep.set((target, settle));
        }
        let prepared = self.sweep.get().map(|(target, settle)| (target, settle));
        Ok(prepared.unwrap_or((&self.target, &self.settle)))
    }
}

impl StatusStore for PgStatusStore {
    async fn settle(&self, batch: &Batch) -> Result<Settled, StoreError> {
        let mut prepared = Rc::clone(&self.prepared.borrow());
        loop {
            let (target, settle) = prepared.for_batch(self.client(), batch.swept).await?;
            let is_simple = batch.held.is_empty() && batch.came_due.is_empty();
            let settled = match is_simple {
                true => self.settle_at_once(target, settle, batch).await,
                false => self.settle_in_parts(target, batch).await,
            };
            match settled {
                Err(error) if may_be_renamed(&error) => {
                    prepared = self.renamed(&prepared, error).await?;
                }
                settled => return settled,
            }
        }
    }

    async fn allow_confirming(&self, lsn: Lsn) -> Result<bool, StoreError> {
        let lsn = PgLsn::from(lsn.to_wire());
        let parameters: [&(dyn ToSql + Sync); 3] = [&self.relay_id, &self.epoch, &lsn];
        match self.client().execute(ALLOW_CONFIRMING, &parameters).await.map_err(Error::from) {
            Ok(1) => Ok(true),
            Ok(_) => Err(StoreError::Fenced),
            Err(error) if is_a_rows_doing(&error) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    async fn catch_up(&self) -> Result<CaughtUp, StoreError> {
        let prepared = Rc::clone(&self.prepared.borrow());
        match self.catch_up_under(&prepared.target).await {
            Err(error) if may_be_renamed(&error) => {
                self.renamed(&prepared, error).await?;
                Ok(CaughtUp::Partly)
            }
            caught_up => caught_up,
        }
    }
    async fn was_swept(&self, event_id: &str) -> Result<bool, StoreError> {
        let sql = "SELECT EXISTS (SELECT FROM outboxd.ledger WHERE relay_id = $1 \
                     AND event_id = $2 AND (swept OR verdict <> 'sent')) \
                   OR EXISTS (SELECT FROM outboxd.held_event \
                     WHERE relay_id = $1 AND event_id = $2)";
        let row = self.client().query_one(sql, &[&self.relay_id, &event_id]).await;
        Ok(row.map_err(Error::from)?.get(0))
    }

    async fn held(&self, after: Ordinal) -> Result<Vec<HeldEntry>, StoreError> {
        held::entries(self.client(), &self.relay_id, after).await
    }

    async fn at_rest(&self) -> Result<(u64, u64), StoreError> {
        held::at_rest(self.client(), &self.relay_id).await
    }

    async fn bodies(&self, ordinals: &[Ordinal]) -> Result<Vec<HeldBody>, StoreError> {
        held::bodies(self.client(), &self.relay_id, ordinals).await
    }

    async fn redeem(&self, changes: &[Change], swept: bool) -> Result<Settled, StoreError> {
        let mut prepared = Rc::clone(&self.prepared.borrow());
        loop {
            let (target, _) = prepared.for_batch(self.client(), swept).await?;
            match self.in_transaction(self.write_changes(target, changes)).await {
                Err(error) if may_be_renamed(&error) => {
                    prepared = self.renamed(&prepared, error).await?;
                }
                done => return done,
            }
        }
    }

    async fn orders(&self) -> Result<Orders, StoreError> {
        held::orders(self.client(), &self.relay_id).await
    }

    async fn scheduled(&self, after: (Moment, Ordinal)) -> Result<Vec<HeldEntry>, StoreError> {
        held::scheduled_entries(self.client(), &self.relay_id, after).await
    }

    async fn due_rows(&self, events: &[HeldEntry]) -> Result<Vec<DueRow>, StoreError> {
        let mut prepared = Rc::clone(&self.prepared.borrow());
        if !prepared.target.has_table() {
            // Somebody asked for the row of another table.
            return Ok(vec![DueRow::Gone; events.len()]);
        }
        loop {
            let source = RowSource {
                table: &prepared.target.name,
                columns: &self.columns,
                id: &prepared.target.id,
                id_type: &prepared.target.id_type,
            };
            let rows = held::due_rows(self.client(), &self.relay_id, &source, events).await;
            // Rows that another table of that name does not have are not gone.
            let name = OutboxTable::current_name(self.client(), prepared.target.oid).await?;
            match rows {
                Ok(rows) if name.as_ref() == Some(&prepared.target.name) => return Ok(rows),
                Ok(_) => prepared = self.renamed(&prepared, StoreError::TableGone).await?,
                Err(error) if may_be_renamed(&error) => {
                    prepared = self.renamed(&prepared, error).await?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn remember_partitions(&self, partitions: &[(String, i32)]) -> Result<(), StoreError> {
        held::remember_partitions(self.client(), &self.relay_id, self.epoch, partitions).await
    }
}

/// The positions of a run as parameters `$1`, `$2`, `$5` and `$6`, and what may be confirmed as `$7`.
pub(super) struct Place {
    to: (PgLsn, i64),
    from: (PgLsn, i64),
    confirmable: PgLsn,
}

impl Place {
    pub(super) fn new(batch: &Batch) -> Self {
        let pair = |position: Position| {
            (PgLsn::from(position.commit.to_wire()), i64::from(position.index))
        };
        let confirmable = PgLsn::from(batch.confirmable.to_wire());
        Self { to: pair(batch.to), from: pair(batch.from), confirmable }
    }

    pub(super) fn parameters<'a>(
        &'a self,
        relay_id: &'a String,
        epoch: &'a i64,
    ) -> Vec<&'a (dyn ToSql + Sync)> {
        let Self { to, from, confirmable } = self;
        vec![&to.0, &to.1, relay_id, epoch, &from.0, &from.1, confirmable]
    }
}

fn wide(xids: &[u32]) -> Vec<i64> {
    xids.iter().copied().map(i64::from).collect()
}

/// Whether a statement failed because of the rows that it wrote, and not because of the server,
/// our rights or the connection. What a constraint or trigger raises can have any code, so this
/// names what is *not* a row's doing.
pub(crate) fn is_a_rows_doing(error: &Error) -> bool {
    let Error::Server { sqlstate, in_context, .. } = error else {
        return false;
    };
    let is_one_of = |classes: &[&str]| {
        let code = sqlstate.code();
        classes.iter().any(|class| code.starts_with(class))
    };
    // Somebody else has the row: a lock, a deadlock, a statement that waited too long.
    if is_one_of(&["55P03", "40P01", "40001", "57014"]) {
        return true;
    }
    let servers = ["08", "28", "53", "57", "58", "F0", "XX"];
    // Of our own statement these would be a fault; in a trigger they are the trigger's.
    let ours = ["0A", "25", "3D", "42", "54", "55"];
    !is_one_of(&servers) && (*in_context || !is_one_of(&ours))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rows_doing_is_told_from_the_servers() {
        let says = |code| {
            is_a_rows_doing(&Error::Server {
                sqlstate: SqlState::from_code(code),
                message: String::new(),
                in_context: false,
            })
        };
        for row in ["23514", "23505", "22012", "P0001", "44000", "55P03", "40P01", "MY001"] {
            assert!(says(row), "{row}");
        }
        for server in ["42501", "42P01", "57P01", "53100", "25006", "08006", "XX000", "55000"] {
            assert!(!says(server), "{server}");
        }
        assert!(!is_a_rows_doing(&Error::Closed));
    }
}
