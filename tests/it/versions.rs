//! Every supported major version of PostgreSQL that is not the shared server's own.

use outboxd::demo::TempPostgres;

use crate::support::database::Database;
use crate::support::records::Kafka;
use crate::support::setting;
use crate::support::stage::Stage;
use crate::support::wait::{SOON, eventually};

/// Sweeps, streams, writes statuses, stops, goes on without a repetition, and cleans up.
async fn relays_on(major: i64) {
    let server = TempPostgres::start(setting(&format!("PG_BIN_{major}")).as_ref(), &[]).unwrap();
    let database = Database::new_at(&server.url("postgres"), &format!("pg{major}")).await;
    let version = "SELECT current_setting('server_version_num')::int8 / 10000";
    assert_eq!(database.count(version).await, major);
    let stage = Stage::at(database, Kafka::shared(), &format!("pg{major}"), 50).await;
    stage.workload.write(&stage.database, 500).await;
    let relay = stage.options().start_ready().await;
    assert!(relay.has_logged("published the rows older than the slot"));
    stage.workload.write(&stage.database, 1_000).await;
    stage.check(0).await;
    assert_eq!(relay.stop().await, 0);
    stage.workload.write(&stage.database, 500).await;
    let relay = stage.options().start_ready().await;
    stage.check(0).await;
    stage.database.wait_until_confirmed(&stage.slot()).await;
    assert_eq!(relay.stop().await, 0);
    let options = stage.options().set("cleanup.after", "1ms").set("cleanup.interval", "100ms");
    let relay = options.start_ready().await;
    eventually("all of it to be cleaned up", SOON, || async {
        stage.database.count("SELECT count(*) FROM outbox").await == 0
    })
    .await;
    assert_eq!(relay.stop().await, 0);
}

#[tokio::test]
async fn postgresql_14_is_relayed() {
    relays_on(14).await;
}

#[tokio::test]
async fn postgresql_16_is_relayed() {
    relays_on(16).await;
}

#[tokio::test]
async fn postgresql_17_is_relayed() {
    relays_on(17).await;
}

#[tokio::test]
async fn postgresql_18_is_relayed() {
    relays_on(18).await;
}
