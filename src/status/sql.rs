//! The statements that write statuses, for one table and one status map.
//!
//! Every one that moves the position does so first, in a `moved` that the rest depends on: where
//! the place is lost, nothing happens at all. The table is named, but only while the name still
//! belongs to the OID that was captured, so a table that was swapped in is never written.

use crate::outbox::columns::{Kind, LayoutColumn};
use crate::outbox::status::{Mode, StatusMap};
use crate::postgres::{OutboxTable, TableName, quote_ident, quote_literal};

/// What the statements are made for.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) oid: u32,
    pub(super) name: TableName,
    pub(super) id: String,
    pub(super) id_type: String,
    mode: Mode,
    /// `"status" = 'SENT', "sent_at" = now()`; nothing where no row ever says so.
    sent: String,
    /// Whether the events come from a sweep that the stream may repeat: they are noted, so that
    /// the stream leaves them out.
    pub(super) swept: bool,
}

impl Target {
    pub(super) fn new(table: &OutboxTable, id: &LayoutColumn, status: &StatusMap) -> Self {
        let mut sent = Vec::new();
        if let Some((column, label)) = &status.status {
            sent.push(format!("{} = {}", quote_ident(&column.name), quote_literal(label)));
        }
        if let Some(column) = &status.sent_at {
            let now = match column.kind {
                // A timestamp without time zone holds UTC.
                Kind::Timestamp => "(now() AT TIME ZONE 'UTC')",
                _ => "now()",
            };
            sent.push(format!("{} = {now}", quote_ident(&column.name)));
        }
        if let Some(column) = &status.sent_flag {
            sent.push(format!("{} = true", quote_ident(&column.name)));
        }
        if let Some(column) = &status.next_attempt_at {
            sent.push(format!("{} = NULL", quote_ident(&column.name)));
        }
        if !status.writes_sent() {
            sent.clear();
        }
        Self {
            oid: table.oid,
            name: table.name.clone(),
            id: quote_ident(&id.name),
            id_type: table.type_sql(&id.name).unwrap_or("text").to_owned(),
            mode: status.mode,
            sent: sent.join(", "),
            swept: false,
        }
    }

    pub(super) fn for_sweep(&self) -> Self {
        Self { swept: true, ..self.clone() }
    }

    pub(super) fn renamed(&self, name: TableName) -> Self {
        Self { name, ..self.clone() }
    }

    /// For events whose rows say that they failed, where the mode leaves rows alone: such a row says
    /// in the end that its event was sent. None where every row does, or has no column for it.
    pub(super) fn for_failed(&self) -> Option<Self> {
        let leaves_rows_alone = matches!(self.mode, Mode::Ledger | Mode::None);
        (leaves_rows_alone && self.writes_rows())
            .then(|| Self { mode: Mode::Update, ..self.clone() })
    }

    /// Whether rows are ever written because their events were sent.
    pub(super) fn writes_rows(&self) -> bool {
        self.mode == Mode::Delete || !self.sent.is_empty()
    }

    /// Whether there are rows at all; otherwise no statement may name the table.
    pub(super) fn has_table(&self) -> bool {
        self.oid != 0
    }

    /// The name still belongs to the OID; of messages nothing can be mistaken.
    pub(super) fn is_same_table(&self) -> String {
        if !self.has_table() {
            return "true".to_owned();
        }
        OutboxTable::is_called(self.oid, &self.name)
    }

    /// `$1 $2` new position, `$3` relay, `$4` epoch, `$5 $6` old position, `$7` what may be
    /// confirmed.
    fn moved(&self) -> String {
        format!(
            "moved AS (UPDATE outboxd.relay \
             SET position_lsn = $1, position_index = $2, settled_at = now(), \
                 confirmable_lsn = greatest(confirmable_lsn, $7) \
             WHERE relay_id = $3 AND epoch = $4 AND position_lsn = $5 AND position_index = $6 \
               AND {} RETURNING 1)",
            self.is_same_table()
        )
    }

