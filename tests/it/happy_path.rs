//! The whole way, with nothing going wrong.

use crate::support::checker::{Oracle, check};
use crate::support::database::Database;
use crate::support::records::Kafka;
use crate::support::relay::RelayOptions;
use crate::support::unique;
use crate::support::workload::Workload;

/// 3 topics × 6 partitions × 1,000 keys × 100,000 events from 8 writers with rollbacks and
/// savepoints.
#[tokio::test]
async fn everything_that_is_committed_arrives_once_in_order_and_is_sent() {
    let database = Database::new("happy").await;
    let kafka = Kafka::shared();
    let workload = Workload {
        prefix: unique("happy"),
        topics: 3,
        keys: 1000,
        writers: 8,
        drafts: true,
        pace: None,
    };
    workload.prepare(&database).await;
    for topic in workload.topic_names() {
        kafka.create_topic(&topic, 6, &[]).await;
    }
    let mut oracle = Oracle::new(&database).await;
    let relay = RelayOptions::new(&database, &kafka).start_ready().await;

    workload.write(&database, 100_000).await;
    let verdict = check(&database, &kafka, &workload, 0).await;
    assert!(verdict.delivered >= 100_000);

    database.wait_until_confirmed(&database.name).await;
    let confirmed = database.confirmed(&database.name).await.unwrap();
    let topics = workload.topic_names();
    let topics: Vec<_> = topics.iter().map(String::as_str).collect();
    let records = kafka.read(&topics);
    let too_early = oracle.confirmed_too_early(&database, confirmed, &records).await;
    assert!(too_early.is_empty(), "confirmed before Kafka had them: {}", too_early.len());

    let drafts = database.count("SELECT count(*) FROM outbox WHERE aggregate_id = 'draft'").await;
    let skipped = relay.metric("outbox_publish_total{status=\"skipped\"}").await;
    assert!(drafts > 0 && skipped >= drafts as f64, "{skipped} of {drafts} drafts were counted");
    assert_eq!(relay.stop().await, 0);
    oracle.drop(&database).await;
    let slot = database.name.clone();
    database.drop(&slot).await;
}
