//! The statements about held events.

use super::sql::Target;
use crate::outbox::columns::{Kind, LayoutColumn};
use crate::outbox::status::StatusMap;
use crate::postgres::{OutboxTable, quote_ident, quote_literal};

/// What a [`super::HeldEntry`] is read from.
pub(super) const ENTRY: &str = "SELECT ordinal, event_id, \
     coalesce(xid::text::int8 & 4294967295, 0), position_lsn, position_index, reason, attempts, \
     exhausted, (extract(epoch FROM due_at) * 1000000)::int8, topic, key, max_attempts, redelivery, \
     (coalesce(octet_length(value), 0) + octet_length(headers::text))::int8, request, \
     (extract(epoch FROM since) * 1000000)::int8 FROM outboxd.held_event";

/// Those that go by themselves: `$1` relay, `$2` the number before.
pub(super) fn held() -> String {
    format!(
        "{ENTRY} WHERE relay_id = $1 AND ordinal > $2 AND reason IN ('retry', 'topic', 'parked') \
         ORDER BY ordinal LIMIT 5000"
    )
}

/// The scheduled ones after the time `$2` and number `$3`.
pub(super) fn scheduled() -> String {
    format!(
        "{ENTRY} WHERE relay_id = $1 AND reason = 'scheduled' AND (due_at, ordinal) > \
         ('epoch'::timestamptz + $2 * interval '1 microsecond', $3) \
         ORDER BY due_at, ordinal LIMIT 5000"
    )
}

/// Those of which an operator wants something.
pub(super) fn requested() -> String {
    format!("{ENTRY} WHERE relay_id = $1 AND request IS NOT NULL ORDER BY ordinal LIMIT 5000")
}

/// What is published: `$1` relay, `$2` numbers.
pub(super) const BODIES: &str = "SELECT ordinal, partition, partition_hash, key, headers::text, \
     value, error_code, last_error, to_char(failed_at, 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'), \
     record_timestamp, event_type, position_lsn, position_index \
     FROM outboxd.held_event WHERE relay_id = $1 AND ordinal = ANY ($2)";

/// Holds events. One that is held already is held anew, behind all others.
pub(super) const HOLD: &str = "\
     INSERT INTO outboxd.held_event AS h (relay_id, event_id, position_lsn, position_index, reason, \
        event_type, topic, key, partition, partition_hash, headers, value, attempts, max_attempts, \
        exhausted, last_error, error_code, failed_at, due_at, redelivery, xid, unwritten, \
        record_timestamp) \
     SELECT $1, e.id, e.lsn, e.index, e.reason, e.type, e.topic, e.key, e.partition, e.hash, \
        e.headers::json, e.value, e.attempts, e.max_attempts, e.exhausted, e.error, e.code, \
        CASE WHEN e.error IS NOT NULL THEN now() END, \
        'epoch'::timestamptz + e.due * interval '1 microsecond', e.redelivery, \
        CASE WHEN e.xid <> 0 THEN (s.next + ((e.xid - s.next + 2147483648) & 4294967295) \
            - 2147483648)::text::xid8 END, \
        $21 AND e.reason IN ('retry', 'dead'), e.record_timestamp \
     FROM unnest($2::text[], $3::pg_lsn[], $4::int8[], $5::text[], $6::text[], $7::text[], \
        $8::bytea[], $9::int4[], $10::int8[], $11::text[], $12::bytea[], $13::int4[], $14::int4[], \
        $15::bool[], $16::text[], $17::text[], $18::int8[], $19::bool[], $20::int8[], $22::int8[]) \
        WITH ORDINALITY AS e (id, lsn, index, reason, type, topic, key, partition, hash, headers, \
        value, attempts, max_attempts, exhausted, error, code, due, redelivery, xid, record_timestamp, place) \
     CROSS JOIN (SELECT pg_snapshot_xmax(pg_current_snapshot())::text::int8 AS next) AS s \
     ORDER BY e.place \
     ON CONFLICT (relay_id, event_id) DO UPDATE SET ordinal = DEFAULT, \
        position_lsn = excluded.position_lsn, position_index = excluded.position_index, \
        reason = excluded.reason, event_type = excluded.event_type, topic = excluded.topic, \
        key = excluded.key, partition = excluded.partition, \
        partition_hash = excluded.partition_hash, headers = excluded.headers, \
        value = excluded.value, attempts = excluded.attempts, \
        max_attempts = excluded.max_attempts, exhausted = excluded.exhausted, \
        last_error = excluded.last_error, error_code = excluded.error_code, \
        failed_at = excluded.failed_at, due_at = excluded.due_at, \
        redelivery = h.redelivery OR excluded.redelivery, xid = coalesce(excluded.xid, h.xid), \
        unwritten = excluded.unwritten, record_timestamp = excluded.record_timestamp \
     RETURNING event_id, ordinal";

