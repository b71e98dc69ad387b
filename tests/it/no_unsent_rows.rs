//! Status mode `none`, and messages: nothing tells which events are unsent. What the relay says to do when
//! its stream is lost must not promise to publish them, and must lose no more than has to be.

use crate::support::messages::Messages;
use crate::support::relay::RelayOptions;
use crate::support::small::Small;

fn options(small: &Small) -> RelayOptions {
    small.options().set("outbox.status.mode", "none").set("outbox.start", "stream")
}

async fn numbers(small: &Small, count: usize) -> Vec<i64> {
    let records = small.kafka.wait_for(&small.topic, count).await;
    records.iter().map(|record| record.json()["payload"]["n"].as_i64().unwrap()).collect()
}

/// The relay does not start, with that code, and says what holds in this mode.
fn halts(options: &RelayOptions, obx: &str) {
    let (code, _, said) = options.command_output(&["run"]);
    assert_eq!((code, said.contains(obx)), (73, true), "{said}");
    let (code, shown, _) = options.command_output(&["status", "-o", "json"]);
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!((code, &shown["last_error"]["code"]), (0, &obx.into()), "{shown}");
    for said in [said.as_str(), shown["last_error"]["remedy"].as_str().unwrap()] {
        assert!(said.contains("slot recover") && said.contains("to be written again"), "{said}");
        assert!(!said.contains("unsent"), "{said}");
    }
}

fn does(options: &RelayOptions, command: &[&str]) {
    let (code, said, complaint) = options.command_output(command);
    assert_eq!(code, 0, "{said}{complaint}");
}

#[tokio::test]
async fn a_lost_stream_promises_no_unsent_rows_where_there_are_none() {
    let small = Small::new("none_lost").await;
    let options = options(&small);
    let relay = options.start_ready().await;
    small.emit("a", 1).await;
    numbers(&small, 1).await;
    assert_eq!(relay.stop().await, 0);
    let drop = format!("SELECT pg_drop_replication_slot('{}')", small.database.name);
    small.database.execute(&drop).await;
    small.emit("a", 2).await;
    halts(&options, "OBX-2030");
    let (_, _, said) = options.command_output(&["slot", "show"]);
    assert!(said.contains("OBX-2030") && !said.contains("unsent"), "{said}");
    does(&options, &["slot", "recover", "--yes"]);
    let relay = options.start_ready().await;
    small.emit("a", 3).await;
    assert_eq!(numbers(&small, 2).await, [1, 3], "as was said");

    assert_eq!(relay.stop().await, 0);
    small.database.execute("DROP PUBLICATION outboxd").await;
    halts(&options, "OBX-2021");
    let (_, said, _) = options.command_output(&["doctor"]);
    assert!(said.contains("OBX-2021") && !said.contains("unsent"), "{said}");
    small.clear().await;
}

#[tokio::test]
async fn a_lost_stream_of_messages_promises_no_unsent_rows() {
    let messages = Messages::new("messages_lost").await;
    let options = messages.options();
    let relay = options.start_ready().await;
    messages.emit("e-1", "a").await;
    messages.kafka.wait_for(&messages.topic, 1).await;
    assert_eq!(relay.stop().await, 0);
    let slot = messages.database.name.clone();
    messages.database.execute(&format!("SELECT pg_drop_replication_slot('{slot}')")).await;
    halts(&options, "OBX-2030");
    does(&options, &["slot", "recover", "--yes"]);
    let relay = options.start_ready().await;
    messages.emit("e-2", "a").await;
    messages.kafka.wait_for(&messages.topic, 2).await;
    assert_eq!(relay.stop().await, 0);
    messages.database.clear().await;
}

/// Somebody alters the publication, as after a take-over from another tool. The slot has what was written
/// since, and an operator's word is enough to go on with it.
#[tokio::test]
async fn a_publication_that_was_altered_is_accepted_without_giving_up_the_slot() {
    let small = Small::new("none_altered").await;
    let options = options(&small);
    for (n, alter) in [
        (0, "ALTER PUBLICATION outboxd SET (publish = 'insert, update')"),
        (10, "ALTER PUBLICATION outboxd SET TABLE outbox WHERE (seq > 0)"),
    ] {
        let mut relay = options.start_ready().await;
        small.emit("a", n + 1).await;
        small.database.wait_until_confirmed(&small.database.name).await;
        small.database.execute(alter).await;
        assert_eq!(relay.wait().await.code(), Some(73));
        assert!(relay.has_logged("OBX-2021") && relay.has_logged("outboxd reconcile --heal"));
        small.emit("a", n + 2).await;
        small.database.execute("ALTER PUBLICATION outboxd SET TABLE outbox").await;
        halts(&options, "OBX-2021");
        let (code, _, said) = options.command_output(&["reconcile"]);
        assert_eq!((code, said.contains("OBX-1001")), (78, true), "{said}");
        does(&options, &["reconcile", "--heal", "--yes"]);
        let relay = options.start_ready().await;
        small.emit("a", n + 3).await;
        let count = if n == 0 { 3 } else { 6 };
        assert_eq!(numbers(&small, count).await.last(), Some(&(n + 3)), "nothing is lost");
        assert_eq!(relay.stop().await, 0);
    }
    assert_eq!(numbers(&small, 6).await, [1, 2, 3, 11, 12, 13]);

    // One that was made anew cannot be read by the slot.
    small
        .database
        .execute("DROP PUBLICATION outboxd; CREATE PUBLICATION outboxd FOR TABLE outbox")
        .await;
    let (code, _, said) = options.command_output(&["reconcile", "--heal", "--yes"]);
    assert_eq!((code, said.contains("slot recover")), (73, true), "{said}");
    small.clear().await;
}
