//! Streams that are missing, full, too small or others than expected: only their subjects wait, and
//! what a stream cannot take for good is a dead letter.

use async_nats::jetstream::stream::DiscardPolicy;

use crate::support::database::Database;
use crate::support::nats::TempNats;
use crate::support::relay::Relay;
use crate::support::wait::{LATER, SOON, eventually, stays};

use std::time::Duration;

async fn wait_for(database: &Database, status: &str, count: i64) {
    eventually(format!("{count} to be {status}"), LATER, || async {
        database.statuses().await.get(status).copied().unwrap_or(0) == count
    })
    .await;
}

async fn held(database: &Database, reason: &str) -> i64 {
    let sql = format!("SELECT count(*) FROM outboxd.held_event WHERE reason = '{reason}'");
    database.count(&sql).await
}

async fn says(relay: &Relay, text: &str) {
    eventually(format!("the log to say {text}"), SOON, || async { relay.has_logged(text) }).await;
}

async fn ends(relay: Relay, database: Database) {
    assert_eq!(relay.stop().await, 0);
    database.clear().await;
}

#[tokio::test]
async fn a_missing_stream_holds_its_subject_until_it_is_made() {
    let database = Database::new("nats_missing").await;
    let nats = TempNats::start("").await;
    nats.create("THERE", &["there.>"]).await;
    let relay = nats.options(&database).start_ready().await;
    for n in 0..10 {
        database.emit("a", "k", "missing.a", &format!("{{\"n\": {n}}}")).await;
        database.emit("a", "k", "there.a", "{}").await;
    }
    wait_for(&database, "SENT", 10).await;
    // Those that waited for the first of their key when it came back are parked behind it.
    eventually("the others to be held", SOON, || async {
        held(&database, "topic").await + held(&database, "parked").await == 10
    })
    .await;
    relay.tells("OBX-4002").await;
    nats.create("MISSING", &["missing.>"]).await;
    wait_for(&database, "SENT", 20).await;
    // The stream goes away under the relay, and another one takes its subject.
    let jetstream = nats.jetstream().await;
    jetstream.delete_stream("THERE").await.unwrap();
    database.emit("a", "k", "there.a", "{\"n\": 11}").await;
    eventually("it to be held", SOON, || async { held(&database, "topic").await == 1 }).await;
    nats.create("AGAIN", &["there.*"]).await;
    wait_for(&database, "SENT", 21).await;
    assert_eq!(nats.count("AGAIN").await, 1);
    jetstream.delete_stream("AGAIN").await.unwrap();
    nats.create("OTHER", &["there.a"]).await;
    database.emit("a", "k", "there.a", "{\"n\": 12}").await;
    wait_for(&database, "SENT", 22).await;
    assert_eq!(nats.count("OTHER").await, 1, "the relay has noticed that it is another one");
    let numbers: Vec<_> = nats.messages("MISSING").await;
    let numbers: Vec<_> = numbers.iter().map(|m| m.json()["payload"]["n"].as_i64()).collect();
    assert_eq!(numbers, (0..10).map(Some).collect::<Vec<_>>(), "in order, after the wait");
    assert_eq!(database.count("SELECT count(*) FROM outbox WHERE attempts > 1").await, 0);
    ends(relay, database).await;
}

#[tokio::test]
async fn a_missing_stream_is_made_where_that_is_wanted() {
    let database = Database::new("nats_create").await;
    let nats = TempNats::start("").await;
    let options = nats.options(&database).set("nats.create_streams", "true");
    let relay = options.set("nats.duplicate_window", "7m").start_ready().await;
    database.emit("a", "k", "made.by-us", "{}").await;
    wait_for(&database, "SENT", 1).await;
    let stream = nats.jetstream().await.get_stream("made_by-us").await.unwrap();
    let config = &stream.cached_info().config;
    assert_eq!(config.subjects.iter().map(|s| s.as_str()).collect::<Vec<_>>(), ["made.by-us"]);
    assert_eq!(config.duplicate_window, Duration::from_secs(420));
    assert_eq!(relay.stop().await, 0);

    // With the stream named, its subjects become more, and the rest of it stays.
    nats.create_with("ALL", &["all.a"], |config| config.max_messages = 1234).await;
    let relay = options_of_one(&nats, &database, "ALL").start_ready().await;
    database.emit("a", "k", "all.a", "{}").await;
    database.emit("a", "k", "all.b", "{}").await;
    wait_for(&database, "SENT", 3).await;
    let all = nats.jetstream().await.get_stream("ALL").await.unwrap();
    let config = &all.cached_info().config;
    assert_eq!((config.subjects.len(), config.max_messages), (2, 1234));
    // What another stream has cannot be taken from it.
    database.emit("a", "k", "made.by-us", "{}").await;
    says(&relay, "overlap").await;
    eventually("it to be held", SOON, || async { held(&database, "topic").await == 1 }).await;
    nats.jetstream().await.delete_stream("made_by-us").await.unwrap();
    wait_for(&database, "SENT", 4).await;
    ends(relay, database).await;
}

