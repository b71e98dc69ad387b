//! Messages that cannot go: held, tried again, given up, and acted on by operators as rows are.

use crate::kafka_outage::limit;
use crate::support::database::Database;
use crate::support::messages::{Messages, ids};
use crate::support::records::Record;
use crate::support::setting;
use crate::support::unique;
use crate::support::wait::{SOON, eventually};

const MIB: u64 = 1 << 20;

/// With a topic that takes small records, and one for its dead letters.
async fn small_records(name: &str) -> Messages {
    let database = Database::empty_at(&setting("DATABASE_URL"), name).await;
    let messages = Messages::at(database, name, &[("max.message.bytes", "2000")]).await;
    messages.kafka.create_topic(&format!("{}.dlq", messages.topic), 1, &[]).await;
    messages
}

/// An event that is too large for that topic.
fn large(messages: &Messages, id: &str, key: &str) -> String {
    let mut content = messages.content(id, key);
    content["payload"] = "x".repeat(4000).into();
    content.to_string()
}

#[tokio::test]
async fn messages_of_a_missing_topic_are_held_and_delivered_in_order() {
    let mut messages = Messages::new("messages_topic").await;
    let known = std::mem::replace(&mut messages.topic, unique("messages_later"));
    let relay = messages.options().start_ready().await;
    for id in ["e-1", "e-2", "e-3"] {
        messages.emit(id, "a").await;
    }
    eventually("all to be held", SOON, || async {
        let held = "SELECT count(*) FROM outboxd.held_event WHERE reason IN ('topic', 'parked')";
        messages.database.count(held).await == 3
    })
    .await;
    // They hold back neither what PostgreSQL may forget nor other topics.
    messages.wait_until_confirmed().await;
    let mut other = messages.content("o-1", "a");
    other["topic"] = known.as_str().into();
    messages.write(&other.to_string()).await;
    assert_eq!(ids(&messages.kafka.wait_for(&known, 1).await), ["o-1"]);
    messages.kafka.create_topic(&messages.topic, 1, &[]).await;
    assert_eq!(messages.arrived(3).await, ["e-1", "e-2", "e-3"]);
    messages.wait_until_held(&[]).await;
    messages.emit("e-4", "a").await;
    assert_eq!(messages.arrived(4).await.last().unwrap(), "e-4");
    messages.end(relay).await;
}

#[tokio::test]
async fn a_refused_message_is_tried_again_and_its_key_waits_through_kill_9() {
    let messages = small_records("messages_retry").await;
    let options = messages.options().set("retry.max_attempts", "100").set("retry.jitter", "0");
    let options = options.set("retry.initial_backoff", "500ms");
    let relay = options.start_ready().await;
    messages.emit("e-1", "a").await;
    messages.write(&large(&messages, "e-2", "a")).await;
    messages.emit("e-3", "a").await;
    messages.emit("o-1", "b").await;
    assert_eq!(messages.arrived(2).await, ["e-1", "o-1"]);
    messages.wait_until_held(&[("e-2", "retry"), ("e-3", "parked")]).await;
    relay.kill().await;
    let relay = options.start_ready().await;
    limit(&messages.kafka, &messages.topic, "1048576").await;
    let mut arrived = messages.arrived(4).await;
    arrived.dedup();
    assert_eq!(arrived, ["e-1", "o-1", "e-2", "e-3"]);
    messages.wait_until_held(&[]).await;
    messages.end(relay).await;
}

#[tokio::test]
async fn an_exhausted_message_is_a_dead_letter_and_operators_redrive_it() {
    let messages = small_records("messages_dead").await;
    let options = messages.options().set("retry.max_attempts", "2");
    let options = options.set("retry.initial_backoff", "100ms");
    let relay = options.start_ready().await;
    messages.write(&large(&messages, "e-1", "a")).await;
    messages.emit("e-2", "a").await;
    assert_eq!(messages.arrived(1).await, ["e-2"]);
    messages.wait_until_held(&[("e-1", "dead")]).await;
    let dead = messages.kafka.wait_for(&format!("{}.dlq", messages.topic), 1).await.remove(0);
    assert_eq!((dead.event_id(), dead.header("dlq-attempts")), ("e-1", Some("2")));
    assert!(dead.value.unwrap().len() > 4000, "the whole of it");

    let run = |arguments: &[&str]| {
        let (code, said, complaint) = options.command_output(arguments);
        assert_eq!(code, 0, "{arguments:?}: {said}{complaint}");
        said
    };
    assert!(run(&["dlq", "list"]).contains("e-1"));
    limit(&messages.kafka, &messages.topic, "1048576").await;
    run(&["dlq", "redrive", "e-1", "--yes"]);
    assert_eq!(messages.arrived(2).await, ["e-2", "e-1"]);
    messages.wait_until_held(&[]).await;

    // The same by SQL.
    limit(&messages.kafka, &messages.topic, "2000").await;
    messages.write(&large(&messages, "e-3", "a")).await;
    messages.wait_until_held(&[("e-3", "dead")]).await;
    limit(&messages.kafka, &messages.topic, "1048576").await;
    messages.database.row("SELECT outboxd.retry('e-3')", &[]).await;
    assert_eq!(messages.arrived(3).await.last().unwrap(), "e-3");
    messages.wait_until_held(&[]).await;
    messages.end(relay).await;
}

