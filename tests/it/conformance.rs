//! Debezium's own tests of its outbox event router, one by one, and what holds each of them here.
//!
//! Where outboxd differs, it is on purpose: what Debezium stops at does not stop the stream, what is
//! wrong with the configuration is told at the start, and payloads are never written anew.

use std::collections::BTreeSet;
use std::path::Path;

use crate::golden::{DIFFERENT, Golden};
use crate::support::broker::Broker;
use crate::support::records::{Kafka, Record};
use crate::support::shared::Shared;

/// What holds a case.
enum Held {
    /// These golden records, byte for byte (`the_records_are_those_of_debezium_byte_for_byte`).
    Same(&'static [&'static str]),
    /// Debezium refuses these configurations, and so does the import.
    Refused(&'static [&'static str]),
    /// What is so here is held by these tests.
    By(&'static [&'static str]),
    /// It is otherwise here, for a reason, as these tests hold.
    Differs(&'static str, &'static [&'static str]),
}
use Held::{By, Differs, Refused, Same};

const NOT_PASSED: &str = "only the outbox is read; nothing else is passed on to other topics";
const AT_THE_START: &str =
    "a column that is missing is told at the start, and no row stops anything";
const EMBEDDED: &str = "a payload is embedded as it is, never inferred and written anew";
const NO_SCHEMA: &str = "no schema is written into each record";
const NO_NAME: &str = "bytes are written as they are, not as the name of a Java class";

const OTHERS: &[&str] = &[
    "a_publication_that_publishes_more_is_taken_with_a_warning",
    "every_transactional_message_counts_and_ours_are_events",
];
const MISSING: &[&str] = &["cases_12_42_43_a_missing_column_is_told_at_the_start"];
const EXPANDED: &[&str] = &["cases_35_to_41_an_expanded_payload_is_embedded_as_it_is"];
const STOPS: &[&str] = &["case_8_and_others_that_stop_debezium_do_not_stop_the_stream"];

/// `EventRouterTest`, by the numbers of its tests.
const EVENT_ROUTER: &[(&str, Held)] = &[
    ("1 canSkipTombstone", Same(&["default"])),
    ("2 canSkipDeletion", Same(&["default"])),
    ("3 a record without a schema's name passes", Differs(NOT_PASSED, OTHERS)),
    ("4 a heartbeat passes", Differs(NOT_PASSED, OTHERS)),
    ("5 a record without a value's schema passes", Differs(NOT_PASSED, OTHERS)),
    ("6 an envelope without op fails", Differs(NOT_PASSED, OTHERS)),
    ("7 canSkipUpdates", Same(&["default"])),
    ("8 canFailOnUpdates", Differs("an update does not stop the stream", STOPS)),
    ("9 canExtractTableFields", Same(&["default"])),
    ("10 canSetDefaultMessageKey", Same(&["default"])),
    ("11 canSetMessageKey", Same(&["key_column"])),
    ("12 failsOnInvalidSetMessageKey", Differs(AT_THE_START, MISSING)),
    ("13 the time is that of processing", Same(&["default", "timestamp_null"])),
    ("14 the time is a column's", Same(&["timestamp", "timestamp_3"])),
    ("15 canRouteBasedOnField", Same(&["route_by_field", "default"])),
    ("16 canConfigureEveryTableField", Same(&["renamed"])),
    (
        "17 canInfluenceTableColumnTypes",
        Same(&["id_bigint", "key_bigint", "payload_bytea_json", "envelope_types_json"]),
    ),
    ("18 the schema's version is a column's", Same(&["envelope_version"])),
    ("19 a bare payload has no version", Same(&["default"])),
    ("20 a column in the envelope", Same(&["envelope_json", "envelope_text"])),
    ("21 a column in the envelope under an alias", Same(&["envelope_json", "envelope_text"])),
    (
        "22 several in the envelope, one of them a header too",
        Same(&["envelope_json", "several_headers"]),
    ),
    ("23 a column that is the partition", Same(&["partition"])),
    ("24 an expression that is none", Refused(&["bad_regex"])),
    ("25 a column without a place", Refused(&["bad_placement"])),
    ("26 an empty list of places", Refused(&["empty_placement"])),
    ("27 a behaviour that is none", Refused(&["bad_behavior"])),
    ("28 a key of text", Same(&["default", "key_uuid"])),
    ("29 a key of another column's bytes", Differs("bytes are no key", STOPS)),
    ("30 a key of bytes", Differs("bytes are no key", STOPS)),
    ("31 a key that is a number", Same(&["key_bigint", "key_bigint_json"])),
    ("32 a payload of bytes", Same(&["payload_bytea_binary", "server_bytea"])),
    ("33 canMarkAnEventAsDeleted", Same(&["tombstone", "tombstone_json"])),
    ("34 noTombstoneIfNotConfigured", Same(&["payload_empty", "envelope_json"])),
    ("35 an expanded payload of several types", Differs(EMBEDDED, EXPANDED)),
    ("36 expanded arrays in arrays", Differs(EMBEDDED, EXPANDED)),
    ("37 an expanded empty array goes", Differs(EMBEDDED, EXPANDED)),
    ("38 nothing is expanded where that is off", Same(&["payload_json", "json"])),
    ("39 expanded in the envelope", Differs(EMBEDDED, EXPANDED)),
    ("40 an expanded array that begins with null", Differs(EMBEDDED, EXPANDED)),
    ("41 expanded arrays of several lengths", Differs(EMBEDDED, EXPANDED)),
    ("42 a missing column is ignored", Differs(AT_THE_START, MISSING)),
    ("43 a missing column is an error", Differs(AT_THE_START, MISSING)),
    ("44 nothing, expanded, is a tombstone", By(EXPANDED)),
];

/// `OutboxEventRouterIT`, on a real PostgreSQL.
const EVENT_ROUTER_IT: &[(&str, Held)] = &[
    ("1 an insert becomes a record", Same(&["default"])),
    ("2 the type as a header", Same(&["type_header"])),
    ("3 the type in the envelope", Same(&["envelope_json"])),
    ("4 jsonb is text", Same(&["default", "json"])),
    ("5 everything at once", Same(&["envelope_version", "timestamp", "extended_headers"])),
    ("6 a time in microseconds becomes milliseconds", Same(&["timestamp"])),
    ("7 no payload, in the envelope", Same(&["envelope_json", "payload_null"])),
    ("8 no payload, with the option, is a tombstone", Same(&["tombstone", "tombstone_envelope"])),
    ("9 an empty text, with the option, is a tombstone", Same(&["tombstone", "tombstone_json"])),
];

/// `JsonSchemaDataTest`, `BinaryDataConverterTest` and `ByteArrayConverterTest`.
const CONVERTERS: &[(&str, Held)] = &[
    ("1 arrays of objects have one schema", Differs(EMBEDDED, EXPANDED)),
    ("2 numbers of several types in an array", Differs(EMBEDDED, EXPANDED)),
    ("3 a restaurant has a schema", Differs(EMBEDDED, EXPANDED)),
    ("4 null is optional bytes", Differs(EMBEDDED, EXPANDED)),
    ("5 bytes pass as they are", Same(&["payload_bytea_binary", "tombstone_bytea"])),
    ("6 no bytes are no value", Same(&["server_bytea", "payload_null"])),
    ("7 other types need a delegate", Differs("they are written as they are", STOPS)),
];

/// The vectors of bytes that were measured.
const VECTORS: &[(&str, Held)] = &[
    ("1 as strings, simple headers", Same(&["default"])),
    (
        "2 as JSON with schemas",
        Differs(NO_SCHEMA, &["converters_say_in_which_form_records_are_written"]),
    ),
    ("3 as JSON without schemas", Same(&["json", "server_json"])),
    ("4 a converter of bytes and text", Differs("it is written as it is", STOPS)),
    ("5 bytes as bytes", Same(&["payload_bytea_binary"])),
    ("6 bytes as JSON", Same(&["payload_bytea_json"])),
    ("7 bytes as a string", Differs(NO_NAME, STOPS)),
    ("8 no payload", Same(&["payload_null", "json", "server_null", "tombstone", "tombstone_json"])),
    ("9 a key that is a number, and none", Same(&["key_bigint", "key_bigint_json", "server_key"])),
    ("10 the type as a header", Same(&["type_header", "extended_headers"])),
    ("11 the type in the envelope", Same(&["envelope_json", "envelope_text", "server_envelope"])),
    ("12 types as headers", Same(&["header_types", "header_types_json", "server_headers"])),
    ("13 time and partition", Same(&["timestamp", "partition", "server_partition_and_time"])),
    ("14 an expanded payload", Differs(EMBEDDED, EXPANDED)),
    ("15 what is not expanded, and the array that stops Debezium", Differs(EMBEDDED, EXPANDED)),
    (
        "16 the name of a cached schema",
        Differs(NO_SCHEMA, &["converters_say_in_which_form_records_are_written"]),
    ),
];

/// The names of all tests.
fn tests(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            tests(&path, found);
        } else if let Ok(text) = std::fs::read_to_string(&path) {
            let mut is_test = false;
            for line in text.lines().map(str::trim) {
                if let Some((_, rest)) = line.split_once("fn ").filter(|_| is_test) {
                    found.insert(rest.split('(').next().unwrap_or_default().to_owned());
                }
                is_test = line.starts_with("#[test") || line.starts_with("#[tokio::test");
            }
        }
    }
}

