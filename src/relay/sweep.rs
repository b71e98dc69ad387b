//! The sweep: publishes the unsent rows that no stream will bring, because they are older than the
//! slot.
//!
//! It reads them in one snapshot, in the order of a column that follows commit order as closely as
//! the table allows. Where the snapshot is the one that the slot was created with, stream and sweep
//! meet without a gap and without an overlap. Where it is a later one, because an earlier sweep died
//! or the slot was there before, they overlap: what the sweep published is noted in the ledger in
//! the transaction that settles it, and the stream leaves it out.

use std::future::poll_fn;
use std::pin::Pin;

use futures_core::Stream;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_postgres::{SimpleQueryMessage, SimpleQueryRow, SimpleQueryStream};

use super::board::{Board, wall_clock};
use super::capture::{Captive, content_of, of_no_id};
use super::disposition::{Fate, of_bind, of_postgres};
use super::flow::Flow;
use super::state::State;
use super::unsent::Unsent;
use crate::failpoint;
use crate::lsn::{Lsn, Position};
use crate::outbox::Mapper;
use crate::postgres::{Error, SqlSession, quote_ident, quote_literal};
use crate::shutdown::{Stop, stopped};
use crate::sink::Sink;
use crate::status::StatusStore;

/// Rows that are asked for at once. They are not buffered: what is not taken stays in the socket.
const ROWS_AT_ONCE: u32 = 1000;

/// What to sweep.
pub(super) struct SweepPlan<'a> {
    pub(super) unsent: Unsent<'a>,
    /// The slot's own snapshot, if there is one.
    pub(super) snapshot: Option<&'a str>,
    /// Everything at or before it is settled; a sweep does not move it.
    pub(super) position: Position,
    /// Larger rows are refused.
    pub(super) max_row_bytes: usize,
}

/// How a sweep ended.
pub(super) enum Swept {
    /// Every row is published and settled. Before this commit, the stream may repeat some of
    /// them.
    Done(Lsn),
    /// It was told to stop.
    Stopped,
}

/// The rows of a sweep, in a transaction of their own.
pub(super) struct Sweep {
    session: SqlSession,
    mapper: Mapper,
    /// Everything that the snapshot sees was committed before this.
    until: Lsn,
    rows: Option<Pin<Box<SimpleQueryStream>>>,
    rows_in_fetch: u32,
    column_count: usize,
    position: Position,
    max_row_bytes: usize,
    count: u64,
}

impl Sweep {
    /// Opens the snapshot. As soon as this returns, the connection that exported it may go on.
    pub(super) async fn open(session: SqlSession, plan: &SweepPlan<'_>) -> Result<Self, Fate> {
        let table = plan.unsent.table;
        let columns = &table.layout.columns;
        let mapper = plan.unsent.map.bind(&table.relation()).map_err(|error| of_bind(&error))?;
        let until = Self::begin(&session, plan).await;
        let until = until.map_err(|error| of_sweep(&error))?;
        Ok(Self {
            session,
            mapper,
            until,
            rows: None,
            rows_in_fetch: ROWS_AT_ONCE,
            column_count: columns.len(),
            position: plan.position,
            max_row_bytes: plan.max_row_bytes,
            count: 0,
        })
    }

    async fn begin(session: &SqlSession, plan: &SweepPlan<'_>) -> Result<Lsn, Error> {
        let client = &session.client;
        client.batch_execute("SET statement_timeout = 0").await?;
        client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
        if let Some(snapshot) = plan.snapshot {
            let sql = format!("SET TRANSACTION SNAPSHOT {}", quote_literal(snapshot));
            client.batch_execute(&sql).await?;
        }
        client
            .batch_execute(&format!("DECLARE swept NO SCROLL CURSOR FOR {}", select(plan)))
            .await?;
        if plan.snapshot.is_some() {
            return Ok(Lsn::INVALID);
        }
        // After the snapshot: whatever it sees was written before this.
        let row = client.query_one("SELECT pg_current_wal_insert_lsn()::text", &[]).await?;
        let text: String = row.get(0);
        text.parse().map_err(|_| Error::Protocol("a position that is none".into()))
    }

