//! A cluster of NATS: it stays there while servers come and go, and so do events.

use std::time::Duration;

use crate::support::nats_cluster::NatsCluster;
use crate::support::outlet::{Outlet as _, OutletStage};

/// Each of the three crashes once: the one that the relay talks to, and those that lead streams.
#[tokio::test]
async fn a_cluster_whose_servers_crash_one_after_another_has_everything_once() {
    let mut stage = OutletStage::<NatsCluster>::new("nats_cluster").await;
    stage.workload.pace = Some(Duration::from_millis(100));
    let relay = stage.options().start_ready().await;
    let writing = stage.workload.start(&stage.database);
    for _ in 0..3 {
        stage.database.wait_for_more(300).await;
        stage.outlet.crash();
        // The others take over, and nobody waits for the one that is away.
        stage.database.wait_for_more(300).await;
        stage.outlet.start_again().await;
    }
    stage.database.wait_for_more(300).await;
    writing.stop().await;
    stage.check(0).await;
    let blamed = "SELECT count(*) FROM outbox WHERE attempts > 1";
    assert_eq!(stage.database.count(blamed).await, 0, "no event is to blame for a leader");
    assert_eq!(relay.stop().await, 0);
    stage.clear().await;
}
