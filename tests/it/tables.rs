//! Tables and maps: what does not fit is told, and what changes while the relay runs.

use crate::support::database::Database;
use crate::support::records::Kafka;
use crate::support::relay::RelayOptions;
use crate::support::small::Small;
use crate::support::unique;
use crate::support::wait::{SOON, eventually};

/// A map that cannot work is told at the start, naming column, type and what is expected.
#[tokio::test]
async fn a_wrong_map_is_told_at_the_start() {
    let database = Database::new("wrong_map").await;
    let options = RelayOptions::new(&database, &Kafka::shared())
        .set("outbox.columns.topic", "destination")
        .set("outbox.columns.scheduled_at", "seq")
        .set("outbox.status.sent_at", "status");
    let (code, _, said) = options.command_output(&["run"]);
    assert_eq!(code, 78);
    assert!(said.contains("OBX-1002"), "{said}");
    let (code, found, _) = options.command_output(&["doctor", "-o", "json"]);
    assert_eq!(code, 78);
    for text in [
        "outbox.columns.topic: the table has no column \\\"destination\\\"",
        "outbox.columns.scheduled_at: column \\\"seq\\\" is of type bigint; expected timestamptz or timestamp",
        "outbox.status.sent_at: column \\\"status\\\" is of type text; expected timestamptz or timestamp",
    ] {
        assert!(found.contains(text), "{text} is not in {found}");
    }
}

/// A column that the relay needs is dropped while it runs: it stops, and goes on when it is back.
#[tokio::test]
async fn a_mapped_column_that_is_dropped_stops_the_relay() {
    let database = Database::new("dropped").await;
    let kafka = Kafka::shared();
    let topic = unique("dropped");
    kafka.create_topic(&topic, 1, &[]).await;
    let options = RelayOptions::new(&database, &kafka);
    let mut relay = options.start_ready().await;
    database.emit("tested", "k", &topic, r#"{"n": 1}"#).await;
    kafka.wait_for(&topic, 1).await;
    let insert = format!(
        "INSERT INTO outbox (aggregate_type, aggregate_id, event_type, payload, topic) \
         VALUES ('tested', 'k', 'Tested', '{{\"n\": 2}}', '{topic}')"
    );
    // A column more is nothing to the relay.
    database.execute("ALTER TABLE outbox ADD COLUMN note text").await;
    database.execute(&insert).await;
    kafka.wait_for(&topic, 2).await;
    database.execute("ALTER TABLE outbox DROP COLUMN tenant_id").await;
    database.execute(&insert).await;
    assert_eq!(relay.wait().await.code(), Some(78));
    assert!(relay.has_logged("OBX-3002") && relay.has_logged("tenant_id"));
    // Its column was only a default: a new start does without it.
    let relay = options.start_ready().await;
    kafka.wait_for(&topic, 3).await;
    assert_eq!(relay.stop().await, 0);
    let slot = database.name.clone();
    database.drop(&slot).await;
}

#[tokio::test]
async fn a_mapped_column_of_another_type_stops_the_relay_and_a_renamed_table_does_not() {
    let small = Small::new("retyped").await;
    let mut relay = small.options().start_ready().await;
    small.emit("a", 1).await;
    small.wait_for_sent(1).await;
    small.database.execute("ALTER TABLE outbox RENAME TO events").await;
    let insert = |n: u32| {
        format!(
            "INSERT INTO events (aggregate_type, aggregate_id, event_type, payload, topic) \
             VALUES ('tested', 'a', 'Tested', '{{\"n\": {n}}}', '{}')",
            small.topic
        )
    };
    small.database.execute(&insert(2)).await;
    let sent = "SELECT count(*) FROM events WHERE status = 'SENT'";
    eventually("both to be SENT", SOON, || async { small.database.count(sent).await == 2 }).await;
    small.database.execute("ALTER TABLE events ALTER COLUMN tenant_id TYPE varchar").await;
    small.database.execute(&insert(3)).await;
    assert_eq!(relay.wait().await.code(), Some(78));
    assert!(relay.has_logged("OBX-3002") && relay.has_logged("another type"));
    // A new start knows the type, and the new name where it is said.
    let options = small.options().set("outbox.table", "events");
    let relay = options.start_ready().await;
    eventually("all to be SENT", SOON, || async { small.database.count(sent).await == 3 }).await;
    assert_eq!(small.kafka.read(&[&small.topic]).len(), 3);
    assert_eq!(relay.stop().await, 0);
    small.clear().await;
}

#[tokio::test]
async fn tables_in_other_schemas_with_quoted_names_work() {
    let database = Database::empty_at(&crate::support::setting("DATABASE_URL"), "quoted").await;
    let kafka = Kafka::shared();
    let topic = unique("quoted");
    kafka.create_topic(&topic, 1, &[]).await;
    let options = RelayOptions::new(&database, &kafka)
        .set("outbox.table", "\"My Sales\".\"Out\"\"box\"")
        .set("postgres.publication", "Sales's \"Pub\"");
    let (code, said, complaint) = options.command_output(&["migrate"]);
    assert_eq!(code, 0, "{said}{complaint}");
    let relay = options.start_ready().await;
    let emit = format!(
        "SELECT outboxd.emit('tested', 'k', 'Tested', '{{}}', topic => '{topic}'); \
         SELECT outboxd.emit('tested', 'k', 'Tested', '{{}}', topic => '{topic}', \
            outbox => '\"My Sales\".\"Out\"\"box\"')"
    );
    database.execute(&emit).await;
    kafka.wait_for(&topic, 2).await;
    let sent = "SELECT count(*) FROM \"My Sales\".\"Out\"\"box\" WHERE status = 'SENT'";
    eventually("both to be SENT", SOON, || async { database.count(sent).await == 2 }).await;
    assert_eq!(relay.stop().await, 0);
    let slot = database.name.clone();
    database.drop(&slot).await;
}