    /// Asks for more rows, if none are on their way. Whether there can be any.
    async fn fetch(&mut self) -> Result<bool, Error> {
        if self.rows.is_none() && self.rows_in_fetch > 0 {
            let sql = format!("FETCH {ROWS_AT_ONCE} FROM swept");
            self.rows = Some(Box::pin(self.session.client.simple_query_raw(&sql).await?));
            self.rows_in_fetch = 0;
        }
        Ok(self.rows.is_some())
    }

    /// The next row of those that were asked for; none after the last. Cancel-safe.
    async fn next_row(&mut self) -> Result<Option<SimpleQueryRow>, Error> {
        let Some(rows) = &mut self.rows else {
            return Ok(None);
        };
        while let Some(message) = poll_fn(|cx| rows.as_mut().poll_next(cx)).await {
            if let SimpleQueryMessage::Row(row) = message? {
                self.rows_in_fetch += 1;
                return Ok(Some(row));
            }
        }
        self.rows = None;
        Ok(None)
    }

    /// Publishes and settles every row.
    pub(super) async fn run<S: Sink, T: StatusStore + 'static>(
        mut self,
        flow: &mut Flow<S, T>,
        board: &mut Board,
        stop: &mut watch::Receiver<Stop>,
    ) -> Result<Swept, Fate> {
        flow.settler.swept = self.until.is_valid();
        flow.held.swept = self.until.is_valid();
        let mut at_end = false;
        while !(at_end && flow.is_empty()) {
            let now = Instant::now();
            flow.advance(now, at_end)?;
            flow.show(board, State::CatchingUp, now);
            let reads = !at_end && flow.has_room(0);
            if reads && !self.fetch().await.map_err(|error| of_sweep(&error))? {
                at_end = true;
                continue;
            }
            tokio::select! {
                biased;
                _ = stopped(stop, false) => {
                    drain(flow, stop).await?;
                    return Ok(Swept::Stopped);
                }
                woken = flow.woken(false) => flow.take_in(woken, Instant::now())?,
                row = self.next_row(), if reads => {
                    if let Some(row) = row.map_err(|error| of_sweep(&error))? {
                        self.put(&row, flow, now)?;
                    }
                }
            }
        }
        flow.settler.swept = false;
        tracing::info!(rows = self.count, "published the rows older than the slot");
        Ok(Swept::Done(self.until))
    }

    fn put<S: Sink, T: StatusStore + 'static>(
        &mut self,
        row: &SimpleQueryRow,
        flow: &mut Flow<S, T>,
        now: Instant,
    ) -> Result<(), Fate> {
        let mut values: Vec<_> =
            (0..self.column_count).map(|place| row.get(place).map(str::as_bytes)).collect();
        let wall = wall_clock();
        let (position, max) = (self.position, self.max_row_bytes);
        let Some(content) = content_of(&mut self.mapper, &mut values, position, wall, max) else {
            return Err(of_no_id("an event older than the slot", None));
        };
        failpoint::pass("in_sweep");
        self.count += 1;
        flow.put(&Captive { content, position, xid: 0, committed: wall }, now)
    }
}

/// What was sent is settled before the end, so that the next sweep does not send it again.
async fn drain<S: Sink, T: StatusStore + 'static>(
    flow: &mut Flow<S, T>,
    stop: &mut watch::Receiver<Stop>,
) -> Result<(), Fate> {
    flow.wind_down();
    while !flow.is_empty() {
        flow.advance(Instant::now(), true)?;
        tokio::select! {
            biased;
            asked = stopped(stop, true) => if asked.is_over() {
                return Ok(());
            },
            woken = flow.woken(false) => flow.take_in(woken, Instant::now())?,
        }
    }
    Ok(())
}

fn of_sweep(error: &Error) -> Fate {
    of_postgres(error, "read the rows older than the slot")
}

/// The unsent rows that nothing else knows of.
fn select(plan: &SweepPlan<'_>) -> String {
    let unsent = &plan.unsent;
    if !unsent.follows_commits() {
        tracing::warn!(
            "the table has no column that follows commit order: the rows older than the slot are \
             published by time, which can invert events of one key; name one in outbox.sweep_order"
        );
    }
    let columns: Vec<_> =
        unsent.table.layout.columns.iter().map(|c| quote_ident(&c.name)).collect();
    format!(
        "SELECT {} FROM {} o WHERE {} ORDER BY {}",
        columns.join(", "),
        unsent.table.name,
        unsent.condition(),
        unsent.order(),
    )
}
