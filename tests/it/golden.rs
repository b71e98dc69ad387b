//! The golden records of Debezium: its configuration, imported, makes outboxd write the same, byte
//! for byte.

use serde_json::Value;
use tempfile::TempDir;

use crate::support::broker::Broker;
use crate::support::database::Database;
use crate::support::records::{Kafka, Record};
use crate::support::relay::RelayOptions;
use crate::support::setting;
use crate::support::wait::{SOON, until};

/// Cases whose records differ, and why that is meant. What they are instead is in `conformance`.
pub const DIFFERENT: &[(&str, &str)] = &[
    ("json_schemas", "no schema is written into each record"),
    ("server_default", "no schema is written into each record"),
    ("snapshot", "without a status, rows that are older than the slot are not published"),
    ("missing_ignored", "a column that is placed and missing is told at the start"),
    ("expand", "the payload is embedded as it is"),
    ("expand_nulls", "the payload is embedded as it is"),
    ("expand_text", "the payload is written as it is"),
    ("envelope_expanded", "the payload is embedded as it is"),
    ("server_expand", "the payload is embedded as it is"),
    ("payload_bytea", "bytes are written as they are, not as the name of a Java class"),
    ("key_bytea", "bytes are no key"),
    ("payload_int_json", "a payload is json, jsonb, text or bytea"),
    ("update_fatal", "an update does not stop the stream"),
];

pub struct Golden(Value);

impl Golden {
    pub fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for form in ["connect", "server"] {
            let folder = format!("{}/testdata/debezium/{form}", env!("CARGO_MANIFEST_DIR"));
            for entry in std::fs::read_dir(folder).unwrap() {
                let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
                all.push(Self(serde_json::from_str(&text).unwrap()));
            }
        }
        all
    }

    pub fn named(name: &str) -> Self {
        let found = Self::all().into_iter().find(|golden| golden.name() == name);
        found.unwrap_or_else(|| panic!("there is no golden case {name}"))
    }

    /// The same with another line in the configuration.
    pub fn with_property(mut self, line: &str) -> Self {
        self.0["properties"].as_array_mut().unwrap().push(line.into());
        self
    }

    /// The same with another row after the others.
    pub fn with_row(mut self, statement: &str) -> Self {
        self.0["rows"].as_array_mut().unwrap().push(statement.into());
        self
    }

    /// Whether Debezium stopped, or refused to start.
    pub fn fails(&self) -> bool {
        !self.0["fails"].is_null()
    }

    pub fn name(&self) -> &str {
        self.0["name"].as_str().unwrap()
    }

    pub fn text(&self, member: &str) -> String {
        let lines = self.0[member].as_array().unwrap().iter();
        lines.map(|line| line.as_str().unwrap()).collect::<Vec<_>>().join("\n")
    }

    fn records(&self) -> &[Value] {
        self.0["records"].as_array().unwrap()
    }

    fn topics(&self) -> Vec<&str> {
        let mut topics: Vec<_> =
            self.records().iter().map(|record| record["topic"].as_str().unwrap()).collect();
        topics.dedup();
        topics
    }

    /// A database with the case's table, and a relay with the case's configuration.
    pub async fn set_up(&self, kafka: &Kafka) -> (Database, RelayOptions, TempDir) {
        let database = Database::empty_at(&setting("DATABASE_URL"), self.name()).await;
        database.execute(&self.text("table")).await;
        let imported = outboxd::import::debezium(&self.text("properties")).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("outboxd.toml");
        std::fs::write(&file, imported.toml).unwrap();
        // Slot and publication are the database's here: outboxd makes them itself.
        let options = RelayOptions::new(&database, kafka).file(file.to_str().unwrap());
        let (code, said, complaint) = options.command_output(&["check"]);
        assert_eq!(code, 0, "{}: {said}{complaint}", self.name());
        let (code, said, complaint) = options.command_output(&["migrate"]);
        assert_eq!(code, 0, "{}: {said}{complaint}", self.name());
        (database, options, folder)
    }

    /// The records of the case's rows in these topics, once there are so many.
    pub async fn published(&self, kafka: &Kafka, topics: &[&str], count: usize) -> Vec<Record> {
        for topic in topics {
            kafka.create_topic(topic, 4, &[]).await;
        }
        let (database, options, _folder) = self.set_up(kafka).await;
        let relay = options.start_ready().await;
        database.execute("SET TIME ZONE 'UTC'").await;
        // Statement by statement, as psql sends them: each is a transaction.
        for statement in self.text("rows").split_inclusive(";\n") {
            database.execute(statement).await;
        }
        let records = until(format!("the records of {}", self.name()), SOON, || async {
            kafka.try_read(topics).filter(|records| records.len() >= count)
        })
        .await;
        assert_eq!(relay.stop().await, 0, "{}", self.name());
        database.clear().await;
        records
    }
}

/// Columns whose form differs: a numeric is written as PostgreSQL prints it, not as the bytes of a
/// Java number. Debezium does the same with `decimal.handling.mode=string`.
const NUMERICS: [&str; 2] = ["n", "nn"];