/// Those of `$2` ids that were scheduled are through.
/// What somebody has locked stays, and is found to be sent when it comes due again.
pub(super) const CAME_DUE: &str = "DELETE FROM outboxd.held_event WHERE ctid = ANY (ARRAY( \
     SELECT ctid FROM outboxd.held_event WHERE relay_id = $1 AND event_id = ANY ($2) \
     FOR UPDATE SKIP LOCKED))";

/// Locks what it can of `$2` numbers, and gives the others that are there.
pub(super) const LOCK: &str = "\
     WITH locked AS (SELECT ordinal FROM outboxd.held_event \
        WHERE relay_id = $1 AND ordinal = ANY ($2) FOR UPDATE SKIP LOCKED) \
     SELECT ordinal FROM outboxd.held_event WHERE relay_id = $1 AND ordinal = ANY ($2) \
     EXCEPT SELECT ordinal FROM locked";

/// The relay's row, locked, if the place is still ours: `$1` relay, `$2` epoch.
pub(super) const GUARD: &str =
    "SELECT FROM outboxd.relay WHERE relay_id = $1 AND epoch = $2 FOR UPDATE";

/// `$2` numbers are gone.
pub(super) const REMOVE: &str =
    "DELETE FROM outboxd.held_event WHERE relay_id = $1 AND ordinal = ANY ($2)";

/// They stay, like this.
pub(super) const KEEP: &str = "\
     UPDATE outboxd.held_event h SET reason = e.reason, attempts = e.attempts, \
        exhausted = e.exhausted, last_error = coalesce(e.error, h.last_error), \
        error_code = coalesce(e.code, h.error_code), \
        failed_at = CASE WHEN e.error IS NOT NULL THEN now() ELSE h.failed_at END, \
        due_at = 'epoch'::timestamptz + e.due * interval '1 microsecond', \
        request = CASE WHEN e.answers THEN NULL ELSE h.request END, \
        redelivery = h.redelivery OR $11, unwritten = $10 \
     FROM unnest($2::int8[], $3::text[], $4::int4[], $5::bool[], $6::text[], $7::text[], \
        $8::int8[], $9::bool[]) \
        AS e (ordinal, reason, attempts, exhausted, error, code, due, answers) \
     WHERE h.relay_id = $1 AND h.ordinal = e.ordinal";

/// `$2` numbers are scheduled for `$3`; `$4` says whether an operator asked for it, which is
/// recorded elsewhere.
pub(super) const MOVE: &str = "\
     WITH moved AS (UPDATE outboxd.held_event h \
        SET due_at = 'epoch'::timestamptz + e.due * interval '1 microsecond', \
            request = CASE WHEN h.request IN ('publish', 'retry') THEN NULL ELSE h.request END \
        FROM unnest($2::int8[], $3::int8[], $4::bool[]) AS e (ordinal, due, answers) \
        WHERE h.relay_id = $1 AND h.ordinal = e.ordinal AND reason = 'scheduled' \
        RETURNING h.event_id, h.due_at, e.answers) \
     INSERT INTO outboxd.audit (relay_id, actor, action, target, detail) \
     SELECT $1, 'outboxd', 'schedule moved', event_id, jsonb_build_object('due_at', due_at) \
     FROM moved WHERE NOT answers";

/// `$2` numbers had their rows deleted before they were due.
pub(super) const CANCEL: &str = "\
     WITH gone AS (DELETE FROM outboxd.held_event \
        WHERE relay_id = $1 AND ordinal = ANY ($2) RETURNING event_id) \
     INSERT INTO outboxd.audit (relay_id, actor, action, target) \
     SELECT $1, 'outboxd', 'schedule cancelled', event_id FROM gone";

/// `$2` ids were given up as `$3` says.
pub(super) const GIVE_UP: &str = "\
     INSERT INTO outboxd.ledger AS l (relay_id, event_id, verdict) \
     SELECT $1, e.id, $3 FROM unnest($2::text[]) AS e (id) \
     ON CONFLICT (relay_id, event_id) DO UPDATE SET verdict = $3, at = now(), unwritten = false";

/// `$2` numbers are what an operator did not know them to be.
pub(super) const DECLINE: &str = "\
     UPDATE outboxd.held_event SET request = NULL WHERE relay_id = $1 AND ordinal = ANY ($2)";

/// Of `$2` numbers, those whose rows everybody can see by now, if they are there.
pub(super) const VISIBLE: &str = "\
     SELECT ordinal FROM outboxd.held_event WHERE relay_id = $1 AND ordinal = ANY ($2) \
     AND (xid IS NULL OR pg_visible_in_snapshot(xid, pg_current_snapshot()))";

