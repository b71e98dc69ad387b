//! Held events by what is wrong with them: a thousand of one kind are one matter.

use serde::Serialize;

use super::filter::LISTED;
use super::held::{CONDITIONS, Held};
use super::{Desk, Filter};
use crate::failure::Failure;

/// Held events that have reason, topic and error code in common.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Group {
    /// Why they are held.
    pub reason: String,
    /// Their topic.
    pub topic: Option<String>,
    /// What went wrong last, as in OBX-4004.
    pub error_code: Option<String>,
    /// How many there are.
    pub count: i64,
    /// Since when the first of them is held.
    pub oldest: String,
    /// Since when the last of them is held.
    pub newest: String,
    /// The error of one of them.
    pub error: Option<String>,
}

impl Desk<'_> {
    /// Groups of the held events that pass the filter, the largest first.
    ///
    /// # Errors
    /// The filter asks for what cannot be among them, or the connection broke.
    pub async fn groups(&self, held: Held, filter: &Filter) -> Result<Vec<Group>, Failure> {
        let moment = |which: &str| {
            format!(
                "to_char({which}(h.since) AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"')"
            )
        };
        let sql = format!(
            "SELECT h.reason, h.topic, h.error_code, count(*), {}, {}, max(h.last_error) \
             FROM outboxd.held_event h WHERE {CONDITIONS} \
             GROUP BY h.reason, h.topic, h.error_code \
             ORDER BY count(*) DESC, min(h.ordinal) LIMIT $12",
            moment("min"),
            moment("max"),
        );
        let rows = self.query(&sql, filter, &held.meant(filter)?, LISTED).await?;
        let group = |row: &tokio_postgres::Row| Group {
            reason: row.get(0),
            topic: row.get(1),
            error_code: row.get(2),
            count: row.get(3),
            oldest: row.get(4),
            newest: row.get(5),
            error: row.get(6),
        };
        Ok(rows.iter().map(group).collect())
    }
}
