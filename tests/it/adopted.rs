//! The tables that people have (`testdata/tables`), each with its configuration and nothing else:
//! what is published byte for byte, what the row says before and after, tries again, dead letters.

use std::collections::BTreeMap;

use crate::kafka_outage::limit;
use crate::mapping::migrate;
use crate::support::database::Database;
use crate::support::records::{Kafka, Record};
use crate::support::relay::{Relay, RelayOptions};
use crate::support::wait::{LATER, SOON, eventually};
use crate::support::{setting, unique};

/// Larger than what the topic takes.
const LARGE: usize = 4000;

/// A database with such a table, and a topic that takes 2 kB.
struct Adopted {
    name: &'static str,
    table: &'static str,
    database: Database,
    kafka: Kafka,
    topic: String,
}

fn file(name: &str) -> String {
    format!("{}/testdata/tables/{name}", env!("CARGO_MANIFEST_DIR"))
}

impl Adopted {
    async fn new(name: &'static str, table: &'static str) -> Self {
        Self::with_topic(name, table, unique(name)).await
    }

    async fn with_topic(name: &'static str, table: &'static str, topic: String) -> Self {
        let database = Database::empty_at(&setting("DATABASE_URL"), name).await;
        if name != "ours" {
            let sql = std::fs::read_to_string(file(&format!("{name}.sql"))).unwrap();
            database.execute(&sql).await;
        }
        let kafka = Kafka::shared();
        kafka.create_topic(&topic, 4, &[("max.message.bytes", "2000")]).await;
        kafka.create_topic(&format!("{topic}.dlq"), 1, &[]).await;
        Self { name, table, database, kafka, topic }
    }

    /// As its configuration says, but that tests are in a hurry.
    fn options(&self) -> RelayOptions {
        self.as_it_is().set("retry.initial_backoff", "300ms").set("retry.jitter", "0")
    }

    fn as_it_is(&self) -> RelayOptions {
        let options = RelayOptions::new(&self.database, &self.kafka);
        options.file(&file(&format!("{}.toml", self.name)))
    }

    /// Waits until so many rows are like this.
    async fn rows(&self, count: i64, condition: &str) {
        let sql = format!("SELECT count(*) FROM {} WHERE {condition}", self.table);
        eventually(format!("{count} rows with {condition}"), LATER, || async {
            self.database.count(&sql).await == count
        })
        .await;
    }

    async fn insert(&self, columns: &str, values: &str) {
        let sql = format!("INSERT INTO {} ({columns}) VALUES ({values})", self.table);
        self.database.execute(&sql).await;
    }

    /// The records of the topic, by key, once there are so many.
    async fn records(&self, count: usize) -> BTreeMap<String, Record> {
        let records = self.kafka.wait_for(&self.topic, count).await;
        assert_eq!(records.len(), count, "none is published twice");
        records.into_iter().map(|record| (record.key().to_owned(), record)).collect()
    }

    async fn dead_letter(&self) -> Record {
        self.kafka.wait_for(&format!("{}.dlq", self.topic), 1).await.remove(0)
    }

    /// The topic takes larger records from now on, or does not any more.
    async fn widen(&self, is_wide: bool) {
        limit(&self.kafka, &self.topic, if is_wide { "1048576" } else { "2000" }).await;
    }

    async fn end(self, relay: Relay) {
        assert_eq!(relay.stop().await, 0);
        self.database.clear().await;
    }
}

fn pad() -> String {
    "x".repeat(LARGE)
}

fn headers(record: &Record) -> Vec<(&str, &str)> {
    record.headers.iter().map(|(name, _)| (name.as_str(), record.header(name).unwrap())).collect()
}

/// A dead letter is the record that it would have been, and says what happened.
fn assert_dead(record: &Record, topic: &str, attempts: &str, headers_before: &[(&str, &str)]) {
    let all = headers(record);
    assert_eq!(all[..headers_before.len()], *headers_before, "its own headers come first");
    assert_eq!(record.header("dlq-topic"), Some(topic));
    assert_eq!(record.header("dlq-attempts"), Some(attempts));
    assert_eq!(record.header("dlq-error-class"), Some("OBX-4004"));
    assert!(record.header("dlq-error").unwrap().contains("takes 2000"));
    assert!(record.header("dlq-failed-at").unwrap().ends_with('Z'));
}

