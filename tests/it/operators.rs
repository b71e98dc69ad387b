//! What operators look at and ask for on the command line. No relay runs here: a stand-in hears
//! what it would hear; that a relay carries it out is in `operators_e2e`.

use serde_json::Value;

use crate::support::database::Database;
use crate::support::held::{StandIn, hold};
use crate::support::records::Kafka;
use crate::support::relay::RelayOptions;

const RELAY: &str = "outboxd";

async fn database(name: &str) -> (Database, RelayOptions) {
    let database = Database::new(name).await;
    let options = RelayOptions::new(&database, &Kafka::shared());
    (database, options)
}

async fn clear(database: Database) {
    database.clear().await;
}

fn json(options: &RelayOptions, arguments: &[&str]) -> Value {
    let (code, printed, said) = options.command_output(&[arguments, &["-o", "json"]].concat());
    assert_eq!(code, 0, "{arguments:?}: {said}");
    serde_json::from_str(&printed).unwrap_or_else(|_| panic!("{arguments:?}: {printed}"))
}

fn ids(listed: &Value) -> Vec<&str> {
    let items = listed.as_array().unwrap().iter();
    items.map(|item| item["event_id"].as_str().unwrap()).collect()
}

/// One event for each reason, of three keys; and one of another relay.
async fn hold_some(database: &Database) {
    for (id, reason, key) in [
        ("e1", "retry", "a"),
        ("e2", "parked", "a"),
        ("e3", "parked", "a"),
        ("e4", "topic", "b"),
        ("e5", "dead", "a"),
        ("e6", "dead", "c"),
    ] {
        hold(database, RELAY, id, reason, key).await;
    }
    database
        .execute(
            "INSERT INTO outboxd.held_event (relay_id, event_id, reason, due_at) \
             VALUES ('outboxd', 'e7', 'scheduled', '2099-01-01'); \
             UPDATE outboxd.held_event SET topic = 'bills', event_type = 'Billed', \
                error_code = 'OBX-4002', since = now() WHERE event_id = 'e4'",
        )
        .await;
    hold(database, "other", "e8", "retry", "a").await;
}

#[tokio::test]
async fn held_events_are_listed_by_every_condition() {
    let (database, options) = database("held_list").await;
    hold_some(&database).await;
    let (events, dead) = (["events", "list"], ["dlq", "list"]);
    for (command, conditions, expected) in [
        (events, &[][..], &["e1", "e2", "e3", "e4", "e7"][..]),
        (events, &["--topic", "orders"], &["e1", "e2", "e3"]),
        (events, &["--key", "b"], &["e4"]),
        (events, &["--key", "\\x62"], &["e4"]),
        (events, &["--reason", "scheduled"], &["e7"]),
        (events, &["--type", "Billed"], &["e4"]),
        (events, &["--error", "OBX-4002"], &["e4"]),
        (events, &["--since", "10m"], &["e4", "e7"]),
        (events, &["--before", "10m"], &["e1", "e2", "e3"]),
        (events, &["--before", "2026-01-01"], &[]),
        (events, &["--limit", "2"], &["e1", "e2"]),
        (events, &["--search", "billed"], &["e4"]),
        (events, &["--after", "1", "--limit", "1"], &["e2"]),
        (events, &["--topic", "orders", "--reason", "retry"], &["e1"]),
        (dead, &[], &["e5", "e6"]),
        (dead, &["--key", "c"], &["e6"]),
    ] {
        let listed = json(&options, &[&command[..], conditions].concat());
        assert_eq!(ids(&listed), expected, "{command:?} {conditions:?}");
    }
    let listed = json(&options, &["events", "list", "--limit", "1"]);
    let expected = serde_json::json!([{
        "event_id": "e1", "event_type": "Placed", "key": "a", "topic": "orders",
        "reason": "retry", "attempts": 2, "max_attempts": 5, "last_error": "too large",
        "error_code": "OBX-4004", "due_at": "2026-03-01T12:00:00.000Z",
        "since": listed[0]["since"], "position": "0/A1/3", "request": null, "ordinal": 1,
    }]);
    assert_eq!(listed, expected);
    let (code, text, _) = options.command_output(&["events", "list"]);
    assert_eq!(code, 0);
    let second = text.lines().nth(1).unwrap().split_whitespace().collect::<Vec<_>>();
    assert_eq!(second[..5], ["e1", "retry", "orders", "a", "2"], "{text}");
    let (_, text, _) = options.command_output(&["dlq", "list"]);
    assert!(text.contains("e5") && !text.contains("e1"), "{text}");
    // A list is never longer than somebody wants to read.
    let many = "INSERT INTO outboxd.held_event (relay_id, event_id, reason) \
                SELECT 'outboxd', 'm' || n, 'scheduled' FROM generate_series(1, 1200) n";
    database.execute(many).await;
    assert_eq!(ids(&json(&options, &["events", "list"])).len(), 1000);
    assert_eq!(ids(&json(&options, &["events", "list", "--limit", "5000"])).len(), 1205);
    let (_, text, _) = options.command_output(&["events", "list"]);
    assert!(text.ends_with("only the first 1000 are listed; --limit COUNT lists up to 100000\n"));
    let planned = json(&options, &["events", "skip", "--reason", "scheduled", "--dry-run"]);
    assert_eq!(planned["count"], 1201);
    clear(database).await;
}

