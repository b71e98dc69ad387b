//! Recovery: a stream that cannot go on is given up, and a sweep takes its place.
//!
//! The order matters. That a sweep is due is durable before the slot goes; the position is forgotten
//! after it. Whoever dies in between leaves a relay that halts, or sweeps: never one that skips.

use tokio_postgres::Client;

use crate::failpoint;
use crate::lsn::Lsn;
use crate::postgres::{Error, Slot};
use crate::status::{RelayRow, Sweep};

/// Drops the slot, if it is there, forgets the position, and records what is to be swept then. Gives
/// whether `epoch` still is the relay's.
///
/// # Errors
/// Somebody reads the slot, or the connection broke.
pub async fn give_up_stream(
    client: &Client,
    relay_id: &str,
    epoch: i64,
    slot: &str,
    sweep: Sweep,
) -> Result<bool, Error> {
    if !RelayRow::remember_sweep(client, relay_id, epoch, sweep, Lsn::INVALID).await? {
        return Ok(false);
    }
    failpoint::pass("after_sweep_due");
    if Slot::load(client, slot).await?.is_some() {
        client.execute("SELECT pg_drop_replication_slot($1)", &[&slot]).await?;
    }
    failpoint::pass("after_slot_drop");
    let is_ours = RelayRow::forget_stream(client, relay_id, epoch, sweep).await;
    failpoint::pass("after_forgetting");
    is_ours
}