/// Every case of the four lists is there, and is held by what it says.
#[test]
fn every_case_of_debezium_s_own_tests_is_held_here_or_differs_on_purpose() {
    let mut known = BTreeSet::new();
    for folder in ["src", "tests"] {
        tests(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder), &mut known);
    }
    let all = Golden::all();
    let golden = |name: &str| {
        let found = all.iter().find(|golden| golden.name() == name);
        found.unwrap_or_else(|| panic!("there is no golden case {name}"))
    };
    let differs = |name: &str| DIFFERENT.iter().any(|(different, _)| *different == name);
    for (list, count) in [(EVENT_ROUTER, 44), (EVENT_ROUTER_IT, 9), (CONVERTERS, 7), (VECTORS, 16)]
    {
        assert_eq!(list.len(), count);
        for (number, (case, held)) in (1..).zip(list) {
            assert!(case.starts_with(&format!("{number} ")), "{case} is not {number}");
            match held {
                Same(names) => {
                    for name in *names {
                        let is_same = !golden(name).fails() && !differs(name);
                        assert!(is_same, "{case}: {name} is not held byte for byte");
                    }
                }
                Refused(names) => {
                    for golden in names.iter().map(|name| golden(name)) {
                        let imported = outboxd::import::debezium(&golden.text("properties"));
                        assert!(golden.fails() && imported.is_err(), "{case}");
                    }
                }
                By(names) | Differs(_, names) => {
                    let missing = names.iter().find(|name| !known.contains(**name));
                    let why = if let Differs(why, _) = held { why } else { "the same" };
                    assert!(missing.is_none(), "{case} ({why}): there is no test {missing:?}");
                }
            }
        }
    }
}

