//! An outbox without a table: `pg_logical_emit_message`.

use std::collections::{HashMap, HashSet};

use outboxd::demo::TempPostgres;

use crate::support::database::Database;
use crate::support::messages::{Messages, ids};
use crate::support::records::Record;
use crate::support::relay::RelayOptions;
use crate::support::setting;
use crate::support::small::Small;
use crate::support::wait::{LATER, SOON, eventually, until};

/// Two transactions side by side, what is rolled back, whole or in part, and what is for others.
async fn relays_what_is_committed(messages: &Messages, options: &RelayOptions) {
    let relay = options.start_ready().await;
    let (mut expected, first) = (Vec::new(), messages.database.connect().await);
    for round in 0..5 {
        let content = |n: &str| messages.content(&format!("{round}-{n}"), "a").to_string();
        first.batch_execute("BEGIN").await.unwrap();
        messages.write_by(&first, &content("late-1")).await;
        messages.write(&content("early")).await;
        messages.write_other(true, "others", "not json").await;
        first.batch_execute("SAVEPOINT s").await.unwrap();
        messages.write_by(&first, &content("undone")).await;
        first.batch_execute("ROLLBACK TO s").await.unwrap();
        messages.write_by(&first, &content("late-2")).await;
        first.batch_execute("COMMIT; BEGIN").await.unwrap();
        messages.write_by(&first, &content("never")).await;
        first.batch_execute("ROLLBACK").await.unwrap();
        messages.write_other(false, &messages.prefix, &content("loose")).await;
        for id in ["early", "late-1", "late-2"] {
            expected.push(format!("{round}-{id}"));
        }
    }
    assert_eq!(messages.arrived(expected.len()).await, expected);
    let warned = "outside of its transaction";
    relay.wait_until_logged(warned).await;
    assert_eq!(relay.logged().iter().filter(|line| line.contains(warned)).count(), 1);
    messages.wait_until_confirmed().await;
    assert_eq!(relay.stop().await, 0);

    let relay = options.start_ready().await;
    messages.emit("last", "a").await;
    expected.push("last".to_owned());
    assert_eq!(messages.arrived(expected.len()).await, expected, "a stop repeats nothing");
    // Nothing but the relay itself writes any more, and what it confirms goes on.
    messages.database.execute("CREATE TABLE t AS SELECT generate_series(1, 1000)").await;
    messages.wait_until_confirmed().await;
    assert_eq!(relay.stop().await, 0);
}

/// The relay has the rights of the role that `migrate` makes, and no more.
#[tokio::test]
async fn messages_arrive_in_the_order_of_commits_and_what_was_rolled_back_never() {
    let messages = Messages::new("messages").await;
    messages.database.execute("ALTER ROLE outboxd PASSWORD 'test'").await;
    let (_, host) = messages.database.url.split_once('@').unwrap();
    let options =
        messages.options().set("postgres.url", &format!("postgres://outboxd:test@{host}"));
    let (code, said, _) = options.command_output(&["doctor"]);
    assert_eq!(code, 0, "{said}");
    relays_what_is_committed(&messages, &options).await;
    let relay = options.start_ready().await;
    messages.end(relay).await;
}

async fn relays_on(major: i64) {
    let server = TempPostgres::start(setting(&format!("PG_BIN_{major}")).as_ref(), &[]).unwrap();
    let name = format!("messages{major}");
    let database = Database::empty_at(&server.url("postgres"), &name).await;
    let messages = Messages::at(database, &name, &[]).await;
    relays_what_is_committed(&messages, &messages.options()).await;
}

#[tokio::test]
async fn messages_of_postgresql_14_are_relayed() {
    relays_on(14).await;
}

#[tokio::test]
async fn messages_of_postgresql_18_are_relayed() {
    relays_on(18).await;
}

