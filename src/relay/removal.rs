//! The statements that remove what is sent and old: rows, and what is remembered of them.
//!
//! Each looks at some pages of one heap, so its work is bounded whatever the size of the table, and
//! needs no index. What is chosen is locked before it is removed, and what somebody else has locked
//! is left for another time: nobody waits for us. Every one of them does nothing where the relay's
//! epoch is not ours any more.

use std::time::Duration;

use super::unsent::Unsent;
use crate::outbox::EventMap;
use crate::outbox::columns::{Field, Kind, LayoutColumn};
use crate::outbox::status::{Mode, StatusMap};
use crate::postgres::{Heap, OutboxTable, TableName, quote_ident, quote_literal};

/// Longer than PostgreSQL's times reach back.
const AFTER_MAX: f64 = 1.0e11;

/// How a row says that it was sent, and when.
#[derive(Debug, Clone)]
pub(super) struct Marks {
    status: Option<(LayoutColumn, String)>,
    sent_flag: Option<LayoutColumn>,
    sent_at: Option<LayoutColumn>,
    /// The time of sending; else the times when it happened and was due, which are no later.
    times: Vec<LayoutColumn>,
}

impl Marks {
    /// None where a row cannot say both.
    pub(super) fn of(status: &StatusMap, map: &EventMap) -> Option<Self> {
        let is_time =
            |column: &&LayoutColumn| matches!(column.kind, Kind::Timestamp | Kind::TimestampTz);
        let column = |field| map.mapping().column(field).filter(is_time).cloned();
        let times: Vec<_> = match &status.sent_at {
            Some(column) => vec![column.clone()],
            None => {
                let occurred = column(Field::OccurredAt)?;
                [Some(occurred), column(Field::ScheduledAt)].into_iter().flatten().collect()
            }
        };
        let (status, sent_at) = (status, status.sent_at.clone());
        let shows = status.status.is_some() || status.sent_flag.is_some() || sent_at.is_some();
        shows.then(|| Self {
            status: status.status.clone(),
            sent_flag: status.sent_flag.clone(),
            sent_at,
            times,
        })
    }

    /// The row `row.` was sent before `limit`: every mark says so.
    fn is_older(&self, row: &str, limit: &str) -> String {
        let name = |column: &LayoutColumn| format!("{row}{}", quote_ident(&column.name));
        let mut all = Vec::new();
        if let Some((column, label)) = &self.status {
            all.push(format!("{} = {}", name(column), quote_literal(label)));
        }
        all.extend(self.sent_flag.iter().map(|column| format!("{} IS TRUE", name(column))));
        all.extend(self.sent_at.iter().map(|column| format!("{} IS NOT NULL", name(column))));
        all.push(format!("{} < {limit}", self.time(row)));
        all.join(" AND ")
    }

    /// Since when, at the latest.
    fn time(&self, row: &str) -> String {
        let instant = |column: &LayoutColumn| {
            let name = quote_ident(&column.name);
            match column.kind {
                // A timestamp without time zone holds UTC.
                Kind::Timestamp => format!("({row}{name} AT TIME ZONE 'UTC')"),
                _ => format!("{row}{name}"),
            }
        };
        let times: Vec<_> = self.times.iter().map(instant).collect();
        format!("greatest({})", times.join(", "))
    }
}

/// What is cleaned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kept {
    /// Rows of the outbox that show that they were sent.
    Rows,
    /// `outboxd.ledger`, where it is the ledger that says what was sent with the rows.
    Ledger,
    /// `outboxd.audit`.
    Audit,
}

/// The statements, for one table and one status map.
#[derive(Debug, Clone)]
pub(super) struct Removal {
    relay_id: String,
    /// What is older may go.
    limit: String,
    /// Raised when this relay took its place.
    epoch: i64,
    oid: u32,
    table: TableName,
    id: String,
    id_type: String,
    /// A row `o` is to be published, as far as it can say so.
    pending: String,
    /// None where rows do not show that they were sent.
    marks: Option<Marks>,
    /// Whether a row is sent if the ledger says so.
    by_ledger: bool,
}

/// Pages of a heap, behind a place in the first of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Span {
    /// As PostgreSQL writes a row's place; rows behind it.
    pub(super) after: String,
    /// The first page that is not meant.
    pub(super) until: i64,
}

impl Span {
    pub(super) fn of(from: i64, until: i64) -> Self {
        // No row has the number 0.
        Self { after: format!("({from},0)"), until }
    }

    fn holds(&self, alias: &str) -> String {
        let Self { after, until } = self;
        format!("{alias}.ctid > '{after}' AND {alias}.ctid < '({until},0)'")
    }
}