const ID: [&str; 4] = [
    "4d47e190-0402-4048-bc2c-000000000001",
    "4d47e190-0402-4048-bc2c-000000000002",
    "4d47e190-0402-4048-bc2c-000000000003",
    "4d47e190-0402-4048-bc2c-000000000004",
];

#[tokio::test]
async fn scribe_works_as_it_is() {
    let scribe = Adopted::new("scribe", "event_outbox").await;
    let options = scribe.options();
    migrate(&options);
    let columns = "id, topic, key, partition_key, payload, headers, max_retries";
    let row = |n: usize, key: &str, payload: &str, retries: u32| {
        let (id, topic) = (ID[n], &scribe.topic);
        let headers = r#"'{"request-id": "r-1", "n": 2}'"#;
        format!("'{id}', '{topic}', '{key}', 'shard-7', '{payload}', {headers}, {retries}")
    };
    scribe.insert(columns, &row(0, "a", r#"{"b": 1, "a": 1.10}"#, 5)).await;
    let relay = options.start_ready().await;
    scribe.insert(columns, &row(1, "b", "[null]", 0)).await;
    scribe.rows(2, "status = 'SENT' AND sent_at IS NOT NULL AND retry_count = 0").await;
    let records = scribe.records(2).await;
    assert_eq!(records["a"].text(), r#"{"a": 1.10, "b": 1}"#, "as PostgreSQL prints jsonb");
    assert_eq!(records["b"].text(), "[null]");
    let own = [("event_id", ID[0]), ("n", "2"), ("request-id", "r-1")];
    assert_eq!(headers(&records["a"]), own, "it has no event type");
    assert_eq!(records["a"].partition, records["b"].partition, "partition_key alone chooses");

    // While retries remain, it is PENDING; the checks hold.
    scribe.insert(columns, &row(2, "c", &format!("{{\"p\": \"{}\"}}", pad()), 100)).await;
    let failing = "status = 'PENDING' AND retry_count BETWEEN 2 AND max_retries \
                   AND last_error LIKE '%takes 2000%'";
    scribe.rows(1, failing).await;
    scribe.widen(true).await;
    scribe.rows(3, "status = 'SENT' AND sent_at IS NOT NULL").await;
    scribe.records(3).await;
    scribe.widen(false).await;
    scribe.insert(columns, &row(3, "d", &format!("{{\"p\": \"{}\"}}", pad()), 2)).await;
    let dead = "status = 'FAILED' AND retry_count = max_retries AND sent_at IS NULL";
    scribe.rows(1, dead).await;
    let own = [("event_id", ID[3]), ("n", "2"), ("request-id", "r-1")];
    assert_dead(&scribe.dead_letter().await, &scribe.topic, "2", &own);
    scribe.end(relay).await;
}

/// What is due later goes later, and a row that allows no retry says nothing that its check refuses.
#[tokio::test]
async fn scribe_s_schedule_and_checks_hold() {
    let scribe = Adopted::new("scribe", "event_outbox").await;
    let options = scribe.options().set("retry.max_attempts", "2");
    migrate(&options);
    let relay = options.start_ready().await;
    let columns = "id, topic, key, payload, scheduled_at, max_retries";
    let topic = &scribe.topic;
    let soon = "now() + interval '1 second'";
    scribe.insert(columns, &format!("'{}', '{topic}', 'a', '{{}}', {soon}, 5", ID[0])).await;
    let large = format!("'{}', '{topic}', 'b', '\"{}\"', NULL, 0", ID[1], pad());
    scribe.insert(columns, &large).await;
    scribe.rows(1, "status = 'SENT' AND sent_at >= scheduled_at").await;
    scribe.rows(1, "status = 'FAILED' AND retry_count = 0 AND max_retries = 0").await;
    assert_dead(&scribe.dead_letter().await, topic, "2", &[("event_id", ID[1])]);
    scribe.end(relay).await;
}

#[tokio::test]
async fn identity_works_as_it_is() {
    let identity = Adopted::new("identity", "identity.outbox").await;
    let topic = format!("{{ const = {:?} }}", identity.topic);
    let options = identity.as_it_is().set("outbox.columns.topic", &topic);
    migrate(&options);
    let columns = "event_id, event_type, aggregate_type, aggregate_id, payload, created_at";
    let row = |n: usize, payload: &str| {
        let (id, entity) = (ID[n], ID[n].replace("4d47e190", "00000000"));
        format!("'{id}', 'UserCreated', 'user', '{entity}', '{payload}', '2026-11-21 06:00:00Z'")
    };
    identity.insert(columns, &row(0, r#"{"tenant_id": "acme", "n": 1}"#)).await;
    let relay = options.start_ready().await;
    identity.insert(columns, &row(1, r#"{"n": 2}"#)).await;
    identity.rows(2, "published AND published_at IS NOT NULL").await;
    let records = identity.records(2).await;
    for (n, tenant, payload) in [
        (0, "acme", r#"{"n": 1, "tenant_id": "acme"}"#),
        (1, "00000000-0000-0000-0000-000000000000", r#"{"n": 2}"#),
    ] {
        let key = ID[n].replace("4d47e190", "00000000");
        let expected = format!(
            r#"{{"event_id":"{}","event_type":"UserCreated","topic":"{}","schema_version":1,"occurred_at":"2026-11-21T06:00:00Z","tenant_id":"{tenant}","aggregate_id":"{key}","aggregate_type":"user","payload":{payload}}}"#,
            ID[n], identity.topic
        );
        assert_eq!(records[&key].text(), expected);
        assert_eq!(headers(&records[&key]), [("event_id", ID[n])]);
    }

    // A minute to the next attempt, unless somebody asks for it now.
    identity.insert(columns, &row(2, &format!("{{\"p\": \"{}\"}}", pad()))).await;
    let failing = "NOT published AND attempts = 1 AND error_message LIKE '%takes 2000%' \
                   AND next_attempt_at BETWEEN now() + interval '40 s' AND now() + interval '60 s'";
    identity.rows(1, failing).await;
    identity.widen(true).await;
    let retry = format!("SELECT outboxd.retry('{}'::uuid)", ID[2]);
    identity.database.execute(&retry).await;
    identity.rows(3, "published AND published_at IS NOT NULL AND next_attempt_at IS NULL").await;
    assert_eq!(relay.stop().await, 0);

    identity.widen(false).await;
    let hurried = options.set("retry.initial_backoff", "100ms");
    let relay = hurried.start_ready().await;
    identity.insert(columns, &row(3, &format!("{{\"p\": \"{}\"}}", pad()))).await;
    identity.rows(1, "NOT published AND attempts = 5 AND next_attempt_at IS NULL").await;
    assert_dead(&identity.dead_letter().await, &identity.topic, "5", &[("event_id", ID[3])]);
    // It can be published again.
    identity.widen(true).await;
    let (code, said, complaint) = hurried.command_output(&["dlq", "redrive", "--yes", ID[3]]);
    assert_eq!(code, 0, "{said}{complaint}");
    identity.rows(4, "published AND published_at IS NOT NULL").await;
    identity.end(relay).await;
}

#[tokio::test]
async fn search_works_as_it_is() {
    let search = Adopted::new("search", "outbox_event").await;
    let map = format!(r#"{{"search_click" = "{0}", "ac_select" = "{0}"}}"#, search.topic);
    let options = search.options().set("route.map", &map).set("retry.max_attempts", "3");
    let options = options.set("dead_letter.default", &format!("{}.dlq", search.topic));
    migrate(&options);
    let columns = "id, dedup_key, event_type, aggregate_type, aggregate_id, payload, headers";
    let row = |n: u32, kind: &str, payload: &str| {
        format!("{n}, 'd-{n}', '{kind}', 'q', 'k{n}', '{payload}', '{{\"trace-id\": \"t\"}}'")
    };
    search.insert(columns, &row(1, "search_click", r#"{"q": "shoes"}"#)).await;
    let relay = options.start_ready().await;
    search.insert(columns, &row(2, "ac_select", "{}")).await;
    search.rows(2, "status = 'SENT' AND sent_at IS NOT NULL AND retry_count = 0").await;
    let records = search.records(2).await;
    assert_eq!(records["k1"].text(), r#"{"q": "shoes"}"#);
    let own = |n, dedup, kind| {
        [("event_id", n), ("dedup_key", dedup), ("event_type", kind), ("trace-id", "t")]
    };
    assert_eq!(headers(&records["k1"]), own("1", "d-1", "search_click"));
    assert_eq!(headers(&records["k2"]), own("2", "d-2", "ac_select"));

    search.insert(columns, &row(3, "search_click", &format!("\"{}\"", pad()))).await;
    let failing = "status = 'FAILED' AND retry_count >= 1 AND next_retry_at IS NOT NULL \
                   AND last_error LIKE '%takes 2000%'";
    search.rows(1, failing).await;
    search.widen(true).await;
    search.rows(3, "status = 'SENT' AND next_retry_at IS NULL").await;
    // An unmapped type is an error, not a guess.
    search.insert(columns, &row(4, "unheard_of", "{}")).await;
    search
        .rows(1, "status = 'FAILED' AND next_retry_at IS NULL AND last_error LIKE '%route.map%'")
        .await;
    let dead = search.dead_letter().await;
    assert_eq!(headers(&dead)[..4], own("4", "d-4", "unheard_of"));
    assert_eq!((dead.text(), dead.header("dlq-error-class")), ("{}", Some("OBX-3004")));
    search.widen(false).await;
    search.insert(columns, &row(5, "ac_select", &format!("\"{}\"", pad()))).await;
    search.rows(2, "status = 'FAILED' AND next_retry_at IS NULL").await;
    let dead = search.kafka.wait_for(&format!("{}.dlq", search.topic), 2).await.remove(1);
    assert_dead(&dead, &search.topic, "3", &own("5", "d-5", "ac_select"));
    search.end(relay).await;
}

#[tokio::test]
async fn swit_works_as_it_is() {
    let swit = Adopted::new("swit", "outbox").await;
    let options = swit.options();
    migrate(&options);
    let insert = "INSERT INTO outbox (id, aggregate_id, event_type, topic, payload, headers, created_at) \
                  VALUES ($1, $2, 'OrderPlaced', $3, $4, $5, '2026-11-21 06:00:00')";
    let write = async |id: &str, key: &str, payload: &[u8], headers: Option<&str>| {
        swit.database
            .sql
            .execute(insert, &[&id, &key, &swit.topic, &payload, &headers])
            .await
            .unwrap();
    };
    let bytes: Vec<u8> = (0..=255).collect();
    let odd = "not a uuid; ü '\"";
    write("evt-1", "a", &bytes, Some(r#"{"request-id": "r-1"}"#)).await;
    let before = format!("'old', 'a', 'OrderPlaced', '{}', 'x', now(), now()", swit.topic);
    swit.insert("id, aggregate_id, event_type, topic, payload, created_at, processed_at", &before)
        .await;
    let relay = options.start_ready().await;
    write(odd, "b", &[], None).await;
    // The marker is in UTC, whatever the session's time zone is.
    let marked = "id <> 'old' AND processed_at BETWEEN (now() AT TIME ZONE 'UTC') - interval '1 minute' \
                  AND (now() AT TIME ZONE 'UTC')";
    // What the library writes where there are no headers.
    write("evt-null", "n", b"n", Some("null")).await;
    write("evt-empty", "e", b"e", Some("")).await;
    swit.rows(4, marked).await;
    let records = swit.records(4).await;
    assert_eq!(records["a"].value.as_deref(), Some(bytes.as_slice()), "byte for byte");
    assert_eq!(records["b"].value.as_deref(), Some([].as_slice()));
    let kind = ("event_type", "OrderPlaced");
    assert_eq!(headers(&records["a"]), [("event_id", "evt-1"), kind, ("request-id", "r-1")]);
    assert_eq!(headers(&records["b"]), [("event_id", odd), kind]);
    assert_eq!(headers(&records["n"]), [("event_id", "evt-null"), kind]);
    assert_eq!(headers(&records["e"]), [("event_id", "evt-empty"), kind]);

    write("evt-3", "c", &[0xFF; LARGE], None).await;
    let failing =
        "processed_at IS NULL AND retry_count BETWEEN 1 AND 3 AND last_error LIKE '%takes 2000%'";
    swit.rows(1, failing).await;
    swit.rows(1, "processed_at IS NULL AND retry_count = 3").await;
    let dead = swit.dead_letter().await;
    assert_dead(&dead, &swit.topic, "3", &[("event_id", "evt-3"), kind]);
    assert_eq!(dead.value.as_deref(), Some([0xFF; LARGE].as_slice()));
    swit.widen(true).await;
    let (code, said, complaint) = options.command_output(&["dlq", "redrive", "--yes", "evt-3"]);
    assert_eq!(code, 0, "{said}{complaint}");
    swit.rows(0, "processed_at IS NULL").await;
    swit.end(relay).await;
}

#[tokio::test]
async fn huleedu_works_as_it_is() {
    let huleedu = Adopted::new("huleedu", "event_outbox").await;
    let options = huleedu.options().set("retry.max_attempts", "4");
    migrate(&options);
    let columns = "id, aggregate_id, aggregate_type, event_type, event_data, event_key, topic";
    let row = |n: usize, key: &str, data: &str| {
        format!("'{}', 'essay-{n}', 'essay', 'Graded', '{data}', {key}, '{}'", ID[n], huleedu.topic)
    };
    // A json column keeps its text as it was written.
    let data = r#"{ "event_id":"e-1",  "data": {"z":1.0, "a":"\u00fc", "a":1e400} }"#;
    huleedu.insert(columns, &row(0, "'course-1'", data)).await;
    let relay = options.start_ready().await;
    huleedu.insert(columns, &row(1, "NULL", "[ ]")).await;
    huleedu.rows(2, "published_at IS NOT NULL AND retry_count = 0 AND last_error IS NULL").await;
    let records = huleedu.records(2).await;
    assert_eq!(records["course-1"].text(), data);
    assert_eq!(records["essay-1"].text(), "[ ]", "without a key the aggregate's id is it");
    assert_eq!(headers(&records["course-1"]), [("event_id", ID[0]), ("event_type", "Graded")]);

    huleedu.insert(columns, &row(2, "NULL", &format!("\"{}\"", pad()))).await;
    huleedu
        .rows(1, "published_at IS NULL AND retry_count >= 1 AND last_error LIKE '%takes 2000%'")
        .await;
    huleedu.widen(true).await;
    huleedu.rows(3, "published_at IS NOT NULL").await;
    huleedu.widen(false).await;
    huleedu.insert(columns, &row(3, "NULL", &format!("\"{}\"", pad()))).await;
    huleedu.rows(1, "published_at IS NULL AND retry_count = 4").await;
    let own = [("event_id", ID[3]), ("event_type", "Graded")];
    assert_dead(&huleedu.dead_letter().await, &huleedu.topic, "4", &own);
    huleedu.end(relay).await;
}

#[tokio::test]
async fn debezium_s_table_works_as_it_is() {
    let kind = unique("order");
    let topic = format!("outbox.event.{kind}");
    let debezium = Adopted::with_topic("debezium", "outbox", topic).await;
    let options = debezium.options().set("retry.max_attempts", "100");
    migrate(&options);
    let columns = "id, aggregatetype, aggregateid, type, payload";
    let row = |n: usize, key: &str, payload: &str| {
        format!("'{}', '{kind}', '{key}', 'OrderCreated', {payload}", ID[n])
    };
    debezium.insert(columns, &row(0, "old", "'{}'")).await;
    let relay = options.start_ready().await;
    // Deleted in the transaction that wrote it, as Debezium's own examples do.
    let payload = r#"'{"id":1,"b":[1,2.0],"total":39.98}'"#;
    let write = format!(
        "BEGIN; INSERT INTO outbox ({columns}) VALUES ({}); DELETE FROM outbox WHERE id = '{}'; COMMIT",
        row(1, "1", payload),
        ID[1]
    );
    debezium.database.execute(&write).await;
    debezium.insert(columns, &row(2, "2", "NULL")).await;
    let records = debezium.records(2).await;
    assert_eq!(records["1"].text(), r#"{"b": [1, 2.0], "id": 1, "total": 39.98}"#);
    assert_eq!(records["2"].value, None, "a payload of null is a tombstone");
    assert_eq!(headers(&records["1"]), [("id", ID[1])]);

    // There is nowhere in the table to say what became of it: it is held, and tried again.
    debezium.insert(columns, &row(3, "3", &format!("'\"{}\"'", pad()))).await;
    let held = "SELECT count(*) FROM outboxd.held_event WHERE reason = 'retry' AND attempts >= 2 \
                AND last_error LIKE '%takes 2000%'";
    eventually("two attempts", SOON, || async { debezium.database.count(held).await == 1 }).await;
    debezium.widen(true).await;
    debezium.records(3).await;
    assert_eq!(relay.stop().await, 0);
    debezium.widen(false).await;
    let relay = options.set("retry.max_attempts", "2").start_ready().await;
    let another = "4d47e190-0402-4048-bc2c-000000000005";
    let large = row(3, "4", &format!("'\"{}\"'", pad())).replace(ID[3], another);
    debezium.insert(columns, &large).await;
    assert_dead(&debezium.dead_letter().await, &debezium.topic, "2", &[("id", another)]);
    debezium.end(relay).await;
}

#[tokio::test]
async fn our_own_table_works_as_it_is() {
    let ours = Adopted::new("ours", "outbox").await;
    let options = ours.options().set("retry.max_attempts", "3");
    migrate(&options);
    let emit = async |key: &str, payload: &str| -> String {
        ours.database.emit("order", key, &ours.topic, payload).await
    };
    let first = emit("a", r#"{"n": 1}"#).await;
    let relay = options.start_ready().await;
    let second = emit("b", "{}").await;
    ours.rows(2, "status = 'SENT' AND sent_at IS NOT NULL AND attempts = 0").await;
    let records = ours.records(2).await;
    for (key, id, payload) in [("a", &first, r#"{"n": 1}"#), ("b", &second, "{}")] {
        let occurred = format!(
            "SELECT to_char(occurred_at, 'YYYY-MM-DD\"T\"HH24:MI:SS.US') FROM outbox WHERE id = '{id}'"
        );
        ours.database.execute("SET TimeZone = 'UTC'").await;
        let occurred: String = ours.database.row(&occurred, &[]).await.get(0);
        let occurred = occurred.trim_end_matches('0').trim_end_matches('.');
        let expected = format!(
            r#"{{"event_id":"{id}","event_type":"Tested","topic":"{}","schema_version":1,"occurred_at":"{occurred}Z","tenant_id":null,"aggregate_id":"{key}","aggregate_type":"order","payload":{payload}}}"#,
            ours.topic
        );
        assert_eq!(records[key].text(), expected);
        assert_eq!(headers(&records[key]), [("event_id", id.as_str())]);
    }
    let large = emit("c", &format!("\"{}\"", pad())).await;
    let dead = "status = 'FAILED' AND attempts = 3 AND next_attempt_at IS NULL AND last_error LIKE '%takes 2000%'";
    ours.rows(1, "status = 'FAILED' AND next_attempt_at IS NOT NULL").await;
    ours.rows(1, dead).await;
    assert_dead(&ours.dead_letter().await, &ours.topic, "3", &[("event_id", &large)]);
    ours.widen(true).await;
    let (code, said, complaint) = options.command_output(&["dlq", "redrive", "--yes", &large]);
    assert_eq!(code, 0, "{said}{complaint}");
    ours.rows(3, "status = 'SENT'").await;
    ours.end(relay).await;
}
