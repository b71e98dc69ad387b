//! `outboxd route`: what it says of a row is what the relay publishes of it, and nothing is written.

use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::mapping::migrate;
use crate::support::database::Database;
use crate::support::messages::Messages;
use crate::support::records::{Kafka, Record};
use crate::support::relay::RelayOptions;
use crate::support::small::Small;
use crate::support::{free_port, setting, unique};

const PARTITIONS: i32 = 5;

/// What the command says of a row, how it ends, and what it notes.
fn route(options: &RelayOptions, row: &str) -> (i32, Value, String) {
    let (code, printed, noted) = options.command_output(&["route", "--row", row, "-o", "json"]);
    (code, serde_json::from_str(&printed).unwrap_or_default(), noted)
}

/// The same of one that is published.
fn record_of(options: &RelayOptions, row: &str) -> Value {
    let (code, said, noted) = route(options, row);
    assert_eq!((code, &said["outcome"]), (0, &json!("published")), "{said} {noted}");
    said
}

/// What is said is what was published, byte for byte.
fn assert_same(said: &Value, record: &Record) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    assert_eq!(said["topic"], record.topic);
    assert_eq!(said["key"], json!(record.key.as_deref().map(text)));
    let headers = record
        .headers
        .iter()
        .map(|(name, value)| json!({ "name": name, "value": value.as_deref().map(text) }));
    assert_eq!(said["headers"], json!(headers.collect::<Vec<_>>()));
    let value = said["value"].as_str().map(|value| match said["value_encoding"].as_str() {
        Some("base64") => data_encoding::BASE64.decode(value.as_bytes()).unwrap(),
        encoding => {
            assert_eq!(encoding, Some("utf8"));
            value.as_bytes().to_vec()
        }
    });
    assert_eq!(value, record.value);
    let hashed = || said["partition_hash"].as_i64().unwrap() % i64::from(PARTITIONS);
    let partition = said["partition"].as_i64().unwrap_or_else(hashed);
    assert_eq!(partition, i64::from(record.partition));
    if let Some(millis) = said["timestamp"].as_i64() {
        assert_eq!(millis, record.timestamp);
    }
}

/// Writes the columns that a row names.
async fn insert(database: &Database, table: &str, row: &str) {
    let members: serde_json::Map<String, Value> = serde_json::from_str(row).unwrap();
    let columns = members.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
    let insert = format!(
        "INSERT INTO {table} ({columns}) \
         SELECT {columns} FROM json_populate_record(NULL::{table}, $1::text::json)"
    );
    database.sql.execute(&insert, &[&row]).await.unwrap();
}

