//! Keys that wait for one of their events.

use serde::Serialize;

use super::filter::LISTED;
use super::held::{COLUMNS, CONDITIONS, HeldEvent};
use super::{Desk, Filter};
use crate::failure::Failure;
use crate::status::Reason;

/// A key of a topic, the event that it waits for, and how many wait behind it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BlockedKey {
    /// How many events wait behind it.
    pub waiting: i64,
    /// The event that blocks the key.
    #[serde(flatten)]
    pub event: HeldEvent,
}

/// The reasons that hold back what follows in a key.
const BLOCKING: [Reason; 2] = [Reason::Retry, Reason::Topic];

impl Desk<'_> {
    /// Blocked keys whose blocking event passes the filter, in the order of reading.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn keys(&self, filter: &Filter) -> Result<Vec<BlockedKey>, Failure> {
        self.blocked(filter, LISTED).await
    }

    pub(super) async fn blocked(
        &self,
        filter: &Filter,
        most: u32,
    ) -> Result<Vec<BlockedKey>, Failure> {
        let reasons = match filter.reason {
            Some(reason) => vec![reason],
            None => BLOCKING.to_vec(),
        };
        let sql = format!(
            "SELECT {COLUMNS}, h.waiting FROM ( \
                 SELECT k.*, row_number() OVER (PARTITION BY topic, key ORDER BY ordinal) AS place, \
                        count(*) OVER (PARTITION BY topic, key) - 1 AS waiting \
                 FROM outboxd.held_event k \
                 WHERE k.relay_id = $1 AND k.key IS NOT NULL \
                   AND k.reason IN ('retry', 'topic', 'parked')) h \
             WHERE h.place = 1 AND h.reason <> 'parked' AND {CONDITIONS} \
             ORDER BY h.ordinal LIMIT $12"
        );
        let rows = self.query(&sql, filter, &reasons, most).await?;
        let key = |row: &tokio_postgres::Row| BlockedKey {
            waiting: row.get(14),
            event: HeldEvent::read(row),
        };
        Ok(rows.iter().map(key).collect())
    }
}
