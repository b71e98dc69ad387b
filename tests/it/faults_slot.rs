//! Slots that the server gives up: seen coming, a halt that says what to do, and a way back that
//! loses nothing while writers write.

use std::time::Duration;

use outboxd::demo::TempPostgres;

use crate::metrics::becomes;
use crate::recovery::{wait_for_settled, wal_status};
use crate::support::database::Database;
use crate::support::kafka_proxy::KafkaProxy;
use crate::support::proxy::Cut;
use crate::support::records::Kafka;
use crate::support::relay::RelayOptions;
use crate::support::stage::Stage;
use crate::support::wait::{SOON, eventually};
use crate::support::workload::Writing;
use crate::support::{pg_bin, setting};

/// What an incident may repeat, as configured in these tests.
const WINDOW: usize = 500;

async fn stage(server: &TempPostgres, name: &str) -> (Stage, RelayOptions) {
    let database = Database::new_at(&server.url("postgres"), name).await;
    let mut stage = Stage::at(database, Kafka::shared(), name, 50).await.without_oracle().await;
    stage.workload.writers = 6;
    stage.workload.pace = Some(Duration::from_millis(50));
    let options = stage.options().set("kafka.in_flight_events", &WINDOW.to_string());
    (stage, options)
}

/// As the remedy has it: the server keeps more, `outboxd slot recover`, then a relay that publishes
/// what is unsent and goes on; writers write.
async fn recovers(stage: &Stage, options: &RelayOptions, limit: &str, writing: Writing) {
    stage.database.execute(&format!("ALTER SYSTEM SET {limit}")).await;
    stage.database.execute("SELECT pg_reload_conf()").await;
    let (code, said, complaint) = options.command_output(&["slot", "recover", "--yes"]);
    assert_eq!(code, 0, "{complaint}");
    assert!(said.contains("The next start publishes every unsent row"), "{said}");
    let relay = options.start_sweeping().await;
    wait_for_settled(&relay, 1_000.0).await;
    becomes(&relay, "outbox_slot_wal_status{status=\"reserved\"}", 1.0).await;
    writing.stop().await;
    stage.check(WINDOW).await;
    assert_eq!(relay.stop().await, 0);
}

/// Kafka takes nothing, so the slot stays where it is, and WAL grows beyond what the server keeps.
/// The server only tidies up at a checkpoint: until then there is time, and a warning. The short form
/// is `a_slot_in_danger_is_shown`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: dev/test --faults"]
async fn f33_a_slot_is_warned_of_before_it_is_lost_and_recovered_without_a_loss() {
    let settings =
        [("max_slot_wal_keep_size", "64MB"), ("max_wal_size", "8GB"), ("checkpoint_timeout", "1h")];
    let server = TempPostgres::start(&pg_bin(), &settings).unwrap();
    let (stage, options) = stage(&server, "f33").await;
    let proxy = KafkaProxy::before(&stage.kafka);
    let proxied = options.clone().set("kafka.bootstrap_servers", &proxy.kafka().servers);
    let mut relay = proxied.start_ready().await;
    let writing = stage.workload.start(&stage.database);
    wait_for_settled(&relay, 1_000.0).await;
    becomes(&relay, "outbox_slot_wal_status{status=\"unreserved\"}", 0.0).await;
    let warning = "the slot keeps more WAL than max_slot_wal_keep_size";
    assert!(!relay.has_logged(warning));

    proxy.proxy.silence();
    for _ in 0..6 {
        let fill = "SELECT pg_logical_emit_message(false, 'test', 'x'), pg_switch_wal()";
        stage.database.execute(fill).await;
    }
    relay.tells("outbox_slot_wal_status{status=\"unreserved\"}").await;
    relay.wait_until_logged(warning).await;
    assert!(relay.metric("outbox_slot_safe_wal_bytes").await <= 0.0);
    assert_eq!(wal_status(&stage).await.as_deref(), Some("unreserved"), "nothing is lost yet");
    assert!(!relay.has_logged("OBX-2031"));

    let checkpoint = stage.database.execute("CHECKPOINT");
    tokio::time::timeout(SOON, checkpoint).await.expect("the server waits for the relay");
    assert_eq!(wal_status(&stage).await.as_deref(), Some("lost"));
    assert_eq!(relay.wait().await.code(), Some(73));
    let said = relay.logged().join("\n");
    assert!(said.contains("OBX-2031") && said.contains("`outboxd slot recover`"), "{said}");

    // What was on its way is lost with the connections.
    proxy.proxy.cut(Cut::Reset);
    recovers(&stage, &options, "max_slot_wal_keep_size = -1", writing).await;
}

/// From PostgreSQL 18 on a slot can be too idle as well: the relay was down for too long.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f33_a_slot_that_was_idle_for_too_long_is_named_so_and_recovered_without_a_loss() {
    let server = TempPostgres::start(setting("PG_BIN_18").as_ref(), &[]).unwrap();
    let (stage, options) = stage(&server, "f33_idle").await;
    let relay = options.start_ready().await;
    let writing = stage.workload.start(&stage.database);
    wait_for_settled(&relay, 1_000.0).await;
    relay.kill().await;
    stage.database.execute("ALTER SYSTEM SET idle_replication_slot_timeout = '1s'").await;
    stage.database.execute("SELECT pg_reload_conf()").await;
    eventually("the slot to be lost", SOON, || async {
        stage.database.execute("CHECKPOINT").await;
        wal_status(&stage).await.as_deref() == Some("lost")
    })
    .await;
    let (code, _, said) = options.command_output(&["run"]);
    assert_eq!((code, said.contains("OBX-2031")), (73, true), "{said}");
    assert!(said.contains("idle_timeout") && said.contains("`outboxd slot recover`"), "{said}");
    options.tells("OBX-2031").await;
    let (code, found, _) = options.command_output(&["doctor"]);
    assert_eq!((code, found.contains("was invalidated (idle_timeout)")), (73, true), "{found}");

    recovers(&stage, &options, "idle_replication_slot_timeout = '1d'", writing).await;
}