/// A header, or a value that is a JSON object, without numerics.
fn without_numerics(value: &mut Value) {
    match value {
        Value::Array(headers) => {
            headers.retain(|header| !NUMERICS.contains(&header[0].as_str().unwrap()))
        }
        Value::String(text) => {
            let Ok(Value::Object(members)) = serde_json::from_str(text) else {
                return;
            };
            // Only the form of the others counts, and their order: they are cut out as text.
            for name in NUMERICS.iter().filter(|name| members.contains_key(**name)) {
                let start = text.find(&format!("\"{name}\":")).unwrap();
                let rest = &text[start..];
                let end = rest.find("},\"").map(|end| end + 1).into_iter();
                let end = end.chain(rest.find(",\"")).filter(|end| {
                    serde_json::from_str::<Value>(&format!("{{{}}}", &rest[..*end])).is_ok()
                });
                let end = end.min().unwrap();
                text.replace_range(start..=start + end, "");
            }
        }
        _ => {}
    }
}

/// Bytes as a case has them.
fn told(bytes: Option<&[u8]>) -> Value {
    match bytes.map(std::str::from_utf8) {
        None => Value::Null,
        Some(Ok(text)) => text.into(),
        Some(Err(_)) => {
            let base64 = data_encoding::BASE64.encode(bytes.unwrap_or_default());
            serde_json::json!({ "base64": base64 })
        }
    }
}

/// What differs between a record and a golden one.
fn difference(golden: &Value, record: &Record) -> Option<String> {
    let headers = record.headers.iter();
    let headers: Vec<_> =
        headers.map(|(name, value)| serde_json::json!([name, told(value.as_deref())])).collect();
    let is_context = |header: &&Value| header[0].as_str().unwrap().starts_with("__debezium.");
    let golden_headers = golden["headers"].as_array().unwrap().iter();
    let golden_headers: Vec<_> = golden_headers.filter(|h| !is_context(h)).cloned().collect();
    // A time of 0 is the time of publishing to librdkafka.
    let timestamp = match golden["timestamp"].as_i64() {
        Some(0) => serde_json::json!({ "varies": true }),
        _ => golden["timestamp"].clone(),
    };
    let pairs = [
        ("topic", golden["topic"].clone(), Value::from(record.topic.as_str())),
        ("partition", golden["partition"].clone(), Value::from(record.partition)),
        ("key", golden["key"].clone(), told(record.key.as_deref())),
        ("value", golden["value"].clone(), told(record.value.as_deref())),
        ("headers", golden_headers.into(), headers.into()),
        ("timestamp", timestamp, Value::from(record.timestamp)),
    ];
    let varies = |golden: &Value| golden.get("varies").is_some();
    let pairs = pairs.map(|(what, mut golden, mut ours)| {
        if what == "headers" || what == "value" {
            without_numerics(&mut golden);
            without_numerics(&mut ours);
        }
        (what, golden, ours)
    });
    let (what, golden, ours) =
        pairs.into_iter().find(|(_, golden, ours)| golden != ours && !varies(golden))?;
    Some(format!("{what}:\n  Debezium {golden}\n  outboxd  {ours}"))
}

/// Runs a case; what differs.
async fn run(golden: &Golden, kafka: &Kafka) -> Option<String> {
    println!("{}", golden.name());
    let expected = golden.records();
    let records = golden.published(kafka, &golden.topics(), expected.len()).await;
    let mut expected: Vec<_> = expected.iter().collect();
    expected.sort_by_key(|record| record["topic"].as_str().unwrap().to_owned());
    let mut differences = expected.into_iter().zip(&records);
    differences.find_map(|(golden, record)| difference(golden, record))
}

/// Every case that Debezium itself could do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_records_are_those_of_debezium_byte_for_byte() {
    let broker = Broker::start(&[]).await;
    let kafka = broker.kafka();
    let is_meant = |name: &str| DIFFERENT.iter().any(|(different, _)| *different == name);
    let mut problems = Vec::new();
    let cases: Vec<_> =
        Golden::all().into_iter().filter(|golden| golden.0["fails"].is_null()).collect();
    assert!(cases.len() > 50, "{} cases", cases.len());
    for golden in cases.iter().filter(|golden| !is_meant(golden.name())) {
        if let Some(difference) = run(golden, &kafka).await {
            problems.push(format!("{}: {difference}", golden.name()));
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

/// What Debezium would refuse is refused, by the option's name; nothing is printed but the file.
#[test]
fn a_configuration_is_imported_on_the_command_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("application.properties");
    let import = |name: &str| {
        let all = Golden::all();
        let golden = all.iter().find(|golden| golden.name() == name).unwrap();
        std::fs::write(&file, golden.text("properties")).unwrap();
        RelayOptions::bare().command_output(&["import", "debezium", file.to_str().unwrap()])
    };
    let (code, printed, told) = import("server_text");
    assert_eq!(code, 0, "{told}");
    assert!(printed.parse::<toml::Table>().unwrap().contains_key("route"), "{printed}");
    assert!(!printed.contains("secret"), "{printed}");
    assert!(told.contains("options differ"), "{told}");
    let (code, printed, told) = import("bad_placement");
    assert_eq!((code, printed.as_str()), (78, ""));
    assert!(told.contains("table.fields.additional.placement: \"type\" is not column:"), "{told}");
}
