//! The checker itself, held against a relay that breaks its first promise: it confirms before the
//! acknowledgement. A checker that lets this pass proves nothing.

use std::time::Duration;

use outboxd::pgoutput::{Message, decode};
use rdkafka::config::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, PurgeConfig};

use crate::support::checker::verdict;
use crate::support::database::Database;
use crate::support::records::Kafka;
use crate::support::stage::Stage;

/// Reads changes, which confirms them at once, and only then sends them; is killed while it does.
async fn broken_relay(stage: &Stage, lives: usize) {
    let slot = stage.slot();
    let sql = "SELECT data FROM pg_logical_slot_get_binary_changes($1, NULL, 200, \
               'proto_version', '1', 'publication_names', 'outboxd')";
    for life in 0..lives {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &stage.kafka.servers).set("linger.ms", "5");
        let producer: BaseProducer = config.create().unwrap();
        let rows = stage.database.sql.query(sql, &[&slot]).await.unwrap();
        for row in &rows {
            let data: Vec<u8> = row.get(0);
            let Ok(Message::Insert(insert)) = decode(&data) else {
                continue;
            };
            let mut values = Vec::new();
            let text = |value: Option<&[u8]>| String::from_utf8(value.unwrap().to_vec()).unwrap();
            insert.tuple.values(&mut values).unwrap();
            let (id, key, payload, topic) =
                (text(values[0]), text(values[3]), text(values[5]), text(values[7]));
            let value = format!("{{\"event_id\":\"{id}\",\"payload\":{payload}}}");
            let header = rdkafka::message::Header { key: "event_id", value: Some(&id) };
            let headers = rdkafka::message::OwnedHeaders::new().insert(header);
            let record = BaseRecord::to(&topic).key(&key).payload(&value).headers(headers);
            producer.send(record).unwrap();
        }
        // Every third life ends as a kill would: what was not sent is gone.
        if life % 3 == 2 {
            producer.purge(PurgeConfig::default().queue().inflight());
        }
        let _ = producer.flush(Duration::from_secs(5));
    }
}

#[tokio::test]
async fn the_checker_convicts_a_relay_that_confirms_before_the_ack() {
    let database = Database::new("negative").await;
    let stage = Stage::at(database, Kafka::shared(), "negative", 50).await;
    let slot = stage.slot();
    let create = "SELECT 1 FROM pg_create_logical_replication_slot($1, 'pgoutput')";
    stage.database.row(create, &[&slot]).await;
    stage.workload.write(&stage.database, 3_000).await;
    broken_relay(&stage, 40).await;

    let verdict = verdict(&stage.database, &stage.kafka, &stage.workload).await;
    assert!(!verdict.lost.is_empty(), "the checker saw no loss: {verdict:?}");
    assert!(!verdict.overtakers.is_empty(), "the checker saw no gap in any key's order");
    let convicted = std::panic::catch_unwind(|| verdict.assert_kept(usize::MAX));
    assert!(convicted.is_err(), "the verdict on a broken relay was mild");

    assert!(stage.out_of_line().await.is_some(), "the oracle saw the order of commits kept");
    let too_early = stage.confirmed_too_early().await;
    assert!(!too_early.is_empty(), "the oracle saw nothing confirmed too early");
    stage.clear().await;
}