#[tokio::test]
async fn a_payload_is_shown_to_who_asks_for_it_alone() {
    let (database, options) = database("held_show").await;
    hold_some(&database).await;
    let lists: [&[&str]; 5] = [
        &["events", "list"],
        &["dlq", "list"],
        &["keys", "list"],
        &["events", "show", "e1"],
        &["events", "retry", "e1", "--dry-run"],
    ];
    for command in lists {
        for form in ["text", "json"] {
            let (code, out, said) = options.command_output(&[command, &["-o", form]].concat());
            assert_eq!(code, 0, "{said}");
            assert!(!(out + &said).contains("4711"), "{command:?}");
        }
    }
    let shown = json(&options, &["events", "show", "e5"]);
    assert_eq!((&shown["reason"], &shown["exhausted"]), (&"dead".into(), &true.into()));
    assert_eq!(shown["headers"], serde_json::json!([["event_id", "x"]]));
    assert_eq!(shown["value_bytes"], 16);
    assert!(shown.get("value").is_none(), "{shown}");
    let shown = json(&options, &["events", "show", "e5", "--value"]);
    assert_eq!(shown["value"], "{\"card\": \"4711\"}");
    database
        .execute("UPDATE outboxd.held_event SET value = '\\xff00', key = '\\x1b5b' WHERE event_id = 'e5'")
        .await;
    let shown = json(&options, &["events", "show", "e5", "--value"]);
    assert_eq!(shown["value_base64"], "/wA=");
    let (_, text, _) = options.command_output(&["dlq", "list"]);
    assert!(text.contains("\\u{1b}[") && !text.contains('\u{1b}'), "a terminal obeys no key");
    clear(database).await;
}

#[tokio::test]
async fn keys_are_listed_with_what_waits_behind_them() {
    let (database, options) = database("held_keys").await;
    hold_some(&database).await;
    let listed = json(&options, &["keys", "list"]);
    assert_eq!(ids(&listed), ["e1", "e4"]);
    assert_eq!((&listed[0]["key"], &listed[0]["waiting"]), (&"a".into(), &2.into()));
    assert_eq!((&listed[1]["key"], &listed[1]["waiting"]), (&"b".into(), &0.into()));
    for (conditions, expected) in [
        (["--key", "a"], &["e1"][..]),
        (["--topic", "bills"], &["e4"]),
        (["--error", "OBX-4002"], &["e4"]),
        (["--reason", "topic"], &["e4"]),
        (["--limit", "1"], &["e1"]),
    ] {
        let listed = json(&options, &[&["keys", "list"][..], &conditions].concat());
        assert_eq!(ids(&listed), expected, "{conditions:?}");
    }
    let (_, text, _) = options.command_output(&["keys", "list"]);
    let first = text.lines().nth(1).unwrap().split_whitespace().collect::<Vec<_>>();
    assert_eq!(first[..4], ["a", "orders", "retry", "2"], "{text}");
    // The blocking event is gone: what comes next was parked, and blocks nothing by itself.
    database.execute("DELETE FROM outboxd.held_event WHERE event_id = 'e1'").await;
    assert_eq!(ids(&json(&options, &["keys", "list"])), ["e4"]);
    clear(database).await;
}