fn testdata(name: &str) -> String {
    format!("{}/testdata/tables/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// One of the tables that people have, and its relay.
async fn adopted(name: &'static str) -> (Database, RelayOptions) {
    let database = Database::empty_at(&setting("DATABASE_URL"), name).await;
    let table = std::fs::read_to_string(testdata(&format!("{name}.sql"))).unwrap();
    database.execute(&table).await;
    let options = RelayOptions::new(&database, &Kafka::shared());
    let options = options.file(&testdata(&format!("{name}.toml")));
    migrate(&options);
    (database, options)
}

async fn end(database: Database) {
    database.clear().await;
}

#[tokio::test]
async fn a_row_of_ours_becomes_what_route_says_in_every_format() {
    let (database, kafka) = (Database::new("route_ours").await, Kafka::shared());
    let all = |more: &str| format!(r#"["event_id", "event_type", "tenant_id"{more}]"#);
    for (number, (format, headers)) in [
        ("envelope", all("")),
        ("payload", all(r#", "content_type", "at=occurred_at""#)),
        ("cloudevents-binary", "[]".to_owned()),
        ("cloudevents-structured", all(r#", "dedup_key""#)),
        ("debezium", all(r#", "seq=schema_version""#)),
    ]
    .into_iter()
    .enumerate()
    {
        let topic = unique("route_ours");
        kafka.create_topic(&topic, PARTITIONS, &[]).await;
        let options = RelayOptions::new(&database, &kafka)
            .set("envelope.format", format)
            .set("envelope.headers", &headers)
            .set("envelope.record_timestamp", "occurred_at");
        let row = format!(
            r#"{{"id": "00000000-0000-4000-8000-00000000000{number}", "aggregate_type": "order",
                "aggregate_id": "o-{number} \"ü\"", "event_type": "OrderPlaced", "topic": "{topic}",
                "payload": {{"b": [1.10, 1e2, null], "a": "\u00fc", "a": "last"}}, "tenant_id": "acme",
                "headers": {{"n": 7, "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}},
                "occurred_at": "2026-11-21T07:00:00.25+01:00", "dedup_key": "d-{number}"}}"#
        );
        let said = record_of(&options, &row);
        assert_eq!(said["format"], format);
        assert_eq!(
            database.count("SELECT count(*) FROM outbox").await,
            i64::try_from(number).unwrap()
        );
        let relay = options.start_ready().await;
        insert(&database, "outbox", &row).await;
        assert_same(&said, &kafka.wait_for(&topic, 1).await[0]);
        assert_eq!(relay.stop().await, 0);
    }
    end(database).await;
}

#[tokio::test]
async fn rows_of_other_tables_become_what_route_says() {
    let kafka = Kafka::shared();
    for (name, table, row) in [
        (
            "scribe",
            "event_outbox",
            r#"{"id": "00000000-0000-4000-8000-000000000001", "topic": "TOPIC", "key": "k",
                "partition_key": "p", "payload": {"n": 1.0}, "headers": {"h": "x"}}"#,
        ),
        (
            "swit",
            "outbox",
            r#"{"id": "not-a-uuid", "aggregate_id": "a", "event_type": "T", "topic": "TOPIC",
                "payload": "\\x00ff10", "headers": "{\"h\": \"x\"}",
                "created_at": "2026-11-21 06:00:00"}"#,
        ),
        (
            "huleedu",
            "event_outbox",
            r#"{"id": "00000000-0000-4000-8000-000000000001", "aggregate_id": "a",
                "aggregate_type": "essay", "event_type": "T", "topic": "TOPIC",
                "event_data": {  "b": 1.10,
                    "b":  "\u00fc"}}"#,
        ),
        (
            "debezium",
            "outbox",
            r#"{"id": "00000000-0000-4000-8000-000000000001", "aggregatetype": "TOPIC",
                "aggregateid": "1", "type": "T", "payload": {"id": 1, "b": [1, 2.0]}}"#,
        ),
    ] {
        let (database, options) = adopted(name).await;
        let own = unique(name);
        let topic = if name == "debezium" { format!("outbox.event.{own}") } else { own.clone() };
        kafka.create_topic(&topic, PARTITIONS, &[]).await;
        let row = row.replace("TOPIC", &own);
        let said = record_of(&options, &row);
        let relay = options.start_ready().await;
        insert(&database, table, &row).await;
        assert_same(&said, &kafka.wait_for(&topic, 1).await[0]);
        assert_eq!(relay.stop().await, 0);
        end(database).await;
    }
}

#[tokio::test]
async fn a_message_becomes_what_route_says_and_needs_no_table() {
    let messages = Messages::new("route_messages").await;
    let options = messages.options().set("route.default", &messages.topic);
    let content = r#"{"event_id": "e-1", "event_type": "Tested", "aggregate_type": "tested",
        "aggregate_id": "k", "unknown": 1, "payload": {"n":  1.10}, "headers": {"h": "x"}}"#;
    let said = record_of(&options, content);
    let bare = options.clone().unset("postgres.url");
    assert_eq!(record_of(&bare, content), said, "there is nothing to ask the database");
    let relay = options.start_ready().await;
    messages.write(content).await;
    // The topic has one partition.
    let said = Value::Object({
        let mut said = said.as_object().unwrap().clone();
        said["partition"] = json!(0);
        said
    });
    assert_same(&said, &messages.kafka.wait_for(&messages.topic, 1).await[0]);
    assert_eq!(relay.stop().await, 0);

    let (code, said, noted) = route(&options, r#"{"payload": {}, "aggregate_id": "k"}"#);
    assert_eq!((code, &said["event_id"]), (0, &json!("0/0/0")), "{said}");
    assert!(noted.contains("0/0/0 stands for it"), "{noted}");
    for (bad, error) in [
        (r#"{"payload": {}, "scheduled_at": "2026-11-21T06:00:00Z"}"#, "cannot be scheduled"),
        ("[1]", "not a JSON object"),
    ] {
        let (code, said, _) = route(&options, bad);
        assert_eq!((code, &said["error"]["code"]), (78, &json!("OBX-3004")), "{said}");
        assert!(said["error"]["message"].as_str().unwrap().contains(error), "{said}");
    }
    assert_eq!(route(&options, "{").0, 64);
    end(messages.database).await;
}

#[tokio::test]
async fn defaults_are_those_of_the_table_and_no_sequence_moves() {
    let (database, options) = adopted("search").await;
    let row = r#"{"dedup_key": "d", "event_type": "search_click", "payload": {}}"#;
    let (code, said, noted) = route(&options, row);
    assert_eq!((code, &said["topic"]), (0, &json!("search.click.v1")), "{said}{noted}");
    assert_eq!(said["event_id"], "1");
    assert!(noted.contains("column \"id\" gets its number by nextval("), "{noted}");
    assert_eq!(said["notes"].as_array().unwrap().len(), 1, "{said}");
    let moved = "SELECT count(*) FROM outbox_event_id_seq WHERE is_called";
    assert_eq!(database.count(moved).await, 0);
    assert_eq!(database.count("SELECT count(*) FROM outbox_event").await, 0);
    // The relay's role may not even move it.
    let as_relay = format!("{}?options=-c%20role%3Doutboxd", database.url);
    assert_eq!(route(&options.clone().set("postgres.url", &as_relay), row).1, said);
    // What cannot be evaluated without writing is null, where it counts; the rest is evaluated.
    database
        .execute(
            "CREATE FUNCTION writes() RETURNS text LANGUAGE sql AS 'DELETE FROM outbox_event RETURNING dedup_key'; \
             CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END'; \
             CREATE TRIGGER audit BEFORE INSERT ON outbox_event FOR EACH ROW EXECUTE FUNCTION audit(); \
             ALTER TABLE outbox_event ALTER aggregate_id SET DEFAULT writes(), \
                ALTER aggregate_type SET DEFAULT 'made in ' || current_database(), \
                ALTER last_error SET DEFAULT writes()",
        )
        .await;
    let options = options.set("envelope.headers", r#"["aggregate_type"]"#);
    let (code, said, noted) = route(&options, row);
    assert_eq!((code, &said["key"]), (0, &Value::Null), "{said}");
    assert_eq!(said["headers"][0]["value"], format!("made in {}", database.name));
    assert!(noted.contains("column \"aggregate_id\" is null here, public.writes()"), "{noted}");
    assert!(noted.contains("did not run: audit"), "{noted}");
    assert!(!noted.contains("last_error"), "nothing depends on it: {noted}");
    let (_, _, noted) = route(&options, r#"{"event_type": "search_click", "payload": {}}"#);
    assert!(noted.contains("no such row: column \"dedup_key\" may not be null"), "{noted}");
    end(database).await;
}

#[tokio::test]
async fn a_row_that_is_not_published_or_only_later_is_told() {
    let small = Small::new("route_later").await;
    let options = small.options();
    let row = |more: &str| {
        format!(
            r#"{{"aggregate_type": "t", "aggregate_id": "k", "event_type": "T", "payload": {{}}{more}}}"#
        )
    };
    let (code, said, _) = route(&options, &row(r#", "status": "SENT""#));
    assert_eq!((code, &said["outcome"]), (0, &json!("not_pending")), "{said}");
    assert_eq!(
        (&said["reason"], &said["topic"]),
        (&json!("status is not \"PENDING\""), &Value::Null)
    );
    for (at, due) in [("2999-01-01 01:00+01", "2999-01-01T00:00:00Z"), ("infinity", "infinity")] {
        let (code, said, _) = route(&options, &row(&format!(r#", "scheduled_at": "{at}""#)));
        assert_eq!((code, &said["outcome"]), (0, &json!("scheduled")), "{said}");
        assert_eq!((&said["due_at"], &said["topic"]), (&json!(due), &json!("outbox.t")));
    }
    let past = row(r#", "scheduled_at": "2001-01-01""#);
    assert_eq!(record_of(&options, &past)["due_at"], Value::Null);
    let later = row(r#", "scheduled_at": "2999-01-01Z""#);
    let (code, printed, _) = options.command_output(&["route", "--row", &later]);
    assert_eq!(code, 0);
    assert!(printed.starts_with("published when it is due, at 2999-01-01T00:00:00Z"), "{printed}");
    assert!(
        printed.contains("\ntopic      outbox.t\nkey        k\npartition  by the key: "),
        "{printed}"
    );
    small.clear().await;
}

#[tokio::test]
async fn a_row_that_has_no_record_is_told_with_its_code_and_what_becomes_of_it() {
    let (database, options) = adopted("search").await;
    let row = r#"{"id": 7, "dedup_key": "d", "event_type": "unheard_of", "payload": {}}"#;
    let (code, said, _) = route(&options, row);
    assert_eq!(
        (code, &said["outcome"], &said["event_id"]),
        (78, &json!("dead"), &json!("7")),
        "{said}"
    );
    assert_eq!(said["error"]["code"], "OBX-3004");
    assert_eq!(said["dead_letter_topic"], "outbox.dlq", "it has no topic of its own");
    let (code, printed, complaint) = options.command_output(&["route", "--row", row]);
    assert_eq!((code, printed.as_str()), (78, "not published; a dead letter goes to outbox.dlq\n"));
    assert!(complaint.contains("OBX-3004") && complaint.contains("route.map"), "{complaint}");
    let nowhere = options.clone().set("dead_letter.default", "");
    assert_eq!(route(&nowhere, row).1["dead_letter_topic"], Value::Null);
    let blocks = options.clone().set("retry.on_exhausted", "block");
    let (code, said, _) = route(&blocks, row);
    assert_eq!((code, &said["outcome"]), (78, &json!("blocked")), "{said}");
    let large = options.clone().set("outbox.max_row_bytes", "1KiB");
    let row = row
        .replace("unheard_of", "search_click")
        .replace("{}", &format!("\"{}\"", "x".repeat(2000)));
    let (code, said, _) = route(&large, &row);
    assert_eq!((code, &said["error"]["code"]), (78, &json!("OBX-3003")), "{said}");
    end(database).await;
}

#[tokio::test]
async fn a_row_that_the_table_does_not_take_is_refused() {
    let (database, options) = adopted("search").await;
    for (row, error) in [
        ("{", "not a JSON object"),
        ("[]", "not a JSON object"),
        (r#"{"event_tpye": "x"}"#, "no column \"event_tpye\""),
        (r#"{"retry_count": "many"}"#, "column \"retry_count\""),
        (r#"{"created_at": "yesteryear"}"#, "column \"created_at\""),
    ] {
        let (code, said, complaint) = route(&options, row);
        assert_eq!((code, &said), (64, &Value::Null), "{row}: {complaint}");
        assert!(complaint.contains("OBX-6003") && complaint.contains(error), "{row}: {complaint}");
    }
    let missing = options.clone().set("outbox.table", "public.nothing");
    let (code, _, complaint) = route(&missing, "{}");
    assert_eq!((code, complaint.contains("OBX-2008")), (78, true), "{complaint}");
    let unmapped = options.set("outbox.columns.topic", "destination");
    let (code, _, complaint) = route(&unmapped, "{}");
    assert_eq!((code, complaint.contains("OBX-1002")), (78, true), "{complaint}");
    end(database).await;
}

/// What is guessed is told; where the guess is right, the record is the same.
#[tokio::test]
async fn without_a_database_the_columns_are_guessed_and_that_is_said() {
    let (database, options) = adopted("swit").await;
    let row = r#"{"id": "i-1", "aggregate_id": "a", "event_type": "T", "topic": "t",
        "payload": "\\x00ff10", "headers": "{\"h\": \"x\"}", "created_at": "2026-11-21T06:00:00"}"#;
    let with = record_of(&options, row);
    let away = format!("postgres://u@127.0.0.1:{}/d", free_port());
    for options in
        [options.clone().unset("postgres.url"), options.clone().set("postgres.url", &away)]
    {
        let (code, mut said, noted) = route(&options, row);
        assert_eq!(code, 0, "{noted}");
        assert!(noted.contains("the table is not known"), "{noted}");
        assert!(noted.contains("column \"payload\" is bytea"), "{noted}");
        said["notes"] = json!([]);
        assert_eq!(said, with);
    }
    end(database).await;
    // Every table that people have, with nothing but its configuration; names that only a template
    // knows are columns, too.
    for name in ["ours", "scribe", "identity", "search", "swit", "huleedu", "debezium"] {
        let bare = RelayOptions::bare().file(&testdata(&format!("{name}.toml")));
        let bare = bare.set("route.topic", "{region}.{topic}").set("route.default", "fallback");
        let bare = if name == "search" { bare.set("route.unmapped", "default") } else { bare };
        let (code, said, noted) = route(&bare, r#"{"aggregatetype": "t"}"#);
        assert_eq!((code, &said["outcome"]), (0, &json!("published")), "{name}: {said}{noted}");
        assert!(noted.contains("no database is configured"), "{name}: {noted}");
    }
}

#[test]
fn a_row_can_come_from_standard_input() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_outboxd"));
    command.args(["--set", "envelope.format=payload", "route", "--row", "-", "-o", "json"]);
    command.env_clear().current_dir(std::env::temp_dir());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut running = command.spawn().unwrap();
    let row = br#"{"aggregate_type": "order", "payload": { "n":  1 }}"#;
    running.stdin.take().unwrap().write_all(&[row.as_slice(), b"\n"].concat()).unwrap();
    let output = running.wait_with_output().unwrap();
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&said["topic"], &said["value"]),
        (&json!("outbox.order"), &json!(r#"{ "n":  1 }"#))
    );
    assert_eq!(said["partition_by"], Value::Null);
}
