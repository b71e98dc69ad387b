//! The relay's own row: its lock and epoch, its position, what it remembers between runs.

use tokio_postgres::types::PgLsn;
use tokio_postgres::{Client, Row};

use crate::failure::Failure;
use crate::lsn::{Lsn, Position};
use crate::postgres::{Error, Identity};

/// Whether the rows that are older than the slot were published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sweep {
    /// This relay has never had a slot.
    Never,
    /// They have to be, perhaps once more.
    Incomplete,
    /// They were.
    Complete,
}

impl Sweep {
    const fn name(self) -> &'static str {
        match self {
            Sweep::Never => "none",
            Sweep::Incomplete => "incomplete",
            Sweep::Complete => "complete",
        }
    }
}

/// What a relay remembers, as it stood when the place was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayRow {
    /// The epoch that this relay raised.
    pub epoch: i64,
    /// Everything at or before it is settled.
    pub position: Position,
    /// The slot was confirmed up to here at most; not valid before the first session.
    pub confirmable: Lsn,
    /// The server that the position belongs to; none before the first session.
    pub identity: Option<Identity>,
    /// The publication's fingerprint; none before the first session.
    pub publication: Option<String>,
    /// Whether a sweep is due.
    pub sweep: Sweep,
    /// Where the stream has passed everything that a sweep can have seen.
    pub sweep_until: Lsn,
}

/// The last error of a relay.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct LastError {
    /// `OBX-nnnn`.
    pub code: String,
    /// What happened.
    pub message: String,
    /// What to do.
    pub remedy: String,
}

impl From<&Failure> for LastError {
    fn from(failure: &Failure) -> Self {
        Self {
            code: failure.code.to_string(),
            message: failure.message.clone(),
            remedy: failure.remedy.to_owned(),
        }
    }
}

/// The number of the advisory lock of the relay `$1`; each database has its own.
const LOCK: &str = "hashtextextended('outboxd relay ' || $1, 0)";

/// The session that has the lock of the relay `$1`, as `l`.
fn holder() -> String {
    format!(
        "FROM pg_locks l JOIN pg_database d ON d.oid = l.database \
         WHERE d.datname = current_database() AND l.locktype = 'advisory' \
           AND l.objsubid = 1 AND l.granted \
           AND (l.classid::int8 << 32) | l.objid::int8 = {LOCK}"
    )
}

