//! For services that consume events: each one once, although Kafka can bring it twice.
//!
//! ```no_run
//! # async fn consume(
//! #     client: &mut tokio_postgres::Client,
//! #     event_id: &str,
//! # ) -> Result<(), Box<dyn std::error::Error>> {
//! let transaction = client.transaction().await?;
//! if outboxd::inbox::process_once(&transaction, "billing", event_id).await? {
//!     transaction.execute("UPDATE accounts SET balance = balance - 42", &[]).await?;
//! }
//! transaction.commit().await?;
//! // Now, and not before, the record's offset may be committed.
//! # Ok(())
//! # }
//! ```
//!
//! It needs the table of `migrations/0005_inbox.sql` in the consumer's own database, and works because
//! that table and what the event changes are in one transaction. `docs/CONSUMERS.md` tells the
//! rest.

use std::time::Duration;

use tokio_postgres::types::Type;
use tokio_postgres::{GenericClient, Transaction};

/// The longest name of a consumer, in bytes. With an event's id it has to fit into an index.
pub const CONSUMER_BYTES: usize = 255;

/// The longest id, in bytes.
pub const ID_BYTES: usize = 2048;

/// The longest age that is told apart, in seconds: about a thousand years.
const AGE_MAX: f64 = 31_556_952_000.0;

/// Why the inbox was of no use.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InboxError {
    /// Nobody can have processed that: an empty text, one with U+0000, or one that is too long.
    /// PostgreSQL was not asked, and the transaction goes on.
    #[error("the {what} is not 1 to {limit} bytes of text without U+0000")]
    Invalid {
        /// `consumer` or `event id`.
        what: &'static str,
        /// How many bytes there may be.
        limit: usize,
    },
    /// PostgreSQL refused, which ends the transaction.
    #[error("use outboxd.inbox")]
    Postgres(#[from] tokio_postgres::Error),
}

/// Whether this is the first time that `consumer` processes the event: true once, false for a
/// duplicate. What the event changes has to be in the same transaction; if that rolls back, the next
/// one is the first again.
///
/// `event_id` is the record's `event_id` header, or its `dedup_key` where several events can mean the
/// same. While another transaction processes the same event, this one waits for its end.
/// (At the level `REPEATABLE READ` and above PostgreSQL then refuses with SQLSTATE 40001 if the other
/// one committed; begin the transaction again.)
///
/// # Errors
/// A text that is no name or id, or PostgreSQL refused.
pub async fn process_once(
    transaction: &Transaction<'_>,
    consumer: &str,
    event_id: &str,
) -> Result<bool, InboxError> {
    check("consumer", consumer, CONSUMER_BYTES)?;
    check("event id", event_id, ID_BYTES)?;
    let sql =
        "INSERT INTO outboxd.inbox (consumer, event_id) VALUES ($1, $2) ON CONFLICT DO NOTHING";
    let inserted =
        transaction.execute_typed(sql, &[(&consumer, Type::TEXT), (&event_id, Type::TEXT)]).await?;
    Ok(inserted > 0)
}

/// Forgets at most `batch` events that were processed longer ago than `older_than`, and tells how
/// many. While it gives `batch`, there can be more.
///
/// A duplicate of a forgotten event is processed again: keep them for longer than Kafka keeps
/// records.
///
/// # Errors
/// PostgreSQL refused.
pub async fn clean(
    client: &impl GenericClient,
    older_than: Duration,
    batch: u32,
) -> Result<u64, InboxError> {
    let sql = "DELETE FROM outboxd.inbox WHERE ctid = ANY (ARRAY(
            SELECT ctid FROM outboxd.inbox WHERE processed_at < now() - make_interval(secs => $1)
            ORDER BY processed_at LIMIT $2))";
    let seconds = older_than.as_secs_f64().min(AGE_MAX);
    let limit = i64::from(batch);
    Ok(client.execute_typed(sql, &[(&seconds, Type::FLOAT8), (&limit, Type::INT8)]).await?)
}

fn check(what: &'static str, text: &str, limit: usize) -> Result<(), InboxError> {
    if text.is_empty() || text.len() > limit || text.contains('\0') {
        return Err(InboxError::Invalid { what, limit });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_and_nothing_cannot_be_processed() {
        assert!(check("consumer", "billing", CONSUMER_BYTES).is_ok());
        for bad in ["", "a\0b", &"x".repeat(CONSUMER_BYTES + 1)] {
            let error = check("consumer", bad, CONSUMER_BYTES).unwrap_err();
            assert_eq!(
                error.to_string(),
                "the consumer is not 1 to 255 bytes of text without U+0000"
            );
        }
    }
}