/// The failures that rows do not show yet, after the number `$2`. What is given up has no next attempt:
/// until its dead letter is delivered, `due_at` is that letter's.
pub(super) const UNWRITTEN: &str = "\
     SELECT ordinal, event_id, attempts, last_error, \
        CASE WHEN NOT is_final THEN (extract(epoch FROM due_at) * 1000000)::int8 END, is_final \
     FROM outboxd.held_event, LATERAL (SELECT exhausted OR reason = 'dead' AS is_final) AS given_up \
     WHERE relay_id = $1 AND unwritten AND ordinal > $2 \
     ORDER BY ordinal LIMIT 100";

/// Of `$2` numbers, those whose rows can show a failure. What waits for something else never failed.
pub(super) const FAILED: &str = "SELECT ordinal FROM outboxd.held_event \
     WHERE relay_id = $1 AND ordinal = ANY ($2) AND reason IN ('retry', 'dead')";

/// How a row shows a failure: the parts of an UPDATE's SET list.
#[derive(Debug, Clone, Default)]
pub(super) struct FailureColumns {
    status: Option<(String, String, String)>,
    others: Vec<String>,
}

impl FailureColumns {
    pub(super) fn new(
        table: &OutboxTable,
        map: &StatusMap,
        max_attempts: Option<&LayoutColumn>,
    ) -> Self {
        let status = map.status.as_ref().map(|(column, _)| {
            let name = quote_ident(&column.name);
            (name, quote_literal(&map.label_retrying), quote_literal(&map.label_failed))
        });
        let mut others = Vec::new();
        if let Some(column) = &map.attempts {
            // A row's check can keep it to the row's own limit.
            let attempts = match max_attempts {
                Some(most) => format!("least($3::int8, {})", quote_ident(&most.name)),
                None => "$3::int8".to_owned(),
            };
            others.push(format!("{} = {attempts}", quote_ident(&column.name)));
        }
        if let Some(column) = &map.last_error {
            // A cast to the column's own type cuts what is too long for it: `varchar(255)`.
            let own = match column.type_name.as_str() {
                limited if limited.starts_with("character") => limited,
                _ => table.type_sql(&column.name).unwrap_or("text"),
            };
            others.push(format!("{} = $4::text::{own}", quote_ident(&column.name)));
        }
        if let Some(column) = &map.next_attempt_at {
            let moment = "('epoch'::timestamptz + $5::int8 * interval '1 microsecond')";
            let moment = match column.kind {
                Kind::Timestamp => format!("({moment} AT TIME ZONE 'UTC')"),
                _ => moment.to_owned(),
            };
            others.push(format!("{} = {moment}", quote_ident(&column.name)));
        }
        Self { status, others }
    }

    /// Whether a row can show anything of it.
    pub(super) fn is_empty(&self) -> bool {
        self.status.is_none() && self.others.is_empty()
    }

    /// What is set in a row that is tried again, or, with `is_final`, is not.
    fn set(&self, is_final: bool) -> String {
        let status = self.status.as_ref().map(|(name, retrying, failed)| {
            format!("{name} = {}", if is_final { failed } else { retrying })
        });
        let parts: Vec<_> = status.iter().chain(&self.others).map(String::as_str).collect();
        parts.join(", ")
    }
}

impl Target {
    /// One failure, into its row if that can be: `$1` relay, `$2` id, `$3` attempts, `$4` error,
    /// `$5` the next attempt, `$6` number. Its mark goes when the row shows it, or is gone.
    pub(super) fn show_failure(&self, columns: &FailureColumns, is_final: bool) -> String {
        let Self { name, id, id_type, .. } = self;
        let (set, is_same_table) = (columns.set(is_final), self.is_same_table());
        // Every parameter has to be used, whatever columns there are.
        format!(
            "WITH given AS (SELECT $3::int8, $4::text, $5::int8), \
             shown AS (UPDATE {name} o SET {set} WHERE o.{id} IN ( \
                SELECT o.{id} FROM {name} o WHERE o.{id} = $2::text::{id_type} \
                FOR NO KEY UPDATE SKIP LOCKED) AND {is_same_table} RETURNING 1), \
             done AS (UPDATE outboxd.held_event h SET unwritten = false \
                WHERE h.relay_id = $1 AND h.ordinal = $6 AND (EXISTS (SELECT FROM shown) \
                   OR {is_same_table} \
                   AND (h.xid IS NULL OR pg_visible_in_snapshot(h.xid, pg_current_snapshot())) \
                   AND NOT EXISTS (SELECT FROM {name} o WHERE o.{id} = $2::text::{id_type})) \
                RETURNING 1) \
             SELECT count(*) FROM done, given"
        )
    }
}
