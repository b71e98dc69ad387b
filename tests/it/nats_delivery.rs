//! Events in NATS JetStream: what a message is like, and that none is lost or doubled when the relay
//! or the server goes away.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::jetstream::stream::StorageType;
use serde_json::json;
use tokio::task::JoinHandle;

use crate::support::database::Database;
use crate::support::nats::{Message, TempNats};
use crate::support::wait::{LATER, SOON, eventually};

#[tokio::test]
async fn an_event_is_a_message_with_its_id_its_headers_and_its_data() {
    let database = Database::new("nats_message").await;
    let nats = TempNats::start("").await;
    nats.create("ORDERS", &["orders.>"]).await;
    let options = nats.options(&database).set("envelope.headers", r#"["event_id", "occurred_at"]"#);
    let relay = options.start_ready().await;
    let id = database.emit("order", "o-1", "orders.new", r#"{"n": 1}"#).await;
    let sql = "INSERT INTO outbox (aggregate_type, aggregate_id, event_type, payload, topic, headers) \
               VALUES ('order', 'o-2', 'Made', '{\"n\": 2}', 'orders.new', \
                       '{\"trace\": \"ü 1\", \"event_type\": \"theirs\", \"key\": \"own\"}')";
    database.execute(sql).await;
    for n in 3..=50 {
        database.emit("order", "o-1", "orders.new", &format!("{{\"n\": {n}}}")).await;
    }
    database.wait_for_sent(50).await;
    let messages = nats.messages("ORDERS").await;
    assert_eq!(messages.len(), 50);
    let first = &messages[0];
    assert_eq!(first.subject, "orders.new");
    assert_eq!(first.header("Nats-Msg-Id"), Some(id.as_str()));
    assert_eq!(first.header("Nats-Expected-Stream"), Some("ORDERS"));
    assert_eq!(first.header("event_id"), Some(id.as_str()));
    assert_eq!(first.header("event_type"), Some("Tested"));
    assert_eq!(first.header("key"), Some("o-1"));
    assert!(first.header("position").is_some_and(|at| at.contains('/')), "{first:?}");
    assert!(first.header("occurred_at").is_some() && first.header("tombstone").is_none());
    let value = first.json();
    assert_eq!((&value["event_id"], &value["payload"]), (&json!(id), &json!({"n": 1})));
    let second = messages.iter().find(|message| message.json()["payload"]["n"] == 2).unwrap();
    assert_eq!(second.header("trace"), Some("ü 1"));
    assert_eq!(second.header("event_type"), Some("theirs"), "the event's own goes first");
    assert_eq!(second.header("key"), Some("own"));
    let of_key = messages.iter().filter(|message| message.json()["aggregate_id"] == "o-1");
    let order: Vec<_> = of_key.map(|message| message.json()["payload"]["n"].as_i64()).collect();
    assert!(order.is_sorted() && order.len() == 49, "{order:?}");

    assert_eq!(relay.stop().await, 0);
    database.clear().await;
}

/// Writes events of a few keys until it is stopped. Gives how many.
struct Writing {
    stop: Arc<AtomicBool>,
    task: JoinHandle<i64>,
}

impl Writing {
    async fn start(database: &Database) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (sql, stops) = (database.connect().await, Arc::clone(&stop));
        let task = tokio::spawn(async move {
            let mut n = 0;
            let mut pace = tokio::time::interval(Duration::from_millis(10));
            while !stops.load(Ordering::Relaxed) {
                pace.tick().await;
                let write = "SELECT outboxd.emit('tested', 'key-' || (k % 17), 'Tested', \
                             jsonb_build_object('n', k), topic => 'crash.' || (k % 2)) \
                             FROM generate_series($1::int8, $1 + 19) k";
                sql.query(write, &[&n]).await.unwrap();
                n += 20;
            }
            n
        });
        Self { stop, task }
    }

    async fn stop(self) -> i64 {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap()
    }
}

/// Every event is there once, and those of a key and subject are in order.
fn assert_kept(messages: &[Message], written: i64) {
    let mut seen = HashSet::new();
    let mut last: HashMap<(String, String), i64> = HashMap::new();
    for message in messages {
        let n = message.json()["payload"]["n"].as_i64().unwrap();
        assert!(seen.insert(n), "{n} is there twice");
        let key = message.header("key").unwrap().to_owned();
        let before = last.insert((key, message.subject.clone()), n);
        assert!(before.is_none_or(|before| before < n), "{n} after {before:?}");
    }
    assert_eq!(seen.len() as i64, written, "lost");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_doubled_by_crashes_of_either_side() {
    let database = Database::new("nats_crashes").await;
    let mut nats = TempNats::start("").await;
    nats.create_with("CRASH", &["crash.*"], |config| config.storage = StorageType::File).await;
    let options = nats.options(&database);
    let mut relay = options.start_ready().await;
    let writing = Writing::start(&database).await;
    let more = async |nats: &TempNats| {
        let before = nats.count("CRASH").await;
        eventually("more to arrive", LATER, || async { nats.count("CRASH").await > before + 200 })
            .await;
    };
    for round in 0..4 {
        more(&nats).await;
        relay.kill().await;
        relay = options.start();
        more(&nats).await;
        nats.kill();
        if round == 0 {
            relay.tells("OBX-4001").await;
        }
        nats.restart().await;
    }
    more(&nats).await;
    nats.freeze();
    // Longer than an answer may take.
    eventually("the relay to tell that nobody answers", SOON, || async {
        relay.get("/readyz").await.0 == 503
    })
    .await;
    assert_eq!(database.count("SELECT count(*) FROM outbox WHERE attempts > 0").await, 0);
    nats.thaw();
    more(&nats).await;
    let written = writing.stop().await;
    database.wait_for_sent(written).await;
    assert_kept(&nats.messages("CRASH").await, written);
    assert_eq!(database.count("SELECT count(*) FROM outbox WHERE attempts > 1").await, 0);
    assert_eq!(relay.stop().await, 0);
    database.clear().await;
}
