//! The whole way, with nothing going wrong.

use crate::support::database::Database;
use crate::support::records::Kafka;
use crate::support::stage::Stage;
use crate::support::unique;
use crate::support::workload::Workload;

/// 3 topics × 6 partitions × 1,000 keys × 100,000 events from 8 writers with rollbacks and
/// savepoints; and one topic in one order.
#[tokio::test]
async fn everything_that_is_committed_arrives_once_in_order_and_is_sent() {
    let workload = Workload {
        prefix: unique("happy"),
        topics: 3,
        keys: 1000,
        writers: 8,
        drafts: true,
        pace: None,
    };
    let stage = Stage::of(Database::new("happy").await, Kafka::shared(), workload, 6).await;
    let relay = stage.options().start_ready().await;

    stage.workload.write(&stage.database, 100_000).await;
    let verdict = stage.check(0).await;
    assert!(verdict.delivered >= 100_000);

    let database = &stage.database;
    database.wait_until_confirmed(&stage.slot()).await;
    stage.nothing_was_confirmed_too_early("at rest").await;

    let drafts = database.count("SELECT count(*) FROM outbox WHERE aggregate_id = 'draft'").await;
    let skipped = relay.metric("outbox_publish_total{status=\"skipped\"}").await;
    assert!(drafts > 0 && skipped >= drafts as f64, "{skipped} of {drafts} drafts were counted");
    assert_eq!(relay.stop().await, 0);
    stage.clear().await;
}
