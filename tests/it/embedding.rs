//! The relay inside a service: started from text, looked at, stopped.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use outboxd::failure::Code;
use outboxd::sink::{Record, Report, SendError, Sink, SinkError, TopicInfo};
use outboxd::{Config, Event, Outbox, Outcome, Relay, State};
use serde_json::json;
use tokio::sync::Notify;

use crate::support::database::Database;
use crate::support::records::Kafka;
use crate::support::small::Small;
use crate::support::wait::{LATER, SOON, eventually};

fn config(database: &Database, more: &str) -> Config {
    let (name, url) = (&database.name, &database.url);
    let kafka = &Kafka::shared().servers;
    let text = format!(
        "[postgres]\nurl = \"{url}?sslmode=disable\"\nslot = \"{name}\"\n\
         [kafka]\nbootstrap_servers = \"{kafka}\"\n{more}"
    );
    text.parse().unwrap()
}

async fn wait_until_streaming(relay: &Relay) {
    // A slot is created once every transaction of the server that was open then has ended.
    eventually("the relay to stream", LATER, || async { relay.status().state == State::Streaming })
        .await;
}

async fn write(database: &mut Database, topic: &str, n: i64) {
    let transaction = database.sql.transaction().await.unwrap();
    let event = Event::new("tested", "k", "Tested", json!({"n": n})).topic(topic);
    let added = Outbox::new("outbox").unwrap().add(&transaction, &event).await.unwrap();
    assert!(added.is_new());
    transaction.commit().await.unwrap();
}

#[tokio::test]
async fn a_service_starts_looks_at_and_stops_its_relay() {
    let mut small = Small::new("embedding").await;
    let topic = small.topic.clone();
    let mut relay = Relay::start(config(&small.database, "")).unwrap();
    wait_until_streaming(&relay).await;
    write(&mut small.database, &topic, 1).await;
    small.wait_for_sent(1).await;
    eventually("the status to show it", SOON, || async {
        relay.status().in_flight.events == 0 && relay.status().slot.active
    })
    .await;
    let still_runs = tokio::time::timeout(Duration::from_millis(100), relay.ended()).await;
    assert!(still_runs.is_err());
    assert_eq!(relay.stop().await, Outcome::Stopped { drained: true });
    assert_eq!(small.kafka.read(&[&topic]).len(), 1);

    // What was written meanwhile goes with the next one; one that is dropped ends.
    write(&mut small.database, &topic, 2).await;
    let relay = Relay::start(config(&small.database, "")).unwrap();
    let mut status = relay.watch();
    small.wait_for_sent(2).await;
    drop(relay);
    let ended = async { while status.changed().await.is_ok() {} };
    tokio::time::timeout(SOON, ended).await.expect("the dropped relay to end");
    assert_eq!(small.kafka.read(&[&topic]).len(), 2);
    small.clear().await;
}

#[tokio::test]
async fn a_relay_that_halts_says_so_as_often_as_it_is_asked() {
    let database = Database::new("embedding_halt").await;
    database.execute("DROP SCHEMA outboxd CASCADE").await;
    let mut relay = Relay::start(config(&database, "")).unwrap();
    let Outcome::Halted(failure) = relay.ended().await else { panic!("it runs") };
    assert_eq!(failure.code, Code::SchemaMissing);
    assert_eq!(relay.status().state, State::Halted);
    assert_eq!(relay.ended().await, Outcome::Halted(failure.clone()));
    assert_eq!(relay.stop().await, Outcome::Halted(failure));
    database.clear().await;
}

/// A place of the service's own: a list.
#[derive(Default)]
struct List {
    values: Mutex<Vec<String>>,
    /// Values that are refused the first time.
    refuses: Mutex<HashSet<String>>,
    reported: Notify,
}

/// One session's way to it.
struct ListSink {
    list: Arc<List>,
    delivered: Vec<u64>,
    reports: Vec<Report>,
}

impl ListSink {
    fn says(&mut self, report: Report) {
        self.reports.push(report);
        self.list.reported.notify_one();
    }
}

impl Sink for ListSink {
    fn probe(&mut self) {
        self.says(Report::Reachable(Ok(())));
    }

    fn look_up(&mut self, topic: &str) {
        let info = TopicInfo { partitions: 1, max_message_bytes: None };
        self.says(Report::Topic { name: topic.to_owned(), result: Ok(info) });
    }

    fn send(&mut self, record: &Record<'_>, seq: u64) -> Result<(), SendError> {
        let value: serde_json::Value = serde_json::from_slice(record.value.unwrap()).unwrap();
        let value = value["payload"].to_string();
        if self.list.refuses.lock().unwrap().remove(&value) {
            let error = SinkError::Refused("not today".to_owned());
            self.says(Report::Failed { seq, error, parcel: record.to_parcel() });
        } else {
            self.list.values.lock().unwrap().push(value);
            self.delivered.push(seq);
            self.list.reported.notify_one();
        }
        Ok(())
    }

    fn take(&mut self, delivered: &mut Vec<u64>, reports: &mut Vec<Report>) {
        delivered.append(&mut self.delivered);
        reports.append(&mut self.reports);
    }

    async fn reported(&self) {
        self.list.reported.notified().await;
    }

    async fn close(self) {}
}

#[tokio::test]
async fn a_service_brings_a_sink_of_its_own() {
    let mut database = Database::new("embedding_sink").await;
    let list = Arc::new(List::default());
    list.refuses.lock().unwrap().insert("{\"n\":2}".to_owned());
    let shared = Arc::clone(&list);
    let open = move || {
        Ok(ListSink { list: Arc::clone(&shared), delivered: Vec::new(), reports: Vec::new() })
    };
    let soon = "[retry]\ninitial_backoff = \"100ms\"";
    let relay = Relay::start_with_sink(config(&database, soon), open).unwrap();
    for n in 1..=4 {
        write(&mut database, "anything", n).await;
    }
    eventually("4 to be SENT", LATER, || async {
        database.statuses().await.get("SENT").copied() == Some(4)
    })
    .await;
    let expected: Vec<_> = (1..=4).map(|n| format!("{{\"n\":{n}}}")).collect();
    assert_eq!(*list.values.lock().unwrap(), expected, "in order, through a refusal");
    assert_eq!(relay.stop().await, Outcome::Stopped { drained: true });
    database.clear().await;
}

#[tokio::test]
async fn a_sink_that_cannot_be_opened_halts_the_relay() {
    let database = Database::new("embedding_no_sink").await;
    let open = || Err::<ListSink, _>("no such place".to_owned());
    let mut relay = Relay::start_with_sink(config(&database, ""), open).unwrap();
    let Outcome::Halted(failure) = relay.ended().await else { panic!("it runs") };
    assert_eq!(failure.message, "no such place");
    drop(relay);
    database.clear().await;
}
