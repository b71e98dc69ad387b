//! The record formats on the real services: value, headers, key and time as they are described.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::mapping::{migrate, with_table};
use crate::support::records::Record;
use crate::support::small::Small;
use crate::support::unique;
use crate::support::wait::{SOON, eventually};

const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// What a row of our own table becomes.
async fn published(format: &str, more: &[(&str, &str)]) -> (Record, String) {
    let small = Small::new("format").await;
    let mut options = small.options().set("envelope.format", format);
    for (key, value) in more {
        options = options.set(key, value);
    }
    let relay = options.start_ready().await;
    let insert = "INSERT INTO outbox (aggregate_type, aggregate_id, event_type, payload, headers, topic, \
                    occurred_at) \
                  VALUES ('order', 'o-1', 'OrderCreated', '{\"b\": 1, \"a\": [1.10, \"ü\", null]}', \
                    jsonb_build_object('traceparent', $2::text, 'n', 7, 'tracestate', 'no state'), $1, \
                    '2026-11-21 06:00:00.25+00') RETURNING id::text";
    let row = small.database.row(insert, &[&small.topic, &TRACEPARENT]).await;
    let id: String = row.get(0);
    let record = small.kafka.wait_for(&small.topic, 1).await.remove(0);
    assert_eq!(record.key(), "o-1");
    assert_eq!(relay.stop().await, 0);
    small.clear().await;
    (record, id)
}

const PAYLOAD: &str = r#"{"a": [1.10, "ü", null], "b": 1}"#;

#[tokio::test]
async fn a_cloudevent_can_be_its_headers_and_the_payload() {
    let more = [("envelope.source", "https://shop.example/orders")];
    let (record, id) = published("cloudevents-binary", &more).await;
    assert_eq!(record.text(), PAYLOAD);
    assert_eq!(
        record.texts(),
        [
            ("ce_specversion", Some("1.0")),
            ("ce_id", Some(id.as_str())),
            ("ce_source", Some("https://shop.example/orders")),
            ("ce_type", Some("OrderCreated")),
            ("ce_time", Some("2026-11-21T06:00:00.25Z")),
            ("ce_subject", Some("order/o-1")),
            ("content-type", Some("application/json")),
            ("n", Some("7")),
            ("traceparent", Some(TRACEPARENT)),
        ]
    );
}

#[tokio::test]
async fn a_cloudevent_can_be_one_piece_of_json() {
    let (record, id) = published("cloudevents-structured", &[]).await;
    let expected = format!(
        r#"{{"specversion":"1.0","id":"{id}","source":"/outboxd","type":"OrderCreated","subject":"order/o-1","time":"2026-11-21T06:00:00.25Z","datacontenttype":"application/json","data":{PAYLOAD}}}"#
    );
    assert_eq!(record.text(), expected);
    assert_eq!(
        record.texts(),
        [
            ("content-type", Some("application/cloudevents+json; charset=UTF-8")),
            ("n", Some("7")),
            ("traceparent", Some(TRACEPARENT)),
        ]
    );
}

