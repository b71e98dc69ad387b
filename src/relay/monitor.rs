//! The monitor: looks at what can go wrong behind the stream's back, on a connection of its own.
//!
//! The publication can be dropped and made again between two looks, so it is compared by what
//! changes then, not by name. Our walsender can become a synchronous standby when somebody reloads
//! the configuration; commits would then wait for us, and we for our own. And a walsender that is
//! told to end has a last word to say: as long as we do not read it, because nothing more fits into
//! the window, it stays, and a checkpoint that wants to invalidate its slot waits for it, and with it
//! the whole server.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::confirm::Settlement;
use super::disposition::{Fate, of_postgres};
use super::preflight::synchronous_standby;
use crate::failure::{Code, Failure};
use crate::lsn::Lsn;
use crate::metrics::Meters;
use crate::postgres::{Error, Publication, Slot, SqlSession, TableName, names_standby};
use crate::status::RelayRow;

/// How often it looks.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// What it looks at.
#[derive(Debug, Clone)]
pub(super) struct Watched {
    pub(super) relay_id: String,
    /// Whether the ledger is where verdicts stay.
    pub(super) keeps_verdicts: bool,
    pub(super) slot: String,
    pub(super) publication: String,
    pub(super) fingerprint: String,
    /// Its OID, or 0 if the outbox is no table.
    pub(super) table: u32,
    /// As it is configured.
    pub(super) table_name: Option<TableName>,
    pub(super) application_name: String,
}

/// What it saw last.
#[derive(Debug, Clone, Default)]
pub(super) struct Sight {
    pub(super) slot: Option<Slot>,
    pub(super) trouble: Option<Fate>,
    /// Whether the walsender waits for us to read, as it does only at its end.
    is_ending: bool,
}

/// Looks, until there is trouble or nobody wants to know.
pub(super) async fn watch_over(
    session: Arc<SqlSession>,
    watched: Watched,
    sights: watch::Sender<Sight>,
    meters: Meters,
) {
    let mut ticks = interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut was_unreserved, mut was_ending) = (false, false);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = sights.closed() => return,
        }
        let mut sight = match look(&session, &watched, &meters).await {
            Ok(sight) => sight,
            Err(error) => {
                let trouble = Some(of_postgres(&error, "watch slot and publication"));
                Sight { trouble, ..Sight::default() }
            }
        };
        // Seen twice, it is no passing moment.
        if sight.is_ending && was_ending && sight.trouble.is_none() {
            let text = "the server ends the stream, and waits for us to let go of it";
            sight.trouble = Some(Fate::Reconnect(Failure::new(Code::PostgresUnavailable, text)));
        }
        was_ending = sight.is_ending;
        let status = sight.slot.as_ref().and_then(|slot| slot.wal_status.as_deref());
        let is_unreserved = status == Some("unreserved");
        if is_unreserved && !was_unreserved {
            tracing::warn!(
                slot = watched.slot,
                "the slot keeps more WAL than max_slot_wal_keep_size: it is lost at the next \
                 checkpoint unless the relay catches up"
            );
        }
        was_unreserved = is_unreserved;
        let is_over = sight.trouble.is_some();
        sights.send_replace(sight);
        if is_over {
            // The session ends because of it; until then the connection stays.
            sights.closed().await;
            return;
        }
    }
}

async fn look(session: &SqlSession, watched: &Watched, meters: &Meters) -> Result<Sight, Error> {
    let client = &session.client;
    let slot = Slot::load(client, &watched.slot).await?;
    let publication = Publication::load(client, &watched.publication, watched.table).await?;
    let walsender = slot.as_ref().and_then(|slot| slot.active_pid);
    let sql = "SELECT current_setting('synchronous_standby_names'), \
                      EXISTS (SELECT FROM pg_stat_activity \
                              WHERE pid = $1 AND wait_event = 'ClientWrite'), \
                      to_regclass($2)::oid";
    let name = watched.table_name.as_ref().map(ToString::to_string);
    let row = client.query_one(sql, &[&walsender, &name]).await?;
    let (standbys, is_ending): (String, bool) = (row.get(0), row.get(1));
    // Without a table of that name ours was renamed, and goes on.
    let named: Option<u32> = row.get(2);
    measure_table(client, watched.table, meters).await?;
    RelayRow::forget_swept(client, &watched.relay_id, watched.keeps_verdicts).await?;
    let halt = |code, text: String| Some(Fate::Halt(Failure::new(code, text)));
    let lost = slot.as_ref().is_some_and(Slot::is_lost);
    let trouble = if names_standby(&standbys, &watched.application_name) {
        Some(Fate::Halt(synchronous_standby(&standbys).failure()))
    } else if publication.as_ref().map(|found| &found.fingerprint) != Some(&watched.fingerprint) {
        let publication = &watched.publication;
        halt(
            Code::PublicationLost,
            format!("publication \"{publication}\" was dropped or changed while the relay ran"),
        )
    } else if named.is_some_and(|named| named != watched.table) {
        let name = name.unwrap_or_default();
        let text =
            format!("another table is called {name} now: rows written to it are not published");
        halt(Code::TableUnsuitable, text)
    } else if slot.is_none() {
        halt(Code::SlotMissing, format!("slot \"{}\" is gone", watched.slot))
    } else if lost {
        halt(Code::SlotLost, format!("slot \"{}\" was invalidated", watched.slot))
    } else {
        None
    };
    Ok(Sight { slot, trouble, is_ending })
}

/// Finds out where the transactions that settled watermarks ended: at or before where the WAL is
/// flushed now, because they committed before somebody asked.
pub(super) async fn find_settlements(
    session: Arc<SqlSession>,
    mut questions: watch::Receiver<Lsn>,
    answers: watch::Sender<Settlement>,
) {
    while questions.changed().await.is_ok() {
        let watermark = *questions.borrow_and_update();
        let end = loop {
            let sql = "SELECT pg_current_wal_flush_lsn()::text";
            match session.client.query_one(sql, &[]).await {
                Ok(row) => break row.get::<_, &str>(0).parse().unwrap_or(Lsn::INVALID),
                // Whoever watches over the same session ends ours.
                Err(_) if session.client.is_closed() => return,
                Err(_) => sleep(LOOK_EVERY).await,
            }
        };
        if end.is_valid() {
            answers.send_replace(Settlement { watermark, end });
        }
    }
}

/// How large the table is. Whoever has it locked is not waited for: the figure can be old.
async fn measure_table(client: &Client, table: u32, meters: &Meters) -> Result<(), Error> {
    let sql = "SELECT coalesce(sum(pg_total_relation_size(t.relid)), 0)::int8 \
               FROM (SELECT relid FROM pg_partition_tree($1::oid::regclass) \
                     UNION SELECT $1::oid::regclass) t";
    let bytes: i64 = match client.query_one(sql, &[&table]).await.map_err(Error::from) {
        Ok(row) => row.get(0),
        Err(error) if error.sqlstate() == Some(&SqlState::LOCK_NOT_AVAILABLE) => return Ok(()),
        Err(error) => return Err(error),
    };
    #[expect(clippy::cast_precision_loss, reason = "a size for a gauge")]
    meters.table_bytes.set(bytes as f64);
    Ok(())
}
