//! What only a person can mend is seen in time: a producer that cannot go on, a slot that is about
//! to be lost.

use outboxd::demo::TempPostgres;

use crate::metrics::{becomes, reaches};
use crate::support::broker::{Broker, GUARDED, RELAY_LOGIN};
use crate::support::database::Database;
use crate::support::small::Small;
use crate::support::wait::{SOON, eventually};
use crate::support::{pg_bin, unique};

/// A broker that gives the relay no producer id: without one nothing can be sent in order.
#[tokio::test]
async fn a_producer_that_cannot_go_on_is_counted() {
    let broker = Broker::start(&GUARDED).await;
    let small = Small::new("fatal").await;
    let options = small.options().set("kafka.bootstrap_servers", &broker.kafka().servers);
    let relay = options.set("kafka.properties", RELAY_LOGIN).start();
    reaches(&relay, "outbox_producer_fatal_total", 1.0).await;
    reaches(&relay, "outbox_relay_errors_total{component=\"kafka\",class=\"fatal\"}", 1.0).await;
    let postgres = "outbox_relay_errors_total{component=\"postgres\",class=\"unavailable\"}";
    becomes(&relay, postgres, 0.0).await;
    relay.wait_until_logged("OBX-4006").await;
    relay.kill().await;
    small.clear().await;
}

/// The relay cannot confirm, WAL grows beyond what the server keeps for a slot.
#[tokio::test]
async fn a_slot_in_danger_is_shown() {
    let settings = [("max_wal_size", "32MB"), ("max_slot_wal_keep_size", "64MB")];
    let server = TempPostgres::start(&pg_bin(), &settings).unwrap();
    let database = Database::new_at(&server.url("postgres"), "danger").await;
    let small = Small::at(database, "danger").await;
    let options = small.options().set("kafka.in_flight_events", "10");
    let options = options.set("held.max_events", "1");
    let mut relay = options.start_ready().await;
    becomes(&relay, "outbox_slot_wal_status{status=\"reserved\"}", 1.0).await;
    reaches(&relay, "outbox_slot_safe_wal_bytes", 1.0).await;
    let safe = relay.metric("outbox_slot_safe_wal_bytes").await;
    for kind in ["confirmed", "restart", "received"] {
        let lag = relay.metric(&format!("outbox_slot_lag_bytes{{kind=\"{kind}\"}}")).await;
        assert!(lag < 10_000_000.0, "{kind} {lag}");
    }
    // More events than can be held, then 60 MB behind them, which the window does not let in.
    let missing = unique("danger_missing");
    for key in ["first", "second"] {
        small.database.emit("tested", key, &missing, "{}").await;
    }
    relay.wait_for_state("stalled").await;
    let write = format!(
        "INSERT INTO outbox (aggregate_type, aggregate_id, event_type, payload, topic) \
         SELECT 'tested', n::text, 'Tested', to_jsonb((SELECT string_agg(md5(random()::text), '') \
            FROM generate_series(1, 300) WHERE n > 0)), '{missing}' FROM generate_series(1, 2000) n"
    );
    // As it is, so that it is as large as it looks.
    small.database.execute("ALTER TABLE outbox ALTER payload SET STORAGE EXTERNAL").await;
    for _ in 0..3 {
        small.database.execute(&write).await;
    }
    eventually("the time until the limit to be told", SOON, || async {
        let status = relay.status().await;
        let (rate, lasts) = (&status["rates"]["wal_bytes"], &status["slot"]["seconds_until_limit"]);
        rate.as_f64().unwrap_or(0.0) > 1_000_000.0
            && lasts.as_f64().is_some_and(|lasts| lasts < 60.0)
    })
    .await;
    // What was read before the first of these rows is received.
    for (kind, at_least) in
        [("confirmed", 50_000_000.0), ("restart", 50_000_000.0), ("received", 30_000_000.0)]
    {
        reaches(&relay, &format!("outbox_slot_lag_bytes{{kind=\"{kind}\"}}"), at_least).await;
    }
    becomes(&relay, "outbox_slot_wal_status{status=\"extended\"}", 1.0).await;
    becomes(&relay, "outbox_slot_wal_status{status=\"reserved\"}", 0.0).await;
    assert!(relay.metric("outbox_slot_safe_wal_bytes").await < safe - 50_000_000.0);
    // And beyond: the slot is lost, which only a person can mend. The checkpoint that invalidates it
    // waits until the relay lets go of it.
    small.database.execute(&write).await;
    let checkpoint = small.database.execute("CHECKPOINT");
    tokio::time::timeout(SOON, checkpoint).await.expect("the server waits for us");
    assert_eq!(relay.wait().await.code(), Some(73));
    assert!(relay.has_logged("OBX-2031"), "{}", relay.logged().join("\n"));
    let (code, found, _) = options.command_output(&["doctor"]);
    assert_eq!((code, found.contains("error OBX-2031")), (73, true), "{found}");
    assert!(found.contains("fix:      outboxd slot recover"), "{found}");
}