    /// Rows of the ids in `ids` get their status, if `condition` holds. With `skip_locked`, those
    /// that somebody else has locked are left out.
    fn shown(&self, ids: &str, condition: &str, skip_locked: bool) -> String {
        let Self { name, id, id_type, sent, .. } = self;
        let write = match self.mode {
            Mode::Delete => format!("DELETE FROM {name} o"),
            Mode::Update | Mode::Ledger | Mode::None => format!("UPDATE {name} o SET {sent}"),
        };
        let chosen = format!("o.{id} = ANY ({ids}::{id_type}[])");
        if skip_locked {
            format!(
                "shown AS ({write} WHERE o.{id} IN (\
                 SELECT o.{id} FROM {name} o WHERE {chosen} FOR NO KEY UPDATE SKIP LOCKED) \
                 AND {condition} RETURNING o.{id} AS id)"
            )
        } else {
            format!("shown AS ({write} WHERE {chosen} AND {condition} RETURNING o.{id} AS id)")
        }
    }

    /// What could not be shown goes into the ledger, with the full id of the inserting
    /// transaction: the stream tells the low half, the snapshot the epoch next to it.
    fn deferred(&self, ids: &str, xids: &str, condition: &str) -> String {
        let Self { id_type, swept, .. } = self;
        format!(
            "deferred AS (INSERT INTO outboxd.ledger \
                (relay_id, event_id, verdict, unwritten, xid, swept) \
             SELECT $3, b.id, 'sent', true, {full_xid}, {swept} \
             FROM unnest({ids}, {xids}) AS b (id, xid) \
             CROSS JOIN (SELECT pg_snapshot_xmax(pg_current_snapshot())::text::int8 AS next) AS s \
             WHERE {condition} AND (SELECT count(*) FROM shown) < cardinality({ids}) \
               AND NOT EXISTS (SELECT FROM shown WHERE shown.id = b.id::{id_type}) \
             ON CONFLICT (relay_id, event_id) \
                DO UPDATE SET verdict = 'sent', unwritten = true, xid = excluded.xid, \
                    swept = ledger.swept OR excluded.swept \
             RETURNING 1)",
            // A sweep knows no transaction, and has seen its rows.
            full_xid = "CASE WHEN b.xid = 0 THEN '0'::xid8 ELSE \
                (s.next + ((b.xid - s.next + 2147483648) & 4294967295) - 2147483648)::text::xid8 END",
        )
    }

    /// Those that a sweep published and whose rows show it.
    fn noted(&self) -> String {
        if !self.swept {
            return String::new();
        }
        ", noted AS (INSERT INTO outboxd.ledger AS l (relay_id, event_id, verdict, swept) \
         SELECT $3, shown.id::text, 'sent', true FROM shown \
         ON CONFLICT (relay_id, event_id) DO UPDATE SET swept = true)"
            .to_owned()
    }

    /// One statement for a run of events: `$8` ids, `$9` transactions. Gives how often the
    /// position moved (0 or 1) and how many statuses were deferred.
    pub(super) fn settle(&self) -> String {
        let moved = self.moved();
        let is_ours = "EXISTS (SELECT FROM moved)";
        match self.mode {
            Mode::None => format!("WITH {moved} SELECT (SELECT count(*) FROM moved), 0::int8"),
            Mode::Ledger => format!(
                "WITH {moved}, noted AS (\
                 INSERT INTO outboxd.ledger AS l (relay_id, event_id, verdict, swept) \
                 SELECT $3, b.id, 'sent', {swept} FROM unnest($8::text[]) AS b (id) WHERE {is_ours} \
                 ON CONFLICT (relay_id, event_id) \
                    DO UPDATE SET verdict = 'sent', swept = l.swept OR excluded.swept) \
                 SELECT (SELECT count(*) FROM moved), 0::int8",
                swept = self.swept
            ),
            Mode::Update | Mode::Delete => {
                let shown = self.shown("$8::text[]", is_ours, false);
                let deferred = self.deferred("$8::text[]", "$9::int8[]", is_ours);
                let noted = self.noted();
                format!(
                    "WITH {moved}, {shown}, {deferred}{noted} \
                     SELECT (SELECT count(*) FROM moved), (SELECT count(*) FROM deferred)"
                )
            }
        }
    }

