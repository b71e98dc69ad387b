//! The making of publication and slot, in this order.

use std::time::Duration;

use tokio::time::{sleep, timeout};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::disposition::{Fate, of_postgres};
use crate::failure::{Code, Failure};
use crate::postgres::{
    CreatedSlot, Error, Intake, NewSlot, Publication, ReplicationConnection, TableName, blockers,
};

/// Makes the publication. Only called while there is no slot.
///
/// # Errors
/// We may not.
pub(super) async fn create_publication(
    client: &Client,
    name: &str,
    intake: &Intake<TableName>,
) -> Result<(), Fate> {
    let sql = Publication::create_sql(name, intake);
    match client.batch_execute(&sql).await.map_err(Error::from) {
        Ok(()) => {
            tracing::info!(publication = name, %intake, "created the publication");
            Ok(())
        }
        Err(error) if error.sqlstate() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {
            let text =
                format!("there is no publication \"{name}\", and we may not create it: {sql}");
            Err(Fate::Halt(Failure::new(Code::PublicationMissing, text)))
        }
        Err(error) => Err(of_postgres(&error, "create the publication")),
    }
}

/// A new slot has to wait for every transaction that is open. Longer than this is told.
const SLOT_DEADLINE: Duration = Duration::from_secs(15);

/// Creates the slot and exports its snapshot; names what keeps it from being created. Gives nothing
/// if it was `stopped` before.
///
/// # Errors
/// It takes longer than a deadline, or we may not.
pub async fn create_slot(
    client: &Client,
    connection: &mut ReplicationConnection,
    slot: NewSlot<'_>,
    stopped: impl Future<Output = ()>,
) -> Result<Option<CreatedSlot>, Fate> {
    let pid = connection.backend_pid;
    let mut created = std::pin::pin!(connection.create_slot(slot));
    let is_stopped = tokio::select! {
        biased;
        created = created.as_mut() => {
            let created = created.map_err(|error| of_postgres(&error, "create the slot"))?;
            let (slot, failover) = (slot.name, slot.failover);
            tracing::info!(slot, failover, consistent_point = %created.consistent_point, "created the slot");
            return Ok(Some(created));
        }
        () = stopped => true,
        () = sleep(SLOT_DEADLINE) => false,
    };
    let open = blockers(client).await.map_err(|error| of_postgres(&error, "create the slot"))?;
    // Without this the server would go on waiting, and leave a slot behind that nobody reads.
    let cancel = client.execute("SELECT pg_cancel_backend($1)", &[&pid]).await;
    cancel.map_err(|error| of_postgres(&error.into(), "create the slot"))?;
    if let Ok(Ok(created)) = timeout(SLOT_DEADLINE, created).await {
        return Ok(Some(created));
    }
    if is_stopped {
        return Ok(None);
    }
    let named: Vec<_> = open.iter().map(ToString::to_string).collect();
    let named = if named.is_empty() { "none that we can see".to_owned() } else { named.join("; ") };
    let slot = slot.name;
    let text = format!("slot \"{slot}\" waits for open transactions: {named}");
    Err(Fate::Reconnect(Failure::new(Code::SlotBlocked, text)))
}