/// The same routing, formats and headers as of a row, and the payload byte for byte.
#[tokio::test]
async fn a_message_becomes_the_record_that_a_row_would_become() {
    let messages = Messages::new("messages_as_rows").await;
    let payload = r#"{"n":  1.10, "tenant": "t-1", "n": "\u0000"}"#;
    let content = format!(
        r#"{{"event_id": "e-1", "event_type": "Placed", "aggregate_type": "order",
            "aggregate_id": 7, "partition_key": "k\"1", "topic": "{}", "schema_version": 3,
            "occurred_at": "2026-11-21T07:00:00.5+01:00", "dedup_key": "d", "unknown": [],
            "headers": {{"trace": "x", "n": 1}}, "payload": {payload}}}"#,
        messages.topic
    );
    let options = messages.options().set("outbox.columns.tenant_id", "{ payload = \"/tenant\" }");
    let relay = options.set("envelope.headers", "[\"event_id\",\"dedup_key\"]").start_ready().await;
    messages.write(&content).await;
    let record = messages.kafka.wait_for(&messages.topic, 1).await.remove(0);
    let expected = format!(
        "{{\"event_id\":\"e-1\",\"event_type\":\"Placed\",\"topic\":\"{}\",\"schema_version\":3,\
         \"occurred_at\":\"2026-11-21T07:00:00.5+01:00\",\"tenant_id\":\"t-1\",\
         \"aggregate_id\":\"7\",\"aggregate_type\":\"order\",\"payload\":{payload}}}",
        messages.topic
    );
    assert_eq!(record.text(), expected);
    assert_eq!(record.key(), "k\"1");
    for (name, value) in [("event_id", "e-1"), ("dedup_key", "d"), ("trace", "x"), ("n", "1")] {
        assert_eq!(record.header(name), Some(value), "{name}");
    }
    assert_eq!(relay.stop().await, 0);

    let options = messages.options().set("route.topic", &messages.topic);
    for (count, format) in [(2, "payload"), (3, "cloudevents-binary"), (4, "debezium")] {
        let relay = options.clone().set("envelope.format", format).start_ready().await;
        messages.write(&content).await;
        let record = messages.kafka.wait_for(&messages.topic, count).await.remove(count - 1);
        assert_eq!(record.value.as_deref(), Some(payload.as_bytes()), "{format}");
        assert_eq!(relay.stop().await, 0);
    }
    let relay = options.start_ready().await;
    messages.end(relay).await;
}

/// What docs/WRITING.md shows.
#[tokio::test]
async fn the_example_of_the_documents_is_an_event() {
    let messages = Messages::new("messages_example").await;
    let document = include_str!("../../docs/WRITING.md");
    let (_, section) = document.split_once("## Without a table").unwrap();
    let example = section.split("```").nth(1).unwrap().trim_start_matches("sql\n");
    messages.database.execute("CREATE TABLE orders (id text, state text)").await;
    let options = messages.options().set("route.default", &messages.topic);
    let relay = options.start_ready().await;
    messages.database.execute("SET TIME ZONE 'Asia/Kolkata'").await;
    messages.database.execute(example).await;
    let record = messages.kafka.wait_for(&messages.topic, 1).await.remove(0);
    let value = record.json();
    assert_eq!((record.key(), &value["event_type"]), ("o-1", &"OrderPaid".into()));
    assert_eq!(value["payload"]["total"], 10);
    assert!(value["occurred_at"].as_str().unwrap().ends_with("+05:30"), "{value}");
    assert_eq!(record.event_id().len(), 36);
    eventually("its age to be told", SOON, || async {
        let age = relay.metric("outbox_event_age_seconds_sum").await;
        age > 0.0 && age < 60.0
    })
    .await;
    messages.end(relay).await;
}

const MANY: usize = 30_000;
/// So few that the transaction takes seconds, however fast the machine is: of each key one event is
/// on its way at a time.
const KEYS: usize = 4;