    /// Only moves the position: the first step of a run that is settled in parts.
    pub(super) fn move_only(&self) -> String {
        format!("WITH {} SELECT count(*) FROM moved", self.moved())
    }

    /// The statuses of a part: `$1` ids, `$2` transactions, `$3` relay. Rows that are locked are
    /// deferred. Gives how many were.
    pub(super) fn write_part(&self) -> String {
        match self.mode {
            Mode::Update | Mode::Delete => {
                let shown = self.shown("$1::text[]", "true", true);
                let deferred = self.deferred("$1::text[]", "$2::int8[]", "true");
                format!("WITH {shown}, {deferred}{} SELECT count(*) FROM deferred", self.noted())
            }
            Mode::Ledger => format!(
                "WITH noted AS (\
                 INSERT INTO outboxd.ledger AS l (relay_id, event_id, verdict, swept) \
                 SELECT $3, b.id, 'sent', {swept} FROM unnest($1::text[], $2::int8[]) AS b (id, xid) \
                 ON CONFLICT (relay_id, event_id) \
                    DO UPDATE SET verdict = 'sent', swept = l.swept OR excluded.swept) \
                 SELECT 0::int8",
                swept = self.swept
            ),
            Mode::None => "SELECT 0::int8 WHERE $1::text[] IS NOT NULL AND $2::int8[] IS NOT NULL \
                           AND $3::text IS NOT NULL"
                .to_owned(),
        }
    }

    /// Defers a part without trying its rows; the same parameters and result.
    pub(super) fn defer_part(&self) -> String {
        let deferred = self.deferred("$1::text[]", "$2::int8[]", "true");
        let none = format!("shown AS (SELECT NULL::{} AS id WHERE false)", self.id_type);
        format!("WITH {none}, {deferred} SELECT count(*) FROM deferred")
    }

    /// One deferred status, into its row if that can be: `$1` relay, `$2` id. The entry goes when
    /// the row shows it, or when the inserting transaction is visible and the row is not there;
    /// one that the stream still needs, because a sweep published its event, stays, and so does a
    /// verdict that has no other place.
    pub(super) fn catch_up(&self) -> String {
        let Self { name, id, id_type, .. } = self;
        let keeps = self.mode == Mode::Ledger;
        let is_same_table = self.is_same_table();
        let shown = self.shown("ARRAY[$2::text]", &is_same_table, true);
        format!(
            "WITH {shown}, done AS (SELECT l.swept OR {keeps} AS stays FROM outboxd.ledger l \
             WHERE l.relay_id = $1 AND l.event_id = $2 AND l.unwritten AND {is_same_table} AND ( \
                 EXISTS (SELECT FROM shown) \
                 OR pg_visible_in_snapshot(l.xid, pg_current_snapshot()) \
                    AND NOT EXISTS (SELECT FROM {name} o WHERE o.{id} = $2::text::{id_type}))), \
             kept AS (UPDATE outboxd.ledger l SET unwritten = false FROM done \
             WHERE l.relay_id = $1 AND l.event_id = $2 AND done.stays), \
             gone AS (DELETE FROM outboxd.ledger l USING done \
             WHERE l.relay_id = $1 AND l.event_id = $2 AND NOT done.stays) \
             SELECT count(*) FROM done"
        )
    }
}

/// The deferred statuses of a relay after the one of `$3` at `$2`, the oldest first.
pub(super) const DEFERRED: &str = "SELECT at::text, event_id FROM outboxd.ledger \
     WHERE relay_id = $1 AND unwritten AND (at, event_id) > ($2::text::timestamptz, $3) \
     ORDER BY at, event_id LIMIT 100";

/// Whether the position is the one that was written: `$1` relay, `$2` epoch, `$3 $4` position.
pub(super) const IS_AT: &str = "SELECT EXISTS (SELECT FROM outboxd.relay \
     WHERE relay_id = $1 AND epoch = $2 AND position_lsn = $3 AND position_index = $4)";

/// The slot may be confirmed up to `$3`: `$1` relay, `$2` epoch.
pub(super) const ALLOW_CONFIRMING: &str = "UPDATE outboxd.relay \
     SET confirmable_lsn = greatest(confirmable_lsn, $3) \
     WHERE relay_id = $1 AND epoch = $2";