#[tokio::test]
async fn debezium_s_records_are_the_payload_and_an_id() {
    let (record, id) = published("debezium", &[]).await;
    assert_eq!(record.text(), PAYLOAD);
    let own = [("n", Some("7")), ("traceparent", Some(TRACEPARENT))];
    let expected = [("id", Some(id.as_str())), own[0], own[1]];
    assert_eq!(record.texts(), expected);

    let more = [
        ("envelope.headers", r#"["id", "eventType=event_type", "tenant=tenant_id"]"#),
        ("envelope.debezium.key", "text"),
        ("envelope.debezium.value", "json"),
        ("envelope.debezium.headers", "json"),
        ("envelope.debezium.members", r#"["type=event_type", "v=schema_version"]"#),
        ("envelope.debezium.expand", "true"),
    ];
    let (record, id) = published("debezium", &more).await;
    let expected = format!(r#"{{"payload":{PAYLOAD},"type":"OrderCreated","v":1}}"#);
    assert_eq!(record.text(), expected);
    let id = format!("{id:?}");
    let chosen = [
        ("id", Some(id.as_str())),
        ("eventType", Some("\"OrderCreated\"")),
        ("tenant", Some("null")),
    ];
    assert_eq!(record.texts()[..3], chosen);
}

#[tokio::test]
async fn an_empty_payload_is_a_tombstone_where_debezium_says_so() {
    let table = "CREATE TABLE outbox (id int PRIMARY KEY, aggregate_id int, payload text, topic text, \
                 sent_at timestamptz)";
    let small = with_table("tombstone", table).await;
    let options = small
        .options()
        .set("envelope.format", "debezium")
        .set("envelope.debezium.key", "json")
        .set("envelope.debezium.value", "json")
        .set("envelope.debezium.tombstone_on_empty", "true");
    migrate(&options);
    let relay = options.start_ready().await;
    let insert = format!(
        "INSERT INTO outbox VALUES (1, 7, NULL, '{topic}'), (2, 7, ' ', '{topic}'), (3, 7, 'x', '{topic}')",
        topic = small.topic
    );
    small.database.execute(&insert).await;
    let records = small.kafka.wait_for(&small.topic, 3).await;
    let values: Vec<_> = records.iter().map(|record| record.value.as_deref()).collect();
    assert_eq!(values, [None, None, Some(br#""x""#.as_slice())]);
    assert_eq!(records[0].key(), "7", "a number needs no quotes");
    assert_eq!(relay.stop().await, 0);
    small.clear().await;
}

fn now() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

#[tokio::test]
async fn a_records_time_is_that_of_its_commit_or_of_a_column() {
    let long_ago = 1_553_460_779_123;
    for (setting, expected) in [("commit", None), ("occurred_at", Some(long_ago))] {
        let small = Small::new("record_time").await;
        let missing = unique("record_time_missing");
        let options =
            small.options().set("envelope.record_timestamp", setting).set("outbox.start", "stream");
        let relay = options.start_ready().await;
        let insert = format!(
            "INSERT INTO outbox (aggregate_type, aggregate_id, event_type, payload, topic, occurred_at) \
             VALUES ('t', 'k', 'T', '{{}}', '{}', '2019-03-24 20:52:59.123456Z'), \
                    ('t', 'k', 'T', '{{}}', '{missing}', '2019-03-24 20:52:59.123456Z')",
            small.topic
        );
        let before = now();
        small.database.execute(&insert).await;
        let after = now();
        // What is held keeps its time.
        let held = "SELECT count(*) FROM outboxd.held_event WHERE reason = 'topic'";
        eventually("it to be held", SOON, || async { small.database.count(held).await == 1 }).await;
        let wait = now() + 50;
        eventually("some time to pass", SOON, || async { now() > wait }).await;
        small.kafka.create_topic(&missing, 1, &[]).await;
        for topic in [&small.topic, &missing] {
            let record = small.kafka.wait_for(topic, 1).await.remove(0);
            match expected {
                Some(time) => assert_eq!(record.timestamp, time),
                None => assert!((before - 1..=after + 1).contains(&record.timestamp), "{setting}"),
            }
        }
        assert_eq!(relay.stop().await, 0);
        small.clear().await;
    }
}

/// Libraries that have no headers to write often write the JSON value null.
#[tokio::test]
async fn headers_that_are_null_are_none() {
    let small = Small::new("null_headers").await;
    let relay = small.options().start_ready().await;
    let insert = "INSERT INTO outbox (aggregate_type, aggregate_id, event_type, payload, headers, topic) \
                  VALUES ('tested', 'a', 'Tested', '{}', 'null', $1) RETURNING id::text";
    let id: String = small.database.row(insert, &[&small.topic]).await.get(0);
    let record = small.kafka.wait_for(&small.topic, 1).await.remove(0);
    assert_eq!(record.texts(), [("event_id", Some(id.as_str()))]);
    small.wait_for_sent(1).await;
    assert_eq!(relay.stop().await, 0);
    small.clear().await;
}