fn options_of_one(
    nats: &TempNats,
    database: &Database,
    stream: &str,
) -> crate::support::relay::RelayOptions {
    nats.options(database).set("nats.create_streams", "true").set("nats.stream", stream)
}

#[tokio::test]
async fn another_stream_than_expected_takes_nothing() {
    let database = Database::new("nats_expected").await;
    let nats = TempNats::start("").await;
    nats.create("MINE", &["mine.>"]).await;
    nats.create("THEIRS", &["theirs.>"]).await;
    nats.create_with("SILENT", &["mute.>"], |config| config.no_ack = true).await;
    let relay = nats.options(&database).set("nats.stream", "MINE").start_ready().await;
    database.emit("a", "k", "theirs.a", "{}").await;
    database.emit("a", "k", "mine.a", "{}").await;
    wait_for(&database, "SENT", 1).await;
    says(&relay, "nats.stream is MINE").await;
    eventually("it to be held", SOON, || async { held(&database, "topic").await == 1 }).await;
    assert_eq!((nats.count("MINE").await, nats.count("THEIRS").await), (1, 0));
    assert_eq!(relay.stop().await, 0);
    // Whoever wants it otherwise says so.
    let relay = nats.options(&database).start_ready().await;
    wait_for(&database, "SENT", 2).await;
    database.emit("a", "k", "mute.a", "{}").await;
    says(&relay, "no_ack").await;
    assert_eq!(nats.count("SILENT").await, 0, "it could never be known to have arrived");
    ends(relay, database).await;
}

