//! Taking over by force: the decision of one relay, once, as a person said. A relay that it was
//! done to stands by like any other, so two of them cannot take the place from each other for ever.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_postgres::Client;

use super::RelayConfig;
use super::disposition::{Fate, of_postgres};
use crate::failure::{Code, Failure};
use crate::postgres::{Error, SqlSession};
use crate::status::RelayRow;

/// Between two looks at what is being ended.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// A session that was told to end does so within this.
const PATIENCE: Duration = Duration::from_secs(20);

/// Ends whoever has the relay's lock or reads its slot; `writer` has the lock then.
pub(super) async fn take_over(writer: &SqlSession, config: &RelayConfig) -> Result<(), Fate> {
    let of = |error: Error| of_postgres(&error, "take over");
    let other = SqlSession::open_at(&config.server, &writer.address, "takeover").await;
    let client = &other.map_err(of)?.client;
    let row = writer.client.query_one("SELECT pg_backend_pid()", &[]).await;
    let pid: i32 = row.map_err(|error| of(error.into()))?.get(0);
    // It waits in the queue before the lock is let go of, so nobody else can be faster.
    let queue = RelayRow::wait_for_lock(&writer.client, &config.id);
    let end = async {
        while !RelayRow::lock_is_awaited(client, pid).await? {
            sleep(LOOK_EVERY).await;
        }
        let ended = RelayRow::end_holder(client, &config.id, pid).await?;
        tracing::warn!(sessions = ended, "ended whoever had the place");
        std::future::pending::<Result<(), Error>>().await
    };
    tokio::select! {
        biased;
        locked = queue => locked.map_err(of)?,
        ended = end => ended.map_err(of)?,
    }
    free_slot(client, &config.slot).await?;
    let detail = serde_json::json!({"slot": config.slot});
    RelayRow::audit(client, &config.id, "takeover", &detail).await.map_err(of)
}

/// Ends whoever reads the slot.
async fn free_slot(client: &Client, slot: &str) -> Result<(), Fate> {
    let deadline = Instant::now() + PATIENCE;
    let sql = "SELECT count(pg_terminate_backend(active_pid)) FROM pg_replication_slots \
               WHERE slot_name = $1 AND active_pid IS NOT NULL";
    loop {
        let row = client.query_one(sql, &[&slot]).await;
        let row = row.map_err(|error| of_postgres(&error.into(), "take over"))?;
        if row.get::<_, i64>(0) == 0 {
            return Ok(());
        }
        if Instant::now() > deadline {
            let text = format!("whoever reads slot \"{slot}\" does not end");
            return Err(Fate::Reconnect(Failure::new(Code::SlotInUse, text)));
        }
        sleep(LOOK_EVERY).await;
    }
}
