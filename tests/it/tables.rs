//! Tables and maps: what does not fit is told, and what changes while the relay runs.

use crate::mapping::with_table;
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

/// A table, keys that are set, and what the start and `doctor` say of it.
type Misfit = (&'static str, &'static [(&'static str, &'static str)], &'static [&'static str]);

const MISFITS: &[Misfit] = &[
    (
        "CREATE TYPE state AS ENUM ('NEW', 'SENT'); \
         CREATE TABLE outbox (id int PRIMARY KEY, payload jsonb, status state DEFAULT 'NEW')",
        &[("outbox.status.labels.pending", "NEW"), ("outbox.status.labels.retrying", "OLD")],
        &[
            "outbox.status.labels.failed: column \"status\" is of type public.state, which cannot be \
             \"FAILED\"; expected one of NEW, SENT",
            "outbox.status.labels.retrying: column \"status\" is of type public.state, which cannot be \
             \"OLD\"; expected one of NEW, SENT",
        ],
    ),
    (
        "CREATE TABLE outbox (id int PRIMARY KEY, payload jsonb, status char(6))",
        &[],
        &[
            "outbox.status.labels.pending: column \"status\" is of type character(6), which cannot be \
           \"PENDING\"; expected at most 6 characters",
        ],
    ),
    (
        "CREATE TABLE outbox (id int PRIMARY KEY, payload jsonb, sent_at timestamp, \
            tenant_id text GENERATED ALWAYS AS (payload ->> 't') STORED, \
            place text GENERATED ALWAYS AS (payload ->> 'p') STORED, \
            other text GENERATED ALWAYS AS (payload ->> 'o') STORED)",
        &[("route.default", "t.{place}")],
        &[
            "outbox.columns.tenant_id: column \"tenant_id\" of type text is generated, and such a \
             column is not in the stream",
            "column \"place\" of type text is generated",
        ],
    ),
    (
        "CREATE TABLE outbox (id int PRIMARY KEY, payload jsonb, sent_at timestamp, \
            sent boolean GENERATED ALWAYS AS (sent_at IS NOT NULL) STORED)",
        &[("outbox.status.sent_flag", "sent")],
        &[
            "outbox.status.sent_flag: column \"sent\" of type boolean is generated; expected one that \
           can be written",
        ],
    ),
    (
        "CREATE TABLE outbox (id xml, payload jsonb, sent_at timestamp)",
        &[],
        &["outbox.columns.id: column \"id\" is of type xml, which has no \"=\""],
    ),
];

#[tokio::test]
async fn what_a_mapped_column_cannot_hold_or_bring_is_told_at_the_start() {
    for (table, keys, expected) in MISFITS {
        let small = with_table("unfit", table).await;
        let mut options = small.options().set("outbox.sweep_order", "[\"id\"]");
        for (key, value) in *keys {
            options = options.set(key, value);
        }
        let (code, _, said) = options.command_output(&["migrate"]);
        assert_eq!(code, 0, "{said}");
        let (code, _, said) = options.command_output(&["run"]);
        assert_eq!((code, said.contains("OBX-1002")), (78, true), "{said}");
        let (code, found, _) = options.command_output(&["doctor", "-o", "json"]);
        assert_eq!(code, 78, "{found}");
        let found: serde_json::Value = serde_json::from_str(&found).unwrap();
        let errors = found["findings"].as_array().unwrap().iter();
        let errors: Vec<_> = errors.filter(|it| it["severity"] == "error").collect();
        let observed = |error: &&serde_json::Value| error["observed"].as_str().unwrap().to_owned();
        let observed: Vec<_> = errors.iter().map(observed).collect();
        assert_eq!(observed.len(), expected.len(), "{observed:?}");
        for text in *expected {
            assert!(observed.iter().any(|it| it.contains(text)), "{text} is not in {observed:?}");
        }
        small.clear().await;
    }
}

/// A publication that somebody made with a list of columns: PostgreSQL 14 does not know any.
#[tokio::test]
async fn a_mapped_column_that_is_not_published_is_told_at_the_start() {
    let database = Database::new("unlisted").await;
    let options = RelayOptions::new(&database, &Kafka::shared());
    let version = "SELECT current_setting('server_version_num')::int8";
    if database.count(version).await >= 150_000 {
        database
            .execute("ALTER PUBLICATION outboxd SET TABLE outbox (id, payload, status, topic)")
            .await;
        let (code, _, said) = options.command_output(&["run"]);
        assert_eq!(code, 78);
        let told =
            "column \\\"aggregate_id\\\" of type text is not among those that the publication";
        assert!(said.contains("OBX-1002"), "{said}");
        let (_, found, _) = options.command_output(&["doctor", "-o", "json"]);
        assert!(found.contains(told), "{found}");
        database.execute("ALTER PUBLICATION outboxd SET TABLE public.outbox").await;
    }
    let (code, found, _) = options.command_output(&["doctor"]);
    assert_eq!(code, 0, "{found}");
    database.clear().await;
}