/// Half of the messages name no id: theirs is the position, the same at every reading.
#[tokio::test]
async fn kill_9_in_the_middle_of_a_large_transaction_loses_nothing_and_keeps_the_order() {
    let messages = Messages::new("messages_kill").await;
    let options = messages.options().set("kafka.in_flight_events", "500");
    let mut relay = options.start_ready().await;
    let emit = format!(
        "SELECT count(pg_logical_emit_message(true, CASE n % 3 WHEN 2 THEN 'others' ELSE '{}' END, \
             jsonb_build_object('event_id', CASE WHEN n % 2 = 0 THEN 'e-' || n END, \
                'aggregate_id', 'k-' || n % {KEYS}, 'topic', '{}', 'payload', n)::text)) \
         FROM generate_series(1, {MANY}) n",
        messages.prefix, messages.topic
    );
    messages.database.execute(&emit).await;
    let total = MANY - MANY.div_ceil(3);
    let (mut kills, mut seen) = (0, 0);
    while seen < total {
        let more = (seen + 3_000).min(total);
        seen = until(format!("{more} records"), LATER, || async {
            let records = messages.kafka.read(&[&messages.topic]);
            let count = records.iter().map(Record::event_id).collect::<HashSet<_>>().len();
            (count >= more).then_some(count)
        })
        .await;
        relay.kill().await;
        kills += 1;
        relay = options.start_ready().await;
    }
    messages.wait_until_confirmed().await;
    let records = messages.kafka.read(&[&messages.topic]);
    let (mut known, mut last) = (HashMap::new(), HashMap::new());
    for record in &records {
        let n = record.json()["payload"].as_i64().unwrap();
        let before = known.insert(record.event_id().to_owned(), n);
        assert!(before.is_none_or(|before| before == n), "an id for two events: {record:?}");
        if before.is_none() {
            let last = last.insert(record.key().to_owned(), n);
            assert!(last.is_none_or(|last| last < n), "{n} came after {last:?}");
        }
    }
    assert_eq!(known.len(), total, "{kills} kills");
    let at_most = total + kills * 500;
    assert!(kills > 3 && records.len() <= at_most, "{} after {kills} kills", records.len());
    messages.end(relay).await;
}

/// A place within a transaction is another thing to a table's relay.
#[tokio::test]
async fn a_relay_does_not_go_from_rows_to_messages_or_back_with_its_slot() {
    let small = Small::new("messages_intake").await;
    let rows = small.options();
    let mixed = rows.clone().set("outbox.message_prefix", "orders");
    let relay = rows.start_ready().await;
    small.emit("a", 1).await;
    small.wait_for_sent(1).await;
    assert_eq!(relay.stop().await, 0);
    for (ours, theirs) in [(&rows, &mixed), (&mixed, &rows)] {
        let mut relay = theirs.start();
        assert_eq!(relay.wait().await.code(), Some(78));
        assert!(relay.has_logged("OBX-2041"), "{:?}", relay.logged());
        let relay = ours.start_ready().await;
        assert_eq!(relay.stop().await, 0);
        let (code, _, said) = ours.command_output(&["slot", "drop", "--yes"]);
        assert_eq!(code, 0, "{said}");
        let relay = theirs.start_ready().await;
        assert_eq!(relay.stop().await, 0);
    }
    // A table's publication does for messages, and it is said that another one would be better.
    let (code, said, _) = mixed.command_output(&["doctor"]);
    assert!(code == 0 && said.contains("publishes tables"), "{said}");
    small.clear().await;
}

/// Another relay takes over; and one that has lost its place is told so, not that a table is gone.
#[tokio::test]
async fn one_relay_of_messages_is_active_and_another_takes_over() {
    let messages = Messages::new("messages_standby").await;
    let first = messages.options().start_ready().await;
    let second = messages.options().start();
    second.wait_for_state("standby").await;
    messages.emit("e-1", "a").await;
    messages.arrived(1).await;
    messages.wait_until_confirmed().await;
    first.kill().await;
    messages.emit("e-2", "a").await;
    assert_eq!(messages.arrived(2).await, ["e-1", "e-2"]);
    messages.wait_until_confirmed().await;

    messages.database.execute("UPDATE outboxd.relay SET epoch = epoch + 1").await;
    messages.emit("e-3", "a").await;
    eventually("the place to be taken again", SOON, || async {
        second.logged().iter().filter(|line| line.contains("took the place")).count() == 2
    })
    .await;
    messages.emit("e-4", "a").await;
    let mut arrived = messages.arrived(5).await;
    arrived.dedup();
    assert_eq!(arrived, ["e-1", "e-2", "e-3", "e-4"]);
    messages.end(second).await;
}

