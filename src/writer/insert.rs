//! The one statement that adds events, however many.

use std::collections::HashSet;
use std::time::SystemTime;

use tokio_postgres::Transaction;
use tokio_postgres::types::{ToSql, Type};
use uuid::Uuid;

use super::{Added, Event};
use crate::names::TableName;

/// Inserts what unnested arrays say, in their order, and tells of each row whether it was new.
///
/// Ids are made before the insert, because what an insert returns does not say which of the given
/// rows it was. Two given rows can share an id and differ in their dedup key, hence the join by
/// both.
pub(super) fn statement(table: &TableName) -> String {
    format!(
        "WITH given AS MATERIALIZED (
            SELECT coalesce(id, pg_catalog.gen_random_uuid()) AS id, aggregate_type, aggregate_id,
                   event_type, payload, headers, topic, partition_key, tenant_id, schema_version,
                   dedup_key, occurred_at, scheduled_at, max_attempts, place
            FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
                WITH ORDINALITY AS g (
                   id, aggregate_type, aggregate_id, event_type, payload, headers, topic,
                   partition_key, tenant_id, schema_version, dedup_key, occurred_at, scheduled_at,
                   max_attempts, place)
        ), added AS (
            INSERT INTO {table} (
                id, aggregate_type, aggregate_id, event_type, payload, headers, topic,
                partition_key, tenant_id, schema_version, dedup_key, occurred_at, scheduled_at,
                max_attempts)
            SELECT id, aggregate_type, aggregate_id, event_type, payload::jsonb, headers::jsonb,
                   topic, partition_key, tenant_id, schema_version, dedup_key,
                   coalesce(occurred_at, now()), scheduled_at, max_attempts
            FROM given ORDER BY place
            ON CONFLICT DO NOTHING
            RETURNING id, dedup_key
        )
        SELECT given.id, added.id IS NOT NULL
        FROM given LEFT JOIN added
            ON added.id = given.id AND added.dedup_key IS NOT DISTINCT FROM given.dedup_key
        ORDER BY place"
    )
}

/// Runs it.
pub(super) async fn insert(
    transaction: &Transaction<'_>,
    statement: &str,
    events: &[Event],
) -> Result<Vec<Added>, tokio_postgres::Error> {
    if events.is_empty() {
        return Ok(Vec::new());
    }
    let texts = |of: fn(&Event) -> Option<&str>| events.iter().map(of).collect::<Vec<_>>();
    let times = |of: fn(&Event) -> Option<SystemTime>| events.iter().map(of).collect::<Vec<_>>();
    let ids: Vec<_> = events.iter().map(|event| event.id).collect();
    let headers: Vec<_> = events.iter().map(Event::headers_json).collect();
    let versions: Vec<_> = events.iter().map(|event| event.schema_version).collect();
    // They were checked: each fits.
    let most = |event: &Event| event.max_attempts.map(|most| i32::try_from(most).unwrap_or(1));
    let attempts: Vec<_> = events.iter().map(most).collect();
    let parameters: [(Box<dyn ToSql + Sync + Send + '_>, Type); 14] = [
        (Box::new(ids), Type::UUID_ARRAY),
        (Box::new(texts(|event| Some(&event.aggregate_type))), Type::TEXT_ARRAY),
        (Box::new(texts(|event| Some(&event.aggregate_id))), Type::TEXT_ARRAY),
        (Box::new(texts(|event| Some(&event.event_type))), Type::TEXT_ARRAY),
        (Box::new(texts(Event::payload_json)), Type::TEXT_ARRAY),
        (Box::new(headers), Type::TEXT_ARRAY),
        (Box::new(texts(|event| event.topic.as_deref())), Type::TEXT_ARRAY),
        (Box::new(texts(|event| event.partition_key.as_deref())), Type::TEXT_ARRAY),
        (Box::new(texts(|event| event.tenant_id.as_deref())), Type::TEXT_ARRAY),
        (Box::new(versions), Type::INT4_ARRAY),
        (Box::new(texts(|event| event.dedup_key.as_deref())), Type::TEXT_ARRAY),
        (Box::new(times(|event| event.occurred_at)), Type::TIMESTAMPTZ_ARRAY),
        (Box::new(times(|event| event.scheduled_at)), Type::TIMESTAMPTZ_ARRAY),
        (Box::new(attempts), Type::INT4_ARRAY),
    ];
    // With its types the statement needs one round trip, and nothing that a pooler could lose.
    let typed: Vec<(&(dyn ToSql + Sync), Type)> =
        parameters.iter().map(|(value, kind)| (&**value as _, kind.clone())).collect();
    let rows = transaction.query_typed(statement, &typed).await?;
    let mut seen = HashSet::new();
    let mut added = Vec::with_capacity(events.len());
    for (row, event) in rows.iter().zip(events) {
        let (id, is_new): (Uuid, bool) = (row.try_get(0)?, row.try_get(1)?);
        // Of the same event twice, the first is the one that was written.
        let is_first = seen.insert((id, &event.dedup_key));
        added.push(if is_new && is_first { Added::New(id) } else { Added::Duplicate });
    }
    Ok(added)
}
