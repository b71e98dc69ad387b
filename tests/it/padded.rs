//! Columns of type `char(n)`, which PostgreSQL fills up with blanks: what the stream tells of them,
//! what our statements compare and what other tables keep is the same.

use crate::mapping::{migrate, with_table};
use crate::support::wait::{SOON, eventually};

const TABLE: &str = "CREATE TABLE outbox (id char(12) PRIMARY KEY, aggregate_id char(8), \
    event_type char(10), topic char(100), payload jsonb, status char(10) DEFAULT 'PENDING', \
    attempts int, last_error char(30), scheduled_at timestamptz)";

#[tokio::test]
async fn a_char_works_as_id_status_topic_and_key() {
    let small = with_table("padded", TABLE).await;
    let options = small.options().set("outbox.sweep_order", "[\"id\"]");
    let options = options.set("dead_letter.default", "");
    migrate(&options);
    let insert = |id: &str, topic: &str, due: &str| {
        format!(
            "INSERT INTO outbox (id, aggregate_id, event_type, topic, payload, scheduled_at) \
             VALUES ('{id}', 'k', 'Tested', '{topic}', '{{}}', {due})"
        )
    };
    let topic = &small.topic;
    small.database.execute(&insert("swept", topic, "NULL")).await;
    let relay = options.start_ready().await;
    small.database.execute(&insert("streamed", topic, "NULL")).await;
    small.database.execute(&insert("later", topic, "now() + interval '1 second'")).await;
    small.database.execute(&insert("homeless", "no name", "NULL")).await;
    let are = async |status: &str, count: i64| {
        let sql = format!("SELECT count(*) FROM outbox WHERE status = '{status}'");
        let what = format!("{count} rows to be {status}");
        eventually(what, SOON, || async { small.database.count(&sql).await == count }).await;
    };
    are("SENT", 3).await;
    are("FAILED", 1).await;
    let records = small.kafka.wait_for(topic, 3).await;
    let ids: Vec<_> = records.iter().map(|record| record.event_id()).collect();
    assert_eq!(ids, ["swept", "streamed", "later"], "the scheduled one is not taken for deleted");
    for record in &records {
        assert_eq!((record.key(), &record.json()["event_type"]), ("k", &"Tested".into()));
    }

    // Set back by hand, it is asked for by what the table says.
    small
        .database
        .execute(
            "UPDATE outbox SET status = 'PENDING' WHERE id = 'streamed'; \
             SELECT outboxd.retry(id) FROM outbox WHERE id = 'streamed'",
        )
        .await;
    are("SENT", 3).await;
    assert_eq!(small.kafka.wait_for(topic, 4).await[3].event_id(), "streamed");
    let known = "SELECT count(*) FROM outbox o JOIN outboxd.held_event h ON h.event_id = o.id::text \
                 WHERE h.reason = 'dead' AND NOT h.unwritten AND o.last_error LIKE '%topic%'";
    eventually("the dead one to be known", SOON, || async {
        small.database.count(known).await == 1
    })
    .await;
    // Nothing is left that a sweep would publish.
    let (code, said, complaint) = options.command_output(&["reconcile", "-o", "json"]);
    assert_eq!(code, 0, "{said}{complaint}");
    let report: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(report["missed"], 0, "{said}");
    assert_eq!(relay.stop().await, 0);

    // A row that is locked: its status waits in the ledger, by the same id.
    small.database.execute(&insert("locked", topic, "NULL")).await;
    let other = small.database.connect().await;
    other.batch_execute("BEGIN; SELECT FROM outbox WHERE id = 'locked' FOR UPDATE").await.unwrap();
    let relay = options.start_ready().await;
    let waiting = "SELECT count(*) FROM outboxd.ledger WHERE unwritten AND event_id = 'locked'";
    eventually("the status to wait", SOON, || async { small.database.count(waiting).await == 1 })
        .await;
    other.batch_execute("ROLLBACK").await.unwrap();
    are("SENT", 4).await;
    eventually("the ledger to be written", SOON, || async {
        small.database.count(waiting).await == 0
    })
    .await;
    assert_eq!(relay.stop().await, 0);
    assert_eq!(small.kafka.read(&[topic]).len(), 5);
    small.clear().await;
}
