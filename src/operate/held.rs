//! Looking at held events.

use data_encoding::BASE64;
use serde::Serialize;
use serde_json::{Value, json};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::filter::{LISTED, names, readable};
use super::{Desk, Filter, failure};
use crate::failure::{Code, Failure};
use crate::status::Reason;

/// Which held events are listed: both are kept in one table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// Those that will go.
    Events,
    /// Those that were given up.
    DeadLetters,
}

impl Held {
    pub(super) fn reasons(self) -> &'static [Reason] {
        match self {
            Held::Events => &[Reason::Retry, Reason::Topic, Reason::Parked, Reason::Scheduled],
            Held::DeadLetters => &[Reason::Dead],
        }
    }

    /// The reasons that a filter leaves.
    pub(super) fn meant(self, filter: &Filter) -> Result<Vec<Reason>, Failure> {
        match filter.reason {
            None => Ok(self.reasons().to_vec()),
            Some(reason) if self.reasons().contains(&reason) => Ok(vec![reason]),
            Some(reason) => {
                let text = match self {
                    Held::Events => format!("{reason} events are dead letters: see dlq"),
                    Held::DeadLetters => format!("no dead letter is {reason}"),
                };
                Err(Failure::new(Code::RequestRefused, text))
            }
        }
    }
}

/// A held event, without its value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HeldEvent {
    /// Its id.
    pub event_id: String,
    /// What happened; unknown of a scheduled one.
    pub event_type: Option<String>,
    /// Its key.
    pub key: Option<String>,
    /// Its topic.
    pub topic: Option<String>,
    /// Why it is held.
    pub reason: String,
    /// Tries so far.
    pub attempts: i32,
    /// Tries in all; none for the configured number.
    pub max_attempts: Option<i32>,
    /// What went wrong last.
    pub last_error: Option<String>,
    /// Its code, as in OBX-4004.
    pub error_code: Option<String>,
    /// When it goes.
    pub due_at: Option<String>,
    /// From when on it is held.
    pub since: Option<String>,
    /// Its place in the order of commits.
    pub position: Option<String>,
    /// What the relay was asked to do with it, and has not done yet.
    pub request: Option<String>,
    /// Its place in the order of reading.
    pub ordinal: i64,
}

/// What is read of a held event `h`.
pub(super) const COLUMNS: &str = "\
    h.event_id, h.event_type, h.key, h.topic, h.reason, h.attempts, h.max_attempts, h.last_error, \
    h.error_code, to_char(h.due_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"'), \
    to_char(h.since AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"'), \
    CASE WHEN h.position_lsn > '0/0' THEN format('%s/%s', h.position_lsn, h.position_index) END, \
    h.request, h.ordinal";

/// The conditions of a filter on `h`, with their parameters from $2 on.
pub(super) const CONDITIONS: &str = "\
    h.relay_id = $1 \
    AND ($2::text[] IS NULL OR h.event_id = ANY ($2)) \
    AND ($3::text IS NULL OR h.topic = $3) \
    AND ($4::bytea[] IS NULL OR h.key = ANY ($4)) \
    AND h.reason = ANY ($5::text[]) \
    AND ($6::text IS NULL OR h.event_type = $6) \
    AND ($7::text IS NULL OR h.error_code = $7) \
    AND ($8::timestamptz IS NULL OR h.since >= $8) \
    AND ($9::timestamptz IS NULL OR h.since < $9) \
    AND ($10::int8 IS NULL OR h.ordinal > $10) \
    AND ($11::text IS NULL \
         OR position(lower($11) IN lower(concat_ws(' ', h.event_id, h.event_type, h.topic, \
                                                   h.error_code, h.last_error))) > 0 \
         OR position(convert_to($11, 'UTF8') IN h.key) > 0)";

impl HeldEvent {
    pub(super) fn read(row: &Row) -> Self {
        Self {
            event_id: row.get(0),
            event_type: row.get(1),
            key: row.get::<_, Option<Vec<u8>>>(2).map(readable),
            topic: row.get(3),
            reason: row.get(4),
            attempts: row.get(5),
            max_attempts: row.get(6),
            last_error: row.get(7),
            error_code: row.get(8),
            due_at: row.get(9),
            since: row.get(10),
            position: row.get(11),
            request: row.get(12),
            ordinal: row.get(13),
        }
    }
}