/// Statuses are written by id.
#[tokio::test]
async fn an_id_without_an_index_is_warned_of_with_the_statement_that_makes_one() {
    let columns = "payload jsonb, topic text, status text DEFAULT 'PENDING'";
    for (table, fix) in [
        (
            format!(
                "CREATE TABLE outbox (id uuid, {columns}); CREATE INDEX ON outbox (topic, id); \
                 CREATE INDEX ON outbox (id) WHERE status = 'PENDING'"
            ),
            "CREATE INDEX CONCURRENTLY ON \"public\".\"outbox\" (\"id\");",
        ),
        (
            format!(
                "CREATE TABLE outbox (id text, {columns}) PARTITION BY LIST (status); \
                 CREATE TABLE outbox_sent PARTITION OF outbox (PRIMARY KEY (id)) FOR VALUES IN ('SENT'); \
                 CREATE TABLE outbox_rest PARTITION OF outbox DEFAULT"
            ),
            "CREATE INDEX ON \"public\".\"outbox\" (\"id\");",
        ),
        // Its own operators are in no schema that the relay searches.
        (
            format!(
                "CREATE EXTENSION citext; CREATE TABLE outbox (id citext PRIMARY KEY, {columns})"
            ),
            "CREATE INDEX CONCURRENTLY ON \"public\".\"outbox\" (\"id\" text_ops);",
        ),
    ] {
        let small = with_table("unindexed", &table).await;
        let options = small.options().set("outbox.sweep_order", "[\"id\"]");
        let (code, _, said) = options.command_output(&["migrate"]);
        assert_eq!(code, 0, "{said}");
        let doctor = || {
            let (code, found, said) = options.command_output(&["doctor", "-o", "json"]);
            assert_eq!(code, 0, "{said}");
            let found: serde_json::Value = serde_json::from_str(&found).unwrap();
            let findings = found["findings"].as_array().unwrap().iter();
            findings.filter(|it| it["code"] == "OBX-2009").cloned().collect::<Vec<_>>()
        };
        let found = doctor();
        assert_eq!(found.len(), 1, "{found:?}");
        for (field, value) in [("code", "OBX-2009"), ("severity", "warning"), ("fix", fix)] {
            assert_eq!(found[0][field], value, "{found:?}");
        }
        let relay = options.start_ready().await;
        assert!(relay.has_logged("no index serves to find a row"));
        assert_eq!(relay.stop().await, 0);
        small.database.execute(fix).await;
        assert_eq!(doctor(), [] as [serde_json::Value; 0]);
        small.clear().await;
    }
    // Other kinds of indexes that serve, and nothing that is looked for by id.
    for (table, mode, start) in [
        (
            "CREATE TABLE outbox (id uuid, payload jsonb, sent_at timestamp); \
          CREATE INDEX ON outbox USING hash (id)",
            "update",
            "pending",
        ),
        (
            "CREATE TYPE kind AS ENUM ('a'); CREATE TABLE outbox (id kind, payload jsonb, \
            sent_at timestamp); CREATE INDEX ON outbox (id, sent_at)",
            "delete",
            "pending",
        ),
        ("CREATE TABLE outbox (id varchar(9), payload jsonb)", "none", "stream"),
        (
            "CREATE TABLE outbox (id varchar(9) UNIQUE, payload jsonb, sent_at date)",
            "delete",
            "pending",
        ),
    ] {
        let small = with_table("indexed", table).await;
        let options = small.options().set("outbox.sweep_order", "[\"id\"]");
        let options = options.set("outbox.status.mode", mode).set("outbox.start", start);
        let sent_at = if table.contains("sent_at timestamp") { "sent_at" } else { "" };
        let options = options.set("outbox.status.sent_at", sent_at);
        let (code, _, said) = options.command_output(&["migrate"]);
        assert_eq!(code, 0, "{said}");
        let (code, found, said) = options.command_output(&["doctor"]);
        assert_eq!(code, 0, "{said}");
        assert!(!found.contains("OBX-2009"), "{table}: {found}");
        small.clear().await;
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
    database.clear().await;
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
    database.clear().await;
}