#[tokio::test]
async fn what_a_stream_never_takes_is_a_dead_letter() {
    let database = Database::new("nats_large").await;
    let nats = TempNats::start("max_payload: 60000").await;
    nats.create_with("SMALL", &["small.a"], |config| config.max_message_size = 2000).await;
    nats.create("WIDE", &["wide.a", "small.a.dlq", "wide.a.dlq"]).await;
    let options = nats.options(&database).set("retry.max_attempts", "2");
    let relay = options.set("retry.initial_backoff", "100ms").start_ready().await;
    let large = |bytes: usize| format!("{{\"text\": \"{}\"}}", "x".repeat(bytes));
    database.emit("a", "k", "small.a", &large(3000)).await;
    database.emit("a", "k2", "wide.a", &large(70_000)).await;
    let bad = "INSERT INTO outbox (aggregate_type, aggregate_id, event_type, payload, topic, headers) \
               VALUES ('a', 'k3', 'Bad', '{}', 'wide.a', '{\"Nats-Rollup\": \"all\"}')";
    database.execute(bad).await;
    database.emit("a", "k", "small.a", "{\"n\": 1}").await;
    database.emit("a", "k2", "wide.a", &large(50_000)).await;
    wait_for(&database, "SENT", 2).await;
    eventually("three to be given up", SOON, || async { held(&database, "dead").await == 3 }).await;
    assert_eq!(nats.count("SMALL").await, 1);
    let wide = nats.messages("WIDE").await;
    let letter = |topic: &str, key: &str| {
        let letter = wide.iter().find(|message| {
            message.subject == format!("{topic}.dlq") && message.header("key") == Some(key)
        });
        letter.unwrap_or_else(|| panic!("no letter of {topic} {key}: {wide:?}"))
    };
    let small = letter("small.a", "k");
    assert_eq!(small.header("dlq-topic"), Some("small.a"));
    assert_eq!(small.header("dlq-attempts"), Some("2"));
    let error = small.header("dlq-error").unwrap();
    assert!(error.contains("the topic takes 2000"), "{error}");
    assert_eq!(small.header("dlq-error-class"), Some("OBX-4004"));
    assert!(small.json()["payload"]["text"].as_str().unwrap().len() == 3000, "the whole event");
    assert_eq!(small.header("Nats-Msg-Id"), small.header("event_id"));
    let wide_one = letter("wide.a", "k2");
    assert_eq!(wide_one.header("dlq-truncated"), Some("true"));
    assert!(wide_one.data.is_empty());
    let bad = letter("wide.a", "k3");
    assert!(bad.header("dlq-error").unwrap().contains("Nats-Rollup"), "{bad:?}");
    assert!(bad.header("Nats-Rollup").is_none(), "it would have emptied the stream");

    // An operator sends one of them again, when there is room for it.
    nats.jetstream()
        .await
        .update_stream(async_nats::jetstream::stream::Config {
            name: "SMALL".to_owned(),
            subjects: vec!["small.a".into()],
            max_message_size: 10_000,
            ..Default::default()
        })
        .await
        .unwrap();
    let id = small.header("event_id").unwrap().to_owned();
    let (exit, out, complaint) =
        nats.options(&database).command_output(&["dlq", "redrive", &id, "--yes"]);
    assert_eq!(exit, 0, "{out}{complaint}");
    eventually("the letter to arrive", SOON, || async { nats.count("SMALL").await == 2 }).await;
    let again = nats.messages("SMALL").await.pop().unwrap();
    assert_eq!(again.header("outboxd-redelivery"), Some("true"));
    let again = again.header("Nats-Msg-Id").unwrap();
    assert!(again.starts_with(&format!("{id}/")), "{again}: the stream may know the event's id");
    ends(relay, database).await;
}

#[tokio::test]
async fn a_full_stream_is_waited_for_and_costs_no_attempt() {
    let database = Database::new("nats_full").await;
    let nats = TempNats::start("").await;
    nats.create_with("FULL", &["full.>"], |config| {
        (config.max_messages, config.discard) = (5, DiscardPolicy::New);
    })
    .await;
    nats.create("FREE", &["free.>"]).await;
    let relay = nats.options(&database).start_ready().await;
    for n in 0..20 {
        database.emit("a", &format!("k{}", n % 3), "full.a", &format!("{{\"n\": {n}}}")).await;
    }
    says(&relay, "maximum messages exceeded").await;
    assert_eq!(nats.count("FULL").await, 5);
    database.emit("a", "k", "free.a", "{}").await;
    eventually("the other stream to go on", SOON, || async { nats.count("FREE").await == 1 }).await;
    wait_for(&database, "SENT", 5).await;
    // A status is written when all before it are known: that of the other stream, too.
    stays("the wait", Duration::from_secs(2), || async {
        database.statuses().await.get("PENDING") == Some(&16)
    })
    .await;
    eventually("the status to say why", SOON, || async {
        let error = relay.status().await["last_error"]["message"].to_string();
        error.contains("subject full.a: maximum messages exceeded")
    })
    .await;
    assert_eq!(database.count("SELECT count(*) FROM outbox WHERE attempts > 1").await, 0);
    let stream = nats.jetstream().await.get_stream("FULL").await.unwrap();
    let mut config = stream.cached_info().config.clone();
    config.max_messages = 100;
    nats.jetstream().await.update_stream(config).await.unwrap();
    wait_for(&database, "SENT", 21).await;
    let mut numbers: Vec<_> = nats.messages("FULL").await;
    numbers.sort_by_key(|message| message.header("key").map(ToOwned::to_owned));
    for pair in numbers.windows(2).filter(|pair| pair[0].header("key") == pair[1].header("key")) {
        let n = |index: usize| pair[index].json()["payload"]["n"].as_i64();
        assert!(n(0) < n(1), "{pair:?}");
    }
    eventually("all to be well again", SOON, || async { relay.get("/readyz").await.0 == 200 })
        .await;
    ends(relay, database).await;
}