/// A prefix that is changed in the middle of a transaction shifts no position.
#[tokio::test]
async fn another_prefix_is_read_from_where_the_first_one_ended() {
    let messages = Messages::new("messages_prefix").await;
    let relay = messages.options().start_ready().await;
    let other = Messages { prefix: "payments".to_owned(), ..messages };
    other.database.execute("BEGIN").await;
    other.emit("p-1", "a").await;
    other.write_other(true, "orders", &other.content("o-1", "a").to_string()).await;
    other.emit("p-2", "a").await;
    other.database.execute("COMMIT").await;
    assert_eq!(other.arrived(1).await, ["o-1"]);
    other.wait_until_confirmed().await;
    assert_eq!(relay.stop().await, 0);
    let options = other.options().set("outbox.message_prefix", "payments");
    let relay = options.start_ready().await;
    other.emit("p-3", "a").await;
    assert_eq!(other.arrived(2).await, ["o-1", "p-3"], "what was passed over stays so");
    other.end(relay).await;
}

/// What needs a table says that there is none; the rest works.
#[tokio::test]
async fn commands_work_without_a_table() {
    let messages = Messages::new("messages_commands").await;
    let options = messages.options();
    let run = |arguments: &[&str]| {
        let (code, said, complaint) = options.command_output(arguments);
        assert_eq!(code, 0, "{arguments:?}: {said}{complaint}");
        said
    };
    assert!(!run(&["migrate"]).contains("0001_outbox"));
    let tables = "SELECT count(*) FROM pg_publication_tables";
    assert_eq!(messages.database.count(tables).await, 0);
    let missing = "SELECT count(*) FROM pg_class WHERE relname IN ('outbox', 'event_verdict')";
    assert_eq!(messages.database.count(missing).await, 0);
    assert!(run(&["doctor"]).contains("everything that the relay needs is there"));
    assert!(run(&["slot", "create"]).contains("created slot"));
    assert!(run(&["slot", "create"]).contains("is there already"));
    assert!(run(&["reconcile"]).contains("nothing to reconcile"));
    assert!(run(&["reconcile", "-o", "json"]).contains("\"missed\": 0"));
    assert!(run(&["config", "show"]).contains("implied by outbox.message_prefix"));
    let relay = options.start_ready().await;
    messages.emit("e-1", "a").await;
    assert_eq!(ids(&messages.kafka.wait_for(&messages.topic, 1).await), ["e-1"]);
    assert!(run(&["status"]).contains("streaming"));
    let (code, _, said) = options.command_output(&["events", "retry", "e-1", "--yes"]);
    assert!(code == 64 && said.contains("OBX-6002"), "{code}: {said}");
    // A publication that was made anew is one that pgoutput could not go on without.
    messages.database.execute("DROP PUBLICATION outboxd; CREATE PUBLICATION outboxd").await;
    eventually("a halt", SOON, || async {
        relay.has_logged("OBX-2020") || relay.has_logged("OBX-2021")
    })
    .await;
    drop(relay);
    messages.database.clear().await;
}

#[test]
fn what_messages_leave_no_choice_in_is_said() {
    let bare = RelayOptions::bare().set("postgres.url", "postgres://u@127.0.0.1:1/d");
    let options = bare.set("outbox.message_prefix", "orders");
    assert_eq!(options.command_output(&["check"]).0, 0);
    let long = "p".repeat(201);
    for (key, value, expected) in [
        ("outbox.table", "outbox", "only one of them"),
        ("outbox.status.mode", "ledger", "needs outbox.status.mode = \"none\""),
        ("outbox.start", "pending", "needs outbox.start = \"stream\""),
        ("outbox.columns.scheduled_at", "{ payload = \"/due\" }", "cannot be scheduled"),
        ("postgres.on_slot_lost", "recover", "postgres.on_slot_lost = \"halt\""),
        ("outbox.message_prefix", "outboxd", "the relay's own"),
        ("outbox.message_prefix", &long, "1 to 200 bytes"),
    ] {
        let (code, _, said) = options.clone().set(key, value).command_output(&["check"]);
        assert!(code == 78 && said.contains(expected), "{key} = {value}: {said}");
    }
}