/// What is asked of which events, in the order of reading.
async fn requests(database: &Database) -> Vec<(String, String)> {
    let sql = "SELECT event_id, request FROM outboxd.held_event WHERE request IS NOT NULL \
               ORDER BY ordinal";
    let rows = database.sql.query(sql, &[]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

async fn audit(database: &Database) -> Vec<(String, String, String)> {
    let sql = "SELECT actor, action, target FROM outboxd.audit ORDER BY id";
    let rows = database.sql.query(sql, &[]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect()
}

#[tokio::test]
async fn a_request_is_filed_with_its_audit_and_a_notification() {
    let (database, options) = database("held_file").await;
    hold_some(&database).await;
    let mut relay = StandIn::listen(&database).await;
    for (command, expected, request) in [
        (&["events", "retry", "e1", "e7"][..], &["e1", "e7"][..], "retry"),
        (&["events", "retry", "e5"], &["e5"], "retry"),
        (&["events", "retry", "--topic", "bills"], &["e4"], "retry"),
        // What is dead or scheduled has to be named; what is parked waits for another.
        (&["events", "retry", "--all"], &["e1", "e4"], "retry"),
        (&["events", "retry", "--reason", "scheduled"], &["e7"], "retry"),
        (&["events", "skip", "e2"], &["e2"], "skip"),
        (&["events", "skip", "--key", "a", "--limit", "2"], &["e1", "e2"], "skip"),
        (&["keys", "unblock", "a"], &["e1"], "unblock"),
        (&["keys", "unblock", "--all"], &["e1", "e4"], "unblock"),
        (&["dlq", "redrive", "--error", "OBX-4004"], &["e5", "e6"], "retry"),
        (&["dlq", "redrive", "e6", "e5"], &["e5", "e6"], "retry"),
        (&["dlq", "discard", "e6"], &["e6"], "discard"),
    ] {
        let dry = json(&options, &[command, &["--dry-run"]].concat());
        assert_eq!((&dry["dry_run"], &dry["count"]), (&true.into(), &expected.len().into()));
        assert_eq!(ids(&dry["events"]), expected, "{command:?}");
        assert!(requests(&database).await.is_empty() && audit(&database).await.is_empty());
        assert!(relay.heard_nothing().await, "{command:?}");

        let filed = json(&options, command);
        assert_eq!((&filed["dry_run"], &filed["done"]), (&false.into(), &false.into()));
        assert_eq!(filed["message"], "filed; it is carried out when the relay runs");
        let wanted = |id: &&str| ((*id).to_owned(), request.to_owned());
        let wanted: Vec<_> = expected.iter().map(wanted).collect();
        assert_eq!(requests(&database).await, wanted, "{command:?}");
        assert_eq!(relay.told().await, RELAY);
        let noted = audit(&database).await;
        assert_eq!(noted.len(), expected.len());
        for ((actor, action, target), id) in noted.iter().zip(expected) {
            assert!(actor.starts_with("cli:") && actor.len() > 4, "{actor}");
            assert_eq!((action.as_str(), target), (command[1], &(*id).to_owned()));
        }
        database
            .execute("UPDATE outboxd.held_event SET request = NULL; TRUNCATE outboxd.audit")
            .await;
    }
    let (code, text, _) = options.command_output(&["events", "retry", "e1", "--yes"]);
    assert_eq!(code, 0);
    assert_eq!(text, "retry: 1 event: filed; it is carried out when the relay runs\n");
    assert_eq!(json(&options, &["events", "list"])[0]["request"], "retry");
    let shown = json(&options, &["events", "show", "e1"]);
    assert_eq!(shown["audit"][0]["action"], "retry");
    assert_eq!(shown["audit"][0]["detail"]["error_code"], "OBX-4004");
    clear(database).await;
}

#[tokio::test]
async fn a_request_says_when_the_relay_has_carried_it_out() {
    let (database, options) = database("held_wait").await;
    hold_some(&database).await;
    let mut relay = StandIn::take_place(&database, RELAY).await;
    let run = |arguments: &'static [&'static str]| {
        let options = options.clone();
        tokio::task::spawn_blocking(move || json(&options, arguments))
    };
    let command = run(&["events", "skip", "e1", "e2"]);
    assert_eq!(relay.told().await, RELAY);
    relay.sql.execute("DELETE FROM outboxd.held_event WHERE request = 'skip'", &[]).await.unwrap();
    assert_eq!(command.await.unwrap()["message"], "done");
    let command = run(&["dlq", "redrive", "--all"]);
    assert_eq!(relay.told().await, RELAY);
    let done =
        "UPDATE outboxd.held_event SET request = NULL, reason = 'retry' WHERE request = 'retry'";
    relay.sql.execute(done, &[]).await.unwrap();
    assert_eq!(command.await.unwrap()["done"], true);
    // A relay that has something else to do is not waited for without end.
    let command = run(&["events", "skip", "e3"]);
    let said = command.await.unwrap();
    assert_eq!(said["done"], false, "{said}");
    assert!(said["message"].as_str().unwrap().contains("has been told"), "{said}");
    clear(database).await;
}

#[tokio::test]
async fn what_cannot_be_done_is_refused_and_changes_nothing() {
    let (database, options) = database("held_refuse").await;
    hold_some(&database).await;
    for (command, code, said) in [
        (&["events", "retry"][..], "OBX-6003", "say what is meant"),
        (&["events", "retry", "e1", "--all"], "OBX-6003", "only one of them"),
        (&["events", "skip", "e1", "--topic", "orders"], "OBX-6003", "only one of them"),
        (&["dlq", "discard"], "OBX-6003", "say what is meant"),
        (&["keys", "unblock"], "OBX-6003", "say what is meant"),
        (&["events", "retry", "e2"], "OBX-6003", "event e2 is parked"),
        (&["events", "skip", "e1", "e5"], "OBX-6003", "outboxd dlq discard"),
        (&["events", "skip", "--reason", "dead"], "OBX-6003", "not for events that are dead"),
        (&["events", "skip", "e1", "e9"], "OBX-6002", "event e9 is not held"),
        (&["events", "skip", "e8"], "OBX-6002", "event e8 is not held"),
        (&["events", "show", "e9"], "OBX-6002", "event e9 is not held"),
        (&["events", "retry", "e9"], "OBX-6002", "there is no event e9"),
        (&["dlq", "redrive", "e1"], "OBX-6003", "outboxd events retry"),
        (&["dlq", "discard", "e1"], "OBX-6003", "outboxd events skip"),
        (&["keys", "unblock", "c"], "OBX-6002", "key c is not blocked"),
        (&["events", "list", "--reason", "lost"], "OBX-6003", "expected one of retry, topic"),
        (&["events", "list", "--reason", "dead"], "OBX-6003", "see dlq"),
        (&["events", "list", "--since", "soon"], "OBX-6003", "expected a time"),
        (&["events", "list", "--limit", "few"], "OBX-6003", "expected a number up to 100000"),
    ] {
        let (exit, out, complaint) = options.command_output(command);
        assert_eq!((exit, out.as_str()), (64, ""), "{command:?}: {complaint}");
        assert!(complaint.contains(code) && complaint.contains(said), "{command:?}: {complaint}");
    }
    assert!(requests(&database).await.is_empty() && audit(&database).await.is_empty());
    // Nothing that passes the conditions is not wrong.
    let (code, text, _) = options.command_output(&["events", "retry", "--topic", "none"]);
    assert_eq!((code, text.as_str()), (0, "retry: 0 events: done\n"));
    clear(database).await;
}

#[tokio::test]
async fn a_terminal_is_asked_first() {
    let (database, options) = database("held_ask").await;
    hold_some(&database).await;
    let filed = || async { requests(&database).await.len() };
    let skip = ["events", "skip", "e1", "e2"];
    for (answer, said, count) in [
        ("n\n", "nothing was changed", 0),
        ("\n", "nothing was changed", 0),
        ("y\n", "skip: 2 events: filed", 2),
    ] {
        let (code, shown) = options.at_terminal(&skip, answer);
        assert_eq!(code, 0, "{shown}");
        assert!(shown.contains("skip 2 events? [y/N]") && shown.contains(said), "{shown}");
        assert_eq!(filed().await, count, "{answer:?}");
    }
    let (_, shown) = options.at_terminal(&["pause"], "n\n");
    assert!(shown.contains("pause relay \"outboxd\"? [y/N]"), "{shown}");
    assert_eq!(database.count("SELECT count(*) FROM outboxd.relay").await, 0);
    for command in [&["pause", "--yes"][..], &["dlq", "discard", "--all", "--yes"]] {
        let (code, shown) = options.at_terminal(command, "");
        assert_eq!((code, shown.contains("[y/N]")), (0, false), "{shown}");
    }
    assert_eq!(filed().await, 4);
    clear(database).await;
}

#[tokio::test]
async fn a_pause_is_durable_told_and_noted() {
    let (database, options) = database("held_pause").await;
    let mut relay = StandIn::listen(&database).await;
    let paused = || async {
        let sql = "SELECT paused, array_to_string(paused_topics, ','), partitions::text \
                   FROM outboxd.relay WHERE relay_id = 'outboxd'";
        let row = database.row(sql, &[]).await;
        (row.get::<_, bool>(0), row.get::<_, String>(1), row.get::<_, String>(2))
    };
    // Before its first run, too.
    let said = json(&options, &["pause"]);
    assert_eq!((&said["action"], &said["paused"]), (&"pause".into(), &true.into()));
    assert_eq!(said["message"], "filed; it is carried out when the relay runs");
    assert_eq!(relay.told().await, RELAY);
    database.execute("UPDATE outboxd.relay SET partitions = '{\"a\": 3, \"b\": 6}'").await;
    let partitions = "{\"a\": 3, \"b\": 6}";
    for (command, expected) in [
        (&["pause"][..], (true, "", partitions)),
        (&["pause", "--topic", "a"], (true, "a", partitions)),
        (&["pause", "--topic", "b"], (true, "a,b", partitions)),
        (&["pause", "--topic", "a"], (true, "b,a", partitions)),
        (&["resume"], (false, "b,a", partitions)),
        (&["resume", "--topic", "c"], (false, "b,a", partitions)),
        // A topic that is resumed is taken as it is now.
        (&["resume", "--topic", "a"], (false, "b", "{\"b\": 6}")),
    ] {
        let (code, _, said) = options.command_output(command);
        assert_eq!(code, 0, "{said}");
        assert_eq!(relay.told().await, RELAY);
        let (all, topics, partitions) = paused().await;
        assert_eq!((all, topics.as_str(), partitions.as_str()), expected, "{command:?}");
    }
    let noted = database.count("SELECT count(*) FROM outboxd.audit WHERE target = 'a'").await;
    assert_eq!(noted, 3);
    let (_, text, _) = options.command_output(&["resume"]);
    assert!(text.contains("still paused: topics b"), "{text}");
    clear(database).await;
}