impl Removal {
    pub(super) fn new(
        unsent: &Unsent<'_>,
        status: &StatusMap,
        epoch: i64,
        after: Duration,
    ) -> Self {
        let relay_id = quote_literal(unsent.relay_id);
        let seconds = after.as_secs_f64().min(AFTER_MAX);
        Self {
            limit: format!("now() - {seconds} * interval '1 second'"),
            relay_id,
            epoch,
            oid: unsent.table.oid,
            table: unsent.table.name.clone(),
            id: unsent.id(),
            id_type: unsent.id_type().to_owned(),
            pending: unsent.pending(),
            marks: Marks::of(status, unsent.map).filter(|_| status.mode == Mode::Update),
            by_ledger: status.mode == Mode::Ledger,
        }
    }

    /// The same for a table that has another name now.
    pub(super) fn renamed(&mut self, name: TableName) {
        self.table = name;
    }

    /// A row `o` was sent long enough ago.
    fn is_old(&self) -> String {
        let marks = self.marks.as_ref();
        marks.map_or("false".to_owned(), |marks| marks.is_older("o.", &self.limit))
    }

    /// This relay still has its place, and the name still is the table's.
    fn is_ours(&self) -> String {
        let Self { relay_id, epoch, oid, table, .. } = self;
        let is_called = OutboxTable::is_called(*oid, table);
        format!(
            "EXISTS (SELECT FROM outboxd.relay r WHERE r.relay_id = {relay_id} AND r.epoch = {epoch} \
             AND {is_called})"
        )
    }

    /// Nobody holds the event `id`: not this relay, and no other one of the same table.
    fn is_free(id: &str) -> String {
        // Each OFFSET keeps it what it is: for a row that is chosen, a look into the index per relay.
        format!(
            "NOT EXISTS (SELECT FROM outboxd.relay a CROSS JOIN LATERAL ( \
                SELECT FROM outboxd.held_event h \
                WHERE h.relay_id = a.relay_id AND h.event_id = {id} OFFSET 0) h OFFSET 0)"
        )
    }

    /// Gives how many of the pages' rows are old, and in how many seconds the next one will be.
    pub(super) fn look(&self, kept: Kept, heap: &Heap, span: &Span) -> String {
        let Self { relay_id, limit, table, .. } = self;
        let (holds, pages) = (heap.holds(), span.holds("o"));
        let at = || "o.at".to_owned();
        let (from, is_old, time) = match kept {
            Kept::Rows => {
                let time = self.marks.as_ref().map(|marks| marks.time("o."));
                (table.to_string(), self.is_old(), time.unwrap_or_else(|| limit.clone()))
            }
            Kept::Ledger => {
                let is_old = format!("NOT o.unwritten AND NOT o.swept AND o.at < {limit}");
                ("outboxd.ledger".to_owned(), is_old, at())
            }
            Kept::Audit => ("outboxd.audit".to_owned(), format!("o.at < {limit}"), at()),
        };
        let mine = match kept {
            Kept::Rows => String::new(),
            Kept::Ledger | Kept::Audit => format!(" AND o.relay_id = {relay_id}"),
        };
        format!(
            "SELECT count(*) FILTER (WHERE {is_old}), \
                extract(epoch FROM min({time}) FILTER (WHERE ({is_old}) IS NOT TRUE) - ({limit}))::float8 \
             FROM {from} o WHERE {holds} AND {pages}{mine}"
        )
    }

    /// Removes at most `most` of them. Gives how many were looked at, how many rows and how many
    /// others were removed, and the place of the last one.
    pub(super) fn remove(&self, kept: Kept, heap: &Heap, span: &Span, most: u32) -> String {
        let Self { relay_id, limit, table, .. } = self;
        let (holds, pages, is_ours) = (heap.holds(), span.holds("o"), self.is_ours());
        match kept {
            Kept::Rows => {
                let (is_old, is_free) =
                    (self.is_old(), Self::is_free(&format!("o.{}::text", self.id)));
                format!(
                    "WITH chosen AS MATERIALIZED (SELECT o.ctid AS place FROM {table} o \
                        WHERE {holds} AND {pages} AND {is_old} AND {is_free} AND {is_ours} \
                        ORDER BY o.ctid LIMIT {most} FOR UPDATE OF o SKIP LOCKED), \
                     gone AS (DELETE FROM {table} o WHERE {holds} \
                        AND o.ctid = ANY (ARRAY(SELECT place FROM chosen)) RETURNING 1) \
                     SELECT (SELECT count(*) FROM chosen), (SELECT count(*) FROM gone), 0::int8, {LAST}"
                )
            }
            Kept::Audit => format!(
                "WITH chosen AS MATERIALIZED (SELECT o.ctid AS place FROM outboxd.audit o \
                    WHERE {pages} AND o.relay_id = {relay_id} AND o.at < {limit} AND {is_ours} \
                    ORDER BY o.ctid LIMIT {most} FOR UPDATE OF o SKIP LOCKED), \
                 gone AS (DELETE FROM outboxd.audit o \
                    WHERE o.ctid = ANY (ARRAY(SELECT place FROM chosen)) RETURNING 1) \
                 SELECT (SELECT count(*) FROM chosen), 0::int8, (SELECT count(*) FROM gone), {LAST}"
            ),
            Kept::Ledger => self.trim_ledger(&pages, most),
        }
    }

