//! The column map, the status map and the route at work, on tables that are not ours.

use outboxd::outbox::Placement;
use serde_json::json;

use crate::support::database::Database;
use crate::support::records::Record;
use crate::support::relay::RelayOptions;
use crate::support::small::Small;
use crate::support::wait::{SOON, eventually};
use crate::support::{setting, unique};

/// A database with that table, and with our own schema but not our table.
pub async fn with_table(name: &str, table: &str) -> Small {
    let database = Database::empty_at(&setting("DATABASE_URL"), name).await;
    database.execute(table).await;
    Small::at(database, name).await
}

pub fn migrate(options: &RelayOptions) {
    let (code, said, complaint) = options.command_output(&["migrate"]);
    assert_eq!(code, 0, "{said}{complaint}");
}

/// Nothing is called as it is by default.
const EVERYTHING: &str = "CREATE TABLE outbox (uid bigint PRIMARY KEY, kind text, entity bigint, \
    what text, body json, meta json, destination text, lane text, owner text, revision smallint, \
    at timestamp, due timestamptz, natural_key text, done_at timestamptz, tries int)";

#[tokio::test]
async fn every_field_comes_from_the_column_that_it_is_mapped_to() {
    let small = with_table("fields", EVERYTHING).await;
    let mut options = small.options().set("outbox.status.sent_at", "done_at");
    for (key, column) in [
        ("outbox.columns.id", "uid"),
        ("outbox.columns.aggregate_type", "kind"),
        ("outbox.columns.aggregate_id", "entity"),
        ("outbox.columns.event_type", "what"),
        ("outbox.columns.payload", "body"),
        ("outbox.columns.headers", "meta"),
        ("outbox.columns.topic", "destination"),
        ("outbox.columns.key", "lane"),
        ("outbox.columns.tenant_id", "owner"),
        ("outbox.columns.schema_version", "revision"),
        ("outbox.columns.occurred_at", "at"),
        ("outbox.columns.scheduled_at", "due"),
        ("outbox.columns.dedup_key", "natural_key"),
        ("outbox.columns.max_attempts", "tries"),
    ] {
        options = options.set(key, column);
    }
    let options = options.set("envelope.headers", r#"["event_id", "dedup_key", "max_attempts"]"#);
    migrate(&options);
    let relay = options.start_ready().await;
    let insert = format!(
        "INSERT INTO outbox VALUES (7, 'order', 70, 'Placed', '{{ \"n\":  1 }}', '{{\"h\": \"x\"}}', \
            '{}', 'lane-1', 'acme', 3, '2026-11-21 06:00', '2026-11-21 06:00Z', 'natural-7', NULL, 3)",
        small.topic
    );
    small.database.execute(&insert).await;
    let record = small.kafka.wait_for(&small.topic, 1).await.remove(0);
    let expected = json!({
        "event_id": "7", "event_type": "Placed", "topic": small.topic, "schema_version": 3,
        "occurred_at": "2026-11-21T06:00:00Z", "tenant_id": "acme", "aggregate_id": "70",
        "aggregate_type": "order", "payload": {"n": 1},
    });
    assert_eq!(record.json(), expected);
    assert_eq!(record.key(), "lane-1");
    let headers = ["event_id", "dedup_key", "max_attempts", "h"].map(|name| record.header(name));
    assert_eq!(headers, [Some("7"), Some("natural-7"), Some("3"), Some("x")]);
    let done = "SELECT count(*) FROM outbox WHERE done_at IS NOT NULL";
    eventually("it to be marked", SOON, || async { small.database.count(done).await == 1 }).await;
    // The time that it is due counts.
    let due = "INSERT INTO outbox (uid, body, destination, due) \
               SELECT 8, '{}', destination, now() + interval '1 hour' FROM outbox";
    small.database.execute(due).await;
    let held =
        "SELECT count(*) FROM outboxd.held_event WHERE event_id = '8' AND reason = 'scheduled'";
    eventually("it to be held", SOON, || async { small.database.count(held).await == 1 }).await;
    assert_eq!(relay.stop().await, 0);
    small.clear().await;
}

/// Constants, members of the payload, and what stands in where there is no value.
#[tokio::test]
async fn a_field_can_be_a_constant_or_a_member_of_the_payload() {
    let table =
        "CREATE TABLE outbox (id text PRIMARY KEY, payload jsonb NOT NULL, sent_at timestamptz)";
    let small = with_table("sources", table).await;
    let options = small
        .options()
        .set("outbox.columns.topic", &format!("{{ const = {:?} }}", small.topic))
        .set("outbox.columns.aggregate_id", r#"{"payload": "/customer/id"}"#)
        .set("outbox.columns.event_type", r#"{ payload = "/type", default = "Unknown" }"#)
        .set("outbox.columns.tenant_id", r#"{ payload = "/tenant" }"#)
        .set("outbox.columns.schema_version", r#"{ const = "2" }"#);
    migrate(&options);
    let relay = options.start_ready().await;
    let rows = "INSERT INTO outbox VALUES \
        ('a', '{\"customer\": {\"id\": 5}, \"type\": \"Paid\", \"tenant\": \"acme\"}'), \
        ('b', '{\"customer\": {\"id\": 5}}')";
    small.database.execute(rows).await;
    let records = small.kafka.wait_for(&small.topic, 2).await;
    assert_eq!(records.iter().map(Record::key).collect::<Vec<_>>(), ["5", "5"]);
    let fields = records.iter().map(|record| {
        let value = record.json();
        ["event_type", "tenant_id", "schema_version"].map(|name| value[name].clone())
    });
    let expected =
        [[json!("Paid"), json!("acme"), json!(2)], [json!("Unknown"), json!(null), json!(2)]];
    assert_eq!(fields.collect::<Vec<_>>(), expected);
    assert_eq!(relay.stop().await, 0);
    small.clear().await;
}

#[tokio::test]
async fn partitions_are_chosen_by_a_column_or_named_by_one() {
    let small = Small::new("partitions").await;
    let topic = unique("partitions_many");
    small.kafka.create_topic(&topic, 5, &[]).await;
    small.database.execute("ALTER TABLE outbox ADD shard int").await;
    let write = |shard: &str| {
        let sql = format!(
            "INSERT INTO outbox (aggregate_type, aggregate_id, event_type, payload, topic, tenant_id, shard) \
             SELECT 'tested', 'k' || n, 'Tested', '{{}}', '{topic}', 'tenant-' || n % 2, {shard} \
             FROM generate_series(0, 9) n"
        );
        let database = &small.database;
        async move { database.execute(&sql).await }
    };
    let by = small.options().set("outbox.columns.partition_by", "tenant_id");
    let relay = by.start_ready().await;
    write("NULL").await;
    for record in small.kafka.wait_for(&topic, 10).await {
        let tenant = record.json()["tenant_id"].as_str().unwrap().to_owned();
        let expected = Placement::of_key(tenant.as_bytes()).partition(5);
        assert_eq!(record.partition, expected, "{tenant}");
    }
    assert_eq!(relay.stop().await, 0);
    let named = small.options().set("outbox.columns.partition", "shard");
    let relay = named.start_ready().await;
    small.database.execute("DELETE FROM outbox").await;
    write("(n + 3) % 5").await;
    let records = small.kafka.wait_for(&topic, 20).await;
    for n in 0..10 {
        let key = format!("k{n}");
        let of_key = records.iter().filter(|record| record.key() == key);
        assert!(of_key.map(|r| r.partition).any(|partition| partition == (n + 3) % 5), "{key}");
    }
    assert_eq!(relay.stop().await, 0);
    small.clear().await;
}

#[tokio::test]
async fn any_text_is_a_payload_where_that_is_said() {
    let table = "CREATE TABLE outbox (id int PRIMARY KEY, aggregate_id text, payload text, \
                 topic text, sent_at timestamptz)";
    let small = with_table("text", table).await;
    migrate(&small.options());
    let insert = format!("INSERT INTO outbox VALUES (1, 'k', 'not \"JSON\"', '{}')", small.topic);
    small.database.execute(&insert).await;
    let options = small.options().set("dead_letter.topic", "");
    let relay = options.clone().set("outbox.payload_encoding", "auto").start_ready().await;
    relay.wait_until_logged("OBX-3004").await;
    let dead = "SELECT count(*) FROM outboxd.held_event WHERE reason = 'dead'";
    eventually("it to be given up", SOON, || async { small.database.count(dead).await == 1 }).await;
    assert_eq!(relay.stop().await, 0);
    let insert = insert.replace("(1,", "(2,");
    small.database.execute(&insert).await;
    let relay = options.set("outbox.payload_encoding", "text").start_ready().await;
    let record = small.kafka.wait_for(&small.topic, 1).await.remove(0);
    assert_eq!(record.json()["payload"], "not \"JSON\"");
    assert_eq!(relay.stop().await, 0);
    small.clear().await;
}

#[tokio::test]
async fn statuses_go_into_the_columns_that_are_named_with_their_labels() {
    let table = "CREATE TYPE progress AS ENUM ('draft', 'new', 'done'); \
                 CREATE TABLE outbox (id int PRIMARY KEY, aggregate_id text, payload jsonb, \
                    topic text, progress progress DEFAULT 'new', done_at timestamp, done boolean)";
    let small = with_table("labels", table).await;
    let options = small
        .options()
        .set("outbox.status.status", "progress")
        .set("outbox.status.labels.pending", "new")
        .set("outbox.status.labels.sent", "done")
        .set("outbox.status.labels.failed", "draft")
        .set("outbox.status.labels.retrying", "new")
        .set("outbox.status.sent_at", "done_at")
        .set("outbox.status.sent_flag", "done");
    migrate(&options);
    let insert = |id: i32, progress: &str| {
        format!("INSERT INTO outbox VALUES ({id}, 'k', '{{}}', '{}', '{progress}')", small.topic)
    };
    // Older than the slot, then by the stream; what is a draft is not published.
    for (id, progress) in [(1, "new"), (2, "draft")] {
        small.database.execute(&insert(id, progress)).await;
    }
    let relay = options.start_ready().await;
    for (id, progress) in [(3, "draft"), (4, "new")] {
        small.database.execute(&insert(id, progress)).await;
    }
    let done = "SELECT count(*) FROM outbox WHERE progress = 'done' AND done AND done_at \
                BETWEEN (now() AT TIME ZONE 'UTC') - interval '1 min' AND now() AT TIME ZONE 'UTC'";
    eventually("both to be done", SOON, || async { small.database.count(done).await == 2 }).await;
    let records = small.kafka.read(&[&small.topic]);
    assert_eq!(records.iter().map(Record::event_id).collect::<Vec<_>>(), ["1", "4"]);
    let left = "SELECT count(*) FROM outbox WHERE progress = 'draft' AND done IS NULL";
    assert_eq!(small.database.count(left).await, 2);
    assert_eq!(relay.stop().await, 0);
    small.clear().await;
}

#[tokio::test]
async fn a_template_over_fields_and_columns_makes_the_topic() {
    let small = Small::new("route").await;
    small.database.execute("ALTER TABLE outbox ADD region text").await;
    let (regional, other) = (format!("{}.eu.Paid", small.topic), format!("{}.order", small.topic));
    for topic in [&regional, &other] {
        small.kafka.create_topic(topic, 1, &[]).await;
    }
    let options = small
        .options()
        .set("route.topic", &format!("{}.{{region}}.{{event_type}}", small.topic))
        .set("route.default", &format!("{}.{{aggregate_type}}", small.topic));
    let relay = options.start_ready().await;
    let insert = "INSERT INTO outbox (aggregate_type, aggregate_id, event_type, payload, region) \
                  VALUES ('order', 'k', 'Paid', '1', 'eu'), ('order', 'k', 'Paid', '2', NULL)";
    small.database.execute(insert).await;
    small.wait_for_sent(2).await;
    for (topic, payload) in [(regional, 1), (other, 2)] {
        let records = small.kafka.read(&[&topic]);
        assert_eq!(
            records.iter().map(|r| r.json()["payload"].clone()).collect::<Vec<_>>(),
            [payload]
        );
    }
    assert_eq!(relay.stop().await, 0);
    small.clear().await;
}