impl Desk<'_> {
    /// Held events that pass the filter, in the order of reading.
    ///
    /// # Errors
    /// The filter asks for what cannot be among them, or the connection broke.
    pub async fn held(&self, held: Held, filter: &Filter) -> Result<Vec<HeldEvent>, Failure> {
        self.select(filter, &held.meant(filter)?, LISTED).await
    }

    pub(super) async fn select(
        &self,
        filter: &Filter,
        reasons: &[Reason],
        most: u32,
    ) -> Result<Vec<HeldEvent>, Failure> {
        let sql = format!(
            "SELECT {COLUMNS} FROM outboxd.held_event h WHERE {CONDITIONS} \
             ORDER BY h.ordinal LIMIT $12"
        );
        let rows = self.query(&sql, filter, reasons, most).await?;
        Ok(rows.iter().map(HeldEvent::read).collect())
    }

    /// Runs a query with the filter's parameters; `most` where it has no limit.
    pub(super) async fn query(
        &self,
        sql: &str,
        filter: &Filter,
        reasons: &[Reason],
        most: u32,
    ) -> Result<Vec<Row>, Failure> {
        let ids = (!filter.ids.is_empty()).then_some(&filter.ids);
        let reasons = names(reasons);
        let limit = i64::from(filter.limit.unwrap_or(most));
        let keys = filter.keys();
        let parameters: [&(dyn ToSql + Sync); 12] = [
            &self.config.id,
            &ids,
            &filter.topic,
            &keys,
            &reasons,
            &filter.event_type,
            &filter.error,
            &filter.since,
            &filter.before,
            &filter.after,
            &filter.search,
            &limit,
        ];
        let rows = self.session.client.query(sql, &parameters).await;
        rows.map_err(|error| failure(&error.into(), "look at held events"))
    }

    /// Everything about one held event; its value only if that is asked for.
    ///
    /// # Errors
    /// It is not held, or the connection broke.
    pub async fn show(&self, event_id: &str, with_value: bool) -> Result<Value, Failure> {
        let sql = format!(
            "SELECT {COLUMNS}, h.partition, h.headers::text, octet_length(h.value)::int8, \
                CASE WHEN $3 THEN h.value END, h.exhausted, h.redelivery, \
                to_char(h.failed_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"'), \
                (SELECT coalesce(json_agg(json_build_object( \
                    'at', a.at, 'actor', a.actor, 'action', a.action, 'detail', a.detail) \
                    ORDER BY a.id), '[]')::text \
                 FROM outboxd.audit a WHERE a.relay_id = $1 AND a.target = $2) \
             FROM outboxd.held_event h WHERE h.relay_id = $1 AND h.event_id = $2"
        );
        let parameters: [&(dyn ToSql + Sync); 3] = [&self.config.id, &event_id, &with_value];
        let row = self.session.client.query_opt(&sql, &parameters).await;
        let row = row.map_err(|error| failure(&error.into(), "look at the event"))?;
        let row = row.ok_or_else(|| not_held(event_id))?;
        let json = |place: usize| {
            let text: Option<String> = row.get(place);
            text.and_then(|text| serde_json::from_str::<Value>(&text).ok()).unwrap_or_default()
        };
        let more = json!({
            "exhausted": row.get::<_, bool>(18),
            "failed_at": row.get::<_, Option<String>>(20),
            "redelivery": row.get::<_, bool>(19),
            "partition": row.get::<_, Option<i32>>(14),
            "headers": json(15),
            "value_bytes": row.get::<_, Option<i64>>(16),
            "audit": json(21),
        });
        let mut document = serde_json::to_value(HeldEvent::read(&row)).unwrap_or_default();
        if let (Value::Object(document), Value::Object(more)) = (&mut document, more) {
            document.extend(more);
            if with_value {
                let (name, value) = match row.get::<_, Option<Vec<u8>>>(17).map(String::from_utf8) {
                    None => ("value", Value::Null),
                    Some(Ok(text)) => ("value", Value::String(text)),
                    Some(Err(error)) => ("value_base64", BASE64.encode(error.as_bytes()).into()),
                };
                document.insert(name.to_owned(), value);
            }
        }
        Ok(document)
    }
}

/// The failure of whoever names an event that is not there.
pub(super) fn not_held(event_id: &str) -> Failure {
    Failure::new(Code::NotHeld, format!("event {event_id} is not held"))
}
