//! How far a relay has come, by the statuses in its table.

use std::time::Duration;

use tokio::time::Instant;

use super::database::Database;
use super::wait::{LATER, SOON, eventually, until};

impl Database {
    /// How many events are SENT.
    pub async fn sent(&self) -> i64 {
        self.count("SELECT count(*) FROM outbox WHERE status = 'SENT'").await
    }

    /// Waits until so many events are SENT, no more.
    pub async fn wait_for_sent(&self, count: i64) {
        eventually(format!("{count} to be SENT"), LATER, || async { self.sent().await == count })
            .await;
    }

    /// Waits until that many more are SENT than now.
    pub async fn wait_for_more(&self, more: i64) {
        let before = self.sent().await;
        eventually(format!("{more} more to be SENT"), SOON, || async {
            self.sent().await >= before + more
        })
        .await;
    }

    /// Lets a relay work until a random number of events more are SENT, at most for that many milliseconds: the
    /// number may never be reached when the table is drained.
    pub async fn let_it_work(&self, dice: &mut fastrand::Rng, milliseconds_at_most: u64) {
        let deadline = Instant::now() + Duration::from_millis(dice.u64(50..milliseconds_at_most));
        let enough = self.sent().await + dice.i64(1..5_000);
        until("some work", SOON, || async {
            (self.sent().await >= enough || Instant::now() > deadline).then_some(())
        })
        .await;
    }
}