/// Somebody names a row: there is none that this relay could read.
#[tokio::test]
async fn a_row_that_somebody_wants_to_be_published_is_not_read() {
    let messages = Messages::new("messages_row").await;
    let relay = messages.options().start_ready().await;
    let error = messages.database.sql.query("SELECT outboxd.retry('e-0')", &[]).await.unwrap_err();
    assert_eq!(error.as_db_error().unwrap().message(), "event e-0 is not held");
    messages.database.execute("CREATE TABLE t AS SELECT 'r-1' AS id").await;
    messages.database.row("SELECT outboxd.retry('r-1', NULL, 't')", &[]).await;
    messages.wait_until_held(&[]).await;
    messages.emit("e-1", "a").await;
    assert_eq!(messages.arrived(1).await, ["e-1"]);
    assert!(!relay.has_logged("the session ended"), "{:?}", relay.logged());
    messages.end(relay).await;
}

/// Where each misfit goes, and what is said of it.
#[tokio::test]
async fn a_message_that_cannot_become_an_event_is_a_dead_letter_at_once() {
    let messages = Messages::new("messages_misfit").await;
    let (dead, homeless) = (format!("{}.dlq", messages.topic), unique("messages_homeless"));
    for topic in [&dead, &homeless] {
        messages.kafka.create_topic(topic, 1, &[]).await;
    }
    let relay = messages.options().set("dead_letter.default", &homeless).start_ready().await;
    messages.emit("e-1", "a").await;
    // No object; then objects with a member that no event has.
    messages.write("no json").await;
    let mut scheduled = messages.content("e-2", "a");
    scheduled["scheduled_at"] = "2099-01-01T00:00:00Z".into();
    messages.write(&scheduled.to_string()).await;
    let mut bad = messages.content("e-3", "a");
    bad["headers"] = "none".into();
    messages.write(&bad.to_string()).await;
    messages.emit("e-4", "a").await;
    assert_eq!(messages.arrived(2).await, ["e-1", "e-4"], "their key goes on");
    let no_json = messages.kafka.wait_for(&homeless, 1).await.remove(0);
    assert_eq!(no_json.value.as_deref(), Some(b"no json".as_slice()), "the content as it was");
    assert!(no_json.event_id().ends_with("/0"), "its position: {no_json:?}");
    let why = |record: &Record| record.header("dlq-error").unwrap().to_owned();
    assert!(why(&no_json).contains("not a JSON object"), "{no_json:?}");
    let records = messages.kafka.wait_for(&dead, 2).await;
    assert_eq!(ids(&records), ["e-2", "e-3"]);
    assert!(why(&records[0]).contains("scheduled"), "{records:?}");
    assert!(why(&records[1]).contains("headers"), "{records:?}");
    for record in &records {
        assert_eq!((record.key(), record.header("dlq-attempts")), ("a", Some("1")));
    }
    messages.wait_until_confirmed().await;
    messages.end(relay).await;
}

#[tokio::test]
async fn a_message_above_the_limit_is_a_dead_letter_without_its_content_and_without_memory() {
    let messages = Messages::new("messages_large").await;
    let homeless = unique("messages_large_dead");
    messages.kafka.create_topic(&homeless, 1, &[]).await;
    let options = messages.options().set("dead_letter.default", &homeless);
    let relay = options.set("outbox.max_row_bytes", "1MiB").start_ready().await;
    messages.emit("e-1", "a").await;
    messages.arrived(1).await;
    let (before, _) = relay.memory();
    let large = format!("{{\"topic\": \"{}\", \"payload\": \"", messages.topic);
    let emit =
        "SELECT pg_logical_emit_message(true, $1, $2::text || repeat('x', 40000000) || '\"}')";
    // Others' are let pass.
    for prefix in [messages.prefix.as_str(), "others", messages.prefix.as_str()] {
        messages.database.row(emit, &[&prefix, &large]).await;
    }
    messages.emit("e-2", "a").await;
    assert_eq!(messages.arrived(2).await, ["e-1", "e-2"]);
    for record in messages.kafka.wait_for(&homeless, 2).await {
        assert!(record.header("dlq-error").unwrap().contains("more than outbox.max_row_bytes"));
        assert_eq!((record.value.as_deref(), record.header("dlq-truncated")), (None, Some("true")));
        assert!(record.event_id().ends_with("/0"), "its position: {record:?}");
    }
    let (_, peak) = relay.memory();
    assert!(peak < before + 8 * MIB, "{} MiB, before {}", peak / MIB, before / MIB);
    messages.wait_until_confirmed().await;
    messages.end(relay).await;
}
