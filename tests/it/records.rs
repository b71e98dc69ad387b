//! Records: value, key, headers, partition, time.

use std::time::{SystemTime, UNIX_EPOCH};

use outboxd::outbox::Placement;

use crate::support::database::Database;
use crate::support::records::Kafka;
use crate::support::relay::RelayOptions;
use crate::support::unique;
use crate::support::wait::{SOON, eventually};

#[tokio::test]
async fn an_envelope_says_everything_that_is_known_of_the_event() {
    let database = Database::new("envelope").await;
    let kafka = Kafka::shared();
    let topic = unique("envelope");
    kafka.create_topic(&topic, 6, &[]).await;
    let relay = RelayOptions::new(&database, &kafka).start_ready().await;
    let row = database
        .row(
            "INSERT INTO outbox (aggregate_type, aggregate_id, event_type, payload, headers, topic, \
                partition_key, tenant_id, schema_version, dedup_key, occurred_at) \
             VALUES ('order', 'o-1', 'OrderCreated', '{\"b\": 1, \"a\": [1.10, \"ü\", null]}', \
                '{\"traceparent\": \"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\", \"n\": 7}', \
                $1, 'p-1', 'acme', 3, 'd-1', '2026-11-21 06:00:00.25+00') RETURNING id::text",
            &[&topic],
        )
        .await;
    let id: String = row.get(0);
    let record = kafka.wait_for(&topic, 1).await.remove(0);
    let expected = format!(
        r#"{{"event_id":"{id}","event_type":"OrderCreated","topic":"{topic}","schema_version":3,"occurred_at":"2026-11-21T06:00:00.25Z","tenant_id":"acme","aggregate_id":"o-1","aggregate_type":"order","payload":{{"a": [1.10, "ü", null], "b": 1}}}}"#
    );
    assert_eq!(record.text(), expected);
    assert_eq!(record.key(), "p-1");
    assert_eq!(record.partition, Placement::of_key(b"p-1").partition(6), "as Java clients choose");
    let names: Vec<_> = record.headers.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["event_id", "n", "traceparent"]);
    assert_eq!(record.event_id(), id);
    assert_eq!(record.header("n"), Some("7"));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64;
    assert!(
        (now - record.timestamp).abs() < 60_000,
        "the time of publishing: {}",
        record.timestamp
    );
    assert_eq!(relay.stop().await, 0);
    database.clear().await;
}

#[tokio::test]
async fn a_payload_is_the_payload_and_nothing_else() {
    let database = Database::new("payload").await;
    let kafka = Kafka::shared();
    let topic = unique("payload");
    kafka.create_topic(&topic, 1, &[]).await;
    let options = RelayOptions::new(&database, &kafka).set("envelope.format", "payload");
    let relay = options.start_ready().await;
    let id = database.emit("order", "o-1", &topic, r#"{"b": 1, "a": 2}"#).await;
    let record = kafka.wait_for(&topic, 1).await.remove(0);
    assert_eq!(record.value.as_deref(), Some(br#"{"a": 2, "b": 1}"#.as_slice()));
    assert_eq!(record.key(), "o-1");
    let headers = record.headers.iter().map(|(name, _)| name.as_str());
    assert_eq!(headers.collect::<Vec<_>>(), ["event_id", "event_type"]);
    assert_eq!(record.event_id(), id);
    assert_eq!(record.header("event_type"), Some("Tested"));
    assert_eq!(relay.stop().await, 0);
    database.clear().await;
}

/// The position in a header is the one that the stream tells before the rows: where the commit
/// record starts. It orders events as they were committed.
#[tokio::test]
async fn s20_positions_order_events_as_they_were_committed() {
    let database = Database::new("s20").await;
    let kafka = Kafka::shared();
    let topic = unique("s20");
    kafka.create_topic(&topic, 3, &[]).await;
    let options = RelayOptions::new(&database, &kafka);
    let options =
        options.set("envelope.headers", r#"["event_id", "position", "content_type", "tenant_id"]"#);
    let relay = options.start_ready().await;
    for transaction in 0..20 {
        let sql = format!(
            "SELECT outboxd.emit('tested', 'k' || n, 'Tested', \
                jsonb_build_object('order', {transaction} * 10 + n), topic => '{topic}') \
             FROM generate_series(0, 9) n ORDER BY n"
        );
        database.execute(&sql).await;
    }
    let records = kafka.wait_for(&topic, 200).await;
    let mut positions: Vec<_> = records
        .iter()
        .map(|record| {
            let text = record.header("position").unwrap();
            let (lsn, index) = text.rsplit_once('/').unwrap();
            let lsn: outboxd::lsn::Lsn = lsn.parse().unwrap();
            let index: u32 = index.parse().unwrap();
            (lsn, index, record.json()["payload"]["order"].as_i64().unwrap())
        })
        .collect();
    positions.sort_unstable();
    let order: Vec<_> = positions.iter().map(|(_, _, order)| *order).collect();
    assert_eq!(order, (0..200).collect::<Vec<_>>());
    let names: Vec<_> = records[0].headers.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["event_id", "position", "content-type"], "a null column is no header");
    // What is stored is the same position, of the last event.
    let (lsn, index, _) = positions[199];
    eventually("the stored position", SOON, || async {
        let stored = database
            .row("SELECT format('%s/%s', position_lsn, position_index) FROM outboxd.relay", &[])
            .await;
        stored.get::<_, String>(0) == format!("{lsn}/{index}")
    })
    .await;
    assert_eq!(relay.stop().await, 0);
    database.clear().await;
}

/// A row that cannot become an event is given up, and stops nothing else; the message names what
/// is wrong and not what is in the row.
#[tokio::test]
async fn a_row_without_a_topic_is_given_up_and_stops_nothing_else() {
    let database = Database::new("no_topic").await;
    let kafka = Kafka::shared();
    let topic = unique("no_topic");
    kafka.create_topic(&topic, 1, &[]).await;
    let options = RelayOptions::new(&database, &kafka).set("dead_letter.default", "");
    let relay = options.set("route.default", "{tenant_id}").start_ready().await;
    let first = database.emit("tested", "a", &topic, r#"{"n": 1}"#).await;
    let sql = "INSERT INTO outbox (aggregate_type, aggregate_id, event_type, payload) \
               VALUES ('tested', 'canary-key', 'Tested', '\"canary-payload\"') RETURNING id::text";
    let id: String = database.row(sql, &[]).await.get(0);
    let second = database.emit("tested", "canary-key", &topic, r#"{"n": 2}"#).await;
    let records = kafka.wait_for(&topic, 2).await;
    assert_eq!([records[0].event_id(), records[1].event_id()], [first.as_str(), second.as_str()]);
    let dead = format!(
        "SELECT count(*) FROM outboxd.held_event h JOIN outbox o ON o.id::text = h.event_id \
         WHERE h.event_id = '{id}' AND h.reason = 'dead' AND o.status = 'FAILED'"
    );
    eventually("it to be given up", SOON, || async { database.count(&dead).await == 1 }).await;
    assert!(relay.has_logged("OBX-3004") && relay.has_logged(&id));
    assert!(!relay.has_logged("canary"));
    assert_eq!(relay.stop().await, 0);
    database.clear().await;
}