impl RelayRow {
    /// Tries to take the relay's place: its lock, which lives as long as this session, and with it
    /// a new epoch. None if another session has it.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn take_place(
        client: &Client,
        relay_id: &str,
        holder: &str,
    ) -> Result<Option<Self>, Error> {
        let lock = format!("SELECT pg_try_advisory_lock({LOCK})");
        if !client.query_one(&lock, &[&relay_id]).await?.get::<_, bool>(0) {
            return Ok(None);
        }
        let row = client
            .query_one(
                "INSERT INTO outboxd.relay AS r (relay_id, epoch, holder, started_at) \
                 VALUES ($1, 1, $2, now()) \
                 ON CONFLICT (relay_id) DO UPDATE \
                    SET epoch = r.epoch + 1, holder = $2, started_at = now() \
                 RETURNING epoch, position_lsn, position_index, system_id, timeline, publication, \
                           sweep, sweep_until, confirmable_lsn",
                &[&relay_id, &holder],
            )
            .await?;
        Ok(Some(Self::read(&row)?))
    }

    /// Waits for the lock; those who only try do not get it before us.
    ///
    /// # Errors
    /// The connection broke, or it took too long.
    pub async fn wait_for_lock(client: &Client, relay_id: &str) -> Result<(), Error> {
        let lock = format!("SELECT pg_advisory_lock({LOCK})");
        client.execute(&lock, &[&relay_id]).await?;
        Ok(())
    }

    /// Whether a session has the lock: then a relay of that id runs.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn lock_is_held(client: &Client, relay_id: &str) -> Result<bool, Error> {
        let sql = format!("SELECT EXISTS (SELECT {})", holder());
        Ok(client.query_one(&sql, &[&relay_id]).await?.get(0))
    }

    /// Whether the session `pid` waits for an advisory lock.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn lock_is_awaited(client: &Client, pid: i32) -> Result<bool, Error> {
        let sql = "SELECT EXISTS (SELECT FROM pg_locks \
                   WHERE locktype = 'advisory' AND NOT granted AND pid = $1)";
        Ok(client.query_one(sql, &[&pid]).await?.get(0))
    }

    /// Ends the session that has the lock, unless it is `ours`. Gives how many there were.
    ///
    /// # Errors
    /// The connection broke, or the session is not ours to end.
    pub async fn end_holder(client: &Client, relay_id: &str, ours: i32) -> Result<i64, Error> {
        let sql = format!("SELECT count(pg_terminate_backend(l.pid)) {} AND l.pid <> $2", holder());
        Ok(client.query_one(&sql, &[&relay_id, &ours]).await?.get(0))
    }

    fn read(row: &Row) -> Result<Self, Error> {
        let lsn = |place: usize| {
            let lsn: Option<PgLsn> = row.get(place);
            lsn.map_or(Lsn::INVALID, |lsn| Lsn::from_wire(lsn.into()))
        };
        let index = u32::try_from(row.get::<_, i64>(2));
        let (system_id, timeline): (Option<String>, Option<i32>) = (row.get(3), row.get(4));
        let sweep: String = row.get(6);
        Ok(Self {
            epoch: row.get(0),
            position: Position {
                commit: lsn(1),
                index: index.map_err(|_| Error::Protocol("a position out of range".into()))?,
            },
            identity: system_id
                .zip(timeline)
                .map(|(system_id, timeline)| Identity { system_id, timeline }),
            publication: row.get(5),
            sweep: match sweep.as_str() {
                "none" => Sweep::Never,
                "complete" => Sweep::Complete,
                // What is not known to be complete is not.
                _ => Sweep::Incomplete,
            },
            sweep_until: lsn(7),
            confirmable: lsn(8),
        })
    }

    /// Records what the stream belongs to, once, and where its slot stands.
    ///
    /// # Errors
    /// The connection broke, or the place is lost.
    pub async fn remember_stream(
        client: &Client,
        relay_id: &str,
        epoch: i64,
        identity: &Identity,
        slot: &str,
        publication: &str,
    ) -> Result<bool, Error> {
        let count = client
            .execute(
                "UPDATE outboxd.relay r SET system_id = $3, timeline = $4, slot = $5, publication = $6, \
                    confirmable_lsn = coalesce((SELECT CASE WHEN r.timeline = $4 \
                            THEN greatest(r.confirmable_lsn, s.confirmed_flush_lsn) \
                            ELSE s.confirmed_flush_lsn END \
                        FROM pg_replication_slots s WHERE s.slot_name::text = $5), '0/0') \
                 WHERE relay_id = $1 AND epoch = $2",
                &[&relay_id, &epoch, &identity.system_id, &identity.timeline, &slot, &publication],
            )
            .await?;
        Ok(count == 1)
    }

    /// Records how far a sweep is.
    ///
    /// # Errors
    /// The connection broke, or the place is lost.
    pub async fn remember_sweep(
        client: &Client,
        relay_id: &str,
        epoch: i64,
        sweep: Sweep,
        until: Lsn,
    ) -> Result<bool, Error> {
        let until = until.is_valid().then(|| PgLsn::from(until.to_wire()));
        let count = client
            .execute(
                "UPDATE outboxd.relay SET sweep = $3, sweep_until = $4 \
                 WHERE relay_id = $1 AND epoch = $2",
                &[&relay_id, &epoch, &sweep.name(), &until],
            )
            .await?;
        Ok(count == 1)
    }

    /// Pauses the relay, as an operator would.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn pause(client: &Client, relay_id: &str) -> Result<(), Error> {
        let sql = "UPDATE outboxd.relay SET paused = true WHERE relay_id = $1";
        client.execute(sql, &[&relay_id]).await?;
        Ok(())
    }

    /// Forgets some of what a sweep published, once the position is past everything that the
    /// sweep can have seen: from then on the position alone tells. `keeps_verdicts`: whether the
    /// ledger is where the verdicts stay.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn forget_swept(
        client: &Client,
        relay_id: &str,
        keeps_verdicts: bool,
    ) -> Result<(), Error> {
        let sql = "WITH chosen AS (SELECT event_id, unwritten OR $2 OR verdict <> 'sent' AS stays FROM outboxd.ledger \
             WHERE relay_id = $1 AND swept AND EXISTS (SELECT FROM outboxd.relay r \
                WHERE r.relay_id = $1 AND r.sweep = 'complete' \
                    AND r.position_lsn >= coalesce(r.sweep_until, '0/0')) \
             LIMIT 10000 FOR UPDATE SKIP LOCKED), \
             kept AS (UPDATE outboxd.ledger l SET swept = false FROM chosen \
             WHERE l.relay_id = $1 AND l.event_id = chosen.event_id AND stays) \
             DELETE FROM outboxd.ledger l USING chosen \
             WHERE l.relay_id = $1 AND l.event_id = chosen.event_id AND NOT stays";
        client.execute(sql, &[&relay_id, &keeps_verdicts]).await?;
        Ok(())
    }

    /// Forgets everything that belonged to a slot that is gone, and records what that leaves to
    /// sweep.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn forget_stream(
        client: &Client,
        relay_id: &str,
        epoch: i64,
        sweep: Sweep,
    ) -> Result<bool, Error> {
        let count = client
            .execute(
                "UPDATE outboxd.relay SET position_lsn = '0/0', position_index = 0, \
                    confirmable_lsn = '0/0', system_id = NULL, timeline = NULL, slot = NULL, publication = NULL, \
                    sweep = $3, sweep_until = NULL, error_code = NULL, error_message = NULL, \
                    error_remedy = NULL, error_at = NULL \
                 WHERE relay_id = $1 AND epoch = $2",
                &[&relay_id, &epoch, &sweep.name()],
            )
            .await?;
        Ok(count == 1)
    }

    /// Takes the publication as it will be found at the next start.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn forget_publication(
        client: &Client,
        relay_id: &str,
        epoch: i64,
    ) -> Result<(), Error> {
        let sql = "UPDATE outboxd.relay SET publication = NULL \
                   WHERE relay_id = $1 AND epoch = $2";
        client.execute(sql, &[&relay_id, &epoch]).await?;
        Ok(())
    }

    /// Records what an operator, or the relay by its own policy, did.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn audit(
        client: &Client,
        relay_id: &str,
        action: &str,
        detail: &serde_json::Value,
    ) -> Result<(), Error> {
        let sql = "INSERT INTO outboxd.audit (relay_id, action, detail) \
                   VALUES ($1, $2, $3::text::jsonb)";
        client.execute(sql, &[&relay_id, &action, &detail.to_string()]).await?;
        Ok(())
    }

    /// Records the state, and the error that goes with it, for those who ask the database.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn remember_state(
        client: &Client,
        relay_id: &str,
        state: &str,
        error: Option<&LastError>,
    ) -> Result<(), Error> {
        let (code, message, remedy) = match error {
            Some(error) => (Some(&error.code), Some(&error.message), Some(&error.remedy)),
            None => (None, None, None),
        };
        client
            .execute(
                "INSERT INTO outboxd.relay AS r \
                    (relay_id, state, error_code, error_message, error_remedy, error_at) \
                 VALUES ($1, $2, $3::text, $4::text, $5::text, CASE WHEN $3::text IS NOT NULL THEN now() END) \
                 ON CONFLICT (relay_id) DO UPDATE SET state = $2, error_code = $3, \
                    error_message = $4, error_remedy = $5, error_at = excluded.error_at",
                &[&relay_id, &state, &code, &message, &remedy],
            )
            .await?;
        Ok(())
    }
}