fn values(records: &[Record]) -> Vec<Option<String>> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    records.iter().map(|record| record.value.as_deref().map(text)).collect()
}

/// Debezium names the topics, so they are on a broker of their own.
static BROKER: Shared<Broker> = Shared::new();

/// Also an array, which stops Debezium; and a tombstone stays one (case 44).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cases_35_to_41_an_expanded_payload_is_embedded_as_it_is() {
    let broker = BROKER.get(async || Broker::start(&[]).await).await;
    let kafka = broker.kafka();
    let expand = "transforms.outbox.table.expand.json.payload=true";
    for (golden, expected) in [
        (
            Golden::named("expand"),
            [
                Some(
                    r#"{"a": null, "e": [], "f": 1.10, "n": {"k": 12345678901}, "o": [{"x": 1}, {"y": 2}], "z": 1}"#,
                ),
                Some(r#"{"m": [1, 2.0]}"#),
                // Not an object and not an array: a string, as Debezium has it.
                Some(r#""\"str\"""#),
                Some("[]"),
                Some("{}"),
                Some("null"),
                Some(
                    r#"{"b": true, "i": -3, "l": ["x", "y"], "n": {"a": "b"}, "s": "ü \" /", "t": "2019-03-24"}"#,
                ),
            ]
            .as_slice(),
        ),
        (
            Golden::named("expand_nulls"),
            &[Some(r#"{"a": null, "e": [], "l": [{"x": null}], "z": 1}"#)],
        ),
        (
            Golden::named("envelope_expanded"),
            &[Some(r#"{"payload":{"n": {"k": [1, 2]}, "id": 1},"eventType":"OrderCreated"}"#)],
        ),
        (Golden::named("expand_root_array"), &[Some("[1, 2]")]),
        (Golden::named("tombstone_json").with_property(expand), &[None, None, Some("{}")]),
    ] {
        let topic = format!("outbox.event.{}", golden.name());
        let records = golden.published(&kafka, &[&topic], expected.len()).await;
        let values = values(&records);
        let values: Vec<_> = values.iter().map(Option::as_deref).collect();
        assert_eq!(values, expected, "{}", golden.name());
    }
}

/// The row that Debezium stopped at, if it is an event at all, and one after it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_8_and_others_that_stop_debezium_do_not_stop_the_stream() {
    let broker = BROKER.get(async || Broker::start(&[]).await).await;
    let kafka = broker.kafka();
    for (name, count, value) in [
        ("update_fatal", 2, "{}"),
        ("timestamptz", 2, "{}"),
        ("timestamp_before_1970", 2, "{}"),
        ("partition_bigint", 2, "{}"),
        ("payload_binary_text", 2, "{}"),
        ("payload_bytea", 2, "\u{0}\u{fffd}\u{10}"),
        // Without a topic it is a dead letter.
        ("route_null", 1, "{}"),
    ] {
        let golden = Golden::named(name);
        let first = golden.text("rows").lines().next().unwrap().to_owned();
        let next =
            first.replacen("000000000001", "000000000009", 1).replace("NULL", "'route_null'");
        let topic = format!("outbox.event.{name}");
        let records = golden.with_row(&next).published(&kafka, &[&topic], count).await;
        assert_eq!(records.len(), count, "{name}");
        let last = records.last().unwrap();
        assert!(last.header("id").unwrap().ends_with("000000000009"), "{name}: {last:?}");
        assert_eq!(String::from_utf8_lossy(last.value.as_deref().unwrap()), value, "{name}");
        match name {
            "timestamptz" => assert_eq!(last.timestamp, 1_553_460_779_000),
            "timestamp_before_1970" => assert!(last.timestamp > 1_553_460_779_000),
            "partition_bigint" => assert_eq!(last.partition, 3),
            _ => {}
        }
    }
    // What can never be a key or a payload is told at the start.
    for (name, wrong) in [("key_bytea", "bytea"), ("payload_int_json", "integer")] {
        assert_told_at_the_start(name, &kafka, wrong).await;
    }
}

async fn assert_told_at_the_start(name: &str, kafka: &Kafka, what: &str) {
    let (database, options, _folder) = Golden::named(name).set_up(kafka).await;
    let (code, _, said) = options.command_output(&["run"]);
    assert_eq!((code, said.contains("OBX-1002")), (78, true), "{name}: {said}");
    assert!(said.contains(what), "{name}: {said}");
    database.clear().await;
}

#[tokio::test]
async fn cases_12_42_43_a_missing_column_is_told_at_the_start() {
    for name in ["key_missing", "missing_ignored", "missing"] {
        assert_told_at_the_start(name, &Kafka::shared(), "nope").await;
    }
}