    /// An entry goes with the row that it belongs to, where the ledger says what was sent;
    /// otherwise when nothing depends on it any more: its row is gone, or says itself that it is
    /// not to be published. None goes while the stream can bring again what a sweep has seen.
    fn trim_ledger(&self, pages: &str, most: u32) -> String {
        let Self { relay_id, limit, table, id, id_type, pending, by_ledger, .. } = self;
        let (is_free, is_ours) = (Self::is_free("o.event_id"), self.is_ours());
        format!(
            "WITH chosen AS MATERIALIZED ( \
                SELECT o.ctid AS place, o.event_id, o.verdict, o.xmin AS written FROM outboxd.ledger o \
                WHERE {pages} AND o.relay_id = {relay_id} AND NOT o.unwritten AND NOT o.swept \
                  AND o.at < {limit} AND {is_free} AND {is_ours} \
                  AND EXISTS (SELECT FROM outboxd.relay r WHERE r.relay_id = {relay_id} \
                     AND r.sweep = 'complete' AND r.position_lsn >= coalesce(r.sweep_until, '0/0')) \
                ORDER BY o.ctid LIMIT {most} FOR UPDATE OF o SKIP LOCKED), \
             seen AS MATERIALIZED (SELECT o.{id}::text AS event_id, bool_or({pending}) AS is_pending \
                FROM {table} o WHERE o.{id} = ANY (ARRAY( \
                   SELECT c.event_id::{id_type} FROM chosen c)) GROUP BY 1), \
             locked AS MATERIALIZED (SELECT o.{id} AS id FROM {table} o WHERE {by_ledger} \
                AND o.{id} = ANY (ARRAY(SELECT c.event_id::{id_type} FROM chosen c \
                   WHERE c.verdict = 'sent')) FOR UPDATE OF o SKIP LOCKED), \
             gone AS (DELETE FROM {table} o WHERE {by_ledger} \
                AND o.{id} = ANY (ARRAY(SELECT l.id FROM locked l)) RETURNING o.{id}::text AS event_id), \
             trimmed AS (DELETE FROM outboxd.ledger o WHERE o.ctid = ANY (ARRAY( \
                SELECT c.place FROM chosen c LEFT JOIN seen s ON s.event_id = c.event_id \
                WHERE c.event_id IN (SELECT g.event_id FROM gone g) \
                   OR s.event_id IS NULL \
                      AND age(c.written) > age(pg_snapshot_xmin(pg_current_snapshot())::xid) \
                   OR s.is_pending IS FALSE AND NOT ({by_ledger} AND c.verdict = 'sent'))) RETURNING 1) \
             SELECT (SELECT count(*) FROM chosen), (SELECT count(*) FROM gone), \
                (SELECT count(*) FROM trimmed), {LAST}"
        )
    }

    /// Whether the pages have a row that keeps its heap from being dropped.
    pub(super) fn other_rows(&self, heap: &Heap, span: &Span) -> String {
        let (table, holds, pages) = (&self.table, heap.holds(), span.holds("o"));
        let is_old = self.is_old();
        let is_free = Self::is_free(&format!("o.{}::text", self.id));
        format!(
            "SELECT EXISTS (SELECT FROM {table} o WHERE {holds} AND {pages} \
             AND ({is_old} AND {is_free}) IS NOT TRUE)"
        )
    }

    /// What is true of every row of a heap that may be dropped, `limit` being a time in UTC, as a
    /// constraint says it.
    pub(super) fn constraint(&self, limit: &str) -> String {
        let limit = format!("{}::timestamptz", quote_literal(limit));
        let marks = self.marks.as_ref();
        marks
            .map_or("false".to_owned(), |marks| format!("({}) IS TRUE", marks.is_older("", &limit)))
    }

    /// Drops a partition, if the name is still its own and the proof still holds. The table is locked
    /// before it, as everybody else does.
    pub(super) fn drop(&self, heap: &Heap, constraint: &str) -> String {
        let (table, name, oid) = (&self.table, &heap.name, heap.oid);
        let (literal, proof) = (quote_literal(&name.to_string()), quote_literal(constraint));
        format!(
            "DO $outboxd$ BEGIN \
             LOCK TABLE ONLY {table} IN ACCESS EXCLUSIVE MODE; \
             LOCK TABLE ONLY {name} IN ACCESS EXCLUSIVE MODE; \
             IF {literal}::regclass::oid = {oid} AND EXISTS (SELECT FROM pg_constraint \
                WHERE conrelid = {oid} AND conname = {proof} AND convalidated) \
             THEN DROP TABLE {name}; \
             ELSE RAISE 'it changed' USING ERRCODE = 'check_violation'; END IF; \
             END $outboxd$"
        )
    }

    /// The time before which what was sent is old, as text.
    pub(super) fn limit(&self) -> String {
        format!("SELECT ({})::text", self.limit)
    }
}

/// The place of the last one that was looked at.
const LAST: &str = "(SELECT c.place::text FROM chosen c ORDER BY c.place DESC LIMIT 1)";
