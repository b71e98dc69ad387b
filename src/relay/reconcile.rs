//! Reconciling: finds rows that are unsent, although the stream is past them.
//!
//! A row that is merely not read yet is no such row. What tells them apart is a place in the WAL: a
//! row that a snapshot sees was committed before the WAL was flushed up to where it is after that
//! snapshot. Once that place is confirmed, everything before it is settled, and the statuses show.
//! What is unsent still, and neither held nor in the ledger, was missed (docs/adr/0014).

use tokio_postgres::Client;
use tokio_postgres::types::PgLsn;

use super::unsent::Unsent;
use crate::lsn::Lsn;
use crate::postgres::{Error, TableName};
use crate::status::{RelayRow, Sweep};

/// More candidates than this are not looked at at once.
pub(super) const CANDIDATES_MAX: usize = 100_000;

/// The statements that look for missed rows.
#[derive(Debug, Clone)]
pub struct Reconciler {
    relay_id: String,
    table: String,
    id: String,
    id_type: String,
    condition: String,
    order: String,
}

impl Reconciler {
    /// For these rows.
    pub fn new(unsent: &Unsent<'_>) -> Self {
        Self {
            relay_id: unsent.relay_id.to_owned(),
            table: unsent.table.name.to_string(),
            id: unsent.id(),
            id_type: unsent.id_type().to_owned(),
            condition: unsent.condition(),
            order: unsent.order(),
        }
    }

    /// The table has that name now.
    pub(super) fn follow(&mut self, name: &TableName) {
        self.table = name.to_string();
    }

    /// Rows of the whole table that are unsent and unknown, in the order of a sweep.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn candidates(&self, client: &Client) -> Result<Vec<String>, Error> {
        let Self { table, id, condition, order, .. } = self;
        let sql = format!(
            "SELECT o.{id}::text FROM {table} o WHERE {condition} ORDER BY {order} \
             LIMIT {CANDIDATES_MAX}"
        );
        client.batch_execute("SET statement_timeout = 0").await?;
        let rows = client.query(&sql, &[]).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// The same of some pages of the heap whose rows fulfil the condition `heap`.
    pub(super) async fn candidates_of(
        &self,
        client: &Client,
        heap: &str,
        (from, until): (i64, i64),
    ) -> Result<Vec<String>, Error> {
        let Self { table, id, condition, .. } = self;
        let sql = format!(
            "SELECT o.{id}::text FROM {table} o WHERE {heap} \
             AND o.ctid >= '({from},0)' AND o.ctid < '({until},0)' AND {condition}"
        );
        let rows = client.query(&sql, &[]).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// Everything that was seen before was committed before this place, and the stream comes past
    /// it, even if nothing else is written.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn place_behind(client: &Client) -> Result<Lsn, Error> {
        // Its commit is flushed, and with it whatever was committed without waiting for that.
        let mark = "SELECT pg_logical_emit_message(true, 'outboxd', 'reconcile')";
        client.execute(mark, &[]).await?;
        let row = client.query_one("SELECT pg_current_wal_flush_lsn()", &[]).await?;
        Ok(Lsn::from_wire(row.get::<_, PgLsn>(0).into()))
    }

    /// Which of the candidates are unsent and unknown still, in the order of a sweep. To be asked
    /// once the place behind them is confirmed.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn missed(
        &self,
        client: &Client,
        candidates: &[String],
    ) -> Result<Vec<String>, Error> {
        let Self { table, id, id_type, condition, order, .. } = self;
        let sql = format!(
            "SELECT o.{id}::text FROM {table} o \
             WHERE o.{id} = ANY ($1::text[]::{id_type}[]) AND {condition} ORDER BY {order}"
        );
        let rows = client.query(&sql, &[&candidates]).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// Asks the running relay to publish them, in this order.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn heal(&self, client: &Client, missed: &[String]) -> Result<(), Error> {
        let sql = "WITH held AS (INSERT INTO outboxd.held_event \
                (relay_id, event_id, reason, due_at, request) \
             SELECT $1, e.id, 'scheduled', now(), 'publish' \
             FROM unnest($2::text[]) WITH ORDINALITY AS e (id, place) ORDER BY e.place \
             ON CONFLICT (relay_id, event_id) DO NOTHING RETURNING 1) \
             SELECT pg_notify('outboxd', $1) FROM (SELECT count(*) FROM held) AS counted";
        client.execute(sql, &[&self.relay_id, &missed]).await?;
        let detail = serde_json::json!({"events": missed.len()});
        RelayRow::audit(client, &self.relay_id, "reconcile", &detail).await
    }
}

/// Where no relay runs: its next start sweeps every unsent row before it streams, and takes the
/// publication as it is then. Gives whether `epoch` still is the relay's.
///
/// # Errors
/// The connection broke.
pub async fn file_sweep(client: &Client, relay_id: &str, epoch: i64) -> Result<bool, Error> {
    if !RelayRow::remember_sweep(client, relay_id, epoch, Sweep::Incomplete, Lsn::INVALID).await? {
        return Ok(false);
    }
    RelayRow::forget_publication(client, relay_id, epoch).await?;
    RelayRow::audit(client, relay_id, "reconcile", &serde_json::json!({"sweep": true})).await?;
    Ok(true)
}
