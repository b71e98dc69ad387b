//! Rescheduling: finds scheduled events whose rows were moved to an earlier time, or are gone, and asks
//! the relay to look at them again.
//!
//! A scheduled event is what its row says when it is due, so its row is read then, and not before: the
//! publication carries no updates. A row that says an earlier time by now would be read too late, one
//! that was `infinity` never. What is looked at are the rows of scheduled events by their ids, a part of
//! them at a time; the table is never read for them. To ask once too often does no harm: the relay
//! takes what the row says.

use tokio_postgres::Client;

use super::RelayConfig;
use super::preflight::Outbox;
use crate::ack::Ordinal;
use crate::outbox::columns::{Field, Kind};
use crate::postgres::{Error, TableName, quote_ident};
use crate::status::RelayRow;

/// So many scheduled events are looked at at once.
const AT_ONCE: i64 = 10_000;

/// Where the next part begins: after the due time and number of the last one, as PostgreSQL writes them.
type Place = (String, Ordinal);

/// Looks at the rows of scheduled events, part by part.
#[derive(Debug, Clone)]
pub struct Rescheduler {
    relay_id: String,
    table: String,
    id: String,
    id_type: String,
    /// The row's time, as SQL; never null where a row without one is due at once.
    due: String,
    /// None at the beginning.
    after: Option<Place>,
}

impl Rescheduler {
    /// For these rows; none where no column says when they are due.
    pub fn new(config: &RelayConfig, outbox: &Outbox) -> Option<Self> {
        let mapping = outbox.events.mapping();
        let column = mapping.column(Field::ScheduledAt)?;
        let name = quote_ident(&column.name);
        let due = match column.kind {
            // A timestamp without time zone holds UTC.
            Kind::Timestamp => format!("(o.{name} AT TIME ZONE 'UTC')"),
            _ => format!("o.{name}"),
        };
        let due = match mapping.has_default(Field::ScheduledAt) {
            true => due,
            false => format!("coalesce({due}, '-infinity')"),
        };
        let unsent = outbox.unsent(config);
        Some(Self {
            relay_id: config.id.clone(),
            table: outbox.table.name.to_string(),
            id: unsent.id(),
            id_type: unsent.id_type().to_owned(),
            due,
            after: None,
        })
    }

    /// The table has that name now.
    pub(super) fn follow(&mut self, name: &TableName) {
        self.table = name.to_string();
    }

    /// Those of the next part that would be read too late, by their numbers; and whether that was the
    /// last part, after which the first comes again.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn look(&mut self, client: &Client) -> Result<(Vec<Ordinal>, bool), Error> {
        let Self { table, id, id_type, due, .. } = self;
        // Times beyond our reckoning are rounded: what differs by less than a second is not earlier.
        let sql = format!(
            "WITH part AS MATERIALIZED (SELECT ordinal, event_id, due_at FROM outboxd.held_event \
                WHERE relay_id = $1 AND reason = 'scheduled' AND request IS NULL \
                  AND (due_at, ordinal) > (greatest($2::text::timestamptz, now()), $3) \
                ORDER BY due_at, ordinal LIMIT {AT_ONCE}) \
             SELECT p.ordinal, p.due_at::text, \
                o.{id} IS NULL OR {due} < p.due_at - interval '1 second' \
             FROM part p LEFT JOIN {table} o ON o.{id} = p.event_id::{id_type} \
             ORDER BY p.due_at, p.ordinal"
        );
        let (at, ordinal) = self.after.take().unwrap_or(("-infinity".to_owned(), 0));
        // However many they are and whatever the planner thinks: each row by its id.
        let by_id = "BEGIN READ ONLY; SET LOCAL enable_seqscan = off; \
                     SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off";
        client.batch_execute(by_id).await?;
        let rows = client.query(&sql, &[&self.relay_id, &at, &ordinal]).await?;
        client.batch_execute("COMMIT").await?;
        let is_last = i64::try_from(rows.len()).is_ok_and(|count| count < AT_ONCE);
        if !is_last {
            self.after = rows.last().map(|row| (row.get(1), row.get(0)));
        }
        let late = rows.iter().filter(|row| row.get::<_, Option<bool>>(2) == Some(true));
        Ok((late.map(|row| row.get(0)).collect(), is_last))
    }

    /// Asks the relay to look at them again. What it finds becomes of them: they go, or are scheduled
    /// for another time, or are cancelled.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn ask(&self, client: &Client, ordinals: &[Ordinal]) -> Result<(), Error> {
        if ordinals.is_empty() {
            return Ok(());
        }
        let sql = "WITH asked AS (UPDATE outboxd.held_event SET request = 'retry' \
                WHERE relay_id = $1 AND ordinal = ANY ($2) AND reason = 'scheduled' \
                  AND request IS NULL RETURNING 1) \
             SELECT pg_notify('outboxd', $1) FROM (SELECT count(*) FROM asked) AS counted";
        client.execute(sql, &[&self.relay_id, &ordinals]).await?;
        let detail = serde_json::json!({"rescheduled": ordinals.len()});
        RelayRow::audit(client, &self.relay_id, "reconcile", &detail).await
    }
}
