//! Tables that people already have, by configuration alone: `testdata/tables`.

use crate::support::database::Database;
use crate::support::records::Kafka;
use crate::support::relay::RelayOptions;
use crate::support::unique;
use crate::support::wait::{SOON, eventually};

fn file(name: &str) -> String {
    format!("{}/testdata/tables/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// A database with that table, and with our own schema but not our table.
async fn database(name: &str) -> Database {
    let database = Database::empty_at(&crate::support::setting("DATABASE_URL"), name).await;
    database.execute(&std::fs::read_to_string(file(&format!("{name}.sql"))).unwrap()).await;
    database
}

#[tokio::test]
async fn swit_works_as_it_is() {
    let database = database("swit").await;
    let kafka = Kafka::shared();
    let topic = unique("swit");
    kafka.create_topic(&topic, 3, &[]).await;
    let options = RelayOptions::new(&database, &kafka).file(&file("swit.toml"));
    let (code, said, complaint) = options.command_output(&["migrate"]);
    assert_eq!(code, 0, "{said}{complaint}");
    assert!(said.contains("is there already"), "{said}");

    let insert = "INSERT INTO outbox (id, aggregate_id, event_type, topic, payload, headers, created_at) \
                  VALUES ($1, $2, 'OrderPlaced', $3, $4, $5, '2026-11-21 06:00:00')";
    let bytes: Vec<u8> = (0..=255).collect();
    let before: [(&str, Vec<u8>, Option<&str>); 2] = [
        ("evt-1", bytes.clone(), Some(r#"{"request-id": "r-1"}"#)),
        ("not a uuid; ü '\"", vec![], None),
    ];
    // One row is older than the slot, one comes by the stream; one was processed before.
    let (id, payload, headers) = &before[0];
    database.sql.execute(insert, &[id, &"a-1", &topic, payload, headers]).await.unwrap();
    let processed = "INSERT INTO outbox (id, aggregate_id, event_type, topic, payload, created_at, processed_at) \
                     VALUES ('old', 'a-1', 'OrderPlaced', $1, 'x', now(), now())";
    database.sql.execute(processed, &[&topic]).await.unwrap();
    let relay = options.start_ready().await;
    let (id, payload, headers) = &before[1];
    database.sql.execute(insert, &[id, &"a-2", &topic, payload, headers]).await.unwrap();

    let mut records = kafka.wait_for(&topic, 2).await;
    records.sort_by_key(|record| record.key().to_owned());
    for (record, (id, payload, _)) in records.iter().zip(&before) {
        assert_eq!(record.event_id(), *id);
        assert_eq!(record.value.as_deref(), Some(payload.as_slice()), "byte for byte");
        assert_eq!(record.header("event_type"), Some("OrderPlaced"));
    }
    assert_eq!((records[0].key(), records[1].key()), ("a-1", "a-2"));
    assert_eq!(records[0].header("request-id"), Some("r-1"));
    // The marker is in UTC, whatever the session's time zone is.
    let marked = "SELECT count(*) FROM outbox WHERE id <> 'old' \
                  AND processed_at BETWEEN (now() AT TIME ZONE 'UTC') - interval '1 minute' \
                                       AND (now() AT TIME ZONE 'UTC')";
    eventually("both to be marked", SOON, || async { database.count(marked).await == 2 }).await;
    assert_eq!(kafka.read(&[&topic]).len(), 2);
    assert_eq!(relay.stop().await, 0);
    let slot = database.name.clone();
    database.drop(&slot).await;
}

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
